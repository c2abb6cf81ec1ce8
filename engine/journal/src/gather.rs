//! When a batch is worth its flush: group commit that waits where waiting pays.
//!
//! A batch costs the disk a write and a flush, and the core whatever wakes for them, however little is in it. Sealed as soon as nothing is in flight, it holds
//! what came meanwhile, and misses what its predecessor's callers, just answered, are about to ask: of two generations of callers each waits for the other's
//! flush. So a batch waits for as many operations as its predecessor had together with those that had gathered behind it, and no longer than batches take
//! to become durable. Nobody waits who is alone: behind a batch of one with nothing gathered, one is what is expected.
//!
//! Callers who ask two owners in turn, a store for the chunk and a log for its name, may be a crowd that stays parted: while one half is here, the other is
//! there. Only a longer wait can tell. So one of the two owners, the store, now and then makes a trial: behind a batch of many, the next waits for
//! twice as many, four times as long. If they come, they are a crowd that is waited for from then on, as long as it does come: batches with all of it raise the trust
//! in it, others lower it faster. Trials that came to nothing become rare.

use wire::Nanos;

/// Waiting for more takes no longer, however slow the disk is.
const PATIENCE_MAX: u64 = 2 * Nanos::MILLISECOND;
/// A batch's time counts for one of so many parts of the average.
const LATENCY_WEIGHT: u64 = 8;
/// A trial is worth its wait behind a batch of so many.
const TRIAL_SEALED_MIN: u64 = 8;
/// Patience in a trial and for a crowd, in times of a batch.
const CROWD_PATIENCE: u64 = 4;
/// A crowd of which more than one of so many parts is missing hasn't come. (Those who come by chance are a sixth fewer than expected.)
const STRAGGLERS: u64 = 8;
/// Trust in a crowd: at first, of one that the trial was right about, at most, and what one batch without it takes away.
const TRUST_FIRST: u32 = 16;
const TRUST_EARNED: u32 = 32;
const TRUST_MAX: u32 = 64;
const TRUST_LOST: u32 = 8;
/// Batches between two trials: behind a crowd that came, and at most.
const TRIAL_INTERVAL_MIN: u32 = 64;
const TRIAL_INTERVAL_MAX: u32 = 2048;

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
    crowds: Option<Crowds>,
}

/// What trials have found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Crowds {
    /// A crowd's size; it is one while there is trust in it.
    size: u64,
    trust: u32,
    /// The last trial was right.
    came: bool,
    /// Batches until the next trial, which is at 0.
    trial_in: u32,
    interval: u32,
}

impl Crowds {
    const NEW: Self =
        Self { size: 0, trust: 0, came: false, trial_in: TRIAL_INTERVAL_MIN, interval: TRIAL_INTERVAL_MIN };

    /// A batch of so many operations is sealed; its predecessor had so many.
    fn on_sealed(&mut self, operations: u64, before: u64) {
        if self.trust > 0 {
            if operations >= self.most() {
                self.trust = (self.trust + 1).min(TRUST_MAX);
                self.came |= self.trust >= TRUST_EARNED;
            } else {
                let lost = if 4 * operations < self.size { TRUST_MAX } else { TRUST_LOST };
                self.trust = self.trust.saturating_sub(lost);
                if self.trust == 0 {
                    self.plan_trial();
                }
            }
        } else if self.trial_in > 0 {
            self.trial_in -= 1;
        } else if before >= TRIAL_SEALED_MIN {
            self.came = false;
            // Half as many again: not just one who came late.
            if 2 * operations >= 3 * before {
                (self.size, self.trust) = (operations, TRUST_FIRST);
            } else {
                self.plan_trial();
            }
        }
    }

    fn plan_trial(&mut self) {
        let longer = (2 * self.interval).min(TRIAL_INTERVAL_MAX);
        self.interval = if self.came { TRIAL_INTERVAL_MIN } else { longer };
        self.trial_in = self.interval;
    }

    /// So many operations were the last batch and those that have gathered behind it.
    fn on_durable(&mut self, seen: u64) {
        if self.trust > 0 && seen >= self.most() {
            self.size = seen;
        }
    }

    /// The crowd without its stragglers.
    fn most(&self) -> u64 {
        self.size - self.size / STRAGGLERS
    }
}

