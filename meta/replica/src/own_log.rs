//! The member's own log: its records, their numbers, and how far entries are durable in it.
//!
//! The numbers of records are the log's own and go up by one; they are commit indices only as long as nothing was ever cut and no image was taken over.
//!
//! ```text
//! record   1, …                              an entry as former releases wrote it, which had one member: committed when durable
//!          2 version, kind
//!            1 entry   epoch, committed, the entry's bytes (`record.rs`) to the end
//!            2 cut     after: the entries behind it never were (`upstream.rs`)
//!            3 reset   index, epoch: an image was taken over, and is in the checkpoint that follows; index 0: the log begins anew (`learn.rs`)
//! ```

use std::collections::VecDeque;
use std::fmt;

use namespace::codec::{Decode, DecodeError, Encode, Input};
use wire::{CommitIndex, Epoch};

use crate::record::ENTRY_VERSION;

/// The version of records that this program writes.
pub const LOG_RECORD_VERSION: u8 = 2;
/// What a record takes beside its entry, at most: version, kind, epoch, commit index.
pub const LOG_RECORD_OVERHEAD: usize = 2 + 10 + 10;

/// Number of a record in a member's own log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RecordNumber(pub u64);

impl fmt::Display for RecordNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A record of a member's own log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogRecord<'a> {
    /// The group's next entry.
    Entry {
        /// The epoch of the head that made it.
        epoch: Epoch,
        /// The commit index when it was appended here; `None`: this one is.
        committed: Option<CommitIndex>,
        /// Its bytes.
        entry: &'a [u8],
    },
    /// Entries behind this one are gone.
    Cut {
        /// The last that stays.
        after: CommitIndex,
    },
    /// Everything before is gone; the state is a source's.
    Reset {
        /// The image's index.
        index: CommitIndex,
        /// The epoch of that entry.
        epoch: Epoch,
    },
}

impl<'a> LogRecord<'a> {
    /// Appends the record's bytes.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Entry { epoch, committed, entry } => {
                let committed = committed.expect("only former releases leave it out");
                encode_entry_head(*epoch, committed, out);
                out.extend_from_slice(entry);
            }
            Self::Cut { after } => {
                out.extend_from_slice(&[LOG_RECORD_VERSION, 2]);
                after.encode(out);
            }
            Self::Reset { index, epoch } => {
                out.extend_from_slice(&[LOG_RECORD_VERSION, 3]);
                (*index, epoch.0).encode(out);
            }
        }
    }

    /// The record in these bytes.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let mut input = Input::new(bytes);
        match input.byte()? {
            ENTRY_VERSION => return Ok(Self::Entry { epoch: Epoch(0), committed: None, entry: bytes }),
            LOG_RECORD_VERSION => {}
            version => return Err(DecodeError::NewerVersion(version)),
        }
        let record = match input.byte()? {
            1 => {
                let (epoch, committed) = <(u64, CommitIndex)>::decode(&mut input)?;
                let entry = input.take(input.len())?;
                Self::Entry { epoch: Epoch(epoch), committed: Some(committed), entry }
            }
            2 => Self::Cut { after: Decode::decode(&mut input)? },
            3 => {
                let (index, epoch) = <(CommitIndex, u64)>::decode(&mut input)?;
                Self::Reset { index, epoch: Epoch(epoch) }
            }
            tag => return Err(DecodeError::UnknownTag(tag)),
        };
        input.finish()?;
        Ok(record)
    }
}

/// What precedes an entry's bytes in its record.
pub(crate) fn encode_entry_head(epoch: Epoch, committed: CommitIndex, out: &mut Vec<u8>) {
    out.extend_from_slice(&[LOG_RECORD_VERSION, 1]);
    (epoch.0, committed).encode(out);
}

/// Numbers of the log's records, and what of it is durable.
#[derive(Clone, Debug, Default)]
pub(crate) struct OwnLog {
    last: RecordNumber,
    durable_record: RecordNumber,
    /// The last entry that is durable, with all before it.
    durable: CommitIndex,
    /// For each record that isn't durable: the last entry that is when it is.
    in_flight: VecDeque<CommitIndex>,
    /// From this entry on: its record's number is its index plus this, wrapping.
    shifts: VecDeque<(CommitIndex, u64)>,
    /// The last record that cut the log, or began it anew.
    turned: RecordNumber,
    /// An image was taken over with this record, and its checkpoint isn't durable: nothing here is.
    unsettled: Option<RecordNumber>,
}

impl OwnLog {
    /// A log that ends at this record, and at this entry; all of it is durable.
    pub(crate) fn ending(
        last: RecordNumber,
        index: CommitIndex,
        shifts: VecDeque<(CommitIndex, u64)>,
    ) -> Self {
        Self {
            last,
            durable_record: last,
            durable: index,
            in_flight: VecDeque::new(),
            shifts,
            turned: RecordNumber(0),
            unsettled: None,
        }
    }

    /// The number of the record that appends entry `index`.
    pub(crate) fn append_entry(&mut self, index: CommitIndex) -> RecordNumber {
        self.last.0 += 1;
        note_shift(&mut self.shifts, index, self.last);
        self.in_flight.push_back(index);
        self.last
    }

    /// The number of the record that cuts the log; what was cut isn't durable any more, and never becomes so.
    pub(crate) fn append_cut(&mut self, after: CommitIndex) -> RecordNumber {
        self.last.0 += 1;
        self.durable = self.durable.min(after);
        for index in &mut self.in_flight {
            *index = (*index).min(after);
        }
        self.in_flight.push_back(after);
        self.turned = self.last;
        self.last
    }

