//! The frame: one wire unit, a fixed prefix + one FlatBuffers message + raw payload.
//!
//! ```text
//! offset size
//!   0     4   magic            "CTNA"
//!   4     2   protocol version
//!   6     2   kind             FrameKind
//!   8     2   flags            bit 0: reply; bit 1: more frames of this reply follow
//!  10     2   status           replies; 0 in requests
//!  12     4   message length   bytes of the FlatBuffers message, ≤ 1 MiB
//!  16     8   correlation id   a reply carries its request's
//!  24     4   payload length   bytes after the message, ≤ 256 KiB
//!  28     4   deadline | load  requests: milliseconds left, 0 = none; replies: queue depth u16, service time in 8 µs units u16
//!  32    16   capability       reserved (R28), zero
//!  48     8   payload checksum xxh3-64; 0 where leaves verify the payload (R36)
//!  56     8   head checksum    xxh3-64 of bytes 0..56 and the message
//!  64         message, then payload
//! ```
//! All integers are little-endian.

use thiserror::Error;
use xxhash_rust::xxh3::Xxh3Default;

use crate::Status;
use crate::limits::{MESSAGE_BYTES_MAX, PAYLOAD_BYTES_MAX};

/// Bytes of the fixed prefix.
pub const PREFIX_BYTES: usize = 64;
/// The version that this build speaks.
pub const PROTOCOL_VERSION: u16 = 1;
/// The oldest version that this build speaks.
pub const PROTOCOL_VERSION_MIN: u16 = 1;
const MAGIC: u32 = u32::from_le_bytes(*b"CTNA");
const FLAG_REPLY: u16 = 1;
const FLAG_MORE: u16 = 2;

const OFFSET_VERSION: usize = 4;
const OFFSET_KIND: usize = OFFSET_VERSION + 2;
const OFFSET_FLAGS: usize = OFFSET_KIND + 2;
const OFFSET_STATUS: usize = OFFSET_FLAGS + 2;
const OFFSET_MESSAGE_BYTES: usize = OFFSET_STATUS + 2;
const OFFSET_CORRELATION: usize = OFFSET_MESSAGE_BYTES + 4;
const OFFSET_PAYLOAD_BYTES: usize = OFFSET_CORRELATION + 8;
const OFFSET_DEADLINE_OR_LOAD: usize = OFFSET_PAYLOAD_BYTES + 4;
const OFFSET_CAPABILITY: usize = OFFSET_DEADLINE_OR_LOAD + 4;
const OFFSET_PAYLOAD_CHECKSUM: usize = OFFSET_CAPABILITY + 16;
const OFFSET_HEAD_CHECKSUM: usize = OFFSET_PAYLOAD_CHECKSUM + 8;
const _: () = assert!(OFFSET_HEAD_CHECKSUM + 8 == PREFIX_BYTES);

