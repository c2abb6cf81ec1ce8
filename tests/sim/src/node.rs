//! A simulated node: its shards and its metadata replica, each with its own arena and disk; what a process and its machine can suffer.

use std::collections::BTreeSet;
use std::sync::Arc;

use group::Clock;
use journal::log::{Log, LogConfig};
use journal::{Expected, Format, Geometry, Identity};
use placement::{ClusterMap, Edition, OneNode, one_node};
use replica::ReplicaConfig;
use store::{Store, StoreConfig};
use wire::map::{Member, ReplicaState, Unit};
use wire::{ChunkId, ClusterId, Nanos, NodeId, ShardIndex, StoreId, Timestamp};

use crate::disk::SimDisk;
use crate::kept::Kept;
use crate::memory::SimMemory;
use crate::meta_unit::MetaUnit;
use crate::network::{Connection, Frame, Network, Sender, Side};
use crate::random::Random;
use crate::report::Tally;
use crate::schedule::Schedule;
use crate::shard_unit::{ShardUnit, take_payload};
use crate::trace::Trace;
use crate::unit::{Note, Out, Peer};
use crate::world::Happening;

/// Sizes and delays of a node.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NodeSettings {
    /// Its shards.
    pub shards: usize,
    /// Copies of each chunk, each with another shard.
    pub copies: usize,
    /// Segments of its stores.
    pub geometry: Geometry,
    /// Bytes that a store may grow to.
    pub store_bytes: u64,
    /// Segments of its log.
    pub log_geometry: Geometry,
    /// Bytes that its log may grow to.
    pub log_bytes: u64,
    /// Of the metadata group.
    pub replica: ReplicaConfig,
}

/// What can be at a unit's place.
#[derive(Debug)]
pub(crate) enum Logic {
    /// A shard.
    Shard(Box<ShardUnit>),
    /// The metadata replica.
    Meta(Box<MetaUnit>),
}

impl Logic {
    /// What it holds, if all of that is durable.
    fn kept(&self) -> Option<Kept> {
        match self {
            Self::Shard(shard) => Some(Kept::of_store(shard.store())),
            Self::Meta(meta) => meta.replica().and_then(Kept::of_group),
        }
    }
}

/// Where a unit stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Condition {
    /// Its process is gone.
    Down,
    /// It opens.
    Opening,
    /// It serves.
    Serving,
    /// A write failed.
    Fenced,
    /// It can't be opened.
    Failed(String),
    /// It has ended in order.
    Ended,
}

/// A unit with its disk and its arena.
#[derive(Debug)]
pub(crate) struct Host {
    /// What runs there.
    pub logic: Option<Logic>,
    /// Its arena.
    pub memory: SimMemory,
    /// Its disk.
    pub disk: SimDisk,
    /// Where it stands.
    pub condition: Condition,
    /// Connections that others have to it.
    connections: BTreeSet<Connection>,
    /// Those that it asked for.
    own: BTreeSet<Connection>,
    armed: BTreeSet<Nanos>,
    turn_is_due: bool,
    /// Chunks that it reported as damaged, in any life.
    pub damaged: BTreeSet<ChunkId>,
    /// It reported batches as lost, in any life.
    pub batches_damaged: bool,
    /// What it held when it ended in order, until its next start.
    kept: Option<Kept>,
    /// What its next start found to be different.
    pub lost: Option<String>,
    secrets: (u64, u64),
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Node {
    number: usize,
    settings: NodeSettings,
    /// Its units: shards first, then the metadata replica.
    pub hosts: Vec<Host>,
    /// Rises at each start.
    pub life: u64,
    /// Its machine has no power.
    pub is_dark: bool,
    /// Nothing happens in it before.
    pub paused_until: Nanos,
    edition: Arc<Edition>,
    random: Random,
    /// The wall clock minus the monotonic one.
    wall_offset: i64,
}

/// What a node needs to act.
pub(crate) struct Around<'a> {
    /// Time.
    pub schedule: &'a mut Schedule<Happening>,
    /// Connections.
    pub network: &'a mut Network,
    /// What happened.
    pub trace: &'a mut Trace,
    /// Counts.
    pub tally: &'a mut Tally,
}

