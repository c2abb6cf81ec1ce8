//! What the group asks of the stores: deletes of reclaimed chunks (R24) and pages of their inventories (R2).
//!
//! It goes over connections like any client's, since a chunk's store may be on another node. A call that is lost is the replica's to repeat; what it
//! repeats while that is still under way isn't made again: calls that wait or are asked stand once in each store's lists.
//!
//! ```text
//! a call waits ─► dialled ─► up, Hello sent ─► greeted, calls sent ─► down: what was asked is given up
//!                    └──────────────┴─► refused: again after RECONNECT_NANOS
//! ```

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use placement::ClusterMap;
use wire::limits::MESSAGE_CHUNKS_MAX;
use wire::message::{ChunkIds, Encoder, Hello, PayloadMeta, Reply, Request, RequestHead};
use wire::{ChunkId, FrameKind, GroupId, MapNumber, Nanos, PROTOCOL_VERSION, PROTOCOL_VERSION_MIN, Prefix};

use crate::effects::{CloseReason, Dial, Effects, Link, Note};

/// A connection that can't be had is tried again after this.
const RECONNECT_NANOS: u64 = Nanos::SECOND;
/// A store that owes an answer, or a greeting, and says nothing for so long isn't there any more: its machine may have lost power, and then nobody says so.
const SILENCE_NANOS: u64 = 10 * Nanos::SECOND;
/// Calls that wait for a store; further ones are dropped, which the replica repeats.
pub(crate) const WAITING_MAX: usize = 1024;
/// Calls of one store that aren't answered; further ones wait. As many as a shard takes at once.
pub(crate) const ASKED_MAX: usize = 64;

/// What a store answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Answered {
    /// All stores have deleted these chunks durably.
    Deleted { first: ChunkId, count: u32 },
    /// A page of an inventory: the store's index in the map, its ids, whether none follow.
    Inventory { source: u16, ids: Vec<ChunkId>, end: bool },
}

/// Chunks whose ids follow each other: one delete of the replica's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Chunks {
    first: ChunkId,
    count: u32,
}

#[derive(Clone, Debug)]
enum Call {
    /// Of the delete of `chunks` that has this number; if there is none, that one was given up.
    Delete {
        chunks: Chunks,
        number: u64,
        ids: Vec<ChunkId>,
    },
    Inventory {
        source: u16,
        after: Option<ChunkId>,
    },
}

impl Call {
    /// Whether both ask for the same; the delete that they belong to may have been given up and made again.
    fn asks_as(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Delete { chunks, ids, .. }, Self::Delete { chunks: others, ids: other_ids, .. }) => {
                chunks == others && ids == other_ids
            }
            (Self::Inventory { after, .. }, Self::Inventory { after: other, .. }) => after == other,
            _ => false,
        }
    }
}

#[derive(Debug)]
struct Peer {
    address: Arc<str>,
    link: Option<Link>,
    greeted: bool,
    retry_at: Nanos,
    /// When it said something, or was asked or dialled without owing anything.
    heard: Nanos,
    waiting: VecDeque<Call>,
    asked: BTreeMap<u64, Call>,
}

impl Peer {
    /// When it isn't waited for any more; `None`: it owes nothing.
    fn silent_at(&self) -> Option<Nanos> {
        let owes = self.link.is_some() && (!self.greeted || !self.asked.is_empty());
        owes.then(|| self.heard.after(SILENCE_NANOS))
    }

    /// A call that asks for the same, and isn't answered yet.
    fn same(&mut self, call: &Call) -> Option<&mut Call> {
        self.asked.values_mut().chain(&mut self.waiting).find(|known| known.asks_as(call))
    }
}

#[derive(Clone, Copy, Debug)]
struct Delete {
    number: u64,
    /// Calls of which it consists that aren't answered.
    parts: usize,
    orphans: bool,
}

/// The calls under way, and the connections they go over: one for each store of the map.
#[derive(Debug)]
pub(crate) struct StoreCalls {
    group: GroupId,
    peers: Vec<Peer>,
    deletes: BTreeMap<Chunks, Delete>,
    /// The last correlation id, and the last delete's number; 0 is `Hello`'s.
    last: u64,
    encoder: Encoder,
}

