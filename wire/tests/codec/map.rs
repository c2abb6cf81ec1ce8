//! The cluster map's bytes: small, paged, versioned.

use wire::limits::MAP_PAGE_BYTES;
use wire::map::{
    Chain, DeltaError, Group, MAP_FORMAT, Map, MapDelta, MapUpdate, Member, Node, Pages, Phase, ReplicaState,
    Settings, Slice, Standing, Store, Unit,
};
use wire::message::DecodeError;
use wire::{ClusterId, Epoch, GroupId, Incarnation, MapNumber, NodeId, ShardIndex, SliceIndex, StoreId};

/// A map of `2^ring_bits` slices with chains of three on `stores` stores.
pub(crate) fn sample(ring_bits: u8, stores: u16) -> Map {
    let store = |index: u16| Store {
        store: StoreId([index.to_le_bytes()[0].wrapping_add(1); 16]),
        node: NodeId(u32::from(index) + 1),
        unit: if index % 5 == 2 { Unit::Group(GroupId(index)) } else { Unit::Shard(ShardIndex(index % 4)) },
        address: format!("10.0.0.{index}:7430"),
        incarnation: Incarnation(u64::from(index) + 7),
        weight: 1000 + u32::from(index),
        standing: if index == 1 { Standing::Expelled } else { Standing::Member },
    };
    let chain = |epoch, phase, members: Vec<Member>| Chain {
        epoch: Epoch(epoch),
        phase,
        min_in_sync: 2,
        members: members.into_iter().collect(),
    };
    let states = [ReplicaState::Serving, ReplicaState::Syncing, ReplicaState::LastServing];
    let slice = |index: u32| Slice {
        loss_map_number: MapNumber(if index == 3 { 5 } else { 0 }),
        chain: chain(
            u64::from(index) + 1,
            if index % 7 == 1 { Phase::Prepared } else { Phase::Active },
            states
                .into_iter()
                .zip(0..)
                .map(|(state, member)| {
                    let store = u16::try_from((index + member) % u32::from(stores)).expect("a store");
                    Member { store, state, is_seed: member == 0 }
                })
                .collect(),
        ),
    };
    let member = |store| Member { store, state: ReplicaState::Serving, is_seed: true };
    Map {
        number: MapNumber(9),
        cluster: ClusterId([4; 16]),
        ring_bits,
        settings: Settings { chain_length: 3, min_in_sync: 2, reclaim_delay_ms: 600_000 },
        nodes: (1..=u32::from(stores))
            .map(|node| Node {
                node: NodeId(node),
                name: format!("n{node}"),
                rack: if node % 3 == 0 { String::new() } else { format!("r{}", node % 3) },
                control: format!("10.0.0.{node}:7422"),
                voter: u64::from(node) << 8,
            })
            .collect(),
        stores: (0..stores).map(store).collect(),
        slices: (0..1 << ring_bits).map(slice).collect(),
        groups: vec![
            Group {
                group: GroupId(0),
                generation: 3,
                chain: chain(8, Phase::Active, vec![member(1), member(2)]),
            },
            Group { group: GroupId(1), generation: 0, chain: chain(1, Phase::Prepared, vec![member(0)]) },
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
            assert_eq!(done, MapUpdate::Whole(Box::new(map.clone())));
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
        newer[at] = 3;
        let found = Map::decode(&newer);
        found == Err(DecodeError::NewerFormat { what: "the cluster map", found: 3, known: MAP_FORMAT })
    });
    assert!(position.is_some());
    let error = DecodeError::NewerFormat { what: "the cluster map", found: 3, known: 2 };
    assert_eq!(
        error.to_string(),
        "the cluster map has format version 3, this build reads up to 2: upgrade this side"
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
        damaged(|map| map.stores.truncate(2)),
        Err(DecodeError::Invalid("groups of the map")),
        "members name stores that aren't there"
    );
    assert_eq!(Map::decode(&[]), Err(DecodeError::Malformed));
}

/// A change of everything that a delta may change.
fn changed(map: &Map) -> Map {
    let mut next = map.clone();
    next.number = MapNumber(map.number.0 + 1);
    next.settings.reclaim_delay_ms += 1;
    next.nodes.remove(1);
    next.nodes[0].control.push('0');
    let extra =
        Node { node: NodeId(9_000 + u32::try_from(next.number.0).expect("small")), ..next.nodes[0].clone() };
    next.nodes.push(extra);
    next.stores[0].incarnation.0 += 1;
    let extra = Store { store: StoreId([0xee; 16]), ..next.stores[0].clone() };
    next.stores.push(extra);
    let last = next.slices.len() - 1;
    next.slices[last].chain.epoch.0 += 1;
    next.slices[last].chain.members[0].store = u16::try_from(next.stores.len() - 1).expect("few");
    next.slices[0].loss_map_number = next.number;
    next.groups[1].generation += 1;
    next
}

