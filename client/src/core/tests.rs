//! The core on simulated links against the fake cluster.

mod failover;
mod fault;
mod mutation;
mod transfer;
mod upkeep;
mod world;
