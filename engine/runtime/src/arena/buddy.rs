//! The buddy allocator under the arena: which pages are whose. Pure bookkeeping, it never touches the memory itself.
//!
//! The arena is cut into blocks of 8 MiB; a block is halved until it fits the request and halves are joined again when both
//! are free. Buddies of order `n` differ in bit `n` of their first page's index. Every operation is at most [`ORDERS`] steps.
//! A run is taken where it fits best, and there what was freed last, which is in the caches and leaves large blocks whole.
//!
//! Invariants: each page belongs to exactly one free or used run; a run of order `n` starts at a multiple of `2^n`; two free
//! buddies of one order below the top never coexist; a run's generation is raised when it is given back.

use wire::Slot;
use wire::limits::BLOCK_BYTES;

/// Runs of 2^0 … 2^11 pages: 4 KiB … 8 MiB.
pub(crate) const ORDERS: usize = 12;
/// Pages of the largest run.
pub(crate) const TOP_PAGES: usize = 1 << (ORDERS - 1);
/// Bytes of the largest run: a commit batch (DESIGN §14) and two of the largest chunks.
pub(crate) const TOP_BYTES: usize = TOP_PAGES * BLOCK_BYTES;

const NONE: u32 = u32::MAX;

/// What is known of one page; meaningful at a run's first page only, but for the generation's sake kept for each.
#[derive(Clone, Debug)]
struct Page {
    generation: u32,
    references: u32,
    next: u32,
    previous: u32,
    order: u8,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Inside a run, not its first page.
    Inside,
    Free,
    Used,
}

/// The allocator's state: one record per page and one list of free runs per order.
#[derive(Debug)]
pub(crate) struct Buddy {
    pages: Vec<Page>,
    free: [u32; ORDERS],
    free_pages: usize,
}

impl Buddy {
    /// An allocator of `blocks` blocks of 8 MiB, all free.
    pub(crate) fn new(blocks: usize) -> Self {
        let page =
            Page { generation: 0, references: 0, next: NONE, previous: NONE, order: 0, state: State::Inside };
        let count = blocks * TOP_PAGES;
        assert!(u32::try_from(count).is_ok_and(|count| count < NONE), "pages are numbered by 32 bits");
        let mut buddy = Self { pages: vec![page; count], free: [NONE; ORDERS], free_pages: count };
        for block in (0..blocks).rev() {
            buddy.link_free(to_page(block * TOP_PAGES), ORDERS - 1);
        }
        buddy
    }

    /// Bytes that are not allocated.
    pub(crate) fn free_bytes(&self) -> usize {
        self.free_pages * BLOCK_BYTES
    }

    /// Bytes in all.
    pub(crate) fn total_bytes(&self) -> usize {
        self.pages.len() * BLOCK_BYTES
    }

    /// A run of at least `bytes`, with one reference; `None` when no run is large enough or `bytes` is over the top run's size.
    pub(crate) fn allocate(&mut self, bytes: usize) -> Option<Slot> {
        let order = order_of(bytes)?;
        let from = (order..ORDERS).find(|&order| self.free[order] != NONE)?;
        let first = self.free[from];
        self.unlink_free(first, from);
        for order in (order..from).rev() {
            // The upper half goes back to the list, the lower half is split further or used.
            self.link_free(first + to_page(1 << order), order);
        }
        let page = &mut self.pages[first as usize];
        page.state = State::Used;
        page.order = u8::try_from(order).expect("orders are below 12");
        page.references = 1;
        self.free_pages -= 1 << order;
        Some(Slot { index: first, generation: page.generation })
    }

    /// One more reference.
    pub(crate) fn retain(&mut self, slot: Slot) {
        let page = self.used(slot);
        page.references = page.references.checked_add(1).expect("fewer references than 2^32");
    }

    /// One reference less; returns whether it was the last one and the run is free now.
    pub(crate) fn release(&mut self, slot: Slot) -> bool {
        let page = self.used(slot);
        page.references -= 1;
        if page.references > 0 {
            return false;
        }
        page.generation = page.generation.wrapping_add(1);
        let mut order = usize::from(page.order);
        page.state = State::Inside;
        self.free_pages += 1 << order;
        let mut first = slot.index;
        while order < ORDERS - 1 {
            let buddy = first ^ to_page(1 << order);
            let page = &self.pages[buddy as usize];
            if page.state != State::Free || usize::from(page.order) != order {
                break;
            }
            self.unlink_free(buddy, order);
            first = first.min(buddy);
            order += 1;
        }
        self.link_free(first, order);
        true
    }

