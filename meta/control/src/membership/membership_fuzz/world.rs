//! The world: time, events, voters with an abstract log between them.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use placement::{ClusterMap, OneNode, one_node};
use wire::control::{
    Answer, ChainId, Command, Heartbeat, HeartbeatReply, Life, Registration, RegistrationReply,
};
use wire::map::MapDelta;
use wire::{ClusterId, Epoch, Incarnation, Nanos, NodeId, ShardIndex, StoreId};

use super::super::{Config, Effect, Effects, Event, Membership, Note, apply};

pub(super) const MS: u64 = Nanos::MILLISECOND;
pub(super) const SECOND: u64 = Nanos::SECOND;

#[derive(Clone)]
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(super) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    pub(super) fn between(&mut self, from: u64, to: u64) -> u64 {
        from + self.below(to - from)
    }

    pub(super) fn one_in(&mut self, count: u64) -> bool {
        self.below(count) == 0
    }

    pub(super) fn pick(&mut self, count: usize) -> usize {
        usize::try_from(self.below(count.max(1) as u64)).unwrap()
    }
}

/// A clock that runs up to half of ρ too fast or too slow, so that two differ by ρ at most.
#[derive(Clone, Copy)]
pub(super) struct Clock {
    pub(super) offset: u64,
    /// Millionths.
    pub(super) rate: u64,
}

impl Clock {
    pub(super) fn new(random: &mut Random) -> Self {
        Self { offset: random.below(1_000 * SECOND), rate: random.between(995_100, 1_004_900) }
    }

    pub(super) fn read(self, now: u64) -> Nanos {
        let scaled = u128::from(now) * u128::from(self.rate) / 1_000_000;
        Nanos(self.offset + u64::try_from(scaled).unwrap())
    }
}

/// A voter's process.
pub(super) struct Voter {
    pub(super) membership: Membership,
    pub(super) clock: Clock,
    pub(super) paused_until: u64,
    /// The term in which it believes to lead.
    pub(super) term: u64,
    /// It reaches nobody.
    pub(super) is_alone: bool,
}

/// A store's disk.
#[derive(Clone, Debug, Default)]
pub(super) struct Disk {
    pub(super) content: BTreeMap<ChainId, BTreeSet<u32>>,
    pub(super) log_epoch: Epoch,
    pub(super) incarnation: Incarnation,
    pub(super) lives: Vec<Incarnation>,
    pub(super) sequence: u64,
    pub(super) cut: bool,
    /// It doesn't hold what it once held, in a way that its marks don't say: it is to be refused.
    pub(super) is_rolled_back: bool,
    pub(super) is_lost: bool,
    pub(super) is_fenced: bool,
    pub(super) snapshot: Option<Box<Disk>>,
}

pub(super) enum Ev {
    Tick(usize),
    Beat(usize, Life),
    ToVoter(usize, Message),
    ToNode(usize, Life, HeartbeatReply),
    Registered(usize, Life, RegistrationReply),
    Push(usize, usize),
    Installed(usize, Life, usize),
    Confirm(usize, u64, u64),
    Commit(usize, u64, Box<MapDelta>),
    Apply(usize, usize),
    Deposed(usize, u64),
    Write,
    WriteAt(u32, usize),
    WriteAck(u32, usize),
    Restart(usize),
    Election,
    Fault,
    Operator,
}

pub(super) enum Message {
    Heartbeat(Box<Heartbeat>),
    Registration(u64, Box<Registration>),
    Command(u64, Command),
    Voters(Vec<u64>),
}

/// What happened, to see that something does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) acked: u64,
    pub(super) synced: u64,
    pub(super) deaths: u64,
    pub(super) seeded: u64,
    pub(super) grants: u64,
    pub(super) elections: u64,
    pub(super) maps: u64,
    pub(super) replaced: u64,
    pub(super) stale: u64,
    pub(super) forgotten: u64,
    pub(super) parted: u64,
    pub(super) settle_seconds_max: u64,
}

