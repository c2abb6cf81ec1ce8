//! The cluster map's bytes: small, paged, versioned.

use wire::limits::MAP_PAGE_BYTES;
use wire::map::{
    Group, GroupMember, MAP_FORMAT, Map, Member, Node, Pages, ReplicaState, Settings, Slice, Store,
};
use wire::message::DecodeError;
use wire::{ClusterId, Epoch, GroupId, MapNumber, NodeId, ShardIndex, StoreId};

/// A map of `2^ring_bits` slices with chains of three on `stores` stores.
pub(crate) fn sample(ring_bits: u8, stores: u16) -> Map {
    let store = |index: u16| Store {
        store: StoreId([index.to_le_bytes()[0].wrapping_add(1); 16]),
        node: NodeId(u32::from(index) + 1),
        shard: ShardIndex(index % 4),
        address: format!("10.0.0.{index}:7430"),
    };
    let states = [ReplicaState::Serving, ReplicaState::Syncing, ReplicaState::LastServing];
    let slice = |index: u32| Slice {
        epoch: Epoch(u64::from(index) + 1),
        loss_map_number: MapNumber(if index == 3 { 5 } else { 0 }),
        members: states
            .into_iter()
            .zip(0..)
            .map(|(state, member)| {
                let store = u16::try_from((index + member) % u32::from(stores)).expect("a store");
                Member { store, state }
            })
            .collect(),
    };
    let member =
        |node| GroupMember { node: NodeId(node), state: ReplicaState::Serving, address: "[::1]:7421".into() };
    Map {
        number: MapNumber(9),
        cluster: ClusterId([4; 16]),
        ring_bits,
        settings: Settings { chain_length: 3, min_in_sync: 2, reclaim_delay_ms: 600_000 },
        nodes: (1..=u32::from(stores))
            .map(|node| Node { node: NodeId(node), name: format!("n{node}") })
            .collect(),
        stores: (0..stores).map(store).collect(),
        slices: (0..1 << ring_bits).map(slice).collect(),
        groups: vec![
            Group { group: GroupId(0), generation: 3, epoch: Epoch(8), members: vec![member(1), member(2)] },
            Group { group: GroupId(1), generation: 0, epoch: Epoch(1), members: vec![member(3)] },
        ],
    }
}

#[test]
fn maps_survive_the_round_trip() {
    for (bits, stores) in [(0, 3), (4, 5), (12, 200), (16, 600)] {
        let map = sample(bits, stores);
        assert_eq!(Map::decode(&map.encode()), Ok(map), "{bits} bits");
    }
}

#[test]
fn a_map_of_4096_slices_stays_below_100_kb() {
    let bytes = sample(12, 48).encode().len();
    assert!(bytes < 100_000, "{bytes}");
    let bytes = sample(16, 3_200).encode().len();
    assert!(bytes < 3 << 20, "{bytes}");
}

#[test]
fn pages_make_the_map_again() {
    let map = sample(16, 100);
    let bytes = map.encode();
    let count = Map::page_count(&bytes);
    assert!(count > 1 && Map::page(&bytes, count).is_none());
    let mut pages = Pages::new();
    for page in 0..count {
        assert_eq!(pages.next_page(), page);
        let part = Map::page(&bytes, page).expect("a page");
        assert!(part.len() <= MAP_PAGE_BYTES);
        let done = pages.add(map.number, (page, count), part).expect("valid pages");
        assert_eq!(done.is_some(), page + 1 == count);
        if let Some(done) = done {
            assert_eq!(done, map);
        }
    }
}

/// A map that changes while it is read: the pages of the old one are forgotten, and the new one is asked for from its beginning.
#[test]
fn pages_of_another_map_start_over() {
    let bytes = sample(16, 100).encode();
    let count = Map::page_count(&bytes);
    let page = |page| Map::page(&bytes, page).expect("a page");
    let mut pages = Pages::new();
    assert_eq!(pages.add(MapNumber(9), (0, count), page(0)), Ok(None));
    assert_eq!(pages.add(MapNumber(10), (1, count), page(1)), Ok(None));
    assert_eq!(pages.next_page(), 0);
    assert_eq!(pages.add(MapNumber(10), (0, 0), b""), Err(DecodeError::Invalid("page of the map")));
    assert_eq!(
        pages.add(MapNumber(10), (0, 1), &sample(0, 3).encode()),
        Err(DecodeError::Invalid("number of the map")),
        "the map is number 9"
    );
}

#[test]
fn a_newer_format_is_refused_by_name() {
    let bytes = sample(0, 3).encode();
    // The format is the table's only 16-bit field with this value: find where it lies by changing it.
    let position = (0..bytes.len() - 1).find(|&at| {
        let mut newer = bytes.clone();
        newer[at] = 2;
        let found = Map::decode(&newer);
        found == Err(DecodeError::NewerFormat { what: "the cluster map", found: 2, known: MAP_FORMAT })
    });
    assert!(position.is_some());
    let error = DecodeError::NewerFormat { what: "the cluster map", found: 2, known: 1 };
    assert_eq!(
        error.to_string(),
        "the cluster map has format version 2, this build reads up to 1: upgrade this side"
    );
}

#[test]
fn lengths_that_lie_are_errors() {
    let good = sample(2, 3);
    let damaged = |change: fn(&mut Map)| {
        let mut map = good.clone();
        change(&mut map);
        Map::decode(&map.encode())
    };
    assert_eq!(
        damaged(|map| map.slices.truncate(3)),
        Err(DecodeError::Invalid("slices of the map")),
        "three slices on a ring of four"
    );
    assert_eq!(damaged(|map| map.ring_bits = 17), Err(DecodeError::TooLarge("ring")));
    assert_eq!(
        damaged(|map| map.stores.truncate(1)),
        Err(DecodeError::Invalid("slices of the map")),
        "members name stores that aren't there"
    );
    assert_eq!(Map::decode(&[]), Err(DecodeError::Malformed));
}
