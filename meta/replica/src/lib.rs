//! One metadata group's replica: log order, sessions, exactly-once results, checkpoints, reclaim. Pure; the chain has one member so far.
//!
//! ```text
//! Request ─► execute on the head's state ─► Append ─► (the driver's log) ─► Durable ─► Reply
//! ```
//! [`Replica::handle`] takes one [`Event`] and appends [`Effect`]s. The head executes at once and applies its own entry, so the state is ahead
//! of the log; what it answers leaves only when every entry up to the state that the answer was read from is durable (R12, R13, R14).
//! [`Restore`] makes a replica of a checkpoint's pages and the entries after it.

#![forbid(unsafe_code)]

mod checkpoint;
mod config;
mod deletes;
mod event;
mod log_clock;
mod mutate;
mod orphans;
mod pins;
#[cfg(all(test, planted))]
mod planted;
mod record;
mod replica;
mod restore;
mod sessions;
mod state;
mod upkeep;

#[cfg(test)]
mod replica_fuzz;
#[cfg(test)]
mod tests;

pub use config::{
    DELETES_IN_FLIGHT_MAX, ENTRY_BYTES_MAX, GROUP_PINS_MAX, GROUP_RESULTS_MAX, IN_FLIGHT_BYTES_MAX,
    INVENTORY_PAGE_MAX, RETRY_AFTER_MS, ReplicaConfig, UPKEEP_ENTRIES_MAX, WAITING_BYTES_MAX, WAITING_MAX,
};
pub use event::{Body, Effect, Effects, Event, LogSpace, Request, RequestBody};
pub use namespace::Losses;
pub use record::{ENTRY_VERSION, Entry, Record};
pub use replica::{Lack, Metrics, Replica};
pub use restore::{Restore, RestoreError};
pub use state::{State, StateError};
