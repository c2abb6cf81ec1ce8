//! The checker: is there an order of all operations that a plain map could have executed, that agrees with real time and with all that
//! clients were told?
//!
//! Every executed mutation was told its place in the group's log, and every read the index that it was made at. So the order is known but for two
//! kinds of operations, and checking is one walk along the log, in time linear in the history:
//!
//! - *Unknown* mutations (no answer came) stay open for ever: each may have been executed anywhere behind its beginning, or never. The walk keeps
//!   a set of *worlds*. Before a mutation, worlds are added in which open mutations that touch its paths, or touch what those touch, have been
//!   executed in any order; those that touch nothing of the kind commute with it and can wait. A read changes nothing, so whatever it doesn't
//!   need can wait as well: open mutations are executed only until the read agrees.
//! - Reads answered "not there" carry no index: such a read must hold in some state between what had ended when it began, and what began when
//!   it had ended.
//!
//! A mutation that certainly was not executed is never executed in any world: if it took effect nevertheless, a later read finds no world.

mod relation;

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use wire::{Nanos, Status};

use crate::content::difference;
use crate::history::{Action, Ending, Record, Row, Seen, xattr_value};
use crate::model::{Kind, Made, Node, Tree};
use crate::report::{Tally, WORLDS};

/// What the clients saw can't have happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Anomaly(pub String);

impl std::fmt::Display for Anomaly {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a check did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Summary {
    /// Operations that had to fit.
    pub checked: u64,
    /// Mutations whose outcome nobody was told.
    pub unknown: u64,
    /// Worlds at once, at most.
    pub worlds_max: usize,
}

impl Summary {
    /// Counts it for the table.
    pub(crate) fn tally(&self, tally: &mut Tally) {
        tally.add("checker", "checked", self.checked);
        tally.add("checker", "unknown", self.unknown);
        tally.at_least("checker", WORLDS, self.worlds_max as u64);
    }
}

/// More worlds than this is a history that the checker can't decide; it is reported as an anomaly of the test, never passed over.
const WORLDS_MAX: usize = 1_000_000;

/// States that the system may be in: a tree, and what is still possible from there. Of two with one tree, one that has every possibility of
/// the other stands for both.
#[derive(Clone, Debug, Default)]
struct Worlds {
    by_tree: BTreeMap<Tree, Vec<Open>>,
    count: usize,
}

/// What a world has left open.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Open {
    /// Unknown mutations that were not executed, by place in the history.
    mutations: Rc<BTreeSet<usize>>,
    /// "Not there" answers under way that held once.
    held: Rc<BTreeSet<usize>>,
}

impl Open {
    fn covers(&self, other: &Self) -> bool {
        other.mutations.is_subset(&self.mutations) && other.held.is_subset(&self.held)
    }
}

impl Worlds {
    /// Whether this world is new.
    fn insert(&mut self, tree: Tree, open: Open) -> bool {
        let same = self.by_tree.entry(tree).or_default();
        if same.iter().any(|known| known.covers(&open)) {
            return false;
        }
        let before = same.len();
        same.retain(|known| !open.covers(known));
        same.push(open);
        self.count = self.count + same.len() - before;
        true
    }

    fn into_iter(self) -> impl Iterator<Item = (Tree, Open)> {
        self.by_tree
            .into_iter()
            .flat_map(|(tree, opens)| opens.into_iter().map(move |open| (tree.clone(), open)))
    }
}

struct Walk<'a> {
    seed: u64,
    records: &'a [Record],
    floors: Vec<u64>,
    /// Indices that executed mutations have.
    taken: BTreeSet<u64>,
    worlds: Worlds,
    summary: Summary,
}

/// An answer without index, and between which indices it must hold.
struct Absence {
    record: usize,
    low: u64,
    high: u64,
}

