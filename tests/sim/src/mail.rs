//! What the threads of a node tell each other, in production over bounded queues.

use std::sync::Arc;

use placement::Edition;
use wire::control::{CaughtUp, StoreBeat, Synced};
use wire::map::Unit;
use wire::{MapNumber, Nanos, StoreId};

/// What a thread finds in its queue.
#[derive(Clone, Debug)]
pub(crate) enum Mail {
    /// To a unit: the map to follow. It is durable.
    Map(Arc<Edition>),
    /// To a metadata replica: the node's lease runs until then, on the node's clock (R18).
    Lease(Nanos),
    /// To the agent: a map is durable.
    Stored(Arc<Edition>),
    /// To the agent: a unit follows a map.
    Followed(Unit, MapNumber),
    /// To the agent: how a store is.
    Beat(StoreBeat),
    /// To the agent: the stores that a unit can't reach, all of them.
    Suspects(Unit, Vec<StoreId>),
    /// To the agent: a member has everything.
    Synced(Synced),
    /// To the agent: a learner follows closely.
    CaughtUp(CaughtUp),
    /// To the node: the record of this vote is durable, and its log may be made (R35).
    VoterLog(u64),
}

/// What an agent or a metadata replica wants of its node.
#[derive(Clone, Debug)]
pub(crate) enum Order {
    /// Store the map.
    Store(Arc<Edition>),
    /// Hand the map to all units.
    Publish(Arc<Edition>),
    /// Tell whoever reads under it.
    Lease(Nanos),
    /// Make a log for this vote.
    FormatVoter(u64),
    /// The metadata replica begins anew with its log, opened again.
    Reopen,
}
