//! Memory of the store's index and of the namespace.

use namespace::{Context, Losses, Moment, Namespace};
use runtime::CountingAllocator;
use store::{Index, IndexEntry};
use wire::meta::{Change, Commit, Extents, NewAttributes, Operation, Place, Precondition, Run, VolumePolicy};
use wire::{ChunkId, CommitIndex, InodeId, MapNumber, SessionId, Status, Timestamp, VolumeId};

use super::{Figure, per};

/// Between these numbers the worst case is looked for.
const FEWEST: u64 = 100_000;
const CHUNKS: u64 = 1_000_000;
const FILES: u64 = 1_000_000;
/// Between two looks. What a table takes grows in steps; no peak of it lasts for fewer.
const LOOK_EVERY: u64 = 500;
const FILES_PER_DIRECTORY: u64 = 1000;

/// Bytes a chunk in the index, unused capacity included: the worst between 10⁵ and 10⁶ chunks.
pub fn index() -> Figure {
    const LIMIT: f64 = 48.0;
    let mut index = Index::new(99);
    let mut worst = (0.0_f64, 0);
    for number in 0..CHUNKS {
        index.insert(&IndexEntry {
            id: ChunkId { session: SessionId(number >> 10), ordinal: number & 1023 },
            root: number,
            length: 4096,
            place: journal::Place::default(),
            leaf_word: 0,
        });
        if index.count() >= FEWEST && number.is_multiple_of(LOOK_EVERY) {
            let bytes = per(index.memory_bytes() as u64, index.count());
            if bytes > worst.0 {
                worst = (bytes, index.count());
            }
        }
    }
    Figure::new("index memory per chunk", worst.0, LIMIT, "B", format!("worst at {} chunks", worst.1))
}

/// Bytes of heap a one-chunk file with a 16-byte name in the namespace: the worst between 10⁵ and 10⁶ files. Measured at the allocator where
/// the program has [`CountingAllocator`], else by the namespace's own estimate, which its tests compare with the allocator.
pub fn metadata() -> Figure {
    const LIMIT: f64 = 300.0;
    let before = CountingAllocator::held_bytes();
    let counts = CountingAllocator::allocations() > 0;
    let mut namespace = Namespace::default();
    let policy = VolumePolicy { chunk_bytes: 1 << 20, retention_seconds: 0 };
    apply(&mut namespace, &Operation::CreateVolume { name: "volume".into(), policy });
    let mut worst = (0.0_f64, 0);
    for file in 0..FILES {
        create(&mut namespace, file);
        let files = file + 1;
        if files >= FEWEST && files.is_multiple_of(LOOK_EVERY) {
            let held = CountingAllocator::held_bytes() - before;
            let bytes = per(if counts { held } else { namespace.memory_bytes() }, files);
            if bytes > worst.0 {
                worst = (bytes, files);
            }
        }
    }
    let how = if counts { "at the allocator" } else { "by its own estimate" };
    Figure::new("metadata memory per file", worst.0, LIMIT, "B", format!("{how}, worst at {} files", worst.1))
}

fn apply(namespace: &mut Namespace, operation: &Operation) {
    let index = CommitIndex(namespace.index().0 + 1);
    let moment = Moment { index, time: Timestamp(index.0.cast_signed()) };
    let losses = Losses::default();
    let context = Context { moment, session: SessionId(1), memory_full: false, losses: &losses };
    let executed = namespace.execute(operation, context);
    assert_eq!(executed.outcome.status, Status::Ok, "a plain operation on a fresh namespace");
    namespace.apply(moment, executed.changes).expect("planned on this state");
}

fn place(path: String) -> Place {
    Place { volume: VolumeId(1), directory: InodeId::ROOT, path: path.into_bytes() }
}

/// A file whose name is a hash of its number, a thousand to a directory.
fn create(namespace: &mut Namespace, file: u64) {
    let directory = file / FILES_PER_DIRECTORY;
    if file.is_multiple_of(FILES_PER_DIRECTORY) {
        let place = place(format!("directory-{directory:06}"));
        let attributes = NewAttributes::default();
        apply(namespace, &Operation::MakeDirectory { place, attributes, parents: false });
    }
    let name = file.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let commit = one_chunk(format!("directory-{directory:06}/{name:016x}"), SessionId(1), file);
    apply(namespace, &Operation::Commit(commit));
}

/// The commit of a file of one chunk of 4 KiB.
pub(super) fn one_chunk(path: String, session: SessionId, ordinal: u64) -> Commit {
    let run = Run {
        file_offset: 0,
        length: 4096,
        first: ChunkId { session, ordinal },
        count: 1,
        chunk_bytes: 1 << 20,
        last_chunk_bytes: 4096,
        skip: 0,
    };
    Commit {
        place: place(path),
        change: Change::Replace { size: 4096 },
        extents: Extents { runs: vec![run], roots: vec![ordinal] },
        upload: 0,
        attributes: None,
        precondition: Precondition::Any,
        map: MapNumber(1),
    }
}
