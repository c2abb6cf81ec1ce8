//! Who a chain goes on with when nobody serves (R6, R7).
//!
//! Every seed has all that was ever acked, if it lost nothing at its own restart. A store whose recovery cut the log's end may have; it seeds
//! only where all seeds are there and each of them did. A metadata group waits a while for all of them and takes the longest log, since
//! entries that nobody acked are worth having too. A chain that is one store goes on with that.

use wire::control::{ChainId, Waits};
use wire::map::{Chain, Member, ReplicaState};
use wire::planted::{Bug, planted};

use super::nodes::Presence;
use super::step::{Outcome, View, is_group, prepare};

/// What the look for a seed found.
enum Choice {
    Seed(u16),
    Wait(Waits),
}

impl View<'_> {
    /// Lets the chain go on with a seed, or says what it waits for.
    pub(super) fn seed(&self, id: ChainId, chain: &Chain, next: &mut Chain, outcome: &mut Outcome) {
        let seed = match self.choose_seed(id, chain, outcome) {
            Choice::Seed(seed) => seed,
            Choice::Wait(waits) => {
                outcome.waits.push(waits);
                return;
            }
        };
        for member in next.members.iter_mut() {
            let store = self.store(member.store);
            member.state = if member.store == seed {
                ReplicaState::Serving
            } else if store.presence != Presence::Fit {
                ReplicaState::Offline
            } else if is_group(id) || !store.follows {
                ReplicaState::Waiting
            } else {
                ReplicaState::Syncing
            };
        }
        outcome.is_lossy = self.store(seed).lacks;
        prepare(next);
        next.min_in_sync = chain.min_in_sync.min(self.min_in_sync);
        outcome.is_urgent = true;
    }

    fn choose_seed(&self, id: ChainId, chain: &Chain, outcome: &mut Outcome) -> Choice {
        let is_seed = |member: &&Member| member.is_seed || planted(Bug::ControlSeedsOutside);
        let is_there = |member: &&Member| self.store(member.store).presence == Presence::Fit;
        let is_clean = |member: &&Member| !self.store(member.store).cut || planted(Bug::ControlSeedsCut);
        let seeds = chain.members.iter().filter(is_seed);
        let present = seeds.clone().filter(is_there);
        let missing = seeds.clone().count() - present.clone().count();
        let clean = present.clone().filter(is_clean);
        if chain.members.len() == 1 {
            return present
                .map(|member| member.store)
                .next()
                .map_or_else(|| Choice::Wait(Waits::Return(chain.members[0].store_id(self))), Choice::Seed);
        }
        let log_end = |member: &&Member| self.store(member.store).log_end;
        let first = |members: &mut dyn Iterator<Item = &Member>| members.next().map(|member| member.store);
        // Of equal ones the first in the chain: what it received, its successors received after it (I5).
        let longest = |members: &mut dyn DoubleEndedIterator<Item = &Member>| {
            members.rev().max_by_key(log_end).map(|member| member.store)
        };
        let few = |count: usize| u8::try_from(count).unwrap_or(u8::MAX);
        if clean.clone().next().is_some() {
            outcome.may_seed = true;
            let waited = self.note(id).seed_since.map_or(0, |since| self.now.since(since));
            if is_group(id) && missing > 0 && waited < self.config.seed_wait {
                let left = self.config.seed_wait - waited;
                return Choice::Wait(Waits::Seeds { missing: few(missing), left });
            }
            let chosen = if is_group(id) { longest(&mut clean.clone()) } else { first(&mut clean.clone()) };
            return chosen.map_or(Choice::Wait(Waits::AnySeed), Choice::Seed);
        }
        if present.clone().next().is_none() {
            return Choice::Wait(Waits::AnySeed);
        }
        if missing > 0 {
            return Choice::Wait(Waits::CleanSeed { missing: few(missing) });
        }
        longest(&mut present.clone()).map_or(Choice::Wait(Waits::AnySeed), Choice::Seed)
    }
}

/// The store's id of a member.
trait Named {
    fn store_id(&self, view: &View<'_>) -> wire::StoreId;
}

impl Named for Member {
    fn store_id(&self, view: &View<'_>) -> wire::StoreId {
        view.map.stores[usize::from(self.store)].store
    }
}
