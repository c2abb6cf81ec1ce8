//! What a voter writes down, and a voter made of that again.
//!
//! ```text
//! record:   version u8, kind u8, and
//!  1 born      cluster 16, voter u64                               the log's first record, and a checkpoint's
//!  2 step      hard state? (term, vote, commit), count, entries    entries replace what stood at their places or behind
//!  3 piece     is first, bytes                                     a piece of an image
//!  4 image     index, term, voters                                 the pieces before are the state at this index; the log begins behind it
//! ```
//! A step's entries come before the commit index that counts them. A checkpoint is the same records again, as few as there can be.

use raft::eraftpb::{Entry, HardState};
use wire::ClusterId;
use wire::planted::{Bug, planted};

use super::bytes::{
    FormatError, Input, entry, entry_bytes, put_bytes, put_entry, put_u32, put_u64, put_voters, voters,
};
use super::shelf::{Image, Shelf};
use super::{IMAGE_BYTES_MAX, IMAGE_PIECE_BYTES, RECORD_BYTES_MAX, VoterError};

/// Version of the records.
const VERSION: u8 = 1;
const BORN: u8 = 1;
const STEP: u8 = 2;
const PIECE: u8 = 3;
const IMAGE: u8 = 4;

/// Whose log it is. The id is never used again once its log is damaged or lost (R35).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct VoterId {
    /// The cluster.
    pub cluster: ClusterId,
    /// The id in its control group; never 0.
    pub id: u64,
}

fn begin(kind: u8) -> Vec<u8> {
    vec![VERSION, kind]
}

/// The first record.
pub(super) fn born(voter: VoterId) -> Vec<u8> {
    let mut record = begin(BORN);
    record.extend_from_slice(&voter.cluster.0);
    put_u64(&mut record, voter.id);
    record
}

/// Entries and then the hard state, in as many records as it takes. `before`: what the log knows of the hard state already.
pub(super) fn steps(before: &HardState, hard: Option<&HardState>, entries: &[Entry], out: &mut Vec<Vec<u8>>) {
    let mut rest = entries;
    loop {
        let mut bytes = 0;
        let fits = |entry: &&Entry| {
            bytes += entry_bytes(entry);
            bytes <= RECORD_BYTES_MAX - 64
        };
        let count = rest.iter().take_while(fits).count();
        let (now, later) = rest.split_at(count);
        rest = later;
        // The commit index counts entries that come with a later record: until then it is the one before.
        let state = hard.map(|hard| HardState {
            commit: if rest.is_empty() { hard.commit } else { before.commit },
            ..hard.clone()
        });
        if state.is_some() || !now.is_empty() {
            out.push(step(state.as_ref(), now));
        }
        if rest.is_empty() {
            return;
        }
        assert!(count > 0, "an entry fits into a record");
    }
}

fn step(hard: Option<&HardState>, entries: &[Entry]) -> Vec<u8> {
    let mut record = begin(STEP);
    record.push(u8::from(hard.is_some()));
    if let Some(hard) = hard {
        for value in [hard.term, hard.vote, hard.commit] {
            put_u64(&mut record, value);
        }
    }
    put_u32(&mut record, u32::try_from(entries.len()).expect("bounded by a record's bytes"));
    for entry in entries {
        put_entry(&mut record, entry);
    }
    record
}

/// An image, in pieces.
pub(super) fn image(image: &Image, out: &mut Vec<Vec<u8>>) {
    for (place, piece) in image.bytes.chunks(IMAGE_PIECE_BYTES).enumerate() {
        let mut record = begin(PIECE);
        record.push(u8::from(place == 0));
        put_bytes(&mut record, piece);
        out.push(record);
    }
    let mut record = begin(IMAGE);
    put_u64(&mut record, image.index);
    put_u64(&mut record, image.term);
    put_voters(&mut record, &image.voters);
    out.push(record);
}

/// Everything that `shelf` holds, as the records that would lead there.
pub(super) fn checkpoint(voter: VoterId, shelf: &Shelf) -> Vec<Vec<u8>> {
    let mut records = vec![born(voter)];
    if shelf.image().index > 0 {
        image(shelf.image(), &mut records);
    }
    let entries: Vec<Entry> = shelf.entries_behind().cloned().collect();
    let before = HardState { commit: shelf.image().index, ..shelf.hard.clone() };
    steps(&before, Some(&shelf.hard), &entries, &mut records);
    records
}

