//! Chunks: fragments on credit, ranges with proofs, damage, moves, the window.

use wire::checksum::BlockHasher;
use wire::{ChunkId, FrameKind, GroupId, Nanos, Status};

use super::mutation::mkdir;
use super::world::World;
use crate::core::fake::{CLUSTER, FakeCluster, SHARDS};
use crate::core::{Call, Done, Event, Failure, GetCall, Ticket, UploadId};

const GROUP: GroupId = GroupId(0);

pub(super) fn sample(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[3]
    };
    (0..length).map(|_| next()).collect()
}

pub(super) fn open_upload(world: &mut World) -> UploadId {
    match world.finish_call(Call::OpenUpload { group: GROUP }) {
        Ok(Done::Upload { upload, .. }) => upload,
        other => panic!("no upload: {other:?}"),
    }
}

pub(super) fn start_put(world: &mut World, upload: UploadId, bytes: &[u8]) -> Ticket {
    let slot = world.slot(bytes);
    let length = u32::try_from(bytes.len()).expect("small");
    world.call(Call::PutChunk { upload, slot, length })
}

fn chunk(result: Result<Done, Failure>) -> (ChunkId, u64) {
    match result {
        Ok(Done::Chunk { id, root, .. }) => (id, root),
        other => panic!("no chunk: {other:?}"),
    }
}

pub(super) fn get(id: ChunkId, root: u64, length: usize, range: std::ops::Range<usize>) -> Call {
    let to_u32 = |at: usize| u32::try_from(at).expect("small");
    Call::GetChunk(GetCall {
        id,
        length: to_u32(length),
        root,
        range: to_u32(range.start)..to_u32(range.end),
        replica: None,
    })
}

/// The bytes of a finished get, whose slot is given back.
pub(super) fn bytes_of(world: &mut World, result: Result<Done, Failure>) -> Result<Vec<u8>, Failure> {
    match result? {
        Done::Bytes { slot, offset, length, .. } => {
            use wire::Memory;
            let start = offset as usize;
            let bytes = world.memory.bytes(slot)[start..start + length as usize].to_vec();
            world.memory.release(slot);
            Ok(bytes)
        }
        other => panic!("not bytes: {other:?}"),
    }
}

#[test]
fn chunks_of_every_size_come_back_whole_and_in_parts() {
    for put_credit in [64 << 10, 100 << 10, 1 << 20, 16 << 20] {
        let mut cluster = FakeCluster::new();
        cluster.put_credit = put_credit;
        let mut world = World::with(u64::from(put_credit), cluster, 4 << 20);
        let upload = open_upload(&mut world);
        for length in [1, 4095, 4096, 4097, 65_536, 65_537, 300_000, 1 << 20, 4 << 20] {
            let bytes = sample(length, length as u64);
            let ticket = start_put(&mut world, upload, &bytes);
            let result = world.finish(ticket);
            let (id, root) = chunk(result);
            assert_eq!(root, BlockHasher::new(CLUSTER, id).root(&bytes));
            let ranges = [
                0..length,
                0..1,
                length - 1..length,
                length / 3..length / 3 + 1,
                length / 4..length - length / 5,
            ];
            for range in ranges {
                let result = world.finish_call(get(id, root, length, range.clone()));
                assert_eq!(bytes_of(&mut world, result).expect("stored"), bytes[range]);
            }
        }
        assert_eq!(world.memory.used_bytes, 0, "every slot came back");
        assert_eq!(world.core.counts().window_bytes, 0);
    }
}

#[test]
fn ids_of_an_upload_are_consecutive_and_never_repeat() {
    let mut world = World::new(1);
    let uploads = [open_upload(&mut world), open_upload(&mut world)];
    let mut ids = Vec::new();
    for round in 0..4 {
        for upload in uploads {
            let ticket = start_put(&mut world, upload, &sample(100, round));
            let result = world.finish(ticket);
            ids.push(chunk(result).0);
        }
    }
    for i in 2..ids.len() {
        assert_eq!(ids[i].ordinal, ids[i - 2].ordinal + 1);
    }
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), 8);
}