    /// Offset and capacity in bytes of a slot that is in use.
    pub(crate) fn place(&self, slot: Slot) -> (usize, usize) {
        let page = &self.pages[slot.index as usize];
        assert!(
            page.state == State::Used && page.generation == slot.generation,
            "slot {slot:?} was released before"
        );
        (slot.index as usize * BLOCK_BYTES, BLOCK_BYTES << page.order)
    }

    fn used(&mut self, slot: Slot) -> &mut Page {
        let page = &mut self.pages[slot.index as usize];
        assert!(
            page.state == State::Used && page.generation == slot.generation,
            "slot {slot:?} was released before"
        );
        page
    }

    fn link_free(&mut self, first: u32, order: usize) {
        let head = self.free[order];
        if head != NONE {
            self.pages[head as usize].previous = first;
        }
        let page = &mut self.pages[first as usize];
        page.state = State::Free;
        page.order = u8::try_from(order).expect("orders are below 12");
        page.next = head;
        page.previous = NONE;
        self.free[order] = first;
    }

    fn unlink_free(&mut self, first: u32, order: usize) {
        let page = &mut self.pages[first as usize];
        assert!(page.state == State::Free && usize::from(page.order) == order);
        page.state = State::Inside;
        let (next, previous) = (page.next, page.previous);
        if next != NONE {
            self.pages[next as usize].previous = previous;
        }
        if previous == NONE {
            self.free[order] = next;
        } else {
            self.pages[previous as usize].next = next;
        }
    }

    /// The whole of the invariants; for tests, it walks every page.
    #[cfg(test)]
    fn check(&self) {
        let mut page = 0;
        let mut free_pages = 0;
        let mut lists = [0_usize; ORDERS];
        while page < self.pages.len() {
            let first = &self.pages[page];
            let order = usize::from(first.order);
            assert_eq!(page % (1 << order), 0, "a run starts at a multiple of its size");
            match first.state {
                State::Inside => panic!("page {page} belongs to no run"),
                State::Used => assert!(first.references > 0),
                State::Free => {
                    free_pages += 1 << order;
                    lists[order] += 1;
                    if order < ORDERS - 1 {
                        let buddy = &self.pages[page ^ (1 << order)];
                        assert!(!(buddy.state == State::Free && buddy.order == first.order), "free buddies");
                    }
                }
            }
            for inside in page + 1..page + (1 << order) {
                assert_eq!(self.pages[inside].state, State::Inside);
            }
            page += 1 << order;
        }
        assert_eq!(free_pages, self.free_pages);
        for (order, expected) in lists.into_iter().enumerate() {
            let (mut count, mut last) = (0, NONE);
            let mut at = self.free[order];
            while at != NONE {
                let page = &self.pages[at as usize];
                assert_eq!(page.previous, last, "order {order}");
                (count, last, at) = (count + 1, at, page.next);
            }
            assert_eq!(count, expected, "order {order}");
        }
    }
}

fn order_of(bytes: usize) -> Option<usize> {
    let pages = bytes.div_ceil(BLOCK_BYTES).max(1);
    (pages <= TOP_PAGES).then(|| pages.next_power_of_two().ilog2() as usize)
}

