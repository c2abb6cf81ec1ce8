//! A store on a fake disk, driven to rest or step by step.

use std::collections::BTreeMap;

use journal::fake_disk::{FakeDisk, FakeMemory};
use journal::{Expected, Format, Geometry, Identity, OpenError};
use wire::checksum::{BlockHasher, leaf_count};
use wire::{ChunkId, ClusterId, Memory, Nanos, NodeId, SessionId, Status, StoreId};

use crate::{Effect, Effects, Event, GotChunk, Store, StoreConfig};

pub(crate) const SEGMENT_BYTES: u32 = 256 << 10;

pub(crate) fn id(number: u64) -> ChunkId {
    ChunkId { session: SessionId(7), ordinal: number }
}

pub(crate) fn identity() -> Identity {
    Identity { cluster: ClusterId([3; 16]), store: StoreId([4; 16]), node: NodeId(1), unit: 0 }
}

pub(crate) fn expected() -> Expected {
    Expected { cluster: Some(ClusterId([3; 16])), store: None, node: NodeId(1), unit: 0 }
}

/// The one content that a chunk has (I1).
pub(crate) fn content(number: u64, length: usize) -> Vec<u8> {
    let mut state = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..length)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()[3]
        })
        .collect()
}

pub(crate) fn root_of(id: ChunkId, bytes: &[u8]) -> u64 {
    BlockHasher::new(ClusterId([3; 16]), id).root(bytes)
}

/// What was answered to a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    Status(Status),
    Bytes { bytes: Vec<u8>, first_block: u32, length: u32, root: u64, proof: Vec<u64> },
    Listed { ids: Vec<ChunkId>, end: bool },
}

pub(crate) struct Bench {
    pub(crate) store: Store,
    pub(crate) disk: FakeDisk,
    pub(crate) memory: FakeMemory,
    pub(crate) now: Nanos,
    pub(crate) config: StoreConfig,
    pub(crate) answers: BTreeMap<u64, Answer>,
    pub(crate) effects: Effects,
    pub(crate) armed: Option<Nanos>,
    pub(crate) damaged: Vec<ChunkId>,
    pub(crate) shut_down: bool,
    pub(crate) opened: bool,
    pub(crate) events: u64,
    next_token: u64,
}

pub(crate) fn config(segments: u64) -> StoreConfig {
    StoreConfig {
        prezero_bytes: 0,
        scrub: false,
        leaf_tables: 8,
        ..StoreConfig::new((1 << 20) + segments * u64::from(SEGMENT_BYTES), 0)
    }
}

impl Bench {
    /// Formats a store of so many segments on an empty disk and opens it.
    pub(crate) fn format(seed: u64, config: StoreConfig) -> Self {
        Self::format_with(seed, config, SEGMENT_BYTES)
    }

    pub(crate) fn format_with(seed: u64, config: StoreConfig, segment_bytes: u32) -> Self {
        let disk = FakeDisk::new(seed);
        let format = Format {
            identity: identity(),
            geometry: Geometry::new(segment_bytes).unwrap(),
            secret: 0x5eed,
            index_key: 0xfeed,
        };
        Self::with(Store::format(config, format), disk, config)
    }

    pub(crate) fn with(store: Store, disk: FakeDisk, config: StoreConfig) -> Self {
        let mut bench = Self {
            store,
            disk,
            memory: FakeMemory::default(),
            now: Nanos(1),
            config,
            answers: BTreeMap::new(),
            effects: Effects::new(),
            armed: None,
            damaged: Vec::new(),
            shut_down: false,
            opened: false,
            events: 0,
            next_token: 0,
        };
        bench.event(Event::Start);
        bench
    }

    /// Another life on the same disk.
    pub(crate) fn reopen(&mut self) {
        self.reopen_as(expected());
    }

