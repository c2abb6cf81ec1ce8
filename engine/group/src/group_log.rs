//! The group's log as the replica uses it: records appended as there is room, checkpoints in pages of any size.
//!
//! A page of the replica's checkpoint may be larger than one of the log's (a file of a million extents is one row), so it travels in pieces: each page of the log
//! begins with a byte that says whether the replica's page ends with it.

use std::collections::VecDeque;

use journal::log::{Log, LogEffect, LogEffects, LogEvent, LogLoss, LogRoom};
use journal::{OpenError, Opened};
use replica::{LogSpace, RecordNumber};
use wire::{Incarnation, Memory, Nanos, Slot};

use crate::effects::Turn;

/// What the log tells the member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum LogNote {
    /// Recovery: a page of the checkpoint.
    Page(Vec<u8>),
    /// Recovery: the pages so far are of a damaged checkpoint.
    PagesAbandoned,
    /// Recovery: a record behind the checkpoint.
    Record(RecordNumber, Vec<u8>),
    /// Recovery is done.
    Opened { last: RecordNumber, was_clean: bool, loss: Option<LogLoss> },
    /// The log can't be used.
    OpenFailed(OpenError),
    /// Everything up to this record is durable.
    Durable(RecordNumber),
    /// The checkpoint's next page may come.
    PageTaken,
    /// The checkpoint that holds everything up to this record is durable.
    CheckpointDone(RecordNumber),
    /// A checkpoint was given up.
    CheckpointFailed,
    /// The log is long, or space is short.
    WantsCheckpoint,
    /// There is less space for entries, or more again.
    Space(LogSpace),
    /// A write or flush failed.
    Fenced,
    /// The log has ended.
    Closed,
}

/// A page of the replica's checkpoint on its way into the log.
#[derive(Debug)]
struct Page {
    bytes: Vec<u8>,
    /// Bytes that the log has.
    taken: usize,
    /// Whether the checkpoint ends with it.
    last: bool,
}

/// What the replica logs, the log takes.
const _: () =
    assert!(replica::ENTRY_BYTES_MAX + replica::LOG_RECORD_OVERHEAD <= journal::log::RECORD_BYTES_MAX);

/// More pieces of the same page follow.
const PIECE_MORE: u8 = 0;
/// The page ends with this piece.
const PIECE_END: u8 = 1;

/// The log and what waits for it.
#[derive(Debug)]
pub(crate) struct GroupLog {
    log: Log,
    effects: LogEffects,
    notes: VecDeque<LogNote>,
    /// The log waits until the notes before are taken in.
    handed: bool,
    /// Records that the log had no room for; the replica bounds their bytes.
    pending: VecDeque<(u64, Vec<u8>)>,
    pending_bytes: u64,
    /// A page that the log hasn't asked for yet.
    page: Option<Page>,
    /// Recovery: pieces of a page so far.
    pieces: Vec<u8>,
    /// A buffer that the log wants filled.
    wanted: Option<(Slot, u32, u32)>,
    checkpointing: bool,
    /// What the replica was told last.
    space: LogSpace,
    deadline: Option<Nanos>,
}

impl GroupLog {
    pub(crate) fn log(&self) -> &Log {
        &self.log
    }

    pub(crate) fn new(log: Log) -> Self {
        Self {
            log,
            effects: LogEffects::default(),
            notes: VecDeque::new(),
            handed: false,
            pending: VecDeque::new(),
            pending_bytes: 0,
            page: None,
            pieces: Vec::new(),
            wanted: None,
            checkpointing: false,
            space: LogSpace::Ample,
            deadline: None,
        }
    }

    /// How it was found, once it is open.
    pub(crate) fn found(&self) -> Option<&Opened> {
        self.log.opened()
    }

    /// It has ended, and another one takes its place.
    pub(crate) fn release(&mut self, memory: &mut impl Memory) {
        self.log.release(memory);
    }

    /// Begins to open or format it.
    pub(crate) fn start<M: Memory>(&mut self, turn: &mut Turn<'_, M>) {
        self.run(LogEvent::Start, turn);
    }

    /// The next thing to know.
    pub(crate) fn next<M: Memory>(&mut self, turn: &mut Turn<'_, M>) -> Option<LogNote> {
        loop {
            if let Some(note) = self.notes.pop_front() {
                return Some(note);
            }
            if !std::mem::take(&mut self.handed) {
                return None;
            }
            self.run(LogEvent::Next, turn);
        }
    }

    /// Appends a record, at once or as soon as there is room.
    pub(crate) fn append<M: Memory>(&mut self, number: RecordNumber, record: &[u8], turn: &mut Turn<'_, M>) {
        let behind = !self.pending.is_empty();
        let room = if behind { LogRoom::Busy } else { self.log.room(record.len(), turn.memory) };
        if room == LogRoom::Ready {
            self.run(LogEvent::Append { index: number.0, record }, turn);
        } else {
            self.pending_bytes += byte_count(record);
            self.pending.push_back((number.0, record.to_vec()));
        }
    }

