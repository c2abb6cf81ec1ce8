//! What one connection may hold: slow writers and readers, spent credit, ends.

use std::collections::BTreeMap;
use std::sync::Arc;

use journal::SEGMENT_BYTES;
use journal::fake_disk::{FakeDisk, FakeMemory, format_of};
use placement::{ClusterMap, Edition, OneNode, one_node};
use store::{Store, StoreConfig};
use wire::checksum::{BlockHasher, leaf_count, root};
use wire::message::{
    Encoder, GetChunk, Hello, HopClass, Leaves, PayloadMeta, PutChunk, Request, RequestHead,
};
use wire::{
    ChunkId, ClusterId, Epoch, FrameKind, Memory, Nanos, NodeId, PREFIX_BYTES, PROTOCOL_VERSION, Prefix,
    SessionId, ShardIndex, Status, StoreId,
};

use crate::link::{CREDIT_RETURN_BYTES, LINK_GET_BYTES_MAX, LINK_GETS_WAITING_MAX};
use crate::{CloseReason, Effects, Identity, Link, Placement, Send, Shard};

const ARENA_BYTES: usize = 64 << 20;
const CHUNK_BYTES: u32 = 4 << 20;
const FRAGMENT_BYTES: u32 = 256 << 10;
const CLUSTER: ClusterId = ClusterId([3; 16]);
const STORE: StoreId = StoreId([4; 16]);

/// A shard on a fake disk; what it sends stays where it is until the test lets it leave.
struct Bench {
    shard: Shard,
    disk: FakeDisk,
    memory: FakeMemory,
    effects: Effects,
    now: Nanos,
    encoder: Encoder,
    /// Statuses by connection and correlation id; the last one counts.
    answers: BTreeMap<(Link, u64), Status>,
    unsent: Vec<Send>,
    credit: BTreeMap<Link, u32>,
    deadline: Option<Nanos>,
    shut_down: bool,
}

impl Bench {
    fn new() -> Self {
        let config = StoreConfig { prezero_bytes: 0, scrub: false, ..StoreConfig::new(1 << 30, 0) };
        let store = Store::format(config, format_of(CLUSTER, STORE, SEGMENT_BYTES));
        let identity =
            Identity { cluster: CLUSTER, node: NodeId(1), shard: ShardIndex(0), store: STORE, links_max: 64 };
        let mut bench = Self {
            shard: Shard::new(identity, store),
            disk: FakeDisk::new(1),
            memory: FakeMemory::default(),
            effects: Effects::default(),
            now: Nanos(1),
            encoder: Encoder::new(),
            answers: BTreeMap::new(),
            unsent: Vec::new(),
            credit: BTreeMap::new(),
            deadline: None,
            shut_down: false,
        };
        bench.memory.limit_bytes = ARENA_BYTES;
        let edition = Arc::new(Edition::new(map()));
        bench.shard.on_map(bench.now, edition, &mut bench.memory, &mut bench.effects);
        bench.shard.on_start(bench.now, &mut bench.memory, &mut bench.effects);
        bench.run();
        bench
    }

    fn connect(&mut self, number: u64) -> Link {
        let link = Link(number);
        self.shard.on_open(link, &mut self.effects);
        let (version_min, version_max) = (PROTOCOL_VERSION, PROTOCOL_VERSION);
        let hello =
            Hello { version_min, version_max, features: 0, name: "test".into(), cluster: None, peer: None };
        self.head(link, &Request::Hello(hello), 1, 0);
        link
    }

    /// A frame's head arrives.
    fn head(&mut self, link: Link, request: &Request<'_>, correlation: u64, payload: u32) -> Placement {
        let mut frame = Vec::new();
        let head = RequestHead { correlation, deadline_ms: 0 };
        self.encoder.request(&mut frame, head, request, PayloadMeta { bytes: payload, checksum: 0 });
        let (prefix, message) = frame.split_first_chunk::<PREFIX_BYTES>().expect("a prefix");
        let prefix = Prefix::decode(prefix).expect("of our own");
        let place = self.shard.on_head(self.now, link, &prefix, message, &mut self.memory, &mut self.effects);
        self.carry_out();
        place
    }

    /// The first fragment of a chunk of zeros arrives, of `bytes` bytes.
    fn begin_put(&mut self, link: Link, number: u64, length: u32, bytes: u32) -> Placement {
        let leaves = leaves(number, length);
        let head = PutChunk {
            id: id(number),
            length,
            root: root(&leaves, length as usize),
            map: wire::MapNumber(1),
            epoch: Epoch(1),
            class: HopClass::Client,
            leaves: Leaves::new(&leaves),
        };
        let place = self.head(link, &Request::PutChunk(head), number, bytes);
        self.payload(link, place, bytes, 0);
        place
    }

