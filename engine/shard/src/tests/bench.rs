//! A shard on a fake disk, driven step by step, with what its peers see.

use std::sync::Arc;

use journal::Expected;
use journal::fake_disk::{FakeDisk, FakeMemory, format_of};
use placement::{ClusterMap, Edition, OneNode, one_node};
use store::{Store, StoreConfig};
use wire::checksum::{BlockHasher, leaf_count};
use wire::message::{
    Encoder, GetChunk, Hello, HopClass, PayloadMeta, PutChunk, Reply, Request, RequestHead, Words,
};
use wire::{
    ChunkId, ClusterId, Epoch, FrameKind, MapNumber, Memory, Nanos, NodeId, PREFIX_BYTES, PROTOCOL_VERSION,
    Prefix, SessionId, ShardIndex, Status, StoreId,
};

use crate::{CloseReason, Effects, Identity, Link, Payload, Placement, Shard};

pub(super) const CLUSTER: ClusterId = ClusterId([1; 16]);
pub(super) const LINKS_MAX: u32 = 3;
const STORE: StoreId = StoreId([2; 16]);
const SEGMENT_BYTES: u32 = 16 << 20;

const IDENTITY: Identity =
    Identity { cluster: CLUSTER, node: NodeId(1), shard: ShardIndex(0), store: STORE, links_max: LINKS_MAX };

fn config(device_bytes: u64) -> StoreConfig {
    StoreConfig {
        prezero_bytes: 0,
        scrub: false,
        ..StoreConfig::new((1 << 20) + 12 * u64::from(SEGMENT_BYTES), device_bytes)
    }
}

/// A frame that the shard sent.
#[derive(Clone, Debug)]
pub(super) struct Sent {
    pub(super) link: Link,
    pub(super) prefix: Prefix,
    pub(super) message: Vec<u8>,
    pub(super) payload: Option<Payload>,
    /// The payload's bytes at that moment.
    pub(super) bytes: Vec<u8>,
}

pub(super) struct Bench {
    pub(super) shard: Shard,
    pub(super) disk: FakeDisk,
    pub(super) memory: FakeMemory,
    pub(super) effects: Effects,
    pub(super) now: Nanos,
    pub(super) sent: Vec<Sent>,
    pub(super) closes: Vec<(Link, CloseReason)>,
    pub(super) conflicting: Vec<ChunkId>,
    encoder: Encoder,
}

/// The map with this number; its slices' epoch is the same.
pub(super) fn map(number: u64) -> ClusterMap {
    let first = one_node(OneNode {
        cluster: CLUSTER,
        node: NodeId(1),
        name: "node".into(),
        stores: vec![(STORE, ShardIndex(0), "127.0.0.1:1".into())],
        metadata: StoreId([0xff; 16]),
        metadata_address: "127.0.0.1:2".into(),
        control: "127.0.0.1:3".into(),
        ring_bits: 1,
        reclaim_delay_ms: 1000,
    });
    let mut map = first.expect("a legal map").as_map().clone();
    map.number = MapNumber(number);
    for slice in &mut map.slices {
        slice.chain.epoch = Epoch(number);
    }
    ClusterMap::new(map).expect("a legal map")
}

pub(super) fn id(ordinal: u64) -> ChunkId {
    ChunkId { session: SessionId(9), ordinal }
}

pub(super) fn content(seed: u64, length: usize) -> Vec<u8> {
    (0..length as u64).map(|at| (at.wrapping_mul(seed + 7) >> 3).to_le_bytes()[0]).collect()
}

/// A chunk as a client sends it.
pub(super) struct Chunk {
    pub(super) id: ChunkId,
    pub(super) bytes: Vec<u8>,
    pub(super) leaves: Vec<u64>,
    pub(super) root: u64,
}

impl Chunk {
    pub(super) fn new(ordinal: u64, length: usize) -> Self {
        Self::of(id(ordinal), content(ordinal, length))
    }

    pub(super) fn of(id: ChunkId, bytes: Vec<u8>) -> Self {
        let hasher = BlockHasher::new(CLUSTER, id);
        let mut leaves = vec![0; leaf_count(bytes.len())];
        hasher.leaves(0, &bytes, &mut leaves);
        let root = wire::checksum::root(&leaves, bytes.len());
        Self { id, bytes, leaves, root }
    }

