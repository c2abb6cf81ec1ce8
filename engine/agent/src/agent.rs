//! The agent: its state, and the events that the driver hands it.

use std::collections::BTreeSet;
use std::sync::Arc;

use control::voter::VoterId;
use journal::log::Log;
use journal::{IoOutcome, IoToken};
use placement::Edition;
use wire::control::{
    Answer, CaughtUp, Command, Led, Life, LogEnd, Refusal, RegistrationRefusal, RegistrationReply, Slow,
    StoreBeat, StoreReport, Synced,
};
use wire::map::Unit;
use wire::message::{Reply, Request};
use wire::{ClusterId, FrameKind, MapNumber, Memory, Nanos, NodeId, Prefix, Status, StoreId};

use crate::council::{Council, VoterOrigin, Word as CouncilWord};
use crate::desk::{Asker, Desk};
use crate::effects::{CloseReason, Effects, Link, Note, PeerId};
use crate::follow::Follow;
use crate::peers::Peers;
use crate::reports::Reports;
use crate::talk::{Talk, Word};

/// Who an agent is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Its cluster.
    pub cluster: ClusterId,
    /// Its node.
    pub node: NodeId,
    /// The node's name.
    pub name: String,
    /// Its rack; empty: not known.
    pub rack: String,
    /// `host:port` where its control port is reached.
    pub control: String,
    /// Connections that are served; further ones are answered `Busy` and closed (R43).
    pub links_max: u32,
}

/// What an agent is started with.
#[derive(Debug)]
pub struct Start {
    /// This run of the process, drawn at random.
    pub life: Life,
    /// Whether the node may be taken in as a new one.
    pub join: bool,
    /// Control ports to ask when those of the map don't answer.
    pub endpoints: Vec<Arc<str>>,
    /// The map that the node has stored.
    pub edition: Arc<Edition>,
    /// Its stores, all open.
    pub stores: Vec<StoreReport>,
    /// The log of its vote, if it has one.
    pub voter: Option<VoterStart>,
}

/// A voter's log.
#[derive(Debug)]
pub struct VoterStart {
    /// Its id.
    pub id: u64,
    /// The log, which hasn't started.
    pub log: Log,
    /// Where it comes from.
    pub origin: VoterOrigin,
}

/// One node's control agent.
#[derive(Debug)]
pub struct Agent {
    identity: Identity,
    follow: Follow,
    reports: Reports,
    talk: Talk,
    peers: Peers,
    desk: Desk,
    council: Option<Council>,
    /// A log for this vote is being made.
    formatting: Option<u64>,
    last_correlation: u64,
    closing: bool,
}

impl Agent {
    /// An agent that hasn't started.
    pub fn new(identity: Identity, start: Start) -> Self {
        let follow = Follow::new(Arc::clone(&start.edition), &start.stores);
        let cluster = identity.cluster;
        let node = identity.node;
        let council = start.voter.map(|voter| {
            let id = VoterId { cluster, id: voter.id };
            Council::new((node, id), voter.log, voter.origin, Arc::clone(&start.edition))
        });
        Self {
            peers: Peers::new(identity.cluster, &identity.name),
            identity,
            follow,
            reports: Reports::new(start.stores),
            talk: Talk::new(start.life, start.join, start.endpoints),
            desk: Desk::default(),
            council,
            formatting: None,
            last_correlation: 0,
            closing: false,
        }
    }

    /// The newest map that the node knows.
    pub fn edition(&self) -> &Arc<Edition> {
        self.follow.edition()
    }

    /// The map that it has promised to follow.
    pub fn installed(&self) -> MapNumber {
        self.follow.installed()
    }

    /// Whether a unit follows the maps that are published: the control group has accepted its store's present life (R34). Others serve nothing.
    pub fn takes_part(&self, unit: Unit) -> bool {
        self.follow.takes_part(unit)
    }

    /// Whether its voter leads the control group.
    pub fn leads(&self) -> bool {
        self.council.as_ref().is_some_and(Council::leads)
    }

    /// Who leads, as far as it knows.
    pub fn leader(&self) -> Option<NodeId> {
        if self.leads() { Some(self.identity.node) } else { self.talk.leader }
    }

