//! A metadata replica of a simulated node: the shipped [`Replica`] on the shipped [`Log`], and what their driver does in production.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use journal::log::{Log, LogEffect, LogEffects, LogEvent, LogRoom};
use journal::{IoOutcome, IoToken};
use placement::ClusterMap;
use replica::{Body, Effect, Effects, Event, Replica, ReplicaConfig, RequestBody, Restore};
use wire::message::{Encoder, HelloReply, PayloadMeta, Reply, ReplyHead, Request, Role};
use wire::meta::Refusal;
use wire::{
    CommitIndex, FrameKind, GroupId, Load, Memory, Nanos, NodeId, PREFIX_BYTES, PROTOCOL_VERSION, Prefix,
    Slot, Status, Timestamp,
};

use crate::memory::SimMemory;
use crate::network::Connection;
use crate::store_calls::{Answered, StoreCalls};
use crate::unit::{Note, Out, Outgoing};

#[derive(Debug)]
enum Phase {
    Recovering(Box<Restore>),
    Serving(Box<Replica>),
    Ended,
}

/// A checkpoint's page between the replica and the log.
#[derive(Debug)]
struct Page {
    bytes: Vec<u8>,
    last: bool,
}

/// Time as the unit sees it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    /// The monotonic one.
    pub now: Nanos,
    /// The wall's.
    pub wall: Timestamp,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct MetaUnit {
    log: Log,
    log_effects: LogEffects,
    phase: Phase,
    settings: ReplicaConfig,
    effects: Effects,
    /// Entries that wait for room in the log.
    waiting: VecDeque<(u64, Vec<u8>)>,
    page: Option<Page>,
    wanted: Option<(Slot, u32, u32)>,
    map: Arc<ClusterMap>,
    map_bytes: Arc<[u8]>,
    greeted: BTreeMap<Connection, bool>,
    asked: BTreeMap<(u64, u64), FrameKind>,
    stores: StoreCalls,
    encoder: Encoder,
    closing: bool,
    /// The log waits for its page or records to be taken in.
    wants_next: bool,
}

impl MetaUnit {
    /// A replica that begins to open its log.
    pub(crate) fn start(
        clock: Clock,
        settings: ReplicaConfig,
        log: Log,
        map: (Arc<ClusterMap>, Arc<[u8]>),
        memory: &mut SimMemory,
        out: &mut Out,
    ) -> Self {
        let stores = StoreCalls::new(Arc::clone(&map.0));
        let mut unit = Self {
            log,
            log_effects: LogEffects::default(),
            phase: Phase::Recovering(Box::default()),
            settings,
            effects: Effects::default(),
            waiting: VecDeque::new(),
            page: None,
            wanted: None,
            map: map.0,
            map_bytes: map.1,
            greeted: BTreeMap::new(),
            asked: BTreeMap::new(),
            stores,
            encoder: Encoder::new(),
            closing: false,
            wants_next: false,
        };
        unit.log(clock, LogEvent::Start, memory, out);
        unit
    }

    /// The replica, once it serves.
    pub(crate) fn replica(&self) -> Option<&Replica> {
        match &self.phase {
            Phase::Serving(replica) => Some(replica),
            _ => None,
        }
    }

    /// A connection was taken.
    pub(crate) fn on_open(&mut self, connection: Connection) {
        self.greeted.insert(connection, false);
    }

    /// A connection is gone: a client's, or one to a store.
    pub(crate) fn on_close(
        &mut self,
        clock: Clock,
        connection: Connection,
        memory: &mut SimMemory,
        out: &mut Out,
    ) {
        if self.greeted.remove(&connection).is_some() {
            self.asked.retain(|(client, _), _| *client != connection.0);
            self.replica_event(clock, Event::ClientGone { client: connection.0 }, memory, out);
        } else {
            self.stores.on_down(clock.now, connection);
        }
    }

    /// A connection to a store was asked for, and has a number.
    pub(crate) fn on_called(&mut self, peer: usize, connection: Connection) {
        self.stores.on_called(peer, connection);
    }

    /// A connection to a store stands.
    pub(crate) fn on_up(&mut self, connection: Connection, out: &mut Out) {
        self.stores.on_up(connection, out);
    }

