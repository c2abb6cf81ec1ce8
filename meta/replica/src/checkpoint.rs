//! Checkpoints: a clone frozen at one index, written page by page while the head goes on (R15).
//!
//! The clone shares its nodes with the live state, so freezing takes no time, and a checkpoint costs the memory of the nodes that change until its
//! last page. It is taken at the last entry executed, and written only once that entry is committed, so it never holds what may vanish.
//! ```text
//! page   version 1 byte, number, rows (a tag byte and fields each) to the end of the page
//! rows   the namespace's (tags below 64), HEAD, SESSION…, RESULT…, END with the number of pages
//! HEAD   generation, next counter; from version 2 on: the last record of the log that is in it, and the terms (a count; epoch, first entry each)
//! ```
//! A joiner is sent the same pages (`learn.rs`); the record is 0 there.

use namespace::codec::{Encode, encode_list};
use namespace::{Cursor, REPLICA_TAG_MIN, write_rows};
use wire::{CommitIndex, Sequence, SessionId};

use crate::event::{Effect, Effects};
use crate::own_log::RecordNumber;
use crate::replica::Replica;
use crate::state::{Session, State};
use crate::terms::Terms;

/// The version that this program writes.
pub(crate) const PAGE_VERSION: u8 = 2;
/// Former releases': one member, whose records were numbered as its entries.
pub(crate) const PAGE_VERSION_ALONE: u8 = 1;
pub(crate) const HEAD: u8 = REPLICA_TAG_MIN;
pub(crate) const SESSION: u8 = HEAD + 1;
pub(crate) const RESULT: u8 = SESSION + 1;
pub(crate) const END: u8 = RESULT + 1;

/// Which checkpoints there are, and the one that is being written.
#[derive(Clone, Debug, Default)]
pub(crate) struct Checkpointer {
    /// Index of the last durable one.
    pub(crate) durable: CommitIndex,
    /// The last record in it.
    durable_record: RecordNumber,
    /// Bytes of log since the last one was taken.
    pub(crate) log_bytes: u64,
    writing: Option<Writing>,
    /// Bytes of log when the one that is being written was taken.
    taken_at: u64,
}

#[derive(Clone, Debug)]
struct Writing {
    index: CommitIndex,
    record: RecordNumber,
    number: u32,
    stage: Stage,
    /// The frozen state; dropped after the last page.
    frozen: Option<Frozen>,
}

/// A state that doesn't change while it is written.
#[derive(Clone, Debug)]
pub(crate) struct Frozen {
    state: State,
    record: RecordNumber,
    terms: Terms,
    /// Pages written.
    pages: u32,
    cursor: Cursor,
    session: Option<SessionId>,
    result: Option<(SessionId, Sequence)>,
    table: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// The index isn't committed yet.
    Uncommitted,
    /// A page is with the driver.
    PageOut,
    /// The last page is with the driver.
    LastOut,
}

impl Checkpointer {
    pub(crate) fn new(durable: CommitIndex, durable_record: RecordNumber, log_bytes: u64) -> Self {
        Self { durable, durable_record, log_bytes, writing: None, taken_at: 0 }
    }

    pub(crate) fn is_writing(&self) -> bool {
        self.writing.is_some()
    }

    /// Forgets one of which no page was written.
    pub(crate) fn drop_unwritten(&mut self) {
        self.writing.take_if(|writing| writing.stage == Stage::Uncommitted);
    }

    pub(crate) fn is_due(&self, limit: u64) -> bool {
        self.writing.is_none() && self.log_bytes >= limit
    }

    pub(crate) fn fail(&mut self) {
        self.writing = None;
        self.log_bytes -= self.taken_at; // as if it had been written: the next try comes after as much log again
        self.taken_at = 0;
    }
}

impl Replica {
    pub(crate) fn begin_checkpoint(&mut self, effects: &mut Effects) {
        if self.checkpointer.writing.is_some() {
            return;
        }
        // Also where nothing has happened since the last one: the log's space may wait for a second checkpoint (R15), and its end for a last one.
        let index = self.state.namespace.index();
        let record = self.own.record_of(index, self.history.last());
        self.checkpointer.taken_at = self.checkpointer.log_bytes;
        let frozen = Frozen::new(self.state.clone(), record, self.terms_upto(index));
        self.checkpointer.writing =
            Some(Writing { index, record, number: 0, stage: Stage::Uncommitted, frozen: Some(frozen) });
        self.start_checkpoint_when_committed(effects);
    }

