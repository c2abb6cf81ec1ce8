//! Makes a failing run small: fewer faults, fewer operations, as long as it fails for the same reason.
//!
//! Delta debugging (Zeller and Hildebrandt, 2002): the numbers of faults, then of operations, are cut into ever smaller parts, and each part is left out for
//! good if the run still fails without it. Streams of randomness don't depend on each other, so what is left mostly stays as it was.

use std::collections::BTreeSet;

use crate::Level;
use crate::report::Failed;
use crate::scope::{Case, Numbers};

/// A failing run, and how it became small.
#[derive(Debug)]
pub struct Shrunk {
    /// The smallest run that failed for the same reason.
    pub failed: Box<Failed>,
    /// Runs that were tried.
    pub tried: usize,
    /// How the first run failed.
    pub first: Box<Failed>,
}

struct Search {
    level: Level,
    best: Box<Failed>,
    reason: String,
    left: usize,
}

/// What is left out.
#[derive(Clone, Copy)]
enum What {
    Faults,
    Operations,
}

/// Shrinks a run; `None` if it doesn't fail. At most `runs` runs are tried.
pub fn shrink(level: Level, case: &Case, runs: usize) -> Option<Shrunk> {
    let first = level.run(case).err()?;
    let mut search = Search { level, reason: reason(&first.why), best: first.clone(), left: runs };
    let all = |only: &Option<Numbers>, most: u64| only.clone().unwrap_or(Numbers((1..=most).collect()));
    let mut start = case.clone();
    start.faults = Some(all(&case.faults, first.faults));
    start.operations = Some(all(&case.operations, first.operations));
    search.best.case = start;
    loop {
        let before = search.size();
        search.reduce(What::Faults);
        search.reduce(What::Operations);
        if search.size() == before || search.left == 0 {
            break;
        }
    }
    Some(Shrunk { failed: search.best, tried: runs - search.left, first })
}

impl Search {
    fn numbers(&self, what: What) -> BTreeSet<u64> {
        let only = match what {
            What::Faults => &self.best.case.faults,
            What::Operations => &self.best.case.operations,
        };
        only.as_ref().map_or_else(BTreeSet::new, |numbers| numbers.0.clone())
    }

    fn size(&self) -> usize {
        self.numbers(What::Faults).len() + self.numbers(What::Operations).len()
    }

    fn reduce(&mut self, what: What) {
        let mut part = self.numbers(what).len();
        while part > 0 {
            let mut numbers: Vec<u64> = self.numbers(what).into_iter().collect();
            // From the end: what came last is needed least often, but for the very last.
            let mut end = numbers.len();
            while end > 0 {
                let start = end.saturating_sub(part);
                let mut fewer = numbers.clone();
                fewer.drain(start..end);
                if self.fails(what, fewer.clone()) {
                    numbers = fewer;
                }
                end = start;
            }
            part /= 2;
        }
    }

    fn fails(&mut self, what: What, only: Vec<u64>) -> bool {
        if self.left == 0 {
            return false;
        }
        self.left -= 1;
        let mut case = self.best.case.clone();
        let only = Some(Numbers(only.into_iter().collect()));
        match what {
            What::Faults => case.faults = only,
            What::Operations => case.operations = only,
        }
        match self.level.run(&case) {
            Err(failed) if reason(&failed.why) == self.reason => {
                self.best = failed;
                true
            }
            _ => false,
        }
    }
}

/// A reason without its numbers and names: up to the first digit or quote, or the first line.
fn reason(why: &str) -> String {
    let line = why.lines().next().unwrap_or_default();
    let end = line.find(|c: char| c.is_ascii_digit() || c == '"' || c == '{').unwrap_or(line.len());
    line[..end].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_compared_without_their_numbers() {
        assert_eq!(reason("I11: wrong bytes of 7-3\nmore"), "I");
        assert_eq!(reason("client 2 leaks slots [(1, 1)]"), "client ");
        assert_eq!(reason("no order explains client 0 operation 3"), reason("no order explains client 1"));
    }

    #[test]
    fn a_run_that_succeeds_is_not_shrunk() {
        let nothing = Some(Numbers(BTreeSet::new()));
        let case = Case { faults: nothing.clone(), operations: nothing, ..Case::new(5) };
        assert!(shrink(Level::Store, &case, 3).is_none());
    }
}
