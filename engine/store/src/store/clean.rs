//! Making space: a segment with few live chunks is emptied by moving those to the log's end; recycled once both checkpoints are beyond it
//! (R32). Nothing is overwritten in place.
//!
//! ```text
//! Idle ─(free ≤ threshold)→ Collecting: which chunks lie in the victims ─→ Moving: read, verify, write ─→ Idle
//! ```

use std::collections::BTreeSet;

use journal::entry::payload_blocks;
use journal::{DESCRIPTOR_BYTES_MAX, SegmentIndex, SegmentState};
use wire::checksum::{BlockHasher, leaf_count};
use wire::limits::LEAVES_MAX;
use wire::{ChunkId, Memory, Slot};

use super::read::Reader;
use super::{Stage, Store};
use crate::api::Effects;
use crate::index::IndexEntry;

/// Segments emptied in one round.
const VICTIMS_MAX: u32 = 8;
/// Ids collected in a round: 1 MiB of them. What is beyond is left for the next round.
const COLLECTED_MAX: usize = 65_536;
/// Index entries looked at in one event, about 100 µs.
const COLLECT_PER_EVENT: usize = 16_384;
/// Reads of cleaning in flight, and moves waiting to be written: chunks, and blocks. Moves gather into large batches, or cleaning would
/// gain nothing.
const MOVES_MAX: usize = 64;
const MOVES_BLOCKS_MAX: u32 = (8 << 20) / 4096;
/// Chunks that are moved in one batch where nothing else is possible.
const SWAP_MOVES_MAX: usize = 512;
/// Segments fuller than this, in percent, aren't worth emptying: ten bytes moved for one gained.
const UTILIZATION_PERCENT_MAX: u64 = 90;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
enum Phase {
    #[default]
    Idle,
    Collecting(Option<ChunkId>),
    Moving,
}

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Cleaner {
    phase: Phase,
    victims: Vec<SegmentIndex>,
    collected: Vec<ChunkId>,
    reading: usize,
    /// Moves queued or in flight.
    moving: usize,
    /// Blocks of both.
    blocks: u32,
    /// The round empties one segment in one batch, since there is no segment to write more into.
    swaps: bool,
    /// Segments with more live chunks than one batch moves.
    unswappable: BTreeSet<SegmentIndex>,
    /// When the last round began: puts and deletes until then, and free blocks.
    last_round: Option<(u64, u64)>,
    /// The last round gained nothing, and nothing has changed since.
    fruitless: bool,
    /// No buffer, or nothing to gain: not again before the next tick.
    waits: bool,
}

impl Cleaner {
    pub(super) fn is_busy(&self) -> bool {
        self.phase != Phase::Idle || self.moving > 0
    }

    pub(super) fn is_collecting(&self) -> bool {
        matches!(self.phase, Phase::Collecting(_))
    }

    pub(super) fn on_tick(&mut self) {
        self.waits = false;
    }

    /// Whether more moves are about to be queued, or could be: not where all that may be read at once waits in the queue.
    pub(super) fn gathers(&self) -> bool {
        self.reading > 0 || (!self.collected.is_empty() && !self.waits && self.may_read())
    }

    fn may_read(&self) -> bool {
        let moves_max = if self.swaps { SWAP_MOVES_MAX } else { MOVES_MAX };
        self.reading + self.moving < moves_max && self.blocks < MOVES_BLOCKS_MAX
    }

    /// Whether more moves are about to be queued.
    pub(super) fn is_reading(&self) -> bool {
        self.reading > 0
    }

    pub(super) fn on_move_ended(&mut self, length: u32) {
        self.moving -= 1;
        self.blocks -= payload_blocks(length);
    }

    /// Moves found no space: the round's victims won't be empty, so nothing more of them is moved.
    pub(super) fn give_up(&mut self) {
        assert!(self.reading == 0 && self.moving == 0, "what was read has been forgotten");
        self.phase = Phase::Idle;
        self.collected.clear();
        self.victims.clear();
        if !self.swaps {
            // What is left of space may do for a segment in one batch.
            self.last_round = None;
        }
    }
}

