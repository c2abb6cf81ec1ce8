//! What the clients did and saw: the only input of the checker, which knows nothing of the system's inside.

use wire::meta::{InodeKind, RenameMode};
use wire::{Nanos, Status};

use crate::content::{Content, Stamp};

/// A path in the simulated volume, components joined by `/`, without a leading one. Empty: the root.
pub(crate) type Path = String;

/// A condition on the target, as in [`wire::meta::Precondition`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Condition {
    /// None.
    Any,
    /// Nothing is there.
    Absent,
    /// Something is there.
    Present,
    /// A file of this version is there.
    Version(u64),
}

/// What a client asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// The file becomes these bytes.
    Replace {
        /// Where.
        path: Path,
        /// Bytes; they are the operation's stamp.
        length: u64,
        /// On what is there.
        condition: Condition,
    },
    /// Bytes over what is there.
    Write {
        /// Where.
        path: Path,
        /// From this byte of the file on.
        offset: u64,
        /// How many, > 0.
        length: u64,
        /// On what is there.
        condition: Condition,
    },
    /// Bytes behind the end.
    Append {
        /// Where.
        path: Path,
        /// How many, > 0.
        length: u64,
    },
    /// Cuts or extends.
    Truncate {
        /// Which file.
        path: Path,
        /// Its new size.
        size: u64,
    },
    /// Makes a directory.
    MakeDirectory {
        /// Where.
        path: Path,
    },
    /// Removes a file.
    RemoveFile {
        /// Which.
        path: Path,
        /// On what is there.
        condition: Condition,
    },
    /// Removes an empty directory.
    RemoveDirectory {
        /// Which.
        path: Path,
    },
    /// Moves a name.
    Rename {
        /// From.
        from: Path,
        /// To.
        to: Path,
        /// What happens to what is there.
        mode: RenameMode,
    },
    /// The target becomes a copy of the source.
    Copy {
        /// Source.
        from: Path,
        /// Target.
        to: Path,
    },
    /// Looks at a path, and reads a range of a file.
    Read {
        /// Which.
        path: Path,
        /// First byte.
        from: u64,
        /// Byte behind the last; `u64::MAX`: the end.
        to: u64,
    },
    /// Lists a directory.
    List {
        /// Which.
        path: Path,
    },
}

/// What a read saw of a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    /// What it is.
    pub kind: InodeKind,
    /// A file's size.
    pub size: u64,
    /// A file's version.
    pub version: u64,
    /// The bytes read, and the range that they are of. `None`: the bytes could not be had.
    pub bytes: Option<(u64, Vec<u8>)>,
}

/// How an operation ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// A mutation was executed, with this recorded outcome.
    Executed {
        /// Its place in the log.
        index: u64,
        /// Its outcome.
        status: Status,
        /// The version after it, or the one in the way.
        version: u64,
        /// An append's offset.
        offset: u64,
        /// The file's size after it.
        size: u64,
    },
    /// Certainly not executed.
    NotExecuted,
    /// Executed or not, sooner or later.
    Unknown,
    /// A read that found the path.
    Found {
        /// Read at this index.
        index: u64,
        /// What was there.
        seen: Seen,
    },
    /// A listing.
    Listed {
        /// Read at this index.
        index: u64,
        /// Names and kinds, in order.
        names: Vec<(String, InodeKind)>,
    },
    /// A read that was answered with this status.
    Refused(Status),
    /// A read without an answer, which says nothing.
    Nothing,
}

/// One operation of one client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    /// Its number; stamps its bytes.
    pub stamp: Stamp,
    /// Who.
    pub client: usize,
    /// What.
    pub action: Action,
    /// When it began.
    pub began: Nanos,
    /// When it ended.
    pub ended: Nanos,
    /// How.
    pub ending: Ending,
}

impl Action {
    /// A name, for tables.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Replace { condition: Condition::Any, .. } => "put",
            Self::Replace { .. } => "put-conditional",
            Self::Write { .. } => "overwrite",
            Self::Append { .. } => "append",
            Self::Truncate { .. } => "truncate",
            Self::MakeDirectory { .. } => "mkdir",
            Self::RemoveFile { .. } => "remove",
            Self::RemoveDirectory { .. } => "rmdir",
            Self::Rename { .. } => "rename",
            Self::Copy { .. } => "copy",
            Self::Read { from: 0, to: u64::MAX, .. } => "get",
            Self::Read { .. } => "get-range",
            Self::List { .. } => "list",
        }
    }

    /// Whether it changes something.
    pub(crate) fn is_mutation(&self) -> bool {
        !matches!(self, Self::Read { .. } | Self::List { .. })
    }

    /// The paths that it depends on or changes.
    pub(crate) fn paths(&self) -> [Option<&Path>; 2] {
        match self {
            Self::Replace { path, .. }
            | Self::Write { path, .. }
            | Self::Append { path, .. }
            | Self::Truncate { path, .. }
            | Self::MakeDirectory { path }
            | Self::RemoveFile { path, .. }
            | Self::RemoveDirectory { path }
            | Self::Read { path, .. }
            | Self::List { path } => [Some(path), None],
            Self::Rename { from, to, .. } | Self::Copy { from, to } => [Some(from), Some(to)],
        }
    }

    /// Its condition, and on what.
    pub(crate) fn condition(&self) -> Option<(&Path, Condition)> {
        match self {
            Self::Replace { path, condition, .. }
            | Self::Write { path, condition, .. }
            | Self::RemoveFile { path, condition } => Some((path, *condition)),
            _ => None,
        }
    }

    /// The bytes that it brings.
    pub(crate) fn content(&self, stamp: Stamp) -> Content {
        match self {
            Self::Replace { length, .. } | Self::Write { length, .. } | Self::Append { length, .. } => {
                Content::written(stamp, *length)
            }
            _ => Content::default(),
        }
    }
}

impl Ending {
    /// A name, for tables.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Executed { status: Status::Ok, .. } => "ok",
            Self::Executed { .. } | Self::Refused(_) => "failed",
            Self::NotExecuted => "not executed",
            Self::Unknown => "unknown",
            Self::Found { seen: Seen { kind: InodeKind::File, bytes: None, .. }, .. } => "no bytes",
            Self::Found { .. } | Self::Listed { .. } => "ok",
            Self::Nothing => "no answer",
        }
    }

    /// The index at which it took effect or was read, where it is known.
    pub(crate) fn index(&self) -> Option<u64> {
        match self {
            Self::Executed { index, .. } | Self::Found { index, .. } | Self::Listed { index, .. } => {
                Some(*index)
            }
            _ => None,
        }
    }
}
