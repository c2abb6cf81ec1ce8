//! Checkers for plans, each written from the rule and not from the planner: they know layouts and plans only.
//!
//! Each returns what it found wrong; `tests.rs` hands every one of them a plan that breaks its rule.

use std::collections::{BTreeMap, BTreeSet};

use super::{Layout, Lost, Plan, Separation, StoreIndex};

/// What is wrong, one line each.
pub(super) type Findings = Vec<String>;

/// A failure domain: the rack, or the node of one without.
type Domain = (Option<u32>, Option<u32>);

fn domain(layout: &Layout, store: StoreIndex) -> Domain {
    let member = layout.members[usize::from(store.0)];
    member.rack.map_or((None, Some(member.node.0)), |rack| (Some(rack.0), None))
}

fn node(layout: &Layout, store: StoreIndex) -> u32 {
    layout.members[usize::from(store.0)].node.0
}

fn weight(layout: &Layout, store: usize) -> f64 {
    let member = layout.members[store];
    if member.is_there { f64::from(member.weight) } else { 0.0 }
}

fn stores(layout: &Layout) -> Vec<StoreIndex> {
    (0..layout.members.len()).map(|store| StoreIndex(u16::try_from(store).unwrap())).collect()
}

fn usable(layout: &Layout) -> Vec<StoreIndex> {
    stores(layout).into_iter().filter(|store| weight(layout, usize::from(store.0)) > 0.0).collect()
}

fn distinct<T: Ord>(values: impl Iterator<Item = T>) -> usize {
    values.collect::<BTreeSet<T>>().len()
}

fn float(count: usize) -> f64 {
    f64::from(u32::try_from(count).unwrap())
}

/// Replicas lie where they may: apart, on what has weight, as many as there can be.
pub(super) fn validity(layout: &Layout, plan: &Plan) -> Findings {
    let mut findings = Findings::new();
    let usable = usable(layout);
    let wanted = usize::from(layout.chain_length).min(usable.len());
    let domains = distinct(usable.iter().map(|&store| domain(layout, store))).min(wanted);
    let nodes = distinct(usable.iter().map(|&store| node(layout, store))).min(wanted);
    if plan.chains.len() != layout.chains.len() {
        return vec![format!("{} chains for {} slices", plan.chains.len(), layout.chains.len())];
    }
    for (slice, chain) in plan.chains.iter().enumerate() {
        let is_usable = chain.iter().all(|store| usable.binary_search(store).is_ok());
        let is_apart = distinct(chain.iter()) == wanted
            && (nodes < wanted || distinct(chain.iter().map(|&store| node(layout, store))) == wanted)
            && (domains < wanted || distinct(chain.iter().map(|&store| domain(layout, store))) == wanted);
        if chain.len() != wanted || !is_usable || !is_apart {
            findings.push(format!("slice {slice}: {chain:?} of {wanted}"));
        }
    }
    findings
}

/// Moves, removals and head changes tell the way from the old chains to the new ones.
pub(super) fn way(layout: &Layout, plan: &Plan) -> Findings {
    let mut findings = Findings::new();
    let mut chains: Vec<BTreeSet<StoreIndex>> =
        layout.chains.iter().map(|chain| chain.iter().copied().collect()).collect();
    let is_source = |slice: usize, store: &StoreIndex| {
        layout.chains[slice].contains(store) && layout.members[usize::from(store.0)].is_there
    };
    for change in &plan.moves {
        let slice = usize::from(change.slice.0);
        let arrived = chains[slice].insert(change.arrives);
        let left = change.leaves.is_none_or(|leaves| chains[slice].remove(&leaves));
        let is_there = plan.chains[slice].get(usize::from(change.position)) == Some(&change.arrives);
        let has_source = layout.chains[slice].iter().any(|store| is_source(slice, store));
        let source =
            change.source.map_or(!has_source, |source| is_source(slice, &source) && source != change.arrives);
        if !arrived || !left || !is_there || !source {
            findings.push(format!("{change:?} of {:?}", layout.chains[slice]));
        }
    }
    for removal in &plan.removals {
        if !chains[usize::from(removal.slice.0)].remove(&removal.leaves) {
            findings.push(format!("{removal:?}"));
        }
    }
    let mut heads = plan.head_changes.iter();
    for (slice, (before, after)) in layout.chains.iter().zip(&plan.chains).enumerate() {
        if chains[slice] != after.iter().copied().collect() {
            findings.push(format!("slice {slice}: {:?}, not {after:?}", chains[slice]));
        }
        if let (Some(from), Some(to)) = (before.first(), after.first())
            && from != to
            && heads.next().is_none_or(|head| (&head.from, &head.to) != (from, to))
        {
            findings.push(format!("slice {slice}: the head changes untold"));
        }
        let stays = |chain: &[StoreIndex], other: &[StoreIndex]| -> Vec<StoreIndex> {
            let head = after.first();
            chain.iter().copied().filter(|store| other.contains(store) && Some(store) != head).collect()
        };
        if stays(before, after) != stays(after, before) {
            findings.push(format!("slice {slice}: the order changes: {before:?}, {after:?}"));
        }
    }
    findings.extend(heads.map(|head| format!("{head:?}")));
    findings
}

