//! How requests end or begin again: finished, failed, out of time, tried again, thrown off a broken link.

use std::sync::Arc;

use wire::Nanos;

use super::effect::{Done, Effect, Failure, LinkNumber};
use super::link::LinkState;
use super::request::{Mutate, RequestId, State, Trouble, What};
use super::upkeep::Timer;
use super::{Context, Core};
use crate::error::UnavailableReason;

impl Core {
    /// The request is over, with this result.
    pub(super) fn finish(&mut self, cx: &mut Context<'_>, id: RequestId, result: Result<Done, Failure>) {
        self.withdraw(cx, id);
        let Some(request) = self.requests.remove(id) else { return };
        self.timers.clear(Timer::Request(id));
        if request.admitted {
            self.window_used -= request.what.window_bytes();
        } else if request.what.window_bytes() > 0 {
            // Woken in the tick of its own deadline it is ready and still in the queue.
            self.window_queue.retain(|waiting| *waiting != id);
        }
        if let Some(next) = self.window_queue.front().copied() {
            self.wake(next);
        }
        let mut result = result;
        match request.what {
            What::Put(put) => cx.memory.release(put.slot),
            What::Get(get) => {
                if let Some(slot) = get.slot {
                    cx.memory.release(slot);
                }
                if let Some(second) = get.hedge {
                    self.finish(cx, second, Err(Failure::Unknown));
                }
                if let Some(first) = get.hedge_of {
                    result = self.finish_first(cx, first, result);
                }
            }
            What::Mutate(mutate) if mutate.numbered => {
                self.note_commit(&mutate, result.as_ref());
                let session = mutate.session;
                if let Some(living) = self.sessions.get(session)
                    && living.finish(mutate.sequence)
                {
                    while let Some(next) =
                        self.sessions.get(session).and_then(|living| living.waiting.pop_front())
                    {
                        self.wake(next);
                    }
                }
                self.close_if_unused(cx, session);
            }
            What::MapPage => self.on_map_fetch_end(id),
            // Whoever still waits came after the last trouble: ask again.
            What::OpenSession { group } if self.sessions.reopen(group) && !self.is_shut => {
                self.begin(cx, None, What::OpenSession { group }, Nanos(u64::MAX));
            }
            _ => {}
        }
        match (request.ticket, result) {
            (Some(ticket), result) => cx.effects.push(Effect::Finished { ticket, result }),
            // Nobody takes the bytes.
            (None, Ok(Done::Bytes { slot, .. })) => cx.memory.release(slot),
            (None, _) => {}
        }
    }

    /// The second copy of a read is over: with bytes, the first one is, too.
    fn finish_first(
        &mut self,
        cx: &mut Context<'_>,
        first: RequestId,
        result: Result<Done, Failure>,
    ) -> Result<Done, Failure> {
        if let Some(What::Get(get)) = self.requests.get(first).map(|request| &mut request.what) {
            get.hedge = None;
            if result.is_ok() {
                self.finish(cx, first, result);
                return Err(Failure::Unknown);
            }
        }
        result
    }

    /// Takes a request back from where it waits; what was sent of it may be answered or not, nobody listens.
    pub(super) fn withdraw(&mut self, cx: &mut Context<'_>, id: RequestId) {
        let Some(request) = self.requests.get(id) else { return };
        let state = std::mem::replace(&mut request.state, State::Ready);
        let is_partial =
            matches!((state, &request.what), (State::Sending(..), What::Put(put)) if put.sent > 0);
        match state {
            State::AwaitLink(link) => {
                if let Some(link) = self.links.get(link) {
                    link.waiting.retain(|waiting| *waiting != id);
                }
            }
            State::Sending(link, correlation) | State::AwaitReply(link, correlation) => {
                if let Some(entry) = self.links.get(link) {
                    entry.in_flight.remove(&correlation);
                    entry.sending.retain(|sending| *sending != id);
                    if is_partial {
                        self.send_abort(cx, link, correlation);
                        self.pump(cx, link);
                    }
                }
            }
            State::AwaitSession | State::AwaitSequence => self.sessions.stop_waiting(id),
            State::AwaitWindow | State::Ready | State::AwaitMap | State::Backoff => {}
        }
    }

    fn note_commit(&mut self, mutate: &Mutate, result: Result<&Done, &Failure>) {
        if let Some(upload) = mutate.upload
            && mutate.has_named_chunks(result)
        {
            self.sessions.on_commit(upload);
        }
    }

    /// The request is over without success; a mutation of which a copy may have been executed is `Unknown` (R14).
    pub(super) fn fail(&mut self, cx: &mut Context<'_>, id: RequestId, failure: Failure) {
        let Some(request) = self.requests.get(id) else { return };
        let is_unknown = matches!(request.what, What::Mutate(_)) && request.copies.is_uncertain();
        self.finish(cx, id, Err(if is_unknown { Failure::Unknown } else { failure }));
    }

