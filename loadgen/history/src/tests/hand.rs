//! Histories written by hand: one for each kind of anomaly, and for each thing that looks like one and isn't.

use std::sync::Arc;

use super::{agreed, verdict};
use crate::{
    Action, Answer, CheckError, Class, Header, History, Listed, Outcome, Piece, Record, Stamp, Verdict, check,
};

/// A history that grows line by line. Each operation has a client of its own.
#[derive(Default)]
struct Hand(Vec<Record>);

fn stamp(client: u32) -> Stamp {
    Stamp { process: 1, client, number: 1 }
}

fn ok(index: u64, version: u64, size: u64) -> Answer {
    Answer {
        index: Some(index),
        inode: Some(7),
        version: Some(version),
        size: Some(size),
        ..Answer::default()
    }
}

impl Hand {
    fn add(mut self, (began, ended): (u64, u64), action: Action, outcome: Outcome) -> Self {
        let client = u32::try_from(self.0.len()).expect("few");
        self.0.push(Record { stamp: stamp(client), began, ended: Some(ended), action, outcome });
        self
    }

    fn put(self, time: (u64, u64), index: u64) -> Self {
        self.add(time, Action::Put { path: "d/a".into(), length: 10 }, Outcome::Ok(ok(index, index, 10)))
    }

    fn put_with(self, time: (u64, u64), outcome: Outcome) -> Self {
        self.add(time, Action::Put { path: "d/a".into(), length: 10 }, outcome)
    }

    /// An append of 10 bytes behind `offset`.
    fn append(self, time: (u64, u64), index: u64, offset: u64) -> Self {
        let answer = Answer { offset: Some(offset), ..ok(index, index, offset + 10) };
        self.add(time, Action::Append { path: "d/a".into(), length: 10 }, Outcome::Ok(answer))
    }

    /// A read of all of `d/a`, which saw the whole writes of these clients.
    fn get(self, time: (u64, u64), index: u64, version: u64, writers: &[u32]) -> Self {
        let pieces = writers.iter().map(|client| Piece { stamp: stamp(*client), from: 0, length: 10 });
        let answer = Answer { seen: Some(pieces.collect()), ..ok(index, version, 10 * writers.len() as u64) };
        self.add(time, Action::Get { path: "d/a".into(), offset: 0, length: u64::MAX }, Outcome::Ok(answer))
    }

    fn absent(self, time: (u64, u64)) -> Self {
        self.add(time, Action::Stat { path: "d/a".into() }, Outcome::Absent)
    }

    fn stat(self, time: (u64, u64), path: &str, index: u64, version: u64) -> Self {
        self.add(time, Action::Stat { path: path.into() }, Outcome::Ok(ok(index, version, 10)))
    }

    fn delete(self, time: (u64, u64), outcome: Outcome) -> Self {
        self.add(time, Action::Delete { path: "d/a".into() }, outcome)
    }

    fn rename(self, time: (u64, u64), outcome: Outcome) -> Self {
        self.add(time, Action::Rename { path: "d/a".into(), to: "d/b".into() }, outcome)
    }

    fn list(self, time: (u64, u64), files: &[(&str, u64)]) -> Self {
        let listed = files.iter().map(|(name, version)| Listed {
            name: Arc::from(*name),
            inode: 7,
            version: *version,
            size: 10,
        });
        let answer = Answer { listed: Some(listed.collect()), ..Answer::default() };
        self.add(time, Action::List { path: "d".into() }, Outcome::Ok(answer))
    }

    /// Asserts what the checkers say, together: `None` is clean.
    #[track_caller]
    fn shows(self, expected: Option<Class>) {
        let header = Header { process: 1, ..Header::default() };
        let checked = agreed(&History { header, records: self.0, is_ended: true });
        let classes: Vec<Class> = checked.by_class().into_keys().collect();
        let wanted: Vec<Class> = expected.into_iter().collect();
        assert_eq!(classes, wanted, "{:?}", checked.anomalies);
        assert!(expected.is_some() || verdict(&checked) == Verdict::Clean);
    }

