//! Comparing one slice with another replica, and bringing this one up to date.
//!
//! ```text
//!  Starts ─► AsksDigests ─► Compares ─┬─(all ranges are equal, the slice's end)─────────────────────────► done
//!    ▲                        ▲   ▲   └─(a range differs)─► AsksChunks ─► Listed ─► Fetches ─┐
//!    └──(no range is left)────┘   └────────────────────(what it lacks is here)──────────────┘
//! ```
//! Two kinds of work take these steps. A *joiner* (this store is Syncing) compares itself with any Serving replica and fetches whatever it lacks or has other bytes of; it
//! is done when everything that the source listed is here, or can't be had (R9). A *comparison* of two Serving replicas (R10) fetches only what the group in the id calls alive,
//! for nothing says which of the two is right.
//!
//! What only this store holds stays, until the group has said what it is (R2): dead is deleted, anything else is offered to the other replica. A group that can't be reached is asked
//! again later; a joiner doesn't wait for it.
//!
//! **Invariants.** A job belongs to one epoch of its chain: another one ends it, and what it has fetched makes the next one short. What is listed is compared with this
//! store's index as it is at that moment, and with the deletes that came since it was asked for (R23).

use std::collections::{BTreeMap, VecDeque};

use wire::message::{ChunkRecord, Request, SliceRange, SliceSpan};
use wire::planted::{Bug, planted};
use wire::{ChunkId, Epoch, Memory, Nanos, SliceIndex, StoreId};

use super::RETRY_NANOS;
use super::ask::Asked;
use super::fetch::{Fetch, Fetched, NotBegun, Why};
use super::question::{Kind, Question};
use crate::effects::{Effects, Purpose, Synced, Target};
use crate::shard::Shard;

/// Ranges of digests in one answer.
const RANGES_PER_ASK: u32 = 32;
/// Equal ranges in one turn, about 200 µs.
pub(super) const RANGES_PER_TURN: u32 = 16;
/// Chunks in one page of a listing.
const CHUNKS_PER_PAGE: u32 = 1024;
/// A page that waited so long for its comparison is asked for again.
const PAGE_NANOS: u64 = 30 * Nanos::SECOND;
/// Pauses after refusals double up to this.
const RETRY_NANOS_MAX: u64 = 2 * Nanos::SECOND;
/// A comparison that was refused so often is given up: the next pass, or the next map, makes another one.
const REFUSALS_MAX: u32 = 16;

/// A slice, and the store that it is compared with; `None`: a joiner's, with whatever source.
pub(crate) type JobKey = (SliceIndex, Option<StoreId>);

/// How far a job is.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Stage {
    /// Digests behind the cursor are to be asked for.
    Starts,
    AsksDigests,
    /// The first range is compared as soon as the own index has been walked.
    Compares,
    /// Chunks up to this id were asked for, then.
    AsksChunks(ChunkId, Nanos),
    /// Chunks up to this id are listed; asked for then.
    Listed(ChunkId, Nanos),
    /// What was found is fetched and asked about.
    Fetches,
}

/// A chunk to fetch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Want {
    record: ChunkRecord,
    /// Sources that couldn't supply it: a bit for each, by their order in the chain.
    tried: u8,
}

/// One slice's comparison.
#[derive(Debug)]
pub(crate) struct Job {
    epoch: Epoch,
    /// Tells it from earlier ones of its key.
    serial: u64,
    stage: Stage,
    /// Which of the chain's Serving stores is asked, modulo their number.
    source: usize,
    /// Everything up to this id is compared.
    cursor: Option<ChunkId>,
    ranges: VecDeque<SliceRange>,
    /// The last range ends the slice.
    is_last: bool,
    page: Vec<ChunkRecord>,
    wants: BTreeMap<ChunkId, Want>,
    fetching: u32,
    /// Questions whose answers it waits for.
    pub(super) questions: u32,
    missing: u64,
    retry_at: Nanos,
    refusals: u32,
}

impl Job {
    pub(crate) fn new(epoch: Epoch, serial: u64, source: usize) -> Self {
        Self {
            epoch,
            serial,
            stage: Stage::Starts,
            source,
            cursor: None,
            ranges: VecDeque::new(),
            is_last: false,
            page: Vec::new(),
            wants: BTreeMap::new(),
            fetching: 0,
            questions: 0,
            missing: 0,
            retry_at: Nanos(0),
            refusals: 0,
        }
    }

