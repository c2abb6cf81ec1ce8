//! The log against a plain list, on a disk that crashes, tears, reorders and fails.

use crate::fake_disk::{FakeDisk, FakeMemory, Faults, Random, format_of};
use crate::log::{Log, LogConfig, LogEffect, LogEffects, LogEvent, LogRoom};
use crate::{Expected, OpenError};
use wire::{ClusterId, Memory, Nanos, NodeId, StoreId};

const SEGMENT_BYTES: u32 = 64 << 10;

struct Bench {
    log: Log,
    disk: FakeDisk,
    memory: FakeMemory,
    effects: LogEffects,
    config: LogConfig,
    now: Nanos,
    /// What recovery yielded, or what was appended since: the state machine above the log is a list.
    state: Vec<Vec<u8>>,
    durable: usize,
    is_open: bool,
    is_fenced: bool,
    shut_down: bool,
    image: Option<(Vec<u8>, usize)>,
    image_read: Vec<u8>,
    random: Random,
    checkpoints: u64,
    armed: Option<Nanos>,
}

fn expected() -> Expected {
    Expected { cluster: None, store: None, node: NodeId(1), unit: 0 }
}

/// A record's bytes are a function of its index and the life that wrote it.
fn record(index: usize, life: u64) -> Vec<u8> {
    let mut random = Random::new(index as u64 * 1000 + life);
    let length = if random.chance(5) { random.below(20_000) } else { random.below(300) };
    let mut bytes: Vec<u8> = (0..length).map(|_| random.bits().to_le_bytes()[0]).collect();
    bytes.extend_from_slice(&(index as u64).to_le_bytes());
    bytes
}

impl Bench {
    fn new(seed: u64, segments: u64) -> Self {
        let config = LogConfig {
            capacity_bytes: (1 << 20) + segments * u64::from(SEGMENT_BYTES),
            device_bytes: 0,
            prezero_bytes: 3 * u64::from(SEGMENT_BYTES),
            accept_data_loss: false,
            life_random: 0,
            takes_over: None,
        };
        let format = format_of(ClusterId([1; 16]), StoreId([2; 16]), SEGMENT_BYTES);
        let mut bench = Self {
            log: Log::format(config, format),
            disk: FakeDisk::new(seed),
            memory: FakeMemory::default(),
            effects: LogEffects::default(),
            config,
            now: Nanos(1),
            state: Vec::new(),
            durable: 0,
            is_open: false,
            is_fenced: false,
            shut_down: false,
            image: None,
            image_read: Vec::new(),
            random: Random::new(seed),
            checkpoints: 0,
            armed: None,
        };
        bench.disk.reorders = true;
        bench.event(LogEvent::Start);
        bench
    }

    fn reopen(&mut self) {
        self.memory.clear();
        self.effects.clear();
        self.state.clear();
        self.image = None;
        self.image_read.clear();
        (self.is_open, self.is_fenced, self.shut_down, self.armed) = (false, false, false, None);
        self.config.device_bytes = self.disk.length();
        // Its own stream: known seeds go on to mean what they did.
        let mut lives = self.random;
        self.config.life_random = u16::try_from(lives.below(1 << 16)).unwrap();
        self.log = Log::open(self.config, expected());
        self.event(LogEvent::Start);
    }

    fn event(&mut self, event: LogEvent<'_>) {
        if let LogEvent::Tick = event {
            self.armed = self.armed.filter(|at| *at > self.now);
        }
        self.log.handle(self.now, event, &mut self.memory, &mut self.effects);
        loop {
            self.disk.submit(&self.effects.io, &mut self.memory);
            let list = std::mem::take(&mut self.effects.list);
            self.effects.clear();
            if list.is_empty() {
                break;
            }
            assert!(list.len() <= LogEffects::PER_EVENT_MAX);
            for effect in list {
                self.effect(effect);
            }
        }
    }