    /// Asserts that it is wrong, of whatever kind.
    #[track_caller]
    fn fits_nothing(self) {
        let header = Header { process: 1, ..Header::default() };
        let checked = agreed(&History { header, records: self.0, is_ended: true });
        assert_eq!(verdict(&checked), Verdict::Wrong);
    }
}

#[test]
fn plain_histories_are_clean() {
    Hand::default().shows(None);
    Hand::default().absent((1, 2)).put((3, 4), 11).get((5, 6), 11, 11, &[1]).shows(None);
    Hand::default().put((1, 2), 11).append((3, 4), 12, 10).get((5, 6), 15, 12, &[0, 1]).shows(None);
    let gone = Outcome::Ok(ok(12, 11, 10));
    Hand::default().put((1, 2), 11).delete((3, 4), gone.clone()).absent((5, 6)).shows(None);
    Hand::default()
        .put((1, 2), 11)
        .rename((3, 4), gone)
        .absent((5, 6))
        .stat((5, 6), "d/b", 12, 11)
        .shows(None);
    Hand::default().put((1, 2), 11).list((3, 4), &[("a", 11)]).shows(None);
}

#[test]
fn what_overlaps_may_be_in_either_order() {
    // Both puts are under way; the indices say which was first.
    Hand::default().put((1, 10), 12).put((1, 10), 11).get((11, 12), 12, 12, &[0]).shows(None);
    // A read that overlaps a put sees either.
    Hand::default().put((1, 2), 11).put((3, 9), 12).get((4, 5), 11, 11, &[0]).shows(None);
    Hand::default().put((1, 2), 11).put((3, 9), 12).get((4, 5), 12, 12, &[1]).shows(None);
    Hand::default().put((1, 9), 11).absent((2, 3)).get((4, 5), 11, 11, &[0]).shows(None);
}

#[test]
fn stale_reads() {
    let puts = || Hand::default().put((1, 2), 11).put((3, 4), 12);
    // The index says that it is old.
    puts().get((5, 6), 11, 11, &[0]).shows(Some(Class::Order));
    // The index is new and what it saw old; later somebody saw the new one.
    puts().get((5, 6), 12, 11, &[0]).get((7, 8), 12, 12, &[1]).shows(Some(Class::Stale));
    // A list saw the old one.
    puts().list((5, 6), &[("a", 11)]).get((7, 8), 12, 12, &[1]).shows(Some(Class::Stale));
    // Reads go back in time.
    Hand::default()
        .put((1, 2), 11)
        .put((3, 20), 12)
        .get((4, 5), 12, 12, &[1])
        .get((6, 7), 12, 11, &[0])
        .fits_nothing();
}

#[test]
fn lost_writes() {
    Hand::default().put((1, 2), 11).put((3, 4), 12).get((5, 6), 12, 11, &[0]).shows(Some(Class::Lost));
    Hand::default().put((1, 2), 11).absent((3, 4)).shows(Some(Class::Lost));
    Hand::default().put((1, 2), 11).list((3, 4), &[]).shows(Some(Class::Lost));
    Hand::default().put((1, 2), 11).append((3, 4), 12, 0).shows(Some(Class::Lost));
    // A put that makes the file anew finds that it is gone.
    let anew = Outcome::Ok(Answer { inode: Some(8), ..ok(12, 12, 10) });
    Hand::default().put((1, 2), 11).put_with((3, 4), anew).shows(Some(Class::Lost));
    // A rename whose target isn't there.
    let moved = Outcome::Ok(ok(12, 11, 10));
    Hand::default()
        .put((1, 2), 11)
        .rename((3, 4), moved)
        .add((5, 6), Action::Stat { path: "d/b".into() }, Outcome::Absent)
        .shows(Some(Class::Lost));
}

