//! A member on a fake disk, driven step by step, with what its peers see.

use std::sync::Arc;

use journal::Expected;
use journal::fake_disk::{FakeDisk, FakeMemory, format_of};
use journal::log::{Log, LogConfig};
use placement::{ClusterMap, Edition, OneNode, one_node};
use replica::ReplicaConfig;
use wire::message::{Encoder, Hello, PayloadMeta, Reply, Request, RequestHead};
use wire::meta::{Mutation, NewAttributes, Operation, Place, SessionGrant, VolumePolicy};
use wire::{
    ClusterId, GroupId, InodeId, Nanos, NodeId, PREFIX_BYTES, Prefix, Sequence, SessionId, ShardIndex,
    Status, StoreId, Timestamp, VolumeId,
};

use crate::{Clock, CloseReason, Dial, Effects, Identity, Link, Member, Note};

pub(super) const CLUSTER: ClusterId = ClusterId([1; 16]);
pub(super) const LINKS_MAX: u32 = 3;
const SEGMENT_BYTES: u32 = 64 << 10;

/// A frame that the member sent.
#[derive(Clone, Debug)]
pub(super) struct Sent {
    pub(super) link: Link,
    pub(super) prefix: Prefix,
    pub(super) message: Vec<u8>,
}

pub(super) struct Bench {
    pub(super) member: Member,
    pub(super) disk: FakeDisk,
    pub(super) memory: FakeMemory,
    pub(super) effects: Effects,
    pub(super) settings: ReplicaConfig,
    /// Who the member is, and the map that it begins with.
    pub(super) identity: Identity,
    pub(super) edition: Arc<Edition>,
    pub(super) now: Nanos,
    pub(super) sent: Vec<Sent>,
    pub(super) closes: Vec<(Link, CloseReason)>,
    pub(super) dials: Vec<Dial>,
    pub(super) notes: Vec<Note>,
    encoder: Encoder,
}

/// Two stores at these ports.
pub(super) fn map(number: u64, ports: [u16; 2]) -> ClusterMap {
    let store = |shard: u16| {
        let address = format!("127.0.0.1:{}", ports[usize::from(shard)]);
        (StoreId([shard.to_le_bytes()[0] + 2; 16]), ShardIndex(shard), address)
    };
    let first = one_node(OneNode {
        cluster: CLUSTER,
        node: NodeId(1),
        name: "node".into(),
        stores: vec![store(0), store(1)],
        metadata: StoreId([0xff; 16]),
        metadata_address: "127.0.0.1:2".into(),
        control: "127.0.0.1:3".into(),
        ring_bits: 4,
        reclaim_delay_ms: 1000,
    });
    let mut map = first.expect("a legal map").as_map().clone();
    map.number = wire::MapNumber(number);
    ClusterMap::new(map).expect("a legal map")
}

fn log_config(device_bytes: u64) -> LogConfig {
    LogConfig {
        capacity_bytes: (1 << 20) + 64 * u64::from(SEGMENT_BYTES),
        device_bytes,
        prezero_bytes: 0,
        accept_data_loss: false,
        life_random: 0,
        takes_over: None,
    }
}

fn identity() -> Identity {
    Identity {
        cluster: CLUSTER,
        node: NodeId(1),
        group: GroupId(0),
        store: StoreId([0xff; 16]),
        links_max: LINKS_MAX,
    }
}

impl Bench {
    /// A member that serves on an empty log, with link 1 greeted.
    pub(super) fn new() -> Self {
        Self::with(ReplicaConfig { reclaim_delay: Nanos::SECOND, ..ReplicaConfig::default() })
    }

    pub(super) fn with(settings: ReplicaConfig) -> Self {
        let mut bench = Self::formatting(settings);
        bench.run();
        bench.greeted(1);
        bench
    }

