//! Heads: when everything is healthy and quiet, nodes lead as many chains as their share of replicas. It moves no data; it costs the reordered
//! chains a moment without writes, so a few are reordered at a time, and only if a node is beyond the bound. Groups stay as they are.

use std::collections::BTreeMap;

use wire::control::ChainId;
use wire::map::{Map, Phase, ReplicaState};
use wire::{Nanos, NodeId, SliceIndex};

use super::Leader;
use super::config::{HEADS_BATCH, HEADS_INTERVAL, HEADS_PART, HEADS_SLACK};
use super::plan::Draft;
use super::step::prepare;
use super::transition::mark_seeds;

/// A node's heads and its share of them, in chain members: a head counts for its chain's length.
#[derive(Clone, Copy, Default)]
struct Share {
    heads: u64,
    members: u64,
}

impl Share {
    fn is_beyond(self, length: u64) -> bool {
        let slack = (HEADS_SLACK * length).max(self.members / HEADS_PART);
        self.heads > self.members + slack
    }
}

impl Leader {
    /// Reorders some chains if heads are uneven.
    pub(super) fn balance_heads(&mut self, now: Nanos, draft: &mut Draft<'_>) {
        let map = draft.map;
        let length = u64::from(map.settings.chain_length);
        if now < self.heads_at || length < 2 || !self.links.is_empty() {
            return;
        }
        self.heads_at = now.after(HEADS_INTERVAL);
        let mut shares = shares(map);
        let mut left = HEADS_BATCH;
        if !shares.values().any(|share| share.is_beyond(length)) {
            return;
        }
        self.plan_again(self.heads_at);
        for (slice, record) in (0_u16..=u16::MAX).zip(&map.slices) {
            let node = |store: u16| map.stores[usize::from(store)].node;
            let lead = |position: usize| node(record.chain.members[position].store);
            let is_settled = record.chain.phase == Phase::Active
                && record.chain.members.iter().all(|member| member.state == ReplicaState::Serving);
            let gives = |node: NodeId| shares.get(&node).is_some_and(|share| share.heads > share.members);
            let takes =
                |node: NodeId| shares.get(&node).map_or(0, |share| share.members.saturating_sub(share.heads));
            if left == 0 || !is_settled || !gives(lead(0)) {
                continue;
            }
            let candidates = (1..record.chain.members.len()).filter(|position| takes(lead(*position)) > 0);
            let Some(position) = candidates.max_by_key(|position| takes(lead(*position))) else { continue };
            let (from, to) = (lead(0), lead(position));
            let cost = u64::try_from(record.chain.members.len()).unwrap_or(1);
            shares.entry(from).or_default().heads -= cost;
            shares.entry(to).or_default().heads += cost;
            let mut next = record.chain;
            next.members[..=position].rotate_right(1);
            prepare(&mut next);
            mark_seeds(&record.chain, &mut next, false);
            draft.set_chain(ChainId::Slice(SliceIndex(slice)), next);
            left -= 1;
        }
    }
}

fn shares(map: &Map) -> BTreeMap<NodeId, Share> {
    let mut shares: BTreeMap<NodeId, Share> = BTreeMap::new();
    for slice in &map.slices {
        let length = u64::try_from(slice.chain.members.len()).unwrap_or(1);
        for (position, member) in slice.chain.members.iter().enumerate() {
            let share = shares.entry(map.stores[usize::from(member.store)].node).or_default();
            share.members += 1;
            share.heads += if position == 0 { length } else { 0 };
        }
    }
    shares
}
