//! What goes into the membership and what comes out.

use placement::ClusterMap;
use wire::control::{
    Answer, ChainId, Command, Heartbeat, HeartbeatReply, Life, Registration, RegistrationReply,
};
use wire::map::MapDelta;
use wire::{MapNumber, NodeId, StoreId};

/// Something happened.
#[derive(Clone, Copy, Debug)]
pub enum Event<'a> {
    /// This voter leads, in a term of its own whose first entry it has applied: nothing of an earlier term is still to come.
    Elected,
    /// It doesn't lead any more. Comes before `Applied` of anything that a later leader proposed.
    Deposed {
        /// Who does, where that is known.
        leader: Option<NodeId>,
    },
    /// The committed map, after each change and once at the start. Comes to every voter.
    Applied(&'a ClusterMap),
    /// The change that leads to this map, proposed by this leader, isn't going to be applied: [`super::apply`] refused it, or it was lost.
    Dropped {
        /// The map.
        number: MapNumber,
    },
    /// A node introduces itself. Answered with [`Effect::Registered`].
    Registered {
        /// The driver's, for the answer.
        token: u64,
        /// What it says.
        registration: &'a Registration,
    },
    /// A node says that it lives. Answered with [`Effect::Reply`].
    Heartbeat(&'a Heartbeat),
    /// A majority has confirmed this leader's term, each after the round began (R18).
    Confirmed {
        /// The round. Nothing follows from it for any other.
        round: u64,
    },
    /// An operator wants something. Answered with [`Effect::Answer`].
    Command {
        /// The driver's, for the answer.
        token: u64,
        /// What.
        command: &'a Command,
    },
    /// The control group's voters as they are, after the election and after each change of them.
    Voters(&'a [u64]),
    /// Time has passed.
    Tick,
}

/// What the driver has to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Get this change committed. At most one is under way.
    Propose(Box<MapDelta>),
    /// Have a majority confirm this leader's term; whoever confirms does so after this (R18). A lone voter's is confirmed at once.
    ConfirmLeadership {
        /// Answer with `Confirmed`.
        round: u64,
    },
    /// Answer a heartbeat.
    Reply(HeartbeatReply),
    /// Answer a registration.
    Registered {
        /// The registration's.
        token: u64,
        /// The answer.
        reply: RegistrationReply,
    },
    /// Answer a command.
    Answer {
        /// The command's.
        token: u64,
        /// The answer.
        answer: Answer,
    },
    /// Send `Tick` at this point; an earlier one may be forgotten.
    Arm(wire::Nanos),
    /// Change who votes, by joint consensus; `Voters` says when it is done. Said again while it isn't.
    ChangeVoters {
        /// To come.
        add: Vec<(NodeId, u64)>,
        /// To go.
        remove: Vec<u64>,
    },
    /// For the log.
    Note(Note),
}

/// What is worth a line in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Note {
    /// A node has registered.
    NodeRegistered {
        /// Which.
        node: NodeId,
        /// Its life.
        life: Life,
    },
    /// A node's lease has run out.
    NodeDead(NodeId),
    /// A store is older than what is known of it (R34).
    StoreStale(StoreId),
    /// A chain has no serving member, and none can be made one without an operator.
    ChainStuck(ChainId),
    /// Two nodes don't reach each other.
    LinkSuspect {
        /// The one.
        one: NodeId,
        /// The other.
        other: NodeId,
    },
    /// A change of the map wasn't applied.
    ChangeDropped(MapNumber),
    /// Replicas can't be placed.
    Unplaceable(placement::PlanError),
}

/// Effects of one or several events, in order. Owned by the driver, which clears and reuses it.
#[derive(Clone, Debug, Default)]
pub struct Effects {
    /// What to do.
    pub list: Vec<Effect>,
}

impl Effects {
    /// Forgets everything, keeps the memory.
    pub fn clear(&mut self) {
        self.list.clear();
    }

    pub(crate) fn push(&mut self, effect: Effect) {
        self.list.push(effect);
    }

    pub(crate) fn note(&mut self, note: Note) {
        self.list.push(Effect::Note(note));
    }
}
