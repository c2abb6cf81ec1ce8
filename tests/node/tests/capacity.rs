//! `disks.capacity` over the life of a store: it can be raised; lowered below what the store's file has it is warned of at each start, and changes
//! nothing else.

use std::fs::OpenOptions;
use std::path::Path;

use harness::{Content, Node, Scratch, Server};

const GIB: u64 = 1 << 30;
const PREZERO: &str = "[store]\nprezero = \"64MiB\"\n";

/// How often the node has warned so far.
fn warnings(node: &Node) -> Vec<String> {
    let log = node.log();
    let warned = log.lines().filter(|line| line.contains("WARN") && line.contains("`disks.capacity`"));
    warned.map(str::to_owned).collect()
}

/// A node with so many GiB in `data`, which works.
fn with_capacity(data: &Path, gib: u64) -> Node {
    let node = Server::configure(data, 1, gib, PREZERO).start();
    let (content, name) = (Content::new(gib, 100_000), format!("/v/{gib}"));
    node.run(["put", "-", &name]).input(content.bytes()).run().ok();
    let outcome = node.run(["cat", &name]).run().ok();
    assert_eq!(content.difference(&outcome.stdout), None);
    node
}

#[test]
fn a_capacity_below_the_stores_file_is_warned_of_at_each_start() {
    let scratch = Scratch::new();
    let data = scratch.join("data");
    let mut node = Server::configure(&data, 1, 2, PREZERO).init().start();
    node.run(["volume", "create", "v"]).run().ok();
    assert_eq!(warnings(&node), [""; 0], "nothing is wrong with a capacity that the store keeps to");
    assert!(node.stop().success());

    // A store grows by making its file longer. Here without the data for it, which nobody has written yet.
    let store = data.join("shard-0.store");
    let file = OpenOptions::new().write(true).open(&store).expect("a store");
    let length = GIB + (256 << 20);
    assert!(file.metadata().expect("its length").len() < GIB, "it hasn't grown by itself");
    file.set_len(length).expect("longer");
    drop(file);
    let mut node = with_capacity(&data, 2);
    assert_eq!(warnings(&node), [""; 0], "it keeps to two");
    assert!(node.stop().success());

    for starts in 1..=2 {
        let mut node = with_capacity(&data, 1);
        let said = warnings(&node);
        assert_eq!(said.len(), starts, "once a start: {}", node.log());
        for part in [store.to_str().expect("text"), &format!("length={length}"), &format!("capacity={GIB}")] {
            assert!(said[starts - 1].contains(part), "{part} isn't in: {}", said[starts - 1]);
        }
        assert!(node.stop().success());
    }
    assert_eq!(std::fs::metadata(&store).expect("its length").len(), length, "nothing is given back");
    let mut node = with_capacity(&data, 2);
    assert_eq!(warnings(&node).len(), 2, "raised again it is as before");
    assert!(node.stop().success());
}
