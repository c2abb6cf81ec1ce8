//! `catena rm`.

use std::ffi::OsString;

use client::{InodeId, InodeKind, Precondition, RemoveKind, Volume};

use crate::commands::change::{precondition, version};
use crate::context::Context;
use crate::failure::{Exit, Failure, Result};
use crate::json::Object;
use crate::output::{self, Output};
use crate::remote::RemotePath;
use crate::remote_failure::{failure, shown};
use crate::tally::Tally;
use crate::text::{self, size};
use crate::transfer::pool::{self, JOBS};
use crate::walk::{Stage, Visit, Walk};

/// Remove files, links and, with -r, directories with everything in them
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  catena rm /photos/cat.jpg
  catena rm -r --dry-run /photos/2025
  catena rm -r --yes /photos/2025
  catena rm --if-version 17 /photos/cat.jpg")]
pub(crate) struct Rm {
    /// What to remove: /VOLUME/path
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<OsString>,
    /// Directories too, with everything in them
    #[arg(short, long)]
    recursive: bool,
    /// What doesn't exist is no error
    #[arg(short, long)]
    force: bool,
    /// Don't ask on a terminal
    #[arg(short, long)]
    yes: bool,
    /// Say what would be removed, and remove nothing
    #[arg(long)]
    dry_run: bool,
    /// Only a file of this version
    #[arg(long, value_name = "N", value_parser = version, conflicts_with = "recursive")]
    if_version: Option<u64>,
    /// Removals under way at once
    #[arg(short, long, value_name = "N", default_value_t = JOBS, value_parser = clap::value_parser!(u16).range(1..=256))]
    jobs: u16,
}

/// Something to be removed from the directory that it is in.
struct Job {
    parent: InodeId,
    below: Vec<u8>,
    /// Path from `parent`.
    name: Vec<u8>,
    kind: RemoveKind,
    precondition: Precondition,
}

impl Rm {
    pub(crate) fn run(self, context: &mut Context) -> Result<()> {
        let places = RemotePath::parse_all(&self.paths)?;
        if let Some(place) = places.iter().find(|place| place.is_root()) {
            return Err(Failure::usage(place.to_string(), "is a volume")
                .next(format!("to remove all of it: catena volume remove {} --recursive", place.volume)));
        }
        let mut tally = Tally::default();
        for place in places {
            let result = self.remove(context, &place, &mut tally);
            match result {
                Ok(()) => {}
                Err(failure) => tally.take(&context.output, Err(failure))?,
            }
        }
        tally.finish("name")
    }

    fn remove(&self, context: &mut Context, place: &RemotePath, tally: &mut Tally) -> Result<()> {
        if self.force && context.volume_of(place).is_err_and(|failure| failure.exit == Exit::NotFound) {
            return Ok(());
        }
        context.check_slash(place)?;
        let entry = match context.entry(place, false) {
            Ok(entry) => entry,
            Err(failure) if self.force && failure.exit == Exit::NotFound => return Ok(()),
            Err(failure) => return Err(failure),
        };
        let is_directory = entry.attributes.kind == InodeKind::Directory;
        if place.trailing_slash && !is_directory {
            // `link/` is the directory that the link points at, and what would go is the link.
            return Err(Failure::new(Exit::Conflict, format!("{place}/"), "is a symbolic link")
                .next(format!("to remove the link itself: catena rm {}", place.typed())));
        }
        if is_directory && !self.recursive {
            return Err(Failure::new(Exit::Conflict, place.to_string(), "is a directory")
                .next(format!("to remove it with everything in it: catena rm -r {}", place.typed())));
        }
        let volume = context.volume_of(place)?;
        if !is_directory {
            let job = Job {
                parent: InodeId::ROOT,
                below: Vec::new(),
                name: place.path.clone(),
                kind: RemoveKind::File,
                precondition: precondition(self.if_version),
            };
            let result = if self.dry_run { Ok(()) } else { job.run(&volume, place).1 };
            result?;
            tally.done();
            return print(&mut context.output, place, &[], self.dry_run);
        }
        let question = question(place, entry.attributes.size);
        if !self.yes && !self.dry_run && !output::confirm(&question)? {
            return Err(Failure::new(Exit::Failed, place.to_string(), "not removed, as you answered")
                .next("answer y, or pass --yes"));
        }
        let walk = Walk::new(volume.clone(), place.clone(), entry.attributes, entry.target);
        if self.dry_run {
            pretend(context, place, walk, tally)
        } else {
            self.remove_tree(context, place, &volume, walk, tally)
        }
    }

