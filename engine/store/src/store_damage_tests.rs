//! The store on a medium that was damaged in one known place: what is lost is told, and only that is lost.

use journal::fake_disk::Faults;
use journal::{BlockIndex, OpenError, Place, SegmentIndex};
use wire::{Nanos, Status};

use crate::testing::{Answer, Bench, config, id};
use crate::{Event, ScrubControl};

const LENGTH: usize = 9000;

fn opened(segments: u64) -> Bench {
    let mut bench = Bench::format(1, config(segments));
    bench.run();
    assert!(bench.opened, "{:?}", bench.store.open_error());
    bench
}

fn put_all(bench: &mut Bench, numbers: std::ops::Range<u64>) {
    for number in numbers {
        assert_eq!(bench.put_now(number, LENGTH), Status::Ok);
    }
}

fn restart(bench: &mut Bench) {
    bench.disk.kill(&mut bench.memory);
    bench.reopen();
    bench.run();
}

/// Where the chunk's payload lies in the file. Each was put alone: its batch's descriptor is the block before.
fn payload(bench: &Bench, number: u64) -> u64 {
    let entry = bench.store.find(id(number)).expect("it was put");
    bench.store.device().geometry().offset(entry.place)
}

fn segment_start(bench: &Bench, segment: u32) -> u64 {
    let place = Place { segment: SegmentIndex(segment), block: BlockIndex(0) };
    bench.store.device().geometry().offset(place)
}

fn assert_truncated(bench: &mut Bench) {
    let length = bench.disk.length();
    let error = bench.open_error();
    let is_right = |length: u64, needed: u64| needed > length && needed.is_multiple_of(256 << 10);
    assert!(
        matches!(error, Some(OpenError::Truncated { length: told, needed }) if told == length && is_right(length, needed)),
        "{error:?}"
    );
}

/// One sector that couldn't be read cost, once the loss was accepted, every batch that was read ahead together with it: up to 256 KiB of
/// acknowledged chunks.
#[test]
fn one_bad_sector_costs_one_batch() {
    let mut bench = opened(64);
    put_all(&mut bench, 0..40);
    bench.wait(200 * Nanos::MILLISECOND);
    let sector = payload(&bench, 10) - 4096;
    bench.disk.break_sector(sector);
    restart(&mut bench);
    assert_eq!(bench.open_error(), Some(OpenError::Unreadable { offset: sector }));
    bench.config.accept_data_loss = true;
    restart(&mut bench);
    assert!(bench.opened, "{:?}", bench.store.open_error());
    let damaged = bench.store.damaged_batches();
    assert!(damaged.len() == 1 && damaged[0].first == damaged[0].last, "{damaged:?}");
    bench.assert_absent(10);
    for number in (0..10).chain(11..40) {
        bench.assert_has(number, LENGTH);
    }
}

/// A file that had lost its last segments opened as if nothing had happened: acknowledged chunks were gone without a word.
#[test]
fn a_file_that_lost_its_end_is_refused() {
    let mut bench = opened(64);
    put_all(&mut bench, 0..120);
    let last = bench.store.find(id(119)).unwrap().place.segment.0;
    assert!(last >= 4);
    let length = segment_start(&bench, last - 1);
    bench.disk.truncate(length);
    restart(&mut bench);
    assert_truncated(&mut bench);
    // Accepted: what is left is served, and the store goes on.
    bench.config.accept_data_loss = true;
    restart(&mut bench);
    assert!(bench.opened && bench.store.opened().unwrap().recovered_cut);
    bench.config.accept_data_loss = false;
    for _ in 0..2 {
        bench.assert_has(0, LENGTH);
        bench.assert_absent(119);
        put_all(&mut bench, 200..260);
        restart(&mut bench);
        assert!(bench.opened, "{:?}", bench.store.open_error());
    }
}

