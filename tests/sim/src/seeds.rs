//! Which seeds continuous integration runs: a fixed number that begins at a number of the tree itself, so that what ran is what it runs, and
//! every tree runs others; and every seed that ever failed. The tree's name is in `CATENA_TREE`; without it the simulated sources are hashed.

use std::path::{Path, PathBuf};

use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::Level;

/// Folders of the crates whose logic is simulated.
const SIMULATED: &[&str] = &[
    "client/src/core",
    "engine/agent/src",
    "engine/group/src",
    "engine/journal/src",
    "engine/shard/src",
    "engine/store/src",
    "meta/control/src",
    "meta/namespace/src",
    "meta/placement/src",
    "meta/replica/src",
    "tests/sim/src",
    "wire/src",
];

/// Seeds that failed once, `level seed` a line.
const RECORDED: &str = include_str!("../seeds.txt");

/// Raises or lowers the number of seeds of each level.
pub const COUNT_VARIABLE: &str = "CATENA_SIM_SEEDS";
/// Names the tree that is tested.
pub const TREE_VARIABLE: &str = "CATENA_TREE";

/// The first seed of this tree, below 2^32 so that it can be typed.
pub fn first() -> u64 {
    if let Some(tree) = std::env::var(TREE_VARIABLE).ok().filter(|tree| !tree.is_empty() && tree != "unknown")
    {
        return xxh3_64_with_seed(tree.as_bytes(), 0) >> 32;
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut files: Vec<PathBuf> = Vec::new();
    for folder in SIMULATED {
        collect(&root.join(folder), &mut files);
    }
    files.sort();
    let hash =
        files.iter().fold(0, |hash, file| xxh3_64_with_seed(&std::fs::read(file).unwrap_or_default(), hash));
    hash >> 32
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

/// How many seeds of a level are run: a count, not a time, so that two machines run the same.
pub fn count(level: Level) -> u64 {
    let chosen = std::env::var(COUNT_VARIABLE).ok().and_then(|text| text.parse().ok());
    chosen.unwrap_or(match level {
        Level::Store => 100,
        Level::Log => 60,
        Level::Node => 150,
        Level::Cluster => 16,
        Level::OneDeath => 12,
    })
}

/// The recorded seeds of a level.
pub fn recorded(level: Level) -> Vec<u64> {
    let lines = RECORDED.lines().map(|line| line.split('#').next().unwrap_or_default().trim());
    lines
        .filter(|line| !line.is_empty())
        .filter_map(|line| {
            let (name, seed) = line.split_once(' ').expect("a line is `level seed`");
            (name == level.name()).then(|| seed.trim().parse().expect("a seed is a number"))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `engine/group` wasn't hashed: a change of it got no other seeds.
    #[test]
    fn every_simulated_crate_is_hashed() {
        let workspace = include_str!("../../../Cargo.toml");
        let dependencies = include_str!("../Cargo.toml").split("[dependencies]").nth(1).expect("a table");
        for name in dependencies.lines().filter_map(|line| line.strip_suffix(".workspace = true")) {
            let is_own = workspace.lines().any(|line| line.starts_with(&format!("{name} = {{ path")));
            let is_hashed = SIMULATED.iter().any(|folder| folder.split('/').any(|part| part == name));
            assert!(is_hashed || !is_own, "{name} is simulated and not hashed");
        }
    }
}
