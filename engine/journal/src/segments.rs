//! The table of segments: who uses each, how much of it is live, and when it may be written again (R32).
//!
//! ```text
//! Absent ─allocate→ Unwritten ─zero→ Ready ─→ Next → Open → Sealed ─(no live block, both checkpoints beyond, no reader)→ Ready
//!                       └──────────────┴──→ Checkpoint ─(its successor's successor is durable)→ Ready
//! ```

use std::collections::{BTreeSet, VecDeque};

use crate::layout::{Geometry, SegmentIndex};

/// What a segment is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SegmentState {
    /// Behind the end of the file.
    Absent,
    /// Allocated, never written: a flush there costs the file system a journal commit.
    Unwritten,
    /// Being written with zeros.
    Zeroing,
    /// Written once, free.
    Ready,
    /// The log goes on here after the open one.
    Next,
    /// Batches are appended here.
    Open,
    /// Full, or cut by a recovery.
    Sealed,
    /// Holds pages of a checkpoint.
    Checkpoint,
}

/// One segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Segment {
    /// Its use.
    pub state: SegmentState,
    /// Blocks that the index points to.
    pub live_blocks: u32,
    /// Reads begun and not ended.
    pub readers: u32,
    /// The last batch that was appended here, or that killed or moved a chunk of this segment.
    pub touched: u64,
    /// The last batch that was appended here: its age, for cleaning.
    pub appended: u64,
    /// It was written since it was allocated: a flush there is fast.
    pub written: bool,
    /// Chunks in it that could not be read: cleaning leaves it alone.
    pub damaged: bool,
}

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Segments {
    geometry: Geometry,
    list: Vec<Segment>,
    ready: VecDeque<SegmentIndex>,
    unwritten: VecDeque<SegmentIndex>,
    /// Sealed without a live block.
    drained: BTreeSet<SegmentIndex>,
    allocated: u32,
    live_blocks: u64,
    growth_blocked: bool,
}

impl Segments {
    const NEW: Segment = Segment {
        state: SegmentState::Absent,
        live_blocks: 0,
        readers: 0,
        touched: 0,
        appended: 0,
        written: false,
        damaged: false,
    };

    /// `capacity` segments, of which the file has `allocated`.
    pub(crate) fn new(geometry: Geometry, capacity: u32, allocated: u32) -> Self {
        let mut segments = Self {
            geometry,
            list: vec![Self::NEW; capacity.max(allocated) as usize],
            ready: VecDeque::new(),
            unwritten: VecDeque::new(),
            drained: BTreeSet::new(),
            allocated,
            live_blocks: 0,
            growth_blocked: false,
        };
        for index in 0..allocated {
            segments.list[index as usize].state = SegmentState::Unwritten;
        }
        segments
    }

    /// The segment.
    pub fn segment(&self, index: SegmentIndex) -> &Segment {
        &self.list[index.0 as usize]
    }

    fn segment_mut(&mut self, index: SegmentIndex) -> &mut Segment {
        &mut self.list[index.0 as usize]
    }

    /// Whether the file has this segment.
    pub fn is_allocated(&self, index: SegmentIndex) -> bool {
        index.0 < self.allocated
    }

    /// Segments up to the capacity.
    pub fn count(&self) -> u32 {
        u32::try_from(self.list.len()).expect("made from u32")
    }

    /// Segments that the file has.
    pub fn allocated(&self) -> u32 {
        self.allocated
    }

    /// Free segments, those that the file may still grow by included.
    pub fn free(&self) -> u32 {
        let growth = if self.growth_blocked { 0 } else { self.count() - self.allocated };
        self.ready() + self.unwritten() + growth
    }

    /// Free segments that were written once.
    pub fn ready(&self) -> u32 {
        u32::try_from(self.ready.len()).expect("at most all")
    }

    /// Free segments that were never written.
    pub fn unwritten(&self) -> u32 {
        u32::try_from(self.unwritten.len()).expect("at most all")
    }

    /// Sealed segments without live blocks that wait for checkpoints or readers.
    pub fn drained(&self) -> u32 {
        u32::try_from(self.drained.len()).expect("at most all")
    }

    /// Whether a drained segment was touched after batch `sequence`.
    pub(crate) fn drained_after(&self, sequence: u64) -> bool {
        self.drained.iter().any(|index| self.segment(*index).touched > sequence)
    }

    /// Blocks that the index points to.
    pub fn live_blocks(&self) -> u64 {
        self.live_blocks
    }

