//! Counts that a noisy machine can't fool: heap allocations and system calls per 4 KiB read at 32 in flight.
//!
//! The server is a process of its own (this binary, started again), so that its allocations and system calls are its own; it runs
//! once bare and, where strace is installed, once under `strace -f -c`. `cargo test -p runtime --test counts -- --nocapture` prints.

#![expect(unsafe_code, reason = "a counting allocator")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use runtime::{
    FileId, Io, IoOutcome, IoToken, LinkId, Payload, Service, SlotRange, StoreFile, ThreadConfig, clock,
    serve,
};
use wire::{FrameKind, Memory, PREFIX_BYTES, Prefix, Slot, Status};

/// Counts what goes to the heap; everything else is the system's allocator.
struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

// SAFETY: each call is handed to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promise.
        unsafe { System.realloc(pointer, layout, bytes) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const FILE_BYTES: u64 = 64 << 20;
const IN_FLIGHT: usize = 32;
const ENV_FILE: &str = "CATENA_COUNTS_FILE";
const ENV_SPIN: &str = "CATENA_COUNTS_SPIN";

/// Answers each request with the 4 KiB at a place derived from its correlation id; the requests in flight are a table.
struct Reader {
    file: FileId,
    table: Vec<(LinkId, Slot, Prefix)>,
    free: Vec<usize>,
}

impl Service for Reader {
    fn on_head(&mut self, io: &mut Io, link: LinkId, prefix: &Prefix, _: &[u8]) -> Payload {
        if prefix.kind == FrameKind::ShardStatus {
            let mut reply = Prefix::reply(prefix.kind, prefix.correlation, Status::Ok);
            let counters = io.counters();
            let mut message = [0; 32];
            message[..8].copy_from_slice(&ALLOCATIONS.load(Ordering::Relaxed).to_le_bytes());
            message[8..16].copy_from_slice(&counters.enters.to_le_bytes());
            message[16..24].copy_from_slice(&counters.turns.to_le_bytes());
            reply.message_bytes = 32;
            let mut head = [0; PREFIX_BYTES + 32];
            head[..PREFIX_BYTES].copy_from_slice(&reply.encode(&message));
            head[PREFIX_BYTES..].copy_from_slice(&message);
            let _ = io.send(link, &head, None, None);
            return Payload::None;
        }
        let slot = io.memory().allocate(4096).expect("room");
        let work = (link, slot, *prefix);
        let number = if let Some(number) = self.free.pop() {
            self.table[number] = work;
            number
        } else {
            self.table.push(work);
            self.table.len() - 1
        };
        let offset = (prefix.correlation.wrapping_mul(0x9E37_79B9_7F4A_7C15) % (FILE_BYTES >> 12)) << 12;
        let range = SlotRange { slot, offset: 0, len: 4096 };
        io.read(self.file, offset, range, IoToken(number as u64)).expect("room");
        Payload::None
    }

    fn on_io(&mut self, io: &mut Io, token: IoToken, outcome: IoOutcome) {
        assert!(outcome.is_whole(4096));
        let number = usize::try_from(token.0).expect("small");
        let (link, slot, request) = self.table[number];
        self.free.push(number);
        let mut reply = Prefix::reply(request.kind, request.correlation, Status::Ok);
        reply.payload_bytes = 4096;
        let _ = io.send(link, &reply.encode(&[]), Some(SlotRange { slot, offset: 0, len: 4096 }), None);
        io.memory().release(slot);
    }
}

/// The server process: says where it listens and runs until its input ends. Does nothing in an ordinary test run.
#[test]
fn server_process() {
    let Ok(path) = std::env::var(ENV_FILE) else { return };
    let spin = std::env::var(ENV_SPIN).is_ok();
    let cpu = runtime::allowed_cpus().into_iter().next();
    let config = ThreadConfig { cpu, spin, ..ThreadConfig::new("reader") };
    let handle = serve(config, move |io| {
        let file = StoreFile::open(Path::new(&path)).expect("the file is there");
        let file = io.register_file(&file).expect("registered");
        let address = io.listen("127.0.0.1:0".parse().expect("an address")).expect("a port");
        eprintln!("listening {address}");
        Reader { file, table: Vec::with_capacity(1024), free: Vec::with_capacity(1024) }
    })
    .expect("started");
    let mut rest = Vec::new();
    let _ = std::io::stdin().read_to_end(&mut rest);
    handle.stop();
    handle.join().expect("ended well");
}

#[derive(Clone, Copy, Debug)]
struct Counts {
    allocations: u64,
    enters: u64,
    turns: u64,
}

fn request(kind: FrameKind, correlation: u64) -> Vec<u8> {
    // A chunk read's message is about this long.
    let message = [7; 56];
    let mut prefix = Prefix::request(kind, correlation);
    prefix.message_bytes = 56;
    let mut bytes = prefix.encode(&message).to_vec();
    bytes.extend_from_slice(&message);
    bytes
}

fn counts(stream: &mut TcpStream) -> Counts {
    stream.write_all(&request(FrameKind::ShardStatus, 0)).expect("sent");
    let mut reply = [0; PREFIX_BYTES + 32];
    stream.read_exact(&mut reply).expect("answered");
    let word = |at: usize| {
        let at = PREFIX_BYTES + at;
        u64::from_le_bytes(reply[at..at + 8].try_into().expect("eight bytes"))
    };
    Counts { allocations: word(0), enters: word(8), turns: word(16) }
}

/// Keeps the requests in flight, spread over some connections, until `total` were answered.
fn load(streams: &mut [TcpStream], total: u64) {
    let each = IN_FLIGHT / streams.len();
    let mut buffer = vec![0; 256 << 10];
    let mut partial = vec![0_usize; streams.len()];
    let (mut sent, mut answered) = (0_u64, 0_u64);
    let ask = |stream: &mut TcpStream, count: usize, sent: &mut u64| {
        let mut bytes = Vec::new();
        for _ in 0..count {
            *sent += 1;
            bytes.extend(request(FrameKind::GetChunk, *sent));
        }
        stream.write_all(&bytes).expect("sent");
    };
    for stream in streams.iter_mut() {
        stream.set_nonblocking(streams_are_many(each)).expect("a socket");
        ask(stream, each, &mut sent);
    }
    // As many are asked for as were answered, until there are enough; then the rest is awaited.
    while answered < sent {
        for (stream, partial) in streams.iter_mut().zip(&mut partial) {
            let len = match stream.read(&mut buffer) {
                Ok(len) => len,
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => continue,
                Err(error) => panic!("{error}"),
            };
            assert!(len > 0, "the server is there");
            *partial += len;
            let whole = *partial / (PREFIX_BYTES + 4096);
            *partial %= PREFIX_BYTES + 4096;
            answered += whole as u64;
            if sent < total && whole > 0 {
                ask(stream, whole, &mut sent);
            }
            if answered == sent {
                break;
            }
        }
    }
    for stream in streams {
        stream.set_nonblocking(false).expect("a socket");
    }
}

fn streams_are_many(each: usize) -> bool {
    each < IN_FLIGHT
}

struct Outcome {
    before: Counts,
    after: Counts,
    seconds: f64,
    reads: u64,
}

fn measure(command: &mut Command, path: &Path, connections: usize, reads: u64) -> Outcome {
    let mut child = command
        .args(["--exact", "server_process", "--nocapture"])
        .env(ENV_FILE, path)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("this binary starts again");
    let mut lines = BufReader::new(child.stderr.take().expect("piped")).lines();
    let address: SocketAddr = loop {
        let line = lines.next().expect("it says where it listens").expect("text");
        if let Some(address) = line.strip_prefix("listening ") {
            break address.parse().expect("an address");
        }
    };
    let mut streams: Vec<_> = (0..connections)
        .map(|_| {
            let stream = TcpStream::connect(address).expect("it listens");
            stream.set_nodelay(true).expect("a TCP socket");
            stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a time limit");
            stream
        })
        .collect();
    load(&mut streams, reads / 4);
    let before = counts(&mut streams[0]);
    let begin = clock::now();
    load(&mut streams, reads);
    let nanoseconds = clock::now().since(begin);
    let after = counts(&mut streams[0]);
    drop(streams);
    drop(child.stdin.take());
    let last_words: Vec<_> = lines.map_while(Result::ok).collect();
    assert!(child.wait().expect("ended").success(), "{last_words:?}");
    #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
    let seconds = nanoseconds as f64 / 1e9;
    Outcome { before, after, seconds, reads }
}

fn data() -> tempfile::TempDir {
    let directory =
        tempfile::Builder::new().prefix("catena-counts-").tempdir_in("/var/tmp").expect("a directory");
    let block = vec![7; 1 << 20];
    let mut file = std::fs::File::create(directory.path().join("data")).expect("a file");
    for _ in 0..FILE_BYTES >> 20 {
        file.write_all(&block).expect("written");
    }
    file.sync_all().expect("synced");
    directory
}

fn itself() -> std::path::PathBuf {
    std::env::current_exe().expect("this binary")
}

#[test]
#[expect(clippy::cast_precision_loss, reason = "ratios for people")]
fn allocations_and_enters() {
    let directory = data();
    let path = directory.path().join("data");
    for (connections, spin) in [(1, false), (1, true), (4, false)] {
        let mut command = Command::new(itself());
        if spin {
            command.env(ENV_SPIN, "1");
        }
        let outcome = measure(&mut command, &path, connections, 40_000);
        let reads = outcome.reads as f64;
        let allocations = (outcome.after.allocations - outcome.before.allocations) as f64 / reads;
        let enters = (outcome.after.enters - outcome.before.enters) as f64 / reads;
        let turns = (outcome.after.turns - outcome.before.turns) as f64 / reads;
        println!(
            "{connections} connections, spin {spin}: {allocations:.5} allocations, {enters:.3} enters, {turns:.3} turns a read; \
             {:.0} reads/s",
            reads / outcome.seconds
        );
        assert!(allocations <= 0.01, "{allocations} allocations a read");
        assert!(enters <= 0.5, "{enters} enters a read");
    }
}

#[test]
#[expect(clippy::cast_precision_loss, reason = "ratios for people")]
fn system_calls() {
    if Command::new("strace").arg("-V").output().is_err() {
        println!("SKIPPED runtime::counts::system_calls: strace isn't installed");
        return;
    }
    let directory = data();
    let path = directory.path().join("data");
    let table = directory.path().join("table");
    let mut command = Command::new("strace");
    command.args(["-f", "-c", "-o"]).arg(&table).arg(itself());
    let outcome = measure(&mut command, &path, 1, 20_000);
    let text = std::fs::read_to_string(&table).expect("strace wrote its table");
    let total = text.lines().last().expect("a last line");
    // The columns: % time, seconds, usecs/call, calls, errors, "total".
    let calls: f64 =
        total.split_ascii_whitespace().nth(3).and_then(|calls| calls.parse().ok()).expect("a number");
    let reads = outcome.reads as f64 * 1.25;
    println!("{:.3} system calls a read, start and end included", calls / reads);
    assert!(calls / reads <= 0.5, "{text}");
}
