//! Chains that survive: a joiner is brought up to date (R1–R3, R9), Serving replicas are compared (R10), damage is mended.
//!
//! A store that the map says is Syncing compares each such slice with a Serving replica ([`job`]), fetches what it lacks ([`fetch`]), asks the group about what
//! only it has ([`question`]), and tells its driver when a slice is done ([`Effects::synced`]); writes go on meanwhile down the chain, through this store as
//! well. A Serving store answers such comparisons ([`source`]) and makes them itself, after each change of who serves and with each scrub pass. What is found damaged is fetched from
//! another store ([`repair`]).
//!
//! **What makes it safe.** (R1) A joiner compares itself only in an active epoch in which it acks: everything acked from then on is here by the chain. The source lists
//! only once whatever it admitted in lower epochs is on its disk or discarded, and it acks nothing of a lower epoch any more: everything acked before is listed. (R2) Nothing that is here is deleted
//! but by the group's word. (R23) A delete is remembered until nothing that was listed before it can arrive. (R9) What is fetched is verified before it is stored, and a chunk that can't be had
//! is told, not waited for.
//!
//! **What it may cost.** [`FETCHES_MAX`](fetch::FETCHES_MAX) chunks at once, a sixteenth of the arena for each direction, a rate that falls while clients wait ([`pace`]).

pub(crate) mod ask;
pub(crate) mod dead;
pub(crate) mod fetch;
pub(crate) mod job;
pub(crate) mod pace;
pub(crate) mod question;
pub(crate) mod repair;
pub(crate) mod source;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use wire::map::{Phase, ReplicaState};
use wire::message::{ChunkRecord, Request, StoreCondition};
use wire::{ChunkId, Memory, Nanos, SliceIndex, StoreId};

use self::ask::{Ask, Asked};
use self::dead::Dead;
use self::fetch::Fetches;
use self::job::{Job, JobKey};
use self::pace::{Pace, SyncSettings};
use self::question::Questions;
use self::repair::{Offered, Repairs};
use self::source::Listing;
use crate::effects::{Effects, Purpose, Synced, Target};
use crate::shard::Shard;

/// What can't be had now is tried again after this.
pub(crate) const RETRY_NANOS: u64 = 20 * Nanos::MILLISECOND;
/// Slices that a joiner works on at once.
const JOINS_AT_ONCE: usize = 8;
/// Slices that are compared with Serving replicas at once.
const COMPARES_AT_ONCE: usize = 2;
/// A further comparison of Serving replicas begins after this.
const COMPARE_NANOS: u64 = 10 * Nanos::MILLISECOND;
/// While the index is walked, a step is made this often.
const WALK_NANOS: u64 = Nanos::MILLISECOND;
/// Listings that nobody asked about for so long are given up.
const QUIET_NANOS: u64 = 60 * Nanos::SECOND;

/// How far a store is with being brought up to date, and what that took since its start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SyncProgress {
    /// Slices in which it is Syncing.
    pub slices: u64,
    /// Of these, those that are done.
    pub slices_done: u64,
    /// Chunks fetched and stored, for whatever reason.
    pub chunks: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Bytes still to fetch: what was found, and for each slice that wasn't compared yet as much as for one that was.
    pub bytes_left: u64,
    /// Chunks that no store could supply so far, and damaged ones that aren't mended yet.
    pub chunks_waiting: u64,
    /// Chunks that had other bytes here than at another replica (R3): each is an alarm.
    pub differing: u64,
    /// Chunks that only this store held, and that the group calls live (R2): each is an alarm.
    pub extras_live: u64,
    /// Chunks that only this store held, dead, and deleted here.
    pub extras_dead: u64,
    /// Fetched chunks whose bytes weren't what was listed.
    pub mismatches: u64,
    /// Chunks sent to other replicas, in bytes.
    pub bytes_served: u64,
    /// Comparisons with Serving replicas that came to their end.
    pub comparisons: u64,
}

