//! The executor thread: drives the core over the runtime's links, on mail from the handles.
//!
//! It never blocks and decides nothing. Chunk bytes are copied once on either side of the thread: into the arena before the core hashes and sends
//! them, and out of it after the core has verified them, so that no caller can hold the arena's memory.

use std::collections::{BTreeMap, VecDeque};
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::Arc;

use bytes::Bytes;
use crossbeam::queue::SegQueue;
use placement::ClusterMap;
use runtime::{CloseReason, Io, LinkId, LinkKind, Payload, Receiver, Replier, Sender, Service, SlotRange};
use wire::message::ShardState;
use wire::meta::{Answer, Outcome};
use wire::{ChunkId, DecodePrefixError, MapNumber, Memory, Nanos, Prefix};

use crate::addresses::Addresses;
use crate::buffers::Buffers;
use crate::core::{
    Call, Core, Done, Effect, Effects, Event, Failure, LinkNumber, PayloadPlace, ReadId, Settings, Ticket,
    UploadId,
};
use crate::error::UnavailableReason;

/// What a handle sends to the thread.
#[derive(Debug)]
pub(crate) enum Command {
    /// Begin a call.
    Call { ticket: Ticket, wanted: Wanted, patience: u64, replier: Replier<Result<Value, Failure>> },
    /// A name was looked up.
    Resolved { link: LinkNumber, found: Vec<SocketAddr> },
    /// Something was closed: see [`Outlet::closings`].
    Nudge,
}

/// A call, with a put's bytes still in the caller's memory.
#[derive(Debug)]
pub(crate) enum Wanted {
    Call(Call),
    Put { upload: UploadId, bytes: Vec<u8> },
}

/// What a handle no longer needs. Has to arrive whatever the mailbox's state.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Closing {
    Call(Ticket),
    Upload(UploadId),
    Read(ReadId),
}

/// A call's result, as a handle gets it.
#[derive(Debug)]
pub(crate) enum Value {
    Map(Arc<ClusterMap>),
    Answer(Box<Answer>),
    Outcome(Box<Outcome>),
    Upload(UploadScope),
    Chunk { id: ChunkId, root: u64, map: MapNumber },
    Bytes(Bytes),
    Read(#[expect(dead_code, reason = "it is held for the sake of its drop")] ReadScope),
    ShardState(Box<ShardState>),
}

/// The way to the thread.
#[derive(Debug)]
pub(crate) struct Outlet {
    pub(crate) sender: Sender<Command>,
    /// As long as calls, uploads and reads of this process that are given up: each is there at most once (I13).
    pub(crate) closings: SegQueue<Closing>,
    /// Whoever found the mailbox full; as many as there are futures pending.
    pub(crate) waiting: SegQueue<std::task::Waker>,
}

/// What the thread shares with the handles.
pub(crate) struct Outward {
    pub(crate) outlet: Arc<Outlet>,
    pub(crate) buffers: Arc<Buffers>,
}

/// Looks a name with its port up; blocks.
pub(crate) type Resolve = fn(&str) -> Vec<SocketAddr>;

/// As the operating system does.
pub(crate) fn resolve(name: &str) -> Vec<SocketAddr> {
    name.to_socket_addrs().map(Iterator::collect).unwrap_or_default()
}

impl Outlet {
    pub(crate) fn close(&self, closing: Closing) {
        self.closings.push(closing);
        // A full mailbox has the thread's attention anyway.
        let _ = self.sender.send(Command::Nudge);
    }

