//! Following the map: stored durably, handed to every unit, and only then promised (R1, R5).
//!
//! ```text
//! a newer map ─┬─► Effects::store   ─► on_stored(number)          ┐
//!              └─► Effects::publish ─► on_followed(unit, number)… ┴─► installed: the least of all
//! ```
//! A unit that follows a map acks nothing in an epoch below those that it prepares, so that "installed N" is the node's durable promise of all of them. A map
//! that comes while another one is being stored is stored after it.
//!
//! A unit follows none before the map names the present life of its store: until then the store may be one that was rolled back, copied or replaced (R34). It
//! serves nothing, and the first map that it gets is no older than any that was promised, so that nobody waits for it.

use std::collections::BTreeMap;
use std::sync::Arc;

use placement::{ClusterMap, Edition};
use wire::control::StoreReport;
use wire::map::Unit;
use wire::planted::{Bug, planted};
use wire::{Incarnation, MapNumber, StoreId};

use crate::effects::Effects;

/// One of the node's units.
#[derive(Debug)]
struct Part {
    store: StoreId,
    /// The store's present life.
    life: Incarnation,
    /// The control group has accepted that life.
    is_in: bool,
    followed: MapNumber,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Follow {
    edition: Arc<Edition>,
    stored: MapNumber,
    /// A map is being stored.
    is_storing: bool,
    parts: BTreeMap<Unit, Part>,
}

impl Follow {
    /// The map that the node has stored, which its units are going to follow.
    pub(crate) fn new(edition: Arc<Edition>, stores: &[StoreReport]) -> Self {
        let stored = edition.number();
        let part = |report: &StoreReport| Part {
            store: report.store,
            life: report.incarnation,
            is_in: false,
            followed: MapNumber(0),
        };
        let parts = stores.iter().map(|report| (report.unit, part(report))).collect();
        let mut follow = Self { edition, stored, is_storing: false, parts };
        follow.look_at_lives();
        follow
    }

    pub(crate) fn edition(&self) -> &Arc<Edition> {
        &self.edition
    }

    pub(crate) fn number(&self) -> MapNumber {
        self.edition.number()
    }

    /// Whether a unit follows maps: the control group has accepted its store's life.
    pub(crate) fn takes_part(&self, unit: Unit) -> bool {
        self.parts.get(&unit).is_some_and(|part| part.is_in)
    }

    /// Who was put out again by a later life keeps following, to learn of it.
    fn look_at_lives(&mut self) {
        let map: &ClusterMap = self.edition.map();
        for part in self.parts.values_mut() {
            part.is_in |= map.store(part.store).is_some_and(|store| store.incarnation == part.life);
        }
    }

    /// The map that the node has promised to follow.
    pub(crate) fn installed(&self) -> MapNumber {
        let stored = if planted(Bug::AgentPromisesUnstored) { self.edition.number() } else { self.stored };
        let parts = self.parts.values().filter(|part| part.is_in);
        let followed =
            parts.map(|part| part.followed).min().filter(|_| !planted(Bug::AgentPromisesUnfollowed));
        followed.unwrap_or(stored).min(stored)
    }

    /// Takes a newer map; false: it isn't one.
    pub(crate) fn take(&mut self, edition: Arc<Edition>, effects: &mut Effects) -> bool {
        if edition.number() <= self.edition.number() {
            return false;
        }
        self.edition = edition;
        self.look_at_lives();
        effects.publish = Some(Arc::clone(&self.edition));
        self.store(effects);
        true
    }

    /// Hands the map that there is to the units, at the start.
    pub(crate) fn publish(&self, effects: &mut Effects) {
        effects.publish = Some(Arc::clone(&self.edition));
    }

    fn store(&mut self, effects: &mut Effects) {
        if !self.is_storing && self.stored < self.edition.number() {
            self.is_storing = true;
            effects.store = Some(Arc::clone(&self.edition));
        }
    }

    /// A map is durable; whether that is news to the leader.
    pub(crate) fn on_stored(&mut self, number: MapNumber, effects: &mut Effects) -> bool {
        let before = self.installed();
        self.is_storing = false;
        self.stored = self.stored.max(number);
        self.store(effects);
        self.installed() > before
    }

