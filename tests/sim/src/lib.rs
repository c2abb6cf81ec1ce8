//! sim
pub mod checker;
pub mod content;
pub mod history;
pub mod memory;
pub mod model;
pub mod random;
pub mod schedule;
pub mod trace;
