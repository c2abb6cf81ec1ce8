//! The store on a fake disk: each test one property.

use journal::fake_disk::DiskCounters;
use wire::checksum::{BlockHasher, verify_range};
use wire::{ClusterId, Nanos, Status};

use crate::testing::{Answer, Bench, config, content, expected, id, root_of};
use crate::{Event, ScrubControl, StoreConfig};

fn opened(segments: u64) -> Bench {
    let mut bench = Bench::format(1, config(segments));
    bench.run();
    assert!(bench.opened, "{:?}", bench.store.open_error());
    bench
}

#[test]
fn what_was_put_is_returned_after_every_kind_of_stop() {
    let mut bench = opened(32);
    let lengths = [1, 4095, 4096, 4097, 20_000, 65_536, 100_000];
    for (number, length) in (0..).zip(lengths) {
        assert_eq!(bench.put_now(number, length), Status::Ok);
    }
    for round in 0..3 {
        for (number, length) in (0..).zip(lengths) {
            bench.assert_has(number, length);
        }
        bench.assert_absent(99);
        match round {
            0 => bench.disk.crash(&mut bench.memory),
            1 => bench.disk.kill(&mut bench.memory),
            _ => {
                bench.event(Event::Shutdown);
                bench.run();
                assert!(bench.shut_down);
            }
        }
        bench.reopen();
        bench.run();
        assert!(bench.opened, "{:?}", bench.store.open_error());
        assert_eq!(bench.store.opened().unwrap().incarnation.0 >> 16, round + 2);
    }
    assert!(bench.store.opened().unwrap().was_clean);
    for (number, length) in (0..).zip(lengths) {
        bench.assert_has(number, length);
    }
}

#[test]
fn a_part_comes_with_its_proof() {
    let mut bench = opened(32);
    let (number, length) = (5, 100_000);
    assert_eq!(bench.put_now(number, length), Status::Ok);
    let whole = content(number, length);
    let root = root_of(id(number), &whole);
    for blocks in [0..1, 3..7, 24..25, 20..99, 7..8, 7..8] {
        let Answer::Bytes { bytes, first_block, length: told, root: told_root, proof } =
            bench.get_blocks(number, blocks.clone())
        else {
            panic!("{blocks:?}")
        };
        let (first, last) = (blocks.start as usize, (blocks.end as usize).min(25));
        assert_eq!((first_block, told as usize, told_root), (blocks.start, length, root));
        assert!(bytes == whole[first * 4096..(last * 4096).min(length)]);
        let hasher = BlockHasher::new(ClusterId([3; 16]), id(number));
        let mut leaves = vec![0; last - first];
        hasher.leaves(first, &bytes, &mut leaves);
        assert!(verify_range(length, first..last, &leaves, &proof, root));
    }
    let metrics = bench.store.metrics();
    assert_eq!((metrics.leaf_misses, metrics.leaf_hits), (1, 5));
    assert_eq!(bench.get_blocks(number, 25..26), Answer::Status(Status::BadRequest));
}

/// Issue 2, §4: flushes and disk bytes per durable 4 KiB create.
#[test]
fn flushes_and_bytes_per_create() {
    for (in_flight, creates) in [(1_u64, 256_u64), (64, 4096)] {
        let mut bench = Bench::format_with(1, StoreConfig { capacity_bytes: 2 << 30, ..config(1) }, 64 << 20);
        bench.run();
        let before = bench.disk.counters;
        let mut number = 0;
        while number < creates {
            let tokens: Vec<_> = (number..number + in_flight).map(|number| bench.put(number, 4096)).collect();
            number += in_flight;
            bench.event(Event::Submit);
            bench.run();
            assert!(
                tokens.iter().all(|token| bench.answers.remove(token) == Some(Answer::Status(Status::Ok)))
            );
        }
        let flushes = bench.disk.counters.flushes - before.flushes;
        let bytes = bench.disk.counters.write_bytes - before.write_bytes;
        println!(
            "{in_flight} in flight: {flushes} flushes, {bytes} bytes, {} writes for {creates} creates: {:.4} flushes, {} bytes each",
            bench.disk.counters.writes - before.writes,
            f64::from(u32::try_from(flushes).unwrap()) / f64::from(u32::try_from(creates).unwrap()),
            bytes / creates
        );
        // One batch, one gathered write, one flush for what is in flight; a descriptor block beside the payloads.
        let batches = creates / in_flight;
        assert_eq!(flushes, batches);
        assert_eq!(bench.disk.counters.writes - before.writes, batches);
        // 64 want a greater reach than an idle log promises: one empty batch more says so.
        let raised = if in_flight == 1 { 0 } else { 4096 };
        assert_eq!(bytes, batches * 4096 + creates * 4096 + raised);
    }
}

