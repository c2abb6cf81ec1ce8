//! Mutations: each takes effect at most once (I7).

use namespace::{Context, Moment, frees_space};
use wire::meta::{Mutation, Operation, Outcome};
use wire::planted::{Bug, planted};
use wire::{CommitIndex, Sequence, Status};

use wire::limits::SESSION_RESULTS_MAX;

use crate::config::GROUP_RESULTS_MAX;
use crate::event::{Body, Effects, LogSpace};
use crate::record::{Entry, Record};
use crate::replica::{Asker, Now, Replica, refuse_full};

impl Replica {
    pub(crate) fn mutate(&mut self, now: Now, asker: Asker, mutation: Mutation, effects: &mut Effects) {
        let Mutation { session, sequence, acked_upto, operation } = mutation;
        let Some(row) = self.state.sessions.get(&session).copied() else {
            return self.refuse(now.nanos, asker, Status::SessionExpired, effects); // R21: Unknown to the caller, never re-executed here
        };
        self.heard.touch(session, now.nanos);
        if let Some(outcome) = self.state.results.get(&(session, sequence)).copied()
            && !planted(Bug::ReplicaForgetsResults)
        {
            // The first try's result, once its entry is committed: a retry of what is still on its way joins the wait.
            self.metrics.retries += 1;
            let answer = (outcome.status, Body::Outcome(outcome));
            return self.answer(now.nanos, asker, answer, outcome.index, effects);
        }
        // A result that was acknowledged is forgotten: the caller breaks its own word, or a copy of the request comes very late.
        let forgotten = sequence <= row.acked_upto && !planted(Bug::ReplicaForgetsResults);
        if forgotten || sequence == Sequence(0) || acked_upto >= sequence {
            return self.refuse(now.nanos, asker, Status::BadRequest, effects);
        }
        let kept = if acked_upto > row.acked_upto {
            self.state.unacked(session, acked_upto)
        } else {
            usize::try_from(row.results).expect("32 bits")
        };
        if kept >= SESSION_RESULTS_MAX || self.state.results.len() >= GROUP_RESULTS_MAX {
            return self.refuse_busy(asker, effects); // R17
        }
        if !self.has_space_for(&operation) {
            return refuse_full(asker, effects); // R17
        }
        let index = CommitIndex(self.state.namespace.index().0 + 1);
        let context = Context {
            moment: Moment { index, time: self.next_time(now) },
            session,
            memory_full: self.memory_full(),
            losses: &self.losses,
        };
        let executed = self.state.namespace.execute(&operation, context);
        self.metrics.mutations += 1;
        let mut outcome = executed.outcome;
        let record = |outcome, changes| Record::Mutation { session, sequence, acked_upto, outcome, changes };
        let mut entry = Entry { time: context.moment.time, record: record(outcome, executed.changes) };
        let start = self.begin_entry(effects);
        let entry_start = effects.bytes.len();
        entry.encode(&mut effects.bytes);
        if effects.bytes.len() - entry_start > self.config.entry_bytes_max {
            // The log couldn't take it: a failure, found before anything is applied.
            effects.bytes.truncate(entry_start);
            outcome = Outcome::of_status(Status::TooLarge, index);
            entry.record = record(outcome, Vec::new());
            entry.encode(&mut effects.bytes);
        }
        let logged = self.append(now.nanos, entry, start, effects); // R14: a failure too
        assert!(logged == index, "the outcome names its own entry");
        self.answer(now.nanos, asker, (outcome.status, Body::Outcome(outcome)), index, effects);
    }
}

impl Replica {
    fn has_space_for(&self, operation: &Operation) -> bool {
        let stays_full = planted(Bug::ReplicaStaysFull) && self.checkpointer.durable > CommitIndex(0);
        let removes = frees_space(operation) && !planted(Bug::ReplicaRefusesRemovals);
        !stays_full && self.log_space <= if removes { LogSpace::Short } else { LogSpace::Ample }
    }
}
