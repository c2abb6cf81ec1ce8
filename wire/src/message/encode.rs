//! From a request or reply to a frame's prefix and message.

use std::fmt;

use flatbuffers::{FlatBufferBuilder, UnionWIPOffset, WIPOffset};
use wire_generated::control_generated as control_schema;
use wire_generated::message_generated as schema;

use super::attributes::optional_bytes;
use super::{
    Reply, Request, answer, chunk, hello, operation, plain, query, replication, session, shard_state, slice,
};
use crate::limits::{CONTROL_BYTES_MAX, MAP_PAGE_BYTES, MESSAGE_CHUNKS_MAX};
use crate::meta::SessionGrant;
use crate::{FrameKind, Load, Prefix, Status};

type Root = WIPOffset<UnionWIPOffset>;

/// What the frame says about the payload that the caller sends behind it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PayloadMeta {
    /// Its length, at most [`PAYLOAD_BYTES_MAX`](crate::limits::PAYLOAD_BYTES_MAX).
    pub bytes: u32,
    /// xxh3-64 of it, or 0 where leaves verify it (R36).
    pub checksum: u64,
}

/// What a request's prefix says beside its kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RequestHead {
    /// Chosen by the sender; the reply carries it back.
    pub correlation: u64,
    /// Milliseconds that the sender still waits; 0: no deadline.
    pub deadline_ms: u32,
}

/// What a reply's prefix says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplyHead {
    /// The request's kind.
    pub kind: FrameKind,
    /// The request's correlation id.
    pub correlation: u64,
    /// `Ok` unless the reply is `Refused` or a failed `Mutate`.
    pub status: Status,
    /// The answering shard's load.
    pub load: Load,
    /// More frames of this reply follow.
    pub more: bool,
}

/// Encodes messages into a buffer of its own that is reused, so that it allocates only while that grows.
#[derive(Default)]
pub struct Encoder {
    builder: FlatBufferBuilder<'static>,
    /// Names of a listing, put together.
    scratch: Vec<u8>,
}

impl fmt::Debug for Encoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Encoder")
    }
}

impl Encoder {
    /// An encoder with a small buffer.
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends prefix and message of a request to `out`; the payload follows from wherever it lies. The request keeps its limits
    /// ([`Mutation::check`](crate::meta::Mutation::check), [`Query::check`](crate::meta::Query::check)).
    pub fn request(
        &mut self,
        out: &mut Vec<u8>,
        head: RequestHead,
        request: &Request<'_>,
        payload: PayloadMeta,
    ) {
        let RequestHead { correlation, deadline_ms } = head;
        self.builder.reset();
        let root = self.request_root(request);
        self.builder.finish_minimal(root);
        self.append(out, Prefix { deadline_ms, ..Prefix::request(request.kind(), correlation) }, payload);
    }

    /// Appends prefix and message of a reply to `out`; the payload follows from wherever it lies. A page of a listing that is too large for
    /// a message is cut, its `end` then false.
    pub fn reply(&mut self, out: &mut Vec<u8>, head: ReplyHead, reply: &Reply<'_>, payload: PayloadMeta) {
        assert!(reply.kind().is_none_or(|kind| kind == head.kind), "the reply is its request's");
        let status_fits = match reply {
            Reply::Mutate(outcome) => outcome.status == head.status,
            Reply::Refused(_) => head.status != Status::Ok,
            _ => head.status == Status::Ok,
        };
        assert!(status_fits, "the status says which reply it is");
        self.builder.reset();
        let root = self.reply_root(head.kind, reply);
        self.builder.finish_minimal(root);
        let prefix = Prefix::reply(head.kind, head.correlation, head.status);
        self.append(out, Prefix { load: head.load, more: head.more, ..prefix }, payload);
    }

    fn append(&mut self, out: &mut Vec<u8>, prefix: Prefix, payload: PayloadMeta) {
        let message = self.builder.finished_data();
        let prefix = Prefix {
            message_bytes: u32::try_from(message.len()).expect("limits of all fields bound a message"),
            payload_bytes: payload.bytes,
            payload_checksum: payload.checksum,
            ..prefix
        };
        out.extend_from_slice(&prefix.encode(message));
        out.extend_from_slice(message);
    }

