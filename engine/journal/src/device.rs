//! A log on a file or device, as one state machine: opening, appending batches, checkpoints, space.
//!
//! ```text
//! format ─→ (superblock) ─┐
//! open ─→ superblocks ─→ checkpoint ─→ walk ─→ payloads ─→ incarnation ─→ Serving ─→ Fenced
//!             └───────────────┴──────────┴─────────┴────────────┴─→ Failed
//! ```
//! Where the way through the log is lost and that is accepted, `salvage` takes the place of walk and payloads; `shortened` is about files that have lost their end.
//! The owner, a chunk store or a metadata log, calls [`Device::on_io`] with every answer, then [`Device::advance`] and
//! [`Device::pop_note`] until there is no note left. Submodules by conversation: `open` finds superblock and checkpoint, `walk` replays the
//! log, `pipeline` appends, `superblocks` and `checkpoints` write those, `lives` says what is remembered over restarts, `space` grows and zeroes.

mod checkpoints;
mod lives;
#[cfg(test)]
mod lives_tests;
mod open;
mod pipeline;
#[cfg(test)]
mod recovery_tests;
mod salvage;
mod shortened;
mod space;
mod superblocks;
mod walk;
mod window;

use std::collections::VecDeque;

use thiserror::Error;
use wire::{ClusterId, Incarnation, Memory, Nanos, NodeId, Slot, StoreId};

use crate::batch::BatchHeader;
use crate::io::{IoEffects, IoFailure, IoOutcome, IoRequest, IoToken};
use crate::layout::{DATA_START, Geometry, Place};
use crate::segments::Segments;
use crate::superblock::{Identity, Kind, SUPERBLOCK_VERSION, Superblock};

pub use checkpoints::PageContent;
pub use open::identify;
pub use pipeline::{Appended, Burden, Draft, Room};

/// What an open needs to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DeviceConfig {
    /// What the log holds.
    pub kind: Kind,
    /// The file never grows beyond this.
    pub capacity_bytes: u64,
    /// The file's present length.
    pub device_bytes: u64,
    /// Free space kept written with zeros ahead of use.
    pub prezero_bytes: u64,
    /// R29's override: open although the log is damaged or can't be read to its end, and cut there.
    pub accept_data_loss: bool,
    /// Random: the low bits of the life that begins (R34).
    pub life_random: u16,
    /// With R29's override: the life of this store that control knows, which may be later than what is left of it, as where an old backup was put back. What is
    /// missing since counts as accepted, too.
    pub takes_over: Option<Incarnation>,
}

/// Who is expected to be found; `None` matches any.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Expected {
    /// The cluster.
    pub cluster: Option<ClusterId>,
    /// The store.
    pub store: Option<StoreId>,
    /// The node.
    pub node: NodeId,
    /// The shard or group.
    pub unit: u16,
}

/// What formatting writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Format {
    /// Who the store will be.
    pub identity: Identity,
    /// Segment size.
    pub geometry: Geometry,
    /// Random; seeds all checksums of batches and pages (R30).
    pub secret: u64,
    /// Random; key of the index's hash.
    pub index_key: u64,
}

