//! The public interface, end to end over real sockets against the fake cluster in this process.

mod server;

use std::future::Future;
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use wire::meta::Precondition;
use wire::{FrameKind, Status};

use crate::core::fake::{CHUNK_BYTES, FakeCluster};
use crate::handle::Handle;
use crate::{
    Client, Config, Damage, DamagedChunk, Error, ErrorKind, NewAttributes, Pending, Piece, ReadRange,
    RemoveKind, UnavailableReason, UploadChange, UploadOptions, Volume,
};
use server::Server;

fn connect(server: &Server) -> (Client, Volume) {
    let config = Config { window_bytes: 4 << 20, ..Config::new([server.endpoint()]) };
    let client = Client::connect(config).expect("the fake answers");
    let volume = client.volume("photos").wait().expect("there is one");
    (client, volume)
}

fn sample(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[3]
    };
    (0..length).map(|_| next()).collect()
}

fn put(volume: &Volume, path: &str, bytes: &[u8]) {
    let mut upload = volume.upload(path.as_bytes(), UploadOptions::default()).expect("a good path");
    upload.write_all(bytes).expect("taken");
    let committed = upload.finish().wait().expect("committed");
    assert_eq!(committed.size, bytes.len() as u64);
}

fn read(volume: &Volume, path: &str, range: ReadRange) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut download = volume.download(path.as_bytes(), range).wait().expect("it is there");
    let length = download.length();
    download.read_to_end(&mut bytes).expect("read");
    assert_eq!(bytes.len() as u64, length);
    bytes
}

#[test]
fn files_of_every_size_come_back() {
    let server = Server::start();
    let (client, volume) = connect(&server);
    let chunk = CHUNK_BYTES as usize;
    for (i, length) in
        [0, 1, 4095, 4096, 4097, chunk - 1, chunk, chunk + 1, 40 * chunk + 17].into_iter().enumerate()
    {
        let bytes = sample(length, i as u64);
        put(&volume, "f", &bytes);
        assert_eq!(read(&volume, "f", ReadRange::Whole), bytes);
        let third = (length / 3) as u64;
        assert_eq!(read(&volume, "f", ReadRange::From(third)), bytes[length / 3..]);
        assert_eq!(read(&volume, "f", ReadRange::Last(third)), bytes[length - length / 3..]);
        let span = ReadRange::Span { offset: third, length: third };
        assert_eq!(read(&volume, "f", span), bytes[length / 3..2 * (length / 3)]);
        let entry = volume.stat(b"/f", true).wait().expect("it is there");
        let mut covered = 0;
        for stored in volume.stored_chunks(&entry) {
            let stored = stored.expect("listed");
            let range = usize::try_from(stored.offset).expect("small")..;
            let range = range.start..range.start + usize::try_from(stored.length).expect("small");
            assert!(stored.matches(&bytes[range.clone()]));
            let mut other = bytes[range].to_vec();
            other[0] ^= 1;
            assert!(!stored.matches(&other));
            covered += stored.length;
        }
        assert_eq!(covered, length as u64);
        let mut verifier = volume.verify_file(&entry);
        assert!(verifier.next().is_none());
        assert_eq!(verifier.checked_bytes(), length as u64);
    }
    client.close();
}

#[test]
fn holes_stay_holes() {
    let server = Server::start();
    let (_client, volume) = connect(&server);
    let mut upload = volume.upload(b"sparse", UploadOptions::default()).expect("a good path");
    upload.skip(10_000).expect("room");
    upload.write_all(b"one").expect("taken");
    upload.skip(1 << 40).expect("room");
    upload.write_all(b"two").expect("taken");
    upload.skip(5).expect("room");
    assert_eq!(upload.position(), (1 << 40) + 10_011);
    upload.finish().wait().expect("committed");
    let download = volume.download(b"sparse", ReadRange::Whole).wait().expect("it is there");
    let pieces: Vec<Piece> = download.map(|piece| piece.expect("read")).collect();
    let data = |offset, bytes: &'static [u8]| Piece::Data { offset, bytes: bytes.into() };
    let hole = |offset, length| Piece::Hole { offset, length };
    let expected = [
        hole(0, 10_000),
        data(10_000, b"one"),
        hole(10_003, 1 << 40),
        data((1 << 40) + 10_003, b"two"),
        hole((1 << 40) + 10_006, 5),
    ];
    assert_eq!(pieces, expected);
    assert_eq!(read(&volume, "sparse", ReadRange::Span { offset: 9_999, length: 5 }), b"\0one\0");
}

