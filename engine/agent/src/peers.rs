//! Connections that the agent makes: one to whoever leads, and one to each other voter.
//!
//! ```text
//! wanted ─► dialled ─► up, Hello sent ─► greeted ─► down: again after RECONNECT
//! ```

use std::collections::BTreeMap;
use std::sync::Arc;

use wire::message::{Encoder, Hello, PayloadMeta, Request, RequestHead};
use wire::{ClusterId, Nanos, PROTOCOL_VERSION, PROTOCOL_VERSION_MIN};

use crate::effects::{CloseReason, Dial, Effects, Link, PeerId};

/// A connection that can't be had is tried again after this.
const RECONNECT: u64 = 100 * Nanos::MILLISECOND;
/// A connection that isn't greeted in this time is given up.
const PATIENCE: u64 = 2 * Nanos::SECOND;
/// A connection that is used is greeted again after this, since letters have no answers.
const KEEPALIVE: u64 = 500 * Nanos::MILLISECOND;
/// A greeting without an answer for so long: the connection is broken, and nobody may ever say so.
const SILENCE: u64 = Nanos::SECOND;

#[derive(Debug)]
struct Peer {
    address: Arc<str>,
    link: Option<Link>,
    greeted: bool,
    since: Nanos,
    retry_at: Nanos,
    /// A `Hello` waits for its answer since.
    asked_at: Option<Nanos>,
    last_hello: Nanos,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Peers {
    cluster: ClusterId,
    name: String,
    by_id: BTreeMap<PeerId, Peer>,
    by_link: BTreeMap<Link, PeerId>,
    encoder: Encoder,
}

impl Peers {
    pub(crate) fn new(cluster: ClusterId, node: &str) -> Self {
        let name = format!("control of {node}").chars().take(60).collect();
        Self { cluster, name, by_id: BTreeMap::new(), by_link: BTreeMap::new(), encoder: Encoder::new() }
    }

    /// Whether a frame can be sent to this peer at this address now; sees to it that it can soon.
    pub(crate) fn reach(
        &mut self,
        now: Nanos,
        id: PeerId,
        address: &Arc<str>,
        effects: &mut Effects,
    ) -> Option<Link> {
        if self.by_id.get(&id).is_some_and(|peer| peer.address != *address) {
            self.drop_peer(id, effects);
        }
        let peer = self.by_id.entry(id).or_insert_with(|| Peer {
            address: Arc::clone(address),
            link: None,
            greeted: false,
            since: now,
            retry_at: Nanos(0),
            asked_at: None,
            last_hello: now,
        });
        if peer.asked_at.is_some_and(|at| peer.greeted && now.since(at) >= SILENCE) {
            self.redial(now, id, effects);
            return None;
        }
        if peer.link.is_some() && !peer.greeted && now.since(peer.since) >= PATIENCE {
            self.redial(now, id, effects);
            return None;
        }
        if peer.link.is_none() {
            if now >= peer.retry_at {
                (peer.retry_at, peer.since) = (now.after(RECONNECT), now);
                effects.dials.push(Dial { peer: id, address: Arc::clone(address) });
            }
            return None;
        }
        let link = peer.link.filter(|_| peer.greeted)?;
        if peer.asked_at.is_none() && now.since(peer.last_hello) >= KEEPALIVE {
            (peer.asked_at, peer.last_hello) = (Some(now), now);
            self.greet(link, effects);
        }
        Some(link)
    }

    /// Whether a connection was waited for long enough: nothing answers there, not even with a refusal.
    pub(crate) fn is_given_up(&self, now: Nanos, id: PeerId) -> bool {
        let waits = |peer: &Peer| peer.link.is_some() && !peer.greeted;
        self.by_id.get(&id).is_some_and(|peer| waits(peer) && now.since(peer.since) >= PATIENCE)
    }

