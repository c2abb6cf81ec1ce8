//! The model: a plain map of paths. What the system must look like to whoever executes the operations one after the other.

use std::collections::BTreeMap;
use std::rc::Rc;

use wire::Status;
use wire::meta::{InodeKind, RenameMode};

use crate::content::{Content, Stamp};
use crate::history::{Action, Condition, Path};

/// A file's version: the index of the entry that made it, or the operation whose index nobody was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Made {
    /// By the entry of this index.
    At(u64),
    /// By this operation, at an unknown index.
    By(Stamp),
}

/// What a path names.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Node {
    /// A directory.
    Directory,
    /// A file.
    File {
        /// Its bytes.
        content: Rc<Content>,
        /// Its version.
        made: Made,
    },
}

/// The whole volume.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Tree(BTreeMap<Path, Node>);

/// What executing an operation yields.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Effect {
    /// The file's version, where one was made or is in the way.
    pub version: Option<Made>,
    /// An append's offset.
    pub offset: Option<u64>,
    /// The file's size after it.
    pub size: Option<u64>,
}

/// A failure, and the version that is in the way where that is the reason.
type Refused = (Status, Option<Made>);

impl Node {
    /// What it is, as the system calls it.
    pub(crate) fn kind(&self) -> InodeKind {
        match self {
            Self::Directory => InodeKind::Directory,
            Self::File { .. } => InodeKind::File,
        }
    }
}

impl Tree {
    /// What is at `path`, or why nothing can be.
    pub(crate) fn look(&self, path: &str) -> Result<Option<&Node>, Status> {
        const ROOT: &Node = &Node::Directory;
        if path.is_empty() {
            return Ok(Some(ROOT));
        }
        for (at, _) in path.match_indices('/') {
            match self.0.get(&path[..at]) {
                None => return Err(Status::NotFound),
                Some(Node::File { .. }) => return Err(Status::NotDirectory),
                Some(Node::Directory) => {}
            }
        }
        Ok(self.0.get(path))
    }

    /// Names directly below a directory, in order of their bytes.
    pub(crate) fn names(&self, path: &str) -> Vec<(String, InodeKind)> {
        let children = self.0.iter().filter_map(|(at, node)| {
            let name = below(path, at)?;
            (!name.contains('/')).then(|| (name.to_owned(), node.kind()))
        });
        children.collect()
    }