macro_rules! frame_kinds {
    ($($(#[$doc:meta])* $name:ident = $code:literal;)*) => {
        /// What a frame's message is. A reply has its request's kind.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u16)]
        pub enum FrameKind { $($(#[$doc])* $name = $code,)* }

        impl FrameKind {
            /// Every kind, in the order of the codes.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The kind with this code; `None` for one that this version doesn't know.
            pub fn from_code(code: u16) -> Option<Self> {
                match code { $($code => Some(Self::$name),)* _ => None }
            }
        }
    };
}

frame_kinds! {
    /// First frame of a connection: versions, features, cluster. Any port.
    Hello = 1;
    /// The cluster map, in pages. Any port.
    GetMap = 2;
    /// First fragment of a chunk: id, length, root, all leaves; further fragments have its correlation id. Shard port.
    PutChunk = 16;
    /// A later fragment of a chunk.
    PutFragment = 17;
    /// Ends an unfinished put; has no reply of its own.
    Abort = 18;
    /// Bytes of chunk payload that the receiver of this frame may now send, beyond what it was granted before; no reply. The sender of
    /// puts starts with the credit in `HelloReply`, spends a fragment's payload bytes when it sends it, and gets bytes back by this
    /// frame alone. The receiver may collect up to a quarter of the initial credit before it sends one.
    Credit = 19;
    /// Blocks of a chunk.
    GetChunk = 20;
    /// Deletes chunks that the group's log has reclaimed (R24).
    DeleteChunks = 21;
    /// A page of the ids that a store holds, for the orphan pass.
    Inventory = 22;
    /// Space, counts and health of a shard.
    ShardStatus = 23;
    /// Digests of a slice's chunks in ranges of their ids: what a joiner compares with its own (R3).
    SliceDigest = 24;
    /// A page of a slice's chunks, each with length and root.
    SliceChunks = 25;
    /// The sender holds chunks that the receiver lacks, and the group says that they live (R2).
    OfferChunks = 26;
    /// A reader's hint that a replica that serves a chunk hasn't got it, or not its bytes (R10).
    ReportDamage = 27;
    /// Opens a session with the group. Metadata port, as all that follow.
    OpenSession = 32;
    /// Keeps a session and its pins alive.
    KeepAlive = 33;
    /// Closes a session.
    CloseSession = 34;
    /// A mutating operation, exactly once.
    Mutate = 35;
    /// A read of the namespace.
    Query = 36;
    /// What members of a group's chain say to each other; no reply. Metadata port, from whom greeted as a log.
    Replicate = 37;
    /// A node introduces itself to the control group, once for each life of its process. Control port, as all that follow.
    Register = 48;
    /// A node says that it lives, what it follows and what it has seen.
    Heartbeat = 49;
    /// The leader tells a node of a new map, over the connection on which the node sends heartbeats; no reply.
    MapNews = 50;
    /// Between voters; no reply.
    Raft = 51;
    /// An operator's command.
    Manage = 52;
}

/// Load of the answering shard, in every reply.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Load {
    /// Requests waiting or in execution.
    pub queue_depth: u16,
    /// Moving average of the service time, in units of 8 µs (up to 0.52 s).
    pub service_time: u16,
}

/// A frame's prefix, decoded and checked for shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Prefix {
    /// What the message is.
    pub kind: FrameKind,
    /// Whether this is a reply.
    pub reply: bool,
    /// Whether more frames of the same reply follow.
    pub more: bool,
    /// A reply's status; `Ok` in requests.
    pub status: Status,
    /// A reply carries its request's.
    pub correlation: u64,
    /// Bytes of the message.
    pub message_bytes: u32,
    /// Bytes of the payload.
    pub payload_bytes: u32,
    /// Requests: milliseconds that the sender still waits, 0 = no deadline. Replies: 0.
    pub deadline_ms: u32,
    /// Replies: the shard's load.
    pub load: Load,
    /// Reserved (R28).
    pub capability: [u8; 16],
    /// xxh3-64 of the payload, or 0 where leaves verify it.
    pub payload_checksum: u64,
}

/// Why 64 bytes are not a frame's prefix. The connection can't be resynchronized: close it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum DecodePrefixError {
    /// Not our protocol.
    #[error("not a Catena frame (magic {0:#010x})")]
    Magic(u32),
    /// Another protocol version; the receiver answers with its own in a `Hello`.
    #[error("protocol version {found} isn't spoken here (this is {})", PROTOCOL_VERSION)]
    Version {
        /// The frame's version.
        found: u16,
    },
    /// A kind that this version doesn't know.
    #[error("unknown frame kind {0}")]
    Kind(u16),
    /// A status that this version doesn't know.
    #[error("unknown status {0}")]
    Status(u16),
    /// Flags that this version doesn't know.
    #[error("unknown flags {0:#06x}")]
    Flags(u16),
    /// The message is over its limit.
    #[error("message of {0} bytes is over the limit of {MESSAGE_BYTES_MAX}")]
    MessageBytes(u32),
    /// The payload is over its limit.
    #[error("payload of {0} bytes is over the limit of {PAYLOAD_BYTES_MAX}")]
    PayloadBytes(u32),
    /// Prefix or message were damaged on the way.
    #[error("head checksum doesn't match")]
    HeadChecksum,
}

impl Prefix {
    /// A request's prefix without message and payload; the fields are public.
    pub fn request(kind: FrameKind, correlation: u64) -> Self {
        Self {
            kind,
            reply: false,
            more: false,
            status: Status::Ok,
            correlation,
            message_bytes: 0,
            payload_bytes: 0,
            deadline_ms: 0,
            load: Load::default(),
            capability: [0; 16],
            payload_checksum: 0,
        }
    }

    /// A reply's prefix without message and payload.
    pub fn reply(kind: FrameKind, correlation: u64, status: Status) -> Self {
        Self { reply: true, status, ..Self::request(kind, correlation) }
    }

    /// The 64 bytes, with the checksum over them and `message`, whose length must be `message_bytes`.
    pub fn encode(&self, message: &[u8]) -> [u8; PREFIX_BYTES] {
        assert_eq!(self.message_bytes as usize, message.len());
        assert!(message.len() <= MESSAGE_BYTES_MAX && self.payload_bytes as usize <= PAYLOAD_BYTES_MAX);
        let mut bytes = [0; PREFIX_BYTES];
        let flags = if self.reply { FLAG_REPLY } else { 0 } | if self.more { FLAG_MORE } else { 0 };
        bytes[..OFFSET_VERSION].copy_from_slice(&MAGIC.to_le_bytes());
        bytes[OFFSET_VERSION..OFFSET_KIND].copy_from_slice(&PROTOCOL_VERSION.to_le_bytes());
        bytes[OFFSET_KIND..OFFSET_FLAGS].copy_from_slice(&(self.kind as u16).to_le_bytes());
        bytes[OFFSET_FLAGS..OFFSET_STATUS].copy_from_slice(&flags.to_le_bytes());
        bytes[OFFSET_STATUS..OFFSET_MESSAGE_BYTES].copy_from_slice(&self.status.code().to_le_bytes());
        bytes[OFFSET_MESSAGE_BYTES..OFFSET_CORRELATION].copy_from_slice(&self.message_bytes.to_le_bytes());
        bytes[OFFSET_CORRELATION..OFFSET_PAYLOAD_BYTES].copy_from_slice(&self.correlation.to_le_bytes());
        bytes[OFFSET_PAYLOAD_BYTES..OFFSET_DEADLINE_OR_LOAD]
            .copy_from_slice(&self.payload_bytes.to_le_bytes());
        let word = if self.reply {
            u32::from(self.load.queue_depth) | u32::from(self.load.service_time) << 16
        } else {
            self.deadline_ms
        };
        bytes[OFFSET_DEADLINE_OR_LOAD..OFFSET_CAPABILITY].copy_from_slice(&word.to_le_bytes());
        bytes[OFFSET_CAPABILITY..OFFSET_PAYLOAD_CHECKSUM].copy_from_slice(&self.capability);
        bytes[OFFSET_PAYLOAD_CHECKSUM..OFFSET_HEAD_CHECKSUM]
            .copy_from_slice(&self.payload_checksum.to_le_bytes());
        let checksum = head_checksum(&bytes, message);
        bytes[OFFSET_HEAD_CHECKSUM..].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    /// The prefix in these bytes; its lengths are within their limits. [`verify`](Self::verify) follows once the message is there.
    pub fn decode(bytes: &[u8; PREFIX_BYTES]) -> Result<Self, DecodePrefixError> {
        let magic = u32::from_le_bytes(field(bytes, 0));
        if magic != MAGIC {
            return Err(DecodePrefixError::Magic(magic));
        }
        let version = u16::from_le_bytes(field(bytes, OFFSET_VERSION));
        if version != PROTOCOL_VERSION {
            return Err(DecodePrefixError::Version { found: version });
        }
        let kind = u16::from_le_bytes(field(bytes, OFFSET_KIND));
        let kind = FrameKind::from_code(kind).ok_or(DecodePrefixError::Kind(kind))?;
        let flags = u16::from_le_bytes(field(bytes, OFFSET_FLAGS));
        if flags & !(FLAG_REPLY | FLAG_MORE) != 0 {
            return Err(DecodePrefixError::Flags(flags));
        }
        let status = u16::from_le_bytes(field(bytes, OFFSET_STATUS));
        let status = Status::from_code(status).ok_or(DecodePrefixError::Status(status))?;
        let message_bytes = u32::from_le_bytes(field(bytes, OFFSET_MESSAGE_BYTES));
        if message_bytes as usize > MESSAGE_BYTES_MAX {
            return Err(DecodePrefixError::MessageBytes(message_bytes));
        }
        let payload_bytes = u32::from_le_bytes(field(bytes, OFFSET_PAYLOAD_BYTES));
        if payload_bytes as usize > PAYLOAD_BYTES_MAX {
            return Err(DecodePrefixError::PayloadBytes(payload_bytes));
        }
        let reply = flags & FLAG_REPLY != 0;
        let word = u32::from_le_bytes(field(bytes, OFFSET_DEADLINE_OR_LOAD));
        let [q0, q1, s0, s1] = word.to_le_bytes();
        let load =
            Load { queue_depth: u16::from_le_bytes([q0, q1]), service_time: u16::from_le_bytes([s0, s1]) };
        Ok(Self {
            kind,
            reply,
            more: flags & FLAG_MORE != 0,
            status,
            correlation: u64::from_le_bytes(field(bytes, OFFSET_CORRELATION)),
            message_bytes,
            payload_bytes,
            deadline_ms: if reply { 0 } else { word },
            load: if reply { load } else { Load::default() },
            capability: field(bytes, OFFSET_CAPABILITY),
            payload_checksum: u64::from_le_bytes(field(bytes, OFFSET_PAYLOAD_CHECKSUM)),
        })
    }

    /// Whether prefix and message arrived as they were sent.
    pub fn verify(bytes: &[u8; PREFIX_BYTES], message: &[u8]) -> Result<(), DecodePrefixError> {
        let expected = u64::from_le_bytes(field(bytes, OFFSET_HEAD_CHECKSUM));
        if head_checksum(bytes, message) == expected { Ok(()) } else { Err(DecodePrefixError::HeadChecksum) }
    }
}

fn field<const N: usize>(bytes: &[u8; PREFIX_BYTES], offset: usize) -> [u8; N] {
    bytes[offset..offset + N].try_into().expect("inside the prefix")
}

fn head_checksum(prefix: &[u8; PREFIX_BYTES], message: &[u8]) -> u64 {
    let mut hash = Xxh3Default::new();
    hash.update(&prefix[..OFFSET_HEAD_CHECKSUM]);
    hash.update(message);
    hash.digest()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Prefix {
        Prefix {
            message_bytes: 5,
            payload_bytes: 4096,
            deadline_ms: 1500,
            payload_checksum: 7,
            ..Prefix::request(FrameKind::PutChunk, 0x0102_0304_0506_0708)
        }
    }

    #[test]
    fn round_trip() {
        for prefix in [
            sample(),
            Prefix {
                load: Load { queue_depth: 3, service_time: 9 },
                more: true,
                message_bytes: 5,
                ..Prefix::reply(FrameKind::GetChunk, 9, Status::NotFound)
            },
        ] {
            let bytes = prefix.encode(b"hello");
            assert_eq!(Prefix::decode(&bytes), Ok(prefix));
            assert_eq!(Prefix::verify(&bytes, b"hello"), Ok(()));
            assert_eq!(Prefix::verify(&bytes, b"hellO"), Err(DecodePrefixError::HeadChecksum));
        }
    }

    #[test]
    fn another_version_is_refused_by_name() {
        let mut bytes = sample().encode(b"hello");
        bytes[OFFSET_VERSION] = 2;
        let error = Prefix::decode(&bytes).expect_err("a newer version");
        assert_eq!(error, DecodePrefixError::Version { found: 2 });
        assert_eq!(error.to_string(), "protocol version 2 isn't spoken here (this is 1)");
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let bytes = sample().encode(b"hello");
        for bit in 0..PREFIX_BYTES * 8 {
            let mut damaged = bytes;
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(
                Prefix::decode(&damaged).is_err() || Prefix::verify(&damaged, b"hello").is_err(),
                "bit {bit}"
            );
        }
    }
}