    fn fragment(&mut self, link: Link, number: u64, offset: u32) -> Placement {
        let place = self.head(
            link,
            &Request::PutFragment { class: HopClass::Client, offset },
            number,
            FRAGMENT_BYTES,
        );
        self.payload(link, place, FRAGMENT_BYTES, 0);
        place
    }

    fn payload(&mut self, link: Link, place: Placement, bytes: u32, byte: u8) {
        if let Placement::Into { slot, offset } = place {
            self.memory.bytes_mut(slot)[offset as usize..(offset + bytes) as usize].fill(byte);
            self.shard.on_payload(self.now, link, &mut self.memory, &mut self.effects);
            self.carry_out();
        }
    }

    fn put_whole(&mut self, link: Link, number: u64, length: u32) -> Option<Status> {
        let first = length.min(FRAGMENT_BYTES);
        self.begin_put(link, number, length, first);
        for offset in (first..length).step_by(FRAGMENT_BYTES as usize) {
            self.fragment(link, number, offset);
        }
        self.run();
        self.answers.get(&(link, number)).copied()
    }

    /// Asks for a whole chunk; what comes isn't read.
    fn get(&mut self, link: Link, correlation: u64, number: u64) {
        let get = GetChunk { id: id(number), first_block: 0, block_count: 0 };
        self.head(link, &Request::GetChunk(get), correlation, 0);
        self.run();
    }

    fn carry_out(&mut self) {
        for send in &self.effects.sends {
            let bytes = &self.effects.bytes[send.head.0 as usize..send.head.1 as usize];
            let (prefix, message) = bytes.split_first_chunk::<PREFIX_BYTES>().expect("a prefix");
            let prefix = Prefix::decode(prefix).expect("of our own");
            if prefix.kind == FrameKind::Credit {
                let Ok(Request::Credit { bytes, .. }) = Request::decode(prefix.kind, message) else {
                    panic!("a credit is one");
                };
                *self.credit.entry(send.link).or_default() += bytes;
            } else {
                self.answers.insert((send.link, prefix.correlation), prefix.status);
            }
            self.unsent.extend(send.payload.map(|_| *send));
        }
        self.disk.submit(&self.effects.io, &mut self.memory);
        self.shut_down |= self.effects.shut_down;
        self.deadline = match (self.deadline, self.effects.deadline) {
            (Some(known), Some(new)) => Some(known.min(new)),
            (known, new) => known.or(new),
        };
        self.effects.clear();
    }

    /// Until the disk is idle. Time stands still.
    fn run(&mut self) {
        loop {
            self.shard.on_turn(self.now, &mut self.memory, &mut self.effects);
            self.carry_out();
            let Some((io, outcome)) = self.disk.complete(&mut self.memory) else { break };
            self.shard.on_io(self.now, io, outcome, &mut self.memory, &mut self.effects);
            self.carry_out();
        }
    }

    /// The driver's timer fires.
    fn tick(&mut self, now: Nanos) {
        self.now = now;
        self.deadline = None;
        self.shard.on_tick(now, &mut self.memory, &mut self.effects);
        self.carry_out();
    }

    fn close(&mut self, link: Link) {
        let (gone, left) = self.unsent.drain(..).partition(|send| send.link == link);
        self.unsent = left;
        let gone: Vec<Send> = gone;
        for payload in gone.iter().filter_map(|send| send.payload) {
            self.memory.release(payload.slot);
        }
        self.shard.on_close(self.now, link, &mut self.memory, &mut self.effects);
    }

    /// What was found for a connection leaves.
    fn deliver(&mut self, link: Link) {
        while let Some(at) = self.unsent.iter().position(|send| send.link == link) {
            let payload = self.unsent.remove(at).payload.expect("only those wait");
            self.memory.release(payload.slot);
            self.shard.on_sent(self.now, link, payload.len, &mut self.memory, &mut self.effects);
            self.carry_out();
            self.run();
        }
    }

    fn count(&self, link: Link, status: Status) -> usize {
        self.answers.iter().filter(|((to, _), found)| *to == link && **found == status).count()
    }
}

fn map() -> ClusterMap {
    one_node(OneNode {
        cluster: CLUSTER,
        node: NodeId(1),
        name: "n".into(),
        stores: vec![(STORE, ShardIndex(0), "127.0.0.1:7430".into())],
        metadata: StoreId([0xff; 16]),
        metadata_address: "127.0.0.1:7421".into(),
        control: "127.0.0.1:7422".into(),
        ring_bits: 0,
        reclaim_delay_ms: 1000,
    })
    .expect("a map")
}

