//! The orphan pass: chunks that no commit ever named, found in the stores' inventories once their session is closed (R24).
//!
//! An id is an orphan when this group minted it, its session is closed, and no table knows it. The verdict is final when the entries that it rests on
//! are committed: a closed session commits nothing, and dead is for ever (R22, R23). Ids of sessions that aren't born yet are kept (R2).
//!
//! Stores that hold chunks of sessions which this log never opened are newer than it: an old backup of the log was put back. What it takes for orphans may
//! then belong to files that the right log knows, so nothing of the present generation is deleted in this life. Those chunks may be the last ones of an
//! inventory, and the log hands out their sessions' ids again: the first pass of a life begins at once and deletes nothing.

use std::collections::VecDeque;

use namespace::ChunkState;
use wire::planted::{Bug, planted};
use wire::{ChunkId, CommitIndex, Nanos};

use crate::event::{Effect, Effects};
use crate::replica::{Replica, count};

/// An inventory that doesn't come within this time is asked for again.
const INVENTORY_TIMEOUT: u64 = 60 * Nanos::SECOND;
/// The same of the first pass, whose first page is asked for when the driver may not know the stores yet.
const FIRST_INVENTORY_TIMEOUT: u64 = 2 * Nanos::SECOND;

/// Where the pass stands.
#[derive(Clone, Debug)]
pub(crate) struct Orphans {
    stage: Stage,
    /// Stores of chunks, by their index in the map, in order. They aren't the map's first ones: each node's log stands among them.
    sources: Vec<u16>,
    /// Verdicts that wait for the commit of what they rest on.
    verdicts: VecDeque<Verdict>,
    /// The first pass was made.
    has_looked: bool,
    /// Chunks of sessions that were never opened: in the last pass, and so far in this one.
    unopened: (u64, u64),
    /// There were some in this life.
    is_log_older: bool,
}

#[derive(Clone, Copy, Debug)]
enum Stage {
    /// Until then.
    Idle(Nanos),
    /// A page was asked for.
    Asked { source: u16, after: Option<ChunkId>, at: Nanos },
}

#[derive(Clone, Copy, Debug)]
struct Verdict {
    index: CommitIndex,
    /// The store that has them.
    source: u16,
    first: ChunkId,
    count: u32,
}

impl Orphans {
    pub(crate) fn new(first: Nanos, sources: Vec<u16>) -> Self {
        Self {
            stage: Stage::Idle(first),
            sources,
            verdicts: VecDeque::new(),
            has_looked: false,
            unopened: (0, 0),
            is_log_older: false,
        }
    }

    /// The same at the beginning of another time as head.
    pub(crate) fn again(&self, first: Nanos) -> Self {
        Self::new(first, self.sources.clone())
    }

    /// The first store behind this one.
    fn next_source(&self, after: Option<u16>) -> Option<u16> {
        self.sources.iter().copied().find(|source| after.is_none_or(|after| *source > after))
    }

    pub(crate) fn unopened(&self) -> u64 {
        self.unopened.0.max(self.unopened.1)
    }

    fn end_pass(&mut self, next: Nanos) {
        self.stage = Stage::Idle(next);
        self.has_looked = true;
        self.unopened = (self.unopened.1, 0);
    }
}

impl Replica {
    /// The map's stores of chunks, by their index there: whose inventories a pass asks for. One that is asked and isn't among them any more is passed over.
    pub fn set_inventory_sources(&mut self, now: Nanos, mut sources: Vec<u16>) {
        sources.sort_unstable();
        self.orphans.sources = sources;
        if let Stage::Asked { source, .. } = self.orphans.stage
            && !self.orphans.sources.contains(&source)
        {
            // Nobody may answer for it: the next tick asks whoever comes behind it.
            self.orphans.stage = match self.orphans.next_source(Some(source)) {
                Some(next) => Stage::Asked { source: next, after: None, at: Nanos(0) },
                None => Stage::Idle(now),
            };
        }
    }

