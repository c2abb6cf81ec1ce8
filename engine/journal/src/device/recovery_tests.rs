//! Recovery of a log whose medium was damaged in one known place: what must be told is told, and what is whole is kept.

use wire::{ClusterId, Memory, Nanos, NodeId, StoreId};

use crate::checkpoint::PAGE_HEADER_BYTES;
use crate::fake_disk::{FakeDisk, FakeMemory, format_of};
use crate::layout::{BlockIndex, DATA_START, Place};
use crate::log::{Log, LogConfig, LogEffect, LogEffects, LogEvent, LogRoom};
use crate::{Expected, Kind, OpenError};

const SEGMENT_BYTES: u32 = 256 << 10;

pub(super) struct Bench {
    pub(super) log: Log,
    pub(super) disk: FakeDisk,
    pub(super) memory: FakeMemory,
    pub(super) effects: LogEffects,
    pub(super) config: LogConfig,
    /// Records as appended, or as recovered.
    pub(super) records: Vec<Vec<u8>>,
    /// The image that a checkpoint takes, or that recovery has read.
    image: Vec<u8>,
    pub(super) is_open: bool,
}

impl Bench {
    pub(super) fn new() -> Self {
        Self::with_seed(1)
    }

    /// What a crash keeps depends on the seed.
    pub(super) fn with_seed(seed: u64) -> Self {
        let config = LogConfig {
            capacity_bytes: DATA_START + 64 * u64::from(SEGMENT_BYTES),
            device_bytes: 0,
            prezero_bytes: 0,
            accept_data_loss: false,
            life_random: 0x1234,
            takes_over: None,
        };
        let format = format_of(ClusterId([1; 16]), StoreId([2; 16]), SEGMENT_BYTES);
        let mut bench = Self {
            log: Log::format(config, format),
            disk: FakeDisk::new(seed),
            memory: FakeMemory::default(),
            effects: LogEffects::default(),
            config,
            records: Vec::new(),
            image: Vec::new(),
            is_open: false,
        };
        bench.run(LogEvent::Start);
        assert!(bench.is_open);
        bench
    }

    /// Killed, and started again.
    pub(super) fn restart(&mut self) {
        self.disk.kill(&mut self.memory);
        self.memory.clear();
        self.records.clear();
        self.image.clear();
        self.is_open = false;
        self.config.device_bytes = self.disk.length();
        let expected = Expected { cluster: None, store: None, node: NodeId(1), unit: 0 };
        self.log = Log::open(self.config, expected);
        self.run(LogEvent::Start);
    }

    /// One event and all that follows from it.
    pub(super) fn run(&mut self, event: LogEvent<'_>) {
        self.handle(event);
        self.finish();
    }

    /// Until the disk has nothing left to do.
    fn finish(&mut self) {
        for _ in 0..100_000 {
            let Some((io, outcome)) = self.disk.complete(&mut self.memory) else { return };
            self.handle(LogEvent::IoDone { io, outcome });
        }
        panic!("it comes to no end");
    }

    pub(super) fn handle(&mut self, event: LogEvent<'_>) {
        self.log.handle(Nanos(1), event, &mut self.memory, &mut self.effects);
        loop {
            self.disk.submit(&self.effects.io, &mut self.memory);
            let list = std::mem::take(&mut self.effects.list);
            self.effects.clear();
            if list.is_empty() {
                return;
            }
            for effect in list {
                self.effect(effect);
            }
        }
    }

    fn effect(&mut self, effect: LogEffect) {
        match effect {
            LogEffect::Page { slot, offset, length } => {
                self.image.extend_from_slice(&self.memory.bytes(slot)[offset as usize..][..length as usize]);
                let records = crate::log::split_records(&self.image, u32::MAX);
                self.records = records.map(<[u8]>::to_vec).collect();
                self.then(LogEvent::Next);
            }
            LogEffect::Restart => {
                self.records.clear();
                self.image.clear();
            }
            LogEffect::Records(records) => {
                self.records.extend(records.iter(&self.memory).map(|(_, bytes)| bytes.to_vec()));
                self.then(LogEvent::Next);
            }
            LogEffect::WantPage { slot, offset, capacity } => {
                let page: Vec<u8> = self.image.drain(..self.image.len().min(capacity as usize)).collect();
                self.memory.bytes_mut(slot)[offset as usize..][..page.len()].copy_from_slice(&page);
                let (length, last) = (u32::try_from(page.len()).unwrap(), self.image.is_empty());
                self.then(LogEvent::Page { slot, length, last });
            }
            LogEffect::Opened { .. } => self.is_open = true,
            _ => {}
        }
    }

