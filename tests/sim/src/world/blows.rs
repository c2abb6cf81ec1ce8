//! What goes wrong in a cluster, and to whom.
//!
//! Data must survive, so that damage is done to one node's disks alone, a node is lost for ever only while every chain has all its copies, and what one copy
//! acks is enough only where neither happens.

use wire::control::Command;
use wire::{Nanos, NodeId};

use super::{Happening, World};
use crate::faults::Fault;
use crate::network::{Cut, Machine};
use crate::operator::Wish;

/// How long an operator waits for an answer.
const PATIENCE: u64 = 10 * Nanos::SECOND;

impl World {
    /// A fault of a cluster; false: it is none that only clusters have.
    pub(super) fn strike_cluster(&mut self, fault: Fault, lasting: u64) -> bool {
        let until = self.schedule.now().after(lasting);
        match fault {
            Fault::PowerCutAll => {
                let living: Vec<usize> = self.living().map(|(number, _)| number).collect();
                for node in living {
                    self.end_node(node, true);
                }
            }
            Fault::Isolate | Fault::ControlCut => {
                let node = vec![Machine::Node(self.target())];
                let control = fault == Fault::ControlCut;
                self.network.cut(Cut { control, ..Cut::between(node.clone(), Vec::new(), until) });
                self.network.cut(Cut { control, ..Cut::between(Vec::new(), node, until) });
            }
            Fault::Split | Fault::OneWay => {
                let (here, there) = self.halves();
                if fault == Fault::Split {
                    self.network.cut(Cut::between(there.clone(), here.clone(), until));
                }
                self.network.cut(Cut::between(here, there, until));
            }
            Fault::Ring => self.cut_ring(until),
            Fault::Replace => {
                let node = self.damage_target().unwrap_or_else(|| self.target());
                let is_there = self.living().any(|(number, _)| number == node);
                if is_there && self.why_not_whole().is_none() {
                    self.replace(node);
                } else if is_there {
                    self.end_node(node, true);
                }
            }
            Fault::Voters => {
                let count = [1, 3, 5][self.faults.index(3)];
                self.ask_control(Wish::Manage(Command::SetVoters(count)), PATIENCE);
            }
            Fault::MinInSync => {
                let least = if self.faults.damages() { 2 } else { 1 };
                let count = [least, 2, 3][self.faults.index(3)];
                self.ask_control(Wish::Manage(Command::SetMinInSync(count)), PATIENCE);
            }
            _ => return false,
        }
        true
    }

    /// A node to be struck.
    pub(super) fn target(&mut self) -> usize {
        if self.cluster.is_none() {
            return 0;
        }
        let living: Vec<usize> = self.living().map(|(number, _)| number).collect();
        living[self.faults.index(living.len())]
    }

    /// The node whose disks are damaged, in seeds that damage any.
    pub(super) fn damage_target(&self) -> Option<usize> {
        let size = self.cluster.as_ref().map_or(1, |cluster| cluster.size);
        let chosen = usize::try_from(self.seed % size as u64).expect("few");
        self.faults.damages().then_some(chosen)
    }

    fn halves(&mut self) -> (Vec<Machine>, Vec<Machine>) {
        let mut machines: Vec<Machine> = self.living().map(|(number, _)| Machine::Node(number)).collect();
        machines.push(Machine::Client);
        let here: Vec<bool> = machines.iter().map(|_| self.faults.index(2) == 0).collect();
        let part = |side: bool| {
            machines
                .iter()
                .zip(&here)
                .filter(move |(_, is_here)| **is_here == side)
                .map(|(its, _)| *its)
                .collect()
        };
        let (mut one, other): (Vec<Machine>, Vec<Machine>) = (part(true), part(false));
        if one.is_empty() {
            one.push(Machine::Node(self.target()));
        }
        (one, if other.is_empty() { vec![Machine::Client] } else { other })
    }

    /// Nodes that aren't neighbours don't reach each other; where all are, each hears only the one before.
    fn cut_ring(&mut self, until: Nanos) {
        let nodes: Vec<usize> = self.living().map(|(number, _)| number).collect();
        let count = nodes.len();
        for (place, node) in nodes.iter().enumerate() {
            for (other_place, other) in nodes.iter().enumerate() {
                let step = (other_place + count - place) % count;
                let is_cut = if count > 3 { step > 1 && step < count - 1 } else { step == 1 };
                if is_cut {
                    let (from, to) = (Machine::Node(*node), Machine::Node(*other));
                    self.network.cut(Cut::between(vec![from], vec![to], until));
                }
            }
        }
    }

    /// A node that can't be used any more is replaced, once nothing else is.
    pub(super) fn give_up(&mut self, node: usize) {
        if self.cluster().replacing.is_none() && !self.cluster().gone.contains(&node) {
            self.tally.count("control", "nodes given up");
            self.replace(node);
        } else {
            let pause = Nanos::SECOND;
            let life = self.nodes[node].life;
            self.schedule.after(pause, Happening::NodeMend { node, life });
        }
    }

    /// The node that a number in the map means.
    pub(super) fn by_id(&self, id: NodeId) -> Option<usize> {
        self.nodes.iter().position(|node| node.id() == id)
    }
}
