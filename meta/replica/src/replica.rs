//! The replica: takes events, keeps the order of the log, holds answers back until they may leave.
//!
//! Invariants: `committed ≤ executed`; an answer waits for the index that its state had when it was made; entries are appended in order of
//! their indices, each once.

use std::collections::VecDeque;

use namespace::Losses;
use wire::meta::{Answer, GroupState, Query, Refusal};
use wire::planted::{Bug, planted};
use wire::{CommitIndex, Nanos, Status, Timestamp};

use crate::checkpoint::Checkpointer;
use crate::config::{IN_FLIGHT_BYTES_MAX, RETRY_AFTER_MS, ReplicaConfig, WAITING_BYTES_MAX, WAITING_MAX};
use crate::deletes::Deletes;
use crate::event::{Body, Effect, Effects, Event, LogSpace, Request, RequestBody};
use crate::log_clock::LogClock;
use crate::orphans::Orphans;
use crate::pins::Pins;
use crate::record::{Entry, Record};
use crate::sessions::Heard;
use crate::state::State;
use crate::upkeep::Upkeep;

/// One group's replica, its only one so far: head and tail.
#[derive(Clone, Debug)]
pub struct Replica {
    pub(crate) config: ReplicaConfig,
    /// As of the last entry appended, which is the highest received (R13).
    pub(crate) state: State,
    pub(crate) committed: CommitIndex,
    waiting: VecDeque<Waiting>,
    waiting_bytes: usize,
    /// Lengths of the entries that aren't durable yet.
    in_flight: VecDeque<u64>,
    in_flight_bytes: u64,
    pub(crate) heard: Heard,
    pub(crate) pins: Pins,
    pub(crate) deletes: Deletes,
    pub(crate) orphans: Orphans,
    pub(crate) upkeep: Upkeep,
    pub(crate) clock: LogClock,
    pub(crate) checkpointer: Checkpointer,
    pub(crate) losses: Losses,
    /// What the log has space for.
    pub(crate) log_space: LogSpace,
    pub(crate) metrics: Metrics,
    armed: Option<Nanos>,
}

/// An answer that waits for the log.
#[derive(Clone, Debug)]
struct Waiting {
    index: CommitIndex,
    asker: Asker,
    status: Status,
    body: Body,
    bytes: usize,
}

/// Whom to answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Asker {
    pub(crate) client: u64,
    pub(crate) correlation: u64,
}

/// Now, on both clocks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Now {
    pub(crate) nanos: Nanos,
    pub(crate) wall: Timestamp,
}

/// What a replica has no room in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lack {
    /// The log.
    Log,
    /// The memory budget.
    Memory,
}

/// What a replica has done since it started, and where it stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Metrics {
    /// Entries appended.
    pub entries: u64,
    /// Bytes of them.
    pub entry_bytes: u64,
    /// Mutations executed.
    pub mutations: u64,
    /// Mutations answered from the table of results.
    pub retries: u64,
    /// Queries answered.
    pub queries: u64,
    /// Requests refused with `Busy`.
    pub busy: u64,
    /// Sessions that expired.
    pub sessions_expired: u64,
    /// Chunks handed to the stores for deletion, repetitions included.
    pub deletes_sent: u64,
    /// Chunks that the orphan pass found.
    pub orphans: u64,
    /// Checkpoints written.
    pub checkpoints: u64,
    /// Last entry executed.
    pub executed: u64,
    /// Last entry that is durable.
    pub committed: u64,
    /// Answers that wait for the log.
    pub waiting: u64,
    /// Open sessions.
    pub sessions: u64,
    /// Results kept for retries.
    pub results: u64,
    /// Bytes of memory.
    pub memory_bytes: u64,
    /// Chunks whose deletion isn't acknowledged.
    pub deleting_chunks: u64,
    /// Bytes of log since the last checkpoint.
    pub log_bytes: u64,
}

impl Replica {
    /// A replica of a group that has no log yet.
    pub fn new(config: ReplicaConfig, now: Nanos) -> Self {
        let checkpointer = Checkpointer::new(CommitIndex(0), 0);
        Self::with(config, State::default(), checkpointer, now)
    }

