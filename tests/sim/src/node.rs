//! A simulated node: its shards, its metadata replica and, in a cluster, its control agent, each with its own arena and disk; what a process and its
//! machine can suffer.

mod clock;
mod control;
mod wiring;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use group::Clock;
use journal::log::{Log, LogConfig};
use journal::{Expected, Format, Geometry, Identity};
use placement::{ClusterMap, Edition, OneNode, one_node};
use replica::ReplicaConfig;
use store::{Store, StoreConfig};
use wire::map::{Member, ReplicaState, Unit};
use wire::{ChunkId, ClusterId, Nanos, NodeId, ShardIndex, StoreId, Timestamp};

use crate::agent_unit::AgentUnit;
use crate::disk::SimDisk;
use crate::kept::Kept;
use crate::memory::SimMemory;
use crate::meta_unit::MetaUnit;
use crate::network::{Connection, Network};
use crate::random::Random;
use crate::report::Tally;
use crate::schedule::Schedule;
use crate::shard_unit::ShardUnit;
use crate::trace::Trace;
use crate::unit::Out;
use crate::world::Happening;
use clock::LocalClock;
pub(crate) use control::{Control, Seat};

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
    /// The control agent.
    Agent(Box<AgentUnit>),
}

impl Logic {
    /// What it holds, if all of that is durable.
    fn kept(&self) -> Option<Kept> {
        match self {
            Self::Shard(shard) => Some(Kept::of_store(shard.store())),
            Self::Meta(meta) => meta.replica().and_then(Kept::of_group),
            Self::Agent(_) => None,
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
    /// When something came over each connection that others have to it.
    heard: BTreeMap<Connection, Nanos>,
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

impl Host {
    fn new(disk: SimDisk, secrets: (u64, u64)) -> Self {
        Self {
            logic: None,
            memory: SimMemory::new(ARENA_BYTES),
            disk,
            condition: Condition::Down,
            connections: BTreeSet::new(),
            own: BTreeSet::new(),
            heard: BTreeMap::new(),
            armed: BTreeSet::new(),
            turn_is_due: false,
            damaged: BTreeSet::new(),
            batches_damaged: false,
            kept: None,
            lost: None,
            secrets,
        }
    }
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Node {
    number: usize,
    settings: NodeSettings,
    /// Its units: shards first, then the metadata replica, then the control agent.
    pub hosts: Vec<Host>,
    /// Rises at each start, and at each death.
    pub life: u64,
    /// Its process runs.
    runs: bool,
    /// What a cluster knows it as; alone it has none.
    pub control: Option<Box<Control>>,
    clock: LocalClock,
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

/// Callers from this number on are nodes.
pub(crate) const NODE_CALLERS: usize = 1_000;
pub(crate) const CLUSTER: ClusterId = ClusterId([7; 16]);
const ARENA_BYTES: usize = 64 << 20;
/// Connections that a unit serves.
const LINKS_MAX: u32 = 64;

impl Node {
    /// A node with empty disks; [`start`](Self::start) formats them.
    pub(crate) fn new(seed: u64, number: usize, settings: NodeSettings) -> Self {
        let map = with_copies(&first_map(number, settings, 6), settings.copies);
        Self::formatted(seed, number, settings, Arc::new(Edition::new(map)))
    }

    fn formatted(seed: u64, number: usize, settings: NodeSettings, edition: Arc<Edition>) -> Self {
        let mut random = Random::stream(seed, &format!("node {number}"));
        let disk = |unit: usize| if unit < settings.shards { SimDisk::new } else { SimDisk::of_log };
        let host = |unit: usize| {
            Host::new(disk(unit)(seed, &format!("disk {number}.{unit}")), (random.next(), random.next()))
        };
        let hosts = (0..=settings.shards).map(host).collect();
        Self {
            number,
            settings,
            hosts,
            life: 0,
            runs: false,
            control: None,
            clock: LocalClock::default(),
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
        self.runs = true;
        if std::mem::take(&mut self.is_dark) {
            self.clock.boot(around.schedule.now());
        }
        self.wall_offset += i64::try_from(self.random.below(4 * Nanos::SECOND)).expect("seconds")
            - i64::try_from(2 * Nanos::SECOND).expect("seconds");
        around
            .trace
            .note(around.schedule.now(), format_args!("node {} starts, life {}", self.number, self.life));
        self.begin_life(around);
        for unit in 0..=self.settings.shards {
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
                    node: self.id(),
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
                    node: self.id(),
                    group: self.settings.replica.group,
                    store: store_id(self.number, unit),
                    links_max: LINKS_MAX,
                };
                let who = (identity, self.replica_settings());
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
            takes_over: None,
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
            takes_over: None,
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
            node: self.id(),
            unit: u16::try_from(unit).expect("few units"),
        };
        let (secret, index_key) = self.hosts[unit].secrets;
        Format { identity, geometry, secret, index_key }
    }

    fn expected(&self, unit: usize) -> Expected {
        Expected {
            cluster: Some(CLUSTER),
            store: Some(store_id(self.number, unit)),
            node: self.id(),
            unit: u16::try_from(unit).expect("few units"),
        }
    }

    /// Its number in the cluster.
    pub(crate) fn id(&self) -> NodeId {
        self.control.as_ref().map_or(NodeId(1), |control| control.id)
    }

    fn replica_settings(&self) -> ReplicaConfig {
        let group = self.edition.map().group(self.settings.replica.group);
        ReplicaConfig { generation: group.map_or(0, |group| group.generation), ..self.settings.replica }
    }

    /// Somebody sets the wall clock.
    pub(crate) fn set_clock(&mut self, step: i64) {
        self.wall_offset = self.wall_offset.saturating_add(step).clamp(0, i64::MAX / 2);
    }

    fn clock(&self, now: Nanos) -> Clock {
        let wall = i64::try_from(now.0).expect("virtual time is short") + self.wall_offset;
        Clock { now: self.clock.local(now), wall: Timestamp(wall) }
    }

    /// The process dies, or its machine loses power.
    pub(crate) fn die(&mut self, by_power: bool, around: &mut Around<'_>) {
        let number = self.number;
        around.trace.note(around.schedule.now(), format_args!("node {number} dies, by power {by_power}"));
        self.life += 1;
        self.runs = false;
        self.is_dark = by_power;
        if let Some(control) = &mut self.control {
            control.end_life(self.random.per_mille(500), &mut self.edition);
        }
        for host in &mut self.hosts {
            host.disk.end(by_power, &mut host.memory);
            host.logic = None;
            host.condition = Condition::Down;
            host.connections.clear();
            host.own.clear();
            host.heard.clear();
        }
        // A machine without power ends none of its connections: the other side finds out.
        let is_silent = by_power && self.control.is_some();
        around.network.caller_died(NODE_CALLERS + number, is_silent, around.schedule);
        let its = format!("node-{number}:");
        around.network.server_died(by_power, |address| address.starts_with(&its), around.schedule);
    }

    /// Whether its process runs.
    pub(crate) fn is_up(&self) -> bool {
        self.runs
    }

    /// Whether every unit serves.
    pub(crate) fn is_serving(&self) -> bool {
        self.hosts.iter().all(|host| host.condition == Condition::Serving)
    }

    /// Addresses that clients may be told.
    pub(crate) fn endpoints(&self) -> Vec<Arc<str>> {
        (0..=self.settings.shards).map(|unit| Arc::from(self.address(unit).as_str())).collect()
    }

    /// Which of its units has this address.
    pub(crate) fn unit_at(&self, address_: &str) -> Option<usize> {
        (0..self.hosts.len()).find(|unit| self.address(*unit) == address_)
    }

    fn address(&self, unit: usize) -> String {
        address(self.number, unit, self.settings.shards)
    }

    /// The metadata replica.
    pub(crate) fn meta(&self) -> Option<&MetaUnit> {
        match self.hosts[self.settings.shards].logic.as_ref()? {
            Logic::Meta(meta) => Some(meta),
            Logic::Shard(_) | Logic::Agent(_) => None,
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
            Logic::Meta(_) | Logic::Agent(_) => None,
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

/// The map of a cluster of this node.
fn first_map(number: usize, settings: NodeSettings, ring_bits: u8) -> ClusterMap {
    let shards = settings.shards;
    let stores = (0..shards)
        .map(|shard| (store_id(number, shard), shard_index(shard), address(number, shard, shards)))
        .collect();
    one_node(OneNode {
        cluster: CLUSTER,
        node: NodeId(1),
        name: format!("node-{number}"),
        stores,
        metadata: store_id(number, shards),
        metadata_address: address(number, shards, shards),
        control: address(number, shards + 1, shards),
        ring_bits,
        reclaim_delay_ms: settings.replica.reclaim_delay / Nanos::MILLISECOND,
    })
    .expect("a legal map")
}

/// Every node's control port.
pub(crate) const CONTROL_PORT: usize = 7422;

fn address(node: usize, unit: usize, shards: usize) -> String {
    let port = if unit > shards { CONTROL_PORT } else { 7430 + unit };
    format!("node-{node}:{port}")
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
