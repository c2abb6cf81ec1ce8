//! One pass over everything: what the next map is. At most one change is under way, so that each is planned from what is committed.

use wire::control::{ChainId, Waits};
use wire::map::{Chain, Group, Map, MapDelta, Node, Slice, Store};
use wire::{MapNumber, Nanos, NodeId, SessionId};

use super::config::{Config, HOLD_DOWN_MAX, HOLD_DOWN_MIN, REPLAN, UNHURRIED};
use super::event::{Effect, Effects, Note};
use super::nodes::Presence;
use super::step::{ChainNote, Choice, Outcome, StoreView, View};
use super::{Leader, Membership, Role, chains, group_place};

/// A change in the making: the map with what was changed in it so far.
pub(super) struct Draft<'a> {
    pub(super) map: &'a Map,
    pub(super) delta: MapDelta,
    /// Somebody waits for it.
    pub(super) is_urgent: bool,
    /// Stores whose process was started anew, by place: the change says so. And whether the new life lacks something (R8).
    pub(super) restarted: Vec<(u16, bool)>,
}

impl<'a> Draft<'a> {
    pub(super) fn new(map: &'a Map) -> Self {
        Self { map, delta: MapDelta::after(map), is_urgent: false, restarted: Vec::new() }
    }

    /// The number of the map that it leads to.
    pub(super) fn number(&self) -> MapNumber {
        self.delta.number
    }

    pub(super) fn is_empty(&self) -> bool {
        self.delta.is_empty() && self.delta.settings == self.map.settings
    }

    pub(super) fn store(&self, place: u16) -> Option<&Store> {
        self.delta.stores.get(&place).or_else(|| self.map.stores.get(usize::from(place)))
    }

    /// The place of the next new store; `None`: the map is full.
    pub(super) fn next_place(&self) -> Option<u16> {
        let added = self.delta.stores.range(u16::try_from(self.map.stores.len()).ok()?..).count();
        u16::try_from(self.map.stores.len() + added).ok()
    }

    pub(super) fn node(&self, node: NodeId) -> Option<&Node> {
        let known = |place: usize| &self.map.nodes[place];
        let place = self.map.nodes.binary_search_by_key(&node, |known| known.node).ok();
        self.delta.nodes.get(&node).or_else(|| place.map(known))
    }

    pub(super) fn nodes(&self) -> impl Iterator<Item = &Node> {
        let unchanged = self.map.nodes.iter().filter(|node| !self.delta.nodes.contains_key(&node.node));
        let unchanged = unchanged.filter(|node| !self.delta.removed_nodes.contains(&node.node));
        unchanged.chain(self.delta.nodes.values())
    }

    pub(super) fn stores(&self) -> impl Iterator<Item = (u16, &Store)> {
        let known = (0_u16..=u16::MAX).zip(&self.map.stores);
        let unchanged = known.filter(|(place, _)| !self.delta.stores.contains_key(place));
        unchanged.chain(self.delta.stores.iter().map(|(place, store)| (*place, store)))
    }

    /// What was acked may be gone: whoever still means to commit a slice's chunks has to write them again (R8); of a group all sessions end, whose ids would be given
    /// out again (R20). The chain is in the change.
    fn stamp_loss(&mut self, id: ChainId) {
        let number = self.number();
        match id {
            ChainId::Slice(slice) => {
                if let Some(record) = self.delta.slices.get_mut(&slice) {
                    record.loss_map_number = number;
                }
            }
            ChainId::Group(group) => {
                if let Some(record) = self.delta.groups.get_mut(&group) {
                    record.generation += 1;
                }
            }
        }
    }

    /// A group that has no generation left can't tell its sessions from those that it lost (R20): it stays down.
    fn is_used_up(&self, id: ChainId) -> bool {
        let ChainId::Group(group) = id else { return false };
        let known = group_place(self.map, group).map(|place| &self.map.groups[place]);
        known.is_some_and(|known| known.generation + 1 >= SessionId::GENERATION_COUNT)
    }