/// Why a store can't be opened or formatted. Each is answered to the operator, who alone can mend it.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq, Hash)]
pub enum OpenError {
    /// Nothing was ever formatted here (R34): run `server init`, or mount the right file system.
    #[error("no Catena store here: nothing was formatted at this place")]
    NotFormatted,
    /// Formatting found a store or something else's data.
    #[error("this place is not empty: formatting would destroy what is there")]
    NotEmpty,
    /// Something else's bytes.
    #[error("not a Catena store: the first bytes belong to something else")]
    Foreign,
    /// All four superblock copies are damaged.
    #[error("all superblock copies are damaged")]
    SuperblocksDamaged,
    /// Written by a later release.
    #[error("format version {found} is newer than {SUPERBLOCK_VERSION}, the newest this release reads")]
    Newer {
        /// The version found.
        found: u16,
    },
    /// A metadata log where a chunk store should be, or the other way round.
    #[error("found a {found} where another kind was expected")]
    WrongKind {
        /// What is there.
        found: Kind,
    },
    /// Another cluster's, node's or shard's store.
    #[error(
        "another store: cluster {}, store {}, node {}, unit {}",
        .found.cluster, .found.store, .found.node, .found.unit
    )]
    WrongIdentity {
        /// Who is there.
        found: Identity,
    },
    /// The file ends before the log does.
    #[error(
        "the file ends at byte {length}, and the log goes on to byte {needed} at least: its end is missing"
    )]
    Truncated {
        /// The file's length.
        length: u64,
        /// The least that it had.
        needed: u64,
    },
    /// The file of a log has lost its end and with it the checkpoints, without which nothing of it can be recovered.
    #[error("the file ends at byte {length}, and no whole checkpoint is in what is left of it")]
    CheckpointsTruncated {
        /// The file's length.
        length: u64,
    },
    /// The device fails where a log's checkpoints are, without which nothing of it can be recovered. Nothing was changed.
    #[error("no checkpoint can be read: the device fails at byte {offset}")]
    CheckpointsUnreadable {
        /// Where it failed first.
        offset: u64,
    },
    /// Neither checkpoint is whole.
    #[error("both checkpoints are damaged")]
    CheckpointsDamaged,
    /// Batches that were durable can't be read, and this kind of log must be whole (R29).
    #[error("durable batches {} to {} are damaged", .0.first, .0.last)]
    Damaged(DamagedBatches),
    /// The device failed, again and again. Nothing was changed: open again once it answers.
    #[error("reading failed at byte {offset}; nothing was changed, so try again, and look at the device")]
    Unreadable {
        /// Where.
        offset: u64,
    },
    /// The superblock could not be written.
    #[error("writing the superblock failed")]
    Unwritable,
    /// The file has lost its end, and what is left can't become whole segments again.
    #[error(
        "the file can't be made whole to byte {needed}, as going on without its lost end needs: its file system is full; nothing was changed, make room and try again"
    )]
    NoRoom {
        /// The length that it needs.
        needed: u64,
    },
    /// The capacity doesn't hold the fewest segments that work.
    #[error("the capacity is too small")]
    TooSmall,
    /// No buffer to recover with.
    #[error("no memory to recover with")]
    NoMemory,
}

impl OpenError {
    /// Whether bytes that were there are damaged, missing or unreadable: opening it again finds the same until somebody acts.
    pub fn is_damage(self) -> bool {
        match self {
            Self::SuperblocksDamaged
            | Self::Truncated { .. }
            | Self::CheckpointsTruncated { .. }
            | Self::CheckpointsUnreadable { .. }
            | Self::CheckpointsDamaged
            | Self::Damaged(_)
            | Self::Unreadable { .. } => true,
            Self::NotFormatted
            | Self::NotEmpty
            | Self::Foreign
            | Self::Newer { .. }
            | Self::WrongKind { .. }
            | Self::WrongIdentity { .. }
            | Self::Unwritable
            | Self::NoRoom { .. }
            | Self::TooSmall
            | Self::NoMemory => false,
        }
    }

    /// Whether a device of this kind that is refused so is opened once the operator accepts the loss.
    pub fn may_be_accepted(self, kind: Kind) -> bool {
        match self {
            Self::Truncated { .. } | Self::Damaged(_) => true,
            // Nothing is known of the log where no copy of the superblock can be read.
            Self::Unreadable { offset } => offset >= DATA_START,
            // Batches of a store are found without one; what a log says is of use only with the state that it goes on from.
            Self::CheckpointsDamaged => kind == Kind::Chunks,
            _ => false,
        }
    }
}

/// Batches that were durable and are not readable (R29).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DamagedBatches {
    /// The first.
    pub first: u64,
    /// The last.
    pub last: u64,
    /// Where the first was expected.
    pub place: Place,
}