/// Bytes read into the upload's own buffers, pushed ones and holes between them: each buffer was in use before, for other bytes.
#[test]
fn room_is_filled_in_any_order() {
    let server = Server::start();
    let (_client, volume) = connect(&server);
    let chunk = CHUNK_BYTES as usize;
    for seed in 0..4 {
        let mut upload = volume.upload(b"f", UploadOptions::default()).expect("a good path");
        let (mut expected, mut total) = (Vec::new(), 0);
        for step in 0..40 {
            let length = (step * 7919 + seed * 104_729) % (chunk + chunk / 2);
            let bytes = sample(length, (seed * 100 + step) as u64);
            match step % 4 {
                0 | 1 => {
                    let mut rest = &bytes[..];
                    while !rest.is_empty() {
                        let room = upload.room(rest.len());
                        let count = room.len().min(rest.len()).div_ceil(2);
                        room[..count].copy_from_slice(&rest[..count]);
                        room[count..].fill(0xEE);
                        upload.filled_wait(count).expect("taken");
                        rest = &rest[count..];
                    }
                }
                2 => upload.write_all(&bytes).expect("taken"),
                _ => {
                    upload.skip(length as u64).expect("room");
                    expected.resize(total + length, 0);
                    total += length;
                    continue;
                }
            }
            expected.extend_from_slice(&bytes);
            total += length;
        }
        upload.finish().wait().expect("committed");
        assert!(read(&volume, "f", ReadRange::Whole) == expected, "seed {seed}");
    }
}

#[test]
fn a_large_file_is_staged() {
    let server = Server::start();
    let (_client, volume) = connect(&server);
    let mut upload = volume.upload(b"many", UploadOptions::default()).expect("a good path");
    // One chunk of one byte each, by holes between them.
    for i in 0..20_000_u32 {
        upload.write_all(&[i.to_le_bytes()[0]]).expect("taken");
        upload.skip(1).expect("room");
    }
    upload.finish().wait().expect("committed");
    assert_eq!(server.with(|cluster| cluster.files[&b"many"[..]].chunks.len()), 20_000);
    let bytes = read(&volume, "many", ReadRange::Whole);
    assert!(bytes.iter().enumerate().all(|(at, byte)| {
        *byte == if at % 2 == 0 { u32::try_from(at / 2).expect("small").to_le_bytes()[0] } else { 0 }
    }));
}

#[test]
fn what_is_dropped_is_never_visible() {
    let server = Server::start();
    let (client, volume) = connect(&server);
    let mut upload = volume.upload(b"half", UploadOptions::default()).expect("a good path");
    upload.write_all(&sample(10 * CHUNK_BYTES as usize, 1)).expect("taken");
    upload.abort();
    assert!(matches!(volume.stat(b"half", true).wait(), Err(Error::NotFound { .. })));
    client.close();
    // The upload's session was closed with the client.
    assert_eq!(server.with(|cluster| cluster.closed.len()), 1);
    let late = volume.stat(b"half", true).wait().expect_err("the client is closed");
    assert_eq!(late.kind(), ErrorKind::Unavailable);
}

#[test]
fn appends_conditions_and_errors() {
    let server = Server::start();
    let (client, volume) = connect(&server);
    put(&volume, "f", b"one");
    let options = UploadOptions { change: UploadChange::Append, ..UploadOptions::default() };
    let mut upload = volume.upload(b"f", options).expect("a good path");
    upload.write_all(b"two").expect("taken");
    let committed = upload.finish().wait().expect("committed");
    assert_eq!((committed.offset, committed.size), (3, 6));
    assert_eq!(read(&volume, "f", ReadRange::Whole), b"onetwo");

    let options = UploadOptions { precondition: Precondition::Absent, ..UploadOptions::default() };
    let upload = volume.upload(b"f", options).expect("a good path");
    assert!(matches!(upload.finish().wait(), Err(Error::AlreadyExists { .. })));
    let version = wire::Version(1);
    let options = UploadOptions { precondition: Precondition::Version(version), ..UploadOptions::default() };
    let upload = volume.upload(b"f", options).expect("a good path");
    let conflict = upload.finish().wait().expect_err("another version is there");
    assert!(matches!(conflict, Error::VersionConflict { found, .. } if found == committed.version));
    assert_eq!(conflict.kind(), ErrorKind::Conflict);

    let options = UploadOptions { size_hint: Some(u64::MAX), ..UploadOptions::default() };
    assert!(matches!(volume.upload(b"f", options), Err(Error::TooLarge { .. })));
    assert!(matches!(volume.upload(&[b'x'; 5000], UploadOptions::default()), Err(Error::TooLarge { .. })));
    assert!(matches!(client.volume("missing").wait(), Err(Error::NotFound { .. })));
    let missing = volume.download(b"no/such", ReadRange::Whole).wait().expect_err("not there");
    assert_eq!(missing.to_string(), "/photos/no/such doesn't exist");
    assert!(matches!(
        volume.remove(b"nothing", RemoveKind::File, Precondition::Any).wait(),
        Err(Error::NotFound { .. })
    ));
    assert_eq!(client.volumes().wait().expect("listed").len(), 1);
    let status = client.status().wait().expect("answered");
    assert!(status.shards.iter().all(|shard| shard.state.as_ref().is_ok_and(|state| state.put_total == 3)));
    assert!(status.group.is_ok());
}