    /// The epochs of the entries up to this one.
    pub(crate) fn terms_upto(&self, index: CommitIndex) -> Terms {
        let mut terms = self.history.terms.clone();
        terms.cut(index);
        terms
    }

    /// R15: a checkpoint has an index ≤ the commit index; and the log here has got so far.
    pub(crate) fn start_checkpoint_when_committed(&mut self, effects: &mut Effects) {
        let ready = self.checkpointer.writing.as_ref().is_some_and(|writing| {
            writing.stage == Stage::Uncommitted
                && writing.index <= self.committed
                && writing.record <= self.own.durable_record()
        });
        if ready {
            self.write_checkpoint_page(effects);
        }
    }

    pub(crate) fn write_checkpoint_page(&mut self, effects: &mut Effects) {
        let page_bytes = self.config.checkpoint_page_bytes;
        let Some(writing) = &mut self.checkpointer.writing else { return };
        let Some(frozen) = &mut writing.frozen else { return };
        assert!(writing.index <= self.committed);
        let start = effects.bytes.len();
        let last = frozen.write_page(page_bytes, &mut effects.bytes);
        if last {
            writing.frozen = None;
        }
        let bytes = effects.range_since(start);
        let (index, record, number) = (writing.index, writing.record, writing.number);
        effects.list.push(Effect::WriteCheckpointPage { index, record, number, last, bytes });
        writing.stage = if last { Stage::LastOut } else { Stage::PageOut };
        writing.number += 1;
    }

    pub(crate) fn on_checkpoint_durable(&mut self, record: RecordNumber, effects: &mut Effects) {
        let Some(writing) = &self.checkpointer.writing else { return };
        assert!(writing.record == record && writing.stage == Stage::LastOut, "the driver wrote every page");
        let index = writing.index;
        self.checkpointer.writing = None;
        self.checkpointer.log_bytes -= self.checkpointer.taken_at;
        self.checkpointer.taken_at = 0;
        // The log is kept back to the older of the last two checkpoints (R15).
        self.checkpointer.durable = index;
        let upto = std::mem::replace(&mut self.checkpointer.durable_record, record);
        if upto > RecordNumber(0) {
            effects.list.push(Effect::TrimLog { upto });
        }
        self.own.forget_before(index);
        self.own.settle(record);
        self.metrics.checkpoints += 1;
        self.settle_image(effects);
    }
}

impl Frozen {
    pub(crate) fn new(state: State, record: RecordNumber, terms: Terms) -> Self {
        Self {
            state,
            record,
            terms,
            pages: 0,
            cursor: Cursor::default(),
            session: None,
            result: None,
            table: 0,
        }
    }

    /// Appends the next page, of about so many bytes; whether it is the last one.
    pub(crate) fn write_page(&mut self, page_bytes: usize, out: &mut Vec<u8>) -> bool {
        let start = out.len();
        out.push(PAGE_VERSION);
        self.pages.encode(out);
        self.pages += 1;
        let last = self.write(start + page_bytes, out);
        if last {
            out.push(END);
            self.pages.encode(out);
        }
        last
    }

    /// Appends rows until `out` has `end` bytes; whether none are left.
    fn write(&mut self, end: usize, out: &mut Vec<u8>) -> bool {
        if self.table == 0 {
            if !self.state.namespace.write_checkpoint(&mut self.cursor, end, out) {
                return false;
            }
            out.push(HEAD);
            self.state.generation.encode(out);
            self.state.next_counter.encode(out);
            self.record.0.encode(out);
            let terms: Vec<_> = self.terms.iter().map(|term| (term.epoch.0, term.first)).collect();
            encode_list(&terms, out);
            self.table = SESSION;
        }
        if self.table == SESSION {
            if !write_rows(&self.state.sessions, &mut self.session, SESSION, end, out) {
                return false;
            }
            self.table = RESULT;
        }
        write_rows(&self.state.results, &mut self.result, RESULT, end, out)
    }
}

impl Encode for Session {
    fn encode(&self, out: &mut Vec<u8>) {
        self.acked_upto.encode(out);
    }
}
