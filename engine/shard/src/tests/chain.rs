//! Chains of three by hand: what an ack means, what goes on early, how each kind of end is passed on.

use wire::map::ReplicaState::{Offline, Serving, Syncing, Waiting};
use wire::message::{HopClass, PutChunk, StoreCondition};
use wire::{Nanos, Status};

use super::bench::Chunk;
use super::world::{FRAGMENT_BYTES, World, chain_map, serving};
use crate::relay::ANSWER_NANOS;

const MIB: usize = 1 << 20;

#[test]
fn a_chunk_reaches_every_member_before_its_ack() {
    for length in [1, 4096, 70_000, FRAGMENT_BYTES, MIB, 4 * MIB] {
        let mut world = World::chain_of_three();
        let chunk = Chunk::new(1, length);
        world.put(0, 1, &chunk, 1);
        world.run();
        assert_eq!(world.answers.get(&1), Some(&Status::Ok), "{length} bytes");
        assert_eq!(world.holders(chunk.id).len(), 3, "{length} bytes");
        world.assert_idle();
    }
}

/// I2: whichever member isn't durable yet, there is no ack.
#[test]
fn an_ack_waits_for_each_disk() {
    for stuck in 0..3 {
        let mut world = World::chain_of_three();
        world.sites[stuck].is_stuck = true;
        let chunk = Chunk::new(1, MIB);
        world.put(0, 1, &chunk, 1);
        world.run();
        assert_eq!(world.answers.get(&1), None, "site {stuck} isn't durable");
        assert_eq!(world.holders(chunk.id).len(), 2, "the others don't wait for it");
        world.sites[stuck].is_stuck = false;
        world.run();
        assert_eq!(world.answers.get(&1), Some(&Status::Ok));
        world.assert_idle();
    }
}

/// R39: the tail has the first fragments while the client still sends.
#[test]
fn fragments_go_on_before_the_chunk_is_whole() {
    let mut world = World::chain_of_three();
    let chunk = Chunk::new(1, 4 * FRAGMENT_BYTES);
    world.put_part(0, 1, &chunk, 1, 0..2 * FRAGMENT_BYTES);
    world.run();
    assert_eq!(world.sites[2].shard.puts.at(0).received as usize, 2 * FRAGMENT_BYTES);
    world.put_part(0, 1, &chunk, 1, 2 * FRAGMENT_BYTES..4 * FRAGMENT_BYTES);
    world.run();
    assert_eq!(world.answers.get(&1), Some(&Status::Ok));
    world.assert_idle();
}

/// R4: a member that has the chunk has met its own share only.
#[test]
fn a_repetition_goes_to_every_member_again() {
    let mut world = World::new(3, 0);
    let chunk = Chunk::new(1, MIB);
    world.set_map(&chain_map(1, 3, &[&serving(&[0])]));
    world.put(0, 1, &chunk, 1);
    world.run();
    assert_eq!((world.answers.get(&1), world.holders(chunk.id).len()), (Some(&Status::Ok), 1));
    world.set_map(&chain_map(2, 3, &[&serving(&[0, 1, 2])]));
    world.put(0, 2, &chunk, 2);
    world.run();
    assert_eq!((world.answers.get(&2), world.holders(chunk.id).len()), (Some(&Status::Ok), 3));
}

/// Another content under an id is refused, whichever member knows the first one.
#[test]
fn other_content_at_any_member_is_refused() {
    for knows in 0..3 {
        let mut world = World::new(3, 0);
        let first = Chunk::new(1, MIB);
        world.set_map(&chain_map(1, 3, &[&serving(&[knows])]));
        world.put(knows, 1, &first, 1);
        world.run();
        world.set_map(&chain_map(2, 3, &[&serving(&[0, 1, 2])]));
        let other = Chunk::of(first.id, vec![7; MIB]);
        world.put(0, 2, &other, 2);
        world.run();
        assert_eq!(world.answers.get(&2), Some(&Status::AlreadyExists), "site {knows} has the first");
        world.assert_idle();
    }
}