    /// Whether a leader knows this life of the node.
    pub fn is_registered(&self) -> bool {
        self.talk.stage == crate::talk::Stage::Registered
    }

    /// The first event of all. The map that there is goes to all units.
    pub fn on_start(&mut self, now: Nanos, memory: &mut impl Memory, effects: &mut Effects) {
        self.follow.publish(effects);
        if let Some(council) = &mut self.council {
            council.start(now, memory, effects);
        }
        self.settle(now, memory, effects);
    }

    /// Somebody connected.
    pub fn on_open(&mut self, link: Link) {
        self.desk.open(link);
    }

    /// What became of a [`Dial`](crate::Dial).
    pub fn on_dialled(&mut self, peer: PeerId, link: Option<Link>, effects: &mut Effects) {
        self.peers.on_dialled(peer, link, effects);
    }

    /// A connection that was dialled stands.
    pub fn on_up(&mut self, link: Link, effects: &mut Effects) {
        self.peers.on_up(link, effects);
    }

    /// A connection is gone, or was never made; also one that was closed from here.
    pub fn on_close(&mut self, now: Nanos, link: Link, memory: &mut impl Memory, effects: &mut Effects) {
        match self.peers.on_close(now, link) {
            Some(PeerId::Leader) => self.talk.on_gone(now),
            Some(PeerId::Voter(id)) => {
                if let Some(council) = &mut self.council {
                    council.on_unreachable(id);
                }
            }
            None => {
                self.desk.close(link);
            }
        }
        self.settle(now, memory, effects);
    }

    /// A frame's head has arrived whole and unharmed. `Some` ends the connection; no frame here has a payload.
    pub fn on_head(
        &mut self,
        now: Nanos,
        link: Link,
        prefix: &Prefix,
        message: &[u8],
        memory: &mut impl Memory,
        effects: &mut Effects,
    ) -> Option<CloseReason> {
        let close = if prefix.payload_bytes > 0 {
            Some(CloseReason::Protocol)
        } else if let Some(peer) = self.peers.of(link) {
            self.on_peer_head(now, (link, peer), prefix, message, effects)
        } else if !self.desk.knows(link) || prefix.reply {
            Some(CloseReason::Protocol)
        } else {
            self.on_request(now, link, prefix, message, memory, effects)
        };
        if close.is_some() {
            // The driver closes it, and says so.
            self.forget(now, link);
        }
        self.settle(now, memory, effects);
        close
    }

    fn forget(&mut self, now: Nanos, link: Link) {
        if self.peers.on_close(now, link) == Some(PeerId::Leader) {
            self.talk.on_gone(now);
        }
        self.desk.close(link);
    }

    /// One of the voter's log's disk requests ended.
    pub fn on_io(
        &mut self,
        now: Nanos,
        io: IoToken,
        outcome: IoOutcome,
        memory: &mut impl Memory,
        effects: &mut Effects,
    ) {
        if let Some(council) = &mut self.council {
            council.on_io(now, (io, outcome), memory, effects);
        }
        self.settle(now, memory, effects);
    }

    /// No further event is at hand.
    pub fn on_turn(&mut self, now: Nanos, memory: &mut impl Memory, effects: &mut Effects) {
        if let Some(council) = &mut self.council {
            council.on_turn(now, memory, effects);
        }
        self.settle(now, memory, effects);
    }

    /// A deadline has come.
    pub fn on_tick(&mut self, now: Nanos, memory: &mut impl Memory, effects: &mut Effects) {
        if let Some(council) = &mut self.council {
            council.on_tick(now, memory, effects);
        }
        self.settle(now, memory, effects);
    }

    /// A map is stored durably.
    pub fn on_stored(
        &mut self,
        now: Nanos,
        number: MapNumber,
        memory: &mut impl Memory,
        effects: &mut Effects,
    ) {
        if self.follow.on_stored(number, effects) {
            self.talk.hurry();
        }
        self.settle(now, memory, effects);
    }

