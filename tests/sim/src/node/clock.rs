//! A node's monotonic clock: it counts from the machine's start, a little faster or slower than the world's.

use wire::Nanos;

/// See the module. The default one is the world's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct LocalClock {
    /// The world's time when it began.
    since: Nanos,
    /// Parts in a million by which it is faster.
    drift: i64,
}

const MILLION: i128 = 1_000_000;

impl LocalClock {
    /// A clock that is so many parts in a million faster.
    pub(crate) fn drifting(drift: i64) -> Self {
        Self { drift, ..Self::default() }
    }

    /// Its machine starts: it counts from there.
    pub(crate) fn boot(&mut self, now: Nanos) {
        // Never 0: that is before anything.
        self.since = Nanos(now.0.saturating_sub(Nanos::SECOND));
    }

    /// What it shows.
    pub(crate) fn local(&self, now: Nanos) -> Nanos {
        let passed = i128::from(now.since(self.since));
        let shown = passed * (MILLION + i128::from(self.drift)) / MILLION;
        Nanos(u64::try_from(shown).expect("virtual time is short"))
    }

    /// When it shows `local` at first.
    pub(crate) fn global(&self, local: Nanos) -> Nanos {
        if self.drift == 0 {
            return self.since.after(local.0);
        }
        let passed = i128::from(local.0) * MILLION / (MILLION + i128::from(self.drift));
        let mut at = self.since.after(u64::try_from(passed).unwrap_or(u64::MAX / 2));
        while self.local(at) < local {
            at = at.after(1);
        }
        at
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_has_come_when_it_rings() {
        for drift in [-4_900, -1, 0, 1, 4_900] {
            let mut clock = LocalClock::drifting(drift);
            clock.boot(Nanos(5_000_000_000));
            for local in [1_000_000_000, 1_234_567_891, 300_000_000_007] {
                let at = clock.global(Nanos(local));
                assert!(
                    clock.local(at) >= Nanos(local) && clock.local(Nanos(at.0 - 1)) < Nanos(local),
                    "{drift} {local}"
                );
            }
        }
    }
}
