//! What members of a chain say to each other, as [`wire::message::Replication`] has it, and when it counts.
//!
//! Every message names its epoch, and is ignored in any other one (R1): `chain.rs:acts_in`. Those of a subscription carry its number, so that what is left of an
//! earlier one, or of an earlier connection, is told apart. Messages may be lost, repeated and overtaken: all that they report only grows, and what
//! isn't acknowledged is sent again.

pub use wire::message::Replication as Message;
pub(crate) use wire::message::{Entries, Page, Progress, Subscribe};

/// The same message with its bytes looked up: they are a range of [`Effects::bytes`](crate::Effects::bytes) where it leaves.
pub(crate) fn with_bytes<'a, Bytes, Other>(
    message: &'a Message<Bytes>,
    look_up: impl FnOnce(&'a Bytes) -> Other,
) -> Message<Other> {
    match message {
        Message::Subscribe(subscribe) => Message::Subscribe(subscribe.clone()),
        Message::Accepted { epoch, number, after, base } => {
            Message::Accepted { epoch: *epoch, number: *number, after: *after, base: *base }
        }
        Message::Offer { epoch, number, index } => {
            Message::Offer { epoch: *epoch, number: *number, index: *index }
        }
        Message::Refused { epoch, number } => Message::Refused { epoch: *epoch, number: *number },
        Message::Entries(entries) => Message::Entries(Entries {
            epoch: entries.epoch,
            number: entries.number,
            after: entries.after,
            skip: entries.skip,
            upstream_durable: entries.upstream_durable,
            committed: entries.committed,
            packed: look_up(&entries.packed),
        }),
        Message::Progress(progress) => Message::Progress(*progress),
        Message::Confirm { epoch, round } => Message::Confirm { epoch: *epoch, round: *round },
        Message::Confirmed { epoch, round } => Message::Confirmed { epoch: *epoch, round: *round },
        Message::FetchPage { epoch, number, piece } => {
            Message::FetchPage { epoch: *epoch, number: *number, piece: *piece }
        }
        Message::Page(page) => Message::Page(Page {
            epoch: page.epoch,
            number: page.number,
            piece: page.piece,
            ends_page: page.ends_page,
            last: page.last,
            bytes: look_up(&page.bytes),
        }),
    }
}
