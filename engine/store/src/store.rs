//! The state machine. Submodules by conversation: `write` puts and deletes, `read` gets, `keep` checkpoints, `clean` makes space, `scrub`
//! verifies, `space` says who may take how much, `slices` what replicas compare.
//!
//! ```text
//! Opening ─→ Serving ─→ Closing ─→ Closed
//!    └→ Failed   └→ Fenced (reads go on)
//! ```

mod clean;
mod keep;
mod read;
mod scrub;
mod slices;
mod space;
mod write;

use std::collections::BTreeSet;

use journal::entry::{EntryKind, entries, payload_blocks};
use journal::{
    DamagedBatches, Device, DeviceConfig, Expected, Format, Gather, IoToken, Kind, Note, OpenError, Opened,
    Place,
};
use wire::limits::MESSAGE_CHUNKS_MAX;
use wire::{ChunkId, ClusterId, Incarnation, Memory, Nanos, Slot, Status};

use crate::api::{ChunkRange, Effect, Effects, Event, ListedChunk, Metrics, StoreConfig};
use crate::catalog::Catalog;
use crate::index::{Index, IndexEntry};
use crate::leaf_cache::LeafCache;

/// Damaged chunks and batches that are remembered by name.
const DAMAGED_LISTED_MAX: usize = 4096;
/// An idle store makes its last acknowledgement decidable after this (R29 allows 100 ms, the write included).
const IDLE_NANOS: u64 = 50 * Nanos::MILLISECOND;
/// What waits for space or readers is looked at this often.
const UPKEEP_NANOS: u64 = 200 * Nanos::MILLISECOND;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Stage {
    Opening,
    Serving,
    Closing,
    Closed,
    Fenced,
    Failed,
}

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Store {
    config: StoreConfig,
    device: Device,
    stage: Stage,
    index: Index,
    catalog: Catalog,
    leaf_cache: LeafCache,
    writes: write::Writes,
    reads: read::Reads,
    keeper: keep::Keeper,
    cleaner: clean::Cleaner,
    shortage: space::Shortage,
    scrubber: scrub::Scrubber,
    metrics: Metrics,
    damaged: BTreeSet<ChunkId>,
    damaged_batches: Vec<DamagedBatches>,
    /// Chunks of the checkpoint's image that lay behind the end of the file.
    chunks_lost: u64,
    opened: Option<Opened>,
    open_error: Option<OpenError>,
    armed: Option<Nanos>,
    last_durable: Nanos,
    gather: Gather,
}

impl Store {
    /// Opens what is there: nothing is formatted, whatever is missing (R34). `Event::Start` begins.
    pub fn open(config: StoreConfig, expected: Expected) -> Self {
        Self::new(config, Device::open(device_config(&config), expected))
    }

    /// Formats an empty place, then opens it.
    pub fn format(config: StoreConfig, format: Format) -> Self {
        Self::new(config, Device::format(device_config(&config), format))
    }

    fn new(config: StoreConfig, device: Device) -> Self {
        Self {
            config,
            device,
            stage: Stage::Opening,
            index: Index::new(0),
            catalog: Catalog::default(),
            leaf_cache: LeafCache::new(config.leaf_tables),
            writes: write::Writes::default(),
            reads: read::Reads::default(),
            keeper: keep::Keeper::default(),
            cleaner: clean::Cleaner::default(),
            shortage: space::Shortage::default(),
            scrubber: scrub::Scrubber::default(),
            metrics: Metrics::default(),
            damaged: BTreeSet::new(),
            damaged_batches: Vec::new(),
            chunks_lost: 0,
            opened: None,
            open_error: None,
            armed: None,
            last_durable: Nanos(0),
            gather: Gather::with_trials(),
        }
    }

