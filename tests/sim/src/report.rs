//! What a run counts, and how a failure is told.

use std::collections::BTreeMap;
use std::fmt::Write;

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

/// A seed that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failed {
    /// What was simulated.
    pub level: &'static str,
    /// The seed.
    pub seed: u64,
    /// Why.
    pub why: String,
    /// The trace's end.
    pub tail: String,
}

impl std::fmt::Display for Failed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { level, seed, why, tail } = self;
        writeln!(f, "{tail}{level} seed {seed}: {why}")?;
        write!(f, "replay: cargo run -p sim -- --level {level} --seed {seed} --trace")
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

    /// How many there were.
    pub fn of(&self, row: &str, column: &str) -> u64 {
        let found = self.counts.iter().find(|((r, c), _)| *r == row && *c == column);
        found.map_or(0, |(_, count)| *count)
    }

    /// Adds another run's counts.
    pub fn merge(&mut self, other: &Self) {
        for ((row, column), count) in &other.counts {
            self.add(row, column, *count);
        }
        self.events += other.events;
        self.operations += other.operations;
        self.virtual_nanos += other.virtual_nanos;
    }

    /// Expected counts that are zero: each is a hole in what the seeds reach, and fails.
    pub fn holes(&self, expected: &[(&'static str, &'static str)]) -> Vec<String> {
        let zero = expected.iter().filter(|(row, column)| self.of(row, column) == 0);
        zero.map(|(row, column)| format!("{row}: {column}")).collect()
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
