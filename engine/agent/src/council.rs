//! The part of the control group that is here: a voter on its log, and the membership that decides while it leads.
//!
//! ```text
//!  letters, ticks ─► voter ─► records ─► voter_log ─► disk
//!                      │ applied, in order
//!                      ▼
//!                  the map ─► membership ─► proposals ─► voter          while it leads: plans, grants leases, answers
//! ```
//! What was agreed on is deltas of the map, each applied by [`control::membership::apply`], which refuses what doesn't follow from the map before: the same on
//! every voter.

use std::sync::Arc;

use control::membership::{self, Config, Event, Membership};
use control::voter::{Leadership, Outputs, Recovery, TICK, Voter, VoterEvent, VoterId};
use journal::log::Log;
use placement::{ClusterMap, Edition};
use wire::control::{Answer, Command, Heartbeat, HeartbeatReply, Registration, RegistrationReply};
use wire::map::{Map, MapDelta};
use wire::{MapNumber, Memory, Nanos, NodeId};

use crate::effects::{Effects, Note, VoterFailure};
use crate::voter_log::{LogNote, VoterLog};

/// What the council has to say to the agent, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Word {
    /// A letter for another voter.
    Letter {
        /// Its id.
        to: u64,
        /// The letter.
        bytes: Vec<u8>,
    },
    /// The map that was agreed on.
    Map(Arc<Edition>),
    /// The answer to a registration.
    Registered(u64, RegistrationReply),
    /// The answer to a heartbeat.
    Beat(HeartbeatReply),
    /// The answer to a command.
    Answer(u64, Answer),
    /// It leads now.
    Elected,
    /// It doesn't any more.
    Deposed,
}

enum Phase {
    /// The log is being read.
    Opening(Box<Recovery>),
    /// A new log's first records are being written.
    Born {
        recovery: Box<Recovery>,
        last: u64,
    },
    Voting(Box<Voter>),
    /// It doesn't vote, and says nothing.
    Failed,
}

/// See the module.
pub(crate) struct Council {
    id: VoterId,
    seed: u64,
    phase: Phase,
    /// A log that was just formatted gets these first.
    first: Vec<Vec<u8>>,
    log: VoterLog,
    membership: Membership,
    edition: Arc<Edition>,
    outputs: Outputs,
    decisions: membership::Effects,
    pub(crate) words: Vec<Word>,
    /// It was told that it leads.
    leads: bool,
    /// The change that the voter didn't take.
    refused: Option<MapNumber>,
    next_tick: Nanos,
    membership_at: Option<Nanos>,
    closing: bool,
}

impl std::fmt::Debug for Council {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Council").field("id", &self.id).field("leads", &self.leads).finish_non_exhaustive()
    }
}

/// Where a voter's log comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VoterOrigin {
    /// It is there.
    Kept,
    /// It is empty: that of a new cluster's first voter.
    Founding,
    /// It is empty: the others feed it.
    Joining,
}

impl Council {
    pub(crate) fn new(
        (node, id): (NodeId, VoterId),
        log: Log,
        origin: VoterOrigin,
        edition: Arc<Edition>,
    ) -> Self {
        let first = match origin {
            VoterOrigin::Kept => Vec::new(),
            VoterOrigin::Founding => Voter::found(id, edition.bytes()),
            VoterOrigin::Joining => Voter::join(id),
        };
        let membership = Membership::new(node, Config::default(), edition.map().clone());
        Self {
            id,
            seed: u64::from(node.0),
            phase: Phase::Opening(Box::default()),
            first,
            log: VoterLog::new(log),
            membership,
            edition,
            outputs: Outputs::default(),
            decisions: membership::Effects::default(),
            words: Vec::new(),
            leads: false,
            refused: None,
            next_tick: Nanos(0),
            membership_at: None,
            closing: false,
        }
    }

    /// Whose votes these are.
    pub(crate) fn id(&self) -> VoterId {
        self.id
    }

    /// Whether it leads, and knows everything that was agreed on before.
    pub(crate) fn leads(&self) -> bool {
        self.leads
    }

    /// Who leads, as far as this voter knows.
    pub(crate) fn leader(&self) -> Option<NodeId> {
        let Phase::Voting(voter) = &self.phase else { return None };
        self.node_of(voter.leadership())
    }

    fn node_of(&self, leadership: Leadership) -> Option<NodeId> {
        let nodes = &self.edition.map().as_map().nodes;
        let found = nodes.iter().find(|node| leadership.leader != 0 && node.voter == leadership.leader);
        found.map(|node| node.node)
    }

    pub(crate) fn start(&mut self, now: Nanos, memory: &mut impl Memory, effects: &mut Effects) {
        self.next_tick = now.after(TICK);
        self.log.start(now, memory, effects);
        self.settle(now, memory, effects);
    }

