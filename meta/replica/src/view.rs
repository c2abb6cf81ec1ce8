//! A chain as the cluster map shows it, and who does what in it. Pure lookups.
//!
//! ```text
//!   head ──entries──► follower ──entries──► … ──► last acker        Serving or Syncing: every ack needs all of them (R12)
//!                        └─committed entries──► learner             Waiting: outside the acks
//! ```
//! The head is the first Serving member, the reader the last Serving one, the last acker the last that is Serving or Syncing; an upstream is the Serving or
//! Syncing member before. A learner's source is the reader. Members in other states do nothing.

use wire::map::{Phase, ReplicaState};
use wire::{Epoch, StoreId};

/// A group's chain in one epoch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChainView {
    /// Its number.
    pub epoch: Epoch,
    /// How far it is.
    pub phase: Phase,
    /// Members in the chain's order: Serving ones first come first, joiners behind them.
    pub members: Vec<(StoreId, ReplicaState)>,
    /// Serving members without which the head takes no mutations (R6).
    pub min_in_sync: u8,
    /// The group's generation (R20).
    pub generation: u16,
}

/// What a member does in its epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Nothing: no member, not told its chain yet, or sealed by the promise of an epoch that isn't active.
    Idle,
    /// Orders and executes.
    Head,
    /// Takes part in every ack.
    Follower,
    /// Is fed what is committed.
    Learner,
}

impl ChainView {
    /// The member's state.
    pub fn state_of(&self, store: StoreId) -> Option<ReplicaState> {
        self.members.iter().find(|(member, _)| *member == store).map(|(_, state)| *state)
    }

    /// Members that every ack needs, in order.
    pub fn ackers(&self) -> impl DoubleEndedIterator<Item = StoreId> {
        let acks = |state| matches!(state, ReplicaState::Serving | ReplicaState::Syncing);
        self.members.iter().filter(move |(_, state)| acks(*state)).map(|(store, _)| *store)
    }

    fn serving(&self) -> impl DoubleEndedIterator<Item = StoreId> {
        let members = self.members.iter();
        members.filter(|(_, state)| *state == ReplicaState::Serving).map(|(store, _)| *store)
    }

    /// Members that count for [`min_in_sync`](Self::min_in_sync) (R6).
    pub fn serving_count(&self) -> usize {
        self.serving().count()
    }

    /// The first Serving member.
    pub fn head(&self) -> Option<StoreId> {
        self.serving().next()
    }

    /// The last Serving member: it answers queries, and feeds learners.
    pub fn reader(&self) -> Option<StoreId> {
        self.serving().next_back()
    }

    /// The member whose flush is the last that an ack waits for.
    pub fn last_acker(&self) -> Option<StoreId> {
        self.ackers().next_back()
    }

    /// Who sends this member its entries.
    pub fn upstream_of(&self, store: StoreId) -> Option<StoreId> {
        match self.state_of(store)? {
            ReplicaState::Serving | ReplicaState::Syncing => {
                self.ackers().take_while(|member| *member != store).last()
            }
            ReplicaState::Waiting => self.reader(),
            ReplicaState::LastServing | ReplicaState::Offline => None,
        }
    }

    /// What the member does once the epoch is active.
    pub fn role_of(&self, store: StoreId) -> Role {
        match self.state_of(store) {
            _ if self.head() == Some(store) => Role::Head,
            Some(ReplicaState::Serving | ReplicaState::Syncing) => Role::Follower,
            Some(ReplicaState::Waiting) => Role::Learner,
            Some(ReplicaState::LastServing | ReplicaState::Offline) | None => Role::Idle,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everybody_knows_their_place() {
        use ReplicaState::{LastServing, Offline, Serving, Syncing, Waiting};
        let store = |letter: char| StoreId([u8::try_from(letter).unwrap(); 16]);
        // States of A, B, C, D; then head, reader, last acker, and each member's upstream.
        for (states, expected, upstreams) in [
            (vec![Serving], "AAA", "-"),
            (vec![Serving, Serving, Serving], "ACC", "-AB"),
            (vec![Serving, Serving, Syncing], "ABC", "-AB"),
            (vec![Serving, Offline, Syncing, Waiting], "AAC", "--AA"),
            (vec![Offline, Serving, Serving, Waiting], "BCC", "--BC"),
            (vec![LastServing, Waiting], "---", "--"),
        ] {
            let members = ('A'..).map(store).zip(states.iter().copied()).collect();
            let view =
                ChainView { epoch: Epoch(1), phase: Phase::Active, members, min_in_sync: 1, generation: 0 };
            let name = |store: Option<StoreId>| store.map_or('-', |store| char::from(store.0[0]));
            let found: String =
                [view.head(), view.reader(), view.last_acker()].into_iter().map(name).collect();
            assert_eq!(found, expected, "{states:?}");
            let found: String =
                view.members.iter().map(|(store, _)| name(view.upstream_of(*store))).collect();
            assert_eq!(found, upstreams, "{states:?}");
        }
    }
}
