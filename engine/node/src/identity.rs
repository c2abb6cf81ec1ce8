//! What makes a directory a node's: its identity file and the last cluster map, both replaced atomically.
//!
//! `identity.toml` is written last when a node is formatted, so that a directory has it exactly when everything else is there. A directory that has it and lacks
//! another file is damaged, never formatted again by itself (R34).

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use wire::{ClusterId, NodeId, StoreId};
use xxhash_rust::xxh3::xxh3_64;

use crate::Error;
use crate::config::Config;
use crate::vote::Vote;

/// Version of the directory's layout; a newer one is refused by name. Since 2 the metadata log has a uuid here, since 3 the node's vote.
pub(crate) const DIRECTORY_FORMAT: u32 = 3;
const IDENTITY_FILE: &str = "identity.toml";
const MAP_FILE: &str = "cluster.map";
const METADATA_FILE: &str = "metadata.log";
const JOINING_FILE: &str = "joining.toml";

/// What stands before the map in its file: magic, then xxh3-64 of the map. Its format and number are its own.
const MAP_HEADER_BYTES: usize = 16;
const MAP_MAGIC: [u8; 8] = *b"CATENAMP";

fn map_header(map: &[u8]) -> [u8; MAP_HEADER_BYTES] {
    let mut header = [0; MAP_HEADER_BYTES];
    header[..8].copy_from_slice(&MAP_MAGIC);
    header[8..].copy_from_slice(&xxh3_64(map).to_le_bytes());
    header
}

/// Who a node is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    /// Its cluster.
    pub(crate) cluster: ClusterId,
    /// Its number there.
    pub(crate) node: NodeId,
    /// The stores of its shards, in order.
    pub(crate) stores: Vec<StoreId>,
    /// The metadata replica's log; zero in a directory of format 1, which didn't name it.
    pub(crate) metadata: StoreId,
    /// Its vote in the control group.
    pub(crate) vote: Option<Vote>,
    /// The layout that was read; a directory of an earlier one knows no control group.
    pub(crate) format: u32,
}

impl Identity {
    /// Whether the directory was formatted before control groups were.
    pub(crate) fn is_old(&self) -> bool {
        self.format < DIRECTORY_FORMAT
    }
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct IdentityFile {
    format: u32,
    cluster: String,
    node: u32,
    stores: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    metadata: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    vote: Option<VoteFile>,
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct JoiningFile {
    stores: Vec<String>,
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct VoteFile {
    id: u64,
    log: String,
    founder: bool,
}

/// Files of a node's own directory.
#[derive(Clone, Debug)]
pub(crate) struct NodeDirectory {
    path: PathBuf,
}

impl NodeDirectory {
    /// The node directory at `path`, whether or not it exists.
    pub(crate) fn new(path: &Path) -> Self {
        Self { path: path.into() }
    }

    /// Whether the node was formatted.
    pub(crate) fn is_initialized(&self) -> Result<bool, Error> {
        self.identity_path()
            .try_exists()
            .map_err(|source| Error::file("look at", &self.identity_path(), source))
    }

    /// The node's identity; an error names what is missing or wrong.
    pub(crate) fn read_identity(&self) -> Result<Identity, Error> {
        let path = self.identity_path();
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(Error::NotInitialized { directory: self.path.clone() });
            }
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                return Err(Error::Damaged { path, reason: "it isn't text".to_owned() });
            }
            Err(source) => return Err(Error::file("read", &path, source)),
        };
        let damaged = |reason: String| Error::Damaged { path: path.clone(), reason };
        let file: IdentityFile =
            toml::from_str(&text).map_err(|error| damaged(error.message().to_owned()))?;
        if file.format > DIRECTORY_FORMAT {
            return Err(Error::NewerFormat { path, found: file.format, known: DIRECTORY_FORMAT });
        }
        let cluster = parse_uuid(&file.cluster).ok_or_else(|| damaged("`cluster` isn't an id".into()))?;
        let stores: Option<Vec<StoreId>> =
            file.stores.iter().map(|text| parse_uuid(text).map(StoreId)).collect();
        let stores = stores.ok_or_else(|| damaged("`stores` has something that isn't an id".into()))?;
        let metadata = file.metadata.map_or(Some([0; 16]), |text| parse_uuid(&text));
        let metadata = metadata.ok_or_else(|| damaged("`metadata` isn't an id".into()))?;
        let (cluster, metadata) = (ClusterId(cluster), StoreId(metadata));
        let vote = file.vote.map(|vote| {
            let log = parse_uuid(&vote.log).map(StoreId);
            log.map(|log| Vote { id: vote.id, log, is_founder: vote.founder })
        });
        let vote = vote.map_or(Ok(None), |vote| {
            vote.map(Some).ok_or_else(|| damaged("`vote.log` isn't an id".into()))
        })?;
        Ok(Identity { cluster, node: NodeId(file.node), stores, metadata, vote, format: file.format })
    }

