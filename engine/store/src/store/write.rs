//! Puts, deletes and cleaning's moves: they queue, gather into batches, and are answered in the order of the batches.
//!
//! A batch is sealed when nothing is in flight and no more is about to come ([`journal::Gather`]), so a lone put never waits; while one is, what arrives
//! gathers, unless it is large enough to be worth a batch of its own. `pending` knows the last thing that was accepted and isn't durable for each id.

use std::collections::{BTreeMap, VecDeque};

use journal::batch::HEADER_BYTES;
use journal::entry::{ENTRY_BYTES, Entry, EntryKind, leaf_words, payload_blocks};
use journal::{Burden, DESCRIPTOR_BYTES_MAX, Draft, Part, Place, Room};
use wire::checksum::{leaf_count, root};
use wire::limits::{BLOCK_BYTES, CHUNK_BYTES_MAX, MESSAGE_CHUNKS_MAX};
use wire::planted::{Bug, planted};
use wire::{ChunkId, Memory, Nanos, Slot, Status};

use super::{Stage, Store, applied, release_all};
use crate::api::{Effect, Effects};

/// Entries of a batch.
const BATCH_ENTRIES_MAX: usize = 1024;
/// Payloads of a batch: one gathered write takes at most 1,024 pieces.
const BATCH_PAYLOADS_MAX: usize = 512;
/// Puts, deletes and moves that wait for a batch; `Busy` beyond.
const QUEUE_MAX: usize = 8192;
/// Repeated puts that wait for the first one; `Busy` beyond.
const WAITERS_MAX: usize = 1024;
/// Gathered bytes that are worth a batch although another one is in flight.
const EAGER_BATCH_BLOCKS: u64 = (512 << 10) / BLOCK_BYTES as u64;

/// Number of a put, delete or move, in the order of arrival.
type Serial = u64;

/// A chunk to store.
pub(super) struct NewChunk<'a> {
    pub(super) id: ChunkId,
    pub(super) length: u32,
    pub(super) root: u64,
    pub(super) leaves: &'a [u64],
    pub(super) slot: Slot,
    /// It may take the place of other bytes.
    pub(super) replaces: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Queued {
    id: ChunkId,
    pub(super) kind: EntryKind,
    root: u64,
    pub(super) length: u32,
    pub(super) slot: Option<Slot>,
    pub(super) token: Option<u64>,
    serial: Serial,
}

impl Queued {
    pub(super) fn blocks(&self) -> u32 {
        payload_blocks(self.length)
    }

