//! Relaying down the chain: a verified fragment goes on to the successor at once (cut-through, R39), as far as the successor's credit reaches (R38).
//!
//! ```text
//!  a put is admitted ─► dialled ─► up, Hello sent ─► greeted: fragments go ─► the successor's answer
//!                          └───────────┴─► refused, silent or gone: what was relayed there fails, the sender asks again
//! ```
//! One connection to each successor carries the chunks of all slices that have it behind this store. Those of which it is the tail wait for nothing but its
//! disk, so they have credit of their own and go first: chains that cross each other can't wait in a circle.
//!
//! **Invariant:** a fragment is sent only after it was verified here, and a chunk's fragments are sent in order, each once.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use placement::ClusterMap;
use wire::limits::{FRAGMENT_UNIT_BYTES, PAYLOAD_BYTES_MAX};
use wire::message::{Hello, HopClass, Leaves, PayloadMeta, PutChunk, Reply, Request, RequestHead};
use wire::{
    FrameKind, MapNumber, Memory, Nanos, PROTOCOL_VERSION, PROTOCOL_VERSION_MIN, Prefix, Status, StoreId,
};

use crate::effects::{CloseReason, Dial, Effects, Link, Payload, Placement, Send};
use crate::put::Stage;
use crate::reply::position;
use crate::shard::Shard;

/// A successor that can't be reached is tried again after this.
const RECONNECT_NANOS: u64 = 100 * Nanos::MILLISECOND;
/// A successor that could have a whole chunk answers within this, or its connection is given up. A dead one is long out of the chain by then.
pub(crate) const ANSWER_NANOS: u64 = 10 * Nanos::SECOND;

/// What a put hands on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Relay {
    /// The successor.
    pub(crate) to: StoreId,
    /// Whose buffers the chunk takes there.
    pub(crate) class: HopClass,
    /// The correlation id there: the put's place in the table and its generation.
    pub(crate) correlation: u64,
    /// Bytes handed on.
    pub(crate) sent: u32,
    /// Stands in its successor's queue.
    is_queued: bool,
    /// What the successor answered.
    pub(crate) outcome: Option<Status>,
}

impl Relay {
    pub(crate) fn new(to: StoreId, class: HopClass, index: u32, generation: u32) -> Self {
        let correlation = u64::from(generation) << 32 | u64::from(index);
        Self { to, class, correlation, sent: 0, is_queued: false, outcome: None }
    }
}

/// The put that a correlation id belonged to; it may have ended.
fn index_of(correlation: u64) -> u32 {
    u32::try_from(correlation & u64::from(u32::MAX)).expect("masked")
}

/// A successor.
#[derive(Debug)]
struct Peer {
    address: Arc<str>,
    link: Option<Link>,
    greeted: bool,
    retry_at: Nanos,
    middle: Lane,
    tail: Lane,
}

/// The chunks of one class on their way to a successor.
#[derive(Debug, Default)]
struct Lane {
    credit: u64,
    /// Puts with verified bytes to send, by correlation id.
    sending: VecDeque<u64>,
}

impl Peer {
    fn lane(&mut self, class: HopClass) -> &mut Lane {
        if class == HopClass::Tail { &mut self.tail } else { &mut self.middle }
    }

    fn disconnect(&mut self) {
        (self.link, self.greeted) = (None, false);
        (self.middle, self.tail) = (Lane::default(), Lane::default());
    }
}

/// All successors.
#[derive(Debug, Default)]
pub(crate) struct Relays {
    peers: BTreeMap<StoreId, Peer>,
    by_link: BTreeMap<Link, StoreId>,
}

impl Relays {
    /// Whether a connection is one to a successor.
    pub(crate) fn knows(&self, link: Link) -> bool {
        self.by_link.contains_key(&link)
    }

    /// No successor takes anything any more.
    #[cfg(test)]
    pub(crate) fn take_credit(&mut self) {
        for peer in self.peers.values_mut() {
            (peer.middle.credit, peer.tail.credit) = (0, 0);
        }
    }