    /// A frame's head arrived: a client's request, or a store's reply.
    pub(crate) fn on_head(
        &mut self,
        clock: Clock,
        connection: Connection,
        head: &[u8],
        memory: &mut SimMemory,
        out: &mut Out,
    ) {
        let Some(&is_greeted) = self.greeted.get(&connection) else {
            match self.stores.on_head(clock.now, connection, head, out) {
                Some(Answered::Deleted { first, count }) => {
                    self.replica_event(clock, Event::ShardDeleted { first, count }, memory, out);
                }
                Some(Answered::Inventory { source, ids, end }) => {
                    self.replica_event(clock, Event::ShardInventory { source, ids: &ids, end }, memory, out);
                }
                None => {}
            }
            return;
        };
        let (bytes, message) =
            head.split_first_chunk::<PREFIX_BYTES>().expect("a frame begins with a prefix");
        let prefix = Prefix::decode(bytes).expect("the simulated network doesn't damage heads");
        Prefix::verify(bytes, message).expect("the simulated network doesn't damage heads");
        let caller = (connection, prefix.kind, prefix.correlation);
        let request = match Request::decode(prefix.kind, message) {
            Ok(request) => request,
            Err(error) => return self.refuse(caller, error.status(), out),
        };
        let body = match request {
            Request::Hello(hello) => {
                assert!(hello.version_max >= PROTOCOL_VERSION, "simulated clients speak this version");
                self.greeted.insert(connection, true);
                return self.reply(caller, Status::Ok, &self.greeting(), out);
            }
            Request::GetMap { have, page } => {
                let bytes = Arc::clone(&self.map_bytes);
                return match shard::map_page(self.map.number(), &bytes, have, page) {
                    Some(reply) => self.reply(caller, Status::Ok, &reply, out),
                    None => self.refuse(caller, Status::BadRequest, out),
                };
            }
            _ if !is_greeted => {
                self.on_close(clock, connection, memory, out);
                out.closes.push(connection);
                return;
            }
            Request::OpenSession { .. } => RequestBody::OpenSession,
            Request::KeepAlive { session, pins } => RequestBody::KeepAlive { session, pins },
            Request::CloseSession { session } => RequestBody::CloseSession { session },
            Request::Mutate(mutation) => RequestBody::Mutate(mutation),
            Request::Query(query) => RequestBody::Query(query),
            _ => return self.refuse(caller, Status::Unsupported, out),
        };
        if self.replica().is_none() || self.closing {
            return self.refuse(caller, Status::NotServing, out);
        }
        self.asked.insert((connection.0, prefix.correlation), prefix.kind);
        let deadline = (prefix.deadline_ms > 0)
            .then(|| clock.now.after(u64::from(prefix.deadline_ms) * Nanos::MILLISECOND));
        let request =
            replica::Request { client: connection.0, correlation: prefix.correlation, deadline, body };
        self.replica_event(clock, Event::Request(request), memory, out);
    }

    /// A disk request ended.
    pub(crate) fn on_io(
        &mut self,
        clock: Clock,
        io: IoToken,
        outcome: IoOutcome,
        memory: &mut SimMemory,
        out: &mut Out,
    ) {
        self.log(clock, LogEvent::IoDone { io, outcome }, memory, out);
    }

    /// No further event is at hand.
    pub(crate) fn on_turn(&mut self, clock: Clock, memory: &mut SimMemory, out: &mut Out) {
        self.log(clock, LogEvent::Submit, memory, out);
    }

    /// A deadline has come.
    pub(crate) fn on_tick(&mut self, clock: Clock, memory: &mut SimMemory, out: &mut Out) {
        self.stores.proceed(clock.now, out);
        self.log(clock, LogEvent::Tick, memory, out);
        self.replica_event(clock, Event::Tick, memory, out);
    }

    /// The end, in order.
    pub(crate) fn on_shutdown(&mut self, clock: Clock, memory: &mut SimMemory, out: &mut Out) {
        self.closing = true;
        self.close_if_drained(clock, memory, out);
    }

    fn close_if_drained(&mut self, clock: Clock, memory: &mut SimMemory, out: &mut Out) {
        if self.closing && self.waiting.is_empty() && self.page.is_none() && self.wanted.is_none() {
            self.log(clock, LogEvent::Shutdown, memory, out);
        }
    }

    fn log(&mut self, clock: Clock, event: LogEvent<'_>, memory: &mut SimMemory, out: &mut Out) {
        self.log_step(clock, event, memory, out);
        // Recovery hands over one page or batch at a time.
        while std::mem::take(&mut self.wants_next) {
            self.log_step(clock, LogEvent::Next, memory, out);
        }
        self.append_waiting(clock, memory, out);
        if self.log.wants_checkpoint() && self.replica().is_some() && !self.closing {
            self.replica_event(clock, Event::BeginCheckpoint, memory, out);
        }
    }