/// How the store was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Opened {
    /// Who it is.
    pub identity: Identity,
    /// Its new life.
    pub incarnation: Incarnation,
    /// The log's last batch.
    pub sequence: u64,
    /// Whether this opening has cut batches behind it that were there (R7), or the file has lost its end; [`Device::recovered_cut`] remembers it.
    pub recovered_cut: bool,
    /// Whether the last life ended in order.
    pub was_clean: bool,
    /// Whether the file has lost its end.
    pub lost_its_end: bool,
    /// The file had lost its end, and ended here: what lay behind it in this segment is gone, and reads as zeros.
    pub ended_at: Option<Place>,
}

/// What the owner is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Note {
    /// A page of the checkpoint: `length` bytes at `offset` of `slot`, valid until the next call of `advance`.
    Page {
        /// The buffer.
        slot: Slot,
        /// Where the content begins.
        offset: u32,
        /// Its bytes.
        length: u32,
        /// Its entries.
        entries: u32,
    },
    /// The checkpoint whose pages were passed is damaged: forget them. Another, or none, follows.
    CheckpointAbandoned,
    /// A batch behind the checkpoint, in order. The owner releases the slot, which holds the descriptor.
    Batch {
        /// Its header.
        header: BatchHeader,
        /// Its first block.
        place: Place,
        /// Its descriptor.
        slot: Slot,
    },
    /// A batch that was found without a way through the log, in the order of lives and sequences: some before it may be gone. The owner releases the slot,
    /// which holds the descriptor.
    Salvaged {
        /// Its header.
        header: BatchHeader,
        /// Its first block.
        place: Place,
        /// Its descriptor.
        slot: Slot,
    },
    /// These durable batches are lost (R29).
    Damaged(DamagedBatches),
    /// Serving.
    Opened(Opened),
    /// Not serving, ever.
    OpenFailed(OpenError),
    /// All batches up to this one are durable (R31); told in order.
    Durable {
        /// The batch.
        sequence: u64,
    },
    /// A write or flush failed: nothing more is written.
    Fenced,
    /// A checkpoint is durable.
    CheckpointDone {
        /// It holds everything up to this batch.
        sequence: u64,
    },
    /// A checkpoint was given up: no segment for it.
    CheckpointFailed,
}

/// What was asked of the disk, since this value was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Counters {
    /// Read requests.
    pub reads: u64,
    /// Their bytes.
    pub read_bytes: u64,
    /// Write requests.
    pub writes: u64,
    /// Their bytes.
    pub write_bytes: u64,
    /// Flushes.
    pub flushes: u64,
    /// Bytes written with zeros ahead of use.
    pub zero_bytes: u64,
    /// Batches appended.
    pub batches: u64,
    /// Of these, empty ones.
    pub empty_batches: u64,
    /// Segments opened although never written: slow flushes.
    pub unwritten_segments_opened: u64,
    /// Segments that became free again.
    pub segments_recycled: u64,
    /// Checkpoints made durable.
    pub checkpoints: u64,
    /// Checkpoints found damaged.
    pub checkpoints_damaged: u64,
    /// Superblock copies found damaged.
    pub superblock_copies_damaged: u64,
    /// Bytes read in search of batches behind the last good one, part of `read_bytes`.
    pub search_bytes: u64,
    /// Descriptor bytes replayed.
    pub replayed_descriptor_bytes: u64,
    /// Payload bytes read to decide about the tail, part of `read_bytes`.
    pub tail_payload_bytes: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Stage {
    FormatProbe,
    FormatAllocate,
    Superblocks,
    Checkpoint,
    Walk,
    Payloads,
    Salvage,
    Incarnation,
    Serving,
    Fenced,
    Failed,
}

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Device {
    config: DeviceConfig,
    expected: Option<Expected>,
    stage: Stage,
    superblock: Option<Superblock>,
    segments: Segments,
    counters: Counters,
    notes: VecDeque<Note>,
    opening: Option<open::Opening>,
    writer: superblocks::SuperblockWriter,
    pipeline: pipeline::Pipeline,
    checkpoint: checkpoints::CheckpointWriter,
    space: space::Space,
    /// The older durable checkpoint's batch: segments touched later stay (R32).
    recycle_beyond: u64,
}

