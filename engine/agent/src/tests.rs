//! Agents among each other.

mod world;

use wire::Nanos;
use world::{MS, World};

#[test]
fn one_node_serves_in_milliseconds() {
    let mut world = World::new(1);
    let took = world.until("it serves", Nanos::SECOND, |world| world.is_whole(1));
    assert!(took <= 100 * MS, "{took} ns");
}

#[test]
fn three_nodes_vote_and_hold_three_copies_of_everything() {
    let mut world = World::of(3, 1);
    world.pass(10 * Nanos::SECOND);
    assert!(world.is_whole(3), "{}", world.describe());
}
