//! What nodes and the control group tell each other, as plain data: registrations, heartbeats, commands and their answers.
//!
//! ```text
//! node                                   control's leader
//!  Registration ──────────────────────►  once for each life of the process, and after each `is_known: false`
//!  ◄───────────────── RegistrationReply
//!  Heartbeat ─────────────────────────►  every 250 ms
//!  ◄──────────────────── HeartbeatReply  the lease (R18), and the number of the map to follow
//! ```
//! Types only: `meta/control` decides, `message/plain` has the codec. Every list has a limit in [`crate::limits`].

mod command;
mod status;

pub use command::{Answer, ChainLoss, Command, Done, LossScope, Refusal};
pub use status::{ChainTally, Health, NodeStatus, Reason, StopRisk, Subject, Waits};

use crate::map::Unit;
use crate::{CommitIndex, Epoch, GroupId, Incarnation, MapNumber, Nanos, NodeId, SliceIndex, StoreId};

/// One run of a node's process, drawn at random at its start. Another life proves that the one before has ended: the stores' locks
/// are held by one process at a time (R33).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Life(pub u64);

/// What whoever leads the control group answers; others say who that is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Led<T> {
    /// The answer.
    Here(T),
    /// Ask this node, where it is known who leads.
    Elsewhere(Option<NodeId>),
}

/// Names a chain: a slice's or a group's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ChainId {
    /// The chain of a slice.
    Slice(SliceIndex),
    /// The chain of a metadata group.
    Group(GroupId),
}

/// A node introduces itself, once for each life.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Registration {
    /// Its number; 0: it has none yet and asks to join.
    pub node: NodeId,
    /// This life.
    pub life: Life,
    /// Whether it may be taken in: an operator said so when it was started. What isn't in the map is refused otherwise (R34, R35).
    pub join: bool,
    /// Its name, for people; unique in the cluster.
    pub name: String,
    /// The rack that it stands in; empty: not known.
    pub rack: String,
    /// `host:port` of its control port.
    pub control: String,
    /// When it sent this, on its own clock.
    pub sent: Nanos,
    /// The newest map that it has stored durably and that all its units follow.
    pub installed: MapNumber,
    /// Its stores, at most [`crate::limits::NODE_STORES_MAX`].
    pub stores: Vec<StoreReport>,
}

/// A store at its node's registration.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct StoreReport {
    /// The store.
    pub store: StoreId,
    /// Which of the node's units serves it.
    pub unit: Unit,
    /// The unit's own port, `host:port`.
    pub address: String,
    /// The life in which the store runs now, written durably before it is reported: greater than the one before, and with low bits drawn at random,
    /// so that two copies of one disk don't take the same one ([`next_incarnation`]).
    pub incarnation: Incarnation,
    /// The lives before it that the store remembers: the last one that it knows control to have accepted, and all since, oldest first; at most
    /// [`crate::limits::STORE_LIVES_MAX`], empty if it was just formatted. Control's last life of the store has to be among them (R34): a disk that was rolled
    /// back doesn't remember it, however often it was started since. Whoever is accepted forgets all lives but the present one, durably.
    pub lives: Vec<Incarnation>,
    /// Whether recovery cut a tail that may have been acked: it seeds only if no clean member can come back (R7). The store keeps the mark
    /// durably until each of its members serves again: a second restart finds nothing to cut, and lacks what the first one did.
    pub recovered_cut: bool,
    /// Whether recovery missed something that may have been acked: batches damaged or gone. A chain that goes on with this store alone stamps its slice (R8).
    /// Kept as long as the mark before.
    pub lacks: bool,
    /// Where a metadata log ends; zero for shards.
    pub log_end: LogEnd,
    /// The sequence of the last durable batch.
    pub sequence: u64,
    /// What it may fill.
    pub capacity_bytes: u64,
    /// What it fills.
    pub used_bytes: u64,
    /// How it is.
    pub condition: Condition,
}

/// The life that follows `previous`: the next in order, with 16 random bits that tell it from the one that a copy of the disk takes (R34).
#[must_use]
pub fn next_incarnation(previous: Incarnation, random: u16) -> Incarnation {
    Incarnation((((previous.0 >> 16) + 1) << 16) | u64::from(random))
}

/// Where a metadata log ends: of two logs the one with the greater end has all that the other has (R7).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LogEnd {
    /// The epoch of the last entry.
    pub epoch: Epoch,
    /// Its index.
    pub index: CommitIndex,
}

/// How a store is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Condition {
    /// It works.
    Well = 1,
    /// It has refused all service since an error of a write or flush; a restart opens it again.
    Fenced = 2,
    /// It couldn't be opened, or its device is gone.
    Failed = 3,
}

