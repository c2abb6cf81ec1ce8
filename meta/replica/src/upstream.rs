//! What a member does towards its upstream: it subscribes, takes entries in, and says how far it is.
//!
//! ```text
//!  Idle ──Subscribe──► Asked ──Accepted──► Streaming
//!    ▲                   ├──Offer────────► Fetching (`learn.rs`) ──► Idle, and subscribes behind the image
//!    └─────────────────────── Refused, no answer, a gap, a connection broken
//! ```
//! A member whose log goes on behind the common point otherwise than its upstream's cuts it there, if it is a joiner (Waiting or Syncing). For a Serving member that can't be:
//! what it received is a prefix of what its predecessor received (I5), so it stops instead.

use wire::map::ReplicaState;
use wire::{CommitIndex, Epoch, Nanos, StoreId};

use crate::config::{CAUGHT_UP_ENTRIES, LINK_INTERVAL, LINK_PATIENCE, SOURCE_PATIENCE};
use crate::event::{Effect, Effects, Trouble};
use crate::history::unpack;
use crate::learn::ImageIn;
use crate::message::{Entries, Message, Progress, Subscribe};
use crate::own_log::{LogRecord, RecordNumber, encode_entry_head};
use crate::replica::{Now, Replica, count};
use crate::view::Role;

/// See the module.
#[derive(Clone, Debug)]
pub(crate) struct Upstream {
    source: Option<StoreId>,
    pub(crate) stage: Stage,
    /// Of the last subscription. Numbers begin with the time of the replica's start, so that they exceed those of its former lives.
    pub(crate) number: u64,
    /// Durable at everyone before this member, in this epoch.
    durable: CommitIndex,
    /// The end of earlier epochs' entries, or the highest commit index that the source spoke of in this subscription.
    source_committed: Option<CommitIndex>,
    /// The beginning of an entry that comes in parts.
    part: Vec<u8>,
    /// A report is due whatever it says.
    owes: bool,
    /// When the source was heard last, or reminded.
    heard: Nanos,
    /// What was reported last.
    told: (CommitIndex, CommitIndex),
    /// This subscription's `CaughtUp`, or this epoch's `Synced`, was said.
    announced: bool,
    /// The log ends in an image that never became whole: nothing of it is of use, and it begins anew.
    hollow: bool,
}

#[derive(Clone, Debug)]
pub(crate) enum Stage {
    /// Subscribes from then on.
    Idle(Nanos),
    /// Asked at that time.
    Asked(Nanos),
    /// An image comes in pieces.
    Fetching(Box<ImageIn>),
    Streaming,
}

impl Upstream {
    pub(crate) fn new(now: Nanos, hollow: bool) -> Self {
        Self {
            source: None,
            stage: Stage::Idle(now),
            number: now.0,
            durable: CommitIndex(0),
            source_committed: None,
            part: Vec::new(),
            owes: false,
            heard: now,
            told: (CommitIndex(0), CommitIndex(0)),
            announced: false,
            hollow,
        }
    }

    /// Another source, or the same one in another epoch; with the time from which it may be asked.
    pub(crate) fn reset(&mut self, source: Option<(StoreId, Nanos)>) {
        self.source = source.map(|(source, _)| source);
        self.durable = CommitIndex(0);
        self.announced = false;
        self.retry_at(source.map_or(Nanos(0), |(_, at)| at));
    }

    pub(crate) fn source(&self) -> Option<StoreId> {
        self.source
    }

    pub(crate) fn is_hollow(&self) -> bool {
        self.hollow
    }

    pub(crate) fn set_hollow(&mut self, hollow: bool) {
        self.hollow = hollow;
    }

    pub(crate) fn durable(&self) -> CommitIndex {
        self.durable
    }

    pub(crate) fn retry_at(&mut self, at: Nanos) {
        self.stage = Stage::Idle(at);
        self.part.clear();
    }

    pub(crate) fn on_tick(&mut self, now: Nanos, received: CommitIndex) {
        match &mut self.stage {
            Stage::Asked(at) if now.since(*at) >= LINK_PATIENCE => self.retry_at(now),
            Stage::Fetching(image) => image.on_tick(now),
            // What has come is acknowledged before it is sent again, though its commit may take its time.
            // And a source that is silent for long is reminded: it may have begun anew, and know of no subscriber.
            Stage::Streaming => {
                let is_silent = now.since(self.heard) >= SOURCE_PATIENCE;
                self.owes |= received > self.told.0 || is_silent;
                self.heard = if is_silent { now } else { self.heard };
            }
            Stage::Idle(_) | Stage::Asked(_) => {}
        }
    }

    /// Whether a message of this subscription is expected from there.
    pub(crate) fn is_of(&self, from: StoreId, number: u64) -> bool {
        self.source == Some(from) && self.number == number
    }
}

