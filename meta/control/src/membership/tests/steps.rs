//! One chain's next step, from what is known of its members.

use std::collections::BTreeMap;

use wire::control::{ChainId, LogEnd, Synced, Waits};
use wire::map::Map;
use wire::{CommitIndex, Epoch, GroupId, MapNumber, Nanos, NodeId, SliceIndex, StoreId};

use super::super::config::{Config, EVICTION_INTERVAL};
use super::super::links::Links;
use super::super::nodes::Presence;
use super::super::step::{ChainNote, Choice, Outcome, StoreView, View};
use super::transitions::{QUIET, map};
use super::{chain, text};

const NOW: Nanos = Nanos(1_000 * Nanos::SECOND);
const SLICE: ChainId = ChainId::Slice(SliceIndex(0));
const GROUP: ChainId = ChainId::Group(GroupId(0));
/// The map that prepared the epoch of a chain that is prepared.
const PREPARED: MapNumber = MapNumber(9);

/// What is known, all well unless changed.
struct Known {
    id: ChainId,
    stores: Vec<StoreView>,
    note: ChainNote,
    synced: Vec<Synced>,
    caught_up: Vec<(ChainId, u16)>,
    links: Links,
    target: Option<Vec<u16>>,
    chain_length: u8,
    min_in_sync: u8,
}

impl Known {
    fn new(id: ChainId) -> Self {
        let store = |place: u32| StoreView {
            node: NodeId(place % 5 + 1),
            presence: Presence::Fit,
            reads: false,
            follows: true,
            installed: PREPARED,
            sealed: PREPARED,
            lease_until: NOW.after(1),
            cut: false,
            lacks: false,
            log_end: LogEnd::default(),
        };
        Self {
            id,
            stores: (0..10).map(store).collect(),
            note: ChainNote { prepared: PREPARED, ..ChainNote::default() },
            synced: Vec::new(),
            caught_up: Vec::new(),
            links: Links::default(),
            target: None,
            chain_length: 3,
            min_in_sync: 2,
        }
    }

    fn with(mut self, place: usize, change: impl FnOnce(&mut StoreView)) -> Self {
        change(&mut self.stores[place]);
        self
    }

    fn presence(self, place: usize, presence: Presence) -> Self {
        self.with(place, |store| store.presence = presence)
    }

    fn outcome(&self, old: &str) -> Outcome {
        let old = chain(old);
        let is_group = matches!(self.id, ChainId::Group(_));
        let map: Map = if is_group { map(&chain("1A2 0S* 1S* 2S*"), &old) } else { map(&old, &chain(QUIET)) };
        let notes = BTreeMap::from([(self.id, self.note)]);
        let synced = BTreeMap::from([(self.id, self.synced.clone())]);
        let targets = self.target.iter().map(|target| (self.id, target.clone())).collect();
        let view = View {
            now: NOW,
            config: Config::default(),
            map: &map,
            stores: &self.stores,
            notes: &notes,
            synced: &synced,
            caught_up: &self.caught_up,
            links: &self.links,
            targets: &targets,
            chain_length: self.chain_length,
            min_in_sync: self.min_in_sync,
        };
        view.step(self.id, &old)
    }

    /// The chain after its step; as it was where it takes none.
    #[track_caller]
    fn check(self, old: &str, expected: &str) {
        let found = self.outcome(old);
        assert_eq!(found.next.map_or(old.to_owned(), |next| text(&next)), expected, "{:?}", found.waits);
    }

    #[track_caller]
    fn waits(self, old: &str, expected: &[Waits]) {
        let found = self.outcome(old);
        assert_eq!((found.next.map(|next| text(&next)), found.waits), (None, expected.to_vec()));
    }
}

fn slice() -> Known {
    Known::new(SLICE)
}

fn group() -> Known {
    Known::new(GROUP)
}

fn store(place: u8) -> StoreId {
    StoreId([place + 1; 16])
}

