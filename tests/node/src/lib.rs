//! What the tests of a node under the client library share. The tests stand in `tests/`, one file a property.

#![forbid(unsafe_code)]

pub mod peer;

use client::{Client, Config, Error, ReadRange, Upload, UploadOptions, Volume, VolumePolicy};
use harness::{Content, Dev, Node, Scratch};
use std::io::{Read, Write};

/// Chunk size of the tests' volume: small, so that a file of a few hundred kilobytes has several chunks.
pub const CHUNK_BYTES: u32 = 64 << 10;

/// A node, a client and a volume `v`.
#[derive(Debug)]
pub struct World {
    /// The client.
    pub client: Client,
    /// The volume.
    pub volume: Volume,
    /// The node; it ends with this.
    pub node: Node,
    _scratch: Scratch,
}

impl World {
    /// Starts a node of two shards in a directory of its own.
    ///
    /// # Panics
    /// If it can't be started or used.
    #[must_use]
    pub fn new() -> Self {
        let scratch = Scratch::new();
        let node = Dev::new(&scratch.join("node")).shards(2).start();
        Self::on(node, scratch)
    }

    /// On a node that was started in `scratch`.
    ///
    /// # Panics
    /// If it can't be used.
    #[must_use]
    pub fn on(node: Node, scratch: Scratch) -> Self {
        let client = Client::connect(Config::new([node.endpoint()])).expect("an executor thread");
        let policy = VolumePolicy { chunk_bytes: CHUNK_BYTES, retention_seconds: 0 };
        let volume = client.create_volume("v", policy).wait().expect("a volume");
        Self { client, volume, node, _scratch: scratch }
    }
}

impl Default for World {
    fn default() -> Self {
        Self::new()
    }
}

/// Stores a file of so many chunks on a node of one shard; returns its bytes and the shard's address.
///
/// # Panics
/// If that fails.
#[must_use]
pub fn store_chunks(node: &Node, chunk_bytes: u32, chunks: u64) -> (Vec<u8>, String) {
    let client = Client::connect(Config::new([node.endpoint()])).expect("an executor thread");
    let policy = VolumePolicy { chunk_bytes, retention_seconds: 0 };
    let volume = client.create_volume("chunks", policy).wait().expect("a volume");
    let content = Content::new(1, u64::from(chunk_bytes) * chunks).bytes();
    store(&volume, b"f", &content, UploadOptions::default()).expect("stored");
    (content, client.status().wait().expect("status").map.stores[0].address.clone())
}

/// Stores `bytes` at `path`.
///
/// # Errors
/// The upload's.
pub fn store(
    volume: &Volume,
    path: &[u8],
    bytes: &[u8],
    options: UploadOptions,
) -> Result<client::Committed, Error> {
    let mut upload: Upload = volume.upload(path, options)?;
    // A failed write comes back, typed, from `finish`.
    if upload.write_all(bytes).is_err() {
        return Err(upload.finish().wait().expect_err("a write failed"));
    }
    upload.finish().wait()
}

/// Reads a range of `path`.
///
/// # Errors
/// The download's, as text.
pub fn fetch(volume: &Volume, path: &[u8], range: ReadRange) -> Result<Vec<u8>, String> {
    let mut download = volume.download(path, range).wait().map_err(|error| error.to_string())?;
    let mut bytes = Vec::new();
    download.read_to_end(&mut bytes).map_err(|error| error.to_string())?;
    Ok(bytes)
}
