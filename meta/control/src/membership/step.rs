//! One chain's next step, as a function of the chain and of what the leader knows of its members.
//!
//! ```text
//! somebody who acks is gone ─────────────► epoch+1 without him; nobody left: LastServing
//! nobody serves ─────────────────────────► epoch+1 with a seed (`seed.rs`)
//! prepared, all promises in ─────────────► ACTIVATE (`activate.rs`)
//! active ──── a member has synced ───────► it serves, in the same epoch
//!        ──── a member waits and is fit ─► epoch+1, it syncs          (`wishes.rs`)
//!        ──── planned, slow, apart, … ───► epoch+1 otherwise          (`wishes.rs`)
//! ```
//! A step is whole: what `transition.rs` checks. One chain takes one step a map, all chains take theirs in the same map, so that a node's death is one
//! change. A chain that is waited with says for whom, and `why` shows that.

use std::collections::BTreeMap;

use wire::control::{ChainId, LogEnd, Synced, Waits};
use wire::map::{Chain, Map, Member, Members, Phase, ReplicaState};
use wire::planted::{Bug, planted};
use wire::{Epoch, MapNumber, Nanos, NodeId};

use super::config::Config;
use super::links::Links;
use super::nodes::Presence;
use super::transition::mark_seeds;

/// What is known of a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct StoreView {
    pub(super) node: NodeId,
    pub(super) presence: Presence,
    /// It is fenced: it takes no writes any more, and still reads.
    pub(super) reads: bool,
    /// What is prepared with it is promised soon.
    pub(super) follows: bool,
    /// What its node has promised durably, in the life that is registered.
    pub(super) installed: MapNumber,
    /// What its node follows at least.
    pub(super) sealed: MapNumber,
    /// Until when its node may have a lease.
    pub(super) lease_until: Nanos,
    pub(super) cut: bool,
    /// Its recovery missed something that may have been acked (R8).
    pub(super) lacks: bool,
    pub(super) log_end: LogEnd,
}

/// What the leader remembers of a chain that isn't as it should be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct ChainNote {
    /// Since when its epoch and phase are what they are.
    pub(super) since: Nanos,
    /// The map that prepared its epoch, or a later one.
    pub(super) prepared: MapNumber,
    /// Since when nobody serves and somebody could seed it (R7).
    pub(super) seed_since: Option<Nanos>,
    /// When somebody was put out by choice.
    pub(super) evicted: Option<Nanos>,
    /// Who was complained of for slowing it, in which epoch (R11).
    pub(super) slow: Option<(Epoch, u16)>,
    /// Who isn't let in again before when, and for how long that is.
    pub(super) held: Option<(u16, Nanos, u64)>,
    /// The log says already that it is stuck.
    pub(super) is_stuck: bool,
}

/// Everything that a step depends on beside the chain.
pub(super) struct View<'a> {
    pub(super) now: Nanos,
    pub(super) config: Config,
    pub(super) map: &'a Map,
    /// By place in the map.
    pub(super) stores: &'a [StoreView],
    pub(super) notes: &'a BTreeMap<ChainId, ChainNote>,
    pub(super) synced: &'a BTreeMap<ChainId, Vec<Synced>>,
    pub(super) caught_up: &'a [(ChainId, u16)],
    pub(super) links: &'a Links,
    /// Where replicas belong, of chains in which they aren't.
    pub(super) targets: &'a BTreeMap<ChainId, Vec<u16>>,
    /// Members that a slice's chain should have and `min_in_sync` that any should have.
    pub(super) chain_length: u8,
    pub(super) min_in_sync: u8,
}

/// What becomes of a chain.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Outcome {
    /// Its next step; `None`: it stays.
    pub(super) next: Option<Chain>,
    /// Somebody waits for this step.
    pub(super) is_urgent: bool,
    /// It isn't as it should be, or something is to be looked at again.
    pub(super) is_unsettled: bool,
    /// What it waits for.
    pub(super) waits: Vec<Waits>,
    /// What was done by choice, for the note.
    pub(super) choice: Option<Choice>,
    /// Somebody could seed it.
    pub(super) may_seed: bool,
    /// It goes on with a store that lacks something (R8).
    pub(super) is_lossy: bool,
}

/// A step that nothing forced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Choice {
    /// A member slowed the chain (R11).
    Slow(u16),
    /// Two nodes didn't reach each other: the one was put out.
    Parted(NodeId, NodeId),
    /// Two nodes didn't reach each other: they aren't neighbours any more.
    Reordered(NodeId, NodeId),
}

