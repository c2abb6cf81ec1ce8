//! What the chunk store and the metadata log share: superblocks, batches, checkpoints' pages, the decision whether a bad batch is a
//! torn tail or damage, and the recovery scan. [`Device`] is all of it as one synchronous state machine; [`log`] puts a metadata
//! group's log on it, `engine/store` a chunk store. `docs/on-disk-format.md` describes every byte.
//!
//! **Invariants.** Nothing is reported durable before a flush that was submitted after its writes completed (R31). A batch that was
//! durable is never cut (R29). Nothing is appended after a cut (R30). No segment that a durable checkpoint's image or replay needs is written
//! again (R32). After a failed write or flush nothing more is written.
//!
//! This crate is pure: it asks for I/O by [`IoRequest`] and is told what came of it.

#![forbid(unsafe_code)]

pub mod batch;
pub mod checkpoint;
mod codec;
mod device;
pub mod entry;
pub mod fake_disk;
#[cfg(test)]
mod format_tests;
mod gather;
mod io;
mod layout;
pub mod log;
mod segments;
mod superblock;

pub use device::{
    Appended, Burden, Counters, DamagedBatches, Device, DeviceConfig, Draft, Expected, Format, Note,
    OpenError, Opened, PageContent, Room, identify,
};
pub use gather::Gather;
pub use io::{IoEffects, IoFailure, IoOutcome, IoRequest, IoToken, Part, PartRange};
pub use layout::{
    BATCH_BYTES_MAX, BATCHES_IN_FLIGHT_MAX, BlockIndex, DATA_START, DESCRIPTOR_BYTES_MAX, FORMAT_VERSION,
    Geometry, IN_FLIGHT_BYTES_MAX, LOG_BATCH_BYTES_MAX, LOG_SEGMENT_BYTES, Place, REACH_BLOCKS_MIN,
    SEGMENT_BYTES, SegmentIndex,
};
pub use segments::{SegmentState, Segments};
pub use superblock::{
    CHECKPOINT_SEGMENTS_MAX, CheckpointRef, Identity, JOINTS_MAX, Joint, Kind, Resume, SUPERBLOCK_BYTES,
    SUPERBLOCK_COPIES, SUPERBLOCK_VERSION, Superblock, SuperblockError, copy_offset as superblock_offset,
};
