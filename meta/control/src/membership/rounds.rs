//! Heartbeats that wait for the leadership to be confirmed (R18).
//!
//! A round that began after a heartbeat came, and that a majority answered, proves that no other leader had been elected when it began: the
//! lease that the heartbeat asks for, which begins when it was sent, ends before a later leader stops waiting for it.
//!
//! Rounds go on while nobody asks for anything, since they say something else too: a leader that stood still, or reached no majority, answered nobody, so
//! silence proves nothing. It takes nobody for dead while no round of the last second was confirmed, and then gives everybody
//! time to be heard again.

use std::collections::BTreeMap;

use wire::control::Life;
use wire::{Nanos, NodeId};

use super::config::{CONFIRM_INTERVAL, CONFIRM_INTERVAL_URGENT, CONFIRM_PATIENCE};

/// A heartbeat that waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Renewal {
    pub(super) life: Life,
    pub(super) sent: Nanos,
}

/// See the module. One renewal a node and round is kept: the newest.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Rounds {
    /// Came after the present round began.
    gathering: BTreeMap<NodeId, Renewal>,
    /// Came before.
    waiting: BTreeMap<NodeId, Renewal>,
    /// The present round's number, or the last one's.
    round: u64,
    began: Nanos,
    is_open: bool,
    /// Somebody waits who hasn't had a lease yet.
    is_urgent: bool,
    /// When the last round began that was confirmed; at first the election.
    confirmed: Nanos,
}

impl Rounds {
    /// From the election on.
    pub(super) fn new(now: Nanos) -> Self {
        Self { confirmed: now, ..Self::default() }
    }

    /// Whether this leader reached a majority in the last moments.
    pub(super) fn is_fresh(&self, now: Nanos) -> bool {
        now < self.confirmed.after(CONFIRM_PATIENCE)
    }

    /// `is_urgent`: it hasn't had a lease yet.
    pub(super) fn add(&mut self, node: NodeId, renewal: Renewal, is_urgent: bool) {
        self.gathering.insert(node, renewal);
        self.is_urgent |= is_urgent;
    }

    /// Begins a round if it is time: its number.
    pub(super) fn begin(&mut self, now: Nanos) -> Option<u64> {
        let is_lost = self.is_open && now >= self.began.after(CONFIRM_PATIENCE);
        let is_due = !self.is_open && now >= self.next();
        if !(is_lost || is_due) {
            return None;
        }
        self.waiting.append(&mut self.gathering);
        (self.round, self.began, self.is_open) = (self.round + 1, now, true);
        self.is_urgent = false;
        Some(self.round)
    }

    /// When the next round may begin.
    pub(super) fn next(&self) -> Nanos {
        let interval = if self.is_urgent { CONFIRM_INTERVAL_URGENT } else { CONFIRM_INTERVAL };
        if self.round == 0 { Nanos(0) } else { self.began.after(interval) }
    }

    /// The present round is confirmed: the renewals that came before it. A confirmation of an earlier one proves nothing about them.
    pub(super) fn confirmed(&mut self, round: u64) -> BTreeMap<NodeId, Renewal> {
        if !self.is_open || round != self.round {
            return BTreeMap::new();
        }
        (self.is_open, self.confirmed) = (false, self.began);
        std::mem::take(&mut self.waiting)
    }
}
