//! What a run counted and measured.

use std::collections::BTreeMap;

use client::ErrorKind;
use hdrhistogram::Histogram;

/// What a client may do, in the order of [`crate::Weights`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// A file becomes new bytes.
    Put,
    /// Bytes are put behind a file's end.
    Append,
    /// A file is read whole.
    Get,
    /// Some blocks of a file are read.
    RangedGet,
    /// Attributes are read.
    Stat,
    /// A directory is listed.
    List,
    /// A file is removed.
    Delete,
    /// A file is moved.
    Rename,
}

impl Kind {
    /// All kinds, in order.
    pub const ALL: [Self; 8] = [
        Self::Put,
        Self::Append,
        Self::Get,
        Self::RangedGet,
        Self::Stat,
        Self::List,
        Self::Delete,
        Self::Rename,
    ];

    /// Its name, as in a profile.
    pub fn name(self) -> &'static str {
        match self {
            Self::Put => "put",
            Self::Append => "append",
            Self::Get => "get",
            Self::RangedGet => "ranged_get",
            Self::Stat => "stat",
            Self::List => "list",
            Self::Delete => "delete",
            Self::Rename => "rename",
        }
    }
}

/// Latencies in nanoseconds, from 0.1 µs to ten minutes, with three digits.
#[derive(Clone, Debug)]
pub struct Latencies(Histogram<u64>);

/// The least that is told from less.
const LATENCY_MIN: u64 = 100;
/// The longest; what takes longer counts as this.
const LATENCY_MAX: u64 = 600_000_000_000;

impl Latencies {
    fn new() -> Self {
        Self(Histogram::new_with_bounds(LATENCY_MIN, LATENCY_MAX, 3).expect("sensible bounds"))
    }

    pub(crate) fn record(&mut self, nanoseconds: u64) {
        self.0.saturating_record(nanoseconds);
    }

    /// How many there are.
    pub fn count(&self) -> u64 {
        self.0.len()
    }

    /// The latency, in nanoseconds, that this part of all stays below: 0.99 for the 99th percentile.
    pub fn quantile(&self, part: f64) -> u64 {
        self.0.value_at_quantile(part)
    }

    /// The longest, in nanoseconds.
    pub fn longest(&self) -> u64 {
        self.0.max()
    }

    /// The mean, in nanoseconds.
    pub fn mean(&self) -> f64 {
        self.0.mean()
    }

    /// Adds another process's.
    pub fn add(&mut self, other: &Self) {
        self.0.add(&other.0).expect("all have the same bounds");
    }
}

/// What became of the operations of one kind.
#[derive(Clone, Debug)]
pub struct Counted {
    /// Done, or read.
    pub ok: u64,
    /// Nothing was at the path: an answer like any other, since paths are removed.
    pub absent: u64,
    /// Failed, and certainly changed nothing.
    pub failed: u64,
    /// Sent and never answered.
    pub unknown: u64,
    /// Bytes written or read.
    pub bytes: u64,
    /// Latencies of those that were answered: done, read, or nothing there.
    pub latencies: Latencies,
}

impl Counted {
    fn new() -> Self {
        Self { ok: 0, absent: 0, failed: 0, unknown: 0, bytes: 0, latencies: Latencies::new() }
    }

    /// Operations that were answered.
    pub fn answered(&self) -> u64 {
        self.ok + self.absent
    }
}

/// What was read and can't be right.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wrong {
    /// Acknowledged, and not there.
    pub lost: u64,
    /// Older than what was known.
    pub stale: u64,
    /// Bytes of several versions as one.
    pub torn: u64,
    /// Bytes that nobody wrote, or that the client refused as damaged.
    pub corrupt: u64,
    /// The first ones, in words.
    pub examples: Vec<String>,
}

/// Examples that are kept.
const EXAMPLES_MAX: usize = 20;

impl Wrong {
    /// How many there are.
    pub fn count(&self) -> u64 {
        self.lost + self.stale + self.torn + self.corrupt
    }

    pub(crate) fn say(&mut self, example: impl FnOnce() -> String) {
        if self.examples.len() < EXAMPLES_MAX {
            self.examples.push(example());
        }
    }
}

