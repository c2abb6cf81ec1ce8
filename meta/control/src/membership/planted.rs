//! The checkers are checked: with a planted bug the membership's fuzz must fail. Only in builds with `--cfg planted`, one thread:
//! `RUSTFLAGS='--cfg planted' cargo test -p control --lib planted -- --test-threads=1`.

use wire::planted::{Bug, choose};

#[test]
fn the_fuzz_catches_planted_bugs() {
    let mut unnoticed = Vec::new();
    for bug in Bug::CONTROL {
        choose(Some(*bug));
        let fuzz = super::membership_fuzz::nothing_acked_is_lost_and_everything_serves_in_the_end;
        let caught = std::panic::catch_unwind(fuzz).is_err();
        choose(None);
        if !caught {
            unnoticed.push(*bug);
        }
    }
    assert!(unnoticed.is_empty(), "{unnoticed:?} went unnoticed");
}
