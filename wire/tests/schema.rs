//! The generated code belongs to the schema.

use std::fs;
use std::path::{Path, PathBuf};

use xxhash_rust::xxh3::Xxh3Default;

/// The hash that `wire-generated` documents.
fn schema_hash(directory: &Path) -> String {
    let listing = fs::read_dir(directory).expect("wire/schema is there");
    let mut paths: Vec<PathBuf> = listing.map(|entry| entry.expect("an entry").path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "fbs"));
    paths.sort();
    assert!(!paths.is_empty());
    let mut hash = Xxh3Default::new();
    for path in paths {
        hash.update(&fs::read(path).expect("a readable schema"));
    }
    format!("{:016x}\n", hash.digest())
}

#[test]
fn generated_code_is_of_this_schema() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let recorded = root.join("generated/schema.hash");
    let hash = schema_hash(&root.join("schema"));
    if std::env::var_os("CATENA_RECORD_SCHEMA_HASH").is_some() {
        fs::write(&recorded, &hash).expect("wire/generated is writable");
    }
    let found = fs::read_to_string(&recorded).expect("wire/generated/schema.hash is there");
    assert_eq!(found, hash, "the schema changed: run wire/schema/generate.sh and commit what it writes");
}
