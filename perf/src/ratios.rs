//! Catena ÷ ceiling, both measured in the same minutes on the same two cores.
//!
//! One server with one shard on the core that the disk interrupts, one client on another. For each row: ceiling, Catena, ceiling, Catena, …; a pair's ratio is that of two
//! neighbours, a row's that of the median pair. A ceiling that `fio` exceeds is taken for
//! fio's, and where `fio` exceeds the best of them the row is void.

mod bench;
mod ceilings;
mod report;

use std::path::PathBuf;
use std::time::Duration;

use thiserror::Error;

use crate::fio;
use crate::machine::{Conditions, Machine};
use crate::text;

pub use bench::{BenchError, default_directory};
pub use report::Report;

/// The rows of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Row {
    /// PUT of 1 MiB chunks, 16 in flight.
    PutLarge,
    /// GET of 1 MiB chunks, 16 in flight.
    GetLarge,
    /// GET of 4 KiB chunks, 64 in flight.
    GetSmall,
    /// Durable creates of 4 KiB files, 64 in flight: CPU of the server.
    Create,
}

impl Row {
    /// All, in the table's order.
    pub const ALL: [Self; 4] = [Self::PutLarge, Self::GetLarge, Self::GetSmall, Self::Create];

    /// A word for the command line and JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::PutLarge => "put-1m",
            Self::GetLarge => "get-1m",
            Self::GetSmall => "get-4k",
            Self::Create => "create-4k",
        }
    }

    /// The row with this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|row| row.name() == name)
    }

    fn text(self) -> &'static str {
        match self {
            Self::PutLarge => "PUT 1 MiB chunks, 16 in flight ÷ min(disk write, TCP)",
            Self::GetLarge => "GET 1 MiB chunks, 16 in flight ÷ min(disk read, TCP)",
            Self::GetSmall => "GET 4 KiB chunks, 64 in flight ÷ best 4 KiB random read",
            Self::Create => "durable 4 KiB creates, 64 in flight: server CPU ÷ bare CPU of the same bytes",
        }
    }

    /// The limit, and whether the ratio has to stay below it.
    fn limit(self) -> (f64, bool) {
        match self {
            Self::PutLarge => (0.75, false),
            Self::GetLarge | Self::GetSmall => (0.60, false),
            Self::Create => (3.0, true),
        }
    }

    /// Whether a ratio is good enough.
    pub fn is_met(self, ratio: f64) -> bool {
        let (limit, below) = self.limit();
        if below { ratio <= limit } else { ratio >= limit }
    }
}

/// Where things run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cores {
    /// The server, and the ceilings in its place.
    pub(crate) server: usize,
    /// The client.
    pub(crate) client: usize,
}

impl Cores {
    /// The server where the disk's completions arrive (core 0 where that isn't known), as on a machine whose queues have cores of their own:
    /// on the client's core they would wait for the client.
    fn with_disk_on(core: Option<usize>) -> Self {
        let server = core.unwrap_or(0);
        Self { server, client: usize::from(server == 0) }
    }
}

/// What to measure, and how long.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where the server's data and the ceilings' file lie.
    pub directory: PathBuf,
    /// The `catena` binary.
    pub catena: PathBuf,
    /// Pairs of ceiling and Catena for each row.
    pub pairs: usize,
    /// Time of one measurement.
    pub time: Duration,
    /// Which rows.
    pub rows: Vec<Row>,
}

/// Why nothing, or not everything, was measured.
#[derive(Debug, Error)]
pub enum RatioError {
    /// Server, load or ceiling failed.
    #[error(transparent)]
    Bench(#[from] BenchError),
    /// Server and client need a core each.
    #[error("two cores are needed, one for the server and one for the client; this machine has {0}")]
    Cores(usize),
}

/// One measurement of Catena.
#[derive(Clone, Debug)]
pub(crate) struct Measured {
    /// Bytes or operations a second; nanoseconds of the server's CPU for [`Row::Create`].
    pub(crate) value: f64,
    /// For people.
    pub(crate) text: String,
    /// Fraction of the time in which the client was on its CPU.
    pub(crate) client_busy: f64,
    /// Fraction of the time in which the server was on its CPU.
    pub(crate) server_busy: f64,
    /// Median and 99th percentile of an operation, in nanoseconds.
    pub(crate) latency: (u64, u64),
    /// Segments that were opened without having been zeroed.
    pub(crate) unzeroed: u64,
}

#[cfg(test)]
impl Pair {
    /// A measured value beside its ceiling, both busy half the time.
    fn sample(limit: f64, value: f64, unzeroed: u64) -> Self {
        let text = String::new();
        let (client_busy, server_busy, latency) = (0.5, 0.5, (0, 0));
        Self {
            limit: Limit { value: limit, text: text.clone(), disk: Some(limit) },
            measured: Measured { value, text, client_busy, server_busy, latency, unzeroed },
        }
    }
}

/// One ceiling.
#[derive(Clone, Debug)]
pub(crate) struct Limit {
    /// In the unit of [`Measured::value`].
    pub(crate) value: f64,
    /// What it is made of, for people.
    pub(crate) text: String,
    /// The disk's part, in bytes a second: what fio is compared with.
    pub(crate) disk: Option<f64>,
}

/// A ceiling and what Catena did right after it.
#[derive(Clone, Debug)]
pub(crate) struct Pair {
    pub(crate) limit: Limit,
    pub(crate) measured: Measured,
}

impl Pair {
    /// Where fio got more out of the disk than this pair's own ceiling did, fio's stands for it: a low ceiling must not make a ratio look good. Where the wire
    /// and not the disk was the limit that is too strict, never too kind.
    pub(crate) fn ratio(&self, fio: Option<f64>) -> f64 {
        self.measured.value / (self.limit.value * self.shortfall(fio).unwrap_or(1.0))
    }

