//! Messages: what stands between a frame's prefix and its payload. One FlatBuffers table each, encoded and decoded here only.
//!
//! Decoding verifies a message once (depth, tables, size within their limits), then checks each field's meaning: whatever comes out of
//! [`Request::decode`] and [`Reply::decode`] keeps every limit of [`limits`](crate::limits). It returns an error, never a panic, for any bytes, and
//! allocates at most a small multiple of the message's length; the data plane's messages are read in place and allocate nothing.
//! Fields that this version doesn't know are ignored.

mod answer;
mod attributes;
mod check;
mod chunk;
mod decode;
mod encode;
mod error;
mod extents;
mod hello;
mod operation;
mod plain;
mod query;
mod replication;
mod session;
mod shard_state;
mod slice;
mod verify;
mod words;

pub use chunk::{ChunkPart, GetChunk, PutChunk};
pub use encode::{Encoder, PayloadMeta, ReplyHead, RequestHead};
pub use error::DecodeError;
pub use extents::check_extents;
pub use hello::{FEATURES, Hello, HelloReply, HopClass, Role};
pub use replication::{Entries, Page, Progress, Replication, Subscribe, Term};
pub use shard_state::{ShardState, StoreCondition};
pub use slice::{ChunkRecord, SliceRange, SliceSpan};
pub use words::{ChunkIds, Leaves, Words};

use crate::control;
use crate::meta::{Answer, Mutation, Outcome, Pin, Query, Refusal, SessionGrant};
use crate::{ChunkId, Epoch, FrameKind, MapNumber, SessionId, SliceIndex};