    pub(super) fn set_chain(&mut self, id: ChainId, chain: Chain) {
        match id {
            ChainId::Slice(slice) => {
                let known = self.map.slices[usize::from(slice.0)];
                let known = *self.delta.slices.get(&slice).unwrap_or(&known);
                self.delta.slices.insert(slice, Slice { chain, ..known });
            }
            ChainId::Group(group) => {
                let known = group_place(self.map, group).map(|place| &self.map.groups[place]);
                if let Some(known) = self.delta.groups.get(&group).or(known).cloned() {
                    self.delta.groups.insert(group, Group { chain, ..known });
                }
            }
        }
    }
}

/// What a look at all chains found.
#[derive(Default)]
struct Found {
    /// Of chains that change, or that the leader has to remember something of.
    outcomes: Vec<(ChainId, Outcome)>,
    is_unsettled: bool,
}

impl Membership {
    /// Plans the next change and proposes it, unless one is under way or nothing has happened.
    pub(super) fn plan(&mut self, now: Nanos, effects: &mut Effects) {
        let Self { config, map, role: Role::Leader(leader), me } = self else { return };
        let is_time = leader.replan_at.is_some_and(|at| now >= at);
        if leader.proposed.is_some() || !(leader.is_due || is_time) {
            return;
        }
        (leader.is_due, leader.replan_at) = (false, None);
        leader.links.expire(now);
        leader.say_voters(now, map.as_map(), effects);
        let mut draft = Draft::new(map.as_map());
        leader.run_commands(now, *me, *config, &mut draft, effects);
        if draft.is_empty() {
            leader.take_registrations(now, &mut draft, effects);
            leader.follow_nodes(*me, &mut draft);
            leader.step_chains(now, *config, &mut draft, effects);
        }
        leader.propose(now, draft, effects);
    }
}

impl Leader {
    fn propose(&mut self, now: Nanos, draft: Draft<'_>, effects: &mut Effects) {
        if draft.is_empty() {
            return;
        }
        let hurry = self.changed_at.after(UNHURRIED);
        if !draft.is_urgent && now < hurry {
            // Planned again then, with what has been heard until then.
            self.plan_again(hurry);
            return;
        }
        self.proposed = Some(draft.number());
        effects.push(Effect::Propose(Box::new(draft.delta)));
    }

    /// Every chain's next step, all of them in one map.
    fn step_chains(&mut self, now: Nanos, config: Config, draft: &mut Draft<'_>, effects: &mut Effects) {
        self.place_replicas(draft.map, effects);
        let stores = self.view_stores(now, draft);
        let caught_up = self.caught_up(draft.map);
        let found = Self::look_at_chains(&self.view(now, config, draft, &stores, &caught_up));
        let is_quiet = !found.is_unsettled && draft.is_empty() && self.targets.is_empty();
        for (id, outcome) in found.outcomes {
            if let Some(next) = outcome.next {
                if outcome.is_lossy && draft.is_used_up(id) {
                    continue;
                }
                draft.set_chain(id, next);
                if outcome.is_lossy {
                    draft.stamp_loss(id);
                }
                draft.is_urgent |= outcome.is_urgent;
            }
            self.remember(now, id, &outcome, effects);
        }
        if found.is_unsettled || !self.links.is_empty() || self.placement_due {
            self.plan_again(now.after(REPLAN));
        }
        if now < self.nodes.grace_ends() {
            // Whoever wasn't heard until then is gone.
            self.plan_again(self.nodes.grace_ends());
        }
        if is_quiet {
            self.notes.retain(|_, note| note.evicted.is_some() || note.held.is_some());
            self.balance_heads(now, draft);
        }
    }

