//! Histories made ready for the checkers: operations of all processes together, cut into components, with what is known of their indices.
//!
//! - Files at paths that no rename links have nothing to do with each other; so each *component*, paths that renames link, is
//!   checked by itself.
//! - A list is a read of each path of its directory, for itself.
//! - An operation of unknown outcome whose bytes were read as the last ones of a version has taken effect, at that version's index.
//! - `low` and `high`: the highest index that anybody had been told when the operation began, and the lowest that anything begun after its
//!   end was told. They hold for all components together, since a volume has one log.

mod bounds;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::anomaly::{Anomaly, Class};
use crate::format::History;
use crate::model::{Content, VERSION_ANY};
use crate::record::{Action, Answer, Outcome, Piece, Record, Stamp};

pub(crate) use bounds::Bounds;

/// A write that no operation of the histories made.
pub(crate) const WRITE_FOREIGN: u32 = u32::MAX;

/// What an answer says about a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) inode: Option<u64>,
    pub(crate) version: Option<u64>,
    pub(crate) size: Option<u64>,
}

/// A run of bytes of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) write: u32,
    pub(crate) from: u64,
    pub(crate) length: u64,
}

/// The bytes that a read saw: all of the file in `offset..offset + length`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) offset: u64,
    pub(crate) length: u64,
    pub(crate) pieces: Vec<Span>,
}

/// What a read saw.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    Absent,
    Present { found: Found, seen: Option<Seen> },
}

/// What an operation does to a component's paths.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Put { path: usize, write: u32, length: u64, found: Found },
    Append { path: usize, write: u32, length: u64, offset: Option<u64>, found: Found },
    Delete { path: usize, found: Found },
    Rename { path: usize, to: usize, found: Found },
    Read { path: usize, effect: Effect },
}

impl Kind {
    pub(crate) fn path(&self) -> usize {
        match self {
            Self::Put { path, .. }
            | Self::Append { path, .. }
            | Self::Delete { path, .. }
            | Self::Rename { path, .. }
            | Self::Read { path, .. } => *path,
        }
    }

    /// Whether it may change what is at the path.
    pub(crate) fn touches(&self, at: usize) -> bool {
        match self {
            Self::Rename { path, to, .. } => *path == at || *to == at,
            Self::Read { .. } => false,
            _ => self.path() == at,
        }
    }

    pub(crate) fn found(&self) -> Option<&Found> {
        match self {
            Self::Put { found, .. }
            | Self::Append { found, .. }
            | Self::Delete { found, .. }
            | Self::Rename { found, .. }
            | Self::Read { effect: Effect::Present { found, .. }, .. } => Some(found),
            Self::Read { effect: Effect::Absent, .. } => None,
        }
    }

    pub(crate) fn is_write(&self) -> bool {
        matches!(self, Self::Put { .. } | Self::Append { .. })
    }

    pub(crate) fn is_read(&self) -> bool {
        matches!(self, Self::Read { .. })
    }
}

/// An operation of a component.
#[derive(Clone, Debug)]
pub(crate) struct Op {
    /// Its place among all records.
    pub(crate) record: usize,
    pub(crate) began: u64,
    /// `u64::MAX`: it has no end.
    pub(crate) ended: u64,
    /// It certainly took effect. The others may have, or not.
    pub(crate) is_sure: bool,
    /// A mutation's place in the log, or what a read saw everything up to.
    pub(crate) index: Option<u64>,
    pub(crate) bounds: Bounds,
    pub(crate) kind: Kind,
}

impl Op {
    /// A sure mutation's version if it writes.
    pub(crate) fn version(&self) -> u64 {
        self.index.unwrap_or(VERSION_ANY)
    }
}

/// Paths that renames link, and what was done to them, in order of beginnings.
#[derive(Clone, Debug, Default)]
pub(crate) struct Part {
    pub(crate) paths: Vec<Arc<str>>,
    pub(crate) ops: Vec<Op>,
    /// Removals and renames that failed, with the paths that they would have touched.
    pub(crate) refused: Vec<(usize, usize)>,
}