impl Counts {
    pub(super) fn add(&mut self, other: &Self) {
        self.acked += other.acked;
        self.synced += other.synced;
        self.deaths += other.deaths;
        self.seeded += other.seeded;
        self.grants += other.grants;
        self.elections += other.elections;
        self.maps += other.maps;
        self.replaced += other.replaced;
        self.stale += other.stale;
        self.forgotten += other.forgotten;
        self.parted += other.parted;
        self.settle_seconds_max = self.settle_seconds_max.max(other.settle_seconds_max);
    }
}

pub(super) struct World {
    pub(super) random: Random,
    pub(super) now: u64,
    queue: BTreeMap<(u64, u64), Ev>,
    next_event: u64,
    /// The committed maps; number 1 first.
    pub(super) maps: Vec<Rc<ClusterMap>>,
    /// The term of each.
    terms: Vec<u64>,
    term: u64,
    pub(super) leader: Option<usize>,
    pub(super) voters: Vec<Voter>,
    pub(super) nodes: Vec<super::nodes::Machine>,
    pub(super) disks: BTreeMap<StoreId, Disk>,
    pub(super) next_store: u8,
    pub(super) next_token: u64,
    /// Whom a registration's answer is for.
    pub(super) tokens: BTreeMap<u64, (usize, Life)>,
    pub(super) answers: BTreeMap<u64, Answer>,
    pub(super) commands: BTreeMap<u64, Command>,
    pub(super) acked: BTreeMap<ChainId, BTreeSet<u32>>,
    pub(super) writes: BTreeMap<u32, super::data::Write>,
    pub(super) next_write: u32,
    /// Members that have everything that was acked, as the world reckons (R6).
    pub(super) holders: BTreeMap<ChainId, BTreeSet<StoreId>>,
    /// Nodes that don't reach each other.
    pub(super) bad_links: BTreeSet<(usize, usize)>,
    pub(super) faults: bool,
    pub(super) seed_wait: u64,
    /// Stores say that they are empty, so that replicas move whenever a node joins.
    pub(super) is_forming: bool,
    /// Operators do nothing, and nobody else is elected.
    pub(super) is_unattended: bool,
    pub(super) counts: Counts,
    is_traced: bool,
}

pub(super) fn store_id(number: u8) -> StoreId {
    StoreId([number; 16])
}

/// One node's.
fn first_map(ring_bits: u8, shards: u8) -> ClusterMap {
    let stores = (1..=shards)
        .map(|i| (store_id(i), ShardIndex(u16::from(i) - 1), format!("h:{}", 7_430 + u16::from(i))));
    one_node(OneNode {
        cluster: ClusterId([1; 16]),
        node: NodeId(1),
        name: "node-0".to_owned(),
        stores: stores.collect(),
        metadata: store_id(100),
        metadata_address: "h:7421".to_owned(),
        control: "h:7422".to_owned(),
        ring_bits,
        reclaim_delay_ms: 1_000,
    })
    .expect("a valid map")
}

