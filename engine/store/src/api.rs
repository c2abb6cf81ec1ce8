//! What goes in and what comes out.

use std::ops::Range;

use journal::{IoEffects, IoOutcome, IoToken};
use wire::{ChunkId, Incarnation, Nanos, Slot, Status};

/// What a store is given at its start, beside its identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct StoreConfig {
    /// The file never grows beyond this.
    pub capacity_bytes: u64,
    /// The file's present length.
    pub device_bytes: u64,
    /// Free space kept written with zeros.
    pub prezero_bytes: u64,
    /// Leaf tables kept in memory, at most 8 KiB each.
    pub leaf_tables: u32,
    /// A full scrub pass takes no longer than this.
    pub scrub_pass: u64,
    /// Scrub begins by itself.
    pub scrub: bool,
    /// R29's override: opens although the log's end can't be read.
    pub accept_data_loss: bool,
    /// Random: the low bits of the life that begins (R34). Whoever opens a store on a real disk sets it.
    pub life_random: u16,
    /// With R29's override: the life of this store that control knows, which may be later than what is left of it, as where an old backup was put back. What is
    /// missing since counts as accepted, too.
    pub takes_over: Option<Incarnation>,
}

impl StoreConfig {
    /// A configuration with the design's defaults for a file of this length.
    pub fn new(capacity_bytes: u64, device_bytes: u64) -> Self {
        Self {
            capacity_bytes,
            device_bytes,
            prezero_bytes: 1 << 30,
            leaf_tables: 1024,
            scrub_pass: 14 * 24 * 3600 * Nanos::SECOND,
            scrub: true,
            accept_data_loss: false,
            life_random: 0,
            takes_over: None,
        }
    }
}

/// What happens to a store.
#[derive(Clone, Debug)]
pub enum Event<'a> {
    /// First of all: opening, or formatting, begins.
    Start,
    /// A whole, verified chunk. The store takes a reference of its own to the slot until the write has ended, and pads the last block
    /// with zeros. `leaves` are all of the chunk's. Ends in `Done`: `Ok` once durable (I2).
    Put {
        /// Comes back in the answer.
        token: u64,
        /// The chunk.
        id: ChunkId,
        /// Its bytes.
        length: u32,
        /// Its root.
        root: u64,
        /// Its leaves.
        leaves: &'a [u64],
        /// Its bytes' buffer, from the first byte on.
        slot: Slot,
    },
    /// A verified chunk in the place of one that is damaged here, or has other bytes (R3, R9). Of a chunk that isn't here, or is about to be deleted, nothing
    /// is stored: `NotFound`, for dead is for ever. Otherwise as `Put`.
    Replace {
        /// Comes back in the answer.
        token: u64,
        /// The chunk.
        id: ChunkId,
        /// Its bytes.
        length: u32,
        /// Its root.
        root: u64,
        /// Its leaves.
        leaves: &'a [u64],
        /// Its bytes' buffer, from the first byte on.
        slot: Slot,
    },
    /// A whole chunk for another replica, or to look whether it is good: behind what clients read. Ends in `GotChunk` or `Done`.
    Fetch {
        /// Comes back in the answer.
        token: u64,
        /// The chunk.
        id: ChunkId,
    },
    /// Blocks of a chunk, or all of it. Ends in `GotChunk` or `Done`.
    Get {
        /// Comes back in the answer.
        token: u64,
        /// The chunk.
        id: ChunkId,
        /// Which 4 KiB blocks; an end behind the chunk's is the chunk's.
        blocks: Range<u32>,
        /// All blocks.
        whole: bool,
    },
    /// The chunks are dead (R2: only a verdict of the metadata group's). Ends in `Done`: `Ok` once durable, also for ids that were never here.
    Delete {
        /// Comes back in the answer.
        token: u64,
        /// At most [`wire::limits::MESSAGE_CHUNKS_MAX`].
        ids: &'a [ChunkId],
    },
    /// Chunks that are here, in order of their ids. Ends in `Listed`.
    Inventory {
        /// Comes back in the answer.
        token: u64,
        /// The last id of the page before.
        after: Option<ChunkId>,
        /// At most [`wire::limits::MESSAGE_CHUNKS_MAX`].
        limit: u32,
    },
    /// No further event is at hand: what has gathered is written now.
    Submit,
    /// Time has passed: an armed deadline, or any other.
    Tick,
    /// Scrubbing.
    Scrub(ScrubControl),
    /// Finish what was accepted, checkpoint, end. Ends in `ShutDown`.
    Shutdown,
    /// What came of a request.
    IoDone {
        /// The request's.
        io: IoToken,
        /// What came of it.
        outcome: IoOutcome,
    },
}

/// What to do about scrubbing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ScrubControl {
    /// Begin a pass, at this many bytes a second; 0 is the rate that the configured duration needs.
    Start {
        /// Bytes a second.
        bytes_per_second: u64,
    },
    /// End the pass.
    Stop,
}

/// Some of [`Effects::words`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct WordRange {
    /// The first.
    pub start: u32,
    /// How many.
    pub count: u32,
}

/// Some of [`Effects::chunks`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct ChunkRange {
    /// The first.
    pub start: u32,
    /// How many.
    pub count: u32,
}

