//! What the leader knows of nodes and their stores: who lives, until when a lease may run, which map each follows. All of it is rebuilt
//! after an election, from registrations.
//!
//! ```text
//!  unheard ──registers──► alive ──lease_until passed──► dead ──registers──► alive
//!     └──────── D(1+ρ)+ε after the election ────────────►┘
//! ```
//! One moment bounds all leases of a node: [`Nodes::lease_until`]. It is the later of `D(1+ρ)+ε` after the last reply that may have granted one
//! and as long after the election, since an earlier leader may have granted one just before (R18).

use std::collections::{BTreeMap, VecDeque};

use wire::control::{CaughtUp, Condition, Heartbeat, Life, LogEnd, StoreReport};
use wire::map::{Map, Standing, Unit};
use wire::planted::{Bug, planted};
use wire::{MapNumber, Nanos, NodeId, StoreId};

use super::config::{INSTALL_GRACE, LEASE, PUBLISHED_MAX, lease_at_control};

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Nodes {
    elected: Nanos,
    /// When this leader last came back from where it could answer nobody; at first the election.
    excused: Nanos,
    /// Whether silence says something at present (`rounds.rs`).
    is_fresh: bool,
    all: BTreeMap<NodeId, Node>,
    /// By place in the map.
    stores: Vec<StoreState>,
    /// Places in the map, which never change.
    places: BTreeMap<StoreId, u16>,
    /// The maps of the last moments, each with when it was published.
    published: VecDeque<(MapNumber, Nanos)>,
    /// The newest of those that everybody had time to install.
    settled: MapNumber,
}

/// One node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Node {
    /// The life that is registered; `None`: none, or it is dead.
    pub(super) life: Option<Life>,
    /// The last one that was.
    pub(super) last_life: Option<Life>,
    /// When it was heard last.
    pub(super) heard: Nanos,
    /// Until when the lease that was granted last may run, on control's clock.
    lease_until: Nanos,
    /// This life has been granted one.
    pub(super) was_granted: bool,
    /// What this life has installed durably, as far as known.
    pub(super) installed: MapNumber,
    /// What it follows at least: a fresh life serves nothing before it follows the map that it was accepted with.
    pub(super) sealed: MapNumber,
    /// The map that it was accepted with.
    accepted: MapNumber,
    /// The newest map that prepares an epoch of a chain that it is listed in.
    owes: MapNumber,
    /// Groups whose log it follows closely, as of its last heartbeat.
    pub(super) caught_up: Vec<CaughtUp>,
}

/// One store, as its node reported it in this life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct StoreState {
    /// Its node's life has it, and it was accepted.
    pub(super) is_present: bool,
    pub(super) condition: Condition,
    /// The life of its node in which it was accepted last.
    pub(super) life: Option<Life>,
    /// It was refused as stale (R34).
    pub(super) is_stale: bool,
    pub(super) cut: bool,
    pub(super) lacks: bool,
    pub(super) log_end: LogEnd,
    /// The highest batch that was heard of in the store's present life (R34).
    pub(super) sequence: u64,
    /// `None`: not reported to this leader.
    pub(super) used_bytes: Option<u64>,
    pub(super) lag: u64,
}

impl StoreState {
    const UNHEARD: Self = Self {
        is_present: false,
        condition: Condition::Well,
        life: None,
        is_stale: false,
        cut: false,
        lacks: false,
        log_end: LogEnd { epoch: wire::Epoch(0), index: wire::CommitIndex(0) },
        sequence: 0,
        used_bytes: None,
        lag: 0,
    };
}

/// Whether a store can do its members' work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Presence {
    /// It can.
    Fit,
    /// Nothing was heard of its node since the election, and it may still live.
    Unknown,
    /// It can't.
    Gone,
    /// Its node's process was started anew, and the change that is being made says so.
    Restarted,
}

impl Nodes {
    /// After an election: nobody was heard.
    pub(super) fn new(now: Nanos, map: &Map) -> Self {
        let mut nodes = Self {
            elected: now,
            excused: now,
            is_fresh: true,
            all: BTreeMap::new(),
            stores: Vec::new(),
            places: BTreeMap::new(),
            published: VecDeque::new(),
            settled: MapNumber(0),
        };
        nodes.follow(now, map);
        nodes
    }

