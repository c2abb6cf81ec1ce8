//! Who may take space, and what becomes of those who can't have it.
//!
//! ```text
//! free segments   │ puts │ moves │ tombstones
//! above reserve   │ yes  │ yes   │ yes
//! reserve         │ no   │ yes   │ yes
//! none but the next checkpoint's │ no │ whole segments, in one batch │ yes
//! ```
//! The last row is what makes deletes possible always: each start of a store takes a fresh segment (R30), and so a store that is full may
//! have to start in its last one. What is written there leaves as many segments without a live chunk as there were (`journal::Burden`), so
//! after a crash at any point some segment is free, or is once two checkpoints are behind it.
//!
//! Nothing waits for space that isn't on its way. A put that would is refused, and a move is given up.

use std::collections::VecDeque;

use journal::entry::EntryKind;
use journal::{Burden, Room};
use wire::{Memory, Nanos, Status};

use super::write::Plan;
use super::{Stage, Store, release_all};
use crate::api::{Effect, Effects};

/// Kept for restarts, deletes and cleaning beside the next checkpoint's segments: 5 %, at least this many.
const RESERVE_SEGMENTS_MIN: u32 = 3;
/// A put is told `Busy` while cleaning may make room for it, but no longer than this: then it is `NoSpace`. What is queued waits as long.
const SPACE_PATIENCE: u64 = 3 * Nanos::SECOND;

/// Since when space has been short.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Shortage {
    /// Puts have been refused: since when, and the last time.
    refusing: Option<(Nanos, Nanos)>,
    /// The queue's front can't be written.
    stalled: Option<Nanos>,
    /// A put was answered `NoSpace`, and none was taken since that left a segment for others.
    is_full: bool,
}

impl Store {
    /// Whether puts are being refused for want of space, until one is taken while a whole segment is left: a small chunk that fits into the open
    /// segment's rest ends nothing.
    pub fn is_full(&self) -> bool {
        self.shortage.is_full
    }

    /// Segments that puts leave alone. A reserve that the file system hasn't got is none: where the file can't grow, it is what was kept.
    pub(super) fn reserve_segments(&self) -> u32 {
        let segments = self.device.segments();
        if segments.is_growth_blocked() {
            return self.device.kept_segments();
        }
        RESERVE_SEGMENTS_MIN.max(segments.count() / 20) + self.device.checkpoint_reserve()
    }

    /// `NoSpace` where a put may not take more, `Busy` where cleaning will soon have made room.
    pub(super) fn refuse_for_space(&mut self, now: Nanos, blocks: u32) -> Option<Status> {
        if self.has_space(blocks) {
            self.shortage.refusing = None;
            self.shortage.is_full &= self.device.segments().free() <= self.reserve_segments();
            return None;
        }
        let since = match self.shortage.refusing {
            Some((since, last)) if now.since(last) <= SPACE_PATIENCE => since,
            _ => now,
        };
        self.shortage.refusing = Some((since, now));
        if now.since(since) < SPACE_PATIENCE && self.may_gain_space() {
            return Some(Status::Busy);
        }
        self.count_without_space();
        Some(Status::NoSpace)
    }

    fn count_without_space(&mut self) {
        self.metrics.puts_without_space += 1;
        self.shortage.is_full = true;
    }

    fn has_space(&self, blocks: u32) -> bool {
        let segment_blocks = u64::from(self.device.geometry().segment_blocks());
        // Batches end before their segment does: what is queued may take up to twice its size.
        let wanted = (self.writes.queued_blocks() + u64::from(blocks)) * 2;
        let (free, reserve) = (u64::from(self.device.segments().free()), u64::from(self.reserve_segments()));
        // The open segment's rest needs no free one, but for what deletes take of it.
        let open = u64::from(self.device.open_blocks_left()).saturating_sub(segment_blocks / 16);
        free > reserve + wanted / segment_blocks || (free >= reserve && wanted <= open)
    }

