//! The formats, pinned: a change of one of these values is a change of what lies on disk, and needs a new `FORMAT_VERSION`.

use wire::{ChunkId, ClusterId, Incarnation, NodeId, SessionId, StoreId};
use xxhash_rust::xxh3::xxh3_64;

use crate::batch::BatchHeader;
use crate::checkpoint::{PageHeader, PageKind};
use crate::entry::{ENTRY_BYTES, Entry, EntryKind, entries};
use crate::fake_disk::Random;
use crate::layout::{BlockIndex, Geometry, Place, SegmentIndex};
use crate::superblock::{
    CheckpointRef, Identity, Joint, Kind, Resume, SUPERBLOCK_BYTES, Superblock, SuperblockError,
};

fn superblock() -> Superblock {
    let resume = Resume {
        sequence: 1000,
        incarnation: Incarnation(7),
        place: Place { segment: SegmentIndex(3), block: BlockIndex(99) },
        checksum: 0xabcd,
        next: Some(SegmentIndex(4)),
        reach: 0,
    };
    let checkpoint = |number: u64, segments: Vec<SegmentIndex>| CheckpointRef {
        number,
        resume,
        durable_upto: 1001,
        mark: 77,
        pages: 3,
        segments,
    };
    Superblock {
        kind: Kind::Chunks,
        clean: true,
        geometry: Geometry::new(64 << 20).unwrap(),
        sequence: 12,
        parent: 5,
        identity: Identity { cluster: ClusterId([1; 16]), store: StoreId([2; 16]), node: NodeId(3), unit: 4 },
        incarnation: Incarnation(8),
        secret: 0x5ec_4e7,
        index_key: 0x1d_e8,
        promised_root: [9; 32],
        checkpoints: vec![
            checkpoint(6, vec![SegmentIndex(10), SegmentIndex(11)]),
            checkpoint(5, vec![SegmentIndex(12)]),
        ],
        joints: vec![Joint { incarnation: Incarnation(8), after: 1005, segment: SegmentIndex(20) }],
        lives: vec![Incarnation(6), Incarnation(7)],
        recovered_cut: true,
        lacks: true,
    }
}

/// A copy as releases with version 1 wrote it: all behind the joints is zero.
pub(crate) fn version_1(superblock: &Superblock, copy: usize) -> Vec<u8> {
    let without = Superblock { lives: Vec::new(), recovered_cut: false, lacks: false, ..superblock.clone() };
    let mut bytes = vec![0; SUPERBLOCK_BYTES];
    without.encode(copy, &mut bytes);
    bytes[16..18].copy_from_slice(&1_u16.to_le_bytes());
    let checksum = xxhash_rust::xxh3::xxh3_64_with_seed(&bytes[16..], copy as u64);
    bytes[8..16].copy_from_slice(&checksum.to_le_bytes());
    bytes
}

#[test]
fn superblocks_of_version_1_are_read() {
    let bytes = version_1(&superblock(), 0);
    assert_eq!(format!("{:016x}", xxh3_64(&bytes)), GOLDEN_SUPERBLOCK_1);
    let without = Superblock { lives: Vec::new(), recovered_cut: false, lacks: false, ..superblock() };
    assert_eq!(Superblock::decode(0, &bytes), Ok(without));
}

/// The largest one fits, and one more life is none.
#[test]
fn superblocks_hold_all_that_may_be_in_them() {
    let mut largest = superblock();
    for checkpoint in &mut largest.checkpoints {
        checkpoint.segments = vec![SegmentIndex(1); crate::CHECKPOINT_SEGMENTS_MAX];
    }
    largest.joints = vec![largest.joints[0]; crate::JOINTS_MAX];
    largest.lives = (1..=wire::limits::STORE_LIVES_MAX as u64).map(Incarnation).collect();
    let mut bytes = vec![0; SUPERBLOCK_BYTES];
    largest.encode(2, &mut bytes);
    assert_eq!(Superblock::decode(2, &bytes), Ok(largest));
    // Marks, then the number of lives: unknown ones, and too many, are damage.
    let at = 144 + 2 * 72 + 4 * 3 + 24;
    for (at, change) in [(at, 4), (at + 2, 65), (at + 3, 1)] {
        superblock().encode(0, &mut bytes);
        bytes[at] = change;
        let checksum = xxhash_rust::xxh3::xxh3_64_with_seed(&bytes[16..], 0);
        bytes[8..16].copy_from_slice(&checksum.to_le_bytes());
        assert_eq!(Superblock::decode(0, &bytes), Err(SuperblockError::Damaged), "{at}");
    }
}