    /// Takes one event in. `effects` has room for [`Effects::PER_EVENT_MAX`] more.
    pub fn handle<M: Memory>(&mut self, now: Nanos, event: Event<'_>, memory: &mut M, effects: &mut Effects) {
        match event {
            Event::Start => self.device.start(memory, &mut effects.io),
            Event::Put { token, id, length, root, leaves, slot } => {
                let put = write::NewChunk { id, length, root, leaves, slot, replaces: false };
                self.on_put(now, token, &put, memory, effects);
            }
            Event::Replace { token, id, length, root, leaves, slot } => {
                let put = write::NewChunk { id, length, root, leaves, slot, replaces: true };
                self.on_put(now, token, &put, memory, effects);
            }
            Event::Get { token, id, blocks, whole } => {
                let blocks = if whole { 0..u32::MAX } else { blocks };
                self.on_get(read::Reader::Client(token), id, blocks, memory, effects);
            }
            Event::Fetch { token, id } => {
                self.on_get(read::Reader::Replica(token), id, 0..u32::MAX, memory, effects);
            }
            Event::Delete { token, ids } => self.on_delete(token, ids, effects),
            Event::Inventory { token, after, limit } => self.on_inventory(token, after, limit, effects),
            Event::Submit => self.seal_batches(now, memory, effects),
            Event::Tick => {
                self.on_tick(now, memory, effects);
                self.seal_batches(now, memory, effects);
            }
            Event::Scrub(control) => self.on_scrub(now, control),
            Event::Shutdown => {
                self.on_shutdown(effects);
                self.seal_batches(now, memory, effects);
            }
            Event::IoDone { io, outcome } if io.tag() >= IoToken::OWNER_TAG_MIN => {
                self.on_read_done(now, io, outcome, memory, effects);
                self.seal_batches(now, memory, effects);
            }
            Event::IoDone { io, outcome } => {
                self.device.on_io(io, outcome, memory, &mut effects.io);
                self.settle(now, memory, effects);
                // The window may have moved, or cleaning may have something to write.
                self.seal_batches(now, memory, effects);
            }
        }
        self.settle(now, memory, effects);
        self.invariants();
    }

    /// Control has accepted this life: those before it are forgotten, durably with the next event ([`Device::on_accepted`]). Passed over unless the store serves.
    pub fn on_accepted(&mut self, now: Nanos, incarnation: Incarnation, effects: &mut Effects) {
        if self.stage == Stage::Serving {
            self.device.on_accepted(incarnation);
            self.arm(now, effects);
        }
    }

    /// All members that the store has serve again: the marks go, durably with the next event ([`Device::on_whole`]). Passed over unless the store serves.
    pub fn on_whole(&mut self, now: Nanos, effects: &mut Effects) {
        if self.stage == Stage::Serving {
            self.device.on_whole();
            self.arm(now, effects);
        }
    }

    /// Follows what the device has to say, then does what is due in the background.
    fn settle<M: Memory>(&mut self, now: Nanos, memory: &mut M, effects: &mut Effects) {
        loop {
            self.device.advance(memory, &mut effects.io);
            let Some(note) = self.device.pop_note() else {
                if self.pump(now, memory, effects) {
                    continue;
                }
                break;
            };
            self.on_note(now, note, memory, effects);
        }
        self.arm(now, effects);
    }

    fn on_note<M: Memory>(&mut self, now: Nanos, note: Note, memory: &mut M, effects: &mut Effects) {
        match note {
            Note::Page { slot, offset, length, entries } => {
                let content = &memory.bytes(slot)[offset as usize..][..length as usize];
                self.absorb_page(content, entries);
            }
            Note::CheckpointAbandoned => {
                self.index.clear();
                self.chunks_lost = 0;
            }
            Note::Batch { header, place, slot } => {
                self.identify();
                let descriptor = &memory.bytes(slot)[..header.descriptor_bytes as usize];
                for entry in entries(&header, descriptor) {
                    self.apply(&applied(&entry, place), header.sequence);
                }
                memory.release(slot);
            }
            Note::Salvaged { header, place, slot } => {
                self.identify();
                let descriptor = &memory.bytes(slot)[..header.descriptor_bytes as usize];
                for entry in entries(&header, descriptor) {
                    self.apply_salvaged(applied(&entry, place), header.sequence);
                }
                memory.release(slot);
            }
            Note::Damaged(batches) => {
                self.metrics.batches_damaged += batches.last - batches.first + 1;
                if self.damaged_batches.len() < DAMAGED_LISTED_MAX {
                    self.damaged_batches.push(batches);
                }
            }
            Note::Opened(opened) => {
                self.identify();
                if let Some(end) = opened.ended_at {
                    self.forget_behind(end, opened.sequence);
                }
                self.opened = Some(opened);
                self.stage = Stage::Serving;
                self.last_durable = now;
                self.start_scrub_if_configured(now);
                effects.list.push(Effect::Opened);
            }
            Note::OpenFailed(error) => {
                self.open_error = Some(error);
                self.stage = Stage::Failed;
                effects.list.push(Effect::OpenFailed);
            }
            Note::Durable { sequence } => {
                self.last_durable = now;
                self.gather.on_durable(now, sequence, self.writes.len() as u64);
                self.on_durable(sequence, effects);
            }
            Note::Fenced => self.on_fenced(memory, effects),
            Note::CheckpointDone { .. } => self.on_checkpoint_done(effects),
            Note::CheckpointFailed => self.on_checkpoint_failed(effects),
        }
    }