#[test]
fn joiners_ack_and_waiting_ones_get_nothing() {
    let mut world = World::new(3, 0);
    let chain = [(0, Serving), (1, Waiting), (2, Syncing)];
    world.set_map(&chain_map(1, 3, &[&chain]));
    let chunk = Chunk::new(1, MIB);
    world.sites[2].is_stuck = true;
    world.put(0, 1, &chunk, 1);
    world.run();
    assert_eq!(world.answers.get(&1), None, "the joiner's copy counts (I2)");
    world.sites[2].is_stuck = false;
    world.run();
    assert_eq!(world.answers.get(&1), Some(&Status::Ok));
    assert_eq!(world.holders(chunk.id), [0, 2].into());
}

#[test]
fn a_successor_that_goes_away_fails_what_was_relayed() {
    for sent in [FRAGMENT_BYTES, MIB] {
        let mut world = World::chain_of_three();
        let chunk = Chunk::new(1, MIB);
        world.sites[2].is_stuck = true;
        world.put_part(0, 1, &chunk, 1, 0..sent);
        world.run();
        world.disconnect(1, 2);
        world.run();
        assert_eq!(world.answers.get(&1), Some(&Status::NotServing), "{sent} bytes were sent");
        world.sites[2].is_stuck = false;
        world.run();
        world.assert_idle();
        // It comes back, and the same chunk is taken.
        world.pass(Nanos::SECOND);
        world.put(0, 2, &chunk, 1);
        world.run();
        assert_eq!((world.answers.get(&2), world.holders(chunk.id).len()), (Some(&Status::Ok), 3));
    }
}

#[test]
fn a_successor_that_is_not_there_is_tried_again_later() {
    let mut world = World::chain_of_three();
    world.cut_off(1);
    let chunk = Chunk::new(1, MIB);
    world.put(0, 1, &chunk, 1);
    world.put(0, 2, &chunk, 1);
    world.run();
    assert_eq!(world.answers.get(&1), Some(&Status::NotServing));
    assert_eq!(world.answers.get(&2), Some(&Status::NotServing));
    world.sites[1].is_cut_off = false;
    world.pass(Nanos::SECOND);
    world.put(0, 3, &chunk, 1);
    world.run();
    assert_eq!(world.answers.get(&3), Some(&Status::Ok));
    world.assert_idle();
}

/// R1: nothing is acked under an epoch that has passed, wherever the change is known first.
#[test]
fn a_put_of_an_epoch_that_passes_is_not_acked() {
    for knows in [0..1, 1..2, 2..3, 0..3] {
        let mut world = World::chain_of_three();
        let chunk = Chunk::new(1, MIB);
        world.sites[2].is_stuck = true;
        world.put(0, 1, &chunk, 1);
        world.run();
        for site in knows.clone() {
            world.set_map_of(site, &chain_map(2, 3, &[&serving(&[0, 1, 2])]));
        }
        world.run();
        world.sites[2].is_stuck = false;
        world.run();
        assert_eq!(world.answers.get(&1), Some(&Status::WrongEpoch), "known at {knows:?}");
        world.assert_idle();
    }
}

#[test]
fn a_change_of_epoch_ends_what_still_arrives() {
    let mut world = World::chain_of_three();
    let chunk = Chunk::new(1, MIB);
    world.put_part(0, 1, &chunk, 1, 0..FRAGMENT_BYTES);
    world.run();
    world.set_map(&chain_map(2, 3, &[&serving(&[0, 2])]));
    world.run();
    assert_eq!(world.answers.get(&1), Some(&Status::WrongEpoch));
    world.put_part(0, 1, &chunk, 1, FRAGMENT_BYTES..MIB);
    world.run();
    world.assert_idle();
    world.put(0, 2, &chunk, 2);
    world.run();
    assert_eq!((world.answers.get(&2), world.holders(chunk.id)), (Some(&Status::Ok), [0, 2].into()));
}

#[test]
fn an_abort_is_passed_on() {
    let mut world = World::chain_of_three();
    let chunk = Chunk::new(1, MIB);
    world.put_part(0, 1, &chunk, 1, 0..2 * FRAGMENT_BYTES);
    world.run();
    world.abort(0, 1);
    world.run();
    world.assert_idle();
    // So is the end of the client's connection.
    world.put_part(0, 2, &chunk, 1, 0..2 * FRAGMENT_BYTES);
    world.run();
    world.hang_up(0);
    world.run();
    world.assert_idle();
    assert!(world.holders(chunk.id).is_empty());
}

