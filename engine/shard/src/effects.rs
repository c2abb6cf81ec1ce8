//! What a shard asks of its driver.

use std::sync::Arc;

use journal::IoEffects;
use wire::{ChunkId, Epoch, Nanos, SliceIndex, Slot, StoreId};

/// A connection, as the driver numbers it; never reused within a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Link(pub u64);

/// Where an arriving frame's payload goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placement {
    /// Straight into a slot.
    Into {
        /// The slot.
        slot: Slot,
        /// Where it begins there.
        offset: u32,
    },
    /// Nowhere: it is received and forgotten.
    Discard,
    /// The connection ends.
    Close(CloseReason),
}

/// Why a shard ends a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseReason {
    /// The peer broke the protocol.
    Protocol,
    /// The peer belongs to another cluster, or speaks no version that is spoken here.
    Mismatch,
    /// More connections than the limit.
    TooMany,
    /// A successor that refused to talk, or has another address now.
    Redial,
    /// A store that doesn't answer.
    Silent,
    /// Nothing was asked over it for a while (R43).
    Idle,
}

/// What a connection to another store is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Purpose {
    /// Chunks go down a chain.
    Relay,
    /// Replicas are compared, and chunks fetched.
    Sync,
    /// A metadata group is asked about its chunks.
    Group,
}

/// Whom a connection leads to, and what for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Target {
    /// The store.
    pub store: StoreId,
    /// What for.
    pub purpose: Purpose,
}

/// A connection that the shard wants; answered by [`Shard::on_dialled`](crate::Shard::on_dialled).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dial {
    /// The other end.
    pub target: Target,
    /// `host:port` of its unit.
    pub address: Arc<str>,
}

/// A frame to be sent. Its payload carries one reference to the slot, which the driver gives back when the kernel has the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Send {
    /// To whom.
    pub link: Link,
    /// Prefix and message in [`Effects::bytes`].
    pub head: (u32, u32),
    /// The payload, if there is one.
    pub payload: Option<Payload>,
}

/// Bytes of a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Payload {
    /// The slot.
    pub slot: Slot,
    /// Where they begin.
    pub offset: u32,
    /// How many.
    pub len: u32,
}

const _: () = assert!(size_of::<Send>() <= 64 && size_of::<Placement>() <= 64);

/// A slice is in sync here: this replica has everything that its sources had (R9).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Synced {
    /// The slice.
    pub slice: SliceIndex,
    /// Only in this epoch is it true.
    pub epoch: Epoch,
    /// Chunks that no Serving member could supply.
    pub missing: u64,
}

/// What is thought of the way to a store behind this one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Suspicion {
    /// The store.
    pub store: StoreId,
    /// It doesn't answer, or can't be reached; false: it does again.
    pub is_suspect: bool,
}

/// What one event leads to. Owned by the caller and reused; cleared by the caller after it has been carried out.
#[derive(Debug, Default)]
pub struct Effects {
    /// Frames to send, in order.
    pub sends: Vec<Send>,
    /// Encoded heads that [`Send::head`] points into.
    pub bytes: Vec<u8>,
    /// Connections to end once what was sent to them before has left.
    pub closes: Vec<(Link, CloseReason)>,
    /// Connections to make.
    pub dials: Vec<Dial>,
    /// The store's I/O.
    pub io: IoEffects,
    /// Chunks found damaged or unreadable, each told once.
    pub damaged: Vec<ChunkId>,
    /// Chunks that were put with other bytes than the store holds under their ids, each told once (R4).
    pub conflicting: Vec<ChunkId>,
    /// Slices that are in sync, told again after each new map until the map says so.
    pub synced: Vec<Synced>,
    /// Stores whose answers fail to come, or come again.
    pub suspects: Vec<Suspicion>,
    /// A tick is wanted at this time, at the latest.
    pub deadline: Option<Nanos>,
    /// The store serves from now on.
    pub opened: bool,
    /// The store can't be opened.
    pub open_failed: bool,
    /// A write failed: the store is fenced.
    pub fenced: bool,
    /// The store has ended in order.
    pub shut_down: bool,
}

impl Effects {
    /// Forgets everything, keeps the memory.
    pub fn clear(&mut self) {
        self.sends.clear();
        self.bytes.clear();
        self.closes.clear();
        self.dials.clear();
        self.io.clear();
        self.damaged.clear();
        self.conflicting.clear();
        self.synced.clear();
        self.suspects.clear();
        self.deadline = None;
        self.opened = false;
        self.open_failed = false;
        self.fenced = false;
        self.shut_down = false;
    }

    /// A tick is wanted at this time, at the latest.
    pub(crate) fn want_tick(&mut self, at: Nanos) {
        self.deadline = Some(self.deadline.map_or(at, |known| known.min(at)));
    }
}
