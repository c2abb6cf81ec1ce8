//! What peers may not do to a thread: each limit is reached and answered, and others don't notice.

use std::io::{Read, Write};
use std::time::Duration;

use runtime::{CloseReason, Io, LinkId, LinkLimits, Payload, Service, ThreadConfig};
use wire::message::Reply;
use wire::{DecodePrefixError, FrameKind, Nanos, PREFIX_BYTES, Prefix, Status};

use crate::support::{Client, Happened, frame, pattern, start};

fn short() -> LinkLimits {
    LinkLimits {
        hello_timeout: 200 * Nanos::MILLISECOND,
        head_timeout: 200 * Nanos::MILLISECOND,
        ..LinkLimits::default()
    }
}

#[test]
fn bytes_that_are_no_frame() {
    let server = start(LinkLimits::default(), None);
    let mut bad_version = frame(FrameKind::KeepAlive, 1, b"hello", &[]);
    bad_version[4] = 9;
    let mut bad_checksum = frame(FrameKind::KeepAlive, 1, b"hello", &[]);
    bad_checksum[66] ^= 1;
    let cases = [
        (pattern(1, 200), None),
        (bad_version, Some(DecodePrefixError::Version { found: 9 })),
        (bad_checksum, Some(DecodePrefixError::HeadChecksum)),
    ];
    for (bytes, expected) in cases {
        let mut client = Client::new(server.address);
        client.send(FrameKind::KeepAlive, 1, b"first", &[]);
        client.receive();
        client.0.write_all(&bytes).expect("sent");
        assert!(client.is_closed());
        match (server.closed(), expected) {
            (CloseReason::BadFrame(error), Some(expected)) => assert_eq!(error, expected),
            (CloseReason::BadFrame(DecodePrefixError::Magic(_)), None) => {}
            (reason, _) => panic!("{reason}"),
        }
    }
    server.stop();
}

/// A peer of another version was closed on in silence, and could only guess why.
#[test]
fn another_version_is_refused_by_name() {
    let server = start(LinkLimits::default(), None);
    let mut newer = frame(FrameKind::Hello, 7, b"whatever that version says", &[]);
    newer[4] = 2;
    // Even where all but the prefix is another format.
    newer.extend_from_slice(&pattern(3, 300));
    let mut client = Client::new(server.address);
    client.0.write_all(&newer).expect("sent");
    let (prefix, message, payload) = client.receive();
    assert_eq!((prefix.kind, prefix.status), (FrameKind::Hello, Status::UnsupportedVersion));
    assert!(prefix.reply && payload.is_empty());
    assert!(Reply::decode(prefix.kind, prefix.status, &message).is_ok());
    assert!(client.is_closed());
    assert_eq!(server.closed(), CloseReason::BadFrame(DecodePrefixError::Version { found: 2 }));
    server.stop();
}

#[test]
fn lengths_over_the_limit_are_refused_before_memory_is_taken() {
    let server = start(LinkLimits::default(), None);
    for offset in [12, 24] {
        let mut bytes = Prefix::request(FrameKind::PutChunk, 1).encode(&[]);
        bytes[offset..offset + 4].copy_from_slice(&u32::MAX.to_le_bytes());
        let mut client = Client::new(server.address);
        client.0.write_all(&bytes).expect("sent");
        assert!(client.is_closed());
        assert!(matches!(
            server.closed(),
            CloseReason::BadFrame(DecodePrefixError::MessageBytes(_) | DecodePrefixError::PayloadBytes(_))
        ));
    }
    server.stop();
}

#[test]
fn silence_after_connecting() {
    let server = start(short(), None);
    let mut client = Client::new(server.address);
    assert!(client.is_closed());
    assert_eq!(server.closed(), CloseReason::HelloTimeout);
    server.stop();
}

#[test]
fn half_a_head_then_silence() {
    let server = start(short(), None);
    let whole = frame(FrameKind::KeepAlive, 1, &pattern(1, 5000), &[]);
    for cut in [1, 63, 64, 3000] {
        let mut client = Client::new(server.address);
        client.send(FrameKind::KeepAlive, 1, b"hello", &[]);
        client.receive();
        client.0.write_all(&whole[..cut]).expect("sent");
        assert!(client.is_closed());
        assert_eq!(server.closed(), CloseReason::HeadTimeout, "cut at {cut}");
    }
    server.stop();
}

