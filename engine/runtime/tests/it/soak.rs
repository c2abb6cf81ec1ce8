//! Mixed load on one thread with random cancellation: it must never hang, and all memory must come back.
//!
//! Five seconds by default; `CATENA_SOAK_SECONDS=600 cargo test -p runtime --test it soak -- --nocapture` for ten minutes. The seed is
//! printed and can be given as `CATENA_SOAK_SEED`.

use std::cell::Cell;
use std::io::Write;
use std::net::TcpStream;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use runtime::{
    CloseReason, FileId, Io, IoOutcome, IoToken, LinkId, LinkKind, LinkLimits, Payload, Service, SlotRange,
    StoreFile, TaskId, ThreadConfig, clock, serve, spawn_thread,
};
use wire::{FrameKind, Memory, Nanos, Prefix, Slot, Status};

use crate::files::directory;
use crate::support::{Client, frame, pattern};

const FILE_BYTES: u64 = 32 << 20;

#[derive(Clone, Debug)]
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }
}

/// What moves; each must go on moving.
#[derive(Debug, Default)]
struct Progress {
    frames: AtomicU64,
    file_operations: AtomicU64,
    tasks: AtomicU64,
    timers: AtomicU64,
    closed: AtomicU64,
    leaked: AtomicU64,
}

impl Progress {
    fn all(&self) -> [u64; 5] {
        [&self.frames, &self.file_operations, &self.tasks, &self.timers, &self.closed]
            .map(|counter| counter.load(Ordering::Relaxed))
    }
}

#[derive(Clone, Copy)]
struct Work {
    link: LinkId,
    slot: Slot,
    prefix: Prefix,
    /// A put is written, then flushed now and then, then echoed.
    writing: bool,
}

struct Mixed {
    file: FileId,
    work: Vec<Option<Work>>,
    receiving: Vec<(LinkId, usize)>,
    links: Vec<LinkId>,
    tasks: Vec<TaskId>,
    random: Random,
    progress: Arc<Progress>,
    task_steps: Rc<Cell<u64>>,
    stopping: bool,
}

impl Mixed {
    fn remember(&mut self, work: Work) -> usize {
        let free = self.work.iter().position(Option::is_none).unwrap_or_else(|| {
            self.work.push(None);
            self.work.len() - 1
        });
        self.work[free] = Some(work);
        free
    }

    fn answer(io: &mut Io, work: Work, status: Status, len: u32) {
        let mut prefix = Prefix::reply(work.prefix.kind, work.prefix.correlation, status);
        prefix.payload_bytes = len;
        let range = (len > 0).then_some(SlotRange { slot: work.slot, offset: 0, len });
        let _ = io.send(work.link, &prefix.encode(&[]), range, None);
        io.memory().release(work.slot);
    }

    fn spawn(&mut self, io: &mut Io) {
        let file = self.file;
        let offset = self.random.below(FILE_BYTES >> 12) << 12;
        let len = 4096 << self.random.below(9);
        let steps = Rc::clone(&self.task_steps);
        let spawned = io.spawn_background(move |background| async move {
            for _ in 0..4 {
                match background.read(file, offset, len).await {
                    Ok(buffer) if !buffer.is_empty() => {
                        let _ = background.write(file, FILE_BYTES + offset, buffer).await;
                    }
                    _ => background.sleep(Duration::from_micros(50)).await,
                }
                steps.set(steps.get() + 1);
            }
        });
        self.tasks.extend(spawned.ok());
        if self.tasks.len() > 6 {
            let victim = usize::try_from(self.random.next()).expect("64 bits") % self.tasks.len();
            let task = self.tasks.swap_remove(victim);
            io.cancel_background(task);
        }
    }
}

impl Service for Mixed {
    fn on_open(&mut self, _: &mut Io, link: LinkId, _: LinkKind, _: Option<std::net::SocketAddr>) {
        self.links.push(link);
    }

    fn on_head(&mut self, io: &mut Io, link: LinkId, prefix: &Prefix, message: &[u8]) -> Payload {
        self.progress.frames.fetch_add(1, Ordering::Relaxed);
        let len = if prefix.payload_bytes > 0 { prefix.payload_bytes as usize } else { 4096 };
        let Some(slot) = io.memory().allocate(len) else {
            return if prefix.payload_bytes == 0 { Payload::None } else { Payload::Discard };
        };
        let work = self.remember(Work { link, slot, prefix: *prefix, writing: prefix.payload_bytes > 0 });
        if prefix.payload_bytes > 0 {
            self.receiving.push((link, work));
            return Payload::Into { slot, offset: 0 };
        }
        let offset = u64::from(message.first().copied().unwrap_or(0)) << 12;
        let range = SlotRange { slot, offset: 0, len: 4096 };
        io.read(self.file, offset, range, IoToken(work as u64)).expect("room");
        Payload::None
    }

