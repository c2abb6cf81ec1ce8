//! A test double for tests and the simulator: a disk with a volatile cache, an arena, and a random generator. Pure: no I/O.
//!
//! The disk keeps what was flushed, and every write since. A crash keeps any subset of the 4,096-byte sectors of those writes, so writes
//! are lost, reordered and torn; a sector is written whole or not at all. The file's growth is lost likewise. Faults are switched on from outside.

use std::collections::{BTreeMap, BTreeSet};

use wire::limits::BLOCK_BYTES;
use wire::{ClusterId, Memory, NodeId, Slot, StoreId};

use crate::device::Format;
use crate::io::{IoEffects, IoFailure, IoOutcome, IoRequest, IoToken, Part};
use crate::layout::Geometry;
use crate::superblock::Identity;

/// What tests format: unit 0 of node 1, with secrets that are always the same.
pub fn format_of(cluster: ClusterId, store: StoreId, segment_bytes: u32) -> Format {
    Format {
        identity: Identity { cluster, store, node: NodeId(1), unit: 0 },
        geometry: Geometry::new(segment_bytes).expect("a test chooses a legal size"),
        secret: 0x5eed,
        index_key: 0xfeed,
    }
}

/// xorshift64*, seeded: the same seed, the same run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Random(u64);

impl Random {
    /// The generator of `seed`.
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// The next 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number below `bound`, which is not 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.bits() % bound
    }

    /// True in `percent` of 100 calls.
    pub fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}

/// Faults that the disk is asked to make.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Faults {
    /// Of 10,000 reads, these many fail.
    pub read_errors: u64,
    /// Of 10,000 writes.
    pub write_errors: u64,
    /// Of 10,000 flushes.
    pub flush_errors: u64,
    /// Of 10,000 allocations, these many find no room.
    pub allocate_errors: u64,
    /// Of 10,000 writes, these many are answered and dropped.
    pub lost_writes: u64,
    /// Of 10,000 writes, these many go to another place.
    pub misdirected_writes: u64,
}

/// What the disk was asked, for tests that gate it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct DiskCounters {
    /// Bytes read.
    pub read_bytes: u64,
    /// Bytes written, zeros ahead of use not counted.
    pub write_bytes: u64,
    /// Write requests.
    pub writes: u64,
    /// Flushes.
    pub flushes: u64,
    /// Lost or misdirected writes, and failures, that were made.
    pub faults: u64,
    /// Of them: failed reads.
    pub failed_reads: u64,
    /// Failed writes.
    pub failed_writes: u64,
    /// Failed flushes.
    pub failed_flushes: u64,
    /// Allocations that found no room.
    pub failed_allocations: u64,
    /// Writes that were answered and dropped.
    pub lost_writes: u64,
    /// Writes that went to another place.
    pub misdirected_writes: u64,
    /// Sectors that crashes dropped.
    pub dropped_sectors: u64,
    /// Crashes that kept one of two sectors written since the last flush.
    pub torn_crashes: u64,
    /// Crashes that kept a sector and dropped one written before it.
    pub reordered_crashes: u64,
}

type Sector = [u8; BLOCK_BYTES];

/// The disk. Sectors that were never written read as zeros.
#[derive(Clone, Debug)]
pub struct FakeDisk {
    length: u64,
    /// Growth may be lost by a crash until it is flushed.
    durable_length: u64,
    durable: BTreeMap<u64, Box<Sector>>,
    /// Writes since the last flush, in order.
    volatile: Vec<(u64, Box<Sector>)>,
    /// Requests that were asked and not yet answered, with the writes' bytes.
    pending: Vec<Pending>,
    /// Sectors that can't be read.
    bad: BTreeSet<u64>,
    random: Random,
    /// Switched on and off by the test.
    pub faults: Faults,
    /// What was asked.
    pub counters: DiskCounters,
    /// Requests are answered in random order instead of the order of asking.
    pub reorders: bool,
    /// The file can't grow beyond this.
    pub capacity: u64,
}

#[derive(Clone, Debug)]
struct Pending {
    request: IoRequest,
    data: Vec<u8>,
    parts: Vec<Part>,
}

impl Pending {
    /// Gives back the references that the driver holds.
    fn release<M: Memory>(&self, memory: &mut M) {
        if let IoRequest::Read { slot, .. } = self.request {
            memory.release(slot);
        }
        for part in &self.parts {
            memory.release(part.slot);
        }
    }
}

