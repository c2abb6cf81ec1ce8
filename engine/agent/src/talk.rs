//! The node's conversation with whoever leads the control group: it finds the leader, introduces this life of the node, says every 250 ms that it lives, and
//! fetches maps.
//!
//! ```text
//! Searching ── Register ──► Accepted ──► Registered ── Heartbeat every 250 ms, and at once with news ──┐
//!     ▲  ▲        └─ Elsewhere, refused: another, later                                                │
//!     │  └── silence for a second, connection gone, another leads, life unknown ◄─────────────────────┘
//! ```
//! The lease is counted from when the answered heartbeat was sent, on this node's clock (R18). With nobody to talk to, nothing here stops anything: the lease runs
//! out, and that is all (R19).

use std::sync::Arc;

use placement::{ClusterMap, Edition};
use wire::control::{Heartbeat, HeartbeatReply, Led, Life, Registration, RegistrationReply, StoreVerdict};
use wire::map::{MapUpdate, Pages};
use wire::planted::{Bug, planted};
use wire::{MapNumber, Nanos, NodeId};

use crate::agent::Identity;
use crate::effects::{Effects, Note};
use crate::reports::Reports;

/// Between two heartbeats.
pub(crate) const HEARTBEAT_INTERVAL: u64 = 250 * Nanos::MILLISECOND;
/// News don't wait for the next heartbeat, but this long for other news.
const NEWS_INTERVAL: u64 = 10 * Nanos::MILLISECOND;
/// Whoever says nothing for so long isn't waited for.
const SILENCE: u64 = Nanos::SECOND;
/// Between two tries to introduce oneself.
const RETRY: u64 = 50 * Nanos::MILLISECOND;
/// After a refusal that only an operator can mend.
const REFUSED_RETRY: u64 = 2 * Nanos::SECOND;

/// How far the node is with the leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// It looks for the leader; a registration may be on its way.
    Searching,
    /// The leader knows this life.
    Registered,
}

/// What is to be sent to whoever leads, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Word {
    /// An introduction.
    Register(Box<Registration>),
    /// A sign of life.
    Heartbeat(Box<Heartbeat>),
    /// A page of the map is wanted.
    GetMap {
        /// The map that is there.
        have: MapNumber,
        /// The page.
        page: u32,
    },
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Talk {
    life: Life,
    join: bool,
    pub(crate) stage: Stage,
    /// Whom it talks to, or is going to; itself, where its own voter leads.
    pub(crate) leader: Option<NodeId>,
    /// Other addresses to ask when the map's don't help: configured ones.
    endpoints: Vec<Arc<str>>,
    candidate: usize,
    /// Nothing is said before.
    next_at: Nanos,
    /// A registration or heartbeat waits for its answer since.
    unanswered_since: Option<Nanos>,
    last_beat: Nanos,
    has_news: bool,
    pages: Pages,
    /// The newest map that the leader told of.
    wanted: MapNumber,
    is_fetching: bool,
    lease_until: Nanos,
    is_lease_lost: bool,
    last_refusal: Option<wire::control::RegistrationRefusal>,
}

impl Talk {
    pub(crate) fn new(life: Life, join: bool, endpoints: Vec<Arc<str>>) -> Self {
        Self {
            life,
            join,
            stage: Stage::Searching,
            leader: None,
            endpoints,
            candidate: 0,
            next_at: Nanos(0),
            unanswered_since: None,
            last_beat: Nanos(0),
            has_news: false,
            pages: Pages::new(),
            wanted: MapNumber(0),
            is_fetching: false,
            lease_until: Nanos(0),
            is_lease_lost: false,
            last_refusal: None,
        }
    }

    /// Where to ask now: the leader, the map's nodes, configured addresses.
    pub(crate) fn address(&self, map: &ClusterMap, own: NodeId) -> Option<Arc<str>> {
        let nodes = &map.as_map().nodes;
        let control = |node: &wire::map::Node| Arc::from(node.control.as_str());
        if let Some(leader) = self.leader.filter(|leader| *leader != own)
            && let Some(node) = nodes.iter().find(|node| node.node == leader && !node.control.is_empty())
        {
            return Some(control(node));
        }
        let others = nodes.iter().filter(|node| node.node != own && !node.control.is_empty());
        let all: Vec<Arc<str>> = others.map(control).chain(self.endpoints.iter().cloned()).collect();
        let index = self.candidate.checked_rem(all.len())?;
        Some(Arc::clone(&all[index]))
    }

