//! The control thread: the shipped [`Agent`] between the thread's uring, its connections, the node's other threads and its keeper of maps. It decides nothing.
//!
//! ```text
//!  shards, metadata ── ControlMail ──► agent ── store ──► keeper ── Stored ──► publish ──► shards, metadata
//!                                        └── lease ──► metadata
//! ```

use std::net::SocketAddr;
use std::sync::Arc;

use agent::{Agent, CloseReason, Effects, Link, Note, Start, VoterStart};
use crossbeam::channel;
use runtime::{Io, LinkId, LinkKind, Payload, Receiver, Replier, Sender, StoreFile};
use tracing::{debug, error, info, warn};
use wire::control::{CaughtUp, Life, LogEnd, StoreBeat, StoreReport, StoreVerdict, Synced};
use wire::map::{Member, Phase, Unit};
use wire::{MapNumber, Nanos, NodeId, Prefix, StoreId};

use crate::disk::{Disk, LOG_HEADROOM_BYTES};
use crate::identity::Identity;
use crate::keeper::Order;
use crate::meta_thread::MetaMail;
use crate::progress::{Progress, Stage};
use crate::shard_thread::{ShardMail, SharedMap};
use crate::vote::Vote;

/// Units are asked this often how they are.
const BEAT_INTERVAL: u64 = 200 * Nanos::MILLISECOND;

/// How a unit is, as it says when it is asked, and at once when something has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct UnitBeat {
    /// Which.
    pub(crate) unit: Unit,
    /// Its store.
    pub(crate) beat: StoreBeat,
    /// The map that it follows; 0: none.
    pub(crate) followed: MapNumber,
    /// Where a metadata log ends.
    pub(crate) log_end: LogEnd,
    /// The marks of its store, as they are now.
    pub(crate) recovered_cut: bool,
    /// Likewise.
    pub(crate) lacks: bool,
}

/// What the control thread is told from outside.
#[derive(Debug)]
pub(crate) enum ControlMail {
    /// A map is durable.
    Stored(MapNumber),
    /// The log of a new vote is there and recorded.
    Vote {
        /// Which.
        vote: Vote,
        /// Its file, and that file's length.
        file: (StoreFile, u64),
    },
    /// How a unit is.
    Unit(UnitBeat),
    /// Members here that have everything.
    Synced(Vec<Synced>),
    /// A learner follows its group closely, or not any more.
    CaughtUp(CaughtUp, bool),
    /// Stores that a unit needs and can't reach, all of them.
    Suspects(Unit, Vec<StoreId>),
    /// How the node stands is wanted.
    State(Replier<ControlState>),
}

/// How the node stands with the control group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ControlState {
    /// The newest map that it knows.
    pub(crate) number: MapNumber,
    /// The map that it has promised to follow.
    pub(crate) installed: MapNumber,
    /// How often operators accepted a loss.
    pub(crate) accepted_losses: u16,
    /// A leader knows this life of the node.
    pub(crate) is_registered: bool,
    /// Every unit takes part.
    pub(crate) takes_part: bool,
    /// No chain in which it acks is just changing.
    pub(crate) is_settled: bool,
    /// Its own voter leads.
    pub(crate) leads: bool,
    /// Who does.
    pub(crate) leader: Option<NodeId>,
    /// Why it isn't registered, as far as that is known.
    pub(crate) trouble: Option<String>,
}

impl ControlState {
    /// Whether the node serves under the newest map that it knows.
    pub(crate) fn serves(&self) -> bool {
        self.is_registered && self.takes_part && self.installed >= self.number
    }

    /// Why it doesn't.
    pub(crate) fn why_not(&self) -> String {
        match (&self.trouble, self.is_registered) {
            (Some(trouble), _) => trouble.clone(),
            (None, false) => {
                "waiting for the control group: no majority of its voters answers, or nobody of them is reached"
                    .to_owned()
            }
            (None, true) => "following the cluster map".to_owned(),
        }
    }
}

