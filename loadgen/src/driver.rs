//! One thread polls all lanes: who is woken is polled, history is written before what it tells of is sent, sleepers are woken in time.
//!
//! Nothing here is allocated for an operation: each lane is one future from its first operation to its last.

use std::cell::{Cell, RefCell};
use std::collections::BinaryHeap;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;
use std::time::Duration;

use crossbeam::queue::SegQueue;

/// What all lanes are woken through.
struct Bell {
    ready: SegQueue<usize>,
    thread: Thread,
}

/// Wakes one lane.
struct LaneWaker {
    lane: usize,
    is_queued: AtomicBool,
    bell: Arc<Bell>,
}

impl Wake for LaneWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.is_queued.swap(true, Ordering::AcqRel) {
            self.bell.ready.push(self.lane);
            self.bell.thread.unpark();
        }
    }
}

/// What lanes ask of the thread that polls them.
#[derive(Debug, Default)]
pub(crate) struct Desk {
    /// Lines of the history that aren't written.
    pub(crate) lines: RefCell<Vec<u8>>,
    /// Lanes that wait until they are.
    waiting: RefCell<Vec<Waker>>,
    /// Lanes that sleep, by when: earliest first.
    sleeping: RefCell<BinaryHeap<Sleeper>>,
    has_history: bool,
    /// How often lines were written.
    writes: Cell<u64>,
}

#[derive(Debug)]
struct Sleeper {
    until: u64,
    waker: Waker,
}

impl PartialEq for Sleeper {
    fn eq(&self, other: &Self) -> bool {
        self.until == other.until
    }
}

impl Eq for Sleeper {}

impl PartialOrd for Sleeper {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Sleeper {
    /// The heap's greatest is the earliest.
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        other.until.cmp(&self.until)
    }
}

impl Desk {
    pub(crate) fn new(has_history: bool) -> Self {
        Self { has_history, ..Self::default() }
    }

    pub(crate) fn has_history(&self) -> bool {
        self.has_history
    }

    /// Until every line so far is with the system.
    pub(crate) async fn written(&self) {
        let before = self.writes.get();
        std::future::poll_fn(|context| {
            // Whoever is woken for another reason waits on.
            if self.writes.get() > before || !self.has_history() {
                return Poll::Ready(());
            }
            self.waiting.borrow_mut().push(context.waker().clone());
            Poll::Pending
        })
        .await;
    }

    /// Until this time.
    pub(crate) async fn sleep(&self, until: u64) {
        std::future::poll_fn(|context| {
            if runtime::clock::now().0 >= until {
                return Poll::Ready(());
            }
            self.sleeping.borrow_mut().push(Sleeper { until, waker: context.waker().clone() });
            Poll::Pending
        })
        .await;
    }

    /// Writes what has gathered, and wakes who waited for it.
    fn write(&self, history: &mut Option<&mut dyn io::Write>, at_least: usize) -> io::Result<()> {
        let mut lines = self.lines.borrow_mut();
        if self.waiting.borrow().is_empty() && lines.len() < at_least.max(1) {
            return Ok(());
        }
        if let Some(history) = history {
            history.write_all(&lines)?;
        }
        lines.clear();
        self.writes.set(self.writes.get() + 1);
        self.waiting.borrow_mut().drain(..).for_each(Waker::wake);
        Ok(())
    }

    /// Wakes those whose time has come; says when the next one's comes.
    fn wake_sleepers(&self, now: u64) -> Option<u64> {
        let mut sleeping = self.sleeping.borrow_mut();
        while let Some(first) = sleeping.peek() {
            if first.until > now {
                return Some(first.until);
            }
            sleeping.pop().expect("just seen").waker.wake();
        }
        None
    }
}

/// Bytes of history that are written at once where nobody waits for them.
const LINES_BYTES: usize = 64 << 10;
/// How long the thread sleeps at most.
const TICK: u64 = 100_000_000;

pub(crate) type Lane = Pin<Box<dyn Future<Output = ()>>>;

/// Polls lanes until all have ended. `tick` is called now and then.
pub(crate) fn drive(
    mut lanes: Vec<Lane>,
    desk: &Rc<Desk>,
    mut history: Option<&mut dyn io::Write>,
    mut tick: impl FnMut(u64),
) -> io::Result<()> {
    let bell = Arc::new(Bell { ready: SegQueue::new(), thread: std::thread::current() });
    let wakers: Vec<Arc<LaneWaker>> = (0..lanes.len())
        .map(|lane| Arc::new(LaneWaker { lane, is_queued: AtomicBool::new(false), bell: Arc::clone(&bell) }))
        .collect();
    let as_wakers: Vec<Waker> = wakers.iter().map(|waker| Waker::from(Arc::clone(waker))).collect();
    as_wakers.iter().for_each(Waker::wake_by_ref);
    let mut alive = lanes.len();
    let mut is_done = vec![false; lanes.len()];
    while alive > 0 {
        while let Some(lane) = bell.ready.pop() {
            wakers[lane].is_queued.store(false, Ordering::Release);
            let context = &mut Context::from_waker(&as_wakers[lane]);
            if !is_done[lane] && lanes[lane].as_mut().poll(context).is_ready() {
                is_done[lane] = true;
                alive -= 1;
            }
        }
        desk.write(&mut history, LINES_BYTES)?;
        let now = runtime::clock::now().0;
        tick(now);
        let next = desk.wake_sleepers(now);
        if alive > 0 && bell.ready.is_empty() {
            let wait = next.map_or(TICK, |next| next.saturating_sub(now).min(TICK));
            std::thread::park_timeout(Duration::from_nanos(wait));
        }
    }
    desk.write(&mut history, 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A writer that says in what order it was written to.
    struct Log(Rc<RefCell<Vec<String>>>);

    impl io::Write for Log {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.borrow_mut().push(String::from_utf8_lossy(bytes).into_owned());
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn lines_are_written_before_lanes_go_on_and_together() {
        let log = Rc::new(RefCell::new(Vec::new()));
        let desk = Rc::new(Desk::new(true));
        let lane = |name: &'static str| -> Lane {
            let (desk, log) = (Rc::clone(&desk), Rc::clone(&log));
            Box::pin(async move {
                desk.lines.borrow_mut().extend(name.bytes());
                desk.written().await;
                log.borrow_mut().push(format!("{name} goes on"));
                desk.sleep(runtime::clock::now().0 + 1_000_000).await;
                desk.lines.borrow_mut().extend(b"end");
            })
        };
        let mut file = Log(Rc::clone(&log));
        let lanes = vec![lane("a"), lane("b")];
        drive(lanes, &desk, Some(&mut file), |_| {}).expect("written");
        let log = log.borrow();
        assert_eq!(log[..3], ["ab", "a goes on", "b goes on"]);
        assert_eq!(log[3..].concat(), "endend");
    }
}
