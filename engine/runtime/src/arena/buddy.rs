//! The buddy allocator under the arena: which pages are whose. Pure bookkeeping, it never touches the memory itself.
//!
//! The arena is cut into blocks of 8 MiB; a block is halved until it fits the request and halves are joined again when both
//! are free. Buddies of order `n` differ in bit `n` of their first page's index. Every operation is at most [`ORDERS`] steps.
//!
//! Small runs are taken where they fit best. Large ones are taken where memory has been free for longest, so that they go
//! round the arena: where the disk belongs to a hypervisor, a buffer that it has just read lies in another core's cache, and
//! filling that buffer again costs up to three times the CPU of filling one that has left it (`docs/performance.md`).
//! While less than half of the blocks are whole, large runs too are taken where they fit best: the largest runs need blocks.
//!
//! Invariants: each page belongs to exactly one free or used run; a run of order `n` starts at a multiple of `2^n`; two free
//! buddies of one order below the top never coexist; a run's generation is raised when it is given back; each list of free
//! runs is in the order in which they became free.

use wire::Slot;
use wire::limits::BLOCK_BYTES;

/// Runs of 2^0 … 2^11 pages: 4 KiB … 8 MiB.
pub(crate) const ORDERS: usize = 12;
/// Pages of the largest run.
pub(crate) const TOP_PAGES: usize = 1 << (ORDERS - 1);
/// Runs from this order on, 256 KiB, are large.
const LARGE_ORDER: usize = 6;
/// Bytes of the largest run: a commit batch (DESIGN §14) and two of the largest chunks.
pub(crate) const TOP_BYTES: usize = TOP_PAGES * BLOCK_BYTES;

const NONE: u32 = u32::MAX;

