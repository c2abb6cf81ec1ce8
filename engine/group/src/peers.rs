//! Connections to the group's other members.
//!
//! Whoever begins a conversation dials: a subscriber its upstream, and who asks for confirmation everybody else. What answers goes back over the connection that the question
//! came over. So two members may have two connections, and each direction of each conversation keeps its order. A message for which there is no connection yet
//! waits for the greeting; one that can't be had is dropped, since the replica asks again.
//!
//! ```text
//! a question waits ─► dialled ─► up, Hello sent (as a log) ─► greeted, questions sent ─► down: the replica is told
//! an answer ─► over the connection that the other member greeted, or dropped
//! ```

use std::collections::BTreeMap;
use std::sync::Arc;

use placement::ClusterMap;
use wire::map::Unit;
use wire::message::{Encoder, Hello, PayloadMeta, Replication, Request, RequestHead};
use wire::{FrameKind, GroupId, Nanos, PROTOCOL_VERSION, PROTOCOL_VERSION_MIN, Prefix, Status, StoreId};

use crate::effects::{CloseReason, Dial, Effects, Link};

/// A connection that can't be had is tried again after this, when there is something to say.
const REDIAL_NANOS: u64 = 50 * Nanos::MILLISECOND;
/// One that isn't greeted by then is given up: the other side may be gone without a word.
const GREETING_NANOS: u64 = Nanos::SECOND;
/// Messages that wait for a greeting; further ones are dropped, which the replica repeats.
const WAITING_MAX: usize = 16;

/// See the module.
#[derive(Debug)]
pub(crate) struct Peers {
    group: GroupId,
    me: StoreId,
    /// Dialled from here.
    dialled: BTreeMap<StoreId, Peer>,
    /// Connections over which other members greeted, newest last.
    greeted: Vec<(StoreId, Link)>,
    encoder: Encoder,
}

#[derive(Debug)]
struct Peer {
    /// Its index in the map.
    index: u16,
    address: Arc<str>,
    link: Option<Link>,
    is_greeted: bool,
    /// When it was dialled last.
    since: Nanos,
    /// Frames that wait for the greeting.
    waiting: Vec<Vec<u8>>,
}

impl Peers {
    pub(crate) fn new(group: GroupId, me: StoreId) -> Self {
        Self { group, me, dialled: BTreeMap::new(), greeted: Vec::new(), encoder: Encoder::new() }
    }

    /// Where the map has the group's logs.
    pub(crate) fn on_map(&mut self, map: &ClusterMap, effects: &mut Effects) {
        let stores = (0_u16..).zip(&map.as_map().stores);
        let logs: BTreeMap<StoreId, (u16, &str)> = stores
            .filter(|(_, store)| store.unit == Unit::Group(self.group) && store.store != self.me)
            .map(|(index, store)| (store.store, (index, store.address.as_str())))
            .collect();
        self.dialled.retain(|store, peer| {
            let stays =
                logs.get(store).is_some_and(|(index, at)| *index == peer.index && **at == *peer.address);
            if let Some(link) = peer.link.filter(|_| !stays) {
                effects.closes.push((link, CloseReason::Redial));
            }
            stays
        });
        for (store, (index, address)) in logs {
            self.dialled.entry(store).or_insert_with(|| Peer {
                index,
                address: Arc::from(address),
                link: None,
                is_greeted: false,
                since: Nanos(0),
                waiting: Vec::new(),
            });
        }
    }

    /// Whether the map's store with this index is one of these.
    pub(crate) fn has_index(&self, index: u16) -> bool {
        self.dialled.values().any(|peer| peer.index == index)
    }

    fn dialled_over(&mut self, link: Link) -> Option<(StoreId, &mut Peer)> {
        let mut peers = self.dialled.iter_mut();
        peers.find(|(_, peer)| peer.link == Some(link)).map(|(store, peer)| (*store, peer))
    }

    /// Whether the connection was dialled from here.
    pub(crate) fn knows(&self, link: Link) -> bool {
        self.dialled.values().any(|peer| peer.link == Some(link))
    }

    /// The member that the connection was dialled to.
    pub(crate) fn dialled_to(&self, link: Link) -> Option<StoreId> {
        let peer = self.dialled.iter().find(|(_, peer)| peer.link == Some(link));
        peer.map(|(store, _)| *store)
    }

