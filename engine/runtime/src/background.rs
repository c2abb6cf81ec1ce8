//! Background tasks: futures on the thread's executor, with little share of it, that use the same uring.
//!
//! Tasks and the driver take turns on one thread and meet in a table of tickets and a list of orders; neither holds it while the
//! other runs. An operation's buffer belongs to the driver's record until the kernel is done: dropping a future before that
//! cancels the operation and abandons its ticket, nothing more.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::Future;
use std::ops::{Deref, DerefMut};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use thiserror::Error;
use wire::Slot;

use crate::arena::Mapping;
use crate::disk::Action;
use crate::service::{FileId, IoOutcome, errno_text};

/// Why a background operation failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum BackgroundError {
    /// No buffer of that size is free: wait and try again, or do less at once.
    #[error("no memory for a background operation")]
    Memory,
    /// Too many file operations are in flight.
    #[error("too many file operations in flight")]
    Busy,
    /// The operation failed.
    #[error("{}", errno_text(*.errno))]
    Io {
        /// The kernel's error number.
        errno: i32,
    },
}

/// Why a background task wasn't started.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum SpawnRefused {
    /// As many as may be are alive ([`ThreadConfig::background_tasks`](crate::ThreadConfig::background_tasks)).
    #[error("too many background tasks")]
    Full,
    /// The thread is stopping.
    #[error("the thread is stopping")]
    Stopping,
}

/// A background task, to cancel it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TaskId {
    pub(crate) index: usize,
    pub(crate) generation: u64,
}

/// What a task asks of the driver.
#[derive(Debug)]
pub(crate) enum Order {
    /// Begin an operation on a buffer of the arena that is allocated for it (read) or was before (write).
    Begin {
        ticket: u32,
        action: Action,
        file: FileId,
        offset: u64,
        len: u32,
        slot: Option<Slot>,
    },
    Allocate {
        ticket: u32,
        bytes: usize,
    },
    Cancel {
        ticket: u32,
    },
    Release {
        slot: Slot,
    },
    Finished {
        task: TaskId,
    },
}

#[derive(Debug)]
enum State {
    Free,
    Waiting(Option<Waker>),
    Done(Result<Answer, BackgroundError>),
    /// Its future was dropped; the record's completion frees it.
    Abandoned,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Answer {
    pub(crate) bytes: u32,
    pub(crate) slot: Option<Slot>,
}

#[derive(Debug)]
struct Ticket {
    state: State,
    /// The driver's record, once begun.
    operation: Option<u32>,
    /// A buffer that a reader is to get, or a writer's that is given back.
    slot: Option<Slot>,
    gives_slot: bool,
}

#[derive(Debug, Default)]
struct Table {
    tickets: Vec<Ticket>,
    free: Vec<u32>,
    orders: VecDeque<Order>,
    driver: Option<Waker>,
    rung: bool,
}

/// What driver and tasks share.
#[derive(Debug)]
pub(crate) struct Shared {
    table: RefCell<Table>,
    live: Cell<usize>,
}

impl Shared {
    pub(crate) fn new() -> Rc<Self> {
        Rc::new(Self { table: RefCell::default(), live: Cell::new(0) })
    }

    /// Tasks alive.
    pub(crate) fn live(&self) -> usize {
        self.live.get()
    }

    pub(crate) fn born(&self) {
        self.live.set(self.live.get() + 1);
    }

    pub(crate) fn died(&self) {
        self.live.set(self.live.get() - 1);
    }

    pub(crate) fn has_orders(&self) -> bool {
        !self.table.borrow().orders.is_empty()
    }

    pub(crate) fn next_order(&self) -> Option<Order> {
        self.table.borrow_mut().orders.pop_front()
    }

