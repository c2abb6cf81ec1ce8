//! The thread's facilities, as its service uses them: memory, links, files, time.
//!
//! Everything asked for here is queued; its consequences arrive as later calls of the [`Service`](crate::Service).

use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use io_uring::{opcode, types};
use wire::{Memory, Nanos, Timestamp};

use crate::arena::Arena;
use crate::clock;
use crate::config::{LinkLimits, ThreadConfig};
use crate::disk::{Action, DiskOperations, Owner, Request, whole};
use crate::link::{Link, Links, Stashes, State};
use crate::mailbox::Receiver;
use crate::operation::{Operation, Target};
use crate::outbox::{BatchPool, OutPayload};
use crate::ring::Ring;
use crate::service::{CloseReason, FileId, IoRefused, IoToken, LinkId, SendRefused, SlotRange};
use crate::store_file::StoreFile;
use crate::sys;
use crate::tasks::Tasks;
use crate::wake::Wake;

/// What a thread has done since it started; for metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IoCounters {
    /// Connections accepted, whatever became of them.
    pub accepted: u64,
    /// Connections closed at once because of the absolute cap.
    pub refused: u64,
    /// Links closed because of what the peer sent.
    pub bad_frames: u64,
    /// Links closed because something took too long.
    pub timeouts: u64,
    /// Frames received.
    pub frames: u64,
    /// Bytes received.
    pub received_bytes: u64,
    /// Bytes sent.
    pub sent_bytes: u64,
    /// File operations ended.
    pub file_operations: u64,
    /// Calls of `io_uring_enter`.
    pub enters: u64,
    /// Turns: batches of completions.
    pub turns: u64,
}

/// A place where connections arrive.
#[derive(Debug)]
pub(crate) struct Listener {
    pub(crate) socket: TcpListener,
    pub(crate) armed: bool,
}

/// The facilities of one thread. It can't leave it.
#[derive(Debug)]
pub struct Io {
    pub(crate) ring: Ring,
    pub(crate) arena: Arena,
    pub(crate) links: Links,
    pub(crate) stashes: Stashes,
    pub(crate) batches: BatchPool,
    pub(crate) disk: DiskOperations,
    /// Bytes of frames queued on links that aren't closing.
    pub(crate) queued_bytes_total: usize,
    pub(crate) limits: LinkLimits,
    pub(crate) listeners: Vec<Listener>,
    pub(crate) files: Vec<(OwnedFd, Option<u32>)>,
    /// Places of the registered table, files first.
    pub(crate) table: u32,
    pub(crate) wake: Arc<Wake>,
    pub(crate) bell_word: Box<u64>,
    pub(crate) bell_armed: bool,
    pub(crate) now: Nanos,
    pub(crate) deadline: Option<Nanos>,
    pub(crate) stopping: bool,
    pub(crate) to_receive: Vec<u32>,
    pub(crate) to_send: std::collections::VecDeque<u32>,
    pub(crate) to_close: Vec<u32>,
    /// File operations that were begun and not yet handed over.
    pub(crate) operations_begun: u32,
    pub(crate) tasks: Tasks,
    /// The earliest time limit that the uring holds, and where it reads the next one from.
    pub(crate) timeout_at: Option<Nanos>,
    pub(crate) timeout: Box<types::Timespec>,
    pub(crate) counters: IoCounters,
}

/// Places of the registered table that files have; links follow.
pub(crate) const FILES_MAX: u32 = 64;
/// Connections that may wait to be accepted.
const BACKLOG: i32 = 4096;
/// A link is read while at most one of so many parts of what all links may still queue is queued on it: one alone has an eighth of it, and
/// many that don't read leave something for who does.
const QUEUE_PARTS: usize = 8;
/// With fewer file operations in flight the device would idle until the turn ends: hand them over at once.
const EAGER_OPERATIONS: usize = 2;
/// So many bytes are copied into sockets in the time that it takes to hand file operations over on their own.
const SENDS_MUCH_BYTES: usize = 32 << 10;

