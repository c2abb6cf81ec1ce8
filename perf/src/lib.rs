//! What Catena's figures are measured with.
//!
//! Two kinds. *Counts* ([`counts`]) are the same on any machine, however busy: allocations, system calls, bytes, flushes; CI gates them.
//! *Ratios* ([`ratios`]) divide what a real server does by what the machine does with plain means in the same minutes; a person runs them on a
//! quiet machine. `docs/performance.md` says how to read both.

#![forbid(unsafe_code)]

pub mod counts;
mod fio;
pub mod load;
mod machine;
pub mod ratios;
pub mod server;
mod text;
