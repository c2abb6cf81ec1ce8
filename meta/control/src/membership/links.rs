//! Pairs of nodes that don't reach each other though both reach control. Soft: a new leader learns of them from the next heartbeats.

use std::collections::BTreeMap;

use wire::{Nanos, NodeId};

use super::config::{
    HOLD_DOWN_MAX, HOLD_DOWN_MEMORY, HOLD_DOWN_MIN, LINKS_MAX, SUSPICION_DELAY, SUSPICION_TTL,
};

/// See the module. A pair is named by its lower node first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Links {
    pairs: BTreeMap<(NodeId, NodeId), Link>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Link {
    /// Since when it is complained of without a break.
    since: Nanos,
    /// When that was last.
    last: Nanos,
    /// By whom: the lower one, the higher one.
    by: [bool; 2],
    /// The pair is kept apart until then.
    held_until: Nanos,
    /// How long the last time took.
    hold: u64,
}

impl Links {
    /// `from` says that it can't reach these.
    pub(super) fn complain(&mut self, now: Nanos, from: NodeId, suspects: &[NodeId]) {
        for suspect in suspects.iter().copied().filter(|suspect| *suspect != from) {
            let pair = pair(from, suspect);
            if !self.pairs.contains_key(&pair) && self.pairs.len() >= LINKS_MAX {
                self.forget_one();
            }
            let fresh = Link { since: now, last: now, by: [false; 2], held_until: Nanos(0), hold: 0 };
            let link = self.pairs.entry(pair).or_insert(fresh);
            if now >= link.last.after(SUSPICION_TTL) {
                (link.since, link.by) = (now, [false; 2]);
            }
            link.last = now;
            link.by[usize::from(from != pair.0)] = true;
        }
    }

    /// Forgets what was trusted for long; whether a suspicion has just matured, or a hold-down ended, is for the next look to see.
    pub(super) fn expire(&mut self, now: Nanos) {
        let is_remembered = |link: &Link| {
            now < link.last.after(SUSPICION_TTL) || now < link.held_until.after(HOLD_DOWN_MEMORY)
        };
        self.pairs.retain(|_, link| is_remembered(link));
    }

    pub(super) fn is_empty(&self) -> bool {
        self.pairs.is_empty()
    }

    /// Whether they don't reach each other now.
    pub(super) fn is_suspect(&self, now: Nanos, one: NodeId, other: NodeId) -> bool {
        self.pairs.get(&pair(one, other)).is_some_and(|link| {
            now < link.last.after(SUSPICION_TTL) && now >= link.since.after(SUSPICION_DELAY)
        })
    }

    /// Until when they had better not be neighbours in a chain; `None`: they may.
    pub(super) fn apart_until(&self, now: Nanos, one: NodeId, other: NodeId) -> Option<Nanos> {
        let link = self.pairs.get(&pair(one, other))?;
        let suspect =
            if self.is_suspect(now, one, other) { link.last.after(SUSPICION_TTL) } else { Nanos(0) };
        let until = suspect.max(link.held_until);
        (now < until).then_some(until)
    }

    /// They are parted: for a while, and each time for longer.
    pub(super) fn hold(&mut self, now: Nanos, one: NodeId, other: NodeId) {
        if let Some(link) = self.pairs.get_mut(&pair(one, other))
            && now >= link.held_until
        {
            link.hold = (link.hold * 2).clamp(HOLD_DOWN_MIN, HOLD_DOWN_MAX);
            link.held_until = now.after(link.hold);
        }
    }

    /// How many nodes can't reach it.
    pub(super) fn suspected_by(&self, now: Nanos, node: NodeId) -> u32 {
        let counts = self.pairs.iter().filter(|((low, high), link)| {
            let other = usize::from(*low == node);
            (*low == node || *high == node)
                && link.by[other]
                && now < link.last.after(SUSPICION_TTL)
                && now >= link.since.after(SUSPICION_DELAY)
        });
        u32::try_from(counts.count()).unwrap_or(u32::MAX)
    }

    fn forget_one(&mut self) {
        let oldest = self.pairs.iter().min_by_key(|(_, link)| link.last.max(link.held_until));
        if let Some(pair) = oldest.map(|(pair, _)| *pair) {
            self.pairs.remove(&pair);
        }
    }
}

fn pair(one: NodeId, other: NodeId) -> (NodeId, NodeId) {
    (one.min(other), one.max(other))
}
