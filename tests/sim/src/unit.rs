//! What a unit of a node, a shard or a metadata replica, asks of its driver; and the driver's common part.

use std::sync::Arc;

use agent::PeerId;
use journal::IoEffects;
use shard::Target;
use wire::{ChunkId, Nanos};

use crate::mail::{Mail, Order};
use crate::network::{Connection, Payload};

/// Whom a unit wants to talk to, in its own words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Peer {
    /// A metadata replica: a store's index in the map.
    Index(u16),
    /// A shard: the store that comes next in a chain.
    Store(Target),
    /// A control agent: another one, for heartbeats or for votes.
    Agent(PeerId),
}

/// A frame to be sent.
#[derive(Debug)]
pub(crate) struct Outgoing {
    /// Where.
    pub connection: Connection,
    /// Prefix and message.
    pub head: Vec<u8>,
    /// The payload; its slot's reference belongs to the frame.
    pub payload: Option<Payload>,
}

/// What a unit says about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Note {
    /// It serves.
    Opened,
    /// It will never serve, and why.
    OpenFailed(String),
    /// A write failed: nothing more is written.
    Fenced,
    /// A chunk can't be returned.
    Damaged(ChunkId),
    /// Durable batches of its log are lost.
    BatchesDamaged,
    /// It has ended in order.
    ShutDown,
    /// What a control agent has to say.
    Agent(agent::Note),
}

/// Collected while an event is handled; carried out by the node.
#[derive(Debug, Default)]
pub(crate) struct Out {
    /// Frames, in order.
    pub sends: Vec<Outgoing>,
    /// Connections that end behind what was sent.
    pub closes: Vec<Connection>,
    /// Connections wanted: for which of the unit's peers, and where.
    pub calls: Vec<(Peer, Arc<str>)>,
    /// Disk requests.
    pub io: IoEffects,
    /// A tick is wanted at this time.
    pub deadlines: Vec<Nanos>,
    /// What the unit's agent is told.
    pub mails: Vec<Mail>,
    /// What the node is asked for.
    pub orders: Vec<Order>,
    /// News.
    pub notes: Vec<Note>,
    /// Entries and chunks that the unit counted, for the table.
    pub counts: Vec<(&'static str, &'static str)>,
}

impl Out {
    /// A tick is wanted at `at`.
    pub(crate) fn arm(&mut self, at: Nanos) {
        self.deadlines.push(at);
    }
}