/// Each store's target, by bisection for the water level.
pub(super) fn targets(layout: &Layout) -> Vec<f64> {
    let usable = usable(layout);
    let wanted = usize::from(layout.chain_length).min(usable.len());
    let has_domains = distinct(usable.iter().map(|&store| domain(layout, store))) >= wanted;
    let has_nodes = distinct(usable.iter().map(|&store| node(layout, store))) >= wanted;
    let mut units: BTreeMap<_, Vec<StoreIndex>> = BTreeMap::new();
    for &store in &usable {
        let unit = match (has_domains, has_nodes) {
            (true, _) => (Some(domain(layout, store)), None, None),
            (false, true) => (None, Some(node(layout, store)), None),
            (false, false) => (None, None, Some(store)),
        };
        units.entry(unit).or_default().push(store);
    }
    let weights: Vec<f64> = units
        .values()
        .map(|stores| stores.iter().map(|store| weight(layout, usize::from(store.0))).sum())
        .collect();
    let (slices, total) = (float(layout.chains.len()), float(layout.chains.len() * wanted));
    let (mut low, mut high) = (0.0, slices);
    for _ in 0..200 {
        let level: f64 = f64::midpoint(low, high);
        let filled: f64 = weights.iter().map(|weight| (weight * level).min(slices)).sum();
        if filled < total { low = level } else { high = level }
    }
    let mut targets = vec![0.0; layout.members.len()];
    for (stores, unit_weight) in units.values().zip(&weights) {
        for store in stores {
            let part = weight(layout, usize::from(store.0)) / unit_weight;
            targets[usize::from(store.0)] = (unit_weight * high).min(slices) * part;
        }
    }
    targets
}

/// Nobody is off its target by a whole replica, which from 20 replicas on is within 5 %.
pub(super) fn shares(layout: &Layout, plan: &Plan) -> Findings {
    let targets = targets(layout);
    let mut by_store = vec![0.0; layout.members.len()];
    for store in plan.chains.iter().flatten() {
        by_store[usize::from(store.0)] += 1.0;
    }
    let mut findings = Findings::new();
    let mut level = |name: &str, of: &dyn Fn(StoreIndex) -> Domain| {
        let mut sums: BTreeMap<Domain, (f64, f64)> = BTreeMap::new();
        for store in stores(layout) {
            let (have, should) = sums.entry(of(store)).or_default();
            *have += by_store[usize::from(store.0)];
            *should += targets[usize::from(store.0)];
        }
        for (part, (have, should)) in sums {
            if (have - should).abs() >= 1.0 + 1e-6 {
                findings.push(format!("{name} {part:?}: {have} of {should:.2}"));
            }
        }
    };
    level("store", &|store| (Some(u32::from(store.0)), None));
    level("node", &|store| (None, Some(node(layout, store))));
    level("domain", &|store| domain(layout, store));
    findings
}

/// Nodes lead in proportion to their replicas: less than one head off.
pub(super) fn heads(layout: &Layout, plan: &Plan) -> Findings {
    let mut nodes: BTreeMap<u32, (f64, f64)> = BTreeMap::new();
    for chain in &plan.chains {
        for (position, &store) in chain.iter().enumerate() {
            let (led, should) = nodes.entry(node(layout, store)).or_default();
            *led += if position == 0 { 1.0 } else { 0.0 };
            *should += 1.0 / float(chain.len());
        }
    }
    let off = nodes.into_iter().filter(|(_, (led, should))| (led - should).abs() >= 1.0 - 1e-6);
    off.map(|(node, (led, should))| format!("node {node} leads {led} of {should:.2}")).collect()
}

/// No two nodes share more slices than `factor` times what weights make of it, and `extra`.
pub(super) fn declustering(layout: &Layout, plan: &Plan, factor: f64, extra: f64) -> Findings {
    let (mut replicas, mut pairs) = (BTreeMap::<u32, f64>::new(), BTreeMap::<(u32, u32), f64>::new());
    for chain in &plan.chains {
        for &store in chain {
            *replicas.entry(node(layout, store)).or_default() += 1.0;
            for &other in chain.iter().filter(|&&other| node(layout, other) < node(layout, store)) {
                *pairs.entry((node(layout, other), node(layout, store))).or_default() += 1.0;
            }
        }
    }
    let length = f64::from(layout.chain_length);
    let nodes = float(replicas.len());
    let total: f64 = replicas.values().sum();
    let crowded = pairs.into_iter().filter_map(|((a, b), shared)| {
        // Each of a's replicas has length − 1 others, b has its part of those on all other nodes.
        let mean = replicas[&a] * (length - 1.0) * replicas[&b] / (total - total / nodes);
        (shared > factor * mean + extra)
            .then(|| format!("nodes {a} and {b} share {shared}, expected {mean:.2}"))
    });
    crowded.collect()
}

