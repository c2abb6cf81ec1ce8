//! The thread's I/O memory: one anonymous mapping on 2 MiB pages, cut by a buddy allocator, registered with the uring.
//!
//! 2 MiB pages are worth 2–3× on large direct I/O on the measured virtual disk, so they are tried hard: `MAP_HUGETLB`, else
//! `madvise(MADV_HUGEPAGE)` on a 2 MiB-aligned range, else ordinary pages. What was got is in [`Arena::report`], and what was
//! not is said once per process (DESIGN §8).

mod buddy;
mod mapping;

use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};

use thiserror::Error;
use wire::{Memory, Slot};

use buddy::{Buddy, TOP_BYTES};
pub(crate) use mapping::Mapping;

/// What the arena's memory consists of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PageKind {
    /// 2 MiB pages from the reserved pool (`vm.nr_hugepages`).
    HugeReserved,
    /// 2 MiB pages made by the kernel on request (transparent huge pages).
    HugeTransparent,
    /// 4 KiB pages: large direct I/O is slower.
    Small,
}

impl PageKind {
    /// Bytes of one page.
    pub fn bytes(self) -> usize {
        match self {
            Self::HugeReserved | Self::HugeTransparent => 2 << 20,
            Self::Small => 4096,
        }
    }

    /// A few words for a status screen or a result row.
    pub fn text(self) -> &'static str {
        match self {
            Self::HugeReserved => "2 MiB (hugetlb)",
            Self::HugeTransparent => "2 MiB (transparent)",
            Self::Small => "4 KiB",
        }
    }
}

/// What an arena got, for status and for the rows of performance tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ArenaReport {
    /// Its pages.
    pub pages: PageKind,
    /// Whether the uring has it registered; without, each I/O maps its pages anew (about a fifth more CPU).
    pub registered: bool,
    /// Bytes in all.
    pub bytes: usize,
    /// Bytes not allocated now.
    pub free_bytes: usize,
}

/// Why there is no arena.
#[derive(Debug, Error)]
pub enum ArenaError {
    /// The kernel gave no memory.
    #[error("can't map {bytes} bytes of I/O memory: {source}")]
    Map {
        /// Bytes asked for.
        bytes: usize,
        /// The kernel's reason.
        source: std::io::Error,
    },
}

/// The thread's I/O memory.
#[derive(Debug)]
pub struct Arena {
    mapping: Rc<Mapping>,
    buddy: Buddy,
    pages: PageKind,
    registered: bool,
}

impl Arena {
    /// An arena of at least `bytes`, rounded up to a multiple of 8 MiB.
    pub fn new(bytes: usize) -> Result<Self, ArenaError> {
        let blocks = bytes.div_ceil(TOP_BYTES).max(1);
        let bytes = blocks * TOP_BYTES;
        let (mapping, pages) = Mapping::new(bytes)?;
        if pages == PageKind::Small && !SMALL_PAGES_TOLD.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                bytes,
                "no 2 MiB pages for I/O memory, using 4 KiB pages: large I/O is slower \
                 (allow transparent huge pages: echo madvise > /sys/kernel/mm/transparent_hugepage/enabled)"
            );
        }
        Ok(Self { mapping: Rc::new(mapping), buddy: Buddy::new(blocks), pages, registered: false })
    }

    /// What this arena got.
    pub fn report(&self) -> ArenaReport {
        ArenaReport {
            pages: self.pages,
            registered: self.registered,
            bytes: self.buddy.total_bytes(),
            free_bytes: self.buddy.free_bytes(),
        }
    }

    /// Bytes that are not allocated. They may be in pieces: an allocation can fail with as much free.
    pub fn free_bytes(&self) -> usize {
        self.buddy.free_bytes()
    }

    pub(crate) fn set_registered(&mut self, registered: bool) {
        self.registered = registered;
    }

    pub(crate) fn registered(&self) -> bool {
        self.registered
    }

    /// Start and length of the whole aligned memory.
    pub(crate) fn span(&self) -> (*mut u8, usize) {
        (self.mapping.address(0), self.buddy.total_bytes())
    }

    /// The memory itself, for those who hold slots of their own.
    pub(crate) fn mapping(&self) -> &Rc<Mapping> {
        &self.mapping
    }

    /// Where `len` bytes at `offset` of the slot are, for the kernel; and in which registered buffer that is.
    pub(crate) fn address(&self, slot: Slot, offset: usize, len: usize) -> (*mut u8, u16) {
        let (start, capacity) = self.buddy.place(slot);
        assert!(
            offset.checked_add(len).is_some_and(|end| end <= capacity),
            "{len} bytes at {offset} leave the slot"
        );
        let at = start + offset;
        let piece = u16::try_from(at / PIECE_BYTES).expect("arenas are below 64 TiB");
        (self.mapping.address(at), piece)
    }
}

impl Memory for Arena {
    fn allocate(&mut self, bytes: usize) -> Option<Slot> {
        self.buddy.allocate(bytes)
    }

    fn total_bytes(&self) -> usize {
        self.buddy.total_bytes()
    }

    fn free_bytes(&self) -> usize {
        self.buddy.free_bytes()
    }

    fn retain(&mut self, slot: Slot) {
        self.buddy.retain(slot);
    }

    fn release(&mut self, slot: Slot) {
        self.buddy.release(slot);
    }

    fn bytes(&self, slot: Slot) -> &[u8] {
        let (start, capacity) = self.buddy.place(slot);
        // SAFETY: slots are disjoint, this one is borrowed through the arena, and it isn't handed on while the kernel writes to it.
        unsafe { self.mapping.slice(start, capacity) }
    }

    fn bytes_mut(&mut self, slot: Slot) -> &mut [u8] {
        let (start, capacity) = self.buddy.place(slot);
        // SAFETY: slots are disjoint, this one is borrowed through the arena, and it isn't handed on while the kernel uses it.
        unsafe { self.mapping.slice_mut(start, capacity) }
    }
}

/// The kernel registers at most 1 GiB as one buffer; slots never cross this because both are powers of two.
pub(crate) const PIECE_BYTES: usize = 1 << 30;
static SMALL_PAGES_TOLD: AtomicBool = AtomicBool::new(false);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_aligned_and_apart() {
        let mut arena = Arena::new(1).expect("8 MiB");
        assert_eq!(arena.report().bytes, 8 << 20);
        let a = arena.allocate(4096).expect("free");
        let b = arena.allocate(5000).expect("free");
        arena.bytes_mut(a).fill(1);
        arena.bytes_mut(b).fill(2);
        assert_eq!((arena.bytes(a).len(), arena.bytes(b).len()), (4096, 8192));
        assert!(arena.bytes(a).iter().all(|&byte| byte == 1));
        assert_eq!(arena.address(a, 0, 4096).0.align_offset(4096), 0);
        assert_eq!(arena.address(b, 4096, 904).0 as usize, arena.bytes(b).as_ptr() as usize + 4096);
        arena.release(a);
        arena.release(b);
        assert_eq!(arena.free_bytes(), 8 << 20);
    }

    #[test]
    #[should_panic(expected = "leave the slot")]
    fn an_address_stays_inside_its_slot() {
        let mut arena = Arena::new(1).expect("8 MiB");
        let slot = arena.allocate(4096).expect("free");
        arena.address(slot, 4000, 100);
    }
}