    /// A unit of the node follows a map.
    pub fn on_followed(
        &mut self,
        now: Nanos,
        unit: Unit,
        number: MapNumber,
        memory: &mut impl Memory,
        effects: &mut Effects,
    ) {
        if self.follow.on_followed(unit, number) {
            self.talk.hurry();
        }
        self.settle(now, memory, effects);
    }

    /// How a store is.
    pub fn on_beat(&mut self, beat: StoreBeat) {
        if self.reports.on_beat(beat) {
            self.talk.hurry();
        }
    }

    /// What a registration says of a store beside that: where its log ends, and its marks (cut, lacks), which go when everything is there again.
    pub fn on_store(&mut self, store: StoreId, log_end: LogEnd, marks: (bool, bool)) {
        self.reports.on_store(store, log_end, marks);
    }

    /// The stores that a unit needs and can't reach, all of them.
    pub fn on_suspects(&mut self, unit: Unit, stores: &[StoreId]) {
        let map = self.follow.edition().map();
        let nodes: BTreeSet<NodeId> =
            stores.iter().filter_map(|store| map.store(*store)).map(|store| store.node).collect();
        self.reports.on_suspects(unit, nodes);
    }

    /// A member of a chain has everything.
    pub fn on_synced(&mut self, synced: Synced) {
        self.reports.on_synced(synced);
        self.talk.hurry();
    }

    /// A learner follows its group's log closely, or not any more.
    pub fn on_caught_up(&mut self, caught_up: CaughtUp, is_so: bool) {
        self.reports.on_caught_up(caught_up, is_so);
        if is_so {
            self.talk.hurry();
        }
    }

    /// Syncing members that slow down chains whose heads a unit has, all of them.
    pub fn on_slow(&mut self, unit: Unit, slow: Vec<Slow>) {
        self.reports.on_slow(unit, slow);
    }

    /// The log that [`Effects::format_voter`] asked for, empty; `None`: it can't be made.
    pub fn on_voter_log(
        &mut self,
        now: Nanos,
        log: Option<Log>,
        memory: &mut impl Memory,
        effects: &mut Effects,
    ) {
        // What can't be made isn't asked for again in this life: each event would ask.
        let (Some(id), Some(log)) = (self.formatting, log) else { return };
        self.formatting = None;
        let id = VoterId { cluster: self.identity.cluster, id };
        let node = self.identity.node;
        let mut council =
            Council::new((node, id), log, VoterOrigin::Joining, Arc::clone(self.follow.edition()));
        council.start(now, memory, effects);
        self.council = Some(council);
        self.settle(now, memory, effects);
    }

    /// Ends in order ([`Note::Ended`]): the voter's log is closed.
    pub fn on_shutdown(&mut self, now: Nanos, memory: &mut impl Memory, effects: &mut Effects) {
        if std::mem::replace(&mut self.closing, true) {
            return;
        }
        match &mut self.council {
            Some(council) => council.on_shutdown(now, memory, effects),
            None => effects.notes.push(Note::Ended),
        }
        self.settle(now, memory, effects);
    }

    /// A frame from somebody whom the agent called.
    fn on_peer_head(
        &mut self,
        now: Nanos,
        (link, peer): (Link, PeerId),
        prefix: &Prefix,
        message: &[u8],
        effects: &mut Effects,
    ) -> Option<CloseReason> {
        if !prefix.reply {
            let Ok(Request::MapNews { number, update }) = Request::decode(prefix.kind, message) else {
                return Some(CloseReason::Protocol);
            };
            let newer = self.talk.on_news(number, update, self.follow.edition());
            self.take_map(newer, effects);
            return None;
        }
        match (prefix.kind, Reply::decode(prefix.kind, prefix.status, message)) {
            (FrameKind::Hello, Ok(Reply::Hello(hello))) => {
                if hello.node == self.identity.node && peer == PeerId::Leader {
                    return Some(CloseReason::Redial); // an old address of somebody else's, which is ours now
                }
                self.peers.on_greeted(peer);
                if peer == PeerId::Leader {
                    self.talk.on_number(hello.map);
                }
            }
            (FrameKind::Register, Ok(Reply::Register(reply))) => match *reply {
                Led::Elsewhere(Some(leader)) if self.is_stranger(leader) => self.look_for(now),
                reply => {
                    let from = self.node_at(link);
                    self.talk.on_registered(now, from, reply, effects);
                }
            },
            (FrameKind::Heartbeat, Ok(Reply::Heartbeat(reply))) => match reply {
                Led::Elsewhere(Some(leader)) if self.is_stranger(leader) => self.look_for(now),
                reply => self.talk.on_reply(now, &reply, effects),
            },
            (FrameKind::GetMap, Ok(Reply::Map { number, page, pages, bytes })) => {
                let newer = self.talk.on_page(number, (page, pages), bytes, self.follow.edition());
                self.take_map(newer, effects);
            }
            // Busy, starting, or of another cluster: somebody else may talk.
            _ => return Some(CloseReason::Redial),
        }
        None
    }