    /// Puts that stand in a queue.
    #[cfg(test)]
    pub(crate) fn queued(&self) -> usize {
        self.peers.values().map(|peer| peer.middle.sending.len() + peer.tail.sending.len()).sum()
    }

    /// Whether a put may count on this successor: it is connected, or can be dialled now.
    fn is_hopeful(&self, now: Nanos, store: StoreId) -> bool {
        self.peers.get(&store).is_none_or(|peer| peer.link.is_some() || now >= peer.retry_at)
    }
}

impl Shard {
    /// Whether a put may be handed on to this successor; dials it where it isn't connected.
    pub(crate) fn reach(&mut self, now: Nanos, to: StoreId, effects: &mut Effects) -> Result<(), Status> {
        let address = self.map().and_then(|map| map.store(to)).map(|store| Arc::from(store.address.as_str()));
        let Some(address) = address else { return Err(Status::NotServing) };
        if !self.relays.is_hopeful(now, to) {
            return Err(Status::NotServing);
        }
        let peer = self.relays.peers.entry(to).or_insert_with(|| Peer {
            address,
            link: None,
            greeted: false,
            retry_at: Nanos(0),
            middle: Lane::default(),
            tail: Lane::default(),
        });
        if peer.link.is_none() {
            peer.retry_at = now.after(RECONNECT_NANOS);
            effects.dials.push(Dial { store: to, address: Arc::clone(&peer.address) });
        }
        Ok(())
    }

    /// What the driver made of a [`Dial`]: the connection's number, or none.
    pub fn on_dialled(
        &mut self,
        now: Nanos,
        store: StoreId,
        link: Option<Link>,
        memory: &mut impl Memory,
        effects: &mut Effects,
    ) {
        let Some(link) = link else { return self.on_peer_gone(now, store, memory, effects) };
        match self.relays.peers.get_mut(&store) {
            Some(peer) if peer.link.is_none() => {
                peer.link = Some(link);
                self.relays.by_link.insert(link, store);
            }
            _ => effects.closes.push((link, CloseReason::Redial)),
        }
    }

    /// A connection to a successor stands.
    pub(crate) fn greet(&mut self, link: Link, effects: &mut Effects) {
        let hello = Hello {
            version_min: PROTOCOL_VERSION_MIN,
            version_max: PROTOCOL_VERSION,
            features: wire::message::FEATURES,
            name: format!("shard {} of node {}", self.identity.shard.0, self.identity.node.0),
            cluster: Some(self.identity.cluster),
            peer: Some(self.identity.store),
        };
        self.replier.notify(link, &Request::Hello(hello), effects);
    }

    /// A frame on a connection to a successor.
    pub(crate) fn on_peer_head(
        &mut self,
        link: Link,
        prefix: &Prefix,
        message: &[u8],
        memory: &mut impl Memory,
        effects: &mut Effects,
    ) -> Placement {
        let Some(&store) = self.relays.by_link.get(&link) else {
            return Placement::Close(CloseReason::Protocol);
        };
        if prefix.payload_bytes > 0 {
            return Placement::Close(CloseReason::Protocol);
        }
        if !prefix.reply {
            let Ok(Request::Credit { class, bytes }) = Request::decode(prefix.kind, message) else {
                return Placement::Close(CloseReason::Protocol);
            };
            if !matches!(class, HopClass::Middle | HopClass::Tail) {
                return Placement::Close(CloseReason::Protocol);
            }
            if let Some(peer) = self.relays.peers.get_mut(&store) {
                peer.lane(class).credit += u64::from(bytes);
            }
            self.pump(store, memory, effects);
            return Placement::Discard;
        }
        match (prefix.kind, Reply::decode(prefix.kind, prefix.status, message)) {
            (FrameKind::Hello, Ok(Reply::Hello(hello))) => {
                if let Some(peer) = self.relays.peers.get_mut(&store) {
                    peer.greeted = true;
                    peer.middle.credit = u64::from(hello.put_credit_bytes);
                    peer.tail.credit = u64::from(hello.put_credit_bytes);
                }
                self.pump(store, memory, effects);
                Placement::Discard
            }
            (FrameKind::PutChunk, Ok(_)) => {
                if self.on_relayed(prefix.correlation, prefix.status, memory, effects) {
                    Placement::Discard
                } else {
                    Placement::Close(CloseReason::Protocol)
                }
            }
            // It is starting, full of connections, or of another cluster: nothing but another greeting makes it talk.
            _ => Placement::Close(CloseReason::Redial),
        }
    }

