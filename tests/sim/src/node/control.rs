//! A node of a cluster: what it keeps beside its disks, its control agent, and the mail between that and the units.
//!
//! The map is one small file: after a crash it is the old one or the new one. A map goes to the units once it is durable, and is promised when they follow.
//! Stores' lives and recorded votes are durable before anybody is told of them (R34, R35).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use agent::{Start, VoterFailure, VoterOrigin, VoterStart};
use journal::log::{Log, LogConfig};
use journal::{Expected, Format, Geometry, Identity as StoreIdentity};
use placement::Edition;
use wire::control::{
    Condition as StoreCondition, Life, LogEnd, Registration, StoreBeat, StoreReport, StoreVerdict,
    next_incarnation,
};
use wire::limits::STORE_LIVES_MAX;
use wire::map::{ReplicaState, Unit};
use wire::{Incarnation, MapNumber, Nanos, NodeId, StoreId};

use super::{
    Around, CLUSTER, Condition, Host, LINKS_MAX, LocalClock, Logic, Node, NodeSettings, first_map,
    shard_index, store_id,
};
use crate::agent_unit::AgentUnit;
use crate::disk::SimDisk;
use crate::mail::{Mail, Order};
use crate::network::Side;
use crate::random::Random;
use crate::unit::Out;
use crate::world::Happening;

/// How a node comes into its cluster.
#[derive(Clone, Debug)]
pub(crate) struct Seat {
    /// Its number.
    pub id: NodeId,
    /// The map that it is formatted with.
    pub edition: Arc<Edition>,
    /// Control ports that it is configured with.
    pub endpoints: Vec<Arc<str>>,
}

/// A store's lives, as it remembers them.
#[derive(Clone, Debug, Default)]
struct Lives {
    incarnation: Incarnation,
    /// The last one that control is known to have accepted, and all since.
    before: Vec<Incarnation>,
    /// A recovery cut its end, and it doesn't serve everywhere again yet (R7).
    was_cut: bool,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Control {
    /// Its number.
    pub id: NodeId,
    endpoints: Vec<Arc<str>>,
    /// Durable: of each store.
    lives: Vec<Lives>,
    /// Durable: the vote that it has, and all that it ever had.
    vote: Option<u64>,
    votes: BTreeSet<u64>,
    founds: bool,
    /// The newest map that it ever promised.
    promised: MapNumber,
    life: Life,
    /// A map on its way to the disk; one that waits for it.
    storing: Option<Arc<Edition>>,
    publishing: Option<Arc<Edition>>,
    followed: BTreeMap<Unit, MapNumber>,
    /// On the node's clock.
    lease: Nanos,
    /// When each unit's queue has room behind what is in it.
    free_at: BTreeMap<usize, Nanos>,
    /// Stores that control refuses, and why.
    pub refused: Vec<(StoreId, StoreVerdict)>,
    /// Another vote took the place of one whose log this life had open: its buffers are lost with it.
    pub changed_vote: bool,
    /// The vote's log can't be used any more.
    pub vote_is_lost: bool,
    pub(super) random: Random,
}

/// Between two looks of a node at its stores.
pub(crate) const BEAT: u64 = 250 * Nanos::MILLISECOND;
/// A connection over which nothing comes for so long is ended, as in production.
const IDLE: u64 = 60 * Nanos::SECOND;
/// From one thread to another.
const MAIL: u64 = 20 * Nanos::MICROSECOND;
/// A small file is written, flushed and renamed.
const SMALL_FILE: u64 = 1500 * Nanos::MICROSECOND;
const VOTE_SEGMENT_BYTES: u32 = 2 << 20;

impl Control {
    /// The process ends: a map that was on its way to the disk is there, or the one before.
    pub(super) fn end_life(&mut self, is_written: bool, stored: &mut Arc<Edition>) {
        if let Some(edition) = self.storing.take().filter(|_| is_written) {
            *stored = edition;
        }
        self.changed_vote = false;
        self.publishing = None;
        self.lease = Nanos(0);
        self.refused.clear();
        self.free_at.clear();
        self.followed.clear();
    }
}

impl Node {
    /// The first node of a cluster.
    pub(crate) fn founding(seed: u64, settings: NodeSettings, ring_bits: u8) -> Self {
        let edition = Arc::new(Edition::new(first_map(0, settings, ring_bits)));
        let mut node =
            Self::seated(seed, 0, settings, Seat { id: NodeId(1), edition, endpoints: Vec::new() });
        if let Some(control) = &mut node.control {
            (control.vote, control.founds) = (Some(1), true);
            control.votes.insert(1);
        }
        node
    }