    /// The number of the record that begins the log anew behind an image; nothing is durable until [`settle`](Self::settle), unless the image is empty.
    pub(crate) fn append_reset(&mut self, index: CommitIndex) -> RecordNumber {
        self.last.0 += 1;
        self.durable = CommitIndex(0);
        self.in_flight.iter_mut().for_each(|index| *index = CommitIndex(0));
        self.in_flight.push_back(index);
        self.shifts.clear();
        note_shift(&mut self.shifts, index, self.last);
        self.unsettled = (index > CommitIndex(0)).then_some(self.last);
        self.turned = self.last;
        self.last
    }

    /// Everything up to this record is durable.
    pub(crate) fn on_durable(&mut self, record: RecordNumber) {
        assert!(record <= self.last, "nothing is durable that wasn't appended");
        while self.durable_record < record {
            self.durable_record.0 += 1;
            self.durable = self.in_flight.pop_front().expect("each record has its entry here");
        }
    }

    /// A checkpoint is durable that contains this record: the image is among it, perhaps.
    pub(crate) fn settle(&mut self, record: RecordNumber) {
        self.unsettled.take_if(|reset| *reset <= record);
    }

    pub(crate) fn is_unsettled(&self) -> bool {
        self.unsettled.is_some()
    }

    /// Whether nothing comes back at the next start that was given up here.
    pub(crate) fn is_settled(&self) -> bool {
        self.unsettled.is_none() && self.durable_record >= self.turned
    }

    /// The last entry that survives whatever happens.
    pub(crate) fn durable(&self) -> CommitIndex {
        if self.is_unsettled() { CommitIndex(0) } else { self.durable }
    }

    pub(crate) fn durable_record(&self) -> RecordNumber {
        self.durable_record
    }

    pub(crate) fn last(&self) -> RecordNumber {
        self.last
    }

    /// The last record that a state at entry `index` contains, the log being at entry `last`.
    pub(crate) fn record_of(&self, index: CommitIndex, last: CommitIndex) -> RecordNumber {
        if index == last {
            return self.last; // what cuts and resets follow is in it, too
        }
        let shift = self.shifts.iter().rev().find(|(first, _)| *first <= index);
        RecordNumber(index.0.wrapping_add(shift.map_or(0, |(_, shift)| *shift)))
    }

    /// Forgets what is only of use for entries before this one.
    pub(crate) fn forget_before(&mut self, index: CommitIndex) {
        while self.shifts.get(1).is_some_and(|(first, _)| *first <= index) {
            self.shifts.pop_front();
        }
    }
}

/// Entry `index` has this record.
pub(crate) fn note_shift(
    shifts: &mut VecDeque<(CommitIndex, u64)>,
    index: CommitIndex,
    record: RecordNumber,
) {
    let shift = record.0.wrapping_sub(index.0);
    while shifts.back().is_some_and(|(first, _)| *first >= index) {
        shifts.pop_back();
    }
    if shifts.back().is_none_or(|(_, last)| *last != shift) {
        shifts.push_back((index, shift));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_read_back() {
        let old = [ENTRY_VERSION, 9, 9];
        assert_eq!(
            LogRecord::decode(&old),
            Ok(LogRecord::Entry { epoch: Epoch(0), committed: None, entry: &old })
        );
        let (epoch, committed) = (Epoch(300), Some(CommitIndex(70_000)));
        for record in [
            LogRecord::Entry { epoch, committed, entry: &old },
            LogRecord::Cut { after: CommitIndex(200) },
            LogRecord::Reset { index: CommitIndex(1 << 40), epoch },
        ] {
            let mut bytes = Vec::new();
            record.encode(&mut bytes);
            assert_eq!(LogRecord::decode(&bytes), Ok(record));
            if !matches!(record, LogRecord::Entry { .. }) {
                bytes.push(0);
                assert_eq!(LogRecord::decode(&bytes), Err(DecodeError::Trailing(1)));
            }
        }
        assert_eq!(LogRecord::decode(&[3, 1]), Err(DecodeError::NewerVersion(3)));
        assert_eq!(LogRecord::decode(&[2, 9]), Err(DecodeError::UnknownTag(9)));
        assert_eq!(LogRecord::decode(&[]), Err(DecodeError::Truncated));
    }

    /// What was cut while it was on its way to the disk isn't durable when it arrives there; what took its place is when that does.
    #[test]
    fn durable_is_what_is_left() {
        let mut log = OwnLog::default();
        let index = CommitIndex;
        for entry in 1..=5 {
            assert_eq!(log.append_entry(index(entry)), RecordNumber(entry));
        }
        log.on_durable(RecordNumber(2));
        assert_eq!(log.durable(), index(2));
        assert_eq!(log.append_cut(index(3)), RecordNumber(6));
        assert_eq!(log.append_entry(index(4)), RecordNumber(7));
        log.on_durable(RecordNumber(5));
        assert_eq!(log.durable(), index(3));
        assert_eq!(log.record_of(index(2), index(4)), RecordNumber(2));
        assert_eq!(log.record_of(index(4), index(5)), RecordNumber(7));
        assert_eq!(log.record_of(index(4), index(4)), RecordNumber(7));
        log.on_durable(RecordNumber(7));
        assert_eq!(log.durable(), index(4));
        log.append_cut(index(1));
        assert_eq!((log.durable(), log.record_of(index(1), index(1))), (index(1), RecordNumber(8)));
        log.append_reset(index(900));
        log.append_entry(index(901));
        log.on_durable(RecordNumber(10));
        assert_eq!((log.durable(), log.record_of(index(900), index(901))), (index(0), RecordNumber(9)));
        log.settle(RecordNumber(8));
        assert!(log.is_unsettled(), "a checkpoint of before");
        log.settle(RecordNumber(9));
        assert_eq!((log.durable(), log.record_of(index(901), index(901))), (index(901), RecordNumber(10)));
    }
}
