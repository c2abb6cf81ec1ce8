//! Both checkers over one run's histories, and whether they agree.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use thiserror::Error;

use crate::anomaly::{Anomaly, Class};
use crate::format::History;
use crate::oracle::{self, Findings};
use crate::prepare::{Part, Prepared, prepare};
use crate::record::Record;
use crate::search::{self, Answer};

/// What one checker says of a component.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It can have happened.
    Clean,
    /// It can't.
    Wrong,
    /// It can't say.
    Undecided,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Clean => "clean",
            Self::Wrong => "wrong",
            Self::Undecided => "undecided",
        })
    }
}

/// Paths that renames link, and what the checkers say of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Component {
    /// The paths.
    pub paths: Vec<Arc<str>>,
    /// Operations on them; a list counts for each path.
    pub operations: u64,
    /// What the search says.
    pub search: Verdict,
    /// What the oracle says.
    pub oracle: Verdict,
}

impl Component {
    /// Whether one says that it can have happened, and the other that it can't: one of the two is wrong.
    pub fn is_disputed(&self) -> bool {
        matches!(
            (self.search, self.oracle),
            (Verdict::Clean, Verdict::Wrong) | (Verdict::Wrong, Verdict::Clean)
        )
    }

    /// Whether neither could say.
    pub fn is_undecided(&self) -> bool {
        self.search == Verdict::Undecided && self.oracle == Verdict::Undecided
    }
}

/// What a check found.
#[derive(Clone, Debug, Default)]
pub struct Checked {
    /// Operations of all histories.
    pub operations: u64,
    /// Mutations of unknown outcome.
    pub unknown: u64,
    /// Histories whose process didn't end by itself.
    pub cut: u64,
    /// Components that were checked.
    pub components: u64,
    /// The components that weren't clean to both.
    pub doubtful: Vec<Component>,
    /// What can't have happened.
    pub anomalies: Vec<Anomaly>,
}

impl Checked {
    /// How many anomalies of each class there are.
    pub fn by_class(&self) -> BTreeMap<Class, u64> {
        let mut counts = BTreeMap::new();
        for anomaly in &self.anomalies {
            *counts.entry(anomaly.class).or_default() += 1;
        }
        counts
    }

    /// Components of which one checker says the opposite of the other: a bug of the checkers.
    pub fn disputed(&self) -> impl Iterator<Item = &Component> {
        self.doubtful.iter().filter(|component| component.is_disputed())
    }

    /// Components of which neither checker can say anything.
    pub fn undecided(&self) -> impl Iterator<Item = &Component> {
        self.doubtful.iter().filter(|component| component.is_undecided())
    }
}

/// Histories that can't be checked together.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum CheckError {
    /// There are none.
    #[error("there is no history")]
    None,
    /// Two histories of one process number.
    #[error("two histories are of process {process}: each process needs a number of its own")]
    SameProcess {
        /// The number.
        process: u32,
    },
    /// Times that don't compare.
    #[error("the histories are of different machines or different starts of one: their clocks don't compare")]
    Clocks,
    /// Files of different volumes or directories.
    #[error("the histories are of different volumes or directories")]
    Places,
    /// A process whose writes were read isn't there.
    #[error("the history of process {process} is missing: what it wrote was read")]
    Missing {
        /// Its number.
        process: u32,
    },
    /// Something was there before.
    #[error("the directory wasn't empty when the first of the histories began")]
    NotEmpty,
}

/// Checks the histories of one run.
///
/// What is checked, for each component: whether there is one order of all its operations that agrees with real time, with the commit indices, and
/// with a sequential specification of put, append, get, stat, list, delete and rename, in which an operation of unknown outcome may have taken effect at
/// any time after its beginning or never, and one that was answered as failed never. Beside that, for all components together: that commit indices agree
/// with the order in time.
///
/// What isn't: whether a list shows its names at one moment (each name is checked for itself); reads of unknown outcome; directories;
/// attributes but inode, version and size.
pub fn check(histories: &[History]) -> Result<Checked, CheckError> {
    check_headers(histories)?;
    let prepared = prepare(histories);
    if let Some(process) = prepared.missing.first() {
        return Err(CheckError::Missing { process: *process });
    }
    if prepared.is_old {
        return Err(CheckError::NotEmpty);
    }
    let Prepared { records, parts, anomalies, unknown, .. } = prepared;
    let mut checked = Checked {
        operations: records.len() as u64,
        unknown,
        cut: histories.iter().filter(|history| !history.is_ended).count() as u64,
        components: parts.len() as u64,
        doubtful: Vec::new(),
        anomalies,
    };
    for part in &parts {
        let (component, anomalies) = check_part(part, &records);
        checked.anomalies.extend(anomalies);
        if (component.search, component.oracle) != (Verdict::Clean, Verdict::Clean) {
            checked.doubtful.push(component);
        }
    }
    Ok(checked)
}

fn check_headers(histories: &[History]) -> Result<(), CheckError> {
    let first = &histories.first().ok_or(CheckError::None)?.header;
    let mut processes = BTreeSet::new();
    for History { header, .. } in histories {
        if !processes.insert(header.process) {
            return Err(CheckError::SameProcess { process: header.process });
        }
        if header.boot != first.boot {
            return Err(CheckError::Clocks);
        }
        if (&header.volume, &header.directory) != (&first.volume, &first.directory) {
            return Err(CheckError::Places);
        }
    }
    Ok(())
}

/// Runs both checkers on one component. What is wrong is said in the oracle's words where it has any: it knows what kind of thing it is.
pub(crate) fn check_part(part: &Part, records: &[&Record]) -> (Component, Vec<Anomaly>) {
    let Findings { mut anomalies, undecided } = oracle::walk(part, records);
    let answer = search::search(part);
    let oracle = match (anomalies.is_empty(), undecided) {
        (false, _) => Verdict::Wrong,
        (true, 0) => Verdict::Clean,
        (true, _) => Verdict::Undecided,
    };
    let search = match answer {
        Answer::Linearizable => Verdict::Clean,
        Answer::GaveUp => Verdict::Undecided,
        Answer::Stuck { op, expected, done } => {
            if anomalies.is_empty() {
                let op = &part.ops[op];
                let path = part.paths[op.kind.path()].to_string();
                let state = match expected {
                    None => "nothing was there".to_owned(),
                    Some(file) => format!("{} bytes were there, inode {}", file.size, file.inode),
                };
                let text = format!(
                    "{} at {path}: in no order of the operations; in the longest, behind {done} of {}, {state}",
                    records[op.record],
                    part.ops.len()
                );
                anomalies.push(Anomaly { class: Class::Impossible, path, text });
            }
            Verdict::Wrong
        }
    };
    let component =
        Component { paths: part.paths.clone(), operations: part.ops.len() as u64, search, oracle };
    (component, anomalies)
}
