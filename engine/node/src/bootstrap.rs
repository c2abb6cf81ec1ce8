//! Formatting: stores, metadata log, identity and the first cluster map of a one-node cluster. An explicit act (R34).

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use placement::{OneNode, one_node};
use wire::{ClusterId, NodeId, ShardIndex, StoreId};

use crate::config::Config;
use crate::error::Error;
use crate::identity::{Identity, NodeDirectory, metadata_path};
use crate::meta_thread::MetaStart;
use crate::shard_thread::ShardStart;
use crate::start::{end_all, start_metadata_thread, start_shard, start_with, wait_ready};

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

/// Formats the stores and bootstraps a one-node cluster. Refuses whatever isn't new; what it made is removed again when it fails.
pub fn init(config: &Config) -> Result<Initialized, Error> {
    config.validate()?;
    let made = Made::begin(config)?;
    let result = format(config);
    if result.is_err() {
        made.undo();
    }
    result
}

fn format(config: &Config) -> Result<Initialized, Error> {
    let directory = NodeDirectory::new(&config.directory);
    let stores = (0..config.shard_count()).map(|_| StoreId(runtime::clock::random_bytes())).collect();
    let identity = Identity { cluster: ClusterId(runtime::clock::random_bytes()), node: NodeId(1), stores };

    let mut threads = Vec::new();
    for index in 0..config.shard_count() {
        let start = ShardStart::format(config, &identity, ShardIndex(index));
        threads.push(start_shard(config, index, None, start)?);
    }
    let metadata = start_metadata_thread(config, None, MetaStart::format(config, &identity))?;
    threads.iter().try_for_each(wait_ready)?;
    wait_ready(&metadata)?;

    let map = one_node(OneNode {
        cluster: identity.cluster,
        node: identity.node,
        name: config.name.clone(),
        stores: (0..)
            .zip(&identity.stores)
            .zip(&threads)
            .map(|((index, store), thread)| (*store, ShardIndex(index), thread.address.to_string()))
            .collect(),
        metadata_address: metadata.address.to_string(),
        ring_bits: RING_BITS,
        reclaim_delay_ms: u64::try_from(config.reclaim_delay.0.as_millis()).expect("at most seven days"),
    })
    .map_err(|error| Error::Damaged { path: directory.map_path(), reason: error.to_string() })?;
    end_all(vec![metadata])?;
    end_all(threads)?;

    directory.write_map(&map.as_map().encode())?;
    directory.write_identity(&identity)?;
    let paths = (0..config.shard_count()).map(|index| config.store_path(index));
    Ok(Initialized { cluster: identity.cluster, stores: identity.stores.into_iter().zip(paths).collect() })
}

/// Starts once with R29's override: damage in the metadata log is cut, and what follows it is lost. The node is stopped again.
pub fn recover(config: &Config, accept_data_loss: bool) -> Result<RecoverReport, Error> {
    let node = start_with(config.clone(), accept_data_loss)?;
    let cluster = node.cluster();
    node.stop()?;
    Ok(RecoverReport { cluster })
}

/// What formatting may remove again: only what wasn't there before.
struct Made {
    directory: Option<PathBuf>,
    files: Vec<PathBuf>,
}

impl Made {
    /// Checks that nothing is in the way, and makes the node's own directory.
    fn begin(config: &Config) -> Result<Self, Error> {
        let mut files: Vec<PathBuf> =
            (0..config.shard_count()).map(|index| config.store_path(index)).collect();
        files.push(metadata_path(config.metadata_directory()));
        let directory = NodeDirectory::new(&config.directory);
        for path in files.iter().cloned().chain([directory.map_path(), directory.identity_path()]) {
            if fs::symlink_metadata(&path).is_ok() {
                return Err(Error::Exists { path });
            }
        }
        let made = make_directory(&config.directory)?;
        for path in config.disks.iter().map(|disk| disk.path.as_path()).chain([config.metadata_directory()]) {
            if !path.is_dir() {
                return Err(Error::Missing { path: path.into() });
            }
        }
        Ok(Self { directory: made, files })
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

/// Makes `path` and its parents; returns it if it wasn't there.
fn make_directory(path: &Path) -> Result<Option<PathBuf>, Error> {
    if path.is_dir() {
        return Ok(None);
    }
    fs::create_dir_all(path).map_err(|source| Error::file("make the directory", path, source))?;
    Ok(Some(path.into()))
}
