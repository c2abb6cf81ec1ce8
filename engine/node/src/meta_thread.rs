//! The metadata replica's thread: the shipped [`Member`] between the thread's uring and its connections. It decides nothing.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use group::{Clock, CloseReason, Effects, Link, Member, Note};
use replica::{Lack, ReplicaConfig};
use runtime::{Io, LinkId, LinkKind, Payload, Receiver, Replier, Sender, StoreFile};
use tracing::{debug, error, info, warn};
use wire::control::{CaughtUp, ChainId, Condition, LogEnd, StoreBeat, StoreReport, Synced};
use wire::map::{Phase, Unit};
use wire::meta::GroupState;
use wire::{Epoch, Incarnation, MapNumber, Nanos, Prefix, SessionId, StoreId};

use crate::config::Config;
use crate::control_thread::ControlMail;
use crate::disk::{Disk, LOG_HEADROOM_BYTES};
use crate::fullness::{Fullness, News};
use crate::identity::Identity;
use crate::meta_log::{length_of, open_failure, open_log};
use crate::progress::{Progress, Stage};
use crate::shard_thread::SharedMap;
use crate::start::nanoseconds;
use crate::teller::{Standing, Teller, known_life};

/// What the metadata replica's thread is told from outside.
#[derive(Debug)]
pub(crate) enum MetaMail {
    /// A new cluster map.
    Map(SharedMap),
    /// Its numbers are wanted.
    State(Replier<GroupState>),
    /// The node's lease runs until then (R18).
    Lease(Nanos),
    /// The control agent wants to hear how it is.
    Beat,
    /// What the log is registered with, once it is open.
    Report(Replier<StoreReport>),
}

/// The service on the metadata replica's thread.
#[derive(Debug)]
pub(crate) struct MetaThread {
    member: Member,
    effects: Effects,
    /// What the log is opened with.
    start: MetaStart,
    /// The log's file.
    path: PathBuf,
    disk: Disk,
    mail: Receiver<MetaMail>,
    teller: Teller,
    /// The newest map, and the epoch that it prepares; promised once that is sealed.
    newest: Option<(MapNumber, Option<Epoch>)>,
    sealed: Epoch,
    /// It does nothing any more, so that nobody needs to wait for its promise.
    is_mute: bool,
    progress: Progress,
    fullness: Fullness,
    /// That the log is older than the stores.
    is_age_told: bool,
}

impl MetaThread {
    /// Around a member that hasn't started.
    fn new(
        io: &mut Io,
        (member, start): (Member, MetaStart),
        file: &StoreFile,
        (mail, teller): (Receiver<MetaMail>, Teller),
        progress: Progress,
    ) -> Self {
        io.attach(&mail);
        let disk = Disk::new(io, file, LOG_HEADROOM_BYTES);
        let path = file.path().to_owned();
        let mut thread = Self {
            member,
            effects: Effects::default(),
            start,
            path,
            disk,
            mail,
            teller,
            newest: None,
            sealed: Epoch(0),
            is_mute: false,
            progress,
            fullness: Fullness::default(),
            is_age_told: false,
        };
        thread.member.on_start(clock(io), io.memory(), &mut thread.effects);
        thread.carry_out(io);
        thread
    }