impl Store {
    /// Cleaning begins when this few are free.
    pub(super) fn clean_threshold(&self) -> u32 {
        let segments = self.device.segments();
        let ahead = if segments.is_growth_blocked() { 0 } else { segments.count() / 20 };
        self.reserve_segments() + ahead.max(2)
    }

    /// Whether so little is free that cleaning and checkpoints are due.
    pub(super) fn is_tight(&self) -> bool {
        self.device.segments().free() <= self.clean_threshold() || !self.device.has_free_beyond_checkpoint()
    }

    /// Whether segments may become free that aren't.
    pub(super) fn may_gain_space(&self) -> bool {
        self.device.segments().drained() > 0
            || self.cleaner.is_busy()
            || (!self.is_fruitless() && self.best_victim(self.cleaning_blocks()).is_some())
    }

    /// Blocks that cleaning may write before anything becomes free. Puts beside it take what lies above the reserve, and the open segment.
    fn cleaning_blocks(&self) -> u32 {
        let geometry = self.device.geometry();
        let spare = self.device.free_beyond_checkpoint().min(VICTIMS_MAX);
        if spare == 0 {
            // What one batch moves, with a descriptor of any size (`space`).
            return geometry.batch_blocks_max() - DESCRIPTOR_BYTES_MAX / 4096;
        }
        let reserve = self.reserve_segments();
        let blocks = if self.device.segments().free() < reserve {
            spare * geometry.segment_blocks() + self.device.open_blocks_left()
        } else {
            spare.min(reserve - self.device.checkpoint_reserve()) * geometry.segment_blocks()
        };
        // A batch's descriptor and a segment's end take their part.
        blocks / 4 * 3
    }

    /// Blocks that can be written before anything becomes free.
    fn spare_blocks(&self) -> u64 {
        let segments = u64::from(self.device.segments().free()) + u64::from(self.device.has_next_segment());
        segments * u64::from(self.device.geometry().segment_blocks())
            + u64::from(self.device.open_blocks_left())
    }

    /// The segment whose emptying pays best: what it frees, times its age, for what it costs (Rosenblum and Ousterhout's cost-benefit).
    /// Below the reserve the one that costs least: a crash in the middle of it leaves two smaller ones.
    fn best_victim(&self, blocks_max: u32) -> Option<(SegmentIndex, u32)> {
        let total = u64::from(self.device.geometry().segment_blocks());
        let now = self.device.durable_sequence();
        let is_last_resort = !self.device.has_free_beyond_checkpoint();
        let is_scarce = self.device.segments().free() < self.reserve_segments();
        let candidates = self.device.segments().iter().filter(|(index, segment)| {
            segment.state == SegmentState::Sealed
                && !segment.damaged
                && (1..=blocks_max).contains(&segment.live_blocks)
                && u64::from(segment.live_blocks) * 100 < total * UTILIZATION_PERCENT_MAX
                && !self.cleaner.victims.contains(index)
                && !(is_last_resort && self.cleaner.unswappable.contains(index))
        });
        let score = |live: u32, appended: u64| {
            let age = if is_scarce { 1 } else { now.saturating_sub(appended) + 1 };
            let live = u64::from(live);
            u128::from(total - live) * u128::from(age) * 1000 / u128::from(total + live)
        };
        candidates
            .max_by_key(|(_, segment)| score(segment.live_blocks, segment.appended))
            .map(|(index, segment)| (index, segment.live_blocks))
    }

    pub(super) fn pump_cleaner<M: Memory>(&mut self, memory: &mut M, effects: &mut Effects) {
        match self.cleaner.phase {
            Phase::Idle => self.begin_cleaning(),
            Phase::Collecting(cursor) => self.collect(cursor),
            Phase::Moving => {}
        }
        if self.cleaner.phase == Phase::Moving {
            self.read_moves(memory, effects);
        }
    }

