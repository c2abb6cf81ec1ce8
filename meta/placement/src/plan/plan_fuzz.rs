//! Random clusters that grow, shrink, fail and change their weights: every plan on the way is checked against every rule.
//!
//! A seed is one cluster's life. `CATENA_PLACEMENT_SEEDS` sets how many are run, from 0 on; where it is set, what was measured is printed.

use std::collections::BTreeMap;

use wire::NodeId;

use super::check::{Findings, heads, moves, repair, shares, spread, validity, way};
use super::{Layout, Lost, Member, Plan, Rack, StoreIndex, plan, plan_loss};

/// Test-only randomness from a seed (splitmix64), so that every run can be repeated.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: u32) -> u32 {
        u32::try_from(self.next() % u64::from(bound)).unwrap()
    }

    fn one_in(&mut self, bound: u32) -> bool {
        self.below(bound) == 0
    }
}

/// The worst that was seen, for the report.
#[derive(Debug, Default)]
struct Worst {
    plans: u32,
    moves: usize,
    bound: u32,
    /// Of plans with a bound of at least 100, in thousandths of it.
    ratio_max: usize,
    /// Moves beyond the bound, of plans with a smaller one.
    extra_max: usize,
    /// Plans with more than 10 % and 4 above the bound.
    above: Vec<String>,
    node_deviation_max: u32,
    store_deviation_max: u32,
    head_changes: usize,
    separations: BTreeMap<String, u32>,
}

struct Life {
    seed: u64,
    random: Random,
    layout: Layout,
    next_node: u32,
    racks: u32,
    weights: u32,
    stores: u32,
}

impl Life {
    fn new(seed: u64) -> Self {
        let mut random = Random(seed);
        let chain_length = [1, 2, 3, 3, 3][random.below(5) as usize];
        let ring_bits = [0, 2, 5, 8, 9, 10, 11, 12][random.below(8) as usize];
        let nodes = match random.below(4) {
            0 => 1 + random.below(4),
            1 | 2 => 3 + random.below(20),
            _ => 20 + random.below(181),
        };
        let racks = if random.one_in(2) { 0 } else { 1 + random.below(12) };
        let most = if random.one_in(3) { 16 } else { 4 };
        let stores = 1 + random.below(most);
        let weights = [1, 2, 10, 1_000][random.below(4) as usize];
        let chains = vec![Vec::new(); 1 << ring_bits];
        let layout = Layout { ring_bits, chain_length, members: Vec::new(), chains };
        let mut life = Self { seed, random, layout, next_node: 1, racks, weights, stores };
        for _ in 0..nodes {
            life.add_node();
        }
        life
    }

    fn add_node(&mut self) {
        let node = NodeId(self.next_node);
        self.next_node += 1;
        let is_known = self.racks > 0 && !self.random.one_in(20);
        let rack = is_known.then(|| Rack(self.random.below(self.racks)));
        let stores = if self.random.one_in(4) { 1 + self.random.below(self.stores) } else { self.stores };
        for _ in 0..stores {
            let weight = 1 + self.random.below(self.weights);
            self.layout.members.push(Member { node, rack, weight, is_there: true });
        }
    }

    fn any_node(&mut self) -> NodeId {
        let at = self.random.below(u32::try_from(self.layout.members.len()).unwrap());
        self.layout.members[at as usize].node
    }

    fn change_node(&mut self, change: impl Fn(&mut Member)) {
        let node = self.any_node();
        self.layout.members.iter_mut().filter(|member| member.node == node).for_each(change);
    }

    fn change_store(&mut self, change: impl Fn(&mut Member)) {
        let at = self.random.below(u32::try_from(self.layout.members.len()).unwrap());
        change(&mut self.layout.members[at as usize]);
    }

