//! Answering queries. All of them read at one index: the head's now, any kept one inside.

use wire::limits::{LIST_ENTRIES_MAX, MESSAGE_ROOTS_MAX};
use wire::meta::{Answer, Entry, ExtentPage, ListEntry, Place, Query};
use wire::{CommitIndex, InodeId, Layout, Status, Version, VolumeId};

use crate::extents::append_to;
use crate::inode::{Content, Inode};
use crate::name::Name;
use crate::namespace::Namespace;
use crate::path::Failure;
use crate::volume::{NOW, Volume};

/// A page of a listing ends when its names and targets have this many bytes, so that it fits into a message.
pub const LIST_BYTES_MAX: usize = 256 << 10;
/// Runs of one page of extents: with 8,192 roots they stay below half a message.
pub const PAGE_RUNS_MAX: usize = 8192;

impl Namespace {
    /// Answers `query` as of now. `reclaim_delay` in nanoseconds is for usage. `GroupStatus` and
    /// `ChunkStates` are the replica's to answer, who knows the sessions.
    pub fn query(&self, query: &Query, reclaim_delay: u64) -> Result<Answer, Failure> {
        self.query_at(query, reclaim_delay, NOW)
    }

    /// Answers `query` as of `at`; `IndexGone` below a volume's horizon (R16).
    pub fn query_at(&self, query: &Query, reclaim_delay: u64, at: CommitIndex) -> Result<Answer, Failure> {
        match query {
            Query::Volume { name } => {
                let id = *self.names.get(name).ok_or(Failure::from(Status::NotFound))?;
                Ok(Answer::Volume(self.existing(id)?.info(id)))
            }
            Query::ListVolumes { after, limit } => Ok(self.list_volumes(after, *limit)),
            Query::Lookup { place, follow, xattrs, roots } => {
                let found = self.find(place, *follow, at)?;
                let (id, inode) = found.present()?;
                let page = match *roots {
                    0 => ExtentPage::default(),
                    roots => page(found.volume, inode, 0, roots, at),
                };
                Ok(Answer::Entry(Box::new(Entry {
                    attributes: inode.attributes(id),
                    target: inode.target().to_vec(),
                    xattrs: if *xattrs { inode.xattrs().to_vec() } else { Vec::new() },
                    page,
                    index: self.moment.index.min(at),
                })))
            }
            Query::ReadExtents { volume, inode, version, layout, offset, roots } => {
                let volume = self.existing(*volume)?;
                let (row, at) = version_of(volume, *inode, *version, *layout)?;
                Ok(Answer::Extents(page(volume, row, *offset, *roots, at)))
            }
            Query::List { place, after, limit } => self.list(place, after, *limit, at),
            Query::Usage { volume } => {
                let volume = self.existing(*volume)?;
                Ok(Answer::Usage(volume.usage(reclaim_delay)))
            }
            Query::GroupStatus | Query::ChunkStates { .. } => Err(Failure::from(Status::Unsupported)),
        }
    }

    /// Whether the version is there, now or kept (R25).
    pub fn has_version(&self, volume: VolumeId, inode: InodeId, version: Version) -> bool {
        let Some(volume) = self.volume(volume) else { return false };
        states_of(volume, inode, version).next().is_some()
    }

    fn existing(&self, id: VolumeId) -> Result<&Volume, Failure> {
        self.volume(id).ok_or(Failure::from(Status::NotFound))
    }

    fn list_volumes(&self, after: &str, limit: u32) -> Answer {
        let after = after.to_string();
        let start =
            if after.is_empty() { std::ops::Bound::Unbounded } else { std::ops::Bound::Excluded(&after) };
        let limit = page_limit(limit);
        let mut rows = self.names.range(start);
        let infos =
            rows.by_ref().take(limit).filter_map(|(_, &id)| Some(self.volume(id)?.info(id))).collect();
        Answer::Volumes(infos, rows.next().is_none())
    }