impl Condition {
    /// The condition with this code.
    pub fn from_code(code: u8) -> Option<Self> {
        [Self::Well, Self::Fenced, Self::Failed].into_iter().find(|condition| *condition as u8 == code)
    }
}

/// The answer to a registration.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum RegistrationReply {
    /// The node is known now.
    Accepted {
        /// Its number, from now on.
        node: NodeId,
        /// The map that has it and its stores: follow it before serving anything.
        number: MapNumber,
        /// What was decided about each store, in the order of the registration.
        stores: Vec<(StoreId, StoreVerdict)>,
    },
    /// It isn't.
    Refused(RegistrationRefusal),
}

/// What was decided about a store that a node registered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StoreVerdict {
    /// It takes part.
    Accepted,
    /// The map doesn't have it. An operator's `disk replace` takes it in.
    Unknown,
    /// Control knows a later life or later batches of this store: it was rolled back or copied. What it holds can come back only as
    /// extras of an empty store under another uuid (R34).
    Stale {
        /// The life that the map has.
        known: Incarnation,
        /// The last batch known of it; 0: not known.
        known_sequence: u64,
    },
    /// An operator accepted its loss; as [`StoreVerdict::Stale`] (R8).
    Expelled,
    /// It was replaced or its node forgotten; as [`StoreVerdict::Stale`].
    Forgotten,
    /// The map has it on another node or as another unit; a store moves by an operator's act only.
    Elsewhere {
        /// The node that has it.
        node: NodeId,
    },
}

/// Why a registration is refused. The node serves nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RegistrationRefusal {
    /// The map hasn't such a node, and it didn't ask to join.
    NodeUnknown,
    /// A node that asks to join brings stores that the map knows, or that aren't empty.
    NotEmpty {
        /// The first of them.
        store: StoreId,
    },
    /// Another process that is alive has this node's number.
    NodeAlive,
    /// Another node has this name.
    NameTaken,
    /// The registration is out of its limits, or names a store twice.
    Malformed,
    /// The map has no room for another node or store.
    Full,
    /// A change is under way: again in a moment.
    Busy,
}

/// A node says that it lives.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Heartbeat {
    /// Who.
    pub node: NodeId,
    /// In which life.
    pub life: Life,
    /// When it sent this, on its own clock: its lease begins here (R18).
    pub sent: Nanos,
    /// The newest map that it has stored durably and that all its units follow: a promise of every epoch in it (R1, R5).
    pub installed: MapNumber,
    /// Its stores; one that isn't named is as it was.
    pub stores: Vec<StoreBeat>,
    /// Nodes that it needs and can't reach, at most [`crate::limits::HEARTBEAT_SUSPECTS_MAX`].
    pub suspects: Vec<NodeId>,
    /// Members that have everything now, at most [`crate::limits::HEARTBEAT_SYNCED_MAX`].
    pub synced: Vec<Synced>,
    /// Groups whose log this node's waiting member has followed to within the learner's bound: it may become Syncing (R11).
    pub caught_up: Vec<CaughtUp>,
    /// Syncing members that slow down a chain whose head is here, at most [`crate::limits::HEARTBEAT_SLOW_MAX`] (R11).
    pub slow: Vec<Slow>,
}

/// A store in a heartbeat.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct StoreBeat {
    /// The store.
    pub store: StoreId,
    /// How it is.
    pub condition: Condition,
    /// The sequence of the last durable batch (R34).
    pub sequence: u64,
    /// What it fills.
    pub used_bytes: u64,
    /// What its members still lack, in bytes (chunks) or entries (a log).
    pub lag: u64,
}

/// A Syncing member has everything that the Serving members of this epoch have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Synced {
    /// The chain.
    pub chain: ChainId,
    /// The epoch in which it synced; in another one it counts for nothing.
    pub epoch: Epoch,
    /// The member.
    pub store: StoreId,
    /// Chunks that no member could supply (R9).
    pub missing: u32,
}

/// A waiting member of a group follows the log closely.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CaughtUp {
    /// The group.
    pub group: GroupId,
    /// Its log.
    pub store: StoreId,
}

/// A Syncing member slows its chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slow {
    /// The chain.
    pub chain: ChainId,
    /// The epoch in which it was seen.
    pub epoch: Epoch,
    /// The member.
    pub store: StoreId,
}

/// The answer to a heartbeat.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct HeartbeatReply {
    /// To whom.
    pub node: NodeId,
    /// To which of its lives; another one ignores it.
    pub life: Life,
    /// When the heartbeat was sent, on the node's clock.
    pub sent: Nanos,
    /// The lease runs until `sent` plus this; 0: none is granted, the one before runs on (R18).
    pub lease: u64,
    /// The newest map: fetch it if it isn't installed.
    pub number: MapNumber,
    /// False: the leader doesn't know this life. Register.
    pub is_known: bool,
}
