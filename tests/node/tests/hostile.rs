//! Peers that send rubbish, lie about lengths, say half a word and fall silent, or come in thousands harm nobody else.

#![expect(clippy::cast_possible_truncation, reason = "small numbers, 64-bit machines")]

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use client::{ReadRange, UploadOptions};
use harness::{Random, count, wait_for};
use node_tests::{World, fetch, store};
use wire::message::{Encoder, Hello, PayloadMeta, Reply, Request, RequestHead};
use wire::{PREFIX_BYTES, PROTOCOL_VERSION, Prefix, Status};

fn hello() -> Vec<u8> {
    let hello = Hello {
        version_min: PROTOCOL_VERSION,
        version_max: PROTOCOL_VERSION,
        features: 0,
        name: "hostile".into(),
        cluster: None,
    };
    encode(&Request::Hello(hello), 1)
}

fn encode(request: &Request<'_>, correlation: u64) -> Vec<u8> {
    let mut out = Vec::new();
    let head = RequestHead { correlation, deadline_ms: 0 };
    Encoder::new().request(&mut out, head, request, PayloadMeta::default());
    out
}

/// The ports of all the node's threads, from its map.
fn ports(world: &World) -> Vec<String> {
    let status = world.client.status().wait().expect("status");
    let mut ports: Vec<String> = status.map.stores.iter().map(|store| store.address.clone()).collect();
    ports.push(world.node.endpoint().to_owned());
    ports
}

fn connect(address: &str) -> TcpStream {
    let stream = TcpStream::connect(address).expect("connects");
    stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout");
    stream.set_write_timeout(Some(Duration::from_secs(20))).expect("a timeout");
    stream
}

/// The next frame's status; `None` when the peer closed.
fn answer(stream: &mut TcpStream) -> Option<Status> {
    let mut prefix = [0; PREFIX_BYTES];
    stream.read_exact(&mut prefix).ok()?;
    let prefix = Prefix::decode(&prefix).expect("a frame");
    let mut rest = vec![0; (prefix.message_bytes + prefix.payload_bytes) as usize];
    stream.read_exact(&mut rest).ok()?;
    if prefix.status == Status::Ok {
        Reply::decode(prefix.kind, prefix.status, &rest[..prefix.message_bytes as usize]).expect("a message");
    }
    Some(prefix.status)
}

/// Whether the peer closes instead of answering for ever.
fn is_closed(stream: &mut TcpStream) -> bool {
    let mut rest = Vec::new();
    match stream.read_to_end(&mut rest) {
        Ok(_) => true,
        Err(error) => !matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut),
    }
}

fn still_serves(world: &World, round: &str) {
    store(&world.volume, round.as_bytes(), round.as_bytes(), UploadOptions::default()).expect("stored");
    assert_eq!(fetch(&world.volume, round.as_bytes(), ReadRange::Whole).expect("read"), round.as_bytes());
}

#[test]
fn rubbish_and_mutated_frames_harm_nobody() {
    let world = World::new();
    let ports = ports(&world);
    let mut random = Random::new(7);
    let frames = [
        hello(),
        encode(&Request::GetMap { have: wire::MapNumber(0), page: 0 }, 2),
        encode(&Request::ShardStatus, 3),
    ];
    let connections = count("CATENA_HOSTILE_CONNECTIONS", 600);
    for connection in 0..connections {
        let mut stream = connect(&ports[(connection % ports.len() as u64) as usize]);
        let mut bytes = if random.below(4) == 0 { Vec::new() } else { hello() };
        for _ in 0..random.below(6) {
            let mut frame = frames[random.below(3) as usize].clone();
            for _ in 0..random.below(4) {
                let at = random.below(frame.len() as u64) as usize;
                frame[at] = random.number().to_le_bytes()[0];
            }
            frame.truncate(random.below(frame.len() as u64 + 1).max(1) as usize);
            bytes.extend_from_slice(&frame);
        }
        if random.below(3) == 0 {
            bytes.extend((0..random.below(5000)).map(|_| random.number().to_le_bytes()[0]));
        }
        // The node may close in the middle: that is the right answer to most of these.
        let _ = stream.write_all(&bytes);
        if random.below(2) == 0 {
            let _ = stream.set_read_timeout(Some(Duration::from_millis(1)));
            let _ = stream.read(&mut [0; 256]);
        }
    }
    still_serves(&world, "after-rubbish");
}

#[test]
fn lies_about_lengths_end_the_connection() {
    let world = World::new();
    for port in ports(&world) {
        for (offset, value) in [(12, u32::MAX), (12, 2 << 20), (24, u32::MAX), (24, 300 << 10)] {
            let mut stream = connect(&port);
            let mut frame = hello();
            frame[offset..offset + 4].copy_from_slice(&value.to_le_bytes());
            stream.write_all(&frame).expect("sent");
            assert!(is_closed(&mut stream), "a length of {value} at {offset}");
        }
    }
    still_serves(&world, "after-lies");
}

#[test]
fn an_unknown_version_is_closed_or_named() {
    let world = World::new();
    for port in ports(&world) {
        let mut stream = connect(&port);
        let future = Hello {
            version_min: PROTOCOL_VERSION + 1,
            version_max: PROTOCOL_VERSION + 5,
            features: 0,
            name: "future".into(),
            cluster: None,
        };
        stream.write_all(&encode(&Request::Hello(future), 1)).expect("sent");
        assert_eq!(answer(&mut stream), Some(Status::UnsupportedVersion));
        assert!(is_closed(&mut stream));
    }
}

#[test]
fn half_a_frame_and_silence_are_cut_off() {
    let world = World::new();
    let mut unfinished: Vec<TcpStream> = Vec::new();
    for port in ports(&world) {
        unfinished.push(connect(&port));
        let mut half = connect(&port);
        half.write_all(&hello()[..40]).expect("sent");
        unfinished.push(half);
    }
    still_serves(&world, "beside-half-a-frame");
    for mut stream in unfinished {
        assert!(is_closed(&mut stream), "half a frame, or none, is given up");
    }
}

#[test]
fn thousands_of_connections_meet_a_limit_and_the_rest_is_served() {
    let world = World::new();
    let port = world.node.endpoint().to_owned();
    let wanted = count("CATENA_CONNECTIONS", 6000);
    let mut greeted = Vec::new();
    let (mut busy, mut closed) = (0, 0);
    for _ in 0..wanted {
        let Ok(mut stream) = TcpStream::connect(&port) else {
            closed += 1;
            continue;
        };
        stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout");
        if stream.write_all(&hello()).is_err() {
            closed += 1;
            continue;
        }
        match answer(&mut stream) {
            Some(Status::Ok) => greeted.push(stream),
            Some(Status::Busy) => busy += 1,
            Some(status) => panic!("answered {status:?}"),
            None => closed += 1,
        }
    }
    println!("{} connections: {} greeted, {busy} busy, {closed} closed", wanted, greeted.len());
    assert!(greeted.len() as u64 <= 4096 && greeted.len() as u64 + busy + closed == wanted);
    assert!(greeted.len() >= 4000, "up to the limit everybody is served");
    assert!(busy + closed > 0, "and beyond it nobody");
    still_serves(&world, "beside-thousands");
    drop(greeted);
    wait_for("a place for a new client", Duration::from_secs(20), || {
        let mut stream = TcpStream::connect(&port).ok()?;
        stream.write_all(&hello()).ok()?;
        (answer(&mut stream) == Some(Status::Ok)).then_some(())
    });
}
