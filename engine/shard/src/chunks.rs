//! Puts and gets, from a connection's frames to the store and back.

use placement::Route;
use wire::message::{GetChunk, HopClass, PutChunk, StoreCondition};
use wire::planted::{Bug, planted};
use wire::{ChunkId, Memory, Nanos, Slot, Status, StoreId};

use crate::effects::{CloseReason, Effects, Link, Placement};
use crate::get::{GETS_MAX, is_plausible};
use crate::link::{Arriving, LINK_GETS_WAITING_MAX, LINK_PUTS_MAX};
use crate::put::{PUTS_MAX, Stage, acked, head_verifies};
use crate::reply::Caller;
use crate::shard::Shard;
use crate::shares::{block_bytes, slot_bytes, spares};

/// While chunks arrive or wait for a successor, those that take too long are looked for this often.
const ARRIVALS_INTERVAL: u64 = 100 * Nanos::MILLISECOND;
/// Conflicting chunks that are remembered as told.
const CONFLICTS_TOLD_MAX: usize = 1024;

/// Why a put may begin, and what it needs.
#[derive(Clone, Copy, Debug)]
struct Admission {
    /// What its connection's puts hold.
    held: usize,
    successor: Option<(StoreId, HopClass)>,
}

/// A store's place among those of a chain that ack (I2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Hop {
    class: HopClass,
    /// `None`: clients.
    predecessor: Option<StoreId>,
    /// The next one, and whose buffers the chunk takes there; `None` at the tail.
    successor: Option<(StoreId, HopClass)>,
}

impl Hop {
    fn of(route: &Route<'_>, store: StoreId) -> Option<Self> {
        let mut ackers = route.ackers().map(|known| known.store);
        let mut predecessor = None;
        loop {
            let found = ackers.next()?;
            if found == store {
                break;
            }
            predecessor = Some(found);
        }
        let next = ackers.next();
        let behind = if ackers.next().is_some() { HopClass::Middle } else { HopClass::Tail };
        let class = match (predecessor, next) {
            (None, _) => HopClass::Client,
            (Some(_), Some(_)) => HopClass::Middle,
            (Some(_), None) => HopClass::Tail,
        };
        Some(Self { class, predecessor, successor: next.map(|next| (next, behind)) })
    }
}

impl Shard {
    /// The head of a chunk, with its first fragment behind it.
    pub(crate) fn on_put_head(
        &mut self,
        now: Nanos,
        caller: Caller,
        head: &PutChunk<'_>,
        payload_bytes: u32,
        memory: &mut impl Memory,
        effects: &mut Effects,
    ) -> Placement {
        let admitted = self.admit_put(now, caller, head, effects).and_then(|admission| {
            let slot = self.allocate_put(now, &admission, head, memory, effects);
            slot.map(|slot| (slot, admission.successor)).ok_or(Status::Busy)
        });
        let (slot, successor) = match admitted {
            Ok(admitted) => admitted,
            Err(status) => {
                self.refuse(caller, status, effects);
                return self.discard(caller.link, head.class, payload_bytes, effects);
            }
        };
        let index = self.puts.begin(now, caller, head, slot, successor);
        let bytes = slot_bytes(head.length);
        self.shares.puts += bytes;
        if let Some(state) = self.links.state(caller.link) {
            state.puts.push((caller.correlation, index));
            state.put_bytes += bytes;
        }
        if (payload_bytes < head.length || successor.is_some()) && self.arrivals_due.is_none() {
            let at = now.after(ARRIVALS_INTERVAL);
            self.arrivals_due = Some(at);
            effects.want_tick(at);
        }
        self.place_fragment(caller.link, index, (head.class, 0, payload_bytes), memory, effects)
    }

    /// A chunk's buffer, if its connection and class may have one more of this size.
    fn allocate_put(
        &mut self,
        now: Nanos,
        admission: &Admission,
        head: &PutChunk<'_>,
        memory: &mut impl Memory,
        effects: &mut Effects,
    ) -> Option<Slot> {
        let (bytes, held) = (slot_bytes(head.length), admission.held);
        let class = (head.class, admission.successor.is_some());
        while !self.shares.admits_put(held, bytes, class, memory) {
            // Who holds nothing doesn't wait for somebody slow.
            let slowest = self.puts.slowest(now).filter(|_| held == 0)?;
            self.fail_put(slowest, Status::Busy, memory, effects);
        }
        memory.allocate(head.length as usize)
    }

