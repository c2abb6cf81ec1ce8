//! A metadata group's log: records in order of their index, durable when told, and checkpoints that let the log be short.
//!
//! The same format and the same recovery as the chunk store's (`Device`), with three differences: a batch holds its records under the
//! descriptor's checksum; nothing in it is live, so a segment is free once both checkpoints are beyond it (R15); and damage refuses to
//! open, unless data loss is accepted explicitly: then the log ends before the first damaged batch.
//!
//! ```text
//! records of a batch, behind the header:   length u32, bytes; length u32, bytes; …
//! ```
//!
//! Driving it: `Start`; at each `Page` or `Records` effect take the bytes in and send `Next`; after `Opened` send `Append`s, as far as
//! [`Log::room`] allows, and `Submit` when no more are at hand. When [`Log::wants_checkpoint`] says so, send `BeginCheckpoint`, and
//! for each `WantPage` fill the slot and send `Page`. An orderly end is `BeginLastCheckpoint` and, once that is done, `Shutdown`: the log is then
//! marked as ended in order, and the next start reads the image and nothing else.

mod lives;
#[cfg(test)]
mod log_fuzz;
mod space;

use std::collections::VecDeque;

use wire::limits::MESSAGE_BYTES_MAX;
use wire::{Incarnation, Memory, Nanos, Slot};

use crate::batch::{HEADER_BYTES, descriptor_bytes_max};
use crate::checkpoint::page_bytes_max;
use crate::device::{
    Burden, Counters, DamagedBatches, Device, DeviceConfig, Draft, Expected, Format, Note, OpenError, Opened,
    PageContent, Room,
};
use crate::gather::Gather;
use crate::io::{IoEffects, IoOutcome, IoToken};
use crate::superblock::{JOINTS_MAX, Kind, Resume};

pub use space::LogSpace;
use space::RESERVE_SEGMENTS;

/// A record, at most: a message and what goes with it.
pub const RECORD_BYTES_MAX: usize = MESSAGE_BYTES_MAX + (64 << 10);
/// A checkpoint is wanted after this much log.
pub const CHECKPOINT_AFTER_BYTES: u64 = 256 << 20;
/// Records gather into buffers of this size; a larger one gets its own.
const GATHER_BYTES: usize = 256 << 10;
/// Gathered buffers that wait for the window; `Room::Busy` beyond.
const GATHERED_MAX: usize = 4;
/// Batches whose ends are remembered, so that a checkpoint may begin at a record that isn't the last.
const RESUME_POINTS_MAX: usize = 1024;
/// An idle log makes its last durable record decidable after this (R29).
const IDLE_NANOS: u64 = 50 * Nanos::MILLISECOND;
const UPKEEP_NANOS: u64 = 200 * Nanos::MILLISECOND;

/// What a log is given at its start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LogConfig {
    /// The file never grows beyond this.
    pub capacity_bytes: u64,
    /// The file's present length.
    pub device_bytes: u64,
    /// Free space kept written with zeros.
    pub prezero_bytes: u64,
    /// R29's override, an operator's explicit act.
    pub accept_data_loss: bool,
    /// Random: the low bits of the life that begins (R34).
    pub life_random: u16,
    /// With R29's override: the life of this store that control knows, which may be later than what is left of it, as where an old backup was put back. What is
    /// missing since counts as accepted, too.
    pub takes_over: Option<Incarnation>,
}

/// What happens to a log.
#[derive(Clone, Copy, Debug)]
pub enum LogEvent<'a> {
    /// First of all.
    Start,
    /// The next record, copied. Ends in `Durable`. [`Log::room`] was asked.
    Append {
        /// One more than the last record's.
        index: u64,
        /// The record.
        record: &'a [u8],
    },
    /// No further event is at hand: what has gathered is written now.
    Submit,
    /// Time has passed.
    Tick,
    /// The page or the records of the last effect are taken in.
    Next,
    /// An image of the state at this index follows in pages. It is at most the commit index (R15).
    BeginCheckpoint {
        /// The last record that the image contains.
        index: u64,
    },
    /// The same at the last record, all records being durable: nothing is appended behind it any more.
    BeginLastCheckpoint {
        /// The last record.
        index: u64,
    },
    /// The next page of the image, in the slot of `WantPage`.
    Page {
        /// The slot.
        slot: Slot,
        /// Bytes of content.
        length: u32,
        /// Whether the image ends here.
        last: bool,
    },
    /// Write what has gathered and end, in order if the newest checkpoint holds all of it. Ends in `ShutDown`.
    Shutdown,
    /// What came of a request.
    IoDone {
        /// The request's.
        io: IoToken,
        /// What came of it.
        outcome: IoOutcome,
    },
}