impl Replica {
    /// Asks the upstream for what follows, if there is one that isn't asked yet.
    pub(crate) fn subscribe(&mut self, now: Nanos, effects: &mut Effects) {
        if let Stage::Fetching(_) = self.upstream.stage {
            return self.fetch(now, effects);
        }
        let Stage::Idle(at) = self.upstream.stage else { return };
        let Some(source) = self.upstream.source.filter(|_| now >= at) else { return };
        self.upstream.stage = Stage::Asked(now);
        self.upstream.number += 1;
        self.upstream.source_committed = None;
        self.upstream.announced &= self.chain.role() != Role::Learner;
        let hollow = self.upstream.hollow;
        let subscribe = Subscribe {
            epoch: self.chain.epoch(),
            number: self.upstream.number,
            learner: self.chain.role() == Role::Learner,
            received: if hollow { CommitIndex(0) } else { self.history.last() },
            terms: if hollow { Vec::new() } else { self.history.terms.iter().collect() },
        };
        effects.send(source, Message::Subscribe(subscribe));
    }

    pub(crate) fn on_refused(&mut self, now: Nanos, from: StoreId, epoch: Epoch, number: u64) {
        if self.chain.acts_in(epoch) && self.upstream.is_of(from, number) {
            self.upstream.retry_at(now.after(LINK_INTERVAL));
        }
    }

    pub(crate) fn on_accepted(
        &mut self,
        now: Nanos,
        from: StoreId,
        (epoch, number): (Epoch, u64),
        (after, base): (CommitIndex, CommitIndex),
        effects: &mut Effects,
    ) {
        let expected = self.chain.acts_in(epoch) && self.upstream.is_of(from, number);
        if !expected || !matches!(self.upstream.stage, Stage::Asked(_)) {
            return;
        }
        if self.upstream.hollow && after == CommitIndex(0) {
            self.begin_anew(effects);
        }
        if after > self.history.last() || self.upstream.hollow {
            return self.upstream.retry_at(now.after(LINK_INTERVAL)); // it answers another question
        }
        if after < self.history.last() {
            let is_applied = after < self.state.namespace.index();
            match self.chain.role() {
                Role::Learner if is_applied => {
                    // An operator gave up what this copy still has (R8): it begins anew, from nothing or from an image.
                    self.upstream.hollow = true;
                    return self.upstream.retry_at(now);
                }
                _ if is_applied => return self.stop(Trouble::Diverged(after), effects),
                // Nobody acked it: the source, which served when this was received, would have it. A serving member, too, may be ahead of its source when the
                // order of the chain has changed.
                _ => self.cut(after, effects),
            }
        }
        self.chain.set_base(base);
        self.upstream.source_committed = Some(base); // as good as: everything of earlier epochs
        self.upstream.stage = Stage::Streaming;
        self.upstream.heard = now;
        self.upstream.owes = true;
    }

    /// Entries after this one never were: the log says so before others take their place.
    pub(crate) fn cut(&mut self, after: CommitIndex, effects: &mut Effects) {
        self.history.cut(after);
        let record = self.own.append_cut(after);
        self.append_record(record, LogRecord::Cut { after }, effects);
    }

    /// The log begins anew with the first entry.
    fn begin_anew(&mut self, effects: &mut Effects) {
        self.upstream.hollow = false;
        self.state = crate::State::default();
        self.committed = CommitIndex(0);
        self.history = crate::history::History::default();
        self.checkpointer.drop_unwritten();
        let (index, epoch) = (CommitIndex(0), Epoch(0));
        let record = self.own.append_reset(index);
        self.append_record(record, LogRecord::Reset { index, epoch }, effects);
    }

    pub(crate) fn append_record(&mut self, record: RecordNumber, what: LogRecord<'_>, effects: &mut Effects) {
        let start = effects.bytes.len();
        what.encode(&mut effects.bytes);
        self.checkpointer.log_bytes += count(effects.bytes.len() - start);
        effects.list.push(Effect::Append { record, bytes: effects.range_since(start) });
    }

    /// Takes in what is new in the message: at once into the log (R12: flushes are parallel), into the state when it is committed.
    pub(crate) fn on_entries(
        &mut self,
        now: Now,
        from: StoreId,
        entries: &Entries<&[u8]>,
        effects: &mut Effects,
    ) {
        let expected = self.chain.acts_in(entries.epoch) && self.upstream.is_of(from, entries.number);
        if !expected || !matches!(self.upstream.stage, Stage::Streaming) {
            return;
        }
        self.upstream.heard = now.nanos;
        let before = self.history.last();
        let mut input = entries.packed;
        let mut skip = usize::try_from(entries.skip).expect("32 bits");
        let mut next = CommitIndex(entries.after.0.saturating_add(1));
        while !input.is_empty() {
            let Some((epoch, length, part)) = unpack(&mut input, skip) else {
                return self.upstream.retry_at(now.nanos.after(LINK_INTERVAL));
            };
            if next.0 == self.history.last().0 + 1 && !self.take_part(epoch, length, (skip, part), effects) {
                return self.upstream.retry_at(now.nanos); // a part is missing
            }
            if next.0 > self.history.last().0 + 1 {
                return self.upstream.retry_at(now.nanos); // entries are missing
            }
            next.0 += u64::from(skip + part.len() == length);
            skip = 0;
        }
        if entries.after > self.history.last() {
            return self.upstream.retry_at(now.nanos);
        }
        // What is sent again is answered, so that it isn't sent a third time.
        self.upstream.owes |= entries.after < before;
        self.upstream.durable = self.upstream.durable.max(entries.upstream_durable);
        self.upstream.source_committed = self.upstream.source_committed.max(Some(entries.committed));
        self.commit(now.nanos, entries.committed, effects);
        self.advance(now.nanos, effects);
    }

