//! Chunk buffers that are used again: fresh memory costs a page fault for every 4 KiB, more than copying the bytes does.
//!
//! Buffers go round between callers and the executor thread: full ones of puts come back once their bytes are in the arena, those of gets
//! once the caller has dropped the [`Bytes`]. Whatever doesn't fit into the pool is freed, and whatever isn't in it is allocated: it holds nobody up.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use crossbeam::queue::ArrayQueue;

/// Buffers kept, whatever their size.
const KEPT_MAX: usize = 64;
/// Smaller ones come from the allocator's own lists without a fault.
const KEPT_BYTES_MIN: usize = 128 << 10;

/// See the module.
#[derive(Debug)]
pub(crate) struct Buffers {
    free: ArrayQueue<Vec<u8>>,
    /// Capacity of those that are kept.
    bytes: AtomicUsize,
    bytes_max: usize,
}

impl Buffers {
    /// A pool that keeps no more than so many bytes.
    pub(crate) fn new(bytes_max: usize) -> Arc<Self> {
        Arc::new(Self { free: ArrayQueue::new(KEPT_MAX), bytes: AtomicUsize::new(0), bytes_max })
    }

    /// A buffer that can hold `bytes` without growing. What it contains, and how much of it, is left from an earlier use.
    pub(crate) fn take(&self, bytes: usize) -> Vec<u8> {
        let kept = if bytes >= KEPT_BYTES_MIN { self.free.pop() } else { None };
        let Some(mut buffer) = kept else { return Vec::with_capacity(bytes) };
        self.bytes.fetch_sub(buffer.capacity(), Ordering::Relaxed);
        if buffer.capacity() < bytes {
            buffer = Vec::with_capacity(bytes); // another volume's chunk size
        }
        buffer
    }

    /// Keeps a buffer for the next one, if there is room.
    pub(crate) fn give(&self, buffer: Vec<u8>) {
        let capacity = buffer.capacity();
        let fits = |kept: usize| kept.checked_add(capacity).filter(|sum| *sum <= self.bytes_max);
        if capacity < KEPT_BYTES_MIN
            || self.bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits).is_err()
        {
            return;
        }
        if self.free.push(buffer).is_err() {
            self.bytes.fetch_sub(capacity, Ordering::Relaxed);
        }
    }

    /// A copy of `bytes` that comes back to the pool by itself.
    pub(crate) fn copy(self: &Arc<Self>, bytes: &[u8]) -> Bytes {
        if bytes.len() < KEPT_BYTES_MIN {
            return Bytes::copy_from_slice(bytes);
        }
        let mut buffer = self.take(bytes.len());
        buffer.clear();
        buffer.extend_from_slice(bytes);
        Bytes::from_owner(Lent { buffer, home: Arc::clone(self) })
    }
}

/// A buffer behind a caller's [`Bytes`].
struct Lent {
    buffer: Vec<u8>,
    home: Arc<Buffers>,
}

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        &self.buffer
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        self.home.give(std::mem::take(&mut self.buffer));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHUNK: usize = 1 << 20;

    #[test]
    fn a_buffer_comes_back() {
        let buffers = Buffers::new(2 * CHUNK);
        let bytes = buffers.copy(&vec![7; CHUNK]);
        let (address, part) = (bytes.as_ptr(), bytes.slice(5..9));
        drop(bytes);
        assert_eq!(buffers.free.len(), 0, "a part of it is still in use");
        drop(part);
        let again = buffers.copy(&vec![8; CHUNK]);
        assert_eq!((again.as_ptr(), again.len(), again[CHUNK - 1]), (address, CHUNK, 8));
    }

    #[test]
    fn no_more_is_kept_than_is_allowed() {
        let buffers = Buffers::new(2 * CHUNK);
        let made: Vec<_> = (0..5).map(|_| buffers.take(CHUNK)).collect();
        for buffer in made {
            buffers.give(buffer);
        }
        assert_eq!((buffers.free.len(), buffers.bytes.load(Ordering::Relaxed)), (2, 2 * CHUNK));
        buffers.give(vec![0; 100]);
        assert_eq!(buffers.free.len(), 2, "a small one isn't worth it");
        assert!(buffers.take(4 * CHUNK).capacity() >= 4 * CHUNK);
        assert_eq!(buffers.bytes.load(Ordering::Relaxed), CHUNK, "too small a one is given up");
        assert!(buffers.take(100).capacity() < CHUNK);
    }
}
