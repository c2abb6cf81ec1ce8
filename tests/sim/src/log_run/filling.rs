//! The log is filled until it says so: removals go through all the same (R17), and afterwards everything else again.

use client::core::{Call, Done, Failure, Ticket};
use journal::fake_disk::Faults;
use wire::Status;

use super::LogRun;
use crate::filling::{DIRECTORIES_MAX, WIDTH, make_directory, remove, ticket};

/// Which one of so many seeds does it: it takes as long as all the rest.
const SEEDS: u64 = 4;
/// Tries of a write after the log was full.
const TRIES_MAX: u64 = 100;

impl LogRun {
    /// In some seeds the log, or the file system under it, is full. The callers have said and seen everything by now.
    pub(super) fn fill_log(&mut self) -> Result<(), String> {
        if self.random.below(SEEDS) > 0 {
            return Ok(());
        }
        let by_growth = self.random.per_mille(500);
        if by_growth {
            self.disk.fake.faults = Faults { allocate_errors: 10_000, ..Faults::default() };
        }
        let refused = self.callers[0].refused;
        let mut made = 0;
        while self.callers[0].refused == refused && made < DIRECTORIES_MAX {
            made += 1;
            self.ask(made, make_directory(self.volume, made));
            self.until("filling the log", |run| run.under_way() < WIDTH || run.callers[0].refused > refused)?;
        }
        if self.callers[0].refused == refused {
            return Err(format!("{made} directories don't fill the log"));
        }
        self.tally.count("log", if by_growth { "file system full" } else { "full" });
        let removals = self.callers[0].refused_removals;
        self.callers[0].give_up_refused();
        self.until("answers of a full log", |run| run.under_way() == 0)?;
        for number in 1..=made {
            if self.direct.remove(&ticket(number)) == Some(Some(true)) {
                self.ask(number, remove(self.volume, number));
                self.until("removals while the log is full", |run| run.under_way() < WIDTH)?;
            }
        }
        self.until("removals while the log is full", |run| run.under_way() == 0)?;
        if self.callers[0].refused_removals > removals {
            return Err("R17: a removal is refused while the log is full".to_owned());
        }
        self.disk.heal();
        self.direct.clear();
        for number in 1..TRIES_MAX {
            // A caller that is refused for long gives up.
            self.ask(number, make_directory(self.volume, number));
            self.until("a write after the log was full", |run| run.under_way() == 0)?;
            if self.direct[&ticket(number)] == Some(true) {
                self.ask(0, remove(self.volume, number));
                return self.until("the last removal", |run| run.under_way() == 0);
            }
        }
        Err("a log that was full goes on refusing".to_owned())
    }

    fn ask(&mut self, number: u64, call: Call) {
        self.direct.insert(ticket(number), None);
        self.callers[0].on_call(ticket(number), call, &mut self.stores, &mut self.random);
    }

    fn under_way(&self) -> usize {
        self.direct.values().filter(|done| done.is_none()).count()
    }

    /// Takes a result of this stage in; `false` for a workload's.
    pub(super) fn on_direct(&mut self, ticket: Ticket, result: &Result<Done, Failure>) -> bool {
        let is_ok = matches!(result, Ok(Done::Outcome(outcome)) if outcome.status == Status::Ok);
        self.direct.get_mut(&ticket).is_some_and(|done| done.replace(is_ok).is_none())
    }
}
