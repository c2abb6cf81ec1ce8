//! Operators' commands against real nodes: what they print, as text and as JSON, and how they end; for one node, and for three of which some are killed.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use harness::process::Process;
use harness::{Dev, Node, Outcome, Run, Scratch, wait_for};
use rustix::process::{Pid, Signal, kill_process};

/// What a command over a cluster that changes may take.
const WITHIN: Duration = Duration::from_mins(2);

/// Runs a line of words.
fn run(endpoint: &str, line: &str) -> Outcome {
    Run::catena(endpoint).args(line.split(' ')).within(WITHIN).run()
}

/// A node with a file of three chunks.
fn one_node(scratch: &Scratch) -> Node {
    let node = Dev::new(&scratch.join("node")).start();
    run(node.endpoint(), "volume create -q v").ok();
    let bytes = harness::Content::new(7, 3 << 20).bytes();
    node.run(["put", "-q", "-", "/v/f"]).input(bytes).run().ok();
    run(node.endpoint(), "mkdir -q /v/d").ok();
    node
}

/// Lines on a node that is a cluster by itself: exit code, what the output has, what the messages have.
const TABLE: &[(&str, i32, &str, &str)] = &[
    ("admin cluster status", 0, "health      every copy serves\n", ""),
    ("admin cluster status", 0, "control     node-1 leads; votes: node-1\n", ""),
    ("admin cluster status", 0, "redundancy  1 copy of everything, at least 1 serving", ""),
    ("admin cluster status --wait", 0, "health      every copy serves\n", ""),
    ("admin cluster status --within 5s", 2, "", "--wait"),
    ("admin node list", 0, "node-1/metadata", ""),
    (
        "admin node ok-to-stop node-1",
        5,
        "would serve nothing without node-1",
        "node-1: can't be stopped without harm",
    ),
    ("admin node ok-to-stop 1", 5, "the control group would lose its majority", ""),
    (
        "admin node ok-to-stop node-9",
        3,
        "",
        "node-9: the cluster has no such node\n  next: see which there are: catena admin node list",
    ),
    ("admin node forget node-1", 5, "", "node-1: is alive, or may be"),
    ("admin node forget", 2, "", "<NODE>"),
    ("admin node replace node-1 node-1", 2, "", "can't take its own places"),
    ("admin node replace node-1 node-2", 3, "", "node-2: the cluster has no such node"),
    ("admin disk replace node-1/shard-0 00000000000000000000000000000001", 5, "", "node-1/shard-0: works"),
    ("admin disk replace node-1/shard-0 0000", 3, "", "write the whole id"),
    ("admin disk replace node-1/shard-9 0000", 3, "", "node-1/shard-9: the cluster has no such store"),
    ("admin disk replace x 0000", 2, "", "x: is no store; write NODE/shard-0"),
    ("admin chain list --state degraded", 0, "", ""),
    ("admin chain list --state stuck", 0, "", ""),
    (
        "admin chain list --state sick",
        2,
        "",
        "possible values: full, degraded, read-only, down, changing, syncing, stuck",
    ),
    ("admin chain list", 0, "slice-17    full      node-1/shard-0\n", ""),
    ("admin chain show slice-17", 0, "state       full\n", ""),
    ("admin chain show 17", 0, "member head node-1/shard-0", ""),
    ("admin chain show group-0", 0, "member head node-1/metadata", ""),
    (
        "admin chain show group-1",
        3,
        "",
        "group-1: the cluster has no such chain: there are slice-0 to slice-4095, and group-0",
    ),
    ("admin chain show chunk", 2, "", "chunk: is no chain; write for example slice-17 or group-0"),
    ("admin voters", 0, "leads\n", ""),
    ("admin voters set 1", 0, "nothing to change: 1 voter\n", ""),
    ("admin voters set 2", 2, "", "1, 3 or 5"),
    ("admin voters set 3", 5, "", "voters: 3 voters need 3 nodes that run, and there are 1"),
    ("admin min-in-sync 1", 0, "writes need 1 of 1 copy to serve", ""),
    ("admin min-in-sync 2", 5, "", "writes can't need 2 copies: of everything there is 1 copy"),
    ("admin min-in-sync 4", 2, "", "1..=3"),
    ("admin cluster recover", 2, "", "--chain <CHAIN>|--all"),
    ("admin cluster recover --all", 5, "", "the cluster: has a copy that serves: there is no loss to accept"),
    ("admin cluster recover --chain 17 --accept-data-loss", 5, "", "slice-17: has a copy that serves"),
    ("admin why", 0, "everything is well: all nodes are alive, and every copy serves\n", ""),
    ("admin why node node-1", 0, "node-1 is alive: it was heard", ""),
    ("admin why store node-1/shard-0", 0, "nothing is wrong with it\n", ""),
    ("admin why chain slice-17", 0, "slice-17: 1 copy serves, writes need 1;", ""),
    (
        "admin why path /v/f",
        0,
        "/v/f: its metadata is in group-0, its 3 chunks in 3 slices\nall copies of these chains serve\n",
        "",
    ),
    ("admin why path /v/d", 0, "its 0 chunks in 0 slices\n", ""),
    ("admin why path /v/none", 3, "", "/v/none: not found"),
    ("admin why path v", 2, "", "isn't a remote name"),
    ("locate /v/f", 0, " node-1/shard-0 serving\n", ""),
    ("locate --check /v/f", 0, " node-1/shard-0 serving, verified\n", ""),
    ("locate /v/d", 5, "", "/v/d: is a directory: only files have chunks"),
    ("locate /v/none", 3, "", "/v/none: not found"),
    ("admin", 2, "", "Usage: catena admin"),
];