    /// An event in answer to an effect.
    fn then(&mut self, event: LogEvent<'_>) {
        self.log.handle(Nanos(1), event, &mut self.memory, &mut self.effects);
    }

    /// Durable records of `bytes` each, a batch each.
    pub(super) fn append(&mut self, count: usize, bytes: usize) {
        for _ in 0..count {
            let record = vec![u8::try_from(self.records.len() % 251).unwrap(); bytes];
            assert_eq!(self.log.room(bytes, &mut self.memory), LogRoom::Ready);
            self.records.push(record.clone());
            let index = self.records.len() as u64;
            self.run(LogEvent::Append { index, record: &record });
            self.run(LogEvent::Submit);
            assert_eq!(self.log.durable_index(), index);
        }
    }

    pub(super) fn checkpoint(&mut self) {
        let before = self.log.counters().checkpoints;
        self.begin_checkpoint();
        self.finish();
        assert_eq!(self.log.counters().checkpoints, before + 1);
    }

    pub(super) fn begin_checkpoint(&mut self) {
        for record in &self.records {
            self.image.extend_from_slice(&u32::try_from(record.len()).unwrap().to_le_bytes());
            self.image.extend_from_slice(record);
        }
        self.handle(LogEvent::BeginCheckpoint { index: self.records.len() as u64 });
    }

    pub(super) fn offset(&self, place: Place) -> u64 {
        self.log.device().geometry().offset(place)
    }

    /// The first byte behind the log.
    pub(super) fn end(&self) -> u64 {
        self.offset(self.log.device().durable_resume().place)
    }

    fn assert_refused(&self, is_right: impl Fn(OpenError) -> bool) {
        assert!(!self.is_open && self.log.open_error().is_some_and(is_right), "{:?}", self.log.open_error());
    }
}

/// A sector that could not be read behind the log's end, where nothing was ever written, kept the node from starting; and with the loss
/// accepted, good batches before it were cut because they had been read together with it.
#[test]
fn a_bad_sector_in_free_space_hides_nothing() {
    for blocks_behind in [1, 10, 50] {
        let mut bench = Bench::new();
        bench.append(8, 100);
        let records = bench.records.clone();
        bench.disk.break_sector(bench.end() + blocks_behind * 4096);
        bench.restart();
        assert!(bench.is_open && bench.records == records, "{:?}", bench.log.open_error());
    }
}

/// Where the next batch must begin it may be a durable one that can't be read: refused by name. Accepted, nothing that is whole is lost.
#[test]
fn a_bad_sector_where_the_log_would_go_on_is_not_passed_over() {
    let mut bench = Bench::new();
    bench.append(8, 100);
    let (records, end) = (bench.records.clone(), bench.end());
    bench.disk.break_sector(end);
    bench.restart();
    bench.assert_refused(|error| error == OpenError::Unreadable { offset: end });
    bench.config.accept_data_loss = true;
    bench.restart();
    assert!(bench.is_open && bench.records == records);
}

/// Its first block says how long a batch or a page is, and can be read; the next one can't. Both were read by turns for ever.
#[test]
fn a_bad_sector_behind_a_first_block_is_found_bad() {
    let mut bench = Bench::new();
    bench.append(3, 10_000);
    let end = bench.end();
    bench.append(5, 10_000);
    bench.disk.break_sector(end + 4096);
    bench.restart();
    bench.assert_refused(|error| error == OpenError::Unreadable { offset: end });

    let mut bench = Bench::new();
    bench.append(5, 10_000);
    let records = bench.records.clone();
    bench.checkpoint();
    let newest = bench.log.device().superblock().checkpoints[0].segments[0];
    bench.disk.break_sector(bench.offset(Place { segment: newest, block: BlockIndex(1) }));
    bench.restart();
    assert!(bench.is_open && bench.records == records, "{:?}", bench.log.open_error());
}

/// The file lost its end, and with it whole batches that were durable: it opened as if nothing had happened, because only the segments in the
/// superblock were looked for.
#[test]
fn a_file_that_lost_its_end_is_refused() {
    for lost in 1..4 {
        let mut bench = Bench::new();
        bench.append(20, 60_000);
        let records = bench.records.clone();
        let last = bench.log.device().durable_resume().place.segment.0;
        assert!(last >= 4, "the log goes through some segments");
        let first_lost = Place { segment: crate::SegmentIndex(last + 1 - lost), block: BlockIndex(0) };
        bench.disk.truncate(bench.offset(first_lost));
        bench.restart();
        bench.assert_refused(|error| matches!(error, OpenError::Truncated { .. }));
        bench.config.accept_data_loss = true;
        bench.restart();
        assert!(bench.is_open && bench.log.opened().unwrap().recovered_cut);
        assert!(bench.records.len() < 20 && bench.records[..] == records[..bench.records.len()]);
    }
}

