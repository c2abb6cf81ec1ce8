//! What is remembered over restarts: lives until one is accepted, and marks until all is whole.

use wire::control::next_incarnation;
use wire::limits::STORE_LIVES_MAX;
use wire::{Incarnation, Nanos};

use super::recovery_tests::Bench;
use crate::format_tests::version_1;
use crate::log::{Log, LogEffect, LogEvent, LogRoom};
use crate::{SUPERBLOCK_BYTES, SUPERBLOCK_COPIES, superblock_offset};

/// The lives that are remembered, and both marks.
type Remembered = (Vec<Incarnation>, bool, bool);

impl Bench {
    /// Killed, and started again with these random bits.
    fn restart_with(&mut self, random: u16) {
        self.config.life_random = random;
        self.restart();
        assert!(self.is_open, "{:?}", self.log.open_error());
    }

    fn life(&self) -> Incarnation {
        self.log.device().superblock().incarnation
    }

    fn remembered(&self) -> Remembered {
        (self.log.lives().to_vec(), self.log.recovered_cut(), self.log.lacks())
    }

    /// Not yet written.
    fn accept(&mut self, life: Incarnation) {
        self.log.on_accepted(Nanos(1), life, &mut self.effects);
    }

    /// Not yet written.
    fn whole(&mut self) {
        self.log.on_whole(Nanos(1), &mut self.effects);
    }

    /// A large record goes behind an empty batch that raises the reach, in one write. That one is torn: the record is found, and cut.
    fn tear(&mut self) {
        // The end is known to lie in this life's segment.
        self.append(1, 100);
        let (end, record) = (self.end(), vec![7; 100_000]);
        assert_eq!(self.log.room(record.len(), &mut self.memory), LogRoom::Ready);
        self.handle(LogEvent::Append { index: self.log.last_index() + 1, record: &record });
        self.handle(LogEvent::Submit);
        assert_eq!((self.log.device().in_flight(), self.disk.pending()), (2, 1));
        self.step();
        self.disk.kill(&mut self.memory);
        self.disk.flip(end + 200, 1);
    }

    fn step(&mut self) -> bool {
        let Some((io, outcome)) = self.disk.complete(&mut self.memory) else { return false };
        self.handle(LogEvent::IoDone { io, outcome });
        true
    }

    /// An early batch that was durable rots, and its loss is accepted.
    fn lose(&mut self) {
        self.append(3, 100);
        let end = self.end();
        self.append(10, 100);
        self.disk.flip(end + 200, 1);
        self.config.accept_data_loss = true;
        self.restart();
        self.config.accept_data_loss = false;
        assert!(self.is_open && self.records.len() == 3, "{:?}", self.log.open_error());
    }

    fn superblock_writes(&self) -> u64 {
        let writes = self.log.counters().writes;
        assert!(writes.is_multiple_of(SUPERBLOCK_COPIES as u64), "nothing else is written");
        writes / SUPERBLOCK_COPIES as u64
    }
}

#[test]
fn all_lives_are_remembered_until_one_is_accepted() {
    let mut bench = Bench::new();
    let mut lives = Vec::new();
    assert!(bench.life() == next_incarnation(Incarnation(0), 0x1234) && bench.log.lives().is_empty());
    for random in [0xffff, 0, 77, 0x8000] {
        let previous = bench.life();
        lives.push(previous);
        bench.restart_with(random);
        assert_eq!(bench.life(), next_incarnation(previous, random));
        assert!(bench.life() > previous);
        assert_eq!(bench.log.lives(), lives);
    }
    // One of them, as when the answer was lost: it and all since stay.
    bench.accept(lives[2]);
    assert_eq!(bench.log.lives(), &lives[2..]);
    bench.accept(bench.life());
    assert!(bench.log.lives().is_empty());
    bench.run(LogEvent::Submit);
    let accepted = bench.life();
    bench.restart_with(1);
    assert_eq!(bench.log.lives(), [accepted]);
    bench.restart_with(2);
    assert_eq!((bench.log.lives().len(), bench.log.lives()[0]), (2, accepted));
}

/// News of a life that isn't known is of another store, or of a copy of this one.
#[test]
fn another_life_that_was_accepted_says_nothing() {
    let mut bench = Bench::new();
    bench.restart_with(1);
    bench.restart_with(2);
    let lives = bench.log.lives().to_vec();
    let before = bench.superblock_writes();
    for life in [Incarnation(bench.life().0 + 1), Incarnation(lives[1].0 + 1), Incarnation(0)] {
        bench.accept(life);
        bench.run(LogEvent::Submit);
        assert_eq!((bench.log.lives(), bench.superblock_writes()), (&lives[..], before));
    }
}