/// What the agent's thread is started with.
#[derive(Debug)]
pub(crate) struct ControlStart {
    pub(crate) identity: Identity,
    pub(crate) name: String,
    pub(crate) rack: String,
    pub(crate) endpoints: Vec<Arc<str>>,
    pub(crate) links_max: u32,
    pub(crate) edition: SharedMap,
    pub(crate) stores: Vec<StoreReport>,
    /// The node's vote, its log's file and that file's length.
    pub(crate) vote: Option<(Vote, (StoreFile, u64))>,
    pub(crate) shards: Vec<Sender<ShardMail>>,
    pub(crate) metadata: Sender<MetaMail>,
    pub(crate) keeper: channel::Sender<Order>,
}

impl ControlStart {
    /// On the thread: builds its service. `address` is where it listens.
    pub(crate) fn begin(
        self,
        io: &mut Io,
        address: SocketAddr,
        mail: Receiver<ControlMail>,
        progress: &Progress,
    ) -> ControlThread {
        io.attach(&mail);
        let (disk, voter) = match self.vote {
            Some((vote, (file, bytes))) => {
                let disk = Disk::new(io, &file, LOG_HEADROOM_BYTES);
                (Some(disk), Some(vote.start(&self.identity, bytes)))
            }
            None => (None, None),
        };
        let identity = agent::Identity {
            cluster: self.identity.cluster,
            node: self.identity.node,
            name: self.name,
            rack: self.rack,
            control: address.to_string(),
            links_max: self.links_max,
        };
        let units = self.stores.iter().map(|store| store.unit).collect();
        let start = Start {
            life: Life(u64::from_le_bytes(runtime::clock::random_bytes())),
            join: false,
            endpoints: self.endpoints,
            edition: Arc::clone(&self.edition),
            stores: self.stores,
            voter,
        };
        let mut thread = ControlThread {
            agent: Agent::new(identity, start),
            effects: Effects::default(),
            identity: self.identity,
            stored: self.edition.number(),
            unpublished: None,
            units,
            disk,
            next_vote: None,
            mail,
            shards: self.shards,
            metadata: self.metadata,
            keeper: self.keeper,
            beat_at: io.now(),
            agent_at: None,
            trouble: None,
            stopping: false,
        };
        thread.agent.on_start(io.now(), io.memory(), &mut thread.effects);
        thread.carry_out(io);
        progress.set(Stage::Ready);
        thread
    }
}

/// The service on the control thread.
pub(crate) struct ControlThread {
    agent: Agent,
    effects: Effects,
    identity: Identity,
    /// The newest map that is durable.
    stored: MapNumber,
    /// A map that the units get once it is.
    unpublished: Option<SharedMap>,
    units: Vec<Unit>,
    /// Under the voter's log.
    disk: Option<Disk>,
    /// A new vote, which begins when nothing of the old one's log is under way.
    next_vote: Option<(Vote, (StoreFile, u64))>,
    mail: Receiver<ControlMail>,
    shards: Vec<Sender<ShardMail>>,
    metadata: Sender<MetaMail>,
    keeper: channel::Sender<Order>,
    beat_at: Nanos,
    agent_at: Option<Nanos>,
    trouble: Option<String>,
    stopping: bool,
}

impl ControlThread {
    fn carry_out(&mut self, io: &mut Io) {
        // What an old log wanted when a new one waits is nobody's any more.
        if let Some(disk) = self.disk.as_mut().filter(|_| self.next_vote.is_none()) {
            disk.carry_out(io, &self.effects.io);
        }
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
        if let Some(until) = self.effects.lease {
            self.tell_stuck(Self::is_stuck(&self.metadata, MetaMail::Lease(until)));
        }
        self.order();
        if let Some(edition) = self.effects.publish.take() {
            self.unpublished = Some(edition);
        }
        self.publish();
        let ended = self.effects.notes.contains(&Note::Ended);
        for note in std::mem::take(&mut self.effects.notes) {
            self.report(&note);
        }
        self.agent_at = self.effects.deadline.or(self.agent_at);
        let dials = std::mem::take(&mut self.effects.dials);
        self.effects.clear();
        for dial in dials {
            let link = dial.address.parse::<SocketAddr>().ok().and_then(|address| io.connect(address).ok());
            self.agent.on_dialled(dial.peer, link.map(|link| Link(link.to_u64())), &mut self.effects);
        }
        if !self.effects.is_empty() {
            return self.carry_out(io);
        }
        self.arm(io);
        if ended {
            io.stop();
        }
    }

