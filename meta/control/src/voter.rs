//! A voter of the control group: the `raft` crate between messages, a durable log, and whoever applies what was agreed on. Pure.
//!
//! ```text
//!  propose, read_index, change_voters ─┐                 ┌─► messages to other voters
//!  step (a message), tick (50 ms) ─────┼─► raft ─► held ─┼─► events: leadership, entries in order, images, confirmed rounds
//!  on_durable (a record) ──────────────┘     │       ▲   └
//!                                         records ───┘     what a step leads to waits until its records are durable
//! ```
//! **Invariants.** No message leaves before what it says is durable (R35): not a vote, not "I have it", not a leader's own entries. An entry is applied
//! only once it is committed, in order, everywhere the same. The configuration that a restart begins with is one that was durable, at most one change
//! behind. A voter whose log is damaged or lost doesn't vote again under its id: [`VoterError`] is the end of it.
//! Nothing depends on what the `raft` crate draws at random: the election timeout is set after each step (`timing`).
//!
//! Agreed are byte strings, of any length up to an image's: a long one takes several entries, and counts when the last of them does.

mod bytes;
mod change;
mod codec;
mod ready;
mod record;
mod shelf;
#[cfg(test)]
mod tests;
mod timing;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use raft::eraftpb::{ConfState, Entry, Message, MessageType};
use raft::{Config, RawNode, ReadOnlyOption, SnapshotStatus, StateRole};
use slog::{Discard, Logger, o};
use thiserror::Error;
use wire::Nanos;
use wire::limits::{MAP_PAGE_BYTES, MAP_PAGES_MAX};
use wire::planted::{Bug, planted};

pub use bytes::FormatError;
pub use record::{Recovery, VoterId};

use codec::Assembly;
use ready::Held;
use shelf::{Image, Shelf};

/// Time between two ticks.
pub const TICK: u64 = 50 * Nanos::MILLISECOND;
/// A leader is heard every 100 ms.
const HEARTBEAT_TICKS: usize = 2;
/// The shortest election timeout, 300 ms; the longest is just short of twice that.
const ELECTION_TICKS: usize = 6;
/// Bytes of one entry: a longer string takes several.
pub const ENTRY_BYTES_MAX: usize = 256 << 10;
/// Bytes of an image, and of what is proposed at once: as much as a map may have.
pub const IMAGE_BYTES_MAX: usize = MAP_PAGES_MAX as usize * MAP_PAGE_BYTES;
/// An image travels, and is written down, in pieces of so many bytes.
const IMAGE_PIECE_BYTES: usize = 256 << 10;
/// A message between voters, at most: it fits into a frame.
pub const MESSAGE_BYTES_MAX: usize = 640 << 10;
/// Entries of one message.
const MESSAGE_ENTRIES_MAX: usize = 1024;
/// A record, at most: it fits into half a log segment of 1 MiB.
pub const RECORD_BYTES_MAX: usize = 320 << 10;
/// Voters, learners included: far above the 5 that a group has.
const VOTERS_MAX: usize = 16;
/// Entries proposed and not yet agreed on, in bytes; beyond, proposals are refused.
const UNCOMMITTED_BYTES_MAX: u64 = 2 * IMAGE_BYTES_MAX as u64;
/// Messages with entries on their way to one voter.
const IN_FLIGHT_MAX: usize = 16;
/// An image is wanted after so many entries, or so many bytes of them.
const ENTRIES_MAX: u64 = 1024;
const ENTRIES_BYTES_MAX: usize = 16 << 20;
/// An image that was sent and not acknowledged is sent again after so many ticks.
const IMAGE_PATIENCE_TICKS: u64 = 100;

const _: () =
    assert!(ENTRY_BYTES_MAX + 4096 <= RECORD_BYTES_MAX && IMAGE_PIECE_BYTES + 4096 <= RECORD_BYTES_MAX);

