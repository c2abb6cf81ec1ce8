//! Writing a checkpoint: the table of segments as it is when the checkpoint begins, then the owner's pages, flush, superblock.
//!
//! The owner's image may be taken while batches go on: replay from the checkpoint's batch repeats what happened meanwhile, and every
//! entry's effect is the same the second time (docs/on-disk-format.md). Its segments are free ones; the predecessor's predecessor's are
//! free once this one is committed.

use wire::planted::{Bug, planted};
use wire::{Memory, Slot};

use super::open::TABLE_ENTRY_BYTES;
use super::superblocks::Covers;
use super::{Device, Note, Stage, tag};
use crate::checkpoint::{PAGE_HEADER_BYTES, PageHeader, PageKind, page_bytes_max};
use crate::io::{IoEffects, IoFailure, IoRequest, IoToken, Part};
use crate::layout::{BLOCK, BlockIndex, Place, SegmentIndex};
use crate::segments::SegmentState;
use crate::superblock::{CHECKPOINT_SEGMENTS_MAX, CheckpointRef, Resume};

/// Pages being written at once.
const PAGES_IN_FLIGHT_MAX: u8 = 2;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
enum Phase {
    #[default]
    Idle,
    Pages,
    Flushing,
    Committing,
}

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct CheckpointWriter {
    phase: Phase,
    number: u64,
    resume: Option<Resume>,
    mark: u64,
    clean: bool,
    segments: Vec<SegmentIndex>,
    block: u32,
    page: u32,
    in_flight: Vec<(u64, Slot)>,
    last_page_written: bool,
    /// The table of segments, and how much of it is in pages.
    table: Vec<u8>,
    table_written: usize,
}

impl Device {
    /// Whether a checkpoint is being made.
    pub fn is_checkpointing(&self) -> bool {
        self.checkpoint.phase != Phase::Idle
    }

    /// Bytes that the owner can put into a page.
    pub fn page_content_max(&self) -> usize {
        page_bytes_max(self.geometry()) as usize - PAGE_HEADER_BYTES
    }

    /// Segments that the present checkpoints take.
    pub fn checkpoint_segments(&self) -> u32 {
        let counts = self.superblock().checkpoints.iter().map(|checkpoint| checkpoint.segments.len());
        u32::try_from(counts.sum::<usize>()).expect("limited")
    }

    /// Segments that the one under way has so far.
    pub(super) fn checkpoint_taken(&self) -> u32 {
        let taken = if self.is_checkpointing() { self.checkpoint.segments.len() } else { 0 };
        u32::try_from(taken).expect("limited")
    }

    /// The newest checkpoint's batch.
    pub fn checkpoint_sequence(&self) -> u64 {
        self.superblock().checkpoints.first().map_or(0, |checkpoint| checkpoint.resume.sequence)
    }

    /// The owner's number of the newest checkpoint; 0 where there is none.
    pub fn newest_mark(&self) -> u64 {
        self.superblock().checkpoints.first().map_or(0, |checkpoint| checkpoint.mark)
    }

    /// Whether drained segments wait for a checkpoint, and not only for readers (R32).
    pub fn checkpoint_frees(&self) -> bool {
        self.segments.drained_after(self.recycle_beyond)
    }

    /// Begins a checkpoint at the last durable batch, which the owner has applied; false where one is being made or no segment
    /// is free. `clean` promises that no batch follows.
    pub fn begin_checkpoint(&mut self, clean: bool) -> bool {
        self.begin_checkpoint_at(self.pipeline.durable, 0, clean)
    }

    /// Begins a checkpoint at an earlier batch, with the owner's own number for it.
    pub fn begin_checkpoint_at(&mut self, resume: Resume, mark: u64, clean: bool) -> bool {
        if self.stage != Stage::Serving || self.is_checkpointing() {
            return false;
        }
        assert!(resume.sequence <= self.durable_sequence(), "a checkpoint holds what is durable");
        let Some(first) = self.segments.take_free(SegmentState::Checkpoint, None) else { return false };
        assert!(!clean || self.pipeline_is_quiet(), "a clean end has no batch in flight");
        let number = self.superblock().checkpoints.first().map_or(0, |checkpoint| checkpoint.number) + 1;
        self.checkpoint = CheckpointWriter {
            phase: Phase::Pages,
            number,
            resume: Some(resume),
            mark,
            clean,
            segments: vec![first],
            table: self.encode_table(),
            ..CheckpointWriter::default()
        };
        true
    }

    /// Whether the newest checkpoint holds everything and nothing lies behind it.
    pub fn ends_at_checkpoint(&self) -> bool {
        let newest = self.superblock().checkpoints.first();
        self.stage == Stage::Serving
            && !self.is_checkpointing()
            && self.pipeline_is_quiet()
            && newest.is_some_and(|checkpoint| {
                checkpoint.resume.sequence == self.durable_sequence() || planted(Bug::LogEndsEarly)
            })
    }

