//! `catena verify`.

use std::ffi::OsString;

use client::{DamagedChunk, Error, InodeId, InodeKind, Volume};

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

/// How often a file is begun again that is replaced while it is read.
const TRIES_MAX: u32 = 5;

/// Read everything from every replica, and name what is damaged or missing
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  catena verify
  catena verify /photos/2026
  catena verify --json / | grep '\"damage\":'")]
pub(crate) struct Verify {
    /// What to verify: /VOLUME/path [default: every volume]
    #[arg(value_name = "PATH")]
    paths: Vec<OsString>,
    /// Files verified at once
    #[arg(short, long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=256))]
    jobs: u16,
}

/// What was found in one file.
struct Finding {
    path: Vec<u8>,
    bytes: u64,
    chunks: u64,
    damage: Vec<DamagedChunk>,
    result: Result<()>,
}

/// Counts of everything.
#[derive(Default)]
struct Total {
    files: u64,
    chunks: u64,
    bytes: u64,
    damaged_files: u64,
    damaged_chunks: u64,
}

impl Verify {
    pub(crate) fn run(self, context: &mut Context) -> Result<()> {
        let places = self.places(context)?;
        let mut tally = Tally::default();
        let mut total = Total::default();
        let progress = Progress::new(context);
        for place in &places {
            let result = self.verify(context, place, &mut total, &mut tally, &progress);
            match result {
                Ok(()) => {}
                Err(failure) => tally.take(&context.output, Err(failure))?,
            }
        }
        progress.finish();
        let failed = tally.failed();
        if failed == 0 || total.files > 0 || context.output.is_json() {
            total.print(&mut context.output, failed == 0)?;
        }
        if total.damaged_chunks > 0 {
            let what = format!(
                "{} in {}",
                text::count(total.damaged_chunks, "damaged or missing chunk"),
                text::count(total.damaged_files, "file")
            );
            return Err(Failure::new(Exit::Integrity, "", what)
                .next("restore the files named above from their source: catena put --resend replaces them"));
        }
        tally.finish("file")
    }

    fn places(&self, context: &mut Context) -> Result<Vec<RemotePath>> {
        let everything = self.paths.is_empty() || self.paths.iter().any(|path| path == "/");
        if !everything {
            return RemotePath::parse_all(&self.paths);
        }
        let volumes = context.client()?.volumes().wait().map_err(|error| failure("the volumes", &error))?;
        let root = |name: String| RemotePath { volume: name, path: Vec::new(), trailing_slash: false };
        Ok(volumes.into_iter().map(|info| root(info.name)).collect())
    }

    fn verify(
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
        let mut unlisted = Vec::new();
        let mut on_result = |finding: Finding| {
            total.add(&finding);
            progress.advance(finding.bytes);
            progress.around(|| {
                for damage in &finding.damage {
                    print(output, &finding.path, damage)?;
                }
                tally.take(output, finding.result)
            })
        };
        let work = |(inode, path): (InodeId, Vec<u8>)| check(&volume.at(inode), path);
        pool::run(usize::from(self.jobs), work, &mut on_result, |feed| {
            for visit in walk.by_ref() {
                match visit {
                    Ok(visit) if visit.stage == Stage::Leaf && visit.attributes.kind == InodeKind::File => {
                        feed.push((visit.attributes.inode, place.join(&visit.below).to_bytes()))?;
                    }
                    Ok(_) => {}
                    Err(failure) => unlisted.push(failure),
                }
            }
            Ok(())
        })?;
        unlisted.into_iter().try_for_each(|failure| tally.take(&context.output, Err(failure)))
    }
}

/// Reads one file from every replica. One that is replaced meanwhile is begun again; one that is removed has nothing to verify.
fn check(file: &Volume, path: Vec<u8>) -> Finding {
    let mut finding = Finding { path, bytes: 0, chunks: 0, damage: Vec::new(), result: Ok(()) };
    for _ in 0..TRIES_MAX {
        let entry = match file.stat(b"", false).wait() {
            Ok(entry) => entry,
            Err(Error::NotFound { .. }) => return finding,
            Err(error) => {
                finding.result = Err(failure(quote(&finding.path), &error));
                return finding;
            }
        };
        let mut verifier = file.verify_file(&entry);
        finding.damage.clear();
        let error = loop {
            match verifier.next() {
                Some(Ok(damage)) => finding.damage.push(damage),
                Some(Err(error)) => break Some(error),
                None => break None,
            }
        };
        (finding.bytes, finding.chunks) = (verifier.checked_bytes(), verifier.checked_chunks());
        match error {
            Some(Error::Replaced { .. } | Error::NotFound { .. }) => {}
            Some(error) => {
                finding.result = Err(failure(quote(&finding.path), &error));
                return finding;
            }
            None => return finding,
        }
    }
    finding.result =
        Err(Failure::new(Exit::Failed, quote(&finding.path), "is replaced again and again while it is read"));
    finding
}

fn print(output: &mut Output, path: &[u8], damage: &DamagedChunk) -> Result<()> {
    let chunk = &damage.chunk;
    let last = chunk.offset + chunk.length.saturating_sub(1);
    output.result(
        || {
            Object::new()
                .with_bytes("name", path)
                .with("damage", damage.damage.to_string())
                .with("offset", chunk.offset)
                .with("length", chunk.length)
                .with("chunk", chunk.id.to_string())
                .with("replica", damage.replica.as_str())
        },
        |output| {
            let mut line = output.name(path);
            let what = format!(
                ": bytes {}-{last} are {} at {} (chunk {})",
                chunk.offset, damage.damage, damage.replica, chunk.id
            );
            line.extend(what.into_bytes());
            line
        },
    )
}

impl Total {
    fn add(&mut self, finding: &Finding) {
        self.files += 1;
        self.chunks += finding.chunks;
        self.bytes += finding.bytes;
        self.damaged_files += u64::from(!finding.damage.is_empty());
        self.damaged_chunks += finding.damage.len() as u64;
    }

    /// `is_complete`: nothing stood in the way of reading everything.
    fn print(&self, output: &mut Output, is_complete: bool) -> Result<()> {
        output.result(
            || {
                Object::new()
                    .with("files", self.files)
                    .with("chunks", self.chunks)
                    .with("bytes", self.bytes)
                    .with("damaged_files", self.damaged_files)
                    .with("damaged_chunks", self.damaged_chunks)
                    .with("complete", is_complete)
            },
            |_| {
                let damage = match self.damaged_chunks {
                    0 if is_complete => "all whole".to_owned(),
                    0 => "whole, as far as they could be read".to_owned(),
                    count => format!("{} damaged or missing", size::grouped(count)),
                };
                format!(
                    "verified {}, {} ({}): {damage}",
                    text::count(self.files, "file"),
                    text::count(self.chunks, "chunk"),
                    size::human(self.bytes)
                )
                .into_bytes()
            },
        )
    }
}