    /// The disk hasn't done anything yet.
    pub(super) fn formatting(settings: ReplicaConfig) -> Self {
        Self::of(settings, identity(), map(1, [10, 11]))
    }

    /// The same of any member of any map.
    pub(super) fn of(settings: ReplicaConfig, identity: Identity, map: ClusterMap) -> Self {
        let format = format_of(CLUSTER, StoreId([2; 16]), SEGMENT_BYTES);
        let mut bench = Self {
            member: Member::new(identity, settings, Log::format(log_config(0), format)),
            disk: FakeDisk::new(1),
            memory: FakeMemory::default(),
            effects: Effects::default(),
            settings,
            identity,
            edition: Arc::new(Edition::new(map)),
            now: Nanos(1),
            sent: Vec::new(),
            closes: Vec::new(),
            dials: Vec::new(),
            notes: Vec::new(),
            encoder: Encoder::new(),
        };
        bench.begin();
        bench
    }

    fn begin(&mut self) {
        let edition = Arc::clone(&self.edition);
        self.event(|member, clock, memory, effects| {
            member.on_map(clock, edition, memory, effects);
            member.on_start(clock, memory, effects);
        });
    }

    /// The process starts again on the same disk, and recovers.
    pub(super) fn reopen(&mut self) {
        self.restart();
        self.run();
        if self.member.replica().is_some() {
            self.greeted(1);
        }
    }

    /// The process starts again on the same disk.
    pub(super) fn restart(&mut self) {
        self.memory.clear();
        self.sent.clear();
        self.notes.clear();
        self.member = Member::new(self.identity, self.settings, self.log());
        self.disk.counters = journal::fake_disk::DiskCounters::default();
        self.begin();
    }

    /// The log that is on the disk.
    pub(super) fn log(&self) -> Log {
        let expected = Expected { cluster: Some(CLUSTER), store: None, node: NodeId(1), unit: 0 };
        Log::open(log_config(self.disk.length()), expected)
    }

    /// Hands the member an event and carries out what follows, but for the disk's work, which is only taken in.
    pub(super) fn event<T>(
        &mut self,
        step: impl FnOnce(&mut Member, Clock, &mut FakeMemory, &mut Effects) -> T,
    ) -> T {
        let wall = Timestamp(1_000_000_000 + self.now.0.cast_signed());
        let clock = Clock { now: self.now, wall };
        let result = step(&mut self.member, clock, &mut self.memory, &mut self.effects);
        self.disk.submit(&self.effects.io, &mut self.memory);
        for send in &self.effects.sends {
            let head = &self.effects.bytes[send.head.0 as usize..send.head.1 as usize];
            let (prefix, message) = head.split_first_chunk::<PREFIX_BYTES>().unwrap();
            Prefix::verify(prefix, message).unwrap();
            let prefix = Prefix::decode(prefix).unwrap();
            self.sent.push(Sent { link: send.link, prefix, message: message.to_vec() });
        }
        self.closes.extend_from_slice(&self.effects.closes);
        self.notes.extend_from_slice(&self.effects.notes);
        self.dials.append(&mut self.effects.dials);
        self.effects.clear();
        result
    }

    pub(super) fn turn(&mut self) {
        self.event(Member::on_turn);
    }

    /// One of the disk's requests ends.
    pub(super) fn step(&mut self) -> bool {
        let Some((io, outcome)) = self.disk.complete(&mut self.memory) else { return false };
        self.event(|member, clock, memory, effects| member.on_io(clock, io, outcome, memory, effects));
        true
    }

    /// Ends the turn, and lets the disk do everything that it was asked.
    pub(super) fn run(&mut self) {
        loop {
            self.turn();
            if !self.step() {
                return;
            }
            while self.step() {}
        }
    }

    /// Time passes in steps, with a tick at each.
    pub(super) fn pass(&mut self, nanos: u64) {
        let until = self.now.after(nanos);
        while self.now < until {
            self.now = self.now.after(10 * Nanos::MILLISECOND).min(until);
            self.event(Member::on_tick);
            self.run();
        }
    }

