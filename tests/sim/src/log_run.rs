//! The log's level: one metadata replica on its log, asked directly. Requests arrive twice, late, and in any order; the disk answers in any order, is cut and
//! reopened again and again, also in the middle of recovery.
//!
//! The workload, the model and the checker are those of the whole node. Chunks lie in a plain map that loses nothing (`stores`), so that a byte
//! that is missing or wrong is the replica's fault: it freed what is referenced (I10), or names what was never there (I9).

mod caller;
mod ending;
mod filling;
mod stores;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use client::core::Ticket;
use group::Clock;
use journal::fake_disk::Faults;
use journal::log::{Log, LogConfig};
use journal::{Expected, Format, Geometry, Identity};
use placement::{Edition, OneNode, one_node};
use replica::ReplicaConfig;
use wire::{ClusterId, GroupId, Nanos, NodeId, ShardIndex, StoreId, Timestamp, VolumeId};

use crate::content::Stamp;
use crate::disk::SimDisk;
use crate::history::Action;
use crate::level::guarded;
use crate::memory::SimMemory;
use crate::meta_unit::MetaUnit;
use crate::network::Connection;
use crate::random::Random;
use crate::report::{Failed, Tally};
use crate::scope::Case;
use crate::settings;
use crate::trace::Trace;
use crate::unit::{Note, Out, Peer};
use crate::workload::{Order, Workload};
use caller::{Caller, Finished};
use stores::Stores;

/// How much may go wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Profile {
    /// Kills and power cuts.
    Cuts,
    /// And requests of the disk that fail.
    Errors,
    /// And bits that flip.
    Damage,
}

/// Where the replica stands.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Condition {
    Opening,
    Serving,
    /// Its process has to end: fenced, or it can't be opened and says why.
    Broken(Option<String>),
    Ended,
}

/// A connection's frames under way, in order in each direction.
#[derive(Debug, Default)]
struct Wire {
    to_unit: VecDeque<Vec<u8>>,
    from_unit: VecDeque<Vec<u8>>,
    /// Whose: a caller's, or a store's.
    caller: Option<usize>,
}

struct LogRun {
    case: Case,
    random: Random,
    trace: Trace,
    tally: Tally,
    profile: Profile,
    settings: Settings,
    disk: SimDisk,
    memory: SimMemory,
    unit: MetaUnit,
    condition: Condition,
    now: Nanos,
    /// The wall clock minus the monotonic one.
    wall_offset: i64,
    armed: BTreeSet<Nanos>,
    wires: BTreeMap<Connection, Wire>,
    last_connection: u64,
    callers: Vec<Caller>,
    workloads: Vec<Workload>,
    /// Calls that no workload made: whether they succeeded, once they have ended.
    direct: BTreeMap<Ticket, Option<bool>>,
    /// Tasks that wait, and until when.
    sleeping: Vec<(Nanos, usize, u64)>,
    stores: Stores,
    volume: VolumeId,
    last_stamp: u64,
    last_fault: u64,
}

/// What is drawn once for a seed.
struct Settings {
    geometry: Geometry,
    capacity: u64,
    replica: ReplicaConfig,
    secrets: (u64, u64),
    edition: Arc<Edition>,
    chunk_bytes: u64,
}

const CLUSTER: ClusterId = ClusterId([5; 16]);
const LOG: StoreId = StoreId([6; 16]);
const ARENA_BYTES: usize = 48 << 20;
const CALLERS: usize = 3;
/// Steps of a seed's storm.
const STEPS: u64 = 14_000;
/// Steps in which whatever is waited for has come about.
const STEPS_MAX: u64 = 400_000;

/// Runs one case.
pub(crate) fn run(case: &Case) -> Result<(Tally, u64), Box<Failed>> {
    let mut run = LogRun::new(case);
    let result = guarded(|| run.everything());
    let hash = run.trace.hash();
    run.disk.tally(&mut run.tally);
    run.stores.tally(&mut run.tally);
    run.tally.virtual_nanos = run.now.0;
    match result {
        Ok(()) => Ok((run.tally, hash)),
        Err(why) => {
            let (tail, story) = (run.trace.tail(), run.trace.story());
            let (operations, faults) = (run.last_stamp, run.last_fault);
            Err(Box::new(Failed { level: "log", case: case.clone(), why, tail, story, operations, faults }))
        }
    }
}