/// Issue 2, §4: a restart reads superblocks, checkpoint, descriptors behind it, payloads only beyond `durable_upto`, and after a crash
/// the space in which a later batch could lie: the segment's rest, and 136 KiB of the next where little was in flight.
#[test]
fn bytes_read_by_a_restart() {
    let mut bench = opened(256);
    for number in 0..500 {
        assert_eq!(bench.put_now(number, 10_000), Status::Ok);
    }
    bench.event(Event::Shutdown);
    bench.run();
    bench.disk.crash(&mut bench.memory);
    bench.disk.counters = DiskCounters::default();
    bench.reopen();
    bench.run();
    let superblocks = 4 * 8192;
    let segments = u64::from(bench.store.device().segments().allocated());
    // Two pages, a table of 16 bytes a segment and an index of 40 bytes a chunk, each read as one block and then whole.
    let checkpoint = 4096
        + (64 + 16 * segments).next_multiple_of(4096)
        + 4096
        + (64_u64 + 40 * 500).next_multiple_of(4096);
    println!("clean restart: {} bytes read", bench.disk.counters.read_bytes);
    assert!(bench.disk.counters.read_bytes <= superblocks + checkpoint);

    let batches = 40;
    for number in 1000..1000 + batches {
        assert_eq!(bench.put_now(number, 10_000), Status::Ok);
    }
    let rest = bench.rest_of_segment();
    bench.disk.crash(&mut bench.memory);
    bench.disk.counters = DiskCounters::default();
    bench.reopen();
    bench.run();
    let counters = bench.store.device().counters();
    // The last batch alone is beyond `durable_upto`: its three blocks.
    assert_eq!(counters.tail_payload_bytes, 3 * 4096);
    assert_eq!(counters.replayed_descriptor_bytes, batches * 4096);
    // A descriptor is looked for at most twice a batch where the log changes segments.
    let log = batches * 4096 + counters.tail_payload_bytes + counters.search_bytes + 8 * 4096;
    println!(
        "restart after a crash: {} bytes read, of these descriptors {}, payloads {}, search {}",
        bench.disk.counters.read_bytes,
        counters.replayed_descriptor_bytes,
        counters.tail_payload_bytes,
        counters.search_bytes
    );
    assert!(bench.disk.counters.read_bytes <= superblocks + checkpoint + log);
    assert!(counters.search_bytes <= rest + (2 * u64::from(journal::REACH_BLOCKS_MIN) + 2) * 4096);
}

