//! The control group: one small cluster map, agreed on by a few voters. [`Membership`] decides about it; [`voter`] is the consensus, the `raft` crate between
//! messages and a durable log, which knows no map: what it agrees on are bytes.
//!
//! Pure: no I/O, no clock, no thread; what the `raft` crate draws at random is overwritten before it is looked at.

#![forbid(unsafe_code)]

mod membership;
pub mod voter;

pub use membership::{
    Config, Effect, Effects, Event, Membership, Note, Refused, Rule, apply, lease_at_control,
};
