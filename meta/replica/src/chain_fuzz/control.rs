//! The smallest control: it makes legal changes of epoch, and knows what it was told, late.
//!
//! ```text
//! Active ──(a member failed or lives again, a joiner is caught up, whim)──► Prepared(e+1) ──(R5)──► Active(e+1)
//!   └──(a Syncing member is synced, somebody waits: the same epoch)──► Active
//! ```

use wire::map::{Phase, ReplicaState};
use wire::{Epoch, Nanos};

use super::{ChainView, Event, LEASE, NODES, World, at, store};

/// A member that wasn't heard of for so long has failed.
const PATIENCE: u64 = 60 * Nanos::MILLISECOND;
/// A Syncing member that isn't synced by then waits again.
const SYNC_MAX: u64 = 700 * Nanos::MILLISECOND;

pub(super) struct Control {
    pub(super) view: ChainView,
    /// The last active epoch's chain: its Serving members may seed (R6).
    active: ChainView,
    /// Number of the map.
    version: u64,
    since: Nanos,
    /// Each node's life when it was taken into the acks; its promise of the present view, and the map and life that it was told.
    lives: [u64; NODES],
    promised: [bool; NODES],
    told: [(u64, u64); NODES],
    seen: [Nanos; NODES],
    /// The life that it registered with, as far as control has heard.
    known: [u64; NODES],
    /// In some worlds there are none, and members ask each other.
    has_leases: bool,
    lease_end: [Nanos; NODES],
}

fn acks(state: ReplicaState) -> bool {
    matches!(state, ReplicaState::Serving | ReplicaState::Syncing)
}

impl Control {
    pub(super) fn new(size: usize, has_leases: bool) -> Self {
        let members = (0..size).map(|at| (store(at), ReplicaState::Serving)).collect();
        let min_in_sync = u8::try_from(size.min(2)).unwrap();
        let view = ChainView { epoch: Epoch(1), phase: Phase::Prepared, members, min_in_sync, generation: 0 };
        let active = ChainView { epoch: Epoch(0), ..view.clone() };
        Self {
            view,
            active,
            version: 1,
            since: Nanos(1),
            lives: [1; NODES],
            promised: [false; NODES],
            told: [(0, 0); NODES],
            seen: [Nanos(1); NODES],
            known: [1; NODES],
            has_leases,
            lease_end: [Nanos(0); NODES],
        }
    }

    pub(super) fn view_head(&self) -> usize {
        self.view.head().map_or(0, at)
    }

    /// A member's promise.
    pub(super) fn on_sealed(&mut self, node: usize, epoch: Epoch) {
        self.promised[node] |= epoch == self.view.epoch;
    }

    /// Another map with the same epoch.
    fn publish(&mut self, view: ChainView) {
        self.view = view;
        self.version += 1;
    }
}

impl World {
    fn is_reachable(&self, node: usize) -> bool {
        self.nodes[node].replica.is_some() && !self.cut_off[node][NODES]
    }

    fn is_healthy(&self, node: usize) -> bool {
        let control = &self.control;
        self.now.since(control.seen[node]) < PATIENCE && control.known[node] == control.lives[node]
    }

    pub(super) fn step_control(&mut self) {
        for node in 0..NODES {
            if self.is_reachable(node) {
                self.control.seen[node] = self.now;
                if self.random.one_in(20) {
                    self.control.known[node] = self.nodes[node].life;
                }
                self.tell(node);
            }
        }
        match self.control.view.phase {
            Phase::Prepared if self.may_activate() => {
                let mut view = self.control.view.clone();
                view.phase = Phase::Active;
                self.control.active = view.clone();
                self.control.publish(view);
                self.control.since = self.now;
                self.counts.epochs += 1;
            }
            Phase::Prepared => {
                let failed = self.control.view.ackers().map(at).any(|node| !self.is_healthy(node));
                if failed && self.now.since(self.control.since) > PATIENCE {
                    self.prepare(None);
                }
            }
            Phase::Active => self.tend(),
        }
    }

    /// The node gets the map, and with the newest one a lease.
    fn tell(&mut self, node: usize) {
        let (version, life) = (self.control.version, self.nodes[node].life);
        if self.control.told[node] != (version, life) {
            if self.random.one_in(2) {
                return;
            }
            // Stored before anything is done about it (I4).
            let view = self.control.view.clone();
            self.nodes[node].disk.view = Some(view.clone());
            self.control.told[node] = (version, life);
            self.handle(node, Event::Chain(&view));
        } else if self.control.has_leases && self.random.one_in(4) {
            self.control.lease_end[node] = self.now.after(LEASE + LEASE / 10);
            let until = self.now.after(LEASE);
            self.nodes[node].lease_until = until;
            self.handle(node, Event::Lease { until });
        }
    }

