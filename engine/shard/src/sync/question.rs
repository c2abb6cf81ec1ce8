//! Asking the group in a chunk's id what the chunk is (R2, R27): the only authority over what lives.
//!
//! Questions of all jobs go to a group together, up to a message full at a time. A group that can't be reached is asked again every second; whoever waits for the
//! answer waits no longer than [`PATIENCE_NANOS`], while the question stays.

use std::collections::BTreeMap;

use wire::limits::MESSAGE_CHUNKS_MAX;
use wire::message::ChunkRecord;
use wire::meta::ChunkState;
use wire::planted::{Bug, planted};
use wire::{ChunkId, GroupId, Memory, Nanos, SliceIndex, StoreId};

use super::job::JobKey;
use crate::effects::Effects;
use crate::shard::Shard;

/// Questions that wait; beyond it none is put: comparisons find the chunks again.
const QUESTIONS_MAX: usize = 16_384;
/// A job waits so long for an answer.
const PATIENCE_NANOS: u64 = 2 * Nanos::SECOND;
/// A group that couldn't answer is asked again after this.
const AGAIN_NANOS: u64 = Nanos::SECOND;

/// What is different about a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The other replica has it, this one doesn't.
    Lacking,
    /// This one has it, the other doesn't.
    Extra,
}

/// One question.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Question {
    pub(crate) record: ChunkRecord,
    pub(crate) kind: Kind,
    /// The other replica.
    pub(crate) with: StoreId,
    pub(crate) slice: SliceIndex,
    /// Who waits for the answer, with its serial number.
    pub(crate) job: Option<(JobKey, u64)>,
    pub(crate) since: Nanos,
}

/// All questions.
#[derive(Debug, Default)]
pub(crate) struct Questions {
    waiting: BTreeMap<ChunkId, (Question, Nanos)>,
    asked: BTreeMap<ChunkId, Question>,
    /// Groups of which an answer is awaited.
    busy: Vec<GroupId>,
    /// Groups that didn't answer within a job's patience: nobody waits for them until they do.
    away: Vec<GroupId>,
    /// When there is something to do next.
    look_at: Nanos,
}

impl Questions {
    pub(crate) fn len(&self) -> usize {
        self.waiting.len() + self.asked.len()
    }

    fn take(&mut self, id: ChunkId) -> Option<Question> {
        self.asked.remove(&id).or_else(|| self.waiting.remove(&id).map(|(question, _)| question))
    }

    /// The group didn't answer.
    pub(crate) fn put_off(&mut self, now: Nanos, ids: &[ChunkId]) {
        for id in ids {
            if let Some(question) = self.asked.remove(id) {
                self.waiting.insert(*id, (question, now.after(AGAIN_NANOS)));
            }
        }
        self.look_at = now;
        self.end_asking(ids);
    }

    fn end_asking(&mut self, ids: &[ChunkId]) {
        let group = ids.first().map(|id| id.session.group());
        self.busy.retain(|busy| Some(*busy) != group);
    }
}

impl Shard {
    /// Puts a question; its job counts it.
    pub(crate) fn put_question(&mut self, now: Nanos, question: Question) {
        let id = question.record.id;
        if question.kind == Kind::Extra && planted(Bug::SyncDeletesExtras) {
            self.sync.sweep.push(id);
            return;
        }
        if let Some(old) = self.sync.questions.take(id) {
            self.release_job(old.job);
        }
        if self.sync.questions.len() >= QUESTIONS_MAX {
            self.sync.counters.questions_dropped += 1;
            return;
        }
        let is_away = self.sync.questions.away.contains(&id.session.group());
        let question = Question { job: question.job.filter(|_| !is_away), ..question };
        if let Some((key, _)) = question.job
            && let Some(job) = self.sync.jobs.get_mut(&key)
        {
            job.questions += 1;
        }
        self.sync.questions.waiting.insert(id, (question, now));
        self.sync.questions.look_at = now;
        self.sync.wake();
    }

    fn release_job(&mut self, job: Option<(JobKey, u64)>) {
        if let Some((key, serial)) = job
            && let Some(job) = self.sync.jobs.get_mut(&key)
        {
            job.answered(serial);
        }
    }

    /// A delete came: that is an answer.
    pub(crate) fn drop_question(&mut self, id: ChunkId) {
        if let Some(question) = self.sync.questions.take(id) {
            self.release_job(question.job);
        }
    }

