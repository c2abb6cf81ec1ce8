//! The conversation with the store: what it is asked, and its answers turned into frames.

use journal::{IoOutcome, IoToken};
use store::{Effect, Event, GotChunk, Store};
use wire::message::{ChunkIds, Reply, StoreCondition};
use wire::planted::{Bug, planted};
use wire::{ChunkId, Incarnation, Memory, Nanos, Slot, Status};

use crate::effects::Effects;
use crate::get::{Found, send_found};
use crate::put::Stage;
use crate::reply::Caller;
use crate::shard::Shard;
use crate::shares::block_bytes;

/// Whose answer it is: the top byte of the tokens that the store gives back.
const TOKEN_PUT: u64 = 1 << 56;
const TOKEN_GET: u64 = 2 << 56;
const TOKEN_CALL: u64 = 3 << 56;
const TOKEN_FETCH: u64 = 4 << 56;
const TOKEN_LOOK: u64 = 5 << 56;
const TOKEN_SWEEP: u64 = 6 << 56;
const TOKEN_KIND: u64 = 0xff << 56;

/// Requests of the metadata group that the store is busy with; beyond it `Busy`.
const CALLS_MAX: usize = 64;

/// Deletes and inventories under way; a place in the table is the store's token.
#[derive(Debug, Default)]
pub(crate) struct Calls {
    entries: Vec<Option<Caller>>,
    free: Vec<u32>,
}

impl Calls {
    fn begin(&mut self, caller: Caller) -> Option<u64> {
        if let Some(index) = self.free.pop() {
            self.entries[index as usize] = Some(caller);
            return Some(u64::from(index));
        }
        if self.entries.len() >= CALLS_MAX {
            return None;
        }
        self.entries.push(Some(caller));
        Some(self.entries.len() as u64 - 1)
    }

    fn end(&mut self, index: u32) -> Caller {
        self.free.push(index);
        self.entries[index as usize].take().expect("a token is answered once")
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len() - self.free.len()
    }
}

impl Shard {
    /// The store begins to open, or to format. The first event of all.
    pub fn on_start(&mut self, now: Nanos, memory: &mut impl Memory, effects: &mut Effects) {
        self.ask(now, Event::Start, memory, effects);
    }

    /// One of the store's I/O requests ended.
    pub fn on_io(
        &mut self,
        now: Nanos,
        io: IoToken,
        outcome: IoOutcome,
        memory: &mut impl Memory,
        effects: &mut Effects,
    ) {
        self.ask(now, Event::IoDone { io, outcome }, memory, effects);
    }

    /// No further event is at hand: what has gathered is committed as one batch.
    pub fn on_turn(&mut self, now: Nanos, memory: &mut impl Memory, effects: &mut Effects) {
        while let Some(link) = self.kicked.pop() {
            self.on_sent(now, link, 0, memory, effects);
        }
        self.advance_sync(now, memory, effects);
        self.ask(now, Event::Submit, memory, effects);
    }

    /// A deadline has come.
    pub fn on_tick(&mut self, now: Nanos, memory: &mut impl Memory, effects: &mut Effects) {
        if self.store_due.is_some_and(|at| at <= now) {
            self.store_due = None;
            self.ask(now, Event::Tick, memory, effects);
        }
        if self.arrivals_due.is_some_and(|at| at <= now) {
            self.fail_slow_puts(now, memory, effects);
        }
        self.advance_sync(now, memory, effects);
        // The driver has one deadline and has forgotten it.
        for at in [self.store_due, self.arrivals_due, self.sync.due].into_iter().flatten() {
            effects.want_tick(at);
        }
    }

    /// Everything that was accepted is finished, then the store checkpoints and ends ([`Effects::shut_down`]).
    pub fn on_shutdown(&mut self, now: Nanos, memory: &mut impl Memory, effects: &mut Effects) {
        self.draining = true;
        self.ending = true;
        self.abandon_fetches(memory);
        self.ask(now, Event::Shutdown, memory, effects);
    }

    /// The lives before the present one that the store remembers, oldest first ([`Store::lives`]).
    pub fn lives(&self) -> &[Incarnation] {
        self.store.lives()
    }

    /// Whether the store's recovery, now or before, cut a tail that may have been acked (R7, [`Store::recovered_cut`]).
    pub fn recovered_cut(&self) -> bool {
        self.store.recovered_cut()
    }

    /// Whether the store was found without batches that were durable, now or before (R8, [`Store::lacks`]).
    pub fn lacks(&self) -> bool {
        self.store.lacks()
    }

    /// Control has accepted this life of the store: it forgets those before. Passed over unless the store serves; written with the turn's end.
    pub fn on_accepted(
        &mut self,
        now: Nanos,
        incarnation: Incarnation,
        memory: &mut impl Memory,
        effects: &mut Effects,
    ) {
        self.tell(now, |store, _, answers| store.on_accepted(now, incarnation, answers), memory, effects);
    }