#[test]
fn a_directory_is_listed_in_pages() {
    let server = Server::start();
    let (_client, volume) = connect(&server);
    let made: Vec<Pending<_>> = (0..64)
        .map(|i| volume.mkdir(format!("d{i:02}").as_bytes(), NewAttributes::default(), false))
        .collect();
    for made in made {
        made.wait().expect("made");
    }
    let lister = volume.list(b"").wait().expect("listed");
    let names: Vec<Vec<u8>> = lister.map(|entry| entry.expect("listed").name).collect();
    assert_eq!(names, (0..64).map(|i| format!("d{i:02}").into_bytes()).collect::<Vec<_>>());
    assert!(server.with(|cluster| cluster.executions.values().all(|count| *count == 1)));
}

#[test]
fn handles_cross_threads() {
    fn shared<T: Clone + Send + Sync>() {}
    fn moved<T: Send>() {}
    shared::<Client>();
    shared::<Volume>();
    moved::<crate::Upload>();
    moved::<crate::Download>();
    moved::<Pending<()>>();
}

/// Any runtime will do: here is one that polls everything it has, in one future on one thread.
#[test]
fn many_operations_in_one_future() {
    let server = Server::start();
    let (_client, volume) = connect(&server);
    let mut running: Vec<Pending<_>> = (0..100)
        .map(|i| {
            let mut upload =
                volume.upload(format!("f{i}").as_bytes(), UploadOptions::default()).expect("a good path");
            upload.write_all(&sample(1000, i)).expect("taken");
            upload.finish()
        })
        .collect();
    let all = std::future::poll_fn(|context| {
        running.retain_mut(|pending| match Pin::new(pending).poll(context) {
            Poll::Ready(result) => {
                result.expect("committed");
                false
            }
            Poll::Pending => true,
        });
        if running.is_empty() { Poll::Ready(()) } else { Poll::Pending }
    });
    crate::pending::block_on(all);
    for i in 0..100 {
        assert_eq!(read(&volume, &format!("f{i}"), ReadRange::Whole), sample(1000, i));
    }
}

#[test]
fn damage_is_named_and_the_rest_is_readable() {
    let server = Server::start();
    let (_client, volume) = connect(&server);
    let bytes = sample(5 * CHUNK_BYTES as usize, 1);
    put(&volume, "f", &bytes);
    let (damaged, lost) = server.with(|cluster| {
        let chunks = cluster.files[&b"f"[..]].chunks.clone();
        cluster.chunks.get_mut(&chunks[1].1).expect("stored").0[77] ^= 1;
        cluster.chunks.remove(&chunks[3].1);
        (chunks[1].1, chunks[3].1)
    });
    let download = volume.download(b"f", ReadRange::Whole).wait().expect("it is there");
    let results: Vec<_> = download.collect();
    assert_eq!(results.len(), 5);
    let at = |i: u64| i * u64::from(CHUNK_BYTES);
    for (i, result) in (0..).zip(&results) {
        match (i, result) {
            (1, Err(Error::Integrity { offset, chunk, damage: Damage::Corrupt, .. })) => {
                assert_eq!((*offset, *chunk), (at(1), damaged));
            }
            (3, Err(Error::Integrity { offset, chunk, damage: Damage::Missing, .. })) => {
                assert_eq!((*offset, *chunk), (at(3), lost));
            }
            (0 | 2 | 4, Ok(Piece::Data { offset, bytes: found })) => {
                assert_eq!(*offset, at(i));
                let start = usize::try_from(at(i)).expect("small");
                assert_eq!(*found, bytes[start..start + CHUNK_BYTES as usize]);
            }
            (_, other) => panic!("{i}: {other:?}"),
        }
    }
    let entry = volume.stat(b"f", true).wait().expect("it is there");
    let found: Vec<DamagedChunk> =
        volume.verify_file(&entry).map(|damage| damage.expect("checked")).collect();
    for stored in volume.stored_chunks(&entry) {
        let stored = stored.expect("listed");
        let expected: Vec<DamagedChunk> =
            found.iter().filter(|damaged| damaged.chunk == stored).cloned().collect();
        assert_eq!(volume.verify_chunk(&stored).wait().expect("checked"), expected);
    }
    let named: Vec<_> = found.iter().map(|found| (found.chunk.offset, found.damage)).collect();
    assert_eq!(named, [(at(1), Damage::Corrupt), (at(3), Damage::Missing)]);
}

