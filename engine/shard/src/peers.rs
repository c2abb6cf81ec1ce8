//! Connections that the shard makes: to the stores behind it in its chains, to stores that it compares itself with, to metadata groups.
//!
//! ```text
//!  wanted ─► dialled ─► up, Hello sent ─► greeted: requests go
//!               └───────────┴─► refused, silent or gone: what waited there fails or is asked again; dialled again when it is wanted, after a pause
//! ```
//! One connection for each other store and purpose: chunks on their way down a chain don't wait behind those of a joiner.
//!
//! A store that can't be reached, or that has a whole chunk and says nothing, is *suspect*, and the driver is told; control decides what follows. It stays suspect until
//! it greets or answers, and is dialled meanwhile.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use wire::message::{Hello, Reply, Request};
use wire::{FrameKind, Memory, Nanos, PROTOCOL_VERSION, PROTOCOL_VERSION_MIN, Prefix, Status, StoreId};

use crate::effects::{CloseReason, Dial, Effects, Link, Placement, Purpose, Suspicion, Target};
use crate::shard::Shard;

/// A store that can't be reached is tried again after this.
pub(crate) const RECONNECT_NANOS: u64 = 100 * Nanos::MILLISECOND;
/// A connection over which nothing was asked for so long is ended (R43). Those of chains stay.
const IDLE_NANOS: u64 = 60 * Nanos::SECOND;

/// The other end of a connection that the shard makes.
#[derive(Debug)]
struct Peer {
    address: Arc<str>,
    link: Option<Link>,
    /// The driver has been asked for a connection, and hasn't answered yet.
    is_dialled: bool,
    greeted: bool,
    retry_at: Nanos,
    /// When something was asked of it last.
    used_at: Nanos,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Peers {
    by_target: BTreeMap<Target, Peer>,
    by_link: BTreeMap<Link, Target>,
    suspects: BTreeSet<StoreId>,
}

impl Peers {
    /// Whether a connection is one that the shard made.
    pub(crate) fn knows(&self, link: Link) -> bool {
        self.by_link.contains_key(&link)
    }

    /// The connection, once it is greeted.
    pub(crate) fn greeted(&self, target: Target) -> Option<Link> {
        self.by_target.get(&target).filter(|peer| peer.greeted)?.link
    }

    /// The connection, greeted or not.
    pub(crate) fn link(&self, target: Target) -> Option<Link> {
        self.by_target.get(&target)?.link
    }

    /// Whether anybody can count on this one: it is connected, or can be dialled now.
    fn is_hopeful(&self, now: Nanos, target: Target) -> bool {
        self.by_target
            .get(&target)
            .is_none_or(|peer| peer.link.is_some() || peer.is_dialled || now >= peer.retry_at)
    }

    /// Whether a store is suspect.
    pub(crate) fn has_suspects(&self) -> bool {
        !self.suspects.is_empty()
    }

    /// A store doesn't answer, or can't be reached.
    pub(crate) fn suspect(&mut self, store: StoreId, effects: &mut Effects) {
        if self.suspects.insert(store) {
            effects.suspects.push(Suspicion { store, is_suspect: true });
        }
    }

    /// A store has answered.
    pub(crate) fn trust(&mut self, store: StoreId, effects: &mut Effects) {
        if self.suspects.remove(&store) {
            effects.suspects.push(Suspicion { store, is_suspect: false });
        }
    }
}

impl Shard {
    /// Whether something may be sent to this target; dials it where it isn't connected.
    pub(crate) fn reach(&mut self, now: Nanos, to: Target, effects: &mut Effects) -> Result<(), Status> {
        if !self.peers.is_hopeful(now, to) {
            return Err(Status::NotServing);
        }
        if let Some(peer) = self.peers.by_target.get_mut(&to)
            && (peer.link.is_some() || peer.is_dialled)
        {
            peer.used_at = now;
            return Ok(());
        }
        let known = self.map().and_then(|map| map.store(to.store));
        let Some(address) = known.map(|store| Arc::<str>::from(store.address.as_str())) else {
            return Err(Status::NotServing);
        };
        let peer = self.peers.by_target.entry(to).or_insert_with(|| Peer {
            address,
            link: None,
            is_dialled: false,
            greeted: false,
            retry_at: Nanos(0),
            used_at: now,
        });
        peer.used_at = now;
        peer.is_dialled = true;
        peer.retry_at = now.after(RECONNECT_NANOS);
        effects.dials.push(Dial { target: to, address: Arc::clone(&peer.address) });
        Ok(())
    }

