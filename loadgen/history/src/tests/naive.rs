//! The search against one that tries every order: no list, no memory, nothing taken at once.

use super::world::{Plan, Random};
use crate::model::{Model, VERSION_NEVER};
use crate::prepare::{Kind, Op, Part, prepare};
use crate::search::{Answer, search};

/// Whether there is an order of all sure operations, with any of the others anywhere.
fn is_linearizable(part: &Part) -> bool {
    let versions: Vec<u64> = part
        .ops
        .iter()
        .filter_map(|op| op.kind.found()?.version)
        .filter(|version| !part.ops.iter().any(|op| op.kind.is_write() && op.index == Some(*version)))
        .chain([VERSION_NEVER])
        .collect();
    let mut done = vec![false; part.ops.len()];
    go_on(part, &versions, &mut done, &mut Model::new(part.paths.len()), 0)
}

fn go_on(part: &Part, versions: &[u64], done: &mut [bool], model: &mut Model, last: u64) -> bool {
    let ops = &part.ops;
    if ops.iter().zip(&*done).all(|(op, done)| *done || !op.is_sure) {
        return true;
    }
    let left = |place: &usize| ops[*place].is_sure && !done[*place];
    let first_end = (0..ops.len()).filter(left).map(|place| ops[place].ended).min().unwrap_or(u64::MAX);
    // What comes now has to lie between the last index and the next one.
    let indexed = |place: &usize| left(place) && !ops[*place].kind.is_read();
    let next = (0..ops.len()).filter(indexed).filter_map(|place| ops[place].index).min().unwrap_or(u64::MAX);
    for place in 0..ops.len() {
        let Op { began, index, bounds, kind, is_sure, .. } = &ops[place];
        if done[place] || *began > first_end {
            continue;
        }
        done[place] = true;
        if let Kind::Read { path, effect } = kind {
            let is_time = match index {
                Some(index) => last <= *index && *index < next && bounds.admit(*index, false),
                None => last <= bounds.high && next > bounds.low,
            };
            if is_time && model.agrees(*path, effect) && go_on(part, versions, done, model, last) {
                return true;
            }
        } else if *is_sure {
            let is_time =
                index.is_none_or(|index| index == next && index > last && bounds.admit(index, true));
            if is_time && let Ok(undo) = model.apply(kind, ops[place].version()) {
                if go_on(part, versions, done, model, index.unwrap_or(last)) {
                    return true;
                }
                model.undo(undo);
            }
        } else {
            for version in versions {
                let low = last.max(bounds.low);
                let is_seen = kind.is_write() && *version != VERSION_NEVER;
                let is_room = if is_seen { *version > low && *version < next } else { next - 1 > low };
                if is_room && let Ok(undo) = model.apply(kind, *version) {
                    if go_on(part, versions, done, model, if is_seen { *version } else { last }) {
                        return true;
                    }
                    model.undo(undo);
                }
            }
        }
        done[place] = false;
    }
    false
}

#[test]
fn the_search_finds_what_there_is() {
    let mut random = Random(9);
    let mut wrong = 0;
    for seed in 0..1500 {
        let plan = Plan {
            clients: 3,
            operations: 9,
            groups: 1,
            paths: 2,
            unknown_percent: 25,
            failed_percent: 5,
            ..Plan::new(seed)
        };
        let mut history = plan.run();
        if seed % 3 > 0 {
            let at = random.index(history.records.len());
            super::random::change(&mut random, &mut history.records[at].outcome);
        }
        if seed % 3 == 2 {
            super::random::strip(&mut history);
        }
        for part in prepare(std::slice::from_ref(&history)).parts {
            let expected = is_linearizable(&part);
            wrong += u32::from(!expected);
            assert_eq!(search(&part) == Answer::Linearizable, expected, "seed {seed}: {:#?}", part.ops);
        }
    }
    assert!(wrong > 100, "only {wrong} histories were wrong");
}
