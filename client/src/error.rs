//! What can go wrong, as a caller sees it: each variant says to what, and who recovers.
//!
//! Variants carry operands; [`Error::kind`] groups them for exit codes and retries. Nothing here is retried by the caller for the
//! library's sake: whatever could be tried again safely was tried until the deadline.

use std::fmt;

use thiserror::Error;
use wire::{ChunkId, InodeId, PROTOCOL_VERSION, Status, Version};

/// What an operation was about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subject {
    /// The cluster as a whole.
    Cluster,
    /// A volume.
    Volume(String),
    /// A place in a volume.
    Path {
        /// The volume's name.
        volume: String,
        /// The directory the path begins at; [`InodeId::ROOT`] for a whole path.
        directory: InodeId,
        /// The path, as it was given.
        path: Vec<u8>,
    },
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cluster => f.write_str("the cluster"),
            Self::Volume(name) => write!(f, "/{name}"),
            Self::Path { volume, directory, path } => {
                write!(f, "/{volume}")?;
                if *directory != InodeId::ROOT {
                    write!(f, "/[inode {directory}]")?;
                }
                let path = path.strip_prefix(b"/").unwrap_or(path);
                if path.is_empty() { Ok(()) } else { write!(f, "/{}", String::from_utf8_lossy(path)) }
            }
        }
    }
}

/// Why a server could not be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Error)]
pub enum UnavailableReason {
    /// The address means nothing here: a name that doesn't resolve, or no `host:port`.
    #[error("the address can't be resolved")]
    Address,
    /// Nobody accepts connections there.
    #[error("no connection")]
    Connect,
    /// The connection broke, again and again.
    #[error("the connection broke")]
    Disconnected,
    /// What answers isn't a Catena server, or the link damages frames.
    #[error("what answers doesn't speak the protocol")]
    Protocol,
    /// Another cluster answers.
    #[error("another cluster answers there")]
    WrongCluster,
    /// No protocol version in common: upgrade one of the two.
    #[error("it doesn't speak this client's protocol version, {PROTOCOL_VERSION}: upgrade one of the two")]
    Version,
    /// What answers speaks another protocol version: upgrade the older side.
    #[error("it speaks protocol version {server}, this client {PROTOCOL_VERSION}: upgrade the older one")]
    OtherVersion {
        /// The server's.
        server: u16,
    },
    /// It answers that it doesn't serve now (it starts, drains or is fenced).
    #[error("it isn't serving now")]
    NotServing,
    /// It answers that it has as many connections as it may have: `limits.connections` of its configuration. Tried again until the deadline.
    #[error("it has as many connections as its limits.connections allows")]
    Connections,
    /// The cluster map names nobody who is responsible.
    #[error("the cluster map names nobody responsible")]
    NoRoute,
    /// This client is shut down.
    #[error("this client is shut down")]
    Shutdown,
}