#[test]
fn one_version_is_seen_or_none() {
    let server = Server::start();
    let (_client, volume) = connect(&server);
    let before = sample(30 * CHUNK_BYTES as usize, 1);
    put(&volume, "f", &before);
    let mut download = volume.download(b"f", ReadRange::Whole).wait().expect("it is there");
    let mut first = vec![0; 1000];
    download.read_exact(&mut first).expect("read");
    put(&volume, "f", b"another");
    // Its chunks are still there: the old version is read to its end.
    let mut rest = Vec::new();
    download.read_to_end(&mut rest).expect("read");
    assert_eq!([first, rest].concat(), before);
    // Another reader comes too late for chunks that were reclaimed meanwhile.
    put(&volume, "f", &before);
    let entry = volume.stat(b"f", true).wait().expect("it is there");
    put(&volume, "f", b"third");
    server.with(|cluster| {
        let kept = cluster.files[&b"f"[..]].chunks.clone();
        cluster.chunks.retain(|id, _| kept.iter().any(|chunk| chunk.1 == *id));
    });
    let mut late = volume.download_entry(&entry, ReadRange::Whole).expect("a file");
    assert!(
        matches!(late.next(), Some(Err(Error::Replaced { version, .. })) if version == entry.attributes.version)
    );
    assert!(matches!(late.next(), Some(Err(Error::Replaced { .. }))), "it stays");
}

/// Connections break all the time: every file is there once, whole, and what is read is what was written.
#[test]
fn broken_connections_break_no_file() {
    let server = Server::start();
    let (_client, volume) = connect(&server);
    let bytes = sample(24 * CHUNK_BYTES as usize + 5, 3);
    for round in 0..6 {
        let path = format!("f{round}");
        let mut upload = volume.upload(path.as_bytes(), UploadOptions::default()).expect("a good path");
        for (i, part) in bytes.chunks(3 * CHUNK_BYTES as usize).enumerate() {
            upload.write_all(part).expect("taken");
            if (i + round) % 3 == 0 {
                server.hang_up();
            }
        }
        upload.finish().wait().expect("committed");
        volume
            .mkdir(format!("d{round}").as_bytes(), NewAttributes::default(), false)
            .wait()
            .expect("made once");
        let mut found = Vec::new();
        let mut download = volume.download(path.as_bytes(), ReadRange::Whole).wait().expect("it is there");
        for (i, piece) in Iterator::enumerate(&mut download) {
            let Ok(Piece::Data { bytes, .. }) = piece else { panic!("{piece:?}") };
            found.extend_from_slice(&bytes);
            if (i + round) % 7 == 0 {
                server.hang_up();
            }
        }
        assert_eq!(found, bytes);
    }
    assert!(server.with(|cluster| cluster.executions.values().all(|count| *count == 1)));
}

/// The budget bounds what one transfer holds, whatever the file's size; and it all comes back.
#[test]
fn memory_does_not_grow_with_the_file() {
    let server = Server::start();
    let (_client, volume) = connect(&server);
    let budget = volume.handle().budget();
    let block = sample(1 << 20, 1);
    let mut most = [0, 0];
    for (most, megabytes) in most.iter_mut().zip([16, 48]) {
        let mut upload = volume.upload(b"large", UploadOptions::default()).expect("a good path");
        for _ in 0..megabytes {
            upload.write_all(&block).expect("taken");
            *most = budget.used_bytes().max(*most);
        }
        upload.finish().wait().expect("committed");
        let mut download = volume.download(b"large", ReadRange::Whole).wait().expect("it is there");
        let mut found = vec![0; 1 << 20];
        for _ in 0..megabytes {
            download.read_exact(&mut found).expect("read");
            assert!(found == block);
            *most = budget.used_bytes().max(*most);
        }
        drop(download);
    }
    assert!(most.iter().all(|most| *most <= 4 << 20), "{most:?}");
    assert_eq!(budget.used_bytes(), 0);
}