impl StoreCalls {
    pub(crate) fn new(group: GroupId) -> Self {
        Self { group, peers: Vec::new(), deletes: BTreeMap::new(), last: 0, encoder: Encoder::new() }
    }

    /// The map's stores, by their indices there.
    pub(crate) fn on_map(&mut self, map: &ClusterMap, effects: &mut Effects) {
        for (index, store) in map.as_map().stores.iter().enumerate() {
            if self.peers.len() <= index {
                self.peers.push(Peer {
                    address: Arc::from(store.address.as_str()),
                    link: None,
                    greeted: false,
                    retry_at: Nanos(0),
                    heard: Nanos(0),
                    waiting: VecDeque::new(),
                    asked: BTreeMap::new(),
                });
            }
            if *self.peers[index].address != store.address {
                self.peers[index].address = Arc::from(store.address.as_str());
                self.redial(index, Nanos(0), effects);
            }
        }
        self.give_up_on_former(map);
    }

    /// Deletes that wait for a store which doesn't ack for the chunks any more are given up, and the replica repeats them: it may never come back.
    fn give_up_on_former(&mut self, map: &ClusterMap) {
        let mut former = Vec::new();
        for (store, peer) in (0_u16..=u16::MAX).zip(&self.peers) {
            let acks = |id: &ChunkId| {
                map.route(*id).members.iter().any(|member| member.store == store && member.state.acks())
            };
            for call in peer.waiting.iter().chain(peer.asked.values()) {
                if let Call::Delete { ids, .. } = call
                    && !ids.iter().all(acks)
                {
                    former.push(call.clone());
                }
            }
        }
        for call in &former {
            self.give_up(call);
        }
    }

    /// Ends a peer's connection; another is made not before `retry_at`.
    fn redial(&mut self, index: usize, retry_at: Nanos, effects: &mut Effects) {
        if let Some(link) = self.peers[index].link {
            effects.closes.push((link, CloseReason::Redial));
            self.on_close(link);
        }
        self.peers[index].retry_at = retry_at;
    }

    /// Deletes `count` chunks from `first` on at all members that ack for them (R24), and at the store where they were found: who isn't there is
    /// told when it comes back and compares itself (R2).
    pub(crate) fn delete(
        &mut self,
        now: Nanos,
        map: &ClusterMap,
        (first, count): (ChunkId, u32),
        (orphans, holder): (bool, Option<u16>),
        effects: &mut Effects,
    ) {
        let chunks = Chunks { first, count };
        if let Some(delete) = self.deletes.get_mut(&chunks) {
            // It is under way. The replica hears of its end if one of the two who asked wants to.
            delete.orphans &= orphans;
            return;
        }
        let mut by_store: BTreeMap<u16, Vec<ChunkId>> = BTreeMap::new();
        for step in 0..u64::from(count) {
            let id = ChunkId { session: first.session, ordinal: first.ordinal + step };
            let members = map.route(id).members.iter();
            let mut stores: BTreeSet<u16> =
                members.filter(|member| member.state.acks()).map(|member| member.store).collect();
            if stores.is_empty() {
                return; // nobody acks for it now
            }
            stores.extend(holder);
            for store in stores {
                by_store.entry(store).or_default().push(id);
            }
        }
        let number = self.last + 1;
        let mut calls = Vec::new();
        for (store, ids) in &by_store {
            let parts = ids.chunks(MESSAGE_CHUNKS_MAX);
            // All or nothing: of a delete that lacks a part the others would be in vain.
            if !self.has_room(*store, parts.len(), effects) {
                return;
            }
            calls.extend(parts.map(|ids| (*store, Call::Delete { chunks, number, ids: ids.to_vec() })));
        }
        if calls.is_empty() {
            return;
        }
        self.last = number;
        self.deletes.insert(chunks, Delete { number, parts: calls.len(), orphans });
        for (store, call) in calls {
            self.call(now, map, store, call, effects);
        }
    }

    /// Asks store `source` for the ids after `after`.
    pub(crate) fn inventory(
        &mut self,
        now: Nanos,
        map: &ClusterMap,
        source: u16,
        after: Option<ChunkId>,
        effects: &mut Effects,
    ) {
        if self.has_room(source, 1, effects) {
            self.call(now, map, source, Call::Inventory { source, after }, effects);
        }
    }

