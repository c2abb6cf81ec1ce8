//! A simulated node's control agent: the shipped [`Agent`] and what its driver does in production.

use std::sync::Arc;

use agent::{Agent, Dial, Effects, Identity, Link, Note as AgentNote, PeerId, Start};
use journal::log::Log;
use journal::{IoOutcome, IoToken};
use placement::Edition;
use wire::{MapNumber, Memory, Nanos, PREFIX_BYTES, Prefix};

use crate::mail::{Mail, Order};
use crate::memory::SimMemory;
use crate::network::Connection;
use crate::unit::{Note, Out, Outgoing, Peer};

/// See the module.
#[derive(Debug)]
pub(crate) struct AgentUnit {
    agent: Agent,
    effects: Effects,
}

impl AgentUnit {
    /// An agent whose node's stores are all open.
    pub(crate) fn start(
        now: Nanos,
        (identity, start): (Identity, Start),
        memory: &mut SimMemory,
        out: &mut Out,
    ) -> Self {
        let mut unit = Self { agent: Agent::new(identity, start), effects: Effects::default() };
        unit.agent.on_start(now, memory, &mut unit.effects);
        unit.carry_out(now, memory, out);
        unit
    }

    /// The newest map that it knows.
    pub(crate) fn edition(&self) -> &Arc<Edition> {
        self.agent.edition()
    }

    /// Whether a unit gets the maps.
    pub(crate) fn takes_part(&self, unit: wire::map::Unit) -> bool {
        self.agent.takes_part(unit)
    }

    /// The map that it has promised to follow.
    pub(crate) fn installed(&self) -> MapNumber {
        self.agent.installed()
    }

    /// Whether its voter leads the control group.
    pub(crate) fn leads(&self) -> bool {
        self.agent.leads()
    }

    /// A connection was taken.
    pub(crate) fn on_open(&mut self, connection: Connection) {
        self.agent.on_open(Link(connection.0));
    }

    /// A connection that was asked for has a number.
    pub(crate) fn on_called(
        &mut self,
        now: Nanos,
        peer: PeerId,
        connection: Connection,
        memory: &mut SimMemory,
        out: &mut Out,
    ) {
        self.agent.on_dialled(peer, Some(Link(connection.0)), &mut self.effects);
        self.carry_out(now, memory, out);
    }

    /// A connection that was asked for stands.
    pub(crate) fn on_up(
        &mut self,
        now: Nanos,
        connection: Connection,
        memory: &mut SimMemory,
        out: &mut Out,
    ) {
        self.agent.on_up(Link(connection.0), &mut self.effects);
        self.carry_out(now, memory, out);
    }

    /// A connection is gone.
    pub(crate) fn on_close(
        &mut self,
        now: Nanos,
        connection: Connection,
        memory: &mut SimMemory,
        out: &mut Out,
    ) {
        self.agent.on_close(now, Link(connection.0), memory, &mut self.effects);
        self.carry_out(now, memory, out);
    }

    /// A frame's head arrived.
    pub(crate) fn on_head(
        &mut self,
        now: Nanos,
        connection: Connection,
        head: &[u8],
        memory: &mut SimMemory,
        out: &mut Out,
    ) {
        let (bytes, message) =
            head.split_first_chunk::<PREFIX_BYTES>().expect("a frame begins with a prefix");
        let prefix = Prefix::decode(bytes).expect("the simulated network doesn't damage heads");
        Prefix::verify(bytes, message).expect("the simulated network doesn't damage heads");
        let link = Link(connection.0);
        let close = self.agent.on_head(now, link, &prefix, message, memory, &mut self.effects);
        if let Some(reason) = close {
            self.effects.closes.push((link, reason));
        }
        self.carry_out(now, memory, out);
    }

    /// A request of the vote's disk ended.
    pub(crate) fn on_io(
        &mut self,
        now: Nanos,
        io: IoToken,
        outcome: IoOutcome,
        memory: &mut SimMemory,
        out: &mut Out,
    ) {
        self.agent.on_io(now, io, outcome, memory, &mut self.effects);
        self.carry_out(now, memory, out);
    }

    /// No further event is at hand.
    pub(crate) fn on_turn(&mut self, now: Nanos, memory: &mut SimMemory, out: &mut Out) {
        self.agent.on_turn(now, memory, &mut self.effects);
        self.carry_out(now, memory, out);
    }

    /// A deadline has come.
    pub(crate) fn on_tick(&mut self, now: Nanos, memory: &mut SimMemory, out: &mut Out) {
        self.agent.on_tick(now, memory, &mut self.effects);
        self.carry_out(now, memory, out);
    }

    /// The end, in order.
    pub(crate) fn on_shutdown(&mut self, now: Nanos, memory: &mut SimMemory, out: &mut Out) {
        self.agent.on_shutdown(now, memory, &mut self.effects);
        self.carry_out(now, memory, out);
    }

    /// A log for a vote was made, or can't be.
    pub(crate) fn on_voter_log(
        &mut self,
        now: Nanos,
        log: Option<Log>,
        memory: &mut SimMemory,
        out: &mut Out,
    ) {
        self.agent.on_voter_log(now, log, memory, &mut self.effects);
        self.carry_out(now, memory, out);
    }

    /// What another thread of the node says.
    pub(crate) fn on_mail(&mut self, now: Nanos, mail: Mail, memory: &mut impl Memory, out: &mut Out) {
        let effects = &mut self.effects;
        match mail {
            Mail::Stored(edition) => self.agent.on_stored(now, edition.number(), memory, effects),
            Mail::Followed(unit, number) => self.agent.on_followed(now, unit, number, memory, effects),
            Mail::Beat(beat) => self.agent.on_beat(beat),
            Mail::Suspects(unit, stores) => self.agent.on_suspects(unit, &stores),
            Mail::Synced(synced) => self.agent.on_synced(synced),
            Mail::CaughtUp(caught_up) => self.agent.on_caught_up(caught_up, true),
            Mail::Map(_) | Mail::Lease(_) | Mail::VoterLog(_) => unreachable!("not the agent's mail"),
        }
        self.carry_out(now, memory, out);
    }

    fn carry_out(&mut self, now: Nanos, memory: &mut impl Memory, out: &mut Out) {
        out.io.take_over(&self.effects.io);
        for send in &self.effects.sends {
            let head = self.effects.bytes[send.head.0 as usize..send.head.1 as usize].to_vec();
            out.sends.push(Outgoing { connection: Connection(send.link.0), head, payload: None });
        }
        let calls = self.effects.dials.drain(..).map(|Dial { peer, address }| (Peer::Agent(peer), address));
        out.calls.extend(calls);
        if let Some(at) = self.effects.deadline {
            out.arm(at);
        }
        let effects = &mut self.effects;
        out.orders.extend(effects.store.take().map(Order::Store));
        out.orders.extend(effects.publish.take().map(Order::Publish));
        out.orders.extend(effects.lease.take().map(Order::Lease));
        out.orders.extend(effects.format_voter.take().map(Order::FormatVoter));
        for note in effects.notes.drain(..) {
            match note {
                AgentNote::Ended => out.notes.push(Note::ShutDown),
                note => out.notes.push(Note::Agent(note)),
            }
        }
        let closes = std::mem::take(&mut self.effects.closes);
        self.effects.clear();
        for (link, _) in closes {
            out.closes.push(Connection(link.0));
            self.agent.on_close(now, link, memory, &mut self.effects);
            self.carry_out(now, memory, out);
        }
    }
}
