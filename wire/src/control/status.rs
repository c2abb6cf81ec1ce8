//! How things stand, as enums with operands: the text is made by whoever shows it.

use super::{ChainId, Condition, Life};
use crate::map::{Phase, ReplicaState};
use crate::{Epoch, MapNumber, NodeId, StoreId};

/// What is asked about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Subject {
    /// A node.
    Node(NodeId),
    /// A store.
    Store(StoreId),
    /// A chain.
    Chain(ChainId),
}

/// One thing that is worth saying about a subject. Durations are in nanoseconds, as seen by the present leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// Nothing is wrong.
    Well,
    /// The map hasn't it.
    NotInMap,
    /// The node lives; it was heard so long ago.
    NodeAlive {
        /// Its life.
        life: Life,
        /// Since its last heartbeat.
        heard: u64,
        /// The map that it follows.
        installed: MapNumber,
    },
    /// The node isn't registered with this leader. Its members go Offline when its last possible lease has run out.
    NodeSilent {
        /// Since when nothing was heard, or since this leader's election.
        silent: u64,
        /// Until it is taken for dead; 0: it is.
        dead_in: u64,
    },
    /// Nodes that can't reach it.
    NodeSuspected {
        /// How many.
        by: u32,
    },
    /// The store doesn't work: replace the disk, or restart the node.
    StoreUnfit {
        /// How it is.
        condition: Condition,
    },
    /// What the store reported is older than what is known of it (R34): it needs a new uuid, `disk replace`.
    StoreStale,
    /// The store is being emptied, replaced, or was expelled.
    StoreLeaves,
    /// How a chain stands.
    Chain {
        /// The chain.
        chain: ChainId,
        /// Its epoch.
        epoch: Epoch,
        /// Whether that acks.
        phase: Phase,
        /// Serving members.
        serving: u8,
        /// Members needed for writes.
        min_in_sync: u8,
        /// For how long it has been so; from this leader's election on at most.
        since: u64,
    },
    /// How a member of a chain stands.
    Member {
        /// The chain.
        chain: ChainId,
        /// The member.
        store: StoreId,
        /// Its state.
        state: ReplicaState,
        /// What it lacks, as it says.
        lag: u64,
    },
    /// What the chain, or a member of it, waits for.
    Waiting(Waits),
}

/// What a chain waits for, and with that what happens next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Waits {
    /// The epoch becomes active once this node follows the map (R5).
    Promise {
        /// Whose.
        node: NodeId,
        /// The map.
        number: MapNumber,
    },
    /// The epoch becomes active once the lease of this node, which is removed, has run out (R5, R18).
    Lease {
        /// Whose.
        node: NodeId,
        /// How long that takes at most.
        left: u64,
    },
    /// The member is being synced.
    Sync(StoreId),
    /// The waiting member of a group follows the log until it is close enough (R11).
    CatchUp(StoreId),
    /// The store isn't there. Start its node, or replace it.
    Return(StoreId),
    /// Seeds that may have more are given so long to come back (R7).
    Seeds {
        /// How many aren't there.
        missing: u8,
        /// How long.
        left: u64,
    },
    /// Only seeds that cut their log's end are there, and others aren't: one of these must come back, or an operator accepts the loss (R7).
    CleanSeed {
        /// How many aren't there.
        missing: u8,
    },
    /// No seed is there: one must come back, or an operator accepts the loss (R6).
    AnySeed,
    /// There are too few nodes for the chains' length.
    MoreNodes,
    /// Two members can't reach each other; one was put out and comes back later.
    HoldDown {
        /// The one.
        store: StoreId,
        /// When it may come back.
        left: u64,
    },
    /// Another change of the map.
    Turn,
    /// Without a wait for anybody: the next change of the map does it.
    Control,
}

/// What a node's stop would do.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct StopRisk {
    /// Chains that would take no writes.
    pub writes_stop: u32,
    /// Chains that would serve nothing.
    pub reads_stop: u32,
    /// Some of them, those that would serve nothing first; at most [`crate::limits::ANSWER_CHAINS_MAX`].
    pub chains: Vec<ChainId>,
    /// Whether the control group would lose its majority.
    pub control_stops: bool,
}

impl StopRisk {
    /// Whether the node can be stopped without anybody noticing.
    pub fn is_ok(&self) -> bool {
        self.writes_stop == 0 && self.reads_stop == 0 && !self.control_stops
    }
}

/// Chains of one kind in numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct ChainTally {
    /// All.
    pub chains: u32,
    /// Every member serves, and they are as many as they should be.
    pub full: u32,
    /// Serving members are fewer than they should be, and enough for writes.
    pub degraded: u32,
    /// Too few for writes; reads go on.
    pub read_only: u32,
    /// None serves.
    pub down: u32,
    /// Of all of them: those whose epoch isn't active yet.
    pub changing: u32,
    /// Of all of them: those in which somebody is being synced.
    pub syncing: u32,
    /// Of all of them: those that wait for an operator.
    pub stuck: u32,
    /// The fewest serving members that a chain has.
    pub redundancy_min: u8,
}

/// The whole in numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Health {
    /// The map.
    pub number: MapNumber,
    /// Nodes in it.
    pub nodes: u32,
    /// Nodes that live.
    pub nodes_alive: u32,
    /// Stores that may be members of chains.
    pub stores: u32,
    /// Of these: those that are fenced, failed or stale.
    pub stores_unfit: u32,
    /// Chains of slices.
    pub slices: ChainTally,
    /// Chains of groups.
    pub groups: ChainTally,
    /// How many replicas a slice should have.
    pub chain_length: u8,
    /// Replicas stand in fewer failure domains than they could be told apart by: racks or nodes (R41).
    pub domains: u32,
    /// Chunks that no member could supply, as counted by members that synced (R9).
    pub chunks_missing: u64,
    /// Everything serves at full length.
    pub is_whole: bool,
}

/// A node.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct NodeStatus {
    /// Which.
    pub node: NodeId,
    /// Its life; `None`: this leader hasn't heard of it.
    pub life: Option<Life>,
    /// Since it was heard.
    pub heard: u64,
    /// Whether it counts as alive.
    pub is_alive: bool,
    /// The map that it follows.
    pub installed: MapNumber,
    /// Members of chains in its stores.
    pub members: u32,
    /// Of these: those that serve.
    pub serving: u32,
    /// Its stores, each with its condition where it is known.
    pub stores: Vec<(StoreId, Option<Condition>)>,
}
