//! Puts: a chunk arrives in fragments, each verified by its leaves, and goes to the store whole (R39).
//!
//! ```text
//!   PutChunk ──► Receiving ──(last fragment verified)──► Storing ──(durable here and behind)──► acked
//!                   │ Abort, connection gone, bad bytes,     │ store or successor refuses
//!                   │ too slow, successor refuses            │
//!                   └──────────────► forgotten ◄─────────────┘
//! ```
//! Fragments go on to the successor as they are verified ([`relay`](crate::relay)). The epoch is checked at admission, when the store says durable, and when the ack
//! leaves (R1).

use wire::checksum::{self, BlockHasher};
use wire::limits::{BLOCK_BYTES, FRAGMENT_UNIT_BYTES, LEAVES_MAX};
use wire::message::{HopClass, PutChunk, Reply};
use wire::{ChunkId, Epoch, Memory, Nanos, Slot, Status, StoreId};

use crate::effects::Link;
use crate::relay::Relay;
use crate::reply::Caller;

/// Puts of all connections under way; beyond it `Busy`.
pub(crate) const PUTS_MAX: usize = 4096;

/// A chunk's fragments arrive within this and the time that its bytes take at the slowest rate (R39), as long as one frame's payload
/// may take.
const ARRIVAL_NANOS: u64 = 5 * Nanos::SECOND;
/// The slowest rate at which a chunk may arrive, per second.
const ARRIVAL_RATE_BYTES_MIN: u64 = 64 << 10;
/// A chunk that arrives isn't called slow before.
const GRACE_NANOS: u64 = Nanos::SECOND;

/// One put.
#[derive(Debug)]
pub(crate) struct Put {
    pub(crate) link: Link,
    pub(crate) correlation: u64,
    pub(crate) id: ChunkId,
    pub(crate) epoch: Epoch,
    /// Whose buffers it takes.
    pub(crate) class: HopClass,
    pub(crate) root: u64,
    pub(crate) length: u32,
    /// Verified bytes from the front: the watermark.
    pub(crate) received: u32,
    pub(crate) stage: Stage,
    /// When it began to arrive.
    pub(crate) since: Nanos,
    /// When all of it had arrived.
    pub(crate) whole_at: Nanos,
    /// What the store said.
    pub(crate) local: Option<Status>,
    /// What goes on to the chain's next store; `None` at the tail.
    pub(crate) relay: Option<Relay>,
    /// Raised whenever the place is used again.
    generation: u32,
    /// One for each block; its memory is reused by the next put in this place.
    pub(crate) leaves: Vec<u64>,
}

/// How far a put is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// The place in the table is free.
    Free,
    /// Fragments arrive into this slot.
    Receiving(Slot),
    /// The store has it.
    Storing(Slot),
    /// The connection is gone while the store had it: the slot is given back when the store is done, nobody is told.
    Abandoned(Slot),
}

/// All puts under way; places are reused with their memory.
#[derive(Debug, Default)]
pub(crate) struct Puts {
    entries: Vec<Put>,
    free: Vec<u32>,
}

impl Puts {
    pub(crate) fn len(&self) -> usize {
        self.entries.len() - self.free.len()
    }

    pub(crate) fn at(&mut self, index: u32) -> &mut Put {
        &mut self.entries[index as usize]
    }

    /// The put in this place, if there is one.
    pub(crate) fn find(&mut self, index: u32) -> Option<&mut Put> {
        self.entries.get_mut(index as usize).filter(|put| put.stage != Stage::Free)
    }

    /// Places, free ones too.
    pub(crate) fn places(&self) -> u32 {
        u32::try_from(self.entries.len()).expect("fewer than PUTS_MAX")
    }

    /// A put that isn't whole and should be by now.
    pub(crate) fn overdue(&self, now: Nanos) -> Option<u32> {
        let late = |put: &Put| put.is_arriving() && now.since(put.since) >= arrival_time(put.length);
        self.entries.iter().position(late).map(|index| u32::try_from(index).expect("fewer than PUTS_MAX"))
    }

    /// Whether one isn't whole yet, or waits for its successor.
    pub(crate) fn any_waits(&self) -> bool {
        let waits = |put: &Put| put.relay.is_some_and(|relay| relay.outcome.is_none());
        self.entries.iter().any(|put| put.is_arriving() || put.stage != Stage::Free && waits(put))
    }

