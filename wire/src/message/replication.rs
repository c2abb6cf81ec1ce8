//! What members of a metadata group's chain say to each other.
//!
//! ```text
//!  downstream                                         upstream
//!     Subscribe (what its log holds) ───────────────►
//!     ◄──────────────── Accepted (where both are one) | Offer (an image instead) | Refused (later)
//!     ◄──────────────── Entries, Entries, …
//!     Progress ─────────────────────────────────────►
//!     FetchPage ─► ◄─ Page                              of an image that was offered
//!  Confirm ─► every other member of the acks ─► Confirmed
//! ```
//! Every message names its epoch, and is ignored in any other one (R1).

use flatbuffers::{FlatBufferBuilder, WIPOffset};
use wire_generated::message_generated as schema;

use super::attributes::{bytes_of, optional_bytes};
use super::{DecodeError, check};
use crate::limits::{REPLICATION_BYTES_MAX, TERMS_MAX};
use crate::{CommitIndex, Epoch};

/// A message between members of a chain; `Bytes` is `&[u8]` on the wire.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Replication<Bytes> {
    /// Asks the upstream for everything behind what the sender has.
    Subscribe(Subscribe),
    /// The sender's log goes on behind `after`, up to which both are one; it is cut there (I5).
    Accepted {
        /// The epoch.
        epoch: Epoch,
        /// The subscription.
        number: u64,
        /// The last entry in common.
        after: CommitIndex,
        /// Entries of earlier epochs end here: whoever has them is in sync.
        base: CommitIndex,
    },
    /// What the subscriber lacks is in memory no more: it fetches an image.
    Offer {
        /// The epoch.
        epoch: Epoch,
        /// The subscription.
        number: u64,
        /// The image's index.
        index: CommitIndex,
    },
    /// Not now: try again.
    Refused {
        /// The epoch of the subscription.
        epoch: Epoch,
        /// The subscription.
        number: u64,
    },
    /// Entries in order, and how far they are.
    Entries(Entries<Bytes>),
    /// What the downstream has.
    Progress(Progress),
    /// Whether the receiver has promised nothing higher, and is active in this epoch (R13).
    Confirm {
        /// The epoch.
        epoch: Epoch,
        /// Of the sender's rounds.
        round: u64,
    },
    /// It is.
    Confirmed {
        /// The epoch.
        epoch: Epoch,
        /// The round.
        round: u64,
    },
    /// Asks for a piece of an image.
    FetchPage {
        /// The epoch.
        epoch: Epoch,
        /// The subscription.
        number: u64,
        /// The piece, from 0, in order.
        piece: u32,
    },
    /// A piece of an image.
    Page(Page<Bytes>),
}

/// A run of entries that one epoch's head made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Term {
    /// The epoch.
    pub epoch: Epoch,
    /// Its first entry.
    pub first: CommitIndex,
}

/// See [`Replication::Subscribe`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subscribe {
    /// The epoch.
    pub epoch: Epoch,
    /// The subscriber's number for it; later ones are higher.
    pub number: u64,
    /// Outside the acks: only what is committed is wanted.
    pub learner: bool,
    /// The last entry of its log.
    pub received: CommitIndex,
    /// The epochs of its newest entries, oldest first, at most [`TERMS_MAX`].
    pub terms: Vec<Term>,
}

/// See [`Replication::Entries`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entries<Bytes> {
    /// The epoch.
    pub epoch: Epoch,
    /// The subscription.
    pub number: u64,
    /// The entry before the first one here.
    pub after: CommitIndex,
    /// Bytes of the first one that came before: entries larger than a message come in parts.
    pub skip: u32,
    /// Durable at the sender and at everyone before it in the chain (R12).
    pub upstream_durable: CommitIndex,
    /// Committed, as far as the sender knows.
    pub committed: CommitIndex,
    /// At most [`REPLICATION_BYTES_MAX`]. Packed: epoch `u64`, length `u32`, bytes; the last one's may end early.
    pub packed: Bytes,
}

/// See [`Replication::Progress`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// The epoch.
    pub epoch: Epoch,
    /// The subscription.
    pub number: u64,
    /// The last entry received.
    pub received: CommitIndex,
    /// The last entry durable at the sender.
    pub durable: CommitIndex,
    /// Committed, as far as the sender knows; the last acker finds it out (R12).
    pub committed: CommitIndex,
}

/// See [`Replication::Page`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page<Bytes> {
    /// The epoch.
    pub epoch: Epoch,
    /// The subscription.
    pub number: u64,
    /// The piece.
    pub piece: u32,
    /// A page of the image ends with it.
    pub ends_page: bool,
    /// The image ends with it.
    pub last: bool,
    /// At most [`REPLICATION_BYTES_MAX`].
    pub bytes: Bytes,
}

const SUBSCRIBE: u8 = 1;
const ACCEPTED: u8 = 2;
const OFFER: u8 = 3;
const REFUSED: u8 = 4;
const ENTRIES: u8 = 5;
const PROGRESS: u8 = 6;
const CONFIRM: u8 = 7;
const CONFIRMED: u8 = 8;
const FETCH_PAGE: u8 = 9;
const PAGE: u8 = 10;

