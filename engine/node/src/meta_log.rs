//! The metadata log as the replica's thread drives it: the shipped [`journal::log::Log`] on a file.
//!
//! A page of the replica's checkpoint may be larger than one of the log's (a file of a million extents is one row), so it travels in pieces: each page of the log
//! begins with a byte that says whether the replica's page ends with it.

use std::collections::VecDeque;

use journal::log::{Log, LogConfig, LogEffect, LogEffects, LogEvent, LogRoom};
use journal::{Expected, Format, Geometry, Identity, LOG_SEGMENT_BYTES, OpenError};
use runtime::{Io, StoreFile};
use wire::{CommitIndex, Memory, Nanos, Slot, StoreId};

use crate::disk::{Disk, LOG_HEADROOM_BYTES};
use crate::meta_thread::MetaStart;

/// Free log segments kept zeroed ahead of use: four.
const PREZERO_BYTES: u64 = 4 * LOG_SEGMENT_BYTES as u64;
/// Log beside the checkpoints, at most.
const LOG_BYTES_MAX: u64 = 2 << 30;

/// What the log tells the replica's thread.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum LogNote {
    /// Recovery: a page of the checkpoint.
    Page(Vec<u8>),
    /// Recovery: the pages so far are of a damaged checkpoint.
    PagesAbandoned,
    /// Recovery: an entry behind the checkpoint.
    Entry(CommitIndex, Vec<u8>),
    /// Recovery is done.
    Opened,
    /// The log can't be used, and why.
    OpenFailed(String),
    /// Everything up to this entry is durable.
    Durable(CommitIndex),
    /// The checkpoint's next page may come.
    PageTaken,
    /// A checkpoint is durable.
    CheckpointDone(CommitIndex),
    /// A checkpoint was given up.
    CheckpointFailed,
    /// The log is long, or space is short.
    WantsCheckpoint,
    /// A write or flush failed.
    Fenced,
    /// The log has ended in order.
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

/// More pieces of the same page follow.
const PIECE_MORE: u8 = 0;
/// The page ends with this piece.
const PIECE_END: u8 = 1;

/// The log and what waits for it.
#[derive(Debug)]
pub(crate) struct MetaLog {
    log: Log,
    disk: Disk,
    effects: LogEffects,
    notes: VecDeque<LogNote>,
    /// The log waits until the notes before are taken in.
    handed: bool,
    /// Entries that the log had no room for; the replica bounds their bytes.
    pending: VecDeque<(u64, Vec<u8>)>,
    /// A page that the log hasn't asked for yet.
    page: Option<Page>,
    /// Recovery: pieces of a page so far.
    pieces: Vec<u8>,
    /// A buffer that the log wants filled.
    wanted: Option<(Slot, u32, u32)>,
    checkpointing: bool,
    deadline: Option<Nanos>,
}

impl MetaLog {
    /// Opens or formats the log in `file`.
    pub(crate) fn begin(io: &mut Io, file: &StoreFile, start: &MetaStart) -> Self {
        let device_bytes = file.len().unwrap_or(0);
        let config = LogConfig {
            capacity_bytes: capacity_bytes(start.settings.memory_budget),
            device_bytes,
            prezero_bytes: PREZERO_BYTES,
            accept_data_loss: start.accept_data_loss,
        };
        let (cluster, node, unit) = (start.identity.cluster, start.identity.node, start.settings.group.0);
        let log = if start.format {
            let store = StoreId(runtime::clock::random_bytes());
            Log::format(
                config,
                Format {
                    identity: Identity { cluster, store, node, unit },
                    geometry: Geometry::new(LOG_SEGMENT_BYTES).expect("the design's segment size"),
                    secret: u64::from_le_bytes(runtime::clock::random_bytes()),
                    index_key: u64::from_le_bytes(runtime::clock::random_bytes()),
                },
            )
        } else {
            Log::open(config, Expected { cluster: Some(cluster), store: None, node, unit })
        };
        let mut this = Self {
            log,
            disk: Disk::new(io, file, LOG_HEADROOM_BYTES),
            effects: LogEffects::default(),
            notes: VecDeque::new(),
            handed: false,
            pending: VecDeque::new(),
            page: None,
            pieces: Vec::new(),
            wanted: None,
            checkpointing: false,
            deadline: None,
        };
        this.run(io, LogEvent::Start);
        this
    }

    /// The next thing to know.
    pub(crate) fn next(&mut self, io: &mut Io) -> Option<LogNote> {
        loop {
            if let Some(note) = self.notes.pop_front() {
                return Some(note);
            }
            if !std::mem::take(&mut self.handed) {
                return None;
            }
            self.run(io, LogEvent::Next);
        }
    }

    /// Appends an entry, at once or as soon as there is room.
    pub(crate) fn append(&mut self, io: &mut Io, index: CommitIndex, entry: &[u8]) {
        if self.pending.is_empty() && self.log.room(entry.len(), io.memory()) == LogRoom::Ready {
            self.run(io, LogEvent::Append { index: index.0, record: entry });
        } else {
            self.pending.push_back((index.0, entry.to_vec()));
        }
    }

    fn append_pending(&mut self, io: &mut Io) {
        while let Some((index, entry)) = self.pending.pop_front() {
            if self.log.room(entry.len(), io.memory()) != LogRoom::Ready {
                self.pending.push_front((index, entry));
                return;
            }
            self.run(io, LogEvent::Append { index, record: &entry });
        }
    }

