//! When a batch is worth its flush: group commit that waits where waiting pays.
//!
//! A batch costs the disk a write and a flush, and the core whatever wakes for them, however little is in it. Sealed as soon as nothing is in flight, it holds
//! what came meanwhile, and misses what its predecessor's callers, just answered, are about to ask: of two generations of callers each waits for the other's
//! flush. So a batch waits for as many operations as its predecessor had together with those that had gathered behind it, and no longer than batches take
//! to become durable. Nobody waits who is alone: behind a batch of one with nothing gathered, one is what is expected.

use wire::Nanos;

/// Waiting for more takes no longer, however slow the disk is.
const PATIENCE_MAX: u64 = 2 * Nanos::MILLISECOND;
/// A batch's time counts for one of so many parts of the average.
const LATENCY_WEIGHT: u64 = 8;

/// See the module.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Gather {
    /// The last batch, and its operations.
    sequence: u64,
    sealed: u64,
    sealed_at: Nanos,
    /// How long batches take from sealing to durable, on average.
    latency: u64,
    /// Operations that are worth a batch at once.
    expected: u64,
    /// When the next batch could have been sealed.
    since: Option<Nanos>,
}

impl Gather {
    /// A batch of so many operations is sealed; an idle owner's empty one has none, so that whoever comes next is alone.
    pub fn on_sealed(&mut self, now: Nanos, sequence: u64, operations: u64) {
        self.sequence = sequence;
        self.sealed = operations;
        self.sealed_at = now;
        self.since = None;
    }

    /// Batches up to this one are durable, and so many operations wait.
    pub fn on_durable(&mut self, now: Nanos, sequence: u64, waiting: u64) {
        if sequence != self.sequence {
            // Another one is in flight behind it: what waits goes with that one's end.
            return;
        }
        let took = now.since(self.sealed_at);
        let known = if self.latency == 0 { took } else { self.latency };
        self.latency = (known * (LATENCY_WEIGHT - 1) + took) / LATENCY_WEIGHT;
        self.expected = self.sealed + waiting;
    }

    /// Whether what waits is to be sealed now; nothing is in flight.
    pub fn is_due(&mut self, now: Nanos, waiting: u64) -> bool {
        let since = *self.since.get_or_insert(now);
        waiting >= self.expected || now.since(since) >= self.patience()
    }

    /// When it is due at the latest, if [`is_due`](Self::is_due) has said no since the last batch.
    pub fn deadline(&self) -> Option<Nanos> {
        self.since.map(|since| since.after(self.patience()))
    }

    fn patience(&self) -> u64 {
        self.latency.min(PATIENCE_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FLUSH: u64 = 100 * Nanos::MICROSECOND;

    /// A closed loop of `callers`, each back `pause` after its answer; returns the batches' sizes.
    fn closed_loop(callers: u64, pause: u64, rounds: usize) -> Vec<u64> {
        let mut gather = Gather::default();
        let mut arrivals: Vec<Nanos> = (0..callers).map(Nanos).collect();
        let (mut now, mut sizes) = (Nanos(0), Vec::new());
        while sizes.len() < rounds {
            let arrived = |now: Nanos| arrivals.iter().filter(|at| **at <= now).count() as u64;
            let waiting = arrived(now);
            if waiting == 0 || !gather.is_due(now, waiting) {
                let next = arrivals.iter().copied().filter(|at| *at > now).min();
                let deadline = gather.deadline().filter(|_| waiting > 0);
                now = next.into_iter().chain(deadline).min().expect("somebody comes");
                continue;
            }
            gather.on_sealed(now, sizes.len() as u64, waiting);
            let answered = now.after(FLUSH);
            for at in arrivals.iter_mut().filter(|at| **at <= now) {
                *at = answered.after(pause);
            }
            now = answered;
            let waiting = arrivals.iter().filter(|at| **at <= now).count() as u64;
            gather.on_durable(now, sizes.len() as u64, waiting);
            sizes.push(gather.sealed);
        }
        sizes
    }

    #[test]
    fn one_caller_alone_never_waits() {
        let mut gather = Gather::default();
        for round in 0..20 {
            let now = Nanos(round * Nanos::MILLISECOND);
            assert!(gather.is_due(now, 1), "round {round}");
            gather.on_sealed(now, round, 1);
            gather.on_durable(now.after(FLUSH), round, 0);
        }
    }

    #[test]
    fn callers_who_come_back_at_once_share_a_batch() {
        // Without waiting they would split into those who came first and all others, for ever.
        let sizes = closed_loop(32, 20 * Nanos::MICROSECOND, 40);
        assert_eq!(sizes[20..], [32; 20]);
    }

    #[test]
    fn who_waits_in_vain_waits_no_longer_than_a_flush_and_only_once() {
        let mut gather = Gather::default();
        gather.on_sealed(Nanos(0), 1, 8);
        gather.on_durable(Nanos(FLUSH), 1, 0);
        // Seven of the eight have left.
        assert!(!gather.is_due(Nanos(FLUSH), 1));
        let deadline = gather.deadline().expect("it waits");
        assert_eq!(deadline, Nanos(2 * FLUSH));
        assert!(!gather.is_due(Nanos(2 * FLUSH - 1), 1));
        assert!(gather.is_due(deadline, 1));
        gather.on_sealed(deadline, 2, 1);
        assert_eq!(gather.deadline(), None);
        gather.on_durable(deadline.after(FLUSH), 2, 0);
        assert!(gather.is_due(deadline.after(FLUSH), 1), "one is expected now");
    }

    /// The empty batch of an idle owner was taken for the last one's end, 50 ms late: whoever came next waited for 2 ms.
    #[test]
    fn idleness_makes_nobody_wait() {
        let mut gather = Gather::default();
        gather.on_sealed(Nanos(0), 1, 8);
        gather.on_durable(Nanos(FLUSH), 1, 0);
        let idle = Nanos(50 * Nanos::MILLISECOND);
        gather.on_sealed(idle, 2, 0);
        gather.on_durable(idle.after(FLUSH), 2, 0);
        assert!(gather.is_due(idle.after(FLUSH), 1));
        assert_eq!(gather.patience(), FLUSH);
    }

    #[test]
    fn the_end_of_an_earlier_batch_tells_nothing_of_the_last() {
        let mut gather = Gather::default();
        gather.on_sealed(Nanos(0), 1, 8);
        gather.on_sealed(Nanos(FLUSH - 1), 2, 3);
        gather.on_durable(Nanos(FLUSH), 1, 5);
        assert_eq!((gather.latency, gather.expected), (0, 0));
        gather.on_durable(Nanos(2 * FLUSH - 1), 2, 5);
        assert_eq!((gather.latency, gather.expected), (FLUSH, 8));
    }

    #[test]
    fn a_slow_disk_makes_nobody_wait_for_long() {
        let mut gather = Gather::default();
        gather.on_sealed(Nanos(0), 1, 8);
        let now = Nanos(Nanos::SECOND);
        gather.on_durable(now, 1, 1);
        assert!(!gather.is_due(now, 1));
        assert_eq!(gather.deadline(), Some(now.after(PATIENCE_MAX)));
    }
}