fn gather<M: Memory>(parts: &[Part], memory: &M) -> Vec<u8> {
    let mut data = Vec::new();
    for part in parts {
        let from = part.offset as usize;
        data.extend_from_slice(&memory.bytes(part.slot)[from..from + part.length as usize]);
    }
    data
}

impl FakeDisk {
    /// An empty file.
    pub fn new(seed: u64) -> Self {
        Self {
            length: 0,
            durable_length: 0,
            durable: BTreeMap::new(),
            volatile: Vec::new(),
            pending: Vec::new(),
            bad: BTreeSet::new(),
            random: Random::new(seed),
            faults: Faults::default(),
            counters: DiskCounters::default(),
            reorders: false,
            capacity: u64::MAX,
        }
    }

    /// The file's length.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// Takes in what `effects` asks for. A buffer that is being written and changes before the answer is a bug that is noticed.
    pub fn submit<M: Memory>(&mut self, effects: &IoEffects, memory: &mut M) {
        for request in &effects.requests {
            let (mut data, mut parts) = (Vec::new(), Vec::new());
            match request {
                // The driver's own reference, while the I/O is in flight.
                IoRequest::Write { parts: range, .. } => {
                    parts.extend_from_slice(effects.parts_of(*range));
                    for part in &parts {
                        memory.retain(part.slot);
                    }
                    data = gather(&parts, memory);
                }
                IoRequest::Read { slot, .. } => memory.retain(*slot),
                _ => {}
            }
            self.pending.push(Pending { request: *request, data, parts });
        }
    }

    /// Requests not yet answered.
    pub fn pending(&self) -> usize {
        self.pending.len()
    }

    /// Whether a flush waits for its answer.
    pub fn has_pending_flush(&self) -> bool {
        self.pending.iter().any(|pending| matches!(pending.request, IoRequest::Flush { .. }))
    }

    /// Executes one request and returns its answer.
    pub fn complete<M: Memory>(&mut self, memory: &mut M) -> Option<(IoToken, IoOutcome)> {
        if self.pending.is_empty() {
            return None;
        }
        let at = if self.reorders {
            usize::try_from(self.random.below(self.pending.len() as u64)).expect("an index")
        } else {
            0
        };
        let pending = self.pending.remove(at);
        assert!(gather(&pending.parts, memory) == pending.data, "a buffer changed while it was written");
        let answer = self.execute(&pending, memory);
        pending.release(memory);
        Some(answer)
    }

    fn execute<M: Memory>(&mut self, pending: &Pending, memory: &mut M) -> (IoToken, IoOutcome) {
        match pending.request {
            IoRequest::Read { io, offset, slot, slot_offset, length, .. } => {
                (io, self.read(offset, slot, slot_offset, length, memory))
            }
            IoRequest::Write { io, offset, .. } => (io, self.write(offset, &pending.data)),
            IoRequest::Flush { io } => (io, self.flush()),
            IoRequest::Allocate { io, offset, length } => (io, self.allocate(offset + length)),
            IoRequest::Zero { io, offset, length } => {
                for sector in offset / BLOCK..(offset + length) / BLOCK {
                    self.volatile.push((sector, Box::new([0; BLOCK_BYTES])));
                }
                (io, IoOutcome::Done)
            }
        }
    }

    fn strikes(&mut self, of_10_000: u64, counter: fn(&mut DiskCounters) -> &mut u64) -> bool {
        let strikes = of_10_000 > 0 && self.random.below(10_000) < of_10_000;
        self.counters.faults += u64::from(strikes);
        *counter(&mut self.counters) += u64::from(strikes);
        strikes
    }

    fn read<M: Memory>(
        &mut self,
        offset: u64,
        slot: Slot,
        slot_offset: u32,
        length: u32,
        memory: &mut M,
    ) -> IoOutcome {
        assert!(offset.is_multiple_of(BLOCK) && u64::from(length).is_multiple_of(BLOCK), "aligned");
        assert!(offset + u64::from(length) <= self.length, "a read behind the end of the file");
        self.counters.read_bytes += u64::from(length);
        let sectors = offset / BLOCK..(offset + u64::from(length)) / BLOCK;
        if self.strikes(self.faults.read_errors, |of| &mut of.failed_reads)
            || self.bad.range(sectors.clone()).next().is_some()
        {
            return IoOutcome::Failed(IoFailure::Device);
        }
        let to = &mut memory.bytes_mut(slot)[slot_offset as usize..slot_offset as usize + length as usize];
        for (sector, to) in sectors.zip(to.chunks_exact_mut(BLOCK_BYTES)) {
            match self.sector(sector) {
                Some(bytes) => to.copy_from_slice(&bytes[..]),
                None => to.fill(0),
            }
        }
        IoOutcome::Done
    }

