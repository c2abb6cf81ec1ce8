//! How things stand and why: as data, for whoever makes text of it.

use std::collections::BTreeSet;

use wire::control::{
    ChainId, ChainTally, Condition, Health, NodeStatus, Reason, Refusal, StopRisk, Subject, Waits,
};
use wire::limits::ANSWER_CHAINS_MAX;
use wire::map::{Chain, Map, Phase, ReplicaState, Standing};
use wire::{Nanos, NodeId, StoreId};

use super::config::Config;
use super::nodes::Presence;
use super::plan::Draft;
use super::step::{StoreView, View, is_group};
use super::{Leader, chain_of, chains};

impl Leader {
    /// What is worth saying about a subject; never empty.
    pub(super) fn why(&self, now: Nanos, config: Config, draft: &Draft<'_>, subject: Subject) -> Vec<Reason> {
        let mut reasons = match subject {
            Subject::Node(node) => self.why_node(now, draft.map, node),
            Subject::Store(store) => self.why_store(now, config, draft, store),
            Subject::Chain(id) => match chain_of(draft.map, id) {
                Some(chain) => self.with_view(now, config, draft, |view| self.why_chain(view, id, chain)),
                None => vec![Reason::NotInMap],
            },
        };
        if reasons.is_empty() {
            reasons.push(Reason::Well);
        }
        reasons
    }

    fn with_view<T>(
        &self,
        now: Nanos,
        config: Config,
        draft: &Draft<'_>,
        look: impl FnOnce(&View<'_>) -> T,
    ) -> T {
        let stores: Vec<StoreView> = self.view_stores(now, draft);
        let caught_up = self.caught_up(draft.map);
        look(&self.view(now, config, draft, &stores, &caught_up))
    }

    fn why_node(&self, now: Nanos, map: &Map, number: NodeId) -> Vec<Reason> {
        let Some(node) = self.nodes.node(number) else { return vec![Reason::NotInMap] };
        let mut reasons = Vec::new();
        if let Some(life) = node.life {
            let heard = now.since(node.heard);
            reasons.push(Reason::NodeAlive { life, heard, installed: node.installed });
        } else {
            let silent = now.since(node.heard.max(self.nodes.elected()));
            let dead_in = self.nodes.lease_until(number).since(now);
            reasons.push(Reason::NodeSilent { silent, dead_in });
        }
        let by = self.links.suspected_by(now, number);
        if by > 0 {
            reasons.push(Reason::NodeSuspected { by });
        }
        for (record, place) in map.stores.iter().zip(0_u16..=u16::MAX) {
            if record.node == number && record.standing == Standing::Member {
                reasons.extend(self.unfit(place));
            }
        }
        reasons
    }

    fn unfit(&self, place: u16) -> Option<Reason> {
        let store = self.nodes.store(place);
        if store.is_stale {
            return Some(Reason::StoreStale);
        }
        let condition = store.condition;
        (store.is_present && condition != Condition::Well).then_some(Reason::StoreUnfit { condition })
    }

    fn why_store(&self, now: Nanos, config: Config, draft: &Draft<'_>, store: StoreId) -> Vec<Reason> {
        let Some(place) = self.nodes.place(store) else { return vec![Reason::NotInMap] };
        let record = &draft.map.stores[usize::from(place)];
        let mut reasons = Vec::new();
        if record.standing != Standing::Member {
            return vec![Reason::StoreLeaves];
        }
        reasons.extend(self.unfit(place));
        if !self.nodes.is_alive(record.node) {
            reasons.extend(self.why_node(now, draft.map, record.node));
        }
        let view = |view: &View<'_>| {
            let with = |(_, chain): &(ChainId, &Chain)| chain.member(place).is_some();
            let unsettled = chains(view.map)
                .filter(with)
                .filter(|(id, chain)| view.step(*id, chain).is_unsettled || chain.phase == Phase::Prepared);
            unsettled
                .take(ANSWER_CHAINS_MAX)
                .flat_map(|(id, chain)| self.why_chain(view, id, chain))
                .collect::<Vec<Reason>>()
        };
        reasons.extend(self.with_view(now, config, draft, view));
        reasons
    }

    fn why_chain(&self, view: &View<'_>, id: ChainId, chain: &Chain) -> Vec<Reason> {
        let note = view.note(id);
        let serving = u8::try_from(chain.serving().count()).unwrap_or(u8::MAX);
        let mut reasons = vec![Reason::Chain {
            chain: id,
            epoch: chain.epoch,
            phase: chain.phase,
            serving,
            min_in_sync: chain.min_in_sync,
            since: view.now.since(note.since.max(self.nodes.elected())),
        }];
        for member in &chain.members {
            let store = view.map.stores[usize::from(member.store)].store;
            let lag =
                if member.state == ReplicaState::Serving { 0 } else { self.nodes.store(member.store).lag };
            reasons.push(Reason::Member { chain: id, store, state: member.state, lag });
        }
        let outcome = view.step(id, chain);
        if self.proposed.is_some() && outcome.next.is_some() {
            reasons.push(Reason::Waiting(Waits::Turn));
        } else if outcome.next.is_some() {
            reasons.push(Reason::Waiting(Waits::Control));
        }
        reasons.extend(outcome.waits.into_iter().map(Reason::Waiting));
        reasons
    }

