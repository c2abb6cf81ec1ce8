//! The cluster's state, as `catena status` and `df` show it.

use std::sync::Arc;

use wire::map::{Map, Node, Standing, Unit};
use wire::message::ShardState;
use wire::meta::{Answer, GroupState, Query};
use wire::{ClusterId, NodeId, ShardIndex, StoreId};

use crate::client::NAMES;
use crate::handle::Handle;
use crate::{Error, Pending, Subject};

/// State of a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterStatus {
    /// The cluster.
    pub cluster: ClusterId,
    /// Its map.
    pub map: Arc<Map>,
    /// Its nodes.
    pub nodes: Vec<Node>,
    /// Its shards, in the map's order.
    pub shards: Vec<ShardStatus>,
    /// The metadata group, or why it doesn't answer.
    pub group: Result<GroupState, Error>,
}

/// State of a shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShardStatus {
    /// Its store.
    pub store: StoreId,
    /// Its node.
    pub node: NodeId,
    /// Its number in the node.
    pub shard: ShardIndex,
    /// Its port, `host:port`.
    pub address: String,
    /// What it says, or why it doesn't answer.
    pub state: Result<Box<ShardState>, Error>,
}

/// Asks everybody.
pub(crate) async fn collect(handle: &Handle) -> Result<ClusterStatus, Error> {
    let map = handle.map(&Subject::Cluster).await?;
    // All are asked before the first is waited for.
    let ask = |address: &str| {
        let (handle, address) = (handle.clone(), address.to_owned());
        Pending::start(async move { handle.shard_state(&address).await })
    };
    let map = Arc::new(map.as_map().clone());
    let shards = map.stores.iter().filter_map(|store| match store.unit {
        Unit::Shard(shard) if store.standing == Standing::Member => Some((store, shard)),
        _ => None,
    });
    let answers: Vec<_> = shards.clone().map(|(store, _)| ask(&store.address)).collect();
    let mut states = Vec::with_capacity(answers.len());
    for ((store, shard), answer) in shards.zip(answers) {
        states.push(ShardStatus {
            store: store.store,
            node: store.node,
            shard,
            address: store.address.clone(),
            state: answer.await,
        });
    }
    let group = match handle.query(NAMES, Query::GroupStatus, &Subject::Cluster).await {
        Ok(Answer::GroupStatus(state)) => Ok(state),
        Ok(_) => Err(handle.protocol_error(Subject::Cluster)),
        Err(error) => Err(error),
    };
    Ok(ClusterStatus { cluster: map.cluster, nodes: map.nodes.clone(), shards: states, group, map })
}
