//! One core's logic: frames in, frames and disk I/O out. Pure.
//!
//! A [`Shard`] owns a [`store::Store`], what it knows of each connection, and the puts and gets that are under way. The driver hands it frames and
//! completions, and carries out what it leaves in [`Effects`]. With chains of length 1 a put ends at this store; relaying down a
//! longer chain takes place at the same three points where the epoch is checked (R1): admission, local completion, ack.
//!
//! **Invariant:** `shard` never sees a socket, a file or a clock.

#![forbid(unsafe_code)]

mod chunks;
mod effects;
mod get;
mod link;
mod put;
mod reply;
mod requests;
mod shard;
mod shares;
mod store_side;
#[cfg(test)]
mod tests;

pub use effects::{CloseReason, Effects, Link, Payload, Placement, Send};
pub use shard::{Identity, Shard};