/// What a run counted, from the moment when all clients were ready.
#[derive(Clone, Debug)]
pub struct Report {
    /// How long it took, in nanoseconds, the last operations included.
    pub nanoseconds: u64,
    /// CPU of the generator's own thread, in nanoseconds: drawing, filling and verifying, without the clients' threads.
    pub generator_cpu_nanoseconds: u64,
    /// By kind, in the order of [`Kind::ALL`].
    pub kinds: Vec<Counted>,
    /// Failed operations by what their error was.
    pub errors: BTreeMap<ErrorKind, u64>,
    /// The first error of each sort, in words.
    pub first_errors: BTreeMap<ErrorKind, String>,
    /// What can't be right.
    pub wrong: Wrong,
    /// The directory of the run's files.
    pub directory: String,
    /// Files that were put before anything was measured.
    pub filled: u64,
}

impl Report {
    /// A report of nothing, to which others may be added.
    pub fn empty(directory: impl Into<String>) -> Self {
        Self::new(directory.into())
    }

    pub(crate) fn new(directory: String) -> Self {
        Self {
            nanoseconds: 0,
            generator_cpu_nanoseconds: 0,
            kinds: Kind::ALL.iter().map(|_| Counted::new()).collect(),
            errors: BTreeMap::new(),
            first_errors: BTreeMap::new(),
            wrong: Wrong::default(),
            directory,
            filled: 0,
        }
    }

    pub(crate) fn of(&mut self, kind: Kind) -> &mut Counted {
        &mut self.kinds[kind as usize]
    }

    /// The kinds with what became of them.
    pub fn by_kind(&self) -> impl Iterator<Item = (Kind, &Counted)> {
        Kind::ALL.into_iter().zip(&self.kinds)
    }

    /// A sum over all kinds.
    pub fn total(&self, of: impl Fn(&Counted) -> u64) -> u64 {
        self.kinds.iter().map(of).sum()
    }

    /// Adds another process's report of the same time.
    pub fn add(&mut self, other: &Self) {
        self.nanoseconds = self.nanoseconds.max(other.nanoseconds);
        self.generator_cpu_nanoseconds += other.generator_cpu_nanoseconds;
        self.filled += other.filled;
        for (own, other) in self.kinds.iter_mut().zip(&other.kinds) {
            own.ok += other.ok;
            own.absent += other.absent;
            own.failed += other.failed;
            own.unknown += other.unknown;
            own.bytes += other.bytes;
            own.latencies.add(&other.latencies);
        }
        for (kind, count) in &other.errors {
            *self.errors.entry(*kind).or_default() += count;
        }
        for (kind, text) in &other.first_errors {
            self.first_errors.entry(*kind).or_insert_with(|| text.clone());
        }
        let Wrong { lost, stale, torn, corrupt, examples } = &other.wrong;
        self.wrong.lost += lost;
        self.wrong.stale += stale;
        self.wrong.torn += torn;
        self.wrong.corrupt += corrupt;
        for example in examples {
            self.wrong.say(|| example.clone());
        }
    }
}

/// How far a run is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Files that were put before anything is measured, and how many are to be.
    pub filled: (u64, u64),
    /// Since the clients were ready, in nanoseconds; 0 before.
    pub nanoseconds: u64,
    /// Operations answered since the last progress, per second.
    pub rate: u64,
    /// Bytes written and read since the last progress, per second.
    pub bytes_rate: u64,
    /// Operations that failed or are of unknown outcome, so far.
    pub failed: u64,
    /// What can't be right, so far.
    pub wrong: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_are_added() {
        let mut left = Report::new("d".into());
        left.of(Kind::Put).ok = 3;
        left.of(Kind::Put).latencies.record(5_000);
        let mut right = Report::new("d".into());
        right.of(Kind::Put).ok = 4;
        right.of(Kind::Put).latencies.record(9_000_000);
        right.errors.insert(ErrorKind::Unavailable, 2);
        right.wrong.torn = 1;
        right.wrong.say(|| "x".into());
        left.add(&right);
        assert_eq!((left.total(|counted| counted.ok), left.wrong.count()), (7, 1));
        assert_eq!(left.errors[&ErrorKind::Unavailable], 2);
        let latencies = &left.kinds[0].latencies;
        assert_eq!(latencies.count(), 2);
        assert!((8_900_000..9_100_000).contains(&latencies.longest()) && latencies.quantile(0.5) < 5_100);
        assert_eq!(left.wrong.examples, ["x"]);
    }
}
