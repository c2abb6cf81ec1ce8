//! The data plane's messages: what puts and reads a chunk. Read in place, without allocation.

use flatbuffers::{FlatBufferBuilder, Vector, WIPOffset};
use wire_generated::common_generated as common;
use wire_generated::message_generated as schema;

use super::extents::{decode_chunk_id, encode_chunk_id};
use super::hello::decode_class;
use super::words::{ChunkIds, Leaves, Words};
use super::{DecodeError, HopClass, Request, check};
use crate::checksum::leaf_count;
use crate::limits::{
    BLOCK_BYTES, CHUNK_BYTES_MAX, FRAGMENT_UNIT_BYTES, LEAVES_MAX, MESSAGE_CHUNKS_MAX, PROOF_WORDS_MAX,
};
use crate::{ChunkId, Epoch, MapNumber};

type Builder = FlatBufferBuilder<'static>;

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
    /// Whose buffers it takes (R38).
    pub class: HopClass,
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

pub(super) fn encode_put(
    builder: &mut Builder,
    put: &PutChunk<'_>,
) -> WIPOffset<schema::PutChunkRequest<'static>> {
    assert_eq!(put.leaves.len(), leaf_count(put.length as usize), "R36: a leaf for each block");
    let leaves = Some(encode_words(builder, put.leaves));
    let args = schema::PutChunkRequestArgs {
        id: Some(&encode_chunk_id(put.id)),
        length: put.length,
        root: put.root,
        map: put.map.0,
        epoch: put.epoch.0,
        leaves,
        hop_class: put.class as u8,
    };
    schema::PutChunkRequest::create(builder, &args)
}

pub(super) fn decode_put(table: schema::PutChunkRequest<'_>) -> Result<PutChunk<'_>, DecodeError> {
    let length = chunk_length(table.length())?;
    let leaves = Words::from_bytes(table.leaves().bytes());
    check::that(leaves.len() == leaf_count(length as usize), "number of leaves")?;
    Ok(PutChunk {
        id: decode_chunk_id(table.id()),
        length,
        root: table.root(),
        map: MapNumber(table.map()),
        epoch: Epoch(table.epoch()),
        class: decode_class(table.hop_class())?,
        leaves,
    })
}

/// Later fragments begin at multiples of the unit, since only a chunk's last fragment may be shorter (R39).
pub(super) fn decode_fragment(
    table: schema::PutFragmentRequest<'_>,
) -> Result<Request<'static>, DecodeError> {
    let offset = table.offset();
    let aligned = (offset as usize).is_multiple_of(FRAGMENT_UNIT_BYTES);
    check::that(aligned && 0 < offset && offset < CHUNK_BYTES_MAX, "offset of a fragment")?;
    Ok(Request::PutFragment { class: decode_class(table.hop_class())?, offset })
}

pub(super) fn encode_get(
    builder: &mut Builder,
    get: &GetChunk,
) -> WIPOffset<schema::GetChunkRequest<'static>> {
    let args = schema::GetChunkRequestArgs {
        id: Some(&encode_chunk_id(get.id)),
        first_block: get.first_block,
        block_count: get.block_count,
    };
    schema::GetChunkRequest::create(builder, &args)
}

pub(super) fn decode_get(table: schema::GetChunkRequest<'_>) -> Result<GetChunk, DecodeError> {
    let (first_block, block_count) = (table.first_block(), table.block_count());
    let end = u64::from(first_block) + u64::from(block_count);
    check::that(end <= LEAVES_MAX as u64 && (block_count > 0 || first_block == 0), "range of blocks")?;
    Ok(GetChunk { id: decode_chunk_id(table.id()), first_block, block_count })
}

pub(super) fn encode_part(
    builder: &mut Builder,
    part: &ChunkPart<'_>,
) -> WIPOffset<schema::GetChunkReply<'static>> {
    let proof = (!part.proof.is_empty()).then(|| encode_words(builder, part.proof));
    let args = schema::GetChunkReplyArgs { length: part.length, offset: part.offset, proof };
    schema::GetChunkReply::create(builder, &args)
}

pub(super) fn decode_part(table: schema::GetChunkReply<'_>) -> Result<ChunkPart<'_>, DecodeError> {
    let length = chunk_length(table.length())?;
    let offset = table.offset();
    check::that(offset < length && (offset as usize).is_multiple_of(BLOCK_BYTES), "offset in the chunk")?;
    let proof = table.proof().map_or_else(Words::default, |words| Words::from_bytes(words.bytes()));
    check::length("proof", proof.len(), PROOF_WORDS_MAX)?;
    Ok(ChunkPart { length, offset, proof })
}

pub(super) fn encode_delete(
    builder: &mut Builder,
    map: MapNumber,
    ids: ChunkIds<'_>,
) -> WIPOffset<schema::DeleteChunksRequest<'static>> {
    assert!((1..=MESSAGE_CHUNKS_MAX).contains(&ids.len()), "a message keeps its limit");
    let ids = Some(encode_ids(builder, ids));
    schema::DeleteChunksRequest::create(builder, &schema::DeleteChunksRequestArgs { map: map.0, ids })
}

pub(super) fn decode_delete(
    table: schema::DeleteChunksRequest<'_>,
) -> Result<(MapNumber, ChunkIds<'_>), DecodeError> {
    let ids = decode_ids(table.ids())?;
    check::that(!ids.is_empty(), "chunk ids")?;
    Ok((MapNumber(table.map()), ids))
}

pub(super) fn encode_ids(
    builder: &mut Builder,
    ids: ChunkIds<'_>,
) -> WIPOffset<Vector<'static, common::ChunkId>> {
    builder.create_vector_from_iter(ids.iter().map(encode_chunk_id))
}

pub(super) fn decode_ids(ids: Vector<'_, common::ChunkId>) -> Result<ChunkIds<'_>, DecodeError> {
    check::length("chunk ids", ids.len(), MESSAGE_CHUNKS_MAX)?;
    Ok(ChunkIds::from_bytes(ids.bytes()))
}

fn encode_words(builder: &mut Builder, words: Words<'_>) -> WIPOffset<Vector<'static, u64>> {
    match words.values() {
        Some(values) => builder.create_vector(values),
        None => builder.create_vector_from_iter(words.iter()),
    }
}

fn chunk_length(length: u32) -> Result<u32, DecodeError> {
    check::that((1..=CHUNK_BYTES_MAX).contains(&length), "length of a chunk")?;
    Ok(length)
}
