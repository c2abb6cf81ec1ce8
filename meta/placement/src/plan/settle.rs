//! From units to stores: which node of its domain, and which store of its node, each replica goes to.
//!
//! Nothing can conflict any more: a unit holds a slice once, so each level is a matter of counts. Nodes and stores with too much give up
//! replicas, exactly as many as they have too much, and those with too little take them: the ones which share least with the slice's
//! other nodes, and among a node's stores the emptiest.

use super::Separation;
use super::assign::{Assignment, Held, Pace, Place};
use super::cluster::Cluster;
use super::mix::{mix, shuffled};
use super::pairs::{CROWDED, Pairs};
use super::quota::Quotas;

/// A replica on its way down.
#[derive(Clone, Copy)]
struct Replica {
    place: Place,
    node: Option<usize>,
    store: Option<usize>,
}

struct Settling<'a> {
    cluster: &'a Cluster,
    quotas: &'a Quotas,
    replicas: Vec<Vec<Replica>>,
    held: Held,
    order: Vec<usize>,
    /// By node.
    pairs: Pairs,
}

/// The stores of each slice. `quotas` are the assignment's own, but for how they are rounded below units.
pub(super) fn settle(assignment: Assignment<'_>, quotas: &Quotas) -> Vec<Vec<usize>> {
    let Assignment { cluster, places, held, .. } = assignment;
    let replica = |place: Place| Replica {
        place,
        node: place.kept.map(|store| cluster.stores[store].node),
        store: place.kept,
    };
    let mut settling = Settling {
        cluster,
        quotas,
        replicas: places.into_iter().map(|places| places.into_iter().map(replica).collect()).collect(),
        held,
        order: shuffled(cluster.slices, cluster.salt),
        pairs: Pairs::new(&quotas.nodes, cluster.chain_length),
    };
    settling.leave_nodes();
    settling.choose_nodes();
    settling.leave_stores();
    settling.choose_stores();
    let stores = |replicas: Vec<Replica>| {
        replicas.iter().map(|replica| replica.store.expect("every replica was settled")).collect()
    };
    settling.replicas.into_iter().map(stores).collect()
}

impl Settling<'_> {
    /// Nodes that hold too much in their unit give up replicas, of stores that do, too: first those with much company.
    fn leave_nodes(&mut self) {
        for replicas in &self.replicas {
            for (index, node) in replicas.iter().enumerate().filter_map(|(i, r)| Some((i, r.node?))) {
                self.pairs.add(node, replicas[..index].iter().filter_map(|replica| replica.node));
            }
        }
        for factor in CROWDED {
            let is_over = |(held, quota): (&u32, &u32)| held > quota;
            if !self.held.nodes.iter().zip(&self.quotas.nodes).any(is_over) {
                return;
            }
            for at in 0..self.order.len() {
                for index in 0..self.replicas[self.order[at]].len() {
                    self.leave_node(self.order[at], index, factor);
                }
            }
        }
    }

    fn leave_node(&mut self, slice: usize, index: usize, factor: f64) {
        let Some(store) = self.replicas[slice][index].store else { return };
        let node = self.cluster.stores[store].node;
        let (held, quotas) = (&mut self.held, self.quotas);
        if held.nodes[node] <= quotas.nodes[node] || held.stores[store] <= quotas.stores[store] {
            return;
        }
        let others =
            self.replicas[slice].iter().filter_map(|replica| replica.node).filter(|&other| other != node);
        if self.pairs.is_crowded(node, others.clone(), factor) {
            self.pairs.remove(node, others);
            held.nodes[node] -= 1;
            held.stores[store] -= 1;
            let replica = &mut self.replicas[slice][index];
            (replica.node, replica.store) = (None, None);
        }
    }

    fn choose_nodes(&mut self) {
        let cluster = self.cluster;
        let deficit = |held: &Held, node: usize| self.quotas.nodes[node].saturating_sub(held.nodes[node]);
        let mut pace = Pace::new((0..cluster.nodes.len()).map(|node| deficit(&self.held, node)).collect());
        for &slice in &self.order {
            for index in 0..self.replicas[slice].len() {
                let replica = self.replicas[slice][index];
                let (None, Some(unit)) = (replica.node, replica.place.unit) else { continue };
                let others = || self.replicas[slice].iter().filter_map(|replica| replica.node);
                let key = |&node: &usize| {
                    let deficit = deficit(&self.held, node);
                    let crowding = self.pairs.crowding(node, others());
                    (deficit == 0, pace.is_ahead(node, deficit), crowding, mix(slice, node))
                };
                let nodes = cluster.units[unit].nodes.iter().copied();
                let node = nodes.min_by_key(key).expect("a unit has nodes");
                self.pairs.add(node, self.replicas[slice].iter().filter_map(|replica| replica.node));
                self.held.nodes[node] += 1;
                self.replicas[slice][index].node = Some(node);
                pace.advance();
            }
        }
    }

    /// Stores that hold too much in their node give up replicas.
    fn leave_stores(&mut self) {
        for &slice in &self.order {
            for replica in &mut self.replicas[slice] {
                let Some(store) = replica.store else { continue };
                let is_over = self.held.stores[store] > self.quotas.stores[store];
                if is_over && self.cluster.separation != Separation::Store && replica.place.unit.is_some() {
                    self.held.stores[store] -= 1;
                    replica.store = None;
                }
            }
        }
    }

    fn choose_stores(&mut self) {
        let cluster = self.cluster;
        for &slice in &self.order {
            for replica in &mut self.replicas[slice] {
                let (None, Some(node), Some(unit)) = (replica.store, replica.node, replica.place.unit) else {
                    continue;
                };
                let (held, quotas) = (&mut self.held, self.quotas);
                // The smallest part of its quota filled: compared as fractions of 32 bits.
                let key = |&store: &usize| {
                    let (count, quota) = (held.stores[store], quotas.stores[store]);
                    let filled = (u64::from(count) << 32) / u64::from(quota.max(1));
                    (count >= quota, filled, mix(slice, store))
                };
                let stores = cluster.nodes[node].stores.iter().copied();
                let only = cluster.units[unit].store;
                let store = only.or_else(|| stores.min_by_key(key)).expect("a node with weight has stores");
                held.stores[store] += 1;
                replica.store = Some(store);
            }
        }
    }
}
