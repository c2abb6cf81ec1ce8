//! What the log makes: the namespace, the open sessions, the results (R14, R17). Changed by entries only, so it is the same on every replica and
//! after every restart.

use std::ops::Bound;

use namespace::{ApplyError, Change, Moment, Namespace, Tree};
use thiserror::Error;
use wire::meta::Outcome;
use wire::{CommitIndex, Sequence, SessionId};

use crate::record::{Entry, Record};

/// A group's replicated state at one commit index. `clone` freezes it in O(1).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// Volumes and everything in them.
    pub namespace: Namespace,
    /// Open sessions. Closed is what is below the next counter and not here (R21).
    pub(crate) sessions: Tree<SessionId, Session>,
    /// Results that a retry may still ask for.
    pub(crate) results: Tree<(SessionId, Sequence), Outcome>,
    pub(crate) generation: u16,
    pub(crate) next_counter: u64,
}

/// An open session.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Session {
    /// Results up to here are forgotten.
    pub(crate) acked_upto: Sequence,
    /// Results in the table.
    pub(crate) results: u32,
}

/// Why an entry can't be applied: log and checkpoint don't belong together. The replica refuses to start (R29).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum StateError {
    /// The namespace refused.
    #[error(transparent)]
    Apply(#[from] ApplyError),
    /// A session that isn't open, or is already.
    #[error("session {0} isn't as the entry expects")]
    Session(SessionId),
    /// A result that is there already.
    #[error("session {0} has a result for {1} already")]
    Result(SessionId, Sequence),
}

impl State {
    /// Applies entry `index`, whatever the results say (R15).
    pub fn apply(&mut self, index: CommitIndex, entry: Entry) -> Result<(), StateError> {
        let moment = Moment { index, time: entry.time };
        match entry.record {
            Record::Open { session } => {
                if session.counter() != self.next_counter || session.generation() != self.generation {
                    return Err(StateError::Session(session));
                }
                self.next_counter += 1;
                self.sessions.insert(session, Session::default());
                self.namespace.apply(moment, Vec::new())?;
            }
            Record::Close { session, .. } => {
                self.sessions.remove(&session).ok_or(StateError::Session(session))?;
                self.forget_results(session, Sequence(u64::MAX));
                self.namespace.apply(moment, vec![Change::EndSession { session }])?;
            }
            Record::Mutation { session, sequence, acked_upto, outcome, changes } => {
                self.namespace.apply(moment, changes)?;
                self.record(session, sequence, acked_upto, outcome)?;
            }
            Record::Upkeep { changes } => self.namespace.apply(moment, changes)?,
            Record::Generation { generation } => {
                let ended: Vec<SessionId> = self.sessions.iter().map(|(session, _)| *session).collect();
                let ended = ended.into_iter().map(|session| Change::EndSession { session }).collect();
                self.sessions = Tree::default();
                self.results = Tree::default();
                self.generation = generation;
                self.next_counter = 0;
                self.namespace.apply(moment, ended)?;
            }
        }
        Ok(())
    }

    fn record(
        &mut self,
        session: SessionId,
        sequence: Sequence,
        acked_upto: Sequence,
        outcome: Outcome,
    ) -> Result<(), StateError> {
        let row = self.sessions.get(&session).ok_or(StateError::Session(session))?;
        if acked_upto > row.acked_upto {
            self.forget_results(session, acked_upto);
        }
        let row = self.sessions.get_mut(&session).ok_or(StateError::Session(session))?;
        row.acked_upto = row.acked_upto.max(acked_upto);
        row.results += 1;
        if self.results.insert((session, sequence), outcome).is_some() && !planted_forgets() {
            return Err(StateError::Result(session, sequence)); // I7
        }
        Ok(())
    }

    /// Forgets the session's results up to `upto`.
    fn forget_results(&mut self, session: SessionId, upto: Sequence) {
        loop {
            let first = self.results.range(Bound::Included(&(session, Sequence(0)))).next();
            let Some((&key, _)) = first.filter(|(key, _)| key.0 == session && key.1 <= upto) else { break };
            self.results.remove(&key);
            if let Some(row) = self.sessions.get_mut(&session) {
                row.results -= 1;
            }
        }
    }

    /// Whether the session is open.
    pub fn is_open(&self, session: SessionId) -> bool {
        self.sessions.contains(&session)
    }

    /// Whether the session was opened once, and is closed for good (R21).
    pub fn is_closed(&self, session: SessionId) -> bool {
        !self.is_unopened(session) && !self.is_open(session)
    }

    /// Whether the session was never opened: only a log that is older than its stores meets chunks of one.
    pub(crate) fn is_unopened(&self, session: SessionId) -> bool {
        session.generation() > self.generation
            || session.generation() == self.generation && session.counter() >= self.next_counter
    }

    /// Bytes of memory in use, within a few per cent (R17).
    pub fn memory_bytes(&self) -> u64 {
        let tables = self.sessions.memory_bytes() + self.results.memory_bytes();
        self.namespace.memory_bytes() + u64::try_from(tables).expect("64 bits")
    }

    /// Results that a session's next request leaves in the table, if it acknowledges up to `acked_upto`.
    pub(crate) fn unacked(&self, session: SessionId, acked_upto: Sequence) -> usize {
        let start = (session, acked_upto);
        let after = self.results.range(Bound::Excluded(&start));
        after.take_while(|(key, _)| key.0 == session).count()
    }
}

fn planted_forgets() -> bool {
    wire::planted::planted(wire::planted::Bug::ReplicaForgetsResults)
}
