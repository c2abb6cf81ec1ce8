//! What goes wrong, and what operators do about it.

use wire::control::{Answer, Command, Refusal};
use wire::map::{Standing, Unit};
use wire::{NodeId, StoreId};

use super::world::{Disk, Ev, MS, Message, SECOND, World};

/// How long faults go on.
const FAULTS: u64 = 40 * SECOND;
/// In which everything has to serve again.
const SETTLE: u64 = 120 * SECOND;

impl World {
    pub(super) fn run_faults(&mut self) {
        while self.now < FAULTS {
            self.step();
        }
    }

    /// No more faults: everything comes back, and serves in bounded time (I12).
    pub(super) fn run_until_whole(&mut self) {
        self.end_faults();
        for voter in 0..self.voters.len() {
            self.voters[voter].paused_until = self.voters[voter].paused_until.min(self.now + SECOND);
        }
        if self.leader.is_none() {
            self.at(2 * SECOND, Ev::Election);
        }
        let start = self.now;
        let mut quiet_since = None;
        while self.now < start + SETTLE {
            self.step();
            let is_whole = self.is_whole() && self.is_repaired();
            let since = *quiet_since.get_or_insert(self.now);
            if !is_whole {
                quiet_since = None;
            } else if self.now > since + SECOND && self.now > start + 5 * SECOND {
                self.counts.settle_seconds_max = (since.saturating_sub(start)) / SECOND;
                return;
            }
        }
        let map = self.map();
        let why: Vec<String> =
            super::super::chains(map.as_map()).map(|(id, chain)| format!("{id:?} {chain:?}\n")).collect();
        for node in &self.nodes {
            let process = node.process.as_ref();
            let (refused, is_registered) =
                process.map_or((None, false), |p| (Some(&p.refused), p.is_registered));
            eprintln!(
                "{:?} {} registered {is_registered} refused {refused:?} destroyed {}",
                node.id, node.name, node.is_destroyed
            );
            for (store, unit) in &node.stores {
                let disk = &self.disks[store];
                eprintln!(
                    "    {} {unit:?} life {} after {:?} sequence {} cut {} rolled back {} lost {} fenced {}",
                    store.0[0],
                    disk.incarnation,
                    disk.lives,
                    disk.sequence,
                    disk.cut,
                    disk.is_rolled_back,
                    disk.is_lost,
                    disk.is_fenced
                );
            }
        }
        panic!("not whole after {SETTLE} ns: {} {:?}", why.concat(), map.as_map().stores);
    }

    /// In a cluster where nothing else happens a node ends just before an election: the new leader, which never hears of it, puts it out.
    pub(super) fn run_quiet_death(&mut self) {
        let machine = self.random.pick(self.nodes.len());
        if self.nodes[machine].process.is_none() {
            return;
        }
        self.nodes[machine].is_destroyed = true;
        self.nodes[machine].process = None;
        self.say(&format!("machine {machine} ends quietly"));
        self.on_election();
        self.is_unattended = true;
        let end = self.now + 10 * SECOND;
        while self.now < end {
            self.step();
        }
        let (map, node) = (self.map(), self.nodes[machine].id);
        for (id, chain) in super::super::chains(map.as_map()) {
            let mut ackers = chain.ackers();
            let has = ackers.any(|member| map.as_map().stores[usize::from(member.store)].node == node);
            assert!(!has, "{id:?} still has the members of {node}, which is dead: {chain:?}");
        }
    }

    /// Whether no disk still has to be replaced.
    fn is_repaired(&self) -> bool {
        self.broken().is_empty() && self.nodes.iter().all(|node| node.process.is_some() || node.is_destroyed)
    }