#[test]
fn a_message_that_never_comes_holds_little_memory() {
    // A thousand connections announce a MiB each: 1 GiB if it were believed. The limit for all is 4 MiB.
    let limits = LinkLimits { stash_bytes_max: 4 << 20, ..short() };
    let server = start(limits, None);
    let mut prefix = Prefix::request(FrameKind::KeepAlive, 1);
    let message = vec![0; 1 << 20];
    prefix.message_bytes = 1 << 20;
    let head = prefix.encode(&message);
    let clients: Vec<_> = (0..1000)
        .map(|_| {
            let mut client = Client::new(server.address);
            client.0.write_all(&head).expect("sent");
            client
        })
        .collect();
    for _ in 0..1000 {
        // Their heads are their first frames, so either limit may be the first; memory never is.
        assert!(matches!(server.closed(), CloseReason::HeadTimeout | CloseReason::HelloTimeout));
    }
    drop(clients);
    server.stop();
}

#[test]
fn stashes_of_all_links_together_are_limited() {
    let limits = LinkLimits { stash_bytes_max: 1 << 20, ..LinkLimits::default() };
    let server = start(limits, None);
    let whole = frame(FrameKind::KeepAlive, 1, &vec![0; 1 << 20], &[]);
    let mut client = Client::new(server.address);
    // One link can't have more than all together.
    let _ = client.0.write_all(&whole);
    assert!(client.is_closed());
    assert_eq!(server.closed(), CloseReason::Memory);
    server.stop();
}

/// A few dozen heads of a MiB that were never finished took all the memory that there is for half heads, and whoever's head came in two
/// pieces was closed.
#[test]
fn the_largest_half_head_makes_room() {
    let limits = LinkLimits { stash_bytes_max: 512 << 10, ..LinkLimits::default() };
    let server = start(limits, None);
    let mut greedy = Client::new(server.address);
    let large = frame(FrameKind::KeepAlive, 1, &vec![0; 1 << 20], &[]);
    greedy.0.write_all(&large[..400 << 10]).expect("sent");
    let mut other = Client::new(server.address);
    let small = frame(FrameKind::KeepAlive, 2, &[0; 100], &[]);
    let mut closed = None;
    for _ in 0..1000 {
        // In two pieces, the second one once the first one is surely taken.
        other.0.write_all(&small[..100]).expect("sent");
        std::thread::park_timeout(Duration::from_millis(5));
        other.0.write_all(&small[100..]).expect("sent");
        assert_eq!(other.receive().0.correlation, 2);
        closed = server.happened.try_iter().find(|happened| matches!(happened, Happened::Closed(_)));
        if closed.is_some() {
            break;
        }
    }
    assert_eq!(closed, Some(Happened::Closed(CloseReason::Memory)));
    assert!(greedy.is_closed());
    drop(other);
    assert_eq!(server.closed(), CloseReason::Peer);
    server.stop();
}

#[test]
fn payload_that_stops() {
    // The frame is the first one of its connection: it isn't to be late as a greeting.
    let hello_timeout = LinkLimits::default().hello_timeout;
    let limits = LinkLimits { rate_bytes_min: 10 << 20, hello_timeout, ..short() };
    let server = start(limits, None);
    let whole = frame(FrameKind::PutChunk, 1, &[], &pattern(1, 200_000));
    for cut in [64, 65, 5000, 150_000] {
        let mut client = Client::new(server.address);
        client.0.write_all(&whole[..cut]).expect("sent");
        assert!(client.is_closed());
        assert_eq!(server.closed(), CloseReason::SlowPayload, "cut at {cut}");
    }
    server.stop();
}

#[test]
fn idle_links_are_closed() {
    let limits = LinkLimits { idle_timeout: Some(300 * Nanos::MILLISECOND), ..LinkLimits::default() };
    let server = start(limits, None);
    let mut client = Client::new(server.address);
    client.send(FrameKind::KeepAlive, 1, b"hello", &[]);
    client.receive();
    assert!(client.is_closed());
    assert_eq!(server.closed(), CloseReason::Idle);
    server.stop();
}

