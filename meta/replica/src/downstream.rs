//! What a member does for those who subscribe to it: the next member of the chain, and at the reader the learners.
//!
//! Entries leave at the end of a turn, many in a message, as far as the receiver has acknowledged: [`ReplicaConfig::window_bytes`](crate::ReplicaConfig::window_bytes)
//! may be on their way. With them, or in a message of its own when nothing follows, goes what is durable here and at everybody before (R12). A subscriber that owes
//! something and is silent is sent the same again. Learners are sent what is committed, and nothing else.

use std::ops::Range;

use wire::map::ReplicaState;
use wire::planted::{Bug, planted};
use wire::{CommitIndex, Nanos, StoreId};

use crate::config::{IMAGE_RECENT_FACTOR, LINK_PATIENCE};
use crate::event::Effects;
use crate::history::{Cursor, History};
use crate::learn::ImageOut;
use crate::message::{Entries, Message, Progress, Subscribe};
use crate::replica::Replica;
use crate::terms::{Common, Terms};

/// All subscribers: a few.
#[derive(Clone, Debug, Default)]
pub(crate) struct Downstream {
    pub(crate) peers: Vec<Peer>,
}

/// A subscriber.
#[derive(Clone, Debug)]
pub(crate) struct Peer {
    pub(crate) store: StoreId,
    pub(crate) number: u64,
    learner: bool,
    sent: Cursor,
    received: CommitIndex,
    /// The highest commit index that it spoke of.
    committed: CommitIndex,
    /// What it was told last: durable up to here, and committed.
    told: Option<(CommitIndex, CommitIndex)>,
    /// When it last said something, or was sent something again.
    stirred: Nanos,
    /// It fetches an image, and is sent nothing else.
    pub(crate) image: Option<Box<ImageOut>>,
}

impl Downstream {
    pub(crate) fn clear(&mut self) {
        self.peers.clear();
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.peers.is_empty()
    }

    pub(crate) fn retain(&mut self, keeps: impl Fn(StoreId, bool) -> bool) {
        self.peers.retain(|peer| keeps(peer.store, peer.learner));
    }

    pub(crate) fn forget(&mut self, store: StoreId) {
        self.peers.retain(|peer| peer.store != store);
    }

    pub(crate) fn peer(&mut self, store: StoreId, number: u64) -> Option<&mut Peer> {
        self.peers.iter_mut().find(|peer| peer.store == store && peer.number == number)
    }

    /// Sends again what somebody should have acknowledged by now.
    pub(crate) fn on_tick(&mut self, now: Nanos, committed: CommitIndex, last: CommitIndex) {
        for peer in &mut self.peers {
            let awaits = if peer.learner { committed } else { last };
            let owes = peer.image.is_none() && (peer.received < awaits || peer.committed < awaits);
            if owes && now.since(peer.stirred) >= LINK_PATIENCE {
                peer.stirred = now;
                peer.sent = Cursor { after: peer.received, part: 0 };
                peer.told = None;
            }
        }
    }

    /// Forgets entries up to `upto` that are more than the recent ones; those behind an image that travels stay a while longer.
    pub(crate) fn trim(&self, history: &mut History, upto: CommitIndex, bytes: u64) {
        // What isn't sent to a subscriber in step is recent; one that isn't subscribes again, and is offered an image.
        let image = self.peers.iter().filter_map(|peer| peer.image.as_ref()).map(|image| image.index).min();
        history.trim(upto, bytes * IMAGE_RECENT_FACTOR);
        history.trim(image.map_or(upto, |image| image.min(upto)), bytes);
    }
}

impl Replica {
    /// A member wants what follows on what it has.
    pub(crate) fn on_subscribe(
        &mut self,
        now: Nanos,
        from: StoreId,
        subscribe: &Subscribe,
        effects: &mut Effects,
    ) {
        let Subscribe { epoch, number, learner, received, .. } = *subscribe;
        let known = self.downstream.peers.iter().find(|peer| peer.store == from);
        if known.is_some_and(|peer| peer.number >= number) {
            return; // it came late
        }
        let terms = Terms::new(subscribe.terms.iter().copied());
        // Active in that very epoch, and sure of where entries of earlier ones end (R1).
        let serves =
            self.chain.acts_in(epoch) && self.chain.subscriber(from) == Some(learner) && self.has_base();
        let Some(terms) = terms.filter(|_| serves) else {
            return effects.send(from, Message::Refused { epoch, number });
        };
        let mut common = self.history.terms.common(self.history.last(), &terms, received);
        if planted(Bug::ChainMatchesByIndex) {
            common = Common::Upto(self.history.last().min(received));
        }
        // What a member of the acks lost with its former life, its successor may have: that comes again from above, and nothing of it is cut. Above a head there
        // is nobody: what it lacks nobody acked.
        let is_serving = self.chain.state_of(from) == Some(ReplicaState::Serving);
        let is_behind = common == Common::Upto(self.history.last()) && received > self.history.last();
        let after = match common {
            _ if is_serving && is_behind && !self.chain.is_head() => {
                return effects.send(from, Message::Refused { epoch, number });
            }
            Common::Upto(after) if after >= self.history.floor() => after,
            // A member of the acks waits for what was there; an image would wait for the commit of what waits for it.
            _ if !learner => return effects.send(from, Message::Refused { epoch, number }),
            _ => return self.offer_image(now, from, subscribe, effects),
        };
        self.downstream.forget(from);
        self.downstream.peers.push(Peer::new(now, from, subscribe, after));
        let base = self.chain.base().unwrap_or_default();
        effects.send(from, Message::Accepted { epoch, number, after, base });
    }

