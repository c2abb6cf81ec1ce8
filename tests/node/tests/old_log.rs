//! A metadata log that is older than its store, as one from an old backup: it would hand out ids again under which the store has other bytes. The control group
//! knows a later life of it and lets it serve nothing (R34), and `recover` ends that.

use harness::{Run, Scratch, Server};

#[test]
fn an_old_log_serves_nothing_until_recovery() {
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

    let said = node.start_unready("is older than what the cluster knows of it");
    assert!(said.contains("catena admin disk replace"), "the next step is said: {said}");
    node.run(["put", "-", "/v/new", "--timeout", "2"]).input("new").run().exits(6);
    node.run(["cat", "/v/kept", "--timeout", "2"]).run().exits(6);
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
    assert_eq!(node.metrics("catena_node_conflicting_put_total"), [0]);
}
