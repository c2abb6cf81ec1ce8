//! The abstract data path: a write is acked when every acker of an epoch, each following a map in which that epoch is active, has it durably,
//! and the head counts enough serving members (R1, R5, R6). Syncing copies what a serving member has.

use wire::control::{ChainId, Life};
use wire::map::{Chain, Phase, ReplicaState};
use wire::{Epoch, GroupId, SliceIndex, StoreId};

use super::super::{chain_of, chains};
use super::world::{Ev, MS, World};

/// A write on its way.
pub(super) struct Write {
    chain: ChainId,
    epoch: Epoch,
    /// Ackers in order; the life in which each admitted it, and whether its ack has come.
    ackers: Vec<(StoreId, Option<Life>, bool)>,
}

impl World {
    pub(super) fn on_write(&mut self) {
        self.at(60 * MS, Ev::Write);
        let machine = self.random.pick(self.nodes.len());
        let Some(process) = &self.nodes[machine].process else { return };
        if process.follows == 0 {
            return;
        }
        // A client with some map: not always the newest.
        let map = std::rc::Rc::clone(&self.maps[process.follows - 1]);
        let slices = map.as_map().slices.len();
        let id = if self.random.one_in(3) {
            ChainId::Group(GroupId(0))
        } else {
            ChainId::Slice(SliceIndex(u16::try_from(self.random.pick(slices)).unwrap()))
        };
        let Some(chain) = chain_of(map.as_map(), id) else { return };
        if chain.phase != Phase::Active || !chain.can_ack() {
            return;
        }
        let store = |place: u16| map.as_map().stores[usize::from(place)].store;
        let ackers: Vec<_> = chain.ackers().map(|member| (store(member.store), None, false)).collect();
        let count = ackers.len();
        let number = self.next_write;
        self.next_write += 1;
        self.writes.insert(number, Write { chain: id, epoch: chain.epoch, ackers });
        for place in 0..count {
            let delay = self.delay();
            self.at(delay, Ev::WriteAt(number, place));
        }
    }

    /// The life in which a store may ack in this epoch now, with the chain that it follows.
    fn may_ack(&self, store: StoreId, id: ChainId, epoch: Epoch) -> Option<(Life, Chain)> {
        let (chain, place) = self.served(store, id)?;
        let member = chain.member(place)?;
        // R1: the epoch is checked at each of the three moments.
        let fits = chain.epoch == epoch && chain.phase == Phase::Active && member.state.acks();
        let node = self.nodes.iter().find(|node| node.stores.iter().any(|(known, _)| *known == store))?;
        fits.then_some((node.process.as_ref()?.life, chain))
    }

    pub(super) fn on_write_at(&mut self, number: u32, place: usize) {
        let Some(write) = self.writes.get(&number) else { return };
        let (id, epoch, store) = (write.chain, write.epoch, write.ackers[place].0);
        let Some((life, _)) = self.may_ack(store, id, epoch) else {
            self.writes.remove(&number);
            return;
        };
        let disk = self.disks.get_mut(&store).expect("its disk");
        disk.content.entry(id).or_default().insert(number);
        disk.sequence += 1;
        if matches!(id, ChainId::Group(_)) {
            disk.log_epoch = disk.log_epoch.max(epoch);
        }
        self.writes.get_mut(&number).expect("it is there").ackers[place].1 = Some(life);
        let delay = self.delay();
        self.at(delay, Ev::WriteAck(number, place));
    }

    pub(super) fn on_write_ack(&mut self, number: u32, place: usize) {
        let Some(write) = self.writes.get(&number) else { return };
        let (id, epoch) = (write.chain, write.epoch);
        let (store, admitted, _) = write.ackers[place];
        let now = self.may_ack(store, id, epoch);
        if now.as_ref().map(|(life, _)| *life) != admitted {
            self.writes.remove(&number);
            return;
        }
        let write = self.writes.get_mut(&number).expect("it is there");
        write.ackers[place].2 = true;
        if !write.ackers.iter().all(|(_, _, is_acked)| *is_acked) {
            return;
        }
        let head = write.ackers[0].0;
        self.writes.remove(&number);
        // R6: the head counts who serves in the map that it follows.
        if self.may_ack(head, id, epoch).is_some_and(|(_, chain)| chain.can_ack()) {
            self.acked.entry(id).or_default().insert(number);
            self.counts.acked += 1;
            self.check_chain(id);
        }
    }

    /// Members of a machine's stores copy what they lack, if somebody who serves has followed as far.
    pub(super) fn sync(&mut self, machine: usize) {
        let Some((map, stores)) = self.serving_map(machine) else { return };
        for (store, _) in stores {
            let Some(place) = map.as_map().stores.iter().position(|record| record.store == store) else {
                continue;
            };
            let place = u16::try_from(place).unwrap();
            let mine: Vec<(ChainId, Chain, ReplicaState)> = chains(map.as_map())
                .filter_map(|(id, chain)| Some((id, *chain, chain.member(place)?.state)))
                .collect();
            for (id, chain, state) in mine {
                let learns = matches!(id, ChainId::Group(_)) && state == ReplicaState::Waiting;
                let syncs = state == ReplicaState::Syncing && chain.phase == Phase::Active;
                if (learns || syncs) && self.random.one_in(2) {
                    self.copy(machine, store, id, &chain, syncs);
                }
            }
        }
    }

    fn copy(&mut self, machine: usize, store: StoreId, id: ChainId, chain: &Chain, syncs: bool) {
        let map = self.serving_map(machine).expect("it serves").0;
        let name = |place: u16| map.as_map().stores[usize::from(place)].store;
        let sources: Vec<StoreId> = chain.serving().map(|member| name(member.store)).collect();
        let is_ready = |source: &StoreId| {
            // R1: a source has promised the epoch before it says what it has.
            let served = self.served(*source, id);
            let serves = served.is_some_and(|(theirs, place)| {
                let member = theirs.member(place).copied();
                theirs.epoch == chain.epoch
                    && member.is_some_and(|member| member.state == ReplicaState::Serving)
            });
            serves && self.reaches(machine, *source)
        };
        let Some(source) = sources.into_iter().find(is_ready) else { return };
        let there = self.disks[&source].content.get(&id).cloned().unwrap_or_default();
        let epoch = self.disks[&source].log_epoch;
        let disk = self.disks.get_mut(&store).expect("its disk");
        // R2: resync only adds.
        disk.content.entry(id).or_default().extend(there);
        disk.sequence += 1;
        disk.log_epoch = disk.log_epoch.max(epoch);
        let process = self.nodes[machine].process.as_mut().expect("it runs");
        if syncs {
            if process.synced.insert((id, store), chain.epoch) != Some(chain.epoch) {
                self.counts.synced += 1;
            }
        } else if let ChainId::Group(group) = id {
            process.caught_up.insert((group, store));
        }
    }

    fn reaches(&self, machine: usize, store: StoreId) -> bool {
        let owner = self.nodes.iter().position(|node| node.stores.iter().any(|(known, _)| *known == store));
        owner.is_some_and(|owner| !self.bad_links.contains(&(machine.min(owner), machine.max(owner))))
    }
}
