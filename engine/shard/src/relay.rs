//! Relaying down the chain: a verified fragment goes on to the successor at once (cut-through, R39), as far as the successor's credit reaches (R38).
//!
//! What was relayed over a connection that ends fails, and the sender asks again ([`peers`](crate::peers)).
//!
//! One connection to each successor carries the chunks of all slices that have it behind this store. Those of which it is the tail wait for nothing but its
//! disk, so they have credit of their own and go first: chains that cross each other can't wait in a circle.
//!
//! **Invariant:** a fragment is sent only after it was verified here, and a chunk's fragments are sent in order, each once.

use std::collections::{BTreeMap, VecDeque};

use placement::ClusterMap;
use wire::limits::{FRAGMENT_UNIT_BYTES, PAYLOAD_BYTES_MAX};
use wire::message::{HopClass, Leaves, PayloadMeta, PutChunk, Request, RequestHead};
use wire::planted::{Bug, planted};
use wire::{MapNumber, Memory, Nanos, Status, StoreId};

use crate::effects::{CloseReason, Effects, Link, Payload, Placement, Purpose, Send, Target};
use crate::put::Stage;
use crate::reply::position;
use crate::shard::Shard;

/// A successor that could have a whole chunk answers within this, or its connection is given up. A dead one is long out of the chain by then.
pub(crate) const ANSWER_NANOS: u64 = 10 * Nanos::SECOND;

/// The last store of a chain that has a whole chunk and doesn't answer for so long is suspected: far more than a flush takes, and well before its lease
/// of 2 s runs out, so that control has heard of it by then.
pub(crate) const SUSPECT_NANOS: u64 = 500 * Nanos::MILLISECOND;

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

/// The chunks of one class on their way to a successor.
#[derive(Debug, Default)]
struct Lane {
    credit: u64,
    /// Puts with verified bytes to send, by correlation id.
    sending: VecDeque<u64>,
}

/// The chunks on their way to a successor.
#[derive(Debug, Default)]
struct Lanes {
    middle: Lane,
    tail: Lane,
}

impl Lanes {
    fn lane(&mut self, class: HopClass) -> &mut Lane {
        if class == HopClass::Tail { &mut self.tail } else { &mut self.middle }
    }
}

/// All successors.
#[derive(Debug, Default)]
pub(crate) struct Relays {
    lanes: BTreeMap<StoreId, Lanes>,
}

impl Relays {
    /// No successor takes anything any more.
    #[cfg(test)]
    pub(crate) fn take_credit(&mut self) {
        for lanes in self.lanes.values_mut() {
            (lanes.middle.credit, lanes.tail.credit) = (0, 0);
        }
    }

    /// Puts that stand in a queue.
    #[cfg(test)]
    pub(crate) fn queued(&self) -> usize {
        self.lanes.values().map(|lanes| lanes.middle.sending.len() + lanes.tail.sending.len()).sum()
    }
}

/// The connection over which chunks go to a successor.
fn relay_to(store: StoreId) -> Target {
    Target { store, purpose: Purpose::Relay }
}

impl Shard {
    /// Whether a put may be handed on to this successor; dials it where it isn't connected.
    pub(crate) fn reach_successor(
        &mut self,
        now: Nanos,
        to: StoreId,
        effects: &mut Effects,
    ) -> Result<(), Status> {
        self.reach(now, relay_to(to), effects)?;
        self.relays.lanes.entry(to).or_default();
        Ok(())
    }

    /// A successor gives credit of a class.
    pub(crate) fn on_credit(
        &mut self,
        store: StoreId,
        class: HopClass,
        bytes: u32,
        memory: &mut impl Memory,
        effects: &mut Effects,
    ) -> Placement {
        if !matches!(class, HopClass::Middle | HopClass::Tail) {
            return Placement::Close(CloseReason::Protocol);
        }
        if let Some(lanes) = self.relays.lanes.get_mut(&store) {
            lanes.lane(class).credit += u64::from(bytes);
        }
        self.pump(store, memory, effects);
        Placement::Discard
    }

    /// A successor has greeted: chunks that wait for it go.
    pub(crate) fn on_successor_greeted(
        &mut self,
        store: StoreId,
        credit: u32,
        memory: &mut impl Memory,
        effects: &mut Effects,
    ) {
        if let Some(lanes) = self.relays.lanes.get_mut(&store) {
            (lanes.middle.credit, lanes.tail.credit) = (u64::from(credit), u64::from(credit));
        }
        self.pump(store, memory, effects);
    }

