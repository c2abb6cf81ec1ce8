//! Formatting: stores, metadata log, identity and the first cluster map of a one-node cluster. An explicit act (R34).

use std::fs::{self, File, TryLockError};
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use placement::{ClusterMap, OneNode, one_node};
use wire::control::{Condition, Life, LogEnd, Registration, StoreReport};
use wire::map::Unit;
use wire::{ClusterId, GroupId, Incarnation, MapNumber, NodeId, ShardIndex, StoreId};

use crate::config::{Config, ConfigError};
use crate::error::Error;
use crate::files::lock_own;
use crate::identity::{DIRECTORY_FORMAT, Identity, NodeDirectory, data_files, metadata_path, read_identity};
use crate::meta_thread::MetaStart;
use crate::node::Threads;
use crate::shard_thread::ShardStart;
use crate::start::{Opened, open_file, read_map, start_metadata_thread, start_shard, wait_ready};
use crate::vote::{self, Vote};

/// The vote of a new cluster's only node.
const FIRST_VOTER: u64 = 1;
/// Slices of a new cluster's ring: 2^12 (R40).
const RING_BITS: u8 = 12;

/// What formatting made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Initialized {
    /// The new cluster.
    pub cluster: ClusterId,
    /// Its node's stores, in order of the shards, and where they are.
    pub stores: Vec<(StoreId, PathBuf)>,
}

/// What a start with accepted data loss found and did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecoverReport {
    /// The cluster.
    pub cluster: ClusterId,
}

/// Whether the configured directory is a formatted node's.
pub fn is_initialized(config: &Config) -> Result<bool, Error> {
    NodeDirectory::new(&config.directory).is_initialized()
}

/// Whether a node runs on the configured files now, or has ended only just: it holds the lock of one of them.
pub fn is_running(config: &Config) -> bool {
    let is_held = |path: &PathBuf| {
        let tried = File::open(path).map(|file| file.try_lock_shared());
        matches!(tried, Ok(Err(TryLockError::WouldBlock)))
    };
    data_files(config).iter().any(is_held)
}

