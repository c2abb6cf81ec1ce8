//! The whole tree, checked: each test is one rule, and prints every place that breaks it.

use tidy::tree::Tree;
use tidy::{edges, names, sizes, words};

fn check(rule: fn(&Tree) -> Vec<String>) {
    let tree = Tree::workspace().expect("the workspace is readable");
    assert!(tree.has("Cargo.toml") && tree.rust().count() > 20, "the tree was found");
    let findings = rule(&tree);
    assert!(findings.is_empty(), "{} to mend:\n{}", findings.len(), findings.join("\n"));
}

#[test]
fn crates_name_only_what_they_may() {
    check(edges::findings);
}

#[test]
fn every_dependency_has_a_reason() {
    check(edges::foreign_findings);
}

#[test]
fn files_and_functions_keep_their_size() {
    check(sizes::findings);
}

#[test]
fn prose_names_what_exists() {
    check(names::findings);
}

#[test]
fn words_stand_where_they_may() {
    check(words::findings);
}
