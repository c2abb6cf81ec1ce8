//! Joiners, comparisons and repairs by hand, rule by rule.

use wire::map::Phase;
use wire::map::ReplicaState::{Serving, Syncing};
use wire::message::{GetChunk, Request};
use wire::meta::ChunkState;
use wire::{Nanos, Status};

use super::bench::{Chunk, content};
use super::world::{Links, World, chain_map, links_map, serving};
use crate::Synced;

const MIB: usize = 1 << 20;
const SECOND: u64 = Nanos::SECOND;

/// Sites with one chain for everything, that hold these chunks: of each, who.
fn world_with(sites: usize, chunks: &[(&Chunk, &[usize])]) -> (World, u64) {
    let mut world = World::new(sites, 0);
    let mut number = 0;
    for (chunk, holders) in chunks {
        for holder in *holders {
            number += 1;
            world.set_map(&chain_map(number, sites, &[&serving(&[*holder])]));
            world.put(*holder, 1_000_000 + number, chunk, number);
            world.run();
            assert_eq!(world.answers[&(1_000_000 + number)], Status::Ok);
        }
    }
    (world, number + 1)
}

fn assert_bytes(world: &mut World, site: usize, chunk: &Chunk) {
    let entry = world.sites[site].shard.store().find(chunk.id).expect("it is there");
    assert_eq!((entry.root, entry.length as usize), (chunk.root, chunk.bytes.len()), "site {site}");
}

fn is_synced(world: &World, site: usize, epoch: u64) -> Option<Synced> {
    world.sites[site].synced.iter().find(|synced| synced.epoch.0 == epoch).copied()
}

/// An emptied store has everything again, and says so.
#[test]
fn a_joiner_gets_what_it_lacks() {
    let chunks: Vec<Chunk> =
        (1..30).zip((40_001..).step_by(40_000)).map(|(n, bytes)| Chunk::new(n, bytes)).collect();
    let all: Vec<(&Chunk, &[usize])> = chunks.iter().map(|chunk| (chunk, &[0][..])).collect();
    let (mut world, number) = world_with(2, &all);
    world.set_map(&chain_map(number, 2, &[&[(0, Serving), (1, Syncing)]]));
    world.live(SECOND);
    for chunk in &chunks {
        assert_bytes(&mut world, 1, chunk);
    }
    assert_eq!(is_synced(&world, 1, number).map(|synced| synced.missing), Some(0));
    let progress = world.sites[1].shard.sync_progress();
    let bytes: usize = chunks.iter().map(|chunk| chunk.bytes.len()).sum();
    assert_eq!((progress.slices, progress.slices_done, progress.chunks), (1, 1, 29));
    assert_eq!((progress.bytes, progress.bytes_left), (bytes as u64, 0));
    assert_eq!(world.sites[0].shard.sync_progress().bytes_served, bytes as u64);
    // Told again with each map, until one says that it serves.
    world.sites[1].synced.clear();
    let chain = Links { epoch: number, phase: Phase::Active, members: vec![(0, Serving), (1, Syncing)] };
    world.set_map(&links_map(number + 1, 2, std::slice::from_ref(&chain)));
    assert_eq!(is_synced(&world, 1, number).map(|synced| synced.missing), Some(0));
    world.sites[1].synced.clear();
    let chain = Links { members: serving(&[0, 1]), ..chain };
    world.set_map(&links_map(number + 2, 2, &[chain]));
    world.live(SECOND);
    assert_eq!(world.sites[1].synced, []);
    world.assert_idle();
}

/// After an absence little more is moved than was written meanwhile.
#[test]
fn an_absence_costs_what_was_missed() {
    let mut world = World::new(2, 0);
    world.set_map(&chain_map(1, 2, &[&serving(&[0, 1])]));
    let old: Vec<Chunk> = (1..=600).map(|number| Chunk::new(number, 4096)).collect();
    let missed: Vec<Chunk> = (1001..=1040).map(|number| Chunk::new(number, MIB)).collect();
    for (number, chunk) in (1..).zip(&old) {
        world.put(0, number, chunk, 1);
        world.run();
    }
    world.set_map(&chain_map(2, 2, &[&serving(&[0])]));
    for (number, chunk) in (10_001..).zip(&missed) {
        world.put(0, number, chunk, 2);
        world.run();
    }
    assert!(world.answers.values().all(|status| *status == Status::Ok));
    world.sync_bytes = 0;
    world.set_map(&chain_map(3, 2, &[&[(0, Serving), (1, Syncing)]]));
    world.live(2 * SECOND);
    assert!(is_synced(&world, 1, 3).is_some());
    assert!(missed.iter().all(|chunk| world.holders(chunk.id).len() == 2));
    let bytes = (missed.len() * MIB) as u64;
    println!("moved {} bytes for {bytes} missed", world.sync_bytes);
    assert!((bytes..=bytes / 100 * 105).contains(&world.sync_bytes), "{}", world.sync_bytes);
}

