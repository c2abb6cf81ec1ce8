//! What a metadata replica asks of the stores, over connections like any client's: deletes of reclaimed chunks (R24), pages of inventories.
//! A call that is lost is the replica's to repeat.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use placement::ClusterMap;
use wire::limits::MESSAGE_CHUNKS_MAX;
use wire::message::{ChunkIds, Encoder, Hello, PayloadMeta, Reply, Request, RequestHead};
use wire::{ChunkId, Nanos, PREFIX_BYTES, PROTOCOL_VERSION, Prefix};

use crate::network::Connection;
use crate::unit::{Out, Outgoing};

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
        /// The store.
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

#[derive(Debug)]
struct Peer {
    address: Arc<str>,
    is_called: bool,
    connection: Option<Connection>,
    is_greeted: bool,
    retry_at: Nanos,
    waiting: VecDeque<Call>,
    asked: BTreeMap<u64, Call>,
}

#[derive(Clone, Copy, Debug)]
struct Delete {
    first: ChunkId,
    count: u32,
    parts: usize,
    orphans: bool,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct StoreCalls {
    map: Arc<ClusterMap>,
    peers: Vec<Peer>,
    deletes: BTreeMap<u64, Delete>,
    last: u64,
    encoder: Encoder,
}

/// Nanoseconds until a connection that was lost is tried again.
const RETRY: u64 = 100 * Nanos::MILLISECOND;

impl StoreCalls {
    /// Nothing is asked yet.
    pub(crate) fn new(map: Arc<ClusterMap>) -> Self {
        let peer = |store: &wire::map::Store| Peer {
            address: Arc::from(store.address.as_str()),
            is_called: false,
            connection: None,
            is_greeted: false,
            retry_at: Nanos(0),
            waiting: VecDeque::new(),
            asked: BTreeMap::new(),
        };
        let peers = map.as_map().stores.iter().map(peer).collect();
        Self { map, peers, deletes: BTreeMap::new(), last: 0, encoder: Encoder::new() }
    }

    /// Deletes `count` chunks from `first` on, wherever they are.
    pub(crate) fn delete(&mut self, now: Nanos, first: ChunkId, count: u32, orphans: bool, out: &mut Out) {
        let mut by_store: BTreeMap<usize, Vec<ChunkId>> = BTreeMap::new();
        for step in 0..u64::from(count) {
            let id = ChunkId { session: first.session, ordinal: first.ordinal + step };
            for member in self.map.route(id).members {
                by_store.entry(usize::from(member.store)).or_default().push(id);
            }
        }
        self.last += 1;
        let delete = self.last;
        let mut parts = 0;
        for (store, ids) in by_store {
            for part in ids.chunks(MESSAGE_CHUNKS_MAX) {
                parts += 1;
                self.peers[store].waiting.push_back(Call::Delete { delete, ids: part.to_vec() });
            }
        }
        self.deletes.insert(delete, Delete { first, count, parts, orphans });
        self.proceed(now, out);
    }

    /// Asks a store for the ids after `after`.
    pub(crate) fn inventory(&mut self, now: Nanos, source: u16, after: Option<ChunkId>, out: &mut Out) {
        self.peers[usize::from(source)].waiting.push_back(Call::Inventory { source, after });
        self.proceed(now, out);
    }

    /// The peer whose connection it is.
    fn peer_of(&self, connection: Connection) -> Option<usize> {
        self.peers.iter().position(|peer| peer.connection == Some(connection))
    }

    /// A call that was asked for got its connection's number.
    pub(crate) fn on_called(&mut self, peer: usize, connection: Connection) {
        self.peers[peer].connection = Some(connection);
    }

    /// A connection stands: greet.
    pub(crate) fn on_up(&mut self, connection: Connection, out: &mut Out) {
        if self.peer_of(connection).is_none() {
            return;
        }
        let hello = Request::Hello(Hello {
            version_min: PROTOCOL_VERSION,
            version_max: PROTOCOL_VERSION,
            features: 0,
            name: "group 0".to_owned(),
            cluster: Some(self.map.cluster()),
        });
        self.send(connection, 0, &hello, out);
    }

