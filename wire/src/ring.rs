//! The consistent-hash ring's arithmetic: chunk id → position → slice.

use xxhash_rust::xxh3::xxh3_64;

use crate::{ChunkId, SliceIndex};

/// The chunk's place on the 64-bit ring: xxh3-64 of the id's 16 bytes. Part of the format: golden vectors pin it.
pub fn position(id: ChunkId) -> u64 {
    xxh3_64(&id.to_bytes())
}

/// The slice that holds `id` on a ring of `2^bits` slices, `bits` ≤ 16 (R40): the position's top bits, so that raising
/// `bits` by one splits every slice in two.
pub fn slice_of(id: ChunkId, bits: u32) -> SliceIndex {
    assert!(bits <= 16, "a ring has at most 2^16 slices");
    let top = if bits == 0 { 0 } else { position(id) >> (64 - bits) };
    SliceIndex(u16::try_from(top).expect("at most 16 bits"))
}
