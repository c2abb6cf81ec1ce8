//! What a service sees: the trait that the runtime calls, and the words of their conversation.

use std::net::SocketAddr;

use thiserror::Error;
use wire::{DecodePrefixError, Nanos, Prefix, Slot};

use crate::io::Io;

/// One connection of a thread. Never used again after it closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinkId {
    pub(crate) index: u32,
    pub(crate) generation: u32,
}

impl LinkId {
    /// The connection as one number, for logs and tables.
    pub fn to_u64(self) -> u64 {
        u64::from(self.generation) << 32 | u64::from(self.index)
    }

    /// The connection of such a number.
    pub fn from_u64(number: u64) -> Self {
        let [a, b, c, d, e, f, g, h] = number.to_le_bytes();
        Self { index: u32::from_le_bytes([a, b, c, d]), generation: u32::from_le_bytes([e, f, g, h]) }
    }
}

/// A file that the thread's uring reads and writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileId(pub(crate) u32);

/// The caller's name for one file operation; comes back with its outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IoToken(pub u64);

/// How a file operation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum IoOutcome {
    /// Done, whole.
    Done {
        /// Bytes read or written, as many as were asked for; 0 for the others.
        bytes: u32,
    },
    /// A read met the end of the file: behind these bytes the buffer holds whatever it held before.
    Short {
        /// Bytes read, fewer than were asked for.
        bytes: u32,
    },
    /// Failed; how much was done isn't known. Never tried again by the runtime.
    Failed {
        /// The kernel's error number.
        errno: i32,
    },
}

impl IoOutcome {
    /// Whether exactly `bytes` were read or written.
    pub fn is_whole(self, bytes: u32) -> bool {
        self == Self::Done { bytes }
    }
}

/// A range of a slot, as part of a vectored write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SlotRange {
    /// The buffer.
    pub slot: Slot,
    /// First byte in it.
    pub offset: u32,
    /// Bytes.
    pub len: u32,
}

/// How a link came to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LinkKind {
    /// A peer connected to one of the listeners.
    Accepted {
        /// Beyond [`LinkLimits::links`](crate::LinkLimits::links): answer its first request `Busy` and close it (R43).
        over_limit: bool,
    },
    /// [`Io::connect`] succeeded.
    Connected,
}

/// Where a frame's payload goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Payload {
    /// The frame has none.
    None,
    /// Into this slot from `offset` on. The runtime holds a reference of its own until the payload is whole or the link closes.
    Into {
        /// The buffer.
        slot: Slot,
        /// First byte in it.
        offset: u32,
    },
    /// Read and thrown away; `on_payload` isn't called.
    Discard,
    /// The frame makes the link useless.
    Close(CloseReason),
}

/// Why a link closed, or never opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum CloseReason {
    /// The service closed it.
    #[error("closed here")]
    Local,
    /// The thread stops.
    #[error("this side is stopping")]
    Stopping,
    /// The peer ended the connection.
    #[error("closed by the peer")]
    Peer,
    /// The connection broke.
    #[error("the connection broke ({})", errno_text(*.errno))]
    Broken {
        /// The kernel's error number.
        errno: i32,
    },
    /// It couldn't be established.
    #[error("can't connect ({})", errno_text(*.errno))]
    Refused {
        /// The kernel's error number.
        errno: i32,
    },
    /// The bytes aren't a frame, or a damaged one.
    #[error("bad frame: {0}")]
    BadFrame(DecodePrefixError),
    /// The service found a frame to be against the protocol.
    #[error("protocol violation")]
    Protocol,
    /// No frame at all since the connection was accepted.
    #[error("no request after connecting")]
    HelloTimeout,
    /// A frame's head didn't become whole in time.
    #[error("half a frame, then silence")]
    HeadTimeout,
    /// A frame's payload came slower than the minimum rate.
    #[error("payload arrives too slowly")]
    SlowPayload,
    /// The peer takes what is sent to it slower than the minimum rate.
    #[error("the peer reads too slowly")]
    SlowReader,
    /// Nothing was said for a long time.
    #[error("idle")]
    Idle,
    /// Half-received frames of all links hold as much memory as they may.
    #[error("no memory for more half-received frames")]
    Memory,
}

pub(crate) fn errno_text(errno: i32) -> String {
    std::io::Error::from_raw_os_error(errno).to_string()
}

/// Why [`Io::send`] took nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum SendRefused {
    /// The link is closed or closing.
    #[error("the link is closed")]
    Closed,
    /// The link's queue is at its limit: the peer doesn't read. Pause the link, or close it.
    #[error("the link's queue is full")]
    Full,
}

/// Why a file operation wasn't begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum IoRefused {
    /// As many as may be are in flight ([`ThreadConfig::io_operations`](crate::ThreadConfig::io_operations)).
    #[error("too many file operations in flight")]
    Full,
}

/// A part of a program that lives on one thread and is called when something happened there.
///
/// Calls never nest: what a call asks of [`Io`] has its consequences in later calls. Nothing here may block.
#[expect(unused_variables, reason = "the names of unused parameters are documentation")]
pub trait Service {
    /// A link is open. After `Accepted` the peer speaks first.
    fn on_open(&mut self, io: &mut Io, link: LinkId, kind: LinkKind, peer: Option<SocketAddr>) {}
    /// A frame's prefix was decoded and its head's checksum is right. Says where the payload goes: [`Payload::None`] exactly if it
    /// has none. The payload's own checksum, where it isn't 0, is the service's to check.
    fn on_head(&mut self, io: &mut Io, link: LinkId, prefix: &Prefix, message: &[u8]) -> Payload;
    /// The payload of the link's last head is whole and in its place.
    fn on_payload(&mut self, io: &mut Io, link: LinkId) {}
    /// A link is closed, or couldn't be opened. Slots queued for it were released.
    fn on_close(&mut self, io: &mut Io, link: LinkId, reason: CloseReason) {}
    /// A frame sent with this token was handed to the kernel whole.
    fn on_sent(&mut self, io: &mut Io, link: LinkId, token: u64) {}
    /// A file operation ended.
    fn on_io(&mut self, io: &mut Io, token: IoToken, outcome: IoOutcome) {}
    /// One of the mailboxes attached to this thread may have items.
    fn on_mail(&mut self, io: &mut Io) {}
    /// The time given to [`Io::arm`] has come.
    fn on_timer(&mut self, io: &mut Io, now: Nanos) {}
    /// After each batch of other calls, before anything is sent: where a group commit closes.
    fn on_turn(&mut self, io: &mut Io, now: Nanos) {}
    /// The thread ends: all links are closed, all operations and tasks have ended. The last call.
    fn on_end(&mut self, io: &mut Io) {}
    /// [`ThreadHandle::stop`](crate::ThreadHandle::stop) was called. Unless overridden, stops at once.
    fn on_stop(&mut self, io: &mut Io) {
        io.stop();
    }
}