/// Callers from this number on are nodes' metadata replicas.
pub(crate) const NODE_CALLERS: usize = 1_000;
const CLUSTER: ClusterId = ClusterId([7; 16]);
const ARENA_BYTES: usize = 64 << 20;
/// Connections that a unit serves.
const LINKS_MAX: u32 = 64;

impl Node {
    /// A node with empty disks; [`start`](Self::start) formats them.
    pub(crate) fn new(seed: u64, number: usize, settings: NodeSettings) -> Self {
        let mut random = Random::stream(seed, &format!("node {number}"));
        let stores = (0..settings.shards)
            .map(|shard| (store_id(number, shard), shard_index(shard), address(number, shard)))
            .collect();
        let map = one_node(OneNode {
            cluster: CLUSTER,
            node: node_id(number),
            name: format!("node-{number}"),
            stores,
            metadata: store_id(number, settings.shards),
            metadata_address: address(number, settings.shards),
            control: address(number, settings.shards + 1),
            ring_bits: 6,
            reclaim_delay_ms: settings.replica.reclaim_delay / Nanos::MILLISECOND,
        })
        .expect("a legal map");
        let map = with_copies(&map, settings.copies);
        let disk = |unit: usize| if unit < settings.shards { SimDisk::new } else { SimDisk::of_log };
        let host = |unit: usize| Host {
            logic: None,
            memory: SimMemory::new(ARENA_BYTES),
            disk: disk(unit)(seed, &format!("disk {number}.{unit}")),
            condition: Condition::Down,
            connections: BTreeSet::new(),
            own: BTreeSet::new(),
            armed: BTreeSet::new(),
            turn_is_due: false,
            damaged: BTreeSet::new(),
            batches_damaged: false,
            kept: None,
            lost: None,
            secrets: (random.next(), random.next()),
        };
        let hosts = (0..=settings.shards).map(host).collect();
        let edition = Arc::new(Edition::new(map));
        Self {
            number,
            settings,
            hosts,
            life: 0,
            is_dark: false,
            paused_until: Nanos(0),
            edition,
            random,
            wall_offset: 1_700_000_000_000_000_000,
        }
    }

    /// The process starts: formats empty disks, opens others.
    pub(crate) fn start(&mut self, around: &mut Around<'_>) {
        self.life += 1;
        self.is_dark = false;
        self.wall_offset += i64::try_from(self.random.below(4 * Nanos::SECOND)).expect("seconds")
            - i64::try_from(2 * Nanos::SECOND).expect("seconds");
        around
            .trace
            .note(around.schedule.now(), format_args!("node {} starts, life {}", self.number, self.life));
        for unit in 0..self.hosts.len() {
            let mut out = Out::default();
            let clock = self.clock(around.schedule.now());
            let host = &mut self.hosts[unit];
            host.memory = SimMemory::new(ARENA_BYTES);
            host.condition = Condition::Opening;
            host.armed.clear();
            host.turn_is_due = false;
            let edition = Arc::clone(&self.edition);
            let logic = if unit < self.settings.shards {
                let store = self.open_store(unit);
                let identity = shard::Identity {
                    cluster: CLUSTER,
                    node: node_id(self.number),
                    shard: shard_index(unit),
                    store: store_id(self.number, unit),
                    links_max: LINKS_MAX,
                };
                let memory = &mut self.hosts[unit].memory;
                Logic::Shard(Box::new(ShardUnit::start(
                    clock.now, identity, store, edition, memory, &mut out,
                )))
            } else {
                let log = self.open_log(unit);
                let identity = group::Identity {
                    cluster: CLUSTER,
                    node: node_id(self.number),
                    group: self.settings.replica.group,
                    store: store_id(self.number, unit),
                    links_max: LINKS_MAX,
                };
                let who = (identity, self.settings.replica);
                let memory = &mut self.hosts[unit].memory;
                Logic::Meta(Box::new(MetaUnit::start(clock, who, log, edition, memory, &mut out)))
            };
            self.hosts[unit].logic = Some(logic);
            self.carry_out(unit, out, around);
        }
    }

