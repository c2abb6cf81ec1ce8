//! A disk that fails under a running node: the store is fenced, the failure is reported, what was acknowledged is still read, and
//! after the disk is mended and the node started again nothing is lost.

use std::time::Duration;

use fault::{Fault, FaultyDisk, Kind, crash};
use harness::{Content, Dev, Node, Scratch, skip, wait_for};

const KEPT: Content = Content { seed: 1, length: 3_000_000 };

/// Runs a test with a node on a faulty disk, where one file was stored and acknowledged.
fn on_node(test: impl FnOnce(&mut FaultyDisk, &mut Node)) {
    let scratch = Scratch::new();
    let mut disk = match crash::disk(env!("CARGO_BIN_EXE_faulty-disk"), &scratch) {
        Ok(disk) => disk,
        Err(reason) => return skip("fuse", &reason),
    };
    let mut node = Dev::new(&disk.path().join("node")).log(&scratch.join("node.log")).start();
    node.run(["volume", "create", "v"]).run().ok();
    node.run(["put", "-", "/v/kept"]).input(KEPT.bytes()).run().ok();
    test(&mut disk, &mut node);
    // Dropped in this order: the node before its disk.
    drop(node);
}

fn read_back(node: &Node) {
    let outcome = node.run(["cat", "/v/kept"]).run().ok();
    assert_eq!(KEPT.difference(&outcome.stdout), None);
}

/// Waits until the node says in metrics and readiness that a store takes no more writes.
fn is_fenced(node: &Node) {
    wait_for("the fence in the metrics", Duration::from_secs(30), || {
        node.sample("catena_shard_condition{shard=\"0\",condition=\"fenced\"}").filter(|&value| value == 1)
    });
    let (status, text) = node.admin("/readyz").expect("the admin endpoint answers");
    assert!(status == 503 && text.contains("fenced"), "{status} {text}");
}

fn a_failing_store_is_fenced(kind: Kind) {
    on_node(|disk, node| {
        disk.set(&Fault::always(kind).on(".store"));
        let outcome = node.run(["--timeout", "5", "put", "-", "/v/refused"]).input(vec![7; 100_000]).run();
        assert!([1, 6, 9].contains(&outcome.code()), "{outcome}");
        assert!(!outcome.messages().is_empty(), "a failure says why");
        is_fenced(node);
        // Healing the disk doesn't heal the store: nobody knows what it has.
        disk.heal();
        let outcome = node.run(["--timeout", "5", "put", "-", "/v/refused"]).input(vec![7; 100_000]).run();
        assert_ne!(outcome.code(), 0, "a fenced store takes nothing: {outcome}");
        read_back(node);
        node.kill();
        node.start();
        read_back(node);
        node.run(["put", "-", "/v/again"]).input(vec![8; 100_000]).run().ok();
        let gone = node.run(["cat", "/v/refused"]).run();
        assert_eq!(gone.code(), 3, "what wasn't acknowledged isn't there in part: {gone}");
    });
}

#[test]
fn an_error_of_a_write_fences_the_store() {
    a_failing_store_is_fenced(Kind::WriteError);
}

#[test]
fn an_error_of_a_flush_fences_the_store() {
    a_failing_store_is_fenced(Kind::FlushError);
}

/// Waits until the store has asked twice more for room that there isn't. One that is fenced asks no more.
fn two_refusals(disk: &mut FaultyDisk, node: &Node) {
    let refused = disk.statistics().struck;
    wait_for("two refusals", Duration::from_mins(1), || {
        let is_fenced = node.sample("catena_shard_condition{shard=\"0\",condition=\"fenced\"}") == Some(1);
        (is_fenced || disk.statistics().struck >= refused + 2).then_some(())
    });
}

/// R31: where the file system has no room for growth, the refusal once travelled as a flush of the store, and took the error of a failing one
/// with it: the batch's own flush succeeded, and what was lost was acknowledged.
#[test]
fn a_refused_growth_swallows_no_error_of_a_flush() {
    on_node(|disk, node| {
        disk.set(&Fault::always(Kind::NoRoom));
        // The store wants to grow once it has opened those of its segments that it has beyond need, two or three of 64 MiB; then it asks again
        // every few seconds.
        for number in 0..30 {
            if disk.statistics().struck > 0 {
                break;
            }
            let content = Content::new(number, 16 << 20);
            let outcome = node.run(["put", "-", &format!("/v/{number}")]).input(content.bytes()).run();
            assert!([0, 1].contains(&outcome.code()), "stored, or no space: {outcome}");
        }
        assert!(disk.statistics().struck > 0, "the store never wanted to grow");
        // Then all that was put is long flushed, and the next flush of the store would be a refusal's.
        two_refusals(disk, node);
        disk.set(&Fault::once(Kind::FlushError).on(".store"));
        two_refusals(disk, node);
        let outcome = node.run(["--timeout", "5", "put", "-", "/v/lost"]).input(vec![7; 100_000]).run();
        assert_ne!(outcome.code(), 0, "acknowledged after a flush that failed: {outcome}");
        is_fenced(node);
        read_back(node);
    });
}

#[test]
fn an_error_of_the_metadata_log_ends_the_node() {
    for kind in [Kind::WriteError, Kind::FlushError] {
        on_node(|disk, node| {
            disk.set(&Fault::always(kind).on("metadata.log"));
            let outcome = node.run(["--timeout", "5", "mkdir", "/v/refused"]).run();
            assert!([1, 6, 9].contains(&outcome.code()), "{outcome}");
            // Without its metadata a node has nothing to say: it ends, and says why.
            assert_eq!(node.ends().code(), Some(1));
            assert!(node.log().contains("the metadata log is fenced"), "{}", node.log());
            disk.heal();
            node.start();
            read_back(node);
            node.run(["mkdir", "/v/again"]).run().ok();
        });
    }
}

#[test]
fn a_read_error_is_an_error_and_passes() {
    on_node(|disk, node| {
        // A restart empties what memory has of the file.
        node.kill();
        node.start();
        disk.set(&Fault::always(Kind::ReadError).on(".store"));
        let outcome = node.run(["--timeout", "5", "cat", "/v/kept"]).run();
        assert_ne!(outcome.code(), 0, "{outcome}");
        assert!(outcome.messages().contains("/v/kept"), "the error names the file: {outcome}");
        disk.heal();
        read_back(node);
    });
}

#[test]
fn a_bit_flipped_on_the_way_is_never_returned() {
    on_node(|disk, node| {
        node.kill();
        node.start();
        disk.set(&Fault::once(Kind::FlippedRead).on(".store"));
        let outcome = node.run(["cat", "/v/kept"]).run();
        match outcome.code() {
            // Read again, and right the second time.
            0 => assert_eq!(KEPT.difference(&outcome.stdout), None),
            7 => assert!(KEPT.bytes().starts_with(&outcome.stdout), "only verified bytes come out"),
            _ => panic!("{outcome}"),
        }
        read_back(node);
    });
}
