//! A log entry's bytes.
//!
//! ```text
//! version   1 byte, 1
//! time      the head's timestamp (R16)
//! kind      1 byte
//!           1 open      session
//!           2 close     session, expired
//!           3 mutation  session, sequence, acked_upto, outcome, changes
//!           4 upkeep    changes
//!           5 generation number: every session of lower ones is closed (R20)
//! ```
//! Numbers and lists as in [`namespace::codec`]. The entry's index isn't in it: the log knows it.

use namespace::Change;
use namespace::codec::{Decode, DecodeError, Encode, Input, decode_list, encode_list};
use wire::meta::Outcome;
use wire::{Sequence, SessionId, Timestamp};

/// The version that this program writes.
pub const ENTRY_VERSION: u8 = 1;

/// A log entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The head's time.
    pub time: Timestamp,
    /// What happened.
    pub record: Record,
}

/// What a log entry says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    /// A session was opened.
    Open {
        /// The next one.
        session: SessionId,
    },
    /// A session was closed.
    Close {
        /// Which.
        session: SessionId,
        /// Nothing was heard of it for its TTL.
        expired: bool,
    },
    /// A mutation was executed; a failure has no changes (R14).
    Mutation {
        /// Of this session.
        session: SessionId,
        /// Its number.
        sequence: Sequence,
        /// Results that the client has.
        acked_upto: Sequence,
        /// The result.
        outcome: Outcome,
        /// What it does.
        changes: Vec<Change>,
    },
    /// The head's own doing: horizon, reclaim, drain, deletions done.
    Upkeep {
        /// What it does.
        changes: Vec<Change>,
    },
    /// The group is in a new generation.
    Generation {
        /// Its number.
        generation: u16,
    },
}

impl Entry {
    /// Appends the entry's bytes.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.push(ENTRY_VERSION);
        self.time.encode(out);
        match &self.record {
            Record::Open { session } => {
                out.push(1);
                session.encode(out);
            }
            Record::Close { session, expired } => {
                out.push(2);
                session.encode(out);
                expired.encode(out);
            }
            Record::Mutation { session, sequence, acked_upto, outcome, changes } => {
                out.push(3);
                (*session, *sequence, *acked_upto).encode(out);
                outcome.encode(out);
                encode_list(changes, out);
            }
            Record::Upkeep { changes } => {
                out.push(4);
                encode_list(changes, out);
            }
            Record::Generation { generation } => {
                out.push(5);
                generation.encode(out);
            }
        }
    }

    /// The entry in these bytes, all of them.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut input = Input::new(bytes);
        match input.byte()? {
            ENTRY_VERSION => {}
            version => return Err(DecodeError::NewerVersion(version)),
        }
        let time = Timestamp::decode(&mut input)?;
        let record = match input.byte()? {
            1 => Record::Open { session: Decode::decode(&mut input)? },
            2 => Record::Close { session: Decode::decode(&mut input)?, expired: Decode::decode(&mut input)? },
            3 => {
                let (session, sequence, acked_upto) = Decode::decode(&mut input)?;
                let outcome = Decode::decode(&mut input)?;
                let changes = decode_list(&mut input)?;
                Record::Mutation { session, sequence, acked_upto, outcome, changes }
            }
            4 => Record::Upkeep { changes: decode_list(&mut input)? },
            5 => Record::Generation { generation: Decode::decode(&mut input)? },
            tag => return Err(DecodeError::UnknownTag(tag)),
        };
        input.finish()?;
        Ok(Self { time, record })
    }
}
