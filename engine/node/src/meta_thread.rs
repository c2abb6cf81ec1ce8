//! The metadata replica's thread: the shipped [`Replica`] between its log, its clients and the stores.
//!
//! ```text
//!  Recovering ──(log open, replica restored)──► Serving ──(stop)──► Closing: last checkpoint, log closed
//!       └─► failed                                 └─► Fenced: nothing is answered any more
//! ```

use std::collections::BTreeMap;
use std::net::SocketAddr;

use replica::{Body, Effect, Effects, Event, Replica, ReplicaConfig, Restore};
use runtime::{CloseReason, Io, LinkId, LinkKind, Payload, Receiver, Replier, StoreFile};
use tracing::{debug, error, info};
use wire::message::{DecodeError, Request};
use wire::meta::{GroupState, Query};
use wire::{FrameKind, GroupId, Nanos, Prefix, Status};

use crate::config::Config;
use crate::identity::Identity;
use crate::meta_link::{Greeter, MetaReplier};
use crate::meta_log::{LogNote, MetaLog};
use crate::progress::{Progress, Stage};
use crate::shard_thread::SharedMap;
use crate::start::nanoseconds;
use crate::store_calls::{Answered, StoreCalls};

/// What the metadata replica's thread is told from outside.
#[derive(Debug)]
pub(crate) enum MetaMail {
    /// A new cluster map.
    Map(SharedMap),
    /// Its numbers are wanted.
    State(Replier<GroupState>),
}

#[derive(Debug)]
enum Phase {
    /// The log is being read.
    Recovering(Box<Restore>),
    Serving(Box<Replica>),
    /// The log failed: what is durable isn't known.
    Fenced,
}

/// The service on the metadata replica's thread.
#[derive(Debug)]
pub(crate) struct MetaThread {
    phase: Phase,
    settings: ReplicaConfig,
    log: MetaLog,
    effects: Effects,
    map: Option<SharedMap>,
    greeter: Greeter,
    replier: MetaReplier,
    /// Kind of each request that the replica has: its reply has the same.
    asked: BTreeMap<(u64, u64), FrameKind>,
    stores: StoreCalls,
    answered: Vec<Answered>,
    mail: Receiver<MetaMail>,
    progress: Progress,
    tick_at: Option<Nanos>,
    closing: Option<Closing>,
}

/// How far an orderly end is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Closing {
    Checkpointing,
    ClosingLog,
}

impl MetaThread {
    fn begin(
        io: &mut Io,
        parts: &MetaStart,
        file: &StoreFile,
        mail: Receiver<MetaMail>,
        progress: Progress,
    ) -> Self {
        io.attach(&mail);
        let log = MetaLog::begin(io, file, parts);
        let mut thread = Self {
            phase: Phase::Recovering(Box::default()),
            settings: parts.settings,
            log,
            effects: Effects::default(),
            map: None,
            greeter: Greeter::new(
                parts.identity.cluster,
                parts.identity.node,
                parts.settings.group,
                parts.links_max,
            ),
            replier: MetaReplier::default(),
            asked: BTreeMap::new(),
            stores: StoreCalls::default(),
            answered: Vec::new(),
            mail,
            progress,
            tick_at: None,
            closing: None,
        };
        thread.follow_log(io);
        thread
    }

    /// Hands the replica an event and carries out what follows, until nothing follows any more.
    fn handle(&mut self, io: &mut Io, event: Event<'_>) {
        if let Phase::Serving(replica) = &mut self.phase {
            replica.handle(io.now(), io.wall(), event, &mut self.effects);
            self.carry_out(io);
        }
    }

    fn carry_out(&mut self, io: &mut Io) {
        let mut effects = std::mem::take(&mut self.effects);
        for effect in &effects.list {
            match effect {
                Effect::Append { index, bytes } => self.log.append(io, *index, effects.slice(bytes)),
                Effect::Reply { client, correlation, status, body } => {
                    self.reply(io, *client, *correlation, *status, &effects.bodies[*body as usize]);
                }
                Effect::DeleteChunks { first, count, orphans } => {
                    if let Some((map, _)) = &self.map {
                        self.stores.delete(io, map, *first, *count, *orphans);
                    }
                }
                Effect::RequestInventory { source, after } => {
                    if let Some((map, _)) = &self.map {
                        self.stores.inventory(io, map, *source, *after);
                    }
                }
                Effect::Arm(at) => {
                    self.tick_at = Some(*at);
                }
                Effect::WriteCheckpointPage { index, last, bytes, .. } => {
                    self.log.write_page(io, *index, effects.slice(bytes), *last);
                }
                // The log frees its segments itself, by the same rule (R15).
                Effect::TrimLog { .. } => {}
            }
        }
        effects.clear();
        if self.effects.list.is_empty() {
            self.effects = effects;
        }
        self.arm(io);
    }

