//! Opening, second half: the batches behind the checkpoint, and the decision where the log ends (R29).
//!
//! The walk goes from batch to batch by their lengths. A batch is passed on once some later batch, or the checkpoint, says that it was
//! durable; at most a window's worth is undecided. Where no batch is found, a later one is searched for to the segment's end, and in the
//! next segment within the reach that the last one found has promised. What is missing at or below the greatest `durable_upto` is damage and is never cut; behind it the payloads
//! are read, and the first bad batch is the torn tail.

use std::collections::VecDeque;

use wire::{Incarnation, Memory, Slot};

use super::salvage::{SEARCH_WINDOW_BYTES, Seen};
use super::window::READ_TRIES;
use super::{DamagedBatches, Device, Note, OpenError, Stage, tag};
use crate::batch::{BatchHeader, HEADER_BYTES};
use crate::entry::{EntryKind, entries, payload_blocks, payload_matches};
use crate::io::{IoEffects, IoFailure, IoRequest, IoToken};
use crate::layout::{BLOCK, BlockIndex, Place, REACH_BLOCKS_MIN, SegmentIndex};
use crate::segments::SegmentState;
use crate::superblock::{Joint, Kind, Resume};
use wire::planted::{Bug, planted};

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Candidate {
    header: BatchHeader,
    checksum: u64,
    place: Place,
    slot: Slot,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
enum Look {
    /// The next batch where the last one ended.
    #[default]
    Here,
    /// The next batch at the beginning of the segment that the last one named.
    Next,
    /// Any later batch, block by block.
    Search { place: Place, budget_blocks: u32, in_next: bool },
    /// The log's end is reached.
    End,
}

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Walk {
    /// The last batch found.
    sequence: u64,
    incarnation: Incarnation,
    previous: Option<u64>,
    place: Place,
    next: Option<SegmentIndex>,
    /// Of the last batch found.
    reach: u32,
    look: Look,
    durable_upto: u64,
    candidates: VecDeque<Candidate>,
    /// The last batch passed on.
    passed: Resume,
    /// Of the first candidate, the entry whose payload is checked next.
    entry: usize,
    payload: Option<(Slot, bool)>,
    payload_failed: bool,
    payload_tries: u8,
    /// The batch behind which the last joint was crossed.
    crossed: Option<u64>,
    pub(super) recovered_cut: bool,
    pub(super) is_clean: bool,
}

impl Walk {
    pub(super) fn new(resume: Resume, durable_upto: u64, is_clean: bool) -> Self {
        Self {
            sequence: resume.sequence,
            incarnation: resume.incarnation,
            previous: Some(resume.checksum),
            place: resume.place,
            next: resume.next,
            reach: resume.reach,
            look: if is_clean { Look::End } else { Look::Here },
            durable_upto: durable_upto.max(resume.sequence),
            passed: resume,
            is_clean,
            ..Self::default()
        }
    }
}

impl Device {
    fn walk(&mut self) -> &mut Walk {
        &mut self.opening_mut().walk
    }

    /// One step; false while it waits for a read.
    pub(super) fn advance_walk<M: Memory>(&mut self, memory: &mut M, io: &mut IoEffects) -> bool {
        if self.pass_decided(memory) {
            return true;
        }
        match self.walk().look {
            Look::Here => self.look_here(memory, io),
            Look::Next => self.look_next(memory, io),
            Look::Search { place, budget_blocks, in_next } => {
                self.search(place, budget_blocks, in_next, memory, io)
            }
            Look::End => {
                self.stage = Stage::Payloads;
                true
            }
        }
    }

    /// Passes the first candidate on if it is known to have been durable; says what is missing before it.
    fn pass_decided<M: Memory>(&mut self, memory: &mut M) -> bool {
        let walk = self.walk();
        let Some(first) = walk.candidates.front().cloned() else { return false };
        let expected = walk.passed.sequence + 1;
        let missing_upto = walk.durable_upto.min(first.header.sequence - 1);
        if expected <= missing_upto {
            if self.damaged(expected, missing_upto) {
                self.walk().passed.sequence = missing_upto;
            } else {
                self.end_here(memory);
            }
            return true;
        }
        let is_decided = first.header.sequence <= walk.durable_upto;
        if is_decided {
            walk.candidates.pop_front();
            self.pass(&first);
        }
        is_decided
    }

    fn pass(&mut self, candidate: &Candidate) {
        let Candidate { header, checksum, place, slot } = *candidate;
        self.walk().passed = Resume {
            sequence: header.sequence,
            incarnation: header.incarnation,
            place: place.plus(header.blocks),
            checksum,
            next: header.next,
            reach: header.reach,
        };
        self.counters.replayed_descriptor_bytes += u64::from(header.descriptor_bytes);
        self.segments.set_state(place.segment, SegmentState::Sealed);
        self.segments.appended(place.segment, header.sequence);
        self.notes.push_back(Note::Batch { header, place, slot });
    }

    /// Durable batches are missing (R29); false if the log ends before them: a log of records has no holes.
    fn damaged(&mut self, first: u64, last: u64) -> bool {
        let place = self.walk().passed.place;
        let damage = DamagedBatches { first, last, place };
        if planted(Bug::StoreCutsDamage) {
            return self.config.kind == Kind::Chunks;
        }
        if self.must_be_whole() {
            self.fail(OpenError::Damaged(damage));
            return false;
        }
        self.opening_mut().lacks = true;
        self.notes.push_back(Note::Damaged(damage));
        self.config.kind == Kind::Chunks
    }

    /// Data loss was accepted: the log ends behind the last batch that was passed on.
    fn end_here<M: Memory>(&mut self, memory: &mut M) {
        self.cut(memory);
        let walk = self.walk();
        walk.look = Look::End;
        let last = walk.passed.sequence;
        walk.durable_upto = last;
        let superblock = self.superblock.as_mut().expect("read before");
        superblock.joints.retain(|joint| joint.after <= last);
        for checkpoint in &mut superblock.checkpoints {
            checkpoint.durable_upto = checkpoint.durable_upto.min(last.max(checkpoint.resume.sequence));
        }
    }

    /// The joint behind which the log goes on elsewhere, if the walk has come to one. There is one at most behind each batch.
    fn joint(&mut self, is_wanted: impl Fn(&Joint, u64) -> bool) -> Option<Joint> {
        let (sequence, crossed) = (self.walk().sequence, self.walk().crossed);
        let later = |joint: &&Joint| crossed != Some(joint.after) && is_wanted(joint, sequence);
        self.superblock().joints.iter().find(later).copied()
    }

    fn look_here<M: Memory>(&mut self, memory: &mut M, io: &mut IoEffects) -> bool {
        if let Some(joint) = self.joint(|joint, sequence| joint.after == sequence) {
            self.cross(joint);
            return true;
        }
        let place = self.walk().place;
        if place.block.0 >= self.blocks_there(place.segment) {
            self.walk().look = Look::Next;
            return true;
        }
        self.try_place(place, true, Look::Next, memory, io)
    }

    /// Goes on in the segment of a later life; where the file has lost it, behind that life.
    fn cross(&mut self, joint: Joint) {
        let is_there = self.segments.is_allocated(joint.segment);
        if is_there {
            self.segments.set_state(joint.segment, SegmentState::Ready);
        }
        let walk = self.walk();
        walk.crossed = Some(joint.after);
        walk.sequence = joint.after;
        walk.incarnation = joint.incarnation;
        walk.place = Place { segment: joint.segment, block: BlockIndex(0) };
        walk.next = None;
        walk.reach = REACH_BLOCKS_MIN;
        walk.look = if is_there {
            Look::Here
        } else {
            Look::Search { place: walk.place, budget_blocks: 0, in_next: true }
        };
    }

    fn look_next<M: Memory>(&mut self, memory: &mut M, io: &mut IoEffects) -> bool {
        let place = self.walk().place;
        // No batch in flight lies farther than the reach, but damage may: a later batch behind it tells it from a tear, however large it is.
        let search = Look::Search { place, budget_blocks: u32::MAX, in_next: false };
        let next = self.walk().next;
        match next {
            Some(segment) if !self.segments.is_allocated(segment) => {
                self.lost_its_end(segment, search, memory)
            }
            Some(segment) if segment != place.segment => {
                self.try_place(Place { segment, block: BlockIndex(0) }, true, search, memory, io)
            }
            _ => {
                self.walk().look = search;
                true
            }
        }
    }

    /// The log names a segment that isn't there. Growth is flushed before a segment is used, so the file was longer: whatever lay behind its
    /// end is gone, and was maybe acknowledged.
    fn lost_its_end<M: Memory>(&mut self, segment: SegmentIndex, otherwise: Look, memory: &mut M) -> bool {
        if !self.config.accept_data_loss {
            self.fail(self.truncated(segment));
        } else if self.may_salvage() {
            let walk = self.walk();
            let (passed, durable_upto) = (walk.passed, walk.durable_upto);
            for candidate in std::mem::take(&mut walk.candidates) {
                memory.release(candidate.slot);
            }
            self.begin_salvage(passed, durable_upto, true);
        } else {
            self.accept_lost_end();
            // Part of that segment may be left.
            if !self.segments.is_allocated(segment) {
                self.walk().look = otherwise;
            }
        }
        true
    }

    /// How far the next segment is searched. Where a durable batch is missing, to its end; else as far as a batch can begin that was in flight when the missing
    /// one had become durable: a reach for that one and those in flight with it, one for those behind it, and an empty batch between.
    fn search_blocks(&mut self) -> u32 {
        let reach_max = self.geometry().reach_blocks_max();
        let walk = self.walk();
        match walk.reach {
            _ if walk.sequence < walk.durable_upto => u32::MAX,
            0 => 2 * reach_max + 2,
            reach => 2 * reach.min(reach_max) + 2,
        }
    }

    /// Looks at one place for the next batch; where it isn't, goes on with `otherwise`.
    fn try_place<M: Memory>(
        &mut self,
        place: Place,
        is_next: bool,
        otherwise: Look,
        memory: &mut M,
        io: &mut IoEffects,
    ) -> bool {
        match self.read_batch(place, is_next, memory, io) {
            Read::Later => false,
            Read::Stopped => true,
            Read::None => {
                self.walk().look = otherwise;
                true
            }
            Read::Batch(header, checksum, slot) => {
                self.accept(Candidate { header, checksum, place, slot });
                true
            }
        }
    }

    fn accept(&mut self, candidate: Candidate) {
        let walk = self.walk();
        let header = &candidate.header;
        walk.durable_upto = walk.durable_upto.max(header.durable_upto);
        walk.sequence = header.sequence;
        walk.previous = Some(candidate.checksum);
        walk.place = candidate.place.plus(header.blocks);
        walk.next = header.next;
        walk.reach = header.reach;
        walk.look = Look::Here;
        walk.candidates.push_back(candidate);
    }

    fn search<M: Memory>(
        &mut self,
        place: Place,
        budget_blocks: u32,
        in_next: bool,
        memory: &mut M,
        io: &mut IoEffects,
    ) -> bool {
        if budget_blocks == 0 || place.block.0 >= self.blocks_there(place.segment) {
            let next = self.walk().next.filter(|next| *next != place.segment && !in_next);
            self.walk().look = match next {
                // A batch that didn't fit left the segment's end unused, which the reach doesn't count.
                Some(segment) => {
                    let place = Place { segment, block: BlockIndex(0) };
                    Look::Search { place, budget_blocks: self.search_blocks(), in_next: true }
                }
                None => return self.end_search(memory),
            };
            return true;
        }
        let further =
            Look::Search { place: place.plus(1), budget_blocks: budget_blocks.saturating_sub(1), in_next };
        self.try_place(place, false, further, memory, io)
    }

    fn end_search<M: Memory>(&mut self, memory: &mut M) -> bool {
        let first = self.walk().passed.sequence + 1;
        let joint = self.joint(|joint, sequence| joint.after > sequence);
        // Another life's own recovery had read what lies before it.
        let last = joint.map_or(self.walk().durable_upto, |joint| joint.after);
        let is_missing = last >= first && self.walk().candidates.is_empty();
        if is_missing && !self.damaged(first, last) {
            self.end_here(memory);
            return true;
        }
        if is_missing {
            self.walk().passed.sequence = last;
        }
        match joint {
            Some(joint) => {
                self.cross(joint);
                self.walk().previous = None;
            }
            None => self.walk().look = Look::End,
        }
        true
    }

    /// The batch at `place`: the next one, or in a search any later one.
    fn read_batch<M: Memory>(
        &mut self,
        place: Place,
        is_next: bool,
        memory: &mut M,
        io: &mut IoEffects,
    ) -> Read {
        if !self.segments.is_allocated(place.segment) {
            return Read::None;
        }
        let kind = self.config.kind;
        let offset = self.geometry().offset(place);
        let ahead = match (kind, self.walk().look) {
            (_, Look::Search { budget_blocks, .. }) => {
                SEARCH_WINDOW_BYTES.min(budget_blocks.saturating_mul(BLOCK))
            }
            (Kind::Chunks, _) => BLOCK,
            (Kind::Records, _) => SEARCH_WINDOW_BYTES,
        };
        let requested = io.requests.len();
        let (header, checksum, at) = match self.look_at(place, ahead, memory, io) {
            Seen::Later => return self.waits(requested, is_next, io),
            Seen::Failed => return self.unreadable(offset, is_next),
            Seen::None => return Read::None,
            Seen::Batch(header, checksum, at) => (header, checksum, at),
        };
        let (slot, bytes) = (self.opening_mut().window.slot(), header.descriptor_bytes);
        let walk = self.walk();
        let follows = if is_next {
            header.sequence == walk.sequence + 1 && walk.previous.is_none_or(|it| it == header.previous)
        } else {
            header.sequence > walk.sequence + 1
        };
        // R30: another life's batch isn't the log's.
        if !(follows && header.incarnation == walk.incarnation) {
            return Read::None;
        }
        let Some(copy) = memory.allocate(bytes as usize) else {
            self.fail(OpenError::NoMemory);
            return Read::Stopped;
        };
        let (from, to) = (at, bytes as usize);
        let descriptor = memory.bytes(slot)[from..from + to].to_vec();
        memory.bytes_mut(copy)[..to].copy_from_slice(&descriptor);
        Read::Batch(header, checksum, copy)
    }

    fn waits(&mut self, requested: usize, is_next: bool, io: &IoEffects) -> Read {
        if !is_next {
            for request in &io.requests[requested..] {
                if let IoRequest::Read { length, .. } = request {
                    self.counters.search_bytes += u64::from(*length);
                }
            }
        }
        Read::Later
    }

    /// That the device fails says nothing about what it holds: neither is a batch called damaged nor the tail cut for it (I6). Opening stops,
    /// and may be tried again. A search goes on: where the next batch must begin was read and none was there, so it takes a second fault to
    /// hide a durable one, and a bad sector in free space is no reason not to open.
    fn unreadable(&mut self, offset: u64, is_next: bool) -> Read {
        if !is_next {
            return Read::None;
        }
        if self.config.accept_data_loss {
            // What is there may have been acked, and may be all that was lost.
            self.walk().recovered_cut = true;
            self.opening_mut().lacks = true;
            return Read::None;
        }
        self.fail(OpenError::Unreadable { offset });
        Read::Stopped
    }

    pub(super) fn on_window(&mut self, failure: Option<IoFailure>) {
        self.opening_mut().window.on_read(failure.is_some());
    }

    /// Decides about the undecided: one step; false while it waits.
    pub(super) fn advance_payloads<M: Memory>(&mut self, memory: &mut M, io: &mut IoEffects) -> bool {
        let passed = self.walk().passed.sequence;
        let Some(first) = self.walk().candidates.front().cloned() else {
            self.finish_walk(io);
            return false;
        };
        if first.header.sequence != passed + 1 {
            self.cut(memory);
            return true;
        }
        if self.config.kind == Kind::Records {
            // A record's bytes are under the descriptor's checksum.
            self.walk().candidates.pop_front();
            self.pass(&first);
            return true;
        }
        self.check_payload(&first, memory, io)
    }

    fn check_payload<M: Memory>(&mut self, first: &Candidate, memory: &mut M, io: &mut IoEffects) -> bool {
        let cluster = self.superblock().identity.cluster;
        let descriptor = &memory.bytes(first.slot)[..first.header.descriptor_bytes as usize];
        debug_assert!(descriptor.len() >= HEADER_BYTES);
        let index = self.walk().entry;
        let entry =
            entries(&first.header, descriptor).filter(|entry| entry.kind != EntryKind::Tombstone).nth(index);
        let Some(entry) = entry else {
            let walk = self.walk();
            walk.entry = 0;
            walk.candidates.pop_front();
            self.pass(first);
            return true;
        };
        match self.walk().payload {
            Some((_, true)) => false,
            Some((slot, false)) => {
                let failed = self.walk().payload_failed;
                let is_good =
                    !failed && payload_matches(cluster, &entry, &memory.bytes(slot)[..entry.length as usize]);
                memory.release(slot);
                self.walk().payload = None;
                self.walk().payload_tries = if failed { self.walk().payload_tries + 1 } else { 0 };
                if failed && self.walk().payload_tries < READ_TRIES {
                    return true;
                }
                if failed && !self.config.accept_data_loss {
                    self.fail(OpenError::Unreadable {
                        offset: self.geometry().offset(first.place.plus(entry.payload_block)),
                    });
                } else if is_good {
                    self.walk().entry += 1;
                } else {
                    self.opening_mut().lacks |= failed;
                    self.cut(memory);
                }
                true
            }
            None => {
                let length = payload_blocks(entry.length) * BLOCK;
                let Some(slot) = memory.allocate(length as usize) else {
                    self.fail(OpenError::NoMemory);
                    return true;
                };
                let offset = self.geometry().offset(first.place.plus(entry.payload_block));
                self.counters.tail_payload_bytes += u64::from(length);
                self.walk().payload = Some((slot, true));
                io.requests.push(IoRequest::Read {
                    io: IoToken::new(tag::PAYLOAD, 0),
                    offset,
                    slot,
                    slot_offset: 0,
                    length,
                    background: false,
                });
                false
            }
        }
    }

    pub(super) fn on_payload<M: Memory>(&mut self, failure: Option<IoFailure>, memory: &mut M) {
        let is_failed = self.stage == Stage::Failed;
        let walk = self.walk();
        walk.payload_failed = failure.is_some();
        match &mut walk.payload {
            Some((slot, _)) if is_failed => memory.release(*slot),
            Some((_, pending)) => *pending = false,
            None => unreachable!("a payload's read ended that wasn't asked for"),
        }
    }

    /// The torn tail: the first candidate and all behind it.
    fn cut<M: Memory>(&mut self, memory: &mut M) {
        let walk = self.walk();
        walk.recovered_cut = true;
        walk.entry = 0;
        let cut = std::mem::take(&mut walk.candidates);
        for candidate in cut {
            memory.release(candidate.slot);
            self.segments.set_state(candidate.place.segment, SegmentState::Sealed);
        }
    }

    fn finish_walk(&mut self, io: &mut IoEffects) {
        let passed = self.walk().passed;
        self.resume_from(passed);
        self.begin_incarnation(io);
    }
}

enum Read {
    Later,
    Stopped,
    None,
    Batch(BatchHeader, u64, Slot),
}
