//! The state of a group's volumes, and what can be asked of it without touching it.

use wire::{ChunkId, CommitIndex, SessionId, Timestamp, VolumeId};

use crate::apply::Moment;
use crate::codec::structure;
use crate::references::References;
use crate::tree::Tree;
use crate::uploads::Uploads;
use crate::volume::Volume;

/// All volumes of a group at one commit index. `clone` freezes it in O(1) (R15).
#[derive(Clone, Debug)]
pub struct Namespace {
    pub(crate) moment: Moment,
    pub(crate) next_volume: VolumeId,
    pub(crate) volumes: Tree<VolumeId, Volume>,
    pub(crate) names: Tree<String, VolumeId>,
    pub(crate) references: References,
    pub(crate) uploads: Uploads,
    /// Reclaimed chunks whose deletion isn't acknowledged (R24), by first id.
    pub(crate) deleting: Tree<ChunkId, Deleting>,
    pub(crate) deleting_chunks: u64,
    /// Memory of the volumes.
    pub(crate) volume_memory: u64,
}

/// Reclaimed chunks whose deletion isn't acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deleting {
    /// How many.
    pub count: u32,
    /// The entry that reclaimed them; the stores are told after its commit (R24).
    pub since: CommitIndex,
}
structure!(Deleting { count, since });

/// What a group knows about a chunk id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChunkState {
    /// A version references it.
    Referenced,
    /// Nothing references it any more; readers of old versions may still need it (R25).
    Doomed,
    /// Its deletion is on its way.
    Deleting,
    /// Not in any table: never committed, or dead.
    Unknown,
}

/// Equal when every table is. How the tables lie in memory may differ: they were filled in another order.
impl PartialEq for Namespace {
    fn eq(&self, other: &Self) -> bool {
        self.moment == other.moment
            && self.next_volume == other.next_volume
            && self.volumes == other.volumes
            && self.names == other.names
            && self.references == other.references
            && self.uploads == other.uploads
            && self.deleting == other.deleting
            && self.deleting_chunks == other.deleting_chunks
    }
}

impl Eq for Namespace {}

impl Default for Namespace {
    fn default() -> Self {
        Self {
            moment: Moment::default(),
            next_volume: VolumeId(1),
            volumes: Tree::default(),
            names: Tree::default(),
            references: References::default(),
            uploads: Uploads::default(),
            deleting: Tree::default(),
            deleting_chunks: 0,
            volume_memory: 0,
        }
    }
}

impl Namespace {
    /// The last entry applied.
    pub fn moment(&self) -> Moment {
        self.moment
    }

    /// Bytes of memory in use, within a few per cent (R17).
    pub fn memory_bytes(&self) -> u64 {
        let tables = self.volumes.memory_bytes()
            + self.names.memory_bytes()
            + self.references.spans.memory_bytes()
            + self.deleting.memory_bytes();
        u64::try_from(tables).expect("64 bits") + self.volume_memory + self.uploads.memory_bytes()
    }

    /// Inodes of all volumes.
    pub fn inode_count(&self) -> u64 {
        let count: usize = self.volumes.iter().map(|(_, volume)| volume.inodes.len()).sum();
        u64::try_from(count).expect("64 bits")
    }

    /// What is known about `chunk`.
    pub fn chunk_state(&self, chunk: ChunkId) -> ChunkState {
        if let Some((_, span)) = self.references.find(chunk) {
            return if span.references > 0 { ChunkState::Referenced } else { ChunkState::Doomed };
        }
        let deleting = self.deleting.floor(&chunk).is_some_and(|(first, row)| {
            first.session == chunk.session && chunk.ordinal - first.ordinal < u64::from(row.count)
        });
        if deleting { ChunkState::Deleting } else { ChunkState::Unknown }
    }

    /// Chunks whose deletion isn't acknowledged.
    pub fn deleting_chunks(&self) -> u64 {
        self.deleting_chunks
    }

    /// Ranges of chunks whose deletion isn't acknowledged, after `after`.
    pub fn deleting_after(&self, after: Option<ChunkId>) -> impl Iterator<Item = (ChunkId, Deleting)> + '_ {
        let start = after.as_ref().map_or(std::ops::Bound::Unbounded, std::ops::Bound::Excluded);
        self.deleting.range(start).map(|(first, row)| (*first, *row))
    }

    /// Whether the session used this id in a commit or a stage (R23).
    pub fn is_used(&self, chunk: ChunkId) -> bool {
        let before = self.uploads.used.floor(&(chunk.session, chunk.ordinal));
        before.is_some_and(|(key, end)| key.0 == chunk.session && *end > chunk.ordinal)
    }

    /// Whether the session staged or committed anything that is still remembered.
    pub fn remembers(&self, session: SessionId) -> bool {
        let start = (session, 0);
        let next = self.uploads.used.range(std::ops::Bound::Included(&start)).next();
        next.is_some_and(|(key, _)| key.0 == session)
    }

    /// The volume, unless it doesn't exist or was removed.
    pub(crate) fn volume(&self, id: VolumeId) -> Option<&Volume> {
        self.volumes.get(&id).filter(|volume| !volume.summary.removed)
    }

    /// Index of the last entry applied.
    pub fn index(&self) -> CommitIndex {
        self.moment.index
    }
}

/// `nanoseconds` after `time`.
pub(crate) fn later(time: Timestamp, nanoseconds: u64) -> Timestamp {
    Timestamp(time.0.saturating_add_unsigned(nanoseconds))
}
