//! A cluster's first map: one node, chains of length 1.

use wire::map::{Group, GroupMember, Map, Member, Node, ReplicaState, Settings, Slice, Store};
use wire::{ClusterId, Epoch, GroupId, MapNumber, NodeId, ShardIndex, StoreId};

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
    /// `host:port` of group 0's replica.
    pub metadata_address: String,
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
        .map(|(store, shard, address)| Store { store, node, shard, address })
        .collect();
    // Neighbouring slices go to different stores, so that counts differ by at most one.
    let store_of = |slice: usize| u16::try_from(slice % stores.len().max(1)).unwrap_or(0);
    let slices = (0..1_usize << parts.ring_bits.min(wire::limits::RING_BITS_MAX))
        .map(|slice| Slice {
            epoch: Epoch(1),
            loss_map_number: MapNumber(0),
            members: vec![Member { store: store_of(slice), state: ReplicaState::Serving }],
        })
        .collect();
    let member = GroupMember { node, state: ReplicaState::Serving, address: parts.metadata_address };
    ClusterMap::new(Map {
        number: MapNumber(1),
        cluster: parts.cluster,
        ring_bits: parts.ring_bits,
        settings: Settings { chain_length: 1, min_in_sync: 1, reclaim_delay_ms: parts.reclaim_delay_ms },
        nodes: vec![Node { node, name: parts.name }],
        stores,
        slices,
        groups: vec![Group { group: GroupId(0), generation: 0, epoch: Epoch(1), members: vec![member] }],
    })
}
