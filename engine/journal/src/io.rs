//! The I/O that a [`crate::Device`] asks for, as values. The driver executes it against the file or device and answers each request by
//! its token, exactly once.
//!
//! What the driver owes: one descriptor for everything (R33); a request's slots referenced until it has ended; a short transfer
//! continued or reported as failed; `Flush` a real cache flush (`fdatasync`); `Zero` real writes of zeros, not an unwritten extent; no
//! order between requests is assumed beyond answers that were given.

use wire::Slot;

/// Names one request until it is answered: the part that asked, and its own key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IoToken(u64);

impl IoToken {
    const KEY_BITS: u32 = 56;
    /// Tags from here on belong to the device's owner.
    pub const OWNER_TAG_MIN: u8 = 64;

    /// The token of `tag`'s request `key`, of which 56 bits count.
    pub fn new(tag: u8, key: u64) -> Self {
        Self(u64::from(tag) << Self::KEY_BITS | key & ((1 << Self::KEY_BITS) - 1))
    }

    /// The token as one number, for a driver's own tables.
    pub fn to_bits(self) -> u64 {
        self.0
    }

    /// The token of such a number.
    pub fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// Who asked.
    pub fn tag(self) -> u8 {
        self.0.to_be_bytes()[0]
    }

    /// The asker's own name for the request.
    pub fn key(self) -> u64 {
        self.0 & ((1 << Self::KEY_BITS) - 1)
    }
}

/// A piece of a gathered write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Part {
    /// The buffer.
    pub slot: Slot,
    /// First byte in the buffer, a multiple of 4,096.
    pub offset: u32,
    /// Bytes, a multiple of 4,096.
    pub length: u32,
}

/// Some of [`IoEffects::parts`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PartRange {
    /// The first.
    pub start: u32,
    /// How many.
    pub count: u32,
}

/// One request. Offsets and lengths are multiples of 4,096.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum IoRequest {
    /// Read `length` bytes at `offset` into the slot from `slot_offset` on.
    Read {
        /// Answer to this.
        io: IoToken,
        /// In the file.
        offset: u64,
        /// Into this buffer.
        slot: Slot,
        /// From this byte of it on.
        slot_offset: u32,
        /// Bytes.
        length: u32,
        /// Scrub, cleaning: may wait behind everything else.
        background: bool,
    },
    /// Write the parts, one after the other, at `offset`.
    Write {
        /// Answer to this.
        io: IoToken,
        /// In the file.
        offset: u64,
        /// Of [`IoEffects::parts`].
        parts: PartRange,
        /// All parts' bytes.
        length: u32,
        /// Checkpoints: may wait behind everything else.
        background: bool,
    },
    /// Make every write that was answered before this request durable.
    Flush {
        /// Answer to this.
        io: IoToken,
    },
    /// Reserve space and extend the file to `offset + length` (`fallocate`); reads there yield anything.
    Allocate {
        /// Answer to this.
        io: IoToken,
        /// The present end.
        offset: u64,
        /// Bytes.
        length: u64,
    },
    /// Write zeros.
    Zero {
        /// Answer to this.
        io: IoToken,
        /// In the file.
        offset: u64,
        /// Bytes.
        length: u64,
    },
}

const _: () = assert!(size_of::<IoRequest>() <= 64);

/// What came of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum IoOutcome {
    /// Done, whole.
    Done,
    /// Not done, or nobody knows.
    Failed(IoFailure),
}

/// Why a request failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum IoFailure {
    /// `ENOSPC`, `EDQUOT`, `EFBIG`: the file system has no room.
    NoSpace,
    /// Anything else: `EIO`, a short transfer that would not continue.
    Device,
}

/// What one call asked for. The caller owns it, executes it, clears it and uses it again: no allocation once it has grown.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct IoEffects {
    /// The requests.
    pub requests: Vec<IoRequest>,
    /// Pieces of the gathered writes.
    pub parts: Vec<Part>,
}

impl IoEffects {
    /// Empties both lists and keeps their memory.
    pub fn clear(&mut self) {
        self.requests.clear();
        self.parts.clear();
    }

    /// Takes another's requests over; their ranges of parts move with them.
    pub fn take_over(&mut self, other: &Self) {
        for request in &other.requests {
            match *request {
                IoRequest::Write { io, offset, parts, background, .. } => {
                    self.write(io, offset, other.parts_of(parts).iter().copied(), background);
                }
                request => self.requests.push(request),
            }
        }
    }

    /// Adds a gathered write.
    pub fn write(
        &mut self,
        io: IoToken,
        offset: u64,
        parts: impl IntoIterator<Item = Part>,
        background: bool,
    ) {
        let start = u32::try_from(self.parts.len()).expect("bounded by the effects of one event");
        self.parts.extend(parts);
        let end = u32::try_from(self.parts.len()).expect("bounded by the effects of one event");
        let length = self.parts[start as usize..].iter().map(|part| part.length).sum();
        let parts = PartRange { start, count: end - start };
        self.requests.push(IoRequest::Write { io, offset, parts, length, background });
    }

    /// The pieces of a gathered write.
    pub fn parts_of(&self, range: PartRange) -> &[Part] {
        &self.parts[range.start as usize..(range.start + range.count) as usize]
    }
}
