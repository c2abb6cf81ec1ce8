//! Starting where something is missing: each lack has a message of its own, or a fallback that is said once.
//!
//! The lacks are made in child processes: this binary, started again with [`ENV`] set.

#![expect(unsafe_code, reason = "seccomp filters and resource limits of child processes")]

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Output};
use std::sync::mpsc;

use runtime::{
    Io, LinkId, LinkLimits, Payload, RingError, Service, StartError, StoreFile, ThreadConfig, UringState,
    serve,
};
use wire::{FrameKind, Prefix};

use crate::files::directory;
use crate::support::{Client, pattern, start_with};

const ENV: &str = "CATENA_START_CHILD";

struct Nothing;

impl Service for Nothing {
    fn on_head(&mut self, _: &mut Io, _: LinkId, _: &Prefix, _: &[u8]) -> Payload {
        Payload::None
    }
}

/// Makes a system call fail with an error number, for this process.
fn forbid(call: libc::c_long, errno: i32) {
    let statement = |code: u32, k: u32| libc::sock_filter {
        code: u16::try_from(code).expect("16 bits"),
        jt: 0,
        jf: 0,
        k,
    };
    let call = u32::try_from(call).expect("small");
    let errno = u32::try_from(errno).expect("small");
    let mut filter = [
        // The call's number is the first word of what a filter sees.
        statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0),
        libc::sock_filter { jf: 1, ..statement(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, call) },
        statement(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ERRNO | errno),
        statement(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog { len: 4, filter: filter.as_mut_ptr() };
    // SAFETY: plain system call without pointers.
    assert_eq!(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) }, 0);
    // SAFETY: the program and its filter outlive the call, which copies them.
    let result = unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) };
    assert_eq!(result, 0);
}

fn failed_start() -> StartError {
    match serve(ThreadConfig::new("refused"), |_| Nothing) {
        Ok(_) => panic!("it started"),
        Err(error) => error,
    }
}

/// What the child processes do. Nothing in an ordinary test run.
#[test]
fn child() {
    match std::env::var(ENV).as_deref() {
        Ok("forbidden") => {
            forbid(libc::SYS_io_uring_setup, libc::EPERM);
            let error = failed_start();
            assert!(matches!(error, StartError::Ring(RingError::Forbidden)), "{error:?}");
            assert!(error.to_string().contains("kernel.io_uring_disabled"), "{error}");
            assert!(matches!(runtime::probe().uring, UringState::Unusable(RingError::Forbidden)));
        }
        Ok("absent") => {
            forbid(libc::SYS_io_uring_setup, libc::ENOSYS);
            let error = failed_start();
            assert!(matches!(error, StartError::Ring(RingError::TooOld { .. })), "{error:?}");
            assert!(error.to_string().contains("6.1"), "{error}");
        }
        Ok("locked") => {
            let limit = libc::rlimit { rlim_cur: 64 << 10, rlim_max: 64 << 10 };
            // SAFETY: the pointer is to a structure of the right type.
            assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_MEMLOCK, &raw const limit) }, 0);
            let error = failed_start();
            assert!(matches!(error, StartError::Ring(RingError::LockedMemory { limit: 65536 })), "{error:?}");
            assert!(error.to_string().contains("LimitMEMLOCK"), "{error}");
        }
        Ok("unregistered") => works_without_registered_memory(),
        Ok(other) => panic!("what is {other}?"),
        Err(_) => {}
    }
}

/// Two threads with more memory than may be locked: both work, and it is said once.
fn works_without_registered_memory() {
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_ansi(false).init();
    let directory = directory();
    let path = directory.path().join("data");
    let mut file = std::fs::File::create(&path).expect("a file");
    file.write_all(&pattern(0, 4096)).expect("written");
    for number in 0..2 {
        let config = ThreadConfig { arena_bytes: 32 << 20, ..ThreadConfig::new(format!("thread-{number}")) };
        let (told, registered) = mpsc::channel();
        let probe = serve(config.clone(), move |io| {
            told.send(io.memory().report().registered).expect("the test waits");
            io.stop();
            Nothing
        });
        assert!(!registered.recv().expect("told"), "32 MiB aren't registered with a limit of 8 MiB");
        probe.expect("started").join().expect("ended well");
        let server = start_with(ThreadConfig { links: LinkLimits::default(), ..config }, Some(&path));
        let mut client = Client::new(server.address);
        client.send(FrameKind::GetChunk, 0, &[], &[]);
        assert_eq!(client.receive().2, pattern(0, 4096));
        client.send(FrameKind::PutChunk, 0, &[], &pattern(1, 100_000));
        assert_eq!(client.receive().2, pattern(1, 100_000));
        server.stop();
        StoreFile::open(&path).expect("unlocked again");
    }
}

fn in_child(what: &str, command: &mut Command) -> Output {
    let output = command
        .args(["--exact", "start::child", "--nocapture"])
        .env(ENV, what)
        .output()
        .expect("this binary starts again");
    assert!(output.status.success(), "{what}: {}", String::from_utf8_lossy(&output.stderr));
    output
}

fn itself() -> std::path::PathBuf {
    std::env::current_exe().expect("this binary")
}

#[test]
fn io_uring_forbidden() {
    in_child("forbidden", &mut Command::new(itself()));
}

#[test]
fn io_uring_absent() {
    in_child("absent", &mut Command::new(itself()));
}

#[test]
fn too_little_locked_memory() {
    in_child("locked", &mut Command::new(itself()));
}

#[test]
fn an_ordinary_user_with_eight_mib_of_locked_memory() {
    // SAFETY: plain system call without pointers.
    let root = unsafe { libc::geteuid() } == 0;
    if !root || Command::new("setpriv").arg("--version").output().is_err() {
        eprintln!(
            "SKIPPED runtime::start::an_ordinary_user_with_eight_mib_of_locked_memory: needs root and setpriv"
        );
        return;
    }
    // The user must be able to read the binary: not everyone's target directory is open to all.
    let directory = directory();
    std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o755)).expect("mode");
    let copy = directory.path().join("it");
    std::fs::copy(itself(), &copy).expect("copied");
    let mut command = Command::new("prlimit");
    command
        .arg("--memlock=8388608:8388608")
        .args([
            "setpriv",
            "--reuid=65534",
            "--regid=65534",
            "--clear-groups",
            "--bounding-set=-all",
            "--inh-caps=-all",
        ])
        .arg(&copy);
    let output = in_child("unregistered", &mut command);
    let said = String::from_utf8_lossy(&output.stderr);
    let warnings = said.lines().filter(|line| line.contains("can't be registered")).count();
    assert_eq!(warnings, 1, "said once: {said}");
}

#[test]
fn threads_are_bound_to_their_cpu() {
    let cpu = *runtime::allowed_cpus().last().expect("at least one");
    // One that no machine has is reported, and harmless.
    for (wanted, expected) in [(cpu, vec![cpu]), (1 << 20, runtime::allowed_cpus())] {
        let (told, seen) = mpsc::channel();
        let config = ThreadConfig { cpu: Some(wanted), arena_bytes: 1, ..ThreadConfig::new("bound") };
        let handle = serve(config, move |io| {
            told.send(runtime::allowed_cpus()).expect("the test waits");
            io.stop();
            Nothing
        })
        .expect("started");
        assert_eq!(seen.recv().expect("told"), expected);
        handle.join().expect("ended well");
    }
}
