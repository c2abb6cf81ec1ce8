//! Starting from what is on disk: a checkpoint's pages, then the entries after it, applied unconditionally (R15).

use std::collections::VecDeque;

use namespace::Loader;
use namespace::codec::{Decode, DecodeError, Input, decode_list};
use thiserror::Error;
use wire::message::Term;
use wire::meta::Outcome;
use wire::{CommitIndex, Epoch, Nanos, Sequence, SessionId};

use crate::checkpoint::{Checkpointer, END, HEAD, PAGE_VERSION, PAGE_VERSION_ALONE, RESULT, SESSION};
use crate::config::ReplicaConfig;
use crate::history::History;
use crate::own_log::{LogRecord, OwnLog, RecordNumber, note_shift};
use crate::record::Entry;
use crate::replica::{Begin, Replica};
use crate::state::{Session, State, StateError};
use crate::terms::Terms;

/// Why the log or the checkpoint can't be used. The operator decides (R29); nothing is guessed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum RestoreError {
    /// A page's bytes.
    #[error("page {0} of the checkpoint: {1}")]
    Page(u32, DecodeError),
    /// Pages are missing, or out of order.
    #[error("page {0} of the checkpoint came where page {1} belongs")]
    PageOrder(u32, u32),
    /// The last page is missing.
    #[error("the checkpoint ends after {0} pages without its end")]
    Unfinished(u32),
    /// A record's bytes.
    #[error("log record {0}: {1}")]
    Record(RecordNumber, DecodeError),
    /// A record that cuts off what is committed, or what isn't there.
    #[error("log record {0}: it cuts the log after entry {1}, which isn't where it can be cut")]
    Cut(RecordNumber, CommitIndex),
    /// An entry's bytes.
    #[error("log entry {0}: {1}")]
    Entry(CommitIndex, DecodeError),
    /// An entry that doesn't fit the state.
    #[error("log entry {0}: {1}")]
    State(CommitIndex, StateError),
    /// The cluster map is older than the log, a backup perhaps: under its generation the ids of sessions would repeat (R20).
    #[error(
        "the cluster map has generation {0} of this group, and the log was written under generation {1}: it is an older one"
    )]
    Generation(u16, u16),
    /// Entries before the checkpoint's end, or pages after an entry.
    #[error("pages and entries are mixed")]
    Mixed,
}

/// A replica that is being restored: pages (if there is a checkpoint), then records, then [`start`](Restore::start).
#[derive(Debug, Default)]
pub struct Restore {
    loader: Option<Loader>,
    pages: u32,
    /// The pages' version.
    version: u8,
    /// The namespace's rows are through.
    headed: bool,
    ended: bool,
    state: State,
    checkpoint: CommitIndex,
    /// The last record in the checkpoint, and the last one read.
    checkpoint_record: RecordNumber,
    last_record: RecordNumber,
    log_bytes: u64,
    /// The member of a chain: entries beyond the commit index may not stay, and are kept unapplied. Its bytes of recent entries.
    chained: Option<u64>,
    committed: CommitIndex,
    /// Received; in memory are those that aren't applied, and recent ones.
    history: History,
    shifts: VecDeque<(CommitIndex, u64)>,
    /// The log ends in an image that isn't whole (`learn.rs`).
    hollow: bool,
}

impl Restore {
    /// Of the log of a replica without a chain: every entry in it counts.
    pub fn new() -> Self {
        Self::default()
    }

    /// Of the log of a chain's member, which keeps so many bytes of recent entries in memory. Entries up to the commit index that the log knows of are applied; what
    /// becomes of the others the chain decides.
    pub fn chained(recent_bytes: u64) -> Self {
        Self { chained: Some(recent_bytes), ..Self::default() }
    }

    /// The checkpoint's next page.
    pub fn page(&mut self, bytes: &[u8]) -> Result<(), RestoreError> {
        if self.ended || self.pages == 0 && self.state.namespace.index() > CommitIndex(0) {
            return Err(RestoreError::Mixed);
        }
        let number = self.pages;
        let mut input = Input::new(bytes);
        let failed = |error| RestoreError::Page(number, error);
        match input.byte().map_err(failed)? {
            version @ (PAGE_VERSION_ALONE | PAGE_VERSION) => self.version = version,
            version => return Err(failed(DecodeError::NewerVersion(version))),
        }
        let there = u32::decode(&mut input).map_err(failed)?;
        if there != number {
            return Err(RestoreError::PageOrder(there, number));
        }
        while !input.is_empty() {
            self.row(&mut input).map_err(failed)?;
        }
        self.pages += 1;
        Ok(())
    }

    fn row(&mut self, input: &mut Input<'_>) -> Result<(), DecodeError> {
        let tag = input.byte()?;
        if self.ended {
            return Err(DecodeError::Invalid);
        }
        let headed = self.headed;
        match tag {
            HEAD if !headed => {
                let loader = self.loader.take().ok_or(DecodeError::Invalid)?;
                self.state.namespace = loader.finish()?;
                self.state.generation = Decode::decode(input)?;
                self.state.next_counter = Decode::decode(input)?;
                self.head(input)?;
                self.headed = true;
            }
            SESSION if headed => {
                let session = SessionId::decode(input)?;
                let acked_upto = Decode::decode(input)?;
                self.state.sessions.insert(session, Session { acked_upto, results: 0 });
            }
            RESULT if headed => {
                let key: (SessionId, Sequence) = Decode::decode(input)?;
                let outcome = Outcome::decode(input)?;
                let session = self.state.sessions.get_mut(&key.0).ok_or(DecodeError::Invalid)?;
                session.results += 1;
                if self.state.results.insert(key, outcome).is_some() {
                    return Err(DecodeError::Invalid);
                }
            }
            END if headed => {
                if u32::decode(input)? != self.pages + 1 {
                    return Err(DecodeError::Invalid);
                }
                self.ended = true;
            }
            tag if !headed => self.loader.get_or_insert_default().row(tag, input)?,
            tag => return Err(DecodeError::UnknownTag(tag)),
        }
        Ok(())
    }

