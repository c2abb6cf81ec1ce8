//! The buffer that opening reads through: one run of bytes at a time.

use wire::{Memory, Slot};

use super::tag;
use crate::io::{IoEffects, IoRequest, IoToken};

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Window {
    slot: Option<Slot>,
    capacity: u32,
    offset: u64,
    length: u32,
    reading: bool,
    failed: bool,
    /// What the last read was made for.
    wish: Wish,
    /// What was wished for when a read failed last, and how often that read failed. Whoever reads a length first and then so many bytes
    /// wishes for both by turns, and the first may be readable where the second isn't.
    bad: Wish,
    tries: u8,
    /// A read ahead up to here failed: what lies before is read piece by piece, or each piece would wait for the bad sector again.
    careful_until: u64,
}

/// So many bytes at this offset.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Wish {
    offset: u64,
    length: u32,
}

/// A read that fails is tried so often, the second time without what was read ahead: a passing error, or a bad sector further on, must
/// not keep a store from opening.
pub(super) const READ_TRIES: u8 = 3;

/// What became of a wish for bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Want {
    /// They are in the buffer, from this byte of it on.
    Here(usize),
    /// They are being read.
    Later,
    /// They can't be read.
    Failed,
}

impl Window {
    /// Takes a buffer; false where there is none.
    pub(super) fn open<M: Memory>(&mut self, capacity: u32, memory: &mut M) -> bool {
        self.slot = memory.allocate(capacity as usize);
        self.capacity = capacity;
        self.slot.is_some()
    }

    /// Gives the buffer back.
    pub(super) fn close<M: Memory>(&mut self, memory: &mut M) {
        if let Some(slot) = self.slot.take() {
            memory.release(slot);
        }
    }

    pub(super) fn slot(&self) -> Slot {
        self.slot.expect("the window is open while it is used")
    }

    /// Wants `length` bytes at `offset`; reads up to `ahead` bytes where they aren't here.
    pub(super) fn want(&mut self, offset: u64, length: u32, ahead: u32, io: &mut IoEffects) -> Want {
        assert!(length <= self.capacity, "no reader wants more than the window was opened for");
        if self.reading {
            return Want::Later;
        }
        let end = self.offset + u64::from(self.length);
        if !self.failed && offset >= self.offset && offset + u64::from(length) <= end {
            let at = offset - self.offset;
            return Want::Here(usize::try_from(at).expect("below the window's capacity"));
        }
        let wish = Wish { offset, length };
        if self.bad == wish && self.tries == READ_TRIES {
            return Want::Failed;
        }
        let ahead = if offset < self.careful_until { 0 } else { ahead.min(self.capacity) };
        self.wish = wish;
        self.read(offset, length.max(ahead), io);
        Want::Later
    }

    fn read(&mut self, offset: u64, length: u32, io: &mut IoEffects) {
        (self.offset, self.length, self.reading, self.failed) = (offset, length, true, false);
        io.requests.push(IoRequest::Read {
            io: IoToken::new(tag::WINDOW, 0),
            offset,
            slot: self.slot(),
            slot_offset: 0,
            length,
            background: false,
        });
    }

    pub(super) fn on_read(&mut self, failed: bool) {
        self.reading = false;
        self.failed = failed;
        if failed {
            self.tries = if self.bad == self.wish { self.tries + 1 } else { 1 };
            self.bad = self.wish;
            self.careful_until = self.careful_until.max(self.offset + u64::from(self.length));
        }
    }
}
