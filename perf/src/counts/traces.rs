//! Flushes, disk bytes and restart reads of the shipped logic on a disk in memory.
//!
//! The pattern is a client's closed loop in lockstep: as many creates as are in flight arrive in one turn, the disk answers everything, the next
//! ones arrive. So a store commits one batch a turn, and so does the metadata log: what the figures' limits are derived from.

use journal::fake_disk::{DiskCounters, FakeDisk, FakeMemory, format_of};
use journal::log::{Log, LogConfig, LogEffect, LogEffects, LogEvent, LogRoom};
use journal::{Device, Expected, Format, LOG_SEGMENT_BYTES, SEGMENT_BYTES};
use replica::{Effect, Effects, Event, RecordNumber, Replica, ReplicaConfig, Request, RequestBody};
use store::{Store, StoreConfig};
use wire::checksum::BlockHasher;
use wire::meta::{Mutation, Operation, VolumePolicy};
use wire::{ChunkId, ClusterId, Memory, Nanos, NodeId, Sequence, SessionId, Status, StoreId, Timestamp};

use super::memory::one_chunk;
use super::{Figure, per};

const CREATES: u64 = 4096;
const BLOCK: u64 = 4096;
const CHUNK_BYTES: u32 = 4096;
const CLUSTER: ClusterId = ClusterId([3; 16]);
const NOW: Nanos = Nanos(1);

fn expected() -> Expected {
    Expected { cluster: Some(CLUSTER), store: None, node: NodeId(1), unit: 0 }
}

fn format(segment_bytes: u32) -> Format {
    format_of(CLUSTER, StoreId([4; 16]), segment_bytes)
}

/// A store on a disk in memory.
struct StoreTrace {
    store: Store,
    disk: FakeDisk,
    memory: FakeMemory,
    effects: store::Effects,
    config: StoreConfig,
    done: u64,
    shut_down: bool,
}

impl StoreTrace {
    fn format() -> Self {
        let config = StoreConfig { prezero_bytes: 0, scrub: false, ..StoreConfig::new(4 << 30, 0) };
        let mut trace = Self {
            store: Store::format(config, format(SEGMENT_BYTES)),
            disk: FakeDisk::new(1),
            memory: FakeMemory::default(),
            effects: store::Effects::new(),
            config,
            done: 0,
            shut_down: false,
        };
        trace.event(store::Event::Start);
        trace.settle();
        assert!(trace.store.opened().is_some(), "an empty disk can be formatted");
        trace
    }

    /// Another life, after a crash that lost what wasn't flushed; returns what its start read.
    fn restart(&mut self) -> DiskCounters {
        self.disk.crash(&mut self.memory);
        self.memory.clear();
        self.disk.counters = DiskCounters::default();
        self.config.device_bytes = self.disk.length();
        self.store = Store::open(self.config, expected());
        self.event(store::Event::Start);
        self.settle();
        assert!(self.store.opened().is_some(), "a crash harms no store");
        self.disk.counters
    }

    fn event(&mut self, event: store::Event<'_>) {
        self.store.handle(NOW, event, &mut self.memory, &mut self.effects);
        self.disk.submit(&self.effects.io, &mut self.memory);
        for effect in &self.effects.list {
            match effect {
                store::Effect::Done { status, .. } => {
                    assert_eq!(*status, Status::Ok, "a put on a disk that works");
                    self.done += 1;
                }
                store::Effect::ShutDown => self.shut_down = true,
                _ => {}
            }
        }
        self.effects.clear();
    }

    fn settle(&mut self) {
        while let Some((io, outcome)) = self.disk.complete(&mut self.memory) {
            self.event(store::Event::IoDone { io, outcome });
        }
    }

    fn put(&mut self, ordinal: u64, length: u32) {
        let id = ChunkId { session: SessionId(7), ordinal };
        let slot = self.memory.allocate(length as usize).expect("memory without a limit");
        let content = &mut self.memory.bytes_mut(slot)[..length as usize];
        content.fill(ordinal.to_le_bytes()[0]);
        let mut leaves = vec![0; wire::checksum::leaf_count(content.len())];
        BlockHasher::new(CLUSTER, id).leaves(0, content, &mut leaves);
        let root = wire::checksum::root(&leaves, content.len());
        self.event(store::Event::Put { token: ordinal, id, length, root, leaves: &leaves, slot });
        self.memory.release(slot);
    }