    /// The next image takes so many bytes, at most.
    pub(crate) fn expect_image(&mut self, bytes: u64) {
        self.log.expect_image(bytes);
    }

    /// Looks at the space that is left, before an entry would have to wait for it.
    pub(crate) fn look_at_space(&mut self) -> LogSpace {
        let space = match self.log.space(self.pending_bytes) {
            journal::log::LogSpace::Ample => LogSpace::Ample,
            journal::log::LogSpace::Short => LogSpace::Short,
            journal::log::LogSpace::Scarce => LogSpace::Scarce,
            journal::log::LogSpace::Full => LogSpace::Full,
        };
        if std::mem::replace(&mut self.space, space) != space {
            self.notes.push_back(LogNote::Space(space));
        }
        space
    }

    /// See [`Log::wants_checkpoint`]. One at an index whose entry waits for space would wait with it, and block the others.
    pub(crate) fn wants_checkpoint(&self) -> bool {
        !self.checkpointing && self.pending.is_empty() && self.log.wants_checkpoint()
    }

    fn append_pending<M: Memory>(&mut self, turn: &mut Turn<'_, M>) {
        while let Some((index, entry)) = self.pending.pop_front() {
            let room = self.log.room(entry.len(), turn.memory);
            if room != LogRoom::Ready {
                self.pending.push_front((index, entry));
                return;
            }
            self.pending_bytes -= byte_count(&entry);
            self.run(LogEvent::Append { index, record: &entry }, turn);
        }
    }

    /// Whether entries wait for space that only a checkpoint could make, and none is under way.
    pub(crate) fn is_full<M: Memory>(&mut self, turn: &mut Turn<'_, M>) -> bool {
        let Some((_, entry)) = self.pending.front() else { return false };
        !self.checkpointing && self.log.room(entry.len(), turn.memory) == LogRoom::NoSpace
    }

    /// The turn ends: what has gathered is written.
    pub(crate) fn submit<M: Memory>(&mut self, turn: &mut Turn<'_, M>) {
        self.append_pending(turn);
        self.run(LogEvent::Submit, turn);
        if self.wants_checkpoint() {
            self.notes.push_back(LogNote::WantsCheckpoint);
        }
    }

    /// An armed deadline may have come.
    pub(crate) fn on_tick<M: Memory>(&mut self, turn: &mut Turn<'_, M>) {
        if self.deadline.is_some_and(|at| at <= turn.clock.now) {
            self.deadline = None;
            self.run(LogEvent::Tick, turn);
        }
    }

    /// When a tick is wanted.
    pub(crate) fn deadline(&self) -> Option<Nanos> {
        self.deadline
    }

    /// One of the log's disk requests ended.
    pub(crate) fn on_io<M: Memory>(
        &mut self,
        io: journal::IoToken,
        outcome: journal::IoOutcome,
        turn: &mut Turn<'_, M>,
    ) {
        self.run(LogEvent::IoDone { io, outcome }, turn);
    }

    /// Whether the log has been given everything.
    pub(crate) fn has_taken_all(&self) -> bool {
        self.pending.is_empty()
    }

    /// Whether a checkpoint is under way.
    pub(crate) fn is_checkpointing(&self) -> bool {
        self.checkpointing
    }

    /// Whether the newest checkpoint holds everything.
    pub(crate) fn ends_at_checkpoint(&self) -> bool {
        self.pending.is_empty() && self.log.ends_at_checkpoint()
    }

    /// A page of the checkpoint that holds everything up to `record`; `is_end`: nothing is appended behind it.
    pub(crate) fn write_page<M: Memory>(
        &mut self,
        record: RecordNumber,
        page: (&[u8], bool),
        is_end: bool,
        turn: &mut Turn<'_, M>,
    ) {
        assert!(self.page.is_none(), "the replica waits until a page is taken");
        self.page = Some(Page { bytes: page.0.to_vec(), taken: 0, last: page.1 });
        if std::mem::replace(&mut self.checkpointing, true) {
            self.fill_page(turn);
        } else if is_end {
            self.run(LogEvent::BeginLastCheckpoint { index: record.0 }, turn);
        } else {
            self.run(LogEvent::BeginCheckpoint { index: record.0 }, turn);
        }
    }

    /// Puts the waiting page's next piece into the buffer that the log wants filled, when both are there.
    fn fill_page<M: Memory>(&mut self, turn: &mut Turn<'_, M>) {
        let (Some((slot, offset, capacity)), Some(page)) = (self.wanted, &mut self.page) else {
            return;
        };
        self.wanted = None;
        let content = &mut turn.memory.bytes_mut(slot)[offset as usize..][..capacity as usize];
        let piece = page.bytes.len().min(page.taken + content.len() - 1);
        let piece = &page.bytes[page.taken..piece];
        page.taken += piece.len();
        let ends = page.taken == page.bytes.len();
        content[0] = if ends { PIECE_END } else { PIECE_MORE };
        content[1..=piece.len()].copy_from_slice(piece);
        let length = u32::try_from(piece.len() + 1).expect("at most a page of the log");
        let last = ends && page.last;
        if ends {
            self.page = None;
        }
        if ends && !last {
            self.notes.push_back(LogNote::PageTaken);
        }
        self.run(LogEvent::Page { slot, length, last }, turn);
    }

