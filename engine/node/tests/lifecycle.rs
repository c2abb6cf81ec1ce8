//! A node is formatted, started, stopped and started again; nothing is formatted twice.

use std::io::Read;
use std::path::Path;
use std::time::Duration;

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

/// Waits until nothing holds the node's files: the kernel ends a uring, and what it knew of them, some time after its thread.
fn stopped(config: &Config) {
    let until = runtime::clock::now().after(20 * wire::Nanos::SECOND);
    while node::is_running(config) {
        assert!(runtime::clock::now() < until, "the files are still held");
        std::thread::park_timeout(Duration::from_millis(10));
    }
}

/// The first MiB of a store, where the copies of its superblock are.
fn superblocks(path: &Path) -> Vec<u8> {
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).expect("there");
    file.take(1 << 20).read_to_end(&mut bytes).expect("read");
    bytes
}

#[test]
fn formats_once_and_starts_again() {
    let directory = directory();
    let config = config(directory.path());
    assert!(matches!(node::start(config.clone()), Err(Error::NotInitialized { .. })));
    assert_eq!(node::formatted_shards(&config).expect("readable"), None);
    assert!(!node::is_running(&config));
    let made = node::init(&config).expect("formatted");
    assert_eq!(made.stores.len(), 2);
    assert!(matches!(node::init(&config), Err(Error::Exists { .. })));
    assert_eq!(node::formatted_shards(&config).expect("readable"), Some(2));
    for _ in 0..2 {
        stopped(&config);
        let node = node::start(config.clone()).expect("started");
        assert!(node::is_running(&config));
        assert_eq!(node.cluster(), made.cluster);
        assert_eq!(node.failed(), None);
        node.stop().expect("stopped");
    }
}

fn stored_map(directory: &Path) -> wire::map::Map {
    let bytes = std::fs::read(directory.join("cluster.map")).expect("read");
    wire::map::Map::decode(&bytes[16..]).expect("a map") // behind magic and checksum
}

/// Where group 0's only replica listens.
fn log_address(map: &wire::map::Map) -> &str {
    &map.stores[usize::from(map.groups[0].chain.members[0].store)].address
}

