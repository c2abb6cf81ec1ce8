//! A request's life: what it wants, how far it is, which copies of it were sent, and how it went so far.
//!
//! ```text
//! Ready ──▶ AwaitMap · AwaitSession · AwaitSequence · AwaitWindow ──▶ AwaitLink ──▶ (Sending) ──▶ AwaitReply ──▶ finished
//!   ▲                                                                                    │             │
//!   └──────────────────────────────── Backoff ◀──────── broken, busy, elsewhere ─────────┴─────────────┘
//! ```
//! At its deadline it is finished wherever it is. A chunk's deadline moves while chunks move on its link: on a slow link a window of them
//! takes longer than one may take that stands still.

use std::collections::BTreeMap;
use std::sync::Arc;

use wire::meta::{Mutation, Operation, Query};
use wire::{ChunkId, GroupId, Nanos, Sequence, SessionId, Slot, Status};

use super::effect::{Done, Failure, GetCall, LinkNumber, Ticket, UploadId};
use super::route::Way;
use crate::error::UnavailableReason;

/// A request of the core, its own included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct RequestId(pub(super) u64);

#[derive(Debug)]
pub(super) struct Request {
    /// `None`: the core's own, or its caller lost interest.
    pub(super) ticket: Option<Ticket>,
    pub(super) what: What,
    pub(super) deadline: Nanos,
    /// How long a chunk waits while nothing moves; 0 for what has one deadline only.
    pub(super) patience: u64,
    /// The deadline of a chunk moves, up to here, while chunks move.
    pub(super) limit: Nanos,
    pub(super) state: State,
    pub(super) copies: Copies,
    /// Tries so far; the pause between them grows with it.
    pub(super) retries: u32,
    pub(super) trouble: Trouble,
    /// Whether its bytes are counted in the window.
    pub(super) admitted: bool,
}

#[derive(Debug)]
pub(super) enum What {
    Map,
    Query { group: GroupId, query: Option<Query> },
    Mutate(Mutate),
    OpenUpload { group: GroupId },
    Put(Put),
    Get(Get),
    ShardState { address: Arc<str> },
    // The core's own.
    MapPage,
    OpenSession { group: GroupId },
    KeepAlive { session: SessionId },
    CloseSession { session: SessionId },
}

#[derive(Debug)]
pub(super) struct Mutate {
    pub(super) group: GroupId,
    pub(super) upload: Option<UploadId>,
    /// Session and sequence are valid where `numbered`; they stay the same for every copy (I7).
    pub(super) mutation: Option<Mutation>,
    pub(super) session: SessionId,
    pub(super) sequence: Sequence,
    pub(super) numbered: bool,
}

impl Mutate {
    /// Whether this result says that the chunks sent before are in a file now.
    pub(super) fn has_named_chunks(&self, result: Result<&Done, &Failure>) -> bool {
        let is_stage = |mutation: &Mutation| matches!(mutation.operation, Operation::Stage { .. });
        let is_executed = matches!(result, Ok(Done::Outcome(outcome)) if outcome.status == Status::Ok);
        is_executed && !self.mutation.as_ref().is_some_and(is_stage)
    }
}

#[derive(Debug)]
pub(super) struct Put {
    pub(super) upload: UploadId,
    pub(super) id: ChunkId,
    pub(super) slot: Slot,
    pub(super) length: u32,
    /// Valid once `leaves` are there.
    pub(super) root: u64,
    pub(super) leaves: Vec<u64>,
    /// Bytes of this copy that were sent.
    pub(super) sent: u32,
    /// How often a server said that the bytes arrived damaged.
    pub(super) damaged: u32,
}

#[derive(Debug)]
pub(super) struct Get {
    pub(super) call: GetCall,
    pub(super) slot: Option<Slot>,
    /// Bytes of the answer that are in the slot, from the first block on.
    pub(super) received: u32,
    /// Bytes of the payload that is arriving.
    pub(super) arriving: u32,
    pub(super) more: bool,
    pub(super) proof: Vec<u64>,
    /// Replicas that failed for good.
    pub(super) failed: Vec<Arc<str>>,
    /// The replica asked last.
    pub(super) asked: Option<Arc<str>>,
    /// The gravest of what the failed ones said.
    pub(super) worst: Worst,
    /// Answers of the replica asked last that didn't match the root.
    pub(super) mismatches: u32,
    /// When the present copy was sent.
    pub(super) sent_at: Nanos,
    /// A second copy of this one, at another replica.
    pub(super) hedge: Option<RequestId>,
    /// This is the second copy of that one.
    pub(super) hedge_of: Option<RequestId>,
}

impl Get {
    pub(super) fn new(call: GetCall) -> Self {
        assert!(call.range.start < call.range.end && call.range.end <= call.length, "a range of the chunk");
        Self {
            call,
            slot: None,
            received: 0,
            arriving: 0,
            more: false,
            proof: Vec::new(),
            failed: Vec::new(),
            asked: None,
            worst: Worst::Missing,
            mismatches: 0,
            sent_at: Nanos(0),
            hedge: None,
            hedge_of: None,
        }
    }
}

