//! The chunk store of one shard: a log of batches on a [`journal::Device`], an index in memory, and what keeps both in order.
//!
//! A synchronous state machine: [`Store::handle`] takes an [`Event`], answers with [`Effects`], and never sees a file, a clock or a
//! thread. Payloads are slots of the driver's memory from arrival to the write, and from the read to the reader.
//!
//! **Invariants.** I1: an id has one content; another one is refused. I2: `Done(Ok)` follows the flush. I11: bytes that leave were
//! verified against the root, or are an error. R29–R34 are `journal`'s; R4, R32 and R36 are cited where they hold.

#![forbid(unsafe_code)]

mod api;
mod catalog;
mod index;
mod leaf_cache;
#[cfg(all(test, not(planted)))]
mod lives_tests;
#[cfg(all(test, not(planted)))]
mod replace_tests;
#[cfg(all(test, not(planted)))]
mod space_tests;
mod store;
#[cfg(all(test, not(planted)))]
mod store_damage_tests;
#[cfg(test)]
mod store_fuzz;
#[cfg(all(test, not(planted)))]
mod store_tests;
#[cfg(test)]
mod testing;

pub use api::{
    ChunkRange, Effect, Effects, Event, GotChunk, ListedChunk, Metrics, ScrubControl, StoreConfig, WordRange,
};
pub use catalog::CATALOG_CHUNKS_MAX;
pub use index::{Index, IndexEntry};
pub use store::Store;
