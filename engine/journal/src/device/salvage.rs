//! Opening where the way through the log is lost, and the operator accepts the loss: a file that was shortened, or whose checkpoints are both
//! damaged. Batches are then not followed but found, each by itself, wherever in the file they still are.
//!
//! ```text
//! searching ─ every block of every segment → telling ─ in the order of lives and sequences → incarnation
//! ```
//! - What an earlier recovery cut is known by the joints, and stays cut.
//! - A checkpoint that can be read holds for what lies before it. Without one a chunk that was deleted may come back where its tombstone is gone: it
//!   takes space until it is found to be an orphan, and harms nobody, since no id is ever used again.
//! - Every copy that lies in the file is found: a segment is recycled only once nothing in it is live, and a descriptor lies before its payload.
//! - Of a segment that the file holds in part, the batches whose descriptors are there are found; which of their chunks are whole, the owner is told at the end.
//! - What is found is remembered as a number and a place, 24 bytes for each batch in the file.
//! - No checkpoint and no joint holds any longer. Until a new checkpoint is durable the superblock names one that has no segment, so that a start
//!   without the operator's word is refused.

use wire::{Incarnation, Memory};

use super::window::Want;
use super::{DamagedBatches, Device, Note, OpenError, Stage};
use crate::batch::BatchHeader;
use crate::io::IoEffects;
use crate::layout::{BLOCK, BlockIndex, Place, SegmentIndex};
use crate::segments::SegmentState;
use crate::superblock::{CheckpointRef, Kind, Resume};

/// How much is read at once in search of batches.
pub(super) const SEARCH_WINDOW_BYTES: u32 = 256 << 10;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Found {
    incarnation: Incarnation,
    sequence: u64,
    place: Place,
}

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Salvage {
    /// What lies before it is known: by a checkpoint, or passed on.
    after: Resume,
    durable_upto: u64,
    /// Everything behind `after` was in the log: what isn't found is lost.
    is_complete: bool,
    /// Where the search stands; `None`: it is done.
    place: Option<Place>,
    found: Vec<Found>,
    told: usize,
    /// The last batch told.
    last: u64,
}

/// What is at a place.
pub(super) enum Seen {
    Later,
    Failed,
    None,
    /// A batch that was written there, and where in the window it is.
    Batch(BatchHeader, u64, usize),
}

impl Device {
    fn salvage(&mut self) -> &mut Salvage {
        &mut self.opening_mut().salvage
    }

    /// Whether what can't be reached may be searched for.
    pub(super) fn may_salvage(&self) -> bool {
        self.config.kind == Kind::Chunks && self.config.accept_data_loss
    }

    /// Gives up the way through the log behind `after`. `durable_upto` is what is known to have been durable; `is_complete`: nothing behind
    /// `after` was recycled.
    pub(super) fn begin_salvage(&mut self, after: Resume, durable_upto: u64, is_complete: bool) {
        assert!(self.may_salvage(), "the operator accepts the loss");
        let superblock = self.superblock();
        let checkpoints =
            superblock.checkpoints.iter().map(|known| known.durable_upto.max(known.resume.sequence));
        let joints = superblock.joints.iter().map(|joint| joint.after);
        let durable_upto = checkpoints.chain(joints).max().unwrap_or(0).max(durable_upto);
        self.accept_lost_end();
        let place = Some(Place { segment: SegmentIndex(0), block: BlockIndex(0) });
        *self.salvage() =
            Salvage { after, durable_upto, is_complete, place, last: after.sequence, ..Salvage::default() };
        self.stage = Stage::Salvage;
    }

    /// One step; false while it waits for a read.
    pub(super) fn advance_salvage<M: Memory>(&mut self, memory: &mut M, io: &mut IoEffects) -> bool {
        match self.salvage().place {
            Some(place) => self.search_all(place, memory, io),
            None => self.tell_next(memory, io),
        }
    }

    fn search_all<M: Memory>(&mut self, place: Place, memory: &mut M, io: &mut IoEffects) -> bool {
        if !self.segments.is_allocated(place.segment) {
            let salvage = self.salvage();
            salvage.place = None;
            salvage.found.sort_unstable();
            return true;
        }
        if place.block.0 >= self.blocks_there(place.segment) {
            let next = SegmentIndex(place.segment.0 + 1);
            self.salvage().place = Some(Place { segment: next, block: BlockIndex(0) });
            return true;
        }
        let blocks = match self.look_at(place, SEARCH_WINDOW_BYTES, memory, io) {
            Seen::Later => return false,
            Seen::Failed | Seen::None => 1,
            Seen::Batch(header, ..) => {
                let found = Found { incarnation: header.incarnation, sequence: header.sequence, place };
                if self.is_wanted(&found) {
                    self.salvage().found.push(found);
                }
                header.blocks
            }
        };
        self.salvage().place = Some(place.plus(blocks.max(1)));
        true
    }

    /// Whether a batch is behind what is known, and wasn't cut.
    fn is_wanted(&mut self, found: &Found) -> bool {
        let after = self.salvage().after;
        let was_cut = |after: u64, life: Incarnation| found.sequence > after && found.incarnation < life;
        found.sequence > after.sequence
            && found.incarnation >= after.incarnation
            && !self.superblock().joints.iter().any(|joint| was_cut(joint.after, joint.incarnation))
    }

