//! What a client does: random operations on few paths, so that they meet; several at once; now and then one is given up. What it chooses from
//! is `workload/menu.rs`.

mod menu;

use std::collections::BTreeMap;

use client::core::{Call, Done, Failure, ReadId, Ticket, UploadId};
use wire::{Memory, Nanos, VolumeId};

use crate::content::Stamp;
use crate::history::{Action, Ending, Path, Record};
use crate::random::Random;
use crate::task::{Setting, Step, Task, Tickets, Wish};

/// Files that the clients fight for.
pub(crate) const FILES: &[&str] = &["a", "b", "d/a", "d/b", "e/a"];
/// Directories that they make, fill, move and remove.
pub(crate) const DIRECTORIES: &[&str] = &["d", "e", "d/f"];
/// Symbolic links.
pub(crate) const LINKS: &[&str] = &["l", "m", "d/l"];

/// Mutations without an outcome after which a client changes nothing more.
const UNKNOWN_MAX: usize = 4;

/// What the workload wants of its client's core.
#[derive(Debug)]
pub(crate) enum Order {
    /// A call.
    Call(Ticket, Call, u64),
    /// An upload is over.
    CloseUpload(UploadId),
    /// A read is over.
    CloseRead(ReadId),
    /// Nobody waits any more.
    Cancel(Ticket),
    /// [`Workload::on_wake`] with this number after so many nanoseconds.
    Wake(u64, u64),
}

/// One client's operations.
#[derive(Debug)]
pub(crate) struct Workload {
    client: usize,
    setting: Setting,
    random: Random,
    /// Which reads compact: a stream of its own.
    compacts: Random,
    /// How many did.
    pub compacted: u64,
    menu: menu::Menu,
    tasks: BTreeMap<u64, Task>,
    tickets: Tickets,
    last_task: u64,
    /// Versions that this client saw, for conditions.
    versions: BTreeMap<Path, u64>,
    /// What has ended.
    pub records: Vec<Record>,
    /// Operations at once, at most.
    pub width: usize,
    /// Typical nanoseconds between operations.
    restlessness: u64,
    /// It waits a minute for each answer.
    pub(crate) is_patient: bool,
}

impl Workload {
    /// The workload of client number `client`.
    pub(crate) fn new(seed: u64, client: usize, volume: VolumeId, chunk_bytes: u64) -> Self {
        let mut random = Random::stream(seed, &format!("workload {client}"));
        let roots = *random.pick(&[2, 16, 8192]);
        let width = *random.pick(&[1, 2, 4]);
        let restlessness = *random.pick(&[2, 20, 60]) * Nanos::MILLISECOND;
        Self {
            client,
            setting: Setting { seed, volume, chunk_bytes, roots },
            menu: menu::Menu::new(seed),
            compacts: Random::stream(seed, &format!("compactions {client}")),
            compacted: 0,
            random,
            tasks: BTreeMap::new(),
            tickets: Tickets::default(),
            last_task: 0,
            versions: BTreeMap::new(),
            records: Vec::new(),
            width,
            restlessness,
            is_patient: false,
        }
    }

    /// Operations under way.
    pub(crate) fn under_way(&self) -> usize {
        self.tasks.len()
    }

    /// Whether another operation may begin.
    pub(crate) fn has_room(&self) -> bool {
        self.tasks.len() < self.width
    }

    /// When to think of the next operation.
    pub(crate) fn pause(&mut self) -> u64 {
        let failed = self.records.last().is_some_and(|last| {
            matches!(last.ending, Ending::Unknown | Ending::NotExecuted | Ending::Nothing)
        });
        // Who gets no answer waits before trying the next thing.
        if failed || self.random.per_mille(20) {
            self.random.between(1, 4) * Nanos::SECOND
        } else {
            self.random.latency(self.restlessness)
        }
    }

    /// Begins an operation.
    pub(crate) fn begin(&mut self, now: Nanos, stamp: Stamp, action: Action, orders: &mut Vec<Order>) {
        self.last_task += 1;
        let number = self.last_task;
        let client = self.client;
        let (ending, outlived) = (Ending::Nothing, false);
        let record = Record { stamp, client, action, began: now, ended: now, ending, outlived };
        let stages = self.random.per_mille(150);
        let mut wishes = Vec::new();
        let compacts = self.compacts.per_mille(200);
        let task = Task::begin(self.setting, record, (stages, compacts), &mut wishes);
        self.tasks.insert(number, task);
        self.order(number, wishes, orders);
    }