/// What is known of one page; meaningful at a run's first page only, but for the generation's sake kept for each.
#[derive(Clone, Debug)]
struct Page {
    generation: u32,
    references: u32,
    /// When the run became free, in releases.
    freed_at: u64,
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

/// The ends of a list of free runs.
#[derive(Clone, Copy, Debug)]
struct Ends {
    /// Free for longest.
    first: u32,
    last: u32,
}

/// The allocator's state: one record per page and one list of free runs per order.
#[derive(Debug)]
pub(crate) struct Buddy {
    pages: Vec<Page>,
    free: [Ends; ORDERS],
    free_pages: usize,
    free_blocks: usize,
    releases: u64,
}

impl Buddy {
    /// An allocator of `blocks` blocks of 8 MiB, all free.
    pub(crate) fn new(blocks: usize) -> Self {
        let page = Page {
            generation: 0,
            references: 0,
            freed_at: 0,
            next: NONE,
            previous: NONE,
            order: 0,
            state: State::Inside,
        };
        let count = blocks * TOP_PAGES;
        assert!(u32::try_from(count).is_ok_and(|count| count < NONE), "pages are numbered by 32 bits");
        let mut buddy = Self {
            pages: vec![page; count],
            free: [Ends { first: NONE, last: NONE }; ORDERS],
            free_pages: count,
            free_blocks: 0,
            releases: 0,
        };
        for block in 0..blocks {
            buddy.link_last(to_page(block * TOP_PAGES), ORDERS - 1);
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
        let mut candidates = (order..ORDERS).filter(|&order| self.free[order].first != NONE);
        let go_round = order >= LARGE_ORDER && self.free_blocks > self.pages.len() / TOP_PAGES / 2;
        let from = if go_round {
            candidates.min_by_key(|&order| self.pages[self.free[order].first as usize].freed_at)?
        } else {
            candidates.next()?
        };
        let first = self.free[from].first;
        let freed_at = self.pages[first as usize].freed_at;
        self.unlink_free(first, from);
        for order in (order..from).rev() {
            // The upper half goes back to the list, the lower half is split further or used. No run in the list is free for longer:
            // either it is empty, or the run that is split was free for longest of all.
            self.link_first(first + to_page(1 << order), order, freed_at);
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
        self.releases += 1;
        self.link_last(first, order);
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

    /// A run becomes free now.
    fn link_last(&mut self, first: u32, order: usize) {
        let previous = std::mem::replace(&mut self.free[order].last, first);
        match previous {
            NONE => self.free[order].first = first,
            last => self.pages[last as usize].next = first,
        }
        self.mark_free(first, order, self.releases, (previous, NONE));
    }

    /// A run is free since `freed_at`, which is before all others of its order.
    fn link_first(&mut self, first: u32, order: usize, freed_at: u64) {
        let next = std::mem::replace(&mut self.free[order].first, first);
        match next {
            NONE => self.free[order].last = first,
            next => self.pages[next as usize].previous = first,
        }
        self.mark_free(first, order, freed_at, (NONE, next));
    }

    fn mark_free(&mut self, first: u32, order: usize, freed_at: u64, (previous, next): (u32, u32)) {
        self.free_blocks += usize::from(order == ORDERS - 1);
        let page = &mut self.pages[first as usize];
        page.state = State::Free;
        page.order = u8::try_from(order).expect("orders are below 12");
        page.freed_at = freed_at;
        page.next = next;
        page.previous = previous;
    }

    fn unlink_free(&mut self, first: u32, order: usize) {
        let page = &mut self.pages[first as usize];
        assert!(page.state == State::Free && usize::from(page.order) == order);
        page.state = State::Inside;
        let (next, previous) = (page.next, page.previous);
        match next {
            NONE => self.free[order].last = previous,
            next => self.pages[next as usize].previous = previous,
        }
        match previous {
            NONE => self.free[order].first = next,
            previous => self.pages[previous as usize].next = next,
        }
        self.free_blocks -= usize::from(order == ORDERS - 1);
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
        assert_eq!(lists[ORDERS - 1], self.free_blocks);
        for (order, expected) in lists.into_iter().enumerate() {
            let (mut count, mut last, mut freed_at) = (0, NONE, 0);
            let mut at = self.free[order].first;
            while at != NONE {
                let page = &self.pages[at as usize];
                assert_eq!(page.previous, last);
                assert!(page.freed_at >= freed_at, "order {order} is sorted");
                (count, last, freed_at) = (count + 1, at, page.freed_at);
                at = page.next;
            }
            assert_eq!((count, last), (expected, self.free[order].last), "order {order}");
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
        assert_eq!(buddy.free[ORDERS - 1].first, 0, "all halves were joined");
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
    fn large_runs_go_round_and_leave_whole_blocks() {
        let mut buddy = Buddy::new(16);
        let mut seen = std::collections::BTreeSet::new();
        // Two in flight at any time: half of the blocks is walked before a place comes again.
        let mut held = buddy.allocate(1 << 20).expect("free");
        for _ in 0..64 {
            assert!(seen.insert(held.index), "page {} again after {} runs", held.index, seen.len());
            let next = buddy.allocate(1 << 20).expect("free");
            buddy.release(held);
            held = next;
            buddy.check();
        }
        // Small ones stay together, wherever they are.
        let small: Vec<_> = (0..100).map(|_| buddy.allocate(4096).expect("free")).collect();
        let (low, high) =
            (small.iter().map(|slot| slot.index).min(), small.iter().map(|slot| slot.index).max());
        assert!(high.expect("some") - low.expect("some") < to_page(TOP_PAGES));
        // Large ones that stay, among many that go, break up no more than half of the blocks.
        for _ in 0..64 {
            buddy.allocate(256 << 10).expect("free");
            let gone: Vec<_> = (0..16).map(|_| buddy.allocate(256 << 10).expect("free")).collect();
            for slot in gone {
                buddy.release(slot);
            }
        }
        buddy.check();
        assert!(buddy.free_blocks >= 7, "{} blocks are whole", buddy.free_blocks);
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
