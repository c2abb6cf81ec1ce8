//! What a step of the `raft` crate leads to: records at once, everything else once they are durable.
//!
//! Steps are held in a queue, so that what they lead to leaves in their order. A step whose records say only how far things are agreed on isn't waited for:
//! lost, it is learnt again. One that changes who votes is, so that no restart begins with voters from before a change that was followed.

use raft::eraftpb::{Entry, EntryType, Message, MessageType};
use raft::{Ready, StateRole};
use wire::planted::{Bug, planted};

use super::bytes::{Input, change_of};
use super::shelf::Image;
use super::{
    ELECTION_TICKS, ENTRY_BYTES_MAX, Leadership, Letter, Outputs, Voter, VoterEvent, codec, record, timing,
};

/// The string goes on with the next entry.
const PART_MORE: u8 = 0;
/// It ends with this one.
const PART_END: u8 = 1;

/// A string as the entries that it takes.
pub(super) fn parts(bytes: &[u8]) -> impl Iterator<Item = Vec<u8>> {
    let room = ENTRY_BYTES_MAX - 1;
    let count = bytes.len().div_ceil(room).max(1);
    (0..count).map(move |place| {
        let from = place * room;
        let flag = if place + 1 == count { PART_END } else { PART_MORE };
        let mut data = vec![flag];
        data.extend_from_slice(&bytes[from..bytes.len().min(from + room)]);
        data
    })
}

/// A step whose consequences wait.
#[derive(Debug)]
pub(super) struct Held {
    number: u64,
    /// The record that has to be durable first; 0: none.
    record: u64,
    /// Whether the records are entries or an image.
    has_log: bool,
    image: Option<Image>,
    messages: Vec<Message>,
    agreed: Vec<Entry>,
}

impl Held {
    /// Whether entries of the log aren't durable yet.
    pub(super) fn waits_for_log(&self) -> bool {
        self.has_log
    }
}

impl Voter {
    /// Takes in all that the `raft` crate has to say, and lets go what is durable.
    pub(super) fn settle(&mut self, out: &mut Outputs) {
        loop {
            self.set_timeout();
            while self.node.has_ready() {
                let ready = self.node.ready();
                self.take(ready, out);
            }
            if !self.release(out) {
                break;
            }
        }
        self.set_timeout();
    }

    /// Whatever the `raft` crate has drawn at random is overwritten before it is looked at.
    fn set_timeout(&mut self) {
        let voters = self.voters();
        let all = voters.voters.union(&voters.outgoing).copied().collect();
        let ticks = timing::election_ticks(self.seed, &all, self.id.id, self.node.raft.term, ELECTION_TICKS);
        self.node.raft.set_randomized_election_timeout(ticks);
    }

    fn take(&mut self, mut ready: Ready, out: &mut Outputs) {
        self.note_leadership(out);
        for state in ready.take_read_states() {
            let mut context = Input::new(&state.request_ctx);
            if let (Ok(term), Ok(round)) = (context.u64(), context.u64())
                && term == self.node.raft.term
            {
                out.events.push(VoterEvent::Confirmed { round });
            }
        }
        let mut records = Vec::new();
        let image = Some(ready.snapshot()).filter(|snapshot| !snapshot.is_empty()).map(|snapshot| Image {
            index: snapshot.get_metadata().index,
            term: snapshot.get_metadata().term,
            voters: codec::voters_of(snapshot),
            bytes: snapshot.get_data().into(),
        });
        if let Some(image) = &image {
            record::image(image, &mut records);
            self.node.mut_store().restore(image.clone());
        }
        let entries = ready.take_entries();
        let has_log = image.is_some() || !entries.is_empty();
        let before = self.node.store().hard.clone();
        record::steps(&before, ready.hs(), &entries, &mut records);
        let shelf = self.node.mut_store();
        if let Some(hard) = ready.hs() {
            shelf.hard.clone_from(hard);
        }
        shelf.append(entries);
        for record in records {
            self.recorded += 1;
            out.records.push((self.recorded, record));
        }
        let mut messages = ready.take_messages();
        messages.extend(ready.take_persisted_messages());
        let agreed = ready.take_committed_entries();
        let changes = agreed.iter().any(|entry| entry.get_entry_type() == EntryType::EntryConfChangeV2);
        let waits = (ready.must_sync() || changes) && !planted(Bug::VoterSendsEarly);
        let held = Held {
            number: ready.number(),
            record: if waits { self.recorded } else { 0 },
            has_log,
            image,
            messages,
            agreed,
        };
        self.node.advance_append_async(ready);
        self.held.push_back(held);
    }

