//! The whole state checked against itself: what the invariants promise, counted anew. For tests, the simulator and `debug`; O(state).

use std::collections::BTreeMap;

use thiserror::Error;
use wire::meta::VolumeUsage;
use wire::{ChunkId, CommitIndex, InodeId, VolumeId};

use crate::extents::ChunkRange;
use crate::inode::Content;
use crate::namespace::Namespace;
use crate::volume::{Expired, Sign, Volume};

/// What doesn't hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum AuditError {
    /// A chunk has another number of references than rows that name it (I9, I10).
    #[error("chunk {chunk} has {counted} references by its rows and {recorded} in the table")]
    References {
        /// The chunk.
        chunk: ChunkId,
        /// Rows that name it.
        counted: u32,
        /// What the table says.
        recorded: u32,
    },
    /// A chunk without references isn't in its volume's queue, or one with references is.
    #[error("chunk {0} has no references and isn't doomed, or the reverse")]
    Doomed(ChunkId),
    /// A volume's counters.
    #[error("the usage of volume {0} isn't what its rows add up to")]
    Usage(VolumeId),
    /// An inode without exactly one entry, or a directory with a wrong parent or count.
    #[error("inode {1} of volume {0} isn't linked as it says")]
    Link(VolumeId, InodeId),
    /// A list of pieces that overlap, or whose sums are wrong, or that nobody owns.
    #[error("list {1} of volume {0} isn't what its owner says")]
    List(VolumeId, CommitIndex),
    /// An old row that doesn't wait for the horizon, or the reverse.
    #[error("old rows of volume {0} and its queue differ")]
    Expiring(VolumeId),
    /// Heap bytes.
    #[error("volume {0} counts {1} bytes on the heap and holds {2}")]
    Heap(VolumeId, u64, u64),
    /// The names of volumes.
    #[error("the name of volume {0}")]
    Name(VolumeId),
}

impl Namespace {
    /// Checks everything.
    pub fn audit(&self) -> Result<(), AuditError> {
        let mut counted = BTreeMap::new();
        let mut doomed = BTreeMap::new();
        for (&id, volume) in &self.volumes {
            if volume.summary.removed == (self.names.get(&volume.name) == Some(&id)) {
                return Err(AuditError::Name(id));
            }
            volume.count_references(&mut counted);
            for (&(_, first), &count) in &volume.doomed {
                each(first, count, |chunk| {
                    doomed.insert(chunk, id);
                });
            }
            volume.audit_queue(id)?;
            if !volume.summary.removed {
                volume.audit_lists(id)?;
                volume.audit_links(id)?;
                volume.audit_heap(id)?;
            }
        }
        self.audit_spans(&counted, &doomed)
    }

    fn audit_spans(
        &self,
        counted: &BTreeMap<ChunkId, u32>,
        doomed: &BTreeMap<ChunkId, VolumeId>,
    ) -> Result<(), AuditError> {
        let mut recorded: BTreeMap<ChunkId, u32> = BTreeMap::new();
        let mut usage: BTreeMap<VolumeId, (u64, u64)> = BTreeMap::new();
        for (&first, span) in &self.references.spans {
            each(first, span.count, |chunk| {
                recorded.insert(chunk, span.references);
            });
            let range = ChunkRange {
                first,
                count: span.count,
                chunk_bytes: span.chunk_bytes,
                last_chunk_bytes: span.last_chunk_bytes,
            };
            let (chunks, reclaimable) = usage.entry(span.volume).or_default();
            if span.references > 0 {
                *chunks += u64::from(span.count);
            } else {
                *reclaimable += range.bytes();
            }
        }
        for (&chunk, &count) in counted {
            let there = recorded.get(&chunk).copied().unwrap_or(0);
            if there != count {
                return Err(AuditError::References { chunk, counted: count, recorded: there });
            }
        }
        for (&chunk, &there) in &recorded {
            let count = counted.get(&chunk).copied().unwrap_or(0);
            if there != count {
                return Err(AuditError::References { chunk, counted: count, recorded: there });
            }
            if (there == 0) != doomed.contains_key(&chunk) {
                return Err(AuditError::Doomed(chunk));
            }
        }
        if let Some((&chunk, _)) = doomed.iter().find(|(chunk, _)| !recorded.contains_key(chunk)) {
            return Err(AuditError::Doomed(chunk));
        }
        for (&id, volume) in &self.volumes {
            let (chunks, reclaimable) = usage.get(&id).copied().unwrap_or_default();
            let there = &volume.summary.usage;
            if (there.chunks, there.reclaimable_bytes) != (chunks, reclaimable) {
                return Err(AuditError::Usage(id));
            }
        }
        Ok(())
    }
}

impl Volume {
    fn count_references(&self, counted: &mut BTreeMap<ChunkId, u32>) {
        let mut add = |range: ChunkRange| {
            each(range.first, range.count, |chunk| *counted.entry(chunk).or_default() += 1);
        };
        for (_, inode) in &self.inodes {
            if let Content::One(one) = &inode.content {
                add(one.range());
            }
        }
        for (_, old) in &self.old_inodes {
            if let (Content::One(one), true) = (&old.inode.content, old.owns) {
                add(one.range());
            }
        }
        self.pieces.iter().for_each(|(_, piece)| add(piece.chunks()));
        self.old_pieces.iter().for_each(|(_, piece)| add(piece.chunks()));
    }

