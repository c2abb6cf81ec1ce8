//! A volume's tables: live rows, ended rows with their lifetimes `[from, to)`, and the order in which ended rows are dropped.
//!
//! ```text
//! inodes      inode              → state        live
//! entries     (directory, name)  → inode, from  live
//! pieces      (list, offset)     → piece        live while its file is
//! old_*       the same key, `to` → the same     ended by entry `to`
//! expiring    (to, ordinal)      → which old row, and when it ended
//! doomed      (when, first id)   → chunks       without references since then (R25)
//! ```
//!
//! References: a live piece holds one for each of its chunks, as does the inode of a one-chunk file. The row that ends hands its reference to the
//! ended row: an old piece, or an old inode that *owns* its content because the file gave up all of it. Old rows share content with later states
//! without references of their own: what they share either lives on or ended later, and is dropped later.

use std::ops::Bound;

use wire::meta::{VolumeInfo, VolumePolicy, VolumeUsage};
use wire::planted::{Bug, planted};
use wire::{ChunkId, CommitIndex, GroupId, InodeId, Timestamp, VolumeId};

use crate::codec::{Decode, DecodeError, Encode, Input, structure};
use crate::extents::Piece;
use crate::inode::{Content, Inode, List};
use crate::name::Name;
use crate::tree::Tree;

/// The index at which everything is as it is now.
pub const NOW: CommitIndex = CommitIndex(u64::MAX);

/// A directory entry's value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) inode: InodeId,
    pub(crate) from: CommitIndex,
}
structure!(Entry { inode, from });

/// An old inode row: whether the content's references are its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct OldInode {
    pub(crate) inode: Inode,
    pub(crate) owns: bool,
}
structure!(OldInode { inode, owns });

/// Which old row the horizon drops.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Expired {
    Entry(InodeId, Name),
    Inode(InodeId),
    Piece(CommitIndex, u64),
}

/// An old row's turn.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Expiring {
    /// When its lifetime ended.
    pub(crate) at: Timestamp,
    pub(crate) what: Expired,
}
structure!(Expiring { at, what });

/// What a volume is and counts, without its tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Summary {
    pub(crate) group: GroupId,
    pub(crate) policy: VolumePolicy,
    pub(crate) created: Timestamp,
    pub(crate) next_inode: InodeId,
    /// Old rows that ended at this index or before are gone (R16).
    pub(crate) horizon: CommitIndex,
    /// Without the reclaimable bytes' time, which is the first doomed row's.
    pub(crate) usage: VolumeUsage,
    /// Its name is free again, its content is being dropped.
    pub(crate) removed: bool,
    /// Bytes that rows hold on the heap.
    pub(crate) heap_bytes: u64,
}
structure!(Summary { group, policy, created, next_inode, horizon, usage, removed, heap_bytes });
structure!(VolumeUsage {
    files,
    directories,
    symlinks,
    logical_bytes,
    stored_bytes,
    chunks,
    reclaimable_bytes,
    reclaimable_from
});

/// A volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Volume {
    pub(crate) name: String,
    pub(crate) summary: Summary,
    pub(crate) inodes: Tree<InodeId, Inode>,
    pub(crate) entries: Tree<(InodeId, Name), Entry>,
    pub(crate) pieces: Tree<(CommitIndex, u64), Piece>,
    pub(crate) old_inodes: Tree<(InodeId, CommitIndex), OldInode>,
    pub(crate) old_entries: Tree<(InodeId, Name, CommitIndex), Entry>,
    pub(crate) old_pieces: Tree<(CommitIndex, u64, CommitIndex), Piece>,
    pub(crate) expiring: Tree<(CommitIndex, u32), Expiring>,
    pub(crate) doomed: Tree<(Timestamp, ChunkId), u32>,
    /// Bytes of extents that ended rows hold. Isn't stored: it follows from them.
    pub(crate) ended_bytes: u64,
}

