//! The node's configuration: TOML, every key documented, unknown keys refused.
//!
//! `catena server --print-config` prints [`Config::commented_defaults`]; a test reads that text back and compares it with
//! [`Config::default`], so that the documentation can't drift from the code.

use std::io::Read as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use thiserror::Error;
use wire::limits::MAP_NAME_BYTES_MAX;

use crate::logging;
use crate::units::{ByteSize, Span};

/// Shards of a node, at most: their ports are 7430 to 7685 by default.
pub const SHARDS_MAX: u16 = 256;
/// A store smaller than this can't hold its reserve and its working segments.
pub const CAPACITY_BYTES_MIN: u64 = 1 << 30;
/// With less the group would be full before it holds anything worth having.
const MEMORY_BUDGET_BYTES_MIN: u64 = 64 << 20;
/// Clients with a session let themselves be heard every 10 s (the replica's `keepalive`), and the answer to a slow request may take as long: with
/// less, connections in use would be closed.
const IDLE_TIMEOUT_MIN: Duration = Duration::from_secs(20);
/// `dev` takes no more than this unless it is told to.
const DEVELOPMENT_CAPACITY_BYTES_MAX: u64 = 64 << 30;
/// A configuration's file has at most so many bytes.
const FILE_BYTES_MAX: u64 = 1 << 20;
const OFFSET_METADATA_PORT: u16 = 1;
const OFFSET_CONTROL_PORT: u16 = 2;
const OFFSET_SHARD_PORT: u16 = 10;

/// Everything that a node can be told.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The node's name, shown in status and logs.
    pub name: String,
    /// The rack or other domain that fails as a whole, for placing copies apart; empty: not known.
    pub rack: String,
    /// Control ports (`host:port`, base port + 2) of other nodes of the cluster, to be asked when those that the cluster map names don't answer.
    pub join: Vec<String>,
    /// Where the node keeps its identity, the last cluster map and, unless `metadata.directory` says otherwise, its metadata log.
    pub directory: PathBuf,
    /// Address to listen on.
    pub listen: IpAddr,
    /// First port: admin HTTP; + 1 metadata; + 10 + i shard i. 0: ports from the operating system, new ones at each start.
    pub base_port: u16,
    /// Allows `listen` to be other than a loopback address although nothing authenticates clients yet.
    pub insecure_listen: bool,
    /// Shards; 0: one per core but one, at least one.
    pub shards: u16,
    /// Whether threads are pinned to cores and may spin for a moment before they sleep.
    pub dedicated_cores: bool,
    /// The cores to use with `dedicated_cores`; empty: all. The metadata replica has the first, shards the others, from the first again where they are short.
    pub cores: Vec<usize>,
    /// How long a chunk is kept after its last reference ended (R25); 1 s to 7 d.
    pub reclaim_delay: Span,
    /// Directories on disks that hold the shards' stores; shard i uses disk i modulo their number.
    pub disks: Vec<Disk>,
    /// The chunk stores.
    pub store: StoreSection,
    /// The metadata replica.
    pub metadata: MetadataSection,
    /// Limits on what clients may use.
    pub limits: LimitsSection,
    /// Logging.
    pub log: LogSection,
}

/// One disk.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Disk {
    /// A directory on it, which exists.
    pub path: PathBuf,
    /// What Catena may use of it, divided among its shards; at least 1 GiB a shard.
    pub capacity: ByteSize,
}

/// The chunk stores.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct StoreSection {
    /// Bytes of segments kept zero-written ahead of use, per shard.
    pub prezero: ByteSize,
    /// Time in which the scrubber reads everything once.
    pub scrub_period: Span,
}

/// The metadata replica.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct MetadataSection {
    /// Where its log and checkpoints lie; empty: `directory`.
    pub directory: PathBuf,
    /// Bytes of log after which a checkpoint is written.
    pub checkpoint_after: ByteSize,
    /// Memory that the group may use; 0: a quarter of the machine's.
    pub memory_budget: ByteSize,
}

/// Limits on what clients may use.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct LimitsSection {
    /// Connections per shard and to the metadata replica; beyond it a `Hello` is answered `Busy`.
    pub connections: u32,
    /// Buffers of each shard.
    pub buffers: ByteSize,
    /// A connection without a request for so long is closed; 20 s to 7 d.
    pub idle_timeout: Span,
}

