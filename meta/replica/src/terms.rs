//! Which epoch made which entries: what tells two logs' common part.
//!
//! (Index, epoch) identifies an entry and everything before it: one epoch has one head, a head that restarts leads no epoch again in which others may hold what
//! it lost (`chain.rs`), and a log goes on only behind a point that it shares with its source. So two logs are equal up to the last index at which both hold an
//! entry of the same epoch.

use std::collections::VecDeque;

use wire::limits::TERMS_MAX;
use wire::message::Term;
use wire::{CommitIndex, Epoch};

/// The newest runs of a log, oldest first; what is before the first one isn't known any more.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Terms(VecDeque<Term>);

/// Where two logs part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Common {
    /// Equal up to here; 0: nothing in common.
    Upto(CommitIndex),
    /// Before what both remember.
    Unknown,
}

impl Terms {
    /// Runs as a peer or a checkpoint lists them; `None` where they aren't in order.
    pub(crate) fn new(terms: impl IntoIterator<Item = Term>) -> Option<Self> {
        let terms: VecDeque<Term> = terms.into_iter().take(TERMS_MAX + 1).collect();
        let in_order = |a: &Term, b: &Term| a.epoch < b.epoch && a.first < b.first;
        let starts = terms.front().is_none_or(|term| term.first > CommitIndex(0));
        let ordered = terms.iter().zip(terms.iter().skip(1)).all(|(a, b)| in_order(a, b));
        (terms.len() <= TERMS_MAX && starts && ordered).then_some(Self(terms))
    }

    /// Oldest first.
    pub(crate) fn iter(&self) -> impl Iterator<Item = Term> {
        self.0.iter().copied()
    }

    /// Entry `index`, the log's next one, is of this epoch.
    pub(crate) fn note(&mut self, epoch: Epoch, index: CommitIndex) {
        if self.0.back().is_none_or(|last| last.epoch != epoch) {
            if self.0.len() == TERMS_MAX {
                self.0.pop_front();
            }
            self.0.push_back(Term { epoch, first: index });
        }
    }

    /// The log ends at `after` now.
    pub(crate) fn cut(&mut self, after: CommitIndex) {
        while self.0.back().is_some_and(|last| last.first > after) {
            self.0.pop_back();
        }
    }

    fn at(&self, index: CommitIndex) -> Option<Term> {
        self.0.iter().rev().find(|term| term.first <= index).copied()
    }

    /// The epoch of entry `index` of a log that reaches so far.
    pub(crate) fn epoch_of(&self, index: CommitIndex) -> Option<Epoch> {
        self.at(index).map(|term| term.epoch)
    }

    /// How far a log with these terms that ends at `last` equals another one.
    pub(crate) fn common(&self, last: CommitIndex, other: &Self, other_last: CommitIndex) -> Common {
        let mut index = last.min(other_last);
        while index > CommitIndex(0) {
            let (Some(ours), Some(theirs)) = (self.at(index), other.at(index)) else {
                return Common::Unknown;
            };
            if ours.epoch == theirs.epoch {
                return Common::Upto(index);
            }
            index = CommitIndex(ours.first.max(theirs.first).0 - 1);
        }
        Common::Upto(index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn terms(rows: &[(u64, u64)]) -> Terms {
        let rows =
            rows.iter().map(|(epoch, first)| Term { epoch: Epoch(*epoch), first: CommitIndex(*first) });
        Terms::new(rows).unwrap()
    }

    #[test]
    fn logs_part_where_epochs_do() {
        let upto = |index| Common::Upto(CommitIndex(index));
        for (ours, last, theirs, their_last, expected) in [
            (terms(&[]), 0, terms(&[]), 0, upto(0)),
            (terms(&[(1, 1)]), 9, terms(&[]), 0, upto(0)),
            (terms(&[(1, 1)]), 9, terms(&[(1, 1)]), 7, upto(7)),
            (terms(&[(1, 1), (3, 6)]), 9, terms(&[(1, 1)]), 8, upto(5)),
            (terms(&[(1, 1), (3, 6)]), 9, terms(&[(1, 1), (2, 4)]), 8, upto(3)),
            (terms(&[(1, 1), (2, 4), (4, 6)]), 9, terms(&[(1, 1), (2, 4), (3, 8)]), 9, upto(5)),
            (terms(&[(1, 1)]), 9, terms(&[(2, 1)]), 9, upto(0)),
            (terms(&[(5, 100)]), 120, terms(&[(1, 1)]), 90, Common::Unknown),
            (terms(&[(5, 100)]), 120, terms(&[(4, 50)]), 110, Common::Unknown),
            (terms(&[(5, 100), (6, 150)]), 160, terms(&[(5, 100)]), 155, upto(149)),
        ] {
            let (last, their_last) = (CommitIndex(last), CommitIndex(their_last));
            assert_eq!(ours.common(last, &theirs, their_last), expected, "{ours:?} {theirs:?}");
            assert_eq!(theirs.common(their_last, &ours, last), expected, "either way");
        }
    }

    #[test]
    fn a_list_out_of_order_is_none() {
        let term = |epoch, first| Term { epoch: Epoch(epoch), first: CommitIndex(first) };
        assert!(Terms::new([term(1, 1), term(1, 5)]).is_none());
        assert!(Terms::new([term(1, 5), term(2, 5)]).is_none());
        assert!(Terms::new([term(1, 0)]).is_none());
        assert!(Terms::new((1..=65).map(|n| term(n, n))).is_none());
        let mut full = Terms::new((1..=64).map(|n| term(n, n))).unwrap();
        full.note(Epoch(64), CommitIndex(65));
        assert_eq!(full.iter().count(), 64);
        full.note(Epoch(65), CommitIndex(66));
        assert_eq!((full.iter().count(), full.epoch_of(CommitIndex(1))), (64, None));
        full.cut(CommitIndex(65));
        assert_eq!(full.epoch_of(CommitIndex(65)), Some(Epoch(64)));
    }
}