    /// Every segment with its number.
    pub fn iter(&self) -> impl Iterator<Item = (SegmentIndex, &Segment)> {
        self.list
            .iter()
            .enumerate()
            .map(|(index, segment)| (SegmentIndex(u32::try_from(index).expect("made from u32")), segment))
    }

    /// Rebuilds the lists of free segments after recovery has set the states and found the last batch. What a checkpoint's table
    /// says of later batches, which were in flight and are cut, is forgotten: no checkpoint would ever be beyond them.
    pub(crate) fn rebuild(&mut self, last_sequence: u64) {
        self.ready.clear();
        self.unwritten.clear();
        self.drained.clear();
        for (index, segment) in self.list.iter_mut().enumerate() {
            let index = SegmentIndex(u32::try_from(index).expect("made from u32"));
            segment.touched = segment.touched.min(last_sequence);
            segment.appended = segment.appended.min(last_sequence);
            // Where damage hid the log's way into a segment, the checkpoint's image may still lead there: it isn't free.
            if segment.live_blocks > 0 {
                segment.state = SegmentState::Sealed;
            }
            segment.written |= !matches!(
                segment.state,
                SegmentState::Absent | SegmentState::Unwritten | SegmentState::Zeroing
            );
            match segment.state {
                SegmentState::Ready => self.ready.push_back(index),
                SegmentState::Unwritten | SegmentState::Zeroing => {
                    segment.state = SegmentState::Unwritten;
                    self.unwritten.push_back(index);
                }
                SegmentState::Sealed if segment.live_blocks == 0 => {
                    self.drained.insert(index);
                }
                _ => {}
            }
        }
    }

    /// Takes a free segment, `avoid` only if there is no other. The log gets one that was written if there is, since it flushes each batch. A checkpoint
    /// flushes once: it leaves those to the log.
    pub(crate) fn take_free(
        &mut self,
        state: SegmentState,
        avoid: Option<SegmentIndex>,
    ) -> Option<SegmentIndex> {
        let pick = |list: &mut VecDeque<SegmentIndex>| {
            let at = list.iter().position(|index| Some(*index) != avoid)?;
            list.remove(at)
        };
        let (first, second) = match state {
            SegmentState::Checkpoint => (&mut self.unwritten, &mut self.ready),
            _ => (&mut self.ready, &mut self.unwritten),
        };
        let index = pick(first)
            .or_else(|| pick(second))
            .or_else(|| first.pop_front())
            .or_else(|| second.pop_front())?;
        self.segment_mut(index).state = state;
        Some(index)
    }

    /// Takes an unwritten segment to write it with zeros.
    pub(crate) fn take_unwritten(&mut self) -> Option<SegmentIndex> {
        let index = self.unwritten.pop_front()?;
        self.segment_mut(index).state = SegmentState::Zeroing;
        Some(index)
    }

    /// A segment is free again, and was written.
    pub(crate) fn put_ready(&mut self, index: SegmentIndex) {
        let segment = self.segment_mut(index);
        assert_eq!(segment.live_blocks, 0, "segment {index} is free and has live blocks");
        *segment = Segment { state: SegmentState::Ready, written: true, ..Self::NEW };
        self.ready.push_back(index);
    }

    /// The file has grown by one segment.
    pub(crate) fn grew(&mut self) {
        let index = SegmentIndex(self.allocated);
        self.allocated += 1;
        self.segment_mut(index).state = SegmentState::Unwritten;
        self.unwritten.push_back(index);
    }

    /// The segment behind the last one, of which the file has a part, counts.
    pub(crate) fn take_part_in(&mut self) {
        if self.allocated == self.count() {
            self.list.push(Self::NEW);
        }
        self.grew();
    }

    /// The segment that the file would grow by.
    pub(crate) fn growable(&self) -> Option<SegmentIndex> {
        (!self.growth_blocked && self.allocated < self.count()).then_some(SegmentIndex(self.allocated))
    }

    /// The file system had no room for growth, or may have again.
    pub(crate) fn set_growth_blocked(&mut self, blocked: bool) {
        self.growth_blocked = blocked;
    }

    /// Whether the file system had no room for growth.
    pub fn is_growth_blocked(&self) -> bool {
        self.growth_blocked
    }

    pub(crate) fn set_state(&mut self, index: SegmentIndex, state: SegmentState) {
        self.segment_mut(index).state = state;
    }

