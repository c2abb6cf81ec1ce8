//! `catena get`.

use std::ffi::{OsStr, OsString};
use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use client::{Attributes, Entry, InodeId, InodeKind, Precondition, Volume};

use crate::clock::Stopwatch;
use crate::commands::cat;
use crate::commands::change::{precondition, version};
use crate::context::Context;
use crate::failure::{Exit, Failure, Result};
use crate::local::meta;
use crate::local::place::{Found, cannot_create, descriptor, look, resolve};
use crate::range::ByteRange;
use crate::remote::RemotePath;
use crate::remote_failure::{self, failure};
use crate::text::{self, quote, size};
use crate::transfer::destination::{Existing, Placement, Target, split_target};
use crate::transfer::fetch::{self, Destination, Origin};
use crate::transfer::pool::{self, Feed, JOBS, Mark};
use crate::transfer::progress::Progress;
use crate::transfer::report::{Outcome, Report};
use crate::transfer::send::Wishes;
use crate::walk::{Stage, Visit, Walk};

/// Fetch files and, with -r, trees
#[derive(Debug, clap::Args)]
#[command(
    override_usage = "catena get [OPTIONS] SRC… DST",
    after_help = "\
Examples:
  catena get /photos/cat.jpg .
  catena get /photos/cat.jpg tiger.jpg
  catena get -r /photos/2026 ~/Pictures/2026   a tree; run again, it fetches what differs
  catena get /backups/home.tar - | tar t       standard output
  catena get --range 0-511 /images/disk mbr

A single file goes inside DST if that is a directory or ends in /, else DST is its name.
With -r and one SRC, DST is the copy itself; with several, DST is a directory that exists."
)]
pub(crate) struct Get {
    /// Files and directories: /VOLUME/path; then where to, - for standard output
    #[arg(required = true, value_name = "SRC… DST")]
    names: Vec<OsString>,
    /// Directories too, with everything in them
    #[arg(short, long)]
    recursive: bool,
    /// Follow symbolic links named as SRC; those in trees stay links
    #[arg(short = 'L', long)]
    follow: bool,
    /// Only these bytes of a file: A-B (both included), A- or -N
    #[arg(long, allow_hyphen_values = true, conflicts_with = "recursive")]
    range: Option<ByteRange>,
    /// A file of the same size and time is the same, without comparing its bytes
    #[arg(long)]
    quick: bool,
    /// Without extended attributes: for file systems that have none
    #[arg(long)]
    no_xattrs: bool,
    /// Leave what exists alone, and skip it
    #[arg(short, long)]
    no_clobber: bool,
    /// Fail where something exists
    #[arg(long, conflicts_with = "no_clobber")]
    if_absent: bool,
    /// Only this version of a file
    #[arg(long, value_name = "N", value_parser = version, conflicts_with = "recursive")]
    if_version: Option<u64>,
    /// Files fetched at once
    #[arg(short, long, value_name = "N", default_value_t = JOBS, value_parser = clap::value_parser!(u16).range(1..=256))]
    jobs: u16,
}

/// Linux takes paths of 4,096 bytes with the NUL at their end.
const LOCAL_PATH_BYTES_MAX: usize = 4095;

/// Something to be done by a worker.
enum Job {
    /// A file or link.
    Leaf { parent: InodeId, name: Vec<u8>, place: RemotePath, follow: bool, target: PathBuf, is_named: bool },
    /// A directory's attributes, after everything in it is done.
    Directory { attributes: Box<Attributes>, place: RemotePath, target: PathBuf },
}

impl Get {
    pub(crate) fn run(self, context: &mut Context) -> Result<()> {
        let (sources, target) = split_target(&self.names)?;
        let sources = RemotePath::parse_all(sources)?;
        if self.range.is_some() && sources.len() > 1 {
            return Err(Failure::usage("--range", "is about one file, and there are several sources"));
        }
        if self.if_version.is_some() && sources.len() > 1 {
            return Err(Failure::usage("--if-version", "is about one file, and there are several sources"));
        }
        // By whatever name: what is said of a transfer would come between the bytes.
        if target == "-" || descriptor(Path::new(target)).is_some_and(|descriptor| descriptor.is_own(1)) {
            if self.recursive {
                return Err(Failure::usage("-", "a tree can't go to standard output")
                    .next("fetch it into a directory"));
            }
            return sources.iter().try_for_each(|place| {
                let download = cat::open(context, place, self.range)?;
                fetch::check_version(place, precondition(self.if_version), &download.entry().attributes)?;
                cat::print(&mut context.output, place, download)
            });
        }
        let progress = Progress::new(context);
        let watch = Stopwatch::start();
        let report = self.get(context, &sources, target, &progress);
        progress.finish();
        report?.finish(&mut context.output, "fetched", watch.nanoseconds())
    }