    /// Every path with what it names.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&Path, &Node)> {
        self.0.iter()
    }

    /// Gives every file that `stamp` made its version.
    pub(crate) fn bind(&mut self, stamp: Stamp, index: u64) {
        for node in self.0.values_mut() {
            if let Node::File { made, .. } = node
                && *made == Made::By(stamp)
            {
                *made = Made::At(index);
            }
        }
    }

    /// Executes a mutation; an error leaves everything as it was.
    pub(crate) fn execute(&mut self, action: &Action, stamp: Stamp, made: Made) -> Result<Effect, Refused> {
        match action {
            Action::Replace { path, condition, .. } => {
                self.check(path, *condition)?;
                self.file_or_absent(path)?;
                Ok(self.put(path, action.content(stamp), made))
            }
            Action::Write { path, offset, condition, .. } => {
                self.check(path, *condition)?;
                let old = self.file_or_absent(path)?;
                let content = old.overwritten(*offset, &action.content(stamp));
                Ok(self.put(path, content, made))
            }
            Action::Append { path, .. } => {
                let old = self.file_or_absent(path)?;
                let content = old.overwritten(old.len(), &action.content(stamp));
                let effect = self.put(path, content, made);
                Ok(Effect { offset: Some(old.len()), ..effect })
            }
            Action::Truncate { path, size } => {
                let Node::File { content, .. } = self.existing(path)? else {
                    return Err(bare(Status::IsDirectory));
                };
                let content = content.resized(*size);
                Ok(self.put(path, content, made))
            }
            Action::MakeDirectory { path } => {
                if self.look(path).map_err(bare)?.is_some() {
                    return Err(bare(Status::AlreadyExists));
                }
                self.0.insert(path.clone(), Node::Directory);
                Ok(Effect::default())
            }
            Action::RemoveFile { path, condition } => {
                self.check(path, *condition)?;
                if *self.existing(path)? == Node::Directory {
                    return Err(bare(Status::IsDirectory));
                }
                self.0.remove(path);
                Ok(Effect::default())
            }
            Action::RemoveDirectory { path } => self.remove_directory(path),
            Action::Rename { from, to, mode } => self.rename(from, to, *mode),
            Action::Copy { from, to } => {
                let Node::File { content, made: version } = self.existing(from)? else {
                    return Err(bare(Status::IsDirectory));
                };
                let (content, version) = ((**content).clone(), *version);
                self.file_or_absent(to)?;
                if from == to {
                    let size = Some(content.len());
                    return Ok(Effect { version: Some(version), offset: None, size });
                }
                Ok(self.put(to, content, made))
            }
            Action::Read { .. } | Action::List { .. } => unreachable!("reads are not executed"),
        }
    }

    fn existing(&self, path: &str) -> Result<&Node, Refused> {
        self.look(path).map_err(bare)?.ok_or(bare(Status::NotFound))
    }

    /// The bytes of the file at `path`; none where nothing is there yet.
    fn file_or_absent(&self, path: &str) -> Result<Content, Refused> {
        match self.look(path).map_err(bare)? {
            None => Ok(Content::default()),
            Some(Node::File { content, .. }) => Ok((**content).clone()),
            Some(Node::Directory) => Err(bare(Status::IsDirectory)),
        }
    }

    fn check(&self, path: &str, condition: Condition) -> Result<(), Refused> {
        let found = self.look(path).map_err(bare)?;
        match (condition, found) {
            (Condition::Any, _) | (Condition::Absent, None) | (Condition::Present, Some(_)) => Ok(()),
            (Condition::Absent, Some(_)) => Err(bare(Status::AlreadyExists)),
            (Condition::Present | Condition::Version(_), None) => Err(bare(Status::NotFound)),
            (Condition::Version(wanted), Some(Node::File { made, .. })) => {
                if *made == Made::At(wanted) {
                    Ok(())
                } else {
                    Err((Status::VersionConflict, Some(*made)))
                }
            }
            (Condition::Version(_), Some(Node::Directory)) => {
                Err((Status::VersionConflict, Some(Made::At(0))))
            }
        }
    }

    fn put(&mut self, path: &str, content: Content, made: Made) -> Effect {
        let size = Some(content.len());
        self.0.insert(path.to_owned(), Node::File { content: Rc::new(content), made });
        Effect { version: Some(made), offset: None, size }
    }

    fn is_empty_directory(&self, path: &str) -> bool {
        self.names(path).is_empty()
    }

    fn remove_directory(&mut self, path: &str) -> Result<Effect, Refused> {
        if *self.existing(path)? != Node::Directory {
            return Err(bare(Status::NotDirectory));
        }
        if !self.is_empty_directory(path) {
            return Err(bare(Status::NotEmpty));
        }
        self.0.remove(path);
        Ok(Effect::default())
    }

    fn rename(&mut self, from: &str, to: &str, mode: RenameMode) -> Result<Effect, Refused> {
        let source = self.existing(from)?.clone();
        let target = self.look(to).map_err(bare)?.cloned();
        if from == to {
            let exists = Err(bare(Status::AlreadyExists));
            return if mode == RenameMode::NoReplace { exists } else { Ok(Effect::default()) };
        }
        if below(from, to).is_some() {
            return Err(bare(Status::Cycle));
        }
        if mode == RenameMode::NoReplace && target.is_some() {
            return Err(bare(Status::AlreadyExists));
        }
        let onto_ancestor = below(to, from).is_some();
        match (mode, &source, &target) {
            (RenameMode::Exchange, _, None) => return Err(bare(Status::NotFound)),
            (RenameMode::Exchange, _, Some(_)) => {
                if onto_ancestor {
                    return Err(bare(Status::Cycle));
                }
                let from_tree = self.take(from);
                let to_tree = self.take(to);
                self.attach(to, from_tree);
                self.attach(from, to_tree);
                return Ok(Effect::default());
            }
            (_, Node::Directory, Some(Node::File { .. })) => return Err(bare(Status::NotDirectory)),
            (_, Node::File { .. }, Some(Node::Directory)) => return Err(bare(Status::IsDirectory)),
            (_, Node::Directory, Some(Node::Directory)) if !self.is_empty_directory(to) => {
                return Err(bare(Status::NotEmpty));
            }
            _ => {}
        }
        let moved = self.take(from);
        self.0.remove(to);
        self.attach(to, moved);
        Ok(Effect::default())
    }

    /// Takes out a path with everything below it; keys are relative to it.
    fn take(&mut self, path: &str) -> Vec<(String, Node)> {
        let keys: Vec<String> =
            self.0.keys().filter(|at| *at == path || below(path, at).is_some()).cloned().collect();
        keys.into_iter()
            .map(|key| {
                let node = self.0.remove(&key).expect("listed above");
                (key[path.len()..].to_owned(), node)
            })
            .collect()
    }

    fn attach(&mut self, path: &str, nodes: Vec<(String, Node)>) {
        for (rest, node) in nodes {
            self.0.insert(format!("{path}{rest}"), node);
        }
    }
}