    pub(super) fn head(&self, epoch: u64) -> PutChunk<'_> {
        PutChunk {
            id: self.id,
            length: u32::try_from(self.bytes.len()).unwrap(),
            root: self.root,
            map: MapNumber(epoch),
            epoch: Epoch(epoch),
            class: HopClass::Client,
            leaves: Words::new(&self.leaves),
        }
    }
}

impl Bench {
    /// A shard that serves under map 1, with link 1 greeted.
    pub(super) fn new() -> Self {
        let store = Store::format(config(0), format_of(CLUSTER, STORE, SEGMENT_BYTES));
        let mut bench = Self {
            shard: Shard::new(IDENTITY, store),
            disk: FakeDisk::new(1),
            memory: FakeMemory::default(),
            effects: Effects::default(),
            now: Nanos(1),
            sent: Vec::new(),
            closes: Vec::new(),
            conflicting: Vec::new(),
            encoder: Encoder::new(),
        };
        bench.begin();
        bench
    }

    /// Killed, and started again on the same disk.
    pub(super) fn restart(&mut self) {
        self.disk.kill(&mut self.memory);
        self.memory.clear();
        self.sent.clear();
        let expected = Expected { cluster: Some(CLUSTER), store: Some(STORE), node: NodeId(1), unit: 0 };
        self.shard = Shard::new(IDENTITY, Store::open(config(self.disk.length()), expected));
        self.begin();
    }

    fn begin(&mut self) {
        self.shard.on_start(self.now, &mut self.memory, &mut self.effects);
        self.settle();
        self.run();
        self.change_map(1);
        self.greeted(1);
    }

    pub(super) fn change_map(&mut self, number: u64) {
        let edition = Arc::new(Edition::new(map(number)));
        self.shard.on_map(self.now, edition, &mut self.memory, &mut self.effects);
    }

    /// Carries effects out, but for the disk's work, which is only taken in.
    pub(super) fn settle(&mut self) {
        self.disk.submit(&self.effects.io, &mut self.memory);
        for send in &self.effects.sends {
            let head = &self.effects.bytes[send.head.0 as usize..send.head.1 as usize];
            let (prefix, message) = head.split_first_chunk::<PREFIX_BYTES>().unwrap();
            Prefix::verify(prefix, message).unwrap();
            let bytes = send.payload.map_or_else(Vec::new, |payload| {
                self.memory.bytes(payload.slot)[payload.offset as usize..][..payload.len as usize].to_vec()
            });
            let prefix = Prefix::decode(prefix).unwrap();
            let message = message.to_vec();
            self.sent.push(Sent { link: send.link, prefix, message, payload: send.payload, bytes });
        }
        self.closes.extend_from_slice(&self.effects.closes);
        self.conflicting.extend_from_slice(&self.effects.conflicting);
        self.effects.clear();
    }

    /// Ends the turn, and lets the disk do everything that it was asked.
    pub(super) fn run(&mut self) {
        loop {
            self.shard.on_turn(self.now, &mut self.memory, &mut self.effects);
            self.settle();
            if !self.step() {
                return;
            }
            while self.step() {}
        }
    }

    /// One of the disk's requests ends.
    pub(super) fn step(&mut self) -> bool {
        let Some((io, outcome)) = self.disk.complete(&mut self.memory) else { return false };
        self.shard.on_io(self.now, io, outcome, &mut self.memory, &mut self.effects);
        self.settle();
        true
    }

    /// What the peer of a payload's frame does: takes the bytes off the wire.
    pub(super) fn take_sent(&mut self) -> Vec<Sent> {
        let sent = std::mem::take(&mut self.sent);
        for frame in &sent {
            if let Some(payload) = frame.payload {
                self.memory.release(payload.slot);
            }
        }
        sent
    }

    /// Tells the shard that a frame's payload has left.
    pub(super) fn has_left(&mut self, frame: &Sent) {
        let bytes = frame.payload.map_or(0, |payload| payload.len);
        self.shard.on_sent(self.now, frame.link, bytes, &mut self.memory, &mut self.effects);
        self.settle();
    }

    pub(super) fn greeted(&mut self, link: u64) {
        self.shard.on_open(Link(link), &mut self.effects);
        assert_eq!(self.request(link, 0, &Request::Hello(hello(1, 1)), &[]), Placement::Discard);
        assert_eq!(self.reply().prefix.status, Status::Ok);
    }