    fn note_leadership(&mut self, out: &mut Outputs) {
        let raft = &self.node.raft;
        let is_self = raft.state == StateRole::Leader;
        let now = Leadership { term: raft.term, leader: raft.leader_id, is_self };
        if now != self.leadership {
            if !is_self {
                self.goal = None;
            }
            self.leadership = now;
            out.events.push(VoterEvent::Leadership(now));
        }
    }

    /// Lets go the steps whose records are durable; whether there were any.
    fn release(&mut self, out: &mut Outputs) -> bool {
        let mut any = false;
        while self.held.front().is_some_and(|held| held.record <= self.durable) {
            let held = self.held.pop_front().expect("looked at just now");
            any = true;
            self.node.on_persist_ready(held.number);
            if let Some(image) = held.image {
                self.install(image, out);
            }
            for message in &held.messages {
                if message.get_msg_type() == MessageType::MsgSnapshot {
                    self.images.insert(message.to, self.ticks);
                }
                codec::encode(message, |bytes| out.letters.push(Letter { to: message.to, bytes }));
            }
            for entry in held.agreed {
                self.apply(&entry, out);
            }
        }
        any
    }

    fn install(&mut self, image: Image, out: &mut Outputs) {
        self.applied = image.index;
        self.node.advance_apply_to(image.index);
        self.parts.clear();
        self.drop_proposals(image.index, 0, out);
        out.events.push(VoterEvent::Installed { index: image.index, image: image.bytes });
        out.events.push(VoterEvent::Voters(self.voters()));
    }

    fn apply(&mut self, entry: &Entry, out: &mut Outputs) {
        assert_eq!(entry.index, self.applied + 1, "entries are applied in order, each once");
        self.applied = entry.index;
        let is_last = self.drop_proposals(entry.index, entry.term, out);
        if entry.get_entry_type() == EntryType::EntryConfChangeV2 {
            self.parts.clear();
            // An image that came meanwhile has a later configuration already.
            if entry.index > self.node.store().image().index {
                self.apply_change(entry, out);
            }
        } else if let Some((flag, part)) = entry.data.split_first() {
            self.parts.extend_from_slice(part);
            if *flag == PART_END {
                let bytes = std::mem::take(&mut self.parts);
                out.events.push(VoterEvent::Applied { index: entry.index, bytes });
            }
        } else {
            // The first entry of a term is empty: a string whose rest didn't get into the log ends here.
            debug_assert!(!is_last, "nothing empty is proposed");
            self.parts.clear();
        }
        self.node.advance_apply_to(entry.index);
    }

    fn apply_change(&mut self, entry: &Entry, out: &mut Outputs) {
        let changed = self.node.apply_conf_change(&change_of(entry));
        // One that doesn't fit the configuration changes nothing, everywhere alike.
        if let Ok(state) = changed {
            self.node.mut_store().voters = state;
            out.events.push(VoterEvent::Voters(self.voters()));
        }
        // Elected while the change that removed it was under way, it has now carried that out. The `raft` crate has no place for a leader who isn't among
        // those whom it leads.
        let raft = &mut self.node.raft;
        if raft.state == StateRole::Leader && raft.prs().get(self.id.id).is_none() {
            raft.become_follower(raft.term, raft::INVALID_ID);
        }
    }

    /// Proposals up to this entry are decided; whether the last of them is this entry.
    fn drop_proposals(&mut self, index: u64, term: u64, out: &mut Outputs) -> bool {
        let mut is_last = false;
        while let Some(proposal) = self.proposals.front().copied().filter(|first| first.index <= index) {
            self.proposals.pop_front();
            is_last = proposal.index == index && proposal.term == term;
            if !is_last {
                out.events.push(VoterEvent::Dropped(proposal));
            }
        }
        is_last
    }
}
