//! The index: chunk id → where it lies, how long it is, its root. 38 bytes an entry.
//!
//! Entries lie in buckets by a keyed hash of the id, sorted by id inside. Beside them a bucket has their tags, 16 bits of the hash each, in the same order. A
//! search runs through the tags, which lie together, and looks at the one entry whose tag is right: it waits for memory twice, where halving the entries waits
//! at each step. Ids that follow each other share a bucket, 32 at a time: who puts or reads one chunk after the other finds it in the caches.
//!
//! A bucket grows by a fifth, so at most a sixth of it is empty: the worst case is (36 + 2) × 6/5 + the buckets' headers, whatever the number of
//! entries. No table ever doubles, so growing costs no memory peak and no pause. The key is drawn when the store is formatted; a bucket's
//! number depends on nothing else, so "after this id" is a cursor that stays valid whatever is put or deleted.
//!
//! ```text
//! entry  [u32; 9]:  0–3 id   4–5 root   6 segment   7–8 block 14 | leaf word 23 | length-1 22 | damaged 1   (bits from the lowest up)
//! ```

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use journal::{BlockIndex, Place, SegmentIndex};
use wire::limits::CHUNK_BYTES_MAX;
use wire::{ChunkId, SessionId};
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// Buckets: at 10⁵ entries their headers are 2 bytes an entry, at 10⁷ an insert moves at most 95 KB.
const BUCKET_COUNT: usize = 4096;
const BUCKET_BITS: u32 = BUCKET_COUNT.ilog2();
/// Ids of one session whose ordinals differ only in so many low bits share a bucket.
const TOGETHER_BITS: u32 = 5;
const BLOCK_BITS: u32 = 14;
const LEAF_BITS: u32 = 23;
const LENGTH_BITS: u32 = 22;
const _: () = assert!(CHUNK_BYTES_MAX <= 1 << LENGTH_BITS);
/// In the last word: the copy could not be read, or isn't what the root says.
const DAMAGED: u32 = 1 << (BLOCK_BITS + LEAF_BITS + LENGTH_BITS - 32);
const _: () =
    assert!(journal::SEGMENT_BYTES / 4096 <= 1 << BLOCK_BITS && journal::SEGMENT_BYTES / 8 <= 1 << LEAF_BITS);

/// What the store knows of a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct IndexEntry {
    /// The chunk.
    pub id: ChunkId,
    /// Root of its hash tree.
    pub root: u64,
    /// Its bytes, 1 to 4 MiB.
    pub length: u32,
    /// Its payload's first block.
    pub place: Place,
    /// Its leaf table in the same segment, in 8-byte words; 0 for one block.
    pub leaf_word: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Packed([u32; 9]);

impl Packed {
    fn new(entry: &IndexEntry) -> Self {
        let rest = u64::from(entry.place.block.0)
            | u64::from(entry.leaf_word) << BLOCK_BITS
            | u64::from(entry.length - 1) << (BLOCK_BITS + LEAF_BITS);
        let [s0, s1] = halves(entry.id.session.0);
        let [o0, o1] = halves(entry.id.ordinal);
        let [r0, r1] = halves(entry.root);
        let [p0, p1] = halves(rest);
        Self([s0, s1, o0, o1, r0, r1, entry.place.segment.0, p0, p1])
    }

    fn id(&self) -> ChunkId {
        ChunkId { session: SessionId(whole(self.0[0], self.0[1])), ordinal: whole(self.0[2], self.0[3]) }
    }

    fn is_damaged(&self) -> bool {
        self.0[8] & DAMAGED != 0
    }

    fn entry(&self) -> IndexEntry {
        let rest = whole(self.0[7], self.0[8]);
        let bits = |from: u32, count: u32| {
            u32::try_from(rest >> from & ((1 << count) - 1)).expect("at most 23 bits")
        };
        IndexEntry {
            id: self.id(),
            root: whole(self.0[4], self.0[5]),
            length: bits(BLOCK_BITS + LEAF_BITS, LENGTH_BITS) + 1,
            place: Place { segment: SegmentIndex(self.0[6]), block: BlockIndex(bits(0, BLOCK_BITS)) },
            leaf_word: bits(BLOCK_BITS, LEAF_BITS),
        }
    }
}

fn halves(value: u64) -> [u32; 2] {
    let [a, b, c, d, e, f, g, h] = value.to_le_bytes();
    [u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h])]
}

fn whole(low: u32, high: u32) -> u64 {
    u64::from(low) | u64::from(high) << 32
}

/// Tags that are compared at once, a multiple of what a vector register holds.
const TAGS_AT_ONCE: usize = 64;

