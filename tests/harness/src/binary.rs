//! The `catena` binary, built once.
//!
//! `cargo test` builds no binary of another crate, so the first test that needs one builds it, under a file lock; the others
//! wait and find it fresh. It goes into the target directory and the profile of the running test, with the environment's
//! `RUSTFLAGS`, so that a build with planted bugs tests a binary with planted bugs. `CATENA_TEST_PROFILE` (`dev`, `release`)
//! chooses another profile and `CATENA_TEST_BINARY` a ready binary.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// Path of the `catena` binary.
///
/// # Panics
/// If it can't be built.
pub fn catena() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| match std::env::var_os("CATENA_TEST_BINARY") {
        Some(path) => PathBuf::from(path),
        None => build("catena"),
    })
}

/// Builds the workspace's binary `name` and returns its path.
///
/// # Panics
/// If it can't be built.
#[must_use]
pub fn build(name: &str) -> PathBuf {
    let (target, own_profile) = target_directory();
    let profile = std::env::var("CATENA_TEST_PROFILE").unwrap_or(own_profile);
    let lock = File::create(target.join("catena-tests.lock")).expect("the target directory is writable");
    lock.lock().expect("a lock in the target directory");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    // `--workspace` resolves features as `cargo test --workspace` did, so that nothing is compiled twice.
    let output = Command::new(cargo)
        .args(["build", "--quiet", "--workspace", "--bin", name, "--profile", &profile, "--target-dir"])
        .arg(&target)
        .current_dir(workspace())
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "building {name}:\n{}", String::from_utf8_lossy(&output.stderr));
    let folder = if profile == "dev" { "debug" } else { &profile };
    target.join(folder).join(name)
}

/// Root of the workspace.
#[must_use]
pub fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().expect("the workspace exists")
}

/// The running test's target directory and profile: it stands at `TARGET/FOLDER/deps/NAME` (a program at `TARGET/FOLDER/NAME`).
pub(crate) fn target_directory() -> (PathBuf, String) {
    let test = std::env::current_exe().expect("a test has a path");
    let mut folder = test.parent().expect("an executable stands in a folder");
    if folder.file_name().is_some_and(|name| name == "deps" || name == "examples") {
        folder = folder.parent().expect("below the profile's folder");
    }
    let name =
        folder.file_name().and_then(|name| name.to_str()).expect("a profile's folder has a plain name");
    let profile = if name == "debug" { "dev" } else { name };
    (folder.parent().expect("a target directory").to_owned(), profile.to_owned())
}
