//! When a checkpoint is made, and what its pages hold: the index, page by page, while batches go on.
//!
//! ```text
//! offset size                               (an entry of a page)
//!    0    16  chunk id
//!   16     8  root
//!   24     4  length in bytes
//!   28     4  segment
//!   32     4  payload's first block in the segment
//!   36     4  leaf table's word in the segment
//! ```

use journal::entry::payload_blocks;
use journal::{BlockIndex, JOINTS_MAX, PageContent, Place, SegmentIndex};
use wire::limits::CHUNK_BYTES_MAX;
use wire::planted::{Bug, planted};
use wire::{ChunkId, Memory};

use super::{Stage, Store};
use crate::api::{Effect, Effects};
use crate::index::IndexEntry;

/// Bytes of an entry.
pub(crate) const PAGE_ENTRY_BYTES: usize = 40;
/// Batches between checkpoints, at least: a restart reads that many descriptors, at 100 µs each 1.6 s.
const BATCHES_MIN: u64 = 16_384;
/// An index this many times larger allows as many more batches, so that checkpoints stay a small part of what is written.
const ENTRIES_PER_BATCH: u64 = 64;

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Keeper {
    /// The last chunk in a page.
    cursor: Option<ChunkId>,
    /// A checkpoint found no room: not again before something has changed.
    waits: bool,
    closing: bool,
}

impl Store {
    pub(super) fn on_shutdown(&mut self, effects: &mut Effects) {
        match self.stage {
            Stage::Serving => self.stage = Stage::Closing,
            Stage::Closing => {}
            Stage::Opening | Stage::Closed | Stage::Fenced | Stage::Failed => {
                effects.list.push(Effect::ShutDown);
            }
        }
    }

    /// True if a checkpoint was begun.
    pub(super) fn pump_checkpoint<M: Memory>(&mut self, memory: &mut M, effects: &mut Effects) -> bool {
        let mut began = false;
        self.device.set_checkpoint_reserve(self.checkpoint_need());
        let is_quiet = self.writes.is_empty() && self.device.in_flight() == 0;
        if !self.device.is_checkpointing() {
            let closes = self.stage == Stage::Closing && is_quiet && !self.cleaner.is_busy();
            if closes || self.must_checkpoint() || (!self.keeper.waits && self.wants_checkpoint()) {
                began = self.device.begin_checkpoint(closes);
                self.keeper = Keeper { cursor: None, waits: !began, closing: closes };
                if closes && !began {
                    self.close(effects);
                }
            }
        }
        while self.device.wants_page() {
            let Some((slot, start)) = self.device.allocate_page(memory) else { break };
            let content = self.fill_page(&mut memory.bytes_mut(slot)[start..]);
            self.device.checkpoint_page(slot, content, memory, &mut effects.io);
        }
        began
    }

    fn fill_page(&mut self, bytes: &mut [u8]) -> PageContent {
        let fits = self.device.page_content_max() / PAGE_ENTRY_BYTES;
        let mut rest = self.index.after(self.keeper.cursor);
        if self.keeper.closing && self.keeper.cursor.is_none() && planted(Bug::StoreEndsEarly) {
            rest.next();
        }
        let mut count = 0;
        let mut cursor = self.keeper.cursor;
        for (entry, bytes) in rest.by_ref().take(fits).zip(bytes.chunks_exact_mut(PAGE_ENTRY_BYTES)) {
            encode_entry(&entry, bytes);
            cursor = Some(entry.id);
            count += 1;
        }
        let last = rest.next().is_none();
        self.keeper.cursor = cursor;
        PageContent { length: count * PAGE_ENTRY_BYTES, entries: count, last }
    }

    /// Recovery found no way through the log: the next start has none either, before a checkpoint is there. It begins as soon as it has room.
    fn must_checkpoint(&self) -> bool {
        let segments = self.device.segments();
        self.stage == Stage::Serving
            && self.device.needs_checkpoint()
            && segments.ready() + segments.unwritten() >= self.checkpoint_need()
    }

    fn wants_checkpoint(&self) -> bool {
        let since = self.device.durable_sequence() - self.device.checkpoint_sequence();
        let is_long = since > BATCHES_MIN.max(self.index.count() / ENTRIES_PER_BATCH);
        // R32: drained segments become free once both checkpoints are beyond them.
        let is_tight = self.is_tight();
        let has_restarts = self.device.superblock().joints.len() > JOINTS_MAX / 2;
        is_long || (is_tight && self.device.checkpoint_frees()) || has_restarts
    }

    pub(super) fn on_checkpoint_done(&mut self, effects: &mut Effects) {
        self.keeper.waits = false;
        if self.keeper.closing {
            self.close(effects);
        }
    }