/// Verified blocks of a chunk. The reference to the slot passes to the receiver.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct GotChunk {
    /// The request's.
    pub token: u64,
    /// The bytes' buffer.
    pub slot: Slot,
    /// Where the first block begins.
    pub slot_offset: u32,
    /// The whole chunk's bytes.
    pub length: u32,
    /// The first block.
    pub first_block: u32,
    /// Blocks; the chunk's last may be short.
    pub blocks: u32,
    /// The chunk's root.
    pub root: u64,
    /// The way from the blocks' leaves to the root (`wire::checksum::proof`).
    pub proof: WordRange,
}

/// What a store wants done or known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Effect {
    /// `Tick` at this time.
    Arm(Nanos),
    /// Serving from now on ([`crate::Store::opened`] says how it was found).
    Opened,
    /// Will never serve ([`crate::Store::open_error`] says why).
    OpenFailed,
    /// An answer without bytes.
    Done {
        /// The request's.
        token: u64,
        /// The answer.
        status: Status,
    },
    /// An answer with bytes.
    Got(GotChunk),
    /// An answer with chunks.
    Listed {
        /// The request's.
        token: u64,
        /// Of [`Effects::chunks`].
        chunks: ChunkRange,
        /// Whether these were the last.
        end: bool,
    },
    /// This chunk's bytes are damaged or unreadable here; once per chunk.
    Damaged {
        /// The chunk.
        id: ChunkId,
    },
    /// A write or flush failed: nothing more is written; reads go on (the replica goes Offline).
    Fenced,
    /// The end.
    ShutDown,
}

const _: () = assert!(size_of::<Effect>() <= 64);

/// A chunk that is here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ListedChunk {
    /// The chunk.
    pub id: ChunkId,
    /// Its bytes.
    pub length: u32,
    /// Its root.
    pub root: u64,
}

/// The caller's, executed and cleared after each event: no allocation once it has grown.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Effects {
    /// Requests to the disk.
    pub io: IoEffects,
    /// Everything else.
    pub list: Vec<Effect>,
    /// Proofs.
    pub words: Vec<u64>,
    /// Inventories.
    pub chunks: Vec<ListedChunk>,
}

impl Effects {
    /// Requests and effects of one event, at most: a store that is fenced answers its whole queue of 8,192, four batches of 1,024 entries in
    /// flight, and 1,024 repeated puts; beside them a few requests.
    pub const PER_EVENT_MAX: usize = 8192 + 4 * 1024 + 1024 + 64;

    /// Empty, with room for the common case.
    pub fn new() -> Self {
        let mut effects = Self::default();
        effects.list.reserve(1024);
        effects.io.requests.reserve(64);
        effects.io.parts.reserve(1024);
        effects.words.reserve(64);
        effects
    }

    /// Empties all lists and keeps their memory.
    pub fn clear(&mut self) {
        self.io.clear();
        self.list.clear();
        self.words.clear();
        self.chunks.clear();
    }
}

/// Counts for a `/metrics` endpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Metrics {
    /// What was asked of the disk, and what of it was what.
    pub disk: journal::Counters,
    /// Chunks here.
    pub chunks: u64,
    /// Bytes of index.
    pub index_bytes: u64,
    /// Bytes of segments that live chunks take.
    pub live_bytes: u64,
    /// Bytes that the file may take.
    pub capacity_bytes: u64,
    /// Bytes that puts may still take, before cleaning.
    pub available_bytes: u64,
    /// Bytes that puts leave to deletes, cleaning, restarts and checkpoints.
    pub reserve_bytes: u64,
    /// Segments free, growth included.
    pub segments_free: u64,
    /// Of these, those that the file has.
    pub segments_empty: u64,
    /// Of these, written once.
    pub segments_ready: u64,
    /// Durable batches behind the newest checkpoint.
    pub batches_since_checkpoint: u64,
    /// Segments without a live chunk that wait for checkpoints.
    pub segments_drained: u64,
    /// Segments that the file has.
    pub segments_allocated: u64,
    /// Puts answered `Ok`.
    pub puts: u64,
    /// Their bytes.
    pub put_bytes: u64,
    /// Puts of a chunk that was here (R4).
    pub puts_repeated: u64,
    /// Puts of an id with another content: each is an alarm (R4).
    pub puts_conflicting: u64,
    /// Chunks that were damaged here and have been replaced by good ones.
    pub chunks_repaired: u64,
    /// Chunks that had other bytes here than at a Serving replica, and have been replaced (R3).
    pub chunks_replaced: u64,
    /// Puts refused for want of space.
    pub puts_without_space: u64,
    /// Gets answered with bytes.
    pub gets: u64,
    /// Their bytes.
    pub get_bytes: u64,
    /// Tombstones written.
    pub tombstones: u64,
    /// Chunks moved by cleaning.
    pub chunks_moved: u64,
    /// Their bytes.
    pub moved_bytes: u64,
    /// Chunks known to be damaged or unreadable.
    pub chunks_damaged: u64,
    /// Reads, whoever's, whose bytes didn't match their checksum.
    pub checksum_mismatches: u64,
    /// Bytes of the disk that scrubbing has read and found good, in whole blocks like `live_bytes`.
    pub scrubbed_bytes: u64,
    /// Scrub passes ended.
    pub scrub_passes: u64,
    /// Leaf tables found in memory, and read.
    pub leaf_hits: u64,
    /// Leaf tables read.
    pub leaf_misses: u64,
    /// Puts and deletes waiting for a batch.
    pub queued: u64,
    /// Batches lost to damage in the log.
    pub batches_damaged: u64,
    /// 1 if a write failed and nothing more is written.
    pub fenced: u64,
}
