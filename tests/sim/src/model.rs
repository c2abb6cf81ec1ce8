//! The model: a plain map of paths. What the system must look like to whoever executes the operations one after the other.
//!
//! Keys are real paths: no component of one is a link. `resolve.rs` walks links, `names.rs` executes what makes, moves and removes names;
//! contents and attributes are here. Written from the contract in `wire::meta`, not from the implementation.

mod names;
mod resolve;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::rc::Rc;

use wire::Status;
use wire::meta::{InodeKind, XattrMode};

use crate::content::{Content, Stamp};
use crate::history::{Action, Condition, Dress, Part, Path, Row, XATTRS};
use resolve::Spot;
pub(crate) use resolve::{below, join_target};

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
pub(crate) enum Kind {
    /// A directory.
    Directory,
    /// A file.
    File {
        /// Its bytes.
        content: Rc<Content>,
        /// Its version.
        made: Made,
    },
    /// A symbolic link, and what it says.
    Link(Path),
}

/// What a path names, with its attributes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Node {
    /// What it is.
    pub kind: Kind,
    /// Permission bits.
    pub mode: u32,
    /// Last change of content; `None`: the group's time.
    pub modified: Option<i64>,
    /// Extended attributes; the values are these operations' stamps.
    pub xattrs: BTreeMap<&'static str, Stamp>,
}

/// The whole volume.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Tree(BTreeMap<Path, Rc<Node>>);

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
type Executed = Result<Effect, Refused>;

/// Mode of a file whose maker says nothing.
const FILE_MODE: u32 = 0o644;
/// Mode of directories and links as the workload makes them.
pub(crate) const NAME_MODE: u32 = 0o755;

impl Node {
    fn new(kind: Kind, mode: u32) -> Self {
        Self { kind, mode, modified: None, xattrs: BTreeMap::new() }
    }

    /// What it is, as the system calls it.
    pub(crate) fn kind(&self) -> InodeKind {
        match self.kind {
            Kind::Directory => InodeKind::Directory,
            Kind::File { .. } => InodeKind::File,
            Kind::Link(_) => InodeKind::Symlink,
        }
    }

    /// A file's version.
    fn version(&self) -> Option<Made> {
        match self.kind {
            Kind::File { made, .. } => Some(made),
            _ => None,
        }
    }
}

