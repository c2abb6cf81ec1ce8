//! A simulated disk: the journal's fake disk, answered in virtual time, with a record of the damage that was done to it.

use std::collections::VecDeque;
use std::ops::Range;

use journal::fake_disk::{FakeDisk, Faults};
use journal::{IoEffects, IoOutcome, IoRequest, IoToken};
use wire::limits::BLOCK_BYTES;
use wire::{Memory, Nanos};

use crate::random::Random;
use crate::report::Tally;

/// What was done to a disk, beyond what every disk does to what was not flushed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Injected {
    /// Bits flipped on the medium.
    pub flips: u64,
    /// Sectors made unreadable.
    pub broken: u64,
    /// Writes lost or misdirected, and requests failed.
    pub faults: u64,
    /// Power cuts.
    pub cuts: u64,
    /// Kills.
    pub kills: u64,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct SimDisk {
    /// The medium and its cache.
    pub fake: FakeDisk,
    random: Random,
    /// Times a request takes longer than usual.
    pub slowness: u64,
    injected: Injected,
    /// Where was written lately, and when: damage there may look like a torn tail, which nobody can tell apart (R29).
    fresh: VecDeque<Fresh>,
    /// Of a metadata log's disk: the newest batch that isn't fresh.
    witness: Option<Range<u64>>,
    keeps_witness: bool,
    /// The last batches that were submitted.
    batches: VecDeque<Batch>,
    was_full: bool,
    loses: bool,
}

/// A batch as it was submitted.
#[derive(Debug)]
struct Batch {
    at: Nanos,
    offset: u64,
    /// Its descriptor's first block.
    descriptor: Vec<u8>,
}

/// A write of late.
#[derive(Clone, Debug)]
struct Fresh {
    at: Nanos,
    place: Range<u64>,
    /// It begins with a batch, not with a superblock or a page.
    is_batch: bool,
}

/// What a batch begins with.
const BATCH_MAGIC: &[u8] = b"CATBATCH";
/// So many batches in a row aren't lost.
const BATCHES_MAX: usize = 64;
/// Damage that was written this long ago is decidable: an idle log writes an empty batch within 100 ms (R29).
const DECIDABLE: u64 = 500 * Nanos::MILLISECOND;

impl SimDisk {
    /// An empty disk.
    pub(crate) fn new(seed: u64, name: &str) -> Self {
        let mut random = Random::stream(seed, name);
        let mut fake = FakeDisk::new(random.next());
        fake.reorders = true;
        Self {
            fake,
            random,
            slowness: 1,
            injected: Injected::default(),
            fresh: VecDeque::new(),
            witness: None,
            keeps_witness: false,
            batches: VecDeque::new(),
            was_full: false,
            loses: false,
        }
    }

    /// A metadata log's. What says that a batch was durable is whatever follows it (R29), so a log whose batches are rotten from some batch to the last can't
    /// be told from one that ended before; rotten as a whole it is empty. Such a log may lose what it acknowledged and open: its newest batch is left whole,
    /// however long nobody mends the rest, and then all other damage has to be told.
    pub(crate) fn of_log(seed: u64, name: &str) -> Self {
        Self { keeps_witness: true, ..Self::new(seed, name) }
    }

    /// Takes requests in; for each one the delay after which some request is answered.
    pub(crate) fn submit(&mut self, now: Nanos, io: &IoEffects, memory: &mut impl Memory) -> Vec<u64> {
        self.fake.submit(io, memory);
        self.age(now);
        for request in &io.requests {
            if let IoRequest::Write { offset, length, parts, .. } = *request {
                let first = io.parts_of(parts).first();
                let first = first.map(|part| &memory.bytes(part.slot)[part.offset as usize..]);
                let first = first.filter(|bytes| bytes.starts_with(BATCH_MAGIC));
                let is_batch = first.is_some();
                if let Some(bytes) = first {
                    self.batches.push_back(Batch {
                        at: now,
                        offset,
                        descriptor: bytes[..BLOCK_BYTES].to_vec(),
                    });
                    if self.batches.len() > BATCHES_MAX {
                        self.batches.pop_front();
                    }
                }
                let place = offset..offset + u64::from(length);
                self.fresh.push_back(Fresh { at: now, place, is_batch });
            }
        }
        io.requests.iter().map(|request| self.random.latency(typical(request)) * self.slowness).collect()
    }

    /// When the newest batch was submitted whose descriptor lies where it belongs: it says that what was acknowledged before was durable (R29).
    pub(crate) fn newest_batch(&self) -> Option<Nanos> {
        let is_there = |batch: &&Batch| self.fake.peek(batch.offset, BLOCK_BYTES) == batch.descriptor;
        self.batches.iter().rev().find(is_there).map(|batch| batch.at)
    }

    /// What was fresh is no longer.
    fn age(&mut self, now: Nanos) {
        while self.fresh.front().is_some_and(|fresh| now.since(fresh.at) > DECIDABLE) {
            let old = self.fresh.pop_front().expect("there is a front");
            if old.is_batch && self.keeps_witness {
                self.witness = Some(old.place);
            }
        }
    }

