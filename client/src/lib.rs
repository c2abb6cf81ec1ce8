//! Catena's client library: files in, files out, whole and verified.
//!
//! A [`Client`] is a handle on an executor thread of its own, which holds the connections and the sessions; it and everything made from it is
//! `Clone + Send + Sync` or moves between threads. Each operation returns a [`Pending`]: await it in any async runtime, or
//! [`wait`](Pending::wait) for it on a plain thread.
//!
//! ```no_run
//! use std::io::{Read, Write};
//! use client::{Client, Config, ReadRange, UploadOptions};
//!
//! let client = Client::connect(Config::new(["127.0.0.1:7421"]))?;
//! let volume = client.volume("photos").wait()?;
//! let mut upload = volume.upload(b"2026/cat.jpg", UploadOptions::default())?;
//! upload.write_all(b"meow")?;
//! let committed = upload.finish().wait()?;
//! println!("version {}", committed.version);
//!
//! let mut bytes = Vec::new();
//! volume.download(b"2026/cat.jpg", ReadRange::Whole).wait()?.read_to_end(&mut bytes)?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! What it promises:
//! - A file becomes visible whole or not at all, at [`Upload::finish`]; a dropped [`Upload`] leaves nothing visible.
//! - Every byte returned was verified against the checksum that the metadata holds, or there is an error instead (I11).
//! - A [`Download`] sees one version from its first byte to its last, whatever happens to the file meanwhile.
//! - A mutation takes effect at most once, however often it had to be sent (I7). One that was sent and never answered is
//!   [`Error::OutcomeUnknown`], never a guess.
//! - Memory is bounded by [`Config::window_bytes`], not by the size of files.
//!
//! **Invariant:** what decides (routing, sessions, retries, outcomes, credit, verification) is in [`core`], a pure state machine without socket,
//! clock or thread; the simulator drives the very same code.

#![forbid(unsafe_code)]

mod addresses;
mod buffers;
mod client;
mod compact;
mod config;
pub mod control;
pub mod core;
mod download;
mod error;
mod executor;
mod handle;
mod list;
mod pending;
mod status;
mod stored;
#[cfg(test)]
mod tests;
mod upload;
mod version;
mod volume;

pub use crate::client::Client;
pub use compact::Compaction;
pub use config::{
    CONNECT_PATIENCE_DEFAULT, Config, DEADLINE_DEFAULT, WINDOW_BYTES_DEFAULT, WINDOW_BYTES_MIN,
};
pub use download::{Download, Piece, ReadRange};
pub use error::{Damage, Error, ErrorKind, Subject, UnavailableReason};
pub use list::Lister;
pub use pending::Pending;
pub use status::{ClusterStatus, ShardStatus};
pub use stored::{CheckedReplica, DamagedChunk, StoredChunk, StoredChunks, Verifier};
pub use upload::{Upload, UploadChange, UploadOptions};
pub use volume::{Committed, Volume};
// The vocabulary that the operations take and return.
pub use wire::map::Map;
pub use wire::message::{ShardState, StoreCondition};
pub use wire::meta::{
    AttributeChange, Attributes, Entry, GroupState, InodeKind, ListEntry, NewAttributes, Precondition,
    RemoveKind, RenameMode, VolumeInfo, VolumePolicy, VolumeUsage, Xattr, XattrMode,
};
pub use wire::{ChunkId, ClusterId, InodeId, Timestamp, Version};
