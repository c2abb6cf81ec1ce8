//! Local files that don't hold still while they are put: what vanishes is named, what changes is stored whole or not at all.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use client::{ReadRange, Volume};
use harness::process::Process;
use harness::{Scratch, wait_for};
use node_tests::{World, fetch};
use rustix::process::Signal;

const WITHIN: Duration = Duration::from_mins(2);
/// Files of a tree: few enough that their names are read at once, so that each that vanishes was seen before.
const FILES: usize = 300;
/// Trees that are put: whoever looks for the first file of one may find that all of them are stored.
const TREES: usize = 20;
/// Bytes of the file that changes: many reads, so that a change can fall between two.
const LENGTH: usize = 4 << 20;
/// How often it is put while it changes.
const PUTS: usize = 5;

fn put(world: &World, arguments: &[&str], directory: &Path) -> Process {
    let mut command = Command::new(harness::catena());
    command.arg("put").args(arguments).current_dir(directory).env("CATENA_ENDPOINT", world.node.endpoint());
    Process::start(&mut command, &directory.join("put.log"))
}

fn ends(process: &mut Process) -> i32 {
    let status = wait_for("the end of a put", WITHIN, || process.ended());
    status.code().unwrap_or_else(|| panic!("put ended by {status}; it said\n{}", process.log_tail()))
}

fn name(number: usize) -> String {
    format!("file-{number:04}")
}

fn names_stored(volume: &Volume, tree: &str) -> Vec<Vec<u8>> {
    let Ok(entries) = volume.list(tree.as_bytes()).wait() else { return Vec::new() };
    entries.map(|entry| entry.expect("an entry").name).collect()
}

#[test]
fn what_vanishes_while_a_tree_is_put_is_named() {
    let (world, scratch) = (World::new(), Scratch::new());
    for number in 0..TREES {
        let tree = format!("tree-{number}");
        let place = scratch.join(&tree);
        fs::create_dir(&place).expect("a directory");
        for number in 0..FILES {
            fs::write(place.join(name(number)), name(number)).expect("written");
        }
        let mut process = put(&world, &["-r", "--jobs", "1", &tree, &format!("/v/{tree}")], scratch.path());
        wait_for("the first file", WITHIN, || (!names_stored(&world.volume, &tree).is_empty()).then_some(()));
        process.signal(Signal::STOP);
        let stored = names_stored(&world.volume, &tree);
        let gone: Vec<String> =
            (0..FILES).map(name).filter(|name| !stored.contains(&name.clone().into_bytes())).collect();
        for name in &gone {
            fs::remove_file(place.join(name)).expect("removed");
        }
        process.signal(Signal::CONT);
        let code = ends(&mut process);
        if check_vanished(&world, &tree, &process) > 0 {
            assert_eq!(code, 8, "{}", process.log_tail());
            return;
        }
        assert_eq!(code, 0, "{}", process.log_tail());
    }
    panic!("{TREES} trees were stored before their first file could be seen");
}

/// Every file of a tree is there whole, or was named: how many of the latter.
fn check_vanished(world: &World, tree: &str, process: &Process) -> usize {
    let (stored, log) = (names_stored(&world.volume, tree), process.log());
    let mut vanished = 0;
    for number in 0..FILES {
        let (name, path) = (name(number), format!("{tree}/{}", name(number)));
        if stored.contains(&name.clone().into_bytes()) {
            let bytes = fetch(&world.volume, path.as_bytes(), ReadRange::Whole).expect("read");
            assert!(bytes == name.into_bytes(), "{path}");
        } else {
            let said = format!("{path}: vanished before it could be read");
            assert!(log.contains(&said), "{path} isn't there, and nothing was said of it:\n{log}");
            vanished += 1;
        }
    }
    vanished
}

/// Writes the file anew, in place, with one byte all over; each round another one.
fn rewrite(file: &File, done: &AtomicBool) {
    let mut round = 0_u8;
    while !done.load(Ordering::Acquire) {
        round = round.wrapping_add(1);
        let piece = vec![round; LENGTH / 16];
        for number in 0..16 {
            file.write_all_at(&piece, (number * piece.len()) as u64).expect("written");
        }
    }
}

#[test]
fn a_file_that_changes_while_it_is_put_is_never_stored_torn() {
    let (world, scratch) = (World::new(), Scratch::new());
    let source = scratch.join("source");
    fs::write(&source, vec![0; LENGTH]).expect("written");
    let file = File::options().write(true).open(&source).expect("opened");
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| rewrite(&file, &done));
        // Ends the writer also where an assertion fails.
        let _end = Flag(&done);
        for _ in 0..PUTS {
            let mut process = put(&world, &["source", "/v/f"], scratch.path());
            let code = ends(&mut process);
            let refused = process.log().contains("source: changes again and again while it is read");
            assert!(code == 0 || code == 1 && refused, "{code}: {}", process.log_tail());
            if let Ok(bytes) = fetch(&world.volume, b"f", ReadRange::Whole) {
                assert_eq!(bytes.len(), LENGTH);
                assert!(bytes.iter().all(|byte| *byte == bytes[0]), "a mixture of two states");
            }
        }
    });
    let mut process = put(&world, &["source", "/v/f"], scratch.path());
    assert_eq!(ends(&mut process), 0, "{}", process.log_tail());
    let stored = fetch(&world.volume, b"f", ReadRange::Whole).expect("read");
    assert!(stored == fs::read(&source).expect("read"), "at rest it is stored");
}

/// Raised when it is dropped.
struct Flag<'a>(&'a AtomicBool);

impl Drop for Flag<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}
