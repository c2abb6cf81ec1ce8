//! What can be simulated, and running many seeds of it.

use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::coverage::{self, Table};
use crate::report::{Failed, Tally};
use crate::scope::Case;
use crate::{log_run, store_run, world};

/// How much of the system is simulated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// The chunk store alone.
    Store,
    /// The metadata replica on its log.
    Log,
    /// Clients and a whole node.
    Node,
    /// Clients and several whole nodes.
    Cluster,
    /// The same, where nothing goes wrong but that one node dies.
    OneDeath,
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
    pub const ALL: [Self; 5] = [Self::Store, Self::Log, Self::Node, Self::Cluster, Self::OneDeath];

    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Store => "store",
            Self::Log => "log",
            Self::Node => "node",
            Self::Cluster => "cluster",
            Self::OneDeath => "one-death",
        }
    }

    /// The level of this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|level| level.name() == name)
    }

    /// Runs one case: its counts and the hash of its trace.
    pub fn run(self, case: &Case) -> Result<(Tally, u64), Box<Failed>> {
        match self {
            Self::Store => store_run::run(case),
            Self::Log => log_run::run(case),
            Self::Node => world::run(case),
            Self::Cluster => world::run_cluster(case),
            Self::OneDeath => world::run_one_death(case),
        }
    }

    /// What its seeds reach.
    fn tables(self) -> &'static [Table] {
        match self {
            Self::Store => &[coverage::STORE],
            Self::Log => &[coverage::OPERATIONS, coverage::LOG_FAULTS],
            Self::Node => &[coverage::OPERATIONS, coverage::NODE_FAULTS],
            Self::Cluster => &[coverage::CLUSTER_OPERATIONS, coverage::CLUSTER_FAULTS],
            Self::OneDeath => &[coverage::DEATHS],
        }
    }

    /// The tables of what was reached, for a person.
    pub fn render(self, tally: &Tally) -> String {
        let render = |table: &Table| {
            if table.has_columns() { table.render(tally) } else { coverage::render_lines(table, tally) }
        };
        self.tables().iter().map(render).collect::<Vec<_>>().join("\n")
    }

    /// Zeros that nothing explains, and counts that can't be.
    pub fn gaps(self, tally: &Tally) -> Vec<String> {
        self.tables().iter().flat_map(|table| table.gaps(tally)).collect()
    }
}

/// Runs seeds, one after the other.
pub fn run_seeds(level: Level, range: Range<u64>) -> Runs {
    let before = cpu_seconds();
    let mut runs = Runs::default();
    for seed in range {
        runs.count += 1;
        match level.run(&Case::new(seed)) {
            Ok((tally, _)) => runs.tally.merge(&tally),
            Err(failed) => runs.failed.push(*failed),
        }
    }
    runs.cpu_seconds = cpu_seconds() - before;
    runs
}

/// Runs the simulated code: its panic is a failure like any other, and leaves the trace to be told.
pub(crate) fn guarded(run: impl FnOnce() -> Result<(), String>) -> Result<(), String> {
    catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        Err(format!("panic: {}", text.unwrap_or_default()))
    })
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
