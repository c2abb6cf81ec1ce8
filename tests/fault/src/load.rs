//! A mixed load whose outcome is known: what stands after a crash has to be exactly what was acknowledged.
//!
//! Each [`Worker`] owns a directory and changes it by one `catena` command after the other. After a command that was acknowledged
//! the directory can have one state, after one whose outcome is unknown two: with it or without it. A crash is followed by
//! [`Worker::check`], which compares names and bytes with the possible states; a lost, half or resurrected file fits none.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use harness::{Content, Node, Outcome, Random, Run, Scratch};

/// Files of a worker; beyond it removing is what comes next.
const FILES_MAX: usize = 30;
/// What one command may take, restart of the node included.
const COMMAND_WITHIN: Duration = Duration::from_secs(90);

/// A file's bytes: pieces written one behind the other.
type Pieces = Vec<Content>;
/// A directory: name → bytes.
type Directory = BTreeMap<String, Pieces>;

/// One writer and what its directory may hold.
#[derive(Debug)]
pub struct Worker {
    folder: String,
    random: Random,
    made: u64,
    /// What is there if the last command took no effect; what is there for sure if `after` is `None`.
    before: Directory,
    /// What is there if it did.
    after: Option<Directory>,
}

/// What went on in all rounds.
#[derive(Debug, Default)]
pub struct Tally {
    /// Commands acknowledged.
    pub acknowledged: AtomicU64,
    /// Commands whose outcome was unknown.
    pub unknown: AtomicU64,
    /// Unknown ones that had taken effect.
    pub took_effect: AtomicU64,
    /// Commands that were acknowledged although the node was killed under them.
    pub survived: AtomicU64,
}

/// What ends a round.
#[derive(Debug, Default)]
pub struct Round {
    /// No command is begun any more.
    pub stop: AtomicBool,
    /// Commands under way are killed.
    pub kill: AtomicBool,
    /// The node was killed.
    pub crashed: AtomicBool,
    /// Commands acknowledged in this round.
    pub done: AtomicU64,
}

impl Worker {
    /// A writer of `volume`, whose directory is made.
    ///
    /// # Panics
    /// If it can't be made.
    #[must_use]
    pub fn new(node: &Node, volume: &str, number: u64, seed: u64) -> Self {
        let folder = format!("/{volume}/worker-{number}");
        node.run(["mkdir", &folder]).run().ok();
        let random = Random::new(seed.wrapping_mul(1000).wrapping_add(number));
        Self { folder, random, made: 0, before: Directory::new(), after: None }
    }

    /// Works until the round stops or an outcome is unknown.
    pub fn work(&mut self, endpoint: &str, round: &Round, tally: &Tally) {
        while !round.stop.load(Ordering::Relaxed) && self.after.is_none() {
            self.step(endpoint, round, tally);
        }
    }