#[test]
fn one_node_is_a_cluster() {
    let scratch = Scratch::new();
    let node = one_node(&scratch);
    for (line, code, printed, said) in TABLE {
        let outcome = run(node.endpoint(), line).exits(*code);
        let (text, messages) = (outcome.text(), outcome.messages());
        assert!(text.contains(printed), "{outcome}\nexpected {printed}");
        assert!(messages.contains(said) && messages.is_empty() == (*code == 0), "{outcome}\nexpected {said}");
        assert!(!messages.contains("os error") && !messages.contains("Some("), "{outcome}");
    }
}

/// Lines with `--json`: the number of objects, and a field of the first, by its path, with its value.
const OBJECTS: &[(&str, usize, &str, &str)] = &[
    ("admin cluster status", 1, "/whole", "true"),
    ("admin cluster status", 1, "/slices/full", "4096"),
    ("admin cluster status", 1, "/leader", "\"node-1\""),
    ("admin cluster status", 1, "/troubles", "[]"),
    ("admin node list", 1, "/stores/1/name", "\"node-1/metadata\""),
    ("admin node list", 1, "/alive", "true"),
    ("admin node ok-to-stop node-1", 1, "/reads_stop", "4097"),
    ("admin chain list", 4097, "/chain", "\"slice-0\""),
    ("admin chain list --state down", 0, "", ""),
    ("admin chain show group-0", 1, "/members/0/state", "\"serving\""),
    ("admin voters", 1, "/leads", "true"),
    ("admin voters set 1", 1, "/added", "[]"),
    ("admin min-in-sync 1", 1, "/min_in_sync", "1"),
    ("admin why", 1, "/kind", "\"well\""),
    ("admin why chain 17", 2, "/kind", "\"chain-serves\""),
    ("admin why path /v/f", 1, "/chunks", "3"),
    ("locate /v/f", 3, "/copies/0/name", "\"node-1/shard-0\""),
    ("locate --check /v/f", 3, "/copies/0/check", "\"verified\""),
];

#[test]
fn every_command_speaks_json() {
    let scratch = Scratch::new();
    let node = one_node(&scratch);
    for (line, count, path, value) in OBJECTS {
        let outcome = run(node.endpoint(), &format!("{line} --json"));
        let objects = outcome.json();
        assert_eq!(objects.len(), *count, "{outcome}");
        assert!(objects.iter().all(|object| object["v"] == 1), "{outcome}");
        if let Some(first) = objects.first() {
            let found = first.pointer(path).map(ToString::to_string);
            assert_eq!(found.as_deref(), Some(*value), "{path} of {outcome}");
        }
    }
    let failed = run(node.endpoint(), "admin node forget node-1 --json").exits(5);
    let said: Vec<&str> = failed.messages().leak().lines().collect();
    assert!(said.len() == 1 && said[0].starts_with("{\"v\":1,\"error\":{"), "{failed}");
}

#[test]
fn an_endpoint_where_nobody_answers_is_named() {
    for line in
        ["admin cluster status", "admin node list", "admin voters", "admin why", "admin min-in-sync 1"]
    {
        let outcome = run("127.0.0.1:1", &format!("--timeout 1 {line}")).exits(6);
        let said = outcome.messages();
        assert!(said.contains("nobody answers: 127.0.0.1:1: connection refused"), "{outcome}");
        assert!(said.contains("next: check that the nodes run"), "{outcome}");
    }
}

/// Three nodes, each a process of its own below `catena dev`.
struct Three {
    directory: PathBuf,
    node: Node,
}

impl Three {
    fn new(scratch: &Scratch) -> Self {
        let directory = scratch.join("three");
        let node = Dev::new(&directory).args(["--nodes", "3"]).start();
        Self { directory, node }
    }

    fn run(&self, line: &str) -> Outcome {
        run(self.node.endpoint(), line)
    }

    /// SIGKILL.
    fn kill(&self, number: u32) {
        let file = self.directory.join(format!("node-{number}/pid"));
        let text = std::fs::read_to_string(&file).expect("a node that serves has said its pid");
        let pid = text.trim().parse().ok().and_then(Pid::from_raw).expect("a process id");
        kill_process(pid, Signal::KILL).expect("the node is our own");
    }

