//! What a head does by itself: expiry, horizon, reclaim, drain, deletions, the orphan pass. All of it through log entries (R16).

use namespace::{Change, UpkeepRules, plan_upkeep};
use wire::{Nanos, VolumeId};

use crate::config::UPKEEP_ENTRIES_MAX;
use crate::event::{Effect, Effects, LogSpace};
use crate::record::Record;
use crate::replica::{Now, Replica};

/// While there is more to do than one round does, the next one comes after this time.
const BUSY_INTERVAL: u64 = 20 * Nanos::MILLISECOND;

/// When upkeep is due.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Upkeep {
    pub(crate) next: Nanos,
    /// Until then nothing is dropped or reclaimed (R25).
    young_until: Nanos,
    /// When the last round was.
    last: Nanos,
    /// The volume that had the last turn: the next round begins behind it.
    served: VolumeId,
}

impl Upkeep {
    pub(crate) fn new(now: Nanos, young_until: Nanos) -> Self {
        Self { next: now, young_until, last: now, served: VolumeId(0) }
    }

    /// A head begins, or goes on after a change of epoch; for so long it drops and reclaims nothing (R25).
    pub(crate) fn begin(&mut self, now: Nanos, hold: u64) {
        (self.next, self.last) = (now, now);
        self.young_until = self.young_until.max(now.after(hold));
    }
}

impl Replica {
    /// A wall clock that was set forward makes everything look as much older: until what there is now would have been due without that, nothing is dropped (R25).
    pub(crate) fn watch_clock(&mut self, now: Now, effects: &mut Effects) {
        let Some(nanoseconds) = self.clock.step(now) else { return };
        if nanoseconds > 0 {
            let due = now.nanos.after(self.config.reclaim_delay + self.config.pin_ttl);
            self.upkeep.young_until = self.upkeep.young_until.max(due);
        }
        effects.list.push(Effect::ClockStepped { nanoseconds });
    }

    pub(crate) fn on_tick(&mut self, now: Now, effects: &mut Effects) {
        if now.nanos < self.upkeep.next || !self.chain.is_head() {
            return;
        }
        self.excuse_pause(now);
        if self.log_space > LogSpace::Scarce || !self.may_log() {
            self.upkeep.next = now.nanos.after(self.config.upkeep_interval);
            return;
        }
        let mut entries = self.expire_sessions(now, effects);
        entries += self.tend_history(now, effects);
        let acked = self.deletes.take_acked();
        if !acked.is_empty() {
            self.log(now, Record::Upkeep { changes: acked }, effects);
            entries += 1;
        }
        self.send_deletes(now.nanos, effects);
        self.advance_orphans(now.nanos, effects);
        let busy = entries > 0 || self.deletes.has_acked();
        let interval =
            if busy { BUSY_INTERVAL.min(self.config.upkeep_interval) } else { self.config.upkeep_interval };
        self.upkeep.next = now.nanos.after(interval);
    }

    /// R22: time runs only while a head accepts keepalives. The process may have been stopped, the machine paused, the log's disk stalled: clients who were
    /// silent because nobody listened have their time still.
    fn excuse_pause(&mut self, now: Now) {
        let since = now.nanos.since(self.upkeep.last);
        self.upkeep.last = now.nanos;
        let due = self.config.upkeep_interval;
        if self.is_full() {
            self.heard.excuse(since, now.nanos);
        } else if since > 2 * due {
            self.heard.excuse(since - due, now.nanos);
        }
    }

    /// Sessions of which nothing was heard for their TTL end (R22).
    fn expire_sessions(&mut self, now: Now, effects: &mut Effects) -> usize {
        let expired = self.heard.expired(now.nanos, self.config.session_ttl, UPKEEP_ENTRIES_MAX);
        for &session in &expired {
            self.metrics.sessions_expired += 1;
            self.end_session(now, session, true, effects);
        }
        expired.len()
    }

    fn tend_history(&mut self, now: Now, effects: &mut Effects) -> usize {
        self.pins.expire(now.nanos, self.config.pin_ttl, self.config.pin_max);
        let held = self.pins.held_since(self.config.reclaim_delay);
        let rules = UpkeepRules {
            now: self.next_time(now),
            reclaim_delay: self.config.reclaim_delay,
            memory_short: self.memory_short(),
            log_short: self.log_space > LogSpace::Ample,
            hold_everything: now.nanos < self.upkeep.young_until,
        };
        let mut plan = Vec::new();
        plan_upkeep(&self.state.namespace, &rules, |volume| held.get(&volume).copied(), &mut plan);
        // Where there is more to do than one round does, each volume has its turn (I12).
        let behind = plan.iter().position(|change| volume_of(change) > self.upkeep.served);
        plan.rotate_left(behind.unwrap_or(0));
        plan.truncate(UPKEEP_ENTRIES_MAX);
        let entries = plan.len();
        self.upkeep.served = plan.last().map_or(VolumeId(0), volume_of);
        for change in plan {
            self.log(now, Record::Upkeep { changes: vec![change] }, effects);
        }
        entries
    }
}

fn volume_of(change: &Change) -> VolumeId {
    match change {
        Change::Horizon { volume, .. } | Change::Reclaim { volume, .. } | Change::Drain { volume, .. } => {
            *volume
        }
        _ => unreachable!("upkeep of volumes plans these three"),
    }
}