    fn open_store(&mut self, unit: usize) -> Store {
        let length = self.hosts[unit].disk.fake.length();
        let config = StoreConfig {
            prezero_bytes: self.random.below(3) * u64::from(self.settings.geometry.segment_bytes()),
            leaf_tables: 16,
            scrub: self.random.per_mille(300),
            scrub_pass: self.random.between(2, 60) * Nanos::SECOND,
            life_random: self.random.life_bits(),
            ..StoreConfig::new(self.settings.store_bytes, length)
        };
        if length == 0 {
            return Store::format(config, self.format(unit, self.settings.geometry));
        }
        Store::open(config, self.expected(unit))
    }

    fn open_log(&mut self, unit: usize) -> Log {
        let length = self.hosts[unit].disk.fake.length();
        let config = LogConfig {
            capacity_bytes: self.settings.log_bytes,
            device_bytes: length,
            prezero_bytes: self.random.below(3) * u64::from(self.settings.log_geometry.segment_bytes()),
            accept_data_loss: false,
            life_random: self.random.life_bits(),
        };
        if length == 0 {
            return Log::format(config, self.format(unit, self.settings.log_geometry));
        }
        Log::open(config, self.expected(unit))
    }

    fn format(&self, unit: usize, geometry: Geometry) -> Format {
        let identity = Identity {
            cluster: CLUSTER,
            store: store_id(self.number, unit),
            node: node_id(self.number),
            unit: u16::try_from(unit).expect("few units"),
        };
        let (secret, index_key) = self.hosts[unit].secrets;
        Format { identity, geometry, secret, index_key }
    }

    fn expected(&self, unit: usize) -> Expected {
        Expected {
            cluster: Some(CLUSTER),
            store: Some(store_id(self.number, unit)),
            node: node_id(self.number),
            unit: u16::try_from(unit).expect("few units"),
        }
    }

    /// Somebody sets the wall clock.
    pub(crate) fn set_clock(&mut self, step: i64) {
        self.wall_offset = self.wall_offset.saturating_add(step).clamp(0, i64::MAX / 2);
    }

    fn clock(&self, now: Nanos) -> Clock {
        let wall = i64::try_from(now.0).expect("virtual time is short") + self.wall_offset;
        Clock { now, wall: Timestamp(wall) }
    }

    /// The process dies, or its machine loses power.
    pub(crate) fn die(&mut self, by_power: bool, around: &mut Around<'_>) {
        let number = self.number;
        around.trace.note(around.schedule.now(), format_args!("node {number} dies, by power {by_power}"));
        self.life += 1;
        self.is_dark = by_power;
        for host in &mut self.hosts {
            host.disk.end(by_power, &mut host.memory);
            host.logic = None;
            host.condition = Condition::Down;
            host.connections.clear();
            host.own.clear();
        }
        around.network.caller_died(NODE_CALLERS + number, around.schedule);
        let its = format!("node-{number}:");
        around.network.server_died(by_power, |address| address.starts_with(&its), around.schedule);
    }

    /// Whether its process runs.
    pub(crate) fn is_up(&self) -> bool {
        self.hosts.iter().all(|host| host.logic.is_some())
    }

    /// Whether every unit serves.
    pub(crate) fn is_serving(&self) -> bool {
        self.hosts.iter().all(|host| host.condition == Condition::Serving)
    }

    /// Addresses that clients may be told.
    pub(crate) fn endpoints(&self) -> Vec<Arc<str>> {
        (0..self.hosts.len()).map(|unit| Arc::from(address(self.number, unit).as_str())).collect()
    }

    /// Which of its units has this address.
    pub(crate) fn unit_at(&self, address_: &str) -> Option<usize> {
        (0..self.hosts.len()).find(|unit| address(self.number, *unit) == address_)
    }

