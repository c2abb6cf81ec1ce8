//! Background tasks: their operations, their cancellation, and that neither can write where it no longer may.

use std::sync::mpsc;
use std::time::Duration;

use runtime::{
    BackgroundError, FileId, Io, LinkId, Payload, Receiver, Service, StoreFile, TaskId, ThreadConfig,
    ThreadHandle, mailbox, serve,
};
use wire::{Memory, Prefix, Slot};

use crate::files::directory;
use crate::support::pattern;

type Step = Box<dyn FnOnce(&mut Io, &mut State) + Send>;

/// Does on its thread what a test sends it.
struct Doer {
    steps: Receiver<Step>,
    state: State,
}

pub struct State {
    file: FileId,
    tasks: Vec<TaskId>,
    slots: Vec<Slot>,
}

impl Service for Doer {
    fn on_head(&mut self, _: &mut Io, _: LinkId, _: &Prefix, _: &[u8]) -> Payload {
        Payload::None
    }

    fn on_mail(&mut self, io: &mut Io) {
        while let Some(step) = self.steps.pop() {
            step(io, &mut self.state);
        }
    }
}

struct Fixture {
    _directory: tempfile::TempDir,
    steps: runtime::Sender<Step>,
    handle: ThreadHandle,
}

const FILE_BYTES: usize = 8 << 20;
const READ_BYTES: usize = 4 << 20;

fn to_u32(bytes: usize) -> u32 {
    u32::try_from(bytes).expect("small")
}

impl Fixture {
    fn new() -> Self {
        let directory = directory();
        let path = directory.path().join("data");
        std::fs::write(&path, pattern(1, FILE_BYTES)).expect("written");
        let (steps, receiver) = mailbox::<Step>(16);
        let handle = serve(ThreadConfig { arena_bytes: 16 << 20, ..ThreadConfig::new("doer") }, move |io| {
            io.attach(&receiver);
            let file = StoreFile::open(&path).expect("opened");
            let file = io.register_file(&file).expect("registered");
            Doer { steps: receiver, state: State { file, tasks: Vec::new(), slots: Vec::new() } }
        })
        .expect("started");
        Self { _directory: directory, steps, handle }
    }

    /// Does something on the thread and returns its result.
    fn run<T: Send + 'static>(&self, step: impl FnOnce(&mut Io, &mut State) -> T + Send + 'static) -> T {
        let (told, result) = mpsc::channel();
        let boxed: Step = Box::new(move |io, state| {
            let _ = told.send(step(io, state));
        });
        assert!(self.steps.send(boxed).is_ok(), "room");
        result.recv_timeout(Duration::from_secs(20)).expect("no hang")
    }

    fn wait(&self, what: &str, is_so: fn(&mut Io, &mut State) -> bool) {
        for _ in 0..20_000 {
            if self.run(is_so) {
                return;
            }
            std::thread::park_timeout(Duration::from_millis(1));
        }
        let stays = self.run(|io, _| (io.background_count(), io.operations_in_flight()));
        panic!("not so within 20 s: {what}; tasks and operations: {stays:?}");
    }

    /// Waits until the thread has no tasks, no operations, and all its memory.
    fn settle(&self) {
        self.wait("all ended, all memory back", |io, _| {
            let free = io.memory().report();
            io.background_count() == 0 && io.operations_in_flight() == 0 && free.free_bytes == free.bytes
        });
    }

    fn stop(self) {
        self.settle();
        self.handle.stop();
        self.handle.join().expect("ended well");
    }
}

#[test]
fn tasks_read_write_and_sleep() {
    let fixture = Fixture::new();
    let (told, result) = mpsc::channel();
    fixture.run(move |io, state| {
        let file = state.file;
        io.spawn_background(move |background| async move {
            let read = background.read(file, 4096, 8192).await.expect("read");
            assert!(read[..] == pattern(1, FILE_BYTES)[4096..4096 + 8192]);
            let mut buffer = background.allocate(4096).await.expect("room");
            buffer.copy_from_slice(&pattern(77, 4096));
            background.write(file, 0, buffer).await.expect("written");
            background.flush(file).await.expect("flushed");
            background.sleep(Duration::from_millis(2)).await;
            background.yield_now().await;
            assert!(background.read(file, 0, 4096).await.expect("read")[..] == pattern(77, 4096));
            assert!(background.read(file, 1 << 40, 4096).await.expect("read").is_empty(), "beyond the end");
            let unaligned = background.read(file, 7, 4096).await.map(|buffer| buffer.len());
            assert_eq!(unaligned, Err(BackgroundError::Io { errno: 22 }));
            let too_large = background.allocate(64 << 20).await.map(|buffer| buffer.len());
            assert_eq!(too_large, Err(BackgroundError::Memory));
            let _ = told.send(());
        })
        .expect("room");
    });
    result.recv_timeout(Duration::from_secs(20)).expect("the task ended well");
    fixture.stop();
}

/// A dropped future's read may still be with the device. Its buffer mustn't be given to anyone until it ended: whoever gets the
/// memory next would see it change under him.
#[test]
fn a_dropped_read_writes_nowhere() {
    let fixture = Fixture::new();
    for round in 0..100_u64 {
        fixture.run(move |io, state| {
            let file = state.file;
            let task = io.spawn_background(move |background| async move {
                // Never ready at the first poll: cancelled before, during or after, by the round's delay.
                let _ = background.read(file, 0, to_u32(READ_BYTES)).await;
            });
            state.tasks.push(task.expect("room"));
        });
        if round % 3 == 0 {
            std::thread::park_timeout(Duration::from_micros(round * 7 % 400));
        }
        fixture.run(|io, state| {
            for task in state.tasks.drain(..) {
                io.cancel_background(task);
            }
        });
        // The executor drops the future before this comes.
        fixture.run(|io, state| {
            // Whatever is free now is taken and marked; a stray write would change it. A buffer that was freed too early is the
            // first to be given out again, so all have to be kept until the device is done.
            while let Some(slot) = io.memory().allocate(READ_BYTES) {
                io.memory().bytes_mut(slot).fill(0xA5);
                state.slots.push(slot);
            }
        });
        fixture
            .wait("the device is done", |io, _| io.background_count() == 0 && io.operations_in_flight() == 0);
        fixture.run(|io, state| {
            let marked = vec![0xA5; READ_BYTES];
            for slot in state.slots.drain(..) {
                assert!(io.memory().bytes(slot) == marked, "a stray write");
                io.memory().release(slot);
            }
        });
        if round % 50 == 0 {
            fixture.settle();
        }
    }
    fixture.stop();
}

#[test]
fn stopping_cancels_tasks() {
    let fixture = Fixture::new();
    fixture.run(|io, state| {
        for number in 0..8 {
            let file = state.file;
            io.spawn_background(move |background| async move {
                loop {
                    let buffer = background.read(file, number << 20, 1 << 20).await;
                    drop(buffer);
                    background.sleep(Duration::from_mins(1)).await;
                }
            })
            .expect("room");
        }
    });
    fixture.handle.stop();
    fixture.handle.join().expect("ended well");
}
