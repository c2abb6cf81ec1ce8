//! Names that prose uses: crates and paths in ARCHITECTURE.md, and links between pages.
//!
//! In ARCHITECTURE.md a backticked span counts as a path if its first component is a folder or file of the root:
//! `engine/store`, `wire/src/frame.rs`, `engine/store/src/write.rs:on_write`, `…:Store::on_write`. What stands behind the colon
//! must be declared in that file.

use crate::edges;
use crate::source;
use crate::tree::Tree;

const ARCHITECTURE: &str = "ARCHITECTURE.md";
const OPERATING: &str = "docs/operating.md";
const CONFIGURATION: &str = "engine/node/src/config/defaults.toml";
/// Lines that ARCHITECTURE.md may have: it is read in one sitting.
pub const ARCHITECTURE_LINES_MAX: usize = 300;

/// What prose names and the tree doesn't have.
#[must_use]
pub fn findings(tree: &Tree) -> Vec<String> {
    let mut findings = Vec::new();
    architecture(tree, &mut findings);
    configuration(tree, &mut findings);
    for page in tree.files().iter().filter(|file| file.is_page()) {
        for (line, info) in fences(&page.text) {
            let reason = info.strip_prefix("console not run:").map(str::trim);
            if ["sh", "bash", "shell"].contains(&info) || reason == Some("") {
                findings.push(format!(
                    "{}:{line}: commands stand in `console` blocks, which a test runs, or in `console not run: REASON`",
                    page.path
                ));
            }
        }
        for (line, target) in links(&page.text) {
            let path = resolve(&page.path, target);
            if !tree.has(&path) {
                findings.push(format!("{}:{line}: the link to {target} leads nowhere", page.path));
            }
        }
    }
    let readme: Vec<String> =
        links(tree.text("README.md")).map(|(_, target)| resolve("README.md", target)).collect();
    for page in tree.files().iter().filter(|file| file.path.starts_with("docs/") && file.is_page()) {
        if !readme.contains(&page.path) {
            findings.push(format!("{}: README.md doesn't link to this page", page.path));
        }
    }
    findings
}

fn architecture(tree: &Tree, findings: &mut Vec<String>) {
    let text = tree.text(ARCHITECTURE);
    if text.lines().count() > ARCHITECTURE_LINES_MAX {
        findings.push(format!("{ARCHITECTURE} has more than {ARCHITECTURE_LINES_MAX} lines"));
    }
    for (name, folder) in edges::crates() {
        let named = spans(text).any(|(_, span)| span == folder || span == name);
        if !named {
            findings.push(format!("{ARCHITECTURE}: the crate {name} (`{folder}`) isn't named"));
        }
    }
    for (line, span) in spans(text) {
        let (path, item) = span.split_once(':').map_or((span, None), |(path, item)| (path, Some(item)));
        let first = path.split('/').next().unwrap_or_default();
        // One word without a slash or a dot is a term, not a path.
        let is_path = (path.contains('/') || path.contains(".rs")) && path.chars().all(is_path_character);
        if !is_path || !tree.has(first) {
            continue;
        }
        if !tree.has(path) {
            findings.push(format!("{ARCHITECTURE}:{line}: there is no {path}"));
        } else if let Some(item) = item
            && !declares(tree.text(path), item)
        {
            findings.push(format!("{ARCHITECTURE}:{line}: {path} declares no {item}"));
        }
    }
}

/// Every key of the configuration is documented, and nothing else is.
fn configuration(tree: &Tree, findings: &mut Vec<String>) {
    let defaults: toml::Table = match tree.text(CONFIGURATION).parse() {
        Ok(defaults) => defaults,
        Err(error) => return findings.push(format!("{CONFIGURATION}: {error}")),
    };
    let mut keys = Vec::new();
    for (key, value) in &defaults {
        // A list of sections has the keys of its first one.
        match value.as_array().and_then(|list| list.first()).unwrap_or(value).as_table() {
            Some(section) => keys.extend(section.keys().map(|inner| format!("{key}.{inner}"))),
            None => keys.push(key.clone()),
        }
    }
    let rows = tree.text(OPERATING).lines().skip_while(|line| *line != "## Configuration");
    let rows = rows.skip(1).take_while(|line| !line.starts_with("## "));
    let documented: Vec<&str> = rows.filter_map(|line| line.strip_prefix("| `")?.split('`').next()).collect();
    for key in keys.iter().filter(|key| !documented.contains(&key.as_str())) {
        findings.push(format!("{OPERATING}: the key {key} isn't documented"));
    }
    for key in documented.iter().filter(|key| !keys.iter().any(|known| known == *key)) {
        findings.push(format!("{OPERATING}: {CONFIGURATION} has no key {key}"));
    }
}

fn is_path_character(character: char) -> bool {
    character.is_ascii_alphanumeric() || "/._-".contains(character)
}

/// Whether a source text declares `item` or, for `Type::item`, names the type and declares the item.
fn declares(text: &str, item: &str) -> bool {
    const KEYWORDS: &[&str] =
        &["fn", "struct", "enum", "trait", "type", "const", "static", "mod", "macro_rules"];
    let code = source::code(text);
    let (owner, name) = item.rsplit_once("::").map_or((None, item), |(owner, name)| (Some(owner), name));
    let words: Vec<&str> = source::words(&code).collect();
    owner.is_none_or(|owner| words.contains(&owner))
        && words.windows(2).any(|pair| KEYWORDS.contains(&pair[0]) && pair[1] == name)
}