    /// The metadata replica.
    pub(crate) fn meta(&self) -> Option<&MetaUnit> {
        match self.hosts.last()?.logic.as_ref()? {
            Logic::Meta(meta) => Some(meta),
            Logic::Shard(_) => None,
        }
    }

    /// Copies that it keeps of each chunk.
    pub(crate) fn copies(&self) -> u64 {
        self.settings.copies as u64
    }

    /// The shards.
    pub(crate) fn shards(&self) -> impl Iterator<Item = &ShardUnit> {
        self.hosts.iter().filter_map(|host| match host.logic.as_ref()? {
            Logic::Shard(shard) => Some(&**shard),
            Logic::Meta(_) => None,
        })
    }

    /// Remembers what its units hold, which have ended in order: their next start is compared with that. Damage may cost a unit anything.
    pub(crate) fn remember(&mut self) {
        for host in &mut self.hosts {
            assert_eq!(host.condition, Condition::Ended, "only an orderly end promises anything");
            let promises = !host.disk.is_damaged() && !host.batches_damaged;
            host.kept = host.logic.as_ref().filter(|_| promises).and_then(Logic::kept);
        }
    }

    /// A connection is taken.
    pub(crate) fn on_call(&mut self, unit: usize, connection: Connection, around: &mut Around<'_>) {
        self.hosts[unit].connections.insert(connection);
        self.with(unit, around, |logic, clock, memory, out| match logic {
            Logic::Shard(shard) => shard.on_open(clock.now, connection, memory, out),
            Logic::Meta(meta) => meta.on_open(connection),
        });
        around.network.take(connection, around.schedule);
    }

    /// The unit that asked for a connection.
    pub(crate) fn caller_of(&self, connection: Connection) -> Option<usize> {
        self.hosts.iter().position(|host| host.own.contains(&connection))
    }

    /// A connection that a unit asked for stands.
    pub(crate) fn on_up(&mut self, connection: Connection, around: &mut Around<'_>) {
        let Some(unit) = self.caller_of(connection) else { return };
        self.with(unit, around, |logic, clock, memory, out| match logic {
            Logic::Shard(shard) => shard.on_open(clock.now, connection, memory, out),
            Logic::Meta(meta) => meta.on_up(clock, connection, memory, out),
        });
    }

    /// A connection of `unit` is over, on the side that is given.
    pub(crate) fn on_down(
        &mut self,
        unit: usize,
        connection: Connection,
        side: Side,
        around: &mut Around<'_>,
    ) {
        let host = &mut self.hosts[unit];
        match side {
            Side::Caller => host.own.remove(&connection),
            Side::Server => host.connections.remove(&connection),
        };
        self.with(unit, around, |logic, clock, memory, out| match logic {
            Logic::Shard(shard) => shard.on_close(clock.now, connection, memory, out),
            Logic::Meta(meta) => meta.on_close(clock, connection, memory, out),
        });
    }

    /// A frame's head arrived.
    pub(crate) fn on_head(
        &mut self,
        unit: usize,
        connection: Connection,
        head: &[u8],
        around: &mut Around<'_>,
    ) {
        self.with(unit, around, |logic, clock, memory, out| match logic {
            Logic::Shard(shard) => shard.on_head(clock.now, connection, head, memory, out),
            Logic::Meta(meta) => meta.on_head(clock, connection, head, memory, out),
        });
    }

    /// The payload of the head before arrived.
    pub(crate) fn on_body(
        &mut self,
        unit: usize,
        connection: Connection,
        body: &[u8],
        around: &mut Around<'_>,
    ) {
        self.with(unit, around, |logic, clock, memory, out| match logic {
            Logic::Shard(shard) => shard.on_body(clock.now, connection, body, memory, out),
            Logic::Meta(_) => panic!("a metadata port is sent no payload"),
        });
    }