impl Gather {
    /// For the owner that tries to bring crowds together. If the other one did so as well, each would have one half and wait for the other's.
    pub fn with_trials() -> Self {
        Self { crowds: Some(Crowds::NEW), ..Self::default() }
    }

    /// A batch of so many operations is sealed; an idle owner's empty one has none, so that whoever comes next is alone.
    pub fn on_sealed(&mut self, now: Nanos, sequence: u64, operations: u64) {
        if let Some(crowds) = &mut self.crowds {
            crowds.on_sealed(operations, self.sealed);
        }
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
        if let Some(crowds) = &mut self.crowds {
            crowds.on_durable(self.expected);
        }
    }

    /// Whether what waits is to be sealed now; nothing is in flight.
    pub fn is_due(&mut self, now: Nanos, waiting: u64) -> bool {
        let since = *self.since.get_or_insert(now);
        let (worth, _) = self.aim();
        waiting >= worth || now.since(since) >= self.patience()
    }

    /// When it is due at the latest, if [`is_due`](Self::is_due) has said no since the last batch.
    pub fn deadline(&self) -> Option<Nanos> {
        self.since.map(|since| since.after(self.patience()))
    }

    fn patience(&self) -> u64 {
        let (_, times) = self.aim();
        (times * self.latency).min(PATIENCE_MAX)
    }

