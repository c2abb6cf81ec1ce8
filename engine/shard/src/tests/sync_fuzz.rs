//! Chains that lose members and get them back, emptied or with an old state, under random orders, lost connections, rot, deletes and an absent group, while clients write:
//! nothing acked is lost, whoever serves has all of it, what is dead goes, and everything ends.
//!
//! Control is a model: it prepares an epoch, waits until its members follow the map, and activates it.

use std::collections::{BTreeMap, BTreeSet};

use journal::fake_disk::Random;
use wire::map::ReplicaState::{Offline, Serving, Syncing};
use wire::map::{Phase, ReplicaState};
use wire::message::{GetChunk, Request};
use wire::meta::ChunkState;
use wire::{ChunkId, Nanos, Status};

use super::bench::{Chunk, content, id};
use super::world::{Links, World, links_map};
use crate::Synced;

const SITES: usize = 4;
const CHAINS: [[usize; 3]; 4] = [[0, 1, 2], [1, 2, 3], [2, 3, 0], [3, 0, 1]];
const RING_BITS: u32 = 2;
const CHUNKS: u64 = 40;
const ROUNDS: u64 = 260;
/// Of one run; `CATENA_SYNC_SEEDS` runs more of them.
#[cfg(not(planted))]
const SEEDS: u64 = 40;

/// A chunk with the two contents that a careless client may send under its id (R3).
struct Item {
    contents: [Chunk; 2],
    /// Correlation id, content and epoch of the attempt under way.
    attempt: Option<(u64, usize)>,
    /// The content that was acked.
    acked: Option<usize>,
    /// The group has reclaimed it, or its session is closed.
    is_dead: bool,
    /// Members that have acked its delete, in this epoch.
    deleted_at: (u64, BTreeSet<usize>),
    deletes: BTreeMap<u64, (u64, usize)>,
}

impl Item {
    fn id(&self) -> ChunkId {
        self.contents[0].id
    }

    fn slice(&self) -> usize {
        usize::from(wire::slice_of(self.id(), RING_BITS).0)
    }
}

pub(super) struct Run {
    world: World,
    random: Random,
    items: Vec<Item>,
    chains: Vec<Links>,
    number: u64,
    /// The map that each site follows.
    follows: [u64; SITES],
    correlations: u64,
    /// What sites said of being in sync.
    reports: BTreeMap<(wire::SliceIndex, usize), Synced>,
    /// Copies that went bad, and where they were.
    rotten: Vec<(usize, ChunkId, journal::Place)>,
    counts: BTreeMap<&'static str, u64>,
    is_ending: bool,
}

impl Run {
    pub(super) fn new(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let memory = [0, 64 << 20, 24 << 20][usize::try_from(random.below(3)).unwrap()];
        let mut world = World::new(SITES, memory);
        let members = |chain: &[usize; 3]| chain.iter().map(|site| (*site, Serving)).collect();
        let chains: Vec<Links> = CHAINS
            .iter()
            .map(|chain| Links { epoch: 1, phase: Phase::Active, members: members(chain) })
            .collect();
        world.set_map(&links_map(1, SITES, &chains));
        let items = (1..=CHUNKS).map(|number| {
            let length = [1, 5_000, 70_000, 300_000][usize::try_from(random.below(4)).unwrap()];
            let other = Chunk::of(id(number), content(number + 1000, length));
            Item {
                contents: [Chunk::new(number, length), other],
                attempt: None,
                acked: None,
                is_dead: false,
                deleted_at: (0, BTreeSet::new()),
                deletes: BTreeMap::new(),
            }
        });
        let items = items.collect();
        Self {
            world,
            items,
            random,
            chains,
            number: 1,
            follows: [1; SITES],
            correlations: 0,
            reports: BTreeMap::new(),
            rotten: Vec::new(),
            counts: BTreeMap::new(),
            is_ending: false,
        }
    }

    fn count(&mut self, what: &'static str) {
        *self.counts.entry(what).or_default() += 1;
    }

    fn pick(&mut self, bound: usize) -> usize {
        usize::try_from(self.random.below(bound as u64)).unwrap()
    }

    fn member(&self, slice: usize, site: usize) -> Option<ReplicaState> {
        self.chains[slice].members.iter().find(|(member, _)| *member == site).map(|(_, state)| *state)
    }

    fn sites_in(&self, slice: usize, fits: impl Fn(ReplicaState) -> bool) -> Vec<usize> {
        let members = self.chains[slice].members.iter();
        members.filter(|(_, state)| fits(*state)).map(|(site, _)| *site).collect()
    }

