//! Fetching: a whole chunk from another store, verified before it is stored (R9).
//!
//! ```text
//!  wanted ─► asked for ─(all parts are here)─► verified ─► storing ─► stored
//!               │ refused, connection gone        │ other bytes      │ deleted meanwhile, no space
//!               └──────────────► ended, with what is to be done next ◄┘
//! ```
//! **Invariant:** a chunk that was deleted since it was asked for isn't stored, whatever the order of the two (R23).

use std::collections::BTreeMap;

use wire::checksum::{self, BlockHasher, leaf_count};
use wire::limits::LEAVES_MAX;
use wire::message::{ChunkPart, ChunkRecord, GetChunk, Request};
use wire::planted::{Bug, planted};
use wire::{ChunkId, Memory, Nanos, Prefix, Slot, Status, StoreId};

use super::ask::Asked;
use super::job::JobKey;
use crate::effects::{CloseReason, Effects, Link, Placement, Purpose, Target};
use crate::shard::Shard;
use crate::shares::{slot_bytes, spares, sync_bytes_max};

/// Chunks that are fetched at once.
pub(crate) const FETCHES_MAX: usize = 16;

/// On whose behalf a chunk is fetched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Why {
    /// A comparison found that it is missing or differs here; with the job's serial number, and the sources that couldn't supply it.
    Job(JobKey, u64, u8),
    /// It is damaged here, or was missing everywhere.
    Repair,
    /// Another replica offered it.
    Offer,
}

/// What came of a fetch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fetched {
    /// It is here, durably; or it is dead.
    Settled,
    /// That store can't supply it: its copy is damaged.
    Unusable,
    /// Not now.
    Later,
}

/// Why a chunk isn't asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NotBegun {
    /// A limit is reached, or the connection isn't greeted yet.
    Later,
    /// The other store can't be reached.
    Unreachable,
}

/// One fetch.
#[derive(Debug)]
pub(crate) struct Fetch {
    pub(crate) record: ChunkRecord,
    pub(crate) from: StoreId,
    pub(crate) why: Why,
    slot: Slot,
    received: u32,
    /// The store has it.
    is_storing: bool,
    /// A delete came since it was asked for.
    is_dead: bool,
}

/// A part of a chunk on its way in.
#[derive(Clone, Copy, Debug)]
struct Part {
    /// The fetch, and the correlation id that it was asked under.
    index: u32,
    correlation: u64,
    bytes: u32,
    more: bool,
}

/// All fetches under way; a place in the table is the store's token.
#[derive(Debug, Default)]
pub(crate) struct Fetches {
    entries: Vec<Option<Fetch>>,
    arriving: BTreeMap<Link, Part>,
    /// Of their slots.
    bytes: usize,
}

impl Fetches {
    pub(crate) fn len(&self) -> usize {
        self.entries.iter().flatten().count()
    }

    pub(crate) fn has(&self, id: ChunkId) -> bool {
        self.entries.iter().flatten().any(|fetch| fetch.record.id == id)
    }

    /// A delete came: what is fetched under this id isn't stored.
    pub(crate) fn mark_dead(&mut self, id: ChunkId) {
        for fetch in self.entries.iter_mut().flatten().filter(|fetch| fetch.record.id == id) {
            fetch.is_dead = true;
        }
    }

    /// Whether one more chunk may be fetched.
    pub(crate) fn has_room(&self, length: u32, memory: &impl Memory) -> bool {
        let bytes = slot_bytes(length);
        // The only one may be larger than the share.
        let fits = self.bytes == 0 || self.bytes + bytes <= sync_bytes_max(memory);
        self.len() < FETCHES_MAX && fits && spares(bytes, memory)
    }

    fn insert(&mut self, fetch: Fetch) -> u32 {
        self.bytes += slot_bytes(fetch.record.length);
        let free = self.entries.iter().position(Option::is_none);
        let index = free.unwrap_or_else(|| {
            self.entries.push(None);
            self.entries.len() - 1
        });
        self.entries[index] = Some(fetch);
        u32::try_from(index).expect("few")
    }

    fn at(&mut self, index: u32) -> Option<&mut Fetch> {
        self.entries.get_mut(index as usize)?.as_mut()
    }

