//! The virtual clock, and what is going to happen, in order of time and, within one instant, of arrival.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use wire::Nanos;

/// What is going to happen.
#[derive(Debug)]
pub(crate) struct Schedule<T> {
    now: Nanos,
    next: u64,
    waiting: BinaryHeap<Reverse<Waiting<T>>>,
    happened: u64,
    /// When what was given out last was to happen first, and its number.
    last: (Nanos, u64),
}

#[derive(Debug)]
struct Waiting<T> {
    at: Nanos,
    /// When it was to happen before it was postponed.
    due: Nanos,
    number: u64,
    what: T,
}

impl<T> PartialEq for Waiting<T> {
    fn eq(&self, other: &Self) -> bool {
        self.number == other.number
    }
}

impl<T> Eq for Waiting<T> {}

impl<T> PartialOrd for Waiting<T> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl<T> Ord for Waiting<T> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.due, self.number).cmp(&(other.at, other.due, other.number))
    }
}

impl<T> Schedule<T> {
    /// Nothing yet; the clock stands at `now`.
    pub(crate) fn new(now: Nanos) -> Self {
        Self { now, next: 0, waiting: BinaryHeap::new(), happened: 0, last: (now, 0) }
    }

    /// The virtual time.
    pub(crate) fn now(&self) -> Nanos {
        self.now
    }

    /// How much has happened.
    pub(crate) fn happened(&self) -> u64 {
        self.happened
    }

    /// `what` happens at `at`, or now if that is past.
    pub(crate) fn at(&mut self, at: Nanos, what: T) {
        let number = self.next;
        self.next += 1;
        let at = at.max(self.now);
        self.waiting.push(Reverse(Waiting { at, due: at, number, what }));
    }

    /// What was given out last happens at `until` instead, before and behind the same as ever.
    pub(crate) fn postpone(&mut self, until: Nanos, what: T) {
        let (due, number) = self.last;
        self.waiting.push(Reverse(Waiting { at: until, due, number, what }));
    }

    /// `what` happens `nanoseconds` from now.
    pub(crate) fn after(&mut self, nanoseconds: u64, what: T) {
        self.at(self.now.after(nanoseconds), what);
    }

    /// Moves the clock to what happens next, and gives it out.
    pub(crate) fn pop(&mut self) -> Option<T> {
        let Reverse(waiting) = self.waiting.pop()?;
        assert!(waiting.at >= self.now, "time does not go back");
        self.now = waiting.at;
        self.happened += 1;
        self.last = (waiting.due, waiting.number);
        Some(waiting.what)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn things_happen_in_order_of_time_and_then_of_arrival() {
        let mut schedule = Schedule::new(Nanos(5));
        for (at, what) in [(9, 'c'), (7, 'a'), (9, 'd'), (3, 'z'), (7, 'b')] {
            schedule.at(Nanos(at), what);
        }
        let order: Vec<(u64, char)> =
            std::iter::from_fn(|| schedule.pop().map(|what| (schedule.now().0, what))).collect();
        assert_eq!(order, [(5, 'z'), (7, 'a'), (7, 'b'), (9, 'c'), (9, 'd')]);
    }

    /// What had been postponed twice came behind what was postponed once: a payload behind the next frame's head (node seed 920169).
    #[test]
    fn what_is_postponed_keeps_its_place() {
        let mut schedule = Schedule::new(Nanos(0));
        for (at, what) in [(1, 'a'), (2, 'b'), (9, 'c')] {
            schedule.at(Nanos(at), what);
        }
        let mut order = Vec::new();
        // A pause until 3, which at 2 becomes one until 9.
        while let Some(what) = schedule.pop() {
            match schedule.now().0 {
                1 => schedule.postpone(Nanos(3), what),
                2 | 3 => schedule.postpone(Nanos(9), what),
                _ => order.push(what),
            }
        }
        assert_eq!(order, ['a', 'b', 'c']);
    }
}