    pub(crate) fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// Bytes that it has found to be fetched.
    pub(crate) fn wanted_bytes(&self) -> u64 {
        self.wants.values().map(|want| u64::from(want.record.length)).sum()
    }

    /// A delete came.
    pub(crate) fn mark_dead(&mut self, id: ChunkId) {
        self.wants.remove(&id);
    }

    /// A chunk that the group calls alive is to be fetched.
    pub(super) fn want(&mut self, serial: u64, record: ChunkRecord) {
        if self.serial == serial {
            self.wants.insert(record.id, Want { record, tried: 0 });
        }
    }

    /// A question is answered, or not waited for any more.
    pub(super) fn answered(&mut self, serial: u64) {
        if self.serial == serial {
            self.questions -= 1;
        }
    }

    fn restart(&mut self) {
        self.stage = Stage::Starts;
        self.ranges.clear();
        self.page.clear();
    }
}

impl Shard {
    fn job(&mut self, key: JobKey, serial: u64) -> Option<&mut Job> {
        self.sync.jobs.get_mut(&key).filter(|job| job.serial == serial)
    }

    /// Takes a job as far as it goes now; true: it has ended.
    pub(crate) fn advance_job(
        &mut self,
        now: Nanos,
        key: JobKey,
        memory: &mut impl Memory,
        effects: &mut Effects,
    ) -> bool {
        while let Some(job) = self.sync.jobs.get(&key) {
            if job.retry_at > now {
                let at = job.retry_at;
                self.sync.want(at);
                return false;
            }
            let goes_on = match job.stage.clone() {
                Stage::Starts => self.ask_digests(now, key, effects),
                Stage::AsksDigests | Stage::AsksChunks(..) => false,
                Stage::Compares => match self.compare_range(now, key, effects) {
                    Some(goes_on) => goes_on,
                    None => return true,
                },
                Stage::Listed(last, asked_at) => self.compare_page(now, key, last, asked_at),
                Stage::Fetches => self.fetch_wants(now, key, memory, effects),
            };
            if !goes_on {
                return false;
            }
        }
        true
    }

    /// The Serving stores of a slice beside this one, in chain order.
    pub(crate) fn other_serving(&self, slice: SliceIndex) -> Vec<StoreId> {
        let Some(map) = self.map() else { return Vec::new() };
        let own = self.identity.store;
        map.route_of_slice(slice).readers().map(|store| store.store).filter(|store| *store != own).collect()
    }

    /// Where a job's questions go: the store of a comparison, or one of the sources, spread over the slices; none that is `tried`.
    fn source_of(&self, key: JobKey, tried: u8) -> Option<StoreId> {
        let sources = self.other_serving(key.0);
        let is_left = |place: &usize| tried & source_bit(*place) == 0;
        if let Some(store) = key.1 {
            let place = sources.iter().position(|source| *source == store)?;
            return Some(store).filter(|_| is_left(&place));
        }
        let first = self.sync.jobs.get(&key)?.source;
        let mut places = (0..sources.len()).map(|further| first.wrapping_add(further) % sources.len());
        places.find(is_left).map(|place| sources[place])
    }

    /// Sends a job's request; false: not now.
    fn ask_source(
        &mut self,
        now: Nanos,
        key: JobKey,
        request: &Request<'_>,
        asked: Asked,
        effects: &mut Effects,
    ) -> bool {
        let Some(job) = self.sync.jobs.get(&key) else { return false };
        let serial = job.serial;
        let Some(store) = self.source_of(key, 0) else {
            // A chain without another Serving store has nothing to compare with: a later map has, or ends this.
            self.put_off(now, key, serial);
            return false;
        };
        let target = Target { store, purpose: Purpose::Sync };
        if self.reach(now, target, effects).is_err() {
            self.put_off(now, key, serial);
            return false;
        }
        if self.peers.greeted(target).is_none() {
            self.sync.want(now.after(RETRY_NANOS));
            return false;
        }
        self.ask_peer(now, target, request, asked, effects);
        true
    }

