//! Answers that wait: for the commit of what they rest on (R12, R14), and for the fence (R13, I8).
//!
//! ```text
//!  a mutation's outcome ──(its entry is committed)────────────────────────────────────────────► Reply
//!  what was only read   ──(the highest index received is committed, and evaluated)──(fence.rs)─► Reply
//! ```
//! An answer waits for the highest index that was received when its request came: the *pick*. A head evaluates at once, its state being there; another reader
//! once its state has come so far. An outcome needs no fence, since its commit is one: all members of the epoch took part.

use std::collections::{BTreeSet, VecDeque};

use wire::meta::{Answer, Query, Refusal};
use wire::planted::{Bug, planted};
use wire::{CommitIndex, Nanos, Status};

use crate::config::{RETRY_AFTER_MS, WAITING_BYTES_MAX, WAITING_MAX};
use crate::event::{Body, Effects};
use crate::fence::Round;
use crate::replica::{Asker, Replica};

/// Answers that wait, in order of their picks.
#[derive(Clone, Debug, Default)]
pub(crate) struct Answers {
    waiting: VecDeque<Waiting>,
    /// Evaluated, behind the commit of their pick; the fence isn't through.
    fenced: VecDeque<Waiting>,
    bytes: usize,
}

#[derive(Clone, Debug)]
struct Waiting {
    index: CommitIndex,
    asker: Asker,
    what: What,
    fence: Fencing,
    bytes: usize,
}

#[derive(Clone, Debug)]
enum What {
    Answer {
        status: Status,
        body: Body,
    },
    /// Evaluated when the state is there.
    Query(Box<Query>),
}

/// What an answer waits for beside the commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fencing {
    /// Nothing: it is an entry's outcome.
    Outcome,
    /// The lease, or this round of questions, begun after the pick.
    Read(Round),
}

impl Answers {
    pub(crate) fn len(&self) -> usize {
        self.waiting.len() + self.fenced.len()
    }

    pub(crate) fn is_full(&self) -> bool {
        self.len() >= WAITING_MAX || self.bytes >= WAITING_BYTES_MAX
    }

    /// The last round that an answer needs.
    pub(crate) fn round_wanted(&self) -> Option<Round> {
        let rounds = self.waiting.iter().rev().chain(self.fenced.iter().rev());
        rounds
            .filter_map(|waiting| if let Fencing::Read(round) = waiting.fence { Some(round) } else { None })
            .max()
    }

    fn push(&mut self, waiting: Waiting) {
        self.bytes += waiting.bytes;
        self.waiting.push_back(waiting);
    }

    pub(crate) fn forget_client(&mut self, client: u64) {
        let mut gone = 0;
        for list in [&mut self.waiting, &mut self.fenced] {
            list.retain(|waiting| {
                let stays = waiting.asker.client != client;
                gone += if stays { 0 } else { waiting.bytes };
                stays
            });
        }
        self.bytes -= gone;
    }

    /// Whoever waits for an outcome; their answers are forgotten.
    pub(crate) fn take_clients(&mut self) -> BTreeSet<u64> {
        self.bytes = 0;
        self.fenced.clear();
        std::mem::take(&mut self.waiting).into_iter().map(|waiting| waiting.asker.client).collect()
    }

    /// Whether everything at or before the commit index has left the queue.
    pub(crate) fn is_released_upto(&self, committed: CommitIndex) -> bool {
        self.waiting.front().is_none_or(|first| first.index > committed)
    }
}

impl Replica {
    /// Evaluates at the highest index received, and answers when that is committed and the fence is through (R13, I8).
    pub(crate) fn query(&mut self, now: Nanos, asker: Asker, query: Query, effects: &mut Effects) {
        if !self.chain.is_reader() {
            if query == Query::GroupStatus {
                // What this copy knows of itself is asked of it as a copy.
                let answer = Body::Answer(Answer::GroupStatus(self.group_state()));
                return effects.reply(asker.client, asker.correlation, Status::Ok, answer);
            }
            return self.refuse_elsewhere(asker, effects);
        }
        let fence = self.read_fence();
        if self.chain.leads() || self.history.last() <= self.committed {
            let (status, body) = self.evaluate(&query);
            return self.answer_when(now, asker, (status, body), fence, effects);
        }
        let bytes = size_of::<Waiting>() + size_of::<Query>();
        let what = What::Query(Box::new(query));
        self.answers.push(Waiting { index: self.history.last(), asker, what, fence, bytes });
    }

    fn evaluate(&mut self, query: &Query) -> (Status, Body) {
        self.metrics.queries += 1;
        let answer = match query {
            Query::GroupStatus => Ok(Answer::GroupStatus(self.group_state())),
            Query::ChunkStates { ids } => Ok(Answer::ChunkStates(self.chunk_states(ids))),
            query => self.state.namespace.query(query, self.config.reclaim_delay),
        };
        match answer {
            Ok(answer) => (Status::Ok, Body::Answer(answer)),
            Err(failure) => {
                let refusal = Refusal { retry_after_ms: 0, depth: failure.depth, version: failure.version };
                (failure.status, Body::Refusal(refusal))
            }
        }
    }

    /// Answers with an entry's outcome as soon as the entry is committed.
    pub(crate) fn answer(
        &mut self,
        now: Nanos,
        asker: Asker,
        (status, body): (Status, Body),
        index: CommitIndex,
        effects: &mut Effects,
    ) {
        if index <= self.committed || planted(Bug::ReplicaAnswersEarly) {
            return effects.reply(asker.client, asker.correlation, status, body);
        }
        // Answers are released in order; one that could leave a little earlier (a retry's) waits with the others.
        self.answer_when(now, asker, (status, body), Fencing::Outcome, effects);
    }

