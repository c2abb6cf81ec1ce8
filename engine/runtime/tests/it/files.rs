//! File operations through a thread's uring.

use std::io::Write;
use std::sync::mpsc;
use std::time::Duration;

use runtime::{
    FileId, Io, IoOutcome, IoToken, LinkId, LinkLimits, OpenFileError, Payload, Service, SlotRange,
    StoreFile, ThreadConfig, serve, spawn_thread,
};
use wire::{FrameKind, Memory, Prefix, Slot};

use crate::support::{Client, pattern, start};

/// A directory on a file system with direct I/O.
pub fn directory() -> tempfile::TempDir {
    tempfile::Builder::new().prefix("catena-runtime-").tempdir_in("/var/tmp").expect("a directory")
}

struct Round {
    file: FileId,
    slots: Vec<Slot>,
    step: u64,
    done: mpsc::Sender<Result<(), String>>,
}

impl Round {
    fn next(&mut self, io: &mut Io) {
        let token = IoToken(self.step);
        let range = |slot, len| SlotRange { slot, offset: 0, len };
        match self.step {
            0 => io.allocate(self.file, 0, 4 << 20, token),
            1 => {
                for (number, &slot) in self.slots.iter().enumerate() {
                    let bytes = io.memory().bytes_mut(slot);
                    let len = bytes.len();
                    bytes.copy_from_slice(&pattern(number as u64, len));
                }
                io.write(self.file, 0, &[range(self.slots[0], 4096)], token)
            }
            2 => {
                let parts: Vec<_> = self.slots[..3].iter().map(|&slot| range(slot, 8192)).collect();
                io.write(self.file, 4096, &parts, token)
            }
            3 => io.flush(self.file, token),
            4 => io.read(self.file, 4096 + 8192, range(self.slots[3], 8192), token),
            5 => io.read(self.file, 1 << 40, range(self.slots[3], 4096), token),
            6 => io.read(self.file, (4 << 20) - 4096, range(self.slots[3], 8192), token),
            7 => io.read(self.file, 4095, range(self.slots[3], 4096), token),
            _ => {
                for slot in self.slots.drain(..) {
                    io.memory().release(slot);
                }
                assert_eq!(io.memory().free_bytes(), io.memory().report().bytes);
                let _ = self.done.send(Ok(()));
                io.stop();
                return;
            }
        }
        .expect("room for an operation");
    }
}

impl Service for Round {
    fn on_head(&mut self, _: &mut Io, _: LinkId, _: &Prefix, _: &[u8]) -> Payload {
        Payload::None
    }

    fn on_io(&mut self, io: &mut Io, token: IoToken, outcome: IoOutcome) {
        assert_eq!(token.0, self.step);
        let expected = match self.step {
            1 => IoOutcome::Done { bytes: 4096 },
            2 => IoOutcome::Done { bytes: 3 * 8192 },
            4 => IoOutcome::Done { bytes: 8192 },
            5 => IoOutcome::Short { bytes: 0 },
            6 => IoOutcome::Short { bytes: 4096 },
            7 => IoOutcome::Failed { errno: 22 },
            _ => IoOutcome::Done { bytes: 0 },
        };
        assert_eq!(outcome, expected, "step {}", self.step);
        if self.step == 4 {
            let expected = pattern(1, 8192);
            assert!(io.memory().bytes(self.slots[3]) == expected, "the second of three ranges");
        }
        self.step += 1;
        self.next(io);
    }
}

#[test]
fn write_flush_read() {
    let directory = directory();
    let path = directory.path().join("store");
    let (done, wait) = mpsc::channel();
    let handle = serve(ThreadConfig::new("files"), move |io| {
        let file = StoreFile::create(&path).expect("a new file");
        let file = io.register_file(&file).expect("registered");
        let slots = (0..4).map(|_| io.memory().allocate(8192).expect("room")).collect();
        let mut round = Round { file, slots, step: 0, done };
        round.next(io);
        round
    })
    .expect("started");
    handle.join().expect("ended well");
    wait.recv().expect("done").expect("all steps");
}

#[test]
fn blocks_through_a_socket() {
    let directory = directory();
    let path = directory.path().join("data");
    let blocks = 256_u64;
    let mut file = std::fs::File::create(&path).expect("a new file");
    for block in 0..blocks {
        file.write_all(&pattern(block, 4096)).expect("written");
    }
    file.sync_all().expect("synced");
    let server = start(LinkLimits::default(), Some(&path));
    let mut client = Client::new(server.address);
    let mut sent = 0;
    let mut seen = vec![false; usize::try_from(blocks).expect("small")];
    for received in 0..blocks {
        while sent < blocks && sent < received + 32 {
            client.send(FrameKind::GetChunk, sent, b"which block", &[]);
            sent += 1;
        }
        let (prefix, _, payload) = client.receive();
        assert!(payload == pattern(prefix.correlation, 4096), "block {}", prefix.correlation);
        let seen = &mut seen[usize::try_from(prefix.correlation).expect("small")];
        assert!(!std::mem::replace(seen, true), "an answer each");
    }
    drop(client);
    server.stop();
}