    fn wake_waiting(&self) {
        while let Some(waker) = self.waiting.pop() {
            waker.wake();
        }
    }
}

/// Wakes whoever waits for room in the mailbox, once its receiver is gone: they find that it is, and nobody else would tell them.
pub(crate) struct LastWake(pub(crate) Arc<Outlet>);

impl Drop for LastWake {
    fn drop(&mut self) {
        self.0.wake_waiting();
    }
}

/// An open upload of the core; closed with this.
#[derive(Debug)]
pub(crate) struct UploadScope {
    pub(crate) id: UploadId,
    /// Its number in its session.
    pub(crate) number: u64,
    outlet: Arc<Outlet>,
}

impl Drop for UploadScope {
    fn drop(&mut self) {
        self.outlet.close(Closing::Upload(self.id));
    }
}

/// An open read of the core; closed with this.
#[derive(Debug)]
pub(crate) struct ReadScope {
    id: ReadId,
    outlet: Arc<Outlet>,
}

impl Drop for ReadScope {
    fn drop(&mut self) {
        self.outlet.close(Closing::Read(self.id));
    }
}

/// The service on the thread.
pub(crate) struct Executor {
    core: Core,
    effects: Effects,
    receiver: Receiver<Command>,
    /// Dropped after the receiver.
    _last_wake: LastWake,
    outlet: Arc<Outlet>,
    buffers: Arc<Buffers>,
    link_ids: BTreeMap<LinkNumber, LinkId>,
    link_numbers: BTreeMap<LinkId, LinkNumber>,
    repliers: BTreeMap<Ticket, Replier<Result<Value, Failure>>>,
    /// Puts that wait for room in the arena, oldest first; their callers' window bounds them.
    blocked: VecDeque<Blocked>,
    /// Links that failed while effects were performed: events that follow.
    failed: Vec<(LinkNumber, UnavailableReason)>,
    /// Links whose names are being looked up.
    resolving: BTreeMap<LinkNumber, Arc<str>>,
    addresses: Addresses,
    resolve: Resolve,
}

struct Blocked {
    ticket: Ticket,
    upload: UploadId,
    bytes: Vec<u8>,
    patience: u64,
    replier: Replier<Result<Value, Failure>>,
}

impl Executor {
    pub(crate) fn new(
        settings: Settings,
        receiver: Receiver<Command>,
        outward: Outward,
        resolve: Resolve,
        io: &mut Io,
    ) -> Self {
        io.attach(&receiver);
        let Outward { outlet, buffers } = outward;
        Self {
            core: Core::new(settings),
            effects: Effects::new(),
            receiver,
            _last_wake: LastWake(Arc::clone(&outlet)),
            outlet,
            buffers,
            link_ids: BTreeMap::new(),
            link_numbers: BTreeMap::new(),
            repliers: BTreeMap::new(),
            blocked: VecDeque::new(),
            failed: Vec::new(),
            resolving: BTreeMap::new(),
            addresses: Addresses::default(),
            resolve,
        }
    }

    fn event(&mut self, io: &mut Io, event: Event<'_>) -> PayloadPlace {
        let now = io.now();
        let place = self.core.handle(now, event, io.memory(), &mut self.effects);
        self.perform(io);
        while let Some((link, reason)) = self.failed.pop() {
            self.core.handle(now, Event::LinkDown { link, reason }, io.memory(), &mut self.effects);
            self.perform(io);
        }
        place
    }

    fn perform(&mut self, io: &mut Io) {
        let mut list = self.effects.take();
        for effect in list.drain(..) {
            match effect {
                Effect::Connect { link, address } => self.connect(io, link, &address),
                Effect::Send { link, head, payload } => {
                    let Some(id) = self.link_ids.get(&link) else { continue };
                    let payload = payload.map(|part| SlotRange {
                        slot: part.slot,
                        offset: part.offset,
                        len: part.length,
                    });
                    if io.send(*id, self.effects.head(head), payload, None).is_err() {
                        // Closed, which will be told, or a peer that doesn't read: give it up.
                        io.close(*id, CloseReason::SlowReader);
                    }
                }
                Effect::Close { link } => {
                    self.resolving.remove(&link);
                    self.addresses.given_up(link);
                    if let Some(id) = self.link_ids.remove(&link) {
                        self.link_numbers.remove(&id);
                        io.close(id, CloseReason::Local);
                    }
                }
                Effect::Arm(at) => io.arm(at),
                Effect::Finished { ticket, result } => self.finished(io, ticket, result),
            }
        }
        self.effects.clear(list);
    }

