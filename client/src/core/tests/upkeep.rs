//! What happens by itself: idle links, keepalives, pins, rotation, the end.

use std::sync::Arc;

use wire::meta::{Change, Commit, Operation, Pin, Place, Precondition};
use wire::{ChunkId, FrameKind, GroupId, InodeId, MapNumber, Nanos, Status, Version};

use super::mutation::{lookup, mkdir};
use super::transfer::{open_upload, sample, start_put};
use super::world::World;
use crate::core::extents::ExtentBuilder;
use crate::core::fake::{CHUNK_BYTES, VOLUME};
use crate::core::{Call, Done, Event, Failure, LINK_IDLE, LINKS_MAX, UploadId};
use crate::error::UnavailableReason;

const GROUP: GroupId = GroupId(0);

/// R43.
#[test]
fn idle_links_are_closed() {
    let mut world = World::new(1);
    world.finish_call(lookup("a")).expect_err("not there");
    assert_eq!(world.link_count(), 1);
    world.run_for(LINK_IDLE - Nanos::SECOND);
    assert_eq!(world.link_count(), 1);
    world.run_for(2 * Nanos::SECOND);
    assert_eq!(world.link_count(), 0);
    assert!(matches!(world.finish_call(lookup("a")), Err(Failure::Refused { .. })), "and opened again");
}

/// R43: of too many links the one used longest ago goes.
#[test]
fn there_are_at_most_256_links() {
    let mut world = World::new(2);
    for i in 0..2 * LINKS_MAX {
        let address = Arc::from(format!("10.0.{}.{}:7430", i / 256, i % 256));
        world.finish_call(Call::ShardState { address }).expect("answered");
        assert!(world.core.counts().links <= LINKS_MAX);
    }
    assert_eq!(world.link_count(), LINKS_MAX);
    let all: Vec<_> = (0..2 * LINKS_MAX)
        .map(|i| {
            world.call(Call::ShardState { address: Arc::from(format!("10.1.{}.{}:7430", i / 256, i % 256)) })
        })
        .collect();
    for ticket in all {
        world.finish(ticket).expect("answered when there was a place");
    }
}

#[test]
fn a_session_is_kept_alive() {
    let mut world = World::new(3);
    world.finish_call(mkdir("a")).expect("made");
    world.run_for(100 * Nanos::SECOND);
    assert!((9..=10).contains(&world.cluster.keepalives), "{}", world.cluster.keepalives);
    assert_eq!(world.link_count(), 1, "keepalives keep its link, too");
    assert_eq!(world.cluster.frames_seen[&FrameKind::OpenSession], 1);
}

/// R25: a read that lasts long pins its version, also when it never wrote anything.
#[test]
fn a_long_read_pins_its_version() {
    let mut world = World::new(4);
    world.cluster.map.settings.reclaim_delay_ms = 8_000;
    world.finish_call(Call::Map).expect("the map");
    let pin = Pin { volume: VOLUME, inode: InodeId(9), version: Version(3) };
    let reads: Vec<_> = (0..2)
        .map(|_| match world.finish_call(Call::OpenRead { group: GROUP, pin }) {
            Ok(Done::Read(read)) => read,
            other => panic!("no read: {other:?}"),
        })
        .collect();
    world.event(Event::CloseRead(reads[1]));
    world.run_for(1_900 * Nanos::MILLISECOND);
    assert!(world.cluster.pins.is_empty(), "a short read needs nothing");
    world.run_for(200 * Nanos::MILLISECOND);
    assert_eq!(world.cluster.pins.values().cloned().collect::<Vec<_>>(), [vec![pin]]);
    // A new session has it at once.
    world.cluster.sessions.clear();
    world.cluster.pins.clear();
    world.run_for(11 * Nanos::SECOND);
    assert_eq!(world.cluster.pins.values().cloned().collect::<Vec<_>>(), [vec![pin]]);
    world.event(Event::CloseRead(reads[0]));
    world.run_for(11 * Nanos::SECOND);
    assert_eq!(world.cluster.pins.values().cloned().collect::<Vec<_>>(), [vec![]]);
}

/// R21: after an hour new uploads go to a new session; the old one stays for its uploads and is closed after the last.
#[test]
fn sessions_rotate() {
    let mut world = World::new(5);
    let old = open_upload(&mut world);
    world.run_for(3_601 * Nanos::SECOND);
    let new = open_upload(&mut world);
    assert_eq!(world.cluster.sessions.len(), 2);
    let chunks = [old, new].map(|upload| stored(&mut world, upload));
    assert_ne!(chunks[0].0.session, chunks[1].0.session);
    world.event(Event::CloseUpload(old));
    world.run_for(Nanos::SECOND);
    assert_eq!(world.cluster.closed, [chunks[0].0.session]);
    assert_eq!(commit_absent(&mut world, new, chunks[1]), Status::Ok);
    world.event(Event::CloseUpload(new));
    world.run_for(Nanos::SECOND);
    assert_eq!(world.cluster.closed.len(), 1, "the present session stays");
}

