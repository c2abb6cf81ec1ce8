//! Framing of one batch: the unit of commit.
//!
//! ```text
//! offset size                                                            (a descriptor: 4,096-byte blocks, header first)
//!    0     8  magic "CATBATCH"
//!    8     8  checksum: xxh3-64 of descriptor bytes 16.., seed = the store's secret (R30)
//!   16     2  format version
//!   18     1  kind: 1 chunks, 2 records
//!   19     1  zero
//!   20     4  descriptor bytes, a multiple of 4,096
//!   24     4  batch blocks: descriptor and payloads
//!   28     4  entries or records
//!   32    16  store
//!   48     8  incarnation
//!   56     8  sequence, +1 per batch, over all lives of the store
//!   64     8  durable_upto: the highest sequence known durable when this was written (R29)
//!   72     8  previous batch's checksum
//!   80     8  own offset in the file: a batch at another's place is invalid
//!   88     4  next segment, 2^32-1 while not chosen
//!   92     4  body bytes behind the header
//!   96     8  first record's index (records)
//!  104     4  reach: batches that may be in flight behind this one end within so many blocks; 0 where that wasn't said
//!  108    20  zero
//!  128     …  entries, then leaf tables (chunks); records (records)
//! ```

use wire::{Incarnation, StoreId};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::codec::{Reader, Writer};
use crate::layout::{
    BATCHES_IN_FLIGHT_MAX, BLOCK, DESCRIPTOR_BYTES_MAX, FORMAT_VERSION, LOG_BATCH_BYTES_MAX, SegmentIndex,
};
use crate::superblock::Kind;

/// Bytes of a batch's header.
pub const HEADER_BYTES: usize = 128;
const MAGIC: u64 = u64::from_le_bytes(*b"CATBATCH");
const OFFSET_CHECKED: usize = 16;
const OFFSET_DESCRIPTOR_BYTES: usize = 20;

/// See the module.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BatchHeader {
    /// What the batch holds.
    pub kind: Kind,
    /// Header, entries and leaves, or header and records; whole blocks.
    pub descriptor_bytes: u32,
    /// The whole batch.
    pub blocks: u32,
    /// Entries or records.
    pub entries: u32,
    /// The store that wrote it.
    pub store: StoreId,
    /// In this life.
    pub incarnation: Incarnation,
    /// Its number.
    pub sequence: u64,
    /// R29.
    pub durable_upto: u64,
    /// Its predecessor's checksum.
    pub previous: u64,
    /// Its own offset in the file.
    pub offset: u64,
    /// The segment in which the log goes on behind this one.
    pub next: Option<SegmentIndex>,
    /// Bytes used behind the header.
    pub body_bytes: u32,
    /// Records: the first one's index.
    pub first_index: u64,
    /// In blocks.
    pub reach: u32,
}

/// The largest descriptor of a kind.
pub fn descriptor_bytes_max(kind: Kind) -> u32 {
    match kind {
        Kind::Chunks => DESCRIPTOR_BYTES_MAX,
        Kind::Records => LOG_BATCH_BYTES_MAX,
    }
}

impl BatchHeader {
    /// Writes the header and the checksum over the whole `descriptor`, whose body is in place; returns the checksum.
    pub fn encode(&self, secret: u64, descriptor: &mut [u8]) -> u64 {
        assert_eq!(descriptor.len(), self.descriptor_bytes as usize);
        assert!(self.descriptor_bytes <= descriptor_bytes_max(self.kind));
        assert!(self.descriptor_bytes.is_multiple_of(BLOCK) && self.descriptor_bytes / BLOCK <= self.blocks);
        assert!(HEADER_BYTES + self.body_bytes as usize <= descriptor.len());
        // R29: no more than the window lies between a batch and what is known durable.
        assert!(self.sequence - self.durable_upto <= BATCHES_IN_FLIGHT_MAX as u64);
        let mut to = Writer::new(&mut descriptor[..HEADER_BYTES]);
        to.u64(MAGIC);
        to.u64(0);
        to.u16(FORMAT_VERSION);
        to.u8(self.kind.code());
        to.u8(0);
        to.u32(self.descriptor_bytes);
        to.u32(self.blocks);
        to.u32(self.entries);
        to.bytes(&self.store.0);
        to.u64(self.incarnation.0);
        to.u64(self.sequence);
        to.u64(self.durable_upto);
        to.u64(self.previous);
        to.u64(self.offset);
        to.u32(SegmentIndex::to_disk(self.next));
        to.u32(self.body_bytes);
        to.u64(self.first_index);
        to.u32(self.reach);
        to.zeros(20);
        assert_eq!(to.at(), HEADER_BYTES);
        let checksum = xxh3_64_with_seed(&descriptor[OFFSET_CHECKED..], secret);
        descriptor[8..OFFSET_CHECKED].copy_from_slice(&checksum.to_le_bytes());
        checksum
    }

