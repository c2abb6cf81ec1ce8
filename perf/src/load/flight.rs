//! Operations in flight: their buffers, and how far each is.

use wire::checksum::{self, BlockHasher};
use wire::{ChunkId, ClusterId, Memory, Nanos, SessionId, Slot};

/// How far an operation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    Idle,
    /// Fragments are sent, or all are and the answer is awaited.
    Putting,
    Committing,
    Getting,
}

/// One place of the window.
#[derive(Debug)]
pub(super) struct Flight {
    pub(super) stage: Stage,
    pub(super) slot: Slot,
    pub(super) correlation: u64,
    pub(super) chunk: Chunk,
    pub(super) bytes: u32,
    /// Bytes sent of a put, received of a get.
    pub(super) moved: u32,
    pub(super) since: Nanos,
    pub(super) leaves: Vec<u64>,
    /// Sequence of the commit.
    pub(super) sequence: u64,
}

/// A chunk that was put: what is needed to get and verify it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Chunk {
    pub(super) ordinal: u64,
    pub(super) root: u64,
}

impl Flight {
    /// A place with a buffer of its own, filled with bytes that don't compress.
    pub(super) fn new(memory: &mut impl Memory, bytes: u32, seed: u64) -> Option<Self> {
        let slot = memory.allocate(bytes as usize)?;
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        for word in memory.bytes_mut(slot).chunks_exact_mut(8) {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            word.copy_from_slice(&state.to_le_bytes());
        }
        Some(Self {
            stage: Stage::Idle,
            slot,
            correlation: 0,
            chunk: Chunk::default(),
            bytes,
            moved: 0,
            since: Nanos(0),
            leaves: Vec::new(),
            sequence: 0,
        })
    }

    /// Makes the buffer the content of a new chunk, and computes leaves and root.
    pub(super) fn mint(&mut self, memory: &mut impl Memory, cluster: ClusterId, id: ChunkId) {
        let content = &mut memory.bytes_mut(self.slot)[..self.bytes as usize];
        let mark = id.ordinal.to_le_bytes();
        let marked = mark.len().min(content.len());
        content[..marked].copy_from_slice(&mark[..marked]);
        self.leaves.resize(checksum::leaf_count(content.len()), 0);
        BlockHasher::new(cluster, id).leaves(0, content, &mut self.leaves);
        self.chunk = Chunk { ordinal: id.ordinal, root: checksum::root(&self.leaves, content.len()) };
        self.moved = 0;
    }

    /// Whether the bytes that were received are the chunk's (I11).
    pub(super) fn is_genuine(&self, memory: &impl Memory, cluster: ClusterId, session: SessionId) -> bool {
        let id = ChunkId { session, ordinal: self.chunk.ordinal };
        let content = &memory.bytes(self.slot)[..self.bytes as usize];
        self.moved == self.bytes && BlockHasher::new(cluster, id).root(content) == self.chunk.root
    }
}

/// Sequences of commits: which are answered, so that the group may forget their results (R17).
#[derive(Debug, Default)]
pub(super) struct Sequences {
    last: u64,
    acked_upto: u64,
    finished: std::collections::BTreeSet<u64>,
}

impl Sequences {
    /// The next sequence, and up to where all are answered.
    pub(super) fn next(&mut self) -> (u64, u64) {
        self.last += 1;
        (self.last, self.acked_upto)
    }

    pub(super) fn finish(&mut self, sequence: u64) {
        self.finished.insert(sequence);
        while self.finished.remove(&(self.acked_upto + 1)) {
            self.acked_upto += 1;
        }
    }
}