    pub(crate) fn on_io(
        &mut self,
        now: Nanos,
        io: (journal::IoToken, journal::IoOutcome),
        memory: &mut impl Memory,
        effects: &mut Effects,
    ) {
        self.log.on_io(now, io, memory, effects);
        self.settle(now, memory, effects);
    }

    pub(crate) fn on_turn(&mut self, now: Nanos, memory: &mut impl Memory, effects: &mut Effects) {
        self.log.submit(now, memory, effects);
        self.settle(now, memory, effects);
    }

    pub(crate) fn on_tick(&mut self, now: Nanos, memory: &mut impl Memory, effects: &mut Effects) {
        self.log.on_tick(now, memory, effects);
        // A process that stood still catches up with one tick: its election timeout isn't over because it slept.
        if now >= self.next_tick {
            self.next_tick = now.after(TICK);
            if let Phase::Voting(voter) = &mut self.phase {
                voter.tick(&mut self.outputs);
            }
        }
        if let Some(number) = self.refused.take() {
            self.decide(now, Event::Dropped { number }, effects);
        }
        if self.membership_at.is_some_and(|at| at <= now) {
            self.membership_at = None;
            self.decide(now, Event::Tick, effects);
        }
        self.settle(now, memory, effects);
    }

    pub(crate) fn deadline(&self) -> Nanos {
        let log = self.log.deadline().unwrap_or(Nanos(u64::MAX));
        log.min(self.next_tick).min(self.membership_at.unwrap_or(Nanos(u64::MAX)))
    }

    /// A letter from another voter. False: it makes no sense.
    pub(crate) fn on_letter(
        &mut self,
        now: Nanos,
        bytes: &[u8],
        memory: &mut impl Memory,
        effects: &mut Effects,
    ) -> bool {
        let Phase::Voting(voter) = &mut self.phase else { return true };
        let made_sense = voter.step(bytes, &mut self.outputs).is_ok();
        self.settle(now, memory, effects);
        made_sense
    }

    /// Nothing gets through to a voter.
    pub(crate) fn on_unreachable(&mut self, id: u64) {
        if let Phase::Voting(voter) = &mut self.phase {
            voter.on_unreachable(id);
        }
    }

    pub(crate) fn on_registration(
        &mut self,
        now: Nanos,
        (token, registration): (u64, &Registration),
        memory: &mut impl Memory,
        effects: &mut Effects,
    ) {
        self.decide(now, Event::Registered { token, registration }, effects);
        self.settle(now, memory, effects);
    }

    pub(crate) fn on_heartbeat(
        &mut self,
        now: Nanos,
        heartbeat: &Heartbeat,
        memory: &mut impl Memory,
        effects: &mut Effects,
    ) {
        self.decide(now, Event::Heartbeat(heartbeat), effects);
        self.settle(now, memory, effects);
    }

    pub(crate) fn on_command(
        &mut self,
        now: Nanos,
        (token, command): (u64, &Command),
        memory: &mut impl Memory,
        effects: &mut Effects,
    ) {
        self.decide(now, Event::Command { token, command }, effects);
        self.settle(now, memory, effects);
    }

    /// Writes what is left, and ends the log.
    pub(crate) fn on_shutdown(&mut self, now: Nanos, memory: &mut impl Memory, effects: &mut Effects) {
        if !std::mem::replace(&mut self.closing, true) {
            self.log.close(now, memory, effects);
            self.settle(now, memory, effects);
        }
    }

    /// Takes in what log and voter have to say, until nothing follows.
    fn settle(&mut self, now: Nanos, memory: &mut impl Memory, effects: &mut Effects) {
        loop {
            for note in self.log.take_notes(now, memory, effects) {
                self.on_note(now, note, memory, effects);
            }
            let mut outputs = std::mem::take(&mut self.outputs);
            let is_quiet = outputs.records.is_empty() && outputs.events.is_empty();
            for record in outputs.records.drain(..) {
                self.log.append(now, record, memory, effects);
            }
            let letters = outputs.letters.drain(..);
            self.words.extend(letters.map(|letter| Word::Letter { to: letter.to, bytes: letter.bytes }));
            for event in outputs.events.drain(..) {
                self.on_event(now, event, effects);
            }
            if self.outputs == Outputs::default() {
                self.outputs = outputs; // its memory
            }
            self.look_at_leadership(now, effects);
            if is_quiet && self.outputs.records.is_empty() && self.outputs.events.is_empty() {
                break;
            }
        }
        self.tend_log(now, memory, effects);
    }