    /// A site gets the newest map.
    fn tell(&mut self, site: usize) {
        if self.follows[site] < self.number {
            self.follows[site] = self.number;
            let map = links_map(self.number, SITES, &self.chains);
            self.world.set_map_of(site, &map);
        }
    }

    /// Everybody may hear of the newest map, in some order, with other things between.
    fn spread(&mut self) {
        let first = self.pick(SITES);
        for site in 0..SITES {
            if self.random.chance(70) {
                self.tell((first + site) % SITES);
            }
            for _ in 0..self.random.below(4) {
                self.world.step(&mut self.random);
            }
        }
    }

    /// R5: the epoch is prepared, its members promise it, and then it is active.
    fn reconfigure(&mut self, slice: usize, change: impl Fn(&mut Vec<(usize, ReplicaState)>)) {
        self.count("epochs");
        let chain = &mut self.chains[slice];
        change(&mut chain.members);
        chain.epoch += 1;
        chain.phase = Phase::Prepared;
        self.number += 1;
        self.spread();
        for site in self.sites_in(slice, ReplicaState::acks) {
            self.tell(site);
        }
        self.chains[slice].phase = Phase::Active;
        self.number += 1;
        self.spread();
    }

    fn set_state(&mut self, slice: usize, site: usize, state: ReplicaState) {
        self.reconfigure(slice, |members| {
            members.iter_mut().filter(|(member, _)| *member == site).for_each(|(_, known)| *known = state);
            // Whoever serves stands before whoever doesn't.
            members.sort_by_key(|(_, state)| *state);
        });
    }

    /// Whether every slice that the site serves has another one that does, and nothing rotten counts on it.
    fn may_leave(&self, site: usize) -> bool {
        let is_spare = |slice: usize| {
            self.member(slice, site) != Some(Serving)
                || self.sites_in(slice, |state| state == Serving).len() > 1
        };
        self.rotten.is_empty() && (0..CHAINS.len()).all(is_spare)
    }

    /// A site's process ends; control takes it out of its chains, and it comes back with what it had, or with nothing.
    fn restart(&mut self, site: usize) {
        if !self.may_leave(site) {
            return;
        }
        let is_emptied = self.random.chance(40);
        self.count(if is_emptied { "emptied" } else { "restarted" });
        self.world.sites[site].is_stuck = false;
        self.world.restart(site, is_emptied);
        self.follows[site] = u64::MAX;
        for slice in 0..CHAINS.len() {
            if self.member(slice, site).is_some_and(ReplicaState::acks) {
                self.set_state(slice, site, Offline);
            }
        }
        self.follows[site] = 0;
        self.tell(site);
    }

    /// Control follows what the shards say, and brings members back.
    fn control(&mut self) {
        for site in 0..SITES {
            for synced in std::mem::take(&mut self.world.sites[site].synced) {
                assert!(synced.missing == 0 || !self.rotten.is_empty(), "nothing is rotten: {synced:?}");
                self.reports.insert((synced.slice, site), synced);
            }
        }
        for ((_, site), synced) in self.reports.clone() {
            let slice = usize::from(synced.slice.0);
            let stands = self.chains[slice].epoch == synced.epoch.0
                && self.member(slice, site) == Some(Syncing)
                && self.chains[slice].phase == Phase::Active;
            if stands && self.random.chance(70) {
                self.count("synced");
                let members = &mut self.chains[slice].members;
                members
                    .iter_mut()
                    .filter(|(member, _)| *member == site)
                    .for_each(|(_, state)| *state = Serving);
                self.number += 1;
                self.spread();
            }
        }
        let slice = self.pick(CHAINS.len());
        let offline = self.sites_in(slice, |state| state == Offline);
        if !offline.is_empty() && self.random.chance(50) {
            let site = offline[self.pick(offline.len())];
            self.set_state(slice, site, Syncing);
        }
    }

    /// Clients begin attempts, and hear of those that ended.
    fn ask(&mut self) {
        let ended = std::mem::take(&mut self.world.ended);
        for at in 0..self.items.len() {
            let head = self.sites_in(self.items[at].slice(), |state| state == Serving)[0];
            let epoch = self.chains[self.items[at].slice()].epoch;
            let item = &mut self.items[at];
            if let Some((correlation, content)) = item.attempt {
                match self.world.answers.get(&correlation) {
                    Some(Status::Ok) => {
                        assert!(
                            item.acked.is_none_or(|acked| acked == content),
                            "R4: two contents are acked"
                        );
                        item.acked = Some(content);
                        item.attempt = None;
                    }
                    Some(_) => item.attempt = None,
                    None if !ended.is_empty() => item.attempt = None,
                    None => continue,
                }
            }
            let may_try = item.acked.is_none() && !item.is_dead && self.random.chance(30);
            if may_try && self.world.has_credit(head, item.contents[0].bytes.len()) {
                self.correlations += 1;
                let content = usize::from(self.random.chance(10));
                item.attempt = Some((self.correlations, content));
                self.world.put(head, self.correlations, &item.contents[content], epoch);
                *self.counts.entry("attempts").or_default() += 1;
            }
        }
    }