    /// All members that the store has are Serving again: it forgets that something was cut or lost. Passed over unless the store serves; written with
    /// the turn's end.
    pub fn on_whole(&mut self, now: Nanos, memory: &mut impl Memory, effects: &mut Effects) {
        self.tell(now, |store, _, answers| store.on_whole(now, answers), memory, effects);
    }

    /// The store begins a pass of scrubbing.
    #[cfg(test)]
    pub(crate) fn scrub(&mut self, now: Nanos, memory: &mut impl Memory, effects: &mut Effects) {
        let control = store::ScrubControl::Start { bytes_per_second: 1 << 30 };
        self.ask(now, Event::Scrub(control), memory, effects);
    }

    pub(crate) fn store_put(
        &mut self,
        now: Nanos,
        index: u32,
        memory: &mut impl Memory,
        effects: &mut Effects,
    ) {
        let put = self.puts.at(index);
        let Stage::Receiving(slot) = put.stage else {
            unreachable!("a whole chunk was being received");
        };
        put.stage = Stage::Storing(slot);
        let (id, length, root) = (put.id, put.length, put.root);
        let leaves = std::mem::take(&mut put.leaves);
        if planted(Bug::ShardAcksRepeatsAlone)
            && self.store.find(id).is_some()
            && let Some(relay) = &mut self.puts.at(index).relay
        {
            relay.outcome = Some(Status::Ok);
        }
        let token = TOKEN_PUT | u64::from(index);
        self.ask(now, Event::Put { token, id, length, root, leaves: &leaves, slot }, memory, effects);
        self.puts.at(index).leaves = leaves;
    }

    pub(crate) fn store_get(
        &mut self,
        now: Nanos,
        index: u32,
        id: ChunkId,
        blocks: std::ops::Range<u32>,
        memory: &mut impl Memory,
        effects: &mut Effects,
    ) {
        let token = TOKEN_GET | u64::from(index);
        let whole = self.store.find(id).map_or(0, |entry| wire::checksum::leaf_count(entry.length as usize));
        let event = if self.gets.is_replica(index) && blocks.len() == whole {
            Event::Fetch { token, id }
        } else {
            Event::Get { token, id, blocks, whole: false }
        };
        self.ask(now, event, memory, effects);
    }

    /// A fetched chunk, verified; `replaces` what is here under its id.
    pub(crate) fn store_fetch(
        &mut self,
        now: Nanos,
        index: u32,
        (id, length, root, leaves): (ChunkId, u32, u64, &[u64]),
        (slot, replaces): (Slot, bool),
        memory: &mut impl Memory,
        effects: &mut Effects,
    ) {
        let token = TOKEN_FETCH | u64::from(index);
        let event = if replaces {
            Event::Replace { token, id, length, root, leaves, slot }
        } else {
            Event::Put { token, id, length, root, leaves, slot }
        };
        self.ask(now, event, memory, effects);
    }

    /// Looks whether the own copy of a chunk is good.
    pub(crate) fn store_look(
        &mut self,
        now: Nanos,
        id: ChunkId,
        memory: &mut impl Memory,
        effects: &mut Effects,
    ) {
        self.ask(now, Event::Fetch { token: TOKEN_LOOK, id }, memory, effects);
    }

    /// Deletes dead chunks that only this store held.
    pub(crate) fn store_sweep(
        &mut self,
        now: Nanos,
        ids: &[ChunkId],
        memory: &mut impl Memory,
        effects: &mut Effects,
    ) {
        self.ask(now, Event::Delete { token: TOKEN_SWEEP, ids }, memory, effects);
    }

    pub(crate) fn store_delete(
        &mut self,
        now: Nanos,
        caller: Caller,
        ids: &[ChunkId],
        memory: &mut impl Memory,
        effects: &mut Effects,
    ) {
        match self.calls.begin(caller) {
            Some(index) => self.ask(now, Event::Delete { token: TOKEN_CALL | index, ids }, memory, effects),
            None => self.refuse(caller, Status::Busy, effects),
        }
    }

    pub(crate) fn store_inventory(
        &mut self,
        now: Nanos,
        caller: Caller,
        after: Option<ChunkId>,
        limit: u32,
        memory: &mut impl Memory,
        effects: &mut Effects,
    ) {
        match self.calls.begin(caller) {
            Some(index) => {
                self.ask(now, Event::Inventory { token: TOKEN_CALL | index, after, limit }, memory, effects);
            }
            None => self.refuse(caller, Status::Busy, effects),
        }
    }

    /// Hands the store an event and carries its answers on.
    fn ask(&mut self, now: Nanos, event: Event<'_>, memory: &mut impl Memory, effects: &mut Effects) {
        self.tell(now, |store, memory, answers| store.handle(now, event, memory, answers), memory, effects);
    }

