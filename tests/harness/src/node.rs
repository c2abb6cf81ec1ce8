//! A node under test: started, awaited, killed and started again on the same data.

use std::ffi::OsStr;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::sync::atomic::{AtomicU32, Ordering};
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
    shards: u16,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
    under: Vec<String>,
    binary: Option<PathBuf>,
    log: PathBuf,
}

impl Dev {
    /// A node in `directory`, with one shard.
    #[must_use]
    pub fn new(directory: &Path) -> Self {
        let (arguments, environment, under) = (Vec::new(), Vec::new(), Vec::new());
        let (directory, log) = (directory.to_owned(), directory.with_extension("log"));
        Self { directory, shards: 1, arguments, environment, under, binary: None, log }
    }

    /// With its log in another place than beside its directory: off a disk that loses things.
    #[must_use]
    pub fn log(self, log: &Path) -> Self {
        Self { log: log.to_owned(), ..self }
    }

    /// Runs it through another command, which takes program and arguments behind its own and becomes it: with other limits, as another user.
    #[must_use]
    pub fn under<A: Into<String>>(mut self, command: impl IntoIterator<Item = A>) -> Self {
        self.under.extend(command.into_iter().map(Into::into));
        self
    }

    /// Another file of the same program.
    #[must_use]
    pub fn binary(self, binary: &Path) -> Self {
        Self { binary: Some(binary.to_owned()), ..self }
    }