    /// Whether the map that there is doesn't say where this node is.
    fn is_stranger(&self, node: NodeId) -> bool {
        !self.follow.edition().map().as_map().nodes.iter().any(|known| known.node == node)
    }

    /// Somebody leads who joined since this node was there: the map of whoever said so tells where, if it is newer.
    fn look_for(&mut self, now: Nanos) {
        if self.talk.is_behind(self.follow.number()) {
            self.talk.wait_for_map(now);
        } else {
            self.talk.look_elsewhere(now, None);
        }
    }

    /// The node whose control port the leader's connection leads to.
    fn node_at(&self, link: Link) -> Option<NodeId> {
        let map = self.follow.edition().map().as_map();
        let address = self.peers.address_of(link)?;
        map.nodes.iter().find(|node| *node.control == **address).map(|node| node.node)
    }

    /// What somebody asks who has connected.
    fn on_request(
        &mut self,
        now: Nanos,
        link: Link,
        prefix: &Prefix,
        message: &[u8],
        memory: &mut impl Memory,
        effects: &mut Effects,
    ) -> Option<CloseReason> {
        let correlation = prefix.correlation;
        let asker = (prefix.kind, link, correlation);
        let request = match Request::decode(prefix.kind, message) {
            Ok(request) => request,
            Err(error) => {
                self.desk.refuse(asker, error.status(), effects);
                return None;
            }
        };
        match request {
            Request::Hello(hello) => {
                let number = self.follow.number();
                return self.desk.greet(&self.identity, (link, correlation), &hello, number, effects);
            }
            Request::GetMap { have, page } => {
                let edition = self.follow.edition();
                self.desk.on_get_map((link, correlation), edition, (have, page), effects);
            }
            _ if !self.desk.is_greeted(link) => return Some(CloseReason::Protocol),
            Request::Raft(bytes) => {
                if let Some(council) = &mut self.council
                    && !council.on_letter(now, bytes, memory, effects)
                {
                    return Some(CloseReason::Protocol);
                }
            }
            Request::Register(registration) => {
                if self.is_asked_as_leader(asker, effects)
                    && let Some(council) = &mut self.council
                {
                    match self.desk.ask(FrameKind::Register, Asker::Peer { link, correlation }) {
                        Some(token) => {
                            council.on_registration(now, (token, &registration), memory, effects);
                        }
                        None => self.desk.refuse(asker, Status::Busy, effects),
                    }
                }
            }
            Request::Heartbeat(heartbeat) => {
                if self.is_asked_as_leader(asker, effects)
                    && let Some(council) = &mut self.council
                {
                    let key = (heartbeat.node, heartbeat.life, heartbeat.sent);
                    self.desk.note_beat(key, Asker::Peer { link, correlation }, heartbeat.installed);
                    council.on_heartbeat(now, &heartbeat, memory, effects);
                }
            }
            Request::Manage(command) => self.on_command(now, asker, &command, memory, effects),
            _ => self.desk.refuse(asker, Status::Unsupported, effects),
        }
        None
    }

