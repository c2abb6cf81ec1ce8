//! The driver's side of background tasks: starting and cancelling them, carrying out their orders.

use std::cell::OnceCell;
use std::future::Future;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, IntoRawFd};
use std::rc::Rc;

use glommio::io::{BufferedFile, DmaFile};
use glommio::{Latency, Shares, TaskQueueHandle};
use wire::Memory;

use crate::background::{Answer, Background, BackgroundError, Order, Shared, SpawnRefused, TaskId};
use crate::disk::Owner;
use crate::io::Io;
use crate::operation::Operation;
use crate::service::{FileId, IoOutcome, IoToken, Service, SlotRange};
use crate::wake::Bed;

/// Shares of the executor that background tasks have together, against the driver's 1,000.
const BACKGROUND_SHARES: usize = 50;

/// Background tasks of a thread.
#[derive(Debug)]
pub(crate) struct Tasks {
    pub(crate) shared: Rc<Shared>,
    /// Generation and handle of each.
    handles: Vec<(u64, Option<glommio::Task<()>>)>,
    limit: usize,
    queue: Option<TaskQueueHandle>,
    /// Files as glommio opened them, for background reads.
    dma_files: Vec<Rc<OnceCell<DmaFile>>>,
}

impl Tasks {
    pub(crate) fn new(limit: usize) -> Self {
        Self { shared: Shared::new(), handles: Vec::new(), limit, queue: None, dma_files: Vec::new() }
    }

    pub(crate) fn cancel_all(&mut self) {
        for (_, task) in &mut self.handles {
            // Dropping a task cancels it.
            *task = None;
        }
    }

    fn finished(&mut self, id: TaskId) {
        if let Some((generation, task)) = self.handles.get_mut(id.index)
            && *generation == id.generation
        {
            *task = None;
        }
    }
}

/// Counts a task and tells its end, however it ends.
struct Life {
    shared: Rc<Shared>,
    task: TaskId,
}

impl Drop for Life {
    fn drop(&mut self) {
        self.shared.died();
        self.shared.order(Order::Finished { task: self.task });
    }
}

impl Io {
    /// Starts a background task: a future on this thread that runs when the service leaves time, with a small share otherwise. Its
    /// results reach the service through a mailbox. Cancelled when the thread stops.
    pub fn spawn_background<F>(&mut self, make: impl FnOnce(Background) -> F) -> Result<TaskId, SpawnRefused>
    where
        F: Future<Output = ()> + 'static,
    {
        if self.stopping {
            return Err(SpawnRefused::Stopping);
        }
        if self.tasks.shared.live() >= self.tasks.limit {
            return Err(SpawnRefused::Full);
        }
        let queue = self.background_queue();
        let index = self.tasks.handles.iter().position(|(_, task)| task.is_none()).unwrap_or_else(|| {
            self.tasks.handles.push((0, None));
            self.tasks.handles.len() - 1
        });
        let generation = self.tasks.handles[index].0 + 1;
        let task = TaskId { index, generation };
        let shared = Rc::clone(&self.tasks.shared);
        shared.born();
        let life = Life { shared: Rc::clone(&shared), task };
        let background = Background { shared, mapping: Rc::clone(self.arena.mapping()) };
        let future = make(background);
        let spawned = glommio::spawn_local_into(
            async move {
                // Dropped last, after the task's own buffers and futures.
                let _life = life;
                future.await;
            },
            queue,
        )
        .expect("the queue was made on this executor");
        self.tasks.handles[index] = (generation, Some(spawned));
        Ok(task)
    }

    /// Cancels a background task: its future is dropped; operations in flight are cancelled, and their buffers kept until they ended.
    pub fn cancel_background(&mut self, task: TaskId) {
        self.tasks.finished(task);
    }

    /// Background tasks alive.
    pub fn background_count(&self) -> usize {
        self.tasks.shared.live()
    }

    fn background_queue(&mut self) -> TaskQueueHandle {
        if let Some(queue) = self.tasks.queue {
            return queue;
        }
        let queue = glommio::executor().create_task_queue(
            Shares::Static(BACKGROUND_SHARES),
            Latency::NotImportant,
            "background",
        );
        self.tasks.queue = Some(queue);
        self.spawn_bell_reader();
        queue
    }

    /// While tasks are alive the driver sleeps in the executor, not in its uring: this turns the uring's completions into its wake-up.
    fn spawn_bell_reader(&mut self) {
        let bell = self.wake.bell(Bed::Executor);
        self.ring.register_bell(bell.as_fd()).expect("an eventfd can be registered");
        let bell = bell.try_clone().expect("the process has a descriptor left for its bell");
        // SAFETY: the descriptor is handed over: glommio's file is its only owner from here on.
        let bell = unsafe { BufferedFile::from_raw_fd(bell.into_raw_fd()) };
        let shared = Rc::clone(&self.tasks.shared);
        glommio::spawn_local(async move {
            loop {
                match bell.read_at(0, 8).await {
                    Ok(_) => shared.ring(),
                    Err(error) => {
                        tracing::error!(%error, "reading the uring's bell failed");
                        return;
                    }
                }
            }
        })
        .detach();
    }

