//! The member: its state, and the events that the driver hands it.
//!
//! ```text
//!  Recovering ──(log open, replica restored)──► Serving ──(a write failed)──► Ended: nothing is answered any more
//!       └──(damage, or what can't be applied)──────────────────────────────────►┘
//!
//!  on_shutdown: Draining ──(all entries durable)──► Checkpointing ──► Ending ──► Note::Ended
//! ```
//! The last checkpoint is marked as the log's end, so that the next start reads nothing else. One event can lead to at most as many effects as
//! the replica's one event, the log's notes and the calls that wait for a store; each of the three has its limit.

mod chain;
mod closing;

use std::sync::Arc;

use journal::log::Log;
use journal::{IoOutcome, IoToken, Opened};
use placement::{ClusterMap, Edition};
use replica::{
    ChainView, Effect, Event, LogSpace, Losses, RecordNumber, Replica, ReplicaConfig, RequestBody, Restore,
    RestoreError,
};
use wire::map::{Standing, Store, Unit};
use wire::message::Request;
use wire::meta::{GroupState, Query};
use wire::{ClusterId, CommitIndex, GroupId, Incarnation, Memory, Nanos, NodeId, Prefix, Status, StoreId};

use crate::effects::{Clock, CloseReason, Effects, Link, Note, OpenFailure, Turn};
use crate::group_log::{GroupLog, LogNote};
use crate::links::{Caller, Links};
use crate::peers::Peers;
use crate::store_calls::{Answered, StoreCalls};

pub use chain::Position;
use closing::Closing;

/// Who a member is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Its cluster.
    pub cluster: ClusterId,
    /// Its node.
    pub node: NodeId,
    /// Its group.
    pub group: GroupId,
    /// Its log, as the cluster map names it.
    pub store: StoreId,
    /// Connections that are served; further ones are answered `Busy` and closed (R43).
    pub links_max: u32,
}

#[derive(Debug)]
enum Phase {
    /// The log is being read.
    Recovering(Box<Restore>),
    Serving(Box<Replica>),
    /// The log failed: what is durable isn't known. Or it couldn't be opened.
    Ended,
}

/// What a page of a checkpoint takes beside its content, at most: a header, and the rest of its last block.
const PAGE_OVERHEAD_BYTES: u64 = 4096 + 64;

/// One member of a metadata group.
#[derive(Debug)]
pub struct Member {
    phase: Phase,
    settings: ReplicaConfig,
    log: GroupLog,
    links: Links,
    stores: StoreCalls,
    peers: Peers,
    /// `None` until the node has handed one over: nothing is served before.
    edition: Option<Arc<Edition>>,
    /// What the replica wants done, before it is carried out. Reused.
    scratch: replica::Effects,
    /// When the replica wants a tick.
    tick_at: Option<Nanos>,
    /// The chain that the replica was told.
    told: Option<ChainView>,
    lease_until: Nanos,
    closing: Option<Closing>,
    /// The end is followed by a beginning.
    is_restarting: bool,
}

impl Member {
    /// A member around a log that hasn't started.
    pub fn new(identity: Identity, settings: ReplicaConfig, log: Log) -> Self {
        let settings = ReplicaConfig { store: Some(identity.store), ..settings };
        Self {
            phase: Phase::Recovering(Box::new(Restore::chained(settings.recent_bytes))),
            settings,
            log: GroupLog::new(log),
            links: Links::new(identity),
            stores: StoreCalls::new(identity.group),
            peers: Peers::new(identity.group, identity.store),
            edition: None,
            scratch: replica::Effects::default(),
            tick_at: None,
            told: None,
            lease_until: Nanos(0),
            closing: None,
            is_restarting: false,
        }
    }

    /// The replica, once it serves.
    pub fn replica(&self) -> Option<&Replica> {
        match &self.phase {
            Phase::Serving(replica) => Some(replica),
            Phase::Recovering(_) | Phase::Ended => None,
        }
    }

    /// Its log, to be looked at.
    pub fn log(&self) -> &Log {
        self.log.log()
    }

    /// What `status` shows of the group, once it serves.
    pub fn state(&self) -> Option<GroupState> {
        self.replica().map(Replica::group_state)
    }

    /// The lives before the present one that the log remembers, oldest first ([`Log::lives`]).
    pub fn lives(&self) -> &[Incarnation] {
        self.log.lives()
    }

    /// Whether the log's recovery, now or before, cut a tail that may have been acked (R7, [`Log::recovered_cut`]).
    pub fn recovered_cut(&self) -> bool {
        self.log.recovered_cut()
    }

