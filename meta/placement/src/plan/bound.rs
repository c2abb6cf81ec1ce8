//! What any placement that meets the targets has to move: the measure for how little a plan moves.
//!
//! At each level (stores; nodes; domains) a part with target `t` holds `⌊t⌋` or `⌈t⌉` replicas in the end, `R` all together; `c` of them,
//! slices that it holds now, can be there without arriving. Hence at least
//! ```text
//! A = Σ max(0, ⌊t⌋ − c)        arrive, and at least
//! B = R − Σ min(c, ⌈t⌉)
//! ```
//! of each level, since what arrives in a domain arrives at one of its nodes, and there at one of its stores. Slice by slice: `M` replicas are missing or
//! lie in one unit with another. A unit that lacks `⌊t⌋ − c` gets at most `e` of them from slices that miss one and haven't that unit already;
//! each further one displaces a replica that could have stayed:
//! ```text
//! C = M + Σ max(0, ⌊t⌋ − c − e)
//! ```
//! The bound is the largest. It sees one unit at a time, so it isn't always reached.

use super::cluster::{Cluster, Unit};
use super::keep::with_weight;
use super::quota::{Share, Shares};
use super::{Separation, StoreIndex, count};

/// Replicas that must arrive in any placement with these targets.
pub(super) fn moves_bound(cluster: &Cluster, chains: &[Vec<StoreIndex>], shares: &Shares) -> u32 {
    let mut stores = vec![0; cluster.stores.len()];
    let mut nodes = vec![0; cluster.nodes.len()];
    let mut domains = vec![0; cluster.domains.len()];
    let mut units = Units::new(cluster);
    for chain in chains {
        let members: Vec<usize> = with_weight(cluster, chain).collect();
        let node = |store: usize| cluster.stores[store].node;
        let domain = |store: usize| cluster.domain_of(store);
        for (index, &store) in members.iter().enumerate() {
            let earlier = &members[..index];
            let is_first_of_node = !earlier.iter().any(|&other| node(other) == node(store));
            let is_first_of_domain = !earlier.iter().any(|&other| domain(other) == domain(store));
            stores[store] += 1;
            nodes[node(store)] += u32::from(is_first_of_node || cluster.separation == Separation::Store);
            domains[domain(store)] +=
                u32::from(is_first_of_domain || cluster.separation != Separation::Domain);
        }
        units.add(cluster, &members);
    }
    let total = count(cluster.replicas());
    let level = |shares: &[Share], counts: &[u32]| {
        let parts = || shares.iter().zip(counts);
        let lacking: u32 = parts().map(|(share, &count)| share.floor.saturating_sub(count)).sum();
        let staying: u32 = parts().map(|(share, &count)| share.ceiling().min(count)).sum();
        lacking.max(total.saturating_sub(staying))
    };
    level(&shares.stores, &stores)
        .max(level(&shares.nodes, &nodes))
        .max(level(&shares.domains, &domains))
        .max(units.bound(cluster, shares))
}

/// Counts by unit, for the part of the bound that knows which slices miss a replica.
struct Units {
    missing: u32,
    /// Slices that miss a replica.
    slices: u32,
    /// Of those, the ones that have the unit.
    with: Vec<u32>,
    counts: Vec<u32>,
}

impl Units {
    fn new(cluster: &Cluster) -> Self {
        let width = cluster.units.len();
        Self { missing: 0, slices: 0, with: vec![0; width], counts: vec![0; width] }
    }

    fn add(&mut self, cluster: &Cluster, members: &[usize]) {
        let mut units: Vec<usize> = members.iter().filter_map(|&store| cluster.stores[store].unit).collect();
        units.sort_unstable();
        units.dedup();
        let missing = count(cluster.chain_length.saturating_sub(units.len()));
        self.missing += missing;
        self.slices += u32::from(missing > 0);
        for unit in units {
            self.counts[unit] += 1;
            self.with[unit] += u32::from(missing > 0);
        }
    }

    fn bound(&self, cluster: &Cluster, shares: &Shares) -> u32 {
        let displacing = |(unit, found): (usize, &Unit)| {
            let share = match (found.store, cluster.separation) {
                (Some(store), _) => shares.stores[store],
                (None, Separation::Domain) => shares.domains[found.domain],
                (None, _) => shares.nodes[found.nodes[0]],
            };
            let eligible = self.slices - self.with[unit];
            share.floor.saturating_sub(self.counts[unit] + eligible)
        };
        self.missing + cluster.units.iter().enumerate().map(displacing).sum::<u32>()
    }
}