    fn sector(&self, sector: u64) -> Option<&Sector> {
        let volatile = self.volatile.iter().rev().find(|(at, _)| *at == sector).map(|(_, bytes)| &**bytes);
        volatile.or_else(|| self.durable.get(&sector).map(|bytes| &**bytes))
    }

    fn write(&mut self, offset: u64, data: &[u8]) -> IoOutcome {
        assert!(offset.is_multiple_of(BLOCK), "aligned");
        assert!(offset + data.len() as u64 <= self.length, "a write behind the end of the file");
        self.counters.writes += 1;
        self.counters.write_bytes += data.len() as u64;
        if self.strikes(self.faults.write_errors, |of| &mut of.failed_writes) {
            // Nobody knows how much of it went through.
            let half = data.len() / 2 / BLOCK_BYTES * BLOCK_BYTES;
            self.store(offset, &data[..half]);
            return IoOutcome::Failed(IoFailure::Device);
        }
        if self.strikes(self.faults.lost_writes, |of| &mut of.lost_writes) {
            return IoOutcome::Done;
        }
        let offset = if self.strikes(self.faults.misdirected_writes, |of| &mut of.misdirected_writes) {
            let room = (self.length - data.len() as u64) / BLOCK + 1;
            self.random.below(room) * BLOCK
        } else {
            offset
        };
        self.store(offset, data);
        IoOutcome::Done
    }

    fn store(&mut self, offset: u64, data: &[u8]) {
        for (sector, bytes) in (offset / BLOCK..).zip(data.chunks_exact(BLOCK_BYTES)) {
            self.bad.remove(&sector);
            self.volatile.push((sector, Box::new(bytes.try_into().expect("one sector"))));
        }
    }

    fn flush(&mut self) -> IoOutcome {
        self.counters.flushes += 1;
        if self.strikes(self.faults.flush_errors, |of| &mut of.failed_flushes) {
            return IoOutcome::Failed(IoFailure::Device);
        }
        for (sector, bytes) in self.volatile.drain(..) {
            self.durable.insert(sector, bytes);
        }
        self.durable_length = self.length;
        IoOutcome::Done
    }

    fn allocate(&mut self, length: u64) -> IoOutcome {
        let refuses = self.strikes(self.faults.allocate_errors, |of| &mut of.failed_allocations);
        if refuses || length > self.capacity {
            self.counters.failed_allocations += u64::from(!refuses);
            return IoOutcome::Failed(IoFailure::NoSpace);
        }
        self.length = self.length.max(length);
        IoOutcome::Done
    }

    /// The power fails: of the sectors written since the last flush, requests in flight included, any may have reached the medium.
    pub fn crash<M: Memory>(&mut self, memory: &mut M) {
        for pending in std::mem::take(&mut self.pending) {
            pending.release(memory);
            if let IoRequest::Write { offset, .. } = pending.request {
                self.store(offset, &pending.data);
            }
        }
        let keep_percent = [0, 10, 50, 90, 100][usize::try_from(self.random.below(5)).expect("below 5")];
        let (mut kept, mut dropped, mut reordered) = (0, 0, false);
        for (sector, bytes) in std::mem::take(&mut self.volatile) {
            if self.random.chance(keep_percent) {
                self.durable.insert(sector, bytes);
                kept += 1;
                reordered |= dropped > 0;
            } else {
                dropped += 1;
            }
        }
        self.counters.dropped_sectors += dropped;
        self.counters.torn_crashes += u64::from(kept > 0 && dropped > 0);
        self.counters.reordered_crashes += u64::from(reordered);
        if keep_percent < 50 {
            self.truncate(self.durable_length);
        }
    }

    /// The process is killed: what was answered is kept, what was in flight may be.
    pub fn kill<M: Memory>(&mut self, memory: &mut M) {
        for pending in std::mem::take(&mut self.pending) {
            pending.release(memory);
            match pending.request {
                IoRequest::Write { offset, .. } if self.random.chance(50) => {
                    self.store(offset, &pending.data);
                }
                _ => {}
            }
        }
        for (sector, bytes) in std::mem::take(&mut self.volatile) {
            self.durable.insert(sector, bytes);
        }
    }