    pub(super) fn on_fault(&mut self) {
        if !self.faults {
            return;
        }
        let delay = self.random.between(100 * MS, 4 * SECOND);
        self.at(delay, Ev::Fault);
        let machine = self.random.pick(self.nodes.len());
        let fault = self.random.below(16);
        self.say(&format!("fault {fault} at machine {machine}"));
        match fault {
            0..=2 => self.crash(machine),
            3 | 4 => {
                let until = self.now + self.random.between(100 * MS, 6 * SECOND);
                if let Some(process) = self.nodes[machine].process.as_mut() {
                    process.paused_until = until;
                }
            }
            5 | 6 => {
                self.nodes[machine].cut_off_until = self.now + self.random.between(500 * MS, 5 * SECOND);
            }
            7 => {
                let voter = self.random.pick(self.voters.len());
                self.voters[voter].paused_until = self.now + self.random.between(500 * MS, 5 * SECOND);
            }
            8 => {
                let voter = self.random.pick(self.voters.len());
                self.voters[voter].is_alone = !self.voters[voter].is_alone;
            }
            9 => {
                let voter = self.random.pick(self.voters.len());
                self.restart_voter(voter);
            }
            10 if self.random.one_in(2) => {
                // A node's own link fails, but for control's.
                for other in (0..self.nodes.len()).filter(|other| *other != machine) {
                    self.bad_links.insert((machine.min(other), machine.max(other)));
                }
            }
            10 => {
                let other = self.random.pick(self.nodes.len());
                let pair = (machine.min(other), machine.max(other));
                if machine != other && !self.bad_links.remove(&pair) {
                    self.bad_links.insert(pair);
                }
            }
            11 => self.power_cut(),
            12 => {
                let stores = self.nodes[machine].stores.len();
                let (store, _) = self.nodes[machine].stores[self.random.pick(stores)];
                self.disks.get_mut(&store).expect("its disk").is_fenced = true;
            }
            13 => self.lose_disk(machine),
            14 => self.roll_back(machine),
            _ => self.lose_node(machine),
        }
    }

    fn crash(&mut self, machine: usize) {
        self.keep_snapshots(machine);
        let back = if self.random.one_in(3) { 6 * SECOND } else { SECOND };
        let back = self.random.between(20 * MS, back);
        if self.random.one_in(4) {
            self.cut(machine);
        }
        self.stop(machine, back);
    }

    /// Recovery will cut the end of a store's log.
    fn cut(&mut self, machine: usize) {
        let stores: Vec<StoreId> = self.nodes[machine].stores.iter().map(|(store, _)| *store).collect();
        for store in stores {
            if !self.may_lose(store) || self.nodes[machine].process.is_none() {
                continue;
            }
            let disk = self.disks.get_mut(&store).expect("its disk");
            disk.cut = true;
            disk.sequence = disk.sequence.saturating_sub(2);
            for ids in disk.content.values_mut() {
                let last = ids.last().copied();
                ids.retain(|id| Some(*id) != last);
            }
        }
    }

    fn keep_snapshots(&mut self, machine: usize) {
        let stores: Vec<StoreId> = self.nodes[machine].stores.iter().map(|(store, _)| *store).collect();
        for store in stores {
            let disk = self.disks.get_mut(&store).expect("its disk");
            if disk.snapshot.is_none() && !disk.is_rolled_back {
                let copy = Disk { snapshot: None, ..disk.clone() };
                disk.snapshot = Some(Box::new(copy));
            }
        }
    }

    fn power_cut(&mut self) {
        let cut = self.random.pick(self.nodes.len());
        self.cut(cut);
        for machine in 0..self.nodes.len() {
            let back = self.random.between(20 * MS, 4 * SECOND);
            self.stop(machine, back);
        }
        for voter in 0..self.voters.len() {
            self.restart_voter(voter);
        }
        self.at(SECOND, Ev::Election);
    }

    /// A disk is gone for ever.
    fn lose_disk(&mut self, machine: usize) {
        let stores = self.nodes[machine].stores.len();
        let (store, _) = self.nodes[machine].stores[self.random.pick(stores)];
        let map = self.map();
        let is_known = map.as_map().stores.iter().any(|record| record.store == store);
        if is_known && self.may_lose(store) && self.nodes[machine].id != NodeId(0) {
            self.disks.get_mut(&store).expect("its disk").is_lost = true;
            let back = self.random.between(20 * MS, SECOND);
            self.stop(machine, back);
        }
    }

    /// A disk comes back as it was in an earlier life (R34).
    fn roll_back(&mut self, machine: usize) {
        let stores: Vec<StoreId> = self.nodes[machine].stores.iter().map(|(store, _)| *store).collect();
        for store in stores {
            let disk = &self.disks[&store];
            let Some(snapshot) = &disk.snapshot else { continue };
            if snapshot.incarnation < disk.incarnation && self.may_lose(store) && !disk.is_lost {
                let mut older = (**snapshot).clone();
                older.is_rolled_back = true;
                self.disks.insert(store, older);
            }
        }
        let back = self.random.between(20 * MS, SECOND);
        self.stop(machine, back);
    }

