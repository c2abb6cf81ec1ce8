//! The chunks of some slices in order of their ids: what replicas compare (R3).
//!
//! The index is in the order of a keyed hash, so a slice's chunks are found by a walk over all of it, a bounded number of entries at a time. A walk serves as many
//! slices as fit: those that were asked for, and those that are likely to be asked for next, so that comparing a whole store walks its index once for
//! every [`CATALOG_CHUNKS_MAX`] / 2 chunks or so. What a walk has found is a *window* on its slice: every chunk from an id on up to another. From the first step of
//! its walk on a window follows each put and delete, so it is never stale: what it shows is what the index has at this moment.
//!
//! ```text
//! wanted ──(step)──► walking: entries of the index into the windows ──(the index's end)──► whole: answers
//!                                  └ too many chunks: the longest window ends earlier, or one that nobody waits for goes
//! ```

use std::collections::BTreeMap;
use std::ops::Bound;

use wire::checksum::entry_digest;
use wire::message::{ChunkRecord, SliceRange};
use wire::planted::{Bug, planted};
use wire::{ChunkId, SliceIndex, slice_of};

use crate::index::{Index, IndexEntry};

/// Chunks in all windows, about 6 MiB of them.
pub const CATALOG_CHUNKS_MAX: usize = 131_072;
/// Entries of the index looked at in one step, about 100 µs.
const WALK_PER_STEP: usize = 8_192;
/// Chunks of one range of a digest: a chunk that is missing costs the listing of so many, 8 KiB, and 10⁶ equal ones 125 KiB of digests.
const RANGE_CHUNKS: usize = 256;
/// Chunks that one answer's digests cover, about 200 µs.
const DIGEST_CHUNKS_MAX: usize = 8_192;

/// The chunks of one slice between two ids.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Window {
    /// Behind this one.
    after: Option<ChunkId>,
    /// Before this one; `None`: to the end.
    below: Option<ChunkId>,
    chunks: BTreeMap<ChunkId, (u32, u64)>,
    /// The walk is through.
    is_whole: bool,
    /// Somebody waits for it.
    is_wanted: bool,
    /// When it was looked at last, in looks.
    used: u64,
}

impl Window {
    fn holds(&self, id: ChunkId) -> bool {
        self.after.is_none_or(|after| id > after) && self.below.is_none_or(|below| id < below)
    }

    /// The last id up to which nothing is left out.
    fn reach(&self) -> ChunkId {
        self.below.map_or(ChunkId::MAX, before)
    }

    /// Whether it shows something behind this id: a chunk, or that none follows.
    fn covers(&self, after: Option<ChunkId>) -> bool {
        self.is_whole && after >= self.after && after.unwrap_or_default() < self.reach()
    }

    fn behind(&self, after: Option<ChunkId>, last: ChunkId) -> impl Iterator<Item = ChunkRecord> + '_ {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let is_empty = after.is_some_and(|after| after >= last);
        let range = (!is_empty).then(|| self.chunks.range((from, Bound::Included(last))));
        let record = |(id, (length, root)): (&ChunkId, &(u32, u64))| ChunkRecord {
            id: *id,
            length: *length,
            root: *root,
        };
        range.into_iter().flatten().map(record)
    }
}

