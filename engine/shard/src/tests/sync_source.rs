//! What a source answers, and when; what is suspected; what deletes reach. By hand.

use wire::map::Phase;
use wire::map::ReplicaState::{LastServing, Offline, Serving, Syncing, Waiting};
use wire::message::{GetChunk, Request, SliceSpan};
use wire::{ChunkId, Epoch, Nanos, SliceIndex, Status};

use super::bench::Chunk;
use super::world::{Links, World, chain_map, links_map, serving, store_id};
use crate::Suspicion;

const MIB: usize = 1 << 20;
const SECOND: u64 = Nanos::SECOND;

fn digests(epoch: u64) -> Request<'static> {
    let span = SliceSpan { slice: SliceIndex(0), epoch: Epoch(epoch), after: None };
    Request::SliceDigest { span, limit: 10 }
}

/// R1: only a Serving replica answers, in its epoch, once it is active, and only its own chain.
#[test]
fn a_source_answers_in_an_active_epoch_that_it_serves_in() {
    let chain = |phase, members: &[_]| Links { epoch: 5, phase, members: members.to_vec() };
    let both = [(0, Serving), (1, Syncing)];
    for (phase, members, epoch, asker, expected) in [
        (Phase::Active, &both[..], 5, 1, Status::Ok),
        (Phase::Prepared, &both, 5, 1, Status::NotServing),
        (Phase::Active, &both, 4, 1, Status::WrongEpoch),
        (Phase::Active, &both, 6, 1, Status::WrongEpoch),
        (Phase::Active, &both, 5, 2, Status::WrongShard),
        (Phase::Active, &[(0, Syncing), (1, Serving)], 5, 1, Status::NotServing),
        (Phase::Active, &[(0, Serving), (1, Waiting)], 5, 1, Status::WrongShard),
    ] {
        let mut world = World::new(3, 0);
        world.greet_as(asker, 0);
        world.set_map(&links_map(5, 3, &[chain(phase, members)]));
        world.greet_as(asker, 0);
        for (number, request) in [
            (1, digests(epoch)),
            (
                2,
                Request::SliceChunks {
                    span: SliceSpan { slice: SliceIndex(0), epoch: Epoch(epoch), after: None },
                    last: ChunkId::MAX,
                    limit: 10,
                },
            ),
        ] {
            world.request(0, number, &request);
            world.live(SECOND / 10);
            assert_eq!(world.answers[&number], expected, "{phase:?} {members:?} {epoch} from {asker}");
        }
    }
}

/// R1's story: a put of the old epoch is on its way to the source's disk when the joiner asks.
#[test]
pub(super) fn a_source_waits_for_what_it_admitted_before() {
    let chunk = Chunk::new(1, MIB);
    let mut world = World::new(3, 0);
    world.set_map(&chain_map(1, 3, &[&serving(&[0, 1])]));
    world.sites[1].is_stuck = true;
    world.put(0, 1, &chunk, 1);
    world.run();
    assert_eq!(world.holders(chunk.id), [0].into());
    let prepared = |phase| Links { epoch: 2, phase, members: vec![(1, Serving), (2, Syncing)] };
    world.set_map(&links_map(2, 3, &[prepared(Phase::Prepared)]));
    world.set_map(&links_map(3, 3, &[prepared(Phase::Active)]));
    world.live(SECOND);
    assert_eq!(world.sites[2].synced, [], "the source isn't through with the lower epoch");
    world.greet_as(2, 1);
    world.request(1, 9, &digests(2));
    world.run();
    assert_eq!(world.answers[&9], Status::Busy);
    world.sites[1].is_stuck = false;
    world.live(2 * SECOND);
    assert_eq!(world.sites[2].synced.len(), 1);
    assert_eq!(world.holders(chunk.id), [0, 1, 2].into(), "what was there when it promised is everywhere");
    assert_eq!(world.answers[&1], Status::WrongEpoch, "and isn't acked in the lower one");
}

/// R1: whoever follows a map acks nothing in a lower epoch, although all copies are durable.
#[test]
pub(super) fn a_promise_ends_the_acks_of_lower_epochs() {
    for promises in 0..3 {
        let chunk = Chunk::new(1, MIB);
        let mut world = World::chain_of_three();
        world.sites[2].is_stuck = true;
        world.put(0, 1, &chunk, 1);
        world.run();
        let chain = Links { epoch: 2, phase: Phase::Prepared, members: serving(&[0, 1, 2]) };
        world.set_map_of(promises, &links_map(2, 3, &[chain]));
        world.sites[2].is_stuck = false;
        world.run();
        assert_eq!(world.answers.get(&1), Some(&Status::WrongEpoch), "site {promises} has promised");
        assert_eq!(world.holders(chunk.id).len(), 3);
    }
}

/// R5: an epoch that is only prepared takes nothing.
#[test]
fn a_prepared_epoch_takes_no_writes() {
    let mut world = World::new(3, 0);
    let chain = |phase| Links { epoch: 1, phase, members: serving(&[0, 1, 2]) };
    world.set_map(&links_map(1, 3, &[chain(Phase::Prepared)]));
    let chunk = Chunk::new(1, MIB);
    world.put(0, 1, &chunk, 1);
    world.run();
    assert_eq!(world.answers[&1], Status::NotServing);
    world.set_map(&links_map(2, 3, &[chain(Phase::Active)]));
    world.put(0, 2, &chunk, 1);
    world.run();
    assert_eq!(world.answers[&2], Status::Ok);
}