/// R2: what only the joiner has is the group's to judge.
#[test]
pub(super) fn extras_stay_until_the_group_calls_them_dead() {
    let chunks: Vec<Chunk> = (1..=4).map(|number| Chunk::new(number, 5_000)).collect();
    let [dead, open, live, common] = &chunks[..] else { panic!("four") };
    let (mut world, number) = world_with(3, &[(dead, &[1]), (open, &[1]), (live, &[1]), (common, &[0, 1])]);
    world.states.insert(dead.id, ChunkState::Dead);
    world.states.insert(live.id, ChunkState::Live { root: None });
    world.set_group_away(true);
    world.set_map(&chain_map(number, 3, &[&[(0, Serving), (1, Syncing)]]));
    world.live(SECOND);
    assert_eq!(is_synced(&world, 1, number), None, "it waits a moment for the group");
    world.live(3 * SECOND);
    assert!(is_synced(&world, 1, number).is_some(), "and no longer");
    for chunk in [dead, open, live] {
        assert_eq!(world.holders(chunk.id), [1].into(), "undecided, so it stays");
    }
    world.set_group_away(false);
    world.live(2 * SECOND);
    assert_eq!(world.holders(dead.id), [].into());
    assert_eq!(world.holders(open.id), [0, 1].into());
    assert_eq!(world.holders(live.id), [0, 1].into());
    let progress = world.sites[1].shard.sync_progress();
    assert_eq!((progress.extras_dead, progress.extras_live), (1, 1));
    world.assert_idle();
}

/// R3: the joiner has other bytes under the same id. Those of the Serving replica were acked.
#[test]
fn a_differing_chunk_is_replaced_from_the_source() {
    let right = Chunk::new(1, 100_000);
    let wrong = Chunk::of(right.id, content(77, 50_000));
    let (mut world, number) = world_with(2, &[(&right, &[0]), (&wrong, &[1])]);
    assert_bytes(&mut world, 1, &wrong);
    world.set_map(&chain_map(number, 2, &[&[(0, Serving), (1, Syncing)]]));
    world.live(SECOND);
    assert_bytes(&mut world, 1, &right);
    assert_eq!(world.sites[1].shard.sync_progress().differing, 1);
    assert_eq!(world.sites[1].shard.store().metrics().chunks_replaced, 1);
}

/// Other bytes came down the chain while the chunk was fetched, and were refused by the source alone: the joiner kept them, for its fetch met a chunk that was there.
#[test]
fn a_refused_put_leaves_nothing_at_a_joiner() {
    let right = Chunk::new(1, 100_000);
    let wrong = Chunk::of(right.id, content(77, 100_000));
    let mut met = 0;
    for seed in 1..80 {
        let (mut world, number) = world_with(2, &[(&right, &[0])]);
        let mut random = journal::fake_disk::Random::new(seed);
        // Chunks have gone down the chain already, and nothing was compared.
        world.set_group_away(true);
        world.set_map(&chain_map(number, 2, &[&serving(&[0, 1])]));
        world.put(0, 2, &Chunk::new(2, 1), number);
        world.run();
        let number = number + 1;
        world.set_map(&chain_map(number, 2, &[&[(0, Serving), (1, Syncing)]]));
        for _ in 0..seed {
            world.step(&mut random);
        }
        // On its way to the disk when the fetch comes, or there already.
        world.sites[1].is_stuck = seed % 2 == 0;
        world.put(0, 1, &wrong, number);
        for _ in 0..200 {
            world.step(&mut random);
        }
        world.sites[1].is_stuck = false;
        while world.step(&mut random) {
            met += usize::from(
                world.sites[1].shard.store().find(right.id).is_some_and(|entry| entry.root == wrong.root),
            );
        }
        world.live(SECOND);
        assert_eq!(world.answers[&1], Status::AlreadyExists, "seed {seed}");
        assert!(is_synced(&world, 1, number).is_some(), "seed {seed}");
        assert_bytes(&mut world, 1, &right);
        world.assert_idle();
    }
    assert!(met > 0, "the other bytes were never there");
}

