//! Faults come and end; processes die and are started again.

use wire::Nanos;

use super::{Happening, Phase, World};
use crate::faults::Fault;
use crate::network::{Cut, Weather};
use crate::node::Condition;

impl World {
    pub(super) fn crash_client(&mut self, number: usize) {
        let now = self.schedule.now();
        let client = &mut self.clients[number];
        if client.process.take().is_none() {
            return;
        }
        client.life += 1;
        client.workload.on_crash(now);
        self.network.caller_died(number, false, &mut self.schedule);
    }

    pub(super) fn next_fault(&mut self) {
        if self.phase == Phase::Calm {
            return;
        }
        let Some(fault) = self.faults.choose() else { return };
        let lasting = if self.cluster.is_some() {
            self.faults.cluster_duration(fault)
        } else {
            self.faults.duration(fault)
        };
        let pause = self.faults.pause();
        self.schedule.after(pause, Happening::Fault);
        self.last_fault += 1;
        if self.case.has_fault(self.last_fault) {
            self.trace.tell(self.schedule.now(), format_args!("fault {}: {fault:?}", self.last_fault));
            self.tally.count("fault", fault.name());
            self.inflict(fault, lasting);
        }
    }

    fn inflict(&mut self, fault: Fault, lasting: u64) {
        let now = self.schedule.now();
        if self.strike_cluster(fault, lasting) {
            return;
        }
        match fault {
            Fault::Kill | Fault::PowerCut => {
                let node = self.target();
                self.end_node(node, fault == Fault::PowerCut);
            }
            Fault::ClientCrash => {
                let number = self.random.index(self.clients.len());
                self.crash_client(number);
                self.schedule.after(lasting, Happening::ClientStart { client: number });
            }
            Fault::ClientPause => {
                let number = self.random.index(self.clients.len());
                let paused = &mut self.clients[number].paused_until;
                *paused = now.after(lasting).max(*paused);
            }
            Fault::NodePause => {
                // A pause that is cut short would let what comes now overtake what waits.
                let node = self.target();
                let paused = &mut self.nodes[node].paused_until;
                *paused = now.after(lasting).max(*paused);
            }
            Fault::SetClock => {
                let node = self.target();
                self.nodes[node].set_clock(self.faults.clock_step());
            }
            Fault::Weather => {
                self.network.weather = self.faults.weather();
                self.schedule.after(lasting, Happening::FaultEnds(fault));
            }
            Fault::Partition => self.network.cut(Cut::whole(now.after(lasting))),
            Fault::Reset => {
                for connection in self.network.open() {
                    if self.random.per_mille(500) {
                        self.network.reset(connection, now, &mut self.schedule);
                    }
                }
            }
            Fault::SlowDisk | Fault::DiskErrors | Fault::FullDisk | Fault::LostWrites => {
                let lost = (fault == Fault::LostWrites).then(|| self.damage_target()).flatten();
                let node = lost.unwrap_or_else(|| self.target());
                // Writes that a log loses are not to be told from a torn tail; a chunk store's are noticed when they are read.
                let count = self.nodes[node].hosts.len();
                let stores = self.nodes[node].stores().count() - 1;
                let unit = self.random.index(if fault == Fault::LostWrites { stores } else { count });
                self.trace.tell(now, format_args!("disk {node}.{unit}"));
                self.faults.apply(fault, &mut self.nodes[node].hosts[unit].disk);
                self.schedule.after(lasting, Happening::FaultEnds(fault));
            }
            Fault::Flip | Fault::BreakSector => {
                let node = self.damage_target().unwrap_or(0);
                let unit = self.random.index(self.nodes[node].hosts.len());
                let at = self.nodes[node].hosts[unit].disk.damage(fault == Fault::BreakSector, now);
                self.trace.tell(now, format_args!("damage of disk {node}.{unit} at {at:?}"));
            }
            _ => unreachable!("only clusters have such faults"),
        }
    }

