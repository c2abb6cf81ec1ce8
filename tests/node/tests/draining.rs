//! A node that drains says so, to whoever balances between nodes (`/readyz`) and to whoever watches them (`/metrics`).

use std::io::Write;
use std::time::Duration;

use client::{Client, Config, UploadOptions, VolumePolicy};
use harness::{Content, Dev, Scratch, wait_for};
use node_tests::{peer, store};
use rustix::process::Signal;
use wire::Status;
use wire::message::{GetChunk, Reply, Request};

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
    let client = Client::connect(Config::new([node.endpoint()])).expect("an executor thread");
    let policy = VolumePolicy { chunk_bytes: CHUNK_BYTES, retention_seconds: 0 };
    let volume = client.create_volume("v", policy).wait().expect("a volume");
    let content = Content::new(1, u64::from(CHUNK_BYTES) * CHUNKS).bytes();
    store(&volume, b"f", &content, UploadOptions::default()).expect("stored");
    let shard = client.status().wait().expect("status").map.stores[0].address.clone();
    drop((volume, client));
    assert_eq!(node.admin("/readyz").expect("it answers").0, 200);
    let draining = "catena_shard_condition{shard=\"0\",condition=\"draining\"}";
    assert_eq!(node.sample(draining), Some(0));

    // A reader that asks for all chunks and stops reading in the midst of the first one: the rest of it can't leave the node.
    let mut reader = peer::connect(&shard);
    reader.write_all(&peer::hello()).expect("sent");
    assert_eq!(peer::receive(&mut reader).expect("greeted").0.status, Status::Ok);
    let (prefix, message) = peer::ask(&mut reader, &Request::Inventory { after: None, limit: 16 });
    let listed = Reply::decode(prefix.kind, prefix.status, &message).expect("a message");
    let Reply::Inventory { ids, .. } = listed else { panic!("{listed:?}") };
    assert_eq!(ids.len() as u64, CHUNKS);
    for id in ids.iter() {
        let get = Request::GetChunk(GetChunk { id, first_block: 0, block_count: 0 });
        reader.write_all(&peer::encode(&get, 2)).expect("sent");
    }
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
