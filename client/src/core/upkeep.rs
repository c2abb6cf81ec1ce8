//! What happens by itself: timers, keepalives, pins of long reads, closing of what nobody uses.

use wire::limits::SESSION_PINS_MAX;
use wire::meta::Pin;
use wire::{GroupId, Nanos, SessionId};

use super::effect::{LinkNumber, ReadId};
use super::link::LinkState;
use super::request::{RequestId, State, What};
use super::route::CANDIDATE_PATIENCE;
use super::send::ATTEMPT;
use super::{Context, Core, LINK_IDLE};
use crate::error::UnavailableReason;

/// What waits for a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Timer {
    Directory,
    Request(RequestId),
    Link(LinkNumber),
    Session(SessionId),
    Read(ReadId),
    Watch,
}

/// A read that is under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Read {
    pub(super) group: GroupId,
    pub(super) pin: Pin,
    /// It has lasted long: keepalives carry its pin (R25).
    pub(super) pinned: bool,
    /// The first session that carries it: a pin in a later one holds only what is left by then.
    pub(super) session: Option<SessionId>,
}

impl Core {
    pub(super) fn on_tick(&mut self, cx: &mut Context<'_>) {
        self.armed = None;
        while let Some(timer) = self.timers.pop_due(cx.now) {
            match timer {
                Timer::Directory => self.refresh_map(cx),
                Timer::Request(id) => self.on_request_timer(cx, id),
                Timer::Link(link) => self.on_link_timer(cx, link),
                Timer::Session(session) => self.on_session_timer(cx, session),
                Timer::Read(read) => self.on_read_timer(cx, read),
                Timer::Watch => self.on_watch(cx),
            }
        }
    }

    fn on_request_timer(&mut self, cx: &mut Context<'_>, id: RequestId) {
        let Some(request) = self.requests.get(id) else { return };
        if cx.now >= request.deadline {
            if let Some(later) = self.extended_deadline(cx.now, id) {
                self.requests.get(id).expect("just found").deadline = later;
                self.timers.set(Timer::Request(id), later);
                return;
            }
            let request = self.requests.get(id).expect("just found");
            let silent = match (&request.what, request.state) {
                (What::KeepAlive { .. }, State::AwaitReply(link, _)) => Some(link),
                _ => None,
            };
            self.expire(cx, id);
            // Nobody else might notice for a long time that this connection is dead.
            if let Some(link) = silent {
                self.break_link(cx, link, UnavailableReason::Disconnected);
            }
            return;
        }
        match request.state {
            State::Backoff => self.wake(id),
            State::AwaitLink(_) if matches!(request.what, What::MapPage) => {
                self.leave_silent_candidate(cx, id);
            }
            State::AwaitReply(link, _) if matches!(request.what, What::MapPage) => {
                let heard = self.links.get(link).map_or(Nanos(0), |link| link.last_heard);
                let until = heard.after(CANDIDATE_PATIENCE);
                if cx.now < until {
                    self.timers.set(Timer::Request(id), until); // its pages are on their way
                } else {
                    self.leave_silent_candidate(cx, id);
                }
            }
            State::Sending(link, _) | State::AwaitReply(link, _) => {
                let (deadline, is_chunk) = (request.deadline, request.patience > 0);
                let moved = self.links.get(link).map_or(Nanos(0), |link| link.last_moved);
                if is_chunk && cx.now < moved.after(ATTEMPT) {
                    // Others' bytes are on their way on the same link: its turn comes.
                    self.timers.set(Timer::Request(id), deadline.min(moved.after(ATTEMPT)));
                    return;
                }
                // Unanswered for too long: the connection is taken for dead, and the request goes out on another.
                self.break_link(cx, link, UnavailableReason::Disconnected);
                debug_assert!(
                    self.requests.get(id).is_none_or(|request| request.state == State::Backoff),
                    "a broken link's requests are tried again"
                );
            }
            _ => {
                let deadline = request.deadline;
                self.timers.set(Timer::Request(id), deadline);
            }
        }
    }

    /// A later deadline for a chunk whose turn hasn't come because others' bytes move.
    fn extended_deadline(&mut self, now: Nanos, id: RequestId) -> Option<Nanos> {
        let request = self.requests.get(id)?;
        let moved = match request.state {
            State::Sending(link, _) | State::AwaitReply(link, _) => self.links.get(link)?.last_moved,
            State::AwaitWindow => self.last_moved,
            _ => return None,
        };
        let request = self.requests.get(id)?;
        let later = moved.after(request.patience).min(request.limit);
        (request.patience > 0 && later > now).then_some(later)
    }

