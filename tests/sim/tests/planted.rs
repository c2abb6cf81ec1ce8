//! The checkers are checked: every planted bug is caught by its recorded seed, which passes without it.

use sim::planted;
use wire::planted::Bug;

#[test]
fn every_planted_bug_is_caught() {
    let recorded = planted::recorded();
    for bug in Bug::ALL {
        let is_caught = recorded.iter().any(|(known, ..)| known == bug) || Bug::IN_THEIR_CRATE.contains(bug);
        assert!(is_caught, "no seed is recorded for {bug:?}");
    }
    for (bug, level, seed) in recorded {
        let without = planted::run_with(None, level, seed);
        assert_eq!(without, None, "{} seed {seed} fails without {bug:?}", level.name());
        if planted::is_built_in() {
            let caught = planted::run_with(Some(bug), level, seed);
            println!("{bug:?}: {}", caught.clone().unwrap_or_default());
            assert!(caught.is_some(), "{} seed {seed} doesn't catch {bug:?}", level.name());
        }
    }
    if !planted::is_built_in() {
        println!("this build has no planted bugs: only that their seeds pass without them was tested");
    }
}