    /// Puts an order and wakes the driver.
    pub(crate) fn order(&self, order: Order) {
        let waker = {
            let mut table = self.table.borrow_mut();
            table.orders.push_back(order);
            table.driver.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// The uring's bell was rung.
    pub(crate) fn ring(&self) {
        let waker = {
            let mut table = self.table.borrow_mut();
            table.rung = true;
            table.driver.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// For the driver: until the bell rings or an order comes.
    pub(crate) async fn bell(&self) {
        std::future::poll_fn(|context| {
            let mut table = self.table.borrow_mut();
            if std::mem::take(&mut table.rung) || !table.orders.is_empty() {
                return Poll::Ready(());
            }
            table.driver = Some(context.waker().clone());
            Poll::Pending
        })
        .await;
    }

    fn ticket(&self) -> u32 {
        let mut table = self.table.borrow_mut();
        let fresh = Ticket { state: State::Waiting(None), operation: None, slot: None, gives_slot: false };
        if let Some(number) = table.free.pop() {
            table.tickets[number as usize] = fresh;
            return number;
        }
        table.tickets.push(fresh);
        u32::try_from(table.tickets.len() - 1).expect("few tickets")
    }

    /// The ticket's operation was begun under this number. `slot` is held for it.
    pub(crate) fn begun(&self, ticket: u32, operation: u32, slot: Option<Slot>, gives_slot: bool) {
        let mut table = self.table.borrow_mut();
        let ticket = &mut table.tickets[ticket as usize];
        ticket.operation = Some(operation);
        ticket.slot = slot;
        ticket.gives_slot = gives_slot;
    }

    /// The record to cancel, if the ticket's future is gone and the record isn't.
    pub(crate) fn abandoned(&self, ticket: u32) -> Option<u32> {
        let table = self.table.borrow();
        let ticket = &table.tickets[ticket as usize];
        matches!(ticket.state, State::Abandoned).then_some(ticket.operation).flatten()
    }

    /// The operation ended. Returns the slot that nobody wants any more.
    pub(crate) fn ended(&self, number: u32, outcome: Result<Answer, BackgroundError>) -> Option<Slot> {
        let (waker, unwanted) = {
            let mut table = self.table.borrow_mut();
            let ticket = &mut table.tickets[number as usize];
            let mut outcome = outcome;
            let mut unwanted = ticket.slot.take();
            ticket.operation = None;
            match std::mem::replace(&mut ticket.state, State::Free) {
                State::Waiting(waker) => {
                    if let Ok(answer) = &mut outcome
                        && ticket.gives_slot
                    {
                        answer.slot = unwanted.take();
                    }
                    ticket.state = State::Done(outcome);
                    (waker, unwanted)
                }
                State::Abandoned => {
                    table.free.push(number);
                    let given = outcome.ok().and_then(|answer| answer.slot);
                    (None, unwanted.or(given))
                }
                State::Free | State::Done(_) => unreachable!("a ticket is answered once"),
            }
        };
        if let Some(waker) = waker {
            waker.wake();
        }
        unwanted
    }
}

pub(crate) fn outcome_of(outcome: IoOutcome) -> Result<Answer, BackgroundError> {
    match outcome {
        IoOutcome::Done { bytes } | IoOutcome::Short { bytes } => Ok(Answer { bytes, slot: None }),
        IoOutcome::Failed { errno } => Err(BackgroundError::Io { errno }),
    }
}

/// What a background task can do. Stays on its thread.
#[derive(Clone, Debug)]
pub struct Background {
    pub(crate) shared: Rc<Shared>,
    pub(crate) mapping: Rc<Mapping>,
}

impl Background {
    /// A buffer of at least `bytes`, up to 8 MiB, to be filled and written.
    pub async fn allocate(&self, bytes: usize) -> Result<BackgroundBuffer, BackgroundError> {
        let ticket = self.shared.ticket();
        self.shared.order(Order::Allocate { ticket, bytes });
        let answer = Operation { shared: Rc::clone(&self.shared), ticket: Some(ticket) }.await?;
        let slot = answer.slot.expect("an allocation's answer has a slot");
        Ok(self.buffer(slot, bytes))
    }

    /// Reads `len` bytes at `offset`. Less than `len` arrive at the end of the file only.
    pub async fn read(
        &self,
        file: FileId,
        offset: u64,
        len: u32,
    ) -> Result<BackgroundBuffer, BackgroundError> {
        let answer = self.begin(Action::Read, file, offset, len, None).await?;
        let slot = answer.slot.expect("a read's answer has a slot");
        Ok(self.buffer(slot, answer.bytes as usize))
    }

    /// Writes a buffer at `offset`.
    pub async fn write(
        &self,
        file: FileId,
        offset: u64,
        buffer: BackgroundBuffer,
    ) -> Result<(), BackgroundError> {
        let len = u32::try_from(buffer.len).expect("a slot has 32 bits");
        let slot = buffer.into_slot();
        self.begin(Action::Write, file, offset, len, Some(slot)).await.map(drop)
    }

    /// Makes completed writes durable.
    pub async fn flush(&self, file: FileId) -> Result<(), BackgroundError> {
        self.begin(Action::Flush, file, 0, 0, None).await.map(drop)
    }

    /// Sleeps.
    pub async fn sleep(&self, duration: Duration) {
        glommio::timer::sleep(duration).await;
    }

    /// Lets others run; to be called now and then in long computations.
    pub async fn yield_now(&self) {
        glommio::executor().yield_task_queue_now().await;
    }

    fn begin(&self, action: Action, file: FileId, offset: u64, len: u32, slot: Option<Slot>) -> Operation {
        let ticket = self.shared.ticket();
        self.shared.order(Order::Begin { ticket, action, file, offset, len, slot });
        Operation { shared: Rc::clone(&self.shared), ticket: Some(ticket) }
    }

    fn buffer(&self, slot: Slot, len: usize) -> BackgroundBuffer {
        BackgroundBuffer {
            shared: Rc::clone(&self.shared),
            mapping: Rc::clone(&self.mapping),
            slot: Some(slot),
            len,
        }
    }
}

/// An operation that is waited for. Dropped earlier, it is cancelled, and its buffer stays until the kernel is done with it.
#[derive(Debug)]
struct Operation {
    shared: Rc<Shared>,
    ticket: Option<u32>,
}

impl Future for Operation {
    type Output = Result<Answer, BackgroundError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let number = self.ticket.expect("not polled after it was ready");
        let result = {
            let mut table = self.shared.table.borrow_mut();
            let ticket = &mut table.tickets[number as usize];
            match std::mem::replace(&mut ticket.state, State::Free) {
                State::Done(result) => {
                    table.free.push(number);
                    result
                }
                State::Waiting(_) => {
                    ticket.state = State::Waiting(Some(context.waker().clone()));
                    return Poll::Pending;
                }
                State::Free | State::Abandoned => unreachable!("a future has its ticket until it is ready"),
            }
        };
        self.ticket = None;
        Poll::Ready(result)
    }
}

impl Drop for Operation {
    fn drop(&mut self) {
        let Some(number) = self.ticket else { return };
        let unwanted = {
            let mut table = self.shared.table.borrow_mut();
            let ticket = &mut table.tickets[number as usize];
            match std::mem::replace(&mut ticket.state, State::Abandoned) {
                State::Done(result) => {
                    ticket.state = State::Free;
                    table.free.push(number);
                    Some(result.ok().and_then(|answer| answer.slot))
                }
                _ => None,
            }
        };
        match unwanted {
            Some(Some(slot)) => self.shared.order(Order::Release { slot }),
            Some(None) => {}
            None => self.shared.order(Order::Cancel { ticket: number }),
        }
    }
}

/// A buffer of the thread's I/O memory that a background task holds; it goes back when dropped.
#[derive(Debug)]
pub struct BackgroundBuffer {
    shared: Rc<Shared>,
    mapping: Rc<Mapping>,
    slot: Option<Slot>,
    len: usize,
}

impl BackgroundBuffer {
    fn into_slot(mut self) -> Slot {
        self.slot.take().expect("held until it is given away")
    }

    fn start(&self) -> usize {
        self.slot.expect("held until it is given away").index as usize * wire::limits::BLOCK_BYTES
    }
}

impl Deref for BackgroundBuffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: this is the slot's only owner, nothing is in flight for it, and the mapping is held.
        unsafe { self.mapping.slice(self.start(), self.len) }
    }
}

impl DerefMut for BackgroundBuffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: this is the slot's only owner, nothing is in flight for it, and the mapping is held.
        unsafe { self.mapping.slice_mut(self.start(), self.len) }
    }
}

impl Drop for BackgroundBuffer {
    fn drop(&mut self) {
        if let Some(slot) = self.slot.take() {
            self.shared.order(Order::Release { slot });
        }
    }
}
