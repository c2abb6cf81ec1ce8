//! What versions tell: one walk along the log, in time linear in the history but for sorting.
//!
//! A mutation's answer names its place in the log, a read's the place that it saw everything up to. So the mutations are executed in that order,
//! and each answer is compared with the state: order in time (`bounds`), monotone reads, no stale read, no lost write, removals. Answers without
//! an index (nothing is there; a line of a list) have to agree with some state between what was known when they were asked for and what
//! came later; earliest first, in order of time.
//!
//! Operations of unknown outcome are executed where their versions were seen. The others (removals, renames, writes that nobody read) have no
//! place: where an answer contradicts the state and such an operation may have changed the path, it is counted as *undecided*, and the
//! answer is believed. So the oracle never calls right what is wrong only beside such operations, and the search decides there.

use std::collections::BTreeMap;

use crate::anomaly::{Anomaly, Class};
use crate::model::{File, Mismatch, Model, VERSION_ANY};
use crate::prepare::{Effect, Found, Kind, Known, Op, Part, Seen, WRITE_FOREIGN};
use crate::record::{Outcome, Record};

/// What the oracle says.
#[derive(Clone, Debug, Default)]
pub(crate) struct Findings {
    pub(crate) anomalies: Vec<Anomaly>,
    /// Answers that only an operation of unknown outcome could explain.
    pub(crate) undecided: u64,
}

/// Walks along the log of one component.
pub(crate) fn walk(part: &Part, records: &[&Record]) -> Findings {
    let is_unordered = |op: &&Op| op.is_sure && !op.kind.is_read() && op.index.is_none();
    let unordered = part.ops.iter().filter(is_unordered).count() as u64;
    if unordered > 0 {
        // Histories of other systems: there is no log to walk along.
        return Findings { undecided: unordered, ..Findings::default() };
    }
    let mut walk = Walk::new(part, records);
    walk.indexed();
    walk.unindexed();
    walk.findings
}

struct Walk<'a> {
    part: &'a Part,
    records: &'a [&'a Record],
    model: Model,
    known: Known,
    /// Of each path: from which index on it had which file.
    timelines: Vec<Vec<(u64, Option<File>)>>,
    free: Vec<&'a Op>,
    /// Of each version: the beginning of the last read that saw it.
    seen_last: BTreeMap<u64, u64>,
    findings: Findings,
}