    /// The group commits what was acked, reclaims what was removed, and repeats deletes until every member that acks has acked them (R24).
    fn group(&mut self) {
        for at in 0..self.items.len() {
            let item = &mut self.items[at];
            if !item.is_dead && item.acked.is_some() {
                self.world.states.insert(item.id(), ChunkState::Live { root: None });
                if !self.is_ending && self.random.chance(1) {
                    item.is_dead = true;
                }
            }
            if item.is_dead {
                self.world.states.insert(item.id(), ChunkState::Dead);
                self.send_deletes(at);
            }
        }
    }

    fn send_deletes(&mut self, at: usize) {
        let slice = self.items[at].slice();
        let (epoch, ackers) = (self.chains[slice].epoch, self.sites_in(slice, ReplicaState::acks));
        let item = &mut self.items[at];
        for (correlation, (asked_in, site)) in std::mem::take(&mut item.deletes) {
            match self.world.answers.get(&correlation) {
                Some(Status::Ok) if asked_in == epoch && item.deleted_at.0 == epoch => {
                    item.deleted_at.1.insert(site);
                }
                None if asked_in == epoch => drop(item.deletes.insert(correlation, (asked_in, site))),
                Some(_) | None => {}
            }
        }
        if item.deleted_at.0 != epoch && !ackers.iter().all(|site| item.deleted_at.1.contains(site)) {
            item.deleted_at = (epoch, BTreeSet::new());
        }
        let is_done = ackers.iter().all(|site| item.deleted_at.1.contains(site));
        if is_done || !self.random.chance(20) {
            return;
        }
        for site in ackers.into_iter().filter(|site| !item.deleted_at.1.contains(site)) {
            self.correlations += 1;
            item.deletes.insert(self.correlations, (epoch, site));
            self.world.delete(
                site,
                self.correlations,
                self.follows[site].min(self.number),
                &[item.contents[0].id],
            );
        }
    }

    fn disturb(&mut self) {
        match self.random.below(12) {
            0 => {
                let (a, b) = (self.pick(SITES), self.pick(SITES));
                self.world.disconnect(a, b);
            }
            1 => {
                let site = self.pick(SITES);
                self.world.hang_up(site);
            }
            2 | 3 => {
                let site = self.pick(SITES);
                self.restart(site);
            }
            4 => {
                // Out of a chain, and alive.
                let (slice, site) = (self.pick(CHAINS.len()), self.pick(SITES));
                if self.may_leave(site) && self.member(slice, site).is_some_and(ReplicaState::acks) {
                    self.set_state(slice, site, Offline);
                }
            }
            5 => {
                let site = self.pick(SITES);
                self.world.sites[site].is_stuck ^= true;
            }
            6 => {
                let is_away = self.random.chance(50);
                self.world.set_group_away(is_away);
            }
            7 => self.rot(),
            8 => {
                let site = self.pick(SITES);
                self.world.scrub(site);
            }
            9 => {
                let slice = self.pick(CHAINS.len());
                self.reconfigure(slice, |_| {});
            }
            _ => {
                let nanoseconds = self.random.below(Nanos::SECOND);
                self.world.pass(nanoseconds);
            }
        }
    }

    /// A copy goes bad that two other Serving members have as well, and a reader finds it.
    fn rot(&mut self) {
        let at = self.pick(self.items.len());
        let item = &self.items[at];
        let (id, slice) = (item.id(), item.slice());
        let servers = self.sites_in(slice, |state| state == Serving);
        let is_everywhere = servers.iter().all(|site| self.world.holders(id).contains(site));
        let is_spread = servers.len() == 3 && is_everywhere && item.acked.is_some() && !item.is_dead;
        if !is_spread || !self.rotten.is_empty() {
            return;
        }
        self.count("rotten");
        let site = servers[self.pick(3)];
        let place = self.world.sites[site].shard.store().find(id).expect("it is there").place;
        self.rotten.push((site, id, place));
        self.world.rot(site, id);
        self.correlations += 1;
        let get = GetChunk { id, first_block: 0, block_count: 0 };
        self.world.request(site, self.correlations, &Request::GetChunk(get));
    }