    fn arm(&mut self, io: &mut Io) {
        let wanted = [self.tick_at, self.log.deadline()];
        if let Some(at) = wanted.into_iter().flatten().min() {
            io.arm(at);
        }
    }

    fn reply(&mut self, io: &mut Io, client: u64, correlation: u64, status: Status, body: &Body) {
        if let Some(kind) = self.asked.remove(&(client, correlation)) {
            self.replier.reply(io, LinkId::from_u64(client), kind, correlation, status, body);
        }
    }

    /// Takes in what the log has to say.
    fn follow_log(&mut self, io: &mut Io) {
        while let Some(note) = self.log.next(io) {
            self.on_note(io, note);
        }
        self.arm(io);
    }

    fn on_note(&mut self, io: &mut Io, note: LogNote) {
        match note {
            LogNote::Page(bytes) => self.restore(io, |restore| restore.page(&bytes)),
            LogNote::PagesAbandoned => {
                if let Phase::Recovering(restore) = &mut self.phase {
                    **restore = Restore::new();
                }
            }
            LogNote::Entry(index, bytes) => self.restore(io, |restore| restore.entry(index, &bytes)),
            LogNote::Opened => self.on_opened(io),
            LogNote::OpenFailed(reason) => self.fail(io, reason),
            LogNote::Durable(index) => self.handle(io, Event::Durable { index }),
            LogNote::PageTaken => self.handle(io, Event::CheckpointPageTaken),
            LogNote::CheckpointDone(index) => {
                self.handle(io, Event::CheckpointDurable { index });
                self.proceed_closing(io);
            }
            LogNote::CheckpointFailed => {
                self.handle(io, Event::CheckpointFailed);
                self.proceed_closing(io);
            }
            LogNote::Fenced => {
                error!(
                    "a write or flush of the metadata log failed: it is fenced and nothing is answered any more; \
                     restart the node once the disk is well again"
                );
                self.phase = Phase::Fenced;
                self.progress.fail("the metadata log is fenced after a failed write".into());
            }
            LogNote::WantsCheckpoint => self.handle(io, Event::BeginCheckpoint),
            LogNote::Closed => io.stop(),
        }
    }

    fn restore(&mut self, io: &mut Io, step: impl FnOnce(&mut Restore) -> Result<(), replica::RestoreError>) {
        if let Phase::Recovering(restore) = &mut self.phase
            && let Err(error) = step(restore)
        {
            self.fail(
                io,
                format!("{error}; `catena server recover --accept-data-loss` starts from what can be read"),
            );
        }
    }

    fn on_opened(&mut self, io: &mut Io) {
        let Phase::Recovering(restore) = std::mem::replace(&mut self.phase, Phase::Fenced) else {
            unreachable!("the log opens once");
        };
        match restore.start(self.settings, io.now()) {
            Ok(replica) => {
                info!(committed = replica.committed().0, "the metadata replica is restored");
                self.phase = Phase::Serving(Box::new(replica));
                self.progress.set(Stage::Ready);
                self.handle(io, Event::Tick);
            }
            Err(error) => self.fail(io, error.to_string()),
        }
    }

    fn fail(&mut self, io: &mut Io, reason: String) {
        self.phase = Phase::Fenced;
        self.progress.fail(reason);
        io.stop();
    }

    fn proceed_closing(&mut self, io: &mut Io) {
        if self.closing == Some(Closing::Checkpointing) {
            self.closing = Some(Closing::ClosingLog);
            self.log.close(io);
        }
    }

