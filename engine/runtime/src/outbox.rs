//! What waits to be sent on one link: two batches that take turns.
//!
//! `send` appends to the *filling* batch; the *flying* one is with the kernel and isn't changed until it is gone, then they swap.
//! So pointers into a batch stay right while it flies, many small frames leave in one operation, and a payload leaves straight
//! from its slot. Batches are pooled: an idle link has none.

use std::mem::MaybeUninit;

use wire::limits::PAYLOAD_BYTES_MAX;
use wire::{Memory, Slot};

use crate::arena::Arena;

/// Bytes of one send operation, at most: the largest payload, with a few heads around it. A longer one would keep the thread in the kernel, copying, while its disk idles.
pub(crate) const SEND_BYTES_MAX: usize = PAYLOAD_BYTES_MAX + (16 << 10);
/// Ranges of one send operation, at most.
const SEND_RANGES_MAX: usize = 64;
/// A batch whose buffer grew beyond this is not kept.
const KEEP_BYTES_MAX: usize = 64 << 10;
/// Batches kept for reuse.
const KEEP_BATCHES_MAX: usize = 512;

#[derive(Clone, Copy, Debug)]
enum Part {
    Head { start: usize, len: usize, token: Option<u64> },
    Payload { slot: Slot, offset: usize, len: usize, token: Option<u64> },
}

impl Part {
    fn len(self) -> usize {
        match self {
            Self::Head { len, .. } | Self::Payload { len, .. } => len,
        }
    }
}

/// A payload to be sent from its slot.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OutPayload {
    pub(crate) slot: Slot,
    pub(crate) offset: usize,
    pub(crate) len: usize,
}

/// Frames that leave together.
pub(crate) struct Batch {
    heads: Vec<u8>,
    parts: Vec<Part>,
    /// Parts before this one are sent.
    next: usize,
    /// Bytes of part `next` that are sent.
    sent: usize,
    vectors: Vec<libc::iovec>,
    message: libc::msghdr,
}

impl std::fmt::Debug for Batch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Batch")
            .field("parts", &self.parts.len())
            .field("next", &self.next)
            .finish_non_exhaustive()
    }
}

/// One operation's worth of a batch.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Slice {
    /// A lone range, or a message of several.
    pub(crate) what: SliceKind,
    pub(crate) bytes: usize,
    /// Whether more of the batch follows.
    pub(crate) more: bool,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum SliceKind {
    One(*const u8),
    Many(*const libc::msghdr),
}

impl Batch {
    fn new() -> Self {
        let message = MaybeUninit::<libc::msghdr>::zeroed();
        Self {
            heads: Vec::with_capacity(1024),
            parts: Vec::with_capacity(16),
            next: 0,
            sent: 0,
            vectors: Vec::with_capacity(SEND_RANGES_MAX),
            // SAFETY: all zeroes is a message of nothing: null pointers and zero lengths.
            message: unsafe { message.assume_init() },
        }
    }

    fn push(&mut self, head: &[u8], payload: Option<OutPayload>, token: Option<u64>) {
        let start = self.heads.len();
        self.heads.extend_from_slice(head);
        let head_token = if payload.is_some() { None } else { token };
        self.parts.push(Part::Head { start, len: head.len(), token: head_token });
        if let Some(OutPayload { slot, offset, len }) = payload {
            self.parts.push(Part::Payload { slot, offset, len, token });
        }
    }