    /// Recovery: a page of the log; the replica's page, once it is whole.
    fn take_piece(&mut self, content: &[u8]) {
        let Some((flag, piece)) = content.split_first() else {
            return;
        };
        self.pieces.extend_from_slice(piece);
        if *flag == PIECE_END {
            let page = std::mem::take(&mut self.pieces);
            self.notes.push_back(LogNote::Page(page));
        }
    }

    /// Writes what is left, and ends.
    pub(crate) fn close<M: Memory>(&mut self, turn: &mut Turn<'_, M>) {
        self.append_pending(turn);
        self.run(LogEvent::Shutdown, turn);
    }

    /// The lives before the present one that the log remembers.
    pub(crate) fn lives(&self) -> &[Incarnation] {
        self.log.lives()
    }

    /// Whether recovery cut a tail.
    pub(crate) fn recovered_cut(&self) -> bool {
        self.log.recovered_cut()
    }

    /// Whether batches are damaged or lost.
    pub(crate) fn lacks(&self) -> bool {
        self.log.lacks()
    }

    /// Control has accepted this life.
    pub(crate) fn on_accepted<M: Memory>(&mut self, incarnation: Incarnation, turn: &mut Turn<'_, M>) {
        self.tell(turn, |log, turn, effects| log.on_accepted(turn.clock.now, incarnation, effects));
    }

    /// The member serves again.
    pub(crate) fn on_whole<M: Memory>(&mut self, turn: &mut Turn<'_, M>) {
        self.tell(turn, |log, turn, effects| log.on_whole(turn.clock.now, effects));
    }

    fn run<M: Memory>(&mut self, event: LogEvent<'_>, turn: &mut Turn<'_, M>) {
        self.tell(turn, |log, turn, effects| log.handle(turn.clock.now, event, turn.memory, effects));
    }

    fn tell<'a, M: Memory>(
        &mut self,
        turn: &mut Turn<'a, M>,
        what: impl FnOnce(&mut Log, &mut Turn<'a, M>, &mut LogEffects),
    ) {
        let mut effects = std::mem::take(&mut self.effects);
        effects.clear();
        what(&mut self.log, turn, &mut effects);
        turn.effects.io.take_over(&effects.io);
        let mut fill = false;
        for effect in &effects.list {
            fill |= self.note(*effect, turn.memory);
        }
        self.effects = effects;
        if fill {
            self.fill_page(turn);
        }
    }

    /// Turns an effect into a note; whether a page may be filled.
    fn note<M: Memory>(&mut self, effect: LogEffect, memory: &mut M) -> bool {
        match effect {
            LogEffect::Arm(at) => self.deadline = Some(self.deadline.map_or(at, |known| known.min(at))),
            LogEffect::Page { slot, offset, length } => {
                let content = memory.bytes(slot)[offset as usize..][..length as usize].to_vec();
                self.take_piece(&content);
                self.handed = true;
            }
            LogEffect::Restart => {
                self.pieces.clear();
                self.notes.push_back(LogNote::PagesAbandoned);
            }
            LogEffect::Records(records) => {
                let records = records.iter(memory);
                self.notes.extend(
                    records.map(|(number, record)| LogNote::Record(RecordNumber(number), record.to_vec())),
                );
                self.handed = true;
            }
            LogEffect::Opened { last_index } => {
                let was_clean = self.log.opened().is_some_and(|opened| opened.was_clean);
                let (last, loss) = (RecordNumber(last_index), self.log.loss());
                self.notes.push_back(LogNote::Opened { last, was_clean, loss });
            }
            LogEffect::OpenFailed => {
                let error = self.log.open_error().expect("a log that can't be opened says why");
                self.notes.push_back(LogNote::OpenFailed(error));
            }
            LogEffect::Durable { index } => self.notes.push_back(LogNote::Durable(RecordNumber(index))),
            LogEffect::WantPage { slot, offset, capacity } => {
                self.wanted = Some((slot, offset, capacity));
                return true;
            }
            LogEffect::CheckpointDone { index } => {
                self.checkpointing = false;
                self.notes.push_back(LogNote::CheckpointDone(RecordNumber(index)));
            }
            LogEffect::CheckpointFailed => {
                self.notes.push_back(LogNote::CheckpointFailed);
                return self.abandon_page();
            }
            LogEffect::Fenced => {
                self.notes.push_back(LogNote::Fenced);
                return self.abandon_page();
            }
            LogEffect::ShutDown => self.notes.push_back(LogNote::Closed),
        }
        false
    }

    /// No page is wanted any more: an empty one gives back the buffer that was to be filled, if there is one.
    fn abandon_page(&mut self) -> bool {
        self.checkpointing = false;
        self.page = self.wanted.is_some().then(|| Page { bytes: Vec::new(), taken: 0, last: true });
        self.page.is_some()
    }
}

fn byte_count(record: &[u8]) -> u64 {
    u64::try_from(record.len()).expect("64 bits")
}
