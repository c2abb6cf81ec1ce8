//! `apply`: what every voter refuses.

use placement::ClusterMap;
use wire::control::ChainId;
use wire::map::{Chain, Group, Map, MapDelta, Node, Settings, Slice, Standing, Store, Unit};
use wire::{ClusterId, GroupId, Incarnation, MapNumber, NodeId, ShardIndex, SliceIndex, StoreId};

use super::super::{Refused, Rule, apply};
use super::chain;

/// Five nodes with a chunk store (places 0 to 4) and a log (5 to 9) each; one slice, one group.
pub(super) fn map(slice: &Chain, group: &Chain) -> Map {
    let store = |place: u8| Store {
        store: StoreId([place + 1; 16]),
        node: NodeId(u32::from(place % 5) + 1),
        unit: if place < 5 { Unit::Shard(ShardIndex(0)) } else { Unit::Group(GroupId(0)) },
        address: "h:7430".to_owned(),
        incarnation: Incarnation(10),
        weight: u32::from(place < 5),
        standing: Standing::Member,
    };
    let node = |number: u32| Node {
        node: NodeId(number),
        name: format!("node-{number}"),
        rack: String::new(),
        control: "h:7422".to_owned(),
        voter: 0,
    };
    Map {
        number: MapNumber(9),
        cluster: ClusterId([1; 16]),
        ring_bits: 0,
        settings: Settings { chain_length: 3, min_in_sync: 2, reclaim_delay_ms: 1_000 },
        nodes: (1..=5).map(node).collect(),
        stores: (0..10).map(store).collect(),
        slices: vec![Slice { chain: *slice, loss_map_number: MapNumber(0) }],
        groups: vec![Group { group: GroupId(0), generation: 0, chain: *group }],
    }
}

pub(super) const QUIET: &str = "1A2 5S* 6S* 7S*";

/// What becomes of one chain's step, made in a delta with other changes.
fn step(id: ChainId, old: &str, new: &str, change: impl FnOnce(&mut MapDelta)) -> Result<(), Rule> {
    let is_group = matches!(id, ChainId::Group(_));
    let slice = if is_group { chain("1A2 0S* 1S* 2S*") } else { chain(old) };
    let group = if is_group { chain(old) } else { chain(QUIET) };
    let map = ClusterMap::new(map(&slice, &group)).expect("a valid map");
    let mut delta = MapDelta::after(map.as_map());
    if is_group {
        let known = map.as_map().groups[0].clone();
        delta.groups.insert(GroupId(0), Group { chain: chain(new), ..known });
    } else {
        delta.slices.insert(SliceIndex(0), Slice { chain: chain(new), loss_map_number: MapNumber(0) });
    }
    change(&mut delta);
    match apply(&map, &delta) {
        Ok(next) => {
            assert_eq!(next.number(), delta.number);
            Ok(())
        }
        Err(Refused::Chain { chain, rule }) => {
            assert_eq!(chain, id);
            Err(rule)
        }
        Err(other) => panic!("{other} for {old} to {new}"),
    }
}

