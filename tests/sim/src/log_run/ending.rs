//! Faults stop: everything becomes readable, garbage goes to zero, and whatever was seen must have had an order.

use std::collections::VecDeque;

use client::core::{Done, Failure, Ticket};
use wire::limits::LIST_ENTRIES_MAX;
use wire::meta::{Answer, InodeKind, Query};
use wire::{Nanos, Status};

use super::{Condition, LogRun};
use crate::checker;
use crate::history::{self, Action, Ending, Record, Seen};
use crate::kept::Kept;
use crate::meta_unit::MetaUnit;
use crate::settings;
use crate::workload::{DIRECTORIES, FILES, LINKS, Workload};

/// Writes of which one is executed once faults have stopped: a session may have ended unnoticed, and each is given up after some fifty tries.
const WRITES_MAX: usize = 8;

impl LogRun {
    /// The volume, before anything goes wrong.
    pub(super) fn make_volume(&mut self) -> Result<(), String> {
        let call = settings::create_volume(self.settings.chunk_bytes);
        self.callers[0].on_call(Ticket(1), call, &mut self.stores, &mut self.random);
        self.until("the volume", |run| run.volume.0 > 0)
    }

    pub(super) fn on_volume(&mut self, result: Result<Done, Failure>) -> Result<(), String> {
        match result {
            Ok(Done::Outcome(outcome)) => {
                self.volume = outcome.volume;
                Ok(())
            }
            other => Err(format!("the volume can't be made: {other:?}")),
        }
    }

    pub(super) fn end(&mut self) -> Result<(), String> {
        self.disk.heal();
        for _ in 0..self.random.between(1, 4) {
            self.crash(true);
            // Recovery is cut off as well.
            for _ in 0..self.random.below(200) {
                self.step()?;
            }
        }
        self.until("recovery", |run| matches!(run.condition, Condition::Serving | Condition::Ended))?;
        if self.condition == Condition::Ended {
            self.tally.count("seed", "log destroyed and said so");
            return self.check();
        }
        self.until("operations after the faults", Self::is_quiet).map_err(|error| {
            let callers: Vec<String> = self.callers.iter().map(super::Caller::describe).collect();
            let under_way: Vec<usize> = self.workloads.iter().map(Workload::under_way).collect();
            format!("{error}: {under_way:?} {callers:#?}")
        })?;
        self.read_everything()?;
        self.write_at_last()?;
        self.check()?;
        // In half of the seeds also with sessions, results and garbage: in the others the life that saw the faults goes on to the end.
        if self.random.per_mille(500) {
            self.end_in_order()?;
            self.start_again()?;
        }
        if self.condition == Condition::Ended {
            self.tally.count("seed", "log destroyed and said so");
            return Ok(());
        }
        self.fill_log()?;
        self.callers.iter_mut().for_each(super::Caller::leave);
        self.until("garbage", |run| run.garbage().is_none())
            .map_err(|error| format!("{error}: {}", self.garbage().unwrap_or_default()))?;
        let replica = self.unit.replica().expect("it serves");
        replica.state().namespace.audit().map_err(|error| format!("the namespace's audit: {error}"))?;
        self.end_in_order()?;
        self.start_again()?;
        self.tally.count("seed", "verified");
        Ok(())
    }

    fn end_in_order(&mut self) -> Result<(), String> {
        self.with_unit(MetaUnit::on_shutdown);
        self.until("the shutdown", |run| run.condition == Condition::Ended)?;
        let leaks = self.memory.leaks_beside_devices_own();
        let callers = self.callers.iter().flat_map(|caller| caller.memory.leaks());
        let leaks: Vec<(u32, u32)> = leaks.into_iter().chain(callers).collect();
        if !leaks.is_empty() {
            return Err(format!("slots leaked: {leaks:?}"));
        }
        Ok(())
    }

    /// What the replica held when it had ended is what its next start finds, though the power may fail in between.
    fn start_again(&mut self) -> Result<(), String> {
        let replica = self.unit.replica().expect("it served to its end");
        let results = replica.metrics().results;
        let kept = Kept::of_group(replica).filter(|_| !self.disk.is_damaged());
        let by_power = self.random.per_mille(500);
        self.crash(by_power);
        self.until("the start after an orderly end", |run| {
            matches!(run.condition, Condition::Serving | Condition::Ended)
        })?;
        let Some(kept) = kept else { return Ok(()) };
        let found = self.unit.replica().and_then(Kept::of_group);
        let found = found.ok_or("after an orderly end the log doesn't serve, or goes on by itself")?;
        self.tally.count("log", "kept over an orderly end");
        self.tally.add("results", "kept over an orderly end", results);
        kept.compare(&found)
    }