/// R9: a chunk that nobody can supply is told, and doesn't hold the joiner back; another Serving member's copy is as good as any.
#[test]
fn a_rotten_chunk_is_taken_from_elsewhere_or_told() {
    for (sources, expected) in [(&[0][..], 1), (&[0, 2][..], 0)] {
        let chunks: Vec<Chunk> = (1..=5).map(|number| Chunk::new(number, 70_000)).collect();
        let all: Vec<(&Chunk, &[usize])> = chunks.iter().map(|chunk| (chunk, sources)).collect();
        let (mut world, number) = world_with(3, &all);
        world.rot(0, chunks[2].id);
        let chain: Vec<_> = sources.iter().map(|site| (*site, Serving)).chain([(1, Syncing)]).collect();
        world.set_map(&chain_map(number, 3, &[&chain]));
        world.live(SECOND);
        assert_eq!(is_synced(&world, 1, number).map(|synced| synced.missing), Some(expected), "{sources:?}");
        let holders: usize = chunks.iter().filter(|chunk| world.holders(chunk.id).contains(&1)).count();
        assert_eq!(holders as u64, 5 - expected);
        let damaged: Vec<_> = world.sites[0].damaged.clone();
        assert!(damaged.iter().all(|id| *id == chunks[2].id));
        if expected == 0 {
            // The source's own copy is mended from the other one.
            world.live(2 * SECOND);
            assert_eq!(world.sites[0].shard.store().metrics().chunks_damaged, 0);
        } else {
            // It is looked for at every store, and one that has it turns up.
            world.set_map(&chain_map(number + 1, 3, &[&serving(&[2])]));
            world.put(2, 77, &chunks[2], number + 1);
            world.run();
            let chain = [(0, Serving), (1, Syncing), (2, wire::map::ReplicaState::Waiting)];
            world.set_map(&chain_map(number + 2, 3, &[&chain]));
            world.live(10 * SECOND);
            assert_bytes(&mut world, 1, &chunks[2]);
            assert_eq!(
                world.sites[0].shard.store().metrics().chunks_damaged,
                0,
                "the source is mended from it"
            );
        }
    }
}

/// R9: a joiner believes neither the source nor the way from it.
#[test]
pub(super) fn what_is_fetched_is_verified() {
    let chunk = Chunk::new(1, 300_000);
    let (mut world, number) = world_with(2, &[(&chunk, &[0])]);
    world.is_garbling = true;
    world.set_map(&chain_map(number, 2, &[&[(0, Serving), (1, Syncing)]]));
    world.live(SECOND);
    assert_eq!(world.holders(chunk.id), [0].into());
    assert!(world.sites[1].shard.sync_progress().mismatches > 0);
    assert_eq!(is_synced(&world, 1, number).map(|synced| synced.missing), Some(1));
    world.is_garbling = false;
    world.live(5 * SECOND);
    assert_bytes(&mut world, 1, &chunk);
    world.assert_idle();
}

/// R23: a delete that comes while the chunk is fetched wins, wherever the fetch is.
#[test]
pub(super) fn dead_is_for_ever_in_the_middle_of_a_fetch() {
    for steps in 0..60 {
        let chunk = Chunk::new(1, 600_000);
        let (mut world, number) = world_with(2, &[(&chunk, &[0])]);
        let mut random = journal::fake_disk::Random::new(steps + 1);
        world.set_map(&chain_map(number, 2, &[&[(0, Serving), (1, Syncing)]]));
        for _ in 0..steps {
            world.step(&mut random);
        }
        // The source hears of it last.
        world.delete(1, 1, number, &[chunk.id]);
        world.live(SECOND / 10);
        world.delete(0, 2, number, &[chunk.id]);
        world.live(SECOND);
        assert_eq!((world.answers[&1], world.answers[&2]), (Status::Ok, Status::Ok));
        assert_eq!(world.holders(chunk.id), [].into(), "after {steps} steps");
        world.assert_idle();
    }
}

/// R10: a chunk that a Serving replica lacks is found and fetched when the set of those that serve changes.
#[test]
fn serving_replicas_are_compared() {
    let [lost, unknown, dead] = [1, 2, 3].map(|number| Chunk::new(number, 9_000));
    let (mut world, number) = world_with(3, &[(&lost, &[0]), (&unknown, &[2]), (&dead, &[0])]);
    world.states.insert(lost.id, ChunkState::Live { root: None });
    world.states.insert(dead.id, ChunkState::Dead);
    world.set_map(&chain_map(number, 3, &[&serving(&[0, 1])]));
    world.live(SECOND);
    assert_eq!(world.holders(lost.id), [0, 1].into());
    world.set_map(&chain_map(number + 1, 3, &[&serving(&[0, 1, 2])]));
    world.live(SECOND);
    assert_eq!(world.holders(lost.id), [0, 1, 2].into());
    assert_eq!(world.holders(unknown.id), [0, 1, 2].into(), "its session is open");
    assert_eq!(world.holders(dead.id), [].into(), "dead everywhere");
    world.assert_idle();
}

