//! What must hold at every step, and in the end.

use std::collections::BTreeMap;

use wire::map::ReplicaState;
use wire::meta::Mutation;
use wire::{CommitIndex, Epoch};

use super::clients::{KEYS, written};
use super::{NODES, World, at, store};
use crate::{Entry, LogRecord, Record, State};

/// A log as its records say it is.
#[derive(Clone, Debug, Default)]
pub(super) struct Log {
    /// Records taken in.
    records: usize,
    /// Entries up to here are in an image.
    base: u64,
    entries: Vec<(Epoch, u64)>,
    /// The record with which the image came.
    reset: Option<u64>,
}

#[derive(Default)]
pub(super) struct Checks {
    /// Of each member: all that it appended, and what of it is durable.
    received: [Log; NODES],
    durable: [Log; NODES],
    /// How far its commit index was compared.
    compared: [u64; NODES],
    /// What is committed, for ever: epochs and hashes, and the bytes.
    committed: Vec<(Epoch, u64)>,
    bytes: BTreeMap<(u64, Epoch, u64), Vec<u8>>,
    /// The one entry of each index and epoch, and the epoch before.
    entries: BTreeMap<(u64, Epoch), (u64, Option<Epoch>)>,
    /// The highest version of each key that anybody has seen.
    pub(super) floors: [u64; KEYS],
    pub(super) reads: Vec<(usize, u64, u64)>,
    pub(super) parts: u64,
}

