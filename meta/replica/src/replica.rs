//! The replica: takes events, keeps the order of the log, holds answers back until they may leave.
//!
//! Invariants: `committed ≤ received`, and `durable ≤ received`; a head's state is as of the last entry received, any other member's as of the commit index;
//! an answer waits for the index that its state had when it was made.

use namespace::Losses;
use wire::meta::{GroupState, Refusal};
use wire::{CommitIndex, Nanos, Status, StoreId, Timestamp};

use crate::answers::{Answers, refuse_at_once};
use crate::chain::Chain;
use crate::checkpoint::Checkpointer;
use crate::config::{IN_FLIGHT_BYTES_MAX, ReplicaConfig};
use crate::deletes::Deletes;
use crate::downstream::Downstream;
use crate::event::{Body, Effect, Effects, Event, LogSpace, Request, RequestBody};
use crate::fence::Fence;
use crate::history::History;
use crate::log_clock::LogClock;
use crate::message::Message;
use crate::orphans::Orphans;
use crate::own_log::{OwnLog, RecordNumber, encode_entry_head};
use crate::pins::Pins;
use crate::record::{Entry, Record};
use crate::sessions::Heard;
use crate::state::State;
use crate::upkeep::Upkeep;
use crate::upstream::Upstream;
use crate::view::Role;

/// One member of a group's chain.
#[derive(Clone, Debug)]
pub struct Replica {
    pub(crate) config: ReplicaConfig,
    /// A head's: as of the last entry received. Any other member's: as of the commit index.
    pub(crate) state: State,
    pub(crate) committed: CommitIndex,
    pub(crate) chain: Chain,
    /// The entries received: all their epochs, and the newest of them.
    pub(crate) history: History,
    /// The log under this member.
    pub(crate) own: OwnLog,
    pub(crate) upstream: Upstream,
    pub(crate) downstream: Downstream,
    pub(crate) fence: Fence,
    pub(crate) answers: Answers,
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

/// What a replica begins with.
#[derive(Debug, Default)]
pub(crate) struct Begin {
    pub(crate) state: State,
    pub(crate) history: History,
    pub(crate) own: OwnLog,
    pub(crate) hollow: bool,
    pub(crate) checkpointer: Checkpointer,
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
    /// Last entry that is committed.
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
    /// A replica that has no log yet.
    pub fn new(config: ReplicaConfig, now: Nanos) -> Self {
        Self::with(config, Begin::default(), now)
    }

