//! Which chunks the group's volumes reference, and how often: spans of consecutive ids with one count each.
//!
//! Each piece of each file's live list holds one reference; a piece that was overwritten, or whose file is gone, keeps its reference
//! until the horizon passes the end of its lifetime. A span whose count is 0 waits in its volume's queue until it is reclaimed (R25); while it
//! is in the table the orphan pass leaves its chunks alone. After that its ids are dead for ever (R23).

use wire::planted::{Bug, planted};
use wire::{ChunkId, VolumeId};

use crate::codec::structure;
use crate::extents::ChunkRange;
use crate::tree::Tree;

/// Chunks with one count, beginning at the row's id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) volume: VolumeId,
    pub(crate) count: u32,
    pub(crate) references: u32,
    pub(crate) chunk_bytes: u32,
    pub(crate) last_chunk_bytes: u32,
}
structure!(Span { volume, count, references, chunk_bytes, last_chunk_bytes });

/// The table of references.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct References {
    pub(crate) spans: Tree<ChunkId, Span>,
}

/// A chunk isn't in the table, or is already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct WrongReference(pub(crate) ChunkId);

impl Span {
    fn range(&self, first: ChunkId) -> ChunkRange {
        ChunkRange {
            first,
            count: self.count,
            chunk_bytes: self.chunk_bytes,
            last_chunk_bytes: self.last_chunk_bytes,
        }
    }

    fn of(&self, range: ChunkRange) -> Self {
        Self {
            count: range.count,
            chunk_bytes: range.chunk_bytes,
            last_chunk_bytes: range.last_chunk_bytes,
            ..*self
        }
    }
}

impl References {
    /// The span that holds `chunk`, and the span's first id.
    pub(crate) fn find(&self, chunk: ChunkId) -> Option<(ChunkId, Span)> {
        let (first, span) = self.spans.floor(&chunk)?;
        let holds = first.session == chunk.session && chunk.ordinal - first.ordinal < u64::from(span.count);
        holds.then_some((*first, *span))
    }

    /// New chunks get their first reference.
    pub(crate) fn adopt(&mut self, volume: VolumeId, range: ChunkRange) -> Result<(), WrongReference> {
        let last = ChunkId { session: range.first.session, ordinal: range.end() - 1 };
        if let Some((first, span)) = self.spans.floor(&last)
            && first.session == last.session
            && first.ordinal + u64::from(span.count) > range.first.ordinal
        {
            return Err(WrongReference(range.first));
        }
        let span = Span {
            volume,
            count: range.count,
            references: 1,
            chunk_bytes: range.chunk_bytes,
            last_chunk_bytes: range.last_chunk_bytes,
        };
        self.spans.insert(range.first, span);
        Ok(())
    }

    /// One more reference to each chunk of the range.
    pub(crate) fn retain(&mut self, range: ChunkRange) -> Result<(), WrongReference> {
        self.change(range, |_, span| {
            span.references += 1;
        })
    }

    /// One reference less to each chunk of the range; those whose last one it was are appended to `ended`.
    pub(crate) fn release(
        &mut self,
        range: ChunkRange,
        ended: &mut Vec<ChunkRange>,
    ) -> Result<(), WrongReference> {
        self.change(range, |first, span| {
            span.references -= 1;
            if span.references == 0 || planted(Bug::ReclaimsReferenced) {
                ended.push(span.range(first));
            }
        })
    }

    /// Takes chunks without references out of the table.
    pub(crate) fn forget(&mut self, first: ChunkId, count: u32) -> Result<(), WrongReference> {
        self.split_at(first);
        self.split_at(ChunkId { session: first.session, ordinal: first.ordinal + u64::from(count) });
        let mut next = first;
        let end = first.ordinal + u64::from(count);
        while next.ordinal < end {
            let span = self.spans.remove(&next).ok_or(WrongReference(next))?;
            if span.references != 0 && !planted(Bug::ReclaimsReferenced) {
                return Err(WrongReference(next)); // I10
            }
            next.ordinal += u64::from(span.count);
        }
        Ok(())
    }

