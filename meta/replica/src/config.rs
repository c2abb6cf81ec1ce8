//! What a replica is told when it starts, and the limits that it keeps.

use wire::{GroupId, Nanos, StoreId};

use crate::own_log::LOG_RECORD_OVERHEAD;

/// Settings of a replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplicaConfig {
    /// Its group.
    pub group: GroupId,
    /// The group's generation in the cluster map; a higher one than the log's closes every session (R20).
    pub generation: u16,
    /// A session expires when nothing is heard of it for so many nanoseconds.
    pub session_ttl: u64,
    /// Clients send a keepalive at least this often, in nanoseconds.
    pub keepalive: u64,
    /// Nanoseconds between a chunk's last reference and its reclaim (R25); 1 s to 7 d.
    pub reclaim_delay: u64,
    /// A pin ends when it isn't repeated for so many nanoseconds (R25).
    pub pin_ttl: u64,
    /// A pin ends after so many nanoseconds in any case (R25).
    pub pin_max: u64,
    /// Bytes of memory that the group may use (R17).
    pub memory_budget: u64,
    /// A checkpoint begins when the log has grown by so many bytes since the last one.
    pub checkpoint_log_bytes: u64,
    /// Bytes of a checkpoint's page, about.
    pub checkpoint_page_bytes: usize,
    /// Stores whose inventories the orphan pass asks for, numbered from 0, until [`Replica::set_inventory_sources`](crate::Replica::set_inventory_sources) says which.
    pub inventory_sources: u16,
    /// Nanoseconds between two orphan passes.
    pub orphan_interval: u64,
    /// Nanoseconds between two rounds of upkeep (expiry, horizon, reclaim).
    pub upkeep_interval: u64,
    /// A deletion that isn't acknowledged is sent again after so many nanoseconds (R24).
    pub delete_resend: u64,
    /// Bytes of one entry, at most: what the log under the replica takes, but for what a record adds to it.
    pub entry_bytes_max: usize,
    /// The member's own store: it does nothing until it is told its chain. `None`: the only replica there ever is.
    pub store: Option<StoreId>,
    /// Bytes of recent entries that are kept in memory for members that come back; beyond them an image is made.
    pub recent_bytes: u64,
    /// Bytes of entries, and of an image's piece, in a message between members: a frame's message takes them and what goes with them.
    pub message_bytes: usize,
    /// Bytes of entries on their way to one member that aren't acknowledged.
    pub window_bytes: u64,
}

impl Default for ReplicaConfig {
    fn default() -> Self {
        Self {
            group: GroupId(0),
            generation: 0,
            session_ttl: 30 * Nanos::SECOND,
            keepalive: 10 * Nanos::SECOND,
            reclaim_delay: 600 * Nanos::SECOND,
            pin_ttl: 60 * Nanos::SECOND,
            pin_max: 6 * 3600 * Nanos::SECOND,
            memory_budget: 1 << 30,
            checkpoint_log_bytes: 256 << 20,
            checkpoint_page_bytes: 256 << 10,
            inventory_sources: 1,
            orphan_interval: 600 * Nanos::SECOND,
            upkeep_interval: Nanos::SECOND,
            delete_resend: 5 * Nanos::SECOND,
            entry_bytes_max: ENTRY_BYTES_MAX,
            store: None,
            recent_bytes: 64 << 20,
            message_bytes: wire::limits::REPLICATION_BYTES_MAX,
            window_bytes: 8 << 20,
        }
    }
}

/// Bytes of an entry: a message and what goes with it. A mutation that would need more is refused.
pub const ENTRY_BYTES_MAX: usize = wire::limits::MESSAGE_BYTES_MAX + (64 << 10) - LOG_RECORD_OVERHEAD;
/// Results that wait for an acknowledgement, of all sessions (R17).
pub const GROUP_RESULTS_MAX: usize = 1_000_000;
/// Answers that wait for the log.
pub const WAITING_MAX: usize = 16_384;
/// Bytes of answers that wait for the log, about.
pub const WAITING_BYTES_MAX: usize = 64 << 20;
/// Bytes of entries that aren't durable yet.
pub const IN_FLIGHT_BYTES_MAX: u64 = 64 << 20;
/// Pins of all sessions.
pub const GROUP_PINS_MAX: usize = 65_536;
/// Chunks whose deletion is on its way at once.
pub const DELETES_IN_FLIGHT_MAX: u64 = 16_384;
/// Ids of one page of an inventory, at most.
pub const INVENTORY_PAGE_MAX: usize = wire::limits::MESSAGE_CHUNKS_MAX;
/// Entries that one round of upkeep logs, at most.
pub const UPKEEP_ENTRIES_MAX: usize = 256;
/// What `Busy` tells clients to wait, in milliseconds.
pub const RETRY_AFTER_MS: u32 = 20;
/// A subscription that was refused, or whose connection broke, is tried again after so many nanoseconds; also how often what other members owe is looked at.
pub const LINK_INTERVAL: u64 = 50 * Nanos::MILLISECOND;
/// A member that has said nothing for so long, and owes something, is sent or asked the same again.
pub(crate) const LINK_PATIENCE: u64 = 200 * Nanos::MILLISECOND;
/// A source that said nothing for so long is told where this member is.
pub(crate) const SOURCE_PATIENCE: u64 = 2 * Nanos::SECOND;
/// The same of a piece of an image.
pub(crate) const PIECE_PATIENCE: u64 = Nanos::SECOND;
/// Entries behind an image are kept while it travels, in so many times the memory of recent ones at most.
pub(crate) const IMAGE_RECENT_FACTOR: u64 = 4;
/// A learner no further behind than so many entries is caught up: what is left takes a fraction of a second.
pub const CAUGHT_UP_ENTRIES: u64 = 1024;
