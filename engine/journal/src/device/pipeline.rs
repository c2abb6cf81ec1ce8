//! Appending: batches are written at once, up to a window; a flush begins when writes have ended and covers all of those; batches
//! become durable in the order of their sequence.
//!
//! ```text
//! Writing ─written→ Written ─flush submitted→ Flushing ─flushed→ durable, once all before it are
//! ```

use std::collections::VecDeque;

use wire::planted::{Bug, planted};
use wire::{Memory, Slot};

use super::superblocks::Covers;
use super::{Device, Note, Stage, tag};
use crate::batch::{BatchHeader, HEADER_BYTES, descriptor_bytes_max};
use crate::io::{IoEffects, IoFailure, IoRequest, IoToken, Part};
use crate::layout::{BATCHES_IN_FLIGHT_MAX, BLOCK, BlockIndex, Place, REACH_BLOCKS_MIN, SegmentIndex};
use crate::segments::SegmentState;
use crate::superblock::Resume;

/// A batch to append. The descriptor's body is in its slot behind the header, which the device writes; both the descriptor's and
/// the payload's references pass to the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Draft<'a> {
    /// The descriptor's buffer.
    pub descriptor: Slot,
    /// Bytes of the body.
    pub body_bytes: u32,
    /// Entries or records; 0 for an empty batch.
    pub entries: u32,
    /// Records: the first one's index.
    pub first_index: u64,
    /// The payloads, in the entries' order.
    pub payload: &'a [Part],
}

/// Where a batch went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Appended {
    /// Its number.
    pub sequence: u64,
    /// Its first block.
    pub place: Place,
}

/// Whether a batch may be appended now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Room {
    /// Yes.
    Ready,
    /// When a batch in flight is durable.
    Window,
    /// When a segment is free.
    Segment,
    /// Never: not open, or fenced.
    Never,
}