    fn get(
        &self,
        context: &mut Context,
        sources: &[RemotePath],
        target: &OsStr,
        progress: &Progress,
    ) -> Result<Report> {
        let mut report = Report::default();
        let mut plan = Vec::new();
        if sources.len() > 1 {
            // One target, and one failure.
            let shown = quote(target.as_bytes());
            goal(target, &shown)?.place(sources.len(), false)?;
        }
        for place in sources {
            match self.plan(context, place, sources.len(), target) {
                Ok(step) => plan.push(step),
                Err(failure) if sources.len() == 1 => return Err(failure),
                Err(failure) => report.take(&context.output, Err(failure))?,
            }
        }
        if progress.is_shown() && self.range.is_none() {
            progress.message("counting".into());
            let mut bytes = 0;
            for (place, entry, _) in &plan {
                bytes += remote_bytes(&context.volume_of(place)?, place, entry);
            }
            progress.expect(bytes);
        }
        for (place, entry, goal) in plan {
            let volume = context.volume_of(&place)?;
            self.fetch_tree(context, &volume, &place, entry, &goal, progress, &mut report)?;
        }
        Ok(report)
    }

    /// What is at a source, and where it goes.
    fn plan(
        &self,
        context: &mut Context,
        place: &RemotePath,
        count: usize,
        target: &OsStr,
    ) -> Result<(RemotePath, Entry, PathBuf)> {
        let entry = context.entry(place, self.follow || place.trailing_slash)?;
        let is_directory = entry.attributes.kind == InodeKind::Directory;
        if is_directory && !self.recursive {
            return Err(Failure::new(Exit::Conflict, place.to_string(), "is a directory")
                .next("fetch it with everything in it: -r"));
        }
        let path = Path::new(target);
        let shown = quote(target.as_bytes());
        let goal = goal(target, &shown)?;
        let goal = match goal.place(count, is_directory)? {
            Placement::Itself => path.to_owned(),
            Placement::Inside => {
                path.join(OsStr::from_bytes(place.name().unwrap_or(place.volume.as_bytes())))
            }
        };
        // A link takes a link's place, and not that of what it leads to.
        let is_link = entry.attributes.kind == InodeKind::Symlink;
        let goal = if is_link { goal } else { resolve(&goal) };
        Ok((place.clone(), entry, goal))
    }

    #[expect(
        clippy::too_many_arguments,
        reason = "the walk, its place and what it reports to; a struct would only rename them"
    )]
    fn fetch_tree(
        &self,
        context: &mut Context,
        volume: &Volume,
        place: &RemotePath,
        entry: Entry,
        goal: &Path,
        progress: &Progress,
        report: &mut Report,
    ) -> Result<()> {
        let condition = if self.if_absent { Precondition::Absent } else { precondition(self.if_version) };
        let wishes = Wishes {
            quick: self.quick,
            resend: false,
            no_xattrs: self.no_xattrs,
            no_clobber: self.no_clobber,
            precondition: condition,
        };
        let output = &context.output;
        let mut on_result = |result: Result<Outcome>| progress.around(|| report.take(output, result));
        let range = self.range;
        let work = |job: Job| job.run(volume, range, wishes, progress);
        let mut walk = Walk::new(volume.clone(), place.clone(), entry.attributes, entry.target);
        pool::run(usize::from(self.jobs), work, &mut on_result, |feed| {
            let mut levels = Vec::new();
            while let Some(visit) = walk.next() {
                match visit {
                    Ok(visit) => self.visit(feed, &mut walk, &visit, place, goal, &mut levels)?,
                    Err(failure) => feed.report(Err(failure))?,
                }
            }
            Ok(())
        })
    }

    /// Takes one step of the walk. `levels` has one mark for each directory on the way down, `None` for one that can't be made.
    fn visit(
        &self,
        feed: &mut Feed<'_, Job, Result<Outcome>>,
        walk: &mut Walk,
        visit: &Visit,
        place: &RemotePath,
        goal: &Path,
        levels: &mut Vec<Option<Mark>>,
    ) -> Result<()> {
        let target =
            if visit.is_root() { goal.to_owned() } else { goal.join(OsStr::from_bytes(&visit.below)) };
        let here = place.join(&visit.below);
        if visit.stage != Stage::Leave && target.as_os_str().len() > LOCAL_PATH_BYTES_MAX {
            if visit.stage == Stage::Enter {
                levels.push(None);
                walk.pass_over();
            }
            return feed.report(Err(too_deep(&here, &target)));
        }
        match visit.stage {
            Stage::Enter => match make_directory(&target, visit.attributes.mode, visit.is_root()) {
                Ok(()) => {
                    levels.push(Some(feed.mark()));
                    feed.report(Ok(Outcome::Directory))
                }
                Err(failure) => {
                    levels.push(None);
                    walk.pass_over();
                    feed.report(Err(failure))
                }
            },
            Stage::Leave => match levels.pop().expect("a directory that is left was entered") {
                Some(mark) => feed.push_after(
                    mark,
                    Job::Directory { attributes: Box::new(visit.attributes), place: here, target },
                ),
                None => Ok(()),
            },
            Stage::Leaf => {
                let (parent, name) = if visit.is_root() {
                    (InodeId::ROOT, place.path.clone())
                } else {
                    (visit.parent, visit.name().to_vec())
                };
                let follow = visit.is_root() && (self.follow || place.trailing_slash);
                feed.push(Job::Leaf { parent, name, place: here, follow, target, is_named: visit.is_root() })
            }
        }
    }
}

