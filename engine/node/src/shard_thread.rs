//! A shard's thread: the shipped [`Shard`] between the thread's uring and its connections.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use journal::{Expected, Format, Geometry, IoOutcome, IoToken, Kind, OpenError, SEGMENT_BYTES};
use placement::{ClusterMap, Edition};
use runtime::{CloseReason, Io, LinkId, LinkKind, Receiver, Replier, Sender, SlotRange, StoreFile};
use shard::{Dial, Effects, Link, Placement, Shard};
use store::{Store, StoreConfig};
use tracing::{error, info, warn};
use wire::control::{ChainId, Condition, LogEnd, StoreBeat, StoreReport, Synced};
use wire::map::Unit;
use wire::message::{ShardState, StoreCondition};
use wire::{Nanos, Prefix, ShardIndex};

use crate::config::Config;
use crate::control_thread::ControlMail;
use crate::disk::{Disk, STORE_HEADROOM_BYTES};
use crate::error::Error;
use crate::fullness::{Fullness, News};
use crate::identity::Identity;
use crate::progress::{Progress, Refusal, Stage};
use crate::start::{nanoseconds, open_file};
use crate::teller::{Standing, Teller, known_life};

/// A map, shared by all threads.
pub(crate) type SharedMap = Arc<Edition>;

/// What a shard's thread is told from outside.
#[derive(Debug)]
pub(crate) enum ShardMail {
    /// A new cluster map.
    Map(SharedMap),
    /// Its numbers are wanted.
    State(Replier<ShardState>),
    /// The control agent wants to hear how it is.
    Beat,
    /// What the store is registered with, once it is open.
    Report(Replier<StoreReport>),
}

/// The service on a shard's thread.
#[derive(Debug)]
pub(crate) struct ShardThread {
    index: ShardIndex,
    /// The store's file, for messages.
    path: PathBuf,
    shard: Shard,
    effects: Effects,
    disk: Disk,
    /// What the disk has ended and the shard hasn't been told yet.
    ended: Vec<(IoToken, IoOutcome)>,
    mail: Receiver<ShardMail>,
    teller: Teller,
    progress: Progress,
    /// Tick at this time.
    deadline: Option<Nanos>,
    stopping: bool,
    /// The file system had no room for the store's growth, and that was said.
    is_cramped: bool,
    fullness: Fullness,
}

impl ShardThread {
    /// Around a store that hasn't started.
    pub(crate) fn new(
        io: &mut Io,
        index: ShardIndex,
        path: PathBuf,
        mut shard: Shard,
        disk: Disk,
        (mail, teller): (Receiver<ShardMail>, Teller),
        progress: Progress,
    ) -> Self {
        io.attach(&mail);
        let mut effects = Effects::default();
        shard.on_start(io.now(), io.memory(), &mut effects);
        let mut thread = Self {
            index,
            path,
            shard,
            effects,
            disk,
            ended: Vec::new(),
            mail,
            teller,
            progress,
            deadline: None,
            stopping: false,
            is_cramped: false,
            fullness: Fullness::default(),
        };
        thread.carry_out(io);
        thread
    }

    fn carry_out(&mut self, io: &mut Io) {
        self.disk.carry_out(io, &self.effects.io);
        for send in &self.effects.sends {
            let (start, end) = (send.head.0 as usize, send.head.1 as usize);
            let payload =
                send.payload.map(|part| SlotRange { slot: part.slot, offset: part.offset, len: part.len });
            let token = send.payload.map(|part| u64::from(part.len));
            let link = LinkId::from_u64(send.link.0);
            // A closed connection needs no answer. A full queue belongs to a peer that asks and doesn't read: it is closed.
            if io.send(link, &self.effects.bytes[start..end], payload, token)
                == Err(runtime::SendRefused::Full)
            {
                io.close(link, CloseReason::SlowReader);
            }
            if let Some(part) = send.payload {
                wire::Memory::release(io.memory(), part.slot);
            }
        }
        for (link, reason) in &self.effects.closes {
            io.close(LinkId::from_u64(link.0), close_reason(*reason));
        }
        for id in &self.effects.damaged {
            error!(shard = self.index.0, chunk = %id, "a chunk is damaged or unreadable in this store");
        }
        for id in &self.effects.conflicting {
            error!(
                shard = self.index.0,
                chunk = %id,
                "a put is refused: the store holds other bytes under this chunk's id, which the metadata log handed out again. The log is older \
                 than the store, as one from an old backup: restore the one that belongs to it, or run \
                 `catena server recover --accept-data-loss --config FILE`"
            );
        }
        if let Some(at) = self.effects.deadline {
            let at = self.deadline.map_or(at, |known| known.min(at));
            self.deadline = Some(at);
            io.arm(at);
        }
        self.report(io);
        self.tell_control();
        self.tell_room();
        self.tell_fullness(io.now());
        let dials = std::mem::take(&mut self.effects.dials);
        self.effects.clear();
        for dial in dials {
            self.dial(io, &dial);
        }
    }

