//! The layout, checked and indexed: stores in nodes in domains, and the *units* that a slice's replicas must be distinct in.
//!
//! ```text
//! Separation::Domain   unit = domain   enough domains: a rack, or a node without one
//! Separation::Node     unit = node     fewer domains than replicas
//! Separation::Store    unit = store    fewer nodes than replicas
//! ```
//! Units are numbered densely over what has weight, so that tables over pairs of them stay small: at most [`super::NODES_MAX`]
//! domains or nodes, or the stores of two nodes.

use std::collections::BTreeMap;

use wire::limits::{CHAIN_MEMBERS_MAX, MAP_STORES_MAX, RING_BITS_MAX};
use wire::{NodeId, SliceIndex};

use super::mix::mix;
use super::{Layout, Member, NODES_MAX, PlanError, Rack, STORES_PER_NODE_MAX, Separation, StoreIndex};

/// A store.
pub(super) struct Store {
    pub(super) node: usize,
    /// `None`: its whole domain (or node) has no weight, so that nothing new can conflict with it.
    pub(super) unit: Option<usize>,
    /// 0 where it shall hold nothing, or is gone.
    pub(super) weight: u64,
    pub(super) is_there: bool,
}

/// A node.
pub(super) struct Node {
    pub(super) id: NodeId,
    pub(super) domain: usize,
    pub(super) weight: u64,
    /// Those with weight.
    pub(super) stores: Vec<usize>,
}

/// A failure domain: a rack, or a node that isn't known to be in one.
#[derive(Default)]
pub(super) struct Domain {
    pub(super) weight: u64,
    /// Those with weight.
    pub(super) nodes: Vec<usize>,
}

/// What holds at most one replica of a slice.
pub(super) struct Unit {
    pub(super) weight: u64,
    /// What the unit lies in and replicas had better be distinct in too: its domain or, where units are stores, its node.
    pub(super) wide: usize,
    pub(super) domain: usize,
    /// Those with weight.
    pub(super) nodes: Vec<usize>,
    /// Where the unit is a store.
    pub(super) store: Option<usize>,
}

/// The layout's index.
pub(super) struct Cluster {
    pub(super) separation: Separation,
    /// Replicas a slice can have.
    pub(super) chain_length: usize,
    pub(super) slices: usize,
    /// Of the orders in which slices are looked at: another for other weights, so that it isn't always the same slices that move.
    pub(super) salt: usize,
    pub(super) stores: Vec<Store>,
    pub(super) nodes: Vec<Node>,
    pub(super) domains: Vec<Domain>,
    pub(super) units: Vec<Unit>,
}

impl Cluster {
    /// Checks and indexes.
    pub(super) fn new(layout: &Layout) -> Result<Self, PlanError> {
        check_counts(layout)?;
        let (nodes, domain_count) = nodes(&layout.members)?;
        let index: BTreeMap<NodeId, usize> = nodes.iter().map(|node| node.id).zip(0..).collect();
        let stores = layout.members.iter().map(|member| Store {
            node: index[&member.node],
            unit: None,
            weight: weight(member),
            is_there: member.is_there,
        });
        let mut cluster = Self {
            separation: Separation::Domain,
            chain_length: usize::from(layout.chain_length),
            slices: layout.chains.len(),
            salt: salt(&layout.members),
            stores: stores.collect(),
            nodes,
            domains: (0..domain_count).map(|_| Domain::default()).collect(),
            units: Vec::new(),
        };
        check_chains(layout)?;
        cluster.sum_up();
        cluster.separate()?;
        Ok(cluster)
    }

    /// Replicas of all slices.
    pub(super) fn replicas(&self) -> usize {
        self.slices * self.chain_length
    }

    /// The domain of a store.
    pub(super) fn domain_of(&self, store: usize) -> usize {
        self.nodes[self.stores[store].node].domain
    }

    fn sum_up(&mut self) {
        for (index, store) in self.stores.iter().enumerate().filter(|(_, store)| store.weight > 0) {
            self.nodes[store.node].weight += store.weight;
            self.nodes[store.node].stores.push(index);
        }
        for (index, node) in self.nodes.iter().enumerate().filter(|(_, node)| node.weight > 0) {
            self.domains[node.domain].weight += node.weight;
            self.domains[node.domain].nodes.push(index);
        }
    }

    /// Picks what replicas are distinct in: the widest of which there are enough.
    fn separate(&mut self) -> Result<(), PlanError> {
        let domains = self.domains.iter().filter(|domain| domain.weight > 0).count();
        let nodes = self.nodes.iter().filter(|node| node.weight > 0).count();
        let stores = self.stores.iter().filter(|store| store.weight > 0).count();
        if stores == 0 {
            return Err(PlanError::NoStore);
        }
        if domains >= self.chain_length {
            self.separate_domains();
        } else if nodes >= self.chain_length {
            self.separate_nodes();
        } else {
            self.chain_length = self.chain_length.min(stores);
            self.separate_stores();
        }
        Ok(())
    }

