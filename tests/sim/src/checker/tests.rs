//! The checker is checked: histories that are right pass, each kind of wrong one is found.

use wire::meta::{InodeKind, RenameMode};

use super::*;
use crate::content::{Content, Stamp};
use crate::history::Condition;

const SEED: u64 = 11;

/// The stamp of an operation.
fn stamp_of(place: usize) -> Stamp {
    Stamp(place as u64 + 1)
}

/// Records one after the other in time, each of 10 ns.
fn history(steps: Vec<(Action, Ending)>) -> Vec<Record> {
    (0..)
        .zip(steps)
        .map(|(i, (action, ending))| Record {
            stamp: stamp_of(i),
            client: i % 2,
            action,
            began: Nanos(i as u64 * 100),
            ended: Nanos(i as u64 * 100 + 10),
            ending,
            outlived: false,
        })
        .collect()
}

fn put(path: &str, length: u64) -> Action {
    Action::Replace { path: path.into(), length, condition: Condition::Any, dress: None }
}

fn read(path: &str) -> Action {
    Action::Read { path: path.into(), follow: false, from: 0, to: u64::MAX, pace: 0 }
}

fn list(path: &str) -> Action {
    Action::List { path: path.into(), after: String::new(), limit: 9 }
}

fn row(name: &str, size: u64) -> Row {
    Row { name: name.into(), kind: InodeKind::File, size }
}

/// What a read sees of a file that nobody gave attributes.
fn seen(size: u64, version: u64, bytes: Vec<u8>) -> Seen {
    Seen {
        kind: InodeKind::File,
        size,
        version,
        mode: 0o644,
        modified: 0,
        xattrs: BTreeMap::new(),
        target: String::new(),
        bytes: Some((0, bytes)),
    }
}

fn rename(from: &str, to: &str) -> Action {
    Action::Rename { from: from.into(), to: to.into(), mode: RenameMode::Replace }
}

fn executed(index: u64, version: u64, size: u64) -> Ending {
    Ending::Executed { index, status: Status::Ok, version, offset: 0, size }
}

fn found(index: u64, version: u64, content: &Content) -> Ending {
    Ending::Found { index, seen: seen(content.len(), version, content.bytes(SEED)) }
}

fn verdict(steps: Vec<(Action, Ending)>) -> Result<Summary, String> {
    check(SEED, &history(steps)).map_err(|anomaly| anomaly.0)
}

fn written(stamp: u64, length: u64) -> Content {
    Content::written(Stamp(stamp), length)
}

#[test]
fn what_can_have_happened_passes() {
    let both = written(2, 7).overwritten(7, &written(3, 2));
    let summary = verdict(vec![
        (read("a"), Ending::Refused(Status::NotFound)),
        (put("a", 7), executed(4, 4, 7)),
        (
            Action::Append { path: "a".into(), length: 2 },
            Ending::Executed { index: 5, status: Status::Ok, version: 5, offset: 7, size: 9 },
        ),
        (rename("a", "b"), executed(6, 0, 0)),
        (read("b"), found(6, 5, &both)),
        (read("a"), Ending::Refused(Status::NotFound)),
    ]);
    assert_eq!(summary.expect("it can").checked, 6);
}

#[test]
fn an_unknown_write_may_have_happened_or_not_but_only_once() {
    let steps = |after: Content, version| {
        vec![
            (put("a", 3), executed(2, 2, 3)),
            (Action::Append { path: "a".into(), length: 2 }, Ending::Unknown),
            (read("a"), found(9, version, &after)),
        ]
    };
    verdict(steps(written(1, 3), 2)).expect("never executed");
    let once = written(1, 3).overwritten(3, &written(2, 2));
    verdict(steps(once.clone(), 5)).expect("executed");
    // Version 2 is taken, and version 12 is later than the read.
    verdict(steps(once.clone(), 2)).expect_err("another's version");
    verdict(steps(once.clone(), 12)).expect_err("from the future");
    let twice = once.overwritten(5, &written(2, 2));
    let text = verdict(steps(twice, 5)).expect_err("executed twice");
    assert!(text.contains("no order explains client 0 operation 3"), "{text}");
}

