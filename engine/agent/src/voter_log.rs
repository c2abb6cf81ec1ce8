//! The voter's log: its records on a journal of their own, and its checkpoints, which are the same records again.
//!
//! ```text
//! a checkpoint's pages, one after the other:   length u32, record; length u32, record; …
//! ```

use journal::OpenError;
use journal::log::{Log, LogEffect, LogEffects, LogEvent, LogRoom};
use wire::{Memory, Nanos, Slot};

use crate::effects::Effects;

/// A checkpoint is worth while after this much log.
const CHECKPOINT_AFTER_BYTES: usize = 8 << 20;

/// What the log tells its council.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum LogNote {
    /// Recovery: what was read so far was a damaged checkpoint's.
    Restart,
    /// Recovery: the next record.
    Record(Vec<u8>),
    /// Recovery is done; the last record.
    Opened(u64),
    /// It can't be used.
    OpenFailed(OpenError),
    /// Every record up to this one is durable.
    Durable(u64),
    /// A write or flush failed.
    Fenced,
    /// The log has ended.
    Closed,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct VoterLog {
    log: Log,
    effects: LogEffects,
    notes: Vec<LogNote>,
    /// The log waits until what it handed out is taken in.
    handed: bool,
    /// Recovery: pages of the checkpoint so far.
    pages: Vec<u8>,
    /// Records that the log had no room for.
    pending: std::collections::VecDeque<(u64, Vec<u8>)>,
    /// The checkpoint that is being written: its bytes, and how many are written.
    image: Option<(Vec<u8>, usize)>,
    wanted: Option<(Slot, u32, u32)>,
    bytes_since: usize,
    deadline: Option<Nanos>,
}

impl VoterLog {
    pub(crate) fn new(log: Log) -> Self {
        Self {
            log,
            effects: LogEffects::default(),
            notes: Vec::new(),
            handed: false,
            pages: Vec::new(),
            pending: std::collections::VecDeque::new(),
            image: None,
            wanted: None,
            bytes_since: 0,
            deadline: None,
        }
    }

    pub(crate) fn start(&mut self, now: Nanos, memory: &mut impl Memory, effects: &mut Effects) {
        self.run(now, LogEvent::Start, memory, effects);
    }

    /// What there is to know, in order.
    pub(crate) fn take_notes(
        &mut self,
        now: Nanos,
        memory: &mut impl Memory,
        effects: &mut Effects,
    ) -> Vec<LogNote> {
        while std::mem::take(&mut self.handed) {
            self.run(now, LogEvent::Next, memory, effects);
        }
        std::mem::take(&mut self.notes)
    }

    /// Appends a record, at once or as soon as there is room.
    pub(crate) fn append(
        &mut self,
        now: Nanos,
        (number, record): (u64, Vec<u8>),
        memory: &mut impl Memory,
        effects: &mut Effects,
    ) {
        self.pending.push_back((number, record));
        self.append_pending(now, memory, effects);
    }

    fn append_pending(&mut self, now: Nanos, memory: &mut impl Memory, effects: &mut Effects) {
        while let Some((index, record)) = self.pending.pop_front() {
            if self.log.room(record.len(), memory) != LogRoom::Ready {
                self.pending.push_front((index, record));
                return;
            }
            self.bytes_since += record.len();
            self.run(now, LogEvent::Append { index, record: &record }, memory, effects);
        }
    }

    /// What has gathered is written.
    pub(crate) fn submit(&mut self, now: Nanos, memory: &mut impl Memory, effects: &mut Effects) {
        self.append_pending(now, memory, effects);
        self.run(now, LogEvent::Submit, memory, effects);
    }

    pub(crate) fn on_io(
        &mut self,
        now: Nanos,
        (io, outcome): (journal::IoToken, journal::IoOutcome),
        memory: &mut impl Memory,
        effects: &mut Effects,
    ) {
        self.run(now, LogEvent::IoDone { io, outcome }, memory, effects);
        self.append_pending(now, memory, effects);
    }

    pub(crate) fn on_tick(&mut self, now: Nanos, memory: &mut impl Memory, effects: &mut Effects) {
        if self.deadline.is_some_and(|at| at <= now) {
            self.deadline = None;
            self.run(now, LogEvent::Tick, memory, effects);
        }
    }

    pub(crate) fn deadline(&self) -> Option<Nanos> {
        self.deadline
    }

    /// Whether the log is long, or has little room, and no checkpoint is under way.
    pub(crate) fn wants_checkpoint(&self) -> bool {
        let is_long = self.bytes_since >= CHECKPOINT_AFTER_BYTES || self.log.wants_checkpoint();
        self.image.is_none() && self.pending.is_empty() && is_long
    }

