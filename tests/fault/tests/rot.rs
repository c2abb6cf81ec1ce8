//! Bits flip in a stopped node's files: a damaged chunk is an error that names file and offset, and never wrong bytes; a damaged
//! metadata log keeps the node from starting until the operator accepts the loss.

use std::fs::{File, OpenOptions};
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use harness::{Content, Dev, Run, Scratch, Server};

const BLOCK: usize = 4096;

/// Files below `folder` whose name ends in `end`.
fn files(folder: &Path, end: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            found.extend(files(&path, end));
        } else if path.to_string_lossy().ends_with(end) {
            found.push(path);
        }
    }
    found
}

/// Where the aligned `block` lies in one of the files.
fn find(paths: &[PathBuf], block: &[u8]) -> Option<(PathBuf, u64)> {
    for path in paths {
        let mut file = File::open(path).expect("readable");
        let mut piece = vec![0; 1 << 20];
        let mut offset = 0;
        loop {
            let count = file.read(&mut piece).expect("readable");
            if count == 0 {
                break;
            }
            if let Some(at) = piece[..count].chunks(BLOCK).position(|found| found == block) {
                return Some((path.clone(), offset + (at * BLOCK) as u64));
            }
            offset += count as u64;
        }
    }
    None
}

fn flip(path: &Path, offset: u64) {
    let file = OpenOptions::new().read(true).write(true).open(path).expect("writable");
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).expect("inside");
    byte[0] ^= 0x10;
    file.write_all_at(&byte, offset).expect("written");
}

#[test]
fn a_damaged_chunk_is_named_and_never_returned() {
    let scratch = Scratch::new();
    let (damaged, whole) = (Content::new(1, 3 << 20), Content::new(2, 3 << 20));
    let mut node = Dev::new(&scratch.join("node")).start();
    node.run(["volume", "create", "v"]).run().ok();
    node.run(["put", "-", "/v/damaged"]).input(damaged.bytes()).run().ok();
    node.run(["put", "-", "/v/whole"]).input(whole.bytes()).run().ok();
    assert!(node.stop().success());

    // A block in the middle of the file's second chunk.
    let at = (1 << 20) + 5 * BLOCK;
    let mut block = vec![0; BLOCK];
    damaged.fill(at as u64, &mut block);
    let (path, offset) =
        find(&files(scratch.path(), ".store"), &block).expect("the block is stored as it is");
    flip(&path, offset + 77);
    node.start();

    let outcome = node.run(["cat", "/v/damaged"]).run().exits(7);
    assert!(damaged.bytes().starts_with(&outcome.stdout), "only verified bytes come out");
    assert!(outcome.stdout.len() <= at, "nothing from behind the damage");
    let said = outcome.messages();
    assert!(
        said.contains("/v/damaged: bytes 1048576-2097151 "),
        "the file and its damaged chunk are named: {said}"
    );

    let target = scratch.join("copy");
    node.run(["get", "/v/damaged"]).args([&target]).run().exits(7);
    assert!(!target.exists(), "no damaged file is left behind");

    let outcome = node.run(["verify", "/v"]).run().exits(7);
    let report = outcome.text() + &outcome.messages();
    assert!(report.contains("/v/damaged") && !report.contains("/v/whole:"), "{report}");
    let outcome = node.run(["cat", "/v/whole"]).run().ok();
    assert_eq!(whole.difference(&outcome.stdout), None);
    // Parts of the damaged file that aren't damaged are still there.
    let outcome = node.run(["cat", "--range", "0-1048575", "/v/damaged"]).run().ok();
    assert_eq!(outcome.stdout, damaged.bytes()[..1 << 20]);
}

#[test]
fn a_damaged_metadata_log_is_refused_by_name() {
    let scratch = Scratch::new();
    let server = Server::configure(&scratch.join("data"), 1, 1, "[store]\nprezero = \"64MiB\"\n").init();
    let mut node = server.clone().start();
    node.run(["volume", "create", "v"]).run().ok();
    // The second one is acknowledged behind the first: what is damaged then isn't the log's last word.
    node.run(["mkdir", "/v/a-name-that-the-log-holds"]).run().ok();
    node.run(["mkdir", "/v/another"]).run().ok();
    node.kill();

    let log = files(scratch.path(), "metadata.log").pop().expect("a log");
    let bytes = std::fs::read(&log).expect("readable");
    let name = b"a-name-that-the-log-holds";
    let at = bytes.windows(name.len()).position(|window| window == name).expect("the entry is in the log");
    flip(&log, at as u64);

    let (status, said) = server.clone().start_in_vain();
    assert_eq!(status.code(), Some(7), "a service manager doesn't try it again: {said}");
    assert!(
        said.contains("metadata.log: durable batch") && said.contains("damaged"),
        "what is damaged is said: {said}"
    );
    let way_out = format!("`catena server recover --accept-data-loss --config {}`", server.config.display());
    assert!(said.contains(&way_out), "and the way out: {said}");

    // It was said that the log names what is given up, and that `verify` names the files: neither was so.
    let recover = ["server", "recover", "--accept-data-loss", "--config"];
    let outcome = Run::catena("").args(recover).args([&server.config]).run().ok();
    let said = outcome.text() + &outcome.messages();
    for part in ["a part of the metadata log is given up", "batches=", "from_entry=", "nothing names them"] {
        assert!(said.contains(part), "{part} is said: {said}");
    }
    node.start();
    node.run(["stat", "/v/a-name-that-the-log-holds"]).run().exits(3);
    node.run(["verify"]).run().ok();
}
