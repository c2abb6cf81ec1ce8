//! Mutations and queries: exactly once, and a clear outcome.

use wire::meta::{Answer, NewAttributes, Operation, Place, Query};
use wire::{FrameKind, GroupId, InodeId, Nanos, Status};

use super::world::{PATIENCE, World};
use crate::core::fake::{FakeCluster, META, SHARDS, VOLUME};
use crate::core::{Call, Done, Event, Failure, Settings};
use crate::error::UnavailableReason;

const GROUP: GroupId = GroupId(0);

pub(super) fn place(path: &str) -> Place {
    Place { volume: VOLUME, directory: InodeId::ROOT, path: path.as_bytes().to_vec() }
}

pub(super) fn mkdir(path: &str) -> Call {
    let operation =
        Operation::MakeDirectory { place: place(path), attributes: NewAttributes::default(), parents: false };
    Call::Mutate { group: GROUP, upload: None, operation: Box::new(operation) }
}

pub(super) fn lookup(path: &str) -> Call {
    let query = Query::Lookup { place: place(path), follow: true, xattrs: false, roots: 0 };
    Call::Query { group: GROUP, query: Box::new(query) }
}

fn executions(world: &World, path: &str) -> u32 {
    world.cluster.executions.get(path.as_bytes()).copied().unwrap_or(0)
}

fn status(result: &Result<Done, Failure>) -> Status {
    match result {
        Ok(Done::Outcome(outcome)) => outcome.status,
        other => panic!("not an outcome: {other:?}"),
    }
}

#[test]
fn a_mutation_and_a_query() {
    let mut world = World::new(1);
    assert_eq!(status(&world.finish_call(mkdir("a"))), Status::Ok);
    assert_eq!(status(&world.finish_call(mkdir("a"))), Status::AlreadyExists);
    assert!(
        matches!(world.finish_call(lookup("a")), Ok(Done::Answer(answer)) if matches!(*answer, Answer::Entry(_)))
    );
    assert!(
        matches!(world.finish_call(lookup("b")), Err(Failure::Refused { status: Status::NotFound, .. })),
        "a query's refusal is final"
    );
    assert_eq!(executions(&world, "a"), 2, "an executed failure is a result, too");
    assert_eq!(world.cluster.sessions.len(), 1);
    // The map came in many pages.
    assert!(world.cluster.frames_seen[&FrameKind::GetMap] > 2);
    assert_eq!(world.core.counts().requests, 0);
}

#[test]
fn a_lost_answer_is_asked_for_again_under_the_same_number() {
    let mut world = World::new(2);
    world.cluster.swallow.insert(FrameKind::Mutate, 1);
    let ticket = world.call(mkdir("a"));
    world.run_for(Nanos::SECOND);
    assert_eq!(executions(&world, "a"), 1);
    assert!(world.finished.is_empty());
    world.crash(META);
    assert_eq!(status(&world.finish(ticket)), Status::Ok, "the first result");
    assert_eq!(executions(&world, "a"), 1, "I7");
}

#[test]
fn silence_is_taken_for_a_dead_connection() {
    let mut world = World::new(3);
    world.cluster.swallow.insert(FrameKind::Mutate, 1);
    let begin = world.now;
    let result = world.finish_call(mkdir("a"));
    assert_eq!(status(&result), Status::Ok);
    assert_eq!(executions(&world, "a"), 1);
    assert!(world.now.since(begin) >= 10 * Nanos::SECOND);
}