    /// Whether so many further calls may wait for a store.
    fn has_room(&self, store: u16, calls: usize, effects: &mut Effects) -> bool {
        let peer = self.peers.get(usize::from(store));
        let has_room = peer.is_some_and(|peer| peer.waiting.len() + calls <= WAITING_MAX);
        if !has_room {
            effects.notes.push(Note::StoreSilent { peer: store });
        }
        has_room
    }

    /// Makes a call, for which there is room; one that asks for the same takes its place.
    fn call(&mut self, now: Nanos, map: &ClusterMap, store: u16, call: Call, effects: &mut Effects) {
        let peer = &mut self.peers[usize::from(store)];
        match peer.same(&call) {
            Some(known) => *known = call,
            None => peer.waiting.push_back(call),
        }
        self.proceed(usize::from(store), now, map, effects);
    }

    /// Connects where calls wait for it, and sends where a connection is greeted.
    pub(crate) fn on_turn(&mut self, now: Nanos, map: &ClusterMap, effects: &mut Effects) {
        for index in 0..self.peers.len() {
            if self.peers[index].silent_at().is_some_and(|at| now >= at) {
                self.redial(index, now, effects);
            }
            self.proceed(index, now, map, effects);
        }
    }

    /// When a connection may be tried again that calls wait for.
    pub(crate) fn deadline(&self) -> Option<Nanos> {
        let cold = self.peers.iter().filter(|peer| peer.link.is_none() && !peer.waiting.is_empty());
        cold.map(|peer| peer.retry_at).chain(self.peers.iter().filter_map(Peer::silent_at)).min()
    }

    fn proceed(&mut self, index: usize, now: Nanos, map: &ClusterMap, effects: &mut Effects) {
        let peer = &mut self.peers[index];
        if peer.waiting.is_empty() {
            return;
        }
        let Some(link) = peer.link else {
            if now >= peer.retry_at {
                (peer.retry_at, peer.heard) = (now.after(RECONNECT_NANOS), now);
                let peer_number = u16::try_from(index).expect("stores have 16-bit indices");
                effects.dials.push(Dial { peer: peer_number, address: Arc::clone(&peer.address) });
            }
            return;
        };
        while peer.greeted
            && peer.asked.len() < ASKED_MAX
            && let Some(call) = peer.waiting.pop_front()
        {
            if !is_wanted(&self.deletes, &call) {
                continue;
            }
            if peer.asked.is_empty() {
                peer.heard = now;
            }
            self.last += 1;
            let head = RequestHead { correlation: self.last, deadline_ms: 0 };
            let request = match &call {
                Call::Delete { chunks, ids, .. } => {
                    // Orphans go wherever they are; all others have to be gone from whole chains.
                    let orphans = self.deletes.get(chunks).is_some_and(|delete| delete.orphans);
                    let number = if orphans { MapNumber(0) } else { map.number() };
                    Request::DeleteChunks { map: number, ids: ChunkIds::new(ids) }
                }
                Call::Inventory { after, .. } => Request::Inventory { after: *after, limit: INVENTORY_LIMIT },
            };
            let encoder = &mut self.encoder;
            effects.send(link, |bytes| encoder.request(bytes, head, &request, PayloadMeta::default()));
            peer.asked.insert(self.last, call);
        }
    }

    /// What the driver made of a [`Dial`]: the connection's number, or none.
    pub(crate) fn on_dialled(&mut self, peer: u16, link: Option<Link>) {
        let peer = &mut self.peers[usize::from(peer)];
        assert!(peer.link.is_none(), "a store is dialled once at a time");
        (peer.link, peer.greeted) = (link, false);
    }

    fn peer_of(&self, link: Link) -> Option<usize> {
        self.peers.iter().position(|peer| peer.link == Some(link))
    }

