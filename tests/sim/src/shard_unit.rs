//! A shard of a simulated node: the shipped [`Shard`] and what its driver does in production.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use journal::{IoOutcome, IoToken};
use placement::Edition;
use shard::{Dial, Effects, Identity, Link, Placement, Shard, Target};
use store::Store;
use wire::control::{ChainId, Synced};
use wire::map::Unit;
use wire::{Memory, Nanos, PREFIX_BYTES, Prefix, StoreId};

use crate::mail::Mail;
use crate::memory::SimMemory;
use crate::network::{Connection, Payload};
use crate::unit::{Note, Out, Outgoing, Peer};

/// See the module.
#[derive(Debug)]
pub(crate) struct ShardUnit {
    shard: Shard,
    effects: Effects,
    unit: Unit,
    own_store: StoreId,
    /// Stores that it can't reach.
    suspects: BTreeSet<StoreId>,
    /// Where the payload that comes next goes.
    arriving: BTreeMap<Connection, Placement>,
}

impl ShardUnit {
    /// A shard that begins to open its store.
    pub(crate) fn start(
        now: Nanos,
        identity: Identity,
        store: Store,
        edition: Arc<Edition>,
        memory: &mut SimMemory,
        out: &mut Out,
    ) -> Self {
        let mut unit = Self {
            unit: Unit::Shard(identity.shard),
            own_store: identity.store,
            suspects: BTreeSet::new(),
            shard: Shard::new(identity, store),
            effects: Effects::default(),
            arriving: BTreeMap::new(),
        };
        unit.shard.on_map(now, edition, memory, &mut unit.effects);
        unit.shard.on_start(now, memory, &mut unit.effects);
        unit.carry_out(now, memory, out);
        unit
    }

    /// The store, to be looked at.
    pub(crate) fn store(&self) -> &Store {
        self.shard.store()
    }

    /// A map to follow: the promise, once it returns (R1).
    pub(crate) fn on_map(
        &mut self,
        now: Nanos,
        edition: Arc<Edition>,
        memory: &mut SimMemory,
        out: &mut Out,
    ) {
        let number = edition.number();
        self.shard.on_map(now, edition, memory, &mut self.effects);
        self.carry_out(now, memory, out);
        out.mails.push(Mail::Followed(self.unit, number));
    }

    /// A connection was taken, or one to a successor stands.
    pub(crate) fn on_open(
        &mut self,
        now: Nanos,
        connection: Connection,
        memory: &mut SimMemory,
        out: &mut Out,
    ) {
        self.shard.on_open(Link(connection.0), &mut self.effects);
        self.carry_out(now, memory, out);
    }

    /// A connection to a successor was asked for, and has a number.
    pub(crate) fn on_called(
        &mut self,
        now: Nanos,
        target: Target,
        connection: Connection,
        memory: &mut SimMemory,
        out: &mut Out,
    ) {
        self.shard.on_dialled(now, target, Some(Link(connection.0)), memory, &mut self.effects);
        self.carry_out(now, memory, out);
    }

    /// A connection is gone.
    pub(crate) fn on_close(
        &mut self,
        now: Nanos,
        connection: Connection,
        memory: &mut SimMemory,
        out: &mut Out,
    ) {
        if let Some(Placement::Into { slot, .. }) = self.arriving.remove(&connection) {
            memory.release(slot);
        }
        self.shard.on_close(now, Link(connection.0), memory, &mut self.effects);
        self.carry_out(now, memory, out);
    }

    /// A frame's head arrived.
    pub(crate) fn on_head(
        &mut self,
        now: Nanos,
        connection: Connection,
        head: &[u8],
        memory: &mut SimMemory,
        out: &mut Out,
    ) {
        let (bytes, message) =
            head.split_first_chunk::<PREFIX_BYTES>().expect("a frame begins with a prefix");
        let prefix = Prefix::decode(bytes).expect("the simulated network doesn't damage heads");
        Prefix::verify(bytes, message).expect("the simulated network doesn't damage heads");
        let link = Link(connection.0);
        let place = self.shard.on_head(now, link, &prefix, message, memory, &mut self.effects);
        self.carry_out(now, memory, out);
        match place {
            Placement::Close(_) => {
                self.on_close(now, connection, memory, out);
                out.closes.push(connection);
            }
            place if prefix.payload_bytes > 0 => {
                // The driver's own reference while bytes arrive.
                if let Placement::Into { slot, .. } = place {
                    memory.retain(slot);
                }
                self.arriving.insert(connection, place);
            }
            _ => {}
        }
    }