    fn on_payload(&mut self, io: &mut Io, link: LinkId) {
        let at = self.receiving.iter().position(|&(l, _)| l == link).expect("announced");
        let (_, number) = self.receiving.swap_remove(at);
        let work = self.work[number].expect("remembered");
        let half = work.prefix.payload_bytes.next_multiple_of(8192) / 2;
        let parts = [(0, half), (half, half)].map(|(offset, len)| SlotRange { slot: work.slot, offset, len });
        let offset = 2 * FILE_BYTES + (self.random.below(64) << 20);
        if half.is_multiple_of(4096) && 2 * half <= work.prefix.payload_bytes.next_power_of_two().max(4096) {
            io.write(self.file, offset, &parts, IoToken(number as u64)).expect("room");
        } else {
            io.flush(self.file, IoToken(number as u64)).expect("room");
        }
    }

    fn on_io(&mut self, io: &mut Io, token: IoToken, outcome: IoOutcome) {
        self.progress.file_operations.fetch_add(1, Ordering::Relaxed);
        assert!(matches!(outcome, IoOutcome::Done { .. }), "{outcome:?}");
        let number = usize::try_from(token.0).expect("small");
        let mut work = self.work[number].take().expect("remembered");
        if work.writing && self.random.below(20) == 0 {
            work.writing = false;
            self.work[number] = Some(work);
            io.flush(self.file, token).expect("room");
            return;
        }
        let len = if work.prefix.payload_bytes > 0 { work.prefix.payload_bytes } else { 4096 };
        Self::answer(io, work, Status::Ok, len);
    }

    fn on_timer(&mut self, io: &mut Io, now: Nanos) {
        self.progress.timers.fetch_add(1, Ordering::Relaxed);
        self.progress.tasks.store(self.task_steps.get(), Ordering::Relaxed);
        if self.stopping {
            return;
        }
        self.spawn(io);
        match self.random.below(8) {
            0 if !self.links.is_empty() => {
                let victim = usize::try_from(self.random.next()).expect("64 bits") % self.links.len();
                io.close(self.links[victim], CloseReason::Local);
            }
            1 | 2 => {
                for &link in &self.links {
                    if self.random.below(2) == 0 { io.pause(link) } else { io.resume(link) }
                }
            }
            3 => self.links.iter().for_each(|&link| io.resume(link)),
            // Now and then no tasks at all, so that both ways of sleeping are used.
            4 => self.tasks.drain(..).for_each(|task| io.cancel_background(task)),
            _ => {}
        }
        io.arm(now.after(self.random.below(2_000) * Nanos::MICROSECOND));
    }

    fn on_close(&mut self, io: &mut Io, link: LinkId, _: CloseReason) {
        self.progress.closed.fetch_add(1, Ordering::Relaxed);
        self.links.retain(|&other| other != link);
        if let Some(at) = self.receiving.iter().position(|&(l, _)| l == link) {
            let (_, number) = self.receiving.swap_remove(at);
            let work = self.work[number].take().expect("remembered");
            io.memory().release(work.slot);
        }
    }

    fn on_stop(&mut self, io: &mut Io) {
        self.stopping = true;
        self.tasks.clear();
        io.stop();
    }

    fn on_end(&mut self, io: &mut Io) {
        let report = io.memory().report();
        self.progress.leaked.store((report.bytes - report.free_bytes) as u64, Ordering::Relaxed);
    }
}