/// What is counted.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct SyncCounters {
    pub(crate) chunks: u64,
    pub(crate) bytes: u64,
    pub(crate) differing: u64,
    pub(crate) extras_live: u64,
    pub(crate) extras_dead: u64,
    pub(crate) mismatches: u64,
    pub(crate) bytes_served: u64,
    pub(crate) comparisons: u64,
    pub(crate) questions_dropped: u64,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Sync {
    pub(crate) pace: Pace,
    /// Of what is read for other replicas.
    pub(crate) source_pace: Pace,
    pub(crate) jobs: BTreeMap<JobKey, Job>,
    serials: u64,
    /// Slices that are done, in the epoch that they are done in.
    pub(crate) done: BTreeMap<SliceIndex, Synced>,
    pub(crate) fetches: Fetches,
    pub(crate) asks: BTreeMap<u64, Ask>,
    pub(crate) last_ask: u64,
    pub(crate) questions: Questions,
    pub(crate) repairs: Repairs,
    /// What others offer, and where it is.
    pub(crate) offered: BTreeMap<ChunkId, Offered>,
    /// What is offered to others.
    pub(crate) offering: BTreeMap<(SliceIndex, StoreId), Vec<ChunkRecord>>,
    /// Dead chunks that only this store held, to be deleted.
    pub(crate) sweep: Vec<ChunkId>,
    pub(crate) dead: Dead,
    /// Comparisons that wait for their turn, and when the next may begin.
    compares: BTreeSet<JobKey>,
    compare_at: Nanos,
    /// Who serves the slices that this store serves, by the map before.
    serving: BTreeMap<SliceIndex, Vec<StoreId>>,
    /// Slices that this store is a member of, in order.
    slices: Vec<SliceIndex>,
    scrub_passes: u64,
    /// Connections of replicas whose gets wait for the rate.
    pub(crate) paced: VecDeque<crate::effects::Link>,
    /// Listings for others that wait for a walk.
    pub(crate) listings: VecDeque<Listing>,
    /// Looks at own copies under way.
    pub(crate) looks: u32,
    /// Ranges compared in this turn.
    pub(crate) compared: u32,
    /// Some chain of this store has another member.
    has_others: bool,
    /// Listings were wanted last.
    pub(crate) listed_at: Nanos,
    /// Something happened that may let something go on.
    pub(crate) wakes: bool,
    pub(crate) due: Option<Nanos>,
    pub(crate) counters: SyncCounters,
}

impl Default for Sync {
    fn default() -> Self {
        let settings = SyncSettings::default();
        Self {
            pace: Pace::new(settings),
            source_pace: Pace::new(settings),
            jobs: BTreeMap::new(),
            serials: 0,
            done: BTreeMap::new(),
            fetches: Fetches::default(),
            asks: BTreeMap::new(),
            last_ask: 0,
            questions: Questions::default(),
            repairs: Repairs::default(),
            offered: BTreeMap::new(),
            offering: BTreeMap::new(),
            sweep: Vec::new(),
            dead: Dead::default(),
            compares: BTreeSet::new(),
            compare_at: Nanos(0),
            serving: BTreeMap::new(),
            slices: Vec::new(),
            scrub_passes: 0,
            paced: VecDeque::new(),
            listings: VecDeque::new(),
            looks: 0,
            compared: 0,
            has_others: false,
            listed_at: Nanos(0),
            wakes: false,
            due: None,
            counters: SyncCounters::default(),
        }
    }
}

impl Sync {
    /// Something may go on now.
    pub(crate) fn wake(&mut self) {
        self.wakes = true;
    }

    /// Something may go on at this time.
    pub(crate) fn want(&mut self, at: Nanos) {
        self.due = Some(self.due.map_or(at, |known| known.min(at)));
    }

    fn start(&mut self, key: JobKey, epoch: wire::Epoch, source: usize) {
        self.serials += 1;
        self.jobs.insert(key, Job::new(epoch, self.serials, source));
    }
}

impl Shard {
    /// Sets how fast replicas are brought up to date.
    pub fn set_sync(&mut self, settings: SyncSettings) {
        self.sync.pace = Pace::new(settings);
        self.sync.source_pace = Pace::new(settings);
    }

