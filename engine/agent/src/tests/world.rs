//! Nodes with nothing but their agents, on one thread with virtual time: real logs on fake disks, wires that are cut, processes that die and stand still.
//!
//! A node's units are the simplest ones that are allowed: they follow a map a moment after they have it, and what is to sync has synced at once.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::fmt::Write;
use std::sync::Arc;

use journal::Expected;
use journal::fake_disk::{FakeDisk, FakeMemory, Random, format_of};
use journal::log::{Log, LogConfig};
use placement::Edition;
use wire::control::{
    Answer, CaughtUp, ChainId, Command, Condition, Led, Life, LogEnd, Registration, RegistrationReply,
    StoreBeat, StoreReport, Synced, next_incarnation,
};
use wire::map::{Chain, Phase, ReplicaState, Unit};
use wire::message::{Encoder, PayloadMeta, Reply, Request, RequestHead};
use wire::{
    CommitIndex, Epoch, GroupId, Incarnation, MapNumber, Nanos, NodeId, PREFIX_BYTES, Prefix, SliceIndex,
    StoreId,
};

use crate::testing::{CLUSTER, edition, hello};
use crate::{Agent, Effects, Identity, Link, Note, PeerId, Start, VoterOrigin, VoterStart};

const SEGMENT_BYTES: u32 = 64 << 10;
pub(super) const MS: u64 = Nanos::MILLISECOND;
/// How long a voter's id is in a log's file name, for its disk.
type Vote = u64;

/// A process of a node, and what it leaves behind.
pub(super) struct Node {
    pub(super) id: NodeId,
    pub(super) agent: Option<Agent>,
    /// Durable: the map, the incarnation, the vote.
    stored: Arc<Edition>,
    incarnation: Incarnation,
    lives: Vec<Incarnation>,
    /// The newest map that it ever promised to follow.
    promised: MapNumber,
    /// What its units follow, in this run.
    followed: BTreeMap<Unit, MapNumber>,
    vote: Option<Vote>,
    disks: BTreeMap<Vote, FakeDisk>,
    memory: FakeMemory,
    effects: Effects,
    run: u64,
    deadline: Nanos,
    /// It stands still until then.
    pub(super) stopped_until: Nanos,
    pub(super) lease: Nanos,
    pub(super) notes: Vec<(Nanos, Note)>,
}

#[derive(Debug)]
enum Happening {
    Up { link: u64, run: u64 },
    Frame { link: u64, bytes: Vec<u8> },
    Closed { link: u64 },
    Disk { run: u64 },
    Stored { run: u64, edition: Arc<Edition> },
    Followed { run: u64, unit: Unit, edition: Arc<Edition> },
}

/// One end of a connection; the other end is `link ^ 1`.
#[derive(Clone, Copy, Debug)]
struct End {
    node: usize,
    run: u64,
    open: bool,
}

pub(super) struct World {
    pub(super) now: Nanos,
    pub(super) nodes: Vec<Node>,
    pub(super) random: Random,
    queue: BinaryHeap<Reverse<(Nanos, u64, usize)>>,
    happenings: BTreeMap<u64, Happening>,
    ends: BTreeMap<u64, End>,
    last: u64,
    last_link: u64,
    last_life: u64,
    /// Nothing gets from the one to the other.
    pub(super) cuts: BTreeSet<(usize, usize)>,
    /// An operator's connections: what came on them.
    operators: BTreeMap<u64, Vec<(Prefix, Vec<u8>)>>,
    pub(super) jitter: u64,
    /// Deadlines that came.
    pub(super) ticks: u64,
}

/// The operator, as a node that never dies.
const OPERATOR: usize = usize::MAX;

pub(super) fn address(node: NodeId) -> String {
    format!("node-{}:7422", node.0)
}

fn shard_store(node: NodeId) -> StoreId {
    StoreId([u8::try_from(node.0).expect("few nodes"); 16])
}