    /// Chunks numbered `from..to`, so many in a turn.
    fn puts(&mut self, from: u64, to: u64, in_flight: u64, length: u32) {
        let before = self.done;
        for first in (from..to).step_by(usize::try_from(in_flight).expect("few")) {
            for ordinal in first..(first + in_flight).min(to) {
                self.put(ordinal, length);
            }
            self.event(store::Event::Submit);
            self.settle();
        }
        assert_eq!(self.done - before, to - from, "every put is durable");
    }
}

/// A metadata replica and its log on a disk in memory.
struct MetaTrace {
    replica: Replica,
    effects: Effects,
    log: Log,
    log_effects: LogEffects,
    disk: FakeDisk,
    memory: FakeMemory,
    config: LogConfig,
    session: SessionId,
    answered: u64,
    replayed: u64,
}

impl MetaTrace {
    fn format() -> Self {
        let config = LogConfig {
            capacity_bytes: 1 << 30,
            device_bytes: 0,
            prezero_bytes: 0,
            accept_data_loss: false,
            life_random: 0,
            takes_over: None,
        };
        let mut trace = Self {
            replica: Replica::new(ReplicaConfig::default(), NOW),
            effects: Effects::default(),
            log: Log::format(config, format(LOG_SEGMENT_BYTES)),
            log_effects: LogEffects::default(),
            disk: FakeDisk::new(2),
            memory: FakeMemory::default(),
            config,
            session: SessionId(0),
            answered: 0,
            replayed: 0,
        };
        trace.log_event(LogEvent::Start);
        trace.settle();
        assert!(trace.log.opened().is_some(), "an empty disk can be formatted");
        trace.ask(0, RequestBody::OpenSession);
        trace.settle();
        let policy = VolumePolicy { chunk_bytes: 1 << 20, retention_seconds: 0 };
        trace.mutate(1, Operation::CreateVolume { name: "volume".into(), policy });
        trace.settle();
        trace
    }

    fn log_event(&mut self, event: LogEvent<'_>) {
        let mut effects = std::mem::take(&mut self.log_effects);
        self.log.handle(NOW, event, &mut self.memory, &mut effects);
        self.disk.submit(&effects.io, &mut self.memory);
        let mut durable = None;
        let mut next = false;
        for effect in &effects.list {
            match *effect {
                LogEffect::Durable { index } => durable = Some(index),
                LogEffect::Records(records) => {
                    self.replayed += records.iter(&self.memory).count() as u64;
                    next = true;
                }
                LogEffect::Page { .. } => next = true,
                _ => {}
            }
        }
        effects.clear();
        self.log_effects = effects;
        if let Some(index) = durable {
            self.event(Event::Durable { record: RecordNumber(index) });
        }
        if next {
            self.log_event(LogEvent::Next);
        }
    }

    fn event(&mut self, event: Event<'_>) {
        self.replica.handle(NOW, Timestamp(1), event, &mut self.effects);
        let effects = std::mem::take(&mut self.effects);
        for effect in &effects.list {
            match effect {
                Effect::Append { record: number, bytes } => {
                    let record = effects.slice(bytes);
                    let room = self.log.room(record.len(), &mut self.memory);
                    assert_eq!(room, LogRoom::Ready, "few entries a turn");
                    self.log_event(LogEvent::Append { index: number.0, record });
                }
                Effect::Reply { status, body, .. } => {
                    assert_eq!(*status, Status::Ok, "a plain request to a fresh group");
                    if let replica::Body::Session(grant) = &effects.bodies[*body as usize] {
                        self.session = grant.session;
                    }
                    self.answered += 1;
                }
                _ => {}
            }
        }
    }

    fn settle(&mut self) {
        self.log_event(LogEvent::Submit);
        while let Some((io, outcome)) = self.disk.complete(&mut self.memory) {
            self.log_event(LogEvent::IoDone { io, outcome });
        }
    }