    fn start(&self, number: u32) -> Process {
        let own = self.directory.join(format!("node-{number}"));
        start_server(&own)
    }

    /// Runs a line until it prints this.
    fn until(&self, line: &str, printed: &str) -> Outcome {
        wait_for(&format!("`{line}` to print `{printed}`"), WITHIN, || {
            let outcome = self.run(line);
            outcome.text().contains(printed).then_some(outcome)
        })
    }
}

fn start_server(own: &Path) -> Process {
    let mut command = Command::new(harness::catena());
    command.args(["server", "--config"]).arg(own.join("config.toml"));
    Process::start(&mut command, &own.join("again.log"))
}

#[test]
fn a_node_that_is_gone_is_told_of_and_waited_for() {
    let scratch = Scratch::new();
    let three = Three::new(&scratch);
    let whole = three.run("admin cluster status").ok().text();
    assert!(
        whole.contains("nodes       3 of 3 alive\nslices      4,096: 4,096 full\ngroups      1: 1 full\n"),
        "{whole}"
    );
    assert!(whole.contains("3 copies of everything, at least 3 serving, writes need 2"), "{whole}");
    three.run("volume create -q v").ok();
    let bytes = harness::Content::new(3, 3 << 20).bytes();
    three.node.run(["put", "-q", "-", "/v/f"]).input(bytes).run().ok();
    let located = three.run("locate --check /v/f").ok().text();
    assert_eq!(located.matches("serving, verified").count(), 9, "three copies of three chunks: {located}");
    three.run("admin node ok-to-stop node-3").ok();

    three.kill(3);
    let status = three.until("admin cluster status", "slices      4,096: 4,096 degraded").exits(6);
    assert!(status.text().contains("trouble     node-3 isn't alive"), "{status}");
    assert!(
        status
            .text()
            .contains("  next      start it; if it is gone for good: catena admin node replace node-3"),
        "{status}"
    );
    assert!(status.messages().contains("the cluster: isn't whole"), "{status}");
    let why = three.run("admin why").ok().text();
    assert!(why.contains("node-3 hasn't been heard for"), "{why}");
    assert!(
        why.contains(
            "slice-0, and 4,095 more chains in the same state\n  slice-0: 2 copies serve, writes need 2;"
        ),
        "{why}"
    );
    assert!(why.contains("it waits for node-3/shard-0 to come back, or to be replaced"), "{why}");
    let path = three.run("admin why path /v/f").ok().text();
    assert!(path.contains("it waits for node-3/metadata to come back"), "{path}");
    let risk = three.run("admin node ok-to-stop node-2").exits(5).text();
    assert!(risk.contains("4,097 chains would take no writes without node-2"), "{risk}");
    three.run("admin node ok-to-stop node-3").ok();
    three.run("admin cluster status --wait --within 1s").exits(6);
    let degraded = three.run("admin chain list --state degraded --json").ok();
    assert_eq!(degraded.json().len(), 4097, "{degraded}");
    assert!(three.run("locate --check /v/f").ok().text().contains("node-3/shard-0 offline"));
    let forgotten = three.run("admin node forget node-3").exits(5);
    assert!(
        forgotten.messages().contains("too few nodes: 2 would be there, and 3 are needed"),
        "{forgotten}"
    );

    let _again = three.start(3);
    let waited = three.run("admin cluster status --wait --within 2m").ok().text();
    assert!(waited.contains("health      every copy serves\n"), "{waited}");
    let located = three.run("locate --check /v/f").ok().text();
    assert_eq!(located.matches("serving, verified").count(), 9, "{located}");
}

#[test]
fn without_a_leader_the_map_is_shown() {
    let scratch = Scratch::new();
    let three = Three::new(&scratch);
    let leader = three.run("admin cluster status --json").ok().json()[0]["leader"].clone();
    let [one, other] = [1, 2, 3]
        .into_iter()
        .filter(|number| leader != format!("node-{number}"))
        .collect::<Vec<u32>>()
        .try_into()
        .expect("two don't lead");
    three.kill(one);
    three.kill(other);
    // A leader finds out that nobody hears it any more.
    let line = "control     no leader; votes: node-1, node-2 and node-3\n";
    let status = three.until("--timeout 2 admin cluster status", line).exits(6);
    assert!(status.text().contains("trouble     the control group: has no leader"), "{status}");
    for line in ["admin why", "admin node list", "admin min-in-sync 1", "admin cluster recover --all"] {
        let outcome = three.run(&format!("--timeout 1 {line}")).exits(6);
        assert!(outcome.messages().contains("the control group: has no leader"), "{outcome}");
    }
    let voters = three.run("--timeout 1 admin voters").exits(6);
    assert_eq!(voters.text().matches("whether it is alive isn't known").count(), 3, "{voters}");
    let _again = three.start(one);
    three.until("admin voters", "leads\n");
}
