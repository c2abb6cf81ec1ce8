//! The sequential specification: what files a component's paths have, and what each operation answers and changes. Both checkers ask it.
//!
//! **Invariants.** A version is the commit index of the write that made it. A put over a file keeps the inode; a file that is made gets a
//! number above all those before it. Changes can be undone, last one first.

use std::collections::BTreeMap;

use crate::prepare::{Effect, Found, Kind, Seen, Span};

/// A file's version that isn't known: it agrees with any.
pub(crate) const VERSION_ANY: u64 = 0;
/// A version that nobody has ever seen: it agrees with none.
pub(crate) const VERSION_NEVER: u64 = u64::MAX;
/// An inode that isn't known: it agrees with any.
pub(crate) const INODE_ANY: u64 = 0;

/// What is at a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct File {
    pub(crate) inode: u64,
    pub(crate) version: u64,
    pub(crate) size: u64,
    pub(crate) content: Content,
}

/// A file's bytes as a chain: the last write, and what was there before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Content(u32);

impl Content {
    /// Bytes that aren't known.
    pub(crate) const ANY: Self = Self(0);
    /// None.
    pub(crate) const EMPTY: Self = Self(1);
}

#[derive(Clone, Copy, Debug)]
struct Node {
    parent: Content,
    write: u32,
    length: u64,
}

/// All contents, each once.
#[derive(Clone, Debug)]
struct Contents {
    nodes: Vec<Node>,
    known: BTreeMap<(Content, u32), Content>,
}

impl Contents {
    fn new() -> Self {
        let none = Node { parent: Content::EMPTY, write: u32::MAX, length: 0 };
        Self { nodes: vec![none; 2], known: BTreeMap::new() }
    }

    fn appended(&mut self, parent: Content, write: u32, length: u64) -> Content {
        let next = Content(u32::try_from(self.nodes.len()).expect("fewer contents than memory holds"));
        let content = *self.known.entry((parent, write)).or_insert(next);
        if content == next {
            self.nodes.push(Node { parent, write, length });
        }
        content
    }

    /// Whether the bytes of `content`, which has `size` of them, are those that were seen.
    fn agrees(&self, content: Content, size: u64, seen: &Seen) -> bool {
        let start = seen.offset.min(size);
        let end = seen.offset.saturating_add(seen.length).min(size);
        if seen.pieces.iter().map(|piece| piece.length).sum::<u64>() != end - start {
            return false;
        }
        let mut pieces = seen.pieces.iter().rev();
        // The chain is walked from the file's end; `high` is where the node's bytes end.
        let (mut at, mut high) = (content, size);
        while start < end && high > start {
            if at == Content::ANY {
                return true;
            }
            let Some(node) = self.nodes.get(at.0 as usize).filter(|_| at != Content::EMPTY) else {
                return false;
            };
            let Some(low) = high.checked_sub(node.length) else { return false };
            if low < end {
                let from = start.max(low) - low;
                let length = end.min(high) - low - from;
                if pieces.next() != Some(&Span { write: node.write, from, length }) {
                    return false;
                }
            }
            (at, high) = (node.parent, low);
        }
        pieces.next().is_none()
    }
}

/// What an operation found isn't what the model has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mismatch {
    /// At which path.
    pub(crate) path: usize,
    /// What the model has there.
    pub(crate) expected: Option<File>,
}

/// How a change is undone.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Undo {
    /// Paths and what was there; the second one is of a rename.
    first: (usize, Option<File>),
    second: Option<(usize, Option<File>)>,
    inode_max: u64,
}

/// A component's files.
#[derive(Clone, Debug)]
pub(crate) struct Model {
    files: Vec<Option<File>>,
    /// The highest inode number so far: a new file has a higher one.
    inode_max: u64,
    contents: Contents,
}

impl Model {
    /// No files at so many paths.
    pub(crate) fn new(paths: usize) -> Self {
        Self { files: vec![None; paths], inode_max: 0, contents: Contents::new() }
    }

    pub(crate) fn file(&self, path: usize) -> Option<File> {
        self.files[path]
    }

    /// Says that `file` is there, whatever was.
    pub(crate) fn put_back(&mut self, path: usize, file: Option<File>) {
        self.files[path] = file;
        self.inode_max = self.inode_max.max(file.map_or(0, |file| file.inode));
    }

    /// Whether a read may answer so in this state.
    pub(crate) fn agrees(&self, path: usize, effect: &Effect) -> bool {
        self.would_agree(self.files[path], effect)
    }

    /// Whether a read may answer so where `file` is.
    pub(crate) fn would_agree(&self, file: Option<File>, effect: &Effect) -> bool {
        match (file, effect) {
            (None, Effect::Absent) => true,
            (Some(file), Effect::Present { found, seen }) => {
                file.agrees(found)
                    && seen.as_ref().is_none_or(|seen| self.contents.agrees(file.content, file.size, seen))
            }
            _ => false,
        }
    }