    /// A connection is over: what was asked over it is the replica's to repeat.
    pub(crate) fn on_down(&mut self, now: Nanos, connection: Connection) {
        let Some(peer) = self.peer_of(connection) else { return };
        let peer = &mut self.peers[peer];
        (peer.connection, peer.is_called, peer.is_greeted) = (None, false, false);
        peer.retry_at = now.after(RETRY);
        let lost = std::mem::take(&mut peer.asked);
        for call in lost.into_values() {
            self.give_up(&call);
        }
    }

    fn give_up(&mut self, call: &Call) {
        if let Call::Delete { delete, .. } = call {
            self.deletes.remove(delete);
        }
    }

    /// A reply arrived.
    pub(crate) fn on_head(
        &mut self,
        now: Nanos,
        connection: Connection,
        head: &[u8],
        out: &mut Out,
    ) -> Option<Answered> {
        let peer = self.peer_of(connection)?;
        let (bytes, message) =
            head.split_first_chunk::<PREFIX_BYTES>().expect("a frame begins with a prefix");
        let prefix = Prefix::decode(bytes).expect("the simulated network doesn't damage heads");
        let reply =
            Reply::decode(prefix.kind, prefix.status, message).expect("a shard's reply is well-formed");
        if let Reply::Hello(_) = reply {
            self.peers[peer].is_greeted = true;
            self.proceed(now, out);
            return None;
        }
        let call = self.peers[peer].asked.remove(&prefix.correlation)?;
        match (reply, call) {
            (Reply::DeleteChunks, Call::Delete { delete, .. }) => {
                let entry = self.deletes.get_mut(&delete)?;
                entry.parts -= 1;
                if entry.parts > 0 {
                    return None;
                }
                let Delete { first, count, orphans, .. } = self.deletes.remove(&delete)?;
                (!orphans).then_some(Answered::Deleted { first, count })
            }
            (Reply::Inventory { ids, end }, Call::Inventory { source, .. }) => {
                Some(Answered::Inventory { source, ids: ids.iter().collect(), end })
            }
            (_, call) => {
                self.give_up(&call);
                None
            }
        }
    }

    /// Connects where something waits, and sends where a connection is greeted.
    pub(crate) fn proceed(&mut self, now: Nanos, out: &mut Out) {
        for index in 0..self.peers.len() {
            let peer = &mut self.peers[index];
            if peer.waiting.is_empty() {
                continue;
            }
            match peer.connection {
                Some(connection) if peer.is_greeted => {
                    while let Some(call) = self.peers[index].waiting.pop_front() {
                        self.last += 1;
                        let correlation = self.last;
                        self.send_call(connection, correlation, &call, out);
                        self.peers[index].asked.insert(correlation, call);
                    }
                }
                None if !peer.is_called => {
                    if now < peer.retry_at {
                        out.arm(peer.retry_at);
                    } else {
                        peer.is_called = true;
                        out.calls.push((index, Arc::clone(&peer.address)));
                    }
                }
                _ => {}
            }
        }
    }

    fn send_call(&mut self, connection: Connection, correlation: u64, call: &Call, out: &mut Out) {
        match call {
            Call::Delete { ids, .. } => {
                let request = Request::DeleteChunks { map: self.map.number(), ids: ChunkIds::new(ids) };
                self.send(connection, correlation, &request, out);
            }
            Call::Inventory { after, .. } => {
                let limit = u32::try_from(MESSAGE_CHUNKS_MAX).expect("4,096");
                self.send(connection, correlation, &Request::Inventory { after: *after, limit }, out);
            }
        }
    }

    fn send(&mut self, connection: Connection, correlation: u64, request: &Request<'_>, out: &mut Out) {
        let mut head = Vec::new();
        let request_head = RequestHead { correlation, deadline_ms: 0 };
        self.encoder.request(&mut head, request_head, request, PayloadMeta::default());
        out.sends.push(Outgoing { connection, head, payload: None });
    }
}