/// Why a voter can't vote. It never will under its id: it is taken in again under a new one (R35).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Error)]
pub enum VoterError {
    /// Its log is damaged.
    #[error("the control log is damaged")]
    Damaged,
    /// A record can't be read.
    #[error("a record of the control log can't be read: {0}")]
    Format(#[from] FormatError),
    /// Records don't follow each other.
    #[error("the control log's records don't follow each other")]
    Inconsistent,
    /// The log has no first record.
    #[error("the control log has no first record")]
    Unborn,
    /// The log is another voter's, or another cluster's.
    #[error("the control log is that of voter {} of cluster {}", found.id, found.cluster)]
    Foreign {
        /// Whose.
        found: VoterId,
    },
    /// A leader knows of this voter that it had entries which aren't here: the log was replaced by an older one.
    #[error("the control log has {last} entries, and had {had}")]
    Amnesia {
        /// What it has.
        last: u64,
        /// What it had said to have.
        had: u64,
    },
    /// A leader has other entries than those that were agreed on here.
    #[error("entry {index} was agreed on in term {term}, and a leader has another one")]
    Diverged {
        /// The first such entry.
        index: u64,
        /// Its term here.
        term: u64,
    },
}

/// Why nothing was proposed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Refused {
    /// This voter doesn't lead.
    #[error("this voter doesn't lead")]
    NotLeader,
    /// Too much is under way, or leadership is being handed over.
    #[error("too much is under way")]
    Busy,
}

/// Names what was proposed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Proposal {
    /// The leader's term.
    pub term: u64,
    /// The last entry that it takes.
    pub index: u64,
}

/// Who leads, as far as is known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Leadership {
    /// The present term.
    pub term: u64,
    /// The leader's id; 0: not known.
    pub leader: u64,
    /// Whether it is this voter.
    pub is_self: bool,
}

/// Who votes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Voters {
    /// Those whose majority decides.
    pub voters: BTreeSet<u64>,
    /// Those who follow and don't vote.
    pub learners: BTreeSet<u64>,
    /// While the configuration changes: those whose majority decides as well.
    pub outgoing: BTreeSet<u64>,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum VoterEvent {
    /// Another leader, or none, or another term.
    Leadership(Leadership),
    /// The state is this image's, whatever it was. The first event of a voter that has one.
    Installed {
        /// The last entry in it.
        index: u64,
        /// The state.
        image: Arc<[u8]>,
    },
    /// What was proposed is agreed on; in order.
    Applied {
        /// The last entry that it took.
        index: u64,
        /// What was proposed.
        bytes: Vec<u8>,
    },
    /// What was proposed here isn't agreed on, or isn't known to be: the state shows it.
    Dropped(Proposal),
    /// A majority has confirmed this leader's term after the round was begun (R18).
    Confirmed {
        /// The round.
        round: u64,
    },
    /// The configuration changed.
    Voters(Voters),
    /// The voter has ended.
    Failed(VoterError),
}

/// A message to another voter.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Letter {
    /// Its id.
    pub to: u64,
    /// At most [`MESSAGE_BYTES_MAX`].
    pub bytes: Vec<u8>,
}

/// What one call leads to, in order. Owned by the caller and reused.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Outputs {
    /// Messages to other voters. Any may be lost, repeated or late.
    pub letters: Vec<Letter>,
    /// Records for the durable log, with their numbers, one after the other; each at most [`RECORD_BYTES_MAX`].
    pub records: Vec<(u64, Vec<u8>)>,
    /// Everything else.
    pub events: Vec<VoterEvent>,
}

impl Outputs {
    /// Forgets everything, keeps the memory.
    pub fn clear(&mut self) {
        self.letters.clear();
        self.records.clear();
        self.events.clear();
    }
}