    /// The map has changed.
    pub(super) fn follow(&mut self, now: Nanos, map: &Map) {
        for (record, place) in map.stores.iter().zip(0_u16..=u16::MAX).skip(self.stores.len()) {
            self.places.insert(record.store, place);
        }
        self.stores.resize(map.stores.len(), StoreState::UNHEARD);
        self.all.retain(|node, _| find(map, *node));
        for node in &map.nodes {
            self.all.entry(node.node).or_default();
        }
        if self.published.len() == PUBLISHED_MAX
            && let Some((number, _)) = self.published.pop_front()
        {
            self.settled = self.settled.max(number);
        }
        self.published.push_back((map.number, now));
    }

    /// Looks at the clock; the nodes whose last lease has run out just now.
    pub(super) fn expire(&mut self, now: Nanos) -> Vec<NodeId> {
        while let Some((number, at)) = self.published.front().copied()
            && now >= at.after(INSTALL_GRACE)
        {
            self.settled = self.settled.max(number);
            self.published.pop_front();
        }
        let mut dead = Vec::new();
        if !self.is_fresh {
            return dead;
        }
        for (number, node) in &mut self.all {
            if node.life.is_some() && now >= node.lease_until {
                node.life = None;
                dead.push(*number);
            }
        }
        dead
    }

    /// When nobody can have a lease of an earlier leader's any more (R18).
    pub(super) fn grace_ends(&self) -> Nanos {
        if planted(Bug::ControlSkipsElectionWait) {
            return self.elected;
        }
        self.excused.after(lease_at_control(LEASE))
    }

    /// Whether silence says something.
    pub(super) fn set_fresh(&mut self, is_fresh: bool) {
        self.is_fresh = is_fresh;
    }

    /// Nobody was answered for a while: everybody has time to be heard.
    pub(super) fn excuse(&mut self, now: Nanos) {
        self.excused = now;
        for node in self.all.values_mut() {
            if node.life.is_some() {
                node.lease_until = node.lease_until.max(now.after(lease_at_control(LEASE)));
            }
        }
    }

    /// When the last lease that this node may have has run out.
    pub(super) fn lease_until(&self, node: NodeId) -> Nanos {
        let granted = self.all.get(&node).map_or(Nanos(0), |node| node.lease_until);
        granted.max(self.grace_ends())
    }