    /// A call was finished.
    pub(crate) fn on_done(
        &mut self,
        now: Nanos,
        ticket: Ticket,
        result: Result<Done, Failure>,
        memory: &mut impl Memory,
        orders: &mut Vec<Order>,
    ) -> Option<&Record> {
        let Some((number, part)) = self.tickets.take(ticket) else {
            // Cancelled, and finished nevertheless: what it holds goes back.
            if let Ok(Done::Bytes { slot, .. }) = result {
                memory.release(slot);
            }
            return None;
        };
        let task = self.tasks.get_mut(&number).expect("a ticket's task lives");
        let mut wishes = Vec::new();
        let step = task.on_done(now, self.setting, part, result, memory, &mut wishes);
        self.order(number, wishes, orders);
        match step {
            Step::On => None,
            Step::Over(ending) => Some(self.end(now, number, ending)),
        }
    }

    /// A pause that a task asked for is over; it may be gone by now.
    pub(crate) fn on_wake(&mut self, number: u64, orders: &mut Vec<Order>) {
        let Some(task) = self.tasks.get_mut(&number) else { return };
        let mut wishes = Vec::new();
        task.on_wake(&mut wishes);
        self.order(number, wishes, orders);
    }

    /// Gives up a random operation, as a caller does who drops what it waits for.
    pub(crate) fn cancel_one(&mut self, now: Nanos, orders: &mut Vec<Order>) -> Option<&Record> {
        let numbers: Vec<u64> = self.tasks.keys().copied().collect();
        if numbers.is_empty() {
            return None;
        }
        let number = *self.random.pick(&numbers);
        orders.extend(self.tickets.revoke(number).into_iter().map(Order::Cancel));
        let mut wishes = Vec::new();
        let ending = self.tasks[&number].abandoned(&mut wishes);
        self.order(number, wishes, orders);
        Some(self.end(now, number, ending))
    }

    /// The process is gone, and with it all that was under way.
    pub(crate) fn on_crash(&mut self, now: Nanos) -> usize {
        let numbers: Vec<u64> = self.tasks.keys().copied().collect();
        for &number in &numbers {
            self.tickets.revoke(number);
            let ending = self.tasks[&number].abandoned(&mut Vec::new());
            self.end(now, number, ending);
        }
        numbers.len()
    }

    fn end(&mut self, now: Nanos, number: u64, ending: Ending) -> &Record {
        let task = self.tasks.remove(&number).expect("it was under way");
        self.compacted += u64::from(task.has_compacted);
        self.records.extend(task.pages);
        let mut record = task.record;
        record.ended = now;
        record.ending = ending;
        if let Some(path) = record.action.paths()[0] {
            match &record.ending {
                Ending::Found { seen, .. } if seen.version > 0 => {
                    self.versions.insert(path.clone(), seen.version);
                }
                Ending::Executed { version, .. } if *version > 0 => {
                    self.versions.insert(path.clone(), *version);
                }
                _ => {}
            }
        }
        self.records.push(record);
        self.records.last().expect("just pushed")
    }

    fn order(&mut self, number: u64, wishes: Vec<Wish>, orders: &mut Vec<Order>) {
        for wish in wishes {
            orders.push(match wish {
                Wish::Call(part, call) => {
                    Order::Call(self.tickets.issue(number, part), call, self.patience())
                }
                Wish::CloseUpload(upload) => Order::CloseUpload(upload),
                Wish::CloseRead(read) => Order::CloseRead(read),
                Wish::Wake(pause) => Order::Wake(number, pause),
            });
        }
    }

    fn patience(&mut self) -> u64 {
        if self.is_patient {
            return 60 * Nanos::SECOND;
        }
        match self.random.below(10) {
            0 if self.random.per_mille(200) => self.random.between(1, 50) * Nanos::MILLISECOND,
            0..=3 => self.random.between(1, 3) * Nanos::SECOND,
            _ => self.random.between(5, 40) * Nanos::SECOND,
        }
    }

    /// What to do next.
    pub(crate) fn choose(&mut self) -> Action {
        // Each mutation without an outcome multiplies what the checker has to consider: after a few the client reads only.
        let unknown = self.records.iter().filter(|record| record.ending == Ending::Unknown).count();
        let reads_only = unknown >= UNKNOWN_MAX;
        self.menu.choose(&mut self.random, &self.versions, self.setting.chunk_bytes, reads_only)
    }
}
