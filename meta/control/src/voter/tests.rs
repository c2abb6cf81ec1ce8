//! Voters against lost, late and repeated messages, crashes that lose what wasn't flushed, partitions, changes of voters and images; and what a single
//! voter owes whatever arrives.

mod format;
mod run;
mod world;

use std::collections::BTreeSet;

use run::{Plan, run};
use world::World;

/// Seeds of the runs that every build makes; `CATENA_VOTER_SEEDS=1000..2000` names others.
const SEEDS: std::ops::Range<u64> = 0..24;

pub(crate) fn everything_goes_wrong() {
    let named = std::env::var("CATENA_VOTER_SEEDS").ok().and_then(|range| {
        let (from, to) = range.split_once("..")?;
        Some(from.parse().ok()?..to.parse().ok()?)
    });
    for seed in named.unwrap_or(SEEDS) {
        run(seed, &Plan::hostile(seed));
    }
}

#[test]
fn nothing_agreed_on_is_lost_and_nobody_disagrees() {
    everything_goes_wrong();
}

#[test]
fn the_same_seed_is_the_same_run() {
    for seed in [3, 4, 5] {
        let plan = Plan::hostile(seed);
        assert_eq!(run(seed, &plan), run(seed, &plan), "seed {seed}");
    }
    assert_ne!(run(3, &Plan::hostile(3)), run(4, &Plan::hostile(4)), "the trace tells runs apart");
}

#[test]
fn a_single_voter_leads_without_waiting() {
    let mut world = World::new(1, 1);
    world.found(1);
    world.run_for(20);
    assert!(world.node(1).leads(), "a few flushes after its start");
    let proposed = world.propose(7).expect("it leads");
    world.run_for(20);
    assert!(world.node(1).applied.iter().any(|(index, op)| (*index, *op) == (proposed.index, 7)));
    for _ in 0..3 {
        world.crash(1);
        world.start(1);
        world.run_for(20);
        assert!(world.node(1).leads(), "the time of a few flushes after a restart");
        assert_eq!(world.node(1).applied.last().map(|(_, op)| *op), Some(7));
    }
}

#[test]
fn one_voter_becomes_three_and_three_become_others() {
    let mut world = World::new(1, 1);
    world.found(1);
    world.run_for(20);
    for op in 1..=20 {
        world.propose(op);
        world.run_for(10);
    }
    // The last but one has nobody in common with those before.
    for (target, leaves) in [
        (vec![1, 2, 3], false),
        (vec![2, 3, 4], true),
        (vec![2], true),
        (vec![5, 6, 7], true),
        (vec![5, 6, 7, 8, 9], false),
    ] {
        let target: BTreeSet<u64> = target.into_iter().collect();
        world.target.clone_from(&target);
        world.join_missing();
        world.run_until(8_000, |world| {
            let voters = world.leader().map(|id| world.node(id).voter().voters());
            voters.is_some_and(|voters| {
                voters.voters == target && voters.outgoing.is_empty() && voters.learners.is_empty()
            })
        });
        assert!(target.contains(&world.leader().expect("a leader")) || !leaves);
        let proposed = world.propose(100 + target.len() as u64);
        world.run_for(500);
        assert!(proposed.is_some());
        world.check_converged(&target);
    }
}

#[test]
fn a_leader_is_replaced_within_a_second() {
    for seed in 0..8 {
        let mut world = World::new(seed, 1);
        world.grow_to(&[1, 2, 3]);
        let old = world.leader().expect("a leader");
        world.crash(old);
        let from = world.now;
        world.run_until(2_000, |world| {
            world.leader().is_some_and(|id| id != old && world.node(id).voter().leads_with_all())
        });
        assert!(world.now - from <= 1_000, "seed {seed}: {} ms", world.now - from);
    }
}

#[test]
fn what_is_agreed_on_takes_a_few_delays() {
    let mut world = World::new(5, 1);
    world.delay = 1..2;
    world.flush = 1..2;
    world.grow_to(&[1, 2, 3]);
    let from = world.now;
    let proposed = world.propose(9).expect("a leader");
    let applied = |world: &World| {
        [1, 2, 3]
            .iter()
            .all(|id| world.node(*id).applied.last().is_some_and(|(index, _)| *index >= proposed.index))
    };
    world.run_until(200, applied);
    // The leader's flush, a message, a flush, a message; then the news, with the next message.
    assert!(world.now - from <= 8, "{} ms", world.now - from);
}