    /// The next operation's worth, with pointers that are right until the batch is changed.
    fn slice(&mut self, arena: &mut Arena) -> Slice {
        self.vectors.clear();
        let mut bytes = 0;
        let mut skip = self.sent;
        let mut last_head_end = None;
        let mut part = self.next;
        let mut cut = false;
        while part < self.parts.len() && bytes < SEND_BYTES_MAX && self.vectors.len() < SEND_RANGES_MAX {
            let len = self.parts[part].len() - skip;
            let taken = len.min(SEND_BYTES_MAX - bytes);
            cut = taken < len;
            match self.parts[part] {
                Part::Head { start, .. } => {
                    let start = start + skip;
                    if last_head_end == Some(start) {
                        self.vectors.last_mut().expect("a head was pushed").iov_len += taken;
                    } else {
                        let address = self.heads[start..].as_ptr().cast_mut();
                        self.vectors.push(libc::iovec { iov_base: address.cast(), iov_len: taken });
                    }
                    last_head_end = Some(start + taken);
                }
                Part::Payload { slot, offset, .. } => {
                    let (address, _) = arena.address(slot, offset + skip, taken);
                    self.vectors.push(libc::iovec { iov_base: address.cast(), iov_len: taken });
                    last_head_end = None;
                }
            }
            bytes += taken;
            skip = 0;
            part += 1;
        }
        let what = if let [only] = self.vectors[..] {
            SliceKind::One(only.iov_base.cast_const().cast())
        } else {
            self.message.msg_iov = self.vectors.as_mut_ptr();
            self.message.msg_iovlen = self.vectors.len() as _;
            SliceKind::Many(&raw const self.message)
        };
        Slice { what, bytes, more: cut || part < self.parts.len() }
    }

    /// `bytes` more are sent: gives back the slots that are done with and collects the tokens of whole frames.
    fn advance(&mut self, mut bytes: usize, arena: &mut Arena, tokens: &mut Vec<u64>) {
        while self.next < self.parts.len() {
            let part = self.parts[self.next];
            let left = part.len() - self.sent;
            if bytes < left {
                self.sent += bytes;
                return;
            }
            bytes -= left;
            self.sent = 0;
            self.next += 1;
            match part {
                Part::Head { token, .. } => tokens.extend(token),
                Part::Payload { slot, token, .. } => {
                    arena.release(slot);
                    tokens.extend(token);
                }
            }
        }
        assert_eq!(bytes, 0, "the kernel sent no more than it was given");
    }

    fn is_sent(&self) -> bool {
        self.next == self.parts.len()
    }

    /// Empties the batch; slots that weren't sent are given back.
    fn clear(&mut self, arena: &mut Arena) {
        for part in self.parts.drain(..).skip(self.next) {
            if let Part::Payload { slot, .. } = part {
                arena.release(slot);
            }
        }
        self.heads.clear();
        self.vectors.clear();
        self.next = 0;
        self.sent = 0;
    }
}

/// Batches for reuse.
#[derive(Debug, Default)]
pub(crate) struct BatchPool {
    #[expect(clippy::vec_box, reason = "the kernel holds pointers into a batch, so it must not move")]
    batches: Vec<Box<Batch>>,
}

impl BatchPool {
    fn take(&mut self) -> Box<Batch> {
        self.batches.pop().unwrap_or_else(|| Box::new(Batch::new()))
    }

    fn give(&mut self, mut batch: Box<Batch>, arena: &mut Arena) {
        batch.clear(arena);
        if batch.heads.capacity() <= KEEP_BYTES_MAX && self.batches.len() < KEEP_BATCHES_MAX {
            self.batches.push(batch);
        }
    }
}

/// One link's queue.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    filling: Option<Box<Batch>>,
    flying: Option<Box<Batch>>,
    bytes: usize,
}

