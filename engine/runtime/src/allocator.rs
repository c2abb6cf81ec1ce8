//! The allocator of `catena`: small pieces are mimalloc's, large ones the system's.
//!
//! A create allocates about ten small pieces, which glibc's arenas of threads other than the first are slow at. What mimalloc keeps of large buffers that one
//! thread takes and another gives back is a matter of chance; glibc maps those and gives them back.

use std::alloc::{GlobalAlloc, Layout, System};

use mimalloc::MiMalloc;

/// Pieces of so many bytes are the system's.
const LARGE_BYTES: usize = 64 << 10;

/// See the module. Who owns a piece is told by its size, which never changes but by `realloc`.
#[derive(Clone, Copy, Debug, Default)]
pub struct SplitAllocator;

// SAFETY: a piece goes back to the allocator that it came from, since both are chosen by the size in its layout; `realloc` keeps that.
unsafe impl GlobalAlloc for SplitAllocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if layout.size() < LARGE_BYTES {
            // SAFETY: the caller keeps `alloc`'s contract, which is handed on.
            unsafe { MiMalloc.alloc(layout) }
        } else {
            // SAFETY: the same.
            unsafe { System.alloc(layout) }
        }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if layout.size() < LARGE_BYTES {
            // SAFETY: the caller keeps `alloc_zeroed`'s contract, which is handed on.
            unsafe { MiMalloc.alloc_zeroed(layout) }
        } else {
            // SAFETY: the same.
            unsafe { System.alloc_zeroed(layout) }
        }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        if layout.size() < LARGE_BYTES {
            // SAFETY: a piece of this size came from here.
            unsafe { MiMalloc.dealloc(pointer, layout) }
        } else {
            // SAFETY: the same.
            unsafe { System.dealloc(pointer, layout) }
        }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        match (layout.size() < LARGE_BYTES, new_size < LARGE_BYTES) {
            // SAFETY: the piece came from here and stays here.
            (true, true) => unsafe { MiMalloc.realloc(pointer, layout, new_size) },
            // SAFETY: the same.
            (false, false) => unsafe { System.realloc(pointer, layout, new_size) },
            // SAFETY: the contract is the same.
            _ => unsafe { self.move_over(pointer, layout, new_size) },
        }
    }
}

impl SplitAllocator {
    /// A piece changes its owner.
    ///
    /// # Safety
    ///
    /// That of `realloc`.
    unsafe fn move_over(self, pointer: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        let Ok(new_layout) = Layout::from_size_align(new_size, layout.align()) else {
            return std::ptr::null_mut();
        };
        // SAFETY: `realloc` asks for a size above 0.
        let new = unsafe { self.alloc(new_layout) };
        if !new.is_null() {
            // SAFETY: both are at least as long as the shorter one, and the new one is nobody else's.
            unsafe { std::ptr::copy_nonoverlapping(pointer, new, layout.size().min(new_size)) };
            // SAFETY: the piece came from here with this layout, and nobody uses it after `realloc`.
            unsafe { self.dealloc(pointer, layout) };
        }
        new
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg_attr(miri, ignore = "mimalloc is C")]
    fn bytes_stay_whatever_a_piece_grows_and_shrinks_to() {
        let sizes = [1, 100, LARGE_BYTES - 1, LARGE_BYTES, 1 << 20, LARGE_BYTES, LARGE_BYTES - 1, 5 << 20, 7];
        let mut layout = Layout::from_size_align(sizes[0], 16).expect("a layout");
        // SAFETY: the size isn't 0.
        let mut pointer = unsafe { SplitAllocator.alloc_zeroed(layout) };
        for size in sizes {
            let kept = layout.size().min(size);
            // SAFETY: the piece has this layout, and the size isn't 0.
            pointer = unsafe { SplitAllocator.realloc(pointer, layout, size) };
            layout = Layout::from_size_align(size, 16).expect("a layout");
            assert!(!pointer.is_null() && pointer.addr().is_multiple_of(16));
            // SAFETY: so many bytes of it were written, or zeroed, before.
            let bytes = unsafe { std::slice::from_raw_parts(pointer, kept) };
            let first = bytes[0];
            assert!(bytes.iter().all(|byte| *byte == first), "{size}");
            // SAFETY: the piece is so long.
            unsafe { pointer.write_bytes(first + 1, size) };
        }
        // SAFETY: the piece has this layout.
        unsafe { SplitAllocator.dealloc(pointer, layout) };
    }
}
