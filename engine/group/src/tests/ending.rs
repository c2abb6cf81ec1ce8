//! Ends, orderly and other, and what the next start finds and reads.

use journal::fake_disk::Faults;
use replica::ReplicaConfig;
use wire::message::Request;
use wire::meta::Query;
use wire::{CommitIndex, Nanos, Status};

use super::bench::{Bench, make_directory, mutation};
use crate::Note;

/// R15, R29: the log of a group that was stopped in order was searched as after a kill, up to 32 MiB.
#[test]
fn a_start_after_an_orderly_end_reads_the_checkpoint_and_nothing_else() {
    let mut bench = Bench::new();
    let idle = bench.memory.used_bytes();
    let session = bench.filled(40);
    let state = bench.member.replica().unwrap().state().clone();
    bench.shutdown();
    // What comes now is refused, but for the question how it stands.
    bench.request(1, 90, &mutation(session, 90, make_directory(90)));
    bench.request(1, 91, &Request::Query(Query::GroupStatus));
    assert_eq!(bench.answers(), [(90, Status::NotServing), (91, Status::Ok)]);
    bench.run();
    assert_eq!(bench.notes.last(), Some(&Note::Ended));
    assert_eq!(bench.memory.used_bytes(), idle, "every buffer came back");

    bench.reopen();
    assert!(matches!(bench.notes[0], Note::Opened { was_clean: true, .. }), "{:?}", bench.notes);
    assert!(*bench.member.replica().unwrap().state() == state);
    let clean = bench.disk.counters.read_bytes;
    // Stopped at once, it writes no checkpoint again, and is found in order again.
    bench.shutdown();
    bench.run();
    assert!(!bench.notes.iter().any(|note| matches!(note, Note::CheckpointDone(_))), "{:?}", bench.notes);
    bench.reopen();
    assert!(matches!(bench.notes[0], Note::Opened { was_clean: true, .. }));
    assert_eq!(bench.disk.counters.read_bytes, clean);

    // After a kill the same state is read with a search for what may lie behind it.
    bench.disk.kill(&mut bench.memory);
    bench.reopen();
    assert!(matches!(bench.notes[0], Note::Opened { was_clean: false, .. }));
    assert!(*bench.member.replica().unwrap().state() == state);
    assert!(bench.disk.counters.read_bytes > clean);
}

/// A node is formatted and ended at once: its log's file was still growing, and the last checkpoint found no space.
#[test]
fn an_end_waits_for_growth() {
    for steps in 0..60 {
        let mut bench = Bench::formatting(ReplicaConfig::default());
        for _ in 0..steps {
            bench.turn();
            bench.step();
        }
        bench.shutdown();
        bench.run();
        assert!(bench.notes.contains(&Note::Ended), "after {steps} steps: {:?}", bench.notes);
        assert!(!bench.notes.contains(&Note::CheckpointFailed), "after {steps} steps: {:?}", bench.notes);
    }
}

/// What was asked before the end is answered before it.
#[test]
fn an_end_finishes_what_was_accepted() {
    let mut bench = Bench::new();
    let session = bench.filled(3);
    bench.request(1, 50, &mutation(session, 5, make_directory(50)));
    bench.shutdown();
    assert!(bench.sent.is_empty());
    bench.run();
    assert_eq!(bench.answers(), [(50, Status::Ok)]);
    assert_eq!(bench.notes.last(), Some(&Note::Ended));
    bench.reopen();
    assert_eq!(bench.member.replica().unwrap().committed(), CommitIndex(6));
}

/// A checkpoint that is under way when the end begins is finished first, and the last one follows.
#[test]
fn an_end_waits_for_a_checkpoint_under_way() {
    // Every third entry makes a checkpoint due.
    let settings = ReplicaConfig { checkpoint_log_bytes: 200, ..ReplicaConfig::default() };
    for steps in 0..40 {
        let mut bench = Bench::with(settings);
        let session = bench.filled(8);
        for number in 9..12 {
            bench.request(1, number, &mutation(session, number + 1, make_directory(number)));
        }
        bench.turn();
        for _ in 0..steps {
            bench.step();
        }
        bench.shutdown();
        bench.run();
        assert_eq!(bench.notes.last(), Some(&Note::Ended), "after {steps} steps");
        let state = bench.member.replica().unwrap().state().clone();
        bench.reopen();
        assert!(matches!(bench.notes[0], Note::Opened { was_clean: true, .. }), "after {steps} steps");
        assert!(*bench.member.replica().unwrap().state() == state);
    }
}

