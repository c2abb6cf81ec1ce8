//! What an agent asks of its driver.

use std::sync::Arc;

use journal::{IoEffects, OpenError};
use placement::Edition;
use thiserror::Error;
use wire::control::{RegistrationRefusal, StoreVerdict};
use wire::{MapNumber, Nanos, NodeId, StoreId};

/// A connection, as the driver numbers it; never reused within a process. Others' and the agent's own share the numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Link(pub u64);

/// Why an agent ends a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseReason {
    /// The peer broke the protocol.
    Protocol,
    /// The peer belongs to another cluster, or speaks no version that is spoken here.
    Mismatch,
    /// More connections than the limit.
    TooMany,
    /// A peer that refused to talk, keeps silent, or has another address now.
    Redial,
}

/// A frame to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Send {
    /// To whom.
    pub link: Link,
    /// Prefix and message in [`Effects::bytes`].
    pub head: (u32, u32),
}

/// A connection that the agent wants; answered by [`Agent::on_dialled`](crate::Agent::on_dialled) at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dial {
    /// Which of the agent's peers.
    pub peer: PeerId,
    /// `host:port` of a control port.
    pub address: Arc<str>,
}

/// Whom an agent talks to: the same address may be dialled for votes and for heartbeats, so that neither waits behind the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PeerId {
    /// Whoever leads, or may know who does.
    Leader,
    /// Another voter.
    Voter(u64),
}

/// Why the voter's log can't be used. The node serves; it doesn't vote.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum VoterFailure {
    /// It can't be opened, or is damaged: under this id the node never votes again (R35).
    #[error("{0}")]
    Log(OpenError),
    /// A write failed.
    #[error("a write or flush of it failed")]
    Fenced,
    /// Its image isn't a map, or an entry no change of one, as far as this program knows.
    #[error("what it holds is no cluster map, or of a later format")]
    Foreign,
    /// The voter has ended: it never votes again under this id (R35).
    #[error("{0}")]
    Voter(control::voter::VoterError),
}

/// What an agent says about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Note {
    /// The node is registered; verdicts on its stores that aren't all `Accepted` stand beside it.
    Registered {
        /// With whom.
        leader: NodeId,
        /// Stores that don't take part, and why.
        refused: Vec<(StoreId, StoreVerdict)>,
    },
    /// The leader refused the node.
    Refused(RegistrationRefusal),
    /// A newer map is known.
    Map(MapNumber),
    /// The lease has run out and nobody renews it; told once until it is renewed.
    LeaseLost,
    /// There is a lease again.
    LeaseRenewed,
    /// This node's voter leads the control group.
    Leads {
        /// Its term.
        term: u64,
    },
    /// It doesn't any more.
    Follows {
        /// Who does, where that is known.
        leader: Option<NodeId>,
    },
    /// The voter can't be used.
    VoterFailed(VoterFailure),
    /// What the membership has to say.
    Membership(control::membership::Note),
    /// The agent has ended in order.
    Ended,
}

/// What one event leads to. Owned by the caller and reused; cleared by the caller after it has been carried out.
#[derive(Debug, Default)]
pub struct Effects {
    /// Frames to send, in order.
    pub sends: Vec<Send>,
    /// Encoded heads that [`Send::head`] points into.
    pub bytes: Vec<u8>,
    /// Connections to end once what was sent to them before has left.
    pub closes: Vec<(Link, CloseReason)>,
    /// Connections wanted.
    pub dials: Vec<Dial>,
    /// The voter's log's I/O.
    pub io: IoEffects,
    /// A tick is wanted at this time; it replaces the one before.
    pub deadline: Option<Nanos>,
    /// Store this map durably; [`Agent::on_stored`](crate::Agent::on_stored) is the answer.
    pub store: Option<Arc<Edition>>,
    /// Hand this map to every unit of the node that [takes part](crate::Agent::takes_part), once it is stored; [`Agent::on_followed`](crate::Agent::on_followed) is each
    /// unit's answer.
    pub publish: Option<Arc<Edition>>,
    /// The node's lease runs until then (R18).
    pub lease: Option<Nanos>,
    /// Format a log for this voter, which the map gives to this node; [`Agent::on_voter_log`](crate::Agent::on_voter_log) is the answer.
    pub format_voter: Option<u64>,
    /// News, in order.
    pub notes: Vec<Note>,
}

impl Effects {
    /// Forgets everything, keeps the memory.
    pub fn clear(&mut self) {
        self.sends.clear();
        self.bytes.clear();
        self.closes.clear();
        self.dials.clear();
        self.io.clear();
        self.deadline = None;
        self.store = None;
        self.publish = None;
        self.lease = None;
        self.format_voter = None;
        self.notes.clear();
    }

    /// Whether there is nothing to carry out.
    pub fn is_empty(&self) -> bool {
        self.sends.is_empty()
            && self.closes.is_empty()
            && self.dials.is_empty()
            && self.io.requests.is_empty()
            && self.notes.is_empty()
            && self.deadline.is_none()
            && self.lease.is_none()
            && self.store.is_none()
            && self.publish.is_none()
            && self.format_voter.is_none()
    }

    /// A frame whose head `encode` appends.
    pub(crate) fn send(&mut self, link: Link, encode: impl FnOnce(&mut Vec<u8>)) {
        let position = |bytes: &[u8]| u32::try_from(bytes.len()).expect("cleared after each event");
        let start = position(&self.bytes);
        encode(&mut self.bytes);
        self.sends.push(Send { link, head: (start, position(&self.bytes)) });
    }
}
