//! A local tree, depth first, without recursion and with a bounded number of open directories.
//!
//! The outermost [`OPEN_LEVELS_MAX`] directories are read as the walk goes. Deeper ones are read at once when they are entered, so
//! that a tree a thousand levels deep doesn't need a thousand descriptors; only their names are held.

use std::ffi::OsString;
use std::fs::{self, Metadata, ReadDir};
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use crate::failure::{Exit, Failure, Result};
use crate::remote;
use crate::text::quote;
use crate::transfer::send::VANISHED;
use crate::walk::Stage;

/// Directories kept open.
const OPEN_LEVELS_MAX: usize = 64;

/// One thing in the tree.
#[derive(Clone, Debug)]
pub(crate) struct Visit {
    /// Before or after a directory, or anything else.
    pub(crate) stage: Stage,
    /// Where it is.
    pub(crate) path: PathBuf,
    /// Its path below the walk's root; empty: the root itself.
    pub(crate) below: Vec<u8>,
    /// What it is; links aren't followed.
    pub(crate) metadata: Metadata,
}

/// A walk under way. What can't be read is a failure among the items; the walk goes on behind it.
pub(crate) struct Walk {
    first: Option<Visit>,
    entered: Option<Visit>,
    levels: Vec<Level>,
    excluded: Vec<FileId>,
}

/// A file or directory by what it is, however its path is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FileId {
    device: u64,
    inode: u64,
}

impl FileId {
    /// Of what the metadata describes.
    pub(crate) fn of(metadata: &Metadata) -> Self {
        Self { device: metadata.dev(), inode: metadata.ino() }
    }

    /// Of what is at `path`, if anything is.
    pub(crate) fn at(path: &Path) -> Option<Self> {
        fs::symlink_metadata(path).ok().map(|metadata| Self::of(&metadata))
    }
}

struct Level {
    names: Names,
    visit: Visit,
}

enum Names {
    Open(ReadDir),
    Read(std::vec::IntoIter<OsString>),
}

impl Iterator for Names {
    type Item = io::Result<OsString>;

    fn next(&mut self) -> Option<Self::Item> {
        match self {
            Self::Open(directory) => directory.next().map(|entry| entry.map(|entry| entry.file_name())),
            Self::Read(names) => names.next().map(Ok),
        }
    }
}

impl Walk {
    /// A walk of `root`, whose metadata the caller has read.
    pub(crate) fn new(root: &Path, metadata: Metadata) -> Self {
        let stage = if metadata.is_dir() { Stage::Enter } else { Stage::Leaf };
        let first = Visit { stage, path: root.to_owned(), below: Vec::new(), metadata };
        Self { first: Some(first), entered: None, levels: Vec::new(), excluded: Vec::new() }
    }

    /// The same walk without these directories and what is in them.
    pub(crate) fn without(self, excluded: &[FileId]) -> Self {
        Self { excluded: excluded.to_vec(), ..self }
    }

    /// Passes over what is in the directory that was entered last; it isn't left either.
    pub(crate) fn pass_over(&mut self) {
        self.entered = None;
    }

    fn open(&mut self, visit: Visit) -> Result<()> {
        let names = fs::read_dir(&visit.path).and_then(|directory| {
            let open = Names::Open(directory);
            if self.levels.len() < OPEN_LEVELS_MAX {
                return Ok(open);
            }
            Ok(Names::Read(open.collect::<io::Result<Vec<_>>>()?.into_iter()))
        });
        let (names, result) = match names {
            Ok(names) => (names, Ok(())),
            Err(error) => (Names::Read(Vec::new().into_iter()), Err(Failure::path(&visit.path, &error))),
        };
        self.levels.push(Level { names, visit });
        result
    }

    fn is_excluded(&self, visit: &Visit) -> bool {
        !self.excluded.is_empty() && self.excluded.contains(&FileId::of(&visit.metadata))
    }

