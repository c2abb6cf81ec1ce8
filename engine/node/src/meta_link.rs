//! The metadata replica's connections: greeting, and replies as frames.

use std::collections::BTreeMap;

use replica::Body;
use runtime::{CloseReason, Io, LinkId, SendRefused};
use tracing::debug;
use wire::message::{Encoder, Hello, HelloReply, PayloadMeta, Reply, ReplyHead, Role};
use wire::meta::Refusal;
use wire::{ClusterId, FrameKind, GroupId, Load, MapNumber, NodeId, PROTOCOL_VERSION, Status};

/// A request's connection, kind and correlation id.
pub(crate) type Caller = (LinkId, FrameKind, u64);

/// Which connections are open, and which were greeted.
#[derive(Debug)]
pub(crate) struct Greeter {
    cluster: ClusterId,
    node: NodeId,
    group: GroupId,
    links_max: usize,
    greeted: BTreeMap<LinkId, bool>,
}

impl Greeter {
    pub(crate) fn new(cluster: ClusterId, node: NodeId, group: GroupId, links_max: u32) -> Self {
        Self { cluster, node, group, links_max: links_max as usize, greeted: BTreeMap::new() }
    }

    pub(crate) fn open(&mut self, link: LinkId) {
        self.greeted.insert(link, false);
    }

    pub(crate) fn close(&mut self, link: LinkId) {
        self.greeted.remove(&link);
    }

    pub(crate) fn is_greeted(&self, link: LinkId) -> bool {
        self.greeted.get(&link) == Some(&true)
    }

    /// Answers a `Hello`; `Some` ends the connection.
    pub(crate) fn greet(
        &mut self,
        io: &mut Io,
        caller: Caller,
        hello: &Hello,
        map: MapNumber,
        replier: &mut MetaReplier,
    ) -> Option<CloseReason> {
        let refused = if !(hello.version_min..=hello.version_max).contains(&PROTOCOL_VERSION) {
            Some(Status::UnsupportedVersion)
        } else if hello.cluster.is_some_and(|cluster| cluster != self.cluster) {
            Some(Status::WrongCluster)
        } else if self.greeted.len() > self.links_max {
            Some(Status::Busy)
        } else {
            None
        };
        if let Some(status) = refused {
            replier.refuse(io, caller, status);
            return Some(CloseReason::Local);
        }
        self.greeted.insert(caller.0, true);
        let reply = HelloReply {
            version: PROTOCOL_VERSION,
            features: hello.features & wire::message::FEATURES,
            cluster: self.cluster,
            node: self.node,
            role: Role::Metadata(self.group),
            map,
            put_credit_bytes: 0,
            server: concat!("catena ", env!("CARGO_PKG_VERSION")).into(),
        };
        replier.send(io, caller, Status::Ok, &Reply::Hello(reply));
        None
    }
}

/// Encodes and sends replies.
#[derive(Debug, Default)]
pub(crate) struct MetaReplier {
    encoder: Encoder,
    out: Vec<u8>,
}

impl MetaReplier {
    /// Answers with what the replica says.
    pub(crate) fn reply(
        &mut self,
        io: &mut Io,
        link: LinkId,
        kind: FrameKind,
        correlation: u64,
        status: Status,
        body: &Body,
    ) {
        let reply = match body {
            Body::Session(grant) => Reply::Session(*grant),
            Body::Outcome(outcome) => Reply::Mutate(*outcome),
            Body::Answer(answer) => Reply::Answer(answer.clone()),
            Body::Refusal(refusal) => Reply::Refused(*refusal),
            Body::Empty if kind == FrameKind::KeepAlive => Reply::KeepAlive,
            Body::Empty => Reply::CloseSession,
        };
        self.send(io, (link, kind, correlation), status, &reply);
    }

    /// Says why not.
    pub(crate) fn refuse(&mut self, io: &mut Io, caller: Caller, status: Status) {
        let retry_after_ms = if status == Status::Busy { replica::RETRY_AFTER_MS } else { 0 };
        self.send(io, caller, status, &Reply::Refused(Refusal { retry_after_ms, ..Refusal::default() }));
    }

    /// Answers with a page of the map.
    pub(crate) fn map_page(
        &mut self,
        io: &mut Io,
        caller: Caller,
        map: (MapNumber, &[u8]),
        have: MapNumber,
        page: u32,
    ) {
        match shard::map_page(map.0, map.1, have, page) {
            Some(reply) => self.send(io, caller, Status::Ok, &reply),
            None => self.refuse(io, caller, Status::BadRequest),
        }
    }

    pub(crate) fn send(&mut self, io: &mut Io, caller: Caller, status: Status, reply: &Reply<'_>) {
        let (link, kind, correlation) = caller;
        let head = ReplyHead { kind, correlation, status, load: Load::default(), more: false };
        self.out.clear();
        self.encoder.reply(&mut self.out, head, reply, PayloadMeta::default());
        match io.send(link, &self.out, None, None) {
            Ok(()) => {}
            Err(SendRefused::Full) => io.close(link, CloseReason::SlowReader),
            Err(SendRefused::Closed) => debug!(link = link.to_u64(), "the asker is gone"),
        }
    }
}
