//! Who may hold how much of the shard's buffers: one connection leaves room for the others, puts for gets, and both for the store.
//!
//! ```text
//! eighths of the arena:   puts ≤ 5     gets ≤ 3     1 that neither may touch: the store's descriptors, checkpoint pages and moves
//!                         of them, where others relay: heads ≤ 3, middles ≤ 4
//! sixteenths, at most 16 MiB: 1 for chunks that are fetched from other replicas, 1 for what is read for them
//! ```
//! A put that waits for stores behind this one leaves room to those that wait for fewer, so that the last ones, which wait for this disk alone, always go on (R38).
//! Of what its kind may have, a connection may hold a part of what is left, so that each further one that takes all it can get leaves less
//! but leaves something (dynamic thresholds: Choudhury and Hahne, "Dynamic queue length thresholds for shared-memory packet switches",
//! 1998). One that holds nothing may take what there is; where that is too little for its chunk, the slowest chunks that are arriving
//! make room.

use wire::Memory;
use wire::limits::BLOCK_BYTES;
use wire::message::HopClass;
use wire::planted::{Bug, planted};

use crate::link::{LINK_GET_BYTES_MAX, LINK_PUT_BYTES_MAX};

/// What puts hold until one of a kind may begin, in eighths of the arena: those that wait for this disk alone have it all.
fn put_eighths(class: HopClass, is_relayed: bool) -> usize {
    match class {
        _ if !is_relayed || planted(Bug::ShardSharesBuffers) => 5,
        HopClass::Client | HopClass::Head => 3,
        HopClass::Middle | HopClass::Tail => 4,
    }
}

/// Sixteen chunks of the usual size.
const SYNC_BYTES_MAX: usize = 16 << 20;
/// What gets hold.
const GET_EIGHTHS: usize = 3;
/// A connection's puts hold one part in so many of what is left: of an idle shard with 256 MiB, 32 MiB, more than a window.
const PUT_PART: usize = 4;
/// And its gets: of an idle shard with 256 MiB, more than [`LINK_GET_BYTES_MAX`].
const GET_PART: usize = 4;

/// What the shard's connections hold together.
#[derive(Debug, Default)]
pub(crate) struct Shares {
    /// Slots of chunks that are put.
    pub(crate) puts: usize,
    /// Blocks that are read or sent.
    pub(crate) gets: usize,
    /// Those for other replicas.
    pub(crate) fetched: usize,
}

impl Shares {
    /// Whether a connection whose puts hold `held` bytes may have `bytes` more, for a chunk of this class.
    pub(crate) fn admits_put(
        &self,
        held: usize,
        bytes: usize,
        (class, is_relayed): (HopClass, bool),
        memory: &impl Memory,
    ) -> bool {
        let left = (memory.total_bytes() / 8 * put_eighths(class, is_relayed)).saturating_sub(self.puts);
        let part = if held == 0 { left } else { (left / PUT_PART).min(LINK_PUT_BYTES_MAX) };
        held + bytes <= part && spares(bytes, memory)
    }

    /// What is counted of gets of clients, or of other replicas.
    pub(crate) fn read_for(&mut self, is_replica: bool) -> &mut usize {
        if is_replica { &mut self.fetched } else { &mut self.gets }
    }

    /// Bytes that other replicas' gets may still take.
    pub(crate) fn fetched_left(&self, memory: &impl Memory) -> usize {
        sync_bytes_max(memory).saturating_sub(self.fetched)
    }

    /// Bytes that gets of clients, or of other replicas, may still take.
    pub(crate) fn left_for(&self, is_replica: bool, memory: &impl Memory) -> usize {
        if is_replica { self.fetched_left(memory) } else { self.gets_left(memory) }
    }

    /// Bytes that gets may still take.
    pub(crate) fn gets_left(&self, memory: &impl Memory) -> usize {
        (memory.total_bytes() / 8 * GET_EIGHTHS).saturating_sub(self.gets)
    }
}

/// Buffers of what is fetched from other replicas, and of what is read for them: a sixteenth each, and never more than keeps one busy.
pub(crate) fn sync_bytes_max(memory: &impl Memory) -> usize {
    (memory.total_bytes() / 16).min(SYNC_BYTES_MAX)
}

/// What a connection's gets may hold where all may take `left` bytes more.
pub(crate) fn get_part(left: usize) -> usize {
    (left / GET_PART).min(LINK_GET_BYTES_MAX as usize)
}

/// Whether so many bytes can go to a connection without touching what is kept for the store.
pub(crate) fn spares(bytes: usize, memory: &impl Memory) -> bool {
    memory.free_bytes() >= bytes + memory.total_bytes() / 8
}

/// Bytes of the slot that a chunk takes.
pub(crate) fn slot_bytes(length: u32) -> usize {
    (length as usize).next_power_of_two().max(BLOCK_BYTES)
}

/// Bytes of the blocks that so many bytes take: of tiny chunks, far more than the bytes.
pub(crate) fn block_bytes(bytes: u32) -> usize {
    (bytes as usize).next_multiple_of(BLOCK_BYTES)
}

#[cfg(test)]
pub(crate) mod tests {
    use journal::fake_disk::FakeMemory;

    use super::*;

    const MIB: usize = 1 << 20;

    fn memory() -> FakeMemory {
        let mut memory = FakeMemory::default();
        memory.limit_bytes = 64 * MIB;
        memory
    }

    /// R38: however many chunks wait for stores behind this one, those that wait for fewer, and at last for this disk alone, are taken.
    #[test]
    pub(crate) fn the_last_of_a_chain_always_have_room() {
        let kinds = [(HopClass::Client, true), (HopClass::Middle, true), (HopClass::Tail, false)];
        let mut shares = Shares::default();
        for kind in kinds {
            let mut taken = 0;
            // Each on a connection of its own.
            while shares.admits_put(0, MIB, kind, &memory()) {
                shares.puts += MIB;
                taken += 1;
            }
            assert!(taken >= 8, "{kind:?}: {taken}");
        }
        assert_eq!(shares.puts, 40 * MIB);
    }

    /// What is fetched, and read for others, is a sixteenth of the arena each, whatever clients do.
    #[test]
    fn other_replicas_have_a_share_of_their_own() {
        let mut shares = Shares { gets: 24 * MIB, ..Shares::default() };
        assert_eq!((shares.gets_left(&memory()), shares.fetched_left(&memory())), (0, 4 * MIB));
        *shares.read_for(true) += 3 * MIB;
        assert_eq!((shares.gets, shares.fetched_left(&memory())), (24 * MIB, MIB));
    }
}