    /// The next entry of the innermost directory, or its end.
    fn step(&mut self) -> Option<Result<Visit>> {
        let level = self.levels.last_mut()?;
        let name = match level.names.next() {
            Some(Ok(name)) => name,
            Some(Err(error)) => {
                let failure = Failure::path(&level.visit.path, &error);
                // A directory that can't be read further has ended.
                level.names = Names::Read(Vec::new().into_iter());
                return Some(Err(failure));
            }
            None => {
                let mut visit = self.levels.pop()?.visit;
                visit.stage = Stage::Leave;
                return Some(Ok(visit));
            }
        };
        let path = level.visit.path.join(&name);
        let metadata = match fs::symlink_metadata(&path) {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let shown = quote(path.as_os_str().as_bytes());
                return Some(Err(Failure::new(Exit::NotFound, shown, VANISHED)));
            }
            Err(error) => return Some(Err(Failure::path(&path, &error))),
        };
        let stage = if metadata.is_dir() { Stage::Enter } else { Stage::Leaf };
        let below = remote::join(&level.visit.below, name.as_bytes());
        Some(Ok(Visit { stage, path, below, metadata }))
    }
}

impl Iterator for Walk {
    type Item = Result<Visit>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Some(first) = self.first.take() {
            self.entered = (first.stage == Stage::Enter).then(|| first.clone());
            return Some(Ok(first));
        }
        if let Some(visit) = self.entered.take()
            && let Err(failure) = self.open(visit)
        {
            return Some(Err(failure));
        }
        loop {
            match self.step()? {
                Ok(visit) if visit.stage == Stage::Enter && self.is_excluded(&visit) => {}
                Ok(visit) => {
                    self.entered = (visit.stage == Stage::Enter).then(|| visit.clone());
                    return Some(Ok(visit));
                }
                Err(failure) => return Some(Err(failure)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(walk: Walk) -> Vec<String> {
        walk.map(|visit| {
            let visit = visit.expect("everything is readable");
            format!("{:?} {}", visit.stage, String::from_utf8_lossy(&visit.below))
        })
        .collect()
    }

    #[test]
    fn every_directory_is_entered_and_left() {
        let directory = tempfile::tempdir().expect("a directory");
        fs::create_dir(directory.path().join("a")).expect("made");
        fs::write(directory.path().join("a/f"), b"x").expect("written");
        std::os::unix::fs::symlink("nowhere", directory.path().join("a/l")).expect("linked");
        let metadata = fs::symlink_metadata(directory.path()).expect("metadata");
        let mut seen = names(Walk::new(directory.path(), metadata));
        assert_eq!(seen.remove(0), "Enter ");
        assert_eq!(seen.pop().as_deref(), Some("Leave "));
        assert_eq!(
            (seen.first().map(String::as_str), seen.last().map(String::as_str)),
            (Some("Enter a"), Some("Leave a"))
        );
        assert!(seen.contains(&"Leaf a/f".to_owned()) && seen.contains(&"Leaf a/l".to_owned()));
    }

    #[test]
    fn excluded_directories_are_passed_over_however_they_are_named() {
        let directory = tempfile::tempdir().expect("a directory");
        fs::create_dir_all(directory.path().join("target/debug")).expect("made");
        fs::write(directory.path().join("f"), b"x").expect("written");
        let excluded = FileId::at(&directory.path().join("./target/../target")).expect("is there");
        let metadata = fs::symlink_metadata(directory.path()).expect("metadata");
        let seen = names(Walk::new(directory.path(), metadata).without(&[excluded]));
        assert_eq!(seen, ["Enter ", "Leaf f", "Leave "]);
    }

    #[test]
    fn deep_trees_need_few_descriptors_and_no_stack() {
        let directory = tempfile::tempdir().expect("a directory");
        let deep = directory.path().join("d/".repeat(1000));
        fs::create_dir_all(&deep).expect("made");
        let metadata = fs::symlink_metadata(directory.path()).expect("metadata");
        let mut walk = Walk::new(directory.path(), metadata);
        let mut depth_max = 0;
        let mut visits = 0;
        while let Some(visit) = walk.next() {
            let visit = visit.expect("everything is readable");
            depth_max =
                depth_max.max(visit.below.split(|byte| *byte == b'/').filter(|name| *name == b"d").count());
            visits += 1;
            let open = walk.levels.iter().filter(|level| matches!(level.names, Names::Open(_))).count();
            assert!(open <= OPEN_LEVELS_MAX);
        }
        assert_eq!((depth_max, visits), (1000, 2002));
    }
}