#[test]
fn torn_reads() {
    // Two puts in one version.
    let torn = |hand: Hand| {
        let pieces = vec![
            Piece { stamp: stamp(0), from: 0, length: 5 },
            Piece { stamp: stamp(1), from: 5, length: 5 },
        ];
        let answer = Answer { seen: Some(pieces), ..ok(12, 12, 10) };
        let action = Action::Get { path: "d/a".into(), offset: 0, length: u64::MAX };
        hand.add((5, 6), action, Outcome::Ok(answer))
    };
    torn(Hand::default().put((1, 2), 11).put((3, 4), 12)).shows(Some(Class::Torn));
    // The reader saw it by itself.
    let action = Action::Get { path: "d/a".into(), offset: 0, length: u64::MAX };
    Hand::default().put((1, 2), 11).add((3, 4), action.clone(), Outcome::Torn).shows(Some(Class::Torn));
    Hand::default().put((1, 2), 11).add((3, 4), action, Outcome::Corrupt).shows(Some(Class::Corrupt));
}

#[test]
fn resurrected_files() {
    let gone = || Outcome::Ok(ok(12, 11, 10));
    let hand = || Hand::default().put((1, 2), 11).delete((3, 4), gone());
    hand().get((5, 6), 12, 11, &[0]).shows(Some(Class::Resurrected));
    hand().list((5, 6), &[("a", 11)]).shows(Some(Class::Resurrected));
    hand().put((5, 6), 13).shows(Some(Class::Resurrected));
    Hand::default()
        .put((1, 2), 11)
        .rename((3, 4), gone())
        .stat((5, 6), "d/a", 12, 11)
        .shows(Some(Class::Resurrected));
}

#[test]
fn what_failed_may_not_take_effect() {
    let hand = || Hand::default().put((1, 2), 11).put_with((3, 4), Outcome::Failed);
    hand().get((5, 6), 12, 12, &[1]).shows(Some(Class::TookEffect));
    hand().get((5, 6), 12, 11, &[0]).shows(None);
    Hand::default()
        .put((1, 2), 11)
        .delete((3, 4), Outcome::Failed)
        .absent((5, 6))
        .shows(Some(Class::TookEffect));
    Hand::default().put((1, 2), 11).delete((3, 4), Outcome::Absent).shows(Some(Class::Lost));
}

#[test]
fn what_took_effect_twice() {
    let hand = || Hand::default().put((1, 2), 11).append((3, 4), 12, 10);
    hand().get((5, 6), 13, 13, &[0, 1, 1]).shows(Some(Class::Double));
    hand().append((5, 6), 14, 30).shows(Some(Class::Double));
    // A put that comes again behind another.
    Hand::default()
        .put((1, 2), 11)
        .put((3, 4), 12)
        .get((5, 6), 12, 12, &[1])
        .get((7, 8), 13, 13, &[0])
        .shows(Some(Class::Double));
}

#[test]
fn unknown_outcomes_stay_open() {
    let hand = || Hand::default().put((1, 2), 11).put_with((3, 4), Outcome::Unknown);
    // Never, at once, and long after.
    hand().get((50, 51), 12, 11, &[0]).shows(None);
    hand().get((50, 51), 12, 12, &[1]).shows(None);
    hand().get((50, 51), 12, 11, &[0]).get((60, 61), 13, 13, &[1]).shows(None);
    // Not before it began, and not twice.
    Hand::default()
        .put((1, 2), 11)
        .get((3, 4), 12, 12, &[2])
        .put_with((5, 6), Outcome::Unknown)
        .fits_nothing();
    hand().get((50, 51), 12, 12, &[1]).put((52, 53), 13).get((54, 55), 14, 14, &[1]).fits_nothing();
    // A removal, a rename, and a write that only a stat saw.
    Hand::default().put((1, 2), 11).delete((3, 4), Outcome::Unknown).absent((5, 6)).shows(None);
    Hand::default()
        .put((1, 2), 11)
        .delete((3, 4), Outcome::Unknown)
        .get((5, 6), 12, 11, &[0])
        .absent((7, 8))
        .shows(None);
    let removed = Hand::default().put((1, 2), 11).delete((3, 4), Outcome::Unknown).absent((5, 6));
    removed.get((7, 8), 12, 11, &[0]).fits_nothing();
    let renamed = || Hand::default().put((1, 2), 11).rename((3, 4), Outcome::Unknown);
    renamed().absent((5, 6)).stat((7, 8), "d/b", 12, 11).shows(None);
    renamed().stat((5, 6), "d/a", 11, 11).stat((7, 8), "d/b", 12, 11).shows(None);
    renamed().stat((5, 6), "d/b", 12, 11).stat((7, 8), "d/a", 12, 11).fits_nothing();
    hand().stat((5, 6), "d/a", 12, 12).shows(None);
    hand().stat((5, 6), "d/a", 12, 12).stat((7, 8), "d/a", 12, 11).fits_nothing();
}

