//! Files of very many pieces: what one entry does, and what one page costs (counted, so that a noisy machine can't change it).

use wire::meta::{Compact, CopyRange};
use wire::{Layout, Version};

use super::*;
use crate::tree::VISITED;

/// A file made by appends of one chunk of 16 bytes each.
fn appended(bench: &mut Bench, path: &str, pieces: u32) -> Outcome {
    let mut last = bench.ok(&commit(path, ContentChange::Replace { size: 0 }, Extents::default()));
    for _ in 0..pieces {
        let extents = bench.extents(0, 1);
        last = bench.ok(&commit(path, ContentChange::Append, extents));
    }
    last
}

fn truncate(path: &str, size: u64) -> Operation {
    Operation::Truncate { place: place(path), size, precondition: Precondition::Any }
}

fn rows(bench: &Bench) -> (usize, usize) {
    let volume = bench.namespace.volumes.get(&VOLUME).unwrap();
    (volume.pieces.len(), volume.old_pieces.len())
}

/// Upkeep until nothing is left to do; each step is bounded.
fn settle(bench: &mut Bench) {
    let mut steps = 0;
    loop {
        let rules = UpkeepRules {
            now: Timestamp(1 << 40),
            reclaim_delay: 0,
            memory_short: true,
            log_short: false,
            hold_everything: false,
        };
        let mut plan = Vec::new();
        plan_upkeep(&bench.namespace, &rules, |_| None, &mut plan);
        if plan.is_empty() {
            break;
        }
        for change in plan {
            let before = rows(bench);
            let index = CommitIndex(bench.namespace.index().0 + 1);
            let moment = Moment { index, time: Timestamp(index.0.cast_signed()) };
            bench.namespace.apply(moment, vec![change]).unwrap();
            let after = rows(bench);
            let dropped = before.0 + before.1 - after.0 - after.1;
            assert!(dropped <= usize::try_from(STEP_ROWS_MAX).unwrap(), "{dropped} pieces in one entry");
        }
        steps += 1;
        assert!(steps < 100, "it comes to an end");
    }
    bench.namespace.audit().unwrap();
}

/// Holes cost nothing, so sizes may add up to more than 64 bits say. The sum stayed at its greatest then, and was too small for ever once they had gone.
#[test]
fn the_sum_of_sizes_is_right_again_when_what_was_too_large_has_gone() {
    let mut bench = Bench::new();
    let extents = bench.extents(0, 1);
    bench.ok(&commit("small", ContentChange::Replace { size: 16 }, extents));
    for path in ["a", "b", "c"] {
        bench.ok(&commit(path, ContentChange::Replace { size: 0 }, Extents::default()));
        bench.ok(&truncate(path, i64::MAX.cast_unsigned()));
    }
    for path in ["a", "b", "c"] {
        bench.ok(&truncate(path, 0));
    }
    assert_eq!(bench.namespace.volumes.get(&VOLUME).unwrap().summary.usage.logical_bytes, 16);
    bench.namespace.audit().unwrap();
}

/// `truncate` to one byte ended every piece in one entry: a million of them took seconds, in which nobody got an answer.
#[test]
fn a_cut_takes_as_long_as_what_stays() {
    let mut bench = Bench::new();
    let before = appended(&mut bench, "f", 3000);
    bench.ok(&truncate("f", 17));
    let (live, old) = rows(&bench);
    assert_eq!((live, old), (3002, 0), "what stays is copied, the rest is the past's as it is");
    let entry = bench.lookup(place("f")).unwrap();
    assert_eq!((entry.attributes.size, entry.attributes.stored_bytes), (17, 17));
    assert_eq!(entry.page.extents.roots.len(), 2);
    let past = Query::ReadExtents {
        volume: VOLUME,
        inode: before.inode,
        version: before.version,
        layout: Layout(0),
        offset: 0,
        roots: 8192,
    };
    let Ok(Answer::Extents(page)) = bench.namespace.query(&past, 0) else { panic!() };
    assert_eq!(page.extents.roots.len(), 3000);
    bench.namespace.audit().unwrap();
    settle(&mut bench);
    assert_eq!(rows(&bench), (2, 0));
    // And a cut of little does little, whatever stays.
    appended(&mut bench, "g", 3000);
    bench.ok(&truncate("g", 16 * 2999 + 3));
    assert_eq!(rows(&bench), (3002, 1));
    settle(&mut bench);
    assert_eq!(rows(&bench), (3002, 0));
}

/// Each page of an old version looked through every piece that ever ended: reading it was quadratic.
#[test]
fn pages_of_the_past_are_linear() {
    let visits = |pieces: u32| -> (u64, u64) {
        let mut bench = Bench::new();
        let first = appended(&mut bench, "f", pieces);
        for round in 0..3 {
            for piece in (0..u64::from(pieces)).filter(|piece| piece % 3 <= round) {
                let extents = bench.extents(piece * 16, 1);
                bench.ok(&commit("f", ContentChange::Write, extents));
            }
        }
        let last = bench.lookup(place("f")).unwrap().attributes.version;
        bench.ok(&truncate("f", 16 * u64::from(pieces) + 1));
        let read = |version: Version| {
            VISITED.with(|visited| visited.set(0));
            let mut offset = 0;
            loop {
                let (inode, layout) = (first.inode, Layout(0));
                let page = Query::ReadExtents { volume: VOLUME, inode, version, layout, offset, roots: 16 };
                let Ok(Answer::Extents(page)) = bench.namespace.query(&page, 0) else { panic!() };
                offset += page.extents.runs.iter().map(|run| run.length).sum::<u64>();
                if page.end {
                    break;
                }
            }
            assert_eq!(offset, 16 * u64::from(pieces));
            VISITED.with(std::cell::Cell::get)
        };
        (read(first.version), read(last))
    };
    let (few, many) = (visits(600), visits(2400));
    // Four times the pages, and a little more for deeper trees.
    assert!(many.0 < few.0 * 5 && many.1 < few.1 * 5, "{few:?} and {many:?}");
}

