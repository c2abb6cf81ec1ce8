//! `catena put`.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, Metadata};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use client::{Committed, Error, InodeId, InodeKind, NewAttributes, Precondition, UploadOptions, Volume};
use wire::limits::PATH_BYTES_MAX;

use crate::clock::Stopwatch;
use crate::commands::change::{precondition, version};
use crate::commands::mv::{MKDIR, existing};
use crate::context::Context;
use crate::failure::{Exit, Failure, Result};
use crate::json::Object;
use crate::local::meta;
use crate::local::place::descriptor;
use crate::local::walk::{FileId, Visit, Walk};
use crate::output::Output;
use crate::remote::RemotePath;
use crate::remote_failure::{failure, failure_making};
use crate::text::{self, quote};
use crate::transfer::destination::{Placement, Target, split_target};
use crate::transfer::pool::{self, Feed, JOBS, Mark};
use crate::transfer::progress::Progress;
use crate::transfer::report::{Only, Outcome, Report};
use crate::transfer::send::{self, Goal, Wishes};
use crate::walk::Stage;

/// Store files and, with -r, trees
#[derive(Debug, clap::Args)]
#[command(
    override_usage = "catena put [OPTIONS] SRC… DST",
    after_help = "\
Examples:
  catena put cat.jpg /photos/                 into a directory
  catena put cat.jpg /photos/tiger.jpg        under another name
  catena put -r ~/Pictures /photos/pictures   a tree; run again, it sends what differs
  tar c . | catena put - /backups/home.tar    standard input
  catena put --if-absent lock /data/lock      only if nothing is there

A single file goes inside DST if that is a directory or ends in /, else DST is its name.
With -r and one SRC, DST is the copy itself; with several, DST is a directory that exists."
)]
pub(crate) struct Put {
    /// Local files and directories, - for standard input; then where to: /VOLUME/path
    #[arg(required = true, value_name = "SRC… DST")]
    names: Vec<OsString>,
    #[command(flatten)]
    options: PutOptions,
}

/// How things are stored.
#[derive(Clone, Copy, Debug, Default, clap::Args)]
pub(crate) struct PutOptions {
    /// Directories too, with everything in them
    #[arg(short, long)]
    pub(crate) recursive: bool,
    /// Follow symbolic links named as SRC; those in trees stay links
    #[arg(short = 'L', long)]
    follow: bool,
    /// A file of the same size and time is the same, without comparing its bytes
    #[arg(long)]
    quick: bool,
    /// Send every file's bytes, the same ones too: to replace copies that `catena verify` found damaged
    #[arg(long, conflicts_with = "quick")]
    resend: bool,
    /// Leave what exists alone, and skip it
    #[arg(short, long)]
    no_clobber: bool,
    /// Fail where something exists
    #[arg(long, conflicts_with = "no_clobber")]
    if_absent: bool,
    /// Replace only a file of this version
    #[arg(long, value_name = "N", value_parser = version, conflicts_with_all = ["recursive", "no_clobber", "if_absent"])]
    if_version: Option<u64>,
    /// Files sent at once
    #[arg(short, long, value_name = "N", default_value_t = JOBS, value_parser = clap::value_parser!(u16).range(1..=256))]
    pub(crate) jobs: u16,
}

/// Something to be done by a worker.
enum Job {
    File(Item),
    Link(Item),
    /// A directory's attributes, after everything in it is done.
    Directory(Item, Box<Metadata>),
}

/// One thing and where it goes.
struct Item {
    source: PathBuf,
    follow: bool,
    parent: InodeId,
    /// Path from `parent`.
    name: Vec<u8>,
    place: RemotePath,
    is_new: bool,
}

/// A directory on the way down.
struct Level {
    inode: InodeId,
    is_new: bool,
    mark: Mark,
    item: Item,
}

impl Put {
    pub(crate) fn run(self, context: &mut Context) -> Result<()> {
        let (sources, target) = split_target(&self.names)?;
        let target = RemotePath::parse(target)?;
        if self.options.if_version.is_some() && sources.len() > 1 {
            return Err(Failure::usage("--if-version", "is about one file, and there are several sources"));
        }
        if sources.iter().any(|source| source == "-") {
            if sources.len() > 1 {
                return Err(Failure::usage("-", "standard input can be the only source"));
            }
            return self.options.put_stream(context, OsStr::new("-"), &mut io::stdin().lock(), &target);
        }
        let sources: Vec<PathBuf> = sources.iter().map(PathBuf::from).collect();
        if let [source] = &sources[..]
            && let Some(mut stream) = stream(source)?
        {
            return self.options.put_stream(context, source.as_os_str(), &mut *stream, &target);
        }
        let progress = Progress::new(context);
        let watch = Stopwatch::start();
        let report = self.options.put(context, &sources, &target, &[], &progress);
        progress.finish();
        let mut report = report?;
        if let Some(only) = report.only.as_mut().filter(|only| only.stored.is_none())
            && context.output.is_json()
            && let Ok(Some(there)) = context.entry_if_any(&only.place, false)
            && there.attributes.kind == InodeKind::File
        {
            only.stored = Some((there.attributes.size, there.attributes.version.0));
        }
        report.finish(&mut context.output, "stored", watch.nanoseconds())
    }
}