    /// Where the log ends at its newest checkpoint, says so in the superblock: the next start reads nothing behind that. The owner
    /// appends nothing any more. True once it is durable, or where it isn't so.
    pub fn mark_clean<M: Memory>(&mut self, memory: &mut M, io: &mut IoEffects) -> bool {
        if !self.ends_at_checkpoint() {
            return true;
        }
        let superblock = self.superblock.as_mut().expect("known while serving");
        if !std::mem::replace(&mut superblock.clean, true) {
            let before = io.requests.len();
            self.write_superblock(Covers::default(), memory, io);
            self.count(io, before);
        }
        self.superblock_is_durable()
    }

    fn pipeline_is_quiet(&self) -> bool {
        self.in_flight() == 0 && self.last_sequence() == self.durable_sequence()
    }

    fn encode_table(&self) -> Vec<u8> {
        let mut table = vec![0; self.segments.allocated() as usize * TABLE_ENTRY_BYTES];
        for ((_, segment), entry) in self.segments.iter().zip(table.chunks_exact_mut(TABLE_ENTRY_BYTES)) {
            entry[0] = match segment.state {
                SegmentState::Absent | SegmentState::Unwritten | SegmentState::Zeroing => 0,
                // A segment that is only named as the next holds nothing yet; the walk finds it if that changes.
                SegmentState::Ready | SegmentState::Next | SegmentState::Checkpoint => 1,
                SegmentState::Open | SegmentState::Sealed => 2,
            };
            entry[8..].copy_from_slice(&segment.touched.to_le_bytes());
        }
        table
    }

    /// Whether `checkpoint_page` may be called now.
    pub fn wants_page(&self) -> bool {
        self.checkpoint.phase == Phase::Pages
            && !self.checkpoint.last_page_written
            && self.checkpoint.table_written == self.checkpoint.table.len()
            && self.checkpoint.in_flight.len() < usize::from(PAGES_IN_FLIGHT_MAX)
    }

    /// A buffer for the next page, with the offset at which its content begins.
    pub fn allocate_page<M: Memory>(&self, memory: &mut M) -> Option<(Slot, usize)> {
        memory.allocate(page_bytes_max(self.geometry()) as usize).map(|slot| (slot, PAGE_HEADER_BYTES))
    }

    /// Writes the owner's next page: `length` bytes of content in `slot`, whose reference passes to the device.
    pub fn checkpoint_page<M: Memory>(
        &mut self,
        slot: Slot,
        content: PageContent,
        memory: &mut M,
        io: &mut IoEffects,
    ) {
        assert!(self.wants_page(), "the owner asked before");
        let before = io.requests.len();
        self.write_page(slot, PageKind::Owner, content, memory, io);
        self.count(io, before);
    }

    /// Pages of the table of segments, before the owner's.
    pub(super) fn advance_table<M: Memory>(&mut self, memory: &mut M, io: &mut IoEffects) {
        while self.checkpoint.phase == Phase::Pages
            && self.checkpoint.table_written < self.checkpoint.table.len()
            && self.checkpoint.in_flight.len() < usize::from(PAGES_IN_FLIGHT_MAX)
        {
            let Some((slot, start)) = self.allocate_page(memory) else { return };
            let fits = self.page_content_max() / TABLE_ENTRY_BYTES * TABLE_ENTRY_BYTES;
            let from = self.checkpoint.table_written;
            let to = self.checkpoint.table.len().min(from + fits);
            memory.bytes_mut(slot)[start..start + to - from]
                .copy_from_slice(&self.checkpoint.table[from..to]);
            self.checkpoint.table_written = to;
            let content =
                PageContent { length: to - from, entries: (to - from) / TABLE_ENTRY_BYTES, last: false };
            self.write_page(slot, PageKind::Segments, content, memory, io);
        }
    }

    fn write_page<M: Memory>(
        &mut self,
        slot: Slot,
        kind: PageKind,
        content: PageContent,
        memory: &mut M,
        io: &mut IoEffects,
    ) {
        assert!(content.length <= self.page_content_max());
        let geometry = self.geometry();
        let segment = *self.checkpoint.segments.last().expect("begun with one");
        let offset = geometry.offset(Place { segment, block: BlockIndex(self.checkpoint.block) });
        let length = u32::try_from(PAGE_HEADER_BYTES + content.length).expect("at most a page");
        let header = PageHeader {
            kind,
            last: content.last,
            length,
            checkpoint: self.checkpoint.number,
            page: self.checkpoint.page,
            entries: u32::try_from(content.entries).expect("at most a page"),
            store: self.superblock().identity.store,
            offset,
        };
        let secret = self.superblock().secret;
        let padded = length.next_multiple_of(BLOCK);
        let bytes = &mut memory.bytes_mut(slot)[..padded as usize];
        bytes[length as usize..].fill(0);
        header.encode(secret, &mut bytes[..length as usize]);
        io.write(
            IoToken::new(tag::PAGE, offset / u64::from(BLOCK)),
            offset,
            [Part { slot, offset: 0, length: padded }],
            true,
        );
        self.checkpoint.in_flight.push((offset / u64::from(BLOCK), slot));
        self.checkpoint.page += 1;
        self.checkpoint.block += padded / BLOCK;
        self.checkpoint.last_page_written = content.last;
        let is_segment_full =
            geometry.segment_bytes() - self.checkpoint.block * BLOCK < page_bytes_max(geometry);
        if is_segment_full && !content.last {
            self.extend_checkpoint();
        }
    }

