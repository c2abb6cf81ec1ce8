//! What changed between two maps of one ring: whole records of what is new or other than before.
//!
//! A node's death changes a part of the chains: 600 slices of 65,536 take 12 KB instead of 1.3 MB. Deltas that follow each other are merged, so
//! that whoever is a few maps behind is told once.

use std::collections::BTreeMap;

use thiserror::Error;

use super::{Group, Map, Node, Settings, Slice, Store};
use crate::{ClusterId, GroupId, MapNumber, NodeId, SliceIndex};

/// The way from the map `base` to the map `number`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct MapDelta {
    /// The map that it starts from.
    pub base: MapNumber,
    /// The map that it leads to.
    pub number: MapNumber,
    /// The cluster.
    pub cluster: ClusterId,
    /// The ring's bits, which a delta doesn't change.
    pub ring_bits: u8,
    /// Of the new map.
    pub settings: Settings,
    /// New and changed nodes.
    pub nodes: BTreeMap<NodeId, Node>,
    /// Nodes that are gone.
    pub removed_nodes: Vec<NodeId>,
    /// New and changed stores, by their places in the list.
    pub stores: BTreeMap<u16, Store>,
    /// Changed slices.
    pub slices: BTreeMap<SliceIndex, Slice>,
    /// New and changed groups.
    pub groups: BTreeMap<GroupId, Group>,
}

/// Why a delta can't be applied: ask for the whole map.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum DeltaError {
    /// It starts from another map.
    #[error("the delta starts from map {base}, not from {have}")]
    Base {
        /// The delta's.
        base: MapNumber,
        /// The map's.
        have: MapNumber,
    },
    /// It is of another ring, or names what can't be there.
    #[error("the delta doesn't fit the map")]
    Shape,
}

impl MapDelta {
    /// What leads from `old` to `new`; `None` where only the whole map does.
    pub fn between(old: &Map, new: &Map) -> Option<Self> {
        if old.cluster != new.cluster
            || old.ring_bits != new.ring_bits
            || old.slices.len() != new.slices.len()
            || old.stores.len() > new.stores.len()
            || old.groups.len() > new.groups.len()
            || old.number >= new.number
        {
            return None;
        }
        let known = |node: &Node| old.nodes.binary_search_by_key(&node.node, |node| node.node).ok();
        let is_new = |node: &&Node| known(node).is_none_or(|place| old.nodes[place] != **node);
        let is_gone = |node: &&Node| new.nodes.binary_search_by_key(&node.node, |node| node.node).is_err();
        let stores = (0_u16..=u16::MAX).zip(&new.stores);
        let stores = stores.filter(|(place, store)| old.stores.get(usize::from(*place)) != Some(store));
        let slices = (0_u16..=u16::MAX).zip(&new.slices);
        let slices = slices.filter(|(index, slice)| old.slices[usize::from(*index)] != **slice);
        let groups = new.groups.iter().filter(|group| !old.groups.contains(group));
        Some(Self {
            base: old.number,
            number: new.number,
            cluster: new.cluster,
            ring_bits: new.ring_bits,
            settings: new.settings,
            nodes: new.nodes.iter().filter(is_new).map(|node| (node.node, node.clone())).collect(),
            removed_nodes: old.nodes.iter().filter(is_gone).map(|node| node.node).collect(),
            stores: stores.map(|(place, store)| (place, store.clone())).collect(),
            slices: slices.map(|(index, slice)| (SliceIndex(index), *slice)).collect(),
            groups: groups.map(|group| (group.group, group.clone())).collect(),
        })
    }

    /// A delta that changes nothing yet, from `map` to its successor.
    pub fn after(map: &Map) -> Self {
        Self {
            base: map.number,
            number: MapNumber(map.number.0 + 1),
            cluster: map.cluster,
            ring_bits: map.ring_bits,
            settings: map.settings,
            nodes: BTreeMap::new(),
            removed_nodes: Vec::new(),
            stores: BTreeMap::new(),
            slices: BTreeMap::new(),
            groups: BTreeMap::new(),
        }
    }

    /// Both steps as one; `next` starts where this one leads to.
    #[must_use]
    pub fn then(&self, next: &Self) -> Self {
        assert_eq!(self.number, next.base, "deltas follow each other");
        let mut both = Self { base: self.base, ..next.clone() };
        let is_gone = |node: &NodeId| next.removed_nodes.contains(node);
        let nodes = self.nodes.iter().filter(|(node, _)| !is_gone(node));
        for (node, record) in nodes {
            both.nodes.entry(*node).or_insert_with(|| record.clone());
        }
        let removed = self.removed_nodes.iter().filter(|node| !next.nodes.contains_key(node));
        both.removed_nodes.extend(removed);
        both.removed_nodes.sort_unstable();
        for (place, store) in &self.stores {
            both.stores.entry(*place).or_insert_with(|| store.clone());
        }
        for (index, slice) in &self.slices {
            both.slices.entry(*index).or_insert(*slice);
        }
        for (group, record) in &self.groups {
            both.groups.entry(*group).or_insert_with(|| record.clone());
        }
        both
    }

    /// Records in it: about what it takes.
    pub fn len(&self) -> usize {
        self.nodes.len()
            + self.removed_nodes.len()
            + self.stores.len()
            + self.slices.len()
            + self.groups.len()
    }

    /// Whether nothing but settings and number can differ.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Map {
    /// The map that the delta leads to. It has the right shape; whether it can be a cluster's is `placement`'s to say.
    pub fn with(&self, delta: &MapDelta) -> Result<Self, DeltaError> {
        if delta.base != self.number {
            return Err(DeltaError::Base { base: delta.base, have: self.number });
        }
        if delta.cluster != self.cluster || delta.ring_bits != self.ring_bits || delta.number <= delta.base {
            return Err(DeltaError::Shape);
        }
        let mut map = self.clone();
        (map.number, map.settings) = (delta.number, delta.settings);
        map.nodes.retain(|node| !delta.removed_nodes.contains(&node.node));
        for (number, node) in &delta.nodes {
            match map.nodes.binary_search_by_key(number, |known| known.node) {
                Ok(place) => map.nodes[place].clone_from(node),
                Err(place) => map.nodes.insert(place, node.clone()),
            }
        }
        for (place, store) in &delta.stores {
            let (place, count) = (usize::from(*place), map.stores.len());
            match map.stores.get_mut(place) {
                Some(known) => known.clone_from(store),
                None if place == count => map.stores.push(store.clone()),
                None => return Err(DeltaError::Shape),
            }
        }
        for (index, slice) in &delta.slices {
            *map.slices.get_mut(usize::from(index.0)).ok_or(DeltaError::Shape)? = *slice;
        }
        for (number, group) in &delta.groups {
            match map.groups.binary_search_by_key(number, |known| known.group) {
                Ok(place) => map.groups[place].clone_from(group),
                Err(place) => map.groups.insert(place, group.clone()),
            }
        }
        let count = map.stores.len();
        let slices = delta.slices.values().map(|slice| &slice.chain);
        let mut chains = slices.chain(delta.groups.values().map(|group| &group.chain));
        let fits = chains.all(|chain| chain.members.iter().all(|member| usize::from(member.store) < count));
        if fits { Ok(map) } else { Err(DeltaError::Shape) }
    }
}
