//! File operations in flight: a table of records that own their slots until the kernel is done with them.
//!
//! A record holds a reference to each slot it names from submission to completion, so a caller that releases a slot, closes a link
//! or drops a future early can't free memory that the device still reads or writes. A short transfer is continued here; what
//! reaches the caller is whole, short at the end of the file, or failed.

use io_uring::squeue::Entry;
use io_uring::{opcode, types};
use wire::{Memory, Slot};

use crate::arena::Arena;
use crate::operation::{Operation, Target, on_target};
use crate::ring::Ring;
use crate::service::{IoOutcome, SlotRange};

/// Ranges in one vectored operation, at most (the kernel's `IOV_MAX`).
pub const RANGES_MAX: usize = 1024;

/// Who waits for an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Owner {
    /// The service, by its token.
    Service(u64),
    /// A background task, by its ticket.
    Background(u32),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    Read,
    Write,
    Flush,
    Allocate {
        len: u64,
    },
    /// Nothing at all.
    Nop,
}

/// One operation. Records are reused, so their vectors are allocated once.
#[derive(Debug)]
struct Record {
    owner: Owner,
    action: Action,
    target: Target,
    offset: u64,
    total: u32,
    done: u32,
    ranges: Vec<SlotRange>,
    /// What the kernel reads the ranges from; not touched while in flight.
    vectors: Vec<libc::iovec>,
    in_flight: bool,
}

/// What is asked for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Request<'a> {
    pub(crate) owner: Owner,
    pub(crate) action: Action,
    pub(crate) target: Target,
    pub(crate) offset: u64,
    pub(crate) ranges: &'a [SlotRange],
}

/// The table.
#[derive(Debug)]
pub(crate) struct DiskOperations {
    records: Vec<Record>,
    free: Vec<u32>,
    limit: usize,
    in_flight: usize,
}

impl DiskOperations {
    pub(crate) fn new(limit: usize) -> Self {
        Self { records: Vec::new(), free: Vec::new(), limit, in_flight: 0 }
    }

    pub(crate) fn in_flight(&self) -> usize {
        self.in_flight
    }

    pub(crate) fn is_full(&self) -> bool {
        self.in_flight >= self.limit
    }

    /// Queues an operation; the table must have room. Returns its number, by which it can be cancelled.
    pub(crate) fn begin(&mut self, ring: &mut Ring, arena: &mut Arena, request: Request<'_>) -> u32 {
        assert!(!self.is_full() && request.ranges.len() <= RANGES_MAX);
        let number = self.free.pop().unwrap_or_else(|| {
            self.records.push(Record {
                owner: Owner::Service(0),
                action: Action::Flush,
                target: Target::Fixed(0),
                offset: 0,
                total: 0,
                done: 0,
                ranges: Vec::new(),
                vectors: Vec::new(),
                in_flight: false,
            });
            u32::try_from(self.records.len() - 1).expect("the limit is below 2^32")
        });
        let record = &mut self.records[number as usize];
        assert!(!record.in_flight);
        record.owner = request.owner;
        record.action = request.action;
        record.target = request.target;
        record.offset = request.offset;
        record.done = 0;
        record.total = 0;
        record.in_flight = true;
        record.ranges.clear();
        for range in request.ranges {
            arena.retain(range.slot);
            record.ranges.push(*range);
            record.total = record.total.checked_add(range.len).expect("an operation moves less than 4 GiB");
        }
        self.in_flight += 1;
        record.submit(number, ring, arena);
        number
    }