/// See the module.
pub struct Voter {
    id: VoterId,
    /// Staggers elections.
    seed: u64,
    node: RawNode<Shelf>,
    /// The last record handed out, and the last one known durable.
    recorded: u64,
    durable: u64,
    /// Steps whose consequences wait for their records.
    held: VecDeque<Held>,
    /// The last entry applied.
    applied: u64,
    /// Parts of a string whose end isn't there yet.
    parts: Vec<u8>,
    proposals: VecDeque<Proposal>,
    leadership: Leadership,
    /// Who is to vote, while that differs from who does.
    goal: Option<BTreeSet<u64>>,
    assembly: Assembly,
    ticks: u64,
    /// Voters to whom an image was sent, and when.
    images: BTreeMap<u64, u64>,
    failed: Option<VoterError>,
}

impl std::fmt::Debug for Voter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut shown = f.debug_struct("Voter");
        shown.field("voter", &self.id).field("leadership", &self.leadership);
        shown.field("applied", &self.applied).field("failed", &self.failed).finish_non_exhaustive()
    }
}

impl Voter {
    /// The log of a new cluster's first voter: its only records, to be read back by a [`Recovery`] once they are durable (R35).
    pub fn found(voter: VoterId, image: &[u8]) -> Vec<Vec<u8>> {
        assert!(image.len() <= IMAGE_BYTES_MAX, "an image keeps its limit");
        let voters = ConfState { voters: vec![voter.id], ..ConfState::default() };
        let mut records = vec![record::born(voter)];
        record::image(&Image { index: 1, term: 1, voters, bytes: image.into() }, &mut records);
        records
    }

    /// The log of a voter that waits to be fed by the others.
    pub fn join(voter: VoterId) -> Vec<Vec<u8>> {
        vec![record::born(voter)]
    }

    /// A voter with this log, whose last record is `recorded`.
    pub fn start(
        voter: VoterId,
        seed: u64,
        recovery: Recovery,
        recorded: u64,
        out: &mut Outputs,
    ) -> Result<Self, VoterError> {
        let shelf = recovery.finish(voter)?;
        let image = shelf.image().clone();
        let config = Config {
            id: voter.id,
            election_tick: ELECTION_TICKS,
            heartbeat_tick: HEARTBEAT_TICKS,
            applied: image.index,
            max_size_per_msg: ENTRY_BYTES_MAX as u64,
            max_inflight_msgs: IN_FLIGHT_MAX,
            check_quorum: true,
            pre_vote: true,
            read_only_option: ReadOnlyOption::Safe,
            max_uncommitted_size: UNCOMMITTED_BYTES_MAX,
            max_committed_size_per_ready: UNCOMMITTED_BYTES_MAX,
            ..Config::default()
        };
        let logger = Logger::root(Discard, o!());
        let node = RawNode::new(&config, shelf, &logger).map_err(|_| VoterError::Inconsistent)?;
        let mut this = Self {
            id: voter,
            seed,
            node,
            recorded,
            durable: recorded,
            held: VecDeque::new(),
            applied: image.index,
            parts: Vec::new(),
            proposals: VecDeque::new(),
            leadership: Leadership::default(),
            goal: None,
            assembly: Assembly::default(),
            ticks: 0,
            images: BTreeMap::new(),
            failed: None,
        };
        if image.index > 0 {
            out.events.push(VoterEvent::Installed { index: image.index, image: image.bytes });
            out.events.push(VoterEvent::Voters(this.voters()));
        }
        this.settle(out);
        // Nobody else can have been elected: there is nothing to wait for.
        if this.is_alone() {
            let campaign = this.node.campaign();
            debug_assert!(campaign.is_ok(), "a voter that knows itself may campaign");
            this.settle(out);
        }
        Ok(this)
    }

    /// Who this is.
    pub fn id(&self) -> VoterId {
        self.id
    }

    /// Who leads.
    pub fn leadership(&self) -> Leadership {
        self.leadership
    }

    /// The last entry applied.
    pub fn applied(&self) -> u64 {
        self.applied
    }

    /// Why it has ended, if it has.
    pub fn failed(&self) -> Option<VoterError> {
        self.failed
    }

    /// Whether it leads and everything that its predecessors agreed on is applied: what it decides from now on rests on the newest state.
    pub fn leads_with_all(&self) -> bool {
        self.leadership.is_self && self.node.raft.apply_to_current_term()
    }

