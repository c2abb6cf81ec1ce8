//! A node under a service manager: it says when it serves and when it ends, by the protocol of `sd_notify(3)`.

use std::io::ErrorKind;
use std::net::TcpStream;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use harness::process::Process;
use harness::{Run, Scratch, http};
use rustix::process::Signal;

/// The manager's socket. Its path is short, as the kernel wants it, wherever the data is.
struct Manager {
    socket: UnixDatagram,
    folder: tempfile::TempDir,
}

impl Manager {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a directory");
        let socket = UnixDatagram::bind(folder.path().join("notify")).expect("a socket");
        Self { socket, folder }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("notify")
    }

    /// The next message, a line an item; `None` if there is none within this time.
    fn told(&self, within: Duration) -> Option<Vec<String>> {
        self.socket.set_read_timeout(Some(within)).expect("a timeout");
        let mut bytes = [0; 4096];
        match self.socket.recv(&mut bytes) {
            Ok(count) => Some(String::from_utf8_lossy(&bytes[..count]).lines().map(str::to_owned).collect()),
            Err(error) if error.kind() == ErrorKind::WouldBlock => None,
            Err(error) => panic!("{error}"),
        }
    }
}

fn configure(scratch: &Scratch) -> PathBuf {
    let data = scratch.join("data");
    std::fs::create_dir(&data).expect("made");
    let config = scratch.join("catena.toml");
    // A TOML basic string escapes as Rust's does, for every path that is text.
    let place = format!("{:?}", data.to_string_lossy());
    let text = format!(
        "directory = {place}\nbase_port = 0\nshards = 1\ndedicated_cores = false\n\
         [[disks]]\npath = {place}\ncapacity = \"1GiB\"\n[store]\nprezero = \"64MiB\"\n"
    );
    std::fs::write(&config, text).expect("written");
    config
}

fn serve(config: &Path, manager: &Manager, log: &Path) -> Process {
    let mut command = Command::new(harness::catena());
    command.args(["server", "--config"]).arg(config).env("NOTIFY_SOCKET", manager.path());
    Process::start(&mut command, log)
}

const LONG: Duration = Duration::from_mins(1);

#[test]
fn the_service_manager_hears_of_readiness_and_of_the_end() {
    let scratch = Scratch::new();
    let (manager, config) = (Manager::new(), configure(&scratch));
    let init = Run::catena("").args(["server", "init", "--config"]).args([&config]);
    init.env("NOTIFY_SOCKET", manager.path()).run().ok();
    assert_eq!(manager.told(Duration::from_millis(1)), None, "formatting isn't serving");

    let mut node = serve(&config, &manager, &scratch.join("log"));
    let told = manager.told(LONG).expect("readiness is told");
    assert_eq!(told[0], "READY=1");
    let endpoint = told[1].strip_prefix("STATUS=serving at ").expect("and where").to_owned();
    // At the first attempt: what is told is so.
    drop(TcpStream::connect(&endpoint).expect("the listener stands"));
    let log = node.log();
    let admin = log.split("admin at http://").nth(1).and_then(|rest| rest.split_whitespace().next());
    let (status, _) = http::get(admin.expect("said before it is told"), "/readyz").expect("it answers");
    assert_eq!(status, 200);
    Run::catena(&endpoint).args(["volume", "create", "v"]).run().ok();
    assert_eq!(manager.told(Duration::from_millis(1)), None, "told once");

    node.signal(Signal::TERM);
    assert_eq!(manager.told(LONG).expect("the end is told"), ["STOPPING=1"]);
    let status = harness::wait_for("its end", LONG, || node.ended());
    assert!(status.success(), "{status}: {}", node.log_tail());
    assert!(node.log().contains("stopping: SIGTERM"), "{}", node.log_tail());
    assert_eq!(manager.told(Duration::from_millis(1)), None);
}

/// The manager must not take a node for a running one that never served.
#[test]
fn a_node_that_cannot_start_tells_nothing() {
    let scratch = Scratch::new();
    let (manager, config) = (Manager::new(), configure(&scratch));
    let mut node = serve(&config, &manager, &scratch.join("log"));
    let status = harness::wait_for("its end", LONG, || node.ended());
    assert_eq!(status.code(), Some(3), "nothing was formatted: {}", node.log_tail());
    assert_eq!(manager.told(Duration::from_millis(1)), None);
}
