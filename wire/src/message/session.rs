//! Sessions, results of mutations and refusals on the wire.

use flatbuffers::{FlatBufferBuilder, UnionWIPOffset, WIPOffset};
use wire_generated::message_generated as schema;
use wire_generated::meta_generated as meta;

use super::{DecodeError, Reply, check};
use crate::limits::{HELLO_NAME_BYTES_MAX, SESSION_PINS_MAX};
use crate::meta::{Outcome, Pin, Refusal};
use crate::{CommitIndex, FrameKind, InodeId, SessionId, Status, Version, VolumeId};

type Builder = FlatBufferBuilder<'static>;

pub(super) fn encode_open(
    builder: &mut Builder,
    name: &str,
) -> WIPOffset<schema::OpenSessionRequest<'static>> {
    assert!(name.len() <= HELLO_NAME_BYTES_MAX, "a name keeps its limit");
    let name = Some(builder.create_string(name));
    schema::OpenSessionRequest::create(builder, &schema::OpenSessionRequestArgs { name })
}

pub(super) fn encode_keep_alive(
    builder: &mut Builder,
    session: SessionId,
    pins: &[Pin],
) -> WIPOffset<schema::KeepAliveRequest<'static>> {
    assert!(pins.len() <= SESSION_PINS_MAX, "a session keeps its limit");
    let encode_pin = |pin: &Pin| meta::Pin::new(pin.volume.0, pin.inode.0, pin.version.0);
    let pins = (!pins.is_empty()).then(|| builder.create_vector_from_iter(pins.iter().map(encode_pin)));
    schema::KeepAliveRequest::create(builder, &schema::KeepAliveRequestArgs { session: session.0, pins })
}

pub(super) fn decode_pins(table: schema::KeepAliveRequest<'_>) -> Result<Vec<Pin>, DecodeError> {
    let Some(pins) = table.pins() else { return Ok(Vec::new()) };
    check::length("pins", pins.len(), SESSION_PINS_MAX)?;
    let decode_pin = |pin: &meta::Pin| Pin {
        volume: VolumeId(pin.volume()),
        inode: InodeId(pin.inode()),
        version: Version(pin.version()),
    };
    Ok(pins.iter().map(decode_pin).collect())
}

pub(super) fn encode_outcome(
    builder: &mut Builder,
    outcome: &Outcome,
) -> WIPOffset<schema::MutateReply<'static>> {
    let record = meta::Outcome::new(
        outcome.index.0,
        outcome.inode.0,
        outcome.version.0,
        outcome.volume.0,
        outcome.offset,
        outcome.size,
        outcome.status.code(),
        outcome.depth,
    );
    schema::MutateReply::create(builder, &schema::MutateReplyArgs { outcome: Some(&record), refusal: None })
}

/// A mutation's answer: its outcome if it was executed (its status is then the frame's), a refusal if it wasn't (R14).
pub(super) fn decode_mutate_reply(
    table: schema::MutateReply<'_>,
    status: Status,
) -> Result<Reply<'static>, DecodeError> {
    match (table.outcome(), table.refusal()) {
        (Some(record), None) => {
            let outcome = decode_outcome(record)?;
            check::that(outcome.status == status, "status of an outcome")?;
            Ok(Reply::Mutate(outcome))
        }
        (None, Some(refusal)) => {
            check::that(status != Status::Ok, "status of a refusal")?;
            Ok(Reply::Refused(decode_refusal(refusal)))
        }
        (Some(_), Some(_)) => Err(DecodeError::Invalid("outcome")),
        (None, None) => Err(DecodeError::Missing("outcome")),
    }
}

fn decode_outcome(record: &meta::Outcome) -> Result<Outcome, DecodeError> {
    Ok(Outcome {
        status: Status::from_code(record.status()).ok_or(DecodeError::Unknown("status"))?,
        depth: record.depth(),
        index: CommitIndex(record.index()),
        inode: InodeId(record.inode()),
        version: Version(record.version()),
        volume: VolumeId(record.volume()),
        offset: record.offset(),
        size: record.size(),
    })
}

pub(super) fn encode_refusal(
    builder: &mut Builder,
    kind: FrameKind,
    refusal: &Refusal,
) -> WIPOffset<UnionWIPOffset> {
    let args = schema::RefusalArgs {
        retry_after_ms: refusal.retry_after_ms,
        depth: refusal.depth,
        version: refusal.version.0,
    };
    let refusal = schema::Refusal::create(builder, &args);
    if kind != FrameKind::Mutate {
        return refusal.as_union_value();
    }
    let args = schema::MutateReplyArgs { outcome: None, refusal: Some(refusal) };
    schema::MutateReply::create(builder, &args).as_union_value()
}

pub(super) fn decode_refusal(table: schema::Refusal<'_>) -> Refusal {
    Refusal {
        retry_after_ms: table.retry_after_ms(),
        depth: table.depth(),
        version: Version(table.version()),
    }
}