    fn ask(&mut self, correlation: u64, body: RequestBody) {
        self.event(Event::Request(Request { client: 1, correlation, deadline: None, body }));
    }

    fn mutate(&mut self, sequence: u64, operation: Operation) {
        let mutation = Mutation {
            session: self.session,
            sequence: Sequence(sequence),
            // Everything before this turn was answered.
            acked_upto: Sequence(self.answered - 1),
            operation,
        };
        self.ask(sequence, RequestBody::Mutate(mutation));
    }

    fn creates(&mut self, count: u64, in_flight: u64) {
        let before = self.answered;
        for first in (0..count).step_by(usize::try_from(in_flight).expect("few")) {
            for file in first..first + in_flight {
                let commit = one_chunk(format!("{file:016x}"), self.session, file);
                self.mutate(before + file, Operation::Commit(commit));
            }
            self.settle();
        }
        assert_eq!(self.answered - before, count, "every create is answered");
    }

    /// Another life of the log, after a crash; returns what its start read.
    fn restart(&mut self) -> DiskCounters {
        self.disk.crash(&mut self.memory);
        self.memory.clear();
        self.disk.counters = DiskCounters::default();
        self.config.device_bytes = self.disk.length();
        self.log = Log::open(self.config, expected());
        self.replayed = 0;
        self.log_event(LogEvent::Start);
        self.settle();
        assert!(self.log.opened().is_some(), "a crash harms no log");
        self.disk.counters
    }
}

/// Flushes and disk bytes of a durable 4 KiB create, chunk and metadata together.
///
/// What the design needs: one batch and one flush for what is in flight, in the store and in the log (DESIGN §7, §10). A store's batch is the
/// payloads and a descriptor of whole blocks: 64 bytes of header and 56 an entry. A log's batch is its entries, in whole blocks.
pub fn creates(in_flight: u64) -> [Figure; 2] {
    let mut store = StoreTrace::format();
    store.puts(0, in_flight, in_flight, CHUNK_BYTES);
    let before = store.disk.counters;
    store.puts(in_flight, in_flight + CREATES, in_flight, CHUNK_BYTES);
    let chunk =
        (store.disk.counters.flushes - before.flushes, store.disk.counters.write_bytes - before.write_bytes);
    let mut meta = MetaTrace::format();
    let before = meta.disk.counters;
    meta.creates(CREATES, in_flight);
    let log =
        (meta.disk.counters.flushes - before.flushes, meta.disk.counters.write_bytes - before.write_bytes);

    let turns = CREATES / in_flight;
    let descriptor = (HEADER_BYTES + ENTRY_BYTES * in_flight).next_multiple_of(BLOCK);
    let records = (HEADER_BYTES + RECORD_BYTES_MAX * in_flight).next_multiple_of(BLOCK);
    // Each segment by which a file grows is a flush more.
    let grown = turns * records / u64::from(LOG_SEGMENT_BYTES);
    let flushes_max = per(2 * turns + grown, CREATES);
    let bytes_max = per(turns * (descriptor + records) + CREATES * BLOCK, CREATES);
    let name = |what: &str| format!("{what} per durable 4 KiB create, {in_flight} in flight");
    let note =
        |chunk, log| format!("store {:.4}, metadata log {:.4}", per(chunk, CREATES), per(log, CREATES));
    [
        Figure::new(name("flushes"), per(chunk.0 + log.0, CREATES), flushes_max, "", note(chunk.0, log.0)),
        Figure::new(name("disk bytes"), per(chunk.1 + log.1, CREATES), bytes_max, "B", note(chunk.1, log.1)),
    ]
}

/// A descriptor's header, and what an entry of one block takes in it: its record and its leaf.
const HEADER_BYTES: u64 = journal::batch::HEADER_BYTES as u64;
const ENTRY_BYTES: u64 = 48 + 8;
/// An entry of the metadata log: the commit with name, run and root, its outcome, and what frames it.
const RECORD_BYTES_MAX: u64 = 256;
/// What recovery reads at once where it reads in order.
const WINDOW_BYTES: u64 = 256 << 10;

