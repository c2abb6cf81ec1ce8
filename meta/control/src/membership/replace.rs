//! Operators' acts on nodes and stores: replacing and forgetting. What is put out never comes back; the map keeps its place in the list of stores.

use std::collections::{BTreeMap, BTreeSet};

use wire::control::{Done, Refusal};
use wire::map::{Member, ReplicaState, Standing, Store, Unit};
use wire::{Nanos, NodeId, StoreId};

use super::Leader;
use super::chains;
use super::command::{Acted, check_rest};
use super::growth::{is_chunk_store, length_for, set_length};
use super::nodes::Presence;
use super::plan::Draft;
use super::register::{is_empty, new_store};

/// Which place takes which one's; `None`: nobody's.
type Places = BTreeMap<u16, Option<u16>>;

impl Leader {
    /// The stores of a new, empty node take the places of those of an old one that is gone.
    pub(super) fn replace_node(&self, now: Nanos, old: NodeId, new: NodeId, draft: &mut Draft<'_>) -> Acted {
        self.check_gone(now, old, draft)?;
        draft.node(new).ok_or(Refusal::NodeUnknown(new))?;
        if !self.nodes.is_alive(new) {
            return Err(Refusal::NodeAbsent(new));
        }
        let olds = stores_of(draft, old);
        let news = stores_of(draft, new);
        Self::check_unused(draft, news.iter().map(|(place, _)| *place))?;
        let shards = |stores: &[(u16, Store)]| -> Vec<u16> {
            stores.iter().filter(|(_, store)| is_chunk_store(store)).map(|(place, _)| *place).collect()
        };
        let (old_shards, new_shards) = (shards(&olds), shards(&news));
        if let (Some(first), true) = (old_shards.first(), new_shards.is_empty()) {
            return Err(Refusal::WrongUnit(draft.map.stores[usize::from(*first)].store));
        }
        let mut places = Places::new();
        for (position, place) in old_shards.iter().enumerate() {
            places.insert(*place, Some(new_shards[position % new_shards.len()]));
        }
        for (place, store) in olds.iter().filter(|(_, store)| matches!(store.unit, Unit::Group(_))) {
            let same = news.iter().find(|(_, other)| other.unit == store.unit);
            places.insert(*place, same.map(|(place, _)| *place));
        }
        let chains = Self::put_in_place(draft, &places)?;
        draft.delta.removed_nodes.push(old);
        Ok(Done::Replacing { chains })
    }

    /// A store that was just formatted takes the place of one that doesn't work.
    pub(super) fn replace_store(
        &self,
        now: Nanos,
        old: StoreId,
        new: StoreId,
        draft: &mut Draft<'_>,
    ) -> Acted {
        let place = self.nodes.place(old).ok_or(Refusal::StoreUnknown(old))?;
        let record = draft.map.stores[usize::from(place)].clone();
        if record.standing != Standing::Member {
            return Err(Refusal::StoreUnknown(old));
        }
        if self.nodes.presence(now, draft.map, place) != Presence::Gone {
            return Err(Refusal::StoreAlive(old));
        }
        let taker = match self.nodes.place(new) {
            Some(taker) => taker,
            None => self.take_stray(new, draft)?,
        };
        let unit = draft.store(taker).map(|store| store.unit);
        let is_same_kind = match (unit, record.unit) {
            (Some(Unit::Shard(_)), Unit::Shard(_)) => true,
            (unit, old) => unit == Some(old),
        };
        if !is_same_kind {
            return Err(Refusal::WrongUnit(new));
        }
        Self::check_unused(draft, std::iter::once(taker))?;
        let places = Places::from([(place, Some(taker))]);
        let chains = Self::put_in_place(draft, &places)?;
        Ok(Done::Replacing { chains })
    }

    fn take_stray(&self, store: StoreId, draft: &mut Draft<'_>) -> Result<u16, Refusal> {
        let stray = self.strays.get(&store).ok_or(Refusal::StoreUnknown(store))?;
        if !is_empty(&stray.report) {
            return Err(Refusal::NotEmpty(store));
        }
        let place = draft.next_place().ok_or(Refusal::Full)?;
        draft.delta.stores.insert(place, new_store(stray.node, &stray.report));
        Ok(place)
    }

