//! Fetching one file or link: written beside its target, verified, given its attributes, then renamed into place.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use client::{Attributes, Download, Entry, Error, InodeKind, Piece, Precondition, Volume};

use crate::commands::cat::{check_range, read_range};
use crate::failure::{Exit, Failure, Result};
use crate::local::meta;
use crate::local::passing::Passing;
use crate::local::place::{self, Draft, Found};
use crate::range::ByteRange;
use crate::remote::RemotePath;
use crate::remote_failure::failure;
use crate::text::quote;
use crate::transfer::compare;
use crate::transfer::progress::Progress;
use crate::transfer::report::Outcome;
use crate::transfer::send::Wishes;

/// How often a file is begun again that is replaced while it is fetched.
const TRIES_MAX: u32 = 5;
/// Zeros for holes where the target can't have any.
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// What is fetched.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Origin<'a> {
    /// The volume, and the directory in it that `path` begins at.
    pub(crate) volume: &'a Volume,
    /// The path from there.
    pub(crate) path: &'a [u8],
    /// The whole remote name.
    pub(crate) place: &'a RemotePath,
    /// Whether a link at the path itself is followed.
    pub(crate) follow: bool,
    /// The part that is wanted; none: all of it.
    pub(crate) range: Option<ByteRange>,
}

/// Where it goes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Destination<'a> {
    /// The local path.
    pub(crate) path: &'a Path,
    /// Whether a person named it: then a link there means what it leads to. In a tree it could lead outside.
    pub(crate) is_named: bool,
}

impl Destination<'_> {
    fn look(self) -> Result<Found> {
        if self.is_named { place::look_named(self.path) } else { place::look(self.path) }
    }
}

/// Fetches a file or link to `target`, unless the same bytes are there.
pub(crate) fn fetch(
    origin: Origin<'_>,
    target: Destination<'_>,
    wishes: Wishes,
    progress: &Progress,
) -> Result<Outcome> {
    for _ in 0..TRIES_MAX {
        let entry = origin.volume.stat_with_xattrs(origin.path, origin.follow).wait();
        let entry = entry.map_err(|error| failure(origin.place, &error))?;
        let outcome = match entry.attributes.kind {
            InodeKind::File => file(origin, &entry, target, wishes, progress),
            InodeKind::Symlink => link(&entry, target, wishes).map(Some),
            InodeKind::Directory => {
                Err(Failure::new(Exit::Conflict, origin.place.to_string(), "is a directory")
                    .next("fetch it with -r"))
            }
        };
        if let Some(outcome) = outcome? {
            return Ok(outcome);
        }
    }
    Err(Failure::new(Exit::Failed, origin.place.to_string(), "is replaced again and again while it is read"))
}

/// Fetches a file's version; `None`: it was replaced meanwhile and is gone.
fn file(
    origin: Origin<'_>,
    entry: &Entry,
    target: Destination<'_>,
    wishes: Wishes,
    progress: &Progress,
) -> Result<Option<Outcome>> {
    check_version(origin.place, wishes.precondition, &entry.attributes)?;
    let found = target.look()?;
    let target = target.path;
    let is_special = match found {
        Found::Directory => {
            return Err(Failure::new(
                Exit::Conflict,
                quote(target.as_os_str().as_bytes()),
                "is a directory, and the source is a file",
            )
            .next("name another target, or remove the directory if it may go"));
        }
        Found::Special => true,
        Found::File | Found::Link | Found::Dangling if wishes.no_clobber => {
            return Ok(Some(Outcome::Skipped));
        }
        Found::File | Found::Link | Found::Dangling if wishes.precondition == Precondition::Absent => {
            return Err(exists(target));
        }
        Found::Dangling => return Err(place::dangling(target)),
        Found::Nothing | Found::Link => false,
        Found::File => {
            if origin.range.is_none()
                && let Some(outcome) = settle(origin, entry, target, wishes)?
            {
                progress.advance(entry.attributes.size);
                return Ok(Some(outcome));
            }
            false
        }
    };
    check_range(origin.place, origin.range, entry.attributes.size)?;
    let file = origin.volume.at(entry.attributes.inode);
    let download = match file.download_entry(entry, read_range(origin.range)) {
        Ok(download) => download,
        Err(Error::Replaced { .. }) => return Ok(None),
        Err(error) => return Err(failure(origin.place, &error)),
    };
    if is_special {
        let written = write_through(origin.place, download, target, progress)?;
        return Ok(written.map(Outcome::File));
    }
    let (draft, file) = Draft::file(target)?;
    let Some(bytes) = write(origin.place, download, &file, target, progress)? else { return Ok(None) };
    // An attribute that the file system refuses is said, and costs nobody the content.
    let applied = meta::apply(&file, &entry.attributes, wishes.xattrs(entry), target);
    draft.finish()?;
    applied?;
    Ok(Some(Outcome::File(bytes)))
}