/// R10: scrub's pass compares, too.
#[test]
fn a_scrub_pass_compares() {
    let chunk = Chunk::new(1, 9_000);
    let mut world = World::new(2, 0);
    world.set_map(&chain_map(1, 2, &[&serving(&[0])]));
    world.put(0, 1, &chunk, 1);
    world.run();
    // Both start anew, so that the map is the first that they know: no change of it calls for a comparison.
    let map = chain_map(2, 2, &[&serving(&[0, 1])]);
    world.restart(0, false);
    world.restart(1, false);
    world.set_map(&map);
    world.live(SECOND);
    assert_eq!(world.holders(chunk.id), [0].into());
    let before = world.sites[0].shard.sync_progress().comparisons;
    world.scrub(0);
    world.live(5 * SECOND);
    assert_eq!(world.holders(chunk.id), [0, 1].into());
    assert!(world.sites[0].shard.sync_progress().comparisons > before);
}

/// A copy that a reader finds damaged is replaced, unasked.
#[test]
fn damage_is_mended_from_another_replica() {
    let mut world = World::chain_of_three();
    let chunk = Chunk::new(1, 300_000);
    world.put(0, 1, &chunk, 1);
    world.run();
    world.rot(1, chunk.id);
    world.request(1, 2, &Request::GetChunk(GetChunk { id: chunk.id, first_block: 0, block_count: 0 }));
    world.run();
    assert_eq!(world.answers[&2], Status::ChecksumMismatch);
    assert_eq!(world.sites[1].damaged, [chunk.id]);
    world.live(SECOND);
    let metrics = world.sites[1].shard.store().metrics();
    assert_eq!((metrics.chunks_damaged, metrics.chunks_repaired), (0, 1));
    world.request(1, 3, &Request::GetChunk(GetChunk { id: chunk.id, first_block: 0, block_count: 0 }));
    world.run();
    assert_eq!(world.answers[&3], Status::Ok);
    world.assert_idle();
}

/// R10: a hint is looked into: bad bytes, a chunk that isn't there, and a lie.
#[test]
fn a_readers_report_is_looked_into() {
    let mut world = World::chain_of_three();
    let [rotten, lost, good] = [1, 2, 3].map(|number| Chunk::new(number, 30_000));
    for (number, chunk) in (1..).zip([&rotten, &good]) {
        world.put(0, number, chunk, 1);
    }
    world.run();
    world.set_map(&chain_map(2, 3, &[&serving(&[0, 1])]));
    world.put(0, 5, &lost, 2);
    world.run();
    // A first map for all of them: nothing but the report calls for a comparison.
    for site in 0..3 {
        world.restart(site, false);
    }
    world.set_map(&chain_map(3, 3, &[&serving(&[0, 1, 2])]));
    world.live(SECOND);
    world.rot(2, rotten.id);
    assert_eq!(world.holders(lost.id), [0, 1].into());
    for (number, chunk) in (11..).zip([&rotten, &lost, &good]) {
        world.request(2, number, &Request::ReportDamage { id: chunk.id, root: chunk.root });
    }
    world.live(SECOND);
    assert!((11..14).all(|number| world.answers[&number] == Status::Ok));
    assert_eq!(world.holders(lost.id), [0, 1, 2].into());
    assert_eq!(world.sites[2].damaged, [rotten.id]);
    let metrics = world.sites[2].shard.store().metrics();
    assert_eq!((metrics.chunks_damaged, metrics.chunks_repaired), (0, 1));
    world.assert_idle();
}

/// A joiner whose source goes away takes another; one whose epoch ends begins again and moves nothing twice.
#[test]
fn a_joiner_survives_its_source_and_its_epoch() {
    let chunks: Vec<Chunk> = (1..=40).map(|number| Chunk::new(number, 200_000)).collect();
    let all: Vec<(&Chunk, &[usize])> = chunks.iter().map(|chunk| (chunk, &[0, 2][..])).collect();
    let (mut world, number) = world_with(3, &all);
    let mut random = journal::fake_disk::Random::new(3);
    world.set_map(&chain_map(number, 3, &[&[(0, Serving), (2, Serving), (1, Syncing)]]));
    for _ in 0..60 {
        world.step(&mut random);
    }
    world.cut_off(2);
    world.live(SECOND / 2);
    assert!(is_synced(&world, 1, number).is_some(), "from the other one");
    let moved = world.sites[1].shard.sync_progress().bytes;
    world.set_map(&chain_map(number + 1, 3, &[&[(0, Serving), (1, Syncing)]]));
    assert_eq!(world.sites[1].shard.sync_progress().slices_done, 0, "only in its epoch it was true");
    world.live(SECOND / 2);
    assert!(is_synced(&world, 1, number + 1).is_some());
    assert_eq!(world.sites[1].shard.sync_progress().bytes, moved);
    assert!(chunks.iter().all(|chunk| world.holders(chunk.id).contains(&1)));
}

