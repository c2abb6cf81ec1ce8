//! The server, the client and the ceilings' file of one run.

use std::fmt::Write;
use std::path::PathBuf;
use std::time::Duration;

use runtime::ceiling::{CeilingError, Order, Scratch};
use thiserror::Error;

use super::{Cores, Limit, Measured, Options, Row, ceilings};
use crate::load::{Job, Load, LoadError, Tally, What};
use crate::machine;
use crate::server::{Server, ServerError, Setup};
use crate::text;

/// The file that ceilings are measured with.
pub(crate) const SCRATCH_BYTES: u64 = 1 << 30;

const LARGE: u32 = 1 << 20;
const SMALL: u32 = 4096;
/// A load's order is its ceiling's: large files are read through, small ones anywhere.
pub(super) const LARGE_ORDER: Order = Order::Sequential;
pub(super) const SMALL_ORDER: Order = Order::Random;
const LARGE_WINDOW: u32 = 16;
const SMALL_WINDOW: u32 = 64;
/// A PUT run ends after so many chunks, so that all runs fit into the segments that were zeroed before the first.
const PUTS_MAX: u64 = 1536;
/// Working sets of the GET rows: as large as the ceilings' file, so that no cache below us favours either.
const LARGE_SET: u64 = SCRATCH_BYTES / LARGE as u64;
const SMALL_SET: u64 = SCRATCH_BYTES / SMALL as u64;
/// Space beside the PUT runs: working sets, creates, the store's reserve.
const SPACE_BYTES: u64 = 6 << 30;

