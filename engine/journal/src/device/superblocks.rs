//! Writing the superblock: copies 0 and 1, flush, copies 2 and 3, flush. One write at a time; what changes meanwhile is written
//! by the next.

use wire::limits::BLOCK_BYTES;
use wire::{Memory, Slot};

use super::{Device, OpenError, Stage, tag};
use crate::io::{IoEffects, IoFailure, IoRequest, IoToken, Part};
use crate::layout::SegmentIndex;
use crate::superblock::{COPY_BYTES, SUPERBLOCK_BYTES, SUPERBLOCK_COPIES, copy_offset};

/// What becomes true when a write is durable.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Covers {
    /// The incarnation was raised: the store opens.
    pub(super) opens: bool,
    /// The log goes on in this segment.
    pub(super) joins: Option<SegmentIndex>,
    /// A checkpoint is committed; these segments of the one before the last are free.
    pub(super) checkpoint: Option<Vec<SegmentIndex>>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
enum Phase {
    #[default]
    Idle,
    Writing {
        first_copy: usize,
        pending: u8,
    },
    Flushing {
        first_copy: usize,
    },
}

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct SuperblockWriter {
    pub(super) slot: Option<Slot>,
    pub(super) parent: u64,
    phase: Phase,
    covers: Covers,
    /// Something has changed in memory that no write has yet.
    pub(super) news: bool,
    wanted: Option<Covers>,
}

impl Device {
    /// Writes the superblock as it is in memory, now or after the write in progress.
    pub(super) fn write_superblock<M: Memory>(&mut self, covers: Covers, memory: &mut M, io: &mut IoEffects) {
        let wanted = self.writer.wanted.get_or_insert_default();
        wanted.opens |= covers.opens;
        assert!(wanted.joins.is_none() || covers.joins.is_none(), "one segment is joined at a time");
        wanted.joins = wanted.joins.or(covers.joins);
        wanted.checkpoint = wanted.checkpoint.take().or(covers.checkpoint);
        self.begin_superblock(memory, io);
    }

    fn begin_superblock<M: Memory>(&mut self, memory: &mut M, io: &mut IoEffects) {
        if self.writer.phase != Phase::Idle || matches!(self.stage, Stage::Fenced | Stage::Failed) {
            return;
        }
        let Some(covers) = self.writer.wanted.take() else { return };
        self.writer.covers = covers;
        self.writer.news = false;
        let slot = self.writer.slot.expect("taken when the device was opened");
        let superblock = self.superblock.as_mut().expect("known before it is written");
        superblock.sequence += 1;
        superblock.parent = self.writer.parent;
        let bytes = &mut memory.bytes_mut(slot)[..SUPERBLOCK_COPIES * SUPERBLOCK_BYTES];
        for (copy, bytes) in bytes.chunks_exact_mut(SUPERBLOCK_BYTES).enumerate() {
            self.writer.parent = superblock.encode(copy, bytes);
        }
        self.write_pair(0, io);
    }

    /// Whether the superblock on disk is the one in memory.
    pub(super) fn superblock_is_durable(&self) -> bool {
        self.writer.phase == Phase::Idle && self.writer.wanted.is_none() && !self.writer.news
    }

    fn write_pair(&mut self, first_copy: usize, io: &mut IoEffects) {
        let slot = self.writer.slot.expect("taken when the device was opened");
        for copy in first_copy..first_copy + 2 {
            let offset = u32::try_from(copy).expect("below 4") * COPY_BYTES;
            let part = Part { slot, offset, length: COPY_BYTES };
            io.write(IoToken::new(tag::SUPERBLOCK_WRITE, copy as u64), copy_offset(copy), [part], false);
        }
        self.writer.phase = Phase::Writing { first_copy, pending: 2 };
    }

    pub(super) fn on_superblock_written(&mut self, failure: Option<IoFailure>, io: &mut IoEffects) {
        if let Some(failure) = failure {
            self.fence(failure);
        }
        let Phase::Writing { first_copy, pending } = self.writer.phase else {
            unreachable!("a superblock's write ended that wasn't asked for")
        };
        if pending > 1 {
            self.writer.phase = Phase::Writing { first_copy, pending: pending - 1 };
        } else if !matches!(self.stage, Stage::Fenced | Stage::Failed) {
            self.writer.phase = Phase::Flushing { first_copy };
            io.requests.push(IoRequest::Flush { io: IoToken::new(tag::SUPERBLOCK_FLUSH, 0) });
        }
    }

    pub(super) fn on_superblock_flushed<M: Memory>(
        &mut self,
        failure: Option<IoFailure>,
        memory: &mut M,
        io: &mut IoEffects,
    ) {
        if let Some(failure) = failure {
            self.fence(failure);
        }
        let Phase::Flushing { first_copy } = self.writer.phase else {
            unreachable!("a superblock's flush ended that wasn't asked for")
        };
        if matches!(self.stage, Stage::Fenced | Stage::Failed) {
            return;
        }
        if first_copy == 0 {
            self.write_pair(2, io);
            return;
        }
        self.writer.phase = Phase::Idle;
        let covers = std::mem::take(&mut self.writer.covers);
        if let Some(segment) = covers.joins {
            self.open_fresh_segment(segment);
        }
        if covers.opens {
            self.on_incarnation_durable(memory);
        }
        if let Some(freed) = covers.checkpoint {
            self.on_checkpoint_durable(freed);
        }
        self.begin_superblock(memory, io);
    }

    /// Buffers for the superblock and a marker, kept for life.
    pub(super) fn take_own_slots<M: Memory>(&mut self, memory: &mut M) -> bool {
        self.writer.slot = memory.allocate(SUPERBLOCK_COPIES * SUPERBLOCK_BYTES);
        self.pipeline.marker_slot = memory.allocate(BLOCK_BYTES);
        let is_whole = self.writer.slot.is_some() && self.pipeline.marker_slot.is_some();
        if !is_whole {
            self.fail(OpenError::NoMemory);
        }
        is_whole
    }
}
