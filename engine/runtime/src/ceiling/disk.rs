//! Direct reads and writes at a fixed depth.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use io_uring::{opcode, types};
use wire::{Memory, Nanos};

use super::{Ceiling, CeilingError, Count, best};
use crate::arena::{Arena, PageKind};
use crate::ring::{Completion, Ring, Wait};
use crate::{clock, sys, thread};

/// Which places are read or written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// One after another.
    Sequential,
    /// Anywhere.
    Random,
}

/// One kind of disk load.
#[derive(Clone, Debug)]
pub struct DiskLoad {
    /// Bytes of one operation, a multiple of 4,096 up to 8 MiB.
    pub operation_bytes: usize,
    /// Operations in flight; each is tried.
    pub depths: Vec<u32>,
    /// Which places.
    pub order: Order,
    /// Writes: whether, after each `depth` writes, they are flushed, and the next begin after that (a group commit).
    pub flush: bool,
    /// How long at each depth.
    pub time: Duration,
}

/// A nameless file to measure with: it is gone when this is dropped, or the process is.
#[derive(Debug)]
pub struct Scratch {
    file: File,
    directory: PathBuf,
    bytes: u64,
}

const FILL_BYTES: usize = 1 << 20;

impl Scratch {
    /// A file of `bytes` (rounded up to a MiB) in a directory, reserved and zero-written: its blocks are as a store's recycled ones.
    pub fn new(directory: &Path, bytes: u64) -> Result<Self, CeilingError> {
        let bytes = bytes.next_multiple_of(FILL_BYTES as u64);
        let error = |step| {
            let directory = directory.to_path_buf();
            move |source| CeilingError::File { directory, step, source }
        };
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_TMPFILE | libc::O_DIRECT)
            .open(directory)
            .map_err(error("making a nameless file for direct I/O"))?;
        sys::allocate(file.as_fd(), 0, bytes).map_err(error("reserving space"))?;
        let scratch = Self { file, directory: directory.to_path_buf(), bytes };
        let mut bench = Bench::new(&scratch, FILL_BYTES, 16)?;
        let fill = Load { write: true, flush: false, order: Order::Sequential, depth: 16 };
        bench.run(fill, Until::Operations(bytes / FILL_BYTES as u64))?;
        scratch.file.sync_all().map_err(error("flushing"))?;
        Ok(scratch)
    }

    fn error(&self, step: &'static str, source: io::Error) -> CeilingError {
        CeilingError::File { directory: self.directory.clone(), step, source }
    }
}

/// The best read rate. `None`: no depths were given.
pub fn disk_read(scratch: &Scratch, load: &DiskLoad) -> Result<Option<Ceiling>, CeilingError> {
    best(load.depths.iter().map(|&depth| measure(scratch, load, depth, false)))
}

/// The best write rate. `None`: no depths were given.
pub fn disk_write(scratch: &Scratch, load: &DiskLoad) -> Result<Option<Ceiling>, CeilingError> {
    best(load.depths.iter().map(|&depth| measure(scratch, load, depth, true)))
}

fn measure(scratch: &Scratch, load: &DiskLoad, depth: u32, write: bool) -> Result<Ceiling, CeilingError> {
    let mut bench = Bench::new(scratch, load.operation_bytes, depth)?;
    let count = bench.run(
        Load { write, flush: load.flush && write, order: load.order, depth },
        Until::Time(u64::try_from(load.time.as_nanos()).unwrap_or(u64::MAX)),
    )?;
    let report = bench.arena.report();
    Ok(count.rates(report.pages != PageKind::Small, report.registered))
}

#[derive(Clone, Copy, Debug)]
struct Load {
    write: bool,
    flush: bool,
    order: Order,
    depth: u32,
}

#[derive(Clone, Copy, Debug)]
enum Until {
    Operations(u64),
    Time(u64),
}

/// A uring and its buffers, one per operation in flight. The uring is dropped first.
struct Bench<'a> {
    ring: Ring,
    arena: Arena,
    addresses: Vec<(*mut u8, u16)>,
    scratch: &'a Scratch,
    operation_bytes: usize,
    next: u64,
    random: u64,
}

const FLUSH: u64 = u64::MAX;

