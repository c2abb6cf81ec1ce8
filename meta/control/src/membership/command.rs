//! Operators' commands. A question is answered at once; an act is a change of the map of its own, planned by itself and answered once it is
//! committed.

use std::collections::BTreeSet;

use wire::control::{Answer, ChainId, ChainLoss, Command, Done, LossScope, Refusal};
use wire::limits::ANSWER_CHAINS_MAX;
use wire::map::{Chain, Map, Member, Phase, ReplicaState, Standing};
use wire::{Epoch, Nanos, NodeId, SessionId, StoreId};

use super::config::Config;
use super::event::{Effect, Effects};
use super::nodes::Presence;
use super::plan::Draft;
use super::{Leader, chain_of, chains};

/// What is wanted of the draft.
pub(super) type Acted = Result<Done, Refusal>;

impl Leader {
    /// Answers questions, and puts the first act that changes the map into the draft.
    pub(super) fn run_commands(
        &mut self,
        now: Nanos,
        me: NodeId,
        config: Config,
        draft: &mut Draft<'_>,
        effects: &mut Effects,
    ) {
        while draft.is_empty()
            && let Some((token, command)) = self.commands.pop_front()
        {
            let answer = match self.run(now, me, config, &command, draft) {
                Ok(answer) => answer,
                Err(refusal) => {
                    *draft = Draft::new(draft.map);
                    Answer::Refused(refusal)
                }
            };
            if draft.is_empty() {
                effects.push(Effect::Answer { token, answer });
            } else {
                draft.is_urgent = true;
                self.answers.push((token, draft.number(), answer));
            }
        }
    }

    fn run(
        &self,
        now: Nanos,
        me: NodeId,
        config: Config,
        command: &Command,
        draft: &mut Draft<'_>,
    ) -> Result<Answer, Refusal> {
        let done = match command {
            Command::ReplaceNode { old, new } => self.replace_node(now, *old, *new, draft)?,
            Command::ReplaceStore { old, new } => self.replace_store(now, *old, *new, draft)?,
            Command::ForgetNode { node, force } => self.forget_node(now, *node, *force, draft)?,
            Command::AcceptDataLoss { scope, expel } => self.accept_loss(now, *scope, expel, draft)?,
            Command::SetMinInSync(count) => set_min_in_sync(*count, draft)?,
            Command::SetVoters(count) => self.set_voters(me, *count, draft)?,
            Command::OkToStop(node) => return self.ok_to_stop(draft.map, *node).map(Answer::OkToStop),
            Command::Why(subject) => return Ok(Answer::Why(self.why(now, config, draft, *subject))),
            Command::Health => return Ok(Answer::Health(self.health(now, config, draft))),
            Command::Nodes => return Ok(Answer::Nodes(self.node_statuses(now, draft.map))),
        };
        let number = if draft.is_empty() { draft.map.number } else { draft.number() };
        Ok(Answer::Done { number, done })
    }

