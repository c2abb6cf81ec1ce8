//! The proof: everything that the nodes have is compared, byte by byte, with its source on this machine, and every copy of it with its checksums.

use std::ffi::OsStr;
use std::fs::{self, File, Metadata};
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use client::{Entry, InodeKind, Piece, ReadRange, Timestamp, Volume};

use crate::context::Context;
use crate::failure::{Exit, Failure, Result};
use crate::local::{meta, sparse};
use crate::remote::RemotePath;
use crate::remote_failure::failure;
use crate::text::quote;
use crate::transfer::pool::{self, JOBS};
use crate::transfer::progress::Progress;
use crate::walk::{Stage, Visit};

/// What was compared.
#[derive(Clone, Debug, Default)]
pub(crate) struct Proof {
    /// Files with the very bytes of their source.
    pub(crate) files: u64,
    /// Their bytes.
    pub(crate) bytes: u64,
    /// Directories.
    pub(crate) directories: u64,
    /// Symbolic links.
    pub(crate) links: u64,
    /// Sources that changed or went since they were stored: nothing to compare with.
    pub(crate) moved_on: u64,
}

/// Copies that were read, all of them right.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Copies {
    /// Of chunks.
    pub(crate) chunks: u64,
    /// Their bytes.
    pub(crate) bytes: u64,
}

/// Reads every copy of everything at `place`.
pub(crate) fn check_copies(context: &mut Context, place: &RemotePath) -> Result<Copies> {
    let walk = context.walk(place, true)?;
    let volume = context.volume_of(place)?;
    let mut copies = Copies::default();
    for visit in walk {
        let visit = visit?;
        if visit.attributes.kind != InodeKind::File {
            continue;
        }
        let shown = place.join(&visit.below).to_string();
        let file = volume.at(visit.attributes.inode);
        let entry = file.stat(b"", false).wait().map_err(|error| failure(&shown, &error))?;
        let mut verifier = file.verify_file(&entry);
        if let Some(damage) = verifier.next() {
            let damage = damage.map_err(|error| failure(&shown, &error))?;
            let reason = format!("a copy of its chunk {} isn't right", damage.chunk.id);
            return Err(Failure::new(Exit::Integrity, shown, reason)
                .next("please report this, with --keep and the directory"));
        }
        copies.chunks += verifier.checked_chunks();
        copies.bytes += verifier.checked_bytes();
    }
    Ok(copies)
}

/// What became of one thing.
enum Verdict {
    Same(u64),
    MovedOn,
}

/// Compares everything at `place` with `source`, which was stored at `since` or later.
pub(crate) fn prove(
    context: &mut Context,
    place: &RemotePath,
    source: &Path,
    since: Timestamp,
    progress: &Progress,
) -> Result<Proof> {
    let mut walk = context.walk(place, true)?;
    let volume = context.volume_of(place)?;
    let mut proof = Proof::default();
    let mut on_result = |(kind, result): (InodeKind, Result<Verdict>)| {
        match (result?, kind) {
            (Verdict::MovedOn, _) => proof.moved_on += 1,
            (Verdict::Same(bytes), InodeKind::File) => {
                proof.files += 1;
                proof.bytes += bytes;
            }
            (Verdict::Same(_), InodeKind::Directory) => proof.directories += 1,
            (Verdict::Same(_), InodeKind::Symlink) => proof.links += 1,
        }
        Ok(())
    };
    let work = |(visit, path): (Visit, PathBuf)| {
        let shown = place.join(&visit.below).to_string();
        (visit.attributes.kind, compare(&volume, &visit, &path, &shown, since, progress))
    };
    pool::run(usize::from(JOBS), work, &mut on_result, |feed| {
        for visit in walk.by_ref() {
            let visit = visit?;
            // A directory is compared once, when it is left.
            if visit.stage != Stage::Enter {
                let path = if visit.is_root() {
                    source.to_owned()
                } else {
                    source.join(OsStr::from_bytes(&visit.below))
                };
                feed.push((visit, path))?;
            }
        }
        Ok(())
    })?;
    Ok(proof)
}

/// Compares one thing with its source.
fn compare(
    volume: &Volume,
    visit: &Visit,
    path: &Path,
    shown: &str,
    since: Timestamp,
    progress: &Progress,
) -> Result<Verdict> {
    let entry = volume.at(visit.attributes.inode).stat_with_xattrs(b"", false).wait();
    let entry = entry.map_err(|error| failure(shown, &error))?;
    let metadata = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Verdict::MovedOn),
        Err(error) => return Err(Failure::path(path, &error)),
    };
    let difference = match self::difference(volume, visit, &entry, path, &metadata, shown, progress) {
        Ok(None) => return Ok(Verdict::Same(entry.attributes.stored_bytes)),
        Ok(Some(difference)) => {
            Failure::new(Exit::Integrity, shown, format!("isn't as stored: it {difference}")).next(format!(
                "compare it with {} and please report this",
                quote(path.as_os_str().as_bytes())
            ))
        }
        Err(failure) => failure,
    };
    // The source may have changed since it was stored, under our eyes even; then there is nothing to compare with.
    match fs::symlink_metadata(path) {
        Ok(now) if changed(&now) < since => Err(difference),
        _ => Ok(Verdict::MovedOn),
    }
}

