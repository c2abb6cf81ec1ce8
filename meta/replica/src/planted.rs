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
