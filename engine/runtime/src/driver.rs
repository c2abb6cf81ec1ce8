//! One turn of a thread: reap, call the service, arm receives, send; and what it does between turns.
//!
//! ```text
//! ┌─▶ reap completions ─▶ on_open/head/payload/io/sent/close ─▶ mail, timer ─▶ on_turn ─▶ receives, sends ─┐
//! └───────────── one enter: submit and, when nothing is left to do, wait ◀──────────────────────────────────┘
//! ```

use std::net::TcpStream;
use std::os::fd::AsRawFd;

use io_uring::{cqueue, opcode, types};
use wire::Nanos;

use crate::background::outcome_of;
use crate::clock;
use crate::disk::Owner;
use crate::heads::HeadBuffers;
use crate::io::Io;
use crate::link::{Receiving, State};
use crate::operation::{Operation, on_target};
use crate::outbox::{SEND_BYTES_MAX, SliceKind};
use crate::ring::{Completion, Wait};
use crate::service::{CloseReason, IoToken, LinkKind, Service};
use crate::spin::Spin;
use crate::wake::Bed;
use crate::{sys, tasks};

/// A thread's whole state. The uring (in `io`) is dropped before the buffers that it knows.
pub(crate) struct Driver<S: Service> {
    pub(crate) io: Io,
    pub(crate) heads: HeadBuffers,
    pub(crate) service: S,
    completions: Vec<Completion>,
    tokens: Vec<u64>,
    pub(crate) sweep_at: Nanos,
    /// The service was called after this turn's `on_turn`.
    again: bool,
    yielded_at: Nanos,
    spin: Option<Spin>,
}

/// Completions taken in one go.
const COMPLETIONS_MAX: usize = 1024;
/// While there is always work, background tasks get a turn this often.
const YIELD_INTERVAL: u64 = 200 * Nanos::MICROSECOND;

impl<S: Service> Driver<S> {
    pub(crate) fn new(io: Io, heads: HeadBuffers, service: S, spin: bool) -> Self {
        let sweep_at = io.now;
        Self {
            io,
            heads,
            service,
            completions: Vec::with_capacity(COMPLETIONS_MAX),
            tokens: Vec::with_capacity(64),
            sweep_at,
            again: false,
            yielded_at: sweep_at,
            spin: spin.then(Spin::default),
        }
    }

    /// Runs until the service stopped and everything in flight has ended.
    pub(crate) async fn run(mut self) {
        self.arm_bell();
        loop {
            let more = self.turn();
            if self.io.stopping && self.is_done() {
                if !self.io.bell_armed {
                    self.service.on_end(&mut self.io);
                    return;
                }
                // Last of all: the word that it writes to is freed with the thread.
                self.io.cancel(Operation::Bell);
                self.io.ring.enter(Wait::Any { timeout: None });
                continue;
            }
            if self.io.tasks.shared.live() > 0 {
                self.rest_among_tasks(more).await;
            } else {
                self.rest(more);
            }
        }
    }

    fn is_done(&self) -> bool {
        self.io.links.count() == 0
            && self.io.disk.in_flight() == 0
            && self.io.tasks.shared.live() == 0
            && !self.io.tasks.shared.has_orders()
            && self.io.listeners.iter().all(|listener| !listener.armed)
    }

    /// One turn; returns whether there is more to do at once.
    fn turn(&mut self) -> bool {
        self.io.counters.turns += 1;
        self.io.now = clock::now();
        let mut active = std::mem::take(&mut self.again);
        let mut completions = std::mem::take(&mut self.completions);
        self.io.ring.reap(&mut completions);
        let full = completions.len() == completions.capacity();
        for completion in completions.drain(..) {
            active |= self.complete(completion);
        }
        self.completions = completions;
        if self.io.wake.take_pending() {
            active = true;
            if self.io.wake.take_stop() {
                self.service.on_stop(&mut self.io);
            }
            self.service.on_mail(&mut self.io);
        }
        if let Some(at) = self.io.deadline
            && at <= self.io.now
        {
            active = true;
            self.io.deadline = None;
            let now = self.io.now;
            self.service.on_timer(&mut self.io, now);
        }
        if self.sweep_at <= self.io.now {
            self.sweep();
        }
        tasks::carry_out(&mut self.io);
        active |= self.close_links();
        if active {
            let now = self.io.now;
            self.service.on_turn(&mut self.io, now);
        }
        let resumed = self.arm_receives();
        if self.io.operations_begun > 0 && self.io.sends_much() {
            // The kernel starts the disk when it has gone through all that is handed over, and sends copy.
            self.io.submit_operations();
        }
        let left = self.send_some();
        self.io.operations_begun = 0;
        self.again = resumed;
        resumed || left || full || !self.io.to_close.is_empty()
    }

