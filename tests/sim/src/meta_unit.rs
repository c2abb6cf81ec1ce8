//! A metadata replica of a simulated node: the shipped [`Member`] and what its driver does in production.

use std::sync::Arc;

use group::{Clock, Dial, Effects, Identity, Link, Member};
use journal::log::Log;
use journal::{IoOutcome, IoToken};
use placement::Edition;
use replica::{Replica, ReplicaConfig};
use wire::control::{CaughtUp, ChainId, Synced};
use wire::map::{Phase, Unit};
use wire::{Epoch, MapNumber, Nanos, PREFIX_BYTES, Prefix};

use crate::mail::{Mail, Order};
use crate::memory::SimMemory;
use crate::network::Connection;
use crate::unit::{Note, Out, Outgoing, Peer};

/// See the module.
#[derive(Debug)]
pub(crate) struct MetaUnit {
    member: Member,
    effects: Effects,
    identity: Identity,
    /// The last epoch that this life has promised, and made durable what it seals.
    sealed: Epoch,
    /// A map that the agent waits for, and the epoch that has to be sealed before it is told.
    following: Option<(MapNumber, Epoch)>,
}

impl MetaUnit {
    /// A replica that begins to open its log.
    pub(crate) fn start(
        clock: Clock,
        (identity, settings): (Identity, ReplicaConfig),
        log: Log,
        edition: Arc<Edition>,
        memory: &mut SimMemory,
        out: &mut Out,
    ) -> Self {
        let member = Member::new(identity, settings, log);
        let (sealed, following) = (Epoch(0), None);
        let mut unit = Self { member, effects: Effects::default(), identity, sealed, following };
        unit.member.on_map(clock, edition, memory, &mut unit.effects);
        unit.member.on_start(clock, memory, &mut unit.effects);
        unit.carry_out(clock, memory, out);
        unit
    }

    /// How the log was found, and where it ends, once it is open.
    pub(crate) fn found(&self) -> Option<(journal::Opened, group::Position)> {
        self.member.opened().copied().zip(self.member.position())
    }

    /// Begins anew with the log that was closed, opened again. What was promised counts for a life.
    pub(crate) fn restart(&mut self, clock: Clock, log: Log, memory: &mut SimMemory, out: &mut Out) {
        self.sealed = Epoch(0);
        self.member.restart(clock, log, memory, &mut self.effects);
        self.carry_out(clock, memory, out);
    }

    /// The node's lease.
    pub(crate) fn on_lease(&mut self, clock: Clock, until: Nanos, memory: &mut SimMemory, out: &mut Out) {
        self.member.on_lease(clock, until, memory, &mut self.effects);
        self.carry_out(clock, memory, out);
    }

    /// A map to follow. A prepared epoch is promised when everything received before is durable.
    pub(crate) fn on_map(
        &mut self,
        clock: Clock,
        edition: Arc<Edition>,
        memory: &mut SimMemory,
        out: &mut Out,
    ) {
        let group = edition.map().group(self.identity.group);
        let prepared = group.filter(|group| group.chain.phase == Phase::Prepared);
        let epoch = prepared.map_or(Epoch(0), |group| group.chain.epoch);
        self.following = Some((edition.number(), epoch));
        self.member.on_map(clock, edition, memory, &mut self.effects);
        self.carry_out(clock, memory, out);
        self.look_followed(out);
    }

    fn look_followed(&mut self, out: &mut Out) {
        if let Some((number, _)) = self.following.take_if(|(_, epoch)| *epoch <= self.sealed) {
            out.mails.push(Mail::Followed(Unit::Group(self.identity.group), number));
        }
    }

    /// The replica, once it serves.
    pub(crate) fn replica(&self) -> Option<&Replica> {
        self.member.replica()
    }

    /// A connection was taken.
    pub(crate) fn on_open(&mut self, connection: Connection) {
        self.member.on_open(Link(connection.0));
    }

    /// A connection is gone: a client's, or one to a store.
    pub(crate) fn on_close(
        &mut self,
        clock: Clock,
        connection: Connection,
        memory: &mut SimMemory,
        out: &mut Out,
    ) {
        self.member.on_close(clock, Link(connection.0), memory, &mut self.effects);
        self.carry_out(clock, memory, out);
    }

    /// A connection to a store was asked for, and has a number.
    pub(crate) fn on_called(&mut self, peer: u16, connection: Connection) {
        self.member.on_dialled(peer, Some(Link(connection.0)));
    }

    /// A connection to a store stands.
    pub(crate) fn on_up(
        &mut self,
        clock: Clock,
        connection: Connection,
        memory: &mut SimMemory,
        out: &mut Out,
    ) {
        self.member.on_up(Link(connection.0), &mut self.effects);
        self.carry_out(clock, memory, out);
    }

