//! The one place of this crate that reads clocks, for rates and for `touch`, and that waits.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use wire::Timestamp;

/// A stopwatch.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stopwatch(Instant);

impl Stopwatch {
    /// Starts now.
    #[expect(
        clippy::disallowed_methods,
        reason = "the command line is the edge: rates are shown to a person"
    )]
    pub(crate) fn start() -> Self {
        Self(Instant::now())
    }

    /// Nanoseconds since the start.
    pub(crate) fn nanoseconds(self) -> u64 {
        u64::try_from(self.0.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }
}

/// Lets time pass before a cluster is asked again how far it is.
#[expect(
    clippy::disallowed_methods,
    reason = "the command line is the edge: what is awaited is in other processes, which tell nobody"
)]
pub(crate) fn pause(time: Duration) {
    std::thread::sleep(time);
}

/// The present time.
#[expect(
    clippy::disallowed_methods,
    reason = "the command line is the edge: `touch` and `find --newer` mean now"
)]
pub(crate) fn now() -> Timestamp {
    timestamp(SystemTime::now())
}

/// A system's time as a timestamp, cut to its range (1677 to 2262).
pub(crate) fn timestamp(time: SystemTime) -> Timestamp {
    let nanoseconds = match time.duration_since(UNIX_EPOCH) {
        Ok(after) => i64::try_from(after.as_nanos()).unwrap_or(i64::MAX),
        Err(before) => {
            i64::try_from(before.duration().as_nanos()).map_or(i64::MIN, |nanoseconds| -nanoseconds)
        }
    };
    Timestamp(nanoseconds)
}

/// A timestamp as the system's time.
pub(crate) fn system_time(time: Timestamp) -> SystemTime {
    let distance = std::time::Duration::from_nanos(time.0.unsigned_abs());
    if time.0 < 0 { UNIX_EPOCH - distance } else { UNIX_EPOCH + distance }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_go_both_ways() {
        for nanoseconds in [0, 1, -1, 1_700_000_000_123_456_789, -1_700_000_000_123_456_789] {
            assert_eq!(timestamp(system_time(Timestamp(nanoseconds))), Timestamp(nanoseconds));
        }
    }
}