    /// Whether a put may begin: epoch and place in the chain first (R1), then its own consistency, then limits.
    fn admit_put(
        &mut self,
        now: Nanos,
        caller: Caller,
        head: &PutChunk<'_>,
        effects: &mut Effects,
    ) -> Result<Admission, Status> {
        let serves = !self.draining && self.condition == StoreCondition::Serving;
        let Some(edition) = self.edition.clone().filter(|_| serves) else {
            return Err(Status::NotServing);
        };
        let map = edition.map();
        let Some(state) = self.links.state(caller.link) else {
            return Err(Status::NotServing);
        };
        let route = map.route(head.id);
        let hop = Hop::of(&route, self.identity.store).ok_or(Status::WrongShard)?;
        if hop.predecessor != state.peer {
            // Whoever relays has the same chain in mind, or another epoch's.
            return Err(if route.epoch == head.epoch { Status::WrongShard } else { Status::WrongEpoch });
        }
        if route.epoch != head.epoch {
            return Err(Status::WrongEpoch);
        }
        if hop.class != head.class {
            return Err(Status::BadRequest);
        }
        // An epoch that is being prepared acks nothing (R5); too few copies to be safe: none is made (R6).
        if !route.takes_writes() {
            return Err(Status::NotServing);
        }
        head_verifies(head)?;
        let puts_max = self.puts.len() >= PUTS_MAX;
        if state.put_index(caller.correlation).is_some() {
            return Err(Status::BadRequest);
        }
        if puts_max || state.puts.len() >= LINK_PUTS_MAX {
            return Err(Status::Busy);
        }
        let admission = Admission { held: state.put_bytes, successor: hop.successor };
        if let Some((store, _)) = hop.successor {
            self.reach_successor(now, store, effects)?;
        }
        Ok(admission)
    }

    /// The put whose fragments arrive under this correlation id.
    pub(crate) fn receiving(&mut self, caller: Caller) -> Option<u32> {
        let index = self.links.state(caller.link)?.put_index(caller.correlation)?;
        matches!(self.puts.at(index).stage, Stage::Receiving(_)).then_some(index)
    }

    /// A later fragment.
    pub(crate) fn on_fragment(
        &mut self,
        caller: Caller,
        class: HopClass,
        offset: u32,
        payload_bytes: u32,
        memory: &mut impl Memory,
        effects: &mut Effects,
    ) -> Placement {
        let index = self.links.state(caller.link).and_then(|state| state.put_index(caller.correlation));
        let fragment = (class, offset, payload_bytes);
        match index {
            Some(index) => self.place_fragment(caller.link, index, fragment, memory, effects),
            // Of a put that was refused or failed: the peer hadn't heard yet when it sent this.
            None => self.discard(caller.link, class, payload_bytes, effects),
        }
    }

    fn place_fragment(
        &mut self,
        link: Link,
        index: u32,
        (class, offset, bytes): (HopClass, u32, u32),
        memory: &mut impl Memory,
        effects: &mut Effects,
    ) -> Placement {
        let put = self.puts.at(index);
        let Stage::Receiving(slot) = put.stage else {
            return Placement::Close(CloseReason::Protocol);
        };
        if put.class != class || !put.expects(offset, bytes) {
            self.fail_put(index, Status::BadRequest, memory, effects);
            return self.discard(link, class, bytes, effects);
        }
        if let Some(state) = self.links.state(link) {
            state.arriving = Some(Arriving { put: index, offset, bytes });
        }
        Placement::Into { slot, offset }
    }

    /// The peer gives a put up.
    pub(crate) fn on_abort(
        &mut self,
        link: Link,
        correlation: u64,
        memory: &mut impl Memory,
        effects: &mut Effects,
    ) -> Option<CloseReason> {
        let index = self.links.state(link).and_then(|state| state.put_index(correlation))?;
        if let Stage::Receiving(slot) = self.puts.at(index).stage {
            let put = self.puts.at(index);
            let (class, received) = (put.class, put.received);
            memory.release(slot);
            self.end_put(index, effects);
            self.owe_credit(link, class, received, effects);
        }
        None
    }

    /// A put that hasn't reached the store ends with `status`.
    pub(crate) fn fail_put(
        &mut self,
        index: u32,
        status: Status,
        memory: &mut impl Memory,
        effects: &mut Effects,
    ) {
        let put = self.puts.at(index);
        let Stage::Receiving(slot) = put.stage else {
            unreachable!("only a put that is being received fails here");
        };
        let (link, correlation, class, mut spent) = (put.link, put.correlation, put.class, put.received);
        memory.release(slot);
        self.end_put(index, effects);
        // A fragment on its way goes into a slot that nobody looks at; the driver has its own reference.
        let of_this = |arriving: &mut Arriving| arriving.put == index;
        if let Some(arriving) = self.links.state(link).and_then(|state| state.arriving.take_if(of_this)) {
            spent += arriving.bytes;
        }
        self.refuse(Self::put_caller(link, correlation), status, effects);
        self.owe_credit(link, class, spent, effects);
    }