    /// A frame leaves; `None`: its process is gone.
    pub(crate) fn on_depart(
        &mut self,
        unit: usize,
        frame: &Frame,
        around: &mut Around<'_>,
    ) -> Option<Vec<u8>> {
        let host = &mut self.hosts[unit];
        if frame.life != self.life || host.logic.is_none() {
            return None;
        }
        let Some(payload) = frame.payload else { return Some(Vec::new()) };
        let bytes = take_payload(payload, &mut host.memory);
        self.with(unit, around, |logic, clock, memory, out| {
            if let Logic::Shard(shard) = logic {
                shard.on_sent(clock.now, frame.connection, payload.length, memory, out);
            }
        });
        Some(bytes)
    }

    /// One of a disk's requests ends.
    pub(crate) fn on_disk(&mut self, unit: usize, around: &mut Around<'_>) {
        let host = &mut self.hosts[unit];
        let Some((io, outcome)) = host.disk.complete(&mut host.memory) else { return };
        let number = self.number;
        let (tag, key) = (io.tag(), io.key());
        around
            .trace
            .note(around.schedule.now(), format_args!("disk {number}.{unit} {tag}/{key} {outcome:?}"));
        self.with(unit, around, |logic, clock, memory, out| match logic {
            Logic::Shard(shard) => shard.on_io(clock.now, io, outcome, memory, out),
            Logic::Meta(meta) => meta.on_io(clock, io, outcome, memory, out),
        });
    }

    /// No further event was at hand.
    pub(crate) fn on_turn(&mut self, unit: usize, around: &mut Around<'_>) {
        self.with(unit, around, |logic, clock, memory, out| match logic {
            Logic::Shard(shard) => shard.on_turn(clock.now, memory, out),
            Logic::Meta(meta) => meta.on_turn(clock, memory, out),
        });
        self.hosts[unit].turn_is_due = false;
    }

    /// A deadline has come.
    pub(crate) fn on_tick(&mut self, unit: usize, at: Nanos, around: &mut Around<'_>) {
        self.hosts[unit].armed.remove(&at);
        self.with(unit, around, |logic, clock, memory, out| match logic {
            Logic::Shard(shard) => shard.on_tick(clock.now, memory, out),
            Logic::Meta(meta) => meta.on_tick(clock, memory, out),
        });
    }

    /// The node ends in order.
    pub(crate) fn on_shutdown(&mut self, around: &mut Around<'_>) {
        for unit in 0..self.hosts.len() {
            self.with(unit, around, |logic, clock, memory, out| match logic {
                Logic::Shard(shard) => shard.on_shutdown(clock.now, memory, out),
                Logic::Meta(meta) => meta.on_shutdown(clock, memory, out),
            });
        }
    }

    fn with(
        &mut self,
        unit: usize,
        around: &mut Around<'_>,
        step: impl FnOnce(&mut Logic, Clock, &mut SimMemory, &mut Out),
    ) {
        let clock = self.clock(around.schedule.now());
        let host = &mut self.hosts[unit];
        let Some(logic) = host.logic.as_mut() else { return };
        let mut out = Out::default();
        step(logic, clock, &mut host.memory, &mut out);
        self.carry_out(unit, out, around);
    }