/// Checks a history.
pub(crate) fn check(seed: u64, records: &[Record]) -> Result<Summary, Anomaly> {
    let floors = floors(records);
    let taken = real_time(records, &floors)?;
    let open: BTreeSet<usize> = places(records, |record| record.ending == Ending::Unknown).collect();
    let summary = Summary { unknown: open.len() as u64, ..Summary::default() };
    let mut worlds = Worlds::default();
    worlds.insert(Tree::default(), Open { mutations: Rc::new(open), held: Rc::default() });
    let mut walk = Walk { seed, records, floors, taken, worlds, summary };
    walk.run()?;
    Ok(walk.summary)
}

fn places<'a>(
    records: &'a [Record],
    mut which: impl FnMut(&Record) -> bool + 'a,
) -> impl Iterator<Item = usize> + 'a {
    records.iter().enumerate().filter(move |(_, record)| which(record)).map(|(i, _)| i)
}

/// For each operation the highest index that had been seen by anybody when it began.
fn floors(records: &[Record]) -> Vec<u64> {
    let mut ends: Vec<(Nanos, u64)> =
        records.iter().filter_map(|record| Some((record.ended, record.ending.index()?))).collect();
    ends.sort_unstable();
    let mut highest = 0;
    for (_, index) in &mut ends {
        highest = highest.max(*index);
        *index = highest;
    }
    let floor = |began: Nanos| {
        let before = ends.partition_point(|(ended, _)| *ended < began);
        before.checked_sub(1).map_or(0, |last| ends[last].1)
    };
    records.iter().map(|record| floor(record.began)).collect()
}

/// Order of indices against order in real time (I8): the fast half of the check.
fn real_time(records: &[Record], floors: &[u64]) -> Result<BTreeSet<u64>, Anomaly> {
    let mut taken = BTreeSet::new();
    for (record, floor) in records.iter().zip(floors) {
        let Some(index) = record.ending.index() else { continue };
        let is_mutation = record.action.is_mutation();
        if index < *floor || (is_mutation && index == *floor) {
            return Err(Anomaly(format!(
                "real-time order: {} has index {index}, but {floor} had been seen before it began",
                describe(record)
            )));
        }
        if is_mutation && !taken.insert(index) {
            return Err(Anomaly(format!("{}: index {index} was given out twice", describe(record))));
        }
    }
    Ok(taken)
}

