//! Gets. A whole chunk, or one of a single block, is read and verified by its root. A part is read with the chunk's leaf table, which its
//! batch's descriptor holds and a cache may: the table is verified by the root, the blocks by the table (R36, I11).

use std::ops::Range;

use journal::entry::{leaf_words, payload_blocks};
use journal::{IoOutcome, IoRequest, IoToken};
use wire::checksum::{BlockHasher, leaf_count, proof, root};
use wire::limits::{BLOCK_BYTES, LEAVES_MAX};
use wire::planted::{Bug, planted};
use wire::{ChunkId, Memory, Nanos, Slot, Status};

use super::{Stage, Store};
use crate::api::{Effect, Effects, GotChunk, WordRange};
use crate::index::IndexEntry;

/// Reads in flight; `Busy` beyond.
const READS_MAX: usize = 4096;
const BLOCK: u32 = 4096;
/// A leaf table of 8 KiB may lie across three blocks.
const LEAF_SLOT_BYTES: usize = 4 * BLOCK_BYTES;
const TAG: u8 = IoToken::OWNER_TAG_MIN;

/// Whose read it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Reader {
    Client(u64),
    /// Another replica, or a look at the copy.
    Replica(u64),
    Cleaner,
    Scrubber,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Read {
    reader: Reader,
    entry: IndexEntry,
    blocks: Range<u32>,
    slot: Slot,
    leaf_slot: Option<Slot>,
    pending: u8,
    failed: bool,
}

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Reads {
    list: Vec<Option<Read>>,
    free: Vec<u32>,
}

impl Reads {
    fn insert(&mut self, read: Read) -> Option<u32> {
        if let Some(at) = self.free.pop() {
            self.list[at as usize] = Some(read);
            return Some(at);
        }
        if self.list.len() == READS_MAX {
            return None;
        }
        self.list.push(Some(read));
        Some(u32::try_from(self.list.len() - 1).expect("limited"))
    }

    fn is_full(&self) -> bool {
        self.free.is_empty() && self.list.len() == READS_MAX
    }
}

impl Store {
    pub(super) fn on_get<M: Memory>(
        &mut self,
        reader: Reader,
        id: ChunkId,
        blocks: Range<u32>,
        memory: &mut M,
        effects: &mut Effects,
    ) {
        let status = self.begin_get(reader, id, blocks, memory, effects);
        let (Reader::Client(token) | Reader::Replica(token)) = reader else {
            unreachable!("who asks is answered");
        };
        effects.list.extend(status.map(|status| Effect::Done { token, status }));
    }

    fn begin_get<M: Memory>(
        &mut self,
        reader: Reader,
        id: ChunkId,
        blocks: Range<u32>,
        memory: &mut M,
        effects: &mut Effects,
    ) -> Option<Status> {
        if !matches!(self.stage, Stage::Serving | Stage::Fenced) || self.opened.is_none() {
            return Some(Status::NotServing);
        }
        let Some(entry) = self.index.find(id) else { return Some(Status::NotFound) };
        let count = payload_blocks(entry.length);
        let blocks = blocks.start..blocks.end.min(count);
        if blocks.is_empty() {
            return Some(Status::BadRequest);
        }
        let began = self.begin_read(reader, &entry, blocks, memory, effects);
        if began { None } else { Some(Status::Busy) }
    }