/// Logging.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct LogSection {
    /// `human` or `json`.
    pub format: LogFormat,
    /// `error`, `warn`, `info`, `debug`, `trace`, or a filter such as `info,store=debug`.
    pub level: String,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Human,
    /// One JSON object a line.
    Json,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            name: "node-1".into(),
            rack: String::new(),
            join: Vec::new(),
            directory: "/var/lib/catena".into(),
            listen: IpAddr::V4(Ipv4Addr::LOCALHOST),
            base_port: 7420,
            insecure_listen: false,
            shards: 0,
            dedicated_cores: true,
            cores: Vec::new(),
            reclaim_delay: Span(Duration::from_mins(10)),
            disks: Vec::new(),
            store: StoreSection::default(),
            metadata: MetadataSection::default(),
            limits: LimitsSection::default(),
            log: LogSection::default(),
        }
    }
}

impl Default for StoreSection {
    fn default() -> Self {
        Self { prezero: ByteSize(1 << 30), scrub_period: Span(Duration::from_hours(14 * 24)) }
    }
}

impl Default for MetadataSection {
    fn default() -> Self {
        Self { directory: PathBuf::new(), checkpoint_after: ByteSize(256 << 20), memory_budget: ByteSize(0) }
    }
}

impl Default for LimitsSection {
    fn default() -> Self {
        Self { connections: 4096, buffers: ByteSize(256 << 20), idle_timeout: Span(Duration::from_mins(1)) }
    }
}

impl Default for LogSection {
    fn default() -> Self {
        Self { format: LogFormat::Human, level: "info".into() }
    }
}

/// Why a configuration can't be used. The operator mends the file.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// The file can't be read.
    #[error("cannot read the configuration {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file isn't TOML, or has an unknown key or a value of the wrong type.
    #[error("the configuration {path} has an error: {source}")]
    Parse {
        /// The file.
        path: PathBuf,
        /// Where and what.
        source: Box<toml::de::Error>,
    },
    /// A value can't be.
    #[error("the configuration's `{key}` is wrong: {reason}")]
    Value {
        /// The key.
        key: &'static str,
        /// What it should be.
        reason: String,
    },
}