    /// A node that was taken in: formatted with its number and the map that it got.
    pub(crate) fn seated(seed: u64, number: usize, settings: NodeSettings, seat: Seat) -> Self {
        let Seat { id, edition, endpoints } = seat;
        let mut node = Self::formatted(seed, number, settings, edition);
        let mut random = Random::stream(seed, &format!("control {number}"));
        // Any two differ by less than 1 % (R18).
        node.clock = LocalClock::drifting(i64::try_from(random.below(9_801)).expect("small") - 4_900);
        node.hosts.push(Host::new(
            SimDisk::of_log(seed, &format!("vote {number}.1")),
            (random.next(), random.next()),
        ));
        node.control = Some(Box::new(Control {
            id,
            endpoints,
            lives: vec![Lives::default(); settings.shards + 1],
            vote: None,
            votes: BTreeSet::new(),
            founds: false,
            promised: MapNumber(0),
            life: Life(0),
            storing: None,
            publishing: None,
            followed: BTreeMap::new(),
            lease: Nanos(0),
            free_at: BTreeMap::new(),
            refused: Vec::new(),
            changed_vote: false,
            vote_is_lost: false,
            random,
        }));
        node
    }

    /// What an operator's tool asks for a node that isn't formatted yet.
    pub(crate) fn joining(number: usize, settings: NodeSettings, life: u64) -> Registration {
        let lives = vec![Lives::default(); settings.shards + 1];
        let stores = (0..=settings.shards).zip(&lives);
        let stores = stores.map(|(unit, lives)| blank_report((number, unit), settings, lives));
        Registration {
            node: NodeId(0),
            life: Life(life),
            join: true,
            name: format!("node-{number}"),
            rack: String::new(),
            control: super::address(number, settings.shards + 1, settings.shards),
            sent: Nanos(1),
            installed: MapNumber(0),
            stores: stores.collect(),
        }
    }

    fn agent_unit(&self) -> usize {
        self.settings.shards + 1
    }

    /// Its agent, once all stores are open.
    pub(crate) fn agent(&self) -> Option<&AgentUnit> {
        match self.hosts.get(self.agent_unit())?.logic.as_ref()? {
            Logic::Agent(agent) => Some(agent),
            _ => None,
        }
    }

    /// Whether its lease is good.
    pub(crate) fn has_lease(&self, now: Nanos) -> bool {
        self.control.as_ref().is_some_and(|control| control.lease > self.clock.local(now))
    }

    /// Its stores, shards first.
    pub(crate) fn stores(&self) -> impl Iterator<Item = StoreId> {
        let number = self.number;
        (0..=self.settings.shards).map(move |unit| store_id(number, unit))
    }

    /// A life begins: every store has a new one, durably.
    pub(super) fn begin_life(&mut self, around: &mut Around<'_>) {
        let (node, life) = (self.number, self.life);
        let Some(control) = &mut self.control else { return };
        assert!(
            self.edition.number() >= control.promised,
            "R1: node {node} has forgotten that it promised {:?}",
            control.promised
        );
        control.life = Life(control.random.next());
        for lives in &mut control.lives {
            let bits = u16::try_from(control.random.below(1 << 16)).expect("16 bits");
            if lives.incarnation > Incarnation(0) {
                lives.before.push(lives.incarnation);
            }
            if lives.before.len() > STORE_LIVES_MAX {
                lives.before.remove(1);
            }
            lives.incarnation = next_incarnation(lives.incarnation, bits);
        }
        let host = self.hosts.last_mut().expect("the agent's place");
        host.memory = crate::memory::SimMemory::new(super::ARENA_BYTES);
        host.condition = Condition::Opening;
        host.armed.clear();
        host.turn_is_due = false;
        around.schedule.after(BEAT, Happening::Beat { node, life });
    }

