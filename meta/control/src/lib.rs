//! The control group: a few voters that agree on the cluster map, and what decides about it. Pure.
//!
//! - [`voter`] is the consensus: the `raft` crate between frames and a durable log. It knows no map: what it agrees on are bytes.
//! - [`membership`] decides on the leader: who lives, who serves, what changes next. It knows no raft.
//!
//! **Invariant:** no I/O, no clock, no thread; what the `raft` crate draws at random is overwritten before it is looked at.

#![forbid(unsafe_code)]

pub mod membership;
pub mod voter;
