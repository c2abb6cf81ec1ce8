//! Several nodes on this machine, each a process of its own, as `dev --nodes` and `quickstart` run them.
//!
//! ```text
//! DIR/endpoint             all endpoints in one line
//! DIR/node-K/config.toml   what `catena server --config` is given, also by hand after a node was killed
//! DIR/node-K/pid           of the process that runs it
//! DIR/node-K/log           what it says
//! ```

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use client::control::{Control, ControlError};
use node::{ByteSize, Config};
use rustix::process::{Pid, Signal, kill_process};
use wire::control::{Answer, Health, RegistrationReply};
use wire::{MapNumber, NodeId};

use crate::clock::Stopwatch;
use crate::failure::{Exit, Failure, Result};
use crate::local_node;

/// Nodes that one machine is good for.
pub(crate) const NODES_MAX: u16 = 9;
/// Ports of a node before its shards'.
const PORTS: u16 = 10;
/// Where free ports are looked for.
const PORTS_FROM: u16 = 20_000;
const PORTS_TO: u16 = 32_000;
/// A node that has nothing to recover serves well within this.
const START_PATIENCE: Duration = Duration::from_mins(1);
/// And ends.
const STOP_PATIENCE: Duration = Duration::from_mins(1);
/// The control group answers within this, an election included.
const CONTROL_PATIENCE: Duration = Duration::from_secs(20);
const LOOK: Duration = Duration::from_millis(20);
const CONFIG_FILE: &str = "config.toml";

/// One of them.
#[derive(Debug)]
struct LocalNode {
    directory: PathBuf,
    config: Config,
    child: Option<Child>,
}

/// See the module. Dropped, it ends the nodes that it started.
#[derive(Debug)]
pub(crate) struct LocalCluster {
    nodes: Vec<LocalNode>,
}

/// How many nodes of a cluster's a directory has configured.
pub(crate) fn configured(directory: &Path) -> u16 {
    let is_there = |number: &u16| node_directory(directory, *number).join(CONFIG_FILE).is_file();
    (1..=NODES_MAX).take_while(is_there).last().unwrap_or(0)
}

/// Where a node of them lives.
pub(crate) fn node_directory(directory: &Path, number: u16) -> PathBuf {
    directory.join(format!("node-{number}"))
}

impl LocalCluster {
    /// Reads the configurations that are there and writes those that aren't, for so many nodes. `shape` makes one what it should be, beside names and ports.
    pub(crate) fn prepare(
        directory: &Path,
        count: u16,
        listen: Option<SocketAddr>,
        shape: impl Fn(&Path) -> Config,
    ) -> Result<Self> {
        let mut nodes = Vec::new();
        for number in 1..=count {
            let own = node_directory(directory, number);
            let file = own.join(CONFIG_FILE);
            let config = if file.is_file() {
                Config::load(&file).map_err(|error| local_node::config_failure(&error))?
            } else {
                let taken: Vec<u16> = nodes.iter().map(|node: &LocalNode| node.config.base_port).collect();
                let config = Self::configure(shape(&own), number, listen, &taken)?;
                write_config(&file, &config)?;
                config
            };
            nodes.push(LocalNode { directory: own, config, child: None });
        }
        Ok(Self { nodes })
    }

    fn configure(
        mut config: Config,
        number: u16,
        listen: Option<SocketAddr>,
        taken: &[u16],
    ) -> Result<Config> {
        config.name = format!("node-{number}");
        let span = PORTS + config.shard_count();
        config.base_port = match listen.filter(|listen| listen.port() > 0) {
            Some(listen) => (number - 1)
                .checked_mul(span)
                .and_then(|offset| listen.port().checked_add(offset))
                .ok_or_else(|| Failure::usage("--listen", "there aren't enough ports from this one on"))?,
            None => free_ports(config.listen, span, taken)?,
        };
        Ok(config)
    }