    /// Whoever was talked to doesn't answer, or isn't the leader: another one, which may be named.
    pub(crate) fn look_elsewhere(&mut self, now: Nanos, leader: Option<NodeId>) {
        self.stage = Stage::Searching;
        if leader.is_none() {
            self.candidate = self.candidate.wrapping_add(1);
        }
        self.leader = leader;
        self.unanswered_since = None;
        self.is_fetching = false;
        // Whoever leads is asked at once; where nobody is known to, not too often.
        self.next_at = if leader.is_some() { now } else { now.after(RETRY) };
    }

    /// Whoever is talked to has this map.
    pub(crate) fn on_number(&mut self, number: MapNumber) {
        self.wanted = self.wanted.max(number);
    }

    /// Whether there is a newer map than this one.
    pub(crate) fn is_behind(&self, number: MapNumber) -> bool {
        self.wanted > number
    }

    /// Who leads isn't known to the map that there is; a newer one is being fetched from whoever is talked to.
    pub(crate) fn wait_for_map(&mut self, now: Nanos) {
        (self.stage, self.leader, self.unanswered_since) = (Stage::Searching, None, None);
        self.next_at = now.after(RETRY);
    }

    /// The connection is gone: what was asked has no answer.
    pub(crate) fn on_gone(&mut self, now: Nanos) {
        self.look_elsewhere(now, None);
    }

    /// The leader should hear something soon.
    pub(crate) fn hurry(&mut self) {
        self.has_news = true;
    }

    /// Whether nobody answers.
    pub(crate) fn is_silent(&self, now: Nanos) -> bool {
        self.unanswered_since.is_some_and(|since| now.since(since) >= SILENCE)
    }

    /// When there is something to do next.
    pub(crate) fn deadline(&self) -> Nanos {
        let due = match self.stage {
            Stage::Searching if self.unanswered_since.is_some() => Nanos(u64::MAX),
            Stage::Searching => self.next_at,
            Stage::Registered if self.has_news => self.last_beat.after(NEWS_INTERVAL),
            Stage::Registered => self.last_beat.after(HEARTBEAT_INTERVAL),
        };
        let silent = self.unanswered_since.map_or(Nanos(u64::MAX), |since| since.after(SILENCE));
        due.max(self.next_at).min(silent)
    }

    /// What is to be said now, if anything.
    pub(crate) fn next_word(
        &mut self,
        now: Nanos,
        identity: &Identity,
        installed: MapNumber,
        reports: &mut Reports,
    ) -> Option<Word> {
        if now < self.next_at {
            return None;
        }
        match self.stage {
            Stage::Searching if self.unanswered_since.is_none() => {
                self.unanswered_since = Some(now);
                self.next_at = now.after(RETRY);
                Some(Word::Register(Box::new(self.registration(now, identity, installed, reports))))
            }
            Stage::Searching => None,
            Stage::Registered => {
                let interval = if self.has_news { NEWS_INTERVAL } else { HEARTBEAT_INTERVAL };
                if now.since(self.last_beat) < interval {
                    return None;
                }
                self.last_beat = now;
                self.has_news = false;
                self.unanswered_since.get_or_insert(now);
                let mut heartbeat = Heartbeat {
                    node: identity.node,
                    life: self.life,
                    sent: now,
                    installed,
                    stores: Vec::new(),
                    suspects: Vec::new(),
                    synced: Vec::new(),
                    caught_up: Vec::new(),
                    slow: Vec::new(),
                };
                reports.fill(&mut heartbeat);
                Some(Word::Heartbeat(Box::new(heartbeat)))
            }
        }
    }

    fn registration(
        &self,
        now: Nanos,
        identity: &Identity,
        installed: MapNumber,
        reports: &Reports,
    ) -> Registration {
        Registration {
            node: identity.node,
            life: self.life,
            join: self.join,
            name: identity.name.clone(),
            rack: identity.rack.clone(),
            control: identity.control.clone(),
            sent: now,
            installed,
            stores: reports.stores.clone(),
        }
    }

