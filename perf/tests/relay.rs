//! Heap allocations of handing a chunk on to the next store of its chain, at the allocator: what a shard with a successor allocates more than one without.

use std::sync::Arc;

use journal::fake_disk::{FakeDisk, FakeMemory, format_of};
use placement::{ClusterMap, Edition, OneNode, one_node};
use runtime::CountingAllocator;
use shard::{Effects, Identity, Link, Placement, Purpose, Shard, Target};
use store::{Store, StoreConfig};
use wire::checksum::{BlockHasher, leaf_count, root};
use wire::map::{Member, ReplicaState};
use wire::message::{
    Encoder, Hello, HelloReply, HopClass, PayloadMeta, PutChunk, Reply, ReplyHead, Request, RequestHead,
    Role, Words,
};
use wire::{
    ChunkId, ClusterId, Epoch, FrameKind, Load, MapNumber, Memory, Nanos, NodeId, PREFIX_BYTES, Prefix,
    SessionId, ShardIndex, Status, StoreId,
};

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

const CLUSTER: ClusterId = ClusterId([1; 16]);
const CLIENT: Link = Link(1);
const SUCCESSOR: Link = Link(2);
const FRAGMENT: usize = 256 << 10;
const LENGTH: usize = 512 << 10;
/// Chunks before anything is counted: tables and buffers have grown by then.
const WARM_UP: u64 = 100;
const CHUNKS: u64 = 400;
/// Of one chunk, in hundredths.
const LIMIT: u64 = 5;

fn store_id(number: u8) -> StoreId {
    StoreId([number; 16])
}

fn map(stores: u16) -> ClusterMap {
    let store = |number: u8| {
        (store_id(number), ShardIndex(number.into()), format!("127.0.0.1:{}", 7430 + u16::from(number)))
    };
    let first = one_node(OneNode {
        cluster: CLUSTER,
        node: NodeId(1),
        name: "node".into(),
        stores: vec![store(0), store(1)],
        metadata: StoreId([0xff; 16]),
        metadata_address: "127.0.0.1:2".into(),
        control: "127.0.0.1:3".into(),
        ring_bits: 0,
        reclaim_delay_ms: 1000,
    });
    let mut map = first.expect("a legal map").as_map().clone();
    map.settings.chain_length = 2;
    let member = |store| Member { store, state: ReplicaState::Serving, is_seed: true };
    map.slices[0].chain.members = (0..stores).map(member).collect();
    ClusterMap::new(map).expect("a legal map")
}

/// A shard, and what it runs on.
struct Bench {
    shard: Shard,
    disk: FakeDisk,
    memory: FakeMemory,
    effects: Effects,
    encoder: Encoder,
    /// Correlation ids of whole chunks that the successor has.
    relayed: Vec<u64>,
    relayed_bytes: u64,
    acks: u64,
    /// In the shard's own calls.
    allocations: u64,
}

impl Bench {
    fn new(stores: u16) -> Self {
        let segment = 64 << 20;
        let config = StoreConfig {
            prezero_bytes: 0,
            scrub: false,
            ..StoreConfig::new((1 << 20) + 64 * u64::from(segment), 0)
        };
        let store = Store::format(config, format_of(CLUSTER, store_id(0), segment));
        let identity = Identity {
            cluster: CLUSTER,
            node: NodeId(1),
            shard: ShardIndex(0),
            store: store_id(0),
            links_max: 9,
        };
        let mut bench = Self {
            shard: Shard::new(identity, store),
            disk: FakeDisk::new(1),
            memory: FakeMemory::default(),
            effects: Effects::default(),
            encoder: Encoder::new(),
            relayed: Vec::new(),
            relayed_bytes: 0,
            acks: 0,
            allocations: 0,
        };
        bench.call(|shard, memory, effects| shard.on_start(Nanos(1), memory, effects));
        bench.run();
        let edition = Arc::new(Edition::new(map(stores)));
        bench.call(|shard, memory, effects| shard.on_map(Nanos(1), edition, memory, effects));
        bench.call(|shard, _, effects| shard.on_open(CLIENT, effects));
        let hello = Hello {
            version_min: 1,
            version_max: 1,
            features: 0,
            name: String::new(),
            cluster: None,
            peer: None,
        };
        bench.request(CLIENT, 0, &Request::Hello(hello), &[]);
        bench
    }

    fn call<T>(&mut self, call: impl FnOnce(&mut Shard, &mut FakeMemory, &mut Effects) -> T) -> T {
        let before = CountingAllocator::allocations();
        let result = call(&mut self.shard, &mut self.memory, &mut self.effects);
        self.allocations += CountingAllocator::allocations() - before;
        self.carry_out();
        result
    }