    fn ask_digests(&mut self, now: Nanos, key: JobKey, effects: &mut Effects) -> bool {
        let Some(job) = self.sync.jobs.get(&key) else { return false };
        let span = SliceSpan { slice: key.0, epoch: job.epoch, after: job.cursor };
        let request = Request::SliceDigest { span, limit: RANGES_PER_ASK };
        let asked = Asked::Digests(key, job.serial);
        // The own walk can begin meanwhile.
        let _ = self.store.slice_reach(key.0, span.after);
        if self.ask_source(now, key, &request, asked, effects)
            && let Some(job) = self.sync.jobs.get_mut(&key)
        {
            job.stage = Stage::AsksDigests;
        }
        false
    }

    /// A source's digests have come.
    pub(super) fn on_digests(
        &mut self,
        now: Nanos,
        key: JobKey,
        serial: u64,
        ranges: &[SliceRange],
        end: bool,
    ) {
        let Some(job) = self.job(key, serial) else { return };
        let cursor = job.cursor;
        if ranges.first().is_none_or(|range| Some(range.last) <= cursor) {
            return self.put_off(now, key, serial);
        }
        (job.ranges, job.is_last, job.refusals) = (ranges.iter().copied().collect(), end, 0);
        job.stage = Stage::Compares;
        if planted(Bug::SyncSkipsFetching) {
            job.ranges.clear();
            job.is_last = true;
        }
    }

    /// Compares the first range; `None`: the job has ended.
    fn compare_range(&mut self, now: Nanos, key: JobKey, effects: &mut Effects) -> Option<bool> {
        let Some(job) = self.sync.jobs.get_mut(&key) else { return Some(false) };
        let Some(range) = job.ranges.front().copied() else {
            if job.is_last {
                self.end_job(key, effects);
                return None;
            }
            job.stage = Stage::Starts;
            return Some(true);
        };
        let (cursor, epoch, serial) = (job.cursor, job.epoch, job.serial);
        // Until the own index has been walked it waits.
        let Some(reach) = self.store.slice_reach(key.0, cursor) else { return Some(false) };
        let mut last = range.last;
        if reach < range.last {
            // More chunks are here than the catalog holds: as far as it reaches they are compared one by one.
            last = reach;
            if let Some(job) = self.sync.jobs.get_mut(&key) {
                job.ranges.clear();
                job.is_last = false;
            }
        } else if self.sync.compared >= RANGES_PER_TURN {
            self.sync.want(now);
            return Some(false);
        } else if self.store.slice_digest(key.0, cursor, range.last) == Some(range) {
            self.sync.compared += 1;
            let job = self.sync.jobs.get_mut(&key)?;
            job.cursor = Some(range.last);
            job.ranges.pop_front();
            return Some(true);
        }
        let span = SliceSpan { slice: key.0, epoch, after: cursor };
        let request = Request::SliceChunks { span, last, limit: CHUNKS_PER_PAGE };
        if self.ask_source(now, key, &request, Asked::Chunks(key, serial), effects)
            && let Some(job) = self.sync.jobs.get_mut(&key)
        {
            job.stage = Stage::AsksChunks(last, now);
        }
        Some(false)
    }

    /// A page of a source's chunks has come.
    pub(super) fn on_chunks(
        &mut self,
        now: Nanos,
        key: JobKey,
        serial: u64,
        chunks: &[ChunkRecord],
        end: bool,
    ) {
        let Some(job) = self.job(key, serial) else { return };
        let Stage::AsksChunks(asked, asked_at) = job.stage else { return };
        let cursor = job.cursor;
        let is_inside = chunks.first().is_none_or(|chunk| Some(chunk.id) > cursor)
            && chunks.last().is_none_or(|chunk| chunk.id <= asked);
        let last = if end { Some(asked) } else { chunks.last().map(|chunk| chunk.id) };
        let Some(last) = last.filter(|_| is_inside) else { return self.put_off(now, key, serial) };
        let is_slices =
            self.map().is_some_and(|map| chunks.iter().all(|chunk| map.slice_of(chunk.id) == key.0));
        let Some(job) = self.job(key, serial) else { return };
        if is_slices {
            job.page = chunks.to_vec();
            job.stage = Stage::Listed(last, asked_at);
        } else {
            self.put_off(now, key, serial);
        }
    }

