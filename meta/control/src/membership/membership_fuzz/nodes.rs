//! Nodes: processes that register, send heartbeats, hold leases and follow maps.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use placement::ClusterMap;
use wire::control::{
    CaughtUp, ChainId, Condition, Heartbeat, HeartbeatReply, Life, LogEnd, Registration, RegistrationRefusal,
    RegistrationReply, Slow, StoreBeat, StoreReport, StoreVerdict, Synced, next_incarnation,
};
use wire::map::{Chain, ReplicaState, Unit};
use wire::{CommitIndex, Epoch, GroupId, Incarnation, MapNumber, Nanos, NodeId, ShardIndex, StoreId};

use super::super::{chain_of, chains};
use super::world::{Clock, Disk, Ev, MS, Message, SECOND, World, store_id};

/// A machine with its disks.
pub(super) struct Machine {
    pub(super) id: NodeId,
    pub(super) name: String,
    pub(super) clock: Clock,
    pub(super) process: Option<Process>,
    /// The newest map that is durable here; 0: none.
    pub(super) installed: usize,
    pub(super) stores: Vec<(StoreId, Unit)>,
    /// Until when control isn't reached.
    pub(super) cut_off_until: u64,
    pub(super) is_destroyed: bool,
}

/// A map by which a process serves, and with which stores.
type Serving = (Rc<ClusterMap>, Vec<(StoreId, Unit)>);

pub(super) struct Process {
    pub(super) life: Life,
    pub(super) paused_until: u64,
    /// The map that its units follow.
    pub(super) follows: usize,
    pub(super) lease_until: Nanos,
    /// The map with which it was accepted first: it serves nothing before.
    pub(super) serves_from: Option<usize>,
    pub(super) is_registered: bool,
    pub(super) refused: BTreeSet<StoreId>,
    pub(super) synced: BTreeMap<(ChainId, StoreId), Epoch>,
    pub(super) caught_up: BTreeSet<(GroupId, StoreId)>,
}

impl World {
    pub(super) fn add_first_machine(&mut self, shards: u8) {
        let mut stores: Vec<(StoreId, Unit)> =
            (1..=shards).map(|i| (store_id(i), Unit::Shard(ShardIndex(u16::from(i) - 1)))).collect();
        stores.push((store_id(100), Unit::Group(GroupId(0))));
        self.push_machine(NodeId(1), stores, 0);
    }

    /// A machine that joins.
    pub(super) fn add_machine(&mut self, delay: u64) {
        let shards = self.random.between(1, 3);
        let mut stores = Vec::new();
        for shard in 0..shards {
            stores.push((self.new_disk(), Unit::Shard(ShardIndex(u16::try_from(shard).unwrap()))));
        }
        stores.push((self.new_disk(), Unit::Group(GroupId(0))));
        self.push_machine(NodeId(0), stores, delay);
    }

    pub(super) fn new_disk(&mut self) -> StoreId {
        let store = store_id(self.next_store);
        self.next_store += 1;
        if self.next_store == 100 {
            self.next_store = 101;
        }
        self.disks.insert(store, Disk::default());
        store
    }

    fn push_machine(&mut self, id: NodeId, stores: Vec<(StoreId, Unit)>, delay: u64) {
        let machine = self.nodes.len();
        for (store, _) in &stores {
            self.disks.entry(*store).or_default();
        }
        let clock = Clock::new(&mut self.random);
        self.nodes.push(Machine {
            id,
            name: format!("node-{machine}"),
            clock,
            process: None,
            installed: usize::from(id == NodeId(1)),
            stores,
            cut_off_until: 0,
            is_destroyed: false,
        });
        self.at(delay, Ev::Restart(machine));
    }

    pub(super) fn machine_of(&self, node: NodeId) -> Option<usize> {
        self.nodes.iter().position(|machine| machine.id == node)
    }

    pub(super) fn reaches_control(&self, machine: usize) -> bool {
        self.nodes[machine].cut_off_until <= self.now
    }

