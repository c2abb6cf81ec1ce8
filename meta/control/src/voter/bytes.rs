//! The plain binary form of messages and records: little-endian integers of fixed size, byte strings behind their length. Reading is total.

use std::collections::BTreeSet;

use prost::Message as _;
use raft::eraftpb::{
    ConfChangeSingle, ConfChangeTransition, ConfChangeType, ConfChangeV2, ConfState, Entry, EntryType,
};
use thiserror::Error;

use super::{ENTRY_BYTES_MAX, VOTERS_MAX};

/// Why bytes are no message or record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Error)]
pub enum FormatError {
    /// They end inside a value, or go on behind the last one.
    #[error("the bytes end inside a value, or go on behind the last one")]
    Length,
    /// Made by a newer version.
    #[error("format version {0} is newer than this program")]
    NewerVersion(u8),
    /// A value without a meaning here.
    #[error("{0} has no valid value")]
    Invalid(&'static str),
    /// More than a named limit allows.
    #[error("{0} is over its limit")]
    TooLarge(&'static str),
}

/// Bytes that are being read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], FormatError> {
        let (value, rest) = self.0.split_first_chunk().ok_or(FormatError::Length)?;
        self.0 = rest;
        Ok(*value)
    }

    pub(super) fn byte(&mut self) -> Result<u8, FormatError> {
        self.array::<1>().map(|[byte]| byte)
    }

    pub(super) fn flag(&mut self, what: &'static str) -> Result<bool, FormatError> {
        match self.byte()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(FormatError::Invalid(what)),
        }
    }

    pub(super) fn u32(&mut self) -> Result<u32, FormatError> {
        self.array().map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Result<u64, FormatError> {
        self.array().map(u64::from_le_bytes)
    }

    /// A byte string of at most `most` bytes.
    pub(super) fn bytes(&mut self, what: &'static str, most: usize) -> Result<&'a [u8], FormatError> {
        let length = self.u32()? as usize;
        if length > most {
            return Err(FormatError::TooLarge(what));
        }
        let (bytes, rest) = self.0.split_at_checked(length).ok_or(FormatError::Length)?;
        self.0 = rest;
        Ok(bytes)
    }

    /// Sixteen bytes.
    pub(super) fn uuid(&mut self) -> Result<[u8; 16], FormatError> {
        self.array()
    }

    /// Nothing may be left.
    pub(super) fn finish(self) -> Result<(), FormatError> {
        if self.0.is_empty() { Ok(()) } else { Err(FormatError::Length) }
    }

    /// The version that opens everything.
    pub(super) fn version(&mut self, known: u8) -> Result<(), FormatError> {
        match self.byte()? {
            0 => Err(FormatError::Invalid("format version")),
            found if found > known => Err(FormatError::NewerVersion(found)),
            _ => Ok(()),
        }
    }
}

pub(super) fn put_u64(out: &mut Vec<u8>, value: u64) {
    out.extend_from_slice(&value.to_le_bytes());
}

pub(super) fn put_u32(out: &mut Vec<u8>, value: u32) {
    out.extend_from_slice(&value.to_le_bytes());
}

pub(super) fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_u32(out, u32::try_from(bytes.len()).expect("every string keeps its limit"));
    out.extend_from_slice(bytes);
}

/// An entry of bytes that were proposed.
const ENTRY_NORMAL: u8 = 0;
/// An entry that changes who votes.
const ENTRY_CHANGE: u8 = 1;

/// An entry. A change of voters is written in this form too: what the `raft` crate keeps in the entry are bytes that its own parser reads, and those
/// are made here and nowhere else.
pub(super) fn put_entry(out: &mut Vec<u8>, entry: &Entry) {
    let is_change = entry.get_entry_type() == EntryType::EntryConfChangeV2;
    out.push(if is_change { ENTRY_CHANGE } else { ENTRY_NORMAL });
    put_u64(out, entry.index);
    put_u64(out, entry.term);
    if is_change {
        put_change(out, &change_of(entry));
    } else {
        put_bytes(out, &entry.data);
    }
}

pub(super) fn entry(input: &mut Input<'_>) -> Result<Entry, FormatError> {
    let kind = input.byte()?;
    let mut entry = Entry { index: input.u64()?, term: input.u64()?, ..Entry::default() };
    match kind {
        ENTRY_NORMAL => entry.data = input.bytes("entry", ENTRY_BYTES_MAX)?.to_vec(),
        ENTRY_CHANGE => {
            entry.set_entry_type(EntryType::EntryConfChangeV2);
            entry.data = change_bytes(&change(input)?);
        }
        _ => return Err(FormatError::Invalid("kind of an entry")),
    }
    if entry.index == 0 || entry.term == 0 {
        return Err(FormatError::Invalid("place of an entry"));
    }
    Ok(entry)
}

