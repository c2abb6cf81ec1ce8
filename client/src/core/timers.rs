//! What is to happen when. One entry for each thing that waits; setting it again moves it.

use std::collections::{BTreeMap, BTreeSet};

use wire::Nanos;

#[derive(Debug)]
pub(super) struct Timers<K> {
    queue: BTreeSet<(Nanos, K)>,
    due: BTreeMap<K, Nanos>,
}

impl<K: Ord + Copy> Timers<K> {
    pub(super) fn new() -> Self {
        Self { queue: BTreeSet::new(), due: BTreeMap::new() }
    }

    pub(super) fn set(&mut self, key: K, at: Nanos) {
        match self.due.insert(key, at) {
            Some(before) if before == at => return,
            Some(before) => {
                self.queue.remove(&(before, key));
            }
            None => {}
        }
        self.queue.insert((at, key));
    }

    pub(super) fn clear(&mut self, key: K) {
        if let Some(at) = self.due.remove(&key) {
            self.queue.remove(&(at, key));
        }
    }

    pub(super) fn next(&self) -> Option<Nanos> {
        self.queue.first().map(|(at, _)| *at)
    }

    /// Takes out the first entry whose time has come.
    pub(super) fn pop_due(&mut self, now: Nanos) -> Option<K> {
        let (at, key) = *self.queue.first()?;
        if at > now {
            return None;
        }
        self.queue.pop_first();
        self.due.remove(&key);
        Some(key)
    }
}