    fn remove_tree(
        &self,
        context: &mut Context,
        place: &RemotePath,
        volume: &Volume,
        mut walk: Walk,
        tally: &mut Tally,
    ) -> Result<()> {
        let mut removed = 0_u64;
        let output = &mut context.output;
        let mut on_result = |(below, result): (Vec<u8>, Result<()>)| {
            if result.is_ok() {
                removed += 1;
                if output.is_json() {
                    print(output, place, &below, false)?;
                }
            }
            tally.take(output, result)
        };
        let work = |job: Job| job.run(volume, place);
        pool::run(usize::from(self.jobs), work, &mut on_result, |feed| {
            let mut marks = Vec::new();
            for visit in walk.by_ref() {
                // A directory that can't be listed is not empty, and its own removal says so.
                let Ok(visit) = visit else { continue };
                match visit.stage {
                    Stage::Enter => marks.push(feed.mark()),
                    Stage::Leaf => feed.push(Job::of(visit, place, RemoveKind::File))?,
                    Stage::Leave => {
                        let mark = marks.pop().expect("a directory that is left was entered");
                        feed.push_after(mark, Job::of(visit, place, RemoveKind::Directory))?;
                    }
                }
            }
            Ok(())
        })?;
        output.note(
            || Object::new().with_bytes("tree", &place.to_bytes()).with("removed_names", removed),
            || format!("removed {place}: {}", text::count(removed, "name")),
        )
    }
}

impl Job {
    fn of(visit: Visit, place: &RemotePath, kind: RemoveKind) -> Self {
        let (parent, name) = if visit.is_root() {
            (InodeId::ROOT, place.path.clone())
        } else {
            (visit.parent, visit.name().to_vec())
        };
        Self { parent, below: visit.below, name, kind, precondition: Precondition::Any }
    }

    /// Removes it. What is gone already was to go.
    fn run(self, volume: &Volume, place: &RemotePath) -> (Vec<u8>, Result<()>) {
        let result = volume.at(self.parent).remove(&self.name, self.kind, self.precondition).wait();
        let result = match result {
            Ok(_) | Err(client::Error::NotFound { .. }) => Ok(()),
            Err(client::Error::NotEmpty { .. }) => Err(Failure::new(
                Exit::Conflict,
                shown(place, &self.below),
                "isn't empty: something in it couldn't be removed, or is new",
            )
            .next("run the command again")),
            Err(error) => Err(failure(shown(place, &self.below), &error)),
        };
        (self.below, result)
    }
}

/// Asks about a directory. How many names are below its entries isn't known before they are listed.
fn question(place: &RemotePath, entries: u64) -> String {
    match entries {
        0 => format!("Remove {place}, which is empty?"),
        _ => format!("Remove {place}: {} in it, and everything below?", text::count(entries, "entry")),
    }
}

/// Names everything that would go, and sums it up.
fn pretend(context: &mut Context, place: &RemotePath, walk: Walk, tally: &mut Tally) -> Result<()> {
    let (mut things, mut bytes) = (0, 0_u64);
    for visit in walk {
        let visit = match visit {
            Ok(visit) if visit.stage != Stage::Enter => visit,
            Ok(_) => continue,
            Err(failure) => {
                tally.take(&context.output, Err(failure))?;
                continue;
            }
        };
        things += 1;
        // Files with holes may add up to more than 64 bits say.
        let size = if visit.attributes.kind == InodeKind::File { visit.attributes.size } else { 0 };
        bytes = bytes.saturating_add(size);
        print(&mut context.output, place, &visit.below, true)?;
        tally.done();
    }
    context.output.line(&format!("would remove {}, {}", text::count(things, "name"), size::human(bytes)))
}

fn print(output: &mut Output, place: &RemotePath, below: &[u8], dry_run: bool) -> Result<()> {
    let path = place.join(below).to_bytes();
    let object = || Object::new().with_bytes("name", &path).with("removed", !dry_run);
    if dry_run {
        let line = |output: &Output| [b"would remove ".to_vec(), output.name(&path)].concat();
        return output.result(object, line);
    }
    output.note(object, || format!("removed {}", text::quote(&path)))
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;

    use super::*;

    /// It gave the number of entries as that of everything.
    #[test]
    fn what_is_counted_is_said() {
        let place = RemotePath::parse(OsStr::new("/v/d")).expect("a name");
        assert_eq!(question(&place, 3), "Remove /v/d: 3 entries in it, and everything below?");
        assert_eq!(question(&place, 0), "Remove /v/d, which is empty?");
    }
}
