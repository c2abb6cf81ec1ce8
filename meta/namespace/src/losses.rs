//! Slices whose chunks an operator gave up, and since which cluster map (R8).

use wire::{ChunkId, MapNumber, SliceIndex, slice_of};

/// The stamps of `--accept-data-loss` in the cluster map. Empty nearly always.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Losses {
    /// The ring has 2^bits slices.
    pub ring_bits: u32,
    /// Stamped slices in order, each with the map's number at its latest stamp.
    pub stamps: Vec<(SliceIndex, MapNumber)>,
}

impl Losses {
    /// Whether a chunk acked under map `acked` may have been lost since.
    pub(crate) fn may_have_lost(&self, chunk: ChunkId, acked: MapNumber) -> bool {
        let slice = slice_of(chunk, self.ring_bits);
        let stamp = self.stamps.binary_search_by_key(&slice, |stamp| stamp.0);
        stamp.is_ok_and(|at| self.stamps[at].1 > acked)
    }

    /// Whether any stamp is later than `acked`: only then chunks are worth looking at one by one.
    pub(crate) fn any_after(&self, acked: MapNumber) -> bool {
        self.stamps.iter().any(|stamp| stamp.1 > acked)
    }
}
