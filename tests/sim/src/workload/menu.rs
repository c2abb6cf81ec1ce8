//! What clients choose from. Each seed leaves some kinds of operations out, so that seeds differ in character and not only in order.

use std::collections::BTreeMap;

use wire::Nanos;
use wire::limits::LIST_ENTRIES_MAX;
use wire::meta::{RenameMode, XattrMode};

use super::{DIRECTORIES, FILES, LINKS};
use crate::content::interesting_length;
use crate::history::{Action, Condition, Dress, Part, Path, XATTRS};
use crate::random::Random;

/// Kinds of operations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Put,
    Write,
    Append,
    Truncate,
    MakeDirectory,
    RemoveFile,
    RemoveDirectory,
    Rename,
    Copy,
    CopyPart,
    MakeLink,
    SetAttributes,
    SetXattr,
    RemoveXattr,
    Read,
    ReadRange,
    ReadLong,
    List,
}

/// Kinds that a seed may leave out together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Family {
    Always,
    Links,
    Attributes,
    Parts,
    Long,
}

/// Every kind with how often it comes, its family, and whether it changes something.
const DISHES: &[(Kind, u64, Family, bool)] = &[
    (Kind::Put, 25, Family::Always, true),
    (Kind::Write, 7, Family::Always, true),
    (Kind::Append, 7, Family::Always, true),
    (Kind::Truncate, 5, Family::Always, true),
    (Kind::MakeDirectory, 5, Family::Always, true),
    (Kind::RemoveFile, 4, Family::Always, true),
    (Kind::RemoveDirectory, 3, Family::Always, true),
    (Kind::Rename, 8, Family::Always, true),
    (Kind::Copy, 5, Family::Always, true),
    (Kind::CopyPart, 8, Family::Parts, true),
    (Kind::MakeLink, 6, Family::Links, true),
    (Kind::SetAttributes, 5, Family::Attributes, true),
    (Kind::SetXattr, 6, Family::Attributes, true),
    (Kind::RemoveXattr, 4, Family::Attributes, true),
    (Kind::Read, 20, Family::Always, false),
    (Kind::ReadRange, 9, Family::Always, false),
    (Kind::ReadLong, 6, Family::Long, false),
    (Kind::List, 8, Family::Always, false),
];

/// What links say: files, directories, each other, themselves, nothing.
const TARGETS: &[&str] = &["a", "d", "d/a", "../b", "/e", "l", "m", "d/l", "nowhere"];

/// What a seed's clients choose from.
#[derive(Clone, Debug)]
pub(super) struct Menu {
    dishes: Vec<(Kind, u64, bool)>,
    links: bool,
}

/// Whom a choice is for.
struct Choice<'a> {
    random: &'a mut Random,
    versions: &'a BTreeMap<Path, u64>,
    chunk_bytes: u64,
    links: bool,
}

impl Menu {
    /// The menu of a seed.
    pub(super) fn new(seed: u64) -> Self {
        let mut random = Random::stream(seed, "menu");
        let families = [Family::Links, Family::Attributes, Family::Parts, Family::Long];
        let on: Vec<Family> = families.into_iter().filter(|_| random.per_mille(500)).collect();
        let is_on = |family: Family| family == Family::Always || on.contains(&family);
        let dishes = DISHES.iter().filter(|(_, _, family, _)| is_on(*family));
        let dishes = dishes.map(|&(kind, weight, _, changes)| (kind, weight, changes)).collect();
        Self { dishes, links: is_on(Family::Links) }
    }

    /// A random operation; `versions` are those that the client knows.
    pub(super) fn choose(
        &self,
        random: &mut Random,
        versions: &BTreeMap<Path, u64>,
        chunk_bytes: u64,
        reads_only: bool,
    ) -> Action {
        let dishes = || self.dishes.iter().filter(|(_, _, changes)| !(*changes && reads_only));
        let mut at = random.below(dishes().map(|(_, weight, _)| weight).sum());
        let mut kind = Kind::Read;
        for (dish, weight, _) in dishes() {
            if at < *weight {
                kind = *dish;
                break;
            }
            at -= weight;
        }
        let mut choice = Choice { random, versions, chunk_bytes, links: self.links };
        choice.action(kind)
    }
}

