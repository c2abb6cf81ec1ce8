//! How fast replicas are brought up to date: bytes a second, fewer while clients wait longer than they should.
//!
//! The rate is halved after each interval in which the mean service time of clients' requests was above its bound, and grows by a quarter after each other one, between two
//! limits: what a link's congestion control does (Chiu and Jain, "Analysis of the increase and decrease algorithms", 1989), at a disk. The lower limit is kept
//! whatever clients see, since a chain that lacks a copy is a danger of its own.

use wire::Nanos;

/// What an operator may set about bringing replicas up to date.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SyncSettings {
    /// Bytes a second, at most; for each of the two directions.
    pub rate_bytes_max: u64,
    /// Bytes a second, however long clients wait.
    pub rate_bytes_min: u64,
    /// Clients' mean service time above which the rate falls.
    pub foreground_nanos_max: u64,
}

impl Default for SyncSettings {
    fn default() -> Self {
        Self {
            rate_bytes_max: 1 << 30,
            rate_bytes_min: 8 << 20,
            foreground_nanos_max: 20 * Nanos::MILLISECOND,
        }
    }
}

/// The rate is looked at this often.
const INTERVAL_NANOS: u64 = 100 * Nanos::MILLISECOND;
/// Bytes that may go at once after a pause, beside one chunk: two of the largest.
const BURST_BYTES: u64 = 8 << 20;
/// Where the rate begins: what a slow disk does beside its clients.
const RATE_BYTES_FIRST: u64 = 64 << 20;

/// See the module.
#[derive(Clone, Debug)]
pub(crate) struct Pace {
    settings: SyncSettings,
    rate_bytes: u64,
    /// Bytes that may go now; below zero after a chunk that was larger.
    left: i64,
    at: Nanos,
    interval_ends: Nanos,
    foreground: (u64, u64),
}

impl Pace {
    pub(crate) fn new(settings: SyncSettings) -> Self {
        let rate_bytes = RATE_BYTES_FIRST.clamp(settings.rate_bytes_min, settings.rate_bytes_max);
        let left = i64::try_from(BURST_BYTES).expect("8 MiB");
        Self { settings, rate_bytes, left, at: Nanos(0), interval_ends: Nanos(0), foreground: (0, 0) }
    }

    /// A client's request took so long here.
    pub(crate) fn note_foreground(&mut self, nanoseconds: u64) {
        self.foreground.0 = self.foreground.0.saturating_add(nanoseconds);
        self.foreground.1 += 1;
    }

    /// Whether bytes may go now; from when on otherwise.
    pub(crate) fn admits(&mut self, now: Nanos) -> Result<(), Nanos> {
        self.advance(now);
        if self.left > 0 {
            return Ok(());
        }
        let missing = self.left.unsigned_abs() + 1;
        let nanos = u128::from(missing) * u128::from(Nanos::SECOND) / u128::from(self.rate_bytes.max(1));
        Err(now.after(u64::try_from(nanos).unwrap_or(u64::MAX).max(Nanos::MILLISECOND)))
    }

    /// So many bytes go.
    pub(crate) fn spend(&mut self, bytes: u64) {
        self.left -= i64::try_from(bytes).expect("a chunk");
    }

    #[cfg(test)]
    pub(crate) fn rate_bytes(&self) -> u64 {
        self.rate_bytes
    }

    fn advance(&mut self, now: Nanos) {
        if now >= self.interval_ends {
            self.interval_ends = now.after(INTERVAL_NANOS);
            let (sum, count) = std::mem::take(&mut self.foreground);
            let mean = sum.checked_div(count).unwrap_or(0);
            self.rate_bytes = if mean > self.settings.foreground_nanos_max {
                self.rate_bytes / 2
            } else {
                self.rate_bytes.saturating_add(self.rate_bytes / 4 + 1)
            };
            self.rate_bytes =
                self.rate_bytes.clamp(self.settings.rate_bytes_min, self.settings.rate_bytes_max);
        }
        let gained = u128::from(now.since(self.at)) * u128::from(self.rate_bytes) / u128::from(Nanos::SECOND);
        let gained = i64::try_from(gained).unwrap_or(i64::MAX);
        if gained > 0 {
            self.at = now;
            self.left = self.left.saturating_add(gained).min(i64::try_from(BURST_BYTES).expect("8 MiB"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn moved(pace: &mut Pace, from: u64, seconds: u64, service_time: u64) -> u64 {
        let mut bytes = 0;
        for millisecond in 0..seconds * 1000 {
            let now = Nanos(from).after(millisecond * Nanos::MILLISECOND);
            pace.note_foreground(service_time);
            while pace.admits(now).is_ok() {
                pace.spend(MIB);
                bytes += MIB;
            }
        }
        bytes
    }

    /// Clients that wait too long have it down to its floor within a second; it is back within two.
    #[test]
    fn the_rate_falls_while_clients_wait_and_comes_back() {
        let settings = SyncSettings { rate_bytes_max: 256 * MIB, ..SyncSettings::default() };
        let mut pace = Pace::new(settings);
        assert!(moved(&mut pace, 0, 4, Nanos::MILLISECOND) > 3 * 200 * MIB);
        assert_eq!(pace.rate_bytes(), 256 * MIB);
        moved(&mut pace, 4 * Nanos::SECOND, 1, 50 * Nanos::MILLISECOND);
        assert_eq!(pace.rate_bytes(), 8 * MIB);
        let floor = moved(&mut pace, 5 * Nanos::SECOND, 10, 50 * Nanos::MILLISECOND);
        assert!((75 * MIB..=90 * MIB).contains(&floor), "{floor}: the floor is kept, and no more");
        moved(&mut pace, 15 * Nanos::SECOND, 2, Nanos::MILLISECOND);
        assert_eq!(pace.rate_bytes(), 256 * MIB);
    }

    #[test]
    fn who_waits_is_told_until_when() {
        let mut pace = Pace::new(SyncSettings::default());
        assert_eq!(pace.admits(Nanos(1)), Ok(()));
        pace.spend(80 * MIB);
        let Err(at) = pace.admits(Nanos(1)) else { panic!("it owes 72 MiB") };
        assert!(pace.admits(Nanos(1).after(50 * Nanos::MILLISECOND)).is_err());
        assert_eq!(pace.admits(at), Ok(()));
    }
}
