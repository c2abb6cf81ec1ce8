//! Opening, first half: format or superblocks, then the newest checkpoint that is whole.

use wire::Memory;

use super::salvage::Salvage;
use super::superblocks::Covers;
use super::walk::Walk;
use super::window::{Want, Window};
use super::{Device, Expected, Note, OpenError, Opened, Stage, tag};
use crate::batch::descriptor_bytes_max;
use crate::checkpoint::{PAGE_BYTES_MAX, PAGE_HEADER_BYTES, PageHeader, PageKind, page_bytes_max};
use crate::io::{IoEffects, IoFailure, IoRequest, IoToken};
use crate::layout::{BLOCK, BlockIndex, DATA_START, Place, SegmentIndex};
use crate::segments::{SegmentState, Segments};
use crate::superblock::{
    COPY_BYTES, JOINTS_MAX, Joint, Kind, Resume, SUPERBLOCK_BYTES, SUPERBLOCK_COPIES, Superblock,
    SuperblockError, copy_offset,
};

/// Bytes of a segment's entry in a checkpoint's table.
pub(super) const TABLE_ENTRY_BYTES: usize = 16;

/// What only opening needs.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Opening {
    pending: u8,
    unreadable: [bool; SUPERBLOCK_COPIES],
    pub(super) window: Window,
    load: Load,
    pub(super) walk: Walk,
    pub(super) salvage: Salvage,
    /// The file is shorter than it was.
    pub(super) lost_its_end: bool,
    /// The operator doesn't accept that.
    pub(super) refusal: Option<OpenError>,
    /// Batches that were durable aren't there, or may not be.
    pub(super) lacks: bool,
    /// Where it ended, once it is made whole.
    pub(super) ended_at: Option<Place>,
}

impl Default for Opening {
    fn default() -> Self {
        Self {
            pending: 0,
            unreadable: [false; SUPERBLOCK_COPIES],
            window: Window::default(),
            load: Load::default(),
            walk: Walk::default(),
            salvage: Salvage::default(),
            lost_its_end: false,
            refusal: None,
            lacks: false,
            ended_at: None,
        }
    }
}

/// Where the reading of a checkpoint stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Load {
    /// 0 the newest, 1 the older.
    which: usize,
    page: u32,
    segment: usize,
    block: u32,
    table_entries: u32,
    /// Where the device failed, in this checkpoint or the one before it.
    unreadable: Option<u64>,
}

/// Whose the copies of a superblock are. What isn't of this kind, or not whom one expects, is refused by name.
pub fn identify(
    copies: &[Result<Superblock, SuperblockError>],
    kind: Kind,
    expected: Expected,
) -> Result<&Superblock, OpenError> {
    let superblock = Superblock::choose(copies).map_err(|error| match error {
        SuperblockError::Absent => OpenError::NotFormatted,
        SuperblockError::Foreign => OpenError::Foreign,
        SuperblockError::Damaged => OpenError::SuperblocksDamaged,
        SuperblockError::Newer(found) => OpenError::Newer { found },
    })?;
    if superblock.kind != kind {
        return Err(OpenError::WrongKind { found: superblock.kind });
    }
    // R34: a cloned, misplaced or foreign disk is refused by name.
    let identity = superblock.identity;
    let is_expected = expected.cluster.is_none_or(|cluster| cluster == identity.cluster)
        && expected.store.is_none_or(|store| store == identity.store)
        && (expected.node, expected.unit) == (identity.node, identity.unit);
    if is_expected { Ok(superblock) } else { Err(OpenError::WrongIdentity { found: identity }) }
}

impl Device {
    pub(super) fn start_opening<M: Memory>(&mut self, memory: &mut M, io: &mut IoEffects) {
        if !self.take_own_slots(memory) {
            return;
        }
        if self.config.device_bytes < DATA_START {
            match self.stage {
                Stage::FormatProbe => self.format_place(io),
                _ => self.fail(OpenError::NotFormatted),
            }
            return;
        }
        let slot = self.writer.slot.expect("just taken");
        for copy in 0..SUPERBLOCK_COPIES {
            io.requests.push(IoRequest::Read {
                io: IoToken::new(tag::SUPERBLOCK_READ, copy as u64),
                offset: copy_offset(copy),
                slot,
                slot_offset: u32::try_from(copy).expect("below 4") * COPY_BYTES,
                length: COPY_BYTES,
                background: false,
            });
        }
        self.opening_mut().pending = 4;
    }