impl Io {
    pub(crate) fn new(config: &ThreadConfig, ring: Ring, arena: Arena, wake: Arc<Wake>, table: u32) -> Self {
        Self {
            ring,
            arena,
            links: Links::default(),
            stashes: Stashes::new(config.links.stash_bytes_max),
            batches: BatchPool::default(),
            disk: DiskOperations::new(config.io_operations),
            queued_bytes_total: 0,
            limits: config.links,
            listeners: Vec::new(),
            files: Vec::new(),
            table,
            wake,
            bell_word: Box::new(0),
            bell_armed: false,
            now: clock::now(),
            deadline: None,
            stopping: false,
            to_receive: Vec::new(),
            to_send: std::collections::VecDeque::new(),
            to_close: Vec::new(),
            operations_begun: 0,
            tasks: Tasks::new(config.background_tasks),
            timeout_at: None,
            timeout: Box::new(types::Timespec::new()),
            counters: IoCounters::default(),
        }
    }

    // ---- memory and time

    /// The thread's I/O memory.
    pub fn memory(&mut self) -> &mut Arena {
        &mut self.arena
    }

    /// The thread's I/O memory, to look at.
    pub fn memory_ref(&self) -> &Arena {
        &self.arena
    }

    /// The time at which this turn began.
    pub fn now(&self) -> Nanos {
        self.now
    }

    /// Wall-clock time.
    pub fn wall(&self) -> Timestamp {
        clock::wall()
    }

    /// Sets the thread's one deadline, at which `on_timer` is called; it replaces the one before.
    pub fn arm(&mut self, at: Nanos) {
        self.deadline = Some(at);
    }

    /// Takes the deadline back.
    pub fn disarm(&mut self) {
        self.deadline = None;
    }

    /// Makes this thread the receiver's: `on_mail` is called when it may have items.
    pub fn attach<T>(&self, receiver: &Receiver<T>) {
        receiver.attach(&self.wake);
    }

    /// What the thread has done so far.
    pub fn counters(&self) -> IoCounters {
        IoCounters { enters: self.ring.enters(), ..self.counters }
    }

    /// Ends the thread: listeners close, links send what is queued and close, file operations end, then the thread does.
    pub fn stop(&mut self) {
        if self.stopping {
            return;
        }
        self.stopping = true;
        for listener in 0..self.listeners.len() {
            self.unlisten(listener);
        }
        for index in 0..self.links.places() {
            let id = self.links.id(index);
            self.close(id, CloseReason::Stopping);
        }
        self.tasks.cancel_all();
    }

    // ---- links

    /// Accepts connections at `address`; port 0 lets the system choose. Returns the address in effect.
    pub fn listen(&mut self, address: SocketAddr) -> std::io::Result<SocketAddr> {
        let socket = TcpListener::bind(address)?;
        sys::set_no_delay(socket.as_fd())?;
        sys::unpace_loopback(socket.as_fd(), address);
        sys::listen(socket.as_fd(), BACKLOG)?;
        let address = socket.local_addr()?;
        self.listeners.push(Listener { socket, armed: false });
        self.arm_accept(self.listeners.len() - 1);
        Ok(address)
    }

    pub(crate) fn arm_accept(&mut self, listener: usize) {
        if self.listeners[listener].armed || self.stopping {
            return;
        }
        self.listeners[listener].armed = true;
        let number = u32::try_from(listener).expect("few listeners");
        let fd = std::os::fd::AsRawFd::as_raw_fd(&self.listeners[listener].socket);
        let entry = opcode::AcceptMulti::new(types::Fd(fd))
            .flags(libc::SOCK_CLOEXEC)
            .build()
            .user_data(Operation::Accept(number).user_data());
        // SAFETY: the entry points to no memory.
        unsafe { self.ring.push(&entry) };
    }