/// A search goes to the segment's end, and in the next one as far as the last batch promised that others may be in flight.
#[test]
fn a_search_is_as_long_as_what_was_in_flight() {
    let settings = StoreConfig { capacity_bytes: 1 << 30, ..config(1) };
    let mut bench = Bench::format_with(1, settings, 64 << 20);
    bench.run();
    let restart = |bench: &mut Bench| {
        let rest = bench.rest_of_segment();
        bench.disk.crash(&mut bench.memory);
        bench.reopen();
        bench.run();
        let searched = bench.store.device().counters().search_bytes;
        // Its first block was read as the next batch's place.
        assert!(searched + 4096 >= rest, "all of the segment's rest: {searched} of {rest}");
        searched.saturating_sub(rest)
    };
    let little = (2 * u64::from(journal::REACH_BLOCKS_MIN) + 2) * 4096;
    assert!(restart(&mut bench) <= little, "nothing was ever written");
    for number in 0..20 {
        assert_eq!(bench.put_now(number, 1 << 20), Status::Ok);
    }
    let busy = restart(&mut bench);
    assert!(busy <= 33 << 20, "a window of batches of 1 MiB: {busy}");
    for number in 20..40 {
        assert_eq!(bench.put_now(number, 1 << 20), Status::Ok);
    }
    bench.wait(Nanos::SECOND);
    let idle = restart(&mut bench);
    assert!(idle <= little, "an empty batch says that little follows: {idle}");
    for number in 0..40 {
        bench.assert_has(number, 1 << 20);
    }
}

/// R29: a rotten batch is damage if any batch on the disk says that it was durable, wherever it lies; and recovery, which looks as far as the
/// last good batch promised, finds it. The oracle reads the whole disk.
#[test]
fn whoever_says_that_a_batch_was_durable_is_found() {
    let (mut told, mut untold) = (0, 0);
    for seed in 0..100 {
        let mut random = journal::fake_disk::Random::new(seed);
        let segment_bytes = 1 << (17 + random.below(6));
        let settings = StoreConfig { capacity_bytes: (1 << 20) + 12 * u64::from(segment_bytes), ..config(1) };
        let mut bench = Bench::format_with(seed, settings, segment_bytes);
        bench.disk.reorders = true;
        bench.run();
        let longest = u64::from(segment_bytes) / 4;
        let length = |random: &mut journal::fake_disk::Random| {
            let most = if random.chance(50) { 8192 } else { longest };
            usize::try_from(1 + random.below(most)).unwrap()
        };
        let before = random.below(12);
        for number in 0..before {
            bench.put_now(number, length(&mut random));
            if random.chance(10) {
                bench.wait(Nanos::SECOND);
            }
        }
        // One that is acknowledged while others are in flight behind it.
        let last = bench.put(before, length(&mut random));
        bench.event(Event::Submit);
        for number in 100..106 {
            bench.put(number, length(&mut random));
            bench.event(Event::Submit);
            for _ in 0..random.below(4) {
                bench.step();
            }
        }
        while !bench.answers.contains_key(&last) && bench.step() {}
        for _ in 0..random.below(4) {
            bench.step();
        }
        bench.disk.crash(&mut bench.memory);
        let mut found = batches_on(&bench);
        found.sort_by_key(|header| header.sequence);
        let back = usize::try_from(random.below(4)).unwrap();
        let Some(rotten) = found.iter().rev().nth(back) else { continue };
        for bit in 0..8 {
            bench.disk.flip(rotten.offset + 40, bit);
        }
        let is_told = found.iter().any(|header| header.durable_upto >= rotten.sequence);
        bench.reopen();
        bench.run();
        assert!(bench.opened, "seed {seed}");
        assert_eq!(!bench.store.damaged_batches().is_empty(), is_told, "seed {seed}: {rotten:?}");
        if is_told { told += 1 } else { untold += 1 }
    }
    println!("{told} told, {untold} not");
    assert!(told > 20 && untold > 20, "{told} {untold}");
}

/// The batches of the present life that are anywhere on the disk, in order of their places.
fn batches_on(bench: &Bench) -> Vec<journal::batch::BatchHeader> {
    use journal::batch::BatchHeader;
    let incarnation = bench.store.device().superblock().incarnation;
    let blocks = (journal::DATA_START..bench.disk.length()).step_by(4096);
    blocks
        .filter_map(|offset| {
            let bytes = BatchHeader::peek(journal::Kind::Chunks, &bench.disk.peek(offset, 4096))?;
            let descriptor = bench.disk.peek(offset, bytes as usize);
            let (header, _) = BatchHeader::decode(journal::Kind::Chunks, 0x5eed, &descriptor)?;
            (header.offset == offset && header.incarnation == incarnation).then_some(header)
        })
        .collect()
}