impl PutOptions {
    /// Stores whole trees, `jobs` files at once.
    pub(crate) fn tree(jobs: u16) -> Self {
        Self { recursive: true, jobs, ..Self::default() }
    }

    fn wishes(&self) -> Wishes {
        let condition = if self.if_absent { Precondition::Absent } else { precondition(self.if_version) };
        Wishes {
            quick: self.quick,
            resend: self.resend,
            no_xattrs: false,
            no_clobber: self.no_clobber,
            precondition: condition,
        }
    }

    /// Stores standard input, or what else has no end before it is read, nor a name of its own.
    fn put_stream(
        &self,
        context: &mut Context,
        source: &OsStr,
        stream: &mut dyn Read,
        target: &RemotePath,
    ) -> Result<()> {
        if target.is_root() || target.trailing_slash {
            return Err(Failure::usage(
                target.to_string(),
                "what is piped in needs a file's name to go to, not a directory",
            ));
        }
        let wishes = self.wishes();
        let volume = context.volume_of(target)?;
        if wishes.no_clobber && context.entry_if_any(target, false)?.is_some() {
            return context.output.note(
                || Object::new().with_bytes("name", &target.to_bytes()).with("skipped", 1),
                || format!("skipped {target}: it exists"),
            );
        }
        let condition = if wishes.no_clobber { Precondition::Absent } else { wishes.precondition };
        let attributes = NewAttributes { mode: 0o644, ..meta::owner_attributes() };
        let options = UploadOptions {
            attributes: Some(attributes),
            precondition: condition,
            ..UploadOptions::default()
        };
        let mut upload = volume.upload(&target.path, options).map_err(|error| failure(target, &error))?;
        crate::commands::change::copy(source, stream, &mut upload, target)?;
        let committed = upload.finish().wait().map_err(|error| failure_making(target, &error))?;
        stored_one(&mut context.output, target, &committed)
    }

    /// Stores everything in `sources`.
    pub(crate) fn put(
        &self,
        context: &mut Context,
        sources: &[PathBuf],
        target: &RemotePath,
        excluded: &[FileId],
        progress: &Progress,
    ) -> Result<Report> {
        let volume = context.volume_of(target)?;
        let there = existing(context, target)?;
        let shown = target.to_string() + if target.trailing_slash { "/" } else { "" };
        let goal =
            Target { shown: &shown, existing: there, trailing_slash: target.trailing_slash, mkdir: MKDIR };
        if sources.len() > 1 {
            goal.place(sources.len(), false)?;
        }
        let mut report = Report::default();
        let mut plan = Vec::new();
        for source in sources {
            let planned = self.plan(source, sources.len(), target, goal);
            match planned {
                Ok(step) => plan.push(step),
                // One source: its failure is the command's.
                Err(failure) if sources.len() == 1 => return Err(failure),
                Err(failure) => report.take(&context.output, Err(failure))?,
            }
        }
        if let ([(_, metadata, place)], [_]) = (&plan[..], sources)
            && !metadata.is_dir()
        {
            report.only = Some(Only { place: place.clone(), stored: None });
        }
        if progress.is_shown() {
            progress.message("counting".into());
            progress.expect(
                plan.iter().map(|(source, metadata, _)| local_bytes(source, metadata, excluded)).sum(),
            );
        }
        self.put_all(context, &volume, plan, excluded, progress, &mut report)?;
        Ok(report)
    }

    /// Where one source goes.
    fn plan(
        &self,
        source: &Path,
        count: usize,
        target: &RemotePath,
        goal: Target<'_>,
    ) -> Result<(PathBuf, Metadata, RemotePath)> {
        let follow = self.follow || follows(source);
        let metadata = if follow { fs::metadata(source) } else { fs::symlink_metadata(source) };
        let metadata = metadata.map_err(|error| Failure::path(source, &error))?;
        let shown = || quote(source.as_os_str().as_bytes());
        if metadata.is_dir() && !self.recursive {
            return Err(Failure::new(Exit::Conflict, shown(), "is a directory")
                .next("store it with everything in it: -r"));
        }
        if !metadata.is_dir() && !metadata.is_file() && !metadata.is_symlink() {
            return Err(Failure::new(
                Exit::Failed,
                shown(),
                format!("is {}, which can't be stored", special(&metadata)),
            )
            .next("to store what it says: catena put - DST < it"));
        }
        let place = match goal.place(count, metadata.is_dir())? {
            Placement::Itself => RemotePath { trailing_slash: false, ..target.clone() },
            Placement::Inside => {
                let name = source
                    .file_name()
                    .ok_or_else(|| Failure::usage(shown(), "has no name to be stored under"))?;
                target.join(name.as_bytes())
            }
        };
        if place.is_root() && !metadata.is_dir() {
            return Err(Failure::usage(place.to_string(), "is a volume; name the file in it"));
        }
        Ok((source.to_owned(), metadata, place))
    }