    /// A unit follows a map; whether that is news to the leader.
    pub(crate) fn on_followed(&mut self, unit: Unit, number: MapNumber) -> bool {
        let before = self.installed();
        if let Some(part) = self.parts.get_mut(&unit) {
            part.followed = number.max(part.followed);
        }
        self.installed() > before
    }
}

#[cfg(test)]
mod tests {
    use wire::control::{Condition, LogEnd};
    use wire::{GroupId, ShardIndex};

    use super::*;
    use crate::testing::edition;

    fn report(unit: Unit, store: u8, incarnation: u64) -> StoreReport {
        StoreReport {
            store: StoreId([store; 16]),
            unit,
            address: String::new(),
            incarnation: Incarnation(incarnation),
            lives: Vec::new(),
            recovered_cut: false,
            lacks: false,
            log_end: LogEnd::default(),
            sequence: 0,
            capacity_bytes: 0,
            used_bytes: 0,
            condition: Condition::Well,
        }
    }

    /// The map in which both stores have their present lives.
    fn with_lives(number: u64) -> Arc<Edition> {
        let mut map = edition(number).map().as_map().clone();
        (map.stores[0].incarnation, map.stores[1].incarnation) = (Incarnation(3), Incarnation(5));
        Arc::new(Edition::new(ClusterMap::new(map).expect("a valid map")))
    }

    const UNITS: [Unit; 2] = [Unit::Shard(ShardIndex(0)), Unit::Group(GroupId(0))];

    #[test]
    fn a_map_is_promised_when_it_is_stored_and_everybody_follows_it() {
        let first = with_lives(1);
        let stores = [report(UNITS[0], 1, 3), report(UNITS[1], 0x81, 5)];
        let mut follow = Follow::new(Arc::clone(&first), &stores);
        let mut effects = Effects::default();
        assert_eq!(follow.installed(), MapNumber(0), "nobody follows it yet");
        assert!(UNITS.into_iter().map(|unit| follow.on_followed(unit, MapNumber(1))).last().expect("two"));
        assert_eq!(follow.installed(), MapNumber(1));
        assert!(!follow.take(first, &mut effects), "it is known");
        assert!(follow.take(with_lives(2), &mut effects));
        assert_eq!(effects.store.take().map(|edition| edition.number()), Some(MapNumber(2)));
        assert!(follow.take(with_lives(5), &mut effects));
        assert!(effects.store.is_none(), "one at a time");
        assert_eq!(effects.publish.take().map(|edition| edition.number()), Some(MapNumber(5)));
        assert!(!follow.on_followed(UNITS[0], MapNumber(5)) && !follow.on_followed(UNITS[1], MapNumber(5)));
        assert_eq!(follow.installed(), MapNumber(1), "not durable");
        assert!(follow.on_stored(MapNumber(2), &mut effects));
        assert_eq!(follow.installed(), MapNumber(2));
        assert_eq!(effects.store.take().map(|edition| edition.number()), Some(MapNumber(5)));
        assert!(follow.on_stored(MapNumber(5), &mut effects));
        assert_eq!(follow.installed(), MapNumber(5));
    }

    /// R34: a node that started with its stored map served under it, whatever had become of its disks since.
    #[test]
    fn a_unit_follows_no_map_that_has_another_life_of_its_store() {
        let stores = [report(UNITS[0], 1, 4), report(UNITS[1], 0x81, 5)];
        let mut follow = Follow::new(with_lives(1), &stores);
        assert!(!follow.takes_part(UNITS[0]) && follow.takes_part(UNITS[1]));
        assert!(follow.on_followed(UNITS[1], MapNumber(1)), "nobody waits for the other one");
        let mut next = with_lives(2).map().as_map().clone();
        next.stores[0].incarnation = Incarnation(4);
        let next = Arc::new(Edition::new(ClusterMap::new(next).expect("a valid map")));
        let mut effects = Effects::default();
        assert!(follow.take(next, &mut effects) && follow.takes_part(UNITS[0]));
        assert_eq!(follow.installed(), MapNumber(0), "now it is waited for");
        follow.on_stored(MapNumber(2), &mut effects);
        follow.on_followed(UNITS[1], MapNumber(2));
        assert!(follow.on_followed(UNITS[0], MapNumber(2)));
        assert_eq!(follow.installed(), MapNumber(2));
        assert!(follow.take(with_lives(3), &mut effects) && follow.takes_part(UNITS[0]), "it learns of it");
    }
}
