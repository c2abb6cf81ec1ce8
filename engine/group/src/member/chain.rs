//! The member's place in its group's chain: what the map says of it, what other members say, and beginning anew.
//!
//! The driver stores a map durably before it hands it over: a prepared epoch is a promise (I4), and a head that begins anew must find the active epoch in which it may
//! have led (`replica`'s `chain.rs:may_lead`).

use std::sync::Arc;

use journal::log::Log;
use placement::{ClusterMap, Edition};
use replica::{ChainView, Event, Restore};
use wire::message::Replication;
use wire::{CommitIndex, Epoch, Memory, Nanos, StoreId};

use super::{Closing, Member, Phase};
use crate::effects::{Clock, CloseReason, Effects, Link, Note, Turn};
use crate::group_log::GroupLog;

/// Where a member's log ends: what a seed is chosen by (R7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// The epoch of its last entry.
    pub epoch: Epoch,
    /// The last entry.
    pub received: CommitIndex,
    /// Entries that it lacks of what its source has committed; `None`: it isn't being sent any.
    pub lag: Option<u64>,
}

impl Member {
    /// Hands the member a cluster map; it serves from the first one on that has it in its group's chain.
    pub fn on_map(
        &mut self,
        clock: Clock,
        edition: Arc<Edition>,
        memory: &mut impl Memory,
        effects: &mut Effects,
    ) {
        let mut turn = Turn { clock, memory, effects };
        if self.edition.as_ref().is_none_or(|known| known.number() < edition.number()) {
            self.stores.on_map(edition.map(), turn.effects);
            self.peers.on_map(edition.map(), turn.effects);
            self.edition = Some(edition);
            self.tell_map(clock.now);
            self.tell_chain(&mut turn);
        }
        self.settle(&mut turn);
    }

    /// The node's lease is good until then (R18).
    pub fn on_lease(&mut self, clock: Clock, until: Nanos, memory: &mut impl Memory, effects: &mut Effects) {
        let mut turn = Turn { clock, memory, effects };
        self.lease_until = until;
        self.handle(Event::Lease { until }, &mut turn);
        self.settle(&mut turn);
    }

    /// Where its log ends, once it is read.
    pub fn position(&self) -> Option<Position> {
        let position = |replica: &replica::Replica| Position {
            epoch: replica.last_epoch(),
            received: replica.received(),
            lag: replica.lag(),
        };
        self.replica().map(position)
    }

    /// Whether [`Note::Ended`] asks for the log to be opened again, and for [`restart`](Self::restart).
    pub fn is_restarting(&self) -> bool {
        self.is_restarting
    }

    /// Begins anew with the log that was closed, opened again.
    pub fn restart(&mut self, clock: Clock, log: Log, memory: &mut impl Memory, effects: &mut Effects) {
        assert!(std::mem::take(&mut self.is_restarting), "a member begins anew when it has asked to");
        self.phase = Phase::Recovering(Box::new(Restore::chained(self.settings.recent_bytes)));
        self.log.release(memory);
        self.log = GroupLog::new(log);
        (self.closing, self.told, self.tick_at) = (None, None, None);
        self.on_start(clock, memory, effects);
    }

    /// As `Effect::Restart` asks: what was appended is written, and the log ends.
    pub(super) fn begin_restart<M: Memory>(&mut self, turn: &mut Turn<'_, M>) {
        turn.effects.notes.push(Note::Restarting);
        self.is_restarting = true;
        self.closing = Some(Closing::Draining);
        self.tick_at = None;
    }

    /// Tells the replica its chain, where that has changed.
    pub(super) fn tell_chain<M: Memory>(&mut self, turn: &mut Turn<'_, M>) {
        let serves = matches!(self.phase, Phase::Serving(_)) && self.closing.is_none();
        let view = self.edition.as_ref().and_then(|edition| self.view(edition.map())).filter(|_| serves);
        if let Some(view) = view.filter(|view| self.told.as_ref() != Some(view)) {
            self.told = Some(view.clone());
            self.handle(Event::Chain(&view), turn);
        }
    }

    fn view(&self, map: &ClusterMap) -> Option<ChainView> {
        let group = map.group(self.settings.group)?;
        let store = |index: u16| map.as_map().stores[usize::from(index)].store;
        Some(ChainView {
            epoch: group.chain.epoch,
            phase: group.chain.phase,
            members: group.chain.members.iter().map(|member| (store(member.store), member.state)).collect(),
            min_in_sync: group.chain.min_in_sync,
            generation: group.generation,
        })
    }

    /// What another member says.
    pub(super) fn on_replicate<M: Memory>(
        &mut self,
        link: Link,
        message: Replication<&[u8]>,
        turn: &mut Turn<'_, M>,
    ) -> Option<CloseReason> {
        let Some(from) = self.peers.greeted_over(link) else { return Some(CloseReason::Protocol) };
        self.on_said(from, message, turn);
        None
    }

    /// The same, over whichever connection.
    pub(super) fn on_said<M: Memory>(
        &mut self,
        from: StoreId,
        message: Replication<&[u8]>,
        turn: &mut Turn<'_, M>,
    ) {
        // An orderly end logs nothing any more.
        if self.closing.is_none() {
            self.handle(Event::Message { from, message }, turn);
        }
    }
}
