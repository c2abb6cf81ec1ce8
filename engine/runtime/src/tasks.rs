//! The driver's side of background tasks: starting and cancelling them, carrying out their orders.

use std::future::Future;
use std::os::fd::{AsFd, FromRawFd, IntoRawFd};
use std::rc::Rc;

use glommio::io::BufferedFile;
use glommio::{Latency, Shares, TaskQueueHandle};
use wire::Memory;

use crate::background::{Answer, Background, BackgroundError, Order, Shared, SpawnRefused, TaskId};
use crate::disk::Owner;
use crate::io::Io;
use crate::operation::Operation;
use crate::service::{FileId, SlotRange};
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
}

impl Tasks {
    pub(crate) fn new(limit: usize) -> Self {
        Self { shared: Shared::new(), handles: Vec::new(), limit, queue: None }
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
                    // A signal came, or somebody else was faster.
                    Err(error) if is_passing(error.raw_os_error()) => {}
                    // Nobody would ever wake the thread again.
                    Err(error) => panic!("an eventfd that is open can't be read: {error}"),
                }
            }
        })
        .detach();
    }
}

/// Whether a read of a bell that failed with this is simply done again.
fn is_passing(errno: Option<i32>) -> bool {
    matches!(errno, Some(libc::EINTR | libc::EAGAIN))
}

/// Carries out what tasks asked for since the last turn.
pub(crate) fn carry_out(io: &mut Io) {
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
        }
    }
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
}
