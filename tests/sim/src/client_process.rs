//! One client process: the shipped core, its arena, and the driver that the executor thread is in production.

use std::collections::BTreeMap;
use std::sync::Arc;

use client::UnavailableReason;
use client::core::{Core, Done, Effect, Effects, Event, Failure, LinkNumber, PayloadPlace, Settings, Ticket};
use wire::{Memory, Nanos, PREFIX_BYTES, Prefix};

use crate::memory::SimMemory;
use crate::network::{Connection, Frame, Network, Payload, Sender, Side};
use crate::schedule::Schedule;
use crate::workload::Order;
use crate::world::Happening;

/// Bytes of a client's arena.
const ARENA_BYTES: usize = 64 << 20;

/// A call's result, as the core gave it out.
pub(crate) type Finished = (Ticket, Result<Done, Failure>);

/// See the module.
#[derive(Debug)]
pub(crate) struct ClientProcess {
    number: usize,
    life: u64,
    core: Core,
    /// Its arena.
    pub memory: SimMemory,
    effects: Effects,
    links: BTreeMap<LinkNumber, Connection>,
    connections: BTreeMap<Connection, LinkNumber>,
    arriving: BTreeMap<Connection, PayloadPlace>,
    armed: Option<Nanos>,
}

/// What a process needs to act.
pub(crate) struct Surroundings<'a> {
    /// Time.
    pub schedule: &'a mut Schedule<Happening>,
    /// Connections.
    pub network: &'a mut Network,
}

impl ClientProcess {
    /// A process that has just started.
    pub(crate) fn new(
        number: usize,
        life: u64,
        seed: u64,
        endpoints: Vec<Arc<str>>,
        window_bytes: u64,
    ) -> Self {
        let settings = Settings {
            endpoints,
            name: format!("client {number}"),
            window_bytes,
            seed: seed ^ (number as u64) << 32 ^ life,
        };
        Self {
            number,
            life,
            core: Core::new(settings),
            memory: SimMemory::new(ARENA_BYTES),
            effects: Effects::new(),
            links: BTreeMap::new(),
            connections: BTreeMap::new(),
            arriving: BTreeMap::new(),
            armed: None,
        }
    }

    /// Whether the core holds no request of anybody.
    pub(crate) fn counts(&self) -> client::core::Counts {
        self.core.counts()
    }

    /// Gives the core what the workload wants.
    pub(crate) fn on_order(&mut self, order: Order, around: &mut Surroundings<'_>) -> Vec<Finished> {
        match order {
            Order::Call(ticket, call, patience) => {
                self.handle(Event::Call { ticket, call, patience }, around)
            }
            Order::CloseUpload(upload) => self.handle(Event::CloseUpload(upload), around),
            Order::CloseRead(read) => self.handle(Event::CloseRead(read), around),
            Order::Cancel(ticket) => self.handle(Event::Cancel { ticket }, around),
            Order::Wake(..) => unreachable!("the world's to carry out"),
        }
    }

    /// The client ends in order.
    pub(crate) fn on_shutdown(&mut self, around: &mut Surroundings<'_>) -> Vec<Finished> {
        self.handle(Event::Shutdown, around)
    }

    /// A timer that was armed for `at` rings.
    pub(crate) fn on_tick(&mut self, at: Nanos, around: &mut Surroundings<'_>) -> Vec<Finished> {
        if self.armed != Some(at) {
            return Vec::new();
        }
        self.armed = None;
        self.handle(Event::Tick, around)
    }

    /// The call was taken.
    pub(crate) fn on_up(&mut self, connection: Connection, around: &mut Surroundings<'_>) -> Vec<Finished> {
        match self.connections.get(&connection) {
            Some(&link) => self.handle(Event::LinkUp(link), around),
            None => Vec::new(),
        }
    }

    /// The connection is over, or did not come about.
    pub(crate) fn on_down(
        &mut self,
        connection: Connection,
        reason: UnavailableReason,
        around: &mut Surroundings<'_>,
    ) -> Vec<Finished> {
        let Some(link) = self.connections.remove(&connection) else { return Vec::new() };
        self.links.remove(&link);
        self.stop_arriving(connection);
        self.handle(Event::LinkDown { link, reason }, around)
    }