    /// R5.
    fn may_activate(&self) -> bool {
        let control = &self.control;
        let mut stays = control.view.ackers().map(at);
        let promised =
            stays.all(|node| control.promised[node] && self.nodes[node].life == control.lives[node]);
        let mut removed =
            control.active.ackers().filter(|store| !control.view.ackers().any(|stays| stays == *store));
        promised
            && removed.all(|store| control.promised[at(store)] || control.lease_end[at(store)] < self.now)
    }

    fn tend(&mut self) {
        let view = self.control.view.clone();
        if view.ackers().map(at).any(|node| !self.is_healthy(node)) {
            return self.prepare(None);
        }
        let mut next = view.clone();
        for (store, state) in &mut next.members {
            let node = &self.nodes[at(*store)];
            let (caught_up, synced) = (node.caught_up, node.synced);
            match state {
                ReplicaState::Syncing if synced && self.random.one_in(4) => {
                    *state = ReplicaState::Serving;
                    self.counts.joins += 1;
                }
                ReplicaState::Syncing if self.now.since(self.control.since) > SYNC_MAX => {
                    return self.prepare(Some((at(*store), ReplicaState::Waiting)));
                }
                ReplicaState::Waiting if caught_up && self.random.one_in(8) => {
                    return self.prepare(Some((at(*store), ReplicaState::Syncing)));
                }
                _ => {}
            }
        }
        for node in 0..NODES {
            if next.state_of(store(node)).is_none() && self.is_reachable(node) && self.random.one_in(20) {
                next.members.push((store(node), ReplicaState::Waiting));
            }
        }
        if next != view {
            self.control.active = next.clone();
            return self.control.publish(next);
        }
        if self.faults && self.random.one_in(300) {
            // A whim: somebody is removed, the head perhaps, or nobody.
            let count = view.ackers().count();
            let whom = self.random.below(count + 1);
            let whom = view.ackers().map(at).nth(whom);
            self.prepare(whom.filter(|_| view.serving_count() > 1).map(|node| (node, ReplicaState::Waiting)));
        }
    }

    /// The next epoch: without whoever failed, and with this change.
    fn prepare(&mut self, change: Option<(usize, ReplicaState)>) {
        let active = self.control.active.clone();
        let mut members: Vec<_> = active.members.clone();
        members.retain(|(store, state)| acks(*state) && self.is_healthy(at(*store)));
        if let Some((node, state)) = change {
            if state == ReplicaState::Syncing && self.is_reachable(node) {
                (self.control.lives[node], self.control.known[node]) =
                    (self.nodes[node].life, self.nodes[node].life);
                members.push((store(node), state));
            } else {
                members.retain(|(member, _)| *member != store(node));
            }
        }
        if !members.iter().any(|(_, state)| *state == ReplicaState::Serving) {
            // Everybody who served has lived again since, or is away (R7): the longest log of those who are there, whoever is waited for.
            let seeds = active.members.iter().filter(|(_, state)| *state == ReplicaState::Serving);
            let seeds = seeds.map(|(store, _)| at(*store)).filter(|node| self.is_reachable(*node));
            let length = |node: &usize| {
                self.nodes[*node].replica.as_ref().map(|replica| (replica.last_epoch(), replica.received()))
            };
            let Some(seed) = seeds.max_by_key(length) else { return };
            (self.control.lives[seed], self.control.known[seed]) =
                (self.nodes[seed].life, self.nodes[seed].life);
            members = vec![(store(seed), ReplicaState::Serving)];
        }
        // Joiners that were Syncing before a head that is gone, come behind.
        members.sort_by_key(|(_, state)| *state != ReplicaState::Serving);
        for node in 0..NODES {
            if !members.iter().any(|(member, _)| *member == store(node)) && self.is_reachable(node) {
                members.push((store(node), ReplicaState::Waiting));
            }
        }
        let epoch = Epoch(self.control.view.epoch.0 + 1);
        let view = ChainView { epoch, phase: Phase::Prepared, members, ..active };
        self.control.promised = [false; NODES];
        self.control.since = self.now;
        self.control.publish(view);
        for node in &mut self.nodes {
            (node.caught_up, node.synced) = (false, false);
        }
    }
}
