//! What can't be planned.

use thiserror::Error;
use wire::{NodeId, SliceIndex};

use super::StoreIndex;

/// Why a layout has no plan. Whoever asked for it corrects the layout.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Error)]
pub enum PlanError {
    /// A ring of `2^ring_bits` slices has as many chains, and `ring_bits` is at most 16 (R40).
    #[error("{found} chains on a ring of {expected}")]
    ChainCount {
        /// In the layout.
        found: usize,
        /// On the ring; 0 where `ring_bits` is too large.
        expected: usize,
    },
    /// `chain_length` is 1 to 3 (R41).
    #[error("chain length {0} is outside 1 to 3")]
    ChainLength(u8),
    /// More stores than a map has, which chains name by 16 bits.
    #[error("{0} stores are more than a map has")]
    MemberCount(usize),
    /// More nodes than [`super::NODES_MAX`].
    #[error("{0} nodes are more than can be planned for")]
    NodeCount(usize),
    /// More stores on one node than [`super::STORES_PER_NODE_MAX`].
    #[error("{count} stores on node {node} are more than can be planned for")]
    StoreCount {
        /// The node.
        node: NodeId,
        /// Its stores.
        count: usize,
    },
    /// Stores of one node name different racks.
    #[error("node {0} is in two racks")]
    TwoRacks(NodeId),
    /// A chain names a store twice or one that isn't a member, or it is longer than any in a map: the first such store.
    #[error("slice {slice} has no valid chain: store number {}", .store.0)]
    ChainMember {
        /// The slice.
        slice: SliceIndex,
        /// What it names.
        store: StoreIndex,
    },
    /// No store is there that may hold anything.
    #[error("no store has any weight")]
    NoStore,
    /// What is said to be lost isn't a member.
    #[error("what was lost is not in the layout")]
    LostUnknown,
}
