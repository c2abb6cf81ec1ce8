//! Time, links and memory for the core: everything from a seed, in one thread.

use std::collections::BTreeMap;
use std::sync::Arc;

use wire::{Memory, Nanos, PREFIX_BYTES, Prefix, Slot};

use crate::core::fake::{FakeCluster, FakeConnection, META};
use crate::core::random::Random;
use crate::core::{
    Call, Core, Done, Effect, Effects, Event, Failure, LinkNumber, PayloadPlace, Settings, Ticket,
};
use crate::error::UnavailableReason;

/// Buffers with a limit; a leak or a use after release is noticed.
pub(super) struct TestMemory {
    slots: Vec<(u32, u32, Vec<u8>)>,
    free: Vec<u32>,
    pub(super) used_bytes: usize,
    pub(super) used_bytes_max: usize,
    pub(super) limit_bytes: usize,
}

impl TestMemory {
    fn new() -> Self {
        Self { slots: Vec::new(), free: Vec::new(), used_bytes: 0, used_bytes_max: 0, limit_bytes: 64 << 20 }
    }

    fn check(&self, slot: Slot) {
        let (generation, references, _) = &self.slots[slot.index as usize];
        assert!(*generation == slot.generation && *references > 0, "{slot:?} was released before");
    }
}

impl Memory for TestMemory {
    fn allocate(&mut self, bytes: usize) -> Option<Slot> {
        let capacity = bytes.max(4096).next_power_of_two();
        if self.used_bytes + capacity > self.limit_bytes {
            return None;
        }
        self.used_bytes += capacity;
        self.used_bytes_max = self.used_bytes_max.max(self.used_bytes);
        let index = self.free.pop().unwrap_or_else(|| {
            self.slots.push((0, 0, Vec::new()));
            u32::try_from(self.slots.len() - 1).expect("few")
        });
        let (generation, references, buffer) = &mut self.slots[index as usize];
        (*references, *buffer) = (1, vec![0xEE; capacity]);
        Some(Slot { index, generation: *generation })
    }

    fn retain(&mut self, slot: Slot) {
        self.check(slot);
        self.slots[slot.index as usize].1 += 1;
    }

    fn release(&mut self, slot: Slot) {
        self.check(slot);
        let (generation, references, buffer) = &mut self.slots[slot.index as usize];
        *references -= 1;
        if *references == 0 {
            *generation += 1;
            self.used_bytes -= buffer.len();
            *buffer = Vec::new();
            self.free.push(slot.index);
        }
    }

    fn bytes(&self, slot: Slot) -> &[u8] {
        self.check(slot);
        &self.slots[slot.index as usize].2
    }

    fn bytes_mut(&mut self, slot: Slot) -> &mut [u8] {
        self.check(slot);
        &mut self.slots[slot.index as usize].2
    }
}

/// What links do to frames, in thousandths.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Faults {
    pub(super) drop: u64,
    pub(super) duplicate: u64,
    pub(super) delay: u64,
    pub(super) cut: u64,
    /// A bit of a payload to the client flips.
    pub(super) flip: u64,
}

struct SimLink {
    address: Arc<str>,
    connection: Option<FakeConnection>,
    /// Frames of one direction stay in order.
    to_server: Nanos,
    to_client: Nanos,
}

enum Happening {
    LinkUp(LinkNumber),
    LinkDown(LinkNumber, UnavailableReason),
    ToServer(LinkNumber, Vec<u8>),
    ToClient(LinkNumber, Vec<u8>),
}

pub(super) struct World {
    pub(super) now: Nanos,
    pub(super) core: Core,
    pub(super) cluster: FakeCluster,
    pub(super) memory: TestMemory,
    pub(super) faults: Faults,
    pub(super) finished: BTreeMap<Ticket, (Nanos, Result<Done, Failure>)>,
    /// Addresses that refuse connections.
    pub(super) dead: Vec<String>,
    /// Addresses whose servers take frames and never answer.
    pub(super) mute: Vec<String>,
    /// Nanoseconds that a byte takes on a link.
    pub(super) byte_time: u64,
    pub(super) connects: u64,
    pub(super) trace: u64,
    effects: Effects,
    links: BTreeMap<LinkNumber, SimLink>,
    queue: BTreeMap<(Nanos, u64), Happening>,
    queued: u64,
    armed: Option<Nanos>,
    random: Random,
    tickets: u64,
}

pub(super) const PATIENCE: u64 = 30 * Nanos::SECOND;

impl World {
    pub(super) fn new(seed: u64) -> Self {
        Self::with(seed, FakeCluster::new(), 4 << 20)
    }

    pub(super) fn with(seed: u64, cluster: FakeCluster, window_bytes: u64) -> Self {
        Self::of(
            Settings { endpoints: vec![Arc::from(META)], name: "test".to_owned(), window_bytes, seed },
            cluster,
        )
    }