    fn effect(&mut self, effect: LogEffect) {
        match effect {
            LogEffect::Arm(at) => self.armed = Some(self.armed.map_or(at, |armed| armed.min(at))),
            LogEffect::OpenFailed | LogEffect::CheckpointFailed => {}
            LogEffect::Page { slot, offset, length } => {
                let bytes = &self.memory.bytes(slot)[offset as usize..][..length as usize];
                self.image_read.extend_from_slice(bytes);
                self.state = read_image(&self.image_read);
                self.log.handle(self.now, LogEvent::Next, &mut self.memory, &mut self.effects);
            }
            LogEffect::Restart => {
                self.state.clear();
                self.image_read.clear();
            }
            LogEffect::Records(records) => {
                for (index, bytes) in records.iter(&self.memory) {
                    assert_eq!(index, self.state.len() as u64 + 1, "records come in order, none twice");
                    self.state.push(bytes.to_vec());
                }
                self.log.handle(self.now, LogEvent::Next, &mut self.memory, &mut self.effects);
            }
            LogEffect::Opened { last_index } => {
                assert_eq!(last_index, self.state.len() as u64);
                assert!(self.log.recovered_cut() || !self.log.opened().unwrap().recovered_cut);
                assert!(self.log.lacks() || self.log.loss().is_none());
                self.is_open = true;
            }
            LogEffect::Durable { index } => self.durable = usize::try_from(index).unwrap(),
            LogEffect::WantPage { slot, offset, capacity } => {
                let (image, at) = self.image.as_mut().expect("begun");
                let length = (image.len() - *at).min(capacity as usize);
                self.memory.bytes_mut(slot)[offset as usize..][..length]
                    .copy_from_slice(&image[*at..*at + length]);
                *at += length;
                let last = *at == image.len();
                let length = u32::try_from(length).unwrap();
                let page = LogEvent::Page { slot, length, last };
                self.log.handle(self.now, page, &mut self.memory, &mut self.effects);
            }
            LogEffect::CheckpointDone { .. } => self.checkpoints += 1,
            LogEffect::Fenced => self.is_fenced = true,
            LogEffect::ShutDown => self.shut_down = true,
        }
    }

    fn step(&mut self) -> bool {
        let Some((io, outcome)) = self.disk.complete(&mut self.memory) else { return false };
        self.now = self.now.after(self.random.below(200) * Nanos::MICROSECOND);
        self.event(LogEvent::IoDone { io, outcome });
        true
    }

    /// A step of the disk, or what the log has armed.
    fn step_or_wait(&mut self) -> bool {
        if self.step() {
            return true;
        }
        let Some(at) = self.armed else { return false };
        self.now = self.now.max(at);
        self.event(LogEvent::Tick);
        true
    }

    fn run(&mut self) {
        let mut steps = 0;
        while self.step() {
            steps += 1;
            assert!(steps < 1_000_000, "never at rest");
        }
    }

    fn tick(&mut self) {
        self.now = self.now.after(60 * Nanos::MILLISECOND);
        self.event(LogEvent::Tick);
    }

    /// False where the log has no room.
    fn append(&mut self, life: u64) -> bool {
        let record = record(self.state.len() + 1, life);
        if self.log.room(record.len(), &mut self.memory) != LogRoom::Ready {
            return false;
        }
        self.state.push(record.clone());
        let index = self.state.len() as u64;
        self.event(LogEvent::Append { index, record: &record });
        true
    }

    fn checkpoint(&mut self) {
        let index = self.durable - usize::try_from(self.random.below(3)).unwrap().min(self.durable);
        self.image = Some((write_image(&self.state[..index]), 0));
        self.event(LogEvent::BeginCheckpoint { index: index as u64 });
    }
}

impl Bench {
    /// An orderly end as a metadata replica makes it, as far as `goes_on` lets it come.
    fn end_in_order(&mut self, mut goes_on: impl FnMut(&mut Self) -> bool) {
        self.event(LogEvent::Submit);
        let is_drained =
            |bench: &Self| bench.durable == bench.state.len() && !bench.log.device().is_checkpointing();
        while !is_drained(self) {
            self.event(LogEvent::Submit);
            if !goes_on(self) || !self.step_or_wait() {
                return;
            }
        }
        if !self.log.ends_at_checkpoint() {
            self.image = Some((write_image(&self.state), 0));
            self.event(LogEvent::BeginLastCheckpoint { index: self.state.len() as u64 });
            while !self.log.ends_at_checkpoint() {
                if !goes_on(self) || !self.step_or_wait() {
                    return;
                }
            }
        }
        self.event(LogEvent::Shutdown);
        while !self.shut_down && goes_on(self) && self.step_or_wait() {}
    }