    /// The process starts: every store begins another life.
    pub(super) fn start(&mut self, machine: usize) {
        let node = &self.nodes[machine];
        if node.process.is_some() || node.is_destroyed {
            return;
        }
        let life = Life(self.random.next());
        let stores: Vec<StoreId> = node.stores.iter().map(|(store, _)| *store).collect();
        for store in stores {
            let low = u16::try_from(self.random.below(1 << 16)).unwrap();
            let disk = self.disks.get_mut(&store).expect("its disk");
            if disk.incarnation > Incarnation(0) {
                disk.lives.push(disk.incarnation);
            }
            disk.incarnation = next_incarnation(disk.incarnation, low);
            disk.is_fenced = false;
        }
        self.nodes[machine].process = Some(Process {
            life,
            paused_until: 0,
            follows: self.nodes[machine].installed,
            lease_until: Nanos(0),
            serves_from: None,
            is_registered: false,
            refused: BTreeSet::new(),
            synced: BTreeMap::new(),
            caught_up: BTreeSet::new(),
        });
        self.at(MS, Ev::Beat(machine, life));
    }

    /// The process with this life, unless it stands still.
    pub(super) fn process(&mut self, machine: usize, life: Life) -> Option<&mut Process> {
        let now = self.now;
        let process = self.nodes[machine].process.as_mut()?;
        (process.life == life && process.paused_until <= now).then_some(process)
    }

    /// How long the process with this life still stands still.
    fn stands_still(&self, machine: usize, life: Life) -> Option<u64> {
        let process = self.nodes[machine].process.as_ref()?;
        (process.life == life && process.paused_until > self.now).then(|| process.paused_until - self.now)
    }

    pub(super) fn on_beat(&mut self, machine: usize, life: Life) {
        if let Some(until) = self.stands_still(machine, life) {
            return self.at(until, Ev::Beat(machine, life));
        }
        if self.process(machine, life).is_none() {
            return;
        }
        self.at(250 * MS, Ev::Beat(machine, life));
        self.sync(machine);
        self.report(machine);
    }

    /// Sends a registration or a heartbeat to somebody who believes to lead.
    fn report(&mut self, machine: usize) {
        let believers: Vec<usize> =
            (0..self.voters.len()).filter(|voter| self.voters[*voter].membership.is_leader()).collect();
        let newest = believers.iter().copied().max_by_key(|voter| self.voters[*voter].term);
        let Some(newest) = newest else { return };
        let voter = if self.random.one_in(3) { believers[self.random.pick(believers.len())] } else { newest };
        let is_lost = self.faults && self.random.one_in(10);
        if is_lost || !self.reaches_control(machine) || self.voters[voter].is_alone {
            return;
        }
        let Some(process) = &self.nodes[machine].process else { return };
        let (life, is_registered) = (process.life, process.is_registered);
        let message = if is_registered {
            Message::Heartbeat(Box::new(self.heartbeat(machine)))
        } else {
            let token = self.next_token;
            self.next_token += 1;
            self.tokens.insert(token, (machine, life));
            Message::Registration(token, Box::new(self.registration(machine)))
        };
        let delay = self.delay();
        self.at(delay, Ev::ToVoter(voter, message));
    }

    fn log_end(&self, store: StoreId, unit: Unit) -> LogEnd {
        let disk = &self.disks[&store];
        match unit {
            Unit::Shard(_) => LogEnd::default(),
            Unit::Group(group) => {
                let count = disk.content.get(&ChainId::Group(group)).map_or(0, BTreeSet::len);
                LogEnd { epoch: disk.log_epoch, index: CommitIndex(count as u64) }
            }
        }
    }

    fn used(&self, store: StoreId) -> u64 {
        if self.is_forming {
            return 0;
        }
        self.disks[&store].content.values().map(|ids| ids.len() as u64).sum()
    }

    fn registration(&self, machine: usize) -> Registration {
        let node = &self.nodes[machine];
        let process = node.process.as_ref().expect("it runs");
        let report = |(store, unit): &(StoreId, Unit)| {
            let disk = &self.disks[store];
            StoreReport {
                store: *store,
                unit: *unit,
                address: format!("h:{}", 7_430 + u16::from(store.0[0])),
                incarnation: disk.incarnation,
                lives: disk.lives.clone(),
                recovered_cut: disk.cut,
                lacks: disk.cut,
                log_end: self.log_end(*store, *unit),
                sequence: disk.sequence,
                capacity_bytes: 1 << 30,
                used_bytes: self.used(*store),
                condition: self.condition(*store),
            }
        };
        Registration {
            node: node.id,
            life: process.life,
            join: true,
            name: node.name.clone(),
            rack: String::new(),
            control: "h:7422".to_owned(),
            sent: node.clock.read(self.now),
            installed: MapNumber(node.installed as u64),
            stores: node.stores.iter().filter(|(store, _)| !self.disks[store].is_lost).map(report).collect(),
        }
    }