    pub(super) fn opening_mut(&mut self) -> &mut Opening {
        self.opening.as_mut().expect("there until the store is open")
    }

    pub(super) fn on_superblock_read<M: Memory>(
        &mut self,
        copy: u64,
        failure: Option<IoFailure>,
        memory: &mut M,
        io: &mut IoEffects,
    ) {
        let opening = self.opening_mut();
        opening.unreadable[usize::try_from(copy).expect("below 4")] |= failure.is_some();
        opening.pending -= 1;
        if opening.pending > 0 {
            return;
        }
        let unreadable = opening.unreadable;
        let slot = self.writer.slot.expect("taken before the read");
        let bytes = &memory.bytes(slot)[..SUPERBLOCK_COPIES * SUPERBLOCK_BYTES];
        let copies: Vec<_> = bytes
            .chunks_exact(SUPERBLOCK_BYTES)
            .enumerate()
            .map(|(copy, bytes)| {
                if unreadable[copy] { Err(SuperblockError::Damaged) } else { Superblock::decode(copy, bytes) }
            })
            .collect();
        // Copies that can be read suffice; that others can't says nothing about what they hold.
        let is_any_whole = copies.iter().any(Result::is_ok);
        if let Some(copy) = unreadable.iter().position(|unreadable| *unreadable).filter(|_| !is_any_whole) {
            return self.fail(OpenError::Unreadable { offset: copy_offset(copy) });
        }
        if self.stage == Stage::FormatProbe {
            // R34: formatting never overwrites; only a place without any superblock is empty.
            if copies.iter().all(|copy| matches!(copy, Err(SuperblockError::Absent))) {
                self.format_place(io);
            } else {
                self.fail(OpenError::NotEmpty);
            }
            return;
        }
        let expected = self.expected.expect("set by `open`");
        match identify(&copies, self.config.kind, expected).cloned() {
            Ok(best) => {
                self.counters.superblock_copies_damaged =
                    copies.iter().filter(|copy| copy.is_err()).count() as u64;
                self.adopt(best, memory);
            }
            Err(error) => self.fail(error),
        }
    }

    fn adopt<M: Memory>(&mut self, superblock: Superblock, memory: &mut M) {
        let mut scratch = vec![0; SUPERBLOCK_BYTES];
        self.writer.parent = superblock.encode(0, &mut scratch);
        self.superblock = Some(superblock);
        self.begin_load(memory);
    }

    fn format_place(&mut self, io: &mut IoEffects) {
        let geometry = self.geometry();
        // The log's open and next segment, a checkpoint and one to clean into, and something to store.
        if geometry.segments_in(self.config.capacity_bytes) < 8 {
            return self.fail(OpenError::TooSmall);
        }
        self.stage = Stage::FormatAllocate;
        let length = DATA_START + u64::from(geometry.segment_bytes());
        if self.config.device_bytes >= length {
            return self.on_format_allocated(None, io);
        }
        io.requests.push(IoRequest::Allocate {
            io: IoToken::new(tag::ALLOCATE, 0),
            offset: self.config.device_bytes,
            length: length - self.config.device_bytes,
        });
    }

    pub(super) fn on_format_allocated(&mut self, failure: Option<IoFailure>, io: &mut IoEffects) {
        if failure.is_some() {
            return self.fail(OpenError::Unwritable);
        }
        let length = DATA_START + u64::from(self.geometry().segment_bytes());
        self.config.device_bytes = self.config.device_bytes.max(length);
        self.reset_segments();
        self.segments.rebuild(0);
        self.begin_incarnation(io);
    }

    fn reset_segments(&mut self) {
        let geometry = self.geometry();
        let allocated = geometry.segments_in(self.config.device_bytes);
        let capacity = geometry.segments_in(self.config.capacity_bytes);
        self.segments = Segments::new(geometry, capacity, allocated);
        self.take_part_in();
    }