/// Everything that the checkers need.
#[derive(Debug, Default)]
pub(crate) struct Prepared<'a> {
    pub(crate) records: Vec<&'a Record>,
    pub(crate) parts: Vec<Part>,
    /// What needs no checker to be seen.
    pub(crate) anomalies: Vec<Anomaly>,
    pub(crate) unknown: u64,
    /// Processes whose bytes were read and whose history isn't there.
    pub(crate) missing: BTreeSet<u32>,
    /// Something was there before all of the histories began.
    pub(crate) is_old: bool,
}

/// Makes histories ready.
pub(crate) fn prepare(histories: &[History]) -> Prepared<'_> {
    let records: Vec<&Record> = histories.iter().flat_map(|history| &history.records).collect();
    let writes: BTreeMap<Stamp, u32> = (0..)
        .zip(&records)
        .filter(|(_, record)| record.action.is_write())
        .map(|(i, r)| (r.stamp, i))
        .collect();
    let mut prepared = Prepared { records, ..Prepared::default() };
    let base = histories.iter().map(|history| history.header.index).min().unwrap_or(0);
    prepared.note_at_once(histories, &writes, base);
    let attributed = attribute(&prepared.records, &writes);
    let bounds = bounds::bounds(&prepared.records, &attributed);
    let mut builder = Builder::new(&prepared.records, &writes);
    for (place, record) in prepared.records.iter().enumerate() {
        if record.outcome == Outcome::Unknown && record.action.is_mutation() {
            prepared.unknown += 1;
        }
        builder.add(place, record, bounds[place], attributed.get(&place).copied());
    }
    prepared.parts = builder.finish();
    prepared
}

impl Prepared<'_> {
    /// Anomalies that one record shows by itself, and who is missing.
    fn note_at_once(&mut self, histories: &[History], writes: &BTreeMap<Stamp, u32>, base: u64) {
        let processes: BTreeSet<u32> = histories.iter().map(|history| history.header.process).collect();
        let mut indices = BTreeMap::new();
        for (place, record) in self.records.iter().enumerate() {
            let mut say = |class, text: String| {
                let path = record.action.path().to_string();
                self.anomalies.push(Anomaly { class, path, text });
            };
            match &record.outcome {
                Outcome::Torn => say(Class::Torn, format!("{record}")),
                Outcome::Corrupt => say(Class::Corrupt, format!("{record}")),
                Outcome::Ok(answer) => {
                    let index = answer.index.filter(|_| record.action.is_mutation());
                    if let Some(other) = index.and_then(|index| indices.insert(index, place)) {
                        let other = self.records[other];
                        say(Class::Order, format!("{record} and {other} have the same index"));
                    }
                    let pieces = answer.seen.iter().flatten();
                    for stamp in pieces.map(|piece| piece.stamp).filter(|stamp| !writes.contains_key(stamp)) {
                        if !processes.contains(&stamp.process) {
                            self.missing.insert(stamp.process);
                        } else if answer.version.is_some_and(|version| version <= base) {
                            self.is_old = true;
                        }
                    }
                }
                Outcome::Absent | Outcome::Failed | Outcome::Unknown => {}
            }
        }
    }
}

/// Writes of unknown outcome that were read as the last one of a version, with what was read. Of two versions the first counts, and the other
/// is an anomaly that the checkers find.
fn attribute(records: &[&Record], writes: &BTreeMap<Stamp, u32>) -> BTreeMap<usize, Found> {
    let mut attributed = BTreeMap::new();
    for record in records {
        let (Action::Get { offset, .. }, Outcome::Ok(answer)) = (&record.action, &record.outcome) else {
            continue;
        };
        let (Some(version), Some(size), Some(pieces)) = (answer.version, answer.size, &answer.seen) else {
            continue;
        };
        let Some(last) = pieces.last() else { continue };
        let Some(place) = writes.get(&last.stamp).map(|place| *place as usize) else { continue };
        let write = records[place];
        let (Action::Put { length, .. } | Action::Append { length, .. }) = &write.action else { continue };
        // It is the last one for certain where the read reached the end, or where the file is this write alone.
        let reaches_end = offset + pieces.iter().map(|piece| piece.length).sum::<u64>() == size;
        let is_whole = matches!(write.action, Action::Put { .. })
            && *length == size
            && (pieces.len() == 1 && last.from == *offset);
        if write.outcome == Outcome::Unknown && (reaches_end || is_whole) {
            let found = Found { inode: answer.inode, version: Some(version), size: Some(size) };
            let known: &mut Found = attributed.entry(place).or_insert(found);
            if known.version > found.version {
                *known = found;
            }
        }
    }
    attributed
}