    pub(super) fn of(settings: Settings, cluster: FakeCluster) -> Self {
        let seed = settings.seed;
        Self {
            now: Nanos(1_000_000_000),
            core: Core::new(settings),
            cluster,
            memory: TestMemory::new(),
            faults: Faults::default(),
            finished: BTreeMap::new(),
            dead: Vec::new(),
            mute: Vec::new(),
            byte_time: 0,
            connects: 0,
            trace: 0,
            effects: Effects::new(),
            links: BTreeMap::new(),
            queue: BTreeMap::new(),
            queued: 0,
            armed: None,
            random: Random::new(seed ^ 0xABCD),
            tickets: 0,
        }
    }

    pub(super) fn call(&mut self, call: Call) -> Ticket {
        self.call_for(call, PATIENCE)
    }

    pub(super) fn call_for(&mut self, call: Call, patience: u64) -> Ticket {
        self.tickets += 1;
        let ticket = Ticket(self.tickets);
        self.event(Event::Call { ticket, call, patience });
        ticket
    }

    pub(super) fn event(&mut self, event: Event<'_>) -> PayloadPlace {
        let place = self.core.handle(self.now, event, &mut self.memory, &mut self.effects);
        let list = self.effects.take();
        for effect in &list {
            self.perform(effect);
        }
        self.effects.clear(list);
        place
    }

    fn perform(&mut self, effect: &Effect) {
        match effect {
            Effect::Connect { link, address } => {
                self.connects += 1;
                let delay = 100_000 + self.random.below(100_000);
                let is_dead = self.dead.iter().any(|dead| **dead == **address);
                let happening = if is_dead {
                    Happening::LinkDown(*link, UnavailableReason::Connect)
                } else {
                    Happening::LinkUp(*link)
                };
                let entry = SimLink {
                    address: Arc::clone(address),
                    connection: Some(FakeConnection::new(address)),
                    to_server: self.now,
                    to_client: self.now,
                };
                self.links.insert(*link, entry);
                self.queue(self.now.after(delay), happening);
            }
            Effect::Send { link, head, payload } => {
                let mut frame = self.effects.head(*head).to_vec();
                let declared = {
                    let bytes: &[u8; PREFIX_BYTES] = frame[..PREFIX_BYTES].try_into().expect("a prefix");
                    Prefix::decode(bytes).expect("the core sends frames").payload_bytes
                };
                assert_eq!(declared, payload.map_or(0, |part| part.length));
                if let Some(part) = payload {
                    let start = part.offset as usize;
                    frame.extend_from_slice(
                        &self.memory.bytes(part.slot)[start..start + part.length as usize],
                    );
                }
                self.transfer(*link, &frame, true);
            }
            Effect::Close { link } => {
                assert!(self.links.remove(link).is_some(), "a link is closed once");
            }
            Effect::Arm(at) => self.armed = Some(*at),
            Effect::Finished { ticket, result } => {
                self.trace = self.trace.wrapping_mul(31).wrapping_add(self.now.0 ^ ticket.0);
                let before = self.finished.insert(*ticket, (self.now, result.clone()));
                assert!(before.is_none(), "a call is finished once");
            }
        }
    }

    fn queue(&mut self, at: Nanos, happening: Happening) {
        self.queued += 1;
        self.queue.insert((at, self.queued), happening);
    }

    fn chance(&mut self, thousandths: u64) -> bool {
        thousandths > 0 && self.random.below(1000) < thousandths
    }

    /// Puts a frame on a link, with whatever the faults do to it.
    fn transfer(&mut self, link: LinkNumber, frame: &[u8], to_server: bool) {
        let faults = self.faults;
        if self.chance(faults.drop) {
            return;
        }
        if self.chance(faults.cut) {
            let at = self.now.after(self.random.below(1_000_000));
            self.queue(at, Happening::LinkDown(link, UnavailableReason::Disconnected));
        }
        let copies = if self.chance(faults.duplicate) { 2 } else { 1 };
        for _ in 0..copies {
            let mut delay = 20_000 + self.random.below(50_000);
            if self.chance(faults.delay) {
                delay += self.random.below(3 * Nanos::SECOND);
            }
            let mut frame = frame.to_vec();
            if !to_server && self.chance(faults.flip) {
                flip_payload(&mut frame, self.random.next());
            }
            let Some(entry) = self.links.get_mut(&link) else { return };
            let last = if to_server { &mut entry.to_server } else { &mut entry.to_client };
            let transfer = self.byte_time * frame.len() as u64;
            let at = self.now.after(delay).max(last.after(1 + transfer));
            *last = at;
            let happening =
                if to_server { Happening::ToServer(link, frame) } else { Happening::ToClient(link, frame) };
            self.queue(at, happening);
        }
    }

