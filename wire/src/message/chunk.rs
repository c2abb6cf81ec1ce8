//! The data plane's messages: what puts and reads a chunk. Read in place, without allocation.

use super::words::{Leaves, Words};
use crate::{ChunkId, Epoch, MapNumber};

/// The head of a chunk. The frame's payload is the first fragment, from offset 0; [`PutFragment`](super::Request::PutFragment)s with
/// the same correlation id carry the rest, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PutChunk<'a> {
    /// The chunk.
    pub id: ChunkId,
    /// Its bytes, 1 to [`CHUNK_BYTES_MAX`](crate::limits::CHUNK_BYTES_MAX).
    pub length: u32,
    /// Root over leaves and length.
    pub root: u64,
    /// Number of the sender's cluster map.
    pub map: MapNumber,
    /// The slice's epoch in that map.
    pub epoch: Epoch,
    /// One leaf for each block of the chunk, as many as `length` needs.
    pub leaves: Leaves<'a>,
}

/// Which blocks of a chunk are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GetChunk {
    /// The chunk.
    pub id: ChunkId,
    /// The first block.
    pub first_block: u32,
    /// How many; 0: the whole chunk (and `first_block` is 0).
    pub block_count: u32,
}

/// A part of the answer to [`GetChunk`]; the frame's payload holds its bytes. All but the last frame have the prefix's `more` flag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChunkPart<'a> {
    /// The chunk's length.
    pub length: u32,
    /// Where this frame's payload begins in the chunk, a multiple of the block size.
    pub offset: u32,
    /// Proof of the whole range of the answer ([`checksum::proof`](crate::checksum::proof)); in the first frame only.
    pub proof: Words<'a>,
}
