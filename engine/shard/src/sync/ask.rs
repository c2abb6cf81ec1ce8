//! Requests to other stores and to groups, and their answers.

use wire::message::{Reply, Request, RequestHead};
use wire::meta::{Answer, Query};
use wire::{ChunkId, GroupId, Memory, Nanos, Prefix, Status};

use super::job::JobKey;
use crate::effects::{CloseReason, Effects, Link, Placement, Target};
use crate::shard::Shard;

/// An answer comes within this, or the connection is given up.
const ANSWER_NANOS: u64 = 10 * Nanos::SECOND;
/// A chunk may wait at its source until its turn comes.
const FETCH_NANOS: u64 = 60 * Nanos::SECOND;

/// What was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    /// Digests for a comparison, with its serial number.
    Digests(JobKey, u64),
    /// A page of chunks for it.
    Chunks(JobKey, u64),
    /// A chunk: the fetch's place in the table.
    Fetch(u32),
    /// Chunks were offered.
    Offer,
    /// The states of chunks.
    States(GroupId, Vec<ChunkId>),
}

/// A request that isn't answered.
#[derive(Clone, Debug)]
pub(crate) struct Ask {
    pub(crate) target: Target,
    since: Nanos,
    pub(crate) asked: Asked,
}

impl Shard {
    /// Sends a request over a connection that is greeted.
    pub(crate) fn ask_peer(
        &mut self,
        now: Nanos,
        target: Target,
        request: &Request<'_>,
        asked: Asked,
        effects: &mut Effects,
    ) {
        let link = self.peers.greeted(target).expect("the caller has looked");
        self.sync.last_ask += 1;
        let head = RequestHead { correlation: self.sync.last_ask, deadline_ms: 0 };
        self.replier.request(link, head, request, effects);
        self.sync.asks.insert(self.sync.last_ask, Ask { target, since: now, asked });
        self.sync.want(now.after(ANSWER_NANOS));
    }

    /// An answer, whole or a part of one.
    #[expect(clippy::too_many_arguments, reason = "a frame, its connection, and what every event brings")]
    pub(crate) fn on_reply(
        &mut self,
        now: Nanos,
        link: Link,
        target: Target,
        prefix: &Prefix,
        reply: &Reply<'_>,
        memory: &mut impl Memory,
        effects: &mut Effects,
    ) -> Placement {
        let Some(ask) = self.sync.asks.get_mut(&prefix.correlation).filter(|ask| ask.target == target) else {
            // It was given up.
            return Placement::Discard;
        };
        self.sync.wakes = true;
        if let (Asked::Fetch(index), Reply::GetChunk(part)) = (&ask.asked, reply) {
            let index = *index;
            ask.since = now;
            return self.on_part(now, link, prefix, (index, part), memory);
        }
        if prefix.payload_bytes > 0 {
            return Self::wrong_reply();
        }
        let asked = self.sync.asks.remove(&prefix.correlation).map(|ask| ask.asked);
        match (asked, reply) {
            (Some(asked), Reply::Refused(_)) => {
                self.on_refused(now, asked, prefix.status, memory);
            }
            (Some(Asked::Digests(key, serial)), Reply::SliceDigest { ranges, end }) => {
                self.on_digests(now, key, serial, ranges, *end);
            }
            (Some(Asked::Chunks(key, serial)), Reply::SliceChunks { chunks, end }) => {
                self.on_chunks(now, key, serial, chunks, *end);
            }
            (Some(Asked::States(_, ids)), Reply::Answer(Answer::ChunkStates(states)))
                if ids.len() == states.len() =>
            {
                self.on_states(now, &ids, states, memory, effects);
            }
            (Some(Asked::Offer), Reply::OfferChunks) | (None, _) => {}
            (Some(asked), _) => {
                self.on_refused(now, asked, Status::Unsupported, memory);
                return Self::wrong_reply();
            }
        }
        Placement::Discard
    }

    /// What was asked isn't answered, for this reason.
    fn on_refused(&mut self, now: Nanos, asked: Asked, status: Status, memory: &mut impl Memory) {
        self.sync.wake();
        match asked {
            Asked::Digests(key, serial) | Asked::Chunks(key, serial) => self.put_off(now, key, serial),
            Asked::Fetch(index) => self.refuse_fetch(now, index, status, memory),
            // Whoever lacks them will be compared with again.
            Asked::Offer => {}
            Asked::States(_, ids) => self.sync.questions.put_off(now, &ids),
        }
    }

    /// A connection is gone: what was asked over it isn't answered.
    pub(crate) fn on_asked_gone(&mut self, now: Nanos, target: Target, memory: &mut impl Memory) {
        let is_lost = |ask: &Ask| ask.target == target;
        let lost: Vec<u64> =
            self.sync.asks.iter().filter(|(_, ask)| is_lost(ask)).map(|(number, _)| *number).collect();
        for number in lost {
            if let Some(ask) = self.sync.asks.remove(&number) {
                self.on_refused(now, ask.asked, Status::NotServing, memory);
            }
        }
    }

    /// Gives up connections whose answers don't come.
    pub(crate) fn give_up_unanswered(&mut self, now: Nanos, memory: &mut impl Memory, effects: &mut Effects) {
        let is_late = |ask: &&Ask| {
            let patience = if matches!(ask.asked, Asked::Fetch(_)) { FETCH_NANOS } else { ANSWER_NANOS };
            now.since(ask.since) >= patience
        };
        while let Some(target) = self.sync.asks.values().find(is_late).map(|ask| ask.target) {
            self.hang_up(now, target, CloseReason::Silent, memory, effects);
            // Whatever the connection was, nothing is awaited over it any more.
            self.sync.asks.retain(|_, ask| ask.target != target);
        }
        if !self.sync.asks.is_empty() {
            self.sync.want(now.after(Nanos::SECOND));
        }
    }

    /// Asks a group's reader about chunks; false: it can't be reached now.
    pub(crate) fn ask_group(
        &mut self,
        now: Nanos,
        group: GroupId,
        ids: Vec<ChunkId>,
        effects: &mut Effects,
    ) -> bool {
        let Some(edition) = self.edition.clone() else { return false };
        let Some(reader) = edition.map().group_members(group).next_back() else { return false };
        let target = Target { store: reader.store, purpose: crate::effects::Purpose::Group };
        if self.reach(now, target, effects).is_err() || self.peers.greeted(target).is_none() {
            return false;
        }
        let request = Request::Query(Query::ChunkStates { ids: ids.clone() });
        self.ask_peer(now, target, &request, Asked::States(group, ids), effects);
        true
    }
}
