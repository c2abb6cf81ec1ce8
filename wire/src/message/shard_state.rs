//! What a shard tells about itself: `catena status`, `df` and `/metrics` are made of it.

use crate::{Incarnation, StoreId};

/// Whether a store serves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum StoreCondition {
    /// Recovery isn't done.
    #[default]
    Starting = 0,
    /// Reads and writes.
    Serving = 1,
    /// Finishes what it has, takes nothing new.
    Draining = 2,
    /// A write or flush failed: nothing is written any more, reads are tried.
    Fenced = 3,
}

impl StoreCondition {
    /// Every condition, in the order of the codes.
    pub const ALL: [Self; 4] = [Self::Starting, Self::Serving, Self::Draining, Self::Fenced];

    /// The condition with this code.
    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.get(usize::from(code)).copied()
    }
}

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident = $position:literal;)*) => {
        /// A shard's gauges and counters. Counters count from the start of the process.
        ///
        /// They travel as one vector in this order: a reader that knows fewer ignores the rest, one that knows more reads 0.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
        pub struct ShardState {
            /// The store.
            pub store: StoreId,
            /// Its present life.
            pub incarnation: Incarnation,
            /// Whether it serves.
            pub condition: StoreCondition,
            $($(#[$doc])* pub $name: u64,)*
        }

        impl ShardState {
            /// Names of the numbers, in wire order, for metrics.
            pub const NAMES: &'static [&'static str] = &[$(stringify!($name),)*];

            /// The numbers, in wire order.
            pub fn numbers(&self) -> [u64; Self::NAMES.len()] {
                [$(self.$name,)*]
            }

            /// Takes the numbers over from wire order; missing ones are 0.
            pub(super) fn take_numbers(&mut self, mut numbers: impl Iterator<Item = u64>) {
                $(self.$name = numbers.next().unwrap_or(0);)*
            }

        }

        const _: () = {
            let mut next = 0;
            $(assert!($position == next, "positions are part of the protocol: append only"); next += 1;)*
            assert!(next == ShardState::NAMES.len());
        };
    };
}

counters! {
    /// Bytes that the store may grow to.
    capacity_bytes = 0;
    /// Bytes of segments in use.
    used_bytes = 1;
    /// Bytes of live chunks.
    live_bytes = 2;
    /// Bytes that a client may still write.
    free_bytes = 3;
    /// Bytes of dead chunks that cleaning will give back.
    reclaimable_bytes = 4;
    /// Bytes kept for deletes, cleaning and resync.
    reserve_bytes = 5;
    /// Live chunks.
    chunk_count = 6;
    /// Chunks known to be unreadable.
    damaged_count = 7;
    /// Segments of the store.
    segment_count = 8;
    /// Segments that hold nothing.
    segment_free_count = 9;
    /// Free segments that are zeroed, hence fast to flush.
    segment_zeroed_count = 10;
    /// Segments opened that weren't zeroed.
    segment_unzeroed_total = 11;
    /// Requests waiting or in execution.
    queue_depth = 12;
    /// Open connections.
    connection_count = 13;
    /// Chunks put.
    put_total = 14;
    /// Bytes put.
    put_bytes_total = 15;
    /// Chunk reads answered.
    get_total = 16;
    /// Bytes read by clients.
    get_bytes_total = 17;
    /// Chunks deleted.
    delete_total = 18;
    /// Commit batches written.
    batch_total = 19;
    /// Flushes of the device.
    flush_total = 20;
    /// Bytes written to the device, descriptors, checkpoints and cleaning included.
    disk_write_bytes_total = 21;
    /// Bytes read from the device.
    disk_read_bytes_total = 22;
    /// Live bytes moved by cleaning.
    cleaned_bytes_total = 23;
    /// Bytes scrubbed.
    scrubbed_bytes_total = 24;
    /// Blocks that didn't match their checksum, whoever noticed.
    checksum_mismatch_total = 25;
    /// Requests answered `Busy`.
    busy_total = 26;
    /// Requests answered with another status than `Ok`, `NotFound` or `Busy`.
    refused_total = 27;
    /// Checkpoints written.
    checkpoint_total = 28;
    /// Batches since the last durable checkpoint.
    batches_since_checkpoint = 29;
    /// Bytes of memory of the index.
    index_bytes = 30;
    /// Bytes of the arena in use.
    arena_used_bytes = 31;
    /// Bytes of the arena.
    arena_bytes = 32;
}
