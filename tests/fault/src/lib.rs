//! A disk that fails on command: a FUSE file system over a backing directory, for real nodes to stand on.
//!
//! It serves plain files and directories, takes direct I/O and io_uring, and adds what a real disk does on a bad day:
//! - a **volatile write cache**: what isn't flushed is lost at a power cut, write by write, in random subsets, torn at sectors
//!   ([`cache`]); names that no flush made durable are lost from the last one backwards ([`names`]);
//! - **faults** ([`faults`]): errors of reads, writes and flushes, a full disk, writes that are acknowledged and lost, bits that
//!   flip on the way or at rest, delays.
//!
//! [`disk`] is the disk as a value, [`filesystem`] its face to the kernel, [`control`] the protocol between a test and the
//! process `faulty-disk`, one line each way. The process unmounts and ends when the test does. [`load`] is what nodes are crashed
//! under: changes whose outcome is known, and the check of what a crash left.
//!
//! The model's assumptions: a 512-byte sector is written whole or not at all; metadata of the file system (names, lengths) is
//! journaled, so that a flush makes everything before it durable; a length that shrinks is durable at once.

#![forbid(unsafe_code)]

pub mod cache;
pub mod control;
pub mod crash;
pub mod disk;
pub mod faults;
pub mod filesystem;
pub mod load;
pub mod names;
mod nodes;

pub use control::{FaultyDisk, Statistics};
pub use disk::Disk;
pub use faults::{Fault, Kind};
