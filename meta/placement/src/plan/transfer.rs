//! From units that have too much to units that lack, and paths where that takes more than one step.
//!
//! A transfer takes a replica of a slice out of one unit and puts it into another: one move, and each unit comes one closer to its quota. Which
//! slices go: those that lie too close together first, then only replicas whose store and node have too much as well, since others
//! would have to be replaced there by further moves.
//!
//! Where every slice of a full unit is in all lacking units already, or a slice with a missing replica is, a path of transfers does
//! it: `a → b` with one slice, `b → c` with another (augmenting paths of the b-matching). Those that move nothing in sum are
//! tried first: a replica that would arrive anyway arrives elsewhere, or one returns to where it is.

use std::collections::VecDeque;

use super::assign::{Assignment, Place};
use super::mix::{mix, shuffled};
use super::pairs::CROWDED;

/// Which replicas a sweep over a unit's slices may take.
#[derive(Clone, Copy, PartialEq)]
enum Sweep {
    /// Those whose slice returns to where it is still held: nothing moves.
    Return,
    /// Those that lie in one rack, or on one node, with another of their slice, if they get away from it.
    Apart,
    /// Those of stores and nodes that have too much, where units share so much more than they should.
    Exact(f64),
    /// All.
    Any,
}

/// Which transfers a path may be made of.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Allow {
    /// Such that move nothing.
    Free,
    /// Any, but what leaves a unit with too much leaves a store and node with too much.
    Exact,
    /// Any.
    Any,
}

/// One transfer: `slice` leaves `from` for `to`.
#[derive(Clone, Copy)]
struct Step {
    slice: usize,
    from: usize,
    to: usize,
}

