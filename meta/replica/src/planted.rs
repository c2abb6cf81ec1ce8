//! The checkers are checked: with a planted bug the replica's fuzz must fail. Only in builds with `--cfg planted`, one thread:
//! `RUSTFLAGS='--cfg planted' cargo test -p replica --lib planted -- --test-threads=1`.

use wire::planted::{Bug, choose};

#[test]
fn the_fuzz_catches_planted_bugs() {
    for bug in [Bug::ReplicaForgetsResults, Bug::ReplicaAnswersEarly, Bug::ReclaimsReferenced] {
        choose(Some(bug));
        let fuzz = crate::replica_fuzz::nothing_answered_is_lost_or_done_twice;
        let caught = std::panic::catch_unwind(fuzz).is_err();
        choose(None);
        assert!(caught, "{bug:?} went unnoticed");
    }
}

/// Each at the place of the rule that it breaks; the rules are in SAFETY's words where the bug is declared.
#[test]
fn the_chain_fuzz_catches_planted_bugs() {
    let mut unnoticed = Vec::new();
    let known = [Bug::ReplicaAnswersEarly, Bug::ReplicaForgetsResults];
    for bug in known.into_iter().chain(Bug::CHAIN.iter().copied()) {
        choose(Some(bug));
        let caught = std::panic::catch_unwind(|| crate::chain_fuzz::run_all(1..=2000)).is_err();
        choose(None);
        if !caught {
            unnoticed.push(bug);
        }
    }
    assert!(unnoticed.is_empty(), "{unnoticed:?} went unnoticed");
}