#[test]
fn who_is_gone_is_put_out() {
    use Presence::{Gone, Restarted, Unknown};
    let full = "7A2 0S* 1S* 2S*";
    slice().check(full, full);
    slice().presence(1, Unknown).check(full, full);
    slice().presence(1, Gone).check(full, "8P2 0S* 1O* 2S*");
    slice().presence(1, Restarted).check(full, "8P2 0S* 1W* 2S*");
    slice().presence(0, Gone).presence(1, Restarted).check(full, "8P2 0O* 1W* 2S*");
    slice().presence(0, Gone).presence(1, Gone).presence(2, Gone).check(full, "8P2 0L* 1L* 2L*");
    slice().presence(0, Gone).check("7A1 0S* 1Y", "8P1 0L* 1W");
    slice().presence(1, Gone).check("8P2 0S* 1S* 2O*", "9P2 0S* 1O* 2W*");
    // A chain that is one store goes on with it (R7); it asks for no more than there is.
    slice().presence(0, Restarted).with(0, |store| store.cut = true).check("7A1 0S*", "8P1 0S*");
    slice().presence(0, Gone).check("7A1 0S*", "8P1 0L*");
    // Who is lost without having acked costs no epoch.
    slice().presence(2, Gone).check("7A2 0S* 1S* 2W", "7A2 0S* 1S* 2O");
    slice().with(2, |store| store.follows = false).check("7A2 0S* 1S* 2O", "7A2 0S* 1S* 2W");
}

#[test]
fn an_epoch_acts_once_all_have_promised() {
    use Presence::{Gone, Unknown};
    let prepared = "8P2 0S* 1S* 2O*";
    let behind = |place: usize| {
        move |known: Known| {
            known.with(place, |store| (store.installed, store.sealed) = (MapNumber(8), MapNumber(8)))
        }
    };
    let promise = |node| Waits::Promise { node: NodeId(node), number: PREPARED };
    let lease = |node| Waits::Lease { node: NodeId(node), left: 1 };
    slice().presence(2, Gone).check(prepared, "8A2 0S* 1S* 2O");
    behind(1)(slice().presence(2, Gone)).waits(prepared, &[promise(2)]);
    // A fresh life that follows a later map hasn't promised by that.
    behind(1)(slice().presence(2, Gone))
        .with(1, |store| store.sealed = PREPARED)
        .waits(prepared, &[promise(2)]);
    slice().presence(1, Unknown).presence(2, Gone).waits(prepared, &[promise(2)]);
    // Who was removed has sealed, or can't have a lease any more (R5).
    behind(2)(slice().presence(2, Gone)).waits(prepared, &[lease(3)]);
    behind(2)(slice().presence(2, Unknown)).waits(prepared, &[lease(3)]);
    behind(2)(slice().presence(2, Gone))
        .with(2, |store| store.lease_until = NOW)
        .check(prepared, "8A2 0S* 1S* 2O");
    let fresh = behind(2)(slice()).with(2, |store| store.sealed = PREPARED);
    fresh.check("8P2 0S* 1S* 2W*", "8A2 0S* 1S* 2W");
    behind(2)(slice()).waits("8P2 0S* 1S* 2W*", &[promise(3)]);
    // R6: seeds stay where the epoch can't ack, but not of a group.
    slice().presence(1, Gone).presence(2, Gone).check("8P2 0S* 1O* 2O*", "8A2 0S* 1O* 2O*");
    group().presence(6, Gone).presence(7, Gone).check("8P2 5S* 6O* 7O*", "8A2 5S* 6O 7O");
}

#[test]
fn a_chain_goes_on_with_a_seed() {
    use Presence::Gone;
    let end = |epoch, index| LogEnd { epoch: Epoch(epoch), index: CommitIndex(index) };
    let lost = "8P2 0L* 1O* 2O";
    // R6: never with somebody who isn't one, however much he has.
    let outsider = || slice().presence(0, Gone).presence(1, Gone).with(2, |store| store.log_end = end(9, 9));
    let waits = outsider().outcome(lost);
    assert_eq!(waits.waits, [Waits::AnySeed]);
    assert_eq!(text(&waits.next.expect("who is there waits")), "8P2 0L* 1O* 2W");
    slice().presence(0, Gone).check(lost, "9P2 0O* 1S* 2Y");
    slice().check(lost, "9P2 0S* 1Y* 2Y");
    let behind = slice().presence(0, Gone).with(2, |store| store.follows = false);
    behind.check(lost, "9P2 0O* 1S* 2W");
    // R7: with one that cut its log only when all seeds did.
    let cut = |known: Known, place: usize| known.with(place, |store| store.cut = true);
    let old = "8P2 0L* 1O* 2W";
    cut(slice(), 0).check(old, "9P2 1S* 2Y 0Y*");
    let one = cut(slice(), 0).presence(1, Gone);
    assert_eq!(one.outcome(old).waits, [Waits::CleanSeed { missing: 1 }]);
    assert_eq!(one.outcome(old).next, None);
    cut(cut(slice(), 0), 1).check(old, "9P2 0S* 1Y* 2Y");
    cut(slice(), 0).check("8P1 0L*", "9P1 0S*");
    // R7: a group waits for all seeds, and takes the longest log; the earliest in the chain of equal ones.
    let logs =
        || group().with(6, |store| store.log_end = end(7, 9)).with(7, |store| store.log_end = end(6, 99));
    let old = "8P2 5L* 6L* 7L* 8W";
    logs().check(old, "9P2 5W* 6S* 7W* 8W");
    group().check(old, "9P2 5S* 6W* 7W* 8W");
    cut(logs(), 6).check(old, "9P2 5W* 6W* 7S* 8W");
    let missing = || logs().presence(6, Gone);
    let wait = |left| Waits::Seeds { missing: 1, left };
    let seed_wait = Config::default().seed_wait;
    missing().waits(old, &[wait(seed_wait)]);
    let waited = |time: u64| {
        let mut known = missing();
        known.note.seed_since = Some(Nanos(NOW.0 - time));
        known
    };
    waited(Nanos::SECOND).waits(old, &[wait(seed_wait - Nanos::SECOND)]);
    waited(seed_wait).check(old, "9P2 5W* 6O* 7S* 8W");
    assert!(missing().outcome(old).may_seed);
}

