//! What a head does by itself: expiry, horizon, reclaim, drain, deletions, the orphan pass. All of it through log entries (R16).

use namespace::{UpkeepRules, plan_upkeep};
use wire::Nanos;

use crate::config::UPKEEP_ENTRIES_MAX;
use crate::event::Effects;
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
}

impl Upkeep {
    pub(crate) fn new(now: Nanos, young_until: Nanos) -> Self {
        Self { next: now, young_until }
    }
}

impl Replica {
    pub(crate) fn on_tick(&mut self, now: Now, effects: &mut Effects) {
        if now.nanos < self.upkeep.next {
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
            hold_everything: now.nanos < self.upkeep.young_until,
        };
        let mut plan = Vec::new();
        plan_upkeep(&self.state.namespace, &rules, |volume| held.get(&volume).copied(), &mut plan);
        plan.truncate(UPKEEP_ENTRIES_MAX);
        let entries = plan.len();
        for change in plan {
            self.log(now, Record::Upkeep { changes: vec![change] }, effects);
        }
        entries
    }
}
