//! The arena's memory: one anonymous mapping, on 2 MiB pages where they can be had.
//!
//! Slots are disjoint ranges of it, so references to different slots may exist at once; who may look at which slot is the
//! business of the arena (by borrow) and of background buffers (by ownership).

use std::ptr;

use memmap2::{Advice, MmapMut, MmapOptions};

use super::{ArenaError, PageKind};
use crate::sys;

const HUGE_PAGE_BITS: u8 = 21;
const HUGE_PAGE_BYTES: usize = 1 << HUGE_PAGE_BITS;

/// Mapped memory. Unmapped when the last holder is gone.
#[derive(Debug)]
pub(crate) struct Mapping {
    /// Owns the memory; accessed through `start` only.
    _map: MmapMut,
    start: *mut u8,
    len: usize,
}

impl Mapping {
    /// `bytes` of memory, aligned to 2 MiB, and the pages that it got.
    pub(crate) fn new(bytes: usize) -> Result<(Self, PageKind), ArenaError> {
        // Miri maps memory, and knows nothing of its pages.
        if !cfg!(miri)
            && let Ok(mut map) = MmapOptions::new().len(bytes).huge(Some(HUGE_PAGE_BITS)).map_anon()
        {
            let start = map.as_mut_ptr();
            return Ok((Self { _map: map, start, len: bytes }, PageKind::HugeReserved));
        }
        let mut map = MmapOptions::new()
            .len(bytes + HUGE_PAGE_BYTES)
            .map_anon()
            .map_err(|source| ArenaError::Map { bytes, source })?;
        let skip = map.as_ptr().align_offset(HUGE_PAGE_BYTES);
        let advised = !cfg!(miri) && map.advise_range(Advice::HugePage, skip, bytes).is_ok();
        // The advice is only advice: touch the first page and see what the kernel put there.
        map[skip] = 0;
        let huge = advised && sys::resident_huge_bytes(ptr::from_ref(&map[skip]) as usize) >= HUGE_PAGE_BYTES;
        let start = map.as_mut_ptr().wrapping_add(skip);
        let pages = if huge { PageKind::HugeTransparent } else { PageKind::Small };
        Ok((Self { _map: map, start, len: bytes }, pages))
    }

    /// Where the byte at `offset` is.
    pub(crate) fn address(&self, offset: usize) -> *mut u8 {
        assert!(offset < self.len);
        self.start.wrapping_add(offset)
    }

    /// The bytes of a range.
    ///
    /// # Safety
    ///
    /// Nobody, the kernel included, writes to the range while the reference lives.
    pub(crate) unsafe fn slice(&self, offset: usize, len: usize) -> &[u8] {
        assert!(offset.checked_add(len).is_some_and(|end| end <= self.len));
        // SAFETY: inside the mapping, which is initialized (zeroes) and lives as long as `self`; not written, by the caller's promise.
        unsafe { std::slice::from_raw_parts(self.start.wrapping_add(offset), len) }
    }

    /// The bytes of a range, to be written.
    ///
    /// # Safety
    ///
    /// Nobody, the kernel included, touches the range while the reference lives.
    #[expect(
        clippy::mut_from_ref,
        reason = "ranges are disjoint; the caller promises that this one is his alone"
    )]
    pub(crate) unsafe fn slice_mut(&self, offset: usize, len: usize) -> &mut [u8] {
        assert!(offset.checked_add(len).is_some_and(|end| end <= self.len));
        // SAFETY: inside the mapping, which is initialized (zeroes) and lives as long as `self`; nobody else's, by the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.start.wrapping_add(offset), len) }
    }
}
