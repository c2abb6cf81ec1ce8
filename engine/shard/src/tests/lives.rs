//! What the store remembers of its lives until control has accepted one.

use wire::Incarnation;

use super::bench::Bench;

/// Both in one turn: one superblock, at the turn's end.
#[test]
fn lives_are_remembered_until_one_is_accepted() {
    let mut bench = Bench::new();
    assert!(bench.shard.lives().is_empty());
    bench.restart();
    bench.restart();
    assert_eq!(bench.shard.lives(), [Incarnation(1 << 16), Incarnation(2 << 16)]);
    assert!(!bench.shard.recovered_cut() && !bench.shard.lacks());
    let present = Incarnation(3 << 16);
    let before = bench.disk.counters.writes;
    bench.shard.on_accepted(bench.now, present, &mut bench.memory, &mut bench.effects);
    bench.shard.on_whole(bench.now, &mut bench.memory, &mut bench.effects);
    bench.settle();
    assert!(bench.shard.lives().is_empty() && bench.disk.pending() == 0);
    bench.run();
    assert_eq!(bench.disk.counters.writes, before + 4);
    bench.restart();
    assert_eq!(bench.shard.lives(), [present]);
}