    /// Bytes of the descriptor that begins with this block, if it looks like one: a hint of what to read, nothing more.
    pub fn peek(kind: Kind, block: &[u8]) -> Option<u32> {
        if Reader::new(block).u64()? != MAGIC {
            return None;
        }
        let bytes = Reader::new(block.get(OFFSET_DESCRIPTOR_BYTES..)?).u32()?;
        (bytes.is_multiple_of(BLOCK) && (BLOCK..=descriptor_bytes_max(kind)).contains(&bytes))
            .then_some(bytes)
    }

    /// The header and checksum of a whole, intact `descriptor` of `kind`; `None` for anything else. Total on any bytes.
    pub fn decode(kind: Kind, secret: u64, descriptor: &[u8]) -> Option<(Self, u64)> {
        let mut from = Reader::new(descriptor);
        if from.u64()? != MAGIC {
            return None;
        }
        let checksum = from.u64()?;
        if checksum != xxh3_64_with_seed(&descriptor[OFFSET_CHECKED..], secret) {
            return None;
        }
        if from.u16()? != FORMAT_VERSION || Kind::from_code(from.u8()?)? != kind {
            return None;
        }
        from.u8()?;
        let header = Self {
            kind,
            descriptor_bytes: from.u32()?,
            blocks: from.u32()?,
            entries: from.u32()?,
            store: StoreId(from.array()?),
            incarnation: Incarnation(from.u64()?),
            sequence: from.u64()?,
            durable_upto: from.u64()?,
            previous: from.u64()?,
            offset: from.u64()?,
            next: SegmentIndex::from_disk(from.u32()?),
            body_bytes: from.u32()?,
            first_index: from.u64()?,
            reach: from.u32()?,
        };
        header.is_consistent(descriptor.len()).then_some((header, checksum))
    }

    fn is_consistent(&self, length: usize) -> bool {
        self.descriptor_bytes as usize == length
            && self.descriptor_bytes.is_multiple_of(BLOCK)
            && self.descriptor_bytes / BLOCK <= self.blocks
            && self.body_bytes as usize + HEADER_BYTES <= length
            && self.durable_upto < self.sequence
            && self.sequence - self.durable_upto <= BATCHES_IN_FLIGHT_MAX as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> BatchHeader {
        BatchHeader {
            kind: Kind::Chunks,
            descriptor_bytes: 4096,
            blocks: 3,
            entries: 1,
            store: StoreId([7; 16]),
            incarnation: Incarnation(3),
            sequence: 11,
            durable_upto: 9,
            previous: 5,
            offset: 1 << 20,
            next: None,
            body_bytes: 48,
            first_index: 0,
            reach: 16,
        }
    }

    #[test]
    fn what_was_encoded_is_decoded_and_nothing_else() {
        let mut bytes = vec![0; 4096];
        let checksum = header().encode(42, &mut bytes);
        assert_eq!(BatchHeader::peek(Kind::Chunks, &bytes), Some(4096));
        assert_eq!(BatchHeader::decode(Kind::Chunks, 42, &bytes), Some((header(), checksum)));
        // R30: another store's secret.
        assert_eq!(BatchHeader::decode(Kind::Chunks, 43, &bytes), None);
        assert_eq!(BatchHeader::decode(Kind::Records, 42, &bytes), None);
        for at in 0..4096 {
            bytes[at] ^= 1;
            assert_eq!(BatchHeader::decode(Kind::Chunks, 42, &bytes), None, "flip at {at}");
            bytes[at] ^= 1;
        }
        for length in 0..200 {
            assert_eq!(BatchHeader::decode(Kind::Chunks, 42, &bytes[..length]), None);
        }
    }
}