    /// Whether the log was opened without batches that were durable, now or before ([`Log::lacks`]).
    pub fn lacks(&self) -> bool {
        self.log.lacks()
    }

    /// Control has accepted this life of the log: it forgets those before. Passed over unless the log is open; written with the turn's end.
    pub fn on_accepted(
        &mut self,
        clock: Clock,
        incarnation: Incarnation,
        memory: &mut impl Memory,
        effects: &mut Effects,
    ) {
        let mut turn = Turn { clock, memory, effects };
        self.log.on_accepted(incarnation, &mut turn);
        self.settle(&mut turn);
    }

    /// The member is Serving again: the log forgets that something was cut or lost. Passed over unless the log is open; written with the turn's end.
    pub fn on_whole(&mut self, clock: Clock, memory: &mut impl Memory, effects: &mut Effects) {
        let mut turn = Turn { clock, memory, effects };
        self.log.on_whole(&mut turn);
        self.settle(&mut turn);
    }

    /// The log begins to open, or to format. The first event of all.
    pub fn on_start(&mut self, clock: Clock, memory: &mut impl Memory, effects: &mut Effects) {
        let mut turn = Turn { clock, memory, effects };
        self.log.start(&mut turn);
        self.settle(&mut turn);
    }

    /// Nothing is executed before the replica knows what may be lost (R8): without a map no request is taken.
    fn tell_map(&mut self, now: Nanos) {
        if let (Phase::Serving(replica), Some(edition)) = (&mut self.phase, &self.edition) {
            let map = edition.map();
            let stamps = map.loss_stamps().collect();
            replica.set_losses(Losses { ring_bits: u32::from(map.as_map().ring_bits), stamps });
            let holds_chunks = |(_, store): &(u16, &Store)| {
                matches!(store.unit, Unit::Shard(_)) && store.standing == Standing::Member
            };
            let sources = (0_u16..=u16::MAX).zip(&map.as_map().stores).filter(holds_chunks);
            replica.set_inventory_sources(now, sources.map(|(place, _)| place).collect());
        }
    }

    /// How the log was found, once it is open.
    pub fn opened(&self) -> Option<&Opened> {
        self.log.found()
    }

    /// A client connected.
    pub fn on_open(&mut self, link: Link) {
        self.links.open(link);
    }

    /// What became of a [`Dial`](crate::Dial): the number under which the connection will stand or be closed; `None` where it wasn't begun.
    pub fn on_dialled(&mut self, peer: u16, link: Option<Link>) {
        if self.peers.has_index(peer) {
            self.peers.on_dialled(peer, link);
        } else {
            self.stores.on_dialled(peer, link);
        }
    }

    /// A connection that was dialled stands.
    pub fn on_up(&mut self, link: Link, effects: &mut Effects) {
        if let Some(edition) = &self.edition {
            self.stores.on_up(link, edition.map(), effects);
            self.peers.on_up(link, edition.map(), effects);
        }
    }

    /// A connection is gone, or was never made; also one that was closed from here.
    pub fn on_close(&mut self, clock: Clock, link: Link, memory: &mut impl Memory, effects: &mut Effects) {
        let mut turn = Turn { clock, memory, effects };
        if !self.stores.on_close(link) && self.links.close(link) {
            self.handle(Event::ClientGone { client: link.0 }, &mut turn);
        }
        if let Some(peer) = self.peers.on_close(link) {
            self.handle(Event::LinkDown { peer }, &mut turn);
        }
        self.settle(&mut turn);
    }

    /// A frame's head has arrived whole and unharmed. `Some` ends the connection; no frame here has a payload.
    pub fn on_head(
        &mut self,
        clock: Clock,
        link: Link,
        prefix: &Prefix,
        message: &[u8],
        memory: &mut impl Memory,
        effects: &mut Effects,
    ) -> Option<CloseReason> {
        let mut turn = Turn { clock, memory, effects };
        let close = if self.stores.knows(link) {
            self.on_reply(link, prefix, message, &mut turn)
        } else if self.peers.knows(link) {
            self.on_member(link, prefix, message, &mut turn)
        } else if !self.links.knows(link) || prefix.reply || prefix.payload_bytes > 0 {
            Some(CloseReason::Protocol)
        } else {
            let caller = Caller { link, kind: prefix.kind, correlation: prefix.correlation };
            match Request::decode(prefix.kind, message) {
                Ok(request) => self.on_request(caller, prefix.deadline_ms, request, &mut turn),
                Err(error) => {
                    self.links.refuse(caller, error.status(), turn.effects);
                    None
                }
            }
        };
        self.settle(&mut turn);
        close
    }

