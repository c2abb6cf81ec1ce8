//! The checkers are checked: each planted bug has a recorded seed that catches it, and that passes without it.

use std::ops::Range;

use wire::planted::Bug;

use crate::{Case, Level};

/// `bug level seed` a line: a catching seed for each bug.
const RECORDED: &str = include_str!("../planted.txt");

/// Whether this build has the bugs.
pub fn is_built_in() -> bool {
    cfg!(planted)
}

/// Switches a bug on for the whole process.
pub fn switch_on(name: &str) -> Result<(), String> {
    let bug = Bug::SIMULATED.iter().copied().find(|bug| format!("{bug:?}") == name);
    let bug =
        bug.ok_or_else(|| format!("no planted bug is called {name}; there are {:?}", Bug::SIMULATED))?;
    if !is_built_in() {
        return Err(format!("this build has no {bug:?}: RUSTFLAGS='--cfg planted'"));
    }
    #[cfg(planted)]
    wire::planted::choose(Some(bug));
    Ok(())
}

/// The recorded catching seeds.
pub fn recorded() -> Vec<(Bug, Level, u64)> {
    let lines = RECORDED.lines().map(|line| line.split('#').next().unwrap_or_default().trim());
    lines
        .filter(|line| !line.is_empty())
        .map(|line| {
            let mut words = line.split_whitespace();
            let mut word = || words.next().expect("a line is `bug level seed`");
            let name = word();
            let bug =
                Bug::SIMULATED.iter().copied().find(|bug| format!("{bug:?}") == name).expect("a planted bug");
            let level = Level::from_name(word()).expect("a level");
            (bug, level, word().parse().expect("a seed is a number"))
        })
        .collect()
}

/// Runs a seed with a bug switched on; what it was caught by.
#[cfg(planted)]
pub fn run_with(bug: Option<Bug>, level: Level, seed: u64) -> Option<String> {
    wire::planted::choose(bug);
    let result = level.run(&Case::new(seed));
    wire::planted::choose(None);
    result.err().map(|failed| failed.why.lines().next().unwrap_or_default().to_owned())
}

/// Runs a seed; this build has no bug to switch on.
#[cfg(not(planted))]
pub fn run_with(bug: Option<Bug>, level: Level, seed: u64) -> Option<String> {
    assert!(bug.is_none(), "this build has no planted bugs");
    level.run(&Case::new(seed)).err().map(|failed| failed.why)
}

/// The first seed of the range that catches the bug and passes without it.
pub fn search(bug: Bug, range: Range<u64>) -> Option<(Level, u64, String)> {
    for seed in range {
        for level in Level::ALL {
            if let Some(why) = run_with(Some(bug), level, seed)
                && run_with(None, level, seed).is_none()
            {
                return Some((level, seed, why));
            }
        }
    }
    None
}
