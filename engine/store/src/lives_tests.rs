//! What a store remembers of its lives, and of what its recoveries found.

use wire::{Nanos, Status};

use crate::Event;
use crate::testing::{Bench, config, id};

const LENGTH: usize = 4000;

fn restart(bench: &mut Bench, random: u16) {
    bench.disk.kill(&mut bench.memory);
    bench.config.life_random = random;
    bench.reopen();
    bench.run();
    assert!(bench.opened, "{:?}", bench.store.open_error());
}

fn opened() -> Bench {
    let mut bench = Bench::format(1, config(64));
    bench.run();
    bench
}

/// A chunk was acked perhaps, and its payload is torn.
#[test]
fn a_cut_is_remembered_until_all_is_whole() {
    let mut bench = opened();
    assert_eq!(bench.put_now(1, LENGTH), Status::Ok);
    let resume = bench.store.device().durable_resume();
    let payload = bench.store.device().geometry().offset(resume.place.plus(1));
    bench.put(2, LENGTH);
    bench.event(Event::Submit);
    assert!(bench.step());
    bench.disk.kill(&mut bench.memory);
    bench.disk.flip(payload + 100, 1);
    for random in 1..4 {
        restart(&mut bench, random);
        assert_eq!(bench.store.opened().unwrap().recovered_cut, random == 1);
        assert!(bench.store.recovered_cut() && !bench.store.lacks());
        bench.assert_absent(2);
    }
    assert_eq!(bench.store.lives().len(), 3);
    let life = bench.store.opened().unwrap().incarnation;
    assert_eq!(life.0 & 0xffff, 3);
    let writes = bench.store.device().counters().writes;
    bench.store.on_accepted(bench.now, life, &mut bench.effects);
    bench.store.on_whole(bench.now, &mut bench.effects);
    assert!(!bench.store.recovered_cut() && bench.store.lives().is_empty());
    assert_eq!(bench.store.device().counters().writes, writes, "the turn goes on");
    bench.event(Event::Submit);
    bench.run();
    assert_eq!(bench.store.device().counters().writes, writes + 4, "one superblock");
    restart(&mut bench, 9);
    assert_eq!((bench.store.lives(), bench.store.recovered_cut()), (&[life][..], false));
    bench.assert_has(1, LENGTH);
}

/// Nothing else happens: the store asks for the tick with which it is written.
#[test]
fn a_loss_is_remembered_until_all_is_whole() {
    let mut bench = opened();
    for number in 0..40 {
        assert_eq!(bench.put_now(number, LENGTH), Status::Ok);
    }
    bench.wait(200 * Nanos::MILLISECOND);
    let place = bench.store.find(id(10)).unwrap().place;
    let descriptor = bench.store.device().geometry().offset(place) - 4096;
    bench.disk.flip(descriptor + 100, 1);
    for random in 1..4 {
        restart(&mut bench, random);
        assert_eq!(bench.store.metrics().batches_damaged, u64::from(random == 1));
        assert!(bench.store.lacks());
        bench.event(Event::Shutdown);
        bench.run();
        assert!(bench.shut_down);
    }
    restart(&mut bench, 4);
    bench.wait(Nanos::SECOND);
    bench.store.on_whole(bench.now, &mut bench.effects);
    let soon = Some(bench.now.after(Nanos::MILLISECOND));
    assert!(bench.store.device().has_news());
    // Takes the wish for a tick in, and hands nothing over.
    bench.take_effects();
    assert!(bench.armed <= soon);
    bench.wait(Nanos::MILLISECOND);
    assert!(!bench.store.device().has_news());
    restart(&mut bench, 5);
    assert!(!bench.store.lacks());
}