    pub(super) fn view<'a>(
        &'a self,
        now: Nanos,
        config: Config,
        draft: &Draft<'a>,
        stores: &'a [StoreView],
        caught_up: &'a [(ChainId, u16)],
    ) -> View<'a> {
        let settings = draft.delta.settings;
        View {
            now,
            config,
            map: draft.map,
            stores,
            notes: &self.notes,
            synced: &self.synced,
            caught_up,
            links: &self.links,
            targets: &self.targets,
            chain_length: settings.chain_length,
            min_in_sync: settings.min_in_sync.min(settings.chain_length),
        }
    }

    fn look_at_chains(view: &View<'_>) -> Found {
        let mut found = Found::default();
        for (id, chain) in chains(view.map) {
            let outcome = view.step(id, chain);
            if outcome == Outcome::default() {
                continue;
            }
            found.is_unsettled |= outcome.is_unsettled;
            found.outcomes.push((id, outcome));
        }
        found
    }

    /// What is known of each store, by its place.
    pub(super) fn view_stores(&self, now: Nanos, draft: &Draft<'_>) -> Vec<StoreView> {
        let places = (0_u16..=u16::MAX).zip(&draft.map.stores);
        let mut stores: Vec<StoreView> = places
            .map(|(place, record)| {
                let state = self.nodes.store(place);
                let node = self.nodes.node(record.node);
                StoreView {
                    node: record.node,
                    presence: self.nodes.presence(now, draft.map, place),
                    reads: self.nodes.reads(draft.map, place),
                    follows: self.nodes.follows(record.node),
                    installed: node.map_or(MapNumber(0), |node| node.installed),
                    sealed: node.map_or(MapNumber(0), |node| node.sealed),
                    lease_until: self.nodes.lease_until(record.node),
                    cut: state.cut,
                    lacks: state.lacks,
                    log_end: state.log_end,
                }
            })
            .collect();
        for (place, lacks) in &draft.restarted {
            if let Some(store) = stores.get_mut(usize::from(*place)) {
                (store.presence, store.reads, store.lacks) = (Presence::Restarted, false, *lacks);
            }
        }
        stores
    }

    /// Waiting members that follow their group's log closely, as their nodes said last.
    pub(super) fn caught_up(&self, map: &Map) -> Vec<(ChainId, u16)> {
        let alive = self.nodes.iter().filter(|(_, node)| node.life.is_some());
        let reports =
            alive.flat_map(|(number, node)| node.caught_up.iter().map(move |report| (number, report)));
        let known = reports.filter_map(|(number, report)| {
            let place = self.nodes.place(report.store)?;
            let is_here = map.stores[usize::from(place)].node == number;
            is_here.then_some((ChainId::Group(report.group), place))
        });
        known.collect()
    }

    fn remember(&mut self, now: Nanos, id: ChainId, outcome: &Outcome, effects: &mut Effects) {
        let is_stuck =
            outcome.waits.iter().any(|waits| matches!(waits, Waits::AnySeed | Waits::CleanSeed { .. }));
        if !(outcome.may_seed || is_stuck || outcome.choice.is_some()) {
            return;
        }
        let note: &mut ChainNote = self.notes.entry(id).or_default();
        if outcome.may_seed {
            note.seed_since.get_or_insert(now);
        }
        // Right after an election nobody was heard yet.
        if is_stuck && !note.is_stuck && now >= self.nodes.grace_ends() {
            note.is_stuck = true;
            effects.note(Note::ChainStuck(id));
        }
        match outcome.choice {
            Some(Choice::Slow(place)) => {
                let hold = note.held.filter(|held| held.0 == place).map_or(0, |held| held.2);
                let hold = (hold * 2).clamp(HOLD_DOWN_MIN, HOLD_DOWN_MAX);
                note.held = Some((place, now.after(hold), hold));
                (note.evicted, note.slow) = (Some(now), None);
            }
            Some(Choice::Parted(one, other)) => {
                note.evicted = Some(now);
                self.links.hold(now, one, other);
                effects.note(Note::LinkSuspect { one, other });
            }
            Some(Choice::Reordered(one, other)) => {
                self.links.hold(now, one, other);
                effects.note(Note::LinkSuspect { one, other });
            }
            None => (),
        }
    }
}