    fn audit_queue(&self, id: VolumeId) -> Result<(), AuditError> {
        let mut waiting = 0;
        for (key, row) in &self.expiring {
            waiting += usize::from(match &row.what {
                Expired::Entry(directory, name) => {
                    self.old_entries.contains(&(*directory, name.clone(), key.0))
                }
                Expired::Inode(inode) => self.old_inodes.contains(&(*inode, key.0)),
                Expired::Piece(list, offset) => self.old_pieces.contains(&(*list, *offset, key.0)),
            });
        }
        let rows = self.old_entries.len() + self.old_inodes.len() + self.old_pieces.len();
        if waiting == rows && self.expiring.len() == rows { Ok(()) } else { Err(AuditError::Expiring(id)) }
    }

    fn audit_lists(&self, id: VolumeId) -> Result<(), AuditError> {
        let mut sums: BTreeMap<CommitIndex, (u64, u32, u64)> = BTreeMap::new();
        for (&(list, offset), piece) in &self.pieces {
            let (stored, chunks, end) = sums.entry(list).or_default();
            if offset < *end || piece.roots.as_slice().len() != usize::try_from(piece.count).unwrap_or(0) {
                return Err(AuditError::List(id, list));
            }
            *end = offset + piece.length;
            *stored += piece.length;
            *chunks += piece.count;
        }
        let mut usage = VolumeUsage::default();
        let owned = self.old_inodes.iter().filter(|(_, old)| old.owns).map(|(_, old)| (&old.inode, false));
        for (inode, live) in self.inodes.iter().map(|(_, inode)| (inode, true)).chain(owned) {
            if let Content::Many(list) = &inode.content {
                // A list that is being dropped piece by piece has fewer than its owner says.
                let there = sums.remove(&list.id).unwrap_or_default();
                if live && (there.0, there.1) != (list.stored, list.chunks) || there.0 > list.stored {
                    return Err(AuditError::List(id, list.id));
                }
                if live && there.2 > inode.size {
                    return Err(AuditError::List(id, list.id));
                }
            }
            if live {
                let count = match &inode.content {
                    Content::Directory { .. } => &mut usage.directories,
                    Content::Symlink(_) => &mut usage.symlinks,
                    _ => &mut usage.files,
                };
                Sign::Plus.apply(count, 1);
                Sign::Plus.apply(&mut usage.logical_bytes, inode.size);
                Sign::Plus.apply(&mut usage.stored_bytes, inode.stored_bytes());
            }
        }
        if let Some((&list, _)) = sums.first_key_value() {
            return Err(AuditError::List(id, list));
        }
        let there = &self.summary.usage;
        usage.chunks = there.chunks;
        usage.reclaimable_bytes = there.reclaimable_bytes;
        usage.reclaimable_from = there.reclaimable_from;
        let ended = self.sum_ended_bytes() == self.ended_bytes;
        if usage == *there && ended { Ok(()) } else { Err(AuditError::Usage(id)) }
    }

    fn audit_links(&self, id: VolumeId) -> Result<(), AuditError> {
        let mut linked: BTreeMap<InodeId, InodeId> = BTreeMap::new();
        let mut counts: BTreeMap<InodeId, u64> = BTreeMap::new();
        for ((directory, _), entry) in &self.entries {
            *counts.entry(*directory).or_default() += 1;
            if linked.insert(entry.inode, *directory).is_some() || !self.inodes.contains(&entry.inode) {
                return Err(AuditError::Link(id, entry.inode));
            }
        }
        for (&inode, row) in &self.inodes {
            let parent = linked.remove(&inode);
            let holds = match &row.content {
                Content::Directory { parent: own, entries } => {
                    let expected = if inode == InodeId::ROOT { Some(InodeId::ROOT) } else { parent };
                    Some(*own) == expected && counts.get(&inode).copied().unwrap_or(0) == *entries
                }
                _ => parent.is_some() && !counts.contains_key(&inode),
            };
            if !holds {
                return Err(AuditError::Link(id, inode));
            }
        }
        linked.first_key_value().map_or(Ok(()), |(&inode, _)| Err(AuditError::Link(id, inode)))
    }

    fn audit_heap(&self, id: VolumeId) -> Result<(), AuditError> {
        let inodes: usize = self.inodes.iter().map(|(_, inode)| inode.heap_bytes()).sum();
        let old: usize = self.old_inodes.iter().map(|(_, old)| old.inode.heap_bytes()).sum();
        let entries: usize = self.entries.iter().map(|(key, _)| key.1.heap_bytes()).sum();
        let old_entries: usize = self.old_entries.iter().map(|(key, _)| 2 * key.1.heap_bytes()).sum();
        let pieces: usize = self.pieces.iter().map(|(_, piece)| piece.heap_bytes()).sum();
        let old_pieces: usize = self.old_pieces.iter().map(|(_, piece)| piece.heap_bytes()).sum();
        let held = inodes + old + entries + old_entries + pieces + old_pieces + self.name.len();
        let held = u64::try_from(held).expect("64 bits");
        let counted = self.summary.heap_bytes;
        if held == counted { Ok(()) } else { Err(AuditError::Heap(id, counted, held)) }
    }
}

fn each(first: ChunkId, count: u32, mut with: impl FnMut(ChunkId)) {
    for ordinal in first.ordinal..first.ordinal + u64::from(count) {
        with(ChunkId { session: first.session, ordinal });
    }
}
