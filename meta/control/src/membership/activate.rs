//! ACTIVATE: when a prepared epoch may ack (R5).
//!
//! A node's `installed` is its promise: every ack checks epoch and phase under the map that its unit follows, and the unit follows no map
//! that isn't durable. So a node that installed the map which prepared epoch e acks nothing below e any more, whatever happens to it.

use wire::control::{ChainId, Waits};
use wire::map::{Chain, Member, Phase, ReplicaState};
use wire::planted::{Bug, planted};

use super::nodes::Presence;
use super::step::{Outcome, View};

impl View<'_> {
    /// Makes a prepared epoch active, or says whom it waits for.
    pub(super) fn activate(&self, id: ChainId, chain: &Chain, next: &mut Chain, outcome: &mut Outcome) {
        outcome.waits.extend(chain.members.iter().filter_map(|member| self.lacks(id, *member)));
        if !outcome.waits.is_empty() {
            return;
        }
        next.phase = Phase::Active;
        outcome.is_urgent = true;
    }

    /// What is missing of a member.
    fn lacks(&self, id: ChainId, member: Member) -> Option<Waits> {
        let number = self.note(id).prepared;
        let store = self.store(member.store);
        if member.state.acks() {
            // Whoever acks promises durably, in the life that it acks in.
            let has = (store.presence == Presence::Fit || store.reads) && store.installed >= number;
            let waits = Waits::Promise { node: store.node, number };
            return (!has && !planted(Bug::ControlActivatesEarly)).then_some(waits);
        }
        // Whoever was removed is among those that are listed and don't ack. It can't do harm any more once it follows the map, or was started anew
        // since, or can't have a lease (its acks need a member that has promised).
        if store.sealed >= number && store.presence != Presence::Unknown {
            return None;
        }
        if self.now >= store.lease_until || planted(Bug::ControlForgetsRemoved) {
            return None;
        }
        if store.presence == Presence::Unknown || member.state == ReplicaState::Offline {
            return Some(Waits::Lease { node: store.node, left: store.lease_until.since(self.now) });
        }
        Some(Waits::Promise { node: store.node, number })
    }
}