    /// Frees a put's place and what it counted. Its slot was given back.
    pub(crate) fn end_put(&mut self, index: u32, effects: &mut Effects) {
        self.abort_relay(index, effects);
        let put = self.puts.at(index);
        let (link, correlation, bytes) = (put.link, put.correlation, slot_bytes(put.length));
        self.puts.end(index);
        self.shares.puts -= bytes;
        if let Some(state) = self.links.state(link) {
            state.forget_put(correlation, bytes);
        }
    }

    /// Ends the puts whose chunks arrive too slowly: their buffers are others' as well (R39).
    pub(crate) fn fail_slow_puts(&mut self, now: Nanos, memory: &mut impl Memory, effects: &mut Effects) {
        while let Some(index) = self.puts.overdue(now) {
            self.fail_put(index, Status::DeadlineExceeded, memory, effects);
        }
        self.give_up_silent(now, memory, effects);
        self.tend_peers(now, memory, effects);
        let is_watched = self.puts.any_waits() || self.peers.has_suspects();
        self.arrivals_due = is_watched.then(|| now.after(ARRIVALS_INTERVAL));
    }

    /// The store has answered a put.
    pub(crate) fn finish_put(
        &mut self,
        index: u32,
        status: Status,
        memory: &mut impl Memory,
        effects: &mut Effects,
    ) {
        self.puts.at(index).local = Some(status);
        self.settle_put(index, memory, effects);
    }

    /// Ends a put once the store has answered and either failed or the successor has answered, too: acks it if its epoch still stands (R1).
    pub(crate) fn settle_put(&mut self, index: u32, memory: &mut impl Memory, effects: &mut Effects) {
        let put = self.puts.at(index);
        let Some(local) = put.local else { return };
        let alone = Some(Status::Ok).filter(|_| put.relay.is_none() || planted(Bug::ShardAcksAlone));
        let behind = alone.or_else(|| put.relay.and_then(|relay| relay.outcome));
        let status = match (local, behind) {
            (Status::Ok, None) => return,
            (Status::Ok, Some(status)) | (status, _) => status,
        };
        let (link, correlation, id, epoch, class, length) =
            (put.link, put.correlation, put.id, put.epoch, put.class, put.length);
        let (slot, heard) = match put.stage {
            Stage::Storing(slot) => (slot, true),
            Stage::Abandoned(slot) => (slot, false),
            Stage::Free | Stage::Receiving(_) => unreachable!("the store answers what it was given"),
        };
        memory.release(slot);
        self.end_put(index, effects);
        if local == Status::AlreadyExists {
            self.tell_conflict(id, effects);
        }
        if !heard {
            return;
        }
        let caller = Self::put_caller(link, correlation);
        let map = self.map().expect("a put is admitted under a map");
        let stands = map.route(id).epoch == epoch || planted(Bug::ShardAcksLowerEpoch);
        let number = map.number();
        match status {
            Status::Ok if stands => {
                self.counters.puts += 1;
                self.counters.put_bytes += u64::from(length);
                self.replier.send(caller, &acked(number), effects);
            }
            Status::Ok => self.refuse(caller, Status::WrongEpoch, effects),
            status => self.refuse(caller, status, effects),
        }
        self.owe_credit(link, class, length, effects);
    }

    /// R4: an alarm, once a chunk. Ids of one client's session rise, so that the lowest are the ones that are done with.
    fn tell_conflict(&mut self, id: ChunkId, effects: &mut Effects) {
        if self.conflicts_told.insert(id) {
            effects.conflicting.push(id);
        }
        if self.conflicts_told.len() > CONFLICTS_TOLD_MAX {
            self.conflicts_told.pop_first();
        }
    }

    /// Blocks of a chunk are wanted. No epoch is asked for (R11).
    pub(crate) fn on_get(
        &mut self,
        now: Nanos,
        caller: Caller,
        get: GetChunk,
        memory: &mut impl Memory,
        effects: &mut Effects,
    ) -> Option<CloseReason> {
        if !is_plausible(get) {
            self.refuse(caller, Status::BadRequest, effects);
            return None;
        }
        if self.edition.is_none() || self.condition == StoreCondition::Starting {
            self.refuse(caller, Status::NotServing, effects);
            return None;
        }
        let state = self.links.state(caller.link)?;
        let is_replica = state.peer.is_some();
        let left = self.shares.left_for(is_replica, memory);
        if !state.takes_get(left) || !state.waiting_gets.is_empty() || is_replica {
            if state.waiting_gets.len() >= LINK_GETS_WAITING_MAX {
                self.refuse(caller, Status::Busy, effects);
            } else {
                state.waiting_gets.push_back((caller.correlation, get));
                if is_replica {
                    self.pace_fetched(caller.link);
                }
            }
            return None;
        }
        self.start_get(now, caller, get, memory, effects);
        None
    }