/// Looks at the local file: `Some` where nothing needs to be fetched.
fn settle(origin: Origin<'_>, entry: &Entry, target: &Path, wishes: Wishes) -> Result<Option<Outcome>> {
    let local = |error: io::Error| Failure::path(target, &error);
    // One that can't be read is replaced, if that may be done.
    let Ok(file) = File::open(target) else { return Ok(None) };
    let metadata = file.metadata().map_err(local)?;
    if metadata.len() != entry.attributes.size {
        return Ok(None);
    }
    let has_time = meta::modified(&metadata) == entry.attributes.modified;
    let is_same = if wishes.quick {
        has_time
    } else {
        let file_handle = origin.volume.at(entry.attributes.inode);
        compare::same_bytes(&file_handle, entry, &file, &target.display().to_string(), origin.place)?
    };
    if !is_same {
        return Ok(None);
    }
    let wanted = meta::sent(&metadata, meta::xattrs(&file).map_err(local)?);
    let same_xattrs = wishes.xattrs(entry).iter().all(|xattr| wanted.xattrs.contains(xattr));
    if has_time && wanted.mode == entry.attributes.mode && same_xattrs {
        return Ok(Some(Outcome::Unchanged));
    }
    meta::apply(&file, &entry.attributes, wishes.xattrs(entry), target)?;
    Ok(Some(Outcome::Attributes))
}

/// Writes everything that comes to `file`, holes as holes: how many bytes of data. `None`: the version was replaced and is gone.
fn write(
    place: &RemotePath,
    download: Download,
    file: &File,
    target: &Path,
    progress: &Progress,
) -> Result<Option<u64>> {
    let local = |error: io::Error| Failure::path(target, &error);
    // Pieces carry offsets in the remote file; a range begins at the local file's byte 0.
    let mut start = None;
    let (mut end, mut written) = (0, 0);
    let mut writer = Passing::writer(file, download.length());
    for piece in download {
        let (offset, length) = match &piece {
            Ok(Piece::Data { offset, bytes }) => (*offset, bytes.len() as u64),
            Ok(Piece::Hole { offset, length }) => (*offset, *length),
            Err(Error::Replaced { .. }) => {
                progress.retreat(end);
                return Ok(None);
            }
            Err(error) => return Err(failure(place, error)),
        };
        let position = offset - *start.get_or_insert(offset);
        if let Ok(Piece::Data { bytes, .. }) = &piece {
            writer.write_at(bytes, position).map_err(local)?;
            written += length;
        }
        end = position + length;
        progress.advance(length);
    }
    file.set_len(end).map_err(local)?;
    Ok(Some(written))
}

/// Writes everything that comes to a device, pipe or socket, in order.
fn write_through(
    place: &RemotePath,
    download: Download,
    target: &Path,
    progress: &Progress,
) -> Result<Option<u64>> {
    let local = |error: io::Error| Failure::path(target, &error);
    let mut file = place::open_special(target)?;
    let mut total = 0;
    for piece in download {
        match piece {
            Ok(Piece::Data { bytes, .. }) => {
                file.write_all(&bytes).map_err(local)?;
                total += bytes.len() as u64;
                progress.advance(bytes.len() as u64);
            }
            Ok(Piece::Hole { length, .. }) => {
                let mut rest = length;
                while rest > 0 {
                    let count = usize::try_from(rest).unwrap_or(usize::MAX).min(ZEROS.len());
                    file.write_all(&ZEROS[..count]).map_err(local)?;
                    rest -= count as u64;
                }
                total += length;
                progress.advance(length);
            }
            // What was written can't be taken back.
            Err(error) => return Err(failure(place, &error)),
        }
    }
    Ok(Some(total))
}

/// Refuses a file of another version than the one that is asked for.
pub(crate) fn check_version(
    place: &RemotePath,
    condition: Precondition,
    attributes: &Attributes,
) -> Result<()> {
    match condition {
        Precondition::Version(wanted) if wanted != attributes.version => Err(failure(
            place,
            &Error::VersionConflict { what: client::Subject::Cluster, found: attributes.version },
        )),
        _ => Ok(()),
    }
}

fn exists(target: &Path) -> Failure {
    Failure::new(Exit::Conflict, quote(target.as_os_str().as_bytes()), "exists already")
        .next("name another target, or leave --if-absent out to replace it")
}

/// Makes a local link like the remote one.
fn link(entry: &Entry, target: Destination<'_>, wishes: Wishes) -> Result<Outcome> {
    let points_at = Path::new(std::ffi::OsStr::from_bytes(&entry.target));
    let found = target.look()?;
    let target = target.path;
    match found {
        Found::Nothing => {}
        _ if wishes.no_clobber => return Ok(Outcome::Skipped),
        _ if wishes.precondition == Precondition::Absent => return Err(exists(target)),
        Found::Directory | Found::Special => {
            let failure = Failure::new(
                Exit::Conflict,
                quote(target.as_os_str().as_bytes()),
                "is in the way of a symbolic link",
            );
            return Err(failure.next("remove it, if it may go"));
        }
        Found::Link | Found::Dangling if fs::read_link(target).is_ok_and(|there| there == points_at) => {
            return Ok(Outcome::Unchanged);
        }
        Found::Link | Found::Dangling | Found::File => {}
    }
    let draft = Draft::link(target, points_at)?;
    meta::apply_to_link(draft.path(), entry.attributes.modified)
        .map_err(|error| Failure::path(target, &error))?;
    draft.finish()?;
    Ok(Outcome::Link)
}