    fn on_note(&mut self, now: Nanos, note: LogNote, memory: &mut impl Memory, effects: &mut Effects) {
        match (note, &mut self.phase) {
            (LogNote::Restart, Phase::Opening(recovery)) => recovery.on_restart(),
            (LogNote::Record(record), Phase::Opening(recovery)) => recovery.on_record(&record),
            (LogNote::Opened(last), Phase::Opening(_)) if last == 0 && !self.first.is_empty() => {
                let mut recovery = Recovery::new();
                let mut number = 0;
                for record in std::mem::take(&mut self.first) {
                    number += 1;
                    recovery.on_record(&record);
                    self.log.append(now, (number, record), memory, effects);
                }
                self.phase = Phase::Born { recovery: Box::new(recovery), last: number };
                self.log.submit(now, memory, effects);
            }
            (LogNote::Opened(last), Phase::Opening(_)) => {
                let Phase::Opening(recovery) = std::mem::replace(&mut self.phase, Phase::Failed) else {
                    return;
                };
                self.start_voter(*recovery, last, effects);
            }
            (LogNote::Durable(record), Phase::Born { last, .. }) if record >= *last => {
                let last = *last;
                let Phase::Born { recovery, .. } = std::mem::replace(&mut self.phase, Phase::Failed) else {
                    return;
                };
                self.start_voter(*recovery, last, effects);
            }
            (LogNote::Durable(record), Phase::Voting(voter)) => voter.on_durable(record, &mut self.outputs),
            (LogNote::OpenFailed(error), _) => self.fail(now, VoterFailure::Log(error), effects),
            (LogNote::Fenced, _) => self.fail(now, VoterFailure::Fenced, effects),
            (LogNote::Closed, _) => effects.notes.push(Note::Ended),
            _ => {}
        }
    }

    fn start_voter(&mut self, recovery: Recovery, recorded: u64, effects: &mut Effects) {
        match Voter::start(self.id, self.seed, recovery, recorded, &mut self.outputs) {
            Ok(voter) => {
                self.phase = Phase::Voting(Box::new(voter));
                self.next_tick = Nanos(0); // a lone voter leads with its first tick
            }
            Err(error) => effects.notes.push(Note::VoterFailed(VoterFailure::Voter(error))),
        }
    }

    fn fail(&mut self, now: Nanos, failure: VoterFailure, effects: &mut Effects) {
        self.phase = Phase::Failed;
        self.outputs.clear();
        effects.notes.push(Note::VoterFailed(failure));
        self.look_at_leadership(now, effects);
    }

    fn on_event(&mut self, now: Nanos, event: VoterEvent, effects: &mut Effects) {
        match event {
            // `look_at_leadership` sees to that.
            VoterEvent::Leadership(_) => {}
            VoterEvent::Installed { image, .. } => {
                let map = Map::decode(&image).ok().and_then(|map| ClusterMap::new(map).ok());
                match map {
                    Some(map) => self.take_map(now, map, effects),
                    None => self.fail(now, VoterFailure::Foreign, effects),
                }
            }
            VoterEvent::Applied { bytes, .. } => {
                // Others may know what this is, so that passing over it would leave this voter with another map than theirs.
                let Ok(delta) = MapDelta::decode(&bytes) else {
                    return self.fail(now, VoterFailure::Foreign, effects);
                };
                // Every voter refuses the same: what was decided on another map, or by a leader that is deposed.
                match membership::apply(self.edition.map(), &delta) {
                    Ok(map) => self.take_map(now, map, effects),
                    Err(_) => self.decide(now, Event::Dropped { number: delta.number }, effects),
                }
            }
            VoterEvent::Dropped(_) => {
                let number = MapNumber(self.edition.number().0 + 1);
                self.decide(now, Event::Dropped { number }, effects);
            }
            VoterEvent::Confirmed { round } => self.decide(now, Event::Confirmed { round }, effects),
            VoterEvent::Voters(voters) => {
                let ids: Vec<u64> = voters.voters.into_iter().collect();
                self.decide(now, Event::Voters(&ids), effects);
            }
            VoterEvent::Failed(error) => self.fail(now, VoterFailure::Voter(error), effects),
        }
    }

    fn take_map(&mut self, now: Nanos, map: ClusterMap, effects: &mut Effects) {
        if map.number() > self.edition.number() {
            self.edition = Arc::new(self.edition.next(map));
        }
        self.words.push(Word::Map(Arc::clone(&self.edition)));
        let edition = Arc::clone(&self.edition);
        self.decide(now, Event::Applied(edition.map()), effects);
    }