    /// A replica with this state and this log, all of which is durable.
    pub(crate) fn with(config: ReplicaConfig, begin: Begin, now: Nanos) -> Self {
        let Begin { state, history, own, hollow, checkpointer } = begin;
        let chain = Chain::new(&config, now);
        let applied = state.namespace.index();
        // What ended before this start may be read by clients whose pins this head hasn't heard of yet (R25).
        let young = if applied == CommitIndex(0) { 0 } else { config.pin_ttl + config.reclaim_delay / 2 };
        let heard = if chain.leads() { Heard::all(&state, now) } else { Heard::default() }; // each new head grants a full TTL (R22)
        Self {
            heard,
            upkeep: Upkeep::new(now, now.after(young)),
            clock: LogClock::new(now),
            orphans: Orphans::new(now, (0..config.inventory_sources).collect()),
            upstream: Upstream::new(now, hollow),
            downstream: Downstream::default(),
            fence: Fence::new(now),
            answers: Answers::default(),
            config,
            state,
            committed: applied,
            chain,
            history,
            own,
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
    /// One event gives at most as many replies as answers wait ([`WAITING_MAX`](crate::WAITING_MAX)), as many entries as one round of upkeep logs
    /// ([`UPKEEP_ENTRIES_MAX`](crate::UPKEEP_ENTRIES_MAX) + 2) or a message brings, as many deletions as may be on their way, and at a turn's end to each
    /// subscriber messages with as many bytes as its window has.
    pub fn handle(&mut self, now: Nanos, wall: Timestamp, event: Event<'_>, effects: &mut Effects) {
        if self.chain.is_stopped() {
            return;
        }
        let now = Now { nanos: now, wall };
        self.watch_clock(now, effects);
        self.raise_generation(now, effects);
        match event {
            Event::Request(request) => self.on_request(now, request, effects),
            Event::Chain(view) => {
                self.on_chain(now, view, effects);
                self.raise_generation(now, effects);
            }
            Event::Lease { until } => self.on_lease(now.nanos, until, effects),
            Event::Message { from, message } => self.on_message(now, from, message, effects),
            Event::LinkDown { peer } => self.on_link_down(now.nanos, peer),
            Event::Turn => self.on_turn(now.nanos, effects),
            Event::Durable { record } => self.on_durable(now.nanos, record, effects),
            Event::CheckpointPageTaken => self.write_checkpoint_page(effects),
            Event::CheckpointDurable { record } => {
                self.on_checkpoint_durable(record, effects);
                self.advance(now.nanos, effects);
            }
            Event::CheckpointFailed => self.checkpointer.fail(),
            Event::BeginCheckpoint => self.begin_checkpoint(effects),
            Event::ShardInventory { source, ids, end } if self.may_log() => {
                self.on_inventory(now.nanos, source, ids, end, effects);
            }
            Event::ShardDeleted { first, count } if self.chain.leads() => {
                self.deletes.on_deleted(first, count);
            }
            Event::ShardInventory { .. } | Event::ShardDeleted { .. } => {} // asked by a head that this member isn't any more
            Event::LogSpace(space) => self.log_space = space,
            Event::Tick => {
                self.armed = None; // this was it
                self.tend_links(now.nanos, effects);
                self.on_tick(now, effects);
            }
            Event::ClientGone { client } => self.answers.forget_client(client),
        }
        if self.checkpointer.is_due(self.config.checkpoint_log_bytes) {
            self.begin_checkpoint(effects);
        }
        self.arm(effects);
        self.invariants();
    }

    fn arm(&mut self, effects: &mut Effects) {
        let upkeep = self.chain.is_head().then_some(self.upkeep.next);
        let Some(next) = [upkeep, self.links_deadline()].into_iter().flatten().min() else { return };
        if self.armed != Some(next) {
            self.armed = Some(next);
            effects.list.push(Effect::Arm(next));
        }
    }

    fn on_message(&mut self, now: Now, from: StoreId, message: Message<&[u8]>, effects: &mut Effects) {
        match message {
            Message::Subscribe(subscribe) => self.on_subscribe(now.nanos, from, &subscribe, effects),
            Message::Accepted { epoch, number, after, base } => {
                self.on_accepted(now.nanos, from, (epoch, number), (after, base), effects);
            }
            Message::Offer { epoch, number, .. } => self.on_offer(from, (epoch, number)),
            Message::Refused { epoch, number } => self.on_refused(now.nanos, from, epoch, number),
            Message::Entries(entries) => self.on_entries(now, from, &entries, effects),
            Message::Progress(progress) => self.on_progress(now.nanos, from, &progress, effects),
            Message::Confirm { epoch, round } => self.on_confirm(from, epoch, round, effects),
            Message::Confirmed { epoch, round } => {
                self.on_confirmed(now.nanos, from, (epoch, round), effects);
            }
            Message::FetchPage { epoch, number, piece } => self.on_fetch_page(from, (epoch, number), piece),
            Message::Page(page) => self.on_page(now.nanos, from, &page, effects),
        }
    }

    fn on_link_down(&mut self, now: Nanos, peer: StoreId) {
        if self.upstream.source() == Some(peer) {
            self.upstream.retry_at(now.after(crate::config::LINK_INTERVAL));
        }
        self.downstream.forget(peer);
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
        if let RequestBody::Query(query) = request.body {
            if self.is_full() && self.chain.is_reader() {
                return self.refuse_busy(asker, effects); // I13
            }
            return self.query(now.nanos, asker, query, effects);
        }
        if !self.chain.is_head() {
            return self.refuse_elsewhere(asker, effects);
        }
        if self.is_full() {
            if let RequestBody::KeepAlive { session, .. } = request.body {
                self.heard.touch(session, now.nanos); // it was heard, whatever it is told (R22)
            }
            return self.refuse_busy(asker, effects); // I13
        }
        if let RequestBody::KeepAlive { session, pins } = request.body {
            return self.keep_alive(now, asker, session, &pins, effects);
        }
        if !self.may_log() {
            return refuse_at_once(asker, Status::NotServing, effects); // R6
        }
        match request.body {
            RequestBody::OpenSession => self.open_session(now, asker, effects),
            RequestBody::CloseSession { session } => self.close_session(now, asker, session, effects),
            RequestBody::Mutate(mutation) => self.mutate(now, asker, mutation, effects),
            RequestBody::KeepAlive { .. } | RequestBody::Query(_) => unreachable!("answered above"),
        }
    }

    /// Whether entries are made here: at a head, with enough members that serve (R6).
    pub(crate) fn may_log(&self) -> bool {
        self.chain.is_head() && self.chain.is_in_sync()
    }

    /// Whether no request is taken: too much waits for the log.
    pub(crate) fn is_full(&self) -> bool {
        self.answers.is_full()
            || self.history.bytes_between(self.committed, self.history.last()) >= IN_FLIGHT_BYTES_MAX
    }

    /// Logs a record: applies it to the head's state, and hands its bytes to the driver.
    pub(crate) fn log(&mut self, now: Now, record: Record, effects: &mut Effects) -> CommitIndex {
        let entry = Entry { time: self.next_time(now), record };
        let start = self.begin_entry(effects);
        entry.encode(&mut effects.bytes);
        self.append(now.nanos, entry, start, effects)
    }

    /// Begins an entry's record in `effects`; where. The entry's bytes follow, and [`append`](Self::append).
    pub(crate) fn begin_entry(&self, effects: &mut Effects) -> usize {
        let start = effects.bytes.len();
        encode_entry_head(self.chain.epoch(), self.committed, &mut effects.bytes);
        start
    }

    /// Logs an entry whose record is the bytes of `effects` from `start` on.
    pub(crate) fn append(
        &mut self,
        now: Nanos,
        entry: Entry,
        start: usize,
        effects: &mut Effects,
    ) -> CommitIndex {
        self.clock.note_entry(now);
        let bytes = effects.bytes.len() - start;
        let bytes_max = self.config.entry_bytes_max + crate::own_log::LOG_RECORD_OVERHEAD;
        assert!(bytes <= bytes_max, "the log takes no more");
        let index = self.append_entry(self.chain.epoch(), start, effects);
        self.state.apply(index, entry).expect("the head planned it on this very state"); // R15: the same path as at replay
        index
    }

    /// The time of the next entry (R16).
    pub(crate) fn next_time(&self, now: Now) -> Timestamp {
        self.clock.time(self.state.namespace.moment().time, now)
    }

    fn on_durable(&mut self, now: Nanos, record: RecordNumber, effects: &mut Effects) {
        self.own.on_durable(record);
        self.advance(now, effects); // R1, R12
        self.promise(effects);
        self.start_checkpoint_when_committed(effects);
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
            waiting: count(self.answers.len()),
            sessions: count(self.state.sessions.len()),
            results: count(self.state.results.len()),
            memory_bytes: self.state.memory_bytes(),
            deleting_chunks: self.state.namespace.deleting_chunks(),
            log_bytes: self.checkpointer.log_bytes,
            ..self.metrics
        }
    }

    /// The state: a head's as of the last entry appended, of which the last ones may not be durable; any other member's as of the commit index.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// The last entry that is known to be committed.
    pub fn committed(&self) -> CommitIndex {
        self.committed
    }

    /// The last entry in its log.
    pub fn received(&self) -> CommitIndex {
        self.history.last()
    }

    /// The last entry that is durable here, with all before it.
    pub fn durable(&self) -> CommitIndex {
        self.own.durable()
    }

    /// Whether everything that was appended to its log is durable.
    pub fn is_written(&self) -> bool {
        self.own.durable_record() == self.own.last()
    }

    /// Whether everything that it has received is committed and applied: a checkpoint holds all of it.
    pub fn is_whole(&self) -> bool {
        let received = self.history.last();
        self.committed == received && self.state.namespace.index() == received && !self.own.is_unsettled()
    }

    /// The last record that was appended to its log.
    pub fn last_record(&self) -> RecordNumber {
        self.own.last()
    }

    /// What it does in its chain.
    pub fn role(&self) -> Role {
        self.chain.role()
    }

    /// The epoch of the chain that it was told last.
    pub fn epoch(&self) -> wire::Epoch {
        self.chain.epoch()
    }

    /// The epochs of its newest entries: with [`received`](Self::received) what a seed is chosen by (R7).
    pub fn last_epoch(&self) -> wire::Epoch {
        self.history.terms.epoch_of(self.history.last()).unwrap_or_default()
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
        let (applied, received) = (self.state.namespace.index(), self.history.last());
        assert!(self.committed <= received && self.own.durable() <= received);
        if self.chain.leads() {
            assert!(applied == received && self.heard.len() == self.state.sessions.len());
        } else {
            assert!(applied == self.committed || self.chain.is_stopped());
        }
        let released = self.chain.role() == Role::Idle || self.answers.is_released_upto(self.committed);
        assert!(released, "what is committed is answered, or waits for its fence");
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
