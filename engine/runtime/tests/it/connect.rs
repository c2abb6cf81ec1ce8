//! Links that a thread opens itself: to peers that answer, that refuse, and that are never there.

use std::net::SocketAddr;
use std::sync::mpsc;
use std::time::Duration;

use runtime::{
    CloseReason, Io, LinkId, LinkKind, LinkLimits, Payload, SendRefused, Service, SlotRange, ThreadConfig,
    serve,
};
use wire::{FrameKind, Memory, Nanos, Prefix, Slot};

use crate::support::{frame, pattern, start};

#[derive(Debug, PartialEq, Eq)]
enum Told {
    Sent(u64),
    Whole(u64),
    Closed(CloseReason),
}

/// Sends payloads of growing size, one after another, each from and into slots of its own.
struct Caller {
    link: LinkId,
    step: u64,
    into: Option<Slot>,
    told: mpsc::Sender<Told>,
}

impl Caller {
    fn len(step: u64) -> usize {
        1 + usize::try_from(step * step * 997 % (256 << 10)).expect("small")
    }

    fn call(&mut self, io: &mut Io) {
        let len = Self::len(self.step);
        let slot = io.memory().allocate(len).expect("room");
        io.memory().bytes_mut(slot)[..len].copy_from_slice(&pattern(self.step, len));
        let mut prefix = Prefix::request(FrameKind::PutChunk, self.step);
        prefix.payload_bytes = u32::try_from(len).expect("small");
        let range = SlotRange { slot, offset: 0, len: prefix.payload_bytes };
        io.send(self.link, &prefix.encode(&[]), Some(range), Some(self.step)).expect("open");
        // The runtime holds the slot until it is sent.
        io.memory().release(slot);
    }
}

impl Service for Caller {
    fn on_open(&mut self, io: &mut Io, link: LinkId, kind: LinkKind, _: Option<SocketAddr>) {
        assert_eq!(kind, LinkKind::Connected);
        self.link = link;
        self.call(io);
    }

    fn on_head(&mut self, io: &mut Io, _: LinkId, prefix: &Prefix, _: &[u8]) -> Payload {
        assert_eq!(prefix.correlation, self.step);
        let slot = io.memory().allocate(prefix.payload_bytes as usize).expect("room");
        self.into = Some(slot);
        Payload::Into { slot, offset: 0 }
    }

    fn on_sent(&mut self, _: &mut Io, _: LinkId, token: u64) {
        let _ = self.told.send(Told::Sent(token));
    }

    fn on_payload(&mut self, io: &mut Io, link: LinkId) {
        let slot = self.into.take().expect("announced");
        let len = Self::len(self.step);
        assert!(io.memory().bytes(slot)[..len] == pattern(self.step, len));
        io.memory().release(slot);
        let _ = self.told.send(Told::Whole(self.step));
        self.step += 1;
        if self.step < 60 {
            self.call(io);
        } else {
            io.close(link, CloseReason::Local);
        }
    }

    fn on_close(&mut self, io: &mut Io, link: LinkId, reason: CloseReason) {
        assert_eq!(io.send(link, &[0; 64], None, None), Err(SendRefused::Closed));
        assert_eq!(io.memory().free_bytes(), io.memory().report().bytes);
        let _ = self.told.send(Told::Closed(reason));
        io.stop();
    }
}

fn call(address: SocketAddr, limits: LinkLimits) -> mpsc::Receiver<Told> {
    let (told, wait) = mpsc::channel();
    let config = ThreadConfig { links: limits, ..ThreadConfig::new("caller") };
    serve(config, move |io| {
        let link = io.connect(address).expect("a socket");
        Caller { link, step: 0, into: None, told }
    })
    .expect("started");
    wait
}

#[test]
fn a_thread_calls_another() {
    let server = start(LinkLimits::default(), None);
    let told = call(server.address, LinkLimits::default());
    let told: Vec<_> = std::iter::from_fn(|| told.recv_timeout(Duration::from_secs(20)).ok()).collect();
    assert_eq!(told.iter().filter(|told| matches!(told, Told::Sent(_))).count(), 60);
    assert_eq!(told.iter().filter(|told| matches!(told, Told::Whole(_))).count(), 60);
    assert_eq!(told.last(), Some(&Told::Closed(CloseReason::Local)));
    assert_eq!(server.closed(), CloseReason::Peer);
    server.stop();
}