#[test]
fn steps_of_a_slice_are_checked() {
    let cases: &[(&str, &str, Result<(), Rule>)] = &[
        // A member has synced.
        ("7A2 0S* 1S* 2Y", "7A2 0S* 1S* 2S*", Ok(())),
        ("7A2 0S* 1S* 2Y", "7A2 0S* 1S* 2S", Err(Rule::Marks)),
        ("7A2 0S* 1O* 2Y", "7A2 0S* 1O 2S*", Ok(())),
        ("7A2 0S* 1O* 2Y", "7A2 0S* 1O* 2S*", Err(Rule::Marks)),
        ("7A2 0S* 1O* 2Y", "7A2 0S* 2S*", Ok(())),
        ("7P2 0S* 1S* 2Y", "7P2 0S* 1S* 2S*", Err(Rule::Serving)),
        ("7P2 0S* 1S* 2Y", "7A2 0S* 1S* 2S*", Err(Rule::Serving)),
        ("7A2 0S* 1S* 2Y", "8P2 0S* 1S* 2S*", Err(Rule::Serving)),
        ("7A2 0S* 1S* 2W", "7A2 0S* 1S* 2S*", Err(Rule::Ackers)),
        ("7A2 0S* 1S* 2S*", "7A2 0S* 1S* 2Y*", Err(Rule::Serving)),
        // Somebody goes: in two steps (R5).
        ("7A2 0S* 1S* 2S*", "8P2 0S* 1S* 2O*", Ok(())),
        ("7A2 0S* 1S* 2S*", "8A2 0S* 1S* 2O", Err(Rule::Phase)),
        ("7A2 0S* 1S* 2S*", "9P2 0S* 1S* 2O*", Err(Rule::Epoch)),
        ("7A2 0S* 1S* 2S*", "6P2 0S* 1S* 2O*", Err(Rule::Epoch)),
        ("7A2 0S* 1S* 2S*", "7A2 0S* 1S* 2O*", Err(Rule::Ackers)),
        ("7A2 0S* 1S* 2S*", "7P2 0S* 1S* 2S*", Err(Rule::Phase)),
        ("7A2 0S* 1S* 2S*", "8P2 0S* 1S*", Err(Rule::Left)),
        ("7A2 0S* 1S* 2S*", "8P2 0S* 1S* 2O", Err(Rule::Marks)),
        ("8P2 0S* 1S* 2O*", "8A2 0S* 1S* 2O", Ok(())),
        ("8P2 0S* 1S* 2O*", "8A2 0S* 1S*", Ok(())),
        ("8P2 0S* 1S* 2O*", "8P2 0S* 1S*", Err(Rule::Left)),
        ("8P2 0S* 1S* 2O*", "8A2 0S* 1S* 2O*", Err(Rule::Marks)),
        ("8P2 0S* 1S* 2O*", "9P2 0S* 1O* 2O*", Ok(())),
        // An epoch that can't ack leaves the seeds as they are (R6).
        ("8P2 0S* 1O* 2O*", "8A2 0S* 1O* 2O*", Ok(())),
        ("8P2 0S* 1O* 2O*", "8A2 0S* 1O 2O", Err(Rule::Marks)),
        ("8P2 0S* 1O* 2O*", "8A2 0S*", Err(Rule::Left)),
        // Nobody is left.
        ("7A2 0S* 1S* 2Y", "8P2 0L* 1L* 2W", Ok(())),
        ("7A2 0S* 1S* 2Y", "8P2 0O* 1O* 2W", Err(Rule::Nobody)),
        ("7A2 0S* 1S* 2Y", "8P2 0L* 1L* 2L", Err(Rule::Nobody)),
        ("8P2 0L* 1O* 2W", "9P2 0O* 1S* 2Y", Ok(())),
        ("8P2 0L* 1O* 2W", "9P2 0O* 1O* 2S*", Err(Rule::Seed)),
        ("8P2 0L* 1O* 2W", "9P2 0S* 1S* 2W", Err(Rule::Seed)),
        ("8P2 0L* 1O* 2W", "9P2 0L* 1S* 2W", Err(Rule::Nobody)),
        ("8P2 0L* 1O* 2W", "8P2 0O* 1O* 2W", Err(Rule::Nobody)),
        // Somebody comes.
        ("7A2 0S* 1S*", "7A2 0S* 1S* 2W", Ok(())),
        ("7A2 0S* 1S*", "7A2 0S* 1S* 2W*", Err(Rule::Marks)),
        ("7A2 0S* 1S*", "7A2 0S* 1S* 2O", Err(Rule::Unlisted)),
        ("7A2 0S* 1S*", "8P2 0S* 1S* 2Y", Err(Rule::Unlisted)),
        ("7A2 0S* 1S* 2W", "8P2 0S* 1S* 2Y", Ok(())),
        ("7A2 0S* 1S* 2W", "7A2 0S* 1S*", Ok(())),
        ("7A2 0S* 1S* 2O*", "7A2 0S* 1S*", Err(Rule::Left)),
        // Another order, another min_in_sync.
        ("7A2 0S* 1S* 2S*", "8P2 2S* 0S* 1S*", Ok(())),
        ("7A2 0S* 1S* 2S*", "7A2 2S* 0S* 1S*", Err(Rule::Ackers)),
        // The head came behind a member that synced, and what it handed on never reached that one (three processes, the head killed).
        ("7A2 0W 1S* 2S*", "8P2 0Y 1S* 2S*", Err(Rule::Order)),
        ("7A2 0W 1S* 2S*", "8P2 1S* 2S* 0Y", Ok(())),
        ("7A2 0S* 1S* 2S*", "7A1 0S* 1S* 2S*", Err(Rule::MinInSync)),
        ("7A2 0S* 1S* 2S*", "8P1 0S* 1S* 2S*", Err(Rule::MinInSync)),
        ("7A1 0S* 1S* 2S*", "8P2 0S* 1S* 2S*", Ok(())),
        ("7A3 0S* 1S* 2S*", "8P2 0S* 1S* 2S*", Ok(())),
    ];
    for (old, new, expected) in cases {
        let found = step(ChainId::Slice(SliceIndex(0)), old, new, |_| ());
        assert_eq!(found, *expected, "{old} to {new}");
    }
}

#[test]
fn steps_of_a_group_are_checked() {
    let cases: &[(&str, &str, Result<(), Rule>)] = &[
        // R6: every ACTIVATE replaces the seeds, since the new tail serves.
        ("8P2 5S* 6O* 7O*", "8A2 5S* 6O 7O", Ok(())),
        ("8P2 5S* 6O* 7O*", "8A2 5S*", Ok(())),
        ("8P2 5S* 6O* 7O*", "8A2 5S* 6O* 7O*", Err(Rule::Marks)),
        ("7A2 5S* 6Y", "7A2 5S* 6S*", Ok(())),
    ];
    for (old, new, expected) in cases {
        let found = step(ChainId::Group(GroupId(0)), old, new, |_| ());
        assert_eq!(found, *expected, "{old} to {new}");
    }
}

