//! What an active chain with serving members would like to be otherwise: nothing here is forced, nothing makes it ack less safely.
//!
//! In one new epoch: members that wait come in, planned ones that are replaced go, those that slow the chain or can't reach a neighbour go for
//! a while, and `min_in_sync` follows the setting. Evictions by choice never take a chain below `min_in_sync` (R6).

use wire::control::{ChainId, Waits};
use wire::map::{Chain, Member, Members, ReplicaState};

use super::config::EVICTION_INTERVAL;
use super::nodes::Presence;
use super::step::{Choice, Outcome, View, is_group, joiners_behind, prepare};

impl View<'_> {
    /// The step, if there is one to take.
    pub(super) fn wishes(&self, id: ChainId, chain: &Chain, next: &mut Chain, outcome: &mut Outcome) {
        self.arrive(id, next, outcome);
        let listed = *next;
        self.put_slow_back(id, next, outcome);
        self.leave(id, next);
        self.part(id, next, outcome);
        if outcome.choice.is_none() {
            self.let_in(id, chain, next, outcome);
        }
        self.follow_setting(next);
        let is_new_epoch =
            !next.ackers().map(|member| member.store).eq(chain.ackers().map(|member| member.store))
                || next.min_in_sync != chain.min_in_sync;
        if is_new_epoch {
            prepare(next);
            return;
        }
        *next = listed;
        self.drop_left(id, next);
        self.say_what_is_missing(id, chain, outcome);
    }

    /// Members that belong here are listed, once they are there.
    fn arrive(&self, id: ChainId, next: &mut Chain, outcome: &mut Outcome) {
        for store in self.targets.get(&id).into_iter().flatten() {
            if next.member(*store).is_some() {
                continue;
            }
            if self.store(*store).presence == Presence::Fit {
                next.members.push(Member { store: *store, state: ReplicaState::Waiting, is_seed: false });
            } else {
                outcome.waits.push(Waits::Return(self.map.stores[usize::from(*store)].store));
            }
        }
    }

    /// Whether everybody serves who belongs here.
    fn is_complete(&self, id: ChainId, next: &Chain) -> Option<&Vec<u16>> {
        let target = self.targets.get(&id)?;
        let serves =
            |store: &u16| next.member(*store).is_some_and(|member| member.state == ReplicaState::Serving);
        (target.iter().all(serves) && target.len() >= usize::from(next.min_in_sync)).then_some(target)
    }

    /// Who doesn't belong here any more acks no more, once the others serve.
    fn leave(&self, id: ChainId, next: &mut Chain) {
        let Some(target) = self.is_complete(id, next).cloned() else { return };
        for member in next.members.iter_mut() {
            if member.state.acks() && !target.contains(&member.store) {
                member.state = ReplicaState::Offline;
            }
        }
    }

    /// And is taken from the list when it isn't needed as a seed.
    fn drop_left(&self, id: ChainId, next: &mut Chain) {
        let Some(target) = self.is_complete(id, next).cloned() else { return };
        next.members.retain(|member| target.contains(&member.store) || member.state.acks() || member.is_seed);
    }

    fn may_evict(&self, id: ChainId) -> bool {
        self.note(id).evicted.is_none_or(|at| self.now >= at.after(EVICTION_INTERVAL))
    }

    /// A member that slows the chain down while it syncs waits again (R11).
    fn put_slow_back(&self, id: ChainId, next: &mut Chain, outcome: &mut Outcome) {
        let Some((epoch, slow)) = self.note(id).slow else { return };
        if epoch != next.epoch || !self.may_evict(id) {
            return;
        }
        let syncs = |member: &&mut Member| member.store == slow && member.state == ReplicaState::Syncing;
        if let Some(member) = next.members.iter_mut().find(syncs) {
            member.state = ReplicaState::Waiting;
            outcome.choice = Some(Choice::Slow(slow));
        }
    }

    /// Two neighbours that don't reach each other: another order, if there is one; else one of them goes for a while.
    fn part(&self, id: ChainId, next: &mut Chain, outcome: &mut Outcome) {
        if self.links.is_empty() || outcome.choice.is_some() {
            return;
        }
        let node = |place: u16| self.store(place).node;
        let bad = |a: u16, b: u16| self.links.is_suspect(self.now, node(a), node(b));
        let Some((one, other)) = neighbours(&next.members).find(|(a, b)| bad(*a, *b)) else { return };
        let apart = |a: u16, b: u16| self.links.apart_until(self.now, node(a), node(b)).is_some();
        if let Some(members) = order_without(&next.members, apart) {
            next.members = members;
            outcome.choice = Some(Choice::Reordered(node(one), node(other)));
            return;
        }
        let suspicion = |place: u16| self.links.suspected_by(self.now, node(place));
        let victim = if suspicion(one) > suspicion(other) { one } else { other };
        let serving = next.serving().filter(|member| member.store != victim).count();
        let is_enough = |member: &Member| {
            member.state == ReplicaState::Syncing || serving >= usize::from(next.min_in_sync)
        };
        let may = next.member(victim).is_some_and(is_enough) && serving > 0 && self.may_evict(id);
        if !may {
            return;
        }
        if let Some(member) = next.members.iter_mut().find(|member| member.store == victim) {
            member.state = ReplicaState::Waiting;
            outcome.choice = Some(Choice::Parted(node(one), node(other)));
        }
    }

    /// Members that wait come in: of slices at once, of groups when they follow the log closely (R11).
    fn let_in(&self, id: ChainId, chain: &Chain, next: &mut Chain, outcome: &mut Outcome) {
        for place in 0..next.members.len() {
            let member = next.members[place];
            // Who was just listed comes in with a later map: that one it follows.
            let is_new = chain.member(member.store).is_none();
            // Who has left isn't let in again.
            let has_left = self.is_complete(id, next).is_some_and(|target| !target.contains(&member.store));
            if is_new
                || has_left
                || member.state != ReplicaState::Waiting
                || !self.may_sync(id, member.store, outcome)
            {
                continue;
            }
            let mut with = *next;
            with.members[place].state = ReplicaState::Syncing;
            let node = |store: u16| self.store(store).node;
            let apart = |a: u16, b: u16| self.links.apart_until(self.now, node(a), node(b));
            let order = joiners_behind(&with.members);
            // Two others that don't reach each other need it between them, once it serves.
            let is_its = |(a, b): &(u16, u16)| *a == member.store || *b == member.store;
            let bad = neighbours(&order).filter(is_its).find_map(|(a, b)| apart(a, b));
            if let Some(until) = bad {
                let Some(members) = order_without(&order, |a, b| apart(a, b).is_some()) else {
                    let store = self.map.stores[usize::from(member.store)].store;
                    outcome.waits.push(Waits::HoldDown { store, left: until.since(self.now) });
                    continue;
                };
                with.members = members;
            }
            *next = with;
            if bad.is_some() {
                // Places have moved: the others come in with the next epoch.
                return;
            }
        }
    }

    fn may_sync(&self, id: ChainId, place: u16, outcome: &mut Outcome) -> bool {
        let store = self.store(place);
        let name = self.map.stores[usize::from(place)].store;
        if store.presence != Presence::Fit {
            return false;
        }
        if let Some((held, until, _)) = self.note(id).held
            && held == place
            && self.now < until
        {
            outcome.waits.push(Waits::HoldDown { store: name, left: until.since(self.now) });
            return false;
        }
        if !store.follows {
            let number = self.map.number;
            outcome.waits.push(Waits::Promise { node: store.node, number });
            return false;
        }
        if is_group(id) && !self.caught_up.contains(&(id, place)) {
            outcome.waits.push(Waits::CatchUp(name));
            return false;
        }
        true
    }

    /// `min_in_sync` follows the setting: down at once, up when so many serve.
    fn follow_setting(&self, next: &mut Chain) {
        let serving = next.serving().count();
        if self.min_in_sync < next.min_in_sync
            || (self.min_in_sync > next.min_in_sync && serving >= usize::from(self.min_in_sync))
        {
            next.min_in_sync = self.min_in_sync;
        }
    }

    fn say_what_is_missing(&self, id: ChainId, chain: &Chain, outcome: &mut Outcome) {
        let name = |member: &Member| self.map.stores[usize::from(member.store)].store;
        for member in &chain.members {
            match member.state {
                ReplicaState::Syncing => outcome.waits.push(Waits::Sync(name(member))),
                ReplicaState::Offline => outcome.waits.push(Waits::Return(name(member))),
                ReplicaState::Serving | ReplicaState::Waiting | ReplicaState::LastServing => (),
            }
        }
        let is_short = !is_group(id) && chain.members.len() < usize::from(self.chain_length);
        if is_short && outcome.waits.is_empty() {
            outcome.waits.push(Waits::MoreNodes);
        }
    }
}

/// Pairs that talk to each other in a chain: ackers beside one another.
fn neighbours(members: &Members) -> impl Iterator<Item = (u16, u16)> {
    let ackers = members.iter().filter(|member| member.state.acks()).map(|member| member.store);
    ackers.clone().zip(ackers.skip(1))
}

/// The members in an order in which no two neighbours are `apart` and joiners are behind, one of them moved; `None`: there is none.
fn order_without(members: &Members, apart: impl Fn(u16, u16) -> bool) -> Option<Members> {
    let is_good = |members: &Members| {
        joiners_behind(members) == *members && !neighbours(members).any(|(a, b)| apart(a, b))
    };
    let count = members.len();
    let moves = (0..count).flat_map(|from| (0..count).map(move |to| (from, to)));
    moves
        .map(|(from, to)| {
            let mut all = members.to_vec();
            let member = all.remove(from);
            all.insert(to, member);
            all.into_iter().collect::<Members>()
        })
        .find(is_good)
}