    /// Tells the shard what the disk has ended in this turn. The disk first gets the reads that were held back: verifying and answering take time.
    fn tell_ended(&mut self, io: &mut Io) {
        if self.ended.is_empty() {
            return;
        }
        io.submit_operations();
        let mut ended = std::mem::take(&mut self.ended);
        for (token, outcome) in ended.drain(..) {
            let now = io.now();
            self.shard.on_io(now, token, outcome, io.memory(), &mut self.effects);
            self.carry_out(io);
        }
        self.ended = ended;
    }

    fn dial(&mut self, io: &mut Io, dial: &Dial) {
        let link = dial.address.parse::<SocketAddr>().ok().and_then(|address| io.connect(address).ok());
        let (now, link) = (io.now(), link.map(|link| Link(link.to_u64())));
        self.shard.on_dialled(now, dial.target, link, io.memory(), &mut self.effects);
        self.carry_out(io);
    }

    fn report(&mut self, io: &mut Io) {
        if self.effects.opened {
            if let Some(opened) = self.shard.store().opened() {
                info!(
                    shard = self.index.0, store = %opened.identity.store, incarnation = opened.incarnation.0,
                    batches = opened.sequence, recovered_cut = opened.recovered_cut, was_clean = opened.was_clean,
                    "the store is open"
                );
            }
            self.tell_losses();
            self.progress.set(Stage::Ready);
        }
        if self.effects.open_failed {
            let error = self.shard.store().open_error();
            match error {
                Some(error) => self.progress.set(Stage::Failed(open_failure(&self.path, error))),
                None => self.progress.fail("its store doesn't open".into()),
            }
            io.stop();
        }
        if self.effects.fenced {
            error!(
                shard = self.index.0,
                "a write or flush of the store failed: it is fenced, nothing more is written to it; \
                 replace the disk, or restart the node once the disk is well again"
            );
        }
        if self.effects.shut_down {
            info!(shard = self.index.0, "the store is closed");
            io.stop();
        }
    }
}

impl ShardThread {
    /// Who has everything, and who doesn't answer.
    fn tell_control(&mut self) {
        let store = self.teller.store;
        let synced = |synced: &shard::Synced| Synced {
            chain: ChainId::Slice(synced.slice),
            epoch: synced.epoch,
            store,
            missing: u32::try_from(synced.missing).unwrap_or(u32::MAX),
        };
        if !self.effects.synced.is_empty() {
            let all = self.effects.synced.iter().map(synced).collect();
            self.teller.tell(ControlMail::Synced(all));
        }
        for suspicion in &self.effects.suspects {
            self.teller.suspect(suspicion.store, suspicion.is_suspect);
        }
        self.teller.tell_suspects();
        if self.effects.fenced {
            self.beat();
        }
    }

    /// How the store is.
    fn beat(&mut self) {
        let store = self.shard.store();
        let metrics = store.metrics();
        let condition = if self.shard.condition() == StoreCondition::Fenced {
            Condition::Fenced
        } else {
            Condition::Well
        };
        let beat = StoreBeat {
            store: self.teller.store,
            condition,
            sequence: store.device().durable_sequence(),
            used_bytes: metrics.live_bytes,
            lag: self.shard.sync_progress().bytes_left,
        };
        self.teller.beat(beat, LogEnd::default(), self.marks());
    }

    /// Whether the store's recovery cut a tail, and whether it missed something (R7, R8).
    fn marks(&self) -> (bool, bool) {
        let store = self.shard.store();
        (store.recovered_cut(), store.lacks() || store.metrics().chunks_damaged > 0)
    }

    /// What the store is registered with.
    fn store_report(&self) -> Option<StoreReport> {
        let store = self.shard.store();
        let opened = store.opened()?;
        let metrics = store.metrics();
        let (recovered_cut, lacks) = self.marks();
        Some(StoreReport {
            store: self.teller.store,
            unit: self.teller.unit,
            address: String::new(),
            incarnation: opened.incarnation,
            lives: store.lives().to_vec(),
            recovered_cut,
            lacks,
            log_end: LogEnd::default(),
            sequence: opened.sequence,
            capacity_bytes: metrics.capacity_bytes,
            used_bytes: metrics.live_bytes,
            condition: Condition::Well,
        })
    }