    fn take(&mut self, index: u32) -> Option<Fetch> {
        let fetch = self.entries.get_mut(index as usize)?.take()?;
        self.bytes -= slot_bytes(fetch.record.length);
        self.arriving.retain(|_, part| part.index != index);
        Some(fetch)
    }
}

impl Shard {
    /// Asks for a chunk. `from` is dialled where it isn't connected.
    pub(crate) fn begin_fetch(
        &mut self,
        now: Nanos,
        record: ChunkRecord,
        from: StoreId,
        why: Why,
        memory: &mut impl Memory,
        effects: &mut Effects,
    ) -> Result<(), NotBegun> {
        let soon = now.after(super::RETRY_NANOS);
        if self.draining {
            return Err(NotBegun::Later);
        }
        let target = Target { store: from, purpose: Purpose::Sync };
        if self.reach(now, target, effects).is_err() {
            self.sync.want(soon);
            return Err(NotBegun::Unreachable);
        }
        let is_free = !self.sync.fetches.has(record.id) && self.sync.fetches.has_room(record.length, memory);
        if !is_free || self.peers.greeted(target).is_none() {
            self.sync.want(soon);
            return Err(NotBegun::Later);
        }
        if let Err(at) = self.sync.pace.admits(now) {
            self.sync.want(at);
            return Err(NotBegun::Later);
        }
        let Some(slot) = memory.allocate(record.length as usize) else {
            self.sync.want(soon);
            return Err(NotBegun::Later);
        };
        self.sync.pace.spend(u64::from(record.length));
        let fetch = Fetch { record, from, why, slot, received: 0, is_storing: false, is_dead: false };
        let index = self.sync.fetches.insert(fetch);
        let get = GetChunk { id: record.id, first_block: 0, block_count: 0 };
        self.ask_peer(now, target, &Request::GetChunk(get), Asked::Fetch(index), effects);
        Ok(())
    }

