//! The load: one lean client on one pinned thread with one connection to the shard and one to the metadata replica.
//!
//! It keeps a fixed number of operations in flight (a closed loop) and speaks the protocol through `wire`, as any client does: leaves and roots are
//! computed for every put, every byte that is read back is verified against its root, a create counts when its commit was answered. Unlike the
//! client library it copies nothing, so that what is measured is the server.

mod client;
mod flight;

use std::net::SocketAddr;
use std::time::Duration;

use hdrhistogram::Histogram;
use runtime::ceiling::Order;
use runtime::{Sender, ThreadConfig, ThreadHandle, mailbox};
use thiserror::Error;

use client::{Client, Command};

/// What is done over and over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// Puts new chunks of this size.
    Put {
        /// A chunk's bytes.
        bytes: u32,
    },
    /// Gets chunks of this size that were put before, and verifies them.
    Get {
        /// A chunk's bytes.
        bytes: u32,
        /// Anywhere, or in the order of the puts, over and over.
        order: Order,
    },
    /// Gets the chunks of this size from number `first` on, each once, and verifies them.
    Check {
        /// A chunk's bytes.
        bytes: u32,
        /// Where to begin in the order of the puts.
        first: usize,
    },
    /// Creates files of one chunk of this size: a put, then a commit.
    Create {
        /// The file's bytes.
        bytes: u32,
    },
}

/// One measurement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Job {
    /// What is done.
    pub what: What,
    /// Operations in flight, at most [`WINDOW_MAX`].
    pub window: u32,
    /// Operations, at most.
    pub operations: u64,
    /// No operation begins after so long.
    pub time: Duration,
}

/// Operations in flight of one job, at most: fewer than the unacknowledged mutations that a session may have.
pub const WINDOW_MAX: u32 = 128;

/// What a job did.
#[derive(Clone, Debug)]
pub struct Tally {
    /// Operations that ended well; any other end fails the job.
    pub operations: u64,
    /// Their bytes.
    pub bytes: u64,
    /// From the first beginning to the last end.
    pub nanoseconds: u64,
    /// CPU time of the client's thread meanwhile.
    pub client_cpu_nanoseconds: u64,
    /// Time of each operation, in nanoseconds.
    pub latency: Histogram<u64>,
    /// Chunks of this size that had been put before the job.
    pub chunks_before: usize,
}

impl Tally {
    /// Operations a second.
    pub fn operations_per_second(&self) -> f64 {
        per_second(self.operations, self.nanoseconds)
    }

    /// Bytes a second.
    pub fn bytes_per_second(&self) -> f64 {
        per_second(self.bytes, self.nanoseconds)
    }

    /// Fraction of the time in which the client's thread was on its CPU.
    pub fn client_busy(&self) -> f64 {
        per_second(self.client_cpu_nanoseconds, self.nanoseconds) / 1e9
    }
}

#[expect(clippy::cast_precision_loss, reason = "rates are for people")]
fn per_second(count: u64, nanoseconds: u64) -> f64 {
    count as f64 * 1e9 / nanoseconds.max(1) as f64
}

/// Why a load ended early.
#[derive(Debug, Error)]
pub enum LoadError {
    /// The thread can't be started.
    #[error(transparent)]
    Start(#[from] runtime::StartError),
    /// The server refused something, or the connection broke.
    #[error("the load failed: {0}")]
    Failed(String),
    /// Nothing was heard for a long time.
    #[error("the load got no answer in time")]
    Silent,
}

/// A connected client.
#[derive(Debug)]
pub struct Load {
    thread: Option<ThreadHandle>,
    mail: Sender<Command>,
}

/// Connecting takes no longer.
const CONNECT_TIME_MAX: Duration = Duration::from_secs(20);
/// A job takes no longer than its time and this: what was begun ends, and a slow machine reads its working set.
const ENDING_TIME_MAX: Duration = Duration::from_mins(2);
const ARENA_BYTES: usize = 256 << 20;

impl Load {
    /// Connects to the metadata replica at `endpoint`, then to the first shard in its map, and makes a volume.
    pub fn connect(endpoint: SocketAddr, cpu: Option<usize>) -> Result<Self, LoadError> {
        let mut config = ThreadConfig::new("perf-load");
        config.cpu = cpu;
        config.arena_bytes = ARENA_BYTES;
        config.links.queue_bytes_max = 256 << 20;
        config.links.idle_timeout = None;
        let (mail, inbox) = mailbox(4);
        let (replier, mut reply) = runtime::reply();
        let thread = runtime::serve(config, move |io| Client::new(io, endpoint, inbox, replier))?;
        let load = Self { thread: Some(thread), mail };
        answer(reply.wait_timeout(CONNECT_TIME_MAX))?;
        Ok(load)
    }

    /// Does a job to its end.
    pub fn run(&self, job: Job) -> Result<Tally, LoadError> {
        assert!((1..=WINDOW_MAX).contains(&job.window), "a window within its limit");
        let (replier, mut reply) = runtime::reply();
        let ended = || LoadError::Failed("the client's thread has ended".into());
        self.mail.send(Command { job, replier }).map_err(|_| ended())?;
        answer(reply.wait_timeout(job.time + ENDING_TIME_MAX))
    }
}

fn answer<T>(answer: Option<Result<Result<T, String>, runtime::Unanswered>>) -> Result<T, LoadError> {
    match answer {
        Some(Ok(result)) => result.map_err(LoadError::Failed),
        Some(Err(_)) => Err(LoadError::Failed("the client's thread has ended".into())),
        None => Err(LoadError::Silent),
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        if let Some(thread) = self.thread.take() {
            thread.stop();
            // A client that panicked has said so itself.
            let _ = thread.join();
        }
    }
}
