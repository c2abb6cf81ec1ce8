//! What must hold in a cluster at every moment, looked at whenever a node knows another map or has another lease.

use std::collections::BTreeMap;
use std::sync::Arc;

use placement::Edition;
use replica::Role;
use wire::control::ChainId;
use wire::map::{Chain, Map, Phase};
use wire::{Epoch, MapNumber, Nanos, NodeId, SliceIndex, StoreId};

use crate::node::Node;
use crate::report::Tally;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Watch {
    /// All maps that any node ever knew.
    maps: BTreeMap<MapNumber, Arc<Edition>>,
    /// The newest that each node's agent knows, in this life.
    known: BTreeMap<usize, MapNumber>,
    /// Who leads each chain's epoch.
    heads: BTreeMap<(ChainId, Epoch), StoreId>,
    /// Who acted as a group's head in an epoch.
    group_heads: BTreeMap<Epoch, usize>,
    leases: BTreeMap<usize, bool>,
    /// What each node's metadata replica was last seen to do, and in which epoch.
    roles: BTreeMap<usize, (Role, Epoch)>,
    /// What is new, for the trace.
    pub(super) lines: Vec<String>,
}

impl Watch {
    /// The newest map that anybody knows.
    pub(super) fn newest(&self) -> Option<&Arc<Edition>> {
        self.maps.last_key_value().map(|(_, edition)| edition)
    }

    /// Looks at all nodes. An error is what doesn't hold.
    pub(super) fn look(&mut self, now: Nanos, nodes: &[Node], tally: &mut Tally) -> Result<(), String> {
        let mut is_new = false;
        for (number, node) in nodes.iter().enumerate() {
            let edition = node.agent().map(|agent| Arc::clone(agent.edition()));
            let known = edition.as_ref().map(|edition| edition.number());
            if self.known.get(&number).copied() != known {
                is_new = true;
                match known {
                    Some(known) => self.known.insert(number, known),
                    None => self.known.remove(&number),
                };
                if let Some(edition) = edition {
                    self.take(number, edition, tally)?;
                }
            }
            let has_lease = node.has_lease(now);
            is_new |= self.leases.insert(number, has_lease) != Some(has_lease) && has_lease;
        }
        if is_new {
            Self::check_leases(now, nodes)?;
        }
        self.check_group_heads(nodes)
    }

    /// Maps of one number are the same everywhere; epochs never fall, and each has one head.
    fn take(&mut self, number: usize, edition: Arc<Edition>, tally: &mut Tally) -> Result<(), String> {
        if let Some(known) = self.maps.get(&edition.number()) {
            if known.bytes() == edition.bytes() {
                return Ok(());
            }
            return Err(format!("node {number} knows another map {:?} than others", edition.number()));
        }
        let map = edition.map().as_map();
        check_placement(map)?;
        for (id, chain) in chains(map) {
            let Some(head) = chain.serving().next() else { continue };
            let head = map.stores[usize::from(head.store)].store;
            if *self.heads.entry((id, chain.epoch)).or_insert(head) != head {
                return Err(format!("{id:?} has two heads in {:?}", chain.epoch));
            }
        }
        let before = self.maps.range(..edition.number()).next_back().map(|(_, before)| before);
        let after = self.maps.range(edition.number()..).next().map(|(_, after)| after);
        for (older, newer) in [(before, Some(&edition)), (Some(&edition), after)] {
            let (Some(older), Some(newer)) = (older, newer) else { continue };
            for ((id, old), (_, new)) in chains(older.map().as_map()).zip(chains(newer.map().as_map())) {
                if (new.epoch, new.phase) < (old.epoch, old.phase) {
                    return Err(format!("I4: {id:?} falls from {old:?} to {new:?}"));
                }
                tally.add("control", "epochs", new.epoch.0 - old.epoch.0);
            }
        }
        tally.count("control", "maps");
        for group in &map.groups {
            let store = |place: u16| map.stores[usize::from(place)].node.0;
            let members = group.chain.members.iter();
            let members: Vec<_> = members.map(|its| (store(its.store), its.state, its.is_seed)).collect();
            let (epoch, phase) = (group.chain.epoch.0, group.chain.phase);
            self.lines.push(format!("map {}: group {epoch} {phase:?} {members:?}", map.number.0));
        }
        self.maps.insert(edition.number(), edition);
        Ok(())
    }

