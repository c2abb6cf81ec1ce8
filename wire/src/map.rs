//! The cluster map as plain data: nodes, stores, slices → chains, groups → chains, settings. Lookups live in `placement`.
//!
//! Encoded it takes about 20 bytes a slice at chain length 3 (82 KB at 4,096 slices). It travels in pages, whole or as the
//! [`MapDelta`] between two of them.

mod codec;
mod delta;
mod members;

pub use codec::{MAP_FORMAT, MapUpdate, Pages};
pub use delta::{DeltaError, MapDelta};
pub use members::Members;

use crate::{ClusterId, Epoch, GroupId, Incarnation, MapNumber, NodeId, ShardIndex, StoreId};

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
    /// Chains refer to them by index, so that none ever moves.
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
    /// Serving replicas without which a chain takes no writes; min(2, `chain_length`) by default. Each epoch has its own.
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
    /// The rack that it stands in; empty: not known. Replicas of one chain are in distinct racks where they are known.
    pub rack: String,
    /// `host:port` of its control port; empty in a map from before there was one.
    pub control: String,
    /// Its vote's id in the control group; 0: it has none. Never used again once a vote is lost.
    pub voter: u64,
}

/// A store, shard's or metadata replica's, and where it is found. Chain members are stores (R34).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Store {
    /// The store.
    pub store: StoreId,
    /// The node that serves it.
    pub node: NodeId,
    /// Which of its units.
    pub unit: Unit,
    /// The unit's own port, `host:port`.
    pub address: String,
    /// The highest life of the store that control knows; what is below it was rolled back (R34).
    pub incarnation: Incarnation,
    /// Its share of replicas in proportion to others', of whatever unit; a metadata replica's is 0.
    pub weight: u32,
    /// Whether it may be a member of chains.
    pub standing: Standing,
}

/// What serves a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Unit {
    /// A shard: the store holds chunks.
    Shard(ShardIndex),
    /// A metadata replica: the store is the group's log.
    Group(GroupId),
}

/// Whether a store may be a member of chains.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Standing {
    /// It may.
    Member = 1,
    /// An operator accepted its loss: what it holds comes back as extras of an empty joiner, under another uuid (R8).
    Expelled = 2,
    /// It was replaced, or its node forgotten. Its place in the list is kept, so that the others keep theirs.
    Forgotten = 3,
}

impl Standing {
    /// The standing with this code.
    pub fn from_code(code: u8) -> Option<Self> {
        [Self::Member, Self::Expelled, Self::Forgotten].into_iter().find(|standing| *standing as u8 == code)
    }
}

/// The replicas of one slice or group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Chain {
    /// Number of the chain's membership. It rises with every change of who acks.
    pub epoch: Epoch,
    /// Whether the epoch acks.
    pub phase: Phase,
    /// Serving replicas without which this epoch takes no writes (R6).
    pub min_in_sync: u8,
    /// Head first.
    pub members: Members,
}

/// How far a change of membership is (R5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Phase {
    /// Members promise the epoch: whoever has this map acks nothing of a lower one, and nothing of this one yet.
    Prepared,
    /// Every member has promised, and whoever was removed can't ack or serve any more.
    Active,
}

/// One slice's chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Slice {
    /// Its replicas.
    pub chain: Chain,
    /// The map in which an operator accepted the loss of chunks of this slice; 0: never (R8).
    pub loss_map_number: MapNumber,
}

/// One replica of a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Member {
    /// Index of its store in [`Map::stores`].
    pub store: u16,
    /// Its state.
    pub state: ReplicaState,
    /// Whether it belongs to the last set that could ack: any of these has all that was acked, and may seed the chain (R6).
    pub is_seed: bool,
}

/// A metadata group's chain.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Group {
    /// The group.
    pub group: GroupId,
    /// Rises whenever the group lost entries; all older sessions are closed then (R20).
    pub generation: u16,
    /// Its replicas.
    pub chain: Chain,
}

impl Chain {
    /// A chain of one serving replica, in its first epoch.
    pub fn of_one(store: u16) -> Self {
        let member = Member { store, state: ReplicaState::Serving, is_seed: true };
        let members = [member].into_iter().collect();
        Self { epoch: Epoch(1), phase: Phase::Active, min_in_sync: 1, members }
    }

    /// Members whose durability an ack needs, in order (I2).
    pub fn ackers(&self) -> impl DoubleEndedIterator<Item = &Member> + Clone {
        self.members.iter().filter(|member| member.state.acks())
    }

    /// Members that serve, in order.
    pub fn serving(&self) -> impl DoubleEndedIterator<Item = &Member> + Clone {
        self.members.iter().filter(|member| member.state == ReplicaState::Serving)
    }

    /// Whether this epoch can ack anything: it counts Serving members alone (R6).
    pub fn can_ack(&self) -> bool {
        self.serving().count() >= usize::from(self.min_in_sync.max(1))
    }

    /// The member with this store.
    pub fn member(&self, store: u16) -> Option<&Member> {
        self.members.iter().find(|member| member.store == store)
    }
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
    /// Whether an ack needs this replica's durability (I2).
    pub fn acks(self) -> bool {
        matches!(self, Self::Serving | Self::Syncing)
    }

    /// The state with this code.
    pub fn from_code(code: u8) -> Option<Self> {
        [Self::Serving, Self::Syncing, Self::Waiting, Self::LastServing, Self::Offline]
            .into_iter()
            .find(|state| *state as u8 == code)
    }
}