    /// How far this store is with being brought up to date.
    pub fn sync_progress(&self) -> SyncProgress {
        let counters = &self.sync.counters;
        let joins = self.sync.jobs.iter().filter(|(key, _)| key.1.is_none());
        let (left, wanted) =
            joins.fold((0, 0), |(count, bytes), (_, job)| (count + 1, bytes + job.wanted_bytes()));
        let done = self.sync.done.len() as u64;
        let each = counters.bytes.checked_div(done).unwrap_or(0);
        SyncProgress {
            slices: left + done,
            slices_done: done,
            chunks: counters.chunks,
            bytes: counters.bytes,
            bytes_left: wanted.max(each.saturating_mul(left)),
            chunks_waiting: self.sync.repairs.len() as u64,
            differing: counters.differing,
            extras_live: counters.extras_live,
            extras_dead: counters.extras_dead,
            mismatches: counters.mismatches,
            bytes_served: counters.bytes_served,
            comparisons: counters.comparisons,
        }
    }

    /// A new map: jobs of epochs that have ended end, new ones begin, and what is done is told again.
    pub(crate) fn follow_sync(&mut self, effects: &mut Effects) {
        let Some(edition) = self.edition.clone() else { return };
        let map = edition.map();
        let own = self.identity.store;
        let is_first = self.sync.slices.is_empty();
        self.store.set_ring(u32::from(map.as_map().ring_bits));
        let joined = |slice: SliceIndex| {
            let route = map.route_of_slice(slice);
            let is_syncing = state_of(map, slice, own) == Some(ReplicaState::Syncing);
            (is_syncing && route.chain.phase == Phase::Active).then_some(route.epoch)
        };
        self.sync.slices = map.slices_of(own).collect();
        self.sync.has_others =
            self.sync.slices.iter().any(|slice| map.route_of_slice(*slice).members.len() > 1);
        self.sync.done.retain(|slice, synced| joined(*slice) == Some(synced.epoch));
        self.sync.jobs.retain(|(slice, with), job| {
            let route = map.route_of_slice(*slice);
            let serves = |store: StoreId| route.readers().any(|reader| reader.store == store);
            let goes_on = with.map_or(joined(*slice).is_some(), |with| serves(with) && serves(own));
            goes_on && job.epoch() == route.epoch
        });
        effects.synced.extend(self.sync.done.values());
        for slice in self.sync.slices.clone() {
            if let Some(epoch) = joined(slice)
                && !self.sync.done.contains_key(&slice)
                && !self.sync.jobs.contains_key(&(slice, None))
            {
                let source = usize::from(slice.0) + usize::from(self.identity.shard.0);
                self.sync.start((slice, None), epoch, source);
            }
        }
        self.follow_serving(is_first);
        self.sync.wake();
    }

    /// R10: Serving replicas are compared once their set has changed.
    fn follow_serving(&mut self, is_first: bool) {
        let Some(edition) = self.edition.clone() else { return };
        let (map, own) = (edition.map(), self.identity.store);
        let before = std::mem::take(&mut self.sync.serving);
        for slice in self.sync.slices.clone() {
            let route = map.route_of_slice(slice);
            let serving: Vec<StoreId> = route.readers().map(|store| store.store).collect();
            if !serving.contains(&own) || route.chain.phase != Phase::Active {
                if let Some(known) = before.get(&slice).filter(|_| serving.contains(&own)) {
                    self.sync.serving.insert(slice, known.clone());
                }
                continue;
            }
            if !is_first && before.get(&slice) != Some(&serving) {
                let others = serving.iter().filter(|store| **store != own);
                self.sync.compares.extend(others.map(|store| (slice, Some(*store))));
            }
            self.sync.serving.insert(slice, serving);
        }
    }