/// A peer that asks for much and reads nothing: its queue is bounded, it is closed at last, and another peer is served meanwhile.
#[test]
fn a_slow_reader_harms_no_other() {
    let limits =
        LinkLimits { queue_bytes_max: 1 << 20, head_timeout: Nanos::SECOND, ..LinkLimits::default() };
    let server = start(limits, None);
    let mut slow = Client::new(server.address);
    let request = frame(FrameKind::PutChunk, 1, &[], &pattern(1, 256 << 10));
    let mut writer = slow.0.try_clone().expect("a second handle");
    let sender = runtime::spawn_thread("slow", None, move || {
        for _ in 0..100 {
            if writer.write_all(&request).is_err() {
                return;
            }
        }
    })
    .expect("a thread");
    let mut other = Client::new(server.address);
    let begin = runtime::clock::now();
    let mut served = 0_u64;
    let mut closed = None;
    while closed.is_none() && runtime::clock::now().since(begin) < 20 * Nanos::SECOND {
        other.send(FrameKind::PutChunk, served, &[], &pattern(served, 10_000));
        assert_eq!(other.receive().2, pattern(served, 10_000));
        served += 1;
        closed = server.happened.try_iter().find(|happened| matches!(happened, Happened::Closed(_)));
    }
    assert_eq!(closed, Some(Happened::Closed(CloseReason::SlowReader)));
    // Thousands of times where there is nothing else to do; not even twice if it waited for the slow one.
    assert!(served > 5, "the other peer was served {served} times meanwhile");
    sender.join().expect("ended well");
    let mut rest = Vec::new();
    let _ = slow.0.read_to_end(&mut rest);
    drop((slow, other));
    server.stop();
}

/// Who asks on and on before it reads was closed at its queue's limit; it is held back before, and gets every answer.
#[test]
fn who_reads_late_is_held_back_and_loses_nothing() {
    const FRAMES: u64 = 3000;
    let limits = LinkLimits {
        queue_bytes_max: 1 << 20,
        queue_bytes_total_max: 2 << 20,
        head_timeout: 60 * Nanos::SECOND,
        ..LinkLimits::default()
    };
    let server = start(limits, None);
    let mut late = Client::new(server.address);
    let mut writer = late.0.try_clone().expect("a second handle");
    let (sent, sending) = std::sync::mpsc::channel();
    let sender = runtime::spawn_thread("late", None, move || {
        for number in 0..FRAMES {
            // Together far more than the sockets hold.
            writer
                .write_all(&frame(FrameKind::KeepAlive, number, &vec![number.to_le_bytes()[0]; 20_000], &[]))
                .expect("sent");
            let _ = sent.send(());
        }
    })
    .expect("a thread");
    // It doesn't read before it can't write any more.
    while sending.recv_timeout(Duration::from_millis(300)).is_ok() {}
    let mut other = Client::new(server.address);
    other.send(FrameKind::KeepAlive, 7, &[1; 100], &[]);
    assert_eq!(other.receive().0.correlation, 7);
    for number in 0..FRAMES {
        let (prefix, message, _) = late.receive();
        assert_eq!((prefix.correlation, message[19_999]), (number, number.to_le_bytes()[0]));
    }
    sender.join().expect("ended well");
    drop((late, other));
    server.stop();
}

/// Answers to each request with more than a socket holds.
struct Large {
    told: std::sync::mpsc::Sender<(LinkId, usize, Option<CloseReason>)>,
}

const LARGE_BYTES: usize = 16 << 20;

impl Service for Large {
    fn on_head(&mut self, io: &mut Io, link: LinkId, _: &Prefix, _: &[u8]) -> Payload {
        assert_eq!(io.send(link, &vec![7; LARGE_BYTES], None, None), Ok(()));
        let _ = self.told.send((link, io.queued_bytes_total(), None));
        Payload::None
    }

    fn on_close(&mut self, io: &mut Io, link: LinkId, reason: CloseReason) {
        let _ = self.told.send((link, io.queued_bytes_total(), Some(reason)));
    }
}

/// Each connection might hold 16 MiB of answers that it didn't read, so four thousand held 64 GiB.
#[test]
fn answers_that_nobody_reads_are_bounded_together() {
    const TOTAL: usize = LARGE_BYTES * 5 / 2;
    let (told, events) = std::sync::mpsc::channel();
    let (bound, address) = std::sync::mpsc::channel();
    let links = LinkLimits {
        queue_bytes_total_max: TOTAL,
        head_timeout: 60 * Nanos::SECOND,
        ..LinkLimits::default()
    };
    let config = ThreadConfig { links, ..ThreadConfig::new("large") };
    let handle = runtime::serve(config, move |io| {
        let address = io.listen("127.0.0.1:0".parse().expect("an address")).expect("a port");
        bound.send(address).expect("the test waits");
        Large { told }
    })
    .expect("started");
    let address = address.recv().expect("bound");
    let mut clients = Vec::new();
    let (mut asked, mut closed) = (Vec::new(), Vec::new());
    for number in 0..6 {
        clients.push(Client::new(address));
        clients[number].send(FrameKind::KeepAlive, 1, &[], &[]);
        while asked.len() <= number {
            let (link, queued, reason) = events.recv_timeout(Duration::from_secs(20)).expect("an event");
            assert!(queued <= TOTAL, "{queued} bytes are queued");
            match reason {
                None => asked.push(link),
                Some(reason) => closed.push((link, reason)),
            }
        }
    }
    // The last one reads: it has all of its answer, whoever doesn't.
    let mut answer = vec![0; LARGE_BYTES];
    clients[5].0.read_exact(&mut answer).expect("the whole answer");
    while closed.len() < 4 {
        let (link, _, reason) = events.recv_timeout(Duration::from_secs(20)).expect("an event");
        closed.extend(reason.map(|reason| (link, reason)));
    }
    for (link, reason) in &closed {
        assert_eq!(*reason, CloseReason::SlowReader);
        assert!(asked[..5].contains(link), "only who doesn't read");
    }
    handle.stop();
    drop(clients);
    handle.join().expect("ended well");
}

