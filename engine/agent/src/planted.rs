//! The checkers are checked: with a planted bug the agents' fuzz must fail. Only in builds with `--cfg planted`, one thread:
//! `RUSTFLAGS='--cfg planted' cargo test -p agent --lib planted -- --test-threads=1`.

use wire::planted::{Bug, choose};

#[test]
fn the_fuzz_catches_planted_bugs() {
    let mut unnoticed = Vec::new();
    for bug in Bug::AGENT {
        choose(Some(*bug));
        let caught = std::panic::catch_unwind(|| crate::tests::fuzz::run_all(0..400)).is_err();
        choose(None);
        if !caught {
            unnoticed.push(*bug);
        }
    }
    assert!(unnoticed.is_empty(), "{unnoticed:?} went unnoticed");
}