    /// Whether everything of earlier epochs that the next joiner may have is here, too: what that one has applied can't be cut.
    fn has_base(&self) -> bool {
        let is_joiner = self.chain.state() == Some(ReplicaState::Syncing);
        self.chain.base().is_some_and(|base| !is_joiner || self.history.last() >= base)
    }

    fn offer_image(&mut self, now: Nanos, from: StoreId, subscribe: &Subscribe, effects: &mut Effects) {
        let image = self.image();
        let Subscribe { epoch, number, .. } = *subscribe;
        effects.send(from, Message::Offer { epoch, number, index: image.index });
        self.downstream.forget(from);
        let mut peer = Peer::new(now, from, subscribe, image.index);
        peer.image = Some(Box::new(image));
        self.downstream.peers.push(peer);
    }

    /// Sends everybody what there is to be sent.
    pub(crate) fn ship(&mut self, now: Nanos, effects: &mut Effects) {
        let mut peers = std::mem::take(&mut self.downstream.peers);
        for peer in &mut peers {
            if let Some(image) = &mut peer.image {
                self.ship_piece(peer.store, peer.number, image, effects);
            } else {
                self.ship_entries(now, peer, effects);
            }
        }
        self.downstream.peers = peers;
    }

    /// Durable here and at everybody before (R12).
    fn upstream_durable(&self) -> CommitIndex {
        let durable = self.durable_here();
        if self.chain.is_head() { durable } else { durable.min(self.upstream.durable()) }
    }

    fn ship_entries(&mut self, now: Nanos, peer: &mut Peer, effects: &mut Effects) {
        if peer.sent.after < self.history.floor() {
            return; // it is far behind, and will find out when it subscribes again
        }
        let upto = if peer.learner { self.committed } else { self.history.last() };
        let status = (self.upstream_durable(), self.committed);
        loop {
            let room = self.room(peer);
            let has_entries = peer.sent.after < upto && room > 0;
            let has_news = peer.told.is_none_or(|(durable, committed)| {
                !peer.learner && status.0 > durable || status.1 > committed.max(peer.committed)
            });
            if !has_entries && !has_news {
                return;
            }
            let (after, skip) = (peer.sent.after, peer.sent.part);
            let start = effects.bytes.len();
            if has_entries {
                if peer.sent.after == peer.received {
                    peer.stirred = now; // its silence begins to count here
                }
                self.history.pack(&mut peer.sent, upto, room, &mut effects.bytes);
            }
            let packed: Range<u32> = effects.range_since(start);
            peer.told = Some(status);
            effects.send(
                peer.store,
                Message::Entries(Entries {
                    epoch: self.chain.epoch(),
                    number: peer.number,
                    after,
                    skip: u32::try_from(skip).expect("an entry is small"),
                    upstream_durable: status.0,
                    committed: status.1,
                    packed,
                }),
            );
        }
    }

    /// Bytes of entries that the next message to a subscriber may have: what its window leaves. One entry may be larger than that.
    fn room(&self, peer: &Peer) -> usize {
        let under_way = self.history.bytes_between(peer.received, peer.sent.after);
        let left = self.config.window_bytes.saturating_sub(under_way);
        let limit = self.config.message_bytes;
        if under_way == 0 { limit } else { usize::try_from(left).map_or(limit, |left| left.min(limit)) }
    }

    /// A subscriber says how far it is; what the last acker found committed comes up with it (R12).
    pub(crate) fn on_progress(
        &mut self,
        now: Nanos,
        from: StoreId,
        progress: &Progress,
        effects: &mut Effects,
    ) {
        if !self.chain.acts_in(progress.epoch) {
            return; // R1
        }
        let last = self.history.last();
        let Some(peer) = self.downstream.peer(from, progress.number) else {
            // It was forgotten, with a connection that broke or with a former life, and may not have heard of either: it subscribes again.
            let (epoch, number) = (progress.epoch, progress.number);
            return effects.send(from, Message::Refused { epoch, number });
        };
        if peer.image.is_some() {
            return;
        }
        peer.stirred = now;
        peer.received = peer.received.max(progress.received.min(last));
        peer.committed = peer.committed.max(progress.committed.min(last));
        if !peer.learner {
            self.commit(now, progress.committed, effects);
        }
    }
}

impl Peer {
    fn new(now: Nanos, store: StoreId, subscribe: &Subscribe, after: CommitIndex) -> Self {
        Self {
            store,
            number: subscribe.number,
            learner: subscribe.learner,
            sent: Cursor { after, part: 0 },
            received: after,
            committed: CommitIndex(0),
            told: None,
            stirred: now,
            image: None,
        }
    }
}