#[test]
fn nobody_listens() {
    let port = std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("bound");
    let told = call(port, LinkLimits::default());
    let refused = Told::Closed(CloseReason::Refused { errno: 111 });
    assert_eq!(told.recv_timeout(Duration::from_secs(20)), Ok(refused));
}

/// A listener whose backlog is full answers nothing: the attempt ends by its time limit.
#[test]
fn nobody_answers() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("bound");
    let mut waiting = Vec::new();
    while let Ok(stream) = std::net::TcpStream::connect_timeout(&address, Duration::from_millis(100)) {
        waiting.push(stream);
        assert!(waiting.len() < 10_000, "the backlog has an end");
    }
    let limits = LinkLimits { connect_timeout: 200 * Nanos::MILLISECOND, ..LinkLimits::default() };
    let told = call(address, limits);
    let timed_out = Told::Closed(CloseReason::Refused { errno: 110 });
    assert_eq!(told.recv_timeout(Duration::from_secs(20)), Ok(timed_out));
}

/// Stops reading after each frame, for a moment: nothing is lost, nothing comes while paused.
struct Pausing {
    paused: Option<LinkId>,
    seen: u64,
    told: mpsc::Sender<u64>,
}

impl Service for Pausing {
    fn on_head(&mut self, io: &mut Io, link: LinkId, prefix: &Prefix, _: &[u8]) -> Payload {
        assert_eq!(self.paused, None, "a paused link is silent");
        assert_eq!(prefix.correlation, self.seen);
        self.seen += 1;
        let _ = self.told.send(prefix.correlation);
        io.pause(link);
        self.paused = Some(link);
        io.arm(io.now().after(100 * Nanos::MICROSECOND));
        if prefix.payload_bytes == 0 { Payload::None } else { Payload::Discard }
    }

    fn on_timer(&mut self, io: &mut Io, _: Nanos) {
        if let Some(link) = self.paused.take() {
            io.resume(link);
        }
    }

    fn on_close(&mut self, io: &mut Io, _: LinkId, _: CloseReason) {
        io.stop();
    }
}

#[test]
fn paused_links_lose_nothing() {
    let (told, seen) = mpsc::channel();
    let (bound, address) = mpsc::channel();
    let handle = serve(ThreadConfig::new("pausing"), move |io| {
        bound
            .send(io.listen("127.0.0.1:0".parse().expect("an address")).expect("a port"))
            .expect("the test waits");
        Pausing { paused: None, seen: 0, told }
    })
    .expect("started");
    let mut client = crate::support::Client::new(address.recv().expect("bound"));
    let mut bytes = Vec::new();
    for number in 0..300_u64 {
        let len = usize::try_from(number * 131 % 20_000).expect("small");
        bytes.extend(frame(FrameKind::PutChunk, number, &pattern(number, len % 700), &pattern(number, len)));
    }
    std::io::Write::write_all(&mut client.0, &bytes).expect("sent");
    for number in 0..300 {
        assert_eq!(seen.recv_timeout(Duration::from_secs(20)), Ok(number));
    }
    drop(client);
    handle.join().expect("ended well");
}

/// Calls again whenever its connection ends.
struct Persistent(SocketAddr);

impl Service for Persistent {
    fn on_head(&mut self, _: &mut Io, _: LinkId, _: &Prefix, _: &[u8]) -> Payload {
        Payload::None
    }

    fn on_close(&mut self, io: &mut Io, _: LinkId, _: CloseReason) {
        // Refused at the end, which is what is tested.
        let _ = io.connect(self.0);
    }
}

/// What was connected while a thread ended kept it alive for as long as the peer did.
#[test]
fn nothing_is_connected_at_the_end() {
    let server = start(LinkLimits::default(), None);
    let address = server.address;
    let thread = serve(ThreadConfig::new("persistent"), move |io| {
        io.connect(address).expect("a socket");
        Persistent(address)
    })
    .expect("started");
    thread.stop();
    let (ended, wait) = mpsc::channel();
    runtime::spawn_thread("joining", None, move || {
        let _ = ended.send(thread.join().is_ok());
    })
    .expect("a thread");
    assert_eq!(wait.recv_timeout(Duration::from_secs(20)), Ok(true));
    server.stop();
}
