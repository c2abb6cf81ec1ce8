//! Machines that lack something: a node either says what, or says once what it does without and works.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use harness::{Content, Dev, Node, Run, Scratch, skip};

fn is_installed(program: &str) -> bool {
    Command::new(program).arg("--version").output().is_ok()
}

/// `strace` makes one system call of the node fail, as a seccomp filter or an old kernel would.
fn without_uring(errno: &str) -> Option<String> {
    if !is_installed("strace") {
        skip("strace", "strace isn't installed");
        return None;
    }
    let scratch = Scratch::new();
    let trace = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", "trace=io_uring_setup"];
    let inject = ["-e".to_owned(), format!("inject=io_uring_setup:error={errno}")];
    let dev = Dev::new(&scratch.join("node"));
    let (status, said) = dev.clone().under(trace).under(inject).start_in_vain();
    if said.contains("ptrace") {
        skip("strace", &said);
        return None;
    }
    assert_eq!(status.code(), Some(1), "{said}");
    // What the attempt left is no obstacle once io_uring is there.
    let mut node = dev.start();
    node.run(["volume", "create", "v"]).run().ok();
    assert!(node.stop().success());
    Some(said)
}

#[test]
fn io_uring_forbidden_is_said_with_the_mend() {
    let Some(said) = without_uring("EPERM") else { return };
    assert!(said.contains("io_uring is forbidden here"), "{said}");
    assert!(said.contains("sysctl kernel.io_uring_disabled=0") && said.contains("seccomp"), "{said}");
}

#[test]
fn a_kernel_without_io_uring_is_called_too_old() {
    let Some(said) = without_uring("ENOSYS") else { return };
    assert!(said.contains("too old") && said.contains("Linux 6.1"), "{said}");
}

/// tmpfs takes direct I/O since Linux 6.6, and so a node stood on memory and acknowledged.
#[test]
fn a_node_in_memory_is_refused_by_name() {
    let scratch = tempfile::tempdir_in("/dev/shm").expect("every Linux has /dev/shm, a tmpfs");
    let (status, said) = Dev::new(&scratch.path().join("node")).start_in_vain();
    assert_eq!(status.code(), Some(1), "{said}");
    assert!(said.contains("is on tmpfs, which is memory") && said.contains("use ext4 or xfs"), "{said}");
}

/// Becomes the user `nobody`, without any capability, and with the limit of locked memory that most systems give their users.
const NOBODY: [&str; 7] = [
    "prlimit",
    "--memlock=8388608:8388608",
    "setpriv",
    "--reuid=65534",
    "--regid=65534",
    "--clear-groups",
    "--bounding-set=-all",
];

/// The user without capabilities.
const NOBODY_ID: u32 = 65534;

/// A directory of that user's with a copy of the binary beside it; `None` where a test can't become another user.
fn home_of(user: u32) -> Option<(tempfile::TempDir, PathBuf, PathBuf)> {
    if !rustix::process::geteuid().is_root() || !is_installed("setpriv") || !is_installed("prlimit") {
        skip("limits", "needs root, setpriv and prlimit");
        return None;
    }
    // Not everyone's target directory is open to all.
    let scratch = tempfile::tempdir_in("/var/tmp").expect("a directory");
    std::fs::set_permissions(scratch.path(), std::fs::Permissions::from_mode(0o755)).expect("its owner");
    let binary = scratch.path().join("catena");
    std::fs::copy(harness::catena(), &binary).expect("copied");
    let home = scratch.path().join("home");
    std::fs::create_dir(&home).expect("made");
    std::os::unix::fs::chown(&home, Some(user), Some(user)).expect("root may");
    Some((scratch, binary, home))
}

/// A library's own warning, over several lines, came above Catena's for each thread.
#[test]
fn what_cannot_be_locked_is_said_by_catena_alone() {
    // What all processes of a user have locked counts together: not `nobody`, who has a node in another test.
    const OTHER_ID: u32 = 65533;
    let Some((_scratch, binary, home)) = home_of(OTHER_ID) else { return };
    let id = [format!("--reuid={OTHER_ID}"), format!("--regid={OTHER_ID}")];
    let limit = ["prlimit", "--memlock=2097152:2097152", "setpriv"].map(str::to_owned);
    let rest = NOBODY[5..].iter().map(|word| (*word).to_owned());
    let under = limit.into_iter().chain(id).chain(rest);
    let mut node = Dev::new(&home.join("node")).binary(&binary).under(under).start();
    let said = node.log();
    assert!(said.contains("can't be registered"), "{said}");
    assert!(!said.contains("glommio") && !said.contains("SkippingOs"), "{said}");
    assert!(node.stop().success());
}

#[test]
fn an_ordinary_user_with_eight_mib_of_locked_memory_is_served() {
    let Some((_scratch, binary, home)) = home_of(NOBODY_ID) else { return };
    let mut node = Dev::new(&home.join("node")).binary(&binary).under(NOBODY).start();
    let said = node.log();
    let warnings: Vec<&str> = said.lines().filter(|line| line.contains("can't be registered")).collect();
    assert_eq!(warnings.len(), 1, "the fallback is said once: {said}");
    assert!(warnings[0].contains("works, at about a fifth more CPU"), "and what it costs: {said}");
    assert!(warnings[0].contains("LimitMEMLOCK") && warnings[0].contains("8388608"), "and why: {said}");
    assert_eq!(owner(node.process().pid()), NOBODY_ID, "it is nobody's");

    let as_nobody = |node: &Node, arguments: &[&str]| {
        let run = Run::new(NOBODY[0]).args(&NOBODY[1..]).args([&binary]).args(arguments);
        run.env("CATENA_ENDPOINT", node.endpoint()).env("HOME", &home)
    };
    as_nobody(&node, &["volume", "create", "v"]).run().ok();
    // More than a client may lock.
    let content = Content::new(1, 24 << 20);
    let outcome = as_nobody(&node, &["put", "-", "/v/f"]).input(content.bytes()).run().ok();
    assert!(!outcome.messages().contains("WARN"), "a client's own fallback is nobody's business: {outcome}");
    let outcome = as_nobody(&node, &["cat", "/v/f"]).run().ok();
    assert_eq!(content.difference(&outcome.stdout), None);
    node.kill();
    node.start();
    let outcome = as_nobody(&node, &["cat", "/v/f"]).run().ok();
    assert_eq!(content.difference(&outcome.stdout), None);
    assert!(node.stop().success());
}

fn owner(pid: u32) -> u32 {
    std::os::unix::fs::MetadataExt::uid(
        &std::fs::metadata(Path::new("/proc").join(pid.to_string())).expect("it runs"),
    )
}