    /// A message of the replica's.
    pub(crate) fn send(
        &mut self,
        now: Nanos,
        to: StoreId,
        message: Replication<&[u8]>,
        effects: &mut Effects,
    ) {
        let asks = matches!(
            message,
            Replication::Subscribe(_)
                | Replication::Progress(_)
                | Replication::Confirm { .. }
                | Replication::FetchPage { .. }
        );
        let request = Request::Replicate(message);
        let encoder = &mut self.encoder;
        let mut encode = |bytes: &mut Vec<u8>| {
            encoder.request(bytes, RequestHead::default(), &request, PayloadMeta::default());
        };
        if !asks {
            if let Some((_, link)) = self.greeted.iter().rev().find(|(store, _)| *store == to) {
                effects.send(*link, encode);
            }
            return;
        }
        let Some(peer) = self.dialled.get_mut(&to) else { return };
        match peer.link {
            Some(link) if peer.is_greeted => return effects.send(link, encode),
            Some(link) if now.since(peer.since) >= GREETING_NANOS => {
                effects.closes.push((link, CloseReason::Redial)); // its end is told by `on_close`
                return;
            }
            Some(_) => {}
            None if now.since(peer.since) < REDIAL_NANOS && peer.since > Nanos(0) => return,
            None => {
                peer.since = now;
                effects.dials.push(Dial { peer: peer.index, address: Arc::clone(&peer.address) });
            }
        }
        if peer.waiting.len() < WAITING_MAX {
            let mut frame = Vec::new();
            encode(&mut frame);
            peer.waiting.push(frame);
        }
    }

    /// What the driver made of a [`Dial`].
    pub(crate) fn on_dialled(&mut self, index: u16, link: Option<Link>) {
        let peer = self.dialled.values_mut().find(|peer| peer.index == index);
        let Some(peer) = peer else { return };
        assert!(peer.link.is_none(), "a member is dialled once at a time");
        (peer.link, peer.is_greeted) = (link, false);
        if link.is_none() {
            peer.waiting.clear();
        }
    }

    /// A connection stands: greets the member as a log.
    pub(crate) fn on_up(&mut self, link: Link, map: &ClusterMap, effects: &mut Effects) {
        let (group, me) = (self.group, self.me);
        if self.dialled_over(link).is_none() {
            return;
        }
        let hello = Hello {
            version_min: PROTOCOL_VERSION_MIN,
            version_max: PROTOCOL_VERSION,
            features: wire::message::FEATURES,
            name: format!("metadata group {}", group.0),
            cluster: Some(map.cluster()),
            peer: Some(me),
        };
        let encoder = &mut self.encoder;
        effects.send(link, |bytes| {
            encoder.request(bytes, RequestHead::default(), &Request::Hello(hello), PayloadMeta::default());
        });
    }

    /// The answer to a greeting of ours; nothing else is answered.
    pub(crate) fn on_reply(&mut self, link: Link, prefix: &Prefix, effects: &mut Effects) {
        let Some((_, peer)) = self.dialled_over(link) else { return };
        if prefix.kind != FrameKind::Hello || !prefix.reply || prefix.status != Status::Ok {
            effects.closes.push((link, CloseReason::Redial)); // it is starting, perhaps
            return;
        }
        peer.is_greeted = true;
        for frame in std::mem::take(&mut peer.waiting) {
            effects.send(link, |bytes| bytes.extend_from_slice(&frame));
        }
    }

    /// Another member greeted over this connection.
    pub(crate) fn on_greeted(&mut self, store: StoreId, link: Link) {
        self.greeted.push((store, link));
    }

    /// Who greeted over this connection.
    pub(crate) fn greeted_over(&self, link: Link) -> Option<StoreId> {
        self.greeted.iter().find(|(_, known)| *known == link).map(|(store, _)| *store)
    }

    /// A connection is gone: with which member, if it was one of these.
    pub(crate) fn on_close(&mut self, link: Link) -> Option<StoreId> {
        if let Some((store, peer)) = self.dialled_over(link) {
            (peer.link, peer.is_greeted) = (None, false);
            peer.waiting.clear();
            return Some(store);
        }
        let at = self.greeted.iter().position(|(_, known)| *known == link)?;
        Some(self.greeted.remove(at).0)
    }
}