    fn on_map(&mut self, io: &mut Io, edition: SharedMap) {
        let (now, number) = (io.now(), edition.number());
        let life = self.shard.store().opened().map(|opened| opened.incarnation);
        let standing = life.map(|life| (life, Standing::of(edition.map(), self.teller.store, life)));
        self.shard.on_map(now, edition, io.memory(), &mut self.effects);
        self.carry_out(io);
        if let Some((life, standing)) = standing.filter(|(_, standing)| standing.is_accepted) {
            self.shard.on_accepted(now, life, io.memory(), &mut self.effects);
            if standing.is_whole {
                self.shard.on_whole(now, io.memory(), &mut self.effects);
            }
            self.carry_out(io);
        }
        self.teller.followed = number;
        self.beat();
    }

    /// Says once that the store wants to grow and its file system is full, and that it has room again.
    fn tell_room(&mut self) {
        let is_cramped = self.shard.store().device().segments().is_growth_blocked();
        if std::mem::replace(&mut self.is_cramped, is_cramped) == is_cramped {
            return;
        }
        let path = self.path.display();
        if is_cramped {
            warn!(
                shard = self.index.0,
                %path,
                left_free_mib = STORE_HEADROOM_BYTES >> 20,
                "the file system has no room for the store to grow beside what it leaves free, although its capacity isn't reached: remove other files from it; what fits into the store's present length still does"
            );
        } else {
            info!(shard = self.index.0, %path, "the store can grow again");
        }
    }

    /// Says once that puts are refused for want of space, and why, and that they are taken again.
    fn tell_fullness(&mut self, now: Nanos) {
        let store = self.shard.store();
        let Some(news) = self.fullness.news(now, store.is_full()) else { return };
        let (shard, path) = (self.index.0, self.path.display());
        if news == News::Takes {
            info!(shard, %path, "the store takes new chunks again");
            return;
        }
        let metrics = store.metrics();
        let why = if store.device().segments().is_growth_blocked() {
            "its file system has no room for it to grow"
        } else {
            "its capacity is reached"
        };
        warn!(
            shard,
            %path,
            why,
            capacity_bytes = metrics.capacity_bytes,
            used_bytes = metrics.live_bytes,
            reserve_bytes = metrics.reserve_bytes,
            reclaimable_segments = metrics.segments_drained,
            "the store is full: new chunks are refused, deletes still work"
        );
    }

    /// R29: what is damaged or gone is told at the start. Which files it belongs to, the names' keeper knows.
    fn tell_losses(&self) {
        let store = self.shard.store();
        let damaged = store.metrics().batches_damaged;
        if damaged == 0 && store.chunks_lost() == 0 && !store.device().needs_checkpoint() {
            return;
        }
        let (shard, path) = (self.index.0, self.path.display());
        let Some(Losses { batches, chunks }) = Losses::of(damaged, store.chunks_lost()) else {
            warn!(
                shard,
                %path,
                "chunks of this store may be lost, and how many isn't known, since what named them is gone as well: \
                 once the node serves, `catena verify` names the files and offsets that they are missing from"
            );
            return;
        };
        warn!(
            shard,
            %path,
            batches_missing = batches,
            chunks_missing = chunks,
            "chunks of this store are lost, and how many a missing batch held isn't known: once the node serves, \
             `catena verify` names the files and offsets that they are missing from"
        );
    }
}

/// What recovery could count of what is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Losses {
    batches: u64,
    /// That the checkpoint, or a batch of which a part is left, knew.
    chunks: u64,
}

impl Losses {
    /// `None` where nothing could be counted: that isn't to say that nothing is lost.
    fn of(batches: u64, chunks: u64) -> Option<Self> {
        (batches > 0 || chunks > 0).then_some(Self { batches, chunks })
    }
}

/// Why the store isn't served, and what to do.
pub(crate) fn open_failure(path: &std::path::Path, error: OpenError) -> Refusal {
    let next = match error {
        _ if error.may_be_accepted(Kind::Chunks) => {
            "; nothing was changed: mend the disk, or restore the file from a backup; to go on without what is missing: \
             `catena server recover --accept-data-loss --config FILE`"
        }
        OpenError::SuperblocksDamaged | OpenError::Unreadable { .. } => {
            "; without a superblock nothing of it can be recovered: mend the disk, or restore the file from a backup"
        }
        OpenError::NotFormatted | OpenError::Foreign | OpenError::WrongIdentity { .. } => {
            "; is the right disk mounted? Catena never formats by itself"
        }
        _ => "",
    };
    Refusal { path: Some(path.into()), is_damage: error.is_damage(), reason: format!("{error}{next}") }
}

