//! The cluster map: fetched page by page from whoever answers, and again when somebody says that it is old.

use std::sync::Arc;

use placement::ClusterMap;
use wire::limits::{MAP_PAGE_BYTES, MAP_PAGES_MAX};
use wire::map::{MapUpdate, Standing, Store, Unit};
use wire::{MapNumber, Nanos};

use super::effect::{Done, Failure};
use super::request::{RequestId, State, Trouble, What};
use super::upkeep::Timer;
use super::{Context, Core};
use crate::error::UnavailableReason;

#[derive(Debug, Default)]
pub(super) struct Directory {
    map: Option<Arc<ClusterMap>>,
    fetch: Option<RequestId>,
    /// Of the map whose pages are coming.
    number: MapNumber,
    page: u32,
    bytes: Vec<u8>,
    /// Whom to ask next, as an index into the candidates.
    candidate: usize,
    /// Somebody who has just talked to us: asked before all others.
    lively: Option<Arc<str>>,
    /// A refresh is not begun before.
    not_before: Nanos,
}

/// A page of the map, as it arrived.
pub(super) struct MapPage<'a> {
    pub(super) number: MapNumber,
    pub(super) page: u32,
    pub(super) pages: u32,
    pub(super) bytes: &'a [u8],
}

impl Core {
    pub(super) fn map(&self) -> Option<Arc<ClusterMap>> {
        self.directory.map.clone()
    }

    pub(super) fn any_endpoint(&self) -> Arc<str> {
        Arc::clone(&self.settings.endpoints[0])
    }

    /// Somebody has, or may have, a newer map.
    pub(super) fn refresh_map(&mut self, cx: &mut Context<'_>) {
        if self.directory.fetch.is_some() || self.is_shut {
            return;
        }
        if cx.now < self.directory.not_before {
            self.timers.set(Timer::Directory, self.directory.not_before);
            return;
        }
        self.directory.not_before = cx.now.after(REFRESH_PAUSE);
        self.timers.clear(Timer::Directory);
        self.restart_fetch();
        self.directory.lively = self.links.lively(cx.now, LIVELY);
        if self.links.is_owed(&self.map_candidate()) {
            self.skip_owed_candidates();
        }
        let deadline =
            if self.directory.map.is_some() { cx.now.after(REFRESH_PATIENCE) } else { Nanos(u64::MAX) };
        self.directory.fetch = Some(self.begin(cx, None, What::MapPage, deadline));
    }

    pub(super) fn await_map(&mut self, cx: &mut Context<'_>, id: RequestId) {
        self.requests.get(id).expect("the caller has it").state = State::AwaitMap;
        self.refresh_map(cx);
    }

    /// Whether the map on the wire is newer than ours.
    pub(super) fn note_map_number(&mut self, cx: &mut Context<'_>, number: MapNumber) {
        if self.directory.map.as_ref().is_some_and(|map| map.number() < number) {
            self.refresh_map(cx);
        }
    }

    pub(super) fn map_have(&self) -> MapNumber {
        self.directory.map.as_ref().map_or(MapNumber(0), |map| map.number())
    }

    pub(super) fn map_page_wanted(&self) -> u32 {
        self.directory.page
    }

    /// Whom to ask for the map now: who has just answered something else, the endpoints, and whoever the map itself names, logs first.
    pub(super) fn map_candidate(&self) -> Arc<str> {
        if let Some(lively) = &self.directory.lively {
            return Arc::clone(lively);
        }
        let endpoints = &self.settings.endpoints;
        let members = self.directory.map.iter().flat_map(|map| logs(map).chain(shards(map)));
        let count = endpoints.len() + members.clone().count();
        let index = self.directory.candidate % count;
        endpoints.get(index).cloned().unwrap_or_else(|| {
            let member = members.clone().nth(index - endpoints.len()).expect("counted");
            Arc::from(member.address.as_str())
        })
    }

    /// The candidate failed: pages of the next one begin anew.
    pub(super) fn next_map_candidate(&mut self) {
        let failed = self.map_candidate();
        if self.directory.lively.take().is_none() {
            self.directory.candidate = self.directory.candidate.wrapping_add(1);
        }
        // An endpoint that the map names as well would be asked twice.
        if self.map_candidate() == failed {
            self.directory.candidate = self.directory.candidate.wrapping_add(1);
        }
        self.skip_owed_candidates();
        self.restart_fetch();
    }

    /// A machine that says nothing has several addresses, each of which would be waited for.
    fn skip_owed_candidates(&mut self) {
        if self.directory.lively.is_some() {
            return;
        }
        let (map, endpoints) = (&self.directory.map, self.settings.endpoints.len());
        let count = endpoints + map.iter().flat_map(|map| logs(map).chain(shards(map))).count();
        let start = self.directory.candidate;
        for step in 0..count {
            self.directory.candidate = start.wrapping_add(step);
            if !self.links.is_owed(&self.map_candidate()) {
                return;
            }
        }
        self.directory.candidate = start;
    }