    /// What would be at risk without a node.
    pub(super) fn ok_to_stop(&self, map: &Map, node: NodeId) -> Result<StopRisk, Refusal> {
        self.nodes.node(node).ok_or(Refusal::NodeUnknown(node))?;
        let mut risk = StopRisk::default();
        let mut reads = Vec::new();
        let mut writes = Vec::new();
        for (id, chain) in chains(map) {
            let is_here = |store: u16| map.stores[usize::from(store)].node == node;
            let left = chain.serving().filter(|member| !is_here(member.store)).count();
            if left == chain.serving().count() {
                continue;
            }
            if left == 0 {
                reads.push(id);
            } else if left < usize::from(chain.min_in_sync) {
                writes.push(id);
            }
        }
        let count = |chains: &Vec<ChainId>| u32::try_from(chains.len()).unwrap_or(u32::MAX);
        (risk.reads_stop, risk.writes_stop) = (count(&reads), count(&writes));
        reads.append(&mut writes);
        reads.truncate(ANSWER_CHAINS_MAX);
        risk.chains = reads;
        let voters = map.nodes.iter().filter(|known| known.voter > 0);
        let left =
            voters.clone().filter(|voter| voter.node != node && self.nodes.is_alive(voter.node)).count();
        risk.control_stops = left <= voters.count() / 2;
        Ok(risk)
    }

    /// The whole in numbers.
    pub(super) fn health(&self, now: Nanos, config: Config, draft: &Draft<'_>) -> Health {
        let map = draft.map;
        let count = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        let members = (0_u16..=u16::MAX).zip(&map.stores);
        let members = members.filter(|(_, store)| store.standing == Standing::Member);
        let unfit = |(place, _): &(u16, _)| self.unfit(*place).is_some();
        let mut health = Health {
            number: map.number,
            nodes: count(map.nodes.len()),
            nodes_alive: count(map.nodes.iter().filter(|node| self.nodes.is_alive(node.node)).count()),
            stores: count(members.clone().count()),
            stores_unfit: count(members.filter(unfit).count()),
            chain_length: map.settings.chain_length,
            domains: count(domains(map)),
            chunks_missing: self.missing,
            ..Health::default()
        };
        self.with_view(now, config, draft, |view| {
            for (id, chain) in chains(map) {
                let tally = if is_group(id) { &mut health.groups } else { &mut health.slices };
                tally_chain(view, id, chain, tally);
            }
        });
        let is_full = |tally: &ChainTally| tally.full == tally.chains && tally.changing == 0;
        health.is_whole = is_full(&health.slices)
            && is_full(&health.groups)
            && self.targets.is_empty()
            && health.nodes == health.nodes_alive;
        health
    }

    /// Every node.
    pub(super) fn node_statuses(&self, now: Nanos, map: &Map) -> Vec<NodeStatus> {
        let mut statuses: Vec<NodeStatus> = map
            .nodes
            .iter()
            .map(|record| {
                let node = self.nodes.node(record.node);
                let heard = node.map_or(Nanos(0), |node| node.heard).max(self.nodes.elected());
                let here = (0_u16..=u16::MAX).zip(&map.stores).filter(|(_, store)| store.node == record.node);
                let condition = |place: u16| {
                    let store = self.nodes.store(place);
                    store.is_present.then_some(store.condition)
                };
                NodeStatus {
                    node: record.node,
                    life: node.and_then(|node| node.life),
                    heard: now.since(heard),
                    is_alive: self.nodes.is_alive(record.node),
                    installed: node.map_or(wire::MapNumber(0), |node| node.installed),
                    members: 0,
                    serving: 0,
                    stores: here.map(|(place, store)| (store.store, condition(place))).collect(),
                }
            })
            .collect();
        for (_, chain) in chains(map) {
            for member in &chain.members {
                let node = map.stores[usize::from(member.store)].node;
                if let Ok(place) = statuses.binary_search_by_key(&node, |status| status.node) {
                    statuses[place].members += 1;
                    statuses[place].serving += u32::from(member.state == ReplicaState::Serving);
                }
            }
        }
        statuses
    }
}

/// Racks where they are known, else nodes.
fn domains(map: &Map) -> usize {
    let named: BTreeSet<&str> =
        map.nodes.iter().map(|node| node.rack.as_str()).filter(|rack| !rack.is_empty()).collect();
    named.len() + map.nodes.iter().filter(|node| node.rack.is_empty()).count()
}

fn tally_chain(view: &View<'_>, id: ChainId, chain: &Chain, tally: &mut ChainTally) {
    let serving = chain.serving().count();
    let length = if is_group(id) { chain.members.len() } else { usize::from(view.chain_length) };
    let is_there = |store: u16| view.store(store).presence == Presence::Fit;
    let is_full = serving == length
        && chain.members.len() == length
        && chain.min_in_sync == view.min_in_sync
        && chain.members.iter().all(|member| is_there(member.store));
    let first = tally.chains == 0;
    tally.chains += 1;
    if serving == 0 {
        tally.down += 1;
    } else if !chain.can_ack() {
        tally.read_only += 1;
    } else if is_full {
        tally.full += 1;
    } else {
        tally.degraded += 1;
    }
    tally.changing += u32::from(chain.phase == Phase::Prepared);
    tally.syncing += u32::from(chain.members.iter().any(|member| member.state == ReplicaState::Syncing));
    if serving == 0 {
        let waits = view.step(id, chain).waits;
        let is_stuck = |waits: &Waits| matches!(waits, Waits::AnySeed | Waits::CleanSeed { .. });
        tally.stuck += u32::from(waits.iter().any(is_stuck));
    }
    let serving = u8::try_from(serving).unwrap_or(u8::MAX);
    tally.redundancy_min = if first { serving } else { tally.redundancy_min.min(serving) };
}