/// What a log wants done or known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LogEffect {
    /// `Tick` at this time.
    Arm(Nanos),
    /// Recovery: a page of the newest whole checkpoint. Valid until `Next`, which must follow.
    Page {
        /// The buffer.
        slot: Slot,
        /// Where the content begins.
        offset: u32,
        /// Its bytes.
        length: u32,
    },
    /// Recovery: the checkpoint whose pages came is damaged: forget them. An older one's, or none, follow.
    Restart,
    /// Recovery: records behind the checkpoint. Valid until `Next`, which must follow.
    Records(Records),
    /// Serving.
    Opened {
        /// The last record.
        last_index: u64,
    },
    /// Will never serve ([`Log::open_error`] says why).
    OpenFailed,
    /// Every record up to this one is durable.
    Durable {
        /// The last of them.
        index: u64,
    },
    /// A page of the image that was begun may be filled: at most `capacity` bytes from `offset` on.
    WantPage {
        /// The buffer; its reference comes back with `Page`.
        slot: Slot,
        /// Where the content begins.
        offset: u32,
        /// Its bytes, at most.
        capacity: u32,
    },
    /// The checkpoint is durable.
    CheckpointDone {
        /// Its index.
        index: u64,
    },
    /// The checkpoint was given up: begin another one later.
    CheckpointFailed,
    /// A write or flush failed: nothing more is written or becomes durable.
    Fenced,
    /// The end.
    ShutDown,
}

const _: () = assert!(size_of::<LogEffect>() <= 64);

/// What a log gave up, since the operator accepted its loss.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LogLoss {
    /// The first and the last batch of which is known that it was there.
    pub batches: Option<(u64, u64)>,
}

/// Records of one batch, at recovery.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Records {
    slot: Slot,
    body_bytes: u32,
    count: u32,
    first_index: u64,
    /// Records up to this one are in the checkpoint.
    after: u64,
}

impl Records {
    /// The records with their indices, in order.
    pub fn iter<'a, M: Memory>(&self, memory: &'a M) -> impl Iterator<Item = (u64, &'a [u8])> + use<'a, M> {
        let body = &memory.bytes(self.slot)[HEADER_BYTES..HEADER_BYTES + self.body_bytes as usize];
        let after = self.after;
        (self.first_index..).zip(split_records(body, self.count)).filter(move |(index, _)| *index > after)
    }
}

/// The records of a batch's body, as far as they are whole.
pub fn split_records(mut body: &[u8], count: u32) -> impl Iterator<Item = &[u8]> {
    (0..count).map_while(move |_| {
        let (length, rest) = body.split_at_checked(4)?;
        let length = u32::from_le_bytes(length.try_into().ok()?) as usize;
        let (record, rest) = rest.split_at_checked(length)?;
        body = rest;
        Some(record)
    })
}

/// Whether a record may be appended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LogRoom {
    /// Yes.
    Ready,
    /// When batches in flight are durable.
    Busy,
    /// When a checkpoint has made space.
    NoSpace,
    /// Not open, closing, or fenced.
    NotServing,
}

/// The caller's, executed and cleared after each event.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct LogEffects {
    /// Requests to the disk.
    pub io: IoEffects,
    /// Everything else.
    pub list: Vec<LogEffect>,
}

impl LogEffects {
    /// Requests and effects of one event, at most.
    pub const PER_EVENT_MAX: usize = 64;