    fn carry_out(&mut self, io: &mut Io) {
        self.disk.carry_out(io, &self.effects.io);
        for send in &self.effects.sends {
            let head = &self.effects.bytes[send.head.0 as usize..send.head.1 as usize];
            let link = LinkId::from_u64(send.link.0);
            // A closed connection needs no answer. A full queue belongs to a peer that asks and doesn't read: it is closed.
            if io.send(link, head, None, None) == Err(runtime::SendRefused::Full) {
                io.close(link, runtime::CloseReason::SlowReader);
            }
        }
        for (link, reason) in &self.effects.closes {
            io.close(LinkId::from_u64(link.0), close_reason(*reason));
        }
        for dial in &self.effects.dials {
            let link = dial.address.parse::<SocketAddr>().ok().and_then(|address| io.connect(address).ok());
            self.member.on_dialled(dial.peer, link.map(|link| Link(link.to_u64())));
        }
        if let Some(at) = self.effects.deadline {
            io.arm(at);
        }
        let notes = std::mem::take(&mut self.effects.notes);
        for note in &notes {
            report(&self.progress, &self.path, io, note);
            self.tell_control(note);
        }
        self.tell_state(io.now());
        self.effects.notes = notes;
        let ended = self.effects.notes.contains(&Note::Ended);
        self.effects.clear();
        match ended.then(|| self.member.is_restarting()) {
            Some(true) => self.restart(io),
            Some(false) => io.stop(),
            None => {}
        }
    }

    fn tell_control(&mut self, note: &Note) {
        let (chain, store) = (ChainId::Group(self.start.settings.group), self.teller.store);
        let caught_up = CaughtUp { group: self.start.settings.group, store };
        match note {
            Note::Sealed { epoch } => {
                self.sealed = self.sealed.max(*epoch);
                self.promise();
            }
            Note::CaughtUp { .. } => self.teller.tell(ControlMail::CaughtUp(caught_up, true)),
            Note::Restarting => self.teller.tell(ControlMail::CaughtUp(caught_up, false)),
            Note::Synced { epoch } => {
                let synced = Synced { chain, epoch: *epoch, store, missing: 0 };
                self.teller.tell(ControlMail::Synced(vec![synced]));
            }
            Note::Fenced | Note::Stopped(_) => {
                self.is_mute = true;
                self.promise();
            }
            _ => {}
        }
    }

    /// A map is promised once what the epoch that it prepares seals is durable here (R1, I5).
    fn promise(&mut self) {
        let Some((number, prepared)) = self.newest else { return };
        let is_sealed = self.is_mute || prepared.is_none_or(|epoch| epoch <= self.sealed);
        if is_sealed && self.teller.followed < number {
            self.teller.followed = number;
            self.beat();
        }
    }

    fn on_map(&mut self, io: &mut Io, edition: SharedMap) {
        let number = edition.number();
        let map: &placement::ClusterMap = edition.map();
        let chain = map.group(self.start.settings.group).map(|group| group.chain);
        let prepared = chain.filter(|chain| chain.phase == Phase::Prepared).map(|chain| chain.epoch);
        if self.newest.is_none_or(|(known, _)| known < number) {
            self.newest = Some((number, prepared));
        }
        let life = self.member.log().opened().map(|opened| opened.incarnation);
        let standing = life.map(|life| (life, Standing::of(map, self.teller.store, life)));
        self.member.on_map(clock(io), edition, io.memory(), &mut self.effects);
        self.carry_out(io);
        self.promise();
        if let Some((life, standing)) = standing.filter(|(_, standing)| standing.is_accepted) {
            self.member.on_accepted(clock(io), life, io.memory(), &mut self.effects);
            if standing.is_whole {
                self.member.on_whole(clock(io), io.memory(), &mut self.effects);
            }
            self.carry_out(io);
        }
    }

    /// How the log is.
    fn beat(&self) {
        let log = self.member.log();
        let position = self.member.position();
        let beat = StoreBeat {
            store: self.teller.store,
            condition: if self.is_mute { Condition::Fenced } else { Condition::Well },
            sequence: log.device().durable_sequence(),
            used_bytes: self.member.state().map_or(0, |state| state.log_bytes),
            lag: position.and_then(|position| position.lag).unwrap_or(0),
        };
        self.teller.beat(beat, self.log_end(), (log.recovered_cut(), log.lacks()));
    }

    fn log_end(&self) -> LogEnd {
        self.member
            .position()
            .map_or(LogEnd::default(), |position| LogEnd { epoch: position.epoch, index: position.received })
    }

