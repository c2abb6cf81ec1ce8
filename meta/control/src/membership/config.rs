//! Times and bounds of the membership, each with its reason.

use wire::Nanos;

/// A lease, on the clock of the node that has it, from when it sent its heartbeat (R18).
pub(crate) const LEASE: u64 = 2 * Nanos::SECOND;
/// How much faster or slower a clock runs than another: 1 in so many (R18).
const DRIFT_PART: u64 = 100;
/// What is added for the grain of timers (R18).
const LEASE_SLACK: u64 = 100 * Nanos::MILLISECOND;

/// How long a lease may still run after control's last reply, on control's clock: `D(1+ρ)+ε` (R18).
#[must_use]
pub const fn lease_at_control(lease: u64) -> u64 {
    lease + lease / DRIFT_PART + LEASE_SLACK
}

/// Between two rounds that confirm the leadership, at least (R18).
pub(crate) const CONFIRM_INTERVAL: u64 = 250 * Nanos::MILLISECOND;
/// The same while a node waits for its first lease: a start shouldn't take as long as a renewal may.
pub(crate) const CONFIRM_INTERVAL_URGENT: u64 = 10 * Nanos::MILLISECOND;
/// A round that isn't confirmed in this time was lost: another one is begun.
pub(crate) const CONFIRM_PATIENCE: u64 = Nanos::SECOND;
/// A map that was published so long ago must have been installed by whoever it seals something for; who hasn't gets no lease (R18).
///
/// Without such a grace a node that follows a quick series of maps, always one behind, would lose its lease.
pub(crate) const INSTALL_GRACE: u64 = 500 * Nanos::MILLISECOND;
/// Published maps that are remembered for it: more than this in the grace shorten it.
pub(crate) const PUBLISHED_MAX: usize = 128;
/// Between two looks at the clock while leading.
pub(crate) const TICK: u64 = 50 * Nanos::MILLISECOND;
/// Between two looks at chains that wait for somebody or something.
pub(crate) const REPLAN: u64 = 250 * Nanos::MILLISECOND;
/// Between two changes of the map that nobody waits for: nodes have time to follow, and reports gather.
pub(crate) const UNHURRIED: u64 = 100 * Nanos::MILLISECOND;
/// Registrations that wait for a change of the map; more are refused as `Busy` (I13).
pub(crate) const REGISTRATIONS_MAX: usize = 1_024;
/// Commands that wait for one (I13).
pub(crate) const COMMANDS_MAX: usize = 64;
/// Between two evictions of one chain that nothing forced (R6, R11).
pub(crate) const EVICTION_INTERVAL: u64 = 60 * Nanos::SECOND;
/// A link is suspect once it was complained of for so long.
pub(crate) const SUSPICION_DELAY: u64 = Nanos::SECOND;
/// A complaint that isn't repeated is forgotten.
pub(crate) const SUSPICION_TTL: u64 = Nanos::SECOND;
/// How long two members that couldn't reach each other are kept apart at first; twice as long each time.
pub(crate) const HOLD_DOWN_MIN: u64 = 10 * Nanos::SECOND;
/// At most.
pub(crate) const HOLD_DOWN_MAX: u64 = 320 * Nanos::SECOND;
/// A pair that got on for so long after its last hold-down is trusted as at first.
pub(crate) const HOLD_DOWN_MEMORY: u64 = 900 * Nanos::SECOND;
/// Pairs that are remembered (I13); the one that was trusted the longest is forgotten for another.
pub(crate) const LINKS_MAX: usize = 4_096;
/// Heads of a node may differ from its share by this many, or by [`HEADS_PART`] of the share, whichever is more.
pub(crate) const HEADS_SLACK: u64 = 2;
/// See [`HEADS_SLACK`].
pub(crate) const HEADS_PART: u64 = 10;
/// Chains that are reordered in one change for the balance of heads.
pub(crate) const HEADS_BATCH: usize = 64;
/// Between two such changes.
pub(crate) const HEADS_INTERVAL: u64 = 10 * Nanos::SECOND;
/// Copies that the cluster keeps once it has the nodes for it (R41).
pub(crate) const CHAIN_LENGTH_MAX: u8 = 3;
/// Serving members that a chain needs for writes, where it is long enough (R41).
pub(crate) const MIN_IN_SYNC_DEFAULT: u8 = 2;
/// Between two reminders that the voters are not those of the map.
pub(crate) const VOTERS_INTERVAL: u64 = 5 * Nanos::SECOND;

/// What an operator may choose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Config {
    /// How long a group without a serving member waits for all of its seeds, so that the longest log is found (R7).
    pub seed_wait: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self { seed_wait: 30 * Nanos::SECOND }
    }
}
