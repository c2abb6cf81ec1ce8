//! Whoever comes to this node's control port: nodes that register and live, voters, operators.
//!
//! Answers come when the membership has them: a heartbeat's after a majority has confirmed the leader (R18), a command's after its change was applied. Who
//! asked is remembered here, within limits.

use std::collections::BTreeMap;

use placement::Edition;
use wire::control::{Answer, HeartbeatReply, Led, Life, RegistrationReply};
use wire::message::{Encoder, Hello, HelloReply, PayloadMeta, Reply, ReplyHead, Request, RequestHead, Role};
use wire::meta::Refusal;
use wire::{FrameKind, Load, MapNumber, Nanos, NodeId, Status};

use crate::agent::Identity;
use crate::effects::{CloseReason, Effects, Link};

/// Registrations and commands that wait for an answer, and heartbeats that do (I13).
const ASKED_MAX: usize = 8_192;
/// An update that is sent unasked has at most so many bytes; whoever needs more asks for it.
const UPDATE_BYTES_MAX: usize = 256 << 10;

/// Who asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asker {
    /// This node itself.
    Own,
    /// A peer's request.
    Peer {
        /// Its connection.
        link: Link,
        /// The request's.
        correlation: u64,
    },
}

#[derive(Debug, Default)]
struct State {
    greeted: bool,
    /// The node that lives at the other end, and the newest map it was told of.
    node: Option<(NodeId, MapNumber)>,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Desk {
    links: BTreeMap<Link, State>,
    asked: BTreeMap<u64, (FrameKind, Asker)>,
    /// Heartbeats without an answer, by node, life and the time that they carry.
    beats: BTreeMap<(NodeId, Life, Nanos), Asker>,
    last_token: u64,
    encoder: Encoder,
}

impl Desk {
    pub(crate) fn open(&mut self, link: Link) {
        let previous = self.links.insert(link, State::default());
        assert!(previous.is_none(), "the driver opened a connection twice");
    }

    /// Whether it was one of these.
    pub(crate) fn close(&mut self, link: Link) -> bool {
        let is_its = |asker: &Asker| matches!(asker, Asker::Peer { link: its, .. } if *its == link);
        self.asked.retain(|_, (_, asker)| !is_its(asker));
        self.beats.retain(|_, asker| !is_its(asker));
        self.links.remove(&link).is_some()
    }

    pub(crate) fn knows(&self, link: Link) -> bool {
        self.links.contains_key(&link)
    }

    pub(crate) fn is_greeted(&self, link: Link) -> bool {
        self.links.get(&link).is_some_and(|state| state.greeted)
    }

    /// Answers a `Hello`; `Some` ends the connection.
    pub(crate) fn greet(
        &mut self,
        identity: &Identity,
        (link, correlation): (Link, u64),
        hello: &Hello,
        map: MapNumber,
        effects: &mut Effects,
    ) -> Option<CloseReason> {
        let asker = (FrameKind::Hello, link, correlation);
        let reply = match hello.accept(identity.cluster, identity.node, Role::Control) {
            Ok(reply) => HelloReply { map, ..reply },
            Err(status) => {
                self.refuse(asker, status, effects);
                return Some(CloseReason::Mismatch);
            }
        };
        if self.links.len() > identity.links_max as usize {
            self.refuse(asker, Status::Busy, effects);
            return Some(CloseReason::TooMany);
        }
        if let Some(state) = self.links.get_mut(&link) {
            state.greeted = true;
        }
        self.reply(asker, &Reply::Hello(reply), effects);
        None
    }

    /// A page of the map.
    pub(crate) fn on_get_map(
        &mut self,
        (link, correlation): (Link, u64),
        edition: &Edition,
        (have, page): (MapNumber, u32),
        effects: &mut Effects,
    ) {
        let asker = (FrameKind::GetMap, link, correlation);
        match edition.page(have, page) {
            Some(reply) => self.reply(asker, &reply, effects),
            None => self.refuse(asker, Status::BadRequest, effects),
        }
    }

    /// A token under which the answer to a registration or command comes; `None`: too many wait.
    pub(crate) fn ask(&mut self, kind: FrameKind, asker: Asker) -> Option<u64> {
        if self.asked.len() >= ASKED_MAX {
            return None;
        }
        self.last_token += 1;
        self.asked.insert(self.last_token, (kind, asker));
        Some(self.last_token)
    }

    /// Remembers who sent a heartbeat. Of a node that sends more than are answered the oldest are forgotten.
    pub(crate) fn note_beat(&mut self, key: (NodeId, Life, Nanos), asker: Asker, map: MapNumber) {
        if self.beats.len() >= ASKED_MAX {
            self.beats.pop_first();
        }
        self.beats.insert(key, asker);
        if let Asker::Peer { link, .. } = asker
            && let Some(state) = self.links.get_mut(&link)
        {
            let told = state.node.map_or(map, |(_, told)| told.max(map));
            state.node = Some((key.0, told));
        }
    }