    /// One of the log's disk requests ended.
    pub fn on_io(
        &mut self,
        clock: Clock,
        io: IoToken,
        outcome: IoOutcome,
        memory: &mut impl Memory,
        effects: &mut Effects,
    ) {
        let mut turn = Turn { clock, memory, effects };
        self.log.on_io(io, outcome, &mut turn);
        self.settle(&mut turn);
    }

    /// No further event is at hand: what has gathered is written as one batch.
    pub fn on_turn(&mut self, clock: Clock, memory: &mut impl Memory, effects: &mut Effects) {
        let mut turn = Turn { clock, memory, effects };
        if let Some(edition) = &self.edition {
            self.stores.on_turn(clock.now, edition.map(), turn.effects);
        }
        // The disk first; then what other members are to know, this turn's flushes among it.
        self.log.submit(&mut turn);
        self.settle(&mut turn);
        if self.closing.is_none() {
            self.handle(Event::Turn, &mut turn);
            self.settle(&mut turn);
        }
    }

    /// The log keeps room for a checkpoint of the state as it is, which takes no more bytes than the state does in memory.
    fn look_at_space(&mut self) -> LogSpace {
        let Phase::Serving(replica) = &self.phase else { return LogSpace::Ample };
        // Each page has a header, and ends in a block of its own.
        let (bytes, page) = (replica.state().memory_bytes(), self.settings.checkpoint_page_bytes.max(1));
        let pages = bytes / u64::try_from(page).expect("64 bits") + 1;
        self.log.expect_image(bytes + pages * PAGE_OVERHEAD_BYTES);
        self.log.look_at_space()
    }

    /// A deadline has come.
    pub fn on_tick(&mut self, clock: Clock, memory: &mut impl Memory, effects: &mut Effects) {
        let mut turn = Turn { clock, memory, effects };
        if self.tick_at.is_some_and(|at| at <= clock.now) {
            self.tick_at = None;
            self.handle(Event::Tick, &mut turn);
        }
        if let Some(edition) = &self.edition {
            self.stores.on_turn(clock.now, edition.map(), turn.effects);
        }
        self.log.on_tick(&mut turn);
        self.settle(&mut turn);
    }

    /// What a client asks, once its frame is decoded.
    fn on_request<M: Memory>(
        &mut self,
        caller: Caller,
        deadline_ms: u32,
        request: Request<'_>,
        turn: &mut Turn<'_, M>,
    ) -> Option<CloseReason> {
        let Some(edition) = self.edition.clone() else {
            self.links.refuse(caller, Status::NotServing, turn.effects);
            return None;
        };
        let body = match request {
            Request::Hello(hello) => {
                let close = self.links.greet(caller, &hello, edition.number(), turn.effects);
                if let Some(member) = hello.peer.filter(|_| close.is_none()) {
                    self.peers.on_greeted(member, caller.link);
                }
                return close;
            }
            Request::GetMap { have, page } => {
                match edition.page(have, page) {
                    Some(reply) => self.links.send(caller, Status::Ok, &reply, turn.effects),
                    None => self.links.refuse(caller, Status::BadRequest, turn.effects),
                }
                return None;
            }
            _ if !self.links.is_greeted(caller.link) => return Some(CloseReason::Protocol),
            Request::OpenSession { .. } => RequestBody::OpenSession,
            Request::KeepAlive { session, pins } => RequestBody::KeepAlive { session, pins },
            Request::CloseSession { session } => RequestBody::CloseSession { session },
            Request::Mutate(mutation) => RequestBody::Mutate(mutation),
            Request::Query(query) => RequestBody::Query(query),
            Request::Replicate(message) => return self.on_replicate(caller.link, message, turn),
            _ => {
                self.links.refuse(caller, Status::Unsupported, turn.effects);
                return None;
            }
        };
        let is_status = matches!(body, RequestBody::Query(Query::GroupStatus));
        if self.replica().is_none() || (self.closing.is_some() && !is_status) {
            self.links.refuse(caller, Status::NotServing, turn.effects);
            return None;
        }
        if !self.links.ask(caller) {
            return Some(CloseReason::Protocol);
        }
        let deadline =
            (deadline_ms > 0).then(|| turn.clock.now.after(u64::from(deadline_ms) * Nanos::MILLISECOND));
        let request =
            replica::Request { client: caller.link.0, correlation: caller.correlation, deadline, body };
        self.handle(Event::Request(request), turn);
        None
    }

