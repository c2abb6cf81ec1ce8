//! The superblock: who the store is, its present life, where its checkpoints and its log are. Four copies; two are written and flushed
//! before the other two, so that a crash at any point leaves a whole pair.
//!
//! ```text
//! offset size
//!    0     8  magic "CATENASB"
//!    8     8  checksum: xxh3-64 of bytes 16..8192, seed = copy number: a copy at another's place is invalid
//!   16     2  format version: 2; of version 1 all behind the joints is zero
//!   18     1  kind: 1 chunks, 2 records
//!   19     1  clean: 1 = the log ends at the newest checkpoint (graceful stop)
//!   20     4  segment bytes
//!   24     8  sequence, +1 per write
//!   32     8  parent: the predecessor's checksum as copy 0
//!   40    16  cluster
//!   56    16  store
//!   72     4  node
//!   76     2  unit: shard, or metadata group
//!   78     2  checkpoints, 0 to 2
//!   80     8  incarnation: the present life, 16 random bits at its low end (R34)
//!   88     8  secret: seed of every batch's and page's checksum (R30)
//!   96     8  index key
//!  104    32  promised epochs' root (zero until chains have more than one member)
//!  136     8  joints, 0 to 32
//!  144     …  checkpoints, newest first: 72 bytes + 4 per segment
//!   …      …  joints: incarnation u64, after sequence u64, segment u32, zero u32
//!   …      2  marks: 1 recovery cut a tail, 2 batches are damaged or lost
//!   …      2  lives, 0 to 64
//!   …      4  zero
//!   …      …  lives: the incarnations before the present one that are remembered, oldest first, u64 each
//!   …         zeros
//! ```

use thiserror::Error;
use wire::limits::STORE_LIVES_MAX;
use wire::{ClusterId, Incarnation, NodeId, StoreId};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::codec::{Reader, Writer};
use crate::layout::{BlockIndex, Geometry, Place, SUPERBLOCK_STRIDE, SegmentIndex};

/// Version of the superblock; a newer one is refused by name, version 1 is read and replaced by the first write. Batches and pages have their own.
pub const SUPERBLOCK_VERSION: u16 = 2;
/// Bytes of one copy.
pub const SUPERBLOCK_BYTES: usize = 8192;
pub(crate) const COPY_BYTES: u32 = 8192;
const _: () = assert!(COPY_BYTES as usize == SUPERBLOCK_BYTES);
/// Copies.
pub const SUPERBLOCK_COPIES: usize = 4;
/// Segments that one checkpoint may take: at 64 MiB and 40 bytes an entry 850 million chunks.
pub const CHECKPOINT_SEGMENTS_MAX: usize = 768;
/// Restarts that may lie between the older checkpoint and the log's end; at half of that its owner is asked for checkpoints.
pub const JOINTS_MAX: usize = 32;

const MAGIC: u64 = u64::from_le_bytes(*b"CATENASB");
const OFFSET_CHECKED: usize = 16;
const FIXED_BYTES: usize = 144;
const CHECKPOINT_FIXED_BYTES: usize = 72;
const JOINT_BYTES: usize = 24;
const LIVES_HEAD_BYTES: usize = 8;
const LIFE_BYTES: usize = 8;
const MARK_CUT: u16 = 1;
const MARK_LACKS: u16 = 2;
const _: () = assert!(
    FIXED_BYTES
        + 2 * (CHECKPOINT_FIXED_BYTES + 4 * CHECKPOINT_SEGMENTS_MAX)
        + JOINTS_MAX * JOINT_BYTES
        + LIVES_HEAD_BYTES
        + STORE_LIVES_MAX * LIFE_BYTES
        <= SUPERBLOCK_BYTES
);
const _: () = assert!(SUPERBLOCK_BYTES as u64 <= SUPERBLOCK_STRIDE);

/// What the log's batches hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// A chunk store.
    Chunks,
    /// A metadata group's log.
    Records,
}

impl Kind {
    pub(crate) fn code(self) -> u8 {
        match self {
            Self::Chunks => 1,
            Self::Records => 2,
        }
    }

