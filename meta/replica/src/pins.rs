//! Pins: long reads that hold what they read against reclaim (R25). Soft state of the head.
//!
//! A pin names a version, but holds more: everything in its volume that ended later than `reclaim_delay` before the pin was first heard of. That covers
//! every chunk of the version that existed when the read began, however it is shared with other files, and needs no list of them.

use std::collections::BTreeMap;

use wire::meta::Pin;
use wire::planted::{Bug, planted};
use wire::{Nanos, SessionId, Timestamp, VolumeId};

/// All pins.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pins {
    rows: BTreeMap<(SessionId, Pin), Row>,
}

#[derive(Clone, Copy, Debug)]
struct Row {
    first: Nanos,
    heard: Nanos,
    since: Timestamp,
}

impl Pins {
    pub(crate) fn len(&self) -> usize {
        self.rows.len()
    }

    /// Pins of one session.
    pub(crate) fn len_of(&self, session: SessionId) -> usize {
        self.rows.keys().filter(|(owner, _)| *owner == session).count()
    }

    /// The session's pins are these and no others.
    pub(crate) fn set(&mut self, session: SessionId, pins: &[Pin], now: Nanos, since: Timestamp) {
        self.rows.retain(|(owner, pin), _| *owner != session || pins.contains(pin));
        if planted(Bug::ReplicaForgetsPins) {
            return;
        }
        for pin in pins {
            let row = self.rows.entry((session, *pin)).or_insert(Row { first: now, heard: now, since });
            row.heard = now;
        }
    }

    pub(crate) fn end_session(&mut self, session: SessionId) {
        self.rows.retain(|(owner, _), _| *owner != session);
    }

    /// Drops pins that weren't repeated for `ttl`, or are older than `max`.
    pub(crate) fn expire(&mut self, now: Nanos, ttl: u64, max: u64) {
        self.rows.retain(|_, row| now.since(row.heard) < ttl && now.since(row.first) < max);
    }

    /// For each volume with pins: nothing that ended at this time or later is reclaimed.
    pub(crate) fn held_since(&self, reclaim_delay: u64) -> BTreeMap<VolumeId, Timestamp> {
        let mut held = BTreeMap::new();
        for ((_, pin), row) in &self.rows {
            let since = Timestamp(row.since.0.saturating_sub_unsigned(reclaim_delay));
            let earliest: &mut Timestamp = held.entry(pin.volume).or_insert(since);
            *earliest = since.min(*earliest);
        }
        held
    }
}
