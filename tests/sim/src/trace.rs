//! What happened, as text: hashed line by line, so that two runs of one seed can be compared; printed when asked for.

use std::fmt::{self, Write};

use wire::Nanos;
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Trace {
    hash: u64,
    printed: bool,
    line: String,
    /// The last lines, for a failure's report.
    tail: std::collections::VecDeque<String>,
    /// What a person wants to read of it: operations and faults.
    story: Vec<String>,
}

/// Lines that a failure's report shows.
const TAIL_LINES: usize = 60;
/// Lines of a story: more than any seed has.
const STORY_LINES_MAX: usize = 20_000;

impl Trace {
    /// A trace; `printed`: on standard error too.
    pub(crate) fn new(printed: bool) -> Self {
        Self { printed, ..Self::default() }
    }

    /// Adds a line.
    pub(crate) fn note(&mut self, now: Nanos, what: fmt::Arguments<'_>) {
        self.line.clear();
        self.line.write_fmt(format_args!("{:>14} {what}", now.0 / 1000)).expect("a string takes everything");
        self.hash = xxh3_64_with_seed(self.line.as_bytes(), self.hash);
        if self.printed {
            eprintln!("{}", self.line);
        }
        let mut recycled = if self.tail.len() == TAIL_LINES {
            self.tail.pop_front().unwrap_or_default()
        } else {
            String::new()
        };
        recycled.clear();
        recycled.push_str(&self.line);
        self.tail.push_back(recycled);
    }

    /// Adds a line that belongs to the story.
    pub(crate) fn tell(&mut self, now: Nanos, what: fmt::Arguments<'_>) {
        self.note(now, what);
        if self.story.len() < STORY_LINES_MAX {
            self.story.push(self.line.clone());
        }
    }

    /// Operations, faults, and what units said of themselves.
    pub(crate) fn story(&self) -> Vec<String> {
        self.story.clone()
    }

    /// The hash over all lines.
    pub(crate) fn hash(&self) -> u64 {
        self.hash
    }

    /// The last lines.
    pub(crate) fn tail(&self) -> String {
        self.tail.iter().fold(String::new(), |text, line| text + line + "\n")
    }
}