    /// The successor has answered for itself and all behind it; false: it can't have what it acks.
    fn on_relayed(
        &mut self,
        correlation: u64,
        status: Status,
        memory: &mut impl Memory,
        effects: &mut Effects,
    ) -> bool {
        let index = index_of(correlation);
        let Some(put) = self.puts.find(index) else { return true };
        let length = put.length;
        // The first outcome stands: what an epoch's end has failed isn't acked by an answer on its way (R1).
        let is_awaited = |relay: &&mut Relay| relay.correlation == correlation && relay.outcome.is_none();
        let Some(relay) = put.relay.as_mut().filter(is_awaited) else { return true };
        if status == Status::Ok && relay.sent < length {
            return false;
        }
        relay.outcome = Some(status);
        self.on_outcome(index, memory, effects);
        true
    }

    /// A put's outcome at the successor is known: if it is a failure, the put fails as soon as the store lets go of it.
    fn on_outcome(&mut self, index: u32, memory: &mut impl Memory, effects: &mut Effects) {
        let put = self.puts.at(index);
        let outcome = put.relay.and_then(|relay| relay.outcome).expect("the caller has set it");
        match put.stage {
            Stage::Receiving(_) => {
                assert_ne!(outcome, Status::Ok, "what hasn't arrived wasn't sent, let alone acked");
                self.fail_put(index, outcome, memory, effects);
            }
            Stage::Storing(_) | Stage::Abandoned(_) => self.settle_put(index, memory, effects),
            Stage::Free => unreachable!("a put that has ended relays nothing"),
        }
    }

    /// The successor's connection is gone, or can't be had: what was relayed there isn't known to be stored.
    pub(crate) fn on_peer_gone(
        &mut self,
        now: Nanos,
        store: StoreId,
        memory: &mut impl Memory,
        effects: &mut Effects,
    ) {
        if let Some(peer) = self.relays.peers.get_mut(&store) {
            if let Some(link) = peer.link {
                self.relays.by_link.remove(&link);
            }
            peer.disconnect();
            peer.retry_at = now.after(RECONNECT_NANOS);
        }
        self.end_relays(|relay| relay.to == store, Status::NotServing, memory, effects);
    }

    /// Ends what is relayed and fits, unless it has an outcome.
    fn end_relays(
        &mut self,
        fits: impl Fn(&Relay) -> bool,
        status: Status,
        memory: &mut impl Memory,
        effects: &mut Effects,
    ) {
        for index in 0..self.puts.places() {
            let relay = self.puts.find(index).and_then(|put| put.relay.as_mut());
            let Some(relay) = relay.filter(|relay| relay.outcome.is_none() && fits(relay)) else { continue };
            relay.outcome = Some(status);
            self.on_outcome(index, memory, effects);
        }
    }

    /// A connection has closed; whether it was one to a successor.
    pub(crate) fn on_peer_close(
        &mut self,
        now: Nanos,
        link: Link,
        memory: &mut impl Memory,
        effects: &mut Effects,
    ) -> bool {
        let Some(&store) = self.relays.by_link.get(&link) else { return false };
        self.on_peer_gone(now, store, memory, effects);
        true
    }