/// Backticked spans outside fenced blocks, with their line numbers.
fn spans(text: &str) -> impl Iterator<Item = (usize, &str)> {
    prose(text).flat_map(|(number, line)| line.split('`').skip(1).step_by(2).map(move |span| (number, span)))
}

/// Targets of links to files, with their line numbers; anchors are cut off.
fn links(text: &str) -> impl Iterator<Item = (usize, &str)> {
    prose(text).flat_map(|(number, line)| {
        line.split("](").skip(1).filter_map(move |rest| {
            let target = rest.split(')').next()?.split('#').next()?;
            (!target.is_empty() && !target.contains("://") && !target.starts_with("mailto:"))
                .then_some((number, target))
        })
    })
}

/// What stands behind each fence that opens a block, with line numbers.
fn fences(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut fenced = false;
    text.lines().enumerate().filter_map(move |(index, line)| {
        let info = line.trim_start().strip_prefix("```")?;
        fenced = !fenced;
        fenced.then_some((index + 1, info.trim()))
    })
}

/// Lines outside fenced blocks, numbered from 1.
fn prose(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut fenced = false;
    text.lines().enumerate().filter_map(move |(index, line)| {
        let fence = line.trim_start().starts_with("```");
        fenced ^= fence;
        (!fenced && !fence).then_some((index + 1, line))
    })
}

/// Path of a link's target, seen from the page it stands in.
fn resolve(page: &str, target: &str) -> String {
    let mut parts: Vec<&str> = page.split('/').collect();
    parts.pop();
    for part in target.split('/') {
        match part {
            "." | "" => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    parts.join("/")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::File;

    fn of(pages: &[(&str, &str)]) -> Vec<String> {
        let crates: Vec<String> = edges::crates().map(|(name, _)| format!("`{name}`")).collect();
        let crates = crates.join(" ");
        let mut files = vec![File::new("wire/src/frame.rs", "impl Prefix { fn decode() {} } // fn encode")];
        files.extend(pages.iter().map(|(path, text)| File::new(path, &text.replace("CRATES", &crates))));
        files.sort_by(|left, right| left.path.cmp(&right.path));
        findings(&Tree::from_files(files))
    }

    #[test]
    fn architecture_names_what_exists() {
        let check = |text: &str, expected: &str| {
            let found = of(&[(ARCHITECTURE, &format!("CRATES\n{text}"))]).join("\n");
            assert!(found.contains(expected) && found.is_empty() == expected.is_empty(), "{text}: {found}");
        };
        check("`wire/src/frame.rs:decode` `wire/src/frame.rs:Prefix::decode` `session/ordinal` `a term`", "");
        check("`wire/src/gone.rs`", "ARCHITECTURE.md:2: there is no wire/src/gone.rs");
        check("`wire/src/frame.rs:encode`", "declares no encode");
        check("`wire/src/frame.rs:Suffix::decode`", "declares no Suffix::decode");
        check("```\n`wire/src/gone.rs`\n```", "");
        check(&"\n".repeat(ARCHITECTURE_LINES_MAX), "more than");
        assert!(of(&[(ARCHITECTURE, "`wire`")]).iter().any(|finding| finding.contains("the crate store")));
    }

    #[test]
    fn the_configuration_is_documented() {
        let check = |rows: &str, expected: &str| {
            let page = format!("## Configuration\n{rows}\n## Next\n| `other` |");
            let defaults = (CONFIGURATION, "a = 1\n[[disks]]\npath = \"\"");
            let found = of(&[
                (ARCHITECTURE, "CRATES"),
                ("README.md", "[o](docs/operating.md)"),
                (OPERATING, &page),
                defaults,
            ]);
            let found = found.join("\n");
            assert!(found.contains(expected) && found.is_empty() == expected.is_empty(), "{rows}: {found}");
        };
        check("| `a` | 1 |\n| `disks.path` | |", "");
        check("| `a` | 1 |", "the key disks.path isn't documented");
        check("| `a` |\n| `disks.path` |\n| `b` |", "has no key b");
    }

    #[test]
    fn pages_link_to_pages() {
        let check = |readme: &str, expected: &str| {
            let found =
                of(&[(ARCHITECTURE, "CRATES"), ("README.md", readme), ("docs/a.md", "[up](../README.md)")]);
            let found = found.join("\n");
            assert!(found.contains(expected) && found.is_empty() == expected.is_empty(), "{readme}: {found}");
        };
        check("[a](docs/a.md#part) [site](https://example.org)", "");
        check("nothing", "docs/a.md: README.md doesn't link");
        check("[a](docs/a.md)\n```sh\nls\n```", "README.md:2: commands stand in");
        check("[a](docs/a.md)\n```console not run:\n$ ls\n```", "README.md:2: commands stand in");
        check("[a](docs/a.md)\n```console not run: needs root\n$ ls\n```\n```\nsh\n```", "");
        check("[a](docs/a.md) [b](docs/b.md)", "README.md:1: the link to docs/b.md leads nowhere");
    }
}
