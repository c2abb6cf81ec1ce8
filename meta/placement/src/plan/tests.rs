//! Examples of what a plan does, and for every checker a plan that it finds fault with.

use wire::{NodeId, SliceIndex};

use super::check::{Findings, declustering, heads, moves, repair, shares, spread, validity, way};
use super::{
    HeadChange, Layout, Lost, Member, Plan, PlanError, Rack, Removal, Separation, StoreIndex, plan,
    plan_loss, plan_missing,
};

/// `nodes` nodes with as many stores each, no rack known, nothing placed yet.
fn uniform(ring_bits: u8, chain_length: u8, nodes: u32, stores: u32) -> Layout {
    let chains = vec![Vec::new(); 1 << ring_bits];
    let mut layout = Layout { ring_bits, chain_length, members: Vec::new(), chains };
    for node in 1..=nodes {
        add_node(&mut layout, node, None, stores, 100);
    }
    layout
}

fn add_node(layout: &mut Layout, node: u32, rack: Option<u32>, stores: u32, weight: u32) {
    let member = Member { node: NodeId(node), rack: rack.map(Rack), weight, is_there: true };
    layout.members.extend((0..stores).map(|_| member));
}

/// Plans, checks what every plan keeps, and goes on from there.
fn settle(layout: &mut Layout) -> Plan {
    let planned = plan(layout).unwrap();
    assert_eq!(all(layout, &planned), Findings::new());
    layout.chains.clone_from(&planned.chains);
    planned
}

fn all(layout: &Layout, plan: &Plan) -> Findings {
    [
        validity(layout, plan),
        way(layout, plan),
        shares(layout, plan),
        heads(layout, plan),
        moves(layout, plan),
    ]
    .concat()
}

fn set_weight(layout: &mut Layout, node: u32, weight: u32) {
    let members = layout.members.iter_mut().filter(|member| member.node == NodeId(node));
    members.for_each(|member| member.weight = weight);
}

#[test]
fn a_new_ring_is_spread_over_pairs_of_nodes() {
    for (ring_bits, nodes, stores) in
        [(12, 6, 4), (12, 7, 1), (12, 12, 2), (12, 24, 4), (12, 61, 1), (12, 200, 4), (14, 40, 16)]
    {
        for chain_length in [2, 3] {
            let mut layout = uniform(ring_bits, chain_length, nodes, stores);
            let planned = settle(&mut layout);
            assert_eq!(planned.moves.len(), usize::from(chain_length) << ring_bits);
            assert_eq!((planned.balance.separation, planned.balance.capped), (Separation::Domain, 0));
            // Means lie between 0.1 and 1,638 slices: where they are small, two is what chance makes of them.
            assert_eq!(declustering(&layout, &planned, 1.5, 2.0), Findings::new(), "{nodes} nodes");
        }
    }
}

#[test]
fn racks_hold_one_replica_each_and_their_nodes_meet_all_others() {
    let mut layout = uniform(12, 3, 0, 0);
    for node in 1..=40 {
        add_node(&mut layout, node, Some(node % 8), 4, 100);
    }
    let planned = settle(&mut layout);
    assert_eq!(declustering(&layout, &planned, 2.0, 2.0), Findings::new());
    assert_eq!(planned.balance.one_domain_slices, 0);
}

#[test]
fn growth_moves_what_the_new_nodes_get() {
    let mut layout = uniform(12, 3, 4, 4);
    settle(&mut layout);
    for node in 5..=24 {
        add_node(&mut layout, node, None, 4, 100);
        let planned = settle(&mut layout);
        let share = u32::try_from(planned.moves.len()).unwrap();
        assert!((share * node).abs_diff(3 << 12) <= node, "node {node}: {share} moves");
        assert_eq!(share, planned.moves_bound);
        // The new node leads its part; nearly all others lead what they led.
        let changed = u32::try_from(planned.head_changes.len()).unwrap();
        assert!(changed <= share * 2 / 5, "{changed} heads change for {share} moves");
    }
    let planned = plan(&layout).unwrap();
    assert_eq!(declustering(&layout, &planned, 2.0, 2.0), Findings::new(), "after twenty plans in a row");
}

