//! Connections: one record each, with what is in flight for it, and the stashes of half-received heads.
//!
//! ```text
//!            connect ok            close, nothing queued
//! Connecting ──────────▶ Open ───────────────────────────▶ Closing ──▶ free (when nothing is in flight any more)
//!      │                   │ close, something queued          ▲
//!      │                   └───────────▶ Draining ────────────┤ queue empty, or time is up
//!      └──────────────────────────────────────────────────────┘ refused, timed out
//! ```
//! Invariants: at most one receive and one send of a link are in flight; a record, its stash and its batches outlive them; a
//! generation is never used again.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use wire::{Nanos, Slot};

use crate::operation::Target;
use crate::outbox::Outbox;
use crate::service::{CloseReason, LinkId};
use crate::sys::RawAddress;

/// Where a link is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Free,
    Connecting,
    Open,
    /// Closing once the queue is sent.
    Draining {
        reason: CloseReason,
        until: Nanos,
    },
    /// Shut down; waits for what is in flight.
    Closing {
        reason: CloseReason,
    },
}

/// What the next received bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// A frame's head.
    Head,
    /// Payload for a slot, of which the runtime holds a reference.
    Into { slot: Slot, offset: u32, left: u32, total: u32 },
    /// Payload to be thrown away.
    Discard { left: u32, total: u32 },
}

/// What kind of receive is in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Receiving {
    Nothing,
    /// Into a buffer that the kernel picks.
    Heads,
    /// Onto the end of the stash.
    Stash,
    /// Straight into the slot.
    Payload,
}

/// One connection.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) generation: u32,
    pub(crate) state: State,
    pub(crate) accepted: bool,
    pub(crate) greeted: bool,
    pub(crate) paused: bool,
    /// Not read, because so much is queued to be sent on it.
    pub(crate) held: bool,
    /// It was paused or held, so that its stash may hold whole frames.
    pub(crate) resumed: bool,
    /// More bytes wait in the socket, as far as the last receive could tell.
    pub(crate) more: bool,
    pub(crate) receiving: Receiving,
    pub(crate) sending: bool,
    pub(crate) connecting: bool,
    /// In the list of links to receive on, or to send on.
    pub(crate) listed_receive: bool,
    pub(crate) listed_send: bool,
    pub(crate) fd: Option<OwnedFd>,
    pub(crate) fixed: Option<u32>,
    pub(crate) peer: Option<SocketAddr>,
    pub(crate) address: Option<Box<RawAddress>>,
    pub(crate) phase: Phase,
    /// Bytes of the last frame's payload: the next one's are likely as many.
    pub(crate) last_payload: u32,
    /// Bytes that belong to a half-received head, or wait for `resume`.
    pub(crate) stash: Vec<u8>,
    /// Closed for want of memory: its stash isn't counted any more.
    pub(crate) condemned: bool,
    pub(crate) outbox: Outbox,
    pub(crate) opened: Nanos,
    /// When the present half frame began.
    pub(crate) frame_since: Nanos,
    pub(crate) active: Nanos,
    pub(crate) send_since: Nanos,
    pub(crate) send_bytes: usize,
}

/// Ten thousand idle links fit in a few MiB.
const _: () = assert!(size_of::<Link>() <= 384);

impl std::fmt::Debug for RawAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("RawAddress")
    }
}

impl Link {
    fn empty() -> Self {
        Self {
            generation: 0,
            state: State::Free,
            accepted: false,
            greeted: false,
            paused: false,
            held: false,
            resumed: false,
            more: false,
            receiving: Receiving::Nothing,
            sending: false,
            connecting: false,
            listed_receive: false,
            listed_send: false,
            fd: None,
            fixed: None,
            peer: None,
            address: None,
            phase: Phase::Head,
            last_payload: 0,
            stash: Vec::new(),
            condemned: false,
            outbox: Outbox::default(),
            opened: Nanos(0),
            frame_since: Nanos(0),
            active: Nanos(0),
            send_since: Nanos(0),
            send_bytes: 0,
        }
    }

    pub(crate) fn target(&self) -> Target {
        Target::new(self.fd.as_ref().expect("a link with operations has a descriptor"), self.fixed)
    }

    pub(crate) fn in_flight(&self) -> bool {
        self.receiving != Receiving::Nothing || self.sending || self.connecting
    }

    pub(crate) fn is_open(&self) -> bool {
        self.state == State::Open
    }

    /// Whether what it receives may be handed to its service.
    pub(crate) fn is_read(&self) -> bool {
        self.is_open() && !self.paused && !self.held
    }
}

/// All links of a thread.
#[derive(Debug, Default)]
pub(crate) struct Links {
    records: Vec<Link>,
    free: Vec<u32>,
    count: usize,
}

impl Links {
    /// Links that aren't free.
    pub(crate) fn count(&self) -> usize {
        self.count
    }

    /// Places, free ones included.
    pub(crate) fn places(&self) -> u32 {
        u32::try_from(self.records.len()).expect("links are numbered by 32 bits")
    }

