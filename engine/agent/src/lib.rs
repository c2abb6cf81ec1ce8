//! A node's control agent: frames in, frames and log I/O out. Pure.
//!
//! Every node has one. It introduces the node to the control group, says that it lives and what its units have seen, keeps its lease, and follows the map: stored,
//! handed to all units, promised. On nodes that vote it is also a part of the control group: a voter on its own log, and the membership that decides while
//! that voter leads.
//!
//! ```text
//! frames ─► peers ─► talk ─► follow ─► units, disk        the leader's map; installed = promised (R1, R5)
//!        └► desk ─► council ─► voter_log ─► disk          registrations, heartbeats, commands, letters of voters
//! ```
//! **Invariant:** `agent` never sees a socket, a file or a clock.

#![forbid(unsafe_code)]

mod agent;
mod council;
mod desk;
mod effects;
mod follow;
mod peers;
#[cfg(all(test, planted))]
mod planted;
mod reports;
mod talk;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod voter_log;

pub use agent::{Agent, Identity, Start, VoterStart};
pub use council::VoterOrigin;
pub use effects::{CloseReason, Dial, Effects, Link, Note, PeerId, Send, VoterFailure};
