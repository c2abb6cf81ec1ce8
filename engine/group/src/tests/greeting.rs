//! Connections: greeting, order, and answers that wait for the disk.

use wire::message::{Hello, Reply, Request, Role};
use wire::meta::Query;
use wire::{ClusterId, FrameKind, GroupId, MapNumber, Prefix, Status};

use super::bench::{Bench, CLUSTER, LINKS_MAX, create_volume, decode, hello, make_directory, mutation};
use crate::{CloseReason, Link};

#[test]
fn a_greeting_is_checked() {
    let other = Hello { cluster: Some(ClusterId([9; 16])), ..hello(1, 1) };
    let same = Hello { cluster: Some(CLUSTER), ..hello(1, 1) };
    for (what, hello, expected, close) in [
        ("this version", hello(1, 1), Status::Ok, None),
        ("newer ones too", hello(1, 9), Status::Ok, None),
        ("this cluster", same, Status::Ok, None),
        ("newer ones only", hello(2, 9), Status::UnsupportedVersion, Some(CloseReason::Mismatch)),
        ("older ones only", hello(0, 0), Status::UnsupportedVersion, Some(CloseReason::Mismatch)),
        ("another cluster", other, Status::WrongCluster, Some(CloseReason::Mismatch)),
    ] {
        let mut bench = Bench::new();
        bench.open(2);
        assert_eq!(bench.request(2, 5, &Request::Hello(hello)), close, "{what}");
        let reply = bench.reply();
        assert_eq!((reply.prefix.correlation, reply.prefix.status), (5, expected), "{what}");
        if let Reply::Hello(reply) = decode(&reply) {
            assert_eq!((reply.version, reply.map), (1, MapNumber(1)));
            assert_eq!(reply.role, Role::Metadata(GroupId(0)));
        }
    }
}

#[test]
fn connections_beyond_the_limit_are_told_so() {
    let mut bench = Bench::new();
    for link in 2..=u64::from(LINKS_MAX) {
        bench.greeted(link);
    }
    let link = u64::from(LINKS_MAX) + 1;
    bench.open(link);
    assert_eq!(bench.request(link, 0, &Request::Hello(hello(1, 1))), Some(CloseReason::TooMany));
    assert_eq!(bench.reply().prefix.status, Status::Busy);
    bench.close(link);
    bench.close(2);
    bench.greeted(link + 1);
}

#[test]
fn who_breaks_the_protocol_is_closed() {
    let protocol = Some(CloseReason::Protocol);
    let status = Request::Query(Query::GroupStatus);
    let mut bench = Bench::new();
    bench.open(2);
    assert_eq!(bench.request(2, 1, &status), protocol, "a request before the greeting");
    assert_eq!(bench.request(77, 1, &status), protocol, "a connection that isn't open");
    let reply = Prefix::reply(FrameKind::Query, 1, Status::Ok).encode(&[]);
    assert_eq!(bench.frame(1, &reply), protocol, "a reply");
    let payload = Prefix { payload_bytes: 10, ..Prefix::request(FrameKind::Query, 1) };
    assert_eq!(bench.frame(1, &payload.encode(&[])), protocol, "a payload");
    assert!(bench.sent.is_empty());
    // A message that can't be read is answered, and the next is heard.
    let malformed = Prefix { message_bytes: 3, ..Prefix::request(FrameKind::Query, 3) };
    let mut frame = malformed.encode(&[1, 2, 3]).to_vec();
    frame.extend([1, 2, 3]);
    assert_eq!(bench.frame(1, &frame), None);
    assert_eq!(bench.answers(), [(3, Status::BadRequest)]);
    assert_eq!(bench.request(1, 4, &Request::ShardStatus), None);
    assert_eq!(bench.answers(), [(4, Status::Unsupported)]);
    // A correlation id is one request's until that is answered.
    assert_eq!(bench.request(1, 5, &Request::OpenSession { name: String::new() }), None);
    assert_eq!(bench.request(1, 5, &Request::OpenSession { name: String::new() }), protocol);
}

/// R12, R14: an answer leaves after its entry's flush, and not at all once nobody listens.
#[test]
fn answers_wait_for_the_disk() {
    let mut bench = Bench::new();
    let session = bench.session();
    bench.greeted(2);
    bench.request(1, 5, &mutation(session, 1, create_volume()));
    bench.request(2, 5, &mutation(session, 2, make_directory(1)));
    bench.request(1, 6, &Request::Query(Query::Volume { name: "volume".into() }));
    bench.turn();
    while !bench.disk.has_pending_flush() {
        assert!(bench.sent.is_empty(), "answered before a flush was asked for");
        assert!(bench.step());
    }
    bench.close(2);
    bench.run();
    assert!(bench.sent.iter().all(|frame| frame.link == Link(1)));
    assert_eq!(bench.answers(), [(5, Status::Ok), (6, Status::Ok)]);
    let replica = bench.member.replica().unwrap();
    assert_eq!(replica.committed(), replica.state().namespace.index());
}
