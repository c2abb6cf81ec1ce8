//! Deletions of reclaimed chunks: sent after the reclaim's entry is committed, repeated until acknowledged, then logged as done (R24).

use std::collections::BTreeMap;

use namespace::Change;
use wire::{ChunkId, Nanos};

use crate::config::DELETES_IN_FLIGHT_MAX;
use crate::event::{Effect, Effects};
use crate::replica::Replica;

/// Acknowledgements that one entry logs.
const ACKED_PER_ENTRY_MAX: usize = 1024;

/// What is on its way to the stores.
#[derive(Clone, Debug, Default)]
pub(crate) struct Deletes {
    /// First id → how many, and when they were sent.
    sent: BTreeMap<ChunkId, (u32, Nanos)>,
    sent_chunks: u64,
    /// Acknowledged, not logged yet.
    acked: Vec<(ChunkId, u32)>,
    /// Rows of the table up to here were looked at in this round.
    cursor: Option<ChunkId>,
}

impl Deletes {
    pub(crate) fn on_deleted(&mut self, first: ChunkId, count: u32) {
        let end = first.ordinal.saturating_add(u64::from(count));
        let last = ChunkId { session: first.session, ordinal: end };
        // A row is on its way as long as no part of it is acknowledged; what is left of it is sent again.
        let low = self.sent.range(..=first).next_back().map_or(first, |(key, _)| *key);
        let rows: Vec<ChunkId> = self
            .sent
            .range(low..last)
            .filter(|(key, (count, _))| {
                key.session == first.session && key.ordinal + u64::from(*count) > first.ordinal
            })
            .map(|(key, _)| *key)
            .collect();
        for key in rows {
            if let Some((count, _)) = self.sent.remove(&key) {
                self.sent_chunks -= u64::from(count);
            }
        }
        // As far as a commit may go: the id behind the last one is a number.
        if count > 0 && first.ordinal.checked_add(u64::from(count)).is_some() {
            self.acked.push((first, count));
        }
    }

    /// Acknowledgements for the next entry.
    pub(crate) fn take_acked(&mut self) -> Vec<Change> {
        let count = self.acked.len().min(ACKED_PER_ENTRY_MAX);
        self.acked.drain(..count).map(|(first, count)| Change::Deleted { first, count }).collect()
    }

    /// Whether upkeep has something to do for deletions soon.
    pub(crate) fn has_acked(&self) -> bool {
        !self.acked.is_empty()
    }
}

impl Replica {
    /// Sends deletions whose reclaim is committed, and again those that weren't acknowledged in time.
    pub(crate) fn send_deletes(&mut self, now: Nanos, effects: &mut Effects) {
        let resend = self.config.delete_resend;
        let late: Vec<(ChunkId, u32)> = self
            .deletes
            .sent
            .iter()
            .filter(|(_, (_, at))| now.since(*at) >= resend)
            .map(|(first, (count, _))| (*first, *count))
            .collect();
        for (first, count) in late {
            self.send_delete(now, first, count, effects);
        }
        let deletes = &self.deletes;
        let mut room = DELETES_IN_FLIGHT_MAX.saturating_sub(deletes.sent_chunks);
        let mut new = Vec::new();
        let mut cursor = deletes.cursor;
        let mut rows = self.state.namespace.deleting_after(cursor);
        while room > 0 {
            let Some((first, row)) = rows.next() else {
                cursor = None; // the next round begins again, and finds what an acknowledgement of a part has left
                break;
            };
            cursor = Some(first);
            if row.since <= self.committed && !deletes.sent.contains_key(&first) {
                room = room.saturating_sub(u64::from(row.count));
                new.push((first, row.count));
            }
        }
        drop(rows);
        self.deletes.cursor = cursor;
        for (first, count) in new {
            self.send_delete(now, first, count, effects);
        }
    }

    fn send_delete(&mut self, now: Nanos, first: ChunkId, count: u32, effects: &mut Effects) {
        if let Some((before, _)) = self.deletes.sent.insert(first, (count, now)) {
            self.deletes.sent_chunks -= u64::from(before);
        }
        self.deletes.sent_chunks += u64::from(count);
        self.metrics.deletes_sent += u64::from(count);
        effects.list.push(Effect::DeleteChunks { first, count, orphans: false, holder: None });
    }
}
