//! Chunks that were deleted a moment ago. What a source listed before it heard of a delete may still be on its way here: dead is for ever (R23).

use std::collections::{BTreeSet, VecDeque};

use wire::{ChunkId, Nanos};

/// Deletes that are remembered; about 2 MiB.
const DEAD_MAX: usize = 32_768;
/// And for how long: more than an answer may take.
const DEAD_NANOS: u64 = 60 * Nanos::SECOND;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Dead {
    order: VecDeque<(Nanos, ChunkId)>,
    ids: BTreeSet<ChunkId>,
    /// When the newest one was deleted of those that are forgotten.
    forgotten_upto: Nanos,
}

impl Dead {
    pub(crate) fn insert(&mut self, now: Nanos, id: ChunkId) {
        if self.ids.insert(id) {
            self.order.push_back((now, id));
        }
        let is_old = |(at, _): &(Nanos, ChunkId)| now.since(*at) >= DEAD_NANOS;
        while self.order.len() > DEAD_MAX || self.order.front().is_some_and(is_old) {
            let Some((at, id)) = self.order.pop_front() else { break };
            self.ids.remove(&id);
            self.forgotten_upto = at;
        }
    }

    pub(crate) fn holds(&self, id: ChunkId) -> bool {
        self.ids.contains(&id)
    }

    /// Whether all deletes since then are remembered.
    pub(crate) fn knows_since(&self, at: Nanos) -> bool {
        at > self.forgotten_upto || self.forgotten_upto == Nanos(0)
    }
}

#[cfg(test)]
mod tests {
    use wire::SessionId;

    use super::*;

    #[test]
    fn what_is_forgotten_is_known_to_be() {
        let id = |ordinal| ChunkId { session: SessionId(1), ordinal };
        let mut dead = Dead::default();
        dead.insert(Nanos(5), id(1));
        assert!(dead.holds(id(1)) && dead.knows_since(Nanos(1)));
        let later = Nanos(5).after(DEAD_NANOS);
        dead.insert(later, id(2));
        assert!(!dead.holds(id(1)) && dead.holds(id(2)));
        assert!(!dead.knows_since(Nanos(5)) && dead.knows_since(Nanos(6)));
        for ordinal in 0..DEAD_MAX as u64 {
            dead.insert(later, id(10 + ordinal));
        }
        assert!(!dead.holds(id(2)) && !dead.knows_since(later));
    }
}