/// Tags of the device's tokens.
mod tag {
    pub(super) const SUPERBLOCK_READ: u8 = 1;
    pub(super) const SUPERBLOCK_WRITE: u8 = 2;
    pub(super) const SUPERBLOCK_FLUSH: u8 = 3;
    pub(super) const WINDOW: u8 = 4;
    pub(super) const PAYLOAD: u8 = 5;
    pub(super) const BATCH: u8 = 6;
    pub(super) const FLUSH: u8 = 7;
    pub(super) const PAGE: u8 = 8;
    pub(super) const PAGE_FLUSH: u8 = 9;
    pub(super) const ALLOCATE: u8 = 10;
    pub(super) const ZERO: u8 = 11;
    pub(super) const LENGTH_FLUSH: u8 = 12;
}

impl Device {
    fn new(config: DeviceConfig, stage: Stage) -> Self {
        let geometry = Geometry::new(64 << 10).expect("a valid size");
        Self {
            config,
            expected: None,
            stage,
            superblock: None,
            segments: Segments::new(geometry, 0, 0),
            counters: Counters::default(),
            notes: VecDeque::new(),
            opening: Some(open::Opening::default()),
            writer: superblocks::SuperblockWriter::default(),
            pipeline: pipeline::Pipeline::default(),
            checkpoint: checkpoints::CheckpointWriter::default(),
            space: space::Space::default(),
            recycle_beyond: 0,
        }
    }

    /// Opens what is there; [`Device::start`] asks for the first I/O.
    pub fn open(config: DeviceConfig, expected: Expected) -> Self {
        Self { expected: Some(expected), ..Self::new(config, Stage::Superblocks) }
    }

    /// Formats an empty place, then opens it. Refuses a place that isn't empty.
    pub fn format(config: DeviceConfig, format: Format) -> Self {
        let superblock = Superblock {
            kind: config.kind,
            clean: false,
            geometry: format.geometry,
            sequence: 0,
            parent: 0,
            identity: format.identity,
            incarnation: Incarnation(0),
            secret: format.secret,
            index_key: format.index_key,
            promised_root: [0; 32],
            checkpoints: Vec::new(),
            joints: Vec::new(),
            lives: Vec::new(),
            recovered_cut: false,
            lacks: false,
        };
        Self { superblock: Some(superblock), ..Self::new(config, Stage::FormatProbe) }
    }

    /// Asks for the first I/O. Called once.
    pub fn start<M: Memory>(&mut self, memory: &mut M, io: &mut IoEffects) {
        let before = io.requests.len();
        self.start_opening(memory, io);
        self.count(io, before);
    }

    /// Gives back what the device keeps as long as it lives, when another one takes its place in the same arena. It has ended: nothing of it is under way.
    pub fn release<M: Memory>(&mut self, memory: &mut M) {
        let own = [self.writer.slot.take(), self.pipeline.marker_slot.take()];
        own.into_iter().flatten().for_each(|slot| memory.release(slot));
    }

    /// Takes in what came of a request of the device's own.
    pub fn on_io<M: Memory>(
        &mut self,
        token: IoToken,
        outcome: IoOutcome,
        memory: &mut M,
        io: &mut IoEffects,
    ) {
        let before = io.requests.len();
        let failure = match outcome {
            IoOutcome::Done => None,
            IoOutcome::Failed(failure) => Some(failure),
        };
        match token.tag() {
            tag::SUPERBLOCK_READ => self.on_superblock_read(token.key(), failure, memory, io),
            tag::SUPERBLOCK_WRITE => self.on_superblock_written(failure, io),
            tag::SUPERBLOCK_FLUSH => self.on_superblock_flushed(failure, memory, io),
            tag::WINDOW => self.on_window(failure),
            tag::PAYLOAD => self.on_payload(failure, memory),
            tag::BATCH => self.on_batch_written(token.key(), failure, memory, io),
            tag::FLUSH => self.on_flushed(failure, io),
            tag::PAGE => self.on_page_written(token.key(), failure, memory, io),
            tag::PAGE_FLUSH => self.on_pages_flushed(failure, memory, io),
            tag::ALLOCATE => self.on_allocated(failure, io),
            tag::ZERO => self.on_zeroed(failure, io),
            tag::LENGTH_FLUSH => self.on_length_flushed(failure, memory, io),
            other => unreachable!("a token of tag {other} isn't the device's"),
        }
        self.count(io, before);
    }