impl Assignment<'_> {
    /// Empties units above their quotas and fills those below.
    pub(super) fn transfer(&mut self, stuck: Vec<usize>) {
        self.list();
        let order = shuffled(self.places.len(), self.cluster.salt);
        let exact = CROWDED.iter().map(|&factor| Sweep::Exact(factor));
        for sweep in [Sweep::Return, Sweep::Apart].into_iter().chain(exact).chain([Sweep::Any]) {
            // A slice gives up one replica a round, so that others get their turn.
            while (0..self.counts.len()).any(|unit| self.excess(unit) > 0) {
                let moved = order.iter().filter(|&&slice| self.sweep(slice, sweep)).count();
                if moved == 0 {
                    break;
                }
            }
        }
        self.complete(stuck);
        for unit in 0..self.counts.len() {
            while self.excess(unit) > 0 {
                let path = |allow| self.path(&[unit], allow);
                let steps = [Allow::Free, Allow::Exact, Allow::Any].into_iter().find_map(path);
                self.walk(&steps.expect("full units have paths to those that lack"));
            }
        }
    }

    /// Fills the replicas that are still missing, by paths.
    fn complete(&mut self, stuck: Vec<usize>) {
        for slice in stuck {
            while self.places[slice].len() < self.cluster.chain_length {
                let first = self.choose(slice, |_, _| false).unwrap_or_else(|| self.make_room(slice));
                self.put(slice, first);
            }
        }
    }

    /// Fills what is missing without moving anything that is there: where no free path is, a unit gets more than its quota.
    pub(super) fn complete_freely(&mut self, stuck: Vec<usize>) {
        self.list();
        for slice in stuck {
            while self.places[slice].len() < self.cluster.chain_length {
                let mut open: Vec<usize> =
                    (0..self.counts.len()).filter(|&unit| !self.contains(slice, unit)).collect();
                open.sort_by_key(|&unit| {
                    let weight = self.cluster.units[unit].weight;
                    ((u64::from(self.counts[unit]) << 44) / weight, mix(slice, unit))
                });
                let unit = self.choose(slice, |_, _| false).unwrap_or_else(|| {
                    let steps = self.path(&open, Allow::Free).unwrap_or_default();
                    self.walk(&steps);
                    steps.first().map_or(open[0], |step| step.from)
                });
                self.put(slice, unit);
            }
        }
    }

    /// Walks a path that ends with room for `slice` in a unit, which it returns.
    fn make_room(&mut self, slice: usize) -> usize {
        let mut sources: Vec<usize> =
            (0..self.counts.len()).filter(|&unit| !self.contains(slice, unit)).collect();
        sources.sort_by_key(|&unit| (self.store_left(slice, unit).is_none(), mix(slice, unit)));
        let returns = sources.iter().take_while(|&&unit| self.store_left(slice, unit).is_some()).count();
        let steps = self
            .path(&sources, Allow::Free)
            .or_else(|| self.path(&sources[..returns], Allow::Any))
            .or_else(|| self.path(&sources, Allow::Any))
            .expect("a slice that lacks a replica has a path to a unit that lacks one");
        self.walk(&steps);
        steps[0].from
    }

    /// Notes each unit's slices.
    fn list(&mut self) {
        self.lists = vec![Vec::new(); self.counts.len()];
        for slice in shuffled(self.places.len(), self.cluster.salt) {
            for unit in self.places[slice].iter().filter_map(|place| place.unit) {
                self.lists[unit].push(slice);
            }
        }
    }

    fn excess(&self, unit: usize) -> u32 {
        self.counts[unit].saturating_sub(self.quotas.units[unit])
    }

    /// Moves one replica of `slice` that may go: of several the one whose store has the most to give up. Where only few slices
    /// can take what a unit lacks, that uses each of them for the store that needs it. Returns whether one moved.
    fn sweep(&mut self, slice: usize, sweep: Sweep) -> bool {
        let urgency = |place: &Place| {
            let store = place.kept?;
            let (held, quota) = (self.held.stores[store], self.quotas.stores[store]);
            Some((u64::from(held.saturating_sub(quota)) << 32) / u64::from(held.max(1)))
        };
        let may_go = |place: &&Place| place.unit.is_some_and(|unit| self.excess(unit) > 0);
        let mut places: Vec<Place> = self.places[slice].iter().filter(may_go).copied().collect();
        places.retain(|&place| self.may_go(slice, place, sweep));
        places.sort_by_key(|place| std::cmp::Reverse((urgency(place), place.unit)));
        let transfer = |unit| Some((unit, self.choose_transfer(slice, unit, sweep)?));
        let found = places.into_iter().filter_map(|place| place.unit).find_map(transfer);
        if let Some((from, to)) = found {
            self.take(slice, from);
            self.put(slice, to);
        }
        found.is_some()
    }

    fn may_go(&self, slice: usize, place: Place, sweep: Sweep) -> bool {
        let (Some(unit), Some(store)) = (place.unit, place.kept) else { return sweep == Sweep::Any };
        let is_exact = self.is_exact(store);
        match sweep {
            Sweep::Return => !self.left[slice].is_empty(),
            Sweep::Apart => is_exact && self.wide_conflicts(slice, unit) > 0,
            Sweep::Exact(factor) => {
                let others =
                    self.places[slice].iter().filter_map(|place| place.unit).filter(|&other| other != unit);
                is_exact && self.pairs.is_crowded(unit, others, factor)
            }
            Sweep::Any => true,
        }
    }

    /// Whether a store and its node have too much.
    fn is_exact(&self, store: usize) -> bool {
        let node = self.cluster.stores[store].node;
        self.held.stores[store] > self.quotas.stores[store] && self.held.nodes[node] > self.quotas.nodes[node]
    }

    fn choose_transfer(&self, slice: usize, from: usize, sweep: Sweep) -> Option<usize> {
        let units = &self.cluster.units;
        // What `to` would conflict with once `from` is left.
        let conflicts = |to: usize| {
            self.wide_conflicts(slice, to) - usize::from(to != from && units[to].wide == units[from].wide)
        };
        let now = conflicts(from);
        let suits = |to: usize| match sweep {
            Sweep::Return => self.store_left(slice, to).is_some(),
            Sweep::Apart => conflicts(to) < now,
            Sweep::Exact(_) | Sweep::Any => true,
        };
        let open = (0..self.counts.len())
            .filter(|&to| self.deficit(to) > 0 && !self.contains(slice, to) && suits(to));
        open.min_by_key(|&to| {
            let others =
                self.places[slice].iter().filter_map(|place| place.unit).filter(|&unit| unit != from);
            let is_ahead = self.pace.is_ahead(to, self.deficit(to));
            (conflicts(to), is_ahead, self.pairs.crowding(to, others), mix(slice, to))
        })
    }

    /// The shortest path of transfers from one of `sources` to a unit that lacks a replica.
    fn path(&self, sources: &[usize], allow: Allow) -> Option<Vec<Step>> {
        let mut came_by: Vec<Option<Step>> = vec![None; self.counts.len()];
        let mut unseen: Vec<usize> = (0..self.counts.len()).filter(|unit| !sources.contains(unit)).collect();
        let mut queue: VecDeque<usize> = sources.iter().copied().collect();
        while let Some(from) = queue.pop_front() {
            // What arrived last stands last, and is the likeliest to be free.
            for &slice in self.lists[from].iter().rev() {
                if unseen.is_empty() {
                    break;
                }
                if !self.contains(slice, from) {
                    continue;
                }
                let mut end = None;
                unseen.retain(|&to| {
                    let is_open = !self.contains(slice, to) && self.is_allowed(slice, from, to, allow);
                    if is_open {
                        came_by[to] = Some(Step { slice, from, to });
                        queue.push_back(to);
                        if self.deficit(to) > 0 {
                            end = end.or(Some(to));
                        }
                    }
                    !is_open
                });
                if let Some(end) = end {
                    return Some(backtrack(&came_by, end));
                }
            }
        }
        None
    }

    fn is_allowed(&self, slice: usize, from: usize, to: usize, allow: Allow) -> bool {
        let kept =
            || self.places[slice].iter().find(|place| place.unit == Some(from)).and_then(|place| place.kept);
        match allow {
            Allow::Free => kept().is_none() || self.store_left(slice, to).is_some(),
            Allow::Exact => self.excess(from) == 0 || kept().is_some_and(|store| self.is_exact(store)),
            Allow::Any => true,
        }
    }

    fn walk(&mut self, steps: &[Step]) {
        for step in steps {
            self.take(step.slice, step.from);
            self.put(step.slice, step.to);
        }
    }
}

/// The steps that led to `end`, first step first.
fn backtrack(came_by: &[Option<Step>], end: usize) -> Vec<Step> {
    let mut steps = Vec::new();
    let mut at = end;
    while let Some(step) = came_by[at] {
        steps.push(step);
        at = step.from;
    }
    steps.reverse();
    steps
}