/// A read that failed during recovery made a durable batch count as damaged, or cut the log: what was there was lost to a passing error.
#[test]
fn a_device_that_fails_during_recovery_loses_nothing() {
    let mut bench = opened(64);
    for number in 0..30 {
        assert_eq!(bench.put_now(number, 10_000), Status::Ok);
    }
    bench.event(Event::Shutdown);
    bench.run();
    bench.reopen();
    bench.run();
    for number in 30..60 {
        assert_eq!(bench.put_now(number, 10_000), Status::Ok);
    }
    let mut failed = 0;
    for steps in 0.. {
        bench.disk.kill(&mut bench.memory);
        bench.reopen();
        for _ in 0..steps {
            bench.step();
        }
        bench.disk.faults.read_errors = 10_000;
        bench.run();
        bench.disk.faults.read_errors = 0;
        if bench.opened {
            break;
        }
        failed += 1;
        assert!(
            matches!(bench.store.open_error(), Some(journal::OpenError::Unreadable { .. })),
            "{steps}: {:?}",
            bench.store.open_error()
        );
        bench.reopen();
        bench.run();
        assert!(bench.opened && bench.store.damaged_batches().is_empty(), "{steps}");
        assert!(!bench.store.opened().unwrap().recovered_cut, "{steps}");
        for number in 0..60 {
            bench.assert_has(number, 10_000);
        }
    }
    assert!(failed > 30, "superblocks, checkpoint, descriptors and payloads: {failed}");
    // One that fails now and then is asked again.
    bench.disk.kill(&mut bench.memory);
    bench.disk.faults.read_errors = 500;
    bench.reopen();
    bench.run();
    assert!(bench.opened, "{:?}", bench.store.open_error());
    assert!(bench.store.damaged_batches().is_empty());
}

/// R34: nothing is formatted because it is missing, and nothing foreign is taken for ours.
#[test]
fn what_is_missing_foreign_or_newer_is_named() {
    use journal::OpenError;
    let mut bench = opened(32);
    assert_eq!(bench.put_now(1, 100), Status::Ok);
    bench.disk.kill(&mut bench.memory);
    let good = bench.disk.clone();
    let mut check = |change: &dyn Fn(&mut Bench), expected_error: Option<OpenError>| {
        bench.disk = good.clone();
        bench.config = config(32);
        change(&mut bench);
        bench.reopen();
        assert_eq!(bench.open_error(), expected_error);
    };
    let superblock = |bench: &mut Bench, copy: u64, change: &dyn Fn(&mut Vec<u8>)| {
        let at = copy * (256 << 10);
        let old = bench.disk.peek(at, 8192);
        let mut new = old.clone();
        change(&mut new);
        for (i, (old, new)) in (0..).zip(old.iter().zip(&new)) {
            for bit in 0..8 {
                if (old ^ new) >> bit & 1 == 1 {
                    bench.disk.flip(at + i, bit);
                }
            }
        }
    };
    check(&|_| {}, None);
    check(&|bench| bench.disk = journal::fake_disk::FakeDisk::new(1), Some(OpenError::NotFormatted));
    let all = |change: &'static dyn Fn(&mut Vec<u8>)| {
        move |bench: &mut Bench| (0..4).for_each(|copy| superblock(bench, copy, change))
    };
    check(&all(&|bytes| bytes.fill(0)), Some(OpenError::NotFormatted));
    check(&all(&|bytes| bytes.fill(7)), Some(OpenError::Foreign));
    check(&all(&|bytes| bytes[100] ^= 1), Some(OpenError::SuperblocksDamaged));
    // Three damaged copies are borne.
    check(&|bench| (0..3).for_each(|copy| superblock(bench, copy, &|bytes| bytes[100] ^= 1)), None);
    let newer = |bytes: &mut Vec<u8>, copy: u64| {
        bytes[16] = 9;
        let checksum = xxhash_rust::xxh3::xxh3_64_with_seed(&bytes[16..], copy);
        bytes[8..16].copy_from_slice(&checksum.to_le_bytes());
    };
    check(&|bench| superblock(bench, 2, &|bytes| newer(bytes, 2)), Some(OpenError::Newer { found: 9 }));
    let truncated = OpenError::Truncated { length: 1 << 20, needed: (1 << 20) + (256 << 10) };
    check(&|bench| bench.disk.truncate(1 << 20), Some(truncated));
    // Another shard's store in this one's place.
    bench.disk = good.clone();
    bench.reopen_as(journal::Expected { unit: 5, ..expected() });
    assert!(matches!(bench.open_error(), Some(OpenError::WrongIdentity { .. })));
    // Formatting never overwrites.
    let format = journal::Format {
        identity: crate::testing::identity(),
        geometry: journal::Geometry::new(crate::testing::SEGMENT_BYTES).unwrap(),
        secret: 1,
        index_key: 2,
    };
    let settings = StoreConfig { device_bytes: good.length(), ..config(32) };
    let mut bench = Bench::with(crate::Store::format(settings, format), good, settings);
    assert_eq!(bench.open_error(), Some(OpenError::NotEmpty));
}