    fn put_all(
        &self,
        context: &mut Context,
        volume: &Volume,
        plan: Vec<(PathBuf, Metadata, RemotePath)>,
        excluded: &[FileId],
        progress: &Progress,
        report: &mut Report,
    ) -> Result<()> {
        let wishes = self.wishes();
        let output = &context.output;
        let (mut hard_links, mut other_types) = (0, 0);
        let mut on_result = |result: Result<Outcome>| progress.around(|| report.take(output, result));
        let work = |job: Job| job.run(volume, wishes, progress);
        pool::run(usize::from(self.jobs), work, &mut on_result, |feed| {
            for (source, metadata, place) in plan {
                let mut tree = Tree {
                    options: self,
                    volume,
                    place: &place,
                    levels: Vec::new(),
                    hard_links: 0,
                    other_types: 0,
                };
                for_each(Walk::new(&source, metadata).without(excluded), |walk, visit| match visit {
                    Ok(visit) => tree.visit(feed, walk, visit, output, progress),
                    Err(failure) => feed.report(Err(failure)),
                })?;
                hard_links += tree.hard_links;
                other_types += tree.other_types;
            }
            Ok(())
        })?;
        report.hard_links += hard_links;
        report.other_types += other_types;
        Ok(())
    }
}

/// Whether a link that was named is followed without `-L`: one that is written as a directory, and one to a descriptor, whose target is no path or
/// that of another process's file.
fn follows(source: &Path) -> bool {
    source.as_os_str().as_bytes().ends_with(b"/") || descriptor(source).is_some()
}

/// What a source that leads to a descriptor gives, if it is no file and no directory: `<(…)` of a shell, `/dev/stdin` behind a pipe.
fn stream(source: &Path) -> Result<Option<Box<dyn Read>>> {
    let Some(descriptor) = descriptor(source) else { return Ok(None) };
    let failed = |error: io::Error| Failure::path(source, &error);
    let metadata = fs::metadata(source).map_err(failed)?;
    if metadata.is_file() || metadata.is_dir() {
        return Ok(None);
    }
    if descriptor.is_own(0) {
        // A socket can't be opened again by its name.
        return Ok(Some(Box::new(io::stdin().lock())));
    }
    Ok(Some(Box::new(File::open(source).map_err(failed)?)))
}

/// What is neither file, directory nor link.
fn special(metadata: &Metadata) -> &'static str {
    let kind = metadata.file_type();
    if kind.is_fifo() {
        "a pipe"
    } else if kind.is_socket() {
        "a socket"
    } else if kind.is_block_device() || kind.is_char_device() {
        "a device"
    } else {
        "of an unknown type"
    }
}

/// Calls `each` with every item of a walk and the walk itself, which it may tell to skip.
fn for_each(mut walk: Walk, mut each: impl FnMut(&mut Walk, Result<Visit>) -> Result<()>) -> Result<()> {
    while let Some(visit) = walk.next() {
        each(&mut walk, visit)?;
    }
    Ok(())
}

/// One source on its way.
struct Tree<'a> {
    options: &'a PutOptions,
    volume: &'a Volume,
    place: &'a RemotePath,
    levels: Vec<Level>,
    hard_links: u64,
    other_types: u64,
}

