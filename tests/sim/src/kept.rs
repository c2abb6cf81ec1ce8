//! What an orderly end leaves behind: whatever happens to the machine then, the next start finds the same state.
//!
//! The states themselves are compared, not digests of them: a store's index entry by entry, a group's namespace, sessions and results. A crash may
//! lose what nobody was told; after an orderly end there is nothing left to lose, and a start that believes a mark of the end reads nothing behind it.

use replica::{Replica, State};
use store::{IndexEntry, Store};

/// What a unit held.
#[derive(Clone, Debug)]
pub(crate) enum Kept {
    /// A store: its index, in order of the ids.
    Store(Vec<IndexEntry>),
    /// A group's replica.
    Group(Box<State>),
}

impl Kept {
    /// What a store holds.
    pub(crate) fn of_store(store: &Store) -> Self {
        Self::Store(store.entries().collect())
    }

    /// What a replica holds; `None` where it executed what its log had no space for, and told nobody.
    pub(crate) fn of_group(replica: &Replica) -> Option<Self> {
        let state = replica.state();
        (replica.committed() == state.namespace.index()).then(|| Self::Group(Box::new(state.clone())))
    }

    /// Whether the next start found the same; if not, what differs.
    pub(crate) fn compare(&self, found: &Self) -> Result<(), String> {
        let difference = match (self, found) {
            (Self::Store(kept), Self::Store(found)) => first_difference(kept, found),
            (Self::Group(kept), Self::Group(found)) => group_difference(kept, found),
            _ => Some("it is another kind of unit".to_owned()),
        };
        match difference {
            None => Ok(()),
            Some(what) => Err(format!("an orderly end lost something: {what}")),
        }
    }
}

fn first_difference(kept: &[IndexEntry], found: &[IndexEntry]) -> Option<String> {
    let at = kept.iter().zip(found).take_while(|(kept, found)| kept == found).count();
    let (kept_there, found_there) = (kept.get(at), found.get(at));
    let text = || {
        let counts = format!("{} chunks, now {}", kept.len(), found.len());
        format!("{counts}; the first that differs: {kept_there:?}, now {found_there:?}")
    };
    (kept_there.is_some() || found_there.is_some()).then(text)
}

fn group_difference(kept: &State, found: &State) -> Option<String> {
    if kept == found {
        return None;
    }
    let (before, after) = (kept.namespace.index(), found.namespace.index());
    Some(if before != after {
        format!("the log ended at entry {before}, now at {after}")
    } else if kept.namespace != found.namespace {
        format!("the namespace at entry {after}")
    } else {
        format!("sessions or results at entry {after} (I7)")
    })
}

#[cfg(test)]
mod tests {
    use journal::{BlockIndex, Place, SegmentIndex};
    use replica::{Entry, Record};
    use wire::meta::Outcome;
    use wire::{ChunkId, CommitIndex, Sequence, SessionId, Status, Timestamp};

    use super::*;

    fn chunk(ordinal: u64, block: u32) -> IndexEntry {
        let place = Place { segment: SegmentIndex(1), block: BlockIndex(block) };
        IndexEntry { id: ChunkId { session: SessionId(1), ordinal }, root: 7, length: 9, place, leaf_word: 0 }
    }

    #[test]
    fn a_lost_or_moved_chunk_is_found() {
        let kept = Kept::Store(vec![chunk(1, 1), chunk(2, 2)]);
        let check = |found: Vec<IndexEntry>| kept.compare(&Kept::Store(found)).is_ok();
        assert!(check(vec![chunk(1, 1), chunk(2, 2)]));
        assert!(!check(vec![chunk(1, 1)]));
        assert!(!check(vec![chunk(1, 1), chunk(2, 3)]));
        assert!(!check(vec![chunk(1, 1), chunk(2, 2), chunk(3, 3)]));
    }

    /// A session, and so many mutations that failed in it; the last one says which answers have arrived.
    fn state(mutations: u64, acked_upto: u64) -> State {
        let mut state = State::default();
        let session = SessionId::new(wire::GroupId(0), 0, 0).expect("small");
        let mut log = |index: u64, record: Record| {
            state
                .apply(CommitIndex(index), Entry { time: Timestamp(index.cast_signed()), record })
                .expect("it fits");
        };
        log(1, Record::Open { session });
        for number in 1..=mutations {
            let index = number + 1;
            let outcome = Outcome::of_status(Status::NotFound, CommitIndex(index));
            let acked_upto = Sequence(if number == mutations { acked_upto } else { 0 });
            let sequence = Sequence(number);
            log(index, Record::Mutation { session, sequence, acked_upto, outcome, changes: Vec::new() });
        }
        state
    }

    #[test]
    fn a_lost_entry_or_result_is_found() {
        let kept = Kept::Group(Box::new(state(3, 0)));
        let check = |found: State| kept.compare(&Kept::Group(Box::new(found)));
        assert_eq!(check(state(3, 0)), Ok(()));
        assert!(check(state(2, 0)).is_err_and(|why| why.contains("ended at entry")));
        assert!(check(state(3, 2)).is_err_and(|why| why.contains("I7")));
        assert!(kept.compare(&Kept::Store(Vec::new())).is_err());
    }
}
