//! `Membership`: what decides about the cluster map. It knows no raft, no socket and no clock: events in, effects out.
//!
//! The replicated state machine is the map; an entry of its log is a [`wire::map::MapDelta`], checked by every voter with [`apply`]. The leader alone
//! proposes, one change at a time, each planned from the map that the one before led to. What it knows beside the map, who lives, who follows
//! which map, who has synced, is soft, and gathered anew after each election.
//!
//! ```text
//!  Registered ─► register.rs ─┐                          ┌─► Propose(delta) ─► raft ─► Applied(map) ─┐
//!  Heartbeat ──► nodes.rs ────┤    plan.rs: one pass     │                                           │
//!        │       links.rs ────┼─► over all chains, each ─┘     ◄── answers, promises due ────────────┘
//!        │                    │    by step.rs
//!  Command ────► command.rs ──┘
//!        └─────► rounds.rs ─► ConfirmLeadership ─► Confirmed ─► Reply(lease)       (R18)
//! ```
//! # The two steps of a change (R1, R5)
//!
//! PREPARE is a map in which the chain has its next epoch, not acking yet. A node's `installed` number is its durable promise of everything in
//! the map, because its units check epoch and phase of each ack under the map that they follow, and follow only what is durable. ACTIVATE is the map in
//! which that epoch acks, proposed once everybody who acks in it has installed the PREPARE, and everybody who was removed has too, or can't
//! have a lease any more. A new leader doesn't know which map prepared an epoch: it takes the number at its election, which is no smaller.
//! A node heartbeats at once when it has installed a map, so that the writes of a chain stop for one round trip and one flush of the map.
//!
//! # Leases (R18)
//!
//! A lease runs from when its heartbeat was sent, on the node's clock, and is granted once a round that began after the heartbeat came has confirmed
//! this leader's term: so at the round's beginning no later leader had been elected, the lease ends at most D after that on the node's clock, and a
//! later leader waits D(1+ρ)+ε from its election. A node that lacks a map that seals something for it gets no lease, once it had
//! `config::INSTALL_GRACE` to install it: safety doesn't need that, since nothing is activated before its last lease has run out; but it makes a node that
//! can't follow let go.
//!
//! # Lives (R33, R34)
//!
//! A store's life is taken by compare-and-swap: a report says which lives the store remembers, and is refused if the one that the map knows isn't
//! among them. Lives have random low bits ([`wire::control::next_incarnation`]), so that a disk that was rolled back, or copied, can't
//! count itself up to it. What remains is a disk that is rolled back within its present life, while control has a new leader that never heard
//! how far it had come. The change that takes a new life in puts the store's members out in the same map: their old process is dead, proved by the store's lock.

mod activate;
mod command;
mod config;
mod event;
mod growth;
mod heads;
mod links;
mod nodes;
mod plan;
mod register;
mod replace;
mod rounds;
mod seed;
mod step;
mod transition;
mod why;
mod wishes;

#[cfg(test)]
mod membership_fuzz;
#[cfg(all(test, planted))]
mod planted;
#[cfg(test)]
mod tests;

pub use config::{Config, lease_at_control};
pub use event::{Effect, Effects, Event, Note};
pub use transition::{Refused, Rule, apply};

use std::collections::{BTreeMap, VecDeque};

use placement::ClusterMap;
use wire::control::{
    Answer, ChainId, Command, Heartbeat, HeartbeatReply, Refusal, RegistrationRefusal, RegistrationReply,
    Synced,
};
use wire::map::{Chain, Map, Phase};
use wire::planted::{Bug, planted};
use wire::{GroupId, MapNumber, Nanos, NodeId, SliceIndex, StoreId};

use config::{COMMANDS_MAX, LEASE, TICK};
use links::Links;
use nodes::Nodes;
use register::{Pending, Stray};
use rounds::{Renewal, Rounds};
use step::ChainNote;

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Membership {
    /// The node that it runs on.
    me: NodeId,
    config: Config,
    map: ClusterMap,
    role: Role,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Role {
    Follower { leader: Option<NodeId> },
    Leader(Box<Leader>),
}

/// What a leader knows beside the map.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Leader {
    nodes: Nodes,
    rounds: Rounds,
    links: Links,
    notes: BTreeMap<ChainId, ChainNote>,
    synced: BTreeMap<ChainId, Vec<Synced>>,
    /// Chunks that members lacked when they began to serve (R9).
    missing: u64,
    /// Where replicas belong, of chains in which they aren't.
    targets: BTreeMap<ChainId, Vec<u16>>,
    /// Nodes, stores or settings have changed since targets were planned.
    placement_due: bool,
    registrations: Vec<Pending>,
    strays: BTreeMap<StoreId, Stray>,
    commands: VecDeque<(u64, Command)>,
    /// Answers that wait for their map.
    answers: Vec<(u64, MapNumber, Answer)>,
    /// The map that was proposed and hasn't come yet.
    proposed: Option<MapNumber>,
    /// When the map changed last.
    changed_at: Nanos,
    /// Something happened since the last plan.
    is_due: bool,
    /// When to plan again anyway.
    replan_at: Option<Nanos>,
    heads_at: Nanos,
    /// The control group's voters as they are.
    voters: Option<Vec<u64>>,
    voters_at: Nanos,
}