    /// Reads as [`read`](Io::read) does, but through glommio's direct I/O in the background queue: for cleaning and scrubbing. Ends in
    /// `on_io`.
    pub fn read_background(
        &mut self,
        file: FileId,
        offset: u64,
        range: SlotRange,
        token: IoToken,
    ) -> Result<(), SpawnRefused> {
        let number = file.0 as usize;
        while self.tasks.dma_files.len() <= number {
            self.tasks.dma_files.push(Rc::new(OnceCell::new()));
        }
        let opened = Rc::clone(&self.tasks.dma_files[number]);
        let raw = self.files[number].0.as_raw_fd();
        self.arena.address(range.slot, range.offset as usize, range.len as usize);
        self.arena.retain(range.slot);
        let spawned = self.spawn_background(move |background| async move {
            // However the task ends, the slot's reference goes back with this order.
            let mut ending = Ending { shared: background.shared, range, token, result: Err(libc::ECANCELED) };
            ending.result = read_through_glommio(&opened, raw, offset, range.len).await;
        });
        if spawned.is_err() {
            self.arena.release(range.slot);
        }
        spawned.map(drop)
    }
}

struct Ending {
    shared: Rc<Shared>,
    range: SlotRange,
    token: IoToken,
    result: Result<glommio::io::ReadResult, i32>,
}

impl Drop for Ending {
    fn drop(&mut self) {
        let result = std::mem::replace(&mut self.result, Err(libc::ECANCELED));
        self.shared.order(Order::Copied { range: self.range, token: self.token, result });
    }
}

async fn read_through_glommio(
    opened: &OnceCell<DmaFile>,
    raw: i32,
    offset: u64,
    len: u32,
) -> Result<glommio::io::ReadResult, i32> {
    let errno = |error: glommio::GlommioError<()>| match error.raw_os_error() {
        Some(errno) => errno,
        None => libc::EIO,
    };
    if opened.get().is_none() {
        // The same file by its descriptor: a description of its own, without the lock, for reading only.
        let file = DmaFile::open(format!("/proc/self/fd/{raw}")).await.map_err(errno)?;
        // Another task may have been faster; then its file is used and this one closed.
        let _ = opened.set(file);
    }
    let file = opened.get().expect("set above");
    file.read_at_aligned(offset, len as usize).await.map_err(errno)
}

/// Carries out what tasks asked for since the last turn. Returns whether the service was called.
pub(crate) fn carry_out<S: Service>(io: &mut Io, service: &mut S) -> bool {
    let mut called = false;
    while let Some(order) = io.tasks.shared.next_order() {
        match order {
            Order::Begin { ticket, action, file, offset, len, slot } => {
                io.begin_for_task(ticket, action, file, offset, len, slot);
            }
            Order::Allocate { ticket, bytes } => {
                let slot = io.arena.allocate(bytes);
                let answer =
                    slot.ok_or(BackgroundError::Memory).map(|slot| Answer { bytes: 0, slot: Some(slot) });
                io.task_ended(ticket, answer);
            }
            Order::Cancel { ticket } => {
                if let Some(number) = io.tasks.shared.abandoned(ticket) {
                    io.cancel(Operation::Disk(number));
                }
            }
            Order::Release { slot } => io.arena.release(slot),
            Order::Finished { task } => io.tasks.finished(task),
            Order::Copied { range, token, result } => {
                called = true;
                let outcome = io.copy_in(range, result);
                io.arena.release(range.slot);
                service.on_io(io, token, outcome);
            }
        }
    }
    called
}

impl Io {
    fn begin_for_task(
        &mut self,
        ticket: u32,
        action: crate::disk::Action,
        file: FileId,
        offset: u64,
        len: u32,
        slot: Option<wire::Slot>,
    ) {
        let gives_slot = action == crate::disk::Action::Read;
        let slot = if gives_slot { self.arena.allocate(len as usize) } else { slot };
        if gives_slot && slot.is_none() {
            self.task_ended(ticket, Err(BackgroundError::Memory));
            return;
        }
        let whole = slot.map(|slot| SlotRange { slot, offset: 0, len });
        let ranges: &[SlotRange] = whole.as_slice();
        match self.begin(action, file, offset, ranges, Owner::Background(ticket)) {
            Ok(number) => {
                self.tasks.shared.begun(ticket, number, slot, gives_slot);
                if self.tasks.shared.abandoned(ticket).is_some() {
                    self.cancel(Operation::Disk(number));
                }
            }
            Err(crate::service::IoRefused::Full) => {
                if let Some(slot) = slot {
                    self.arena.release(slot);
                }
                self.task_ended(ticket, Err(BackgroundError::Busy));
            }
        }
    }

    /// Answers a ticket and gives back the buffer that nobody wants.
    pub(crate) fn task_ended(&mut self, ticket: u32, answer: Result<Answer, BackgroundError>) {
        if let Some(slot) = self.tasks.shared.ended(ticket, answer) {
            self.arena.release(slot);
        }
    }

    fn copy_in(&mut self, range: SlotRange, result: Result<glommio::io::ReadResult, i32>) -> IoOutcome {
        match result {
            Ok(read) => {
                let start = range.offset as usize;
                let len = read.len().min(range.len as usize);
                self.arena.bytes_mut(range.slot)[start..start + len].copy_from_slice(&read[..len]);
                IoOutcome::Done { bytes: u32::try_from(len).expect("at most the range") }
            }
            Err(errno) => IoOutcome::Failed { errno },
        }
    }
}