    /// Takes a completion: `None` when the operation goes on, else who waited and the outcome. The slots' references are given back.
    pub(crate) fn complete(
        &mut self,
        number: u32,
        result: i32,
        ring: &mut Ring,
        arena: &mut Arena,
    ) -> Option<(Owner, IoOutcome)> {
        let record = &mut self.records[number as usize];
        assert!(record.in_flight, "a completion belongs to an operation in flight");
        let outcome = match u32::try_from(result) {
            Err(_) => IoOutcome::Failed { errno: -result },
            Ok(moved) => {
                let transfers = matches!(record.action, Action::Read | Action::Write);
                record.done += moved;
                if transfers && moved > 0 && record.done < record.total {
                    record.submit(number, ring, arena);
                    return None;
                }
                match record.action {
                    Action::Write if record.done < record.total => IoOutcome::Failed { errno: libc::EIO },
                    Action::Read if record.done < record.total => IoOutcome::Short { bytes: record.done },
                    _ => IoOutcome::Done { bytes: record.done },
                }
            }
        };
        record.in_flight = false;
        for range in record.ranges.drain(..) {
            arena.release(range.slot);
        }
        self.free.push(number);
        self.in_flight -= 1;
        Some((record.owner, outcome))
    }
}

impl Record {
    /// Queues what isn't done yet.
    fn submit(&mut self, number: u32, ring: &mut Ring, arena: &mut Arena) {
        let entry = match self.action {
            Action::Flush => on_target!(self.target, |fd| opcode::Fsync::new(fd)
                .flags(types::FsyncFlags::DATASYNC)
                .build()),
            Action::Allocate { len } => {
                on_target!(self.target, |fd| opcode::Fallocate::new(fd, len).offset(self.offset).build())
            }
            Action::Nop => opcode::Nop::new().build(),
            Action::Read | Action::Write => self.transfer(ring, arena),
        };
        let entry = entry.user_data(Operation::Disk(number).user_data());
        // SAFETY: the record keeps a reference to each slot and doesn't touch its vectors until the completion.
        unsafe { ring.push(&entry) };
    }

    fn transfer(&mut self, ring: &Ring, arena: &mut Arena) -> Entry {
        let offset = self.offset + u64::from(self.done);
        let mut skip = self.done;
        let mut pieces_differ = false;
        let mut first_piece = None;
        self.vectors.clear();
        for range in &self.ranges {
            let skipped = skip.min(range.len);
            skip -= skipped;
            let len = (range.len - skipped) as usize;
            if len == 0 {
                continue;
            }
            let (address, piece) = arena.address(range.slot, (range.offset + skipped) as usize, len);
            pieces_differ |= *first_piece.get_or_insert(piece) != piece;
            self.vectors.push(libc::iovec { iov_base: address.cast(), iov_len: len });
        }
        let piece = first_piece.filter(|_| arena.registered() && !pieces_differ);
        if let [only] = self.vectors[..] {
            let len = u32::try_from(only.iov_len).expect("a range has 32 bits");
            return self.transfer_one(only.iov_base.cast(), len, piece, offset);
        }
        let vectors = self.vectors.as_ptr();
        let count = u32::try_from(self.vectors.len()).expect("at most 1024");
        let piece = piece.filter(|_| ring.offered().vectored_fixed);
        on_target!(self.target, |fd| match (self.action, piece) {
            (Action::Read, Some(piece)) =>
                opcode::ReadvFixed::new(fd, vectors, count, piece).offset(offset).build(),
            (Action::Read, None) => opcode::Readv::new(fd, vectors, count).offset(offset).build(),
            (_, Some(piece)) => opcode::WritevFixed::new(fd, vectors, count, piece).offset(offset).build(),
            (_, None) => opcode::Writev::new(fd, vectors, count).offset(offset).build(),
        })
    }

    fn transfer_one(&self, address: *mut u8, len: u32, piece: Option<u16>, offset: u64) -> Entry {
        on_target!(self.target, |fd| match (self.action, piece) {
            (Action::Read, Some(piece)) =>
                opcode::ReadFixed::new(fd, address, len, piece).offset(offset).build(),
            (Action::Read, None) => opcode::Read::new(fd, address, len).offset(offset).build(),
            (_, Some(piece)) => opcode::WriteFixed::new(fd, address, len, piece).offset(offset).build(),
            (_, None) => opcode::Write::new(fd, address, len).offset(offset).build(),
        })
    }
}

/// The whole of a slot's first `len` bytes.
pub(crate) fn whole(slot: Slot, offset: u32, len: u32) -> [SlotRange; 1] {
    [SlotRange { slot, offset, len }]
}