    pub(super) fn shutdown(&mut self) {
        self.event(Member::on_shutdown);
    }

    pub(super) fn open(&mut self, link: u64) {
        self.event(|member, _, _, _| member.on_open(Link(link)));
    }

    pub(super) fn close(&mut self, link: u64) {
        self.event(|member, clock, memory, effects| member.on_close(clock, Link(link), memory, effects));
    }

    pub(super) fn greeted(&mut self, link: u64) {
        self.open(link);
        assert_eq!(self.request(link, 0, &Request::Hello(hello(1, 1))), None);
        assert_eq!(self.reply().prefix.status, Status::Ok);
    }

    pub(super) fn request(
        &mut self,
        link: u64,
        correlation: u64,
        request: &Request<'_>,
    ) -> Option<CloseReason> {
        let mut head = Vec::new();
        let request_head = RequestHead { correlation, deadline_ms: 0 };
        self.encoder.request(&mut head, request_head, request, PayloadMeta::default());
        self.frame(link, &head)
    }

    pub(super) fn frame(&mut self, link: u64, head: &[u8]) -> Option<CloseReason> {
        let (prefix, message) = head.split_first_chunk::<PREFIX_BYTES>().unwrap();
        let prefix = Prefix::decode(prefix).unwrap();
        self.event(|member, clock, memory, effects| {
            member.on_head(clock, Link(link), &prefix, message, memory, effects)
        })
    }

    /// The one frame that was sent.
    pub(super) fn reply(&mut self) -> Sent {
        assert_eq!(self.sent.len(), 1, "{:?}", self.sent);
        self.sent.remove(0)
    }

    /// Correlation ids and statuses of what was sent so far.
    pub(super) fn answers(&mut self) -> Vec<(u64, Status)> {
        self.sent.drain(..).map(|frame| (frame.prefix.correlation, frame.prefix.status)).collect()
    }

    pub(super) fn session(&mut self) -> SessionId {
        self.request(1, 1, &Request::OpenSession { name: "test".into() });
        self.run();
        let reply = self.reply();
        match decode(&reply) {
            Reply::Session(SessionGrant { session, .. }) => session,
            other => panic!("{other:?}"),
        }
    }

    /// A session, a volume, and so many directories in it.
    pub(super) fn filled(&mut self, directories: u64) -> SessionId {
        let session = self.session();
        for number in 0..=directories {
            let operation = if number == 0 { create_volume() } else { make_directory(number) };
            self.request(1, 2 + number, &mutation(session, number + 1, operation));
            self.run();
            assert_eq!(self.answers(), [(2 + number, Status::Ok)]);
        }
        session
    }
}

pub(super) fn mutation(session: SessionId, sequence: u64, operation: Operation) -> Request<'static> {
    let acked_upto = Sequence(sequence - 1);
    Request::Mutate(Mutation { session, sequence: Sequence(sequence), acked_upto, operation })
}

pub(super) fn create_volume() -> Operation {
    let policy = VolumePolicy { chunk_bytes: 1 << 20, retention_seconds: 0 };
    Operation::CreateVolume { name: "volume".into(), policy }
}

pub(super) fn make_directory(number: u64) -> Operation {
    let path = format!("directory-number-{number}").into();
    let place = Place { volume: VolumeId(1), directory: InodeId::ROOT, path };
    Operation::MakeDirectory { place, attributes: NewAttributes::default(), parents: false }
}

pub(super) fn hello(version_min: u16, version_max: u16) -> Hello {
    Hello { version_min, version_max, features: 0, name: "test".into(), cluster: None, peer: None }
}

pub(super) fn decode(frame: &Sent) -> Reply<'_> {
    Reply::decode(frame.prefix.kind, frame.prefix.status, &frame.message).expect("the member's own encoding")
}
