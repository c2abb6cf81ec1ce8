//! Framing of a checkpoint's pages. A checkpoint is the table of segments, then pages of the owner's (the chunk store's index, the
//! namespace's image), the last one marked. Fixed-size entries behind a checked header: nothing in them is optional, so a
//! schema language would add a second validation and no evolution that the version field doesn't give.
//!
//! ```text
//! offset size
//!    0     8  magic "CATCPAGE"
//!    8     8  checksum: xxh3-64 of bytes 16..length, seed = the store's secret
//!   16     2  format version
//!   18     1  kind: 1 segments, 2 owner's
//!   19     1  1 = the last page
//!   20     4  length: header and content
//!   24     8  checkpoint's number
//!   32     4  page's number in the checkpoint
//!   36     4  entries
//!   40    16  store
//!   56     8  own offset in the file
//!   64     …  content
//! ```
//!
//! Pages lie one behind the other, each from a block's beginning; where less than [`page_bytes_max`] is left of a segment, the next page
//! begins the checkpoint's next segment.

use wire::StoreId;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::codec::{Reader, Writer};
use crate::layout::{FORMAT_VERSION, Geometry};

/// Bytes of a page's header.
pub const PAGE_HEADER_BYTES: usize = 64;
/// A page, header included, at most; far below the 64 MiB that the design allows, so that two fit into any arena.
pub const PAGE_BYTES_MAX: u32 = 256 << 10;
const MAGIC: u64 = u64::from_le_bytes(*b"CATCPAGE");
const OFFSET_CHECKED: usize = 16;
const OFFSET_LENGTH: usize = 20;

/// What a page holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PageKind {
    /// The table of segments.
    Segments,
    /// The owner's image.
    Owner,
}

/// See the module.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PageHeader {
    /// What it holds.
    pub kind: PageKind,
    /// Whether the checkpoint ends here.
    pub last: bool,
    /// Header and content.
    pub length: u32,
    /// The checkpoint.
    pub checkpoint: u64,
    /// Its place in the checkpoint.
    pub page: u32,
    /// Entries in it.
    pub entries: u32,
    /// The store.
    pub store: StoreId,
    /// Its own place.
    pub offset: u64,
}

/// The largest page in segments of this size.
pub fn page_bytes_max(geometry: Geometry) -> u32 {
    PAGE_BYTES_MAX.min(geometry.segment_bytes() / 4)
}

impl PageHeader {
    /// Writes the header and the checksum over `page`, whose content is in place.
    pub fn encode(&self, secret: u64, page: &mut [u8]) {
        assert!(page.len() == self.length as usize && page.len() >= PAGE_HEADER_BYTES);
        let mut to = Writer::new(&mut page[..PAGE_HEADER_BYTES]);
        to.u64(MAGIC);
        to.u64(0);
        to.u16(FORMAT_VERSION);
        to.u8(if self.kind == PageKind::Segments { 1 } else { 2 });
        to.u8(u8::from(self.last));
        to.u32(self.length);
        to.u64(self.checkpoint);
        to.u32(self.page);
        to.u32(self.entries);
        to.bytes(&self.store.0);
        to.u64(self.offset);
        assert_eq!(to.at(), PAGE_HEADER_BYTES);
        let checksum = xxh3_64_with_seed(&page[OFFSET_CHECKED..], secret);
        page[8..OFFSET_CHECKED].copy_from_slice(&checksum.to_le_bytes());
    }

    /// Bytes of the page that begins with this block, if it looks like one.
    pub fn peek(block: &[u8]) -> Option<u32> {
        if Reader::new(block).u64()? != MAGIC {
            return None;
        }
        let length = Reader::new(block.get(OFFSET_LENGTH..)?).u32()?;
        (length as usize >= PAGE_HEADER_BYTES && length <= PAGE_BYTES_MAX).then_some(length)
    }

    /// The header of a whole, intact page; `page` is exactly as long as it says.
    pub fn decode(secret: u64, page: &[u8]) -> Option<Self> {
        let mut from = Reader::new(page);
        if from.u64()? != MAGIC || from.u64()? != xxh3_64_with_seed(page.get(OFFSET_CHECKED..)?, secret) {
            return None;
        }
        if from.u16()? != FORMAT_VERSION {
            return None;
        }
        let kind = match from.u8()? {
            1 => PageKind::Segments,
            2 => PageKind::Owner,
            _ => return None,
        };
        let header = Self {
            kind,
            last: from.u8()? == 1,
            length: from.u32()?,
            checkpoint: from.u64()?,
            page: from.u32()?,
            entries: from.u32()?,
            store: StoreId(from.array()?),
            offset: from.u64()?,
        };
        (header.length as usize == page.len()).then_some(header)
    }
}
