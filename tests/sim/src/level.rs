//! What can be simulated, and running many seeds of it.

use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::report::{Failed, Tally};
use crate::{store_run, world};

/// How much of the system is simulated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// The chunk store alone.
    Store,
    /// Clients and a whole node.
    Node,
}

/// What running several seeds gave.
#[derive(Debug, Default)]
pub struct Runs {
    /// Counts of all that succeeded.
    pub tally: Tally,
    /// Seeds run.
    pub count: u64,
    /// Those that failed.
    pub failed: Vec<Failed>,
    /// Processor time of this thread.
    pub cpu_seconds: f64,
}

impl Level {
    /// Every level.
    pub const ALL: [Self; 2] = [Self::Store, Self::Node];

    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Store => "store",
            Self::Node => "node",
        }
    }

    /// The level of this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|level| level.name() == name)
    }

    /// Runs one seed: its counts and the hash of its trace. A panic of the simulated code is a failure like any other.
    pub fn run(self, seed: u64, printed: bool) -> Result<(Tally, u64), Box<Failed>> {
        let run = match self {
            Self::Store => store_run::run,
            Self::Node => world::run,
        };
        let caught = catch_unwind(AssertUnwindSafe(|| run(seed, printed)));
        caught.unwrap_or_else(|panic| {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
            let why = format!("panic: {}", text.unwrap_or_default());
            Err(Box::new(Failed { level: self.name(), seed, why, tail: String::new() }))
        })
    }

    /// Counts that must not be zero over the seeds that continuous integration runs: what stands here and is never reached would be a
    /// test that can't fail.
    pub fn expected(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::Store => STORE_EXPECTED,
            Self::Node => NODE_EXPECTED,
        }
    }
}

/// Runs seeds, one after the other.
pub fn run_seeds(level: Level, range: Range<u64>) -> Runs {
    let before = cpu_seconds();
    let mut runs = Runs::default();
    for seed in range {
        runs.count += 1;
        match level.run(seed, false) {
            Ok((tally, _)) => runs.tally.merge(&tally),
            Err(failed) => runs.failed.push(*failed),
        }
    }
    runs.cpu_seconds = cpu_seconds() - before;
    runs
}

/// Processor time of this process so far; 0 where the system doesn't tell.
fn cpu_seconds() -> f64 {
    let text = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields = text.rsplit_once(')').map_or("", |(_, rest)| rest);
    let ticks: u64 =
        fields.split_whitespace().skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
    #[expect(clippy::cast_precision_loss, reason = "a measurement for people")]
    let seconds = ticks as f64 / 100.0;
    seconds
}

const STORE_EXPECTED: &[(&str, &str)] = &[
    ("conflicting put", "exists already"),
    ("delete", "ok"),
    ("fault", "kill"),
    ("fault", "power cut"),
    ("get", "not found"),
    ("get", "ok"),
    ("inventory", "ok"),
    ("put", "no space"),
    ("put", "ok"),
    ("store", "damage reported"),
    ("store", "fenced"),
    ("store", "opened"),
    ("store", "shut down"),
    ("store", "space came back"),
    ("store", "verified at the end"),
];

const NODE_EXPECTED: &[(&str, &str)] = &[
    ("append", "failed"),
    ("append", "ok"),
    ("checker", "checked"),
    ("checker", "unknown"),
    ("client", "cancelled"),
    ("copy", "failed"),
    ("copy", "ok"),
    ("disk", "bits flipped"),
    ("disk", "requests failed, lost or misdirected"),
    ("fault", "client crash"),
    ("fault", "client pause"),
    ("fault", "disk errors"),
    ("fault", "flipped bit"),
    ("fault", "full disk"),
    ("fault", "kill"),
    ("fault", "lost writes"),
    ("fault", "node pause"),
    ("fault", "partition"),
    ("fault", "power cut"),
    ("fault", "reset"),
    ("fault", "slow disk"),
    ("fault", "weather"),
    ("gc", "orphans deleted"),
    ("gc", "reclaimed"),
    ("get", "failed"),
    ("get", "no answer"),
    ("get", "ok"),
    ("get-range", "ok"),
    ("list", "failed"),
    ("list", "ok"),
    ("log", "checkpoint"),
    ("log", "fenced"),
    ("log", "opened"),
    ("mkdir", "failed"),
    ("mkdir", "ok"),
    ("network", "flips"),
    ("network", "frames lost"),
    ("network", "half open"),
    ("network", "held back"),
    ("network", "refused"),
    ("network", "slow"),
    ("overwrite", "failed"),
    ("overwrite", "ok"),
    ("put", "failed"),
    ("put", "not executed"),
    ("put", "ok"),
    ("put", "unknown"),
    ("put-conditional", "failed"),
    ("put-conditional", "ok"),
    ("remove", "failed"),
    ("remove", "ok"),
    ("rename", "failed"),
    ("rename", "ok"),
    ("rmdir", "failed"),
    ("rmdir", "ok"),
    ("seed", "verified"),
    ("store", "fenced"),
    ("store", "opened"),
    ("truncate", "failed"),
    ("truncate", "ok"),
];