#[test]
fn nothing_but_the_right_bytes_is_handed_out() {
    let mut world = World::new(2);
    let upload = open_upload(&mut world);
    let bytes = sample(500_000, 1);
    let ticket = start_put(&mut world, upload, &bytes);
    let result = world.finish(ticket);
    let (id, root) = chunk(result);
    world.cluster.chunks.get_mut(&id).expect("stored").0[70_000] ^= 1;
    let result = world.finish_call(get(id, root, bytes.len(), 0..bytes.len()));
    assert!(matches!(result, Err(Failure::Corrupt { .. })), "{result:?}");
    let result = world.finish_call(get(id, root, bytes.len(), 70_000..70_001));
    assert!(matches!(result, Err(Failure::Corrupt { .. })), "{result:?}");
    // The range's own blocks are right, but the proof isn't: the server hashed what it has.
    let result = world.finish_call(get(id, root, bytes.len(), 0..4096));
    assert!(matches!(result, Err(Failure::Corrupt { .. })), "{result:?}");
    world.cluster.chunks.clear();
    let result = world.finish_call(get(id, root, bytes.len(), 0..4096));
    assert!(matches!(result, Err(Failure::Missing { .. })), "{result:?}");
    assert_eq!(world.memory.used_bytes, 0);
}

/// The only copy is damaged and its server says so: that is the answer, not a reason to ask until the deadline.
#[test]
fn damage_of_the_only_copy_is_final_at_once() {
    let mut world = World::new(12);
    let upload = open_upload(&mut world);
    let bytes = sample(500_000, 1);
    let ticket = start_put(&mut world, upload, &bytes);
    let result = world.finish(ticket);
    let (id, root) = chunk(result);
    for range in [0..bytes.len(), 4096..5000] {
        let asked = world.cluster.frames_seen.get(&FrameKind::GetChunk).copied().unwrap_or(0);
        world.cluster.refuse(FrameKind::GetChunk, 1, Status::ChecksumMismatch, 0);
        let result = world.finish_call(get(id, root, bytes.len(), range));
        assert!(matches!(result, Err(Failure::Corrupt { .. })), "{result:?}");
        assert_eq!(world.cluster.frames_seen[&FrameKind::GetChunk], asked + 1);
    }
}

#[test]
fn a_flipped_bit_on_the_way_is_noticed_and_the_chunk_read_again() {
    let mut world = World::new(3);
    let upload = open_upload(&mut world);
    let bytes = sample(100_000, 1);
    let ticket = start_put(&mut world, upload, &bytes);
    let result = world.finish(ticket);
    let (id, root) = chunk(result);
    world.faults.flip = 1000;
    let ticket = world.call(get(id, root, bytes.len(), 0..bytes.len()));
    while world.cluster.frames_seen.get(&FrameKind::GetChunk).is_none_or(|seen| *seen < 1) {
        assert!(world.step(Nanos(u64::MAX)));
    }
    // The first answer is on its way, damaged.
    world.faults.flip = 0;
    let result = world.finish(ticket);
    assert_eq!(bytes_of(&mut world, result).expect("the second answer is right"), bytes);
}

#[test]
fn a_new_map_moves_puts_and_gets() {
    let mut world = World::new(4);
    let upload = open_upload(&mut world);
    let bytes = sample(10_000, 1);
    let ticket = start_put(&mut world, upload, &bytes);
    world.finish(ticket).expect("stored");
    world.cluster.change_map();
    let tickets: Vec<_> = (0..20).map(|i| start_put(&mut world, upload, &sample(10_000, i))).collect();
    for ticket in tickets {
        let (_, result) = {
            world.finish(ticket).expect("stored under the new map");
            world.finished[&ticket].clone()
        };
        assert!(matches!(result, Ok(Done::Chunk { map, .. }) if map.0 == 2), "R8: acked under the new map");
    }
}

