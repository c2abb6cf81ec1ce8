//! What the metadata log is opened with, and what its failure means to the operator.

use std::io;
use std::path::Path;

use group::OpenFailure;
use journal::log::{Log, LogConfig};
use journal::{Expected, Format, Geometry, Identity, Kind, LOG_SEGMENT_BYTES, OpenError};
use wire::StoreId;

use crate::error::Error;
use crate::meta_thread::MetaStart;
use crate::progress::Refusal;

/// Free log segments kept zeroed ahead of use: four.
const PREZERO_BYTES: u64 = 4 * LOG_SEGMENT_BYTES as u64;
/// Log beside the checkpoints, at most.
const LOG_BYTES_MAX: u64 = 2 << 30;

/// The log that the replica is started on: opened, or formatted first.
pub(crate) fn open_log(start: &MetaStart) -> Log {
    let config = LogConfig {
        capacity_bytes: capacity_bytes(start.settings.memory_budget),
        device_bytes: start.device_bytes,
        prezero_bytes: PREZERO_BYTES,
        accept_data_loss: start.accept_data_loss,
        life_random: u16::from_le_bytes(runtime::clock::random_bytes()),
        takes_over: start.takes_over,
    };
    let (cluster, node, unit) = (start.identity.cluster, start.identity.node, start.settings.group.0);
    if !start.format {
        let known = Some(start.identity.metadata).filter(|store| *store != StoreId([0; 16]));
        return Log::open(config, Expected { cluster: Some(cluster), store: known, node, unit });
    }
    let store = start.identity.metadata;
    let format = Format {
        identity: Identity { cluster, store, node, unit },
        geometry: Geometry::new(LOG_SEGMENT_BYTES).expect("the design's segment size"),
        secret: u64::from_le_bytes(runtime::clock::random_bytes()),
        index_key: u64::from_le_bytes(runtime::clock::random_bytes()),
    };
    Log::format(config, format)
}

/// A file whose length isn't known isn't an empty one: it would be taken for one that was never formatted.
pub(crate) fn length_of(path: &Path, length: io::Result<u64>) -> Result<u64, Error> {
    length.map_err(|source| Error::file("tell the length of", path, source))
}

/// Why the replica doesn't serve, and what to do.
pub(crate) fn open_failure(path: &Path, failure: &OpenFailure) -> Refusal {
    let next = match failure {
        OpenFailure::Log(error) if error.may_be_accepted(Kind::Records) => {
            "; names and versions would be lost, so the node doesn't start: restore the file from a backup, or accept the loss with \
             `catena server recover --accept-data-loss --config FILE`"
        }
        // What the log says is only of use with the state that it goes on from.
        OpenFailure::Log(OpenError::CheckpointsDamaged | OpenError::CheckpointsTruncated { .. }) => {
            "; without one nothing of it can be recovered: restore the file from a backup"
        }
        OpenFailure::Log(OpenError::CheckpointsUnreadable { .. }) => {
            "; without one nothing of it can be recovered: mend the disk and start again, or restore the file from a backup"
        }
        OpenFailure::Log(OpenError::SuperblocksDamaged | OpenError::Unreadable { .. }) => {
            "; without a superblock nothing of it can be recovered: mend the disk, or restore the file from a backup"
        }
        OpenFailure::Log(OpenError::NotFormatted | OpenError::Foreign | OpenError::WrongIdentity { .. }) => {
            "; is the right disk mounted? Catena never formats by itself"
        }
        OpenFailure::Log(_) => "",
        // Nothing that could be cut off would mend these.
        OpenFailure::Restore(replica::RestoreError::Generation(..)) => "; put the newest `cluster.map` back",
        OpenFailure::Restore(_) => {
            "; the log and its checkpoint don't belong together, or another version wrote them: restore the file from a backup"
        }
    };
    let is_damage = match failure {
        OpenFailure::Log(error) => error.is_damage(),
        // The log is whole; the file that it doesn't fit to is another.
        OpenFailure::Restore(replica::RestoreError::Generation(..)) => false,
        OpenFailure::Restore(_) => true,
    };
    Refusal { path: Some(path.into()), is_damage, reason: format!("{failure}{next}") }
}

/// Two checkpoints of a full group, and the log between them.
fn capacity_bytes(memory_budget: u64) -> u64 {
    let segment = u64::from(LOG_SEGMENT_BYTES);
    (4 * memory_budget + LOG_BYTES_MAX).next_multiple_of(segment)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A length that couldn't be told counted as 0: the log was "not formatted", and a fresh one would have been written over it.
    #[test]
    fn a_length_that_cant_be_told_fails_the_start_by_name() {
        let path = Path::new("metadata.log");
        assert_eq!(length_of(path, Ok(7)).ok(), Some(7));
        let error = length_of(path, Err(io::Error::other("stale handle"))).expect_err("no length");
        assert_eq!(error.to_string(), "metadata.log: cannot tell the length of it: stale handle");
    }

    #[test]
    fn an_open_failure_says_what_to_do() {
        for (failure, expected) in [
            (
                OpenFailure::Log(OpenError::Truncated { length: 1, needed: 2 }),
                "accept the loss with `catena server recover",
            ),
            // It was told to accept the loss, and then told the same again.
            (
                OpenFailure::Log(OpenError::CheckpointsDamaged),
                "nothing of it can be recovered: restore the file from a backup",
            ),
            (
                OpenFailure::Log(OpenError::CheckpointsTruncated { length: 1 }),
                "nothing of it can be recovered: restore the file from a backup",
            ),
            (
                OpenFailure::Log(OpenError::CheckpointsUnreadable { offset: 1 << 20 }),
                "mend the disk and start again, or restore",
            ),
            (OpenFailure::Log(OpenError::SuperblocksDamaged), "restore the file from a backup"),
            (OpenFailure::Log(OpenError::NotFormatted), "never formats by itself"),
            (OpenFailure::Log(OpenError::Newer { found: 9 }), "format version 9 is newer"),
            (OpenFailure::Restore(replica::RestoreError::Mixed), "restore the file from a backup"),
        ] {
            let text = open_failure(Path::new("metadata.log"), &failure).reason;
            assert!(text.contains(expected), "{text}");
            let is_recoverable =
                matches!(failure, OpenFailure::Log(error) if error.may_be_accepted(Kind::Records));
            assert_eq!(text.contains("server recover"), is_recoverable, "{text}");
        }
    }
}
