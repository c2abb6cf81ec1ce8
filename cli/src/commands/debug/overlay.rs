//! A stopped node's file, read-only: what recovery writes goes to memory. So the shipped recovery itself examines a store, and the file
//! keeps every byte.

use std::collections::BTreeMap;
use std::fs::{File, TryLockError};
use std::path::Path;
use std::time::Duration;

use journal::{IoEffects, IoFailure, IoOutcome, IoRequest, IoToken};
use wire::limits::BLOCK_BYTES;
use wire::{Memory, Slot};

use crate::clock::Stopwatch;
use crate::failure::{Exit, Failure, Result};
use crate::local::sparse;

/// How long a lock is waited for, and how often it is asked for.
const LOCK_WAIT_NANOSECONDS: u64 = 2_000_000_000;
const LOCK_RETRY: Duration = Duration::from_millis(20);
/// Memory for buffers and for what recovery writes; a superblock, a batch and a few pages need little of it.
const MEMORY_BYTES_MAX: usize = 512 << 20;

/// The file and what was written over it.
#[derive(Debug)]
pub(crate) struct Overlay {
    file: File,
    written: BTreeMap<u64, Box<[u8; BLOCK_BYTES]>>,
    length: u64,
}

impl Overlay {
    /// Opens a file that no node uses.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let local = |error: std::io::Error| Failure::path(path, &error);
        let file = File::open(path).map_err(local)?;
        wait_for_lock(&file, path)?;
        let length = file.metadata().map_err(local)?.len();
        Ok(Self { file, written: BTreeMap::new(), length })
    }

    /// The file's length.
    pub(crate) fn length(&self) -> u64 {
        self.length
    }

    /// Forgets what was written over the file.
    pub(crate) fn forget(&mut self) {
        self.written.clear();
    }

    /// Makes a file of so many bytes of what is here.
    #[cfg(test)]
    pub(crate) fn save(&self, path: &Path, length: u64) {
        use std::os::unix::fs::FileExt as _;
        let file = File::options().write(true).open(path).expect("there");
        file.set_len(length).expect("room");
        for (block, content) in &self.written {
            file.write_all_at(&content[..], block * BLOCK_BYTES as u64).expect("written");
        }
    }

    /// Bytes of the file itself, as far as it goes; the rest is zeros. `false`: they can't be read.
    pub(crate) fn read(&self, offset: u64, bytes: &mut [u8]) -> bool {
        let Ok(count) = sparse::read_at(&self.file, bytes, offset) else { return false };
        bytes[count..].fill(0);
        let first = offset / BLOCK_BYTES as u64;
        let blocks = first..first + bytes.len().div_ceil(BLOCK_BYTES) as u64;
        for (block, content) in self.written.range(blocks) {
            let at = usize::try_from((block - first) * BLOCK_BYTES as u64).expect("inside the buffer");
            let end = (at + BLOCK_BYTES).min(bytes.len());
            bytes[at..end].copy_from_slice(&content[..end - at]);
        }
        true
    }

    /// Carries requests out; each is answered, in order.
    pub(crate) fn carry_out(
        &mut self,
        effects: &IoEffects,
        memory: &mut Buffers,
    ) -> Vec<(IoToken, IoOutcome)> {
        effects.requests.iter().map(|request| self.answer(request, effects, memory)).collect()
    }

    fn answer(
        &mut self,
        request: &IoRequest,
        effects: &IoEffects,
        memory: &mut Buffers,
    ) -> (IoToken, IoOutcome) {
        match *request {
            IoRequest::Read { io, offset, slot, slot_offset, length, .. } => {
                let bytes = &mut memory.bytes_mut(slot)[slot_offset as usize..][..length as usize];
                let done = self.read(offset, bytes);
                (io, if done { IoOutcome::Done } else { IoOutcome::Failed(IoFailure::Device) })
            }
            IoRequest::Write { io, offset, parts, .. } => {
                let mut block = offset / BLOCK_BYTES as u64;
                for part in effects.parts_of(parts) {
                    let bytes = &memory.bytes(part.slot)[part.offset as usize..][..part.length as usize];
                    for content in bytes.chunks_exact(BLOCK_BYTES) {
                        let content: [u8; BLOCK_BYTES] = content.try_into().expect("exactly one block");
                        self.written.insert(block, Box::new(content));
                        block += 1;
                    }
                }
                (io, IoOutcome::Done)
            }
            IoRequest::Flush { io } | IoRequest::Allocate { io, .. } | IoRequest::Zero { io, .. } => {
                (io, IoOutcome::Done)
            }
        }
    }
}

