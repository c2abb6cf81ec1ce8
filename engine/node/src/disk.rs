//! Carries out a device's I/O on the thread's uring.
//!
//! The pure device (`journal`, `store`) asks by [`IoRequest`]; each is answered exactly once. A short transfer counts as failed: whoever sees it fences. A `Zero` is
//! cut into writes from one buffer of zeros, one at a time, so that it never fills the disk's queue.

use std::collections::VecDeque;
use std::path::PathBuf;

use journal::{IoEffects, IoFailure, IoOutcome, IoRequest, IoToken};
use runtime::{FileId, Io, SlotRange, StoreFile};
use wire::{Memory, Slot};

/// Bytes of one write of zeros.
const ZERO_WRITE_BYTES: u32 = 1 << 20;
/// Tag of the driver's own writes of zeros.
const ZERO_TAG: u8 = u8::MAX;
/// What a chunk store leaves of a file system when it grows: room for the metadata log, so that deletes work on a full disk, and for what else shares it.
pub(crate) const STORE_HEADROOM_BYTES: u64 = 128 << 20;
/// What the metadata log leaves: room for the cluster map, so that a full disk doesn't keep a node from starting.
pub(crate) const LOG_HEADROOM_BYTES: u64 = 16 << 20;
const ENOSPC: i32 = 28;
const EFBIG: i32 = 27;
const EDQUOT: i32 = 122;

/// One file, as a device sees it.
#[derive(Debug)]
pub(crate) struct Disk {
    file: FileId,
    path: PathBuf,
    headroom_bytes: u64,
    /// Allocations refused for want of headroom: each travels as an allocation of nothing and is answered when that ends.
    refused: Vec<u64>,
    zeros: Option<Slot>,
    zeroing: VecDeque<Zeroing>,
    /// A write of zeros is in flight.
    zeroing_now: bool,
    /// Requests that the uring had no room for.
    waiting: VecDeque<Waiting>,
    ranges: Vec<SlotRange>,
}

#[derive(Clone, Copy, Debug)]
struct Zeroing {
    io: IoToken,
    offset: u64,
    end: u64,
}

#[derive(Debug)]
struct Waiting {
    request: IoRequest,
    parts: Vec<SlotRange>,
}

impl Disk {
    /// Drives `file`, which the thread's uring learns of here. A file that can't be registered is a programmer error: there are few.
    pub(crate) fn new(io: &mut Io, file: &StoreFile, headroom_bytes: u64) -> Self {
        Self {
            file: io.register_file(file).expect("a descriptor to share"),
            path: file.path().into(),
            headroom_bytes,
            refused: Vec::new(),
            zeros: None,
            zeroing: VecDeque::new(),
            zeroing_now: false,
            waiting: VecDeque::new(),
            ranges: Vec::new(),
        }
    }

    /// Begins everything that was asked for.
    pub(crate) fn carry_out(&mut self, io: &mut Io, effects: &IoEffects) {
        for request in &effects.requests {
            self.ranges.clear();
            if let IoRequest::Write { parts, .. } = request {
                let parts = effects.parts_of(*parts);
                self.ranges.extend(parts.iter().map(|part| SlotRange {
                    slot: part.slot,
                    offset: part.offset,
                    len: part.length,
                }));
            }
            let ranges = std::mem::take(&mut self.ranges);
            if !self.waiting.is_empty() || !self.begin(io, request, &ranges) {
                self.waiting.push_back(Waiting { request: *request, parts: ranges.clone() });
            }
            self.ranges = ranges;
        }
    }

    /// An operation of the uring ended; returns what the device is told, if it is one of its own.
    pub(crate) fn on_io(
        &mut self,
        io: &mut Io,
        token: runtime::IoToken,
        outcome: runtime::IoOutcome,
    ) -> Option<(IoToken, IoOutcome)> {
        let refused = self.refused.iter().position(|refused| *refused == token.0);
        let token = IoToken::from_bits(token.0);
        let answer = if let Some(place) = refused {
            self.refused.swap_remove(place);
            Some((token, IoOutcome::Failed(IoFailure::NoSpace)))
        } else if token.tag() == ZERO_TAG {
            self.on_zeros(outcome)
        } else {
            Some((token, translate(outcome)))
        };
        while let Some(waiting) = self.waiting.pop_front() {
            if !self.begin(io, &waiting.request, &waiting.parts) {
                self.waiting.push_front(waiting);
                break;
            }
        }
        self.write_zeros(io);
        answer
    }