    fn tell_next<M: Memory>(&mut self, memory: &mut M, io: &mut IoEffects) -> bool {
        let salvage = self.salvage();
        let Some(found) = salvage.found.get(salvage.told).copied() else {
            return self.finish_salvage(io);
        };
        if self.tell_missing(found.sequence - 1, found.place) {
            return true;
        }
        let (header, at) = match self.look_at(found.place, 0, memory, io) {
            Seen::Later => return false,
            // It was there a moment ago; the next one says that it is missing.
            Seen::Failed | Seen::None => {
                self.salvage().told += 1;
                return true;
            }
            Seen::Batch(header, _, at) => (header, at),
        };
        let bytes = header.descriptor_bytes as usize;
        let Some(slot) = memory.allocate(bytes) else {
            self.fail(OpenError::NoMemory);
            return true;
        };
        let window = self.opening_mut().window.slot();
        let descriptor = memory.bytes(window)[at..at + bytes].to_vec();
        memory.bytes_mut(slot)[..bytes].copy_from_slice(&descriptor);
        self.counters.replayed_descriptor_bytes += u64::from(header.descriptor_bytes);
        self.segments.appended(found.place.segment, found.sequence);
        let salvage = self.salvage();
        salvage.told += 1;
        salvage.last = salvage.last.max(found.sequence);
        self.notes.push_back(Note::Salvaged { header, place: found.place, slot });
        true
    }

    /// Says which batches are missing up to `last`. Without a checkpoint nobody knows: most of what was ever written is gone in order.
    fn tell_missing(&mut self, last: u64, place: Place) -> bool {
        let salvage = self.salvage();
        let first = salvage.last + 1;
        if !salvage.is_complete || first > last {
            return false;
        }
        salvage.last = last;
        self.opening_mut().lacks = true;
        self.notes.push_back(Note::Damaged(DamagedBatches { first, last, place }));
        true
    }

    fn finish_salvage(&mut self, io: &mut IoEffects) -> bool {
        let durable_upto = self.salvage().durable_upto;
        if self.tell_missing(durable_upto, Place::default()) {
            return true;
        }
        let last = self.salvage().last.max(durable_upto);
        let superblock = self.superblock.as_mut().expect("read before");
        let number = superblock.checkpoints.iter().map(|known| known.number).max().unwrap_or(0).max(1) + 1;
        let none = CheckpointRef {
            number,
            resume: Resume::default(),
            durable_upto: last,
            mark: 0,
            pages: 0,
            segments: Vec::new(),
        };
        let former = std::mem::replace(&mut superblock.checkpoints, vec![none]);
        superblock.joints.clear();
        let resume = Resume { sequence: last, incarnation: superblock.incarnation, ..Resume::default() };
        for segment in former.into_iter().flat_map(|checkpoint| checkpoint.segments) {
            if self.segments.is_allocated(segment)
                && self.segments.segment(segment).state == SegmentState::Checkpoint
            {
                self.segments.set_state(segment, SegmentState::Ready);
            }
        }
        self.recycle_beyond = 0;
        self.resume_from(resume);
        self.begin_incarnation(io);
        false
    }

    /// Whether recovery found no way through the log and nothing holds but what is in memory: a checkpoint is due.
    pub fn needs_checkpoint(&self) -> bool {
        self.superblock().checkpoints.first().is_some_and(|checkpoint| checkpoint.segments.is_empty())
    }

    /// What batch lies at `place`; `ahead` bytes are read where it isn't in the window.
    pub(super) fn look_at<M: Memory>(
        &mut self,
        place: Place,
        ahead: u32,
        memory: &mut M,
        io: &mut IoEffects,
    ) -> Seen {
        let (kind, secret) = (self.config.kind, self.superblock().secret);
        let store = self.superblock().identity.store;
        let offset = self.geometry().offset(place);
        let left = self.geometry().segment_blocks() - place.block.0;
        let there = self.bytes_there(place);
        if there == 0 {
            return Seen::None;
        }
        let at = match self.opening_mut().window.want(offset, BLOCK, ahead.min(there), io) {
            Want::Here(at) => at,
            Want::Later => return Seen::Later,
            Want::Failed => return Seen::Failed,
        };
        let slot = self.opening_mut().window.slot();
        let Some(bytes) = BatchHeader::peek(kind, &memory.bytes(slot)[at..at + BLOCK as usize]) else {
            return Seen::None;
        };
        if bytes > there {
            return Seen::None;
        }
        let at = match self.opening_mut().window.want(offset, bytes, ahead.max(bytes).min(there), io) {
            Want::Here(at) => at,
            Want::Later => return Seen::Later,
            Want::Failed => return Seen::Failed,
        };
        let descriptor = &memory.bytes(slot)[at..at + bytes as usize];
        let Some((header, checksum)) = BatchHeader::decode(kind, secret, descriptor) else {
            return Seen::None;
        };
        // R30: another store's, or another place's, isn't the log's.
        if header.store != store || header.offset != offset || header.blocks > left {
            return Seen::None;
        }
        Seen::Batch(header, checksum, at)
    }
}
