//! A node that drains says so, to whoever balances between nodes (`/readyz`) and to whoever watches them (`/metrics`).

use std::time::Duration;

use harness::{Dev, Scratch, wait_for};
use node_tests::{peer, store_chunks};
use rustix::process::Signal;
use wire::Status;

/// The largest chunk there is: far more than the kernel takes for a peer that doesn't read.
const CHUNK_BYTES: u32 = 4 << 20;
const CHUNKS: u64 = 4;
/// What a draining node may take to say so. It waits 5 s for a reader, of which two requests on loopback need some ms.
const SAID_WITHIN: Duration = Duration::from_secs(20);

/// The drain of an idle node takes some ms, in which no test looked: that the endpoint was closed before it had ever said `draining` was found by hand.
#[test]
fn a_node_that_drains_says_so_until_it_ends() {
    let scratch = Scratch::new();
    let mut node = Dev::new(&scratch.join("node")).start();
    let (_, shard) = store_chunks(&node, CHUNK_BYTES, CHUNKS);
    assert_eq!(node.admin("/readyz").expect("it answers").0, 200);
    let draining = "catena_shard_condition{shard=\"0\",condition=\"draining\"}";
    assert_eq!(node.sample(draining), Some(0));

    // A reader that asks for all chunks and stops reading in the midst of the first one: the rest of it can't leave the node.
    let mut reader = peer::ask_for_all(&shard, CHUNKS);
    let (first, _) = peer::receive(&mut reader).expect("begun");
    assert!(first.status == Status::Ok && first.more, "{first:?}");

    node.process().signal(Signal::TERM);
    wait_for("a node that says that it drains", SAID_WITHIN, || {
        let ended = node.process().ended();
        assert_eq!(ended, None, "it ended without a word: {}", node.log());
        let (status, reason) = node.admin("/readyz")?;
        let says_so = status == 503 && reason.starts_with("draining") && node.sample(draining) == Some(1);
        says_so.then_some(())
    });
    assert_eq!(node.admin("/healthz").expect("it answers").0, 200, "it ends, and isn't ill");
    // Nothing is in flight any more once nobody waits for it.
    drop(reader);
    assert!(node.ends().success(), "{}", node.log());
    assert!(node.log().contains("stopping: SIGTERM"), "{}", node.log());
    assert_eq!(node.admin("/readyz"), None, "an ended node says nothing");
}