/// What can fail in a run.
#[derive(Debug, Error)]
pub enum BenchError {
    /// The server.
    #[error(transparent)]
    Server(#[from] ServerError),
    /// The client.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// A ceiling.
    #[error(transparent)]
    Ceiling(#[from] CeilingError),
    /// A directory.
    #[error("no directory to measure in: {0}")]
    Directory(#[from] std::io::Error),
}

/// See the module.
pub(super) struct Bench {
    cores: Cores,
    server: Server,
    load: Load,
    scratch: Option<Scratch>,
    time: Duration,
    /// Bytes that a create writes, as measured by the last run of creates.
    create_bytes: f64,
    directory: tempfile::TempDir,
}

impl Bench {
    pub(super) fn start(options: &Options) -> Result<Self, BenchError> {
        std::fs::create_dir_all(&options.directory)?;
        let directory = tempfile::Builder::new().prefix("catena-perf-").tempdir_in(&options.directory)?;
        let before = machine::interrupts();
        let scratch = Scratch::new(directory.path(), SCRATCH_BYTES)?;
        let cores = Cores::with_disk_on(machine::interrupted_core(&before, &machine::interrupts()));
        let runs = options.pairs as u64 + 1;
        let bytes = (runs * PUTS_MAX * u64::from(LARGE) + SPACE_BYTES).next_multiple_of(64 << 20);
        let setup = Setup {
            directory: directory.path().join("server"),
            capacity_bytes: bytes,
            // Everything is zeroed before the first measurement, so that nothing is zeroed during one.
            prezero_bytes: bytes,
            core: Some(cores.server),
        };
        setup.format(&options.catena)?;
        let server = setup.start(&options.catena)?;
        eprintln!("zeroing {} GiB", bytes >> 30);
        let zeroed = server.wait_zeroed()?;
        eprintln!("{zeroed} segments are zeroed");
        let load = Load::connect(server.endpoint, Some(cores.client))?;
        Ok(Self {
            cores,
            server,
            load,
            scratch: Some(scratch),
            time: options.time,
            create_bytes: f64::from(2 * SMALL),
            directory,
        })
    }

    pub(super) fn cores(&self) -> Cores {
        self.cores
    }

    pub(super) fn server(&self) -> &Server {
        &self.server
    }

    /// Ends everything; returns what the client ran on.
    pub(super) fn stop(self) -> Result<String, BenchError> {
        let Self { cores, server, load, scratch, directory, .. } = self;
        drop((load, scratch));
        server.stop()?;
        drop(directory);
        Ok(format!("perf-load on {}, the disk's interrupts on {}", cores.client, cores.server))
    }

    fn job(&self, row: Row) -> Job {
        let (what, window, operations) = match row {
            Row::PutLarge => (What::Put { bytes: LARGE }, LARGE_WINDOW, PUTS_MAX),
            Row::GetLarge => (What::Get { bytes: LARGE, order: LARGE_ORDER }, LARGE_WINDOW, u64::MAX),
            Row::GetSmall => (What::Get { bytes: SMALL, order: SMALL_ORDER }, SMALL_WINDOW, u64::MAX),
            Row::Create => (What::Create { bytes: SMALL }, SMALL_WINDOW, u64::MAX),
        };
        Job { what, window, operations, time: self.time }
    }

    fn fill(&self, bytes: u32, count: u64) -> Result<(), BenchError> {
        const LONG: Duration = Duration::from_mins(5);
        let window = if bytes == SMALL { SMALL_WINDOW } else { LARGE_WINDOW };
        self.load.run(Job { what: What::Put { bytes }, window, operations: count, time: LONG })?;
        Ok(())
    }

    /// Puts what the row reads, and warms it up.
    pub(super) fn prepare(&mut self, row: Row) -> Result<(), BenchError> {
        match row {
            Row::GetLarge => self.fill(LARGE, LARGE_SET)?,
            Row::GetSmall => self.fill(SMALL, SMALL_SET)?,
            Row::PutLarge | Row::Create => {}
        }
        let warm = Job { operations: 512, ..self.job(row) };
        if row == Row::Create {
            let before = self.disk_bytes()?;
            let tally = self.load.run(Job { operations: 4096, ..warm })?;
            self.note_create_bytes(before, &tally)?;
        } else {
            self.load.run(warm)?;
        }
        Ok(())
    }

    pub(super) fn ceiling(&mut self, row: Row) -> Result<Limit, BenchError> {
        let scratch = self.scratch.take().expect("it is given back");
        let (scratch, limit) = ceilings::rate(row, self.cores, scratch, self.time)?;
        let (scratch, limit) = match limit {
            Some(limit) => (scratch, limit),
            None => ceilings::bare_cpu(self.cores, scratch, self.create_bytes, self.time)?,
        };
        self.scratch = Some(scratch);
        Ok(limit)
    }

    pub(super) fn measure(&mut self, row: Row) -> Result<Measured, BenchError> {
        const UNZEROED: &str = "catena_shard_segment_unzeroed_total";
        let unzeroed = self.server.metric(UNZEROED)?;
        let disk_bytes = self.disk_bytes()?;
        let cpu = self.server.cpu_nanoseconds()?;
        let tally = self.load.run(self.job(row))?;
        let cpu = self.server.cpu_nanoseconds()? - cpu;
        let unzeroed = self.server.metric(UNZEROED)? - unzeroed;
        if row == Row::Create {
            self.note_create_bytes(disk_bytes, &tally)?;
        }
        self.check(row, &tally)?;
        #[expect(clippy::cast_precision_loss, reason = "rates are for people")]
        let (cpu, operations, wall) = (cpu as f64, tally.operations.max(1) as f64, tally.nanoseconds as f64);
        let each = text::nanoseconds(cpu / operations);
        let (value, what) = match row {
            Row::PutLarge | Row::GetLarge => (tally.bytes_per_second(), text::rate(tally.bytes_per_second())),
            Row::GetSmall => {
                (tally.operations_per_second(), format!("{:.0} gets/s", tally.operations_per_second()))
            }
            Row::Create => (cpu / operations, format!("{:.0} creates/s", tally.operations_per_second())),
        };
        Ok(Measured {
            value,
            text: format!("{what}, server CPU {each} each"),
            client_busy: tally.client_busy(),
            server_busy: cpu / wall.max(1.0),
            latency: (tally.latency.value_at_quantile(0.5), tally.latency.value_at_quantile(0.99)),
            unzeroed,
        })
    }

    /// Reads back and verifies every chunk that the run wrote, outside the measurement.
    fn check(&self, row: Row, tally: &Tally) -> Result<(), BenchError> {
        let (bytes, window) = match row {
            Row::PutLarge => (LARGE, LARGE_WINDOW),
            Row::Create => (SMALL, SMALL_WINDOW),
            Row::GetLarge | Row::GetSmall => return Ok(()),
        };
        let what = What::Check { bytes, first: tally.chunks_before };
        let time = Duration::from_mins(5);
        self.load.run(Job { what, window, operations: tally.operations, time })?;
        Ok(())
    }

    /// One run without ceilings or checks: what a profiler is to see. Prints what each of the server's counters grew by per operation.
    pub(super) fn observe(&mut self, row: Row) -> Result<String, BenchError> {
        let (before, cpu) = (self.server.metrics()?, self.server.cpu_nanoseconds()?);
        let tally = self.load.run(self.job(row))?;
        let (after, cpu) = (self.server.metrics()?, self.server.cpu_nanoseconds()? - cpu);
        #[expect(clippy::cast_precision_loss, reason = "rates are for people")]
        let (cpu, operations, wall) = (cpu as f64, tally.operations.max(1) as f64, tally.nanoseconds as f64);
        let mut text = format!(
            "{:.0} a second, {}; server CPU {} each, {:.0} % busy; client {:.0} % busy; p50 {}, p99 {}",
            tally.operations_per_second(),
            text::rate(tally.bytes_per_second()),
            text::nanoseconds(cpu / operations),
            100.0 * cpu / wall.max(1.0),
            100.0 * tally.client_busy(),
            tally.latency.value_at_quantile(0.5),
            tally.latency.value_at_quantile(0.99),
        );
        for (name, value) in after {
            let grown = value - before.get(&name).copied().unwrap_or(0.0);
            if grown != 0.0 {
                write!(text, "\n  {name}: {:.4} each", grown / operations).expect("writing to a string");
            }
        }
        Ok(text)
    }

    /// Bytes that shard and metadata log have written.
    fn disk_bytes(&self) -> Result<u64, BenchError> {
        let shard = self.server.metric("catena_shard_disk_write_bytes_total")?;
        Ok(shard + self.server.metric("catena_metadata_log_bytes")?)
    }

    fn note_create_bytes(&mut self, before: u64, tally: &Tally) -> Result<(), BenchError> {
        let written = self.disk_bytes()?.saturating_sub(before);
        #[expect(clippy::cast_precision_loss, reason = "a mean")]
        let each = written as f64 / tally.operations.max(1) as f64;
        // A checkpoint in between makes the log's bytes begin anew: keep what was known.
        if each >= f64::from(SMALL) {
            self.create_bytes = each;
        }
        Ok(())
    }
}

/// Where to measure unless told: the first of these that is on a disk and takes direct I/O.
pub fn default_directory() -> Option<PathBuf> {
    let candidates = [std::env::temp_dir(), PathBuf::from("/var/tmp"), PathBuf::from("target")];
    candidates.into_iter().find(|path| runtime::takes_direct_io(path).unwrap_or(false))
}
