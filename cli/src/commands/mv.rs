//! `catena mv`.

use std::ffi::OsString;

use client::{InodeKind, RenameMode};

use crate::context::Context;
use crate::failure::{Exit, Failure, Result};
use crate::json::Object;
use crate::output::Output;
use crate::remote::RemotePath;
use crate::remote_failure::{failure, failure_making};
use crate::tally::Tally;
use crate::transfer::destination::{Existing, Placement, Target, split_target};

/// The command that makes directories on the server.
pub(crate) const MKDIR: &str = "catena mkdir -p";

/// Move or rename files and directories inside a volume, atomically
#[derive(Debug, clap::Args)]
#[command(
    override_usage = "catena mv [OPTIONS] SRC… DST",
    after_help = "\
Examples:
  catena mv /photos/cat.jpg /photos/tiger.jpg
  catena mv /photos/a /photos/b /photos/2026/
  catena mv --exchange /data/current /data/next"
)]
pub(crate) struct Mv {
    /// What to move, then where to: /VOLUME/path, a new name or a directory
    #[arg(required = true, value_name = "SRC… DST")]
    names: Vec<OsString>,
    /// Leave a file that exists at the target alone, and skip
    #[arg(short, long, conflicts_with = "exchange")]
    no_clobber: bool,
    /// The two change places
    #[arg(long)]
    exchange: bool,
    /// Say what would be moved, and move nothing
    #[arg(long)]
    dry_run: bool,
}

impl Mv {
    pub(crate) fn run(self, context: &mut Context) -> Result<()> {
        let (sources, target) = split_target(&self.names)?;
        let (sources, target) = (RemotePath::parse_all(sources)?, RemotePath::parse(target)?);
        if self.exchange && sources.len() > 1 {
            return Err(Failure::usage("--exchange", "takes two names, no more"));
        }
        for source in &sources {
            self.check(context, source, &target)?;
        }
        let existing = existing(context, &target)?;
        if sources.len() > 1 {
            let shown = target.to_string();
            let goal = Target { shown: &shown, existing, trailing_slash: false, mkdir: MKDIR };
            goal.place(sources.len(), false)?;
        }
        let mut tally = Tally::default();
        for source in &sources {
            let result = self.move_one(context, source, &target, existing, sources.len());
            tally.take(&context.output, result)?;
        }
        tally.finish("name")
    }

    /// What can be refused before anything is moved.
    fn check(&self, context: &mut Context, source: &RemotePath, target: &RemotePath) -> Result<()> {
        let Some(name) = source.name() else {
            return Err(Failure::usage(source.to_string(), "is a volume, which can't be moved")
                .next(format!("move what is in it: catena ls {}", source.typed())));
        };
        if source.volume != target.volume {
            // Whether it would go inside the target; `cp -r` never nests, so its own target has to say so.
            let inside = target.is_root()
                || target.trailing_slash
                || matches!(existing(context, target), Ok(Existing::Directory));
            let copy = if inside { target.join(name) } else { target.clone() };
            return Err(Failure::usage(
                source.to_string(),
                format!("can't be moved to another volume (/{})", target.volume),
            )
            .next(format!(
                "copy it, then remove it: catena cp -r {source} {} && catena rm -r {source}",
                copy.typed(),
                source = source.typed()
            )));
        }
        if source != target && source.contains(target) && !self.exchange {
            return Err(into_itself(source));
        }
        context.check_slash(source)
    }

    fn move_one(
        &self,
        context: &mut Context,
        source: &RemotePath,
        target: &RemotePath,
        existing: Existing,
        count: usize,
    ) -> Result<()> {
        let shown = target.to_string();
        let goal = Target { shown: &shown, existing, trailing_slash: target.trailing_slash, mkdir: MKDIR };
        // Renaming isn't merging: a directory goes inside one that exists, as everywhere.
        let is_directory = context.entry(source, false)?.attributes.kind == InodeKind::Directory;
        let placement = match existing {
            _ if self.exchange => Placement::Itself,
            Existing::Directory => Placement::Inside,
            Existing::Nothing if is_directory && count == 1 => Placement::Itself,
            _ => goal.place(count, false)?,
        };
        let name = source.name().expect("a volume's root was refused");
        let place = match placement {
            Placement::Itself => RemotePath { trailing_slash: false, ..target.clone() },
            Placement::Inside => target.join(name),
        };
        if source.contains(&place) && *source != place && !self.exchange {
            return Err(into_itself(source));
        }
        if self.dry_run {
            if !self.would_move(context, source, &place, is_directory)? {
                let line = || format!("would skip {source}: {place} exists").into_bytes();
                return context.output.result(|| skipped(source, &place), |_| line());
            }
            let (verb, between) = if self.exchange {
                (&b"would exchange "[..], &b" and "[..])
            } else {
                (&b"would move "[..], &b" to "[..])
            };
            let line = |output: &Output| {
                let names = [output.name(&source.to_bytes()), output.name(&place.to_bytes())];
                [verb.to_vec(), names.join(between)].concat()
            };
            return context.output.result(|| object(source, &place).with("moved", false), line);
        }
        self.rename(context, source, &place)
    }