    /// The superblock is known: so is the index's key.
    fn identify(&mut self) {
        if self.index.count() == 0 && self.device.is_identified() {
            self.index.set_key(self.device.superblock().index_key);
        }
    }

    fn on_tick<M: Memory>(&mut self, now: Nanos, memory: &mut M, effects: &mut Effects) {
        if self.armed.is_some_and(|at| now >= at) {
            self.armed = None;
        }
        self.device.on_tick(now, memory, &mut effects.io);
        if self.wants_empty_batch() && now.since(self.last_durable) >= IDLE_NANOS {
            self.append_empty_batch(now, memory, effects);
        }
        self.cleaner.on_tick();
        self.keeper_tick();
    }

    /// One thing in the background; true if a note may be there now.
    fn pump<M: Memory>(&mut self, now: Nanos, memory: &mut M, effects: &mut Effects) -> bool {
        let mut began = false;
        if matches!(self.stage, Stage::Serving | Stage::Closing) {
            self.pump_cleaner(memory, effects);
            self.pump_stalled(now, memory, effects);
            began = self.pump_checkpoint(memory, effects);
        }
        if matches!(self.stage, Stage::Serving | Stage::Fenced) {
            self.pump_scrub(now, memory, effects);
        }
        began
    }

    fn arm(&mut self, now: Nanos, effects: &mut Effects) {
        if self.opened.is_none() {
            return;
        }
        let mut at = self.gather.deadline().filter(|due| *due > now && !self.writes.is_empty());
        // A deadline that has passed and could not be met is tried again soon, not at once.
        let soonest = now.after(Nanos::MILLISECOND);
        let mut want = |deadline: Nanos| {
            let deadline = deadline.max(soonest);
            at = Some(at.map_or(deadline, |at: Nanos| at.min(deadline)));
        };
        if self.device.has_news() {
            want(soonest);
        }
        if self.wants_empty_batch() {
            want(self.last_durable.after(IDLE_NANOS));
        }
        if self.cleaner.is_collecting() {
            want(soonest);
        }
        let segments = self.device.segments();
        let is_tight = segments.drained() > 0 && segments.free() <= self.clean_threshold();
        let waits = !self.writes.is_empty()
            || self.cleaner.is_busy()
            || is_tight
            || segments.is_growth_blocked()
            || self.device.is_checkpointing()
            || self.device.needs_checkpoint();
        if matches!(self.stage, Stage::Serving | Stage::Closing) && waits {
            want(now.after(UPKEEP_NANOS));
        }
        let scrubs = matches!(self.stage, Stage::Serving | Stage::Fenced);
        if let Some(due) = self.scrubber.due().filter(|_| scrubs) {
            want(due);
        }
        let Some(at) = at else { return };
        // An earlier deadline that was armed already serves.
        if self.armed.is_none_or(|armed| at < armed) {
            self.armed = Some(at);
            effects.list.push(Effect::Arm(at));
        }
    }

    /// Nothing follows a clean end.
    fn wants_empty_batch(&self) -> bool {
        self.stage == Stage::Serving && self.device.wants_empty_batch()
    }

    /// What a durable entry does, at run time and at replay alike. Returns what it replaced, and whether that was damaged.
    fn apply(&mut self, applied: &Applied, sequence: u64) -> Option<(IndexEntry, bool)> {
        let new = &applied.entry;
        let was_damaged = self.index.is_damaged(new.id);
        let old = match applied.kind {
            EntryKind::Put => self.index.insert(new),
            // R32: only while the index still has the place that it was read from.
            EntryKind::Move(from) => match self.index.find(new.id) {
                Some(old) if old.place == from => self.index.insert(new),
                _ => return None,
            },
            EntryKind::Tombstone => self.index.remove(new.id),
        };
        if let Some(old) = old {
            let blocks = payload_blocks(old.length);
            self.device.segments_mut().remove_live(old.place.segment, blocks, sequence);
            if was_damaged {
                self.forget_damage(&old);
            }
        }
        if applied.kind == EntryKind::Tombstone {
            self.catalog.on_remove(new.id);
        } else {
            self.device.segments_mut().add_live(new.place.segment, payload_blocks(new.length));
            self.catalog.on_insert(new);
        }
        old.map(|old| (old, was_damaged))
    }

