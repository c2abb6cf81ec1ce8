//! Heartbeats that wait for the leadership to be confirmed (R18).
//!
//! A round that began after a heartbeat came, and that a majority answered, proves that no other leader had been elected when it began: the
//! lease that the heartbeat asks for, which begins when it was sent, ends before a later leader stops waiting for it.

use std::collections::BTreeMap;

use wire::control::Life;
use wire::{Nanos, NodeId};

use super::config::{CONFIRM_INTERVAL, CONFIRM_PATIENCE};

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
}

impl Rounds {
    pub(super) fn add(&mut self, node: NodeId, renewal: Renewal) {
        self.gathering.insert(node, renewal);
    }

    /// Begins a round if there is something to confirm and it is time: its number.
    pub(super) fn begin(&mut self, now: Nanos) -> Option<u64> {
        let is_lost = self.is_open && now >= self.began.after(CONFIRM_PATIENCE);
        let is_due = !self.is_open && now >= self.next();
        if !(is_lost || is_due) || (self.gathering.is_empty() && self.waiting.is_empty()) {
            return None;
        }
        self.waiting.append(&mut self.gathering);
        (self.round, self.began, self.is_open) = (self.round + 1, now, true);
        Some(self.round)
    }

    /// When the next round may begin.
    pub(super) fn next(&self) -> Nanos {
        if self.round == 0 { Nanos(0) } else { self.began.after(CONFIRM_INTERVAL) }
    }

    /// The present round is confirmed: the renewals that came before it. A confirmation of an earlier one proves nothing about them.
    pub(super) fn confirmed(&mut self, round: u64) -> BTreeMap<NodeId, Renewal> {
        if !self.is_open || round != self.round {
            return BTreeMap::new();
        }
        self.is_open = false;
        std::mem::take(&mut self.waiting)
    }
}