    pub(super) fn node(&self, node: NodeId) -> Option<&Node> {
        self.all.get(&node)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (NodeId, &Node)> {
        self.all.iter().map(|(number, node)| (*number, node))
    }

    pub(super) fn elected(&self) -> Nanos {
        self.elected
    }

    pub(super) fn is_alive(&self, node: NodeId) -> bool {
        self.all.get(&node).is_some_and(|node| node.life.is_some())
    }

    /// A store's place in the map.
    pub(super) fn place(&self, store: StoreId) -> Option<u16> {
        self.places.get(&store).copied()
    }

    pub(super) fn store(&self, place: u16) -> &StoreState {
        self.stores.get(usize::from(place)).unwrap_or(&StoreState::UNHEARD)
    }

    /// Marks a store that was refused (R34).
    pub(super) fn mark_stale(&mut self, place: u16) {
        if let Some(store) = self.stores.get_mut(usize::from(place)) {
            store.is_stale = true;
        }
    }

    /// Whether a store of the map can do its work.
    pub(super) fn presence(&self, now: Nanos, map: &Map, place: u16) -> Presence {
        let record = &map.stores[usize::from(place)];
        if record.standing != Standing::Member {
            return Presence::Gone;
        }
        if !self.is_alive(record.node) {
            let is_over = now >= self.lease_until(record.node) && self.is_fresh;
            return if is_over { Presence::Gone } else { Presence::Unknown };
        }
        let store = self.store(place);
        if store.is_present && store.condition == Condition::Well { Presence::Fit } else { Presence::Gone }
    }

    /// Whether a store of chunks is fenced and its node lives: what it has can be read.
    pub(super) fn reads(&self, map: &Map, place: u16) -> bool {
        let record = &map.stores[usize::from(place)];
        let store = self.store(place);
        matches!(record.unit, Unit::Shard(_))
            && record.standing == Standing::Member
            && self.is_alive(record.node)
            && store.is_present
            && store.condition == Condition::Fenced
    }

    /// Whether a live node keeps up with the maps: what is prepared with it is promised soon.
    pub(super) fn follows(&self, node: NodeId) -> bool {
        self.all.get(&node).is_some_and(|node| {
            node.life.is_some() && node.installed >= node.accepted && !is_late(node, self.settled)
        })
    }

    /// A map prepares an epoch of a chain that this node is listed in.
    pub(super) fn owes(&mut self, node: NodeId, number: MapNumber) {
        if let Some(node) = self.all.get_mut(&node) {
            node.owes = node.owes.max(number);
        }
    }

    /// A life was accepted, with this map. A fresh one has nothing of an earlier one's promises to break, and serves nothing before it follows the map.
    pub(super) fn accept(
        &mut self,
        now: Nanos,
        node: NodeId,
        life: Life,
        installed: MapNumber,
        number: MapNumber,
        is_fresh: bool,
    ) {
        let node = self.all.entry(node).or_default();
        let is_same = node.last_life == Some(life);
        (node.life, node.last_life) = (Some(life), Some(life));
        node.installed = if is_same { node.installed.max(installed) } else { installed };
        node.sealed = if is_fresh { number } else { node.installed };
        node.accepted = number;
        node.was_granted &= is_same;
        node.heard = now;
        node.lease_until = node.lease_until.max(now.after(lease_at_control(LEASE)));
        node.caught_up.clear();
    }

    /// A store's report was accepted.
    pub(super) fn accept_store(&mut self, place: u16, life: Life, report: &StoreReport) {
        let Some(store) = self.stores.get_mut(usize::from(place)) else { return };
        *store = StoreState {
            is_present: true,
            condition: report.condition,
            life: Some(life),
            is_stale: false,
            cut: report.recovered_cut,
            lacks: report.lacks,
            log_end: report.log_end,
            // A life that was accepted counts from where it began.
            sequence: report.sequence,
            used_bytes: Some(report.used_bytes),
            lag: 0,
        };
    }

    /// A node has to register again. It counts as it did until its lease has run out.
    pub(super) fn ask_again(&mut self, node: NodeId) {
        if let Some(node) = self.all.get_mut(&node) {
            node.life = None;
        }
    }

    /// None of a node's stores counts until it is accepted again.
    pub(super) fn clear_stores(&mut self, map: &Map, node: NodeId) {
        for (record, store) in map.stores.iter().zip(&mut self.stores) {
            if record.node == node {
                store.is_present = false;
            }
        }
    }

    /// Takes a heartbeat in, if it is of the life that is registered; whether anything changed that a plan may depend on.
    pub(super) fn heartbeat(&mut self, now: Nanos, map: &Map, beat: &Heartbeat) -> Option<bool> {
        let node = self.all.get_mut(&beat.node)?;
        if node.life != Some(beat.life) {
            return None;
        }
        let mut changed = beat.installed > node.installed || node.caught_up != beat.caught_up;
        node.heard = now;
        // A leader that has just been elected may be behind what it hears of: nobody installed what isn't published.
        node.installed = node.installed.max(beat.installed.min(map.number));
        node.sealed = node.sealed.max(node.installed);
        node.caught_up.clone_from(&beat.caught_up);
        for report in &beat.stores {
            let Some(place) = self.places.get(&report.store).map(|place| usize::from(*place)) else {
                continue;
            };
            let store = &mut self.stores[place];
            if store.is_present && map.stores[place].node == beat.node {
                // What is fenced stays so until the node's next life.
                let condition = store.condition.max(report.condition);
                changed |= store.condition != condition;
                store.condition = condition;
                store.sequence = store.sequence.max(report.sequence);
                (store.used_bytes, store.lag) = (Some(report.used_bytes), report.lag);
            }
        }
        Some(changed)
    }

    /// A majority has confirmed that this leader's term was the newest after the heartbeat had come: the lease that the node may have, or
    /// 0 where it has to install a map first (R18).
    pub(super) fn grant(&mut self, now: Nanos, node: NodeId, life: Life) -> u64 {
        let settled = self.settled;
        let Some(node) = self.all.get_mut(&node) else { return 0 };
        if node.life != Some(life) || node.installed < node.accepted || is_late(node, settled) {
            return 0;
        }
        node.lease_until = node.lease_until.max(now.after(lease_at_control(LEASE)));
        node.was_granted = true;
        LEASE
    }
}

/// Whether it lacks a map that seals something for it and that it had time to install.
fn is_late(node: &Node, settled: MapNumber) -> bool {
    node.installed < node.owes.min(settled)
}

fn find(map: &Map, node: NodeId) -> bool {
    map.nodes.binary_search_by_key(&node, |known| known.node).is_ok()
}