/// What a frame asks for: one variant for each [`FrameKind`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request<'a> {
    /// First frame of a connection.
    Hello(Hello),
    /// A page of the cluster map, unless the sender has the newest one.
    GetMap {
        /// The number of the map that the sender has; 0: none.
        have: MapNumber,
        /// The page, from 0.
        page: u32,
    },
    /// The first fragment of a chunk.
    PutChunk(PutChunk<'a>),
    /// A later fragment of the chunk whose put has the frame's correlation id.
    PutFragment {
        /// Whose buffers it takes, as its chunk's head said: the receiver may have forgotten the chunk.
        class: HopClass,
        /// Where the frame's payload begins in the chunk.
        offset: u32,
    },
    /// Ends the unfinished put with the frame's correlation id. Has no reply.
    Abort,
    /// The receiver may send so many more bytes of this class (R38). Sent by the side that owns the buffers; has no reply.
    Credit {
        /// Whose buffers.
        class: HopClass,
        /// Payload bytes.
        bytes: u32,
    },
    /// Blocks of a chunk.
    GetChunk(GetChunk),
    /// Deletes reclaimed chunks (R24).
    DeleteChunks {
        /// Number of the sender's cluster map; 0: the chunks are orphans, which go from whichever store has them, and the answer says nothing of others.
        map: MapNumber,
        /// At most [`MESSAGE_CHUNKS_MAX`](crate::limits::MESSAGE_CHUNKS_MAX).
        ids: ChunkIds<'a>,
    },
    /// A page of the ids that the store holds.
    Inventory {
        /// The last id of the page before; `None`: from the beginning.
        after: Option<ChunkId>,
        /// Ids wanted, 1 to [`MESSAGE_CHUNKS_MAX`](crate::limits::MESSAGE_CHUNKS_MAX).
        limit: u32,
    },
    /// Space, counts and health of the shard.
    ShardStatus,
    /// Digests of a slice's chunks behind `after`, in ranges of their ids (R3).
    SliceDigest {
        /// Which chunks.
        span: SliceSpan,
        /// Ranges wanted, 1 to [`MESSAGE_CHUNKS_MAX`](crate::limits::MESSAGE_CHUNKS_MAX).
        limit: u32,
    },
    /// A page of a slice's chunks.
    SliceChunks {
        /// Which chunks.
        span: SliceSpan,
        /// The last id that is wanted.
        last: ChunkId,
        /// Chunks wanted, 1 to [`MESSAGE_CHUNKS_MAX`](crate::limits::MESSAGE_CHUNKS_MAX).
        limit: u32,
    },
    /// The sender holds these, the receiver doesn't, and the group says that they live (R2).
    OfferChunks {
        /// Their slice.
        slice: SliceIndex,
        /// Its epoch in the sender's map.
        epoch: Epoch,
        /// In order of their ids, at most [`MESSAGE_CHUNKS_MAX`](crate::limits::MESSAGE_CHUNKS_MAX).
        chunks: Vec<ChunkRecord>,
    },
    /// A reader didn't get the chunk, or not its bytes, from this replica (R10).
    ReportDamage {
        /// The chunk.
        id: ChunkId,
        /// Its root, as the reader knows it from the metadata.
        root: u64,
    },
    /// Opens a session.
    OpenSession {
        /// Who, for logs and the session's listing: at most [`HELLO_NAME_BYTES_MAX`](crate::limits::HELLO_NAME_BYTES_MAX) bytes.
        name: String,
    },
    /// Keeps a session alive, and what it pins: the pins replace those of the keepalive before (R25).
    KeepAlive {
        /// Which.
        session: SessionId,
        /// At most [`SESSION_PINS_MAX`](crate::limits::SESSION_PINS_MAX).
        pins: Vec<Pin>,
    },
    /// Closes a session.
    CloseSession {
        /// Which.
        session: SessionId,
    },
    /// A mutating operation, exactly once.
    Mutate(Mutation),
    /// A read of the namespace.
    Query(Query),
    /// Between members of a group's chain; has no reply.
    Replicate(Replication<&'a [u8]>),
    /// A node introduces itself.
    Register(Box<control::Registration>),
    /// A node lives.
    Heartbeat(Box<control::Heartbeat>),
    /// There is a new map. Has no reply.
    MapNews {
        /// Its number.
        number: MapNumber,
        /// The bytes of a whole map or of a delta, where they are few; empty: ask for it.
        update: &'a [u8],
    },
    /// Between voters: a message in the codec of `meta/control`, at most [`CONTROL_BYTES_MAX`](crate::limits::CONTROL_BYTES_MAX). Has no reply.
    Raft(&'a [u8]),
    /// An operator's command.
    Manage(Box<control::Command>),
}

/// What answers a request. `Ok` replies have their request's variant; all other statuses have `Refused`, except that a mutation that
/// was executed and failed has `Mutate`, with its recorded outcome.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply<'a> {
    /// To `Hello`.
    Hello(HelloReply),
    /// To `GetMap`.
    Map {
        /// The number of the map that this is a page of.
        number: MapNumber,
        /// The page, from 0.
        page: u32,
        /// How many pages there are; 0: the sender has this map already.
        pages: u32,
        /// The page: at most [`MAP_PAGE_BYTES`](crate::limits::MAP_PAGE_BYTES) of the encoded [`Map`](crate::map::Map).
        bytes: &'a [u8],
    },
    /// To `PutChunk`: durable at every member of the epoch (I2).
    PutChunk {
        /// The map under which it was acked; the lowest of a commit's chunks goes into the commit (R8).
        map: MapNumber,
    },
    /// To `GetChunk`.
    GetChunk(ChunkPart<'a>),
    /// To `DeleteChunks`: all are gone, durably.
    DeleteChunks,
    /// To `Inventory`.
    Inventory {
        /// The page.
        ids: ChunkIds<'a>,
        /// Whether no page follows.
        end: bool,
    },
    /// To `ShardStatus`.
    ShardStatus(Box<ShardState>),
    /// To `SliceDigest`.
    SliceDigest {
        /// The ranges follow each other; the last one of the slice ends at [`ChunkId::MAX`].
        ranges: Vec<SliceRange>,
        /// Whether none follow.
        end: bool,
    },
    /// To `SliceChunks`.
    SliceChunks {
        /// In order of their ids.
        chunks: Vec<ChunkRecord>,
        /// Whether none follow up to the last id that was asked for.
        end: bool,
    },
    /// To `OfferChunks`: they will be looked at.
    OfferChunks,
    /// To `ReportDamage`: it will be looked at.
    ReportDamage,
    /// To `OpenSession`.
    Session(SessionGrant),
    /// To `KeepAlive`.
    KeepAlive,
    /// To `CloseSession`.
    CloseSession,
    /// To `Mutate`: executed; the outcome's status is the prefix's.
    Mutate(Outcome),
    /// To `Query`.
    Answer(Answer),
    /// To `Register`.
    Register(Box<control::Led<control::RegistrationReply>>),
    /// To `Heartbeat`.
    Heartbeat(control::Led<control::HeartbeatReply>),
    /// To `Manage`; who doesn't lead refuses with that.
    Managed(Box<control::Answer>),
    /// To anything: not executed, or failed, as the prefix's status says.
    Refused(Refusal),
}

impl Request<'_> {
    /// The kind of the frame that carries this.
    pub fn kind(&self) -> FrameKind {
        match self {
            Self::Hello(_) => FrameKind::Hello,
            Self::GetMap { .. } => FrameKind::GetMap,
            Self::PutChunk(_) => FrameKind::PutChunk,
            Self::PutFragment { .. } => FrameKind::PutFragment,
            Self::Abort => FrameKind::Abort,
            Self::Credit { .. } => FrameKind::Credit,
            Self::GetChunk(_) => FrameKind::GetChunk,
            Self::DeleteChunks { .. } => FrameKind::DeleteChunks,
            Self::Inventory { .. } => FrameKind::Inventory,
            Self::ShardStatus => FrameKind::ShardStatus,
            Self::SliceDigest { .. } => FrameKind::SliceDigest,
            Self::SliceChunks { .. } => FrameKind::SliceChunks,
            Self::OfferChunks { .. } => FrameKind::OfferChunks,
            Self::ReportDamage { .. } => FrameKind::ReportDamage,
            Self::OpenSession { .. } => FrameKind::OpenSession,
            Self::KeepAlive { .. } => FrameKind::KeepAlive,
            Self::CloseSession { .. } => FrameKind::CloseSession,
            Self::Mutate(_) => FrameKind::Mutate,
            Self::Query(_) => FrameKind::Query,
            Self::Replicate(_) => FrameKind::Replicate,
            Self::Register(_) => FrameKind::Register,
            Self::Heartbeat(_) => FrameKind::Heartbeat,
            Self::MapNews { .. } => FrameKind::MapNews,
            Self::Raft(_) => FrameKind::Raft,
            Self::Manage(_) => FrameKind::Manage,
        }
    }
}

impl Reply<'_> {
    /// The kind of the request that this answers; `None` for `Refused`, which answers any.
    pub fn kind(&self) -> Option<FrameKind> {
        Some(match self {
            Self::Hello(_) => FrameKind::Hello,
            Self::Map { .. } => FrameKind::GetMap,
            Self::PutChunk { .. } => FrameKind::PutChunk,
            Self::GetChunk(_) => FrameKind::GetChunk,
            Self::DeleteChunks => FrameKind::DeleteChunks,
            Self::Inventory { .. } => FrameKind::Inventory,
            Self::ShardStatus(_) => FrameKind::ShardStatus,
            Self::SliceDigest { .. } => FrameKind::SliceDigest,
            Self::SliceChunks { .. } => FrameKind::SliceChunks,
            Self::OfferChunks => FrameKind::OfferChunks,
            Self::ReportDamage => FrameKind::ReportDamage,
            Self::Session(_) => FrameKind::OpenSession,
            Self::KeepAlive => FrameKind::KeepAlive,
            Self::CloseSession => FrameKind::CloseSession,
            Self::Mutate(_) => FrameKind::Mutate,
            Self::Answer(_) => FrameKind::Query,
            Self::Register(_) => FrameKind::Register,
            Self::Heartbeat(_) => FrameKind::Heartbeat,
            Self::Managed(_) => FrameKind::Manage,
            Self::Refused(_) => return None,
        })
    }
}