impl Choice<'_> {
    fn action(&mut self, kind: Kind) -> Action {
        let chunk_bytes = self.chunk_bytes;
        match kind {
            Kind::Put => {
                let path = self.file();
                let (length, condition) = (self.length(), self.condition(&path));
                Action::Replace { path, length, condition, dress: self.dress() }
            }
            Kind::Write => {
                let path = self.file();
                let (length, condition) = (self.length().max(1), self.condition(&path));
                Action::Write { length, offset: self.random.below(3 * chunk_bytes), condition, path }
            }
            Kind::Append => Action::Append { length: self.length().max(1), path: self.file() },
            Kind::Truncate => {
                let path = self.file();
                let condition = self.condition(&path);
                Action::Truncate { size: self.random.below(3 * chunk_bytes), condition, path }
            }
            Kind::Copy | Kind::CopyPart => self.copy(kind == Kind::CopyPart),
            Kind::Read | Kind::ReadRange | Kind::ReadLong => self.read(kind),
            Kind::List => self.list(),
            _ => self.name(kind),
        }
    }

    /// What makes, changes, moves and removes names.
    fn name(&mut self, kind: Kind) -> Action {
        match kind {
            Kind::MakeDirectory => {
                let parents = self.random.per_mille(300);
                Action::MakeDirectory { path: self.directory(), parents }
            }
            Kind::MakeLink => {
                let target = (*self.random.pick(TARGETS)).to_owned();
                Action::MakeLink { path: self.link(), target, replace: self.random.per_mille(400) }
            }
            Kind::RemoveFile => {
                let path = self.file();
                Action::RemoveFile { condition: self.condition(&path), path }
            }
            Kind::RemoveDirectory => Action::RemoveDirectory { path: self.directory() },
            Kind::Rename => {
                let modes = [RenameMode::Replace, RenameMode::NoReplace, RenameMode::Exchange];
                let mode = *self.random.pick(&modes);
                Action::Rename { from: self.anything(), to: self.anything(), mode }
            }
            Kind::SetAttributes => Action::SetAttributes {
                path: self.anything(),
                follow: self.random.per_mille(500),
                mode: self.random.per_mille(700).then_some(self.mode()),
                modified: self.random.per_mille(500).then_some(self.time()),
            },
            Kind::SetXattr => Action::SetXattr {
                path: self.anything(),
                follow: self.random.per_mille(500),
                name: XATTRS[self.random.index(XATTRS.len())],
                mode: *self.random.pick(&[XattrMode::Any, XattrMode::Create, XattrMode::Replace]),
            },
            Kind::RemoveXattr => Action::RemoveXattr {
                path: self.anything(),
                follow: self.random.per_mille(500),
                name: XATTRS[self.random.index(XATTRS.len())],
            },
            _ => unreachable!("contents and reads are chosen elsewhere"),
        }
    }

    fn copy(&mut self, is_part: bool) -> Action {
        let chunk_bytes = self.chunk_bytes;
        let (from, to) = (self.file(), self.file());
        let version = self.versions.get(&from).copied().filter(|_| self.random.per_mille(200));
        let part = is_part.then(|| Part {
            from: self.random.below(2 * chunk_bytes),
            length: if self.random.per_mille(100) { 0 } else { self.length() },
            to: self.random.below(3 * chunk_bytes),
        });
        Action::Copy { from, to, part, version }
    }

    fn read(&mut self, kind: Kind) -> Action {
        let chunk_bytes = self.chunk_bytes;
        let path = if kind == Kind::Read { self.anything() } else { self.file() };
        let follow = self.random.per_mille(400);
        let (from, to, pace) = match kind {
            Kind::ReadRange => {
                let from = self.random.below(2 * chunk_bytes);
                (from, from + self.random.between(1, 2 * chunk_bytes), 0)
            }
            Kind::ReadLong => (0, u64::MAX, self.random.between(100, 3_000) * Nanos::MILLISECOND),
            _ => (0, u64::MAX, 0),
        };
        Action::Read { path, follow, from, to, pace }
    }

    fn list(&mut self) -> Action {
        let path = if self.random.per_mille(600) { String::new() } else { self.directory() };
        let limit = *self.random.pick(&[1, 2, 3, LIST_ENTRIES_MAX]);
        Action::List { path, after: String::new(), limit }
    }

    fn file(&mut self) -> Path {
        if self.links && self.random.per_mille(250) {
            return (*self.random.pick(&["l", "m", "d/l", "l/a", "m/b"])).to_owned();
        }
        (*self.random.pick(FILES)).to_owned()
    }

    fn directory(&mut self) -> Path {
        if self.links && self.random.per_mille(150) {
            return (*self.random.pick(&["l", "m", "l/f"])).to_owned();
        }
        (*self.random.pick(DIRECTORIES)).to_owned()
    }

    fn link(&mut self) -> Path {
        if self.random.per_mille(200) { self.anything() } else { (*self.random.pick(LINKS)).to_owned() }
    }

    fn anything(&mut self) -> Path {
        if self.random.per_mille(650) { self.file() } else { self.directory() }
    }

    fn condition(&mut self, path: &str) -> Condition {
        match (self.random.below(10), self.versions.get(path)) {
            (0 | 1, Some(version)) => Condition::Version(*version),
            (2, _) => Condition::Absent,
            (3, _) => Condition::Present,
            _ => Condition::Any,
        }
    }

    fn dress(&mut self) -> Option<Dress> {
        if !self.random.per_mille(250) {
            return None;
        }
        let modified = self.random.per_mille(500).then_some(self.time());
        Some(Dress { mode: self.mode(), modified, xattr: self.random.per_mille(500) })
    }

    fn mode(&mut self) -> u32 {
        *self.random.pick(&[0o600, 0o640, 0o755, 0o4711])
    }

    fn time(&mut self) -> i64 {
        i64::try_from(self.random.below(1 << 40)).expect("small")
    }

    fn length(&mut self) -> u64 {
        interesting_length(self.random, self.chunk_bytes)
    }
}
