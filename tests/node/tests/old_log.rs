//! A metadata log that is older than its store, as one from an old backup: it hands out ids again under which the store has other bytes. These
//! are kept, a new file is refused as what it is, and `recover` ends it.

use harness::{Run, Scratch, Server};

/// A `put` of a new name said that it exists already.
#[test]
fn an_id_that_is_taken_is_an_integrity_error_until_recovery() {
    let scratch = Scratch::new();
    let server = Server::configure(&scratch.join("data"), 1, 1, "[store]\nprezero = \"64MiB\"\n").init();
    let config = server.config.clone();
    let mut node = server.start();
    node.run(["volume", "create", "v"]).run().ok();
    node.run(["put", "-", "/v/kept"]).input("from before the backup").run().ok();
    assert!(node.stop().success());
    let (log, backup) = (scratch.join("data").join("metadata.log"), scratch.join("backup"));
    std::fs::copy(&log, &backup).expect("copied");

    node.start();
    for number in 0..8 {
        let name = format!("/v/after-{number}");
        node.run(["put", "-", &name]).input(format!("after the backup, {number}")).run().ok();
    }
    assert!(node.stop().success());
    std::fs::copy(&backup, &log).expect("put back");

    node.start();
    let older = "the stores hold chunks of sessions that this log never opened";
    harness::wait_for("a look at the stores", std::time::Duration::from_mins(1), || {
        node.log().contains(older).then_some(())
    });
    assert_ne!(node.metrics("catena_metadata_unopened_chunks"), [0]);
    let outcome = node.run(["put", "-", "/v/new"]).input("new").run().exits(7);
    let said = outcome.messages();
    for part in ["the log is older than the store", "catena server recover --accept-data-loss"] {
        assert!(said.contains(part), "{part} is said: {said}");
    }
    assert!(!said.contains("exists already"), "{said}");
    let json = node.run(["put", "--json", "-", "/v/new"]).input("new").run().exits(7).messages();
    assert!(json.contains(r#""exit":7"#), "{json}");
    node.run(["stat", "/v/new"]).run().exits(3);
    // An alarm for each of the two chunks, and their number.
    assert_eq!(node.metrics("catena_node_conflicting_put_total"), [2]);
    assert_eq!(node.log().matches("a put is refused: the store holds other bytes").count(), 2);

    assert!(node.stop().success());
    let recover = ["server", "recover", "--accept-data-loss", "--config"];
    Run::catena("").args(recover).args([&config]).run().ok();
    node.start();
    for number in 0..12 {
        let (name, content) = (format!("/v/new-{number}"), format!("after the recovery, {number}"));
        node.run(["put", "-", &name]).input(content.as_str()).run().ok();
        assert_eq!(node.run(["cat", &name]).run().ok().text(), content);
    }
    assert_eq!(node.run(["cat", "/v/kept"]).run().ok().text(), "from before the backup");
    node.run(["verify"]).run().ok();
    assert_eq!(node.metrics("catena_metadata_unopened_chunks"), [0]);
    assert_eq!(node.log().matches(older).count(), 1, "once");
    assert_eq!(node.metrics("catena_node_conflicting_put_total"), [0]);
}