    pub(crate) fn reopen_as(&mut self, expected: Expected) {
        self.memory.clear();
        self.effects.clear();
        self.answers.clear();
        self.config.device_bytes = self.disk.length();
        self.store = Store::open(self.config, expected);
        self.armed = None;
        self.opened = false;
        self.shut_down = false;
        self.event(Event::Start);
    }

    pub(crate) fn event(&mut self, event: Event<'_>) {
        self.events += 1;
        if let Event::Tick = event {
            self.armed = self.armed.filter(|at| *at > self.now);
        }
        self.store.handle(self.now, event, &mut self.memory, &mut self.effects);
        self.take_effects();
    }

    pub(crate) fn take_effects(&mut self) {
        assert!(self.effects.list.len() + self.effects.io.requests.len() <= Effects::PER_EVENT_MAX);
        self.disk.submit(&self.effects.io, &mut self.memory);
        for effect in std::mem::take(&mut self.effects.list) {
            match effect {
                Effect::Arm(at) => self.armed = Some(self.armed.map_or(at, |armed| armed.min(at))),
                Effect::Opened => self.on_opened(),
                Effect::OpenFailed | Effect::Fenced => {}
                Effect::Done { token, status } => self.answer(token, Answer::Status(status)),
                Effect::Got(got) => self.got(&got),
                Effect::Listed { token, chunks, end } => {
                    let listed = &self.effects.chunks[chunks.start as usize..][..chunks.count as usize];
                    let ids = listed.iter().map(|chunk| chunk.id).collect();
                    self.answer(token, Answer::Listed { ids, end });
                }
                Effect::Damaged { id } => self.damaged.push(id),
                Effect::ShutDown => self.shut_down = true,
            }
        }
        self.effects.clear();
    }

    fn on_opened(&mut self) {
        self.opened = true;
        let store = &self.store;
        let has_lost = !store.damaged_batches().is_empty() || store.chunks_lost() > 0;
        assert!(store.lacks() || !has_lost, "what is lost is remembered");
        assert!(store.recovered_cut() || !store.opened().unwrap().recovered_cut, "and what was cut");
    }

    fn answer(&mut self, token: u64, answer: Answer) {
        assert!(self.answers.insert(token, answer).is_none(), "token {token} is answered twice");
    }

    fn got(&mut self, got: &GotChunk) {
        let end = ((got.first_block + got.blocks) * 4096).min(got.length);
        let count = (end - got.first_block * 4096) as usize;
        let bytes = self.memory.bytes(got.slot)[got.slot_offset as usize..][..count].to_vec();
        self.memory.release(got.slot);
        let proof = self.effects.words[got.proof.start as usize..][..got.proof.count as usize].to_vec();
        let answer =
            Answer::Bytes { bytes, first_block: got.first_block, length: got.length, root: got.root, proof };
        self.answer(got.token, answer);
    }

    /// Completes one request; false where none is pending.
    pub(crate) fn step(&mut self) -> bool {
        let Some((io, outcome)) = self.disk.complete(&mut self.memory) else { return false };
        self.event(Event::IoDone { io, outcome });
        true
    }

    /// Until no request is pending. Time stands still.
    pub(crate) fn run(&mut self) {
        let mut steps = 0;
        while self.step() {
            steps += 1;
            assert!(steps < 1_000_000, "the store never comes to rest");
        }
    }

    /// Time passes, with its ticks, until nothing is left to do or `nanos` are over.
    pub(crate) fn wait(&mut self, nanos: u64) {
        let end = self.now.after(nanos);
        self.run();
        let mut ticks = 0;
        while let Some(at) = self.armed.filter(|at| *at <= end) {
            ticks += 1;
            assert!(ticks < 20_000, "the store arms without end");
            self.now = at.max(self.now);
            self.event(Event::Tick);
            self.run();
        }
        self.now = end;
        self.event(Event::Tick);
        self.run();
    }

    pub(crate) fn token(&mut self) -> u64 {
        self.next_token += 1;
        self.next_token
    }

