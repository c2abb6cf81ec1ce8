//! The figure "memory per one-chunk file with a 16-byte name" (≤ 300 bytes), measured at the allocator: every byte that the state holds on
//! the heap, rounded up as a size-class allocator does, divided by the files. Worst of several counts between 10⁵ and 4·10⁵.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use namespace::{Context, Losses, Moment, Namespace};
use wire::meta::{Change, Commit, Extents, Operation, Place, Precondition, Run, VolumePolicy};
use wire::{ChunkId, CommitIndex, InodeId, MapNumber, SessionId, Status, Timestamp, VolumeId};

struct Counting;

static HELD: AtomicUsize = AtomicUsize::new(0);

/// What glibc's malloc takes for a request: 8 bytes of header, rounded up to 16, at least 32.
fn taken(layout: Layout) -> usize {
    (layout.size() + 8).next_multiple_of(16).max(32)
}

#[expect(unsafe_code, reason = "a test's allocator: it counts and hands on to the system's")]
// SAFETY: every call goes to `System` unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        HELD.fetch_add(taken(layout), Ordering::Relaxed);
        // SAFETY: the caller keeps `alloc`'s contract, which is handed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        HELD.fetch_sub(taken(layout), Ordering::Relaxed);
        // SAFETY: the caller keeps `dealloc`'s contract, which is handed on.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const FILES_PER_DIRECTORY: u64 = 1000;
const LIMIT_BYTES: usize = 300;

fn apply(namespace: &mut Namespace, operation: &Operation) {
    let index = CommitIndex(namespace.index().0 + 1);
    let moment = Moment { index, time: Timestamp(index.0.cast_signed()) };
    let losses = Losses::default();
    let context = Context { moment, session: SessionId(1), memory_full: false, losses: &losses };
    let executed = namespace.execute(operation, context);
    assert_eq!(executed.outcome.status, Status::Ok);
    namespace.apply(moment, executed.changes).expect("planned on this state");
}

fn place(path: String) -> Place {
    Place { volume: VolumeId(1), directory: InodeId::ROOT, path: path.into_bytes() }
}

/// Names in order, or spread over the directory like hashes.
fn create(namespace: &mut Namespace, file: u64, spread: bool) {
    let directory = file / FILES_PER_DIRECTORY;
    if file.is_multiple_of(FILES_PER_DIRECTORY) {
        let make = Operation::MakeDirectory {
            place: place(format!("directory-{directory:06}")),
            attributes: wire::meta::NewAttributes::default(),
            parents: false,
        };
        apply(namespace, &make);
    }
    let number = if spread { file.wrapping_mul(0x9e37_79b9_7f4a_7c15) } else { file };
    let run = Run {
        file_offset: 0,
        length: 4096,
        first: ChunkId { session: SessionId(1), ordinal: file },
        count: 1,
        chunk_bytes: 1 << 20,
        last_chunk_bytes: 4096,
        skip: 0,
    };
    let commit = Operation::Commit(Commit {
        place: place(format!("directory-{directory:06}/{number:016x}")),
        change: Change::Replace { size: 4096 },
        extents: Extents { runs: vec![run], roots: vec![number] },
        upload: 0,
        attributes: None,
        precondition: Precondition::Any,
        map: MapNumber(1),
    });
    apply(namespace, &commit);
}

#[test]
fn a_file_takes_at_most_300_bytes() {
    for spread in [false, true] {
        let before = HELD.load(Ordering::Relaxed);
        let mut namespace = Namespace::default();
        let policy = VolumePolicy { chunk_bytes: 1 << 20, retention_seconds: 0 };
        apply(&mut namespace, &Operation::CreateVolume { name: "volume".into(), policy });
        let mut worst = 0;
        for file in 0..400_000 {
            create(&mut namespace, file, spread);
            let files = usize::try_from(file).expect("64 bits") + 1;
            if files >= 100_000 && files % 50_000 == 0 {
                let held = HELD.load(Ordering::Relaxed) - before;
                let estimate = usize::try_from(namespace.memory_bytes()).expect("64 bits");
                worst = worst.max(held / files);
                println!(
                    "{files} files, names {}: {} bytes a file, estimate {}",
                    if spread { "spread" } else { "in order" },
                    held / files,
                    estimate / files
                );
                // R17 rests on the estimate.
                assert!(estimate.abs_diff(held) * 100 <= held * 12, "estimated {estimate}, held {held}");
            }
        }
        assert!(worst <= LIMIT_BYTES, "{worst} bytes a file");
    }
}