    fn set_voters(&self, me: NodeId, count: u8, draft: &mut Draft<'_>) -> Acted {
        let nodes = draft.map.nodes.len();
        let wanted = usize::from(count);
        if !matches!(count, 1 | 3 | 5) || (count == 1 && nodes > 2) {
            return Err(Refusal::OutOfRange);
        }
        let fit =
            draft.map.nodes.iter().filter(|node| node.voter > 0 || self.nodes.follows(node.node)).count();
        if fit < wanted {
            return Err(Refusal::TooFewNodes {
                left: u32::try_from(fit).unwrap_or(u32::MAX),
                chain_length: count,
            });
        }
        let votes = |draft: &Draft<'_>| -> BTreeSet<NodeId> {
            draft.nodes().filter(|node| node.voter > 0).map(|node| node.node).collect()
        };
        let before = votes(draft);
        self.change_voters(me, wanted, draft);
        let after = votes(draft);
        if before == after && before.len() != wanted {
            return Err(Refusal::Busy);
        }
        let added = after.difference(&before).copied().collect();
        Ok(Done::VotersChanging { added, removed: before.difference(&after).copied().collect() })
    }

    /// Chains without a serving member go on with what is there (R8).
    fn accept_loss(&self, now: Nanos, scope: LossScope, expel: &[StoreId], draft: &mut Draft<'_>) -> Acted {
        let map = draft.map;
        let expelled = self.expel(now, expel, draft)?;
        let is_meant = |id: ChainId| match scope {
            LossScope::Chain(chain) => chain == id,
            LossScope::All => true,
        };
        if let LossScope::Chain(id) = scope
            && chain_of(map, id).is_none()
        {
            return Err(Refusal::ChainUnknown(id));
        }
        let mut losses = Vec::new();
        let mut nobody = None;
        for (id, chain) in chains(map) {
            let is_listed = chain.members.iter().any(|member| expelled.contains(&member.store));
            if chain.serving().next().is_some() || !is_meant(id) {
                if is_listed {
                    drop_listed(id, chain, &expelled, draft)?;
                }
                continue;
            }
            let Some(seed) = self.best_present(now, map, chain, &expelled) else {
                nobody.get_or_insert(id);
                if is_listed {
                    drop_listed(id, chain, &expelled, draft)?;
                }
                continue;
            };
            self.go_on_with(now, id, chain, seed, &expelled, draft)?;
            losses.push(ChainLoss { chain: id, seed: map.stores[usize::from(seed)].store });
        }
        if losses.is_empty() && expelled.is_empty() {
            return Err(nobody.map_or(Refusal::NothingLost, Refusal::NobodyPresent));
        }
        losses.truncate(ANSWER_CHAINS_MAX);
        Ok(Done::LossAccepted { chains: losses, expelled: expel.to_vec() })
    }

    fn expel(&self, now: Nanos, expel: &[StoreId], draft: &mut Draft<'_>) -> Result<BTreeSet<u16>, Refusal> {
        let mut places = BTreeSet::new();
        for store in expel {
            let place = self.nodes.place(*store).ok_or(Refusal::StoreUnknown(*store))?;
            if !matches!(self.nodes.presence(now, draft.map, place), Presence::Gone) {
                return Err(Refusal::StoreAlive(*store));
            }
            let mut record = draft.map.stores[usize::from(place)].clone();
            record.standing = Standing::Expelled;
            draft.delta.stores.insert(place, record);
            places.insert(place);
        }
        Ok(places)
    }

    /// Whoever is likely to have most: a seed before others, whole before cut, the longest log.
    fn best_present(&self, now: Nanos, map: &Map, chain: &Chain, expelled: &BTreeSet<u16>) -> Option<u16> {
        let is_there = |member: &&Member| {
            self.nodes.presence(now, map, member.store) == Presence::Fit && !expelled.contains(&member.store)
        };
        let rank = |member: &&Member| {
            let store = self.nodes.store(member.store);
            (member.is_seed, member.state == ReplicaState::LastServing, !store.cut, store.log_end)
        };
        chain.members.iter().rev().filter(is_there).max_by_key(rank).map(|member| member.store)
    }

    fn go_on_with(
        &self,
        now: Nanos,
        id: ChainId,
        chain: &Chain,
        seed: u16,
        expelled: &BTreeSet<u16>,
        draft: &mut Draft<'_>,
    ) -> Result<(), Refusal> {
        let mut next = *chain;
        next.members.retain(|member| !expelled.contains(&member.store));
        for member in next.members.iter_mut() {
            let is_there = self.nodes.presence(now, draft.map, member.store) == Presence::Fit;
            member.is_seed = member.store == seed;
            member.state = match is_there {
                _ if member.store == seed => ReplicaState::Serving,
                true => ReplicaState::Waiting,
                false => ReplicaState::Offline,
            };
        }
        // Promises are maps that were installed: none has a later epoch than the committed one.
        (next.epoch, next.phase) = (Epoch(chain.epoch.0 + 1), Phase::Prepared);
        draft.set_chain(id, next);
        let number = draft.number();
        match id {
            ChainId::Slice(slice) => {
                if let Some(record) = draft.delta.slices.get_mut(&slice) {
                    record.loss_map_number = number;
                }
            }
            ChainId::Group(group) => {
                if let Some(record) = draft.delta.groups.get_mut(&group) {
                    // R20
                    record.generation += 1;
                    if record.generation >= SessionId::GENERATION_COUNT {
                        return Err(Refusal::Full);
                    }
                }
            }
        }
        Ok(())
    }
}

/// Members whose stores were put out for ever leave a chain that can do without them.
pub(super) fn drop_listed(
    id: ChainId,
    chain: &Chain,
    gone: &BTreeSet<u16>,
    draft: &mut Draft<'_>,
) -> Result<(), Refusal> {
    let mut next = *chain;
    next.members.retain(|member| !gone.contains(&member.store));
    check_rest(id, chain, &next, gone)?;
    draft.set_chain(id, next);
    Ok(())
}

/// Whether a chain can do without those that are gone.
pub(super) fn check_rest(
    id: ChainId,
    chain: &Chain,
    next: &Chain,
    gone: &BTreeSet<u16>,
) -> Result<(), Refusal> {
    if chain.ackers().any(|member| gone.contains(&member.store)) {
        // Its death was not seen yet.
        return Err(Refusal::Busy);
    }
    let serves = next.serving().next().is_some();
    let last = next.members.iter().any(|member| member.state == ReplicaState::LastServing);
    let has_seed = next.members.iter().any(|member| member.is_seed);
    if has_seed && (serves || last) { Ok(()) } else { Err(Refusal::LastCopy(id)) }
}

fn set_min_in_sync(count: u8, draft: &mut Draft<'_>) -> Acted {
    if count == 0 || count > draft.map.settings.chain_length {
        return Err(Refusal::OutOfRange);
    }
    draft.delta.settings.min_in_sync = count;
    Ok(Done::Set)
}