impl Volume {
    pub(crate) fn new(name: String, group: GroupId, policy: VolumePolicy, created: Timestamp) -> Self {
        let summary = Summary {
            group,
            policy,
            created,
            next_inode: InodeId(InodeId::ROOT.0),
            horizon: CommitIndex(0),
            usage: VolumeUsage::default(),
            removed: false,
            heap_bytes: u64::try_from(name.len()).expect("at most 63"),
        };
        Self::with(name, summary)
    }

    pub(crate) fn with(name: String, summary: Summary) -> Self {
        Self {
            name,
            summary,
            inodes: Tree::default(),
            entries: Tree::default(),
            pieces: Tree::default(),
            old_inodes: Tree::default(),
            old_entries: Tree::default(),
            old_pieces: Tree::default(),
            expiring: Tree::default(),
            doomed: Tree::default(),
            ended_bytes: 0,
        }
    }

    pub(crate) fn info(&self, volume: VolumeId) -> VolumeInfo {
        VolumeInfo {
            volume,
            group: self.summary.group,
            name: self.name.clone(),
            policy: self.summary.policy,
            created: self.summary.created,
        }
    }

    /// The inode's state at `at`, which isn't below the horizon.
    pub(crate) fn inode_at(&self, inode: InodeId, at: CommitIndex) -> Option<&Inode> {
        if let Some(live) = self.inodes.get(&inode)
            && live.from <= at
        {
            return Some(live);
        }
        let start = (inode, at);
        let (key, old) = self.old_inodes.range(Bound::Excluded(&start)).next()?;
        (key.0 == inode && old.inode.from <= at).then_some(&old.inode)
    }

    /// What `name` named in `directory` at `at`.
    pub(crate) fn entry_at(&self, directory: InodeId, name: &Name, at: CommitIndex) -> Option<InodeId> {
        let key = (directory, name.clone());
        if let Some(live) = self.entries.get(&key)
            && live.from <= at
        {
            return Some(live.inode);
        }
        if at == NOW {
            return None;
        }
        let start = (key.0, key.1, at);
        let (old, entry) = self.old_entries.range(Bound::Excluded(&start)).next()?;
        (old.0 == directory && old.1 == *name && entry.from <= at).then_some(entry.inode)
    }

