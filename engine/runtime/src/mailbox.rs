//! Bounded queues between threads: lock-free, and a system call only when the receiver sleeps.
//!
//! A receiver belongs to a runtime thread, once it is given to [`Io::attach`](crate::Io::attach) (then `on_mail` says that there may be
//! items), or to a plain thread, which waits with [`Receiver::recv_timeout`].

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering, fence};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use crossbeam::queue::ArrayQueue;
use crossbeam::sync::{Parker, Unparker};
use wire::Nanos;

use crate::clock;
use crate::wake::Wake;

#[derive(Debug)]
struct Shared<T> {
    queue: ArrayQueue<T>,
    /// The runtime thread that receives; a plain thread parks instead.
    wake: OnceLock<Arc<Wake>>,
    parked: AtomicBool,
    unparker: Unparker,
    senders: AtomicUsize,
    closed: AtomicBool,
}

impl<T> Shared<T> {
    fn drain(&self) {
        while self.queue.pop().is_some() {}
    }

    fn notify(&self) {
        // Against `attach` and `recv_timeout`: either they see the item, or this sees them.
        fence(Ordering::SeqCst);
        if let Some(wake) = self.wake.get() {
            wake.wake();
        } else if self.parked.load(Ordering::Relaxed) {
            self.unparker.unpark();
        }
    }
}

/// The sending end; cloned for each thread that sends.
#[derive(Debug)]
pub struct Sender<T> {
    shared: Arc<Shared<T>>,
}

/// The receiving end.
#[derive(Debug)]
pub struct Receiver<T> {
    shared: Arc<Shared<T>>,
    parker: Parker,
}

/// A queue of at most `capacity` items.
pub fn mailbox<T: Send>(capacity: usize) -> (Sender<T>, Receiver<T>) {
    let parker = Parker::new();
    let shared = Arc::new(Shared {
        queue: ArrayQueue::new(capacity),
        wake: OnceLock::new(),
        parked: AtomicBool::new(false),
        unparker: parker.unparker().clone(),
        senders: AtomicUsize::new(1),
        closed: AtomicBool::new(false),
    });
    (Sender { shared: Arc::clone(&shared) }, Receiver { shared, parker })
}

impl<T> Sender<T> {
    /// Puts an item into the queue and wakes the receiver. `Err` gives it back: the queue is full, or the receiver is gone.
    pub fn send(&self, item: T) -> Result<(), T> {
        if self.shared.closed.load(Ordering::Acquire) {
            return Err(item);
        }
        self.shared.queue.push(item)?;
        self.shared.notify();
        // The receiver may have gone between the two: nobody takes the item out, and who waits for an answer to it would wait for ever.
        if self.is_closed() {
            self.shared.drain();
        }
        Ok(())
    }

    /// Whether the receiver is gone.
    pub fn is_closed(&self) -> bool {
        self.shared.closed.load(Ordering::Acquire)
    }

    /// Items in the queue, roughly.
    pub fn len(&self) -> usize {
        self.shared.queue.len()
    }

    /// Whether the queue is empty, roughly.
    pub fn is_empty(&self) -> bool {
        self.shared.queue.is_empty()
    }
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        self.shared.senders.fetch_add(1, Ordering::Relaxed);
        Self { shared: Arc::clone(&self.shared) }
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        if self.shared.senders.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.shared.notify();
        }
    }
}

impl<T> Receiver<T> {
    /// The next item, if there is one.
    pub fn pop(&self) -> Option<T> {
        self.shared.queue.pop()
    }

    /// Whether the queue is empty.
    pub fn is_empty(&self) -> bool {
        self.shared.queue.is_empty()
    }

    /// Whether all senders are gone; items may still be there.
    pub fn is_disconnected(&self) -> bool {
        self.shared.senders.load(Ordering::Acquire) == 0
    }

    /// For a plain thread: waits for an item. `None`: none came in time, or none can come any more.
    pub fn recv_timeout(&self, timeout: Duration) -> Option<T> {
        let until = clock::now().after(u64::try_from(timeout.as_nanos()).unwrap_or(u64::MAX));
        loop {
            self.shared.parked.store(true, Ordering::Release);
            fence(Ordering::SeqCst);
            let item = self.pop();
            let disconnected = self.is_disconnected();
            let left = until.since(clock::now());
            if item.is_some() || disconnected || left == 0 {
                self.shared.parked.store(false, Ordering::Relaxed);
                // A sender may have put its item between the two looks, and gone.
                return item.or_else(|| self.pop());
            }
            self.parker.park_timeout(Duration::from_nanos(left.min(3600 * Nanos::SECOND)));
        }
    }

    pub(crate) fn attach(&self, wake: &Arc<Wake>) {
        let set = self.shared.wake.set(Arc::clone(wake));
        assert!(set.is_ok(), "a receiver belongs to one thread");
        fence(Ordering::SeqCst);
        // What was sent before is looked for in the first turn.
        wake.wake();
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        self.shared.closed.store(true, Ordering::Release);
        // Against `send`: either its item is seen here, or it sees this.
        fence(Ordering::SeqCst);
        self.shared.drain();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spawn_thread;

    #[test]
    fn full_and_closed_give_the_item_back() {
        let (sender, receiver) = mailbox(2);
        assert_eq!((sender.send(1), sender.send(2), sender.send(3)), (Ok(()), Ok(()), Err(3)));
        assert_eq!(receiver.pop(), Some(1));
        drop(receiver);
        assert_eq!(sender.send(4), Err(4));
        assert!(sender.is_closed());
    }

    #[test]
    fn a_plain_thread_receives_everything() {
        let (sender, receiver) = mailbox::<u64>(4);
        let threads: Vec<_> = (0..4_u64)
            .map(|thread| {
                let sender = sender.clone();
                spawn_thread("sender", None, move || {
                    for number in 0..500 {
                        let mut item = thread << 32 | number;
                        while let Err(back) = sender.send(item) {
                            item = back;
                            std::thread::yield_now();
                        }
                    }
                })
                .expect("a thread")
            })
            .collect();
        drop(sender);
        let mut next = [0_u64; 4];
        while let Some(item) = receiver.recv_timeout(Duration::from_secs(20)) {
            let next = &mut next[usize::try_from(item >> 32).expect("small")];
            assert_eq!(item & 0xffff_ffff, *next, "one sender's items stay in order");
            *next += 1;
        }
        assert_eq!(next, [500; 4]);
        assert!(receiver.is_disconnected());
        for thread in threads {
            thread.join().expect("ended well");
        }
    }

    /// What was sent in the moment in which the receiver went stayed in the queue as long as there was a sender, and with it the replier that somebody waited for.
    #[test]
    fn nothing_stays_behind() {
        for round in 0..2000 {
            let (sender, receiver) = mailbox::<Arc<()>>(8);
            let item = Arc::new(());
            let thread = spawn_thread("dropper", None, move || drop(receiver)).expect("a thread");
            for _ in 0..round % 40 {
                let _ = sender.send(Arc::clone(&item));
            }
            thread.join().expect("ended well");
            let _ = sender.send(Arc::clone(&item));
            assert_eq!(Arc::strong_count(&item), 1);
        }
    }

    #[test]
    fn waiting_ends() {
        let (sender, receiver) = mailbox::<u64>(1);
        assert_eq!(receiver.recv_timeout(Duration::from_millis(5)), None);
        drop(sender);
        assert_eq!(receiver.recv_timeout(Duration::from_secs(59)), None);
    }
}
