//! Time as an input. Pure code never reads a clock; the driver passes one of these two in.

/// A point on the driver's monotonic clock (`CLOCK_BOOTTIME`), in nanoseconds. Comparable inside one process only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Nanos(pub u64);

impl Nanos {
    /// One microsecond.
    pub const MICROSECOND: u64 = 1_000;
    /// One millisecond.
    pub const MILLISECOND: u64 = 1_000_000;
    /// One second.
    pub const SECOND: u64 = 1_000_000_000;

    /// This point `nanoseconds` later; the clock's end (584 years) is never reached.
    #[must_use]
    pub fn after(self, nanoseconds: u64) -> Self {
        Self(self.0.saturating_add(nanoseconds))
    }

    /// Nanoseconds from `earlier` to this point, 0 when `earlier` is later.
    pub fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// Wall-clock time: nanoseconds since 1970-01-01 UTC, before it negative. Shown to people and kept with files; never
/// used to order anything.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(pub i64);
