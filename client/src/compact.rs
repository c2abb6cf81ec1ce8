//! Compaction: where a file lies in many small extents, its bytes are read, written as few large chunks, and put in their place; its version
//! stays what it is, its layout rises (R26).
//!
//! It goes in rounds, each one mutation of 64 MiB or 4,096 extents at most. Whoever changes the file between reading and committing wins, and the
//! compaction fails with [`Error::VersionConflict`]; what was done before stays.

use wire::Layout;
use wire::meta::{Entry, ExtentPage, InodeKind};

use crate::stored::StoredChunks;
use crate::upload::Upload;
use crate::{Error, Pending, Piece, ReadRange, Volume};

/// What a compaction did, or would do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Compaction {
    /// Extents of the file before: pieces of it in chunks of their own.
    pub extents_before: u64,
    /// And after.
    pub extents_after: u64,
    /// Bytes that were read and written anew.
    pub rewritten_bytes: u64,
}

impl Compaction {
    /// Whether there was anything to do.
    pub fn is_worthwhile(&self) -> bool {
        self.rewritten_bytes > 0
    }
}

/// Bytes rewritten by one mutation, at most.
const ROUND_BYTES: u64 = 64 << 20;
/// Extents replaced by one mutation, at most: work that the group does at once.
const ROUND_EXTENTS: u64 = 4096;

/// Neighbouring extents that become larger ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Group {
    start: u64,
    end: u64,
    extents: u64,
}

/// Finds groups among a file's extents, which come in order.
#[derive(Clone, Copy, Debug)]
struct Planner {
    chunk_bytes: u64,
    group: Option<Group>,
}

impl Planner {
    fn new(chunk_bytes: u64) -> Self {
        Self { chunk_bytes, group: None }
    }

    /// The next extent. Returns the group before it, if that ends here and is worth it.
    fn push(&mut self, offset: u64, length: u64) -> Option<Group> {
        let is_small = length < self.chunk_bytes / 2;
        if let Some(group) = &mut self.group
            && is_small
            && group.end == offset
            && group.extents < ROUND_EXTENTS
            && group.end - group.start < ROUND_BYTES
        {
            group.end += length;
            group.extents += 1;
            return None;
        }
        let ended = self.finish();
        self.group = is_small.then_some(Group { start: offset, end: offset + length, extents: 1 });
        ended
    }

    /// Nothing follows.
    fn finish(&mut self) -> Option<Group> {
        self.group.take().filter(|group| 2 * group.chunks(self.chunk_bytes) <= group.extents)
    }
}

impl Group {
    fn bytes(&self) -> u64 {
        self.end - self.start
    }

    /// Chunks that it becomes.
    fn chunks(&self, chunk_bytes: u64) -> u64 {
        self.bytes().div_ceil(chunk_bytes)
    }
}

impl Volume {
    /// What [`compact`](Self::compact) would do with the file that `entry` describes.
    pub fn plan_compaction(&self, entry: &Entry) -> Pending<Compaction> {
        let (volume, entry) = (self.clone(), entry.clone());
        Pending::start(async move {
            let mut search = Search::new(&volume, &entry)?;
            while search.next_group().await?.is_some() {}
            Ok(search.found)
        })
    }

    /// Puts large chunks in the place of a file's small ones, wherever at least two of them become one. The bytes, the version and the times of the
    /// file stay; who reads it meanwhile doesn't notice. What is rewritten travels here and back.
    ///
    /// [`Error::VersionConflict`] or [`Error::Replaced`]: the file was changed meanwhile. [`Error::Integrity`]: some of it can't be read, and is left alone.
    pub fn compact(&self, entry: &Entry) -> Pending<Compaction> {
        let (volume, entry) = (self.clone(), entry.clone());
        Pending::start(async move { compact(&volume, entry).await })
    }
}

async fn compact(volume: &Volume, mut entry: Entry) -> Result<Compaction, Error> {
    let file = volume.at(entry.attributes.inode);
    let mut search = Search::new(volume, &entry)?;
    // It goes on in the layout that it began with: what lies behind a round isn't changed by it.
    let mut next = search.next_group().await?;
    while let Some(first) = next {
        let attributes = &entry.attributes;
        let of = (attributes.version, attributes.layout);
        let mut upload = Upload::compaction(file.clone(), first.start, of)?;
        let mut round = Group { end: first.start, extents: 0, ..first };
        let mut bytes = 0;
        while let Some(group) = next {
            bytes += group.bytes();
            round.extents += group.extents;
            if round.extents > group.extents && (bytes > ROUND_BYTES || round.extents > ROUND_EXTENTS) {
                break;
            }
            upload.skip(group.start - round.end)?;
            round.end = group.end;
            rewrite(volume, &entry, group, &mut upload).await?;
            next = search.next_group().await?;
        }
        upload.complete().await?;
        entry.attributes.layout = Layout(entry.attributes.layout.0 + 1);
        entry.page = ExtentPage::default();
    }
    Ok(search.found)
}

