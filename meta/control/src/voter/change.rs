//! Changing who votes: new voters follow first, and vote once they have nearly everything; then all changes at once, by way of a joint configuration.
//!
//! ```text
//!  goal ─► learners are added ─► they have caught up ─► joint configuration ─► left by itself ─► the goal is who votes
//! ```
//! The goal is the leader's, and ends with its leadership: who decided on it asks the next leader again. A leader that isn't to vote hands its
//! leadership over first.

use std::collections::BTreeSet;

use raft::eraftpb::{
    ConfChangeSingle, ConfChangeTransition, ConfChangeType, ConfChangeV2, Entry, EntryType, Message,
    MessageType,
};

use super::bytes::change_bytes;
use super::{Outputs, Refused, VOTERS_MAX, Voter};

/// A learner that lacks no more entries than this has caught up.
const LEARNER_LAG_MAX: u64 = 64;

impl Voter {
    /// Makes these the voters, step by step. Asking again for the same changes nothing; another set takes the goal's place.
    pub fn change_voters(&mut self, voters: &BTreeSet<u64>, out: &mut Outputs) -> Result<(), Refused> {
        assert!(
            !voters.is_empty() && voters.len() <= VOTERS_MAX / 2 && !voters.contains(&0),
            "a few voters, each with an id"
        );
        if !self.leadership.is_self || self.failed.is_some() {
            return Err(Refused::NotLeader);
        }
        self.goal = Some(voters.clone());
        self.advance_goal(out);
        Ok(())
    }

    /// Whether a change of voters is under way.
    pub fn is_changing_voters(&self) -> bool {
        self.goal.is_some()
    }

    /// The next step, if its time has come.
    pub(super) fn advance_goal(&mut self, out: &mut Outputs) {
        let Some(goal) = self.goal.clone() else { return };
        let now = self.voters();
        let is_ready = self.leadership.is_self && self.node.raft.apply_to_current_term();
        if !is_ready || !now.outgoing.is_empty() || self.node.raft.has_pending_conf() {
            return;
        }
        if now.voters == goal && now.learners.is_empty() {
            self.goal = None;
            return;
        }
        let mut change = ConfChangeV2::default();
        let mut add = |ids: &mut dyn Iterator<Item = u64>, kind: ConfChangeType| {
            for node_id in ids {
                let mut single = ConfChangeSingle { node_id, ..ConfChangeSingle::default() };
                single.set_change_type(kind);
                change.changes.push(single);
            }
        };
        let strange = |id: &u64| !now.voters.contains(id) && !now.learners.contains(id);
        let new: Vec<u64> = goal.iter().copied().filter(strange).collect();
        if new.is_empty() {
            if !goal.difference(&now.voters).all(|id| self.has_caught_up(*id)) {
                return;
            }
            // Where nobody who votes now is to vote then, the leader carries its own removal out, and the others elect one of theirs.
            if !goal.contains(&self.id.id) && goal.intersection(&now.voters).next().is_some() {
                return self.hand_over(&goal, out);
            }
            add(&mut goal.difference(&now.voters).copied(), ConfChangeType::AddNode);
            let known = now.voters.union(&now.learners).copied();
            add(&mut known.filter(|id| !goal.contains(id)), ConfChangeType::RemoveNode);
            change.set_transition(ConfChangeTransition::Implicit);
        } else {
            add(&mut new.into_iter(), ConfChangeType::AddLearnerNode);
            // Learners of a goal that was given up.
            add(&mut now.learners.difference(&goal).copied(), ConfChangeType::RemoveNode);
        }
        let mut message = Message { from: self.id.id, ..Message::default() };
        message.set_msg_type(MessageType::MsgPropose);
        let mut entry = Entry { data: change_bytes(&change), ..Entry::default() };
        entry.set_entry_type(EntryType::EntryConfChangeV2);
        message.entries = vec![entry];
        // Refused: again with the next step.
        if self.node.raft.step(message).is_ok() {
            self.settle(out);
        }
    }

    fn has_caught_up(&self, id: u64) -> bool {
        let progress = self.node.raft.prs().get(id);
        progress
            .is_some_and(|progress| progress.matched + LEARNER_LAG_MAX >= self.node.raft.raft_log.committed)
    }

    /// Whoever is to vote and has most leads from now on.
    fn hand_over(&mut self, goal: &BTreeSet<u64>, out: &mut Outputs) {
        let voters = self.voters().voters;
        let matched = |id: &u64| self.node.raft.prs().get(*id).map_or(0, |progress| progress.matched);
        if let Some(next) = goal.intersection(&voters).copied().max_by_key(matched) {
            self.node.transfer_leader(next);
            self.settle(out);
        }
    }
}