    pub(crate) fn from_code(code: u8) -> Option<Self> {
        match code {
            1 => Some(Self::Chunks),
            2 => Some(Self::Records),
            _ => None,
        }
    }
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Chunks => "chunk store",
            Self::Records => "metadata log",
        })
    }
}

/// Who a store is (R34). The address, node and unit, is where one expects to find it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Identity {
    /// The cluster; seeds every chunk's checksums.
    pub cluster: ClusterId,
    /// The store itself.
    pub store: StoreId,
    /// The node that formatted it.
    pub node: NodeId,
    /// The shard in that node, or the metadata group.
    pub unit: u16,
}

/// Where the log goes on after a batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Resume {
    /// The batch; 0 before the first.
    pub sequence: u64,
    /// Its incarnation.
    pub incarnation: Incarnation,
    /// The block behind it.
    pub place: Place,
    /// Its checksum, which its successor repeats.
    pub checksum: u64,
    /// The segment it named as the next.
    pub next: Option<SegmentIndex>,
    /// Its reach.
    pub reach: u32,
}

/// A durable checkpoint.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct CheckpointRef {
    /// +1 per checkpoint.
    pub number: u64,
    /// Replay begins behind this batch.
    pub resume: Resume,
    /// The highest batch known durable when the checkpoint was committed (R29).
    pub durable_upto: u64,
    /// The owner's own number for it: a metadata log's commit index.
    pub mark: u64,
    /// Pages.
    pub pages: u32,
    /// The segments that hold them, in order.
    pub segments: Vec<SegmentIndex>,
}

/// A restart: after batch `after` the log goes on at the beginning of `segment`, in this incarnation; whatever follows `after` in
/// its own segment was cut (R30).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Joint {
    /// The new life.
    pub incarnation: Incarnation,
    /// The last batch of the lives before.
    pub after: u64,
    /// The fresh segment.
    pub segment: SegmentIndex,
}

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Superblock {
    /// What the log holds.
    pub kind: Kind,
    /// The log ends at the newest checkpoint.
    pub clean: bool,
    /// Size of segments, fixed when formatted.
    pub geometry: Geometry,
    /// +1 per write.
    pub sequence: u64,
    /// Checksum of the predecessor.
    pub parent: u64,
    /// Who the store is.
    pub identity: Identity,
    /// The present life (I4).
    pub incarnation: Incarnation,
    /// Seed of checksums (R30).
    pub secret: u64,
    /// Key of the index's hash.
    pub index_key: u64,
    /// Reserved for chains (I4).
    pub promised_root: [u8; 32],
    /// Newest first, at most two.
    pub checkpoints: Vec<CheckpointRef>,
    /// Oldest first.
    pub joints: Vec<Joint>,
    /// Lives before the present one, oldest first; see [`Device::lives`](crate::Device::lives).
    pub lives: Vec<Incarnation>,
    /// Recovery cut a tail that may have been acked (R7).
    pub recovered_cut: bool,
    /// Batches that were durable are damaged or lost (R29).
    pub lacks: bool,
}

/// Why one copy isn't a superblock of ours.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum SuperblockError {
    /// All zero, or not there.
    #[error("no superblock")]
    Absent,
    /// Something else's bytes.
    #[error("not a Catena superblock")]
    Foreign,
    /// Ours, and damaged: another copy is used, and start rewrites all.
    #[error("superblock damaged")]
    Damaged,
    /// Ours, whole, of a later release: use that release.
    #[error("format version {0} is newer than {SUPERBLOCK_VERSION}, the newest this release reads")]
    Newer(u16),
}

/// Where copy number `copy` lies.
pub fn copy_offset(copy: usize) -> u64 {
    copy as u64 * SUPERBLOCK_STRIDE
}

