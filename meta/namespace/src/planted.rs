//! The checkers are checked: with a planted bug the model fuzz must fail. Only in builds with `--cfg planted`, one thread:
//! `RUSTFLAGS='--cfg planted' cargo test -p namespace --lib planted -- --test-threads=1`.

use wire::planted::{Bug, choose};

#[test]
fn the_model_catches_planted_bugs() {
    for bug in [Bug::NamespaceLosesRename, Bug::ReclaimsReferenced] {
        choose(Some(bug));
        let caught = std::panic::catch_unwind(crate::model_fuzz::the_tree_is_the_models).is_err();
        choose(None);
        assert!(caught, "{bug:?} went unnoticed");
    }
}
