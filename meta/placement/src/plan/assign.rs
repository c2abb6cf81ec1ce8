//! Which slices have replicas in which units: what stays, and who fills what is missing.
//!
//! Invariants: no two places of a slice are in one unit, but for what a repair found so and leaves alone; `counts`, `held` and `pairs` follow
//! `places`. At the end of a plan each unit has exactly its quota: slices × units without a repeated pair are a b-matching, and whatever
//! the greedy choices leave open, augmenting paths close (`transfer.rs`).

use super::cluster::Cluster;
use super::count;
use super::mix::{mix, shuffled};
use super::pairs::Pairs;
use super::quota::Quotas;

/// One replica of a slice.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    /// `None`: somewhere that gets nothing new.
    pub(super) unit: Option<usize>,
    /// The store where the replica is already; `None`: it arrives.
    pub(super) kept: Option<usize>,
}

/// Replicas by store and node that stay where they are.
pub(super) struct Held {
    pub(super) nodes: Vec<u32>,
    pub(super) stores: Vec<u32>,
}

/// The assignment of slices to units.
pub(super) struct Assignment<'a> {
    pub(super) cluster: &'a Cluster,
    pub(super) quotas: &'a Quotas,
    /// By slice.
    pub(super) places: Vec<Vec<Place>>,
    /// By slice: stores with weight that it left. A return there moves nothing.
    pub(super) left: Vec<Vec<usize>>,
    /// Replicas by unit.
    pub(super) counts: Vec<u32>,
    pub(super) held: Held,
    pub(super) pairs: Pairs,
    pub(super) pace: Pace,
    /// By unit: slices that have had a replica there since [`Assignment::list`].
    pub(super) lists: Vec<Vec<usize>>,
}

/// How far each unit's deficit is filled, against all of them: without it heavy units would be left for the end, and then meet only
/// each other.
#[derive(Default)]
pub(super) struct Pace {
    initial: Vec<u32>,
    total: u64,
    left: u64,
}

impl Pace {
    pub(super) fn new(deficits: Vec<u32>) -> Self {
        let total = deficits.iter().map(|&deficit| u64::from(deficit)).sum();
        Self { initial: deficits, total, left: total }
    }

    /// Whether one with `deficit` left has had more than its part by now.
    pub(super) fn is_ahead(&self, part: usize, deficit: u32) -> bool {
        u64::from(deficit) * self.total < u64::from(self.initial[part]) * self.left
    }

    pub(super) fn advance(&mut self) {
        self.left = self.left.saturating_sub(1);
    }
}

/// Slices with missing replicas that are still to be filled.
struct Open {
    slices: u32,
    /// By unit: those of them that have it.
    with: Vec<u32>,
}

impl<'a> Assignment<'a> {
    /// What stays: `places`. `left` is what was given up of each slice.
    pub(super) fn new(
        cluster: &'a Cluster,
        quotas: &'a Quotas,
        places: Vec<Vec<Place>>,
        left: Vec<Vec<usize>>,
    ) -> Self {
        let mut counts = vec![0_u32; cluster.units.len()];
        let mut pairs = Pairs::new(&quotas.units, cluster.chain_length);
        let mut held = Held { nodes: vec![0; cluster.nodes.len()], stores: vec![0; cluster.stores.len()] };
        for places in &places {
            for (index, place) in places.iter().enumerate() {
                if let Some(store) = place.kept {
                    held.stores[store] += 1;
                    held.nodes[cluster.stores[store].node] += 1;
                }
                if let Some(unit) = place.unit {
                    counts[unit] += 1;
                    pairs.add(unit, places[..index].iter().filter_map(|place| place.unit));
                }
            }
        }
        let deficits =
            counts.iter().zip(&quotas.units).map(|(&count, &quota)| quota.saturating_sub(count)).collect();
        let lists = Vec::new();
        Self { cluster, quotas, places, left, counts, held, pairs, pace: Pace::new(deficits), lists }
    }

    /// Replicas that `unit` lacks.
    pub(super) fn deficit(&self, unit: usize) -> u32 {
        self.quotas.units[unit].saturating_sub(self.counts[unit])
    }

