//! Which maps may follow which. Every voter checks every change, so that no leader's error becomes a map.
//!
//! # One chain's steps
//!
//! ```text
//!            epoch+1, Prepared: other ackers, another order, another min_in_sync
//!         ┌──────────────────────────────────────────────────┐
//!   Active(e) ── Syncing → Serving; who acks nothing comes and goes ── Active(e)
//!         │  epoch+1                                         │ ACTIVATE: promises are in (R5), seeds are replaced (R6),
//!         ▼                                                  │           who was removed is dropped from the list
//!   Prepared(e+1) ──────────────────────────────────► Active(e+1)
//!         └─ epoch+1 again: a promise didn't come ─► Prepared(e+2)
//! ```
//! # Why Syncing → Serving keeps the epoch
//!
//! The set that acks doesn't change, so no promise is needed: an ack needs the same durable copies before and after. Who counts changes:
//! `min_in_sync` counts Serving members only. Somebody who still follows the older map counts fewer of them and acks less; whoever acks by
//! the newer map does so with the durability of all ackers, the new Serving one included. Where the epoch can ack only by the newer map, seeds
//! are replaced in that very change: no ack precedes it, so whoever loses the mark has lost nothing that was acked without him being there.
//! A report is good for the epoch in which the member synced alone: in a later one it may have missed what an earlier epoch acked while it
//! wasn't an acker (`step.rs:synced`).
//!
//! # Seeds (R6)
//!
//! *Every seed has everything that was ever acked.* ACTIVATE of an epoch that can ack makes the Serving members the seeds; of a metadata group
//! that of any epoch, since its tail serves what nobody acked. Nothing else takes the mark away but an operator. An epoch change alone never
//! does: until ACTIVATE nothing is acked without the old ones.

use placement::{ClusterMap, MapError};
use thiserror::Error;
use wire::control::ChainId;
use wire::map::{Chain, Map, MapDelta, Member, Phase, ReplicaState, Standing, Store};
use wire::planted::{Bug, planted};
use wire::{Epoch, GroupId, MapNumber, NodeId, SliceIndex};

use super::step::joiners_behind;

/// Why a change isn't applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Refused {
    /// It starts from another map, or what it leads to can't be a map: whoever proposed it plans again.
    #[error(transparent)]
    Map(#[from] MapError),
    /// Maps are numbered without gaps.
    #[error("map {number} can't follow map {base}")]
    Number {
        /// Where it starts.
        base: MapNumber,
        /// Where it leads.
        number: MapNumber,
    },
    /// A store's record changed in what never does.
    #[error("store number {place} can't change like that")]
    Store {
        /// Its place in the list.
        place: u16,
    },
    /// A node went that has stores, or took another's number.
    #[error("node {0} can't change like that")]
    Node(NodeId),
    /// A group vanished, or its generation jumped.
    #[error("group {0} can't change like that")]
    Group(GroupId),
    /// A loss stamp that isn't this map's.
    #[error("slice {0} can't be stamped like that")]
    Stamp(SliceIndex),
    /// A chain's step breaks a rule.
    #[error("{chain:?} breaks a rule: {rule:?}")]
    Chain {
        /// Which.
        chain: ChainId,
        /// What.
        rule: Rule,
    },
}

/// What a chain's step breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Rule {
    /// The epoch falls, or jumps without an accepted loss.
    Epoch,
    /// A new epoch is prepared first (R5).
    Phase,
    /// The ackers or their order changed within an epoch.
    Ackers,
    /// `min_in_sync` changed within an epoch, or fell below the setting (R6).
    MinInSync,
    /// A member serves that didn't, nor has synced in this epoch.
    Serving,
    /// A member acks that wasn't listed.
    Unlisted,
    /// A chain without a serving member goes on with one that isn't a seed, or with several (R6).
    Seed,
    /// The marks of seeds aren't what they have to be (R6).
    Marks,
    /// Somebody left who may still ack, or who may have to seed.
    Left,
    /// Nobody serves, or is known as the last that did.
    Nobody,
    /// A member that syncs stands before one that serves: what the head hands on wouldn't reach it (R2).
    Order,
}