/// R4.
#[test]
fn a_repeated_put_is_answered_once_its_copy_is_durable_and_another_content_refused() {
    let mut bench = opened(32);
    let first = bench.put(1, 5000);
    bench.event(Event::Submit);
    let repeated = bench.put(1, 5000);
    let other = bench.put_bytes(id(1), &content(2, 5000));
    assert_eq!(bench.answers.remove(&other), Some(Answer::Status(Status::AlreadyExists)));
    assert!(bench.answers.is_empty(), "nothing is durable yet");
    bench.run();
    assert_eq!(bench.answers.remove(&first), Some(Answer::Status(Status::Ok)));
    assert_eq!(bench.answers.remove(&repeated), Some(Answer::Status(Status::Ok)));
    let writes = bench.disk.counters.writes;
    assert_eq!(bench.put_now(1, 5000), Status::Ok);
    let other = bench.put_bytes(id(1), &content(1, 4999));
    assert_eq!(bench.finish(other), Status::AlreadyExists);
    assert_eq!(bench.disk.counters.writes, writes);
    assert_eq!(bench.store.metrics().puts_conflicting, 2);
    // A put behind a tombstone that isn't durable yet is written, not waved through.
    let token = bench.token();
    bench.event(Event::Delete { token, ids: &[id(1)] });
    let again = bench.put(1, 5000);
    assert_eq!(bench.finish(again), Status::Ok);
    bench.assert_has(1, 5000);
    bench.disk.crash(&mut bench.memory);
    bench.reopen();
    bench.run();
    bench.assert_has(1, 5000);
}

/// Full is a status: deletes work, and what they free is written again.
#[test]
fn a_full_store_takes_deletes_and_then_puts() {
    let mut bench = opened(40);
    let length = 12_000;
    let (mut moved, mut recycled) = (0, 0);
    let mut stored: Vec<u64> = Vec::new();
    let mut number = 0;
    for round in 0..6 {
        let mut waited = 0;
        loop {
            number += 1;
            match bench.put_now(number, length) {
                Status::Ok => {
                    stored.push(number);
                    waited = 0;
                }
                // Cleaning is making room.
                Status::Busy => {
                    waited += 1;
                    assert!(waited < 1000, "round {round}: busy without end: {:?}", bench.store.metrics());
                    bench.wait(20 * Nanos::MILLISECOND);
                }
                Status::NoSpace => break,
                other => panic!("{other:?}"),
            }
        }
        let filled = stored.len() * length * 100 / (40 * 256 * 1024);
        println!("round {round}: {} chunks, {filled} % of the capacity, then no space", stored.len());
        assert!(filled > 60, "reserve, checkpoints and descriptors take less than that");
        // Every third goes.
        let (gone, kept): (Vec<_>, Vec<_>) = stored.iter().partition(|number| *number % 3 == round % 3);
        for ids in gone.chunks(20) {
            assert_eq!(bench.delete_now(ids), Status::Ok, "deletes work on a full store");
        }
        stored = kept;
        bench.wait(10 * Nanos::SECOND);
        assert_eq!(bench.put_now(number + 1, length), Status::Ok);
        number += 1;
        stored.push(number);
        let metrics = bench.store.metrics();
        moved += metrics.chunks_moved;
        recycled += metrics.disk.segments_recycled;
        if round % 2 == 1 {
            bench.disk.crash(&mut bench.memory);
            bench.reopen();
            bench.run();
        }
    }
    for number in stored {
        bench.assert_has(number, length);
    }
    assert!(moved > 100 && recycled > 10, "{moved} {recycled}");
}

