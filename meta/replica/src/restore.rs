//! Starting from what is on disk: a checkpoint's pages, then the entries after it, applied unconditionally (R15).

use namespace::Loader;
use namespace::codec::{Decode, DecodeError, Input};
use thiserror::Error;
use wire::meta::Outcome;
use wire::{CommitIndex, Nanos, Sequence, SessionId};

use crate::checkpoint::{Checkpointer, END, HEAD, PAGE_VERSION, RESULT, SESSION};
use crate::config::ReplicaConfig;
use crate::record::Entry;
use crate::replica::Replica;
use crate::state::{Session, State, StateError};

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

/// A replica that is being restored: pages (if there is a checkpoint), then entries, then [`start`](Restore::start).
#[derive(Debug, Default)]
pub struct Restore {
    loader: Option<Loader>,
    pages: u32,
    /// The namespace's rows are through.
    headed: bool,
    ended: bool,
    state: State,
    checkpoint: CommitIndex,
    log_bytes: u64,
}

impl Restore {
    /// Of an empty log.
    pub fn new() -> Self {
        Self::default()
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
            PAGE_VERSION => {}
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
                self.checkpoint = self.state.namespace.index();
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

    /// The next entry of the log.
    pub fn entry(&mut self, index: CommitIndex, bytes: &[u8]) -> Result<(), RestoreError> {
        self.checkpoint()?;
        let entry = Entry::decode(bytes).map_err(|error| RestoreError::Entry(index, error))?;
        self.log_bytes += u64::try_from(bytes.len()).expect("64 bits");
        self.state.apply(index, entry).map_err(|error| RestoreError::State(index, error))
    }

    /// The state as restored so far.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// The replica, all of whose entries are durable.
    pub fn start(self, config: ReplicaConfig, now: Nanos) -> Result<Replica, RestoreError> {
        self.checkpoint()?;
        if config.generation < self.state.generation {
            return Err(RestoreError::Generation(config.generation, self.state.generation));
        }
        let checkpointer = Checkpointer::new(self.checkpoint, self.log_bytes);
        Ok(Replica::with(config, self.state, checkpointer, now))
    }
}
