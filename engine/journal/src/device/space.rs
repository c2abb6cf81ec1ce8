//! Free space: the segment after the open one, growth of the file, zeros written ahead of use, and what becomes free again.

use wire::planted::{Bug, planted};
use wire::{Memory, Nanos};

use super::{Burden, Device, Room, Stage, tag};
use crate::io::{IoEffects, IoFailure, IoRequest, IoToken};
use crate::layout::{BlockIndex, Place, SegmentIndex};

/// Zeros written by one request.
const ZERO_BYTES: u32 = 1 << 20;
/// Free segments beside the kept ones that the file has before it must grow.
const FREE_ALLOCATED_MIN: u32 = 1;
/// A file system without room is asked again after this.
const GROWTH_RETRY_NANOS: u64 = 5 * Nanos::SECOND;

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Space {
    allocating: bool,
    zeroing: Option<(SegmentIndex, u32)>,
    retry_at: Option<Nanos>,
    pub(super) joining: bool,
    checkpoint_reserve: u32,
    free_wanted: u32,
}

impl Device {
    /// Looks after free space.
    pub(super) fn advance_space<M: Memory>(&mut self, memory: &mut M, io: &mut IoEffects) {
        self.advance_table(memory, io);
        if self.has_open_segment() {
            self.space.joining = false;
        } else {
            self.rejoin(memory, io);
        }
        self.take_next_segment();
        self.zero_ahead(io);
        self.grow(io);
    }

    /// R32: the next checkpoint's segments are kept for it, since it is what makes space: the log never takes the last free ones. Only
    /// what the file has counts, since growing it may fail.
    pub fn has_free_beyond_checkpoint(&self) -> bool {
        self.free_beyond_checkpoint() > 0
    }

    /// Free segments that the file has and the next checkpoint doesn't need.
    pub fn free_beyond_checkpoint(&self) -> u32 {
        (self.segments.ready() + self.segments.unwritten()).saturating_sub(self.checkpoint_reserve())
    }

    /// Free segments that the file has and puts leave alone where it can't grow: the checkpoint's, and two for tombstones and cleaning.
    pub fn kept_segments(&self) -> u32 {
        self.checkpoint_reserve() + 2
    }

    /// A checkpoint frees its predecessor's predecessor's segments; the first two have none, so their space is kept as well.
    pub fn checkpoint_reserve(&self) -> u32 {
        let checkpoints = &self.superblock().checkpoints;
        let newest = checkpoints.first().map_or(1, |checkpoint| checkpoint.segments.len());
        let one = self.space.checkpoint_reserve.max(u32::try_from(newest).expect("limited")).max(1);
        one * (3 - u32::try_from(checkpoints.len()).expect("at most two"))
    }

    /// The owner expects the next checkpoint to take this many segments.
    pub fn set_checkpoint_reserve(&mut self, segments: u32) {
        self.space.checkpoint_reserve = segments;
    }

    /// Segments that checkpoints of `segments` each, or as large as the newest, still need: in the end there are two of them, and a third is written beside them.
    /// The present ones may be smaller.
    pub fn checkpoint_need(&self, segments: u32) -> u32 {
        let newest = self.superblock().checkpoints.first().map_or(1, |checkpoint| checkpoint.segments.len());
        let one = segments.max(u32::try_from(newest).expect("limited")).max(1);
        (3 * one).saturating_sub(self.checkpoint_segments() + self.checkpoint_taken())
    }

    /// A free segment that is just being written with zeros.
    pub fn zeroing_segments(&self) -> u32 {
        u32::from(self.space.zeroing.is_some())
    }

    /// The owner wants the file to have so many free segments before it needs them: growing may fail then.
    pub fn set_free_wanted(&mut self, segments: u32) {
        self.space.free_wanted = segments;
    }

    fn prezero_segments(&self) -> u32 {
        let wanted = self.config.prezero_bytes / u64::from(self.geometry().segment_bytes());
        u32::try_from(wanted).unwrap_or(u32::MAX)
    }

    fn zero_ahead(&mut self, io: &mut IoEffects) {
        if self.space.zeroing.is_none()
            && self.segments.ready() < self.prezero_segments()
            && let Some(segment) = self.segments.take_unwritten()
        {
            self.space.zeroing = Some((segment, 0));
            self.zero_piece(io);
        }
    }

    fn zero_piece(&mut self, io: &mut IoEffects) {
        let (segment, done) = self.space.zeroing.expect("begun");
        let place = Place { segment, block: BlockIndex(0) };
        let left = self.geometry().segment_bytes() - done;
        io.requests.push(IoRequest::Zero {
            io: IoToken::new(tag::ZERO, 0),
            offset: self.geometry().offset(place) + u64::from(done),
            length: u64::from(left.min(ZERO_BYTES)),
        });
        self.space.zeroing = Some((segment, done + left.min(ZERO_BYTES)));
    }

