//! The shard: its state, and the events that the driver hands it.

use std::collections::BTreeSet;
use std::sync::Arc;

use placement::{ClusterMap, Edition};
use store::Store;
use wire::checksum::BlockHasher;
use wire::message::{HopClass, PutChunk, Request, StoreCondition};
use wire::{ChunkId, ClusterId, FrameKind, Memory, Nanos, NodeId, Prefix, ShardIndex, Status, StoreId};

use crate::effects::{CloseReason, Effects, Link, Placement};
use crate::get::Gets;
use crate::link::Links;
use crate::peers::Peers;
use crate::put::{Puts, Stage};
use crate::relay::Relays;
use crate::reply::{Caller, Replier};
use crate::shares::Shares;
use crate::store_side::Calls;
use crate::sync::Sync;

/// Who a shard is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Its cluster.
    pub cluster: ClusterId,
    /// Its node.
    pub node: NodeId,
    /// Its number there.
    pub shard: ShardIndex,
    /// Its store.
    pub store: StoreId,
    /// Connections that are served; further ones are answered `Busy` and closed (R43).
    pub links_max: u32,
}

/// One core's logic.
#[derive(Debug)]
pub struct Shard {
    pub(crate) identity: Identity,
    /// `None` until the node has handed one over: nothing is served before.
    pub(crate) edition: Option<Arc<Edition>>,
    pub(crate) store: Store,
    pub(crate) links: Links,
    pub(crate) puts: Puts,
    pub(crate) gets: Gets,
    pub(crate) calls: Calls,
    pub(crate) shares: Shares,
    /// Connections that the shard makes.
    pub(crate) peers: Peers,
    /// What goes to the stores that come next in this one's chains.
    pub(crate) relays: Relays,
    /// What is compared, fetched and mended.
    pub(crate) sync: Sync,
    /// Connections whose gets ended without bytes since the turn began.
    pub(crate) kicked: Vec<Link>,
    pub(crate) replier: Replier,
    pub(crate) counters: Counters,
    /// Chunks of which it was told that other bytes came under their ids; the lowest ids are forgotten first.
    pub(crate) conflicts_told: BTreeSet<ChunkId>,
    /// What the store has said of itself.
    pub(crate) condition: StoreCondition,
    /// No new chunk is taken any more.
    pub(crate) draining: bool,
    /// The store has been told to end.
    pub(crate) ending: bool,
    /// When the store wants a tick, and when chunks that arrive too slowly are looked for.
    pub(crate) store_due: Option<Nanos>,
    pub(crate) arrivals_due: Option<Nanos>,
    /// What the store answered, before it is turned into frames. Reused.
    pub(crate) scratch: store::Effects,
}

/// What the shard counts beside the store's own numbers.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counters {
    pub(crate) puts: u64,
    pub(crate) put_bytes: u64,
    pub(crate) gets: u64,
    pub(crate) get_bytes: u64,
    pub(crate) deletes: u64,
    pub(crate) busy: u64,
    pub(crate) refused: u64,
    pub(crate) mismatches: u64,
}

impl Shard {
    /// A shard around a store that is opening.
    pub fn new(identity: Identity, store: Store) -> Self {
        Self {
            identity,
            edition: None,
            store,
            links: Links::default(),
            puts: Puts::default(),
            gets: Gets::default(),
            calls: Calls::default(),
            shares: Shares::default(),
            peers: Peers::default(),
            relays: Relays::default(),
            sync: Sync::default(),
            kicked: Vec::new(),
            replier: Replier::default(),
            counters: Counters::default(),
            conflicts_told: BTreeSet::new(),
            condition: StoreCondition::Starting,
            draining: false,
            ending: false,
            store_due: None,
            arrivals_due: None,
            scratch: store::Effects::default(),
        }
    }

    /// The store, to be looked at.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// How the store is, as it has said.
    pub fn condition(&self) -> StoreCondition {
        self.condition
    }

    /// Hands the shard a cluster map; it serves from the first one on. Following a map is the promise (R1): from here on nothing is acked, nor listed, in a lower epoch
    /// than the map's, whatever is on the disk already.
    pub fn on_map(
        &mut self,
        now: Nanos,
        edition: Arc<Edition>,
        memory: &mut impl Memory,
        effects: &mut Effects,
    ) {
        if self.edition.as_ref().is_none_or(|known| known.number() < edition.number()) {
            self.edition = Some(edition);
            self.end_lower_epochs(memory, effects);
            self.follow_addresses(now, memory, effects);
            self.follow_sync(effects);
        }
    }