    /// Fails as the move would, by what is there now; else whether it would be made and not skipped.
    fn would_move(
        &self,
        context: &mut Context,
        source: &RemotePath,
        place: &RemotePath,
        is_directory: bool,
    ) -> Result<bool> {
        use client::{Error, Subject};
        let refused = |error: Error| Err(self.refused(source, place, &error));
        let what = || Subject::Volume(source.volume.clone());
        if let Some(parent) = place.parent() {
            match context.entry_if_any(&parent, true)?.map(|entry| entry.attributes.kind) {
                None => return refused(Error::NotFound { what: what(), depth: 0 }),
                Some(InodeKind::Directory) => {}
                Some(_) => return refused(Error::NotDirectory { what: what(), depth: 0 }),
            }
        }
        let there = context.entry_if_any(place, false)?;
        if self.exchange {
            let is_within = source != place && (source.contains(place) || place.contains(source));
            return match there {
                None => refused(Error::NotFound { what: what(), depth: 0 }),
                Some(_) if is_within => refused(Error::Cycle { what: what() }),
                Some(_) => Ok(true),
            };
        }
        match there.map(|entry| (entry.attributes.kind == InodeKind::Directory, entry.attributes.size)) {
            Some(_) if self.no_clobber => Ok(false),
            _ if source == place => Ok(true),
            Some((false, _)) if is_directory => refused(Error::NotDirectory { what: what(), depth: 0 }),
            Some((true, _)) if !is_directory => refused(Error::IsDirectory { what: what() }),
            Some((true, 1..)) => refused(Error::NotEmpty { what: what() }),
            _ => Ok(true),
        }
    }

    fn rename(&self, context: &mut Context, source: &RemotePath, place: &RemotePath) -> Result<()> {
        let mode = match (self.exchange, self.no_clobber) {
            (true, _) => RenameMode::Exchange,
            (_, true) => RenameMode::NoReplace,
            (false, false) => RenameMode::Replace,
        };
        let object = || object(source, place).with("moved", true);
        match context.volume_of(source)?.rename(&source.path, &place.path, mode).wait() {
            Ok(_) if self.exchange => {
                context.output.note(object, || format!("exchanged {source} and {place}"))
            }
            Ok(_) => context.output.note(object, || format!("moved {source} to {place}")),
            Err(client::Error::AlreadyExists { .. }) if self.no_clobber => {
                context.output.note(|| skipped(source, place), || format!("skipped {source}: {place} exists"))
            }
            Err(error) => Err(self.refused(source, place, &error)),
        }
    }

    /// What is said of a move that the server refuses.
    fn refused(&self, source: &RemotePath, place: &RemotePath, error: &client::Error) -> Failure {
        match error {
            client::Error::NotFound { .. } if self.exchange => failure(place, error),
            client::Error::NotFound { .. } => failure_making(place, error),
            client::Error::NotDirectory { .. } => Failure::new(
                Exit::Conflict,
                place.to_string(),
                "it or a part of its path is no directory, and has to be one for this",
            )
            .next("choose another target, or remove it if it may go"),
            client::Error::NotEmpty { .. } | client::Error::IsDirectory { .. } => failure(place, error),
            error => failure(source, error),
        }
    }
}

fn skipped(source: &RemotePath, place: &RemotePath) -> Object {
    object(source, place).with("moved", false).with("skipped", true)
}

fn object(source: &RemotePath, place: &RemotePath) -> Object {
    Object::new().with_bytes("source", &source.to_bytes()).with_bytes("target", &place.to_bytes())
}

fn into_itself(source: &RemotePath) -> Failure {
    Failure::new(Exit::Conflict, source.to_string(), "can't be moved into itself")
        .next("name a target outside of it")
}

/// What is at a remote target, links followed.
pub(crate) fn existing(context: &mut Context, place: &RemotePath) -> Result<Existing> {
    if place.is_root() {
        context.volume_of(place)?;
        return Ok(Existing::Directory);
    }
    Ok(match context.entry_if_any(place, true)?.map(|entry| entry.attributes.kind) {
        None => Existing::Nothing,
        Some(InodeKind::Directory) => Existing::Directory,
        Some(InodeKind::File | InodeKind::Symlink) => Existing::Other,
    })
}