impl Tree {
    /// Every path with what it names.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&Path, &Node)> {
        self.0.iter().map(|(path, node)| (path, &**node))
    }

    /// Lines of a directory's listing after `after`, in order of names' bytes; the directory is a real path.
    pub(crate) fn rows(&self, directory: &str, after: &str) -> Vec<Row> {
        let children = self.0.iter().filter_map(|(at, node)| {
            let name = below(directory, at)?;
            let is_row = !name.contains('/') && (after.is_empty() || name.as_bytes() > after.as_bytes());
            is_row.then(|| Row { name: name.to_owned(), kind: node.kind(), size: self.size(at, node) })
        });
        children.collect()
    }

    /// A file's size, a link's length, a directory's entries.
    pub(crate) fn size(&self, path: &str, node: &Node) -> u64 {
        match &node.kind {
            Kind::Directory => self.children(path) as u64,
            Kind::File { content, .. } => content.len(),
            Kind::Link(target) => target.len() as u64,
        }
    }

    fn children(&self, directory: &str) -> usize {
        let names = self.0.keys().filter_map(|at| below(directory, at));
        names.filter(|name| !name.contains('/')).count()
    }

    /// Gives every file that `stamp` made its version.
    pub(crate) fn bind(&mut self, stamp: Stamp, index: u64) {
        for node in self.0.values_mut() {
            if node.version() == Some(Made::By(stamp))
                && let Kind::File { made, .. } = &mut Rc::make_mut(node).kind
            {
                *made = Made::At(index);
            }
        }
    }

    /// Executes a mutation; an error leaves everything as it was.
    pub(crate) fn execute(&mut self, action: &Action, stamp: Stamp, made: Made) -> Executed {
        match action {
            Action::Replace { path, condition, dress, .. } => {
                self.replace(path, *condition, *dress, action.content(stamp), (stamp, made))
            }
            Action::Write { path, offset, condition, .. } => {
                let (spot, old) = self.file_or_absent(path, *condition)?;
                let content = old.overwritten(*offset, &action.content(stamp));
                Ok(Effect { offset: Some(*offset), ..self.write(&spot, content, made) })
            }
            Action::Append { path, .. } => {
                let (spot, old) = self.file_or_absent(path, Condition::Any)?;
                let content = old.overwritten(old.len(), &action.content(stamp));
                Ok(Effect { offset: Some(old.len()), ..self.write(&spot, content, made) })
            }
            Action::Truncate { path, size, condition } => {
                let spot = self.resolve(path, true).map_err(bare)?;
                self.check(&spot, *condition)?;
                let content = self.bytes_of(self.present(&spot)?)?.resized(*size);
                Ok(self.write(&spot, content, made))
            }
            Action::Copy { from, to, part, version } => self.copy(from, to, (*part, *version), made),
            Action::SetAttributes { path, follow, mode, modified } => self.change(path, *follow, |node| {
                node.mode = mode.unwrap_or(node.mode);
                node.modified = modified.or(node.modified);
                Ok(())
            }),
            Action::SetXattr { path, follow, name, mode } => self.change(path, *follow, |node| {
                match (mode, node.xattrs.contains_key(name)) {
                    (XattrMode::Create, true) => return Err(bare(Status::AlreadyExists)),
                    (XattrMode::Replace, false) => return Err(bare(Status::NotFound)),
                    _ => {}
                }
                node.xattrs.insert(name, stamp);
                Ok(())
            }),
            Action::RemoveXattr { path, follow, name } => self.change(path, *follow, |node| {
                node.xattrs.remove(name).map(|_| ()).ok_or(bare(Status::NotFound))
            }),
            Action::MakeDirectory { .. }
            | Action::MakeLink { .. }
            | Action::RemoveFile { .. }
            | Action::RemoveDirectory { .. }
            | Action::Rename { .. } => self.execute_name(action),
            Action::Read { .. } | Action::List { .. } => unreachable!("reads are not executed"),
        }
    }

    fn present(&self, spot: &Spot) -> Result<&Node, Refused> {
        self.at(spot).ok_or(bare(Status::NotFound))
    }

    /// The bytes of a file; nothing else has any.
    #[expect(clippy::unused_self, reason = "reads as the other steps do")]
    fn bytes_of<'a>(&self, node: &'a Node) -> Result<&'a Content, Refused> {
        match &node.kind {
            Kind::File { content, .. } => Ok(content),
            Kind::Directory => Err(bare(Status::IsDirectory)),
            Kind::Link(_) => Err(bare(Status::BadRequest)),
        }
    }

    /// A place to write to, links followed: its bytes, none where nothing is there yet.
    fn file_or_absent(&self, path: &str, condition: Condition) -> Result<(Spot, Content), Refused> {
        let spot = self.resolve(path, true).map_err(bare)?;
        self.check(&spot, condition)?;
        let content = self.at(&spot).map(|node| self.bytes_of(node).cloned()).transpose()?;
        Ok((spot, content.unwrap_or_default()))
    }

    fn check(&self, spot: &Spot, condition: Condition) -> Result<(), Refused> {
        match (condition, self.at(spot)) {
            (Condition::Any, _) | (Condition::Absent, None) | (Condition::Present, Some(_)) => Ok(()),
            (Condition::Absent, Some(_)) => Err(bare(Status::AlreadyExists)),
            (Condition::Present | Condition::Version(_), None) => Err(bare(Status::NotFound)),
            (Condition::Version(wanted), Some(node)) => match node.version() {
                Some(made) if made == Made::At(wanted) => Ok(()),
                there => Err((Status::VersionConflict, there.or(Some(Made::At(0))))),
            },
        }
    }

    fn replace(
        &mut self,
        path: &str,
        condition: Condition,
        dress: Option<Dress>,
        content: Content,
        (stamp, made): (Stamp, Made),
    ) -> Executed {
        let spot = self.resolve(path, false).map_err(bare)?;
        self.check(&spot, condition)?;
        let old = self.at(&spot);
        if old.is_some_and(|node| node.kind == Kind::Directory) {
            return Err(bare(Status::IsDirectory));
        }
        let size = Some(content.len());
        let kind = Kind::File { content: Rc::new(content), made };
        // A link is replaced by a file of its own; a file keeps what isn't said anew.
        let mut node = match old {
            Some(old) if old.version().is_some() => Node { kind, modified: None, ..old.clone() },
            _ => Node::new(kind, FILE_MODE),
        };
        if let Some(dress) = dress {
            (node.mode, node.modified) = (dress.mode, dress.modified);
            node.xattrs = dress.xattr.then_some((XATTRS[0], stamp)).into_iter().collect();
        }
        self.0.insert(spot.at, Rc::new(node));
        Ok(Effect { version: Some(made), offset: None, size })
    }

    /// New bytes of the file at a spot, which keeps its attributes.
    fn write(&mut self, spot: &Spot, content: Content, made: Made) -> Effect {
        let size = Some(content.len());
        let kind = Kind::File { content: Rc::new(content), made };
        let node = match self.at(spot) {
            Some(old) => Node { kind, modified: None, ..old.clone() },
            None => Node::new(kind, FILE_MODE),
        };
        self.0.insert(spot.at.clone(), Rc::new(node));
        Effect { version: Some(made), offset: None, size }
    }

    fn copy(
        &mut self,
        from: &str,
        to: &str,
        (part, version): (Option<Part>, Option<u64>),
        made: Made,
    ) -> Executed {
        let source_spot = self.resolve(from, true).map_err(bare)?;
        let source = self.present(&source_spot)?.clone();
        let bytes = self.bytes_of(&source)?.clone();
        let there = source.version().expect("it has bytes");
        if version.is_some_and(|wanted| there != Made::At(wanted)) {
            return Err((Status::VersionConflict, Some(there)));
        }
        let (spot, old) = self.file_or_absent(to, Condition::Any)?;
        let Some(part) = part else {
            let size = Some(bytes.len());
            if spot.at == source_spot.at {
                return Ok(Effect { version: Some(there), offset: None, size });
            }
            // Its attributes come along.
            let kind = Kind::File { content: Rc::new(bytes), made };
            self.0.insert(spot.at, Rc::new(Node { kind, ..source }));
            return Ok(Effect { version: Some(made), offset: None, size });
        };
        let first = part.from.min(bytes.len());
        let length = part.length.min(bytes.len() - first);
        if length == 0 && self.at(&spot).is_some() {
            let version = self.at(&spot).and_then(Node::version);
            return Ok(Effect { version, offset: Some(part.to), size: Some(old.len()) });
        }
        let copied = bytes.range(first, first + length);
        let content = if length == 0 { old } else { old.overwritten(part.to, &copied) };
        Ok(Effect { offset: Some(part.to), ..self.write(&spot, content, made) })
    }

    fn change(
        &mut self,
        path: &str,
        follow: bool,
        change: impl FnOnce(&mut Node) -> Result<(), Refused>,
    ) -> Executed {
        let spot = self.resolve(path, follow).map_err(bare)?;
        let mut node = self.present(&spot)?.clone();
        change(&mut node)?;
        let version = Some(node.version().unwrap_or(Made::At(0)));
        if !spot.at.is_empty() {
            self.0.insert(spot.at, Rc::new(node));
        }
        Ok(Effect { version, offset: None, size: None })
    }
}

fn bare(status: Status) -> Refused {
    (status, None)
}