    /// Goes on with opening until a note or I/O is due, and looks after free space. Called until there is no note left.
    pub fn advance<M: Memory>(&mut self, memory: &mut M, io: &mut IoEffects) {
        let before = io.requests.len();
        while self.notes.is_empty() {
            let goes_on = match self.stage {
                Stage::Checkpoint => self.advance_checkpoint(memory, io),
                Stage::Walk => self.advance_walk(memory, io),
                Stage::Payloads => self.advance_payloads(memory, io),
                Stage::Salvage => self.advance_salvage(memory, io),
                Stage::Serving => {
                    self.write_news(memory, io);
                    self.advance_space(memory, io);
                    false
                }
                _ => false,
            };
            if !goes_on {
                break;
            }
        }
        self.count(io, before);
    }

    /// The next thing that the owner has to know.
    pub fn pop_note(&mut self) -> Option<Note> {
        self.notes.pop_front()
    }

    /// Frees segments that became free, and lets a full file system be asked again.
    pub fn on_tick<M: Memory>(&mut self, now: Nanos, memory: &mut M, io: &mut IoEffects) {
        let before = io.requests.len();
        self.retry_growth(now, io);
        self.count(io, before);
        if self.stage == Stage::Serving {
            self.recycle();
        }
        self.advance(memory, io);
    }

    /// Whether batches may be appended, sooner or later.
    pub fn is_serving(&self) -> bool {
        self.stage == Stage::Serving
    }

    /// Whether a write or flush failed.
    pub fn is_fenced(&self) -> bool {
        self.stage == Stage::Fenced
    }

    /// The segments.
    pub fn segments(&self) -> &Segments {
        &self.segments
    }

    /// The segments, for the owner to account what lives in them.
    pub fn segments_mut(&mut self) -> &mut Segments {
        &mut self.segments
    }

    /// Sizes and offsets; known once the superblock is.
    pub fn geometry(&self) -> Geometry {
        self.superblock().geometry
    }

    /// The superblock as last chosen or written.
    pub fn superblock(&self) -> &Superblock {
        self.superblock.as_ref().expect("the superblock is known once a stage uses it")
    }

    /// Whether the superblock is known.
    pub fn is_identified(&self) -> bool {
        self.superblock.is_some()
    }

    /// What was asked of the disk.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// Counts an I/O that the owner asks for itself.
    pub fn count(&mut self, io: &IoEffects, from: usize) {
        for request in &io.requests[from..] {
            match request {
                IoRequest::Read { length, .. } => {
                    self.counters.reads += 1;
                    self.counters.read_bytes += u64::from(*length);
                }
                IoRequest::Write { length, .. } => {
                    self.counters.writes += 1;
                    self.counters.write_bytes += u64::from(*length);
                }
                IoRequest::Flush { .. } => self.counters.flushes += 1,
                IoRequest::Zero { length, .. } => self.counters.zero_bytes += length,
                IoRequest::Allocate { .. } => {}
            }
        }
    }

    /// Stops all writing, for good.
    fn fence(&mut self, _failure: IoFailure) {
        match self.stage {
            Stage::Fenced | Stage::Failed => {}
            Stage::Serving => {
                self.stage = Stage::Fenced;
                self.notes.push_back(Note::Fenced);
            }
            _ => self.fail(OpenError::Unwritable),
        }
    }

    fn fail(&mut self, error: OpenError) {
        self.stage = Stage::Failed;
        self.notes.push_back(Note::OpenFailed(error));
    }
}