    /// What a client asks, once its frame is decoded.
    fn on_request(
        &mut self,
        io: &mut Io,
        link: LinkId,
        prefix: &Prefix,
        request: Request<'_>,
    ) -> Option<CloseReason> {
        let caller = (link, prefix.kind, prefix.correlation);
        let Some(map) = self.map.clone() else {
            self.replier.refuse(io, caller, Status::NotServing);
            return None;
        };
        let body = match request {
            Request::Hello(hello) => {
                return self.greeter.greet(io, caller, &hello, map.0.number(), &mut self.replier);
            }
            Request::GetMap { have, page } => {
                self.replier.map_page(io, caller, (map.0.number(), &map.1), have, page);
                return None;
            }
            _ if !self.greeter.is_greeted(link) => return Some(CloseReason::Protocol),
            Request::OpenSession { name } => {
                debug!(link = link.to_u64(), name, "a session is wanted");
                replica::RequestBody::OpenSession
            }
            Request::KeepAlive { session, pins } => replica::RequestBody::KeepAlive { session, pins },
            Request::CloseSession { session } => replica::RequestBody::CloseSession { session },
            Request::Mutate(mutation) => replica::RequestBody::Mutate(mutation),
            Request::Query(query) => replica::RequestBody::Query(query),
            _ => {
                self.replier.refuse(io, caller, Status::Unsupported);
                return None;
            }
        };
        let is_mutation = !matches!(body, replica::RequestBody::Query(Query::GroupStatus));
        if !matches!(self.phase, Phase::Serving(_)) || (self.closing.is_some() && is_mutation) {
            self.replier.refuse(io, caller, Status::NotServing);
            return None;
        }
        if self.asked.insert((link.to_u64(), prefix.correlation), prefix.kind).is_some() {
            return Some(CloseReason::Protocol);
        }
        let deadline = (prefix.deadline_ms > 0)
            .then(|| io.now().after(u64::from(prefix.deadline_ms) * Nanos::MILLISECOND));
        let request =
            replica::Request { client: link.to_u64(), correlation: prefix.correlation, deadline, body };
        self.handle(io, Event::Request(request));
        None
    }

    fn follow_stores(&mut self, io: &mut Io) {
        for answered in std::mem::take(&mut self.answered) {
            match answered {
                Answered::Deleted { first, count } => self.handle(io, Event::ShardDeleted { first, count }),
                Answered::Inventory { source, ids, end } => {
                    self.handle(io, Event::ShardInventory { source, ids: &ids, end });
                }
            }
        }
    }
}

impl runtime::Service for MetaThread {
    fn on_open(&mut self, io: &mut Io, link: LinkId, kind: LinkKind, _peer: Option<SocketAddr>) {
        if kind == LinkKind::Connected {
            if let Some((map, _)) = &self.map {
                self.stores.on_open(io, link, map);
            }
        } else {
            self.greeter.open(link);
        }
    }

    fn on_head(&mut self, io: &mut Io, link: LinkId, prefix: &Prefix, message: &[u8]) -> Payload {
        let outgoing = match &self.map {
            Some((map, _)) => self.stores.on_reply(io, link, prefix, message, map, &mut self.answered),
            None => false,
        };
        if outgoing {
            self.follow_stores(io);
            return if prefix.payload_bytes == 0 { Payload::None } else { Payload::Discard };
        }
        if prefix.reply || prefix.payload_bytes > 0 {
            return Payload::Close(CloseReason::Protocol);
        }
        let close = match Request::decode(prefix.kind, message) {
            Ok(request) => self.on_request(io, link, prefix, request),
            Err(error) => {
                self.refuse_malformed(io, link, prefix, error);
                None
            }
        };
        close.map_or(Payload::None, Payload::Close)
    }

    fn on_close(&mut self, io: &mut Io, link: LinkId, reason: CloseReason) {
        debug!(link = link.to_u64(), %reason, "connection closed");
        if !self.stores.on_close(link) {
            self.greeter.close(link);
            let client = link.to_u64();
            self.asked.retain(|(asker, _), _| *asker != client);
            self.handle(io, Event::ClientGone { client });
        }
    }

    fn on_io(&mut self, io: &mut Io, token: runtime::IoToken, outcome: runtime::IoOutcome) {
        if let runtime::IoOutcome::Failed { errno } = outcome {
            error!(error = %std::io::Error::from_raw_os_error(errno), "the metadata log's disk failed an operation");
        }
        self.log.on_io(io, token, outcome);
        self.follow_log(io);
    }

