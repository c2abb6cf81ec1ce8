//! A cluster's first map: one node, chains of length 1.

use wire::map::{Chain, Group, Map, Node, Settings, Slice, Standing, Store, Unit};
use wire::{ClusterId, GroupId, Incarnation, MapNumber, NodeId, ShardIndex, StoreId};

use crate::{ClusterMap, MapError};

/// What the first map is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OneNode {
    /// The new cluster.
    pub cluster: ClusterId,
    /// The node.
    pub node: NodeId,
    /// Its name.
    pub name: String,
    /// One for each shard: store, shard, `host:port` of the shard's port.
    pub stores: Vec<(StoreId, ShardIndex, String)>,
    /// The log of group 0's replica.
    pub metadata: StoreId,
    /// `host:port` of group 0's replica.
    pub metadata_address: String,
    /// `host:port` of the node's control port.
    pub control: String,
    /// The ring has `2^ring_bits` slices; 12 by default.
    pub ring_bits: u8,
    /// How long a chunk outlives its last reference (R25).
    pub reclaim_delay_ms: u64,
}

/// Map number 1 of a one-node cluster: epoch 1, generation 0, slices spread evenly over the stores.
pub fn one_node(parts: OneNode) -> Result<ClusterMap, MapError> {
    let node = parts.node;
    let stores: Vec<Store> = parts
        .stores
        .into_iter()
        .map(|(store, shard, address)| new_store(node, store, Unit::Shard(shard), address))
        .collect();
    let shards = stores.len();
    let log = u16::try_from(shards).unwrap_or(u16::MAX);
    let mut all = stores;
    all.push(new_store(node, parts.metadata, Unit::Group(GroupId(0)), parts.metadata_address));
    // Neighbouring slices go to different stores, so that counts differ by at most one.
    let store_of = |slice: usize| u16::try_from(slice % shards.max(1)).unwrap_or(0);
    let slices = (0..1_usize << parts.ring_bits.min(wire::limits::RING_BITS_MAX))
        .map(|slice| Slice { chain: Chain::of_one(store_of(slice)), loss_map_number: MapNumber(0) })
        .collect();
    ClusterMap::new(Map {
        number: MapNumber(1),
        cluster: parts.cluster,
        ring_bits: parts.ring_bits,
        settings: Settings { chain_length: 1, min_in_sync: 1, reclaim_delay_ms: parts.reclaim_delay_ms },
        nodes: vec![Node { node, name: parts.name, rack: String::new(), control: parts.control, voter: 1 }],
        stores: all,
        slices,
        groups: vec![Group { group: GroupId(0), generation: 0, chain: Chain::of_one(log) }],
    })
}

/// A store that has just been made: of the usual weight where it holds chunks.
fn new_store(node: NodeId, store: StoreId, unit: Unit, address: String) -> Store {
    let weight = u32::from(matches!(unit, Unit::Shard(_)));
    Store { store, node, unit, address, incarnation: Incarnation(0), weight, standing: Standing::Member }
}

#[cfg(test)]
mod tests {
    use wire::Epoch;

    use super::*;

    fn parts(stores: u8, ring_bits: u8) -> OneNode {
        let store = |i: u8| {
            (StoreId([i + 1; 16]), ShardIndex(i.into()), format!("127.0.0.1:{}", 7430 + u16::from(i)))
        };
        OneNode {
            cluster: ClusterId([1; 16]),
            node: NodeId(1),
            name: "node-1".to_owned(),
            stores: (0..stores).map(store).collect(),
            metadata: StoreId([0xff; 16]),
            metadata_address: "127.0.0.1:7421".to_owned(),
            control: "127.0.0.1:7422".to_owned(),
            ring_bits,
            reclaim_delay_ms: 600_000,
        }
    }

    #[test]
    fn slices_are_spread_evenly() {
        for (stores, ring_bits) in [(1, 0), (1, 12), (3, 12), (7, 12), (16, 16), (5, 3)] {
            let map = one_node(parts(stores, ring_bits)).expect("a valid map");
            let shards = map.as_map().stores.iter().filter(|store| store.weight > 0);
            let counts: Vec<usize> = shards.map(|store| map.slices_of(store.store).count()).collect();
            let (least, most) = (counts.iter().min(), counts.iter().max());
            assert_eq!(counts.iter().sum::<usize>(), 1 << ring_bits);
            assert!(most.expect("a store") - least.expect("a store") <= 1, "{counts:?}");
        }
    }

    #[test]
    fn the_first_map_is_number_1_in_epoch_1_and_generation_0() {
        let map = one_node(parts(2, 12)).expect("a valid map");
        assert_eq!(map.number(), MapNumber(1));
        assert!(map.as_map().slices.iter().all(|slice| slice.chain.epoch == Epoch(1)));
        let group = map.group(GroupId(0)).expect("group 0");
        assert_eq!((group.chain.epoch, group.generation), (Epoch(1), 0));
        assert!(!map.is_redundant());
    }

    #[test]
    fn parts_that_make_no_map_are_errors() {
        assert_eq!(
            one_node(parts(0, 12)),
            Err(MapError::SliceMembers(wire::SliceIndex(0))),
            "slices need a store"
        );
        assert_eq!(one_node(parts(1, 17)), Err(MapError::SliceCount { found: 1 << 16, expected: 0 }));
        let nowhere = OneNode { metadata_address: String::new(), ..parts(1, 2) };
        assert_eq!(one_node(nowhere), Err(MapError::StoreAddress(1)));
    }
}