    /// What the log is registered with.
    fn store_report(&self) -> Option<StoreReport> {
        let log = self.member.log();
        let opened = log.opened()?;
        Some(StoreReport {
            store: self.teller.store,
            unit: self.teller.unit,
            address: String::new(),
            incarnation: opened.incarnation,
            lives: log.lives().to_vec(),
            recovered_cut: log.recovered_cut(),
            lacks: log.lacks(),
            log_end: self.log_end(),
            sequence: opened.sequence,
            capacity_bytes: 0,
            used_bytes: 0,
            condition: Condition::Well,
        })
    }

    /// The member begins anew with its log, which has ended in order.
    fn restart(&mut self, io: &mut Io) {
        let length = length_of(&self.path, std::fs::metadata(&self.path).map(|file| file.len()));
        match length {
            Ok(bytes) => {
                self.start = self.start.clone().with_length(bytes).reopened();
                self.member.restart(clock(io), open_log(&self.start), io.memory(), &mut self.effects);
                self.carry_out(io);
            }
            Err(error) => {
                error!(%error, "the metadata replica can't begin anew");
                self.progress.fail(error.to_string());
            }
        }
    }
}

fn report(progress: &Progress, path: &Path, io: &mut Io, note: &Note) {
    match note {
        Note::Opened { committed, was_clean } => {
            info!(committed = committed.0, was_clean, "the metadata replica is restored");
            progress.set(Stage::Ready);
        }
        Note::Lost { from, loss } => tell_loss(path, from.0, loss.batches),
        Note::OpenFailed(failure) => {
            progress.set(Stage::Failed(open_failure(path, failure)));
            io.stop();
        }
        Note::Fenced => {
            error!(
                "a write or flush of the metadata log failed: it is fenced and nothing is answered any more; \
                 restart the node once the disk is well again"
            );
            progress.fail("the metadata log is fenced after a failed write".into());
        }
        Note::StoreSilent { peer } => {
            warn!(store = peer, "too many deletes wait for this store: the group asks again later");
        }
        Note::CheckpointDamaged => warn!("the newest metadata checkpoint is damaged; the one before is read"),
        Note::CheckpointFailed => warn!("a metadata checkpoint found no space"),
        Note::CheckpointDone(index) => debug!(index = index.0, "a metadata checkpoint is durable"),
        Note::ClockStepped { nanoseconds } => {
            let seconds = nanoseconds / 1_000_000_000;
            warn!(
                seconds,
                "the wall clock was set while the node ran: after a step forward nothing is reclaimed for `reclaim_delay` and a minute; after one back, times of \
                 changes run at half speed until it has caught up"
            );
        }
        Note::Deleting { .. } => {}
        Note::Sealed { epoch } => debug!(epoch = epoch.0, "the metadata replica has promised an epoch"),
        Note::CaughtUp { epoch } => {
            info!(epoch = epoch.0, "the metadata replica has caught up with its chain");
        }
        Note::Synced { epoch } => info!(epoch = epoch.0, "the metadata replica is in sync with its chain"),
        Note::Restarting => {
            warn!(
                "another node leads the metadata group: what isn't committed is given back, and the replica begins anew"
            );
        }
        Note::Stopped(trouble) => {
            error!(?trouble, "the metadata replica stops: what it holds doesn't fit what its chain holds");
            progress.fail(format!("the metadata replica has stopped: {trouble:?}"));
        }
        Note::Ended => info!("the metadata log is closed"),
    }
}

/// R29: what was given up is told as far as anything still names it. Names are among it, so nothing else can.
fn tell_loss(path: &Path, from_entry: u64, batches: Option<(u64, u64)>) {
    let path = path.display();
    let batches = batches.map_or_else(
        || "not known: the file's end is gone".to_owned(),
        |(first, last)| format!("{first} to {last} and whatever follows"),
    );
    warn!(
        %path,
        %batches,
        from_entry,
        "a part of the metadata log is given up, from this entry on: files and changes that only it knew are gone or in an older state, and \
         `catena verify` can't name them"
    );
}

