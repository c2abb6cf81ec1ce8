//! What a machine lacks, said aloud, and counts that the environment may raise.

use std::io::Write;
use std::path::Path;

/// Says that a test can't run here; the caller returns. `name` stands in `tests/SKIPS.md`.
///
/// The line goes past the test runner's capture, so that a passing run shows it.
///
/// # Panics
/// If the name isn't listed, and on every skip with `CATENA_NO_SKIPS=1`.
pub fn skip(name: &str, reason: &str) {
    let list = Path::new(env!("CARGO_MANIFEST_DIR")).join("../SKIPS.md");
    let list = std::fs::read_to_string(list).expect("tests/SKIPS.md is readable");
    assert!(
        list.contains(&format!("| `{name}` |")),
        "the skip {name} isn't listed in tests/SKIPS.md ({reason})"
    );
    assert!(
        std::env::var_os("CATENA_NO_SKIPS").is_none(),
        "CATENA_NO_SKIPS is set, and {name} was skipped: {reason}"
    );
    // Nobody reads a closed standard error; the test goes on.
    let _ = writeln!(std::io::stderr(), "SKIPPED {name}: {reason}");
}

/// How often a test repeats: the environment variable `name`, else `default`.
///
/// # Panics
/// If the variable is no number, or zero: a test that repeats nothing can't fail.
#[must_use]
pub fn count(name: &str, default: u64) -> u64 {
    let Some(text) = std::env::var_os(name) else { return default };
    let number = text.to_str().and_then(|text| text.parse().ok()).filter(|&number| number > 0);
    number.unwrap_or_else(|| panic!("{name} has to be a number above zero, not {}", text.display()))
}
