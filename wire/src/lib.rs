//! Everything that crosses a wire or names something: ids, frames, messages, status codes, checksums, the ring hash.
//!
//! This crate is the only codec of server, client, load generator and simulator. It is pure: no I/O, no clock, no
//! thread, no randomness.

#![forbid(unsafe_code)]

pub mod checksum;
pub mod control;
mod frame;
mod ids;
pub mod limits;
pub mod map;
pub mod message;
pub mod meta;
pub mod planted;
mod ring;
mod slot;
mod status;
mod time;

pub use frame::{
    DecodePrefixError, FrameKind, Load, PREFIX_BYTES, PROTOCOL_VERSION, PROTOCOL_VERSION_MIN, Prefix,
};
pub use ids::{
    ChunkId, ClusterId, CommitIndex, Epoch, GroupId, Incarnation, InodeId, Layout, MapNumber, NodeId,
    Sequence, SessionId, ShardIndex, SliceIndex, StoreId, Version, VolumeId,
};
pub use ring::{position, slice_of};
pub use slot::{Memory, Slot};
pub use status::Status;
pub use time::{Nanos, Timestamp};