    /// A frame's head arrived: a client's request, or a store's reply.
    pub(crate) fn on_head(
        &mut self,
        clock: Clock,
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
        let close = self.member.on_head(clock, link, &prefix, message, memory, &mut self.effects);
        if let Some(reason) = close {
            self.effects.closes.push((link, reason));
        }
        self.carry_out(clock, memory, out);
    }

    /// A disk request ended.
    pub(crate) fn on_io(
        &mut self,
        clock: Clock,
        io: IoToken,
        outcome: IoOutcome,
        memory: &mut SimMemory,
        out: &mut Out,
    ) {
        self.member.on_io(clock, io, outcome, memory, &mut self.effects);
        self.carry_out(clock, memory, out);
    }

    /// No further event is at hand.
    pub(crate) fn on_turn(&mut self, clock: Clock, memory: &mut SimMemory, out: &mut Out) {
        self.member.on_turn(clock, memory, &mut self.effects);
        self.carry_out(clock, memory, out);
    }

    /// A deadline has come.
    pub(crate) fn on_tick(&mut self, clock: Clock, memory: &mut SimMemory, out: &mut Out) {
        self.member.on_tick(clock, memory, &mut self.effects);
        self.carry_out(clock, memory, out);
    }

    /// The end, in order.
    pub(crate) fn on_shutdown(&mut self, clock: Clock, memory: &mut SimMemory, out: &mut Out) {
        self.member.on_shutdown(clock, memory, &mut self.effects);
        self.carry_out(clock, memory, out);
    }

    fn carry_out(&mut self, clock: Clock, memory: &mut SimMemory, out: &mut Out) {
        out.io.take_over(&self.effects.io);
        for send in &self.effects.sends {
            let head = self.effects.bytes[send.head.0 as usize..send.head.1 as usize].to_vec();
            out.sends.push(Outgoing { connection: Connection(send.link.0), head, payload: None });
        }
        out.calls
            .extend(self.effects.dials.drain(..).map(|Dial { peer, address }| (Peer::Index(peer), address)));
        if let Some(at) = self.effects.deadline {
            out.arm(at);
        }
        for note in std::mem::take(&mut self.effects.notes) {
            self.on_note(note, out);
        }
        let closes = std::mem::take(&mut self.effects.closes);
        self.effects.clear();
        for (link, _) in closes {
            out.closes.push(Connection(link.0));
            self.on_close(clock, Connection(link.0), memory, out);
        }
    }
}

impl MetaUnit {
    fn on_note(&mut self, note: group::Note, out: &mut Out) {
        let (group, store) = (self.identity.group, self.identity.store);
        match note {
            group::Note::Opened { was_clean, .. } => {
                if was_clean {
                    out.counts.push(("log", "opened after an orderly end"));
                }
                out.notes.push(Note::Opened);
            }
            group::Note::Lost { .. } => {}
            group::Note::Sealed { epoch } => {
                self.sealed = self.sealed.max(epoch);
                self.look_followed(out);
            }
            group::Note::OpenFailed(failure) => out.notes.push(Note::OpenFailed(failure.to_string())),
            group::Note::CheckpointDamaged => out.counts.push(("log", "checkpoint damaged")),
            group::Note::CheckpointDone(_) => out.counts.push(("log", "checkpoint")),
            group::Note::CheckpointFailed => out.counts.push(("log", "checkpoint failed")),
            group::Note::ClockStepped { nanoseconds } => {
                out.counts.push(("clock", if nanoseconds > 0 { "set forward" } else { "set back" }));
            }
            group::Note::Deleting { orphans: true } => out.counts.push(("gc", "orphans deleted")),
            group::Note::Deleting { orphans: false } => out.counts.push(("gc", "reclaimed")),
            group::Note::StoreSilent { .. } => out.counts.push(("gc", "calls dropped")),
            group::Note::CaughtUp { .. } => {
                out.counts.push(("chain", "caught up"));
                out.mails.push(Mail::CaughtUp(CaughtUp { group, store }));
            }
            group::Note::Synced { epoch } => {
                out.counts.push(("chain", "synced"));
                let chain = ChainId::Group(group);
                out.mails.push(Mail::Synced(Synced { chain, epoch, store, missing: 0 }));
            }
            group::Note::Restarting => out.counts.push(("chain", "head deposed")),
            group::Note::Stopped(trouble) => panic!("a member stopped: {trouble:?}"),
            group::Note::Fenced => out.notes.push(Note::Fenced),
            group::Note::Ended if self.member.is_restarting() => out.orders.push(Order::Reopen),
            group::Note::Ended => out.notes.push(Note::ShutDown),
        }
    }
}