#[test]
fn an_unknown_write_once_seen_stays() {
    let text = verdict(vec![
        (put("a", 3), executed(2, 2, 3)),
        (put("a", 5), Ending::Unknown),
        (read("a"), found(6, 4, &written(2, 5))),
        (read("a"), found(7, 2, &written(1, 3))),
    ])
    .expect_err("it was seen, then gone");
    assert!(text.contains("operation 4"), "{text}");
}

#[test]
fn a_failed_operation_that_took_effect_is_found() {
    let text = verdict(vec![(put("a", 3), Ending::NotExecuted), (read("a"), found(2, 1, &written(1, 3)))]);
    text.expect_err("a write that was not executed is seen");
}

#[test]
fn an_acknowledged_write_that_is_gone_is_found() {
    verdict(vec![(put("a", 3), executed(2, 2, 3)), (read("a"), Ending::Refused(Status::NotFound))])
        .expect_err("lost");
}

#[test]
fn wrong_bytes_are_found() {
    let mut bytes = written(1, 30).bytes(SEED);
    bytes[29] ^= 0x40;
    let ending = Ending::Found { index: 2, seen: seen(30, 2, bytes) };
    let text = verdict(vec![(put("a", 30), executed(2, 2, 30)), (read("a"), ending)]).expect_err("one bit");
    assert!(text.contains("byte 29"), "{text}");
}

#[test]
fn a_stale_read_is_found() {
    let text = verdict(vec![
        (put("a", 3), executed(2, 2, 3)),
        (put("a", 4), executed(3, 3, 4)),
        (read("a"), found(2, 2, &written(1, 3))),
    ])
    .expect_err("version 3 had been acknowledged");
    assert!(text.contains("real-time order"), "{text}");
}

#[test]
fn a_rename_that_is_not_atomic_is_found() {
    let rows = |names: &[&str]| names.iter().map(|name| row(name, 3)).collect();
    for rows in [rows(&["a", "b"]), rows(&[])] {
        let steps = vec![
            (put("a", 3), executed(2, 2, 3)),
            (rename("a", "b"), executed(4, 0, 0)),
            (list(""), Ending::Listed { index: 4, rows, end: true }),
        ];
        verdict(steps).expect_err("one of the two names");
    }
}

#[test]
fn pages_of_a_listing_are_of_their_moments() {
    let page = |after: &str, limit| Action::List { path: String::new(), after: after.into(), limit };
    let steps = |second: &str, end| {
        vec![
            (put("a", 3), executed(2, 2, 3)),
            (put("c", 4), executed(3, 3, 4)),
            (page("", 1), Ending::Listed { index: 3, rows: vec![row("a", 3)], end: false }),
            (rename("a", "b"), executed(4, 0, 0)),
            (page("a", 1), Ending::Listed { index: 4, rows: vec![row(second, 3)], end }),
        ]
    };
    verdict(steps("b", false)).expect("the moved name is listed again under its new name");
    verdict(steps("b", true)).expect_err("c follows");
    verdict(steps("c", true)).expect_err("b was skipped");
}

#[test]
fn attributes_that_were_not_set_are_found() {
    let set = Action::SetAttributes { path: "a".into(), follow: true, mode: Some(0o600), modified: Some(5) };
    let steps = |seen: Seen| {
        vec![
            (put("a", 3), executed(2, 2, 3)),
            (set.clone(), executed(3, 2, 3)),
            (read("a"), Ending::Found { index: 3, seen }),
        ]
    };
    let right = Seen { mode: 0o600, modified: 5, ..seen(3, 2, written(1, 3).bytes(SEED)) };
    verdict(steps(right.clone())).expect("that is what was set");
    verdict(steps(Seen { mode: 0o644, ..right.clone() })).expect_err("another mode");
    verdict(steps(Seen { modified: 6, ..right.clone() })).expect_err("another time");
    let xattrs = BTreeMap::from([(b"user.a".to_vec(), vec![1])]);
    verdict(steps(Seen { xattrs, ..right })).expect_err("an attribute that nobody set");
}

