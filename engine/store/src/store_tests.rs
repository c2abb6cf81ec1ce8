//! The store on a fake disk: each test one property.

use wire::checksum::{BlockHasher, verify_range};
use wire::{ClusterId, Nanos, Status};

use crate::testing::{Answer, Bench, config, content, expected, id, root_of};
use crate::{Event, ScrubControl};

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
        assert_eq!(bench.store.opened().unwrap().incarnation.0, round + 2);
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