    /// A new map: puts of chains that have changed end, for their acks wouldn't count (R1); successors that moved are dialled anew.
    pub(crate) fn follow_map(&mut self, now: Nanos, memory: &mut impl Memory, effects: &mut Effects) {
        let Some(edition) = self.edition.clone() else { return };
        let map = edition.map();
        for index in 0..self.puts.places() {
            let Some(put) = self.puts.find(index) else { continue };
            if map.route(put.id).epoch == put.epoch {
                continue;
            }
            match (put.stage, &mut put.relay) {
                (Stage::Receiving(_), _) => self.fail_put(index, Status::WrongEpoch, memory, effects),
                (_, Some(relay)) if relay.outcome.is_none() => {
                    relay.outcome = Some(Status::WrongEpoch);
                    self.on_outcome(index, memory, effects);
                }
                _ => {}
            }
        }
        let moved = |store: &StoreId, peer: &Peer| {
            map.store(*store).is_none_or(|known| known.address != *peer.address)
        };
        let peers = self.relays.peers.iter().filter(|(store, peer)| moved(store, peer));
        let gone: Vec<(StoreId, Option<Link>)> = peers.map(|(store, peer)| (*store, peer.link)).collect();
        for (store, link) in gone {
            effects.closes.extend(link.map(|link| (link, CloseReason::Redial)));
            self.on_peer_gone(now, store, memory, effects);
            self.relays.peers.remove(&store);
        }
    }

    /// Bytes of a put have been verified: they go on, if there is a successor.
    pub(crate) fn hand_on(&mut self, index: u32, memory: &mut impl Memory, effects: &mut Effects) {
        let put = self.puts.at(index);
        let Some(relay) = &mut put.relay else { return };
        let (to, class, correlation) = (relay.to, relay.class, relay.correlation);
        if relay.outcome.is_none()
            && !std::mem::replace(&mut relay.is_queued, true)
            && let Some(peer) = self.relays.peers.get_mut(&to)
        {
            peer.lane(class).sending.push_back(correlation);
        }
        self.pump(to, memory, effects);
    }

    /// Sends what is verified and has credit; chunks of which the successor is the tail go first.
    fn pump(&mut self, to: StoreId, memory: &mut impl Memory, effects: &mut Effects) {
        for class in [HopClass::Tail, HopClass::Middle] {
            while let Some(peer) = self.relays.peers.get_mut(&to)
                && let Some(link) = peer.link.filter(|_| peer.greeted)
                && let lane = peer.lane(class)
                && let Some(&correlation) = lane.sending.front()
            {
                let index = index_of(correlation);
                let known = self.puts.find(index).filter(|put| {
                    put.relay.is_some_and(|relay| relay.correlation == correlation && relay.outcome.is_none())
                });
                let Some(put) = known else {
                    lane.sending.pop_front();
                    continue;
                };
                let relay = put.relay.as_mut().expect("just looked at");
                let left = put.received - relay.sent;
                let is_last = put.received == put.length;
                let Some(bytes) = piece(left, is_last, u64::MAX) else {
                    // The rest hasn't arrived: it comes back into the queue with it.
                    relay.is_queued = false;
                    lane.sending.pop_front();
                    continue;
                };
                let Some(bytes) = piece(left, is_last, lane.credit).map(|most| most.min(bytes)) else {
                    break;
                };
                lane.credit -= u64::from(bytes);
                // One fragment each in turn: a large chunk doesn't hold a small one back.
                lane.sending.rotate_left(1);
                self.send_fragment(link, index, bytes, memory, effects);
            }
        }
    }