    /// A frame arrives whole: its head, and its payload where the shard wants it.
    pub(super) fn request(
        &mut self,
        link: u64,
        correlation: u64,
        request: &Request<'_>,
        payload: &[u8],
    ) -> Placement {
        let mut head = Vec::new();
        let bytes = u32::try_from(payload.len()).unwrap();
        let meta = PayloadMeta { bytes, checksum: 0 };
        self.encoder.request(&mut head, RequestHead { correlation, deadline_ms: 0 }, request, meta);
        let (prefix, message) = head.split_first_chunk::<PREFIX_BYTES>().unwrap();
        let prefix = Prefix::decode(prefix).unwrap();
        self.frame(link, &prefix, message, payload)
    }

    pub(super) fn frame(&mut self, link: u64, prefix: &Prefix, message: &[u8], payload: &[u8]) -> Placement {
        let link = Link(link);
        let place = self.shard.on_head(self.now, link, prefix, message, &mut self.memory, &mut self.effects);
        self.settle();
        if let Placement::Into { slot, offset } = place {
            // As the driver does: a reference of its own while bytes arrive.
            self.memory.retain(slot);
            self.memory.bytes_mut(slot)[offset as usize..][..payload.len()].copy_from_slice(payload);
            self.memory.release(slot);
            self.shard.on_payload(self.now, link, &mut self.memory, &mut self.effects);
            self.settle();
        }
        place
    }

    /// Sends a chunk's head with so many bytes behind it.
    pub(super) fn put_head(
        &mut self,
        link: u64,
        correlation: u64,
        chunk: &Chunk,
        epoch: u64,
        bytes: usize,
    ) -> Placement {
        self.request(link, correlation, &Request::PutChunk(chunk.head(epoch)), &chunk.bytes[..bytes])
    }

    pub(super) fn fragment(&mut self, link: u64, correlation: u64, offset: usize, bytes: &[u8]) -> Placement {
        let offset = u32::try_from(offset).unwrap();
        self.request(link, correlation, &Request::PutFragment { class: HopClass::Client, offset }, bytes)
    }

    /// Sends a whole chunk in fragments of 256 KiB; nothing is on disk yet.
    pub(super) fn put(&mut self, link: u64, correlation: u64, chunk: &Chunk, epoch: u64) {
        let step = wire::limits::PAYLOAD_BYTES_MAX;
        self.put_head(link, correlation, chunk, epoch, step.min(chunk.bytes.len()));
        for offset in (step..chunk.bytes.len()).step_by(step) {
            let end = (offset + step).min(chunk.bytes.len());
            self.fragment(link, correlation, offset, &chunk.bytes[offset..end]);
        }
    }

    /// Puts a chunk and waits for its ack.
    pub(super) fn stored(&mut self, chunk: &Chunk) {
        self.put(1, 1_000_000, chunk, 1);
        self.run();
        let acks: Vec<Status> = self.answers().into_iter().map(|(_, status)| status).collect();
        assert_eq!(acks, [Status::Ok]);
    }

    pub(super) fn get(&mut self, link: u64, correlation: u64, get: GetChunk) {
        self.request(link, correlation, &Request::GetChunk(get), &[]);
    }

    /// The one frame that was sent.
    pub(super) fn reply(&mut self) -> Sent {
        let mut sent = self.take_sent();
        assert_eq!(sent.len(), 1, "{sent:?}");
        sent.remove(0)
    }

    /// Correlation ids and statuses of the replies so far; credit is counted apart.
    pub(super) fn answers(&mut self) -> Vec<(u64, Status)> {
        let sent = self.take_sent();
        let replies = sent.iter().filter(|frame| frame.prefix.kind != FrameKind::Credit);
        replies.map(|frame| (frame.prefix.correlation, frame.prefix.status)).collect()
    }

    /// Payload credit that the shard owes a connection, and hasn't sent yet.
    pub(super) fn owed(&mut self, link: u64) -> u32 {
        self.shard.links.state(Link(link)).expect("it is open").owed_credit(HopClass::Client)
    }

    pub(super) fn close(&mut self, link: u64) {
        self.shard.on_close(self.now, Link(link), &mut self.memory, &mut self.effects);
    }
}

pub(super) fn hello(version_min: u16, version_max: u16) -> Hello {
    Hello { version_min, version_max, features: 0, name: "test".into(), cluster: None, peer: None }
}

pub(super) fn decode(frame: &Sent) -> Reply<'_> {
    Reply::decode(frame.prefix.kind, frame.prefix.status, &frame.message).expect("the shard's own encoding")
}

const _: () = assert!(PROTOCOL_VERSION == 1, "the tables of versions in these tests start from it");
