//! A disk that is full: a clear error, nothing half, deleting works, and writes go on once space came back.

use std::time::Duration;

use harness::{Content, Dev, LoopDisk, Node, skip, wait_for};

/// `dev` keeps removed chunks for 10 s, a node that has just started for 65 s (readers may have pinned them); then they are deleted and their
/// segments cleaned.
const SPACE_WITHIN: Duration = Duration::from_mins(2);
/// The least that a store is made for: what the metadata log takes and may still take (225 and 256 MiB), and some segments.
const DISK_BYTES: u64 = 1 << 30;
const FILE_BYTES: u64 = 16 << 20;

fn fill(node: &Node) -> Vec<String> {
    let mut stored = Vec::new();
    for number in 0..=DISK_BYTES / FILE_BYTES {
        let name = format!("/v/file-{number}");
        let outcome = node.run(["put", "-", &name]).input(Content::new(number, FILE_BYTES).bytes()).run();
        if outcome.code() == 0 {
            stored.push(name);
            continue;
        }
        assert_eq!(outcome.code(), 1, "{outcome}");
        assert!(outcome.messages().contains("space"), "the reason is clear: {outcome}");
        assert_eq!(node.run(["stat", &name]).run().code(), 3, "nothing half is visible");
        return stored;
    }
    panic!("more fits than the disk has: {} files", stored.len());
}

#[test]
fn a_full_disk_refuses_deletes_and_goes_on() {
    let disk = match LoopDisk::ext4(DISK_BYTES) {
        Ok(disk) => disk,
        Err(reason) => return skip("loop-device", &reason),
    };
    let mut node = Dev::new(&disk.path().join("node")).start();
    node.run(["volume", "create", "v"]).run().ok();
    let mut stored = fill(&node);
    assert!(stored.len() > 4, "only {} files fit", stored.len());

    // All that was stored is there, and stays there over a restart on the full disk.
    node.kill();
    node.start();
    for (number, name) in (0..).zip(&stored) {
        let outcome = node.run(["cat", name]).run().ok();
        assert_eq!(Content::new(number, FILE_BYTES).difference(&outcome.stdout), None, "{name}");
    }

    let removed = stored.split_off(stored.len() / 2);
    node.run(["rm"]).args(&removed).run().ok();
    let content = Content::new(1000, FILE_BYTES);
    wait_for("space after deleting", SPACE_WITHIN, || {
        let outcome = node.run(["put", "-", "/v/again"]).input(content.bytes()).run();
        (outcome.code() == 0).then_some(())
    });
    let outcome = node.run(["cat", "/v/again"]).run().ok();
    assert_eq!(content.difference(&outcome.stdout), None);
    assert!(node.stop().success());
}
