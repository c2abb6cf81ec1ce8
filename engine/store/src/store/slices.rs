//! What replicas compare: the chunks of slices in order of their ids, and their digests (R3). Everything here shows the index as it is at this moment, durable
//! entries alone.

use wire::message::{ChunkRecord, SliceRange};
use wire::{ChunkId, SliceIndex};

use super::{Stage, Store};

impl Store {
    /// The ring has so many bits: slices are those of this ring from now on.
    pub fn set_ring(&mut self, ring_bits: u32) {
        self.catalog.set_ring(ring_bits);
    }

    /// Digests of a slice's chunks behind `after` in at most `limit` ranges, and whether the last one ends the slice; `None`: not before some
    /// [`walk`](Self::walk_slices) has ended.
    pub fn slice_digests(
        &mut self,
        slice: SliceIndex,
        after: Option<ChunkId>,
        limit: usize,
    ) -> Option<(Vec<SliceRange>, bool)> {
        self.catalog.digests(slice, after, limit)
    }

    /// How far behind `after` the slice's chunks are known; `None`: not before some walk has ended.
    pub fn slice_reach(&mut self, slice: SliceIndex, after: Option<ChunkId>) -> Option<ChunkId> {
        self.catalog.reach(slice, after)
    }

    /// The digest of a slice's chunks behind `after` up to `last`, which is within [`slice_reach`](Self::slice_reach).
    pub fn slice_digest(
        &mut self,
        slice: SliceIndex,
        after: Option<ChunkId>,
        last: ChunkId,
    ) -> Option<SliceRange> {
        self.catalog.digest(slice, after, last)
    }

    /// A slice's chunks behind `after` up to `last`, which is within [`slice_reach`](Self::slice_reach).
    pub fn slice_records(
        &mut self,
        slice: SliceIndex,
        after: Option<ChunkId>,
        last: ChunkId,
    ) -> Option<impl Iterator<Item = ChunkRecord> + '_> {
        self.catalog.records(slice, after, last)
    }

    /// Looks through a part of the index for slices that were asked for, and through as many of those `ahead` as fit, where the store's chunks are in
    /// `slices` of them; about 100 µs.
    pub fn walk_slices(&mut self, ahead: impl Iterator<Item = SliceIndex>, slices: usize) {
        if matches!(self.stage, Stage::Serving | Stage::Closing | Stage::Fenced) {
            let chunks = usize::try_from(self.index.count()).unwrap_or(usize::MAX);
            self.catalog.step(&self.index, ahead, chunks / slices.max(1));
        }
    }

    /// Whether slices were asked for that a walk hasn't found yet.
    pub fn walks_slices(&self) -> bool {
        self.catalog.is_busy()
    }

    /// Nobody compares anything for now: the memory is given back.
    pub fn forget_slices(&mut self) {
        self.catalog.clear();
    }

    /// Chunks that are listed for comparison at this moment.
    pub fn listed_chunks(&self) -> usize {
        self.catalog.count()
    }

    /// Scrub passes that came to their end.
    pub fn scrub_passes(&self) -> u64 {
        self.metrics.scrub_passes
    }

    /// Whether the chunk's copy is known to be damaged.
    pub fn is_damaged(&self, id: ChunkId) -> bool {
        self.index.is_damaged(id)
    }

    /// Whether a put, delete or move of the chunk isn't durable yet.
    pub fn is_changing(&self, id: ChunkId) -> bool {
        self.writes.is_pending(id)
    }
}
