//! Words that may not stand in the tree, or not everywhere.

use std::collections::BTreeSet;

use crate::source;
use crate::tree::{File, Tree};

/// Where `unsafe` may stand: the runtime, and what `flatc` wrote.
const UNSAFE_HOMES: &[&str] = &["engine/runtime/", "wire/generated/"];
/// Where the skips stand that tests may take on machines that lack something.
pub const SKIPS_PATH: &str = "tests/SKIPS.md";

/// Words of unfinished work, in two halves so that this file doesn't find itself.
const UNFINISHED: &[(&str, &str)] = &[("FIX", "ME"), ("XX", "X"), ("TO", "DO"), ("HA", "CK")];
/// Beginnings of paths that exist on one machine only.
const MACHINE_PATHS: &[(&str, &str)] =
    &[("/ho", "me/"), ("/wo", "rk/"), ("/ro", "ot/"), ("/Us", "ers/"), ("/fa", "rm/"), ("/mn", "t/c/")];

/// Everything that stands where it may not.
#[must_use]
pub fn findings(tree: &Tree) -> Vec<String> {
    let mut findings = Vec::new();
    for file in tree.files() {
        if file.path == "Cargo.lock" || file.path == "LICENSE" || file.is_generated() {
            continue;
        }
        unfinished(file, &mut findings);
        if file.is_rust() {
            unsafe_code(file, &mut findings);
            attributes(file, &mut findings);
        }
    }
    skips(tree, &mut findings);
    findings
}

fn unfinished(file: &File, findings: &mut Vec<String>) {
    for (index, line) in file.text.lines().enumerate() {
        let mut say = |what: &str| findings.push(format!("{}:{}: {what}", file.path, index + 1));
        for (head, tail) in UNFINISHED {
            let word = format!("{head}{tail}");
            if source::words(line).any(|found| found == word) {
                say(&format!("the word {word}: finish it, or say in an issue what is left"));
            }
        }
        for (head, tail) in MACHINE_PATHS {
            let path = format!("{head}{tail}");
            // Behind `{root}` or a name it is relative to something; only a path that begins here is one machine's.
            let begins = line.match_indices(&path).any(|(at, _)| {
                line[..at]
                    .chars()
                    .next_back()
                    .is_none_or(|before| !(before.is_alphanumeric() || ".}_-/".contains(before)))
            });
            if begins {
                say(&format!("the path {path}… exists on one machine only"));
            }
        }
    }
}

fn unsafe_code(file: &File, findings: &mut Vec<String>) {
    if UNSAFE_HOMES.iter().any(|home| file.path.starts_with(home)) {
        return;
    }
    for (index, line) in source::code(&file.text).lines().enumerate() {
        if source::words(line).any(|word| word == "unsafe") {
            findings.push(format!("{}:{}: unsafe code belongs in engine/runtime", file.path, index + 1));
        }
    }
}

fn attributes(file: &File, findings: &mut Vec<String>) {
    for (index, line) in source::code_and_strings(&file.text).lines().enumerate() {
        let line = line.trim();
        let mut say = |what: &str| findings.push(format!("{}:{}: {what}", file.path, index + 1));
        if line.starts_with("#[ignore") && !line.starts_with("#[ignore = \"") {
            say("#[ignore] needs a reason: #[ignore = \"…\"]");
        }
        if line.starts_with("#[allow") || line.starts_with("#![allow") {
            say("an exception is #[expect(…, reason = \"…\")], which goes when it isn't needed any more");
        }
    }
}

/// A skip in code is `skip("name", …)`; each has a row in SKIPS.md that begins with its backticked name, and each row a skip.
fn skips(tree: &Tree, findings: &mut Vec<String>) {
    let listed: BTreeSet<&str> = tree
        .text(SKIPS_PATH)
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split('`').next())
        .collect();
    let mut taken = BTreeSet::new();
    for file in tree.rust() {
        let text = source::code_and_strings(&file.text);
        for (at, _) in text.match_indices("skip(\"") {
            // `.skip(` belongs to an iterator and never takes a text.
            let name = text[at + 6..].split('"').next().unwrap_or_default();
            let line = text[..at].lines().count().max(1);
            if !listed.contains(name) {
                findings
                    .push(format!("{}:{line}: the skip {name:?} isn't listed in {SKIPS_PATH}", file.path));
            }
            taken.insert(name.to_owned());
        }
    }
    for name in listed.iter().filter(|name| !taken.contains(**name)) {
        findings.push(format!("{SKIPS_PATH}: no test takes the skip {name:?}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(path: &str, text: &str, expected: &str) {
        let found = findings(&Tree::from_files(vec![File::new(path, text)])).join("\n");
        assert!(found.contains(expected) && found.is_empty() == expected.is_empty(), "{text}: {found}");
    }

    #[test]
    fn unsafe_stays_in_its_home() {
        check("client/src/a.rs", "unsafe { f() }", "client/src/a.rs:1: unsafe");
        check("client/src/a.rs", "// unsafe\nlet a = \"unsafe\"; #![forbid(unsafe_code)]", "");
        check("engine/runtime/src/a.rs", "unsafe { f() }", "");
    }

    #[test]
    fn unfinished_words_are_found_everywhere() {
        for (head, tail) in UNFINISHED {
            check("docs/a.md", &format!("one\n{head}{tail}: later"), "docs/a.md:2: the word");
        }
        check("docs/a.md", "masTODOn, todos and the todo lint", "");
        for (head, tail) in MACHINE_PATHS {
            check(".ci/run", &format!("cd {head}{tail}main"), "exists on one machine only");
            check("docs/a.md", &format!("{{root}}{head}{tail}x, a{head}{tail}b"), "");
        }
    }

    #[test]
    fn ignored_tests_have_a_reason() {
        check("client/src/a.rs", "#[ignore]\nfn f() {}", "needs a reason");
        check("client/src/a.rs", "#[ignore = \"ten minutes; CI runs one\"]\nfn f() {}", "");
    }

    #[test]
    fn exceptions_are_expected() {
        check("client/src/a.rs", "#[allow(dead_code)]", "an exception is");
        check("client/src/a.rs", "#![allow(dead_code, reason = \"r\")]", "an exception is");
        check("client/src/a.rs", "#[expect(dead_code, reason = \"r\")]", "");
    }

    #[test]
    fn skips_are_listed_and_taken() {
        let of = |source: &str, list: &str| {
            let mut files = vec![File::new("tests/a.rs", source), File::new(SKIPS_PATH, list)];
            files.sort_by(|left, right| left.path.cmp(&right.path));
            findings(&Tree::from_files(files)).join("\n")
        };
        assert_eq!(of("return skip(\"no-loop\", &why);", "| `no-loop` | root | how |"), "");
        assert!(of("return skip(\"no-loop\", &why);", "").contains("isn't listed"));
        assert!(of("", "| `no-loop` | root | how |").contains("no test takes"));
        assert_eq!(of("list.iter().skip(3)", ""), "");
    }
}
