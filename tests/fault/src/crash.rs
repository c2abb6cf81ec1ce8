//! What the tests of crashes share: a node with a volume and workers on it, and a power cut.

use harness::{Dev, Node, Random, Scratch};

use crate::control::FaultyDisk;
use crate::load::{self, Tally, Worker};

/// The volume that the load is in.
pub const VOLUME: &str = "load";
/// Writers side by side.
pub const WORKERS: u64 = 4;

/// A node, its workers and what they did.
#[derive(Debug)]
pub struct Trial {
    /// The node.
    pub node: Node,
    /// Its writers.
    pub workers: Vec<Worker>,
    /// What they did.
    pub tally: Tally,
    /// Chooses when to crash and how.
    pub random: Random,
}

impl Trial {
    /// A node as `dev` says, with a volume and an empty directory for each worker.
    ///
    /// # Panics
    /// If it doesn't come up.
    #[must_use]
    pub fn start(dev: Dev, seed: u64) -> Self {
        let node = dev.fixed_ports().start();
        node.run(["volume", "create", VOLUME]).run().ok();
        let workers = (0..WORKERS).map(|number| Worker::new(&node, VOLUME, number, seed)).collect();
        Self { node, workers, tally: Tally::default(), random: Random::new(seed) }
    }

    /// One crash in the middle of the load, and the check of what it left. `crash` takes the node down; it is started here.
    ///
    /// # Panics
    /// If anything isn't what it has to be.
    pub fn round(&mut self, mut crash: impl FnMut(&mut Node, &mut Random)) {
        let enough = 5 + self.random.below(40);
        let kill_clients = self.random.below(2) == 0;
        let endpoint = self.node.endpoint().to_owned();
        let (node, random) = (&mut self.node, &mut self.random);
        load::round(&endpoint, &mut self.workers, &self.tally, enough, kill_clients, || {
            crash(node, random);
            node.start();
        });
        load::check_all(&self.node, VOLUME, &mut self.workers, &self.tally);
    }

    /// Says what happened, which shows that the load met the crashes.
    pub fn report(&self, what: &str, rounds: u64) {
        let files: usize = self.workers.iter().map(Worker::files).sum();
        eprintln!("{what}: {rounds} rounds, {files} files at the end, {:?}", self.tally);
    }
}

/// A faulty disk in `scratch`, or why there is none.
pub fn disk(program: &str, scratch: &Scratch) -> Result<FaultyDisk, String> {
    FaultyDisk::start(std::path::Path::new(program), scratch.path())
}