    /// The deadline has come.
    pub(super) fn expire(&mut self, cx: &mut Context<'_>, id: RequestId) {
        let address = self.address_of(id);
        let Some(request) = self.requests.get(id) else { return };
        let is_unanswered = matches!(request.state, State::Sending(..) | State::AwaitReply(..));
        let trouble = std::mem::replace(&mut request.trouble, Trouble::None);
        let trouble = if is_unanswered { Trouble::Silence(Arc::clone(&address)) } else { trouble };
        self.fail(cx, id, trouble.into_failure(address));
    }

    /// Tries again after a pause that grows with the number of tries, at least `pause` long.
    pub(super) fn retry(&mut self, cx: &mut Context<'_>, id: RequestId, pause: u64) {
        let Some(request) = self.requests.get(id) else { return };
        let step = request.retries;
        request.retries = request.retries.saturating_add(1);
        let backoff = self.random.backoff(BACKOFF_MIN, step, BACKOFF_MAX);
        self.back_off_until(cx, id, cx.now.after(backoff.max(pause)));
    }

    pub(super) fn back_off_until(&mut self, cx: &mut Context<'_>, id: RequestId, at: Nanos) {
        let Some(request) = self.requests.get(id) else { return };
        request.state = State::Backoff;
        let deadline = request.deadline;
        self.timers.set(Timer::Request(id), at.max(cx.now).min(deadline));
    }

    /// Whom the request waits for.
    pub(super) fn address_of(&mut self, id: RequestId) -> Arc<str> {
        let state = self.requests.get(id).map(|request| request.state);
        let Some(State::AwaitLink(link) | State::Sending(link, _) | State::AwaitReply(link, _)) = state
        else {
            return self.any_endpoint();
        };
        let address = self.links.get(link).map(|link| Arc::clone(&link.address));
        address.unwrap_or_else(|| self.any_endpoint())
    }

    /// A connection ended, or never came about.
    pub(super) fn on_link_down(&mut self, cx: &mut Context<'_>, link: LinkNumber, reason: UnavailableReason) {
        self.drop_link(cx, link, reason);
    }

    /// Closes a connection on which something went wrong.
    pub(super) fn break_link(&mut self, cx: &mut Context<'_>, link: LinkNumber, reason: UnavailableReason) {
        if self.links.get(link).is_some() {
            cx.effects.push(Effect::Close { link });
            self.drop_link(cx, link, reason);
        }
    }

    /// Closes a connection that nobody uses.
    pub(super) fn close_link(&mut self, cx: &mut Context<'_>, number: LinkNumber) {
        let link = self.links.remove(number).expect("the caller has it");
        assert!(link.is_idle(), "only an idle link is closed");
        self.timers.clear(Timer::Link(number));
        cx.effects.push(Effect::Close { link: number });
    }

    fn drop_link(&mut self, cx: &mut Context<'_>, number: LinkNumber, mut reason: UnavailableReason) {
        let Some(link) = self.links.remove(number) else { return };
        self.timers.clear(Timer::Link(number));
        if link.state != LinkState::Ready || reason == UnavailableReason::Protocol {
            let failures;
            (failures, reason) = self.links.count_failure(&link.address, reason);
            let pause = self.random.backoff(REOPEN_MIN, failures - 1, REOPEN_MAX);
            self.links.pause(&link.address, cx.now.after(pause));
        }
        let trouble = Trouble::Unavailable(Arc::clone(&link.address), reason);
        // Nothing that waiting could mend: whoever wanted this address is told.
        let is_hopeless = matches!(
            reason,
            UnavailableReason::Version
                | UnavailableReason::OtherVersion { .. }
                | UnavailableReason::WrongCluster
        );
        for id in link.waiting {
            self.note_trouble(id, trouble.clone());
            let is_map_page = self.next_if_map_page(id);
            if is_hopeless && !is_map_page && !self.is_own(id) {
                self.requests.get(id).expect("it was waiting").state = State::Ready;
                self.fail(cx, id, Failure::Unavailable { address: Arc::clone(&link.address), reason });
            } else {
                self.retry(cx, id, 0);
            }
        }
        for id in link.in_flight.into_values() {
            let Some(request) = self.requests.get(id) else { continue };
            if let What::Get(get) = &mut request.what
                && let Some(slot) = get.slot.take()
            {
                cx.memory.release(slot);
            }
            self.note_trouble(id, trouble.clone());
            self.next_if_map_page(id);
            self.retry(cx, id, 0);
        }
        // Whoever was there may have moved.
        if self.map().is_some() {
            self.refresh_map(cx);
        }
    }

    fn is_own(&mut self, id: RequestId) -> bool {
        self.requests.get(id).is_some_and(|request| request.ticket.is_none())
    }
}

/// Pause before the second try; doubled with each further one.
const BACKOFF_MIN: u64 = 10 * Nanos::MILLISECOND;
/// The longest pause between tries.
const BACKOFF_MAX: u64 = Nanos::SECOND;
/// Pause before a second connection to an address that didn't answer; doubled with each further one.
const REOPEN_MIN: u64 = 20 * Nanos::MILLISECOND;
/// The longest pause between connections.
const REOPEN_MAX: u64 = 2 * Nanos::SECOND;