    /// Goes on to the next thing that happens, or to `until` if that is earlier. False at `until`.
    pub(super) fn step(&mut self, until: Nanos) -> bool {
        let next = self.queue.keys().next().map(|(at, _)| *at);
        let tick = self.armed;
        let at = [next, tick].into_iter().flatten().min().unwrap_or(until).max(self.now);
        if at >= until {
            self.now = until.max(self.now);
            return false;
        }
        self.now = at;
        if tick.is_some_and(|tick| tick <= at) {
            self.armed = None;
            self.event(Event::Tick);
            return true;
        }
        let (_, happening) = self.queue.pop_first().expect("it is next");
        self.happen(happening);
        true
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::LinkUp(link) => {
                if self.links.contains_key(&link) {
                    self.event(Event::LinkUp(link));
                }
            }
            Happening::LinkDown(link, reason) => {
                if self.links.remove(&link).is_some() {
                    self.event(Event::LinkDown { link, reason });
                }
            }
            Happening::ToServer(link, frame) => {
                let Some(entry) = self.links.get_mut(&link) else { return };
                let Some(mut connection) = entry.connection.take() else { return };
                let is_mute = self.mute.iter().any(|mute| **mute == *entry.address);
                let mut replies = Vec::new();
                self.cluster.on_frame(&mut connection, &frame, &mut replies);
                if let Some(entry) = self.links.get_mut(&link) {
                    entry.connection = Some(connection);
                }
                if !is_mute {
                    for reply in replies {
                        self.transfer(link, &reply, false);
                    }
                }
            }
            Happening::ToClient(link, frame) => {
                if self.links.contains_key(&link) {
                    self.receive(link, &frame);
                }
            }
        }
    }

    fn receive(&mut self, link: LinkNumber, frame: &[u8]) {
        let bytes: &[u8; PREFIX_BYTES] = frame[..PREFIX_BYTES].try_into().expect("a whole frame");
        let prefix = Prefix::decode(bytes).expect("the fake sends frames");
        let (message, payload) = frame[PREFIX_BYTES..].split_at(prefix.message_bytes as usize);
        match self.event(Event::Head { link, prefix: &prefix, message }) {
            PayloadPlace::None => assert!(payload.is_empty()),
            PayloadPlace::Discard => assert!(!payload.is_empty()),
            PayloadPlace::Close => assert!(!self.links.contains_key(&link)),
            PayloadPlace::Into { slot, offset } => {
                let start = offset as usize;
                self.memory.bytes_mut(slot)[start..start + payload.len()].copy_from_slice(payload);
                self.event(Event::Payload(link));
            }
        }
    }

    /// Breaks every connection to `address`, with all frames on the way.
    pub(super) fn crash(&mut self, address: &str) {
        let links: Vec<LinkNumber> =
            self.links.iter().filter(|(_, link)| *link.address == *address).map(|(link, _)| *link).collect();
        for link in links {
            self.happen(Happening::LinkDown(link, UnavailableReason::Disconnected));
        }
    }

    pub(super) fn run_for(&mut self, nanoseconds: u64) {
        let until = self.now.after(nanoseconds);
        while self.step(until) {}
    }

    /// Runs until the call is finished, at most a minute and a half.
    pub(super) fn finish(&mut self, ticket: Ticket) -> Result<Done, Failure> {
        let until = self.now.after(90 * Nanos::SECOND);
        while !self.finished.contains_key(&ticket) {
            assert!(self.step(until), "{ticket:?} isn't finished after 90 s: {:?}", self.core);
        }
        self.finished.get(&ticket).expect("just seen").1.clone()
    }

    pub(super) fn finish_call(&mut self, call: Call) -> Result<Done, Failure> {
        let ticket = self.call(call);
        self.finish(ticket)
    }

    /// A slot with these bytes.
    pub(super) fn slot(&mut self, bytes: &[u8]) -> Slot {
        let slot = self.memory.allocate(bytes.len()).expect("room");
        self.memory.bytes_mut(slot)[..bytes.len()].copy_from_slice(bytes);
        slot
    }

    pub(super) fn link_count(&self) -> usize {
        self.links.len()
    }
}

fn flip_payload(frame: &mut [u8], random: u64) {
    let bytes: &[u8; PREFIX_BYTES] = frame[..PREFIX_BYTES].try_into().expect("a whole frame");
    let prefix = Prefix::decode(bytes).expect("the fake sends frames");
    if prefix.payload_bytes > 0 {
        let start = PREFIX_BYTES + prefix.message_bytes as usize;
        let at = start + usize::try_from(random % u64::from(prefix.payload_bytes)).expect("small");
        frame[at] ^= 1 << (random >> 32 & 7);
    }
}