/// What a batch does to space.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Burden {
    /// Its segment holds something that stays.
    Live,
    /// It leaves as many segments without anything live as there were: tombstones, nothing at all, or all that was live in some other
    /// segment. Such a batch may take the last free segment, since a crash behind it leaves one that a checkpoint frees.
    Neutral,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum State {
    Writing,
    Written,
    Flushing,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct InFlight {
    resume: Resume,
    durable_upto: u64,
    bytes: u32,
    has_entries: bool,
    is_marker: bool,
    /// The batch whose write this one's is: its own, or the next one's.
    written_with: u64,
    state: State,
    slots: Vec<Slot>,
}

/// A batch that has its header, and the descriptor's part of its write.
struct Framed {
    appended: Appended,
    offset: u64,
    part: Part,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Open {
    segment: SegmentIndex,
    block: u32,
}

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Pipeline {
    open: Option<Open>,
    next: Option<SegmentIndex>,
    /// What batches promise at present: no more than so many blocks are in flight behind each.
    reach: u32,
    /// The last batch of the open segment names `next`: the log may go on there.
    is_linked: bool,
    /// The buffer of the device's own empty batches, kept for life, and the batch that is being written from it.
    pub(super) marker_slot: Option<Slot>,
    marker: Option<u64>,
    last_sequence: u64,
    last_checksum: u64,
    in_flight: VecDeque<InFlight>,
    in_flight_bytes: u32,
    flushing: bool,
    /// The last durable batch and where the log goes on behind it.
    pub(super) durable: Resume,
    /// The last durable batch that held anything.
    durable_entries: u64,
    /// The greatest `durable_upto` in a durable batch.
    decided: u64,
    /// Vectors to use again.
    spare: Vec<Vec<Slot>>,
}

impl Default for Pipeline {
    fn default() -> Self {
        Self {
            open: None,
            next: None,
            reach: REACH_BLOCKS_MIN,
            is_linked: false,
            marker_slot: None,
            marker: None,
            last_sequence: 0,
            last_checksum: 0,
            in_flight: VecDeque::with_capacity(BATCHES_IN_FLIGHT_MAX),
            in_flight_bytes: 0,
            flushing: false,
            durable: Resume::default(),
            durable_entries: 0,
            decided: 0,
            spare: Vec::new(),
        }
    }
}

impl Device {
    /// Recovery ended behind this batch.
    pub(super) fn resume_from(&mut self, resume: Resume) {
        self.pipeline.durable = resume;
        self.pipeline.last_sequence = resume.sequence;
        self.pipeline.last_checksum = resume.checksum;
        // Nothing of this life is undecided.
        self.pipeline.decided = resume.sequence;
        self.pipeline.durable_entries = resume.sequence;
        self.segments.rebuild(resume.sequence);
        self.recycle();
    }

    /// The superblock names this segment as the one where the log goes on.
    pub(super) fn open_fresh_segment(&mut self, segment: SegmentIndex) {
        assert!(self.pipeline.open.is_none(), "a fresh segment is opened once");
        self.pipeline.open = Some(Open { segment, block: 0 });
        self.pipeline.is_linked = false;
        self.pipeline.reach = REACH_BLOCKS_MIN;
        self.counters.unwritten_segments_opened += u64::from(self.segments.open(segment));
    }

    pub(super) fn has_open_segment(&self) -> bool {
        self.pipeline.open.is_some()
    }

    /// Whether a segment is kept for the log to go on in.
    pub fn has_next_segment(&self) -> bool {
        self.pipeline.next.is_some()
    }

    /// Keeps a segment for the log to go on in, if there is one to spare.
    pub(super) fn take_next_segment(&mut self) {
        if self.pipeline.next.is_none() && self.has_free_beyond_checkpoint() {
            self.pipeline.next = self.segments.take_free(SegmentState::Next, None);
            self.pipeline.is_linked = false;
        }
    }

    /// Blocks that the open segment still has.
    pub fn open_blocks_left(&self) -> u32 {
        self.pipeline.open.map_or(0, |open| self.geometry().segment_blocks() - open.block)
    }

    /// Gives up an open segment behind which the log can't go on, so that a checkpoint frees it if nothing in it is live; false where it
    /// can, or batches are in flight.
    pub fn give_up_open_segment(&mut self) -> bool {
        let is_useless = self.stage == Stage::Serving
            && self.pipeline.in_flight.is_empty()
            && self.pipeline.next.is_none()
            && self.pipeline.open.is_some_and(|open| open.block > 0);
        if is_useless && let Some(open) = self.pipeline.open.take() {
            self.segments.seal(open.segment);
        }
        is_useless
    }

    /// The last batch appended; 0 before the first.
    pub fn last_sequence(&self) -> u64 {
        self.pipeline.last_sequence
    }

    /// The last batch known durable.
    pub fn durable_sequence(&self) -> u64 {
        self.pipeline.durable.sequence
    }

    /// Where the log goes on behind the last durable batch: where a checkpoint made now would resume.
    pub fn durable_resume(&self) -> Resume {
        self.pipeline.durable
    }

    /// Batches in flight.
    pub fn in_flight(&self) -> usize {
        self.pipeline.in_flight.len()
    }

    /// Of these, the owner's.
    pub fn owners_in_flight(&self) -> usize {
        self.pipeline.in_flight.iter().filter(|batch| !batch.is_marker).count()
    }

    /// Whether something durable would be undecidable after a crash now: an idle owner appends an empty batch (R29).
    pub fn wants_empty_batch(&self) -> bool {
        self.stage == Stage::Serving
            && self.pipeline.in_flight.is_empty()
            && self.pipeline.durable_entries > self.pipeline.decided
    }

    /// Whether a batch of `blocks` may be appended now.
    pub fn room(&self, blocks: u32, burden: Burden) -> Room {
        if self.stage != Stage::Serving {
            return Room::Never;
        }
        assert!(blocks <= self.geometry().batch_blocks_max(), "no batch is larger than the largest");
        if self.pipeline.open.is_none() {
            return Room::Segment;
        }
        let (rolls, has_next) = (self.rolls(blocks), self.pipeline.next.is_some());
        let has_segment = match burden {
            // Whenever something live is written, a free segment is left for the next life.
            Burden::Live => has_next && (!rolls || self.has_free_beyond_checkpoint()),
            Burden::Neutral => has_next || !rolls,
        };
        if !has_segment {
            return Room::Segment;
        }
        let (raises, is_quiet) = (self.raises(blocks), self.pipeline.in_flight.is_empty());
        let markers = u32::from(raises || (rolls && !self.pipeline.is_linked));
        let in_flight_blocks = self.pipeline.in_flight_bytes / BLOCK;
        let fits = self.pipeline.in_flight.len() + (markers as usize) < BATCHES_IN_FLIGHT_MAX
            // What follows the batch behind a marker isn't within the reach of what lies before it.
            && !self.pipeline.in_flight.iter().any(|batch| batch.is_marker)
            && (is_quiet || (!raises && in_flight_blocks + markers + blocks <= self.pipeline.reach));
        if fits { Room::Ready } else { Room::Window }
    }

    /// Whether batches of `blocks` want a greater reach. It is raised when nothing is in flight, by an empty batch: if that one is lost, it
    /// held nothing, and the next begins right behind it.
    fn raises(&self, blocks: u32) -> bool {
        self.geometry().reach_for(blocks) > self.pipeline.reach
    }

    /// Whether a batch of `blocks` goes to the next segment. A segment's last batch names the one behind it, so while there is none a
    /// block is left for a batch that will.
    fn rolls(&self, blocks: u32) -> bool {
        let kept = u32::from(self.pipeline.next.is_none()) + u32::from(self.raises(blocks));
        blocks + kept > self.open_blocks_left()
    }

    /// Writes a batch; `room` said `Ready` for its blocks.
    pub fn append<M: Memory>(&mut self, draft: Draft<'_>, memory: &mut M, io: &mut IoEffects) -> Appended {
        let before = io.requests.len();
        let header_bytes = u32::try_from(HEADER_BYTES).expect("128");
        let descriptor_bytes = (header_bytes + draft.body_bytes).next_multiple_of(BLOCK);
        assert!(descriptor_bytes <= descriptor_bytes_max(self.config.kind));
        let blocks =
            descriptor_bytes / BLOCK + draft.payload.iter().map(|part| part.length).sum::<u32>() / BLOCK;
        assert_eq!(self.room(blocks, Burden::Neutral), Room::Ready, "the owner asked for room");
        if draft.entries == 0 {
            // Idle: what follows may be little.
            self.pipeline.reach = REACH_BLOCKS_MIN.min(self.pipeline.reach);
        }
        let (rolls, mut raises) = (self.rolls(blocks), self.raises(blocks));
        self.pipeline.reach = self.pipeline.reach.max(self.geometry().reach_for(blocks));
        if rolls {
            if !self.pipeline.is_linked {
                let framed = self.frame_marker(memory);
                io.write(
                    IoToken::new(tag::BATCH, framed.appended.sequence),
                    framed.offset,
                    [framed.part],
                    false,
                );
                raises = false;
            }
            self.roll();
        }
        let marker = raises.then(|| self.frame_marker(memory));
        let framed = self.frame(draft, descriptor_bytes, blocks, memory);
        let sequence = framed.appended.sequence;
        if marker.is_some()
            && let Some(at) = self.pipeline.in_flight.len().checked_sub(2)
        {
            self.pipeline.in_flight[at].written_with = sequence;
        }
        let offset = marker.as_ref().map_or(framed.offset, |marker| marker.offset);
        let parts = marker.map(|marker| marker.part).into_iter().chain([framed.part]);
        io.write(
            IoToken::new(tag::BATCH, sequence),
            offset,
            parts.chain(draft.payload.iter().copied()),
            false,
        );
        self.count(io, before);
        framed.appended
    }

    fn roll(&mut self) {
        let next = self.pipeline.next.take().expect("room is only there with a next segment");
        let open = self.pipeline.open.replace(Open { segment: next, block: 0 });
        let full = open.expect("a segment was open").segment;
        self.segments.seal(full);
        self.counters.unwritten_segments_opened += u64::from(self.segments.open(next));
        self.pipeline.is_linked = false;
        self.take_next_segment();
    }

    /// An empty batch of the device's own, in a buffer that it keeps: one at a time.
    fn frame_marker<M: Memory>(&mut self, memory: &mut M) -> Framed {
        assert!(self.pipeline.marker.is_none(), "the marker's buffer is written once at a time");
        let descriptor = self.pipeline.marker_slot.expect("taken when the device was opened");
        let draft = Draft { descriptor, body_bytes: 0, entries: 0, first_index: 0, payload: &[] };
        // What is given back when it is written is a reference of the batch's own.
        memory.retain(descriptor);
        let framed = self.frame(draft, BLOCK, 1, memory);
        self.pipeline.marker = Some(framed.appended.sequence);
        framed
    }

    /// Gives a batch its place and its header.
    fn frame<M: Memory>(
        &mut self,
        draft: Draft<'_>,
        descriptor_bytes: u32,
        blocks: u32,
        memory: &mut M,
    ) -> Framed {
        let open = self.pipeline.open.as_mut().expect("a segment is open");
        let place = Place { segment: open.segment, block: BlockIndex(open.block) };
        open.block += blocks;
        assert!(open.block <= self.superblock.as_ref().expect("known").geometry.segment_blocks());
        let sequence = self.pipeline.last_sequence + 1;
        let superblock = self.superblock();
        let offset = superblock.geometry.offset(place);
        let header = BatchHeader {
            kind: self.config.kind,
            descriptor_bytes,
            blocks,
            entries: draft.entries,
            store: superblock.identity.store,
            incarnation: superblock.incarnation,
            sequence,
            durable_upto: self.pipeline.durable.sequence, // R29
            previous: self.pipeline.last_checksum,
            offset,
            next: self.pipeline.next,
            body_bytes: draft.body_bytes,
            first_index: draft.first_index,
            reach: self.pipeline.reach,
        };
        let bytes = &mut memory.bytes_mut(draft.descriptor)[..descriptor_bytes as usize];
        bytes[HEADER_BYTES + draft.body_bytes as usize..].fill(0);
        let checksum = header.encode(superblock.secret, bytes);
        let mut slots = self.pipeline.spare.pop().unwrap_or_default();
        slots.push(draft.descriptor);
        slots.extend(draft.payload.iter().map(|part| part.slot));
        self.pipeline.last_sequence = sequence;
        self.pipeline.last_checksum = checksum;
        self.pipeline.is_linked = header.next.is_some();
        self.pipeline.in_flight_bytes += blocks * BLOCK;
        let resume = Resume {
            sequence,
            incarnation: header.incarnation,
            place: place.plus(blocks),
            checksum,
            next: header.next,
            reach: header.reach,
        };
        self.pipeline.in_flight.push_back(InFlight {
            resume,
            durable_upto: header.durable_upto,
            bytes: blocks * BLOCK,
            has_entries: draft.entries > 0,
            written_with: sequence,
            is_marker: Some(draft.descriptor) == self.pipeline.marker_slot,
            state: State::Writing,
            slots,
        });
        self.segments.appended(place.segment, sequence);
        self.counters.batches += 1;
        self.counters.empty_batches += u64::from(draft.entries == 0);
        let part = Part { slot: draft.descriptor, offset: 0, length: descriptor_bytes };
        Framed { appended: Appended { sequence, place }, offset, part }
    }

    pub(super) fn on_batch_written<M: Memory>(
        &mut self,
        sequence: u64,
        failure: Option<IoFailure>,
        memory: &mut M,
        io: &mut IoEffects,
    ) {
        let written = self.pipeline.in_flight.iter_mut().filter(|batch| batch.written_with == sequence);
        for batch in written {
            for slot in batch.slots.drain(..) {
                memory.release(slot);
            }
            batch.state = State::Written;
            if batch.is_marker {
                self.pipeline.marker = None;
            }
        }
        if let Some(failure) = failure {
            self.fence(failure);
        }
        if planted(Bug::StoreSkipsFlush) {
            for batch in self.pipeline.in_flight.iter_mut().filter(|batch| batch.state == State::Written) {
                batch.state = State::Flushing;
            }
            self.pop_durable();
            return;
        }
        self.flush_written(io);
    }

    /// R31: the flush is asked for after the writes that it shall cover have ended.
    fn flush_written(&mut self, io: &mut IoEffects) {
        if self.pipeline.flushing || self.stage != Stage::Serving {
            return;
        }
        // Only the front's run can become durable: a flush for later ones alone would be wasted.
        if self.pipeline.in_flight.front().is_none_or(|batch| batch.state != State::Written) {
            return;
        }
        for batch in self.pipeline.in_flight.iter_mut().filter(|batch| batch.state == State::Written) {
            batch.state = State::Flushing;
        }
        self.pipeline.flushing = true;
        io.requests.push(IoRequest::Flush { io: IoToken::new(tag::FLUSH, 0) });
    }

    pub(super) fn on_flushed(&mut self, failure: Option<IoFailure>, io: &mut IoEffects) {
        self.pipeline.flushing = false;
        if let Some(failure) = failure {
            self.fence(failure);
        }
        if self.stage != Stage::Serving {
            return;
        }
        self.pop_durable();
        self.flush_written(io);
    }

    /// I2: in the order of sequence. A batch that a flush covered while an earlier one was still being written waits as `Flushing`
    /// and is durable by then.
    fn pop_durable(&mut self) {
        let mut last = None;
        while self.pipeline.in_flight.front().is_some_and(|batch| batch.state == State::Flushing) {
            let batch = self.pipeline.in_flight.pop_front().expect("there is a front");
            self.pipeline.in_flight_bytes -= batch.bytes;
            self.pipeline.durable = batch.resume;
            self.pipeline.decided = self.pipeline.decided.max(batch.durable_upto);
            if batch.has_entries {
                self.pipeline.durable_entries = batch.resume.sequence;
            }
            self.pipeline.spare.push(batch.slots);
            last = Some(batch.resume.sequence);
        }
        if let Some(sequence) = last {
            self.notes.push_back(Note::Durable { sequence });
        }
    }

    /// Where the log has no segment, takes one as soon as a checkpoint made that possible.
    pub(super) fn rejoin<M: Memory>(&mut self, memory: &mut M, io: &mut IoEffects) {
        if self.has_open_segment() || self.space.joining {
            return;
        }
        if let Some(segment) = self.join_fresh_segment() {
            self.space.joining = true;
            self.write_superblock(Covers { joins: Some(segment), ..Covers::default() }, memory, io);
        }
    }
}