    fn arm(&self, io: &mut Io) {
        io.arm(self.agent_at.map_or(self.beat_at, |at| at.min(self.beat_at)));
    }

    /// What the keeper is to do.
    fn order(&mut self) {
        let map = self.effects.store.take().map(Order::Map);
        let vote = self.effects.format_voter.take().map(Order::Vote);
        for order in map.into_iter().chain(vote) {
            // It takes one of each at a time, and there is never more.
            if self.keeper.try_send(order).is_err() {
                error!("the keeper of maps has ended: this node follows no newer map");
            }
        }
    }

    /// Every map is durable before a unit sees it: a prepared epoch is a promise (I4).
    fn publish(&mut self) {
        let Some(edition) = self.unpublished.take_if(|edition| edition.number() <= self.stored) else {
            return;
        };
        for unit in &self.units {
            if !self.agent.takes_part(*unit) {
                continue;
            }
            let is_stuck = match unit {
                Unit::Shard(index) => self
                    .shards
                    .get(usize::from(index.0))
                    .is_some_and(|shard| Self::is_stuck(shard, ShardMail::Map(Arc::clone(&edition)))),
                Unit::Group(_) => Self::is_stuck(&self.metadata, MetaMail::Map(Arc::clone(&edition))),
            };
            self.tell_stuck(is_stuck);
            if is_stuck {
                // Whoever has it passes over it: all get it again with the next beat.
                self.unpublished = Some(Arc::clone(&edition));
            }
        }
    }

    /// Whether a thread that is there doesn't take its mail; one that has ended is told of elsewhere.
    fn is_stuck<M>(mail: &Sender<M>, letter: M) -> bool {
        mail.send(letter).is_err() && !mail.is_closed()
    }

    fn tell_stuck(&self, is_stuck: bool) {
        if is_stuck && !self.stopping {
            warn!("a thread of this node doesn't take its mail: it is stuck");
        }
    }

    /// Asks the units how they are.
    fn ask_units(&mut self, now: Nanos) {
        self.beat_at = now.after(BEAT_INTERVAL);
        self.publish();
        for shard in &self.shards {
            self.tell_stuck(Self::is_stuck(shard, ShardMail::Beat));
        }
        self.tell_stuck(Self::is_stuck(&self.metadata, MetaMail::Beat));
    }

    fn take_vote(&mut self, io: &mut Io) {
        if self.disk.as_ref().is_some_and(|disk| !disk.is_idle()) {
            return;
        }
        let Some((vote, (file, bytes))) = self.next_vote.take() else { return };
        self.disk = Some(Disk::new(io, &file, LOG_HEADROOM_BYTES));
        let VoterStart { log, .. } = vote.start(&self.identity, bytes);
        let now = io.now();
        self.agent.on_voter_log(now, Some(log), io.memory(), &mut self.effects);
        self.carry_out(io);
    }

    fn state(&self) -> ControlState {
        let map: &placement::ClusterMap = self.agent.edition().map();
        ControlState {
            number: map.number(),
            installed: self.agent.installed(),
            accepted_losses: map.accepted_losses(),
            is_registered: self.agent.is_registered(),
            takes_part: self.units.iter().all(|unit| self.agent.takes_part(*unit)),
            is_settled: self.is_settled(map),
            leads: self.agent.leads(),
            leader: self.agent.leader(),
            trouble: self.trouble.clone(),
        }
    }

    fn is_settled(&self, map: &placement::ClusterMap) -> bool {
        let (map, node) = (map.as_map(), self.identity.node);
        let is_own = |member: &Member| map.stores[usize::from(member.store)].node == node;
        let slices = map.slices.iter().map(|slice| &slice.chain);
        let mut chains = slices.chain(map.groups.iter().map(|group| &group.chain));
        chains.all(|chain| chain.phase == Phase::Active || !chain.ackers().any(is_own))
    }