    /// The successor has answered for itself and all behind it.
    pub(crate) fn on_relayed(
        &mut self,
        correlation: u64,
        status: Status,
        memory: &mut impl Memory,
        effects: &mut Effects,
    ) -> Placement {
        let index = index_of(correlation);
        let Some(put) = self.puts.find(index) else { return Placement::Discard };
        let length = put.length;
        // The first outcome stands: what an epoch's end has failed isn't acked by an answer on its way (R1).
        let is_awaited = |relay: &&mut Relay| relay.correlation == correlation && relay.outcome.is_none();
        let Some(relay) = put.relay.as_mut().filter(is_awaited) else { return Placement::Discard };
        if status == Status::Ok && relay.sent < length {
            // It can't have what it acks.
            return Placement::Close(CloseReason::Protocol);
        }
        relay.outcome = Some(status);
        self.on_outcome(index, memory, effects);
        Placement::Discard
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
    pub(crate) fn on_successor_gone(
        &mut self,
        store: StoreId,
        memory: &mut impl Memory,
        effects: &mut Effects,
    ) {
        if let Some(lanes) = self.relays.lanes.get_mut(&store) {
            *lanes = Lanes::default();
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

    /// A new map: puts of chains that have changed end, for their acks wouldn't count (R1).
    pub(crate) fn end_lower_epochs(&mut self, memory: &mut impl Memory, effects: &mut Effects) {
        let Some(edition) = self.edition.clone() else { return };
        let map = edition.map();
        for index in 0..self.puts.places() {
            let Some(put) = self.puts.find(index) else { continue };
            if map.route(put.id).epoch == put.epoch || planted(Bug::ShardAcksLowerEpoch) {
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
    }

    /// Bytes of a put have been verified: they go on, if there is a successor.
    pub(crate) fn hand_on(&mut self, index: u32, memory: &mut impl Memory, effects: &mut Effects) {
        let put = self.puts.at(index);
        let Some(relay) = &mut put.relay else { return };
        let (to, class, correlation) = (relay.to, relay.class, relay.correlation);
        if relay.outcome.is_none()
            && !std::mem::replace(&mut relay.is_queued, true)
            && let Some(lanes) = self.relays.lanes.get_mut(&to)
        {
            lanes.lane(class).sending.push_back(correlation);
        }
        self.pump(to, memory, effects);
    }

    /// Sends what is verified and has credit; chunks of which the successor is the tail go first.
    fn pump(&mut self, to: StoreId, memory: &mut impl Memory, effects: &mut Effects) {
        let Some(link) = self.peers.greeted(relay_to(to)) else { return };
        for class in [HopClass::Tail, HopClass::Middle] {
            while let Some(lanes) = self.relays.lanes.get_mut(&to)
                && let lane = lanes.lane(class)
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
        if relay.is_queued
            && let Some(lanes) = self.relays.lanes.get_mut(&relay.to)
        {
            // So that the queue is never longer than the table of puts (I13).
            lanes.lane(relay.class).sending.retain(|queued| *queued != relay.correlation);
        }
        if let Some(link) = self.peers.link(relay_to(relay.to)).filter(|_| is_partial) {
            let head = RequestHead { correlation: relay.correlation, deadline_ms: 0 };
            self.replier.request(link, head, &Request::Abort, effects);
        }
    }

    /// Successors that have had a whole chunk for a while are suspected; for too long: their connections are given up.
    pub(crate) fn give_up_silent(&mut self, now: Nanos, memory: &mut impl Memory, effects: &mut Effects) {
        for index in 0..self.puts.places() {
            let Some(put) = self.puts.find(index) else { continue };
            let (is_whole, age) = (put.is_whole(), now.since(put.whole_at));
            let Some(relay) = put.relay.filter(|relay| is_whole && relay.outcome.is_none()) else { continue };
            if age >= suspicion_after(relay.class) {
                self.peers.suspect(relay.to, effects);
            }
            if age >= ANSWER_NANOS {
                self.hang_up(now, relay_to(relay.to), CloseReason::Silent, memory, effects);
            }
        }
    }
}

/// A successor that waits for another store may take twice as long: the last one is to be suspected by the one before it first.
fn suspicion_after(class: HopClass) -> u64 {
    if class == HopClass::Tail { SUSPECT_NANOS } else { 2 * SUSPECT_NANOS }
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