#[test]
fn a_server_that_is_not_there_is_named() {
    let config = Config::new(["127.0.0.1:1"]).with_deadline(Duration::from_millis(300));
    let error = Client::connect(config).expect_err("nobody listens on port 1");
    assert!(matches!(&error, Error::Unavailable { endpoint, .. } if endpoint == "127.0.0.1:1"), "{error}");
    assert!(matches!(Client::connect(Config::default()), Err(Error::Configuration("endpoints"))));
}

/// It was "what answers doesn't speak the protocol", although the answer says which version it speaks.
#[test]
fn a_server_of_another_version_is_named() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let endpoint = listener.local_addr().expect("bound").to_string();
    runtime::spawn_thread("newer-server", None, move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let mut answer = wire::Prefix::reply(FrameKind::Hello, 0, Status::UnsupportedVersion).encode(&[]);
            answer[4] = 7;
            // The client may be gone by then; it closes when it has read the answer.
            let _ = stream.read(&mut [0; 4096]);
            let _ = stream.write_all(&answer);
            let _ = stream.read_to_end(&mut Vec::new());
        }
    })
    .expect("a thread");
    let config = Config::new([endpoint.as_str()]).with_deadline(Duration::from_secs(5));
    let error = Client::connect(config).expect_err("a version that isn't spoken here");
    assert!(
        matches!(&error, Error::Unavailable { reason: UnavailableReason::OtherVersion { server: 7 }, .. }),
        "{error:?}"
    );
    assert!(error.to_string().contains("protocol version 7, this client 1"), "{error}");
}

#[test]
fn a_name_is_looked_up() {
    let server = Server::start();
    let port = server.endpoint().rsplit(':').next().expect("a port").to_owned();
    let client = Client::connect(Config::new([format!("localhost:{port}")])).expect("found by name");
    client.volumes().wait().expect("listed");
}

/// Only the first address of a name was ever tried: where `localhost` is `::1` first, a server on `127.0.0.1` was never found.
#[test]
fn all_addresses_of_a_name_are_tried() {
    fn resolve(name: &str) -> Vec<SocketAddr> {
        let port = name.rsplit(':').next().and_then(|port| port.parse().ok()).expect("a port");
        // Nobody listens on the first two.
        [2, 3, 1].map(|last| SocketAddr::from(([127, 0, 0, last], port))).to_vec()
    }
    let server = Server::start();
    let port = server.endpoint().rsplit(':').next().expect("a port").to_owned();
    let config = Config::new([format!("several.example:{port}")]).with_deadline(Duration::from_mins(1));
    let handle = Handle::start_with(config, resolve).expect("started");
    Client::with_handle(handle, Duration::from_secs(5))
        .expect("found behind its third address")
        .volumes()
        .wait()
        .expect("listed");
}

#[test]
fn a_deadline_of_a_handle() {
    let server = Server::start();
    let (_client, volume) = connect(&server);
    volume.mkdir(b"a", NewAttributes::default(), false).wait().expect("made");
    server.with(|cluster| cluster.swallow.insert(FrameKind::Query, u32::MAX));
    // Long enough for a request to leave, and for an answer to come, on a machine that has much else to do.
    let impatient = volume.with_deadline(Duration::from_millis(500));
    assert!(matches!(impatient.stat(b"a", true).wait(), Err(Error::Timeout { waited_ms: 500, .. })));
    server.with(|cluster| cluster.swallow.insert(FrameKind::Mutate, 1));
    let unknown = impatient.mkdir(b"b", NewAttributes::default(), false).wait().expect_err("never answered");
    assert_eq!(unknown.kind(), ErrorKind::OutcomeUnknown);
    server.with(|cluster: &mut FakeCluster| cluster.refuse(FrameKind::Mutate, 10_000, Status::Busy, 5));
    assert!(matches!(impatient.mkdir(b"c", NewAttributes::default(), false).wait(), Err(Error::Busy { .. })));
}
