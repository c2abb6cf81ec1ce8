//! The whole: clients and nodes on one thread, in virtual time, from a seed.

mod blows;
mod cluster;
mod copies;
mod death;
mod ending;
mod events;
mod filling;
mod troubles;
mod watch;

use std::collections::BTreeMap;

use client::core::{Done, Ticket};
use journal::Geometry;
use replica::ReplicaConfig;
use wire::{Nanos, Status, VolumeId};

use crate::client_process::ClientProcess;
use crate::faults::{Fault, Faults};
use crate::level::guarded;
use crate::mail::Mail;
use crate::network::{Network, Traffic};
use crate::node::{Around, Node, NodeSettings};
use crate::random::Random;
use crate::repeats::Repeats;
use crate::report::{Failed, Tally};
use crate::schedule::Schedule;
use crate::scope::Case;
use crate::settings;
use crate::trace::Trace;
use crate::workload::{Order, Workload};
use cluster::Cluster;

/// Something that is going to happen.
#[derive(Debug)]
pub(crate) enum Happening {
    /// On the network.
    Traffic(Traffic),
    /// A disk's request ends.
    Disk {
        /// Where.
        node: usize,
        /// Which unit's.
        unit: usize,
        /// In this life only.
        life: u64,
    },
    /// A unit has no further event at hand.
    Turn {
        /// Where.
        node: usize,
        /// Which.
        unit: usize,
        /// In this life only.
        life: u64,
    },
    /// A unit's deadline.
    Tick {
        /// Where.
        node: usize,
        /// Which.
        unit: usize,
        /// In this life only.
        life: u64,
        /// What was armed.
        at: Nanos,
    },
    /// A client's deadline.
    ClientTick {
        /// Whose.
        client: usize,
        /// In this life only.
        life: u64,
        /// What was armed.
        at: Nanos,
    },
    /// A client thinks of its next operation.
    Think {
        /// Which.
        client: usize,
        /// In this life only.
        life: u64,
    },
    /// A task of a client goes on.
    Wake {
        /// Whose.
        client: usize,
        /// In this life only.
        life: u64,
        /// Its number.
        task: u64,
    },
    /// A client's process starts again.
    ClientStart {
        /// Which.
        client: usize,
    },
    /// A node's process starts again.
    NodeStart {
        /// Which.
        node: usize,
        /// Unless it has another life by then.
        life: u64,
    },
    /// An operator ends a process whose units failed, and starts it again.
    NodeMend {
        /// Which.
        node: usize,
        /// Unless it has another life by then.
        life: u64,
    },
    /// A node that is still recovering dies again.
    Strike {
        /// Which.
        node: usize,
        /// Unless it has another life by then.
        life: u64,
    },
    /// A thread of a node finds something in its queue.
    Mail {
        /// Where.
        node: usize,
        /// Whose queue.
        unit: usize,
        /// In this life only.
        life: u64,
        /// What.
        mail: Box<Mail>,
    },
    /// A node looks at its stores.
    Beat {
        /// Which.
        node: usize,
        /// In this life only.
        life: u64,
    },
    /// The operator looks at what it waits for.
    Operator,
    /// The next fault.
    Fault,
    /// A fault's time is over.
    FaultEnds(Fault),
}

impl From<Traffic> for Happening {
    fn from(traffic: Traffic) -> Self {
        Self::Traffic(traffic)
    }
}

#[derive(Debug)]
struct Client {
    process: Option<ClientProcess>,
    life: u64,
    workload: Workload,
    paused_until: Nanos,
}

/// What goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// The volume is made.
    Setup,
    /// Operations and faults.
    Storm,
    /// No faults, no new operations.
    Calm,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct World {
    case: Case,
    seed: u64,
    schedule: Schedule<Happening>,
    network: Network,
    trace: Trace,
    tally: Tally,
    random: Random,
    nodes: Vec<Node>,
    /// Where there is more than one node.
    cluster: Option<Box<Cluster>>,
    clients: Vec<Client>,
    /// Calls that no workload made, and how they ended.
    direct: BTreeMap<Ticket, Option<Status>>,
    faults: Faults,
    phase: Phase,
    /// Everything that was under way when the faults stopped has ended.
    calm_since: Nanos,
    last_stamp: u64,
    last_fault: u64,
    repeats: Repeats,
    operations_left: u64,
    chunk_bytes: u64,
    /// The life of each node whose mending is on its way.
    mending: Vec<u64>,
}

/// The storm ends after this time, however few operations there were: a log that damage has destroyed serves none.
const STORM_LENGTH: u64 = 1800 * Nanos::SECOND;
/// Operations of a seed.
const OPERATIONS: u64 = 500;
/// Everything has ended this long after the faults have.
const QUIET_LIMIT: u64 = 180 * Nanos::SECOND;
/// Garbage is gone this long after everything has ended.
const GARBAGE_LIMIT: u64 = 120 * Nanos::SECOND;
/// Things that may happen in one seed: far more than any that ends.
const HAPPENINGS_MAX: u64 = 30_000_000;
/// Clients with a workload.
const CLIENTS_MAX: u64 = 4;

