//! What takes too long: silent connections, slow reads, requests whose way has changed.
//!
//! A node that dies without a word, or stands still, holds whatever was asked of it. Three things keep its users going:
//! - **Silence.** A connection with something under way that says nothing for [`SILENCE`] makes the core ask others for the map, as does a request that pauses
//!   because its way is gone.
//! - **A new map** takes requests back from replicas that don't serve them any more, and sends them where they belong ([`Core::reroute`]).
//! - **Hedges.** A read that takes far longer than reads do goes to a second replica as well; the first genuine answer is taken. They are paid
//!   from a budget, one for [`READS_PER_HEDGE`] reads, so that a slow cluster isn't asked twice as much (Dean and Barroso, "The Tail at
//!   Scale", 2013).

use std::sync::Arc;

use wire::{GroupId, Nanos};

use super::request::{Get, RequestId, State, What};
use super::route::Way;
use super::upkeep::Timer;
use super::{Context, Core};

/// A connection that owes answers and says nothing for so long: the map may have changed.
const SILENCE: u64 = Nanos::SECOND;
/// While reads are under way that a second replica could answer, they are looked at this often.
const HEDGE_INTERVAL: u64 = 10 * Nanos::MILLISECOND;
/// No read is called slow before this: a disk may be busy for a while.
const HEDGE_MIN: u64 = 30 * Nanos::MILLISECOND;
/// And every one is after this.
const HEDGE_MAX: u64 = Nanos::SECOND;
/// One read in so many may be asked for twice.
const READS_PER_HEDGE: u64 = 20;
/// Hedges that may be saved up.
const HEDGES_MAX: u64 = 16;

/// How long reads take, and what may be spent on slow ones.
#[derive(Debug, Default)]
pub(super) struct Watch {
    is_armed: bool,
    /// Smoothed time of reads, and its mean deviation, as TCP estimates round trips (RFC 6298).
    read_time: u64,
    deviation: u64,
    /// Reads paid in, less those taken out.
    savings: u64,
    /// Copies of reads sent to a second replica.
    pub(super) hedges: u64,
}

impl Watch {
    /// A read took so long.
    pub(super) fn note_read(&mut self, nanoseconds: u64) {
        self.savings = (self.savings + 1).min(HEDGES_MAX * READS_PER_HEDGE);
        if self.read_time == 0 {
            (self.read_time, self.deviation) = (nanoseconds, nanoseconds / 2);
            return;
        }
        let off = self.read_time.abs_diff(nanoseconds);
        self.deviation = self.deviation - self.deviation / 4 + off / 4;
        self.read_time = self.read_time - self.read_time / 8 + nanoseconds / 8;
    }

    /// After this a read is called slow.
    fn patience(&self) -> u64 {
        if self.read_time == 0 {
            return HEDGE_MAX;
        }
        (self.read_time + 4 * self.deviation).clamp(HEDGE_MIN, HEDGE_MAX)
    }

    fn pay(&mut self) -> bool {
        let can_pay = self.savings >= READS_PER_HEDGE;
        self.savings -= if can_pay { READS_PER_HEDGE } else { 0 };
        can_pay
    }
}

impl Core {
    /// Something was sent: as long as it has no answer, somebody looks.
    pub(super) fn watch(&mut self, now: Nanos) {
        if !std::mem::replace(&mut self.watch.is_armed, true) {
            let interval = self.watch_interval();
            self.timers.set(Timer::Watch, now.after(interval));
        }
    }

    fn watch_interval(&self) -> u64 {
        let has_choice = self.map().is_some_and(|map| map.is_redundant());
        if has_choice { HEDGE_INTERVAL } else { SILENCE }
    }