/// The map that the change leads to, if it may. The same on every voter.
pub fn apply(map: &ClusterMap, delta: &MapDelta) -> Result<ClusterMap, Refused> {
    if delta.number.0 != delta.base.0 + 1 {
        return Err(Refused::Number { base: delta.base, number: delta.number });
    }
    let next = map.with(delta)?;
    let (old, new) = (map.as_map(), next.as_map());
    check_stores(old, new, delta)?;
    check_nodes(old, new, delta)?;
    for slice in delta.slices.keys() {
        check_slice(old, new, *slice)?;
    }
    for group in delta.groups.keys() {
        check_group(old, new, *group)?;
    }
    Ok(next)
}

fn check_stores(old: &Map, new: &Map, delta: &MapDelta) -> Result<(), Refused> {
    for place in delta.stores.keys() {
        let record = &new.stores[usize::from(*place)];
        let fits = match old.stores.get(usize::from(*place)) {
            None => record.standing == Standing::Member,
            Some(known) => may_become(known, record),
        };
        if !fits {
            return Err(Refused::Store { place: *place });
        }
    }
    Ok(())
}

/// Stores are themselves for ever; lives only grow (I4, R34), and nobody comes back who was put out (R8).
fn may_become(known: &Store, record: &Store) -> bool {
    let same = (known.store, known.node, known.unit) == (record.store, record.node, record.unit);
    let lives = record.incarnation >= known.incarnation || planted(Bug::ControlIgnoresIncarnation);
    same && lives && (known.standing == record.standing || known.standing == Standing::Member)
}

fn check_nodes(old: &Map, new: &Map, delta: &MapDelta) -> Result<(), Refused> {
    for node in delta.nodes.keys() {
        let is_known = old.nodes.iter().any(|known| known.node == *node);
        // A number that any store ever stood on isn't given again.
        let was_used = old.stores.iter().any(|store| store.node == *node);
        if !is_known && was_used {
            return Err(Refused::Node(*node));
        }
    }
    let has_store = |node: &&NodeId| {
        new.stores.iter().any(|store| store.node == **node && store.standing == Standing::Member)
    };
    match delta.removed_nodes.iter().find(has_store) {
        Some(node) => Err(Refused::Node(*node)),
        None => Ok(()),
    }
}

fn check_slice(old: &Map, new: &Map, slice: SliceIndex) -> Result<(), Refused> {
    let place = usize::from(slice.0);
    let (before, after) = (&old.slices[place], &new.slices[place]);
    let is_stamped = after.loss_map_number != before.loss_map_number;
    if is_stamped && after.loss_map_number != new.number {
        return Err(Refused::Stamp(slice));
    }
    let step = Step { old: &before.chain, new: &after.chain, is_group: false, is_loss: is_stamped, map: new };
    step.check().map_err(|rule| Refused::Chain { chain: ChainId::Slice(slice), rule })
}

fn check_group(old: &Map, new: &Map, group: GroupId) -> Result<(), Refused> {
    let find = |map: &Map| map.groups.binary_search_by_key(&group, |known| known.group).ok();
    let Some(after) = find(new).map(|place| &new.groups[place]) else { return Err(Refused::Group(group)) };
    // A new group is empty: whatever chain `placement` finds valid will do.
    let Some(before) = find(old).map(|place| &old.groups[place]) else { return Ok(()) };
    let rise = after.generation.checked_sub(before.generation);
    let is_loss = match rise {
        Some(0) => false,
        Some(1) => true, // R20
        _ => return Err(Refused::Group(group)),
    };
    let step = Step { old: &before.chain, new: &after.chain, is_group: true, is_loss, map: new };
    step.check().map_err(|rule| Refused::Chain { chain: ChainId::Group(group), rule })
}

/// One chain's step.
struct Step<'a> {
    old: &'a Chain,
    new: &'a Chain,
    is_group: bool,
    /// An operator has accepted the loss of what the chain can't supply (R8).
    is_loss: bool,
    map: &'a Map,
}