/// Entries in order of their ids, and the tag of each.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Bucket {
    tags: Vec<u16>,
    entries: Vec<Packed>,
}

impl Bucket {
    /// Where the id's entry is.
    fn find(&self, id: ChunkId, tag: u16) -> Option<usize> {
        for (number, tags) in self.tags.chunks(TAGS_AT_ONCE).enumerate() {
            if !tags.contains(&tag) {
                continue;
            }
            let first = number * TAGS_AT_ONCE;
            let found =
                (first..first + tags.len()).find(|&at| self.tags[at] == tag && self.entries[at].id() == id);
            if found.is_some() {
                return found;
            }
        }
        None
    }

    fn insert(&mut self, entry: Packed, tag: u16) {
        if self.entries.len() == self.entries.capacity() {
            let more = 1 + self.entries.len() / 5;
            self.entries.reserve_exact(more);
            self.tags.reserve_exact(more);
        }
        let at = self.behind(entry.id());
        self.entries.insert(at, entry);
        self.tags.insert(at, tag);
    }

    fn remove(&mut self, at: usize) -> Packed {
        let entry = self.entries.remove(at);
        self.tags.remove(at);
        let len = self.entries.len();
        // Deleting gives memory back in the steps in which putting took it.
        if self.entries.capacity() - len > 2 + len / 6 {
            self.entries.shrink_to(len + 1 + len / 12);
            self.tags.shrink_to(len + 1 + len / 12);
        }
        entry
    }

    /// How many entries are not behind this id.
    fn behind(&self, id: ChunkId) -> usize {
        self.entries.partition_point(|entry| entry.id() <= id)
    }

    fn memory_bytes(&self) -> usize {
        self.entries.capacity() * size_of::<Packed>() + self.tags.capacity() * size_of::<u16>()
    }
}

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Index {
    key: u64,
    buckets: Vec<Bucket>,
    count: u64,
    damaged: u64,
}

impl Index {
    /// An empty index with the store's key.
    pub fn new(key: u64) -> Self {
        Self { key, buckets: vec![Bucket::default(); BUCKET_COUNT], count: 0, damaged: 0 }
    }

    /// Draws the buckets anew; the index is empty.
    pub(crate) fn set_key(&mut self, key: u64) {
        assert_eq!(self.count, 0, "entries are in the buckets of the present key");
        self.key = key;
    }

    /// Entries.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Bytes that the index takes, unused capacity included.
    pub fn memory_bytes(&self) -> usize {
        let buckets: usize = self.buckets.iter().map(Bucket::memory_bytes).sum();
        buckets + self.buckets.capacity() * size_of::<Bucket>()
    }

    /// The id's bucket, and its tag there.
    fn place_of(&self, id: ChunkId) -> (usize, u16) {
        let together = ChunkId { ordinal: id.ordinal >> TOGETHER_BITS, ..id };
        let hash = xxh3_64_with_seed(&together.to_bytes(), self.key);
        let bucket = usize::try_from(hash >> (64 - BUCKET_BITS)).expect("12 bits");
        // Those that are together differ in these bits only.
        let low = id.ordinal & ((1 << TOGETHER_BITS) - 1);
        (bucket, u16::try_from((hash ^ low) & 0xFFFF).expect("16 bits"))
    }

    fn locate(&self, id: ChunkId) -> Option<&Packed> {
        let (bucket, tag) = self.place_of(id);
        let bucket = &self.buckets[bucket];
        bucket.find(id, tag).map(|at| &bucket.entries[at])
    }

    /// The chunk's entry.
    pub fn find(&self, id: ChunkId) -> Option<IndexEntry> {
        self.locate(id).map(Packed::entry)
    }

    /// Entries whose copy is known to be damaged.
    pub fn damaged_count(&self) -> u64 {
        self.damaged
    }

    /// Whether the chunk's copy is known to be damaged.
    pub fn is_damaged(&self, id: ChunkId) -> bool {
        self.damaged > 0 && self.locate(id).is_some_and(Packed::is_damaged)
    }

    /// Remembers whether the copy is damaged, until another replaces it; true if that is news.
    pub fn set_damaged(&mut self, id: ChunkId, damaged: bool) -> bool {
        let (bucket, tag) = self.place_of(id);
        let bucket = &mut self.buckets[bucket];
        let Some(at) = bucket.find(id, tag) else { return false };
        let entry = &mut bucket.entries[at];
        if entry.is_damaged() == damaged {
            return false;
        }
        entry.0[8] ^= DAMAGED;
        if damaged {
            self.damaged += 1;
        } else {
            self.damaged -= 1;
        }
        true
    }