    /// A machine burns down, if nothing is lost with it.
    fn lose_node(&mut self, machine: usize) {
        let left = self.nodes.iter().filter(|node| !node.is_destroyed && node.id != NodeId(0)).count();
        let stores: Vec<StoreId> = self.nodes[machine].stores.iter().map(|(store, _)| *store).collect();
        if left < 3
            || self.nodes[machine].id == NodeId(0)
            || !stores.iter().all(|store| self.may_lose(*store))
        {
            return;
        }
        for store in stores {
            self.disks.get_mut(&store).expect("its disk").is_lost = true;
        }
        self.nodes[machine].is_destroyed = true;
        self.nodes[machine].process = None;
        if self.random.one_in(2) {
            self.add_machine(SECOND);
        }
    }

    /// Disks that have to be replaced: those that are gone, and those that were refused.
    fn broken(&self) -> Vec<(usize, StoreId, Unit)> {
        let map = self.map();
        let mut broken = Vec::new();
        for (machine, node) in self.nodes.iter().enumerate().filter(|(_, node)| !node.is_destroyed) {
            for (store, unit) in &node.stores {
                let record = map.as_map().stores.iter().find(|record| record.store == *store);
                let is_member = record.is_some_and(|record| record.standing == Standing::Member);
                let refused = node.process.as_ref().is_some_and(|process| process.refused.contains(store));
                if is_member && (self.disks[store].is_lost || (refused && self.disks[store].is_rolled_back)) {
                    broken.push((machine, *store, *unit));
                }
            }
        }
        broken
    }

    /// Looks after things every second.
    pub(super) fn on_operator(&mut self) {
        self.at(SECOND, Ev::Operator);
        if self.is_unattended {
            return;
        }
        let map = self.map();
        let broken = self.broken();
        if !broken.is_empty() {
            let (machine, old, unit) = broken[self.random.pick(broken.len())];
            self.replace_disk(machine, old, unit);
        }
        let gone = self
            .nodes
            .iter()
            .find(|node| node.is_destroyed && map.as_map().nodes.iter().any(|known| known.node == node.id));
        if let Some(node) = gone.map(|node| node.id) {
            let fresh = self.nodes.iter().filter(|node| !node.is_destroyed && node.id != NodeId(0));
            let fresh: Vec<NodeId> = fresh.map(|node| node.id).collect();
            let new = fresh.last().copied();
            let command = match new {
                Some(new) if self.random.one_in(2) => Command::ReplaceNode { old: node, new },
                _ => Command::ForgetNode { node, force: self.random.one_in(2) },
            };
            self.command(command);
        }
    }

    /// A new disk in a slot takes the place of the old one, once its node has registered it.
    fn replace_disk(&mut self, machine: usize, old: StoreId, unit: Unit) {
        let map = self.map();
        let is_known = |store: StoreId| map.as_map().stores.iter().any(|record| record.store == store);
        let spare =
            self.nodes[machine].stores.iter().find(|(store, other)| *other == unit && !is_known(*store));
        if let Some((new, _)) = spare.copied() {
            self.command(Command::ReplaceStore { old, new });
        } else {
            let new = self.new_disk();
            self.nodes[machine].stores.push((new, unit));
            self.stop(machine, 50 * MS);
        }
    }

    fn command(&mut self, command: Command) {
        let Some(voter) = self.leader else { return };
        let token = self.next_token;
        self.next_token += 1;
        self.commands.insert(token, command.clone());
        let delay = self.delay();
        self.at(delay, Ev::ToVoter(voter, Message::Command(token, command)));
    }

    pub(super) fn on_answer(&mut self, token: u64, answer: Answer) {
        let command = self.commands.remove(&token);
        if let (Answer::Done { .. }, Some(command)) = (&answer, &command) {
            match command {
                Command::ReplaceStore { old, .. } => {
                    self.counts.replaced += 1;
                    for node in &mut self.nodes {
                        node.stores.retain(|(store, _)| store != old);
                    }
                }
                Command::ReplaceNode { .. } => self.counts.replaced += 1,
                Command::ForgetNode { .. } => self.counts.forgotten += 1,
                _ => (),
            }
        }
        let is_expected = |refusal: &Refusal| {
            !matches!(refusal, Refusal::OutOfRange | Refusal::Full | Refusal::ChainUnknown(_))
        };
        if let Answer::Refused(refusal) = &answer {
            assert!(is_expected(refusal), "{refusal:?} to {command:?}");
        }
        self.answers.insert(token, answer);
    }
}
