//! Agents among each other.

pub(crate) mod fuzz;
mod world;

use wire::control::Command;
use wire::{Nanos, NodeId};
use world::{MS, World};

#[test]
fn one_node_serves_at_once() {
    let mut world = World::new(1);
    world.jitter = 0;
    let took = world.until("it serves", Nanos::SECOND, |world| world.is_whole(1));
    assert!(took <= 50 * MS, "{took} ns\n{}", world.describe());
}

#[test]
fn three_nodes_vote_and_hold_three_copies_of_everything() {
    let mut world = World::of(3, 1);
    let ticks = world.ticks;
    world.pass(10 * Nanos::SECOND);
    assert!(world.is_whole(3), "{}", world.describe());
    let ticks = world.ticks - ticks;
    assert!(ticks <= 3 * 10 * 100, "{ticks} deadlines in 10 s: nobody spins");
}

#[test]
fn writes_go_on_after_the_death_of_the_leader_or_another_node() {
    for seed in 0..8 {
        for (is_leader, is_power_cut) in [(true, false), (true, true), (false, false), (false, true)] {
            let mut world = World::of(3, seed);
            world.pass_up_to(1000 * MS);
            let leader = world.leader().expect("one leads");
            let victim = if is_leader { leader } else { (leader + 1) % 3 };
            world.kill(victim, is_power_cut);
            let took = world.until("writes go on", 10 * Nanos::SECOND, |world| world.is_writable(2));
            assert!(took <= 3500 * MS, "seed {seed}, leader: {is_leader}: {took} ns\n{}", world.describe());
            world.pass_up_to(5 * Nanos::SECOND);
            world.start_again(victim);
            world.until("it is back", 30 * Nanos::SECOND, |world| world.is_whole(3));
        }
    }
}

#[test]
fn a_node_that_stood_still_longer_than_its_lease_comes_back() {
    for seed in 0..4 {
        let mut world = World::of(3, seed);
        let leader = world.leader().expect("one leads");
        let victim = if seed % 2 == 0 { leader } else { (leader + 1) % 3 };
        world.nodes[victim].stopped_until = world.now.after(5 * Nanos::SECOND);
        world.pass(5 * Nanos::SECOND);
        world.until("it is back", 30 * Nanos::SECOND, |world| world.is_whole(3));
    }
}

#[test]
fn whoever_is_cut_off_is_left_out_and_comes_back() {
    for seed in 0..4 {
        let mut world = World::of(3, seed);
        let leader = world.leader().expect("one leads");
        let victim = if seed % 2 == 0 { leader } else { (leader + 1) % 3 };
        for other in (0..3).filter(|other| *other != victim) {
            world.cuts.extend([(victim, other), (other, victim)]);
        }
        world.pass(Nanos::SECOND);
        let rest = move |world: &World| {
            world.leader().is_some_and(|leader| leader != victim) && world.is_writable(2)
        };
        let took = world.until("the others go on", 10 * Nanos::SECOND, |world| {
            world.nodes[victim].agent.as_ref().is_some_and(|agent| !agent.leads()) && rest(world)
        });
        assert!(took <= 3500 * MS, "{took} ns");
        world.cuts.clear();
        world.until("it is back", 60 * Nanos::SECOND, |world| world.is_whole(3));
    }
}

#[test]
fn a_power_cut_of_all_is_survived() {
    for seed in 0..4 {
        let mut world = World::of(3, seed);
        world.pass_up_to(1000 * MS);
        for at in 0..3 {
            world.kill(at, true);
        }
        for at in 0..3 {
            world.pass_up_to(3000 * MS);
            world.start_again(at);
        }
        world.until("all are back", 60 * Nanos::SECOND, |world| world.is_whole(3));
    }
}

/// A node dialled the first address that it knew again and again, where a machine without power answered nothing (sim cluster seed 14).
#[test]
fn who_starts_again_passes_over_machines_that_say_nothing() {
    for seed in 0..6 {
        let mut world = World::of(3, seed);
        let victim = usize::try_from(seed % 3).expect("small");
        let others = [(victim + 1) % 3, (victim + 2) % 3];
        world.kill(victim, true);
        for other in others {
            world.cuts.extend([(victim, other), (other, victim)]);
        }
        world.until("writes go on", 10 * Nanos::SECOND, |world| world.is_writable(2));
        let again = others.into_iter().find(|other| world.leader() != Some(*other)).expect("one follows");
        world.kill(again, false);
        world.pass(Nanos::SECOND);
        world.start_again(again);
        world.until("it is back", 20 * Nanos::SECOND, |world| world.nodes[again].lease > world.now);
    }
}

/// A node was away while another joined, and that one leads when it is back: it asked for the way to a node that its map didn't have, for ever (sim cluster seed 7).
#[test]
fn who_was_away_finds_a_leader_that_it_never_heard_of() {
    let mut world = World::of(3, 4);
    let away = world.leader().expect("one leads");
    world.kill(away, false);
    world.until("writes go on", 10 * Nanos::SECOND, |world| world.is_writable(2));
    world.join(NodeId(4));
    world.join(NodeId(5));
    world.pass(5 * Nanos::SECOND);
    world.command(Command::SetVoters(5));
    world.pass(10 * Nanos::SECOND);
    let vote = |world: &World| world.leader().is_some_and(|leader| leader >= 3);
    // Those who voted before stand still in turn, until the new one leads.
    for _ in 0..40 {
        if vote(&world) {
            break;
        }
        if let Some(leader) = world.leader() {
            world.nodes[leader].stopped_until = world.now.after(4 * Nanos::SECOND);
        }
        world.pass(5 * Nanos::SECOND);
    }
    assert!(vote(&world), "{}", world.describe());
    world.start_again(away);
    world.until("it is back", 60 * Nanos::SECOND, |world| world.nodes[away].lease > world.now);
}
