//! One edition of the map, ready to be handed out: whole, or as what changed since one of its predecessors.
//!
//! Whoever holds it answers `GetMap`. Immutable, and shared by all threads of a node: a newer map is another edition.

use std::sync::Arc;

use wire::MapNumber;
use wire::map::{Map, MapDelta, MapUpdate};
use wire::message::{DecodeError, Reply};

use crate::{ClusterMap, MapError};

/// Predecessors from which a delta is kept.
const DELTAS_MAX: usize = 32;
/// A delta that is larger than a part of the whole map isn't worth keeping.
const DELTA_PART_MAX: usize = 4;

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Edition {
    map: ClusterMap,
    bytes: Arc<[u8]>,
    /// Newest predecessor last.
    deltas: Vec<Known>,
}

/// The way from a predecessor.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Known {
    delta: MapDelta,
    bytes: Arc<[u8]>,
}

impl Edition {
    /// The first edition that somebody has: only whole.
    pub fn new(map: ClusterMap) -> Self {
        let bytes = map.as_map().encode().into();
        Self { map, bytes, deltas: Vec::new() }
    }

    /// The edition in the bytes of a whole map.
    pub fn decode(bytes: &[u8]) -> Result<Result<Self, MapError>, DecodeError> {
        Ok(ClusterMap::new(Map::decode(bytes)?).map(Self::new))
    }

    /// The next edition.
    #[must_use]
    pub fn next(&self, map: ClusterMap) -> Self {
        let bytes: Arc<[u8]> = map.as_map().encode().into();
        let Some(step) = MapDelta::between(self.map.as_map(), map.as_map()) else {
            return Self { map, bytes, deltas: Vec::new() };
        };
        let merged = self.deltas.iter().map(|known| known.delta.then(&step));
        let mut deltas: Vec<Known> = merged.map(Known::new).collect();
        deltas.push(Known::new(step));
        let most = bytes.len() / DELTA_PART_MAX;
        // Each is at least as large as the next one.
        let small = deltas.iter().position(|known| known.bytes.len() <= most).unwrap_or(deltas.len());
        let first = small.max(deltas.len().saturating_sub(DELTAS_MAX));
        deltas.drain(..first);
        Self { map, bytes, deltas }
    }

    /// The edition that a whole map or a delta leads to, if that is newer than this one.
    pub fn updated(&self, update: MapUpdate) -> Result<Option<Self>, MapError> {
        if update.number() <= self.map.number() {
            return Ok(None);
        }
        let map = update.apply(Some(self.map.as_map()))?;
        Ok(Some(self.next(ClusterMap::new(map)?)))
    }

    /// The map.
    pub fn map(&self) -> &ClusterMap {
        &self.map
    }

    /// Its number.
    pub fn number(&self) -> MapNumber {
        self.map.number()
    }

    /// The whole map's bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The bytes that lead whoever has map `have` here: a delta's, or the whole map's.
    pub fn bytes_since(&self, have: MapNumber) -> &[u8] {
        let known = self.deltas.iter().find(|known| known.delta.base == have);
        known.map_or(&self.bytes, |known| &known.bytes)
    }

    /// The reply that carries a page to whoever has map `have`; `None` for a page that isn't there.
    pub fn page(&self, have: MapNumber, page: u32) -> Option<Reply<'_>> {
        let number = self.map.number();
        if have == number {
            return Some(Reply::Map { number, page: 0, pages: 0, bytes: &[] });
        }
        let bytes = self.bytes_since(have);
        let pages = Map::page_count(bytes);
        Map::page(bytes, page).map(|bytes| Reply::Map { number, page, pages, bytes })
    }
}

impl Known {
    fn new(delta: MapDelta) -> Self {
        let bytes = delta.encode().into();
        Self { delta, bytes }
    }
}

#[cfg(test)]
mod tests {
    use wire::map::Pages;
    use wire::{ClusterId, NodeId, ShardIndex, StoreId};

    use super::*;
    use crate::{OneNode, one_node};

    fn first(ring_bits: u8) -> Edition {
        Edition::new(
            one_node(OneNode {
                cluster: ClusterId([9; 16]),
                node: NodeId(1),
                name: "node-1".into(),
                stores: vec![(StoreId([1; 16]), ShardIndex(0), "127.0.0.1:7430".into())],
                metadata: StoreId([2; 16]),
                metadata_address: "127.0.0.1:7421".into(),
                control: "127.0.0.1:7422".into(),
                ring_bits,
                reclaim_delay_ms: 1000,
            })
            .expect("a valid map"),
        )
    }

    /// The next edition, in which so many slices have another epoch.
    fn step(edition: &Edition, slices: usize) -> Edition {
        let mut map = edition.map().as_map().clone();
        map.number.0 += 1;
        map.slices.iter_mut().take(slices).for_each(|slice| slice.chain.epoch.0 += 1);
        edition.next(ClusterMap::new(map).expect("a valid map"))
    }

    fn fetch(edition: &Edition, have: &Edition) -> (Edition, usize) {
        let mut pages = Pages::new();
        let mut bytes_read = 0;
        loop {
            let reply = edition.page(have.number(), pages.next_page()).expect("a page");
            let Reply::Map { number, page, pages: count, bytes } = reply else { panic!("a map's page") };
            bytes_read += bytes.len();
            if let Some(update) = pages.add(number, (page, count), bytes).expect("valid") {
                return (have.updated(update).expect("it fits").expect("it is newer"), bytes_read);
            }
        }
    }

    #[test]
    fn whoever_is_a_little_behind_is_told_little() {
        let mut editions = vec![first(12)];
        for round in 0..40 {
            editions.push(step(&editions[round], 10));
        }
        let newest = editions.last().expect("some");
        let whole = newest.bytes().len();
        for (behind, is_delta) in [(1, true), (5, true), (32, true), (33, false), (40, false)] {
            let have = &editions[40 - behind];
            let (reached, bytes) = fetch(newest, have);
            assert_eq!(reached.map(), newest.map(), "{behind} behind");
            assert_eq!(bytes < whole / 20, is_delta, "{behind} behind: {bytes} bytes of {whole}");
        }
        assert!(matches!(newest.page(newest.number(), 0), Some(Reply::Map { pages: 0, .. })));
        assert_eq!(newest.page(MapNumber(1), 9), None);
    }

    #[test]
    fn a_large_change_is_told_whole() {
        let one = first(12);
        let two = step(&one, 4_000);
        assert_eq!(two.bytes_since(one.number()), two.bytes());
        let three = step(&two, 1);
        assert_eq!(three.bytes_since(one.number()), three.bytes());
        assert!(three.bytes_since(two.number()).len() < 1_000);
        assert_eq!(three.updated(MapUpdate::decode(two.bytes()).expect("a map")), Ok(None), "older");
    }
}
