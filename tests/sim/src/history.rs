//! What the clients did and saw: the only input of the checker, which knows nothing of the system's inside.

use std::collections::BTreeMap;

use wire::meta::{InodeKind, RenameMode, XattrMode};
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

/// Attributes that come with a file's new bytes, in one commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Dress {
    /// Permission bits.
    pub mode: u32,
    /// `None`: the group's time, which the checker doesn't know.
    pub modified: Option<i64>,
    /// An extended attribute [`XATTRS`]`[0]`, whose value is the operation's stamp.
    pub xattr: bool,
}

/// Which bytes a copy takes, and where it puts them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Part {
    /// First byte of the source.
    pub from: u64,
    /// How many.
    pub length: u64,
    /// First byte in the target.
    pub to: u64,
}

/// Names of extended attributes.
pub(crate) const XATTRS: &[&str] = &["user.a", "user.b"];

/// What a client asked for. Links on the way are followed; *follow* says whether one at the path itself is.
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
        /// Attributes that come with them.
        dress: Option<Dress>,
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
        /// On what is there.
        condition: Condition,
    },
    /// Makes a directory.
    MakeDirectory {
        /// Where.
        path: Path,
        /// Missing parents are made too, and one that is there already will do.
        parents: bool,
    },
    /// Makes a symbolic link.
    MakeLink {
        /// Where.
        path: Path,
        /// What it says.
        target: Path,
        /// A file or link that is there is replaced.
        replace: bool,
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
    /// The target becomes a copy of the source, or gets some of its bytes.
    Copy {
        /// Source.
        from: Path,
        /// Target.
        to: Path,
        /// `None`: all of it.
        part: Option<Part>,
        /// The source must have this version.
        version: Option<u64>,
    },
    /// Changes attributes.
    SetAttributes {
        /// Of what.
        path: Path,
        /// See above.
        follow: bool,
        /// Permission bits.
        mode: Option<u32>,
        /// Last change of content.
        modified: Option<i64>,
    },
    /// Sets an extended attribute to the operation's stamp.
    SetXattr {
        /// Of what.
        path: Path,
        /// See above.
        follow: bool,
        /// Its name.
        name: &'static str,
        /// What is expected.
        mode: XattrMode,
    },
    /// Removes an extended attribute.
    RemoveXattr {
        /// Of what.
        path: Path,
        /// See above.
        follow: bool,
        /// Its name.
        name: &'static str,
    },
    /// Looks at a path, and reads a range of a file.
    Read {
        /// Which.
        path: Path,
        /// See above.
        follow: bool,
        /// First byte.
        from: u64,
        /// Byte behind the last; `u64::MAX`: the end.
        to: u64,
        /// Nanoseconds between two chunks of a reader that takes its time and pins its version (R25); 0: as fast as it can.
        pace: u64,
    },
    /// Lists a page of a directory. One whose end isn't reached is followed by a page of its own record.
    List {
        /// Which.
        path: Path,
        /// Names after this one.
        after: String,
        /// At most so many.
        limit: u32,
    },
}

/// What a read saw of a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    /// What it is.
    pub kind: InodeKind,
    /// A file's size, a link's length, a directory's entries.
    pub size: u64,
    /// A file's version.
    pub version: u64,
    /// Permission bits.
    pub mode: u32,
    /// Last change of content.
    pub modified: i64,
    /// Extended attributes.
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    /// What a link says.
    pub target: Path,
    /// The bytes read, and the range that they are of. `None`: the bytes could not be had.
    pub bytes: Option<(u64, Vec<u8>)>,
}

/// A line of a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Row {
    /// The name.
    pub name: String,
    /// What it names.
    pub kind: InodeKind,
    /// A file's size, a link's length, a directory's entries.
    pub size: u64,
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
        /// What is there, in order.
        rows: Vec<Row>,
        /// Nothing follows.
        end: bool,
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
    /// A long read whose version was gone or replaced when it ended.
    pub outlived: bool,
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
            Self::MakeDirectory { parents: false, .. } => "mkdir",
            Self::MakeDirectory { .. } => "mkdir-parents",
            Self::MakeLink { .. } => "link",
            Self::RemoveFile { .. } => "remove",
            Self::RemoveDirectory { .. } => "rmdir",
            Self::Rename { mode: RenameMode::Exchange, .. } => "exchange",
            Self::Rename { .. } => "rename",
            Self::Copy { part: None, .. } => "copy",
            Self::Copy { .. } => "copy-range",
            Self::SetAttributes { .. } => "set-attributes",
            Self::SetXattr { .. } => "set-xattr",
            Self::RemoveXattr { .. } => "remove-xattr",
            Self::Read { pace: 1.., .. } => "get-long",
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
            | Self::MakeDirectory { path, .. }
            | Self::MakeLink { path, .. }
            | Self::RemoveFile { path, .. }
            | Self::RemoveDirectory { path }
            | Self::SetAttributes { path, .. }
            | Self::SetXattr { path, .. }
            | Self::RemoveXattr { path, .. }
            | Self::Read { path, .. }
            | Self::List { path, .. } => [Some(path), None],
            Self::Rename { from, to, .. } | Self::Copy { from, to, .. } => [Some(from), Some(to)],
        }
    }

    /// The version that it demands: of what, and whether a link there is followed.
    pub(crate) fn demanded(&self) -> Option<(&Path, bool, u64)> {
        let (path, follow, condition) = match self {
            Self::Replace { path, condition, .. } | Self::RemoveFile { path, condition } => {
                (path, false, condition)
            }
            Self::Write { path, condition, .. } | Self::Truncate { path, condition, .. } => {
                (path, true, condition)
            }
            Self::Copy { from, version, .. } => return version.map(|version| (from, true, version)),
            _ => return None,
        };
        match condition {
            Condition::Version(version) => Some((path, follow, *version)),
            _ => None,
        }
    }

    /// Whether a link at the path itself is followed by a read.
    pub(crate) fn follows(&self) -> bool {
        matches!(self, Self::Read { follow: true, .. } | Self::List { .. })
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

/// The value of an extended attribute that this operation set.
pub(crate) fn xattr_value(stamp: Stamp) -> Vec<u8> {
    stamp.0.to_le_bytes().repeat(1 + usize::try_from(stamp.0 % 5).expect("below 5"))
}

impl Ending {
    /// A name, for tables.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Executed { status, .. } | Self::Refused(status) => status_name(*status),
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

/// A status, for tables.
pub(crate) fn status_name(status: Status) -> &'static str {
    match status {
        Status::Ok => "ok",
        Status::NotFound => "not found",
        Status::AlreadyExists => "exists",
        Status::VersionConflict => "conflict",
        Status::NotDirectory => "not a directory",
        Status::IsDirectory => "is a directory",
        Status::NotEmpty => "not empty",
        Status::Cycle => "cycle",
        Status::TooManyLinks => "too many links",
        Status::BadRequest => "bad request",
        Status::NoSpace => "no space",
        _ => "other",
    }
}