    /// A unit serves: once all stores do, the agent begins.
    pub(super) fn on_opened(&mut self, unit: usize, around: &mut Around<'_>) {
        let Some(control) = &mut self.control else { return };
        let was_cut = match &self.hosts[unit].logic {
            Some(Logic::Shard(shard)) => shard.store().opened().is_some_and(|opened| opened.recovered_cut),
            Some(Logic::Meta(meta)) => meta.found().is_some_and(|(opened, _)| opened.recovered_cut),
            _ => false,
        };
        control.lives[unit].was_cut |= was_cut;
        let stores = &self.hosts[..=self.settings.shards];
        if self.agent().is_none() && stores.iter().all(|host| host.condition == Condition::Serving) {
            self.start_agent(around);
        }
    }

    fn start_agent(&mut self, around: &mut Around<'_>) {
        let unit = self.agent_unit();
        let stores = (0..unit).map(|unit| self.report(unit)).collect();
        let edition = Arc::clone(&self.edition);
        let now = self.clock.local(around.schedule.now());
        let voter = self.voter_start();
        let control = self.control.as_ref().expect("only in clusters");
        let start = Start {
            life: control.life,
            join: false,
            endpoints: control.endpoints.clone(),
            edition,
            stores,
            voter,
        };
        let identity = agent::Identity {
            cluster: CLUSTER,
            node: control.id,
            name: format!("node-{}", self.number),
            rack: String::new(),
            control: self.address(unit),
            links_max: LINKS_MAX,
        };
        let mut out = Out::default();
        let agent = AgentUnit::start(now, (identity, start), &mut self.hosts[unit].memory, &mut out);
        self.hosts[unit].logic = Some(Logic::Agent(Box::new(agent)));
        self.hosts[unit].condition = Condition::Serving;
        self.carry_out(unit, out, around);
    }

    /// The vote's log. One whose record is there and whose log isn't is none (R35).
    fn voter_start(&mut self) -> Option<VoterStart> {
        let unit = self.agent_unit();
        let length = self.hosts[unit].disk.fake.length();
        let control = self.control.as_mut()?;
        let id = control.vote?;
        let founds = std::mem::take(&mut control.founds);
        let log = if founds {
            Log::format(vote_config(0), vote_format(control.id, id, self.hosts[unit].secrets))
        } else if length == 0 {
            return None;
        } else {
            let expected = Expected { cluster: Some(CLUSTER), store: None, node: control.id, unit: 0 };
            Log::open(vote_config(length), expected)
        };
        let origin = if founds { VoterOrigin::Founding } else { VoterOrigin::Kept };
        Some(VoterStart { id, log, origin })
    }

    fn report(&self, unit: usize) -> StoreReport {
        let lives = &self.control.as_ref().expect("only in clusters").lives[unit];
        let mut report = blank_report((self.number, unit), self.settings, lives);
        match &self.hosts[unit].logic {
            Some(Logic::Shard(shard)) => {
                report.sequence = shard.store().opened().map_or(0, |opened| opened.sequence);
                report.used_bytes = shard.store().metrics().live_bytes;
            }
            Some(Logic::Meta(meta)) => {
                let (opened, position) = meta.found().expect("it is open");
                report.sequence = opened.sequence;
                report.log_end = LogEnd { epoch: position.epoch, index: position.received };
            }
            _ => {}
        }
        report
    }

    /// Mail for the agent.
    pub(super) fn post(&mut self, mails: Vec<Mail>, around: &mut Around<'_>) {
        for mail in mails {
            self.send_mail(self.agent_unit(), MAIL, mail, around);
        }
    }