    fn log_step(&mut self, clock: Clock, event: LogEvent<'_>, memory: &mut SimMemory, out: &mut Out) {
        let mut effects = std::mem::take(&mut self.log_effects);
        effects.clear();
        self.log.handle(clock.now, event, memory, &mut effects);
        out.take_io(&effects.io);
        for effect in &effects.list {
            self.on_log_effect(clock, *effect, memory, out);
        }
        self.log_effects = effects;
    }

    fn on_log_effect(&mut self, clock: Clock, effect: LogEffect, memory: &mut SimMemory, out: &mut Out) {
        match effect {
            LogEffect::Arm(at) => out.arm(at),
            LogEffect::Page { slot, offset, length } => {
                let bytes = memory.bytes(slot)[offset as usize..][..length as usize].to_vec();
                self.restore(|restore| restore.page(&bytes), out);
                self.wants_next = true;
            }
            LogEffect::Restart => {
                out.counts.push(("log", "checkpoint damaged"));
                self.phase = Phase::Recovering(Box::default());
            }
            LogEffect::Records(records) => {
                let entries: Vec<(u64, Vec<u8>)> =
                    records.iter(memory).map(|(index, bytes)| (index, bytes.to_vec())).collect();
                for (index, bytes) in entries {
                    self.restore(|restore| restore.entry(CommitIndex(index), &bytes), out);
                }
                self.wants_next = true;
            }
            LogEffect::Opened { last_index } => self.on_opened(clock, last_index, memory, out),
            LogEffect::OpenFailed => {
                let why = self.log.open_error().map_or_else(String::new, |error| error.to_string());
                self.phase = Phase::Ended;
                out.notes.push(Note::OpenFailed(why));
            }
            LogEffect::Durable { index } => {
                let index = CommitIndex(index);
                self.replica_event(clock, Event::Durable { index }, memory, out);
                self.close_if_drained(clock, memory, out);
            }
            LogEffect::WantPage { slot, offset, capacity } => {
                self.wanted = Some((slot, offset, capacity));
                self.fill_page(clock, memory, out);
            }
            LogEffect::CheckpointDone { index } => {
                out.counts.push(("log", "checkpoint"));
                let index = CommitIndex(index);
                self.replica_event(clock, Event::CheckpointDurable { index }, memory, out);
                self.close_if_drained(clock, memory, out);
            }
            LogEffect::CheckpointFailed => {
                out.counts.push(("log", "checkpoint failed"));
                self.page = None;
                self.replica_event(clock, Event::CheckpointFailed, memory, out);
                self.close_if_drained(clock, memory, out);
            }
            LogEffect::Fenced => {
                self.phase = Phase::Ended;
                out.notes.push(Note::Fenced);
            }
            LogEffect::ShutDown => out.notes.push(Note::ShutDown),
        }
    }

    fn restore(
        &mut self,
        step: impl FnOnce(&mut Restore) -> Result<(), replica::RestoreError>,
        out: &mut Out,
    ) {
        if let Phase::Recovering(restore) = &mut self.phase
            && let Err(error) = step(restore)
        {
            self.phase = Phase::Ended;
            out.notes.push(Note::OpenFailed(format!("restore: {error}")));
        }
    }

    fn on_opened(&mut self, clock: Clock, last_index: u64, memory: &mut SimMemory, out: &mut Out) {
        let Phase::Recovering(restore) = std::mem::replace(&mut self.phase, Phase::Ended) else { return };
        match restore.start(self.settings, clock.now) {
            Ok(replica) => {
                assert_eq!(replica.committed().0, last_index, "what the log has is what the replica has");
                self.phase = Phase::Serving(Box::new(replica));
                out.notes.push(Note::Opened);
                self.replica_event(clock, Event::Tick, memory, out);
            }
            Err(error) => out.notes.push(Note::OpenFailed(format!("restore: {error}"))),
        }
    }