    fn carry_out(&mut self) {
        self.disk.submit(&self.effects.io, &mut self.memory);
        let mut effects = std::mem::take(&mut self.effects);
        for send in &effects.sends {
            let head = &effects.bytes[send.head.0 as usize..send.head.1 as usize];
            let (bytes, _) = head.split_first_chunk::<PREFIX_BYTES>().expect("a prefix");
            let prefix = Prefix::decode(bytes).expect("the shard's own");
            if let Some(payload) = send.payload {
                self.memory.release(payload.slot);
                self.relayed_bytes += u64::from(payload.len);
                if self.relayed_bytes.is_multiple_of(LENGTH as u64) {
                    self.relayed.push(prefix.correlation);
                }
            }
            self.acks +=
                u64::from(prefix.reply && prefix.kind == FrameKind::PutChunk && prefix.status == Status::Ok);
        }
        let is_dialled = !effects.dials.is_empty();
        effects.clear();
        self.effects = effects;
        if is_dialled {
            let target = Target { store: store_id(1), purpose: Purpose::Relay };
            self.call(|shard, memory, effects| {
                shard.on_dialled(Nanos(1), target, Some(SUCCESSOR), memory, effects);
            });
            self.call(|shard, _, effects| shard.on_open(SUCCESSOR, effects));
            let reply = Reply::Hello(HelloReply {
                version: 1,
                features: 0,
                cluster: CLUSTER,
                node: NodeId(1),
                role: Role::Shard(ShardIndex(1)),
                map: MapNumber(1),
                put_credit_bytes: 16 << 20,
                server: String::new(),
            });
            self.reply(FrameKind::Hello, 0, &reply);
        }
    }

    fn frame(&mut self, link: Link, frame: &[u8], payload: &[u8]) {
        let (bytes, message) = frame.split_first_chunk::<PREFIX_BYTES>().expect("a prefix");
        let prefix = Prefix::decode(bytes).expect("a prefix");
        let place = self
            .call(|shard, memory, effects| shard.on_head(Nanos(1), link, &prefix, message, memory, effects));
        if let Placement::Into { slot, offset } = place {
            self.memory.bytes_mut(slot)[offset as usize..][..payload.len()].copy_from_slice(payload);
            self.call(|shard, memory, effects| shard.on_payload(Nanos(1), link, memory, effects));
        }
    }

    fn request(&mut self, link: Link, correlation: u64, request: &Request<'_>, payload: &[u8]) {
        let mut frame = Vec::new();
        let meta = PayloadMeta { bytes: u32::try_from(payload.len()).expect("a fragment"), checksum: 0 };
        self.encoder.request(&mut frame, RequestHead { correlation, deadline_ms: 0 }, request, meta);
        self.frame(link, &frame, payload);
    }

    fn reply(&mut self, kind: FrameKind, correlation: u64, reply: &Reply<'_>) {
        let mut frame = Vec::new();
        let head = ReplyHead { kind, correlation, status: Status::Ok, load: Load::default(), more: false };
        self.encoder.reply(&mut frame, head, reply, PayloadMeta::default());
        self.frame(SUCCESSOR, &frame, &[]);
    }

    fn run(&mut self) {
        self.call(|shard, memory, effects| shard.on_turn(Nanos(1), memory, effects));
        while let Some((io, outcome)) = self.disk.complete(&mut self.memory) {
            self.call(|shard, memory, effects| shard.on_io(Nanos(1), io, outcome, memory, effects));
        }
    }

    /// A client's chunk, until its ack.
    fn put(&mut self, number: u64, bytes: &[u8]) {
        let id = ChunkId { session: SessionId(9), ordinal: number };
        let mut leaves = vec![0; leaf_count(bytes.len())];
        BlockHasher::new(CLUSTER, id).leaves(0, bytes, &mut leaves);
        let head = PutChunk {
            id,
            length: u32::try_from(bytes.len()).expect("a chunk"),
            root: root(&leaves, bytes.len()),
            map: MapNumber(1),
            epoch: Epoch(1),
            class: HopClass::Client,
            leaves: Words::new(&leaves),
        };
        for (offset, fragment) in (0..).step_by(FRAGMENT).zip(bytes.chunks(FRAGMENT)) {
            let request = if offset == 0 {
                Request::PutChunk(head)
            } else {
                Request::PutFragment { class: HopClass::Client, offset }
            };
            self.request(CLIENT, number, &request, fragment);
        }
        self.run();
        while let Some(correlation) = self.relayed.pop() {
            self.reply(FrameKind::PutChunk, correlation, &Reply::PutChunk { map: MapNumber(1) });
            // Its buffers are free again.
            let credit =
                Request::Credit { class: HopClass::Tail, bytes: u32::try_from(LENGTH).expect("512 KiB") };
            self.request(SUCCESSOR, 0, &credit, &[]);
        }
    }
}

/// Allocations of `CHUNKS` puts where the chain has so many stores.
fn allocations(stores: u16) -> u64 {
    let mut bench = Bench::new(stores);
    let bytes = vec![7; LENGTH];
    for number in 0..WARM_UP + CHUNKS {
        if number == WARM_UP {
            bench.allocations = 0;
        }
        bench.put(number, &bytes);
    }
    assert_eq!(bench.acks, WARM_UP + CHUNKS, "each was acked");
    let relayed = if stores > 1 { (WARM_UP + CHUNKS) * LENGTH as u64 } else { 0 };
    assert_eq!(bench.relayed_bytes, relayed);
    bench.allocations
}

#[test]
fn handing_a_chunk_on_allocates_nothing() {
    let (alone, relayed) = (allocations(1), allocations(2));
    println!("{CHUNKS} chunks: {alone} allocations without a successor, {relayed} with one");
    assert!(relayed <= alone + CHUNKS * LIMIT / 100, "{alone} and {relayed}");
}