    /// Mail for a unit, behind what is in its queue.
    fn send_mail(&mut self, unit: usize, typical: u64, mail: Mail, around: &mut Around<'_>) {
        let (node, life) = (self.number, self.life);
        let Some(control) = &mut self.control else { return };
        let due = around.schedule.now().after(control.random.latency(typical));
        let at = control.free_at.get(&unit).map_or(due, |free| due.max(*free));
        control.free_at.insert(unit, at);
        around.schedule.at(at, Happening::Mail { node, unit, life, mail: Box::new(mail) });
    }

    pub(super) fn on_order(&mut self, unit: usize, order: Order, around: &mut Around<'_>) {
        match order {
            Order::Reopen => {
                around.tally.count("chain", "began anew");
                let log = self.open_log(unit);
                self.with(unit, around, |logic, clock, memory, out| {
                    if let Logic::Meta(meta) = logic {
                        meta.restart(clock, log, memory, out);
                    }
                });
            }
            Order::Store(edition) => {
                let control = self.control.as_mut().expect("only in clusters");
                control.storing = Some(Arc::clone(&edition));
                let delay = control.random.latency(SMALL_FILE);
                let mail = Box::new(Mail::Stored(edition));
                let (node, life) = (self.number, self.life);
                around.schedule.after(delay, Happening::Mail { node, unit, life, mail });
            }
            Order::Publish(edition) => {
                self.control.as_mut().expect("only in clusters").publishing = Some(edition);
                self.publish(around);
            }
            Order::Lease(until) => {
                let control = self.control.as_mut().expect("only in clusters");
                control.lease = control.lease.max(until);
                self.send_mail(self.settings.shards, MAIL, Mail::Lease(until), around);
            }
            Order::FormatVoter(id) => {
                let control = self.control.as_mut().expect("only in clusters");
                if control.votes.insert(id) {
                    control.changed_vote |= control.vote.is_some();
                    control.vote = Some(id);
                    // Its log is made later: until then there is nothing of it.
                    let name = format!("vote {}.{id}", self.number);
                    let seed = control.random.next();
                    self.hosts[unit].disk = SimDisk::of_log(seed, &name);
                    let delay = control.random.latency(SMALL_FILE);
                    let (node, life) = (self.number, self.life);
                    let mail = Box::new(Mail::VoterLog(id));
                    around.schedule.after(delay, Happening::Mail { node, unit, life, mail });
                } else {
                    control.vote_is_lost = true;
                    self.give_voter_log(unit, None, around);
                }
            }
        }
    }

    /// A map that is durable goes to the units.
    fn publish(&mut self, around: &mut Around<'_>) {
        let stored = self.edition.number();
        let Some(control) = &mut self.control else { return };
        if let Some(edition) = control.publishing.take_if(|edition| edition.number() <= stored) {
            for unit in 0..=self.settings.shards {
                if self.takes_part(unit) {
                    self.send_mail(unit, MAIL, Mail::Map(Arc::clone(&edition)), around);
                }
            }
        }
    }

    /// Whether the control group has accepted the unit's life (R34): others get no map.
    fn takes_part(&self, unit: usize) -> bool {
        self.agent().is_some_and(|agent| agent.takes_part(unit_of(unit, self.settings)))
    }

    fn give_voter_log(&mut self, unit: usize, log: Option<Log>, around: &mut Around<'_>) {
        self.with(unit, around, |logic, clock, memory, out| {
            if let Logic::Agent(agent) = logic {
                agent.on_voter_log(clock.now, log, memory, out);
            }
        });
    }