/// When anything of a local file changed last, by its file system's clock; nobody can set this time back.
fn changed(metadata: &Metadata) -> Timestamp {
    Timestamp(metadata.ctime().saturating_mul(1_000_000_000).saturating_add(metadata.ctime_nsec()))
}

/// What differs between the stored and the local one, if anything does.
fn difference(
    volume: &Volume,
    visit: &Visit,
    entry: &Entry,
    path: &Path,
    metadata: &Metadata,
    shown: &str,
    progress: &Progress,
) -> Result<Option<String>> {
    let local = |error: io::Error| Failure::path(path, &error);
    let same_kind = match entry.attributes.kind {
        InodeKind::File => metadata.is_file(),
        InodeKind::Symlink => metadata.is_symlink(),
        InodeKind::Directory => metadata.is_dir(),
    };
    if !same_kind {
        return Ok(Some("is of another type".to_owned()));
    }
    // A directory's own time changes with what is made in it meanwhile, a node's directory for one.
    if entry.attributes.kind != InodeKind::Directory && meta::modified(metadata) != entry.attributes.modified
    {
        return Ok(Some("has another time".to_owned()));
    }
    match entry.attributes.kind {
        InodeKind::Symlink => {
            let target = fs::read_link(path).map_err(local)?;
            Ok((target.as_os_str().as_bytes() != entry.target).then(|| "points elsewhere".to_owned()))
        }
        InodeKind::Directory => attributes(path, metadata, entry, visit.is_root()),
        InodeKind::File if metadata.len() != entry.attributes.size => {
            Ok(Some(format!("has {} bytes and not {}", entry.attributes.size, metadata.len())))
        }
        InodeKind::File => match bytes(volume, entry, path, shown, progress)? {
            None => attributes(path, metadata, entry, false),
            different => Ok(different),
        },
    }
}

/// The difference of attributes, if there is one. A volume's root keeps its own.
fn attributes(path: &Path, metadata: &Metadata, entry: &Entry, is_root: bool) -> Result<Option<String>> {
    if is_root {
        return Ok(None);
    }
    let local = |error: io::Error| Failure::path(path, &error);
    let file = File::open(path).map_err(local)?;
    let wanted = meta::sent(metadata, meta::xattrs(&file).map_err(local)?);
    let there = &entry.attributes;
    Ok(if (wanted.mode, wanted.uid, wanted.gid) != (there.mode, there.uid, there.gid) {
        Some("has another mode or owner".to_owned())
    } else if wanted.xattrs != entry.xattrs {
        Some("has other extended attributes".to_owned())
    } else {
        None
    })
}

/// The difference of bytes, if there is one.
fn bytes(
    volume: &Volume,
    entry: &Entry,
    path: &Path,
    shown: &str,
    progress: &Progress,
) -> Result<Option<String>> {
    let local = |error: io::Error| Failure::path(path, &error);
    let file = File::open(path).map_err(local)?;
    let handle = volume.at(entry.attributes.inode);
    let download = handle.download_entry(entry, ReadRange::Whole).map_err(|error| failure(shown, &error))?;
    let mut buffer = Vec::new();
    let mut end = 0;
    for piece in download {
        let (offset, length, same) = match piece.map_err(|error| failure(shown, &error))? {
            Piece::Data { offset, bytes } => {
                buffer.resize(bytes.len(), 0);
                let count = sparse::read_at(&file, &mut buffer, offset).map_err(local)?;
                (offset, bytes.len() as u64, count == bytes.len() && buffer == bytes)
            }
            Piece::Hole { offset, length } => {
                buffer.resize(64 << 10, 0);
                let same = sparse::is_zero(&file, offset..offset + length, &mut buffer).map_err(local)?;
                (offset, length, same)
            }
        };
        if !same || offset != end {
            return Ok(Some(format!(
                "differs from {} between byte {offset} and {}",
                path.display(),
                offset + length
            )));
        }
        end = offset + length;
        progress.advance(length);
    }
    Ok((end != entry.attributes.size).then(|| format!("ends after {end} of {} bytes", entry.attributes.size)))
}