/// A log whose superblock named what was cut off could not be opened at all: it is cut there, once that is accepted.
#[test]
fn a_log_that_lost_named_segments_is_cut_if_the_loss_is_accepted() {
    let mut cut_in_the_middle = 0;
    for checkpoint_after in [1, 3] {
        let mut bench = Bench::new();
        for life in 0..6 {
            bench.append(8, 60_000);
            if life == checkpoint_after {
                let records = bench.records.clone();
                bench.checkpoint();
                bench.records = records;
            }
            bench.restart();
        }
        let records = bench.records.clone();
        assert_eq!(records.len(), 48);
        let last = bench.log.device().superblock().joints.iter().map(|joint| joint.segment.0).max().unwrap();
        let (disk, config) = (bench.disk.clone(), bench.config);
        for cut in 0..=last {
            (bench.disk, bench.config) = (disk.clone(), config);
            bench
                .disk
                .truncate(bench.offset(Place { segment: crate::SegmentIndex(cut), block: BlockIndex(0) }));
            bench.restart();
            let refusal = bench.log.open_error().expect("it lost named segments");
            bench.config.accept_data_loss = true;
            bench.restart();
            // What accepting the loss is of use for is told from what it isn't, before and after.
            assert_eq!(bench.is_open, refusal.may_be_accepted(Kind::Records), "cut {cut}: {refusal}");
            if !bench.is_open {
                // Nothing is left to begin with.
                bench.assert_refused(|error| error == refusal);
                assert!(matches!(refusal, OpenError::CheckpointsTruncated { .. }), "{refusal}");
                continue;
            }
            assert!(matches!(refusal, OpenError::Truncated { .. }), "{refusal}");
            assert!(bench.log.opened().unwrap().recovered_cut);
            assert!(bench.records[..] == records[..bench.records.len()], "cut {cut}");
            cut_in_the_middle += usize::from(!bench.records.is_empty() && bench.records.len() < 48);
            bench.append(3, 60_000);
            let kept = bench.records.clone();
            bench.config.accept_data_loss = false;
            bench.restart();
            assert!(bench.is_open && bench.records == kept, "cut {cut}: {:?}", bench.log.open_error());
        }
    }
    assert!(cut_in_the_middle > 5, "{cut_in_the_middle}");
}

/// A file seldom ends where a segment does. The segment that it ended in was dropped whole: a log that was shortened by a few bytes lost up to 16 MiB of
/// entries, a young one all that it held.
#[test]
fn every_record_before_the_end_of_a_shortened_log_is_kept() {
    let mut kept_of_part = 0;
    for (with_checkpoint, bytes) in [(false, 60_000), (false, 500), (true, 60_000)] {
        let mut bench = Bench::new();
        let mut ends = Vec::new();
        for number in 0..24 {
            bench.append(1, bytes);
            ends.push(bench.end());
            if with_checkpoint && number == 6 {
                let records = bench.records.clone();
                bench.checkpoint();
                bench.records = records;
            }
        }
        let records = bench.records.clone();
        let (disk, config) = (bench.disk.clone(), bench.config);
        let first = bench.offset(Place::default());
        let segment = |byte: u64| (byte - first) / u64::from(SEGMENT_BYTES);
        // A log goes through its segments in order until one is free again.
        assert!(ends.is_sorted());
        for (number, cut) in ends.iter().enumerate().flat_map(|(number, end)| {
            [(number, end - 1), (number + 1, *end), (number + 1, end + 1), (number + 1, end + 5000)]
        }) {
            let whole = ends.iter().filter(|end| **end <= cut).count();
            assert!(whole >= number);
            (bench.disk, bench.config) = (disk.clone(), config);
            bench.disk.truncate(cut);
            bench.restart();
            if bench.is_open {
                // What is gone may be a torn tail where nothing says that it was durable.
                continue;
            }
            bench.assert_refused(|error| matches!(error, OpenError::Truncated { .. }));
            bench.config.accept_data_loss = true;
            bench.restart();
            assert!(bench.is_open, "{:?}", bench.log.open_error());
            assert!(bench.log.opened().unwrap().recovered_cut);
            assert_eq!(bench.records.len(), whole, "cut at {cut}");
            assert!(bench.records[..] == records[..whole]);
            let is_of_part = whole > 0 && segment(ends[whole - 1] - 1) == segment(cut);
            kept_of_part += usize::from(is_of_part && !cut.is_multiple_of(u64::from(SEGMENT_BYTES)));
            // What goes on isn't lost again.
            bench.append(3, bytes);
            let kept = bench.records.clone();
            bench.config.accept_data_loss = false;
            bench.restart();
            assert!(bench.is_open && bench.records == kept, "cut at {cut}: {:?}", bench.log.open_error());
        }
    }
    assert!(kept_of_part > 40, "{kept_of_part}");
}