    fn unlisten(&mut self, listener: usize) {
        if self.listeners[listener].armed {
            let number = u32::try_from(listener).expect("few listeners");
            self.cancel(Operation::Accept(number));
        }
    }

    pub(crate) fn cancel(&mut self, operation: Operation) {
        let entry =
            opcode::AsyncCancel::new(operation.user_data()).build().user_data(Operation::Ignored.user_data());
        // SAFETY: the entry points to no memory.
        unsafe { self.ring.push(&entry) };
    }

    /// Begins to connect; ends in `on_open` or `on_close`. An error once the thread was stopped: it would wait for the new link's end.
    pub fn connect(&mut self, address: SocketAddr) -> std::io::Result<LinkId> {
        if self.stopping {
            return Err(std::io::ErrorKind::ConnectionAborted.into());
        }
        let fd = sys::tcp_socket(address)?;
        let id = self.links.open(State::Connecting, self.now);
        let fixed = self.register_link(id.index, &fd);
        let (raw, len) = sys::RawAddress::new(address);
        let link = self.links.at(id.index);
        link.fd = Some(fd);
        link.fixed = fixed;
        link.peer = Some(address);
        link.connecting = true;
        let raw: *const sys::RawAddress = &raw const **link.address.insert(Box::new(raw));
        let entry =
            crate::operation::on_target!(link.target(), |fd| opcode::Connect::new(fd, raw.cast(), len)
                .build())
            .user_data(Operation::Connect(id.index).user_data());
        // SAFETY: the address is boxed and stays in the link until the connection attempt ended.
        unsafe { self.ring.push(&entry) };
        Ok(id)
    }

    /// Puts a link's descriptor into the registered table, where there is a place for it.
    pub(crate) fn register_link(&mut self, index: u32, fd: &OwnedFd) -> Option<u32> {
        let place = index.checked_add(FILES_MAX).filter(|&place| place < self.table)?;
        self.ring.register_file(place, Some(fd.as_fd())).ok().map(|()| place)
    }

    /// Closes a link: reads nothing more, sends what is queued, then closes. `on_close` follows, also for one that never opened.
    pub fn close(&mut self, link: LinkId, reason: CloseReason) {
        let until = self.now.after(self.limits.head_timeout);
        let Some(record) = self.links.find(link) else { return };
        match record.state {
            State::Open if !record.outbox.is_empty() => record.state = State::Draining { reason, until },
            State::Open | State::Connecting => self.abort(link.index, reason),
            State::Free | State::Draining { .. } | State::Closing { .. } => {}
        }
    }

    /// Closes a link without sending what is queued.
    pub(crate) fn abort(&mut self, index: u32, reason: CloseReason) {
        let link = self.links.at(index);
        let reason = match link.state {
            State::Free | State::Closing { .. } => return,
            State::Draining { reason, .. } => reason,
            State::Connecting | State::Open => reason,
        };
        link.state = State::Closing { reason };
        // Once nothing of it is in flight they are gone.
        self.queued_bytes_total -= link.outbox.head_bytes();
        let connecting = link.connecting;
        let in_flight = link.in_flight();
        if let Some(fd) = &link.fd {
            sys::shutdown(fd.as_fd());
        }
        if connecting {
            self.cancel(Operation::Connect(index));
        }
        if !in_flight {
            self.to_close.push(index);
        }
    }