/// What happens to the marks of seeds.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Marks {
    /// They stay; who comes to serve gets one.
    Kept,
    /// The serving members have them, nobody else.
    Replaced,
}

impl Step<'_> {
    fn check(&self) -> Result<(), Rule> {
        let (old, new) = (self.old, self.new);
        // A chain is stamped, too, where its seed lacks something: that step is one as any other.
        if self.is_loss
            && old.serving().next().is_none()
            && new.epoch > old.epoch
            && self.check_loss().is_ok()
        {
            return Ok(());
        }
        if new.epoch == old.epoch {
            self.check_within()?;
        } else if new.epoch == Epoch(old.epoch.0 + 1) {
            self.check_next()?;
        } else {
            return Err(Rule::Epoch);
        }
        self.check_left()?;
        self.check_marks()?;
        self.check_nobody()
    }

    /// Nothing changes about who acks.
    fn check_within(&self) -> Result<(), Rule> {
        let (old, new) = (self.old, self.new);
        let activates = old.phase == Phase::Prepared && new.phase == Phase::Active;
        if old.phase != new.phase && !activates {
            return Err(Rule::Phase);
        }
        if old.min_in_sync != new.min_in_sync {
            return Err(Rule::MinInSync);
        }
        if !old.ackers().map(|member| member.store).eq(new.ackers().map(|member| member.store)) {
            return Err(Rule::Ackers);
        }
        let may_finish = old.phase == Phase::Active && new.phase == Phase::Active;
        let fits = |(before, after): (&Member, &Member)| {
            before.state == after.state || (may_finish && after.state == ReplicaState::Serving)
        };
        if !old.ackers().zip(new.ackers()).all(fits) {
            return Err(Rule::Serving);
        }
        let is_new = |member: &&Member| old.member(member.store).is_none();
        let joins = |member: &Member| member.state == ReplicaState::Waiting;
        if new.members.iter().filter(is_new).all(joins) { Ok(()) } else { Err(Rule::Unlisted) }
    }

    /// A new epoch: it acks nothing yet.
    fn check_next(&self) -> Result<(), Rule> {
        let (old, new) = (self.old, self.new);
        if new.phase != Phase::Prepared {
            return Err(Rule::Phase);
        }
        if joiners_behind(&new.members) != new.members {
            return Err(Rule::Order);
        }
        let floor = self.map.settings.min_in_sync.min(self.map.settings.chain_length);
        if new.min_in_sync == 0 || new.min_in_sync < old.min_in_sync.min(floor) {
            return Err(Rule::MinInSync);
        }
        let is_new = |member: &&Member| old.member(member.store).is_none();
        if new.members.iter().filter(is_new).any(|member| member.state != ReplicaState::Waiting) {
            return Err(Rule::Unlisted);
        }
        if old.serving().next().is_some() {
            let served = |member: &Member| {
                old.member(member.store).is_some_and(|before| before.state == ReplicaState::Serving)
            };
            return if new.serving().all(served) { Ok(()) } else { Err(Rule::Serving) };
        }
        let mut serving = new.serving();
        let seed = serving.next();
        let may = |member: &Member| {
            let was_seed = old.member(member.store).is_some_and(|before| before.is_seed);
            was_seed || planted(Bug::ControlSeedsOutside) // R6
        };
        if seed.is_none_or(may) && serving.next().is_none() { Ok(()) } else { Err(Rule::Seed) }
    }

    /// A chain goes on with what an operator chose (R8).
    fn check_loss(&self) -> Result<(), Rule> {
        let (old, new) = (self.old, self.new);
        if new.phase != Phase::Prepared {
            return Err(Rule::Phase);
        }
        let is_listed = |member: &Member| old.member(member.store).is_some();
        let others = |member: &&Member| !member.state.acks();
        let fits = new.serving().count() == 1
            && new.serving().all(|member| member.is_seed && is_listed(member))
            && new.members.iter().filter(others).all(|member| !member.is_seed)
            && new.ackers().count() == 1;
        if fits { Ok(()) } else { Err(Rule::Seed) }
    }

    /// Whoever left acks nothing that counts, and isn't needed to seed.
    fn check_left(&self) -> Result<(), Rule> {
        let (old, new) = (self.old, self.new);
        let left = |member: &&Member| new.member(member.store).is_none();
        let may = |member: &Member| {
            if self.map.stores[usize::from(member.store)].standing != Standing::Member {
                // An operator's act: nobody of that store comes back.
                return true;
            }
            let is_needed = member.is_seed && self.marks() == Marks::Kept;
            new.epoch == old.epoch
                && new.phase == Phase::Active
                && !member.state.acks()
                && member.state != ReplicaState::LastServing
                && !is_needed
        };
        if old.members.iter().filter(left).all(may) { Ok(()) } else { Err(Rule::Left) }
    }

    fn marks(&self) -> Marks {
        let came = self.new.serving().any(|member| self.came_to_serve(*member));
        marks_after(self.old, self.new, came, self.is_group)
    }

    fn came_to_serve(&self, member: Member) -> bool {
        let before = self.old.member(member.store);
        member.state == ReplicaState::Serving
            && before.is_none_or(|before| before.state != ReplicaState::Serving)
    }

    fn check_marks(&self) -> Result<(), Rule> {
        let marks = self.marks();
        let is_right = |member: &Member| {
            let had = self.old.member(member.store).is_some_and(|before| before.is_seed);
            let expected = match marks {
                Marks::Replaced => member.state == ReplicaState::Serving,
                Marks::Kept => had || self.came_to_serve(*member),
            };
            member.is_seed == expected
        };
        if self.new.members.iter().all(is_right) { Ok(()) } else { Err(Rule::Marks) }
    }

    /// Somebody serves, or is known as the last that did; and somebody may seed.
    fn check_nobody(&self) -> Result<(), Rule> {
        let (old, new) = (self.old, self.new);
        let last = |member: &&Member| member.state == ReplicaState::LastServing;
        let was_last = |member: &Member| {
            old.member(member.store).is_some_and(|before| {
                matches!(before.state, ReplicaState::Serving | ReplicaState::LastServing)
            })
        };
        let serves = new.serving().next().is_some();
        let mut lasts = new.members.iter().filter(last);
        let fits =
            if serves { lasts.next().is_none() } else { lasts.clone().count() > 0 && lasts.all(was_last) };
        let has_seed = new.members.iter().any(|member| member.is_seed);
        if fits && has_seed { Ok(()) } else { Err(Rule::Nobody) }
    }
}

