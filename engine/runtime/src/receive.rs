//! From bytes to frames: what a driver does with what a link received.
//!
//! Bytes arrive in a buffer that the kernel picked, on the end of the link's stash, or straight in a slot. Whole frames are parsed
//! where they lie; half a head moves to the stash, which grows with what arrives and never with what is announced; payload
//! that came with its head is copied, the rest goes straight into its slot. So that this is most of a large payload, less is
//! asked for behind one: the next head, most likely, and another large payload.

use io_uring::{cqueue, opcode, squeue};
use wire::limits::MESSAGE_BYTES_MAX;
use wire::message::{Encoder, PayloadMeta, Reply, ReplyHead};
use wire::meta::Refusal;
use wire::{DecodePrefixError, FrameKind, Load, Memory, PREFIX_BYTES, PROTOCOL_VERSION, Prefix, Status};

use crate::driver::Driver;
use crate::heads::HEAD_GROUP;
use crate::io::Io;
use crate::link::{Link, Phase, Receiving, State};
use crate::operation::{Operation, on_target};
use crate::ring::Completion;
use crate::service::{CloseReason, LinkId, Payload, Service};

/// `IORING_RECVSEND_POLL_FIRST`: don't try, wait for readiness; for links whose socket was just found empty.
const POLL_FIRST: u16 = 1;
/// Behind a payload of more than so many bytes no more than [`NEXT_HEAD_BYTES`] are received at once.
const LARGE_PAYLOAD_BYTES: u32 = 16 << 10;
/// A head with the leaves of 1 MiB, and little of what follows.
const NEXT_HEAD_BYTES: u32 = 4 << 10;
/// A stash has at least this much room when a receive is armed on it.
const STASH_ROOM: usize = 256;

impl Io {
    /// Begins to receive on a link, if it reads at all and nothing is being received.
    pub(crate) fn arm_receive(&mut self, index: u32) {
        let link = self.links.at(index);
        if !link.is_read() || link.receiving != Receiving::Nothing {
            return;
        }
        let target = link.target();
        let entry = if let Phase::Into { slot, offset, left, .. } = link.phase {
            assert!(link.stash.is_empty(), "bytes before these were not parsed");
            link.receiving = Receiving::Payload;
            let (address, _) = self.arena.address(slot, offset as usize, left as usize);
            on_target!(target, |fd| opcode::Recv::new(fd, address, left).flags(libc::MSG_WAITALL).build())
        } else if link.stash.is_empty() {
            link.receiving = Receiving::Heads;
            let first = if link.more { 0 } else { POLL_FIRST };
            // 0: as much as the buffer holds.
            let length = if link.last_payload > LARGE_PAYLOAD_BYTES { NEXT_HEAD_BYTES } else { 0 };
            on_target!(target, |fd| opcode::Recv::new(fd, std::ptr::null_mut(), length)
                .ioprio(first)
                .buf_group(HEAD_GROUP)
                .build())
            .flags(squeue::Flags::BUFFER_SELECT)
        } else {
            if !self.reserve_stash(index, STASH_ROOM) {
                return;
            }
            let link = self.links.at(index);
            link.receiving = Receiving::Stash;
            let spare = link.stash.spare_capacity_mut();
            let room = u32::try_from(spare.len()).expect("a stash is a few MiB at most");
            let address: *mut u8 = spare.as_mut_ptr().cast();
            on_target!(target, |fd| opcode::Recv::new(fd, address, room).build())
        };
        let entry = entry.user_data(Operation::Receive(index).user_data());
        // SAFETY: a slot has the phase's reference, a stash isn't touched while it is received into, and the kernel's own choice is
        // registered; all stay until the completion, which `in_flight` waits for before the link is freed.
        unsafe { self.ring.push(&entry) };
    }

    /// Keeps bytes that can't be parsed now; where there is no room for them, the link is closed.
    fn keep(&mut self, index: u32, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        let now = self.now;
        let link = self.links.at(index);
        if !link.is_open() {
            return;
        }
        if link.stash.is_empty() {
            link.frame_since = now;
        }
        if self.reserve_stash(index, bytes.len()) {
            self.links.at(index).stash.extend_from_slice(bytes);
        }
    }

