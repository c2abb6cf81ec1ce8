//! A small server and a blocking client, for all tests.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::mpsc;
use std::time::Duration;

use runtime::{
    CloseReason, FileId, Io, IoOutcome, IoToken, LinkId, LinkKind, LinkLimits, Payload, Service, SlotRange,
    StoreFile, ThreadConfig, ThreadHandle, serve,
};
use wire::{FrameKind, Memory, PREFIX_BYTES, Prefix, Slot, Status};

/// Everything that happened to links, for assertions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Happened {
    Opened {
        over_limit: bool,
    },
    Closed(CloseReason),
    /// Everything is closed; how many bytes of the arena are not back.
    Stopped {
        leaked_bytes: usize,
    },
}

/// Echoes `PutChunk` payloads, answers `GetChunk` from a file (the correlation id is the offset's block), `KeepAlive` at once.
pub struct Server {
    file: Option<FileId>,
    requests: Vec<Option<Request>>,
    receiving: Vec<(LinkId, usize)>,
    told: mpsc::Sender<Happened>,
}

#[derive(Clone, Copy)]
struct Request {
    link: LinkId,
    slot: Slot,
    prefix: Prefix,
}

impl Server {
    pub fn new(file: Option<FileId>, told: mpsc::Sender<Happened>) -> Self {
        Self { file, requests: Vec::new(), receiving: Vec::new(), told }
    }

    fn remember(&mut self, request: Request) -> usize {
        if let Some(free) = self.requests.iter().position(Option::is_none) {
            self.requests[free] = Some(request);
            return free;
        }
        self.requests.push(Some(request));
        self.requests.len() - 1
    }

    fn answer(io: &mut Io, request: Request, status: Status, len: u32) {
        let mut prefix = Prefix::reply(request.prefix.kind, request.prefix.correlation, status);
        prefix.payload_bytes = len;
        let range = (len > 0).then_some(SlotRange { slot: request.slot, offset: 0, len });
        let _ = io.send(request.link, &prefix.encode(&[]), range, None);
        io.memory().release(request.slot);
    }
}

impl Service for Server {
    fn on_open(&mut self, _: &mut Io, _: LinkId, kind: LinkKind, _: Option<SocketAddr>) {
        if let LinkKind::Accepted { over_limit } = kind {
            let _ = self.told.send(Happened::Opened { over_limit });
        }
    }

    fn on_head(&mut self, io: &mut Io, link: LinkId, prefix: &Prefix, message: &[u8]) -> Payload {
        match prefix.kind {
            FrameKind::PutChunk => {
                let Some(slot) = io.memory().allocate(prefix.payload_bytes as usize) else {
                    return Payload::Discard;
                };
                let request = self.remember(Request { link, slot, prefix: *prefix });
                if prefix.payload_bytes == 0 {
                    let request = self.requests[request].take().expect("just put there");
                    Self::answer(io, request, Status::Ok, 0);
                    return Payload::None;
                }
                self.receiving.push((link, request));
                Payload::Into { slot, offset: 0 }
            }
            FrameKind::GetChunk => {
                let slot = io.memory().allocate(4096).expect("the arena is large enough");
                let token = self.remember(Request { link, slot, prefix: *prefix });
                let range = SlotRange { slot, offset: 0, len: 4096 };
                let offset = prefix.correlation * 4096;
                io.read(self.file.expect("has a file"), offset, range, IoToken(token as u64)).expect("room");
                Payload::None
            }
            _ => {
                let mut reply = Prefix::reply(prefix.kind, prefix.correlation, Status::Ok);
                reply.message_bytes = u32::try_from(message.len()).expect("small");
                let mut head = reply.encode(message).to_vec();
                head.extend_from_slice(message);
                let _ = io.send(link, &head, None, None);
                if prefix.payload_bytes == 0 { Payload::None } else { Payload::Discard }
            }
        }
    }

    fn on_payload(&mut self, io: &mut Io, link: LinkId) {
        let at = self.receiving.iter().position(|&(l, _)| l == link).expect("a payload was announced");
        let (_, number) = self.receiving.swap_remove(at);
        let request = self.requests[number].take().expect("it is remembered");
        Self::answer(io, request, Status::Ok, request.prefix.payload_bytes);
    }

    fn on_io(&mut self, io: &mut Io, token: IoToken, outcome: IoOutcome) {
        let number = usize::try_from(token.0).expect("small");
        let request = self.requests[number].take().expect("it is remembered");
        assert!(outcome.is_whole(4096), "{outcome:?}");
        Self::answer(io, request, Status::Ok, 4096);
    }

