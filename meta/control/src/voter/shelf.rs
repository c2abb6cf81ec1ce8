//! What the `raft` crate reads its log from: an image of the state, and the entries behind it, in memory.
//!
//! ```text
//!  compacted ──────────────► image ─────────────────────────► last
//!     │  kept for the slow     │  entries behind the image       │
//! ```
//! Everything on the shelf has been handed to the durable log, though it may not be durable yet: who waits for that is `ready.rs`'s business.

use std::cell::Cell;
use std::collections::VecDeque;
use std::sync::Arc;

use raft::eraftpb::{ConfState, Entry, HardState, Snapshot};
use raft::{GetEntriesContext, RaftState, Storage, StorageError};

/// Entries before an image that are kept for whoever is a little behind.
const ENTRIES_KEPT: u64 = 64;

/// The state at an index, as opaque bytes.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Image {
    pub(super) index: u64,
    pub(super) term: u64,
    /// Who votes at that index.
    pub(super) voters: ConfState,
    pub(super) bytes: Arc<[u8]>,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Shelf {
    pub(super) hard: HardState,
    /// Who votes, by the last entry applied.
    pub(super) voters: ConfState,
    image: Image,
    /// The entry before the first one here: index and term.
    compacted: (u64, u64),
    entries: VecDeque<Entry>,
    /// Bytes of the entries.
    bytes: usize,
    /// Somebody needs an image that is newer than the one here.
    image_wanted: Cell<bool>,
}

impl Shelf {
    /// What was saved.
    pub(super) fn new(hard: HardState, image: Image, entries: Vec<Entry>) -> Self {
        let mut shelf = Self { hard, ..Self::default() };
        shelf.restore(image);
        shelf.append(entries);
        shelf
    }

    pub(super) fn image(&self) -> &Image {
        &self.image
    }

    /// Entries behind the image, and their bytes together with those that are kept before it.
    pub(super) fn behind(&self) -> (u64, usize) {
        (self.last() - self.image.index, self.bytes)
    }

    /// Whether an image is missed.
    pub(super) fn is_image_wanted(&self) -> bool {
        self.image_wanted.get()
    }

    /// The last entry's index.
    pub(super) fn last(&self) -> u64 {
        self.compacted.0 + self.entries.len() as u64
    }

    /// The term of an entry that is here, or of the one before.
    pub(super) fn term_of(&self, index: u64) -> Option<u64> {
        if index == self.compacted.0 {
            return Some(self.compacted.1);
        }
        if index == self.image.index && index > 0 {
            return Some(self.image.term);
        }
        self.place(index).map(|place| self.entries[place].term)
    }

    fn place(&self, index: u64) -> Option<usize> {
        let place = usize::try_from(index.checked_sub(self.compacted.0 + 1)?).ok()?;
        (place < self.entries.len()).then_some(place)
    }

    /// Entries from the image on, for whoever writes them down.
    pub(super) fn entries_behind(&self) -> impl Iterator<Item = &Entry> {
        let image = self.image.index;
        self.entries.iter().filter(move |entry| entry.index > image)
    }

    /// Appends entries; what stood at their places or behind goes.
    pub(super) fn append(&mut self, entries: Vec<Entry>) {
        let Some(first) = entries.first() else { return };
        assert!(
            first.index > self.compacted.0 && first.index <= self.last() + 1,
            "entries follow each other"
        );
        let kept = self.place(first.index).unwrap_or(self.entries.len());
        self.bytes -= self.entries.drain(kept..).map(|entry| entry.data.len()).sum::<usize>();
        self.bytes += entries.iter().map(|entry| entry.data.len()).sum::<usize>();
        self.entries.extend(entries);
    }

    /// The log begins behind this image.
    pub(super) fn restore(&mut self, image: Image) {
        self.compacted = (image.index, image.term);
        self.entries.clear();
        self.bytes = 0;
        self.voters.clone_from(&image.voters);
        self.hard.commit = self.hard.commit.max(image.index);
        self.image = image;
        self.image_wanted.set(false);
    }

    /// A newer image of our own state; entries far behind it go.
    pub(super) fn renew(&mut self, image: Image) {
        assert!(image.index >= self.image.index && image.index <= self.last(), "a later image of this log");
        let until = image.index.saturating_sub(ENTRIES_KEPT).max(self.compacted.0);
        let term = self.term_of(until).expect("an entry that is here");
        let gone = usize::try_from(until - self.compacted.0).expect("entries in memory");
        self.bytes -= self.entries.drain(..gone).map(|entry| entry.data.len()).sum::<usize>();
        self.compacted = (until, term);
        self.image = image;
        self.image_wanted.set(false);
    }
}

impl Storage for Shelf {
    fn initial_state(&self) -> raft::Result<RaftState> {
        Ok(RaftState { hard_state: self.hard.clone(), conf_state: self.voters.clone() })
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        _context: GetEntriesContext,
    ) -> raft::Result<Vec<Entry>> {
        let Some(first) = self.place(low) else {
            return Err(StorageError::Compacted.into());
        };
        let count = usize::try_from(high.saturating_sub(low)).expect("entries in memory");
        let most = max_size.into().unwrap_or(u64::MAX);
        let mut bytes = 0;
        let fits = |entry: &&Entry| {
            let is_first = bytes == 0;
            bytes += super::bytes::entry_bytes(entry) as u64;
            is_first || bytes <= most
        };
        Ok(self.entries.range(first..).take(count).take_while(fits).cloned().collect())
    }

    fn term(&self, index: u64) -> raft::Result<u64> {
        self.term_of(index).ok_or_else(|| {
            if index < self.compacted.0 { StorageError::Compacted } else { StorageError::Unavailable }.into()
        })
    }

    fn first_index(&self) -> raft::Result<u64> {
        Ok(self.compacted.0 + 1)
    }

    fn last_index(&self) -> raft::Result<u64> {
        Ok(self.last())
    }

    /// The image, if its receiver is among those who vote at its index: it would throw another away.
    fn snapshot(&self, request_index: u64, to: u64) -> raft::Result<Snapshot> {
        let state = &self.image.voters;
        let knows =
            state.voters.contains(&to) || state.learners.contains(&to) || state.voters_outgoing.contains(&to);
        if !knows || self.image.index < request_index || self.image.index == 0 {
            self.image_wanted.set(true);
            return Err(StorageError::SnapshotTemporarilyUnavailable.into());
        }
        let mut snapshot = Snapshot { data: self.image.bytes.to_vec(), ..Snapshot::default() };
        let metadata = snapshot.mut_metadata();
        (metadata.index, metadata.term) = (self.image.index, self.image.term);
        metadata.set_conf_state(self.image.voters.clone());
        Ok(snapshot)
    }
}