    /// Queues a frame: `head` is copied, the payload (slot, offset, length) is sent from where it is and its slot held until then.
    /// With a token, `on_sent` follows once the kernel has all of it. Where all links' frames take as much memory as they may, the link that holds
    /// most of it is closed; [`SendRefused::Full`]: it is this one.
    pub fn send(
        &mut self,
        link: LinkId,
        head: &[u8],
        payload: Option<SlotRange>,
        token: Option<u64>,
    ) -> Result<(), SendRefused> {
        let Some(record) = self.links.find(link).filter(|link| link.is_open()) else {
            return Err(SendRefused::Closed);
        };
        if record.outbox.bytes() >= self.limits.queue_bytes_max {
            return Err(SendRefused::Full);
        }
        assert!(!head.is_empty(), "a frame has a prefix");
        if !self.make_room(link.index, head.len()) {
            return Err(SendRefused::Full);
        }
        let payload = payload.filter(|range| range.len > 0).map(|range| OutPayload {
            slot: range.slot,
            offset: range.offset as usize,
            len: range.len as usize,
        });
        let record = self.links.at(link.index);
        record.outbox.push(head, payload, token, &mut self.batches, &mut self.arena);
        self.queued_bytes_total += head.len();
        self.hold_back(link.index);
        self.list_send(link.index);
        Ok(())
    }

    /// Makes room for a frame of `link`, where there is none at the cost of the links on which most is queued; `false`: this is one.
    fn make_room(&mut self, link: u32, bytes: usize) -> bool {
        while self.queued_bytes_total + bytes > self.limits.queue_bytes_total_max {
            let size = |link: &Link| match link.state {
                State::Open | State::Draining { .. } => link.outbox.head_bytes(),
                State::Free | State::Connecting | State::Closing { .. } => 0,
            };
            let own = size(self.links.at(link));
            let largest = (0..self.links.places()).max_by_key(|&place| size(self.links.at(place)));
            let Some(victim) = largest.filter(|&place| size(self.links.at(place)) > own) else {
                return false;
            };
            self.abort(victim, CloseReason::SlowReader);
        }
        true
    }

    /// Stops reading from a link, or reads again, by what is queued on it. With nothing queued it always is read: nothing else would wake it.
    pub(crate) fn hold_back(&mut self, index: u32) {
        let now = self.now;
        let left = self.limits.queue_bytes_total_max.saturating_sub(self.queued_bytes_total);
        let link = self.links.at(index);
        let held = link.outbox.head_bytes() > left / QUEUE_PARTS;
        if std::mem::replace(&mut link.held, held) && !held {
            link.resumed = true;
            link.frame_since = now;
            self.list_receive(index);
        }
    }

    pub(crate) fn list_send(&mut self, index: u32) {
        let link = self.links.at(index);
        if !link.listed_send {
            link.listed_send = true;
            self.to_send.push_back(index);
        }
    }

    pub(crate) fn list_receive(&mut self, index: u32) {
        let link = self.links.at(index);
        if !link.listed_receive {
            link.listed_receive = true;
            self.to_receive.push(index);
        }
    }

    /// Stops reading from a link, so that its peer is held back. What is already received is kept; a payload that is being received
    /// into its slot becomes whole and is told.
    pub fn pause(&mut self, link: LinkId) {
        if let Some(record) = self.links.find(link) {
            record.paused = true;
        }
    }

    /// Reads from a link again.
    pub fn resume(&mut self, link: LinkId) {
        let now = self.now;
        let Some(record) = self.links.find(link).filter(|record| record.paused) else { return };
        record.paused = false;
        record.resumed = true;
        record.frame_since = now;
        self.list_receive(link.index);
    }

    /// Bytes queued on a link and not sent; 0 for one that is gone.
    pub fn queued_bytes(&mut self, link: LinkId) -> usize {
        self.links.find(link).map_or(0, |link| link.outbox.bytes())
    }

    /// Bytes of frames queued on all links and not sent, payloads apart.
    pub fn queued_bytes_total(&self) -> usize {
        self.queued_bytes_total
    }

    /// Whether a link is open.
    pub fn is_open(&mut self, link: LinkId) -> bool {
        self.links.find(link).is_some_and(|link| link.is_open())
    }

    /// Links that are open, opening or closing.
    pub fn link_count(&self) -> usize {
        self.links.count()
    }

    // ---- files