impl MetaThread {
    /// Says once that nothing is taken for want of room, and why, and that it is taken again; and once that the log is older than the stores.
    fn tell_state(&mut self, now: Nanos) {
        let Some(replica) = self.member.replica() else { return };
        let path = self.path.display();
        if let Some(news) = self.fullness.news(now, replica.lacks().is_some()) {
            let why = match replica.lacks() {
                Some(Lack::Log) => "the log can't grow: its file system is full, or its limit is reached",
                Some(Lack::Memory) => "`metadata.memory_budget` is used up",
                None => "",
            };
            match news {
                News::Full => {
                    warn!(%path, why, "the metadata is full: what adds something is refused, removing still works");
                }
                News::Takes => info!(%path, "the metadata takes everything again"),
            }
        }
        let chunks = replica.unopened_chunks();
        if chunks > 0 && !std::mem::replace(&mut self.is_age_told, true) {
            warn!(
                %path,
                chunks,
                "the stores hold chunks of sessions that this log never opened: the log is older than the stores, as one from an old backup. \
                 Nothing that it doesn't know is freed: stop the node and restore the log that belongs to them, or run \
                 `catena server recover --accept-data-loss --config FILE`"
            );
        }
    }
}

impl runtime::Service for MetaThread {
    fn on_open(&mut self, io: &mut Io, link: LinkId, kind: LinkKind, _peer: Option<SocketAddr>) {
        let link = Link(link.to_u64());
        if kind == LinkKind::Connected {
            self.member.on_up(link, &mut self.effects);
            self.carry_out(io);
        } else {
            self.member.on_open(link);
        }
    }

    fn on_head(&mut self, io: &mut Io, link: LinkId, prefix: &Prefix, message: &[u8]) -> Payload {
        let link = Link(link.to_u64());
        let close = self.member.on_head(clock(io), link, prefix, message, io.memory(), &mut self.effects);
        self.carry_out(io);
        match close {
            Some(reason) => Payload::Close(close_reason(reason)),
            None if prefix.payload_bytes > 0 => Payload::Discard,
            None => Payload::None,
        }
    }

    fn on_close(&mut self, io: &mut Io, link: LinkId, reason: runtime::CloseReason) {
        debug!(link = link.to_u64(), %reason, "connection closed");
        self.member.on_close(clock(io), Link(link.to_u64()), io.memory(), &mut self.effects);
        self.carry_out(io);
    }

    fn on_io(&mut self, io: &mut Io, token: runtime::IoToken, outcome: runtime::IoOutcome) {
        if let runtime::IoOutcome::Failed { errno } = outcome {
            error!(error = %std::io::Error::from_raw_os_error(errno), "the metadata log's disk failed an operation");
        }
        if let Some((token, outcome)) = self.disk.on_io(io, token, outcome) {
            self.member.on_io(clock(io), token, outcome, io.memory(), &mut self.effects);
            self.carry_out(io);
        }
    }

    fn on_mail(&mut self, io: &mut Io) {
        while let Some(mail) = self.mail.pop() {
            match mail {
                MetaMail::Map(edition) => self.on_map(io, edition),
                MetaMail::Lease(until) => {
                    self.member.on_lease(clock(io), until, io.memory(), &mut self.effects);
                    self.carry_out(io);
                }
                MetaMail::Beat => self.beat(),
                MetaMail::Report(replier) => {
                    if let Some(report) = self.store_report() {
                        replier.send(report);
                    }
                }
                MetaMail::State(replier) => {
                    if let Some(state) = self.member.state() {
                        replier.send(state);
                    }
                }
            }
        }
    }

    fn on_timer(&mut self, io: &mut Io, _now: Nanos) {
        self.member.on_tick(clock(io), io.memory(), &mut self.effects);
        self.carry_out(io);
    }

