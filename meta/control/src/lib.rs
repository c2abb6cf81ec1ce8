//! The control group: one small cluster map, agreed on by a few voters.
//!
//! [`voter`] is the consensus: the `raft` crate between frames and a durable log. It knows no map: what it agrees on are bytes. Pure: no I/O, no
//! clock, no thread; what the `raft` crate draws at random is overwritten before it is looked at.

#![forbid(unsafe_code)]

pub mod voter;