/// An operation's failure.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Error {
    /// It doesn't exist. The caller decides.
    #[error("{what} doesn't exist")]
    NotFound {
        /// What was looked for.
        what: Subject,
        /// How many components of its path exist.
        depth: u16,
    },
    /// It exists already. The caller decides.
    #[error("{what} exists already")]
    AlreadyExists {
        /// What was to be made.
        what: Subject,
    },
    /// The file's version isn't the expected one: somebody else was faster. The caller reads again and decides.
    #[error("{what} has version {found}, another one than expected")]
    VersionConflict {
        /// The file.
        what: Subject,
        /// The version that is there; 0 where it isn't known.
        found: Version,
    },
    /// A precondition other than a version doesn't hold.
    #[error("a precondition on {what} doesn't hold")]
    PreconditionFailed {
        /// Of what.
        what: Subject,
    },
    /// A component of the path, or the thing itself, should be a directory and isn't.
    #[error("{what}: not a directory")]
    NotDirectory {
        /// The whole path.
        what: Subject,
        /// How many components of its path were directories.
        depth: u16,
    },
    /// It should be a file, and is a directory.
    #[error("{what} is a directory")]
    IsDirectory {
        /// What.
        what: Subject,
    },
    /// The directory or volume isn't empty.
    #[error("{what} isn't empty")]
    NotEmpty {
        /// What.
        what: Subject,
    },
    /// A directory would come into itself.
    #[error("{what} can't be moved into itself")]
    Cycle {
        /// The directory.
        what: Subject,
    },
    /// Too many symbolic links on the way; a loop, most likely.
    #[error("too many symbolic links on the way to {what}")]
    TooManyLinks {
        /// The whole path.
        what: Subject,
    },
    /// The caller may not do this. An administrator recovers.
    #[error("permission denied for {what}")]
    Denied {
        /// What was to be used.
        what: Subject,
    },
    /// The cluster has no space for it; deletes work. Whoever runs the cluster recovers.
    #[error("no space left for {what}")]
    NoSpace {
        /// What was to be written.
        what: Subject,
    },
    /// A quota would be exceeded.
    #[error("{what} is over its quota")]
    QuotaExceeded {
        /// What was to be written.
        what: Subject,
    },
    /// The servers stayed at a limit until the deadline. Not executed; try again later.
    #[error("{endpoint} is at a limit and stayed so until the deadline; nothing was done to {what}")]
    Busy {
        /// What was to be done to.
        what: Subject,
        /// Who said so last.
        endpoint: String,
    },
    /// A server that is needed can't be used. Not executed. Whoever runs the cluster recovers.
    #[error("{endpoint} is unavailable ({reason}); nothing was done to {what}")]
    Unavailable {
        /// What was to be done to.
        what: Subject,
        /// Which server.
        endpoint: String,
        /// Why.
        reason: UnavailableReason,
    },
    /// The deadline passed. A read, or a mutation of which no copy was executed.
    #[error("no answer about {what} from {endpoint} within {waited_ms} ms")]
    Timeout {
        /// What was to be done to.
        what: Subject,
        /// Who didn't answer.
        endpoint: String,
        /// The time that was given.
        waited_ms: u64,
    },
    /// A mutation was sent and not answered: it may or may not have happened (R14, R21), whole or not at all. The caller looks.
    #[error("whether {what} was changed isn't known: the request was sent and not answered")]
    OutcomeUnknown {
        /// What was to be changed.
        what: Subject,
    },
    /// A chunk is missing or damaged at every replica: these bytes can't be returned (I11). An operator recovers; the rest of the file is readable.
    #[error("{what}: the {length} bytes at offset {offset} are {damage} (chunk {chunk})")]
    Integrity {
        /// The file.
        what: Subject,
        /// Where the bytes begin in the file.
        offset: u64,
        /// How many bytes are affected.
        length: u64,
        /// Their chunk.
        chunk: ChunkId,
        /// What is wrong.
        damage: Damage,
    },
    /// A store holds other bytes under an id that was new to the metadata group (R4, R20): the group's log is older than the store, as one that was
    /// restored from an old backup. Nothing of the upload is visible. An operator recovers.
    #[error(
        "{endpoint} holds other bytes under the id of a new chunk of {what} ({chunk}): the metadata log is older than the store"
    )]
    IdTaken {
        /// What was to be written.
        what: Subject,
        /// The chunk.
        chunk: ChunkId,
        /// Whose store.
        endpoint: String,
    },
    /// The file changed while it was read and its old version is gone: the read lasted longer than old versions are kept (R25). Read again.
    #[error("{what} was replaced while it was read, and its old version is no longer kept")]
    Replaced {
        /// The file.
        what: Subject,
        /// The version that was read.
        version: Version,
    },
    /// The session of this upload ended (the client was cut off for longer than the session lives): nothing of it is visible. Upload again.
    #[error("the session of {what} expired before it was committed: nothing of it is visible")]
    SessionExpired {
        /// What was to be written.
        what: Subject,
    },
    /// Chunks of this upload were lost by an operator's decision before the commit (R8): nothing is visible. Upload again.
    #[error("chunks of {what} were lost before it was committed: write it again")]
    ChunksLost {
        /// What was to be written.
        what: Subject,
    },
    /// The history asked for is no longer kept (R16).
    #[error("that point in time of {what} is no longer kept")]
    IndexGone {
        /// Of what.
        what: Subject,
    },
    /// A server's store failed and is fenced. Whoever runs the cluster recovers.
    #[error("the store behind {endpoint} failed while it worked on {what}")]
    StoreFailed {
        /// What was to be done to.
        what: Subject,
        /// Which server.
        endpoint: String,
    },
    /// Well-formed, and nothing that this version can do.
    #[error("not supported for {what}")]
    Unsupported {
        /// What was to be done to.
        what: Subject,
    },
    /// A name, path, link target, attribute or file is over its limit. Known before anything is sent where the size is known.
    #[error("{what}: over a limit of size")]
    TooLarge {
        /// What.
        what: Subject,
    },
    /// The request breaks a rule: a name with `/` or NUL, `..` in a path, a chunk size that is no power of two. The caller mends it.
    #[error("{what}: the server refuses this as malformed")]
    BadRequest {
        /// What was to be done to.
        what: Subject,
    },
    /// A configuration that can't be used. The caller mends it.
    #[error("the client's configuration has no usable {0}")]
    Configuration(&'static str),
    /// The operating system refused something that the client needs (a thread, memory, io_uring).
    #[error("the client can't start: {0}")]
    Start(String),
    /// The operation was cancelled before anything was sent.
    #[error("cancelled before anything was done to {what}")]
    Canceled {
        /// What was to be done to.
        what: Subject,
    },
}