#[test]
fn a_member_serves_when_it_has_synced_in_this_epoch() {
    let report = |epoch, place| Synced { chain: SLICE, epoch: Epoch(epoch), store: store(place), missing: 0 };
    let with = |reports: &[Synced]| {
        let mut known = slice();
        known.synced = reports.to_vec();
        known
    };
    let old = "7A2 0S* 1S* 2Y";
    with(&[report(7, 2)]).check(old, "7A2 0S* 1S* 2S*");
    with(&[report(6, 2)]).check(old, old);
    with(&[report(7, 1)]).check(old, old);
    with(&[report(7, 2)]).check("7A2 0S* 1O* 2Y", "7A2 0S* 1W 2S*");
    assert!(with(&[report(7, 2)]).outcome("7A2 0S* 1O* 2Y").is_urgent, "writes wait for it");
    assert!(!with(&[report(7, 2)]).outcome(old).is_urgent);
    with(&[report(7, 2)]).check("7P2 0S* 1S* 2Y", "7A2 0S* 1S* 2Y");
}

/// A store whose write had failed was put out of the chain that it was alone in, and what it had couldn't be read any more.
#[test]
fn a_fenced_store_serves_while_nobody_else_does() {
    let fenced = |known: Known, place: usize| {
        known.presence(place, Presence::Gone).with(place, |store| store.reads = true)
    };
    fenced(slice(), 0).check("7A1 0S*", "7A1 0S*");
    fenced(slice(), 0).presence(1, Presence::Gone).check("7A2 0S* 1S*", "8P2 0S* 1O*");
    fenced(slice(), 0).check("7A2 0S* 1S*", "8P2 0O* 1S*");
    fenced(slice(), 0).check("8P1 0S*", "8A1 0S*");
}

#[test]
fn members_that_wait_come_in() {
    let waiting = "7A2 0S* 1S* 2W";
    slice().check(waiting, "8P2 0S* 1S* 2Y");
    // Who led before comes back behind the others: it led in the epoch in which it synced, and a group's members stopped (sim cluster seeds 1 and 2).
    slice().check("7A2 0W 1S* 2S*", "8P2 1S* 2S* 0Y");
    slice().presence(0, Presence::Gone).check("7A2 0S* 1Y 2S*", "8P2 0O* 2S* 1Y");
    let number = MapNumber(9);
    slice()
        .with(2, |store| store.follows = false)
        .waits(waiting, &[Waits::Promise { node: NodeId(3), number }]);
    // R11: a group's when it follows the log closely.
    group().waits("7A2 5S* 6S* 7W", &[Waits::CatchUp(store(7))]);
    let mut near = group();
    near.caught_up.push((GROUP, 7));
    near.check("7A2 5S* 6S* 7W", "8P2 5S* 6S* 7Y");
    let mut held = slice();
    held.note.held = Some((2, NOW.after(5), 5));
    held.waits(waiting, &[Waits::HoldDown { store: store(2), left: 5 }]);
}

