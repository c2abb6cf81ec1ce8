//! The `catena` command: a client for files, and the node itself.
//!
//! ```text
//! command   which command, its options             commands/*   one file per command or family
//! context   connection, output                     local/*      this machine's files: walk, holes, attributes
//! output    what is printed                        transfer/*   put and get: plan, compare, send, pool
//! failure   thing, reason, next step, exit code    remote range mode glob text json endpoint: pure
//! ```
//!
//! **Invariant:** nothing is printed but by [`output`], and nothing ends the process but [`main`] and [`interrupt`].

#![forbid(unsafe_code)]

mod clock;
mod command;
mod commands;
mod context;
mod endpoint;
mod failure;
mod glob;
mod interrupt;
mod invocation;
mod json;
mod local;
mod local_cluster;
mod local_node;
mod mode;
mod output;
mod owner;
mod present;
mod range;
mod remote;
mod remote_failure;
mod tally;
mod text;
mod transfer;
mod walk;

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: runtime::SplitAllocator = runtime::SplitAllocator;

fn main() -> ExitCode {
    ExitCode::from(command::run().code())
}