    fn on_command(
        &mut self,
        now: Nanos,
        asker: (FrameKind, Link, u64),
        command: &Command,
        memory: &mut impl Memory,
        effects: &mut Effects,
    ) {
        if !self.is_asked_as_leader(asker, effects) {
            return;
        }
        let Some(council) = &mut self.council else { return };
        let (kind, link, correlation) = asker;
        match self.desk.ask(kind, Asker::Peer { link, correlation }) {
            Some(token) => council.on_command(now, (token, command), memory, effects),
            None => self.desk.answer(link, correlation, Answer::Refused(Refusal::Busy), effects),
        }
    }

    /// Whether this node leads; others are told who does.
    fn is_asked_as_leader(&mut self, asker: (FrameKind, Link, u64), effects: &mut Effects) -> bool {
        if self.leads() {
            return true;
        }
        let known = self.council.as_ref().and_then(Council::leader).or(self.talk.leader);
        let leader = known.filter(|leader| *leader != self.identity.node);
        self.desk.send_elsewhere(asker, leader, effects);
        false
    }

    fn take_map(&mut self, newer: Option<Arc<Edition>>, effects: &mut Effects) {
        let Some(newer) = newer else { return };
        let number = newer.number();
        if self.follow.take(newer, effects) {
            effects.notes.push(Note::Map(number));
            let edition = Arc::clone(self.follow.edition());
            self.reports.on_map(edition.map());
        }
    }

    /// Takes in what the council has to say and says what is due, until nothing follows.
    fn settle(&mut self, now: Nanos, memory: &mut impl Memory, effects: &mut Effects) {
        loop {
            self.take_words(now, effects);
            if !self.talk_on(now, memory, effects) {
                break;
            }
        }
        if self.leads() {
            let edition = Arc::clone(self.follow.edition());
            self.desk.tell_news(&edition, effects);
        }
        self.look_at_votes(effects);
        self.talk.watch_lease(now, effects);
        let council = self.council.as_ref().map(Council::deadline);
        let wanted = [self.talk_deadline(), council];
        let next = wanted.into_iter().flatten().min().filter(|_| !self.closing || self.council.is_some());
        effects.deadline = next.map(|at| at.max(now.after(1)));
    }

    fn take_words(&mut self, now: Nanos, effects: &mut Effects) {
        let Some(council) = &mut self.council else { return };
        for word in std::mem::take(&mut council.words) {
            match word {
                CouncilWord::Letter { to, bytes } => self.send_letter(now, to, &bytes, effects),
                CouncilWord::Map(edition) => self.take_map(Some(edition), effects),
                CouncilWord::Registered(token, reply) => self.on_own_registered(now, token, reply, effects),
                CouncilWord::Beat(reply) => match self.desk.take_beat(&reply) {
                    Some(Asker::Own) => self.talk.on_reply(now, &Led::Here(reply), effects),
                    Some(Asker::Peer { link, correlation }) => {
                        self.desk.beat(link, correlation, reply, effects);
                    }
                    None => {}
                },
                CouncilWord::Answer(token, answer) => {
                    if let Some(Asker::Peer { link, correlation }) = self.desk.take_asked(token) {
                        self.desk.answer(link, correlation, answer, effects);
                    }
                }
                CouncilWord::Elected => {
                    self.peers.drop_peer(PeerId::Leader, effects);
                    self.talk.look_elsewhere(now, Some(self.identity.node));
                }
                CouncilWord::Deposed => {
                    let leader = self.council.as_ref().and_then(Council::leader);
                    self.desk.on_deposed(leader, effects);
                    self.talk.look_elsewhere(now, leader);
                }
            }
        }
    }

    fn on_own_registered(&mut self, now: Nanos, token: u64, reply: RegistrationReply, effects: &mut Effects) {
        match self.desk.take_asked(token) {
            Some(Asker::Own) => {
                let own = Some(self.identity.node);
                self.talk.on_registered(now, own, Led::Here(reply), effects);
            }
            Some(Asker::Peer { link, correlation }) => {
                self.desk.registered(link, correlation, reply, effects);
            }
            None => {}
        }
    }