    fn reopened(&mut self) -> crate::Opened {
        self.reopen();
        self.run();
        *self.log.opened().expect("nothing is wrong with the disk")
    }
}

/// A log that was stopped in order was read to its end all the same, as after a kill: up to 32 MiB in search of batches that can't be there.
#[test]
fn a_log_that_ended_in_order_is_not_searched() {
    for seed in 0..20 {
        let mut bench = Bench::new(seed, 64);
        bench.run();
        for life in 0..4 {
            for _ in 0..bench.random.below(60) {
                bench.append(life);
                if bench.random.chance(50) {
                    bench.event(LogEvent::Submit);
                    bench.step();
                }
                if bench.random.chance(10) {
                    bench.tick();
                }
            }
            let (state, image) = (bench.state.clone(), write_image(&bench.state).len() as u64);
            bench.end_in_order(|_| true);
            assert!(bench.shut_down);
            // A start that stores nothing ends in order by the superblock alone.
            for _ in 0..3 {
                let opened = bench.reopened();
                assert!(opened.was_clean && !opened.recovered_cut, "seed {seed} life {life}");
                assert!(bench.state == state);
                let counters = bench.log.counters();
                let superblocks = (crate::SUPERBLOCK_COPIES * crate::SUPERBLOCK_BYTES) as u64;
                let pages = bench.log.device().superblock().checkpoints[0].pages;
                assert!(
                    counters.read_bytes <= superblocks + image + 3 * 4096 * u64::from(pages),
                    "seed {seed} life {life}: {counters:?}, {image} bytes of image in {pages} pages"
                );
                assert_eq!((counters.search_bytes, counters.replayed_descriptor_bytes), (0, 0));
                bench.durable = bench.state.len();
                bench.end_in_order(|_| true);
                assert!(bench.shut_down);
                assert_eq!(bench.log.counters().checkpoints, 0);
            }
            assert!(bench.reopened().was_clean);
            // The mark is of one end: whoever starts and is killed leaves none.
            bench.disk.kill(&mut bench.memory);
            assert!(!bench.reopened().was_clean);
            assert!(bench.state == state);
            bench.durable = bench.state.len();
        }
    }
}

fn write_image(state: &[Vec<u8>]) -> Vec<u8> {
    let mut image = Vec::new();
    for record in state {
        image.extend_from_slice(&u32::try_from(record.len()).unwrap().to_le_bytes());
        image.extend_from_slice(record);
    }
    image
}

fn read_image(image: &[u8]) -> Vec<Vec<u8>> {
    crate::log::split_records(image, u32::MAX).map(<[u8]>::to_vec).collect()
}

/// Appends, checkpoints, crashes; after each recovery what was durable is there, and what is there is a prefix of what was appended.
fn crash_run(seed: u64, lives: u64) -> (usize, u64, usize) {
    // The list isn't shortened by checkpoints, so the file has to hold its image: the log itself is recycled all the time.
    let mut bench = Bench::new(seed, 160);
    bench.run();
    assert!(bench.is_open);
    let (mut most, mut clean) = (0, 0);
    for life in 0..lives {
        let image: usize = bench.state.iter().map(|record| record.len() + 4).sum();
        bench.log.expect_image(image as u64);
        let steps = bench.random.below(300);
        for _ in 0..steps {
            match bench.random.below(10) {
                0..5 => {
                    bench.append(life);
                }
                5 => bench.event(LogEvent::Submit),
                6 if bench.log.wants_checkpoint() || bench.random.chance(30) => {
                    if !bench.log.device().is_checkpointing() {
                        bench.checkpoint();
                    }
                }
                7 if bench.random.chance(10) => bench.tick(),
                _ => {
                    bench.step();
                }
            }
        }
        if bench.random.chance(25) {
            bench.end_in_order(|bench| bench.random.chance(98));
        }
        let (durable, appended) = (bench.durable, bench.state.clone());
        most = most.max(durable);
        if bench.random.chance(70) {
            bench.disk.crash(&mut bench.memory);
        } else {
            bench.disk.kill(&mut bench.memory);
        }
        bench.reopen();
        // Recovery is cut short again and again.
        while bench.random.chance(30) {
            for _ in 0..bench.random.below(20) {
                bench.step();
            }
            bench.disk.crash(&mut bench.memory);
            bench.reopen();
        }
        bench.run();
        assert!(bench.is_open, "seed {seed} life {life}: {:?}", bench.log.open_error());
        clean += usize::from(bench.log.opened().unwrap().was_clean);
        assert!(bench.state.len() >= durable, "seed {seed} life {life}: {} of {durable}", bench.state.len());
        assert!(bench.state[..] == appended[..bench.state.len()], "seed {seed} life {life}: other records");
        bench.durable = bench.state.len();
    }
    (most, bench.checkpoints, clean)
}