    /// A replica with this state, all of which is durable.
    pub(crate) fn with(config: ReplicaConfig, state: State, checkpointer: Checkpointer, now: Nanos) -> Self {
        let executed = state.namespace.index();
        // What ended before this start may be read by clients whose pins this head hasn't heard of yet (R25).
        let young = if executed == CommitIndex(0) { 0 } else { config.pin_ttl + config.reclaim_delay / 2 };
        Self {
            heard: Heard::all(&state, now), // each new head grants a full TTL (R22)
            upkeep: Upkeep::new(now, now.after(young)),
            clock: LogClock::new(now),
            orphans: Orphans::new(now),
            config,
            state,
            committed: executed,
            waiting: VecDeque::new(),
            waiting_bytes: 0,
            in_flight: VecDeque::new(),
            in_flight_bytes: 0,
            pins: Pins::default(),
            deletes: Deletes::default(),
            checkpointer,
            losses: Losses::default(),
            log_space: LogSpace::Ample,
            metrics: Metrics::default(),
            armed: None,
        }
    }

    /// Takes an event; appends what has to be done to `effects`. `wall` goes into the log; `now` only counts how long something takes.
    ///
    /// One event gives at most as many replies as answers wait ([`WAITING_MAX`]), as many entries as one round of upkeep logs
    /// ([`UPKEEP_ENTRIES_MAX`](crate::UPKEEP_ENTRIES_MAX) + 2), and as many deletions as may be on their way.
    pub fn handle(&mut self, now: Nanos, wall: Timestamp, event: Event<'_>, effects: &mut Effects) {
        let now = Now { nanos: now, wall };
        self.watch_clock(now, effects);
        self.raise_generation(now, effects);
        match event {
            Event::Request(request) => self.on_request(now, request, effects),
            Event::Durable { index } => self.on_durable(index, effects),
            Event::CheckpointPageTaken => self.write_checkpoint_page(effects),
            Event::CheckpointDurable { index } => self.on_checkpoint_durable(index, effects),
            Event::CheckpointFailed => self.checkpointer.fail(),
            Event::BeginCheckpoint => self.begin_checkpoint(effects),
            Event::ShardInventory { source, ids, end } => {
                self.on_inventory(now.nanos, source, ids, end, effects);
            }
            Event::ShardDeleted { first, count } => self.deletes.on_deleted(first, count),
            Event::LogSpace(space) => self.log_space = space,
            Event::Tick => self.on_tick(now, effects),
            Event::ClientGone { client } => self.on_client_gone(client),
        }
        if self.checkpointer.is_due(self.config.checkpoint_log_bytes) {
            self.begin_checkpoint(effects);
        }
        if self.armed != Some(self.upkeep.next) {
            self.armed = Some(self.upkeep.next);
            effects.list.push(Effect::Arm(self.upkeep.next));
        }
        self.invariants();
    }

    /// The cluster map's stamps of accepted data loss, at the start and whenever they change (R8).
    pub fn set_losses(&mut self, losses: Losses) {
        self.losses = losses;
    }

    fn on_request(&mut self, now: Now, request: Request, effects: &mut Effects) {
        let asker = Asker { client: request.client, correlation: request.correlation };
        if request.deadline.is_some_and(|deadline| deadline <= now.nanos) {
            let refusal = Body::Refusal(Refusal::default());
            return effects.reply(asker.client, asker.correlation, Status::DeadlineExceeded, refusal);
        }
        if self.is_full() {
            if let RequestBody::KeepAlive { session, .. } = request.body {
                self.heard.touch(session, now.nanos); // it was heard, whatever it is told (R22)
            }
            return self.refuse_busy(asker, effects); // I13
        }
        match request.body {
            RequestBody::OpenSession => self.open_session(now, asker, effects),
            RequestBody::KeepAlive { session, pins } => {
                self.keep_alive(now, asker, session, &pins, effects);
            }
            RequestBody::CloseSession { session } => self.close_session(now, asker, session, effects),
            RequestBody::Mutate(mutation) => self.mutate(now, asker, mutation, effects),
            RequestBody::Query(query) => self.query(asker, &query, effects),
        }
    }