/// What is wrong with a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Damage {
    /// The replica doesn't have it.
    Missing,
    /// The replica's bytes don't match the checksum that the metadata holds.
    Corrupt,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Missing => "missing",
            Self::Corrupt => "damaged",
        })
    }
}

/// Errors in the groups that a caller acts on; the command line's exit codes are these.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ErrorKind {
    /// It failed for a reason of its own.
    Failed,
    /// The caller's request can't be right.
    Usage,
    /// Something named doesn't exist.
    NotFound,
    /// Not allowed.
    Denied,
    /// Something else is there than expected.
    Conflict,
    /// Not now: unavailable, busy, or out of time.
    Unavailable,
    /// Bytes are damaged or missing, or aren't those that belong there.
    Integrity,
    /// It isn't known whether it happened.
    OutcomeUnknown,
}

impl Error {
    /// The group that this error belongs to.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::NotFound { .. } => ErrorKind::NotFound,
            Self::AlreadyExists { .. }
            | Self::VersionConflict { .. }
            | Self::PreconditionFailed { .. }
            | Self::NotDirectory { .. }
            | Self::IsDirectory { .. }
            | Self::NotEmpty { .. }
            | Self::Cycle { .. }
            | Self::Replaced { .. } => ErrorKind::Conflict,
            Self::Denied { .. } => ErrorKind::Denied,
            Self::Busy { .. } | Self::Unavailable { .. } | Self::Timeout { .. } => ErrorKind::Unavailable,
            Self::OutcomeUnknown { .. } => ErrorKind::OutcomeUnknown,
            Self::Integrity { .. } | Self::IdTaken { .. } => ErrorKind::Integrity,
            Self::TooLarge { .. } | Self::BadRequest { .. } | Self::Configuration(_) => ErrorKind::Usage,
            Self::TooManyLinks { .. }
            | Self::NoSpace { .. }
            | Self::QuotaExceeded { .. }
            | Self::SessionExpired { .. }
            | Self::ChunksLost { .. }
            | Self::IndexGone { .. }
            | Self::StoreFailed { .. }
            | Self::Unsupported { .. }
            | Self::Start(_)
            | Self::Canceled { .. } => ErrorKind::Failed,
        }
    }

    /// The error for a status that a server answered about `what`.
    pub(crate) fn from_status(
        status: Status,
        depth: u16,
        version: Version,
        what: Subject,
        endpoint: &str,
    ) -> Self {
        let endpoint = endpoint.to_owned();
        match status {
            Status::NotFound => Self::NotFound { what, depth },
            Status::AlreadyExists => Self::AlreadyExists { what },
            Status::VersionConflict => Self::VersionConflict { what, found: version },
            Status::PreconditionFailed => Self::PreconditionFailed { what },
            Status::NotDirectory => Self::NotDirectory { what, depth },
            Status::IsDirectory => Self::IsDirectory { what },
            Status::NotEmpty => Self::NotEmpty { what },
            Status::Cycle => Self::Cycle { what },
            Status::TooManyLinks => Self::TooManyLinks { what },
            Status::PermissionDenied | Status::Unauthenticated => Self::Denied { what },
            Status::NoSpace => Self::NoSpace { what },
            Status::QuotaExceeded => Self::QuotaExceeded { what },
            Status::Busy => Self::Busy { what, endpoint },
            Status::SessionExpired => Self::SessionExpired { what },
            Status::ChunksLost => Self::ChunksLost { what },
            Status::IndexGone => Self::IndexGone { what },
            Status::StoreFailed => Self::StoreFailed { what, endpoint },
            Status::Unsupported => Self::Unsupported { what },
            Status::TooLarge => Self::TooLarge { what },
            Status::Ok | Status::BadRequest | Status::ChecksumMismatch => Self::BadRequest { what },
            Status::WrongEpoch | Status::WrongShard | Status::NotServing | Status::DeadlineExceeded => {
                Self::Unavailable { what, endpoint, reason: UnavailableReason::NotServing }
            }
            Status::UnsupportedVersion => {
                Self::Unavailable { what, endpoint, reason: UnavailableReason::Version }
            }
            Status::WrongCluster => {
                Self::Unavailable { what, endpoint, reason: UnavailableReason::WrongCluster }
            }
        }
    }
}
