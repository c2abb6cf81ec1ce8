//! A run in which everything goes wrong that may, and its end, at which nothing does any more.

use std::collections::BTreeSet;

use super::world::World;

/// How often things happen, of 1,000 milliseconds.
pub(super) struct Plan {
    milliseconds: u64,
    voters: u64,
    crashes: u64,
    pauses: u64,
    cuts: u64,
    heals: u64,
    proposals: u64,
    rounds: u64,
    changes: u64,
    checkpoints: u64,
    damages: u64,
}

impl Plan {
    pub(super) fn hostile(seed: u64) -> Self {
        Self {
            milliseconds: 25_000,
            voters: [3, 3, 5][usize::try_from(seed % 3).expect("below 3")],
            crashes: 2,
            pauses: 1,
            cuts: 3,
            heals: 4,
            proposals: 60,
            rounds: 30,
            changes: u64::from(!seed.is_multiple_of(2)),
            checkpoints: 3,
            damages: u64::from(seed % 4 == 3),
        }
    }
}

/// Runs it; the trace.
pub(super) fn run(seed: u64, plan: &Plan) -> u64 {
    let mut world = World::new(seed, 1);
    let ids: Vec<u64> = (1..=plan.voters).collect();
    world.grow_to(&ids);
    world.delay = 1..40;
    world.flush = 1..60;
    (world.loss, world.twice, world.late) = (30, 30, 20);
    world.image_every = [u64::MAX, 16, 64][usize::try_from(seed % 3).expect("below 3")];
    let mut next = Next { op: 1, id: plan.voters + 1 };
    for _ in 0..plan.milliseconds {
        misfortune(&mut world, plan, &mut next);
        world.step();
    }
    end(&mut world, &mut next);
    world.trace
}

struct Next {
    op: u64,
    id: u64,
}

fn any(world: &mut World, of: &[u64]) -> Option<u64> {
    if of.is_empty() {
        return None;
    }
    let place = world.random.below(of.len() as u64);
    of.get(usize::try_from(place).expect("few")).copied()
}

fn misfortune(world: &mut World, plan: &Plan, next: &mut Next) {
    let ids: Vec<u64> = world.nodes.keys().copied().collect();
    let up: Vec<u64> = ids.iter().copied().filter(|id| world.node(*id).is_up()).collect();
    if world.random.chance(plan.proposals) {
        let length = if world.random.chance(5) { 600_000 } else { 8 };
        world.propose_long(next.op, length);
        next.op += 1;
    }
    if world.random.chance(plan.rounds)
        && let Some(id) = any(world, &up)
    {
        world.begin_round(id);
    }
    if world.random.chance(plan.crashes)
        && let Some(id) = any(world, &up)
    {
        world.crash(id);
    }
    let down: Vec<u64> = ids
        .iter()
        .copied()
        .filter(|id| !world.node(*id).is_up() && world.node(*id).error.is_none())
        .collect();
    if world.random.chance(plan.crashes * 2)
        && let Some(id) = any(world, &down)
    {
        hurt(world, plan, id, next);
        world.start(id);
    }
    if world.random.chance(plan.pauses)
        && let Some(id) = any(world, &up)
    {
        let milliseconds = 100 + world.random.below(3_000);
        world.pause(id, milliseconds);
    }
    if world.random.chance(plan.cuts)
        && let (Some(one), Some(other)) = (any(world, &ids), any(world, &ids))
    {
        if world.random.chance(300) { world.isolate(one) } else { world.cut(one, other) }
    }
    if world.random.chance(plan.heals) {
        world.heal();
    }
    if world.random.chance(plan.checkpoints)
        && let Some(id) = any(world, &up)
    {
        world.checkpoint(id);
    }
    if world.random.chance(plan.changes) {
        replace(world, next);
    }
}

/// Damages a log, where the others are enough: one of three, two of five.
fn hurt(world: &mut World, plan: &Plan, id: u64, next: &mut Next) {
    let is_spare = world.target.contains(&id) && world.has_only_sound_voters();
    if plan.damages > 0 && is_spare && world.random.chance(300) {
        world.damage(id);
        world.target.remove(&id);
        world.target.insert(next.id);
        next.id += 1;
        world.join_missing();
    }
}

/// Another voter takes the place of one.
fn replace(world: &mut World, next: &mut Next) {
    let target: Vec<u64> = world.target.iter().copied().collect();
    if next.id < 16
        && let Some(id) = any(world, &target)
    {
        world.target.remove(&id);
        world.target.insert(next.id);
        next.id += 1;
        world.join_missing();
    }
}

/// Nothing goes wrong any more: all voters agree, and on new things, too.
fn end(world: &mut World, next: &mut Next) {
    world.run_for(3_000);
    world.heal();
    (world.loss, world.twice, world.late) = (0, 0, 0);
    world.delay = 1..5;
    world.flush = 1..5;
    for id in world.nodes.keys().copied().collect::<Vec<u64>>() {
        if !world.node(id).is_up() && world.node(id).error.is_none() {
            world.start(id);
        }
    }
    let target: BTreeSet<u64> = world.target.clone();
    world.run_until(30_000, |world| {
        world.leader().is_some_and(|id| {
            let voters = world.node(id).voter().voters();
            voters.voters == target && voters.outgoing.is_empty() && voters.learners.is_empty()
        })
    });
    assert!(world.propose(next.op).is_some(), "somebody leads");
    // An image that got lost is sent again after five seconds.
    world.run_for(7_000);
    world.check_converged(&target);
}
