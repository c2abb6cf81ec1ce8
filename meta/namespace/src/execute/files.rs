//! Contents: commit (replace, write, append), truncate, copy, stage.

use wire::limits::FILE_EXTENTS_MAX;
use wire::meta::{
    Change as ContentChange, Commit, Compact, CopyRange, Extents, NewAttributes, Place, Precondition,
};
use wire::{ChunkId, InodeId, MapNumber, Status, Version};

use super::attributes::{check_xattrs, sorted};
use super::{Execution, Plan, as_file, check_precondition, owner_of, slot, target};
use crate::change::{Change, Made, Source, Target};
use crate::extents::{FILE_BYTES_MAX, Summary, check_extents, chunk_ranges};
use crate::inode::{Content, Inode, Owner};
use crate::path::{Failure, Found};
use crate::volume::{NOW, Volume};

/// Pieces that one compaction of a part of a file ends, at most: some ten milliseconds of work.
const COMPACT_PIECES_MAX: usize = 16_384;
/// Mode of a file whose maker says nothing.
const DEFAULT_MODE: u16 = 0o644;

impl Execution<'_> {
    pub(super) fn commit(&self, commit: &Commit) -> Result<Plan, Failure> {
        if let Some(attributes) = &commit.attributes {
            check_xattrs(&attributes.xattrs)?;
        }
        let follow = !matches!(commit.change, ContentChange::Replace { .. });
        let found = self.find(&commit.place, follow)?;
        check_precondition(commit.precondition, &found)?;
        let chunk_bytes = found.volume.summary.policy.chunk_bytes;
        let summary = self.check_source(&commit.extents, commit.upload, chunk_bytes)?;
        self.check_losses(&commit.extents, commit.upload, commit.map)?;
        let mut plan = Plan { version: self.version(), ..Plan::default() };
        let present = match found.inode {
            Some((_, inode)) if inode.is_directory() => return Err(found.failure(Status::IsDirectory)),
            Some((id, inode)) if matches!(inode.content, Content::Symlink(_)) => {
                self.unlink(&commit.place, &found, id, &mut plan)?;
                None
            }
            present => present,
        };
        let made = present.is_none();
        plan.inode = match present {
            Some((id, _)) => id,
            None => self.make_file(&commit.place, &found, commit.attributes.as_ref(), &mut plan)?,
        };
        let modified = commit.attributes.as_ref().and_then(|attributes| attributes.modified);
        let modified = modified.unwrap_or(self.now());
        let file = target(commit.place.volume, plan.inode);
        let source =
            Source { session: self.context.session, upload: commit.upload, extents: commit.extents.clone() };
        let before = present.map_or(0, |(_, inode)| inode.size);
        match commit.change {
            ContentChange::Replace { size } => {
                if size < summary.end {
                    return Err(found.failure(Status::BadRequest));
                }
                check_size(&found, size)?;
                plan.size = size;
                plan.changes.push(Change::Replace { target: file, size, modified, source });
                if let (false, Some(attributes)) = (made, &commit.attributes) {
                    push_attributes(&mut plan, file, attributes, modified);
                }
            }
            ContentChange::Write => {
                plan.offset = summary.start;
                plan.size = before.max(summary.end);
                let modified = if made { modified } else { self.now() };
                check_chunks(found.volume, present, &summary, 0)?;
                plan.changes.push(Change::Write {
                    target: file,
                    shift: 0,
                    size: plan.size,
                    modified,
                    source,
                });
            }
            ContentChange::Append => {
                if summary.chunks > 0 && summary.start != 0 {
                    return Err(found.failure(Status::BadRequest));
                }
                plan.offset = before;
                plan.size = before.checked_add(summary.end).ok_or(found.failure(Status::TooLarge))?;
                check_size(&found, plan.size)?;
                let modified = if made { modified } else { self.now() };
                check_chunks(found.volume, present, &summary, before)?;
                let size = plan.size;
                plan.changes.push(Change::Write { target: file, shift: before, size, modified, source });
            }
        }
        Ok(plan)
    }

    /// The request's extents with the staged ones before them: checked, and none of the ids used before (R23).
    fn check_source(&self, extents: &Extents, upload: u64, chunk_bytes: u32) -> Result<Summary, Failure> {
        let session = self.context.session;
        let own = check_extents(extents, session, chunk_bytes)?;
        self.namespace.uploads.check_unused(session, extents)?;
        if upload == 0 {
            return Ok(own);
        }
        let (staged, parts) = self.namespace.uploads.staged(session, upload);
        // A stage doesn't say of which volume it will be.
        if parts == 0 || staged.chunk_bytes_max > chunk_bytes {
            return Err(Status::BadRequest.into());
        }
        if own.chunks == 0 {
            return Ok(staged);
        }
        if own.start < staged.end {
            return Err(Status::BadRequest.into());
        }
        let whole = staged.then(&own);
        if whole.chunks > FILE_EXTENTS_MAX { Err(Status::TooLarge.into()) } else { Ok(whole) }
    }

    /// A chunk whose slice was given up after it was acked may be gone: the caller writes it again (R8).
    fn check_losses(&self, extents: &Extents, upload: u64, map: MapNumber) -> Result<(), Failure> {
        let losses = self.context.losses;
        if !losses.any_after(map) {
            return Ok(());
        }
        let uploads = &self.namespace.uploads;
        let staged = uploads.parts(self.context.session, upload).map(|(_, extents)| extents.as_ref());
        let lost = staged.chain([extents]).flat_map(chunk_ranges).any(|range| {
            let session = range.first.session;
            let mut ids = (range.first.ordinal..range.end()).map(|ordinal| ChunkId { session, ordinal });
            ids.any(|id| losses.may_have_lost(id, map))
        });
        if lost { Err(Status::ChunksLost.into()) } else { Ok(()) }
    }

    /// Plans a new file at a free place.
    fn make_file(
        &self,
        place: &Place,
        found: &Found<'_>,
        attributes: Option<&NewAttributes>,
        plan: &mut Plan,
    ) -> Result<InodeId, Failure> {
        let inode = found.volume.summary.next_inode;
        let owner = attributes.map_or(Owner { mode: DEFAULT_MODE, uid: 0, gid: 0 }, owner_of);
        let modified = attributes.and_then(|attributes| attributes.modified).unwrap_or(self.now());
        let file = target(place.volume, inode);
        plan.changes.push(Change::MakeInode { target: file, made: Made::File, owner, modified });
        if let Some(xattrs) =
            attributes.map(|attributes| &attributes.xattrs).filter(|xattrs| !xattrs.is_empty())
        {
            plan.changes.push(Change::SetXattrs { target: file, xattrs: sorted(xattrs) });
        }
        plan.changes.push(Change::Link { slot: slot(place.volume, found.slot()?), inode });
        Ok(inode)
    }

    pub(super) fn truncate(
        &self,
        place: &Place,
        size: u64,
        precondition: Precondition,
    ) -> Result<Plan, Failure> {
        let found = self.find(place, true)?;
        check_precondition(precondition, &found)?;
        let (id, inode) = found.present()?;
        as_file(&found, inode)?;
        check_size(&found, size)?;
        let cut = Change::Truncate { target: target(place.volume, id), size, modified: self.now() };
        Ok(Plan { changes: vec![cut], inode: id, version: self.version(), size, ..Plan::default() })
    }

    pub(super) fn copy_range(&self, copy: &CopyRange) -> Result<Plan, Failure> {
        if copy.source.volume != copy.target.volume {
            return Err(Status::Unsupported.into()); // R27
        }
        let from = self.find(&copy.source, true)?;
        let (source_id, source) = from.present()?;
        as_file(&from, source)?;
        if copy.source_version != Version(0) && copy.source_version != source.version {
            return Err(Failure { version: source.version, ..from.failure(Status::VersionConflict) });
        }
        let found = self.find(&copy.target, true)?;
        check_precondition(copy.precondition, &found)?;
        let mut plan = Plan { version: self.version(), ..Plan::default() };
        let before = found.inode.map(|(_, inode)| as_file(&found, inode)).transpose()?;
        plan.inode = match found.inode {
            Some((id, _)) => id,
            None => self.make_file(&copy.target, &found, None, &mut plan)?,
        };
        let source_target = target(copy.source.volume, source_id);
        if copy.whole {
            plan.size = source.size;
            if plan.inode == source_id {
                plan.version = source.version;
                return Ok(plan); // a file is a copy of itself
            }
            plan.changes.push(Change::CopyWhole { source: source_target, target: plan.inode });
            return Ok(plan);
        }
        let start = copy.source_offset.min(source.size);
        let length = copy.length.min(source.size - start);
        let end = copy.target_offset.checked_add(length).ok_or(found.failure(Status::TooLarge))?;
        check_size(&found, end)?;
        plan.offset = copy.target_offset;
        plan.size = before.map_or(0, |file| file.size);
        if length == 0 {
            plan.version = before.map_or(self.version(), |file| file.version);
            return Ok(plan);
        }
        plan.size = plan.size.max(end);
        let copied = chunks_in(found.volume, source, start, start + length);
        if copied + before.map_or(0, Inode::chunks) + 1 > FILE_EXTENTS_MAX {
            return Err(found.failure(Status::TooLarge)); // what it overwrites isn't deducted: near the limit copy the whole file
        }
        plan.changes.push(Change::CopyRange {
            source: source_target,
            start,
            length,
            target: plan.inode,
            offset: copy.target_offset,
            size: plan.size,
            modified: self.now(),
        });
        Ok(plan)
    }

    /// R26. That the bytes are the same is the caller's word (R28): whoever may write the file could write others openly.
    pub(super) fn compact(&self, compact: &Compact) -> Result<Plan, Failure> {
        let found = self.find(&compact.place, true)?;
        let (id, inode) = found.present()?;
        as_file(&found, inode)?;
        let is_same = inode.version == compact.version && inode.layout == compact.layout;
        if !is_same || inode.layout.0 == u32::MAX {
            return Err(Failure { version: inode.version, ..found.failure(Status::VersionConflict) });
        }
        let chunk_bytes = found.volume.summary.policy.chunk_bytes;
        let summary = self.check_source(&compact.extents, 0, chunk_bytes)?;
        let ended = pieces_under(found.volume, inode, &compact.extents);
        let ended = ended.filter(|_| summary.chunks > 0).ok_or(found.failure(Status::BadRequest))?;
        if ended > COMPACT_PIECES_MAX && summary.stored < inode.stored_bytes() {
            return Err(found.failure(Status::TooLarge)); // the whole of a file is replaced without touching its pieces
        }
        self.check_losses(&compact.extents, 0, compact.map)?;
        check_chunks(found.volume, found.inode, &summary, 0)?;
        let extents = compact.extents.clone();
        let source = Source { session: self.context.session, upload: 0, extents };
        let change = Change::Compact { target: target(compact.place.volume, id), source };
        let size = inode.size;
        Ok(Plan { changes: vec![change], inode: id, version: inode.version, size, ..Plan::default() })
    }

    pub(super) fn stage(&self, upload: u64, extents: &Extents) -> Result<Plan, Failure> {
        let session = self.context.session;
        let own = check_extents(extents, session, wire::limits::CHUNK_BYTES_MAX)?;
        self.namespace.uploads.check_unused(session, extents)?;
        let whole = self.namespace.uploads.check_stage(session, upload, &own)?;
        let stage = Change::Stage { source: Source { session, upload, extents: extents.clone() } };
        Ok(Plan { changes: vec![stage], size: whole.end, ..Plan::default() })
    }
}