    fn replica_event(&mut self, clock: Clock, event: Event<'_>, memory: &mut SimMemory, out: &mut Out) {
        let Phase::Serving(replica) = &mut self.phase else { return };
        let mut effects = std::mem::take(&mut self.effects);
        effects.clear();
        replica.handle(clock.now, clock.wall, event, &mut effects);
        for effect in &effects.list {
            match effect {
                Effect::Append { index, bytes } => {
                    self.waiting.push_back((index.0, effects.slice(bytes).to_vec()));
                }
                Effect::Reply { client, correlation, status, body } => {
                    let body = &effects.bodies[*body as usize];
                    self.answer(*client, *correlation, *status, body, out);
                }
                Effect::DeleteChunks { first, count, orphans } => {
                    out.counts.push(("gc", if *orphans { "orphans deleted" } else { "reclaimed" }));
                    self.stores.delete(clock.now, *first, *count, *orphans, out);
                }
                Effect::RequestInventory { source, after } => {
                    self.stores.inventory(clock.now, *source, *after, out);
                }
                Effect::Arm(at) => out.arm(*at),
                Effect::WriteCheckpointPage { index, number, last, bytes } => {
                    assert!(self.page.is_none(), "one page at a time");
                    self.page = Some(Page { bytes: effects.slice(bytes).to_vec(), last: *last });
                    if *number == 0 {
                        self.log(clock, LogEvent::BeginCheckpoint { index: index.0 }, memory, out);
                    }
                }
                Effect::TrimLog { .. } => {}
            }
        }
        // A nested event may have left its own buffer; this one is the larger habit.
        self.effects = effects;
        self.append_waiting(clock, memory, out);
        self.fill_page(clock, memory, out);
    }

    fn append_waiting(&mut self, clock: Clock, memory: &mut SimMemory, out: &mut Out) {
        while let Some((index, bytes)) = self.waiting.front() {
            if self.log.room(bytes.len(), memory) != LogRoom::Ready {
                return;
            }
            let (index, bytes) = (*index, bytes.clone());
            self.waiting.pop_front();
            self.log(clock, LogEvent::Append { index, record: &bytes }, memory, out);
        }
    }

    fn fill_page(&mut self, clock: Clock, memory: &mut SimMemory, out: &mut Out) {
        if self.page.is_none() || self.wanted.is_none() {
            return;
        }
        let (Some(page), Some((slot, offset, capacity))) = (self.page.take(), self.wanted.take()) else {
            return;
        };
        assert!(page.bytes.len() <= capacity as usize, "the replica's pages fit into the log's");
        memory.bytes_mut(slot)[offset as usize..][..page.bytes.len()].copy_from_slice(&page.bytes);
        let length = u32::try_from(page.bytes.len()).expect("a page");
        self.log(clock, LogEvent::Page { slot, length, last: page.last }, memory, out);
        if !page.last {
            self.replica_event(clock, Event::CheckpointPageTaken, memory, out);
        }
    }

    fn answer(&mut self, client: u64, correlation: u64, status: Status, body: &Body, out: &mut Out) {
        let Some(kind) = self.asked.remove(&(client, correlation)) else { return };
        let reply = match body {
            Body::Session(grant) => Reply::Session(*grant),
            Body::Outcome(outcome) => Reply::Mutate(*outcome),
            Body::Answer(answer) => Reply::Answer(answer.clone()),
            Body::Refusal(refusal) => Reply::Refused(*refusal),
            Body::Empty if kind == FrameKind::KeepAlive => Reply::KeepAlive,
            Body::Empty => Reply::CloseSession,
        };
        self.reply((Connection(client), kind, correlation), status, &reply, out);
    }

    fn refuse(&mut self, caller: (Connection, FrameKind, u64), status: Status, out: &mut Out) {
        let retry_after_ms = if status == Status::Busy { replica::RETRY_AFTER_MS } else { 0 };
        let reply = Reply::Refused(Refusal { retry_after_ms, ..Refusal::default() });
        self.reply(caller, status, &reply, out);
    }

    fn reply(
        &mut self,
        (connection, kind, correlation): (Connection, FrameKind, u64),
        status: Status,
        reply: &Reply<'_>,
        out: &mut Out,
    ) {
        let head = ReplyHead { kind, correlation, status, load: Load::default(), more: false };
        let mut bytes = Vec::new();
        self.encoder.reply(&mut bytes, head, reply, PayloadMeta::default());
        out.sends.push(Outgoing { connection, head: bytes, payload: None });
    }

    fn greeting(&self) -> Reply<'static> {
        Reply::Hello(HelloReply {
            version: PROTOCOL_VERSION,
            features: 0,
            cluster: self.map.cluster(),
            node: NodeId(1),
            role: Role::Metadata(GroupId(0)),
            map: self.map.number(),
            put_credit_bytes: 0,
            server: "simulated".to_owned(),
        })
    }
}
