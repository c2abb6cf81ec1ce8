//! `catena bench`: loads on a real node, alone and in company, under a server that goes and comes; and what it says where something is wrong.

use std::path::Path;
use std::time::Duration;

use harness::{Dev, Node, Outcome, Run, Scratch};

/// What a load of a few seconds may take on a machine that is busy.
const WITHIN: Duration = Duration::from_mins(3);

/// Every operation, on few paths, so that they meet.
const PROFILE: &str = r#"
paths = 40
directories = 3
operations = { put = 20, append = 10, get = 25, ranged_get = 10, stat = 15, list = 2, delete = 8, rename = 10 }
sizes = [{ weight = 3, from = 64, to = 20000 }, { weight = 1, from = 100000, to = 1500000 }]
keys = { skew = "zipf", exponent = 0.7 }
append_limit = 200000
"#;

struct World {
    scratch: Scratch,
    node: Node,
}

impl World {
    fn new() -> Self {
        let scratch = Scratch::new();
        let node = Dev::new(&scratch.join("node")).shards(2).fixed_ports().start();
        node.run(["volume", "create", "bench"]).run().ok();
        std::fs::write(scratch.join("profile.toml"), PROFILE).expect("written");
        Self { scratch, node }
    }

    fn bench(&self, line: &str) -> Run {
        let profile = self.scratch.join("profile.toml");
        let words = line.split_whitespace().map(|word| self.word(word));
        self.node.run(["bench", "run", "--profile"]).args([profile]).args(words).within(WITHIN)
    }

    /// A word of a command line; one that ends in `.jsonl` is a file of the test's.
    fn word(&self, word: &str) -> String {
        if Path::new(word).extension().is_some_and(|ending| ending == "jsonl") {
            self.scratch.join(word).display().to_string()
        } else {
            word.to_owned()
        }
    }

    fn check(&self, files: &[&str]) -> Outcome {
        let files = files.iter().map(|file| self.scratch.join(file));
        self.node.run(["bench", "check"]).args(files).within(WITHIN).run()
    }
}

fn line(outcome: &Outcome, beginning: &str) -> String {
    let text = outcome.text();
    text.lines().find(|line| line.starts_with(beginning)).unwrap_or_else(|| panic!("{outcome}")).to_owned()
}

#[test]
fn a_load_is_verified_and_leaves_nothing() {
    let world = World::new();
    let run = world.bench("--duration 2s --clients 6 --in-flight 2 --history a.jsonl").run();
    assert_eq!(run.code(), 0, "{run}");
    assert_eq!(line(&run, "verified"), "verified    0 lost, 0 stale, 0 torn, 0 corrupt");
    for kind in ["put", "append", "get", "ranged_get", "stat", "list", "delete", "rename"] {
        assert!(!line(&run, &format!("{kind} ")).is_empty());
    }
    let check = world.check(&["a.jsonl"]);
    assert_eq!(check.code(), 0, "{check}");
    assert!(check.text().contains("all of it can have happened"), "{check}");
    assert_eq!(world.node.run(["ls", "/bench"]).run().text(), "", "its directory went with it");
    // Never over a history that is there.
    let again = world.bench("--duration 1s --history a.jsonl").run();
    assert_eq!(again.code(), 5, "{again}");
}

/// Two processes on one directory, one of which is killed: its history has no end, and what it may have done is taken into account.
#[test]
fn histories_of_several_processes_are_one() {
    let world = World::new();
    let shared = "--directory shared --clients 3 --in-flight 2";
    let killed = std::sync::atomic::AtomicBool::new(false);
    let first = world.bench(&format!("{shared} --duration 4s --process 1 --history one.jsonl"));
    let second = world.bench(&format!("{shared} --duration 60s --process 2 --history two.jsonl"));
    std::thread::scope(|scope| {
        let second = scope.spawn(|| second.run_unless(&killed));
        let run = first.run();
        killed.store(true, std::sync::atomic::Ordering::Relaxed);
        assert_eq!(run.code(), 0, "{run}");
        assert_eq!(second.join().expect("it was killed").code(), 137);
    });
    let check = world.check(&["two.jsonl", "one.jsonl"]);
    assert_eq!(check.code(), 0, "{check}");
    assert!(check.text().contains("1 history cut off"), "{check}");
    // Half of it says that the other is missing.
    let half = world.check(&["one.jsonl"]);
    assert_eq!(half.code(), 2, "{half}");
    assert!(half.messages().contains("the history of process 2 is missing"), "{half}");
}

/// The server is killed under a load and comes back after longer than the clients try: some operations fail, some are of unknown outcome, and nothing
/// that was acknowledged is lost.
#[test]
fn a_server_may_go_and_come() {
    let mut world = World::new();
    let load = world.bench("--duration 8s --clients 6 --timeout 1 --history killed.jsonl");
    let run = std::thread::scope(|scope| {
        let load = scope.spawn(|| load.run());
        let history = world.scratch.join("killed.jsonl");
        harness::wait_for("a load under way", WITHIN, || (length(&history) > 500_000).then_some(()));
        world.node.kill();
        let before = length(&history);
        // Clients that have noticed tell of failures, beside what was asked for before.
        harness::wait_for("clients that notice", WITHIN, || {
            let text = std::fs::read_to_string(&history).unwrap_or_default();
            (length(&history) > before && text.contains("\"failed\"")).then_some(())
        });
        world.node.start();
        load.join().expect("the load ends")
    });
    assert!([8, 9].contains(&run.code()), "{run}");
    assert_eq!(line(&run, "verified"), "verified    0 lost, 0 stale, 0 torn, 0 corrupt");
    let check = world.check(&["killed.jsonl"]);
    assert_eq!(check.code(), 0, "{check}");
}

fn length(path: &Path) -> u64 {
    std::fs::metadata(path).map_or(0, |metadata| metadata.len())
}

/// Bytes that the load didn't write, and a file that somebody else removed under it.
#[test]
fn what_is_wrong_is_said() {
    let world = World::new();
    let run = world.bench("--duration 1s --clients 2 --directory d --process 1 --history one.jsonl").run();
    assert_eq!(run.code(), 0, "{run}");
    std::fs::write(
        world.scratch.join("profile.toml"),
        "paths = 40\ndirectories = 3\noperations.get = 1\nsizes = [{ weight = 1, from = 64, to = 64 }]\n",
    )
    .expect("written");
    let listed = world.node.run(["ls", "-R", "/bench/d"]).run().text();
    let file = listed.lines().find(|name| name.contains("/f")).expect("files are left");
    let place = format!("/bench/d/{file}");
    world.node.run(["put", "-", &place]).input(vec![7; 10_000]).run().ok();
    let run = world.bench("--duration 1s --clients 2 --directory d --process 2 --history two.jsonl").run();
    assert_eq!(run.code(), 7, "{run}");
    assert!(!line(&run, "verified").contains(" 0 corrupt"), "{run}");
    let check = world.check(&["one.jsonl", "two.jsonl"]);
    assert_eq!(check.code(), 7, "{check}");
    assert!(check.text().contains("corrupt: 2."), "{check}");
    // Somebody takes it away: what was acknowledged isn't there.
    world.node.run(["rm", &place]).run().ok();
    let run = world.bench("--duration 1s --clients 2 --directory d --process 3 --history three.jsonl").run();
    assert_eq!(run.code(), 0, "{run}");
    let check = world.check(&["one.jsonl", "three.jsonl"]);
    assert_eq!(check.code(), 7, "{check}");
    assert!(check.text().contains("lost: 3."), "{check}");
}