/// The id before this one; an id that a window ends below is never the first.
fn before(id: ChunkId) -> ChunkId {
    match id.ordinal.checked_sub(1) {
        Some(ordinal) => ChunkId { ordinal, ..id },
        None => ChunkId { session: wire::SessionId(id.session.0.saturating_sub(1)), ordinal: u64::MAX },
    }
}

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Catalog {
    ring_bits: u32,
    windows: BTreeMap<SliceIndex, Window>,
    /// In all windows.
    count: usize,
    /// Where the walk is; `None`: there is none.
    walk: Option<Walk>,
    /// Windows that wait for the next walk.
    waiting: BTreeMap<SliceIndex, Option<ChunkId>>,
    looks: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Walk {
    cursor: Option<ChunkId>,
}

impl Catalog {
    /// Chunks in memory.
    pub(crate) fn count(&self) -> usize {
        self.count
    }

    /// Whether a step has something to do.
    pub(crate) fn is_busy(&self) -> bool {
        self.walk.is_some() || !self.waiting.is_empty()
    }

    /// Forgets everything.
    pub(crate) fn clear(&mut self) {
        *self = Self { ring_bits: self.ring_bits, ..Self::default() };
    }

    /// The ring's slices are others from now on.
    pub(crate) fn set_ring(&mut self, ring_bits: u32) {
        if self.ring_bits != ring_bits {
            self.ring_bits = ring_bits;
            self.clear();
        }
    }

    /// The window on what lies behind `after`; where there is none, it is wanted from now on.
    fn window(&mut self, slice: SliceIndex, after: Option<ChunkId>) -> Option<&Window> {
        self.looks += 1;
        let looks = self.looks;
        let is_there = self.windows.get(&slice).is_some_and(|window| window.covers(after));
        if !is_there {
            let is_coming = self.windows.get(&slice).is_some_and(|window| {
                !window.is_whole && after >= window.after && after.unwrap_or_default() < window.reach()
            });
            if is_coming {
                self.windows.get_mut(&slice)?.is_wanted = true;
            } else {
                let wanted = self.waiting.entry(slice).or_insert(after);
                *wanted = (*wanted).min(after);
            }
            return None;
        }
        let window = self.windows.get_mut(&slice)?;
        window.used = looks;
        window.is_wanted = false;
        Some(window)
    }

    /// How far the window behind `after` shows everything.
    pub(crate) fn reach(&mut self, slice: SliceIndex, after: Option<ChunkId>) -> Option<ChunkId> {
        Some(self.window(slice, after)?.reach())
    }

    /// Chunks behind `after` up to `last`, which is within reach.
    pub(crate) fn records(
        &mut self,
        slice: SliceIndex,
        after: Option<ChunkId>,
        last: ChunkId,
    ) -> Option<impl Iterator<Item = ChunkRecord> + '_> {
        let window = self.window(slice, after)?;
        Some(window.behind(after, last.min(window.reach())))
    }

    /// Digests of what lies behind `after`, and whether that is all of it.
    pub(crate) fn digests(
        &mut self,
        slice: SliceIndex,
        after: Option<ChunkId>,
        limit: usize,
    ) -> Option<(Vec<SliceRange>, bool)> {
        let window = self.window(slice, after)?;
        let mut ranges: Vec<SliceRange> = Vec::new();
        let mut open = SliceRange { last: ChunkId::MAX, count: 0, digest: 0 };
        let mut records = window.behind(after, ChunkId::MAX).peekable();
        for record in records.by_ref().take(DIGEST_CHUNKS_MAX.min(limit * RANGE_CHUNKS)) {
            add(&mut open, &record);
            open.last = record.id;
            if open.count as usize == RANGE_CHUNKS {
                ranges.push(open);
                open = SliceRange { last: ChunkId::MAX, count: 0, digest: 0 };
            }
        }
        let is_end = records.peek().is_none() && window.below.is_none();
        if is_end {
            // What a joiner has behind the last chunk belongs to the last range.
            match ranges.pop_if(|_| open.count == 0) {
                Some(last) => ranges.push(SliceRange { last: ChunkId::MAX, ..last }),
                None => ranges.push(SliceRange { last: ChunkId::MAX, ..open }),
            }
        } else if open.count > 0 {
            ranges.push(open);
        } else if ranges.is_empty() {
            // The window ends before the next chunk: as far as that nothing is here.
            ranges.push(SliceRange { last: window.reach(), ..open });
        }
        Some((ranges, is_end))
    }

    /// The digest of what lies behind `after` up to `last`, which is within reach.
    pub(crate) fn digest(
        &mut self,
        slice: SliceIndex,
        after: Option<ChunkId>,
        last: ChunkId,
    ) -> Option<SliceRange> {
        let mut range = SliceRange { last, count: 0, digest: 0 };
        self.records(slice, after, last)?.for_each(|record| add(&mut range, &record));
        Some(range)
    }

    /// One step of a walk, which begins where windows wait for one. `ahead` are slices that will be wanted next, of about `chunks_each` chunks.
    pub(crate) fn step(
        &mut self,
        index: &Index,
        ahead: impl Iterator<Item = SliceIndex>,
        chunks_each: usize,
    ) {
        if self.walk.is_none() {
            if self.waiting.is_empty() {
                return;
            }
            self.begin(ahead, chunks_each);
        }
        let Some(Walk { cursor }) = self.walk else { return };
        let mut last = None;
        let mut seen = 0;
        for entry in index.after(cursor).take(WALK_PER_STEP) {
            seen += 1;
            last = Some(entry.id);
            let slice = slice_of(entry.id, self.ring_bits);
            if self.windows.get(&slice).is_some_and(|window| !window.is_whole && window.holds(entry.id)) {
                self.add(slice, &entry);
            }
        }
        if seen < WALK_PER_STEP {
            self.walk = None;
            self.windows.values_mut().for_each(|window| window.is_whole = true);
        } else {
            self.walk = Some(Walk { cursor: last });
        }
    }

    fn begin(&mut self, ahead: impl Iterator<Item = SliceIndex>, chunks_each: usize) {
        for slice in self.waiting.keys() {
            if let Some(window) = self.windows.remove(slice) {
                self.count -= window.chunks.len();
            }
        }
        while self.count > CATALOG_CHUNKS_MAX / 2
            && let Some(oldest) =
                self.windows.iter().min_by_key(|(_, window)| window.used).map(|(slice, _)| *slice)
        {
            self.drop_window(oldest);
        }
        let mut expected = self.count + self.waiting.len() * chunks_each;
        for (slice, after) in std::mem::take(&mut self.waiting) {
            let window = Window { after, is_wanted: true, used: self.looks, ..Window::default() };
            self.windows.insert(slice, window);
        }
        for slice in ahead {
            expected += chunks_each.max(1);
            if expected > CATALOG_CHUNKS_MAX * 3 / 4 {
                break;
            }
            let looks = self.looks;
            self.windows.entry(slice).or_insert_with(|| Window { used: looks, ..Window::default() });
        }
        self.walk = Some(Walk::default());
    }

    fn drop_window(&mut self, slice: SliceIndex) {
        if let Some(window) = self.windows.remove(&slice) {
            self.count -= window.chunks.len();
        }
    }

    fn add(&mut self, slice: SliceIndex, entry: &IndexEntry) {
        let Some(window) = self.windows.get_mut(&slice) else { return };
        if window.chunks.insert(entry.id, (entry.length, entry.root)).is_none() {
            self.count += 1;
        }
        while self.count > CATALOG_CHUNKS_MAX && self.make_room() {}
    }

    /// A window that nobody waits for goes; where there is none, the longest one ends earlier.
    fn make_room(&mut self) -> bool {
        let unwanted =
            self.windows.iter().filter(|(_, window)| !window.is_wanted && !window.chunks.is_empty());
        if let Some(slice) = unwanted.min_by_key(|(_, window)| window.used).map(|(slice, _)| *slice) {
            self.drop_window(slice);
            return true;
        }
        let longest = self.windows.values_mut().max_by_key(|window| window.chunks.len());
        let Some((last, window)) = longest.and_then(|window| Some((window.chunks.pop_last()?.0, window)))
        else {
            return false;
        };
        window.below = Some(last);
        self.count -= 1;
        true
    }

    /// The index has a new or another entry.
    pub(crate) fn on_insert(&mut self, entry: &IndexEntry) {
        if self.windows.is_empty() {
            return;
        }
        let slice = slice_of(entry.id, self.ring_bits);
        if self.windows.get(&slice).is_some_and(|window| window.holds(entry.id)) {
            self.add(slice, entry);
        }
    }

    /// The index has an entry less.
    pub(crate) fn on_remove(&mut self, id: ChunkId) {
        if self.windows.is_empty() {
            return;
        }
        let window = self.windows.get_mut(&slice_of(id, self.ring_bits));
        if window.is_some_and(|window| window.chunks.remove(&id).is_some()) {
            self.count -= 1;
        }
    }
}