    /// Makes the directory a node's; the last step of formatting.
    pub(crate) fn write_identity(&self, identity: &Identity) -> Result<(), Error> {
        let file = IdentityFile {
            format: DIRECTORY_FORMAT,
            cluster: identity.cluster.to_string(),
            node: identity.node.0,
            stores: identity.stores.iter().map(ToString::to_string).collect(),
            metadata: Some(identity.metadata.to_string()),
            vote: identity.vote.map(|vote| VoteFile {
                id: vote.id,
                log: vote.log.to_string(),
                founder: vote.is_founder,
            }),
        };
        let text = toml::to_string(&file).expect("strings and numbers are TOML");
        let text =
            format!("# Catena node directory: written when the node was formatted. Don't edit.\n{text}");
        write_atomically(&self.identity_path(), text.as_bytes())
    }

    /// The last cluster map's bytes, as they were stored.
    pub(crate) fn read_map(&self) -> Result<Vec<u8>, Error> {
        let path = self.map_path();
        let file = fs::read(&path).map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => Error::Missing { path: path.clone() },
            _ => Error::file("read", &path, source),
        })?;
        let damaged = |reason: &str| Error::Damaged { path: path.clone(), reason: reason.into() };
        let (header, bytes) = file
            .split_first_chunk::<MAP_HEADER_BYTES>()
            .ok_or_else(|| damaged("it is too short for a cluster map"))?;
        if header[..8] != MAP_MAGIC {
            return Err(damaged("it isn't a cluster map"));
        }
        if *header != map_header(bytes) {
            return Err(damaged(
                "its checksum is wrong: put a copy of it back that was made after the cluster's last change",
            ));
        }
        Ok(bytes.to_vec())
    }

    /// Stores the cluster map durably.
    pub(crate) fn write_map(&self, bytes: &[u8]) -> Result<(), Error> {
        write_atomically(&self.map_path(), &[&map_header(bytes), bytes].concat())
    }

    /// The stores of a node that is about to join: the shards' in order, then the metadata log.
    pub(crate) fn read_joining(&self) -> Result<Option<Vec<StoreId>>, Error> {
        let path = self.path.join(JOINING_FILE);
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(Error::file("read", &path, source)),
        };
        let damaged = |reason: &str| Error::Damaged { path: path.clone(), reason: reason.into() };
        let file: JoiningFile = toml::from_str(&text).map_err(|error| damaged(error.message()))?;
        let stores: Option<Vec<StoreId>> =
            file.stores.iter().map(|text| parse_uuid(text).map(StoreId)).collect();
        stores.map(Some).ok_or_else(|| damaged("`stores` has something that isn't an id"))
    }

    pub(crate) fn write_joining(&self, stores: &[StoreId]) -> Result<(), Error> {
        let file = JoiningFile { stores: stores.iter().map(ToString::to_string).collect() };
        let text = toml::to_string(&file).expect("strings are TOML");
        let text = format!(
            "# A node that is joining a cluster: gone once it is formatted. Remove it to begin with another one.\n{text}"
        );
        write_atomically(&self.path.join(JOINING_FILE), text.as_bytes())
    }

    /// The node is formatted, and its identity says who it is.
    pub(crate) fn remove_joining(&self) {
        let path = self.path.join(JOINING_FILE);
        if let Err(error) = fs::remove_file(&path) {
            tracing::warn!(path = %path.display(), %error, "cannot remove what the join doesn't need any more");
        }
    }

    /// Where the cluster map is.
    pub(crate) fn map_path(&self) -> PathBuf {
        self.path.join(MAP_FILE)
    }

    /// Where the identity is.
    pub(crate) fn identity_path(&self) -> PathBuf {
        self.path.join(IDENTITY_FILE)
    }
}

/// The node's identity as configured. Where it is missing and others of the node's files aren't, it was lost or formatting was cut off: `init`
/// would refuse those, so it isn't recommended (R34).
pub(crate) fn read_identity(config: &Config) -> Result<Identity, Error> {
    let directory = NodeDirectory::new(&config.directory);
    match directory.read_identity() {
        Err(error @ Error::NotInitialized { .. }) => {
            let found =
                data_files(config).into_iter().chain([directory.map_path()]).find(|path| path.exists());
            Err(found
                .map_or(error, |found| Error::IdentityMissing { path: directory.identity_path(), found }))
        }
        read => read,
    }
}