impl Membership {
    /// A voter that follows, with the committed map as far as it knows.
    pub fn new(me: NodeId, config: Config, map: ClusterMap) -> Self {
        Self { me, config, map, role: Role::Follower { leader: None } }
    }

    /// The committed map.
    pub fn map(&self) -> &ClusterMap {
        &self.map
    }

    /// Whether this one leads.
    pub fn is_leader(&self) -> bool {
        matches!(self.role, Role::Leader(_))
    }

    /// Something happened.
    pub fn handle(&mut self, now: Nanos, event: Event<'_>, effects: &mut Effects) {
        if let Role::Leader(leader) = &mut self.role {
            leader.nodes.set_fresh(leader.rounds.is_fresh(now));
            for node in leader.nodes.expire(now) {
                leader.is_due = true;
                effects.note(Note::NodeDead(node));
            }
        }
        match event {
            Event::Elected => self.on_elected(now),
            Event::Deposed { leader } => self.on_deposed(leader, effects),
            Event::Applied(map) => self.on_applied(now, map, effects),
            Event::Dropped { number } => self.on_dropped(number, effects),
            Event::Registered { token, registration } => match &mut self.role {
                Role::Leader(leader) => {
                    leader.on_registered(now, self.map.as_map(), token, registration, effects);
                }
                Role::Follower { .. } => {
                    let reply = RegistrationReply::Refused(RegistrationRefusal::Busy);
                    effects.push(Effect::Registered { token, reply });
                }
            },
            Event::Heartbeat(beat) => self.on_heartbeat(now, beat, effects),
            Event::Confirmed { round } => self.on_confirmed(now, round, effects),
            Event::Command { token, command } => self.on_command(token, command, effects),
            Event::Voters(voters) => {
                if let Role::Leader(leader) = &mut self.role {
                    (leader.voters, leader.is_due) = (Some(voters.to_vec()), true);
                    leader.voters_at = Nanos(0);
                }
            }
            Event::Tick => (),
        }
        if self.is_leader() {
            self.plan(now, effects);
            self.begin_round(now, effects);
            effects.push(Effect::Arm(now.after(TICK)));
        }
    }

    fn on_elected(&mut self, now: Nanos) {
        let map = self.map.as_map();
        let mut leader = Leader {
            nodes: Nodes::new(now, map),
            rounds: Rounds::new(now),
            links: Links::default(),
            notes: BTreeMap::new(),
            synced: BTreeMap::new(),
            missing: 0,
            targets: BTreeMap::new(),
            placement_due: true,
            registrations: Vec::new(),
            strays: BTreeMap::new(),
            commands: VecDeque::new(),
            answers: Vec::new(),
            proposed: None,
            changed_at: now,
            is_due: true,
            replan_at: None,
            heads_at: now,
            voters: None,
            voters_at: Nanos(0),
        };
        for (id, chain) in chains(map) {
            if chain.phase == Phase::Prepared {
                leader.on_prepared(now, map, id, chain);
            }
        }
        self.role = Role::Leader(Box::new(leader));
    }

    fn on_deposed(&mut self, leader: Option<NodeId>, effects: &mut Effects) {
        let follower = Role::Follower { leader };
        if let Role::Leader(was) = std::mem::replace(&mut self.role, follower) {
            for pending in was.registrations {
                let reply = RegistrationReply::Refused(RegistrationRefusal::Busy);
                effects.push(Effect::Registered { token: pending.token, reply });
            }
            let begun = was.answers.into_iter().map(|(token, _, _)| (token, Refusal::Unknown));
            let waiting = was.commands.into_iter().map(|(token, _)| (token, Refusal::NotLeader(leader)));
            for (token, refusal) in begun.chain(waiting) {
                effects.push(Effect::Answer { token, answer: Answer::Refused(refusal) });
            }
        }
    }

