//! Volumes, inodes, directory entries, versions and extents: a deterministic, multi-version state machine in memory. Pure.
//!
//! [`Namespace::execute`] decides what an operation does and plans [`Change`]s; [`Namespace::apply`] applies an entry's changes, on the head and
//! at replay alike (R15); [`Namespace::query`] answers reads. Rows have lifetimes `[from, to)` in commit indices; ended rows are kept
//! until a horizon entry drops them (R16). `clone` freezes the whole state in O(1).

#![forbid(unsafe_code)]

mod apply;
mod audit;
mod change;
mod checkpoint;
pub mod codec;
mod content;
mod execute;
mod extents;
mod gc;
mod inode;
mod losses;
#[cfg(test)]
mod model;
#[cfg(test)]
mod model_fuzz;
mod name;
mod namespace;
mod path;
#[cfg(all(test, planted))]
mod planted;
mod query;
#[cfg(test)]
mod random;
mod references;
#[cfg(test)]
mod tests;
mod tree;
mod uploads;
mod volume;

pub use apply::{ApplyError, Moment, next_time};
pub use audit::AuditError;
pub use change::{Change, Made, Slot, Source, Target};
pub use checkpoint::{Cursor, Loader, REPLICA_TAG_MIN, read_row, write_rows};
pub use execute::{Context, Executed, VOLUMES_MAX, frees_space};
pub use extents::FILE_BYTES_MAX;
pub use gc::{RECLAIM_CHUNKS_MAX, STEP_ROWS_MAX, UpkeepRules, plan_upkeep};
pub use inode::Owner;
pub use losses::Losses;
pub use name::{Name, is_volume_name};
pub use namespace::{ChunkState, Deleting, Namespace};
pub use path::Failure;
pub use query::{LIST_BYTES_MAX, PAGE_RUNS_MAX};
pub use tree::{Rows, Tree};
pub use uploads::{SESSION_STAGED_ROOTS_MAX, STAGED_ROOTS_MAX, UPLOAD_PARTS_MAX, USED_RANGES_MAX};
pub use volume::NOW;