fn hash(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

impl Log {
    fn last(&self) -> u64 {
        self.base + u64::try_from(self.entries.len()).unwrap()
    }

    fn get(&self, index: u64) -> Option<(Epoch, u64)> {
        let at = index.checked_sub(self.base + 1)?;
        self.entries.get(usize::try_from(at).unwrap()).copied()
    }

    fn take(&mut self, record: &[u8]) {
        self.records += 1;
        match LogRecord::decode(record).unwrap() {
            LogRecord::Entry { epoch, entry, .. } => self.entries.push((epoch, hash(entry))),
            LogRecord::Cut { after } => {
                self.entries.truncate(usize::try_from(after.0 - self.base).unwrap());
            }
            LogRecord::Reset { index, .. } => {
                self.base = index.0;
                self.entries.clear();
                self.reset = (index.0 > 0).then(|| u64::try_from(self.records).unwrap());
            }
        }
    }
}

impl Checks {
    /// Whether the committed entry is this mutation's.
    pub(super) fn is_of(&self, index: CommitIndex, mutation: &Mutation) -> bool {
        matches!(
            self.entry(index.0).record,
            Record::Mutation { session, sequence, .. }
                if session == mutation.session && sequence == mutation.sequence
        )
    }

    fn entry(&self, index: u64) -> Entry {
        let (epoch, hash) = self.committed[usize::try_from(index).unwrap() - 1];
        Entry::decode(&self.bytes[&(index, epoch, hash)]).unwrap()
    }
}

impl World {
    /// A member appends a record.
    pub(super) fn note_record(&mut self, member: usize, record: &[u8]) {
        let log = &mut self.checks.received[member];
        log.take(record);
        match LogRecord::decode(record).unwrap() {
            LogRecord::Entry { epoch, entry, .. } => {
                let (index, hash) = (log.last(), hash(entry));
                let before = log.get(index - 1).map(|(epoch, _)| epoch);
                self.checks.bytes.entry((index, epoch, hash)).or_insert_with(|| entry.to_vec());
                let known = self.checks.entries.entry((index, epoch)).or_insert((hash, before));
                assert_eq!(known.0, hash, "I5: two entries {index} of epoch {epoch}");
                assert!(
                    known.1.is_none() || before.is_none() || known.1 == before,
                    "I5: entry {index} of epoch {epoch} follows two epochs"
                );
                known.1 = known.1.or(before);
            }
            LogRecord::Cut { after } => {
                self.counts.cuts += 1;
                let compared = self.checks.compared[member];
                assert!(after.0 >= compared, "I6: a committed entry is cut");
            }
            LogRecord::Reset { .. } => {}
        }
    }

    /// What the only member of the acks loses, nobody else has: its next life may make other entries in their places, of the same epoch.
    pub(super) fn note_crash(&mut self, member: usize) {
        let disk = &self.nodes[member].disk;
        let is_alone = disk.view.as_ref().is_some_and(|view| view.ackers().count() == 1);
        let lost = disk.records[disk.durable..].iter();
        let lost =
            lost.filter(|record| matches!(LogRecord::decode(record), Ok(LogRecord::Entry { .. }))).count();
        let log = &self.checks.received[member];
        let kept = log.last() - u64::try_from(lost).unwrap().min(log.last());
        for index in kept + 1..=log.last() {
            if let Some((epoch, _)) =
                log.get(index).filter(|(epoch, _)| is_alone && *epoch == disk.view.as_ref().unwrap().epoch)
            {
                self.checks.entries.remove(&(index, epoch));
            }
        }
    }

    /// The member's process began anew, with what is on its disk.
    pub(super) fn note_restart(&mut self, member: usize) {
        let mut log = Log::default();
        let disk = &self.nodes[member].disk;
        disk.records.iter().for_each(|record| log.take(record));
        self.checks.received[member] = log;
        self.checks.compared[member] = 0;
        let replica = self.nodes[member].replica.as_ref().unwrap();
        let log = &self.checks.received[member];
        let checkpoint = disk.checkpoint.as_ref().map_or(0, |(record, _)| record.0);
        if log.reset.is_none_or(|reset| checkpoint >= reset) {
            assert_eq!(replica.received().0, log.last(), "member {member} restarts with its whole log");
        } else {
            assert_eq!(replica.received(), CommitIndex(0), "an image that isn't whole is of no use");
        }
    }

    /// After each event at a member.
    pub(super) fn check(&mut self, member: usize) {
        let Some(replica) = &self.nodes[member].replica else { return };
        let checks = &mut self.checks;
        let log = &checks.received[member];
        for index in checks.compared[member] + 1..=replica.committed().0 {
            let Some(entry) = log.get(index) else {
                assert!(index <= log.base, "what is committed is received");
                continue;
            };
            match checks.committed.get(usize::try_from(index).unwrap() - 1) {
                Some(known) => assert_eq!(*known, entry, "I6: entry {index} has changed at member {member}"),
                None => checks.committed.push(entry),
            }
        }
        checks.compared[member] = checks.compared[member].max(replica.committed().0);
        assert!(log.base <= u64::try_from(checks.committed.len()).unwrap(), "R15: an image is committed");
    }

    /// R12: an outcome left; its entry is durable at every member of the head's epoch.
    pub(super) fn check_outcome(&mut self, head: usize, index: CommitIndex) {
        let Some(view) = self.nodes[head].disk.view.clone() else { return };
        let known = self.checks.received[head].get(index.0);
        for member in view.ackers().map(at) {
            // A joiner has what was made since it joined; what was committed before it may lack for a while.
            let is_joiner = view.state_of(store(member)) == Some(ReplicaState::Syncing);
            if is_joiner && known.is_none_or(|(epoch, _)| epoch < view.epoch) {
                continue;
            }
            let disk = &self.nodes[member].disk;
            let log = &mut self.checks.durable[member];
            if log.records > disk.durable {
                *log = Log::default();
            }
            disk.records[log.records..disk.durable].iter().for_each(|record| log.take(record));
            let checkpoint = disk.checkpoint.as_ref().map_or(0, |(record, _)| record.0);
            let in_image = index.0 <= log.base && log.reset.is_none_or(|reset| checkpoint >= reset);
            let holds = in_image || known.is_none() || log.get(index.0) == known;
            assert!(
                holds && index.0 <= log.last(),
                "R12: outcome {index} of head {head} isn't durable at {member}"
            );
        }
    }

    pub(super) fn check_end(&self, seed: u64) {
        let mut state = State::default();
        let mut outcomes = BTreeMap::new();
        let mut values = BTreeMap::new();
        for index in 1..=u64::try_from(self.checks.committed.len()).unwrap() {
            let entry = self.checks.entry(index);
            if let Record::Mutation { session, sequence, outcome, .. } = &entry.record {
                let before = outcomes.insert((*session, sequence.0), *outcome);
                assert!(before.is_none(), "seed {seed}: I7: {session} {sequence} was executed twice");
                let operation =
                    self.clients.iter().find_map(|client| client.operation(*session, *sequence)).unwrap();
                values.insert(index, written(operation));
            }
            state.apply(CommitIndex(index), entry).unwrap();
        }
        for client in &self.clients {
            for (session, sequence, outcome) in client.answers() {
                assert_eq!(outcomes.get(&(session, sequence)), Some(&outcome), "seed {seed}: I6");
            }
        }
        for (key, version, value) in &self.checks.reads {
            let expected = if *version == 0 { None } else { values[version] };
            assert!(*version == 0 || expected == Some((*key, *value)), "seed {seed}: I8: version {version}");
        }
        for (at, node) in self.nodes.iter().enumerate() {
            let replica = node.replica.as_ref().unwrap();
            assert!(*replica.state() == state, "seed {seed}: I12: member {at} differs");
        }
    }
}
