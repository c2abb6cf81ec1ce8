//! Chunks that are damaged here, or that nobody could supply, and what other replicas offer: each is fetched from another store.
//!
//! A damaged chunk is fetched again and again, with pauses that double, until a good copy is here or the chunk is deleted (R10). One that a joiner didn't get anywhere
//! is looked for at every store of its chain, whatever its state (R9).

use std::collections::BTreeMap;

use wire::message::ChunkRecord;
use wire::{ChunkId, Memory, Nanos, StoreId};

use super::fetch::{Fetch, Fetched, NotBegun, Why};
use crate::effects::Effects;
use crate::shard::Shard;

/// Chunks that wait for repair; beyond it the next look at what is damaged finds them.
const REPAIRS_MAX: usize = 4096;
/// Offered chunks that wait; beyond it offers are answered `Busy`.
pub(crate) const OFFERED_MAX: usize = 16_384;
/// Repairs under way at once.
const REPAIRS_AT_ONCE: usize = 4;
/// The pause after the first attempt; it doubles with each further one, up to the second.
const PAUSE_NANOS: u64 = 200 * Nanos::MILLISECOND;
const PAUSE_NANOS_MAX: u64 = 300 * Nanos::SECOND;
/// Attempts to fetch what was offered.
const OFFER_ATTEMPTS: u32 = 5;
/// What the store knows to be damaged is looked through this often.
const LOOK_NANOS: u64 = 10 * Nanos::SECOND;

/// One chunk to mend.
#[derive(Clone, Copy, Debug)]
struct Repair {
    /// Of a chunk that isn't here: what it has to be.
    missing: Option<ChunkRecord>,
    attempts: u32,
    due: Nanos,
    is_fetching: bool,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Repairs {
    chunks: BTreeMap<ChunkId, Repair>,
    look_at: Nanos,
}

impl Repairs {
    pub(crate) fn len(&self) -> usize {
        self.chunks.len()
    }

    /// A chunk was found damaged here.
    pub(crate) fn add_damaged(&mut self, now: Nanos, id: ChunkId) {
        self.add(now, id, None);
    }

    /// No Serving replica had it.
    pub(crate) fn add_missing(&mut self, now: Nanos, record: ChunkRecord) {
        self.add(now, record.id, Some(record));
    }

    fn add(&mut self, now: Nanos, id: ChunkId, missing: Option<ChunkRecord>) {
        if self.chunks.len() < REPAIRS_MAX {
            let new = Repair { missing, attempts: 0, due: now, is_fetching: false };
            self.chunks.entry(id).or_insert(new);
        }
    }

    /// Whether this chunk is looked for without being here.
    pub(crate) fn is_missing(&self, id: ChunkId) -> bool {
        self.chunks.get(&id).is_some_and(|repair| repair.missing.is_some())
    }

    /// A delete came.
    pub(crate) fn mark_dead(&mut self, id: ChunkId) {
        self.chunks.remove(&id);
    }

    pub(crate) fn on_fetched(&mut self, now: Nanos, id: ChunkId, end: Fetched) {
        let Some(repair) = self.chunks.get_mut(&id) else { return };
        repair.is_fetching = false;
        // Whether it is mended now, its next turn sees.
        repair.due = if end == Fetched::Settled && repair.attempts == 1 { now } else { repair.due };
    }
}

impl Shard {
    /// Begins the repairs that are due.
    pub(crate) fn advance_repairs(&mut self, now: Nanos, memory: &mut impl Memory, effects: &mut Effects) {
        if now >= self.sync.repairs.look_at && self.has_others() {
            self.sync.repairs.look_at = now.after(LOOK_NANOS);
            let damaged: Vec<ChunkId> = self.store.damaged().collect();
            for id in damaged {
                self.sync.repairs.add_damaged(now, id);
            }
        }
        let under_way = self.sync.repairs.chunks.values().filter(|repair| repair.is_fetching).count();
        let due: Vec<ChunkId> = self
            .sync
            .repairs
            .chunks
            .iter()
            .filter(|(_, repair)| !repair.is_fetching && repair.due <= now)
            .map(|(id, _)| *id)
            .take(REPAIRS_AT_ONCE.saturating_sub(under_way))
            .collect();
        for id in due {
            self.repair(now, id, memory, effects);
        }
        let waiting = self.sync.repairs.chunks.values().filter(|repair| !repair.is_fetching);
        if let Some(at) = waiting.map(|repair| repair.due).filter(|at| *at > now).min() {
            self.sync.want(at);
        }
    }