/// R26: the version stays and can be the base of an edit; the old layout is read as long as any past.
#[test]
fn a_compaction_changes_the_layout_alone() {
    let mut bench = Bench::new();
    let before = appended(&mut bench, "f", 100);
    let was = bench.lookup(place("f")).unwrap();
    let compact = |version, layout, extents: &Extents| {
        let (layout, extents, map) = (Layout(layout), extents.clone(), MapNumber(5));
        Operation::Compact(Compact { place: place("f"), version, layout, extents, map })
    };
    let beyond = bench.extents(8, 100);
    bench.refused(&compact(before.version, 0, &beyond), Status::BadRequest);
    bench.refused(&compact(before.version, 0, &Extents::default()), Status::BadRequest);
    let part = bench.extents(160, 10);
    let refused = bench.refused(&compact(before.version, 1, &part), Status::VersionConflict);
    assert_eq!(refused.version, before.version);
    bench.refused(&compact(Version(before.version.0 - 1), 0, &part), Status::VersionConflict);
    let done = bench.ok(&compact(before.version, 0, &part));
    assert_eq!((done.version, done.size), (before.version, 1600));
    let whole = bench.extents(0, 100);
    bench.refused(&compact(before.version, 0, &whole), Status::VersionConflict);
    bench.ok(&compact(before.version, 1, &whole));
    bench.refused(&compact(before.version, 2, &whole), Status::BadRequest); // R23: ids that were used
    let now = bench.lookup(place("f")).unwrap();
    assert_eq!(now.attributes, wire::meta::Attributes { layout: Layout(2), ..was.attributes });
    assert_eq!(now.page.extents, whole);
    for (layout, runs) in [(0, 1), (1, 3), (2, 1)] {
        let (inode, version) = (before.inode, before.version);
        let layout = Layout(layout);
        let page = Query::ReadExtents { volume: VOLUME, inode, version, layout, offset: 0, roots: 8192 };
        let Ok(Answer::Extents(page)) = bench.namespace.query(&page, 0) else { panic!("{layout:?}") };
        assert_eq!(page.extents.runs.len(), runs, "{layout:?}");
    }
    bench.namespace.audit().unwrap();
    settle(&mut bench);
    assert!(bench.namespace.has_version(VOLUME, before.inode, before.version));
    // An edit of the version that was compacted is one of the version that everybody knows.
    let extents = bench.extents(0, 1);
    let Operation::Commit(edit) = commit("f", ContentChange::Write, extents) else { panic!() };
    let precondition = Precondition::Version(before.version);
    bench.ok(&Operation::Commit(Commit { precondition, ..edit }));
    assert_eq!(bench.lookup(place("f")).unwrap().attributes.layout, Layout(0));
    settle(&mut bench);
}

/// The figures of docs/performance.md: `cargo test --release -p namespace large -- --ignored --nocapture` prints them for the largest file there is.
#[test]
#[ignore = "a measurement: a million appends"]
#[expect(clippy::disallowed_methods, reason = "measures; the crate itself reads no clock")]
fn work_on_the_largest_file() {
    let pieces = u32::try_from(FILE_EXTENTS_MAX).unwrap() - 1;
    let mut bench = Bench::new();
    let measure = |bench: &mut Bench, what: &str, operation: &Operation| {
        let start = std::time::Instant::now();
        bench.ok(operation);
        println!("{what}: {:.1} ms", start.elapsed().as_secs_f64() * 1e3);
    };
    let last = appended(&mut bench, "f", pieces);
    let size = 16 * u64::from(pieces);
    let copy = |whole, length, target: &str| {
        Operation::CopyRange(CopyRange {
            source: place("f"),
            source_version: Version(0),
            source_offset: 0,
            length,
            target: place(target),
            target_offset: 0,
            whole,
            precondition: Precondition::Any,
        })
    };
    measure(&mut bench, "copy of the whole", &copy(true, u64::MAX, "g"));
    measure(&mut bench, "copy of a range that is half of it", &copy(false, size / 2, "h"));
    measure(&mut bench, "truncate to one byte", &truncate("g", 1));
    measure(&mut bench, "truncate to the half", &truncate("f", size / 2));
    let overwrite = bench.extents(0, 8000);
    measure(&mut bench, "8,000 chunks over as many pieces", &commit("f", ContentChange::Write, overwrite));
    bench.ok(&Operation::Remove {
        place: place("h"),
        kind: RemoveKind::File,
        precondition: Precondition::Any,
    });
    println!("versions up to {}", last.version);
}

/// R17: a removal makes the state larger as long as its past is kept; a log that runs out of space can't wait for slow readers.
#[test]
fn a_short_log_drops_what_only_readers_want() {
    let mut bench = Bench::new();
    bench.file("f");
    bench.ok(&Operation::Remove {
        place: place("f"),
        kind: RemoveKind::File,
        precondition: Precondition::Any,
    });
    let planned = |log_short| {
        let (now, reclaim_delay) = (Timestamp(100), 1000);
        let rules =
            UpkeepRules { now, reclaim_delay, memory_short: false, log_short, hold_everything: false };
        let mut plan = Vec::new();
        plan_upkeep(&bench.namespace, &rules, |_| None, &mut plan);
        plan.len()
    };
    assert_eq!((planned(false), planned(true)), (0, 1));
}
