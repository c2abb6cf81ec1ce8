//! Sending one local file or link: never a torn one. The file is looked at before it is read and after; if it changed in between, it is
//! read again, and what was sent is never committed.

use std::fs::{self, File, Metadata};
use std::io::{self, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::Path;

use client::{
    AttributeChange, Entry, Error, InodeKind, Precondition, Upload, UploadChange, UploadOptions, Volume,
    Xattr, XattrMode,
};
use rustix::fs::{Mode, OFlags};

use crate::failure::{Exit, Failure, Result};
use crate::local::passing::Passing;
use crate::local::{meta, sparse};
use crate::remote::RemotePath;
use crate::remote_failure::{failure, failure_making};
use crate::text::quote;
use crate::transfer::compare;
use crate::transfer::progress::Progress;
use crate::transfer::report::Outcome;

/// Bytes read at a time, at most: no more than a chunk takes at once.
pub(crate) const READ_BYTES: usize = 1 << 20;
/// Bytes read at a time of a file that doesn't say how large it is.
const UNSIZED_BYTES: usize = 4096;
/// How often a file is read that changes while it is read.
const TRIES_MAX: u32 = 3;

/// A file that was there when its directory was read.
pub(crate) const VANISHED: &str = "vanished before it could be read";

/// What is wanted of a transfer, whichever way it goes.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Wishes {
    /// Same size and time means same bytes.
    pub(crate) quick: bool,
    /// The same bytes are sent, too: the checksums that they match say nothing about what a damaged copy holds.
    pub(crate) resend: bool,
    /// Extended attributes stay where they are.
    pub(crate) no_xattrs: bool,
    /// What exists is left alone.
    pub(crate) no_clobber: bool,
    /// Condition on what is at the target.
    pub(crate) precondition: Precondition,
}

impl Wishes {
    /// The extended attributes of `entry` that are wanted.
    pub(crate) fn xattrs<'a>(&self, entry: &'a Entry) -> &'a [Xattr] {
        if self.no_xattrs { &[] } else { &entry.xattrs }
    }
}

/// Where a file goes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Goal<'a> {
    /// The volume, and the directory in it that `path` begins at.
    pub(crate) volume: &'a Volume,
    /// The path from there.
    pub(crate) path: &'a [u8],
    /// The whole remote name.
    pub(crate) place: &'a RemotePath,
    /// Whether nothing can be there: its directory was just made.
    pub(crate) is_new: bool,
}

/// Sends bytes, waiting while the window is full.
pub(crate) fn push(upload: &mut Upload, bytes: &[u8], place: &RemotePath) -> Result<()> {
    upload.write_all(bytes).map_err(|error| from_io(&error, place))
}

/// Reads into the upload's own buffer, so that the bytes are copied once less: how many came.
pub(crate) fn fill(
    upload: &mut Upload,
    wanted: usize,
    place: &RemotePath,
    read: impl FnOnce(&mut [u8]) -> Result<usize>,
) -> Result<usize> {
    let count = read(upload.room(wanted.min(READ_BYTES)))?;
    upload.filled_wait(count).map_err(|error| failure(place, &error))?;
    Ok(count)
}

/// The client's error in an error of its reader or writer.
fn from_io(error: &io::Error, place: &RemotePath) -> Failure {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) {
        Some(error) => failure(place, error),
        None => Failure::io(place.to_string(), error),
    }
}

/// What of a file tells that it changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    fn of(metadata: &Metadata) -> Self {
        Self {
            size: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

/// Sends the local file `source` to `goal`, unless the same bytes are there.
pub(crate) fn file(
    source: &Path,
    follow: bool,
    goal: Goal<'_>,
    wishes: Wishes,
    progress: &Progress,
) -> Result<Outcome> {
    let local = |error: io::Error| Failure::path(source, &error);
    let file = open(source, follow).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => {
            Failure::new(Exit::NotFound, quote(source.as_os_str().as_bytes()), VANISHED)
        }
        _ => local(error),
    })?;
    for _ in 0..TRIES_MAX {
        let metadata = file.metadata().map_err(local)?;
        if !metadata.is_file() {
            return Err(Failure::new(
                Exit::Failed,
                quote(source.as_os_str().as_bytes()),
                "is no regular file any more",
            ));
        }
        let xattrs = meta::xattrs(&file).map_err(local)?;
        if let Some(outcome) = settle(&file, &metadata, &xattrs, source, goal, wishes)? {
            progress.advance(metadata.len());
            return Ok(outcome);
        }
        let attributes = meta::sent(&metadata, xattrs);
        let options = UploadOptions {
            attributes: Some(attributes),
            precondition: if wishes.no_clobber { Precondition::Absent } else { wishes.precondition },
            change: UploadChange::Replace,
            // Holes take no chunks: a sparse file may be larger than what a volume's chunks can hold.
            size_hint: Some(metadata.len().min(metadata.blocks().saturating_mul(512))),
        };
        let mut upload =
            goal.volume.upload(goal.path, options).map_err(|error| failure(goal.place, &error))?;
        let before = Stamp::of(&metadata);
        let sent = send_bytes(&file, metadata.len(), &mut upload, source, goal.place, progress)?;
        let after = Stamp::of(&file.metadata().map_err(local)?);
        let Some(bytes) = sent.filter(|_| after == before) else {
            progress.retreat(upload.position());
            upload.abort();
            continue;
        };
        return match upload.finish().wait() {
            Ok(stored) => Ok(Outcome::Stored { bytes, size: stored.size, version: stored.version.0 }),
            Err(Error::AlreadyExists { .. }) if wishes.no_clobber => Ok(Outcome::Skipped),
            Err(error) => Err(failure_making(goal.place, &error)),
        };
    }
    Err(Failure::new(
        Exit::Failed,
        quote(source.as_os_str().as_bytes()),
        "changes again and again while it is read; nothing of it was stored",
    )
    .next("run the command again when it is at rest"))
}