    /// Between two turns: enters the kernel if there is a reason, waits there if there is nothing else to do.
    fn rest(&mut self, more: bool) {
        if more || self.io.tasks.shared.has_orders() {
            self.io.ring.enter(Wait::No);
            return;
        }
        if self.spin() {
            return;
        }
        if !self.io.wake.try_sleep(Bed::Uring) {
            self.io.ring.enter(Wait::No);
            return;
        }
        let timeout = self.next_deadline().map(|at| at.since(clock::now()));
        self.io.ring.enter(Wait::Any { timeout });
        self.io.wake.awake();
        if self.io.ring.has_deferred() {
            // The wait ends with the first completion; a disk may have ended many at once.
            self.io.ring.enter(Wait::No);
        }
    }

    /// As [`rest`](Self::rest) while background tasks are alive: they get their turn, and waiting is the executor's.
    async fn rest_among_tasks(&mut self, more: bool) {
        self.io.ring.enter(Wait::No);
        if more || self.io.ring.has_completions() || self.io.wake.is_pending() {
            // The kernel isn't the only one to be served: now and then tasks run although there is work.
            let now = clock::now();
            if now.since(self.yielded_at) > YIELD_INTERVAL {
                self.yielded_at = now;
                glommio::executor().yield_task_queue_now().await;
            }
            return;
        }
        self.io.ring.set_bell(true);
        if let Some(at) = self.next_deadline() {
            self.io.arm_timeout(at);
        }
        // Submits the time limit, and sees what completed before the bell was on.
        self.io.ring.enter(Wait::No);
        if !self.io.ring.has_completions() && self.io.wake.try_sleep(Bed::Executor) {
            let shared = std::rc::Rc::clone(&self.io.tasks.shared);
            shared.bell().await;
            self.io.wake.awake();
        }
        self.io.ring.set_bell(false);
        self.yielded_at = clock::now();
        self.io.ring.enter(Wait::No);
    }

