//! A remote tree, depth first, without recursion: one open listing per level, so that memory grows with depth and not with the tree.
//!
//! Directories are followed by inode, never by path: a rename elsewhere can't lead the walk astray, and paths may be longer than the
//! server accepts in one piece. Symbolic links are leaves.

use client::{Attributes, InodeId, InodeKind, Lister, Volume};

use crate::failure::{Exit, Failure, Result};
use crate::remote::{self, RemotePath};
use crate::remote_failure::{failure, shown};

/// Deepest tree that is walked; a remote path of 4,096 bytes is no deeper than 2,048, renames can make deeper ones.
const DEPTH_MAX: usize = 65_536;

/// What the walk has come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// A directory, before what is in it.
    Enter,
    /// The same directory, after what is in it.
    Leave,
    /// A file or symbolic link.
    Leaf,
}

/// One thing in the tree.
#[derive(Clone, Debug)]
pub(crate) struct Visit {
    /// Before, after, or a leaf.
    pub(crate) stage: Stage,
    /// Its path below the walk's root; empty: the root itself.
    pub(crate) below: Vec<u8>,
    /// The directory that it is in; the root's own inode for the root.
    pub(crate) parent: InodeId,
    /// What it is.
    pub(crate) attributes: Attributes,
    /// A symbolic link's target.
    pub(crate) target: Vec<u8>,
    /// How many directories are above it, from the root on.
    pub(crate) depth: usize,
}

impl Visit {
    /// Its name; empty for the root.
    pub(crate) fn name(&self) -> &[u8] {
        self.below.rsplit(|&byte| byte == b'/').next().unwrap_or_default()
    }

    /// Whether it is the walk's root.
    pub(crate) fn is_root(&self) -> bool {
        self.below.is_empty()
    }
}

/// A walk under way. Failures to list a directory are items; the walk goes on behind them.
pub(crate) struct Walk {
    volume: Volume,
    root: RemotePath,
    first: Option<Visit>,
    levels: Vec<Level>,
    /// The directory entered last, whose listing isn't opened yet.
    entered: Option<Visit>,
}

struct Level {
    lister: Option<Lister>,
    visit: Visit,
}

impl Walk {
    /// A walk of what is at `root`, whose attributes the caller has looked up.
    pub(crate) fn new(volume: Volume, root: RemotePath, attributes: Attributes, target: Vec<u8>) -> Self {
        let stage = if attributes.kind == InodeKind::Directory { Stage::Enter } else { Stage::Leaf };
        let first =
            Visit { stage, below: Vec::new(), parent: attributes.inode, attributes, target, depth: 0 };
        Self { volume, root, first: Some(first), levels: Vec::new(), entered: None }
    }

    /// Passes over what is in the directory that was entered last; it is still left.
    pub(crate) fn pass_over(&mut self) {
        if let Some(visit) = self.entered.take() {
            self.levels.push(Level { lister: None, visit });
        }
    }

    /// The name of something below the root, ready to be shown.
    pub(crate) fn shown(&self, below: &[u8]) -> String {
        shown(&self.root, below)
    }

    /// Opens the directory entered last.
    fn open(&mut self, visit: Visit) -> Result<()> {
        let listed = if visit.depth < DEPTH_MAX {
            self.volume
                .at(visit.attributes.inode)
                .list(b"")
                .wait()
                .map_err(|error| failure(self.shown(&visit.below), &error))
        } else {
            Err(Failure::new(Exit::Failed, self.shown(&visit.below), "too deep to be walked"))
        };
        let (lister, result) = match listed {
            Ok(lister) => (Some(lister), Ok(())),
            Err(failure) => (None, Err(failure)),
        };
        self.levels.push(Level { lister, visit });
        result
    }

    /// The next entry of the innermost directory, or its end.
    fn step(&mut self) -> Option<Result<Visit>> {
        let level = self.levels.last_mut()?;
        let entry = match level.lister.as_mut().and_then(Iterator::next) {
            Some(Ok(entry)) => entry,
            Some(Err(error)) => {
                level.lister = None;
                let below = level.visit.below.clone();
                return Some(Err(failure(self.shown(&below), &error)));
            }
            None => {
                let mut visit = self.levels.pop()?.visit;
                visit.stage = Stage::Leave;
                return Some(Ok(visit));
            }
        };
        if let Err(reason) = remote::check_name(&entry.name) {
            // The server promises names that are none of these; a file here is never written by such a name.
            let below = level.visit.below.clone();
            return Some(Err(Failure::new(
                Exit::Integrity,
                self.shown(&below),
                format!("the server lists a name that can't be: {reason}"),
            )));
        }
        let stage = if entry.attributes.kind == InodeKind::Directory { Stage::Enter } else { Stage::Leaf };
        let visit = Visit {
            stage,
            below: remote::join(&level.visit.below, &entry.name),
            parent: level.visit.attributes.inode,
            attributes: entry.attributes,
            target: entry.target,
            depth: level.visit.depth + 1,
        };
        if stage == Stage::Enter {
            self.entered = Some(visit.clone());
        }
        Some(Ok(visit))
    }
}

impl Iterator for Walk {
    type Item = Result<Visit>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Some(first) = self.first.take() {
            if first.stage == Stage::Enter {
                self.entered = Some(first.clone());
            }
            return Some(Ok(first));
        }
        if let Some(visit) = self.entered.take()
            && let Err(failure) = self.open(visit)
        {
            return Some(Err(failure));
        }
        self.step()
    }
}