    /// Whether no request is taken: too much waits for the log.
    pub(crate) fn is_full(&self) -> bool {
        self.waiting.len() >= WAITING_MAX
            || self.waiting_bytes >= WAITING_BYTES_MAX
            || self.in_flight_bytes >= IN_FLIGHT_BYTES_MAX
    }

    /// Evaluates at the highest index received, and answers when that is committed (R13, I8).
    fn query(&mut self, asker: Asker, query: &Query, effects: &mut Effects) {
        self.metrics.queries += 1;
        let answer = match query {
            Query::GroupStatus => Ok(Answer::GroupStatus(self.group_state())),
            Query::ChunkStates { ids } => Ok(Answer::ChunkStates(self.chunk_states(ids))),
            query => self.state.namespace.query(query, self.config.reclaim_delay),
        };
        let (status, body) = match answer {
            Ok(answer) => (Status::Ok, Body::Answer(answer)),
            Err(failure) => {
                let refusal = Refusal { retry_after_ms: 0, depth: failure.depth, version: failure.version };
                (failure.status, Body::Refusal(refusal))
            }
        };
        self.answer(asker, status, body, self.state.namespace.index(), effects);
    }

    /// Logs a record: applies it to the head's state, and hands its bytes to the driver.
    pub(crate) fn log(&mut self, now: Now, record: Record, effects: &mut Effects) -> CommitIndex {
        let entry = Entry { time: self.next_time(now), record };
        let start = effects.bytes.len();
        entry.encode(&mut effects.bytes);
        self.append(now.nanos, entry, start, effects)
    }

    /// Logs an entry whose bytes are those of `effects` from `start` on.
    pub(crate) fn append(
        &mut self,
        now: Nanos,
        entry: Entry,
        start: usize,
        effects: &mut Effects,
    ) -> CommitIndex {
        self.clock.note_entry(now);
        let index = CommitIndex(self.state.namespace.index().0 + 1);
        assert!(effects.bytes.len() - start <= self.config.entry_bytes_max, "the log takes no more");
        let bytes = u64::try_from(effects.bytes.len() - start).expect("64 bits");
        effects.list.push(Effect::Append { index, bytes: effects.range_since(start) });
        self.state.apply(index, entry).expect("the head planned it on this very state"); // R15: the same path as at replay
        self.in_flight.push_back(bytes);
        self.in_flight_bytes += bytes;
        self.checkpointer.log_bytes += bytes;
        self.metrics.entries += 1;
        self.metrics.entry_bytes += bytes;
        index
    }

    /// The time of the next entry (R16).
    pub(crate) fn next_time(&self, now: Now) -> Timestamp {
        self.clock.time(self.state.namespace.moment().time, now)
    }

    /// Answers as soon as entry `index` is committed.
    pub(crate) fn answer(
        &mut self,
        asker: Asker,
        status: Status,
        body: Body,
        index: CommitIndex,
        effects: &mut Effects,
    ) {
        if index <= self.committed || planted(Bug::ReplicaAnswersEarly) {
            return effects.reply(asker.client, asker.correlation, status, body);
        }
        // Answers are released in order; one that could leave a little earlier (a retry's) waits with the others.
        let index = self.state.namespace.index();
        let bytes = body_bytes(&body);
        self.waiting_bytes += bytes;
        self.waiting.push_back(Waiting { index, asker, status, body, bytes }); // R12, R14
    }

    /// Answers with a refusal, which rests on the head's state and so waits as every answer does.
    pub(crate) fn refuse(&mut self, asker: Asker, status: Status, effects: &mut Effects) {
        let body = Body::Refusal(Refusal::default());
        self.answer(asker, status, body, self.state.namespace.index(), effects);
    }

    /// `Busy` means "not executed", whatever becomes of the log: it leaves at once.
    pub(crate) fn refuse_busy(&mut self, asker: Asker, effects: &mut Effects) {
        self.metrics.busy += 1;
        let refusal = Refusal { retry_after_ms: RETRY_AFTER_MS, ..Refusal::default() };
        effects.reply(asker.client, asker.correlation, Status::Busy, Body::Refusal(refusal));
    }