    /// Names in `directory` after `after` in order, as of `at`.
    pub(crate) fn entries_at<'a>(
        &'a self,
        directory: InodeId,
        after: &Name,
        at: CommitIndex,
    ) -> impl Iterator<Item = (&'a Name, InodeId)> + 'a {
        let start = (directory, after.clone());
        let live = self.entries.range(Bound::Excluded(&start));
        let mut live = live
            .take_while(move |(key, _)| key.0 == directory)
            .filter(move |(_, entry)| entry.from <= at)
            .map(|(key, entry)| (&key.1, entry.inode))
            .peekable();
        let start = (start.0, start.1, NOW);
        let old = (at != NOW).then(|| self.old_entries.range(Bound::Excluded(&start)));
        let mut old = old
            .into_iter()
            .flatten()
            .take_while(move |(key, _)| key.0 == directory)
            .filter(move |(key, entry)| entry.from <= at && at < key.2)
            .map(|(key, entry)| (&key.1, entry.inode))
            .peekable();
        std::iter::from_fn(move || match (live.peek(), old.peek()) {
            (Some(here), Some(there)) if there.0 < here.0 => old.next(),
            (None, Some(_)) => old.next(),
            _ => live.next(),
        })
    }

    /// Pieces of `list` that end after `offset`, in order, as of `at`.
    pub(crate) fn pieces_at(
        &self,
        list: CommitIndex,
        offset: u64,
        at: CommitIndex,
    ) -> impl Iterator<Item = (u64, &Piece)> + '_ {
        let start = self.pieces.floor(&(list, offset)).map_or((list, offset), |(key, _)| *key);
        let mut live = self
            .pieces
            .range(Bound::Included(&start))
            .skip_while(move |(key, piece)| key.0 < list || key.1 + piece.length <= offset)
            .take_while(move |(key, _)| key.0 == list)
            .peekable();
        let old = (at != NOW).then(|| self.old_pieces_from(list, offset, at));
        let mut old = old.into_iter().flatten().peekable();
        // In order of their offsets whether they were there at `at` or not: a page takes no longer than what lies in its range.
        std::iter::from_fn(move || {
            loop {
                let is_old = match (live.peek(), old.peek()) {
                    (Some((here, _)), Some((there, _))) => there.1 < here.1,
                    (here, there) => here.is_none() && there.is_some(),
                };
                if is_old {
                    let (key, piece) = old.next()?;
                    if piece.from <= at && at < key.2 && key.1 + piece.length > offset {
                        return Some((key.1, piece));
                    }
                } else {
                    let (key, piece) = live.next()?;
                    if piece.from <= at {
                        return Some((key.1, piece));
                    }
                }
            }
        })
    }

    /// Old pieces of `list`, from the one on that may hold the byte at `offset` at `at`: the nearest before it that was there then, since pieces of one moment
    /// don't overlap; not before a live one that was.
    fn old_pieces_from(
        &self,
        list: CommitIndex,
        offset: u64,
        at: CommitIndex,
    ) -> impl Iterator<Item = (&(CommitIndex, u64, CommitIndex), &Piece)> + '_ {
        let live =
            self.pieces.floor(&(list, offset)).filter(|(key, piece)| key.0 == list && piece.from <= at);
        let mut start = (list, live.map_or(0, |(key, _)| key.1), CommitIndex(0));
        let mut before = (list, offset, NOW);
        while let Some((key, piece)) = self.old_pieces.floor(&before).filter(|(key, _)| **key >= start) {
            if piece.from <= at && at < key.2 {
                start = *key;
                break;
            }
            before = (key.0, key.1, CommitIndex(key.2.0 - 1));
        }
        let rows = self.old_pieces.range(Bound::Included(&start));
        rows.take_while(move |(key, _)| key.0 == list)
    }

    /// Live pieces of `list` that overlap `[start, end)`.
    pub(crate) fn overlapping(&self, list: List, start: u64, end: u64) -> Vec<(u64, Piece)> {
        self.pieces_at(list.id, start, NOW)
            .take_while(|(offset, _)| *offset < end)
            .map(|(offset, piece)| (offset, piece.clone()))
            .collect()
    }

    /// How long ended rows are kept by the volume's policy, in nanoseconds.
    pub(crate) fn retention(&self) -> u64 {
        self.summary.policy.retention_seconds.saturating_mul(wire::Nanos::SECOND)
    }

    /// `ended_bytes`, counted anew.
    pub(crate) fn sum_ended_bytes(&self) -> u64 {
        let owned =
            self.old_inodes.iter().filter(|(_, old)| old.owns).map(|(_, old)| match &old.inode.content {
                Content::One(one) => u64::from(one.bytes),
                Content::Many(list) => {
                    let pieces = self.pieces.range(Bound::Included(&(list.id, 0)));
                    pieces.take_while(|(key, _)| key.0 == list.id).map(|(_, piece)| piece.length).sum()
                }
                _ => 0,
            });
        owned.sum::<u64>() + self.old_pieces.iter().map(|(_, piece)| piece.length).sum::<u64>()
    }

    /// The usage to be shown. Without retention what ended rows hold can be had as soon as readers are through with it (R25), unless a copy holds it too.
    pub(crate) fn usage(&self, reclaim_delay: u64) -> VolumeUsage {
        let mut usage = self.summary.usage;
        let ended = if self.retention() == 0 { self.ended_bytes } else { 0 };
        usage.reclaimable_bytes += ended;
        let first_doomed = self.doomed.first().map(|(key, _)| key.0);
        let first_ended = self.expiring.first().filter(|_| ended > 0).map(|(_, row)| row.at);
        let first = first_doomed.into_iter().chain(first_ended).min();
        usage.reclaimable_from = first.map_or(Timestamp(0), |at| crate::namespace::later(at, reclaim_delay));
        usage
    }

    /// An old row waits for the horizon.
    pub(crate) fn expire(&mut self, to: CommitIndex, at: Timestamp, what: Expired) {
        let ordinal = match self.expiring.last() {
            Some((last, _)) if last.0 == to => last.1 + 1,
            _ => 0,
        };
        if let Expired::Entry(_, name) = &what {
            self.add_heap(name.heap_bytes());
        }
        self.expiring.insert((to, ordinal), Expiring { at, what });
    }

    pub(crate) fn add_heap(&mut self, bytes: usize) {
        self.summary.heap_bytes += u64::try_from(bytes).expect("64 bits");
    }

    pub(crate) fn drop_heap(&mut self, bytes: usize) {
        let bytes = u64::try_from(bytes).expect("64 bits");
        self.summary.heap_bytes = self.summary.heap_bytes.saturating_sub(bytes);
    }

    /// Counts a live inode in, or out.
    pub(crate) fn count(&mut self, inode: &Inode, sign: Sign) {
        if matches!(sign, Sign::Minus) && planted(Bug::NamespaceMiscounts) {
            return;
        }
        let usage = &mut self.summary.usage;
        let one = match &inode.content {
            Content::Directory { .. } => &mut usage.directories,
            Content::Symlink(_) => &mut usage.symlinks,
            _ => {
                sign.apply(&mut usage.logical_bytes, inode.size);
                sign.apply(&mut usage.stored_bytes, inode.stored_bytes());
                &mut usage.files
            }
        };
        sign.apply(one, 1);
    }

    /// Bytes of memory, within a few per cent.
    pub(crate) fn memory_bytes(&self) -> u64 {
        let tables = self.inodes.memory_bytes()
            + self.entries.memory_bytes()
            + self.pieces.memory_bytes()
            + self.old_inodes.memory_bytes()
            + self.old_entries.memory_bytes()
            + self.old_pieces.memory_bytes()
            + self.expiring.memory_bytes()
            + self.doomed.memory_bytes();
        u64::try_from(tables).expect("64 bits") + self.summary.heap_bytes
    }

    /// Whether nothing is left of a removed volume.
    pub(crate) fn is_drained(&self) -> bool {
        self.summary.removed
            && self.inodes.is_empty()
            && self.entries.is_empty()
            && self.expiring.is_empty()
            && self.doomed.is_empty()
    }
}

