//! From the stores that each slice shall have to chains, moves and head changes.

use super::cluster::{Cluster, slice_index, store_index};
use super::heads::{Candidates, choose_heads};
use super::mix::mix;
use super::{HeadChange, Layout, Move, Removal, StoreIndex};

/// The new chains and how they differ.
#[derive(Default)]
pub(super) struct Changes {
    pub(super) chains: Vec<Vec<StoreIndex>>,
    pub(super) moves: Vec<Move>,
    pub(super) removals: Vec<Removal>,
    pub(super) heads: Vec<HeadChange>,
}

/// Compares; `stores` are each slice's, in any order.
pub(super) fn changes(
    cluster: &Cluster,
    layout: &Layout,
    stores: Vec<Vec<usize>>,
    heads_move: bool,
) -> Changes {
    let candidates = |(chain, stores): (&Vec<StoreIndex>, Vec<usize>)| {
        // The order of what stays is kept; what arrives joins behind it.
        let present: Vec<usize> = chain.iter().map(|&store| usize::from(store.0)).collect();
        let mut order: Vec<usize> = present.iter().copied().filter(|store| stores.contains(store)).collect();
        let survivors = order.len();
        order.extend(stores.iter().copied().filter(|store| !present.contains(store)));
        let leads = survivors > 0 && present.first() == order.first();
        // A head that is there leads until the last copy is made, so that any member can follow it. One that is gone is followed
        // at once, by a member that has the bytes.
        let is_gone = present.first().is_some_and(|&head| !cluster.stores[head].is_there);
        let eligible = if survivors > 0 && (is_gone || !heads_move) { survivors } else { order.len() };
        Candidates { stores: order, leads, eligible }
    };
    let candidates: Vec<Candidates> = layout.chains.iter().zip(stores).map(candidates).collect();
    let heads = choose_heads(cluster, &candidates, heads_move);
    let mut changes = Changes::default();
    let mut reads = vec![0_u32; cluster.nodes.len()];
    for (slice, (candidates, head)) in candidates.into_iter().zip(heads).enumerate() {
        let mut stores = candidates.stores;
        stores[..=head].rotate_right(1);
        let chain: Vec<StoreIndex> = stores.iter().map(|&store| store_index(store)).collect();
        compare(cluster, &layout.chains[slice], &chain, slice, &mut reads, &mut changes);
        changes.chains.push(chain);
    }
    changes
}

fn compare(
    cluster: &Cluster,
    before: &[StoreIndex],
    after: &[StoreIndex],
    slice: usize,
    reads: &mut [u32],
    changes: &mut Changes,
) {
    let index = slice_index(slice);
    let mut leaving = before.iter().copied().filter(|store| !after.contains(store));
    for (position, &arrives) in (0_u8..).zip(after) {
        if before.contains(&arrives) {
            continue;
        }
        let source = source(cluster, before, slice, reads);
        changes.moves.push(Move { slice: index, position, leaves: leaving.next(), arrives, source });
    }
    changes.removals.extend(leaving.map(|leaves| Removal { slice: index, leaves }));
    let heads = before.first().zip(after.first()).filter(|(from, to)| from != to);
    changes.heads.extend(heads.map(|(&from, &to)| HeadChange { slice: index, from, to }));
}

/// Who the bytes come from: any that is there, also one that leaves; the one whose node has been asked least.
fn source(cluster: &Cluster, before: &[StoreIndex], slice: usize, reads: &mut [u32]) -> Option<StoreIndex> {
    let node = |store: StoreIndex| cluster.stores[usize::from(store.0)].node;
    let there = before.iter().copied().filter(|store| cluster.stores[usize::from(store.0)].is_there);
    let source = there.min_by_key(|&store| (reads[node(store)], mix(slice, usize::from(store.0))))?;
    reads[node(source)] += 1;
    Some(source)
}