    /// The log goes on in the segment; true if it was never written.
    pub(crate) fn open(&mut self, index: SegmentIndex) -> bool {
        let segment = self.segment_mut(index);
        segment.state = SegmentState::Open;
        !std::mem::replace(&mut segment.written, true)
    }

    pub(crate) fn appended(&mut self, index: SegmentIndex, sequence: u64) {
        let segment = self.segment_mut(index);
        segment.appended = segment.appended.max(sequence);
        segment.touched = segment.touched.max(sequence);
    }

    pub(crate) fn seal(&mut self, index: SegmentIndex) {
        let segment = self.segment_mut(index);
        segment.state = SegmentState::Sealed;
        if segment.live_blocks == 0 {
            self.drained.insert(index);
        }
    }

    /// The index points to `blocks` more of the segment.
    pub fn add_live(&mut self, index: SegmentIndex, blocks: u32) {
        let segment_blocks = self.geometry.segment_blocks();
        let segment = self.segment_mut(index);
        segment.live_blocks += blocks;
        assert!(segment.live_blocks <= segment_blocks, "segment {index} has more live blocks than blocks");
        self.live_blocks += u64::from(blocks);
        self.drained.remove(&index);
    }

    /// Batch `sequence` took `blocks` of the segment out of the index.
    pub fn remove_live(&mut self, index: SegmentIndex, blocks: u32, sequence: u64) {
        let segment = self.segment_mut(index);
        assert!(segment.live_blocks >= blocks, "segment {index} has fewer live blocks than were removed");
        segment.live_blocks -= blocks;
        segment.touched = segment.touched.max(sequence);
        let is_drained = segment.live_blocks == 0 && segment.state == SegmentState::Sealed;
        self.live_blocks -= u64::from(blocks);
        if is_drained {
            self.drained.insert(index);
        }
    }

    /// A read of the segment begins (R32).
    pub fn read_begins(&mut self, index: SegmentIndex) {
        self.segment_mut(index).readers += 1;
    }

    /// A read of the segment has ended.
    pub fn read_ends(&mut self, index: SegmentIndex) {
        let segment = self.segment_mut(index);
        assert!(segment.readers > 0, "a read of segment {index} ended that never began");
        segment.readers -= 1;
    }

    /// Whether chunks in the segment can't be read.
    pub fn set_damaged(&mut self, index: SegmentIndex, damaged: bool) {
        self.segment_mut(index).damaged = damaged;
    }

    /// Frees every segment that has no live block and no reader and was last touched at or before `beyond`, the older durable
    /// checkpoint's batch (R32): then no checkpoint's image and no replay leads into it. `ignore_checkpoints` is the planted bug.
    pub(crate) fn recycle(&mut self, beyond: u64, ignore_checkpoints: bool) -> u32 {
        let list = &self.list;
        let may = |index: &SegmentIndex| {
            let segment = &list[index.0 as usize];
            segment.readers == 0 && (ignore_checkpoints || segment.touched <= beyond)
        };
        let free: Vec<SegmentIndex> = self.drained.iter().copied().filter(may).collect();
        for index in &free {
            self.drained.remove(index);
            self.put_ready(*index);
        }
        u32::try_from(free.len()).expect("at most all")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::LOG_SEGMENT_BYTES;

    /// Checkpoints took what was zeroed for the log, whose flushes then wrote extents as well.
    #[test]
    fn the_log_gets_written_segments_and_a_checkpoint_others() {
        let mut segments = Segments::new(Geometry::new(LOG_SEGMENT_BYTES).expect("the log's"), 6, 5);
        segments.rebuild(0);
        for _ in 0..2 {
            let zeroed = segments.take_unwritten().expect("none is written yet");
            segments.put_ready(zeroed);
        }
        assert_eq!((segments.ready(), segments.unwritten()), (2, 3));
        assert_eq!(segments.take_free(SegmentState::Next, None), Some(SegmentIndex(0)));
        for left in [2, 1, 0] {
            assert!(segments.take_free(SegmentState::Checkpoint, None).is_some());
            assert_eq!((segments.ready(), segments.unwritten()), (1, left));
        }
        // Where there is nothing else, each takes what the other prefers.
        assert_eq!(segments.take_free(SegmentState::Checkpoint, None), Some(SegmentIndex(1)));
        segments.grew();
        assert_eq!(segments.take_free(SegmentState::Next, None), Some(SegmentIndex(5)));
        assert_eq!(segments.free(), 0);
    }
}