/// What replicas without the right bytes said, mildest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Worst {
    Missing,
    StoreFailed,
    Corrupt,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Ready,
    AwaitMap,
    AwaitSession,
    AwaitSequence,
    AwaitWindow,
    AwaitLink(LinkNumber),
    Sending(LinkNumber, u64),
    AwaitReply(LinkNumber, u64),
    Backoff,
}

/// Copies of a request that went out: the measure of what is known about its outcome (R14).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Copies {
    pub(super) sent: u32,
    /// Those that were answered "this copy was not executed".
    pub(super) not_executed: u32,
}

impl Copies {
    /// Whether a copy is out there of which nobody knows.
    pub(super) fn is_uncertain(self) -> bool {
        assert!(self.not_executed <= self.sent, "a copy is answered once");
        self.sent > self.not_executed
    }
}

/// What went wrong last; what the caller is told at the deadline.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Trouble {
    None,
    Busy(Arc<str>),
    Unavailable(Arc<str>, UnavailableReason),
    Silence(Arc<str>),
}

impl Trouble {
    /// Whether another map may mend it.
    pub(super) fn is_about_the_way(&self) -> bool {
        matches!(self, Self::Unavailable(..) | Self::Silence(_))
    }

    /// The failure of a request that ran out of time. `address`: whom it was waiting for.
    pub(super) fn into_failure(self, address: Arc<str>) -> Failure {
        match self {
            Self::None => Failure::Timeout { address },
            Self::Busy(address) => Failure::Busy { address },
            Self::Unavailable(address, reason) => Failure::Unavailable { address, reason },
            Self::Silence(address) => Failure::Timeout { address },
        }
    }
}

impl What {
    /// Whose answer it waits for; `None`: the map doesn't say.
    pub(super) fn way(&self) -> Option<Way> {
        match self {
            Self::Put(put) => Some(Way::Head(put.id)),
            // Whoever names a replica means that one.
            Self::Get(get) => get.call.replica.is_none().then_some(Way::Reader(get.call.id)),
            Self::Query { group, .. } => Some(Way::GroupTail(*group)),
            Self::Mutate(Mutate { group, .. }) | Self::OpenSession { group } => Some(Way::GroupHead(*group)),
            Self::KeepAlive { session } | Self::CloseSession { session } => {
                Some(Way::GroupHead(session.group()))
            }
            Self::Map | Self::OpenUpload { .. } | Self::ShardState { .. } | Self::MapPage => None,
        }
    }

    /// Bytes of the window that it takes, 0 for what isn't about chunks' bytes.
    pub(super) fn window_bytes(&self) -> u64 {
        match self {
            Self::Put(put) => u64::from(put.length),
            Self::Get(get) => u64::from(get.call.range.end - get.call.range.start),
            _ => 0,
        }
    }
}

#[derive(Debug, Default)]
pub(super) struct Requests {
    table: BTreeMap<RequestId, Request>,
    tickets: BTreeMap<Ticket, RequestId>,
    last_id: u64,
}

impl Requests {
    pub(super) fn insert(&mut self, request: Request) -> RequestId {
        self.last_id += 1;
        let id = RequestId(self.last_id);
        if let Some(ticket) = request.ticket {
            let before = self.tickets.insert(ticket, id);
            assert!(before.is_none(), "a ticket is used once at a time");
        }
        self.table.insert(id, request);
        id
    }

    /// Whether a request pauses because of where it has to go.
    pub(super) fn any_astray(&self) -> bool {
        let is_astray =
            |request: &Request| request.state == State::Backoff && request.trouble.is_about_the_way();
        self.table.values().any(is_astray)
    }

    pub(super) fn get(&mut self, id: RequestId) -> Option<&mut Request> {
        self.table.get_mut(&id)
    }

    pub(super) fn remove(&mut self, id: RequestId) -> Option<Request> {
        let request = self.table.remove(&id)?;
        if let Some(ticket) = request.ticket {
            self.tickets.remove(&ticket);
        }
        Some(request)
    }

    pub(super) fn of_ticket(&self, ticket: Ticket) -> Option<RequestId> {
        self.tickets.get(&ticket).copied()
    }

    /// The caller lost interest; the request goes on.
    pub(super) fn detach(&mut self, id: RequestId) {
        if let Some(request) = self.table.get_mut(&id)
            && let Some(ticket) = request.ticket.take()
        {
            self.tickets.remove(&ticket);
        }
    }

    pub(super) fn in_state(&self, state: State) -> Vec<RequestId> {
        let matching = self.table.iter().filter(|(_, request)| request.state == state);
        matching.map(|(id, _)| *id).collect()
    }

    /// Reads that have waited longer than `patience` for one replica and were asked of no second one.
    pub(super) fn slow_gets(&self, now: Nanos, patience: u64) -> Vec<RequestId> {
        let is_slow = |request: &Request| match (&request.what, request.state) {
            (What::Get(get), State::AwaitReply(..)) => {
                get.hedge.is_none()
                    && get.hedge_of.is_none()
                    && get.call.replica.is_none()
                    && now.since(get.sent_at) >= patience
            }
            _ => false,
        };
        self.table.iter().filter(|(_, request)| is_slow(request)).map(|(id, _)| *id).collect()
    }

    pub(super) fn all(&self) -> Vec<RequestId> {
        self.table.keys().copied().collect()
    }

    pub(super) fn len(&self) -> usize {
        self.table.len()
    }
}