    /// The next entry, or a part of it; whether it follows on.
    fn take_part(
        &mut self,
        epoch: Epoch,
        length: usize,
        (skip, part): (usize, &[u8]),
        effects: &mut Effects,
    ) -> bool {
        if length > self.config.entry_bytes_max {
            return false; // its own log couldn't take it: members' logs are made alike
        }
        if skip + part.len() == length && skip == 0 {
            self.upstream.part.clear();
            self.receive(epoch, part, effects);
            return true;
        }
        let there = self.upstream.part.len();
        let Some(known) = there.checked_sub(skip) else { return false };
        self.upstream.part.extend_from_slice(part.get(known..).unwrap_or_default());
        if self.upstream.part.len() == length {
            let entry = std::mem::take(&mut self.upstream.part);
            self.receive(epoch, &entry, effects);
        }
        true
    }

    fn receive(&mut self, epoch: Epoch, entry: &[u8], effects: &mut Effects) {
        let start = effects.bytes.len();
        encode_entry_head(epoch, self.committed, &mut effects.bytes);
        effects.bytes.extend_from_slice(entry);
        self.append_entry(epoch, start, effects);
    }

    /// Appends the record whose bytes are those of `effects` from `start` on, head and entry.
    pub(crate) fn append_entry(&mut self, epoch: Epoch, start: usize, effects: &mut Effects) -> CommitIndex {
        let record = &effects.bytes[start..];
        let Ok(LogRecord::Entry { entry, .. }) = LogRecord::decode(record) else {
            unreachable!("it was made just now");
        };
        let bytes = count(record.len());
        self.history.push(epoch, entry);
        let index = self.history.last();
        let record = self.own.append_entry(index);
        effects.list.push(Effect::Append { record, bytes: effects.range_since(start) });
        self.checkpointer.log_bytes += bytes;
        self.metrics.entries += 1;
        self.metrics.entry_bytes += bytes;
        index
    }

    /// Tells the upstream how far this member is, and control that it is.
    pub(crate) fn report(&mut self, effects: &mut Effects) {
        if !matches!(self.upstream.stage, Stage::Streaming) {
            return;
        }
        self.announce(effects);
        let Some(source) = self.upstream.source else { return };
        let (received, committed) = (self.history.last(), self.committed);
        let (told_received, told_committed) = self.upstream.told;
        // While nothing is committed the window has to open in time all the same.
        let unreported = self.history.bytes_between(told_received, received);
        let due = committed > told_committed || unreported >= self.config.window_bytes / 8;
        if due || std::mem::take(&mut self.upstream.owes) {
            self.upstream.owes = false;
            self.upstream.told = (received, committed);
            let durable = self.own.durable();
            let (epoch, number) = (self.chain.epoch(), self.upstream.number);
            effects.send(source, Message::Progress(Progress { epoch, number, received, durable, committed }));
        }
    }

    fn announce(&mut self, effects: &mut Effects) {
        // What was cut must not come back with the next start: of a Serving member nothing may be cut any more (I5).
        if self.upstream.announced || !self.own.is_settled() {
            return;
        }
        let epoch = self.chain.epoch();
        let effect = match self.chain.state() {
            Some(ReplicaState::Waiting) if self.lag().is_some_and(|lag| lag <= CAUGHT_UP_ENTRIES) => {
                Effect::CaughtUp { epoch }
            }
            Some(ReplicaState::Syncing)
                if self.chain.base().is_some_and(|base| self.own.durable() >= base) =>
            {
                Effect::Synced { epoch }
            }
            _ => return,
        };
        self.upstream.announced = true;
        effects.list.push(effect);
    }

    /// Entries that this member's source has committed, or in the acks those up to where it joined, and that aren't durable here; `None`: it isn't being sent any.
    /// What makes a chain wait for a Syncing member shows here.
    pub fn lag(&self) -> Option<u64> {
        let upto = self.upstream.source_committed?;
        Some(upto.0.saturating_sub(self.own.durable().0))
    }
}
