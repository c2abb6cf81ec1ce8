//! The source's side: what a Serving replica tells and gives others.
//!
//! It answers for a slice only in an active epoch that it serves in, and only once every put that it admitted in a lower one is in the index or discarded (R1): whatever was acked before is
//! listed then, and whatever is acked later reaches the joiner by the chain.

use placement::ClusterMap;
use wire::limits::MESSAGE_CHUNKS_MAX;
use wire::map::{Phase, ReplicaState};
use wire::message::{ChunkRecord, Reply, Request, SliceSpan, StoreCondition};
use wire::planted::{Bug, planted};
use wire::{ChunkId, Epoch, Memory, Nanos, SliceIndex, Status, StoreId};

use super::repair::{OFFERED_MAX, Offered};
use super::state_of;
use crate::effects::{CloseReason, Effects, Link};
use crate::reply::Caller;
use crate::shard::Shard;

/// Listings that wait for the index to be walked; beyond it `Busy`.
const LISTINGS_MAX: usize = 256;
/// Of these, those that are answered in one turn, each about 200 µs.
const LISTINGS_PER_TURN: usize = 4;
/// Looks at own copies at once; beyond it `Busy`.
const LOOKS_MAX: u32 = 4;

/// What is to be listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    Digests,
    /// Up to this id.
    Chunks(ChunkId),
}

/// A request that waits until the index has been walked.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Listing {
    caller: Caller,
    span: SliceSpan,
    limit: u32,
    what: What,
}

impl Listing {
    pub(crate) fn slice(&self) -> SliceIndex {
        self.span.slice
    }
}

impl Shard {
    /// A request of another replica, a reader's hint about this one, or one that no shard answers.
    pub(crate) fn on_replica_request(
        &mut self,
        now: Nanos,
        caller: Caller,
        request: Request<'_>,
        memory: &mut impl Memory,
        effects: &mut Effects,
    ) -> Option<CloseReason> {
        match request {
            Request::SliceDigest { span, limit } => {
                self.list(now, Listing { caller, span, limit, what: What::Digests }, effects);
            }
            Request::SliceChunks { span, last, limit } => {
                self.list(now, Listing { caller, span, limit, what: What::Chunks(last) }, effects);
            }
            Request::OfferChunks { slice, epoch, chunks } => {
                self.on_offer(now, caller, slice, epoch, &chunks, effects);
            }
            Request::ReportDamage { id, root } => self.on_report(now, caller, id, root, memory, effects),
            // A group's, or answered elsewhere.
            _ => self.refuse(caller, Status::Unsupported, effects),
        }
        None
    }

    fn list(&mut self, now: Nanos, listing: Listing, effects: &mut Effects) {
        self.sync.listed_at = now;
        if self.sync.listings.len() >= LISTINGS_MAX {
            self.refuse(listing.caller, Status::Busy, effects);
            return;
        }
        if !self.answer_listing(&listing, effects) {
            self.sync.listings.push_back(listing);
            self.sync.wake();
        }
    }

    /// Answers what waited for a walk.
    pub(crate) fn answer_listings(&mut self, now: Nanos, effects: &mut Effects) {
        let count = self.sync.listings.len();
        if count > LISTINGS_PER_TURN {
            self.sync.want(now);
        }
        for _ in 0..count.min(LISTINGS_PER_TURN) {
            let Some(listing) = self.sync.listings.pop_front() else { return };
            self.sync.listed_at = now;
            if !self.answer_listing(&listing, effects) {
                self.sync.listings.push_back(listing);
            }
        }
    }

    /// A connection is gone.
    pub(crate) fn forget_listings(&mut self, link: Link) {
        self.sync.listings.retain(|listing| listing.caller.link != link);
    }

    /// False: the index isn't walked yet.
    fn answer_listing(&mut self, listing: &Listing, effects: &mut Effects) -> bool {
        let Listing { caller, span, limit, what } = *listing;
        if let Err(status) = self.admit_listing(caller.link, span.slice, span.epoch) {
            self.refuse(caller, status, effects);
            return true;
        }
        let limit = (limit as usize).min(MESSAGE_CHUNKS_MAX);
        match what {
            What::Digests => {
                let Some((ranges, end)) = self.store.slice_digests(span.slice, span.after, limit) else {
                    return false;
                };
                self.replier.send(caller, &Reply::SliceDigest { ranges, end }, effects);
            }
            What::Chunks(last) => {
                let Some(reach) = self.store.slice_reach(span.slice, span.after) else { return false };
                let Some(mut records) = self.store.slice_records(span.slice, span.after, last) else {
                    return false;
                };
                let chunks: Vec<ChunkRecord> = records.by_ref().take(limit).collect();
                let end = records.next().is_none() && reach >= last;
                drop(records);
                self.replier.send(caller, &Reply::SliceChunks { chunks, end }, effects);
            }
        }
        true
    }

