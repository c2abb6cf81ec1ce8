//! The checkers are checked: with a planted bug a fuzz or a test by hand must fail. Only in builds with `--cfg planted`, one thread:
//! `RUSTFLAGS='--cfg planted' cargo test -p shard --lib planted -- --test-threads=1`.

use std::panic::{AssertUnwindSafe, catch_unwind};

use wire::planted::Bug;

use crate::shares::tests::the_last_of_a_chain_always_have_room;

use super::{chain_fuzz, sync, sync_fuzz, sync_source};

/// Seeds that are tried.
const SEEDS: u64 = 60;

#[test]
fn every_planted_bug_is_caught() {
    let fuzz = |seed| drop(sync_fuzz::Run::new(seed).run(seed));
    let chain = |seed| drop(chain_fuzz::Run::new(seed).run(seed));
    let by_hand = |test: fn()| move |_: u64| test();
    let runs: [(Bug, &dyn Fn(u64)); 11] = [
        (Bug::ShardAcksAlone, &chain),
        (Bug::ShardSharesBuffers, &by_hand(the_last_of_a_chain_always_have_room)),
        (Bug::ShardAcksLowerEpoch, &by_hand(sync_source::a_promise_ends_the_acks_of_lower_epochs)),
        (Bug::ShardAcksRepeatsAlone, &fuzz),
        (Bug::SyncDeletesExtras, &fuzz),
        (Bug::SyncDigestsEarly, &by_hand(sync_source::a_source_waits_for_what_it_admitted_before)),
        (Bug::SyncDigestsIds, &fuzz),
        (Bug::SyncSkipsFetching, &fuzz),
        (Bug::SyncSkipsVerify, &by_hand(sync::what_is_fetched_is_verified)),
        (Bug::SyncRevivesDead, &by_hand(sync::dead_is_for_ever_in_the_middle_of_a_fetch)),
        (Bug::SyncDeletesExtras, &by_hand(sync::extras_stay_until_the_group_calls_them_dead)),
    ];
    for (bug, run) in runs {
        let fails = |seed: &u64| catch_unwind(AssertUnwindSafe(|| run(*seed))).is_err();
        wire::planted::choose(Some(bug));
        let caught = (0..SEEDS).find(fails);
        wire::planted::choose(None);
        println!("{bug:?} is caught by seed {caught:?}");
        let seed = caught.unwrap_or_else(|| panic!("{bug:?} is not caught"));
        assert!(!fails(&seed), "{bug:?}: seed {seed} fails without it");
    }
}