    fn begin_load<M: Memory>(&mut self, memory: &mut M) {
        let capacity = PAGE_BYTES_MAX.max(descriptor_bytes_max(self.config.kind));
        if !self.opening_mut().window.open(capacity, memory) {
            return self.fail(OpenError::NoMemory);
        }
        self.reset_segments();
        let superblock = self.superblock();
        let named = superblock.checkpoints.iter().flat_map(|checkpoint| checkpoint.segments.iter());
        let named = named.chain(superblock.joints.iter().map(|joint| &joint.segment));
        if let Some(last) = named.max().copied().filter(|last| !self.segments.is_allocated(*last)) {
            self.meet_lost_end(last);
        }
        self.stage = Stage::Checkpoint;
    }

    /// The file was longer: it had this segment.
    pub(super) fn truncated(&self, segment: SegmentIndex) -> OpenError {
        let behind = Place { segment: SegmentIndex(segment.0 + 1), block: BlockIndex(0) };
        OpenError::Truncated { length: self.config.device_bytes, needed: self.geometry().offset(behind) }
    }

    /// One step through the checkpoint's pages; false while it waits.
    pub(super) fn advance_checkpoint<M: Memory>(&mut self, memory: &mut M, io: &mut IoEffects) -> bool {
        let load = self.opening_mut().load;
        let geometry = self.geometry();
        let Some(checkpoint) = self.superblock().checkpoints.get(load.which) else {
            return self.on_checkpoints_exhausted();
        };
        let (number, pages, secret) = (checkpoint.number, checkpoint.pages, self.superblock().secret);
        let store = self.superblock().identity.store;
        let Some(segment) = checkpoint.segments.get(load.segment).copied() else {
            return self.abandon_checkpoint();
        };
        let place = Place { segment, block: BlockIndex(load.block) };
        let there = self.bytes_there(place);
        if there == 0 {
            return self.abandon_checkpoint();
        }
        let offset = geometry.offset(place);
        let window = &mut self.opening_mut().window;
        let at = match window.want(offset, BLOCK, 0, io) {
            Want::Here(at) => at,
            Want::Later => return false,
            Want::Failed => return self.leave_unreadable_checkpoint(offset),
        };
        let slot = window.slot();
        let Some(length) = PageHeader::peek(&memory.bytes(slot)[at..at + BLOCK as usize]) else {
            return self.abandon_checkpoint();
        };
        if length > there {
            return self.abandon_checkpoint();
        }
        let at = match self.opening_mut().window.want(offset, length.next_multiple_of(BLOCK), 0, io) {
            Want::Here(at) => at,
            Want::Later => return false,
            Want::Failed => return self.leave_unreadable_checkpoint(offset),
        };
        let page = &memory.bytes(slot)[at..at + length as usize];
        let header = PageHeader::decode(secret, page).filter(|header| {
            (header.checkpoint, header.page, header.store, header.offset)
                == (number, load.page, store, offset)
                && header.last == (header.page + 1 == pages)
        });
        let Some(header) = header else { return self.abandon_checkpoint() };
        let content = PAGE_HEADER_BYTES..length as usize;
        if header.kind == PageKind::Segments {
            self.absorb_table(&page[content], header.entries);
        } else {
            self.notes.push_back(Note::Page {
                slot,
                offset: u32::try_from(at + content.start).expect("inside the window"),
                length: u32::try_from(content.len()).expect("inside the window"),
                entries: header.entries,
            });
        }
        self.step_load(length);
        if header.last {
            self.begin_walk();
        }
        true
    }

    /// Moves on to the next page's place (`checkpoint`).
    fn step_load(&mut self, length: u32) {
        let geometry = self.geometry();
        let load = &mut self.opening_mut().load;
        load.page += 1;
        load.block += length.div_ceil(BLOCK);
        if geometry.segment_bytes() - load.block * BLOCK < page_bytes_max(geometry) {
            load.segment += 1;
            load.block = 0;
        }
    }