    /// The last checkpoint isn't tried twice: without it the next start replays the log, and nothing is lost.
    pub(super) fn on_checkpoint_failed(&mut self, effects: &mut Effects) {
        self.keeper.waits = true;
        if self.keeper.closing {
            self.close(effects);
        }
    }

    pub(super) fn keeper_tick(&mut self) {
        self.keeper.waits = false;
    }

    fn close(&mut self, effects: &mut Effects) {
        self.stage = Stage::Closed;
        effects.list.push(Effect::ShutDown);
    }

    /// A page of the newest checkpoint.
    pub(super) fn absorb_page(&mut self, content: &[u8], entries: u32) {
        self.identify();
        for entry in decode_entries(content, entries) {
            // A file that has lost its end is refused, or the loss is accepted; neither is a reason to panic.
            if !self.device.segments().is_allocated(entry.place.segment) {
                self.chunks_lost += 1;
                continue;
            }
            let blocks = payload_blocks(entry.length);
            if let Some(old) = self.index.insert(&entry) {
                self.device.segments_mut().remove_live(old.place.segment, payload_blocks(old.length), 0);
            }
            self.device.segments_mut().add_live(entry.place.segment, blocks);
        }
    }

    /// The file had lost its end, and ended inside this segment: chunks that aren't there as a whole are lost. A chunk whose other place was
    /// found, or whose tombstone was, isn't among them.
    pub(super) fn forget_behind(&mut self, end: Place, sequence: u64) {
        let is_behind = |entry: &IndexEntry| {
            entry.place.segment == end.segment
                && entry.place.block.0 + payload_blocks(entry.length) > end.block.0
        };
        let lost: Vec<IndexEntry> = self.index.after(None).filter(is_behind).collect();
        for entry in lost {
            self.index.remove(entry.id);
            self.device.segments_mut().remove_live(end.segment, payload_blocks(entry.length), sequence);
            self.chunks_lost += 1;
        }
    }

    /// Segments that one more checkpoint takes.
    pub(super) fn checkpoint_need(&self) -> u32 {
        let bytes = (self.index.count() + 1) * PAGE_ENTRY_BYTES as u64;
        let segment_bytes = u64::from(self.device.geometry().segment_bytes());
        // A page's end and a segment's stay unused.
        u32::try_from(bytes * 9 / 8 / segment_bytes + 1).unwrap_or(u32::MAX)
    }
}

fn encode_entry(entry: &IndexEntry, bytes: &mut [u8]) {
    bytes[..16].copy_from_slice(&entry.id.to_bytes());
    bytes[16..24].copy_from_slice(&entry.root.to_le_bytes());
    bytes[24..28].copy_from_slice(&entry.length.to_le_bytes());
    bytes[28..32].copy_from_slice(&entry.place.segment.0.to_le_bytes());
    bytes[32..36].copy_from_slice(&entry.place.block.0.to_le_bytes());
    bytes[36..40].copy_from_slice(&entry.leaf_word.to_le_bytes());
}

/// The entries of a page, as far as they are possible.
pub(crate) fn decode_entries(content: &[u8], entries: u32) -> impl Iterator<Item = IndexEntry> + '_ {
    let word = |bytes: &[u8], at: usize| {
        u32::from_le_bytes(bytes[at..at + 4].try_into().expect("an entry has 40 bytes"))
    };
    let listed = content.chunks_exact(PAGE_ENTRY_BYTES).take(entries as usize);
    listed
        .map(move |bytes| IndexEntry {
            id: ChunkId::from_bytes(bytes[..16].try_into().expect("16 bytes")),
            root: u64::from_le_bytes(bytes[16..24].try_into().expect("8 bytes")),
            length: word(bytes, 24),
            place: Place { segment: SegmentIndex(word(bytes, 28)), block: BlockIndex(word(bytes, 32)) },
            leaf_word: word(bytes, 36),
        })
        .filter(|entry| {
            (1..=CHUNK_BYTES_MAX).contains(&entry.length)
                && entry.place.block.0 < 1 << 14
                && entry.leaf_word < 1 << 23
        })
}

#[cfg(all(test, not(planted)))]
mod tests {
    use super::*;
    use crate::testing::{Bench, config};

    /// A last checkpoint that found no room was begun again at once, for ever: pages were written and given up without end.
    #[test]
    fn a_last_checkpoint_without_room_ends_the_store() {
        let mut bench = Bench::format(1, config(32));
        bench.run();
        let store = &mut bench.store;
        (store.stage, store.keeper.closing) = (Stage::Closing, true);
        store.on_checkpoint_failed(&mut bench.effects);
        assert_eq!((bench.effects.list.as_slice(), store.stage), (&[Effect::ShutDown][..], Stage::Closed));
    }
}