/// Reads a group's bytes and puts them into the upload, verified on the way.
async fn rewrite(volume: &Volume, entry: &Entry, group: Group, upload: &mut Upload) -> Result<(), Error> {
    let range = ReadRange::Span { offset: group.start, length: group.bytes() };
    let mut download = volume.download_entry(entry, range)?;
    while let Some(piece) = download.next_piece().await? {
        let Piece::Data { bytes, .. } = piece else {
            // The extents lay side by side a moment ago: the file isn't what it was.
            let what = volume.at(entry.attributes.inode).subject(b"");
            return Err(Error::Replaced { what, version: entry.attributes.version });
        };
        upload.push(&bytes).await?;
    }
    Ok(())
}

/// The groups of one version, in order.
struct Search {
    chunks: StoredChunks,
    planner: Planner,
    found: Compaction,
    has_ended: bool,
}

impl Search {
    fn new(volume: &Volume, entry: &Entry) -> Result<Self, Error> {
        let what = || volume.at(entry.attributes.inode).subject(b"");
        match entry.attributes.kind {
            InodeKind::File => {}
            InodeKind::Directory => return Err(Error::IsDirectory { what: what() }),
            InodeKind::Symlink => return Err(Error::Unsupported { what: what() }),
        }
        let planner = Planner::new(u64::from(volume.info().policy.chunk_bytes));
        let chunks = volume.stored_chunks(entry);
        Ok(Self { chunks, planner, found: Compaction::default(), has_ended: false })
    }

    async fn next_group(&mut self) -> Result<Option<Group>, Error> {
        while !self.has_ended {
            let group = if let Some(chunk) = self.chunks.next_chunk().await? {
                self.found.extents_before += 1;
                self.found.extents_after += 1;
                self.planner.push(chunk.offset, chunk.length)
            } else {
                self.has_ended = true;
                self.planner.finish()
            };
            if let Some(group) = group {
                self.found.extents_after -= group.extents - group.chunks(self.planner.chunk_bytes);
                self.found.rewritten_bytes += group.bytes();
                return Ok(Some(group));
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::{Group, Planner, ROUND_EXTENTS};

    fn groups(extents: &[(u64, u64)]) -> Vec<Group> {
        let mut planner = Planner::new(100);
        let mut groups: Vec<Group> =
            extents.iter().filter_map(|&(offset, length)| planner.push(offset, length)).collect();
        groups.extend(planner.finish());
        groups
    }

    #[test]
    fn neighbours_that_halve_their_number_are_groups() {
        let group = |start, end, extents| Group { start, end, extents };
        let check = |extents: &[(u64, u64)], expected: &[Group]| {
            assert_eq!(groups(extents), expected, "{extents:?}");
        };
        check(&[], &[]);
        check(&[(0, 100), (100, 100)], &[]);
        check(&[(0, 10)], &[]);
        check(&[(0, 10), (10, 10)], &[group(0, 20, 2)]);
        check(&[(0, 10), (20, 10)], &[]); // a hole between them
        check(&[(0, 40), (40, 40), (80, 40)], &[]); // three become two
        check(&[(0, 40), (40, 40), (80, 40), (120, 40)], &[group(0, 160, 4)]);
        check(&[(0, 10), (10, 10), (20, 90), (110, 10), (120, 10)], &[group(0, 20, 2), group(110, 130, 2)]);
        check(&[(5, 49), (54, 50), (104, 49)], &[]);
    }

    #[test]
    fn what_was_compacted_is_left_alone() {
        let extents: Vec<(u64, u64)> = (0..37).map(|i| (i * 7, 7)).collect();
        let found = groups(&extents);
        assert_eq!(found, [Group { start: 0, end: 259, extents: 37 }]);
        assert_eq!(groups(&[(0, 100), (100, 100), (200, 59)]), []);
    }

    #[test]
    fn a_group_has_a_limit() {
        let extents: Vec<(u64, u64)> = (0..2 * ROUND_EXTENTS).map(|i| (i, 1)).collect();
        let found = groups(&extents);
        assert_eq!(found.iter().map(|group| group.extents).collect::<Vec<_>>(), [ROUND_EXTENTS; 2]);
    }
}