impl<'a> Walk<'a> {
    fn new(part: &'a Part, records: &'a [&'a Record]) -> Self {
        let mut seen_last = BTreeMap::new();
        for op in part.ops.iter().filter(|op| op.kind.is_read()) {
            if let Some(version) = op.kind.found().and_then(|found| found.version) {
                let last: &mut u64 = seen_last.entry(version).or_default();
                *last = op.began.max(*last);
            }
        }
        Self {
            part,
            records,
            model: Model::new(part.paths.len()),
            known: Known::new(),
            timelines: vec![vec![(0, None)]; part.paths.len()],
            free: part.ops.iter().filter(|op| !op.is_sure).collect(),
            seen_last,
            findings: Findings::default(),
        }
    }

    /// Mutations, and reads that say how far they saw.
    fn indexed(&mut self) {
        let mut steps: Vec<(u64, bool, &Op)> =
            self.part.ops.iter().filter_map(|op| Some((op.index?, op.kind.is_read(), op))).collect();
        steps.sort_by_key(|(index, is_read, op)| (*index, *is_read, op.record));
        for (index, is_read, op) in steps {
            if !op.bounds.admit(index, !is_read) {
                let (low, high) = (op.bounds.low, op.bounds.high);
                let what = if index > high { high } else { low };
                let when = if index > high { "after it had ended" } else { "before it began" };
                self.say(Class::Order, op, &format!("index {what} belongs to what was seen {when}"));
            }
            match &op.kind {
                Kind::Read { path, effect } => self.read(op, *path, effect, index),
                kind => self.mutate(op, kind, index),
            }
        }
    }

    fn mutate(&mut self, op: &'a Op, kind: &Kind, index: u64) {
        if let Err(Mismatch { path, expected }) = self.model.apply(kind, op.version()) {
            self.contradiction(op, path, expected, index);
            self.model.force(kind, op.version(), &self.known);
        }
        let target = if let Kind::Rename { to, .. } = kind { Some(*to) } else { None };
        for path in std::iter::once(kind.path()).chain(target) {
            let file = self.model.file(path);
            self.timelines[path].push((index, file));
            if let Some(file) = file.filter(|_| kind.is_write()) {
                self.known.insert(file.version, file.content);
            }
        }
    }

    fn read(&mut self, op: &'a Op, path: usize, effect: &Effect, index: u64) {
        if self.model.agrees(path, effect) {
            return;
        }
        let expected = self.model.file(path);
        if self.contradiction(op, path, expected, index) {
            let file = match effect {
                Effect::Absent => None,
                Effect::Present { found, .. } => found.file(&self.known),
            };
            self.model.put_back(path, file);
            self.timelines[path].push((index, file));
        }
    }

    /// Reads that say of what they saw, but not when.
    fn unindexed(&mut self) {
        let part = self.part;
        // Ends of reads that have their place, with the place; and the highest place of those that had ended.
        let mut placed: BTreeMap<(u64, usize), u64> = BTreeMap::new();
        let mut floor = 0;
        for (number, op) in
            part.ops.iter().enumerate().filter(|(_, op)| op.kind.is_read() && op.index.is_none())
        {
            while let Some(first) = placed.first_entry()
                && first.key().0 < op.began
            {
                floor = floor.max(first.remove());
            }
            let Kind::Read { path, effect } = &op.kind else { unreachable!("filtered above") };
            let low = op.bounds.low.max(floor);
            if let Some(place) = self.place(*path, effect, low, op.bounds.high) {
                placed.insert((op.ended, number), place);
            } else {
                let at = self.timelines[*path].partition_point(|(index, _)| *index <= low);
                let expected = self.timelines[*path][at - 1].1;
                self.contradiction(op, *path, expected, op.bounds.high);
            }
        }
    }

    /// The lowest index in `low..=high` at which the path was so.
    fn place(&mut self, path: usize, effect: &Effect, low: u64, high: u64) -> Option<u64> {
        let from = self.timelines[path].partition_point(|(index, _)| *index <= low) - 1;
        for at in from..self.timelines[path].len() {
            let (index, file) = self.timelines[path][at];
            // Of two changes at one index the last one counts.
            let is_over = self.timelines[path].get(at + 1).is_some_and(|(next, _)| *next == index);
            if index > high {
                return None;
            }
            if !is_over && self.model.would_agree(file, effect) {
                return Some(index.max(low));
            }
        }
        None
    }

    /// An answer and the state contradict each other. Whether an operation of unknown outcome may be why; else it is an anomaly.
    fn contradiction(&mut self, op: &'a Op, path: usize, expected: Option<File>, before: u64) -> bool {
        let may_explain =
            |free: &&Op| free.kind.touches(path) && free.bounds.low < before && free.began <= op.ended;
        if self.free.iter().any(may_explain) {
            self.findings.undecided += 1;
            return true;
        }
        let class = self.classify(op, path, expected);
        let text = match expected {
            None => "nothing was there".to_owned(),
            Some(File { version, size, .. }) => format!("version {version} with {size} bytes was there"),
        };
        self.say(class, op, &text);
        false
    }

    fn say(&mut self, class: Class, op: &Op, what: &str) {
        let path = self.part.paths[op.kind.path()].to_string();
        let text = format!("{} at {path}: {what}", self.records[op.record]);
        self.findings.anomalies.push(Anomaly { class, path, text });
    }

    /// What kind of contradiction it is, as far as one answer shows.
    fn classify(&self, op: &Op, path: usize, expected: Option<File>) -> Class {
        if let Kind::Read { effect: Effect::Present { seen: Some(seen), found }, .. } = &op.kind
            && let Some(class) = self.classify_bytes(seen, found, expected)
        {
            return class;
        }
        let is_refused =
            |(record, at): &(usize, usize)| *at == path && self.records[*record].began <= op.ended;
        let took_effect = self.part.refused.iter().any(is_refused);
        let (found, is_gone) = match &op.kind {
            Kind::Append { offset: Some(offset), .. }
                if expected.is_some_and(|file| file.size != *offset) =>
            {
                let is_less = expected.is_some_and(|file| *offset < file.size);
                return if is_less { Class::Lost } else { Class::Double };
            }
            // A put finds a file, or makes one.
            Kind::Put { found, .. } | Kind::Append { found, .. } => {
                let is_new = found.inode > expected.map(|file| file.inode);
                return match expected {
                    Some(_) if is_new && took_effect => Class::TookEffect,
                    Some(_) if is_new => Class::Lost,
                    _ => Class::Resurrected,
                };
            }
            Kind::Read { effect: Effect::Absent, .. } => (Found::default(), true),
            kind => (kind.found().copied().unwrap_or_default(), false),
        };
        match expected {
            _ if took_effect && is_gone => Class::TookEffect,
            Some(_) if is_gone => Class::Lost,
            None if !is_gone && self.was_there(path, &found) => Class::Resurrected,
            Some(file) if found.version.is_some_and(|version| version < file.version) => {
                // Whoever saw the newer one later says that it isn't lost.
                let is_seen = self.seen_last.get(&file.version).is_some_and(|began| *began > op.ended);
                if is_seen { Class::Stale } else { Class::Lost }
            }
            _ if took_effect => Class::TookEffect,
            _ => Class::Impossible,
        }
    }

    fn classify_bytes(&self, seen: &Seen, found: &Found, expected: Option<File>) -> Option<Class> {
        let mut ends: BTreeMap<u32, u64> = BTreeMap::new();
        for span in &seen.pieces {
            if span.write == WRITE_FOREIGN {
                return Some(Class::Foreign);
            }
            if self.records[span.write as usize].outcome == Outcome::Failed {
                return Some(Class::TookEffect);
            }
            if ends.insert(span.write, span.from + span.length).is_some_and(|end| span.from < end) {
                return Some(Class::Double);
            }
        }
        let is_same = expected.is_some_and(|file| found.version == Some(file.version));
        if is_same && expected.is_some_and(|file| file.version != VERSION_ANY) {
            return Some(Class::Torn);
        }
        // The last write of the version that was read is known to have made another one.
        let last = seen.pieces.last()?;
        let made = self.part.ops.iter().find(|op| op.record == last.write as usize)?.index?;
        (found.version? > made && !self.known.contains_key(&found.version?)).then_some(Class::Double)
    }

    /// Whether a path had this version before.
    fn was_there(&self, path: usize, found: &Found) -> bool {
        let files = self.timelines[path].iter().filter_map(|(_, file)| *file);
        found.version.is_some_and(|version| files.into_iter().any(|file| file.version == version))
    }
}
