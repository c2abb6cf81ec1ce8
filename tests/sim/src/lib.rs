//! The deterministic simulator: the shipped logic on one thread, in virtual time, from a seed.
//!
//! Its levels: [`Level::Store`] drives the chunk store alone on a simulated disk; [`Level::Log`] a metadata replica on its log, asked
//! directly; [`Level::Node`] drives several [`client::core::Core`]s against a
//! node made of [`shard::Shard`]s and a [`replica::Replica`] on its [`journal::log::Log`], over a simulated network, disks and clocks;
//! [`Level::Cluster`] several such nodes, each with its [`agent::Agent`]; [`Level::OneDeath`] a cluster of which one node dies. The same seed gives
//! the same trace, whose hash is compared by a test. What clients were told is checked against a plain map (`checker`); whatever the
//! crates assert of themselves is checked after every event, since a panic is a failure too. `docs/simulator.md` says what goes wrong and what must be
//! survived.
//!
//! Layout: `random`, `schedule`, `trace`, `memory`, `disk`, `network` (the simulated world's parts), `shard_unit`, `meta_unit`,
//! `agent_unit`, `mail`, `node` (a node and its drivers), `operator`, `client_process`, `task`, `workload` (clients), `faults`, `world` (who meets whom), `history`, `model`, `checker`,
//! `kept` (what must hold), `store_run` (the store alone), `level`, `seeds`, `planted`, `report` (running it).

#![forbid(unsafe_code)]

mod agent_unit;
mod checker;
mod client_process;
mod content;
mod coverage;
mod disk;
mod faults;
mod filling;
mod history;
mod kept;
mod level;
mod log_run;
mod mail;
mod memory;
mod meta_unit;
mod model;
mod network;
mod node;
mod operator;
pub mod planted;
mod random;
mod repeats;
mod report;
mod schedule;
mod scope;
pub mod seeds;
mod settings;
mod shard_unit;
pub mod shrink;
mod store_run;
mod task;
mod trace;
mod unit;
mod workload;
mod world;

pub use level::{Level, Runs, run_seeds};
pub use report::{Failed, Tally};
pub use scope::{Case, Numbers};
