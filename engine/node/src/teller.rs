//! What a unit's thread has to say to the control agent.

use std::collections::BTreeSet;

use placement::ClusterMap;
use runtime::Sender;
use wire::control::{LogEnd, StoreBeat};
use wire::map::{Chain, Phase, ReplicaState, Unit};
use wire::{Incarnation, MapNumber, StoreId};

use crate::control_thread::{ControlMail, UnitBeat};

/// See the module.
#[derive(Debug)]
pub(crate) struct Teller {
    control: Sender<ControlMail>,
    pub(crate) unit: Unit,
    pub(crate) store: StoreId,
    /// The map that the unit follows; 0: none.
    pub(crate) followed: MapNumber,
    /// Stores that don't answer.
    suspects: BTreeSet<StoreId>,
    has_news: bool,
}

impl Teller {
    pub(crate) fn new(control: Sender<ControlMail>, unit: Unit, store: StoreId) -> Self {
        Self { control, unit, store, followed: MapNumber(0), suspects: BTreeSet::new(), has_news: false }
    }

    /// What isn't taken is said again with the next beat, or after the next map.
    pub(crate) fn tell(&self, mail: ControlMail) {
        if self.control.send(mail).is_err() && !self.control.is_closed() {
            tracing::warn!("the control thread is behind with its mail");
        }
    }

    pub(crate) fn beat(&self, beat: StoreBeat, log_end: LogEnd, (recovered_cut, lacks): (bool, bool)) {
        let (unit, followed) = (self.unit, self.followed);
        self.tell(ControlMail::Unit(UnitBeat { unit, beat, followed, log_end, recovered_cut, lacks }));
    }

    pub(crate) fn suspect(&mut self, store: StoreId, is_suspect: bool) {
        self.has_news |= if is_suspect { self.suspects.insert(store) } else { self.suspects.remove(&store) };
    }

    pub(crate) fn tell_suspects(&mut self) {
        if std::mem::take(&mut self.has_news) {
            self.tell(ControlMail::Suspects(self.unit, self.suspects.iter().copied().collect()));
        }
    }
}

/// The life of a store that the control group has accepted last, as far as a map says.
pub(crate) fn known_life(map: &ClusterMap, store: StoreId) -> Incarnation {
    map.store(store).map_or(Incarnation(0), |store| store.incarnation)
}

/// What a map says of a store's present life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Standing {
    /// The control group has accepted it: the lives before needn't be remembered.
    pub(crate) is_accepted: bool,
    /// It serves in every chain that it is in, so that it has everything again.
    pub(crate) is_whole: bool,
}

impl Standing {
    pub(crate) fn of(map: &ClusterMap, store: StoreId, life: Incarnation) -> Self {
        let map = map.as_map();
        let place = map.stores.iter().position(|known| known.store == store && known.incarnation == life);
        let Some(place) = place.and_then(|place| u16::try_from(place).ok()) else {
            return Self { is_accepted: false, is_whole: false };
        };
        let chains =
            map.slices.iter().map(|slice| &slice.chain).chain(map.groups.iter().map(|group| &group.chain));
        // The map that first has a life puts its store out of all chains, or prepares the chain that it is alone in.
        let serves = |chain: &Chain| {
            chain
                .member(place)
                .is_none_or(|member| member.state == ReplicaState::Serving && chain.phase == Phase::Active)
        };
        Self { is_accepted: true, is_whole: chains.into_iter().all(serves) }
    }
}

#[cfg(test)]
mod tests {
    use placement::{OneNode, one_node};
    use wire::{ClusterId, NodeId, ShardIndex};

    use super::*;

    fn map(life: u64, change: impl FnOnce(&mut Chain)) -> ClusterMap {
        let map = one_node(OneNode {
            cluster: ClusterId([1; 16]),
            node: NodeId(1),
            name: "node-1".to_owned(),
            stores: vec![(StoreId([2; 16]), ShardIndex(0), "127.0.0.1:1".to_owned())],
            metadata: StoreId([3; 16]),
            metadata_address: "127.0.0.1:2".to_owned(),
            control: "127.0.0.1:3".to_owned(),
            ring_bits: 2,
            reclaim_delay_ms: 1000,
        });
        let mut map = map.expect("a legal map").as_map().clone();
        map.stores[0].incarnation = Incarnation(life);
        change(&mut map.slices[3].chain);
        ClusterMap::new(map).expect("a legal map")
    }

    #[test]
    fn a_store_is_whole_when_all_its_chains_serve_in_its_present_life() {
        let standing = |life, change: fn(&mut Chain)| {
            let Standing { is_accepted, is_whole } =
                Standing::of(&map(life, change), StoreId([2; 16]), Incarnation(7));
            (is_accepted, is_whole)
        };
        assert_eq!(standing(7, |_| {}), (true, true));
        assert_eq!(standing(6, |_| {}), (false, false), "an earlier life's");
        assert_eq!(standing(7, |chain| chain.phase = Phase::Prepared), (true, false));
        assert_eq!(standing(7, |chain| chain.members[0].state = ReplicaState::LastServing), (true, false));
    }
}
