//! Clients' connections: who was greeted, what each has asked, and replies as frames.

use std::collections::BTreeMap;

use replica::Body;
use wire::message::{Encoder, Hello, HelloReply, PayloadMeta, Reply, ReplyHead, Role};
use wire::meta::Refusal;
use wire::{FrameKind, Load, MapNumber, Status};

use crate::effects::{CloseReason, Effects, Link};
use crate::member::Identity;

/// Where a reply goes and what it answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Caller {
    pub(crate) link: Link,
    pub(crate) kind: FrameKind,
    pub(crate) correlation: u64,
}

#[derive(Debug, Default)]
struct LinkState {
    /// `Hello` was answered.
    greeted: bool,
    /// Kind of each request that the replica has: its reply has the same.
    asked: BTreeMap<u64, FrameKind>,
}

/// The connections, and the encoder of what is sent to them.
#[derive(Debug)]
pub(crate) struct Links {
    identity: Identity,
    states: BTreeMap<Link, LinkState>,
    encoder: Encoder,
}

impl Links {
    pub(crate) fn new(identity: Identity) -> Self {
        Self { identity, states: BTreeMap::new(), encoder: Encoder::new() }
    }

    pub(crate) fn open(&mut self, link: Link) {
        let previous = self.states.insert(link, LinkState::default());
        assert!(previous.is_none(), "the driver opened a connection twice");
    }

    /// Whether it was one of these; its answers aren't wanted any more.
    pub(crate) fn close(&mut self, link: Link) -> bool {
        self.states.remove(&link).is_some()
    }

    /// Whether it is one of these.
    pub(crate) fn knows(&self, link: Link) -> bool {
        self.states.contains_key(&link)
    }

    pub(crate) fn is_greeted(&self, link: Link) -> bool {
        self.states.get(&link).is_some_and(|state| state.greeted)
    }

    /// Remembers a request that the replica is given; false: its correlation id is in use.
    pub(crate) fn ask(&mut self, caller: Caller) -> bool {
        let state = self.states.get_mut(&caller.link);
        state.is_some_and(|state| state.asked.insert(caller.correlation, caller.kind).is_none())
    }

    /// Answers a `Hello`; `Some` ends the connection.
    pub(crate) fn greet(
        &mut self,
        caller: Caller,
        hello: &Hello,
        map: MapNumber,
        effects: &mut Effects,
    ) -> Option<CloseReason> {
        let Identity { cluster, node, group, links_max, .. } = self.identity;
        let reply = match hello.accept(cluster, node, Role::Metadata(group)) {
            Ok(reply) => HelloReply { map, ..reply },
            Err(status) => {
                self.refuse(caller, status, effects);
                return Some(CloseReason::Mismatch);
            }
        };
        if self.states.len() > links_max as usize {
            self.refuse(caller, Status::Busy, effects);
            return Some(CloseReason::TooMany);
        }
        if let Some(state) = self.states.get_mut(&caller.link) {
            state.greeted = true;
        }
        self.send(caller, Status::Ok, &Reply::Hello(reply), effects);
        None
    }

    /// Answers with what the replica says, if anybody still listens.
    pub(crate) fn answer(
        &mut self,
        link: Link,
        correlation: u64,
        status: Status,
        body: &Body,
        effects: &mut Effects,
    ) {
        let Some(kind) = self.states.get_mut(&link).and_then(|state| state.asked.remove(&correlation)) else {
            return;
        };
        let reply = match body {
            Body::Session(grant) => Reply::Session(*grant),
            Body::Outcome(outcome) => Reply::Mutate(*outcome),
            Body::Answer(answer) => Reply::Answer(answer.clone()),
            Body::Refusal(refusal) => Reply::Refused(*refusal),
            Body::Empty if kind == FrameKind::KeepAlive => Reply::KeepAlive,
            Body::Empty => Reply::CloseSession,
        };
        self.send(Caller { link, kind, correlation }, status, &reply, effects);
    }

    /// Says why not.
    pub(crate) fn refuse(&mut self, caller: Caller, status: Status, effects: &mut Effects) {
        let retry_after_ms = if status == Status::Busy { replica::RETRY_AFTER_MS } else { 0 };
        let reply = Reply::Refused(Refusal { retry_after_ms, ..Refusal::default() });
        self.send(caller, status, &reply, effects);
    }

    pub(crate) fn send(&mut self, caller: Caller, status: Status, reply: &Reply<'_>, effects: &mut Effects) {
        let Caller { link, kind, correlation } = caller;
        let head = ReplyHead { kind, correlation, status, load: Load::default(), more: false };
        let encoder = &mut self.encoder;
        effects.send(link, |bytes| encoder.reply(bytes, head, reply, PayloadMeta::default()));
    }
}