/// Whether something is added to a counter or taken off it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sign {
    Plus,
    Minus,
}

impl Sign {
    /// Modulo 2⁶⁴: sizes of files with holes may add up to more for a while, and the sum is right again when they have gone.
    pub(crate) fn apply(self, counter: &mut u64, amount: u64) {
        *counter = match self {
            Self::Plus => counter.wrapping_add(amount),
            Self::Minus => counter.wrapping_sub(amount),
        };
    }
}

impl Encode for Expired {
    fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Entry(directory, name) => {
                out.push(0);
                directory.encode(out);
                name.encode(out);
            }
            Self::Inode(inode) => {
                out.push(1);
                inode.encode(out);
            }
            Self::Piece(list, offset) => {
                out.push(2);
                list.encode(out);
                offset.encode(out);
            }
        }
    }
}

impl Decode for Expired {
    fn decode(input: &mut Input<'_>) -> Result<Self, DecodeError> {
        Ok(match input.byte()? {
            0 => Self::Entry(Decode::decode(input)?, Decode::decode(input)?),
            1 => Self::Inode(Decode::decode(input)?),
            2 => Self::Piece(Decode::decode(input)?, Decode::decode(input)?),
            tag => return Err(DecodeError::UnknownTag(tag)),
        })
    }
}