    fn begin_cleaning(&mut self) {
        let is_due = self.stage == Stage::Serving
            && !self.cleaner.waits
            && self.cleaner.moving == 0
            && self.is_tight()
            // What the last round emptied comes first: it shows whether the round gained anything.
            && !self.device.is_checkpointing()
            && !self.device.checkpoint_frees();
        if !is_due {
            return;
        }
        let (changes, spare) = (self.changes(), self.spare_blocks());
        let last = self.cleaner.last_round;
        self.cleaner.fruitless = last.is_some_and(|(then, before)| then == changes && spare <= before);
        if last.is_some_and(|(then, _)| then != changes) {
            self.cleaner.unswappable.clear();
        }
        if self.cleaner.fruitless {
            self.cleaner.waits = true;
            return;
        }
        self.cleaner.last_round = Some((changes, spare));
        let mut blocks = self.cleaning_blocks();
        self.cleaner.victims.clear();
        self.cleaner.swaps = !self.device.has_free_beyond_checkpoint();
        for _ in 0..if self.cleaner.swaps { 1 } else { VICTIMS_MAX } {
            let Some((victim, live)) = self.best_victim(blocks) else { break };
            self.cleaner.victims.push(victim);
            blocks -= live;
        }
        if self.cleaner.victims.is_empty() {
            self.cleaner.waits = true;
        } else {
            self.cleaner.phase = Phase::Collecting(None);
        }
    }

    /// Puts and deletes so far.
    fn changes(&self) -> u64 {
        self.metrics.puts + self.metrics.tombstones
    }

    fn is_fruitless(&self) -> bool {
        self.cleaner.fruitless && self.cleaner.last_round.is_some_and(|(then, _)| then == self.changes())
    }

    fn collect(&mut self, cursor: Option<ChunkId>) {
        let victims = &self.cleaner.victims;
        let mut last = None;
        let mut seen = 0;
        for entry in self.index.after(cursor).take(COLLECT_PER_EVENT) {
            seen += 1;
            last = Some(entry.id);
            if victims.contains(&entry.place.segment) && self.cleaner.collected.len() < COLLECTED_MAX {
                self.cleaner.collected.push(entry.id);
            }
        }
        let is_last = seen < COLLECT_PER_EVENT;
        self.cleaner.phase = if is_last { Phase::Moving } else { Phase::Collecting(last) };
        if is_last && self.cleaner.swaps && self.cleaner.collected.len() > SWAP_MOVES_MAX {
            self.cleaner.unswappable.extend(self.cleaner.victims.drain(..));
            self.cleaner.collected.clear();
            // Another one is looked for, although nothing was gained.
            self.cleaner.last_round = None;
        }
    }

    fn read_moves<M: Memory>(&mut self, memory: &mut M, effects: &mut Effects) {
        while self.cleaner.may_read() && !self.cleaner.waits {
            let Some(id) = self.cleaner.collected.last().copied() else { break };
            let entry = self.index.find(id).filter(|entry| {
                self.cleaner.victims.contains(&entry.place.segment) && !self.writes.is_pending(id)
            });
            if let Some(entry) = entry {
                let blocks = 0..payload_blocks(entry.length);
                if !self.begin_read(Reader::Cleaner, &entry, blocks, memory, effects) {
                    self.cleaner.waits = true;
                    break;
                }
                self.cleaner.reading += 1;
                self.cleaner.blocks += payload_blocks(entry.length);
            }
            self.cleaner.collected.pop();
        }
        if self.cleaner.collected.is_empty() && self.cleaner.reading == 0 {
            self.cleaner.phase = Phase::Idle;
            self.cleaner.victims.clear();
        }
    }

    /// A live chunk was read: it goes to the log's end, with the leaves that its bytes have.
    pub(super) fn on_cleaner_read<M: Memory>(
        &mut self,
        entry: &IndexEntry,
        slot: Slot,
        is_good: bool,
        memory: &mut M,
    ) {
        self.cleaner.reading -= 1;
        if !is_good || !matches!(self.stage, Stage::Serving | Stage::Closing) {
            memory.release(slot);
            self.cleaner.blocks -= payload_blocks(entry.length);
            return;
        }
        let mut leaves = [0; LEAVES_MAX];
        let count = leaf_count(entry.length as usize);
        let bytes = memory.bytes_mut(slot);
        BlockHasher::new(self.cluster(), entry.id).leaves(0, &bytes[..entry.length as usize], &mut leaves);
        bytes[entry.length as usize..payload_blocks(entry.length) as usize * 4096].fill(0);
        self.cleaner.moving += 1;
        self.enqueue_move(entry, slot, &leaves[..count]);
    }
}