    /// Empties both lists and keeps their memory.
    pub fn clear(&mut self) {
        self.io.clear();
        self.list.clear();
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Stage {
    Opening,
    Serving,
    /// The last checkpoint is wanted, or under way: nothing is appended.
    Finishing {
        begun: bool,
    },
    Closing,
    Ended,
}

/// What the driver holds during recovery, which waits for `Next`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Handed {
    Nothing,
    Page,
    Records(Slot),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Gathered {
    slot: Slot,
    capacity: usize,
    used: usize,
    count: u32,
    first_index: u64,
}

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Log {
    device: Device,
    stage: Stage,
    gathered: VecDeque<Gathered>,
    /// Batches in flight: sequence and last index.
    in_flight: VecDeque<(u64, u64)>,
    /// Durable batches: last index and where the log goes on.
    resume_points: VecDeque<(u64, Resume)>,
    last_index: u64,
    durable_index: u64,
    handed: Handed,
    page_wanted: Option<Slot>,
    checkpoint_index: u64,
    bytes_since_checkpoint: u64,
    /// Bytes of the next image, at most.
    image_bytes: u64,
    /// The last record and the free segments with which a checkpoint failed.
    checkpoint_failed: Option<(u64, u32)>,
    opened: Option<Opened>,
    open_error: Option<OpenError>,
    /// Batches that were durable and are given up.
    damaged: Option<DamagedBatches>,
    armed: Option<Nanos>,
    last_durable: Nanos,
    gather: Gather,
}

impl Log {
    /// Opens what is there; nothing is formatted (R34).
    pub fn open(config: LogConfig, expected: Expected) -> Self {
        Self::new(Device::open(device_config(&config), expected))
    }

    /// Formats an empty place, then opens it.
    pub fn format(config: LogConfig, format: Format) -> Self {
        Self::new(Device::format(device_config(&config), format))
    }

    fn new(device: Device) -> Self {
        Self {
            device,
            stage: Stage::Opening,
            gathered: VecDeque::new(),
            in_flight: VecDeque::new(),
            resume_points: VecDeque::new(),
            last_index: 0,
            durable_index: 0,
            handed: Handed::Nothing,
            page_wanted: None,
            checkpoint_index: 0,
            bytes_since_checkpoint: 0,
            image_bytes: 0,
            checkpoint_failed: None,
            opened: None,
            open_error: None,
            damaged: None,
            armed: None,
            last_durable: Nanos(0),
            gather: Gather::default(),
        }
    }

    /// Takes one event in. `effects` has room for [`LogEffects::PER_EVENT_MAX`] more.
    pub fn handle<M: Memory>(
        &mut self,
        now: Nanos,
        event: LogEvent<'_>,
        memory: &mut M,
        effects: &mut LogEffects,
    ) {
        match event {
            LogEvent::Start => self.device.start(memory, &mut effects.io),
            LogEvent::Append { index, record } => self.on_append(index, record, memory),
            LogEvent::Submit => {}
            LogEvent::Tick => self.on_tick(now, memory, effects),
            LogEvent::Next => {
                assert_ne!(self.handed, Handed::Nothing, "`Next` answers a page or records");
                if let Handed::Records(slot) = std::mem::replace(&mut self.handed, Handed::Nothing) {
                    memory.release(slot);
                }
            }
            LogEvent::BeginCheckpoint { index } => self.on_begin_checkpoint(index, effects),
            LogEvent::BeginLastCheckpoint { index } => {
                assert!(
                    self.stage == Stage::Serving && self.is_empty(),
                    "the end comes once, behind all records"
                );
                assert!(index == self.last_index && index == self.durable_index, "R15, and nothing follows");
                self.stage = Stage::Finishing { begun: false };
            }
            LogEvent::Page { slot, length, last } => self.on_page(slot, length, last, memory, effects),
            LogEvent::Shutdown => match self.stage {
                Stage::Serving | Stage::Finishing { .. } => self.stage = Stage::Closing,
                Stage::Closing => {}
                Stage::Opening | Stage::Ended => effects.list.push(LogEffect::ShutDown),
            },
            LogEvent::IoDone { io, outcome } => self.device.on_io(io, outcome, memory, &mut effects.io),
        }
        let gathers = matches!(event, LogEvent::Append { .. });
        self.settle(now, gathers, memory, effects);
    }

    fn settle<M: Memory>(&mut self, now: Nanos, gathers: bool, memory: &mut M, effects: &mut LogEffects) {
        self.begin_last_checkpoint(effects);
        if self.stage == Stage::Serving {
            self.device.set_free_wanted(self.ample_segments() + 1);
        }
        while self.handed == Handed::Nothing {
            self.device.advance(memory, &mut effects.io);
            let Some(note) = self.device.pop_note() else { break };
            self.on_note(now, note, effects);
        }
        if !gathers {
            self.seal(now, memory, effects);
        }
        self.want_page(memory, effects);
        if self.stage == Stage::Closing
            && (self.is_empty() || self.device.is_stuck())
            && self.device.in_flight() == 0
            && self.device.mark_clean(memory, &mut effects.io)
        {
            self.stage = Stage::Ended;
            effects.list.push(LogEffect::ShutDown);
        }
        self.arm(now, effects);
        assert!(self.durable_index <= self.last_index, "nothing is durable that wasn't appended");
    }

    fn on_note(&mut self, now: Nanos, note: Note, effects: &mut LogEffects) {
        match note {
            Note::Page { slot, offset, length, .. } => {
                self.handed = Handed::Page;
                self.restore_index();
                effects.list.push(LogEffect::Page { slot, offset, length });
            }
            Note::CheckpointAbandoned => {
                (self.checkpoint_index, self.last_index, self.durable_index) = (0, 0, 0);
                effects.list.push(LogEffect::Restart);
            }
            Note::Batch { header, slot, .. } => {
                self.restore_index();
                self.handed = Handed::Records(slot);
                self.bytes_since_checkpoint += u64::from(header.descriptor_bytes);
                if header.entries > 0 {
                    self.last_index = self.last_index.max(header.first_index + u64::from(header.entries) - 1);
                    self.durable_index = self.last_index;
                }
                effects.list.push(LogEffect::Records(Records {
                    slot,
                    body_bytes: header.body_bytes,
                    count: header.entries,
                    first_index: header.first_index,
                    after: self.checkpoint_index,
                }));
            }
            Note::Salvaged { .. } => unreachable!("a log of records has no holes"),
            // Only with data loss accepted: the log ends here, and `opened` says that it was cut.
            Note::Damaged(batches) => self.damaged = Some(batches),
            Note::Opened(opened) => {
                self.restore_index();
                self.opened = Some(opened);
                self.stage = Stage::Serving;
                self.last_durable = now;
                self.resume_points.push_back((self.durable_index, self.device.durable_resume()));
                effects.list.push(LogEffect::Opened { last_index: self.last_index });
            }
            Note::OpenFailed(error) => {
                self.open_error = Some(error);
                self.stage = Stage::Ended;
                effects.list.push(LogEffect::OpenFailed);
            }
            Note::Durable { sequence } => self.on_durable(now, sequence, effects),
            Note::Fenced => {
                let was_closing = std::mem::replace(&mut self.stage, Stage::Ended) == Stage::Closing;
                effects.list.push(LogEffect::Fenced);
                if was_closing {
                    effects.list.push(LogEffect::ShutDown);
                }
            }
            Note::CheckpointDone { .. } => {
                self.bytes_since_checkpoint = 0;
                effects.list.push(LogEffect::CheckpointDone { index: self.checkpoint_index });
            }
            Note::CheckpointFailed => self.fail_checkpoint(effects),
        }
    }

    /// The index of the checkpoint that recovery begins with.
    fn restore_index(&mut self) {
        if self.stage == Stage::Opening && self.last_index == 0 {
            self.checkpoint_index = self.device.recovering_mark();
            self.last_index = self.checkpoint_index;
            self.durable_index = self.checkpoint_index;
        }
    }

    fn on_durable(&mut self, now: Nanos, sequence: u64, effects: &mut LogEffects) {
        self.last_durable = now;
        let waiting = self.gathered.iter().map(|gathered| u64::from(gathered.count)).sum();
        self.gather.on_durable(now, sequence, waiting);
        let before = self.durable_index;
        while let Some((batch, index)) =
            self.in_flight.front().copied().filter(|(batch, _)| *batch <= sequence)
        {
            self.in_flight.pop_front();
            self.durable_index = self.durable_index.max(index);
            if batch == sequence {
                if self.resume_points.len() == RESUME_POINTS_MAX {
                    self.resume_points.pop_front();
                }
                self.resume_points.push_back((self.durable_index, self.device.durable_resume()));
            }
        }
        if self.durable_index > before {
            effects.list.push(LogEffect::Durable { index: self.durable_index });
        }
    }

    /// Whether a record of so many bytes may be appended now; takes the buffer for it.
    pub fn room<M: Memory>(&mut self, bytes: usize, memory: &mut M) -> LogRoom {
        if self.stage != Stage::Serving {
            return LogRoom::NotServing;
        }
        assert!(bytes <= self.record_bytes_max(), "a record is at most `record_bytes_max` bytes");
        if self.device.segments().free() + 1 < self.reserve_segments() {
            return LogRoom::NoSpace;
        }
        if self.has_buffer_for(bytes) {
            return LogRoom::Ready;
        }
        // A buffer that was taken for a smaller record and not used makes way.
        if let Some(unused) = self.gathered.back().filter(|last| last.count == 0) {
            memory.release(unused.slot);
            self.gathered.pop_back();
        }
        if self.gathered.len() == GATHERED_MAX {
            return LogRoom::Busy;
        }
        let wanted = GATHER_BYTES.max(HEADER_BYTES + 4 + bytes);
        let capacity = wanted.next_power_of_two().min(self.batch_bytes_max());
        let Some(slot) = memory.allocate(capacity) else { return LogRoom::Busy };
        self.gathered.push_back(Gathered { slot, capacity, used: HEADER_BYTES, count: 0, first_index: 0 });
        LogRoom::Ready
    }

    /// Whether nothing has gathered.
    fn is_empty(&self) -> bool {
        self.gathered.iter().all(|gathered| gathered.count == 0)
    }

    fn has_buffer_for(&self, bytes: usize) -> bool {
        self.gathered.back().is_some_and(|last| last.used + 4 + bytes <= last.capacity)
    }

    /// The largest record.
    pub fn record_bytes_max(&self) -> usize {
        RECORD_BYTES_MAX.min(self.batch_bytes_max() - HEADER_BYTES - 4)
    }

    fn batch_bytes_max(&self) -> usize {
        let by_segment = self.device.geometry().batch_blocks_max() as usize * 4096;
        by_segment.min(descriptor_bytes_max(Kind::Records) as usize)
    }

    fn on_append<M: Memory>(&mut self, index: u64, record: &[u8], memory: &mut M) {
        assert_eq!(index, self.last_index + 1, "records come in order");
        assert!(
            self.stage == Stage::Serving && self.has_buffer_for(record.len()),
            "the driver asked for room"
        );
        let needed = 4 + record.len();
        let last = self.gathered.back_mut().expect("checked above");
        if last.count == 0 {
            last.first_index = index;
        }
        let bytes = &mut memory.bytes_mut(last.slot)[last.used..last.used + needed];
        let length = u32::try_from(record.len()).expect("at most a record");
        bytes[..4].copy_from_slice(&length.to_le_bytes());
        bytes[4..].copy_from_slice(record);
        last.used += needed;
        last.count += 1;
        self.last_index = index;
    }

    /// Writes what has gathered: as soon as it is worth a flush when nothing is in flight, else full buffers only, so that a flush serves many.
    fn seal<M: Memory>(&mut self, now: Nanos, memory: &mut M, effects: &mut LogEffects) {
        while let Some(first) = self.gathered.front().copied().filter(|first| first.count > 0) {
            let is_last = self.gathered.len() == 1 && self.stage == Stage::Serving;
            let waits =
                is_last && (self.device.in_flight() > 0 || !self.gather.is_due(now, u64::from(first.count)));
            let bytes = u32::try_from(first.used).expect("at most a batch");
            if waits || self.device.room(bytes.div_ceil(4096), Burden::Neutral) != Room::Ready {
                return;
            }
            self.gathered.pop_front();
            let draft = Draft {
                descriptor: first.slot,
                body_bytes: bytes - u32::try_from(HEADER_BYTES).expect("128"),
                entries: first.count,
                first_index: first.first_index,
                payload: &[],
            };
            let appended = self.device.append(draft, memory, &mut effects.io);
            self.gather.on_sealed(now, appended.sequence, u64::from(first.count));
            self.bytes_since_checkpoint += u64::from(bytes.next_multiple_of(4096));
            self.in_flight.push_back((appended.sequence, first.first_index + u64::from(first.count) - 1));
        }
    }

    fn on_tick<M: Memory>(&mut self, now: Nanos, memory: &mut M, effects: &mut LogEffects) {
        if self.armed.is_some_and(|at| now >= at) {
            self.armed = None;
        }
        self.device.on_tick(now, memory, &mut effects.io);
        let is_idle =
            self.stage == Stage::Serving && self.is_empty() && now.since(self.last_durable) >= IDLE_NANOS;
        if is_idle && self.device.wants_empty_batch() && self.device.room(1, Burden::Neutral) == Room::Ready {
            let Some(descriptor) = memory.allocate(4096) else { return };
            let draft = Draft { descriptor, body_bytes: 0, entries: 0, first_index: 0, payload: &[] };
            let appended = self.device.append(draft, memory, &mut effects.io);
            self.gather.on_sealed(now, appended.sequence, 0);
            self.in_flight.push_back((appended.sequence, self.last_index));
        }
    }

    fn arm(&mut self, now: Nanos, effects: &mut LogEffects) {
        if matches!(self.stage, Stage::Opening | Stage::Ended) {
            return;
        }
        let at = if self.device.has_news() {
            now.after(Nanos::MILLISECOND)
        } else if self.stage == Stage::Serving && self.device.wants_empty_batch() {
            // A deadline that has passed and could not be met is tried again soon, not at once.
            self.last_durable.after(IDLE_NANOS).max(now.after(Nanos::MILLISECOND))
        } else if !self.is_empty()
            || self.device.is_checkpointing()
            || self.device.segments().is_growth_blocked()
        {
            now.after(UPKEEP_NANOS)
        } else {
            return;
        };
        let due = self.gather.deadline().filter(|due| *due > now && !self.is_empty());
        let at = due.map_or(at, |due| due.min(at));
        if self.armed.is_none_or(|armed| at < armed) {
            self.armed = Some(at);
            effects.list.push(LogEffect::Arm(at));
        }
    }

    fn on_begin_checkpoint(&mut self, index: u64, effects: &mut LogEffects) {
        assert!(index <= self.durable_index, "R15: a checkpoint holds committed records only");
        // The last batch that holds nothing behind the index; replay leaves out what it repeats.
        let point = self.resume_points.iter().rev().find(|(last, _)| *last <= index);
        let began = point.is_some_and(|(_, resume)| self.device.begin_checkpoint_at(*resume, index, false));
        if began {
            self.checkpoint_index = index;
        } else {
            self.fail_checkpoint(effects);
        }
    }

    /// Another one would fail, too, until something has changed.
    fn fail_checkpoint(&mut self, effects: &mut LogEffects) {
        self.checkpoint_failed = Some((self.durable_index, self.device.segments().free()));
        effects.list.push(LogEffect::CheckpointFailed);
    }

    /// As soon as nothing is in flight: an empty batch may still be.
    fn begin_last_checkpoint(&mut self, effects: &mut LogEffects) {
        let is_due = self.stage == Stage::Finishing { begun: false }
            && self.device.in_flight() == 0
            && !self.device.is_checkpointing();
        if !is_due {
            return;
        }
        let resume = self.device.durable_resume();
        if self.device.begin_checkpoint_at(resume, self.last_index, true) {
            self.stage = Stage::Finishing { begun: true };
            self.checkpoint_index = self.last_index;
        } else if !self.device.is_growing() {
            self.stage = Stage::Finishing { begun: true };
            effects.list.push(LogEffect::CheckpointFailed);
        }
    }

    fn want_page<M: Memory>(&mut self, memory: &mut M, effects: &mut LogEffects) {
        if self.page_wanted.is_some() || !self.device.wants_page() || self.stage == Stage::Ended {
            return;
        }
        let Some((slot, offset)) = self.device.allocate_page(memory) else { return };
        self.page_wanted = Some(slot);
        let bound = "at most a page";
        effects.list.push(LogEffect::WantPage {
            slot,
            offset: u32::try_from(offset).expect(bound),
            capacity: u32::try_from(self.device.page_content_max()).expect(bound),
        });
    }

    fn on_page<M: Memory>(
        &mut self,
        slot: Slot,
        length: u32,
        last: bool,
        memory: &mut M,
        effects: &mut LogEffects,
    ) {
        assert_eq!(self.page_wanted.take(), Some(slot), "a page comes in the slot that was asked for");
        if !self.device.wants_page() {
            // Fenced meanwhile, or given up for want of a segment.
            memory.release(slot);
            return;
        }
        let content = PageContent { length: length as usize, entries: 0, last };
        self.device.checkpoint_page(slot, content, memory, &mut effects.io);
    }

    /// Whether a checkpoint should begin: the log behind the last one is long, space is short, or there were many restarts. Asked after
    /// `Opened` too, and answered although nothing has changed since the last one.
    pub fn wants_checkpoint(&self) -> bool {
        if self.stage != Stage::Serving || self.device.is_checkpointing() {
            return false;
        }
        let segments = self.device.segments();
        if self.checkpoint_failed == Some((self.durable_index, segments.free())) {
            return false;
        }
        let capacity = u64::from(segments.count()) * u64::from(self.device.geometry().segment_bytes());
        let has_news = self.durable_index > self.device.newest_mark();
        let is_long = self.bytes_since_checkpoint >= CHECKPOINT_AFTER_BYTES.min(capacity / 8);
        let tight = 2 * RESERVE_SEGMENTS + self.device.checkpoint_segments();
        let is_tight = segments.free() < tight.max(self.ample_segments() + 1);
        // What was removed is still in the present checkpoints: smaller ones take their place.
        let is_smaller = self.device.checkpoint_segments() > 2 * self.image_segments();
        let shrinks = has_news && is_smaller && self.space(0) != LogSpace::Ample;
        // Two checkpoints leave the restarts behind; at the limit no life would find a segment any more.
        let has_restarts = self.device.superblock().joints.len() > JOINTS_MAX / 2;
        (has_news && is_long) || (is_tight && self.device.checkpoint_frees()) || shrinks || has_restarts
    }

    /// Whether the newest checkpoint holds everything, and no batch, not even an empty one, lies behind it.
    pub fn ends_at_checkpoint(&self) -> bool {
        self.is_empty() && self.device.ends_at_checkpoint()
    }

    /// Bytes of a page's content, at most, in segments of this size.
    pub fn page_bytes_max(&self) -> u32 {
        page_bytes_max(self.device.geometry())
    }

    /// How the log was found.
    pub fn opened(&self) -> Option<&Opened> {
        self.opened.as_ref()
    }

    /// Why it can't be opened.
    pub fn open_error(&self) -> Option<OpenError> {
        self.open_error
    }

    /// What this life has given up, once it is open: durable records behind the last one that it was opened with. Their number isn't known, since what
    /// counts them is what can't be read.
    pub fn loss(&self) -> Option<LogLoss> {
        let opened = self.opened?;
        let batches = self.damaged.map(|batches| (batches.first, batches.last));
        (batches.is_some() || opened.lost_its_end).then_some(LogLoss { batches })
    }

    /// The last record appended.
    pub fn last_index(&self) -> u64 {
        self.last_index
    }

    /// The last record known durable.
    pub fn durable_index(&self) -> u64 {
        self.durable_index
    }

    /// Whether a write or flush failed.
    pub fn is_fenced(&self) -> bool {
        self.device.is_fenced()
    }

    /// What was asked of the disk.
    pub fn counters(&self) -> Counters {
        self.device.counters()
    }

    /// See [`Device::release`].
    pub fn release<M: Memory>(&mut self, memory: &mut M) {
        self.device.release(memory);
    }

    /// The device under the log.
    pub fn device(&self) -> &Device {
        &self.device
    }
}

fn device_config(config: &LogConfig) -> DeviceConfig {
    DeviceConfig {
        kind: Kind::Records,
        capacity_bytes: config.capacity_bytes,
        device_bytes: config.device_bytes,
        prezero_bytes: config.prezero_bytes,
        accept_data_loss: config.accept_data_loss,
        life_random: config.life_random,
        takes_over: config.takes_over,
    }
}
