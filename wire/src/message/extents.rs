//! Extents on the wire: runs as structs, roots as words (R37), and the arithmetic that every list of runs obeys.

use flatbuffers::{FlatBufferBuilder, WIPOffset};
use wire_generated::common_generated as common;
use wire_generated::meta_generated as schema;

use super::{DecodeError, check};
use crate::limits::{CHUNK_BYTES_MAX, CHUNK_BYTES_MIN, FILE_BYTES_MAX, MESSAGE_ROOTS_MAX};
use crate::meta::{Extents, Run};
use crate::{ChunkId, SessionId};

/// Whether the extents mean something: runs in order, without overlap, each covering a part of all its chunks, ids and offsets
/// without overflow, one root for each chunk. Any number of them.
pub fn check_extents(extents: &Extents) -> Result<(), DecodeError> {
    let mut end = 0;
    let mut chunks = 0_u64;
    for run in &extents.runs {
        check::that(run.file_offset >= end, "order of runs")?;
        end = check_run(run)?;
        chunks += u64::from(run.count);
    }
    check::that(chunks == extents.roots.len() as u64, "number of roots")
}

/// Checks a run by itself; returns where it ends in the file.
fn check_run(run: &Run) -> Result<u64, DecodeError> {
    check::that(run.count > 0 && run.length > 0, "run")?;
    let sized =
        run.chunk_bytes.is_power_of_two() && (CHUNK_BYTES_MIN..=CHUNK_BYTES_MAX).contains(&run.chunk_bytes);
    check::that(sized && (1..=run.chunk_bytes).contains(&run.last_chunk_bytes), "chunk size of a run")?;
    check::that(run.first.ordinal.checked_add(u64::from(run.count) - 1).is_some(), "chunk ids of a run")?;
    // At most 2^32 · 2^22 bytes: no overflow.
    let before_last = (u64::from(run.count) - 1) * u64::from(run.chunk_bytes);
    let total = before_last + u64::from(run.last_chunk_bytes);
    let first_bytes = if run.count == 1 { run.last_chunk_bytes } else { run.chunk_bytes };
    check::that(run.skip < first_bytes, "skip of a run")?;
    let used = u64::from(run.skip).checked_add(run.length).ok_or(DecodeError::Invalid("length of a run"))?;
    check::that(before_last < used && used <= total, "length of a run")?;
    let end = run.file_offset.checked_add(run.length).ok_or(DecodeError::TooLarge("file"))?;
    if end <= FILE_BYTES_MAX { Ok(end) } else { Err(DecodeError::TooLarge("file")) }
}

/// Writes extents; what is written holds the rules of [`check_extents`] and the message's limit.
pub(super) fn encode(
    builder: &mut FlatBufferBuilder<'static>,
    extents: &Extents,
) -> WIPOffset<schema::Extents<'static>> {
    assert!(extents.roots.len() <= MESSAGE_ROOTS_MAX, "R37");
    assert_eq!(check_extents(extents), Ok(()));
    let runs = (!extents.runs.is_empty())
        .then(|| builder.create_vector_from_iter(extents.runs.iter().map(encode_run)));
    let roots = (!extents.roots.is_empty()).then(|| builder.create_vector(&extents.roots));
    schema::Extents::create(builder, &schema::ExtentsArgs { runs, roots })
}

/// Reads extents; absent ones are empty.
pub(super) fn decode(table: Option<schema::Extents<'_>>) -> Result<Extents, DecodeError> {
    let Some(table) = table else { return Ok(Extents::default()) };
    let run_count = table.runs().map_or(0, |runs| runs.len());
    let root_count = table.roots().map_or(0, |roots| roots.len());
    check::length("extents", run_count.max(root_count), MESSAGE_ROOTS_MAX)?;
    let runs = table.runs().map_or_else(Vec::new, |runs| runs.iter().map(decode_run).collect());
    let roots = table.roots().map_or_else(Vec::new, |roots| roots.iter().collect());
    let extents = Extents { runs, roots };
    check_extents(&extents)?;
    Ok(extents)
}

fn encode_run(run: &Run) -> schema::Run {
    schema::Run::new(
        run.file_offset,
        run.length,
        &encode_chunk_id(run.first),
        run.count,
        run.chunk_bytes,
        run.last_chunk_bytes,
        run.skip,
    )
}

fn decode_run(run: &schema::Run) -> Run {
    Run {
        file_offset: run.file_offset(),
        length: run.length(),
        first: decode_chunk_id(run.first()),
        count: run.count(),
        chunk_bytes: run.chunk_bytes(),
        last_chunk_bytes: run.last_chunk_bytes(),
        skip: run.skip(),
    }
}

pub(super) fn encode_chunk_id(id: ChunkId) -> common::ChunkId {
    common::ChunkId::new(id.session.0, id.ordinal)
}

pub(super) fn decode_chunk_id(id: &common::ChunkId) -> ChunkId {
    ChunkId { session: SessionId(id.session()), ordinal: id.ordinal() }
}