    fn condition(&self, store: StoreId) -> Condition {
        if self.disks[&store].is_fenced { Condition::Fenced } else { Condition::Well }
    }

    fn heartbeat(&mut self, machine: usize) -> Heartbeat {
        let mut slow = Vec::new();
        if self.faults && self.random.one_in(60) {
            let map = self.map();
            let syncing = chains(map.as_map()).find_map(|(id, chain)| {
                let member = chain.members.iter().find(|member| member.state == ReplicaState::Syncing)?;
                let store = map.as_map().stores[usize::from(member.store)].store;
                Some(Slow { chain: id, epoch: chain.epoch, store })
            });
            slow.extend(syncing);
        }
        let node = &self.nodes[machine];
        let process = node.process.as_ref().expect("it runs");
        let bad = self.bad_links.iter().filter_map(|(a, b)| match (*a == machine, *b == machine) {
            (true, _) => Some(self.nodes[*b].id),
            (_, true) => Some(self.nodes[*a].id),
            _ => None,
        });
        let beat = |(store, _): &(StoreId, Unit)| StoreBeat {
            store: *store,
            condition: self.condition(*store),
            sequence: self.disks[store].sequence,
            used_bytes: self.used(*store),
            lag: 0,
        };
        let synced = process.synced.iter().map(|((chain, store), epoch)| Synced {
            chain: *chain,
            epoch: *epoch,
            store: *store,
            missing: 0,
        });
        Heartbeat {
            node: node.id,
            life: process.life,
            sent: node.clock.read(self.now),
            installed: MapNumber(node.installed as u64),
            stores: node.stores.iter().map(beat).collect(),
            suspects: bad.filter(|node| *node != NodeId(0)).collect(),
            synced: synced.collect(),
            caught_up: process
                .caught_up
                .iter()
                .map(|(group, store)| CaughtUp { group: *group, store: *store })
                .collect(),
            slow,
        }
    }

    pub(super) fn on_reply(&mut self, machine: usize, life: Life, reply: HeartbeatReply) {
        if let Some(until) = self.stands_still(machine, life) {
            return self.at(until, Ev::ToNode(machine, life, reply));
        }
        let Some(process) = self.process(machine, life) else { return };
        if !reply.is_known {
            process.is_registered = false;
            return;
        }
        if reply.lease > 0 {
            // R18
            process.lease_until = process.lease_until.max(reply.sent.after(reply.lease));
        }
        let number = usize::try_from(reply.number.0).unwrap();
        self.on_push(machine, number);
    }

    pub(super) fn on_registered(&mut self, machine: usize, life: Life, reply: RegistrationReply) {
        if let Some(until) = self.stands_still(machine, life) {
            return self.at(until, Ev::Registered(machine, life, reply));
        }
        if self.process(machine, life).is_none() {
            return;
        }
        match reply {
            RegistrationReply::Accepted { node, number, stores } => {
                let number = usize::try_from(number.0).unwrap();
                self.nodes[machine].id = node;
                let process = self.process(machine, life).expect("it was there");
                process.is_registered = true;
                process.serves_from.get_or_insert(number);
                // One that the map doesn't have is taken in by an operator, who asks nobody here.
                let is_refused = |verdict: &StoreVerdict| {
                    !matches!(verdict, StoreVerdict::Accepted | StoreVerdict::Unknown)
                };
                process.refused = stores
                    .iter()
                    .filter(|(_, verdict)| is_refused(verdict))
                    .map(|(store, _)| *store)
                    .collect();
                for (store, _) in stores.iter().filter(|(_, verdict)| *verdict == StoreVerdict::Accepted) {
                    self.disks.get_mut(store).expect("its disk").lives.clear();
                }
                self.on_push(machine, number);
            }
            RegistrationReply::Refused(RegistrationRefusal::Busy | RegistrationRefusal::NodeAlive) => (),
            RegistrationReply::Refused(RegistrationRefusal::NodeUnknown) => {
                // It was forgotten or replaced.
                self.nodes[machine].is_destroyed = true;
                self.nodes[machine].process = None;
            }
            RegistrationReply::Refused(refusal) => panic!("{refusal:?} for node {machine}"),
        }
    }

