//! Carries out a device's I/O on the thread's uring.
//!
//! The pure device (`journal`, `store`) asks by [`IoRequest`]; each is answered exactly once. A short transfer counts as failed: whoever sees it fences. A `Zero` is
//! cut into writes from one buffer of zeros, one at a time, so that it never fills the disk's queue.
//!
//! Background reads (scrub, cleaning) have a queue of their own and are held back: few of their bytes are in flight while anything of the
//! foreground is, so that it finds the disk's queue short. Nothing of the foreground ever waits behind one of them here.

use std::collections::VecDeque;
use std::path::PathBuf;

use journal::{IoEffects, IoFailure, IoOutcome, IoRequest, IoToken};
use runtime::{FileId, Io, SlotRange, StoreFile};
use wire::{Memory, Slot};

use crate::read_depth::ReadDepth;

/// Bytes of one write of zeros.
const ZERO_WRITE_BYTES: u32 = 1 << 20;
/// Tag of the driver's own writes of zeros.
const ZERO_TAG: u8 = u8::MAX;
/// Bytes of background reads in flight while the foreground has something in flight; a single larger read always may be.
const BACKGROUND_BYTES_BESIDE: u32 = 1 << 20;
/// Bytes of background reads in flight while it has nothing: what cleaning reads at once.
const BACKGROUND_BYTES_ALONE: u32 = 8 << 20;
/// What a chunk store leaves of a file system when it grows: room for the metadata log, so that deletes work on a full disk, and for what else shares it.
pub const STORE_HEADROOM_BYTES: u64 = 256 << 20;
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
    /// Allocations refused for want of headroom: each travels as an operation that does nothing, and is answered when that ends.
    refused: Vec<u64>,
    zeros: Option<Slot>,
    zeroing: VecDeque<Zeroing>,
    /// A write of zeros is in flight.
    zeroing_now: bool,
    /// Requests that the uring had no room for.
    waiting: VecDeque<Waiting>,
    /// Operations in flight that aren't background reads or writes of zeros.
    foreground: usize,
    /// Background reads in flight: token and bytes.
    background: Vec<(u64, u32)>,
    /// Their bytes.
    background_bytes: u32,
    /// Background reads that are held back. As many as the device has under way: the store, 64 of cleaning and one of the scrubber.
    held_back: VecDeque<IoRequest>,
    /// Reads of the foreground that wait for the disk to answer others; as many as the store has under way.
    reads: VecDeque<IoRequest>,
    read_depth: ReadDepth,
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
            foreground: 0,
            background: Vec::new(),
            background_bytes: 0,
            held_back: VecDeque::new(),
            reads: VecDeque::new(),
            read_depth: ReadDepth::default(),
            ranges: Vec::new(),
        }
    }

    /// Begins everything that was asked for.
    pub(crate) fn carry_out(&mut self, io: &mut Io, effects: &IoEffects) {
        for request in &effects.requests {
            match request {
                IoRequest::Read { background: true, .. } => {
                    self.held_back.push_back(*request);
                    continue;
                }
                IoRequest::Read { io, .. } if is_owners(*io) => {
                    self.reads.push_back(*request);
                    continue;
                }
                _ => {}
            }
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
        self.begin_reads(io);
        self.begin_background(io);
    }

    /// Whether nothing that was begun is under way.
    pub(crate) fn is_idle(&self) -> bool {
        self.foreground == 0
            && self.background.is_empty()
            && self.held_back.is_empty()
            && self.reads.is_empty()
            && self.waiting.is_empty()
            && self.zeroing.is_empty()
    }

    /// A turn of the thread ends.
    pub(crate) fn end_turn(&mut self) {
        self.read_depth.end_turn();
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
        self.note_ended(token);
        let answer = if let Some(place) = refused {
            self.refused.swap_remove(place);
            Some((token, IoOutcome::Failed(IoFailure::NoSpace)))
        } else if token.tag() == ZERO_TAG {
            self.on_zeros(outcome)
        } else {
            Some((token, self.translate(outcome)))
        };
        while let Some(waiting) = self.waiting.pop_front() {
            if !self.begin(io, &waiting.request, &waiting.parts) {
                self.waiting.push_front(waiting);
                break;
            }
        }
        self.write_zeros(io);
        self.begin_reads(io);
        self.begin_background(io);
        answer
    }

    /// Counts an operation that ended out.
    fn note_ended(&mut self, token: IoToken) {
        if token.tag() == ZERO_TAG {
            return;
        }
        // Mostly there are none.
        if let Some(place) = self.background.iter().position(|(read, _)| *read == token.to_bits()) {
            self.background_bytes -= self.background.swap_remove(place).1;
            return;
        }
        self.foreground -= 1;
        if is_owners(token) {
            self.read_depth.end();
        }
    }

    /// Begins reads as far as the disk is to have them.
    fn begin_reads(&mut self, io: &mut Io) {
        while !self.reads.is_empty() && self.waiting.is_empty() && self.read_depth.admits(self.reads.len()) {
            let Some(request) = self.reads.pop_front() else { return };
            if !self.begin(io, &request, &[]) {
                self.reads.push_front(request);
                return;
            }
            self.read_depth.begin();
        }
    }

    /// Begins background reads as far as the foreground leaves room.
    fn begin_background(&mut self, io: &mut Io) {
        while let Some(IoRequest::Read { io: token, offset, slot, slot_offset, length, .. }) =
            self.held_back.front().copied()
        {
            let limit = if self.foreground == 0 { BACKGROUND_BYTES_ALONE } else { BACKGROUND_BYTES_BESIDE };
            let is_room = self.background.is_empty() || self.background_bytes + length <= limit;
            let range = SlotRange { slot, offset: slot_offset, len: length };
            // A full uring has operations in flight: their ends lead here again.
            if !is_room || io.read(self.file, offset, range, runtime::IoToken(token.to_bits())).is_err() {
                return;
            }
            self.background.push((token.to_bits(), length));
            self.background_bytes += length;
            self.held_back.pop_front();
        }
    }

    /// Whether the uring took the request.
    fn begin(&mut self, io: &mut Io, request: &IoRequest, parts: &[SlotRange]) -> bool {
        let begun = match *request {
            IoRequest::Read { io: token, offset, slot, slot_offset, length, .. } => {
                let range = SlotRange { slot, offset: slot_offset, len: length };
                io.read(self.file, offset, range, runtime::IoToken(token.to_bits()))
            }
            IoRequest::Write { io: token, offset, .. } => {
                io.write(self.file, offset, parts, runtime::IoToken(token.to_bits()))
            }
            IoRequest::Flush { io: token } => io.flush(self.file, runtime::IoToken(token.to_bits())),
            IoRequest::Allocate { io: token, offset, length } => {
                if self.has_room(length) {
                    io.allocate(self.file, offset, length, runtime::IoToken(token.to_bits()))
                } else {
                    // What carries the answer must have no effect: a flush would take an error with it that a batch's own flush then isn't told (R31).
                    let begun = io.nop(self.file, runtime::IoToken(token.to_bits()));
                    if begun.is_ok() {
                        self.refused.push(token.to_bits());
                    }
                    begun
                }
            }
            IoRequest::Zero { io: token, offset, length } => {
                self.zeroing.push_back(Zeroing { io: token, offset, end: offset + length });
                self.write_zeros(io);
                return true;
            }
        };
        self.foreground += usize::from(begun.is_ok());
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
        let answer = self.translate(outcome);
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

    fn translate(&self, outcome: runtime::IoOutcome) -> IoOutcome {
        match outcome {
            runtime::IoOutcome::Done { .. } => IoOutcome::Done,
            runtime::IoOutcome::Short { bytes } => {
                let path = self.path.display();
                tracing::warn!(%path, bytes, "a read met the end of the file: it has become shorter");
                IoOutcome::Failed(IoFailure::Device)
            }
            runtime::IoOutcome::Failed { errno: ENOSPC | EDQUOT | EFBIG } => {
                IoOutcome::Failed(IoFailure::NoSpace)
            }
            runtime::IoOutcome::Failed { .. } => IoOutcome::Failed(IoFailure::Device),
        }
    }
}

/// Whether it is a chunk's read: recovery's own have few, one behind the other.
fn is_owners(token: IoToken) -> bool {
    token.tag() >= IoToken::OWNER_TAG_MIN
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use runtime::{LinkId, Payload, Receiver, Sender, Service, ThreadConfig, ThreadHandle, mailbox, serve};
    use wire::Prefix;

    use super::*;

    type Step = Box<dyn FnOnce(&mut Io, &mut Disk) + Send>;

    /// A thread with a disk, that does what a test sends it and tells each answer.
    struct Bench {
        steps: Receiver<Step>,
        disk: Disk,
        answers: mpsc::Sender<(IoToken, IoOutcome)>,
    }

    impl Service for Bench {
        fn on_head(&mut self, _: &mut Io, _: LinkId, _: &Prefix, _: &[u8]) -> Payload {
            Payload::None
        }

        fn on_mail(&mut self, io: &mut Io) {
            while let Some(step) = self.steps.pop() {
                step(io, &mut self.disk);
            }
        }

        fn on_io(&mut self, io: &mut Io, token: runtime::IoToken, outcome: runtime::IoOutcome) {
            if let Some(answer) = self.disk.on_io(io, token, outcome) {
                let _ = self.answers.send(answer);
            }
        }
    }

    const FILE_BYTES: usize = 9 << 20;
    const MIB: u32 = 1 << 20;

    struct Fixture {
        _directory: tempfile::TempDir,
        steps: Sender<Step>,
        answers: mpsc::Receiver<(IoToken, IoOutcome)>,
        handle: ThreadHandle,
    }

    impl Fixture {
        fn new() -> Self {
            let directory =
                tempfile::Builder::new().prefix("catena-disk-").tempdir_in("/var/tmp").expect("a directory");
            let path = directory.path().join("store");
            std::fs::write(&path, vec![7; FILE_BYTES]).expect("written");
            let (steps, receiver) = mailbox::<Step>(16);
            let (told, answers) = mpsc::channel();
            let config = ThreadConfig { arena_bytes: 96 << 20, ..ThreadConfig::new("disk") };
            let handle = serve(config, move |io| {
                io.attach(&receiver);
                let file = StoreFile::open(&path).expect("opened");
                Bench { steps: receiver, disk: Disk::new(io, &file, 0), answers: told }
            })
            .expect("started");
            Self { _directory: directory, steps, answers, handle }
        }

        fn run<T: Send + 'static>(&self, step: impl FnOnce(&mut Io, &mut Disk) -> T + Send + 'static) -> T {
            let (told, result) = mpsc::channel();
            let boxed: Step = Box::new(move |io, disk| {
                let _ = told.send(step(io, disk));
            });
            assert!(self.steps.send(boxed).is_ok(), "room");
            result.recv_timeout(Duration::from_secs(20)).expect("no hang")
        }

        fn answer(&self) -> (IoToken, IoOutcome) {
            self.answers.recv_timeout(Duration::from_secs(20)).expect("an answer")
        }

        fn stop(self) {
            self.handle.stop();
            self.handle.join().expect("ended well");
        }
    }

    fn read(io: &mut Io, key: u64, offset: u64, length: u32, background: bool) -> IoEffects {
        let slot = io.memory().allocate(length as usize).expect("room");
        let read =
            IoRequest::Read { io: IoToken::new(64, key), offset, slot, slot_offset: 0, length, background };
        IoEffects { requests: vec![read], ..IoEffects::default() }
    }

    /// A read behind the end of a file that was cut counted as done: the buffer kept what the reader before had left there, for a
    /// scrubber the bytes of the very chunk.
    #[test]
    fn a_read_that_meets_the_files_end_has_failed() {
        let fixture = Fixture::new();
        let end = FILE_BYTES as u64;
        for (key, (offset, background)) in
            [(end - 4096, false), (end - 4096, true), (end, false), (end, true)].into_iter().enumerate()
        {
            fixture.run(move |io, disk| {
                let asked = read(io, key as u64, offset, 8192, background);
                disk.carry_out(io, &asked);
            });
            let failed = IoOutcome::Failed(IoFailure::Device);
            assert_eq!(fixture.answer(), (IoToken::new(64, key as u64), failed));
        }
        fixture.stop();
    }

    /// Cleaning's 64 reads and the scrubber's one were more than the 64 background tasks that there may be: from the last one on,
    /// every write, flush and read of a client queued behind it.
    #[test]
    fn the_foreground_never_waits_behind_background_reads() {
        const READS: u64 = 70;
        let fixture = Fixture::new();
        let (alone, beside) = fixture.run(|io, disk| {
            for key in 0..READS {
                let asked = read(io, key, (key % 8) << 20, MIB, true);
                disk.carry_out(io, &asked);
            }
            let alone = disk.background_bytes;
            let asked = read(io, READS, 0, 4096, false);
            disk.carry_out(io, &asked);
            (alone, (disk.foreground, disk.waiting.len(), io.operations_in_flight()))
        });
        assert_eq!(alone, BACKGROUND_BYTES_ALONE, "as much as there may be");
        assert_eq!(beside, (1, 0, 9), "the client's read is with the kernel");
        for _ in 0..=READS {
            assert_eq!(fixture.answer().1, IoOutcome::Done);
        }
        let left = fixture.run(|_, disk| (disk.foreground, disk.background_bytes, disk.held_back.len()));
        assert_eq!(left, (0, 0, 0));
        fixture.stop();
    }

    #[test]
    fn background_reads_are_held_back_beside_the_foreground() {
        let fixture = Fixture::new();
        let seen = fixture.run(|io, disk| {
            let asked = IoEffects {
                requests: vec![IoRequest::Flush { io: IoToken::new(1, 0) }],
                ..IoEffects::default()
            };
            disk.carry_out(io, &asked);
            let mut seen = Vec::new();
            for (key, length) in [(0, MIB / 2), (1, MIB / 2), (2, 4096)] {
                let asked = read(io, key, 0, length, true);
                disk.carry_out(io, &asked);
                seen.push((disk.background.len(), disk.held_back.len()));
            }
            seen
        });
        assert_eq!(seen, [(1, 0), (2, 0), (2, 1)]);
        for _ in 0..4 {
            assert_eq!(fixture.answer().1, IoOutcome::Done);
        }
        fixture.stop();
    }

    /// R31: a refusal once travelled as a flush, which took an error with it that a batch's own flush then wasn't told; then as an
    /// allocation that failed on purpose, whose error the log mustn't show.
    #[test]
    fn a_refused_allocation_leaves_the_disk_alone() {
        let fixture = Fixture::new();
        let (flush, allocation) = (IoToken::new(1, 0), IoToken::new(2, 0));
        fixture.run(move |io, disk| {
            disk.headroom_bytes = u64::MAX / 2;
            let length = u64::from(MIB);
            let requests = vec![
                IoRequest::Flush { io: flush },
                IoRequest::Allocate { io: allocation, offset: FILE_BYTES as u64, length },
            ];
            disk.carry_out(io, &IoEffects { requests, ..IoEffects::default() });
        });
        let mut answers = [fixture.answer(), fixture.answer()];
        answers.sort_by_key(|(token, _)| token.to_bits());
        let refused = IoOutcome::Failed(IoFailure::NoSpace);
        assert_eq!(answers, [(flush, IoOutcome::Done), (allocation, refused)]);
        // The token is free again: what it names next has its own outcome.
        fixture.run(move |io, disk| {
            disk.headroom_bytes = 0;
            let asked = IoRequest::Allocate { io: allocation, offset: FILE_BYTES as u64, length: 4096 };
            disk.carry_out(io, &IoEffects { requests: vec![asked], ..IoEffects::default() });
            assert!(disk.refused.is_empty());
        });
        assert_eq!(fixture.answer(), (allocation, IoOutcome::Done));
        fixture.stop();
    }

    /// Stopping cancelled the scrubber's read under way, and an orderly stop reported a damaged chunk.
    #[test]
    fn stopping_fails_no_read() {
        let fixture = Fixture::new();
        fixture.run(|io, disk| {
            for key in 0..8 {
                let asked = read(io, key, key << 20, MIB, true);
                disk.carry_out(io, &asked);
            }
            io.stop();
        });
        for _ in 0..8 {
            assert_eq!(fixture.answer().1, IoOutcome::Done);
        }
        fixture.handle.join().expect("ended well");
    }
}