    /// With another number of shards.
    #[must_use]
    pub fn shards(self, shards: u16) -> Self {
        Self { shards, ..self }
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

    /// Listens on ports that stay the same over restarts, so that clients find the node again.
    #[must_use]
    pub fn fixed_ports(self) -> Self {
        let listen = format!("127.0.0.1:{}", free_base_port());
        self.args(["--listen".to_owned(), listen])
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

    /// Starts it where it isn't to become ready, and says why: what it says of that.
    ///
    /// # Panics
    /// If it runs already, ends instead, or doesn't say so.
    pub fn start_unready(&mut self, why: &str) -> String {
        let mut process = self.spawn();
        let said = deadline::wait_for("a reason", READY_WITHIN, || match process.ended() {
            Some(status) => panic!("the node ended with {status}:\n{}", process.log_tail()),
            None => self.admin("/readyz").filter(|(code, text)| *code != 200 && text.contains(why)),
        });
        self.process = Some(process);
        said.1
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

/// Shards that [`free_base_port`] leaves room for.
const SHARDS_MAX: u16 = 16;

/// A port P such that P (admin), P + 1 (metadata) and P + 10 and up (shards) are free.
///
/// Below the range that the system hands out, and starting at a place of this process's own, so that tests side by side don't
/// meet; a node that finds a port taken after all says so.
///
/// # Panics
/// If there is none.
#[must_use]
pub fn free_base_port() -> u16 {
    const FIRST: u32 = 10_000;
    const COUNT: u32 = 22_000;
    static TRIES: AtomicU32 = AtomicU32::new(0);
    let free =
        |port: u32| u16::try_from(port).is_ok_and(|port| TcpListener::bind(("127.0.0.1", port)).is_ok());
    for _ in 0..COUNT {
        let step = TRIES.fetch_add(1, Ordering::Relaxed);
        let base = FIRST + std::process::id().wrapping_mul(977).wrapping_add(step.wrapping_mul(32)) % COUNT;
        let last = base + 10 + u32::from(SHARDS_MAX);
        if (base..=base + 1).chain(base + 10..last).all(free) {
            return u16::try_from(base).expect("just bound");
        }
    }
    panic!("no free ports");
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
    /// Writes the configuration of a node with all of its data in `directory`, which is made if need be: so many shards with so many GiB each, on ports that
    /// are free now, and what `more` says in sections of TOML. It stands beside the directory, as the log does, and is replaced by a second call.
    ///
    /// # Panics
    /// If it can't be written.
    #[must_use]
    pub fn configure(directory: &Path, shards: u16, gib: u64, more: &str) -> Self {
        std::fs::create_dir_all(directory).expect("a directory");
        let (config, port) = (directory.with_extension("toml"), free_base_port());
        // A TOML basic string escapes as Rust's does, for every path that is text.
        let place = format!("{:?}", directory.to_string_lossy());
        let capacity = u64::from(shards) * gib;
        let text = format!(
            "directory = {place}\nbase_port = {port}\nshards = {shards}\ndedicated_cores = false\n\
             [[disks]]\npath = {place}\ncapacity = \"{capacity}GiB\"\n{more}"
        );
        std::fs::write(&config, text).expect("written");
        let address = |offset: u16| format!("127.0.0.1:{}", port + offset);
        Self { config, admin: address(0), endpoint: address(1), log: directory.with_extension("log") }
    }

    /// Formats it.
    ///
    /// # Panics
    /// If that fails.
    #[must_use]
    pub fn init(self) -> Self {
        Run::catena("").args(["server", "init", "--config"]).args([&self.config]).run().ok();
        self
    }

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

    /// Status and body of a GET from the admin endpoint, if it answers.
    #[must_use]
    pub fn admin(&self, path: &str) -> Option<(u16, String)> {
        let address = match &self.launch {
            Launch::Server(server) => server.admin.clone(),
            Launch::Dev(_) => self.admin_address()?,
        };
        http::get(&address, path)
    }

    /// A development node logs where its admin endpoint is, at each start.
    fn admin_address(&self) -> Option<String> {
        let log = self.log();
        let rest = log.rsplit("admin=").next().filter(|rest| rest.len() < log.len())?;
        rest.split_whitespace().next().map(str::to_owned)
    }

    /// The samples of a metric, one for each set of labels; none if the endpoint doesn't answer.
    #[must_use]
    pub fn metrics(&self, name: &str) -> Vec<u64> {
        let text = self.admin("/metrics").map(|(_, text)| text).unwrap_or_default();
        let samples = text.lines().filter(|line| line.split(['{', ' ']).next() == Some(name));
        samples.filter_map(|line| line.rsplit(' ').next()?.parse().ok()).collect()
    }

    /// The sample of a metric with exactly these labels (`name{label="value"}`).
    #[must_use]
    pub fn sample(&self, metric: &str) -> Option<u64> {
        let (_, text) = self.admin("/metrics")?;
        text.lines().find_map(|line| line.strip_prefix(metric)?.trim().parse().ok())
    }

    /// What it says of itself, for the message of a test that fails: readiness, and all metrics but their explanations.
    #[must_use]
    pub fn described(&self) -> String {
        let ask = |path| self.admin(path).map_or_else(|| "no answer".to_owned(), |(_, text)| text);
        let metrics = ask("/metrics");
        let lines: Vec<&str> = metrics.lines().filter(|line| !line.starts_with('#')).collect();
        format!("readiness: {}\n{}", ask("/readyz").trim(), lines.join("\n"))
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
        let mut command = match &self.launch {
            Launch::Dev(dev) => {
                // What the last start left would look like readiness.
                let _ = std::fs::remove_file(dev.directory.join("endpoint"));
                let binary = dev.binary.as_deref().unwrap_or_else(|| crate::catena()).as_os_str();
                let mut words = dev.under.iter().map(OsStr::new).chain([binary]);
                let mut command = Command::new(words.next().expect("at least the binary"));
                command.args(words).arg("dev").arg("--dir").arg(&dev.directory);
                command.args(["--shards", &dev.shards.to_string()]).args(&dev.arguments);
                command.envs(dev.environment.iter().map(|(name, value)| (name, value)));
                command
            }
            Launch::Server(server) => {
                let mut command = Command::new(crate::catena());
                command.arg("server").arg("--config").arg(&server.config);
                command
            }
        };
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
            Launch::Dev(dev) => dev.log.clone(),
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

    /// Waits until it ends by itself, and returns its status.
    ///
    /// # Panics
    /// If the node is down or doesn't end in time.
    pub fn ends(&mut self) -> ExitStatus {
        let mut process = self.process.take().expect("the node runs");
        deadline::wait_for("the node's end", STOP_WITHIN, || process.ended())
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