    /// A part's head has arrived: where its payload goes.
    pub(crate) fn on_part(
        &mut self,
        now: Nanos,
        link: Link,
        prefix: &Prefix,
        (index, part): (u32, &ChunkPart<'_>),
        memory: &mut impl Memory,
    ) -> Placement {
        let Some(fetch) = self.sync.fetches.at(index) else {
            return Placement::Discard;
        };
        let fits = part.length == fetch.record.length
            && part.offset == fetch.received
            && prefix.payload_bytes > 0
            && prefix.payload_bytes <= fetch.record.length - fetch.received
            && prefix.more == (fetch.received + prefix.payload_bytes < fetch.record.length);
        let (slot, offset) = (fetch.slot, fetch.received);
        if !fits {
            // Another length than it listed: its copy isn't what it says.
            self.sync.asks.remove(&prefix.correlation);
            self.end_fetch(now, index, Fetched::Unusable, memory);
            return Placement::Discard;
        }
        let arriving =
            Part { index, correlation: prefix.correlation, bytes: prefix.payload_bytes, more: prefix.more };
        self.sync.fetches.arriving.insert(link, arriving);
        Placement::Into { slot, offset }
    }

    /// The part's payload has arrived.
    pub(crate) fn on_part_payload(
        &mut self,
        now: Nanos,
        link: Link,
        memory: &mut impl Memory,
        effects: &mut Effects,
    ) {
        let Some(part) = self.sync.fetches.arriving.remove(&link) else { return };
        let Some(fetch) = self.sync.fetches.at(part.index) else { return };
        fetch.received += part.bytes;
        if part.more {
            return;
        }
        self.sync.asks.remove(&part.correlation);
        self.store_fetched(now, part.index, memory, effects);
    }

    /// All of a chunk is here: if it is what was listed, and still wanted, the store gets it.
    fn store_fetched(&mut self, now: Nanos, index: u32, memory: &mut impl Memory, effects: &mut Effects) {
        let cluster = self.identity.cluster;
        let Some(fetch) = self.sync.fetches.at(index) else { return };
        let (record, slot, why) = (fetch.record, fetch.slot, fetch.why);
        let is_dead = fetch.is_dead && !planted(Bug::SyncRevivesDead);
        let mut leaves = [0; LEAVES_MAX];
        let count = leaf_count(record.length as usize);
        let bytes = &memory.bytes(slot)[..record.length as usize];
        BlockHasher::new(cluster, record.id).leaves(0, bytes, &mut leaves);
        let root = checksum::root(&leaves[..count], record.length as usize);
        let root_fits = root == record.root || planted(Bug::SyncSkipsVerify);
        if is_dead || !root_fits {
            self.sync.counters.mismatches += u64::from(!root_fits);
            let end = if is_dead { Fetched::Settled } else { Fetched::Unusable };
            return self.end_fetch(now, index, end, memory);
        }
        let here = self.store.find(record.id);
        let is_same = here.is_some_and(|entry| (entry.length, entry.root) == (record.length, root));
        // Only a joiner takes another content than its own, and a Serving replica's at that (R3). What was deleted while it was mended stays so.
        let may_store = match why {
            Why::Job((_, None), ..) => true,
            Why::Job((_, Some(_)), ..) | Why::Offer => here.is_none() || is_same,
            Why::Repair => is_same || here.is_none() && self.sync.repairs.is_missing(record.id),
        };
        if !may_store {
            return self.end_fetch(now, index, Fetched::Settled, memory);
        }
        if let Some(fetch) = self.sync.fetches.at(index) {
            fetch.is_storing = true;
        }
        let chunk = (record.id, record.length, root, &leaves[..count]);
        self.store_fetch(now, index, chunk, (slot, here.is_some()), memory, effects);
    }

    /// The store has answered a fetched chunk.
    pub(crate) fn finish_fetch(&mut self, now: Nanos, index: u32, status: Status, memory: &mut impl Memory) {
        let end = match status {
            Status::Ok => {
                let length = self.sync.fetches.at(index).map_or(0, |fetch| fetch.record.length);
                self.sync.counters.chunks += 1;
                self.sync.counters.bytes += u64::from(length);
                Fetched::Settled
            }
            Status::NotFound => Fetched::Settled,
            // Other bytes came here down the chain meanwhile, which the source refuses: the next attempt replaces them.
            _ => Fetched::Later,
        };
        self.end_fetch(now, index, end, memory);
    }

    /// The other store has refused, or its connection is gone.
    pub(crate) fn refuse_fetch(&mut self, now: Nanos, index: u32, status: Status, memory: &mut impl Memory) {
        let end = match status {
            // It was deleted there since it was listed; the delete comes here as well, or has come.
            Status::NotFound | Status::WrongShard => Fetched::Settled,
            Status::ChecksumMismatch | Status::StoreFailed => Fetched::Unusable,
            _ => Fetched::Later,
        };
        self.end_fetch(now, index, end, memory);
    }

    fn end_fetch(&mut self, now: Nanos, index: u32, end: Fetched, memory: &mut impl Memory) {
        let Some(fetch) = self.sync.fetches.take(index) else { return };
        memory.release(fetch.slot);
        self.sync.wake();
        match fetch.why {
            Why::Job(key, serial, tried) => self.on_job_fetched(now, key, serial, (&fetch, tried), end),
            Why::Repair => self.sync.repairs.on_fetched(now, fetch.record.id, end),
            Why::Offer => self.on_offer_fetched(&fetch, end),
        }
    }

    /// Nothing more is fetched: the buffers of what hasn't arrived are given back.
    pub(crate) fn abandon_fetches(&mut self, memory: &mut impl Memory) {
        for index in 0..u32::try_from(self.sync.fetches.entries.len()).expect("few") {
            if self.sync.fetches.at(index).is_some_and(|fetch| !fetch.is_storing)
                && let Some(fetch) = self.sync.fetches.take(index)
            {
                memory.release(fetch.slot);
            }
        }
        self.sync.asks.retain(|_, ask| !matches!(ask.asked, Asked::Fetch(_)));
    }

    /// A connection ended while a part came over it.
    pub(crate) fn forget_part(&mut self, link: Link) {
        self.sync.fetches.arriving.remove(&link);
    }

    /// A reply that doesn't answer what was asked.
    pub(crate) fn wrong_reply() -> Placement {
        Placement::Close(CloseReason::Protocol)
    }
}
