//! `cargo run -p sim`: runs seeds of the simulator, replays one with its trace, searches seeds that catch planted bugs.

#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, reason = "a command's output")]

use std::ops::Range;
use std::process::ExitCode;

use sim::{Level, Tally, planted, run_seeds, seeds};

const HELP: &str = "\
The deterministic simulator: the shipped client, shard, store, log and namespace on one thread, in virtual time.

usage: cargo run -p sim -- [--level store|node] [--seed N [--trace] | --seeds A..B | --planted [A..B]]

  --level LEVEL   store: the chunk store alone; node: clients and a whole node. Default: both
  --seed N        one seed; prints the hash of its trace
  --trace         what happens, line by line, on standard error
  --seeds A..B    many seeds; a table of operations, outcomes and faults
  --planted       searches a seed that catches each planted bug (a build with RUSTFLAGS='--cfg planted')
  (nothing)       the seeds that continuous integration runs: those of this tree, and every recorded one
";

struct Arguments {
    levels: Vec<Level>,
    seeds: Option<Range<u64>>,
    trace: bool,
    planted: bool,
}

fn main() -> ExitCode {
    let arguments = match parse(std::env::args().skip(1)) {
        Ok(arguments) => arguments,
        Err(problem) => {
            eprintln!("{problem}\n\n{HELP}");
            return ExitCode::from(2);
        }
    };
    let succeeded = if arguments.planted {
        search_planted(arguments.seeds.unwrap_or(0..400))
    } else {
        match arguments.seeds {
            Some(range) => arguments.levels.iter().all(|level| run(*level, range.clone(), arguments.trace)),
            None => run_all(&arguments.levels),
        }
    };
    if succeeded { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn parse(mut rest: impl Iterator<Item = String>) -> Result<Arguments, String> {
    let mut arguments = Arguments { levels: Level::ALL.to_vec(), seeds: None, trace: false, planted: false };
    while let Some(argument) = rest.next() {
        let mut value = || rest.next().ok_or(format!("{argument} needs a value"));
        match argument.as_str() {
            "--level" => {
                let name = value()?;
                arguments.levels = vec![Level::from_name(&name).ok_or(format!("no level is called {name}"))?];
            }
            "--seed" => {
                let seed: u64 = value()?.parse().map_err(|error| format!("--seed: {error}"))?;
                arguments.seeds = Some(seed..seed + 1);
            }
            "--seeds" => arguments.seeds = Some(parse_range(&value()?)?),
            "--trace" => arguments.trace = true,
            "--planted" => arguments.planted = true,
            "--help" | "-h" => {
                println!("{HELP}");
                std::process::exit(0);
            }
            other => return Err(format!("what is {other}?")),
        }
    }
    Ok(arguments)
}

fn parse_range(text: &str) -> Result<Range<u64>, String> {
    let (from, to) = text.split_once("..").ok_or(format!("{text} isn't a range like 0..100"))?;
    let number = |text: &str| text.parse::<u64>().map_err(|error| format!("{text}: {error}"));
    Ok(number(from)?..number(to)?)
}

fn run(level: Level, range: Range<u64>, trace: bool) -> bool {
    if range.end - range.start == 1 {
        return match level.run(range.start, trace) {
            Ok((tally, hash)) => {
                println!("{}{} seed {}: trace hash {hash:016x}", tally.table(), level.name(), range.start);
                true
            }
            Err(failed) => {
                println!("{failed}");
                false
            }
        };
    }
    let runs = run_seeds(level, range);
    report(level, &runs.tally, runs.count, runs.cpu_seconds);
    for failed in &runs.failed {
        println!("{failed}\n");
    }
    runs.failed.is_empty()
}

fn report(level: Level, tally: &Tally, seeds: u64, cpu_seconds: f64) {
    println!("{}", tally.table());
    #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
    let rate = |count: u64| count as f64 / cpu_seconds.max(0.001);
    println!(
        "{}: {seeds} seeds, {} operations, {} events, {} virtual s; per CPU second {:.0} operations, {:.0} events",
        level.name(),
        tally.operations,
        tally.events,
        tally.virtual_nanos / 1_000_000_000,
        rate(tally.operations),
        rate(tally.events),
    );
}

fn run_all(levels: &[Level]) -> bool {
    let start = seeds::first();
    println!("seeds of this tree begin at {start}");
    levels.iter().all(|level| {
        let recorded = seeds::recorded(*level).into_iter().all(|seed| run(*level, seed..seed + 1, false));
        run(*level, start..start + seeds::count(*level), false) && recorded
    })
}

fn search_planted(range: Range<u64>) -> bool {
    if !planted::is_built_in() {
        println!(
            "this build has no planted bugs: RUSTFLAGS='--cfg planted' cargo run -p sim --target-dir target/planted -- --planted"
        );
        return false;
    }
    let mut all_caught = true;
    for bug in wire::planted::Bug::ALL {
        if let Some((level, seed, why)) = planted::search(*bug, range.clone()) {
            println!("{bug:?} {} {seed}  # {why}", level.name());
        } else {
            println!("# {bug:?}: not caught by seeds {range:?}");
            all_caught = false;
        }
    }
    all_caught
}
