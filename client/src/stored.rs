//! A file's chunks as they are stored: for comparing local bytes without reading remote ones, and for verifying every replica.

use std::collections::VecDeque;
use std::sync::Arc;

use placement::ClusterMap;
use wire::checksum::BlockHasher;
use wire::meta::Entry;
use wire::{ChunkId, ClusterId, StoreId};

use crate::core::extents::{Step, Walk};
use crate::core::{Call, Failure, GetCall};
use crate::handle::{CallFuture, Share};
use crate::version::VersionReader;
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
    ///
    /// ```
    /// use client::{ChunkId, ClusterId, StoredChunk};
    /// let (cluster, id) = (ClusterId::default(), ChunkId::default());
    /// let root = wire::checksum::BlockHasher::new(cluster, id).root(b"meow");
    /// let chunk = StoredChunk { offset: 0, length: 4, id, root, chunk_length: 4, skip: 0, cluster };
    /// assert!(chunk.matches(b"meow"));
    /// assert!(!chunk.matches(b"woof"));
    /// ```
    pub fn matches(&self, bytes: &[u8]) -> bool {
        self.is_whole()
            && bytes.len() as u64 == self.length
            && !bytes.is_empty()
            && BlockHasher::new(self.cluster, self.id).root(bytes) == self.root
    }
}

/// The chunks of one version in order of their offsets; between them are holes. An iterator that fetches pages as it goes.
#[derive(Debug)]
pub struct StoredChunks {
    version: VersionReader,
    walk: Walk,
    map: Option<Arc<ClusterMap>>,
}

impl StoredChunks {
    pub(crate) fn new(volume: Volume, entry: Entry) -> Self {
        let what = volume.at(entry.attributes.inode).subject(b"");
        let size = entry.attributes.size;
        let mut version = VersionReader::new(volume, what, entry);
        let walk = version.walk(0, size);
        Self { version, walk, map: None }
    }

    /// The next chunk; `None` at the end.
    pub async fn next_chunk(&mut self) -> Result<Option<StoredChunk>, Error> {
        let cluster = self.cluster_map().await?.cluster();
        loop {
            match self.walk.step() {
                Step::Part(part) => {
                    return Ok(Some(StoredChunk {
                        offset: part.offset,
                        length: u64::from(part.length),
                        id: part.id,
                        root: part.root,
                        chunk_length: part.chunk_length,
                        skip: part.skip,
                        cluster,
                    }));
                }
                Step::Hole { .. } => {}
                Step::Page { offset } => self.version.load_page(&mut self.walk, offset).await?,
                Step::End => return Ok(None),
            }
        }
    }