    /// Whose heartbeat is answered; heartbeats that are older than it need no answer any more.
    pub(crate) fn take_beat(&mut self, reply: &HeartbeatReply) -> Option<Asker> {
        let HeartbeatReply { node, life, sent, .. } = *reply;
        let found = self.beats.remove(&(node, life, sent));
        let older: Vec<_> = self.beats.range((node, life, Nanos(0))..(node, life, sent)).collect();
        let older: Vec<_> = older.into_iter().map(|(key, _)| *key).collect();
        for key in older {
            self.beats.remove(&key);
        }
        found
    }

    /// Whose registration or command is answered.
    pub(crate) fn take_asked(&mut self, token: u64) -> Option<Asker> {
        self.asked.remove(&token).map(|(_, asker)| asker)
    }

    /// This node doesn't lead any more: what waits is answered elsewhere, or nobody knows.
    pub(crate) fn on_deposed(&mut self, leader: Option<NodeId>, effects: &mut Effects) {
        let beats = std::mem::take(&mut self.beats).into_values();
        let beats = beats.map(|asker| (FrameKind::Heartbeat, asker));
        let asked: Vec<_> = std::mem::take(&mut self.asked).into_values().chain(beats).collect();
        for (kind, asker) in asked {
            let Asker::Peer { link, correlation } = asker else { continue };
            match kind {
                FrameKind::Manage => {
                    let refusal = Answer::Refused(wire::control::Refusal::Unknown);
                    self.answer(link, correlation, refusal, effects);
                }
                kind => self.send_elsewhere((kind, link, correlation), leader, effects),
            }
        }
        for state in self.links.values_mut() {
            state.node = None;
        }
    }

    /// Says who leads instead.
    pub(crate) fn send_elsewhere(
        &mut self,
        asker: (FrameKind, Link, u64),
        leader: Option<NodeId>,
        effects: &mut Effects,
    ) {
        match asker.0 {
            FrameKind::Register => {
                self.reply(asker, &Reply::Register(Box::new(Led::Elsewhere(leader))), effects);
            }
            FrameKind::Heartbeat => self.reply(asker, &Reply::Heartbeat(Led::Elsewhere(leader)), effects),
            _ => {
                let refusal = wire::control::Refusal::NotLeader(leader);
                self.reply(asker, &Reply::Managed(Box::new(Answer::Refused(refusal))), effects);
            }
        }
    }

    pub(crate) fn registered(
        &mut self,
        link: Link,
        correlation: u64,
        reply: RegistrationReply,
        effects: &mut Effects,
    ) {
        let reply = Reply::Register(Box::new(Led::Here(reply)));
        self.reply((FrameKind::Register, link, correlation), &reply, effects);
    }

    pub(crate) fn beat(
        &mut self,
        link: Link,
        correlation: u64,
        reply: HeartbeatReply,
        effects: &mut Effects,
    ) {
        let reply = Reply::Heartbeat(Led::Here(reply));
        self.reply((FrameKind::Heartbeat, link, correlation), &reply, effects);
    }

    pub(crate) fn answer(&mut self, link: Link, correlation: u64, answer: Answer, effects: &mut Effects) {
        self.reply((FrameKind::Manage, link, correlation), &Reply::Managed(Box::new(answer)), effects);
    }

    /// Tells every node that lives here of a new map, and what changed, so that a change of a chain takes milliseconds.
    pub(crate) fn tell_news(&mut self, edition: &Edition, effects: &mut Effects) {
        let number = edition.number();
        let encoder = &mut self.encoder;
        for (link, state) in &mut self.links {
            let Some((_, told)) = &mut state.node else { continue };
            if *told >= number {
                continue;
            }
            let bytes = edition.bytes_since(*told);
            let update = if bytes.len() <= UPDATE_BYTES_MAX { bytes } else { &[] };
            *told = number;
            let news = Request::MapNews { number, update };
            effects.send(*link, |out| {
                encoder.request(out, RequestHead::default(), &news, PayloadMeta::default());
            });
        }
    }

    fn reply(
        &mut self,
        (kind, link, correlation): (FrameKind, Link, u64),
        reply: &Reply<'_>,
        effects: &mut Effects,
    ) {
        let head = ReplyHead { kind, correlation, status: Status::Ok, load: Load::default(), more: false };
        let encoder = &mut self.encoder;
        effects.send(link, |out| encoder.reply(out, head, reply, PayloadMeta::default()));
    }

    pub(crate) fn refuse(
        &mut self,
        (kind, link, correlation): (FrameKind, Link, u64),
        status: Status,
        effects: &mut Effects,
    ) {
        let head = ReplyHead { kind, correlation, status, load: Load::default(), more: false };
        let encoder = &mut self.encoder;
        let reply = Reply::Refused(Refusal::default());
        effects.send(link, |out| encoder.reply(out, head, &reply, PayloadMeta::default()));
    }
}