    /// A move counts where its source is gone: a source whose descriptor is there is good, and the copy of a move that was cut may not be.
    fn apply_salvaged(&mut self, mut applied: Applied, sequence: u64) {
        if let EntryKind::Move(_) = applied.kind {
            if self.index.find(applied.entry.id).is_some() {
                return;
            }
            applied.kind = EntryKind::Put;
        }
        self.apply(&applied, sequence);
    }

    fn on_inventory(&mut self, token: u64, after: Option<ChunkId>, limit: u32, effects: &mut Effects) {
        if self.opened.is_none() {
            effects.list.push(Effect::Done { token, status: Status::NotServing });
            return;
        }
        let limit = (limit as usize).min(MESSAGE_CHUNKS_MAX);
        let start = effects.chunks.len();
        let mut page = self.index.in_order_after(after);
        effects.chunks.extend(page.by_ref().take(limit).map(|entry| ListedChunk {
            id: entry.id,
            length: entry.length,
            root: entry.root,
        }));
        let end = page.next().is_none();
        let bound = "a page is limited";
        let chunks = ChunkRange {
            start: u32::try_from(start).expect(bound),
            count: u32::try_from(effects.chunks.len() - start).expect(bound),
        };
        effects.list.push(Effect::Listed { token, chunks, end });
    }

    /// A copy can't be returned: said once. A copy that died or was moved while it was read is nobody's any more.
    fn report_damage(&mut self, entry: &IndexEntry, effects: &mut Effects) {
        if !self.is_at(entry) {
            return;
        }
        self.device.segments_mut().set_damaged(entry.place.segment, true);
        if self.index.set_damaged(entry.id, true) && self.damaged.len() < DAMAGED_LISTED_MAX {
            self.damaged.insert(entry.id);
            effects.list.push(Effect::Damaged { id: entry.id });
        }
    }

    /// A copy was read whole and is good: what was said of it was an error that passed.
    fn retract_damage(&mut self, entry: &IndexEntry) {
        if self.is_at(entry) && self.index.set_damaged(entry.id, false) {
            self.forget_damage(entry);
        }
    }

    /// Whether the chunk's copy is still this one.
    fn is_at(&self, entry: &IndexEntry) -> bool {
        self.index.find(entry.id).is_some_and(|now| now.place == entry.place)
    }

    /// A damaged copy is out of the index, or isn't damaged: cleaning may touch its segment again, unless another one lies there.
    fn forget_damage(&mut self, old: &IndexEntry) {
        self.damaged.remove(&old.id);
        let lies_there =
            |id: &ChunkId| self.index.find(*id).is_some_and(|entry| entry.place.segment == old.place.segment);
        let is_all_listed = self.damaged.len() as u64 == self.index.damaged_count();
        if is_all_listed && !self.damaged.iter().any(lies_there) {
            self.device.segments_mut().set_damaged(old.place.segment, false);
        }
    }

    fn cluster(&self) -> ClusterId {
        self.device.superblock().identity.cluster
    }

    /// How the store was found; `None` until it is open.
    pub fn opened(&self) -> Option<&Opened> {
        self.opened.as_ref()
    }

    /// The lives before the present one that are remembered, oldest first ([`Device::lives`]).
    pub fn lives(&self) -> &[Incarnation] {
        self.device.lives()
    }

    /// Whether recovery, now or before, cut a tail that may have been acked (R7, [`Device::recovered_cut`]).
    pub fn recovered_cut(&self) -> bool {
        self.device.recovered_cut()
    }

    /// Whether durable batches were found damaged or lost, now or before: chunks may be missing (R8, [`Device::lacks`]).
    pub fn lacks(&self) -> bool {
        self.device.lacks()
    }

    /// Why it can't be opened.
    pub fn open_error(&self) -> Option<OpenError> {
        self.open_error
    }

