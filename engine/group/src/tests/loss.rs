//! What the cluster map says is lost, and a log without space.

use std::sync::Arc;

use placement::{ClusterMap, Edition};
use replica::ReplicaConfig;
use wire::message::{Reply, Request};
use wire::meta::{Change, Commit, Extents, Operation, Place, Precondition, Query, Run};
use wire::{ChunkId, InodeId, MapNumber, Nanos, SessionId, Status, VolumeId};

use super::bench::{Bench, decode, make_directory, map, mutation};

/// A file of one chunk that was acked under this map.
fn commit(session: SessionId, ordinal: u64, acked: MapNumber) -> Operation {
    let first = ChunkId { session, ordinal };
    let (chunk_bytes, last_chunk_bytes) = (4096, 4096);
    let run = Run { file_offset: 0, length: 4096, first, count: 1, chunk_bytes, last_chunk_bytes, skip: 0 };
    Operation::Commit(Commit {
        place: Place { volume: VolumeId(1), directory: InodeId::ROOT, path: b"file".to_vec() },
        change: Change::Replace { size: 4096 },
        extents: Extents { runs: vec![run], roots: vec![1] },
        upload: 0,
        attributes: None,
        precondition: Precondition::Any,
        map: acked,
    })
}

/// R8: the stamps of the map never reached the replica: what was acked before a loss was committed after it, a whole file with a missing chunk.
#[test]
fn what_was_acked_before_a_loss_is_not_committed() {
    let mut bench = Bench::new();
    let session = bench.filled(0);
    let accepted: ClusterMap = map(1, [10, 11]).with_accepted_loss().expect("a legal map");
    // Without what it says of the group itself, whose sessions it would close (R20).
    let mut stamped = accepted.as_map().clone();
    stamped.groups[0].generation = 0;
    let stamped = ClusterMap::new(stamped).expect("a legal map");
    let number = stamped.number();
    let edition = Arc::new(Edition::new(stamped));
    bench.event(|member, clock, memory, effects| member.on_map(clock, edition, memory, effects));
    bench.request(1, 50, &mutation(session, 2, commit(session, 1, MapNumber(1))));
    bench.run();
    let reply = bench.reply();
    let Reply::Mutate(outcome) = decode(&reply) else { panic!("{reply:?}") };
    assert_eq!(outcome.status, Status::ChunksLost);
    bench.request(1, 51, &mutation(session, 3, commit(session, 2, number)));
    bench.run();
    assert_eq!(bench.answers(), [(51, Status::Ok)], "written again, under the new map");
    let mut accepted = accepted.as_map().clone();
    accepted.number = MapNumber(number.0 + 1);
    let edition = Arc::new(Edition::new(ClusterMap::new(accepted).expect("a legal map")));
    bench.event(|member, clock, memory, effects| member.on_map(clock, edition, memory, effects));
    bench.request(1, 52, &mutation(session, 4, make_directory(1)));
    bench.run();
    assert_eq!(bench.answers(), [(52, Status::SessionExpired)], "the group's generation has risen");
}

/// Mutations were executed on and on while the log had no space, and none was answered: no error, but an unknown outcome after the deadline.
#[test]
fn a_log_without_space_says_so() {
    let mut bench = Bench::with(ReplicaConfig { checkpoint_log_bytes: 1 << 40, ..ReplicaConfig::default() });
    let session = bench.filled(1);
    bench.disk.capacity = bench.disk.length();
    let mut number = 3;
    let refused = loop {
        bench.request(1, number, &mutation(session, number, make_directory(number)));
        bench.run();
        match bench.answers()[..] {
            [(_, Status::Ok)] => number += 1,
            [(_, Status::NoSpace)] => break number,
            ref other => panic!("{other:?}"),
        }
        assert!(number < 100_000, "the log has no end");
    };
    // Nothing is executed that would wait for space.
    for correlation in refused + 1..refused + 20 {
        bench.request(1, correlation, &mutation(session, correlation, make_directory(correlation)));
        bench.run();
        assert_eq!(bench.answers(), [(correlation, Status::NoSpace)]);
    }
    bench.request(1, 5, &Request::KeepAlive { session, pins: Vec::new() });
    bench.request(1, 6, &Request::Query(Query::GroupStatus));
    bench.run();
    let before = bench.member.replica().expect("it serves").metrics().entries;
    bench.pass(2 * Nanos::SECOND);
    assert_eq!(bench.member.replica().expect("it serves").metrics().entries, before, "upkeep rests");
    bench.sent.clear();
    // Space comes: the numbers of those that were refused are free.
    bench.disk.capacity = u64::MAX;
    bench.pass(12 * Nanos::SECOND);
    bench.sent.clear();
    bench.request(1, refused, &mutation(session, refused, make_directory(refused)));
    bench.run();
    assert_eq!(bench.answers(), [(refused, Status::Ok)]);
}