impl Settings {
    fn new(random: &mut Random) -> Self {
        let geometry = settings::geometry(random, (17, 20));
        let segments = random.between(12, 32);
        let map = one_node(OneNode {
            cluster: CLUSTER,
            node: NodeId(1),
            name: "node".to_owned(),
            stores: vec![(StoreId([8; 16]), ShardIndex(0), "store:1".to_owned())],
            metadata: StoreId([0xff; 16]),
            metadata_address: "log:1".to_owned(),
            control: "control:1".to_owned(),
            ring_bits: 6,
            reclaim_delay_ms: 1_000,
        })
        .expect("a legal map");
        let replica = settings::replica(random.between(4 << 10, 128 << 10));
        Self {
            geometry,
            capacity: settings::device_bytes(geometry, segments),
            replica,
            secrets: (random.next(), random.next()),
            edition: Arc::new(Edition::new(map)),
            chunk_bytes: *random.pick(&[4 << 10, 8 << 10]),
        }
    }
}

impl LogRun {
    fn new(case: &Case) -> Self {
        let mut random = Random::stream(case.seed, "log");
        let settings = Settings::new(&mut random);
        let profile = *random.pick(&[Profile::Cuts, Profile::Cuts, Profile::Errors, Profile::Damage]);
        let (mut disk, mut memory) = (SimDisk::of_log(case.seed, "log disk"), SimMemory::new(ARENA_BYTES));
        let mut out = Out::default();
        let (now, wall_offset) = (Nanos(Nanos::SECOND), 1_700_000_000_000_000_000);
        let unit = start(&settings, &disk, (now, wall_offset), &mut random, &mut memory, &mut out);
        disk.submit(now, &out.io, &mut memory);
        Self {
            case: case.clone(),
            random,
            trace: Trace::new(case.printed),
            tally: Tally::default(),
            profile,
            settings,
            disk,
            memory,
            unit,
            condition: Condition::Opening,
            now,
            wall_offset,
            armed: out.deadlines.into_iter().collect(),
            wires: BTreeMap::new(),
            last_connection: 0,
            callers: (0..CALLERS).map(Caller::new).collect(),
            workloads: Vec::new(),
            direct: BTreeMap::new(),
            sleeping: Vec::new(),
            stores: Stores::new(CLUSTER),
            volume: VolumeId(0),
            last_stamp: 0,
            last_fault: 0,
        }
    }

    fn everything(&mut self) -> Result<(), String> {
        self.trace.tell(self.now, format_args!("log {:?} {:?}", self.profile, self.settings.geometry));
        self.until("the format", |run| run.condition == Condition::Serving)?;
        self.make_volume()?;
        for number in 0..CALLERS {
            let chunk_bytes = self.settings.chunk_bytes;
            self.workloads.push(Workload::new(self.case.seed, number, self.volume, chunk_bytes));
        }
        for _ in 0..STEPS {
            self.storm()?;
            self.tally.events += 1;
        }
        self.end()
    }

    /// One step with faults and new operations.
    fn storm(&mut self) -> Result<(), String> {
        match self.random.below(10_000) {
            0..=14 => self.crash_if_wanted(true),
            15..=24 => self.crash_if_wanted(false),
            25..=44 => self.inject(),
            45..=64 => self.hang_up(),
            65..=499 => self.think(),
            _ => return self.step(),
        }
        Ok(())
    }

    /// One step without: something that is under way goes on.
    fn step(&mut self) -> Result<(), String> {
        self.now = self.now.after(self.random.below(40 * Nanos::MICROSECOND));
        self.wake();
        if let Condition::Broken(why) = &self.condition {
            let why = why.clone();
            return self.mend(why);
        }
        match self.random.below(100) {
            0..=29 => self.deliver_to_unit(),
            30..=54 => self.deliver_from_unit()?,
            55..=79 => self.complete(),
            80..=89 => self.with_unit(MetaUnit::on_turn),
            90..=94 => self.keep_alive(),
            _ => self.pass_time(),
        }
        self.fetch_news()
    }

    /// Steps until something is reached.
    fn until(&mut self, what: &str, reached: impl Fn(&Self) -> bool) -> Result<(), String> {
        for _ in 0..STEPS_MAX {
            if reached(self) {
                return Ok(());
            }
            self.step()?;
        }
        Err(format!("{what} comes to no end"))
    }