    fn on_link_timer(&mut self, cx: &mut Context<'_>, number: LinkNumber) {
        let Some(link) = self.links.get(number) else { return };
        if link.state != LinkState::Ready {
            return self.break_link(cx, number, UnavailableReason::Connect);
        }
        let idle_at = link.last_used.after(LINK_IDLE);
        if !link.is_idle() {
            self.timers.set(Timer::Link(number), cx.now.after(LINK_IDLE));
        } else if cx.now >= idle_at {
            self.close_link(cx, number); // R43
        } else {
            self.timers.set(Timer::Link(number), idle_at);
        }
    }

    fn on_session_timer(&mut self, cx: &mut Context<'_>, session: SessionId) {
        let Some(living) = self.sessions.get(session) else { return };
        let next = cx.now.after(living.keepalive);
        self.send_keepalive(cx, session);
        self.timers.set(Timer::Session(session), next);
    }

    /// Keeps a session alive, and what it pins. Given up when the next one is due.
    pub(super) fn send_keepalive(&mut self, cx: &mut Context<'_>, session: SessionId) {
        let Some(living) = self.sessions.get(session) else { return };
        let deadline = cx.now.after(living.keepalive);
        self.begin(cx, None, What::KeepAlive { session }, deadline);
    }

    /// The group says that a session is over.
    pub(super) fn expire_session(&mut self, cx: &mut Context<'_>, session: SessionId) {
        self.timers.clear(Timer::Session(session));
        for id in self.sessions.expired(session) {
            // It has no number yet; an upload's mutation finds its session gone, another one a new session.
            self.wake(id);
        }
        for read in self.reads.values_mut().filter(|read| read.session == Some(session)) {
            read.session = None;
        }
        self.ensure_pins(cx, session.group());
    }

    /// A session that was rotated away is closed with its last use (R21).
    pub(super) fn close_if_unused(&mut self, cx: &mut Context<'_>, session: SessionId) {
        let is_pinned = self.reads.values().any(|read| read.session == Some(session));
        if !is_pinned && self.sessions.take_unused(session) {
            self.timers.clear(Timer::Session(session));
            self.begin(cx, None, What::CloseSession { session }, cx.now.after(super::call::CLOSE_PATIENCE));
        }
    }

    fn on_read_timer(&mut self, cx: &mut Context<'_>, read: ReadId) {
        let Some(entry) = self.reads.get_mut(&read) else { return };
        entry.pinned = true;
        let group = entry.group;
        self.ensure_pins(cx, group);
    }

    /// Pins take effect with a keepalive of the present session; without one, with the first of a new one.
    fn ensure_pins(&mut self, cx: &mut Context<'_>, group: GroupId) {
        if !self.has_pins(group) || self.is_shut {
            return;
        }
        match self.sessions.present(group, cx.now) {
            Some(session) => self.send_pins(cx, session),
            None => {
                if self.sessions.wait(group, None) {
                    self.begin(cx, None, What::OpenSession { group }, Nanos(u64::MAX));
                }
            }
        }
    }

    /// From now on reads that no session carried are pinned in this one.
    pub(super) fn send_pins(&mut self, cx: &mut Context<'_>, session: SessionId) {
        let group = session.group();
        for read in self.reads.values_mut().filter(|read| read.pinned && read.group == group) {
            read.session.get_or_insert(session);
        }
        self.send_keepalive(cx, session);
    }

    pub(super) fn has_pins(&self, group: GroupId) -> bool {
        self.reads.values().any(|read| read.pinned && read.group == group)
    }

    /// The versions that reads of this group hold, each once; those beyond the limit rest on `reclaim_delay` alone.
    pub(super) fn pins(&self, group: GroupId) -> Vec<Pin> {
        let pinned = self.reads.values().filter(|read| read.pinned && read.group == group);
        let pins: std::collections::BTreeSet<Pin> = pinned.map(|read| read.pin).collect();
        pins.into_iter().take(SESSION_PINS_MAX).collect()
    }

    /// How long a read goes without a pin: a quarter of `reclaim_delay`, so that the pin is there well before half of it (R25).
    pub(super) fn pin_delay(&self) -> u64 {
        let delay_ms = self.map().map_or(RECLAIM_DELAY_MS_MIN, |map| map.as_map().settings.reclaim_delay_ms);
        delay_ms.saturating_mul(Nanos::MILLISECOND) / 4
    }
}

/// The least that a cluster can have as `reclaim_delay` (R25).
const RECLAIM_DELAY_MS_MIN: u64 = 1_000;