impl Superblock {
    /// Writes copy number `copy`; returns the checksum that a successor names as its parent.
    pub fn encode(&self, copy: usize, bytes: &mut [u8]) -> u64 {
        assert!(copy < SUPERBLOCK_COPIES && bytes.len() == SUPERBLOCK_BYTES);
        assert!(self.checkpoints.len() <= 2 && self.joints.len() <= JOINTS_MAX);
        assert!(self.lives.len() <= STORE_LIVES_MAX);
        bytes.fill(0);
        let mut to = Writer::new(&mut bytes[OFFSET_CHECKED..]);
        to.u16(SUPERBLOCK_VERSION);
        to.u8(self.kind.code());
        to.u8(u8::from(self.clean));
        to.u32(self.geometry.segment_bytes());
        to.u64(self.sequence);
        to.u64(self.parent);
        to.bytes(&self.identity.cluster.0);
        to.bytes(&self.identity.store.0);
        to.u32(self.identity.node.0);
        to.u16(self.identity.unit);
        to.u16(u16::try_from(self.checkpoints.len()).expect("at most two"));
        to.u64(self.incarnation.0);
        to.u64(self.secret);
        to.u64(self.index_key);
        to.bytes(&self.promised_root);
        to.u64(self.joints.len() as u64);
        debug_assert_eq!(to.at(), FIXED_BYTES - OFFSET_CHECKED);
        for checkpoint in &self.checkpoints {
            encode_checkpoint(checkpoint, &mut to);
        }
        for joint in &self.joints {
            to.u64(joint.incarnation.0);
            to.u64(joint.after);
            to.u32(joint.segment.0);
            to.u32(0);
        }
        self.encode_lives(&mut to);
        let parent = checksum(bytes, 0);
        let own = checksum(bytes, copy);
        let mut head = Writer::new(bytes);
        head.u64(MAGIC);
        head.u64(own);
        parent
    }

    fn encode_lives(&self, to: &mut Writer<'_>) {
        let cut = if self.recovered_cut { MARK_CUT } else { 0 };
        let lacks = if self.lacks { MARK_LACKS } else { 0 };
        to.u16(cut | lacks);
        to.u16(u16::try_from(self.lives.len()).expect("limited"));
        to.u32(0);
        for life in &self.lives {
            to.u64(life.0);
        }
    }

    /// Reads copy number `copy`. Total on any bytes.
    pub fn decode(copy: usize, bytes: &[u8]) -> Result<Self, SuperblockError> {
        let damaged = SuperblockError::Damaged;
        if bytes.len() != SUPERBLOCK_BYTES || bytes.iter().all(|byte| *byte == 0) {
            return Err(SuperblockError::Absent);
        }
        let mut from = Reader::new(bytes);
        if from.u64() != Some(MAGIC) {
            return Err(SuperblockError::Foreign);
        }
        if from.u64() != Some(checksum(bytes, copy)) {
            return Err(damaged);
        }
        let version = from.u16().ok_or(damaged)?;
        if version > SUPERBLOCK_VERSION {
            return Err(SuperblockError::Newer(version));
        }
        Self::decode_fields(version, &mut from).ok_or(damaged)
    }

    fn decode_fields(version: u16, from: &mut Reader<'_>) -> Option<Self> {
        let kind = Kind::from_code(from.u8()?)?;
        let clean = from.u8()? == 1;
        let geometry = Geometry::new(from.u32()?)?;
        let (sequence, parent) = (from.u64()?, from.u64()?);
        let identity = Identity {
            cluster: ClusterId(from.array()?),
            store: StoreId(from.array()?),
            node: NodeId(from.u32()?),
            unit: from.u16()?,
        };
        let checkpoint_count = from.u16()?;
        let incarnation = Incarnation(from.u64()?);
        let (secret, index_key) = (from.u64()?, from.u64()?);
        let promised_root = from.array()?;
        let joint_count = usize::try_from(from.u64()?).ok()?;
        if checkpoint_count > 2 || joint_count > JOINTS_MAX {
            return None;
        }
        let checkpoints = (0..checkpoint_count).map(|_| decode_checkpoint(from)).collect::<Option<_>>()?;
        let joints = (0..joint_count).map(|_| decode_joint(from)).collect::<Option<_>>()?;
        let (marks, lives) = if version == 1 { (0, Vec::new()) } else { decode_lives(from)? };
        Some(Self {
            kind,
            clean,
            geometry,
            sequence,
            parent,
            identity,
            incarnation,
            secret,
            index_key,
            promised_root,
            checkpoints,
            joints,
            lives,
            recovered_cut: marks & MARK_CUT != 0,
            lacks: marks & MARK_LACKS != 0,
        })
    }

