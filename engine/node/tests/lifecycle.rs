//! A node is formatted, started, stopped and started again; nothing is formatted twice.

use std::path::Path;

use node::{Config, Error};

fn directory() -> tempfile::TempDir {
    // Not `/tmp`, which is often a tmpfs without direct I/O.
    tempfile::Builder::new().prefix("catena-node-").tempdir_in("/var/tmp").expect("a directory")
}

fn config(directory: &Path) -> Config {
    let mut config = Config::development(directory, Some(2), None);
    config.store.prezero = node::ByteSize(0);
    config
}

#[test]
fn formats_once_and_starts_again() {
    let directory = directory();
    let config = config(directory.path());
    assert!(matches!(node::start(config.clone()), Err(Error::NotInitialized { .. })));
    let made = node::init(&config).expect("formatted");
    assert_eq!(made.stores.len(), 2);
    assert!(matches!(node::init(&config), Err(Error::Exists { .. })));
    let mut endpoints = Vec::new();
    for _ in 0..2 {
        let node = node::start(config.clone()).expect("started");
        assert_eq!(node.cluster(), made.cluster);
        assert_eq!(node.failed(), None);
        endpoints.push(node.endpoint());
        node.stop().expect("stopped");
    }
    assert_eq!(endpoints[0], endpoints[1], "the ports are the same after a restart");
}

#[test]
fn a_missing_store_is_named_and_never_made() {
    let directory = directory();
    let config = config(directory.path());
    let made = node::init(&config).expect("formatted");
    let store = &made.stores[1].1;
    std::fs::remove_file(store).expect("removed");
    match node::start(config) {
        Err(Error::Missing { path }) => assert_eq!(path, *store),
        other => panic!("{other:?}"),
    }
    assert!(!store.exists());
}