#[test]
fn what_operators_accept_is_stamped() {
    let slice = ChainId::Slice(SliceIndex(0));
    let stamp = |number: u64| {
        move |delta: &mut MapDelta| {
            delta.slices.get_mut(&SliceIndex(0)).expect("it is there").loss_map_number = MapNumber(number);
        }
    };
    let lost = "8P2 0L* 1O* 2W";
    assert_eq!(step(slice, lost, "9P2 0O 1O 2S*", |_| ()), Err(Rule::Seed), "R6");
    assert_eq!(step(slice, lost, "9P2 0O 1O 2S*", stamp(10)), Ok(()), "R8");
    assert_eq!(step(slice, lost, "9P2 0O* 1O 2S*", stamp(10)), Err(Rule::Seed), "one seed is left");
    assert_eq!(step(slice, lost, "9P2 0O 1S* 2S*", stamp(10)), Err(Rule::Seed));
    assert_eq!(
        step(slice, "8A2 0S* 1O* 2W", "9P2 0O 1O 2S*", stamp(10)),
        Err(Rule::Serving),
        "nothing is lost"
    );
    let group = ChainId::Group(GroupId(0));
    let generation = |delta: &mut MapDelta| {
        delta.groups.get_mut(&GroupId(0)).expect("it is there").generation = 1;
    };
    assert_eq!(step(group, "8P2 5L* 6O", "9P2 5O 6S*", |_| ()), Err(Rule::Seed));
    assert_eq!(step(group, "8P2 5L* 6O", "9P2 5O 6S*", generation), Ok(()), "R20");
    let forget = |delta: &mut MapDelta| {
        let known = map(&chain("1A2 0S* 1S* 2S*"), &chain(QUIET));
        let store = Store { standing: Standing::Forgotten, ..known.stores[2].clone() };
        delta.stores.insert(2, store);
    };
    assert_eq!(
        step(slice, "8P2 0S* 1S* 2O*", "8P2 0S* 1S* 3W", forget),
        Ok(()),
        "nobody of that store comes back"
    );
    assert_eq!(step(slice, "8A2 0S* 1S* 2S*", "8A2 0S* 1S* 3W", forget), Err(Rule::Ackers), "it may ack");
}

#[test]
fn records_are_checked() {
    let base = map(&chain("1A2 0S* 1S* 2S*"), &chain(QUIET));
    let check = |change: &dyn Fn(&mut MapDelta)| {
        let map = ClusterMap::new(base.clone()).expect("a valid map");
        let mut delta = MapDelta::after(map.as_map());
        change(&mut delta);
        apply(&map, &delta).map(|_| ())
    };
    let store = |place: u16, change: fn(&mut Store)| {
        let mut record = base.stores[usize::from(place.min(9))].clone();
        change(&mut record);
        check(&|delta| {
            delta.stores.insert(place, record.clone());
        })
    };
    assert_eq!(check(&|_| ()), Ok(()));
    let (number, nine) = (MapNumber(11), MapNumber(9));
    assert_eq!(check(&|delta| delta.number = number), Err(Refused::Number { base: nine, number }));
    assert!(
        matches!(check(&|delta| (delta.base, delta.number) = (MapNumber(8), nine)), Err(Refused::Map(_))),
        "CAS"
    );
    assert_eq!(store(3, |store| store.incarnation = Incarnation(11)), Ok(()));
    let refused = |place| Err(Refused::Store { place });
    assert_eq!(store(3, |store| store.incarnation = Incarnation(9)), refused(3), "I4");
    assert_eq!(store(3, |store| store.store = StoreId([77; 16])), refused(3), "R34");
    assert_eq!(store(3, |store| store.node = NodeId(1)), refused(3), "R34");
    assert_eq!(store(3, |store| store.unit = Unit::Shard(ShardIndex(9))), refused(3));
    assert_eq!(store(3, |store| store.standing = Standing::Expelled), Ok(()));
    let new = |standing: Standing| {
        let record = Store { store: StoreId([99; 16]), standing, ..base.stores[0].clone() };
        check(&|delta| {
            delta.stores.insert(10, record.clone());
        })
    };
    assert_eq!(new(Standing::Member), Ok(()));
    assert_eq!(new(Standing::Expelled), refused(10));
    assert!(
        matches!(check(&|delta| delta.removed_nodes = vec![NodeId(4)]), Err(Refused::Map(_))),
        "it has stores"
    );
    let stamp = |number: u64| {
        check(&|delta| {
            let slice = Slice { loss_map_number: MapNumber(number), ..base.slices[0] };
            delta.slices.insert(SliceIndex(0), slice);
        })
    };
    assert_eq!(stamp(10), Ok(()), "a stamp alone only makes clients write again");
    assert_eq!(stamp(4), Err(Refused::Stamp(SliceIndex(0))));
    let generation = |generation: u16| {
        check(&|delta| {
            delta.groups.insert(GroupId(0), Group { generation, ..base.groups[0].clone() });
        })
    };
    assert_eq!((generation(1), generation(2)), (Ok(()), Err(Refused::Group(GroupId(0)))));
}