    /// The sequence from which on the log must stay: the older checkpoint's, 0 while there are not two (R32).
    pub fn older_checkpoint_sequence(&self) -> u64 {
        self.checkpoints.get(1).map_or(0, |checkpoint| checkpoint.resume.sequence)
    }

    /// The valid copy with the highest sequence. One is enough: a copy that is whole was meant to be written, and what it names was
    /// durable before.
    pub fn choose(copies: &[Result<Self, SuperblockError>]) -> Result<&Self, SuperblockError> {
        // A newer release's copy outranks all: what it wrote may mean something else.
        if let Some(Err(newer)) = copies.iter().find(|copy| matches!(copy, Err(SuperblockError::Newer(_)))) {
            return Err(*newer);
        }
        if let Some(best) = copies.iter().flatten().max_by_key(|copy| copy.sequence) {
            return Ok(best);
        }
        for wanted in [SuperblockError::Damaged, SuperblockError::Foreign] {
            if copies.iter().any(|copy| matches!(copy, Err(error) if *error == wanted)) {
                return Err(wanted);
            }
        }
        Err(SuperblockError::Absent)
    }
}

fn checksum(bytes: &[u8], copy: usize) -> u64 {
    xxh3_64_with_seed(&bytes[OFFSET_CHECKED..], copy as u64)
}

/// ```text
///  0  8 number    8  8 sequence   16  8 incarnation  24  4 segment  28  4 block  32  8 checksum
/// 40  4 next segment   44  4 pages   48  8 durable_upto   56  8 mark   64  4 segments   68  4 reach   72 … segments
/// ```
fn encode_checkpoint(checkpoint: &CheckpointRef, to: &mut Writer<'_>) {
    assert!(checkpoint.segments.len() <= CHECKPOINT_SEGMENTS_MAX);
    to.u64(checkpoint.number);
    to.u64(checkpoint.resume.sequence);
    to.u64(checkpoint.resume.incarnation.0);
    to.u32(checkpoint.resume.place.segment.0);
    to.u32(checkpoint.resume.place.block.0);
    to.u64(checkpoint.resume.checksum);
    to.u32(SegmentIndex::to_disk(checkpoint.resume.next));
    to.u32(checkpoint.pages);
    to.u64(checkpoint.durable_upto);
    to.u64(checkpoint.mark);
    to.u32(u32::try_from(checkpoint.segments.len()).expect("limited"));
    to.u32(checkpoint.resume.reach);
    for segment in &checkpoint.segments {
        to.u32(segment.0);
    }
}

fn decode_checkpoint(from: &mut Reader<'_>) -> Option<CheckpointRef> {
    let number = from.u64()?;
    let (sequence, incarnation) = (from.u64()?, Incarnation(from.u64()?));
    let place = Place { segment: SegmentIndex(from.u32()?), block: BlockIndex(from.u32()?) };
    let (checksum, next) = (from.u64()?, SegmentIndex::from_disk(from.u32()?));
    let pages = from.u32()?;
    let (durable_upto, mark) = (from.u64()?, from.u64()?);
    let count = usize::try_from(from.u32()?).ok()?;
    let reach = from.u32()?;
    if count > CHECKPOINT_SEGMENTS_MAX {
        return None;
    }
    let segments = (0..count).map(|_| from.u32().map(SegmentIndex)).collect::<Option<_>>()?;
    let resume = Resume { sequence, incarnation, place, checksum, next, reach };
    Some(CheckpointRef { number, resume, durable_upto, mark, pages, segments })
}

fn decode_joint(from: &mut Reader<'_>) -> Option<Joint> {
    let joint = Joint {
        incarnation: Incarnation(from.u64()?),
        after: from.u64()?,
        segment: SegmentIndex(from.u32()?),
    };
    from.u32()?;
    Some(joint)
}

/// The marks and the lives.
fn decode_lives(from: &mut Reader<'_>) -> Option<(u16, Vec<Incarnation>)> {
    let (marks, count) = (from.u16()?, usize::from(from.u16()?));
    from.u32()?;
    if count > STORE_LIVES_MAX || marks & !(MARK_CUT | MARK_LACKS) != 0 {
        return None;
    }
    let lives = (0..count).map(|_| from.u64().map(Incarnation)).collect::<Option<_>>()?;
    Some((marks, lives))
}