    /// Another replica's gets wait for the rate at which it is served.
    fn pace_fetched(&mut self, link: Link) {
        if !self.sync.paced.contains(&link) {
            self.sync.paced.push_back(link);
        }
        self.sync.wake();
    }

    /// Hands a get to the store.
    fn start_get(
        &mut self,
        now: Nanos,
        caller: Caller,
        get: GetChunk,
        memory: &mut impl Memory,
        effects: &mut Effects,
    ) {
        let Some(length) = self.store.find(get.id).map(|entry| entry.length) else {
            let status = if self.owns(get.id) { Status::NotFound } else { Status::WrongShard };
            self.refuse(caller, status, effects);
            return;
        };
        if self.gets.len() >= GETS_MAX {
            self.refuse(caller, Status::Busy, effects);
            return;
        }
        let blocks = u32::try_from(wire::checksum::leaf_count(length as usize)).expect("at most 1,024");
        let count = if get.block_count == 0 { blocks } else { get.block_count };
        if get.first_block + count > blocks {
            self.refuse(caller, Status::BadRequest, effects);
            return;
        }
        let block = u32::try_from(wire::limits::BLOCK_BYTES).expect("4,096");
        let bytes = (count * block).min(length - get.first_block * block);
        let charge = block_bytes(bytes);
        let is_replica = self.links.state(caller.link).is_some_and(|state| state.peer.is_some());
        // The only one of other replicas' may be larger than their share.
        let has_room = if is_replica {
            self.shares.fetched == 0 || charge <= self.shares.fetched_left(memory)
        } else {
            charge <= self.shares.gets_left(memory)
        };
        if !has_room || !spares(charge, memory) {
            self.refuse(caller, Status::Busy, effects);
            return;
        }
        if let Some(state) = self.links.state(caller.link) {
            state.get_bytes += charge;
        }
        *self.shares.read_for(is_replica) += charge;
        if is_replica {
            self.sync.source_pace.spend(u64::from(bytes));
            self.sync.counters.bytes_served += u64::from(bytes);
        }
        let token = self.gets.begin(caller, bytes, now, is_replica);
        self.store_get(now, token, get.id, get.first_block..get.first_block + count, memory, effects);
    }

    /// A get is over without bytes.
    pub(crate) fn fail_get(&mut self, token: u32, status: Status, effects: &mut Effects) {
        let get = self.gets.end(token);
        let charge = block_bytes(get.bytes);
        *self.shares.read_for(get.is_replica) -= charge;
        if let Some(caller) = get.caller {
            if let Some(state) = self.links.state(caller.link) {
                state.get_bytes -= charge;
            }
            // Gets that wait for these bytes begin at the turn's end: the store is still answering.
            self.kicked.push(caller.link);
            self.refuse(caller, status, effects);
        }
    }

    /// So many payload bytes of a connection have left: gets that waited for that begin.
    pub fn on_sent(
        &mut self,
        now: Nanos,
        link: Link,
        bytes: u32,
        memory: &mut impl Memory,
        effects: &mut Effects,
    ) {
        let Some(state) = self.links.state(link) else {
            return;
        };
        let charge = block_bytes(bytes);
        state.get_bytes -= charge;
        let is_replica = state.peer.is_some();
        *self.shares.read_for(is_replica) -= charge;
        self.start_waiting_gets(now, link, memory, effects);
    }

    /// Starts the gets of a connection that wait for others to have left, or for the rate at which other replicas are served.
    pub(crate) fn start_waiting_gets(
        &mut self,
        now: Nanos,
        link: Link,
        memory: &mut impl Memory,
        effects: &mut Effects,
    ) {
        loop {
            let is_replica = self.links.state(link).is_some_and(|state| state.peer.is_some());
            if is_replica && self.sync.source_pace.admits(now).is_err() {
                if self.links.state(link).is_some_and(|state| !state.waiting_gets.is_empty()) {
                    self.pace_fetched(link);
                }
                return;
            }
            let left = self.shares.left_for(is_replica, memory);
            let next = self.links.state(link).filter(|state| state.takes_get(left));
            let Some((correlation, get)) = next.and_then(|state| state.waiting_gets.pop_front()) else {
                return;
            };
            let caller = Caller { link, kind: wire::FrameKind::GetChunk, correlation };
            self.start_get(now, caller, get, memory, effects);
        }
    }
}