/// A voter's log as it is read back: the records of a checkpoint, and those behind it.
#[derive(Debug, Default)]
pub struct Recovery {
    born: Option<VoterId>,
    hard: HardState,
    image: Image,
    entries: Vec<Entry>,
    pieces: Vec<u8>,
    error: Option<VoterError>,
}

impl Recovery {
    /// Nothing was read yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// What was read so far was a damaged checkpoint's: an older one's records, or the log's from its beginning, follow.
    pub fn on_restart(&mut self) {
        *self = Self::default();
    }

    /// The log isn't whole: what it had promised, this voter can't keep. It never votes again (R35).
    pub fn on_damage(&mut self) {
        if !planted(Bug::VoterForgetsDamage) {
            self.error = Some(VoterError::Damaged);
        }
    }

    /// The next record.
    pub fn on_record(&mut self, record: &[u8]) {
        if self.error.is_none()
            && let Err(error) = self.take(record)
        {
            self.error = Some(error);
        }
    }

    fn take(&mut self, record: &[u8]) -> Result<(), VoterError> {
        let mut input = Input::new(record);
        input.version(VERSION)?;
        match input.byte()? {
            BORN => {
                let voter = VoterId { cluster: ClusterId(input.uuid()?), id: input.u64()? };
                if voter.id == 0 || self.born.replace(voter).is_some_and(|known| known != voter) {
                    return Err(VoterError::Inconsistent);
                }
            }
            STEP => self.take_step(&mut input)?,
            PIECE => {
                if input.flag("piece")? {
                    self.pieces.clear();
                }
                let piece = input.bytes("piece of an image", IMAGE_PIECE_BYTES)?;
                if self.pieces.len() + piece.len() > IMAGE_BYTES_MAX {
                    return Err(FormatError::TooLarge("image").into());
                }
                self.pieces.extend_from_slice(piece);
            }
            IMAGE => {
                let (index, term) = (input.u64()?, input.u64()?);
                let bytes = std::mem::take(&mut self.pieces).into();
                self.image = Image { index, term, voters: voters(&mut input)?, bytes };
                // What stood behind it was another history.
                self.entries.clear();
                self.hard.commit = self.hard.commit.max(index);
            }
            _ => return Err(FormatError::Invalid("kind of a record").into()),
        }
        input.finish()?;
        Ok(())
    }

    fn take_step(&mut self, input: &mut Input<'_>) -> Result<(), VoterError> {
        if input.flag("hard state")? {
            let (term, vote, commit) = (input.u64()?, input.u64()?, input.u64()?);
            self.hard = HardState { term, vote, commit };
        }
        for place in 0..input.u32()? {
            let entry = entry(input)?;
            if place == 0 && !planted(Bug::VoterKeepsTruncated) {
                self.entries.retain(|known| known.index < entry.index);
            }
            if planted(Bug::VoterKeepsTruncated)
                && entry.index <= self.image.index + self.entries.len() as u64
            {
                continue;
            }
            if entry.index != self.image.index + self.entries.len() as u64 + 1 {
                return Err(VoterError::Inconsistent);
            }
            self.entries.push(entry);
        }
        Ok(())
    }

    /// Who wrote the log, if anybody did.
    pub fn born(&self) -> Option<VoterId> {
        self.born
    }

    /// The log's content, if it is this voter's and whole.
    pub(super) fn finish(self, voter: VoterId) -> Result<Shelf, VoterError> {
        if let Some(error) = self.error {
            return Err(error);
        }
        match self.born {
            None => return Err(VoterError::Unborn),
            Some(found) if found != voter => return Err(VoterError::Foreign { found }),
            Some(_) => {}
        }
        let last = self.image.index + self.entries.len() as u64;
        if self.hard.commit > last || self.hard.commit < self.image.index {
            return Err(VoterError::Inconsistent);
        }
        Ok(Shelf::new(self.hard, self.image, self.entries))
    }
}