    /// By which factor fio exceeds the pair's disk ceiling, if it does.
    pub(crate) fn shortfall(&self, fio: Option<f64>) -> Option<f64> {
        let factor = fio? / self.limit.disk?;
        (factor > 1.0).then_some(factor)
    }
}

/// A row's pairs, and fio's word on its disk.
#[derive(Clone, Debug)]
pub(crate) struct Result {
    pub(crate) row: Row,
    pub(crate) pairs: Vec<Pair>,
    pub(crate) fio: Option<f64>,
}

impl Result {
    /// Median, least and greatest ratio.
    pub(crate) fn ratio(&self) -> (f64, f64, f64) {
        text::spread(self.pairs.iter().map(|pair| pair.ratio(self.fio))).expect("a row has pairs")
    }

    /// Our best disk ceiling, where the row has one.
    pub(crate) fn disk(&self) -> Option<f64> {
        text::spread(self.pairs.iter().filter_map(|pair| pair.limit.disk)).map(|(_, _, best)| best)
    }

    /// Whether fio gets more out of the disk than our ceiling did.
    pub(crate) fn is_void(&self) -> bool {
        matches!((self.fio, self.disk()), (Some(fio), Some(disk)) if disk < fio)
    }
}

/// Measures.
pub fn run(options: &Options) -> std::result::Result<Report, RatioError> {
    let machine = Machine::look();
    if machine.cores < 2 {
        return Err(RatioError::Cores(machine.cores));
    }
    let mut bench = bench::Bench::start(options)?;
    let conditions = Conditions::look(bench.server());
    let mut results = Vec::new();
    for &row in &options.rows {
        bench.prepare(row)?;
        let mut pairs = Vec::new();
        for _ in 0..options.pairs.max(1) {
            let limit = bench.ceiling(row)?;
            let measured = bench.measure(row)?;
            eprintln!("{}: {} of {}", row.name(), measured.text, limit.text);
            pairs.push(Pair { limit, measured });
        }
        let fio = ceilings::fio_load(row).and_then(|load| {
            fio::measure(&options.directory, bench::SCRATCH_BYTES, load, options.time, bench.cores().server)
        });
        results.push(Result { row, pairs, fio });
    }
    let client = bench.stop()?;
    Ok(Report { machine, conditions, client, results })
}

/// Runs the rows' load alone, `pairs` times each, and prints what the server counted: for profilers.
pub fn observe(options: &Options) -> std::result::Result<(), RatioError> {
    let mut bench = bench::Bench::start(options)?;
    eprintln!("the server's process is {}", bench.server().pid());
    for &row in &options.rows {
        bench.prepare(row)?;
        for _ in 0..options.pairs.max(1) {
            eprintln!("{}: {}", row.name(), bench.observe(row)?);
        }
    }
    bench.stop()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn result(row: Row, fio: Option<f64>, pairs: &[(f64, f64)]) -> Result {
        let pairs = pairs.iter().map(|&(limit, value)| Pair::sample(limit, value, 0)).collect();
        Result { row, pairs, fio }
    }

    #[test]
    fn ratios_are_of_neighbours() {
        let result = result(Row::PutLarge, Some(15.0), &[(10.0, 8.0), (20.0, 10.0), (10.0, 9.0)]);
        assert!(!result.is_void(), "the best ceiling is above fio's");
        // The first and the last pair's ceilings are below fio's: 8 and 9 of 15.
        let (median, least, most) = result.ratio();
        assert!(
            (median - 8.0 / 15.0).abs() < 1e-9 && (least - 0.5).abs() < 1e-9 && (most - 0.6).abs() < 1e-9
        );
    }

    /// Four pairs whose ceiling was half of fio's and one good one were "ok" at twice what they are.
    #[test]
    fn a_low_ceiling_flatters_nobody() {
        let low = [(10.0, 8.0), (10.0, 8.0), (10.0, 8.0), (10.0, 8.0), (21.0, 8.0)];
        let result = result(Row::PutLarge, Some(20.0), &low);
        assert!(!result.is_void());
        assert!((result.ratio().0 - 0.4).abs() < 1e-9, "{:?}", result.ratio());
    }

    #[test]
    fn without_fio_a_ceiling_stands_for_itself() {
        assert_eq!(
            result(Row::PutLarge, None, &[(10.0, 8.0), (20.0, 10.0), (10.0, 9.0)]).ratio(),
            (0.8, 0.5, 0.9)
        );
    }

    #[test]
    fn a_ceiling_below_fios_voids() {
        assert!(result(Row::GetSmall, Some(11.0), &[(10.0, 8.0)]).is_void());
        assert!(!result(Row::GetSmall, None, &[(10.0, 8.0)]).is_void());
    }

    #[test]
    fn limits_have_a_direction() {
        assert!(Row::PutLarge.is_met(0.75) && !Row::PutLarge.is_met(0.74));
        assert!(Row::Create.is_met(3.0) && !Row::Create.is_met(3.1));
        for row in Row::ALL {
            assert_eq!(Row::from_name(row.name()), Some(row));
        }
    }
}
