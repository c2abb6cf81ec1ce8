//! The time that entries carry (R16): the wall's, as far as that can be believed.
//!
//! A wall clock is set: by an operator, by NTP after a boot, by a machine that wakes up. The log's time never goes back. So after a step forward and back again it stands in the future,
//! and everything that waits for it, reclaim above all, would wait as long. It goes on at half the speed of the monotonic clock then, until the wall's has caught up: small steps heal
//! soon, and large ones put nothing off by more than twice its time. A step forward makes everything look older than it is. It is noticed, and nothing is dropped until
//! it would have been due without it (R25).

use namespace::next_time;
use wire::{Nanos, Timestamp};

use crate::replica::Now;

/// The year 2200: a clock beyond is wrong, and times of entries have room to rise.
const WALL_MAX: Timestamp = Timestamp(7_258_118_400 * 1_000_000_000);
/// A wall clock that gains or loses more than this against the monotonic one between two looks was set.
const STEP_MIN: u64 = Nanos::SECOND;

/// See the module.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LogClock {
    /// When the last entry was made, or the start.
    entry_at: Nanos,
    /// The last look at both clocks.
    seen: Option<Now>,
}

impl LogClock {
    pub(crate) fn new(now: Nanos) -> Self {
        Self { entry_at: now, seen: None }
    }

    /// The time of an entry made now, after one made at `last`.
    pub(crate) fn time(&self, last: Timestamp, now: Now) -> Timestamp {
        let half = i64::try_from(now.nanos.since(self.entry_at) / 2).unwrap_or(i64::MAX);
        let passed = Timestamp(last.0.saturating_add(half).min(WALL_MAX.0));
        next_time(last, now.wall.min(WALL_MAX).max(passed))
    }

    /// An entry is made.
    pub(crate) fn note_entry(&mut self, now: Nanos) {
        self.entry_at = now;
    }

    /// Looks at both clocks: by how many nanoseconds the wall's was set since the last look, if it was.
    pub(crate) fn step(&mut self, now: Now) -> Option<i64> {
        let seen = self.seen.replace(now)?;
        let passed = i64::try_from(now.nanos.since(seen.nanos)).unwrap_or(i64::MAX);
        let step = now.wall.0.saturating_sub(seen.wall.0).saturating_sub(passed);
        (step.unsigned_abs() > STEP_MIN).then_some(step)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: i64 = 1_000_000_000;

    fn at(seconds: u64, wall: i64) -> Now {
        Now { nanos: Nanos(seconds * Nanos::SECOND), wall: Timestamp(wall.saturating_mul(SECOND)) }
    }

    #[test]
    fn entries_carry_the_walls_time_and_never_go_back() {
        let clock = LogClock::new(Nanos(0));
        for (what, last, now, expected) in [
            ("the wall's", 100, at(10, 200), 200 * SECOND),
            ("behind the log's by little: half as fast", 300, at(10, 299), 305 * SECOND),
            ("caught up", 300, at(10, 306), 306 * SECOND),
            ("far behind", 1_000_000, at(10, 0), 1_000_005 * SECOND),
            ("absurd", 100, at(10, i64::MAX), WALL_MAX.0),
            ("before 1970", 100, at(0, -5), 100 * SECOND + 1),
        ] {
            assert_eq!(clock.time(Timestamp(last * SECOND), now).0, expected, "{what}");
        }
        // A log that an absurd clock has written to goes on.
        assert_eq!(clock.time(Timestamp(i64::MAX), at(10, 5)), Timestamp(i64::MAX));
    }

    #[test]
    fn steps_are_seen_and_drift_is_not() {
        let mut clock = LogClock::new(Nanos(0));
        for (now, expected) in [
            (at(0, 1000), None),
            (at(10, 1010), None),
            (at(20, 1021), None),
            (at(30, 5000), Some(3969)),
            (at(40, 5010), None),
            (at(50, 5000), Some(-20)),
        ] {
            assert_eq!(clock.step(now), expected.map(|seconds: i64| seconds * SECOND), "{now:?}");
        }
    }
}