    /// A frame over a connection that was dialled to another member: its answer to the greeting, or to what was asked.
    fn on_member<M: Memory>(
        &mut self,
        link: Link,
        prefix: &Prefix,
        message: &[u8],
        turn: &mut Turn<'_, M>,
    ) -> Option<CloseReason> {
        if prefix.reply {
            self.peers.on_reply(link, prefix, turn.effects);
            return None;
        }
        match (self.peers.dialled_to(link), Request::decode(prefix.kind, message)) {
            (Some(from), Ok(Request::Replicate(message))) if prefix.payload_bytes == 0 => {
                self.on_said(from, message, turn);
                None
            }
            _ => Some(CloseReason::Protocol),
        }
    }

    fn on_reply<M: Memory>(
        &mut self,
        link: Link,
        prefix: &Prefix,
        message: &[u8],
        turn: &mut Turn<'_, M>,
    ) -> Option<CloseReason> {
        let map: &ClusterMap = self.edition.as_ref()?.map();
        let answered = self.stores.on_reply(turn.clock.now, link, (prefix, message), map, turn.effects);
        match answered.filter(|_| self.closing.is_none()) {
            Some(Answered::Deleted { first, count }) => {
                self.handle(Event::ShardDeleted { first, count }, turn);
            }
            Some(Answered::Inventory { source, ids, end }) => {
                self.handle(Event::ShardInventory { source, ids: &ids, end }, turn);
            }
            None => {}
        }
        None
    }

    /// Hands the replica an event and carries out what it wants; what the log has to say to that comes up in `settle`.
    fn handle<M: Memory>(&mut self, event: Event<'_>, turn: &mut Turn<'_, M>) {
        let Phase::Serving(replica) = &mut self.phase else { return };
        let mut wanted = std::mem::take(&mut self.scratch);
        replica.handle(turn.clock.now, turn.clock.wall, event, &mut wanted);
        for effect in &wanted.list {
            self.carry_out(effect, &wanted, turn);
        }
        wanted.clear();
        self.scratch = wanted;
    }

    fn carry_out<M: Memory>(&mut self, effect: &Effect, all: &replica::Effects, turn: &mut Turn<'_, M>) {
        let now = turn.clock.now;
        match effect {
            Effect::Append { record, bytes } => self.log.append(*record, all.slice(bytes), turn),
            Effect::Send { to, message } => {
                self.peers.send(now, *to, all.message(*message), turn.effects);
            }
            Effect::Disconnect { client } => {
                turn.effects.closes.push((Link(*client), CloseReason::Deposed));
            }
            Effect::Restart => self.begin_restart(turn),
            Effect::Sealed { epoch } => turn.effects.notes.push(Note::Sealed { epoch: *epoch }),
            Effect::CaughtUp { epoch } => turn.effects.notes.push(Note::CaughtUp { epoch: *epoch }),
            Effect::Synced { epoch } => turn.effects.notes.push(Note::Synced { epoch: *epoch }),
            Effect::Stopped(trouble) => turn.effects.notes.push(Note::Stopped(*trouble)),
            Effect::Reply { client, correlation, status, body } => {
                let body = &all.bodies[*body as usize];
                self.links.answer(Link(*client), *correlation, *status, body, turn.effects);
            }
            Effect::DeleteChunks { first, count, orphans, holder } => {
                if let Some(map) = self.edition.as_deref().map(Edition::map) {
                    turn.effects.notes.push(Note::Deleting { orphans: *orphans });
                    self.stores.delete(now, map, (*first, *count), (*orphans, *holder), turn.effects);
                }
            }
            Effect::RequestInventory { source, after } => {
                if let Some(map) = self.edition.as_deref().map(Edition::map) {
                    self.stores.inventory(now, map, *source, *after, turn.effects);
                }
            }
            Effect::Arm(at) => self.tick_at = Some(*at).filter(|_| self.closing.is_none()),
            Effect::WriteCheckpointPage { record, last, bytes, .. } => {
                let is_end = self.closing == Some(Closing::Checkpointing);
                self.log.write_page(*record, (all.slice(bytes), *last), is_end, turn);
            }
            // The log frees its segments itself, by the same rule (R15).
            Effect::ClockStepped { nanoseconds } => {
                turn.effects.notes.push(Note::ClockStepped { nanoseconds: *nanoseconds });
            }
            Effect::TrimLog { .. } => {}
        }
    }