/// The files that a node holds locked while it runs: its stores and its metadata log.
pub(crate) fn data_files(config: &Config) -> Vec<PathBuf> {
    let stores = (0..config.shard_count()).map(|index| config.store_path(index));
    stores.chain([metadata_path(config.metadata_directory())]).collect()
}

/// The metadata log's file in `directory`.
pub(crate) fn metadata_path(directory: &Path) -> PathBuf {
    directory.join(METADATA_FILE)
}

/// Replaces `path` by `bytes` so that a crash leaves the old or the new contents, durably.
pub(crate) fn write_atomically(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    let directory = path.parent().unwrap_or(Path::new("."));
    let temporary = path.with_extension("new");
    let write = || -> io::Result<()> {
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).open(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        File::open(directory)?.sync_all()
    };
    write().map_err(|source| Error::file("write", path, source))
}

/// 16 bytes of a uuid as it is displayed.
pub(crate) fn parse_uuid(text: &str) -> Option<[u8; 16]> {
    let digits: Vec<u8> = text.bytes().filter(|byte| *byte != b'-').collect();
    if digits.len() != 32 || !digits.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    let mut bytes = [0; 16];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity() -> Identity {
        Identity {
            cluster: ClusterId([7; 16]),
            node: NodeId(1),
            stores: vec![StoreId([1; 16]), StoreId([0xfe; 16])],
            metadata: StoreId([0xab; 16]),
            vote: Some(Vote { id: 5, log: StoreId([0xcd; 16]), is_founder: false }),
            format: DIRECTORY_FORMAT,
        }
    }

    #[test]
    fn identity_reads_back() {
        let temporary = tempfile::tempdir().expect("a directory");
        let directory = NodeDirectory::new(temporary.path());
        assert!(matches!(directory.read_identity(), Err(Error::NotInitialized { .. })));
        assert!(!directory.is_initialized().expect("readable"));
        directory.write_identity(&identity()).expect("written");
        assert!(directory.is_initialized().expect("readable"));
        assert_eq!(directory.read_identity().expect("read"), identity());
    }

    /// A flipped bit in the map sent chunks to other stores, and lost chunks were reported that were there.
    #[test]
    fn a_map_with_any_bit_flipped_is_refused() {
        let temporary = tempfile::tempdir().expect("a directory");
        let directory = NodeDirectory::new(temporary.path());
        assert!(matches!(directory.read_map(), Err(Error::Missing { .. })));
        directory.write_map(b"a map").expect("written");
        assert_eq!(directory.read_map().expect("read"), b"a map");
        let whole = fs::read(directory.map_path()).expect("read");
        for bit in 0..8 * whole.len() {
            let mut damaged = whole.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            fs::write(directory.map_path(), damaged).expect("written");
            assert!(matches!(directory.read_map(), Err(Error::Damaged { .. })), "bit {bit}");
        }
        for length in 0..whole.len() {
            fs::write(directory.map_path(), &whole[..length]).expect("written");
            assert!(matches!(directory.read_map(), Err(Error::Damaged { .. })), "{length} bytes");
        }
    }

    /// Directories of the first release didn't name their metadata log.
    #[test]
    fn the_first_format_is_read() {
        let temporary = tempfile::tempdir().expect("a directory");
        let directory = NodeDirectory::new(temporary.path());
        directory.write_identity(&identity()).expect("written");
        let path = temporary.path().join(IDENTITY_FILE);
        let text = fs::read_to_string(&path).expect("text").replace("format = 3", "format = 1");
        let text = text.split("[vote]").next().expect("a part");
        let text: Vec<&str> = text.lines().filter(|line| !line.starts_with("metadata")).collect();
        fs::write(&path, text.join("\n")).expect("written");
        let first = Identity { metadata: StoreId([0; 16]), vote: None, format: 1, ..identity() };
        assert!(first.is_old());
        assert_eq!(directory.read_identity().expect("read"), first);
    }

    #[test]
    fn a_newer_or_damaged_identity_is_refused_by_name() {
        let temporary = tempfile::tempdir().expect("a directory");
        let directory = NodeDirectory::new(temporary.path());
        directory.write_identity(&identity()).expect("written");
        let path = temporary.path().join(IDENTITY_FILE);
        let text = fs::read_to_string(&path).expect("text");
        for (from, to, expected) in [
            ("format = 3", "format = 4", "format 4"),
            ("cluster = \"07", "cluster = \"xx", "`cluster`"),
            ("node = 1", "knot = 1", "identity.toml"),
            ("metadata = \"ab", "metadata = \"xx", "`metadata`"),
            ("log = \"cd", "log = \"xx", "`vote.log`"),
        ] {
            fs::write(&path, text.replace(from, to)).expect("written");
            let error = directory.read_identity().expect_err(to).to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