    fn look_at_leadership(&mut self, now: Nanos, effects: &mut Effects) {
        let (leads, leadership) = match &self.phase {
            Phase::Voting(voter) => (voter.leads_with_all(), voter.leadership()),
            _ => (false, Leadership::default()),
        };
        if std::mem::replace(&mut self.leads, leads) == leads {
            return;
        }
        if leads {
            effects.notes.push(Note::Leads { term: leadership.term });
            self.words.push(Word::Elected);
            self.decide(now, Event::Elected, effects);
            if let Phase::Voting(voter) = &self.phase {
                let ids: Vec<u64> = voter.voters().voters.into_iter().collect();
                self.decide(now, Event::Voters(&ids), effects);
            }
        } else {
            self.refused = None;
            let leader = self.node_of(leadership);
            effects.notes.push(Note::Follows { leader });
            self.words.push(Word::Deposed);
            self.decide(now, Event::Deposed { leader }, effects);
        }
    }

    /// Hands the membership an event and carries out what it decides.
    fn decide(&mut self, now: Nanos, event: Event<'_>, effects: &mut Effects) {
        let mut decisions = std::mem::take(&mut self.decisions);
        self.membership.handle(now, event, &mut decisions);
        let list = std::mem::take(&mut decisions.list);
        if self.decisions.list.is_empty() {
            self.decisions = decisions;
        }
        for decision in list {
            self.carry_out(decision, effects);
        }
    }

    fn carry_out(&mut self, decision: membership::Effect, effects: &mut Effects) {
        use membership::Effect;
        match decision {
            Effect::Propose(delta) => {
                let proposed = match &mut self.phase {
                    Phase::Voting(voter) => voter.propose(&delta.encode(), &mut self.outputs).is_ok(),
                    _ => false,
                };
                if !proposed {
                    // Told with the next tick: at once, the membership would propose the same again, to the same refusal.
                    self.refused = Some(delta.number);
                }
            }
            Effect::ConfirmLeadership { round } => {
                if let Phase::Voting(voter) = &mut self.phase {
                    // A round that can't be begun was lost: the membership begins another.
                    voter.read_index(round, &mut self.outputs);
                }
            }
            Effect::Reply(reply) => self.words.push(Word::Beat(reply)),
            Effect::Registered { token, reply } => self.words.push(Word::Registered(token, reply)),
            Effect::Answer { token, answer } => self.words.push(Word::Answer(token, answer)),
            Effect::Arm(at) => self.membership_at = Some(at),
            Effect::ChangeVoters { add, remove } => self.change_voters(&add, &remove),
            Effect::Note(note) => effects.notes.push(Note::Membership(note)),
        }
    }

    fn change_voters(&mut self, add: &[(NodeId, u64)], remove: &[u64]) {
        if let Phase::Voting(voter) = &mut self.phase {
            let mut goal = voter.voters().voters;
            goal.extend(add.iter().map(|(_, id)| *id));
            goal.retain(|id| !remove.contains(id));
            if !goal.is_empty() {
                // Refused where it doesn't lead any more: the next leader decides.
                let _ = voter.change_voters(&goal, &mut self.outputs);
            }
        }
    }

    /// Images and checkpoints, when they are due.
    fn tend_log(&mut self, now: Nanos, memory: &mut impl Memory, effects: &mut Effects) {
        let Phase::Voting(voter) = &mut self.phase else { return };
        let wants_image = voter.wants_image();
        if wants_image {
            voter.set_image(self.edition.bytes());
        }
        let is_due = wants_image || self.log.wants_checkpoint();
        if is_due
            && !self.closing
            && !self.log.is_checkpointing()
            && let Some(checkpoint) = voter.checkpoint()
        {
            self.log.checkpoint(now, checkpoint, memory, effects);
        }
    }
}

#[cfg(test)]
mod tests {
    use journal::fake_disk::{FakeMemory, format_of};
    use journal::log::LogConfig;
    use wire::StoreId;

    use super::*;
    use crate::testing::{CLUSTER, edition};

    /// An entry of a later format, as after a part of the nodes was upgraded, was passed over: this voter had another map than the others from then on.
    #[test]
    fn a_voter_that_cannot_read_what_was_agreed_on_ends() {
        let config = LogConfig {
            capacity_bytes: 8 << 20,
            device_bytes: 0,
            prezero_bytes: 0,
            accept_data_loss: false,
            life_random: 0,
            takes_over: None,
        };
        let log = Log::format(config, format_of(CLUSTER, StoreId([1; 16]), 64 << 10));
        let id = VoterId { cluster: CLUSTER, id: 1 };
        let mut council = Council::new((NodeId(1), id), log, VoterOrigin::Founding, edition(1));
        let mut effects = Effects::default();
        council.start(Nanos(1), &mut FakeMemory::default(), &mut effects);
        council.on_event(
            Nanos(2),
            VoterEvent::Applied { index: 1, bytes: b"of a later format".to_vec() },
            &mut effects,
        );
        assert!(matches!(council.phase, Phase::Failed));
        assert!(effects.notes.contains(&Note::VoterFailed(VoterFailure::Foreign)), "{:?}", effects.notes);
    }
}