    /// Makes nodes that weren't made, and starts all. `tell` hears what is being done.
    pub(crate) fn start(&mut self, tell: &mut dyn FnMut(&str) -> Result<()>) -> Result<()> {
        let mut made = Vec::new();
        for node in &self.nodes {
            made.push(node::is_initialized(&node.config).map_err(|error| local_node::failure(&error))?);
        }
        if !made.iter().any(|made| *made) {
            local_node::format(&self.nodes[0].config)?;
            made[0] = true;
        }
        let old: Vec<usize> = (0..self.nodes.len()).filter(|at| made[*at]).collect();
        for at in &old {
            self.nodes[*at].spawn()?;
        }
        for at in &old {
            self.nodes[*at].wait_ready(START_PATIENCE)?;
        }
        for at in (0..self.nodes.len()).filter(|at| !made[*at]) {
            self.join(at)?;
            tell(&format!("{} has joined", self.nodes[at].config.name))?;
        }
        Ok(())
    }

    /// Joins a node to those that run.
    fn join(&mut self, at: usize) -> Result<()> {
        let mut control = self.control()?;
        let config = &self.nodes[at].config;
        join(&mut control, config)?;
        self.nodes[at].spawn()?;
        self.nodes[at].wait_ready(START_PATIENCE)
    }

    /// A client of the control group.
    pub(crate) fn control(&self) -> Result<Control> {
        let addresses: Vec<String> =
            self.nodes.iter().map(|node| node.config.control_address().to_string()).collect();
        Control::connect(&addresses, CONTROL_PATIENCE).map_err(|error| control_failure(&error))
    }

    /// Where clients find the cluster: every node.
    pub(crate) fn endpoint(&self) -> String {
        let all: Vec<String> =
            self.nodes.iter().map(|node| node.config.metadata_address().to_string()).collect();
        all.join(",")
    }

    /// How many nodes there are.
    pub(crate) fn len(&self) -> usize {
        self.nodes.len()
    }

    /// The admin endpoint of a node.
    pub(crate) fn admin(&self, at: usize) -> SocketAddr {
        self.nodes[at].config.admin_address()
    }

    /// Where a node's configuration is.
    pub(crate) fn config_file(&self, at: usize) -> PathBuf {
        self.nodes[at].directory.join(CONFIG_FILE)
    }

    /// Whether everything has its copies, as the control group says; asked until it is so, or for so long. `tell` hears how it stands.
    pub(crate) fn wait_whole(&self, patience: Duration, mut tell: impl FnMut(&Health)) -> Result<Health> {
        let watch = Stopwatch::start();
        let mut control = self.control()?;
        loop {
            let answer =
                control.ask(&wire::control::Command::Health).map_err(|error| control_failure(&error))?;
            let Answer::Health(health) = answer else {
                return Err(Failure::new(Exit::Failed, "the control group", "answered something else"));
            };
            tell(&health);
            let nodes = u32::try_from(self.nodes.len()).unwrap_or(u32::MAX);
            if health.is_whole
                && health.nodes_alive >= nodes
                && u32::from(health.chain_length) >= nodes.min(3)
            {
                return Ok(health);
            }
            if u128::from(watch.nanoseconds()) >= patience.as_nanos() {
                return Err(Failure::new(
                    Exit::Unavailable,
                    "the cluster",
                    "hasn't got its redundancy in time",
                )
                .next("see why: catena admin why"));
            }
            std::thread::park_timeout(LOOK);
        }
    }

    /// Kills a node without a warning (SIGKILL).
    pub(crate) fn kill(&mut self, at: usize) -> Result<()> {
        let Some(mut child) = self.nodes[at].child.take() else { return Ok(()) };
        child.kill().and_then(|()| child.wait()).map(drop).map_err(|error| Failure::io("the node", &error))
    }

    /// Starts a node that was killed.
    pub(crate) fn restart(&mut self, at: usize) -> Result<()> {
        self.nodes[at].spawn()?;
        self.nodes[at].wait_ready(START_PATIENCE)
    }

