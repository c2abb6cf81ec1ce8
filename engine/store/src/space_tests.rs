//! A store that is full: every request has its answer soon, deletes always work, and restarts use nothing up.

use journal::fake_disk::Random;
use wire::{Nanos, Status};

use crate::testing::{Answer, Bench, SEGMENT_BYTES, config, id};
use crate::{Event, StoreConfig};

const LENGTH: usize = 12_000;
/// A put that no space is found for is told so within this, deletes of a store without a free segment included.
const ANSWER_WITHIN: u64 = 5 * Nanos::SECOND;

/// Puts until there is no space; returns what was stored. `numbers` never repeat.
fn fill(bench: &mut Bench, numbers: &mut std::ops::RangeFrom<u64>, at_once: usize) -> Vec<u64> {
    let mut stored = Vec::new();
    let mut refused_since = None;
    loop {
        let puts: Vec<_> =
            numbers.by_ref().take(at_once).map(|number| (number, bench.put(number, LENGTH))).collect();
        bench.event(Event::Submit);
        bench.run();
        let mut statuses = Vec::new();
        for (number, token) in puts {
            let status = answer(bench, token);
            if status == Status::Ok {
                stored.push(number);
            }
            statuses.push(status);
        }
        if statuses.contains(&Status::Ok) {
            refused_since = None;
        } else if statuses.iter().all(|status| *status == Status::NoSpace) {
            return stored;
        } else {
            let since = *refused_since.get_or_insert(bench.now);
            assert!(bench.now.since(since) < ANSWER_WITHIN, "busy without end: {:?}", bench.store.metrics());
            bench.wait(50 * Nanos::MILLISECOND);
        }
    }
}

/// The answer, for which time may pass.
fn answer(bench: &mut Bench, token: u64) -> Status {
    let end = bench.now.after(ANSWER_WITHIN);
    loop {
        match bench.answers.remove(&token) {
            Some(Answer::Status(status)) => return status,
            Some(other) => panic!("{other:?}"),
            None if bench.now >= end => {
                panic!("no answer within {ANSWER_WITHIN} ns: {:?}", bench.store.metrics())
            }
            None => bench.wait(50 * Nanos::MILLISECOND),
        }
    }
}

fn delete(bench: &mut Bench, numbers: &[u64]) -> Status {
    let ids: Vec<_> = numbers.iter().map(|number| id(*number)).collect();
    let token = bench.token();
    bench.event(Event::Delete { token, ids: &ids });
    bench.event(Event::Submit);
    bench.run();
    answer(bench, token)
}

fn reopened(bench: &mut Bench) {
    bench.reopen();
    bench.run();
    assert!(bench.opened, "{:?}", bench.store.open_error());
}

/// Each start takes a fresh segment. A nearly full store that crashed often enough was without one, its tails nearly empty, and then neither a delete
/// nor cleaning could be written: `NoSpace` for ever. And a move that waited for a segment let every put be `Busy`, for which clients waited minutes.
#[test]
fn restarts_use_no_store_up() {
    for seed in 0..24 {
        let mut random = Random::new(seed);
        let segments = 10 + random.below(20);
        let mut bench = Bench::format(seed, config(segments));
        bench.disk.reorders = true;
        bench.run();
        let mut numbers = 0..;
        let mut stored = fill(&mut bench, &mut numbers, 8);
        let first = stored.len();
        // Holes in every segment, so that there is something to move.
        let (gone, kept) = stored.iter().partition::<Vec<u64>, _>(|number| *number % 4 == 0);
        assert_eq!(delete(&mut bench, &gone), Status::Ok);
        stored = kept;
        for _ in 0..6 * segments {
            // A life stores or deletes something at once, and ends within it, or within the cleaning that begins.
            let token = bench.token();
            if random.chance(20) && stored.len() > first / 2 {
                let at = usize::try_from(random.below(stored.len() as u64)).unwrap();
                bench.event(Event::Delete { token, ids: &[id(stored.swap_remove(at))] });
            } else {
                stored.extend(numbers.next());
                bench.put(*stored.last().unwrap(), LENGTH);
            }
            bench.event(Event::Submit);
            for _ in 0..random.below([20, 80, 200][usize::try_from(seed % 3).unwrap()]) {
                bench.step();
            }
            bench.disk.crash(&mut bench.memory);
            reopened(&mut bench);
        }
        // What was cut off is there or not; one delete frees it either way.
        for numbers in stored.chunks(7) {
            let status = delete(&mut bench, numbers);
            assert_eq!(status, Status::Ok, "seed {seed}: {:?}", bench.store.metrics());
        }
        bench.wait(10 * Nanos::SECOND);
        let again = fill(&mut bench, &mut numbers, 8);
        assert!(
            again.len() * 4 >= first * 3,
            "seed {seed}: {first} chunks at first, {} now: {:?}",
            again.len(),
            bench.store.metrics()
        );
        println!("seed {seed}: {segments} segments, {first} chunks at first, {} again", again.len());
    }
}