/// R14: "failed" only if every copy sent was answered "not executed", else unknown.
#[test]
fn outcomes_at_the_deadline() {
    let begin = |seed| {
        let mut world = World::new(seed);
        assert_eq!(status(&world.finish_call(mkdir("first"))), Status::Ok);
        world
    };
    // Sent and never answered.
    let mut world = begin(1);
    world.mute.push(META.to_owned());
    let ticket = world.call_for(mkdir("a"), 3 * Nanos::SECOND);
    let sent_at = world.now;
    assert_eq!(world.finish(ticket), Err(Failure::Unknown));
    assert_eq!(world.now.since(sent_at), 3 * Nanos::SECOND);
    assert_eq!(executions(&world, "a"), 1);
    // One copy sent and cut off, then nobody there.
    let mut world = begin(2);
    world.mute.push(META.to_owned());
    let ticket = world.call_for(mkdir("a"), 3 * Nanos::SECOND);
    world.run_for(Nanos::MILLISECOND * 100);
    world.dead.push(META.to_owned());
    world.crash(META);
    assert_eq!(world.finish(ticket), Err(Failure::Unknown));
    // Every copy refused.
    let mut world = begin(3);
    world.cluster.refuse(FrameKind::Mutate, 10_000, Status::Busy, 20);
    let ticket = world.call_for(mkdir("a"), 3 * Nanos::SECOND);
    assert!(matches!(world.finish(ticket), Err(Failure::Busy { .. })));
    assert_eq!(executions(&world, "a"), 0);
    // Nobody there from the beginning.
    let mut world = begin(4);
    world.dead.push(META.to_owned());
    world.crash(META);
    let ticket = world.call_for(mkdir("a"), 3 * Nanos::SECOND);
    let result = world.finish(ticket);
    assert!(
        matches!(&result, Err(Failure::Unavailable { address, reason: UnavailableReason::Connect }) if **address == *META),
        "{result:?}"
    );
    // One copy unanswered, the later ones refused: still unknown.
    let mut world = begin(5);
    world.cluster.swallow.insert(FrameKind::Mutate, 1);
    let ticket = world.call_for(mkdir("a"), 3 * Nanos::SECOND);
    world.run_for(100 * Nanos::MILLISECOND);
    world.cluster.refuse(FrameKind::Mutate, 10_000, Status::Busy, 20);
    world.crash(META);
    assert_eq!(world.finish(ticket), Err(Failure::Unknown));
}

/// A server at its limit of connections was given up as one that isn't serving.
#[test]
fn a_server_with_too_many_connections_is_tried_until_the_deadline() {
    let mut world = World::new(16);
    world.cluster.refuse(FrameKind::Hello, 8, Status::Busy, 20);
    assert_eq!(status(&world.finish_call(mkdir("a"))), Status::Ok);

    let mut world = World::new(17);
    world.cluster.refuse(FrameKind::Hello, 10_000, Status::Busy, 20);
    let begun = world.now;
    let ticket = world.call_for(lookup("a"), 12 * Nanos::SECOND);
    let result = world.finish(ticket);
    assert!(
        matches!(&result, Err(Failure::Unavailable { address, reason: UnavailableReason::Connections }) if **address == *META),
        "{result:?}"
    );
    assert_eq!(world.now.since(begun), 12 * Nanos::SECOND);
    let tries = world.cluster.frames_seen[&FrameKind::Hello];
    assert!((5..=25).contains(&tries), "{tries} tries in 12 s, the pause growing to 2 s");
}

#[test]
fn a_query_that_is_not_answered_times_out() {
    let mut world = World::new(6);
    assert_eq!(status(&world.finish_call(mkdir("a"))), Status::Ok);
    world.mute.push(META.to_owned());
    let ticket = world.call_for(lookup("a"), 2 * Nanos::SECOND);
    assert!(matches!(world.finish(ticket), Err(Failure::Timeout { address }) if *address == *META));
    // What is left is the core's own: it looks for somebody else who has the map.
    assert_eq!(world.core.requests.of_ticket(ticket), None);
}

#[test]
fn busy_waits_as_long_as_it_is_told() {
    let mut world = World::new(7);
    assert_eq!(status(&world.finish_call(mkdir("first"))), Status::Ok);
    world.cluster.refuse(FrameKind::Mutate, 3, Status::Busy, 700);
    let begin = world.now;
    assert_eq!(status(&world.finish_call(mkdir("a"))), Status::Ok);
    let took = world.now.since(begin);
    assert!(took >= 2_100 * Nanos::MILLISECOND, "three pauses of 700 ms, took {took} ns");
    assert_eq!(executions(&world, "a"), 1);
}

#[test]
fn an_expired_session_that_answered_everything_is_replaced() {
    let mut world = World::new(8);
    assert_eq!(status(&world.finish_call(mkdir("first"))), Status::Ok);
    world.cluster.sessions.clear();
    assert_eq!(status(&world.finish_call(mkdir("a"))), Status::Ok);
    assert_eq!(executions(&world, "a"), 1);
}

/// R21: after `SessionExpired` an unanswered mutation is unknown and never executed again.
#[test]
fn an_expired_session_with_an_unanswered_mutation_is_unknown() {
    let mut world = World::new(9);
    assert_eq!(status(&world.finish_call(mkdir("first"))), Status::Ok);
    world.cluster.swallow.insert(FrameKind::Mutate, 1);
    let ticket = world.call(mkdir("a"));
    world.run_for(100 * Nanos::MILLISECOND);
    assert_eq!(executions(&world, "a"), 1);
    world.cluster.sessions.clear();
    world.crash(META);
    assert_eq!(world.finish(ticket), Err(Failure::Unknown));
    assert_eq!(executions(&world, "a"), 1, "not a second time in a new session");
}