    fn leaf_words(&self) -> usize {
        if self.slot.is_some() { leaf_words(self.length) } else { 0 }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Operation {
    entry: Entry,
    token: Option<u64>,
    serial: Serial,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Batch {
    sequence: u64,
    place: Place,
    operations: Vec<Operation>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Pending {
    serial: Serial,
    /// Length and root of a put; `None` of a tombstone.
    content: Option<(u32, u64)>,
}

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Writes {
    queue: VecDeque<Queued>,
    /// The queued chunks' leaf tables, in the queue's order.
    leaves: VecDeque<u64>,
    queued_blocks: u64,
    pending: BTreeMap<ChunkId, Pending>,
    /// Repeated puts: what they repeat, and their own token.
    waiters: Vec<(ChunkId, Serial, u64)>,
    last_serial: Serial,
    in_flight: VecDeque<Batch>,
    spare: Vec<Vec<Operation>>,
    parts: Vec<Part>,
}

/// What is done about a put.
enum Admission {
    /// It is written.
    Write,
    /// Its answer follows another put's of the same chunk.
    Wait,
    /// It is answered at once.
    Answer(Status),
}

/// What fits into the next batch.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Plan {
    /// Of the queue's front.
    taken: usize,
    entries: usize,
    payloads: usize,
    leaf_words: usize,
    payload_blocks: u32,
}

impl Plan {
    /// Whether it takes nothing of the queue.
    pub(super) fn is_empty(&self) -> bool {
        self.taken == 0
    }

    /// Entries of the batch; 0 where all that is taken is stale.
    pub(super) fn entries(&self) -> usize {
        self.entries
    }

    /// Of these, those with a chunk's bytes.
    pub(super) fn payloads(&self) -> usize {
        self.payloads
    }

    fn body_bytes(&self) -> usize {
        self.entries * ENTRY_BYTES + self.leaf_words * 8
    }

    fn descriptor_bytes(&self) -> usize {
        (HEADER_BYTES + self.body_bytes()).next_multiple_of(BLOCK_BYTES)
    }

    pub(super) fn blocks(&self) -> u32 {
        u32::try_from(self.descriptor_bytes() / BLOCK_BYTES).expect("at most 16") + self.payload_blocks
    }
}

impl Writes {
    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.queue.len()
    }

    pub(super) fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    pub(super) fn queued_blocks(&self) -> u64 {
        self.queued_blocks
    }

    pub(super) fn is_large(&self) -> bool {
        self.queued_blocks >= EAGER_BATCH_BLOCKS
    }

    /// Whether anything not yet durable concerns the chunk.
    pub(super) fn is_pending(&self, id: ChunkId) -> bool {
        self.pending.contains_key(&id)
    }

    /// What the plan takes.
    pub(super) fn planned(&self, plan: &Plan) -> impl Iterator<Item = &Queued> {
        self.queue.iter().take(plan.taken)
    }

    /// The whole queue, to be put back as far as it stays.
    pub(super) fn take_queue(&mut self) -> VecDeque<Queued> {
        self.leaves.clear();
        self.queued_blocks = 0;
        std::mem::take(&mut self.queue)
    }

    /// Tombstones have neither leaves nor blocks.
    pub(super) fn put_back_tombstones(&mut self, tombstones: VecDeque<Queued>) {
        assert!(self.queue.is_empty(), "the queue was taken");
        self.queue = tombstones;
    }

    /// A put that was taken out of the queue isn't pending any more; returns who waited for it.
    pub(super) fn forget_put(&mut self, put: &Queued) -> Vec<u64> {
        if self.pending.get(&put.id).is_some_and(|last| last.serial == put.serial) {
            self.pending.remove(&put.id);
        }
        let waits = |(id, repeats, _): &(ChunkId, Serial, u64)| (*id, *repeats) == (put.id, put.serial);
        let waiting =
            self.waiters.iter().filter(|waiter| waits(waiter)).map(|(_, _, token)| *token).collect();
        self.waiters.retain(|waiter| !waits(waiter));
        waiting
    }

    fn enqueue(&mut self, mut queued: Queued, leaves: &[u64]) {
        self.last_serial += 1;
        queued.serial = self.last_serial;
        self.queued_blocks += u64::from(queued.blocks());
        let count = queued.leaf_words();
        self.leaves.extend(&leaves[..count]);
        let content = match queued.kind {
            EntryKind::Put => Some((queued.length, queued.root)),
            EntryKind::Tombstone => None,
            EntryKind::Move(_) => {
                self.queue.push_back(queued);
                return;
            }
        };
        self.pending.insert(queued.id, Pending { serial: queued.serial, content });
        self.queue.push_back(queued);
    }
}

impl Store {
    pub(super) fn on_put<M: Memory>(
        &mut self,
        now: Nanos,
        token: u64,
        put: &NewChunk<'_>,
        memory: &mut M,
        effects: &mut Effects,
    ) {
        match self.admit_put(now, token, put) {
            Admission::Write => {}
            Admission::Wait => return,
            Admission::Answer(status) => {
                effects.list.push(Effect::Done { token, status });
                return;
            }
        }
        memory.retain(put.slot);
        let (length, padded) = (put.length as usize, payload_blocks(put.length) as usize * BLOCK_BYTES);
        memory.bytes_mut(put.slot)[length..padded].fill(0);
        let queued = Queued {
            id: put.id,
            kind: EntryKind::Put,
            root: put.root,
            length: put.length,
            slot: Some(put.slot),
            token: Some(token),
            serial: 0,
        };
        self.writes.enqueue(queued, put.leaves);
        if self.device.in_flight() > 0 && self.writes.is_large() {
            self.seal_batches(now, memory, effects);
        }
    }

    fn admit_put(&mut self, now: Nanos, token: u64, put: &NewChunk<'_>) -> Admission {
        match self.stage {
            Stage::Serving => {}
            Stage::Fenced => return Admission::Answer(Status::StoreFailed),
            _ => return Admission::Answer(Status::NotServing),
        }
        let is_well_formed = (1..=CHUNK_BYTES_MAX).contains(&put.length)
            && put.leaves.len() == leaf_count(put.length as usize)
            && root(put.leaves, put.length as usize) == put.root;
        if !is_well_formed {
            return Admission::Answer(Status::BadRequest);
        }
        let content = (put.length, put.root);
        let is_damaged = self.index.is_damaged(put.id);
        let here = match self.writes.pending.get(&put.id) {
            Some(Pending { content: None, .. }) => None,
            Some(Pending { content: Some(pending), serial }) => Some((*pending, Some(*serial))),
            None => self.index.find(put.id).map(|entry| ((entry.length, entry.root), None)),
        };
        match here {
            // Dead is for ever (R23): what is deleted, or about to be, isn't brought back.
            None if put.replaces && !planted(Bug::SyncRevivesDead) => {
                return Admission::Answer(Status::NotFound);
            }
            // The copy at a Serving replica is the one that was acked (R3). One on its way here is somebody else's to settle.
            Some((other, None)) if put.replaces && other != content => {}
            Some((other, Some(_))) if put.replaces && other != content => {
                return Admission::Answer(Status::Busy);
            }
            // I1, R4: another content is refused, counted, and an alarm.
            Some((other, _)) if other != content => {
                self.metrics.puts_conflicting += 1;
                return Admission::Answer(Status::AlreadyExists);
            }
            // A copy known to be damaged is replaced by this one.
            Some((_, None)) if is_damaged => {}
            Some((_, None)) => {
                self.metrics.puts_repeated += 1;
                return Admission::Answer(Status::Ok);
            }
            // R4: the copy's own share is met only once it is durable.
            Some((_, Some(repeats))) if self.writes.waiters.len() < WAITERS_MAX => {
                self.metrics.puts_repeated += 1;
                self.writes.waiters.push((put.id, repeats, token));
                return Admission::Wait;
            }
            Some((_, Some(_))) => return Admission::Answer(Status::Busy),
            None => {}
        }
        let alone = Plan {
            taken: 1,
            entries: 1,
            payloads: 1,
            leaf_words: leaf_words(put.length),
            payload_blocks: payload_blocks(put.length),
        };
        if alone.blocks() > self.device.geometry().batch_blocks_max() {
            return Admission::Answer(Status::TooLarge);
        }
        if self.writes.queue.len() >= QUEUE_MAX {
            return Admission::Answer(Status::Busy);
        }
        self.refuse_for_space(now, payload_blocks(put.length)).map_or(Admission::Write, Admission::Answer)
    }

    pub(super) fn on_delete(&mut self, token: u64, ids: &[ChunkId], effects: &mut Effects) {
        let status = match self.stage {
            Stage::Serving if ids.len() > MESSAGE_CHUNKS_MAX => Some(Status::BadRequest),
            Stage::Serving if self.writes.queue.len() + ids.len() > QUEUE_MAX => Some(Status::Busy),
            Stage::Serving if self.device.is_stuck() => Some(Status::NoSpace),
            Stage::Serving => None,
            Stage::Fenced => Some(Status::StoreFailed),
            _ => Some(Status::NotServing),
        };
        if let Some(status) = status {
            effects.list.push(Effect::Done { token, status });
            return;
        }
        let mut is_any_queued = false;
        for &id in ids {
            // A tombstone that isn't durable yet is repeated: the answer has to follow one that is.
            if !self.writes.is_pending(id) && self.index.find(id).is_none() {
                continue;
            }
            let queued = Queued {
                id,
                kind: EntryKind::Tombstone,
                root: 0,
                length: 0,
                slot: None,
                token: None,
                serial: 0,
            };
            self.writes.enqueue(queued, &[]);
            is_any_queued = true;
        }
        if is_any_queued {
            // Batches become durable in order: the last tombstone's stands for all.
            self.writes.queue.back_mut().expect("just queued").token = Some(token);
        } else {
            effects.list.push(Effect::Done { token, status: Status::Ok });
        }
    }

    /// Cleaning's copy of a live chunk; the slot's reference passes to the store.
    pub(super) fn enqueue_move(&mut self, moved: &super::IndexEntry, slot: Slot, leaves: &[u64]) {
        let queued = Queued {
            id: moved.id,
            kind: EntryKind::Move(moved.place),
            root: moved.root,
            length: moved.length,
            slot: Some(slot),
            token: None,
            serial: 0,
        };
        self.writes.enqueue(queued, leaves);
    }

    /// R32: a move whose chunk died, is about to die, or lies elsewhere by now isn't written.
    pub(super) fn is_stale(&self, queued: &Queued) -> bool {
        match queued.kind {
            EntryKind::Move(from) => {
                self.writes.is_pending(queued.id)
                    || self.index.find(queued.id).is_none_or(|entry| entry.place != from)
            }
            _ => false,
        }
    }

    /// What fits into a batch, of the queue's front as long as it is `wanted`.
    pub(super) fn plan_batch(&self, wanted: impl Fn(&Queued) -> bool) -> Plan {
        let mut plan = Plan::default();
        for queued in self.writes.queue.iter().take_while(|queued| wanted(queued)) {
            let mut more = plan;
            more.taken += 1;
            if !self.is_stale(queued) {
                more.entries += 1;
                more.payloads += usize::from(queued.slot.is_some());
                more.leaf_words += queued.leaf_words();
                more.payload_blocks += queued.blocks();
            }
            let fits = more.entries <= BATCH_ENTRIES_MAX
                && more.payloads <= BATCH_PAYLOADS_MAX
                && more.descriptor_bytes() <= DESCRIPTOR_BYTES_MAX as usize
                && more.blocks() <= self.device.geometry().batch_blocks_max();
            if !fits {
                break;
            }
            plan = more;
        }
        plan
    }

    /// Writes what has gathered, as far as the window allows.
    pub(super) fn seal_batches<M: Memory>(&mut self, now: Nanos, memory: &mut M, effects: &mut Effects) {
        while !self.writes.queue.is_empty()
            && matches!(self.stage, Stage::Serving | Stage::Closing)
            && (self.writes.is_large() || self.is_worth_a_batch(now))
        {
            let plan = self.plan_batch(|_| true);
            assert!(plan.taken > 0, "each chunk was checked to fit a batch alone");
            let Some(plan) = self.fit(plan) else { break };
            if !self.seal_batch(now, &plan, memory, effects) {
                break;
            }
        }
    }

    /// Whether a batch of less than [`EAGER_BATCH_BLOCKS`] is to be sealed now.
    fn is_worth_a_batch(&mut self, now: Nanos) -> bool {
        self.device.in_flight() == 0
            && !self.moves_gather()
            && (self.stage == Stage::Closing || self.gather.is_due(now, self.writes.queue.len() as u64))
    }

    /// Whether only moves are queued and more of them are being read: they wait for each other, nobody waits for them.
    fn moves_gather(&self) -> bool {
        self.cleaner.is_reading() && self.writes.pending.is_empty()
    }

    fn seal_batch<M: Memory>(
        &mut self,
        now: Nanos,
        plan: &Plan,
        memory: &mut M,
        effects: &mut Effects,
    ) -> bool {
        let Some(descriptor) = memory.allocate(plan.descriptor_bytes()) else { return false };
        let mut operations = self.writes.spare.pop().unwrap_or_default();
        self.writes.parts.clear();
        let mut entry_at = HEADER_BYTES;
        let mut leaf_at = HEADER_BYTES + plan.entries * ENTRY_BYTES;
        let mut block = u32::try_from(plan.descriptor_bytes() / BLOCK_BYTES).expect("at most 16");
        for _ in 0..plan.taken {
            let is_stale = self.is_stale(self.writes.queue.front().expect("planned"));
            let queued = self.writes.queue.pop_front().expect("planned");
            self.writes.queued_blocks -= u64::from(queued.blocks());
            let words = self.writes.leaves.drain(..queued.leaf_words());
            if is_stale {
                drop(words);
                release_all(queued.slot, memory);
                self.cleaner.on_move_ended(queued.length);
                continue;
            }
            let bytes = memory.bytes_mut(descriptor);
            let leaf_word = if words.len() == 0 { 0 } else { u32::try_from(leaf_at / 8).expect("small") };
            for word in words {
                bytes[leaf_at..leaf_at + 8].copy_from_slice(&word.to_le_bytes());
                leaf_at += 8;
            }
            let entry = Entry {
                id: queued.id,
                kind: queued.kind,
                root: queued.root,
                length: queued.length,
                payload_block: if queued.slot.is_some() { block } else { 0 },
                leaf_word,
            };
            entry.encode(&mut bytes[entry_at..entry_at + ENTRY_BYTES]);
            entry_at += ENTRY_BYTES;
            if let Some(slot) = queued.slot {
                let length = queued.blocks() * u32::try_from(BLOCK_BYTES).expect("4096");
                self.writes.parts.push(Part { slot, offset: 0, length });
                block += queued.blocks();
            }
            operations.push(Operation { entry, token: queued.token, serial: queued.serial });
        }
        if operations.is_empty() {
            memory.release(descriptor);
            self.writes.spare.push(operations);
            return true;
        }
        let draft = Draft {
            descriptor,
            body_bytes: u32::try_from(plan.body_bytes()).expect("at most a descriptor"),
            entries: u32::try_from(operations.len()).expect("at most 1,024"),
            first_index: 0,
            payload: &self.writes.parts,
        };
        let appended = self.device.append(draft, memory, &mut effects.io);
        let batch = Batch { sequence: appended.sequence, place: appended.place, operations };
        self.gather.on_sealed(now, batch.sequence, batch.operations.len() as u64);
        self.writes.in_flight.push_back(batch);
        true
    }

    /// R29: says durably that the last acknowledged batch is durable.
    pub(super) fn append_empty_batch<M: Memory>(
        &mut self,
        now: Nanos,
        memory: &mut M,
        effects: &mut Effects,
    ) {
        if !self.writes.queue.is_empty() || self.device.room(1, Burden::Neutral) != Room::Ready {
            return;
        }
        let Some(descriptor) = memory.allocate(BLOCK_BYTES) else { return };
        let draft = Draft { descriptor, body_bytes: 0, entries: 0, first_index: 0, payload: &[] };
        let appended = self.device.append(draft, memory, &mut effects.io);
        self.gather.on_sealed(now, appended.sequence, 0);
        let operations = self.writes.spare.pop().unwrap_or_default();
        self.writes.in_flight.push_back(Batch {
            sequence: appended.sequence,
            place: appended.place,
            operations,
        });
    }

    /// I2: the batches up to this one are durable: they enter the index and are answered, in order.
    pub(super) fn on_durable(&mut self, sequence: u64, effects: &mut Effects) {
        while self.writes.in_flight.front().is_some_and(|batch| batch.sequence <= sequence) {
            let mut batch = self.writes.in_flight.pop_front().expect("there is a front");
            for operation in batch.operations.drain(..) {
                self.finish(&operation, batch.place, batch.sequence, effects);
            }
            self.writes.spare.push(batch.operations);
        }
    }

    fn finish(&mut self, operation: &Operation, place: Place, sequence: u64, effects: &mut Effects) {
        let id = operation.entry.id;
        let old = self.apply(&applied(&operation.entry, place), sequence);
        let is_last = self.writes.pending.get(&id).is_some_and(|last| last.serial == operation.serial);
        if is_last {
            self.writes.pending.remove(&id);
        }
        match operation.entry.kind {
            EntryKind::Put => {
                self.metrics.puts += 1;
                self.metrics.put_bytes += u64::from(operation.entry.length);
                if let Some((old, was_damaged)) = old {
                    let differs = (old.length, old.root) != (operation.entry.length, operation.entry.root);
                    self.metrics.chunks_repaired += u64::from(was_damaged);
                    self.metrics.chunks_replaced += u64::from(differs);
                }
                let waiters = &mut self.writes.waiters;
                waiters.retain(|(waits_for, repeats, token)| {
                    let is_here = (*waits_for, *repeats) == (id, operation.serial);
                    if is_here {
                        effects.list.push(Effect::Done { token: *token, status: Status::Ok });
                    }
                    !is_here
                });
            }
            EntryKind::Tombstone => {
                self.metrics.tombstones += 1;
            }
            EntryKind::Move(_) => {
                self.cleaner.on_move_ended(operation.entry.length);
                self.metrics.chunks_moved += 1;
                self.metrics.moved_bytes += u64::from(operation.entry.length);
            }
        }
        if let Some(token) = operation.token {
            effects.list.push(Effect::Done { token, status: Status::Ok });
        }
    }

    /// Answers what is queued without executing it.
    pub(super) fn refuse_queued<M: Memory>(&mut self, status: Status, memory: &mut M, effects: &mut Effects) {
        for queued in std::mem::take(&mut self.writes.queue) {
            release_all(queued.slot, memory);
            effects.list.extend(queued.token.map(|token| Effect::Done { token, status }));
            if matches!(queued.kind, EntryKind::Move(_)) {
                self.cleaner.on_move_ended(queued.length);
            }
        }
        for (_, _, token) in std::mem::take(&mut self.writes.waiters) {
            effects.list.push(Effect::Done { token, status });
        }
        self.writes.leaves.clear();
        self.writes.pending.clear();
        self.writes.queued_blocks = 0;
    }

    /// Nothing more is written; what was in flight is not acknowledged, whatever became of it.
    pub(super) fn on_fenced<M: Memory>(&mut self, memory: &mut M, effects: &mut Effects) {
        let was_closing = std::mem::replace(&mut self.stage, Stage::Fenced) == Stage::Closing;
        effects.list.push(Effect::Fenced);
        let status = Status::StoreFailed;
        for batch in std::mem::take(&mut self.writes.in_flight) {
            let tokens = batch.operations.iter().filter_map(|operation| operation.token);
            effects.list.extend(tokens.map(|token| Effect::Done { token, status }));
        }
        self.refuse_queued(status, memory, effects);
        if was_closing {
            effects.list.push(Effect::ShutDown);
        }
    }
}