#[test]
fn scrub_finds_what_rots_and_a_put_mends_it() {
    let mut bench = opened(32);
    for number in 0..20 {
        assert_eq!(bench.put_now(number, 9000), Status::Ok);
    }
    let entry = bench.store.find(id(7)).unwrap();
    let offset = bench.store.device().geometry().offset(entry.place);
    bench.disk.flip(offset + 5000, 3);
    let broken = bench.store.find(id(8)).unwrap();
    bench.disk.break_sector(bench.store.device().geometry().offset(broken.place));
    bench.event(Event::Scrub(ScrubControl::Start { bytes_per_second: 1 << 20 }));
    bench.wait(Nanos::SECOND);
    let metrics = bench.store.metrics();
    // Of 9,000 bytes each; the count was of chunks, under the name of bytes.
    let good = 18 * 3 * 4096;
    assert_eq!((metrics.scrubbed_bytes, metrics.scrub_passes, metrics.chunks_damaged), (good, 1, 2));
    assert_eq!(metrics.live_bytes, 20 * 3 * 4096, "a pass reads as much as is live");
    bench.damaged.sort();
    assert_eq!(bench.damaged, [id(7), id(8)]);
    assert_eq!(bench.get_now(7), Answer::Status(Status::ChecksumMismatch));
    assert_eq!(bench.get_now(8), Answer::Status(Status::StoreFailed));
    assert_eq!(bench.get_blocks(7, 1..2), Answer::Status(Status::ChecksumMismatch));
    // Only puts that arrived damaged were counted: neither what the scrubber nor what gets had found. A sector that can't be read is no mismatch.
    assert_eq!(bench.store.metrics().checksum_mismatches, 3);
    // The other block of the same chunk is whole.
    assert!(matches!(bench.get_blocks(7, 2..3), Answer::Bytes { .. }));
    assert_eq!(bench.put_now(7, 9000), Status::Ok);
    bench.assert_has(7, 9000);
    // The rate holds: 20 chunks of 9,000 bytes at 1 MiB a second take 0.17 s.
    bench.event(Event::Scrub(ScrubControl::Start { bytes_per_second: 1 << 20 }));
    bench.wait(50 * Nanos::MILLISECOND);
    assert!(bench.store.metrics().scrub_passes == 1);
}

/// R29: an idle store makes its last acknowledgement decidable within 100 ms, and then rests.
#[test]
fn an_idle_store_writes_one_empty_batch() {
    let mut bench = opened(32);
    assert_eq!(bench.put_now(1, 100), Status::Ok);
    let writes = bench.disk.counters.writes;
    bench.wait(100 * Nanos::MILLISECOND);
    assert_eq!(bench.disk.counters.writes, writes + 1);
    bench.wait(10 * Nanos::SECOND);
    assert_eq!(bench.disk.counters.writes, writes + 1);
    // Now the batch that was acknowledged is known durable: rot in it is damage, and told.
    let entry = bench.store.find(id(1)).unwrap();
    let payload = bench.store.device().geometry().offset(entry.place);
    bench.disk.flip(payload - 4096 + 200, 1);
    bench.disk.crash(&mut bench.memory);
    bench.reopen();
    bench.run();
    assert!(bench.opened);
    assert_eq!(bench.store.damaged_batches().len(), 1);
    assert_eq!(bench.store.metrics().batches_damaged, 1);
}

