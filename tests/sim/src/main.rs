//! `cargo run -p sim`: runs seeds of the simulator, replays one with its trace, searches seeds that catch planted bugs.

#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, reason = "a command's output")]

use std::ops::Range;
use std::process::ExitCode;

use sim::{Case, Level, Numbers, Tally, planted, run_seeds, seeds, shrink};

const HELP: &str = "\
The deterministic simulator: the shipped client, shard, store, log and namespace on one thread, in virtual time.

usage: cargo run -p sim -- [--level LEVEL] [--seed N [--trace | --shrink] | --seeds A..B | --planted]

  --level LEVEL      store: the chunk store alone; log: the metadata replica on its log; node: clients and a whole node;
                     cluster: clients and three to five nodes; one-death: the same, and one node dies. Default: all
  --profile NAME     one-death: of level cluster that
  --seed N           one seed; prints the hash of its trace
  --trace            what happens, line by line, on standard error
  --shrink           a seed that fails: leaves out faults and operations as long as it fails, and tells the rest as a story
  --faults LIST      of the seed's faults only these: 1-4,9 or none
  --operations LIST  of its operations only these
  --bug NAME         with this planted bug (a build with RUSTFLAGS='--cfg planted')
  --seeds A..B       many seeds; a table of operations, outcomes and faults
  --planted          searches a seed that catches each planted bug, in the range that --seeds gives (such a build)
  (nothing)          the seeds that continuous integration runs: those of this tree, and every recorded one
";

/// Runs that shrinking tries.
const SHRINK_RUNS: usize = 600;

struct Arguments {
    levels: Vec<Level>,
    seeds: Option<Range<u64>>,
    case: Case,
    shrink: bool,
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
    if arguments.shrink {
        // The same panic, hundreds of times.
        std::panic::set_hook(Box::new(|_| {}));
    }
    let one = |range: &Range<u64>| range.end - range.start == 1;
    let succeeded = match arguments.seeds {
        _ if arguments.planted => search_planted(&arguments.seeds.unwrap_or(0..400)),
        Some(range) if one(&range) => {
            let case = Case { seed: range.start, ..arguments.case };
            let run = if arguments.shrink { run_shrunk } else { run_case };
            arguments.levels.iter().filter(|level| !run(**level, &case)).count() == 0
        }
        Some(range) => arguments.levels.iter().filter(|level| !run(**level, range.clone())).count() == 0,
        None => run_all(&arguments.levels),
    };
    if succeeded { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn parse(mut rest: impl Iterator<Item = String>) -> Result<Arguments, String> {
    let (levels, case) = (Level::ALL.to_vec(), Case::default());
    let mut arguments = Arguments { levels, seeds: None, case, shrink: false, planted: false };
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
            "--profile" => {
                let name = value()?;
                let is_known = name == Level::OneDeath.name();
                arguments.levels = if is_known {
                    vec![Level::OneDeath]
                } else {
                    return Err(format!("no profile is called {name}"));
                };
            }
            "--seeds" => arguments.seeds = Some(parse_range(&value()?)?),
            "--trace" => arguments.case.printed = true,
            "--faults" => arguments.case.faults = Some(Numbers::parse(&value()?)?),
            "--operations" => arguments.case.operations = Some(Numbers::parse(&value()?)?),
            "--bug" => planted::switch_on(&value()?)?,
            "--shrink" => arguments.shrink = true,
            "--planted" => arguments.planted = true,
            "--help" | "-h" => {
                println!("{HELP}");
                std::process::exit(0);
            }
            other => return Err(format!("what is {other}?")),
        }
    }
    if arguments.shrink && arguments.seeds.as_ref().is_none_or(|range| range.end - range.start != 1) {
        return Err("--shrink needs --seed".to_owned());
    }
    Ok(arguments)
}

fn parse_range(text: &str) -> Result<Range<u64>, String> {
    let (from, to) = text.split_once("..").ok_or(format!("{text} isn't a range like 0..100"))?;
    let number = |text: &str| text.parse::<u64>().map_err(|error| format!("{text}: {error}"));
    Ok(number(from)?..number(to)?)
}

fn run_case(level: Level, case: &Case) -> bool {
    match level.run(case) {
        Ok((tally, hash)) => {
            println!("{}{} seed {}: trace hash {hash:016x}", tally.table(), level.name(), case.seed);
            true
        }
        Err(failed) => {
            println!("{failed}");
            false
        }
    }
}

/// Whether the run succeeds, so that there is nothing to shrink.
fn run_shrunk(level: Level, case: &Case) -> bool {
    let Some(shrunk) = shrink::shrink(level, case, SHRINK_RUNS) else {
        println!("{} seed {} doesn't fail", level.name(), case.seed);
        return true;
    };
    let count = |only: &Option<Numbers>| only.as_ref().map_or(0, |numbers| numbers.0.len());
    let (first, failed) = (&shrunk.first, &shrunk.failed);
    println!("{} seed {} failed: {}", level.name(), case.seed, first.why);
    println!(
        "{} runs later: {} of {} faults, {} of {} operations are enough\n",
        shrunk.tried,
        count(&failed.case.faults),
        first.faults,
        count(&failed.case.operations),
        first.operations,
    );
    failed.story.iter().for_each(|line| println!("{line}"));
    println!("\n{}", failed.why);
    println!("replay: cargo run -p sim -- {} --trace", failed.case.arguments(level.name()));
    false
}

fn run(level: Level, range: Range<u64>) -> bool {
    let runs = run_seeds(level, range);
    report(level, &runs.tally, runs.count, runs.cpu_seconds);
    for failed in &runs.failed {
        println!("{failed}\n");
    }
    runs.failed.is_empty()
}

fn report(level: Level, tally: &Tally, seeds: u64, cpu_seconds: f64) {
    println!("{}", level.render(tally));
    for gap in level.gaps(tally) {
        println!("gap: {gap}");
    }
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
    let failing = levels.iter().filter(|level| {
        let recorded = seeds::recorded(**level).into_iter().all(|seed| run_case(**level, &Case::new(seed)));
        !(run(**level, start..start + seeds::count(**level)) && recorded)
    });
    failing.count() == 0
}

fn search_planted(range: &Range<u64>) -> bool {
    if !planted::is_built_in() {
        println!(
            "this build has no planted bugs: RUSTFLAGS='--cfg planted' cargo run -p sim --target-dir target/planted -- --planted"
        );
        return false;
    }
    let mut all_caught = true;
    for bug in wire::planted::Bug::SIMULATED {
        if let Some((level, seed, why)) = planted::search(*bug, range.clone()) {
            println!("{bug:?} {} {seed}  # {why}", level.name());
        } else {
            println!("# {bug:?}: not caught by seeds {range:?}");
            all_caught = false;
        }
    }
    all_caught
}
