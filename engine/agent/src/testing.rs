//! What tests begin with.

use std::sync::Arc;

use placement::{ClusterMap, Edition, OneNode, one_node};
use wire::message::Hello;
use wire::{ClusterId, MapNumber, NodeId, ShardIndex, StoreId};
use wire::{PROTOCOL_VERSION, PROTOCOL_VERSION_MIN};

/// The cluster of all tests.
pub(crate) const CLUSTER: ClusterId = ClusterId([7; 16]);

/// A one-node cluster's map with this number.
pub(crate) fn edition(number: u64) -> Arc<Edition> {
    let map = one_node(OneNode {
        cluster: CLUSTER,
        node: NodeId(1),
        name: "node-1".to_owned(),
        stores: vec![(StoreId([1; 16]), ShardIndex(0), "node-1:7430".to_owned())],
        metadata: StoreId([0x81; 16]),
        metadata_address: "node-1:7421".to_owned(),
        control: "node-1:7422".to_owned(),
        ring_bits: 4,
        reclaim_delay_ms: 1000,
    });
    let mut map = map.expect("a valid map").as_map().clone();
    map.number = MapNumber(number);
    Arc::new(Edition::new(ClusterMap::new(map).expect("a valid map")))
}

/// What an operator's tool says first.
pub(crate) fn hello() -> Hello {
    Hello {
        version_min: PROTOCOL_VERSION_MIN,
        version_max: PROTOCOL_VERSION,
        features: wire::message::FEATURES,
        name: "an operator".to_owned(),
        cluster: Some(CLUSTER),
        peer: None,
    }
}
