//! What continuous integration runs of the simulator: the tree's own seeds, every seed that ever failed, one seed twice.

#![expect(clippy::print_stdout, reason = "the table is the test's account of what it reached")]

use sim::{Case, Level, run_seeds, seeds};

fn run_level(level: Level) {
    let first = seeds::first();
    let count = seeds::count(level);
    let runs = run_seeds(level, first..first + count);
    let tally = &runs.tally;
    println!("{}: seeds {first}..{} of this tree", level.name(), first + count);
    println!("{}", level.render(tally));
    println!(
        "{} operations, {} events, {} virtual s in {:.1} CPU s",
        tally.operations,
        tally.events,
        tally.virtual_nanos / 1_000_000_000,
        runs.cpu_seconds
    );
    for failed in &runs.failed {
        println!("{failed}\n");
    }
    assert!(runs.failed.is_empty(), "{} of {count} seeds failed", runs.failed.len());
    let gaps = level.gaps(tally);
    assert!(gaps.is_empty(), "what these seeds reached: {gaps:#?}");
}

#[test]
fn the_store_alone() {
    run_level(Level::Store);
}

#[test]
fn the_log_alone() {
    run_level(Level::Log);
}

#[test]
fn clients_and_a_node() {
    run_level(Level::Node);
}

#[test]
fn a_cluster() {
    run_level(Level::Cluster);
}

#[test]
fn the_death_of_one_node() {
    run_level(Level::OneDeath);
}

#[test]
fn seeds_that_failed_once() {
    for level in Level::ALL {
        for seed in seeds::recorded(level) {
            if let Err(failed) = level.run(&Case::new(seed)) {
                panic!("{failed}");
            }
        }
    }
}

#[test]
fn one_seed_gives_one_trace() {
    for level in Level::ALL {
        let first = seeds::first();
        let hashes: Vec<u64> =
            (0..2).map(|_| level.run(&Case::new(first)).expect("run by another test too").1).collect();
        assert_eq!(hashes[0], hashes[1], "{} seed {first}", level.name());
        let other = level.run(&Case::new(first + 1)).expect("run by another test too").1;
        assert_ne!(hashes[0], other, "another seed, another trace");
    }
}