/// The shards that the configured directory was formatted with; `None`: it isn't a formatted node's.
pub fn formatted_shards(config: &Config) -> Result<Option<u16>, Error> {
    match NodeDirectory::new(&config.directory).read_identity() {
        Ok(identity) => Ok(u16::try_from(identity.stores.len()).ok()),
        Err(Error::NotInitialized { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Formats the stores and bootstraps a one-node cluster. Refuses whatever isn't new; what it made is removed again when it fails.
pub fn init(config: &Config) -> Result<Initialized, Error> {
    config.validate()?;
    let mut made = Made::begin(config)?;
    let result = found(config, &mut made);
    if result.is_err() {
        made.undo();
    }
    result
}

fn found(config: &Config, made: &mut Made) -> Result<Initialized, Error> {
    let directory = NodeDirectory::new(&config.directory);
    let stores = (0..config.shard_count()).map(|_| StoreId(runtime::clock::random_bytes())).collect();
    let vote = Vote::new(FIRST_VOTER, true);
    let identity = Identity {
        cluster: ClusterId(runtime::clock::random_bytes()),
        node: NodeId(1),
        stores,
        metadata: StoreId(runtime::clock::random_bytes()),
        vote: Some(vote),
        format: DIRECTORY_FORMAT,
    };
    let addresses = format(config, &identity, made)?;
    let map = one_node(OneNode {
        cluster: identity.cluster,
        node: identity.node,
        name: config.name.clone(),
        stores: (0..)
            .zip(&identity.stores)
            .zip(addresses.shards)
            .map(|((index, store), address)| (*store, ShardIndex(index), address))
            .collect(),
        metadata: identity.metadata,
        metadata_address: addresses.metadata,
        control: config.control_address().to_string(),
        ring_bits: RING_BITS,
        reclaim_delay_ms: u64::try_from(config.reclaim_delay.0.as_millis()).expect("at most seven days"),
    })
    .map_err(|error| Error::Damaged { path: directory.map_path(), reason: error.to_string() })?;
    made.files.push(vote.path(config.metadata_directory()));
    vote::make(config.metadata_directory(), vote, (identity.cluster, identity.node))?;
    finish(config, &identity, &map, made)
}

/// Where the units of a node that was being formatted listened.
struct Addresses {
    shards: Vec<String>,
    metadata: String,
}

/// Makes the stores and the metadata log.
fn format(config: &Config, identity: &Identity, made: &mut Made) -> Result<Addresses, Error> {
    let (control, _nobody) = runtime::mailbox(1);
    // They have ended when this returns, with or without an error: only then may what they made be removed.
    let mut threads = Threads::default();
    for index in 0..config.shard_count() {
        let start = ShardStart::format(config, identity, ShardIndex(index));
        let file = start.open_file()?;
        made.files.push(config.store_path(index));
        threads.shards.push(start_shard(config, index, (start, file), control.clone())?);
    }
    let path = metadata_path(config.metadata_directory());
    let start = MetaStart::format(config, identity);
    let file = open_file(&path, start.is_format())?;
    made.files.push(path);
    let metadata = start_metadata_thread(config, (start, file), control)?;
    let metadata = threads.metadata.insert(metadata);
    threads.shards.iter().try_for_each(wait_ready)?;
    wait_ready(metadata)?;
    let addresses = Addresses {
        shards: threads.shards.iter().map(|thread| thread.address.to_string()).collect(),
        metadata: metadata.address.to_string(),
    };
    threads.stop()?;
    Ok(addresses)
}

/// The node's first map, and last of all its identity.
fn finish(
    config: &Config,
    identity: &Identity,
    map: &ClusterMap,
    made: &mut Made,
) -> Result<Initialized, Error> {
    let directory = NodeDirectory::new(&config.directory);
    // Nobody else can be here: the stores are this call's.
    made.files.extend([directory.map_path(), directory.identity_path()]);
    directory.write_map(&map.as_map().encode())?;
    directory.write_identity(identity)?;
    let paths = (0..config.shard_count()).map(|index| config.store_path(index));
    let stores = identity.stores.iter().copied().zip(paths).collect();
    Ok(Initialized { cluster: identity.cluster, stores })
}

/// A node that is going to join a cluster: known by the ids of its stores before the first of them is made, so that a join that was cut off is the same one again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Joining {
    config: Config,
    stores: Vec<StoreId>,
    metadata: StoreId,
}

/// Prepares to join a cluster. Nothing is formatted yet.
pub fn prepare_join(config: &Config) -> Result<Joining, Error> {
    config.validate()?;
    if config.base_port == 0 {
        let reason =
            "a node of several has to be found again after a restart: give it a port of its own".into();
        return Err(ConfigError::Value { key: "base_port", reason }.into());
    }
    drop(Made::begin(config)?);
    let directory = NodeDirectory::new(&config.directory);
    let stores = match directory.read_joining()? {
        Some(stores) if stores.len() == usize::from(config.shard_count()) + 1 => stores,
        _ => (0..=config.shard_count()).map(|_| StoreId(runtime::clock::random_bytes())).collect(),
    };
    directory.write_joining(&stores)?;
    let (metadata, shards) = stores.split_last().expect("a metadata log is among them");
    Ok(Joining { config: config.clone(), stores: shards.to_vec(), metadata: *metadata })
}

impl Joining {
    /// What the control group is told of it: stores that are to be, and have no life yet.
    pub fn registration(&self) -> Registration {
        let report = |store, unit, address: SocketAddr, capacity_bytes| StoreReport {
            store,
            unit,
            address: address.to_string(),
            incarnation: Incarnation(0),
            lives: Vec::new(),
            recovered_cut: false,
            lacks: false,
            log_end: LogEnd::default(),
            sequence: 0,
            capacity_bytes,
            used_bytes: 0,
            condition: Condition::Well,
        };
        let config = &self.config;
        let shards = (0..).zip(&self.stores).map(|(index, store)| {
            let unit = Unit::Shard(ShardIndex(index));
            report(*store, unit, config.shard_address(index), config.store_capacity(index))
        });
        let log = report(self.metadata, Unit::Group(GroupId(0)), config.metadata_address(), 0);
        Registration {
            node: NodeId(0),
            life: Life(u64::from_le_bytes(runtime::clock::random_bytes())),
            join: true,
            name: config.name.clone(),
            rack: config.rack.clone(),
            control: config.control_address().to_string(),
            sent: runtime::clock::now(),
            installed: MapNumber(0),
            stores: shards.chain([log]).collect(),
        }
    }

    /// Formats the node, whom the control group has given this number, with a map that has it.
    pub fn finish(self, node: NodeId, map: &ClusterMap) -> Result<Initialized, Error> {
        let config = &self.config;
        let mut made = Made::begin(config)?;
        let identity = Identity {
            cluster: map.as_map().cluster,
            node,
            stores: self.stores,
            metadata: self.metadata,
            vote: None,
            format: DIRECTORY_FORMAT,
        };
        let result =
            format(config, &identity, &mut made).and_then(|_| finish(config, &identity, map, &mut made));
        match &result {
            Ok(_) => NodeDirectory::new(&config.directory).remove_joining(),
            Err(_) => made.undo(),
        }
        result
    }
}

/// Makes the directory of a one-node cluster that was formatted before control groups were one whose control group it is. Once; cut off, it is done again.
pub fn adopt(config: &Config) -> Result<ClusterId, Error> {
    config.validate()?;
    let directory = NodeDirectory::new(&config.directory);
    let identity = read_identity(config)?;
    if !identity.is_old() {
        return Err(Error::Adopted { directory: config.directory.clone() });
    }
    let _nobody_serves = lock_own(config, &identity)?;
    let mut map = read_map(&directory)?.as_map().clone();
    let damaged = |reason: String| Error::Damaged { path: directory.map_path(), reason };
    let [node] = &mut map.nodes[..] else { return Err(damaged("it has more than one node".to_owned())) };
    (node.voter, node.control) = (FIRST_VOTER, config.control_address().to_string());
    map.number.0 += 1;
    let map = ClusterMap::new(map).map_err(|error| damaged(error.to_string()))?;
    let vote = Vote::new(FIRST_VOTER, true);
    vote::make(config.metadata_directory(), vote, (identity.cluster, identity.node))?;
    directory.write_map(&map.as_map().encode())?;
    directory.write_identity(&Identity { vote: Some(vote), format: DIRECTORY_FORMAT, ..identity.clone() })?;
    Ok(identity.cluster)
}

/// Opens everything once with R29's override: damage in the metadata log is cut, and what follows it is lost. Then it is closed again.
///
/// The stores mark themselves durably as ones that lack something before anything is served from them; what the control group makes of that at the next start
/// comes before everything else: all sessions are closed, so that none of their ids is given out again (R20), and nothing is committed that was acked before (R8).
pub fn recover(config: &Config, accept_data_loss: bool) -> Result<RecoverReport, Error> {
    config.validate()?;
    // Nothing is accepted for a store that isn't mounted, or is another's: all files are looked at first, and nobody uses them.
    drop(lock_own(config, &read_identity(config)?)?);
    let cluster = Opened::open(&mut config.clone(), accept_data_loss)?.close()?;
    Ok(RecoverReport { cluster })
}

/// What formatting may remove again: only what it has made itself.
struct Made {
    /// The node's own directory, where it was made.
    directory: Option<PathBuf>,
    files: Vec<PathBuf>,
    /// Nobody else formats in the node's directory meanwhile.
    _lock: File,
}

impl Made {
    /// Checks that nothing is in the way, and makes the node's own directory.
    fn begin(config: &Config) -> Result<Self, Error> {
        let made = make_directory(&config.directory)?;
        let lock = lock(&config.directory)?;
        let directory = NodeDirectory::new(&config.directory);
        for path in data_files(config).into_iter().chain([directory.map_path(), directory.identity_path()]) {
            if fs::symlink_metadata(&path).is_ok() {
                return Err(Error::Exists { path });
            }
        }
        for path in config.disks.iter().map(|disk| disk.path.as_path()).chain([config.metadata_directory()]) {
            if !path.is_dir() {
                return Err(Error::Missing { path: path.into() });
            }
        }
        Ok(Self { directory: made, files: Vec::new(), _lock: lock })
    }

    fn undo(&self) {
        for path in &self.files {
            if let Err(error) = fs::remove_file(path)
                && error.kind() != io::ErrorKind::NotFound
            {
                tracing::warn!(path = %path.display(), %error, "cannot remove what a failed init made");
            }
        }
        if let Some(directory) = &self.directory
            && let Err(error) = fs::remove_dir(directory)
        {
            tracing::warn!(path = %directory.display(), %error, "cannot remove the directory that a failed init made");
        }
    }
}

/// Locks a directory until the handle is closed.
fn lock(path: &Path) -> Result<File, Error> {
    let directory = File::open(path).map_err(|source| Error::file("open", path, source))?;
    match directory.try_lock() {
        Ok(()) => Ok(directory),
        Err(TryLockError::WouldBlock) => Err(Error::Formatting { directory: path.into() }),
        Err(TryLockError::Error(source)) => Err(Error::file("lock", path, source)),
    }
}

/// Makes `path` and its parents; returns it if it wasn't there.
fn make_directory(path: &Path) -> Result<Option<PathBuf>, Error> {
    if path.is_dir() {
        return Ok(None);
    }
    fs::create_dir_all(path).map_err(|source| Error::file("make", path, source))?;
    Ok(Some(path.into()))
}
