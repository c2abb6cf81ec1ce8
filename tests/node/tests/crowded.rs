//! More clients than `limits.connections`: who comes later waits for a place until its own time limit, and then says what it waited for.

use std::time::Duration;

use client::{Client, Config};
use harness::{Deadline, Scratch, Server};

const CONNECTIONS: usize = 4;

/// It said after five seconds, whatever its time limit, that the server isn't serving.
#[test]
fn a_client_beyond_the_limit_waits_for_a_place() {
    let scratch = Scratch::new();
    let more = format!("[store]\nprezero = \"64MiB\"\n[limits]\nconnections = {CONNECTIONS}\n");
    let node = Server::configure(&scratch.join("data"), 1, 1, &more).init().start();
    let clients: Vec<Client> = (0..CONNECTIONS)
        .map(|_| Client::connect(Config::new([node.endpoint()])).expect("a place for each"))
        .collect();

    let patient = node.run(["--timeout", "60", "volume", "list"]);
    std::thread::scope(|scope| {
        let patient = scope.spawn(|| patient.run());
        let limit = Deadline::after(Duration::from_secs(7));
        let outcome = node.run(["--timeout", "7", "volume", "list"]).run().exits(6);
        assert!(limit.passed(), "given up after {:?}", limit.elapsed());
        let said = outcome.messages();
        assert!(said.contains("it has as many connections as its limits.connections allows"), "{said}");
        assert!(said.contains("next: run it again when other clients have ended"), "{said}");

        drop(clients);
        patient.join().expect("no panic").ok();
    });
}
