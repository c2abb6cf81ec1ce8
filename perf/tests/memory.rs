//! Memory of a one-chunk file in metadata, at the allocator: alone in its process, so that nothing else is counted.

use perf::counts::memory;
use runtime::CountingAllocator;

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

#[test]
fn a_file_in_metadata_keeps_its_limit() {
    let figure = memory::metadata();
    println!(
        "{}: {:?} {} (at most {}); {}",
        figure.name, figure.value, figure.unit, figure.limit, figure.note
    );
    assert!(figure.note.starts_with("at the allocator"), "{}", figure.note);
    assert!(figure.is_met(), "{figure:?}");
}