/// R24: chunks that no commit named stay as long as their session lives. A client that went on for an hour, each try refused for want of space, kept
/// the store full with what the tries before had stored.
#[test]
fn a_failed_upload_ends_its_session() {
    let mut world = World::new(7);
    let other = open_upload(&mut world);
    let failed = open_upload(&mut world);
    let session = stored(&mut world, failed).0.session;
    world.event(Event::CloseUpload(failed));
    let next = open_upload(&mut world);
    assert_ne!(stored(&mut world, next).0.session, session, "new uploads go to a new session");
    assert_eq!(stored(&mut world, other).0.session, session, "an upload stays in its own (R21)");
    world.run_for(Nanos::SECOND);
    assert_eq!(world.cluster.closed, []);
    world.event(Event::CloseUpload(other));
    world.run_for(Nanos::SECOND);
    assert_eq!(world.cluster.closed, [session]);
}

#[test]
fn a_committed_upload_leaves_its_session_alone() {
    let mut world = World::new(8);
    let upload = open_upload(&mut world);
    let (first, root) = stored(&mut world, upload);
    assert_eq!(commit_absent(&mut world, upload, (first, root)), Status::Ok);
    world.event(Event::CloseUpload(upload));
    let refused = open_upload(&mut world);
    let (second, root) = stored(&mut world, refused);
    assert_eq!(second.session, first.session);
    assert_eq!(commit_absent(&mut world, refused, (second, root)), Status::AlreadyExists);
    world.event(Event::CloseUpload(refused));
    world.run_for(Nanos::SECOND);
    assert_eq!(world.cluster.closed, [first.session], "what a refused commit named is loose");
}

/// R25: a pin in a new session holds only what ended later than `reclaim_delay` before, and the version may have ended long ago.
#[test]
fn a_session_stays_for_the_reads_that_are_pinned_in_it() {
    let mut world = World::new(9);
    world.cluster.map.settings.reclaim_delay_ms = 8_000;
    let upload = open_upload(&mut world);
    let session = stored(&mut world, upload).0.session;
    let pin = Pin { volume: VOLUME, inode: InodeId(9), version: Version(3) };
    let Ok(Done::Read(read)) = world.finish_call(Call::OpenRead { group: GROUP, pin }) else {
        panic!("no read");
    };
    world.run_for(3 * Nanos::SECOND);
    assert_eq!(world.cluster.pins[&session], [pin]);
    world.event(Event::CloseUpload(upload));
    open_upload(&mut world);
    world.run_for(100 * Nanos::SECOND);
    assert_eq!((world.cluster.closed.as_slice(), &world.cluster.pins[&session]), (&[][..], &vec![pin]));
    world.event(Event::CloseRead(read));
    world.run_for(Nanos::SECOND);
    assert_eq!(world.cluster.closed, [session]);
}

fn stored(world: &mut World, upload: UploadId) -> (ChunkId, u64) {
    let ticket = start_put(world, upload, &sample(10, 1));
    match world.finish(ticket) {
        Ok(Done::Chunk { id, root, .. }) => (id, root),
        other => panic!("no chunk: {other:?}"),
    }
}

/// Makes the chunk a file, if there is none yet.
fn commit_absent(world: &mut World, upload: UploadId, (id, root): (ChunkId, u64)) -> Status {
    let mut extents = ExtentBuilder::new(CHUNK_BYTES);
    extents.push(0, id, 10, root).expect("one fits");
    let commit = Commit {
        place: Place { volume: VOLUME, directory: InodeId::ROOT, path: b"a".to_vec() },
        change: Change::Replace { size: 10 },
        extents: extents.take(),
        upload: 0,
        attributes: None,
        precondition: Precondition::Absent,
        map: MapNumber(1),
    };
    let operation = Box::new(Operation::Commit(commit));
    match world.finish_call(Call::Mutate { group: GROUP, upload: Some(upload), operation }) {
        Ok(Done::Outcome(outcome)) => outcome.status,
        other => panic!("no outcome: {other:?}"),
    }
}

#[test]
fn the_end_closes_sessions_and_fails_what_is_under_way() {
    let mut world = World::new(6);
    world.finish_call(mkdir("a")).expect("made");
    let sent = world.call(mkdir("b"));
    let asked = world.call(lookup("b"));
    world.event(Event::Shutdown);
    assert_eq!(world.finish(sent), Err(Failure::Unknown), "it was sent");
    let shut =
        |result| matches!(result, Err(Failure::Unavailable { reason: UnavailableReason::Shutdown, .. }));
    assert!(shut(world.finish(asked)));
    assert!(shut(world.finish_call(lookup("c"))));
    world.run_for(Nanos::SECOND);
    assert_eq!(world.cluster.closed.len(), 1);
    assert!(world.cluster.sessions.is_empty());
    world.run_for(100 * Nanos::SECOND);
    assert_eq!((world.core.counts().requests, world.link_count()), (0, 0));
}
