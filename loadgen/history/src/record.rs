//! One operation: who asked for what, when, and what was answered.

use std::fmt;
use std::sync::Arc;

/// An operation's name: who began it, and which of theirs it is. What it wrote carries it in each block, so that whoever reads knows the writer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Stamp {
    /// The process; unique among the histories that are checked together.
    pub process: u32,
    /// The client in it. A client has one operation under way at a time.
    pub client: u32,
    /// The operation, in the order of the client: from 1.
    pub number: u32,
}

impl fmt::Display for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.process, self.client, self.number)
    }
}

/// An operation from its beginning to its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Its name.
    pub stamp: Stamp,
    /// When it was asked for, in nanoseconds of the machine's monotonic clock.
    pub began: u64,
    /// When the answer was there. `None`: it never was, or nobody lived to write it down.
    pub ended: Option<u64>,
    /// What was asked for.
    pub action: Action,
    /// What was answered.
    pub outcome: Outcome,
}

/// What is asked for. Paths are those of files, from the volume's root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// The file becomes these bytes, and is made if need be.
    Put {
        /// Which file.
        path: Arc<str>,
        /// How many bytes.
        length: u64,
    },
    /// These bytes come behind the file's end; it is made if need be.
    Append {
        /// Which file.
        path: Arc<str>,
        /// How many bytes.
        length: u64,
    },
    /// Bytes are read.
    Get {
        /// Which file.
        path: Arc<str>,
        /// The first byte.
        offset: u64,
        /// How many at most; `u64::MAX`: to the end.
        length: u64,
    },
    /// Attributes are read.
    Stat {
        /// Of which file.
        path: Arc<str>,
    },
    /// A directory's names are read, in pages: each name at some time of its own while the operation lasts.
    List {
        /// Which directory.
        path: Arc<str>,
    },
    /// The name goes, and the file with it.
    Delete {
        /// Which file.
        path: Arc<str>,
    },
    /// The file gets another name; what had that name goes.
    Rename {
        /// From.
        path: Arc<str>,
        /// To: another path.
        to: Arc<str>,
    },
}

impl Action {
    /// Its name in the format.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Put { .. } => "put",
            Self::Append { .. } => "append",
            Self::Get { .. } => "get",
            Self::Stat { .. } => "stat",
            Self::List { .. } => "list",
            Self::Delete { .. } => "delete",
            Self::Rename { .. } => "rename",
        }
    }

    /// The path that it is about; of a rename, the one that it takes the file from.
    pub fn path(&self) -> &Arc<str> {
        match self {
            Self::Put { path, .. }
            | Self::Append { path, .. }
            | Self::Get { path, .. }
            | Self::Stat { path }
            | Self::List { path }
            | Self::Delete { path }
            | Self::Rename { path, .. } => path,
        }
    }

    /// Whether it changes something.
    pub fn is_mutation(&self) -> bool {
        matches!(self, Self::Put { .. } | Self::Append { .. } | Self::Delete { .. } | Self::Rename { .. })
    }

    /// Whether it writes bytes that carry its stamp.
    pub fn is_write(&self) -> bool {
        matches!(self, Self::Put { .. } | Self::Append { .. })
    }
}

/// What was answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was done, or read.
    Ok(Answer),
    /// Nothing is at the path; nothing was changed.
    Absent,
    /// It failed, and certainly changed nothing and says nothing.
    Failed,
    /// It was sent and never answered: it took effect at some time after its beginning, or will, or never.
    Unknown,
    /// A read whose bytes aren't those of one version.
    Torn,
    /// A read whose bytes nobody wrote, or that the client refused as damaged.
    Corrupt,
}

/// What an answer says. `None`: it doesn't say it, and then it isn't checked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// The commit index of a mutation, or the one that a read saw everything up to.
    pub index: Option<u64>,
    /// The file's inode; of a delete, that of the file that went.
    pub inode: Option<u64>,
    /// The file's version after a mutation or as it was read; of a delete, that of the file that went.
    pub version: Option<u64>,
    /// The file's size, likewise.
    pub size: Option<u64>,
    /// An append: where its bytes begin in the file.
    pub offset: Option<u64>,
    /// A get: whose bytes were read, in order.
    pub seen: Option<Vec<Piece>>,
    /// A list: the files of the directory.
    pub listed: Option<Vec<Listed>>,
}

/// A run of bytes of one write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Piece {
    /// Which write.
    pub stamp: Stamp,
    /// Where the run begins in that write.
    pub from: u64,
    /// Its bytes.
    pub length: u64,
}

/// A file as a list shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Its name in the directory.
    pub name: Arc<str>,
    /// Its inode.
    pub inode: u64,
    /// Its version.
    pub version: u64,
    /// Its size.
    pub size: u64,
}

/// Says who did what, for messages.
impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.stamp, self.action.name(), self.action.path())?;
        if let Action::Rename { to, .. } = &self.action {
            write!(f, " to {to}")?;
        }
        match &self.outcome {
            Outcome::Ok(answer) => {
                f.write_str(" (")?;
                if let Some(version) = answer.version {
                    write!(f, "version {version}, ")?;
                }
                if let Some(index) = answer.index {
                    write!(f, "index {index}, ")?;
                }
                match answer.size {
                    Some(size) => write!(f, "{size} bytes)"),
                    None => f.write_str("done)"),
                }
            }
            Outcome::Absent => f.write_str(" (nothing there)"),
            Outcome::Failed => f.write_str(" (failed)"),
            Outcome::Unknown => f.write_str(" (outcome unknown)"),
            Outcome::Torn => f.write_str(" (torn)"),
            Outcome::Corrupt => f.write_str(" (corrupt)"),
        }
    }
}