fn marks_after(old: &Chain, new: &Chain, came_to_serve: bool, is_group: bool) -> Marks {
    let begins = old.phase == Phase::Prepared || came_to_serve;
    let is_active = new.phase == Phase::Active && new.epoch == old.epoch;
    let counts = if is_group || planted(Bug::ControlReplacesSeedsEarly) {
        new.serving().next().is_some()
    } else if planted(Bug::ControlCountsSyncing) {
        new.ackers().count() >= usize::from(new.min_in_sync)
    } else {
        new.can_ack()
    };
    if is_active && begins && counts { Marks::Replaced } else { Marks::Kept }
}

/// Sets the marks of a chain's next step as they have to be (R6).
pub(crate) fn mark_seeds(old: &Chain, new: &mut Chain, is_group: bool) {
    let serves = |chain: &Chain, store: u16| {
        chain.member(store).is_some_and(|member| member.state == ReplicaState::Serving)
    };
    let came = new.serving().any(|member| !serves(old, member.store));
    let marks = marks_after(old, new, came, is_group);
    for member in new.members.iter_mut() {
        let before = old.member(member.store);
        let is_serving = member.state == ReplicaState::Serving;
        let served = before.is_some_and(|before| before.state == ReplicaState::Serving);
        member.is_seed = match marks {
            Marks::Replaced => is_serving,
            Marks::Kept => before.is_some_and(|before| before.is_seed) || (is_serving && !served),
        };
    }
}