    /// Asks for blocks of a chunk and, if they aren't all, for its leaf table; false where a limit is reached.
    pub(super) fn begin_read<M: Memory>(
        &mut self,
        reader: Reader,
        entry: &IndexEntry,
        blocks: Range<u32>,
        memory: &mut M,
        effects: &mut Effects,
    ) -> bool {
        if self.reads.is_full() {
            return false;
        }
        let is_whole = blocks.len() == leaf_count(entry.length as usize);
        let bytes = u32::try_from(blocks.len()).expect("at most 1,024") * BLOCK;
        let Some(slot) = memory.allocate(bytes as usize) else { return false };
        let leaf_slot = if is_whole { None } else { memory.allocate(LEAF_SLOT_BYTES) };
        if !is_whole && leaf_slot.is_none() {
            memory.release(slot);
            return false;
        }
        let reads_leaves = leaf_slot.is_some_and(|slot| !self.copy_cached_leaves(entry, slot, memory));
        let first = blocks.start;
        let pending = 1 + u8::from(reads_leaves);
        let read = Read { reader, entry: *entry, blocks, slot, leaf_slot, pending, failed: false };
        let at = u64::from(self.reads.insert(read).expect("not full"));
        let background = !matches!(reader, Reader::Client(_));
        let geometry = self.device.geometry();
        let before = effects.io.requests.len();
        effects.io.requests.push(IoRequest::Read {
            io: IoToken::new(TAG, at << 1),
            offset: geometry.offset(entry.place.plus(first)),
            slot,
            slot_offset: 0,
            length: bytes,
            background,
        });
        if let Some(slot) = leaf_slot.filter(|_| reads_leaves) {
            let span = leaf_span(entry);
            let segment = geometry.segment_offset(entry.place.segment);
            effects.io.requests.push(IoRequest::Read {
                io: IoToken::new(TAG, at << 1 | 1),
                offset: segment + u64::from(span.start) * u64::from(BLOCK),
                slot,
                slot_offset: 0,
                length: u32::try_from(span.len()).expect("at most 3") * BLOCK,
                background,
            });
        }
        self.device.count(&effects.io, before);
        self.device.segments_mut().read_begins(entry.place.segment);
        true
    }

    /// Puts the chunk's leaf table where its read would; false where the cache hasn't got it. A copy, so that the cache may forget it
    /// while the blocks are read.
    fn copy_cached_leaves<M: Memory>(&mut self, entry: &IndexEntry, slot: Slot, memory: &mut M) -> bool {
        let found = self.leaf_cache.find(entry.id).filter(|leaves| is_table_of(leaves, entry));
        self.metrics.leaf_hits += u64::from(found.is_some());
        self.metrics.leaf_misses += u64::from(found.is_none());
        let Some(leaves) = found else { return false };
        let start = leaf_start(entry);
        let bytes = &mut memory.bytes_mut(slot)[start..start + leaves.len() * 8];
        for (bytes, leaf) in bytes.chunks_exact_mut(8).zip(leaves) {
            bytes.copy_from_slice(&leaf.to_le_bytes());
        }
        true
    }

    pub(super) fn on_read_done<M: Memory>(
        &mut self,
        now: Nanos,
        io: IoToken,
        outcome: IoOutcome,
        memory: &mut M,
        effects: &mut Effects,
    ) {
        let at = usize::try_from(io.key() >> 1).expect("an index");
        let read = self.reads.list[at].as_mut().expect("a read ends as often as it was asked for");
        read.pending -= 1;
        read.failed |= outcome != IoOutcome::Done;
        if read.pending > 0 {
            return;
        }
        let read = self.reads.list[at].take().expect("checked above");
        self.reads.free.push(u32::try_from(at).expect("limited"));
        self.device.segments_mut().read_ends(read.entry.place.segment);
        let verified =
            if read.failed { Err(Status::StoreFailed) } else { self.verify(&read, memory, effects) };
        if let Some(slot) = read.leaf_slot.filter(|_| !planted(Bug::StoreLeaksSlot)) {
            memory.release(slot);
        }
        self.metrics.checksum_mismatches += u64::from(verified == Err(Status::ChecksumMismatch));
        if verified.is_err() {
            self.report_damage(&read.entry, effects);
        } else if read.blocks.len() == leaf_count(read.entry.length as usize)
            && self.index.is_damaged(read.entry.id)
        {
            self.retract_damage(&read.entry);
        }
        match read.reader {
            Reader::Client(token) | Reader::Replica(token) => match verified {
                Ok(proof) => self.answer(token, &read, proof, effects),
                Err(status) => {
                    memory.release(read.slot);
                    effects.list.push(Effect::Done { token, status });
                }
            },
            Reader::Cleaner => self.on_cleaner_read(&read.entry, read.slot, verified.is_ok(), memory),
            Reader::Scrubber => {
                memory.release(read.slot);
                let bytes = u64::from(BLOCK) * read.blocks.len() as u64;
                self.on_scrubbed(now, if verified.is_ok() { bytes } else { 0 });
            }
        }
    }