#[test]
fn a_delta_leads_from_one_map_to_the_next() {
    for bits in [0, 2, 12] {
        let first = sample(bits, 5);
        let second = changed(&first);
        let mut third = changed(&second);
        third.slices[0].loss_map_number = MapNumber(1);
        let one = MapDelta::between(&first, &second).expect("of one ring");
        assert_eq!(MapDelta::decode(&one.encode()), Ok(one.clone()), "{bits} bits");
        assert_eq!(first.with(&one).as_ref(), Ok(&second));
        let two = MapDelta::between(&second, &third).expect("of one ring");
        let both = one.then(&two);
        assert_eq!((both.base, both.number), (first.number, third.number));
        assert_eq!(first.with(&both).as_ref(), Ok(&third), "merged");
        assert!(both.len() >= one.len() && !one.is_empty());
        let late = DeltaError::Base { base: first.number, have: second.number };
        assert_eq!(second.with(&one), Err(late));
    }
}

#[test]
fn a_small_change_of_a_large_map_is_small() {
    let first = sample(16, 3_200);
    let mut second = first.clone();
    second.number.0 += 1;
    for slice in second.slices.iter_mut().step_by(100) {
        slice.chain.epoch.0 += 1;
    }
    let delta = MapDelta::between(&first, &second).expect("of one ring");
    let bytes = delta.encode().len();
    assert!(delta.len() == 656 && bytes < 656 * 32, "{bytes} bytes for {} slices", delta.len());
}

#[test]
fn a_delta_that_does_not_fit_is_refused() {
    let map = sample(2, 3);
    let next = changed(&map);
    let good = MapDelta::between(&map, &next).expect("of one ring");
    let refused = |change: fn(&mut MapDelta)| {
        let mut delta = good.clone();
        change(&mut delta);
        map.with(&delta)
    };
    assert!(refused(|_| ()).is_ok());
    assert_eq!(refused(|delta| delta.cluster = ClusterId([9; 16])), Err(DeltaError::Shape));
    assert_eq!(refused(|delta| delta.ring_bits = 3), Err(DeltaError::Shape));
    assert_eq!(refused(|delta| delta.number = delta.base), Err(DeltaError::Shape));
    let out_of_range = |delta: &mut MapDelta| {
        let slice = delta.slices.values().next().copied().expect("one");
        delta.slices.insert(SliceIndex(4), slice);
    };
    assert_eq!(refused(out_of_range), Err(DeltaError::Shape));
    let unknown_store = |delta: &mut MapDelta| delta.stores.clear();
    assert_eq!(refused(unknown_store), Err(DeltaError::Shape), "a chain names a store that isn't there");
    let mut grown = next.clone();
    grown.ring_bits = 3;
    assert_eq!(MapDelta::between(&map, &grown), None, "R40: a split ring is told whole");
    assert_eq!(MapDelta::between(&next, &map), None, "maps don't go back");
    assert_eq!(Map::decode(&good.encode()), Err(DecodeError::Invalid("a delta where a whole map belongs")));
    assert_eq!(MapDelta::decode(&map.encode()), Err(DecodeError::Invalid("delta of the map")));
}

/// A map as the first release wrote it: chains of one, a metadata replica that was an address.
#[test]
fn the_first_format_is_read() {
    let map = Map::decode(include_bytes!("map-format-1.bin")).expect("readable");
    assert_eq!((map.number, map.slices.len(), map.nodes.len()), (MapNumber(1), 8, 1));
    assert_eq!(map.nodes[0].control, "");
    assert_eq!(map.stores.len(), 3, "two of shards, and the metadata log");
    assert_eq!(map.stores[2].unit, Unit::Group(GroupId(0)));
    assert_eq!(map.stores[2].address, "127.0.0.1:7421");
    let serving = |store| Member { store, state: ReplicaState::Serving, is_seed: true };
    for (index, slice) in map.slices.iter().enumerate() {
        let chain = slice.chain;
        assert_eq!((chain.epoch, chain.phase, chain.min_in_sync), (Epoch(1), Phase::Active, 1));
        assert_eq!(chain.members[..], [serving(u16::from(index % 2 == 1))]);
    }
    assert_eq!(map.groups[0].chain.members[..], [serving(2)]);
    assert_eq!(Map::decode(&map.encode()), Ok(map));
}
