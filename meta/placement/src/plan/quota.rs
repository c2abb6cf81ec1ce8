//! How many replicas each domain, node and store shall hold: water-filling with caps, then rounding along the tree.
//!
//! **Targets.** With total `R` and weights `w`, a unit's target is `min(cap, λ·w)`, `λ` such that targets sum to `R` (water-filling):
//! a unit whose proportional share exceeds its cap gets the cap, and the rest is dealt out over the others. All of it is exact:
//! a target is an integer plus a fraction over a common denominator.
//!
//! **Rounding.** Every domain, node and store gets the floor or the ceiling of its target, and sums hold at every level. That is
//! always possible, since domains ⊃ nodes ⊃ stores is a laminar family (Cox and Ernst, *Controlled rounding*, 1982): children's
//! floors sum to at most the parent's floor, their ceilings to at least its ceiling. So no deviation reaches 1, and a node
//! with a target of 20 is within 5 % (R40). Which of them get the ceiling is where movement can be saved: first who
//! already holds more than its floor, then the largest remainder, then a hash.

use super::cluster::Cluster;
use super::mix::mix;
use super::{Separation, count};

/// A target: `floor`, and a fraction of which the numerator is `remainder`; siblings share the denominator.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Share {
    pub(super) floor: u32,
    pub(super) remainder: u64,
    /// Of the remainder; for reports.
    pub(super) denominator: u64,
}

impl Share {
    fn of(total: u64, weight: u64, denominator: u64) -> Self {
        let product = u128::from(total) * u128::from(weight);
        let floor = u32::try_from(product / u128::from(denominator)).expect("below the number of replicas");
        let remainder = u64::try_from(product % u128::from(denominator)).expect("below a u64");
        Self { floor, remainder, denominator }
    }

    /// The smallest count that isn't below the target.
    pub(super) fn ceiling(self) -> u32 {
        self.floor + u32::from(self.remainder > 0)
    }

    /// In thousandths of a replica, rounded down.
    pub(super) fn thousandths(self) -> u64 {
        let fraction = u128::from(self.remainder) * 1_000 / u128::from(self.denominator.max(1));
        u64::from(self.floor) * 1_000 + u64::try_from(fraction).expect("below 1,000")
    }
}

/// What each part of the cluster should have.
pub(super) struct Shares {
    pub(super) domains: Vec<Share>,
    pub(super) nodes: Vec<Share>,
    pub(super) stores: Vec<Share>,
    /// Units that have their cap, because their proportional share is at least that.
    pub(super) capped: u32,
}

/// Counts for each part of the cluster; sums hold from level to level.
#[derive(Clone)]
pub(super) struct Quotas {
    pub(super) domains: Vec<u32>,
    pub(super) nodes: Vec<u32>,
    pub(super) stores: Vec<u32>,
    pub(super) units: Vec<u32>,
}

impl Quotas {
    /// Adds what stores hold already.
    pub(super) fn add(&mut self, cluster: &Cluster, held: &[u32]) {
        for (index, &held) in held.iter().enumerate() {
            self.stores[index] += held;
            self.nodes[cluster.stores[index].node] += held;
            self.domains[cluster.domain_of(index)] += held;
            if let Some(unit) = cluster.stores[index].unit {
                self.units[unit] += held;
            }
        }
    }
}