impl Config {
    /// Reads and checks a file.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = read_limited(path).map_err(|source| ConfigError::Read { path: path.into(), source })?;
        let parsed: Self = toml::from_str(&text)
            .map_err(|source| ConfigError::Parse { path: path.into(), source: Box::new(source) })?;
        parsed.validate()?;
        Ok(parsed)
    }

    /// A node for development below `directory`: ports from the operating system, short delays, modest space.
    pub fn development(directory: &Path, shards: Option<u16>, listen: Option<SocketAddr>) -> Self {
        let free = runtime::file_system(existing_ancestor(directory)).map_or(0, |system| system.free_bytes);
        let shards = shards.unwrap_or_else(|| default_shards().min(4)).max(1);
        let capacity = (free / 2)
            .clamp(CAPACITY_BYTES_MIN, DEVELOPMENT_CAPACITY_BYTES_MAX)
            .max(CAPACITY_BYTES_MIN * u64::from(shards));
        Self {
            directory: directory.into(),
            listen: listen.map_or(IpAddr::V4(Ipv4Addr::LOCALHOST), |address| address.ip()),
            base_port: listen.map_or(0, |address| address.port()),
            shards,
            dedicated_cores: false,
            reclaim_delay: Span(Duration::from_secs(10)),
            disks: vec![Disk { path: directory.into(), capacity: ByteSize(capacity) }],
            store: StoreSection { prezero: ByteSize(128 << 20), ..StoreSection::default() },
            ..Self::default()
        }
    }

    /// Checks what types can't: ranges and combinations.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let wrong = |key, reason: &str| Err(ConfigError::Value { key, reason: reason.into() });
        if !is_node_name(&self.name) {
            return wrong(
                "name",
                "1 to 255 bytes, not of spaces alone, without control characters, `\"` and `\\`",
            );
        }
        self.validate_cluster()?;
        if self.directory.as_os_str().is_empty() {
            return wrong("directory", "it must name a directory");
        }
        if self.shards > SHARDS_MAX {
            return wrong("shards", "at most 256");
        }
        if !self.listen.is_loopback() && !self.insecure_listen {
            let reason = format!(
                "{} isn't a loopback address, and nothing authenticates clients yet; set `insecure_listen = true` if this network is yours alone",
                self.listen
            );
            return Err(ConfigError::Value { key: "listen", reason });
        }
        if self.listen.is_unspecified() {
            let reason = format!(
                "{} is every address and none: clients are told where to connect, so name one of this machine's addresses",
                self.listen
            );
            return Err(ConfigError::Value { key: "listen", reason });
        }
        if self.base_port != 0 && self.base_port.checked_add(OFFSET_SHARD_PORT + SHARDS_MAX).is_none() {
            return wrong("base_port", "266 ports from it on must exist: at most 65269");
        }
        let delay = self.reclaim_delay.0;
        if delay < Duration::from_secs(1) || delay > Duration::from_hours(7 * 24) {
            return wrong("reclaim_delay", "1s to 7d");
        }
        if self.disks.is_empty() {
            return wrong("disks", "at least one [[disks]] with `path` and `capacity`");
        }
        if usize::from(self.shard_count()) < self.disks.len() {
            return wrong("shards", "at least one a disk");
        }
        for (index, disk) in self.disks.iter().enumerate() {
            if self.disks[..index].iter().any(|other| real_path(&other.path) == real_path(&disk.path)) {
                return wrong("disks", "two disks have the same `path`");
            }
            if disk.capacity.0 / u64::from(self.shards_of_disk(index)) < CAPACITY_BYTES_MIN {
                let reason =
                    format!("{} is too small: at least 1GiB for each of its shards", disk.path.display());
                return Err(ConfigError::Value { key: "disks", reason });
            }
        }
        self.validate_cores()?;
        self.limits.validate()?;
        logging::directives(&self.log.level)
            .map_err(|reason| ConfigError::Value { key: "log.level", reason })?;
        if self.metadata.checkpoint_after.0 < 16 << 20 {
            return wrong("metadata.checkpoint_after", "at least 16MiB");
        }
        if (1..MEMORY_BUDGET_BYTES_MIN).contains(&self.metadata.memory_budget.0) {
            return wrong(
                "metadata.memory_budget",
                "at least 64MiB, or 0B for a quarter of the machine's memory",
            );
        }
        Ok(())
    }

    /// What matters to other nodes.
    fn validate_cluster(&self) -> Result<(), ConfigError> {
        let wrong = |key, reason| Err(ConfigError::Value { key, reason });
        if !self.rack.is_empty() && !is_node_name(&self.rack) {
            let reason = "at most 255 bytes without control characters, `\"` and `\\`; or empty".to_owned();
            return wrong("rack", reason);
        }
        match self.join.iter().find(|text| text.parse::<SocketAddr>().is_err()) {
            Some(endpoint) => {
                wrong("join", format!("`{endpoint}` isn't an address with a port, as 192.0.2.7:7422"))
            }
            None => Ok(()),
        }
    }

    /// The cores have to be this process's: a thread that can't be bound would run on any, and spin there.
    fn validate_cores(&self) -> Result<(), ConfigError> {
        let wrong = |reason| Err(ConfigError::Value { key: "cores", reason });
        if self.cores.is_empty() {
            return Ok(());
        }
        if !self.dedicated_cores {
            return wrong(
                "it has no effect with `dedicated_cores = false`; leave out one of the two".to_owned(),
            );
        }
        let allowed = runtime::allowed_cpus();
        match self.cores.iter().find(|core| !allowed.contains(core)) {
            Some(core) => wrong(format!("there is no core {core} for this process: it may use {allowed:?}")),
            None => Ok(()),
        }
    }

    /// Shards of this node.
    pub fn shard_count(&self) -> u16 {
        if self.shards == 0 { default_shards() } else { self.shards }
    }

    /// Where the metadata replica (`None`) or a shard runs, and whether it may spin there: not where threads share a core.
    pub fn core_of(&self, shard: Option<u16>) -> (Option<usize>, bool) {
        if !self.dedicated_cores {
            return (None, false);
        }
        let cores = if self.cores.is_empty() { all_cores() } else { self.cores.clone() };
        let place = shard.map_or(0, |shard| usize::from(shard) + 1);
        (Some(cores[place % cores.len()]), cores.len() > usize::from(self.shard_count()))
    }

    /// Shards whose store lies on disk `index`.
    pub fn shards_of_disk(&self, index: usize) -> u16 {
        let count =
            (0..self.shard_count()).filter(|shard| usize::from(*shard) % self.disks.len() == index).count();
        u16::try_from(count).expect("no more than all shards")
    }

    /// The disk of `shard`, by its index.
    pub fn disk_of(&self, shard: u16) -> usize {
        usize::from(shard) % self.disks.len()
    }

    /// The store file of `shard`.
    pub fn store_path(&self, shard: u16) -> PathBuf {
        self.disks[self.disk_of(shard)].path.join(format!("shard-{shard}.store"))
    }

    /// Bytes that the store of `shard` may use.
    pub fn store_capacity(&self, shard: u16) -> u64 {
        let disk = self.disk_of(shard);
        self.disks[disk].capacity.0 / u64::from(self.shards_of_disk(disk))
    }

    /// Where the metadata log and checkpoints lie.
    pub fn metadata_directory(&self) -> &Path {
        if self.metadata.directory.as_os_str().is_empty() {
            &self.directory
        } else {
            &self.metadata.directory
        }
    }

    /// Memory that the metadata group may use.
    pub fn memory_budget(&self) -> u64 {
        if self.metadata.memory_budget.0 > 0 {
            self.metadata.memory_budget.0
        } else {
            machine_memory_bytes() / 4
        }
    }

    /// Where the admin endpoint listens.
    pub fn admin_address(&self) -> SocketAddr {
        self.address(0)
    }

    /// Where the metadata replica listens.
    pub fn metadata_address(&self) -> SocketAddr {
        self.address(OFFSET_METADATA_PORT)
    }

    /// Where the node's control agent listens.
    pub fn control_address(&self) -> SocketAddr {
        self.address(OFFSET_CONTROL_PORT)
    }

    /// Where `shard` listens.
    pub fn shard_address(&self, shard: u16) -> SocketAddr {
        self.address(OFFSET_SHARD_PORT + shard)
    }

    fn address(&self, offset: u16) -> SocketAddr {
        let port = if self.base_port == 0 { 0 } else { self.base_port + offset };
        SocketAddr::new(self.listen, port)
    }

    /// The defaults as a commented file: what `--print-config` prints.
    pub fn commented_defaults() -> &'static str {
        include_str!("config/defaults.toml")
    }
}