impl World {
    pub(super) fn new(seed: u64) -> Self {
        let mut random = Random(seed);
        let ring_bits = u8::try_from(random.below(3)).unwrap();
        let shards = u8::try_from(random.between(1, 3)).unwrap();
        let first = first_map(ring_bits, shards);
        let config = Config { seed_wait: random.between(1, 10) * SECOND };
        let voters = (0..if random.one_in(4) { 1 } else { 3 })
            .map(|_| Voter {
                membership: Membership::new(NodeId(1), config, first.clone()),
                clock: Clock::new(&mut random),
                paused_until: 0,
                term: 0,
                is_alone: false,
            })
            .collect();
        let is_forming = random.one_in(3);
        let mut world = Self {
            random,
            now: 1,
            queue: BTreeMap::new(),
            next_event: 0,
            maps: vec![Rc::new(first)],
            terms: vec![0],
            term: 0,
            leader: None,
            voters,
            nodes: Vec::new(),
            disks: BTreeMap::new(),
            next_store: shards + 1,
            next_token: 1,
            tokens: BTreeMap::new(),
            answers: BTreeMap::new(),
            commands: BTreeMap::new(),
            acked: BTreeMap::new(),
            writes: BTreeMap::new(),
            next_write: 1,
            holders: BTreeMap::new(),
            bad_links: BTreeSet::new(),
            faults: true,
            seed_wait: config.seed_wait,
            is_forming,
            is_unattended: false,
            counts: Counts::default(),
            is_traced: std::env::var_os("CATENA_CONTROL_TRACE").is_some(),
        };
        world.add_first_machine(shards);
        let count = world.random.between(1, 5);
        for _ in 1..count {
            let at = world.random.below(8 * SECOND);
            world.add_machine(at);
        }
        for voter in 0..world.voters.len() {
            world.at(0, Ev::Tick(voter));
        }
        world.at(0, Ev::Election);
        world.at(0, Ev::Write);
        world.at(3 * SECOND, Ev::Fault);
        world.at(SECOND, Ev::Operator);
        world.note_holders();
        world
    }

    pub(super) fn at(&mut self, delay: u64, event: Ev) {
        self.next_event += 1;
        self.queue.insert((self.now + delay, self.next_event), event);
    }

    pub(super) fn map(&self) -> Rc<ClusterMap> {
        Rc::clone(self.maps.last().expect("the first map"))
    }

    /// A delay of a message, mostly short.
    pub(super) fn delay(&mut self) -> u64 {
        let longest = if self.faults && self.random.one_in(20) { 3_000 * MS } else { 30 * MS };
        self.random.between(MS, longest)
    }

    fn trace(&self, delta: &MapDelta) {
        let chain = |chain: &wire::map::Chain| {
            let members = chain.members.iter().map(|member| {
                format!(" {}{:?}{}", member.store, member.state, if member.is_seed { "*" } else { "" })
            });
            format!(
                "{} {:?} min {}{}",
                chain.epoch,
                chain.phase,
                chain.min_in_sync,
                members.collect::<String>()
            )
        };
        eprintln!("{} ms: map {} by {:?}", self.now / MS, delta.number, self.leader);
        for (slice, record) in &delta.slices {
            eprintln!("    slice {slice}: {}", chain(&record.chain));
        }
        for (group, record) in &delta.groups {
            eprintln!("    group {group}: {}", chain(&record.chain));
        }
        for (place, store) in &delta.stores {
            eprintln!(
                "    store {place}: {} of {} {:?} {:?}",
                store.store.0[0], store.node, store.incarnation, store.standing
            );
        }
    }

    pub(super) fn say(&self, what: &str) {
        if self.is_traced {
            eprintln!("{} ms: {what}", self.now / MS);
        }
    }

    pub(super) fn step(&mut self) {
        let Some(((at, _), event)) = self.queue.pop_first() else { panic!("the world goes on") };
        self.now = at;
        self.dispatch(event);
        self.check_readers();
    }