    /// A node that is gone doesn't come back; `placement` spreads what it held over the others.
    pub(super) fn forget_node(&self, now: Nanos, node: NodeId, force: bool, draft: &mut Draft<'_>) -> Acted {
        self.check_gone(now, node, draft)?;
        let places: Places = stores_of(draft, node).into_iter().map(|(place, _)| (place, None)).collect();
        let others = draft.stores().filter(|(_, store)| is_chunk_store(store) && store.weight > 0);
        let others: BTreeSet<NodeId> =
            others.map(|(_, store)| store.node).filter(|other| *other != node).collect();
        let chain_length = draft.map.settings.chain_length;
        let is_short = others.len() < usize::from(chain_length);
        if is_short && (!force || others.is_empty()) {
            let left = u32::try_from(others.len()).unwrap_or(u32::MAX);
            return Err(Refusal::TooFewNodes { left, chain_length });
        }
        let chains = Self::put_in_place(draft, &places)?;
        draft.delta.removed_nodes.push(node);
        if is_short {
            let length = length_for(draft);
            set_length(draft, length);
        }
        let (chains, short) = if is_short { (0, chains) } else { (chains, 0) };
        Ok(Done::Forgotten { chains, short })
    }

    /// A node can be put out once its last lease has run out.
    fn check_gone(&self, now: Nanos, node: NodeId, draft: &Draft<'_>) -> Result<(), Refusal> {
        draft.node(node).ok_or(Refusal::NodeUnknown(node))?;
        if self.nodes.is_alive(node) || now < self.nodes.lease_until(node) {
            return Err(Refusal::NodeAlive(node));
        }
        Ok(())
    }

    /// Whoever takes a place has none yet.
    fn check_unused(draft: &Draft<'_>, places: impl Iterator<Item = u16>) -> Result<(), Refusal> {
        let places: BTreeSet<u16> = places.collect();
        let mut members = chains(draft.map).flat_map(|(_, chain)| chain.members.iter());
        match members.find(|member| places.contains(&member.store)) {
            Some(member) => Err(Refusal::NotEmpty(draft.map.stores[usize::from(member.store)].store)),
            None => Ok(()),
        }
    }

    /// Puts stores out for ever, and others in their places: how many chains that concerns.
    fn put_in_place(draft: &mut Draft<'_>, places: &Places) -> Result<u32, Refusal> {
        let gone: BTreeSet<u16> = places.keys().copied().collect();
        let mut count = 0;
        for (id, chain) in chains(draft.map) {
            if !chain.members.iter().any(|member| gone.contains(&member.store)) {
                continue;
            }
            let mut next = *chain;
            next.members.clear();
            for member in &chain.members {
                match places.get(&member.store) {
                    None => {
                        next.members.push(*member);
                    }
                    Some(Some(taker)) if next.member(*taker).is_none() => {
                        let state = ReplicaState::Waiting;
                        next.members.push(Member { store: *taker, state, is_seed: false });
                    }
                    Some(_) => (),
                }
            }
            check_rest(id, chain, &next, &gone)?;
            let node = |place: u16| draft.store(place).map(|store| store.node);
            let has_come = |member: &Member| chain.member(member.store).is_none();
            let is_doubled = next.members.iter().filter(|member| has_come(member)).any(|taker| {
                let mut others = next.members.iter().filter(|other| other.store != taker.store);
                others.any(|other| node(other.store) == node(taker.store))
            });
            if is_doubled {
                return Err(Refusal::TwoOnOneNode(id));
            }
            draft.set_chain(id, next);
            count += 1;
        }
        for place in gone {
            if let Some(mut record) = draft.store(place).cloned() {
                record.standing = Standing::Forgotten;
                draft.delta.stores.insert(place, record);
            }
        }
        Ok(count)
    }
}

fn stores_of(draft: &Draft<'_>, node: NodeId) -> Vec<(u16, Store)> {
    let here = draft.stores().filter(|(_, store)| store.node == node && store.standing == Standing::Member);
    here.map(|(place, store)| (place, store.clone())).collect()
}
