//! From a frame's message to a request or reply: total on any bytes.

use wire_generated::control_generated as control_schema;
use wire_generated::message_generated as schema;

use super::attributes::bytes_of;
use super::extents::decode_chunk_id;
use super::verify::root;
use super::{
    DecodeError, Reply, Request, answer, check, chunk, hello, operation, plain, query, replication, session,
    shard_state, slice,
};
use crate::limits::{CONTROL_BYTES_MAX, MAP_PAGE_BYTES, MAP_PAGES_MAX, MESSAGE_CHUNKS_MAX};
use crate::meta::SessionGrant;
use crate::{FrameKind, MapNumber, SessionId, Status};

impl Request<'_> {
    /// The request in `message`, the message of a request frame of this kind.
    pub fn decode(kind: FrameKind, message: &[u8]) -> Result<Request<'_>, DecodeError> {
        Ok(match kind {
            FrameKind::Hello => Request::Hello(hello::decode_request(root(message)?)?),
            FrameKind::GetMap => {
                let table = root::<schema::GetMapRequest<'_>>(message)?;
                check::that(table.page() < MAP_PAGES_MAX, "page")?;
                Request::GetMap { have: MapNumber(table.have()), page: table.page() }
            }
            FrameKind::PutChunk => Request::PutChunk(chunk::decode_put(root(message)?)?),
            FrameKind::PutFragment => chunk::decode_fragment(root(message)?)?,
            FrameKind::Abort => {
                root::<schema::Empty<'_>>(message)?;
                Request::Abort
            }
            FrameKind::Credit => {
                let table = root::<schema::CreditRequest<'_>>(message)?;
                Request::Credit { class: hello::decode_class(table.hop_class())?, bytes: table.bytes() }
            }
            FrameKind::GetChunk => Request::GetChunk(chunk::decode_get(root(message)?)?),
            FrameKind::DeleteChunks => {
                let (map, ids) = chunk::decode_delete(root(message)?)?;
                Request::DeleteChunks { map, ids }
            }
            FrameKind::Inventory => {
                let table = root::<schema::InventoryRequest<'_>>(message)?;
                let limit = table.limit();
                check::that((1..=MESSAGE_CHUNKS_MAX).contains(&(limit as usize)), "limit")?;
                Request::Inventory { after: table.after().map(decode_chunk_id), limit }
            }
            FrameKind::ShardStatus => {
                root::<schema::Empty<'_>>(message)?;
                Request::ShardStatus
            }
            FrameKind::SliceDigest => slice::decode_digest_request(root(message)?)?,
            FrameKind::SliceChunks => slice::decode_chunks_request(root(message)?)?,
            FrameKind::OfferChunks => slice::decode_offer(root(message)?)?,
            FrameKind::ReportDamage => {
                let table = root::<schema::ReportDamageRequest<'_>>(message)?;
                Request::ReportDamage { id: decode_chunk_id(table.id()), root: table.root() }
            }
            FrameKind::OpenSession => {
                let table = root::<schema::OpenSessionRequest<'_>>(message)?;
                Request::OpenSession { name: hello::short_name(table.name())? }
            }
            FrameKind::KeepAlive => {
                let table = root::<schema::KeepAliveRequest<'_>>(message)?;
                let pins = session::decode_pins(table)?;
                Request::KeepAlive { session: SessionId(table.session()), pins }
            }
            FrameKind::CloseSession => {
                let table = root::<schema::CloseSessionRequest<'_>>(message)?;
                Request::CloseSession { session: SessionId(table.session()) }
            }
            FrameKind::Mutate => Request::Mutate(operation::decode(root(message)?)?),
            FrameKind::Query => Request::Query(query::decode(root(message)?)?),
            FrameKind::Register => Request::Register(Box::new(plain::decode(control_bytes(message)?)?)),
            FrameKind::Heartbeat => Request::Heartbeat(Box::new(plain::decode(control_bytes(message)?)?)),
            FrameKind::MapNews => {
                let (number, update) = control_bytes(message)?
                    .split_first_chunk::<8>()
                    .ok_or(DecodeError::Missing("number of the map"))?;
                Request::MapNews { number: MapNumber(u64::from_le_bytes(*number)), update }
            }
            FrameKind::Raft => Request::Raft(control_bytes(message)?),
            FrameKind::Manage => Request::Manage(Box::new(plain::decode(control_bytes(message)?)?)),
            FrameKind::Replicate => Request::Replicate(replication::decode(root(message)?)?),
        })
    }
}

