//! Things happen: to whom each is handed, and what follows.

use std::collections::VecDeque;

use client::UnavailableReason;
use wire::Nanos;

use super::{Happening, Phase, World};
use crate::checker;
use crate::client_process::{ClientProcess, Finished, Surroundings};
use crate::content::Stamp;
use crate::network::{Connection, Frame, Sender, Side, Traffic};
use crate::node::{Around, Condition, NODE_CALLERS, Node};
use crate::operator::OPERATOR;
use crate::workload::Order;

impl World {
    pub(super) fn happen(&mut self, happening: Happening) -> Result<Vec<Finished>, String> {
        if let Some(later) = self.postponed(&happening) {
            self.schedule.postpone(later, happening);
            return Ok(Vec::new());
        }
        match happening {
            Happening::Traffic(traffic) => return Ok(self.on_traffic(traffic)),
            Happening::Disk { node, unit, life } => {
                self.in_life(node, life, |node, around| node.on_disk(unit, around));
            }
            Happening::Turn { node, unit, life } => {
                self.in_life(node, life, |node, around| node.on_turn(unit, around));
            }
            Happening::Tick { node, unit, life, at } => {
                self.in_life(node, life, |node, around| node.on_tick(unit, at, around));
            }
            Happening::Mail { node, unit, life, mail } => {
                self.in_life(node, life, |node, around| node.on_mail(unit, *mail, around));
            }
            Happening::Beat { node, life } => self.in_life(node, life, Node::on_beat),
            Happening::ClientTick { client, life, at } => {
                return Ok(self.with_client(client, life, |process, around| process.on_tick(at, around)));
            }
            Happening::Think { client, life } => self.think(client, life),
            Happening::Wake { client, life, task } => self.wake(client, life, task),
            Happening::Strike { node, life } => self.strike(node, life),
            Happening::ClientStart { client } => {
                if self.clients[client].process.is_none() {
                    self.start_client(client);
                }
            }
            Happening::NodeStart { node, life } => {
                let is_gone = self.cluster.as_ref().is_some_and(|cluster| cluster.gone.contains(&node));
                if self.nodes[node].life == life && !self.nodes[node].is_up() && !is_gone {
                    let (mut around, nodes) = self.around();
                    nodes[node].start(&mut around);
                    self.aim(node);
                }
            }
            Happening::NodeMend { node, life } => {
                if self.nodes[node].life == life && self.cluster.is_some() && self.is_beyond_repair(node) {
                    self.give_up(node);
                } else if self.nodes[node].life == life {
                    self.end_node(node, false);
                }
            }
            Happening::Operator => self.operate(),
            Happening::Fault => self.next_fault(),
            Happening::FaultEnds(fault) => self.end_fault(fault),
        }
        self.mend_nodes()?;
        Ok(Vec::new())
    }

    /// When what should happen to a paused process happens instead.
    fn postponed(&self, happening: &Happening) -> Option<Nanos> {
        let until = match happening {
            Happening::Disk { node, .. }
            | Happening::Turn { node, .. }
            | Happening::Tick { node, .. }
            | Happening::Mail { node, .. }
            | Happening::Beat { node, .. } => self.nodes[*node].paused_until,
            Happening::ClientTick { client, .. }
            | Happening::Think { client, .. }
            | Happening::Wake { client, .. } => self.clients.get(*client)?.paused_until,
            Happening::Traffic(
                Traffic::Head(connection, side, _)
                | Traffic::Body(connection, side, _)
                | Traffic::Down(connection, side),
            ) => self.paused_until(*connection, *side)?,
            Happening::Traffic(Traffic::Up(connection) | Traffic::Refused(connection)) => {
                self.paused_until(*connection, Side::Caller)?
            }
            _ => return None,
        };
        (until > self.schedule.now()).then_some(until)
    }

    fn paused_until(&self, connection: Connection, side: Side) -> Option<Nanos> {
        let caller = self.network.caller(connection)?;
        match side {
            Side::Caller if caller < NODE_CALLERS => Some(self.clients.get(caller)?.paused_until),
            _ => self.node_at(connection, side).map(|node| self.nodes[node].paused_until),
        }
    }

    /// The node at a connection's end, where it isn't a client.
    fn node_at(&self, connection: Connection, side: Side) -> Option<usize> {
        match side {
            Side::Caller => self.network.caller(connection)?.checked_sub(NODE_CALLERS),
            Side::Server => {
                let address = self.network.address(connection)?;
                self.nodes.iter().position(|node| node.unit_at(address).is_some())
            }
        }
    }