#[test]
fn a_refusal_for_good_is_an_error_at_once() {
    let mut world = World::new(10);
    assert_eq!(status(&world.finish_call(mkdir("first"))), Status::Ok);
    world.cluster.refuse(FrameKind::Mutate, 1, Status::NoSpace, 0);
    assert!(matches!(world.finish_call(mkdir("a")), Err(Failure::Refused { status: Status::NoSpace, .. })));
    // A store that failed may have kept the entry.
    world.cluster.refuse(FrameKind::Mutate, 1, Status::StoreFailed, 0);
    assert_eq!(world.finish_call(mkdir("a")), Err(Failure::Unknown));
}

#[test]
fn cancelled_before_it_is_sent_it_is_never_executed() {
    let mut world = World::new(11);
    let ticket = world.call(mkdir("a"));
    world.event(Event::Cancel { ticket });
    world.run_for(10 * Nanos::SECOND);
    assert!(world.finished.is_empty());
    assert_eq!(executions(&world, "a"), 0);
    assert_eq!(world.core.counts().requests, 0);
}

#[test]
fn cancelled_after_it_was_sent_it_is_followed_to_its_end() {
    let mut world = World::new(12);
    assert_eq!(status(&world.finish_call(mkdir("first"))), Status::Ok);
    let ticket = world.call(mkdir("a"));
    world.event(Event::Cancel { ticket });
    world.run_for(Nanos::SECOND);
    assert_eq!(executions(&world, "a"), 1);
    assert_eq!(world.finished.len(), 1, "only the first one had somebody waiting");
    assert_eq!(world.core.counts().requests, 0);
}

/// R17: at most 256 results of a session are unacknowledged; the others wait for a number.
#[test]
fn many_mutations_at_once_keep_to_the_limit_of_results() {
    let mut world = World::new(13);
    let tickets: Vec<_> = (0..2_000).map(|i| world.call(mkdir(&format!("d{i}")))).collect();
    for ticket in tickets {
        assert_eq!(status(&world.finish(ticket)), Status::Ok);
    }
    assert!(world.cluster.executions.values().all(|count| *count == 1));
    assert_eq!(world.core.counts().requests, 0);
}

#[test]
fn a_client_that_finds_nobody_says_so_at_its_deadline() {
    let mut world = World::new(14);
    world.dead.push(META.to_owned());
    let ticket = world.call_for(Call::Map, 5 * Nanos::SECOND);
    let result = world.finish(ticket);
    assert!(
        matches!(result, Err(Failure::Unavailable { reason: UnavailableReason::Connect, .. })),
        "{result:?}"
    );
    world.run_for(20 * Nanos::SECOND);
    assert_eq!(world.core.counts().requests, 0, "nobody wants the map any more");
    let connects = world.connects;
    world.run_for(60 * Nanos::SECOND);
    assert_eq!(world.connects, connects, "and nobody asks for it");
}

#[test]
fn a_silent_endpoint_is_passed_over() {
    let endpoints = [SHARDS[0], META].map(std::sync::Arc::from).to_vec();
    let settings = Settings { endpoints, name: "test".to_owned(), window_bytes: 4 << 20, seed: 17 };
    let mut world = World::of(settings, FakeCluster::new());
    world.mute.push(SHARDS[0].to_owned());
    let begin = world.now;
    assert!(world.finish_call(Call::Map).is_ok());
    assert!(world.now.since(begin) < 2 * Nanos::SECOND);
}

#[test]
fn another_clusters_server_is_refused() {
    let mut world = World::new(15);
    assert!(world.finish_call(Call::Map).is_ok());
    world.cluster.refuse(FrameKind::Hello, 100, Status::WrongCluster, 0);
    let result = world.finish_call(Call::ShardState { address: std::sync::Arc::from(SHARDS[0]) });
    assert!(
        matches!(result, Err(Failure::Unavailable { reason: UnavailableReason::WrongCluster, .. })),
        "{result:?}"
    );
    assert!(world.now.0 < PATIENCE, "at once, not at the deadline");
}

/// What no server would take never leaves: hostile names, values over their limits.
#[test]
fn malformed_calls_are_refused_here() {
    let mut world = World::new(16);
    for (path, expected) in [
        ("a\0b".to_owned(), Status::BadRequest),
        ("x".repeat(256), Status::TooLarge),
        ("x/".repeat(3000), Status::TooLarge),
    ] {
        for call in [mkdir(&path), lookup(&path)] {
            let result = world.finish_call(call);
            assert!(
                matches!(&result, Err(Failure::Refused { status, .. }) if *status == expected),
                "{result:?}"
            );
        }
    }
    assert_eq!(world.connects, 0);
}