    /// A thread takes mail out of its queue.
    pub(crate) fn on_mail(&mut self, unit: usize, mail: Mail, around: &mut Around<'_>) {
        match &mail {
            Mail::Stored(edition) => {
                let number = edition.number();
                around.trace.note(
                    around.schedule.now(),
                    format_args!("node {} stores map {}", self.number, number.0),
                );
                self.edition = Arc::clone(edition);
                let control = self.control.as_mut().expect("only in clusters");
                control.storing = None;
                self.look_at_cuts();
            }
            Mail::VoterLog(id) => {
                let control = self.control.as_ref().expect("only in clusters");
                let log = Log::format(vote_config(0), vote_format(control.id, *id, self.hosts[unit].secrets));
                self.give_voter_log(unit, Some(log), around);
                return;
            }
            Mail::Followed(of, number) => {
                let control = self.control.as_mut().expect("only in clusters");
                let known = control.followed.entry(*of).or_default();
                *known = (*known).max(*number);
            }
            _ => {}
        }
        let is_stored = matches!(mail, Mail::Stored(_));
        self.with(unit, around, |logic, clock, memory, out| match (logic, mail) {
            (Logic::Shard(shard), Mail::Map(edition)) => shard.on_map(clock.now, edition, memory, out),
            (Logic::Meta(meta), Mail::Map(edition)) => meta.on_map(clock, edition, memory, out),
            (Logic::Meta(meta), Mail::Lease(until)) => meta.on_lease(clock, until, memory, out),
            (Logic::Agent(agent), mail) => agent.on_mail(clock.now, mail, memory, out),
            _ => unreachable!("each thread has its own mail"),
        });
        if is_stored {
            self.publish(around);
        }
    }

    /// What was cut has been filled again once each member of the store serves (R7).
    fn look_at_cuts(&mut self) {
        let map = self.edition.map().as_map();
        let Some(control) = &mut self.control else { return };
        for (unit, lives) in control.lives.iter_mut().enumerate() {
            let id = store_id(self.number, unit);
            let place = map.stores.iter().position(|store| store.store == id);
            let place = place.and_then(|place| u16::try_from(place).ok());
            let chains = map.slices.iter().map(|slice| &slice.chain);
            let mut chains = chains.chain(map.groups.iter().map(|group| &group.chain));
            let serves = place.is_some_and(|place| {
                chains.all(|chain| {
                    chain.member(place).is_none_or(|member| member.state == ReplicaState::Serving)
                }) && map.stores[usize::from(place)].incarnation == lives.incarnation
            });
            lives.was_cut &= !serves;
        }
    }

    pub(super) fn on_agent_note(&mut self, note: agent::Note, around: &mut Around<'_>) {
        let control = self.control.as_mut().expect("only in clusters");
        match note {
            agent::Note::Registered { refused, .. } => {
                // Whoever is accepted forgets all lives but the present one (R34).
                for (unit, lives) in control.lives.iter_mut().enumerate() {
                    let id = store_id(self.number, unit);
                    if !refused.iter().any(|(store, _)| *store == id) {
                        lives.before.clear();
                    }
                }
                for (_, verdict) in &refused {
                    around.tally.count(
                        "control",
                        match verdict {
                            StoreVerdict::Stale { .. } => "store stale",
                            StoreVerdict::Forgotten => "store forgotten",
                            _ => "store refused",
                        },
                    );
                }
                control.refused = refused;
                around.tally.count("control", "registered");
            }
            agent::Note::Refused(_) => around.tally.count("control", "registration refused"),
            agent::Note::LeaseLost => around.tally.count("control", "lease lost"),
            agent::Note::LeaseRenewed => around.tally.count("control", "lease renewed"),
            agent::Note::Leads { .. } => around.tally.count("control", "elected"),
            agent::Note::Follows { .. } => around.tally.count("control", "deposed"),
            agent::Note::VoterFailed(VoterFailure::Fenced) => {
                // A restart opens it again.
                self.hosts.last_mut().expect("the agent's place").condition = Condition::Fenced;
                around.tally.count("control", "voter fenced");
            }
            agent::Note::VoterFailed(_) => {
                control.vote_is_lost = true;
                around.tally.count("control", "voter failed");
            }
            agent::Note::Map(_) | agent::Note::Membership(_) | agent::Note::Ended => {}
        }
    }