    /// Chunks found damaged since the start, and neither mended nor deleted since; the first 4,096 of them.
    pub fn damaged(&self) -> impl Iterator<Item = ChunkId> + '_ {
        self.damaged.iter().copied()
    }

    /// Durable batches that recovery could not read: what they held is lost, or is what the index had before (R29).
    pub fn damaged_batches(&self) -> &[DamagedBatches] {
        &self.damaged_batches
    }

    /// Chunks of which something still told, and that lay behind the end of the file, which was shortened; those of the checkpoint that were found elsewhere
    /// included. 0 as well where nothing told of them: then nobody knows.
    pub fn chunks_lost(&self) -> u64 {
        self.chunks_lost
    }

    /// Bytes of the index, unused capacity included.
    pub fn index_memory_bytes(&self) -> usize {
        self.index.memory_bytes()
    }

    /// Where a chunk lies, for tools and tests.
    pub fn find(&self, id: ChunkId) -> Option<IndexEntry> {
        self.index.find(id)
    }

    /// Every chunk in order of the ids, for tools and tests.
    pub fn entries(&self) -> impl Iterator<Item = IndexEntry> + '_ {
        self.index.in_order_after(None)
    }

    /// The log under the store.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// A snapshot of all counts.
    pub fn metrics(&self) -> Metrics {
        let mut metrics = Metrics { disk: self.device.counters(), ..self.metrics };
        metrics.chunks = self.index.count();
        metrics.chunks_damaged = self.index.damaged_count();
        metrics.index_bytes = self.index.memory_bytes() as u64;
        metrics.queued = self.writes.len() as u64;
        metrics.fenced = u64::from(self.stage == Stage::Fenced);
        if self.opened.is_some() {
            let segments = self.device.segments();
            let segment_bytes = u64::from(self.device.geometry().segment_bytes());
            metrics.live_bytes = segments.live_blocks() * 4096;
            metrics.capacity_bytes = u64::from(segments.count()) * segment_bytes;
            let usable = segments.free().saturating_sub(self.reserve_segments());
            metrics.available_bytes = u64::from(usable) * segment_bytes;
            metrics.reserve_bytes = u64::from(self.reserve_segments()) * segment_bytes;
            metrics.segments_free = u64::from(segments.free());
            metrics.segments_empty = u64::from(segments.ready() + segments.unwritten());
            metrics.batches_since_checkpoint =
                self.device.durable_sequence().saturating_sub(self.device.checkpoint_sequence());
            metrics.segments_ready = u64::from(segments.ready());
            metrics.segments_drained = u64::from(segments.drained());
            metrics.segments_allocated = u64::from(segments.allocated());
        }
        metrics
    }

    /// What holds after every event, as far as it costs O(1).
    fn invariants(&self) {
        assert!(
            self.stage != Stage::Serving || !self.device.is_fenced(),
            "a fenced store doesn't serve writes"
        );
        // A fenced store has answered for its batches, whose writes may still end.
        let counted = self.writes.in_flight() >= self.device.owners_in_flight().saturating_sub(1);
        assert!(counted || matches!(self.stage, Stage::Fenced | Stage::Failed));
    }
}

/// An entry with its absolute places.
struct Applied {
    kind: EntryKind,
    entry: IndexEntry,
}

fn applied(entry: &journal::entry::Entry, batch: Place) -> Applied {
    let leaf_word = if entry.leaf_word == 0 { 0 } else { batch.block.0 * 512 + entry.leaf_word };
    let place = batch.plus(entry.payload_block);
    let entry_ = IndexEntry { id: entry.id, root: entry.root, length: entry.length, place, leaf_word };
    Applied { kind: entry.kind, entry: entry_ }
}

fn device_config(config: &StoreConfig) -> DeviceConfig {
    DeviceConfig {
        kind: Kind::Chunks,
        capacity_bytes: config.capacity_bytes,
        device_bytes: config.device_bytes,
        prezero_bytes: config.prezero_bytes,
        accept_data_loss: config.accept_data_loss,
        life_random: config.life_random,
        takes_over: config.takes_over,
    }
}

/// Gives back what a request brought.
fn release_all<M: Memory>(slots: impl IntoIterator<Item = Slot>, memory: &mut M) {
    for slot in slots {
        memory.release(slot);
    }
}
