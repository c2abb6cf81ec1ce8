//! Every command in README and docs is run, and prints what the page says.

use harness::Scratch;
use harness::documents::run_page;

fn check(page: &str) {
    let scratch = Scratch::new();
    assert!(run_page(page, scratch.path()) > 0, "{page} has commands that are run");
}

#[test]
fn readme() {
    check("README.md");
}

#[test]
fn commands() {
    check("docs/commands.md");
}

#[test]
fn quickstart() {
    check("docs/quickstart.md");
}

#[test]
fn operating() {
    check("docs/operating.md");
}