    fn pass_time(&mut self) {
        self.now = self.now.after(self.random.below(40 * Nanos::MILLISECOND));
        while self.armed.first().is_some_and(|at| *at <= self.now) {
            self.armed.pop_first();
        }
        self.with_unit(MetaUnit::on_tick);
    }

    fn complete(&mut self) {
        if let Some((io, outcome)) = self.disk.complete(&mut self.memory) {
            self.trace.note(self.now, format_args!("disk {}/{} {outcome:?}", io.tag(), io.key()));
            self.with_unit(|unit, clock, memory, out| unit.on_io(clock, io, outcome, memory, out));
        }
    }

    fn with_unit(&mut self, step: impl FnOnce(&mut MetaUnit, Clock, &mut SimMemory, &mut Out)) {
        let mut out = Out::default();
        let clock = clock((self.now, self.wall_offset));
        step(&mut self.unit, clock, &mut self.memory, &mut out);
        self.carry_out(out);
    }

    fn carry_out(&mut self, mut out: Out) {
        self.disk.submit(self.now, &out.io, &mut self.memory);
        for send in out.sends {
            if let Some(wire) = self.wires.get_mut(&send.connection) {
                wire.from_unit.push_back(send.head);
            }
        }
        for connection in out.closes {
            self.lose(connection);
        }
        self.armed.extend(out.deadlines.drain(..));
        for (row, column) in out.counts {
            self.tally.count(row, column);
        }
        for note in out.notes {
            self.on_note(note);
        }
        for (peer, _) in out.calls {
            let Peer::Index(peer) = peer else { unreachable!("a metadata replica's own words") };
            let connection = self.connect(None);
            self.unit.on_called(peer, connection);
            if self.random.per_mille(950) {
                self.with_unit(|unit, clock, memory, out| unit.on_up(clock, connection, memory, out));
            } else {
                self.hang_up_one(connection);
            }
        }
    }

    fn on_note(&mut self, note: Note) {
        self.trace.tell(self.now, format_args!("the replica says {note:?}"));
        match note {
            Note::Opened => {
                self.tally.count("log", "opened");
                self.condition = Condition::Serving;
            }
            Note::OpenFailed(why) => {
                self.tally.count("log", "open failed");
                self.condition = Condition::Broken(Some(why));
            }
            Note::Fenced => {
                self.tally.count("log", "fenced");
                self.condition = Condition::Broken(None);
            }
            Note::ShutDown => self.condition = Condition::Ended,
            Note::Damaged(_) | Note::BatchesDamaged | Note::Agent(_) => unreachable!("others'"),
        }
    }

    /// A new connection; a caller's is taken at once.
    fn connect(&mut self, caller: Option<usize>) -> Connection {
        self.last_connection += 1;
        let connection = Connection(self.last_connection);
        self.wires.insert(connection, Wire { caller, ..Wire::default() });
        if caller.is_some() {
            self.unit.on_open(connection);
        }
        connection
    }

    /// A connection is gone, with all that was under way on it.
    fn lose(&mut self, connection: Connection) {
        if let Some(Wire { caller: Some(caller), .. }) = self.wires.remove(&connection) {
            self.callers[caller].on_lost(connection);
        }
    }

    fn hang_up(&mut self) {
        let all: Vec<Connection> = self.wires.keys().copied().collect();
        if !all.is_empty() {
            let connection = *self.random.pick(&all);
            self.tally.count("fault", "connection lost");
            self.hang_up_one(connection);
        }
    }

    fn hang_up_one(&mut self, connection: Connection) {
        self.lose(connection);
        self.with_unit(|unit, clock, memory, out| unit.on_close(clock, connection, memory, out));
    }

    fn deliver_to_unit(&mut self) {
        let waiting =
            |(connection, wire): (&Connection, &Wire)| (!wire.to_unit.is_empty()).then_some(*connection);
        let ready: Vec<Connection> = self.wires.iter().filter_map(waiting).collect();
        if ready.is_empty() {
            return;
        }
        let connection = *self.random.pick(&ready);
        let wire = self.wires.get_mut(&connection).expect("listed");
        let head = wire.to_unit.pop_front().expect("it has one");
        self.with_unit(|unit, clock, memory, out| unit.on_head(clock, connection, &head, memory, out));
    }