impl View<'_> {
    pub(super) fn store(&self, place: u16) -> &StoreView {
        &self.stores[usize::from(place)]
    }

    pub(super) fn note(&self, id: ChainId) -> ChainNote {
        self.notes.get(&id).copied().unwrap_or_default()
    }

    /// The chain's next step.
    pub(super) fn step(&self, id: ChainId, chain: &Chain) -> Outcome {
        if self.is_settled(id, chain) {
            return Outcome::default();
        }
        let mut outcome = Outcome { is_unsettled: true, ..Outcome::default() };
        let mut next = *chain;
        let is_lost = self.look_around(&mut next);
        if is_lost {
            self.without_lost(chain, &mut next);
            let alone = next.serving().next().filter(|_| next.members.len() == 1);
            outcome.is_lossy = alone.is_some_and(|member| self.store(member.store).lacks);
            outcome.is_urgent = true;
        } else if chain.serving().next().is_none() {
            self.seed(id, chain, &mut next, &mut outcome);
        } else if chain.phase == Phase::Prepared {
            self.activate(id, chain, &mut next, &mut outcome);
        } else if self.synced(id, chain, &mut next) {
            outcome.is_urgent = !chain.can_ack() && next.can_ack();
        } else {
            self.wishes(id, chain, &mut next, &mut outcome);
        }
        if next.epoch != chain.epoch {
            next.members = joiners_behind(&next.members);
        }
        mark_seeds(chain, &mut next, is_group(id));
        outcome.next = (next != *chain).then_some(next);
        outcome
    }

    /// The usual case, quickly.
    fn is_settled(&self, id: ChainId, chain: &Chain) -> bool {
        let works = |member: &Member| {
            member.state == ReplicaState::Serving
                && matches!(self.store(member.store).presence, Presence::Fit | Presence::Unknown)
        };
        let length = match id {
            ChainId::Slice(_) => usize::from(self.chain_length),
            ChainId::Group(_) => chain.members.len(),
        };
        chain.phase == Phase::Active
            && chain.members.len() == length
            && chain.min_in_sync == self.min_in_sync
            && chain.members.iter().all(works)
            && self.links.is_empty()
            && !self.targets.contains_key(&id)
    }

    /// What members' stores have become. Whether one is gone that acks.
    fn look_around(&self, next: &mut Chain) -> bool {
        let mut is_lost = false;
        // A fenced store that nobody else can stand in for goes on serving: it takes no writes, and all that was acked can be read from it (R6).
        let serves = |member: &Member| {
            member.state == ReplicaState::Serving
                && matches!(self.store(member.store).presence, Presence::Fit | Presence::Unknown)
        };
        let has_others = next.members.iter().any(serves);
        for member in next.members.iter_mut() {
            let presence = self.store(member.store).presence;
            if !has_others && member.state == ReplicaState::Serving && self.store(member.store).reads {
                continue;
            }
            let acks = member.state.acks();
            member.state = match (member.state, presence) {
                (ReplicaState::Serving | ReplicaState::Syncing | ReplicaState::Waiting, Presence::Gone) => {
                    ReplicaState::Offline
                }
                (ReplicaState::Serving | ReplicaState::Syncing, Presence::Restarted)
                | (ReplicaState::Offline, Presence::Fit | Presence::Restarted) => ReplicaState::Waiting,
                (state, _) => state,
            };
            is_lost |= acks && !member.state.acks();
        }
        is_lost
    }

    /// Who can't ack any more is out, in a new epoch; who served last is known as that.
    fn without_lost(&self, chain: &Chain, next: &mut Chain) {
        (next.epoch, next.phase) = (Epoch(chain.epoch.0 + 1), Phase::Prepared);
        next.min_in_sync = chain.min_in_sync.min(self.min_in_sync);
        if next.serving().next().is_some() {
            return;
        }
        let is_alone = next.members.len() == 1;
        for (member, before) in next.members.iter_mut().zip(chain.members.iter()) {
            let restarted = self.store(member.store).presence == Presence::Restarted;
            member.state = match (before.state, member.state) {
                // A chain that is one store has no other to ask: it goes on with what it has (R7).
                (ReplicaState::Serving, _) if is_alone && restarted => ReplicaState::Serving,
                (ReplicaState::Serving, _) => ReplicaState::LastServing,
                (_, ReplicaState::Syncing) => ReplicaState::Waiting,
                (_, state) => state,
            };
        }
    }

    /// Members that have everything serve now (R6, R11).
    fn synced(&self, id: ChainId, chain: &Chain, next: &mut Chain) -> bool {
        let Some(reports) = self.synced.get(&id) else { return false };
        let mut any = false;
        for member in next.members.iter_mut().filter(|member| member.state == ReplicaState::Syncing) {
            let store = self.map.stores[usize::from(member.store)].store;
            let counts = |report: &Synced| {
                let is_now = report.epoch == chain.epoch || planted(Bug::ControlAcceptsLateSync);
                report.store == store && is_now
            };
            if reports.iter().any(counts) {
                member.state = ReplicaState::Serving;
                any = true;
            }
        }
        any
    }
}

pub(super) fn is_group(id: ChainId) -> bool {
    matches!(id, ChainId::Group(_))
}

/// The members with those that sync behind those that serve: the head is the first acker, and what it hands on reaches every one of them (R2, I5).
pub(super) fn joiners_behind(members: &Members) -> Members {
    let last = members.iter().rposition(|member| member.state == ReplicaState::Serving).unwrap_or(0);
    let is_early =
        |(place, member): &(usize, &Member)| *place < last && member.state == ReplicaState::Syncing;
    let others = members.iter().enumerate().filter(|found| !is_early(found));
    let early = members.iter().enumerate().filter(is_early);
    others.chain(early).map(|(_, member)| *member).collect()
}

/// A new epoch, which is prepared first (R5).
pub(super) fn prepare(next: &mut Chain) {
    (next.epoch, next.phase) = (Epoch(next.epoch.0 + 1), Phase::Prepared);
}