    /// Plans as much of the queue's front as there is room for; `None` while there is none.
    pub(super) fn fit(&self, plan: Plan) -> Option<Plan> {
        if plan.entries() == 0 {
            return Some(plan);
        }
        let burden = if plan.payloads() == 0 { Burden::Neutral } else { Burden::Live };
        match self.device.room(plan.blocks(), burden) {
            Room::Ready => return Some(plan),
            Room::Segment if burden == Burden::Live => {}
            _ => return None,
        }
        let is_ready = |plan: &Plan| self.device.room(plan.blocks(), Burden::Neutral) == Room::Ready;
        if self.empties_a_segment(&plan) && is_ready(&plan) {
            return Some(plan);
        }
        let tombstones = self.plan_batch(|queued| queued.slot.is_none());
        let may = !tombstones.is_empty() && (tombstones.entries() == 0 || is_ready(&tombstones));
        may.then_some(tombstones)
    }

    /// Whether the planned moves take all that is live out of one segment, and nothing else comes to lie in theirs.
    fn empties_a_segment(&self, plan: &Plan) -> bool {
        let mut victim = None;
        let mut blocks = 0;
        for queued in self.writes.planned(plan) {
            match queued.kind {
                EntryKind::Put => return false,
                EntryKind::Tombstone => {}
                EntryKind::Move(_) if self.is_stale(queued) => {}
                EntryKind::Move(from) => {
                    if *victim.get_or_insert(from.segment) != from.segment {
                        return false;
                    }
                    blocks += queued.blocks();
                }
            }
        }
        victim.is_some_and(|victim| self.device.segments().segment(victim).live_blocks == blocks)
    }

    /// Gives up what waits for space that isn't coming.
    pub(super) fn pump_stalled<M: Memory>(&mut self, now: Nanos, memory: &mut M, effects: &mut Effects) {
        if !self.is_stalled() {
            self.shortage.stalled = None;
            return;
        }
        let since = *self.shortage.stalled.get_or_insert(now);
        if self.device.expects_segment() && now.since(since) < SPACE_PATIENCE {
            return;
        }
        self.refuse_payloads(memory, effects);
        if self.fit(self.plan_batch(|_| true)).is_some() {
            return;
        }
        self.device.give_up_open_segment();
        if self.device.is_stuck() {
            self.refuse_queued(Status::NoSpace, memory, effects);
        }
    }

    /// Whether the queue's front can't be written though nothing is in flight. Cheap while there is space.
    fn is_stalled(&self) -> bool {
        let is_tight = matches!(self.stage, Stage::Serving | Stage::Closing)
            && !self.writes.is_empty()
            && self.device.in_flight() == 0
            && self.device.room(self.device.geometry().batch_blocks_max(), Burden::Live) == Room::Segment;
        is_tight && !self.cleaner.gathers() && self.fit(self.plan_batch(|_| true)).is_none()
    }

    /// Answers queued puts with `NoSpace` and forgets queued moves; tombstones stay.
    fn refuse_payloads<M: Memory>(&mut self, memory: &mut M, effects: &mut Effects) {
        let (payloads, tombstones): (VecDeque<_>, VecDeque<_>) =
            self.writes.take_queue().into_iter().partition(|queued| queued.slot.is_some());
        let mut has_moves = false;
        for queued in payloads {
            release_all(queued.slot, memory);
            if matches!(queued.kind, EntryKind::Move(_)) {
                self.cleaner.on_move_ended(queued.length);
                has_moves = true;
                continue;
            }
            let waiters = self.writes.forget_put(&queued);
            for token in queued.token.into_iter().chain(waiters) {
                self.count_without_space();
                effects.list.push(Effect::Done { token, status: Status::NoSpace });
            }
        }
        self.writes.put_back_tombstones(tombstones);
        if has_moves {
            self.cleaner.give_up();
        }
    }
}