/// A connection lost after the whole chunk was sent leaves copies, and no buffer.
#[test]
fn a_client_that_leaves_after_the_last_fragment_costs_nothing() {
    let mut world = World::chain_of_three();
    let chunk = Chunk::new(1, MIB);
    world.sites[0].is_stuck = true;
    world.put(0, 1, &chunk, 1);
    world.run();
    world.hang_up(0);
    world.sites[0].is_stuck = false;
    world.run();
    world.assert_idle();
    assert_eq!(world.holders(chunk.id).len(), 3);
}

/// R38: what a tail can't write yet is bounded by the credit that it gave.
#[test]
fn credit_bounds_what_is_under_way() {
    let mut world = World::chain_of_three();
    world.sites[2].is_stuck = true;
    let chunks: Vec<Chunk> = (1..=40).map(|number| Chunk::new(number, MIB)).collect();
    for (number, chunk) in (1..).zip(&chunks[..16]) {
        world.put(0, number, chunk, 1);
    }
    world.run();
    let credit = crate::link::PUT_CREDIT_BYTES as usize;
    assert!(world.sites[2].memory.used_bytes() <= 2 * credit, "{}", world.sites[2].memory.used_bytes());
    world.sites[2].is_stuck = false;
    world.run();
    for (number, chunk) in (17..).zip(&chunks[16..]) {
        world.put(0, number, chunk, 1);
        world.run();
    }
    assert_eq!(world.answers.values().filter(|status| **status == Status::Ok).count(), 40);
    world.assert_idle();
}

#[test]
fn a_successor_that_never_answers_is_given_up() {
    let mut world = World::chain_of_three();
    world.sites[1].is_stuck = true;
    let chunk = Chunk::new(1, MIB);
    world.put(0, 1, &chunk, 1);
    world.run();
    for _ in 0..=ANSWER_NANOS / Nanos::SECOND + 1 {
        assert_eq!(world.answers.get(&1), None);
        world.pass(Nanos::SECOND);
        world.run();
        if !world.answers.is_empty() {
            break;
        }
    }
    assert_eq!(world.answers.get(&1), Some(&Status::NotServing));
}

/// Only the predecessor relays, with the chain and the class in mind that the receiver has.
#[test]
fn who_relays_must_be_the_predecessor() {
    let chunk = Chunk::new(1, 4096);
    let put = |epoch, class| PutChunk { class, ..chunk.head(epoch) };
    for (from, to, put, expected) in [
        (0, 1, put(1, HopClass::Middle), None),
        (0, 1, put(1, HopClass::Tail), Some(Status::BadRequest)),
        (0, 2, put(1, HopClass::Tail), Some(Status::WrongShard)),
        (0, 2, put(2, HopClass::Tail), Some(Status::WrongEpoch)),
        (1, 2, put(2, HopClass::Tail), Some(Status::WrongEpoch)),
        (1, 2, put(1, HopClass::Tail), Some(Status::Ok)),
        (1, 0, put(1, HopClass::Tail), Some(Status::WrongShard)),
    ] {
        let mut world = World::chain_of_three();
        if expected.is_none() {
            world.sites[2].is_stuck = true;
        }
        world.relay_as(from, to, 5, put, &chunk.bytes);
        world.run();
        assert_eq!(world.answers.get(&5).copied(), expected, "{from} to {to}");
    }
}

#[test]
fn clients_write_to_the_head_only_and_peers_not_as_clients() {
    let mut world = World::chain_of_three();
    let chunk = Chunk::new(1, 4096);
    for site in [1, 2] {
        world.put(site, site as u64, &chunk, 1);
        world.run();
        assert_eq!(world.answers.get(&(site as u64)), Some(&Status::WrongShard));
    }
    world.hang_up(1);
    // A store that uses a client's class breaks the protocol: there is no answer, the connection ends.
    world.relay_as(0, 1, 9, chunk.head(1), &chunk.bytes);
    world.run();
    assert_eq!(world.answers.get(&9), None);
    world.assert_idle();
}