    fn connect(&mut self, io: &mut Io, link: LinkNumber, address: &Arc<str>) {
        tracing::debug!(link = link.0, %address, "connecting");
        if let Ok(found) = address.parse::<SocketAddr>() {
            self.addresses.found(link, Arc::clone(address), vec![found]);
            return self.connect_next(io, link, UnavailableReason::Connect);
        }
        // Looking up a name blocks: on a thread of its own, of which there are few.
        if self.resolving.len() >= RESOLVING_MAX {
            self.failed.push((link, UnavailableReason::Address));
            return;
        }
        let (outlet, name, resolve) = (Arc::clone(&self.outlet), Arc::clone(address), self.resolve);
        let spawned = runtime::spawn_thread("catena-resolve", None, move || {
            let mut command = Command::Resolved { link, found: resolve(&name) };
            while let Err(back) = outlet.sender.send(command) {
                if outlet.sender.is_closed() {
                    return;
                }
                command = back;
                std::thread::yield_now();
            }
        });
        match spawned {
            Ok(_) => {
                self.resolving.insert(link, Arc::clone(address));
            }
            Err(_) => self.failed.push((link, UnavailableReason::Address)),
        }
    }

    /// Tries the link's next address; without one it is down, for this reason.
    fn connect_next(&mut self, io: &mut Io, link: LinkNumber, reason: UnavailableReason) {
        while let Some(address) = self.addresses.next(link) {
            if let Ok(id) = io.connect(address) {
                self.link_ids.insert(link, id);
                self.link_numbers.insert(id, link);
                return;
            }
        }
        self.failed.push((link, reason));
    }

    /// Tells the core of links that failed outside its own effects.
    fn tell_failed(&mut self, io: &mut Io) {
        if let Some((link, reason)) = self.failed.pop() {
            self.event(io, Event::LinkDown { link, reason });
        }
    }

    fn finished(&mut self, io: &mut Io, ticket: Ticket, result: Result<Done, Failure>) {
        let replier = self.repliers.remove(&ticket);
        let value = result.map(|done| match done {
            Done::Map(map) => Value::Map(map),
            Done::Answer(answer) => Value::Answer(answer),
            Done::Outcome(outcome) => Value::Outcome(outcome),
            Done::Upload { upload, number } => {
                Value::Upload(UploadScope { id: upload, number, outlet: Arc::clone(&self.outlet) })
            }
            Done::Chunk { id, root, map } => Value::Chunk { id, root, map },
            Done::Bytes { slot, offset, length, .. } => {
                let memory = io.memory();
                let start = offset as usize;
                let bytes = self.buffers.copy(&memory.bytes(slot)[start..start + length as usize]);
                memory.release(slot);
                Value::Bytes(bytes)
            }
            Done::Read(read) => Value::Read(ReadScope { id: read, outlet: Arc::clone(&self.outlet) }),
            Done::ShardState(state) => Value::ShardState(state),
        });
        if let Some(replier) = replier {
            replier.send(value);
        }
    }

    fn on_command(&mut self, io: &mut Io, command: Command) {
        match command {
            Command::Call { ticket, wanted: Wanted::Call(call), patience, replier } => {
                self.repliers.insert(ticket, replier);
                self.event(io, Event::Call { ticket, call, patience });
            }
            Command::Call { ticket, wanted: Wanted::Put { upload, bytes }, patience, replier } => {
                self.blocked.push_back(Blocked { ticket, upload, bytes, patience, replier });
                self.begin_puts(io);
            }
            Command::Resolved { link, found } => {
                let Some(name) = self.resolving.remove(&link) else {
                    return; // The core has given it up meanwhile.
                };
                let reason =
                    if found.is_empty() { UnavailableReason::Address } else { UnavailableReason::Connect };
                self.addresses.found(link, name, found);
                self.connect_next(io, link, reason);
                self.tell_failed(io);
            }
            Command::Nudge => {}
        }
    }