    /// When a peer that isn't reached yet is tried again, or given up.
    pub(crate) fn wait_for(&self, id: PeerId) -> Option<Nanos> {
        let peer = self.by_id.get(&id).filter(|peer| !peer.greeted)?;
        Some(if peer.link.is_some() { peer.since.after(PATIENCE) } else { peer.retry_at })
    }

    pub(crate) fn on_dialled(&mut self, id: PeerId, link: Option<Link>, effects: &mut Effects) {
        match (self.by_id.get_mut(&id), link) {
            (Some(peer), Some(link)) if peer.link.is_none() => {
                peer.link = Some(link);
                self.by_link.insert(link, id);
            }
            (_, Some(link)) => effects.closes.push((link, CloseReason::Redial)),
            (_, None) => {}
        }
    }

    pub(crate) fn on_up(&mut self, link: Link, effects: &mut Effects) {
        if self.by_link.contains_key(&link) {
            self.greet(link, effects);
        }
    }

    fn greet(&mut self, link: Link, effects: &mut Effects) {
        let hello = Hello {
            version_min: PROTOCOL_VERSION_MIN,
            version_max: PROTOCOL_VERSION,
            features: wire::message::FEATURES,
            name: self.name.clone(),
            cluster: Some(self.cluster),
            peer: None,
        };
        self.send(link, 0, &Request::Hello(hello), effects);
    }

    pub(crate) fn of(&self, link: Link) -> Option<PeerId> {
        self.by_link.get(&link).copied()
    }

    /// Where a connection leads to.
    pub(crate) fn address_of(&self, link: Link) -> Option<&Arc<str>> {
        self.by_link.get(&link).and_then(|id| self.by_id.get(id)).map(|peer| &peer.address)
    }

    pub(crate) fn on_greeted(&mut self, id: PeerId) {
        if let Some(peer) = self.by_id.get_mut(&id) {
            (peer.greeted, peer.asked_at) = (true, None);
        }
    }

    /// Whether it was one of these.
    pub(crate) fn on_close(&mut self, now: Nanos, link: Link) -> Option<PeerId> {
        let id = self.by_link.remove(&link)?;
        if let Some(peer) = self.by_id.get_mut(&id) {
            (peer.link, peer.greeted, peer.asked_at) = (None, false, None);
            peer.retry_at = peer.retry_at.max(now.after(RECONNECT / 2));
        }
        Some(id)
    }

    /// Ends the connection to a peer; another one is made when it is wanted.
    pub(crate) fn redial(&mut self, now: Nanos, id: PeerId, effects: &mut Effects) {
        let Some(peer) = self.by_id.get_mut(&id) else { return };
        if let Some(link) = peer.link.take() {
            self.by_link.remove(&link);
            effects.closes.push((link, CloseReason::Redial));
        }
        (peer.greeted, peer.asked_at, peer.retry_at) = (false, None, now.after(RECONNECT / 2));
    }

    /// Forgets a peer.
    pub(crate) fn drop_peer(&mut self, id: PeerId, effects: &mut Effects) {
        if let Some(link) = self.by_id.remove(&id).and_then(|peer| peer.link) {
            self.by_link.remove(&link);
            effects.closes.push((link, CloseReason::Redial));
        }
    }

    /// Forgets voters that `keep` doesn't hold for.
    pub(crate) fn retain_voters(&mut self, keep: impl Fn(u64) -> bool, effects: &mut Effects) {
        let gone = |id: &&PeerId| matches!(id, PeerId::Voter(voter) if !keep(*voter));
        let gone: Vec<PeerId> = self.by_id.keys().filter(gone).copied().collect();
        for id in gone {
            self.drop_peer(id, effects);
        }
    }

    pub(crate) fn send(
        &mut self,
        link: Link,
        correlation: u64,
        request: &Request<'_>,
        effects: &mut Effects,
    ) {
        let encoder = &mut self.encoder;
        let head = RequestHead { correlation, deadline_ms: 0 };
        effects.send(link, |out| encoder.request(out, head, request, PayloadMeta::default()));
    }
}
