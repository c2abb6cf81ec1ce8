//! Peers that send rubbish, lie about lengths, say half a word and fall silent, or come in thousands harm nobody else.

#![expect(clippy::cast_possible_truncation, reason = "small numbers, 64-bit machines")]

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use client::{ReadRange, UploadOptions};
use harness::{Dev, Random, Scratch, Server, count, skip, wait_for};
use node_tests::peer::{connect, encode, hello, receive};
use node_tests::{World, fetch, store};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use wire::message::{Hello, Reply, Request};
use wire::{PROTOCOL_VERSION, Status};

/// The ports of all the node's threads, from its map.
fn ports(world: &World) -> Vec<String> {
    let status = world.client.status().wait().expect("status");
    status.map.stores.iter().map(|store| store.address.clone()).collect()
}

/// The next frame's status; `None` when the peer closed.
fn answer(stream: &mut TcpStream) -> Option<Status> {
    let (prefix, message) = receive(stream)?;
    if prefix.status == Status::Ok {
        Reply::decode(prefix.kind, prefix.status, &message).expect("a message");
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
            peer: None,
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

/// What became of a connection.
enum Met {
    Greeted(TcpStream),
    Busy,
    Closed,
}

/// Connects and says hello. Whatever comes has to come: a connection that is left without an answer fails the test.
fn greet(address: &str) -> Met {
    let Ok(mut stream) = TcpStream::connect(address) else { return Met::Closed };
    stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout");
    // The node may have closed it by now.
    let _ = stream.write_all(&hello());
    match answer(&mut stream) {
        Some(Status::Ok) => Met::Greeted(stream),
        Some(Status::Busy) => Met::Busy,
        Some(status) => panic!("answered {status:?}"),
        None if stream.read(&mut [0]).is_err_and(|error| error.kind() == ErrorKind::WouldBlock) => {
            panic!("no answer, and not closed either")
        }
        None => Met::Closed,
    }
}

/// Connects until one was refused, at most `wanted` times; how many were refused with `Busy`, and without a word.
fn fill(address: &str, wanted: u64, greeted: &mut Vec<TcpStream>) -> (u64, u64) {
    let (mut busy, mut closed) = (0, 0);
    for _ in 0..wanted {
        match greet(address) {
            Met::Greeted(stream) => greeted.push(stream),
            Met::Busy => busy += 1,
            Met::Closed => closed += 1,
        }
    }
    (busy, closed)
}

/// Whether a connection that was greeted is served.
fn is_served(stream: &mut TcpStream, map: wire::MapNumber) -> bool {
    let sent = stream.write_all(&encode(&Request::GetMap { have: map, page: 0 }, 2));
    sent.is_ok() && answer(stream) == Some(Status::Ok)
}

/// Raises this process's limit of open files to at least `wanted`, if that is allowed.
fn descriptors(wanted: u64) -> Result<(), String> {
    let hard = getrlimit(Resource::Nofile).maximum;
    let raised = Rlimit { current: hard, maximum: hard };
    setrlimit(Resource::Nofile, raised).map_err(|error| error.to_string())?;
    match hard {
        Some(hard) if hard < wanted => Err(format!("the hard limit of open files is {hard}, not {wanted}")),
        _ => Ok(()),
    }
}

/// Connections a thread, as `limits.connections` has it by default (R43).
const CONNECTIONS_MAX: u64 = 4096;

/// Ten thousand clients at once, spread over the node's ports, are all served; beyond a thread's limit they are refused, and those who
/// were there before go on.
#[test]
fn ten_thousand_connections_are_served_and_more_refused() {
    /// Beyond what is served: more than the node tells `Busy` at once.
    const MORE: u64 = 2000;
    let wanted = count("CATENA_CONNECTIONS", 10_000);
    // The node inherits this process's limit.
    if let Err(reason) = descriptors((wanted + CONNECTIONS_MAX + 500).max(16_384)) {
        return skip("open-files", &reason);
    }
    let scratch = Scratch::new();
    // Making them all may take a slow machine longer than the minute after which a silent one is closed.
    let settings = "[store]\nprezero = \"64MiB\"\n[limits]\nidle_timeout = \"1h\"\n";
    let node = Server::configure(&scratch.join("node"), 2, 1, settings).init().start();
    let world = World::on(node, scratch);
    let ports = ports(&world);
    assert!(wanted <= ports.len() as u64 * (CONNECTIONS_MAX - 10), "three threads have no room for {wanted}");
    let map = world.client.status().wait().expect("status").map.number;

    let mut greeted = Vec::new();
    for at in 0..wanted {
        match greet(&ports[(at % ports.len() as u64) as usize]) {
            Met::Greeted(stream) => greeted.push(stream),
            Met::Busy | Met::Closed => panic!("connection {at} of {wanted} is refused, below the limit"),
        }
    }
    still_serves(&world, "beside-ten-thousand");

    let port = world.node.endpoint().to_owned();
    let (busy, closed) = fill(&port, MORE, &mut greeted);
    println!("{} connections greeted; of the last {MORE} {busy} told busy, {closed} closed", greeted.len());
    let at_one = greeted.iter().filter(|stream| peer(stream) == port).count() as u64;
    assert!((CONNECTIONS_MAX - 10..=CONNECTIONS_MAX).contains(&at_one), "{at_one} at one port");
    assert!(busy > 0 && at_one + busy + closed >= MORE, "{busy} told busy");
    let lost = greeted.iter_mut().map(|stream| is_served(stream, map)).filter(|served| !served).count();
    assert_eq!(lost, 0, "connections that were greeted and aren't served any more");
    still_serves(&world, "beside-refused");
    drop(greeted);
    wait_for("a place for a new client", Duration::from_secs(20), || {
        matches!(greet(&port), Met::Greeted(_)).then_some(())
    });
}

fn peer(stream: &TcpStream) -> String {
    stream.peer_addr().map(|address| address.to_string()).unwrap_or_default()
}

/// A node whose limit of open files was the usual 1,024 accepted that many and left the others in the kernel's queue, without an answer.
#[test]
fn a_small_limit_of_open_files_is_a_small_limit_of_connections() {
    let scratch = Scratch::new();
    let start = |name: &str, soft_and_hard: &str| {
        let limit = format!("--nofile={soft_and_hard}");
        Dev::new(&scratch.join(name)).under(["prlimit", &limit]).start()
    };
    if !has_prlimit() {
        return skip("limits", "prlimit (util-linux) isn't installed");
    }
    if let Err(reason) = descriptors(16_384) {
        return skip("open-files", &reason);
    }
    let node = start("small", "1024:1024");
    assert!(node.log().contains("fewer connections a thread than configured"), "it is said: {}", node.log());
    let mut greeted = Vec::new();
    let (busy, closed) = fill(node.endpoint(), 1500, &mut greeted);
    println!("{} greeted, {busy} told busy, {closed} closed", greeted.len());
    assert!(greeted.len() > 300 && busy > 0, "{} greeted, {busy} told busy, {closed} closed", greeted.len());
    assert!(!node.log().contains("accepting connections failed"), "{}", node.log());
    drop(greeted);
    // Where only the soft limit is small, the node raises it.
    let node = start("raised", "256:16384");
    assert!(!node.log().contains("fewer connections"), "{}", node.log());
    let mut greeted = Vec::new();
    assert_eq!(fill(node.endpoint(), 700, &mut greeted), (0, 0));
}

fn has_prlimit() -> bool {
    std::process::Command::new("prlimit").arg("--version").output().is_ok()
}