    fn next_deadline(&self) -> Option<Nanos> {
        let sweep = (self.io.links.count() > 0 || self.io.listeners.iter().any(|listener| !listener.armed))
            .then_some(self.sweep_at);
        match (self.io.deadline, sweep) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        }
    }

    /// Submits and looks for completions for a few microseconds; `true`: something is there.
    fn spin(&mut self) -> bool {
        let Some(spin) = &mut self.spin else { return false };
        let Some(until) = spin.begin(clock::now()) else { return false };
        if self.io.ring.queued() > 0 {
            self.io.ring.enter(Wait::No);
        }
        loop {
            if self.io.ring.has_completions() || self.io.wake.is_pending() {
                if self.io.ring.has_deferred() {
                    self.io.ring.enter(Wait::No);
                }
                spin.found();
                return true;
            }
            if clock::now() >= until {
                spin.missed();
                return false;
            }
            std::hint::spin_loop();
        }
    }

    fn complete(&mut self, completion: Completion) -> bool {
        match Operation::of(completion.user_data) {
            Operation::Ignored => return false,
            Operation::Timeout => {
                self.io.timeout_at = None;
                return false;
            }
            Operation::Bell => {
                self.io.bell_armed = false;
                if !(self.io.stopping && self.is_done()) {
                    self.arm_bell();
                }
            }
            Operation::Accept(listener) => self.accepted(listener as usize, completion),
            Operation::Receive(index) => self.received(index, completion),
            Operation::Send(index) => self.sent(index, completion.result),
            Operation::Connect(index) => self.connected(index, completion.result),
            Operation::Disk(number) => {
                let io = &mut self.io;
                let ended = io.disk.complete(number, completion.result, &mut io.ring, &mut io.arena);
                if let Some((owner, outcome)) = ended {
                    io.counters.file_operations += 1;
                    match owner {
                        Owner::Service(token) => self.service.on_io(io, IoToken(token), outcome),
                        Owner::Background(ticket) => io.task_ended(ticket, outcome_of(outcome)),
                    }
                }
            }
        }
        true
    }

    fn arm_bell(&mut self) {
        self.io.bell_armed = true;
        let word: *mut u64 = &raw mut *self.io.bell_word;
        let entry = opcode::Read::new(types::Fd(self.io.wake.bell(Bed::Uring).as_raw_fd()), word.cast(), 8)
            .build()
            .user_data(Operation::Bell.user_data());
        // SAFETY: the word is boxed, lives as long as the uring, and nobody else looks at it.
        unsafe { self.io.ring.push(&entry) };
    }

    fn accepted(&mut self, listener: usize, completion: Completion) {
        if !cqueue::more(completion.flags) {
            self.io.listeners[listener].armed = false;
        }
        if completion.result >= 0 {
            self.admit(completion.result);
            self.io.arm_accept(listener);
        } else if completion.result != -libc::ECANCELED {
            // Out of descriptors, most likely: the sweep tries again.
            let error = std::io::Error::from_raw_os_error(-completion.result);
            tracing::warn!(%error, "accepting connections failed, trying again within a second");
        }
    }

    fn admit(&mut self, fd: i32) {
        let fd = sys::own(fd);
        self.io.counters.accepted += 1;
        if self.io.links.count() >= self.io.limits.links_cap || self.io.stopping {
            self.io.counters.refused += 1;
            return;
        }
        let over_limit = self.io.links.count() >= self.io.limits.links;
        let id = self.io.links.open(State::Open, self.io.now);
        let fixed = self.io.register_link(id.index, &fd);
        let stream = TcpStream::from(fd);
        let peer = stream.peer_addr().ok();
        let link = self.io.links.at(id.index);
        link.fd = Some(stream.into());
        link.fixed = fixed;
        link.accepted = true;
        link.peer = peer;
        self.io.list_receive(id.index);
        self.service.on_open(&mut self.io, id, LinkKind::Accepted { over_limit }, peer);
    }

    fn connected(&mut self, index: u32, result: i32) {
        let id = self.io.links.id(index);
        let now = self.io.now;
        let link = self.io.links.at(index);
        link.connecting = false;
        link.address = None;
        match link.state {
            State::Connecting if result == 0 => {
                link.state = State::Open;
                link.active = now;
                let peer = link.peer;
                self.io.list_receive(index);
                self.service.on_open(&mut self.io, id, LinkKind::Connected, peer);
            }
            State::Connecting => self.io.abort(index, CloseReason::Refused { errno: -result }),
            _ => self.io.to_close.push(index),
        }
    }

    fn sent(&mut self, index: u32, result: i32) {
        let id = self.io.links.id(index);
        let now = self.io.now;
        let io = &mut self.io;
        let link = io.links.at(index);
        link.sending = false;
        if let State::Closing { .. } = link.state {
            if !link.in_flight() {
                io.to_close.push(index);
            }
            return;
        }
        let Ok(bytes) = usize::try_from(result) else {
            match -result {
                libc::EINTR | libc::EAGAIN => io.list_send(index),
                errno => io.abort(index, CloseReason::Broken { errno }),
            }
            return;
        };
        link.active = now;
        io.counters.sent_bytes += bytes as u64;
        let mut tokens = std::mem::take(&mut self.tokens);
        let queued = link.outbox.head_bytes();
        link.outbox.advance(bytes, &mut tokens, &mut io.batches, &mut io.arena);
        io.queued_bytes_total -= queued - link.outbox.head_bytes();
        io.hold_back(index);
        let link = io.links.at(index);
        if !link.outbox.is_empty() {
            io.list_send(index);
        } else if let State::Draining { reason, .. } = link.state {
            io.abort(index, reason);
        }
        for token in tokens.drain(..) {
            self.service.on_sent(io, id, token);
        }
        self.tokens = tokens;
    }

    /// Arms receives that are due; parses what waited for `resume`. Returns whether it called the service.
    fn arm_receives(&mut self) -> bool {
        let mut called = false;
        let mut due = std::mem::take(&mut self.io.to_receive);
        for index in due.drain(..) {
            let link = self.io.links.at(index);
            link.listed_receive = false;
            if link.receiving != Receiving::Nothing || !link.is_read() {
                continue;
            }
            if std::mem::take(&mut link.resumed) && !link.stash.is_empty() {
                self.parse_stash(index);
                called = true;
            }
            self.io.arm_receive(index);
        }
        // What the calls have listed meanwhile is for the next turn.
        due.append(&mut self.io.to_receive);
        self.io.to_receive = due;
        called || !self.io.to_receive.is_empty()
    }

    /// Begins sends until they make up one operation's worth of bytes; returns whether some are left for the next turn.
    fn send_some(&mut self) -> bool {
        let mut bytes = 0;
        while bytes < SEND_BYTES_MAX {
            let Some(index) = self.io.to_send.pop_front() else { return false };
            self.io.links.at(index).listed_send = false;
            bytes += self.io.send_slice(index);
        }
        !self.io.to_send.is_empty()
    }

    /// Frees links that are closed and have nothing in flight. Returns whether it called the service.
    fn close_links(&mut self) -> bool {
        let mut called = false;
        while let Some(index) = self.io.to_close.pop() {
            let id = self.io.links.id(index);
            let io = &mut self.io;
            let link = io.links.at(index);
            let State::Closing { reason } = link.state else { continue };
            if link.in_flight() {
                continue;
            }
            link.outbox.clear(&mut io.batches, &mut io.arena);
            let (stash, condemned) = (std::mem::take(&mut link.stash), link.condemned);
            if condemned {
                io.stashes.give_condemned(stash);
            } else {
                io.stashes.give(stash);
            }
            io.release_phase(index);
            let link = io.links.at(index);
            if let Some(place) = link.fixed.take()
                && let Err(error) = io.ring.register_file(place, None)
            {
                tracing::debug!(%error, "a descriptor stays registered");
            }
            link.fd = None;
            io.links.free(index);
            called = true;
            self.service.on_close(io, id, reason);
        }
        called
    }
}