impl runtime::Service for ShardThread {
    fn on_open(&mut self, io: &mut Io, link: LinkId, _kind: LinkKind, _peer: Option<SocketAddr>) {
        self.shard.on_open(Link(link.to_u64()), &mut self.effects);
        self.carry_out(io);
    }

    fn on_head(&mut self, io: &mut Io, link: LinkId, prefix: &Prefix, message: &[u8]) -> runtime::Payload {
        let now = io.now();
        let placement =
            self.shard.on_head(now, Link(link.to_u64()), prefix, message, io.memory(), &mut self.effects);
        self.carry_out(io);
        match placement {
            _ if prefix.payload_bytes == 0 && !matches!(placement, Placement::Close(_)) => {
                runtime::Payload::None
            }
            Placement::Into { slot, offset } => runtime::Payload::Into { slot, offset },
            Placement::Discard => runtime::Payload::Discard,
            Placement::Close(reason) => runtime::Payload::Close(close_reason(reason)),
        }
    }

    fn on_payload(&mut self, io: &mut Io, link: LinkId) {
        let now = io.now();
        self.shard.on_payload(now, Link(link.to_u64()), io.memory(), &mut self.effects);
        self.carry_out(io);
    }

    fn on_close(&mut self, io: &mut Io, link: LinkId, reason: CloseReason) {
        tracing::debug!(shard = self.index.0, link = link.to_u64(), %reason, "connection closed");
        let now = io.now();
        self.shard.on_close(now, Link(link.to_u64()), io.memory(), &mut self.effects);
        self.carry_out(io);
    }

    fn on_sent(&mut self, io: &mut Io, link: LinkId, token: u64) {
        let bytes = u32::try_from(token).expect("the token is a payload's length");
        let now = io.now();
        self.shard.on_sent(now, Link(link.to_u64()), bytes, io.memory(), &mut self.effects);
        self.carry_out(io);
    }

    fn on_io(&mut self, io: &mut Io, token: runtime::IoToken, outcome: runtime::IoOutcome) {
        if let runtime::IoOutcome::Failed { errno } = outcome {
            warn!(shard = self.index.0, error = %std::io::Error::from_raw_os_error(errno), "the store's disk failed an operation");
        }
        self.ended.extend(self.disk.on_io(io, token, outcome));
    }

    fn on_mail(&mut self, io: &mut Io) {
        self.tell_ended(io);
        while let Some(mail) = self.mail.pop() {
            match mail {
                ShardMail::Map(edition) => self.on_map(io, edition),
                ShardMail::Beat => self.beat(),
                ShardMail::Report(replier) => {
                    if let Some(report) = self.store_report() {
                        replier.send(report);
                    }
                }
                ShardMail::State(replier) => replier.send(self.shard.state(io.memory_ref())),
            }
        }
    }

    fn on_timer(&mut self, io: &mut Io, now: Nanos) {
        self.tell_ended(io);
        self.deadline = None;
        self.shard.on_tick(now, io.memory(), &mut self.effects);
        self.carry_out(io);
    }

    fn on_turn(&mut self, io: &mut Io, now: Nanos) {
        self.tell_ended(io);
        self.shard.on_turn(now, io.memory(), &mut self.effects);
        self.carry_out(io);
        self.disk.end_turn();
    }

    fn on_stop(&mut self, io: &mut Io) {
        self.tell_ended(io);
        if !std::mem::replace(&mut self.stopping, true) {
            let now = io.now();
            self.shard.on_shutdown(now, io.memory(), &mut self.effects);
            self.carry_out(io);
        }
    }
}

fn close_reason(reason: shard::CloseReason) -> CloseReason {
    match reason {
        shard::CloseReason::Protocol => CloseReason::Protocol,
        shard::CloseReason::Mismatch
        | shard::CloseReason::TooMany
        | shard::CloseReason::Redial
        | shard::CloseReason::Silent
        | shard::CloseReason::Idle => CloseReason::Local,
    }
}

/// What a shard's thread is started with.
#[derive(Debug)]
pub(crate) struct ShardStart {
    index: ShardIndex,
    path: PathBuf,
    identity: shard::Identity,
    store: StoreConfig,
    /// Formats first.
    format: Option<Format>,
}