impl Walk<'_> {
    fn run(&mut self) -> Result<(), Anomaly> {
        let mut steps: Vec<(u64, bool, usize)> = (0..)
            .zip(self.records)
            .filter_map(|(i, record)| Some((record.ending.index()?, !record.action.is_mutation(), i)))
            .collect();
        steps.sort_unstable();
        let mut absences = self.absences();
        absences.sort_unstable_by_key(|absence| absence.low);
        let mut waiting = absences.into_iter().peekable();
        let mut active: Vec<Absence> = Vec::new();
        for (index, _, record) in steps {
            self.close_absences(&mut active, Some(index))?;
            while waiting.peek().is_some_and(|absence| absence.low < index) {
                let absence = waiting.next().expect("peeked");
                self.try_absence(&absence)?;
                active.push(absence);
            }
            self.close_absences(&mut active, Some(index))?;
            self.step(record)?;
            for absence in &active {
                self.try_absence(absence)?;
            }
        }
        for absence in waiting {
            self.try_absence(&absence)?;
            active.push(absence);
        }
        self.close_absences(&mut active, None)
    }

    /// Reads answered with a status that says what is not there.
    fn absences(&self) -> Vec<Absence> {
        let mut begins: Vec<(Nanos, u64)> = self
            .records
            .iter()
            .filter_map(|record| {
                let index = record.ending.index()?;
                Some((record.began, if record.action.is_mutation() { index - 1 } else { index }))
            })
            .collect();
        begins.sort_unstable();
        let mut lowest = u64::MAX;
        for (_, index) in begins.iter_mut().rev() {
            lowest = lowest.min(*index);
            *index = lowest;
        }
        let high = |ended: Nanos| {
            let after = begins.partition_point(|(began, _)| *began <= ended);
            begins.get(after).map_or(u64::MAX, |(_, index)| *index)
        };
        places(self.records, |record| matches!(record.ending, Ending::Refused(_)))
            .map(|i| Absence { record: i, low: self.floors[i], high: high(self.records[i].ended) })
            .collect()
    }

    /// Worlds in which an absence whose time has run out never held are none.
    fn close_absences(&mut self, active: &mut Vec<Absence>, next: Option<u64>) -> Result<(), Anomaly> {
        let over = |absence: &Absence| next.is_none_or(|next| absence.high < next);
        for absence in active.extract_if(.., |absence| over(absence)) {
            let before = std::mem::take(&mut self.worlds);
            let example = before.by_tree.keys().next().cloned();
            for (tree, mut open) in before.into_iter() {
                if open.held.contains(&absence.record) {
                    Rc::make_mut(&mut open.held).remove(&absence.record);
                    self.worlds.insert(tree, open);
                }
            }
            self.summary.checked += 1;
            if self.worlds.count == 0 {
                return Err(self.impossible(absence.record, example.as_ref()));
            }
        }
        Ok(())
    }

    /// Marks the worlds in which an absence holds now, and adds those in which it would.
    fn try_absence(&mut self, absence: &Absence) -> Result<(), Anomaly> {
        let before = std::mem::take(&mut self.worlds);
        let mut queue: Vec<(Tree, Open)> = before.into_iter().collect();
        let mut seen = Worlds::default();
        while let Some((tree, mut open)) = queue.pop() {
            if open.held.contains(&absence.record) || self.is_absent(&tree, absence.record) {
                Rc::make_mut(&mut open.held).insert(absence.record);
            } else if seen.insert(tree.clone(), open.clone()) {
                self.successors(&tree, &open, absence.record, &mut queue);
            }
            self.worlds.insert(tree, open);
            self.bound(&seen)?;
        }
        Ok(())
    }

    fn is_absent(&self, tree: &Tree, place: usize) -> bool {
        let record = &self.records[place];
        let Ending::Refused(status) = record.ending else { unreachable!("an absence is a refusal") };
        let path = record.action.paths()[0].map_or("", |path| path);
        match (&record.action, tree.look(path, record.action.follows())) {
            (_, Ok(None)) => status == Status::NotFound,
            (_, Err(why)) => status == why,
            (Action::List { .. }, Ok(Some((_, node)))) if node.kind != Kind::Directory => {
                status == Status::NotDirectory
            }
            _ => false,
        }
    }

    /// Executes a mutation, or compares a read, whose index is known.
    fn step(&mut self, place: usize) -> Result<(), Anomaly> {
        self.summary.checked += 1;
        let is_mutation = self.records[place].action.is_mutation();
        let before = std::mem::take(&mut self.worlds);
        let example = before.by_tree.keys().next().cloned();
        let mut queue: Vec<(Tree, Open)> = before.into_iter().collect();
        let mut seen = Worlds::default();
        while let Some((tree, open)) = queue.pop() {
            if !seen.insert(tree.clone(), open.clone()) {
                continue;
            }
            let mut after = tree.clone();
            let fits = self.fits(&mut after, place);
            if is_mutation || !fits {
                self.successors(&tree, &open, place, &mut queue);
            }
            if fits {
                self.worlds.insert(after, open);
            }
            self.bound(&seen)?;
        }
        if self.worlds.count == 0 { Err(self.impossible(place, example.as_ref())) } else { Ok(()) }
    }

    fn bound(&mut self, seen: &Worlds) -> Result<(), Anomaly> {
        let count = seen.count.max(self.worlds.count);
        self.summary.worlds_max = self.summary.worlds_max.max(count);
        if count <= WORLDS_MAX {
            return Ok(());
        }
        Err(Anomaly(format!("undecided: {WORLDS_MAX} worlds, {} unknown mutations", self.summary.unknown)))
    }

    /// Adds the worlds that one more open mutation leads to, of those that have to do with this step.
    fn successors(&self, tree: &Tree, open: &Open, place: usize, queue: &mut Vec<(Tree, Open)>) {
        let ending = self.records[place].ending.index();
        for candidate in relation::related(self.records, place, &open.mutations, tree) {
            if ending.is_some_and(|index| index <= self.floors[candidate]) {
                continue;
            }
            let mut next = tree.clone();
            let record = &self.records[candidate];
            self.learn_from_condition(&mut next, &record.action, u64::MAX);
            let done = next.execute(&record.action, record.stamp, Made::By(record.stamp));
            // A failed one changes nothing, so that executing it leads nowhere.
            if done.is_ok() && next != *tree {
                let mut open = open.clone();
                Rc::make_mut(&mut open.mutations).remove(&candidate);
                queue.push((next, open));
            }
        }
    }

    fn fits(&self, tree: &mut Tree, place: usize) -> bool {
        let record = &self.records[place];
        match &record.ending {
            Ending::Executed { index, status, version, offset, size } => {
                if condition_held(&record.action, *status) {
                    self.learn_from_condition(tree, &record.action, *index);
                }
                match tree.execute(&record.action, record.stamp, Made::At(*index)) {
                    Ok(effect) => {
                        *status == Status::Ok
                            && effect
                                .version
                                .is_none_or(|made| self.same_version(tree, made, *version, *index))
                            && effect.offset.is_none_or(|expected| expected == *offset)
                            && effect.size.is_none_or(|expected| expected == *size)
                    }
                    Err((why, in_the_way)) => {
                        *status == why
                            && in_the_way.is_none_or(|made| self.same_version(tree, made, *version, *index))
                    }
                }
            }
            Ending::Found { index, seen } => self.agrees(tree, record, *index, seen),
            Ending::Listed { rows, end, .. } => lists(tree, &record.action, rows, *end),
            Ending::NotExecuted | Ending::Unknown | Ending::Refused(_) | Ending::Nothing => {
                unreachable!("only endings with an index are steps")
            }
        }
    }

    fn agrees(&self, tree: &mut Tree, record: &Record, index: u64, seen: &Seen) -> bool {
        let path = record.action.paths()[0].map_or("", |path| path);
        let Ok(Some((at, node))) = tree.look(path, record.action.follows()) else { return false };
        if seen.kind != node.kind() || seen.size != tree.size(&at, &node) || !same_attributes(&node, seen) {
            return false;
        }
        match &node.kind {
            Kind::Directory => true,
            Kind::Link(target) => *target == seen.target,
            Kind::File { content, made } => {
                let bytes_agree = seen.bytes.as_ref().is_none_or(|(from, bytes)| {
                    let to = from.saturating_add(bytes.len() as u64);
                    to <= content.len() && difference(self.seed, &content.range(*from, to), bytes).is_none()
                });
                bytes_agree && self.same_version(tree, *made, seen.version, index)
            }
        }
    }

    /// Where a condition on a version held and the file is there, it had that version: its maker's index is known now.
    fn learn_from_condition(&self, tree: &mut Tree, action: &Action, index: u64) {
        if let Some((path, follow, version)) = action.demanded()
            && let Ok(Some((_, node))) = tree.look(path, follow)
            && let Kind::File { made, .. } = node.kind
        {
            self.same_version(tree, made, version, index);
        }
    }

    /// Whether a file's version can be the one that was seen at `index`; learns the index of an unknown mutation.
    fn same_version(&self, tree: &mut Tree, made: Made, seen: u64, index: u64) -> bool {
        match made {
            Made::At(known) => known == seen,
            Made::By(stamp) => {
                let begun = places(self.records, |record| record.stamp == stamp)
                    .next()
                    .is_some_and(|place| self.floors[place] < seen);
                let possible = begun && seen <= index && !self.taken.contains(&seen);
                if possible {
                    tree.bind(stamp, seen);
                }
                possible
            }
        }
    }

    fn impossible(&self, place: usize, example: Option<&Tree>) -> Anomaly {
        let record = &self.records[place];
        let mut text = format!("no order explains {}", describe(record));
        if let Some(tree) = example {
            text.extend(["\n  the map before it, in one world:", &render(tree)]);
            if let (Ending::Found { seen: Seen { bytes: Some((from, bytes)), .. }, .. }, Some(path)) =
                (&record.ending, record.action.paths()[0])
                && let Ok(Some((_, node))) = tree.look(path, record.action.follows())
                && let Kind::File { content, .. } = &node.kind
            {
                let expected = content.range(*from, *from + bytes.len() as u64);
                if let Some(difference) = difference(self.seed, &expected, bytes) {
                    text.extend(["\n  bytes: ", &difference]);
                }
            }
        }
        Anomaly(text)
    }
}