/// Collects operations by component.
struct Builder<'a> {
    writes: &'a BTreeMap<Stamp, u32>,
    paths: BTreeMap<Arc<str>, usize>,
    /// Of each path: its component and its place in it.
    homes: Vec<(usize, usize)>,
    /// Paths of each directory.
    directories: BTreeMap<String, Vec<usize>>,
    parts: Vec<Part>,
}

impl<'a> Builder<'a> {
    fn new(records: &[&Record], writes: &'a BTreeMap<Stamp, u32>) -> Self {
        let mut paths: BTreeMap<Arc<str>, usize> = BTreeMap::new();
        let mut names: Vec<Arc<str>> = Vec::new();
        let mut links = Links::default();
        let mut note = |path: &Arc<str>, links: &mut Links| {
            let next = names.len();
            let number = *paths.entry(Arc::clone(path)).or_insert(next);
            if number == next {
                names.push(Arc::clone(path));
                links.0.push(next);
            }
            number
        };
        for record in records {
            match (&record.action, &record.outcome) {
                (Action::List { path }, Outcome::Ok(answer)) => {
                    for file in answer.listed.iter().flatten() {
                        note(&Arc::from(format!("{path}/{}", file.name)), &mut links);
                    }
                }
                (Action::List { .. }, _) => {}
                (Action::Rename { path, to }, outcome) => {
                    let (from, to) = (note(path, &mut links), note(to, &mut links));
                    // One that changed nothing links nothing.
                    if matches!(outcome, Outcome::Ok(_) | Outcome::Unknown) {
                        links.join(from, to);
                    }
                }
                (action, _) => {
                    note(action.path(), &mut links);
                }
            }
        }
        let mut parts: Vec<Part> = Vec::new();
        let mut numbers: BTreeMap<usize, usize> = BTreeMap::new();
        let homes = (0..names.len()).map(|path| {
            let part = *numbers.entry(links.root(path)).or_insert_with(|| {
                parts.push(Part::default());
                parts.len() - 1
            });
            parts[part].paths.push(Arc::clone(&names[path]));
            (part, parts[part].paths.len() - 1)
        });
        let homes: Vec<(usize, usize)> = homes.collect();
        let mut directories: BTreeMap<String, Vec<usize>> = BTreeMap::new();
        for (path, number) in &paths {
            let directory = path.rsplit_once('/').map_or("", |(directory, _)| directory);
            match directories.get_mut(directory) {
                Some(files) => files.push(*number),
                None => drop(directories.insert(directory.to_owned(), vec![*number])),
            }
        }
        Self { writes, paths, homes, directories, parts }
    }

    fn home(&self, path: &str) -> (usize, usize) {
        self.homes[self.paths[path]]
    }

