//! The arena of one simulated process: vectors with generations and counts of references, and a limit.
//!
//! Every misuse is a panic with the slot's name: an old generation, a reference given back twice. [`SimMemory::leaks`] tells what was
//! never given back. Fresh buffers hold a pattern, not zeros, so that nobody can rely on them.

use wire::{Memory, Slot};

/// See the module.
#[derive(Debug)]
pub(crate) struct SimMemory {
    slots: Vec<Entry>,
    free: Vec<u32>,
    used_bytes: usize,
    limit_bytes: usize,
    #[cfg(test)]
    refused: u64,
}

#[derive(Debug)]
struct Entry {
    generation: u32,
    references: u32,
    bytes: Vec<u8>,
}

/// What fresh memory holds.
const STALE_BYTE: u8 = 0xa5;
/// All copies of a superblock.
const SUPERBLOCKS_BYTES: usize = journal::SUPERBLOCK_COPIES * journal::SUPERBLOCK_BYTES;
/// The smallest buffer.
const CAPACITY_MIN: usize = 4096;

impl SimMemory {
    /// An arena that hands out `limit_bytes` at most.
    pub(crate) fn new(limit_bytes: usize) -> Self {
        Self {
            slots: Vec::new(),
            free: Vec::new(),
            used_bytes: 0,
            limit_bytes,
            #[cfg(test)]
            refused: 0,
        }
    }

    /// Buffers that somebody still holds, with their count of references.
    pub(crate) fn leaks(&self) -> Vec<(u32, u32)> {
        (0..)
            .zip(&self.slots)
            .filter(|(_, entry)| entry.references > 0)
            .map(|(i, entry)| (i, entry.references))
            .collect()
    }

    /// What was never given back, but for the two buffers that a store's or log's device keeps as long as it lives: for its superblock, and
    /// for empty batches of its own.
    pub(crate) fn leaks_beside_devices_own(&self) -> Vec<(u32, u32)> {
        let mut leaks = self.leaks();
        for bytes in [SUPERBLOCKS_BYTES, CAPACITY_MIN] {
            if let Some(at) = leaks.iter().position(|(index, references)| {
                *references == 1 && self.slots[*index as usize].bytes.len() == bytes
            }) {
                leaks.remove(at);
            }
        }
        leaks
    }

    /// Bytes handed out.
    #[cfg(test)]
    pub(crate) fn used_bytes(&self) -> usize {
        self.used_bytes
    }

    /// Allocations that did not fit.
    #[cfg(test)]
    pub(crate) fn refused(&self) -> u64 {
        self.refused
    }

    fn live(&self, slot: Slot) -> &Entry {
        let entry = &self.slots[slot.index as usize];
        assert!(
            entry.references > 0 && entry.generation == slot.generation,
            "{slot:?} was used after its release"
        );
        entry
    }

    fn live_mut(&mut self, slot: Slot) -> &mut Entry {
        self.live(slot);
        &mut self.slots[slot.index as usize]
    }
}

impl Memory for SimMemory {
    fn allocate(&mut self, bytes: usize) -> Option<Slot> {
        let capacity = bytes.next_power_of_two().max(CAPACITY_MIN);
        if self.used_bytes + capacity > self.limit_bytes {
            #[cfg(test)]
            {
                self.refused += 1;
            }
            return None;
        }
        self.used_bytes += capacity;
        let index = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Entry { generation: 0, references: 0, bytes: Vec::new() });
            u32::try_from(self.slots.len() - 1).expect("far fewer slots than 2^32")
        });
        let entry = &mut self.slots[index as usize];
        assert_eq!(entry.references, 0, "a free slot has no reference");
        entry.references = 1;
        entry.bytes.clear();
        entry.bytes.resize(capacity, STALE_BYTE);
        Some(Slot { index, generation: entry.generation })
    }

    fn total_bytes(&self) -> usize {
        self.limit_bytes
    }

    fn free_bytes(&self) -> usize {
        self.limit_bytes - self.used_bytes
    }

    fn retain(&mut self, slot: Slot) {
        self.live_mut(slot).references += 1;
    }

    fn release(&mut self, slot: Slot) {
        let entry = self.live_mut(slot);
        entry.references -= 1;
        if entry.references == 0 {
            entry.generation += 1;
            // Whoever still looks at it sees that it is gone.
            let capacity = entry.bytes.len();
            entry.bytes.fill(STALE_BYTE);
            self.used_bytes -= capacity;
            self.free.push(slot.index);
        }
    }

    fn bytes(&self, slot: Slot) -> &[u8] {
        &self.live(slot).bytes
    }

    fn bytes_mut(&mut self, slot: Slot) -> &mut [u8] {
        &mut self.live_mut(slot).bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_returns_when_its_last_reference_does() {
        let mut memory = SimMemory::new(16 << 10);
        let slot = memory.allocate(5000).expect("8 KiB of 16");
        assert_eq!(memory.bytes(slot).len(), 8192);
        memory.retain(slot);
        memory.release(slot);
        assert_eq!(memory.leaks(), [(0, 1)]);
        assert!(memory.allocate(8193).is_none());
        memory.release(slot);
        assert_eq!((memory.leaks(), memory.used_bytes(), memory.refused()), (vec![], 0, 1));
        let again = memory.allocate(1).expect("empty");
        assert!(again.index == slot.index && again.generation != slot.generation);
    }

    #[test]
    #[should_panic(expected = "used after its release")]
    fn an_old_slot_is_noticed() {
        let mut memory = SimMemory::new(16 << 10);
        let slot = memory.allocate(1).expect("empty");
        memory.release(slot);
        memory.allocate(1).expect("empty again");
        memory.bytes(slot);
    }
}