    fn send_letter(&mut self, now: Nanos, to: u64, bytes: &[u8], effects: &mut Effects) {
        let nodes = &self.follow.edition().map().as_map().nodes;
        let Some(node) = nodes.iter().find(|node| node.voter == to && !node.control.is_empty()) else {
            return;
        };
        let address = Arc::from(node.control.as_str());
        match self.peers.reach(now, PeerId::Voter(to), &address, effects) {
            Some(link) => self.peers.send(link, 0, &Request::Raft(bytes), effects),
            // Lost: raft sends again. It is told, so that it doesn't fill a window for nobody.
            None => {
                if let Some(council) = &mut self.council {
                    council.on_unreachable(to);
                }
            }
        }
    }

    /// Says what is due to whoever leads; whether that may have led to something here.
    fn talk_on(&mut self, now: Nanos, memory: &mut impl Memory, effects: &mut Effects) -> bool {
        if self.closing {
            return false;
        }
        if self.talk.is_silent(now) || self.peers.is_given_up(now, PeerId::Leader) {
            self.peers.redial(now, PeerId::Leader, effects);
            self.talk.on_gone(now);
        }
        let installed = self.follow.installed();
        if self.leads() {
            let word = self.talk.next_word(now, &self.identity, installed, &mut self.reports);
            return word.is_some_and(|word| self.say_here(now, word, memory, effects));
        }
        let map = self.follow.edition().map();
        let Some(address) = self.talk.address(map, self.identity.node) else { return false };
        let Some(link) = self.peers.reach(now, PeerId::Leader, &address, effects) else { return false };
        if let Some(word) = self.talk.next_word(now, &self.identity, installed, &mut self.reports) {
            self.say(link, word, effects);
        }
        if let Some(word) = self.talk.next_page(self.follow.number()) {
            self.say(link, word, effects);
        }
        false
    }

    /// When there is something to say to whoever leads, or another way to them to be tried.
    fn talk_deadline(&self) -> Option<Nanos> {
        let due = self.talk.deadline();
        if self.leads() {
            return Some(due);
        }
        self.talk.address(self.follow.edition().map(), self.identity.node)?;
        Some(self.peers.wait_for(PeerId::Leader).map_or(due, |at| at.max(due)))
    }

    fn say(&mut self, link: Link, word: Word, effects: &mut Effects) {
        self.last_correlation += 1;
        let request = match word {
            Word::Register(registration) => Request::Register(registration),
            Word::Heartbeat(heartbeat) => Request::Heartbeat(heartbeat),
            Word::GetMap { have, page } => Request::GetMap { have, page },
        };
        self.peers.send(link, self.last_correlation, &request, effects);
    }

    /// This node leads: it talks to itself without a connection.
    fn say_here(&mut self, now: Nanos, word: Word, memory: &mut impl Memory, effects: &mut Effects) -> bool {
        let Some(council) = &mut self.council else { return false };
        match word {
            Word::Register(registration) => {
                if let Some(token) = self.desk.ask(FrameKind::Register, Asker::Own) {
                    council.on_registration(now, (token, &registration), memory, effects);
                } else {
                    let busy = RegistrationReply::Refused(RegistrationRefusal::Busy);
                    self.talk.on_registered(now, None, Led::Here(busy), effects);
                }
            }
            Word::Heartbeat(heartbeat) => {
                let key = (heartbeat.node, heartbeat.life, heartbeat.sent);
                self.desk.note_beat(key, Asker::Own, heartbeat.installed);
                council.on_heartbeat(now, &heartbeat, memory, effects);
            }
            Word::GetMap { .. } => return false, // its own voter has the newest
        }
        true
    }

    /// The map gives this node a vote that it has no log of: one is made. A vote whose log was lost is never taken up again (R35).
    fn look_at_votes(&mut self, effects: &mut Effects) {
        let map = self.follow.edition().map().as_map();
        let own = map.nodes.iter().find(|node| node.node == self.identity.node);
        let given = own.map_or(0, |node| node.voter);
        let voters: BTreeSet<u64> = map.nodes.iter().map(|node| node.voter).collect();
        self.peers.retain_voters(|voter| voters.contains(&voter), effects);
        let has = self.council.as_ref().map_or(0, |council| council.id().id);
        if given != 0 && given != has && self.formatting != Some(given) && !self.closing {
            self.formatting = Some(given);
            effects.format_voter = Some(given);
        }
    }
}
