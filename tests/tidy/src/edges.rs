//! The walls: which of our crates may name which, in one table.
//!
//! Lower crates stand first, and an edge goes upwards in the table only, so there is no circle to look for. A *pure* crate has
//! no I/O, clock, thread or randomness because nothing it depends on has: it may name `PURE_FOREIGN` of others' crates and
//! nothing else. Others' crates with one allowed home are in `FOREIGN_HOMES` (`deny.toml` says the same to `cargo deny`).

use toml::{Table, Value};

use crate::tree::Tree;

/// One crate: its folder and what of ours it may name.
struct Crate {
    name: &'static str,
    folder: &'static str,
    pure: bool,
    /// Ours that it may name.
    may: &'static [&'static str],
}

const fn pure(name: &'static str, folder: &'static str, may: &'static [&'static str]) -> Crate {
    Crate { name, folder, pure: true, may }
}

const fn real(name: &'static str, folder: &'static str, may: &'static [&'static str]) -> Crate {
    Crate { name, folder, pure: false, may }
}

/// Every crate of the workspace, lowest first.
const CRATES: &[Crate] = &[
    pure("wire-generated", "wire/generated", &[]),
    pure("wire", "wire", &["wire-generated"]),
    pure("placement", "meta/placement", &["wire"]),
    pure("namespace", "meta/namespace", &["wire"]),
    pure("replica", "meta/replica", &["wire", "namespace"]),
    // Another's, with its generated code checked in; only `raft` names it.
    real("raft-proto", "meta/raft-proto", &[]),
    pure("control", "meta/control", &["wire", "placement"]),
    pure("journal", "engine/journal", &["wire"]),
    pure("store", "engine/store", &["wire", "journal"]),
    // A shard passes the store's I/O requests on, and they are the journal's words.
    pure("shard", "engine/shard", &["wire", "placement", "journal", "store"]),
    pure("agent", "engine/agent", &["wire", "placement", "journal", "control"]),
    pure("group", "engine/group", &["wire", "placement", "replica", "journal"]),
    real("runtime", "engine/runtime", &["wire"]),
    real(
        "node",
        "engine/node",
        &[
            "wire",
            "placement",
            "namespace",
            "replica",
            "control",
            "journal",
            "store",
            "shard",
            "group",
            "agent",
            "runtime",
        ],
    ),
    real("client", "client", &["wire", "placement", "runtime"]),
    pure("history", "loadgen/history", &[]),
    real("loadgen", "loadgen", &["runtime", "client", "history"]),
    // `catena debug` reads the formats of a stopped store, so the command names the two crates that own them.
    real("cli", "cli", &["wire", "journal", "store", "runtime", "node", "client", "history", "loadgen"]),
    real("harness", "tests/harness", &[]),
    real(
        "perf",
        "perf",
        &[
            "wire",
            "placement",
            "namespace",
            "replica",
            "journal",
            "store",
            "shard",
            "runtime",
            "node",
            "client",
            "harness",
        ],
    ),
    real(
        "sim",
        "tests/sim",
        &[
            "wire",
            "placement",
            "namespace",
            "replica",
            "control",
            "journal",
            "store",
            "shard",
            "group",
            "agent",
            "client",
        ],
    ),
    real("node-tests", "tests/node", &["wire", "client", "harness"]),
    real("fault", "tests/fault", &["wire", "client", "harness"]),
    real("tidy", "tests/tidy", &[]),
];

/// Others' crates that a pure crate may name.
const PURE_FOREIGN: &[&str] = &["flatbuffers", "thiserror", "xxhash-rust"];

/// Others' crates that one pure crate may name beside these: what they draw at random is overwritten before it is looked at, and their tables are
/// keyed by a fixed hash (`meta/control/src/voter.rs`).
const PURE_EXCEPTIONS: &[(&str, &[&str])] = &[("control", &["prost", "raft", "slog"])];

