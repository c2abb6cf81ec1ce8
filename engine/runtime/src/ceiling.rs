//! What the machine gives at best: disk through a bare uring, TCP through bare sockets. The yardstick of `quickstart` and `perf`.
//!
//! The same means as the runtime's, without it: buffers on 2 MiB pages, registered; a registered descriptor; direct I/O on a file
//! that was reserved and zero-written once. Each measurement runs for a given time at each of the given depths and the best one
//! counts; the depth is part of the result.

mod disk;
mod network;

use std::io;
use std::path::PathBuf;

use thiserror::Error;

use crate::arena::ArenaError;
use crate::ring::RingError;

pub use disk::{DiskLoad, Order, Scratch, disk_read, disk_write};
pub use network::{NetworkLoad, loopback_congestion, tcp_echo, tcp_stream};

/// A measured best.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ceiling {
    /// Operations a second: reads, writes, messages.
    pub operations_per_second: f64,
    /// Bytes a second.
    pub bytes_per_second: f64,
    /// CPU time of one operation, of the measuring thread (TCP: of the receiving or answering one), in nanoseconds.
    pub cpu_nanoseconds: f64,
    /// Operations in flight at which this was reached.
    pub depth: u32,
    /// Whether the buffers were on 2 MiB pages.
    pub huge_pages: bool,
    /// Whether the buffers were registered.
    pub registered: bool,
}

/// Why nothing was measured.
#[derive(Debug, Error)]
pub enum CeilingError {
    /// No uring.
    #[error(transparent)]
    Ring(#[from] RingError),
    /// No buffers.
    #[error(transparent)]
    Arena(#[from] ArenaError),
    /// The file can't be made, filled or used.
    #[error("measuring in {}: {step} failed: {source}", directory.display())]
    File {
        /// Where.
        directory: PathBuf,
        /// What was attempted.
        step: &'static str,
        /// The kernel's reason.
        source: io::Error,
    },
    /// The sockets failed.
    #[error("measuring TCP failed: {0}")]
    Network(#[from] io::Error),
}

/// The better of two: by bytes, which at one size is by operations too.
fn best(
    results: impl Iterator<Item = Result<Ceiling, CeilingError>>,
) -> Result<Option<Ceiling>, CeilingError> {
    let mut best: Option<Ceiling> = None;
    for result in results {
        let result = result?;
        if best.is_none_or(|best| best.bytes_per_second < result.bytes_per_second) {
            best = Some(result);
        }
    }
    Ok(best)
}

/// What was counted in a time, as rates.
#[derive(Clone, Copy, Debug)]
struct Count {
    operations: u64,
    bytes_each: usize,
    nanoseconds: u64,
    cpu_nanoseconds: u64,
    depth: u32,
}

impl Count {
    #[expect(clippy::cast_precision_loss, reason = "rates are for people; 2^53 operations are never counted")]
    fn rates(self, huge_pages: bool, registered: bool) -> Ceiling {
        let seconds = self.nanoseconds.max(1) as f64 / 1e9;
        let operations = self.operations as f64;
        Ceiling {
            operations_per_second: operations / seconds,
            bytes_per_second: operations * self.bytes_each as f64 / seconds,
            cpu_nanoseconds: self.cpu_nanoseconds as f64 / operations.max(1.0),
            depth: self.depth,
            huge_pages,
            registered,
        }
    }
}