    /// Makes room on a link's stash. Where all stashes together may have no more, the link with the largest one is closed, which may be
    /// this one; `false`: it is.
    fn reserve_stash(&mut self, index: u32, room: usize) -> bool {
        loop {
            let stash = &mut self.links.at(index).stash;
            if self.stashes.reserve(stash, room) {
                return true;
            }
            let wanted = stash.len() + room;
            let size = |link: &Link| if link.is_open() { link.stash.capacity() } else { 0 };
            let largest = (0..self.links.places()).max_by_key(|&place| size(self.links.at(place)));
            let victim = largest.filter(|&place| size(self.links.at(place)) > wanted).unwrap_or(index);
            // It goes once nothing is received into it any more; until then it isn't counted.
            let link = self.links.at(victim);
            link.condemned = true;
            self.stashes.condemn(link.stash.capacity());
            self.abort(victim, CloseReason::Memory);
            if victim == index {
                return false;
            }
        }
    }

    fn bad_frame(&mut self, id: LinkId, error: DecodePrefixError) {
        self.counters.bad_frames += 1;
        let reason = CloseReason::BadFrame(error);
        match error {
            DecodePrefixError::Version { found } if self.links.at(id.index).accepted => {
                tracing::info!(
                    link = id.to_u64(),
                    found,
                    spoken = PROTOCOL_VERSION,
                    "a peer speaks another protocol version: refused"
                );
                // A link that just delivered a frame takes one; if it doesn't, closing says as much as silence can.
                let _ = self.send(id, &version_refusal(), None, None);
                self.close(id, reason);
            }
            _ => {
                tracing::debug!(link = id.to_u64(), %error, "bad frame");
                self.abort(id.index, reason);
            }
        }
    }

    /// Whether the link's next bytes may be handed to its service.
    fn takes(&mut self, link: LinkId) -> bool {
        self.links.find(link).is_some_and(|link| link.is_read())
    }
}

impl<S: Service> Driver<S> {
    /// A receive completed.
    pub(crate) fn received(&mut self, index: u32, completion: Completion) {
        let link = self.io.links.at(index);
        let receiving = std::mem::replace(&mut link.receiving, Receiving::Nothing);
        let open = link.is_open();
        if let State::Closing { .. } = link.state
            && !link.in_flight()
        {
            self.io.to_close.push(index);
        }
        let buffer = cqueue::buffer_select(completion.flags);
        let len = usize::try_from(completion.result).unwrap_or(0);
        if open && len > 0 {
            self.io.counters.received_bytes += len as u64;
            self.io.links.at(index).more = cqueue::sock_nonempty(completion.flags);
            match receiving {
                Receiving::Heads => {
                    self.received_heads(index, buffer.expect("the kernel picked a buffer"), len);
                }
                Receiving::Stash => self.received_stash(index, len),
                Receiving::Payload => self.received_payload(index, len),
                Receiving::Nothing => unreachable!("a receive was in flight"),
            }
            self.io.list_receive(index);
        } else if open {
            self.receive_failed(index, completion.result);
        }
        if let Some(buffer) = buffer {
            self.heads.give_back(buffer);
        }
    }

    fn receive_failed(&mut self, index: u32, result: i32) {
        match -result {
            0 => self.io.abort(index, CloseReason::Peer),
            // All buffers were taken in this turn, or the call was interrupted: try again.
            libc::ENOBUFS | libc::EINTR | libc::EAGAIN => {
                self.io.links.at(index).more = true;
                self.io.list_receive(index);
            }
            errno => self.io.abort(index, CloseReason::Broken { errno }),
        }
    }

    fn received_heads(&mut self, index: u32, buffer: u16, len: usize) {
        let bytes = self.heads.bytes(buffer, len);
        let used = ingest(&mut self.io, &mut self.service, index, bytes);
        if used < bytes.len() {
            self.io.keep(index, &bytes[used..]);
        }
    }

    fn received_stash(&mut self, index: u32, len: usize) {
        let link = self.io.links.at(index);
        let end = link.stash.len() + len;
        assert!(end <= link.stash.capacity());
        // SAFETY: the kernel wrote `len` bytes behind the stash's end, inside its capacity.
        unsafe { link.stash.set_len(end) };
        self.parse_stash(index);
    }

    /// Parses what is in the stash, and gives it back when it is empty.
    pub(crate) fn parse_stash(&mut self, index: u32) {
        let mut stash = std::mem::take(&mut self.io.links.at(index).stash);
        let used = ingest(&mut self.io, &mut self.service, index, &stash);
        stash.drain(..used);
        if used > 0 {
            self.io.links.at(index).frame_since = self.io.now;
        }
        if stash.is_empty() {
            self.io.stashes.give(stash);
        } else {
            self.io.links.at(index).stash = stash;
        }
    }

