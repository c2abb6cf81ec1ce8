//! Connections by address: opened on first use, closed when idle for a minute, at most 256 of them (R43).
//!
//! ```text
//! (none) ── wanted ──▶ Connecting ── LinkUp, Hello sent ──▶ Greeting ── HelloReply ──▶ Ready ── idle, broken, too many ──▶ (none)
//! ```

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use wire::{Load, Nanos};

use super::effect::LinkNumber;
use super::request::RequestId;
use crate::error::UnavailableReason;

/// Connections of one client, at most (R43).
pub const LINKS_MAX: usize = 256;
/// A connection that nobody used for so long is closed (R43).
pub const LINK_IDLE: u64 = 60 * Nanos::SECOND;

/// Addresses that something is remembered of; beyond, those without a link are forgotten.
const ADDRESSES_MAX: usize = 4096;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LinkState {
    Connecting,
    Greeting,
    Ready,
}

#[derive(Debug)]
pub(super) struct Link {
    pub(super) address: Arc<str>,
    pub(super) state: LinkState,
    /// Correlation ids of requests sent here that are not fully answered.
    pub(super) in_flight: BTreeMap<u64, RequestId>,
    /// Requests that go out when the link is ready.
    pub(super) waiting: Vec<RequestId>,
    /// Puts whose fragments are not all sent; the first one's are.
    pub(super) sending: VecDeque<RequestId>,
    /// Payload bytes of puts that may be sent (R38).
    pub(super) credit: u64,
    pub(super) last_used: Nanos,
    /// When something came from the peer.
    pub(super) last_heard: Nanos,
    /// When chunks moved: bytes came, or the answer to a put, or credit for one.
    pub(super) last_moved: Nanos,
    /// When it was asked for something while it owed nothing.
    pub(super) asked_at: Nanos,
    /// The get whose payload is arriving.
    pub(super) receiving: Option<RequestId>,
}

impl Link {
    pub(super) fn is_idle(&self) -> bool {
        self.in_flight.is_empty() && self.waiting.is_empty() && self.sending.is_empty()
    }
}

/// What is known of an address beyond its connection.
#[derive(Debug)]
struct Address {
    link: Option<LinkNumber>,
    failures: u32,
    retry_at: Nanos,
    reason: UnavailableReason,
    load: Load,
}

/// How an address can be used now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    /// Send.
    Ready(LinkNumber),
    /// Wait until this link is ready.
    Opening(LinkNumber),
    /// A new link was made: connect it.
    New(LinkNumber),
    /// Not before this time; it failed for this reason.
    Later(Nanos, UnavailableReason),
    /// As many links as may be are in use.
    Full,
}

#[derive(Debug, Default)]
pub(super) struct Links {
    open: BTreeMap<LinkNumber, Link>,
    addresses: BTreeMap<Arc<str>, Address>,
    last_number: u64,
}

impl Links {
    pub(super) fn get(&mut self, number: LinkNumber) -> Option<&mut Link> {
        self.open.get_mut(&number)
    }

    pub(super) fn len(&self) -> usize {
        self.open.len()
    }

    /// The way to `address`; makes a link where there is none.
    pub(super) fn access(&mut self, address: &Arc<str>, now: Nanos) -> Access {
        if self.addresses.len() >= ADDRESSES_MAX && !self.addresses.contains_key(address) {
            self.addresses.retain(|_, entry| entry.link.is_some() || now < entry.retry_at);
        }
        let entry = self.addresses.entry(Arc::clone(address)).or_insert_with(|| Address {
            link: None,
            failures: 0,
            retry_at: Nanos(0),
            reason: UnavailableReason::Connect,
            load: Load::default(),
        });
        if let Some(number) = entry.link {
            let link = self.open.get_mut(&number).expect("an address names a living link");
            link.last_used = now;
            return match link.state {
                LinkState::Ready => Access::Ready(number),
                LinkState::Connecting | LinkState::Greeting => Access::Opening(number),
            };
        }
        if now < entry.retry_at {
            return Access::Later(entry.retry_at, entry.reason);
        }
        if self.open.len() >= LINKS_MAX {
            return Access::Full;
        }
        self.last_number += 1;
        let number = LinkNumber(self.last_number);
        entry.link = Some(number);
        let link = Link {
            address: Arc::clone(address),
            state: LinkState::Connecting,
            in_flight: BTreeMap::new(),
            waiting: Vec::new(),
            sending: VecDeque::new(),
            credit: 0,
            last_used: now,
            last_heard: now,
            last_moved: now,
            asked_at: now,
            receiving: None,
        };
        self.open.insert(number, link);
        Access::New(number)
    }

    /// Whether a connection that owes answers, or doesn't come about, has said nothing for so long.
    pub(super) fn any_silent(&self, now: Nanos, silence: u64) -> bool {
        self.open.values().any(|link| {
            let is_owed = link.state != LinkState::Ready || !link.in_flight.is_empty();
            is_owed && now.since(link.last_heard.max(link.asked_at)) >= silence
        })
    }

