//! One value from one thread to another, once: for answers that a plain thread or any async runtime waits for.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering, fence};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;
use std::time::Duration;

use crossbeam::atomic::AtomicCell;
use thiserror::Error;

use crate::clock;

/// The other side was dropped without an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the answering side is gone")]
pub struct Unanswered;

struct Shared<T> {
    value: AtomicCell<Option<T>>,
    waker: AtomicCell<Option<Waker>>,
    state: AtomicU8,
}

const WAITING: u8 = 0;
const ANSWERED: u8 = 1;
const DROPPED: u8 = 2;

/// The side that answers.
pub struct Replier<T> {
    shared: Arc<Shared<T>>,
}

/// The side that waits: a future, and a blocking wait.
pub struct Reply<T> {
    shared: Arc<Shared<T>>,
}

impl<T> std::fmt::Debug for Replier<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Replier")
    }
}

impl<T> std::fmt::Debug for Reply<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Reply")
    }
}

/// A place for one answer.
pub fn reply<T: Send>() -> (Replier<T>, Reply<T>) {
    let shared = Arc::new(Shared {
        value: AtomicCell::new(None),
        waker: AtomicCell::new(None),
        state: AtomicU8::new(WAITING),
    });
    (Replier { shared: Arc::clone(&shared) }, Reply { shared })
}

impl<T> Shared<T> {
    fn finish(&self, state: u8) {
        self.state.store(state, Ordering::Release);
        // Against `poll`: either it sees the state, or this sees its waker.
        fence(Ordering::SeqCst);
        if let Some(waker) = self.waker.swap(None) {
            waker.wake();
        }
    }

    fn take(&self) -> Option<Result<T, Unanswered>> {
        match self.state.load(Ordering::Acquire) {
            WAITING => None,
            ANSWERED => Some(self.value.swap(None).ok_or(Unanswered)),
            _ => Some(Err(Unanswered)),
        }
    }
}

impl<T> Replier<T> {
    /// Answers.
    pub fn send(self, value: T) {
        self.shared.value.store(Some(value));
        self.shared.finish(ANSWERED);
    }
}

impl<T> Drop for Replier<T> {
    fn drop(&mut self) {
        if self.shared.state.load(Ordering::Acquire) == WAITING {
            self.shared.finish(DROPPED);
        }
    }
}

impl<T> Future for Reply<T> {
    type Output = Result<T, Unanswered>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        if let Some(result) = self.shared.take() {
            return Poll::Ready(result);
        }
        self.shared.waker.store(Some(context.waker().clone()));
        fence(Ordering::SeqCst);
        self.shared.take().map_or(Poll::Pending, Poll::Ready)
    }
}

impl<T> Reply<T> {
    /// Blocks the calling thread until the answer is there; `None`: it didn't come in time, and may be waited for again.
    pub fn wait_timeout(&mut self, timeout: Duration) -> Option<Result<T, Unanswered>> {
        let until = clock::now().after(u64::try_from(timeout.as_nanos()).unwrap_or(u64::MAX));
        let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
        loop {
            if let Poll::Ready(result) = Pin::new(&mut *self).poll(&mut Context::from_waker(&waker)) {
                return Some(result);
            }
            let left = until.since(clock::now());
            if left == 0 {
                return None;
            }
            std::thread::park_timeout(Duration::from_nanos(left));
        }
    }
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spawn_thread;

    #[test]
    fn answers_cross_threads() {
        for round in 0..200_u64 {
            let (replier, mut answer) = reply();
            let thread = spawn_thread("answer", None, move || replier.send(round)).expect("a thread");
            assert_eq!(answer.wait_timeout(Duration::from_secs(20)), Some(Ok(round)));
            thread.join().expect("ended well");
        }
    }

    #[test]
    fn silence_and_absence_differ() {
        let (replier, mut answer) = reply::<u64>();
        assert_eq!(answer.wait_timeout(Duration::from_millis(2)), None);
        drop(replier);
        assert_eq!(answer.wait_timeout(Duration::from_secs(20)), Some(Err(Unanswered)));
    }
}