/// Bytes that the entry takes in the forms here, at most.
pub(super) fn entry_bytes(entry: &Entry) -> usize {
    64 + entry.data.len() + 16 * VOTERS_MAX
}

/// The change of voters that an entry holds.
pub(super) fn change_of(entry: &Entry) -> ConfChangeV2 {
    ConfChangeV2::decode(entry.data.as_slice()).expect("the bytes of a change are made here alone")
}

/// What the `raft` crate's parser reads as this change.
pub(super) fn change_bytes(change: &ConfChangeV2) -> Vec<u8> {
    change.encode_to_vec()
}

/// Transition, count, and each voter's id with what becomes of it.
fn put_change(out: &mut Vec<u8>, change: &ConfChangeV2) {
    out.push(u8::try_from(change.transition).expect("three transitions"));
    put_u32(out, u32::try_from(change.changes.len()).expect("few voters"));
    for single in &change.changes {
        out.push(u8::try_from(single.change_type).expect("three types"));
        put_u64(out, single.node_id);
    }
}

fn change(input: &mut Input<'_>) -> Result<ConfChangeV2, FormatError> {
    let mut change = ConfChangeV2::default();
    change.set_transition(match input.byte()? {
        0 => ConfChangeTransition::Auto,
        1 => ConfChangeTransition::Implicit,
        2 => ConfChangeTransition::Explicit,
        _ => return Err(FormatError::Invalid("transition of voters")),
    });
    for _ in 0..count(input)? {
        let mut single = ConfChangeSingle::default();
        single.set_change_type(match input.byte()? {
            0 => ConfChangeType::AddNode,
            1 => ConfChangeType::RemoveNode,
            2 => ConfChangeType::AddLearnerNode,
            _ => return Err(FormatError::Invalid("change of a voter")),
        });
        single.node_id = voter(input)?;
        change.changes.push(single);
    }
    Ok(change)
}

/// Who votes: four lists, and whether the joint configuration is left by itself.
pub(super) fn put_voters(out: &mut Vec<u8>, state: &ConfState) {
    for list in [&state.voters, &state.learners, &state.voters_outgoing, &state.learners_next] {
        put_u32(out, u32::try_from(list.len()).expect("few voters"));
        for id in list {
            put_u64(out, *id);
        }
    }
    out.push(u8::from(state.auto_leave));
}

/// A configuration that the `raft` crate takes without a complaint; it would panic over another.
pub(super) fn voters(input: &mut Input<'_>) -> Result<ConfState, FormatError> {
    let mut list = || -> Result<Vec<u64>, FormatError> { (0..count(input)?).map(|_| voter(input)).collect() };
    let mut state = ConfState {
        voters: list()?,
        learners: list()?,
        voters_outgoing: list()?,
        learners_next: list()?,
        auto_leave: false,
    };
    state.auto_leave = input.flag("joint configuration")?;
    let all = [&state.voters, &state.learners, &state.voters_outgoing, &state.learners_next];
    let is_distinct = |list: &Vec<u64>| list.iter().collect::<BTreeSet<_>>().len() == list.len();
    let votes = |id: &u64| state.voters.contains(id) || state.voters_outgoing.contains(id);
    let is_joint = !state.voters_outgoing.is_empty();
    let holds = all.into_iter().all(is_distinct)
        && !state.voters.is_empty()
        && !state.learners.iter().any(votes)
        && state
            .learners_next
            .iter()
            .all(|id| state.voters_outgoing.contains(id) && !state.voters.contains(id))
        && (is_joint || !state.auto_leave);
    if holds { Ok(state) } else { Err(FormatError::Invalid("configuration of voters")) }
}

fn count(input: &mut Input<'_>) -> Result<usize, FormatError> {
    let count = input.u32()? as usize;
    if count > VOTERS_MAX { Err(FormatError::TooLarge("voters")) } else { Ok(count) }
}

fn voter(input: &mut Input<'_>) -> Result<u64, FormatError> {
    match input.u64()? {
        0 => Err(FormatError::Invalid("id of a voter")),
        id => Ok(id),
    }
}
