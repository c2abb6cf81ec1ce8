//! What a shard knows of one connection.

use std::collections::{BTreeMap, VecDeque};

use wire::StoreId;
use wire::limits::CHUNK_BYTES_MAX;
use wire::message::{GetChunk, HopClass};

use crate::effects::Link;
use crate::shares::get_part;

/// Credit for chunk payload that a connection starts with (R38): enough for four chunks of the largest size, so that the quarter of it that may be
/// collected before it is returned never holds a chunk back.
pub(crate) const PUT_CREDIT_BYTES: u32 = 16 << 20;
/// Returned credit is collected until a frame for it is worth while.
pub(crate) const CREDIT_RETURN_BYTES: u32 = PUT_CREDIT_BYTES / 4;
/// Slots of one connection's puts, from a chunk's first fragment to its ack. Who spends its credit on one chunk after the other has at most
/// one that isn't whole beside as many whole ones as the credit pays for; slots are powers of two, up to twice as large as their chunks.
pub(crate) const LINK_PUT_BYTES_MAX: usize = 2 * (PUT_CREDIT_BYTES as usize + CHUNK_BYTES_MAX as usize);
/// Bytes of one connection's gets between the disk and the peer. Further gets wait in its queue, so that a slow reader holds no
/// more of the shard's buffers than this.
pub const LINK_GET_BYTES_MAX: u32 = 16 << 20;
/// Gets of one connection that wait for that; beyond it `Busy`.
pub(crate) const LINK_GETS_WAITING_MAX: usize = 256;
/// Puts of one connection under way; beyond it `Busy`.
pub(crate) const LINK_PUTS_MAX: usize = 1024;

/// One connection.
#[derive(Debug, Default)]
pub(crate) struct LinkState {
    /// `Hello` was answered.
    pub(crate) greeted: bool,
    /// The store that relays over this connection.
    pub(crate) peer: Option<StoreId>,
    /// Puts under way: correlation id → index in the shard's table, in order of arrival. Few, hence a plain list.
    pub(crate) puts: Vec<(u64, u32)>,
    /// Bytes of their slots.
    pub(crate) put_bytes: usize,
    /// Bytes of blocks that are being read or sent.
    pub(crate) get_bytes: usize,
    /// Gets that wait until fewer bytes are.
    pub(crate) waiting_gets: VecDeque<(u64, GetChunk)>,
    /// Credit for chunk payload, by the class of buffers.
    credit: [Credit; HopClass::ALL.len()],
    /// What the payload that is arriving belongs to.
    pub(crate) arriving: Option<Arriving>,
}

/// Credit of one class.
#[derive(Clone, Copy, Debug, Default)]
struct Credit {
    /// What the peer has spent and not been given back.
    spent: u32,
    /// What of it can be given back.
    owed: u32,
}

/// A payload on its way in.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Arriving {
    /// The put in the shard's table.
    pub(crate) put: u32,
    /// Where the fragment begins in the chunk.
    pub(crate) offset: u32,
    /// Its bytes.
    pub(crate) bytes: u32,
}

impl LinkState {
    pub(crate) fn put_index(&self, correlation: u64) -> Option<u32> {
        self.puts.iter().find(|(known, _)| *known == correlation).map(|(_, index)| *index)
    }

    pub(crate) fn forget_put(&mut self, correlation: u64, slot_bytes: usize) {
        self.puts.retain(|(known, _)| *known != correlation);
        self.put_bytes -= slot_bytes;
    }

    /// Whether the peer may use buffers of this class: clients those of a head, stores those behind one.
    pub(crate) fn may_use(&self, class: HopClass) -> bool {
        match class {
            HopClass::Client => self.peer.is_none(),
            HopClass::Head => false,
            HopClass::Middle | HopClass::Tail => self.peer.is_some(),
        }
    }

    /// The peer sends so many bytes of payload; false: it hadn't that much credit (R38).
    pub(crate) fn spend_credit(&mut self, class: HopClass, bytes: u32) -> bool {
        let credit = &mut self.credit[class as usize];
        credit.spent += bytes;
        credit.spent <= PUT_CREDIT_BYTES
    }

    /// Owes credit back; what is to be returned at once, if it is worth a frame.
    pub(crate) fn owe_credit(&mut self, class: HopClass, bytes: u32) -> Option<u32> {
        let credit = &mut self.credit[class as usize];
        credit.owed += bytes;
        if credit.owed < CREDIT_RETURN_BYTES {
            return None;
        }
        credit.spent -= credit.owed;
        Some(std::mem::take(&mut credit.owed))
    }

    /// Credit that is owed, and not returned yet.
    #[cfg(test)]
    pub(crate) fn owed_credit(&self, class: HopClass) -> u32 {
        self.credit[class as usize].owed
    }

    /// Whether a get may begin where all together may take `left` bytes more. Who has nothing under way never waits: nothing would
    /// wake it.
    pub(crate) fn takes_get(&self, left: usize) -> bool {
        self.get_bytes == 0 || self.get_bytes < get_part(left)
    }
}

/// The connections, by the driver's number. Numbers rise, so that a list in order finds one in logarithmic time without hashing.
#[derive(Debug, Default)]
pub(crate) struct Links {
    entries: BTreeMap<Link, LinkState>,
}

impl Links {
    pub(crate) fn open(&mut self, link: Link) {
        let previous = self.entries.insert(link, LinkState::default());
        assert!(previous.is_none(), "the driver opened a connection twice");
    }

    pub(crate) fn close(&mut self, link: Link) -> Option<LinkState> {
        self.entries.remove(&link)
    }

    pub(crate) fn state(&mut self, link: Link) -> Option<&mut LinkState> {
        self.entries.get_mut(&link)
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }
}
