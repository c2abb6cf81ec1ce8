//! Servers that stand still: users are kept waiting as long as the chain needs to change, and no longer.

use wire::{ChunkId, Nanos};

use super::mutation::{lookup, mkdir};
use super::transfer::{bytes_of, get, open_upload, sample, start_put};
use super::world::World;
use crate::core::Done;
use crate::core::fake::{FakeCluster, META, SHARDS};

/// A world whose chunks have two replicas each.
fn two_copies(seed: u64) -> World {
    let mut cluster = FakeCluster::new();
    cluster.add_copies();
    World::with(seed, cluster, 4 << 20)
}

/// Which of the two shards leads the chain of this chunk.
fn head_of(world: &World, id: ChunkId) -> &'static str {
    let slice = wire::slice_of(id, u32::from(world.cluster.map.ring_bits));
    SHARDS[usize::from(world.cluster.map.slices[usize::from(slice.0)].chain.members[0].store)]
}

/// A put to a head that stopped without a word waited ten seconds for it, though the chain had another head after two.
#[test]
fn a_put_to_a_silent_head_goes_to_the_next_one_as_soon_as_there_is_one() {
    let mut world = World::new(7);
    let upload = open_upload(&mut world);
    world.mute = SHARDS.iter().map(|shard| (*shard).to_owned()).collect();
    let ticket = start_put(&mut world, upload, &sample(300_000, 1));
    world.run_for(2 * Nanos::SECOND);
    assert!(!world.finished.contains_key(&ticket));
    let began = world.now;
    world.mute.clear();
    world.cluster.change_map(); // each chain has the other shard now
    let result = world.finish(ticket);
    assert!(matches!(result, Ok(Done::Chunk { .. })), "{result:?}");
    let waited = world.now.since(began);
    assert!(waited < 2 * Nanos::SECOND, "{} ms after the map", waited / Nanos::MILLISECOND);
}

/// A mutation whose head stopped goes to the new head under its old number: it may have been executed (I7).
#[test]
fn a_mutation_follows_the_groups_head() {
    let mut world = World::new(8);
    world.finish_call(mkdir("first")).expect("made");
    world.mute = vec![META.to_owned()];
    let ticket = world.call(mkdir("second"));
    world.run_for(500 * Nanos::MILLISECOND);
    assert_eq!(world.cluster.executions[b"second".as_slice()], 1, "executed, and the answer is lost");
    // The map is to be had from a shard; the new head is where the old one was, but for its name.
    world.cluster.move_log("other-meta:1");
    let result = world.finish(ticket);
    assert!(matches!(result, Ok(Done::Outcome(_))), "{result:?}");
    assert_eq!(world.cluster.executions[b"second".as_slice()], 1, "I7");
    assert!(world.now < Nanos(6 * Nanos::SECOND), "{:?}", world.now);
}

/// Reads of a chunk whose one replica stands still are answered by the other, within a budget.
#[test]
fn a_slow_read_is_asked_for_twice() {
    let mut world = two_copies(9);
    let upload = open_upload(&mut world);
    let mut chunks = Vec::new();
    for number in 0..64 {
        let bytes = sample(5_000, number);
        let ticket = start_put(&mut world, upload, &bytes);
        let Ok(Done::Chunk { id, root, .. }) = world.finish(ticket) else { panic!("stored") };
        chunks.push((id, root, bytes));
    }
    let read = |world: &mut World, number: usize| {
        let (id, root, bytes) = &chunks[number];
        let began = world.now;
        let result = world.finish_call(get(*id, *root, bytes.len(), 0..bytes.len()));
        assert_eq!(bytes_of(world, result).as_ref(), Ok(bytes));
        world.now.since(began)
    };
    for round in 0..640 {
        read(&mut world, round % 64);
    }
    world.mute = vec![SHARDS[0].to_owned()];
    let slow: Vec<u64> = (0..12).map(|number| read(&mut world, number)).collect();
    assert!(slow.iter().all(|time| *time < 200 * Nanos::MILLISECOND), "{slow:?}");
    let hedges = world.core.hedges();
    assert!((3..=16).contains(&hedges), "{hedges}: about half of the reads chose the silent one first");
    // The budget is used up in the end: a slow cluster isn't asked twice as often.
    for number in 0..64 {
        read(&mut world, number);
    }
    assert!(world.core.hedges() <= 20, "{}", world.core.hedges());
    assert_eq!(world.memory.used_bytes, 0);
}

/// An address that refuses connections is left alone while another replica can be asked.
#[test]
fn a_dead_replica_delays_nobody() {
    let mut world = two_copies(10);
    let upload = open_upload(&mut world);
    let bytes = sample(5_000, 3);
    let ticket = start_put(&mut world, upload, &bytes);
    let Ok(Done::Chunk { id, root, .. }) = world.finish(ticket) else { panic!("stored") };
    let head = head_of(&world, id);
    world.dead = vec![head.to_owned()];
    world.crash(head);
    for _ in 0..50 {
        let began = world.now;
        let result = world.finish_call(get(id, root, bytes.len(), 0..bytes.len()));
        assert_eq!(bytes_of(&mut world, result).as_ref(), Ok(&bytes));
        let waited = world.now.since(began);
        assert!(waited < 100 * Nanos::MILLISECOND, "{} ms", waited / Nanos::MILLISECOND);
    }
}

/// Whoever is asked for the map and says nothing isn't waited for.
#[test]
fn the_map_comes_from_somebody_else() {
    let mut world = World::new(11);
    world.finish_call(lookup("nothing")).ok();
    world.mute = vec![META.to_owned()];
    world.cluster.move_log("other-meta:1");
    let began = world.now;
    world.finish_call(lookup("nothing")).ok();
    let waited = world.now.since(began);
    assert!(waited < 4 * Nanos::SECOND, "{} ms", waited / Nanos::MILLISECOND);
}