    /// What holds at every moment.
    fn check(&mut self) {
        let sites = &self.world.sites;
        self.rotten.retain(|(site, id, place)| {
            sites[*site].shard.store().find(*id).is_some_and(|entry| entry.place == *place)
        });
        for item in &self.items {
            let Some(content) = item.acked.filter(|_| !item.is_dead) else { continue };
            let chunk = &item.contents[content];
            for site in self.sites_in(item.slice(), |state| state == Serving) {
                let entry = self.world.sites[site].shard.store().find(chunk.id);
                assert!(
                    entry.is_some_and(|entry| entry.root == chunk.root),
                    "I2, R1: {} at site {site}: {entry:?}",
                    chunk.id
                );
            }
        }
    }

    pub(super) fn run(mut self, seed: u64) -> BTreeMap<&'static str, u64> {
        for _ in 0..ROUNDS {
            self.ask();
            self.group();
            self.control();
            for _ in 0..self.random.below(30) {
                self.world.step(&mut self.random);
            }
            if self.random.chance(20) {
                self.disturb();
            }
            if self.random.chance(20) {
                self.world.pass(20 * Nanos::MILLISECOND);
            }
            self.check();
        }
        self.end(seed);
        for site in 0..SITES {
            let progress = self.world.sites[site].shard.sync_progress();
            let metrics = self.world.sites[site].shard.store().metrics();
            for (what, count) in [
                ("fetched", progress.chunks),
                ("extras dead", progress.extras_dead),
                ("extras live", progress.extras_live),
                ("differing", progress.differing),
                ("compared", progress.comparisons),
                ("repaired", metrics.chunks_repaired),
                ("replaced", metrics.chunks_replaced),
            ] {
                *self.counts.entry(what).or_default() += count;
            }
        }
        self.counts
    }

    /// Nothing disturbs any more: whatever was written is acked or given up, all members serve and are equal, and nothing dead is left.
    fn end(&mut self, seed: u64) {
        self.is_ending = true;
        self.world.set_group_away(false);
        for site in 0..SITES {
            self.world.sites[site].is_stuck = false;
        }
        for item in &mut self.items {
            // The session ends: what was acked is committed, the rest is given up.
            item.is_dead |= item.acked.is_none() && item.attempt.is_none();
        }
        for round in 0..400 {
            self.ask();
            for item in &mut self.items {
                item.is_dead |= item.acked.is_none() && item.attempt.is_none();
            }
            self.group();
            self.control();
            (0..SITES).for_each(|site| self.tell(site));
            self.world.live(40 * Nanos::MILLISECOND);
            if round % 50 == 49 {
                self.orphans();
                (0..SITES).for_each(|site| self.world.sites[site].shard.compare_everything());
            }
            self.check();
        }
        self.world.live(3 * Nanos::SECOND);
        for (slice, chain) in self.chains.iter().enumerate() {
            let all_serve = chain.members.iter().all(|(_, state)| *state == Serving);
            assert!(all_serve, "seed {seed}: slice {slice} isn't whole again: {chain:?}");
        }
        for item in &self.items {
            let holders = self.world.holders(item.id());
            let expected: BTreeSet<usize> =
                if item.is_dead { BTreeSet::new() } else { CHAINS[item.slice()].into() };
            assert_eq!(
                holders,
                expected,
                "seed {seed}: {} dead: {} acked: {:?} deletes acked: {:?}",
                item.id(),
                item.is_dead,
                item.acked,
                item.deleted_at
            );
        }
        for (site, state) in self.world.sites.iter().enumerate() {
            assert_eq!(state.shard.store().metrics().chunks_damaged, 0, "seed {seed}: site {site}");
        }
        self.world.assert_idle();
    }

    /// The group's orphan pass: what was never committed and is held by all alike, so that no comparison finds it.
    fn orphans(&mut self) {
        for item in &mut self.items {
            if item.is_dead && item.acked.is_none() && !self.world.holders(item.id()).is_empty() {
                item.deleted_at = (0, BTreeSet::new());
            }
        }
    }
}

#[cfg(not(planted))]
#[test]
fn chains_survive() {
    let seeds = std::env::var("CATENA_SYNC_SEEDS").ok().and_then(|text| text.parse().ok()).unwrap_or(SEEDS);
    let mut totals: BTreeMap<&str, u64> = BTreeMap::new();
    let first = std::env::var("CATENA_SYNC_FIRST").ok().and_then(|text| text.parse().ok()).unwrap_or(0);
    for seed in first..first + seeds {
        for (name, count) in Run::new(seed).run(seed) {
            *totals.entry(name).or_default() += count;
        }
    }
    println!("{totals:?}");
    for what in
        ["emptied", "restarted", "synced", "fetched", "extras dead", "differing", "compared", "repaired"]
    {
        assert!(totals.get(what).is_some_and(|count| *count > 0), "{what} never happened: {totals:?}");
    }
}