#[test]
fn nothing_durable_is_lost_whatever_is_cut() {
    let mut total = (0, 0, 0);
    for seed in 0..40 {
        let (records, checkpoints, clean) = crash_run(seed, 30);
        total = (total.0 + records, total.1 + checkpoints, total.2 + clean);
    }
    assert!(total.0 > 10_000 && total.1 > 200 && total.2 > 50, "the run did something: {total:?}");
}

#[test]
fn a_failed_write_or_flush_fences_and_nothing_acknowledged_is_lost() {
    let mut fenced = 0;
    for seed in 0..60 {
        let mut bench = Bench::new(seed, 64);
        bench.run();
        for life in 0..8 {
            bench.disk.faults = match seed % 2 {
                0 => Faults { write_errors: 400, ..Faults::default() },
                _ => Faults { flush_errors: 400, ..Faults::default() },
            };
            for _ in 0..100 {
                bench.append(life);
                bench.event(LogEvent::Submit);
                if bench.random.chance(60) {
                    bench.step();
                }
            }
            bench.run();
            fenced += u32::from(bench.is_fenced);
            if bench.is_fenced {
                let before = bench.durable;
                assert!(!bench.append(life), "a fenced log takes nothing");
                bench.tick();
                bench.run();
                assert_eq!(bench.durable, before);
            }
            let (durable, appended) = (bench.durable, bench.state.clone());
            bench.disk.faults = Faults::default();
            bench.disk.crash(&mut bench.memory);
            bench.reopen();
            bench.run();
            assert!(bench.is_open, "{:?}", bench.log.open_error());
            assert!(bench.state.len() >= durable && bench.state[..] == appended[..bench.state.len()]);
            bench.durable = bench.state.len();
        }
    }
    assert!(fenced > 50);
}

/// R29: damage below what is known durable refuses to open; accepted, the log ends before it, and goes on from there.
#[test]
fn damage_refuses_to_open_unless_loss_is_accepted() {
    let mut refused = 0;
    for seed in 0..100 {
        let mut bench = Bench::new(seed, 64);
        bench.run();
        for _ in 0..40 {
            bench.append(0);
            bench.event(LogEvent::Submit);
            bench.run();
        }
        bench.tick();
        bench.run();
        bench.event(LogEvent::Shutdown);
        bench.run();
        assert!(bench.shut_down);
        let records = bench.state.clone();
        // Somewhere in the first segments, which hold the log.
        let offset = (1 << 20) + bench.random.below(3 * u64::from(SEGMENT_BYTES));
        let bit = u32::try_from(bench.random.below(8)).unwrap();
        bench.disk.flip(offset, bit);
        bench.reopen();
        bench.run();
        if bench.is_open {
            assert!(bench.state == records, "seed {seed}: a flip at {offset} changed what is read");
            continue;
        }
        assert!(
            matches!(bench.log.open_error(), Some(OpenError::Damaged(_))),
            "{:?}",
            bench.log.open_error()
        );
        refused += 1;
        bench.config.accept_data_loss = true;
        bench.reopen();
        bench.run();
        assert!(bench.is_open && bench.log.opened().unwrap().recovered_cut);
        // It was said that a loss was accepted, and not of what.
        let (first, last) = bench.log.loss().and_then(|loss| loss.batches).expect("they are named");
        assert!(0 < first && first <= last, "{first} to {last}");
        assert!(bench.state.len() < records.len() && bench.state[..] == records[..bench.state.len()]);
        bench.config.accept_data_loss = false;
        for life in 1..4 {
            for _ in 0..5 {
                bench.append(life);
            }
            bench.event(LogEvent::Submit);
            bench.run();
            let state = bench.state.clone();
            bench.disk.crash(&mut bench.memory);
            bench.reopen();
            bench.run();
            assert!(bench.is_open, "{:?}", bench.log.open_error());
            assert!(bench.state == state);
        }
    }
    assert!(refused > 20, "{refused}");
}