    fn on_applied(&mut self, now: Nanos, map: &ClusterMap, effects: &mut Effects) {
        if map.number() <= self.map.number() {
            return;
        }
        let old = std::mem::replace(&mut self.map, map.clone());
        let Role::Leader(leader) = &mut self.role else { return };
        let new = self.map.as_map();
        leader.nodes.follow(now, new);
        leader.on_map(now, old.as_map(), new);
        (leader.changed_at, leader.is_due) = (now, true);
        if leader.proposed.is_some_and(|number| new.number >= number) {
            leader.proposed = None;
        }
        leader.take_strays_in(new);
        leader.answer_registrations(now, new, effects);
        let number = new.number;
        let is_due = |(_, at, _): &mut (u64, MapNumber, Answer)| *at <= number;
        for (token, _, answer) in leader.answers.extract_if(.., is_due) {
            effects.push(Effect::Answer { token, answer });
        }
    }

    fn on_dropped(&mut self, number: MapNumber, effects: &mut Effects) {
        let Role::Leader(leader) = &mut self.role else { return };
        if leader.proposed != Some(number) {
            return;
        }
        effects.note(Note::ChangeDropped(number));
        (leader.proposed, leader.is_due) = (None, true);
        for pending in &mut leader.registrations {
            pending.number = None;
        }
        for (token, _, _) in leader.answers.drain(..) {
            effects.push(Effect::Answer { token, answer: Answer::Refused(Refusal::Busy) });
        }
    }

    fn on_heartbeat(&mut self, now: Nanos, beat: &Heartbeat, effects: &mut Effects) {
        let Role::Leader(leader) = &mut self.role else { return };
        let mut reply = HeartbeatReply {
            node: beat.node,
            life: beat.life,
            sent: beat.sent,
            lease: 0,
            number: self.map.number(),
            is_known: false,
        };
        let Some(changed) = leader.nodes.heartbeat(now, self.map.as_map(), beat) else {
            effects.push(Effect::Reply(reply));
            return;
        };
        leader.is_due |= changed;
        leader.is_due |= leader.on_reports(now, self.map.as_map(), beat);
        if planted(Bug::ControlGrantsUnconfirmed) {
            reply.lease = leader.nodes.grant(now, beat.node, beat.life);
            reply.is_known = true;
            effects.push(Effect::Reply(reply));
            return;
        }
        let is_first = leader.nodes.node(beat.node).is_some_and(|node| !node.was_granted);
        leader.rounds.add(beat.node, Renewal { life: beat.life, sent: beat.sent }, is_first);
    }

    fn begin_round(&mut self, now: Nanos, effects: &mut Effects) {
        let Role::Leader(leader) = &mut self.role else { return };
        if let Some(round) = leader.rounds.begin(now) {
            effects.push(Effect::ConfirmLeadership { round });
        }
    }

    fn on_confirmed(&mut self, now: Nanos, round: u64, effects: &mut Effects) {
        let Role::Leader(leader) = &mut self.role else { return };
        let was_fresh = leader.rounds.is_fresh(now);
        let renewals = leader.rounds.confirmed(round);
        if !was_fresh && leader.rounds.is_fresh(now) {
            leader.nodes.excuse(now);
            leader.nodes.set_fresh(true);
            leader.plan_again(leader.nodes.grace_ends());
        }
        for (node, Renewal { life, sent }) in renewals {
            let is_known = leader.nodes.node(node).is_some_and(|node| node.life == Some(life));
            let lease = leader.nodes.grant(now, node, life);
            assert!(lease <= LEASE, "R18");
            let number = self.map.number();
            effects.push(Effect::Reply(HeartbeatReply { node, life, sent, lease, number, is_known }));
        }
    }

    fn on_command(&mut self, token: u64, command: &Command, effects: &mut Effects) {
        let refusal = match &mut self.role {
            Role::Follower { leader } => Refusal::NotLeader(*leader),
            Role::Leader(leader) if leader.commands.len() < COMMANDS_MAX => {
                leader.commands.push_back((token, command.clone()));
                leader.is_due = true;
                return;
            }
            Role::Leader(_) => Refusal::Busy,
        };
        effects.push(Effect::Answer { token, answer: Answer::Refused(refusal) });
    }
}

impl Leader {
    /// Looks at everything again at this point at the latest.
    fn plan_again(&mut self, at: Nanos) {
        self.replan_at = Some(self.replan_at.map_or(at, |planned| planned.min(at)));
    }