    fn deliver_from_unit(&mut self) -> Result<(), String> {
        let waiting =
            |(connection, wire): (&Connection, &Wire)| (!wire.from_unit.is_empty()).then_some(*connection);
        let ready: Vec<Connection> = self.wires.iter().filter_map(waiting).collect();
        if ready.is_empty() {
            return Ok(());
        }
        let connection = *self.random.pick(&ready);
        let wire = self.wires.get_mut(&connection).expect("listed");
        let head = wire.from_unit.pop_front().expect("it has one");
        match wire.caller {
            Some(caller) => self.callers[caller].on_head(&head, &mut self.random)?,
            None => {
                if let Some(reply) = self.stores.on_head(&head) {
                    wire.to_unit.push_back(reply);
                }
            }
        }
        Ok(())
    }

    /// Callers send what they want sent, and workloads hear what has ended.
    fn fetch_news(&mut self) -> Result<(), String> {
        for number in 0..self.callers.len() {
            for (copies, frame) in self.callers[number].take_frames() {
                for _ in 0..copies {
                    let connection = self.connection_of(number);
                    let wire = self.wires.get_mut(&connection).expect("just found or made");
                    wire.to_unit.push_back(frame.clone());
                }
            }
            let finished = self.callers[number].take_finished();
            self.hand_over(number, finished)?;
        }
        Ok(())
    }

    /// One of a caller's connections; it begins with `Hello`.
    fn connection_of(&mut self, number: usize) -> Connection {
        let its: Vec<Connection> =
            self.wires.iter().filter(|(_, wire)| wire.caller == Some(number)).map(|(at, _)| *at).collect();
        if its.is_empty() || (its.len() < 3 && self.random.per_mille(100)) {
            let connection = self.connect(Some(number));
            let hello = self.callers[number].hello();
            self.wires.get_mut(&connection).expect("just made").to_unit.push_back(hello);
            return connection;
        }
        *self.random.pick(&its)
    }

    fn hand_over(&mut self, number: usize, finished: Vec<Finished>) -> Result<(), String> {
        for (ticket, result) in finished {
            if self.workloads.is_empty() {
                self.on_volume(result)?;
                continue;
            }
            if self.on_direct(ticket, &result) {
                continue;
            }
            let mut orders = Vec::new();
            let caller = &mut self.callers[number];
            let memory = &mut caller.memory;
            let ended = self.workloads[number].on_done(self.now, ticket, result, memory, &mut orders);
            if let Some(record) = ended {
                self.trace.tell(self.now, format_args!("{}", crate::checker::describe(record)));
            }
            self.order(number, orders);
        }
        Ok(())
    }

    fn order(&mut self, number: usize, orders: Vec<Order>) {
        for order in orders {
            match order {
                Order::Wake(task, pause) => self.sleeping.push((self.now.after(pause), number, task)),
                other => self.callers[number].on_order(other, &mut self.stores, &mut self.random),
            }
        }
    }

    fn wake(&mut self) {
        let now = self.now;
        let (due, rest) = std::mem::take(&mut self.sleeping).into_iter().partition(|(at, ..)| *at <= now);
        self.sleeping = rest;
        let due: Vec<(Nanos, usize, u64)> = due;
        for (_, number, task) in due {
            let mut orders = Vec::new();
            self.workloads[number].on_wake(task, &mut orders);
            self.order(number, orders);
        }
    }

    fn keep_alive(&mut self) {
        let number = self.random.index(self.callers.len());
        self.callers[number].on_time(self.now, &mut self.random);
    }

    fn think(&mut self) {
        let number = self.random.index(self.workloads.len());
        let workload = &mut self.workloads[number];
        let mut orders = Vec::new();
        if workload.has_room() {
            let action = workload.choose();
            self.last_stamp += 1;
            if self.case.has_operation(self.last_stamp) {
                workload.begin(self.now, Stamp(self.last_stamp), action, &mut orders);
            }
        } else if self.random.per_mille(10) {
            workload.cancel_one(self.now, &mut orders);
            self.tally.count("client", "cancelled");
        }
        self.order(number, orders);
    }

    fn begin(&mut self, number: usize, action: Action) {
        self.last_stamp += 1;
        let mut orders = Vec::new();
        self.workloads[number].begin(self.now, Stamp(self.last_stamp), action, &mut orders);
        self.order(number, orders);
    }