/// Whether a condition on a version held, if the file was there. A copy looks at its source first: what else is wrong is wrong with its target.
fn condition_held(action: &Action, status: Status) -> bool {
    match status {
        Status::Ok => true,
        Status::NotFound | Status::NotDirectory | Status::IsDirectory | Status::TooManyLinks => {
            matches!(action, Action::Copy { .. })
        }
        _ => false,
    }
}

/// Whether a listing's page is the directory's at this moment.
fn lists(tree: &Tree, action: &Action, rows: &[Row], end: bool) -> bool {
    let Action::List { path, after, limit } = action else { unreachable!("only listings list") };
    let Ok(Some((at, node))) = tree.look(path, true) else { return false };
    let mut expected = tree.rows(&at, after);
    let is_end = expected.len() <= *limit as usize;
    expected.truncate(*limit as usize);
    node.kind == Kind::Directory && end == is_end && expected == rows
}

/// The group's own times are not known here; what a client set is.
fn same_attributes(node: &Node, seen: &Seen) -> bool {
    let is_directory = node.kind == Kind::Directory;
    let xattrs = node.xattrs.iter().map(|(name, stamp)| (name.as_bytes().to_vec(), xattr_value(*stamp)));
    node.mode == seen.mode
        && (is_directory || node.modified.is_none_or(|modified| modified == seen.modified))
        && xattrs.eq(seen.xattrs.iter().map(|(name, value)| (name.clone(), value.clone())))
}