impl Outbox {
    /// Bytes not yet with the kernel, or not yet reported as sent.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Bytes of memory that frames take here, until their batch is sent; payloads lie in the arena.
    pub(crate) fn head_bytes(&self) -> usize {
        [&self.filling, &self.flying].into_iter().flatten().map(|batch| batch.heads.len()).sum()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// Queues a frame; the payload's slot gets a reference until it is sent.
    pub(crate) fn push(
        &mut self,
        head: &[u8],
        payload: Option<OutPayload>,
        token: Option<u64>,
        pool: &mut BatchPool,
        arena: &mut Arena,
    ) {
        self.bytes += head.len();
        if let Some(payload) = payload {
            arena.retain(payload.slot);
            self.bytes += payload.len;
        }
        self.filling.get_or_insert_with(|| pool.take()).push(head, payload, token);
    }

    /// The next operation's worth, if anything is queued. Nothing of the link may be in flight.
    pub(crate) fn next_slice(&mut self, arena: &mut Arena) -> Option<Slice> {
        if self.flying.is_none() {
            self.flying = self.filling.take();
        }
        let slice = self.flying.as_mut()?.slice(arena);
        assert!(slice.bytes > 0, "a batch that flies has something left");
        Some(Slice { more: slice.more || self.filling.is_some(), ..slice })
    }

    /// The operation in flight sent `bytes`.
    pub(crate) fn advance(
        &mut self,
        bytes: usize,
        tokens: &mut Vec<u64>,
        pool: &mut BatchPool,
        arena: &mut Arena,
    ) {
        self.bytes -= bytes;
        let batch = self.flying.as_mut().expect("an operation in flight has a batch");
        batch.advance(bytes, arena, tokens);
        if batch.is_sent() {
            pool.give(self.flying.take().expect("seen above"), arena);
        }
    }

    /// Drops everything. Nothing of the link may be in flight.
    pub(crate) fn clear(&mut self, pool: &mut BatchPool, arena: &mut Arena) {
        self.bytes = 0;
        for batch in [self.filling.take(), self.flying.take()].into_iter().flatten() {
            pool.give(batch, arena);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes_of(slice: Slice, arena: &[u8]) -> Vec<usize> {
        let _ = arena;
        match slice.what {
            SliceKind::One(_) => vec![slice.bytes],
            SliceKind::Many(message) => {
                // SAFETY: the message was just built by a batch that is still there.
                let message = unsafe { &*message };
                // SAFETY: the vectors belong to the same batch.
                let vectors = unsafe { std::slice::from_raw_parts(message.msg_iov, message.msg_iovlen) };
                vectors.iter().map(|vector| vector.iov_len).collect()
            }
        }
    }

    #[test]
    fn heads_coalesce_and_slices_are_cut() {
        let mut arena = Arena::new(1).expect("8 MiB");
        let mut pool = BatchPool::default();
        let mut outbox = Outbox::default();
        let slot = arena.allocate(1 << 20).expect("free");
        let free = arena.free_bytes();
        outbox.push(&[1; 100], None, Some(1), &mut pool, &mut arena);
        outbox.push(&[2; 50], None, None, &mut pool, &mut arena);
        let payload = OutPayload { slot, offset: 0, len: 300 << 10 };
        outbox.push(&[3; 64], Some(payload), Some(2), &mut pool, &mut arena);
        outbox.push(&[4; 64], None, Some(3), &mut pool, &mut arena);
        arena.release(slot);

        let slice = outbox.next_slice(&mut arena).expect("queued");
        assert!(slice.more);
        assert_eq!(bytes_of(slice, &[]), [214, SEND_BYTES_MAX - 214]);
        let mut tokens = Vec::new();
        // A short send ends in the middle of the second head.
        outbox.advance(120, &mut tokens, &mut pool, &mut arena);
        assert_eq!(tokens, [1]);
        let slice = outbox.next_slice(&mut arena).expect("queued");
        assert_eq!(bytes_of(slice, &[]), [94, SEND_BYTES_MAX - 94]);
        outbox.advance(SEND_BYTES_MAX, &mut tokens, &mut pool, &mut arena);
        let rest = (300 << 10) - (SEND_BYTES_MAX - 94);
        let slice = outbox.next_slice(&mut arena).expect("queued");
        assert!(!slice.more);
        assert_eq!(bytes_of(slice, &[]), [rest, 64]);
        assert_eq!(arena.free_bytes(), free, "the payload is held until it is sent");
        outbox.advance(rest + 64, &mut tokens, &mut pool, &mut arena);
        assert_eq!(tokens, [1, 2, 3]);
        assert!(outbox.is_empty() && outbox.next_slice(&mut arena).is_none());
        assert_eq!(arena.free_bytes(), 8 << 20);
    }

    #[test]
    fn clearing_gives_slots_back() {
        let mut arena = Arena::new(1).expect("8 MiB");
        let mut pool = BatchPool::default();
        let mut outbox = Outbox::default();
        for _ in 0..3 {
            let slot = arena.allocate(4096).expect("free");
            let payload = OutPayload { slot, offset: 0, len: 4096 };
            outbox.push(&[0; 64], Some(payload), None, &mut pool, &mut arena);
            arena.release(slot);
        }
        let _ = outbox.next_slice(&mut arena);
        outbox.advance(64 + 4096 + 10, &mut Vec::new(), &mut pool, &mut arena);
        outbox.clear(&mut pool, &mut arena);
        assert_eq!(arena.free_bytes(), 8 << 20);
    }
}
