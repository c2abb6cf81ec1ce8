//! `catena cp`.

use std::ffi::OsString;

use client::{
    Entry, Error, InodeId, InodeKind, NewAttributes, Piece, Precondition, ReadRange, UploadChange,
    UploadOptions, Volume,
};

use crate::clock::Stopwatch;
use crate::commands::mv::{MKDIR, existing};
use crate::context::Context;
use crate::failure::{Exit, Failure, Result};
use crate::remote::RemotePath;
use crate::remote_failure::{failure, failure_making, too_long};
use crate::text;
use crate::transfer::destination::{Placement, Target, split_target};
use crate::transfer::pool::{self, Feed, JOBS, Mark};
use crate::transfer::progress::Progress;
use crate::transfer::report::{Outcome, Report};
use crate::transfer::send;
use crate::walk::{Stage, Visit, Walk};

/// How often a file is begun again that is replaced while it is copied.
const TRIES_MAX: u32 = 5;

/// Copy files and, with -r, trees on the server; inside a volume no bytes move
#[derive(Debug, clap::Args)]
#[command(
    override_usage = "catena cp [OPTIONS] SRC… DST",
    after_help = "\
Examples:
  catena cp /photos/cat.jpg /photos/tiger.jpg
  catena cp -r /photos/2026 /photos/2026-backup
  catena cp -r /photos/2026 /archive/2026      to another volume: bytes pass through here

A single file goes inside DST if that is a directory or ends in /, else DST is its name.
With -r and one SRC, DST is the copy itself; with several, DST is a directory that exists."
)]
pub(crate) struct Cp {
    /// What to copy, then where to: /VOLUME/path, a new name or a directory
    #[arg(required = true, value_name = "SRC… DST")]
    names: Vec<OsString>,
    /// Directories too, with everything in them
    #[arg(short, long)]
    recursive: bool,
    /// Leave what exists alone, and skip it
    #[arg(short, long)]
    no_clobber: bool,
    /// Fail where something exists
    #[arg(long, conflicts_with = "no_clobber")]
    if_absent: bool,
    /// Files copied at once
    #[arg(short, long, value_name = "N", default_value_t = JOBS, value_parser = clap::value_parser!(u16).range(1..=256))]
    jobs: u16,
}

/// Something to be done by a worker.
enum Job {
    Leaf(Box<Visit>),
    /// A directory's attributes, after everything in it is done.
    Directory(Box<Visit>, InodeId),
}

/// Source and target of one copy.
struct Copy<'a> {
    from: &'a Volume,
    source: &'a RemotePath,
    to: &'a Volume,
    target: &'a RemotePath,
    precondition: Precondition,
    skips: bool,
    progress: &'a Progress,
}

impl Cp {
    pub(crate) fn run(self, context: &mut Context) -> Result<()> {
        let (sources, target) = split_target(&self.names)?;
        let (sources, target) = (RemotePath::parse_all(sources)?, RemotePath::parse(target)?);
        let there = existing(context, &target)?;
        let shown = target.to_string();
        let goal =
            Target { shown: &shown, existing: there, trailing_slash: target.trailing_slash, mkdir: MKDIR };
        if sources.len() > 1 {
            goal.place(sources.len(), false)?;
        }
        let progress = Progress::new(context);
        let watch = Stopwatch::start();
        let mut report = Report::default();
        for source in &sources {
            let result = self.copy(context, source, &target, goal, sources.len(), &progress, &mut report);
            match result {
                Ok(()) => {}
                Err(failure) if sources.len() == 1 => {
                    progress.finish();
                    return Err(failure);
                }
                Err(failure) => report.take(&context.output, Err(failure))?,
            }
        }
        progress.finish();
        report.finish(&mut context.output, "copied", watch.nanoseconds())
    }