/// Others' crates that only the named crates of ours may name.
const FOREIGN_HOMES: &[(&str, &[&str])] = &[
    ("glommio", &["runtime"]),
    ("io-uring", &["runtime", "perf"]),
    ("memmap2", &["runtime"]),
    ("flatbuffers", &["wire", "wire-generated"]),
    ("fuser", &["fault"]),
    ("raft", &["control"]),
    ("slog", &["control"]),
    ("prost", &["control", "raft-proto"]),
    ("protobuf", &["raft-proto"]),
    ("lazy_static", &["raft-proto"]),
];

/// What the manifests say against the table.
#[must_use]
pub fn findings(tree: &Tree) -> Vec<String> {
    let mut findings = Vec::new();
    let known = tree.files().iter().filter(|file| file.path.ends_with("/Cargo.toml"));
    for file in known {
        let folder = file.path.trim_end_matches("/Cargo.toml");
        match file.text.parse::<Table>() {
            Err(error) => findings.push(format!("{}: {error}", file.path)),
            Ok(manifest) => match CRATES.iter().position(|ours| ours.folder == folder) {
                Some(index) => check(index, &manifest, &mut findings),
                None => findings
                    .push(format!("{}: this crate isn't in the table of tests/tidy/src/edges.rs", file.path)),
            },
        }
    }
    findings
}

fn check(index: usize, manifest: &Table, findings: &mut Vec<String>) {
    let ours = &CRATES[index];
    let mut say = |what: String| findings.push(format!("{}/Cargo.toml: {what}", ours.folder));
    let name = manifest.get("package").and_then(|package| package.get("name")).and_then(Value::as_str);
    if name != Some(ours.name) {
        say(format!("the package is {name:?}, the table calls it {:?}", ours.name));
    }
    if manifest.get("lints").and_then(|lints| lints.get("workspace")) != Some(&Value::Boolean(true))
        && !["wire-generated", "raft-proto"].contains(&ours.name)
    {
        say("`[lints] workspace = true` is missing".to_owned());
    }
    for (dependency, is_inherited) in dependencies(manifest) {
        if !is_inherited {
            say(format!("{dependency} has to say `workspace = true`: versions stand in one place"));
        }
        if CRATES.iter().any(|other| other.name == dependency) {
            if !ours.may.contains(&dependency.as_str()) {
                say(format!("{} may not name {dependency}", ours.name));
            }
        } else if let Some((_, homes)) = FOREIGN_HOMES.iter().find(|(foreign, _)| *foreign == dependency)
            && !homes.contains(&ours.name)
        {
            say(format!("only {} may name {dependency}", homes.join(", ")));
        } else if ours.pure && !may_name(ours.name, &dependency) {
            say(format!("{} is pure and may not name {dependency}", ours.name));
        }
    }
}

/// Whether this pure crate may name one of others'.
fn may_name(pure: &str, foreign: &str) -> bool {
    let exceptions =
        PURE_EXCEPTIONS.iter().filter(|(name, _)| *name == pure).flat_map(|(_, foreign)| *foreign);
    PURE_FOREIGN.iter().chain(exceptions).any(|may| *may == foreign)
}

/// Every dependency of a manifest: of the library, its tests, its build script and any target.
///
/// With each stands whether it is inherited from the workspace.
fn dependencies(manifest: &Table) -> Vec<(String, bool)> {
    let mut found = Vec::new();
    for section in ["dependencies", "dev-dependencies", "build-dependencies"] {
        let whole = manifest.get(section).into_iter();
        let targets = manifest.get("target").and_then(Value::as_table).into_iter().flat_map(Table::values);
        for table in whole.chain(targets.filter_map(|target| target.get(section))) {
            for (key, value) in table.as_table().into_iter().flatten() {
                // `alias = { package = "name" }` names `name`.
                let name = value.get("package").and_then(Value::as_str).unwrap_or(key).to_owned();
                found.push((name, value.get("workspace") == Some(&Value::Boolean(true))));
            }
        }
    }
    found
}

