//! Anything happens to three to five nodes; then nothing does any more, and everything must be whole again.

use journal::fake_disk::Random;
use wire::control::{Answer, Command, Subject};
use wire::message::Request;
use wire::{Nanos, NodeId};

use super::world::{MS, World};

/// Seeds of a run in the test suite; `CATENA_AGENT_SEEDS=1000..2000 cargo test -p agent fuzz` runs others.
const SEEDS: std::ops::Range<u64> = 0..60;

#[test]
fn everything_is_whole_again_after_anything() {
    let seeds = std::env::var("CATENA_AGENT_SEEDS").ok().and_then(|range| {
        let (from, to) = range.split_once("..")?;
        Some(from.parse().ok()?..to.parse().ok()?)
    });
    run_all(seeds.unwrap_or(SEEDS));
}

/// A change that the voter refused was proposed again at once, for ever.
#[test]
fn seeds_that_failed_once() {
    run(3959);
}

/// Panics with what it finds.
pub(crate) fn run_all(seeds: std::ops::Range<u64>) {
    let slowest = seeds.map(|seed| (run(seed), seed)).max();
    let (nanos, seed) = slowest.unwrap_or_default();
    println!("longest recovery: {} ms, seed {seed}", nanos / MS);
}

/// How long it took until all was whole again.
fn run(seed: u64) -> u64 {
    println!("seed {seed}");
    let count = 3 + u32::try_from(seed % 3).expect("small");
    let mut world = World::of(count, seed);
    world.jitter = [0, MS, 20 * MS][usize::try_from(seed % 3).expect("small")];
    let nodes = world.nodes.len();
    let until = world.now.after(60 * Nanos::SECOND);
    while world.now < until {
        let at = usize::try_from(world.random.below(nodes as u64)).expect("an index");
        let other =
            (at + 1 + usize::try_from(world.random.below(nodes as u64 - 1)).expect("an index")) % nodes;
        let is_up = world.nodes[at].agent.is_some();
        match world.random.below(9) {
            8 => {
                let command = any_command(&mut world.random);
                world.tell_leader(&Request::Manage(Box::new(command)));
            }
            0 | 1 if is_up => {
                let is_power_cut = world.random.chance(50);
                if seed.is_multiple_of(2) {
                    world.pass_until_it_stores(at, 2 * Nanos::SECOND);
                }
                world.kill(at, is_power_cut);
            }
            0..=3 if !is_up => world.start_again(at),
            4 => {
                let until = world.now.after(1 + world.random.below(6000) * MS);
                world.nodes[at].stopped_until = world.nodes[at].stopped_until.max(until);
            }
            5 => world.cuts.extend([(at, other)]),
            6 => world.cuts.extend([(at, other), (other, at)]),
            _ => world.cuts.clear(),
        }
        world.pass_up_to(3 * Nanos::SECOND);
    }
    world.cuts.clear();
    for at in 0..nodes {
        if world.nodes[at].agent.is_none() {
            world.start_again(at);
        }
    }
    // Nodes that stand still, hold-downs of links that were suspect, and the growth of patience among them.
    world.until(&format!("seed {seed}: whole"), 400 * Nanos::SECOND, |world| world.is_whole(nodes))
}

/// Operators change their minds, too.
fn any_command(random: &mut Random) -> Command {
    let node = NodeId(1 + u32::try_from(random.below(5)).expect("small"));
    match random.below(6) {
        0 | 1 => Command::SetVoters([1, 3, 5, 7][usize::try_from(random.below(4)).expect("small")]),
        2 => Command::SetMinInSync(u8::try_from(random.below(4)).expect("small")),
        3 => Command::OkToStop(node),
        4 => Command::Why(Subject::Node(node)),
        _ => Command::Nodes,
    }
}

#[test]
fn commands_are_answered_by_whoever_leads() {
    let mut world = World::of(3, 1);
    assert!(matches!(world.command(Command::Health), Answer::Health(_)));
    let leader = world.leader().expect("one leads");
    world.kill(leader, false);
    assert!(matches!(world.command(Command::Health), Answer::Health(_)));
}
