//! An operation under way: a future for any async runtime, and something to wait for on a plain thread.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;

use crate::Error;

/// An operation that has been started. Await it in any async runtime, or [`wait`](Self::wait) on a plain thread.
///
/// Its first request is on its way when you get it, so that several can be started before one is waited for. Dropping it cancels
/// what was not sent yet; a mutation that was sent takes its course.
#[must_use = "the outcome of an operation says whether it happened"]
pub struct Pending<T> {
    state: State<T>,
}

enum State<T> {
    Running(Pin<Box<dyn Future<Output = Result<T, Error>> + Send>>),
    Done(Option<Result<T, Error>>),
}

impl<T> Unpin for Pending<T> {}

impl<T> Pending<T> {
    /// Starts `operation`.
    pub(crate) fn start(operation: impl Future<Output = Result<T, Error>> + Send + 'static) -> Self {
        let mut future: Pin<Box<dyn Future<Output = Result<T, Error>> + Send>> = Box::pin(operation);
        // The first poll sends the first request. Whoever waits polls again, with a waker of its own.
        match future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(result) => Self { state: State::Done(Some(result)) },
            Poll::Pending => Self { state: State::Running(future) },
        }
    }

    /// An operation that is done already.
    pub(crate) fn ready(result: Result<T, Error>) -> Self {
        Self { state: State::Done(Some(result)) }
    }

    /// Blocks this thread until the operation is done. Not for async code: await it there.
    pub fn wait(self) -> Result<T, Error> {
        block_on(self)
    }
}

impl<T> Future for Pending<T> {
    type Output = Result<T, Error>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        match &mut this.state {
            State::Done(result) => Poll::Ready(result.take().expect("a future isn't polled after its end")),
            State::Running(future) => {
                let result = std::task::ready!(future.as_mut().poll(context));
                this.state = State::Done(None);
                Poll::Ready(result)
            }
        }
    }
}

impl<T> std::fmt::Debug for Pending<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self.state {
            State::Running(_) => "Pending(running)",
            State::Done(_) => "Pending(done)",
        })
    }
}

/// Runs `future` to its end on this thread, which sleeps while there is nothing to do.
pub(crate) fn block_on<T>(future: impl Future<Output = T>) -> T {
    let mut future = std::pin::pin!(future);
    let waker = Waker::from(Arc::new(Unparker(std::thread::current())));
    let mut context = Context::from_waker(&waker);
    loop {
        match future.as_mut().poll(&mut context) {
            Poll::Ready(result) => return result,
            Poll::Pending => std::thread::park(),
        }
    }
}

struct Unparker(Thread);

impl Wake for Unparker {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.0.unpark();
    }
}