    fn extend_checkpoint(&mut self) {
        let is_within = self.checkpoint.segments.len() < CHECKPOINT_SEGMENTS_MAX;
        let free = if is_within { self.segments.take_free(SegmentState::Checkpoint, None) } else { None };
        match free {
            Some(segment) => {
                self.checkpoint.segments.push(segment);
                self.checkpoint.block = 0;
            }
            None => self.abandon_pages(),
        }
    }

    /// Gives the checkpoint up once its writes have ended.
    fn abandon_pages(&mut self) {
        self.checkpoint.resume = None;
        self.checkpoint.last_page_written = true;
    }

    pub(super) fn on_page_written<M: Memory>(
        &mut self,
        key: u64,
        failure: Option<IoFailure>,
        memory: &mut M,
        io: &mut IoEffects,
    ) {
        let at = self.checkpoint.in_flight.iter().position(|(page, _)| *page == key);
        let (_, slot) =
            self.checkpoint.in_flight.remove(at.expect("a page's write ended that was asked for"));
        memory.release(slot);
        if let Some(failure) = failure {
            self.fence(failure);
        }
        if self.stage != Stage::Serving {
            return;
        }
        self.advance_table(memory, io);
        if !self.checkpoint.last_page_written || !self.checkpoint.in_flight.is_empty() {
            return;
        }
        if self.checkpoint.resume.is_none() {
            let segments = std::mem::take(&mut self.checkpoint.segments);
            for segment in segments {
                self.segments.put_ready(segment);
            }
            self.checkpoint.phase = Phase::Idle;
            self.notes.push_back(Note::CheckpointFailed);
            return;
        }
        self.checkpoint.phase = Phase::Flushing;
        io.requests.push(IoRequest::Flush { io: IoToken::new(tag::PAGE_FLUSH, 0) });
    }

    pub(super) fn on_pages_flushed<M: Memory>(
        &mut self,
        failure: Option<IoFailure>,
        memory: &mut M,
        io: &mut IoEffects,
    ) {
        if let Some(failure) = failure {
            self.fence(failure);
        }
        if self.stage != Stage::Serving {
            return;
        }
        self.checkpoint.phase = Phase::Committing;
        let checkpoint = CheckpointRef {
            number: self.checkpoint.number,
            resume: self.checkpoint.resume.expect("kept while pages were written"),
            durable_upto: self.durable_sequence(),
            mark: self.checkpoint.mark,
            pages: self.checkpoint.page,
            segments: self.checkpoint.segments.clone(),
        };
        let clean = self.checkpoint.clean;
        let superblock = self.superblock.as_mut().expect("known");
        superblock.checkpoints.insert(0, checkpoint);
        let freed = superblock.checkpoints.split_off(2.min(superblock.checkpoints.len()));
        superblock.clean = clean;
        let needed = superblock.older_checkpoint_sequence();
        superblock.joints.retain(|joint| joint.after >= needed);
        let freed = freed.into_iter().flat_map(|checkpoint| checkpoint.segments).collect();
        self.write_superblock(Covers { checkpoint: Some(freed), ..Covers::default() }, memory, io);
    }

    /// The superblock names the checkpoint: what only its predecessor's predecessor needed is free.
    pub(super) fn on_checkpoint_durable(&mut self, freed: Vec<SegmentIndex>) {
        assert_eq!(self.checkpoint.phase, Phase::Committing);
        self.checkpoint.phase = Phase::Idle;
        for segment in freed {
            self.segments.put_ready(segment);
        }
        self.recycle_beyond = self.superblock().older_checkpoint_sequence();
        self.counters.checkpoints += 1;
        self.recycle();
        self.notes.push_back(Note::CheckpointDone { sequence: self.checkpoint_sequence() });
    }
}

/// What a page holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageContent {
    /// Bytes.
    pub length: usize,
    /// Entries.
    pub entries: usize,
    /// Whether the checkpoint ends with it.
    pub last: bool,
}