/// Puts were taken in on the strength of segments that the file system then didn't give, and waited for ever.
#[test]
fn puts_that_the_file_system_has_no_room_for_are_answered() {
    for seed in 0..8 {
        let mut bench = Bench::format(seed, StoreConfig { prezero_bytes: 0, ..config(60) });
        bench.run();
        bench.disk.capacity = (1 << 20) + (9 + seed) * u64::from(SEGMENT_BYTES);
        let mut numbers = 0..;
        let stored = fill(&mut bench, &mut numbers, 200);
        assert!(stored.len() > 20, "seed {seed}: {} puts", stored.len());
        for round in 0..3 {
            bench.disk.crash(&mut bench.memory);
            reopened(&mut bench);
            bench.wait(200 * Nanos::MILLISECOND);
            fill(&mut bench, &mut numbers, 50);
            assert_eq!(
                delete(&mut bench, &stored[round * 5..][..5]),
                Status::Ok,
                "seed {seed} round {round}"
            );
        }
    }
}

/// A store that is full said so nowhere, and its numbers hid why: nothing was kept, and more segments were free than the file had.
#[test]
fn a_full_store_says_so_until_it_takes_puts_again() {
    for blocked in [false, true] {
        let mut bench = Bench::format(5, config(24));
        if blocked {
            bench.disk.capacity = (1 << 20) + 14 * u64::from(SEGMENT_BYTES);
        }
        bench.run();
        let fresh = bench.store.metrics();
        assert!(
            fresh.segments_empty < fresh.segments_allocated && fresh.segments_allocated < 24,
            "{fresh:?}"
        );
        let mut numbers = 0..;
        let stored = fill(&mut bench, &mut numbers, 8);
        let full = bench.store.metrics();
        assert!(bench.store.is_full());
        assert_eq!(bench.store.device().segments().is_growth_blocked(), blocked);
        assert_eq!(full.available_bytes, 0, "{full:?}");
        assert!(full.reserve_bytes >= 3 * u64::from(SEGMENT_BYTES), "{full:?}");
        // What `catena status` tells the two causes apart by.
        let growth = full.capacity_bytes - full.segments_allocated * u64::from(SEGMENT_BYTES);
        let left = full.segments_empty * u64::from(SEGMENT_BYTES) + growth;
        assert_eq!(left > full.reserve_bytes, blocked, "{full:?}");
        assert_eq!(delete(&mut bench, &stored), Status::Ok);
        bench.wait(10 * Nanos::SECOND);
        assert_eq!(bench.put_now(numbers.next().expect("endless"), LENGTH), Status::Ok);
        assert!(!bench.store.is_full(), "{:?}", bench.store.metrics());
    }
}

/// Cleaning took as much space as was free when it began, and puts beside it took it, too: its moves then waited for a segment that only they could
/// have emptied, and deletes waited behind them, for ever.
#[test]
fn cleaning_beside_puts_comes_to_an_end() {
    let segment_bytes = 2 * SEGMENT_BYTES;
    let capacity_bytes = (1 << 20) + 78 * u64::from(segment_bytes);
    let mut bench = Bench::format_with(3, StoreConfig { capacity_bytes, ..config(78) }, segment_bytes);
    bench.disk.reorders = true;
    bench.run();
    // Chunks of a block: more of them lie in a segment than are moved at once.
    let stored = press(&mut bench, 4_000);
    for gone in stored.chunks(1_000) {
        assert_eq!(delete(&mut bench, gone), Status::Ok, "{:?}", bench.store.metrics());
    }
    bench.wait(10 * Nanos::SECOND);
    assert_eq!(bench.store.metrics().live_bytes, 0);
}

/// Keeps puts coming beside whatever else goes on, until there is no space; returns what was stored.
fn press(bench: &mut Bench, length: usize) -> Vec<u64> {
    let mut numbers = 0..;
    let (mut stored, mut refused) = (Vec::new(), 0);
    let mut waiting: Vec<(u64, u64, Nanos)> = Vec::new();
    while refused < 200 {
        while waiting.len() < 64 {
            let number = numbers.next().expect("endless");
            waiting.push((number, bench.put(number, length), bench.now));
        }
        bench.event(Event::Submit);
        let is_idle = !bench.step();
        let pause = if is_idle { 20 * Nanos::MILLISECOND } else { 50 * Nanos::MICROSECOND };
        bench.now = bench.now.after(pause);
        if bench.armed.is_some_and(|at| at <= bench.now) {
            bench.armed = None;
            bench.event(Event::Tick);
        }
        waiting.retain(|(number, token, since)| {
            match bench.answers.remove(token) {
                None => {
                    assert!(
                        bench.now.since(*since) < ANSWER_WITHIN,
                        "no answer: {:?}",
                        bench.store.metrics()
                    );
                    return true;
                }
                Some(Answer::Status(Status::Ok)) => {
                    stored.push(*number);
                    refused = 0;
                }
                Some(Answer::Status(status)) => refused += u32::from(status == Status::NoSpace),
                Some(other) => panic!("{other:?}"),
            }
            false
        });
    }
    stored
}