    /// Whether an operation only carries a refusal: its outcome says nothing about the disk.
    pub(crate) fn is_refusal(&self, token: runtime::IoToken) -> bool {
        self.refused.contains(&token.0)
    }

    /// Whether the uring took the request.
    fn begin(&mut self, io: &mut Io, request: &IoRequest, parts: &[SlotRange]) -> bool {
        let begun = match *request {
            IoRequest::Read { io: token, offset, slot, slot_offset, length, background } => {
                let token = runtime::IoToken(token.to_bits());
                let range = SlotRange { slot, offset: slot_offset, len: length };
                if background {
                    return io.read_background(self.file, offset, range, token).is_ok();
                }
                io.read(self.file, offset, range, token)
            }
            IoRequest::Write { io: token, offset, .. } => {
                io.write(self.file, offset, parts, runtime::IoToken(token.to_bits()))
            }
            IoRequest::Flush { io: token } => io.flush(self.file, runtime::IoToken(token.to_bits())),
            IoRequest::Allocate { io: token, offset, length } => {
                if !self.has_room(length) {
                    // What carries the answer must have no effect: a flush would take an error with it that a batch's own flush then isn't told (R31).
                    let begun = io.allocate(self.file, 0, 0, runtime::IoToken(token.to_bits())).is_ok();
                    if begun {
                        self.refused.push(token.to_bits());
                    }
                    return begun;
                }
                io.allocate(self.file, offset, length, runtime::IoToken(token.to_bits()))
            }
            IoRequest::Zero { io: token, offset, length } => {
                self.zeroing.push_back(Zeroing { io: token, offset, end: offset + length });
                self.write_zeros(io);
                return true;
            }
        };
        begun.is_ok()
    }

    /// Whether the file may grow by so many bytes and leave the headroom. Where the file system doesn't say, the allocation itself will.
    fn has_room(&self, length: u64) -> bool {
        !runtime::file_system(&self.path).is_ok_and(|system| system.free_bytes < length + self.headroom_bytes)
    }

    /// Begins the next write of zeros, unless one is in flight or there is no room now; then the next completion comes back here.
    fn write_zeros(&mut self, io: &mut Io) {
        let Some(next) = self.zeroing.front().copied() else {
            return;
        };
        if self.zeroing_now {
            return;
        }
        let Some(slot) = self.zero_slot(io) else {
            return;
        };
        let bytes =
            u32::try_from((next.end - next.offset).min(u64::from(ZERO_WRITE_BYTES))).expect("at most 1 MiB");
        let range = [SlotRange { slot, offset: 0, len: bytes }];
        let token = runtime::IoToken(IoToken::new(ZERO_TAG, u64::from(bytes)).to_bits());
        if io.write(self.file, next.offset, &range, token).is_ok() {
            self.zeroing_now = true;
            if let Some(front) = self.zeroing.front_mut() {
                front.offset += u64::from(bytes);
            }
        }
    }

    /// A write of zeros ended; returns the answer to the device's request when it was the last.
    fn on_zeros(&mut self, outcome: runtime::IoOutcome) -> Option<(IoToken, IoOutcome)> {
        self.zeroing_now = false;
        let done = self.zeroing.front().is_none_or(|zeroing| zeroing.offset == zeroing.end);
        let answer = translate(outcome);
        if answer != IoOutcome::Done || done {
            return self.zeroing.pop_front().map(|zeroing| (zeroing.io, answer));
        }
        None
    }

    /// The buffer of zeros, made at its first use and kept.
    fn zero_slot(&mut self, io: &mut Io) -> Option<Slot> {
        if self.zeros.is_none() {
            let slot = io.memory().allocate(ZERO_WRITE_BYTES as usize)?;
            io.memory().bytes_mut(slot).fill(0);
            self.zeros = Some(slot);
        }
        self.zeros
    }
}

fn translate(outcome: runtime::IoOutcome) -> IoOutcome {
    match outcome {
        runtime::IoOutcome::Done { .. } => IoOutcome::Done,
        runtime::IoOutcome::Failed { errno: ENOSPC | EDQUOT | EFBIG } => {
            IoOutcome::Failed(IoFailure::NoSpace)
        }
        runtime::IoOutcome::Failed { .. } => IoOutcome::Failed(IoFailure::Device),
    }
}
