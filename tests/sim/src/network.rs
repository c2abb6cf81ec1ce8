//! The simulated network: connections between processes that carry frames.
//!
//! A connection is what TCP promises and no more: in each direction frames arrive in order, late, or the connection ends. Between connections nothing
//! is in order. A frame's head and its payload arrive one after the other, and the connection may end between the two. What can
//! go wrong: a reset (both sides notice, at different times; what was under way is gone), a side that dies silently (the other
//! notices when the dead host is back and answers with a reset, or never), a partition (from some machines to some others nothing arrives before it heals,
//! then everything, late), a slow connection, and a bit that flips in a payload past TCP's checksum.

use std::collections::BTreeMap;
use std::sync::Arc;

use wire::{Nanos, Slot};

use crate::node::NODE_CALLERS;
use crate::random::Random;
use crate::schedule::Schedule;

/// A connection's number; never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Connection(pub u64);

/// Which end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Side {
    /// Who connected.
    Caller = 0,
    /// Who was connected to.
    Server = 1,
}

impl Side {
    /// The other end.
    #[must_use]
    pub(crate) fn other(self) -> Self {
        match self {
            Self::Caller => Self::Server,
            Self::Server => Self::Caller,
        }
    }
}

/// Bytes of a slot that leave with a frame; the slot's reference belongs to the network until then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Payload {
    /// The buffer.
    pub slot: Slot,
    /// First byte.
    pub offset: u32,
    /// Bytes.
    pub length: u32,
}

/// What happens on the network.
#[derive(Debug)]
pub(crate) enum Traffic {
    /// A call for a connection arrives at its server.
    Call(Connection),
    /// The caller hears that its call was taken.
    Up(Connection),
    /// The caller hears that nobody takes its call.
    Refused(Connection),
    /// A frame leaves a process: its payload's bytes are taken now.
    Depart(Frame),
    /// A side's end of the connection leaves, behind everything that it sent.
    Hangup(Connection, Side),
    /// A frame's head arrives at this side.
    Head(Connection, Side, Vec<u8>),
    /// The payload of the head before arrives.
    Body(Connection, Side, Vec<u8>),
    /// This side hears that the connection is over.
    Down(Connection, Side),
}

/// A process, or a part of one, that sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sender {
    /// A client.
    Client(usize),
    /// A unit of a node.
    Unit {
        /// The node.
        node: usize,
        /// The unit.
        unit: usize,
    },
}

/// A frame that is about to leave.
#[derive(Debug)]
pub(crate) struct Frame {
    /// Where.
    pub connection: Connection,
    /// Who sends it.
    pub from: Side,
    /// Which of the sender's lives: a process that died in between sends nothing, and its slots are gone.
    pub life: u64,
    /// Who sends it: the connection may be forgotten by then.
    pub sender: Sender,
    /// Prefix and message.
    pub head: Vec<u8>,
    /// The payload.
    pub payload: Option<Payload>,
}

/// Where a process runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Machine {
    /// A client's.
    Client,
    /// A node's.
    Node(usize),
}

impl Machine {
    fn of_caller(caller: usize) -> Self {
        caller.checked_sub(NODE_CALLERS).map_or(Self::Client, Self::Node)
    }

    fn of_address(address: &str) -> Self {
        let number = address.strip_prefix("node-").and_then(|rest| rest.split_once(':'));
        number.and_then(|(number, _)| number.parse().ok()).map_or(Self::Client, Self::Node)
    }
}

/// What doesn't get through.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Cut {
    /// From these; none: from everywhere.
    pub from: Vec<Machine>,
    /// To these; none: to everywhere.
    pub to: Vec<Machine>,
    /// Only what goes over control ports.
    pub control: bool,
    /// Until then.
    pub until: Nanos,
}

impl Cut {
    /// Everything.
    pub(crate) fn whole(until: Nanos) -> Self {
        Self { from: Vec::new(), to: Vec::new(), control: false, until }
    }

    /// Everything from some to some others.
    pub(crate) fn between(from: Vec<Machine>, to: Vec<Machine>, until: Nanos) -> Self {
        Self { from, to, control: false, until }
    }