/// The checkpoint's image led behind the end of the file. Those segments became live and, once the file had grown again, free as well: a
/// panic, at every start.
#[test]
fn an_image_that_leads_behind_the_end_of_the_file_is_refused() {
    let mut bench = opened(64);
    put_all(&mut bench, 0..150);
    let mut lives = 0;
    let length = loop {
        lives += 1;
        assert!(lives < 40, "checkpoints and joints come to lie before the chunks");
        bench.event(Event::Shutdown);
        bench.run();
        bench.reopen();
        bench.run();
        let superblock = bench.store.device().superblock();
        let named = superblock.checkpoints.iter().flat_map(|checkpoint| checkpoint.segments.iter());
        let named = named.chain(superblock.joints.iter().map(|joint| &joint.segment)).max().unwrap().0;
        if named + 1 < bench.store.find(id(149)).unwrap().place.segment.0 {
            break segment_start(&bench, named + 1);
        }
        // Low segments become free, and are taken by the next life.
        if lives <= 6 {
            let numbers: Vec<_> = (20 * lives - 20..20 * lives).collect();
            assert_eq!(bench.delete_now(&numbers), Status::Ok);
        }
    };
    bench.event(Event::Shutdown);
    bench.run();
    bench.disk.truncate(length);
    bench.reopen();
    assert_truncated(&mut bench);
    bench.config.accept_data_loss = true;
    bench.reopen();
    bench.run();
    assert!(bench.opened && bench.store.opened().unwrap().recovered_cut);
    assert!(bench.store.chunks_lost() > 0, "and it is told");
    bench.assert_absent(149);
    // The file grows over the same segments again.
    put_all(&mut bench, 200..350);
    for number in 200..350 {
        bench.assert_has(number, LENGTH);
    }
}

/// Lives of puts, deletes and cleaning, some of which end in order and some not, the last one without a checkpoint behind it.
fn lived(seed: u64) -> (Bench, std::collections::BTreeSet<u64>) {
    let mut bench = Bench::format(seed, config(80));
    bench.run();
    let mut live = std::collections::BTreeSet::new();
    for life in 0..6 {
        let first = life * 100;
        put_all(&mut bench, first..first + 40 + seed * 7 % 30);
        live.extend(first..first + 40 + seed * 7 % 30);
        let dead: Vec<u64> =
            live.iter().copied().filter(|number| (number * 31 + seed + life).is_multiple_of(3)).collect();
        assert_eq!(bench.delete_now(&dead), Status::Ok);
        live.retain(|number| !dead.contains(number));
        bench.wait(Nanos::SECOND);
        if !(seed + life).is_multiple_of(3) && life < 5 {
            bench.event(Event::Shutdown);
            bench.run();
            bench.reopen();
            bench.run();
        } else if life < 5 {
            restart(&mut bench);
        }
        assert!(bench.opened, "{:?}", bench.store.open_error());
    }
    (bench, live)
}

/// A file that had lost segments which its superblock names was refused whatever the operator said: every chunk in what was left was lost with
/// them. Wherever it is cut, what lies before the cut is there, and stays there.
#[test]
fn whatever_is_left_of_a_file_is_opened_if_the_loss_is_accepted() {
    let (mut refused, mut without_checkpoints) = (0, 0);
    for seed in 0..4 {
        let (bench, live) = lived(seed);
        let places: Vec<_> = live
            .iter()
            .map(|number| (*number, bench.store.find(id(*number)).unwrap().place.segment.0))
            .collect();
        let segments = places.iter().map(|(_, segment)| *segment).max().unwrap() + 2;
        for cut in 0..segments {
            let length = segment_start(&bench, cut);
            let mut bench = Bench::with(
                crate::Store::open(bench.config, crate::testing::expected()),
                bench.disk.clone(),
                bench.config,
            );
            bench.disk.kill(&mut bench.memory);
            bench.disk.truncate(length);
            bench.reopen();
            bench.run();
            if !bench.opened {
                refused += 1;
                assert_truncated(&mut bench);
            }
            bench.config.accept_data_loss = true;
            // Killed again and again while it is recovered: another recovery finds as much.
            for steps in [5, 50, 500] {
                bench.disk.kill(&mut bench.memory);
                bench.reopen();
                for _ in 0..steps {
                    bench.step();
                }
                without_checkpoints += u64::from(bench.store.device().counters().checkpoints_damaged > 1);
            }
            bench.disk.kill(&mut bench.memory);
            bench.reopen();
            bench.run();
            assert!(bench.opened, "seed {seed}, cut {cut}: {:?}", bench.store.open_error());
            for again in 0..3 {
                for (number, segment) in &places {
                    if *segment < cut || bench.store.find(id(*number)).is_some() {
                        bench.assert_has(*number, LENGTH);
                    }
                }
                put_all(&mut bench, 2000 + again * 10..2010 + again * 10);
                // Without the operator's word.
                bench.config.accept_data_loss = false;
                restart(&mut bench);
                assert!(bench.opened, "seed {seed}, cut {cut}: {:?}", bench.store.open_error());
                for number in 2000..2010 + again * 10 {
                    bench.assert_has(number, LENGTH);
                }
            }
        }
    }
    assert!(refused > 50 && without_checkpoints > 10, "{refused} {without_checkpoints}");
}