/// A file that can't grow back to whole segments is left as it is.
#[test]
fn a_shortened_log_without_room_is_left_alone() {
    let mut bench = Bench::new();
    bench.append(20, 60_000);
    let cut = bench.end() - 100_000;
    bench.disk.truncate(cut);
    bench.disk.capacity = cut;
    bench.config.accept_data_loss = true;
    bench.restart();
    bench.assert_refused(|error| matches!(error, OpenError::NoRoom { needed } if needed > cut));
    assert_eq!(bench.disk.length(), cut);
    bench.disk.capacity = u64::MAX;
    bench.restart();
    assert!(bench.is_open && bench.records.len() >= 17, "{:?}", bench.log.open_error());
}

/// A start recommended to accept the loss of a log whose checkpoints the device couldn't read; accepted, it failed with the same words.
#[test]
fn a_log_without_a_checkpoint_is_not_said_to_be_recoverable() {
    let check = |damage: &dyn Fn(&mut Bench, u64), expected: &dyn Fn(&[u64]) -> OpenError| {
        let mut bench = Bench::new();
        for _ in 0..3 {
            bench.append(5, 100);
            let records = bench.records.clone();
            bench.checkpoint();
            bench.records = records;
        }
        let checkpoints = bench.log.device().superblock().checkpoints.clone();
        let offsets: Vec<_> = checkpoints
            .iter()
            .map(|known| bench.offset(Place { segment: known.segments[0], block: BlockIndex(0) }))
            .collect();
        for offset in &offsets {
            damage(&mut bench, *offset);
        }
        for accepts in [false, true] {
            bench.config.accept_data_loss = accepts;
            bench.restart();
            bench
                .assert_refused(|error| error == expected(&offsets) && !error.may_be_accepted(Kind::Records));
        }
    };
    check(&|bench, offset| bench.disk.break_sector(offset), &|offsets| OpenError::CheckpointsUnreadable {
        offset: offsets[0],
    });
    check(&|bench, offset| bench.disk.flip(offset + 100, 1), &|_| OpenError::CheckpointsDamaged);
    check(&|bench, offset| bench.disk.truncate(offset.min(bench.disk.length())), &|offsets| {
        OpenError::CheckpointsTruncated { length: offsets.iter().copied().min().unwrap() }
    });
    assert!(
        OpenError::CheckpointsDamaged.may_be_accepted(Kind::Chunks),
        "batches of a store are found without"
    );
    assert!(!OpenError::Unreadable { offset: 0 }.may_be_accepted(Kind::Chunks), "the superblock");
}

/// A checkpoint says in the superblock how far the log was durable. When its pages were damaged, that was forgotten with them, and a rotten
/// last batch passed for a torn one.
#[test]
fn a_damaged_checkpoint_still_says_what_was_durable() {
    let mut bench = Bench::new();
    bench.append(5, 100);
    bench.checkpoint();
    bench.append(5, 100);
    bench.checkpoint();
    let newest = bench.log.device().superblock().checkpoints[0].segments[0];
    let page = bench.offset(Place { segment: newest, block: BlockIndex(0) }) + PAGE_HEADER_BYTES as u64;
    let last = bench.log.device().durable_resume().sequence;
    bench.disk.flip(page, 1);
    bench.disk.flip(bench.end() - 4096 + 200, 1);
    bench.restart();
    bench.assert_refused(
        |error| matches!(error, OpenError::Damaged(batches) if (batches.first, batches.last) == (last, last)),
    );
    bench.config.accept_data_loss = true;
    bench.restart();
    assert!(bench.is_open && bench.records.len() == 9);
}

/// A later batch was searched for no farther than batches can be in flight, so a larger loss passed for a torn tail: a quiet log forgot
/// all that lay behind 136 KiB of rot.
#[test]
fn a_loss_larger_than_the_reach_is_damage() {
    // With 60 records in one segment, with 200 the log goes through several.
    for records in [60, 200] {
        let mut bench = Bench::new();
        bench.append(5, 100);
        let (end, good) = (bench.end(), bench.log.device().durable_resume().sequence);
        bench.append(records - 5, 100);
        for block in 0..40 {
            bench.disk.flip(end + block * 4096 + 100, 1);
        }
        bench.restart();
        bench.assert_refused(
            |error| matches!(error, OpenError::Damaged(batches) if batches.first == good + 1),
        );
        bench.config.accept_data_loss = true;
        bench.restart();
        assert!(bench.is_open && bench.records.len() == 5);
    }
}