#[test]
fn a_drained_node_is_read_like_all_others() {
    let mut layout = uniform(10, 3, 10, 2);
    settle(&mut layout);
    set_weight(&mut layout, 3, 0);
    let planned = settle(&mut layout);
    let leaves = |store: StoreIndex| layout.members[usize::from(store.0)].node == NodeId(3);
    assert!(planned.moves.iter().all(|change| change.leaves.is_some_and(leaves)));
    let mut reads = [0_u32; 11];
    for source in planned.moves.iter().filter_map(|change| change.source) {
        reads[layout.members[usize::from(source.0)].node.0 as usize] += 1;
    }
    assert!(reads[1..].iter().all(|&count| (20..=45).contains(&count)), "307 reads by node: {reads:?}");
}

#[test]
fn a_chain_of_one_is_copied_from_who_leaves() {
    let mut layout = uniform(8, 1, 3, 1);
    settle(&mut layout);
    add_node(&mut layout, 4, None, 1, 100);
    let planned = settle(&mut layout);
    assert_eq!(planned.moves.len(), 64);
    assert!(planned.moves.iter().all(|change| change.leaves == change.source && change.source.is_some()));
    assert_eq!(planned.head_changes.len(), 64);
}

#[test]
fn what_is_gone_is_no_source() {
    let mut layout = uniform(6, 2, 4, 1);
    settle(&mut layout);
    for store in [0, 1] {
        layout.members[store].is_there = false;
    }
    let planned = settle(&mut layout);
    let lost = planned.moves.iter().filter(|change| change.source.is_none()).count();
    // Slices of which both replicas were on the two nodes: two moves each.
    assert!(lost > 0 && lost % 2 == 0, "{lost}");
}

#[test]
fn a_loss_is_rebuilt_by_everybody() {
    let mut layout = uniform(12, 3, 30, 4);
    settle(&mut layout);
    for (lost, replicas) in [(Lost::Node(NodeId(7)), 410), (Lost::Store(StoreIndex(50)), 103)] {
        let repaired = plan_loss(&layout, lost).unwrap();
        assert!(repaired.moves.len().abs_diff(replicas) <= 1, "{}", repaired.moves.len());
        assert_eq!(repair(&layout, &repaired, lost), Findings::new());
        assert_eq!(spread(&layout, &repaired), Findings::new());
        let mean = repaired.moves.len() / 29;
        for node in 1..=30 {
            let of = |store: StoreIndex| layout.members[usize::from(store.0)].node == NodeId(node);
            let writes = repaired.moves.iter().filter(|change| of(change.arrives)).count();
            let reads = repaired.moves.iter().filter(|change| change.source.is_some_and(of)).count();
            assert!(writes <= 2 * mean + 1 && reads <= 2 * mean + 2, "node {node}: {reads}, {writes}");
        }
        // Balanced before, so it is nearly balanced afterwards: a plan finds little to do.
        let mut rest = Layout { chains: repaired.chains, ..layout.clone() };
        match lost {
            Lost::Node(node) => set_weight(&mut rest, node.0, 0),
            Lost::Store(store) => rest.members[usize::from(store.0)].weight = 0,
        }
        let planned = plan(&rest).unwrap();
        assert!(planned.moves.len() <= 130, "{lost:?}: {} moves", planned.moves.len());
    }
}