    /// Where the table knows segments that the file hasn't got, it has lost its end.
    fn absorb_table(&mut self, content: &[u8], entries: u32) {
        let first = self.opening_mut().load.table_entries;
        if first + entries > self.segments.allocated() {
            self.meet_lost_end(SegmentIndex(first + entries - 1));
        }
        let listed = content.chunks_exact(TABLE_ENTRY_BYTES).take(entries as usize);
        for (index, entry) in (first..self.segments.allocated()).zip(listed) {
            let touched = u64::from_le_bytes(entry[8..16].try_into().expect("8 bytes"));
            let index = SegmentIndex(index);
            match entry[0] {
                1 => self.segments.set_state(index, SegmentState::Ready),
                2 => {
                    self.segments.set_state(index, SegmentState::Sealed);
                    self.segments.appended(index, touched);
                }
                _ => {}
            }
        }
        self.opening_mut().load.table_entries += entries;
    }

    /// The older one loses nothing; where there is none, opening stops and may be tried again.
    fn leave_unreadable_checkpoint(&mut self, offset: u64) -> bool {
        self.opening_mut().load.unreadable.get_or_insert(offset);
        self.abandon_checkpoint()
    }

    fn abandon_checkpoint(&mut self) -> bool {
        self.counters.checkpoints_damaged += 1;
        self.notes.push_back(Note::CheckpointAbandoned);
        let Load { which, unreadable, .. } = self.opening_mut().load;
        self.opening_mut().load = Load { which: which + 1, unreadable, ..Load::default() };
        self.reset_segments();
        true
    }

    /// No checkpoint, or none that is whole: the log from its beginning replaces the first one only, since nothing is recycled
    /// before there are two (R32).
    fn on_checkpoints_exhausted(&mut self) -> bool {
        let is_whole_log_there =
            self.superblock().checkpoints.iter().all(|checkpoint| checkpoint.number == 1);
        if is_whole_log_there {
            self.begin_walk();
        } else if self.may_salvage() {
            self.begin_salvage(Resume::default(), 0, false);
        } else {
            let error = self.without_checkpoint();
            self.fail(error);
        }
        true
    }

    /// What is said where no checkpoint is left. A store can be searched if the operator accepts the loss, a log can't.
    fn without_checkpoint(&mut self) -> OpenError {
        let (kind, length) = (self.config.kind, self.config.device_bytes);
        let Opening { refusal, lost_its_end, load, .. } = self.opening_mut();
        match (kind, *refusal, load.unreadable) {
            (Kind::Chunks, Some(refusal), _) => refusal,
            (Kind::Chunks, None, Some(offset)) => OpenError::Unreadable { offset },
            (Kind::Records, ..) if *lost_its_end => OpenError::CheckpointsTruncated { length },
            (Kind::Records, _, Some(offset)) => OpenError::CheckpointsUnreadable { offset },
            (_, _, None) => OpenError::CheckpointsDamaged,
        }
    }

    fn begin_walk(&mut self) {
        if let Some(refusal) = self.opening_mut().refusal {
            return self.fail(refusal);
        }
        let which = self.opening_mut().load.which;
        let superblock = self.superblock.as_mut().expect("read before");
        // R29: what a damaged checkpoint's reference says was durable is durable all the same.
        let known = superblock.checkpoints.iter().map(|known| known.durable_upto.max(known.resume.sequence));
        let mut durable_upto = known.max().unwrap_or(0);
        superblock.checkpoints.drain(..which.min(superblock.checkpoints.len()));
        self.recycle_beyond = superblock.older_checkpoint_sequence();
        let superblock = self.superblock();
        let resume = match superblock.checkpoints.first() {
            Some(checkpoint) => checkpoint.resume,
            None => Resume { sequence: 0, ..self.pipeline.durable },
        };
        // What an earlier recovery went on from was checked by it.
        for joint in &superblock.joints {
            durable_upto = durable_upto.max(joint.after);
        }
        let is_clean = superblock.clean && which == 0;
        if self.opening_mut().lost_its_end {
            self.forget_what_is_gone(resume.sequence, is_clean);
        }
        let checkpoint_segments: Vec<_> =
            self.superblock().checkpoints.iter().flat_map(|checkpoint| checkpoint.segments.clone()).collect();
        for segment in checkpoint_segments {
            self.segments.set_state(segment, SegmentState::Checkpoint);
        }
        if self.opening_mut().lost_its_end && !is_clean && self.may_salvage() {
            return self.begin_salvage(resume, durable_upto, true);
        }
        self.opening_mut().walk = Walk::new(resume, durable_upto, is_clean);
        self.stage = Stage::Walk;
    }