    fn dispatch(&mut self, event: Ev) {
        match event {
            Ev::Tick(voter) => {
                self.at(50 * MS, Ev::Tick(voter));
                if self.voters[voter].paused_until <= self.now {
                    self.handle(voter, Event::Tick);
                }
            }
            Ev::ToVoter(voter, message) => self.on_message(voter, message),
            Ev::Confirm(voter, term, round) => {
                if let Some(until) = self.paused(voter) {
                    self.at(until, Ev::Confirm(voter, term, round));
                } else if self.voters[voter].term == term {
                    self.handle(voter, Event::Confirmed { round });
                }
            }
            Ev::Commit(voter, term, delta) => self.on_commit(voter, term, delta),
            Ev::Apply(voter, number) => {
                if let Some(until) = self.paused(voter) {
                    self.at(until, Ev::Apply(voter, number));
                } else {
                    self.depose_before(voter, number);
                    let map = Rc::clone(&self.maps[number - 1]);
                    self.handle(voter, Event::Applied(&map));
                    self.push_map(number);
                }
            }
            Ev::Deposed(voter, term) => {
                if let Some(until) = self.paused(voter) {
                    self.at(until, Ev::Deposed(voter, term));
                } else if self.voters[voter].term == term {
                    self.voters[voter].term = 0;
                    self.handle(voter, Event::Deposed { leader: None });
                }
            }
            Ev::Election => self.on_election(),
            Ev::Fault => self.on_fault(),
            Ev::Operator => self.on_operator(),
            Ev::Write => self.on_write(),
            Ev::WriteAt(write, place) => self.on_write_at(write, place),
            Ev::WriteAck(write, place) => self.on_write_ack(write, place),
            Ev::Beat(machine, life) => self.on_beat(machine, life),
            Ev::ToNode(machine, life, reply) => self.on_reply(machine, life, reply),
            Ev::Registered(machine, life, reply) => self.on_registered(machine, life, reply),
            Ev::Push(machine, number) => self.on_push(machine, number),
            Ev::Installed(machine, life, number) => self.on_installed(machine, life, number),
            Ev::Restart(machine) => self.start(machine),
        }
    }

    /// Raft hears of a later term before it hears of its entries.
    fn depose_before(&mut self, voter: usize, number: usize) {
        let term = self.voters[voter].term;
        if term > 0 && self.terms[number - 1] > term {
            self.voters[voter].term = 0;
            self.handle(voter, Event::Deposed { leader: None });
        }
    }

    /// How long a voter still stands still.
    fn paused(&self, voter: usize) -> Option<u64> {
        let until = self.voters[voter].paused_until;
        (until > self.now).then(|| until - self.now)
    }

    fn on_message(&mut self, voter: usize, message: Message) {
        if let Some(until) = self.paused(voter) {
            return self.at(until, Ev::ToVoter(voter, message));
        }
        match message {
            Message::Heartbeat(beat) => self.handle(voter, Event::Heartbeat(&beat)),
            Message::Registration(token, registration) => {
                self.handle(voter, Event::Registered { token, registration: &registration });
            }
            Message::Command(token, command) => {
                self.handle(voter, Event::Command { token, command: &command });
            }
            Message::Voters(voters) => self.handle(voter, Event::Voters(&voters)),
        }
    }

    fn handle(&mut self, voter: usize, event: Event<'_>) {
        let mut effects = Effects::default();
        let now = self.voters[voter].clock.read(self.now);
        self.voters[voter].membership.handle(now, event, &mut effects);
        for effect in effects.list {
            self.on_effect(voter, effect);
        }
    }

    fn on_effect(&mut self, voter: usize, effect: Effect) {
        let term = self.voters[voter].term;
        match effect {
            Effect::Propose(delta) => {
                let delay = self.random.between(MS, 20 * MS);
                self.at(delay, Ev::Commit(voter, term, delta));
            }
            Effect::ConfirmLeadership { round } => {
                // A majority answers only whoever leads when the round begins; the answer may be late.
                if self.is_leader(voter, term) {
                    let delay = self.delay();
                    self.at(delay, Ev::Confirm(voter, term, round));
                }
            }
            Effect::Reply(reply) => {
                self.counts.grants += u64::from(reply.lease > 0);
                let delay = self.delay();
                if let Some(machine) = self.machine_of(reply.node)
                    && self.reaches_control(machine)
                {
                    self.at(delay, Ev::ToNode(machine, reply.life, reply));
                }
            }
            Effect::Registered { token, reply } => {
                let delay = self.delay();
                if let Some((machine, life)) = self.tokens.get(&token).copied()
                    && self.reaches_control(machine)
                {
                    self.at(delay, Ev::Registered(machine, life, reply));
                }
            }
            Effect::Answer { token, answer } => self.on_answer(token, answer),
            Effect::Arm(_) => (),
            Effect::ChangeVoters { .. } => {
                let map = self.voters[voter].membership.map().as_map().clone();
                let voters = map.nodes.iter().map(|node| node.voter).filter(|vote| *vote > 0).collect();
                self.at(100 * MS, Ev::ToVoter(voter, Message::Voters(voters)));
            }
            Effect::Note(note) => match note {
                Note::NodeDead(_) => self.counts.deaths += 1,
                Note::StoreStale(_) => self.counts.stale += 1,
                Note::LinkSuspect { .. } => self.counts.parted += 1,
                Note::NodeRegistered { .. } | Note::ChainStuck(_) | Note::ChangeDropped(_) => (),
                Note::Unplaceable(error) => panic!("{error}"),
            },
        }
    }