#[test]
fn of_too_many_lives_the_oldest_and_the_newest_stay() {
    let mut bench = Bench::new();
    let mut lives = Vec::new();
    for random in 0..70 {
        lives.push(bench.life());
        bench.restart_with(random);
    }
    lives.drain(1..=70 - STORE_LIVES_MAX);
    assert_eq!(bench.log.lives(), lives);
    bench.append(3, 100);
    bench.accept(bench.life());
    bench.run(LogEvent::Submit);
    bench.restart_with(71);
    assert!(bench.log.lives().len() == 1 && bench.records.len() == 3);
}

/// The second restart finds nothing to cut, and lacks what the first one did.
#[test]
fn a_cut_is_remembered_until_all_is_whole() {
    let mut bench = Bench::new();
    bench.append(5, 100);
    assert!(!bench.log.recovered_cut());
    bench.tear();
    bench.restart_with(1);
    assert!(bench.log.opened().unwrap().recovered_cut && bench.records.len() == 6);
    for random in 2..4 {
        assert!(bench.log.recovered_cut() && !bench.log.lacks());
        bench.restart_with(random);
        assert!(!bench.log.opened().unwrap().recovered_cut);
    }
    bench.whole();
    assert!(!bench.log.recovered_cut());
    bench.run(LogEvent::Submit);
    bench.restart_with(4);
    assert!(!bench.log.recovered_cut());
    assert_eq!(bench.log.lives().len(), 4, "a mark's end says nothing of lives");
    // Another cut is another mark.
    bench.tear();
    bench.restart_with(5);
    bench.restart_with(6);
    assert!(bench.log.recovered_cut());
}

#[test]
fn a_loss_is_remembered_until_all_is_whole() {
    let mut bench = Bench::new();
    bench.lose();
    for random in 1..3 {
        assert!(bench.log.lacks() && bench.log.recovered_cut());
        bench.append(2, 100);
        bench.restart_with(random);
        assert!(!bench.log.opened().unwrap().recovered_cut && bench.log.loss().is_none());
    }
    bench.whole();
    bench.run(LogEvent::Submit);
    bench.restart_with(3);
    assert!(!bench.log.lacks() && !bench.log.recovered_cut());
}

/// What lies in a sector that can't be read may have been acked: a log that was opened all the same said nothing of it.
#[test]
fn what_could_not_be_read_may_be_lost() {
    let mut bench = Bench::new();
    bench.append(8, 100);
    bench.disk.break_sector(bench.end());
    bench.config.accept_data_loss = true;
    bench.restart_with(1);
    assert!(bench.log.lacks() && bench.log.recovered_cut() && bench.records.len() == 8);
    // A file that has lost its end, too.
    let mut bench = Bench::new();
    bench.append(20, 60_000);
    bench.disk.truncate(bench.end() - 100_000);
    bench.config.accept_data_loss = true;
    bench.restart_with(1);
    assert!(bench.log.lacks() && bench.log.recovered_cut());
}

#[test]
fn one_write_has_all_that_comes_at_once_and_none_has_nothing() {
    let mut bench = Bench::new();
    bench.lose();
    let before = bench.superblock_writes();
    bench.accept(bench.life());
    bench.whole();
    let arms = |effect: &LogEffect| matches!(effect, LogEffect::Arm(at) if *at <= Nanos(1).after(Nanos::MILLISECOND));
    assert!(bench.effects.list.iter().any(arms), "it is written even if nothing else happens");
    assert_eq!(bench.superblock_writes(), before, "the turn goes on");
    bench.run(LogEvent::Tick);
    assert_eq!(bench.superblock_writes(), before + 1);
    for event in [LogEvent::Submit, LogEvent::Tick] {
        bench.accept(bench.life());
        bench.whole();
        bench.run(event);
    }
    assert_eq!(bench.superblock_writes(), before + 1);
}

#[test]
fn a_log_that_is_not_open_or_fenced_forgets_nothing() {
    let mut bench = Bench::new();
    bench.lose();
    bench.append(3, 100);
    let expected = crate::Expected { cluster: None, store: None, node: wire::NodeId(1), unit: 0 };
    let mut lives = bench.log.lives().to_vec();
    lives.push(bench.life());
    // Before and while it opens.
    bench.disk.kill(&mut bench.memory);
    bench.memory.clear();
    bench.records.clear();
    bench.config.device_bytes = bench.disk.length();
    bench.log = Log::open(bench.config, expected);
    assert_eq!(bench.remembered(), (Vec::new(), false, false));
    bench.is_open = false;
    bench.handle(LogEvent::Start);
    while !bench.is_open {
        let life = lives.last().copied().unwrap();
        bench.accept(life);
        bench.whole();
        assert!(bench.step());
    }
    assert_eq!(bench.remembered(), (lives.clone(), true, true));
    // Fenced.
    bench.run(LogEvent::Submit);
    bench.disk.faults.write_errors = 10_000;
    assert_eq!(bench.log.room(10, &mut bench.memory), LogRoom::Ready);
    bench.handle(LogEvent::Append { index: bench.log.last_index() + 1, record: &[1; 10] });
    bench.run(LogEvent::Submit);
    assert!(bench.log.is_fenced());
    bench.accept(bench.life());
    bench.whole();
    bench.run(LogEvent::Tick);
    assert_eq!(bench.remembered(), (lives.clone(), true, true));
    bench.disk.faults.write_errors = 0;
    lives.push(bench.life());
    bench.restart_with(9);
    assert_eq!(bench.remembered(), (lives, true, true));
}

