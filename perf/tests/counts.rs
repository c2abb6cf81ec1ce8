//! The figures that are counts, gated: one test a figure, so that a failure names it. Ratios never run here.

use std::path::Path;

use harness::Scratch;
use perf::counts::{Figure, Programs, client, memory, served, traces};

#[expect(clippy::print_stdout, reason = "a passing run shows its figures with --nocapture")]
fn check(figures: &[Figure]) {
    for figure in figures {
        println!(
            "{}: {:?} {} (at most {}); {}",
            figure.name, figure.value, figure.unit, figure.limit, figure.note
        );
    }
    let missed: Vec<&Figure> = figures.iter().filter(|figure| !figure.is_met()).collect();
    assert!(missed.is_empty(), "{missed:#?}");
}

/// The counting server stands for `catena server`: the same node, another allocator. Only the client's figure needs `catena` itself.
fn programs(scratch: &Scratch, catena: &Path) -> Programs {
    let server = env!("CARGO_BIN_EXE_counting-server").into();
    Programs { server, catena: catena.into(), directory: scratch.path().into() }
}

#[test]
fn index_flushes_bytes_and_restarts_of_the_shipped_logic() {
    check(&[memory::index()]);
    check(&traces::creates(1));
    check(&traces::creates(64));
    check(&traces::restarts());
}

#[test]
fn gets_allocate_nothing_and_share_system_calls() {
    let scratch = Scratch::new();
    let figures = served::gets(&programs(&scratch, Path::new(""))).expect("a server that serves");
    check(&figures);
    if let Some(unknown) = figures.iter().find(|figure| figure.value.is_none()) {
        harness::skip("strace", &unknown.note);
    }
}

#[test]
fn creates_share_flushes() {
    let scratch = Scratch::new();
    let programs = programs(&scratch, Path::new(""));
    for in_flight in [1, 64] {
        check(&served::creates(&programs, in_flight).expect("a server that serves"));
    }
}

#[test]
fn a_restart_reads_little() {
    let scratch = Scratch::new();
    check(&[served::restart(&programs(&scratch, Path::new(""))).expect("a server that starts again")]);
}

#[test]
fn a_client_takes_no_more_memory_for_a_longer_stream() {
    let scratch = Scratch::new();
    let programs = programs(&scratch, harness::catena());
    check(&client::memory(&programs, &[256 << 20, 512 << 20]).expect("a server that serves"));
    // The long form: `CATENA_STREAM_GIB=20`, best with `CATENA_TEST_PROFILE=release`.
    if std::env::var_os("CATENA_STREAM_GIB").is_some() {
        let gib = harness::count("CATENA_STREAM_GIB", 20);
        check(&client::memory(&programs, &[gib << 30]).expect("a server that serves"));
    }
}