    pub(super) fn on_zeroed(&mut self, failure: Option<IoFailure>, io: &mut IoEffects) {
        if let Some(failure) = failure {
            self.fence(failure);
        }
        if self.stage != Stage::Serving {
            return;
        }
        let (segment, done) = self.space.zeroing.expect("begun");
        if done < self.geometry().segment_bytes() {
            self.zero_piece(io);
        } else {
            self.space.zeroing = None;
            self.segments.put_ready(segment);
        }
    }

    fn grow(&mut self, io: &mut IoEffects) {
        let free = self.segments.ready() + self.segments.unwritten();
        let wanted = (FREE_ALLOCATED_MIN + self.kept_segments()).max(self.prezero_segments());
        let wanted = wanted.max(self.space.free_wanted);
        if self.space.allocating || free >= wanted {
            return;
        }
        if let Some(segment) = self.segments.growable() {
            self.allocate(segment, io);
        }
    }

    fn allocate(&mut self, segment: SegmentIndex, io: &mut IoEffects) {
        self.space.allocating = true;
        io.requests.push(IoRequest::Allocate {
            io: IoToken::new(tag::ALLOCATE, u64::from(segment.0)),
            offset: self.geometry().segment_offset(segment),
            length: u64::from(self.geometry().segment_bytes()),
        });
    }

    pub(super) fn on_allocated(&mut self, failure: Option<IoFailure>, io: &mut IoEffects) {
        if self.stage == Stage::FormatAllocate {
            return self.on_format_allocated(failure, io);
        }
        if self.stage == Stage::Incarnation {
            return self.on_made_whole(failure, io);
        }
        // Nothing was promised yet: a file that can't grow is a store that is full, not one that failed.
        if failure.is_none() {
            io.requests.push(IoRequest::Flush { io: IoToken::new(tag::LENGTH_FLUSH, 0) });
        } else {
            self.space.allocating = false;
            self.segments.set_growth_blocked(true);
        }
    }

    /// The file's length is on the medium: only now may batches and the superblock name what it has grown by. So a segment that is named and
    /// isn't there is always a file that has lost its end.
    pub(super) fn on_length_flushed<M: Memory>(
        &mut self,
        failure: Option<IoFailure>,
        memory: &mut M,
        io: &mut IoEffects,
    ) {
        if let Some(failure) = failure {
            self.fence(failure);
        }
        match self.stage {
            Stage::Incarnation => self.on_length_durable(memory, io),
            Stage::Serving => {
                self.space.allocating = false;
                self.segments.grew();
                self.segments.set_growth_blocked(false);
            }
            _ => {}
        }
    }

    /// Asks a file system that had no room again. Until it has, growth counts for nothing: or every try would let puts into the reserve.
    pub(super) fn retry_growth(&mut self, now: Nanos, io: &mut IoEffects) {
        if !self.segments.is_growth_blocked() {
            self.space.retry_at = None;
            return;
        }
        match self.space.retry_at {
            None => self.space.retry_at = Some(now.after(GROWTH_RETRY_NANOS)),
            Some(at) if now >= at => {
                self.space.retry_at = None;
                let segment = SegmentIndex(self.segments.allocated());
                if !self.space.allocating && self.stage == Stage::Serving && segment.0 < self.segments.count()
                {
                    self.allocate(segment, io);
                }
            }
            Some(_) => {}
        }
    }

    /// Whether not even a tombstone can be written, and nothing under way or due changes that.
    pub fn is_stuck(&self) -> bool {
        self.stage == Stage::Serving
            && self.room(1, Burden::Neutral) == Room::Segment
            && !self.expects_segment()
    }

    /// Whether the file is about to have more segments.
    pub fn is_growing(&self) -> bool {
        self.space.allocating || self.segments.growable().is_some()
    }

    /// Whether growth or a checkpoint, under way or due, gives the log another segment.
    pub fn expects_segment(&self) -> bool {
        self.space.joining
            || self.is_growing()
            || self.has_free_beyond_checkpoint()
            || self.is_checkpointing()
            || self.checkpoint_frees()
    }

    /// R32.
    pub(super) fn recycle(&mut self) {
        let recycled = self.segments.recycle(self.recycle_beyond, planted(Bug::StoreReusesSegmentEarly));
        self.counters.segments_recycled += u64::from(recycled);
    }
}