    /// Whether a replica of `slice` is in `unit`.
    pub(super) fn contains(&self, slice: usize, unit: usize) -> bool {
        self.places[slice].iter().any(|place| place.unit == Some(unit))
    }

    /// The store in `unit` that `slice` left.
    pub(super) fn store_left(&self, slice: usize, unit: usize) -> Option<usize> {
        self.left[slice].iter().copied().find(|&store| self.cluster.stores[store].unit == Some(unit))
    }

    /// Adds a replica of `slice` in `unit`, where it was if it was there.
    pub(super) fn put(&mut self, slice: usize, unit: usize) {
        let kept = self.store_left(slice, unit);
        if let Some(store) = kept {
            self.left[slice].retain(|&left| left != store);
            self.held.stores[store] += 1;
            self.held.nodes[self.cluster.stores[store].node] += 1;
        }
        self.pairs.add(unit, self.places[slice].iter().filter_map(|place| place.unit));
        self.counts[unit] += 1;
        self.places[slice].push(Place { unit: Some(unit), kept });
        self.pace.advance();
        if let Some(list) = self.lists.get_mut(unit) {
            list.push(slice);
        }
    }

    /// Takes `slice`'s replica out of `unit`.
    pub(super) fn take(&mut self, slice: usize, unit: usize) {
        let places = &mut self.places[slice];
        let index = places.iter().position(|place| place.unit == Some(unit)).expect("a replica there");
        let place = places.remove(index);
        if let Some(store) = place.kept {
            self.left[slice].push(store);
            self.held.stores[store] -= 1;
            self.held.nodes[self.cluster.stores[store].node] -= 1;
        }
        self.counts[unit] -= 1;
        self.pairs.remove(unit, self.places[slice].iter().filter_map(|place| place.unit));
    }

    /// Gives every slice as many replicas as units have room for; returns the slices that lack one still.
    pub(super) fn fill(&mut self) -> Vec<usize> {
        let wanted = self.cluster.chain_length;
        let mut order = shuffled(self.places.len(), self.cluster.salt);
        order.retain(|&slice| self.places[slice].len() < wanted);
        let mut open = Open { slices: count(order.len()), with: vec![0; self.counts.len()] };
        for &slice in &order {
            for unit in self.places[slice].iter().filter_map(|place| place.unit) {
                open.with[unit] += 1;
            }
        }
        let mut stuck = Vec::new();
        for slice in order {
            open.slices -= 1;
            for unit in self.places[slice].iter().filter_map(|place| place.unit) {
                open.with[unit] -= 1;
            }
            while self.places[slice].len() < wanted {
                // A unit that lacks more than the slices after this one can give must have this one.
                let is_urgent = |unit: usize, deficit| deficit > open.slices - open.with[unit];
                let Some(unit) = self.choose(slice, is_urgent) else {
                    stuck.push(slice);
                    break;
                };
                self.put(slice, unit);
            }
        }
        stuck
    }

    /// The unit with room that suits `slice` best; `None` where it has all of those.
    pub(super) fn choose(&self, slice: usize, is_urgent: impl Fn(usize, u32) -> bool) -> Option<usize> {
        let units = self.cluster.units.iter().enumerate();
        let open = units.filter_map(|(unit, _)| {
            let deficit = self.deficit(unit);
            (deficit > 0 && !self.contains(slice, unit)).then_some((unit, deficit))
        });
        let key = |&(unit, deficit): &(usize, u32)| {
            let others = self.places[slice].iter().filter_map(|place| place.unit);
            (
                !is_urgent(unit, deficit),
                self.wide_conflicts(slice, unit),
                self.pace.is_ahead(unit, deficit),
                self.pairs.crowding(unit, others),
                mix(slice, unit),
            )
        };
        open.min_by_key(key).map(|(unit, _)| unit)
    }

    /// Replicas of `slice` in what `unit` lies in, other than `unit` itself.
    pub(super) fn wide_conflicts(&self, slice: usize, unit: usize) -> usize {
        let units = &self.cluster.units;
        let others = self.places[slice].iter().filter_map(|place| place.unit).filter(|&other| other != unit);
        others.filter(|&other| units[other].wide == units[unit].wide).count()
    }
}
