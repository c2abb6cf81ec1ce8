//! What a shard tells about itself: `catena status`, `df` and `/metrics` are made of it.

use flatbuffers::{FlatBufferBuilder, WIPOffset};
use wire_generated::common_generated as common;
use wire_generated::message_generated as schema;

use super::DecodeError;
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
    ($($(#[$doc:meta])* $name:ident;)*) => {
        /// A shard's gauges and counters. Counters count from the start of the process.
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
            /// Names of the numbers, for metrics.
            pub const NAMES: &'static [&'static str] = &[$(stringify!($name),)*];

            /// The numbers, in the order of the names.
            pub fn numbers(&self) -> [u64; Self::NAMES.len()] {
                [$(self.$name,)*]
            }
        }

        pub(super) fn encode(
            builder: &mut FlatBufferBuilder<'static>,
            state: &ShardState,
        ) -> WIPOffset<schema::ShardStatusReply<'static>> {
            let args = schema::ShardStatusReplyArgs {
                store: Some(&common::Uuid::new(&state.store.0)),
                incarnation: state.incarnation.0,
                condition: state.condition as u8,
                $($name: state.$name,)*
            };
            schema::ShardStatusReply::create(builder, &args)
        }

        pub(super) fn decode(table: schema::ShardStatusReply<'_>) -> Result<ShardState, DecodeError> {
            let condition = StoreCondition::from_code(table.condition());
            Ok(ShardState {
                store: StoreId(table.store().bytes().into()),
                incarnation: Incarnation(table.incarnation()),
                condition: condition.ok_or(DecodeError::Unknown("condition of a store"))?,
                $($name: table.$name(),)*
            })
        }
    };
}

counters! {
    /// Bytes that the store may grow to.
    capacity_bytes;
    /// Bytes of the disk that live chunks take, in whole blocks.
    used_bytes;
    /// Bytes that a client may still write.
    free_bytes;
    /// Bytes of dead chunks that cleaning will give back.
    reclaimable_bytes;
    /// Bytes kept for deletes, cleaning and resync.
    reserve_bytes;
    /// Live chunks.
    chunk_count;
    /// Chunks known to be unreadable.
    damaged_count;
    /// Segments that the store's file has.
    segment_count;
    /// Of these, those that hold nothing. What the file may still grow by isn't counted.
    segment_free_count;
    /// Free segments that are zeroed, hence fast to flush.
    segment_zeroed_count;
    /// Segments opened that weren't zeroed.
    segment_unzeroed_total;
    /// Requests waiting or in execution.
    queue_depth;
    /// Open connections.
    connection_count;
    /// Chunks put.
    put_total;
    /// Bytes put.
    put_bytes_total;
    /// Chunk reads answered.
    get_total;
    /// Bytes read by clients.
    get_bytes_total;
    /// Chunks deleted.
    delete_total;
    /// Commit batches written.
    batch_total;
    /// Flushes of the device.
    flush_total;
    /// Bytes written to the device, descriptors, checkpoints and cleaning included.
    disk_write_bytes_total;
    /// Bytes read from the device.
    disk_read_bytes_total;
    /// Live bytes moved by cleaning.
    cleaned_bytes_total;
    /// Bytes of the disk that the scrubber has read and found good, in whole blocks.
    scrubbed_bytes_total;
    /// Payloads that arrived, and reads of the store, whose bytes didn't match their checksum.
    checksum_mismatch_total;
    /// Requests answered `Busy`.
    busy_total;
    /// Requests answered with another status than `Ok`, `NotFound` or `Busy`.
    refused_total;
    /// Checkpoints written.
    checkpoint_total;
    /// Batches since the last durable checkpoint.
    batches_since_checkpoint;
    /// Bytes of memory of the index.
    index_bytes;
    /// Bytes of the arena in use.
    arena_used_bytes;
    /// Bytes of the arena.
    arena_bytes;
    /// Puts refused since the store holds other bytes under their id (R4): its metadata log is older than it is.
    conflicting_put_total;
    /// Slices in which the store is being brought up to date.
    sync_slices;
    /// Of these, those that are.
    sync_slices_done;
    /// Bytes that are still to be fetched for that, about.
    sync_bytes_left;
    /// Bytes of chunks fetched from other replicas.
    sync_bytes_total;
    /// Bytes of chunks read for other replicas.
    sync_served_bytes_total;
    /// Chunks that are damaged here, or that no replica could supply, and that are looked for.
    repair_waiting;
    /// Damaged chunks that were replaced by good ones.
    repaired_total;
    /// Chunks that had other bytes here than at another replica (R3).
    differing_total;
    /// Live chunks that only this replica held (R2).
    extra_live_total;
}