    async fn cluster_map(&mut self) -> Result<Arc<ClusterMap>, Error> {
        if let Some(map) = &self.map {
            return Ok(Arc::clone(map));
        }
        let map = self.version.volume.handle().map(&self.version.what).await?;
        self.map = Some(Arc::clone(&map));
        Ok(map)
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

/// Reads one chunk from each replica in turn; see [`Volume::verify_chunk`].
pub(crate) async fn verify_chunk(volume: Volume, chunk: StoredChunk) -> Result<Vec<DamagedChunk>, Error> {
    let what = volume.subject(b"");
    let map = volume.handle().map(&what).await?;
    let mut found = Vec::new();
    for (replica, _) in (0..).zip(map.route(chunk.id).readers()) {
        let (damage, address) = match volume.handle().call(get(&chunk, replica)).await {
            Ok(_) => continue,
            Err(Failure::Corrupt { address }) => (Damage::Corrupt, address),
            Err(Failure::Missing { address }) => (Damage::Missing, address),
            Err(failure) => return Err(volume.handle().error(failure, &what)),
        };
        found.push(DamagedChunk { chunk, damage, replica: address.to_string() });
    }
    Ok(found)
}

/// What one serving replica says of a chunk; see [`Volume::check_chunk`].
#[derive(Clone, Debug)]
pub struct CheckedReplica {
    /// The replica's store.
    pub store: StoreId,
    /// `None`: it sent the chunk, and every byte was verified. Else what is wrong with it there.
    pub result: Result<Option<Damage>, Error>,
}

/// Reads one chunk from each replica and takes each answer for itself.
pub(crate) async fn check_chunk(volume: Volume, chunk: StoredChunk) -> Result<Vec<CheckedReplica>, Error> {
    let what = volume.subject(b"");
    let mut map = volume.handle().map(&what).await?;
    loop {
        let stores: Vec<StoreId> = map.route(chunk.id).readers().map(|store| store.store).collect();
        // All are asked before the first is waited for.
        let calls: Vec<_> =
            (0..).zip(&stores).map(|(replica, _)| volume.handle().call(get(&chunk, replica))).collect();
        let mut found = Vec::with_capacity(stores.len());
        for (store, call) in stores.into_iter().zip(calls) {
            let result = match call.await {
                Ok(_) => Ok(None),
                Err(Failure::Corrupt { .. }) => Ok(Some(Damage::Corrupt)),
                Err(Failure::Missing { .. }) => Ok(Some(Damage::Missing)),
                Err(failure) => Err(volume.handle().error(failure, &what)),
            };
            found.push(CheckedReplica { store, result });
        }
        // A replica is asked for by its place in the chain: where that has changed meanwhile, another one may have answered.
        let now = volume.handle().map(&what).await?;
        if now.route(chunk.id).chain == map.route(chunk.id).chain {
            return Ok(found);
        }
        map = now;
    }
}

/// The call for a whole chunk of one replica.
fn get(chunk: &StoredChunk, replica: u8) -> Call {
    Call::GetChunk(GetCall {
        id: chunk.id,
        length: chunk.chunk_length,
        root: chunk.root,
        range: 0..chunk.chunk_length,
        replica: Some(replica),
    })
}

/// Reads a file's chunks from all replicas: an iterator over what is wrong. An error is about one chunk that could not be checked, or stays
/// ([`Error::Replaced`]).
#[derive(Debug)]
pub struct Verifier {
    chunks: StoredChunks,
    /// A chunk, and the replica that is next to be asked for it.
    next: Option<(StoredChunk, u8)>,
    ahead: VecDeque<Check>,
    checked_chunks: u64,
    checked_bytes: u64,
    failure: Option<Error>,
    /// Holds the version; closed with this.
    read: CallFuture,
}

#[derive(Debug)]
struct Check {
    chunk: StoredChunk,
    call: CallFuture,
    _share: Share,
}

impl Verifier {
    pub(crate) fn new(volume: Volume, entry: Entry) -> Self {
        let chunks = StoredChunks::new(volume, entry);
        let read = chunks.version.open_read();
        Self {
            chunks,
            next: None,
            ahead: VecDeque::new(),
            checked_chunks: 0,
            checked_bytes: 0,
            failure: None,
            read,
        }
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
        if let Some(failure) = &self.failure {
            return Err(failure.clone());
        }
        self.read.send_again();
        loop {
            if let Err(error) = self.read_ahead().await {
                return self.fail(error);
            }
            // It stays in the queue until its result is there: a caller that drops this future loses nothing.
            let Some(first) = self.ahead.front_mut() else { return Ok(None) };
            let result = (&mut first.call).await;
            let chunk = self.ahead.pop_front().expect("just seen").chunk;
            match result {
                Ok(_) => {
                    self.checked_chunks += 1;
                    self.checked_bytes += u64::from(chunk.chunk_length);
                }
                Err(Failure::Corrupt { address }) => {
                    let replica = address.to_string();
                    return Ok(Some(DamagedChunk { chunk, damage: Damage::Corrupt, replica }));
                }
                Err(Failure::Missing { address }) => {
                    // R25.
                    match self.chunks.version.confirm(chunk.offset).await {
                        Ok(false) => {
                            let replica = address.to_string();
                            return Ok(Some(DamagedChunk { chunk, damage: Damage::Missing, replica }));
                        }
                        Ok(true) => {
                            self.ahead.clear();
                            self.next = None;
                            self.chunks.walk.seek(chunk.offset);
                        }
                        Err(error) => return self.fail(error),
                    }
                }
                Err(failure) => {
                    let version = &self.chunks.version;
                    return Err(version.volume.handle().error(failure, &version.what));
                }
            }
        }
    }

    fn fail<T>(&mut self, error: Error) -> Result<T, Error> {
        self.ahead.clear();
        self.failure = Some(error.clone());
        Err(error)
    }

    async fn read_ahead(&mut self) -> Result<(), Error> {
        while self.ahead.len() < AHEAD_MAX {
            let (chunk, replica) = match self.next.take() {
                Some(next) => next,
                None => match self.chunks.next_chunk().await? {
                    Some(chunk) => (chunk, 0),
                    None => return Ok(()),
                },
            };
            let handle = self.chunks.version.volume.handle();
            let bytes = chunk.chunk_length as usize;
            let share = match handle.budget().try_take(bytes) {
                Some(share) => share,
                None if self.ahead.is_empty() => handle.budget().take(bytes),
                None => {
                    self.next = Some((chunk, replica));
                    return Ok(());
                }
            };
            let call = handle.call(get(&chunk, replica));
            self.ahead.push_back(Check { chunk, call, _share: share });
            let map = self.chunks.cluster_map().await?;
            if map.route(chunk.id).readers().count() > usize::from(replica) + 1 {
                self.next = Some((chunk, replica + 1));
            }
        }
        Ok(())
    }
}

impl Iterator for Verifier {
    type Item = Result<DamagedChunk, Error>;

    /// [`next_damage`](Verifier::next_damage), waiting on this thread.
    fn next(&mut self) -> Option<Self::Item> {
        crate::pending::block_on(self.next_damage()).transpose()
    }
}

/// Chunks that are asked for and not yet checked, whatever their size.
const AHEAD_MAX: usize = 1024;