/// What of `path` comes below `directory`.
pub(crate) fn below<'a>(directory: &str, path: &'a str) -> Option<&'a str> {
    if directory.is_empty() {
        return (!path.is_empty()).then_some(path);
    }
    path.strip_prefix(directory)?.strip_prefix('/')
}

fn bare(status: Status) -> Refused {
    (status, None)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(tree: &mut Tree, path: &str, stamp: u64) -> Result<Effect, Refused> {
        let action = Action::Replace { path: path.into(), length: 3, condition: Condition::Any };
        tree.execute(&action, Stamp(stamp), Made::At(stamp))
    }

    fn rename(tree: &mut Tree, from: &str, to: &str, mode: RenameMode) -> Result<Effect, Refused> {
        let action = Action::Rename { from: from.into(), to: to.into(), mode };
        tree.execute(&action, Stamp(99), Made::At(99))
    }

    #[test]
    fn renames_are_as_posix_says() {
        let mut tree = Tree::default();
        for path in ["a", "a/b", "c"] {
            tree.execute(&Action::MakeDirectory { path: path.into() }, Stamp(1), Made::At(1)).expect("new");
        }
        put(&mut tree, "a/b/f", 2).expect("new");
        put(&mut tree, "g", 3).expect("new");
        let replace = RenameMode::Replace;
        assert_eq!(rename(&mut tree, "a", "a/b/x", replace), Err(bare(Status::Cycle)));
        assert_eq!(rename(&mut tree, "c", "a", replace), Err(bare(Status::NotEmpty)));
        assert_eq!(rename(&mut tree, "c", "g", replace), Err(bare(Status::NotDirectory)));
        assert_eq!(rename(&mut tree, "g", "c", replace), Err(bare(Status::IsDirectory)));
        assert_eq!(rename(&mut tree, "g", "a/b/f", RenameMode::NoReplace), Err(bare(Status::AlreadyExists)));
        rename(&mut tree, "a/b", "c", replace).expect("onto an empty directory");
        assert_eq!(tree.names("c"), [("f".to_owned(), InodeKind::File)]);
        assert_eq!(tree.names("a"), []);
        rename(&mut tree, "c", "g", RenameMode::Exchange).expect("both are there");
        assert_eq!(tree.names("g"), [("f".to_owned(), InodeKind::File)]);
        assert_eq!(tree.look("g/f").expect("a path").map(Node::kind), Some(InodeKind::File));
        assert_eq!(tree.look("c/f"), Err(Status::NotDirectory));
    }
}