impl Io {
    /// Makes the uring wake the thread at `at`, unless it will do so earlier.
    fn arm_timeout(&mut self, at: Nanos) {
        if self.timeout_at.is_some_and(|armed| armed <= at) {
            return;
        }
        self.timeout_at = Some(at);
        let left = at.since(clock::now());
        let seconds = left / Nanos::SECOND;
        let nanoseconds = u32::try_from(left % Nanos::SECOND).expect("below 10^9");
        *self.timeout = types::Timespec::new().sec(seconds).nsec(nanoseconds);
        let entry =
            opcode::Timeout::new(&raw const *self.timeout).build().user_data(Operation::Timeout.user_data());
        // SAFETY: the boxed time is read when the entry is handed over, in the enter that follows, before it is changed again.
        unsafe { self.ring.push(&entry) };
    }

    fn send_slice(&mut self, index: u32) -> usize {
        let now = self.now;
        let link = self.links.at(index);
        if link.sending || !matches!(link.state, State::Open | State::Draining { .. }) {
            return 0;
        }
        let Some(slice) = link.outbox.next_slice(&mut self.arena) else { return 0 };
        link.sending = true;
        link.send_since = now;
        link.send_bytes = slice.bytes;
        let flags = libc::MSG_WAITALL | libc::MSG_NOSIGNAL | if slice.more { libc::MSG_MORE } else { 0 };
        let entry = on_target!(link.target(), |fd| match slice.what {
            SliceKind::One(address) => {
                let len = u32::try_from(slice.bytes).expect("at most SEND_BYTES_MAX");
                opcode::Send::new(fd, address, len).flags(flags).build()
            }
            SliceKind::Many(message) =>
                opcode::SendMsg::new(fd, message).flags(flags.cast_unsigned()).build(),
        });
        let entry = entry.user_data(Operation::Send(index).user_data());
        // SAFETY: the flying batch isn't changed until the completion, and holds a reference to each slot it sends from.
        unsafe { self.ring.push(&entry) };
        slice.bytes
    }
}