    /// Compares a page with the own index.
    fn compare_page(&mut self, now: Nanos, key: JobKey, last: ChunkId, asked_at: Nanos) -> bool {
        let Some(job) = self.sync.jobs.get_mut(&key) else { return false };
        if now.since(asked_at) > PAGE_NANOS || !self.sync.dead.knows_since(asked_at) {
            job.stage = Stage::Compares;
            return true;
        }
        let (cursor, serial) = (job.cursor, job.serial);
        let Some(reach) = self.store.slice_reach(key.0, cursor) else { return false };
        let last = last.min(reach);
        let Some(own) = self.store.slice_records(key.0, cursor, last) else { return false };
        let own: Vec<ChunkRecord> = own.collect();
        let Some(job) = self.sync.jobs.get_mut(&key) else { return false };
        let page = std::mem::take(&mut job.page);
        job.cursor = Some(last);
        job.stage = Stage::Fetches;
        let Differences { lacking, differing, extra } =
            differences(page.iter().filter(|chunk| chunk.id <= last), &own);
        let is_joiner = key.1.is_none();
        let lacking = lacking
            .into_iter()
            .filter(|chunk| !self.sync.dead.holds(chunk.id) || planted(Bug::SyncRevivesDead));
        let mut questions = Vec::new();
        for record in lacking {
            if is_joiner {
                job.wants.insert(record.id, Want { record, tried: 0 });
            } else {
                questions.push((record, Kind::Lacking));
            }
        }
        self.sync.counters.differing += differing.len() as u64;
        if is_joiner {
            // R3: the copy of a Serving replica is the one that was acked.
            let wants = differing.into_iter().map(|record| (record.id, Want { record, tried: 0 }));
            job.wants.extend(wants);
        }
        questions.extend(extra.into_iter().map(|record| (record, Kind::Extra)));
        let with = self.source_of(key, 0).unwrap_or_default();
        for (record, kind) in questions {
            let question =
                Question { record, kind, with, slice: key.0, job: Some((key, serial)), since: now };
            self.put_question(now, question);
        }
        true
    }

    /// Fetches what was found, as far as limits allow; true: nothing is left of it.
    fn fetch_wants(
        &mut self,
        now: Nanos,
        key: JobKey,
        memory: &mut impl Memory,
        effects: &mut Effects,
    ) -> bool {
        while let Some(job) = self.sync.jobs.get(&key)
            && let Some(want) = job.wants.values().next().copied()
        {
            let serial = job.serial;
            let Some(from) = self.source_of(key, want.tried) else {
                self.give_up(now, key, want);
                continue;
            };
            match self.begin_fetch(now, want.record, from, Why::Job(key, serial, want.tried), memory, effects)
            {
                Ok(()) => {}
                Err(NotBegun::Later) => break,
                Err(NotBegun::Unreachable) => {
                    self.take_another_source(now, key, serial);
                    break;
                }
            }
            if let Some(job) = self.sync.jobs.get_mut(&key) {
                job.wants.remove(&want.record.id);
                job.fetching += 1;
                job.refusals = 0;
            }
        }
        let Some(job) = self.sync.jobs.get_mut(&key) else { return false };
        if !job.wants.is_empty() || job.fetching > 0 || job.questions > 0 {
            return false;
        }
        if job.ranges.front().is_some_and(|range| job.cursor >= Some(range.last)) {
            job.ranges.pop_front();
        }
        job.stage = Stage::Compares;
        true
    }

    /// R9: no Serving member can supply this chunk. It is told, and tried again later; the joiner doesn't wait for it.
    fn give_up(&mut self, now: Nanos, key: JobKey, want: Want) {
        if let Some(job) = self.sync.jobs.get_mut(&key) {
            job.wants.remove(&want.record.id);
            if key.1.is_none() {
                job.missing += 1;
            }
        }
        self.sync.repairs.add_missing(now, want.record);
        self.sync.wake();
    }