    /// A frame's head arrived.
    pub(crate) fn on_head(
        &mut self,
        connection: Connection,
        head: &[u8],
        around: &mut Surroundings<'_>,
    ) -> Vec<Finished> {
        let Some(&link) = self.connections.get(&connection) else { return Vec::new() };
        let (bytes, message) =
            head.split_first_chunk::<PREFIX_BYTES>().expect("a frame begins with a prefix");
        let prefix = Prefix::decode(bytes).expect("the simulated network doesn't damage heads");
        Prefix::verify(bytes, message).expect("the simulated network doesn't damage heads");
        let now = around.schedule.now();
        let event = Event::Head { link, prefix: &prefix, message };
        let place = self.core.handle(now, event, &mut self.memory, &mut self.effects);
        if place != PayloadPlace::Close && prefix.payload_bytes > 0 {
            // The driver's own reference while bytes arrive.
            if let PayloadPlace::Into { slot, .. } = place {
                self.memory.retain(slot);
            }
            self.arriving.insert(connection, place);
        }
        self.carry_out(around)
    }

    /// The payload of the head before arrived.
    pub(crate) fn on_body(
        &mut self,
        connection: Connection,
        body: &[u8],
        around: &mut Surroundings<'_>,
    ) -> Vec<Finished> {
        let Some(&link) = self.connections.get(&connection) else { return Vec::new() };
        match self.arriving.remove(&connection) {
            Some(PayloadPlace::Into { slot, offset }) => {
                let offset = offset as usize;
                self.memory.bytes_mut(slot)[offset..offset + body.len()].copy_from_slice(body);
                self.memory.release(slot);
                self.handle(Event::Payload(link), around)
            }
            Some(PayloadPlace::Discard) => Vec::new(),
            other => panic!("a payload arrived where {other:?} was expected"),
        }
    }

    /// A frame leaves: its payload's bytes, and the slot's reference goes back.
    pub(crate) fn on_depart(&mut self, payload: Option<Payload>) -> Vec<u8> {
        let Some(payload) = payload else { return Vec::new() };
        let offset = payload.offset as usize;
        let bytes = self.memory.bytes(payload.slot)[offset..offset + payload.length as usize].to_vec();
        self.memory.release(payload.slot);
        bytes
    }

    fn stop_arriving(&mut self, connection: Connection) {
        if let Some(PayloadPlace::Into { slot, .. }) = self.arriving.remove(&connection) {
            self.memory.release(slot);
        }
    }

    fn handle(&mut self, event: Event<'_>, around: &mut Surroundings<'_>) -> Vec<Finished> {
        self.core.handle(around.schedule.now(), event, &mut self.memory, &mut self.effects);
        self.carry_out(around)
    }

    fn carry_out(&mut self, around: &mut Surroundings<'_>) -> Vec<Finished> {
        let mut finished = Vec::new();
        let mut list = self.effects.take();
        for effect in list.drain(..) {
            match effect {
                Effect::Connect { link, address } => {
                    let connection = around.network.call(self.number, &address, around.schedule);
                    self.links.insert(link, connection);
                    self.connections.insert(connection, link);
                }
                Effect::Send { link, head, payload } => {
                    let connection = self.links[&link];
                    let head = self.effects.head(head).to_vec();
                    let payload = payload.map(|part| {
                        self.memory.retain(part.slot);
                        Payload { slot: part.slot, offset: part.offset, length: part.length }
                    });
                    let (life, sender) = (self.life, Sender::Client(self.number));
                    let frame = Frame { connection, from: Side::Caller, life, sender, head, payload };
                    Network::send(frame, around.schedule);
                }
                Effect::Close { link } => {
                    if let Some(connection) = self.links.remove(&link) {
                        self.connections.remove(&connection);
                        self.stop_arriving(connection);
                        around.network.close(connection, Side::Caller, around.schedule);
                    }
                }
                Effect::Arm(at) => {
                    self.armed = Some(at);
                    around
                        .schedule
                        .at(at, Happening::ClientTick { client: self.number, life: self.life, at });
                }
                Effect::Finished { ticket, result } => finished.push((ticket, result)),
            }
        }
        self.effects.clear(list);
        finished
    }
}
