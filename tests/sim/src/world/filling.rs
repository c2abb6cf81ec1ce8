//! The metadata log of the whole node is filled until it says so: removals go through all the same (R17), and afterwards everything else again.

use client::core::{Done, Failure, Ticket};
use wire::{Nanos, Status, VolumeId};

use super::{Happening, QUIET_LIMIT, World};
use crate::filling::{DIRECTORIES_MAX, WIDTH, make_directory, remove, ticket};
use crate::workload::Order;

/// Which one of so many seeds does it.
const SEEDS: u64 = 6;
/// How long a client waits for each answer.
const PATIENCE: u64 = 60 * Nanos::SECOND;
/// Tries of a write after the log was full; half a second lies between them.
const TRIES_MAX: u64 = 200;

impl World {
    /// After everything that clients saw was checked: what is done here is no part of it.
    pub(super) fn fill_log(&mut self, volume: VolumeId) -> Result<(), String> {
        if self.random.below(SEEDS) > 0 {
            return Ok(());
        }
        let client = self.clients.len();
        self.add_client(client, volume);
        let mut made = 0;
        while !self.direct.values().any(|status| *status == Some(Status::NoSpace)) {
            made += 1;
            if made > DIRECTORIES_MAX {
                return Err(format!("{DIRECTORIES_MAX} directories don't fill the log"));
            }
            self.ask(client, made, make_directory(volume, made));
            self.until("filling the log", QUIET_LIMIT, |world| world.under_way() < WIDTH)?;
        }
        self.until("answers of a full log", QUIET_LIMIT, |world| world.under_way() == 0)?;
        self.tally.count("log", "full");
        for number in 1..=made {
            if self.direct.remove(&ticket(number)) == Some(Some(Status::Ok)) {
                self.ask(client, number, remove(volume, number));
                self.until("removals while the log is full", QUIET_LIMIT, |world| world.under_way() < WIDTH)?;
            }
        }
        self.until("removals while the log is full", QUIET_LIMIT, |world| world.under_way() == 0)?;
        if let Some((_, status)) = self.direct.iter().find(|(_, status)| **status != Some(Status::Ok)) {
            return Err(format!("R17: a removal while the log is full is answered {status:?}"));
        }
        for number in made + 1..made + TRIES_MAX {
            self.ask(client, number, make_directory(volume, number));
            self.until("a write after the log was full", QUIET_LIMIT, |world| world.under_way() == 0)?;
            if self.direct[&ticket(number)] == Some(Status::Ok) {
                self.ask(client, made, remove(volume, number));
                return self.until("the last removal", QUIET_LIMIT, |world| world.under_way() == 0);
            }
            let later = self.schedule.now().after(Nanos::SECOND / 2);
            self.schedule.at(later, Happening::Fault);
            self.until("space", QUIET_LIMIT, |world| world.schedule.now() >= later)?;
        }
        Err("a log that was full goes on refusing".to_owned())
    }

    fn ask(&mut self, client: usize, number: u64, call: client::core::Call) {
        self.direct.insert(ticket(number), None);
        let finished = self.give(client, vec![Order::Call(ticket(number), call, PATIENCE)]);
        self.take_finished(client, finished);
    }

    fn under_way(&self) -> usize {
        self.direct.values().filter(|status| status.is_none()).count()
    }

    /// Takes a result of this stage in; `false` for a workload's.
    pub(super) fn on_direct(&mut self, ticket: Ticket, result: &Result<Done, Failure>) -> bool {
        let status = match result {
            Ok(Done::Outcome(outcome)) => outcome.status,
            Err(Failure::Refused { status, .. }) => *status,
            _ => Status::Busy,
        };
        self.direct.get_mut(&ticket).is_some_and(|known| known.replace(status).is_none())
    }
}