    /// O(log n + page): nothing before the page is touched, whatever the directory's size.
    fn list(&self, place: &Place, after: &[u8], limit: u32, at: CommitIndex) -> Result<Answer, Failure> {
        let found = self.find(place, true, at)?;
        let (id, inode) = found.present()?;
        if !inode.is_directory() {
            return Err(found.failure(Status::NotDirectory));
        }
        let limit = page_limit(limit);
        let mut entries = Vec::new();
        let mut bytes = 0;
        let mut end = true;
        for (name, child) in found.volume.entries_at(id, &Name::position(after), at) {
            if entries.len() == limit || bytes >= LIST_BYTES_MAX {
                end = false;
                break;
            }
            let Some(row) = found.volume.inode_at(child, at) else { continue };
            let target = row.target().to_vec();
            bytes += name.bytes().len() + target.len();
            entries.push(ListEntry {
                name: name.bytes().to_vec(),
                attributes: row.attributes(child),
                target,
            });
        }
        let index = self.moment.index.min(at);
        Ok(Answer::List { directory: inode.attributes(id), entries, end, index })
    }
}

fn page_limit(limit: u32) -> usize {
    usize::try_from(limit.clamp(1, LIST_ENTRIES_MAX)).expect("at most 1,024")
}

/// States of an inode in this version, the live one first, each with an index at which it was the one. A version is the entry that made it: its first state
/// begins there, and the others follow.
fn states_of(
    volume: &Volume,
    inode: InodeId,
    version: Version,
) -> impl Iterator<Item = (&Inode, CommitIndex)> {
    let live = volume.inodes.get(&inode).map(|row| (row, NOW)).filter(|(row, _)| row.version == version);
    let start = (inode, CommitIndex(version.0).max(volume.summary.horizon));
    let old = volume
        .old_inodes
        .range(std::ops::Bound::Excluded(&start))
        .take_while(move |(key, old)| key.0 == inode && old.inode.version == version)
        .map(|(key, old)| (&old.inode, CommitIndex(key.1.0 - 1)));
    live.into_iter().chain(old)
}

fn version_of(
    volume: &Volume,
    inode: InodeId,
    version: Version,
    layout: Layout,
) -> Result<(&Inode, CommitIndex), Failure> {
    let live = volume.inodes.get(&inode).map_or(Version(0), |row| row.version);
    let conflict = Failure { version: live, ..Failure::from(Status::VersionConflict) };
    if version == Version(0) {
        return Err(conflict);
    }
    states_of(volume, inode, version).find(|(row, _)| row.layout == layout).ok_or(conflict)
}

/// Extents of a file that end after `offset`, as many as `roots` allow.
fn page(volume: &Volume, inode: &Inode, offset: u64, roots: u32, at: CommitIndex) -> ExtentPage {
    let limit = usize::try_from(roots).expect("32 bits").clamp(1, MESSAGE_ROOTS_MAX);
    let mut page = ExtentPage { end: true, ..ExtentPage::default() };
    match &inode.content {
        Content::One(one) if offset < u64::from(one.bytes) => {
            append_to(&mut page.extents, 0, &one.piece(inode.from));
        }
        Content::Many(list) => {
            for (start, piece) in volume.pieces_at(list.id, offset, at) {
                let left = limit - page.extents.roots.len();
                if left == 0 || page.extents.runs.len() == PAGE_RUNS_MAX {
                    page.end = false;
                    break;
                }
                let count = u32::try_from(left).expect("at most 8,192");
                // A page that begins inside a piece begins where the one before ended.
                let rest = offset.checked_sub(start).filter(|skip| *skip > 0);
                let rest = rest.map(|skip| piece.cut(skip, piece.length, piece.from));
                let (start, piece) = rest.as_ref().map_or((start, piece), |rest| (offset, rest));
                if piece.count <= count {
                    append_to(&mut page.extents, start, piece);
                    continue;
                }
                // The piece's first `count` chunks fit; the next page begins inside it.
                let covered = u64::from(count) * u64::from(piece.chunk_bytes) - u64::from(piece.skip);
                append_to(&mut page.extents, start, &piece.cut(0, covered, piece.from));
                page.end = false;
                break;
            }
        }
        _ => {}
    }
    page
}