#[test]
fn a_refused_put_is_sent_again_unchanged() {
    let mut world = World::new(5);
    let upload = open_upload(&mut world);
    world.cluster.refuse(FrameKind::PutChunk, 2, Status::Busy, 30);
    world.cluster.refuse(FrameKind::PutFragment, 1, Status::NotServing, 0);
    let bytes = sample(1 << 20, 9);
    let ticket = start_put(&mut world, upload, &bytes);
    let result = world.finish(ticket);
    let (id, _) = chunk(result);
    assert_eq!(world.cluster.chunks[&id].0, bytes);
    world.cluster.refuse(FrameKind::PutChunk, 1, Status::NoSpace, 0);
    let ticket = start_put(&mut world, upload, &bytes);
    assert!(matches!(world.finish(ticket), Err(Failure::Refused { status: Status::NoSpace, .. })));
    assert_eq!(world.memory.used_bytes, 0);
}

/// A log older than its store hands out ids again: that one of them is taken was told like a file that exists.
#[test]
fn an_id_that_is_taken_is_told_apart() {
    let mut world = World::new(5);
    let upload = open_upload(&mut world);
    world.cluster.refuse(FrameKind::PutChunk, 1, Status::AlreadyExists, 0);
    let ticket = start_put(&mut world, upload, &sample(1000, 9));
    let result = world.finish(ticket);
    assert!(
        matches!(&result, Err(Failure::IdTaken { address, .. }) if SHARDS.contains(&&**address)),
        "{result:?}"
    );
    assert_eq!(world.memory.used_bytes, 0);
}

#[test]
fn a_put_lives_through_a_crash_and_a_dead_shard_is_named() {
    let mut world = World::new(6);
    let upload = open_upload(&mut world);
    let bytes = sample(1 << 20, 9);
    let ticket = start_put(&mut world, upload, &bytes);
    while !world.cluster.frames_seen.contains_key(&FrameKind::PutFragment) {
        assert!(world.step(Nanos(u64::MAX)));
    }
    world.crash(SHARDS[0]);
    world.crash(SHARDS[1]);
    let result = world.finish(ticket);
    let (id, _) = chunk(result);
    assert_eq!(world.cluster.chunks[&id].0, bytes);
    for shard in SHARDS {
        world.dead.push(shard.to_owned());
        world.crash(shard);
    }
    let ticket = start_put(&mut world, upload, &bytes);
    let result = world.finish(ticket);
    assert!(
        matches!(&result, Err(Failure::Unavailable { address, .. }) if SHARDS.contains(&&**address)),
        "{result:?}"
    );
    assert_eq!(world.memory.used_bytes, 0);
}

#[test]
fn cancelling_a_put_gives_its_memory_back_and_tells_the_server() {
    let mut cluster = FakeCluster::new();
    cluster.put_credit = 64 << 10;
    let mut world = World::with(7, cluster, 8 << 20);
    let upload = open_upload(&mut world);
    let ticket = start_put(&mut world, upload, &sample(1 << 20, 1));
    while world.cluster.frames_seen.get(&FrameKind::PutFragment).is_none_or(|seen| *seen < 3) {
        assert!(world.step(Nanos(u64::MAX)));
    }
    world.event(Event::Cancel { ticket });
    assert_eq!(world.memory.used_bytes, 0);
    world.run_for(Nanos::SECOND);
    assert_eq!(world.cluster.frames_seen[&FrameKind::Abort], 1);
    assert!(world.cluster.chunks.is_empty());
    // The link goes on.
    let ticket = start_put(&mut world, upload, &sample(1 << 20, 2));
    world.finish(ticket).expect("stored");
}