#[test]
fn links_beyond_the_limit() {
    let limits = LinkLimits { links: 2, links_cap: 3, ..LinkLimits::default() };
    let server = start(limits, None);
    let mut clients: Vec<_> = (0..3).map(|_| Client::new(server.address)).collect();
    for client in &mut clients {
        client.send(FrameKind::KeepAlive, 1, b"hello", &[]);
        client.receive();
    }
    let opened: Vec<_> = server.happened.try_iter().collect();
    assert_eq!(opened, [false, false, true].map(|over_limit| Happened::Opened { over_limit }));
    let mut beyond = Client::new(server.address);
    assert!(beyond.is_closed(), "the cap is absolute");
    drop(clients.pop());
    assert_eq!(server.closed(), CloseReason::Peer);
    let mut again = Client::new(server.address);
    again.send(FrameKind::KeepAlive, 1, b"hello", &[]);
    assert_eq!(again.receive().0.correlation, 1);
    server.stop();
}

#[test]
fn two_thousand_links() {
    let server = start(LinkLimits::default(), None);
    let mut clients: Vec<_> = (0..2000).map(|_| Client::new(server.address)).collect();
    for round in 0..3_u64 {
        for (number, client) in clients.iter_mut().enumerate() {
            client.send(FrameKind::PutChunk, number as u64, &round.to_le_bytes(), &pattern(round, 300));
        }
        for (number, client) in clients.iter_mut().enumerate() {
            let (prefix, _, payload) = client.receive();
            assert_eq!(prefix.correlation, number as u64);
            assert_eq!(payload, pattern(round, 300));
        }
    }
    drop(clients);
    server.stop();
}

#[test]
fn a_reset_connection_is_closed() {
    let server = start(LinkLimits::default(), None);
    let mut client = Client::new(server.address);
    // Unread answers make the kernel reset the connection when it is dropped.
    for _ in 0..10 {
        client.send(FrameKind::PutChunk, 1, &[], &pattern(1, 100_000));
    }
    client.0.set_read_timeout(Some(Duration::from_secs(5))).expect("a time limit");
    let mut first = [0; PREFIX_BYTES];
    client.0.read_exact(&mut first).expect("an answer begins");
    drop(client);
    assert!(matches!(server.closed(), CloseReason::Peer | CloseReason::Broken { .. }));
    server.stop();
}

/// Streams of good frames with a few bytes changed: each is answered, refused or waited for, and nothing else happens.
#[test]
fn mutated_frames() {
    let limits = LinkLimits { rate_bytes_min: 10 << 20, ..short() };
    let server = start(limits, None);
    let mut random = 0x9E37_79B9_7F4A_7C15_u64;
    let mut next = move |limit: usize| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        usize::try_from(random % limit as u64).expect("below the limit")
    };
    let mut clients = Vec::new();
    for round in 0..400_u64 {
        let mut bytes = Vec::new();
        for _ in 0..=next(6) {
            let (message, payload) = (next(300), next(3000));
            bytes.extend(frame(FrameKind::KeepAlive, round, &pattern(round, message), &[]));
            bytes.extend(frame(FrameKind::PutChunk, round, &[], &pattern(round, payload)));
        }
        for _ in 0..=next(4) {
            let at = next(bytes.len());
            bytes[at] = bytes[at].wrapping_add(u8::try_from(1 + next(255)).expect("a byte"));
        }
        bytes.truncate(bytes.len() - next(40));
        let mut client = Client::new(server.address);
        let _ = client.0.write_all(&bytes);
        clients.push(client);
        if round % 50 == 49 {
            clients.clear();
        }
    }
    let mut good = Client::new(server.address);
    good.send(FrameKind::KeepAlive, 1, b"still there", &[]);
    assert_eq!(good.receive().1, b"still there");
    drop(good);
    server.stop();
}