    /// Nodes that have ended since this was asked last: which, and how.
    pub(crate) fn ended(&mut self) -> Vec<(usize, String)> {
        let mut ended = Vec::new();
        for (at, node) in self.nodes.iter_mut().enumerate() {
            if let Some(child) = &mut node.child
                && let Ok(Some(status)) = child.try_wait()
            {
                node.child = None;
                ended.push((at, status.to_string()));
            }
        }
        ended
    }

    /// Ends all nodes in good order, at the same time.
    pub(crate) fn stop(&mut self) -> Result<()> {
        for node in &self.nodes {
            if let Some(child) = &node.child {
                signal(child, Signal::TERM);
            }
        }
        let watch = Stopwatch::start();
        let mut result = Ok(());
        for node in &mut self.nodes {
            let Some(mut child) = node.child.take() else { continue };
            let left = STOP_PATIENCE.saturating_sub(Duration::from_nanos(watch.nanoseconds()));
            if !wait_for(&mut child, left) {
                drop(child.kill().and_then(|()| child.wait()));
                let name = node.config.name.clone();
                result = Err(Failure::new(Exit::Failed, name, "didn't end in time and was killed")
                    .next(format!("see its log: {}", node.directory.join("log").display())));
            }
        }
        result
    }
}

impl Drop for LocalCluster {
    fn drop(&mut self) {
        if let Err(failure) = self.stop() {
            crate::output::report(&failure, false);
        }
    }
}

impl LocalNode {
    fn spawn(&mut self) -> Result<()> {
        let program = std::env::current_exe().map_err(|error| Failure::io("this program", &error))?;
        let log = self.directory.join("log");
        let file = File::options().create(true).append(true).open(&log);
        let file = file.map_err(|error| Failure::path(&log, &error))?;
        let for_output = file.try_clone().map_err(|error| Failure::path(&log, &error))?;
        let child = Command::new(program)
            .args(["server", "--end-with-parent", "--config"])
            .arg(self.directory.join(CONFIG_FILE))
            .stdin(Stdio::null())
            .stdout(for_output)
            .stderr(file)
            // A terminal's Ctrl-C is for the parent, which ends all in good order.
            .process_group(0)
            .spawn();
        self.child = Some(child.map_err(|error| Failure::io("a node's process", &error))?);
        Ok(())
    }

    /// Waits until it serves.
    fn wait_ready(&mut self, patience: Duration) -> Result<()> {
        let watch = Stopwatch::start();
        loop {
            if is_ready(self.config.admin_address()) {
                return Ok(());
            }
            let ended = self.child.as_mut().and_then(|child| child.try_wait().ok().flatten());
            let is_late = u128::from(watch.nanoseconds()) >= patience.as_nanos();
            if ended.is_some() || is_late {
                let reason = match ended {
                    Some(status) => format!("ended while it started ({status})"),
                    None => "doesn't serve in time".to_owned(),
                };
                let log = self.directory.join("log").display().to_string();
                return Err(Failure::new(Exit::Failed, self.config.name.clone(), reason)
                    .next(format!("its log says why: {log}")));
            }
            std::thread::park_timeout(LOOK);
        }
    }
}

/// Formats a node as a member of the cluster that `control` belongs to; returns its number. Cut off, it is done again.
pub(crate) fn join(control: &mut Control, config: &Config) -> Result<(NodeId, node::Initialized)> {
    let joining = node::prepare_join(config).map_err(|error| local_node::failure(&error))?;
    let reply = control.register(&joining.registration()).map_err(|error| control_failure(&error))?;
    let (node, number) = match reply {
        RegistrationReply::Accepted { node, number, .. } => (node, number),
        RegistrationReply::Refused(refusal) => return Err(refused(config, refusal)),
    };
    let watch = Stopwatch::start();
    while control.refresh().number() < number.max(MapNumber(1)) {
        if u128::from(watch.nanoseconds()) >= CONTROL_PATIENCE.as_nanos() {
            return Err(Failure::new(
                Exit::Unavailable,
                "the cluster",
                "no node gives out the map that has this one",
            )
            .next("run the same command again"));
        }
        std::thread::park_timeout(LOOK);
    }
    let made = joining.finish(node, control.map()).map_err(|error| local_node::failure(&error))?;
    Ok((node, made))
}