    fn tell<M: Memory>(
        &mut self,
        now: Nanos,
        what: impl FnOnce(&mut Store, &mut M, &mut store::Effects),
        memory: &mut M,
        effects: &mut Effects,
    ) {
        let mut answers = std::mem::take(&mut self.scratch);
        answers.clear();
        what(&mut self.store, memory, &mut answers);
        effects.io.take_over(&answers.io);
        for effect in &answers.list {
            match *effect {
                Effect::Arm(at) => {
                    self.store_due = Some(self.store_due.map_or(at, |known| known.min(at)));
                    effects.want_tick(at);
                }
                Effect::Opened => {
                    self.condition = StoreCondition::Serving;
                    self.sync.wake();
                    effects.opened = true;
                }
                Effect::OpenFailed => effects.open_failed = true,
                Effect::Fenced => {
                    self.condition = StoreCondition::Fenced;
                    effects.fenced = true;
                    // Of a store that fails while it ends nothing more is to be waited for.
                    effects.shut_down |= self.ending;
                }
                Effect::ShutDown => effects.shut_down = true,
                Effect::Damaged { id } => {
                    effects.damaged.push(id);
                    if self.has_others() {
                        self.sync.repairs.add_damaged(now, id);
                        self.sync.wake();
                    }
                }
                Effect::Done { token, status } => self.on_done(now, token, status, memory, effects),
                Effect::Got(got) => self.on_got(now, &got, &answers, memory, effects),
                Effect::Listed { token, chunks, end } => {
                    let chunks =
                        &answers.chunks[chunks.start as usize..(chunks.start + chunks.count) as usize];
                    let ids: Vec<ChunkId> = chunks.iter().map(|chunk| chunk.id).collect();
                    let caller = self.calls.end(index_of(token));
                    self.replier.send(caller, &Reply::Inventory { ids: ChunkIds::new(&ids), end }, effects);
                }
            }
        }
        self.scratch = answers;
    }

    fn on_done(
        &mut self,
        now: Nanos,
        token: u64,
        status: Status,
        memory: &mut impl Memory,
        effects: &mut Effects,
    ) {
        match token & TOKEN_KIND {
            TOKEN_PUT => {
                self.note_put(now, index_of(token));
                self.finish_put(index_of(token), status, memory, effects);
            }
            TOKEN_GET => self.fail_get(index_of(token), status, effects),
            TOKEN_FETCH => self.finish_fetch(now, index_of(token), status, memory),
            TOKEN_LOOK => self.sync.looks -= 1,
            // What it couldn't delete the next comparison finds again.
            TOKEN_SWEEP => {}
            _ => {
                let caller = self.calls.end(index_of(token));
                match status {
                    Status::Ok => self.replier.send(caller, &Reply::DeleteChunks, effects),
                    status => self.refuse(caller, status, effects),
                }
            }
        }
    }

    /// How long a client's chunk took from its last byte until it was durable here: what clients wait for a busy disk.
    fn note_put(&mut self, now: Nanos, index: u32) {
        let whole_at = self.puts.at(index).whole_at;
        self.note_foreground(now.since(whole_at));
    }

    /// A client's request took so long here.
    fn note_foreground(&mut self, nanoseconds: u64) {
        self.sync.pace.note_foreground(nanoseconds);
        self.sync.source_pace.note_foreground(nanoseconds);
    }

    fn on_got(
        &mut self,
        now: Nanos,
        got: &GotChunk,
        answers: &store::Effects,
        memory: &mut impl Memory,
        effects: &mut Effects,
    ) {
        if got.token == TOKEN_LOOK {
            self.sync.looks -= 1;
            memory.release(got.slot);
            return;
        }
        let get = self.gets.end(index_of(got.token));
        let Some(caller) = get.caller else {
            *self.shares.read_for(get.is_replica) -= block_bytes(get.bytes);
            memory.release(got.slot);
            return;
        };
        let proof = &answers.words[got.proof.start as usize..(got.proof.start + got.proof.count) as usize];
        let found = Found {
            slot: got.slot,
            slot_offset: got.slot_offset,
            offset: got.first_block * BLOCK,
            bytes: (got.blocks * BLOCK).min(got.length - got.first_block * BLOCK),
            chunk_length: got.length,
            proof,
        };
        assert_eq!(found.bytes, get.bytes, "the store reads what was asked for");
        self.counters.gets += 1;
        self.counters.get_bytes += u64::from(found.bytes);
        if !get.is_replica {
            self.note_service_time(now.since(get.since));
            self.note_foreground(now.since(get.since));
        }
        send_found(&mut self.replier, caller, &found, memory, effects);
    }
}

const BLOCK: u32 = 4096;
const _: () = assert!(BLOCK as usize == wire::limits::BLOCK_BYTES);

fn index_of(token: u64) -> u32 {
    u32::try_from(token & !TOKEN_KIND).expect("tables are smaller than 2^32")
}