    /// Whether this store may be a source for that slice and epoch, and the peer asks as one of its chain.
    fn admit_listing(&mut self, link: Link, slice: SliceIndex, epoch: Epoch) -> Result<(), Status> {
        let own = self.identity.store;
        let peer = self.links.state(link).and_then(|state| state.peer);
        let Some(edition) = self.edition.clone().filter(|_| self.condition == StoreCondition::Serving) else {
            return Err(Status::NotServing);
        };
        let map = edition.map();
        if usize::from(slice.0) >= map.as_map().slices.len() {
            return Err(Status::BadRequest);
        }
        let route = map.route_of_slice(slice);
        if route.epoch != epoch {
            return Err(Status::WrongEpoch);
        }
        if peer.is_none_or(|peer| state_of(map, slice, peer).is_none_or(|state| !state.acks())) {
            return Err(Status::WrongShard);
        }
        // Where control has seen everyone's promise for this epoch, this store's is durable as well.
        if route.chain.phase != Phase::Active || state_of(map, slice, own) != Some(ReplicaState::Serving) {
            return Err(Status::NotServing);
        }
        if self.has_lower_puts(map, slice, epoch) && !planted(Bug::SyncDigestsEarly) {
            return Err(Status::Busy);
        }
        Ok(())
    }

    /// R1: whether a put of the slice that was admitted in a lower epoch may still reach the index.
    fn has_lower_puts(&mut self, map: &ClusterMap, slice: SliceIndex, epoch: Epoch) -> bool {
        (0..self.puts.places()).any(|index| {
            self.puts
                .find(index)
                .is_some_and(|put| put.epoch < epoch && put.local.is_none() && map.slice_of(put.id) == slice)
        })
    }

    /// Another replica of the chain holds these, and the group calls them alive.
    fn on_offer(
        &mut self,
        now: Nanos,
        caller: Caller,
        slice: SliceIndex,
        epoch: Epoch,
        chunks: &[ChunkRecord],
        effects: &mut Effects,
    ) {
        match self.admit_offer(caller.link, slice, epoch, chunks) {
            Ok(from) => {
                for chunk in chunks {
                    let is_known = self.store.find(chunk.id).is_some() || self.store.is_changing(chunk.id);
                    if !is_known && !self.sync.dead.holds(chunk.id) {
                        self.sync.offered.entry(chunk.id).or_insert(Offered::new(now, *chunk, from));
                    }
                }
                self.sync.wake();
                self.replier.send(caller, &Reply::OfferChunks, effects);
            }
            Err(status) => self.refuse(caller, status, effects),
        }
    }

    fn admit_offer(
        &mut self,
        link: Link,
        slice: SliceIndex,
        epoch: Epoch,
        chunks: &[ChunkRecord],
    ) -> Result<StoreId, Status> {
        let peer = self.links.state(link).and_then(|state| state.peer).ok_or(Status::WrongShard)?;
        let serves = !self.draining && self.condition == StoreCondition::Serving;
        let Some(edition) = self.edition.clone().filter(|_| serves) else { return Err(Status::NotServing) };
        let map = edition.map();
        let is_slices = usize::from(slice.0) < map.as_map().slices.len()
            && chunks.iter().all(|chunk| map.slice_of(chunk.id) == slice);
        if !is_slices {
            return Err(Status::BadRequest);
        }
        if map.route_of_slice(slice).epoch != epoch {
            return Err(Status::WrongEpoch);
        }
        let acks = |store| state_of(map, slice, store).is_some_and(ReplicaState::acks);
        if !acks(peer) || !acks(self.identity.store) {
            return Err(Status::WrongShard);
        }
        if self.sync.offered.len() + chunks.len() > OFFERED_MAX {
            return Err(Status::Busy);
        }
        Ok(peer)
    }

    /// A reader didn't get a chunk here. A hint: the own copy is looked at first (R10).
    fn on_report(
        &mut self,
        now: Nanos,
        caller: Caller,
        id: ChunkId,
        root: u64,
        memory: &mut impl Memory,
        effects: &mut Effects,
    ) {
        if !self.owns(id) {
            self.refuse(caller, Status::WrongShard, effects);
            return;
        }
        let here = self.store.find(id);
        if here.is_some_and(|entry| entry.root == root) {
            if self.sync.looks >= LOOKS_MAX {
                self.refuse(caller, Status::Busy, effects);
                return;
            }
            self.sync.looks += 1;
            self.store_look(now, id, memory, effects);
        } else if let Some(slice) = self.map().map(|map| map.slice_of(id)) {
            // It isn't here, or is something else: what the other replicas have, and the group, decide.
            self.compare_slice(slice);
        }
        self.replier.send(caller, &Reply::ReportDamage, effects);
    }

    /// Reads for other replicas that waited for their rate begin.
    pub(crate) fn pump_fetched(&mut self, now: Nanos, memory: &mut impl Memory, effects: &mut Effects) {
        while let Some(link) = self.sync.paced.pop_front() {
            if let Err(at) = self.sync.source_pace.admits(now) {
                self.sync.paced.push_front(link);
                self.sync.want(at);
                return;
            }
            self.start_waiting_gets(now, link, memory, effects);
        }
    }
}