fn id(number: u64) -> ChunkId {
    ChunkId { session: SessionId(7), ordinal: number }
}

/// The leaves of a chunk of zeros.
fn leaves(number: u64, length: u32) -> Vec<u64> {
    let mut leaves = vec![0; leaf_count(length as usize)];
    BlockHasher::new(CLUSTER, id(number)).leaves(0, &vec![0; length as usize], &mut leaves);
    leaves
}

/// Heads of large chunks with a small first fragment each took a whole chunk's buffer: 64 of them, 4 MiB in all, were the whole arena,
/// and every other put and get was `Busy` for as long as the client liked.
#[test]
fn a_slow_writer_leaves_room() {
    let mut bench = Bench::new();
    let slow = bench.connect(1);
    for number in 1..=64 {
        bench.begin_put(slow, number, CHUNK_BYTES, 64 << 10);
    }
    assert!(bench.shard.links.state(slow).expect("open").puts.len() > 1, "it may have some");
    assert!(bench.count(slow, Status::Busy) > 50, "and not all");
    let other = bench.connect(9);
    assert_eq!(bench.put_whole(other, 100, CHUNK_BYTES), Some(Status::Ok));
    bench.get(other, 200, 100);
    assert_eq!(bench.answers.get(&(other, 200)), Some(&Status::Ok));
    bench.deliver(other);
    bench.close(slow);
    assert_eq!((bench.shard.shares.puts, bench.shard.shares.gets), (0, 0), "all is given back");
}

/// However many they are, and though each is within its limits.
#[test]
fn slow_writers_make_room() {
    let mut bench = Bench::new();
    let slow: Vec<Link> = (1..=40).map(|number| bench.connect(number)).collect();
    for (link, number) in slow.iter().cycle().zip(1..=400) {
        bench.begin_put(*link, number, CHUNK_BYTES >> (number % 6), 64 << 10);
    }
    bench.now = bench.now.after(2 * Nanos::SECOND);
    let other = bench.connect(99);
    assert_eq!(bench.put_whole(other, 1000, CHUNK_BYTES), Some(Status::Ok));
    for link in slow {
        bench.close(link);
    }
    assert_eq!((bench.shard.shares.puts, bench.shard.shares.gets), (0, 0), "all is given back");
}

/// A connection's window of whole chunks never meets a limit: credit holds it back before.
#[test]
fn credit_is_enough_for_a_window() {
    let mut bench = Bench::new();
    bench.memory.limit_bytes = 256 << 20;
    let link = bench.connect(1);
    for number in 11..=14 {
        bench.begin_put(link, number, CHUNK_BYTES, FRAGMENT_BYTES);
        for offset in (FRAGMENT_BYTES..CHUNK_BYTES).step_by(FRAGMENT_BYTES as usize) {
            assert!(matches!(bench.fragment(link, number, offset), Placement::Into { .. }));
        }
    }
    assert_eq!(bench.answers.len(), 1, "only the greeting has been answered");
    // The disk hasn't moved, so nothing was given back.
    let beyond = bench.begin_put(link, 15, CHUNK_BYTES, 64 << 10);
    assert_eq!(beyond, Placement::Close(CloseReason::Protocol), "R38: payload without credit");
}

#[test]
fn credit_comes_back_for_every_byte() {
    let mut bench = Bench::new();
    let link = bench.connect(1);
    let turns = CREDIT_RETURN_BYTES / FRAGMENT_BYTES;
    for number in 1..=u64::from(turns) {
        let leaves = leaves(number, FRAGMENT_BYTES);
        let head = PutChunk {
            id: id(number),
            length: FRAGMENT_BYTES,
            root: root(&leaves, FRAGMENT_BYTES as usize),
            map: wire::MapNumber(1),
            epoch: Epoch(1),
            class: HopClass::Client,
            leaves: Leaves::new(&leaves),
        };
        let place = bench.head(link, &Request::PutChunk(head), number, FRAGMENT_BYTES);
        // Not the bytes of the leaves.
        bench.payload(link, place, FRAGMENT_BYTES, 1);
    }
    assert_eq!(bench.count(link, Status::ChecksumMismatch), turns as usize);
    assert_eq!(bench.credit.get(&link), Some(&CREDIT_RETURN_BYTES), "also for what didn't verify");
}