    fn on_turn(&mut self, io: &mut Io, _now: Nanos) {
        self.member.on_turn(clock(io), io.memory(), &mut self.effects);
        self.carry_out(io);
    }

    fn on_stop(&mut self, io: &mut Io) {
        self.on_mail(io); // a map that was handed over before counts: what it says is logged
        self.member.on_shutdown(clock(io), io.memory(), &mut self.effects);
        self.carry_out(io);
    }
}

fn clock(io: &Io) -> Clock {
    Clock { now: io.now(), wall: io.wall() }
}

fn close_reason(reason: CloseReason) -> runtime::CloseReason {
    match reason {
        CloseReason::Protocol => runtime::CloseReason::Protocol,
        CloseReason::Mismatch | CloseReason::TooMany | CloseReason::Redial | CloseReason::Deposed => {
            runtime::CloseReason::Local
        }
    }
}

/// Orphan passes are at least this far apart.
const ORPHAN_INTERVAL_MIN: u64 = 5 * Nanos::SECOND;
/// And at most this.
const ORPHAN_INTERVAL_MAX: u64 = 600 * Nanos::SECOND;

/// What the metadata replica's thread is started with.
#[derive(Clone, Debug)]
pub(crate) struct MetaStart {
    pub(crate) identity: Identity,
    pub(crate) settings: ReplicaConfig,
    /// The log, as the cluster map names it.
    store: StoreId,
    pub(crate) links_max: u32,
    pub(crate) accept_data_loss: bool,
    /// The life of it that the control group knows, where a loss is accepted.
    pub(crate) takes_over: Option<Incarnation>,
    pub(crate) format: bool,
    /// Bytes of the log's file.
    pub(crate) device_bytes: u64,
}

impl MetaStart {
    /// Opens the log.
    pub(crate) fn open(
        config: &Config,
        identity: &Identity,
        map: &placement::ClusterMap,
        accept_data_loss: bool,
    ) -> Self {
        let mut start = Self::new(config, identity);
        // The generation is that of the map that the control group gives it; the stored one may be older.
        start.settings.generation = SessionId::GENERATION_COUNT - 1;
        // The stores of shards come first in the map.
        let shards = map.as_map().stores.iter().filter(|store| matches!(store.unit, Unit::Shard(_)));
        start.settings.inventory_sources = u16::try_from(shards.count()).expect("stores have 16-bit indices");
        // In a directory of format 1 the log isn't named, and the map's name for it counts.
        let group = Unit::Group(start.settings.group);
        let mut stores = map.as_map().stores.iter();
        let log = stores.find(|store| store.unit == group && store.node == identity.node);
        start.store = log.map_or(identity.metadata, |log| log.store);
        start.accept_data_loss = accept_data_loss;
        start.takes_over = Some(known_life(map, start.store)).filter(|_| accept_data_loss);
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
            store: identity.metadata,
            links_max: config.limits.connections,
            accept_data_loss: false,
            takes_over: None,
            format: false,
            device_bytes: 0,
        }
    }

    /// In a file of this length.
    #[must_use]
    pub(crate) fn with_length(self, device_bytes: u64) -> Self {
        Self { device_bytes, ..self }
    }

    /// The same log again: it is there, and nothing of it was lost.
    fn reopened(self) -> Self {
        Self { format: false, accept_data_loss: false, takes_over: None, ..self }
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
        (mail, control): (Receiver<MetaMail>, Sender<ControlMail>),
        progress: Progress,
    ) -> MetaThread {
        let member = group::Identity {
            cluster: self.identity.cluster,
            node: self.identity.node,
            group: self.settings.group,
            store: self.store,
            links_max: self.links_max,
        };
        let teller = Teller::new(control, Unit::Group(self.settings.group), self.store);
        let member = Member::new(member, self.settings, open_log(&self));
        MetaThread::new(io, (member, self), file, (mail, teller), progress)
    }
}
