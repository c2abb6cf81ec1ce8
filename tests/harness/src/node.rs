//! A node under test: started, awaited, killed and started again on the same data.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::Duration;

use rustix::process::Signal;

use crate::command::Run;
use crate::deadline;
use crate::http;
use crate::process::Process;

/// A start takes longer where recovery has to read and many tests share a core.
const READY_WITHIN: Duration = Duration::from_mins(1);
/// A stop drains what is in flight.
const STOP_WITHIN: Duration = Duration::from_secs(30);

/// How to start `catena dev`.
#[derive(Clone, Debug)]
pub struct Dev {
    directory: PathBuf,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
}

impl Dev {
    /// A node in `directory`, with one shard.
    #[must_use]
    pub fn new(directory: &Path) -> Self {
        let arguments = ["--shards", "1"].map(str::to_owned).to_vec();
        Self { directory: directory.to_owned(), arguments, environment: Vec::new() }
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<A: Into<String>>(mut self, arguments: impl IntoIterator<Item = A>) -> Self {
        self.arguments.extend(arguments.into_iter().map(Into::into));
        self
    }

    /// Sets an environment variable.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl Into<String>) -> Self {
        self.environment.push((name.to_owned(), value.into()));
        self
    }

    /// Starts it and waits until it is ready.
    ///
    /// # Panics
    /// If it ends instead, or isn't ready in time.
    #[must_use]
    pub fn start(self) -> Node {
        let mut node = Node::new(Launch::Dev(self));
        node.start();
        node
    }

    /// Starts it where it should refuse: waits for its end.
    ///
    /// # Panics
    /// If it doesn't end in time.
    #[must_use]
    pub fn start_in_vain(self) -> (ExitStatus, String) {
        Node::new(Launch::Dev(self)).start_in_vain()
    }
}

/// How to start `catena server`.
#[derive(Clone, Debug)]
pub struct Server {
    /// Its configuration.
    pub config: PathBuf,
    /// `HOST:PORT` of its admin endpoint.
    pub admin: String,
    /// What clients are given as `CATENA_ENDPOINT`.
    pub endpoint: String,
    /// Where its log goes.
    pub log: PathBuf,
}

impl Server {
    /// Starts it and waits until `/readyz` says so.
    ///
    /// # Panics
    /// If it ends instead, or isn't ready in time.
    #[must_use]
    pub fn start(self) -> Node {
        let mut node = Node::new(Launch::Server(self));
        node.start();
        node
    }

    /// Starts it where it should refuse: waits for its end.
    ///
    /// # Panics
    /// If it doesn't end in time.
    #[must_use]
    pub fn start_in_vain(self) -> (ExitStatus, String) {
        Node::new(Launch::Server(self)).start_in_vain()
    }
}

#[derive(Clone, Debug)]
enum Launch {
    Dev(Dev),
    Server(Server),
}

/// A node that was started; it may be down. Dropping it kills it.
#[derive(Debug)]
pub struct Node {
    launch: Launch,
    process: Option<Process>,
    endpoint: String,
}

impl Node {
    fn new(launch: Launch) -> Self {
        Self { launch, process: None, endpoint: String::new() }
    }

    /// Where clients find it: `HOST:PORT[,HOST:PORT…]`.
    #[must_use]
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// A `catena` command for this node, `arguments` given.
    #[must_use]
    pub fn run<A: AsRef<std::ffi::OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> Run {
        Run::catena(&self.endpoint).args(arguments)
    }

    /// The process.
    ///
    /// # Panics
    /// If the node is down.
    pub fn process(&mut self) -> &mut Process {
        self.process.as_mut().expect("the node runs")
    }

    /// What it has said, over all its starts.
    #[must_use]
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(self.log_path()).unwrap_or_default()).into_owned()
    }

    /// Starts it (again, on the same data) and waits until it is ready.
    ///
    /// # Panics
    /// If it runs already, ends instead, or isn't ready in time.
    pub fn start(&mut self) {
        let mut process = self.spawn();
        let ready = deadline::poll(READY_WITHIN, || match process.ended() {
            Some(status) => {
                panic!("the node ended with {status} instead of starting:\n{}", process.log_tail())
            }
            None => self.ready(),
        });
        match ready {
            Some(endpoint) => self.endpoint = endpoint,
            None => panic!(
                "the node isn't ready after {READY_WITHIN:?}; its log ends with\n{}",
                process.log_tail()
            ),
        }
        self.process = Some(process);
    }

    /// Starts it where it should refuse: its status and what it said this time.
    fn start_in_vain(&mut self) -> (ExitStatus, String) {
        let before = self.log().len();
        let mut process = self.spawn();
        let status = deadline::wait_for("the node's end", READY_WITHIN, || process.ended());
        (status, self.log().split_off(before))
    }

    fn spawn(&self) -> Process {
        assert!(self.process.is_none(), "the node runs already");
        let mut command = Command::new(crate::catena());
        match &self.launch {
            Launch::Dev(dev) => {
                // What the last start left would look like readiness.
                let _ = std::fs::remove_file(dev.directory.join("endpoint"));
                command.arg("dev").arg("--dir").arg(&dev.directory).args(&dev.arguments);
                command.envs(dev.environment.iter().map(|(name, value)| (name, value)));
            }
            Launch::Server(server) => {
                command.arg("server").arg("--config").arg(&server.config);
            }
        }
        Process::start(&mut command, &self.log_path())
    }

    fn ready(&self) -> Option<String> {
        match &self.launch {
            Launch::Dev(dev) => {
                let text = std::fs::read_to_string(dev.directory.join("endpoint")).ok()?;
                Some(text.trim_end().to_owned())
            }
            Launch::Server(server) => {
                let (status, _) = http::get(&server.admin, "/readyz")?;
                (status == 200).then(|| server.endpoint.clone())
            }
        }
    }

    /// Beside the node's directory, so that the directory holds only what the node put there.
    fn log_path(&self) -> PathBuf {
        match &self.launch {
            Launch::Dev(dev) => dev.directory.with_extension("log"),
            Launch::Server(server) => server.log.clone(),
        }
    }

    /// SIGKILL: nothing is flushed, nothing is said.
    ///
    /// # Panics
    /// If the node is down, or had ended by itself.
    pub fn kill(&mut self) {
        let mut process = self.process.take().expect("the node runs");
        if let Some(status) = process.ended() {
            panic!("the node had ended by itself with {status}:\n{}", process.log_tail());
        }
        process.kill();
    }

    /// SIGTERM, and waits for its status.
    ///
    /// # Panics
    /// If the node is down or doesn't end in time.
    pub fn stop(&mut self) -> ExitStatus {
        self.process.take().expect("the node runs").terminate(STOP_WITHIN)
    }

    /// Stops it in its tracks, until [`Self::resume`].
    pub fn pause(&mut self) {
        self.process().signal(Signal::STOP);
    }

    /// Lets it go on.
    pub fn resume(&mut self) {
        self.process().signal(Signal::CONT);
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if std::thread::panicking()
            && let Some(process) = &self.process
        {
            eprintln!("--- the node's log ends with\n{}", process.log_tail());
        }
    }
}