/// Runs one case of a node alone.
pub(crate) fn run(case: &Case) -> Result<(Tally, u64), Box<Failed>> {
    told("node", case, World::new(case), World::everything)
}

/// Runs one case of a cluster.
pub(crate) fn run_cluster(case: &Case) -> Result<(Tally, u64), Box<Failed>> {
    told("cluster", case, World::of_cluster(case), World::cluster_everything)
}

/// Runs one case in which one node dies.
pub(crate) fn run_one_death(case: &Case) -> Result<(Tally, u64), Box<Failed>> {
    told("one-death", case, World::of_cluster_with(case, roomy), World::one_death)
}

fn told(
    level: &'static str,
    case: &Case,
    mut world: World,
    everything: impl FnOnce(&mut World) -> Result<(), String>,
) -> Result<(Tally, u64), Box<Failed>> {
    let result = guarded(|| everything(&mut world));
    let hash = world.trace.hash();
    match result {
        Ok(()) => Ok((world.tally, hash)),
        Err(why) => {
            let (tail, story) = (world.trace.tail(), world.trace.story());
            let (operations, faults) = (world.last_stamp, world.last_fault);
            Err(Box::new(Failed { level, case: case.clone(), why, tail, story, operations, faults }))
        }
    }
}

impl World {
    fn new(case: &Case) -> Self {
        let seed = case.seed;
        let mut random = Random::stream(seed, "world");
        let settings = settings(case.seed, &mut random);
        let chunk_bytes = *random.pick(&[4 << 10, 8 << 10, 32 << 10]);
        let faults = Faults::new(seed);
        Self {
            case: case.clone(),
            seed,
            schedule: Schedule::new(Nanos(Nanos::SECOND)),
            network: Network::new(seed),
            trace: Trace::new(case.printed),
            tally: Tally::default(),
            nodes: vec![Node::new(seed, 0, settings)],
            cluster: None,
            clients: Vec::new(),
            direct: BTreeMap::new(),
            faults,
            phase: Phase::Setup,
            calm_since: Nanos(u64::MAX),
            mending: vec![0],
            last_stamp: 0,
            last_fault: 0,
            repeats: Repeats::default(),
            operations_left: OPERATIONS,
            chunk_bytes,
            random,
        }
    }

    fn of_cluster(case: &Case) -> Self {
        Self::of_cluster_with(case, |settings| settings)
    }

    fn of_cluster_with(case: &Case, fit: impl Fn(NodeSettings) -> NodeSettings) -> Self {
        let mut world = Self::new(case);
        let mut random = Random::stream(case.seed, "cluster");
        let size = usize::try_from(random.between(3, 5)).expect("few");
        let ring_bits = u8::try_from(random.between(3, 5)).expect("small");
        let cluster = Cluster::new(fit(cluster_settings(&mut random)), ring_bits, size);
        world.faults = Faults::of_cluster(case.seed);
        world.nodes = vec![cluster.founder(case.seed)];
        world.cluster = Some(Box::new(cluster));
        world
    }

    fn everything(&mut self) -> Result<(), String> {
        let start = self.schedule.now();
        self.trace.tell(start, format_args!("{:?}", self.faults.profile()));
        self.start_nodes();
        self.until("the format", QUIET_LIMIT, |world| world.nodes.iter().all(Node::is_serving))?;
        let volume = self.make_volume()?;
        self.phase = Phase::Storm;
        let count = self.random.between(2, CLIENTS_MAX);
        for client in 0..count {
            self.add_client(usize::try_from(client).expect("few"), volume);
        }
        self.schedule.after(Nanos::SECOND / 4, Happening::Fault);
        let end = self.schedule.now().after(STORM_LENGTH);
        self.until("the storm", 2 * STORM_LENGTH, |world| {
            world.operations_left == 0 || world.schedule.now() > end
        })?;
        self.calm()?;
        if self.is_destroyed() {
            self.tally.count("seed", "log destroyed and said so");
        } else {
            self.read_everything(volume)?;
            self.hold_while_replaced(volume)?;
        }
        // What clients saw comes first: an inner assertion says where, an anomaly says that it matters.
        self.check()?;
        if !self.is_destroyed() {
            self.fill_log(volume)?;
            self.end_in_order(volume)?;
            self.tally.count("seed", "verified");
        }
        self.count_all();
        self.tally.virtual_nanos = self.schedule.now().since(start);
        Ok(())
    }

    fn around(&mut self) -> (Around<'_>, &mut Vec<Node>) {
        let around = Around {
            schedule: &mut self.schedule,
            network: &mut self.network,
            trace: &mut self.trace,
            tally: &mut self.tally,
        };
        (around, &mut self.nodes)
    }

    fn start_nodes(&mut self) {
        let (mut around, nodes) = self.around();
        for node in nodes {
            if !node.is_up() {
                node.start(&mut around);
            }
        }
    }