impl Reply<'_> {
    /// The reply in `message`, the message of a reply frame of this kind and status.
    pub fn decode(kind: FrameKind, status: Status, message: &[u8]) -> Result<Reply<'_>, DecodeError> {
        if kind == FrameKind::Mutate {
            return session::decode_mutate_reply(root(message)?, status);
        }
        if status != Status::Ok {
            return Ok(Reply::Refused(session::decode_refusal(root(message)?)));
        }
        Ok(match kind {
            FrameKind::Hello => Reply::Hello(hello::decode_reply(root(message)?)?),
            FrameKind::GetMap => decode_map(root(message)?)?,
            FrameKind::PutChunk => {
                let table = root::<schema::PutChunkReply<'_>>(message)?;
                Reply::PutChunk { map: MapNumber(table.map()) }
            }
            FrameKind::GetChunk => Reply::GetChunk(chunk::decode_part(root(message)?)?),
            FrameKind::Inventory => {
                let table = root::<schema::InventoryReply<'_>>(message)?;
                let ids = chunk::decode_ids(table.ids())?;
                // A reader goes on after the last id: rising ids mean that it gets to the end.
                let rise = ids.iter().zip(ids.iter().skip(1)).all(|(id, next)| id < next);
                check::that(rise, "order of chunk ids")?;
                Reply::Inventory { ids, end: table.end() }
            }
            FrameKind::ShardStatus => Reply::ShardStatus(Box::new(shard_state::decode(root(message)?)?)),
            FrameKind::SliceDigest => slice::decode_digest_reply(root(message)?)?,
            FrameKind::SliceChunks => slice::decode_chunks_reply(root(message)?)?,
            FrameKind::OpenSession => {
                let table = root::<schema::OpenSessionReply<'_>>(message)?;
                Reply::Session(SessionGrant {
                    session: SessionId(table.session()),
                    ttl_ms: table.ttl_ms(),
                    keepalive_ms: table.keepalive_ms(),
                })
            }
            FrameKind::Query => Reply::Answer(answer::decode(root(message)?)?),
            FrameKind::Register => Reply::Register(Box::new(plain::decode(control_bytes(message)?)?)),
            FrameKind::Heartbeat => Reply::Heartbeat(plain::decode(control_bytes(message)?)?),
            FrameKind::Manage => Reply::Managed(Box::new(plain::decode(control_bytes(message)?)?)),
            FrameKind::DeleteChunks
            | FrameKind::OfferChunks
            | FrameKind::ReportDamage
            | FrameKind::KeepAlive
            | FrameKind::CloseSession => {
                root::<schema::Empty<'_>>(message)?;
                match kind {
                    FrameKind::DeleteChunks => Reply::DeleteChunks,
                    FrameKind::OfferChunks => Reply::OfferChunks,
                    FrameKind::ReportDamage => Reply::ReportDamage,
                    FrameKind::KeepAlive => Reply::KeepAlive,
                    _ => Reply::CloseSession,
                }
            }
            FrameKind::PutFragment
            | FrameKind::Abort
            | FrameKind::Credit
            | FrameKind::Mutate
            | FrameKind::Replicate
            | FrameKind::MapNews
            | FrameKind::Raft => {
                return Err(DecodeError::Invalid("kind of a reply"));
            }
        })
    }
}

/// What a control message holds, in a codec whose version is known here.
fn control_bytes(message: &[u8]) -> Result<&[u8], DecodeError> {
    let table = root::<control_schema::Control<'_>>(message)?;
    let (found, known) = (u16::from(table.version()), u16::from(plain::PLAIN_VERSION));
    if found > known {
        return Err(DecodeError::NewerFormat { what: "a control message", found, known });
    }
    let bytes = bytes_of(table.bytes());
    check::length("control message", bytes.len(), CONTROL_BYTES_MAX)?;
    Ok(bytes)
}

fn decode_map(table: schema::GetMapReply<'_>) -> Result<Reply<'_>, DecodeError> {
    let (page, pages) = (table.page(), table.pages());
    let bytes = bytes_of(table.bytes());
    check::length("pages of the map", pages as usize, MAP_PAGES_MAX as usize)?;
    check::length("page of the map", bytes.len(), MAP_PAGE_BYTES)?;
    let unchanged = pages == 0 && page == 0 && bytes.is_empty();
    check::that(unchanged || (page < pages && !bytes.is_empty()), "page of the map")?;
    Ok(Reply::Map { number: MapNumber(table.number()), page, pages, bytes })
}