    /// What the driver made of a [`Dial`]: the connection's number, or none.
    pub fn on_dialled(
        &mut self,
        now: Nanos,
        target: Target,
        link: Option<Link>,
        memory: &mut impl Memory,
        effects: &mut Effects,
    ) {
        if let Some(peer) = self.peers.by_target.get_mut(&target) {
            peer.is_dialled = false;
        }
        let Some(link) = link else { return self.on_target_gone(now, target, memory, effects) };
        match self.peers.by_target.get_mut(&target) {
            Some(peer) if peer.link.is_none() => {
                peer.link = Some(link);
                self.peers.by_link.insert(link, target);
            }
            _ => effects.closes.push((link, CloseReason::Redial)),
        }
    }

    /// A connection that the shard made stands.
    pub(crate) fn greet(&mut self, link: Link, effects: &mut Effects) {
        let Some(target) = self.peers.by_link.get(&link) else { return };
        let hello = Hello {
            version_min: PROTOCOL_VERSION_MIN,
            version_max: PROTOCOL_VERSION,
            features: wire::message::FEATURES,
            name: format!("shard {} of node {}", self.identity.shard.0, self.identity.node.0),
            cluster: Some(self.identity.cluster),
            peer: (target.purpose != Purpose::Group).then_some(self.identity.store),
        };
        self.replier.notify(link, &Request::Hello(hello), effects);
    }

    /// A frame on a connection that the shard made.
    pub(crate) fn on_peer_head(
        &mut self,
        now: Nanos,
        link: Link,
        prefix: &Prefix,
        message: &[u8],
        memory: &mut impl Memory,
        effects: &mut Effects,
    ) -> Placement {
        let Some(&target) = self.peers.by_link.get(&link) else {
            return Placement::Close(CloseReason::Protocol);
        };
        if prefix.payload_bytes > 0 && target.purpose != Purpose::Sync {
            return Placement::Close(CloseReason::Protocol);
        }
        if !prefix.reply {
            return match (target.purpose, Request::decode(prefix.kind, message)) {
                (Purpose::Relay, Ok(Request::Credit { class, bytes })) => {
                    self.on_credit(target.store, class, bytes, memory, effects)
                }
                // Puts have no place on the others.
                (_, Ok(Request::Credit { .. })) => Placement::Discard,
                _ => Placement::Close(CloseReason::Protocol),
            };
        }
        match (prefix.kind, Reply::decode(prefix.kind, prefix.status, message)) {
            (FrameKind::Hello, Ok(Reply::Hello(hello))) => {
                if let Some(peer) = self.peers.by_target.get_mut(&target) {
                    peer.greeted = true;
                }
                if target.purpose == Purpose::Relay {
                    self.peers.trust(target.store, effects);
                    self.on_successor_greeted(target.store, hello.put_credit_bytes, memory, effects);
                } else {
                    self.sync.wake();
                }
                Placement::Discard
            }
            // It is starting, full of connections, or of another cluster: nothing but another greeting makes it talk.
            (FrameKind::Hello, _) => Placement::Close(CloseReason::Redial),
            (FrameKind::PutChunk, Ok(_)) if target.purpose == Purpose::Relay => {
                self.peers.trust(target.store, effects);
                self.on_relayed(prefix.correlation, prefix.status, memory, effects)
            }
            (_, Ok(reply)) if target.purpose != Purpose::Relay => {
                self.on_reply(now, link, target, prefix, &reply, memory, effects)
            }
            _ => Placement::Close(CloseReason::Redial),
        }
    }

    /// A connection that the shard made has closed; whether it was one.
    pub(crate) fn on_peer_close(
        &mut self,
        now: Nanos,
        link: Link,
        memory: &mut impl Memory,
        effects: &mut Effects,
    ) -> bool {
        let Some(&target) = self.peers.by_link.get(&link) else { return false };
        self.on_target_gone(now, target, memory, effects);
        true
    }

