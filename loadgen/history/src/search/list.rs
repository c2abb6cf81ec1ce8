//! Beginnings and ends of operations in order of time, as a list from which operations are taken out and put back.

use crate::prepare::Op;

/// A moment in the list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Begin { op: usize },
    End { op: usize },
}

/// A list of nodes from 1 on, between which node 0 is the head. What is taken out keeps its neighbours' numbers, and is put back in reverse order.
#[derive(Debug)]
struct Chain {
    next: Vec<usize>,
    previous: Vec<usize>,
}

impl Chain {
    fn new(nodes: usize) -> Self {
        let count = nodes + 1;
        Self {
            next: (1..=count).map(|node| node % count).collect(),
            previous: (0..count).map(|node| (node + count - 1) % count).collect(),
        }
    }

    fn unlink(&mut self, node: usize) {
        let (next, previous) = (self.next[node], self.previous[node]);
        self.next[previous] = next;
        self.previous[next] = previous;
    }

    fn relink(&mut self, node: usize) {
        let (next, previous) = (self.next[node], self.previous[node]);
        self.next[previous] = node;
        self.previous[next] = node;
    }
}

/// What isn't done: in order of time, and reads by the index behind which they can't be made any more.
#[derive(Debug)]
pub(super) struct Events {
    steps: Vec<Step>,
    times: Chain,
    /// Of each operation: the nodes of its beginning and end; 0 where it isn't in the list.
    nodes: Vec<(usize, usize)>,
    /// The index up to which each read has to be made, lowest first.
    limits: Vec<u64>,
    reads: Chain,
    read_nodes: Vec<usize>,
}

impl Events {
    /// The node before the first moment.
    pub(super) const HEAD: usize = 0;

    /// All operations that are sure.
    pub(super) fn new(ops: &[Op]) -> Self {
        let mut moments: Vec<(u64, bool, usize)> = Vec::with_capacity(2 * ops.len());
        for (place, op) in ops.iter().enumerate().filter(|(_, op)| op.is_sure) {
            // Of one moment, beginnings come first: what may overlap does.
            moments.extend([(op.began, false, place), (op.ended, true, place)]);
        }
        moments.sort_unstable();
        let mut steps = vec![Step::Begin { op: 0 }];
        let mut nodes = vec![(0, 0); ops.len()];
        for (_, is_end, op) in moments {
            let node = steps.len();
            if is_end {
                nodes[op].1 = node;
                steps.push(Step::End { op });
            } else {
                nodes[op].0 = node;
                steps.push(Step::Begin { op });
            }
        }
        let is_read = |(_, op): &(usize, &Op)| op.kind.is_read();
        let limit = |(place, op): (usize, &Op)| (op.index.unwrap_or(op.bounds.high), place);
        let mut reads: Vec<(u64, usize)> = ops.iter().enumerate().filter(is_read).map(limit).collect();
        reads.sort_unstable();
        let mut read_nodes = vec![0; ops.len()];
        for (node, (_, op)) in (1..).zip(&reads) {
            read_nodes[*op] = node;
        }
        Self {
            times: Chain::new(steps.len() - 1),
            steps,
            nodes,
            reads: Chain::new(reads.len()),
            limits: reads.into_iter().map(|(limit, _)| limit).collect(),
            read_nodes,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.times.next[0] == 0
    }

    /// The moment behind a node's, and its node.
    pub(super) fn after(&self, node: usize) -> Option<(Step, usize)> {
        let node = self.times.next[node];
        (node != 0).then(|| (self.steps[node], node))
    }

    /// The highest index that a mutation can have now without some read being too late.
    pub(super) fn index_max(&self) -> u64 {
        self.reads.next[0].checked_sub(1).map_or(u64::MAX, |first| self.limits[first])
    }

    pub(super) fn lift(&mut self, op: usize) {
        let (begin, end) = self.nodes[op];
        self.times.unlink(begin);
        self.times.unlink(end);
        if self.read_nodes[op] != 0 {
            self.reads.unlink(self.read_nodes[op]);
        }
    }

    pub(super) fn put_back(&mut self, op: usize) {
        if self.read_nodes[op] != 0 {
            self.reads.relink(self.read_nodes[op]);
        }
        let (begin, end) = self.nodes[op];
        self.times.relink(end);
        self.times.relink(begin);
    }
}