    /// Makes a file known to the thread's uring. Its descriptor is shared, so its lock lives as long as the thread has it (R33).
    pub fn register_file(&mut self, file: &StoreFile) -> std::io::Result<FileId> {
        let number = u32::try_from(self.files.len()).expect("few files");
        let fd = file.duplicate()?;
        let fixed = (number < FILES_MAX.min(self.table))
            .then(|| self.ring.register_file(number, Some(fd.as_fd())).ok().map(|()| number))
            .flatten();
        self.files.push((fd, fixed));
        Ok(FileId(number))
    }

    fn target(&self, file: FileId) -> Target {
        let (fd, fixed) = &self.files[file.0 as usize];
        Target::new(fd, *fixed)
    }

    /// Reads `range.len` bytes at `offset` into a slot. Offsets and lengths are multiples of the file's alignment.
    pub fn read(
        &mut self,
        file: FileId,
        offset: u64,
        range: SlotRange,
        token: IoToken,
    ) -> Result<(), IoRefused> {
        self.begin(
            Action::Read,
            file,
            offset,
            &whole(range.slot, range.offset, range.len),
            Owner::Service(token.0),
        )
        .map(drop)
    }

    /// Writes the ranges, one after another, at `offset`; one range from a registered buffer, several as one vectored write.
    pub fn write(
        &mut self,
        file: FileId,
        offset: u64,
        ranges: &[SlotRange],
        token: IoToken,
    ) -> Result<(), IoRefused> {
        self.begin(Action::Write, file, offset, ranges, Owner::Service(token.0)).map(drop)
    }

    /// Makes all writes that have completed durable (`fdatasync`). Writes still in flight are not covered (R31).
    pub fn flush(&mut self, file: FileId, token: IoToken) -> Result<(), IoRefused> {
        self.begin(Action::Flush, file, 0, &[], Owner::Service(token.0)).map(drop)
    }

    /// Reserves space and extends the file over it.
    pub fn allocate(&mut self, file: FileId, offset: u64, len: u64, token: IoToken) -> Result<(), IoRefused> {
        self.begin(Action::Allocate { len }, file, offset, &[], Owner::Service(token.0)).map(drop)
    }

    /// Does nothing, and ends as done: carries an answer that is known already to where all answers arrive.
    pub fn nop(&mut self, file: FileId, token: IoToken) -> Result<(), IoRefused> {
        self.begin(Action::Nop, file, 0, &[], Owner::Service(token.0)).map(drop)
    }

    pub(crate) fn begin(
        &mut self,
        action: Action,
        file: FileId,
        offset: u64,
        ranges: &[SlotRange],
        owner: Owner,
    ) -> Result<u32, IoRefused> {
        if self.disk.is_full() {
            return Err(IoRefused::Full);
        }
        let target = self.target(file);
        let request = Request { owner, action, target, offset, ranges };
        let number = self.disk.begin(&mut self.ring, &mut self.arena, request);
        self.operations_begun += 1;
        if self.disk.in_flight() <= EAGER_OPERATIONS {
            self.submit_operations();
        }
        Ok(number)
    }

    /// Hands over file operations that were begun, if there are any, before the turn's end does. For a service that is about to take its time.
    pub fn submit_operations(&mut self) {
        if std::mem::take(&mut self.operations_begun) > 0 {
            self.ring.submit();
        }
    }

    /// Whether what is about to be sent is so much that the disk shouldn't wait for it.
    pub(crate) fn sends_much(&mut self) -> bool {
        let mut bytes = 0;
        self.to_send.iter().any(|&index| {
            bytes += self.links.at(index).outbox.bytes();
            bytes >= SENDS_MUCH_BYTES
        })
    }

    /// File operations in flight.
    pub fn operations_in_flight(&self) -> usize {
        self.disk.in_flight()
    }

    pub(crate) fn release_phase(&mut self, index: u32) {
        let link = self.links.at(index);
        if let crate::link::Phase::Into { slot, .. } = link.phase {
            self.arena.release(slot);
        }
        link.phase = crate::link::Phase::Head;
    }
}