    fn separate_domains(&mut self) {
        self.separation = Separation::Domain;
        let mut unit_of = vec![None; self.domains.len()];
        for (index, domain) in self.domains.iter().enumerate().filter(|(_, domain)| domain.weight > 0) {
            unit_of[index] = Some(self.units.len());
            let nodes = domain.nodes.clone();
            self.units.push(Unit { weight: domain.weight, wide: index, domain: index, nodes, store: None });
        }
        for store in &mut self.stores {
            store.unit = unit_of[self.nodes[store.node].domain];
        }
    }

    fn separate_nodes(&mut self) {
        self.separation = Separation::Node;
        let mut unit_of = vec![None; self.nodes.len()];
        for (index, node) in self.nodes.iter().enumerate().filter(|(_, node)| node.weight > 0) {
            unit_of[index] = Some(self.units.len());
            let (weight, domain) = (node.weight, node.domain);
            self.units.push(Unit { weight, wide: domain, domain, nodes: vec![index], store: None });
        }
        for store in &mut self.stores {
            store.unit = unit_of[store.node];
        }
    }

    fn separate_stores(&mut self) {
        self.separation = Separation::Store;
        for (index, store) in self.stores.iter_mut().enumerate().filter(|(_, store)| store.weight > 0) {
            store.unit = Some(self.units.len());
            let domain = self.nodes[store.node].domain;
            let (weight, node) = (store.weight, store.node);
            self.units.push(Unit { weight, wide: node, domain, nodes: vec![node], store: Some(index) });
        }
    }
}

fn salt(members: &[Member]) -> usize {
    let narrow = |hash: u64| usize::try_from(hash >> 32).expect("32 bits");
    members.iter().zip(1..).fold(0, |salt, (member, index)| {
        let weight = usize::try_from(weight(member)).expect("32 bits");
        salt ^ narrow(mix(index, weight))
    })
}

/// What a member counts for.
fn weight(member: &Member) -> u64 {
    if member.is_there { u64::from(member.weight) } else { 0 }
}

fn check_counts(layout: &Layout) -> Result<(), PlanError> {
    if !(1..=3).contains(&layout.chain_length) {
        return Err(PlanError::ChainLength(layout.chain_length));
    }
    if layout.members.len() > MAP_STORES_MAX {
        return Err(PlanError::MemberCount(layout.members.len()));
    }
    let is_ring = layout.ring_bits <= RING_BITS_MAX;
    let expected = if is_ring { 1_usize << layout.ring_bits } else { 0 };
    let found = layout.chains.len();
    if found == expected { Ok(()) } else { Err(PlanError::ChainCount { found, expected }) }
}

fn check_chains(layout: &Layout) -> Result<(), PlanError> {
    for (chain, slice) in layout.chains.iter().zip(0_u16..=u16::MAX) {
        for (position, &store) in chain.iter().enumerate() {
            let is_member = usize::from(store.0) < layout.members.len() && position < CHAIN_MEMBERS_MAX;
            if !is_member || chain[..position].contains(&store) {
                return Err(PlanError::ChainMember { slice: SliceIndex(slice), store });
            }
        }
    }
    Ok(())
}

/// The nodes in order of their numbers, each with its domain, and how many domains there are.
fn nodes(members: &[Member]) -> Result<(Vec<Node>, usize), PlanError> {
    let mut racks: BTreeMap<NodeId, (Option<Rack>, usize)> = BTreeMap::new();
    for member in members {
        let (rack, count) = racks.entry(member.node).or_insert((member.rack, 0));
        if *rack != member.rack {
            return Err(PlanError::TwoRacks(member.node));
        }
        *count += 1;
        if *count > STORES_PER_NODE_MAX {
            return Err(PlanError::StoreCount { node: member.node, count: *count });
        }
    }
    if racks.len() > NODES_MAX {
        return Err(PlanError::NodeCount(racks.len()));
    }
    let mut domains: BTreeMap<Rack, usize> = BTreeMap::new();
    let mut count = 0;
    let mut nodes = Vec::with_capacity(racks.len());
    for (id, (rack, _)) in racks {
        let next = count;
        let domain = rack.map_or(next, |rack| *domains.entry(rack).or_insert(next));
        count += usize::from(domain == next);
        nodes.push(Node { id, domain, weight: 0, stores: Vec::new() });
    }
    Ok((nodes, count))
}

/// A store's index as layouts have it.
pub(super) fn store_index(store: usize) -> StoreIndex {
    StoreIndex(u16::try_from(store).expect("chains name stores by 16 bits"))
}

/// A slice's index as the map has it.
pub(super) fn slice_index(slice: usize) -> SliceIndex {
    SliceIndex(u16::try_from(slice).expect("a ring has at most 2^16 slices"))
}
