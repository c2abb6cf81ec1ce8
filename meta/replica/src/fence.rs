//! The fence of what is only read: the node's lease, or a question to every other member (R13, R18, R19).
//!
//! A read is answered as of the pick, the highest index received when it came. That holds everything acknowledged before, provided that no higher epoch was
//! active by then. While the lease is good, control activates none that leaves this member out. Without it, every other Serving or Syncing member is asked,
//! *after* the pick, whether it has promised nothing higher: each later epoch needs the promise of one of them, who came out of this epoch with its log.
//! One round of questions serves all reads that were picked before it began. A chain of one has nobody to ask.
//!
//! The check comes last, behind commit and evaluation (`answers.rs:release`). A head's refusals, keepalives and closings of what is closed are fenced as queries
//! are: a deposed head keeps no pins, and tells nobody that a session is gone.

use wire::planted::{Bug, planted};
use wire::{Epoch, Nanos, StoreId};

use crate::answers::Fencing;
use crate::config::LINK_INTERVAL;
use crate::event::Effects;
use crate::message::Message;
use crate::replica::Replica;
use crate::view::Role;

/// A round of questions. Numbers begin with the time of the replica's start, so that answers to its former life are told apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Round(u64);

/// See the module.
#[derive(Clone, Debug)]
pub(crate) struct Fence {
    lease_until: Nanos,
    begun: Round,
    done: Round,
    /// Who hasn't answered the round that was begun last.
    missing: Vec<StoreId>,
    asked_at: Nanos,
    /// Whether it is time to ask them again.
    repeats: bool,
}

impl Fence {
    pub(crate) fn new(now: Nanos) -> Self {
        Self {
            lease_until: Nanos(0),
            begun: Round(now.0),
            done: Round(now.0),
            missing: Vec::new(),
            asked_at: now,
            repeats: false,
        }
    }

    /// Questions of an epoch that has ended are worth nothing.
    pub(crate) fn end_epoch(&mut self) {
        self.missing.clear();
        self.done = self.begun;
    }

    pub(crate) fn on_tick(&mut self, now: Nanos) {
        self.repeats |= !self.missing.is_empty() && now.since(self.asked_at) >= LINK_INTERVAL;
    }
}

impl Replica {
    /// What a read picked now has to wait for.
    pub(crate) fn read_fence(&self) -> Fencing {
        Fencing::Read(Round(self.fence.begun.0 + 1))
    }

    /// Whether the answer may leave, as far as the fence goes.
    pub(crate) fn fence_holds(&self, now: Nanos, fencing: Fencing) -> bool {
        let Fencing::Read(round) = fencing else { return true };
        let active = self.chain.role() != Role::Idle;
        let leased = now < self.fence.lease_until
            || planted(Bug::ChainTrustsOldLease) && self.fence.lease_until > Nanos(0);
        active && (!self.chain.has_others() || leased || self.fence.done >= round)
    }

    pub(crate) fn on_lease(&mut self, now: Nanos, until: Nanos, effects: &mut Effects) {
        self.fence.lease_until = until;
        self.release(now, effects);
    }

    /// Begins a round where reads need one that has not begun, and none is under way; asks again who hasn't answered.
    pub(crate) fn ask_others(&mut self, now: Nanos, effects: &mut Effects) {
        let wanted = now >= self.fence.lease_until && self.chain.has_others();
        let begins = wanted
            && self.fence.missing.is_empty()
            && self.answers.round_wanted().is_some_and(|round| round > self.fence.begun);
        if begins {
            self.fence.begun.0 += 1;
            self.fence.missing = self.chain.others().collect();
        }
        if begins || std::mem::take(&mut self.fence.repeats) {
            self.fence.asked_at = now;
            let (epoch, round) = (self.chain.epoch(), self.fence.begun.0);
            for store in &self.fence.missing {
                effects.send(*store, Message::Confirm { epoch, round });
            }
        }
    }

    /// Another member asks: answered by whoever is active in that epoch, and so has promised nothing higher (R1).
    pub(crate) fn on_confirm(&mut self, from: StoreId, epoch: Epoch, round: u64, effects: &mut Effects) {
        if self.chain.acts_in(epoch) || planted(Bug::ChainConfirmsSealed) {
            effects.send(from, Message::Confirmed { epoch, round });
        }
    }

    pub(crate) fn on_confirmed(
        &mut self,
        now: Nanos,
        from: StoreId,
        (epoch, round): (Epoch, u64),
        effects: &mut Effects,
    ) {
        if !self.chain.acts_in(epoch) || Round(round) != self.fence.begun {
            return;
        }
        self.fence.missing.retain(|store| *store != from);
        if self.fence.missing.is_empty() {
            self.fence.done = self.fence.begun;
            self.release(now, effects);
        }
    }
}
