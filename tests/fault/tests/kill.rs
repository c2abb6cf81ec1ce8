//! SIGKILL in the middle of a mixed load, again and again on the same data: every acknowledged change is there and whole, no
//! half change is visible, and what dead writers left comes back as free space.

use std::sync::atomic::Ordering;
use std::time::Duration;

use fault::crash::{Trial, VOLUME};
use harness::{Dev, Node, Scratch, count, deadline};

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
    if deadline::poll(SPACE_WITHIN, || (chunks(&trial.node) == 0).then_some(())).is_none() {
        let (_, metrics) = trial.node.admin("/metrics").expect("the admin endpoint answers");
        let lines: Vec<&str> = metrics.lines().filter(|line| !line.starts_with('#')).collect();
        panic!(
            "{} chunks of removed files and dead writers stay:\n{}",
            chunks(&trial.node),
            lines.join("\n")
        );
    }
    assert!(trial.node.stop().success(), "an orderly end");
}
