//! What operators ask of the control group, and what it answers.

use super::{ChainId, Health, NodeStatus, Reason, StopRisk, Subject};
use crate::{MapNumber, NodeId, StoreId};

/// An operator's command.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Command {
    /// The stores of `new`, which has joined and holds nothing, take the places of the stores of `old`.
    ReplaceNode {
        /// Whose places.
        old: NodeId,
        /// Who takes them.
        new: NodeId,
    },
    /// A store that was just formatted takes the place of another one on its node.
    ReplaceStore {
        /// Whose place.
        old: StoreId,
        /// What takes it; registered by the node of the old one, or by another.
        new: StoreId,
    },
    /// A node that is gone doesn't come back: what it held is spread over the others.
    ForgetNode {
        /// Which.
        node: NodeId,
        /// Even where the others are too few for the chains' length.
        force: bool,
    },
    /// Chains that can't serve without what is lost go on with what there is (R8). Acknowledged data may be gone.
    AcceptDataLoss {
        /// Which chains.
        scope: LossScope,
        /// Stores that are never to come back; they may be members of any chain.
        expel: Vec<StoreId>,
    },
    /// Serving replicas without which a chain takes no writes.
    SetMinInSync(u8),
    /// How many nodes vote in the control group: 1, 3 or 5.
    SetVoters(u8),
    /// Whether every chain keeps `min_in_sync` without this node.
    OkToStop(NodeId),
    /// Why something is as it is.
    Why(Subject),
    /// The whole in numbers.
    Health,
    /// All nodes.
    Nodes,
}

/// Chains whose loss is accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LossScope {
    /// One.
    Chain(ChainId),
    /// Every one that has no serving member.
    All,
}

/// The answer to a [`Command`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Answer {
    /// It is done, or begun: the map that says so.
    Done {
        /// The map in which it stands.
        number: MapNumber,
        /// What was done.
        done: Done,
    },
    /// It isn't.
    Refused(Refusal),
    /// To [`Command::OkToStop`]: what would be at risk; empty: nothing.
    OkToStop(StopRisk),
    /// To [`Command::Why`].
    Why(Vec<Reason>),
    /// To [`Command::Health`].
    Health(Health),
    /// To [`Command::Nodes`].
    Nodes(Vec<NodeStatus>),
}

/// What a command did.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Done {
    /// The stores of one node are being replaced by another's: so many chains get a new member.
    Replacing {
        /// Chains.
        chains: u32,
    },
    /// The node is forgotten: so many chains get a new member, so many stay short for want of nodes.
    Forgotten {
        /// Chains with a new member.
        chains: u32,
        /// Chains that stay short.
        short: u32,
    },
    /// The loss is accepted.
    LossAccepted {
        /// Each chain, with the store that it goes on with.
        chains: Vec<ChainLoss>,
        /// Stores expelled.
        expelled: Vec<StoreId>,
    },
    /// The setting stands; chains follow.
    Set,
    /// The voters are being changed.
    VotersChanging {
        /// To come.
        added: Vec<NodeId>,
        /// To go.
        removed: Vec<NodeId>,
    },
}

/// A chain that goes on after an accepted loss. At most [`crate::limits::ANSWER_CHAINS_MAX`] are listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ChainLoss {
    /// The chain.
    pub chain: ChainId,
    /// Whose content it has now.
    pub seed: StoreId,
}

/// Why a command isn't done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// This node doesn't lead the control group; the leader, where it is known.
    NotLeader(Option<NodeId>),
    /// Leadership was lost while the change was under way: look whether it was done.
    Unknown,
    /// A change is under way: again in a moment.
    Busy,
    /// No such node.
    NodeUnknown(NodeId),
    /// No such store, or none that was registered.
    StoreUnknown(StoreId),
    /// No such chain.
    ChainUnknown(ChainId),
    /// The node is alive: stop it first.
    NodeAlive(NodeId),
    /// The node isn't registered.
    NodeAbsent(NodeId),
    /// The store serves: what it holds must be elsewhere first.
    StoreAlive(StoreId),
    /// The store holds replicas, or isn't empty.
    NotEmpty(StoreId),
    /// The new store is of another kind.
    WrongUnit(StoreId),
    /// Replacing would put two replicas of this chain on one node.
    TwoOnOneNode(ChainId),
    /// The other nodes are too few to hold the chains' length.
    TooFewNodes {
        /// Nodes that would be left.
        left: u32,
        /// The chains' length.
        chain_length: u8,
    },
    /// This chain would be without any serving member.
    LastCopy(ChainId),
    /// No chain lacks a serving member: there is no loss to accept.
    NothingLost,
    /// No member of this chain is there to go on with.
    NobodyPresent(ChainId),
    /// Out of its range.
    OutOfRange,
    /// Too many chains or stores for the map.
    Full,
}
