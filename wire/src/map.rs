//! The cluster map as plain data: nodes, stores, slices → chains, groups, settings. Lookups live in `placement`.
//!
//! Encoded it takes about 18 bytes a slice at chain length 3 (74 KB at 4,096 slices), and travels in pages.

mod codec;

pub use codec::{MAP_FORMAT, Pages};

use crate::{ClusterId, Epoch, GroupId, MapNumber, NodeId, ShardIndex, StoreId};

/// The cluster map. Changes by compare-and-swap on its number.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Map {
    /// Its number, from 1.
    pub number: MapNumber,
    /// The cluster.
    pub cluster: ClusterId,
    /// The ring has `2^ring_bits` slices, ≤ 16 (R40).
    pub ring_bits: u8,
    /// The cluster's settings.
    pub settings: Settings,
    /// In order of their numbers.
    pub nodes: Vec<Node>,
    /// Slices refer to them by index.
    pub stores: Vec<Store>,
    /// One for each of the ring's slices.
    pub slices: Vec<Slice>,
    /// In order of their ids.
    pub groups: Vec<Group>,
}

/// Settings of the whole cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Settings {
    /// Replicas of each slice, 1 to 3 (R41).
    pub chain_length: u8,
    /// Serving replicas without which a chain takes no writes; min(2, `chain_length`) by default.
    pub min_in_sync: u8,
    /// How long a chunk outlives its last reference (R25).
    pub reclaim_delay_ms: u64,
}

/// A node.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Node {
    /// Its number.
    pub node: NodeId,
    /// Its name, for people.
    pub name: String,
}

/// A store, and where it is found.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Store {
    /// The store.
    pub store: StoreId,
    /// The node that serves it.
    pub node: NodeId,
    /// The shard that serves it.
    pub shard: ShardIndex,
    /// The shard's own port, `host:port`.
    pub address: String,
}

/// One slice's chain.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Slice {
    /// The chain's epoch.
    pub epoch: Epoch,
    /// The map in which an operator accepted the loss of chunks of this slice; 0: never (R8).
    pub loss_map_number: MapNumber,
    /// Head first.
    pub members: Vec<Member>,
}

/// One replica of a slice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Member {
    /// Index of its store in [`Map::stores`].
    pub store: u16,
    /// Its state.
    pub state: ReplicaState,
}

/// A metadata group's chain.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Group {
    /// The group.
    pub group: GroupId,
    /// Rises whenever the group lost entries; all older sessions are closed then (R20).
    pub generation: u16,
    /// The chain's epoch.
    pub epoch: Epoch,
    /// Head first.
    pub members: Vec<GroupMember>,
}

/// One replica of a group.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct GroupMember {
    /// The node that serves it.
    pub node: NodeId,
    /// Its state.
    pub state: ReplicaState,
    /// The replica's own port, `host:port`.
    pub address: String,
}

/// State of a replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum ReplicaState {
    /// Has everything, takes part in acks, serves.
    Serving = 1,
    /// Takes part in acks, lacks older chunks.
    Syncing = 2,
    /// Will sync, takes part in nothing yet.
    Waiting = 3,
    /// Offline, and the last that served: nothing older may take its place.
    LastServing = 4,
    /// Not there.
    Offline = 5,
}

impl ReplicaState {
    /// The state with this code.
    pub fn from_code(code: u8) -> Option<Self> {
        [Self::Serving, Self::Syncing, Self::Waiting, Self::LastServing, Self::Offline]
            .into_iter()
            .find(|state| *state as u8 == code)
    }
}