    fn add(&mut self, place: usize, record: &Record, bounds: Bounds, attributed: Option<Found>) {
        if let Action::List { path } = &record.action {
            return self.add_list(place, record, path, bounds);
        }
        let (part, path) = self.home(record.action.path());
        let answer = match &record.outcome {
            Outcome::Ok(answer) => Some(answer),
            Outcome::Unknown => None,
            Outcome::Absent => {
                let kind = Kind::Read { path, effect: Effect::Absent };
                return self.push(part, place, record, bounds, None, kind);
            }
            Outcome::Failed => {
                if matches!(record.action, Action::Delete { .. } | Action::Rename { .. }) {
                    self.parts[part].refused.push((place, path));
                }
                if let Action::Rename { to, .. } = &record.action {
                    let (part, path) = self.home(to);
                    self.parts[part].refused.push((place, path));
                }
                return;
            }
            Outcome::Torn | Outcome::Corrupt => return,
        };
        let found = answer.map_or(attributed.unwrap_or_default(), found);
        let write = || u32::try_from(place).expect("fewer records than memory holds");
        let kind = match &record.action {
            Action::Put { length, .. } => Kind::Put { path, write: write(), length: *length, found },
            Action::Append { length, .. } => {
                let offset = answer.and_then(|answer| answer.offset);
                Kind::Append { path, write: write(), length: *length, offset, found }
            }
            Action::Delete { .. } => Kind::Delete { path, found },
            Action::Rename { to, .. } => Kind::Rename { path, to: self.home(to).1, found },
            Action::Get { offset, length, .. } => {
                let Some(answer) = answer else { return };
                let pieces = answer.seen.as_ref().map(|seen| self.spans(seen));
                let seen = pieces.map(|pieces| Seen { offset: *offset, length: *length, pieces });
                Kind::Read { path, effect: Effect::Present { found, seen } }
            }
            Action::Stat { .. } if answer.is_none() => return,
            Action::Stat { .. } => Kind::Read { path, effect: Effect::Present { found, seen: None } },
            Action::List { .. } => unreachable!("taken above"),
        };
        let index = answer.map_or(attributed.and_then(|found| found.version), |answer| answer.index);
        self.push(part, place, record, bounds, index, kind);
    }

    fn add_list(&mut self, place: usize, record: &Record, directory: &str, bounds: Bounds) {
        let listed: BTreeMap<&str, Found> = match &record.outcome {
            Outcome::Ok(Answer { listed: Some(listed), .. }) => {
                let files = listed.iter().map(|file| {
                    let (inode, version) = (Some(file.inode), Some(file.version));
                    (&*file.name, Found { inode, version, size: Some(file.size) })
                });
                files.collect()
            }
            Outcome::Absent => BTreeMap::new(),
            _ => return,
        };
        let files = self.directories.get(directory).cloned().unwrap_or_default();
        for number in files {
            let (part, path) = self.homes[number];
            let name = self.parts[part].paths[path].rsplit('/').next().unwrap_or_default();
            let effect = match listed.get(name) {
                Some(found) => Effect::Present { found: *found, seen: None },
                None => Effect::Absent,
            };
            self.push(part, place, record, bounds, None, Kind::Read { path, effect });
        }
    }

    fn push(
        &mut self,
        part: usize,
        place: usize,
        record: &Record,
        bounds: Bounds,
        index: Option<u64>,
        kind: Kind,
    ) {
        let is_open = record.outcome == Outcome::Unknown;
        let ended = record.ended.filter(|_| !is_open).unwrap_or(u64::MAX);
        let is_sure = !is_open || index.is_some();
        self.parts[part].ops.push(Op {
            record: place,
            began: record.began,
            ended,
            is_sure,
            index,
            bounds,
            kind,
        });
    }

    /// Pieces by the record that wrote them, runs that continue each other put together.
    fn spans(&self, pieces: &[Piece]) -> Vec<Span> {
        let mut spans: Vec<Span> = Vec::with_capacity(pieces.len());
        for piece in pieces {
            let write = self.writes.get(&piece.stamp).copied().unwrap_or(WRITE_FOREIGN);
            match spans.last_mut() {
                Some(last) if last.write == write && last.from + last.length == piece.from => {
                    last.length += piece.length;
                }
                _ => spans.push(Span { write, from: piece.from, length: piece.length }),
            }
        }
        spans
    }

    fn finish(mut self) -> Vec<Part> {
        for part in &mut self.parts {
            part.ops.sort_by_key(|op| (op.began, op.record));
        }
        self.parts
    }
}

fn found(answer: &Answer) -> Found {
    Found { inode: answer.inode, version: answer.version, size: answer.size }
}

/// Sets of paths that renames link.
#[derive(Debug, Default)]
struct Links(Vec<usize>);

impl Links {
    fn root(&mut self, mut at: usize) -> usize {
        while self.0[at] != at {
            self.0[at] = self.0[self.0[at]];
            at = self.0[at];
        }
        at
    }

    fn join(&mut self, left: usize, right: usize) {
        let (left, right) = (self.root(left), self.root(right));
        self.0[left.max(right)] = left.min(right);
    }
}

/// Contents of versions, as they are found out.
pub(crate) type Known = BTreeMap<u64, Content>;