    /// All slices that this store serves are to be compared with the others that serve them.
    pub(crate) fn compare_everything(&mut self) {
        let own = self.identity.store;
        for (slice, serving) in &self.sync.serving {
            let others = serving.iter().filter(|store| **store != own);
            self.sync.compares.extend(others.map(|store| (*slice, Some(*store))));
        }
        self.sync.wake();
    }

    /// A slice that this store serves is to be compared.
    pub(crate) fn compare_slice(&mut self, slice: SliceIndex) {
        let others = self.other_serving(slice);
        self.sync.compares.extend(others.into_iter().map(|store| (slice, Some(store))));
        self.sync.wake();
    }

    /// Whether some chain has another member than this store.
    pub(crate) fn has_others(&self) -> bool {
        self.sync.has_others
    }

    /// Takes everything as far as it goes now. Cheap where nothing happened.
    pub(crate) fn advance_sync(&mut self, now: Nanos, memory: &mut impl Memory, effects: &mut Effects) {
        let is_due = self.sync.due.is_some_and(|at| at <= now);
        let has_scrubbed = self.store.scrub_passes() != self.sync.scrub_passes;
        let serves = self.condition == StoreCondition::Serving && !self.ending;
        if is_due {
            // Not kept, whatever follows: a deadline that has passed would come again and again.
            self.sync.due = None;
        }
        if !(is_due || self.sync.wakes || has_scrubbed) || !serves {
            return;
        }
        self.sync.wakes = false;
        self.sync.compared = 0;
        self.give_up_unanswered(now, memory, effects);
        self.begin_compares(now);
        self.advance_jobs(now, memory, effects);
        if self.store.walks_slices() {
            self.walk();
            self.advance_jobs(now, memory, effects);
        }
        self.answer_listings(now, effects);
        self.ask_questions(now, effects);
        self.send_offers(now, effects);
        self.sweep(now, memory, effects);
        self.advance_repairs(now, memory, effects);
        self.advance_offers(now, memory, effects);
        self.pump_fetched(now, memory, effects);
        self.tend_peers(now, memory, effects);
        self.rest(now);
        if let Some(at) = self.sync.due {
            effects.want_tick(at);
        }
    }

    fn advance_jobs(&mut self, now: Nanos, memory: &mut impl Memory, effects: &mut Effects) {
        let (mut joins, mut compares) = (JOINS_AT_ONCE, COMPARES_AT_ONCE);
        let mut after: Option<JobKey> = None;
        while joins + compares > 0 {
            let from = after.map_or(std::ops::Bound::Unbounded, std::ops::Bound::Excluded);
            let next = self.sync.jobs.range((from, std::ops::Bound::Unbounded)).next().map(|(key, _)| *key);
            let Some(key) = next else { break };
            after = Some(key);
            let places = if key.1.is_none() { &mut joins } else { &mut compares };
            if *places == 0 {
                continue;
            }
            *places -= 1;
            if self.advance_job(now, key, memory, effects) {
                let places = if key.1.is_none() { &mut joins } else { &mut compares };
                *places += 1;
            }
        }
    }

    fn walk(&mut self) {
        let wanted = self.sync.jobs.keys().map(|(slice, _)| *slice);
        let after = self.sync.listings.front().map(Listing::slice);
        let following =
            self.sync.slices.iter().copied().filter(|slice| after.is_some_and(|after| *slice > after));
        let ahead: Vec<SliceIndex> = wanted.chain(following).collect();
        let count = self.sync.slices.len();
        self.store.walk_slices(ahead.into_iter(), count);
    }

    fn begin_compares(&mut self, now: Nanos) {
        let passes = self.store.scrub_passes();
        if std::mem::replace(&mut self.sync.scrub_passes, passes) != passes {
            self.compare_everything();
        }
        let under_way = self.sync.jobs.keys().filter(|key| key.1.is_some()).count();
        if under_way < COMPARES_AT_ONCE
            && now >= self.sync.compare_at
            && let Some(key) = self.sync.compares.pop_first()
        {
            self.sync.compare_at = now.after(COMPARE_NANOS);
            let epoch = self.map().map(|map| map.route_of_slice(key.0).epoch);
            let is_serving = self.other_serving(key.0).iter().any(|store| Some(*store) == key.1);
            let serves = self.sync.serving.contains_key(&key.0);
            if let Some(epoch) = epoch.filter(|_| is_serving && serves && !self.sync.jobs.contains_key(&key))
            {
                self.sync.start(key, epoch, 0);
            }
        }
        if !self.sync.compares.is_empty() {
            self.sync.want(self.sync.compare_at.max(now.after(Nanos::MILLISECOND)));
        }
    }