/// Bytes between a log's end and its segment's.
fn rest_of_segment(device: &Device) -> u64 {
    u64::from(device.geometry().segment_blocks() - device.durable_resume().place.block.0) * BLOCK
}

/// Bytes that a restart reads, against what the design allows.
pub fn restarts() -> [Figure; 3] {
    const SUPERBLOCKS: u64 = 4 * 8192;
    const CHUNKS: u64 = 1024;
    const LENGTH: u32 = 64 << 10;
    let mut store = StoreTrace::format();
    store.puts(0, CHUNKS, 16, LENGTH);
    store.event(store::Event::Shutdown);
    store.settle();
    assert!(store.shut_down, "an orderly end");
    let read = store.restart().read_bytes;
    // 16 bytes a segment and 40 a chunk, in pages of whole blocks; each page's first block is read twice.
    let segments = u64::from(store.store.device().segments().allocated());
    let page = |bytes: u64| BLOCK + (64 + bytes).next_multiple_of(BLOCK);
    let checkpoint = page(16 * segments) + page(40 * CHUNKS);
    let clean = Figure::new(
        "restart after an orderly end: bytes read by a store",
        per(read, 1),
        per(SUPERBLOCKS + checkpoint, 1),
        "B",
        format!("superblocks and checkpoint; {} MiB of chunks", (CHUNKS * u64::from(LENGTH)) >> 20),
    );

    let batches = 256;
    store.puts(CHUNKS, CHUNKS + batches, 1, LENGTH);
    // Markers, empty batches of the device's own, among them; the device counts from the restart before.
    let appended = store.store.device().counters();
    assert_eq!(appended.batches - appended.empty_batches, batches, "one batch a put");
    let rest = rest_of_segment(store.store.device());
    let read = store.restart().read_bytes;
    let counters = store.store.device().counters();
    assert_eq!(counters.replayed_descriptor_bytes, appended.batches * BLOCK, "every batch is replayed once");
    // The last batch alone is beyond `durable_upto`; recovery looks for a later one in the segment's rest, and in the next segment within twice
    // the reach that it states, four batches' size.
    let reach = 2 * (4 * (BLOCK + u64::from(LENGTH))).next_power_of_two() + 2 * BLOCK;
    let log = appended.batches * BLOCK + u64::from(LENGTH) + rest + reach + 8 * BLOCK;
    let crash = Figure::new(
        "restart after a crash: bytes read by a store",
        per(read, 1),
        per(SUPERBLOCKS + checkpoint + log, 1),
        "B",
        format!(
            "descriptors {}, payloads {}, search {}; {} MiB since the checkpoint",
            counters.replayed_descriptor_bytes,
            counters.tail_payload_bytes,
            counters.search_bytes,
            (batches * u64::from(LENGTH)) >> 20
        ),
    );
    [clean, crash, log_restart(SUPERBLOCKS)]
}

/// Bytes that a restart of a metadata log reads after a crash.
fn log_restart(superblocks: u64) -> Figure {
    let mut meta = MetaTrace::format();
    let before = meta.disk.counters.write_bytes;
    meta.creates(CREATES, 64);
    let written = meta.disk.counters.write_bytes - before;
    let rest = rest_of_segment(meta.log.device());
    let read = meta.restart().read_bytes;
    assert!(meta.replayed >= CREATES, "every create is replayed");
    // The log is read in windows; a batch at a window's end is read again with the next one. The first, the last and the two windows at
    // which another segment begins may be read in vain.
    let again = written.div_ceil(WINDOW_BYTES) * written.div_ceil(CREATES / 64);
    // Four batches of 64 entries are less than a window, and so is the reach.
    let log = written + again + rest + 4 * WINDOW_BYTES + 2 * WINDOW_BYTES;
    let counters = meta.log.counters();
    Figure::new(
        "restart after a crash: bytes read by a metadata log",
        per(read, 1),
        per(superblocks + log, 1),
        "B",
        format!("{written} B of log since the checkpoint, search {}", counters.search_bytes),
    )
}
