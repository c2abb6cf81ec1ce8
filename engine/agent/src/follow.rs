//! Following the map: stored durably, handed to every unit, and only then promised (R1, R5).
//!
//! ```text
//! a newer map ─┬─► Effects::store   ─► on_stored(number)          ┐
//!              └─► Effects::publish ─► on_followed(unit, number)… ┴─► installed: the least of all
//! ```
//! A unit that follows a map acks nothing in an epoch below those that it prepares, so that "installed N" is the node's durable promise of all of them. A map
//! that comes while another one is being stored is stored after it.

use std::collections::BTreeMap;
use std::sync::Arc;

use placement::Edition;
use wire::MapNumber;
use wire::map::Unit;
use wire::planted::{Bug, planted};

use crate::effects::Effects;

/// See the module.
#[derive(Debug)]
pub(crate) struct Follow {
    edition: Arc<Edition>,
    stored: MapNumber,
    /// A map is being stored.
    is_storing: bool,
    /// What each unit follows; none that isn't here serves anything.
    followed: BTreeMap<Unit, MapNumber>,
}

impl Follow {
    /// The map that the node has stored, which its units are going to follow.
    pub(crate) fn new(edition: Arc<Edition>, units: impl Iterator<Item = Unit>) -> Self {
        let stored = edition.number();
        let followed = units.map(|unit| (unit, MapNumber(0))).collect();
        Self { edition, stored, is_storing: false, followed }
    }

    pub(crate) fn edition(&self) -> &Arc<Edition> {
        &self.edition
    }

    pub(crate) fn number(&self) -> MapNumber {
        self.edition.number()
    }

    /// The map that the node has promised to follow.
    pub(crate) fn installed(&self) -> MapNumber {
        let stored = if planted(Bug::AgentPromisesUnstored) { self.edition.number() } else { self.stored };
        let followed =
            self.followed.values().copied().min().filter(|_| !planted(Bug::AgentPromisesUnfollowed));
        followed.unwrap_or(stored).min(stored)
    }

    /// Takes a newer map; false: it isn't one.
    pub(crate) fn take(&mut self, edition: Arc<Edition>, effects: &mut Effects) -> bool {
        if edition.number() <= self.edition.number() {
            return false;
        }
        self.edition = edition;
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
        if let Some(followed) = self.followed.get_mut(&unit) {
            *followed = number.max(*followed);
        }
        self.installed() > before
    }
}

#[cfg(test)]
mod tests {
    use wire::{GroupId, ShardIndex};

    use super::*;
    use crate::testing::edition;

    #[test]
    fn a_map_is_promised_when_it_is_stored_and_everybody_follows_it() {
        let units = [Unit::Shard(ShardIndex(0)), Unit::Group(GroupId(0))];
        let first = edition(1);
        let mut follow = Follow::new(Arc::clone(&first), units.into_iter());
        let mut effects = Effects::default();
        assert_eq!(follow.installed(), MapNumber(0), "nobody follows it yet");
        assert!(units.into_iter().map(|unit| follow.on_followed(unit, MapNumber(1))).last().expect("two"));
        assert_eq!(follow.installed(), MapNumber(1));
        assert!(!follow.take(first, &mut effects), "it is known");
        assert!(follow.take(edition(2), &mut effects));
        assert_eq!(effects.store.take().map(|edition| edition.number()), Some(MapNumber(2)));
        assert!(follow.take(edition(5), &mut effects));
        assert!(effects.store.is_none(), "one at a time");
        assert_eq!(effects.publish.take().map(|edition| edition.number()), Some(MapNumber(5)));
        assert!(!follow.on_followed(units[0], MapNumber(5)) && !follow.on_followed(units[1], MapNumber(5)));
        assert_eq!(follow.installed(), MapNumber(1), "not durable");
        assert!(follow.on_stored(MapNumber(2), &mut effects));
        assert_eq!(follow.installed(), MapNumber(2));
        assert_eq!(effects.store.take().map(|edition| edition.number()), Some(MapNumber(5)));
        assert!(follow.on_stored(MapNumber(5), &mut effects));
        assert_eq!(follow.installed(), MapNumber(5));
    }
}