impl Job {
    fn run(
        self,
        volume: &Volume,
        range: Option<ByteRange>,
        wishes: Wishes,
        progress: &Progress,
    ) -> Result<Outcome> {
        match self {
            Self::Leaf { parent, name, place, follow, target, is_named } => {
                let volume = volume.at(parent);
                let origin = Origin { volume: &volume, path: &name, place: &place, follow, range };
                fetch::fetch(origin, Destination { path: &target, is_named }, wishes, progress)
            }
            Self::Directory { attributes, place, target } => {
                let entry = volume.at(attributes.inode).stat_with_xattrs(b"", false).wait();
                let entry = entry.map_err(|error| failure(&place, &error))?;
                let directory = File::open(&target).map_err(|error| Failure::path(&target, &error))?;
                meta::apply(&directory, &attributes, wishes.xattrs(&entry), &target)?;
                Ok(Outcome::Settled)
            }
        }
    }
}

/// The local target, as it was named.
fn goal<'a>(target: &OsStr, shown: &'a str) -> Result<Target<'a>> {
    let existing = match fs::metadata(target) {
        Ok(metadata) if metadata.is_dir() => Existing::Directory,
        Ok(_) => Existing::Other,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            Existing::Nothing
        }
        Err(error) => return Err(Failure::path(Path::new(target), &error)),
    };
    Ok(Target { shown, existing, trailing_slash: target.as_bytes().ends_with(b"/"), mkdir: "mkdir -p" })
}

/// What can't be made here, since the system takes no path as long as its would be: everything else is fetched all the same.
fn too_deep(here: &RemotePath, target: &Path) -> Failure {
    if here.is_too_long() {
        return remote_failure::too_long(here);
    }
    let reason = format!(
        "its local path would have {}, and the system takes {}",
        text::count(target.as_os_str().len() as u64, "byte"),
        size::grouped(LOCAL_PATH_BYTES_MAX as u64)
    );
    let above = here.parent().unwrap_or_else(|| here.clone());
    Failure::new(Exit::Failed, here.to_string(), reason).next(format!(
        "fetch a directory on the way by itself, to a shorter place: catena get -r {} DIR",
        above.typed()
    ))
}

/// Makes a local directory, or accepts the one that is there. It can be written to until it gets its own mode at the end. `follow`: a
/// link to a directory is one, where a person named it; in a tree it is not, or the tree could be led outside its place.
fn make_directory(path: &Path, mode: u32, follow: bool) -> Result<()> {
    match DirBuilder::new().mode(mode & 0o777 | 0o700).create(path) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => match look(path)? {
            Found::Directory => Ok(()),
            Found::Link if follow && path.is_dir() => Ok(()),
            _ => Err(Failure::new(
                Exit::Conflict,
                quote(path.as_os_str().as_bytes()),
                "exists and is no directory, and the source is one",
            )),
        },
        Err(error) => Err(cannot_create(path, &error)),
    }
}

/// Bytes of a file, or of all files below a directory; what can't be listed counts nothing here and fails later.
fn remote_bytes(volume: &Volume, place: &RemotePath, entry: &Entry) -> u64 {
    let walk = Walk::new(volume.clone(), place.clone(), entry.attributes, Vec::new());
    let files = walk.filter_map(Result::ok).filter(|visit| visit.attributes.kind == InodeKind::File);
    files.map(|visit| visit.attributes.size).sum()
}