/// A file seldom ends where a segment does. The segment that it ended in was dropped whole, up to 64 MiB of chunks that were there.
#[test]
fn every_chunk_before_the_end_of_a_shortened_file_is_kept() {
    let (mut kept_of_part, mut lost) = (0, 0);
    for seed in 0..3 {
        let (bench, live) = lived(seed);
        let geometry = bench.store.device().geometry();
        let ends: Vec<_> = live
            .iter()
            .map(|number| {
                let place = bench.store.find(id(*number)).unwrap().place;
                (*number, geometry.offset(place) + LENGTH.next_multiple_of(4096) as u64)
            })
            .collect();
        let last = ends.iter().map(|(_, end)| *end).max().unwrap();
        let blocks = (last - segment_start(&bench, 0)) / 4096;
        for cut in (0..blocks).step_by(29).map(|block| segment_start(&bench, 0) + block * 4096 + block % 3) {
            let mut bench = Bench::with(
                crate::Store::open(bench.config, crate::testing::expected()),
                bench.disk.clone(),
                bench.config,
            );
            bench.disk.kill(&mut bench.memory);
            bench.disk.truncate(cut);
            bench.config.accept_data_loss = true;
            // Killed while it is recovered: another recovery finds as much. The file may be whole again, and what is gone is damage then.
            let is_killed = cut % 3 == 0;
            if is_killed {
                bench.reopen();
                for _ in 0..cut / 4096 % 300 {
                    bench.step();
                }
                bench.disk.kill(&mut bench.memory);
            }
            bench.reopen();
            bench.run();
            assert!(bench.opened, "seed {seed}, cut {cut}: {:?}", bench.store.open_error());
            let start = cut - (cut - segment_start(&bench, 0)) % u64::from(crate::testing::SEGMENT_BYTES);
            for again in 0..2 {
                for (number, end) in &ends {
                    if *end <= cut {
                        bench.assert_has(*number, LENGTH);
                        kept_of_part += u64::from(*end > start);
                    } else {
                        match bench.get_now(*number) {
                            // Cleaning had moved it, and the place that it was moved from is left.
                            Answer::Bytes { bytes, .. } => {
                                assert!(bytes == crate::testing::content(*number, LENGTH));
                            }
                            Answer::Status(Status::NotFound) => lost += 1,
                            answer => assert!(
                                is_killed && answer == Answer::Status(Status::ChecksumMismatch),
                                "{answer:?}"
                            ),
                        }
                    }
                }
                put_all(&mut bench, 2000 + again * 10..2010 + again * 10);
                bench.event(Event::Shutdown);
                bench.run();
                // Without the operator's word.
                bench.config.accept_data_loss = false;
                bench.reopen();
                bench.run();
                assert!(bench.opened, "seed {seed}, cut {cut}: {:?}", bench.store.open_error());
            }
        }
    }
    assert!(kept_of_part > 100 && lost > 100, "{kept_of_part} {lost}");
}

/// Damage of both checkpoints was refused in the same way, although R29 lets a chunk store start.
#[test]
fn a_store_without_a_checkpoint_is_found_again() {
    let (mut bench, live) = lived(1);
    bench.event(Event::Shutdown);
    bench.run();
    for checkpoint in bench.store.device().superblock().checkpoints.clone() {
        bench.disk.flip(segment_start(&bench, checkpoint.segments[0].0) + 100, 1);
    }
    bench.reopen();
    bench.run();
    assert_eq!(bench.open_error(), Some(OpenError::CheckpointsDamaged));
    bench.config.accept_data_loss = true;
    bench.reopen();
    bench.run();
    assert!(bench.opened && bench.store.opened().unwrap().recovered_cut);
    bench.config.accept_data_loss = false;
    restart(&mut bench);
    assert!(bench.opened, "{:?}", bench.store.open_error());
    for number in live {
        bench.assert_has(number, LENGTH);
    }
}