fn push_attributes(plan: &mut Plan, file: Target, attributes: &NewAttributes, modified: wire::Timestamp) {
    let owner = owner_of(attributes);
    plan.changes.push(Change::SetAttributes { target: file, owner, modified });
    plan.changes.push(Change::SetXattrs { target: file, xattrs: sorted(&attributes.xattrs) });
}

/// Pieces that lie under the extents, if the file has bytes wherever they are.
fn pieces_under(volume: &Volume, file: &Inode, extents: &Extents) -> Option<usize> {
    let mut count = 0;
    for run in &extents.runs {
        let (mut next, end) = (run.file_offset, run.file_offset + run.length);
        match &file.content {
            Content::One(one) => next = u64::from(one.bytes),
            Content::Many(list) => {
                let pieces = volume.pieces_at(list.id, next, NOW).take_while(|(offset, _)| *offset < end);
                for (offset, piece) in pieces {
                    if offset > next {
                        return None;
                    }
                    next = offset + piece.length;
                    count += 1;
                }
            }
            _ => return None,
        }
        if next < end {
            return None;
        }
    }
    Some(count)
}

fn check_size(found: &Found<'_>, size: u64) -> Result<(), Failure> {
    if size > FILE_BYTES_MAX { Err(found.failure(Status::TooLarge)) } else { Ok(()) }
}