    /// Operations that are worth a batch at once, and the patience for them in times of a batch.
    fn aim(&self) -> (u64, u64) {
        match self.crowds {
            Some(crowds) if crowds.trust > 0 => (crowds.size, CROWD_PATIENCE),
            Some(crowds) if crowds.trial_in == 0 && self.sealed >= TRIAL_SEALED_MIN => {
                (self.expected.max(2 * self.sealed), CROWD_PATIENCE)
            }
            _ => (self.expected, 1),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FLUSH: u64 = 100 * Nanos::MICROSECOND;

    /// A log's and a store's.
    fn both() -> [Gather; 2] {
        [Gather::default(), Gather::with_trials()]
    }

    /// A closed loop of `callers`, each back `pause` after its answer; returns the batches' sizes.
    fn closed_loop(mut gather: Gather, callers: u64, pause: u64, rounds: usize) -> Vec<u64> {
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
        for mut gather in both() {
            for round in 0..200 {
                let now = Nanos(round * Nanos::MILLISECOND);
                assert!(gather.is_due(now, 1), "round {round}");
                gather.on_sealed(now, round, 1);
                gather.on_durable(now.after(FLUSH), round, 0);
            }
        }
    }

    #[test]
    fn callers_who_come_back_at_once_share_a_batch() {
        // Without waiting they would split into those who came first and all others, for ever.
        for gather in both() {
            let sizes = closed_loop(gather, 32, 20 * Nanos::MICROSECOND, 40);
            assert_eq!(sizes[20..], [32; 20]);
        }
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

    /// Callers who ask a store and then a log, for ever: `crowds` of them that begin `apart`. Returns the sizes of the store's batches.
    fn two_owners(crowds: u64, callers: u64, apart: u64, batches: usize) -> Vec<u64> {
        const WORK: u64 = 2 * Nanos::MICROSECOND;
        let mut gathers = [Gather::with_trials(), Gather::default()];
        // When each caller comes, and to whom; the batch that each owner has in flight: its callers, and when it is durable.
        let all = (0..crowds).flat_map(|crowd| (0..callers).map(move |caller| (crowd, caller)));
        let mut coming: Vec<(Nanos, usize)> =
            all.map(|(crowd, caller)| (Nanos(crowd * apart + caller * WORK), 0)).collect();
        let mut flying: [Option<(Nanos, Vec<usize>)>; 2] = [None, None];
        let (mut now, mut sizes, mut sequence) = (Nanos(0), Vec::new(), 0);
        while sizes.len() < batches {
            for owner in 0..2 {
                let arrived = |coming: &[(Nanos, usize)], now| -> Vec<usize> {
                    (0..coming.len()).filter(|&at| coming[at].1 == owner && coming[at].0 <= now).collect()
                };
                if let Some((_, callers)) = flying[owner].take_if(|(at, _)| *at <= now) {
                    for (number, caller) in callers.into_iter().enumerate() {
                        coming[caller] = (now.after((number as u64 + 1) * WORK), 1 - owner);
                    }
                    let waiting = arrived(&coming, now).len() as u64;
                    gathers[owner].on_durable(now, gathers[owner].sequence, waiting);
                }
                let waiting = arrived(&coming, now);
                let count = waiting.len() as u64;
                if flying[owner].is_some() || count == 0 || !gathers[owner].is_due(now, count) {
                    continue;
                }
                sequence += 1;
                gathers[owner].on_sealed(now, sequence, count);
                if owner == 0 {
                    sizes.push(count);
                }
                for &caller in &waiting {
                    coming[caller].0 = Nanos(u64::MAX);
                }
                flying[owner] = Some((now.after(FLUSH), waiting));
            }
            let comes = coming.iter().map(|(at, _)| *at);
            let ends = flying.iter().flatten().map(|(at, _)| *at);
            let due = gathers.iter().filter_map(Gather::deadline);
            now = comes.chain(ends).chain(due).filter(|at| *at > now).min().expect("callers never leave");
        }
        sizes
    }

    #[test]
    fn crowds_that_ask_two_owners_in_turn_meet_and_stay_together() {
        let sizes = two_owners(2, 32, 3 * FLUSH / 2, 400);
        assert_eq!(sizes[4..12], [32; 8], "they are apart at first");
        for callers in [8, 32, 50] {
            for apart in [FLUSH, 3 * FLUSH / 2, 2 * FLUSH] {
                let sizes = two_owners(2, callers, apart, 400);
                assert_eq!(
                    sizes[200..],
                    [2 * callers; 200],
                    "crowds of {callers} that come {apart} ns apart"
                );
            }
        }
    }

    /// How often, and how long at most, batches of `callers` wait that follow a crowd of 64.
    fn behind_a_crowd(callers: u64) -> (usize, u64) {
        let mut gather = Gather::with_trials();
        gather.crowds = Some(Crowds { size: 64, trust: TRUST_MAX, ..Crowds::NEW });
        (gather.sealed, gather.expected, gather.latency) = (64, 64, FLUSH);
        let (mut now, mut waits) = (Nanos(Nanos::SECOND), Vec::new());
        for sequence in 1..40 {
            let from = now;
            if !gather.is_due(now, callers) {
                now = gather.deadline().expect("it waits");
                assert!(gather.is_due(now, callers));
            }
            waits.push(now.since(from));
            gather.on_sealed(now, sequence, callers);
            now = now.after(FLUSH);
            gather.on_durable(now, sequence, 0);
        }
        (waits.iter().filter(|wait| **wait > 0).count(), waits.iter().copied().max().expect("some"))
    }

    #[test]
    fn who_is_left_of_a_crowd_waits_once_and_a_smaller_crowd_a_few_times() {
        assert_eq!(behind_a_crowd(1), (1, CROWD_PATIENCE * FLUSH));
        assert_eq!(behind_a_crowd(15), (1, CROWD_PATIENCE * FLUSH));
        assert_eq!(behind_a_crowd(20), (8, CROWD_PATIENCE * FLUSH));
    }

    #[test]
    fn who_comes_by_chance_seldom_waits_for_a_crowd() {
        // Twenty operations in the time of a flush, whatever is answered: waiting longer always finds more, and never pays.
        let mut gather = Gather::with_trials();
        let (mut now, mut taken, mut longer) = (Nanos(0), 0, 0);
        let arrived = |now: Nanos| now.0 / (FLUSH / 20);
        for sequence in 0..10_000 {
            let from = now;
            while !gather.is_due(now, arrived(now) - taken) {
                let next = Nanos((arrived(now) + 1) * FLUSH / 20);
                now = gather.deadline().map_or(next, |due| due.min(next));
            }
            longer += u64::from(now.since(from) > FLUSH);
            gather.on_sealed(now, sequence, arrived(now) - taken);
            taken = arrived(now);
            now = now.after(FLUSH);
            gather.on_durable(now, sequence, arrived(now) - taken);
        }
        assert!((10..=40).contains(&longer), "{longer} of 10,000 batches waited for longer than a flush");
    }
}