impl LimitsSection {
    fn validate(&self) -> Result<(), ConfigError> {
        let wrong = |key, reason: &str| Err(ConfigError::Value { key, reason: reason.into() });
        if self.buffers.0 < 64 << 20 {
            return wrong("limits.buffers", "at least 64MiB");
        }
        if self.connections == 0 {
            return wrong("limits.connections", "at least 1");
        }
        if self.idle_timeout.0 < IDLE_TIMEOUT_MIN || self.idle_timeout.0 > Duration::from_hours(7 * 24) {
            return wrong("limits.idle_timeout", "20s to 7d");
        }
        Ok(())
    }
}

/// Whether it can be shown in a line of text and as a label of a metric, and fits into the cluster map.
fn is_node_name(name: &str) -> bool {
    let is_odd = |letter: char| letter.is_control() || letter == '"' || letter == '\\';
    !name.trim().is_empty() && name.len() <= MAP_NAME_BYTES_MAX && !name.contains(is_odd)
}

/// The cores that this process may use, no more of them than it is given the time of.
fn all_cores() -> Vec<usize> {
    let available = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let allowed = runtime::allowed_cpus();
    if allowed.is_empty() { (0..available).collect() } else { allowed.into_iter().take(available).collect() }
}

/// One shard per core but one, at least one.
fn default_shards() -> u16 {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    u16::try_from(cores.saturating_sub(1).clamp(1, usize::from(SHARDS_MAX))).expect("at most 256")
}

/// The machine's memory; where the kernel doesn't say, an amount that any machine has.
fn machine_memory_bytes() -> u64 {
    const FALLBACK_BYTES: u64 = 4 << 30;
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let total = text
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:")?.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    total.map_or(FALLBACK_BYTES, |kilobytes| kilobytes << 10)
}

/// A text of a sensible size, whatever the path names.
fn read_limited(path: &Path) -> std::io::Result<String> {
    let mut text = String::new();
    std::fs::File::open(path)?.take(FILE_BYTES_MAX + 1).read_to_string(&mut text)?;
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(std::io::Error::other("it is larger than 1 MiB"));
    }
    Ok(text)
}

/// Without links, `.` and `..`, as far as it exists.
fn real_path(path: &Path) -> PathBuf {
    path.canonicalize().unwrap_or_else(|_| path.components().collect())
}