    fn step(&mut self, endpoint: &str, round: &Round, tally: &Tally) {
        let mut after = self.before.clone();
        let (arguments, input) = self.choose(&mut after);
        let under_way = round.crashed.load(Ordering::Relaxed);
        let input = input.map(|content| content.bytes()).unwrap_or_default();
        let run = Run::catena(endpoint).args(arguments).input(input).within(COMMAND_WITHIN);
        let outcome = run.run_unless(&round.kill);
        if outcome.code() == 0 {
            self.before = after;
            tally.acknowledged.fetch_add(1, Ordering::Relaxed);
            round.done.fetch_add(1, Ordering::Relaxed);
            if !under_way && round.crashed.load(Ordering::Relaxed) {
                tally.survived.fetch_add(1, Ordering::Relaxed);
            }
        } else {
            // A node that had stopped taking writes answered `unavailable` round after round, and passed.
            assert!(round.crashed.load(Ordering::Relaxed), "nothing has crashed: {outcome}");
            assert!(may_fail(&outcome), "no failure of a crash: {outcome}");
            self.after = Some(after);
            tally.unknown.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The next command and its input; `after` becomes what it leads to.
    fn choose(&mut self, after: &mut Directory) -> (Vec<String>, Option<Content>) {
        let existing = self.pick();
        let choice = if after.len() >= FILES_MAX { 99 } else { self.random.below(100) };
        match (choice, existing) {
            (0..20, Some(name)) => {
                let content = self.content(64 << 10);
                after.insert(name.clone(), vec![content]);
                (self.command(&["put", "-"], &[&name]), Some(content))
            }
            (20..35, Some(name)) => {
                let content = self.content(20 << 10);
                after.get_mut(&name).expect("picked from it").push(content);
                (self.command(&["append", "-"], &[&name]), Some(content))
            }
            (35..45, Some(from)) => {
                let to =
                    if self.random.below(2) == 0 { self.fresh() } else { self.pick().unwrap_or_default() };
                let pieces = after.remove(&from).expect("picked from it");
                after.insert(to.clone(), pieces);
                (self.command(&["mv"], &[&from, &to]), None)
            }
            (90.., Some(name)) => {
                after.remove(&name);
                (self.command(&["rm"], &[&name]), None)
            }
            (choice, _) => {
                let name = self.fresh();
                let content = self.content(if choice % 5 == 0 { 5 << 20 } else { 20 << 10 });
                after.insert(name.clone(), vec![content]);
                (self.command(&["put", "-"], &[&name]), Some(content))
            }
        }
    }

    fn command(&self, words: &[&str], names: &[&str]) -> Vec<String> {
        let names = names.iter().map(|name| format!("{}/{name}", self.folder));
        words.iter().map(|word| (*word).to_owned()).chain(names).collect()
    }

    fn fresh(&mut self) -> String {
        self.made += 1;
        format!("file-{}", self.made)
    }

    fn pick(&mut self) -> Option<String> {
        let count = self.before.len() as u64;
        let index = if count == 0 { 0 } else { self.random.below(count) };
        self.before.keys().nth(usize::try_from(index).ok()?).cloned()
    }

    /// New bytes: often at the edges of blocks and chunks, below `length_max` otherwise.
    fn content(&mut self, length_max: u64) -> Content {
        const EDGES: [u64; 6] = [0, 1, 4095, 4096, 4097, (1 << 20) + 1];
        let edge = EDGES.get(usize::try_from(self.random.below(20)).unwrap_or(usize::MAX)).copied();
        let length = edge.filter(|&edge| edge <= length_max).unwrap_or_else(|| self.random.below(length_max));
        Content::new(self.random.number(), length)
    }

    /// Compares the directory as it was read back with what it may be; from then on it is what it was found to be.
    ///
    /// # Panics
    /// If it is something else.
    pub fn check(&mut self, volume_copy: &Path, tally: &Tally) {
        let name = self.folder.rsplit('/').next().unwrap_or_default();
        let found = read_directory(&volume_copy.join(name));
        let without = difference(&self.before, &found);
        let Some(after) = self.after.take() else {
            assert!(without.is_empty(), "{} isn't what was acknowledged:\n{without}", self.folder);
            return;
        };
        let with = difference(&after, &found);
        if with.is_empty() {
            self.before = after;
            tally.took_effect.fetch_add(1, Ordering::Relaxed);
        } else {
            assert!(
                without.is_empty(),
                "{} is neither what was acknowledged:\n{without}nor that and the last command:\n{with}",
                self.folder
            );
        }
    }

    /// Files that are there for sure.
    #[must_use]
    pub fn files(&self) -> usize {
        self.before.len()
    }
}

/// Whether a command may end so when its node crashes under it: unavailable, partly done, unknown, killed, or failed with a
/// reason; never "not found", "conflict" or "damaged", which would be wrong answers.
fn may_fail(outcome: &Outcome) -> bool {
    matches!(outcome.code(), 6 | 8 | 9 | 137)
}

fn read_directory(path: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(path).expect("the worker's directory was read back") {
        let entry = entry.expect("an entry");
        let name = entry.file_name().into_string().expect("the names are plain");
        found.insert(name, std::fs::read(entry.path()).expect("a file"));
    }
    found
}

/// What differs, a line each; empty if nothing does.
fn difference(expected: &Directory, found: &BTreeMap<String, Vec<u8>>) -> String {
    let mut lines = String::new();
    let mut say = |line: std::fmt::Arguments<'_>| lines.write_fmt(line).expect("writing to a string");
    for (name, pieces) in expected {
        let Some(bytes) = found.get(name) else {
            say(format_args!("  {name} is missing\n"));
            continue;
        };
        let whole: Vec<u8> = pieces.iter().flat_map(Content::bytes).collect();
        let at = whole.iter().zip(bytes).position(|(left, right)| left != right);
        if let Some(at) = at {
            say(format_args!("  {name} differs at byte {at}\n"));
        } else if whole.len() != bytes.len() {
            say(format_args!("  {name} has {} bytes instead of {}\n", bytes.len(), whole.len()));
        }
    }
    for name in found.keys().filter(|name| !expected.contains_key(*name)) {
        say(format_args!("  {name} shouldn't be there\n"));
    }
    lines
}

/// Reads the volume back through a fresh client and checks every worker's directory.
///
/// # Panics
/// If anything isn't what it has to be.
pub fn check_all(node: &Node, volume: &str, workers: &mut [Worker], tally: &Tally) {
    let scratch = Scratch::new();
    let copy = scratch.join("copy");
    let outcome = node.run(["get", "-r", &format!("/{volume}")]).args([&copy]).within(COMMAND_WITHIN).run();
    assert!(outcome.code() == 0, "{outcome}\n--- what the node says of itself\n{}", node.described());
    for worker in workers {
        worker.check(&copy, tally);
    }
}

/// One round: all workers work; once enough was acknowledged `crash` is called, which brings the node down and up again, and
/// the workers end their last command. With `kill_clients` those commands die with the node.
///
/// # Panics
/// If a command fails in a way that no crash explains.
pub fn round(
    endpoint: &str,
    workers: &mut [Worker],
    tally: &Tally,
    enough: u64,
    kill_clients: bool,
    crash: impl FnOnce(),
) {
    /// A round that makes no progress has found a hang.
    const PROGRESS_WITHIN: Duration = Duration::from_mins(2);
    let round = Round::default();
    std::thread::scope(|scope| {
        let threads: Vec<_> =
            workers.iter_mut().map(|worker| scope.spawn(|| worker.work(endpoint, &round, tally))).collect();
        let progress = || {
            let done = round.done.load(Ordering::Relaxed) >= enough;
            (done || threads.iter().all(std::thread::ScopedJoinHandle::is_finished)).then_some(())
        };
        harness::wait_for("the load's progress", PROGRESS_WITHIN, progress);
        round.crashed.store(true, Ordering::Relaxed);
        if kill_clients {
            round.stop.store(true, Ordering::Relaxed);
            round.kill.store(true, Ordering::Relaxed);
        }
        crash();
        round.stop.store(true, Ordering::Relaxed);
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checker_sees_what_is_wrong() {
        let pieces = |seeds: &[u64]| seeds.iter().map(|&seed| Content::new(seed, 1000)).collect::<Pieces>();
        let expected = Directory::from([("a".to_owned(), pieces(&[1, 2])), ("b".to_owned(), pieces(&[3]))]);
        let mut found: BTreeMap<String, Vec<u8>> = expected
            .iter()
            .map(|(name, pieces)| (name.clone(), pieces.iter().flat_map(Content::bytes).collect()))
            .collect();
        assert_eq!(difference(&expected, &found), "");
        let whole = found["a"].clone();
        found.insert("a".into(), whole[..1500].to_vec());
        assert_eq!(difference(&expected, &found), "  a has 1500 bytes instead of 2000\n", "half a file");
        let mut wrong = whole;
        wrong[1200] ^= 1;
        found.insert("a".into(), wrong);
        found.remove("b");
        found.insert("c".into(), Vec::new());
        let lines = "  a differs at byte 1200\n  b is missing\n  c shouldn't be there\n";
        assert_eq!(difference(&expected, &found), lines, "damaged, lost, resurrected");
    }

    #[test]
    fn commands_lead_to_what_the_model_says() {
        let before = Directory::new();
        let mut worker =
            Worker { folder: "/v/w".into(), random: Random::new(5), made: 0, before, after: None };
        let mut kinds = BTreeMap::new();
        for _ in 0..500 {
            let mut after = worker.before.clone();
            let (arguments, _) = worker.choose(&mut after);
            *kinds.entry(arguments[0].clone()).or_insert(0) += 1;
            assert!(
                arguments.iter().skip(1).all(|word| word == "-" || word.starts_with("/v/w/file-")),
                "{arguments:?}"
            );
            assert!(after.len() <= FILES_MAX + 1);
            worker.before = after;
        }
        assert_eq!(kinds.keys().collect::<Vec<_>>(), ["append", "mv", "put", "rm"]);
        assert!(kinds.values().all(|&count| count > 20), "{kinds:?}");
    }
}
