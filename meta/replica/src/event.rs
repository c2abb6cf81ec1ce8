//! What goes into a replica and what comes out.

use std::ops::Range;

use wire::meta::{Answer, Mutation, Outcome, Pin, Query, Refusal, SessionGrant};
use wire::{ChunkId, CommitIndex, Epoch, Nanos, SessionId, Status, StoreId};

use crate::message::{Message, with_bytes};
use crate::own_log::RecordNumber;
use crate::view::ChainView;

/// Something happened.
#[derive(Clone, Debug)]
pub enum Event<'a> {
    /// A client asks for something.
    Request(Request),
    /// The chain, at the start and at each change. The driver has stored it durably before: what is prepared is a promise (I4), given to control once
    /// [`Effect::Sealed`] says so; and a head that begins anew must be told the active epoch in which it may have led. A lower epoch than one that was told is ignored. Control
    /// counts a promise for the life that made it: a member that began anew since leaves the acks with the next epoch.
    /// A replica whose configuration names no store has no chain.
    Chain(&'a ChainView),
    /// The node's lease is good until then (R18).
    Lease {
        /// Until then.
        until: Nanos,
    },
    /// Another member says something.
    Message {
        /// The member.
        from: StoreId,
        /// What it says.
        message: Message<&'a [u8]>,
    },
    /// The connection to a member broke: what was sent may not have arrived.
    LinkDown {
        /// The member.
        peer: StoreId,
    },
    /// No further event is at hand: messages to other members leave now.
    Turn,
    /// The log is durable up to and including this record.
    Durable {
        /// The record.
        record: RecordNumber,
    },
    /// The page of the checkpoint was taken over: the next one may come.
    CheckpointPageTaken,
    /// The checkpoint is durable, and found at the next start.
    CheckpointDurable {
        /// Its record.
        record: RecordNumber,
    },
    /// The checkpoint couldn't be written; another one is tried after as much log again.
    CheckpointFailed,
    /// A checkpoint is wanted now, whatever the log's length.
    BeginCheckpoint,
    /// What the log has space for now; it is ample at first. Checkpoints go on whatever it says.
    LogSpace(LogSpace),
    /// A page of a store's inventory, in order of ids.
    ShardInventory {
        /// The store.
        source: u16,
        /// Ids after the one that was asked for.
        ids: &'a [ChunkId],
        /// Whether none follow.
        end: bool,
    },
    /// All stores that may have these chunks have deleted them durably (R24).
    ShardDeleted {
        /// The first.
        first: ChunkId,
        /// How many.
        count: u32,
    },
    /// Time has passed.
    Tick,
    /// A client's connection is gone: its answers aren't wanted any more.
    ClientGone {
        /// The token of its requests.
        client: u64,
    },
}

/// What the log has space for (R17). Whatever it hasn't is refused with `NoSpace` before it is executed, and unremembered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum LogSpace {
    /// Everything.
    #[default]
    Ample,
    /// Removals, and the sessions to make them in; what comes below.
    Short,
    /// The group's upkeep, and ends of sessions.
    Scarce,
    /// Nothing.
    Full,
}

/// A client's request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// The driver's token for the connection.
    pub client: u64,
    /// Correlation id of the request's frame.
    pub correlation: u64,
    /// Not executed after this point; `None`: no deadline.
    pub deadline: Option<Nanos>,
    /// What is asked.
    pub body: RequestBody,
}

/// What a request asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RequestBody {
    /// A new session.
    OpenSession,
    /// A session lives on, with these pins and no others.
    KeepAlive {
        /// The session.
        session: SessionId,
        /// Versions that it reads (R25).
        pins: Vec<Pin>,
    },
    /// A session ends.
    CloseSession {
        /// The session.
        session: SessionId,
    },
    /// A mutating operation.
    Mutate(Mutation),
    /// A read.
    Query(Query),
}