/// tmpfs takes direct I/O since Linux 6.6, and so passed for a disk: what was acknowledged there was gone with the power.
#[test]
fn a_file_system_in_memory_is_refused_by_name() {
    let directory = tempfile::tempdir_in("/dev/shm").expect("every Linux has /dev/shm, a tmpfs");
    let path = directory.path().join("store");
    let error = StoreFile::create(&path).expect_err("refused");
    assert!(matches!(error, OpenFileError::InMemory { .. }), "{error}");
    assert!(error.to_string().contains("is on tmpfs, which is memory"), "{error}");
    assert!(!path.exists(), "nothing is left behind");
}

/// R33: a second opener is refused while any descriptor of the first description lives, also one that only the uring holds.
#[test]
fn the_lock_lives_as_long_as_the_last_user() {
    let directory = directory();
    let path = directory.path().join("store");
    let first = StoreFile::create(&path).expect("a new file");
    let short = Duration::from_millis(30);
    let refused = |moment: &str| match StoreFile::open_within(&path, short) {
        Err(error @ OpenFileError::Locked { .. }) => {
            assert!(error.to_string().contains("in use by another process"), "{error}");
        }
        other => panic!("{moment}: {other:?}"),
    };
    refused("the file is open");
    let (registered, wait) = mpsc::channel();
    let handle = serve(ThreadConfig { arena_bytes: 1, ..ThreadConfig::new("owner") }, move |io| {
        let file = io.register_file(&first).expect("registered");
        // The caller's own descriptor is gone; the thread's lives.
        drop(first);
        registered.send(()).expect("the test waits");
        Owner { _file: file }
    })
    .expect("started");
    wait.recv().expect("registered");
    refused("only the thread has it");
    handle.stop();
    handle.join().expect("ended well");
    // It waits for a moment: the kernel ends a uring some time after its thread.
    StoreFile::open(&path).expect("the lock went with its last user");
}

struct Owner {
    _file: FileId,
}

impl Service for Owner {
    fn on_head(&mut self, _: &mut Io, _: LinkId, _: &Prefix, _: &[u8]) -> Payload {
        Payload::None
    }
}

/// A straggler: the process that opened the file is killed, a child of its that inherited the descriptor still has it.
#[test]
fn a_straggling_process_blocks_the_next_owner() {
    let directory = directory();
    let path = directory.path().join("store");
    drop(StoreFile::create(&path).expect("a new file"));
    // `flock` takes the lock on a descriptor and leaves it to a child that outlives it.
    let mut straggler = std::process::Command::new("flock")
        .arg("--exclusive")
        .arg(&path)
        .args(["sh", "-c", "echo locked; read line"])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("flock (util-linux) is installed");
    let mut said = [0; 7];
    std::io::Read::read_exact(straggler.stdout.as_mut().expect("piped"), &mut said).expect("it says so");
    let line = straggler.stdin.take();
    straggler.kill().expect("SIGKILL");
    straggler.wait().expect("it is dead");
    let blocked = StoreFile::open_within(&path, Duration::from_millis(50));
    assert!(matches!(blocked, Err(OpenFileError::Locked { .. })), "{blocked:?}");
    let waiting = path.clone();
    let (opened, wait) = mpsc::channel();
    let opener = spawn_thread("opener", None, move || {
        opened
            .send(StoreFile::open(&waiting).map(drop).map_err(|error| error.to_string()))
            .expect("the test waits");
    })
    .expect("a thread");
    assert!(wait.recv_timeout(Duration::from_millis(100)).is_err(), "it waits");
    drop(line);
    assert_eq!(
        wait.recv_timeout(Duration::from_secs(9)),
        Ok(Ok(())),
        "it gets the lock when the straggler is gone"
    );
    opener.join().expect("ended well");
}

#[test]
fn what_a_file_is_on() {
    let directory = directory();
    let system = runtime::file_system(directory.path()).expect("told");
    assert!(system.free_bytes > 0 && system.free_bytes <= system.total_bytes && !system.name.is_empty());
    assert!(runtime::takes_direct_io(directory.path()).expect("tried"), "on {}", system.name);
    let file = StoreFile::create(&directory.path().join("store")).expect("a new file");
    assert!(file.alignment().0 <= 4096 && file.alignment().1 <= 4096);
    file.reserve(0, 1 << 20).expect("space");
    file.sync().expect("synced");
    assert_eq!(file.len().expect("told"), 1 << 20);
    let error = StoreFile::open(&directory.path().join("nothing")).expect_err("no such file").to_string();
    assert!(error.contains("nothing"), "{error}");
}