/// One operation, for a person.
pub(crate) fn describe(record: &Record) -> String {
    let ending = match &record.ending {
        Ending::Found { index, seen } => {
            let bytes = seen.bytes.as_ref().map(|(from, bytes)| (*from, bytes.len()));
            format!(
                "{:?} of {} bytes, version {}, mode {:o}, {} xattrs, at {index}, read {bytes:?}",
                seen.kind,
                seen.size,
                seen.version,
                seen.mode,
                seen.xattrs.len()
            )
        }
        other => format!("{other:?}"),
    };
    let (client, stamp) = (record.client, record.stamp.0);
    format!(
        "client {client} operation {stamp} ({}..{} µs) {:?} → {ending}",
        record.began.0 / 1000,
        record.ended.0 / 1000,
        record.action
    )
}

fn render(tree: &Tree) -> String {
    let mut by_path: BTreeMap<&str, String> = BTreeMap::new();
    for (path, node) in tree.iter() {
        let text = match &node.kind {
            Kind::Directory => "directory".to_owned(),
            Kind::File { content, made } => format!("{} bytes, {made:?}", content.len()),
            Kind::Link(target) => format!("link to {target}"),
        };
        let attributes = format!(", mode {:o}, {:?}, xattrs {:?}", node.mode, node.modified, node.xattrs);
        by_path.insert(path, text + &attributes);
    }
    by_path.iter().fold(String::new(), |text, (path, what)| format!("{text}\n    /{path}: {what}"))
}

#[cfg(test)]
mod tests;