/// Four copies and two flushes: whatever of them the medium has, it has the old state or the new one, and in the end the new one.
#[test]
fn a_crash_while_forgetting_leaves_the_old_state_or_the_new_one() {
    let (mut old_count, mut new_count) = (0, 0);
    for seed in 0..20 {
        let mut bench = Bench::with_seed(seed);
        bench.restart_with(1);
        bench.lose();
        for steps in 0..=6 {
            for by_power in [true, false] {
                bench.tear();
                bench.restart_with(u16::try_from(steps).unwrap());
                assert!(bench.log.recovered_cut());
                let (mut old, cut, lacks) = bench.remembered();
                let life = bench.life();
                old.push(life);
                bench.accept(life);
                bench.whole();
                bench.handle(LogEvent::Submit);
                for _ in 0..steps {
                    assert!(bench.step());
                }
                if by_power {
                    bench.disk.crash(&mut bench.memory);
                }
                bench.restart_with(50);
                let after = bench.remembered();
                let (is_old, is_new) = (after == (old, cut, lacks), after == (vec![life], false, false));
                assert!(is_old || is_new, "seed {seed}, {steps} steps: {after:?}");
                assert!(is_new || steps < 6);
                old_count += usize::from(is_old);
                new_count += usize::from(is_new);
            }
        }
    }
    assert!(old_count > 30 && new_count > 30, "{old_count} {new_count}");
}

/// At any moment of a checkpoint, its own superblock's write included: both come to their end, and nothing is lost of either.
#[test]
fn a_checkpoint_is_not_disturbed() {
    for steps in 0..12 {
        let mut bench = Bench::new();
        bench.lose();
        bench.append(5, 100);
        let records = bench.records.clone();
        // As `checkpoint`, and not to its end.
        bench.begin_checkpoint();
        for _ in 0..steps {
            bench.step();
        }
        let life = bench.life();
        bench.accept(life);
        bench.handle(LogEvent::Submit);
        bench.step();
        bench.whole();
        bench.run(LogEvent::Submit);
        assert_eq!(bench.log.counters().checkpoints, 1);
        assert_eq!(bench.disk.pending(), 0);
        bench.restart_with(1);
        assert_eq!(bench.remembered(), (vec![life], false, false), "{steps}");
        assert_eq!(bench.log.device().superblock().checkpoints.len(), 1);
        assert!(bench.records == records);
    }
}

/// What is forgotten as the log ends in order is so durably, and the log still ends in order.
#[test]
fn an_end_in_order_has_the_news() {
    let mut bench = Bench::new();
    bench.lose();
    bench.checkpoint();
    let life = bench.life();
    bench.accept(life);
    bench.whole();
    bench.run(LogEvent::Shutdown);
    bench.restart_with(1);
    assert!(bench.log.opened().unwrap().was_clean);
    assert_eq!(bench.remembered(), (vec![life], false, false));
}

/// A store of a release that knew neither lives nor marks, and counted its lives one by one.
#[test]
fn a_superblock_of_version_1_is_read_and_replaced() {
    let mut bench = Bench::new();
    let mut superblock = bench.log.device().superblock().clone();
    superblock.incarnation = Incarnation(1);
    for joint in &mut superblock.joints {
        joint.incarnation = Incarnation(1);
    }
    bench.disk.kill(&mut bench.memory);
    for copy in 0..SUPERBLOCK_COPIES {
        let wanted = version_1(&superblock, copy);
        let at = superblock_offset(copy);
        for (offset, (from, to)) in (at..).zip(bench.disk.peek(at, SUPERBLOCK_BYTES).iter().zip(&wanted)) {
            (0..8).filter(|bit| (from ^ to) >> bit & 1 == 1).for_each(|bit| bench.disk.flip(offset, bit));
        }
        assert_eq!(bench.disk.peek(at + 16, 2), [1, 0]);
    }
    bench.restart_with(0x55);
    assert_eq!(bench.log.counters().superblock_copies_damaged, 0);
    assert_eq!(bench.remembered(), (vec![Incarnation(1)], false, false));
    assert_eq!(bench.life(), next_incarnation(Incarnation(1), 0x55));
    for copy in 0..SUPERBLOCK_COPIES {
        assert_eq!(bench.disk.peek(superblock_offset(copy) + 16, 2), [2, 0]);
    }
    bench.append(3, 100);
    bench.restart_with(0x66);
    assert!(bench.records.len() == 3 && bench.log.lives().len() == 2);
}
