//! What has to hold after every step.

use std::collections::{BTreeMap, BTreeSet};

use wire::control::ChainId;
use wire::map::{Chain, Phase, ReplicaState};
use wire::{Epoch, NodeId, StoreId};

use super::super::{chain_of, chains};
use super::world::World;

impl World {
    /// A change was committed.
    pub(super) fn check_commit(&mut self) {
        let map = self.map();
        let before = std::rc::Rc::clone(&self.maps[self.maps.len() - 2]);
        for (id, chain) in chains(map.as_map()) {
            let old = chain_of(before.as_map(), id);
            let had = old.is_some_and(|old| old.serving().next().is_some());
            self.counts.seeded += u64::from(!had && chain.serving().next().is_some());
            if old == Some(chain) {
                continue;
            }
            self.check_chain(id);
        }
        for (old, new) in before.as_map().stores.iter().zip(&map.as_map().stores) {
            assert!(new.incarnation >= old.incarnation, "I4: a life fell");
        }
        self.note_holders();
    }

    /// I6: what was acked is at every member that serves. A member that lost something by a fault of its disk isn't told by its state before
    /// its process was started anew, and has to be caught then.
    pub(super) fn check_chain(&mut self, id: ChainId) {
        let map = self.map();
        let Some(chain) = chain_of(map.as_map(), id) else { return };
        let Some(acked) = self.acked.get(&id) else { return };
        for member in chain.serving() {
            let record = &map.as_map().stores[usize::from(member.store)];
            let disk = &self.disks[&record.store];
            let owner = self.machine_of(record.node).and_then(|machine| self.nodes[machine].process.as_ref());
            let runs = owner.is_some_and(|process| process.serves_from.is_some());
            if !runs || disk.incarnation != record.incarnation || disk.is_lost {
                // Its next life will show.
                continue;
            }
            let empty = BTreeSet::new();
            let has = disk.content.get(&id).unwrap_or(&empty);
            let lacks: Vec<&u32> = acked.difference(has).collect();
            assert!(
                lacks.is_empty(),
                "I6: {:?} serves {id:?} in {:?} without {lacks:?} (rolled back: {}, cut: {})",
                record.store,
                chain.epoch,
                disk.is_rolled_back,
                disk.cut
            );
        }
    }

    /// I8: nobody with a lease answers reads in an epoch of a group when a later one can ack without having asked him.
    pub(super) fn check_readers(&self) {
        let map = self.map();
        let newest = &map.as_map().groups[0].chain;
        for node in &self.nodes {
            let Some(process) = &node.process else { continue };
            if process.paused_until > self.now || node.clock.read(self.now) >= process.lease_until {
                continue;
            }
            let Some((followed, stores)) = self.serving_map_of(node.id) else { continue };
            let chain = &followed.as_map().groups[0].chain;
            let serves = stores.iter().any(|store| {
                let place = followed.as_map().stores.iter().position(|record| record.store == *store);
                let member = place.and_then(|place| chain.member(u16::try_from(place).unwrap()));
                member.is_some_and(|member| member.state == ReplicaState::Serving)
            });
            let reads = serves && chain.phase == Phase::Active;
            let is_older = newest.phase == Phase::Active && chain.epoch < newest.epoch;
            assert!(
                !(reads && is_older),
                "I8: {:?} reads in {} beside {}",
                node.id,
                chain.epoch,
                newest.epoch
            );
        }
    }

    fn serving_map_of(&self, node: NodeId) -> Option<(std::rc::Rc<placement::ClusterMap>, Vec<StoreId>)> {
        let (map, stores) = self.serving_map(self.machine_of(node)?)?;
        Some((map, stores.into_iter().map(|(store, _)| store).collect()))
    }