#[test]
fn planned_members_come_before_others_go() {
    let target = |members: &[u16]| {
        let mut known = slice();
        known.target = Some(members.to_vec());
        known
    };
    let full = "7A2 0S* 1S* 2S*";
    target(&[0, 1, 3]).check(full, "7A2 0S* 1S* 2S* 3W");
    target(&[0, 1, 3]).check("7A2 0S* 1S* 2S* 3W", "8P2 0S* 1S* 2S* 3Y");
    target(&[0, 1, 3]).check("8A2 0S* 1S* 2S* 3S*", "9P2 0S* 1S* 2O* 3S*");
    target(&[0, 1, 3]).presence(2, Presence::Gone).check("9A2 0S* 1S* 2O 3S*", "9A2 0S* 1S* 3S*");
    target(&[0, 1, 3]).presence(3, Presence::Gone).waits(full, &[Waits::Return(store(3))]);
    target(&[3]).check("8A2 0S* 1S* 2S* 3S*", "8A2 0S* 1S* 2S* 3S*");
}

#[test]
fn min_in_sync_follows_the_setting() {
    let with = |min_in_sync| Known { min_in_sync, ..slice() };
    let full = |min| format!("7A{min} 0S* 1S* 2S*");
    with(3).check(&full(2), "8P3 0S* 1S* 2S*");
    with(1).check(&full(2), "8P1 0S* 1S* 2S*");
    with(3).presence(2, Presence::Gone).check("7A2 0S* 1S* 2O", "7A2 0S* 1S* 2O");
    with(1)
        .presence(1, Presence::Gone)
        .presence(2, Presence::Gone)
        .check("7A2 0S* 1O* 2O*", "8P1 0S* 1O* 2O*");
}

#[test]
fn a_slow_member_waits_again_now_and_then() {
    let syncing = "7A2 0S* 1S* 2Y";
    let slow = |epoch, evicted: Option<u64>| {
        let mut known = slice();
        known.note.slow = Some((Epoch(epoch), 2));
        known.note.evicted = evicted.map(|ago| Nanos(NOW.0 - ago));
        known
    };
    slow(7, None).check(syncing, "8P2 0S* 1S* 2W");
    assert_eq!(slow(7, None).outcome(syncing).choice, Some(Choice::Slow(2)));
    slow(6, None).check(syncing, syncing);
    slow(7, Some(EVICTION_INTERVAL - 1)).check(syncing, syncing);
    slow(7, Some(EVICTION_INTERVAL)).check(syncing, "8P2 0S* 1S* 2W");
    slow(7, None).check("7A2 0S* 1S* 2S*", "7A2 0S* 1S* 2S*");
}

#[test]
fn neighbours_that_do_not_reach_each_other_are_parted() {
    let suspects = |known: Known, pairs: &[(u32, u32)]| {
        let mut known = known;
        for (from, suspect) in pairs {
            for ago in [1_500, 700, 1] {
                let at = Nanos(NOW.0 - ago * Nanos::MILLISECOND);
                known.links.complain(at, NodeId(*from), &[NodeId(*suspect)]);
            }
        }
        known
    };
    let full = "7A2 0S* 1S* 2S*";
    suspects(slice(), &[(1, 2)]).check(full, "8P2 1S* 2S* 0S*");
    suspects(slice(), &[(1, 3)]).check(full, full);
    // No order does: the one that more can't reach goes.
    suspects(slice(), &[(1, 2), (3, 2)]).check(full, "8P2 0S* 1W* 2S*");
    suspects(slice(), &[(2, 1), (3, 2)]).check(full, "8P2 0S* 1W* 2S*");
    // R6: not below min_in_sync.
    suspects(slice(), &[(1, 2)]).check("7A2 0S* 1S* 2O", "8P2 0S* 1S* 2Y");
    suspects(slice(), &[(1, 2)]).check("7A2 0O 1S* 2S*", "8P2 1S* 2S* 0Y");
    suspects(slice(), &[(1, 2)]).presence(2, Presence::Gone).check("7A2 0S* 1S* 2O", "7A2 0S* 1S* 2O");
    suspects(slice(), &[(1, 2)]).check("7A1 0S* 1Y", "8P1 0S* 1W");
    // Who waits doesn't come in beside somebody he can't reach.
    suspects(slice(), &[(2, 3)]).check("7A2 0S* 1S* 2W", "8P2 1S* 0S* 2Y");
    let alone = suspects(slice(), &[(1, 3), (2, 3)]).outcome("7A2 0S* 1S* 2W");
    assert!(matches!(alone.waits[..], [Waits::HoldDown { .. }]) && alone.next.is_none(), "{alone:?}");
    let mut recent = suspects(slice(), &[(1, 2), (3, 2)]);
    recent.note.evicted = Some(NOW);
    recent.check(full, full);
}
