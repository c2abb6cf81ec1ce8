//! A node's units between its connections, disks and timers: what comes in is handed to them, what they want is carried out.

use std::cmp::Ordering;

use super::{Around, Condition, Host, Logic, NODE_CALLERS, Node};
use crate::memory::SimMemory;
use crate::network::{Connection, Frame, Network, Sender, Side};
use crate::shard_unit::take_payload;
use crate::unit::{Note, Out, Peer};
use crate::world::Happening;
use group::Clock;
use wire::Nanos;

impl Node {
    /// A connection is taken.
    pub(crate) fn on_call(&mut self, unit: usize, connection: Connection, around: &mut Around<'_>) {
        self.hosts[unit].connections.insert(connection);
        self.hosts[unit].heard.insert(connection, around.schedule.now());
        self.with(unit, around, |logic, clock, memory, out| match logic {
            Logic::Shard(shard) => shard.on_open(clock.now, connection, memory, out),
            Logic::Meta(meta) => meta.on_open(connection),
            Logic::Agent(agent) => agent.on_open(connection),
        });
        around.network.take(connection, around.schedule);
    }

    /// The unit that asked for a connection.
    pub(crate) fn caller_of(&self, connection: Connection) -> Option<usize> {
        self.hosts.iter().position(|host| host.own.contains(&connection))
    }

    /// A connection that a unit asked for stands.
    pub(crate) fn on_up(&mut self, connection: Connection, around: &mut Around<'_>) {
        let Some(unit) = self.caller_of(connection) else { return };
        self.with(unit, around, |logic, clock, memory, out| match logic {
            Logic::Shard(shard) => shard.on_open(clock.now, connection, memory, out),
            Logic::Meta(meta) => meta.on_up(clock, connection, memory, out),
            Logic::Agent(agent) => agent.on_up(clock.now, connection, memory, out),
        });
    }

    /// A connection of `unit` is over, on the side that is given.
    pub(crate) fn on_down(
        &mut self,
        unit: usize,
        connection: Connection,
        side: Side,
        around: &mut Around<'_>,
    ) {
        let host = &mut self.hosts[unit];
        match side {
            Side::Caller => host.own.remove(&connection),
            Side::Server => host.connections.remove(&connection),
        };
        host.heard.remove(&connection);
        self.with(unit, around, |logic, clock, memory, out| match logic {
            Logic::Shard(shard) => shard.on_close(clock.now, connection, memory, out),
            Logic::Meta(meta) => meta.on_close(clock, connection, memory, out),
            Logic::Agent(agent) => agent.on_close(clock.now, connection, memory, out),
        });
    }

    /// A frame's head arrived.
    pub(crate) fn on_head(
        &mut self,
        unit: usize,
        connection: Connection,
        head: &[u8],
        around: &mut Around<'_>,
    ) {
        if let Some(heard) = self.hosts[unit].heard.get_mut(&connection) {
            *heard = around.schedule.now();
        }
        self.with(unit, around, |logic, clock, memory, out| match logic {
            Logic::Shard(shard) => shard.on_head(clock.now, connection, head, memory, out),
            Logic::Meta(meta) => meta.on_head(clock, connection, head, memory, out),
            Logic::Agent(agent) => agent.on_head(clock.now, connection, head, memory, out),
        });
    }

    /// The payload of the head before arrived.
    pub(crate) fn on_body(
        &mut self,
        unit: usize,
        connection: Connection,
        body: &[u8],
        around: &mut Around<'_>,
    ) {
        self.with(unit, around, |logic, clock, memory, out| match logic {
            Logic::Shard(shard) => shard.on_body(clock.now, connection, body, memory, out),
            Logic::Meta(_) | Logic::Agent(_) => panic!("such a port is sent no payload"),
        });
    }

    /// A frame leaves; `None`: its process is gone.
    pub(crate) fn on_depart(
        &mut self,
        unit: usize,
        frame: &Frame,
        around: &mut Around<'_>,
    ) -> Option<Vec<u8>> {
        let host = &mut self.hosts[unit];
        if frame.life != self.life || host.logic.is_none() {
            return None;
        }
        let Some(payload) = frame.payload else { return Some(Vec::new()) };
        let bytes = take_payload(payload, &mut host.memory);
        self.with(unit, around, |logic, clock, memory, out| {
            if let Logic::Shard(shard) = logic {
                shard.on_sent(clock.now, frame.connection, payload.length, memory, out);
            }
        });
        Some(bytes)
    }

    /// One of a disk's requests ends.
    pub(crate) fn on_disk(&mut self, unit: usize, around: &mut Around<'_>) {
        let host = &mut self.hosts[unit];
        let Some((io, outcome)) = host.disk.complete(&mut host.memory) else { return };
        let number = self.number;
        let (tag, key) = (io.tag(), io.key());
        around
            .trace
            .note(around.schedule.now(), format_args!("disk {number}.{unit} {tag}/{key} {outcome:?}"));
        self.with(unit, around, |logic, clock, memory, out| match logic {
            Logic::Shard(shard) => shard.on_io(clock.now, io, outcome, memory, out),
            Logic::Meta(meta) => meta.on_io(clock, io, outcome, memory, out),
            Logic::Agent(agent) => agent.on_io(clock.now, io, outcome, memory, out),
        });
    }

    /// No further event was at hand.
    pub(crate) fn on_turn(&mut self, unit: usize, around: &mut Around<'_>) {
        self.with(unit, around, |logic, clock, memory, out| match logic {
            Logic::Shard(shard) => shard.on_turn(clock.now, memory, out),
            Logic::Meta(meta) => meta.on_turn(clock, memory, out),
            Logic::Agent(agent) => agent.on_turn(clock.now, memory, out),
        });
        self.hosts[unit].turn_is_due = false;
    }

