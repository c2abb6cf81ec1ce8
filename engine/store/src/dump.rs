//! Looking at a stopped store, read-only: what `catena debug store` and `catena debug log` print. Everything here takes bytes through a
//! reader that the caller gives.
//!
//! [`dump`] lists what the medium holds, block by block, believing nothing. [`check`] runs the shipped recovery on it as a start would,
//! with every write kept in memory, then reads and verifies every chunk.

use std::collections::BTreeMap;

use journal::batch::BatchHeader;
use journal::checkpoint::PageHeader;
use journal::fake_disk::FakeMemory;
use journal::{
    BlockIndex, DamagedBatches, Expected, IoEffects, IoFailure, IoOutcome, IoRequest, IoToken, OpenError,
    Opened, Place, SUPERBLOCK_BYTES, SUPERBLOCK_COPIES, SegmentIndex, Superblock, SuperblockError,
};
use wire::limits::BLOCK_BYTES;
use wire::{ChunkId, Memory, Nanos};

use crate::api::{Effect, Effects, Event, ListedChunk, Metrics, ScrubControl, StoreConfig};
use crate::store::Store;

const BLOCK: u64 = BLOCK_BYTES as u64;

/// Reads exactly so many bytes at an offset; false if they can't be read.
pub type ReadAt<'a> = dyn FnMut(u64, &mut [u8]) -> bool + 'a;

/// Something found on the medium.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// A copy of the superblock, or what is in its place.
    Superblock {
        /// Its number.
        copy: usize,
        /// What is there.
        decoded: Result<Superblock, SuperblockError>,
    },
    /// An intact batch: this life's or an earlier one's.
    Batch {
        /// Where.
        place: Place,
        /// Its header.
        header: BatchHeader,
    },
    /// An intact page of a checkpoint.
    Page {
        /// Where.
        place: Place,
        /// Its header.
        header: PageHeader,
    },
    /// A block that begins like a batch or page and isn't a whole one.
    Broken {
        /// Where.
        place: Place,
    },
    /// Bytes that can't be read.
    Unreadable {
        /// From here.
        offset: u64,
    },
}

/// Lists superblocks, then segment by segment what lies in a file of `length` bytes. The superblock that recovery would choose is returned.
pub fn dump(
    read: &mut ReadAt<'_>,
    length: u64,
    visit: &mut dyn FnMut(Found),
) -> Result<Superblock, SuperblockError> {
    let copies: Vec<_> = (0..SUPERBLOCK_COPIES).map(|copy| read_superblock(read, copy)).collect();
    for (copy, decoded) in copies.iter().cloned().enumerate() {
        visit(Found::Superblock { copy, decoded });
    }
    let superblock = Superblock::choose(&copies)?.clone();
    for segment in 0..superblock.geometry.segments_in(length) {
        dump_segment(read, &superblock, SegmentIndex(segment), visit);
    }
    Ok(superblock)
}

fn read_superblock(read: &mut ReadAt<'_>, copy: usize) -> Result<Superblock, SuperblockError> {
    let mut bytes = vec![0; SUPERBLOCK_BYTES];
    if !read(journal::superblock_offset(copy), &mut bytes) {
        return Err(SuperblockError::Damaged);
    }
    Superblock::decode(copy, &bytes)
}

fn dump_segment(
    read: &mut ReadAt<'_>,
    superblock: &Superblock,
    segment: SegmentIndex,
    visit: &mut dyn FnMut(Found),
) {
    let geometry = superblock.geometry;
    let mut block = 0;
    let mut bytes = vec![0; BLOCK_BYTES];
    while block < geometry.segment_blocks() {
        let place = Place { segment, block: BlockIndex(block) };
        let (offset, left) = (geometry.offset(place), (geometry.segment_blocks() - block) * 4096);
        block += 1;
        bytes.resize(BLOCK_BYTES, 0);
        if !read(offset, &mut bytes) {
            visit(Found::Unreadable { offset });
            continue;
        }
        let length = BatchHeader::peek(superblock.kind, &bytes).or_else(|| PageHeader::peek(&bytes));
        let Some(length) = length else { continue };
        bytes.resize(length as usize, 0);
        if length > left || !read(offset, &mut bytes) {
            visit(Found::Broken { place });
            continue;
        }
        if let Some((header, _)) = BatchHeader::decode(superblock.kind, superblock.secret, &bytes) {
            block += header.blocks.max(1) - 1;
            visit(Found::Batch { place, header });
        } else if let Some(header) = PageHeader::decode(superblock.secret, &bytes) {
            block += header.length.div_ceil(4096) - 1;
            visit(Found::Page { place, header });
        } else {
            visit(Found::Broken { place });
        }
    }
}

/// What [`check`] has found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checked {
    /// How recovery found the store.
    pub opened: Opened,
    /// Counts, as the store would show them.
    pub metrics: Metrics,
    /// Chunks whose bytes are damaged or unreadable.
    pub damaged: Vec<ChunkId>,
    /// Durable batches that are lost.
    pub damaged_batches: Vec<DamagedBatches>,
}