/// A log that was little used made no checkpoint of itself, and nothing else forgets restarts: behind the 32nd no start found a segment,
/// and no record became durable any more.
#[test]
fn restarts_without_end_find_a_segment() {
    let mut bench = Bench::new(1, 64);
    bench.run();
    for life in 0..100 {
        // What the owner does, and no more than that.
        while bench.log.wants_checkpoint() {
            bench.image = Some((write_image(&bench.state), 0));
            bench.event(LogEvent::BeginCheckpoint { index: bench.state.len() as u64 });
            bench.run();
            assert!(bench.checkpoints < life, "one for each life would be enough");
        }
        assert!(bench.append(life));
        bench.event(LogEvent::Submit);
        bench.run();
        assert_eq!(bench.durable, bench.state.len(), "life {life}");
        let state = bench.state.clone();
        bench.disk.kill(&mut bench.memory);
        bench.reopen();
        bench.run();
        assert!(bench.is_open && bench.state == state, "life {life}: {:?}", bench.log.open_error());
    }
}

/// A write that failed while the log closed fenced it, and nobody was told that it had ended: the node waited for that for ever.
#[test]
fn an_end_on_a_failing_disk_comes() {
    let mut fenced = 0;
    for seed in 0..60 {
        let mut bench = Bench::new(seed, 64);
        bench.run();
        for _ in 0..20 {
            bench.append(0);
        }
        bench.event(LogEvent::Submit);
        if seed % 3 == 0 {
            bench.run();
            bench.image = Some((write_image(&bench.state), 0));
            bench.event(LogEvent::BeginCheckpoint { index: bench.durable as u64 });
            bench.run();
        }
        bench.disk.faults = match seed % 2 {
            0 => Faults { write_errors: 7000, ..Faults::default() },
            _ => Faults { flush_errors: 7000, ..Faults::default() },
        };
        bench.event(LogEvent::Shutdown);
        bench.run();
        assert!(bench.shut_down, "seed {seed}");
        fenced += u32::from(bench.is_fenced);
    }
    assert!(fenced > 20, "{fenced}");
}

/// Nobody asked a full file system again: a log without space stayed so, although there was room again.
#[test]
fn a_full_file_system_is_asked_again() {
    let mut bench = Bench::new(1, 64);
    bench.disk.capacity = (1 << 20) + 12 * u64::from(SEGMENT_BYTES);
    bench.run();
    // With two checkpoints the log says that it is full before the device is: nothing waits in it, and it idles.
    for _ in 0..2 {
        bench.image = Some((write_image(&bench.state), 0));
        bench.event(LogEvent::BeginCheckpoint { index: bench.durable as u64 });
        bench.run();
    }
    while bench.append(0) {
        bench.event(LogEvent::Submit);
        bench.run();
    }
    assert!(bench.log.device().segments().is_growth_blocked());
    assert!(bench.log.room(100, &mut bench.memory) == LogRoom::NoSpace && bench.durable == bench.state.len());
    bench.disk.capacity = u64::MAX;
    let mut ticks = 0;
    while bench.log.room(100, &mut bench.memory) != LogRoom::Ready {
        ticks += 1;
        assert!(ticks < 1000, "the log ticks on and gets nothing");
        bench.now = bench.armed.take().expect("it wants to be woken").max(bench.now);
        bench.event(LogEvent::Tick);
        bench.run();
    }
}
