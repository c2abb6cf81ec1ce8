//! The handle on the executor thread that all public types share: calls as futures, errors in the caller's words, the budget of chunk bytes.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use crossbeam::atomic::AtomicCell;
use crossbeam::queue::SegQueue;
use placement::ClusterMap;
use runtime::{LinkLimits, Reply, ThreadConfig, ThreadHandle, mailbox, reply, serve};
use wire::message::ShardState;
use wire::meta::{Answer, Operation, Outcome, Query};
use wire::{GroupId, Nanos, Status, Version};

use crate::buffers::Buffers;
use crate::core::{Call, Failure, LINKS_MAX, Settings, Ticket, UploadId};
use crate::executor::{
    self, Closing, Command, Executor, MAILBOX_CAPACITY, Outlet, Outward, Resolve, Value, Wanted,
};
use crate::{Config, Error, Subject, UnavailableReason};

/// A handle on the executor thread.
#[derive(Clone, Debug)]
pub(crate) struct Handle {
    shared: Arc<Shared>,
    /// Of each request, in nanoseconds.
    patience: u64,
}

struct Shared {
    outlet: Arc<Outlet>,
    thread: AtomicCell<Option<ThreadHandle>>,
    tickets: AtomicU64,
    budget: Arc<Budget>,
    buffers: Arc<Buffers>,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("budget", &self.budget).finish_non_exhaustive()
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        if let Some(thread) = self.thread.take() {
            thread.stop();
        }
    }
}

impl Handle {
    /// Starts the executor thread.
    pub(crate) fn start(config: Config) -> Result<Self, Error> {
        Self::start_with(config, executor::resolve)
    }

    /// Starts it with a way of its own to look names up.
    pub(crate) fn start_with(config: Config, resolve: Resolve) -> Result<Self, Error> {
        let seed = config.seed.unwrap_or_else(|| u64::from_le_bytes(runtime::clock::random_bytes()));
        let settings = Settings {
            endpoints: config.endpoints.iter().map(|endpoint| Arc::from(endpoint.as_str())).collect(),
            name: config.name,
            window_bytes: config.window_bytes as u64,
            seed,
        };
        let (sender, receiver) = mailbox(MAILBOX_CAPACITY);
        let outlet = Arc::new(Outlet { sender, closings: SegQueue::new(), waiting: SegQueue::new() });
        let for_thread = Arc::clone(&outlet);
        let thread = ThreadConfig {
            // The window on its way, and as much again that is queued, being verified or cut up by the arena's powers of two.
            arena_bytes: 2 * config.window_bytes + ARENA_SPARE_BYTES,
            links: LinkLimits {
                links: 2 * LINKS_MAX,
                links_cap: 2 * LINKS_MAX,
                // The core closes what is idle, and its window bounds what is queued.
                idle_timeout: None,
                queue_bytes_max: 2 * config.window_bytes + ARENA_SPARE_BYTES,
                ..LinkLimits::default()
            },
            ..ThreadConfig::new("catena-client")
        };
        let buffers = Buffers::new(config.window_bytes / BUFFERS_SHARE);
        let outward = Outward { outlet: for_thread, buffers: Arc::clone(&buffers) };
        let thread = serve(thread, move |io| Executor::new(settings, receiver, outward, resolve, io))
            .map_err(|error| Error::Start(error.to_string()))?;
        let shared = Shared {
            outlet,
            thread: AtomicCell::new(Some(thread)),
            tickets: AtomicU64::new(1),
            budget: Arc::new(Budget { limit: config.window_bytes, used: AtomicUsize::new(0) }),
            buffers,
        };
        let patience = nanoseconds(config.deadline);
        Ok(Self { shared: Arc::new(shared), patience })
    }

    pub(crate) fn with_deadline(&self, deadline: Duration) -> Self {
        Self { patience: nanoseconds(deadline), ..self.clone() }
    }

    pub(crate) fn deadline(&self) -> Duration {
        Duration::from_nanos(self.patience)
    }

    /// Ends the thread and waits for that.
    pub(crate) fn close(&self) {
        if let Some(thread) = self.shared.thread.take() {
            thread.stop();
            let _ = thread.join();
        }
    }

    pub(crate) fn budget(&self) -> &Arc<Budget> {
        &self.shared.budget
    }

    pub(crate) fn buffers(&self) -> &Buffers {
        &self.shared.buffers
    }

    /// Sends a call; it is on its way when this returns, unless the mailbox is full.
    pub(crate) fn call(&self, call: Call) -> CallFuture {
        self.send(Wanted::Call(call))
    }

    /// Sends a chunk of an upload.
    pub(crate) fn put(&self, upload: UploadId, bytes: Vec<u8>) -> CallFuture {
        self.send(Wanted::Put { upload, bytes })
    }