    /// The payload of the head before arrived.
    pub(crate) fn on_body(
        &mut self,
        now: Nanos,
        connection: Connection,
        body: &[u8],
        memory: &mut SimMemory,
        out: &mut Out,
    ) {
        let place = self.arriving.remove(&connection).expect("a payload follows its head");
        if let Placement::Into { slot, offset } = place {
            let offset = offset as usize;
            memory.bytes_mut(slot)[offset..offset + body.len()].copy_from_slice(body);
            memory.release(slot);
        }
        self.shard.on_payload(now, Link(connection.0), memory, &mut self.effects);
        self.carry_out(now, memory, out);
    }

    /// Bytes of a payload have left.
    pub(crate) fn on_sent(
        &mut self,
        now: Nanos,
        connection: Connection,
        bytes: u32,
        memory: &mut SimMemory,
        out: &mut Out,
    ) {
        self.shard.on_sent(now, Link(connection.0), bytes, memory, &mut self.effects);
        self.carry_out(now, memory, out);
    }

    /// A disk request ended.
    pub(crate) fn on_io(
        &mut self,
        now: Nanos,
        io: IoToken,
        outcome: IoOutcome,
        memory: &mut SimMemory,
        out: &mut Out,
    ) {
        self.shard.on_io(now, io, outcome, memory, &mut self.effects);
        self.carry_out(now, memory, out);
    }

    /// No further event is at hand.
    pub(crate) fn on_turn(&mut self, now: Nanos, memory: &mut SimMemory, out: &mut Out) {
        self.shard.on_turn(now, memory, &mut self.effects);
        self.carry_out(now, memory, out);
    }

    /// A deadline has come.
    pub(crate) fn on_tick(&mut self, now: Nanos, memory: &mut SimMemory, out: &mut Out) {
        self.shard.on_tick(now, memory, &mut self.effects);
        self.carry_out(now, memory, out);
    }

    /// The end, in order.
    pub(crate) fn on_shutdown(&mut self, now: Nanos, memory: &mut SimMemory, out: &mut Out) {
        self.shard.on_shutdown(now, memory, &mut self.effects);
        self.carry_out(now, memory, out);
    }

    fn carry_out(&mut self, now: Nanos, memory: &mut SimMemory, out: &mut Out) {
        let mut effects = std::mem::take(&mut self.effects);
        out.io.take_over(&effects.io);
        for send in &effects.sends {
            let head = effects.bytes[send.head.0 as usize..send.head.1 as usize].to_vec();
            let payload = send.payload.map(|payload| Payload {
                slot: payload.slot,
                offset: payload.offset,
                length: payload.len,
            });
            out.sends.push(Outgoing { connection: Connection(send.link.0), head, payload });
        }
        let calls = effects.dials.drain(..).map(|Dial { target, address }| (Peer::Store(target), address));
        out.calls.extend(calls);
        let closes = std::mem::take(&mut effects.closes);
        if let Some(at) = effects.deadline {
            out.arm(at);
        }
        for synced in effects.synced.drain(..) {
            let missing = u32::try_from(synced.missing).unwrap_or(u32::MAX);
            let (chain, epoch, store) = (ChainId::Slice(synced.slice), synced.epoch, self.own_store);
            out.mails.push(Mail::Synced(Synced { chain, epoch, store, missing }));
        }
        if !effects.suspects.is_empty() {
            for suspicion in effects.suspects.drain(..) {
                if suspicion.is_suspect {
                    self.suspects.insert(suspicion.store);
                } else {
                    self.suspects.remove(&suspicion.store);
                }
            }
            out.mails.push(Mail::Suspects(self.unit, self.suspects.iter().copied().collect()));
        }
        out.notes.extend(effects.damaged.iter().map(|id| Note::Damaged(*id)));
        if effects.opened {
            if !self.shard.store().damaged_batches().is_empty() {
                out.notes.push(Note::BatchesDamaged);
            }
            out.notes.push(Note::Opened);
        }
        if effects.open_failed {
            let why = self.shard.store().open_error().map_or_else(String::new, |error| error.to_string());
            out.notes.push(Note::OpenFailed(why));
        }
        if effects.fenced {
            out.notes.push(Note::Fenced);
        }
        if effects.shut_down {
            out.notes.push(Note::ShutDown);
        }
        self.effects = effects;
        self.effects.clear();
        for (link, _) in closes {
            out.closes.push(Connection(link.0));
            self.on_close(now, Connection(link.0), memory, out);
        }
    }
}

/// Gives a frame's slot back.
pub(crate) fn take_payload(payload: Payload, memory: &mut SimMemory) -> Vec<u8> {
    let offset = payload.offset as usize;
    let bytes = memory.bytes(payload.slot)[offset..offset + payload.length as usize].to_vec();
    memory.release(payload.slot);
    bytes
}