    fn received_payload(&mut self, index: u32, len: usize) {
        let id = self.io.links.id(index);
        let link = self.io.links.at(index);
        let Phase::Into { slot, offset, left, total } = link.phase else {
            unreachable!("payload is received in its phase only")
        };
        let len = u32::try_from(len).expect("a payload has 32 bits");
        assert!(len <= left);
        link.phase = Phase::Into { slot, offset: offset + len, left: left - len, total };
        if len == left {
            self.io.release_phase(index);
            self.io.links.at(index).active = self.io.now;
            self.service.on_payload(&mut self.io, id);
        }
    }
}

/// Hands the frames in `bytes` to the service; returns how many bytes were used.
fn ingest<S: Service>(io: &mut Io, service: &mut S, index: u32, bytes: &[u8]) -> usize {
    let id = io.links.id(index);
    let mut used = 0;
    while used < bytes.len() && io.takes(id) {
        let rest = &bytes[used..];
        let taken = match io.links.at(index).phase {
            Phase::Head => match take_head(io, service, id, rest) {
                0 => break,
                taken => taken,
            },
            Phase::Into { .. } => take_payload(io, service, id, rest),
            Phase::Discard { left, total } => {
                let taken = (left as usize).min(rest.len());
                let left = left - u32::try_from(taken).expect("at most `left`");
                io.links.at(index).phase =
                    if left == 0 { Phase::Head } else { Phase::Discard { left, total } };
                taken
            }
        };
        used += taken;
    }
    used
}

/// What a peer of another version is told: the prefix names this side's version, whatever else the peer can read of it.
fn version_refusal() -> Vec<u8> {
    let status = Status::UnsupportedVersion;
    let head =
        ReplyHead { kind: FrameKind::Hello, correlation: 0, status, load: Load::default(), more: false };
    let mut frame = Vec::new();
    Encoder::new().reply(&mut frame, head, &Reply::Refused(Refusal::default()), PayloadMeta::default());
    frame
}

/// Takes one whole head; 0: it isn't whole, or the link was closed.
fn take_head<S: Service>(io: &mut Io, service: &mut S, id: LinkId, bytes: &[u8]) -> usize {
    let Some(first) = bytes.first_chunk::<PREFIX_BYTES>() else { return 0 };
    let prefix = match Prefix::decode(first) {
        Ok(prefix) => prefix,
        Err(error) => {
            io.bad_frame(id, error);
            return 0;
        }
    };
    assert!(prefix.message_bytes as usize <= MESSAGE_BYTES_MAX, "refused by `decode`");
    let end = PREFIX_BYTES + prefix.message_bytes as usize;
    let Some(message) = bytes.get(PREFIX_BYTES..end) else { return 0 };
    if let Err(error) = Prefix::verify(first, message) {
        io.bad_frame(id, error);
        return 0;
    }
    io.counters.frames += 1;
    let now = io.now;
    let link = io.links.at(id.index);
    link.greeted = true;
    link.active = now;
    link.last_payload = prefix.payload_bytes;
    let payload = service.on_head(io, id, &prefix, message);
    let total = prefix.payload_bytes;
    let phase = match payload {
        Payload::None => {
            assert_eq!(total, 0, "a service says where a payload goes");
            return end;
        }
        Payload::Close(reason) => {
            io.close(id, reason);
            return end;
        }
        Payload::Discard if total == 0 => return end,
        Payload::Discard => Phase::Discard { left: total, total },
        Payload::Into { slot, offset } => {
            assert!(total > 0, "a slot is given for a payload");
            // The range is checked here, before a byte is written; the reference is the runtime's own.
            io.arena.address(slot, offset as usize, total as usize);
            io.arena.retain(slot);
            Phase::Into { slot, offset, left: total, total }
        }
    };
    let link = io.links.at(id.index);
    link.phase = phase;
    link.frame_since = now;
    end
}

/// Copies payload that came with its head.
fn take_payload<S: Service>(io: &mut Io, service: &mut S, id: LinkId, bytes: &[u8]) -> usize {
    let link = io.links.at(id.index);
    let Phase::Into { slot, offset, left, total } = link.phase else {
        unreachable!("called in this phase only")
    };
    let taken = (left as usize).min(bytes.len());
    let start = offset as usize;
    io.arena.bytes_mut(slot)[start..start + taken].copy_from_slice(&bytes[..taken]);
    let taken32 = u32::try_from(taken).expect("at most `left`");
    link.phase = Phase::Into { slot, offset: offset + taken32, left: left - taken32, total };
    if taken32 == left {
        io.release_phase(id.index);
        service.on_payload(io, id);
    }
    taken
}