    /// Flips one bit of the byte at `offset`, on the medium.
    pub fn flip(&mut self, offset: u64, bit: u32) {
        let sector = self.durable.entry(offset / BLOCK).or_insert_with(|| Box::new([0; BLOCK_BYTES]));
        let at = usize::try_from(offset % BLOCK).expect("below a block");
        sector[at] ^= 1 << (bit % 8);
    }

    /// The file loses its end.
    pub fn truncate(&mut self, length: u64) {
        (self.length, self.durable_length) = (length, length);
        self.durable.retain(|sector, _| sector * BLOCK < length);
    }

    /// The sector at `offset` can't be read any more, until it is written.
    pub fn break_sector(&mut self, offset: u64) {
        self.bad.insert(offset / BLOCK);
    }

    /// Bytes of the file as they would be read, for tests that look.
    pub fn peek(&self, offset: u64, length: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(length);
        while bytes.len() < length {
            let at = offset + bytes.len() as u64;
            let from = usize::try_from(at % BLOCK).expect("below a block");
            let to = BLOCK_BYTES.min(from + length - bytes.len());
            match self.sector(at / BLOCK) {
                Some(sector) => bytes.extend_from_slice(&sector[from..to]),
                None => bytes.resize(bytes.len() + to - from, 0),
            }
        }
        bytes
    }
}

const BLOCK: u64 = BLOCK_BYTES as u64;

/// An arena of vectors that checks what the real one's users owe: no use after release, everything released in the end.
#[derive(Clone, Debug, Default)]
pub struct FakeMemory {
    slots: Vec<FakeSlot>,
    /// `allocate` finds no room beyond this many bytes; 0 is no limit.
    pub limit_bytes: usize,
    used_bytes: usize,
}

#[derive(Clone, Debug, Default)]
struct FakeSlot {
    bytes: Vec<u8>,
    references: u32,
    generation: u32,
}

impl FakeMemory {
    /// Bytes of all slots in use.
    pub fn used_bytes(&self) -> usize {
        self.used_bytes
    }

    /// Forgets everything, as a process's end does.
    pub fn clear(&mut self) {
        for slot in &mut self.slots {
            if slot.references > 0 {
                slot.references = 0;
                slot.generation += 1;
            }
        }
        self.used_bytes = 0;
    }

    fn slot(&self, slot: Slot) -> &FakeSlot {
        let found = &self.slots[slot.index as usize];
        assert!(
            found.references > 0 && found.generation == slot.generation,
            "{slot:?} is used after release"
        );
        found
    }

    fn slot_mut(&mut self, slot: Slot) -> &mut FakeSlot {
        let found = &mut self.slots[slot.index as usize];
        assert!(
            found.references > 0 && found.generation == slot.generation,
            "{slot:?} is used after release"
        );
        found
    }
}

impl Memory for FakeMemory {
    fn allocate(&mut self, bytes: usize) -> Option<Slot> {
        let capacity = bytes.next_power_of_two().max(BLOCK_BYTES);
        if self.limit_bytes > 0 && self.used_bytes + capacity > self.limit_bytes {
            return None;
        }
        self.used_bytes += capacity;
        let free = |slot: &FakeSlot| slot.references == 0 && slot.bytes.len() == capacity;
        let index = self.slots.iter().position(free).unwrap_or_else(|| {
            self.slots.push(FakeSlot { bytes: vec![0xa5; capacity], ..FakeSlot::default() });
            self.slots.len() - 1
        });
        self.slots[index].references = 1;
        let index_u32 = u32::try_from(index).expect("few slots");
        Some(Slot { index: index_u32, generation: self.slots[index].generation })
    }

    fn total_bytes(&self) -> usize {
        if self.limit_bytes > 0 { self.limit_bytes } else { usize::MAX }
    }

    fn free_bytes(&self) -> usize {
        self.total_bytes().saturating_sub(self.used_bytes)
    }

    fn retain(&mut self, slot: Slot) {
        self.slot_mut(slot).references += 1;
    }

    fn release(&mut self, slot: Slot) {
        let found = self.slot_mut(slot);
        found.references -= 1;
        if found.references == 0 {
            found.generation += 1;
            let capacity = found.bytes.len();
            self.used_bytes -= capacity;
        }
    }

    fn bytes(&self, slot: Slot) -> &[u8] {
        &self.slot(slot).bytes
    }

    fn bytes_mut(&mut self, slot: Slot) -> &mut [u8] {
        &mut self.slot_mut(slot).bytes
    }
}