    fn in_life(&mut self, node: usize, life: u64, step: impl FnOnce(&mut Node, &mut Around<'_>)) {
        if self.nodes[node].life == life {
            let (mut around, nodes) = self.around();
            step(&mut nodes[node], &mut around);
        }
    }

    pub(super) fn with_client(
        &mut self,
        number: usize,
        life: u64,
        step: impl FnOnce(&mut ClientProcess, &mut Surroundings<'_>) -> Vec<Finished>,
    ) -> Vec<Finished> {
        let Some(client) = self.clients.get_mut(number) else { return Vec::new() };
        if client.life != life {
            return Vec::new();
        }
        let Some(process) = client.process.as_mut() else { return Vec::new() };
        let mut around = Surroundings { schedule: &mut self.schedule, network: &mut self.network };
        let finished = step(process, &mut around);
        self.take_finished(number, finished)
    }

    /// Hands results to the workload, and what it wants next to the core, until nothing follows.
    pub(super) fn take_finished(&mut self, number: usize, finished: Vec<Finished>) -> Vec<Finished> {
        let mut queue: VecDeque<Finished> = finished.into();
        let mut foreign = Vec::new();
        while let Some((ticket, result)) = queue.pop_front() {
            if self.phase == Phase::Setup {
                foreign.push((ticket, result));
                continue;
            }
            if self.on_direct(ticket, &result) {
                continue;
            }
            let client = &mut self.clients[number];
            let Some(process) = client.process.as_mut() else { break };
            let mut orders = Vec::new();
            let now = self.schedule.now();
            let ended = client.workload.on_done(now, ticket, result, &mut process.memory, &mut orders);
            if let Some(record) = ended {
                self.trace.tell(now, format_args!("{}", checker::describe(record)));
                let pause = client.workload.pause();
                self.schedule.after(pause, Happening::Think { client: number, life: client.life });
            }
            queue.extend(self.give(number, orders));
        }
        foreign
    }

    pub(super) fn give(&mut self, number: usize, orders: Vec<Order>) -> Vec<Finished> {
        let client = &mut self.clients[number];
        let Some(process) = client.process.as_mut() else { return Vec::new() };
        let mut finished = Vec::new();
        for order in orders {
            if let Order::Wake(task, pause) = order {
                self.schedule.after(pause, Happening::Wake { client: number, life: client.life, task });
                continue;
            }
            let mut around = Surroundings { schedule: &mut self.schedule, network: &mut self.network };
            finished.extend(process.on_order(order, &mut around));
        }
        finished
    }

    fn wake(&mut self, number: usize, life: u64, task: u64) {
        let Some(client) = self.clients.get_mut(number).filter(|client| client.life == life) else { return };
        let mut orders = Vec::new();
        client.workload.on_wake(task, &mut orders);
        let finished = self.give(number, orders);
        self.take_finished(number, finished);
    }

    fn think(&mut self, number: usize, life: u64) {
        let Some(client) = self.clients.get_mut(number) else { return };
        if client.life != life
            || client.process.is_none()
            || self.phase != Phase::Storm
            || self.operations_left == 0
        {
            return;
        }
        let now = self.schedule.now();
        if !self.may_begin() {
            let pause = self.random.between(100, 2_000) * Nanos::MILLISECOND;
            return self.schedule.after(pause, Happening::Think { client: number, life });
        }
        let client = &mut self.clients[number];
        let mut orders = Vec::new();
        if client.workload.has_room() {
            self.operations_left -= 1;
            self.last_stamp += 1;
            let action = client.workload.choose();
            if self.case.has_operation(self.last_stamp) {
                client.workload.begin(now, Stamp(self.last_stamp), action, &mut orders);
            }
        } else if self.random.per_mille(60)
            && let Some(record) = client.workload.cancel_one(now, &mut orders)
        {
            self.tally.count("client", "cancelled");
            self.trace.tell(now, format_args!("cancelled: {}", checker::describe(record)));
        }
        let finished = self.give(number, orders);
        self.take_finished(number, finished);
        let client = &mut self.clients[number];
        if client.workload.has_room() {
            let pause = client.workload.pause();
            self.schedule.after(pause, Happening::Think { client: number, life });
        }
    }

    fn on_traffic(&mut self, traffic: Traffic) -> Vec<Finished> {
        match traffic {
            Traffic::Call(connection) => self.on_call(connection),
            Traffic::Up(connection) => {
                let Some(caller) = self.network.caller(connection) else { return Vec::new() };
                if !self.network.is_open(connection, Side::Caller) {
                    return Vec::new();
                }
                if caller == OPERATOR {
                    self.operator_is_up(connection);
                    return Vec::new();
                }
                if caller < NODE_CALLERS {
                    let life = self.life_of(caller);
                    return self
                        .with_client(caller, life, |process, around| process.on_up(connection, around));
                }
                let (mut around, nodes) = self.around();
                nodes[caller - NODE_CALLERS].on_up(connection, &mut around);
            }
            Traffic::Refused(connection) => {
                return self.on_down(connection, Side::Caller, UnavailableReason::Connect);
            }
            Traffic::Depart(frame) => self.on_depart(frame),
            Traffic::Hangup(connection, by) => self.network.hang_up(connection, by, &mut self.schedule),
            Traffic::Head(connection, to, head) => return self.on_head(connection, to, &head),
            Traffic::Body(connection, to, body) => return self.on_body(connection, to, &body),
            Traffic::Down(connection, side) => {
                return self.on_down(connection, side, UnavailableReason::Disconnected);
            }
        }
        Vec::new()
    }

    fn on_call(&mut self, connection: Connection) {
        let Some(address) = self.network.address(connection).cloned() else { return };
        let found = self.nodes.iter().enumerate().find_map(|(i, node)| Some((i, node.unit_at(&address)?)));
        let Some((node, unit)) = found else {
            // A node that was taken in, and doesn't run yet.
            return self.network.refuse(connection, false, &mut self.schedule);
        };
        let host = &self.nodes[node];
        if host.is_up() && !matches!(host.hosts[unit].condition, Condition::Failed(_) | Condition::Ended) {
            let (mut around, nodes) = self.around();
            nodes[node].on_call(unit, connection, &mut around);
        } else {
            let is_silent = host.is_dark;
            self.network.refuse(connection, is_silent, &mut self.schedule);
        }
    }

    fn life_of(&self, client: usize) -> u64 {
        self.clients.get(client).map_or(0, |client| client.life)
    }

    fn on_depart(&mut self, frame: Frame) {
        let bytes = match frame.sender {
            Sender::Client(OPERATOR) => Some(Vec::new()),
            Sender::Client(number) => {
                let Some(client) = self.clients.get_mut(number).filter(|client| client.life == frame.life)
                else {
                    return;
                };
                client.process.as_mut().map(|process| process.on_depart(frame.payload))
            }
            Sender::Unit { node, unit } => {
                let (mut around, nodes) = self.around();
                nodes[node].on_depart(unit, &frame, &mut around)
            }
        };
        if let Some(body) = bytes {
            self.network.transmit(frame.connection, frame.from, frame.head, body, &mut self.schedule);
        }
    }

    /// The unit at a connection's end, where it isn't a client.
    fn unit_of(&self, connection: Connection, side: Side) -> Option<(usize, usize)> {
        match side {
            Side::Caller => {
                let node = self.network.caller(connection)?.checked_sub(NODE_CALLERS)?;
                Some((node, self.nodes[node].caller_of(connection)?))
            }
            Side::Server => {
                let address = self.network.address(connection)?;
                self.nodes.iter().enumerate().find_map(|(i, node)| Some((i, node.unit_at(address)?)))
            }
        }
    }

    fn on_head(&mut self, connection: Connection, to: Side, head: &[u8]) -> Vec<Finished> {
        let is_open = self.network.is_open(connection, to);
        self.network.count_frame(!is_open);
        if !is_open {
            // A host that doesn't know the connection says so; one without power says nothing.
            let is_there = self.node_at(connection, to).is_none_or(|node| !self.nodes[node].is_dark);
            if is_there && self.network.is_open(connection, to.other()) {
                let latency = self.network.weather.latency;
                self.schedule.after(latency, Traffic::Down(connection, to.other()).into());
            }
            return Vec::new();
        }
        self.trace.note(
            self.schedule.now(),
            format_args!("{connection:?} to {to:?}: kind {} of {} bytes", head[6], head.len()),
        );
        if to == Side::Server {
            self.repeats.on_head(head);
        }
        let caller = self.network.caller(connection).unwrap_or(NODE_CALLERS);
        if to == Side::Caller && caller == OPERATOR {
            self.operator_hears(connection, head);
            return Vec::new();
        }
        if to == Side::Caller && caller < NODE_CALLERS {
            let life = self.life_of(caller);
            return self
                .with_client(caller, life, |process, around| process.on_head(connection, head, around));
        }
        if let Some((node, unit)) = self.unit_of(connection, to) {
            let (mut around, nodes) = self.around();
            nodes[node].on_head(unit, connection, head, &mut around);
        }
        Vec::new()
    }

    fn on_body(&mut self, connection: Connection, to: Side, body: &[u8]) -> Vec<Finished> {
        if !self.network.is_open(connection, to) {
            return Vec::new();
        }
        let caller = self.network.caller(connection).unwrap_or(NODE_CALLERS);
        if to == Side::Caller && caller < NODE_CALLERS {
            let life = self.life_of(caller);
            return self
                .with_client(caller, life, |process, around| process.on_body(connection, body, around));
        }
        if let Some((node, unit)) = self.unit_of(connection, to) {
            let (mut around, nodes) = self.around();
            nodes[node].on_body(unit, connection, body, &mut around);
        }
        Vec::new()
    }

    fn on_down(&mut self, connection: Connection, side: Side, reason: UnavailableReason) -> Vec<Finished> {
        let was_open = self.network.is_open(connection, side);
        let caller = self.network.caller(connection).unwrap_or(NODE_CALLERS);
        let unit = self.unit_of(connection, side);
        self.network.mark_closed(connection, side);
        if !was_open {
            return Vec::new();
        }
        if side == Side::Caller && caller == OPERATOR {
            self.cluster().operator.on_down(connection);
            return Vec::new();
        }
        if side == Side::Caller && caller < NODE_CALLERS {
            let life = self.life_of(caller);
            return self
                .with_client(caller, life, |process, around| process.on_down(connection, reason, around));
        }
        if let Some((node, unit)) = unit {
            let (mut around, nodes) = self.around();
            nodes[node].on_down(unit, connection, side, &mut around);
        }
        Vec::new()
    }
}