    /// A job's chunk was fetched, or wasn't.
    pub(super) fn on_job_fetched(
        &mut self,
        now: Nanos,
        key: JobKey,
        serial: u64,
        (fetch, tried): (&Fetch, u8),
        end: Fetched,
    ) {
        let place = self.other_serving(key.0).iter().position(|source| *source == fetch.from);
        let Some(job) = self.job(key, serial) else { return };
        job.fetching -= 1;
        match end {
            Fetched::Settled => {}
            Fetched::Unusable => {
                let tried = tried | place.map_or(0, source_bit);
                job.wants.insert(fetch.record.id, Want { record: fetch.record, tried });
            }
            Fetched::Later => {
                job.wants.insert(fetch.record.id, Want { record: fetch.record, tried });
                self.take_another_source(now, key, serial);
            }
        }
    }

    /// A source can't supply anything now: another one is asked, after a pause.
    fn take_another_source(&mut self, now: Nanos, key: JobKey, serial: u64) {
        // All that a lost connection takes with it counts once.
        let Some(job) = self.job(key, serial).filter(|job| job.retry_at <= now) else { return };
        job.source = job.source.wrapping_add(1);
        job.refusals += 1;
        job.retry_at = now.after((RETRY_NANOS << job.refusals.min(8)).min(RETRY_NANOS_MAX));
        let (at, refusals) = (job.retry_at, job.refusals);
        self.sync.want(at);
        if key.1.is_some() && refusals > REFUSALS_MAX {
            self.sync.jobs.remove(&key);
        }
    }

    /// A source can't answer now: what it was asked is asked again.
    pub(super) fn put_off(&mut self, now: Nanos, key: JobKey, serial: u64) {
        let Some(job) = self.job(key, serial) else { return };
        job.restart();
        self.take_another_source(now, key, serial);
    }

    fn end_job(&mut self, key: JobKey, effects: &mut Effects) {
        let Some(job) = self.sync.jobs.remove(&key) else { return };
        self.sync.wake();
        if key.1.is_some() {
            self.sync.counters.comparisons += 1;
            return;
        }
        let synced = Synced { slice: key.0, epoch: job.epoch, missing: job.missing };
        self.sync.done.insert(key.0, synced);
        effects.synced.push(synced);
    }
}

/// A source's bit in [`Want::tried`].
fn source_bit(place: usize) -> u8 {
    1 << place.min(7)
}

/// What two replicas have of a range.
#[derive(Debug, Default, PartialEq, Eq)]
struct Differences {
    /// Only the other one has it.
    lacking: Vec<ChunkRecord>,
    /// Both have it, with other bytes: the other one's.
    differing: Vec<ChunkRecord>,
    /// Only this one has it.
    extra: Vec<ChunkRecord>,
}

/// Both in order of the ids.
fn differences<'a>(theirs: impl Iterator<Item = &'a ChunkRecord>, own: &[ChunkRecord]) -> Differences {
    let mut found = Differences::default();
    let mut own = own.iter().peekable();
    for chunk in theirs {
        while let Some(extra) = own.next_if(|mine| mine.id < chunk.id) {
            found.extra.push(*extra);
        }
        match own.next_if(|mine| mine.id == chunk.id) {
            Some(mine) if mine == chunk => {}
            Some(_) => found.differing.push(*chunk),
            None => found.lacking.push(*chunk),
        }
    }
    found.extra.extend(own);
    found
}

#[cfg(test)]
mod tests {
    use wire::SessionId;

    use super::*;

    #[test]
    fn differences_are_told_apart() {
        let record = |(ordinal, root): (u64, u64)| ChunkRecord {
            id: ChunkId { session: SessionId(1), ordinal },
            length: 9,
            root,
        };
        for (theirs, own, lacking, differing, extra) in [
            (vec![], vec![], vec![], vec![], vec![]),
            (vec![(1, 1), (3, 3)], vec![], vec![(1, 1), (3, 3)], vec![], vec![]),
            (vec![], vec![(1, 1)], vec![], vec![], vec![(1, 1)]),
            (
                vec![(1, 1), (3, 3), (5, 5)],
                vec![(0, 0), (1, 1), (2, 2), (3, 4), (9, 9)],
                vec![(5, 5)],
                vec![(3, 3)],
                vec![(0, 0), (2, 2), (9, 9)],
            ),
        ] {
            let list = |list: Vec<(u64, u64)>| list.into_iter().map(record).collect::<Vec<_>>();
            let found = differences(list(theirs).iter(), &list(own));
            let expected =
                Differences { lacking: list(lacking), differing: list(differing), extra: list(extra) };
            assert_eq!(found, expected);
        }
    }
}
