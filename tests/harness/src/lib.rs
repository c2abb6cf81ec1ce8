//! What tests of real processes share.
//!
//! | module | gives |
//! |---|---|
//! | [`binary`] | the `catena` binary, built once under a file lock |
//! | [`command`] | running a command to its end: status, output, deadline |
//! | [`cpu`] | CPU time of other processes, which a busy machine stretches less than the clock |
//! | [`process`] | a process that runs beside the test: signals, log, no survivors |
//! | [`node`] | a node (`catena dev`, `catena server`) with readiness, kill and restart |
//! | [`deadline`] | waiting for a value, never for a time |
//! | [`scratch`] | directories on a disk that takes direct I/O; small disks on loop devices |
//! | [`content`] | bytes and random numbers that are a function of a seed |
//! | [`http`] | one GET from the admin endpoint |
//! | [`documents`] | the commands of README and docs, run and compared |
//! | [`skip()`] | what this machine lacks, said aloud |
//!
//! A test that can't go on panics with what it waited for and the end of the node's log: the harness has no errors to handle.

#![forbid(unsafe_code)]

pub mod binary;
pub mod command;
pub mod content;
pub mod cpu;
pub mod deadline;
pub mod documents;
pub mod http;
pub mod node;
pub mod process;
pub mod scratch;
mod skip;

pub use binary::catena;
pub use command::{Outcome, Run};
pub use content::{Content, Random};
pub use deadline::{Deadline, wait_for};
pub use node::{Dev, Node, Server};
pub use scratch::{LoopDisk, Scratch};
pub use skip::{count, skip};