    fn send_fragment(
        &mut self,
        link: Link,
        index: u32,
        bytes: u32,
        memory: &mut impl Memory,
        effects: &mut Effects,
    ) {
        let number = self.map().map_or(MapNumber(0), ClusterMap::number);
        let put = self.puts.at(index);
        let (Stage::Receiving(slot) | Stage::Storing(slot) | Stage::Abandoned(slot)) = put.stage else {
            unreachable!("a put that has ended relays nothing");
        };
        let relay = put.relay.as_mut().expect("the caller has looked at it");
        let offset = relay.sent;
        relay.sent += bytes;
        let request = if offset == 0 {
            Request::PutChunk(PutChunk {
                id: put.id,
                length: put.length,
                root: put.root,
                map: number,
                epoch: put.epoch,
                class: relay.class,
                leaves: Leaves::new(&put.leaves),
            })
        } else {
            Request::PutFragment { class: relay.class, offset }
        };
        // The leaves verify a fragment: no checksum of its own (R36).
        let meta = PayloadMeta { bytes, checksum: 0 };
        let head = RequestHead { correlation: relay.correlation, deadline_ms: 0 };
        let start = position(&effects.bytes);
        self.replier.encoder.request(&mut effects.bytes, head, &request, meta);
        memory.retain(slot);
        let payload = Some(Payload { slot, offset, len: bytes });
        effects.sends.push(Send { link, head: (start, position(&effects.bytes)), payload });
    }

    /// A put ends: a successor that has only a part of it is told that no more will come (R39).
    pub(crate) fn abort_relay(&mut self, index: u32, effects: &mut Effects) {
        let put = self.puts.at(index);
        let Some(relay) = put.relay.take() else { return };
        let is_partial = relay.outcome.is_none() && 0 < relay.sent && relay.sent < put.length;
        let Some(peer) = self.relays.peers.get_mut(&relay.to) else { return };
        if relay.is_queued {
            // So that the queue is never longer than the table of puts (I13).
            peer.lane(relay.class).sending.retain(|queued| *queued != relay.correlation);
        }
        if let Some(link) = peer.link.filter(|_| is_partial) {
            let head = RequestHead { correlation: relay.correlation, deadline_ms: 0 };
            self.replier.request(link, head, &Request::Abort, effects);
        }
    }

    /// Gives up connections to successors that have had a whole chunk for too long.
    pub(crate) fn give_up_silent(&mut self, now: Nanos, memory: &mut impl Memory, effects: &mut Effects) {
        for index in 0..self.puts.places() {
            let Some(put) = self.puts.find(index) else { continue };
            let is_due = put.is_whole() && now.since(put.whole_at) >= ANSWER_NANOS;
            let Some(relay) = put.relay.filter(|relay| is_due && relay.outcome.is_none()) else { continue };
            let link = self.relays.peers.get(&relay.to).and_then(|peer| peer.link);
            effects.closes.extend(link.map(|link| (link, CloseReason::Silent)));
            self.on_peer_gone(now, relay.to, memory, effects);
        }
    }
}

/// The next fragment of `left` verified bytes: a multiple of the unit, unless it ends the chunk; as large as credit and limits allow (R39).
fn piece(left: u32, is_last: bool, credit: u64) -> Option<u32> {
    let most = u32::try_from(PAYLOAD_BYTES_MAX).expect("256 KiB");
    let unit = u32::try_from(FRAGMENT_UNIT_BYTES).expect("64 KiB");
    let credit = u32::try_from(credit).unwrap_or(u32::MAX);
    let room = most.min(credit);
    let bytes = if is_last && left <= room { left } else { left.min(room) / unit * unit };
    (bytes > 0).then_some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_keep_to_unit_credit_and_limit() {
        const K: u32 = 1024;
        for (left, is_last, credit, expected) in [
            (0, true, u64::MAX, None),
            (1, true, u64::MAX, Some(1)),
            (1, false, u64::MAX, None),
            (1, true, 0, None),
            (256 * K, true, u64::MAX, Some(256 * K)),
            (1000 * K, true, u64::MAX, Some(256 * K)),
            (100 * K, true, u64::from(99 * K), Some(64 * K)),
            (100 * K, false, u64::MAX, Some(64 * K)),
            (100 * K, true, u64::from(63 * K), None),
        ] {
            assert_eq!(piece(left, is_last, credit), expected, "{left} {is_last} {credit}");
        }
    }
}