    /// The map that is followed.
    pub(crate) fn map(&self) -> Option<&ClusterMap> {
        self.edition.as_deref().map(Edition::map)
    }

    /// From now on no new chunk is taken; what is under way is finished.
    pub fn on_drain(&mut self) {
        self.draining = true;
    }

    /// Whether nothing is under way.
    pub fn is_idle(&self) -> bool {
        self.puts.len() == 0 && self.gets.len() == 0 && self.calls.len() == 0 && self.sync.fetches.len() == 0
    }

    /// A connection stands: somebody's, or one that the shard asked for.
    pub fn on_open(&mut self, link: Link, effects: &mut Effects) {
        if self.peers.knows(link) {
            self.greet(link, effects);
        } else {
            self.links.open(link);
        }
    }

    /// A connection is gone: what it had begun is forgotten, what the store has is finished without an answer.
    pub fn on_close(&mut self, now: Nanos, link: Link, memory: &mut impl Memory, effects: &mut Effects) {
        self.forget_part(link);
        if self.on_peer_close(now, link, memory, effects) {
            return;
        }
        self.forget_listings(link);
        let Some(state) = self.links.close(link) else {
            return;
        };
        for (_, index) in state.puts {
            let put = self.puts.at(index);
            match put.stage {
                Stage::Receiving(slot) => {
                    memory.release(slot);
                    self.end_put(index, effects);
                }
                Stage::Storing(slot) => put.stage = Stage::Abandoned(slot),
                Stage::Free | Stage::Abandoned(_) => {
                    unreachable!("a connection lists only its own live puts")
                }
            }
        }
        // What is still read counts until the store has answered.
        let read = self.gets.abandon(link);
        *self.shares.read_for(state.peer.is_some()) -= state.get_bytes - read;
    }

    /// A frame's head has arrived whole and unharmed; says where its payload goes.
    pub fn on_head(
        &mut self,
        now: Nanos,
        link: Link,
        prefix: &Prefix,
        message: &[u8],
        memory: &mut impl Memory,
        effects: &mut Effects,
    ) -> Placement {
        let caller = Caller { link, kind: prefix.kind, correlation: prefix.correlation };
        if self.peers.knows(link) {
            return self.on_peer_head(now, link, prefix, message, memory, effects);
        }
        let Some(state) = self.links.state(link) else {
            return Placement::Close(CloseReason::Protocol);
        };
        assert!(state.arriving.is_none(), "the driver hands over a head after the payload before it");
        let is_put = matches!(prefix.kind, FrameKind::PutChunk | FrameKind::PutFragment);
        if prefix.reply || (prefix.payload_bytes > 0 && !is_put) {
            return Placement::Close(CloseReason::Protocol);
        }
        let greeted = state.greeted;
        let request = Request::decode(prefix.kind, message);
        let class = match request {
            Ok(Request::PutChunk(PutChunk { class, .. }) | Request::PutFragment { class, .. }) => class,
            _ => HopClass::Client,
        };
        if is_put && !(state.may_use(class) && state.spend_credit(class, prefix.payload_bytes)) {
            return Placement::Close(CloseReason::Protocol);
        }
        let request = match request {
            Ok(request) => request,
            Err(error) => {
                self.refuse_unread(caller, error.status(), memory, effects);
                return self.discard(link, class, prefix.payload_bytes, effects);
            }
        };
        let placement = match request {
            Request::Hello(hello) => self.on_hello(caller, &hello, effects),
            Request::GetMap { have, page } => self.on_get_map(caller, have, page, effects),
            _ if !greeted => return Placement::Close(CloseReason::Protocol),
            Request::PutChunk(head) => {
                return self.on_put_head(now, caller, &head, prefix.payload_bytes, memory, effects);
            }
            Request::PutFragment { class, offset } => {
                return self.on_fragment(caller, class, offset, prefix.payload_bytes, memory, effects);
            }
            Request::Abort => self.on_abort(link, prefix.correlation, memory, effects),
            Request::Credit { .. } => None,
            Request::GetChunk(get) => self.on_get(now, caller, get, memory, effects),
            Request::DeleteChunks { map, ids } => self.on_delete(now, caller, map, ids, memory, effects),
            Request::Inventory { after, limit } => {
                self.on_inventory(now, caller, after, limit, memory, effects)
            }
            Request::ShardStatus => self.on_status(caller, memory, effects),
            request => self.on_replica_request(now, caller, request, memory, effects),
        };
        match placement {
            Some(reason) => Placement::Close(reason),
            None => Placement::Discard,
        }
    }

