//! Waking a thread from outside: a flag that it looks at each turn, and an eventfd that is written only while it sleeps.
//!
//! Waker: set `pending`, fence, look at `sleeping`. Sleeper: set `sleeping`, fence, look at `pending`. One of the two sees the
//! other, so no wake-up is lost, and a thread that is awake costs its wakers no system call.
//!
//! A thread sleeps in its uring, or, while it has background tasks, in its executor; each has a bell of its own. It wouldn't do to
//! ring the uring's bell and let the uring's completion ring the executor's: an eventfd that is signalled from within a write to
//! another one is signalled later, by RCU, and Linux 6.18 does that once in the uring's life and then never again.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering, fence};

use crate::sys;

/// Where a thread sleeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bed {
    /// In `io_uring_enter`, with a read of the uring's bell in flight.
    Uring,
    /// In its executor, which reads the other bell.
    Executor,
}

/// How others reach one thread.
#[derive(Debug)]
pub(crate) struct Wake {
    pending: AtomicBool,
    sleeping: AtomicU8,
    stop: AtomicBool,
    uring_bell: OwnedFd,
    executor_bell: OwnedFd,
}

const AWAKE: u8 = 0;
const IN_URING: u8 = 1;
const IN_EXECUTOR: u8 = 2;

impl Wake {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self {
            pending: AtomicBool::new(false),
            sleeping: AtomicU8::new(AWAKE),
            stop: AtomicBool::new(false),
            uring_bell: sys::eventfd()?,
            executor_bell: sys::eventfd()?,
        })
    }

    /// The eventfd whose reading ends the thread's sleep there.
    pub(crate) fn bell(&self, bed: Bed) -> &OwnedFd {
        match bed {
            Bed::Uring => &self.uring_bell,
            Bed::Executor => &self.executor_bell,
        }
    }

    /// Something waits for the thread.
    pub(crate) fn wake(&self) {
        self.pending.store(true, Ordering::Release);
        fence(Ordering::SeqCst);
        if self.sleeping.load(Ordering::Relaxed) == AWAKE {
            return;
        }
        match self.sleeping.swap(AWAKE, Ordering::AcqRel) {
            IN_URING => sys::ring_bell(self.uring_bell.as_fd()),
            IN_EXECUTOR => sys::ring_bell(self.executor_bell.as_fd()),
            _ => {}
        }
    }

    /// Asks the thread to stop.
    pub(crate) fn stop(&self) {
        self.stop.store(true, Ordering::Release);
        self.wake();
    }

    /// Whether the thread was asked to stop; says so once.
    pub(crate) fn take_stop(&self) -> bool {
        self.stop.load(Ordering::Relaxed) && self.stop.swap(false, Ordering::AcqRel)
    }

    /// Whether something waits; what waits now is the caller's to look for.
    pub(crate) fn take_pending(&self) -> bool {
        self.pending.load(Ordering::Relaxed) && self.pending.swap(false, Ordering::AcqRel)
    }

    /// Whether something waits.
    pub(crate) fn is_pending(&self) -> bool {
        self.pending.load(Ordering::Acquire)
    }

    /// The thread is about to sleep; `false`: it mustn't, something waits.
    pub(crate) fn try_sleep(&self, bed: Bed) -> bool {
        let place = match bed {
            Bed::Uring => IN_URING,
            Bed::Executor => IN_EXECUTOR,
        };
        self.sleeping.store(place, Ordering::Release);
        fence(Ordering::SeqCst);
        if self.pending.load(Ordering::Relaxed) {
            self.sleeping.store(AWAKE, Ordering::Relaxed);
            return false;
        }
        true
    }

    /// The thread is awake.
    pub(crate) fn awake(&self) {
        self.sleeping.store(AWAKE, Ordering::Release);
    }
}