fn to_page(page: usize) -> u32 {
    u32::try_from(page).expect("pages are numbered by 32 bits")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders() {
        for (bytes, order) in
            [(0, 0), (1, 0), (4096, 0), (4097, 1), (8192, 1), (8193, 2), (1 << 20, 8), (8 << 20, 11)]
        {
            assert_eq!(order_of(bytes), Some(order), "{bytes}");
        }
        assert_eq!(order_of((8 << 20) + 1), None);
    }

    #[test]
    fn a_full_arena_says_no_and_joins_again() {
        let mut buddy = Buddy::new(1);
        let slots: Vec<_> = (0..TOP_PAGES).map(|_| buddy.allocate(4096).expect("a page is free")).collect();
        assert_eq!(buddy.allocate(1), None);
        assert_eq!(buddy.free_bytes(), 0);
        for slot in slots {
            assert!(buddy.release(slot));
        }
        buddy.check();
        assert_eq!(buddy.free[ORDERS - 1], 0, "all halves were joined");
        assert!(buddy.allocate(TOP_BYTES).is_some());
        assert_eq!(buddy.allocate(4096), None);
    }

    #[test]
    #[should_panic(expected = "was released before")]
    fn a_released_slot_is_noticed() {
        let mut buddy = Buddy::new(1);
        let slot = buddy.allocate(4096).expect("free");
        buddy.release(slot);
        assert!(buddy.allocate(4096).is_some());
        buddy.place(slot);
    }

    #[test]
    fn runs_are_used_again_at_once_and_leave_whole_blocks() {
        let mut buddy = Buddy::new(16);
        let whole = |buddy: &Buddy| {
            let blocks = buddy.pages.iter().filter(|page| page.state == State::Free);
            blocks.filter(|page| usize::from(page.order) == ORDERS - 1).count()
        };
        let mut seen = std::collections::BTreeSet::new();
        // Two in flight at any time, as of a disk's reads: they take turns in few places.
        let mut held = buddy.allocate(1 << 20).expect("free");
        for _ in 0..64 {
            seen.insert(held.index);
            let next = buddy.allocate(1 << 20).expect("free");
            buddy.release(held);
            held = next;
            buddy.check();
        }
        assert!(seen.len() <= 3, "{seen:?}");
        assert_eq!(whole(&buddy), 15);
        // Large ones that stay, among many that go, break up no block that isn't needed.
        for stay in 1..=64 {
            buddy.allocate(256 << 10).expect("free");
            let gone: Vec<_> = (0..16).map(|_| buddy.allocate(256 << 10).expect("free")).collect();
            for slot in gone {
                buddy.release(slot);
            }
            let used = (1 << 20) + stay * (256 << 10);
            assert!(whole(&buddy) >= 16 - (used + 16 * (256_usize << 10)).div_ceil(TOP_BYTES), "{stay}");
        }
        buddy.check();
    }

    #[test]
    fn references_are_counted() {
        let mut buddy = Buddy::new(1);
        let slot = buddy.allocate(10_000).expect("free");
        assert_eq!(buddy.place(slot).1, 16_384);
        buddy.retain(slot);
        assert!(!buddy.release(slot));
        buddy.check();
        assert!(buddy.release(slot));
        assert_eq!(buddy.free_bytes(), buddy.total_bytes());
    }

    /// Random allocations against a map of byte ranges: no two overlap, sizes and alignment are right, all comes back.
    #[test]
    fn model() {
        for seed in 1..=8_u64 {
            let mut buddy = Buddy::new(3);
            let mut random = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15);
            let mut next = move || {
                random ^= random << 13;
                random ^= random >> 7;
                random ^= random << 17;
                random
            };
            let mut model: Vec<(Slot, usize, usize)> = Vec::new();
            for step in 0..if cfg!(miri) { 50 } else { 2_000 } {
                if next() % 5 < 3 {
                    let bytes = 1 << (next() % 24);
                    match buddy.allocate(bytes) {
                        Some(slot) => {
                            let (offset, capacity) = buddy.place(slot);
                            assert!(capacity >= bytes && capacity.is_power_of_two());
                            assert_eq!(offset % capacity, 0);
                            assert!(
                                model.iter().all(|&(_, o, c)| o + c <= offset || offset + capacity <= o),
                                "overlap at seed {seed} step {step}"
                            );
                            model.push((slot, offset, capacity));
                        }
                        None => assert!(bytes > TOP_BYTES || buddy.free_bytes() < 3 * TOP_BYTES),
                    }
                } else if !model.is_empty() {
                    let index = usize::try_from(next()).expect("64 bits") % model.len();
                    let (slot, _, _) = model.swap_remove(index);
                    assert!(buddy.release(slot));
                }
                if step % 50 == 0 {
                    buddy.check();
                }
                let used: usize = model.iter().map(|&(_, _, capacity)| capacity).sum();
                assert_eq!(buddy.total_bytes() - buddy.free_bytes(), used);
            }
            for (slot, _, _) in model.drain(..) {
                buddy.release(slot);
            }
            buddy.check();
            assert_eq!(buddy.free_bytes(), buddy.total_bytes());
        }
    }
}
