//! Images: the state as a whole, for a learner that is behind everything that its source has in memory.
//!
//! ```text
//! source    the state frozen at its index (`checkpoint.rs` writes the pages) ─► pieces of a message each, sent when they are asked for,
//!           and not before the index is committed (R15)
//! learner   pages ─► Restore ─► state; record Reset(index, epoch) ─► a checkpoint of its own ─► from then on something is durable here
//! ```
//! The learner subscribes behind the image as soon as it has it, and logs what follows; but its log is of no use before that checkpoint is durable, so
//! until then it reports nothing durable ([`OwnLog::durable`](crate::own_log::OwnLog::durable)). A log that ends with a reset and without the checkpoint is *hollow* at the next
//! start: it begins anew, with another image, or with the first entry (a reset to index 0).

use wire::{CommitIndex, Epoch, Nanos, StoreId};

use crate::checkpoint::Frozen;
use crate::config::{LINK_INTERVAL, PIECE_PATIENCE};
use crate::event::Effects;
use crate::history::History;
use crate::message::{Message, Page};
use crate::own_log::{LogRecord, RecordNumber};
use crate::replica::Replica;
use crate::restore::Restore;
use crate::upstream::Stage;

/// An image at its source.
#[derive(Clone, Debug)]
pub(crate) struct ImageOut {
    pub(crate) index: CommitIndex,
    frozen: Frozen,
    page: Vec<u8>,
    /// The page is the last one.
    is_last: bool,
    /// Of the page, the piece that was made last, and its number.
    piece: std::ops::Range<usize>,
    number: Option<u32>,
    /// The piece that was asked for, and isn't answered.
    wanted: Option<u32>,
}

/// An image at the learner that fetches it.
#[derive(Debug)]
pub(crate) struct ImageIn {
    restore: Restore,
    page: Vec<u8>,
    /// The piece that is wanted next.
    piece: u32,
    asked_at: Option<Nanos>,
}

impl Clone for ImageIn {
    /// What was fetched stays with the original: a copy of a replica fetches from the start.
    fn clone(&self) -> Self {
        Self::new()
    }
}

impl ImageIn {
    fn new() -> Self {
        Self { restore: Restore::new(), page: Vec::new(), piece: 0, asked_at: None }
    }

    pub(crate) fn on_tick(&mut self, now: Nanos) {
        self.asked_at.take_if(|at| now.since(*at) >= PIECE_PATIENCE);
    }
}

impl ImageOut {
    /// The piece with this number, if it is the next one or the last one again; its bytes, whether its page ends, whether the image does.
    fn make(&mut self, number: u32, page_bytes: usize, piece_bytes: usize) -> Option<(&[u8], bool, bool)> {
        let next = self.number.map_or(0, |last| last + 1);
        if number == next {
            if self.piece.end == self.page.len() {
                if self.is_last {
                    return None;
                }
                self.page.clear();
                self.is_last = self.frozen.write_page(page_bytes, &mut self.page);
                self.piece = 0..0;
            }
            let end = self.page.len().min(self.piece.end + piece_bytes.max(1));
            self.piece = self.piece.end..end;
            self.number = Some(number);
        } else if Some(number) != self.number {
            return None;
        }
        let ends_page = self.piece.end == self.page.len();
        Some((&self.page[self.piece.clone()], ends_page, ends_page && self.is_last))
    }
}

impl Replica {
    /// An image of the state as it is.
    pub(crate) fn image(&self) -> ImageOut {
        let index = self.state.namespace.index();
        let frozen = Frozen::new(self.state.clone(), RecordNumber(0), self.terms_upto(index));
        ImageOut { index, frozen, page: Vec::new(), is_last: false, piece: 0..0, number: None, wanted: None }
    }

