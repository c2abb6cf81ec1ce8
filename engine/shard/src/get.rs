//! Gets: blocks of a chunk, read and verified by the store, sent straight from its buffer in frames of at most 256 KiB.

use wire::limits::PAYLOAD_BYTES_MAX;
use wire::message::{ChunkPart, GetChunk, Reply, Words};
use wire::{Memory, Nanos, Slot};

use crate::effects::{Effects, Link};
use crate::reply::{Caller, Replier, part_of};
use crate::shares::block_bytes;

/// Gets of all connections under way; beyond it `Busy`.
pub(crate) const GETS_MAX: usize = 8192;

/// One get.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Get {
    /// Who asked; `None` when the connection is gone.
    pub(crate) caller: Option<Caller>,
    /// How many it wants; their blocks count against its connection until they are sent.
    pub(crate) bytes: u32,
    /// When it began.
    pub(crate) since: Nanos,
    /// Another replica's: its bytes count apart.
    pub(crate) is_replica: bool,
}

/// All gets under way; a place in the table is the store's token.
#[derive(Debug, Default)]
pub(crate) struct Gets {
    entries: Vec<Option<Get>>,
    free: Vec<u32>,
}

impl Gets {
    pub(crate) fn len(&self) -> usize {
        self.entries.len() - self.free.len()
    }

    pub(crate) fn begin(&mut self, caller: Caller, bytes: u32, since: Nanos, is_replica: bool) -> u32 {
        let get = Some(Get { caller: Some(caller), bytes, since, is_replica });
        if let Some(index) = self.free.pop() {
            self.entries[index as usize] = get;
            index
        } else {
            self.entries.push(get);
            u32::try_from(self.entries.len() - 1).expect("fewer than GETS_MAX")
        }
    }

    /// Whether a get is another replica's.
    pub(crate) fn is_replica(&self, index: u32) -> bool {
        self.entries[index as usize].is_some_and(|get| get.is_replica)
    }

    /// Ends a get.
    pub(crate) fn end(&mut self, index: u32) -> Get {
        let get = self.entries[index as usize].take().expect("a token is answered once");
        self.free.push(index);
        get
    }

    /// Nobody listens any more to what `link` asked for. Returns the bytes of blocks that are still read for it.
    pub(crate) fn abandon(&mut self, link: Link) -> usize {
        let mut bytes = 0;
        for get in self.entries.iter_mut().flatten() {
            if get.caller.is_some_and(|caller| caller.link == link) {
                get.caller = None;
                bytes += block_bytes(get.bytes);
            }
        }
        bytes
    }
}

/// Verified bytes of a chunk, as the store hands them over with one reference to the slot.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Found<'a> {
    pub(crate) slot: Slot,
    /// Where the bytes begin in the slot.
    pub(crate) slot_offset: u32,
    /// Where they begin in the chunk.
    pub(crate) offset: u32,
    /// How many.
    pub(crate) bytes: u32,
    /// The chunk's length.
    pub(crate) chunk_length: u32,
    pub(crate) proof: &'a [u64],
}

/// Sends what was found; each frame carries a reference to the slot.
pub(crate) fn send_found(
    replier: &mut Replier,
    caller: Caller,
    found: &Found<'_>,
    memory: &mut impl Memory,
    effects: &mut Effects,
) {
    let step = u32::try_from(PAYLOAD_BYTES_MAX).expect("256 KiB");
    let mut sent = 0;
    while sent < found.bytes {
        let len = step.min(found.bytes - sent);
        let proof = if sent == 0 { found.proof } else { &[] };
        let part =
            ChunkPart { length: found.chunk_length, offset: found.offset + sent, proof: Words::new(proof) };
        let payload = part_of(found.slot, found.slot_offset + sent, len);
        sent += len;
        let more = sent < found.bytes;
        if more {
            memory.retain(found.slot);
        }
        replier.send_part(caller, &Reply::GetChunk(part), more, payload, effects);
    }
}

/// Whether a get asks for something that a chunk can have.
pub(crate) fn is_plausible(get: GetChunk) -> bool {
    let blocks = u32::try_from(wire::limits::LEAVES_MAX).expect("1,024");
    let end = get.first_block.checked_add(get.block_count);
    end.is_some_and(|end| end <= blocks) && (get.block_count > 0 || get.first_block == 0)
}
