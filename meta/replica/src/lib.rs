//! One member of a metadata group's chain: log order, sessions, exactly-once results, replication, checkpoints, reclaim. Pure.
//!
//! ```text
//!            head                              follower                       last acker
//! Request ─► execute on its state
//!              ├─► Append ─► (own log)
//!              └─► Entries ──────────────────► Append ─► (own log)
//!                                                └─► Entries ───────────────► Append ─► (own log)
//!                                                                             durable here and before: committed, applied
//!            committed ◄──── Progress ───────  committed, applied ◄── Progress ─┘
//! Reply ◄──────┘
//! ```
//! [`Replica::handle`] takes one [`Event`] and appends [`Effect`]s. The head executes at once and applies its own entry, so its state is ahead of the log; what it
//! answers leaves only when every entry up to the state that the answer was read from is durable at every member of the epoch (R12, R13, R14). The others
//! apply what is committed. [`Restore`] makes a replica of a checkpoint's pages and the records after it.
//!
//! | file | conversation |
//! |---|---|
//! | `chain.rs`, `view.rs` | epochs, roles, the commit index, becoming and ceasing to be head |
//! | `upstream.rs`, `downstream.rs`, `message.rs` | entries down the chain, progress up |
//! | `learn.rs` | images for learners |
//! | `answers.rs`, `fence.rs` | who is answered when |
//! | `history.rs`, `terms.rs`, `own_log.rs`, `record.rs` | entries in memory, whose they are, and the log's records |

#![forbid(unsafe_code)]

mod answers;
mod chain;
mod checkpoint;
mod config;
mod deletes;
mod downstream;
mod event;
mod fence;
mod history;
mod learn;
mod log_clock;
mod message;
mod mutate;
mod orphans;
mod own_log;
mod pins;
#[cfg(all(test, planted))]
mod planted;
mod record;
mod replica;
mod restore;
mod sessions;
mod state;
mod terms;
mod upkeep;
mod upstream;
mod view;

#[cfg(test)]
mod chain_fuzz;
#[cfg(test)]
mod replica_fuzz;
#[cfg(test)]
mod tests;

pub use config::{
    CAUGHT_UP_ENTRIES, DELETES_IN_FLIGHT_MAX, ENTRY_BYTES_MAX, GROUP_PINS_MAX, GROUP_RESULTS_MAX,
    IN_FLIGHT_BYTES_MAX, INVENTORY_PAGE_MAX, LINK_INTERVAL, RETRY_AFTER_MS, ReplicaConfig,
    UPKEEP_ENTRIES_MAX, WAITING_BYTES_MAX, WAITING_MAX,
};
pub use event::{Body, Effect, Effects, Event, LogSpace, Request, RequestBody, Trouble};
pub use message::Message;
pub use namespace::Losses;
pub use own_log::{LOG_RECORD_OVERHEAD, LOG_RECORD_VERSION, LogRecord, RecordNumber};
pub use record::{ENTRY_VERSION, Entry, Record};
pub use replica::{Lack, Metrics, Replica};
pub use restore::{Restore, RestoreError};
pub use state::{State, StateError};
pub use view::{ChainView, Role};