fn log_store(node: NodeId) -> StoreId {
    StoreId([0x80 | u8::try_from(node.0).expect("few nodes"); 16])
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

impl World {
    /// A one-node cluster that was just formatted, and runs.
    pub(super) fn new(seed: u64) -> Self {
        let mut world = Self {
            now: Nanos(Nanos::SECOND),
            nodes: Vec::new(),
            random: Random::new(seed),
            queue: BinaryHeap::new(),
            happenings: BTreeMap::new(),
            ends: BTreeMap::new(),
            last: 0,
            last_link: 0,
            last_life: 0,
            cuts: BTreeSet::new(),
            operators: BTreeMap::new(),
            jitter: MS,
            ticks: 0,
        };
        world.add(NodeId(1), edition(1), Incarnation(0), Some((1, VoterOrigin::Founding)));
        world
    }

    /// A cluster of so many nodes, with full redundancy.
    pub(super) fn of(count: u32, seed: u64) -> Self {
        let mut world = Self::new(seed);
        world.until("the first node serves", 10 * Nanos::SECOND, |world| world.is_whole(1));
        for node in 2..=count {
            world.join(NodeId(node));
        }
        let nodes = count as usize;
        world.until("all are there", 60 * Nanos::SECOND, |world| world.is_whole(nodes));
        world
    }

    fn add(
        &mut self,
        id: NodeId,
        stored: Arc<Edition>,
        life: Incarnation,
        vote: Option<(Vote, VoterOrigin)>,
    ) {
        self.nodes.push(Node {
            id,
            agent: None,
            stored,
            incarnation: life,
            lives: Vec::new(),
            promised: MapNumber(0),
            followed: BTreeMap::new(),
            vote: vote.map(|(vote, _)| vote),
            disks: BTreeMap::new(),
            memory: FakeMemory::default(),
            effects: Effects::default(),
            run: 0,
            deadline: Nanos(u64::MAX),
            stopped_until: Nanos(0),
            lease: Nanos(0),
            notes: Vec::new(),
        });
        let at = self.nodes.len() - 1;
        if let Some((vote, _)) = vote {
            let seed = self.random.bits();
            self.nodes[at].disks.insert(vote, FakeDisk::new(seed));
        }
        self.begin(at, vote.map(|(_, origin)| origin));
    }

    /// As `admin cluster join` does it: the control group takes the node in, then it is formatted with the number and the map that it got.
    pub(super) fn join(&mut self, expected: NodeId) {
        let mut registration = self.registration(expected, Incarnation(0), MapNumber(0));
        (registration.node, registration.join) = (NodeId(0), true);
        registration.life = self.next_life();
        let reply = self.ask_leader(&Request::Register(Box::new(registration)));
        let Reply::Register(reply) = reply else { panic!("{reply:?}") };
        let Led::Here(RegistrationReply::Accepted { node, .. }) = *reply else { panic!("{reply:?}") };
        assert_eq!(node, expected);
        let leader = self.leader().expect("somebody answered");
        let map = self.nodes[leader].agent.as_ref().map(|agent| Arc::clone(agent.edition()));
        self.add(node, map.expect("it runs"), Incarnation(0), None);
    }

    fn registration(&self, node: NodeId, previous: Incarnation, installed: MapNumber) -> Registration {
        Registration {
            node,
            life: Life(0),
            join: false,
            name: format!("node-{}", node.0),
            rack: String::new(),
            control: address(node),
            sent: self.now,
            installed,
            stores: reports(node, previous, &[]),
        }
    }

    fn next_life(&mut self) -> Life {
        self.last_life += 1;
        Life(self.last_life)
    }

    /// The process of a node starts.
    pub(super) fn begin(&mut self, at: usize, origin: Option<VoterOrigin>) {
        let life = self.next_life();
        let random = u16::try_from(self.random.below(1 << 16)).expect("16 bits");
        let node = &mut self.nodes[at];
        assert!(node.agent.is_none(), "a node runs once");
        assert!(node.stored.number() >= node.promised, "{:?} has forgotten what it promised (R1)", node.id);
        node.followed = units().into_iter().map(|unit| (unit, MapNumber(0))).collect();
        let previous = node.incarnation;
        node.incarnation = next_incarnation(previous, random);
        if previous > Incarnation(0) {
            node.lives.push(previous);
        }
        node.run += 1;
        node.lease = Nanos(0);
        let voter = node.vote.map(|id| {
            let length = node.disks[&id].length();
            let expected = Expected { cluster: Some(CLUSTER), store: None, node: NodeId(1), unit: 0 };
            let (log, origin) = match origin {
                Some(origin) => {
                    (Log::format(log_config(0), format_of(CLUSTER, vote_store(id), SEGMENT_BYTES)), origin)
                }
                None => (Log::open(log_config(length), expected), VoterOrigin::Kept),
            };
            VoterStart { id, log, origin }
        });
        let start = Start {
            life,
            join: false,
            endpoints: vec![Arc::from(address(NodeId(1)))],
            edition: Arc::clone(&node.stored),
            stores: reports(node.id, node.incarnation, &node.lives),
            voter,
        };
        node.agent = Some(Agent::new(identity(node.id), start));
        self.step(at, Agent::on_start);
    }

    /// The process of a node is killed, or its power fails.
    pub(super) fn kill(&mut self, at: usize, is_power_cut: bool) {
        let node = &mut self.nodes[at];
        node.agent = None;
        node.deadline = Nanos(u64::MAX);
        node.stopped_until = Nanos(0);
        for disk in node.disks.values_mut() {
            if is_power_cut { disk.crash(&mut node.memory) } else { disk.kill(&mut node.memory) }
        }
        node.memory.clear();
        let run = node.run;
        let links: Vec<u64> = self.links_of(at, run);
        for link in links {
            self.ends.get_mut(&link).expect("just found").open = false;
            // The kernel of a killed process closes its connections, and that of a machine without power doesn't.
            if !is_power_cut {
                self.tell(link ^ 1, |link| Happening::Closed { link });
            }
        }
    }

    fn links_of(&self, at: usize, run: u64) -> Vec<u64> {
        let its = |(_, end): &(&u64, &End)| end.node == at && end.run == run && end.open;
        self.ends.iter().filter(its).map(|(link, _)| *link).collect()
    }

    pub(super) fn start_again(&mut self, at: usize) {
        self.begin(at, None);
    }

    /// Hands an agent an event, and carries out what follows.
    fn step<T>(
        &mut self,
        at: usize,
        event: impl FnOnce(&mut Agent, Nanos, &mut FakeMemory, &mut Effects) -> T,
    ) -> Option<T> {
        let now = self.now;
        let node = &mut self.nodes[at];
        let agent = node.agent.as_mut()?;
        let result = event(agent, now, &mut node.memory, &mut node.effects);
        let installed = agent.installed();
        node.promised = node.promised.max(installed);
        let mut parts = node.followed.iter().filter(|(unit, _)| agent.takes_part(**unit));
        let follows = parts.all(|(_, number)| *number >= installed);
        assert!(follows, "{:?} promises map {} before its units follow it (R5)", node.id, installed.0);
        self.carry_out(at);
        let node = &mut self.nodes[at];
        if let Some(agent) = &mut node.agent {
            agent.on_turn(now, &mut node.memory, &mut node.effects);
        }
        self.carry_out(at);
        Some(result)
    }

    fn carry_out(&mut self, at: usize) {
        let mut effects = std::mem::take(&mut self.nodes[at].effects);
        let node = &mut self.nodes[at];
        let run = node.run;
        let disk = node.vote.and_then(|vote| node.disks.get_mut(&vote));
        if let Some(disk) = disk {
            disk.submit(&effects.io, &mut node.memory);
            if disk.pending() > 0 {
                self.schedule(at, 200_000, Happening::Disk { run });
            }
        }
        let node = &mut self.nodes[at];
        node.deadline = effects.deadline.unwrap_or(node.deadline);
        node.lease = effects.lease.map_or(node.lease, |lease| lease.max(node.lease));
        node.notes.extend(effects.notes.drain(..).map(|note| (self.now, note)));
        let (store, publish, vote) =
            (effects.store.take(), effects.publish.take(), effects.format_voter.take());
        for send in &effects.sends {
            let bytes = effects.bytes[send.head.0 as usize..send.head.1 as usize].to_vec();
            self.send(send.link.0, bytes);
        }
        for (link, _) in std::mem::take(&mut effects.closes) {
            self.close(link.0);
        }
        let dials = std::mem::take(&mut effects.dials);
        effects.clear();
        self.nodes[at].effects = effects;
        if let Some(edition) = store {
            self.schedule(at, 500_000, Happening::Stored { run, edition });
        }
        if let Some(edition) = publish {
            let agent = self.nodes[at].agent.as_ref().expect("it has just spoken");
            for unit in units().into_iter().filter(|unit| agent.takes_part(*unit)).collect::<Vec<_>>() {
                self.schedule(at, 50_000, Happening::Followed { run, unit, edition: Arc::clone(&edition) });
            }
        }
        for dial in dials {
            self.dial(at, dial.peer, &dial.address);
        }
        if let Some(vote) = vote {
            self.format_voter(at, vote);
        }
    }

    fn format_voter(&mut self, at: usize, vote: Vote) {
        let node = &mut self.nodes[at];
        // R35: a vote that was recorded is never begun again.
        let log = (!node.disks.contains_key(&vote)).then(|| {
            node.disks.insert(vote, FakeDisk::new(vote));
            node.vote = Some(vote);
            Log::format(log_config(0), format_of(CLUSTER, vote_store(vote), SEGMENT_BYTES))
        });
        self.step(at, |agent, now, memory, effects| agent.on_voter_log(now, log, memory, effects));
    }

    fn dial(&mut self, at: usize, peer: PeerId, to: &str) {
        let found = self.nodes.iter().position(|node| address(node.id) == to);
        let link = self.pair((at, self.nodes[at].run), found.map(|found| (found, self.nodes[found].run)));
        self.step(at, |agent, _, _, effects| agent.on_dialled(peer, Some(Link(link)), effects));
        match found.filter(|found| self.nodes[*found].agent.is_some()) {
            _ if found.is_some_and(|found| self.is_cut(at, found)) => {}
            Some(found) => {
                let run = self.nodes[found].run;
                self.schedule(found, MS / 2, Happening::Up { link: link ^ 1, run });
                let run = self.nodes[at].run;
                self.schedule(at, MS, Happening::Up { link, run });
            }
            None => self.schedule(at, MS, Happening::Closed { link }),
        }
    }

    fn pair(&mut self, one: (usize, u64), other: Option<(usize, u64)>) -> u64 {
        self.last_link += 2;
        let link = self.last_link;
        self.ends.insert(link, End { node: one.0, run: one.1, open: true });
        if let Some((node, run)) = other {
            self.ends.insert(link ^ 1, End { node, run, open: true });
        }
        link
    }

    fn is_cut(&self, one: usize, other: usize) -> bool {
        self.cuts.contains(&(one, other)) || self.cuts.contains(&(other, one))
    }

    fn send(&mut self, link: u64, bytes: Vec<u8>) {
        if self.ends.get(&link).is_some_and(|end| end.open) {
            self.tell(link ^ 1, |link| Happening::Frame { link, bytes });
        }
    }

    /// Something arrives at an end of a connection, unless the wire is cut: then nothing ever does again.
    fn tell(&mut self, link: u64, what: impl FnOnce(u64) -> Happening) {
        let (Some(to), Some(from)) = (self.ends.get(&link).copied(), self.ends.get(&(link ^ 1)).copied())
        else {
            return;
        };
        if !to.open {
            return;
        }
        if self.cuts.contains(&(from.node, to.node)) {
            self.ends.remove(&(link ^ 1)); // the connection is broken from now on, and nobody knows
            return;
        }
        let happening = what(link);
        self.schedule(to.node, MS / 2, happening);
    }

    fn close(&mut self, link: u64) {
        if let Some(end) = self.ends.get_mut(&link) {
            end.open = false;
            let (at, run) = (end.node, end.run);
            if self.nodes[at].run == run {
                self.schedule(at, 1, Happening::Closed { link });
            }
            self.tell(link ^ 1, |link| Happening::Closed { link });
        }
    }

    fn schedule(&mut self, at: usize, after: u64, happening: Happening) {
        self.last += 1;
        // Frames of one connection keep their order, since what is scheduled later for the same time comes later.
        let later =
            if matches!(happening, Happening::Disk { .. } | Happening::Stored { .. }) && self.jitter > 0 {
                self.random.below(self.jitter)
            } else {
                0
            };
        self.queue.push(Reverse((self.now.after(after + later), self.last, at)));
        self.happenings.insert(self.last, happening);
    }

    /// The next thing happens; false: it would be later than `until`.
    fn advance(&mut self, until: Nanos) -> bool {
        let timer = (0..self.nodes.len())
            .map(|at| (self.nodes[at].deadline.max(self.nodes[at].stopped_until), at))
            .min()
            .filter(|(due, _)| due.0 < u64::MAX);
        let next = self.queue.peek().map(|Reverse((due, _, _))| *due);
        let due = timer.map(|(due, _)| due).into_iter().chain(next).min().unwrap_or(Nanos(u64::MAX));
        if due > until {
            self.now = until;
            return false;
        }
        self.now = self.now.max(due);
        if let Some((due, at)) = timer
            && next.is_none_or(|next| due <= next)
        {
            self.nodes[at].deadline = Nanos(u64::MAX);
            self.ticks += 1;
            self.step(at, Agent::on_tick);
            return true;
        }
        let Some(Reverse((_, key, at))) = self.queue.pop() else { return false };
        if at != OPERATOR && self.nodes[at].stopped_until > self.now {
            let again = self.nodes[at].stopped_until;
            self.queue.push(Reverse((again, key, at)));
            return true;
        }
        let happening = self.happenings.remove(&key).expect("queued once");
        self.happen(at, happening);
        true
    }

    fn happen(&mut self, at: usize, happening: Happening) {
        if at == OPERATOR {
            if let Happening::Frame { link, bytes } = happening {
                let (prefix, message) = parse(&bytes);
                self.operators.entry(link).or_default().push((prefix, message.to_vec()));
            }
            return;
        }
        let run = self.nodes[at].run;
        match happening {
            Happening::Up { link, run: its } if its == run => {
                self.step(at, |agent, _, _, effects| {
                    if link % 2 == 0 { agent.on_up(Link(link), effects) } else { agent.on_open(Link(link)) }
                });
            }
            Happening::Frame { link, bytes } if self.is_of(link, at, run) => {
                let (prefix, message) = parse(&bytes);
                let close = self.step(at, |agent, now, memory, effects| {
                    agent.on_head(now, Link(link), &prefix, message, memory, effects)
                });
                if close.flatten().is_some() {
                    self.close(link);
                }
            }
            Happening::Closed { link }
                if self.ends.get(&link).is_some_and(|end| (end.node, end.run) == (at, run)) =>
            {
                self.ends.remove(&link);
                self.step(at, |agent, now, memory, effects| agent.on_close(now, Link(link), memory, effects));
            }
            Happening::Disk { run: its } if its == run => self.disk(at),
            Happening::Stored { run: its, edition } if its == run => {
                let number = edition.number();
                self.nodes[at].stored = edition;
                self.step(at, |agent, now, memory, effects| agent.on_stored(now, number, memory, effects));
            }
            Happening::Followed { run: its, unit, edition } if its == run => self.follow(at, unit, &edition),
            _ => {}
        }
    }

    fn is_of(&self, link: u64, at: usize, run: u64) -> bool {
        self.ends.get(&link).is_some_and(|end| (end.node, end.run, end.open) == (at, run, true))
    }

    fn disk(&mut self, at: usize) {
        let node = &mut self.nodes[at];
        let Some(disk) = node.vote.and_then(|vote| node.disks.get_mut(&vote)) else { return };
        if let Some((io, outcome)) = disk.complete(&mut node.memory) {
            self.step(at, |agent, now, memory, effects| agent.on_io(now, io, outcome, memory, effects));
        }
    }

    /// A unit follows a map: it says so, and what is to sync has synced.
    fn follow(&mut self, at: usize, unit: Unit, edition: &Arc<Edition>) {
        let (number, map) = (edition.number(), edition.map().as_map());
        self.nodes[at].followed.insert(unit, number);
        let id = self.nodes[at].id;
        let store = if matches!(unit, Unit::Shard(_)) { shard_store(id) } else { log_store(id) };
        let place = map.stores.iter().position(|known| known.store == store);
        let place = place.and_then(|place| u16::try_from(place).ok());
        let is_here = |state: ReplicaState| {
            move |chain: &Chain| {
                place.is_some_and(|place| chain.member(place).is_some_and(|member| member.state == state))
            }
        };
        let chains = chains(map);
        let syncing = chains
            .clone()
            .filter(|(_, chain)| chain.phase == Phase::Active && is_here(ReplicaState::Syncing)(chain));
        let synced: Vec<Synced> =
            syncing.map(|(chain, state)| Synced { chain, epoch: state.epoch, store, missing: 0 }).collect();
        let waits = chains
            .clone()
            .any(|(id, chain)| matches!(id, ChainId::Group(_)) && is_here(ReplicaState::Waiting)(chain));
        let beat = StoreBeat { store, condition: Condition::Well, sequence: 1, used_bytes: 0, lag: 0 };
        self.step(at, |agent, now, memory, effects| {
            agent.on_followed(now, unit, number, memory, effects);
            agent.on_beat(beat);
            for synced in synced {
                agent.on_synced(synced);
            }
            if matches!(unit, Unit::Group(_)) {
                agent.on_caught_up(CaughtUp { group: GroupId(0), store }, waits);
            }
            agent.on_tick(now, memory, effects);
        });
    }

    /// Time passes, and everything that is due in it happens.
    pub(super) fn pass(&mut self, nanos: u64) {
        let until = self.now.after(nanos);
        while self.advance(until) {
            self.check_leases();
        }
    }

    /// Some time passes.
    pub(super) fn pass_up_to(&mut self, nanos: u64) {
        let nanos = self.random.below(nanos);
        self.pass(nanos);
    }

    /// Time passes until all units of a node follow a map that it hasn't stored yet, or for so long.
    pub(super) fn pass_until_it_stores(&mut self, at: usize, patience: u64) {
        let until = self.now.after(patience);
        loop {
            let node = &self.nodes[at];
            let Some(agent) = &node.agent else { return };
            let newest = agent.edition().number();
            if node.stored.number() < newest && node.followed.values().all(|number| *number == newest) {
                return;
            }
            if !self.advance(until) {
                return;
            }
            self.check_leases();
        }
    }

    /// Time passes until it is so, which must be soon. Returns how long it took.
    pub(super) fn until(&mut self, what: &str, patience: u64, is_so: impl Fn(&Self) -> bool) -> u64 {
        let begin = self.now;
        while !is_so(self) {
            assert!(self.advance(begin.after(patience)), "{what}: not in {patience} ns\n{}", self.describe());
            self.check_leases();
        }
        self.now.since(begin)
    }

    /// R5, R18: once a newer epoch of a chain acks anywhere, no node that isn't in it may have both a lease and a promise to the older one.
    fn check_leases(&self) {
        let agents = || self.nodes.iter().filter_map(|node| Some((node, node.agent.as_ref()?)));
        let Some(newest) = agents().map(|(_, agent)| agent.edition()).max_by_key(|edition| edition.number())
        else {
            return;
        };
        for (node, agent) in agents().filter(|(node, _)| node.lease > self.now) {
            let its = agent.edition();
            if its.number() == newest.number() || agent.installed() == newest.number() {
                continue;
            }
            let own = |map: &wire::map::Map, place: u16| map.stores[usize::from(place)].node == node.id;
            for ((id, new), (_, old)) in chains(newest.map().as_map()).zip(chains(its.map().as_map())) {
                let serves = |map: &wire::map::Map, chain: &Chain| {
                    chain.serving().any(|member| own(map, member.store))
                };
                let is_out = new.epoch > old.epoch
                    && new.phase == Phase::Active
                    && !serves(newest.map().as_map(), new);
                assert!(
                    !(is_out && serves(its.map().as_map(), old)),
                    "{:?} has a lease until {:?} at {:?}, and isn't in {id:?} any more",
                    node.id,
                    node.lease,
                    self.now
                );
            }
        }
    }

    /// Who leads, if it is one.
    pub(super) fn leader(&self) -> Option<usize> {
        let mut leaders =
            (0..self.nodes.len()).filter(|at| self.nodes[*at].agent.as_ref().is_some_and(Agent::leads));
        leaders.next().filter(|_| leaders.next().is_none())
    }

    /// Whether so many nodes are there, all live with a lease and the newest map, and every chain has all the copies that it can have.
    pub(super) fn is_whole(&self, nodes: usize) -> bool {
        let Some(leader) = self.leader() else { return false };
        let Some(agent) = &self.nodes[leader].agent else { return false };
        let map = agent.edition().map().as_map();
        let length = nodes.min(3);
        let votes = map.nodes.iter().filter(|node| node.voter > 0).count();
        map.nodes.len() == nodes
            && if nodes < 3 { votes == 1 } else { votes >= 3 }
            && usize::from(map.settings.chain_length) == length
            && chains(map).all(|(_, chain)| chain.phase == Phase::Active && chain.serving().count() == length)
            && self.nodes.iter().all(|node| {
                let newest = node.agent.as_ref().is_some_and(|its| its.installed() == map.number);
                newest && node.lease > self.now
            })
    }

    /// Whether every chain acks, as far as the leader knows, and has so many serving members.
    pub(super) fn is_writable(&self, serving: usize) -> bool {
        let Some(leader) = self.leader() else { return false };
        let Some(agent) = &self.nodes[leader].agent else { return false };
        let map = agent.edition().map().as_map();
        chains(map).all(|(_, chain)| {
            let lives = |place: u16| {
                let node = map.stores[usize::from(place)].node;
                self.nodes.iter().any(|known| known.id == node && known.agent.is_some())
            };
            chain.can_ack()
                && chain.serving().count() >= serving
                && chain.ackers().all(|member| lives(member.store))
        })
    }

    pub(super) fn describe(&self) -> String {
        let mut text = format!("at {:?}\n", self.now);
        for node in &self.nodes {
            let agent = node.agent.as_ref();
            let numbers = agent
                .map(|agent| (agent.edition().number(), agent.installed(), agent.leads(), agent.leader()));
            let _ =
                writeln!(text, "{:?}: {numbers:?}, lease {:?}, vote {:?}", node.id, node.lease, node.vote);
            for (at, note) in node.notes.iter().rev().take(12).rev() {
                let _ = writeln!(text, "    {at:?} {note:?}");
            }
        }
        if let Some(map) =
            self.leader().and_then(|leader| self.nodes[leader].agent.as_ref()).map(Agent::edition)
        {
            let map = map.map().as_map();
            let _ = writeln!(text, "{:?}", map.settings);
            for (id, chain) in chains(map)
                .filter(|(id, _)| matches!(id, ChainId::Group(_) | ChainId::Slice(SliceIndex(0 | 1))))
            {
                let _ = writeln!(text, "{id:?} {chain:?}");
            }
        }
        text
    }

    /// An operator's request to whoever leads, and the connection on which the answer may come.
    pub(super) fn tell_leader(&mut self, request: &Request<'_>) -> Option<u64> {
        let at = self.leader()?;
        let run = self.nodes[at].run;
        let link = self.pair((OPERATOR, 0), Some((at, run)));
        self.schedule(at, MS / 2, Happening::Up { link: link ^ 1, run });
        let mut encoder = Encoder::new();
        for (correlation, request) in [&Request::Hello(hello()), request].into_iter().enumerate() {
            let mut bytes = Vec::new();
            let head = RequestHead { correlation: correlation as u64, deadline_ms: 0 };
            encoder.request(&mut bytes, head, request, PayloadMeta::default());
            self.schedule(at, MS, Happening::Frame { link: link ^ 1, bytes });
        }
        Some(link)
    }

    /// An operator's request to whoever leads.
    pub(super) fn ask_leader(&mut self, request: &Request<'_>) -> Reply<'static> {
        self.until("somebody leads", 30 * Nanos::SECOND, |world| world.leader().is_some());
        let link = self.tell_leader(request).expect("somebody leads");
        self.until("an answer", 30 * Nanos::SECOND, |world| {
            world.operators.get(&link).is_some_and(|frames| frames.len() == 2)
        });
        let frames = self.operators.remove(&link).expect("just seen");
        let (prefix, message) = &frames[1];
        match Reply::decode(prefix.kind, prefix.status, message).expect("a reply") {
            Reply::Register(reply) => Reply::Register(reply),
            Reply::Managed(reply) => Reply::Managed(reply),
            other => panic!("{other:?}"),
        }
    }

    /// An operator's command.
    pub(super) fn command(&mut self, command: Command) -> Answer {
        match self.ask_leader(&Request::Manage(Box::new(command))) {
            Reply::Managed(answer) => *answer,
            other => panic!("{other:?}"),
        }
    }
}

fn parse(bytes: &[u8]) -> (Prefix, &[u8]) {
    let (prefix, message) = bytes.split_first_chunk::<PREFIX_BYTES>().expect("whole frames");
    Prefix::verify(prefix, message).expect("unharmed frames");
    let prefix = Prefix::decode(prefix).expect("a prefix");
    (prefix, message)
}

fn units() -> [Unit; 2] {
    [Unit::Shard(wire::ShardIndex(0)), Unit::Group(GroupId(0))]
}

fn vote_store(vote: Vote) -> StoreId {
    StoreId(u128::from(vote).to_le_bytes())
}

fn identity(node: NodeId) -> Identity {
    Identity {
        cluster: CLUSTER,
        node,
        name: format!("node-{}", node.0),
        rack: String::new(),
        control: address(node),
        links_max: 64,
    }
}

fn reports(node: NodeId, incarnation: Incarnation, lives: &[Incarnation]) -> Vec<StoreReport> {
    let report = |store, unit, port| StoreReport {
        store,
        unit,
        address: format!("node-{}:{port}", node.0),
        incarnation,
        lives: lives.to_vec(),
        recovered_cut: false,
        lacks: false,
        log_end: LogEnd { epoch: Epoch(0), index: CommitIndex(0) },
        sequence: 1,
        capacity_bytes: 100 << 30,
        used_bytes: 0,
        condition: Condition::Well,
    };
    let [shard, group] = units();
    vec![report(shard_store(node), shard, 7430), report(log_store(node), group, 7421)]
}

fn chains(map: &wire::map::Map) -> impl Iterator<Item = (ChainId, &Chain)> + Clone {
    let slices = (0..=u16::MAX).zip(&map.slices);
    let slices = slices.map(|(at, slice)| (ChainId::Slice(SliceIndex(at)), &slice.chain));
    slices.chain(map.groups.iter().map(|group| (ChainId::Group(group.group), &group.chain)))
}