    /// Begins the puts for which there is room in the arena, in order.
    fn begin_puts(&mut self, io: &mut Io) {
        while let Some(first) = self.blocked.front() {
            let memory = io.memory();
            let Some(slot) = memory.allocate(first.bytes.len()) else { return };
            let Blocked { ticket, upload, bytes, patience, replier } =
                self.blocked.pop_front().expect("it is the first");
            memory.bytes_mut(slot)[..bytes.len()].copy_from_slice(&bytes);
            let length = u32::try_from(bytes.len()).expect("at most a chunk");
            self.buffers.give(bytes);
            self.repliers.insert(ticket, replier);
            self.event(io, Event::Call { ticket, call: Call::PutChunk { upload, slot, length }, patience });
        }
    }

    fn on_closing(&mut self, io: &mut Io, closing: Closing) {
        match closing {
            Closing::Call(ticket) => {
                self.repliers.remove(&ticket);
                self.blocked.retain(|blocked| blocked.ticket != ticket);
                self.event(io, Event::Cancel { ticket });
            }
            Closing::Upload(upload) => {
                self.event(io, Event::CloseUpload(upload));
            }
            Closing::Read(read) => {
                self.event(io, Event::CloseRead(read));
            }
        }
    }
}

impl Service for Executor {
    fn on_open(&mut self, io: &mut Io, link: LinkId, _: LinkKind, _: Option<SocketAddr>) {
        if let Some(number) = self.link_numbers.get(&link).copied() {
            self.addresses.opened(number);
            self.event(io, Event::LinkUp(number));
        }
    }

    fn on_head(&mut self, io: &mut Io, link: LinkId, prefix: &Prefix, message: &[u8]) -> Payload {
        let Some(link) = self.link_numbers.get(&link).copied() else {
            return if prefix.payload_bytes == 0 { Payload::None } else { Payload::Discard };
        };
        match self.event(io, Event::Head { link, prefix, message }) {
            PayloadPlace::None => Payload::None,
            PayloadPlace::Into { slot, offset } => Payload::Into { slot, offset },
            PayloadPlace::Discard => Payload::Discard,
            PayloadPlace::Close => Payload::Close(CloseReason::Protocol),
        }
    }

    fn on_payload(&mut self, io: &mut Io, link: LinkId) {
        if let Some(number) = self.link_numbers.get(&link).copied() {
            self.event(io, Event::Payload(number));
        }
    }

    fn on_close(&mut self, io: &mut Io, link: LinkId, reason: CloseReason) {
        let Some(number) = self.link_numbers.remove(&link) else { return };
        self.link_ids.remove(&number);
        tracing::debug!(link = number.0, %reason, "a connection ended");
        let reason = match reason {
            CloseReason::Refused { .. } => {
                self.connect_next(io, number, UnavailableReason::Connect);
                return self.tell_failed(io);
            }
            CloseReason::BadFrame(DecodePrefixError::Version { found }) => {
                UnavailableReason::OtherVersion { server: found }
            }
            CloseReason::BadFrame(_) | CloseReason::Protocol => UnavailableReason::Protocol,
            _ => UnavailableReason::Disconnected,
        };
        self.event(io, Event::LinkDown { link: number, reason });
    }

    fn on_mail(&mut self, io: &mut Io) {
        for _ in 0..MAILBOX_CAPACITY {
            let Some(command) = self.receiver.pop() else { break };
            self.on_command(io, command);
        }
        while let Some(closing) = self.outlet.closings.pop() {
            self.on_closing(io, closing);
        }
        self.outlet.wake_waiting();
    }

    fn on_timer(&mut self, io: &mut Io, _: Nanos) {
        self.event(io, Event::Tick);
    }

    fn on_turn(&mut self, io: &mut Io, _: Nanos) {
        if !self.blocked.is_empty() {
            self.begin_puts(io);
        }
    }

    fn on_stop(&mut self, io: &mut Io) {
        self.event(io, Event::Shutdown);
        self.blocked.clear();
        io.stop();
    }
}

/// Commands that wait for the thread; beyond, callers wait.
pub(crate) const MAILBOX_CAPACITY: usize = 4096;
/// Names that are looked up at once.
const RESOLVING_MAX: usize = 4;