/// R4: a repetition in a new epoch is acked once every member of it has the chunk durably, whoever had it before.
#[test]
fn a_repetition_is_acked_by_every_member_of_its_epoch() {
    for stuck in [1, 2] {
        let chunk = Chunk::new(1, MIB);
        let mut world = World::new(3, 0);
        world.set_map(&chain_map(1, 3, &[&serving(&[0, 1])]));
        world.put(0, 1, &chunk, 1);
        world.run();
        assert_eq!(world.answers[&1], Status::Ok);
        world.set_map(&chain_map(2, 3, &[&serving(&[0, 1, 2])]));
        world.sites[stuck].is_stuck = true;
        world.put(0, 2, &chunk, 2);
        world.run();
        // Site 1 has it durably already; site 2 doesn't.
        assert_eq!(world.answers.contains_key(&2), stuck == 1, "site {stuck} is stuck");
        world.sites[stuck].is_stuck = false;
        world.run();
        assert_eq!(world.answers.get(&2), Some(&Status::Ok));
        assert_eq!(world.holders(chunk.id).len(), 3);
    }
}

/// R11: whoever holds a chunk answers reads of it in every state; that it isn't there only one that serves can say.
#[test]
fn reads_are_answered_in_every_state() {
    for state in [Serving, Syncing, Waiting, LastServing, Offline] {
        let [here, absent] = [1, 2].map(|number| Chunk::new(number, 9_000));
        let mut world = World::new(2, 0);
        world.set_map(&chain_map(1, 2, &[&serving(&[0])]));
        world.put(0, 1, &here, 1);
        world.run();
        let chain = Links { epoch: 2, phase: Phase::Prepared, members: vec![(1, Serving), (0, state)] };
        world.set_map(&links_map(2, 2, &[chain]));
        for (number, chunk) in [(2, &here), (3, &absent)] {
            let get = GetChunk { id: chunk.id, first_block: 0, block_count: 0 };
            world.request(0, number, &Request::GetChunk(get));
        }
        world.run();
        let expected = if state == Serving { Status::NotFound } else { Status::WrongShard };
        assert_eq!((world.answers[&2], world.answers[&3]), (Status::Ok, expected), "{state:?}");
    }
}

/// R24: deletes reach members that ack, joiners too; others answer that they don't know.
#[test]
fn deletes_reach_whoever_acks() {
    for (state, expected) in [
        (Serving, Status::Ok),
        (Syncing, Status::Ok),
        (Waiting, Status::WrongShard),
        (Offline, Status::WrongShard),
    ] {
        let chunk = Chunk::new(1, 9_000);
        let mut world = World::new(2, 0);
        world.set_map(&chain_map(1, 2, &[&serving(&[0])]));
        world.put(0, 1, &chunk, 1);
        world.run();
        let chain = Links { epoch: 2, phase: Phase::Prepared, members: vec![(1, Serving), (0, state)] };
        world.set_map(&links_map(2, 2, &[chain]));
        world.delete(0, 2, 2, &[chunk.id]);
        world.run();
        assert_eq!(world.answers[&2], expected, "{state:?}");
        assert_eq!(world.holders(chunk.id).is_empty(), expected == Status::Ok);
    }
}

/// A successor that has the chunk and says nothing is suspected well before its lease runs out, the last one by the one before it first; an answer clears it.
#[test]
fn a_silent_successor_is_suspected_and_cleared() {
    let suspicion = |site, is_suspect| Suspicion { store: store_id(site), is_suspect };
    let mut world = World::chain_of_three();
    world.sites[2].is_stuck = true;
    world.put(0, 1, &Chunk::new(1, MIB), 1);
    world.live(SECOND * 7 / 10);
    assert_eq!(
        (&world.sites[0].suspects[..], &world.sites[1].suspects[..]),
        (&[][..], &[suspicion(2, true)][..])
    );
    world.live(SECOND / 2);
    assert_eq!(world.sites[0].suspects, [suspicion(1, true)], "within 1.2 s");
    world.sites[2].is_stuck = false;
    world.live(SECOND / 10);
    assert_eq!(world.sites[1].suspects, [suspicion(2, true), suspicion(2, false)]);
    assert_eq!(world.sites[0].suspects, [suspicion(1, true), suspicion(1, false)]);
    assert_eq!(world.answers[&1], Status::Ok);
}

/// One that can't be dialled is suspected at once, and cleared when it can, or isn't behind this store any more.
#[test]
fn an_unreachable_successor_is_suspected() {
    for comes_back in [true, false] {
        let suspicion = |is_suspect| Suspicion { store: store_id(1), is_suspect };
        let mut world = World::chain_of_three();
        world.cut_off(1);
        world.put(0, 1, &Chunk::new(1, 9_000), 1);
        world.live(SECOND);
        assert_eq!(world.answers[&1], Status::NotServing);
        assert_eq!(world.sites[0].suspects, [suspicion(true)]);
        if comes_back {
            world.sites[1].is_cut_off = false;
            world.live(SECOND / 2);
        } else {
            world.set_map(&chain_map(2, 3, &[&serving(&[0, 2])]));
            world.live(SECOND / 10);
        }
        assert_eq!(world.sites[0].suspects, [suspicion(true), suspicion(false)]);
    }
}