    fn on_close(&mut self, io: &mut Io, link: LinkId, reason: CloseReason) {
        if let Some(at) = self.receiving.iter().position(|&(l, _)| l == link) {
            let (_, number) = self.receiving.swap_remove(at);
            let request = self.requests[number].take().expect("it is remembered");
            io.memory().release(request.slot);
        }
        let _ = self.told.send(Happened::Closed(reason));
    }

    fn on_end(&mut self, io: &mut Io) {
        let report = io.memory().report();
        let _ = self.told.send(Happened::Stopped { leaked_bytes: report.bytes - report.free_bytes });
    }
}

/// A running server.
pub struct Running {
    pub address: SocketAddr,
    pub handle: ThreadHandle,
    pub happened: mpsc::Receiver<Happened>,
}

impl Running {
    /// Waits for the first event that `wanted` accepts.
    pub fn wait(&self, wanted: impl Fn(Happened) -> bool) -> Happened {
        loop {
            let happened = self.happened.recv_timeout(Duration::from_secs(20)).expect("it happens in time");
            if wanted(happened) {
                return happened;
            }
        }
    }

    pub fn closed(&self) -> CloseReason {
        match self.wait(|happened| matches!(happened, Happened::Closed(_))) {
            Happened::Closed(reason) => reason,
            _ => unreachable!(),
        }
    }

    pub fn stop(self) {
        self.handle.stop();
        let stopped = self.wait(|happened| matches!(happened, Happened::Stopped { .. }));
        assert_eq!(stopped, Happened::Stopped { leaked_bytes: 0 }, "all slots are back");
        self.handle.join().expect("the thread ended well");
    }
}

/// Starts a server on a port of its own.
pub fn start(limits: LinkLimits, path: Option<&Path>) -> Running {
    start_with(ThreadConfig { links: limits, arena_bytes: 32 << 20, ..ThreadConfig::new("server") }, path)
}

pub fn start_with(config: ThreadConfig, path: Option<&Path>) -> Running {
    let (told, happened) = mpsc::channel();
    let (bound, address) = mpsc::channel();
    let path = path.map(Path::to_path_buf);
    let handle = serve(config, move |io| {
        let file = path.map(|path| {
            let file = StoreFile::open(&path).expect("the file can be opened");
            io.register_file(&file).expect("the file can be registered")
        });
        let at = io.listen("127.0.0.1:0".parse().expect("an address")).expect("a port is free");
        bound.send(at).expect("the test waits");
        Server::new(file, told)
    })
    .expect("the thread starts");
    Running { address: address.recv().expect("it is bound"), handle, happened }
}

/// A blocking connection.
pub struct Client(pub TcpStream);

impl Client {
    pub fn new(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).expect("the server listens");
        stream.set_nodelay(true).expect("a TCP socket");
        stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a time limit");
        Self(stream)
    }

    pub fn send(&mut self, kind: FrameKind, correlation: u64, message: &[u8], payload: &[u8]) {
        self.0.write_all(&frame(kind, correlation, message, payload)).expect("sent");
    }

    pub fn receive(&mut self) -> (Prefix, Vec<u8>, Vec<u8>) {
        let mut head = [0; PREFIX_BYTES];
        self.0.read_exact(&mut head).expect("a prefix");
        let prefix = Prefix::decode(&head).expect("a good prefix");
        let mut message = vec![0; prefix.message_bytes as usize];
        self.0.read_exact(&mut message).expect("a message");
        Prefix::verify(&head, &message).expect("a good head");
        let mut payload = vec![0; prefix.payload_bytes as usize];
        self.0.read_exact(&mut payload).expect("a payload");
        (prefix, message, payload)
    }

    /// Whether the server has closed the connection (within the read time-out).
    pub fn is_closed(&mut self) -> bool {
        let mut rest = Vec::new();
        match self.0.read_to_end(&mut rest) {
            Ok(_) => true,
            Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
        }
    }
}

pub fn frame(kind: FrameKind, correlation: u64, message: &[u8], payload: &[u8]) -> Vec<u8> {
    let mut prefix = Prefix::request(kind, correlation);
    prefix.message_bytes = u32::try_from(message.len()).expect("small");
    prefix.payload_bytes = u32::try_from(payload.len()).expect("small");
    let mut bytes = prefix.encode(message).to_vec();
    bytes.extend_from_slice(message);
    bytes.extend_from_slice(payload);
    bytes
}

/// Bytes that differ from place to place.
pub fn pattern(seed: u64, len: usize) -> Vec<u8> {
    let mut random = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    (0..len.div_ceil(8))
        .flat_map(|_| {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            random.to_le_bytes()
        })
        .take(len)
        .collect()
}
