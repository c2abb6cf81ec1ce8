//! What follows from which nodes there are: the chains' length, where replicas belong, who votes.
//!
//! Copies become 2 with the second node and 3 with the third (R41). Replicas that chains lack are placed by `placement`, over all stores, and what is
//! there stays, with one exception: while the cluster is *forming*, that is while every chunk store is registered and empty, replicas move to
//! the shares that `plan` asks for, since there is nothing to copy. Where chains are to have replicas is soft: a new leader plans it again,
//! from chains as they are.

use std::collections::{BTreeMap, BTreeSet};

use placement::{Layout, Rack, StoreIndex, plan, plan_missing};
use wire::control::ChainId;
use wire::map::{Chain, Group, Map, ReplicaState, Standing, Store, Unit};
use wire::{Nanos, NodeId, SliceIndex};

use super::Leader;
use super::config::{CHAIN_LENGTH_MAX, MIN_IN_SYNC_DEFAULT, VOTERS_INTERVAL};
use super::event::{Effect, Effects, Note};
use super::plan::Draft;

/// Replicas of a metadata group.
const GROUP_MEMBERS: usize = 3;
/// Bits of a node's number in a vote's id.
const NODE_BITS: u32 = 20;

impl Leader {
    /// Settings and voters follow the nodes.
    pub(super) fn follow_nodes(&self, me: NodeId, draft: &mut Draft<'_>) {
        grow_chains(draft);
        self.add_voters(me, draft);
    }

    /// Whether nothing is stored yet, as far as chunk stores say.
    pub(super) fn is_forming(&self, map: &Map) -> bool {
        let holds_chunks = |(_, store): &(u16, &Store)| is_chunk_store(store);
        let mut stores = (0_u16..=u16::MAX).zip(&map.stores).filter(holds_chunks);
        stores.all(|(place, _)| self.nodes.store(place).used_bytes == Some(0))
    }

    /// Plans where replicas belong, if that may have changed.
    pub(super) fn place_replicas(&mut self, map: &Map, effects: &mut Effects) {
        self.targets
            .retain(|id, target| !super::chain_of(map, *id).is_some_and(|chain| is_placed(chain, target)));
        if !std::mem::take(&mut self.placement_due) {
            return;
        }
        self.targets.clear();
        for group in &map.groups {
            if let Some(target) = self.group_target(map, group) {
                self.targets.insert(ChainId::Group(group.group), target);
            }
        }
        let length = usize::from(map.settings.chain_length);
        let is_forming = self.is_forming(map);
        if !is_forming && map.slices.iter().all(|slice| slice.chain.members.len() == length) {
            return;
        }
        let layout = layout(map);
        let planned = if is_forming { plan(&layout) } else { plan_missing(&layout) };
        match planned {
            Ok(planned) => {
                for (slice, target) in (0_u16..=u16::MAX).zip(planned.chains) {
                    let target: Vec<u16> = target.into_iter().map(|store| store.0).collect();
                    let chain = &map.slices[usize::from(slice)].chain;
                    let target = shortened(map, chain, target, length);
                    if !is_placed(chain, &target) {
                        self.targets.insert(ChainId::Slice(SliceIndex(slice)), target);
                    }
                }
            }
            Err(error) => effects.note(Note::Unplaceable(error)),
        }
    }

    /// A group's replicas: those that there are, and others on other nodes as far as there are any; who lives comes first.
    fn group_target(&self, map: &Map, group: &Group) -> Option<Vec<u16>> {
        let mut target: Vec<u16> = group.chain.members.iter().map(|member| member.store).collect();
        let node = |place: u16| map.stores[usize::from(place)].node;
        let before = target.len();
        while target.len() < GROUP_MEMBERS {
            let is_log = |(place, store): &(u16, &Store)| {
                store.unit == Unit::Group(group.group)
                    && store.standing == Standing::Member
                    && !target.iter().any(|known| node(*known) == node(*place))
            };
            let racks: BTreeSet<&str> = target.iter().map(|place| rack(map, node(*place))).collect();
            let candidates = (0_u16..=u16::MAX).zip(&map.stores).filter(is_log);
            let rank = |(_, store): &(u16, &Store)| {
                let rack = rack(map, store.node);
                (!self.nodes.is_alive(store.node), !rack.is_empty() && racks.contains(rack), store.node)
            };
            let Some((place, _)) = candidates.min_by_key(rank) else { break };
            target.push(place);
        }
        (target.len() > before).then_some(target)
    }