/// Others' crates that the workspace declares without a reason in ARCHITECTURE.md, or that no crate of ours names.
#[must_use]
pub fn foreign_findings(tree: &Tree) -> Vec<String> {
    let root = tree.text("Cargo.toml").parse::<Table>().unwrap_or_default();
    let declared =
        root.get("workspace").and_then(|workspace| workspace.get("dependencies")).and_then(Value::as_table);
    let manifests = tree.files().iter().filter(|file| file.path.ends_with("/Cargo.toml"));
    let named: Vec<String> = manifests
        .filter_map(|file| file.text.parse::<Table>().ok())
        .flat_map(|manifest| dependencies(&manifest))
        .map(|(name, _)| name)
        .collect();
    let mut findings = Vec::new();
    for (name, value) in declared.into_iter().flatten() {
        if value.get("path").is_none() {
            if !tree.text("ARCHITECTURE.md").contains(&format!("| `{name}` |")) {
                findings.push(format!("ARCHITECTURE.md: no row says what {name} is for"));
            }
            if !named.contains(name) {
                findings.push(format!("Cargo.toml: no crate names {name}"));
            }
        }
    }
    findings
}

/// Names and folders of all crates, lowest first.
pub fn crates() -> impl Iterator<Item = (&'static str, &'static str)> {
    CRATES.iter().map(|ours| (ours.name, ours.folder))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::File;

    #[test]
    fn the_table_has_no_circle() {
        for (index, ours) in CRATES.iter().enumerate() {
            for may in ours.may {
                let other = CRATES
                    .iter()
                    .position(|other| other.name == *may)
                    .expect("the table names its own crates");
                assert!(other < index, "{} may name {may}, which stands above it", ours.name);
                assert!(!ours.pure || CRATES[other].pure, "{} is pure and {may} isn't", ours.name);
            }
        }
    }

    #[test]
    fn planted_edges_are_found() {
        let check = |folder: &str, name: &str, rest: &str, expected: &str| {
            let text = format!("[package]\nname = \"{name}\"\n[lints]\nworkspace = true\n{rest}");
            let tree = Tree::from_files(vec![File::new(&format!("{folder}/Cargo.toml"), &text)]);
            let found = findings(&tree).join("\n");
            assert!(found.contains(expected) && found.is_empty() == expected.is_empty(), "{name}: {found}");
        };
        check("engine/store", "store", "[dependencies]\nwire.workspace = true", "");
        check(
            "engine/store",
            "store",
            "[dependencies]\nruntime.workspace = true",
            "store may not name runtime",
        );
        check("engine/store", "store", "[dev-dependencies]\ntempfile.workspace = true", "store is pure");
        check(
            "engine/store",
            "store",
            "[dependencies]\nio-uring.workspace = true",
            "only runtime, perf may name",
        );
        check(
            "engine/store",
            "store",
            "[dependencies]\nx = { package = \"glommio\" }",
            "only runtime may name",
        );
        check(
            "client",
            "client",
            "[target.'cfg(unix)'.dependencies]\nnode.workspace = true",
            "may not name node",
        );
        check("client", "other", "", "the table calls it");
        check("elsewhere", "elsewhere", "", "isn't in the table");
        let bare = Tree::from_files(vec![File::new("wire/Cargo.toml", "[package]\nname = \"wire\"")]);
        assert!(findings(&bare).join("\n").contains("lints"));
    }
    #[test]
    fn foreign_crates_have_a_reason_and_a_use() {
        let check = |architecture: &str, dependency: &str, expected: &str| {
            let tree = Tree::from_files(vec![
                File::new("ARCHITECTURE.md", architecture),
                File::new("Cargo.toml", "[workspace.dependencies]\nx = \"1\"\nwire = { path = \"wire\" }"),
                File::new("cli/Cargo.toml", &format!("[dependencies]\n{dependency}.workspace = true")),
            ]);
            let found = foreign_findings(&tree).join("\n");
            assert!(found.contains(expected) && found.is_empty() == expected.is_empty(), "{found}");
        };
        check("| `x` | why |", "x", "");
        check("x", "x", "no row says what x is for");
        check("| `x` | why |", "y", "no crate names x");
    }
}