    pub(crate) fn on_fetch_page(&mut self, from: StoreId, (epoch, number): (Epoch, u64), piece: u32) {
        if !self.chain.acts_in(epoch) {
            return;
        }
        if let Some(image) = self.downstream.peer(from, number).and_then(|peer| peer.image.as_mut()) {
            image.wanted = Some(piece);
        }
    }

    /// Sends the piece that was asked for, once the image's index is committed (R15).
    pub(crate) fn ship_piece(&self, to: StoreId, number: u64, image: &mut ImageOut, effects: &mut Effects) {
        if image.index > self.committed {
            return;
        }
        let Some(piece) = image.wanted.take() else { return };
        let (page_bytes, piece_bytes) = (self.config.checkpoint_page_bytes, self.config.message_bytes);
        let Some((bytes, ends_page, last)) = image.make(piece, page_bytes, piece_bytes) else { return };
        let start = effects.bytes.len();
        effects.bytes.extend_from_slice(bytes);
        let bytes = effects.range_since(start);
        let epoch = self.chain.epoch();
        effects.send(to, Message::Page(Page { epoch, number, piece, ends_page, last, bytes }));
    }

    pub(crate) fn on_offer(&mut self, from: StoreId, (epoch, number): (Epoch, u64)) {
        let expected = self.chain.acts_in(epoch) && self.upstream.is_of(from, number);
        if expected && matches!(self.upstream.stage, Stage::Asked(_)) {
            self.upstream.stage = Stage::Fetching(Box::new(ImageIn::new()));
        }
    }

    /// Asks for the next piece, or for the same again.
    pub(crate) fn fetch(&mut self, now: Nanos, effects: &mut Effects) {
        let (epoch, number) = (self.chain.epoch(), self.upstream.number);
        let source = self.upstream.source();
        let Stage::Fetching(image) = &mut self.upstream.stage else { return };
        if let Some(source) = source.filter(|_| image.asked_at.is_none()) {
            image.asked_at = Some(now);
            effects.send(source, Message::FetchPage { epoch, number, piece: image.piece });
        }
    }

    pub(crate) fn on_page(&mut self, now: Nanos, from: StoreId, page: &Page<&[u8]>, effects: &mut Effects) {
        if !self.chain.acts_in(page.epoch) || !self.upstream.is_of(from, page.number) {
            return;
        }
        let Stage::Fetching(image) = &mut self.upstream.stage else { return };
        if image.piece != page.piece {
            return;
        }
        image.piece += 1;
        image.asked_at = None;
        image.page.extend_from_slice(page.bytes);
        let mut read = Ok(());
        if page.ends_page {
            read = image.restore.page(&std::mem::take(&mut image.page));
        }
        if read.is_ok() && !page.last {
            return;
        }
        let restore = std::mem::take(&mut image.restore);
        self.upstream.retry_at(now);
        match read.and_then(|()| restore.into_image()) {
            Ok((state, terms)) => self.take_over(state, terms, effects),
            // Pages are checksummed on their way: the source writes what isn't read here. Perhaps another one does better.
            Err(_) => self.upstream.retry_at(now.after(20 * LINK_INTERVAL)),
        }
    }

    /// The image takes the place of all that this learner had.
    fn take_over(&mut self, state: crate::State, terms: crate::terms::Terms, effects: &mut Effects) {
        let index = state.namespace.index();
        let epoch = terms.epoch_of(index).unwrap_or_default();
        self.state = state;
        self.committed = index;
        self.history = History::after(index, terms);
        self.upstream.set_hollow(false);
        self.checkpointer.drop_unwritten();
        let record = self.own.append_reset(index);
        self.append_record(record, LogRecord::Reset { index, epoch }, effects);
        self.settle_image(effects);
    }

    /// An image that was taken over needs a checkpoint, whatever the log's length; after a failure another one.
    pub(crate) fn settle_image(&mut self, effects: &mut Effects) {
        if self.own.is_unsettled() && !self.checkpointer.is_writing() {
            self.begin_checkpoint(effects);
        }
    }
}