    /// Something happens; the name of it.
    fn event(&mut self) -> &'static str {
        let event = self.random.below(11);
        match event {
            0 | 1 => {
                self.add_node();
                "a node more"
            }
            2 => {
                let nodes = 1 + self.random.below(self.next_node.min(40));
                (0..nodes).for_each(|_| self.add_node());
                "many nodes more"
            }
            3 => {
                self.change_node(|member| member.weight = 0);
                "a node drained"
            }
            4 => {
                self.change_node(|member| member.is_there = false);
                "a node lost"
            }
            5 => {
                self.change_store(|member| member.is_there = false);
                "a store lost"
            }
            6 => {
                self.change_node(|member| member.weight = member.weight.saturating_mul(3));
                "a node thrice as large"
            }
            7 => {
                let racks = self.racks + 1;
                let rack = Rack(self.random.below(racks));
                self.change_node(|member| member.rack = Some(rack));
                "a node in another rack"
            }
            8 => {
                let holes = 1 + self.random.below(10);
                for _ in 0..holes {
                    let slices = u32::try_from(self.layout.chains.len()).unwrap();
                    let slice = self.random.below(slices) as usize;
                    self.layout.chains[slice].pop();
                }
                "replicas missing"
            }
            9 if self.random.one_in(4) => {
                self.layout.chain_length = 1 + self.layout.chain_length % 3;
                "another chain length"
            }
            _ => {
                let weight = 1 + self.random.below(self.weights * 2);
                self.change_store(|member| member.weight = weight);
                "a store of another size"
            }
        }
    }

    fn run(&mut self, worst: &mut Worst) {
        self.settle("begun", worst);
        for _ in 0..8 {
            let event = self.event();
            if !self.layout.members.iter().any(|member| member.is_there && member.weight > 0) {
                return;
            }
            self.settle(event, worst);
            if self.random.one_in(3) {
                self.lose();
            }
        }
    }

    fn fail(&self, event: &str, findings: &Findings) {
        let shown: Vec<&String> = findings.iter().take(5).collect();
        let count = findings.len();
        assert!(findings.is_empty(), "seed {} ({event}), {count} findings: {shown:#?}", self.seed);
    }

    /// Plans, checks, and goes on from there.
    fn settle(&mut self, event: &str, worst: &mut Worst) {
        let layout = &self.layout;
        let planned = plan(layout).unwrap();
        worst.add(event, &planned, self.seed);
        let findings = [
            validity(layout, &planned),
            way(layout, &planned),
            shares(layout, &planned),
            heads(layout, &planned),
            moves(layout, &planned),
        ];
        self.fail(event, &findings.concat());
        assert!(planned.balance.node_deviation_max <= 50, "seed {}", self.seed);
        if event == "begun" && self.weights == 1 && self.racks == 0 && self.random.one_in(2) {
            assert_eq!(plan(layout).unwrap(), planned, "seed {}: the same layout, the same plan", self.seed);
        }
        self.layout.chains = planned.chains;
        let again = plan(&self.layout).unwrap();
        assert_eq!(again.chains, self.layout.chains, "seed {} ({event}) moves again", self.seed);
        assert!(again.moves.is_empty() && again.removals.is_empty() && again.head_changes.is_empty());
        assert_eq!(again.moves_bound, 0);
    }

    /// Repairs the loss of a store or a node, and forgets it.
    fn lose(&mut self) {
        let at = self.random.below(u32::try_from(self.layout.members.len()).unwrap());
        let member = self.layout.members[at as usize];
        let lost = if self.random.one_in(2) {
            Lost::Node(member.node)
        } else {
            Lost::Store(StoreIndex(u16::try_from(at).unwrap()))
        };
        let Ok(repaired) = plan_loss(&self.layout, lost) else { return };
        let findings = [repair(&self.layout, &repaired, lost), spread(&self.layout, &repaired)];
        self.fail(&format!("{lost:?} repaired"), &findings.concat());
    }
}

impl Worst {
    fn add(&mut self, event: &str, plan: &Plan, seed: u64) {
        let bound = plan.moves_bound as usize;
        self.plans += 1;
        self.moves += plan.moves.len();
        self.bound += plan.moves_bound;
        let count = plan.moves.len();
        if bound >= 100 {
            self.ratio_max = self.ratio_max.max(count * 1_000 / bound);
        } else if !event.contains("length") {
            self.extra_max = self.extra_max.max(count - bound);
        }
        if count > bound + bound / 10 + 4 {
            self.above.push(format!("seed {seed}, {event}: {count} moves of {bound}"));
        }
        self.node_deviation_max = self.node_deviation_max.max(plan.balance.node_deviation_max);
        self.store_deviation_max = self.store_deviation_max.max(plan.balance.store_deviation_max);
        self.head_changes += plan.head_changes.len();
        *self.separations.entry(format!("{:?}", plan.balance.separation)).or_default() += 1;
    }
}

#[test]
fn random_lives_keep_every_rule() {
    let chosen = std::env::var(COUNT_VARIABLE).ok().and_then(|text| text.parse().ok());
    let mut worst = Worst::default();
    for seed in 0..chosen.unwrap_or(SEEDS) {
        Life::new(seed).run(&mut worst);
    }
    if chosen.is_some() {
        println!("{worst:#?}");
    }
}

/// Sets the number of seeds.
const COUNT_VARIABLE: &str = "CATENA_PLACEMENT_SEEDS";
/// Without it: some five seconds.
const SEEDS: u64 = 200;