    fn parts(&self, from: Machine, to: Machine, is_control: bool) -> bool {
        // A machine reaches itself, unless nobody reaches anybody.
        if (self.control && !is_control) || (from == to && !(self.from.is_empty() && self.to.is_empty())) {
            return false;
        }
        let has = |machines: &[Machine], machine| machines.is_empty() || machines.contains(&machine);
        has(&self.from, from) && has(&self.to, to)
    }
}

/// How the network behaves at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Weather {
    /// Typical nanoseconds from one side to the other.
    pub latency: u64,
    /// Of a thousand frames, these many end their connection.
    pub resets: u64,
    /// Of a thousand payloads, these many lose a bit.
    pub flips: u64,
    /// Of a thousand connections, these many are fifty times slower.
    pub slow: u64,
}

impl Weather {
    /// Nothing goes wrong.
    pub(crate) const CALM: Self = Self { latency: 50_000, resets: 0, flips: 0, slow: 0 };
}

/// What the network did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct NetworkCounters {
    /// Connections taken.
    pub connections: u64,
    /// Calls that nobody took.
    pub refused: u64,
    /// Frames that arrived.
    pub frames: u64,
    /// Frames under way when their connection ended.
    pub frames_lost: u64,
    /// Connections reset.
    pub resets: u64,
    /// Connections whose server died silently.
    pub half_open: u64,
    /// Payload bits flipped.
    pub flips: u64,
    /// Frames held back by a partition.
    pub partitioned: u64,
    /// Slow connections.
    pub slow: u64,
}