    /// The operator accepts that the file has lost its end: what isn't there is no longer named, nor what leads through it. Behind the checkpoint the walk
    /// has to see what is missing.
    fn forget_what_is_gone(&mut self, resumes_at: u64, is_clean: bool) {
        let segments = &self.segments;
        let superblock = self.superblock.as_mut().expect("read before");
        superblock.checkpoints.truncate(1);
        let is_passed = |joint: &Joint| is_clean || joint.after < resumes_at;
        superblock.joints.retain(|joint| segments.is_allocated(joint.segment) || !is_passed(joint));
        self.recycle_beyond = 0;
    }

    /// The log's end is known: begins the new life (R30, I4). The file's length comes first: another life may have grown it and have been
    /// killed before any flush, and the superblock names only segments that stay.
    pub(super) fn begin_incarnation(&mut self, io: &mut IoEffects) {
        self.stage = Stage::Incarnation;
        if !self.begin_making_whole(io) {
            io.requests.push(IoRequest::Flush { io: IoToken::new(tag::LENGTH_FLUSH, 0) });
        }
    }

    pub(super) fn on_length_durable<M: Memory>(&mut self, memory: &mut M, io: &mut IoEffects) {
        self.begin_life();
        self.superblock.as_mut().expect("known").clean = false;
        let joins = self.join_fresh_segment();
        self.write_superblock(Covers { opens: true, joins, checkpoint: None }, memory, io);
    }

    /// Chooses a fresh segment for this life and names it in the superblock; `None` where none is free or too many restarts lie
    /// behind: then a checkpoint comes first.
    pub(super) fn join_fresh_segment(&mut self) -> Option<SegmentIndex> {
        let after = self.pipeline.durable.sequence;
        let superblock = self.superblock();
        let unused = superblock.joints.last().filter(|joint| joint.after == after).copied();
        let is_crowded = superblock.joints.len() - usize::from(unused.is_some()) >= JOINTS_MAX;
        let is_first = superblock.sequence == 0;
        if is_crowded || !(is_first || self.has_free_beyond_checkpoint()) {
            return None;
        }
        let superblock = self.superblock.as_mut().expect("known");
        // The segment of a life that appended nothing is free again; another one is preferred all the same (R33).
        let avoid = unused.map(|joint| joint.segment);
        let segment = self.segments.take_free(SegmentState::Open, avoid)?;
        let incarnation = superblock.incarnation;
        superblock.joints.retain(|joint| joint.after < after);
        superblock.joints.push(Joint { incarnation, after, segment });
        Some(segment)
    }

    pub(super) fn on_incarnation_durable<M: Memory>(&mut self, memory: &mut M) {
        let opening = self.opening.take();
        let (recovered_cut, lost_its_end, was_clean, ended_at) =
            opening.map_or((false, false, false, None), |mut opening| {
                opening.window.close(memory);
                let recovered_cut = opening.walk.recovered_cut || opening.lost_its_end;
                (recovered_cut, opening.lost_its_end, opening.walk.is_clean, opening.ended_at)
            });
        self.stage = Stage::Serving;
        self.notes.push_back(Note::Opened(Opened {
            identity: self.superblock().identity,
            incarnation: self.superblock().incarnation,
            sequence: self.pipeline.durable.sequence,
            recovered_cut,
            lost_its_end,
            was_clean,
            ended_at,
        }));
    }

    /// The owner's number of the checkpoint that recovery reads, or has read.
    pub fn recovering_mark(&self) -> u64 {
        let which = match (&self.opening, self.stage) {
            (Some(opening), Stage::Checkpoint) => opening.load.which,
            // Damaged ones are out of the list by now.
            _ => 0,
        };
        self.superblock().checkpoints.get(which).map_or(0, |checkpoint| checkpoint.mark)
    }

    pub(super) fn must_be_whole(&self) -> bool {
        self.config.kind == Kind::Records && !self.config.accept_data_loss
    }
}