    fn add_voters(&self, me: NodeId, draft: &mut Draft<'_>) {
        let voting: Vec<NodeId> = draft.nodes().filter(|node| node.voter > 0).map(|node| node.node).collect();
        let nodes = draft.nodes().count();
        let wanted = match (voting.len(), nodes) {
            (_, ..=2) => 1,
            (..=3, _) => 3,
            _ => 5,
        };
        self.change_voters(me, wanted, draft);
    }

    /// Gives votes to nodes that live, or takes them; one change of voters at a time.
    pub(super) fn change_voters(&self, me: NodeId, wanted: usize, draft: &mut Draft<'_>) {
        let voting: Vec<NodeId> = draft.nodes().filter(|node| node.voter > 0).map(|node| node.node).collect();
        if voting.len() == wanted || !self.voters_agree(draft.map) {
            return;
        }
        if voting.len() > wanted {
            // The dead go first, then the youngest; never the one that leads.
            let rank = |node: &NodeId| (!self.nodes.is_alive(*node), *node);
            let mut others: Vec<NodeId> = voting.iter().copied().filter(|node| *node != me).collect();
            others.sort_by_key(rank);
            for node in others.into_iter().rev().take(voting.len() - wanted) {
                set_vote(draft, node, 0);
            }
            return;
        }
        let candidates = draft.nodes().map(|node| (node.node, node.voter));
        let fit = candidates.filter(|(node, voter)| *voter == 0 && self.nodes.follows(*node));
        let chosen: Vec<NodeId> = fit.map(|(node, _)| node).take(wanted - voting.len()).collect();
        if chosen.len() < wanted - voting.len() {
            // Two voters are no better than one: they come together.
            return;
        }
        for node in chosen {
            // R35: a vote that was lost is never used again, since no map has this number a second time.
            let vote = (draft.number().0 << NODE_BITS) | u64::from(node.0 & ((1 << NODE_BITS) - 1));
            set_vote(draft, node, vote);
        }
    }

    fn voters_agree(&self, map: &Map) -> bool {
        let listed: BTreeSet<u64> =
            map.nodes.iter().map(|node| node.voter).filter(|vote| *vote > 0).collect();
        self.voters.as_ref().is_some_and(|voters| voters.iter().copied().collect::<BTreeSet<u64>>() == listed)
    }

    /// Says who has to come to vote and who to go, while the control group isn't what the map says.
    pub(super) fn say_voters(&mut self, now: Nanos, map: &Map, effects: &mut Effects) {
        let Some(voters) = self.voters.clone() else { return };
        if self.voters_agree(map) {
            return;
        }
        self.plan_again(now.after(VOTERS_INTERVAL));
        if now < self.voters_at {
            return;
        }
        self.voters_at = now.after(VOTERS_INTERVAL);
        let listed = map.nodes.iter().filter(|node| node.voter > 0);
        let add = listed.clone().filter(|node| !voters.contains(&node.voter));
        let add = add.map(|node| (node.node, node.voter)).collect();
        let is_gone = |vote: &u64| !listed.clone().any(|node| node.voter == *vote);
        let remove = voters.iter().copied().filter(is_gone).collect();
        effects.push(Effect::ChangeVoters { add, remove });
    }
}

fn set_vote(draft: &mut Draft<'_>, node: NodeId, voter: u64) {
    if let Some(mut record) = draft.node(node).cloned() {
        record.voter = voter;
        draft.delta.nodes.insert(node, record);
        draft.is_urgent = true;
    }
}

