//! What replicas of a slice tell each other about its chunks (R2, R3), and what the group says of them.

use flatbuffers::{FlatBufferBuilder, UnionWIPOffset, Vector, WIPOffset};
use wire_generated::message_generated as schema;
use wire_generated::meta_generated as meta;

use super::extents::{decode_chunk_id, encode_chunk_id};
use super::{DecodeError, Reply, Request, check};
use crate::limits::{CHUNK_BYTES_MAX, MESSAGE_CHUNKS_MAX};
use crate::meta::{Answer, ChunkState};
use crate::{ChunkId, Epoch, SliceIndex};

type Builder = FlatBufferBuilder<'static>;

const STATE_DEAD: u8 = 0;
const STATE_OPEN: u8 = 1;
const STATE_LIVE: u8 = 2;

/// Chunks of a slice from some id on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SliceSpan {
    /// The slice.
    pub slice: SliceIndex,
    /// Its epoch in the sender's map.
    pub epoch: Epoch,
    /// Chunks behind this one; `None`: from the beginning.
    pub after: Option<ChunkId>,
}

/// A chunk that a store holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChunkRecord {
    /// The chunk.
    pub id: ChunkId,
    /// Its bytes, 1 to [`CHUNK_BYTES_MAX`].
    pub length: u32,
    /// Its root.
    pub root: u64,
}

/// The chunks of a slice behind the range before, up to an id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SliceRange {
    /// The last id that belongs to it, there or not.
    pub last: ChunkId,
    /// Chunks in it.
    pub count: u32,
    /// The sum of their [`entry_digest`](crate::checksum::entry_digest)s, modulo 2⁶⁴.
    pub digest: u64,
}

pub(super) fn encode_digest_request(
    builder: &mut Builder,
    span: &SliceSpan,
    limit: u32,
) -> WIPOffset<schema::SliceDigestRequest<'static>> {
    let after = span.after.map(encode_chunk_id);
    let args = schema::SliceDigestRequestArgs {
        slice: span.slice.0,
        epoch: span.epoch.0,
        after: after.as_ref(),
        limit,
    };
    schema::SliceDigestRequest::create(builder, &args)
}

pub(super) fn decode_digest_request(
    table: schema::SliceDigestRequest<'_>,
) -> Result<Request<'static>, DecodeError> {
    let limit = page_limit(table.limit())?;
    let after = table.after().map(decode_chunk_id);
    let span = SliceSpan { slice: SliceIndex(table.slice()), epoch: Epoch(table.epoch()), after };
    Ok(Request::SliceDigest { span, limit })
}

pub(super) fn encode_digest_reply(
    builder: &mut Builder,
    ranges: &[SliceRange],
    end: bool,
) -> WIPOffset<schema::SliceDigestReply<'static>> {
    assert!(ranges.len() <= MESSAGE_CHUNKS_MAX, "a page keeps its limit");
    let encode =
        |range: &SliceRange| schema::SliceRange::new(&encode_chunk_id(range.last), range.digest, range.count);
    let ranges = Some(builder.create_vector_from_iter(ranges.iter().map(encode)));
    schema::SliceDigestReply::create(builder, &schema::SliceDigestReplyArgs { ranges, end })
}

pub(super) fn decode_digest_reply(
    table: schema::SliceDigestReply<'_>,
) -> Result<Reply<'static>, DecodeError> {
    check::length("ranges", table.ranges().len(), MESSAGE_CHUNKS_MAX)?;
    let decode = |range: &schema::SliceRange| SliceRange {
        last: decode_chunk_id(range.last()),
        count: range.count(),
        digest: range.digest(),
    };
    let ranges: Vec<SliceRange> = table.ranges().iter().map(decode).collect();
    // A reader goes on behind the last one: rising ids mean that it gets to the end.
    check::that(ranges.is_sorted_by(|range, next| range.last < next.last), "order of ranges")?;
    let is_whole = ranges.last().is_some_and(|range| range.last == ChunkId::MAX);
    check::that(table.end() == is_whole, "end of the ranges")?;
    Ok(Reply::SliceDigest { ranges, end: table.end() })
}

pub(super) fn encode_chunks_request(
    builder: &mut Builder,
    span: &SliceSpan,
    last: ChunkId,
    limit: u32,
) -> WIPOffset<schema::SliceChunksRequest<'static>> {
    let after = span.after.map(encode_chunk_id);
    let args = schema::SliceChunksRequestArgs {
        slice: span.slice.0,
        epoch: span.epoch.0,
        after: after.as_ref(),
        last: Some(&encode_chunk_id(last)),
        limit,
    };
    schema::SliceChunksRequest::create(builder, &args)
}

pub(super) fn decode_chunks_request(
    table: schema::SliceChunksRequest<'_>,
) -> Result<Request<'static>, DecodeError> {
    let limit = page_limit(table.limit())?;
    let after = table.after().map(decode_chunk_id);
    let span = SliceSpan { slice: SliceIndex(table.slice()), epoch: Epoch(table.epoch()), after };
    Ok(Request::SliceChunks { span, last: decode_chunk_id(table.last()), limit })
}