    fn is_leader(&self, voter: usize, term: u64) -> bool {
        self.leader == Some(voter) && self.term == term && !self.voters[voter].is_alone
    }

    fn on_commit(&mut self, voter: usize, term: u64, delta: Box<MapDelta>) {
        if self.leader != Some(voter) || self.term != term {
            // It was deposed, and hears of it in time.
            return;
        }
        if self.voters[voter].is_alone {
            return self.at(50 * MS, Ev::Commit(voter, term, delta));
        }
        let map = self.map();
        let next = match apply(&map, &delta) {
            Ok(next) => next,
            Err(refused) => panic!("a leader's change is refused: {refused} {delta:?} on {:?}", map.as_map()),
        };
        self.maps.push(Rc::new(next));
        self.terms.push(term);
        self.counts.maps += 1;
        if self.is_traced {
            self.trace(&delta);
        }
        self.check_commit();
        let number = self.maps.len();
        for other in 0..self.voters.len() {
            let delay = if other == voter { MS } else { self.delay() };
            self.at(delay, Ev::Apply(other, number));
        }
    }

    pub(super) fn on_election(&mut self) {
        if self.is_unattended {
            return;
        }
        if self.faults {
            let delay = self.random.between(2 * SECOND, 15 * SECOND);
            self.at(delay, Ev::Election);
        }
        let awake: Vec<usize> = (0..self.voters.len())
            .filter(|voter| self.paused(*voter).is_none() && !self.voters[*voter].is_alone)
            .collect();
        if awake.is_empty() {
            return;
        }
        let chosen = awake[self.random.pick(awake.len())];
        self.term += 1;
        self.counts.elections += 1;
        if let Some(old) = self.leader.replace(chosen) {
            let term = self.voters[old].term;
            if old != chosen {
                let delay = self.random.below(4 * SECOND);
                self.at(delay, Ev::Deposed(old, term));
            }
        }
        if self.voters[chosen].membership.is_leader() {
            // Of an earlier term.
            self.handle(chosen, Event::Deposed { leader: None });
        }
        self.voters[chosen].term = self.term;
        let map = self.map();
        self.handle(chosen, Event::Applied(&map));
        self.handle(chosen, Event::Elected);
        let voters: Vec<u64> =
            map.as_map().nodes.iter().map(|node| node.voter).filter(|vote| *vote > 0).collect();
        self.handle(chosen, Event::Voters(&voters));
    }

    /// A voter's process ends and starts anew with what is durable; it leads nothing.
    pub(super) fn restart_voter(&mut self, voter: usize) {
        let config = Config { seed_wait: self.seed_wait };
        let known = self.voters[voter].membership.map().clone();
        self.voters[voter].membership = Membership::new(NodeId(1), config, known);
        self.voters[voter].term = 0;
        if self.leader == Some(voter) {
            self.leader = None;
            let delay = self.random.between(300 * MS, SECOND);
            self.at(delay, Ev::Election);
        }
    }
}
