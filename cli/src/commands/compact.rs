//! `catena compact`.

use std::ffi::OsString;

use client::{Compaction, Error, InodeId, InodeKind, Volume};

use crate::context::Context;
use crate::failure::{Exit, Failure, Result};
use crate::json::Object;
use crate::output::Output;
use crate::remote::RemotePath;
use crate::remote_failure::failure;
use crate::tally::Tally;
use crate::text::{self, quote, size};
use crate::transfer::pool;
use crate::transfer::progress::Progress;
use crate::walk::Stage;

/// How often a file is begun again that is changed while it is compacted.
const TRIES_MAX: u32 = 3;

/// Store files that lie in many small pieces in few large ones; their content, version and times stay
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Files grow small pieces by small appends and overwrites; many of them make reading slower.

Examples:
  catena compact /notes/log.txt
  catena compact -r --dry-run /photos
  catena compact -r /photos")]
pub(crate) struct Compact {
    /// What to compact: /VOLUME/path
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<OsString>,
    /// Everything below directories, too
    #[arg(short, long)]
    recursive: bool,
    /// Only say what would be done
    #[arg(short = 'n', long)]
    dry_run: bool,
    /// Files compacted at once
    #[arg(short, long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=256))]
    jobs: u16,
}

/// What became of one file.
struct Finding {
    path: Vec<u8>,
    result: Result<Compaction>,
}

/// Sums over all files that had something to do.
#[derive(Default)]
struct Total {
    files: u64,
    compacted: u64,
    sum: Compaction,
}

impl Compact {
    pub(crate) fn run(self, context: &mut Context) -> Result<()> {
        let mut tally = Tally::default();
        let mut total = Total::default();
        let progress = Progress::new(context);
        for place in RemotePath::parse_all(&self.paths)? {
            if let Err(failure) = self.compact(context, &place, &mut total, &mut tally, &progress) {
                tally.take(&context.output, Err(failure))?;
            }
        }
        progress.finish();
        if tally.failed() == 0 || total.files > 0 || context.output.is_json() {
            total.print(&mut context.output, self.dry_run)?;
        }
        tally.finish("file")
    }

    fn compact(
        &self,
        context: &mut Context,
        place: &RemotePath,
        total: &mut Total,
        tally: &mut Tally,
        progress: &Progress,
    ) -> Result<()> {
        let mut walk = context.walk(place, true)?;
        let volume = context.volume_of(place)?;
        let output = &mut context.output;
        let mut failures = Vec::new();
        let mut on_result = |finding: Finding| {
            if let Ok(done) = &finding.result {
                total.add(done);
                progress.advance(done.rewritten_bytes);
            }
            progress.around(|| match finding.result {
                Ok(done) if done.is_worthwhile() => print(output, &finding.path, &done, self.dry_run),
                Ok(_) => Ok(()),
                Err(failure) => tally.take(output, Err(failure)),
            })
        };
        let work = |(inode, path): (InodeId, Vec<u8>)| {
            let result = compact(&volume.at(inode), &path, self.dry_run);
            Finding { path, result }
        };
        pool::run(usize::from(self.jobs), work, &mut on_result, |feed| {
            for visit in walk.by_ref() {
                match visit {
                    Ok(visit) if visit.attributes.kind == InodeKind::Directory && !self.recursive => {
                        let what = quote(&place.join(&visit.below).to_bytes());
                        failures.push(Failure::new(Exit::Conflict, what, "is a directory").next(format!(
                            "to compact everything in it: catena compact -r {}",
                            place.join(&visit.below).typed()
                        )));
                        break;
                    }
                    Ok(visit) if visit.stage == Stage::Leaf && visit.attributes.kind == InodeKind::File => {
                        feed.push((visit.attributes.inode, place.join(&visit.below).to_bytes()))?;
                    }
                    Ok(_) => {}
                    Err(failure) => failures.push(failure),
                }
            }
            Ok(())
        })?;
        failures.into_iter().try_for_each(|failure| tally.take(&context.output, Err(failure)))
    }
}

/// Compacts one file. One that is changed meanwhile is begun again; one that is removed needs nothing.
fn compact(file: &Volume, path: &[u8], dry_run: bool) -> Result<Compaction> {
    let mut tries = 0;
    loop {
        tries += 1;
        let entry = match file.stat(b"", false).wait() {
            Ok(entry) => entry,
            Err(Error::NotFound { .. }) => return Ok(Compaction::default()),
            Err(error) => return Err(failure(quote(path), &error)),
        };
        let done = if dry_run { file.plan_compaction(&entry) } else { file.compact(&entry) };
        match done.wait() {
            Ok(done) => return Ok(done),
            Err(Error::NotFound { .. }) => return Ok(Compaction::default()),
            Err(Error::VersionConflict { .. } | Error::Replaced { .. }) if tries < TRIES_MAX => {}
            Err(error) => return Err(failure(quote(path), &error)),
        }
    }
}

fn print(output: &mut Output, path: &[u8], done: &Compaction, dry_run: bool) -> Result<()> {
    output.result(
        || with_counts(Object::new().with_bytes("name", path).with("dry_run", dry_run), done),
        |output| {
            let mut line = output.name(path);
            line.extend(format!(": {}", describe(done, dry_run)).into_bytes());
            line
        },
    )
}

fn with_counts(object: Object, done: &Compaction) -> Object {
    object
        .with("extents_before", done.extents_before)
        .with("extents_after", done.extents_after)
        .with("rewritten_bytes", done.rewritten_bytes)
}

fn describe(done: &Compaction, dry_run: bool) -> String {
    let verb = if dry_run { "would become" } else { "became" };
    format!(
        "{} {verb} {}, {} rewritten",
        text::count(done.extents_before, "piece"),
        size::grouped(done.extents_after),
        size::human(done.rewritten_bytes)
    )
}

impl Total {
    fn add(&mut self, done: &Compaction) {
        self.files += 1;
        if done.is_worthwhile() {
            self.compacted += 1;
            self.sum.extents_before += done.extents_before;
            self.sum.extents_after += done.extents_after;
            self.sum.rewritten_bytes += done.rewritten_bytes;
        }
    }

    fn print(&self, output: &mut Output, dry_run: bool) -> Result<()> {
        output.result(
            || {
                let object = Object::new().with("files", self.files).with("compacted", self.compacted);
                with_counts(object.with("dry_run", dry_run), &self.sum)
            },
            |_| {
                let line = match self.compacted {
                    0 => format!("nothing to compact in {}", text::count(self.files, "file")),
                    count => format!(
                        "{} of {}: {}",
                        size::grouped(count),
                        text::count(self.files, "file"),
                        describe(&self.sum, dry_run)
                    ),
                };
                line.into_bytes()
            },
        )
    }
}
