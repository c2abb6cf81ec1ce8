//! Sessions: opened, closed and expired by log entries; kept alive in memory only (R21, R22).

use std::collections::BTreeMap;

use wire::limits::{GROUP_SESSIONS_MAX, SESSION_PINS_MAX};
use wire::meta::{Pin, SessionGrant};
use wire::{CommitIndex, Nanos, SessionId, Status};

use crate::config::GROUP_PINS_MAX;
use crate::event::{Body, Effects, LogSpace};
use crate::record::Record;
use crate::replica::{Asker, Now, Replica, refuse_full};
use crate::state::State;

/// When each open session was last heard of.
#[derive(Clone, Debug, Default)]
pub(crate) struct Heard {
    at: BTreeMap<SessionId, Nanos>,
}

impl Heard {
    /// Every open session, as if it had just been heard of.
    pub(crate) fn all(state: &State, now: Nanos) -> Self {
        Self { at: state.sessions.iter().map(|(session, _)| (*session, now)).collect() }
    }

    pub(crate) fn touch(&mut self, session: SessionId, now: Nanos) {
        if let Some(at) = self.at.get_mut(&session) {
            *at = now;
        }
    }

    /// Nobody could be heard for so long, up to now: that time doesn't count (R22).
    pub(crate) fn excuse(&mut self, pause: u64, now: Nanos) {
        for at in self.at.values_mut() {
            *at = at.after(pause).min(now);
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.at.len()
    }

    /// Sessions of which nothing was heard for `ttl`, at most `limit`.
    pub(crate) fn expired(&self, now: Nanos, ttl: u64, limit: usize) -> Vec<SessionId> {
        let expired = self.at.iter().filter(|(_, at)| now.since(**at) >= ttl);
        expired.map(|(session, _)| *session).take(limit).collect()
    }
}

impl Replica {
    pub(crate) fn open_session(&mut self, now: Now, asker: Asker, effects: &mut Effects) {
        if self.state.sessions.len() >= GROUP_SESSIONS_MAX {
            return self.refuse_busy(asker, effects); // R17
        }
        if self.log_space > LogSpace::Short {
            return refuse_full(asker, effects); // whoever removes needs a session
        }
        let counter = self.state.next_counter;
        let Some(session) = SessionId::new(self.config.group, self.chain.generation(&self.config), counter)
        else {
            return self.refuse(now.nanos, asker, Status::Unsupported, effects); // counters last 139 years
        };
        let index = self.log(now, Record::Open { session }, effects);
        self.heard.at.insert(session, now.nanos);
        let milliseconds = |nanos: u64| u32::try_from(nanos / Nanos::MILLISECOND).unwrap_or(u32::MAX);
        let grant = SessionGrant {
            session,
            ttl_ms: milliseconds(self.config.session_ttl),
            keepalive_ms: milliseconds(self.config.keepalive),
        };
        self.answer(now.nanos, asker, (Status::Ok, Body::Session(grant)), index, effects);
    }

    pub(crate) fn keep_alive(
        &mut self,
        now: Now,
        asker: Asker,
        session: SessionId,
        pins: &[Pin],
        effects: &mut Effects,
    ) {
        if !self.state.is_open(session) {
            return self.refuse(now.nanos, asker, Status::SessionExpired, effects);
        }
        self.heard.touch(session, now.nanos);
        if pins.len() > SESSION_PINS_MAX {
            return self.refuse(now.nanos, asker, Status::TooLarge, effects);
        }
        let others = self.pins.len() - self.pins.len_of(session);
        if others + pins.len() > GROUP_PINS_MAX {
            return self.refuse_busy(asker, effects);
        }
        let since = self.next_time(now);
        self.pins.set(session, pins, now.nanos, since);
        self.answer_read(now.nanos, asker, (Status::Ok, Body::Empty), effects); // a deposed head keeps no pins (R13)
    }

    /// Closing what is closed is fine: a retry of the request must not fail.
    pub(crate) fn close_session(
        &mut self,
        now: Now,
        asker: Asker,
        session: SessionId,
        effects: &mut Effects,
    ) {
        if self.state.is_open(session) {
            if self.log_space > LogSpace::Scarce {
                return refuse_full(asker, effects);
            }
            let index = self.end_session(now, session, false, effects);
            return self.answer(now.nanos, asker, (Status::Ok, Body::Empty), index, effects);
        }
        self.answer_read(now.nanos, asker, (Status::Ok, Body::Empty), effects);
    }

    pub(crate) fn end_session(
        &mut self,
        now: Now,
        session: SessionId,
        expired: bool,
        effects: &mut Effects,
    ) -> CommitIndex {
        let index = self.log(now, Record::Close { session, expired }, effects);
        self.heard.at.remove(&session);
        self.pins.end_session(session);
        index
    }

    /// A generation above the log's closes every session that was opened before (R20).
    pub(crate) fn raise_generation(&mut self, now: Now, effects: &mut Effects) {
        let generation = self.chain.generation(&self.config);
        if self.state.generation < generation && self.may_log() {
            self.log(now, Record::Generation { generation }, effects);
            self.heard = Heard::default();
            self.pins = crate::pins::Pins::default();
        }
    }
}