    fn on_beat(&mut self, io: &mut Io, unit: &UnitBeat) {
        let now = io.now();
        self.agent.on_beat(unit.beat);
        self.agent.on_store(unit.beat.store, unit.log_end, (unit.recovered_cut, unit.lacks));
        if unit.followed > MapNumber(0) {
            self.agent.on_followed(now, unit.unit, unit.followed, io.memory(), &mut self.effects);
        }
    }

    fn on_letter(&mut self, io: &mut Io, mail: ControlMail) {
        let now = io.now();
        match mail {
            ControlMail::Stored(number) => {
                self.stored = self.stored.max(number);
                self.agent.on_stored(now, number, io.memory(), &mut self.effects);
            }
            ControlMail::Vote { vote, file } => {
                self.next_vote = Some((vote, file));
                return self.take_vote(io);
            }
            ControlMail::Unit(unit) => self.on_beat(io, &unit),
            ControlMail::Synced(all) => all.into_iter().for_each(|synced| self.agent.on_synced(synced)),
            ControlMail::CaughtUp(caught_up, is_so) => self.agent.on_caught_up(caught_up, is_so),
            ControlMail::Suspects(unit, stores) => self.agent.on_suspects(unit, &stores),
            ControlMail::State(replier) => return replier.send(self.state()),
        }
        self.carry_out(io);
    }
}

impl ControlThread {
    fn report(&mut self, note: &Note) {
        match note {
            Note::Registered { leader, refused } => {
                self.trouble = (!refused.is_empty()).then(|| {
                    let texts: Vec<String> =
                        refused.iter().map(|(store, verdict)| verdict_text(*store, *verdict)).collect();
                    texts.join("; ")
                });
                info!(leader = leader.0, "registered with the control group");
                if let Some(trouble) = &self.trouble {
                    error!("{trouble}");
                }
            }
            Note::Refused(refusal) => {
                let text = refusal_text(refusal);
                error!("the control group refuses this node: {text}");
                self.trouble = Some(text);
            }
            Note::Map(number) => debug!(map = number.0, "a newer cluster map"),
            Note::LeaseLost => warn!(
                "the lease has run out and nobody renews it: healthy chains go on, metadata is read with a confirmation of the chain"
            ),
            Note::LeaseRenewed => info!("there is a lease again"),
            Note::Leads { term } => info!(term, "this node leads the control group"),
            Note::Follows { leader } => {
                info!(
                    leader = leader.map(|node| node.0),
                    "this node doesn't lead the control group any more"
                );
            }
            Note::VoterFailed(failure) => {
                error!(%failure, "this node's vote in the control group can't be used: it serves without it");
            }
            Note::Membership(note) => tell_membership(note),
            Note::Ended => info!("the control agent has ended"),
        }
    }
}

fn tell_membership(note: &control::membership::Note) {
    use control::membership::Note;
    match note {
        Note::NodeDead(node) => warn!(node = node.0, "the node is taken for dead: its lease has run out"),
        Note::NodeRegistered { node, .. } => info!(node = node.0, "a node has registered"),
        Note::StoreStale(store) => {
            error!(%store, "the store is older than what is known of it, and is refused: `catena admin disk replace`");
        }
        Note::ChainStuck(chain) => {
            error!(
                ?chain,
                "the chain has no member to go on with: `catena admin why` says whom it waits for"
            );
        }
        note => info!(?note, "the control group"),
    }
}

fn verdict_text(store: StoreId, verdict: StoreVerdict) -> String {
    match verdict {
        StoreVerdict::Accepted => format!("store {store} is accepted"),
        StoreVerdict::Unknown => format!(
            "store {store} isn't in the cluster map: `catena admin disk replace` lets it take another's place"
        ),
        StoreVerdict::Stale { .. } => format!(
            "store {store} is older than what the cluster knows of it, as after a rollback or from a copy; it is refused: replace it by an empty one \
             with `catena admin disk replace`, or, where no other node has its data, go on with what it has: `catena server recover --accept-data-loss --config FILE`"
        ),
        StoreVerdict::Expelled => {
            format!("the loss of store {store} was accepted: it can't come back under this id")
        }
        StoreVerdict::Forgotten => {
            format!("store {store} was replaced or forgotten: it can't come back under this id")
        }
        StoreVerdict::Elsewhere { node } => format!("store {store} belongs to node {}", node.0),
    }
}

