//! An allocator that counts: what figures about heap memory are measured with. It hands everything on to the system's.
//!
//! A program takes it with `#[global_allocator] static ALLOCATOR: CountingAllocator = CountingAllocator;`, which needs no unsafe code there.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicU64, Ordering};

/// See the module.
#[derive(Clone, Copy, Debug, Default)]
pub struct CountingAllocator;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);
static HELD_BYTES: AtomicU64 = AtomicU64::new(0);

impl CountingAllocator {
    /// Allocations of all threads since the start, a reallocation counted as one. 0 for ever where this isn't the program's allocator.
    pub fn allocations() -> u64 {
        ALLOCATIONS.load(Ordering::Relaxed)
    }

    /// Bytes that are allocated now, each rounded up as mimalloc does, which `catena` has.
    pub fn held_bytes() -> u64 {
        HELD_BYTES.load(Ordering::Relaxed)
    }
}

/// What mimalloc takes for a request: up to 64 bytes multiples of 16, beyond four sizes for each power of two.
fn taken(bytes: usize) -> u64 {
    match bytes as u64 {
        0..=8 => 8,
        small @ 9..=64 => small.next_multiple_of(16),
        large => large.next_multiple_of(1 << ((large - 1).ilog2() - 2)),
    }
}

// SAFETY: every call goes to `System` unchanged; the counters don't touch the memory.
unsafe impl GlobalAlloc for CountingAllocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        HELD_BYTES.fetch_add(taken(layout.size()), Ordering::Relaxed);
        // SAFETY: the caller keeps `alloc`'s contract, which is handed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        HELD_BYTES.fetch_add(taken(layout.size()), Ordering::Relaxed);
        // SAFETY: the caller keeps `alloc_zeroed`'s contract, which is handed on.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        HELD_BYTES.fetch_add(taken(new_size), Ordering::Relaxed);
        HELD_BYTES.fetch_sub(taken(layout.size()), Ordering::Relaxed);
        // SAFETY: the caller keeps `realloc`'s contract, which is handed on.
        unsafe { System.realloc(pointer, layout, new_size) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        HELD_BYTES.fetch_sub(taken(layout.size()), Ordering::Relaxed);
        // SAFETY: the caller keeps `dealloc`'s contract, which is handed on.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[cfg(test)]
mod tests {
    use super::taken;

    #[test]
    fn sizes_are_those_of_mimalloc() {
        let sizes = [
            (1, 8),
            (8, 8),
            (9, 16),
            (64, 64),
            (65, 80),
            (81, 96),
            (128, 128),
            (129, 160),
            (6120, 6144),
            (6145, 7168),
        ];
        assert_eq!(sizes.map(|(asked, _)| taken(asked)), sizes.map(|(_, got)| got));
    }
}
