//! Where things lie in a store's file or device, and the named limits of the format.
//!
//! ```text
//! 0          superblock copy 0      8 KiB, at 0, 256, 512 and 768 KiB
//! 1 MiB      segment 0              fixed size, 4,096-byte blocks
//! …          segment n              1 MiB + n × segment bytes
//! ```

use wire::limits::{BLOCK_BYTES, CHUNK_BYTES_MAX};

/// Version of batches and pages; the superblock has [its own](crate::SUPERBLOCK_VERSION), by which a newer store is refused by name.
pub const FORMAT_VERSION: u16 = 1;
/// First byte of segment 0.
pub const DATA_START: u64 = 1 << 20;
/// Distance of two superblock copies: far enough that one erase block or one misdirected write of a batch does not hit two.
pub(crate) const SUPERBLOCK_STRIDE: u64 = DATA_START / 4;
/// A chunk store's segment; also the largest possible, since a block's number in its segment has 14 bits in the index.
pub const SEGMENT_BYTES: u32 = 64 << 20;
/// A metadata log's segment.
pub const LOG_SEGMENT_BYTES: u32 = 16 << 20;
/// Descriptor and payloads of one batch.
pub const BATCH_BYTES_MAX: u32 = 8 << 20;
/// Records of one batch of a metadata log, header included.
pub const LOG_BATCH_BYTES_MAX: u32 = 2 << 20;
/// A batch's descriptor: 1,024 entries of 48 bytes and the leaves of 8 MiB are 64 KiB, so fewer entries fit beside that many leaves.
pub const DESCRIPTOR_BYTES_MAX: u32 = 64 << 10;
/// Batches written and not yet known durable (R29).
pub const BATCHES_IN_FLIGHT_MAX: usize = 4;
/// Their bytes, at most: no batch promises a greater reach.
pub const IN_FLIGHT_BYTES_MAX: u32 = 16 << 20;
/// The reach at the beginning of a life and of an idle log: how far behind a batch its successors in flight may go, in blocks.
pub const REACH_BLOCKS_MIN: u32 = 16;
/// A block, as the formats count.
pub(crate) const BLOCK: u32 = 4096;
const _: () = assert!(BLOCK as usize == BLOCK_BYTES);
const _: () = assert!(CHUNK_BYTES_MAX + DESCRIPTOR_BYTES_MAX <= BATCH_BYTES_MAX);

/// A segment's number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SegmentIndex(pub u32);

impl SegmentIndex {
    /// "None" on disk.
    pub(crate) const NONE: u32 = u32::MAX;

    pub(crate) fn to_disk(index: Option<Self>) -> u32 {
        index.map_or(Self::NONE, |index| index.0)
    }

    pub(crate) fn from_disk(raw: u32) -> Option<Self> {
        (raw != Self::NONE).then_some(Self(raw))
    }
}

impl std::fmt::Display for SegmentIndex {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(&self.0, f)
    }
}

/// A 4,096-byte block's number in its segment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlockIndex(pub u32);

/// A block of a segment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// The segment.
    pub segment: SegmentIndex,
    /// The block in it.
    pub block: BlockIndex,
}

impl Place {
    /// The place `blocks` further in the same segment.
    #[must_use]
    pub fn plus(self, blocks: u32) -> Self {
        Self { block: BlockIndex(self.block.0 + blocks), ..self }
    }
}

/// Segment size and what follows from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Geometry {
    segment_bytes: u32,
}

impl Geometry {
    /// Segments of this size: a power of two, 64 KiB to 64 MiB; `None` for another.
    pub fn new(segment_bytes: u32) -> Option<Self> {
        let fits = segment_bytes.is_power_of_two() && (64 << 10..=SEGMENT_BYTES).contains(&segment_bytes);
        fits.then_some(Self { segment_bytes })
    }

    /// Bytes of a segment.
    pub fn segment_bytes(self) -> u32 {
        self.segment_bytes
    }

    /// Blocks of a segment.
    pub fn segment_blocks(self) -> u32 {
        self.segment_bytes / BLOCK
    }

    /// Blocks of the largest batch: half a segment at most, so that a segment's unused end stays small.
    pub fn batch_blocks_max(self) -> u32 {
        (BATCH_BYTES_MAX / BLOCK).min(self.segment_blocks() / 2)
    }

    /// The greatest reach: batches within it lie in two segments at most.
    pub fn reach_blocks_max(self) -> u32 {
        (IN_FLIGHT_BYTES_MAX / BLOCK).min(self.segment_blocks() / 2)
    }

    /// The reach that batches of so many blocks want, a window of them being in flight.
    pub(crate) fn reach_for(self, blocks: u32) -> u32 {
        let window = blocks * u32::try_from(BATCHES_IN_FLIGHT_MAX).expect("few");
        window.next_power_of_two().max(REACH_BLOCKS_MIN).min(self.reach_blocks_max())
    }

    /// Segments that fit into a file of `bytes`.
    pub fn segments_in(self, bytes: u64) -> u32 {
        let count = bytes.saturating_sub(DATA_START) / u64::from(self.segment_bytes);
        u32::try_from(count).unwrap_or(SegmentIndex::NONE - 1)
    }

    /// Where a segment begins.
    pub fn segment_offset(self, segment: SegmentIndex) -> u64 {
        DATA_START + u64::from(segment.0) * u64::from(self.segment_bytes)
    }

    /// Where a block begins.
    pub fn offset(self, place: Place) -> u64 {
        self.segment_offset(place.segment) + u64::from(place.block.0) * u64::from(BLOCK)
    }
}