    /// Sends a put; the caller submits.
    pub(crate) fn put(&mut self, number: u64, length: usize) -> u64 {
        self.put_bytes(id(number), &content(number, length))
    }

    pub(crate) fn put_bytes(&mut self, id: ChunkId, bytes: &[u8]) -> u64 {
        self.write(id, bytes, false)
    }

    /// Sends a replacement; the caller submits.
    pub(crate) fn replace(&mut self, id: ChunkId, bytes: &[u8]) -> u64 {
        self.write(id, bytes, true)
    }

    fn write(&mut self, id: ChunkId, bytes: &[u8], replaces: bool) -> u64 {
        let token = self.token();
        let hasher = BlockHasher::new(ClusterId([3; 16]), id);
        let mut leaves = vec![0; leaf_count(bytes.len())];
        hasher.leaves(0, bytes, &mut leaves);
        let root = wire::checksum::root(&leaves, bytes.len());
        let slot = self.memory.allocate(bytes.len()).unwrap();
        self.memory.bytes_mut(slot)[..bytes.len()].copy_from_slice(bytes);
        let length = u32::try_from(bytes.len()).unwrap();
        if replaces {
            self.event(Event::Replace { token, id, length, root, leaves: &leaves, slot });
        } else {
            self.event(Event::Put { token, id, length, root, leaves: &leaves, slot });
        }
        self.memory.release(slot);
        token
    }

    /// Bytes between the log's end and its segment's.
    pub(crate) fn rest_of_segment(&self) -> u64 {
        let device = self.store.device();
        let used = device.durable_resume().place.block.0;
        u64::from(device.geometry().segment_blocks() - used) * 4096
    }

    pub(crate) fn put_now(&mut self, number: u64, length: usize) -> Status {
        let token = self.put(number, length);
        self.finish(token)
    }

    pub(crate) fn finish(&mut self, token: u64) -> Status {
        self.event(Event::Submit);
        self.run();
        // A batch may wait for others, a moment.
        let patience = self.now.after(3 * Nanos::MILLISECOND);
        while !self.answers.contains_key(&token)
            && let Some(at) = self.armed.filter(|at| *at <= patience)
        {
            self.now = at.max(self.now);
            self.event(Event::Tick);
            self.run();
        }
        match self.answers.remove(&token) {
            Some(Answer::Status(status)) => status,
            other => panic!("token {token}: {other:?}"),
        }
    }

    pub(crate) fn delete_now(&mut self, numbers: &[u64]) -> Status {
        let ids: Vec<_> = numbers.iter().map(|number| id(*number)).collect();
        let token = self.token();
        self.event(Event::Delete { token, ids: &ids });
        self.finish(token)
    }

    pub(crate) fn get_now(&mut self, number: u64) -> Answer {
        let token = self.token();
        self.event(Event::Get { token, id: id(number), blocks: 0..0, whole: true });
        self.run();
        self.answers.remove(&token).expect("answered")
    }

    pub(crate) fn get_blocks(&mut self, number: u64, blocks: std::ops::Range<u32>) -> Answer {
        let token = self.token();
        self.event(Event::Get { token, id: id(number), blocks, whole: false });
        self.run();
        self.answers.remove(&token).expect("answered")
    }

    /// Asserts that the chunk is here, whole and right.
    pub(crate) fn assert_has(&mut self, number: u64, length: usize) {
        match self.get_now(number) {
            Answer::Bytes { bytes, .. } => {
                assert!(bytes == content(number, length), "chunk {number} differs");
            }
            other => panic!("chunk {number}: {other:?}"),
        }
    }

    pub(crate) fn assert_absent(&mut self, number: u64) {
        assert_eq!(self.get_now(number), Answer::Status(Status::NotFound), "chunk {number}");
    }

    pub(crate) fn open_error(&mut self) -> Option<OpenError> {
        self.run();
        self.store.open_error()
    }
}
