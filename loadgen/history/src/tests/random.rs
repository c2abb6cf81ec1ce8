//! Random histories of a system that is right pass; of one that isn't, and with answers that were changed, they are caught.

use super::world::{Bug, Plan, Random};
use super::{agreed, verdict};
use crate::{History, Outcome, Verdict};

/// Runs `count` seeds and says of how many the verdict is this.
fn count(seeds: std::ops::Range<u64>, plan: impl Fn(u64) -> Plan, wanted: Verdict) -> u64 {
    seeds.filter(|seed| verdict(&agreed(&plan(*seed).run())) == wanted).count() as u64
}

#[test]
fn what_is_right_passes() {
    let all = |plan: fn(u64) -> Plan| {
        for seed in 0..300 {
            let checked = agreed(&plan(seed).run());
            assert_eq!(verdict(&checked), Verdict::Clean, "{:?}: {:?}", plan(seed), checked);
        }
    };
    all(Plan::new);
    all(|seed| Plan { unknown_percent: 0, failed_percent: 0, ..Plan::new(seed) });
    all(|seed| Plan { unknown_percent: 20, ..Plan::new(seed) });
    all(|seed| Plan { paths: 1, clients: 12, ..Plan::new(seed) });
    all(|seed| Plan { groups: 1, paths: 2, clients: 3, ..Plan::new(seed) });
}

#[test]
fn what_is_wrong_is_caught() {
    // Of a hundred; a lost write that is replaced before anybody looks can't be seen.
    for (bug, least) in Bug::ALL.into_iter().zip([50, 50, 50, 50, 50, 50, 50]) {
        let plan = |seed| Plan { bug: Some(bug), ..Plan::new(seed) };
        let caught = count(0..200, plan, Verdict::Wrong);
        println!("{bug:?}: {caught} of 200");
        assert!(caught >= 2 * least, "{bug:?}: {caught} of 200");
    }
}

/// Changes one answer.
pub(super) fn change(random: &mut Random, outcome: &mut Outcome) -> bool {
    let Outcome::Ok(answer) = outcome else { return false };
    let other = |number: &mut Option<u64>, by: u64| {
        number.as_mut().is_some_and(|number| {
            *number = number.wrapping_add(by).max(1);
            true
        })
    };
    let by = if random.percent(50) { 1 } else { u64::MAX };
    match random.below(6) {
        0 => other(&mut answer.version, by),
        1 => other(&mut answer.size, by),
        2 => other(&mut answer.inode, by),
        3 => other(&mut answer.index, by.wrapping_mul(30)),
        4 => answer.seen.as_mut().and_then(|seen| seen.last_mut()).is_some_and(|piece| {
            piece.stamp.number =
                piece.stamp.number.wrapping_add(u32::try_from(by & 1).expect("a bit")).max(1);
            true
        }),
        _ => {
            *outcome = Outcome::Absent;
            true
        }
    }
}

/// Takes away everything that a system without versions couldn't say.
pub(super) fn strip(history: &mut History) {
    for record in &mut history.records {
        if let Outcome::Ok(answer) = &mut record.outcome {
            (answer.index, answer.version, answer.inode) = (None, None, None);
            answer.listed = None;
        }
    }
}

/// The search needs no indices; the oracle has nothing to say then.
#[test]
fn histories_without_indices_are_searched() {
    for seed in 0..200 {
        let mut history = Plan { groups: 3, paths: 1, ..Plan::new(seed) }.run();
        strip(&mut history);
        let checked = agreed(&history);
        assert_eq!(verdict(&checked), Verdict::Clean, "{seed}: {checked:?}");
    }
    let mut caught = 0;
    for seed in 0..200 {
        let mut history = Plan { groups: 3, paths: 1, bug: Some(Bug::Lose), ..Plan::new(seed) }.run();
        strip(&mut history);
        caught += u32::from(verdict(&agreed(&history)) == Verdict::Wrong);
    }
    println!("without indices {caught} of 200");
    assert!(caught >= 80, "{caught} of 200");
}

#[test]
fn many_at_once() {
    let plan = Plan { clients: 64, operations: 6000, groups: 1, paths: 2, ..Plan::new(5) };
    let history = Plan { unknown_percent: 0, ..plan }.run();
    assert_eq!(verdict(&agreed(&history)), Verdict::Clean);
    let history = Plan { unknown_percent: 1, ..plan }.run();
    assert_eq!(verdict(&agreed(&history)), Verdict::Clean);
    // Without indices the search is left alone with the windows, which are what makes it hard.
    let mut history = Plan { clients: 8, unknown_percent: 0, operations: 1000, paths: 1, ..plan }.run();
    strip(&mut history);
    assert_eq!(verdict(&agreed(&history)), Verdict::Clean);
}

#[test]
fn what_was_changed_is_caught() {
    let mut random = Random(77);
    let (mut changed, mut caught) = (0_u32, 0_u32);
    while changed < 1000 {
        let mut history = Plan { unknown_percent: 1, ..Plan::new(random.next()) }.run();
        let at = random.index(history.records.len());
        if change(&mut random, &mut history.records[at].outcome) {
            changed += 1;
            caught += u32::from(verdict(&agreed(&history)) == Verdict::Wrong);
        }
    }
    println!("{caught} of {changed}");
    assert!(caught >= 850, "{caught} of {changed}");
}