    /// A look at all stores, and at connections that nobody uses.
    pub(crate) fn on_beat(&mut self, around: &mut Around<'_>) {
        let (node, life, now) = (self.number, self.life, around.schedule.now());
        around.schedule.after(BEAT, Happening::Beat { node, life });
        if self.agent().is_some() {
            let beats = (0..=self.settings.shards).map(|unit| Mail::Beat(self.beat(unit))).collect();
            self.post(beats, around);
        }
        for unit in 0..self.hosts.len() {
            let heard = &self.hosts[unit].heard;
            let idle = heard.iter().filter(|(_, at)| now.since(**at) >= IDLE);
            let idle: Vec<_> = idle.map(|(connection, _)| *connection).collect();
            for connection in idle {
                around.network.close(connection, Side::Server, around.schedule);
                self.on_down(unit, connection, Side::Server, around);
            }
        }
    }

    fn beat(&self, unit: usize) -> StoreBeat {
        let report = |condition| {
            let mut report = StoreBeat {
                store: store_id(self.number, unit),
                condition,
                sequence: 0,
                used_bytes: 0,
                lag: 0,
            };
            match &self.hosts[unit].logic {
                Some(Logic::Shard(shard)) => report.used_bytes = shard.store().metrics().live_bytes,
                Some(Logic::Meta(meta)) => {
                    report.lag = meta.found().and_then(|(_, position)| position.lag).unwrap_or(0);
                }
                _ => {}
            }
            report
        };
        match self.hosts[unit].condition {
            Condition::Fenced => report(StoreCondition::Fenced),
            Condition::Failed(_) => report(StoreCondition::Failed),
            _ => report(StoreCondition::Well),
        }
    }

    /// R1, R5: what is promised is durable, and every unit follows it.
    pub(super) fn check_promise(&mut self) {
        let Some(installed) = self.agent().map(AgentUnit::installed) else { return };
        let stored = self.edition.number();
        let units: Vec<usize> = (0..=self.settings.shards).filter(|unit| self.takes_part(*unit)).collect();
        let control = self.control.as_mut().expect("only in clusters");
        control.promised = control.promised.max(installed);
        assert!(
            installed <= stored,
            "R1: node {} promises {installed:?}, and has stored {stored:?}",
            self.number
        );
        let follows = |unit: &usize| {
            let of = unit_of(*unit, self.settings);
            control.followed.get(&of).is_some_and(|number| *number >= installed)
        };
        assert!(
            installed == MapNumber(0) || units.iter().all(follows),
            "R5: node {} promises {installed:?} before its units follow it",
            self.number
        );
    }
}

fn unit_of(unit: usize, settings: NodeSettings) -> Unit {
    if unit < settings.shards { Unit::Shard(shard_index(unit)) } else { Unit::Group(settings.replica.group) }
}

fn blank_report((number, unit): (usize, usize), settings: NodeSettings, lives: &Lives) -> StoreReport {
    let is_shard = unit < settings.shards;
    StoreReport {
        store: store_id(number, unit),
        unit: unit_of(unit, settings),
        address: super::address(number, unit, settings.shards),
        incarnation: lives.incarnation,
        lives: lives.before.clone(),
        recovered_cut: lives.was_cut,
        lacks: false,
        log_end: LogEnd::default(),
        sequence: 0,
        capacity_bytes: if is_shard { settings.store_bytes } else { settings.log_bytes },
        used_bytes: 0,
        condition: StoreCondition::Well,
    }
}

fn vote_config(device_bytes: u64) -> LogConfig {
    LogConfig {
        capacity_bytes: journal::DATA_START + 64 * u64::from(VOTE_SEGMENT_BYTES),
        device_bytes,
        prezero_bytes: 0,
        accept_data_loss: false,
        life_random: 0,
        takes_over: None,
    }
}

fn vote_format(node: NodeId, vote: u64, (secret, index_key): (u64, u64)) -> Format {
    let identity =
        StoreIdentity { cluster: CLUSTER, store: StoreId(u128::from(vote).to_le_bytes()), node, unit: 0 };
    let geometry = Geometry::new(VOTE_SEGMENT_BYTES).expect("a legal size");
    Format { identity, geometry, secret: secret ^ vote, index_key }
}