    /// The checkpoint's index, and with it the entry before the first one wanted; 0 without a checkpoint.
    pub fn checkpoint(&self) -> Result<CommitIndex, RestoreError> {
        if self.pages > 0 && !self.ended {
            Err(RestoreError::Unfinished(self.pages))
        } else {
            Ok(self.checkpoint)
        }
    }

    /// What the head's row says of the log.
    fn head(&mut self, input: &mut Input<'_>) -> Result<(), DecodeError> {
        let index = self.state.namespace.index();
        self.checkpoint = index;
        self.committed = index;
        let terms: Vec<Term> = if self.version == PAGE_VERSION_ALONE {
            self.checkpoint_record = RecordNumber(index.0);
            let alone = Term { epoch: Epoch(0), first: CommitIndex(1) };
            if index > CommitIndex(0) { vec![alone] } else { Vec::new() }
        } else {
            self.checkpoint_record = RecordNumber(u64::decode(input)?);
            let terms: Vec<(u64, CommitIndex)> = decode_list(input)?;
            terms.into_iter().map(|(epoch, first)| Term { epoch: Epoch(epoch), first }).collect()
        };
        self.last_record = self.checkpoint_record;
        note_shift(&mut self.shifts, index, self.checkpoint_record);
        self.history = History::after(index, Terms::new(terms).ok_or(DecodeError::Invalid)?);
        Ok(())
    }

    /// The next record of the log.
    pub fn record(&mut self, record: RecordNumber, bytes: &[u8]) -> Result<(), RestoreError> {
        self.checkpoint()?;
        self.log_bytes += u64::try_from(bytes.len()).expect("64 bits");
        self.last_record = record;
        let failed = |error| RestoreError::Record(record, error);
        match LogRecord::decode(bytes).map_err(failed)? {
            LogRecord::Entry { epoch, committed, entry } => self.entry(record, (epoch, committed), entry),
            LogRecord::Cut { after } => self.cut(record, after),
            LogRecord::Reset { index, .. } => {
                // An image is whole when the checkpoint that holds it is; then the log is read from there.
                self.hollow = index > CommitIndex(0);
                self.state = State::default();
                self.committed = CommitIndex(0);
                self.history = History::default();
                self.shifts.clear();
                Ok(())
            }
        }
    }

    fn entry(
        &mut self,
        record: RecordNumber,
        (epoch, committed): (Epoch, Option<CommitIndex>),
        bytes: &[u8],
    ) -> Result<(), RestoreError> {
        if self.hollow {
            return Ok(());
        }
        self.history.push(epoch, bytes);
        let index = self.history.last();
        note_shift(&mut self.shifts, index, record);
        let committed = if self.chained.is_some() { committed.unwrap_or(index) } else { index };
        self.committed = self.committed.max(committed.min(index));
        self.apply()?;
        self.history.trim(self.committed, self.chained.unwrap_or(0));
        Ok(())
    }

    fn cut(&mut self, record: RecordNumber, after: CommitIndex) -> Result<(), RestoreError> {
        if self.hollow {
            return Ok(());
        }
        if after < self.state.namespace.index() || after > self.history.last() {
            return Err(RestoreError::Cut(record, after));
        }
        self.history.cut(after);
        Ok(())
    }

    fn apply(&mut self) -> Result<(), RestoreError> {
        let mut index = self.state.namespace.index();
        while index < self.committed {
            index.0 += 1;
            let bytes = self.history.entry(index).expect("what isn't applied is in memory");
            let entry = Entry::decode(bytes).map_err(|error| RestoreError::Entry(index, error))?;
            self.state.apply(index, entry).map_err(|error| RestoreError::State(index, error))?;
        }
        Ok(())
    }

    /// The state in the pages of an image, all of which were read, and the epochs of its entries.
    pub(crate) fn into_image(self) -> Result<(State, Terms), RestoreError> {
        if !self.ended {
            return Err(RestoreError::Unfinished(self.pages));
        }
        Ok((self.state, self.history.terms))
    }

    /// The state as restored so far.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// The replica, all of whose records are durable.
    pub fn start(self, config: ReplicaConfig, now: Nanos) -> Result<Replica, RestoreError> {
        self.checkpoint()?;
        assert_eq!(self.chained.is_some(), config.store.is_some(), "a log is read as its replica needs it");
        if config.generation < self.state.generation {
            return Err(RestoreError::Generation(config.generation, self.state.generation));
        }
        let mut index = self.committed;
        while index < self.history.last() {
            index.0 += 1;
            let bytes = self.history.entry(index).expect("what isn't applied is in memory");
            Entry::decode(bytes).map_err(|error| RestoreError::Entry(index, error))?;
        }
        let checkpointer = Checkpointer::new(self.checkpoint, self.checkpoint_record, self.log_bytes);
        let own = OwnLog::ending(self.last_record, self.history.last(), self.shifts);
        let Self { state, history, hollow, .. } = self;
        Ok(Replica::with(config, Begin { state, history, own, hollow, checkpointer }, now))
    }
}