/// Writes go on while a joiner is brought up to date, and are here before they are acked (R11).
#[test]
fn writes_go_on_through_a_joiner() {
    let chunks: Vec<Chunk> = (1..=60).map(|number| Chunk::new(number, 100_000)).collect();
    let all: Vec<(&Chunk, &[usize])> = chunks[..40].iter().map(|chunk| (chunk, &[0][..])).collect();
    let (mut world, number) = world_with(2, &all);
    let mut random = journal::fake_disk::Random::new(9);
    world.set_map(&chain_map(number, 2, &[&[(0, Serving), (1, Syncing)]]));
    for (correlation, chunk) in (1..).zip(&chunks[40..]) {
        world.put(0, correlation, chunk, number);
        for _ in 0..10 {
            world.step(&mut random);
        }
        let acked = (1..=correlation).filter(|at| world.answers.get(at) == Some(&Status::Ok));
        for at in acked.collect::<Vec<_>>() {
            let chunk = &chunks[40 + usize::try_from(at).unwrap() - 1];
            assert_eq!(world.holders(chunk.id).len(), 2, "I2");
        }
    }
    world.live(SECOND);
    assert!(chunks.iter().all(|chunk| world.holders(chunk.id).len() == 2));
    assert_eq!(is_synced(&world, 1, number).map(|synced| synced.missing), Some(0));
    world.assert_idle();
}

/// Connections that nobody asks over end after a minute, and are made again when they are wanted (R43); so does the memory of listings.
#[test]
fn what_isnt_used_is_given_back() {
    let (mut world, number) = world_with(2, &[(&Chunk::new(1, 9_000), &[0])]);
    world.set_map(&chain_map(number, 2, &[&[(0, Serving), (1, Syncing)]]));
    world.live(SECOND);
    assert_eq!(world.sync_connections(), 1);
    assert_eq!(world.sites.iter().map(|site| site.shard.store().listed_chunks()).sum::<usize>(), 2);
    world.live(64 * SECOND);
    assert_eq!(world.sync_connections(), 0);
    assert_eq!(world.sites.iter().map(|site| site.shard.store().listed_chunks()).sum::<usize>(), 0);
    world.set_map(&chain_map(number + 1, 2, &[&[(0, Serving), (1, Syncing)]]));
    world.live(SECOND);
    assert!(is_synced(&world, 1, number + 1).is_some());
}

/// A deadline that came while the store ended was armed again and again, without time passing.
#[test]
fn a_deadline_that_has_passed_is_not_kept() {
    let (mut world, number) = world_with(2, &[(&Chunk::new(1, 9_000), &[0])]);
    world.set_group_away(true);
    world.set_map(&chain_map(number, 2, &[&[(1, Serving), (0, Syncing)]]));
    world.run();
    world.sites[0].is_stuck = true;
    world.shut_down(0);
    for _ in 0..100 {
        world.pass(SECOND);
        assert!(
            world.deadline(0).is_none_or(|at| at > world.now),
            "{:?} at {:?}",
            world.deadline(0),
            world.now
        );
    }
}

/// Within a small memory a joiner is slower, and clients' chunks go on.
#[test]
fn little_memory_makes_a_joiner_slow_not_stuck() {
    let mut world = World::new(2, 32 * MIB);
    world.set_map(&chain_map(1, 2, &[&serving(&[0])]));
    let chunks: Vec<Chunk> = (1..=12).map(|number| Chunk::new(number, 4 * MIB)).collect();
    for (correlation, chunk) in (1..).zip(&chunks) {
        world.put(0, correlation, chunk, 1);
        world.run();
        assert_eq!(world.answers[&correlation], Status::Ok);
    }
    world.set_map(&chain_map(2, 2, &[&[(0, Serving), (1, Syncing)]]));
    let other = Chunk::new(100, MIB);
    world.put(0, 100, &other, 2);
    world.live(4 * SECOND);
    assert_eq!(world.answers[&100], Status::Ok);
    assert!(chunks.iter().all(|chunk| world.holders(chunk.id).len() == 2));
    world.assert_idle();
}