/// With ports from the operating system a node kept those of metadata and shards where they were still free, each for itself, and had a new one for its admin
/// endpoint: what was the same after a restart was a matter of luck.
#[test]
fn ports_from_the_system_are_new_at_each_start_and_the_map_tells_them() {
    const STARTS: usize = 4;
    let directory = directory();
    let config = config(directory.path());
    node::init(&config).expect("formatted");
    let mut ports = vec![std::collections::BTreeSet::new(); 4];
    for _ in 0..STARTS {
        stopped(&config);
        let before = stored_map(directory.path());
        let node = node::start(config.clone()).expect("started");
        let map = stored_map(directory.path());
        assert!(map.number > before.number, "a map with other addresses has another number");
        assert!(map.number <= node.map(), "there may be a newer one already");
        assert_eq!(log_address(&map), node.endpoint());
        let mut addresses: Vec<String> = map.stores.iter().map(|store| store.address.clone()).collect();
        addresses.push(node.admin_address().to_string());
        assert_eq!(addresses.len(), ports.len());
        for (ports, address) in ports.iter_mut().zip(addresses) {
            drop(std::net::TcpStream::connect(&address).expect("somebody listens"));
            ports.insert(address);
        }
        node.stop().expect("stopped");
    }
    // The system may give the same port twice; not four times, of so many thousands.
    assert!(ports.iter().all(|ports| ports.len() > 1), "{ports:?}");
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

/// The other stores were opened before one was missed: each failed start began a life of theirs.
#[test]
fn a_start_without_one_store_leaves_the_others_alone() {
    let directory = directory();
    let config = config(directory.path());
    let made = node::init(&config).expect("formatted");
    stopped(&config);
    let before = superblocks(&made.stores[0].1);
    for missing in [made.stores[1].1.clone(), config.metadata_directory().join("metadata.log")] {
        let away = directory.path().join("away");
        std::fs::rename(&missing, &away).expect("moved away");
        match node::start(config.clone()) {
            Err(Error::Missing { path }) => assert_eq!(path, missing),
            other => panic!("{other:?}"),
        }
        assert!(superblocks(&made.stores[0].1) == before, "no life began");
        std::fs::rename(&away, &missing).expect("moved back");
    }
}

/// The map that says that the loss was accepted was written before a store was missed: sessions were closed and slices stamped for nothing.
#[test]
fn recovery_without_one_store_changes_nothing() {
    let directory = directory();
    let config = config(directory.path());
    let made = node::init(&config).expect("formatted");
    stopped(&config);
    let files = || {
        let names = ["cluster.map", "identity.toml"].map(|name| directory.path().join(name));
        names.iter().map(|path| std::fs::read(path).expect("read")).collect::<Vec<_>>()
    };
    let (before, store) = (files(), &made.stores[1].1);
    let fails = |expected: &str| {
        let error = node::recover(&config, true).expect_err("it lacks a store").to_string();
        assert!(error.contains(expected) && error.contains("shard-1.store"), "{error}");
        assert!(files() == before, "nothing was changed");
    };
    let away = directory.path().join("away");
    std::fs::rename(store, &away).expect("moved away");
    fails("missing although this node was formatted");
    // Another file in its place, and another store.
    std::fs::write(store, vec![7; 2 << 20]).expect("written");
    fails("not a Catena store");
    std::fs::write(store, superblocks(&made.stores[0].1)).expect("written");
    fails("another store");
    std::fs::rename(&away, store).expect("moved back");
    node::recover(&config, true).expect("everything is there");
}

/// Who lost the race removed the winner's files.
/// R34: a start recommended `init`, which then refused the files that were there.
#[test]
fn a_missing_identity_is_told_from_a_directory_that_was_never_formatted() {
    let temporary = directory();
    let config = config(temporary.path());
    assert!(matches!(node::start(config.clone()), Err(Error::NotInitialized { .. })));
    node::init(&config).expect("formats");
    let identity = config.directory.join("identity.toml");
    let kept = std::fs::read(&identity).expect("written");
    std::fs::remove_file(&identity).expect("removed");
    for result in [node::start(config.clone()).map(drop), node::recover(&config, true).map(drop)] {
        let Err(Error::IdentityMissing { path, found }) = result else { panic!("{result:?}") };
        assert_eq!((&path, &found), (&identity, &config.store_path(0)));
    }
    assert!(matches!(node::init(&config), Err(Error::Exists { .. })));
    std::fs::write(&identity, kept).expect("restored");
    // The map as well.
    let map = config.directory.join("cluster.map");
    std::fs::rename(&map, config.directory.join("elsewhere")).expect("renamed");
    match node::start(config.clone()) {
        Err(Error::Missing { path }) => assert_eq!(path, map),
        other => panic!("{other:?}"),
    }
    std::fs::rename(config.directory.join("elsewhere"), &map).expect("renamed back");
    node::start(config).expect("starts").stop().expect("stops");
}

#[test]
fn one_of_several_inits_wins_and_keeps_its_files() {
    for _ in 0..3 {
        let directory = directory();
        let config = config(directory.path());
        let (sender, results) = std::sync::mpsc::channel();
        for _ in 0..4 {
            let (config, sender) = (config.clone(), sender.clone());
            let init = move || sender.send(node::init(&config)).expect("somebody waits");
            runtime::spawn_thread("init", None, init).expect("a thread");
        }
        drop(sender);
        let made: Vec<_> = results.iter().collect();
        assert_eq!(made.len(), 4);
        let lost = |error: &Error| matches!(error, Error::Exists { .. } | Error::Formatting { .. });
        assert!(made.iter().filter_map(|made| made.as_ref().err()).all(lost), "{made:?}");
        let won: Vec<_> = made.into_iter().flatten().collect();
        assert_eq!(won.len(), 1);
        let node = node::start(config).expect("everything is there");
        assert_eq!(node.cluster(), won[0].cluster);
        node.stop().expect("stopped");
    }
}

/// What a failed `init` made is removed once nothing uses it any more, so that the next one finds the place free.
#[test]
fn a_failed_init_leaves_nothing() {
    let directory = directory();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = taken.local_addr().expect("bound").port();
    let mut config = config(directory.path());
    // The second shard's port: the first one's thread runs already.
    config.base_port = port - 11;
    assert!(matches!(node::init(&config), Err(Error::Failed { .. })));
    let left: Vec<_> = std::fs::read_dir(directory.path()).expect("there").collect();
    assert!(left.is_empty(), "{left:?}");
    config.base_port = 0;
    node::init(&config).expect("formatted");
}

/// R20, R8: after an accepted loss session ids of before must not be given out again, and what was acked before isn't committed: the map says so. It said nothing.
#[test]
fn an_accepted_loss_is_in_the_map() {
    let directory = directory();
    let config = config(directory.path());
    node::init(&config).expect("formatted");
    let path = directory.path().join("cluster.map");
    let map = || (stored_map(directory.path()), std::fs::read(&path).expect("read"));
    let (before, file_before) = map();
    assert_eq!(before.groups[0].generation, 0);
    node::recover(&config, true).expect("recovered");
    // The stores remember it, and the control group takes it up before anything is served.
    stopped(&config);
    node::start(config.clone()).expect("started").stop().expect("stopped");
    stopped(&config);
    let (after, _) = map();
    assert_eq!(after.groups[0].generation, 1);
    assert!(after.slices.iter().all(|slice| slice.loss_map_number > before.number));
    // The control group knows the new generation: a map of before that is put back serves nothing, and is replaced by the newest.
    std::fs::write(&path, file_before).expect("written");
    node::start(config).expect("started").stop().expect("stopped");
    let (last, _) = map();
    assert!(last.number > after.number && last.groups[0].generation == 1);
}

/// A directory of the release before control groups had the same files but a vote's.
#[test]
fn a_directory_without_a_control_group_is_adopted_once() {
    let directory = directory();
    let config = config(directory.path());
    let made = node::init(&config).expect("formatted");
    stopped(&config);
    let path = directory.path().join("identity.toml");
    let text = std::fs::read_to_string(&path).expect("read");
    let old = text.split("[vote]").next().expect("a part").replace("format = 3", "format = 2");
    std::fs::write(&path, old).expect("written");
    std::fs::remove_file(directory.path().join("control-1.log")).expect("it was there");

    assert!(matches!(node::start(config.clone()), Err(Error::NotAdopted { .. })));
    assert_eq!(node::adopt(&config).expect("adopted"), made.cluster);
    stopped(&config);
    assert!(matches!(node::adopt(&config), Err(Error::Adopted { .. })));
    let node = node::start(config).expect("started");
    assert_eq!(node.waits_for(), None);
    node.stop().expect("stopped");
}