/// Nobody saw what it wrote, but its file has a lower inode than one that was made later.
#[test]
fn an_unknown_write_may_have_made_the_file() {
    let put = |hand: Hand, time, path: &str, index, inode| {
        let answer = Answer { inode: Some(inode), ..ok(index, index, 10) };
        hand.add(time, Action::Put { path: path.into(), length: 10 }, Outcome::Ok(answer))
    };
    let hand = Hand::default().put_with((1, 2), Outcome::Unknown);
    let hand = put(put(hand, (3, 4), "d/b", 12, 102), (5, 6), "d/a", 13, 101);
    hand.rename((7, 8), Outcome::Ok(Answer { inode: Some(101), ..ok(14, 13, 10) })).shows(None);
    let hand = put(put(Hand::default(), (3, 4), "d/b", 12, 102), (5, 6), "d/a", 13, 101);
    hand.rename((7, 8), Outcome::Ok(Answer { inode: Some(101), ..ok(14, 13, 10) })).fits_nothing();
}

/// Each of the answers fits somewhere, but not one behind the other.
#[test]
fn answers_without_an_index_are_in_order() {
    let gone = Outcome::Ok(ok(12, 11, 10));
    let hand = || Hand::default().put((1, 100), 11).delete((1, 100), gone.clone());
    hand().absent((2, 3)).list((4, 5), &[("a", 11)]).absent((6, 7)).shows(None);
    hand().list((2, 3), &[("a", 11)]).absent((4, 5)).list((6, 7), &[("a", 11)]).fits_nothing();
}

#[test]
fn order_in_time_holds_across_files() {
    let other = Action::Put { path: "d/z".into(), length: 10 };
    let late = Outcome::Ok(Answer { inode: Some(3), ..ok(5, 5, 10) });
    Hand::default().put((1, 2), 11).add((3, 4), other.clone(), late.clone()).shows(Some(Class::Order));
    Hand::default().put((1, 3), 11).add((3, 4), other, late).shows(None);
}

#[test]
fn writers_that_nobody_knows() {
    Hand::default().get((1, 2), 11, 11, &[9]).shows(Some(Class::Foreign));
}

#[test]
fn histories_that_do_not_belong_together_are_refused() {
    let of = |process: u32, boot: &str, directory: &str| {
        let header = Header { process, boot: boot.into(), directory: directory.into(), ..Header::default() };
        History { header, ..History::default() }
    };
    let refused = |histories: &[History]| check(histories).expect_err("they don't belong together");
    assert_eq!(refused(&[]), CheckError::None);
    assert_eq!(refused(&[of(1, "a", "d"), of(1, "a", "d")]), CheckError::SameProcess { process: 1 });
    assert_eq!(refused(&[of(1, "a", "d"), of(2, "b", "d")]), CheckError::Clocks);
    assert_eq!(refused(&[of(1, "a", "d"), of(2, "a", "e")]), CheckError::Places);
    assert!(check(&[of(1, "a", "d"), of(2, "a", "d")]).is_ok());
    // What another process wrote, and what this one had written in an earlier run.
    let mut history = History { records: Hand::default().get((1, 2), 11, 11, &[9]).0, ..of(2, "a", "d") };
    assert_eq!(refused(std::slice::from_ref(&history)), CheckError::Missing { process: 1 });
    (history.header.process, history.header.index) = (1, 11);
    assert_eq!(refused(&[history]), CheckError::NotEmpty);
}