/// Takes the lock that a running node holds alone. The kernel may keep the lock of a process that has just ended for a moment, until
/// its uring is taken down.
fn wait_for_lock(file: &File, path: &Path) -> Result<()> {
    let watch = Stopwatch::start();
    loop {
        match file.try_lock_shared() {
            Ok(()) => return Ok(()),
            Err(TryLockError::Error(error)) => return Err(Failure::path(path, &error)),
            Err(TryLockError::WouldBlock) if watch.nanoseconds() < LOCK_WAIT_NANOSECONDS => {
                std::thread::park_timeout(LOCK_RETRY);
            }
            Err(TryLockError::WouldBlock) => {
                return Err(Failure::new(
                    Exit::Conflict,
                    path.display().to_string(),
                    "is in use by a running node",
                )
                .next("stop the node first; `catena verify` examines a running one"));
            }
        }
    }
}

/// Buffers by slot: the arena of this examination.
#[derive(Debug, Default)]
pub(crate) struct Buffers {
    slots: Vec<Buffer>,
    used: usize,
}

#[derive(Debug, Default)]
struct Buffer {
    bytes: Vec<u8>,
    generation: u32,
    references: u32,
}

impl Buffers {
    fn slot(&self, slot: Slot) -> &Buffer {
        let buffer = &self.slots[slot.index as usize];
        assert!(
            buffer.generation == slot.generation && buffer.references > 0,
            "a slot is used while it is referenced"
        );
        buffer
    }

    fn slot_mut(&mut self, slot: Slot) -> &mut Buffer {
        let buffer = &mut self.slots[slot.index as usize];
        assert!(
            buffer.generation == slot.generation && buffer.references > 0,
            "a slot is used while it is referenced"
        );
        buffer
    }
}

impl Memory for Buffers {
    fn allocate(&mut self, bytes: usize) -> Option<Slot> {
        let capacity = bytes.next_power_of_two().max(BLOCK_BYTES);
        let free =
            self.slots.iter().position(|buffer| buffer.references == 0 && buffer.bytes.len() == capacity);
        let index = match free {
            Some(index) => index,
            None if self.used + capacity > MEMORY_BYTES_MAX => return None,
            None => {
                self.used += capacity;
                self.slots.push(Buffer { bytes: vec![0; capacity], ..Buffer::default() });
                self.slots.len() - 1
            }
        };
        self.slots[index].references = 1;
        Some(Slot { index: u32::try_from(index).ok()?, generation: self.slots[index].generation })
    }

    fn retain(&mut self, slot: Slot) {
        self.slot_mut(slot).references += 1;
    }

    fn release(&mut self, slot: Slot) {
        let buffer = self.slot_mut(slot);
        buffer.references -= 1;
        if buffer.references == 0 {
            buffer.generation = buffer.generation.wrapping_add(1);
        }
    }

    fn bytes(&self, slot: Slot) -> &[u8] {
        &self.slot(slot).bytes
    }

    fn bytes_mut(&mut self, slot: Slot) -> &mut [u8] {
        &mut self.slot_mut(slot).bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_again_and_the_file_stays() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("f");
        std::fs::write(&path, vec![7; 3 * BLOCK_BYTES]).expect("written");
        let mut overlay = Overlay::open(&path).expect("open");
        let mut memory = Buffers::default();
        let slot = memory.allocate(BLOCK_BYTES).expect("room");
        memory.bytes_mut(slot).fill(9);
        let mut effects = IoEffects::default();
        let part = journal::Part { slot, offset: 0, length: 4096 };
        effects.write(IoToken::new(64, 1), 4096, [part], false);
        assert_eq!(overlay.carry_out(&effects, &mut memory), [(IoToken::new(64, 1), IoOutcome::Done)]);
        let mut bytes = vec![1; 4 * BLOCK_BYTES];
        assert!(overlay.read(0, &mut bytes));
        let firsts: Vec<u8> = bytes.chunks(BLOCK_BYTES).map(|block| block[0]).collect();
        assert_eq!(firsts, [7, 9, 7, 0]);
        assert_eq!(std::fs::read(&path).expect("readable"), vec![7; 3 * BLOCK_BYTES]);
    }

    #[test]
    fn a_file_in_use_is_refused() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("f");
        std::fs::write(&path, b"x").expect("written");
        let node = File::open(&path).expect("open");
        node.lock().expect("locked");
        assert_eq!(Overlay::open(&path).expect_err("in use").exit, Exit::Conflict);
    }
}