impl Tree<'_> {
    fn visit(
        &mut self,
        feed: &mut Feed<'_, Job, Result<Outcome>>,
        walk: &mut Walk,
        visit: Visit,
        output: &Output,
        progress: &Progress,
    ) -> Result<()> {
        if visit.stage == Stage::Leave {
            let level = self.levels.pop().expect("a directory that is left was entered");
            return feed.push_after(level.mark, Job::Directory(level.item, Box::new(visit.metadata)));
        }
        let place = self.place.join(&visit.below);
        if place.path.len() > PATH_BYTES_MAX {
            walk.pass_over();
            let reason = format!("its remote path would have more than {PATH_BYTES_MAX} bytes");
            return feed.report(Err(Failure::new(
                Exit::Failed,
                quote(visit.path.as_os_str().as_bytes()),
                reason,
            )));
        }
        let item = self.item(&visit, &place);
        let kind = visit.metadata.file_type();
        if kind.is_dir() {
            match self.enter(&item, &visit, &place) {
                Ok((inode, is_new)) => {
                    // From here on it is known by its inode, whatever its name leads to.
                    let item = Item { parent: inode, name: Vec::new(), ..item };
                    self.levels.push(Level { inode, is_new, mark: feed.mark(), item });
                }
                Err(failure) => {
                    walk.pass_over();
                    return feed.report(Err(failure));
                }
            }
            return feed.report(Ok(Outcome::Directory));
        }
        if kind.is_symlink() {
            return feed.push(Job::Link(item));
        }
        if kind.is_file() {
            self.hard_links += u64::from(visit.metadata.nlink() > 1);
            return feed.push(Job::File(item));
        }
        self.other_types += 1;
        let shown = quote(visit.path.as_os_str().as_bytes());
        progress.around(|| output.warn(&format!("{shown}: skipped, it is {}", special(&visit.metadata))));
        Ok(())
    }

    fn item(&self, visit: &Visit, place: &RemotePath) -> Item {
        let (parent, name, is_new) = match self.levels.last() {
            Some(level) => (level.inode, place.name().unwrap_or_default().to_vec(), level.is_new),
            None => (InodeId::ROOT, place.path.clone(), false),
        };
        let follow = self.levels.is_empty() && (self.options.follow || follows(&visit.path));
        Item { source: visit.path.clone(), follow, parent, name, place: place.clone(), is_new }
    }

    /// Makes a directory, or merges into the one that is there: its inode, and whether it is new.
    fn enter(&self, item: &Item, visit: &Visit, place: &RemotePath) -> Result<(InodeId, bool)> {
        if place.is_root() {
            return Ok((InodeId::ROOT, false));
        }
        let parent = self.volume.at(item.parent);
        let attributes = meta::sent(&visit.metadata, Vec::new());
        let inode = |committed: Committed| (committed.inode, true);
        match parent.mkdir(&item.name, attributes, false).wait() {
            Ok(committed) => Ok(inode(committed)),
            Err(Error::AlreadyExists { .. }) => {
                // A link to a directory is one where a person named it; in a tree it is in the way.
                let is_named = self.levels.is_empty();
                let entry =
                    parent.stat(&item.name, is_named).wait().map_err(|error| failure(place, &error))?;
                if entry.attributes.kind == InodeKind::Directory {
                    return Ok((entry.attributes.inode, false));
                }
                Err(Failure::new(
                    Exit::Conflict,
                    place.to_string(),
                    "exists and is no directory, and the source is one",
                ))
            }
            Err(error) if self.levels.is_empty() => Err(failure_making(place, &error)),
            Err(error) => Err(failure(place, &error)),
        }
    }
}

impl Job {
    fn run(self, volume: &Volume, wishes: Wishes, progress: &Progress) -> Result<Outcome> {
        match self {
            Self::File(item) => {
                send::file(&item.source, item.follow, item.goal(&volume.at(item.parent)), wishes, progress)
            }
            Self::Link(item) => send::link(&item.source, item.goal(&volume.at(item.parent)), wishes),
            Self::Directory(item, metadata) => {
                let parent = volume.at(item.parent);
                let goal = item.goal(&parent);
                let local = |error: io::Error| Failure::path(&item.source, &error);
                let directory = match File::open(&item.source) {
                    // That it can't be read was said when it was to be listed.
                    Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                        return Ok(Outcome::Settled);
                    }
                    opened => opened.map_err(local)?,
                };
                let xattrs = meta::xattrs(&directory).map_err(local)?;
                let entry = parent
                    .stat_with_xattrs(goal.path, false)
                    .wait()
                    .map_err(|error| failure(goal.place, &error))?;
                send::attributes(goal, &entry, &metadata, &xattrs).map(|_| Outcome::Settled)
            }
        }
    }
}

impl Item {
    fn goal<'a>(&'a self, volume: &'a Volume) -> Goal<'a> {
        Goal { volume, path: &self.name, place: &self.place, is_new: self.is_new }
    }
}

/// Bytes of a file, or of all files below a directory, holes included; what can't be read counts nothing here and fails later.
fn local_bytes(source: &Path, metadata: &Metadata, excluded: &[FileId]) -> u64 {
    let visits = Walk::new(source, metadata.clone()).without(excluded).filter_map(Result::ok);
    visits.filter(|visit| visit.metadata.is_file()).map(|visit| visit.metadata.len()).sum()
}

fn stored_one(output: &mut Output, target: &RemotePath, committed: &Committed) -> Result<()> {
    output.note(
        || {
            Object::new()
                .with_bytes("name", &target.to_bytes())
                .with("size", committed.size)
                .with("version", committed.version.0)
        },
        || format!("stored {target}: {}, version {}", text::count(committed.size, "byte"), committed.version),
    )
}