    #[expect(
        clippy::too_many_arguments,
        reason = "one source among several; a struct would only rename them"
    )]
    fn copy(
        &self,
        context: &mut Context,
        source: &RemotePath,
        target: &RemotePath,
        goal: Target<'_>,
        count: usize,
        progress: &Progress,
        report: &mut Report,
    ) -> Result<()> {
        let entry = context.entry(source, source.trailing_slash)?;
        let is_directory = entry.attributes.kind == InodeKind::Directory;
        if is_directory && !self.recursive {
            return Err(Failure::new(Exit::Conflict, source.to_string(), "is a directory")
                .next("copy it with everything in it: -r"));
        }
        let place = match goal.place(count, is_directory)? {
            Placement::Itself => RemotePath { trailing_slash: false, ..target.clone() },
            Placement::Inside => target.join(source.name().unwrap_or(source.volume.as_bytes())),
        };
        if source.contains(&place) && (is_directory || source.path == place.path) {
            let reason = if source.path == place.path {
                "is the source and the target"
            } else {
                "can't be copied into itself"
            };
            return Err(
                Failure::new(Exit::Conflict, source.to_string(), reason).next("name a target outside of it")
            );
        }
        let (from, to) = (context.volume_of(source)?, context.volume_of(&place)?);
        let copy = Copy {
            from: &from,
            source,
            to: &to,
            target: &place,
            precondition: if self.no_clobber || self.if_absent {
                Precondition::Absent
            } else {
                Precondition::Any
            },
            skips: self.no_clobber,
            progress,
        };
        let mut walk = Walk::new(from.clone(), source.clone(), entry.attributes, entry.target);
        let output = &context.output;
        let mut on_result = |result: Result<Outcome>| progress.around(|| report.take(output, result));
        pool::run(
            usize::from(self.jobs),
            |job| copy.run(job),
            &mut on_result,
            |feed| {
                let mut levels = Vec::new();
                while let Some(visit) = walk.next() {
                    match visit {
                        Ok(visit) => copy.visit(feed, &mut walk, visit, &mut levels)?,
                        Err(failure) => feed.report(Err(failure))?,
                    }
                }
                Ok(())
            },
        )
    }
}