    /// Puts an entry in, a good one; returns the one that it replaces.
    pub fn insert(&mut self, entry: &IndexEntry) -> Option<IndexEntry> {
        let (bucket, tag) = self.place_of(entry.id);
        let bucket = &mut self.buckets[bucket];
        let Some(at) = bucket.find(entry.id, tag) else {
            bucket.insert(Packed::new(entry), tag);
            self.count += 1;
            return None;
        };
        let old = std::mem::replace(&mut bucket.entries[at], Packed::new(entry));
        self.damaged -= u64::from(old.is_damaged());
        Some(old.entry())
    }

    /// Takes an entry out.
    pub fn remove(&mut self, id: ChunkId) -> Option<IndexEntry> {
        let (bucket, tag) = self.place_of(id);
        let bucket = &mut self.buckets[bucket];
        let old = bucket.remove(bucket.find(id, tag)?);
        self.count -= 1;
        self.damaged -= u64::from(old.is_damaged());
        Some(old.entry())
    }

    /// Takes everything out.
    pub fn clear(&mut self) {
        *self = Self::new(self.key);
    }

    /// The entries behind `after` in the cursor's order, which is by bucket, then by id; all of them from `None`.
    pub fn after(&self, after: Option<ChunkId>) -> impl Iterator<Item = IndexEntry> + '_ {
        let (bucket, at) = match after {
            None => (0, 0),
            Some(id) => {
                let (bucket, _) = self.place_of(id);
                (bucket, self.buckets[bucket].behind(id))
            }
        };
        let first = self.buckets[bucket].entries[at..].iter();
        let others = self.buckets[bucket + 1..].iter().flat_map(|bucket| &bucket.entries);
        first.chain(others).map(Packed::entry)
    }

    /// The entries behind `after` in order of their ids, an inventory, whose readers compare ranges of ids (R3): the buckets, which are
    /// sorted, merged. Beginning costs one search a bucket and 24 bytes, each entry one step in a heap of the buckets; nothing is kept
    /// between pages, so they may be asked for whatever changes meanwhile.
    pub fn in_order_after(&self, after: Option<ChunkId>) -> impl Iterator<Item = IndexEntry> + '_ {
        let head = |bucket: usize, at: usize| {
            Some(Reverse((self.buckets[bucket].entries.get(at)?.id(), bucket, at)))
        };
        let mut heads: BinaryHeap<_> = (0..BUCKET_COUNT)
            .filter_map(|bucket| head(bucket, after.map_or(0, |after| self.buckets[bucket].behind(after))))
            .collect();
        std::iter::from_fn(move || {
            let Reverse((_, bucket, at)) = heads.pop()?;
            heads.extend(head(bucket, at + 1));
            Some(self.buckets[bucket].entries[at].entry())
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use std::collections::BTreeMap;

    use journal::fake_disk::Random;

    fn entry(number: u64) -> IndexEntry {
        let mut random = Random::new(number);
        IndexEntry {
            id: ChunkId { session: SessionId(number / 1000), ordinal: number % 1000 },
            root: random.bits(),
            length: u32::try_from(1 + random.below(4 << 20)).unwrap(),
            place: Place {
                segment: SegmentIndex(u32::try_from(random.below(1 << 30)).unwrap()),
                block: BlockIndex(u32::try_from(random.below(1 << 14)).unwrap()),
            },
            leaf_word: u32::try_from(random.below(1 << 23)).unwrap(),
        }
    }

    #[test]
    fn behaves_like_a_map_and_its_cursor_survives_changes() {
        let mut random = Random::new(1);
        let mut index = Index::new(7);
        let mut model = BTreeMap::new();
        let mut damaged = BTreeSet::new();
        for _ in 0..20_000 {
            let entry = entry(random.below(3_000));
            let was_damaged = damaged.remove(&entry.id);
            assert_eq!(index.is_damaged(entry.id), was_damaged);
            if random.chance(60) {
                assert_eq!(index.insert(&entry), model.insert(entry.id, entry));
            } else {
                assert_eq!(index.remove(entry.id), model.remove(&entry.id));
            }
            if random.chance(10) && index.set_damaged(entry.id, true) {
                assert!(!index.set_damaged(entry.id, true) && damaged.insert(entry.id));
            }
            assert_eq!(index.damaged_count(), damaged.len() as u64);
            assert_eq!(index.find(entry.id), model.get(&entry.id).copied());
            assert_eq!(index.count(), model.len() as u64);
        }
        for (after, count) in [(None, 7), (Some(entry(40).id), 7), (Some(entry(1_500).id), 5_000)] {
            let expected =
                model.values().filter(|entry| after.is_none_or(|after| entry.id > after)).take(count);
            let page: Vec<_> = index.in_order_after(after).take(count).collect();
            assert_eq!(page, expected.copied().collect::<Vec<_>>());
        }
        // Walking in pages, with changes between them, yields whatever stays throughout exactly once.
        let stays: BTreeMap<_, _> = model.iter().filter(|(id, _)| id.ordinal % 2 == 0).collect();
        let mut seen = BTreeMap::new();
        let mut changed = index.clone();
        let mut cursor = None;
        loop {
            let page: Vec<_> = changed.after(cursor).take(17).collect();
            let Some(last) = page.last() else { break };
            cursor = Some(last.id);
            for entry in page {
                assert!(seen.insert(entry.id, entry).is_none(), "twice");
            }
            let odd = entry(random.below(1_500) * 2 + 1);
            if random.chance(50) {
                changed.insert(&odd);
            } else {
                changed.remove(odd.id);
            }
        }
        for (id, entry) in stays {
            assert_eq!(seen.get(id), Some(entry));
        }
    }

    #[test]
    fn equal_tags_are_told_apart_by_the_id() {
        let mut bucket = Bucket::default();
        // More than are compared at once, on both sides of the border.
        let entries: Vec<_> = (0..3 * TAGS_AT_ONCE as u64).map(entry_light).collect();
        let tag_of = |number: usize| u16::from(number.is_multiple_of(2));
        for (number, entry) in entries.iter().enumerate() {
            assert_eq!(bucket.find(entry.id, tag_of(number)), None);
            bucket.insert(Packed::new(entry), tag_of(number));
        }
        for (number, entry) in entries.iter().enumerate() {
            assert_eq!(bucket.find(entry.id, tag_of(number)), Some(number));
            assert_eq!(bucket.find(entry.id, 7), None, "another tag is another id");
        }
        let at = bucket.find(entries[70].id, tag_of(70)).expect("it is there");
        assert_eq!(bucket.remove(at).entry(), entries[70]);
        assert_eq!(bucket.find(entries[70].id, tag_of(70)), None);
        assert_eq!(bucket.find(entries[71].id, tag_of(71)), Some(70), "tags move with their entries");
    }

    /// Each page of an inventory was a pass over the whole index: 10⁶ chunks were listed in minutes.
    #[test]
    fn an_inventory_in_pages_looks_at_each_entry_once() {
        let mut index = Index::new(3);
        for number in 0..300_000 {
            index.insert(&entry_light(number));
        }
        // In pages of a thousand that pass was 9 × 10⁷ entries.
        let (mut cursor, mut pages, mut listed) = (None, 0, 0_u64);
        loop {
            let page: Vec<_> = index.in_order_after(cursor).take(1000).collect();
            let Some(last) = page.last() else { break };
            assert!(
                cursor.is_none_or(|cursor| page[0].id > cursor) && page.is_sorted_by_key(|entry| entry.id)
            );
            cursor = Some(last.id);
            pages += 1;
            listed += page.len() as u64;
            // What is deleted behind the cursor, or before it, disturbs nothing.
            index.remove(page[0].id);
        }
        assert_eq!((listed, pages), (300_000, 300));
    }

    /// Issue 2, §4: ≤ 48 B a chunk, capacity included, worst case between 10⁵ and 10⁶.
    #[test]
    fn memory_per_chunk() {
        let mut index = Index::new(99);
        let mut worst = (0.0, 0);
        for number in 0..1_000_000_u64 {
            index.insert(&entry_light(number));
            if number >= 100_000 && number % 500 == 0 {
                #[expect(clippy::cast_precision_loss, reason = "a figure for a person")]
                let bytes = index.memory_bytes() as f64 / index.count() as f64;
                if bytes > worst.0 {
                    worst = (bytes, number);
                }
            }
        }
        println!("index: at worst {:.2} bytes a chunk, at {} chunks", worst.0, worst.1);
        assert!(worst.0 <= 48.0, "{worst:?}");
        // Deleting gives back.
        for number in 0..900_000 {
            index.remove(entry_light(number).id);
        }
        assert!(index.memory_bytes() <= 48 * 100_000, "{}", index.memory_bytes());
    }

    fn entry_light(number: u64) -> IndexEntry {
        IndexEntry {
            id: ChunkId { session: SessionId(number >> 10), ordinal: number & 1023 },
            root: number,
            length: 4096,
            place: Place::default(),
            leaf_word: 0,
        }
    }
}