    /// I12: a log that said `NoSpace` takes mutations again once it had time to make room. Callers ask many times before they give one up.
    fn write_at_last(&mut self) -> Result<(), String> {
        for _ in 0..WRITES_MAX {
            let path = "at last".to_owned();
            self.begin(
                0,
                Action::Replace { path, length: 1, condition: history::Condition::Any, dress: None },
            );
            self.until("a write after the faults", |run| run.workloads[0].under_way() == 0)?;
            let record = self.workloads[0].records.last().expect("it ended");
            if matches!(record.ending, Ending::Executed { status: Status::Ok, .. }) {
                return Ok(());
            }
        }
        Err(format!("after the faults, none of {WRITES_MAX} writes was executed"))
    }

    fn is_quiet(&self) -> bool {
        self.callers.iter().all(super::Caller::is_idle)
            && self.workloads.iter().all(|workload| workload.under_way() == 0)
    }

    fn read_everything(&mut self) -> Result<(), String> {
        let read = |path: &str| Action::Read {
            path: path.to_owned(),
            follow: false,
            from: 0,
            to: u64::MAX,
            pace: 0,
        };
        let list = |path: &str| Action::List {
            path: path.to_owned(),
            after: String::new(),
            limit: LIST_ENTRIES_MAX,
        };
        let mut actions = VecDeque::from([list("")]);
        actions.extend(FILES.iter().chain(DIRECTORIES).chain(LINKS).map(|path| read(path)));
        while let Some(action) = actions.pop_front() {
            self.begin(0, action);
            self.until("reading everything", |run| run.workloads[0].under_way() == 0)?;
            let record = self.workloads[0].records.last().expect("it ended");
            match (&record.ending, &record.action) {
                (Ending::Nothing, _) => {
                    return Err(format!("after the faults, no answer: {}", checker::describe(record)));
                }
                (Ending::Listed { rows, .. }, Action::List { path, .. }) => {
                    for row in rows {
                        let path =
                            if path.is_empty() { row.name.clone() } else { format!("{path}/{}", row.name) };
                        let is_directory = row.kind == InodeKind::Directory;
                        actions.push_back(if is_directory { list(&path) } else { read(&path) });
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// All that callers saw, against the plain map. Chunks are never lost here: bytes that can't be had were freed too early (I10).
    fn check(&mut self) -> Result<(), String> {
        for number in 0..self.workloads.len() {
            self.workloads[number].on_crash(self.now);
            self.tally.add("client", "compacted", self.workloads[number].compacted);
        }
        let mut records: Vec<Record> =
            self.workloads.iter().flat_map(|workload| workload.records.iter().cloned()).collect();
        records.sort_by_key(|record| (record.began, record.stamp));
        let refused: u64 = self.callers.iter().map(|caller| caller.refused + caller.refused_removals).sum();
        self.tally.add("log", "refused for space", refused);
        for record in &records {
            self.tally.operations += 1;
            self.tally.count(record.action.name(), record.ending.name());
            if record.outlived {
                self.tally.count(record.action.name(), "outlived its version");
            }
            if let Ending::Found { seen: Seen { kind: InodeKind::File, bytes: None, .. }, .. } = record.ending
            {
                return Err(format!("I10: bytes are gone: {}", checker::describe(record)));
            }
        }
        let summary = checker::check(self.case.seed, &records).map_err(|anomaly| anomaly.to_string())?;
        summary.tally(&mut self.tally);
        Ok(())
    }

    /// I12: the stores hold exactly what versions reference, and no deletion is on its way. Says what is in the way.
    fn garbage(&self) -> Option<String> {
        let Some(replica) = self.unit.replica() else { return Some("no replica serves".to_owned()) };
        let namespace = &replica.state().namespace;
        let query = Query::Usage { volume: self.volume };
        let Ok(Answer::Usage(usage)) = namespace.query(&query, Nanos::SECOND) else {
            return Some("the volume is gone".to_owned());
        };
        let (stored, deleting) = (self.stores.chunks.len() as u64, namespace.deleting_chunks());
        let text = || format!("{stored} stored, {} referenced, {deleting} deleting", usage.chunks);
        (stored != usage.chunks || deleting > 0).then(text)
    }
}
