//! What the log remembers of its lives until control has accepted one.

use wire::Incarnation;

use super::bench::Bench;
use crate::Member;

/// Both in one turn: one superblock, at the turn's end.
#[test]
fn lives_are_remembered_until_one_is_accepted() {
    let mut bench = Bench::new();
    assert!(bench.member.lives().is_empty());
    bench.reopen();
    bench.reopen();
    let lives = bench.member.lives().to_vec();
    assert_eq!(lives, [Incarnation(1 << 16), Incarnation(2 << 16)]);
    assert!(!bench.member.recovered_cut() && !bench.member.lacks());
    let present = Incarnation(3 << 16);
    let before = bench.disk.counters.writes;
    bench.event(|member, clock, memory, effects| member.on_accepted(clock, present, memory, effects));
    bench.event(Member::on_whole);
    assert!(bench.member.lives().is_empty() && bench.disk.pending() == 0);
    bench.run();
    assert_eq!(bench.disk.counters.writes, before + 4);
    bench.reopen();
    assert_eq!(bench.member.lives(), [present]);
}