/// Moves are few: within 10 % of the bound, and the bound is one.
///
/// Four moves more are let pass, since single slices can be in the way of each other, which no bound by counts sees. So is more in two
/// cases where it sees least: where one domain must have most slices, so that few slices can take what it lacks (40 % and a dozen), and
/// where chains become shorter, so that the bound is 0 and shares of single stores are evened out by moves (an eighth of the slices).
pub(super) fn moves(layout: &Layout, plan: &Plan) -> Findings {
    let mut held = vec![0.0; layout.members.len()];
    for store in layout.chains.iter().flatten() {
        held[usize::from(store.0)] += 1.0;
    }
    let targets = targets(layout);
    let lacks: f64 =
        targets.iter().zip(&held).map(|(target, held)| ((target + 1e-6).floor() - held).max(0.0)).sum();
    let (count, bound) = (float(plan.moves.len()), f64::from(plan.moves_bound));
    let mut findings = Findings::new();
    if count < bound || bound < lacks - 0.5 {
        findings.push(format!("a bound of {bound}: {count} moves, stores lack {lacks}"));
    }
    let slices = float(layout.chains.len());
    let mut domains: BTreeMap<Domain, f64> = BTreeMap::new();
    for store in stores(layout) {
        *domains.entry(domain(layout, store)).or_default() += targets[usize::from(store.0)] / slices;
    }
    let is_tight = domains.into_values().any(|part| part > 0.7);
    let is_shorter = layout.chains.iter().any(|chain| chain.len() > usize::from(layout.chain_length));
    let extra = if is_tight { 12.0 } else { 4.0 } + if is_shorter { slices / 8.0 } else { 0.0 };
    if count > bound * if is_tight { 1.4 } else { 1.1 } + extra {
        findings.push(format!("{count} moves where {bound} are needed"));
    }
    findings
}

/// What arrives is spread in proportion to weight: nobody gets more than twice its part, and two. Its part is that of all nodes, or of
/// those that each slice's other replicas leave to it, whichever is larger.
pub(super) fn spread(layout: &Layout, plan: &Plan) -> Findings {
    if plan.balance.separation != Separation::Domain {
        return Findings::new();
    }
    let mut nodes: BTreeMap<u32, (Domain, f64)> = BTreeMap::new();
    for (share, weight) in plan.balance.nodes.iter().map(|share| (share.node.0, share.weight)) {
        let store = stores(layout).into_iter().find(|&store| node(layout, store) == share).unwrap();
        nodes.insert(share, (domain(layout, store), f64::from(u32::try_from(weight).unwrap())));
    }
    let mut parts: BTreeMap<u32, (f64, f64)> = BTreeMap::new();
    for change in &plan.moves {
        let slice = usize::from(change.slice.0);
        parts.entry(node(layout, change.arrives)).or_default().0 += 1.0;
        let stay = plan.chains[slice].iter().filter(|store| layout.chains[slice].contains(store));
        let taken: Vec<Domain> = stay.map(|&store| domain(layout, store)).collect();
        let open = || nodes.iter().filter(|(_, (domain, _))| !taken.contains(domain));
        let weights: f64 = open().map(|(_, (_, weight))| weight).sum();
        for (&node, (_, weight)) in open() {
            parts.entry(node).or_default().1 += weight / weights;
        }
    }
    let total: f64 = nodes.values().map(|(_, weight)| weight).sum();
    for (node, (_, part)) in &mut parts {
        *part = part.max(nodes[node].1 / total * float(plan.moves.len()));
    }
    let crowded = parts.into_iter().filter(|(_, (count, part))| *count > 2.0 * part + 2.0);
    crowded.map(|(node, (count, part))| format!("{count} to node {node}, whose part is {part:.2}")).collect()
}

/// A repair moves only what was missing, and changes no head that is there.
pub(super) fn repair(layout: &Layout, plan: &Plan, lost: Lost) -> Findings {
    let is_lost = |store: &StoreIndex| match lost {
        Lost::Store(index) => *store == index,
        Lost::Node(lost) => node(layout, *store) == lost.0,
    };
    let mut findings = Findings::new();
    for (slice, (before, after)) in layout.chains.iter().zip(&plan.chains).enumerate() {
        let stay: Vec<StoreIndex> = before.iter().copied().filter(|store| !is_lost(store)).collect();
        let arrived: Vec<&StoreIndex> = after.iter().filter(|store| !before.contains(store)).collect();
        let keeps = stay.iter().all(|store| after.contains(store)) && !after.iter().any(is_lost);
        let head = before.first().is_some_and(is_lost) || before.first() == after.first();
        if !keeps || !head || arrived.len() > before.len() - stay.len() {
            findings.push(format!("slice {slice}: {before:?} became {after:?}"));
        }
    }
    findings
}