/// A disk that failed during the last checkpoint left the stop waiting for ever.
#[test]
fn a_disk_that_fails_at_the_end_doesnt_hold_it_up() {
    for (write_errors, flush_errors) in [(10_000, 0), (0, 10_000)] {
        let mut bench = Bench::new();
        bench.filled(5);
        bench.disk.faults = Faults { write_errors, flush_errors, ..Faults::default() };
        bench.shutdown();
        bench.run();
        assert_eq!(bench.notes[bench.notes.len() - 2..], [Note::Fenced, Note::Ended]);
        assert!(bench.member.state().is_none());
        bench.request(1, 60, &Request::OpenSession { name: String::new() });
        assert_eq!(bench.answers(), [(60, Status::NotServing)]);
        bench.disk.faults = Faults::default();
        bench.disk.crash(&mut bench.memory);
        bench.reopen();
        assert_eq!(bench.member.replica().unwrap().committed(), CommitIndex(7));
    }
}

/// I6: what was acknowledged before a fence is there after it; nothing is acknowledged by it.
#[test]
fn a_fenced_log_answers_nothing() {
    let mut bench = Bench::new();
    let session = bench.filled(2);
    bench.disk.faults = Faults { flush_errors: 10_000, ..Faults::default() };
    bench.request(1, 50, &mutation(session, 4, make_directory(50)));
    bench.run();
    assert!(bench.sent.is_empty());
    assert!(bench.notes.contains(&Note::Fenced));
    bench.request(1, 51, &Request::Query(Query::GroupStatus));
    assert_eq!(bench.answers(), [(51, Status::NotServing)]);
    bench.shutdown();
    assert_eq!(bench.notes.last(), Some(&Note::Ended));
}

/// A stop that comes while the log is still being read ends at once.
#[test]
fn an_end_during_recovery() {
    let mut bench = Bench::new();
    bench.filled(10);
    bench.disk.kill(&mut bench.memory);
    bench.reopen();
    let state = bench.member.replica().unwrap().state().clone();
    for steps in 0..6 {
        bench.disk.kill(&mut bench.memory);
        bench.restart();
        for _ in 0..steps {
            bench.step();
        }
        if bench.member.replica().is_none() {
            bench.shutdown();
            assert_eq!(bench.notes, [Note::Ended], "after {steps} steps");
        }
    }
    bench.disk.kill(&mut bench.memory);
    bench.reopen();
    assert!(*bench.member.replica().unwrap().state() == state);
}

/// A page of the replica's may be larger than one of the log's: it travels in pieces, and comes back whole.
#[test]
fn pages_of_any_size_are_checkpointed() {
    for (checkpoint_page_bytes, directories) in [(100, 60), (4_000, 300), (50_000, 500), (1 << 20, 500)] {
        let settings = ReplicaConfig { checkpoint_page_bytes, ..ReplicaConfig::default() };
        let mut bench = Bench::with(settings);
        bench.filled(directories);
        let state = bench.member.replica().unwrap().state().clone();
        bench.shutdown();
        bench.run();
        bench.reopen();
        assert!(matches!(bench.notes[0], Note::Opened { was_clean: true, .. }));
        assert!(*bench.member.replica().unwrap().state() == state, "pages of {checkpoint_page_bytes}");
    }
}

/// Damage of what was durable is said, not guessed away (R29).
#[test]
fn damage_is_an_open_failure_by_name() {
    let mut bench = Bench::new();
    bench.filled(20);
    bench.pass(200 * Nanos::MILLISECOND);
    bench.disk.kill(&mut bench.memory);
    // The log's first batch.
    bench.disk.flip((1 << 20) + 200, 3);
    bench.reopen();
    let [Note::OpenFailed(failure)] = bench.notes[..] else { panic!("{:?}", bench.notes) };
    assert!(failure.to_string().contains("damaged"), "{failure}");
    bench.shutdown();
    assert_eq!(bench.notes.last(), Some(&Note::Ended));
}
