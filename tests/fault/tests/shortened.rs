//! A store's file that was shortened, so that checkpoints and log lie in what is gone: the start is refused and says what is missing and what to do; once
//! the operator accepts the loss, everything that is left is served, and each file that lost chunks is named.

use std::fs::{File, OpenOptions};
use std::io::Read;
use std::path::Path;

use harness::{Content, Run, Scratch, Server};

const BLOCK: usize = 4096;
const DATA_START: u64 = 1 << 20;
const SEGMENT_BYTES: u64 = 64 << 20;

/// Where in the store the aligned `block` lies.
fn offset_of(store: &Path, block: &[u8]) -> u64 {
    let mut file = File::open(store).expect("readable");
    let (mut piece, mut offset) = (vec![0; 1 << 20], 0);
    loop {
        let count = file.read(&mut piece).expect("readable");
        assert!(count > 0, "the block is stored as it is");
        if let Some(at) = piece[..count].chunks(BLOCK).position(|found| found == block) {
            return offset + (at * BLOCK) as u64;
        }
        offset += count as u64;
    }
}

#[test]
fn what_is_left_of_a_shortened_store_is_served() {
    let scratch = Scratch::new();
    let server = Server::configure(&scratch.join("data"), 1, 1, "[store]\nprezero = \"64MiB\"\n").init();
    let mut node = server.clone().start();
    node.run(["volume", "create", "v"]).run().ok();
    // Every life begins in a segment of its own, and its end writes a checkpoint.
    let contents: Vec<Content> = (0..4).map(|life| Content::new(life, 3 << 20)).collect();
    for (life, content) in contents.iter().enumerate() {
        node.run(["put", "-", &format!("/v/f{life}")]).input(content.bytes()).run().ok();
        assert!(node.stop().success());
        if life < 3 {
            node.start();
        }
    }
    let store = scratch.join("data").join("shard-0.store");
    let segments: Vec<u64> = contents
        .iter()
        .map(|content| (offset_of(&store, &content.bytes()[..BLOCK]) - DATA_START) / SEGMENT_BYTES)
        .collect();
    let last = *segments.iter().max().expect("four");
    let cut = DATA_START + last * SEGMENT_BYTES;
    let (lost, kept): (Vec<usize>, Vec<usize>) = (0..4).partition(|life| segments[*life] == last);
    assert!(!kept.is_empty(), "{segments:?}");

    let file = OpenOptions::new().write(true).open(&store).expect("writable");
    file.set_len(cut).expect("shortened");
    let (status, said) = server.clone().start_in_vain();
    assert!(!status.success());
    let parts = [
        "shard-0.store",
        &format!("ends at byte {cut}"),
        "its end is missing",
        // It can be typed as it stands.
        &format!("`catena server recover --accept-data-loss --config {}`", server.config.display()),
    ];
    for part in parts {
        assert!(said.contains(part), "{part} is said: {said}");
    }
    assert_eq!(file.metadata().expect("metadata").len(), cut, "nothing was changed");

    let recover = ["server", "recover", "--accept-data-loss", "--config"];
    let outcome = Run::catena("").args(recover).args([&server.config]).run().ok();
    let said = outcome.text() + &outcome.messages();
    assert!(said.contains("may be lost") && said.contains("catena verify"), "{said}");

    for _ in 0..2 {
        node.start();
        let report = node.run(["verify", "/v"]).run().exits(7);
        let report = report.text() + &report.messages();
        for life in &kept {
            let outcome = node.run(["cat", &format!("/v/f{life}")]).run().ok();
            assert_eq!(contents[*life].difference(&outcome.stdout), None);
            assert!(!report.contains(&format!("/v/f{life}:")), "{report}");
        }
        for life in &lost {
            let outcome = node.run(["cat", &format!("/v/f{life}")]).run().exits(7);
            let said = outcome.messages();
            assert!(said.contains(&format!("/v/f{life}: bytes 0-1048575 are missing")), "{said}");
            assert!(report.contains(&format!("/v/f{life}: bytes 0-1048575 ")), "{report}");
        }
        // It goes on as any other node.
        node.run(["put", "-", "/v/new"]).input(contents[0].bytes()).run().ok();
        let outcome = node.run(["cat", "/v/new"]).run().ok();
        assert_eq!(contents[0].difference(&outcome.stdout), None);
        assert!(node.stop().success());
    }
}

/// The segment that a shortened file ended in was dropped whole; a recovery that missed a file had marked everything as lost by then; and nothing said afterwards
/// that a loss had been accepted.
#[test]
fn what_is_left_of_the_last_segment_is_served() {
    let scratch = Scratch::new();
    let server = Server::configure(&scratch.join("data"), 1, 1, "[store]\nprezero = \"64MiB\"\n").init();
    let config = server.config.clone();
    let mut node = server.clone().start();
    node.run(["volume", "create", "v"]).run().ok();
    assert!(!node.run(["status"]).run().ok().text().contains("\nloss "), "nothing was accepted");
    let content = Content::new(9, 3 << 20);
    node.run(["put", "-", "/v/f"]).input(content.bytes()).run().ok();
    assert!(node.stop().success());

    let data = scratch.join("data");
    let store = data.join("shard-0.store");
    let bytes = content.bytes();
    let first_block = |chunk: usize| &bytes[chunk << 20..][..BLOCK];
    let mut places: Vec<_> = (0..3).map(|chunk| (offset_of(&store, first_block(chunk)), chunk)).collect();
    places.sort_unstable();
    let (last, _) = places[2];
    let file = OpenOptions::new().write(true).open(&store).expect("writable");
    file.set_len(last + 5 * BLOCK as u64 + 7).expect("shortened");
    let (status, said) = server.clone().start_in_vain();
    assert!(!status.success() && said.contains("its end is missing"), "{said}");

    let recover = ["server", "recover", "--accept-data-loss", "--config"];
    let map = || std::fs::read(data.join("cluster.map")).expect("a map");
    let (before, log, away) = (map(), data.join("metadata.log"), data.join("away"));
    std::fs::rename(&log, &away).expect("moved away");
    let said = Run::catena("").args(recover).args([&config]).run().exits(3).messages();
    assert!(said.contains("metadata.log: is missing"), "{said}");
    assert!(map() == before, "nothing is accepted for a file that isn't there");
    std::fs::rename(&away, &log).expect("moved back");
    Run::catena("").args(recover).args([&config]).run().ok();

    node.start();
    for (place, chunk) in places {
        let range = format!("{}-{}", chunk << 20, ((chunk + 1) << 20) - 1);
        let read = node.run(["cat", "--range", &range, "/v/f"]).run();
        if place == last {
            read.exits(7);
        } else {
            assert!(read.ok().stdout == content.bytes()[chunk << 20..][..1 << 20], "chunk {chunk}");
        }
    }
    let said = node.run(["status"]).run().ok().text();
    assert!(said.contains("\nloss        accepted once, with map "), "{said}");
    let said = node.run(["status", "--json"]).run().ok().text();
    assert!(said.contains("\"accepted_losses\":1,\"accepted_loss_map\":"), "{said}");
    assert_eq!(node.sample("catena_cluster_accepted_losses_total"), Some(1));
    assert!(node.stop().success());
}