    /// The request for a page of the newest map, if one is to be fetched and isn't yet.
    pub(crate) fn next_page(&mut self, have: MapNumber) -> Option<Word> {
        if self.is_fetching || self.wanted <= have {
            return None;
        }
        self.is_fetching = true;
        Some(Word::GetMap { have, page: self.pages.next_page() })
    }

    /// The answer to an introduction.
    pub(crate) fn on_registered(
        &mut self,
        now: Nanos,
        from: Option<NodeId>,
        reply: Led<RegistrationReply>,
        effects: &mut Effects,
    ) {
        self.unanswered_since = None;
        match reply {
            Led::Elsewhere(leader) => self.look_elsewhere(now, leader),
            Led::Here(RegistrationReply::Accepted { number, stores, .. }) => {
                self.stage = Stage::Registered;
                self.next_at = now;
                self.leader = from.or(self.leader);
                self.last_refusal = None;
                self.has_news = true;
                self.wanted = self.wanted.max(number);
                let refused = stores.into_iter().filter(|(_, verdict)| *verdict != StoreVerdict::Accepted);
                let leader = self.leader.unwrap_or_default();
                effects.notes.push(Note::Registered { leader, refused: refused.collect() });
            }
            Led::Here(RegistrationReply::Refused(refusal)) => {
                let is_soon = refusal == wire::control::RegistrationRefusal::Busy;
                self.next_at = now.after(if is_soon { RETRY } else { REFUSED_RETRY });
                if !is_soon && self.last_refusal.replace(refusal) != Some(refusal) {
                    effects.notes.push(Note::Refused(refusal));
                }
            }
        }
    }

    /// The answer to a sign of life.
    pub(crate) fn on_reply(&mut self, now: Nanos, reply: &Led<HeartbeatReply>, effects: &mut Effects) {
        let reply = match reply {
            Led::Elsewhere(leader) => return self.look_elsewhere(now, *leader),
            Led::Here(reply) => *reply,
        };
        if reply.life != self.life {
            return; // of a former life: its lease isn't ours
        }
        self.unanswered_since = None;
        self.wanted = self.wanted.max(reply.number);
        if !reply.is_known {
            self.stage = Stage::Searching;
            return;
        }
        if reply.lease > 0 {
            // R18: from when it was sent, not from now.
            let since = if planted(Bug::AgentCountsLeaseFromGrant) { now } else { reply.sent };
            self.lease_until = self.lease_until.max(since.after(reply.lease));
            effects.lease = Some(self.lease_until);
            if std::mem::take(&mut self.is_lease_lost) {
                effects.notes.push(Note::LeaseRenewed);
            }
        }
    }

    /// Says once that the lease has run out.
    pub(crate) fn watch_lease(&mut self, now: Nanos, effects: &mut Effects) {
        let had_one = self.lease_until > Nanos(0);
        if had_one && now >= self.lease_until && !std::mem::replace(&mut self.is_lease_lost, true) {
            effects.notes.push(Note::LeaseLost);
        }
    }

    /// The leader tells of a map, and may tell what changed.
    pub(crate) fn on_news(
        &mut self,
        number: MapNumber,
        update: &[u8],
        edition: &Edition,
    ) -> Option<Arc<Edition>> {
        self.wanted = self.wanted.max(number);
        let update = MapUpdate::decode(update).ok().filter(|update| update.number() == number)?;
        edition.updated(update).ok().flatten().map(Arc::new)
    }

    /// A page of a map; the newer edition that it completes.
    pub(crate) fn on_page(
        &mut self,
        number: MapNumber,
        page: (u32, u32),
        bytes: &[u8],
        edition: &Edition,
    ) -> Option<Arc<Edition>> {
        self.is_fetching = false;
        if page.1 == 0 {
            self.wanted = self.wanted.min(edition.number());
            return None;
        }
        match self.pages.add(number, page, bytes) {
            Ok(Some(update)) => match edition.updated(update) {
                Ok(newer) => newer.map(Arc::new),
                Err(_) => None,
            },
            Ok(None) => None,
            Err(_) => {
                self.pages = Pages::new();
                None
            }
        }
    }
}
