//! How long it is worth to look for completions before sleeping.

use wire::Nanos;

/// The time to spin: doubled when it paid, halved when it didn't.
#[derive(Debug)]
pub(crate) struct Spin {
    nanoseconds: u64,
    skipped: u32,
}

/// About what a sleep and a wake-up cost.
const SPIN_MAX: u64 = 30 * Nanos::MICROSECOND;
const SPIN_MIN: u64 = 2 * Nanos::MICROSECOND;
/// After so many sleeps without spinning, it is tried again.
const SPIN_RETRY: u32 = 64;

impl Default for Spin {
    fn default() -> Self {
        Self { nanoseconds: SPIN_MAX, skipped: 0 }
    }
}

impl Spin {
    /// Until when to spin; `None`: it doesn't pay at the moment.
    pub(crate) fn begin(&mut self, now: Nanos) -> Option<Nanos> {
        if self.nanoseconds < SPIN_MIN {
            self.skipped += 1;
            if self.skipped < SPIN_RETRY {
                return None;
            }
            self.nanoseconds = SPIN_MAX;
        }
        self.skipped = 0;
        Some(now.after(self.nanoseconds))
    }

    /// Something came while spinning.
    pub(crate) fn found(&mut self) {
        self.nanoseconds = (self.nanoseconds * 2).min(SPIN_MAX);
    }

    /// Nothing came.
    pub(crate) fn missed(&mut self) {
        self.nanoseconds /= 2;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_gives_up_and_tries_again() {
        let mut spin = Spin::default();
        let mut spins = 0;
        for _ in 0..200 {
            if spin.begin(Nanos(0)).is_some() {
                spins += 1;
                spin.missed();
            }
        }
        assert!((5..30).contains(&spins), "{spins}");
        while spin.begin(Nanos(0)).is_none() {}
        spin.found();
        assert_eq!(spin.begin(Nanos(7)), Some(Nanos(7 + SPIN_MAX)));
    }
}