    /// Chunks of the range by span, each changed by `change`. Nothing is changed where one of them isn't referenced.
    fn change(
        &mut self,
        range: ChunkRange,
        mut change: impl FnMut(ChunkId, &mut Span),
    ) -> Result<(), WrongReference> {
        // Most ranges are a span: a copy of a large file is a million of them.
        if let Some(span) = self.spans.get(&range.first)
            && span.count == range.count
            && span.references > 0
        {
            let span = self.spans.get_mut(&range.first).ok_or(WrongReference(range.first))?;
            change(range.first, span);
            return Ok(());
        }
        let mut next = range.first;
        while next.ordinal < range.end() {
            let found = self.find(next);
            if found.is_none() && planted(Bug::ReclaimsReferenced) {
                return Ok(());
            }
            let (first, span) = found.ok_or(WrongReference(next))?;
            if span.references == 0 && !planted(Bug::ReclaimsReferenced) {
                return Err(WrongReference(next)); // dead is for ever (R23)
            }
            next.ordinal = first.ordinal + u64::from(span.count);
        }
        self.split_at(range.first);
        self.split_at(ChunkId { session: range.first.session, ordinal: range.end() });
        let mut next = range.first;
        while next.ordinal < range.end() {
            let span = self.spans.get_mut(&next).ok_or(WrongReference(next))?;
            change(next, span);
            next.ordinal += u64::from(span.count);
        }
        Ok(())
    }

    /// Makes a span begin at `chunk`, where one holds it in its middle.
    fn split_at(&mut self, chunk: ChunkId) {
        let Some((first, span)) = self.find(chunk) else { return };
        if first == chunk {
            return;
        }
        let low = u32::try_from(chunk.ordinal - first.ordinal).expect("inside a span");
        let whole = span.range(first);
        self.spans.insert(first, span.of(whole.part(0, low)));
        self.spans.insert(chunk, span.of(whole.part(low, span.count - low)));
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use wire::SessionId;

    use super::*;
    use crate::random::Random;

    fn range(ordinal: u64, count: u32) -> ChunkRange {
        let first = ChunkId { session: SessionId(1), ordinal };
        ChunkRange { first, count, chunk_bytes: 10, last_chunk_bytes: 10 }
    }

    /// Against a plain map of counts.
    #[test]
    fn counts_follow_the_model() {
        for seed in 1..30 {
            let mut random = Random::new(seed);
            let mut table = References::default();
            let mut model: BTreeMap<u64, u32> = BTreeMap::new();
            for _ in 0..400 {
                let some = range(random.next() % 60, 1 + u32::try_from(random.below(12)).unwrap());
                let ids = some.first.ordinal..some.end();
                let alive = ids.clone().all(|id| model.get(&id).is_some_and(|&count| count > 0));
                match random.below(5) {
                    0 => {
                        let free = ids.clone().all(|id| !model.contains_key(&id));
                        assert_eq!(table.adopt(VolumeId(1), some).is_ok(), free);
                        if free {
                            model.extend(ids.map(|id| (id, 1)));
                        }
                    }
                    1 => {
                        assert_eq!(table.retain(some).is_ok(), alive);
                        if alive {
                            ids.for_each(|id| *model.get_mut(&id).unwrap() += 1);
                        }
                    }
                    2 | 3 => {
                        let mut ended = Vec::new();
                        assert_eq!(table.release(some, &mut ended).is_ok(), alive);
                        if alive {
                            ids.clone().for_each(|id| *model.get_mut(&id).unwrap() -= 1);
                            let expected: Vec<u64> = ids.filter(|id| model[id] == 0).collect();
                            let ended: Vec<u64> =
                                ended.iter().flat_map(|range| range.first.ordinal..range.end()).collect();
                            assert_eq!(ended, expected);
                        }
                    }
                    _ => {
                        let dead = ids.clone().all(|id| model.get(&id) == Some(&0));
                        if dead {
                            table.forget(some.first, some.count).unwrap();
                            model.retain(|id, _| !ids.contains(id));
                        }
                    }
                }
                for id in 0..75 {
                    let found = table.find(range(id, 1).first).map(|(_, span)| span.references);
                    assert_eq!(found, model.get(&id).copied(), "seed {seed} id {id}");
                }
            }
        }
    }
}