    fn request_root(&mut self, request: &Request<'_>) -> Root {
        let builder = &mut self.builder;
        match request {
            Request::Hello(message) => hello::encode_request(builder, message).as_union_value(),
            Request::GetMap { have, page } => {
                let args = schema::GetMapRequestArgs { have: have.0, page: *page };
                schema::GetMapRequest::create(builder, &args).as_union_value()
            }
            Request::PutChunk(put) => chunk::encode_put(builder, put).as_union_value(),
            Request::PutFragment { class, offset } => {
                let args = schema::PutFragmentRequestArgs { offset: *offset, hop_class: *class as u8 };
                schema::PutFragmentRequest::create(builder, &args).as_union_value()
            }
            Request::Abort | Request::ShardStatus => empty(builder),
            Request::Credit { class, bytes } => {
                let args = schema::CreditRequestArgs { hop_class: *class as u8, bytes: *bytes };
                schema::CreditRequest::create(builder, &args).as_union_value()
            }
            Request::GetChunk(get) => chunk::encode_get(builder, get).as_union_value(),
            Request::DeleteChunks { map, ids } => chunk::encode_delete(builder, *map, *ids).as_union_value(),
            Request::Inventory { after, limit } => {
                let after = after.map(super::extents::encode_chunk_id);
                let args = schema::InventoryRequestArgs { after: after.as_ref(), limit: *limit };
                schema::InventoryRequest::create(builder, &args).as_union_value()
            }
            Request::SliceDigest { span, limit } => {
                slice::encode_digest_request(builder, span, *limit).as_union_value()
            }
            Request::SliceChunks { span, last, limit } => {
                slice::encode_chunks_request(builder, span, *last, *limit).as_union_value()
            }
            Request::OfferChunks { slice, epoch, chunks } => {
                slice::encode_offer(builder, *slice, *epoch, chunks).as_union_value()
            }
            Request::ReportDamage { id, root } => slice::encode_report(builder, *id, *root).as_union_value(),
            Request::OpenSession { name } => session::encode_open(builder, name).as_union_value(),
            Request::KeepAlive { session, pins } => {
                session::encode_keep_alive(builder, *session, pins).as_union_value()
            }
            Request::CloseSession { session } => {
                let args = schema::CloseSessionRequestArgs { session: session.0 };
                schema::CloseSessionRequest::create(builder, &args).as_union_value()
            }
            Request::Mutate(mutation) => {
                operation::encode(builder, &mut self.scratch, mutation).as_union_value()
            }
            Request::Query(query) => query::encode(builder, query).as_union_value(),
            Request::Register(registration) => control(builder, &plain::encode(&**registration)),
            Request::Heartbeat(heartbeat) => control(builder, &plain::encode(&**heartbeat)),
            Request::MapNews { number, update } => {
                control(builder, &[&number.0.to_le_bytes(), *update].concat())
            }
            Request::Raft(bytes) => control(builder, bytes),
            Request::Manage(command) => control(builder, &plain::encode(&**command)),
            Request::Replicate(message) => replication::encode(builder, message).as_union_value(),
        }
    }

    fn reply_root(&mut self, kind: FrameKind, reply: &Reply<'_>) -> Root {
        let builder = &mut self.builder;
        match reply {
            Reply::Hello(message) => hello::encode_reply(builder, message).as_union_value(),
            Reply::Map { number, page, pages, bytes } => {
                assert!(bytes.len() <= MAP_PAGE_BYTES, "a page keeps its limit");
                let bytes = optional_bytes(builder, bytes);
                let args = schema::GetMapReplyArgs { number: number.0, page: *page, pages: *pages, bytes };
                schema::GetMapReply::create(builder, &args).as_union_value()
            }
            Reply::PutChunk { map } => {
                let args = schema::PutChunkReplyArgs { map: map.0 };
                schema::PutChunkReply::create(builder, &args).as_union_value()
            }
            Reply::GetChunk(part) => chunk::encode_part(builder, part).as_union_value(),
            Reply::DeleteChunks
            | Reply::OfferChunks
            | Reply::ReportDamage
            | Reply::KeepAlive
            | Reply::CloseSession => empty(builder),
            Reply::SliceDigest { ranges, end } => {
                slice::encode_digest_reply(builder, ranges, *end).as_union_value()
            }
            Reply::SliceChunks { chunks, end } => {
                slice::encode_chunks_reply(builder, chunks, *end).as_union_value()
            }
            Reply::Inventory { ids, end } => {
                assert!(ids.len() <= MESSAGE_CHUNKS_MAX, "a page keeps its limit");
                let ids = Some(chunk::encode_ids(builder, *ids));
                let args = schema::InventoryReplyArgs { ids, end: *end };
                schema::InventoryReply::create(builder, &args).as_union_value()
            }
            Reply::ShardStatus(state) => shard_state::encode(builder, state).as_union_value(),
            Reply::Session(grant) => {
                let SessionGrant { session, ttl_ms, keepalive_ms } = *grant;
                let args = schema::OpenSessionReplyArgs { session: session.0, ttl_ms, keepalive_ms };
                schema::OpenSessionReply::create(builder, &args).as_union_value()
            }
            Reply::Mutate(outcome) => session::encode_outcome(builder, outcome).as_union_value(),
            Reply::Answer(answer) => answer::encode(builder, &mut self.scratch, answer).as_union_value(),
            Reply::Register(reply) => control(builder, &plain::encode(&**reply)),
            Reply::Heartbeat(reply) => control(builder, &plain::encode(reply)),
            Reply::Managed(answer) => control(builder, &plain::encode(&**answer)),
            Reply::Refused(refusal) => session::encode_refusal(builder, kind, refusal),
        }
    }
}

fn control(builder: &mut FlatBufferBuilder<'static>, bytes: &[u8]) -> Root {
    assert!(bytes.len() <= CONTROL_BYTES_MAX, "a control message keeps its limit");
    let bytes = Some(builder.create_vector(bytes));
    let args = control_schema::ControlArgs { version: plain::PLAIN_VERSION, bytes };
    control_schema::Control::create(builder, &args).as_union_value()
}

fn empty(builder: &mut FlatBufferBuilder<'static>) -> Root {
    schema::Empty::create(builder, &schema::EmptyArgs {}).as_union_value()
}