    /// Refuses a message that can't be read. A fragment's ends its put: whatever follows would leave a gap.
    fn refuse_unread(
        &mut self,
        caller: Caller,
        status: Status,
        memory: &mut impl Memory,
        effects: &mut Effects,
    ) {
        let put = (caller.kind == FrameKind::PutFragment).then(|| self.receiving(caller)).flatten();
        match put {
            Some(index) => self.fail_put(index, status, memory, effects),
            None => self.refuse(caller, status, effects),
        }
    }

    /// The payload that [`on_head`](Self::on_head) found a place for is whole.
    pub fn on_payload(&mut self, now: Nanos, link: Link, memory: &mut impl Memory, effects: &mut Effects) {
        if self.peers.knows(link) {
            return self.on_part_payload(now, link, memory, effects);
        }
        let Some(arrived) = self.links.state(link).and_then(|state| state.arriving.take()) else {
            return;
        };
        let index = arrived.put;
        let cluster = self.identity.cluster;
        let put = self.puts.at(index);
        assert_eq!(put.received, arrived.offset, "one payload of a connection arrives at a time");
        let hasher = BlockHasher::new(cluster, put.id);
        if !put.accept(&hasher, arrived.bytes, memory) {
            let class = put.class;
            self.counters.mismatches += 1;
            self.fail_put(index, Status::ChecksumMismatch, memory, effects);
            // `fail_put` gives back what was verified before (R38).
            return self.owe_credit(link, class, arrived.bytes, effects);
        }
        let is_whole = put.is_whole();
        put.whole_at = now;
        self.hand_on(index, memory, effects);
        if is_whole {
            self.store_put(now, index, memory, effects);
        }
    }

    /// Refuses, and counts it.
    pub(crate) fn refuse(&mut self, caller: Caller, status: Status, effects: &mut Effects) {
        match status {
            Status::Busy => self.counters.busy += 1,
            Status::NotFound => {}
            _ => self.counters.refused += 1,
        }
        self.replier.refuse(caller, status, effects);
    }

    /// The payload that follows is received and forgotten; the peer spent credit on it, so that is owed back.
    pub(crate) fn discard(
        &mut self,
        link: Link,
        class: HopClass,
        payload_bytes: u32,
        effects: &mut Effects,
    ) -> Placement {
        self.owe_credit(link, class, payload_bytes, effects);
        Placement::Discard
    }

    /// Buffers of so many payload bytes are free again.
    pub(crate) fn owe_credit(&mut self, link: Link, class: HopClass, bytes: u32, effects: &mut Effects) {
        let Some(state) = self.links.state(link) else {
            return;
        };
        if let Some(bytes) = state.owe_credit(class, bytes) {
            let credit = Request::Credit { class, bytes };
            self.replier.notify(link, &credit, effects);
        }
    }

    /// Every reply carries the shard's load: its depth and a moving average of its service time, 1/16 of the difference a step.
    pub(crate) fn note_service_time(&mut self, nanoseconds: u64) {
        const UNIT: u64 = 8 * Nanos::MICROSECOND;
        let average = i64::from(self.replier.load.service_time);
        let sample = i64::try_from(nanoseconds / UNIT).unwrap_or(i64::MAX).min(i64::from(u16::MAX));
        let next = average + (sample - average) / 16 + i64::from(sample > average);
        self.replier.load.service_time = u16::try_from(next.clamp(0, i64::from(u16::MAX))).expect("clamped");
        let depth = self.puts.len() + self.gets.len();
        self.replier.load.queue_depth = u16::try_from(depth).unwrap_or(u16::MAX);
    }

    /// The caller of a put.
    pub(crate) fn put_caller(link: Link, correlation: u64) -> Caller {
        Caller { link, kind: FrameKind::PutChunk, correlation }
    }
}