#[test]
fn too_few_domains_are_told() {
    // Two racks for three replicas: distinct nodes, both racks.
    let mut layout = uniform(9, 3, 0, 0);
    for node in 1..=10 {
        add_node(&mut layout, node, Some(node % 2), 2, 100);
    }
    let balance = settle(&mut layout).balance;
    assert_eq!(
        (balance.separation, balance.chain_length, balance.one_domain_slices),
        (Separation::Node, 3, 0)
    );
    // One rack, to which another comes: what moves there leaves nothing behind in one.
    let mut layout = uniform(9, 2, 0, 0);
    (1..=4).for_each(|node| add_node(&mut layout, node, Some(1), 1, 100));
    assert_eq!(settle(&mut layout).balance.one_domain_slices, 512, "one domain");
    (5..=8).for_each(|node| add_node(&mut layout, node, Some(2), 1, 100));
    let planned = settle(&mut layout);
    assert_eq!((planned.balance.separation, planned.balance.one_domain_slices), (Separation::Domain, 0));
    assert_eq!(planned.moves.len(), 512, "one replica of each");
    // Two nodes with three stores each, and then a single store.
    let mut layout = uniform(9, 3, 2, 3);
    let planned = settle(&mut layout);
    assert_eq!((planned.balance.separation, planned.balance.one_domain_slices), (Separation::Store, 0));
    layout.members.truncate(1);
    layout.chains.fill(Vec::new());
    let planned = settle(&mut layout);
    assert_eq!((planned.balance.chain_length, planned.moves.len()), (1, 512));
}

#[test]
fn a_domain_has_one_replica_of_each_slice_at_most() {
    let mut layout = uniform(10, 2, 0, 0);
    add_node(&mut layout, 1, None, 4, 1_000);
    (2..=5).for_each(|node| add_node(&mut layout, node, None, 1, 100));
    let planned = settle(&mut layout);
    let replicas: Vec<u32> = planned.balance.nodes.iter().map(|node| node.replicas).collect();
    assert_eq!((planned.balance.capped, replicas), (1, vec![1_024, 256, 256, 256, 256]));
    assert_eq!(planned.balance.nodes[1].target_thousandths, 256_000);
}

#[test]
fn shorter_chains_only_remove() {
    let mut layout = uniform(10, 3, 8, 1);
    settle(&mut layout);
    layout.chain_length = 2;
    let planned = settle(&mut layout);
    assert!(planned.removals.len() >= 1_024 && planned.moves.len() <= 4, "{} moves", planned.moves.len());
}

#[test]
fn layouts_without_a_plan_are_errors() {
    let check = |change: fn(&mut Layout)| {
        let mut layout = uniform(2, 3, 3, 2);
        change(&mut layout);
        plan(&layout).map(|planned| planned.moves.len())
    };
    assert_eq!(check(|_| ()), Ok(12));
    assert_eq!(check(|layout| layout.chain_length = 0), Err(PlanError::ChainLength(0)));
    assert_eq!(check(|layout| layout.chain_length = 4), Err(PlanError::ChainLength(4)));
    let count = |found, expected| Err(PlanError::ChainCount { found, expected });
    assert_eq!(check(|layout| layout.chains.truncate(3)), count(3, 4));
    assert_eq!(check(|layout| layout.ring_bits = 17), count(4, 0));
    assert_eq!(check(|layout| layout.members[1].rack = Some(Rack(1))), Err(PlanError::TwoRacks(NodeId(1))));
    let member =
        |slice, store| Err(PlanError::ChainMember { slice: SliceIndex(slice), store: StoreIndex(store) });
    assert_eq!(check(|layout| layout.chains[3] = vec![StoreIndex(6)]), member(3, 6));
    assert_eq!(check(|layout| layout.chains[1] = vec![StoreIndex(2); 2]), member(1, 2));
    let long = |layout: &mut Layout| {
        add_node(layout, 4, None, 9, 1);
        layout.chains[2] = (0..9).map(StoreIndex).collect();
    };
    assert_eq!(check(long), member(2, 8));
    let members = |layout: &mut Layout| (10..=300).for_each(|node| add_node(layout, node, None, 256, 1));
    assert_eq!(check(members), Err(PlanError::MemberCount(74_502)));
    assert_eq!(
        check(|layout| add_node(layout, 9, None, 257, 1)),
        Err(PlanError::StoreCount { node: NodeId(9), count: 257 })
    );
    let crowd = |layout: &mut Layout| (4..=1_025).for_each(|node| add_node(layout, node, None, 1, 1));
    assert_eq!(check(crowd), Err(PlanError::NodeCount(1_025)));
    assert_eq!(check(|layout| (1..=3).for_each(|node| set_weight(layout, node, 0))), Err(PlanError::NoStore));
    let layout = uniform(2, 3, 3, 2);
    for lost in [Lost::Store(StoreIndex(6)), Lost::Node(NodeId(4))] {
        assert_eq!(plan_loss(&layout, lost), Err(PlanError::LostUnknown));
    }
}

