//! Work on many files: a pool of workers, what is sent and what is left alone, and how it is shown.

pub(crate) mod compare;
pub(crate) mod destination;
pub(crate) mod fetch;
pub(crate) mod pool;
pub(crate) mod progress;
pub(crate) mod report;
pub(crate) mod send;