    pub(super) fn on_watch(&mut self, cx: &mut Context<'_>) {
        self.watch.is_armed = false;
        if self.requests.len() == 0 {
            return;
        }
        self.watch(cx.now);
        // Where others may take over, whoever waits for a way that is gone asks for the new one, however long the pause between its tries has become.
        let is_redundant = self.map().is_some_and(|map| map.is_redundant());
        let is_astray = is_redundant && self.requests.any_astray();
        if (is_astray || self.links.any_silent(cx.now, SILENCE)) && self.map().is_some() {
            self.refresh_map(cx);
        }
        let patience = self.watch.patience();
        for id in self.requests.slow_gets(cx.now, patience) {
            // One whose time is over, too, as after a pause, isn't asked for again.
            if self.requests.get(id).is_none_or(|request| request.deadline <= cx.now) {
                continue;
            }
            if !self.watch.pay() {
                break;
            }
            self.hedge(cx, id);
        }
    }

    /// Asks another replica for the same bytes.
    fn hedge(&mut self, cx: &mut Context<'_>, id: RequestId) {
        let Some(request) = self.requests.get(id) else { return };
        let (deadline, What::Get(get)) = (request.deadline, &mut request.what) else { return };
        let mut second = Get::new(get.call.clone());
        second.failed.clone_from(&get.failed);
        second.failed.extend(get.asked.clone());
        second.hedge_of = Some(id);
        let second = self.begin(cx, None, What::Get(second), deadline);
        self.watch.hedges += 1;
        if let Some(What::Get(get)) = self.requests.get(id).map(|request| &mut request.what) {
            get.hedge = Some(second);
        }
    }

    /// The map is a new one: whatever waits for a replica that isn't to be asked any more goes to the one that is. A mutation keeps its
    /// number (I7), and its copy that was sent remains one of which nobody knows (R14).
    pub(super) fn reroute(&mut self, cx: &mut Context<'_>) {
        let Some(map) = self.map() else { return };
        if std::mem::take(&mut self.watch.is_armed) {
            self.watch(cx.now); // there may be a choice now, or none any more
        }
        for id in self.requests.all() {
            let Some(request) = self.requests.get(id) else { continue };
            match request.state {
                // It may have waited for just this map.
                State::Backoff if request.trouble.is_about_the_way() => {
                    self.wake(id);
                    continue;
                }
                State::AwaitLink(_) | State::Sending(..) | State::AwaitReply(..) => {}
                _ => continue,
            }
            let Some(way) = request.what.way() else { continue };
            let address = self.address_of(id);
            let serves = |address: &Arc<str>| match way {
                Way::Head(chunk) => map.route(chunk).head().is_some_and(|store| *store.address == **address),
                Way::Reader(chunk) => map.route(chunk).readers().any(|store| *store.address == **address),
                Way::GroupHead(group) => is_end(&map, group, address, true),
                Way::GroupTail(group) => is_end(&map, group, address, false),
            };
            if !serves(&address) {
                self.withdraw(cx, id);
                self.wake(id);
            }
        }
    }
}

fn is_end(map: &placement::ClusterMap, group: GroupId, address: &Arc<str>, head: bool) -> bool {
    let mut members = map.group_members(group);
    let end = if head { members.next() } else { members.next_back() };
    end.is_some_and(|store| *store.address == **address)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_slow_follows_what_is_usual() {
        let mut watch = Watch::default();
        assert_eq!(watch.patience(), HEDGE_MAX, "nothing is known");
        for _ in 0..100 {
            watch.note_read(2 * Nanos::MILLISECOND);
        }
        assert_eq!(watch.patience(), HEDGE_MIN);
        for _ in 0..100 {
            watch.note_read(100 * Nanos::MILLISECOND);
        }
        let patience = watch.patience();
        assert!((90..300).contains(&(patience / Nanos::MILLISECOND)), "{patience}");
        for _ in 0..100 {
            watch.note_read(5 * Nanos::SECOND);
        }
        assert_eq!(watch.patience(), HEDGE_MAX);
    }

    #[test]
    fn one_read_in_twenty_may_be_asked_for_twice() {
        let mut watch = Watch::default();
        assert!(!watch.pay(), "nothing was saved");
        (0..19).for_each(|_| watch.note_read(1));
        assert!(!watch.pay());
        watch.note_read(1);
        assert!(watch.pay() && !watch.pay());
        (0..100_000).for_each(|_| watch.note_read(1));
        assert_eq!((0..100).filter(|_| watch.pay()).count() as u64, HEDGES_MAX);
    }
}
