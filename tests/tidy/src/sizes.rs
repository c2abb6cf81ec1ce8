//! Sizes: a file has at most [`FILE_LINES_MAX`] lines beside its tests, a function at most [`FUNCTION_LINES_MAX`].
//!
//! What is larger stands with its size in `tests/tidy/ratchet.toml`. An offender may shrink, never grow; the entry is lowered
//! when it does, and goes when the limit holds, so that the file only gets shorter.

use std::collections::BTreeMap;

use crate::source;
use crate::tree::{File, Tree};

/// Lines a file may have, its `#[cfg(test)]` module apart.
pub const FILE_LINES_MAX: usize = 800;
/// Lines a function may have, from its `fn` to its closing brace: one screen.
pub const FUNCTION_LINES_MAX: usize = 70;
/// Where the offenders stand.
pub const RATCHET_PATH: &str = "tests/tidy/ratchet.toml";

/// What is larger than its limit: `path` or `path:function` → lines.
pub type Offenders = BTreeMap<String, usize>;

/// Everything in the tree beyond its limit.
#[must_use]
pub fn offenders(tree: &Tree) -> Offenders {
    let mut found = Offenders::new();
    for file in tree.rust() {
        let lines = file_lines(file);
        if lines > FILE_LINES_MAX {
            found.insert(file.path.clone(), lines);
        }
        for (name, lines) in functions(&file.text) {
            if lines > FUNCTION_LINES_MAX {
                // Two functions of one name in one file: the longer one counts.
                let entry = found.entry(format!("{}:{name}", file.path)).or_default();
                *entry = lines.max(*entry);
            }
        }
    }
    found
}

/// Compares what is with what the ratchet allows.
#[must_use]
pub fn findings(tree: &Tree) -> Vec<String> {
    let allowed = match ratchet(tree.text(RATCHET_PATH)) {
        Ok(allowed) => allowed,
        Err(reason) => return vec![format!("{RATCHET_PATH}: {reason}")],
    };
    let found = offenders(tree);
    let mut findings = Vec::new();
    for (name, &lines) in &found {
        match allowed.get(name) {
            None => findings.push(format!(
                "{name} has {lines} lines; a file may have {FILE_LINES_MAX}, a function {FUNCTION_LINES_MAX}: split it"
            )),
            Some(&limit) if lines > limit => {
                findings.push(format!("{name} grew from {limit} to {lines} lines: an offender may only shrink"));
            }
            Some(&limit) if lines < limit => {
                findings.push(format!("{name} shrank from {limit} to {lines} lines: lower it in {RATCHET_PATH}"));
            }
            Some(_) => {}
        }
    }
    for name in allowed.keys().filter(|name| !found.contains_key(*name)) {
        findings.push(format!("{name} keeps its limit now: remove it from {RATCHET_PATH}"));
    }
    findings
}

fn ratchet(text: &str) -> Result<Offenders, String> {
    let table: toml::Table = text.parse().map_err(|error| format!("{error}"))?;
    let mut allowed = Offenders::new();
    for (name, lines) in table {
        let lines = lines.as_integer().and_then(|lines| usize::try_from(lines).ok());
        allowed.insert(name.clone(), lines.ok_or_else(|| format!("{name}: expected a number of lines"))?);
    }
    Ok(allowed)
}

/// Lines of a file without its modules of tests.
fn file_lines(file: &File) -> usize {
    let code = source::code(&file.text);
    let lines: Vec<&str> = code.lines().collect();
    let mut count = lines.len();
    let mut index = 0;
    while index < lines.len() {
        let in_tests = lines[index].trim() == "#[cfg(test)]"
            && index + 1 < lines.len()
            && lines[index + 1].contains("mod ");
        match source::block_end(&lines, index + 1).filter(|_| in_tests) {
            Some(end) => {
                count -= end - index;
                index = end;
            }
            None => index += 1,
        }
    }
    count
}

/// Each function of a source text with its lines.
fn functions(text: &str) -> Vec<(String, usize)> {
    let code = source::code(text);
    let lines: Vec<&str> = code.lines().collect();
    let mut found = Vec::new();
    for (index, line) in lines.iter().enumerate() {
        let mut words = source::words(line);
        while let Some(word) = words.next() {
            if word != "fn" {
                continue;
            }
            // `fn(u8) -> u8` is a type: what stands behind the keyword must be a name and then a list of arguments.
            let Some(name) = words.next() else { break };
            let declares = line.contains(&format!("fn {name}(")) || line.contains(&format!("fn {name}<"));
            if let Some(end) = source::block_end(&lines, index).filter(|_| declares) {
                found.push((name.to_owned(), end - index));
            }
            break;
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn function(name: &str, lines: usize) -> String {
        format!("fn {name}() {{\n{}}}\n", "    g();\n".repeat(lines - 2))
    }

    fn tree(source: &str, ratchet: &str) -> Tree {
        Tree::from_files(vec![File::new("a/src/x.rs", source), File::new(RATCHET_PATH, ratchet)])
    }

    #[test]
    fn limits_hold_exactly() {
        assert_eq!(findings(&tree(&function("f", FUNCTION_LINES_MAX), "")), Vec::<String>::new());
        assert_eq!(findings(&tree(&function("f", FUNCTION_LINES_MAX + 1), "")).len(), 1);
        let file = |lines: usize| "const A: u8 = 0;\n".repeat(lines);
        assert_eq!(findings(&tree(&file(FILE_LINES_MAX), "")), Vec::<String>::new());
        assert_eq!(findings(&tree(&file(FILE_LINES_MAX + 1), "")).len(), 1);
        let tested = format!("{}#[cfg(test)]\nmod tests {{\n{}}}\n", file(FILE_LINES_MAX), file(50));
        assert_eq!(findings(&tree(&tested, "")), Vec::<String>::new(), "tests are apart");
    }

    #[test]
    fn offenders_shrink_and_never_grow() {
        let source = function("f", 100);
        let of = |lines: usize| findings(&tree(&source, &format!("\"a/src/x.rs:f\" = {lines}\n")));
        assert_eq!(of(100), Vec::<String>::new());
        assert!(of(99)[0].contains("grew"));
        assert!(of(101)[0].contains("lower it"));
        assert!(findings(&tree("", "\"a/src/x.rs:f\" = 100\n"))[0].contains("remove it"));
        assert!(findings(&tree("", "\"a/src/x.rs:f\" = \"many\"\n"))[0].contains("number of lines"));
    }

    #[test]
    fn generated_code_is_exempt() {
        let files =
            vec![File::new("wire/generated/src/x.rs", &function("f", 200)), File::new(RATCHET_PATH, "")];
        assert_eq!(findings(&Tree::from_files(files)), Vec::<String>::new());
    }
}