    /// A deadline has come.
    pub(crate) fn on_tick(&mut self, unit: usize, at: Nanos, around: &mut Around<'_>) {
        self.hosts[unit].armed.remove(&at);
        self.with(unit, around, |logic, clock, memory, out| match logic {
            Logic::Shard(shard) => shard.on_tick(clock.now, memory, out),
            Logic::Meta(meta) => meta.on_tick(clock, memory, out),
            Logic::Agent(agent) => agent.on_tick(clock.now, memory, out),
        });
    }

    /// The node ends in order.
    pub(crate) fn on_shutdown(&mut self, around: &mut Around<'_>) {
        for unit in 0..self.hosts.len() {
            self.with(unit, around, |logic, clock, memory, out| match logic {
                Logic::Shard(shard) => shard.on_shutdown(clock.now, memory, out),
                Logic::Meta(meta) => meta.on_shutdown(clock, memory, out),
                Logic::Agent(agent) => agent.on_shutdown(clock.now, memory, out),
            });
        }
    }

    pub(super) fn with(
        &mut self,
        unit: usize,
        around: &mut Around<'_>,
        step: impl FnOnce(&mut Logic, Clock, &mut SimMemory, &mut Out),
    ) {
        let clock = self.clock(around.schedule.now());
        let host = &mut self.hosts[unit];
        let Some(logic) = host.logic.as_mut() else { return };
        let mut out = Out::default();
        step(logic, clock, &mut host.memory, &mut out);
        self.carry_out(unit, out, around);
        if self.control.is_some() {
            self.check_promise();
        }
    }

    pub(super) fn carry_out(&mut self, unit: usize, out: Out, around: &mut Around<'_>) {
        let (node, life) = (self.number, self.life);
        let host = &mut self.hosts[unit];
        for delay in host.disk.submit(around.schedule.now(), &out.io, &mut host.memory) {
            around.schedule.after(delay, Happening::Disk { node, unit, life });
        }
        // A connection to another unit of this node is the caller's here and the server's there.
        let side = |host: &Host, connection: Connection| {
            if host.own.contains(&connection) { Side::Caller } else { Side::Server }
        };
        for send in out.sends {
            let frame = Frame {
                connection: send.connection,
                from: side(host, send.connection),
                life,
                sender: Sender::Unit { node, unit },
                head: send.head,
                payload: send.payload,
            };
            Network::send(frame, around.schedule);
        }
        for connection in out.closes {
            let by = side(host, connection);
            host.connections.remove(&connection);
            host.own.remove(&connection);
            host.heard.remove(&connection);
            around.network.close(connection, by, around.schedule);
        }
        let mut called = Vec::new();
        for (peer, address) in out.calls {
            let connection = around.network.call(NODE_CALLERS + node, &address, around.schedule);
            host.own.insert(connection);
            called.push((peer, connection));
        }
        // An agent that has ended is driven no more.
        let is_over = host.condition == Condition::Ended && unit > self.settings.shards;
        for at in out.deadlines.into_iter().filter(|_| !is_over) {
            if host.armed.insert(at) {
                around.schedule.at(self.clock.global(at), Happening::Tick { node, unit, life, at });
            }
        }
        if !host.turn_is_due {
            host.turn_is_due = true;
            around.schedule.after(self.random.between(1_000, 30_000), Happening::Turn { node, unit, life });
        }
        for (row, column) in out.counts {
            around.tally.count(row, column);
        }
        for note in out.notes {
            self.on_note(unit, note, around);
        }
        for (peer, connection) in called {
            self.with(unit, around, |logic, clock, memory, out| match (logic, peer) {
                (Logic::Shard(shard), Peer::Store(target)) => {
                    shard.on_called(clock.now, target, connection, memory, out);
                }
                (Logic::Meta(meta), Peer::Index(peer)) => meta.on_called(peer, connection),
                (Logic::Agent(agent), Peer::Agent(peer)) => {
                    agent.on_called(clock.now, peer, connection, memory, out);
                }
                _ => unreachable!("each kind of unit has its own words"),
            });
        }
        self.post(out.mails, around);
        for order in out.orders {
            self.on_order(unit, order, around);
        }
    }

    fn on_note(&mut self, unit: usize, note: Note, around: &mut Around<'_>) {
        around.trace.note(around.schedule.now(), format_args!("unit {}.{unit}: {note:?}", self.number));
        let host = &mut self.hosts[unit];
        let row = match unit.cmp(&self.settings.shards) {
            Ordering::Less => "store",
            Ordering::Equal => "log",
            Ordering::Greater => "vote",
        };
        match note {
            Note::Opened => {
                around.tally.count(row, "opened");
                host.condition = Condition::Serving;
                // Before it does anything by itself: a young head holds everything (R25).
                if let Some(kept) = host.kept.take() {
                    around.tally.count(row, "kept over an orderly end");
                    let found = host.logic.as_ref().and_then(Logic::kept).expect("it has just opened");
                    host.lost = kept.compare(&found).err();
                }
                self.on_opened(unit, around);
            }

            Note::OpenFailed(why) => {
                around.tally.count(row, "open failed");
                host.condition = Condition::Failed(why);
            }
            Note::Fenced => {
                around.tally.count(row, "fenced");
                host.condition = Condition::Fenced;
            }
            Note::Damaged(id) => {
                around.tally.count(row, "damage reported");
                host.damaged.insert(id);
            }
            Note::BatchesDamaged => {
                around.tally.count(row, "batches reported damaged");
                host.batches_damaged = true;
            }
            Note::ShutDown => host.condition = Condition::Ended,
            Note::Agent(note) => self.on_agent_note(note, around),
        }
    }
}
