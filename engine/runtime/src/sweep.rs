//! What took too long: half frames, slow payloads, slow readers, silence. Looked for about once a second.

use wire::Nanos;

use crate::driver::Driver;
use crate::io::Io;
use crate::link::{Phase, State};
use crate::service::{CloseReason, Service};

/// How often links are looked at for what took too long.
const SWEEP_INTERVAL: u64 = Nanos::SECOND;

impl<S: Service> Driver<S> {
    /// Looks for links on which something took too long, and for listeners that stopped accepting.
    pub(crate) fn sweep(&mut self) {
        let now = self.io.now;
        let limits = self.io.limits;
        let shortest = limits
            .head_timeout
            .min(limits.hello_timeout)
            .min(limits.connect_timeout)
            .min(limits.idle_timeout.unwrap_or(u64::MAX));
        self.sweep_at = now.after(SWEEP_INTERVAL.min(shortest / 4 + 1));
        for index in 0..self.io.links.places() {
            if let Some(reason) = self.io.overdue(index) {
                self.io.counters.timeouts += 1;
                self.io.abort(index, reason);
            }
        }
        for listener in 0..self.io.listeners.len() {
            self.io.arm_accept(listener);
        }
    }
}

impl Io {
    /// Why a link has to be closed now, if it has.
    fn overdue(&mut self, index: u32) -> Option<CloseReason> {
        let (now, limits) = (self.now, self.limits);
        let link = self.links.at(index);
        let past = |since: Nanos, limit: u64| now.since(since) > limit;
        match link.state {
            State::Free | State::Closing { .. } => return None,
            State::Connecting => {
                let late = past(link.opened, limits.connect_timeout);
                return late.then_some(CloseReason::Refused { errno: libc::ETIMEDOUT });
            }
            State::Draining { reason, until } => return (until <= now).then_some(reason),
            State::Open => {}
        }
        if link.sending && past(link.send_since, limits.transfer_time(link.send_bytes)) {
            return Some(CloseReason::SlowReader);
        }
        if link.paused || link.held {
            return None;
        }
        match link.phase {
            Phase::Into { total, .. } | Phase::Discard { total, .. }
                if past(link.frame_since, limits.transfer_time(total as usize)) =>
            {
                return Some(CloseReason::SlowPayload);
            }
            Phase::Head if !link.stash.is_empty() => {
                let bytes = link.stash.len();
                if past(link.frame_since, limits.transfer_time(bytes)) {
                    return Some(CloseReason::HeadTimeout);
                }
            }
            _ => {}
        }
        if link.accepted && !link.greeted && past(link.opened, limits.hello_timeout) {
            return Some(CloseReason::HelloTimeout);
        }
        let idle = limits.idle_timeout?;
        (past(link.active, idle) && link.outbox.is_empty()).then_some(CloseReason::Idle)
    }
}