    /// Offers what the group calls alive to the replicas that lack it.
    fn send_offers(&mut self, now: Nanos, effects: &mut Effects) {
        let Some(edition) = self.edition.clone() else { return };
        for ((slice, store), mut chunks) in std::mem::take(&mut self.sync.offering) {
            chunks.retain(|chunk| self.store.find(chunk.id).is_some());
            chunks.sort_unstable();
            chunks.dedup_by_key(|chunk| chunk.id);
            let route = edition.map().route_of_slice(slice);
            let is_acker = route.ackers().any(|acker| acker.store == store);
            if chunks.is_empty() || !is_acker {
                continue;
            }
            let target = Target { store, purpose: Purpose::Sync };
            if self.reach(now, target, effects).is_err() || self.peers.greeted(target).is_none() {
                self.sync.offering.insert((slice, store), chunks);
                self.sync.want(now.after(RETRY_NANOS));
                continue;
            }
            for chunks in chunks.chunks(wire::limits::MESSAGE_CHUNKS_MAX) {
                let request = Request::OfferChunks { slice, epoch: route.epoch, chunks: chunks.to_vec() };
                self.ask_peer(now, target, &request, Asked::Offer, effects);
            }
        }
    }

    /// Deletes what the group has called dead and only this store held.
    pub(crate) fn sweep(&mut self, now: Nanos, memory: &mut impl Memory, effects: &mut Effects) {
        let mut ids = std::mem::take(&mut self.sync.sweep);
        ids.retain(|id| self.store.find(*id).is_some());
        for ids in ids.chunks(wire::limits::MESSAGE_CHUNKS_MAX) {
            self.sync.counters.extras_dead += ids.len() as u64;
            self.mark_dead(now, ids);
            self.store_sweep(now, ids, memory, effects);
        }
    }

    /// Chunks are deleted: nothing that is under way brings them back (R23).
    pub(crate) fn mark_dead(&mut self, now: Nanos, ids: &[ChunkId]) {
        if !self.has_others() {
            return;
        }
        let Some(edition) = self.edition.clone() else { return };
        for &id in ids {
            self.sync.dead.insert(now, id);
            self.sync.fetches.mark_dead(id);
            self.sync.repairs.mark_dead(id);
            self.sync.offered.remove(&id);
            self.drop_question(id);
            let slice = edition.map().slice_of(id);
            let jobs = self.sync.jobs.range_mut((slice, None)..=(slice, Some(StoreId([0xff; 16]))));
            jobs.for_each(|(_, job)| job.mark_dead(id));
        }
        self.sync.wake();
    }

    /// Where nothing is compared any more, the listings' memory is given back.
    fn rest(&mut self, now: Nanos) {
        if self.store.walks_slices() {
            self.sync.want(now.after(WALK_NANOS));
        }
        if !self.sync.jobs.is_empty() {
            self.sync.listed_at = now;
        }
        if self.store.listed_chunks() == 0 {
            return;
        }
        let until = self.sync.listed_at.after(QUIET_NANOS);
        if now >= until {
            self.store.forget_slices();
        } else {
            self.sync.want(until);
        }
    }
}

/// A store's state in a slice's chain.
pub(crate) fn state_of(
    map: &placement::ClusterMap,
    slice: SliceIndex,
    store: StoreId,
) -> Option<ReplicaState> {
    let stores = &map.as_map().stores;
    let route = map.route_of_slice(slice);
    let member = route.members.iter().find(|member| stores[usize::from(member.store)].store == store);
    member.map(|member| member.state)
}
