//! Beginnings and ends of operations in order of time, as a list from which operations are taken out and put back.

use crate::prepare::Op;

/// A moment in the list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Begin { op: usize },
    End { op: usize },
}

/// The list. Node 0 is its head; what is taken out keeps its neighbours' numbers, and is put back in reverse order.
#[derive(Debug)]
pub(super) struct Events {
    steps: Vec<Step>,
    next: Vec<usize>,
    previous: Vec<usize>,
    /// Of each operation: the nodes of its beginning and end; 0 where it isn't in the list.
    nodes: Vec<(usize, usize)>,
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
        let count = steps.len();
        let next = (1..=count).map(|node| node % count).collect();
        let previous = (0..count).map(|node| (node + count - 1) % count).collect();
        Self { steps, next, previous, nodes }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.next[0] == 0
    }

    /// The moment behind a node's.
    pub(super) fn after(&self, node: usize) -> Option<(Step, usize)> {
        let node = self.next[node];
        (node != 0).then(|| (self.steps[node], node))
    }

    pub(super) fn lift(&mut self, op: usize) {
        let (begin, end) = self.nodes[op];
        self.unlink(begin);
        self.unlink(end);
    }

    pub(super) fn put_back(&mut self, op: usize) {
        let (begin, end) = self.nodes[op];
        self.relink(end);
        self.relink(begin);
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
