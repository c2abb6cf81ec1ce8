//! `perf ratios` and `perf counts`: the tables of `docs/performance.md`.

#![forbid(unsafe_code)]

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use perf::counts::{self, Programs};
use perf::ratios::{self, Options, Row};
use perf::server;
use runtime::CountingAllocator;

// For the figures about memory that are measured in this process.
#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

/// Measure Catena: against the machine's ceilings, or in counts
#[derive(Debug, Parser)]
#[command(name = "perf")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Ratios(Ratios),
    Counts(Counts),
}

/// Catena ÷ ceiling, pair by pair; takes minutes, two cores and about 20 GiB of disk
#[derive(Debug, Args)]
struct Ratios {
    /// Where to put the server's data; a disk that takes direct I/O
    #[arg(long)]
    dir: Option<PathBuf>,
    /// The `catena` binary; the default is the one beside this program
    #[arg(long)]
    catena: Option<PathBuf>,
    /// Pairs of ceiling and Catena for each row
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u8).range(1..))]
    pairs: u8,
    /// Seconds of each measurement
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..))]
    seconds: u8,
    /// Only these rows: put-1m, get-1m, get-4k, create-4k
    #[arg(long = "row")]
    rows: Vec<String>,
    /// One JSON object instead of the table
    #[arg(long)]
    json: bool,
    /// Only Catena, without ceilings and without reading back: for profilers; prints the server's counters per operation
    #[arg(long, conflicts_with = "json")]
    observe: bool,
}

/// Allocations, system calls, memory, flushes and bytes: the same on any machine
#[derive(Debug, Args)]
struct Counts {
    /// Where to put the server's data; a disk that takes direct I/O
    #[arg(long)]
    dir: Option<PathBuf>,
    /// The `catena` binary; the default is the one beside this program
    #[arg(long)]
    catena: Option<PathBuf>,
    /// GiB that the client's memory is measured with, twice, beside 256 and 512 MiB; 0: not
    #[arg(long, default_value_t = 0)]
    stream_gib: u64,
    /// Succeed although this machine can't tell some figures, such as system calls without `strace`
    #[arg(long)]
    allow_unknown: bool,
    /// One JSON object instead of the table
    #[arg(long)]
    json: bool,
}

fn main() -> ExitCode {
    let outcome = match Arguments::parse().command {
        Command::Ratios(arguments) => arguments.run(),
        Command::Counts(arguments) => arguments.run(),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("perf: {error}");
            ExitCode::from(2)
        }
    }
}

type Outcome = Result<bool, Box<dyn std::error::Error>>;

fn directory(chosen: Option<PathBuf>) -> Result<PathBuf, Box<dyn std::error::Error>> {
    chosen
        .or_else(ratios::default_directory)
        .ok_or_else(|| "no directory here is on a disk that takes direct I/O: name one with --dir".into())
}

fn binary(chosen: Option<PathBuf>, name: &str) -> Result<PathBuf, Box<dyn std::error::Error>> {
    chosen.or_else(|| server::beside(name)).ok_or_else(|| {
        format!("{name} isn't beside this program: build it with `cargo build --release -p cli -p perf`")
            .into()
    })
}

fn print(text: &str) -> std::io::Result<()> {
    let mut out = std::io::stdout();
    writeln!(out, "{}", text.trim_end())?;
    out.flush()
}

impl Ratios {
    fn run(self) -> Outcome {
        let mut rows = Vec::new();
        for name in &self.rows {
            rows.push(Row::from_name(name).ok_or_else(|| format!("there is no row {name}"))?);
        }
        if rows.is_empty() {
            rows.extend(Row::ALL);
        }
        let options = Options {
            directory: directory(self.dir)?,
            catena: binary(self.catena, "catena")?,
            pairs: usize::from(self.pairs),
            time: Duration::from_secs(u64::from(self.seconds)),
            rows,
        };
        if self.observe {
            ratios::observe(&options)?;
            return Ok(true);
        }
        let report = ratios::run(&options)?;
        print(&if self.json { report.json().to_string() } else { report.text() })?;
        Ok(report.is_met())
    }
}

impl Counts {
    fn run(self) -> Outcome {
        let programs = Programs {
            server: binary(None, server::COUNTING_SERVER)?,
            catena: binary(self.catena, "catena")?,
            directory: directory(self.dir)?,
        };
        let figures = counts::all(&programs, self.stream_gib)?;
        print(&if self.json { counts::json(&figures).to_string() } else { counts::table(&figures) })?;
        Ok(counts::are_met(&figures, self.allow_unknown))
    }
}
