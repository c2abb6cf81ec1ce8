//! A node: where pure logic meets threads, sockets and files.
//!
//! A running node is one thread per shard, one for the metadata replica and one for the admin endpoint. Threads share nothing but immutable
//! cluster maps and bounded mailboxes. [`init`] formats, [`start`] starts what was formatted; nothing else formats (R34).

#![forbid(unsafe_code)]

mod admin;
mod bootstrap;
pub mod config;
mod control_thread;
mod disk;
mod error;
mod files;
mod fullness;
mod identity;
mod keeper;
pub mod logging;
mod meta_log;
mod meta_thread;
mod metrics;
mod node;
mod progress;
mod read_depth;
mod shard_thread;
mod start;
mod teller;
mod units;
mod vote;

pub use bootstrap::{
    Initialized, Joining, RecoverReport, adopt, formatted_shards, init, is_initialized, is_running,
    prepare_join, recover,
};
pub use config::{Config, ConfigError, Disk, LogFormat};
pub use disk::STORE_HEADROOM_BYTES;
pub use error::Error;
pub use node::Node;
pub use start::start;
pub use units::{ByteSize, Span};