    /// A connection is gone, or can't be had: what was on its way there isn't known to have arrived.
    pub(crate) fn on_target_gone(
        &mut self,
        now: Nanos,
        target: Target,
        memory: &mut impl Memory,
        effects: &mut Effects,
    ) {
        if let Some(peer) = self.peers.by_target.get_mut(&target) {
            if let Some(link) = peer.link.take() {
                self.peers.by_link.remove(&link);
            }
            peer.retry_at = now.after(RECONNECT_NANOS);
            let was_greeted = std::mem::take(&mut peer.greeted);
            if !was_greeted && target.purpose == Purpose::Relay {
                self.peers.suspect(target.store, effects);
            }
        }
        match target.purpose {
            Purpose::Relay => self.on_successor_gone(target.store, memory, effects),
            Purpose::Sync | Purpose::Group => self.on_asked_gone(now, target, memory),
        }
    }

    /// Ends a connection from this side.
    pub(crate) fn hang_up(
        &mut self,
        now: Nanos,
        target: Target,
        reason: CloseReason,
        memory: &mut impl Memory,
        effects: &mut Effects,
    ) {
        effects.closes.extend(self.peers.link(target).map(|link| (link, reason)));
        self.on_target_gone(now, target, memory, effects);
    }

    /// A new map: who has moved is dialled anew, who is gone is forgotten, and who isn't behind this store any more isn't suspected.
    pub(crate) fn follow_addresses(&mut self, now: Nanos, memory: &mut impl Memory, effects: &mut Effects) {
        let Some(edition) = self.edition.clone() else { return };
        let map = edition.map();
        let moved = |(target, peer): &(&Target, &Peer)| {
            map.store(target.store).is_none_or(|known| known.address != *peer.address)
        };
        let gone: Vec<Target> =
            self.peers.by_target.iter().filter(moved).map(|(target, _)| *target).collect();
        for target in gone {
            self.hang_up(now, target, CloseReason::Redial, memory, effects);
            self.peers.by_target.remove(&target);
        }
        if self.peers.has_suspects() {
            let own = self.identity.store;
            let mut behind: BTreeSet<StoreId> = BTreeSet::new();
            for slice in map.slices_of(own) {
                let ackers = map.route_of_slice(slice).ackers().map(|known| known.store);
                behind.extend(ackers.skip_while(|store| *store != own).skip(1));
            }
            let cleared: Vec<StoreId> = self.peers.suspects.difference(&behind).copied().collect();
            for store in cleared {
                self.peers.trust(store, effects);
            }
        }
    }

    /// Suspects are dialled again, so that they are trusted once they are back; connections that nobody uses end.
    pub(crate) fn tend_peers(&mut self, now: Nanos, memory: &mut impl Memory, effects: &mut Effects) {
        let suspects: Vec<StoreId> = self.peers.suspects.iter().copied().collect();
        for store in suspects {
            // Whether it may be dialled yet is `reach`'s to say.
            let _ = self.reach(now, Target { store, purpose: Purpose::Relay }, effects);
        }
        let is_asked = |target: &Target| self.sync.asks.values().any(|ask| ask.target == *target);
        let is_idle = |(target, peer): &(&Target, &Peer)| {
            let is_old = now.since(peer.used_at) >= IDLE_NANOS;
            target.purpose != Purpose::Relay && peer.link.is_some() && is_old && !is_asked(target)
        };
        let idle: Vec<Target> =
            self.peers.by_target.iter().filter(is_idle).map(|(target, _)| *target).collect();
        for target in idle {
            self.hang_up(now, target, CloseReason::Idle, memory, effects);
        }
        let others = self.peers.by_target.iter().filter(|(target, _)| target.purpose != Purpose::Relay);
        let used = others.filter(|(_, peer)| peer.link.is_some()).map(|(_, peer)| peer.used_at);
        if let Some(at) = used.map(|at| at.after(IDLE_NANOS).max(now.after(Nanos::SECOND))).min() {
            self.sync.want(at);
        }
    }
}