/// The largest cluster of the design on a smaller ring; where `CATENA_PLACEMENT_SEEDS` is set, on the largest.
#[test]
fn the_largest_ring_is_planned() {
    let (ring_bits, nodes, stores) =
        if std::env::var("CATENA_PLACEMENT_SEEDS").is_ok() { (16, 200, 16) } else { (14, 200, 16) };
    let mut layout = uniform(ring_bits, 3, nodes, stores);
    let planned = settle(&mut layout);
    assert!(planned.balance.node_deviation_max <= 5, "{}", planned.balance.node_deviation_max);
    assert_eq!(declustering(&layout, &planned, 1.5, 2.0), Findings::new());
    add_node(&mut layout, 201, None, stores, 100);
    let planned = settle(&mut layout);
    assert!(planned.moves.len() <= (3 << ring_bits) / 200);
}

/// A plan with room for faults: replicas move, heads change.
fn faultless() -> (Layout, Plan) {
    let mut layout = uniform(9, 3, 10, 2);
    settle(&mut layout);
    set_weight(&mut layout, 1, 0);
    add_node(&mut layout, 11, None, 2, 100);
    let planned = plan(&layout).unwrap();
    assert_eq!(all(&layout, &planned), Findings::new());
    assert_eq!(declustering(&layout, &planned, 2.0, 2.0), Findings::new());
    (layout, planned)
}

#[test]
fn checkers_find_replicas_in_wrong_places() {
    let faults: [fn(&mut Plan); 6] = [
        |plan| plan.chains[7].truncate(2),
        |plan| plan.chains[7][2] = plan.chains[7][1],
        // The other store of the same node.
        |plan| plan.chains[7][2] = StoreIndex(plan.chains[7][1].0 ^ 1),
        // Drained.
        |plan| plan.chains[7][0] = StoreIndex(0),
        |plan| plan.chains[7].push(StoreIndex(4)),
        |plan| plan.chains.truncate(plan.chains.len() - 1),
    ];
    for (index, fault) in faults.into_iter().enumerate() {
        let (layout, mut plan) = faultless();
        fault(&mut plan);
        assert_ne!(validity(&layout, &plan), Findings::new(), "fault {index}");
    }
}

#[test]
fn checkers_find_ways_that_lead_elsewhere() {
    let faults: [fn(&mut Plan); 9] = [
        |plan| plan.moves.truncate(plan.moves.len() - 1),
        |plan| plan.moves.push(plan.moves[0]),
        |plan| plan.moves[3].leaves = None,
        |plan| plan.moves[3].position += 1,
        |plan| plan.moves[3].source = None,
        |plan| plan.moves[3].source = Some(plan.moves[3].arrives),
        |plan| plan.removals.push(Removal { slice: SliceIndex(1), leaves: plan.chains[1][1] }),
        |plan| plan.head_changes.truncate(plan.head_changes.len() - 1),
        |plan| {
            let change = HeadChange { slice: SliceIndex(511), from: StoreIndex(3), to: StoreIndex(4) };
            plan.head_changes.push(change);
        },
    ];
    for (index, fault) in faults.into_iter().enumerate() {
        let (layout, mut plan) = faultless();
        fault(&mut plan);
        assert_ne!(way(&layout, &plan), Findings::new(), "fault {index}");
    }
    let (layout, mut plan) = faultless();
    let still = (0..512).find(|&slice| plan.chains[slice] == layout.chains[slice]).unwrap();
    plan.chains[still].swap(1, 2);
    assert_ne!(way(&layout, &plan), Findings::new(), "an order that changes");
}

