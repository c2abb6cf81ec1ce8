//! Which replicas of the present chains may stay: on stores that shall hold something, one in each unit, no more than the chain's length.

use super::StoreIndex;
use super::assign::Place;
use super::cluster::Cluster;
use super::mix::shuffled;
use super::quota::Shares;

/// What stays of each slice, and what with weight was given up.
pub(super) struct Kept {
    pub(super) places: Vec<Vec<Place>>,
    pub(super) left: Vec<Vec<usize>>,
}

impl Kept {
    /// For a plan: what a valid placement can keep. Of two in one unit, and of too many, the fuller store's goes.
    pub(super) fn valid(cluster: &Cluster, chains: &[Vec<StoreIndex>], shares: &Shares) -> Self {
        let mut fullness = Fullness::new(cluster, chains, shares);
        let mut kept =
            Self { places: vec![Vec::new(); cluster.slices], left: vec![Vec::new(); cluster.slices] };
        for slice in shuffled(cluster.slices, cluster.salt) {
            let unit = |store: usize| cluster.stores[store].unit;
            let mut stores: Vec<usize> = with_weight(cluster, &chains[slice]).collect();
            loop {
                let repeated =
                    |&store: &usize| stores.iter().any(|&other| other != store && unit(other) == unit(store));
                let mut surplus: Vec<usize> = stores.iter().copied().filter(repeated).collect();
                if surplus.is_empty() && stores.len() > cluster.chain_length {
                    surplus.clone_from(&stores);
                }
                let Some(fullest) = surplus.into_iter().max_by_key(|&store| (fullness.of(store), store))
                else {
                    break;
                };
                stores.retain(|&store| store != fullest);
                fullness.give_up(fullest);
                kept.left[slice].push(fullest);
            }
            kept.places[slice] =
                stores.iter().map(|&store| Place { unit: unit(store), kept: Some(store) }).collect();
        }
        kept
    }

    /// For a repair: everything that is there.
    pub(super) fn everything(cluster: &Cluster, chains: &[Vec<StoreIndex>]) -> Self {
        let there = |chain: &Vec<StoreIndex>| {
            let stores = chain.iter().map(|&store| usize::from(store.0));
            stores
                .filter(|&store| cluster.stores[store].is_there)
                .map(|store| Place { unit: cluster.stores[store].unit, kept: Some(store) })
                .collect()
        };
        Self { places: chains.iter().map(there).collect(), left: vec![Vec::new(); cluster.slices] }
    }

    /// Replicas that stay, by store.
    pub(super) fn by_store(&self, cluster: &Cluster) -> Vec<u32> {
        let mut counts = vec![0; cluster.stores.len()];
        for store in self.places.iter().flatten().filter_map(|place| place.kept) {
            counts[store] += 1;
        }
        counts
    }
}

/// Members of a chain that shall hold something.
pub(super) fn with_weight<'a>(
    cluster: &'a Cluster,
    chain: &'a [StoreIndex],
) -> impl Iterator<Item = usize> + 'a {
    chain.iter().map(|&store| usize::from(store.0)).filter(|&store| cluster.stores[store].weight > 0)
}

/// How full stores and their units are against their targets.
struct Fullness<'a> {
    cluster: &'a Cluster,
    stores: Vec<u64>,
    units: Vec<u64>,
    /// In thousandths.
    stores_target: Vec<u64>,
    units_target: Vec<u64>,
}

impl<'a> Fullness<'a> {
    fn new(cluster: &'a Cluster, chains: &[Vec<StoreIndex>], shares: &Shares) -> Self {
        let stores_target: Vec<u64> = shares.stores.iter().map(|share| share.thousandths()).collect();
        let mut units_target = vec![0; cluster.units.len()];
        for (store, target) in cluster.stores.iter().zip(&stores_target) {
            if let Some(unit) = store.unit {
                units_target[unit] += target;
            }
        }
        let (stores, units) = (vec![0; cluster.stores.len()], vec![0; cluster.units.len()]);
        let mut fullness = Self { cluster, stores, units, stores_target, units_target };
        for store in chains.iter().flat_map(|chain| with_weight(cluster, chain)) {
            fullness.stores[store] += 1;
            if let Some(unit) = cluster.stores[store].unit {
                fullness.units[unit] += 1;
            }
        }
        fullness
    }

    fn of(&self, store: usize) -> u64 {
        let part = |count: u64, target: u64| (count << 40) / target.max(1);
        let unit = self.cluster.stores[store].unit;
        part(self.stores[store], self.stores_target[store])
            + unit.map_or(0, |unit| part(self.units[unit], self.units_target[unit]))
    }

    fn give_up(&mut self, store: usize) {
        self.stores[store] -= 1;
        if let Some(unit) = self.cluster.stores[store].unit {
            self.units[unit] -= 1;
        }
    }
}