    /// Answers with what was read from the head's state.
    pub(crate) fn answer_read(
        &mut self,
        now: Nanos,
        asker: Asker,
        answer: (Status, Body),
        effects: &mut Effects,
    ) {
        let fence = self.read_fence();
        self.answer_when(now, asker, answer, fence, effects);
    }

    fn answer_when(
        &mut self,
        now: Nanos,
        asker: Asker,
        (status, body): (Status, Body),
        fence: Fencing,
        effects: &mut Effects,
    ) {
        let index = self.history.last();
        let committed = index <= self.committed || planted(Bug::ReplicaAnswersEarly);
        if committed && self.fence_holds(now, fence) {
            return effects.reply(asker.client, asker.correlation, status, body);
        }
        let bytes = body_bytes(&body);
        let waiting = Waiting { index, asker, what: What::Answer { status, body }, fence, bytes };
        if committed {
            self.answers.bytes += bytes;
            self.answers.fenced.push_back(waiting);
        } else {
            self.answers.push(waiting); // R12, R14
        }
    }

    /// Answers with a refusal, which rests on the head's state and so waits as every answer does.
    pub(crate) fn refuse(&mut self, now: Nanos, asker: Asker, status: Status, effects: &mut Effects) {
        self.answer_read(now, asker, (status, Body::Refusal(Refusal::default())), effects);
    }

    /// `Busy` means "not executed", whatever becomes of the log: it leaves at once.
    pub(crate) fn refuse_busy(&mut self, asker: Asker, effects: &mut Effects) {
        self.metrics.busy += 1;
        refuse_at_once(asker, Status::Busy, effects);
    }

    /// Lets go what is committed, and what the fence has let through. The epoch is active, or nothing leaves (R1).
    pub(crate) fn release(&mut self, now: Nanos, effects: &mut Effects) {
        if self.chain.role() == crate::view::Role::Idle {
            return;
        }
        while self.answers.waiting.front().is_some_and(|first| first.index <= self.committed) {
            let Some(mut ready) = self.answers.waiting.pop_front() else { break };
            if let What::Query(query) = &ready.what {
                let (status, body) = self.evaluate(query);
                self.answers.bytes -= ready.bytes;
                ready.bytes = body_bytes(&body);
                self.answers.bytes += ready.bytes;
                ready.what = What::Answer { status, body };
            }
            // Evaluated, and then the fence (R13).
            if self.fence_holds(now, ready.fence) {
                self.reply(ready, effects);
            } else {
                self.answers.fenced.push_back(ready);
            }
        }
        while self.answers.fenced.front().is_some_and(|first| self.fence_holds(now, first.fence)) {
            let Some(ready) = self.answers.fenced.pop_front() else { break };
            self.reply(ready, effects);
        }
    }

    fn reply(&mut self, ready: Waiting, effects: &mut Effects) {
        self.answers.bytes -= ready.bytes;
        let What::Answer { status, body } = ready.what else { unreachable!("it was evaluated") };
        effects.reply(ready.asker.client, ready.asker.correlation, status, body);
    }

    /// What waits for a fence that this member can't have any more: nothing of it was executed. Outcomes go on waiting.
    pub(crate) fn refuse_fenced(&mut self, effects: &mut Effects) {
        let answers = &mut self.answers;
        if answers.len() == 0 {
            return;
        }
        let (outcomes, reads): (VecDeque<_>, VecDeque<_>) = std::mem::take(&mut answers.waiting)
            .into_iter()
            .partition(|waiting| waiting.fence == Fencing::Outcome);
        answers.waiting = outcomes;
        let reads: Vec<Waiting> = reads.into_iter().chain(std::mem::take(&mut answers.fenced)).collect();
        for read in reads {
            self.answers.bytes -= read.bytes;
            refuse_at_once(read.asker, Status::NotServing, effects);
        }
    }
}

/// Not executed here, and to be tried again (R14).
pub(crate) fn refuse_at_once(asker: Asker, status: Status, effects: &mut Effects) {
    let refusal = Refusal { retry_after_ms: RETRY_AFTER_MS, ..Refusal::default() };
    effects.reply(asker.client, asker.correlation, status, Body::Refusal(refusal));
}

/// About how many bytes an answer holds while it waits.
fn body_bytes(body: &Body) -> usize {
    let answer = match body {
        Body::Answer(answer) => match answer {
            Answer::Volumes(volumes, _) => volumes.len() * 160,
            Answer::Entry(entry) => {
                let xattrs: usize =
                    entry.xattrs.iter().map(|xattr| xattr.name.len() + xattr.value.len()).sum();
                entry.target.len()
                    + xattrs
                    + entry.page.extents.runs.len() * 56
                    + entry.page.extents.roots.len() * 8
            }
            Answer::Extents(page) => page.extents.runs.len() * 56 + page.extents.roots.len() * 8,
            Answer::List { entries, .. } => {
                entries.iter().map(|entry| 200 + entry.name.len() + entry.target.len()).sum()
            }
            Answer::ChunkStates(states) => size_of_val(states.as_slice()),
            Answer::Volume(_) | Answer::Usage(_) | Answer::GroupStatus(_) => 0,
        },
        _ => 0,
    };
    answer + size_of::<Waiting>()
}
