//! What the metadata replica asks of the stores: deletes of reclaimed chunks (R24) and pages of their inventories (R2).
//!
//! It goes over connections like any client's, since a chunk's store may be on another node. A call that is lost is the replica's to repeat.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;

use placement::ClusterMap;
use runtime::{Io, LinkId};
use tracing::{debug, warn};
use wire::limits::MESSAGE_CHUNKS_MAX;
use wire::message::{ChunkIds, Encoder, Hello, PayloadMeta, Reply, Request, RequestHead};
use wire::{ChunkId, Nanos, PROTOCOL_VERSION, Prefix, Status};

/// A connection that can't be had is tried again after this.
const RECONNECT_NANOS: u64 = Nanos::SECOND;
/// Calls that wait for a connection; further ones are dropped, which the replica repeats.
const WAITING_MAX: usize = 1024;

/// What a store answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Answered {
    /// All stores have deleted these chunks durably.
    Deleted {
        /// The first.
        first: ChunkId,
        /// How many.
        count: u32,
    },
    /// A page of an inventory.
    Inventory {
        /// The store, by its index in the map.
        source: u16,
        /// Its ids.
        ids: Vec<ChunkId>,
        /// Whether none follow.
        end: bool,
    },
}

#[derive(Clone, Debug)]
enum Call {
    Delete { delete: u64, ids: Vec<ChunkId> },
    Inventory { source: u16, after: Option<ChunkId> },
}

#[derive(Debug, Default)]
struct Peer {
    address: String,
    link: Option<LinkId>,
    greeted: bool,
    retry_at: Nanos,
    waiting: VecDeque<Call>,
    asked: BTreeMap<u64, Call>,
}

#[derive(Clone, Copy, Debug)]
struct Delete {
    first: ChunkId,
    count: u32,
    stores: u32,
    orphans: bool,
}

/// The calls under way, and the connections they go over: one for each store of the map.
#[derive(Debug, Default)]
pub(crate) struct StoreCalls {
    peers: Vec<Peer>,
    deletes: BTreeMap<u64, Delete>,
    next: u64,
    encoder: Encoder,
    out: Vec<u8>,
}

impl StoreCalls {
    /// The map's stores, by their indices there.
    pub(crate) fn on_map(&mut self, io: &mut Io, map: &ClusterMap) {
        for (index, store) in map.as_map().stores.iter().enumerate() {
            if self.peers.len() <= index {
                self.peers.push(Peer::default());
            }
            let peer = &mut self.peers[index];
            if peer.address != store.address {
                peer.address.clone_from(&store.address);
                if let Some(link) = peer.link.take() {
                    io.close(link, runtime::CloseReason::Local);
                }
            }
        }
    }

    /// Deletes `count` chunks from `first` on, wherever they are.
    pub(crate) fn delete(
        &mut self,
        io: &mut Io,
        map: &ClusterMap,
        first: ChunkId,
        count: u32,
        orphans: bool,
    ) {
        let mut by_store: BTreeMap<u16, Vec<ChunkId>> = BTreeMap::new();
        for step in 0..u64::from(count) {
            let id = ChunkId { session: first.session, ordinal: first.ordinal + step };
            for member in map.route(id).members {
                by_store.entry(member.store).or_default().push(id);
            }
        }
        let delete = self.next;
        self.next += 1;
        let mut stores = 0;
        for (store, ids) in by_store {
            for part in ids.chunks(MESSAGE_CHUNKS_MAX) {
                stores += 1;
                self.call(io, map, store, Call::Delete { delete, ids: part.to_vec() });
            }
        }
        self.deletes.insert(delete, Delete { first, count, stores, orphans });
    }

    /// Asks store `source` for the ids after `after`.
    pub(crate) fn inventory(&mut self, io: &mut Io, map: &ClusterMap, source: u16, after: Option<ChunkId>) {
        self.call(io, map, source, Call::Inventory { source, after });
    }

    fn call(&mut self, io: &mut Io, map: &ClusterMap, store: u16, call: Call) {
        let Some(peer) = self.peers.get_mut(usize::from(store)) else {
            return;
        };
        if peer.waiting.len() >= WAITING_MAX {
            warn!(store, "too many deletes wait for this store: the group asks again later");
            self.abandon(&call);
            return;
        }
        peer.waiting.push_back(call);
        self.proceed(io, usize::from(store), map);
    }

    /// Connects where calls wait for it, and sends where a connection is greeted.
    pub(crate) fn on_turn(&mut self, io: &mut Io, map: &ClusterMap) {
        for index in 0..self.peers.len() {
            if !self.peers[index].waiting.is_empty() {
                self.proceed(io, index, map);
            }
        }
    }

