//! A thread's configuration: every limit has a name and a default here.

use wire::Nanos;

/// How a thread is made.
#[derive(Clone, Debug)]
pub struct ThreadConfig {
    /// The thread's name, as `top -H` shows it (15 bytes count).
    pub name: String,
    /// The CPU to run on; `None` leaves it to the scheduler. A CPU that can't be had is reported and harmless.
    pub cpu: Option<usize>,
    /// Bytes of I/O memory, rounded up to 8 MiB.
    pub arena_bytes: usize,
    /// Whether to spin for a few microseconds before sleeping. Not where threads share cores.
    pub spin: bool,
    /// Entries of the submission queue; completions have four times as many places.
    pub ring_entries: u32,
    /// File operations in flight, at most.
    pub io_operations: usize,
    /// Background tasks alive, at most.
    pub background_tasks: usize,
    /// Limits of connections.
    pub links: LinkLimits,
}

impl ThreadConfig {
    /// A configuration with defaults: 64 MiB of I/O memory, not pinned, no spinning.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            cpu: None,
            arena_bytes: 64 << 20,
            spin: false,
            ring_entries: 1024,
            io_operations: 4096,
            background_tasks: 64,
            links: LinkLimits::default(),
        }
    }
}

/// Limits of a thread's connections, and of what a peer may do to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkLimits {
    /// Links that are served (R43: 4,096). Beyond, a link is opened with `over_limit` so that it can be told `Busy`.
    pub links: usize,
    /// Links at all; beyond, a connection is closed as soon as it is accepted.
    pub links_cap: usize,
    /// From accepting a connection to its first whole head.
    pub hello_timeout: u64,
    /// From a frame's first byte to its whole head.
    pub head_timeout: u64,
    /// Without any frame, either way. `None`: for ever.
    pub idle_timeout: Option<u64>,
    /// From `connect` to the connection.
    pub connect_timeout: u64,
    /// Payload and queued bytes move at least this fast, per second, on top of `head_timeout`.
    pub rate_bytes_min: u64,
    /// Bytes queued to be sent on one link, payloads included. A frame is refused when the queue is longer already.
    pub queue_bytes_max: usize,
    /// Bytes of frames queued to be sent on all links together; payloads apart, which lie in the arena. A link on which more than a part of
    /// what is left is queued isn't read; where nothing is left, the link with most of it is closed.
    pub queue_bytes_total_max: usize,
    /// Bytes held for half-received heads of all links together.
    pub stash_bytes_max: usize,
}

impl Default for LinkLimits {
    fn default() -> Self {
        Self {
            links: 4096,
            links_cap: 4096 + 512,
            hello_timeout: 5 * Nanos::SECOND,
            head_timeout: 5 * Nanos::SECOND,
            idle_timeout: Some(60 * Nanos::SECOND),
            connect_timeout: 5 * Nanos::SECOND,
            rate_bytes_min: 64 << 10,
            queue_bytes_max: 8 << 20,
            queue_bytes_total_max: 128 << 20,
            stash_bytes_max: 64 << 20,
        }
    }
}

impl LinkLimits {
    /// How long `bytes` may take.
    pub(crate) fn transfer_time(&self, bytes: usize) -> u64 {
        let nanoseconds = bytes as u64 * Nanos::SECOND / self.rate_bytes_min.max(1);
        self.head_timeout + nanoseconds
    }
}