#[test]
fn a_deposed_leader_confirms_nothing() {
    let mut world = World::new(6, 1);
    world.grow_to(&[1, 2, 3]);
    let old = world.leader().expect("a leader");
    let before = world.confirmed(old);
    world.begin_round(old);
    world.run_for(200);
    assert_eq!(world.confirmed(old), before + 1, "a majority answers");
    world.isolate(old);
    world.begin_round(old);
    world.run_until(3_000, |world| world.leader().is_some_and(|id| id != old));
    world.begin_round(old);
    world.run_for(1_000);
    assert_eq!(world.confirmed(old), before + 1, "nobody answers any more");
    world.heal();
    world.run_for(1_000);
    assert_eq!(world.confirmed(old), before + 1, "a round that was begun before counts for nothing");
}

#[test]
fn a_voter_far_behind_gets_an_image_and_a_long_string_arrives_whole() {
    let mut world = World::new(7, 1);
    world.image_every = 8;
    world.grow_to(&[1, 2, 3]);
    let leader = world.leader().expect("a leader");
    let behind = [1, 2, 3].into_iter().find(|id| *id != leader).expect("two others");
    world.crash(behind);
    for op in 0..200 {
        world.propose(1_000 + op);
        world.run_for(10);
    }
    // Several entries, and an image of several messages.
    world.propose_long(5, 1_200_000);
    world.run_for(500);
    world.start(behind);
    let own = world.node(behind).installed;
    world.run_for(3_000);
    assert!(world.node(behind).installed > own, "an image");
    world.check_converged(&[1, 2, 3].into_iter().collect());
    assert!(world.node(behind).applied.iter().any(|(_, op)| *op == 5));
}

#[test]
fn an_image_that_got_lost_is_sent_again() {
    let mut world = World::new(9, 1);
    world.image_every = 8;
    world.grow_to(&[1, 2, 3]);
    let leader = world.leader().expect("a leader");
    let behind = [1, 2, 3].into_iter().find(|id| *id != leader).expect("two others");
    world.crash(behind);
    for op in 0..100 {
        world.propose(1_000 + op);
        world.run_for(10);
    }
    world.start(behind);
    let own = world.node(behind).installed;
    let before = world.node(leader).voter().images.get(&behind).copied();
    world.run_until(1_000, |world| world.node(leader).voter().images.get(&behind).copied() != before);
    world.lose_all();
    world.run_until(8_000, |world| world.node(behind).installed > own);
    world.run_for(500);
    world.check_converged(&[1, 2, 3].into_iter().collect());
}

#[test]
fn whoever_has_not_caught_up_does_not_count() {
    let mut world = World::new(10, 1);
    world.grow_to(&[1, 2, 3]);
    for op in 1..=100 {
        world.propose(op);
        world.run_for(10);
    }
    // Two voters that nobody reaches: of five, the three others would still be a majority, but without one to spare.
    world.target = (1..=5).collect();
    world.join_missing();
    world.isolate(4);
    world.isolate(5);
    world.run_for(2_000);
    let leader = world.leader().expect("a leader");
    let voters = world.node(leader).voter().voters();
    assert_eq!((voters.voters, voters.learners), ((1..=3).collect(), (4..=5).collect()));
    let spare = (1..=3).find(|id| *id != leader).expect("two others");
    world.crash(spare);
    let proposed = world.propose(101).expect("a leader");
    world.run_for(200);
    assert!(world.node(leader).applied.iter().any(|(index, _)| *index == proposed.index));
    // The goal is given up: the learners go.
    world.start(spare);
    world.target = (1..=3).collect();
    world.run_for(1_000);
    let voters = world.leader().map(|id| world.node(id).voter().voters()).expect("a leader");
    assert!(voters.learners.is_empty(), "{voters:?}");
}

#[test]
fn a_voter_whose_log_is_damaged_does_not_vote_again() {
    let mut world = World::new(8, 1);
    world.grow_to(&[1, 2, 3]);
    let leader = world.leader().expect("a leader");
    let hurt = [1, 2, 3].into_iter().find(|id| *id != leader).expect("two others");
    world.crash(hurt);
    world.damage(hurt);
    world.start(hurt);
    assert!(!world.node(hurt).is_up(), "R35");
    // Under a new id it is taken in again.
    world.target = [1, 2, 3, 103].into_iter().filter(|id| *id != hurt).collect();
    world.join_missing();
    let target = world.target.clone();
    world.run_until(8_000, |world| {
        world.leader().is_some_and(|id| world.node(id).voter().voters().voters == target)
    });
    world.propose(3);
    world.run_for(500);
    world.check_converged(&target);
}

#[cfg(planted)]
mod planted {
    use wire::planted::{Bug, choose};

    /// `RUSTFLAGS='--cfg planted' cargo test -p control --lib planted -- --test-threads=1`.
    #[test]
    fn the_runs_catch_planted_bugs() {
        for bug in Bug::VOTER.iter().copied() {
            choose(Some(bug));
            let caught = std::panic::catch_unwind(super::everything_goes_wrong).is_err();
            choose(None);
            assert!(caught, "{bug:?} went unnoticed");
        }
    }
}