    fn send(&self, wanted: Wanted) -> CallFuture {
        let ticket = Ticket(self.shared.tickets.fetch_add(1, Ordering::Relaxed));
        let is_mutation = matches!(wanted, Wanted::Call(Call::Mutate { .. }));
        let (replier, reply) = reply();
        let command = Command::Call { ticket, wanted, patience: self.patience, replier };
        let mut future = CallFuture {
            // The future keeps the thread alive: an operation outlives the last handle.
            shared: Arc::clone(&self.shared),
            ticket,
            unsent: Some(command),
            reply,
            is_mutation,
            is_done: false,
        };
        future.try_send();
        future
    }

    pub(crate) async fn map(&self, what: &Subject) -> Result<Arc<ClusterMap>, Error> {
        match self.call(Call::Map).await {
            Ok(Value::Map(map)) => Ok(map),
            Ok(_) => Err(self.protocol_error(what.clone())),
            Err(failure) => Err(self.error(failure, what)),
        }
    }

    pub(crate) async fn query(&self, group: GroupId, query: Query, what: &Subject) -> Result<Answer, Error> {
        match self.call(Call::Query { group, query: Box::new(query) }).await {
            Ok(Value::Answer(answer)) => Ok(*answer),
            Ok(_) => Err(self.protocol_error(what.clone())),
            Err(failure) => Err(self.error(failure, what)),
        }
    }

    pub(crate) async fn mutate(
        &self,
        group: GroupId,
        upload: Option<UploadId>,
        operation: Operation,
        what: &Subject,
    ) -> Result<Outcome, Error> {
        match self.call(Call::Mutate { group, upload, operation: Box::new(operation) }).await {
            Ok(Value::Outcome(outcome)) if outcome.status == Status::Ok => Ok(*outcome),
            Ok(Value::Outcome(outcome)) => {
                let Outcome { status, depth, version, .. } = *outcome;
                Err(Error::from_status(status, depth, version, what.clone(), ""))
            }
            Ok(_) => Err(self.protocol_error(what.clone())),
            Err(failure) => Err(self.error(failure, what)),
        }
    }

    pub(crate) async fn shard_state(&self, address: &str) -> Result<Box<ShardState>, Error> {
        let what = Subject::Cluster;
        match self.call(Call::ShardState { address: Arc::from(address) }).await {
            Ok(Value::ShardState(state)) => Ok(state),
            Ok(_) => Err(self.protocol_error(what)),
            Err(failure) => Err(self.error(failure, &what)),
        }
    }

    /// A failure in the caller's words. What is wrong with a chunk is said by whoever knows its place in a file.
    pub(crate) fn error(&self, failure: Failure, what: &Subject) -> Error {
        let what = what.clone();
        match failure {
            Failure::Refused { status, depth, version, address } => {
                Error::from_status(status, depth, version, what, &address)
            }
            Failure::Busy { address } => Error::Busy { what, endpoint: address.to_string() },
            Failure::Unavailable { address, reason } => {
                Error::Unavailable { what, endpoint: address.to_string(), reason }
            }
            Failure::Timeout { address } => {
                let waited_ms = self.patience / Nanos::MILLISECOND;
                Error::Timeout { what, endpoint: address.to_string(), waited_ms }
            }
            Failure::Unknown => Error::OutcomeUnknown { what },
            Failure::SessionExpired => Error::SessionExpired { what },
            Failure::IdTaken { chunk, address } => {
                Error::IdTaken { what, chunk, endpoint: address.to_string() }
            }
            Failure::TooLarge => Error::TooLarge { what },
            Failure::Missing { address } => {
                Error::from_status(Status::NotFound, 0, Version::default(), what, &address)
            }
            Failure::Corrupt { address } => Error::StoreFailed { what, endpoint: address.to_string() },
        }
    }

    /// The server answered something that isn't an answer to the question.
    pub(crate) fn protocol_error(&self, what: Subject) -> Error {
        let _ = self;
        Error::Unavailable {
            what,
            endpoint: "the metadata group".to_owned(),
            reason: UnavailableReason::Protocol,
        }
    }
}

/// A call that is under way. Dropped before its end, it is cancelled.
pub(crate) struct CallFuture {
    shared: Arc<Shared>,
    ticket: Ticket,
    /// The mailbox was full.
    unsent: Option<Command>,
    reply: Reply<Result<Value, Failure>>,
    is_mutation: bool,
    is_done: bool,
}

impl std::fmt::Debug for CallFuture {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CallFuture").field("ticket", &self.ticket).finish_non_exhaustive()
    }
}

impl CallFuture {
    /// Sends it if the mailbox was full when it was made. For calls that nobody awaits.
    pub(crate) fn send_again(&mut self) {
        self.try_send();
    }

    /// Whether it is sent now, or never can be.
    fn try_send(&mut self) -> bool {
        let Some(command) = self.unsent.take() else { return true };
        match self.shared.outlet.sender.send(command) {
            Ok(()) => true,
            Err(command) if self.shared.outlet.sender.is_closed() => {
                // Dropping its replier answers it.
                drop(command);
                true
            }
            Err(command) => {
                self.unsent = Some(command);
                false
            }
        }
    }
}