impl<'a> Bench<'a> {
    fn new(scratch: &'a Scratch, operation_bytes: usize, depth: u32) -> Result<Self, CeilingError> {
        assert!(operation_bytes > 0 && operation_bytes.is_multiple_of(4096));
        let mut ring = Ring::new(depth.next_power_of_two().max(8))?;
        ring.register_self();
        let slot_bytes = operation_bytes.next_power_of_two();
        let mut arena = Arena::new(slot_bytes * depth as usize)?;
        thread::register_arena(&mut ring, &mut arena);
        ring.register_file_table(1)
            .and_then(|()| ring.register_file(0, Some(scratch.file.as_fd())))
            .map_err(|source| scratch.error("registering the file", source))?;
        let addresses = (0..depth)
            .map(|_| {
                let slot = arena.allocate(operation_bytes).expect("the arena was made for them");
                arena.address(slot, 0, operation_bytes)
            })
            .collect();
        Ok(Self { ring, arena, addresses, scratch, operation_bytes, next: 0, random: 0x9E37_79B9_7F4A_7C15 })
    }

    fn offset(&mut self, order: Order) -> u64 {
        let places = (self.scratch.bytes / self.operation_bytes as u64).max(1);
        let place = match order {
            Order::Sequential => {
                self.next += 1;
                (self.next - 1) % places
            }
            Order::Random => {
                self.random ^= self.random << 13;
                self.random ^= self.random >> 7;
                self.random ^= self.random << 17;
                self.random % places
            }
        };
        place * self.operation_bytes as u64
    }

    fn push(&mut self, load: Load, buffer: usize) {
        let offset = self.offset(load.order);
        let (address, piece) = self.addresses[buffer];
        let len = u32::try_from(self.operation_bytes).expect("at most 8 MiB");
        let file = types::Fixed(0);
        let entry = match (load.write, self.arena.registered()) {
            (true, true) => opcode::WriteFixed::new(file, address, len, piece).offset(offset).build(),
            (true, false) => opcode::Write::new(file, address, len).offset(offset).build(),
            (false, true) => opcode::ReadFixed::new(file, address, len, piece).offset(offset).build(),
            (false, false) => opcode::Read::new(file, address, len).offset(offset).build(),
        };
        let entry = entry.user_data(buffer as u64);
        // SAFETY: the arena outlives the uring's operations: `run` waits for all of them.
        unsafe { self.ring.push(&entry) };
    }

    fn push_flush(&mut self) {
        let entry = opcode::Fsync::new(types::Fixed(0)).flags(types::FsyncFlags::DATASYNC).build();
        // SAFETY: the entry points to no memory.
        unsafe { self.ring.push(&entry.user_data(FLUSH)) };
    }

    /// Keeps `depth` operations in flight until the end, then waits for the rest.
    fn run(&mut self, load: Load, until: Until) -> Result<Count, CeilingError> {
        let begin = clock::now();
        let cpu_begin = sys::thread_cpu_nanoseconds();
        let more = |begun: u64, now: Nanos| match until {
            Until::Operations(count) => begun < count,
            Until::Time(limit) => now.since(begin) < limit,
        };
        let mut completions: Vec<Completion> = Vec::with_capacity(load.depth as usize + 1);
        let (mut begun, mut ended, mut in_flight) = (0_u64, 0_u64, 0_u32);
        for buffer in 0..self.addresses.len() {
            if more(begun, begin) {
                self.push(load, buffer);
                begun += 1;
                in_flight += 1;
            }
        }
        let mut failed = None;
        while in_flight > 0 {
            self.ring.enter(Wait::Any { timeout: None });
            self.ring.reap(&mut completions);
            let now = clock::now();
            let mut restart = false;
            for completion in completions.drain(..) {
                in_flight -= 1;
                if completion.result < 0 {
                    failed = failed.or(Some(completion.result));
                } else if completion.user_data == FLUSH {
                    restart = true;
                } else {
                    ended += 1;
                    if !load.flush && failed.is_none() && more(begun, now) {
                        let buffer = usize::try_from(completion.user_data).expect("a buffer's number");
                        self.push(load, buffer);
                        begun += 1;
                        in_flight += 1;
                    }
                }
            }
            if load.flush && failed.is_none() && in_flight == 0 {
                if !restart {
                    self.push_flush();
                    in_flight = 1;
                } else if more(begun, now) {
                    for buffer in 0..self.addresses.len() {
                        self.push(load, buffer);
                    }
                    begun += u64::from(load.depth);
                    in_flight = load.depth;
                }
            }
        }
        if let Some(errno) = failed {
            let source = io::Error::from_raw_os_error(-errno);
            return Err(self.scratch.error(if load.write { "writing" } else { "reading" }, source));
        }
        Ok(Count {
            operations: ended,
            bytes_each: self.operation_bytes,
            nanoseconds: clock::now().since(begin),
            cpu_nanoseconds: sys::thread_cpu_nanoseconds() - cpu_begin,
            depth: load.depth,
        })
    }
}