fn refusal_text(refusal: &wire::control::RegistrationRefusal) -> String {
    use wire::control::RegistrationRefusal;
    match refusal {
        RegistrationRefusal::NodeUnknown => {
            "the cluster map doesn't have it: it was forgotten or replaced; join it anew with empty directories".to_owned()
        }
        RegistrationRefusal::NotEmpty { store } => format!("it asks to join, and store {store} isn't empty"),
        RegistrationRefusal::NodeAlive => "another process that is alive has this node's number".to_owned(),
        RegistrationRefusal::NameTaken => "another node has its name: change `name`".to_owned(),
        RegistrationRefusal::Malformed => "its registration is out of its limits".to_owned(),
        RegistrationRefusal::Full => "the cluster map has no room for it".to_owned(),
        RegistrationRefusal::Busy => "a change is under way".to_owned(),
    }
}

impl runtime::Service for ControlThread {
    fn on_open(&mut self, io: &mut Io, link: LinkId, kind: LinkKind, _peer: Option<SocketAddr>) {
        let link = Link(link.to_u64());
        if kind == LinkKind::Connected {
            self.agent.on_up(link, &mut self.effects);
            self.carry_out(io);
        } else {
            self.agent.on_open(link);
        }
    }

    fn on_head(&mut self, io: &mut Io, link: LinkId, prefix: &Prefix, message: &[u8]) -> Payload {
        let (now, link) = (io.now(), Link(link.to_u64()));
        let close = self.agent.on_head(now, link, prefix, message, io.memory(), &mut self.effects);
        self.carry_out(io);
        match close {
            Some(reason) => Payload::Close(close_reason(reason)),
            None if prefix.payload_bytes > 0 => Payload::Discard,
            None => Payload::None,
        }
    }

    fn on_close(&mut self, io: &mut Io, link: LinkId, reason: runtime::CloseReason) {
        debug!(link = link.to_u64(), %reason, "control connection closed");
        let now = io.now();
        self.agent.on_close(now, Link(link.to_u64()), io.memory(), &mut self.effects);
        self.carry_out(io);
    }

    fn on_io(&mut self, io: &mut Io, token: runtime::IoToken, outcome: runtime::IoOutcome) {
        if let runtime::IoOutcome::Failed { errno } = outcome {
            error!(error = %std::io::Error::from_raw_os_error(errno), "the disk of the vote's log failed an operation");
        }
        let Some(disk) = &mut self.disk else { return };
        let ended = disk.on_io(io, token, outcome);
        if self.next_vote.is_some() {
            return self.take_vote(io);
        }
        if let Some((token, outcome)) = ended {
            let now = io.now();
            self.agent.on_io(now, token, outcome, io.memory(), &mut self.effects);
            self.carry_out(io);
        }
    }

    fn on_mail(&mut self, io: &mut Io) {
        while let Some(mail) = self.mail.pop() {
            self.on_letter(io, mail);
        }
    }

    fn on_timer(&mut self, io: &mut Io, now: Nanos) {
        if now >= self.beat_at {
            self.ask_units(now);
        }
        if self.agent_at.is_some_and(|at| at <= now) {
            self.agent_at = None;
            self.agent.on_tick(now, io.memory(), &mut self.effects);
            self.carry_out(io);
        }
        self.arm(io);
    }

    fn on_turn(&mut self, io: &mut Io, now: Nanos) {
        self.agent.on_turn(now, io.memory(), &mut self.effects);
        self.carry_out(io);
        if let Some(disk) = &mut self.disk {
            disk.end_turn();
        }
    }

    fn on_stop(&mut self, io: &mut Io) {
        if !std::mem::replace(&mut self.stopping, true) {
            let now = io.now();
            self.agent.on_shutdown(now, io.memory(), &mut self.effects);
            self.carry_out(io);
        }
    }
}

fn close_reason(reason: CloseReason) -> runtime::CloseReason {
    match reason {
        CloseReason::Protocol => runtime::CloseReason::Protocol,
        CloseReason::Mismatch | CloseReason::TooMany | CloseReason::Redial => runtime::CloseReason::Local,
    }
}
