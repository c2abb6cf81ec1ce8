//! Who asks for more than a connection may have under way, and reads nothing for a while, gets all of it in the end; others don't notice.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use client::{Client, Config, ReadRange, UploadOptions, VolumePolicy};
use harness::{Content, Deadline, Dev, Scratch};
use node_tests::{fetch, peer, store};
use wire::message::{GetChunk, Reply, Request};
use wire::{PREFIX_BYTES, Prefix, Status};

/// The largest chunk there is, and three times as many of them as a connection may have between disk and peer.
const CHUNK_BYTES: u32 = 4 << 20;
const CHUNKS: u64 = 12;
/// How long nothing is read: far longer than the shard needs to read all that it may.
const PAUSE: Duration = Duration::from_secs(1);

/// The next frame: its prefix, message and payload.
fn receive(stream: &mut TcpStream) -> (Prefix, Vec<u8>, Vec<u8>) {
    let mut prefix = [0; PREFIX_BYTES];
    stream.read_exact(&mut prefix).expect("the connection isn't closed");
    let prefix = Prefix::decode(&prefix).expect("a frame");
    let mut message = vec![0; prefix.message_bytes as usize];
    stream.read_exact(&mut message).expect("a message");
    let mut payload = vec![0; prefix.payload_bytes as usize];
    stream.read_exact(&mut payload).expect("a payload");
    (prefix, message, payload)
}

/// The limit of what is queued on a connection was once below what its gets may be: a reader that paused would have been closed.
#[test]
fn a_reader_that_pauses_gets_everything_in_the_end() {
    let scratch = Scratch::new();
    let node = Dev::new(&scratch.join("node")).start();
    let client = Client::connect(Config::new([node.endpoint()])).expect("an executor thread");
    let policy = VolumePolicy { chunk_bytes: CHUNK_BYTES, retention_seconds: 0 };
    let volume = client.create_volume("v", policy).wait().expect("a volume");
    let content = Content::new(1, u64::from(CHUNK_BYTES) * CHUNKS).bytes();
    store(&volume, b"f", &content, UploadOptions::default()).expect("stored");
    let shard = client.status().wait().expect("status").map.stores[0].address.clone();

    let mut reader = peer::connect(&shard);
    reader.write_all(&peer::hello()).expect("sent");
    assert_eq!(peer::receive(&mut reader).expect("greeted").0.status, Status::Ok);
    let (prefix, message) = peer::ask(&mut reader, &Request::Inventory { after: None, limit: 64 });
    let listed = Reply::decode(prefix.kind, prefix.status, &message).expect("a message");
    let Reply::Inventory { ids, .. } = listed else { panic!("{listed:?}") };
    assert_eq!(ids.len() as u64, CHUNKS);
    for (number, id) in (0..).zip(ids.iter()) {
        let get = Request::GetChunk(GetChunk { id, first_block: 0, block_count: 0 });
        reader.write_all(&peer::encode(&get, number)).expect("sent");
    }

    // Others are served meanwhile.
    let pause = Deadline::after(PAUSE);
    while !pause.passed() {
        store(&volume, b"other", b"small", UploadOptions::default()).expect("stored");
        assert_eq!(fetch(&volume, b"other", ReadRange::Whole).expect("read"), b"small");
    }

    let mut got: BTreeMap<u64, Vec<u8>> = BTreeMap::new();
    let mut ended = 0;
    while ended < CHUNKS {
        let (prefix, _, payload) = receive(&mut reader);
        assert_eq!(prefix.status, Status::Ok, "{prefix:?}");
        got.entry(prefix.correlation).or_default().extend(payload);
        ended += u64::from(!prefix.more);
    }
    // Ids of one upload are in the order of its bytes.
    for (number, chunk) in (0..).zip(content.chunks(CHUNK_BYTES as usize)) {
        assert!(got.get(&number).is_some_and(|bytes| bytes == chunk), "chunk {number}");
    }
}