impl Copy<'_> {
    fn visit(
        &self,
        feed: &mut Feed<'_, Job, Result<Outcome>>,
        walk: &mut Walk,
        visit: Visit,
        levels: &mut Vec<Option<(Mark, InodeId)>>,
    ) -> Result<()> {
        if visit.stage != Stage::Leave
            && let Err(failure) = self.check_length(&visit)
        {
            if visit.stage == Stage::Enter {
                levels.push(None);
                walk.pass_over();
            }
            return feed.report(Err(failure));
        }
        match visit.stage {
            Stage::Enter => match self.enter(&visit) {
                Ok(inode) => {
                    levels.push(Some((feed.mark(), inode)));
                    feed.report(Ok(Outcome::Directory))
                }
                Err(failure) => {
                    levels.push(None);
                    walk.pass_over();
                    feed.report(Err(failure))
                }
            },
            Stage::Leave => match levels.pop().expect("a directory that is left was entered") {
                Some((mark, inode)) => feed.push_after(mark, Job::Directory(Box::new(visit), inode)),
                None => Ok(()),
            },
            Stage::Leaf => feed.push(Job::Leaf(Box::new(visit))),
        }
    }

    /// Whether source and copy can be named: moves of directories make paths longer than a path may be.
    fn check_length(&self, visit: &Visit) -> Result<()> {
        let (source, place) = (self.source.join(&visit.below), self.target.join(&visit.below));
        let is_named =
            visit.attributes.kind == InodeKind::File && self.from.info().volume == self.to.info().volume;
        if is_named && source.is_too_long() {
            return Err(too_long(&source));
        }
        if place.is_too_long() {
            let reason =
                format!("its copy's path would have {}", text::count(place.path.len() as u64, "byte"));
            return Err(Failure::new(Exit::Failed, source.to_string(), reason)
                .next("name a target less deep: a path has at most 4,096 bytes"));
        }
        Ok(())
    }

    /// Makes the directory's copy, or merges into the one that is there.
    fn enter(&self, visit: &Visit) -> Result<InodeId> {
        let place = self.target.join(&visit.below);
        if place.is_root() {
            return Ok(InodeId::ROOT);
        }
        match self.to.mkdir(&place.path, attributes(visit, Vec::new()), false).wait() {
            Ok(committed) => Ok(committed.inode),
            Err(Error::AlreadyExists { .. }) => {
                let there = self
                    .to
                    .stat(&place.path, visit.is_root())
                    .wait()
                    .map_err(|error| failure(&place, &error))?;
                if there.attributes.kind == InodeKind::Directory {
                    return Ok(there.attributes.inode);
                }
                Err(Failure::new(
                    Exit::Conflict,
                    place.to_string(),
                    "exists and is no directory, and the source is one",
                ))
            }
            Err(error) => Err(failure_making(&place, &error)),
        }
    }

    fn run(&self, job: Job) -> Result<Outcome> {
        match job {
            Job::Leaf(visit) => {
                let place = self.target.join(&visit.below);
                let copied = match visit.attributes.kind {
                    InodeKind::Symlink => {
                        let replace = self.precondition == Precondition::Any;
                        let link = self.to.symlink(
                            &visit.target,
                            &place.path,
                            attributes(&visit, Vec::new()),
                            replace,
                        );
                        link.wait().map(|_| Outcome::Link)
                    }
                    _ if self.from.info().volume == self.to.info().volume => {
                        let source = self.source.join(&visit.below);
                        self.from
                            .copy(&source.path, &place.path, self.precondition)
                            .wait()
                            .map(|_| Outcome::File(0))
                    }
                    _ => return self.copy_bytes(&visit, &place),
                };
                copied.or_else(|error| self.refused(&place, &error))
            }
            Job::Directory(visit, inode) => {
                let place = self.target.join(&visit.below);
                let source = self.entry(&visit)?;
                let target = self.to.at(inode);
                for xattr in source.xattrs {
                    let set = target.set_xattr(b"", false, xattr, client::XattrMode::Any).wait();
                    set.map_err(|error| failure(&place, &error))?;
                }
                let change = client::AttributeChange {
                    mode: Some(visit.attributes.mode),
                    uid: Some(visit.attributes.uid),
                    gid: Some(visit.attributes.gid),
                    modified: Some(visit.attributes.modified),
                };
                target.set_attributes(b"", false, change).wait().map_err(|error| failure(&place, &error))?;
                Ok(Outcome::Settled)
            }
        }
    }

    fn refused(&self, place: &RemotePath, error: &Error) -> Result<Outcome> {
        match error {
            Error::AlreadyExists { .. } if self.skips => Ok(Outcome::Skipped),
            error => Err(failure_making(place, error)),
        }
    }

    fn entry(&self, visit: &Visit) -> Result<Entry> {
        let entry = self.from.at(visit.attributes.inode).stat_with_xattrs(b"", false).wait();
        entry.map_err(|error| failure(self.source.join(&visit.below), &error))
    }

    /// Copies bytes through this process: between volumes there is no other way.
    fn copy_bytes(&self, visit: &Visit, place: &RemotePath) -> Result<Outcome> {
        let source = self.source.join(&visit.below);
        for _ in 0..TRIES_MAX {
            let entry = self.entry(visit)?;
            let options = UploadOptions {
                attributes: Some(attributes(visit, entry.xattrs.clone())),
                precondition: self.precondition,
                change: UploadChange::Replace,
                size_hint: Some(entry.attributes.size.min(entry.attributes.stored_bytes)),
            };
            let mut upload = self.to.upload(&place.path, options).map_err(|error| failure(place, &error))?;
            let file = self.from.at(entry.attributes.inode);
            let download =
                file.download_entry(&entry, ReadRange::Whole).map_err(|error| failure(&source, &error))?;
            let (mut is_replaced, mut sent) = (false, 0);
            for piece in download {
                match piece {
                    Ok(Piece::Data { bytes, .. }) => {
                        send::push(&mut upload, &bytes, place)?;
                        sent += bytes.len() as u64;
                        self.progress.advance(bytes.len() as u64);
                    }
                    Ok(Piece::Hole { length, .. }) => {
                        upload.skip(length).map_err(|error| failure(place, &error))?;
                    }
                    Err(Error::Replaced { .. }) => {
                        is_replaced = true;
                        break;
                    }
                    Err(error) => return Err(failure(&source, &error)),
                }
            }
            if !is_replaced {
                return match upload.finish().wait() {
                    Ok(_) => Ok(Outcome::File(sent)),
                    Err(error) => self.refused(place, &error),
                };
            }
        }
        Err(Failure::new(Exit::Failed, source.to_string(), "is replaced again and again while it is copied"))
    }
}

fn attributes(visit: &Visit, xattrs: Vec<client::Xattr>) -> NewAttributes {
    NewAttributes {
        mode: visit.attributes.mode,
        uid: visit.attributes.uid,
        gid: visit.attributes.gid,
        modified: Some(visit.attributes.modified),
        xattrs,
    }
}