    /// The turn ends: what has gathered is written.
    pub(crate) fn submit(&mut self, io: &mut Io) {
        self.append_pending(io);
        self.run(io, LogEvent::Submit);
        if !self.checkpointing && self.log.wants_checkpoint() {
            self.notes.push_back(LogNote::WantsCheckpoint);
        }
    }

    /// An armed deadline may have come.
    pub(crate) fn on_tick(&mut self, io: &mut Io) {
        if self.deadline.is_some_and(|at| at <= io.now()) {
            self.deadline = None;
            self.run(io, LogEvent::Tick);
        }
    }

    /// When a tick is wanted.
    pub(crate) fn deadline(&self) -> Option<Nanos> {
        self.deadline
    }

    /// One of the thread's file operations ended.
    pub(crate) fn on_io(&mut self, io: &mut Io, token: runtime::IoToken, outcome: runtime::IoOutcome) {
        if let Some((token, outcome)) = self.disk.on_io(io, token, outcome) {
            self.run(io, LogEvent::IoDone { io: token, outcome });
        }
    }

    /// A page of the checkpoint at `index`.
    pub(crate) fn write_page(&mut self, io: &mut Io, index: CommitIndex, bytes: &[u8], last: bool) {
        self.page = Some(Page { bytes: bytes.to_vec(), taken: 0, last });
        if std::mem::replace(&mut self.checkpointing, true) {
            self.fill_page(io);
        } else {
            self.run(io, LogEvent::BeginCheckpoint { index: index.0 });
        }
    }

    /// Puts the waiting page's next piece into the buffer that the log wants filled, when both are there.
    fn fill_page(&mut self, io: &mut Io) {
        let (Some((slot, offset, capacity)), Some(page)) = (self.wanted, &mut self.page) else {
            return;
        };
        self.wanted = None;
        let content = &mut io.memory().bytes_mut(slot)[offset as usize..][..capacity as usize];
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
        self.run(io, LogEvent::Page { slot, length, last });
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
    pub(crate) fn close(&mut self, io: &mut Io) {
        self.append_pending(io);
        self.run(io, LogEvent::Shutdown);
    }

    fn run(&mut self, io: &mut Io, event: LogEvent<'_>) {
        let mut effects = std::mem::take(&mut self.effects);
        effects.clear();
        self.log.handle(io.now(), event, io.memory(), &mut effects);
        self.disk.carry_out(io, &effects.io);
        let mut fill = false;
        for effect in &effects.list {
            fill |= self.note(io, *effect);
        }
        self.effects = effects;
        if fill {
            self.fill_page(io);
        }
    }

    /// Turns an effect into a note; whether a page may be filled.
    fn note(&mut self, io: &mut Io, effect: LogEffect) -> bool {
        match effect {
            LogEffect::Arm(at) => self.deadline = Some(self.deadline.map_or(at, |known| known.min(at))),
            LogEffect::Page { slot, offset, length } => {
                let content = io.memory().bytes(slot)[offset as usize..][..length as usize].to_vec();
                self.take_piece(&content);
                self.handed = true;
            }
            LogEffect::Restart => {
                self.pieces.clear();
                self.notes.push_back(LogNote::PagesAbandoned);
            }
            LogEffect::Records(records) => {
                let entries = records.iter(io.memory_ref());
                self.notes
                    .extend(entries.map(|(index, entry)| LogNote::Entry(CommitIndex(index), entry.to_vec())));
                self.handed = true;
            }
            LogEffect::Opened { .. } => self.notes.push_back(LogNote::Opened),
            LogEffect::OpenFailed => self.notes.push_back(LogNote::OpenFailed(self.open_failure())),
            LogEffect::Durable { index } => self.notes.push_back(LogNote::Durable(CommitIndex(index))),
            LogEffect::WantPage { slot, offset, capacity } => {
                self.wanted = Some((slot, offset, capacity));
                return true;
            }
            LogEffect::CheckpointDone { index } => {
                self.checkpointing = false;
                self.notes.push_back(LogNote::CheckpointDone(CommitIndex(index)));
            }
            LogEffect::CheckpointFailed => {
                self.checkpointing = false;
                // An empty page gives back the buffer that was to be filled.
                self.page = self.wanted.is_some().then(|| Page { bytes: Vec::new(), taken: 0, last: true });
                self.notes.push_back(LogNote::CheckpointFailed);
                return self.wanted.is_some();
            }
            LogEffect::Fenced => self.notes.push_back(LogNote::Fenced),
            LogEffect::ShutDown => self.notes.push_back(LogNote::Closed),
        }
        false
    }

    fn open_failure(&self) -> String {
        let Some(error) = self.log.open_error() else {
            return "the metadata log can't be opened".into();
        };
        let next = match error {
            OpenError::Damaged(_) | OpenError::CheckpointsDamaged | OpenError::Unreadable { .. } => {
                "; names and versions would be lost, so the node doesn't start: restore the file from a backup, or accept the loss with \
                 `catena server recover --accept-data-loss`"
            }
            OpenError::NotFormatted | OpenError::Foreign | OpenError::WrongIdentity { .. } => {
                "; is the right disk mounted? Catena never formats by itself"
            }
            _ => "",
        };
        format!("metadata log: {error}{next}")
    }
}

/// Two checkpoints of a full group, and the log between them.
fn capacity_bytes(memory_budget: u64) -> u64 {
    let segment = u64::from(LOG_SEGMENT_BYTES);
    (4 * memory_budget + LOG_BYTES_MAX).next_multiple_of(segment)
}