    pub(super) fn push_map(&mut self, number: usize) {
        for machine in 0..self.nodes.len() {
            let is_lost = self.faults && self.random.one_in(10);
            if self.reaches_control(machine) && !is_lost {
                let delay = self.delay();
                self.at(delay, Ev::Push(machine, number));
            }
        }
    }

    pub(super) fn on_push(&mut self, machine: usize, number: usize) {
        let Some(process) = &self.nodes[machine].process else { return };
        let life = process.life;
        if let Some(until) = self.stands_still(machine, life) {
            return self.at(until, Ev::Push(machine, number));
        }
        if number > self.nodes[machine].installed {
            let longest = if self.faults && self.random.one_in(30) { 900 * MS } else { 40 * MS };
            let delay = self.random.between(2 * MS, longest);
            self.at(delay, Ev::Installed(machine, life, number));
        }
    }

    pub(super) fn on_installed(&mut self, machine: usize, life: Life, number: usize) {
        if let Some(until) = self.stands_still(machine, life) {
            return self.at(until, Ev::Installed(machine, life, number));
        }
        if self.process(machine, life).is_none() || number <= self.nodes[machine].installed {
            return;
        }
        self.nodes[machine].installed = number;
        let process = self.process(machine, life).expect("it was there");
        process.follows = number;
        self.clear_marks(machine);
        self.check_epochs();
        self.report(machine);
    }

    /// A store that cut its log is whole again once it serves in all of its chains.
    fn clear_marks(&mut self, machine: usize) {
        let Some((map, stores)) = self.serving_map(machine) else { return };
        for (store, _) in stores {
            let Some(place) = map.as_map().stores.iter().position(|record| record.store == store) else {
                continue;
            };
            let place = u16::try_from(place).unwrap();
            let mut members = chains(map.as_map()).filter_map(|(_, chain)| chain.member(place));
            if members.all(|member| member.state == ReplicaState::Serving) {
                let disk = self.disks.get_mut(&store).expect("its disk");
                disk.cut = false;
            }
        }
    }

    /// The map by which a running process serves, and the stores that it serves with.
    pub(super) fn serving_map(&self, machine: usize) -> Option<Serving> {
        let node = &self.nodes[machine];
        let process = node.process.as_ref()?;
        let from = process.serves_from?;
        if process.paused_until > self.now || process.follows < from || process.follows == 0 {
            return None;
        }
        let map = Rc::clone(&self.maps[process.follows - 1]);
        let works = |(store, _): &&(StoreId, Unit)| {
            let disk = &self.disks[store];
            !process.refused.contains(store) && !disk.is_fenced && !disk.is_lost
        };
        Some((map, node.stores.iter().filter(works).copied().collect()))
    }

    /// The chain by which a store serves now, with its place.
    pub(super) fn served(&self, store: StoreId, id: ChainId) -> Option<(Chain, u16)> {
        let machine =
            self.nodes.iter().position(|node| node.stores.iter().any(|(known, _)| *known == store))?;
        let (map, stores) = self.serving_map(machine)?;
        if !stores.iter().any(|(known, _)| *known == store) {
            return None;
        }
        let place = map.as_map().stores.iter().position(|record| record.store == store)?;
        let chain = *chain_of(map.as_map(), id)?;
        Some((chain, u16::try_from(place).unwrap()))
    }

    pub(super) fn stop(&mut self, machine: usize, back_after: u64) {
        self.nodes[machine].process = None;
        self.at(back_after, Ev::Restart(machine));
    }

    pub(super) fn end_faults(&mut self) {
        self.faults = false;
        self.bad_links.clear();
        for machine in 0..self.nodes.len() {
            self.nodes[machine].cut_off_until = 0;
            let now = self.now;
            if let Some(process) = self.nodes[machine].process.as_mut() {
                process.paused_until = process.paused_until.min(now + SECOND);
            }
            let fenced = self.nodes[machine].stores.iter().any(|(store, _)| self.disks[store].is_fenced);
            if fenced {
                self.nodes[machine].process = None;
            }
            self.at(SECOND, Ev::Restart(machine));
        }
        for voter in 0..self.voters.len() {
            self.voters[voter].is_alone = false;
        }
    }
}