#[test]
fn superblocks_are_what_they_were() {
    let mut bytes = vec![0; SUPERBLOCK_BYTES];
    for copy in 0..4 {
        superblock().encode(copy, &mut bytes);
        assert_eq!(Superblock::decode(copy, &bytes), Ok(superblock()));
        // A copy in another's place is none.
        assert_eq!(Superblock::decode((copy + 1) % 4, &bytes), Err(SuperblockError::Damaged));
    }
    superblock().encode(0, &mut bytes);
    assert_eq!(format!("{:016x}", xxh3_64(&bytes)), GOLDEN_SUPERBLOCK);
}

#[test]
fn descriptors_are_what_they_were() {
    let header = BatchHeader {
        kind: Kind::Chunks,
        descriptor_bytes: 4096,
        blocks: 4,
        entries: 3,
        store: StoreId([2; 16]),
        incarnation: Incarnation(8),
        sequence: 1006,
        durable_upto: 1005,
        previous: 0xabcd,
        offset: 1 << 20,
        next: Some(SegmentIndex(4)),
        body_bytes: 3 * 48 + 16,
        first_index: 0,
        reach: 64,
    };
    let id = |ordinal| ChunkId { session: SessionId(1 << 42), ordinal };
    let listed = [
        Entry { id: id(1), kind: EntryKind::Put, root: 11, length: 5000, payload_block: 1, leaf_word: 34 },
        Entry {
            id: id(2),
            kind: EntryKind::Move(Place { segment: SegmentIndex(9), block: BlockIndex(8) }),
            root: 12,
            length: 4096,
            payload_block: 3,
            leaf_word: 0,
        },
        Entry { id: id(3), kind: EntryKind::Tombstone, root: 0, length: 0, payload_block: 0, leaf_word: 0 },
    ];
    let mut bytes = vec![0; 4096];
    for (at, entry) in listed.iter().enumerate() {
        entry.encode(&mut bytes[128 + at * ENTRY_BYTES..]);
    }
    header.encode(0x5ec_4e7, &mut bytes);
    assert_eq!(entries(&header, &bytes).collect::<Vec<_>>(), listed);
    assert_eq!(format!("{:016x}", xxh3_64(&bytes)), GOLDEN_DESCRIPTOR);
}

#[test]
fn pages_are_what_they_were() {
    let header = PageHeader {
        kind: PageKind::Owner,
        last: true,
        length: 104,
        checkpoint: 6,
        page: 2,
        entries: 1,
        store: StoreId([2; 16]),
        offset: 1 << 21,
    };
    let mut bytes = vec![7; 104];
    header.encode(0x5ec_4e7, &mut bytes);
    assert_eq!(PageHeader::decode(0x5ec_4e7, &bytes), Some(header));
    assert_eq!(format!("{:016x}", xxh3_64(&bytes)), GOLDEN_PAGE);
}

/// Decoders are total: whatever the bytes, an answer, and only the right one.
#[test]
fn no_bytes_panic() {
    let mut random = Random::new(5);
    let mut good = vec![0; SUPERBLOCK_BYTES];
    superblock().encode(1, &mut good);
    for _ in 0..3000 {
        let mut bytes = good.clone();
        for _ in 0..=random.below(4) {
            let at = usize::try_from(random.below(600)).unwrap();
            bytes[at] = random.bits().to_le_bytes()[0];
        }
        // With a checksum that fits, so that the fields behind it are reached.
        if random.chance(80) {
            let checksum = xxhash_rust::xxh3::xxh3_64_with_seed(&bytes[16..], 1);
            bytes[8..16].copy_from_slice(&checksum.to_le_bytes());
        }
        drop(Superblock::decode(1, &bytes));
        bytes.truncate(4096);
        BatchHeader::peek(Kind::Chunks, &bytes);
        BatchHeader::decode(Kind::Records, 1, &bytes);
        PageHeader::peek(&bytes);
        PageHeader::decode(1, &bytes);
        let header = BatchHeader {
            kind: Kind::Chunks,
            descriptor_bytes: 4096,
            blocks: 3,
            entries: u32::MAX,
            store: StoreId([0; 16]),
            incarnation: Incarnation(0),
            sequence: 1,
            durable_upto: 0,
            previous: 0,
            offset: 0,
            next: None,
            body_bytes: 0,
            first_index: 0,
            reach: 0,
        };
        for entry in entries(&header, &bytes) {
            assert!(entry.payload_block <= 3);
        }
        crate::log::split_records(&bytes, u32::MAX).for_each(drop);
    }
}

const GOLDEN_SUPERBLOCK: &str = "817c801bac714182";
const GOLDEN_SUPERBLOCK_1: &str = "00ba90a621637a0b";
const GOLDEN_DESCRIPTOR: &str = "d8905f97464ecaa7";
const GOLDEN_PAGE: &str = "a3d11f79aa2cc85f";