    fn repair(&mut self, now: Nanos, id: ChunkId, memory: &mut impl Memory, effects: &mut Effects) {
        let Some(repair) = self.sync.repairs.chunks.get(&id).copied() else { return };
        let here = self.store.find(id).filter(|_| !self.store.is_damaged(id));
        if here.is_some() || self.sync.dead.holds(id) {
            self.sync.repairs.chunks.remove(&id);
            return;
        }
        let own = self.store.find(id).map(|entry| ChunkRecord { id, length: entry.length, root: entry.root });
        let Some(record) = own.or(repair.missing) else {
            self.sync.repairs.chunks.remove(&id);
            return;
        };
        let others = self.sources_for_repair(id);
        let from = others.get(repair.attempts as usize % others.len().max(1)).copied();
        let begun = match from {
            Some(from) => self.begin_fetch(now, record, from, Why::Repair, memory, effects),
            None => Err(NotBegun::Unreachable),
        };
        if begun == Err(NotBegun::Later) {
            return;
        }
        if let Some(repair) = self.sync.repairs.chunks.get_mut(&id) {
            repair.is_fetching = begun.is_ok();
            repair.attempts = repair.attempts.saturating_add(1);
            repair.due = now.after((PAUSE_NANOS << repair.attempts.min(20)).min(PAUSE_NANOS_MAX));
        }
    }

    /// Who may have a good copy: those that serve first, then every other member of the chain.
    fn sources_for_repair(&self, id: ChunkId) -> Vec<StoreId> {
        let Some(map) = self.map() else { return Vec::new() };
        let route = map.route(id);
        let mut others: Vec<StoreId> = route.readers().map(|store| store.store).collect();
        let stores = &map.as_map().stores;
        let members = route.members.iter().map(|member| stores[usize::from(member.store)].store);
        let further: Vec<StoreId> = members.filter(|store| !others.contains(store)).collect();
        others.extend(further);
        others.retain(|store| *store != self.identity.store);
        others
    }

    /// Fetches what was offered.
    pub(crate) fn advance_offers(&mut self, now: Nanos, memory: &mut impl Memory, effects: &mut Effects) {
        while let Some((&id, &Offered { record, from, .. })) =
            self.sync.offered.iter().find(|(_, offered)| offered.due <= now && !offered.is_fetching)
        {
            if self.store.find(id).is_some() {
                self.sync.offered.remove(&id);
                continue;
            }
            let begun = self.begin_fetch(now, record, from, Why::Offer, memory, effects);
            if begun == Err(NotBegun::Later) {
                break;
            }
            if let Some(offered) = self.sync.offered.get_mut(&id) {
                offered.is_fetching = begun.is_ok();
                offered.attempt(now);
            }
            self.sync.offered.retain(|_, offered| offered.is_fetching || offered.attempts <= OFFER_ATTEMPTS);
        }
        let waiting = self.sync.offered.values().filter(|offered| !offered.is_fetching);
        if let Some(at) = waiting.map(|offered| offered.due).filter(|at| *at > now).min() {
            self.sync.want(at);
        }
    }

    pub(super) fn on_offer_fetched(&mut self, fetch: &Fetch, end: Fetched) {
        let id = fetch.record.id;
        if end != Fetched::Later {
            self.sync.offered.remove(&id);
        } else if let Some(offered) = self.sync.offered.get_mut(&id) {
            offered.is_fetching = false;
            self.sync.offered.retain(|_, offered| offered.attempts <= OFFER_ATTEMPTS);
        }
    }
}

/// A chunk that another replica offers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Offered {
    record: ChunkRecord,
    from: StoreId,
    attempts: u32,
    due: Nanos,
    is_fetching: bool,
}

impl Offered {
    pub(crate) fn new(now: Nanos, record: ChunkRecord, from: StoreId) -> Self {
        Self { record, from, attempts: 0, due: now, is_fetching: false }
    }

    fn attempt(&mut self, now: Nanos) {
        self.attempts += 1;
        self.due = now.after(PAUSE_NANOS);
    }
}
