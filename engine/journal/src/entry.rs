//! What a chunk batch's descriptor lists: chunks put, chunks moved by cleaning, tombstones; behind the entries the leaf tables.
//!
//! ```text
//! offset size                                                                                            (an entry)
//!    0    16  chunk id
//!   16     8  root                                   0 in a tombstone
//!   24     4  length in bytes                        0 in a tombstone
//!   28     2  payload's first block in the batch     0 in a tombstone
//!   30     1  kind: 1 put, 2 move, 3 tombstone
//!   31     1  zero
//!   32     4  leaf table's offset in the descriptor, in 8-byte words; 0 for one block, whose leaf the root seals
//!   36     4  move: the segment it came from
//!   40     4  move: the block it came from
//!   44     4  zero
//! ```
//!
//! A payload begins at a block and is padded with zeros to whole blocks.

use wire::checksum::{BlockHasher, leaf_count};
use wire::limits::CHUNK_BYTES_MAX;
use wire::{ChunkId, ClusterId};

use crate::batch::{BatchHeader, HEADER_BYTES};
use crate::codec::{Reader, Writer};
use crate::layout::{BLOCK, BlockIndex, Place, SegmentIndex};

/// Bytes of an entry.
pub const ENTRY_BYTES: usize = 48;

/// What an entry does to the index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EntryKind {
    /// A chunk's payload.
    Put,
    /// A chunk's payload, copied from here; takes effect only if the index still points there (R32).
    Move(Place),
    /// The chunk is dead.
    Tombstone,
}

/// See the module.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Entry {
    /// The chunk.
    pub id: ChunkId,
    /// What happens to it.
    pub kind: EntryKind,
    /// Root of its hash tree.
    pub root: u64,
    /// Its bytes.
    pub length: u32,
    /// First block of its payload, counted from the batch's first.
    pub payload_block: u32,
    /// Its leaves, in 8-byte words from the descriptor's start; 0 for chunks of one block.
    pub leaf_word: u32,
}

/// Blocks of a payload.
pub fn payload_blocks(length: u32) -> u32 {
    length.div_ceil(BLOCK)
}

/// Words of a chunk's leaf table on disk: none for one block.
pub fn leaf_words(length: u32) -> usize {
    match leaf_count(length as usize) {
        1 => 0,
        count => count,
    }
}

impl Entry {
    /// Writes the entry.
    pub fn encode(&self, bytes: &mut [u8]) {
        let (kind, from) = match self.kind {
            EntryKind::Put => (1, Place::default()),
            EntryKind::Move(from) => (2, from),
            EntryKind::Tombstone => (3, Place::default()),
        };
        let mut to = Writer::new(&mut bytes[..ENTRY_BYTES]);
        to.bytes(&self.id.to_bytes());
        to.u64(self.root);
        to.u32(self.length);
        to.u16(u16::try_from(self.payload_block).expect("a batch has at most 2,048 blocks"));
        to.u8(kind);
        to.u8(0);
        to.u32(self.leaf_word);
        to.u32(from.segment.0);
        to.u32(from.block.0);
        to.u32(0);
        assert_eq!(to.at(), ENTRY_BYTES);
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let mut from = Reader::new(bytes);
        let id = ChunkId::from_bytes(from.array()?);
        let (root, length, payload_block) = (from.u64()?, from.u32()?, u32::from(from.u16()?));
        let kind = from.u8()?;
        from.u8()?;
        let leaf_word = from.u32()?;
        let place = Place { segment: SegmentIndex(from.u32()?), block: BlockIndex(from.u32()?) };
        let kind = match kind {
            1 => EntryKind::Put,
            2 => EntryKind::Move(place),
            3 => EntryKind::Tombstone,
            _ => return None,
        };
        Some(Self { id, kind, root, length, payload_block, leaf_word })
    }

    fn fits(&self, header: &BatchHeader) -> bool {
        if self.kind == EntryKind::Tombstone {
            return true;
        }
        let leaves_end = self.leaf_word as usize * 8 + leaf_words(self.length) * 8;
        (1..=CHUNK_BYTES_MAX).contains(&self.length)
            && self.payload_block >= header.descriptor_bytes / BLOCK
            && self.payload_block + payload_blocks(self.length) <= header.blocks
            && leaves_end <= header.descriptor_bytes as usize
    }
}

/// The entries of an intact descriptor, in order; those that contradict the header, which no writer of ours makes, are left out.
pub fn entries<'a>(header: &'a BatchHeader, descriptor: &'a [u8]) -> impl Iterator<Item = Entry> + 'a {
    let listed = descriptor.get(HEADER_BYTES..).unwrap_or_default().chunks_exact(ENTRY_BYTES);
    listed.take(header.entries as usize).filter_map(Entry::decode).filter(move |entry| entry.fits(header))
}

/// Whether `payload`, `entry.length` bytes long, is the chunk's.
pub fn payload_matches(cluster: ClusterId, entry: &Entry, payload: &[u8]) -> bool {
    payload.len() == entry.length as usize
        && !payload.is_empty()
        && BlockHasher::new(cluster, entry.id).root(payload) == entry.root
}