/// Recovers a chunk store of `length` bytes without writing to it, passes every chunk to `visit`, and verifies all. What a start refuses is refused.
pub fn check(
    read: &mut ReadAt<'_>,
    length: u64,
    visit: &mut dyn FnMut(&ListedChunk),
) -> Result<Checked, OpenError> {
    let copies: Vec<_> = (0..SUPERBLOCK_COPIES).map(|copy| read_superblock(read, copy)).collect();
    let identity = match Superblock::choose(&copies) {
        Ok(superblock) => superblock.identity,
        Err(SuperblockError::Absent) => return Err(OpenError::NotFormatted),
        Err(SuperblockError::Foreign) => return Err(OpenError::Foreign),
        Err(SuperblockError::Damaged) => return Err(OpenError::SuperblocksDamaged),
        Err(SuperblockError::Newer(found)) => return Err(OpenError::Newer { found }),
    };
    let expected = Expected {
        cluster: Some(identity.cluster),
        store: Some(identity.store),
        node: identity.node,
        unit: identity.unit,
    };
    // Room for the segments that the new life would take: they exist in memory only.
    let capacity = length + (4 * u64::from(journal::SEGMENT_BYTES));
    let config = StoreConfig { prezero_bytes: 0, scrub: false, ..StoreConfig::new(capacity, length) };
    let mut driver = Overlay {
        read,
        length,
        store: Store::open(config, expected),
        written: BTreeMap::new(),
        memory: FakeMemory::default(),
        now: Nanos(1),
        damaged: Vec::new(),
    };
    driver.run(Event::Start, visit);
    if let Some(error) = driver.store.open_error() {
        return Err(error);
    }
    let mut after = None;
    while let Some(last) = driver.list(after, visit) {
        after = Some(last);
    }
    driver.run(Event::Scrub(ScrubControl::Start { bytes_per_second: u64::MAX }), visit);
    while driver.store.metrics().scrub_passes == 0 && driver.store.metrics().chunks > 0 {
        driver.now = driver.now.after(Nanos::SECOND);
        driver.run(Event::Tick, visit);
    }
    Ok(Checked {
        opened: *driver.store.opened().expect("open without an error"),
        metrics: driver.store.metrics(),
        damaged_batches: driver.store.damaged_batches().to_vec(),
        damaged: driver.damaged,
    })
}

/// Executes a store's effects on a medium that is only read.
struct Overlay<'a, 'b> {
    read: &'a mut ReadAt<'b>,
    length: u64,
    store: Store,
    written: BTreeMap<u64, Vec<u8>>,
    memory: FakeMemory,
    now: Nanos,
    damaged: Vec<ChunkId>,
}

impl Overlay<'_, '_> {
    fn run(&mut self, event: Event<'_>, visit: &mut dyn FnMut(&ListedChunk)) {
        let mut effects = Effects::new();
        self.store.handle(self.now, event, &mut self.memory, &mut effects);
        let mut answers = self.take(&mut effects, visit);
        while let Some((io, outcome)) = answers.pop() {
            self.store.handle(self.now, Event::IoDone { io, outcome }, &mut self.memory, &mut effects);
            answers.extend(self.take(&mut effects, visit));
        }
    }

    /// A page of the inventory; its last id if more may follow.
    fn list(&mut self, after: Option<ChunkId>, visit: &mut dyn FnMut(&ListedChunk)) -> Option<ChunkId> {
        let mut last = None;
        let limit = u32::try_from(wire::limits::MESSAGE_CHUNKS_MAX).expect("4096");
        self.run(Event::Inventory { token: 0, after, limit }, &mut |chunk| {
            last = Some(chunk.id);
            visit(chunk);
        });
        last
    }

    fn take(
        &mut self,
        effects: &mut Effects,
        visit: &mut dyn FnMut(&ListedChunk),
    ) -> Vec<(IoToken, IoOutcome)> {
        for effect in &effects.list {
            match effect {
                Effect::Listed { chunks, .. } => {
                    effects.chunks[chunks.start as usize..][..chunks.count as usize]
                        .iter()
                        .for_each(&mut *visit);
                }
                Effect::Damaged { id } => self.damaged.push(*id),
                _ => {}
            }
        }
        let answers = effects.io.requests.iter().map(|request| self.execute(*request, &effects.io)).collect();
        effects.clear();
        answers
    }

    fn execute(&mut self, request: IoRequest, io: &IoEffects) -> (IoToken, IoOutcome) {
        match request {
            IoRequest::Read { io, offset, slot, slot_offset, length, .. } => {
                let range = slot_offset as usize..(slot_offset + length) as usize;
                let bytes = &mut self.memory.bytes_mut(slot)[range];
                let all =
                    (offset / BLOCK..).zip(bytes.chunks_exact_mut(BLOCK_BYTES)).all(|(block, bytes)| {
                        if let Some(written) = self.written.get(&block) {
                            bytes.copy_from_slice(written);
                            return true;
                        }
                        bytes.fill(0);
                        block * BLOCK >= self.length || (self.read)(block * BLOCK, bytes)
                    });
                (io, if all { IoOutcome::Done } else { IoOutcome::Failed(IoFailure::Device) })
            }
            IoRequest::Write { io: token, offset, parts, .. } => {
                let mut block = offset / BLOCK;
                for part in io.parts_of(parts) {
                    let range = part.offset as usize..(part.offset + part.length) as usize;
                    for bytes in self.memory.bytes(part.slot)[range].chunks_exact(BLOCK_BYTES) {
                        self.written.insert(block, bytes.to_vec());
                        block += 1;
                    }
                }
                (token, IoOutcome::Done)
            }
            IoRequest::Flush { io } | IoRequest::Allocate { io, .. } | IoRequest::Zero { io, .. } => {
                (io, IoOutcome::Done)
            }
        }
    }
}
