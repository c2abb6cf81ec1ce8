//! Waking a thread from outside: a flag that it looks at each turn, and an eventfd that is written only while it sleeps.
//!
//! Waker: set `pending`, fence, look at `asleep`. Sleeper: set `asleep`, fence, look at `pending`. One of the two sees the other,
//! so no wake-up is lost, and a thread that is awake costs its wakers no system call.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering, fence};

use crate::sys;

/// How others reach one thread.
#[derive(Debug)]
pub(crate) struct Wake {
    pending: AtomicBool,
    asleep: AtomicBool,
    stop: AtomicBool,
    bell: OwnedFd,
}

impl Wake {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self {
            pending: AtomicBool::new(false),
            asleep: AtomicBool::new(false),
            stop: AtomicBool::new(false),
            bell: sys::eventfd()?,
        })
    }

    /// The eventfd whose reading ends the thread's sleep.
    pub(crate) fn bell(&self) -> &OwnedFd {
        &self.bell
    }

    /// Something waits for the thread.
    pub(crate) fn wake(&self) {
        self.pending.store(true, Ordering::Release);
        fence(Ordering::SeqCst);
        if self.asleep.load(Ordering::Relaxed) && self.asleep.swap(false, Ordering::AcqRel) {
            sys::ring_bell(self.bell.as_fd());
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
    pub(crate) fn try_sleep(&self) -> bool {
        self.asleep.store(true, Ordering::Release);
        fence(Ordering::SeqCst);
        if self.pending.load(Ordering::Relaxed) {
            self.asleep.store(false, Ordering::Relaxed);
            return false;
        }
        true
    }

    /// The thread is awake.
    pub(crate) fn awake(&self) {
        self.asleep.store(false, Ordering::Release);
    }
}
