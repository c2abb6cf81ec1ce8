//! Who asks for more than a connection may have under way, and reads nothing for a while, gets all of it in the end; others don't notice.

use std::collections::BTreeMap;
use std::time::Duration;

use client::{ReadRange, UploadOptions};
use harness::{Dev, Scratch, wait_for};
use node_tests::{World, fetch, peer, store, store_chunks};
use wire::Status;

/// The largest chunk there is, and three times as many of them as a connection may have between disk and peer.
const CHUNK_BYTES: u32 = 4 << 20;
const CHUNKS: u64 = 12;
/// What a connection may have there.
const UNDER_WAY_BYTES: u64 = 16 << 20;
/// What the shard may take to read so much.
const READ_WITHIN: Duration = Duration::from_mins(1);

/// The limit of what is queued on a connection was once below what its gets may be: a reader that paused would have been closed.
#[test]
fn a_reader_that_pauses_gets_everything_in_the_end() {
    let scratch = Scratch::new();
    let node = Dev::new(&scratch.join("node")).start();
    let (content, shard) = store_chunks(&node, CHUNK_BYTES, CHUNKS);
    let world = World::on(node, scratch);
    let mut reader = peer::ask_for_all(&shard, CHUNKS);

    // Others are served until all is read that may wait for the reader, and once more.
    let read = || world.node.sample("catena_shard_get_bytes_total{shard=\"0\"}");
    let before = read().expect("a sample");
    wait_for("the gets of a reader that pauses", READ_WITHIN, || {
        store(&world.volume, b"other", b"small", UploadOptions::default()).expect("stored");
        assert_eq!(fetch(&world.volume, b"other", ReadRange::Whole).expect("read"), b"small");
        read().is_some_and(|read| read >= before + UNDER_WAY_BYTES).then_some(())
    });

    let mut got: BTreeMap<u64, Vec<u8>> = BTreeMap::new();
    let mut ended = 0;
    while ended < CHUNKS {
        let (prefix, _, payload) = peer::receive_whole(&mut reader).expect("the connection isn't closed");
        assert_eq!(prefix.status, Status::Ok, "{prefix:?}");
        got.entry(prefix.correlation).or_default().extend(payload);
        ended += u64::from(!prefix.more);
    }
    // Ids of one upload are in the order of its bytes.
    for (number, chunk) in (0..).zip(content.chunks(CHUNK_BYTES as usize)) {
        assert!(got.get(&number).is_some_and(|bytes| bytes == chunk), "chunk {number}");
    }
}