    fn answer(&mut self, token: u64, read: &Read, proof: WordRange, effects: &mut Effects) {
        let blocks = u32::try_from(read.blocks.len()).expect("at most 1,024");
        let end = (read.blocks.end * BLOCK).min(read.entry.length);
        self.metrics.gets += 1;
        self.metrics.get_bytes += u64::from(end - read.blocks.start * BLOCK);
        effects.list.push(Effect::Got(GotChunk {
            token,
            slot: read.slot,
            slot_offset: 0,
            length: read.entry.length,
            first_block: read.blocks.start,
            blocks,
            root: read.entry.root,
            proof,
        }));
    }

    /// I11: the bytes in the slot are the chunk's, or there is an error.
    fn verify<M: Memory>(
        &mut self,
        read: &Read,
        memory: &M,
        effects: &mut Effects,
    ) -> Result<WordRange, Status> {
        let entry = &read.entry;
        let end = (read.blocks.end * BLOCK).min(entry.length);
        let bytes = &memory.bytes(read.slot)[..(end - read.blocks.start * BLOCK) as usize];
        let hasher = BlockHasher::new(self.cluster(), entry.id);
        let mismatch =
            if planted(Bug::StoreIgnoresChecksum) { Ok(()) } else { Err(Status::ChecksumMismatch) };
        if read.blocks.len() == leaf_count(entry.length as usize) {
            if hasher.root(bytes) != entry.root {
                mismatch?;
            }
            return Ok(WordRange::default());
        }
        let mut table = [0; LEAVES_MAX];
        let slot = read.leaf_slot.expect("a part is read with its leaf table");
        let leaves = read_leaves(entry, memory.bytes(slot), &mut table);
        if is_table_of(leaves, entry) {
            self.leaf_cache.insert(entry.id, leaves);
        } else {
            mismatch?;
        }
        let (first, last) = (read.blocks.start as usize, read.blocks.end as usize);
        if !hasher.matches(first, bytes, &leaves[first..last]) {
            mismatch?;
        }
        let start = effects.words.len();
        proof(leaves, first..last, &mut effects.words);
        let bound = "a proof is at most 240 words";
        Ok(WordRange {
            start: u32::try_from(start).expect(bound),
            count: u32::try_from(effects.words.len() - start).expect(bound),
        })
    }
}

/// The blocks of the segment in which the chunk's leaf table lies.
fn leaf_span(entry: &IndexEntry) -> Range<u32> {
    let words = u32::try_from(leaf_words(entry.length)).expect("at most 1,024");
    entry.leaf_word / 512..(entry.leaf_word + words).div_ceil(512)
}

/// Where in its first block the chunk's leaf table begins.
fn leaf_start(entry: &IndexEntry) -> usize {
    entry.leaf_word as usize % 512 * 8
}

fn read_leaves<'a>(entry: &IndexEntry, bytes: &[u8], table: &'a mut [u64; LEAVES_MAX]) -> &'a [u64] {
    let count = leaf_words(entry.length);
    let start = leaf_start(entry);
    for (word, bytes) in table.iter_mut().zip(bytes[start..start + count * 8].chunks_exact(8)) {
        *word = u64::from_le_bytes(bytes.try_into().expect("8 bytes"));
    }
    &table[..count]
}

fn is_table_of(leaves: &[u64], entry: &IndexEntry) -> bool {
    leaves.len() == leaf_count(entry.length as usize) && root(leaves, entry.length as usize) == entry.root
}