impl Future for CallFuture {
    type Output = Result<Value, Failure>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        if !this.try_send() {
            this.shared.outlet.waiting.push(context.waker().clone());
            // The thread may have emptied the mailbox between the two.
            if !this.try_send() {
                return Poll::Pending;
            }
        }
        let result = std::task::ready!(Pin::new(&mut this.reply).poll(context));
        this.is_done = true;
        Poll::Ready(result.unwrap_or_else(|_| {
            // The thread is gone; what it had sent is out there.
            Err(if this.is_mutation {
                Failure::Unknown
            } else {
                Failure::Unavailable {
                    address: Arc::from("this client"),
                    reason: UnavailableReason::Shutdown,
                }
            })
        }))
    }
}

impl Drop for CallFuture {
    fn drop(&mut self) {
        if !self.is_done && self.unsent.is_none() {
            self.shared.outlet.close(Closing::Call(self.ticket));
        }
    }
}

/// Chunk bytes that all transfers of a client have in flight or read ahead. It never makes anybody wait for somebody else's buffers, who may be
/// waiting in turn: without room, a transfer goes on with one chunk at a time.
#[derive(Debug)]
pub(crate) struct Budget {
    limit: usize,
    used: AtomicUsize,
}

/// A share of the budget; given back when dropped.
#[derive(Debug)]
pub(crate) struct Share {
    budget: Arc<Budget>,
    bytes: usize,
}

impl Budget {
    /// A share, if there is room.
    pub(crate) fn try_take(self: &Arc<Self>, bytes: usize) -> Option<Share> {
        let fits = |used: usize| used.checked_add(bytes).filter(|sum| *sum <= self.limit);
        let taken = self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits);
        taken.ok().map(|_| Share { budget: Arc::clone(self), bytes })
    }

    /// A share, whether there is room or not: for a transfer's only chunk.
    pub(crate) fn take(self: &Arc<Self>, bytes: usize) -> Share {
        self.used.fetch_add(bytes, Ordering::Relaxed);
        Share { budget: Arc::clone(self), bytes }
    }
}

#[cfg(test)]
impl Budget {
    pub(crate) fn used_bytes(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.budget.used.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

fn nanoseconds(duration: Duration) -> u64 {
    // A deadline of 292 years is none.
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX).min(u64::MAX / 2)
}

/// A fourth of the window is kept in buffers between uses: those of the chunks that callers fill or read right now.
const BUFFERS_SHARE: usize = 4;
/// Room in the arena beyond the window: two chunks of the largest size, and small change.
const ARENA_SPARE_BYTES: usize = 16 << 20;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::executor::LastWake;
    use crate::pending::block_on;

    /// What a test waits at most for another thread.
    const PATIENCE: Duration = Duration::from_mins(1);

    /// A handle whose mailbox has room for one command, and that command in it.
    fn full() -> (Handle, runtime::Receiver<Command>, Arc<Outlet>) {
        let (sender, receiver) = mailbox(1);
        let outlet = Arc::new(Outlet { sender, closings: SegQueue::new(), waiting: SegQueue::new() });
        outlet.sender.send(Command::Nudge).expect("room for one");
        let shared = Shared {
            outlet: Arc::clone(&outlet),
            thread: AtomicCell::new(None),
            tickets: AtomicU64::new(1),
            budget: Arc::new(Budget { limit: 0, used: AtomicUsize::new(0) }),
            buffers: Buffers::new(0),
        };
        (Handle { shared: Arc::new(shared), patience: 1 }, receiver, outlet)
    }

    /// The thread ended, and nobody woke who had found its mailbox full.
    #[test]
    fn who_waits_for_a_thread_that_ends_is_told() {
        let (handle, receiver, outlet) = full();
        let last_wake = LastWake(Arc::clone(&outlet));
        let (sender, answer) = std::sync::mpsc::channel();
        runtime::spawn_thread("waiting", None, move || {
            sender.send(block_on(handle.call(Call::Map)).is_err()).expect("somebody waits");
        })
        .expect("a thread");
        let begun = runtime::clock::now();
        while outlet.waiting.is_empty() {
            let waited = runtime::clock::now().since(begun);
            assert!(waited < nanoseconds(PATIENCE), "whoever found the mailbox full doesn't wait for room");
            std::thread::yield_now();
        }
        drop(receiver);
        drop(last_wake);
        assert_eq!(answer.recv_timeout(PATIENCE), Ok(true));
    }

    /// A pin that found the mailbox full was never sent: nobody awaits it.
    #[test]
    fn what_nobody_awaits_is_sent_again() {
        let (handle, receiver, _outlet) = full();
        let mut call = handle.call(Call::Map);
        call.send_again();
        assert!(matches!(receiver.pop(), Some(Command::Nudge)));
        assert!(receiver.pop().is_none());
        call.send_again();
        assert!(matches!(receiver.pop(), Some(Command::Call { .. })));
        call.send_again();
        assert!(receiver.pop().is_none(), "once");
    }
}