    /// Executes a mutation whose version, if it writes, is `version`; nothing is changed where its answer contradicts the state.
    pub(crate) fn apply(&mut self, kind: &Kind, version: u64) -> Result<Undo, Mismatch> {
        let path = kind.path();
        let before = self.files[path];
        let mismatch = Mismatch { path, expected: before };
        let undo = Undo { first: (path, before), second: None, inode_max: self.inode_max };
        match kind {
            Kind::Put { write, length, found, .. } => {
                let content = self.contents.appended(Content::EMPTY, *write, *length);
                let inode = self.inode_after_write(before, found).ok_or(mismatch)?;
                let file = File { inode, version, size: *length, content };
                self.write(path, file, found).ok_or(mismatch)?;
            }
            Kind::Append { write, length, offset, found, .. } => {
                let (size, content) = before.map_or((0, Content::EMPTY), |file| (file.size, file.content));
                if offset.is_some_and(|offset| offset != size) {
                    return Err(mismatch);
                }
                let content = self.contents.appended(content, *write, *length);
                let inode = self.inode_after_write(before, found).ok_or(mismatch)?;
                let file = File { inode, version, size: size + length, content };
                self.write(path, file, found).ok_or(mismatch)?;
            }
            Kind::Delete { found, .. } => {
                before.filter(|file| file.agrees(found)).ok_or(mismatch)?;
                self.files[path] = None;
            }
            Kind::Rename { to, found, .. } => {
                let file = before.filter(|file| file.agrees(found)).ok_or(mismatch)?;
                let replaced = self.files[*to];
                self.files[path] = None;
                self.files[*to] = Some(file);
                return Ok(Undo { second: Some((*to, replaced)), ..undo });
            }
            Kind::Read { .. } => unreachable!("a read isn't applied"),
        }
        Ok(undo)
    }

    /// Executes a mutation whose answer is true although the state contradicts it: what is known afterwards is what it said. `known` has the content of
    /// a version.
    pub(crate) fn force(&mut self, kind: &Kind, version: u64, known: &BTreeMap<u64, Content>) {
        let before = self.files[kind.path()];
        let inode = kind.found().and_then(|found| found.inode).unwrap_or(INODE_ANY);
        match kind {
            Kind::Put { path, write, length, .. } => {
                let content = self.contents.appended(Content::EMPTY, *write, *length);
                self.put_back(*path, Some(File { inode, version, size: *length, content }));
            }
            Kind::Append { path, write, length, offset, found } => {
                let size = found.size.or(offset.map(|offset| offset + length)).unwrap_or(*length);
                let same = before.filter(|file| file.size + length == size);
                let parent = same.map_or(Content::ANY, |file| file.content);
                let content = self.contents.appended(parent, *write, *length);
                self.put_back(*path, Some(File { inode, version, size, content }));
            }
            Kind::Delete { path, .. } => self.files[*path] = None,
            Kind::Rename { path, to, found } => {
                let file = before.filter(|file| file.agrees(found)).or_else(|| found.file(known));
                self.files[*path] = None;
                self.put_back(*to, file);
            }
            Kind::Read { .. } => unreachable!("a read changes nothing"),
        }
    }

    pub(crate) fn undo(&mut self, undo: Undo) {
        if let Some((path, file)) = undo.second {
            self.files[path] = file;
        }
        let (path, file) = undo.first;
        self.files[path] = file;
        self.inode_max = undo.inode_max;
    }

    /// The paths that a change touched.
    pub(crate) fn touched(undo: &Undo) -> impl Iterator<Item = usize> {
        std::iter::once(undo.first.0).chain(undo.second.map(|(path, _)| path))
    }

    /// What was at those paths before.
    pub(crate) fn before(undo: &Undo) -> impl Iterator<Item = (usize, Option<File>)> {
        std::iter::once(undo.first).chain(undo.second)
    }

    /// The inode of the file that a write leaves; `None` where it contradicts the state.
    fn inode_after_write(&self, before: Option<File>, found: &Found) -> Option<u64> {
        match (before, found.inode) {
            (None, Some(inode)) => (inode > self.inode_max).then_some(inode),
            (None, None) => Some(INODE_ANY),
            (Some(file), None) => Some(file.inode),
            (Some(file), Some(inode)) => (file.inode == inode || file.inode == INODE_ANY).then_some(inode),
        }
    }

    fn write(&mut self, path: usize, file: File, found: &Found) -> Option<()> {
        if !file.agrees(found) {
            return None;
        }
        self.put_back(path, Some(file));
        Some(())
    }
}

impl File {
    /// Whether an answer says the same of this file, as far as it says something.
    fn agrees(&self, found: &Found) -> bool {
        let is_version = |version| version == self.version && version != VERSION_NEVER;
        found.size.is_none_or(|size| size == self.size)
            && (self.inode == INODE_ANY || found.inode.is_none_or(|inode| inode == self.inode))
            && (self.version == VERSION_ANY || found.version.is_none_or(is_version))
    }
}

impl Found {
    /// A file that is so.
    pub(crate) fn file(&self, known: &BTreeMap<u64, Content>) -> Option<File> {
        let version = self.version.unwrap_or(VERSION_ANY);
        Some(File {
            inode: self.inode.unwrap_or(INODE_ANY),
            version,
            size: self.size?,
            content: known.get(&version).copied().unwrap_or(Content::ANY),
        })
    }
}

/// What a path and its file add to the hash of a state: the exclusive or of all.
pub(crate) fn hash_of(path: usize, file: Option<File>) -> u128 {
    let Some(File { inode, version, size, content }) = file else { return 0 };
    hash(&[TAG_FILE, path as u64, inode, version, size, content.0.into()])
}

/// What an operation that is done adds to it.
pub(crate) fn hash_of_op(op: usize) -> u128 {
    hash(&[TAG_OP, op as u64])
}

const TAG_FILE: u64 = 1;
const TAG_OP: u64 = 2;

/// 128 bits of some numbers: two states with the same ones are taken for one, which would take 2^64 states.
fn hash(words: &[u64]) -> u128 {
    let half = |seed: u64| {
        words.iter().fold(seed, |hash, word| {
            let mut word = (hash ^ word).wrapping_add(0x9e37_79b9_7f4a_7c15);
            word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            word ^ (word >> 31)
        })
    };
    u128::from(half(0x2545_f491_4f6c_dd1d)) << 64 | u128::from(half(0xc2b2_ae3d_27d4_eb4f))
}