    fn inject(&mut self) {
        if self.profile == Profile::Cuts || !self.has_fault() {
            return;
        }
        let on = self.random.per_mille(400);
        let rate = |random: &mut Random, most| if on { random.below(most) } else { 0 };
        self.disk.fake.faults = Faults {
            read_errors: rate(&mut self.random, 300),
            write_errors: rate(&mut self.random, 300),
            flush_errors: rate(&mut self.random, 300),
            allocate_errors: rate(&mut self.random, 2_000),
            ..Faults::default()
        };
        if self.profile == Profile::Damage && self.random.per_mille(40) {
            let at = self.disk.damage(self.random.per_mille(200), self.now);
            self.trace.tell(self.now, format_args!("fault {}: damage at {at:?}", self.last_fault));
        }
    }

    fn has_fault(&mut self) -> bool {
        self.last_fault += 1;
        self.case.has_fault(self.last_fault)
    }

    fn crash_if_wanted(&mut self, by_power: bool) {
        if self.has_fault() {
            self.crash(by_power);
        }
    }

    fn crash(&mut self, by_power: bool) {
        self.trace.tell(self.now, format_args!("fault {}: crash, by power {by_power}", self.last_fault));
        if self.condition == Condition::Opening {
            self.tally.count("fault", "crash in recovery");
        }
        self.tally.count("fault", if by_power { "power cut" } else { "kill" });
        self.disk.end(by_power, &mut self.memory);
        self.restart();
    }

    /// A process whose log failed is ended by an operator and started again; whether it may have failed is checked here.
    fn mend(&mut self, why: Option<String>) -> Result<(), String> {
        if !self.disk.was_faulty() {
            let why = why.unwrap_or("a write failed".to_owned());
            return Err(format!("the disk did nothing wrong, and the replica can't go on: {why}"));
        }
        if why.is_some() && self.disk.is_damaged() && self.tally.of("log", "open failed") > OPENS_MAX {
            self.condition = Condition::Ended;
            return Ok(());
        }
        self.disk.kill(&mut self.memory);
        self.restart();
        Ok(())
    }

    fn restart(&mut self) {
        if let Some(replica) = self.unit.replica() {
            self.tally.add("network", "mutations answered from the results", replica.metrics().retries);
        }
        let connections: Vec<Connection> = self.wires.keys().copied().collect();
        for connection in connections {
            self.lose(connection);
        }
        self.memory = SimMemory::new(ARENA_BYTES);
        self.armed.clear();
        self.condition = Condition::Opening;
        self.now = self.now.after(self.random.latency(300 * Nanos::MILLISECOND));
        self.wall_offset += i64::try_from(self.random.below(4 * Nanos::SECOND)).expect("seconds")
            - i64::try_from(2 * Nanos::SECOND).expect("seconds");
        let times = (self.now, self.wall_offset);
        let (random, memory) = (&mut self.random, &mut self.memory);
        let mut out = Out::default();
        self.unit = start(&self.settings, &self.disk, times, random, memory, &mut out);
        self.carry_out(out);
    }
}

/// After so many failed opens a damaged log is taken for destroyed.
const OPENS_MAX: u64 = 60;

fn clock((now, wall_offset): (Nanos, i64)) -> Clock {
    let wall = i64::try_from(now.0).expect("virtual time is short") + wall_offset;
    Clock { now, wall: Timestamp(wall) }
}

/// Formats an empty disk, opens any other.
fn start(
    settings: &Settings,
    disk: &SimDisk,
    times: (Nanos, i64),
    random: &mut Random,
    memory: &mut SimMemory,
    out: &mut Out,
) -> MetaUnit {
    let length = disk.fake.length();
    let config = LogConfig {
        capacity_bytes: settings.capacity,
        device_bytes: length,
        prezero_bytes: random.below(3) * u64::from(settings.geometry.segment_bytes()),
        accept_data_loss: false,
        life_random: random.life_bits(),
        takes_over: None,
    };
    let identity = Identity { cluster: CLUSTER, store: LOG, node: NodeId(1), unit: 1 };
    let log = if length == 0 {
        let (secret, index_key) = settings.secrets;
        Log::format(config, Format { identity, geometry: settings.geometry, secret, index_key })
    } else {
        Log::open(config, Expected { cluster: Some(CLUSTER), store: Some(LOG), node: NodeId(1), unit: 1 })
    };
    let store = StoreId([0xff; 16]); // as the map has it
    let who = group::Identity { cluster: CLUSTER, node: NodeId(1), group: GroupId(0), store, links_max: 64 };
    let edition = Arc::clone(&settings.edition);
    MetaUnit::start(clock(times), (who, settings.replica), log, edition, memory, out)
}