/// What the driver has to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Append this record to the log; several may share a batch. Answer with `Durable`.
    Append {
        /// The record's number, one above the one before.
        record: RecordNumber,
        /// Where its bytes are in [`Effects::bytes`].
        bytes: Range<u32>,
    },
    /// Send a message to another member.
    Send {
        /// The member.
        to: StoreId,
        /// Where it is in [`Effects::messages`].
        message: u32,
    },
    /// Close a client's connection without an answer: what became of its requests can't be known here.
    Disconnect {
        /// The client.
        client: u64,
    },
    /// This replica executed what may never be committed: it ends here. What it appended is still written; then another one is made of its log.
    Restart,
    /// The prepared epoch was told, and everything that was received before is durable: only now the promise may be given. Whoever leads or follows in that epoch,
    /// in this life or in the next, has all of it (I5).
    Sealed {
        /// The epoch.
        epoch: Epoch,
    },
    /// This learner is so close behind its source that it may be made Syncing.
    CaughtUp {
        /// In this epoch.
        epoch: Epoch,
    },
    /// This Syncing member has everything that was there when it joined: it may be made Serving.
    Synced {
        /// In this epoch.
        epoch: Epoch,
    },
    /// This replica does nothing any more: it has met what must not be.
    Stopped(Trouble),
    /// Answer a request.
    Reply {
        /// The request's client.
        client: u64,
        /// The request's correlation id.
        correlation: u64,
        /// The answer's status.
        status: Status,
        /// Where its body is in [`Effects::bodies`].
        body: u32,
    },
    /// Delete these chunks wherever they are, durably; answer with `ShardDeleted` unless they are orphans.
    DeleteChunks {
        /// The first.
        first: ChunkId,
        /// How many.
        count: u32,
        /// Found by the orphan pass: no answer is waited for.
        orphans: bool,
        /// The store in which they were found. It may hold them although it is in none of their chains any more.
        holder: Option<u16>,
    },
    /// Ask a store for the ids it holds that were minted by this group. Answer with `ShardInventory`.
    RequestInventory {
        /// The store.
        source: u16,
        /// Ids after this one.
        after: Option<ChunkId>,
    },
    /// Send `Tick` at this point; an earlier one may be forgotten.
    Arm(Nanos),
    /// Write a page of a checkpoint. Answer with `CheckpointPageTaken`, and after the last one, once it is durable, with `CheckpointDurable`.
    WriteCheckpointPage {
        /// The checkpoint's index.
        index: CommitIndex,
        /// The last record that it contains.
        record: RecordNumber,
        /// The page, from 0.
        number: u32,
        /// Whether it is the last one.
        last: bool,
        /// Where its bytes are in [`Effects::bytes`].
        bytes: Range<u32>,
    },
    /// The wall clock was set by so many nanoseconds; nothing is dropped or reclaimed for a while after a step forward.
    ClockStepped {
        /// Forward, or back.
        nanoseconds: i64,
    },
    /// The log up to and including this record isn't needed any more: two durable checkpoints are beyond it (R15).
    TrimLog {
        /// The record.
        upto: RecordNumber,
    },
}

/// Why a replica stopped. The operator decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// Its log goes on behind this entry otherwise than its upstream's, and it has applied what does (I5).
    Diverged(CommitIndex),
    /// This entry can't be applied to its state.
    Entry(CommitIndex),
    /// The cluster map's generation is below the log's (R20).
    Generation(u16),
}

const _: () = assert!(size_of::<Effect>() <= 64);

/// A reply's body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// Nothing to say.
    Empty,
    /// To `OpenSession`.
    Session(SessionGrant),
    /// To `Mutate`; the outcome's status is the reply's.
    Outcome(Outcome),
    /// To `Query`.
    Answer(Answer),
    /// Why not.
    Refusal(Refusal),
}

/// Effects of one or several events, in order. Owned by the driver, which clears and reuses it.
#[derive(Clone, Debug, Default)]
pub struct Effects {
    /// What to do.
    pub list: Vec<Effect>,
    /// Bytes of entries and pages.
    pub bytes: Vec<u8>,
    /// Bodies of replies.
    pub bodies: Vec<Body>,
    /// Messages to other members.
    pub messages: Vec<Message<Range<u32>>>,
}

impl Effects {
    /// Forgets everything, keeps the memory.
    pub fn clear(&mut self) {
        self.list.clear();
        self.bytes.clear();
        self.bodies.clear();
        self.messages.clear();
    }

    /// The bytes of an entry or page.
    pub fn slice(&self, range: &Range<u32>) -> &[u8] {
        let index = |at: u32| usize::try_from(at).expect("32 bits");
        &self.bytes[index(range.start)..index(range.end)]
    }

    /// A message to another member.
    pub fn message(&self, at: u32) -> Message<&[u8]> {
        with_bytes(&self.messages[usize::try_from(at).expect("32 bits")], |range| self.slice(range))
    }

    pub(crate) fn send(&mut self, to: StoreId, message: Message<Range<u32>>) {
        let at = u32::try_from(self.messages.len()).expect("a driver clears its effects");
        self.messages.push(message);
        self.list.push(Effect::Send { to, message: at });
    }

    /// Where bytes appended since `start` are.
    pub(crate) fn range_since(&self, start: usize) -> Range<u32> {
        let index = |at: usize| u32::try_from(at).expect("a driver clears its effects before 4 GiB");
        index(start)..index(self.bytes.len())
    }

    pub(crate) fn reply(&mut self, client: u64, correlation: u64, status: Status, body: Body) {
        let at = u32::try_from(self.bodies.len()).expect("fewer bodies than waiting answers");
        self.bodies.push(body);
        self.list.push(Effect::Reply { client, correlation, status, body: at });
    }
}
