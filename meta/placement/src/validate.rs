//! What every usable map satisfies.

use std::collections::BTreeSet;

use wire::limits::{CHAIN_MEMBERS_MAX, MAP_STORES_MAX, RING_BITS_MAX};
use wire::map::{Chain, Group, Map, Standing, Unit};
use wire::{GroupId, NodeId, SessionId, SliceIndex};

use crate::MapError;

const CHAIN_LENGTH_MAX: u8 = 3;
const RECLAIM_DELAY_MS_MIN: u64 = 1_000;
const RECLAIM_DELAY_MS_MAX: u64 = 7 * 24 * 3_600 * 1_000;

/// Checks everything that lookups rely on.
pub(crate) fn validate(map: &Map) -> Result<(), MapError> {
    if map.number.0 == 0 {
        return Err(MapError::Number);
    }
    validate_settings(map)?;
    validate_nodes(map)?;
    validate_stores(map)?;
    validate_slices(map)?;
    validate_groups(map)
}

fn validate_settings(map: &Map) -> Result<(), MapError> {
    let settings = map.settings;
    // R41
    if !(1..=CHAIN_LENGTH_MAX).contains(&settings.chain_length)
        || !(1..=settings.chain_length).contains(&settings.min_in_sync)
    {
        return Err(MapError::ChainLength {
            chain_length: settings.chain_length,
            min_in_sync: settings.min_in_sync,
        });
    }
    // R25
    if !(RECLAIM_DELAY_MS_MIN..=RECLAIM_DELAY_MS_MAX).contains(&settings.reclaim_delay_ms) {
        return Err(MapError::ReclaimDelay(settings.reclaim_delay_ms));
    }
    Ok(())
}

fn validate_nodes(map: &Map) -> Result<(), MapError> {
    match map.nodes.windows(2).find(|pair| pair[0].node >= pair[1].node) {
        Some(pair) => Err(MapError::NodeOrder(pair[1].node)),
        None => Ok(()),
    }
}

fn validate_stores(map: &Map) -> Result<(), MapError> {
    let mut seen = BTreeSet::new();
    for (index, store) in map.stores.iter().enumerate() {
        // R34: a store is itself wherever it is found, so it is found in one place.
        if index >= MAP_STORES_MAX || !seen.insert(store.store) {
            return Err(MapError::StoreRepeated(store.store));
        }
        if store.standing == Standing::Member {
            known(map, store.node)?;
        }
        if !is_address(&store.address) {
            return Err(MapError::StoreAddress(index));
        }
    }
    Ok(())
}

fn validate_slices(map: &Map) -> Result<(), MapError> {
    // R40
    let expected = if map.ring_bits <= RING_BITS_MAX { 1_usize << map.ring_bits } else { 0 };
    if map.slices.len() != expected || expected == 0 {
        return Err(MapError::SliceCount { found: map.slices.len(), expected });
    }
    for (slice, number) in map.slices.iter().zip(0_u32..) {
        let number = SliceIndex(u16::try_from(number).expect("a ring has at most 2^16 slices"));
        if slice.chain.epoch.0 == 0 || slice.loss_map_number > map.number {
            return Err(MapError::SliceEpoch(number));
        }
        if !is_chain(map, &slice.chain, |unit| matches!(unit, Unit::Shard(_))) {
            return Err(MapError::SliceMembers(number));
        }
    }
    Ok(())
}

/// Whether it has members, all different and of the right kind, whose stores may be members of chains.
fn is_chain(map: &Map, chain: &Chain, is_right: impl Fn(Unit) -> bool) -> bool {
    let members = &chain.members;
    let count = members.len();
    let repeated = |i: usize| members[..i].iter().any(|other| other.store == members[i].store);
    let fits = |i: usize| {
        let store = map.stores.get(usize::from(members[i].store));
        store.is_some_and(|store| is_right(store.unit) && store.standing == Standing::Member)
    };
    (1..=CHAIN_MEMBERS_MAX).contains(&count) && (0..count).all(|i| fits(i) && !repeated(i))
}

