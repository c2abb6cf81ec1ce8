//! Frames on their way out.

use wire::message::{Encoder, PayloadMeta, Reply, ReplyHead, Request, RequestHead};
use wire::meta::Refusal;
use wire::{FrameKind, Load, Slot, Status};

use crate::effects::{Effects, Link, Payload, Send};

/// With `Busy`: when it is worth trying again. One group commit of a busy disk is done by then.
pub(crate) const RETRY_AFTER_MS: u32 = 5;

/// Where a reply goes and what it answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Caller {
    pub(crate) link: Link,
    pub(crate) kind: FrameKind,
    pub(crate) correlation: u64,
}

/// Encodes replies; its buffer is reused.
#[derive(Debug, Default)]
pub(crate) struct Replier {
    pub(crate) encoder: Encoder,
    /// What every reply says about this shard.
    pub(crate) load: Load,
}

impl Replier {
    /// A reply without payload.
    pub(crate) fn send(&mut self, to: Caller, reply: &Reply<'_>, effects: &mut Effects) {
        self.send_frame(to, Status::Ok, reply, false, None, effects);
    }

    /// A reply that says why not.
    pub(crate) fn refuse(&mut self, to: Caller, status: Status, effects: &mut Effects) {
        debug_assert_ne!(status, Status::Ok);
        let retry_after_ms = if status == Status::Busy { RETRY_AFTER_MS } else { 0 };
        let reply = Reply::Refused(Refusal { retry_after_ms, ..Refusal::default() });
        self.send_frame(to, status, &reply, false, None, effects);
    }

    /// A part of a chunk: `payload` carries one reference to its slot.
    pub(crate) fn send_part(
        &mut self,
        to: Caller,
        reply: &Reply<'_>,
        more: bool,
        payload: Payload,
        effects: &mut Effects,
    ) {
        self.send_frame(to, Status::Ok, reply, more, Some(payload), effects);
    }

    /// A message that has no correlation id: credit, and the greeting of a successor.
    pub(crate) fn notify(&mut self, link: Link, request: &Request<'_>, effects: &mut Effects) {
        self.request(link, RequestHead::default(), request, effects);
    }

    /// A request without payload.
    pub(crate) fn request(
        &mut self,
        link: Link,
        head: RequestHead,
        request: &Request<'_>,
        effects: &mut Effects,
    ) {
        let start = position(&effects.bytes);
        self.encoder.request(&mut effects.bytes, head, request, PayloadMeta::default());
        effects.sends.push(Send { link, head: (start, position(&effects.bytes)), payload: None });
    }

    fn send_frame(
        &mut self,
        to: Caller,
        status: Status,
        reply: &Reply<'_>,
        more: bool,
        payload: Option<Payload>,
        effects: &mut Effects,
    ) {
        let start = position(&effects.bytes);
        let head = ReplyHead { kind: to.kind, correlation: to.correlation, status, load: self.load, more };
        // Leaves and proof verify a chunk's bytes: the payload's own checksum stays 0 (R36).
        let meta = PayloadMeta { bytes: payload.map_or(0, |payload| payload.len), checksum: 0 };
        self.encoder.reply(&mut effects.bytes, head, reply, meta);
        effects.sends.push(Send { link: to.link, head: (start, position(&effects.bytes)), payload });
    }
}

/// A whole slot from its front.
pub(crate) fn part_of(slot: Slot, offset: u32, len: u32) -> Payload {
    Payload { slot, offset, len }
}

pub(crate) fn position(bytes: &[u8]) -> u32 {
    u32::try_from(bytes.len()).expect("the driver clears the effects after each event")
}
