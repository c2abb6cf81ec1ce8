//! What a run counts, and how a failure is told.

use std::collections::BTreeMap;
use std::fmt::Write;

use crate::scope::Case;
use crate::seeds::TREE_VARIABLE;

/// Counts by row and column.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    counts: BTreeMap<(&'static str, &'static str), u64>,
    /// Things that happened in virtual time.
    pub events: u64,
    /// Operations of clients.
    pub operations: u64,
    /// Virtual nanoseconds.
    pub virtual_nanos: u64,
}

/// Worlds that the checker had at once: of several runs the most.
pub(crate) const WORLDS: &str = "worlds at once";

/// A run that failed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Failed {
    /// What was simulated.
    pub level: &'static str,
    /// The run.
    pub case: Case,
    /// Why.
    pub why: String,
    /// The trace's end.
    pub tail: String,
    /// Operations, faults, and what units said of themselves.
    pub story: Vec<String>,
    /// Numbers of operations that were given out.
    pub operations: u64,
    /// Numbers of faults that were given out.
    pub faults: u64,
}

impl std::fmt::Display for Failed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { level, case, why, tail, .. } = self;
        let tree = std::env::var(TREE_VARIABLE).unwrap_or_else(|_| "as it is".to_owned());
        let arguments = case.arguments(level);
        writeln!(f, "{tail}{level} seed {} (tree {tree}): {why}", case.seed)?;
        writeln!(f, "replay: cargo run -p sim -- {arguments} --trace")?;
        write!(f, "shrink: cargo run -p sim -- {arguments} --shrink")
    }
}

impl Tally {
    /// One more.
    pub fn count(&mut self, row: &'static str, column: &'static str) {
        self.add(row, column, 1);
    }

    /// So many more.
    pub fn add(&mut self, row: &'static str, column: &'static str, count: u64) {
        if count > 0 {
            *self.counts.entry((row, column)).or_insert(0) += count;
        }
    }

    /// A count that is a maximum.
    pub fn at_least(&mut self, row: &'static str, column: &'static str, count: u64) {
        let highest = self.counts.entry((row, column)).or_insert(0);
        *highest = count.max(*highest);
    }

    /// How many there were.
    pub fn of(&self, row: &str, column: &str) -> u64 {
        let found = self.counts.iter().find(|((r, c), _)| *r == row && *c == column);
        found.map_or(0, |(_, count)| *count)
    }

    /// Adds another run's counts.
    pub fn merge(&mut self, other: &Self) {
        for ((row, column), count) in &other.counts {
            match *column {
                WORLDS => self.at_least(row, column, *count),
                _ => self.add(row, column, *count),
            }
        }
        self.events += other.events;
        self.operations += other.operations;
        self.virtual_nanos += other.virtual_nanos;
    }

    /// What was counted of a row.
    pub fn columns(&self, row: &str) -> Vec<&'static str> {
        self.counts.keys().filter(|(name, _)| *name == row).map(|(_, column)| *column).collect()
    }

    /// The table: a line for each row, its columns behind it.
    pub fn table(&self) -> String {
        let mut rows: BTreeMap<&str, Vec<(&str, u64)>> = BTreeMap::new();
        for ((row, column), count) in &self.counts {
            rows.entry(row).or_default().push((column, *count));
        }
        let mut text = String::new();
        for (row, columns) in rows {
            write!(text, "{row:<18}").expect("a string takes everything");
            for (column, count) in columns {
                write!(text, " {column} {count} ·").expect("a string takes everything");
            }
            text.truncate(text.trim_end_matches(" ·").len());
            text.push('\n');
        }
        text
    }
}