fn validate_groups(map: &Map) -> Result<(), MapError> {
    // R27: group 0 holds the volumes' names.
    if map.groups.first().map(|group| group.group) != Some(GroupId(0)) {
        return Err(MapError::GroupOrder(GroupId(0)));
    }
    if let Some(pair) = map.groups.windows(2).find(|pair| pair[0].group >= pair[1].group) {
        return Err(MapError::GroupOrder(pair[1].group));
    }
    map.groups.iter().try_for_each(|group| validate_group(map, group))
}

fn validate_group(map: &Map, group: &Group) -> Result<(), MapError> {
    let well_formed = group.group.0 < SessionId::GROUP_COUNT
        && group.generation < SessionId::GENERATION_COUNT
        && group.chain.epoch.0 > 0
        && is_chain(map, &group.chain, |unit| unit == Unit::Group(group.group));
    if well_formed { Ok(()) } else { Err(MapError::GroupMembers(group.group)) }
}

fn known(map: &Map, node: NodeId) -> Result<(), MapError> {
    match map.nodes.binary_search_by_key(&node, |candidate| candidate.node) {
        Ok(_) => Ok(()),
        Err(_) => Err(MapError::NodeUnknown(node)),
    }
}

/// `host:port`, the port a number from 1 to 65,535.
pub fn is_address(address: &str) -> bool {
    address
        .rsplit_once(':')
        .is_some_and(|(host, port)| is_host(host) && port.parse::<u16>().is_ok_and(|port| port > 0))
}

/// Something printable without blanks; an IPv6 address stands in brackets.
fn is_host(host: &str) -> bool {
    let printable = host.bytes().all(|byte| byte.is_ascii_graphic());
    let bracketed = host.starts_with('[') && host.ends_with(']');
    !host.is_empty() && printable && (bracketed || !host.contains(':'))
}

#[cfg(test)]
mod tests {
    use wire::{Epoch, MapNumber, ShardIndex, StoreId};

    use super::*;
    use crate::{OneNode, one_node};

    fn valid() -> Map {
        let stores = (0..3)
            .map(|i| (StoreId([i; 16]), ShardIndex(i.into()), format!("127.0.0.1:{}", 7430 + u16::from(i))));
        let parts = OneNode {
            cluster: wire::ClusterId([1; 16]),
            node: NodeId(1),
            name: "node-1".to_owned(),
            stores: stores.collect(),
            metadata: StoreId([0xff; 16]),
            metadata_address: "127.0.0.1:7421".to_owned(),
            control: "127.0.0.1:7422".to_owned(),
            ring_bits: 3,
            reclaim_delay_ms: 600_000,
        };
        one_node(parts).expect("a valid map").as_map().clone()
    }

    fn check(change: impl FnOnce(&mut Map)) -> Result<(), MapError> {
        let mut map = valid();
        change(&mut map);
        validate(&map)
    }

    #[test]
    fn settings_are_checked() {
        assert_eq!(check(|_| ()), Ok(()));
        assert_eq!(check(|map| map.number = MapNumber(0)), Err(MapError::Number));
        for (chain_length, min_in_sync) in [(0, 0), (1, 0), (1, 2), (4, 2)] {
            let expected = Err(MapError::ChainLength { chain_length, min_in_sync });
            let change = |map: &mut Map| {
                (map.settings.chain_length, map.settings.min_in_sync) = (chain_length, min_in_sync);
            };
            assert_eq!(check(change), expected);
        }
        for delay in [0, 999, 7 * 24 * 3_600_000 + 1] {
            let expected = Err(MapError::ReclaimDelay(delay));
            assert_eq!(check(|map| map.settings.reclaim_delay_ms = delay), expected);
        }
    }

