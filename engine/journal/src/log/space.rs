//! What a log has space for: what is set aside, and for whom (R17, R32).
//!
//! ```text
//! free segments:   | restarts | two checkpoints and a third | housekeeping | removals | anything
//! space says:        Full ────────────────────────────────►   Scarce         Short      Ample
//! ```

use super::{Log, Stage};
use crate::checkpoint::page_bytes_max;
use crate::superblock::CHECKPOINT_SEGMENTS_MAX;

/// What there is space for. A checkpoint always has room: what it needs is set aside first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LogSpace {
    /// Anything.
    Ample,
    /// Records that make space, and what they need.
    Short,
    /// The owner's own housekeeping, which is little and makes space.
    Scarce,
    /// Nothing, until a checkpoint or growth has made room.
    Full,
}

impl Log {
    /// For restarts, and checkpoints as large as the last one.
    pub(super) fn reserve_segments(&self) -> u32 {
        RESERVE_SEGMENTS + self.device.checkpoint_need(0)
    }

    /// With so many free segments and no less, there is ample space. Only here it counts how large the next image may be: where the state has grown, nothing may
    /// add to it, but what makes it smaller goes on.
    pub(super) fn ample_segments(&self) -> u32 {
        let image = RESERVE_SEGMENTS + self.device.checkpoint_need(self.image_segments());
        SHORT_SEGMENTS + image.max(self.reserve_segments() + SCARCE_SEGMENTS)
    }

    /// The next image takes so many bytes at most, as far as the owner knows.
    pub fn expect_image(&mut self, bytes: u64) {
        self.image_bytes = bytes;
    }

    /// Segments of the next image, at most. Its last page may not fit into a segment's rest.
    pub(super) fn image_segments(&self) -> u32 {
        let geometry = self.device.geometry();
        let fits = u64::from(geometry.segment_bytes() - page_bytes_max(geometry)).max(1);
        let most = u32::try_from(CHECKPOINT_SEGMENTS_MAX).expect("768");
        u32::try_from(self.image_bytes / fits + 1).map_or(most, |segments| segments.min(most))
    }

    /// What there is space for, where records of `waiting` bytes come first. It is told before the last segments are reached, so that what was executed can be
    /// logged: a checkpoint can be made only of that.
    pub fn space(&self, waiting: u64) -> LogSpace {
        if self.stage != Stage::Serving {
            return LogSpace::Ample;
        }
        let segment = u64::from(self.device.geometry().segment_bytes());
        let gathered: usize = self.gathered.iter().map(|gathered| gathered.used).sum();
        let waiting = waiting + u64::try_from(gathered).expect("a few buffers");
        let at_hand = u64::from(self.device.open_blocks_left()) * 4096
            + if self.device.has_next_segment() { segment } else { 0 };
        let wanted = waiting.saturating_sub(at_hand).div_ceil(segment);
        let free = u64::from(self.device.segments().free() + self.device.zeroing_segments());
        let free = free.saturating_sub(wanted);
        let reserve = self.reserve_segments();
        match free {
            free if free < u64::from(reserve) => LogSpace::Full,
            free if free < u64::from(reserve + SCARCE_SEGMENTS) => LogSpace::Scarce,
            free if free < u64::from(self.ample_segments()) => LogSpace::Short,
            _ => LogSpace::Ample,
        }
    }
}

/// Free segments that appends leave to restarts, beside those that checkpoints need.
pub(super) const RESERVE_SEGMENTS: u32 = 3;
/// Free segments above them that are left to the owner's housekeeping, and above those to records that make space.
const SCARCE_SEGMENTS: u32 = 1;
const SHORT_SEGMENTS: u32 = 2;