#[test]
fn the_window_bounds_chunk_bytes_in_flight() {
    let mut world = World::with(8, FakeCluster::new(), 512 << 10);
    let upload = open_upload(&mut world);
    let bytes = sample(100_000, 1);
    let tickets: Vec<_> = (0..40).map(|_| start_put(&mut world, upload, &bytes)).collect();
    let mut most = 0;
    while world.core.counts().requests > 0 {
        assert!(world.step(Nanos(u64::MAX)));
        most = most.max(world.core.counts().window_bytes);
    }
    assert!((400_000..=512 << 10).contains(&most), "{most}");
    let mut chunks = Vec::new();
    for ticket in tickets {
        let result = world.finish(ticket);
        chunks.push(chunk(result));
    }
    // Reads take memory only inside the window.
    world.memory.used_bytes_max = 0;
    let tickets: Vec<_> =
        chunks.iter().map(|(id, root)| world.call(get(*id, *root, bytes.len(), 0..bytes.len()))).collect();
    for ticket in tickets {
        let result = world.finish(ticket);
        assert_eq!(bytes_of(&mut world, result).expect("stored"), bytes);
    }
    assert!(world.memory.used_bytes_max <= 41 * (128 << 10));
    assert_eq!(world.memory.used_bytes, 0);
}

#[test]
fn a_full_arena_makes_reads_wait() {
    let mut world = World::new(9);
    let upload = open_upload(&mut world);
    let bytes = sample(100_000, 1);
    let ticket = start_put(&mut world, upload, &bytes);
    let result = world.finish(ticket);
    let (id, root) = chunk(result);
    world.memory.limit_bytes = 128 << 10;
    let first = world.call(get(id, root, bytes.len(), 0..bytes.len()));
    world.finish(first).expect("stored");
    let second = world.call(get(id, root, bytes.len(), 0..bytes.len()));
    world.run_for(Nanos::SECOND);
    assert!(!world.finished.contains_key(&second), "the first one's buffer isn't given back yet");
    let result = world.finish(first);
    bytes_of(&mut world, result).expect("stored");
    let result = world.finish(second);
    assert_eq!(bytes_of(&mut world, result).expect("stored"), bytes);
}

#[test]
fn an_upload_of_an_expired_session_fails_and_another_begins_anew() {
    let mut world = World::new(10);
    let upload = open_upload(&mut world);
    let bytes = sample(100, 1);
    let ticket = start_put(&mut world, upload, &bytes);
    world.finish(ticket).expect("stored");
    world.cluster.sessions.clear();
    world.finish_call(mkdir("a")).expect("in a new session");
    let ticket = start_put(&mut world, upload, &bytes);
    assert_eq!(world.finish(ticket), Err(Failure::SessionExpired));
    let upload = open_upload(&mut world);
    let ticket = start_put(&mut world, upload, &bytes);
    world.finish(ticket).expect("stored");
    assert_eq!(world.memory.used_bytes, 0);
}

/// On a slow link a window of chunks takes longer than one chunk's deadline; none of them stands still.
#[test]
fn a_slow_link_is_not_a_dead_one() {
    let mut world = World::with(11, FakeCluster::new(), 4 << 20);
    let upload = open_upload(&mut world);
    let bytes = sample(512 << 10, 1);
    world.finish_call(mkdir("a")).expect("made");
    // 200 KB/s: 21 s for the window.
    world.byte_time = 5_000;
    let patience = 8 * Nanos::SECOND;
    let tickets: Vec<_> = (0..12)
        .map(|_| {
            let slot = world.slot(&bytes);
            world.call_for(Call::PutChunk { upload, slot, length: 512 << 10 }, patience)
        })
        .collect();
    let mut chunks = Vec::new();
    for ticket in tickets {
        let result = world.finish(ticket);
        chunks.push(chunk(result));
    }
    let tickets: Vec<_> = chunks
        .iter()
        .map(|(id, root)| world.call_for(get(*id, *root, bytes.len(), 0..bytes.len()), patience))
        .collect();
    for ticket in tickets {
        let result = world.finish(ticket);
        assert_eq!(bytes_of(&mut world, result).expect("stored"), bytes);
    }
    assert_eq!(world.connects, 3, "no connection was taken for dead");
}