    /// Who votes, by what is applied.
    pub fn voters(&self) -> Voters {
        let state = &self.node.store().voters;
        let set = |list: &[u64]| list.iter().copied().collect();
        let mut learners: BTreeSet<u64> = set(&state.learners);
        learners.extend(&state.learners_next);
        Voters { voters: set(&state.voters), learners, outgoing: set(&state.voters_outgoing) }
    }

    fn is_alone(&self) -> bool {
        let state = &self.node.store().voters;
        state.voters == [self.id.id] && state.voters_outgoing.is_empty()
    }

    /// 50 ms have passed.
    pub fn tick(&mut self, out: &mut Outputs) {
        if self.failed.is_some() {
            return;
        }
        self.ticks += 1;
        // Whoever waits for its own disk stands for no election: it couldn't say what it has.
        let is_leader = self.node.raft.state == StateRole::Leader;
        if is_leader || !self.held.iter().any(Held::waits_for_log) {
            self.node.tick();
        }
        self.send_images_again();
        self.settle(out);
        self.advance_goal(out);
    }

    /// A message has arrived. What a voter of this cluster sends can't be wrong; if it is, it is as if it had been lost.
    pub fn step(&mut self, bytes: &[u8], out: &mut Outputs) -> Result<(), FormatError> {
        if self.failed.is_some() {
            return Ok(());
        }
        let arrived = codec::decode(bytes)?;
        if arrived.message.to != self.id.id {
            return Err(FormatError::Invalid("receiver"));
        }
        let Some(message) = self.assembly.take(arrived) else { return Ok(()) };
        if let Err(error) = self.look_at(&message) {
            self.fail(error, out);
            return Ok(());
        }
        let has_more = message.get_msg_type() == MessageType::MsgAppendResponse
            && message.index > self.node.raft.raft_log.last_index();
        if !has_more {
            // An error says that nothing came of the message.
            let _ = self.node.step(message);
        }
        self.settle(out);
        self.advance_goal(out);
        Ok(())
    }

    /// What the `raft` crate would panic over: this voter's log isn't what it was, or isn't what was agreed on.
    fn look_at(&self, message: &Message) -> Result<(), VoterError> {
        let raft = &self.node.raft;
        if message.term < raft.term {
            return Ok(());
        }
        let last = raft.raft_log.last_index();
        match message.get_msg_type() {
            MessageType::MsgHeartbeat if message.commit > last => {
                Err(VoterError::Amnesia { last, had: message.commit })
            }
            MessageType::MsgAppend => {
                let committed = raft.raft_log.committed;
                let agreed = message.entries.iter().filter(|entry| entry.index <= committed);
                let differs = |entry: &&Entry| {
                    self.node.store().term_of(entry.index).is_some_and(|term| term != entry.term)
                };
                match agreed.into_iter().find(differs) {
                    Some(entry) => {
                        let term = self.node.store().term_of(entry.index).unwrap_or(0);
                        Err(VoterError::Diverged { index: entry.index, term })
                    }
                    None => Ok(()),
                }
            }
            _ => Ok(()),
        }
    }

    fn fail(&mut self, error: VoterError, out: &mut Outputs) {
        self.failed = Some(error);
        self.held.clear();
        if self.leadership.is_self {
            self.leadership = Leadership { leader: 0, is_self: false, ..self.leadership };
            out.events.push(VoterEvent::Leadership(self.leadership));
        }
        out.events.push(VoterEvent::Failed(error));
    }

    /// Every record up to this one is durable.
    pub fn on_durable(&mut self, record: u64, out: &mut Outputs) {
        assert!(record <= self.recorded, "only what was handed out can be durable");
        self.durable = self.durable.max(record);
        if self.failed.is_none() {
            self.settle(out);
            self.advance_goal(out);
        }
    }