#[derive(Debug)]
struct Ends {
    caller: usize,
    address: Arc<str>,
    open: [bool; 2],
    /// Nothing that is sent from now on arrives.
    is_reset: bool,
    /// When the direction to this side is free again.
    free_at: [Nanos; 2],
    slowness: u64,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Network {
    connections: BTreeMap<Connection, Ends>,
    last: u64,
    random: Random,
    cuts: Vec<Cut>,
    /// At the moment.
    pub weather: Weather,
    /// Since the beginning.
    pub counters: NetworkCounters,
}

/// How long a call waits for an answer before the caller's kernel gives up.
const CALL_PATIENCE: u64 = 3 * Nanos::SECOND;
/// Nanoseconds that a KiB takes.
const KIBIBYTE_TIME: u64 = 1_000;

impl Network {
    /// A network without connections.
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            connections: BTreeMap::new(),
            last: 0,
            random: Random::stream(seed, "network"),
            cuts: Vec::new(),
            weather: Weather::CALM,
            counters: NetworkCounters::default(),
        }
    }

    /// A call to `address`.
    pub(crate) fn call<T: From<Traffic>>(
        &mut self,
        caller: usize,
        address: &Arc<str>,
        schedule: &mut Schedule<T>,
    ) -> Connection {
        self.last += 1;
        let connection = Connection(self.last);
        let is_slow = self.random.per_mille(self.weather.slow);
        self.counters.slow += u64::from(is_slow);
        let ends = Ends {
            caller,
            address: Arc::clone(address),
            open: [true, false],
            is_reset: false,
            free_at: [Nanos(0); 2],
            slowness: if is_slow { 50 } else { 1 },
        };
        self.connections.insert(connection, ends);
        let at = self.arrival(connection, Side::Server, 0, schedule.now());
        schedule.at(at, Traffic::Call(connection).into());
        connection
    }

    /// The server takes a call.
    pub(crate) fn take<T: From<Traffic>>(&mut self, connection: Connection, schedule: &mut Schedule<T>) {
        let at = self.arrival(connection, Side::Caller, 0, schedule.now());
        let Some(ends) = self.connections.get_mut(&connection) else { return };
        ends.open[Side::Server as usize] = true;
        self.counters.connections += 1;
        schedule.at(at, Traffic::Up(connection).into());
    }

    /// Nobody takes a call: the host says so, or is not there to say anything.
    pub(crate) fn refuse<T: From<Traffic>>(
        &mut self,
        connection: Connection,
        is_silent: bool,
        schedule: &mut Schedule<T>,
    ) {
        let at = self.arrival(connection, Side::Caller, 0, schedule.now());
        let at = if is_silent { at.max(schedule.now().after(CALL_PATIENCE)) } else { at };
        self.counters.refused += 1;
        schedule.at(at, Traffic::Refused(connection).into());
    }

    /// A process sends a frame; it leaves a little later.
    pub(crate) fn send<T: From<Traffic>>(frame: Frame, schedule: &mut Schedule<T>) {
        // Frames of one side leave in order: one fixed delay, and the schedule keeps the order of equals.
        schedule.after(DEPARTURE, Traffic::Depart(frame).into());
    }

    /// A frame's bytes are on their way.
    pub(crate) fn transmit<T: From<Traffic>>(
        &mut self,
        connection: Connection,
        from: Side,
        head: Vec<u8>,
        mut body: Vec<u8>,
        schedule: &mut Schedule<T>,
    ) {
        let to = from.other();
        if self.connections.get(&connection).is_none_or(|ends| ends.is_reset) {
            self.counters.frames_lost += 1;
            return;
        }
        let bytes = head.len();
        let at = self.arrival(connection, to, bytes, schedule.now());
        if self.random.per_mille(self.weather.resets) {
            // It ends before the frame, or between head and payload.
            let after_head = self.random.per_mille(500);
            if after_head {
                schedule.at(at, Traffic::Head(connection, to, head).into());
            }
            self.reset(connection, at, schedule);
            return;
        }
        schedule.at(at, Traffic::Head(connection, to, head).into());
        if !body.is_empty() {
            if self.random.per_mille(self.weather.flips) {
                let bit = self.random.index(body.len() * 8);
                body[bit / 8] ^= 1 << (bit % 8);
                self.counters.flips += 1;
            }
            let at = self.arrival(connection, to, body.len(), schedule.now());
            schedule.at(at, Traffic::Body(connection, to, body).into());
        }
    }

    /// One side closes: the other hears of it behind everything that was sent.
    pub(crate) fn close<T: From<Traffic>>(
        &mut self,
        connection: Connection,
        by: Side,
        schedule: &mut Schedule<T>,
    ) {
        if let Some(ends) = self.connections.get_mut(&connection) {
            ends.open[by as usize] = false;
            schedule.after(DEPARTURE, Traffic::Hangup(connection, by).into());
        }
    }

    /// A side's end has left.
    pub(crate) fn hang_up<T: From<Traffic>>(
        &mut self,
        connection: Connection,
        by: Side,
        schedule: &mut Schedule<T>,
    ) {
        let at = self.arrival(connection, by.other(), 0, schedule.now());
        schedule.at(at, Traffic::Down(connection, by.other()).into());
    }

    /// Both sides lose the connection from `at` on.
    pub(crate) fn reset<T: From<Traffic>>(
        &mut self,
        connection: Connection,
        at: Nanos,
        schedule: &mut Schedule<T>,
    ) {
        let Some(ends) = self.connections.get_mut(&connection) else { return };
        if std::mem::replace(&mut ends.is_reset, true) {
            return;
        }
        self.counters.resets += 1;
        for side in [Side::Caller, Side::Server] {
            let later = self.random.below(2 * self.weather.latency + 1);
            schedule.at(at.after(later), Traffic::Down(connection, side).into());
        }
    }

    /// The servers of these addresses are gone. Their callers hear a reset, or nothing.
    pub(crate) fn server_died<T: From<Traffic>>(
        &mut self,
        is_silent: bool,
        is_its: impl Fn(&str) -> bool,
        schedule: &mut Schedule<T>,
    ) {
        let theirs: Vec<Connection> = self
            .connections
            .iter()
            .filter(|(_, ends)| ends.open[Side::Server as usize] && is_its(&ends.address))
            .map(|(connection, _)| *connection)
            .collect();
        for connection in theirs {
            if is_silent {
                self.counters.half_open += 1;
                self.mark_closed(connection, Side::Server);
            } else {
                self.close(connection, Side::Server, schedule);
            }
        }
    }

    /// The process of this caller is gone. Its servers hear so, or nothing.
    pub(crate) fn caller_died<T: From<Traffic>>(
        &mut self,
        caller: usize,
        is_silent: bool,
        schedule: &mut Schedule<T>,
    ) {
        let its: Vec<Connection> = self
            .connections
            .iter()
            .filter(|(_, ends)| ends.open[Side::Caller as usize] && ends.caller == caller)
            .map(|(connection, _)| *connection)
            .collect();
        for connection in its {
            if is_silent {
                self.counters.half_open += 1;
                self.mark_closed(connection, Side::Caller);
            } else {
                self.close(connection, Side::Caller, schedule);
            }
        }
    }

    /// Nothing arrives before `until` of what goes from one to the other.
    pub(crate) fn cut(&mut self, cut: Cut) {
        self.cuts.push(cut);
    }

    /// Nothing goes wrong from now on; what is under way keeps its delay.
    pub(crate) fn heal(&mut self, now: Nanos) {
        self.weather = Weather::CALM;
        self.cuts.iter_mut().for_each(|cut| cut.until = cut.until.min(now));
        self.connections.values_mut().for_each(|ends| ends.slowness = 1);
    }

    /// Whether this side still takes part.
    pub(crate) fn is_open(&self, connection: Connection, side: Side) -> bool {
        self.connections.get(&connection).is_some_and(|ends| ends.open[side as usize])
    }

    /// Who connected.
    pub(crate) fn caller(&self, connection: Connection) -> Option<usize> {
        self.connections.get(&connection).map(|ends| ends.caller)
    }

    /// To what address.
    pub(crate) fn address(&self, connection: Connection) -> Option<&Arc<str>> {
        self.connections.get(&connection).map(|ends| &ends.address)
    }

    /// This side has heard that the connection is over; it is forgotten once both have.
    pub(crate) fn mark_closed(&mut self, connection: Connection, side: Side) {
        if let Some(ends) = self.connections.get_mut(&connection) {
            ends.open[side as usize] = false;
            if ends.open == [false; 2] {
                self.connections.remove(&connection);
            }
        }
    }

    /// Open connections, in order.
    pub(crate) fn open(&self) -> Vec<Connection> {
        self.connections.keys().copied().collect()
    }

    /// A frame arrived.
    pub(crate) fn count_frame(&mut self, is_lost: bool) {
        if is_lost {
            self.counters.frames_lost += 1;
        } else {
            self.counters.frames += 1;
        }
    }

    /// When so many bytes arrive at this side, behind everything sent before.
    fn arrival(&mut self, connection: Connection, to: Side, bytes: usize, now: Nanos) -> Nanos {
        let Some(ends) = self.connections.get_mut(&connection) else { return now };
        let transfer = bytes as u64 * KIBIBYTE_TIME / 1024;
        let delay = (self.random.latency(self.weather.latency) + transfer) * ends.slowness;
        let mut at = now.after(delay);
        let (caller, server) = (Machine::of_caller(ends.caller), Machine::of_address(&ends.address));
        let is_control = ends.address.ends_with(CONTROL_PORT_SUFFIX);
        let (from, to_machine) = if to == Side::Server { (caller, server) } else { (server, caller) };
        self.cuts.retain(|cut| cut.until > now);
        let cut =
            self.cuts.iter().filter(|cut| cut.parts(from, to_machine, is_control)).map(|cut| cut.until).max();
        if let Some(until) = cut.filter(|until| at < *until) {
            self.counters.partitioned += 1;
            at = until.after(delay);
        }
        at = at.max(ends.free_at[to as usize]);
        ends.free_at[to as usize] = at;
        at
    }
}

/// The end of every control port's address.
const CONTROL_PORT_SUFFIX: &str = ":7422";
/// From a send to the moment when the kernel has the bytes.
const DEPARTURE: u64 = 2_000;