/// Copies for as many nodes as there are, up to three (R41).
fn grow_chains(draft: &mut Draft<'_>) {
    let settings = draft.delta.settings;
    if settings.chain_length >= CHAIN_LENGTH_MAX {
        return;
    }
    let length = length_for(draft);
    if length > settings.chain_length {
        set_length(draft, length);
    }
}

/// How long chains may be for the nodes that hold chunks.
pub(super) fn length_for(draft: &Draft<'_>) -> u8 {
    let holds_chunks = draft.stores().filter(|(_, store)| is_chunk_store(store) && store.weight > 0);
    let nodes: BTreeSet<NodeId> = holds_chunks.map(|(_, store)| store.node).collect();
    u8::try_from(nodes.len()).unwrap_or(u8::MAX).clamp(1, CHAIN_LENGTH_MAX)
}

/// `min_in_sync` stays the default where it was, and possible where it wasn't.
pub(super) fn set_length(draft: &mut Draft<'_>, length: u8) {
    let settings = &mut draft.delta.settings;
    let default = |length: u8| MIN_IN_SYNC_DEFAULT.min(length);
    settings.min_in_sync = if settings.min_in_sync == default(settings.chain_length) {
        default(length)
    } else {
        settings.min_in_sync.min(length)
    };
    settings.chain_length = length;
    draft.is_urgent = true;
}

pub(super) fn is_chunk_store(store: &Store) -> bool {
    store.standing == Standing::Member && matches!(store.unit, Unit::Shard(_))
}

fn rack(map: &Map, node: NodeId) -> &str {
    let place = map.nodes.binary_search_by_key(&node, |known| known.node);
    place.map_or("", |place| map.nodes[place].rack.as_str())
}

/// Whether a chain's members are those of the target, and none of them still has to come.
fn is_placed(chain: &Chain, target: &[u16]) -> bool {
    chain.members.len() == target.len() && target.iter().all(|store| chain.member(*store).is_some())
}

/// A chain that is longer than it should be gives up who has least, then who shares a node with another, then who comes last.
fn shortened(map: &Map, chain: &Chain, mut target: Vec<u16>, length: usize) -> Vec<u16> {
    let node = |place: u16| map.stores[usize::from(place)].node;
    while target.len() > length {
        let rank = |(position, place): &(usize, &u16)| {
            let state = chain.member(**place).map_or(ReplicaState::Offline, |member| member.state);
            let is_seed = chain.member(**place).is_some_and(|member| member.is_seed);
            let shares = target.iter().filter(|other| node(**other) == node(**place)).count();
            (!is_seed, state, shares, *position)
        };
        let Some((position, _)) = target.iter().enumerate().max_by_key(rank) else { break };
        target.remove(position);
    }
    target
}

/// The map as the planner wants it. What is down is there: only operators give a store up.
pub(super) fn layout(map: &Map) -> Layout {
    let mut racks: BTreeMap<&str, u32> = BTreeMap::new();
    for node in map.nodes.iter().filter(|node| !node.rack.is_empty()) {
        let next = u32::try_from(racks.len()).unwrap_or(u32::MAX);
        racks.entry(node.rack.as_str()).or_insert(next);
    }
    let member = |store: &Store| placement::Member {
        node: store.node,
        rack: racks.get(rack(map, store.node)).copied().map(Rack),
        weight: if is_chunk_store(store) { store.weight } else { 0 },
        is_there: store.standing == Standing::Member,
    };
    let chain = |chain: &Chain| chain.members.iter().map(|member| StoreIndex(member.store)).collect();
    Layout {
        ring_bits: map.ring_bits,
        chain_length: map.settings.chain_length,
        members: map.stores.iter().map(member).collect(),
        chains: map.slices.iter().map(|slice| chain(&slice.chain)).collect(),
    }
}