/// Opens without following a link, unless one was named to be followed, and without waiting for a pipe's other end.
fn open(source: &Path, follow: bool) -> io::Result<File> {
    let mut flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    if !follow {
        flags |= OFlags::NOFOLLOW;
    }
    Ok(File::from(rustix::fs::open(source, flags, Mode::empty())?))
}

/// Looks at what is at the goal: `Some` where nothing needs to be sent.
fn settle(
    file: &File,
    metadata: &Metadata,
    xattrs: &[Xattr],
    source: &Path,
    goal: Goal<'_>,
    wishes: Wishes,
) -> Result<Option<Outcome>> {
    if goal.is_new {
        return Ok(None);
    }
    let entry = match goal.volume.stat_with_xattrs(goal.path, false).wait() {
        Ok(entry) => entry,
        Err(Error::NotFound { .. }) => return Ok(None),
        Err(error) => return Err(failure(goal.place, &error)),
    };
    if wishes.no_clobber {
        return Ok(Some(Outcome::Skipped));
    }
    if entry.attributes.kind == InodeKind::Directory {
        return Err(Failure::new(
            Exit::Conflict,
            goal.place.to_string(),
            "is a directory, and the source is a file",
        ));
    }
    // A condition is for the server to judge, in its own order of things.
    let unconditional = wishes.precondition == Precondition::Any && !wishes.resend;
    if entry.attributes.kind != InodeKind::File || entry.attributes.size != metadata.len() || !unconditional {
        return Ok(None);
    }
    let shown = quote(source.as_os_str().as_bytes());
    let is_same = if wishes.quick {
        entry.attributes.modified == meta::modified(metadata)
    } else {
        // A file in `/proc` says that it is empty, and isn't.
        metadata.len() > 0 || file.read_at(&mut [0], 0).map_err(|error| Failure::io(&shown, &error))? == 0
    };
    if !is_same || !wishes.quick && !compare::same_bytes(goal.volume, &entry, file, &shown, goal.place)? {
        return Ok(None);
    }
    if Stamp::of(&file.metadata().map_err(|error| Failure::io(&shown, &error))?) != Stamp::of(metadata) {
        return Ok(None);
    }
    attributes(goal, &entry, metadata, xattrs).map(Some)
}

/// Sets what differs of attributes and extended attributes.
pub(crate) fn attributes(
    goal: Goal<'_>,
    entry: &Entry,
    metadata: &Metadata,
    xattrs: &[Xattr],
) -> Result<Outcome> {
    let wanted = meta::sent(metadata, Vec::new());
    let there = &entry.attributes;
    let differs = |wanted: u32, there: u32| (wanted != there).then_some(wanted);
    let change = AttributeChange {
        mode: differs(wanted.mode, there.mode),
        uid: differs(wanted.uid, there.uid),
        gid: differs(wanted.gid, there.gid),
        modified: wanted.modified.filter(|time| *time != there.modified),
    };
    let failed = |error: Error| failure(goal.place, &error);
    let inode = goal.volume.at(there.inode);
    let mut outcome = Outcome::Unchanged;
    for xattr in xattrs.iter().filter(|xattr| !entry.xattrs.contains(xattr)) {
        inode.set_xattr(b"", false, xattr.clone(), XattrMode::Any).wait().map_err(failed)?;
        outcome = Outcome::Attributes;
    }
    for gone in entry.xattrs.iter().filter(|there| xattrs.iter().all(|xattr| xattr.name != there.name)) {
        match inode.remove_xattr(b"", false, &gone.name).wait() {
            Ok(_) | Err(Error::NotFound { .. }) => outcome = Outcome::Attributes,
            Err(error) => return Err(failed(error)),
        }
    }
    if change != AttributeChange::default() {
        inode.set_attributes(b"", false, change).wait().map_err(failed)?;
        outcome = Outcome::Attributes;
    }
    Ok(outcome)
}