/// Between two fragments nothing was timed: a frame of any kind now and then kept the connection and with it the buffer for ever.
#[test]
fn a_chunk_that_does_not_arrive_is_given_up() {
    let mut bench = Bench::new();
    let link = bench.connect(1);
    let free = bench.memory.free_bytes();
    bench.begin_put(link, 2, CHUNK_BYTES, FRAGMENT_BYTES);
    // Of the next one only the head comes.
    let place = bench.head(
        link,
        &Request::PutFragment { class: HopClass::Client, offset: FRAGMENT_BYTES },
        2,
        FRAGMENT_BYTES,
    );
    let Placement::Into { slot, .. } = place else { panic!("it is expected") };
    bench.memory.retain(slot);
    let mut ticks = 0;
    while !bench.answers.contains_key(&(link, 2)) {
        let at = bench.deadline.expect("somebody looks after it");
        bench.tick(at);
        ticks += 1;
        assert!(ticks < 1000, "it is given up");
    }
    assert_eq!(bench.answers[&(link, 2)], Status::DeadlineExceeded);
    // As the driver does once the payload is whole.
    bench.memory.release(slot);
    bench.shard.on_payload(bench.now, link, &mut bench.memory, &mut bench.effects);
    bench.carry_out();
    bench.run();
    assert_eq!(bench.memory.free_bytes(), free);
    let owed = bench.shard.links.state(link).expect("open").owed_credit(HopClass::Client);
    assert_eq!(owed, 2 * FRAGMENT_BYTES, "of both fragments");
    assert_eq!(bench.put_whole(link, 3, 4096), Some(Status::Ok), "the connection is well");
}

/// The driver has one deadline for all: a tick for one purpose must not forget the other's.
#[test]
fn the_stores_tick_outlives_others() {
    let mut bench = Bench::new();
    let link = bench.connect(1);
    assert_eq!(bench.put_whole(link, 2, 4096), Some(Status::Ok));
    let wanted = bench.deadline.expect("an empty batch is due (R29)");
    let flushes = bench.disk.counters.flushes;
    bench.tick(Nanos(2));
    assert_eq!(bench.deadline, Some(wanted));
    for _ in 0..5 {
        let at = bench.deadline.expect("armed again");
        bench.tick(at);
        bench.run();
        if bench.disk.counters.flushes > flushes {
            break;
        }
    }
    assert!(bench.disk.counters.flushes > flushes, "the idle batch is written");
}

/// Each connection had up to 8 MiB of gets whatever the arena's size, so that a few dozen slow readers held all of it.
#[test]
fn slow_readers_leave_room() {
    let mut bench = Bench::new();
    let other = bench.connect(100);
    assert_eq!(bench.put_whole(other, 2, 1 << 20), Some(Status::Ok));
    let slow: Vec<Link> = (1..=12).map(|number| bench.connect(number)).collect();
    for correlation in 10..20 {
        for link in &slow {
            bench.get(*link, correlation, 2);
        }
    }
    assert!(slow.iter().all(|link| bench.count(*link, Status::Busy) == 0), "they wait for their own");
    bench.get(other, 3, 2);
    assert_eq!(bench.answers.get(&(other, 3)), Some(&Status::Ok));
    bench.deliver(other);
    assert_eq!(bench.put_whole(other, 4, CHUNK_BYTES), Some(Status::Ok));
    // Who reads gets all that it asked for.
    bench.deliver(slow[0]);
    assert_eq!(bench.count(slow[0], Status::Ok), 11);
    for link in slow {
        bench.close(link);
    }
    assert_eq!((bench.shard.shares.puts, bench.shard.shares.gets), (0, 0), "all is given back");
}

/// A get counted by its bytes while it holds blocks: thousands of unread answers of one byte each were the whole arena.
#[test]
fn tiny_gets_count_as_blocks() {
    let mut bench = Bench::new();
    bench.memory.limit_bytes = 256 << 20;
    let link = bench.connect(1);
    assert_eq!(bench.put_whole(link, 2, 1), Some(Status::Ok));
    let fit = LINK_GET_BYTES_MAX as usize / 4096;
    let asked = fit + LINK_GETS_WAITING_MAX + 10;
    for correlation in 0..asked as u64 {
        bench.get(link, 10 + correlation, 2);
    }
    assert_eq!(bench.unsent.len(), fit);
    assert_eq!(bench.count(link, Status::Busy), 10);
}

/// A flush that failed while the store closed left it fenced and never closed: the node waited for its end.
#[test]
fn a_store_that_fails_while_it_ends_has_ended() {
    let mut bench = Bench::new();
    let link = bench.connect(1);
    assert_eq!(bench.put_whole(link, 2, 4096), Some(Status::Ok));
    bench.disk.faults.flush_errors = 10_000;
    bench.disk.faults.write_errors = 10_000;
    bench.shard.on_shutdown(bench.now, &mut bench.memory, &mut bench.effects);
    bench.carry_out();
    bench.run();
    assert!(bench.shut_down);
}
