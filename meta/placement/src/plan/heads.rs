//! Heads: each slice's writes go to its head, so a node should lead in proportion to its replicas. A change moves no bytes.
//!
//! A node with `r` replicas in chains of `l` should lead `r / l` slices, rounded down or up. That is always possible: giving each slice's
//! members `1 / l` of its head is a fractional flow with just these sums, and a flow with integer bounds has an integer solution.
//! Heads stay where they are as far as that allows; who leads too many hands over to a member with too few, and where no slice is
//! shared with one, along a path of handovers (augmenting paths, breadth first, so shortest).

use std::collections::VecDeque;

use super::cluster::Cluster;
use super::count;
use super::mix::{mix, shuffled};

/// A slice's members in the order of the plan.
pub(super) struct Candidates {
    pub(super) stores: Vec<usize>,
    /// Whether the first of them leads already.
    pub(super) leads: bool,
    /// Otherwise: so many of the first may take over.
    pub(super) eligible: usize,
}

struct Heads<'a> {
    cluster: &'a Cluster,
    slices: &'a [Candidates],
    /// By slice: the head's index among its members.
    chosen: Vec<usize>,
    /// Heads and replicas by node and by store.
    led: Vec<u32>,
    led_stores: Vec<u32>,
    replicas: Vec<u32>,
    replicas_stores: Vec<u32>,
    /// By node: slices that it has led at some time.
    lists: Vec<Vec<usize>>,
}

/// A handover: the head of `slice` becomes its member number `member`.
#[derive(Clone, Copy)]
struct Handover {
    slice: usize,
    member: usize,
}

/// The index of each slice's head among its members. With `may_change` heads that stay in their chain may hand over, too.
pub(super) fn choose_heads(cluster: &Cluster, slices: &[Candidates], may_change: bool) -> Vec<usize> {
    let mut heads = Heads {
        cluster,
        slices,
        chosen: vec![0; slices.len()],
        led: vec![0; cluster.nodes.len()],
        led_stores: vec![0; cluster.stores.len()],
        replicas: vec![0; cluster.nodes.len()],
        replicas_stores: vec![0; cluster.stores.len()],
        lists: vec![Vec::new(); cluster.nodes.len()],
    };
    heads.begin();
    if may_change {
        heads.hand_over();
        heads.search();
    }
    heads.chosen
}