pub(super) fn encode_chunks_reply(
    builder: &mut Builder,
    chunks: &[ChunkRecord],
    end: bool,
) -> WIPOffset<schema::SliceChunksReply<'static>> {
    let chunks = Some(encode_records(builder, chunks));
    schema::SliceChunksReply::create(builder, &schema::SliceChunksReplyArgs { chunks, end })
}

pub(super) fn decode_chunks_reply(
    table: schema::SliceChunksReply<'_>,
) -> Result<Reply<'static>, DecodeError> {
    Ok(Reply::SliceChunks { chunks: decode_records(table.chunks())?, end: table.end() })
}

pub(super) fn encode_offer(
    builder: &mut Builder,
    slice: SliceIndex,
    epoch: Epoch,
    chunks: &[ChunkRecord],
) -> WIPOffset<schema::OfferChunksRequest<'static>> {
    let chunks = Some(encode_records(builder, chunks));
    let args = schema::OfferChunksRequestArgs { slice: slice.0, epoch: epoch.0, chunks };
    schema::OfferChunksRequest::create(builder, &args)
}

pub(super) fn decode_offer(table: schema::OfferChunksRequest<'_>) -> Result<Request<'static>, DecodeError> {
    let chunks = decode_records(table.chunks())?;
    Ok(Request::OfferChunks { slice: SliceIndex(table.slice()), epoch: Epoch(table.epoch()), chunks })
}

pub(super) fn encode_report(
    builder: &mut Builder,
    id: ChunkId,
    root: u64,
) -> WIPOffset<schema::ReportDamageRequest<'static>> {
    let args = schema::ReportDamageRequestArgs { id: Some(&encode_chunk_id(id)), root };
    schema::ReportDamageRequest::create(builder, &args)
}

fn encode_records(
    builder: &mut Builder,
    chunks: &[ChunkRecord],
) -> WIPOffset<Vector<'static, schema::ChunkRecord>> {
    assert!(chunks.len() <= MESSAGE_CHUNKS_MAX, "a page keeps its limit");
    let encode =
        |chunk: &ChunkRecord| schema::ChunkRecord::new(&encode_chunk_id(chunk.id), chunk.root, chunk.length);
    builder.create_vector_from_iter(chunks.iter().map(encode))
}

fn decode_records(records: Vector<'_, schema::ChunkRecord>) -> Result<Vec<ChunkRecord>, DecodeError> {
    check::length("chunks", records.len(), MESSAGE_CHUNKS_MAX)?;
    let decode = |record: &schema::ChunkRecord| ChunkRecord {
        id: decode_chunk_id(record.id()),
        length: record.length(),
        root: record.root(),
    };
    let chunks: Vec<ChunkRecord> = records.iter().map(decode).collect();
    check::that(chunks.is_sorted_by(|chunk, next| chunk.id < next.id), "order of chunk ids")?;
    let is_chunk = |chunk: &ChunkRecord| (1..=CHUNK_BYTES_MAX).contains(&chunk.length);
    check::that(chunks.iter().all(is_chunk), "length of a chunk")?;
    Ok(chunks)
}

fn page_limit(limit: u32) -> Result<u32, DecodeError> {
    check::that((1..=MESSAGE_CHUNKS_MAX).contains(&(limit as usize)), "limit")?;
    Ok(limit)
}

pub(super) fn encode_states(
    builder: &mut Builder,
    states: &[ChunkState],
) -> (meta::Answer, WIPOffset<UnionWIPOffset>) {
    assert!(states.len() <= MESSAGE_CHUNKS_MAX, "an answer has a state for each id of its query");
    let encode = |state: &ChunkState| match *state {
        ChunkState::Dead => meta::ChunkStateRecord::new(0, STATE_DEAD, false),
        ChunkState::Open => meta::ChunkStateRecord::new(0, STATE_OPEN, false),
        ChunkState::Live { root } => {
            meta::ChunkStateRecord::new(root.unwrap_or(0), STATE_LIVE, root.is_some())
        }
    };
    let states = Some(builder.create_vector_from_iter(states.iter().map(encode)));
    let body = meta::ChunkStatesAnswer::create(builder, &meta::ChunkStatesAnswerArgs { states });
    (meta::Answer::ChunkStatesAnswer, body.as_union_value())
}

pub(super) fn decode_states(body: meta::ChunkStatesAnswer<'_>) -> Result<Answer, DecodeError> {
    check::length("states", body.states().len(), MESSAGE_CHUNKS_MAX)?;
    let decode = |record: &meta::ChunkStateRecord| {
        Ok(match record.state() {
            STATE_DEAD => ChunkState::Dead,
            STATE_OPEN => ChunkState::Open,
            STATE_LIVE => ChunkState::Live { root: record.has_root().then(|| record.root()) },
            _ => return Err(DecodeError::Unknown("state of a chunk")),
        })
    };
    Ok(Answer::ChunkStates(body.states().iter().map(decode).collect::<Result<_, _>>()?))
}