fn refused(config: &Config, refusal: wire::control::RegistrationRefusal) -> Failure {
    use wire::control::RegistrationRefusal;
    let name = config.name.clone();
    match refusal {
        RegistrationRefusal::NameTaken => {
            Failure::new(Exit::Conflict, name, "another node of the cluster has this name")
                .next("give it another one: `name` in its configuration")
        }
        RegistrationRefusal::Full => Failure::new(Exit::Conflict, name, "the cluster map has no room for it"),
        refusal => Failure::new(Exit::Conflict, name, format!("the control group refuses it: {refusal:?}")),
    }
}

/// A control group that doesn't answer.
pub(crate) fn control_failure(error: &ControlError) -> Failure {
    let exit = match error {
        ControlError::Unknown(_) => Exit::Unknown,
        ControlError::Protocol(_) => Exit::Failed,
        ControlError::Unreachable(_) | ControlError::NoLeader | ControlError::Busy => Exit::Unavailable,
    };
    Failure::new(exit, "the control group", error.to_string())
}

/// Asks a node's admin endpoint whether it serves.
fn is_ready(admin: SocketAddr) -> bool {
    let ask = || -> io::Result<bool> {
        let mut stream = TcpStream::connect_timeout(&admin, Duration::from_secs(1))?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        stream.write_all(b"GET /readyz HTTP/1.0\r\n\r\n")?;
        let mut answer = Vec::new();
        stream.take(4096).read_to_end(&mut answer)?;
        let status = answer.split(|byte| *byte == b' ').nth(1);
        Ok(status == Some(b"200"))
    };
    ask().unwrap_or(false)
}

fn signal(child: &Child, signal: Signal) {
    if let Some(pid) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
        let _ = kill_process(pid, signal); // one that has ended already needs none
    }
}

/// Whether it ended in this time.
fn wait_for(child: &mut Child, patience: Duration) -> bool {
    let watch = Stopwatch::start();
    loop {
        match child.try_wait() {
            Ok(Some(_)) | Err(_) => return true,
            Ok(None) if u128::from(watch.nanoseconds()) >= patience.as_nanos() => return false,
            Ok(None) => std::thread::park_timeout(LOOK),
        }
    }
}

fn write_config(file: &Path, config: &Config) -> Result<()> {
    if let Some(directory) = file.parent() {
        fs::create_dir_all(directory).map_err(|error| Failure::path(directory, &error))?;
    }
    let text = toml::to_string(config)
        .map_err(|error| Failure::new(Exit::Failed, "the configuration", error.to_string()))?;
    let text = format!(
        "# A node for development. Start it by hand: catena server --config FILE\n# Every key: catena server --print-config\n{text}"
    );
    fs::write(file, text).map_err(|error| Failure::path(file, &error))
}

/// So many free ports in a row, none of them in the way of nodes that already have theirs.
fn free_ports(listen: IpAddr, span: u16, taken: &[u16]) -> Result<u16> {
    // Others look, too: each begins elsewhere.
    let start = u16::from_le_bytes(runtime::clock::random_bytes()) % ((PORTS_TO - PORTS_FROM) / span);
    let count = (PORTS_TO - PORTS_FROM) / span;
    let candidates = (0..count).map(|step| PORTS_FROM + (start + step) % count * span);
    let is_free = |base: u16| {
        !taken.iter().any(|other| base.abs_diff(*other) < span)
            && (base..base + span).all(|port| TcpListener::bind((listen, port)).is_ok())
    };
    candidates.into_iter().find(|base| is_free(*base)).ok_or_else(|| {
        Failure::new(Exit::Failed, listen.to_string(), format!("has no {span} free ports in a row"))
            .next("name a first port: --listen ADDR:PORT")
    })
}

/// A node of several on one machine: modest buffers.
pub(crate) fn modest(mut config: Config) -> Config {
    config.limits.buffers = ByteSize(64 << 20);
    config.store.prezero = ByteSize(64 << 20);
    config.metadata.memory_budget = ByteSize(1 << 30);
    config
}