    /// A new record.
    pub(crate) fn open(&mut self, state: State, now: Nanos) -> LinkId {
        let index = self.free.pop().unwrap_or_else(|| {
            self.records.push(Link::empty());
            self.places() - 1
        });
        let link = &mut self.records[index as usize];
        assert!(link.state == State::Free && !link.in_flight() && link.outbox.is_empty());
        *link = Link {
            generation: link.generation,
            state,
            opened: now,
            active: now,
            frame_since: now,
            listed_receive: link.listed_receive,
            listed_send: link.listed_send,
            ..Link::empty()
        };
        self.count += 1;
        LinkId { index, generation: link.generation }
    }

    /// Frees a record: nothing may be in flight.
    pub(crate) fn free(&mut self, index: u32) {
        let link = &mut self.records[index as usize];
        assert!(!link.in_flight() && link.state != State::Free);
        link.state = State::Free;
        link.generation = link.generation.wrapping_add(1);
        self.free.push(index);
        self.count -= 1;
    }

    /// The link by its place.
    pub(crate) fn at(&mut self, index: u32) -> &mut Link {
        &mut self.records[index as usize]
    }

    /// The link by its name, if it isn't gone.
    pub(crate) fn find(&mut self, id: LinkId) -> Option<&mut Link> {
        self.records
            .get_mut(id.index as usize)
            .filter(|link| link.generation == id.generation && link.state != State::Free)
    }

    /// The name of the link at a place.
    pub(crate) fn id(&self, index: u32) -> LinkId {
        LinkId { index, generation: self.records[index as usize].generation }
    }
}

/// Memory for half-received heads: grown as bytes arrive, never by what a peer announces, and bounded for all links together.
#[derive(Debug)]
pub(crate) struct Stashes {
    small: Vec<Vec<u8>>,
    large: Vec<Vec<u8>>,
    held: usize,
    limit: usize,
}

const SMALL_STASH_BYTES: usize = 1 << 10;
const LARGE_STASH_BYTES: usize = 8 << 10;
const KEEP_STASHES_MAX: usize = 256;

impl Stashes {
    pub(crate) fn new(limit: usize) -> Self {
        Self { small: Vec::new(), large: Vec::new(), held: 0, limit }
    }

    /// Bytes held by all links.
    #[cfg(test)]
    fn held(&self) -> usize {
        self.held
    }

    /// Makes room for at least `room` more bytes; `false`: the limit of all links together is reached.
    pub(crate) fn reserve(&mut self, stash: &mut Vec<u8>, room: usize) -> bool {
        let wanted = stash.len() + room;
        if stash.capacity() >= wanted {
            return true;
        }
        let capacity = if wanted <= SMALL_STASH_BYTES {
            SMALL_STASH_BYTES
        } else {
            wanted.next_power_of_two().max(LARGE_STASH_BYTES)
        };
        if self.held - stash.capacity() + capacity > self.limit {
            return false;
        }
        let mut larger = match capacity {
            SMALL_STASH_BYTES => self.small.pop(),
            LARGE_STASH_BYTES => self.large.pop(),
            _ => None,
        }
        .unwrap_or_else(|| Vec::with_capacity(capacity));
        larger.extend_from_slice(stash);
        self.held += larger.capacity();
        let old = std::mem::replace(stash, larger);
        self.give(old);
        true
    }

    /// So many bytes of a link that is closed for want of memory aren't counted any more; it gives them back with
    /// [`give_condemned`](Self::give_condemned).
    pub(crate) fn condemn(&mut self, bytes: usize) {
        self.held -= bytes;
    }

    /// Takes a condemned stash back.
    pub(crate) fn give_condemned(&mut self, stash: Vec<u8>) {
        self.held += stash.capacity();
        self.give(stash);
    }

    /// Takes a link's stash back.
    pub(crate) fn give(&mut self, mut stash: Vec<u8>) {
        self.held -= stash.capacity();
        stash.clear();
        match stash.capacity() {
            SMALL_STASH_BYTES if self.small.len() < KEEP_STASHES_MAX => self.small.push(stash),
            LARGE_STASH_BYTES if self.large.len() < KEEP_STASHES_MAX => self.large.push(stash),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generations_tell_links_apart() {
        let mut links = Links::default();
        let a = links.open(State::Open, Nanos(1));
        links.free(a.index);
        let b = links.open(State::Open, Nanos(2));
        assert_eq!(a.index, b.index);
        assert!(links.find(a).is_none());
        assert!(links.find(b).is_some());
        assert_eq!(LinkId::from_u64(b.to_u64()), b);
    }

    #[test]
    fn stashes_are_bounded_together() {
        let mut stashes = Stashes::new(20 << 10);
        let mut a = Vec::new();
        let mut b = Vec::new();
        assert!(stashes.reserve(&mut a, 10));
        assert_eq!(a.capacity(), SMALL_STASH_BYTES);
        a.extend_from_slice(&[7; 10]);
        assert!(stashes.reserve(&mut a, 5_000));
        assert_eq!((a.capacity(), &a[..]), (LARGE_STASH_BYTES, &[7; 10][..]));
        assert!(stashes.reserve(&mut b, 5_000));
        assert!(!stashes.reserve(&mut b, 9_000), "over the limit");
        assert_eq!(stashes.held(), 16 << 10);
        stashes.give(a);
        stashes.give(b);
        assert_eq!(stashes.held(), 0);
    }
}