    /// Whether nobody needs the map that is being fetched for the first time.
    pub(super) fn is_map_unwanted(&mut self) -> bool {
        self.directory.map.is_none() && self.requests.in_state(State::AwaitMap).is_empty()
    }

    /// The fetch is over, one way or another.
    pub(super) fn on_map_fetch_end(&mut self, id: RequestId) {
        if self.directory.fetch == Some(id) {
            self.directory.fetch = None;
            self.directory.bytes = Vec::new();
        }
    }

    /// Callers that wait for the map learn at their deadline what the fetch met.
    pub(super) fn note_map_trouble(&mut self, trouble: &Trouble) {
        for id in self.requests.in_state(State::AwaitMap) {
            self.requests.get(id).expect("listed").trouble = trouble.clone();
        }
    }

    pub(super) fn on_map_page(&mut self, cx: &mut Context<'_>, id: RequestId, page: &MapPage<'_>) {
        if page.pages == 0 && self.directory.map.is_some() {
            self.finish(cx, id, Err(Failure::Unknown));
            return;
        }
        let is_expected = page.page == self.directory.page
            && page.page < page.pages
            && page.pages <= MAP_PAGES_MAX
            && page.bytes.len() <= MAP_PAGE_BYTES
            && (page.page == 0 || page.number == self.directory.number);
        if !is_expected {
            // The map changed between two pages, or the sender talks nonsense.
            self.next_map_candidate();
            self.retry(cx, id, 0);
            return;
        }
        self.directory.number = page.number;
        self.directory.page += 1;
        self.directory.bytes.extend_from_slice(page.bytes);
        if self.directory.page < page.pages {
            self.wake(id);
            return;
        }
        let bytes = std::mem::take(&mut self.directory.bytes);
        let known = self.directory.map.as_ref();
        let update = MapUpdate::decode(&bytes).ok();
        let map = update.and_then(|update| update.apply(known.map(|map| map.as_map())).ok());
        let map = map.and_then(|map| ClusterMap::new(map).ok());
        let known = known.map(|map| map.cluster());
        match map {
            Some(map) if known.is_none_or(|known| known == map.cluster()) => {
                let is_news = self.install_map(Arc::new(map));
                self.finish(cx, id, Err(Failure::Unknown));
                if is_news {
                    self.reroute(cx);
                }
            }
            other => {
                let reason = match other {
                    Some(_) => UnavailableReason::WrongCluster,
                    None => UnavailableReason::Protocol,
                };
                self.note_map_trouble(&Trouble::Unavailable(self.map_candidate(), reason));
                self.next_map_candidate();
                self.retry(cx, id, 0);
            }
        }
    }

    /// Takes a map; whether it is a newer one.
    fn install_map(&mut self, map: Arc<ClusterMap>) -> bool {
        let is_news = self.directory.map.as_ref().is_none_or(|known| known.number() < map.number());
        if is_news {
            self.directory.map = Some(map);
        }
        for id in self.requests.in_state(State::AwaitMap) {
            self.wake(id);
        }
        is_news
    }

    fn restart_fetch(&mut self) {
        self.directory.page = 0;
        self.directory.bytes.clear();
    }

    pub(super) fn answer_map(&mut self, cx: &mut Context<'_>, id: RequestId) {
        match self.map() {
            Some(map) => self.finish(cx, id, Ok(Done::Map(map))),
            None => self.await_map(cx, id),
        }
    }
}

/// Stores of the groups' chains, whose ports answer for the map as any other.
fn logs(map: &ClusterMap) -> impl Iterator<Item = &Store> + Clone {
    let map = map.as_map();
    let members = map.groups.iter().flat_map(|group| group.chain.members.iter());
    members.map(|member| &map.stores[usize::from(member.store)])
}

/// The other stores that are members of something.
fn shards(map: &ClusterMap) -> impl Iterator<Item = &Store> + Clone {
    let is_shard =
        |store: &&Store| matches!(store.unit, Unit::Shard(_)) && store.standing == Standing::Member;
    map.as_map().stores.iter().filter(is_shard)
}

/// Whoever has said something in this time is likely to answer.
const LIVELY: u64 = Nanos::SECOND / 2;
/// Between two refreshes, at least: a chain that moves answers `WrongEpoch` to a whole window at once.
const REFRESH_PAUSE: u64 = 100 * Nanos::MILLISECOND;
/// How long a refresh is tried before it waits for the next occasion.
const REFRESH_PATIENCE: u64 = 10 * Nanos::SECOND;
