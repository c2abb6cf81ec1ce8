//! One member of a metadata group: frames in, frames and log I/O out. Pure.
//!
//! A [`Member`] owns its [`replica::Replica`], the log under it, what it knows of each client's connection, and its calls to the stores. The
//! driver hands it frames and completions, and carries out what it leaves in [`Effects`]: a thread with a uring in `engine/node`, fake disks and
//! links in `tests/sim`.
//!
//! ```text
//! frames ─► links ─► replica ─► group_log ─► disk          answers wait for the disks of all (R12)
//!                       ├─► peers ─► frames                the group's other members
//!                       └─► store_calls ─► frames          deletes and inventories (R2, R24)
//! ```
//! **Invariant:** `group` never sees a socket, a file or a clock.

#![forbid(unsafe_code)]

mod effects;
mod group_log;
mod links;
mod member;
mod peers;
mod store_calls;
#[cfg(test)]
mod tests;

pub use effects::{Clock, CloseReason, Dial, Effects, Link, Note, OpenFailure, Send};
pub use member::{Identity, Member, Position};
