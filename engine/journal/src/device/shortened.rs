//! A file that has lost its end, where the operator accepts the loss: what is left of the segment that it ends in counts, and the file becomes
//! whole segments again before anything is written.
//!
//! Nothing behind the file's end is asked for, so nothing of it is taken for a device that fails.

use super::{Device, OpenError, tag};
use crate::io::{IoEffects, IoFailure, IoRequest, IoToken};
use crate::layout::{BLOCK, BlockIndex, Place, SegmentIndex};

impl Device {
    /// The end of a file that ends inside a segment: the first block that isn't there as a whole.
    fn end_in_segment(&self) -> Option<Place> {
        let geometry = self.geometry();
        let segment = SegmentIndex(geometry.segments_in(self.config.device_bytes));
        let left = self.config.device_bytes.saturating_sub(geometry.segment_offset(segment));
        let blocks = u32::try_from(left / u64::from(BLOCK)).expect("less than a segment");
        (blocks > 0).then_some(Place { segment, block: BlockIndex(blocks) })
    }

    /// The same, once that segment counts.
    fn end_of_part(&self) -> Option<Place> {
        self.end_in_segment().filter(|end| self.segments.is_allocated(end.segment))
    }

    /// The file was longer: it had this segment. Unless that is accepted it is refused, but not before a checkpoint was looked for: without one a log isn't
    /// opened even so.
    pub(super) fn meet_lost_end(&mut self, segment: SegmentIndex) {
        if !self.config.accept_data_loss {
            let refusal = self.truncated(segment);
            self.opening_mut().refusal.get_or_insert(refusal);
        }
        self.accept_lost_end();
    }

    /// The file was longer, and that is accepted, or will be refused: from now on the segment that it ends in is its last one.
    pub(super) fn accept_lost_end(&mut self) {
        self.opening_mut().lost_its_end = true;
        self.take_part_in();
    }

    /// Counts the segment that the file ends in, if the file has lost its end.
    pub(super) fn take_part_in(&mut self) {
        let has_lost = self.opening.as_ref().is_some_and(|opening| opening.lost_its_end);
        if has_lost && self.end_in_segment().is_some_and(|end| !self.segments.is_allocated(end.segment)) {
            self.segments.take_part_in();
        }
    }

    /// Blocks of a segment that the file has.
    pub(super) fn blocks_there(&self, segment: SegmentIndex) -> u32 {
        match self.end_of_part() {
            _ if !self.segments.is_allocated(segment) => 0,
            Some(end) if end.segment == segment => end.block.0,
            _ => self.geometry().segment_blocks(),
        }
    }

    /// Bytes of a segment that the file has, from a place on.
    pub(super) fn bytes_there(&self, place: Place) -> u32 {
        self.blocks_there(place.segment).saturating_sub(place.block.0) * BLOCK
    }

    /// Gives the file the rest of the segment that it ends in; false where there is none.
    pub(super) fn begin_making_whole(&mut self, io: &mut IoEffects) -> bool {
        let Some(end) = self.end_of_part() else { return false };
        let length = (self.geometry().segment_blocks() - end.block.0) * BLOCK;
        io.requests.push(IoRequest::Allocate {
            io: IoToken::new(tag::ALLOCATE, 0),
            offset: self.geometry().offset(end),
            length: u64::from(length),
        });
        true
    }

    pub(super) fn on_made_whole(&mut self, failure: Option<IoFailure>, io: &mut IoEffects) {
        let Some(end) = self.end_of_part() else { return };
        let behind = Place { segment: SegmentIndex(end.segment.0 + 1), block: BlockIndex(0) };
        let needed = self.geometry().offset(behind);
        match failure {
            None => {
                self.opening_mut().ended_at = Some(end);
                self.config.device_bytes = needed;
                self.begin_incarnation(io);
            }
            Some(IoFailure::NoSpace) => self.fail(OpenError::NoRoom { needed }),
            Some(_) => self.fail(OpenError::Unwritable),
        }
    }
}