    /// Takes in what the log has to say, and what follows, until nothing follows any more.
    fn settle<M: Memory>(&mut self, turn: &mut Turn<'_, M>) {
        loop {
            // After each request, before the next one is executed.
            self.look_at_space();
            while let Some(note) = self.log.next(turn) {
                self.on_note(note, turn);
            }
            if !self.advance_closing(turn) {
                break;
            }
        }
        let wanted = [self.tick_at, self.log.deadline(), self.stores.deadline()];
        turn.effects.deadline = wanted.into_iter().flatten().min();
    }

    fn on_note<M: Memory>(&mut self, note: LogNote, turn: &mut Turn<'_, M>) {
        match note {
            LogNote::Page(bytes) => self.restore(|restore| restore.page(&bytes), turn),
            LogNote::PagesAbandoned => {
                turn.effects.notes.push(Note::CheckpointDamaged);
                if let Phase::Recovering(restore) = &mut self.phase {
                    **restore = Restore::chained(self.settings.recent_bytes);
                }
            }
            LogNote::Record(record, bytes) => self.restore(|restore| restore.record(record, &bytes), turn),
            LogNote::Opened { last, was_clean, loss } => {
                self.on_opened(last, was_clean, turn);
                let received = self.replica().map_or(CommitIndex(last.0), Replica::received);
                let from = CommitIndex(received.0 + 1);
                turn.effects.notes.extend(loss.map(|loss| Note::Lost { from, loss }));
            }
            LogNote::OpenFailed(error) => self.fail(OpenFailure::Log(error), turn),
            LogNote::Durable(record) => self.handle(Event::Durable { record }, turn),
            LogNote::PageTaken => self.handle(Event::CheckpointPageTaken, turn),
            LogNote::CheckpointDone(record) => {
                self.handle(Event::CheckpointDurable { record }, turn);
                let index = self.state().map_or(CommitIndex(record.0), |state| state.checkpoint);
                turn.effects.notes.push(Note::CheckpointDone(index));
            }
            LogNote::CheckpointFailed => {
                turn.effects.notes.push(Note::CheckpointFailed);
                self.handle(Event::CheckpointFailed, turn);
            }
            LogNote::Fenced => {
                self.end();
                turn.effects.notes.push(Note::Fenced);
            }
            LogNote::WantsCheckpoint => self.handle(Event::BeginCheckpoint, turn),
            LogNote::Space(space) => self.handle(Event::LogSpace(space), turn),
            LogNote::Closed => turn.effects.notes.push(Note::Ended),
        }
    }

    fn restore<M: Memory>(
        &mut self,
        step: impl FnOnce(&mut Restore) -> Result<(), RestoreError>,
        turn: &mut Turn<'_, M>,
    ) {
        if let Phase::Recovering(restore) = &mut self.phase
            && let Err(error) = step(restore)
        {
            self.fail(OpenFailure::Restore(error), turn);
        }
    }

    fn on_opened<M: Memory>(&mut self, last: RecordNumber, was_clean: bool, turn: &mut Turn<'_, M>) {
        // It may have failed on an entry before.
        let Phase::Recovering(restore) = std::mem::replace(&mut self.phase, Phase::Ended) else { return };
        match restore.start(self.settings, turn.clock.now) {
            Ok(replica) => {
                assert_eq!(replica.last_record(), last, "what the log has is what the replica has");
                self.phase = Phase::Serving(Box::new(replica));
                self.tell_map(turn.clock.now);
                self.handle(Event::Lease { until: self.lease_until }, turn);
                self.tell_chain(turn);
                let committed = self.replica().map_or(CommitIndex(0), Replica::committed);
                turn.effects.notes.push(Note::Opened { committed, was_clean });
                if self.closing.is_none() {
                    // First of all: after many short lives there may be no room for another entry until a checkpoint has made it.
                    if self.log.wants_checkpoint() {
                        self.handle(Event::BeginCheckpoint, turn);
                    }
                    let space = self.look_at_space();
                    self.handle(Event::LogSpace(space), turn);
                    self.handle(Event::Tick, turn);
                }
            }
            Err(error) => self.fail(OpenFailure::Restore(error), turn),
        }
    }

    fn fail<M: Memory>(&mut self, failure: OpenFailure, turn: &mut Turn<'_, M>) {
        self.end();
        turn.effects.notes.push(Note::OpenFailed(failure));
    }

    fn end(&mut self) {
        self.phase = Phase::Ended;
        self.tick_at = None;
    }
}