    /// Asks the groups what is due, and lets jobs go on that have waited long enough.
    pub(crate) fn ask_questions(&mut self, now: Nanos, effects: &mut Effects) {
        if self.sync.questions.len() == 0 {
            return;
        }
        let look_at = self.sync.questions.look_at;
        if now < look_at {
            self.sync.want(look_at);
            return;
        }
        let mut again = now.after(AGAIN_NANOS);
        let mut next = self.sync.questions.waiting.keys().next().map(|id| id.session.group());
        while let Some(group) = next {
            let of_group = |id: &ChunkId| id.session.group() == group;
            let due: Vec<ChunkId> = self
                .sync
                .questions
                .waiting
                .iter()
                .filter(|(id, (_, at))| of_group(id) && *at <= now)
                .map(|(id, _)| *id)
                .take(MESSAGE_CHUNKS_MAX)
                .collect();
            let is_free = !self.sync.questions.busy.contains(&group);
            if is_free && !due.is_empty() {
                if self.ask_group(now, group, due.clone(), effects) {
                    self.sync.questions.busy.push(group);
                    for id in &due {
                        if let Some((question, _)) = self.sync.questions.waiting.remove(id) {
                            self.sync.questions.asked.insert(*id, question);
                        }
                    }
                } else {
                    again = now.after(super::RETRY_NANOS);
                }
            }
            next =
                self.sync.questions.waiting.keys().map(|id| id.session.group()).find(|other| *other > group);
        }
        let soonest = self.release_patient(now);
        let at = soonest.map_or(again, |soonest| again.min(soonest));
        self.sync.questions.look_at = at;
        self.sync.want(at);
    }

    /// Jobs that have waited long enough go on; when there is something to do about questions next.
    fn release_patient(&mut self, now: Nanos) -> Option<Nanos> {
        let questions = &mut self.sync.questions;
        let waiting = questions.waiting.values_mut().map(|(question, _)| question);
        let all = waiting.chain(questions.asked.values_mut());
        let mut released = Vec::new();
        let mut soonest: Option<Nanos> = None;
        for question in all.filter(|question| question.job.is_some()) {
            let until = question.since.after(PATIENCE_NANOS);
            if until <= now {
                released.push((question.job.take(), question.record.id.session.group()));
            } else {
                soonest = Some(soonest.map_or(until, |known| known.min(until)));
            }
        }
        let again = questions.waiting.values().map(|(_, at)| *at).filter(|at| *at > now).min();
        if !released.is_empty() {
            self.sync.wake();
        }
        for (job, group) in released {
            if !self.sync.questions.away.contains(&group) {
                self.sync.questions.away.push(group);
            }
            self.release_job(job);
        }
        soonest.into_iter().chain(again).min()
    }

    /// The group has answered.
    pub(super) fn on_states(
        &mut self,
        now: Nanos,
        ids: &[ChunkId],
        states: &[ChunkState],
        memory: &mut impl Memory,
        effects: &mut Effects,
    ) {
        self.sync.questions.end_asking(ids);
        let group = ids.first().map(|id| id.session.group());
        self.sync.questions.away.retain(|away| Some(*away) != group);
        self.sync.questions.look_at = now;
        for (id, state) in ids.iter().zip(states) {
            let Some(question) = self.sync.questions.asked.remove(id) else { continue };
            match (question.kind, state) {
                // R2: this verdict alone deletes what only one replica holds.
                (Kind::Extra, ChunkState::Dead) => self.sync.sweep.push(*id),
                (Kind::Extra, state) => {
                    self.sync.counters.extras_live += u64::from(*state != ChunkState::Open);
                    let offered = (question.slice, question.with);
                    self.sync.offering.entry(offered).or_default().push(question.record);
                }
                (Kind::Lacking, ChunkState::Dead) => {}
                (Kind::Lacking, ChunkState::Live { root: Some(root) }) if *root != question.record.root => {
                    self.sync.counters.mismatches += 1;
                }
                (Kind::Lacking, _) => {
                    // One that waits no more finds it at its next pass.
                    if let Some((key, serial)) = question.job
                        && let Some(job) = self.sync.jobs.get_mut(&key)
                    {
                        job.want(serial, question.record);
                    }
                }
            }
            self.release_job(question.job);
        }
        self.sweep(now, memory, effects);
        self.sync.wake();
    }
}
