//! What makes a map unusable.

use thiserror::Error;
use wire::map::DeltaError;
use wire::{GroupId, NodeId, SliceIndex, StoreId};

/// Why a well-formed map can't be a cluster's. Whoever received it keeps the map it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum MapError {
    /// A delta that doesn't fit.
    #[error(transparent)]
    Delta(#[from] DeltaError),
    /// Numbers begin at 1.
    #[error("a map's number is at least 1")]
    Number,
    /// A ring of `2^bits` slices has as many.
    #[error("{found} slices on a ring of {expected}")]
    SliceCount {
        /// In the map.
        found: usize,
        /// On the ring.
        expected: usize,
    },
    /// `chain_length` is 1 to 3, `min_in_sync` 1 to `chain_length`.
    #[error("chain length {chain_length} with {min_in_sync} in sync")]
    ChainLength {
        /// The setting.
        chain_length: u8,
        /// The setting.
        min_in_sync: u8,
    },
    /// `reclaim_delay` is 1 s to 7 d (R25).
    #[error("a reclaim delay of {0} ms is outside 1 s to 7 d")]
    ReclaimDelay(u64),
    /// Nodes are in strictly rising order of their numbers.
    #[error("node {0} is out of order or repeated")]
    NodeOrder(NodeId),
    /// A store is on a node that the map hasn't.
    #[error("node {0} is not in the map")]
    NodeUnknown(NodeId),
    /// A store appears twice.
    #[error("store {0} is repeated")]
    StoreRepeated(StoreId),
    /// Every address is `host:port`.
    #[error("the address of store number {0} isn't host:port")]
    StoreAddress(usize),
    /// A chain has one to eight members, of different stores of the map that hold chunks.
    #[error("slice {0} has no valid chain")]
    SliceMembers(SliceIndex),
    /// Epochs begin at 1; a loss isn't stamped with a later map than this one.
    #[error("slice {0} has no valid epoch or loss stamp")]
    SliceEpoch(SliceIndex),
    /// Groups are in strictly rising order of their ids, group 0 first.
    #[error("group {0} is out of order or repeated, or group 0 is missing")]
    GroupOrder(GroupId),
    /// A group's generation is below 1,024, its epoch at least 1, its members 1 to 8 different logs of this group.
    #[error("group {0} has no valid chain")]
    GroupMembers(GroupId),
}
