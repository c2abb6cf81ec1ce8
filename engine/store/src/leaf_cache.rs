//! Leaf tables of chunks that were read in parts: a fixed number of them, each in the one or the other of two places that its id hashes to.

use wire::ChunkId;
use xxhash_rust::xxh3::xxh3_64;

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Way {
    id: ChunkId,
    leaves: Vec<u64>,
    used: bool,
}

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct LeafCache {
    sets: Vec<[Way; 2]>,
}

impl LeafCache {
    /// A cache of about `tables` tables, at least two.
    pub(crate) fn new(tables: u32) -> Self {
        Self { sets: vec![Default::default(); (tables as usize / 2).max(1)] }
    }

    fn set_of(&self, id: ChunkId) -> usize {
        usize::try_from(xxh3_64(&id.to_bytes()) % self.sets.len() as u64).expect("an index")
    }

    /// The chunk's leaves. Ids never change their content (I1), so a table is never stale.
    pub(crate) fn find(&mut self, id: ChunkId) -> Option<&[u64]> {
        let set = self.set_of(id);
        let way = self.sets[set].iter_mut().find(|way| way.id == id && !way.leaves.is_empty())?;
        way.used = true;
        Some(&way.leaves)
    }

    /// Keeps verified leaves; their place's memory is used again.
    pub(crate) fn insert(&mut self, id: ChunkId, leaves: &[u64]) {
        let set = self.set_of(id);
        let set = &mut self.sets[set];
        let at = usize::from(set[0].used && set[0].id != id);
        set[1 - at].used = false;
        set[at].id = id;
        set[at].leaves.clear();
        set[at].leaves.extend_from_slice(leaves);
        set[at].used = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use wire::SessionId;

    #[test]
    fn keeps_what_was_put_and_never_another() {
        let mut cache = LeafCache::new(64);
        let id = |ordinal| ChunkId { session: SessionId(1), ordinal };
        let mut hits = 0;
        for ordinal in 0..1000 {
            cache.insert(id(ordinal), &[ordinal, ordinal + 1]);
            assert_eq!(cache.find(id(ordinal)), Some(&[ordinal, ordinal + 1][..]));
            for other in 0..ordinal {
                if let Some(found) = cache.find(id(other)) {
                    assert_eq!(found, [other, other + 1]);
                    hits += 1;
                }
            }
        }
        assert!(hits > 1000);
    }
}