    /// R5, R18: once a newer epoch of a chain acks anywhere, no node that isn't in it has a lease and a promise to the older one.
    fn check_leases(now: Nanos, nodes: &[Node]) -> Result<(), String> {
        let agents = || nodes.iter().filter_map(|node| Some((node, node.agent()?)));
        let newest = agents().map(|(_, agent)| agent.edition()).max_by_key(|edition| edition.number());
        let Some(newest) = newest else { return Ok(()) };
        for (node, agent) in agents().filter(|(node, _)| node.has_lease(now)) {
            let its = agent.edition();
            if its.number() == newest.number() || agent.installed() == newest.number() {
                continue;
            }
            let id = node.id();
            for ((chain_id, new), (_, old)) in chains(newest.map().as_map()).zip(chains(its.map().as_map())) {
                let is_out = new.epoch > old.epoch
                    && new.phase == Phase::Active
                    && !serves(newest.map().as_map(), new, id);
                if is_out && serves(its.map().as_map(), old, id) {
                    return Err(format!("R18: {id:?} has a lease, and isn't in {chain_id:?} any more"));
                }
            }
        }
        Ok(())
    }

    /// R1: in an epoch of a group one member leads.
    fn check_group_heads(&mut self, nodes: &[Node]) -> Result<(), String> {
        for (number, node) in nodes.iter().enumerate() {
            let Some(replica) = node.meta().and_then(|meta| meta.replica()) else {
                self.roles.remove(&number);
                continue;
            };
            let role = (replica.role(), replica.epoch());
            if self.roles.insert(number, role) != Some(role) {
                let (committed, received, durable) =
                    (replica.committed().0, replica.received().0, replica.durable().0);
                self.lines.push(format!(
                    "group at node {number}: {role:?}, committed {committed}, received {received} of {:?}, durable {durable}",
                    replica.last_epoch()
                ));
            }
            if replica.role() == Role::Head {
                let epoch = replica.epoch();
                let known = *self.group_heads.entry(epoch).or_insert(number);
                if known != number {
                    return Err(format!("R1: nodes {known} and {number} both lead the group in {epoch:?}"));
                }
            }
        }
        Ok(())
    }
}

/// No two replicas of a chain that take part in acks are on one node, but while one of them comes to take the other's place.
fn check_placement(map: &Map) -> Result<(), String> {
    let length = usize::from(map.settings.chain_length);
    for (id, chain) in chains(map).filter(|(_, chain)| chain.members.len() <= length) {
        let mut nodes: Vec<NodeId> =
            chain.ackers().map(|member| map.stores[usize::from(member.store)].node).collect();
        let count = nodes.len();
        nodes.sort_unstable();
        nodes.dedup();
        if nodes.len() < count {
            return Err(format!("two replicas of {id:?} are on one node: {chain:?}"));
        }
    }
    Ok(())
}

fn serves(map: &Map, chain: &Chain, node: NodeId) -> bool {
    chain.serving().any(|member| map.stores[usize::from(member.store)].node == node)
}

/// All chains of a map.
pub(super) fn chains(map: &Map) -> impl Iterator<Item = (ChainId, &Chain)> + Clone {
    let slices = (0..=u16::MAX).zip(&map.slices);
    let slices = slices.map(|(at, slice)| (ChainId::Slice(SliceIndex(at)), &slice.chain));
    slices.chain(map.groups.iter().map(|group| (ChainId::Group(group.group), &group.chain)))
}
