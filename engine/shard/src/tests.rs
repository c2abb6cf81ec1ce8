//! The shard by hand: what it takes, refuses, holds and gives back.

mod bench;
mod chain;
mod chain_fuzz;
mod gets;
mod links;
mod lives;
#[cfg(planted)]
mod planted;
mod puts;
mod shares;
mod sync;
mod sync_fuzz;
mod sync_source;
mod world;
