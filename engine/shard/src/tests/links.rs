//! Connections: greeting, what may come before and after it, deletes and inventories for the group.

use std::sync::Arc;

use wire::message::{ChunkIds, Hello, Reply, Request};
use wire::{ClusterId, FrameKind, MapNumber, Prefix, Status};

use super::bench::{Bench, CLUSTER, Chunk, LINKS_MAX, decode, hello, id};
use crate::{CloseReason, Link, Placement};

#[test]
fn a_greeting_is_checked() {
    let other = Hello { cluster: Some(ClusterId([9; 16])), ..hello(1, 1) };
    let same = Hello { cluster: Some(CLUSTER), ..hello(1, 1) };
    for (what, hello, expected, placement) in [
        ("this version", hello(1, 1), Status::Ok, Placement::Discard),
        ("newer ones too", hello(1, 9), Status::Ok, Placement::Discard),
        ("this cluster", same, Status::Ok, Placement::Discard),
        ("newer ones only", hello(2, 9), Status::UnsupportedVersion, Placement::Close(CloseReason::Mismatch)),
        ("older ones only", hello(0, 0), Status::UnsupportedVersion, Placement::Close(CloseReason::Mismatch)),
        ("another cluster", other, Status::WrongCluster, Placement::Close(CloseReason::Mismatch)),
    ] {
        let mut bench = Bench::new();
        bench.shard.on_open(Link(2), &mut bench.effects);
        assert_eq!(bench.request(2, 5, &Request::Hello(hello), &[]), placement, "{what}");
        let reply = bench.reply();
        assert_eq!((reply.prefix.correlation, reply.prefix.status), (5, expected), "{what}");
        if let Reply::Hello(reply) = decode(&reply) {
            assert_eq!((reply.version, reply.map), (1, MapNumber(1)));
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
    bench.shard.on_open(Link(link), &mut bench.effects);
    let placement = bench.request(link, 0, &Request::Hello(hello(1, 1)), &[]);
    assert_eq!(placement, Placement::Close(CloseReason::TooMany));
    assert_eq!(bench.reply().prefix.status, Status::Busy);
    // One that leaves makes room.
    bench.close(link);
    bench.close(2);
    bench.greeted(link + 1);
}

#[test]
fn who_breaks_the_protocol_is_closed() {
    let close = Placement::Close(CloseReason::Protocol);
    let mut bench = Bench::new();
    bench.shard.on_open(Link(2), &mut bench.effects);
    assert_eq!(bench.get_status(2), close, "a request before the greeting");
    assert_eq!(bench.get_status(77), close, "a connection that isn't open");
    let reply = Prefix::reply(FrameKind::ShardStatus, 1, Status::Ok);
    assert_eq!(bench.frame(1, &reply, &[], &[]), close, "a reply");
    let payload = Prefix { payload_bytes: 10, ..Prefix::request(FrameKind::ShardStatus, 1) };
    assert_eq!(bench.frame(1, &payload, &[], &[0; 10]), close, "a payload of no put");
    assert!(bench.sent.is_empty());
    // A message that can't be read is answered, and the next is heard.
    let prefix = Prefix::request(FrameKind::GetChunk, 3);
    assert_eq!(bench.frame(1, &prefix, &[1, 2, 3], &[]), Placement::Discard);
    assert_eq!(bench.answers(), [(3, Status::BadRequest)]);
    assert_eq!(bench.request(1, 4, &Request::OpenSession { name: String::new() }, &[]), Placement::Discard);
    assert_eq!(bench.answers(), [(4, Status::Unsupported)]);
    assert_eq!(bench.get_status(1), Placement::Discard);
    assert_eq!(bench.answers(), [(1, Status::Ok)]);
}

impl Bench {
    fn get_status(&mut self, link: u64) -> Placement {
        self.request(link, 1, &Request::ShardStatus, &[])
    }
}

/// R24: a delete is answered once it is durable; what isn't there counts as gone. A map that isn't known here waits.
#[test]
fn chunks_are_deleted_and_listed() {
    let mut bench = Bench::new();
    for ordinal in 1..=5 {
        bench.stored(&Chunk::new(ordinal, 5000));
    }
    let ids = [id(2), id(4), id(40)];
    let delete = |map: u64| Request::DeleteChunks { map: MapNumber(map), ids: ChunkIds::new(&ids) };
    bench.request(1, 3, &delete(2), &[]);
    assert_eq!(bench.answers(), [(3, Status::NotServing)]);
    bench.request(1, 4, &delete(1), &[]);
    assert!(bench.answers().is_empty());
    bench.run();
    assert_eq!(bench.answers(), [(4, Status::Ok)]);
    let mut found = Vec::new();
    let mut after = None;
    for _ in 0..3 {
        bench.request(1, 5, &Request::Inventory { after, limit: 2 }, &[]);
        bench.run();
        let page = bench.reply();
        let Reply::Inventory { ids, end } = decode(&page) else { panic!("{page:?}") };
        found.extend(ids.iter());
        after = found.last().copied();
        if end {
            break;
        }
    }
    assert_eq!(found, [id(1), id(3), id(5)]);
    assert_eq!(bench.shard.state(&bench.memory).used_bytes, 3 * 8192);
}

/// The orderly end waits for what was accepted, and takes nothing new.
#[test]
fn a_shutdown_finishes_what_was_accepted() {
    let mut bench = Bench::new();
    let (before, after) = (Chunk::new(1, 70_000), Chunk::new(2, 70_000));
    bench.put(1, 7, &before, 1);
    bench.shard.on_shutdown(bench.now, &mut bench.memory, &mut bench.effects);
    bench.settle();
    bench.put(1, 8, &after, 1);
    let mut ended = false;
    for _ in 0..10_000 {
        bench.shard.on_turn(bench.now, &mut bench.memory, &mut bench.effects);
        ended |= bench.effects.shut_down;
        bench.settle();
        let Some((io, outcome)) = bench.disk.complete(&mut bench.memory) else { break };
        bench.shard.on_io(bench.now, io, outcome, &mut bench.memory, &mut bench.effects);
        ended |= bench.effects.shut_down;
        bench.settle();
    }
    assert!(ended);
    assert_eq!(bench.answers(), [(8, Status::NotServing), (7, Status::Ok)]);
}

/// A map is taken once, and never an older one.
#[test]
fn maps_only_grow() {
    let mut bench = Bench::new();
    bench.change_map(3);
    bench.change_map(2);
    bench.request(1, 1, &Request::GetMap { have: MapNumber(3), page: 0 }, &[]);
    let reply = bench.reply();
    assert!(matches!(decode(&reply), Reply::Map { number: MapNumber(3), pages: 0, .. }));
    bench.request(1, 2, &Request::GetMap { have: MapNumber(2), page: 0 }, &[]);
    let reply = bench.reply();
    let Reply::Map { number, bytes, .. } = decode(&reply) else { panic!("{reply:?}") };
    let map = super::bench::map(3);
    assert!(number == MapNumber(3) && Arc::<[u8]>::from(map.as_map().encode()).starts_with(bytes));
    bench.request(1, 3, &Request::GetMap { have: MapNumber(2), page: 99 }, &[]);
    assert_eq!(bench.answers(), [(3, Status::BadRequest)]);
}
