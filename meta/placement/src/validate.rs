//! What every usable map satisfies.

use std::collections::BTreeSet;

use wire::limits::{CHAIN_MEMBERS_MAX, MAP_STORES_MAX, RING_BITS_MAX};
use wire::map::{Group, Map};
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
        known(map, store.node)?;
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
        if slice.epoch.0 == 0 || slice.loss_map_number > map.number {
            return Err(MapError::SliceEpoch(number));
        }
        let repeated =
            |i: usize| slice.members[..i].iter().any(|other| other.store == slice.members[i].store);
        let unknown = |i: usize| usize::from(slice.members[i].store) >= map.stores.len();
        let count = slice.members.len();
        if !(1..=CHAIN_MEMBERS_MAX).contains(&count) || (0..count).any(|i| repeated(i) || unknown(i)) {
            return Err(MapError::SliceMembers(number));
        }
    }
    Ok(())
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
    let count = group.members.len();
    let well_formed = group.group.0 < SessionId::GROUP_COUNT
        && group.generation < SessionId::GENERATION_COUNT
        && group.epoch.0 > 0
        && (1..=CHAIN_MEMBERS_MAX).contains(&count)
        && group.members.iter().all(|member| is_address(&member.address));
    if !well_formed {
        return Err(MapError::GroupMembers(group.group));
    }
    group.members.iter().try_for_each(|member| known(map, member.node))
}

fn known(map: &Map, node: NodeId) -> Result<(), MapError> {
    match map.nodes.binary_search_by_key(&node, |candidate| candidate.node) {
        Ok(_) => Ok(()),
        Err(_) => Err(MapError::NodeUnknown(node)),
    }
}

/// `host:port`, the port a number from 1 to 65,535. The host is the resolver's business.
fn is_address(address: &str) -> bool {
    address
        .rsplit_once(':')
        .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port > 0))
}