impl Heads<'_> {
    /// Heads that stay, and for all other slices who leads least among those that may.
    fn begin(&mut self) {
        for &store in self.slices.iter().flat_map(|slice| &slice.stores) {
            self.replicas[self.cluster.stores[store].node] += 1;
            self.replicas_stores[store] += 1;
        }
        let order = shuffled(self.slices.len(), self.cluster.salt);
        for &slice in order.iter().filter(|&&slice| self.slices[slice].leads) {
            self.lead(slice, 0);
        }
        for &slice in order.iter().filter(|&&slice| !self.slices[slice].leads) {
            let Candidates { stores, eligible, .. } = &self.slices[slice];
            let key = |&member: &usize| {
                let store = stores[member];
                let node = self.cluster.stores[store].node;
                let part = |led: u32, replicas: u32| (u64::from(led) << 32) / u64::from(replicas.max(1));
                let of_node = part(self.led[node], self.replicas[node]);
                (of_node, part(self.led_stores[store], self.replicas_stores[store]), mix(slice, store))
            };
            if let Some(member) = (0..*eligible).min_by_key(key) {
                self.lead(slice, member);
            }
        }
    }

    /// `slice`'s member number `member` leads it from now on.
    fn lead(&mut self, slice: usize, member: usize) {
        let store = self.slices[slice].stores[member];
        let node = self.cluster.stores[store].node;
        self.chosen[slice] = member;
        self.led[node] += 1;
        self.led_stores[store] += 1;
        self.lists[node].push(slice);
    }

    fn change(&mut self, handover: Handover) {
        let store = self.slices[handover.slice].stores[self.chosen[handover.slice]];
        self.led[self.cluster.stores[store].node] -= 1;
        self.led_stores[store] -= 1;
        self.lead(handover.slice, handover.member);
    }

    fn head_store(&self, slice: usize) -> Option<usize> {
        self.slices[slice].stores.get(self.chosen[slice]).copied()
    }

    fn is_led_by(&self, slice: usize, node: usize) -> bool {
        self.head_store(slice).is_some_and(|store| self.cluster.stores[store].node == node)
    }

    /// The number of slices that `node` should lead, rounded down and up.
    fn bounds(&self, node: usize) -> (u32, u32) {
        let length = count(self.cluster.chain_length);
        (self.replicas[node] / length, self.replicas[node].div_ceil(length))
    }

    /// Whether the head's store leads more than its part of the node's slices.
    fn store_leads_much(&self, slice: usize) -> bool {
        let length = count(self.cluster.chain_length);
        self.head_store(slice)
            .is_some_and(|store| self.led_stores[store] > self.replicas_stores[store].div_ceil(length))
    }

    /// Direct handovers: from who leads too many to who leads too few, then to who could lead one more; then from whoever can
    /// spare one to who still leads too few. Stores that lead much hand over first.
    fn hand_over(&mut self) {
        let order = shuffled(self.slices.len(), self.cluster.salt);
        for (is_surplus, is_lack, of_busy) in [
            (true, true, true),
            (true, true, false),
            (true, false, true),
            (true, false, false),
            (false, true, true),
            (false, true, false),
        ] {
            for &slice in &order {
                let Some(head) = self.head_store(slice) else { continue };
                let node = self.cluster.stores[head].node;
                let (least, most) = self.bounds(node);
                let limit = if is_surplus { most } else { least };
                if self.led[node] <= limit || of_busy && !self.store_leads_much(slice) {
                    continue;
                }
                let takes = |&member: &usize| {
                    let node = self.cluster.stores[self.slices[slice].stores[member]].node;
                    let (least, most) = self.bounds(node);
                    self.led[node] < if is_lack { least } else { most }
                };
                // Of two, one that has the bytes.
                let member = (0..self.slices[slice].stores.len()).find(takes);
                if let Some(member) = member {
                    self.change(Handover { slice, member });
                }
            }
        }
    }

    /// What no direct handover could even out.
    fn search(&mut self) {
        for node in 0..self.led.len() {
            while self.led[node] > self.bounds(node).1 {
                let path = self.path(&[node], |heads, node| heads.led[node] < heads.bounds(node).1);
                self.walk(&path.expect("heads have a balanced solution"));
            }
        }
        for node in 0..self.led.len() {
            while self.led[node] < self.bounds(node).0 {
                let sources: Vec<usize> =
                    (0..self.led.len()).filter(|&node| self.led[node] > self.bounds(node).0).collect();
                let path = self.path(&sources, |_, found| found == node);
                self.walk(&path.expect("heads have a balanced solution"));
            }
        }
    }

    /// The shortest path of handovers from one of `sources` to a node that `is_end`.
    fn path(
        &self,
        sources: &[usize],
        is_end: impl Fn(&Self, usize) -> bool,
    ) -> Option<Vec<(usize, Handover)>> {
        let mut came_by: Vec<Option<(usize, Handover)>> = vec![None; self.led.len()];
        let mut seen = vec![false; self.led.len()];
        let mut queue: VecDeque<usize> = sources.iter().copied().collect();
        for &source in sources {
            seen[source] = true;
        }
        while let Some(from) = queue.pop_front() {
            for &slice in self.lists[from].iter().filter(|&&slice| self.is_led_by(slice, from)) {
                for (member, &store) in self.slices[slice].stores.iter().enumerate() {
                    let node = self.cluster.stores[store].node;
                    if !seen[node] {
                        seen[node] = true;
                        came_by[node] = Some((from, Handover { slice, member }));
                        if is_end(self, node) {
                            return Some(backtrack(&came_by, node));
                        }
                        queue.push_back(node);
                    }
                }
            }
        }
        None
    }

    fn walk(&mut self, path: &[(usize, Handover)]) {
        for &(_, handover) in path {
            self.change(handover);
        }
    }
}

/// The handovers that led to `end`, the last first: none of two of one slice, so their order doesn't matter.
fn backtrack(came_by: &[Option<(usize, Handover)>], end: usize) -> Vec<(usize, Handover)> {
    let mut steps = Vec::new();
    let mut at = end;
    while let Some((from, handover)) = came_by[at] {
        steps.push((from, handover));
        at = from;
    }
    steps
}