    /// The put that arrives most slowly of those that have had a while.
    pub(crate) fn slowest(&self, now: Nanos) -> Option<u32> {
        let age = |put: &Put| now.since(put.since);
        let rate = |put: &Put| u64::from(put.received) * Nanos::SECOND / age(put).max(1);
        let slow = (0..)
            .zip(&self.entries)
            .filter(|(_, put)| put.is_arriving() && age(put) >= GRACE_NANOS)
            .min_by_key(|(_, put)| rate(put));
        slow.map(|(index, _)| index)
    }

    /// Begins a put whose head was checked.
    pub(crate) fn begin(
        &mut self,
        now: Nanos,
        caller: Caller,
        head: &PutChunk<'_>,
        slot: Slot,
        successor: Option<(StoreId, HopClass)>,
    ) -> u32 {
        let index = self.free.pop().unwrap_or_else(|| {
            let index = u32::try_from(self.entries.len()).expect("fewer than PUTS_MAX");
            self.entries.push(Put::unused());
            index
        });
        let put = self.at(index);
        assert_eq!(put.stage, Stage::Free);
        put.link = caller.link;
        put.correlation = caller.correlation;
        put.id = head.id;
        put.epoch = head.epoch;
        put.class = head.class;
        put.root = head.root;
        put.length = head.length;
        put.received = 0;
        put.since = now;
        put.whole_at = now;
        put.local = None;
        put.generation = put.generation.wrapping_add(1).max(1); // correlation id 0 is `Hello`'s
        put.relay = successor.map(|(to, class)| Relay::new(to, class, index, put.generation));
        put.stage = Stage::Receiving(slot);
        put.leaves.clear();
        put.leaves.extend(head.leaves.iter());
        index
    }

    /// Frees a place; the caller has given the slot back.
    pub(crate) fn end(&mut self, index: u32) {
        self.at(index).stage = Stage::Free;
        self.free.push(index);
    }
}

impl Put {
    fn unused() -> Self {
        Self {
            link: Link(0),
            correlation: 0,
            id: ChunkId::default(),
            epoch: Epoch(0),
            class: HopClass::Client,
            root: 0,
            length: 0,
            received: 0,
            since: Nanos(0),
            whole_at: Nanos(0),
            local: None,
            relay: None,
            generation: 0,
            stage: Stage::Free,
            leaves: Vec::new(),
        }
    }

    fn is_arriving(&self) -> bool {
        matches!(self.stage, Stage::Receiving(_))
    }

    /// Whether a fragment of `bytes` at `offset` is the next one and has a legal length (R39).
    pub(crate) fn expects(&self, offset: u32, bytes: u32) -> bool {
        let Some(end) = offset.checked_add(bytes) else {
            return false;
        };
        let is_last = end == self.length;
        offset == self.received
            && bytes > 0
            && end <= self.length
            && (is_last || (bytes as usize).is_multiple_of(FRAGMENT_UNIT_BYTES))
    }

    /// Verifies the fragment that has arrived behind the watermark by its leaves, and moves the watermark.
    pub(crate) fn accept(&mut self, hasher: &BlockHasher, bytes: u32, memory: &impl Memory) -> bool {
        let Stage::Receiving(slot) = self.stage else {
            return false;
        };
        let (start, end) = (self.received as usize, self.received as usize + bytes as usize);
        let first = start / BLOCK_BYTES;
        let leaves = &self.leaves[first..checksum::leaf_count(end)];
        let matches = hasher.matches(first, &memory.bytes(slot)[start..end], leaves);
        if matches {
            self.received += bytes;
        }
        matches
    }

    pub(crate) fn is_whole(&self) -> bool {
        self.received == self.length
    }
}

fn arrival_time(length: u32) -> u64 {
    ARRIVAL_NANOS + u64::from(length) * Nanos::SECOND / ARRIVAL_RATE_BYTES_MIN
}

/// Whether leaves, length and root of a put belong together: checked before any payload is used (R36).
pub(crate) fn head_verifies(head: &PutChunk<'_>) -> Result<(), Status> {
    let mut leaves = [0; LEAVES_MAX];
    let count = checksum::leaf_count(head.length as usize);
    if head.leaves.len() != count || count == 0 || count > LEAVES_MAX {
        return Err(Status::BadRequest);
    }
    head.leaves.copy_to(&mut leaves);
    if checksum::root(&leaves[..count], head.length as usize) == head.root {
        Ok(())
    } else {
        Err(Status::ChecksumMismatch)
    }
}

/// The ack of a put.
pub(crate) fn acked(map: wire::MapNumber) -> Reply<'static> {
    Reply::PutChunk { map }
}