pub(super) fn encode(
    builder: &mut FlatBufferBuilder<'static>,
    message: &Replication<&[u8]>,
) -> WIPOffset<schema::ReplicateRequest<'static>> {
    use Replication as R;
    let bytes = match message {
        R::Entries(Entries { packed: bytes, .. }) | R::Page(Page { bytes, .. }) => {
            assert!(bytes.len() <= REPLICATION_BYTES_MAX, "a message keeps its limit");
            optional_bytes(builder, bytes)
        }
        _ => None,
    };
    let terms = match message {
        R::Subscribe(subscribe) if !subscribe.terms.is_empty() => {
            assert!(subscribe.terms.len() <= TERMS_MAX, "a message keeps its limit");
            let terms = subscribe.terms.iter().map(|term| schema::Term::new(term.epoch.0, term.first.0));
            Some(builder.create_vector_from_iter(terms))
        }
        _ => None,
    };
    let args = |message, epoch: Epoch, number| schema::ReplicateRequestArgs {
        message,
        epoch: epoch.0,
        number,
        ..schema::ReplicateRequestArgs::default()
    };
    let args = match message {
        R::Subscribe(subscribe) => schema::ReplicateRequestArgs {
            learner: subscribe.learner,
            received: subscribe.received.0,
            terms,
            ..args(SUBSCRIBE, subscribe.epoch, subscribe.number)
        },
        R::Accepted { epoch, number, after, base } => {
            schema::ReplicateRequestArgs { after: after.0, base: base.0, ..args(ACCEPTED, *epoch, *number) }
        }
        R::Offer { epoch, number, index } => {
            schema::ReplicateRequestArgs { index: index.0, ..args(OFFER, *epoch, *number) }
        }
        R::Refused { epoch, number } => args(REFUSED, *epoch, *number),
        R::Entries(entries) => schema::ReplicateRequestArgs {
            after: entries.after.0,
            skip: entries.skip,
            durable: entries.upstream_durable.0,
            committed: entries.committed.0,
            bytes,
            ..args(ENTRIES, entries.epoch, entries.number)
        },
        R::Progress(progress) => schema::ReplicateRequestArgs {
            received: progress.received.0,
            durable: progress.durable.0,
            committed: progress.committed.0,
            ..args(PROGRESS, progress.epoch, progress.number)
        },
        R::Confirm { epoch, round } => args(CONFIRM, *epoch, *round),
        R::Confirmed { epoch, round } => args(CONFIRMED, *epoch, *round),
        R::FetchPage { epoch, number, piece } => {
            schema::ReplicateRequestArgs { piece: *piece, ..args(FETCH_PAGE, *epoch, *number) }
        }
        R::Page(page) => schema::ReplicateRequestArgs {
            piece: page.piece,
            ends_page: page.ends_page,
            last: page.last,
            bytes,
            ..args(PAGE, page.epoch, page.number)
        },
    };
    schema::ReplicateRequest::create(builder, &args)
}

pub(super) fn decode(table: schema::ReplicateRequest<'_>) -> Result<Replication<&[u8]>, DecodeError> {
    let (epoch, number, index) = (Epoch(table.epoch()), table.number(), CommitIndex);
    let bytes = bytes_of(table.bytes());
    check::length("bytes between members", bytes.len(), REPLICATION_BYTES_MAX)?;
    Ok(match table.message() {
        SUBSCRIBE => {
            let records = table.terms();
            check::length("terms", records.map_or(0, |records| records.len()), TERMS_MAX)?;
            let term =
                |term: &schema::Term| Term { epoch: Epoch(term.epoch()), first: CommitIndex(term.first()) };
            Replication::Subscribe(Subscribe {
                epoch,
                number,
                learner: table.learner(),
                received: index(table.received()),
                terms: records.iter().flatten().map(term).collect(),
            })
        }
        ACCEPTED => {
            let (after, base) = (index(table.after()), index(table.base()));
            Replication::Accepted { epoch, number, after, base }
        }
        OFFER => Replication::Offer { epoch, number, index: index(table.index()) },
        REFUSED => Replication::Refused { epoch, number },
        ENTRIES => Replication::Entries(Entries {
            epoch,
            number,
            after: index(table.after()),
            skip: table.skip(),
            upstream_durable: index(table.durable()),
            committed: index(table.committed()),
            packed: bytes,
        }),
        PROGRESS => Replication::Progress(Progress {
            epoch,
            number,
            received: index(table.received()),
            durable: index(table.durable()),
            committed: index(table.committed()),
        }),
        CONFIRM => Replication::Confirm { epoch, round: number },
        CONFIRMED => Replication::Confirmed { epoch, round: number },
        FETCH_PAGE => Replication::FetchPage { epoch, number, piece: table.piece() },
        PAGE => Replication::Page(Page {
            epoch,
            number,
            piece: table.piece(),
            ends_page: table.ends_page(),
            last: table.last(),
            bytes,
        }),
        _ => return Err(DecodeError::Unknown("message between members")),
    })
}