#[test]
fn below_min_in_sync_nothing_is_written() {
    let mut world = World::new(3, 0);
    let mut map = chain_map(1, 3, &[&[(0, Serving), (1, Syncing), (2, Offline)]]).as_map().clone();
    map.slices.iter_mut().for_each(|slice| slice.chain.min_in_sync = 2);
    world.set_map(&placement::ClusterMap::new(map).unwrap());
    let chunk = Chunk::new(1, 4096);
    world.put(0, 1, &chunk, 1);
    world.run();
    assert_eq!(world.answers.get(&1), Some(&Status::NotServing), "R6: a joiner doesn't count");
    assert!(world.holders(chunk.id).is_empty());
    assert_eq!(world.sites[0].condition(), StoreCondition::Serving);
}

/// I2: a successor that acks what it can't have yet breaks the protocol, whether the rest hasn't arrived here or waits for its credit.
#[test]
fn an_ack_of_a_part_is_none() {
    for sent in [FRAGMENT_BYTES, MIB] {
        let mut world = World::chain_of_three();
        let chunk = Chunk::new(1, MIB);
        world.sites[1].is_stuck = true;
        world.put_part(0, 1, &chunk, 1, 0..sent);
        world.run();
        if sent == MIB {
            world.sites[0].shard.puts.at(0).relay.as_mut().expect("it is relayed").sent -= 1;
        }
        world.successor_answers(1, 0, Status::Ok);
        world.run();
        assert_eq!(world.answers.get(&1), Some(&Status::NotServing), "{sent} bytes were sent");
        world.sites[1].is_stuck = false;
        world.run();
        world.assert_idle();
    }
}

/// R1: an answer that was on its way when the epoch ended changes nothing.
#[test]
fn the_first_outcome_of_a_relay_stands() {
    let mut world = World::chain_of_three();
    let chunk = Chunk::new(1, MIB);
    (world.sites[0].is_stuck, world.sites[1].is_stuck) = (true, true);
    world.put(0, 1, &chunk, 1);
    world.run();
    world.set_map_of(0, &chain_map(2, 3, &[&serving(&[0, 1, 2])]));
    world.successor_answers(1, 0, Status::Ok);
    world.run();
    let outcome = world.sites[0].shard.puts.at(0).relay.and_then(|relay| relay.outcome);
    assert_eq!(outcome, Some(Status::WrongEpoch));
    (world.sites[0].is_stuck, world.sites[1].is_stuck) = (false, false);
    world.run();
    assert_eq!(world.answers.get(&1), Some(&Status::WrongEpoch));
    world.assert_idle();
}

#[test]
fn credit_of_a_class_that_is_not_relayed_ends_the_connection() {
    for (class, expected) in [
        (HopClass::Client, Some(Status::NotServing)),
        (HopClass::Head, Some(Status::NotServing)),
        (HopClass::Middle, None),
        (HopClass::Tail, None),
    ] {
        let mut world = World::chain_of_three();
        world.sites[1].is_stuck = true;
        world.put(0, 1, &Chunk::new(1, MIB), 1);
        world.run();
        world.successor_credits(1, 0, class);
        world.run();
        assert_eq!(world.answers.get(&1).copied(), expected, "{class:?}");
    }
}

/// I13: who begins and gives up leaves nothing in a queue that stands still.
#[test]
fn what_is_given_up_leaves_the_queue() {
    let mut world = World::chain_of_three();
    world.put(0, 1, &Chunk::new(1, 4096), 1);
    world.run();
    world.sites[0].shard.relays.take_credit();
    for number in 100..120 {
        world.put_part(0, number, &Chunk::new(number, MIB), 1, 0..FRAGMENT_BYTES);
        world.run();
        assert_eq!(world.sites[0].shard.relays.queued(), 1);
        world.abort(0, number);
        world.run();
        assert_eq!(world.sites[0].shard.relays.queued(), 0);
    }
    world.assert_idle();
}