fn add(range: &mut SliceRange, record: &ChunkRecord) {
    range.count += 1;
    let (length, root) = if planted(Bug::SyncDigestsIds) { (0, 0) } else { (record.length, record.root) };
    range.digest = range.digest.wrapping_add(entry_digest(record.id, length, root));
}

#[cfg(all(test, not(planted)))]
mod tests {
    use journal::fake_disk::Random;
    use journal::{BlockIndex, Place, SegmentIndex};
    use wire::SessionId;

    use super::*;

    const BITS: u32 = 3;

    fn entry(number: u64, root: u64) -> IndexEntry {
        IndexEntry {
            id: ChunkId { session: SessionId(number / 100), ordinal: number % 100 },
            root,
            length: 100,
            place: Place { segment: SegmentIndex(1), block: BlockIndex(1) },
            leaf_word: 0,
        }
    }

    fn catalog() -> Catalog {
        let mut catalog = Catalog::default();
        catalog.set_ring(BITS);
        catalog
    }

    fn walk(catalog: &mut Catalog, index: &Index, ahead: &[SliceIndex]) -> usize {
        let mut steps = 0;
        while catalog.is_busy() {
            catalog.step(index, ahead.iter().copied(), 1);
            steps += 1;
        }
        steps
    }

    /// What a window shows is what the index has, whatever was put and deleted since, before, behind and during the walk.
    #[test]
    fn windows_follow_the_index() {
        let mut random = Random::new(1);
        let (mut index, mut catalog) = (Index::new(5), catalog());
        let mut model = BTreeMap::new();
        let slice = SliceIndex(2);
        assert!(catalog.reach(slice, None).is_none(), "it is wanted now");
        for round in 0..60_000_u64 {
            let new = entry(random.below(20_000), random.below(3));
            if random.chance(60) {
                index.insert(&new);
                model.insert(new.id, new);
                catalog.on_insert(&new);
            } else {
                index.remove(new.id);
                model.remove(&new.id);
                catalog.on_remove(new.id);
            }
            if round == 30_000 || round == 30_050 {
                catalog.step(&index, std::iter::empty(), 1);
            }
        }
        walk(&mut catalog, &index, &[]);
        let expected = model.values().filter(|entry| slice_of(entry.id, BITS) == slice);
        let expected: Vec<_> = expected
            .map(|entry| ChunkRecord { id: entry.id, length: entry.length, root: entry.root })
            .collect();
        let shown: Vec<_> = catalog.records(slice, None, ChunkId::MAX).expect("a window").collect();
        assert_eq!(shown, expected);
        assert!(shown.len() > 500);
        let middle = shown[shown.len() / 2].id;
        let behind =
            catalog.records(slice, Some(middle), shown[shown.len() - 2].id).expect("a window").count();
        assert_eq!(behind, shown.len() - shown.len() / 2 - 2);
    }