/// R30: a chunk that holds a descriptor of this very store, byte for byte, stays a chunk.
#[test]
fn a_payload_that_looks_like_a_batch_is_not_believed() {
    let mut bench = opened(32);
    assert_eq!(bench.put_now(1, 100), Status::Ok);
    assert_eq!(bench.delete_now(&[1]), Status::Ok);
    assert_eq!(bench.put_now(2, 100), Status::Ok);
    let place = bench.store.find(id(2)).unwrap().place;
    let end = bench.store.device().geometry().offset(place) + 4096;
    // All batches so far, the tombstone's with them, as one chunk's content.
    let image = bench.disk.peek(1 << 20, usize::try_from(end - (1 << 20)).unwrap());
    let token = bench.put_bytes(id(9), &image);
    assert_eq!(bench.finish(token), Status::Ok);
    // Damage the batch that holds it, so that recovery searches through the payload.
    let entry = bench.store.find(id(9)).unwrap();
    let payload = bench.store.device().geometry().offset(entry.place);
    bench.disk.flip(payload - 4096 + 300, 1);
    bench.disk.crash(&mut bench.memory);
    bench.reopen();
    bench.run();
    assert!(bench.opened);
    bench.assert_has(2, 100);
    bench.assert_absent(1);
}

/// The newest checkpoint rots: the one before it and the log behind that are enough.
#[test]
fn a_damaged_checkpoint_falls_back_to_the_one_before() {
    let mut bench = opened(64);
    for number in 0..60 {
        assert_eq!(bench.put_now(number, 5000), Status::Ok);
        if number % 20 == 19 {
            bench.event(Event::Shutdown);
            bench.run();
            bench.reopen();
            bench.run();
        }
    }
    for damaged in 0..2 {
        let checkpoint = bench.store.device().superblock().checkpoints[0].clone();
        let place = journal::Place { segment: checkpoint.segments[0], block: journal::BlockIndex(1) };
        let offset = bench.store.device().geometry().offset(place);
        bench.disk.flip(offset + 1000, 2);
        bench.disk.crash(&mut bench.memory);
        bench.reopen();
        bench.run();
        if damaged == 1 {
            assert_eq!(bench.store.open_error(), Some(journal::OpenError::CheckpointsDamaged));
            return;
        }
        assert!(bench.opened);
        assert_eq!(bench.store.metrics().disk.checkpoints_damaged, 1);
        for number in 0..60 {
            bench.assert_has(number, 5000);
        }
    }
}

#[test]
fn zeroed_segments_are_kept_ahead_and_unwritten_ones_counted() {
    let mut with = config(64);
    with.prezero_bytes = 4 * u64::from(crate::testing::SEGMENT_BYTES);
    for (settings, unwritten) in [(config(64), true), (with, false)] {
        let mut bench = Bench::format(1, settings);
        bench.run();
        for number in 0..100 {
            assert_eq!(bench.put_now(number, 10_000), Status::Ok);
        }
        let metrics = bench.store.metrics();
        assert_eq!(metrics.disk.zero_bytes > 0, !unwritten);
        // The first segment of all is opened before anything can be zeroed.
        assert_eq!(metrics.disk.unwritten_segments_opened > 2, unwritten, "{metrics:?}");
    }
}

#[test]
fn without_buffers_it_is_busy_and_goes_on_later() {
    let mut bench = opened(32);
    for number in 0..4 {
        assert_eq!(bench.put_now(number, 50_000), Status::Ok);
    }
    bench.memory.limit_bytes = bench.memory.used_bytes() + (64 << 10);
    assert!(matches!(bench.get_now(0), Answer::Bytes { .. }));
    bench.memory.limit_bytes = bench.memory.used_bytes() + 4096;
    assert_eq!(bench.get_now(0), Answer::Status(Status::Busy));
    assert_eq!(bench.get_blocks(0, 1..2), Answer::Status(Status::Busy));
    bench.memory.limit_bytes = 0;
    bench.assert_has(0, 50_000);
}