/// Sends a file's data, its holes as holes: how many bytes of data. `None`: it ended before `size`.
fn send_bytes(
    file: &File,
    size: u64,
    upload: &mut Upload,
    source: &Path,
    place: &RemotePath,
    progress: &Progress,
) -> Result<Option<u64>> {
    let local = |error: io::Error| Failure::path(source, &error);
    let mut sent = 0;
    let mut reader = Passing::reader(file, size);
    for range in sparse::DataRanges::new(file, size).map_err(local)? {
        let range = range.map_err(local)?;
        skip_to(upload, range.start, place, progress)?;
        let mut position = range.start;
        while position < range.end {
            let left = usize::try_from(range.end - position).unwrap_or(usize::MAX);
            let mut is_cut = false;
            let count = fill(upload, left, place, |room| {
                let count = reader.read_at(room, position).map_err(local)?;
                is_cut = count < room.len();
                Ok(count)
            })?;
            progress.advance(count as u64);
            position += count as u64;
            sent += count as u64;
            if is_cut {
                return Ok(None);
            }
        }
    }
    skip_to(upload, size, place, progress)?;
    if size > 0 {
        return Ok(Some(sent));
    }
    // Files made by the kernel say that they are empty: they are read to their end.
    loop {
        let position = upload.position();
        let read = |room: &mut [u8]| reader.read_at(room, position).map_err(local);
        let count = fill(upload, UNSIZED_BYTES, place, read)?;
        if count == 0 {
            return Ok(Some(sent));
        }
        sent += count as u64;
    }
}

fn skip_to(upload: &mut Upload, position: u64, place: &RemotePath, progress: &Progress) -> Result<()> {
    let hole = position.saturating_sub(upload.position());
    if hole > 0 {
        upload.skip(hole).map_err(|error| failure(place, &error))?;
        progress.advance(hole);
    }
    Ok(())
}

/// Makes a symbolic link at `goal` like the local one at `source`.
pub(crate) fn link(source: &Path, goal: Goal<'_>, wishes: Wishes) -> Result<Outcome> {
    let local = |error: io::Error| Failure::path(source, &error);
    let target = fs::read_link(source).map_err(local)?;
    let metadata = fs::symlink_metadata(source).map_err(local)?;
    let target = target.as_os_str().as_bytes();
    if matches!(wishes.precondition, Precondition::Version(_)) {
        return Err(Failure::usage("--if-version", "is about a file, and the source is a symbolic link")
            .next("follow it with -L, or leave the condition out"));
    }
    if !goal.is_new && wishes.precondition == Precondition::Any {
        match goal.volume.stat(goal.path, false).wait() {
            Ok(_) if wishes.no_clobber => return Ok(Outcome::Skipped),
            Ok(entry) if entry.attributes.kind == InodeKind::Directory => {
                return Err(Failure::new(
                    Exit::Conflict,
                    goal.place.to_string(),
                    "is a directory, and the source is a link",
                ));
            }
            Ok(entry) if entry.attributes.kind == InodeKind::Symlink && entry.target == target => {
                return Ok(Outcome::Unchanged);
            }
            Ok(_) | Err(Error::NotFound { .. }) => {}
            Err(error) => return Err(failure(goal.place, &error)),
        }
    }
    let replace = !wishes.no_clobber && wishes.precondition != Precondition::Absent;
    match goal.volume.symlink(target, goal.path, meta::sent(&metadata, Vec::new()), replace).wait() {
        Ok(_) => Ok(Outcome::Link),
        Err(Error::AlreadyExists { .. }) if wishes.no_clobber => Ok(Outcome::Skipped),
        Err(error) => Err(failure_making(goal.place, &error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_notices_every_change() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("f");
        fs::write(&path, b"one").expect("written");
        let file = open(&path, false).expect("open");
        let before = Stamp::of(&file.metadata().expect("metadata"));
        assert_eq!(before, Stamp::of(&file.metadata().expect("metadata")));
        fs::write(&path, b"longer").expect("written");
        assert_ne!(before, Stamp::of(&file.metadata().expect("metadata")));
    }

    #[test]
    fn links_are_followed_only_when_named_so() {
        let directory = tempfile::tempdir().expect("a directory");
        let (path, link) = (directory.path().join("f"), directory.path().join("l"));
        fs::write(&path, b"x").expect("written");
        std::os::unix::fs::symlink("f", &link).expect("linked");
        assert!(open(&link, false).is_err());
        assert!(open(&link, true).is_ok());
    }
}