    /// The connection to a voter broke: what was sent may be lost.
    pub fn on_unreachable(&mut self, id: u64) {
        self.node.report_unreachable(id);
        if self.images.remove(&id).is_some() {
            self.node.report_snapshot(id, SnapshotStatus::Failure);
        }
    }

    /// Proposes a string. It ends in `Applied`, or `Dropped`, or neither if this voter ends before.
    pub fn propose(&mut self, bytes: &[u8], out: &mut Outputs) -> Result<Proposal, Refused> {
        assert!(bytes.len() <= IMAGE_BYTES_MAX, "a proposal keeps its limit");
        if !self.leadership.is_self || self.failed.is_some() || self.node.raft.state != StateRole::Leader {
            return Err(Refused::NotLeader);
        }
        let mut message = Message { from: self.id.id, ..Message::default() };
        message.set_msg_type(MessageType::MsgPropose);
        message.entries = ready::parts(bytes).map(|data| Entry { data, ..Entry::default() }).collect();
        self.node.raft.step(message).map_err(|_| Refused::Busy)?;
        let proposal = Proposal { term: self.node.raft.term, index: self.node.raft.raft_log.last_index() };
        self.proposals.push_back(proposal);
        self.settle(out);
        Ok(proposal)
    }

    /// Begins a round: [`VoterEvent::Confirmed`] says that a majority took this voter for the leader after this call (R18). A round that isn't
    /// confirmed means nothing; a later one that is confirmed covers it. False: this voter doesn't lead, or not with all yet.
    pub fn read_index(&mut self, round: u64, out: &mut Outputs) -> bool {
        let raft = &self.node.raft;
        if !self.leadership.is_self || self.failed.is_some() || !raft.commit_to_current_term() {
            return false;
        }
        if planted(Bug::VoterTrustsItself) {
            out.events.push(VoterEvent::Confirmed { round });
            return true;
        }
        let mut context = Vec::with_capacity(16);
        bytes::put_u64(&mut context, raft.term);
        bytes::put_u64(&mut context, round);
        self.node.read_index(context);
        self.settle(out);
        true
    }

    /// Whether an image of the state is wanted: somebody is far behind, or there are many entries.
    pub fn wants_image(&self) -> bool {
        let shelf = self.node.store();
        let (entries, bytes) = shelf.behind();
        let is_newer = self.parts.is_empty() && self.applied > shelf.image().index;
        is_newer && (shelf.is_image_wanted() || entries > ENTRIES_MAX || bytes > ENTRIES_BYTES_MAX)
    }

    /// An image of the state, with everything that was told as `Applied`.
    pub fn set_image(&mut self, bytes: &[u8]) {
        assert!(bytes.len() <= IMAGE_BYTES_MAX, "an image keeps its limit");
        // The parts of a string that isn't whole belong to no state.
        if !self.parts.is_empty() || self.applied <= self.node.store().image().index {
            return;
        }
        let term = self.node.store().term_of(self.applied).expect("what is applied is here");
        let voters = self.node.store().voters.clone();
        self.node.mut_store().renew(Image { index: self.applied, term, voters, bytes: bytes.into() });
    }

    /// The records that lead where the log has led to, so that it may begin with them instead. `None` while a record isn't durable.
    pub fn checkpoint(&self) -> Option<(u64, Vec<Vec<u8>>)> {
        let is_settled = self.durable == self.recorded;
        is_settled.then(|| (self.recorded, record::checkpoint(self.id, self.node.store())))
    }

    /// An image that got lost on its way is sent again.
    fn send_images_again(&mut self) {
        let late: Vec<u64> = self
            .images
            .iter()
            .filter(|(_, sent)| self.ticks - **sent > IMAGE_PATIENCE_TICKS)
            .map(|(id, _)| *id)
            .collect();
        for id in late {
            self.images.remove(&id);
            let waits = |progress: &raft::Progress| progress.state == raft::ProgressState::Snapshot;
            if self.node.raft.prs().get(id).is_some_and(waits) {
                self.node.report_snapshot(id, SnapshotStatus::Failure);
            }
        }
    }
}