    /// Which chains changed, and how.
    fn on_map(&mut self, now: Nanos, old: &Map, new: &Map) {
        let shape = |map: &Map| (map.settings.chain_length, map.nodes.len(), map.stores.len());
        let stores = old.stores.iter().zip(&new.stores);
        let is_other =
            stores.into_iter().any(|(old, new)| (old.weight, old.standing) != (new.weight, new.standing));
        let racks = old.nodes.iter().zip(&new.nodes).any(|(old, new)| old.rack != new.rack);
        self.placement_due |= shape(old) != shape(new) || is_other || racks;
        for (slice, (before, after)) in (0_u16..=u16::MAX).zip(old.slices.iter().zip(&new.slices)) {
            if before.chain != after.chain {
                self.on_chain(now, new, ChainId::Slice(SliceIndex(slice)), &before.chain, &after.chain);
            }
        }
        for after in &new.groups {
            let before = old.groups.iter().find(|group| group.group == after.group);
            if let Some(before) = before.filter(|before| before.chain != after.chain) {
                self.on_chain(now, new, ChainId::Group(after.group), &before.chain, &after.chain);
            }
        }
    }

    fn on_chain(&mut self, now: Nanos, map: &Map, id: ChainId, before: &Chain, after: &Chain) {
        if (before.epoch, before.phase) != (after.epoch, after.phase) {
            self.notes.entry(id).or_default().since = now;
        }
        if before.epoch != after.epoch {
            if !planted(Bug::ControlAcceptsLateSync) {
                self.synced.remove(&id);
            }
            self.on_prepared(now, map, id, after);
        }
        if let Some(note) = self.notes.get_mut(&id)
            && after.serving().next().is_some()
        {
            (note.seed_since, note.is_stuck) = (None, false);
        }
    }

    /// A chain has an epoch that doesn't ack yet: everybody listed has to follow this map (R5).
    fn on_prepared(&mut self, now: Nanos, map: &Map, id: ChainId, chain: &Chain) {
        let note = self.notes.entry(id).or_default();
        (note.prepared, note.since) = (map.number, now);
        for member in &chain.members {
            self.nodes.owes(map.stores[usize::from(member.store)].node, map.number);
        }
    }

    /// What a heartbeat says of chains; whether there is something new in it.
    fn on_reports(&mut self, now: Nanos, map: &Map, beat: &Heartbeat) -> bool {
        let mut is_new = false;
        let place_here = |nodes: &Nodes, store: StoreId| {
            nodes.place(store).filter(|place| map.stores[usize::from(*place)].node == beat.node)
        };
        for synced in &beat.synced {
            let Some(chain) = chain_of(map, synced.chain) else { continue };
            let is_member = |place: u16| chain.member(place).is_some_and(|member| member.state.acks());
            let is_now = synced.epoch == chain.epoch || planted(Bug::ControlAcceptsLateSync);
            let known = self.synced.get(&synced.chain).is_some_and(|all| all.contains(synced));
            if is_now && !known && place_here(&self.nodes, synced.store).is_some_and(is_member) {
                self.synced.entry(synced.chain).or_default().push(*synced);
                self.missing += u64::from(synced.missing);
                is_new = true;
            }
        }
        for slow in &beat.slow {
            let place = self.nodes.place(slow.store);
            let Some((chain, place)) = chain_of(map, slow.chain).zip(place) else { continue };
            if chain.epoch == slow.epoch && chain.member(place).is_some() {
                let note = self.notes.entry(slow.chain).or_default();
                is_new |= note.slow != Some((slow.epoch, place));
                note.slow = Some((slow.epoch, place));
            }
        }
        let suspects = beat.suspects.len().min(wire::limits::HEARTBEAT_SUSPECTS_MAX);
        let known = beat.suspects[..suspects].iter().copied();
        let known: Vec<NodeId> = known.filter(|node| self.nodes.node(*node).is_some()).collect();
        is_new |= self.links.is_empty() && !known.is_empty();
        self.links.complain(now, beat.node, &known);
        is_new
    }
}

/// All chains of a map.
fn chains(map: &Map) -> impl Iterator<Item = (ChainId, &Chain)> {
    let slices = (0_u16..=u16::MAX).zip(&map.slices);
    let slices = slices.map(|(slice, record)| (ChainId::Slice(SliceIndex(slice)), &record.chain));
    slices.chain(map.groups.iter().map(|group| (ChainId::Group(group.group), &group.chain)))
}

/// A chain by its name.
fn chain_of(map: &Map, id: ChainId) -> Option<&Chain> {
    match id {
        ChainId::Slice(slice) => map.slices.get(usize::from(slice.0)).map(|slice| &slice.chain),
        ChainId::Group(group) => group_place(map, group).map(|place| &map.groups[place].chain),
    }
}

fn group_place(map: &Map, group: GroupId) -> Option<usize> {
    map.groups.binary_search_by_key(&group, |known| known.group).ok()
}