fn existing_ancestor(path: &Path) -> &Path {
    path.ancestors().find(|ancestor| ancestor.exists()).unwrap_or(Path::new("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn printed_defaults_are_the_defaults() {
        let mut parsed: Config =
            toml::from_str(Config::commented_defaults()).expect("the printed defaults parse");
        parsed.validate().expect("and are valid");
        assert_eq!(parsed.disks.len(), 1);
        parsed.disks.clear();
        assert_eq!(parsed, Config::default());
    }

    #[test]
    fn every_key_is_printed() {
        let defaults = toml::Table::try_from(Config::default()).expect("a table");
        for (key, value) in &defaults {
            let text = Config::commented_defaults();
            assert!(text.contains(key.as_str()), "`{key}` is not documented");
            for inner in value.as_table().into_iter().flatten() {
                assert!(text.contains(inner.0.as_str()), "`{key}.{}` is not documented", inner.0);
            }
        }
    }

    #[test]
    fn wrong_values_are_named() {
        let base = "[[disks]]\npath = \"/srv/a\"\ncapacity = \"400GiB\"\n";
        let long_name = format!("name = \"{}\"\n", "n".repeat(MAP_NAME_BYTES_MAX + 1));
        for (text, key) in [
            ("colour = \"red\"\n", "colour"),
            ("name = \"\"\n", "`name` is wrong"),
            ("name = \"  \"\n", "`name` is wrong"),
            ("name = \"a\\nb\"\n", "`name` is wrong"),
            ("name = 'say \"a\"'\n", "`name` is wrong"),
            (long_name.as_str(), "`name` is wrong"),
            ("listen = \"0.0.0.0\"\n", "insecure_listen"),
            ("listen = \"0.0.0.0\"\ninsecure_listen = true\n", "every address"),
            ("listen = \"::\"\ninsecure_listen = true\n", "every address"),
            ("reclaim_delay = \"10d\"\n", "reclaim_delay"),
            ("base_port = 65500\n", "base_port"),
            ("shards = 300\n", "shards"),
            ("metadata = { memory_budget = \"50B\" }\n", "metadata.memory_budget"),
            // It was taken, and every reader was cut off.
            ("limits = { idle_timeout = \"0s\" }\n", "`limits.idle_timeout` is wrong: 20s to 7d"),
            ("limits = { idle_timeout = \"8d\" }\n", "limits.idle_timeout"),
            // It was taken for a module's name, and nothing was logged any more.
            ("log = { level = \"infoo\" }\n", "`infoo` is neither"),
            ("log = { level = \"\" }\n", "`log.level` is wrong"),
            ("cores = [100000]\n", "there is no core 100000 for this process: it may use ["),
            ("dedicated_cores = false\ncores = [0]\n", "`cores` is wrong: it has no effect"),
        ] {
            let error = toml::from_str::<Config>(&format!("{text}{base}"))
                .map_err(|error| error.to_string())
                .and_then(|config| config.validate().map_err(|error| error.to_string()))
                .expect_err(text);
            assert!(error.contains(key), "{error}");
        }
    }

    /// It passed for two disks, and its capacity counted twice.
    #[test]
    fn one_directory_under_two_names_is_one_disk() {
        let directory = tempfile::tempdir().expect("a directory");
        let disk = |path: PathBuf| Disk { path, capacity: ByteSize(8 << 30) };
        std::os::unix::fs::symlink(directory.path(), directory.path().join("link")).expect("a link");
        let other = directory.path().join("link/..").join(directory.path().file_name().expect("a name"));
        let mut config = Config { shards: 2, ..Config::default() };
        config.disks = vec![disk(directory.path().into()), disk(other)];
        let error = config.validate().expect_err("one directory").to_string();
        assert!(error.contains("two disks have the same `path`"), "{error}");
    }

    #[test]
    fn a_file_without_an_end_is_no_configuration() {
        let error = Config::load(Path::new("/dev/zero")).expect_err("it has no end").to_string();
        assert!(error.contains("/dev/zero: it is larger than 1 MiB"), "{error}");
    }

    #[test]
    fn capacity_is_divided_among_a_disks_shards() {
        let mut config = Config { shards: 3, ..Config::default() };
        for name in ["a", "b"] {
            config.disks.push(Disk { path: name.into(), capacity: ByteSize(8 << 30) });
        }
        assert_eq!(
            (0..3).map(|shard| config.store_capacity(shard)).collect::<Vec<_>>(),
            [4 << 30, 8 << 30, 4 << 30]
        );
        assert_eq!(config.store_path(1), Path::new("b/shard-1.store"));
    }
}