#[test]
fn an_inventory_lists_everything_in_pages() {
    let mut bench = opened(64);
    for number in 0..300 {
        bench.put(number, 50);
    }
    bench.event(Event::Submit);
    bench.run();
    bench.answers.clear();
    let mut seen = Vec::new();
    loop {
        let token = bench.token();
        bench.event(Event::Inventory { token, after: seen.last().copied(), limit: 7 });
        let Some(Answer::Listed { ids, end }) = bench.answers.remove(&token) else { panic!() };
        seen.extend(ids);
        if end {
            break;
        }
    }
    seen.sort();
    assert_eq!(seen, (0..300).map(id).collect::<Vec<_>>());
}

/// The file system is full long before the store is: puts end, deletes and cleaning go on in what is kept, and when there is room again
/// the file grows.
#[test]
fn a_full_file_system_takes_deletes_and_then_puts() {
    let mut bench = opened(1000);
    bench.disk.capacity = (1 << 20) + 20 * u64::from(crate::testing::SEGMENT_BYTES);
    let mut stored = 0;
    let fill = |bench: &mut Bench, stored: &mut u64| {
        for _ in 0..3000 {
            match bench.put_now(*stored, 12_000) {
                Status::Ok => *stored += 1,
                Status::Busy => bench.wait(20 * Nanos::MILLISECOND),
                Status::NoSpace => return,
                other => panic!("{other:?}"),
            }
        }
        panic!("busy without end: {:?}", bench.store.metrics());
    };
    fill(&mut bench, &mut stored);
    assert!(stored > 100, "{stored}");
    // Ever new tries to grow let no puts into what is kept.
    for _ in 0..20 {
        bench.wait(6 * Nanos::SECOND);
        assert_eq!(bench.put_now(1 << 30, 12_000), Status::NoSpace);
    }
    let numbers: Vec<_> = (0..stored).collect();
    for numbers in numbers.chunks(1).step_by(2) {
        assert_eq!(bench.delete_now(numbers), Status::Ok, "deletes work on a full file system");
    }
    bench.wait(10 * Nanos::SECOND);
    let before = stored;
    fill(&mut bench, &mut stored);
    assert!(stored > before + 30, "{before} {stored}");
    bench.disk.crash(&mut bench.memory);
    bench.reopen();
    bench.run();
    for number in (1..before).step_by(2).chain(before..stored) {
        bench.assert_has(number, 12_000);
    }
    bench.disk.capacity = u64::MAX;
    bench.wait(20 * Nanos::SECOND);
    for number in stored..stored + 300 {
        assert_eq!(bench.put_now(number, 12_000), Status::Ok);
    }
}

/// Who comes alone is written at once: at first, behind others, and after a rest.
#[test]
fn one_put_at_a_time_never_waits_for_others() {
    let mut bench = opened(32);
    let is_written_at_once = |bench: &mut Bench, numbers: std::ops::Range<u64>| {
        for number in numbers {
            bench.put(number, 4096);
        }
        bench.event(Event::Submit);
        let is_written = bench.store.device().in_flight() > 0;
        while bench.step() {
            bench.now = bench.now.after(100 * Nanos::MICROSECOND);
        }
        is_written
    };
    for number in 0..5 {
        assert!(is_written_at_once(&mut bench, number..number + 1), "put {number}");
    }
    assert!(is_written_at_once(&mut bench, 10..26));
    // Sixteen may be about to come again.
    assert!(!is_written_at_once(&mut bench, 30..31));
    // The empty batch of an idle store expects nobody.
    bench.wait(Nanos::SECOND);
    assert!(is_written_at_once(&mut bench, 50..66));
    bench.wait(Nanos::SECOND);
    assert!(is_written_at_once(&mut bench, 40..41));
}