/// An unknown `mkdir -p d/f` was not considered where `d/b` was written, as if it could not have made `d` (node seed 300182).
#[test]
fn an_unknown_directory_with_its_parents_explains_what_lies_beside_it() {
    verdict(vec![
        (Action::MakeDirectory { path: "d/f".into(), parents: true }, Ending::Unknown),
        (put("d/b", 3), executed(4, 4, 3)),
    ])
    .expect("the directory was made, its parent with it");
}

#[test]
fn an_unknown_link_explains_what_went_through_it() {
    let link = Action::MakeLink { path: "l".into(), target: "d".into(), replace: false };
    let steps = |ending| {
        vec![
            (Action::MakeDirectory { path: "d".into(), parents: false }, executed(2, 0, 0)),
            (link.clone(), ending),
            (put("l/a", 3), Ending::Unknown),
            (read("d/a"), found(9, 7, &written(3, 3))),
        ]
    };
    verdict(steps(Ending::Unknown)).expect("both happened");
    verdict(steps(executed(3, 0, 1))).expect("the put happened");
    verdict(steps(Ending::NotExecuted)).expect_err("there is no way to it");
}

#[test]
fn a_conditional_commit_on_another_version_is_found() {
    let condition = Condition::Version(2);
    let conditional = Action::Replace { path: "a".into(), length: 5, condition, dress: None };
    let steps = |ending| {
        vec![
            (put("a", 3), executed(2, 2, 3)),
            (put("a", 4), executed(3, 3, 4)),
            (conditional.clone(), ending),
        ]
    };
    verdict(steps(executed(4, 4, 5))).expect_err("version 3 was there");
    let conflict =
        |version| Ending::Executed { index: 4, status: Status::VersionConflict, version, offset: 0, size: 0 };
    verdict(steps(conflict(3))).expect("that is what is there");
    verdict(steps(conflict(2))).expect_err("not the version that is there");
}

#[test]
fn an_index_given_out_twice_is_found() {
    let mut records = history(vec![(put("a", 3), executed(2, 2, 3)), (put("b", 4), executed(2, 2, 4))]);
    records[1].began = Nanos(0);
    assert!(check(SEED, &records).expect_err("twice").0.contains("twice"));
}

#[test]
fn unknown_operations_on_different_paths_stay_few_worlds() {
    let mut steps: Vec<(Action, Ending)> =
        (0..40).map(|i| (put(&format!("p{i}"), 3), Ending::Unknown)).collect();
    steps.push((put("q", 1), executed(90, 90, 1)));
    steps.extend((0..40).map(|i| (read(&format!("p{i}")), found(91, i + 1, &written(i + 1, 3)))));
    let summary = verdict(steps).expect("all of them happened");
    assert!(summary.worlds_max <= 2, "{summary:?}");
}

/// A copy whose target was no directory told nothing of its source, whose version had matched (node seed 810194).
#[test]
fn a_copy_that_failed_at_its_target_tells_whose_version_it_was() {
    let steps = |version, status| {
        let copy = Action::Copy { from: "a".into(), to: "b/c".into(), part: None, version: Some(version) };
        vec![
            (put("b", 3), executed(2, 2, 3)),
            (put("a", 4), Ending::Unknown),
            (copy, Ending::Executed { index: 6, status, version: 0, offset: 0, size: 0 }),
        ]
    };
    verdict(steps(4, Status::NotDirectory)).expect("the unknown write made version 4");
    verdict(steps(2, Status::NotDirectory)).expect_err("that is the version of another file");
    verdict(steps(4, Status::IsDirectory)).expect_err("no directory is there");
}

#[test]
fn a_condition_that_held_tells_whose_version_it_was() {
    let condition = Condition::Version(4);
    let conditional = Action::Replace { path: "a".into(), length: 5, condition, dress: None };
    let steps = |status| {
        vec![
            (put("a", 3), executed(2, 2, 3)),
            (put("a", 4), Ending::Unknown),
            (conditional.clone(), Ending::Executed { index: 6, status, version: 6, offset: 0, size: 5 }),
            (read("a"), found(6, 6, &written(3, 5))),
        ]
    };
    verdict(steps(Status::Ok)).expect("the unknown write made version 4");
}