    fn carry_out(&mut self, unit: usize, out: Out, around: &mut Around<'_>) {
        let (node, life) = (self.number, self.life);
        let host = &mut self.hosts[unit];
        for delay in host.disk.submit(around.schedule.now(), &out.io, &mut host.memory) {
            around.schedule.after(delay, Happening::Disk { node, unit, life });
        }
        // A connection to another unit of this node is the caller's here and the server's there.
        let side = |host: &Host, connection: Connection| {
            if host.own.contains(&connection) { Side::Caller } else { Side::Server }
        };
        for send in out.sends {
            let frame = Frame {
                connection: send.connection,
                from: side(host, send.connection),
                life,
                sender: Sender::Unit { node, unit },
                head: send.head,
                payload: send.payload,
            };
            Network::send(frame, around.schedule);
        }
        for connection in out.closes {
            let by = side(host, connection);
            host.connections.remove(&connection);
            host.own.remove(&connection);
            around.network.close(connection, by, around.schedule);
        }
        let mut called = Vec::new();
        for (peer, address) in out.calls {
            let connection = around.network.call(NODE_CALLERS + node, &address, around.schedule);
            host.own.insert(connection);
            called.push((peer, connection));
        }
        for at in out.deadlines {
            if host.armed.insert(at) {
                around.schedule.at(at, Happening::Tick { node, unit, life, at });
            }
        }
        if !host.turn_is_due {
            host.turn_is_due = true;
            around.schedule.after(self.random.between(1_000, 30_000), Happening::Turn { node, unit, life });
        }
        for (row, column) in out.counts {
            around.tally.count(row, column);
        }
        for note in out.notes {
            self.on_note(unit, note, around);
        }
        for (peer, connection) in called {
            self.with(unit, around, |logic, clock, memory, out| match (logic, peer) {
                (Logic::Shard(shard), Peer::Store(target)) => {
                    shard.on_called(clock.now, target, connection, memory, out);
                }
                (Logic::Meta(meta), Peer::Index(peer)) => meta.on_called(peer, connection),
                _ => unreachable!("each kind of unit has its own words"),
            });
        }
    }

    fn on_note(&mut self, unit: usize, note: Note, around: &mut Around<'_>) {
        around.trace.note(around.schedule.now(), format_args!("unit {}.{unit}: {note:?}", self.number));
        let host = &mut self.hosts[unit];
        let row = if unit < self.settings.shards { "store" } else { "log" };
        match note {
            Note::Opened => {
                around.tally.count(row, "opened");
                host.condition = Condition::Serving;
                // Before it does anything by itself: a young head holds everything (R25).
                if let Some(kept) = host.kept.take() {
                    around.tally.count(row, "kept over an orderly end");
                    let found = host.logic.as_ref().and_then(Logic::kept).expect("it has just opened");
                    host.lost = kept.compare(&found).err();
                }
            }
            Note::OpenFailed(why) => {
                around.tally.count(row, "open failed");
                host.condition = Condition::Failed(why);
            }
            Note::Fenced => {
                around.tally.count(row, "fenced");
                host.condition = Condition::Fenced;
            }
            Note::Damaged(id) => {
                around.tally.count(row, "damage reported");
                host.damaged.insert(id);
            }
            Note::BatchesDamaged => {
                around.tally.count(row, "batches reported damaged");
                host.batches_damaged = true;
            }
            Note::ShutDown => host.condition = Condition::Ended,
        }
    }
}

/// The map with chains of so many of its stores, in every order.
fn with_copies(map: &ClusterMap, copies: usize) -> ClusterMap {
    let mut map = map.as_map().clone();
    let stores = map.stores.iter().filter(|store| matches!(store.unit, Unit::Shard(_))).count();
    map.settings.chain_length = u8::try_from(copies).expect("at most three");
    map.settings.min_in_sync = map.settings.chain_length.min(2);
    for (number, slice) in map.slices.iter_mut().enumerate() {
        // Half of the chains run the other way round.
        let step = if number % 2 == 0 { 1 } else { stores - 1 };
        slice.chain.min_in_sync = map.settings.min_in_sync;
        slice.chain.members = (0..copies)
            .map(|place| Member {
                store: u16::try_from((number / 2 + place * step) % stores).expect("few stores"),
                state: ReplicaState::Serving,
                is_seed: true,
            })
            .collect();
    }
    ClusterMap::new(map).expect("a legal map")
}

fn address(node: usize, unit: usize) -> String {
    format!("node-{node}:{}", 7430 + unit)
}

fn node_id(number: usize) -> NodeId {
    NodeId(u32::try_from(number).expect("few nodes") + 1)
}

fn shard_index(shard: usize) -> ShardIndex {
    ShardIndex(u16::try_from(shard).expect("few shards"))
}

fn store_id(node: usize, unit: usize) -> StoreId {
    let mut bytes = [9; 16];
    bytes[0] = u8::try_from(node).expect("few nodes");
    bytes[1] = u8::try_from(unit).expect("few units");
    StoreId(bytes)
}