    /// Begins a pass when it is time, or asks again for a page that didn't come.
    pub(crate) fn advance_orphans(&mut self, now: Nanos, effects: &mut Effects) {
        let patience = if self.orphans.has_looked { INVENTORY_TIMEOUT } else { FIRST_INVENTORY_TIMEOUT };
        let ask = match self.orphans.stage {
            Stage::Idle(until) if now >= until => self.orphans.next_source(None).map(|first| (first, None)),
            Stage::Asked { source, after, at } if now.since(at) >= patience => Some((source, after)),
            _ => None,
        };
        if let Some((source, after)) = ask {
            self.ask_inventory(now, source, after, effects);
        }
    }

    fn ask_inventory(&mut self, now: Nanos, source: u16, after: Option<ChunkId>, effects: &mut Effects) {
        self.orphans.stage = Stage::Asked { source, after, at: now };
        effects.list.push(Effect::RequestInventory { source, after });
    }

    pub(crate) fn on_inventory(
        &mut self,
        now: Nanos,
        source: u16,
        ids: &[ChunkId],
        end: bool,
        effects: &mut Effects,
    ) {
        let Stage::Asked { source: asked, after, .. } = self.orphans.stage else { return };
        if asked != source {
            return; // a late page of a source that was given up
        }
        let index = self.state.namespace.index();
        for &id in ids {
            if id.session.group() == self.config.group && self.state.is_unopened(id.session) {
                self.orphans.unopened.1 += 1;
                self.orphans.is_log_older = true;
            }
        }
        for &id in ids {
            if self.is_orphan(id) && !planted(Bug::OrphansStay) {
                self.metrics.orphans += 1;
                push(&mut self.orphans.verdicts, Verdict { index, source, first: id, count: 1 });
            }
        }
        self.send_orphans(effects);
        let last = ids.last().copied().filter(|last| Some(*last) > after);
        match (last, self.orphans.next_source(Some(source))) {
            (Some(last), _) if !end => self.ask_inventory(now, source, Some(last), effects),
            (_, Some(next)) => self.ask_inventory(now, next, None, effects),
            (_, None) => self.orphans.end_pass(now.after(self.config.orphan_interval)),
        }
    }

    fn is_orphan(&self, id: ChunkId) -> bool {
        let Orphans { has_looked, is_log_older, .. } = self.orphans;
        has_looked
            && (!is_log_older || id.session.generation() < self.state.generation)
            && id.session.group() == self.config.group // R27
            && self.state.is_closed(id.session) // R21, R22
            && self.state.namespace.chunk_state(id) == ChunkState::Unknown // R25: not doomed, R24: not deleting
    }

    /// What stores may do with chunks that only some of them hold (R2). Dead is what the log has reclaimed, or what the orphan pass would free; all else stays.
    /// The answer leaves when this index is committed (R22).
    pub(crate) fn chunk_states(&self, ids: &[ChunkId]) -> Vec<wire::meta::ChunkState> {
        let state = |&id: &ChunkId| match self.state.namespace.chunk_state(id) {
            ChunkState::Referenced | ChunkState::Doomed => wire::meta::ChunkState::Live { root: None },
            ChunkState::Deleting => wire::meta::ChunkState::Dead,
            ChunkState::Unknown if self.is_orphan(id) => wire::meta::ChunkState::Dead,
            ChunkState::Unknown => wire::meta::ChunkState::Open,
        };
        ids.iter().map(state).collect()
    }

    /// Verdicts whose entries are committed go to the stores.
    pub(crate) fn send_orphans(&mut self, effects: &mut Effects) {
        while let Some(verdict) = self.orphans.verdicts.front().copied()
            && verdict.index <= self.committed
        {
            self.orphans.verdicts.pop_front();
            let Verdict { first, count, source, .. } = verdict;
            effects.list.push(Effect::DeleteChunks { first, count, orphans: true, holder: Some(source) });
        }
        assert!(count(self.orphans.verdicts.len()) <= 1 << 20, "a pass waits for its pages");
    }
}

/// Joins a verdict to the one before where the ids follow each other.
fn push(verdicts: &mut VecDeque<Verdict>, next: Verdict) {
    if let Some(last) = verdicts.back_mut()
        && (last.index, last.source) == (next.index, next.source)
        && last.first.session == next.first.session
        && last.first.ordinal + u64::from(last.count) == next.first.ordinal
    {
        last.count += 1;
        return;
    }
    verdicts.push_back(next);
}