/// Who gets the ceiling first.
pub(super) enum Favour<'a> {
    /// Stores that hold more than their floor, of these counts: each such replica needn't move.
    Holders(&'a [u32]),
    /// Where stores of these counts are emptiest.
    Emptiest(&'a [u32]),
}

/// Part of the total that each unit of weight gets: `numerator / denominator`.
#[derive(Clone, Copy)]
struct Rate {
    numerator: u64,
    denominator: u64,
    capped: bool,
}

impl Shares {
    /// Targets that sum to `total`, none of a unit's above its cap; the caps sum to at least `total`.
    pub(super) fn new(cluster: &Cluster, total: usize, caps: &[u32]) -> Self {
        let rates = water_fill(cluster, total, caps);
        let of = |unit: Option<usize>, weight| {
            unit.map_or_else(Share::default, |unit| {
                Share::of(rates[unit].numerator, weight, rates[unit].denominator)
            })
        };
        let stores =
            cluster.stores.iter().map(|store| of(store.unit.filter(|_| store.weight > 0), store.weight));
        let mut nodes = vec![Share::default(); cluster.nodes.len()];
        let mut domains = vec![Share::default(); cluster.domains.len()];
        sum_units(cluster, &rates, &mut domains, |unit| cluster.units[unit].domain);
        if cluster.separation == Separation::Domain {
            for (unit, found) in cluster.units.iter().enumerate() {
                for &node in &found.nodes {
                    nodes[node] = of(Some(unit), cluster.nodes[node].weight);
                }
            }
        } else {
            sum_units(cluster, &rates, &mut nodes, |unit| cluster.units[unit].nodes[0]);
        }
        Self {
            stores: stores.collect(),
            nodes,
            domains,
            capped: count(rates.iter().filter(|rate| rate.capped).count()),
        }
    }

    /// Rounds them to counts that sum to `total`.
    pub(super) fn round(&self, cluster: &Cluster, total: usize, favour: &Favour<'_>) -> Quotas {
        let priorities = Priorities::new(cluster, self, favour);
        let mut domains = vec![0; self.domains.len()];
        let all: Vec<usize> = (0..domains.len()).collect();
        round_children(count(total), &all, &self.domains, &priorities.domains, &mut domains);
        let nodes = self.round_nodes(cluster, &domains, &priorities);
        let stores = self.round_stores(cluster, &nodes, &priorities);
        let units = cluster.units.iter().map(|unit| match (cluster.separation, unit.store) {
            (Separation::Store, Some(store)) => stores[store],
            (Separation::Node, _) => nodes[unit.nodes[0]],
            _ => domains[unit.domain],
        });
        Quotas { units: units.collect(), domains, nodes, stores }
    }

    /// Rounds them anew below the units, which have what they should, in favour of who holds now: a replica that had to leave a store
    /// which has only its due is so made up for by one that stays in another.
    pub(super) fn round_below_units(&self, cluster: &Cluster, quotas: Quotas, held: &[u32]) -> Quotas {
        let priorities = Priorities::new(cluster, self, &Favour::Holders(held));
        let mut below = quotas;
        if cluster.separation == Separation::Domain {
            below.nodes = self.round_nodes(cluster, &below.domains, &priorities);
        }
        if cluster.separation != Separation::Store {
            below.stores = self.round_stores(cluster, &below.nodes, &priorities);
        }
        below
    }

    fn round_nodes(&self, cluster: &Cluster, domains: &[u32], priorities: &Priorities) -> Vec<u32> {
        let mut nodes = vec![0; self.nodes.len()];
        for (domain, &quota) in cluster.domains.iter().zip(domains) {
            round_children(quota, &domain.nodes, &self.nodes, &priorities.nodes, &mut nodes);
        }
        nodes
    }

    fn round_stores(&self, cluster: &Cluster, nodes: &[u32], priorities: &Priorities) -> Vec<u32> {
        let mut stores = vec![0; self.stores.len()];
        for (node, &quota) in cluster.nodes.iter().zip(nodes) {
            round_children(quota, &node.stores, &self.stores, &priorities.stores, &mut stores);
        }
        stores
    }
}

/// Sums the units' targets of each group. A capped unit's is an integer, all others have one denominator.
fn sum_units(cluster: &Cluster, rates: &[Rate], into: &mut [Share], group: impl Fn(usize) -> usize) {
    let mut capped = vec![0_u32; into.len()];
    let mut weights = vec![0_u64; into.len()];
    let mut open = None;
    for (index, (unit, &rate)) in cluster.units.iter().zip(rates).enumerate() {
        if rate.capped {
            capped[group(index)] += u32::try_from(rate.numerator).expect("a cap is a count");
        } else {
            weights[group(index)] += unit.weight;
            open = Some(rate);
        }
    }
    for ((share, capped), weight) in into.iter_mut().zip(capped).zip(weights) {
        *share = open.map_or_else(Share::default, |rate| Share::of(rate.numerator, weight, rate.denominator));
        share.floor += capped;
    }
}

/// Each unit's rate. Units are capped in the order in which a rising water level meets their caps.
fn water_fill(cluster: &Cluster, total: usize, caps: &[u32]) -> Vec<Rate> {
    let mut order: Vec<usize> = (0..cluster.units.len()).collect();
    let weight = |unit: usize| u128::from(cluster.units[unit].weight);
    order.sort_by(|&a, &b| {
        let (left, right) = (u128::from(caps[a]) * weight(b), u128::from(caps[b]) * weight(a));
        left.cmp(&right).then(a.cmp(&b))
    });
    let mut rest = u64::try_from(total).expect("64 bits");
    let mut weights: u64 = cluster.units.iter().map(|unit| unit.weight).sum();
    let mut rates = vec![Rate { numerator: 0, denominator: 1, capped: true }; cluster.units.len()];
    for (met, &unit) in order.iter().enumerate() {
        if u128::from(rest) * weight(unit) < u128::from(caps[unit]) * u128::from(weights) {
            for &open in &order[met..] {
                rates[open] = Rate { numerator: rest, denominator: weights, capped: false };
            }
            return rates;
        }
        // The total, once no unit is left to take it, is what the caps didn't allow: the caller's promise excludes it.
        let denominator = cluster.units[unit].weight;
        rates[unit] = Rate { numerator: u64::from(caps[unit]), denominator, capped: true };
        rest = rest.saturating_sub(u64::from(caps[unit]));
        weights -= denominator;
    }
    assert_eq!(rest, 0, "the caps sum to at least the total");
    rates
}

/// Who comes first for the ceiling, at each level: larger is earlier.
struct Priorities {
    domains: Vec<u64>,
    nodes: Vec<u64>,
    stores: Vec<u64>,
}

impl Priorities {
    fn new(cluster: &Cluster, shares: &Shares, favour: &Favour<'_>) -> Self {
        match favour {
            Favour::Holders(held) => Self::holders(cluster, shares, held),
            Favour::Emptiest(held) => Self::emptiest(cluster, held),
        }
    }

    /// 1 where one replica more in the quota is one that needn't move. For a node that is so if more of its stores hold
    /// above their floors than its own floor gives ceilings to; likewise for a domain. The gains are concave, so taking them
    /// greedily from the root down is optimal.
    fn holders(cluster: &Cluster, shares: &Shares, held: &[u32]) -> Self {
        let gains = |share: &Share, is_gain: bool| u64::from(share.remainder > 0 && is_gain);
        let stores: Vec<u64> =
            shares.stores.iter().zip(held).map(|(share, &held)| gains(share, held > share.floor)).collect();
        let level =
            |parents: &[Share], children: &[Share], below: &[u64], of: &dyn Fn(usize) -> Vec<usize>| {
                let parent = |(index, share): (usize, &Share)| {
                    let children_of = of(index);
                    let floors: u32 = children_of.iter().map(|&child| children[child].floor).sum();
                    let wanting: u64 = children_of.iter().map(|&child| below[child]).sum();
                    gains(share, wanting > u64::from(share.floor - floors))
                };
                parents.iter().enumerate().map(parent).collect::<Vec<u64>>()
            };
        let nodes = level(&shares.nodes, &shares.stores, &stores, &|node| cluster.nodes[node].stores.clone());
        let domains =
            level(&shares.domains, &shares.nodes, &nodes, &|domain| cluster.domains[domain].nodes.clone());
        Self { domains, nodes, stores }
    }

    fn emptiest(cluster: &Cluster, held: &[u32]) -> Self {
        let mut nodes = vec![0_u64; cluster.nodes.len()];
        let mut domains = vec![0_u64; cluster.domains.len()];
        for (index, &held) in held.iter().enumerate() {
            nodes[cluster.stores[index].node] += u64::from(held);
            domains[cluster.domain_of(index)] += u64::from(held);
        }
        // At most 2^19 replicas, on a ring of 2^16 slices with 8 members each: 44 bits are left for the fraction.
        let emptiness = |held: u64, weight: u64| u64::MAX - (held << 44) / weight.max(1);
        Self {
            stores: held
                .iter()
                .zip(&cluster.stores)
                .map(|(&h, s)| emptiness(u64::from(h), s.weight))
                .collect(),
            nodes: nodes.iter().zip(&cluster.nodes).map(|(&h, n)| emptiness(h, n.weight)).collect(),
            domains: domains.iter().zip(&cluster.domains).map(|(&h, d)| emptiness(h, d.weight)).collect(),
        }
    }
}

/// Deals `total` out over `children`: their floors, and the rest as ceilings by priority, remainder, hash.
fn round_children(total: u32, children: &[usize], shares: &[Share], priorities: &[u64], quotas: &mut [u32]) {
    let floors: u32 = children.iter().map(|&child| shares[child].floor).sum();
    for &child in children {
        quotas[child] = shares[child].floor;
    }
    let mut open: Vec<usize> =
        children.iter().copied().filter(|&child| shares[child].remainder > 0).collect();
    open.sort_by_key(|&child| {
        std::cmp::Reverse((priorities[child], shares[child].remainder, mix(child, children.len())))
    });
    let ceilings = usize::try_from(total - floors).expect("32 bits");
    assert!(ceilings <= open.len(), "a parent's quota is within its children's floors and ceilings");
    for &child in &open[..ceilings] {
        quotas[child] += 1;
    }
}