    /// The address that was heard of last, if that is no longer ago than `within`; else one that owes nothing: of those that owe something, a dead one may be
    /// among them.
    pub(super) fn lively(&self, now: Nanos, within: u64) -> Option<Arc<str>> {
        let ready = self.open.values().filter(|link| link.state == LinkState::Ready);
        let last = ready.clone().max_by_key(|link| link.last_heard)?;
        if now.since(last.last_heard) <= within {
            return Some(Arc::clone(&last.address));
        }
        let idle = ready.filter(|link| link.in_flight.is_empty() && link.asked_at <= link.last_heard);
        idle.max_by_key(|link| link.last_heard).map(|link| Arc::clone(&link.address))
    }

    /// Whether there is a connection to this address that owes something: where others don't, they are better asked.
    pub(super) fn is_owed(&self, address: &str) -> bool {
        let link = self.addresses.get(address).and_then(|entry| self.open.get(&entry.link?));
        link.is_some_and(|link| link.state != LinkState::Ready || !link.in_flight.is_empty())
    }

    /// Whether no connection to this address is to be made now: others may answer sooner.
    pub(super) fn is_paused(&self, address: &str, now: Nanos) -> bool {
        self.addresses.get(address).is_some_and(|entry| entry.link.is_none() && now < entry.retry_at)
    }

    /// The idle link that was used longest ago: the one to close when there are too many.
    pub(super) fn least_recently_used(&self) -> Option<LinkNumber> {
        let idle = self.open.iter().filter(|(_, link)| link.is_idle());
        idle.min_by_key(|(number, link)| (link.last_used, **number)).map(|(number, _)| *number)
    }

    /// The link is ready: its address works.
    pub(super) fn mark_ready(&mut self, number: LinkNumber, credit: u64) {
        let link = self.open.get_mut(&number).expect("the caller has the link");
        link.state = LinkState::Ready;
        link.credit = credit;
        if let Some(address) = self.addresses.get_mut(&link.address) {
            address.failures = 0;
        }
    }

    /// Takes a link out.
    pub(super) fn remove(&mut self, number: LinkNumber) -> Option<Link> {
        let link = self.open.remove(&number)?;
        if let Some(address) = self.addresses.get_mut(&link.address) {
            assert_eq!(address.link, Some(number), "an address has one link");
            address.link = None;
        }
        Some(link)
    }

    /// Counts a failure to come to a conversation with `address`: the count, which is the caller's measure for the pause, and what the failure
    /// means. A server that has said that it has too many connections says it to an eighth as many more, and hangs up on the others.
    pub(super) fn count_failure(
        &mut self,
        address: &Arc<str>,
        reason: UnavailableReason,
    ) -> (u32, UnavailableReason) {
        let Some(entry) = self.addresses.get_mut(address) else { return (1, reason) };
        let is_full = entry.failures > 0 && entry.reason == UnavailableReason::Connections;
        entry.failures = entry.failures.saturating_add(1);
        if !(is_full && reason == UnavailableReason::Disconnected) {
            entry.reason = reason;
        }
        (entry.failures, entry.reason)
    }

    /// No new connection to `address` before `at`, nor before what was said of it earlier.
    pub(super) fn pause(&mut self, address: &Arc<str>, at: Nanos) {
        if let Some(entry) = self.addresses.get_mut(address) {
            entry.retry_at = entry.retry_at.max(at);
        }
    }

    pub(super) fn note_load(&mut self, number: LinkNumber, load: Load) {
        if let Some(link) = self.open.get(&number)
            && let Some(address) = self.addresses.get_mut(&link.address)
        {
            address.load = load;
        }
    }

    /// How long a request to `address` is likely to take, for comparing replicas: queue × service time (DESIGN §5). An address that
    /// nothing is known of looks unloaded, so that it is tried.
    pub(super) fn expected_wait(&self, address: &str) -> u64 {
        self.addresses
            .get(address)
            .map_or(0, |entry| (u64::from(entry.load.queue_depth) + 1) * u64::from(entry.load.service_time))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// At its limit a server answers some of those who connect, and hangs up on the others: it is at its limit all the same.
    #[test]
    fn a_full_server_that_hangs_up_is_full() {
        use UnavailableReason::{Connect, Connections, Disconnected};
        let address: Arc<str> = Arc::from("server:1");
        let mut links = Links::default();
        let mut fail = |reason| {
            let at = Nanos(u64::MAX);
            let Access::New(link) = links.access(&address, at) else { panic!("no link is left open") };
            links.remove(link);
            links.count_failure(&address, reason)
        };
        assert_eq!(fail(Disconnected), (1, Disconnected));
        assert_eq!(fail(Connections), (2, Connections));
        assert_eq!(fail(Disconnected), (3, Connections));
        assert_eq!(fail(Connect), (4, Connect));
        assert_eq!(fail(Disconnected), (5, Disconnected));
    }
}