/// A peer that behaves, drops its connection in the middle, sends half frames, or doesn't read: whatever the dice say.
fn peer(address: std::net::SocketAddr, mut random: Random, end: &AtomicBool, good: &AtomicU64) {
    while !end.load(Ordering::Relaxed) {
        let Ok(stream) = TcpStream::connect(address) else { continue };
        let _ = stream.set_read_timeout(Some(Duration::from_secs(5)));
        let mut client = Client(stream);
        for _ in 0..random.below(60) {
            let number = random.next();
            let len = match random.below(4) {
                0 => 0,
                1 => 4096,
                2 => usize::try_from(random.below(9000)).expect("small"),
                _ => 4096 << random.below(7),
            };
            let bytes = frame(FrameKind::PutChunk, number, &number.to_le_bytes(), &pattern(number, len));
            let dice = random.below(100);
            if dice < 3 {
                let cut = usize::try_from(random.below(bytes.len() as u64)).expect("small");
                let _ = client.0.write_all(&bytes[..cut]);
                break;
            }
            if client.0.write_all(&bytes).is_err() || dice < 6 {
                break;
            }
            if !answered(&mut client, number, len) {
                break;
            }
            good.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Reads one answer; `false`: the server closed the connection, or had no memory and gave none.
fn answered(client: &mut Client, number: u64, len: usize) -> bool {
    let mut head = [0; wire::PREFIX_BYTES];
    if std::io::Read::read_exact(&mut client.0, &mut head).is_err() {
        return false;
    }
    let prefix = Prefix::decode(&head).expect("a good prefix");
    assert_eq!(prefix.correlation, number);
    let mut payload = vec![0; prefix.payload_bytes as usize];
    if std::io::Read::read_exact(&mut client.0, &mut payload).is_err() {
        return false;
    }
    assert!(len == 0 || payload == pattern(number, len), "payload of {len} bytes");
    true
}

#[test]
fn soak() {
    let seconds = std::env::var("CATENA_SOAK_SECONDS").ok().map_or(5, |text| text.parse().expect("a number"));
    let seed = std::env::var("CATENA_SOAK_SEED")
        .ok()
        .map_or_else(|| u64::from_le_bytes(clock_seed()) | 1, |text| text.parse().expect("a number"));
    println!("CATENA_SOAK_SECONDS={seconds} CATENA_SOAK_SEED={seed}");
    let directory = directory();
    let path = directory.path().join("data");
    std::fs::write(&path, pattern(seed, usize::try_from(FILE_BYTES).expect("small"))).expect("written");
    let progress = Arc::new(Progress::default());
    let for_service = Arc::clone(&progress);
    let (bound, address) = std::sync::mpsc::channel();
    let limits = LinkLimits { head_timeout: 500 * Nanos::MILLISECOND, ..LinkLimits::default() };
    let config = ThreadConfig {
        arena_bytes: 32 << 20,
        spin: seed.is_multiple_of(2),
        links: limits,
        ..ThreadConfig::new("soak")
    };
    let handle = serve(config, move |io| {
        let file = StoreFile::open(&path).expect("opened");
        let file = io.register_file(&file).expect("registered");
        bound
            .send(io.listen("127.0.0.1:0".parse().expect("an address")).expect("a port"))
            .expect("the test waits");
        io.arm(io.now().after(Nanos::MILLISECOND));
        Mixed {
            file,
            work: Vec::new(),
            receiving: Vec::new(),
            links: Vec::new(),
            tasks: Vec::new(),
            random: Random(seed),
            progress: for_service,
            task_steps: Rc::default(),
            stopping: false,
        }
    })
    .expect("started");
    let address = address.recv().expect("bound");
    let end = Arc::new(AtomicBool::new(false));
    let good = Arc::new(AtomicU64::new(0));
    let peers: Vec<_> = (0..6_u64)
        .map(|number| {
            let (end, good) = (Arc::clone(&end), Arc::clone(&good));
            let random = Random(seed.wrapping_add(number * 0x9E37_79B9) | 1);
            spawn_thread("peer", None, move || peer(address, random, &end, &good)).expect("a thread")
        })
        .collect();
    watch(&progress, seconds);
    end.store(true, Ordering::Relaxed);
    for peer in peers {
        peer.join().expect("a peer saw what it should");
    }
    handle.stop();
    let begin = clock::now();
    while !handle.is_finished() {
        assert!(clock::now().since(begin) < 30 * Nanos::SECOND, "stopping hangs: {progress:?}");
        std::thread::park_timeout(Duration::from_millis(5));
    }
    handle.join().expect("ended well");
    let leaked = progress.leaked.load(Ordering::Relaxed);
    println!("{progress:?}, {} good answers", good.load(Ordering::Relaxed));
    assert!(good.load(Ordering::Relaxed) > 0);
    assert_eq!(leaked, 0, "bytes that didn't come back");
}

/// Looks once a second whether everything still moves.
fn watch(progress: &Progress, seconds: u64) {
    let mut last = progress.all();
    let mut still = [0; 5];
    for _ in 0..seconds {
        let until = clock::now().after(Nanos::SECOND);
        while clock::now() < until {
            std::thread::park_timeout(Duration::from_millis(50));
        }
        let now = progress.all();
        for (index, still) in still.iter_mut().enumerate() {
            *still = if now[index] == last[index] { *still + 1 } else { 0 };
            assert!(*still < 15, "counter {index} stands still for 15 s: {now:?}");
        }
        last = now;
    }
}

fn clock_seed() -> [u8; 8] {
    runtime::clock::random_bytes()
}
