//! What members of a chain say to each other.
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
//! Every message names its epoch, and is ignored in any other one (R1). Those of a subscription carry its number, so that what is left of an earlier one, or
//! of an earlier connection, is told apart. Messages may be lost, repeated and overtaken: all that they report only grows, and what isn't acknowledged
//! is sent again.

use wire::{CommitIndex, Epoch};

use crate::terms::Term;

/// A message; `Bytes` is `&[u8]` where it arrives, and a range of [`Effects::bytes`](crate::Effects::bytes) where it leaves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message<Bytes> {
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

/// See [`Message::Subscribe`].
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
    /// The epochs of its newest entries, oldest first, at most [`TERMS_MAX`](crate::TERMS_MAX).
    pub terms: Vec<Term>,
}

/// See [`Message::Entries`].
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
    /// Packed: epoch `u64`, length `u32`, bytes; the last one's may end early.
    pub packed: Bytes,
}

/// See [`Message::Progress`].
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

/// See [`Message::Page`].
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
    /// Its bytes.
    pub bytes: Bytes,
}

impl<Bytes> Message<Bytes> {
    /// The same message with its bytes looked up.
    pub fn map<Other>(&self, look_up: impl FnOnce(&Bytes) -> Other) -> Message<Other> {
        match self {
            Self::Subscribe(subscribe) => Message::Subscribe(subscribe.clone()),
            Self::Accepted { epoch, number, after, base } => {
                Message::Accepted { epoch: *epoch, number: *number, after: *after, base: *base }
            }
            Self::Offer { epoch, number, index } => {
                Message::Offer { epoch: *epoch, number: *number, index: *index }
            }
            Self::Refused { epoch, number } => Message::Refused { epoch: *epoch, number: *number },
            Self::Entries(entries) => Message::Entries(Entries {
                epoch: entries.epoch,
                number: entries.number,
                after: entries.after,
                skip: entries.skip,
                upstream_durable: entries.upstream_durable,
                committed: entries.committed,
                packed: look_up(&entries.packed),
            }),
            Self::Progress(progress) => Message::Progress(*progress),
            Self::Confirm { epoch, round } => Message::Confirm { epoch: *epoch, round: *round },
            Self::Confirmed { epoch, round } => Message::Confirmed { epoch: *epoch, round: *round },
            Self::FetchPage { epoch, number, piece } => {
                Message::FetchPage { epoch: *epoch, number: *number, piece: *piece }
            }
            Self::Page(page) => Message::Page(Page {
                epoch: page.epoch,
                number: page.number,
                piece: page.piece,
                ends_page: page.ends_page,
                last: page.last,
                bytes: look_up(&page.bytes),
            }),
        }
    }

    /// The epoch that it belongs to.
    pub fn epoch(&self) -> Epoch {
        match self {
            Self::Subscribe(Subscribe { epoch, .. })
            | Self::Accepted { epoch, .. }
            | Self::Offer { epoch, .. }
            | Self::Refused { epoch, .. }
            | Self::Entries(Entries { epoch, .. })
            | Self::Progress(Progress { epoch, .. })
            | Self::Confirm { epoch, .. }
            | Self::Confirmed { epoch, .. }
            | Self::FetchPage { epoch, .. }
            | Self::Page(Page { epoch, .. }) => *epoch,
        }
    }
}
