//! One core's logic: frames in, frames and disk I/O out. Pure.
//!
//! A [`Shard`] owns a [`store::Store`], what it knows of each connection, and the puts and gets that are under way. The driver hands it frames and
//! completions, and carries out what it leaves in [`Effects`]. A put that arrives is stored here and
//! relayed to the chain's next store at the same time; it is acked when both have it (I2). The epoch is checked at admission, when the store says durable, and when the
//! ack leaves (R1). Slices in which the store is Syncing are brought up to date meanwhile, those that it serves are compared with the other replicas, and damage is
//! mended from them (`sync`, whose page says what makes that safe).
//!
//! **Invariant:** `shard` never sees a socket, a file or a clock.

#![forbid(unsafe_code)]

mod chunks;
mod effects;
mod get;
mod link;
mod peers;
mod put;
mod relay;
mod reply;
mod requests;
mod shard;
mod shares;
mod store_side;
mod sync;
#[cfg(test)]
mod tests;

pub use effects::{
    CloseReason, Dial, Effects, Link, Payload, Placement, Purpose, Send, Suspicion, Synced, Target,
};
pub use link::LINK_GET_BYTES_MAX;
pub use shard::{Identity, Shard};
pub use sync::SyncProgress;
pub use sync::pace::SyncSettings;
