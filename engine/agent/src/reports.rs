//! What the node's units have to say to the leader, kept until a heartbeat has said it often enough.
//!
//! A heartbeat may be lost, or come to a leader that is deposed in the same moment. So nothing is said once: what is said is said again until the map shows
//! that it was heard, or that it isn't true any more.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use placement::ClusterMap;
use wire::control::{CaughtUp, ChainId, Heartbeat, LogEnd, Slow, StoreBeat, StoreReport, Synced};
use wire::limits::{HEARTBEAT_SLOW_MAX, HEARTBEAT_SUSPECTS_MAX, HEARTBEAT_SYNCED_MAX};
use wire::map::{Chain, ReplicaState, Unit};
use wire::{NodeId, StoreId};

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Reports {
    /// As they are registered; condition, sequence and space follow what the units say.
    pub(crate) stores: Vec<StoreReport>,
    lags: BTreeMap<StoreId, u64>,
    /// Nodes that each unit needs and can't reach.
    suspects: BTreeMap<Unit, BTreeSet<NodeId>>,
    synced: BTreeMap<(ChainId, StoreId), Synced>,
    caught_up: BTreeSet<CaughtUp>,
    slow: BTreeMap<Unit, Vec<Slow>>,
    /// Where the next heartbeat's part of what has synced begins.
    cursor: Option<(ChainId, StoreId)>,
}

impl Reports {
    pub(crate) fn new(stores: Vec<StoreReport>) -> Self {
        Self { stores, ..Self::default() }
    }

    /// How a store is; whether the leader should hear it at once.
    pub(crate) fn on_beat(&mut self, beat: StoreBeat) -> bool {
        let Some(store) = self.stores.iter_mut().find(|known| known.store == beat.store) else {
            return false;
        };
        let is_news = store.condition != beat.condition;
        store.condition = beat.condition;
        store.sequence = store.sequence.max(beat.sequence);
        store.used_bytes = beat.used_bytes;
        self.lags.insert(beat.store, beat.lag);
        is_news
    }

    /// What the next registration says of a store.
    pub(crate) fn on_store(&mut self, store: StoreId, log_end: LogEnd, (recovered_cut, lacks): (bool, bool)) {
        if let Some(report) = self.stores.iter_mut().find(|known| known.store == store) {
            report.log_end = report.log_end.max(log_end);
            (report.recovered_cut, report.lacks) = (recovered_cut, lacks);
        }
    }

    /// The nodes that a unit can't reach now.
    pub(crate) fn on_suspects(&mut self, unit: Unit, nodes: BTreeSet<NodeId>) {
        self.suspects.insert(unit, nodes);
    }

    pub(crate) fn on_synced(&mut self, synced: Synced) {
        self.synced.insert((synced.chain, synced.store), synced);
    }

    pub(crate) fn on_caught_up(&mut self, caught_up: CaughtUp, is_so: bool) {
        if is_so {
            self.caught_up.insert(caught_up);
        } else {
            self.caught_up.remove(&caught_up);
        }
    }

    pub(crate) fn on_slow(&mut self, unit: Unit, slow: Vec<Slow>) {
        self.slow.insert(unit, slow);
    }

    /// Forgets what a map shows to be heard, or to be over.
    pub(crate) fn on_map(&mut self, map: &ClusterMap) {
        self.synced.retain(|(chain, store), synced| {
            chain_of(map, *chain).is_some_and(|chain| {
                let state = state_in(map, chain, *store);
                chain.epoch == synced.epoch && state == Some(ReplicaState::Syncing)
            })
        });
        self.caught_up.retain(|caught_up| {
            chain_of(map, ChainId::Group(caught_up.group))
                .is_some_and(|chain| state_in(map, chain, caught_up.store) == Some(ReplicaState::Waiting))
        });
    }

    /// Adds what is to be said.
    pub(crate) fn fill(&mut self, heartbeat: &mut Heartbeat) {
        heartbeat.stores = self.stores.iter().map(|store| self.beat_of(store)).collect();
        let suspects: BTreeSet<NodeId> = self.suspects.values().flatten().copied().collect();
        heartbeat.suspects = suspects.into_iter().take(HEARTBEAT_SUSPECTS_MAX).collect();
        heartbeat.caught_up = self.caught_up.iter().copied().collect();
        heartbeat.slow = self.slow.values().flatten().copied().take(HEARTBEAT_SLOW_MAX).collect();
        // Each in turn, where there are more than one heartbeat says.
        let after = self.cursor.map_or(Bound::Unbounded, Bound::Excluded);
        let behind = self.synced.range((after, Bound::Unbounded));
        let around = behind.chain(&self.synced).take(self.synced.len());
        let part: Vec<_> = around.take(HEARTBEAT_SYNCED_MAX).map(|(key, synced)| (*key, *synced)).collect();
        self.cursor = part.last().map(|(key, _)| *key).filter(|_| part.len() < self.synced.len());
        heartbeat.synced = part.into_iter().map(|(_, synced)| synced).collect();
    }

    fn beat_of(&self, store: &StoreReport) -> StoreBeat {
        StoreBeat {
            store: store.store,
            condition: store.condition,
            sequence: store.sequence,
            used_bytes: store.used_bytes,
            lag: self.lags.get(&store.store).copied().unwrap_or(0),
        }
    }
}

fn chain_of(map: &ClusterMap, chain: ChainId) -> Option<&Chain> {
    match chain {
        ChainId::Slice(slice) => map.as_map().slices.get(usize::from(slice.0)).map(|slice| &slice.chain),
        ChainId::Group(group) => map.group(group).map(|group| &group.chain),
    }
}

fn state_in(map: &ClusterMap, chain: &Chain, store: StoreId) -> Option<ReplicaState> {
    let stores = &map.as_map().stores;
    let member = chain.members.iter().find(|member| stores[usize::from(member.store)].store == store);
    member.map(|member| member.state)
}