    fn proceed(&mut self, io: &mut Io, index: usize, map: &ClusterMap) {
        let peer = &mut self.peers[index];
        let Some(link) = peer.link else {
            if io.now() >= peer.retry_at {
                peer.retry_at = io.now().after(RECONNECT_NANOS);
                peer.link =
                    peer.address.parse::<SocketAddr>().ok().and_then(|address| io.connect(address).ok());
                peer.greeted = false;
            }
            return;
        };
        if !peer.greeted {
            return;
        }
        while let Some(call) = peer.waiting.pop_front() {
            let correlation = self.next;
            self.next += 1;
            let head = RequestHead { correlation, deadline_ms: 0 };
            self.out.clear();
            let request = match &call {
                Call::Delete { ids, .. } => {
                    Request::DeleteChunks { map: map.number(), ids: ChunkIds::new(ids) }
                }
                Call::Inventory { after, .. } => Request::Inventory { after: *after, limit: INVENTORY_LIMIT },
            };
            self.encoder.request(&mut self.out, head, &request, PayloadMeta::default());
            if io.send(link, &self.out, None, None).is_err() {
                peer.waiting.push_front(call);
                return;
            }
            peer.asked.insert(correlation, call);
        }
    }

    /// Whether this connection is one of these; greets the peer if so.
    pub(crate) fn on_open(&mut self, io: &mut Io, link: LinkId, map: &ClusterMap) -> bool {
        if !self.peers.iter().any(|peer| peer.link == Some(link)) {
            return false;
        }
        let hello = Hello {
            version_min: PROTOCOL_VERSION,
            version_max: PROTOCOL_VERSION,
            features: wire::message::FEATURES,
            name: "metadata group 0".into(),
            cluster: Some(map.cluster()),
        };
        self.out.clear();
        self.encoder.request(
            &mut self.out,
            RequestHead::default(),
            &Request::Hello(hello),
            PayloadMeta::default(),
        );
        if let Err(error) = io.send(link, &self.out, None, None) {
            debug!(%error, "a store's connection closed at once");
        }
        true
    }

    /// Whether this connection is one of these: its answer is taken in.
    pub(crate) fn on_reply(
        &mut self,
        io: &mut Io,
        link: LinkId,
        prefix: &Prefix,
        message: &[u8],
        map: &ClusterMap,
        answered: &mut Vec<Answered>,
    ) -> bool {
        let Some(index) = self.peers.iter().position(|peer| peer.link == Some(link)) else {
            return false;
        };
        if !prefix.reply {
            return true;
        }
        match Reply::decode(prefix.kind, prefix.status, message) {
            Ok(Reply::Hello(_)) => {
                self.peers[index].greeted = true;
                self.proceed(io, index, map);
            }
            Ok(reply) => {
                if let Some(call) = self.peers[index].asked.remove(&prefix.correlation) {
                    self.on_answer(&call, &reply, prefix.status, answered);
                }
            }
            Err(error) => {
                warn!(%error, "a store's answer can't be read");
                io.close(link, runtime::CloseReason::Protocol);
            }
        }
        true
    }

    fn on_answer(&mut self, call: &Call, reply: &Reply<'_>, status: Status, answered: &mut Vec<Answered>) {
        match (call, reply) {
            (Call::Delete { delete, .. }, Reply::DeleteChunks) => {
                let Some(state) = self.deletes.get_mut(delete) else {
                    return;
                };
                state.stores -= 1;
                if state.stores == 0 {
                    let Delete { first, count, orphans, .. } = *state;
                    self.deletes.remove(delete);
                    if !orphans {
                        answered.push(Answered::Deleted { first, count });
                    }
                }
            }
            (Call::Inventory { source, .. }, Reply::Inventory { ids, end }) => {
                answered.push(Answered::Inventory { source: *source, ids: ids.iter().collect(), end: *end });
            }
            _ => {
                debug!(%status, "a store refused; the group asks again later");
                self.abandon(call);
            }
        }
    }

    /// A call that gets no answer; the replica repeats it.
    fn abandon(&mut self, call: &Call) {
        if let Call::Delete { delete, .. } = call {
            self.deletes.remove(delete);
        }
    }

    /// Whether this connection was one of these; what was asked over it has no answer.
    pub(crate) fn on_close(&mut self, link: LinkId) -> bool {
        let Some(index) = self.peers.iter().position(|peer| peer.link == Some(link)) else {
            return false;
        };
        let peer = &mut self.peers[index];
        peer.link = None;
        peer.greeted = false;
        let lost: BTreeSet<u64> = std::mem::take(&mut peer.asked)
            .into_values()
            .filter_map(|call| match call {
                Call::Delete { delete, .. } => Some(delete),
                Call::Inventory { .. } => None,
            })
            .collect();
        self.deletes.retain(|delete, _| !lost.contains(delete));
        true
    }
}

const INVENTORY_LIMIT: u32 = 4096;
const _: () = assert!(INVENTORY_LIMIT as usize == MESSAGE_CHUNKS_MAX);