#[test]
fn checkers_find_wrong_shares_and_heads() {
    let (layout, mut plan) = faultless();
    // Every replica of one store goes to another one, twice as many as it should have.
    for store in plan.chains.iter_mut().flatten().filter(|store| **store == StoreIndex(5)) {
        *store = StoreIndex(9);
    }
    assert_eq!(shares(&layout, &plan).len(), 6, "two stores, their nodes and those as domains");
    let (layout, mut plan) = faultless();
    for chain in &mut plan.chains {
        chain.sort_unstable();
    }
    assert_ne!(heads(&layout, &plan), Findings::new());
    assert_eq!(shares(&layout, &plan), Findings::new(), "an order changes no share");
}

#[test]
fn checkers_find_replicas_that_stay_together() {
    // Nodes in triples: even shares, and a rebuild that two nodes must do alone.
    let layout = uniform(9, 3, 12, 1);
    let mut plan = plan(&layout).unwrap();
    for (slice, chain) in (0_u16..).zip(&mut plan.chains) {
        let first = slice % 4 * 3;
        *chain = (0..3).map(|member| StoreIndex(first + (slice / 4 + member) % 3)).collect();
    }
    assert_eq!([shares(&layout, &plan), validity(&layout, &plan)].concat(), Findings::new());
    assert_ne!(declustering(&layout, &plan, 2.0, 2.0), Findings::new());
}

#[test]
fn checkers_find_needless_moves_and_wrong_bounds() {
    let (layout, faultless) = faultless();
    let mut plan = faultless.clone();
    plan.moves.extend_from_within(..40);
    assert_ne!(moves(&layout, &plan), Findings::new());
    for bound in [0, faultless.moves_bound + 1] {
        let plan = Plan { moves_bound: bound, ..faultless.clone() };
        assert_ne!(moves(&layout, &plan), Findings::new(), "a bound of {bound}");
    }
}

#[test]
fn checkers_find_repairs_that_do_more_or_less() {
    let mut layout = uniform(9, 3, 10, 2);
    settle(&mut layout);
    let lost = Lost::Node(NodeId(4));
    let repaired = plan_loss(&layout, lost).unwrap();
    assert_eq!([repair(&layout, &repaired, lost), spread(&layout, &repaired)].concat(), Findings::new());
    let untouched = (0..512).find(|&slice| repaired.chains[slice] == layout.chains[slice]).unwrap();
    let mut plan = repaired.clone();
    plan.chains[untouched].swap(0, 1);
    assert_ne!(repair(&layout, &plan, lost), Findings::new(), "a head that needn't change");
    let mut plan = repaired.clone();
    let other = (0..20).map(StoreIndex).find(|store| !plan.chains[untouched].contains(store)).unwrap();
    plan.chains[untouched][2] = other;
    assert_ne!(repair(&layout, &plan, lost), Findings::new(), "a replica that needn't move");
    let mut plan = repaired.clone();
    plan.chains.clone_from(&layout.chains);
    assert_ne!(repair(&layout, &plan, lost), Findings::new(), "nothing done");
    let mut plan = repaired;
    for change in &mut plan.moves {
        change.arrives = StoreIndex(change.arrives.0 % 4);
    }
    assert_ne!(spread(&layout, &plan), Findings::new(), "two nodes take all");
}

#[test]
fn copies_that_are_missing_are_spread_and_nothing_else_moves() {
    let mut layout = uniform(6, 1, 3, 2);
    settle(&mut layout);
    layout.chain_length = 3;
    let planned = plan_missing(&layout).unwrap();
    for (before, after) in layout.chains.iter().zip(&planned.chains) {
        assert_eq!((before[0], after.len()), (after[0], 3), "what is there stays, and leads");
    }
    assert_eq!(planned.moves.len(), 2 * 64);
    assert_eq!(planned.removals, []);
    let mut held = [0; 6];
    for store in planned.chains.iter().flatten() {
        held[usize::from(store.0)] += 1;
    }
    assert!(held.iter().all(|count| (28..=36).contains(count)), "{held:?} of 192 replicas in 6 stores");
    layout.chains = planned.chains;
    assert_eq!(plan_missing(&layout).unwrap().moves, [], "nothing is missing any more");
}
