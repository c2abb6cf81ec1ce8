//! What goes into the core and what comes out of it.

use std::ops::Range;
use std::sync::Arc;

use placement::ClusterMap;
use wire::message::ShardState;
use wire::meta::{Answer, Operation, Outcome, Pin, Query};
use wire::{ChunkId, GroupId, MapNumber, Nanos, Prefix, Slot, Status, Version};

use crate::error::UnavailableReason;

/// The caller's name for one call; comes back with its result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub u64);

/// A connection. Chosen by the core, never used again after its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinkNumber(pub u64);

/// An upload that is under way: the scope of its chunks' ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UploadId(pub u64);

/// A read that is under way: what keeps its version alive when it lasts long (R25).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReadId(pub u64);

/// What a caller wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Call {
    /// The cluster map.
    Map,
    /// A read of the namespace.
    Query {
        /// Of which group.
        group: GroupId,
        /// What.
        query: Box<Query>,
    },
    /// A mutation, executed at most once (I7).
    Mutate {
        /// By which group.
        group: GroupId,
        /// The upload that it belongs to: it goes into that upload's session. `None`: into the present one.
        upload: Option<UploadId>,
        /// What.
        operation: Box<Operation>,
    },
    /// Begins an upload in the present session, which it keeps (R21).
    OpenUpload {
        /// The group of the file's volume.
        group: GroupId,
    },
    /// Stores a chunk of an upload under a new id.
    PutChunk {
        /// The upload.
        upload: UploadId,
        /// Holds the bytes from its beginning. One reference goes to the core, which gives it back when the call is finished.
        slot: Slot,
        /// How many bytes, 1 to the slot's capacity.
        length: u32,
    },
    /// Reads bytes of a chunk.
    GetChunk(GetCall),
    /// Begins a read of a version.
    OpenRead {
        /// The group of the file's volume.
        group: GroupId,
        /// What is read.
        pin: Pin,
    },
    /// Asks a shard for its state.
    ShardState {
        /// Its address.
        address: Arc<str>,
    },
}

/// Which bytes of a chunk are wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GetCall {
    /// The chunk.
    pub id: ChunkId,
    /// Its length.
    pub length: u32,
    /// Its root checksum, as the metadata holds it.
    pub root: u64,
    /// The bytes wanted, not empty and inside the chunk.
    pub range: Range<u32>,
    /// Only this replica, counted from the head; `None`: whichever is best.
    pub replica: Option<u8>,
}

/// A call's result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Done {
    /// To `Map`.
    Map(Arc<ClusterMap>),
    /// To `Query`.
    Answer(Box<Answer>),
    /// To `Mutate`: executed, with this result; its status may be a failure.
    Outcome(Box<Outcome>),
    /// To `OpenUpload`.
    Upload {
        /// The upload.
        upload: UploadId,
        /// Its number in its session, which `Stage` and `Commit` name.
        number: u64,
    },
    /// To `PutChunk`: durable at every member of its chain's epoch (I2).
    Chunk {
        /// The id that it got.
        id: ChunkId,
        /// Its root.
        root: u64,
        /// The map under which it was acked (R8).
        map: MapNumber,
    },
    /// To `GetChunk`: verified bytes (I11). One reference to the slot goes to the caller.
    Bytes {
        /// Holds them.
        slot: Slot,
        /// The first one's place in the slot.
        offset: u32,
        /// How many.
        length: u32,
        /// Who sent them.
        address: Arc<str>,
    },
    /// To `OpenRead`.
    Read(ReadId),
    /// To `ShardState`.
    ShardState(Box<ShardState>),
}

/// Why a call failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// Refused, and trying again would not help. Nothing was executed.
    Refused {
        /// Why.
        status: Status,
        /// How many components of the path were resolved.
        depth: u16,
        /// The version that is there.
        version: Version,
        /// Who said so.
        address: Arc<str>,
    },
    /// At a limit until the deadline. Nothing was executed.
    Busy {
        /// Who said so.
        address: Arc<str>,
    },
    /// Not to be reached until the deadline. Nothing was executed.
    Unavailable {
        /// Who.
        address: Arc<str>,
        /// Why.
        reason: UnavailableReason,
    },
    /// No answer until the deadline. Nothing was executed that changes anything.
    Timeout {
        /// From whom.
        address: Arc<str>,
    },
    /// A mutation that was sent and not answered: executed or not (R14).
    Unknown,
    /// The upload's session is closed. Nothing of it was or will be executed.
    SessionExpired,
    /// No replica that was asked has the chunk.
    Missing {
        /// The last one asked.
        address: Arc<str>,
    },
    /// No replica that was asked returned bytes that match the root.
    Corrupt {
        /// The last one asked.
        address: Arc<str>,
    },
    /// The store holds other bytes under the chunk's id (R4). Nothing was stored.
    IdTaken {
        /// The chunk.
        chunk: ChunkId,
        /// Who has it.
        address: Arc<str>,
    },
    /// More chunks than an upload may have.
    TooLarge,
}

