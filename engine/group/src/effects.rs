//! What a member asks of its driver.

use std::sync::Arc;

use journal::log::LogLoss;
use journal::{IoEffects, OpenError};
use replica::{RestoreError, Trouble};
use thiserror::Error;
use wire::{CommitIndex, Epoch, Nanos, Timestamp};

/// A connection, as the driver numbers it; never reused within a process. Clients' and the member's own share the numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Link(pub u64);

/// Time as the driver reads it before each event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Clock {
    /// Monotonic: how long something takes.
    pub now: Nanos,
    /// The wall's, which goes into the log.
    pub wall: Timestamp,
}

/// Why a member ends a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseReason {
    /// The peer broke the protocol.
    Protocol,
    /// The peer belongs to another cluster, or speaks no version that is spoken here.
    Mismatch,
    /// More connections than the limit.
    TooMany,
    /// A store or a member that refused to talk, or has another address now.
    Redial,
    /// A client whose requests this member can't answer: what became of them is for others to know (R14).
    Deposed,
}

/// A frame to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Send {
    /// To whom.
    pub link: Link,
    /// Prefix and message in [`Effects::bytes`].
    pub head: (u32, u32),
}

/// A connection that the member wants; answered by [`Member::on_dialled`](crate::Member::on_dialled) at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dial {
    /// The store, by its index in the map.
    pub peer: u16,
    /// `host:port`.
    pub address: Arc<str>,
}

/// Why a member can't serve. The operator decides (R29).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum OpenFailure {
    /// The log can't be opened.
    #[error("{0}")]
    Log(OpenError),
    /// What it holds can't be applied.
    #[error("{0}")]
    Restore(RestoreError),
}

/// What a member says about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Note {
    /// It serves.
    Opened {
        /// The last entry.
        committed: CommitIndex,
        /// Whether the last life ended in order.
        was_clean: bool,
    },
    /// It serves although durable entries behind the last one are gone, as the operator accepted.
    Lost {
        /// The first entry that may be among them.
        from: CommitIndex,
        /// What is known of them.
        loss: LogLoss,
    },
    /// It never will.
    OpenFailed(OpenFailure),
    /// Recovery came upon a damaged checkpoint, and goes on with the one before.
    CheckpointDamaged,
    /// A checkpoint is durable.
    CheckpointDone(CommitIndex),
    /// A checkpoint was given up.
    CheckpointFailed,
    /// Chunks are to be deleted from the stores.
    Deleting {
        /// They were found by the orphan pass.
        orphans: bool,
    },
    /// So many deletes or inventories wait for this store that further ones are dropped; the group asks again later.
    StoreSilent {
        /// The store, by its index in the map.
        peer: u16,
    },
    /// The wall clock was set by so many nanoseconds, forward or back.
    ClockStepped {
        /// By how many.
        nanoseconds: i64,
    },
    /// A write or flush failed: nothing is answered any more.
    Fenced,
    /// The prepared epoch's promise may be given to control: what it seals is durable.
    Sealed {
        /// The epoch.
        epoch: Epoch,
    },
    /// This learner has caught up: control may make it Syncing.
    CaughtUp {
        /// In this epoch.
        epoch: Epoch,
    },
    /// This Syncing member has what was there when it joined: control may make it Serving.
    Synced {
        /// In this epoch.
        epoch: Epoch,
    },
    /// It was deposed with entries that may never be committed. What it logged is written, then [`Ended`](Self::Ended) follows; the driver opens the log again
    /// and hands it to [`Member::restart`](crate::Member::restart).
    Restarting,
    /// It has met what must not be, and does nothing any more. The operator decides.
    Stopped(Trouble),
    /// It has ended.
    Ended,
}

const _: () = assert!(size_of::<Send>() <= 64 && size_of::<Note>() <= 64);

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
    /// The log's I/O.
    pub io: IoEffects,
    /// A tick is wanted at this time; it replaces the one before.
    pub deadline: Option<Nanos>,
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
        self.notes.clear();
    }

    /// A frame whose head `encode` appends.
    pub(crate) fn send(&mut self, link: Link, encode: impl FnOnce(&mut Vec<u8>)) {
        let position = |bytes: &[u8]| u32::try_from(bytes.len()).expect("cleared after each event");
        let start = position(&self.bytes);
        encode(&mut self.bytes);
        self.sends.push(Send { link, head: (start, position(&self.bytes)) });
    }
}

/// What every step works with.
pub(crate) struct Turn<'a, M> {
    pub(crate) clock: Clock,
    pub(crate) memory: &'a mut M,
    pub(crate) effects: &'a mut Effects,
}