    /// A node that dies in some seeds may die again while it recovers.
    pub(super) fn aim(&mut self, node: usize) {
        let dies = self.faults.profile().iter().any(|fault| matches!(fault, Fault::Kill | Fault::PowerCut));
        let delay = self.random.latency(3 * Nanos::MILLISECOND);
        if self.phase == Phase::Storm && dies && self.random.per_mille(200) {
            let life = self.nodes[node].life;
            self.schedule.after(delay, Happening::Strike { node, life });
        }
    }

    pub(super) fn strike(&mut self, node: usize, life: u64) {
        if self.is_gone(node) {
            return;
        }
        let is_opening = self.nodes[node].hosts.iter().any(|host| host.condition == Condition::Opening);
        if self.nodes[node].life != life || !is_opening || self.phase != Phase::Storm {
            return;
        }
        self.last_fault += 1;
        if self.case.has_fault(self.last_fault) {
            let now = self.schedule.now();
            self.trace.tell(now, format_args!("fault {}: another crash, in recovery", self.last_fault));
            self.tally.count("fault", "crash in recovery");
            let by_power = self.random.per_mille(600);
            self.end_node(node, by_power);
        }
    }

    pub(super) fn end_fault(&mut self, fault: Fault) {
        match fault {
            Fault::Weather => self.network.weather = Weather::CALM,
            _ => self.nodes.iter_mut().flat_map(|node| &mut node.hosts).for_each(|host| host.disk.heal()),
        }
    }

    pub(super) fn end_node(&mut self, node: usize, by_power: bool) {
        if self.is_gone(node) {
            return;
        }
        let is_long = self.cluster.is_some() && self.phase == Phase::Storm;
        let delay =
            if is_long { self.faults.downtime() } else { self.random.latency(300 * Nanos::MILLISECOND) };
        if let Some(replica) = self.nodes[node].meta().and_then(|meta| meta.replica()) {
            self.tally.add("network", "mutations answered from the results", replica.metrics().retries);
        }
        let (mut around, nodes) = self.around();
        nodes[node].die(by_power, &mut around);
        let life = nodes[node].life;
        self.schedule.after(delay, Happening::NodeStart { node, life });
    }

    /// An operator starts a process again whose units failed.
    pub(super) fn mend_nodes(&mut self) -> Result<(), String> {
        for node in 0..self.nodes.len() {
            if self.is_gone(node) {
                continue;
            }
            let is_broken = self.nodes[node].is_up()
                && self.nodes[node]
                    .hosts
                    .iter()
                    .any(|host| matches!(host.condition, Condition::Failed(_) | Condition::Fenced))
                || (self.cluster.is_some() && self.nodes[node].is_up() && self.is_beyond_repair(node));
            if !is_broken {
                continue;
            }
            for host in &self.nodes[node].hosts {
                if let Condition::Failed(why) = &host.condition
                    && !host.disk.was_faulty()
                {
                    return Err(format!("a unit can't be opened, and its disk did nothing wrong: {why}"));
                }
                if host.condition == Condition::Fenced && !host.disk.was_faulty() {
                    return Err("a unit is fenced, and its disk did nothing wrong".to_owned());
                }
            }
            let is_lost = self.cluster.is_some() && self.is_beyond_repair(node);
            let delay = self.random.latency(Nanos::SECOND);
            let life = self.nodes[node].life;
            if std::mem::replace(&mut self.mending[node], life) != life {
                if is_lost {
                    self.give_up(node);
                } else {
                    self.schedule.after(delay, Happening::NodeMend { node, life });
                }
            }
        }
        Ok(())
    }

    fn is_gone(&self, node: usize) -> bool {
        self.cluster.as_ref().is_some_and(|cluster| cluster.gone.contains(&node))
    }

    /// A unit can't be opened and never will be, or control takes one of its stores for an older copy.
    pub(super) fn is_beyond_repair(&self, node: usize) -> bool {
        let node = &self.nodes[node];
        let is_stale = node.control.as_ref().is_some_and(|control| !control.refused.is_empty());
        is_stale
            || node
                .hosts
                .iter()
                .any(|host| matches!(host.condition, Condition::Failed(_)) && host.disk.is_damaged())
    }
}
