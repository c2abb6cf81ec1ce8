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
        let lasting = self.faults.duration(fault);
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
        match fault {
            Fault::Kill | Fault::PowerCut => self.end_node(0, fault == Fault::PowerCut),
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
                let paused = &mut self.nodes[0].paused_until;
                *paused = now.after(lasting).max(*paused);
            }
            Fault::SetClock => self.nodes[0].set_clock(self.faults.clock_step()),
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
                // Writes that a log loses are not to be told from a torn tail; a chunk store's are noticed when they are read.
                let count = self.nodes[0].hosts.len();
                let unit = self.random.index(if fault == Fault::LostWrites { count - 1 } else { count });
                self.faults.apply(fault, &mut self.nodes[0].hosts[unit].disk);
                self.schedule.after(lasting, Happening::FaultEnds(fault));
            }
            Fault::Flip | Fault::BreakSector => {
                let unit = self.random.index(self.nodes[0].hosts.len());
                let at = self.nodes[0].hosts[unit].disk.damage(fault == Fault::BreakSector, now);
                self.trace.tell(now, format_args!("damage of disk {unit} at {at:?}"));
            }
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
            _ => self.nodes[0].hosts.iter_mut().for_each(|host| host.disk.heal()),
        }
    }

    pub(super) fn end_node(&mut self, node: usize, by_power: bool) {
        let delay = self.random.latency(300 * Nanos::MILLISECOND);
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
            let is_broken = self.nodes[node].is_up()
                && self.nodes[node]
                    .hosts
                    .iter()
                    .any(|host| matches!(host.condition, Condition::Failed(_) | Condition::Fenced));
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
            let delay = self.random.latency(Nanos::SECOND);
            let life = self.nodes[node].life;
            if std::mem::replace(&mut self.mending[node], life) != life {
                self.schedule.after(delay, Happening::NodeMend { node, life });
            }
        }
        Ok(())
    }
}