    /// A connection stands: greets the store.
    pub(crate) fn on_up(&mut self, link: Link, map: &ClusterMap, effects: &mut Effects) {
        if self.peer_of(link).is_none() {
            return;
        }
        let hello = Hello {
            version_min: PROTOCOL_VERSION_MIN,
            version_max: PROTOCOL_VERSION,
            features: wire::message::FEATURES,
            name: format!("metadata group {}", self.group.0),
            cluster: Some(map.cluster()),
            peer: None,
        };
        let encoder = &mut self.encoder;
        effects.send(link, |bytes| {
            encoder.request(bytes, RequestHead::default(), &Request::Hello(hello), PayloadMeta::default());
        });
    }

    /// Whether the connection is to a store.
    pub(crate) fn knows(&self, link: Link) -> bool {
        self.peer_of(link).is_some()
    }

    /// A store's frame.
    pub(crate) fn on_reply(
        &mut self,
        now: Nanos,
        link: Link,
        (prefix, message): (&Prefix, &[u8]),
        map: &ClusterMap,
        effects: &mut Effects,
    ) -> Option<Answered> {
        let index = self.peer_of(link)?;
        let reply = match Reply::decode(prefix.kind, prefix.status, message) {
            Ok(reply) if prefix.reply && prefix.payload_bytes == 0 => reply,
            _ => {
                self.redial(index, now.after(RECONNECT_NANOS), effects);
                return None;
            }
        };
        self.peers[index].heard = now;
        if prefix.kind == FrameKind::Hello {
            if matches!(reply, Reply::Hello(_)) {
                self.peers[index].greeted = true;
                self.proceed(index, now, map, effects);
            } else {
                // It is busy, or still starting: nothing but another greeting makes it talk.
                self.redial(index, now.after(RECONNECT_NANOS), effects);
            }
            return None;
        }
        let call = self.peers[index].asked.remove(&prefix.correlation)?;
        self.proceed(index, now, map, effects);
        self.on_answer(&call, &reply)
    }

    fn on_answer(&mut self, call: &Call, reply: &Reply<'_>) -> Option<Answered> {
        match (call, reply) {
            (Call::Delete { chunks, number, .. }, Reply::DeleteChunks) => {
                let delete = self.deletes.get_mut(chunks).filter(|delete| delete.number == *number)?;
                delete.parts -= 1;
                if delete.parts > 0 {
                    return None;
                }
                let orphans = delete.orphans;
                self.deletes.remove(chunks);
                let Chunks { first, count } = *chunks;
                (!orphans).then_some(Answered::Deleted { first, count })
            }
            (Call::Inventory { source, .. }, Reply::Inventory { ids, end }) => {
                Some(Answered::Inventory { source: *source, ids: ids.iter().collect(), end: *end })
            }
            _ => {
                self.give_up(call);
                None
            }
        }
    }

    /// A call that gets no answer; the replica repeats it.
    fn give_up(&mut self, call: &Call) {
        if let Call::Delete { chunks, .. } = call
            && is_wanted(&self.deletes, call)
        {
            self.deletes.remove(chunks);
        }
    }

    /// Whether this connection was one of these; what was asked over it has no answer.
    pub(crate) fn on_close(&mut self, link: Link) -> bool {
        let Some(index) = self.peer_of(link) else {
            return false;
        };
        let peer = &mut self.peers[index];
        (peer.link, peer.greeted) = (None, false);
        for call in std::mem::take(&mut peer.asked).into_values() {
            self.give_up(&call);
        }
        true
    }

    /// Deletes that aren't answered yet.
    #[cfg(test)]
    pub(crate) fn deletes(&self) -> usize {
        self.deletes.len()
    }

    /// Calls that wait for a store, and that it hasn't answered.
    #[cfg(test)]
    pub(crate) fn calls(&self, peer: u16) -> (usize, usize) {
        let peer = &self.peers[usize::from(peer)];
        (peer.waiting.len(), peer.asked.len())
    }
}

/// Whether the delete that a call belongs to wasn't given up since.
fn is_wanted(deletes: &BTreeMap<Chunks, Delete>, call: &Call) -> bool {
    match call {
        Call::Delete { chunks, number, .. } => {
            deletes.get(chunks).is_some_and(|delete| delete.number == *number)
        }
        Call::Inventory { .. } => true,
    }
}

const INVENTORY_LIMIT: u32 = 4096;
const _: () = assert!(INVENTORY_LIMIT as usize == MESSAGE_CHUNKS_MAX);
