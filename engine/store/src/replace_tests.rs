//! Chunks in the place of others: of damaged ones, of ones with other bytes, and never of dead ones.

use wire::{Nanos, Status};

use crate::Event;
use crate::testing::{Answer, Bench, config, content, id};

const LENGTH: usize = 9000;

fn opened() -> Bench {
    let mut bench = Bench::format(1, config(32));
    bench.run();
    assert!(bench.opened, "{:?}", bench.store.open_error());
    bench
}

fn replace_now(bench: &mut Bench, number: u64, bytes: &[u8]) -> Status {
    let token = bench.replace(id(number), bytes);
    bench.finish(token)
}

fn restart(bench: &mut Bench) {
    bench.disk.kill(&mut bench.memory);
    bench.reopen();
    bench.run();
}

/// A good copy takes the place of a damaged one, which is no damage any more, and counted once.
#[test]
fn a_damaged_copy_is_replaced() {
    let mut bench = opened();
    assert_eq!(bench.put_now(1, LENGTH), Status::Ok);
    let place = bench.store.find(id(1)).expect("it was put").place;
    bench.disk.flip(bench.store.device().geometry().offset(place), 3);
    assert_eq!(bench.get_now(1), Answer::Status(Status::ChecksumMismatch));
    assert_eq!(bench.store.metrics().chunks_damaged, 1);
    assert_eq!(replace_now(&mut bench, 1, &content(1, LENGTH)), Status::Ok);
    bench.assert_has(1, LENGTH);
    let metrics = bench.store.metrics();
    assert_eq!((metrics.chunks_damaged, metrics.chunks_repaired, metrics.chunks_replaced), (0, 1, 0));
    restart(&mut bench);
    bench.assert_has(1, LENGTH);
}

/// R3: other bytes take the place of these by `Replace`, never by a put (R4), and stay after a restart.
#[test]
fn other_bytes_are_replaced_and_stay_so() {
    let mut bench = opened();
    let (wrong, right) = (content(77, 5000), content(1, LENGTH));
    let token = bench.put_bytes(id(1), &wrong);
    assert_eq!(bench.finish(token), Status::Ok);
    assert_eq!(bench.put_now(1, LENGTH), Status::AlreadyExists);
    assert_eq!(replace_now(&mut bench, 1, &right), Status::Ok);
    assert_eq!(bench.store.metrics().chunks_replaced, 1);
    for _ in 0..2 {
        bench.assert_has(1, LENGTH);
        let Answer::Bytes { bytes, .. } = bench.get_blocks(1, 1..2) else { panic!("it is here") };
        assert!(bytes == right[4096..8192], "a part is verified by its own leaves");
        restart(&mut bench);
    }
    let token = bench.put_bytes(id(1), &wrong);
    assert_eq!(bench.finish(token), Status::AlreadyExists);
}

/// R23: what is not here, or about to be deleted, stays so.
#[test]
fn what_is_dead_is_not_brought_back() {
    let mut bench = opened();
    assert_eq!(replace_now(&mut bench, 1, &content(1, LENGTH)), Status::NotFound);
    assert_eq!(bench.put_now(2, LENGTH), Status::Ok);
    let delete = bench.token();
    bench.event(Event::Delete { token: delete, ids: &[id(2)] });
    let replace = bench.replace(id(2), &content(2, LENGTH));
    assert_eq!(bench.answers.remove(&replace), Some(Answer::Status(Status::NotFound)));
    assert_eq!(bench.finish(delete), Status::Ok);
    // The other order: the delete comes last and wins.
    assert_eq!(bench.put_now(3, LENGTH), Status::Ok);
    let replace = bench.replace(id(3), &content(77, LENGTH));
    let delete = bench.token();
    bench.event(Event::Delete { token: delete, ids: &[id(3)] });
    assert_eq!((bench.finish(delete), bench.finish(replace)), (Status::Ok, Status::Ok));
    for number in 1..4 {
        bench.assert_absent(number);
    }
}

/// What is on its way here is somebody else's to settle; what is here already is no work.
#[test]
fn a_replacement_meets_others() {
    let mut bench = opened();
    let put = bench.put(1, LENGTH);
    let (same, other) =
        (bench.replace(id(1), &content(1, LENGTH)), bench.replace(id(1), &content(2, LENGTH)));
    assert_eq!(bench.answers.remove(&other), Some(Answer::Status(Status::Busy)));
    assert!(!bench.answers.contains_key(&same), "R4: not before it is durable");
    assert_eq!((bench.finish(put), bench.finish(same)), (Status::Ok, Status::Ok));
    let puts = bench.store.metrics().puts;
    assert_eq!(replace_now(&mut bench, 1, &content(1, LENGTH)), Status::Ok);
    assert_eq!(bench.store.metrics().puts, puts, "nothing was written");
}

/// What is read for other replicas is verified, and what is damaged is told.
#[test]
fn a_fetch_is_verified() {
    let mut bench = opened();
    assert_eq!(bench.put_now(1, LENGTH), Status::Ok);
    let fetch = |bench: &mut Bench| {
        let token = bench.token();
        bench.event(Event::Fetch { token, id: id(1) });
        bench.run();
        bench.answers.remove(&token).expect("it is answered")
    };
    let Answer::Bytes { bytes, .. } = fetch(&mut bench) else { panic!("it is here") };
    assert!(bytes == content(1, LENGTH));
    let place = bench.store.find(id(1)).expect("it was put").place;
    bench.disk.flip(bench.store.device().geometry().offset(place) + 4096, 0);
    assert_eq!(fetch(&mut bench), Answer::Status(Status::ChecksumMismatch));
    assert_eq!(bench.damaged, [id(1)]);
    bench.wait(Nanos::MILLISECOND);
}
