//! Why bytes are not a message.

use thiserror::Error;

use crate::Status;

/// Why a message can't be used. The frame's head checksum held, so the peer sent it so: the receiver answers with
/// [`status`](Self::status) and may keep the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum DecodeError {
    /// Not a FlatBuffers message of this kind, or beyond the verifier's limits.
    #[error("not a well-formed message")]
    Malformed,
    /// A field that this message needs is absent.
    #[error("{0} is missing")]
    Missing(&'static str),
    /// A field's value has no meaning.
    #[error("{0} has no valid value")]
    Invalid(&'static str),
    /// A field is over a named limit.
    #[error("{0} is over its limit")]
    TooLarge(&'static str),
    /// A variant that this version doesn't know.
    #[error("{0} is of a kind that this version doesn't know")]
    Unknown(&'static str),
    /// A format newer than this version can read.
    #[error("{what} has format version {found}, this build reads up to {known}: upgrade this side")]
    NewerFormat {
        /// What has it.
        what: &'static str,
        /// Its version.
        found: u16,
        /// The highest that is known here.
        known: u16,
    },
}

impl DecodeError {
    /// What the peer is told.
    pub fn status(self) -> Status {
        match self {
            Self::Malformed | Self::Missing(_) | Self::Invalid(_) => Status::BadRequest,
            Self::TooLarge(_) => Status::TooLarge,
            Self::Unknown(_) | Self::NewerFormat { .. } => Status::Unsupported,
        }
    }
}