impl ShardStart {
    /// Opens the store that the identity names.
    pub(crate) fn open(
        config: &Config,
        identity: &Identity,
        index: ShardIndex,
        (accept_data_loss, map): (bool, Option<&ClusterMap>),
    ) -> Self {
        let mut store = StoreConfig::new(config.store_capacity(index.0), 0);
        store.prezero_bytes = config.store.prezero.0;
        store.scrub_pass = nanoseconds(config.store.scrub_period.0);
        store.accept_data_loss = accept_data_loss;
        let own = identity.stores[usize::from(index.0)];
        store.takes_over = map.filter(|_| accept_data_loss).map(|map| known_life(map, own));
        store.life_random = u16::from_le_bytes(runtime::clock::random_bytes());
        let identity = shard::Identity {
            cluster: identity.cluster,
            node: identity.node,
            shard: index,
            store: identity.stores[usize::from(index.0)],
            links_max: config.limits.connections,
        };
        Self { index, path: config.store_path(index.0), identity, store, format: None }
    }

    /// Formats it first.
    pub(crate) fn format(config: &Config, identity: &Identity, index: ShardIndex) -> Self {
        let start = Self::open(config, identity, index, (false, None));
        let format = Format {
            identity: start.journal_identity(),
            geometry: Geometry::new(SEGMENT_BYTES).expect("the design's segment size"),
            secret: u64::from_le_bytes(runtime::clock::random_bytes()),
            index_key: u64::from_le_bytes(runtime::clock::random_bytes()),
        };
        Self { format: Some(format), ..start }
    }

    fn journal_identity(&self) -> journal::Identity {
        journal::Identity {
            cluster: self.identity.cluster,
            store: self.identity.store,
            node: self.identity.node,
            unit: self.index.0,
        }
    }

    /// The store's file, locked.
    pub(crate) fn open_file(&self) -> Result<StoreFile, Error> {
        open_file(&self.path, self.format.is_some())
    }

    /// On the thread: builds its service.
    pub(crate) fn begin(
        mut self,
        io: &mut Io,
        file: &StoreFile,
        (mail, control): (Receiver<ShardMail>, Sender<ControlMail>),
        progress: Progress,
    ) -> ShardThread {
        self.store.device_bytes = file.len().unwrap_or_else(|error| {
            progress.set(Stage::Failed(Refusal {
                path: Some(self.path.clone()),
                is_damage: false,
                reason: format!("cannot tell the length of it: {error}"),
            }));
            0
        });
        let identity = self.journal_identity();
        let expected = Expected {
            cluster: Some(identity.cluster),
            store: Some(identity.store),
            node: identity.node,
            unit: identity.unit,
        };
        let store = match self.format {
            Some(format) => Store::format(self.store, format),
            None => Store::open(self.store, expected),
        };
        let teller = Teller::new(control, Unit::Shard(self.index), self.identity.store);
        let shard = Shard::new(self.identity, store);
        let disk = Disk::new(io, file, STORE_HEADROOM_BYTES);
        ShardThread::new(io, self.index, self.path, shard, disk, (mail, teller), progress)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_helps_is_recommended() {
        let path = std::path::Path::new("shard-0.store");
        for (error, is_recoverable) in [
            (OpenError::Truncated { length: 1, needed: 2 }, true),
            (OpenError::CheckpointsDamaged, true),
            (OpenError::Unreadable { offset: 1 << 30 }, true),
            (OpenError::Unreadable { offset: 0 }, false),
            (OpenError::SuperblocksDamaged, false),
            (OpenError::NotFormatted, false),
        ] {
            let refusal = open_failure(path, error);
            let (text, is_damage) = (&refusal.reason, refusal.is_damage);
            assert_eq!(
                (is_damage, refusal.path.as_deref()),
                (error != OpenError::NotFormatted, Some(path)),
                "{text}"
            );
            assert_eq!(text.contains("recover --accept-data-loss"), is_recoverable, "{text}");
            assert!(text.contains("; "), "a next step: {text}");
        }
    }

    /// A store whose checkpoints were gone with its end said that 0 batches and 0 chunks were missing; 210 chunks were.
    #[test]
    fn what_could_not_be_counted_is_not_said_to_be_none() {
        assert_eq!(Losses::of(0, 0), None);
        assert_eq!(Losses::of(2, 0), Some(Losses { batches: 2, chunks: 0 }));
        assert_eq!(Losses::of(0, 3), Some(Losses { batches: 0, chunks: 3 }));
    }
}
