//! Puts and gets, from a connection's frames to the store and back.

use wire::message::{GetChunk, PutChunk, StoreCondition};
use wire::{Memory, Nanos, Status};

use crate::effects::{CloseReason, Effects, Link, Placement};
use crate::get::{GETS_MAX, is_plausible};
use crate::link::{Arriving, LINK_GET_BYTES_MAX, LINK_GETS_WAITING_MAX, LINK_PUTS_MAX};
use crate::put::{PUTS_MAX, Stage, acked, head_verifies};
use crate::reply::Caller;
use crate::shard::Shard;

impl Shard {
    /// The head of a chunk, with its first fragment behind it.
    pub(crate) fn on_put_head(
        &mut self,
        caller: Caller,
        head: &PutChunk<'_>,
        payload_bytes: u32,
        memory: &mut impl Memory,
        effects: &mut Effects,
    ) -> Placement {
        if let Err(status) = self.admit_put(caller, head) {
            self.refuse(caller, status, effects);
            return self.discard(caller.link, payload_bytes, effects);
        }
        let Some(slot) = memory.allocate(head.length as usize) else {
            self.refuse(caller, Status::Busy, effects);
            return self.discard(caller.link, payload_bytes, effects);
        };
        let index = self.puts.begin(caller.link, caller.correlation, head, slot);
        if let Some(state) = self.links.state(caller.link) {
            state.puts.push((caller.correlation, index));
        }
        self.place_fragment(caller.link, index, 0, payload_bytes, memory, effects)
    }

    /// Whether a put may begin: epoch and ownership first (R1), then its own consistency, then limits.
    fn admit_put(&mut self, caller: Caller, head: &PutChunk<'_>) -> Result<(), Status> {
        let Some(map) =
            self.map.as_ref().filter(|_| !self.draining && self.condition == StoreCondition::Serving)
        else {
            return Err(Status::NotServing);
        };
        let route = map.route(head.id);
        if route.head().is_none_or(|store| store.store != self.identity.store) {
            return Err(Status::WrongShard);
        }
        if route.epoch != head.epoch {
            return Err(Status::WrongEpoch);
        }
        head_verifies(head)?;
        let puts_max = self.puts.len() >= PUTS_MAX;
        let Some(state) = self.links.state(caller.link) else {
            return Err(Status::NotServing);
        };
        if state.put_index(caller.correlation).is_some() {
            return Err(Status::BadRequest);
        }
        if puts_max || state.puts.len() >= LINK_PUTS_MAX {
            return Err(Status::Busy);
        }
        Ok(())
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
        offset: u32,
        payload_bytes: u32,
        memory: &mut impl Memory,
        effects: &mut Effects,
    ) -> Placement {
        let index = self.links.state(caller.link).and_then(|state| state.put_index(caller.correlation));
        match index {
            Some(index) => self.place_fragment(caller.link, index, offset, payload_bytes, memory, effects),
            // Of a put that was refused or failed: the peer hadn't heard yet when it sent this.
            None => self.discard(caller.link, payload_bytes, effects),
        }
    }

    fn place_fragment(
        &mut self,
        link: Link,
        index: u32,
        offset: u32,
        bytes: u32,
        memory: &mut impl Memory,
        effects: &mut Effects,
    ) -> Placement {
        let put = self.puts.at(index);
        let Stage::Receiving(slot) = put.stage else {
            return Placement::Close(CloseReason::Protocol);
        };
        if !put.expects(offset, bytes) {
            self.fail_put(index, Status::BadRequest, memory, effects);
            return self.discard(link, bytes, effects);
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
            let received = self.puts.at(index).received;
            memory.release(slot);
            self.puts.end(index);
            if let Some(state) = self.links.state(link) {
                state.forget_put(correlation);
            }
            self.owe_credit(link, received, effects);
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
        let (link, correlation, received) = (put.link, put.correlation, put.received);
        memory.release(slot);
        self.puts.end(index);
        if let Some(state) = self.links.state(link) {
            state.forget_put(correlation);
        }
        self.refuse(Self::put_caller(link, correlation), status, effects);
        self.owe_credit(link, received, effects);
    }

    /// The store has answered a put: acks it if its epoch still stands (R1).
    pub(crate) fn finish_put(
        &mut self,
        index: u32,
        status: Status,
        memory: &mut impl Memory,
        effects: &mut Effects,
    ) {
        let put = self.puts.at(index);
        let (link, correlation, id, epoch, length) =
            (put.link, put.correlation, put.id, put.epoch, put.length);
        let (slot, heard) = match put.stage {
            Stage::Storing(slot) => (slot, true),
            Stage::Abandoned(slot) => (slot, false),
            Stage::Free | Stage::Receiving(_) => unreachable!("the store answers what it was given"),
        };
        memory.release(slot);
        self.puts.end(index);
        if !heard {
            return;
        }
        if let Some(state) = self.links.state(link) {
            state.forget_put(correlation);
        }
        let caller = Self::put_caller(link, correlation);
        let map = self.map.as_ref().expect("a put is admitted under a map");
        let stands = map.route(id).epoch == epoch;
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
        self.owe_credit(link, length, effects);
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
        if self.map.is_none() || self.condition == StoreCondition::Starting {
            self.refuse(caller, Status::NotServing, effects);
            return None;
        }
        let state = self.links.state(caller.link)?;
        if state.get_bytes >= LINK_GET_BYTES_MAX || !state.waiting_gets.is_empty() {
            if state.waiting_gets.len() >= LINK_GETS_WAITING_MAX {
                self.refuse(caller, Status::Busy, effects);
            } else {
                state.waiting_gets.push_back((caller.correlation, get));
            }
            return None;
        }
        self.start_get(now, caller, get, memory, effects);
        None
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
        if let Some(state) = self.links.state(caller.link) {
            state.get_bytes += bytes;
        }
        let token = self.gets.begin(caller, bytes, now);
        self.store_get(now, token, get.id, get.first_block..get.first_block + count, memory, effects);
    }

    /// A get is over without bytes.
    pub(crate) fn fail_get(&mut self, token: u32, status: Status, effects: &mut Effects) {
        let get = self.gets.end(token);
        if let Some(caller) = get.caller {
            if let Some(state) = self.links.state(caller.link) {
                state.get_bytes -= get.bytes;
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
        if let Some(state) = self.links.state(link) {
            state.get_bytes -= bytes;
        }
        while let Some(state) = self.links.state(link)
            && state.get_bytes < LINK_GET_BYTES_MAX
            && let Some((correlation, get)) = state.waiting_gets.pop_front()
        {
            let caller = Caller { link, kind: wire::FrameKind::GetChunk, correlation };
            self.start_get(now, caller, get, memory, effects);
        }
    }
}