/// The list of damaged chunks is limited. Behind its end a put that should have mended a chunk was answered `Ok` without a write.
#[test]
fn a_put_mends_damage_however_much_there_is() {
    let mut bench = opened(400);
    let count = 4_200;
    let last = count - 1;
    for number in 0..count {
        bench.put(number, 100);
        if number % 100 == 99 {
            bench.event(Event::Submit);
            bench.run();
        }
    }
    bench.answers.clear();
    for number in 0..count {
        let sector = payload(&bench, number);
        bench.disk.break_sector(sector);
    }
    // All but the last, so that the list is full when that one is found.
    for number in 0..count {
        assert_eq!(bench.get_now(number), Answer::Status(Status::StoreFailed));
    }
    assert_eq!(bench.store.metrics().chunks_damaged, count);
    let listed: Vec<_> = bench.store.damaged().collect();
    assert!(listed.len() == 4096 && !listed.contains(&id(last)));
    assert_eq!(bench.put_now(last, 100), Status::Ok);
    bench.assert_has(last, 100);
    assert_eq!(bench.put_now(0, 100), Status::Ok);
    bench.assert_has(0, 100);
    assert_eq!(bench.store.metrics().chunks_damaged, count - 2);
}

/// An error that passed left chunk and segment marked as damaged until the next start, and the segment was never cleaned.
#[test]
fn a_good_read_takes_back_what_a_failed_one_said() {
    let mut bench = opened(32);
    put_all(&mut bench, 0..3);
    let segment = bench.store.find(id(1)).unwrap().place.segment;
    let is_marked = |bench: &Bench| bench.store.device().segments().segment(segment).damaged;
    bench.disk.faults = Faults { read_errors: 10_000, ..Faults::default() };
    assert_eq!(bench.get_now(1), Answer::Status(Status::StoreFailed));
    assert!(is_marked(&bench) && bench.store.damaged().eq([id(1)]));
    bench.disk.faults = Faults::default();
    // A part proves nothing of the rest.
    assert!(matches!(bench.get_blocks(1, 0..1), Answer::Bytes { .. }));
    assert!(is_marked(&bench));
    bench.event(Event::Scrub(ScrubControl::Start { bytes_per_second: 1 << 30 }));
    bench.wait(Nanos::SECOND);
    assert!(!is_marked(&bench) && bench.store.damaged().next().is_none());
    assert_eq!(bench.store.metrics().chunks_damaged, 0);
}

/// A read of a copy that was deleted meanwhile failed: the dead chunk was called damaged, and its segment was never cleaned.
#[test]
fn a_copy_that_died_while_it_was_read_is_not_damage() {
    let mut told_too_late = 0;
    for seed in 0..40 {
        let mut bench = Bench::format(seed, config(32));
        bench.run();
        put_all(&mut bench, 0..2);
        bench.disk.reorders = true;
        bench.disk.faults = Faults { read_errors: 10_000, ..Faults::default() };
        let (get, delete) = (bench.token(), bench.token());
        bench.event(Event::Get { token: get, id: id(1), blocks: 0..0, whole: true });
        bench.event(Event::Delete { token: delete, ids: &[id(1)] });
        bench.event(Event::Submit);
        while !bench.answers.contains_key(&get) {
            let was_dead = bench.answers.contains_key(&delete);
            assert!(bench.step());
            if was_dead && bench.answers.contains_key(&get) {
                told_too_late += 1;
                assert!(bench.damaged.is_empty() && bench.store.metrics().chunks_damaged == 0);
            }
        }
    }
    assert!(told_too_late > 0);
}

/// Waiters were known by their chunk alone. A put that repeats the one behind a delete was answered when the one before the delete was
/// durable; after a crash the acknowledged chunk was gone.
#[test]
fn a_repeated_put_waits_for_the_put_that_it_repeats() {
    let mut bench = opened(32);
    let first = bench.put(1, LENGTH);
    bench.event(Event::Submit);
    let delete = bench.token();
    bench.event(Event::Delete { token: delete, ids: &[id(1)] });
    let second = bench.put(1, LENGTH);
    let repeats = bench.put(1, LENGTH);
    while !bench.answers.contains_key(&first) {
        assert!(bench.step());
    }
    assert!(!bench.answers.contains_key(&repeats), "what it repeats isn't durable");
    bench.run();
    for token in [first, delete, second, repeats] {
        assert_eq!(bench.answers.remove(&token), Some(Answer::Status(Status::Ok)));
    }
    bench.disk.crash(&mut bench.memory);
    bench.reopen();
    bench.run();
    bench.assert_has(1, LENGTH);
}