    fn on_mail(&mut self, io: &mut Io) {
        while let Some(mail) = self.mail.pop() {
            match mail {
                MetaMail::Map(map) => {
                    self.stores.on_map(io, &map.0);
                    self.map = Some(map);
                }
                MetaMail::State(replier) => {
                    if let Phase::Serving(replica) = &self.phase {
                        replier.send(replica.group_state());
                    }
                }
            }
        }
    }

    fn on_timer(&mut self, io: &mut Io, now: Nanos) {
        if self.tick_at.is_some_and(|at| at <= now) {
            self.tick_at = None;
            self.handle(io, Event::Tick);
        }
        self.log.on_tick(io);
        self.follow_log(io);
    }

    fn on_turn(&mut self, io: &mut Io, _now: Nanos) {
        if let Some((map, _)) = &self.map {
            self.stores.on_turn(io, map);
        }
        self.log.submit(io);
        self.follow_log(io);
    }

    fn on_stop(&mut self, io: &mut Io) {
        if self.closing.is_some() {
            return;
        }
        self.closing = Some(Closing::Checkpointing);
        match &self.phase {
            Phase::Serving(replica) if replica.group_state().checkpoint < replica.committed() => {
                self.handle(io, Event::BeginCheckpoint);
                self.log.submit(io);
                self.follow_log(io);
            }
            Phase::Serving(_) => self.proceed_closing(io),
            Phase::Recovering(_) | Phase::Fenced => io.stop(),
        }
    }
}

impl MetaThread {
    fn refuse_malformed(&mut self, io: &mut Io, link: LinkId, prefix: &Prefix, error: DecodeError) {
        debug!(link = link.to_u64(), %error, "a request can't be read");
        self.replier.refuse(io, (link, prefix.kind, prefix.correlation), error.status());
    }
}

/// Orphan passes are at least this far apart.
const ORPHAN_INTERVAL_MIN: u64 = 5 * Nanos::SECOND;
/// And at most this.
const ORPHAN_INTERVAL_MAX: u64 = 600 * Nanos::SECOND;

/// What the metadata replica's thread is started with.
#[derive(Debug)]
pub(crate) struct MetaStart {
    pub(crate) identity: Identity,
    pub(crate) settings: ReplicaConfig,
    pub(crate) links_max: u32,
    pub(crate) accept_data_loss: bool,
    pub(crate) format: bool,
}

impl MetaStart {
    /// Opens the log.
    pub(crate) fn open(
        config: &Config,
        identity: &Identity,
        map: &placement::ClusterMap,
        accept_data_loss: bool,
    ) -> Self {
        let group = map.group(GroupId(0));
        let mut start = Self::new(config, identity);
        start.settings.generation = group.map_or(0, |group| group.generation);
        start.settings.inventory_sources =
            u16::try_from(map.as_map().stores.len()).expect("stores have 16-bit indices");
        start.accept_data_loss = accept_data_loss;
        start
    }

    /// Formats it first.
    pub(crate) fn format(config: &Config, identity: &Identity) -> Self {
        Self { format: true, ..Self::new(config, identity) }
    }

    fn new(config: &Config, identity: &Identity) -> Self {
        let reclaim_delay = nanoseconds(config.reclaim_delay.0);
        let settings = ReplicaConfig {
            reclaim_delay,
            // What a dead writer left is looked for about as soon as what a removed file left is freed.
            orphan_interval: reclaim_delay.clamp(ORPHAN_INTERVAL_MIN, ORPHAN_INTERVAL_MAX),
            memory_budget: config.memory_budget(),
            checkpoint_log_bytes: config.metadata.checkpoint_after.0,
            ..ReplicaConfig::default()
        };
        Self {
            identity: identity.clone(),
            settings,
            links_max: config.limits.connections,
            accept_data_loss: false,
            format: false,
        }
    }

    /// Whether the file is made.
    pub(crate) fn is_format(&self) -> bool {
        self.format
    }

    /// On the thread: builds its service.
    pub(crate) fn begin(
        self,
        io: &mut Io,
        file: &StoreFile,
        mail: Receiver<MetaMail>,
        progress: Progress,
    ) -> MetaThread {
        MetaThread::begin(io, &self, file, mail, progress)
    }
}