    /// Answers one of the requests.
    pub(crate) fn complete(&mut self, memory: &mut impl Memory) -> Option<(IoToken, IoOutcome)> {
        self.fake.complete(memory)
    }

    /// The power fails: any subset of the sectors that were not flushed is kept.
    pub(crate) fn cut(&mut self, memory: &mut impl Memory) {
        self.injected.cuts += 1;
        self.fake.crash(memory);
    }

    /// The process dies: its requests in flight may still be done.
    pub(crate) fn kill(&mut self, memory: &mut impl Memory) {
        self.injected.kills += 1;
        self.fake.kill(memory);
    }

    /// Its process ends, by the power or alone.
    pub(crate) fn end(&mut self, by_power: bool, memory: &mut impl Memory) {
        if by_power { self.cut(memory) } else { self.kill(memory) }
    }

    /// Damages a random place; says where, if a few tries find one.
    pub(crate) fn damage(&mut self, breaks: bool, now: Nanos) -> Option<u64> {
        if breaks { self.break_sector(now) } else { self.flip(now) }
    }

    /// Flips a random bit of what was written.
    fn flip(&mut self, now: Nanos) -> Option<u64> {
        let offset = self.place(now)?;
        let bit = u32::try_from(self.random.below(8)).expect("below 8");
        self.fake.flip(offset, bit);
        self.injected.flips += 1;
        Some(offset)
    }

    /// Makes a random sector unreadable.
    fn break_sector(&mut self, now: Nanos) -> Option<u64> {
        let offset = self.place(now)?;
        self.fake.break_sector(offset);
        self.injected.broken += 1;
        Some(offset)
    }

    /// A byte of a sector that holds something and was not written just now, if a few tries find one.
    fn place(&mut self, now: Nanos) -> Option<u64> {
        self.age(now);
        let length = self.fake.length().max(1);
        (0..64).find_map(|_| {
            let offset = self.random.below(length);
            let sector = offset / 4096 * 4096;
            let mut kept = self.fresh.iter().map(|fresh| &fresh.place).chain(&self.witness);
            let is_kept = kept.any(|place| place.contains(&sector));
            let is_written = self.fake.peek(sector, 64).iter().any(|byte| *byte != 0);
            (!is_kept && is_written).then_some(offset)
        })
    }

    /// What was done to it.
    pub(crate) fn injected(&self) -> Injected {
        Injected { faults: self.fake.counters.faults, ..self.injected }
    }

    /// The file system is full from now on, until it is healed.
    pub(crate) fn fill(&mut self) {
        self.fake.capacity = self.fake.length();
        self.was_full = true;
    }

    /// Whether it ever did anything but lose what was not flushed.
    pub(crate) fn was_faulty(&self) -> bool {
        self.is_damaged() || self.was_full || self.injected().faults > 0
    }

    /// Writes are lost and misdirected from now on, these many of 10,000 each.
    pub(crate) fn lose(&mut self, lost_writes: u64, misdirected_writes: u64) {
        self.fake.faults = Faults { lost_writes, misdirected_writes, ..Faults::default() };
        self.loses = true;
    }

    /// Whether bytes may have been lost or changed on the medium, which in a chain of one nobody can mend.
    pub(crate) fn is_damaged(&self) -> bool {
        self.loses || self.injected.flips + self.injected.broken > 0
    }

    /// Adds what was done to it, and what came of that.
    pub(crate) fn tally(&self, tally: &mut Tally) {
        let (injected, of) = (self.injected(), self.fake.counters);
        for (row, column, count) in [
            ("disk", "bits flipped", injected.flips),
            ("disk", "reads failed", of.failed_reads),
            ("disk", "writes failed", of.failed_writes),
            ("disk", "flushes failed", of.failed_flushes),
            ("disk", "power cuts", injected.cuts),
            ("disk", "kills", injected.kills),
            ("disk", "sectors dropped", of.dropped_sectors),
            ("disk", "torn cuts", of.torn_crashes),
            ("disk", "reordered cuts", of.reordered_crashes),
            ("disk", "writes", of.writes),
            ("disk", "flushes", of.flushes),
            ("medium", "sectors broken", injected.broken),
            ("medium", "allocations refused", of.failed_allocations),
            ("medium", "writes lost", of.lost_writes),
            ("medium", "writes misdirected", of.misdirected_writes),
        ] {
            tally.add(row, column, count);
        }
    }

    /// From now on everything works.
    pub(crate) fn heal(&mut self) {
        self.fake.faults = Faults::default();
        self.fake.capacity = u64::MAX;
        self.slowness = 1;
    }
}

fn typical(request: &IoRequest) -> u64 {
    const KIBIBYTE: u64 = 300;
    let transfer = |length: u64| length / 1024 * KIBIBYTE;
    match request {
        IoRequest::Read { length, .. } => 60 * Nanos::MICROSECOND + transfer(u64::from(*length)),
        IoRequest::Write { length, .. } => 30 * Nanos::MICROSECOND + transfer(u64::from(*length)),
        IoRequest::Flush { .. } => 400 * Nanos::MICROSECOND,
        IoRequest::Allocate { .. } => 100 * Nanos::MICROSECOND,
        IoRequest::Zero { length, .. } => 50 * Nanos::MICROSECOND + transfer(*length) / 8,
    }
}
