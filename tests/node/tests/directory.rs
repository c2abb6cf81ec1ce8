//! A directory with very many entries: made by many creations in flight, listed to the last name, in time linear in their number.
//!
//! `CATENA_ENTRIES` is the number of entries of the larger of two directories; the other one has a tenth. Long form:
//! `CATENA_ENTRIES=1000000 CATENA_TEST_PROFILE=release cargo test -p node-tests --test directory -- --nocapture`.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Wake, Waker};
use std::thread::Thread;
use std::time::Duration;

use client::{Client, Committed, Config, NewAttributes, Pending, UploadOptions, Volume, VolumePolicy};
use harness::{Dev, Node, Scratch, count, cpu};

/// More than a session may have unanswered: the client has to hold some back.
const IN_FLIGHT: usize = 300;
/// The same number of entries is listed from both directories, so often in turn.
const PAIRS: usize = 5;
/// How much smaller the small directory is.
const PARTS: u64 = 10;
/// How often each is listed in one command: CPU time is told in ticks of 10 ms.
const TIMES: usize = 4;
const WITHIN: Duration = Duration::from_mins(15);

/// Names in no order: neither that of creation nor that of inodes.
fn name(number: u64) -> String {
    format!("{:016x}", number.wrapping_mul(0x9e37_79b9_7f4a_7c15))
}

fn fill(volume: &Volume, directory: &str, entries: u64) {
    volume.mkdir(directory.as_bytes(), NewAttributes::default(), false).wait().expect("made");
    let mut flights = Vec::new();
    for number in 0..entries {
        while flights.len() >= IN_FLIGHT {
            settle(&mut flights);
        }
        let path = format!("{directory}/{}", name(number));
        let upload = volume.upload(path.as_bytes(), UploadOptions::default()).expect("a short path");
        flights.push(upload.finish());
    }
    while !flights.is_empty() {
        settle(&mut flights);
    }
}

/// Drives all creations, as an async runtime would, until some are done.
fn settle(flights: &mut Vec<Pending<Committed>>) {
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut context = Context::from_waker(&waker);
    let before = flights.len();
    loop {
        flights.retain_mut(|flight| {
            let polled = Pin::new(flight).poll(&mut context);
            polled.map(|result| result.expect("created")).is_pending()
        });
        if flights.len() < before {
            return;
        }
        std::thread::park();
    }
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// CPU time of the node and of `catena ls` for listing these directories; what was printed.
fn list(node: &mut Node, paths: &[String]) -> (Duration, String) {
    let pid = node.process().pid();
    let spent = || cpu::of(pid) + cpu::of_ended_children();
    let before = spent();
    let outcome = node.run(["ls"]).args(paths).within(WITHIN).run().ok();
    (spent().saturating_sub(before), outcome.text())
}

#[test]
fn a_listed_entry_costs_the_same_in_a_large_directory() {
    let entries = count("CATENA_ENTRIES", 100_000);
    let scratch = Scratch::new();
    let mut node = Dev::new(&scratch.join("node")).start();
    let client = Client::connect(Config::new([node.endpoint()])).expect("an executor thread");
    let policy = VolumePolicy { chunk_bytes: 1 << 20, retention_seconds: 0 };
    let volume = client.create_volume("v", policy).wait().expect("a volume");
    fill(&volume, "large", entries);
    fill(&volume, "small", entries / PARTS);

    let (_, printed) = list(&mut node, &["/v/large".into()]);
    let mut expected: Vec<String> = (0..entries).map(name).collect();
    expected.sort_unstable();
    assert!(printed.lines().eq(&expected), "every name once, in order: {} lines", printed.lines().count());

    let tenths = usize::try_from(PARTS).expect("a small number");
    let small = vec!["/v/small".to_owned(); TIMES * tenths];
    let large = vec!["/v/large".to_owned(); TIMES];
    let mut ratios: Vec<f64> = (0..PAIRS)
        .map(|_| {
            let (small, _) = list(&mut node, &small);
            let (large, _) = list(&mut node, &large);
            println!("{entries} entries {TIMES} times: {small:?} of CPU in tenths, {large:?} at once");
            large.as_secs_f64() / small.as_secs_f64()
        })
        .collect();
    ratios.sort_by(f64::total_cmp);
    let median = ratios[PAIRS / 2];
    println!(
        "a listed entry of {entries} costs {median:.2} times one of {} (of {ratios:.2?})",
        entries / PARTS
    );
    // The namespace's own test counts the nodes that a page visits; this is the whole way, on real caches: the larger directory's inodes
    // don't fit into one. A listing that isn't linear costs ten times.
    assert!(median < 2.5, "{ratios:?}");

    // A restart finds them all.
    drop(client);
    node.kill();
    node.start();
    let (_, printed) = list(&mut node, &["/v/large".into()]);
    assert_eq!(printed.lines().count() as u64, entries);
}
