//! SIGKILL in the middle of a mixed load, again and again on the same data: every acknowledged change is there and whole, no
//! half change is visible, and what dead writers left comes back as free space.

use std::sync::atomic::Ordering;
use std::time::Duration;

use fault::crash::{Trial, VOLUME};
use harness::{Content, Dev, Node, Scratch, count, deadline};

/// Sessions of killed clients live for 30 s, then their chunks are found, deleted, and their segments cleaned.
const SPACE_WITHIN: Duration = Duration::from_mins(3);

#[test]
fn kills_lose_nothing_that_was_acknowledged() {
    let rounds = count("CATENA_KILLS", 15);
    let scratch = Scratch::new();
    let mut trial = Trial::start(Dev::new(&scratch.join("node")).shards(2), count("CATENA_SEED", 1));
    for _ in 0..rounds {
        trial.round(|node, _| node.kill());
    }
    trial.report("kills", rounds);
    assert!(trial.tally.unknown.load(Ordering::Relaxed) > 0, "no kill met a command: nothing was tested");

    trial
        .node
        .run(["rm", "-r", "--yes", &format!("/{VOLUME}/worker-0"), &format!("/{VOLUME}/worker-1")])
        .run()
        .ok();
    trial
        .node
        .run(["rm", "-r", "--yes", &format!("/{VOLUME}/worker-2"), &format!("/{VOLUME}/worker-3")])
        .run()
        .ok();
    let chunks = |node: &Node| node.metrics("catena_node_chunk_count").iter().sum::<u64>();
    let is_free = deadline::poll(SPACE_WITHIN, || (chunks(&trial.node) == 0).then_some(()));
    assert!(
        is_free.is_some(),
        "{} chunks of removed files and dead writers stay:\n{}",
        chunks(&trial.node),
        trial.node.described()
    );
    assert!(trial.node.stop().success(), "an orderly end");
}

/// Each life of a store or log begins in a fresh segment that the superblock remembers until a checkpoint, and it remembers 32. A node
/// that was killed more often between two checkpoints of its metadata log came up, said that it was ready, and never answered again.
#[test]
fn many_short_lives_end_in_one_that_works() {
    const LIVES: u64 = 40;
    const BYTES: u64 = 5000;
    let scratch = Scratch::new();
    let mut node = Dev::new(&scratch.join("node")).start();
    node.run(["volume", "create", "v"]).run().ok();
    for life in 0..LIVES {
        let outcome = node.run(["--timeout", "20", "put", "-", &format!("/v/{life}")]);
        let outcome = outcome.input(Content::new(life, BYTES).bytes()).run();
        assert_eq!(outcome.code(), 0, "life {life}: {outcome}{}", node.described());
        node.kill();
        node.start();
    }
    for life in 0..LIVES {
        let outcome = node.run(["cat", &format!("/v/{life}")]).run().ok();
        assert_eq!(Content::new(life, BYTES).difference(&outcome.stdout), None, "life {life}");
    }
    assert!(node.stop().success(), "an orderly end");
}
