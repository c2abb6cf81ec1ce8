//! The one bounded verification that every message passes before anything in it is read.

use flatbuffers::{Follow, Verifiable, VerifierOptions};

use super::DecodeError;
use crate::limits::{MESSAGE_APPARENT_BYTES_MAX, MESSAGE_BYTES_MAX, MESSAGE_DEPTH_MAX, MESSAGE_TABLES_MAX};

/// The root table of `message`. Its shape is right, and its time and memory are bounded; its values are not checked.
pub(super) fn root<'a, T>(message: &'a [u8]) -> Result<T, DecodeError>
where
    T: Follow<'a, Inner = T> + Verifiable + 'a,
{
    if message.len() > MESSAGE_BYTES_MAX {
        return Err(DecodeError::TooLarge("message"));
    }
    flatbuffers::root_with_opts::<T>(&options(), message).map_err(|_| DecodeError::Malformed)
}

fn options() -> VerifierOptions {
    VerifierOptions {
        max_depth: MESSAGE_DEPTH_MAX,
        max_tables: MESSAGE_TABLES_MAX,
        max_apparent_size: MESSAGE_APPARENT_BYTES_MAX,
        ignore_missing_null_terminator: false,
    }
}