    /// Whether a checkpoint is under way.
    pub(crate) fn is_checkpointing(&self) -> bool {
        self.image.is_some()
    }

    /// Writes a checkpoint: the records that lead where record `index` has led.
    pub(crate) fn checkpoint(
        &mut self,
        now: Nanos,
        (index, records): (u64, Vec<Vec<u8>>),
        memory: &mut impl Memory,
        effects: &mut Effects,
    ) {
        assert!(self.image.is_none() && self.pending.is_empty(), "one at a time, of what is durable");
        let mut bytes = Vec::new();
        for record in records {
            bytes.extend_from_slice(
                &u32::try_from(record.len()).expect("a record keeps its limit").to_le_bytes(),
            );
            bytes.extend_from_slice(&record);
        }
        self.bytes_since = 0;
        self.image = Some((bytes, 0));
        self.run(now, LogEvent::BeginCheckpoint { index }, memory, effects);
    }

    pub(crate) fn close(&mut self, now: Nanos, memory: &mut impl Memory, effects: &mut Effects) {
        self.append_pending(now, memory, effects);
        self.run(now, LogEvent::Shutdown, memory, effects);
    }

    /// Puts the image's next piece into the buffer that the log wants filled.
    fn fill(&mut self, now: Nanos, memory: &mut impl Memory, effects: &mut Effects) {
        let Some((slot, offset, capacity)) = self.wanted.take() else { return };
        let (bytes, written) = self.image.get_or_insert_default();
        let piece = (bytes.len() - *written).min(capacity as usize);
        let start = offset as usize;
        memory.bytes_mut(slot)[start..start + piece].copy_from_slice(&bytes[*written..*written + piece]);
        *written += piece;
        let last = *written == bytes.len();
        let length = u32::try_from(piece).expect("at most a page");
        self.run(now, LogEvent::Page { slot, length, last }, memory, effects);
    }

    fn run(&mut self, now: Nanos, event: LogEvent<'_>, memory: &mut impl Memory, effects: &mut Effects) {
        let mut said = std::mem::take(&mut self.effects);
        said.clear();
        self.log.handle(now, event, memory, &mut said);
        effects.io.take_over(&said.io);
        for effect in &said.list {
            self.note(*effect, memory);
        }
        self.effects = said;
        if self.wanted.is_some() {
            self.fill(now, memory, effects);
        }
    }

    fn note(&mut self, effect: LogEffect, memory: &mut impl Memory) {
        match effect {
            LogEffect::Arm(at) => self.deadline = Some(self.deadline.map_or(at, |known| known.min(at))),
            LogEffect::Page { slot, offset, length } => {
                let start = offset as usize;
                self.pages.extend_from_slice(&memory.bytes(slot)[start..start + length as usize]);
                self.handed = true;
            }
            LogEffect::Restart => {
                self.pages.clear();
                self.notes.push(LogNote::Restart);
            }
            LogEffect::Records(records) => {
                self.end_pages();
                let records = records.iter(memory).map(|(_, record)| LogNote::Record(record.to_vec()));
                self.notes.extend(records);
                self.handed = true;
            }
            LogEffect::Opened { last_index } => {
                self.end_pages();
                self.notes.push(LogNote::Opened(last_index));
            }
            LogEffect::OpenFailed => {
                let error = self.log.open_error().expect("a log that can't be opened says why");
                self.notes.push(LogNote::OpenFailed(error));
            }
            LogEffect::Durable { index } => self.notes.push(LogNote::Durable(index)),
            LogEffect::WantPage { slot, offset, capacity } => self.wanted = Some((slot, offset, capacity)),
            LogEffect::CheckpointDone { .. } | LogEffect::CheckpointFailed => self.image = None,
            LogEffect::Fenced => {
                self.image = None;
                self.notes.push(LogNote::Fenced);
            }
            LogEffect::ShutDown => self.notes.push(LogNote::Closed),
        }
    }

    /// The checkpoint's records come before those behind it.
    fn end_pages(&mut self) {
        let pages = std::mem::take(&mut self.pages);
        let mut rest = &pages[..];
        while let Some((length, behind)) = rest.split_first_chunk::<4>() {
            let length = (u32::from_le_bytes(*length) as usize).min(behind.len());
            let (record, behind) = behind.split_at(length);
            self.notes.push(LogNote::Record(record.to_vec()));
            rest = behind;
        }
    }
}