    fn add_client(&mut self, number: usize, volume: VolumeId) {
        let workload = Workload::new(self.seed, number, volume, self.chunk_bytes);
        self.clients.push(Client { process: None, life: 0, workload, paused_until: Nanos(0) });
        self.start_client(number);
    }

    fn start_client(&mut self, number: usize) {
        let window = *self.random.pick(&[self.chunk_bytes, 1 << 20, 8 << 20]);
        let endpoints = self.nodes.iter().flat_map(Node::endpoints).collect();
        let client = &mut self.clients[number];
        client.life += 1;
        client.process = Some(ClientProcess::new(number, client.life, self.seed, endpoints, window));
        let life = client.life;
        for _ in 0..client.workload.width {
            let pause = client.workload.pause();
            self.schedule.after(pause, Happening::Think { client: number, life });
        }
    }

    /// A volume, made by a client of its own before anything goes wrong.
    fn make_volume(&mut self) -> Result<VolumeId, String> {
        self.add_client(0, VolumeId(0));
        let call = settings::create_volume(self.chunk_bytes);
        self.give(0, vec![Order::Call(Ticket(1), call, 60 * Nanos::SECOND)]);
        while let Some(happening) = self.schedule.pop() {
            match self.happen(happening)?.pop() {
                None => {}
                Some((_, Ok(Done::Outcome(outcome)))) => {
                    self.crash_client(0);
                    self.clients.clear();
                    return Ok(outcome.volume);
                }
                Some((_, other)) => return Err(format!("the volume can't be made: {other:?}")),
            }
        }
        Err("the volume is never made".to_owned())
    }

    /// What must hold at every moment.
    fn watch(&mut self) -> Result<(), String> {
        let Some(cluster) = &mut self.cluster else { return Ok(()) };
        let result = cluster.watch.look(self.schedule.now(), &self.nodes, &mut self.tally);
        for line in cluster.watch.lines.drain(..) {
            self.trace.note(self.schedule.now(), format_args!("{line}"));
        }
        result
    }

    fn until(&mut self, what: &str, limit: u64, reached: impl Fn(&Self) -> bool) -> Result<(), String> {
        let deadline = self.schedule.now().after(limit);
        while !reached(self) {
            let Some(happening) = self.schedule.pop() else {
                return Err(format!("{what}: nothing happens any more"));
            };
            if self.schedule.now() > deadline {
                return Err(format!("{what}: not within {} virtual seconds", limit / Nanos::SECOND));
            }
            if self.schedule.happened() > HAPPENINGS_MAX {
                return Err(format!("{what}: {HAPPENINGS_MAX} things happened"));
            }
            self.tally.events += 1;
            let finished = self.happen(happening)?;
            self.watch()?;
            assert!(finished.is_empty(), "only the volume's maker calls by itself");
        }
        Ok(())
    }
}

/// Stores that nobody fills: whoever waits doesn't wait for space.
fn roomy(settings: NodeSettings) -> NodeSettings {
    let geometry = Geometry::new(1 << 20).expect("a legal size");
    let bytes = settings::device_bytes(geometry, 256);
    NodeSettings { geometry, store_bytes: bytes, log_geometry: geometry, log_bytes: bytes, ..settings }
}

fn cluster_settings(random: &mut Random) -> NodeSettings {
    let geometry = settings::geometry(random, (17, 20));
    let log_geometry = settings::geometry(random, (18, 20));
    let replica = settings::replica(random.between(8 << 10, 256 << 10));
    NodeSettings {
        shards: usize::try_from(random.between(1, 2)).expect("few"),
        copies: 1,
        geometry,
        store_bytes: settings::device_bytes(geometry, random.between(24, 64)),
        log_geometry,
        log_bytes: settings::device_bytes(log_geometry, random.between(16, 32)),
        replica: ReplicaConfig { session_ttl: 10 * Nanos::SECOND, ..replica },
    }
}

fn settings(seed: u64, random: &mut Random) -> NodeSettings {
    let geometry = settings::geometry(random, (17, 20));
    let log_geometry = settings::geometry(random, (18, 20));
    let replica = settings::replica(random.between(8 << 10, 256 << 10));
    let alone = usize::try_from(random.between(1, 2)).expect("few");
    // Drawn apart: seeds with one copy are what they were before there were more.
    let mut random_copies = Random::stream(seed, "copies");
    let (shards, copies) = if random_copies.per_mille(400) {
        let shards = usize::try_from(random_copies.between(2, 3)).expect("few");
        (shards, usize::try_from(random_copies.between(2, shards as u64)).expect("few"))
    } else {
        (alone, 1)
    };
    NodeSettings {
        shards,
        copies,
        geometry,
        store_bytes: settings::device_bytes(geometry, random.between(16, 48)),
        log_geometry,
        log_bytes: settings::device_bytes(log_geometry, random.between(12, 32)),
        replica: ReplicaConfig { inventory_sources: u16::try_from(shards).expect("few"), ..replica },
    }
}