/// What happened.
#[derive(Debug)]
pub enum Event<'a> {
    /// A caller wants something.
    Call {
        /// The caller's name for it, not in use.
        ticket: Ticket,
        /// What.
        call: Call,
        /// Nanoseconds until it fails.
        patience: u64,
    },
    /// A caller lost interest. What was not sent is not sent any more; a mutation that was sent takes its course.
    Cancel {
        /// In what.
        ticket: Ticket,
    },
    /// An upload is over, committed or not.
    CloseUpload(UploadId),
    /// A read is over.
    CloseRead(ReadId),
    /// The client ends: sessions are closed as far as that can be done without waiting.
    Shutdown,
    /// A connection stands.
    LinkUp(LinkNumber),
    /// A connection ended or didn't come about. Not sent for links that the core closed.
    LinkDown {
        /// Which.
        link: LinkNumber,
        /// Why.
        reason: UnavailableReason,
    },
    /// A frame's head arrived whole, with the right checksum; its payload follows to where the answer says.
    Head {
        /// Where.
        link: LinkNumber,
        /// Its prefix.
        prefix: &'a Prefix,
        /// Its message.
        message: &'a [u8],
    },
    /// The payload of the link's last head is in its place.
    Payload(LinkNumber),
    /// The time that was armed has come.
    Tick,
}

/// Where a frame's payload goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PayloadPlace {
    /// The frame has none.
    None,
    /// Into this slot from `offset` on.
    Into {
        /// The buffer.
        slot: Slot,
        /// First byte in it.
        offset: u32,
    },
    /// Nobody wants it: `Payload` isn't sent for it.
    Discard,
    /// The frame is against the protocol; the core has closed the link.
    Close,
}

/// A part of a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlotPart {
    /// The buffer.
    pub slot: Slot,
    /// First byte in it.
    pub offset: u32,
    /// Bytes.
    pub length: u32,
}

/// What the driver is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Connect to `address`; `LinkUp` or `LinkDown` follows.
    Connect {
        /// The new connection.
        link: LinkNumber,
        /// `host:port`.
        address: Arc<str>,
    },
    /// Send a frame. The driver holds a reference to the payload's slot until it is sent.
    Send {
        /// Where.
        link: LinkNumber,
        /// Prefix and message, in [`Effects::head`].
        head: HeadRange,
        /// The payload.
        payload: Option<SlotPart>,
    },
    /// Close a connection. Nothing more comes from it.
    Close {
        /// Which.
        link: LinkNumber,
    },
    /// Send a `Tick` at this time (not before); replaces the one armed before.
    Arm(Nanos),
    /// A call is finished.
    Finished {
        /// Which.
        ticket: Ticket,
        /// How.
        result: Result<Done, Failure>,
    },
}

const _: () = assert!(size_of::<Effect>() <= 64);

/// Where a frame's head lies in the effects' buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeadRange {
    start: u32,
    length: u32,
}

/// Effects of one event, in order; owned by the driver and reused.
#[derive(Debug, Default)]
pub struct Effects {
    list: Vec<Effect>,
    heads: Vec<u8>,
}

impl Effects {
    /// None.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the effects out, in order. Their heads stay until [`clear`](Self::clear).
    pub fn take(&mut self) -> Vec<Effect> {
        std::mem::take(&mut self.list)
    }

    /// Prefix and message of a `Send`.
    pub fn head(&self, head: HeadRange) -> &[u8] {
        &self.heads[head.start as usize..(head.start + head.length) as usize]
    }

    /// Forgets everything; `list` is the emptied vector from [`take`](Self::take), for its memory.
    pub fn clear(&mut self, mut list: Vec<Effect>) {
        list.clear();
        self.list = list;
        self.heads.clear();
        // A large commit's message must not stay for ever.
        self.heads.shrink_to(HEAD_BYTES_KEPT);
    }

    pub(super) fn push(&mut self, effect: Effect) {
        self.list.push(effect);
    }

    /// Adds a frame whose head `encode` appends to the buffer.
    pub(super) fn push_frame(
        &mut self,
        link: LinkNumber,
        payload: Option<SlotPart>,
        encode: impl FnOnce(&mut Vec<u8>),
    ) {
        let start = self.heads.len();
        encode(&mut self.heads);
        let place = |at: usize| u32::try_from(at).expect("heads of one event are far below 4 GiB");
        let head = HeadRange { start: place(start), length: place(self.heads.len() - start) };
        self.list.push(Effect::Send { link, head, payload });
    }
}

/// Bytes that the buffer of heads keeps between events: several small requests and one chunk's leaves.
const HEAD_BYTES_KEPT: usize = 64 << 10;