    fn on_durable(&mut self, index: CommitIndex, effects: &mut Effects) {
        assert!(index <= self.state.namespace.index(), "nothing is durable that wasn't appended");
        while self.committed < index {
            self.committed.0 += 1;
            let bytes = self.in_flight.pop_front().expect("each entry has its length here");
            self.in_flight_bytes -= bytes;
        }
        // A chain of one: committed is durable here (R12). Epoch, state and lease are checked at this point once there are others (R13, I8).
        while let Some(first) = self.waiting.front()
            && first.index <= self.committed
        {
            let Some(ready) = self.waiting.pop_front() else { break };
            self.waiting_bytes -= ready.bytes;
            effects.reply(ready.asker.client, ready.asker.correlation, ready.status, ready.body);
        }
        self.send_orphans(effects);
        self.start_checkpoint_when_committed(effects);
    }

    fn on_client_gone(&mut self, client: u64) {
        let gone = |waiting: &Waiting| waiting.asker.client == client;
        let bytes: usize =
            self.waiting.iter().filter(|waiting| gone(waiting)).map(|waiting| waiting.bytes).sum();
        self.waiting_bytes -= bytes;
        self.waiting.retain(|waiting| !gone(waiting));
    }

    /// What `status` shows of the group.
    pub fn group_state(&self) -> GroupState {
        GroupState {
            committed: self.committed,
            checkpoint: self.checkpointer.durable,
            sessions: count(self.state.sessions.len()),
            inodes: self.state.namespace.inode_count(),
            memory_bytes: self.state.memory_bytes(),
            memory_budget_bytes: self.config.memory_budget,
            log_bytes: self.checkpointer.log_bytes,
            deleting_chunks: self.state.namespace.deleting_chunks(),
            unopened_chunks: self.unopened_chunks(),
            log_full: self.log_space > LogSpace::Ample,
            memory_full: self.memory_full(),
        }
    }

    /// Why nothing is executed that adds something, if so (R17).
    pub fn lacks(&self) -> Option<Lack> {
        match (self.log_space, self.memory_full()) {
            (LogSpace::Ample, false) => None,
            (LogSpace::Ample, true) => Some(Lack::Memory),
            (_, _) => Some(Lack::Log),
        }
    }

    /// Chunks that the stores hold of sessions which this log never opened, as far as is known.
    pub fn unopened_chunks(&self) -> u64 {
        self.orphans.unopened()
    }

    /// What the replica has done, and where it stands.
    pub fn metrics(&self) -> Metrics {
        Metrics {
            executed: self.state.namespace.index().0,
            committed: self.committed.0,
            waiting: count(self.waiting.len()),
            sessions: count(self.state.sessions.len()),
            results: count(self.state.results.len()),
            memory_bytes: self.state.memory_bytes(),
            deleting_chunks: self.state.namespace.deleting_chunks(),
            log_bytes: self.checkpointer.log_bytes,
            ..self.metrics
        }
    }

    /// The state as of the last entry appended, of which the last ones may not be durable.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// The last entry that is durable.
    pub fn committed(&self) -> CommitIndex {
        self.committed
    }

    /// Whether memory is so short that retention is given up (R17).
    pub(crate) fn memory_short(&self) -> bool {
        self.state.memory_bytes() >= self.config.memory_budget / 100 * 80
    }

    /// Whether memory is so short that only what frees some is executed (R17).
    pub(crate) fn memory_full(&self) -> bool {
        self.state.memory_bytes() >= self.config.memory_budget / 100 * 90
    }

    fn invariants(&self) {
        let executed = self.state.namespace.index();
        assert!(self.committed <= executed);
        assert!(count(self.in_flight.len()) == executed.0 - self.committed.0);
        assert!(self.waiting.front().is_none_or(|first| first.index > self.committed));
        assert!(self.heard.len() == self.state.sessions.len());
    }
}

/// The log has no space: not executed, and nothing of it is remembered, so it leaves at once as `Busy` does. The caller may try again under
/// the same number once there is space.
pub(crate) fn refuse_full(asker: Asker, effects: &mut Effects) {
    effects.reply(asker.client, asker.correlation, Status::NoSpace, Body::Refusal(Refusal::default()));
}

pub(crate) fn count(len: usize) -> u64 {
    u64::try_from(len).expect("64 bits")
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