    #[test]
    fn nodes_and_stores_are_checked() {
        assert_eq!(check(|map| map.nodes.push(map.nodes[0].clone())), Err(MapError::NodeOrder(NodeId(1))));
        assert_eq!(check(|map| map.stores[1].node = NodeId(2)), Err(MapError::NodeUnknown(NodeId(2))));
        let repeated = StoreId([0; 16]);
        assert_eq!(check(|map| map.stores[1].store = repeated), Err(MapError::StoreRepeated(repeated)));
        for address in
            ["", ":1", "host", "host:", "host:0", "host:65536", "host:x", "::1:7430", "a b:1", "h\n:1"]
        {
            let change = |map: &mut Map| address.clone_into(&mut map.stores[2].address);
            assert_eq!(check(change), Err(MapError::StoreAddress(2)), "{address}");
        }
        for address in ["localhost:1", "[::1]:65535", "10.1.2.3:7430", "node-1.example.org:7430"] {
            let change = |map: &mut Map| address.clone_into(&mut map.stores[2].address);
            assert_eq!(check(change), Ok(()), "{address}");
        }
    }

    #[test]
    fn slices_are_checked() {
        let count = |found| Err(MapError::SliceCount { found, expected: 8 });
        assert_eq!(check(|map| map.slices.truncate(7)), count(7));
        assert_eq!(
            check(|map| map.ring_bits = 17),
            Err(MapError::SliceCount { found: 8, expected: 0 }),
            "R40"
        );
        let members = Err(MapError::SliceMembers(SliceIndex(5)));
        assert_eq!(check(|map| map.slices[5].chain.members.clear()), members);
        assert_eq!(check(|map| map.slices[5].chain.members[0].store = 4), members);
        assert_eq!(check(|map| map.slices[5].chain.members[0].store = 3), members, "a log holds no chunks");
        assert_eq!(
            check(|map| map.stores[2].standing = Standing::Expelled),
            Err(MapError::SliceMembers(SliceIndex(2)))
        );
        let repeat = |map: &mut Map| {
            let member = map.slices[5].chain.members[0];
            assert!(map.slices[5].chain.members.push(member));
        };
        assert_eq!(check(repeat), members);
        let epoch = Err(MapError::SliceEpoch(SliceIndex(5)));
        assert_eq!(check(|map| map.slices[5].chain.epoch = Epoch(0)), epoch);
        assert_eq!(check(|map| map.slices[5].loss_map_number = MapNumber(2)), epoch, "R8: a later map");
        assert_eq!(check(|map| map.slices[5].loss_map_number = MapNumber(1)), Ok(()));
    }

    #[test]
    fn groups_are_checked() {
        let order = |group| Err(MapError::GroupOrder(GroupId(group)));
        let members = |group| Err(MapError::GroupMembers(GroupId(group)));
        assert_eq!(check(|map| map.groups.clear()), order(0), "R27: group 0 holds the names");
        assert_eq!(check(|map| map.groups.push(map.groups[0].clone())), order(0));
        let add = |change: fn(&mut Group)| {
            check(|map| {
                let log = u16::try_from(map.stores.len()).expect("few");
                let mut store = map.stores[3].clone();
                (store.store, store.unit) = (StoreId([0xee; 16]), Unit::Group(GroupId(4)));
                map.stores.push(store);
                let mut group = Group { group: GroupId(4), generation: 0, chain: Chain::of_one(log) };
                change(&mut group);
                map.groups.push(group);
            })
        };
        assert_eq!(add(|_| ()), Ok(()));
        assert_eq!(add(|group| group.group = GroupId(4_096)), members(4_096), "R20: 12 bits");
        assert_eq!(add(|group| group.generation = 1_024), members(4), "R20: 10 bits");
        assert_eq!(add(|group| group.chain.epoch = Epoch(0)), members(4));
        assert_eq!(add(|group| group.chain.members.clear()), members(4));
        assert_eq!(add(|group| group.chain = Chain::of_one(3)), members(4), "another group's log");
        assert_eq!(add(|group| group.chain = Chain::of_one(0)), members(4), "a shard's store");
        assert_eq!(check(|map| map.stores[3].node = NodeId(9)), Err(MapError::NodeUnknown(NodeId(9))));
    }
}