    /// I3: at most one epoch of a chain can ack.
    pub(super) fn check_epochs(&self) {
        let map = self.map();
        let mut acking: BTreeMap<(ChainId, Epoch), (Chain, BTreeSet<u16>)> = BTreeMap::new();
        for machine in 0..self.nodes.len() {
            let Some((followed, stores)) = self.serving_map(machine) else { continue };
            for (store, _) in stores {
                let place = followed.as_map().stores.iter().position(|record| record.store == store);
                let Some(place) = place.map(|place| u16::try_from(place).unwrap()) else { continue };
                for (id, chain) in chains(followed.as_map()) {
                    let acks = chain.member(place).is_some_and(|member| member.state.acks());
                    if acks && chain.phase == Phase::Active {
                        let entry = acking.entry((id, chain.epoch)).or_insert((*chain, BTreeSet::new()));
                        entry.1.insert(place);
                        if chain.can_ack() {
                            entry.0 = *chain;
                        }
                    }
                }
            }
        }
        let can = |(chain, there): &(Chain, BTreeSet<u16>)| {
            chain.can_ack() && chain.ackers().all(|member| there.contains(&member.store))
        };
        let mut last: Option<ChainId> = None;
        for ((id, epoch), found) in &acking {
            if can(found) {
                assert!(last != Some(*id), "I3: two epochs of {id:?} can ack, the later one is {epoch}");
                last = Some(*id);
                let newest = chain_of(map.as_map(), *id).expect("chains stay");
                assert!(
                    newest.phase == Phase::Prepared || newest.epoch >= *epoch,
                    "I3: nobody made {epoch} active"
                );
            }
        }
    }

    /// Who has everything that was acked, reckoned beside the membership: the serving members of the last active epoch that could ack, of a
    /// group those of the last active one (R6).
    pub(super) fn note_holders(&mut self) {
        let map = self.map();
        for (id, chain) in chains(map.as_map()) {
            let counts = match id {
                ChainId::Slice(_) => chain.can_ack(),
                ChainId::Group(_) => chain.serving().next().is_some(),
            };
            if chain.phase == Phase::Active && counts {
                let store = |place: u16| map.as_map().stores[usize::from(place)].store;
                let holders = chain.serving().map(|member| store(member.store)).collect();
                self.holders.insert(id, holders);
            }
        }
    }

    /// Whether every chain has somebody else who has everything and lost nothing, also in the epoch that is being prepared.
    pub(super) fn may_lose(&self, store: StoreId) -> bool {
        let is_whole = |other: &StoreId| {
            let disk = &self.disks[other];
            *other != store && !disk.cut && !disk.is_lost && !disk.is_rolled_back
        };
        let has_other =
            |holders: &BTreeSet<StoreId>| !holders.contains(&store) || holders.iter().any(is_whole);
        let map = self.map();
        let name = |place: u16| map.as_map().stores[usize::from(place)].store;
        let prepared = chains(map.as_map()).filter(|(_, chain)| chain.phase == Phase::Prepared);
        self.holders.values().all(has_other)
            && prepared
                .map(|(_, chain)| chain.serving().map(|member| name(member.store)).collect())
                .all(|serving: BTreeSet<StoreId>| has_other(&serving))
    }

    /// Whether everything serves, at full length, on nodes of its own.
    pub(super) fn is_whole(&self) -> bool {
        let map = self.map();
        let map = map.as_map();
        let nodes: BTreeSet<NodeId> = map
            .stores
            .iter()
            .filter(|store| store.standing == wire::map::Standing::Member && store.weight > 0)
            .map(|store| store.node)
            .collect();
        let length = nodes.len().min(3);
        chains(map).all(|(id, chain)| {
            let on: BTreeSet<NodeId> =
                chain.members.iter().map(|member| map.stores[usize::from(member.store)].node).collect();
            let full = chain.members.len() == length && on.len() == length;
            let in_sync = u8::try_from(length.min(2)).unwrap();
            chain.phase == Phase::Active
                && (full
                    || matches!(id, ChainId::Group(_))
                        && chain.members.len() == on.len()
                        && on.len() >= length.min(2))
                && chain.min_in_sync == in_sync
                && chain.serving().count() == chain.members.len()
        })
    }
}