    #[test]
    fn ranges_cover_the_slice_and_tell_ids_lengths_and_roots_apart() {
        let (mut index, mut catalog) = (Index::new(5), catalog());
        for number in 0..20_000 {
            index.insert(&entry(number, number));
        }
        let slice = SliceIndex(4);
        assert!(catalog.digests(slice, None, 4).is_none());
        walk(&mut catalog, &index, &[]);
        let mut all = Vec::new();
        let mut after = None;
        loop {
            let (ranges, end) = catalog.digests(slice, after, 4).expect("a window");
            assert!(ranges.len() <= 4);
            after = ranges.last().map(|range| range.last);
            all.extend(ranges);
            if end {
                break;
            }
        }
        let count: u32 = all.iter().map(|range| range.count).sum();
        assert_eq!(count as usize, catalog.records(slice, None, ChunkId::MAX).expect("a window").count());
        assert_eq!(after, Some(ChunkId::MAX), "what a joiner has behind the last chunk is compared, too");
        let mut from = None;
        for range in &all {
            assert_eq!(catalog.digest(slice, from, range.last).as_ref(), Some(range));
            from = Some(range.last);
        }
        // R3: another root under the same id is a difference.
        let changed = catalog.records(slice, None, ChunkId::MAX).expect("a window").nth(300).expect("many");
        catalog
            .on_insert(&IndexEntry { root: 7, ..entry(changed.id.session.0 * 100 + changed.id.ordinal, 0) });
        let differs = |catalog: &mut Catalog, at: usize| {
            let from = at.checked_sub(1).map(|before| all[before].last);
            catalog.digest(slice, from, all[at].last) != Some(all[at])
        };
        assert!(differs(&mut catalog, 1) && !differs(&mut catalog, 0) && !differs(&mut catalog, 2));
    }

    #[test]
    fn an_empty_slice_is_one_range() {
        let (index, mut catalog) = (Index::new(5), catalog());
        assert!(catalog.digests(SliceIndex(1), None, 9).is_none());
        walk(&mut catalog, &index, &[]);
        let whole = SliceRange { last: ChunkId::MAX, count: 0, digest: 0 };
        assert_eq!(catalog.digests(SliceIndex(1), None, 9), Some((vec![whole], true)));
    }

    /// A slice with more chunks than fit is gone through in windows, and nothing is left out between them.
    #[test]
    fn a_slice_larger_than_the_catalog_is_seen_whole() {
        let (mut index, mut catalog) = (Index::new(5), Catalog::default());
        let total = CATALOG_CHUNKS_MAX as u64 * 2 + 77;
        for number in 0..total {
            index.insert(&entry(number, number));
        }
        let (mut after, mut seen, mut walks) = (None, 0, 0);
        loop {
            let Some(reach) = catalog.reach(SliceIndex(0), after) else {
                walks += 1;
                walk(&mut catalog, &index, &[]);
                assert!(catalog.count() <= CATALOG_CHUNKS_MAX);
                continue;
            };
            let page = catalog.records(SliceIndex(0), after, reach).expect("a window");
            seen += page.count() as u64;
            after = Some(reach);
            if reach == ChunkId::MAX {
                break;
            }
        }
        assert_eq!((seen, walks), (total, 3));
    }

    #[test]
    fn a_walk_serves_the_slices_ahead_as_far_as_they_fit() {
        let (mut index, mut catalog) = (Index::new(5), catalog());
        for number in 0..50_000 {
            index.insert(&entry(number, number));
        }
        let all: Vec<_> = (0..8).map(SliceIndex).collect();
        assert!(catalog.reach(all[0], None).is_none());
        let steps = walk(&mut catalog, &index, &all);
        assert_eq!(steps, 50_000 / WALK_PER_STEP + 1);
        let mut seen = 0;
        for slice in all {
            seen += catalog.records(slice, None, ChunkId::MAX).expect("looked ahead").count();
        }
        assert_eq!(seen, 50_000);
        assert!(!catalog.is_busy(), "nothing more is wanted");
    }
}
