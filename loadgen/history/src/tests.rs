//! Tests of the checkers: histories written by hand, histories of a system that is right, and of one that isn't.

mod format;
mod hand;
mod naive;
mod random;
mod world;

use crate::{Checked, History, Verdict, check};

/// Checks, and refuses that the checkers dispute.
fn agreed(history: &History) -> Checked {
    let checked = check(std::slice::from_ref(history)).expect("one history");
    if let Some(component) = checked.disputed().next() {
        let lines: Vec<String> =
            history.records.iter().map(|record| format!("{} {record:?}", record.began)).collect();
        panic!("disputed: {component:?}\n{:?}\n{}", checked.anomalies, lines.join("\n"));
    }
    checked
}

/// What both say together of all components.
fn verdict(checked: &Checked) -> Verdict {
    match (checked.anomalies.is_empty(), checked.undecided().next()) {
        (false, _) => Verdict::Wrong,
        (true, Some(_)) => Verdict::Undecided,
        (true, None) => Verdict::Clean,
    }
}
