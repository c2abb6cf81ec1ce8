//! A file's chunks as they are stored: for comparing local bytes without reading remote ones, and for verifying every replica.

use wire::checksum::BlockHasher;
use wire::meta::Entry;
use wire::{ChunkId, ClusterId};

use crate::{Damage, Error, Volume};

/// A run of a file's bytes and the chunk that holds them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoredChunk {
    /// Where the bytes begin in the file.
    pub offset: u64,
    /// How many bytes of the file this covers.
    pub length: u64,
    /// The chunk.
    pub id: ChunkId,
    /// The chunk's root checksum.
    pub root: u64,
    /// The chunk's length.
    pub chunk_length: u32,
    /// Where the file's bytes begin in the chunk.
    pub skip: u32,
    /// The cluster; part of the checksum.
    pub cluster: ClusterId,
}

impl StoredChunk {
    /// Whether the file shows the whole chunk: only then can its checksum be compared with local bytes.
    pub fn is_whole(&self) -> bool {
        self.skip == 0 && self.length == u64::from(self.chunk_length)
    }

    /// Whether `bytes` are exactly those of the chunk, by its checksum; false where the chunk isn't whole. One hashing pass, no I/O.
    pub fn matches(&self, bytes: &[u8]) -> bool {
        self.is_whole()
            && bytes.len() as u64 == self.length
            && BlockHasher::new(self.cluster, self.id).root(bytes) == self.root
    }
}

/// The chunks of one version in order of their offsets; between them are holes. An iterator that fetches pages as it goes.
#[derive(Debug)]
pub struct StoredChunks {
    volume: Volume,
}

impl StoredChunks {
    pub(crate) fn new(volume: Volume, entry: Entry) -> Self {
        let _ = entry;
        Self { volume }
    }

    /// The next chunk; `None` at the end.
    pub async fn next_chunk(&mut self) -> Result<Option<StoredChunk>, Error> {
        let _ = &self.volume;
        todo!()
    }
}

impl Iterator for StoredChunks {
    type Item = Result<StoredChunk, Error>;

    /// [`next_chunk`](StoredChunks::next_chunk), waiting on this thread.
    fn next(&mut self) -> Option<Self::Item> {
        crate::pending::block_on(self.next_chunk()).transpose()
    }
}

/// A chunk that a replica lacks or holds damaged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DamagedChunk {
    /// Which bytes of the file are affected, and their chunk.
    pub chunk: StoredChunk,
    /// What is wrong.
    pub damage: Damage,
    /// The replica: address of its shard.
    pub replica: String,
}

/// Reads a file's chunks from all replicas: an iterator over what is wrong. Errors are about what could not be checked.
#[derive(Debug)]
pub struct Verifier {
    chunks: StoredChunks,
    checked_chunks: u64,
    checked_bytes: u64,
}

impl Verifier {
    pub(crate) fn new(volume: Volume, entry: Entry) -> Self {
        Self { chunks: StoredChunks::new(volume, entry), checked_chunks: 0, checked_bytes: 0 }
    }

    /// Chunks read and verified so far, each replica counted.
    pub fn checked_chunks(&self) -> u64 {
        self.checked_chunks
    }

    /// Bytes read and verified so far, each replica counted.
    pub fn checked_bytes(&self) -> u64 {
        self.checked_bytes
    }

    /// The next damaged chunk; `None` when everything was read.
    pub async fn next_damage(&mut self) -> Result<Option<DamagedChunk>, Error> {
        let _ = &self.chunks;
        todo!()
    }
}

impl Iterator for Verifier {
    type Item = Result<DamagedChunk, Error>;

    /// [`next_damage`](Verifier::next_damage), waiting on this thread.
    fn next(&mut self) -> Option<Self::Item> {
        crate::pending::block_on(self.next_damage()).transpose()
    }
}