/// Chunks that bytes `start..end` of a file lie in.
fn chunks_in(volume: &Volume, file: &Inode, start: u64, end: u64) -> u64 {
    match &file.content {
        Content::Many(list) => {
            let pieces = volume.pieces_at(list.id, start, NOW).take_while(|(offset, _)| *offset < end);
            pieces.map(|(_, piece)| u64::from(piece.count)).sum()
        }
        _ => file.chunks(),
    }
}

/// Whether the file stays within [`FILE_EXTENTS_MAX`] when extents like `written` are laid over it, shifted by `shift`.
fn check_chunks(
    volume: &Volume,
    present: Option<(InodeId, &Inode)>,
    written: &Summary,
    shift: u64,
) -> Result<(), Failure> {
    let there = present.map_or(0, |(_, inode)| inode.chunks());
    // Each run may lie in the middle of a piece and leave one more than there was; only near the limit is it worth counting what goes.
    if there + written.chunks + written.runs <= FILE_EXTENTS_MAX {
        return Ok(());
    }
    let gone = match present.map(|(_, inode)| &inode.content) {
        Some(Content::Many(list)) => {
            let (start, end) = (written.start + shift, written.end + shift);
            let inside = volume
                .overlapping(*list, start, end)
                .into_iter()
                .filter(|(offset, piece)| *offset >= start && offset + piece.length <= end);
            inside.map(|(_, piece)| u64::from(piece.count)).sum()
        }
        _ => 0,
    };
    // A list with holes may keep some of it: then the limit is found when it is applied, so refuse what isn't sure to fit.
    let contiguous = written.end - written.start == written.stored;
    let after =
        if contiguous { there + written.chunks - gone + 1 } else { there + written.chunks + written.runs };
    if after > FILE_EXTENTS_MAX { Err(Status::TooLarge.into()) } else { Ok(()) }
}
