//! The planner: which stores each slice's replicas should be in, and the least that has to move for it.
//!
//! [`plan`] is a pure function of a [`Layout`]: the ring's chains as they are and the stores as they should be used. The same
//! layout gives the same [`Plan`] on every machine, and the layout that a plan leads to has a plan without moves.
//!
//! # What a plan keeps
//!
//! - **Apart.** Replicas of one slice are in distinct failure domains: racks where they are known, else nodes. With fewer
//!   domains than replicas they are on distinct nodes, spread over the domains as far as shares allow; with fewer nodes, in distinct stores;
//!   with fewer stores, chains are shorter. [`Balance`] says so (R41).
//! - **Shares** of domains, nodes and stores are proportional to weight, none off by a whole replica, so within 5 % from
//!   20 replicas on (R40). A domain can't hold more than one replica of each slice: one whose weight asks for more gets that, and the
//!   others the rest (`plan/quota.rs`).
//! - **Declustered.** A node's slices have their other replicas spread over all other nodes, so that all of them help to rebuild it.
//!   With uniform weights no two nodes share more than about twice the mean (`plan/pairs.rs`). It guides what moves, and moves nothing by itself.
//! - **Few moves**: within 10 % of [`Plan::moves_bound`], which no plan with these shares can go below (`plan/bound.rs`), and mostly equal to
//!   it. More where one domain must have most slices, so that few slices can take what it lacks (the worst of 26,000 random plans
//!   with a bound of at least 100: 28 % above), and where chains become shorter, where the bound is 0 and up to an eighth of the slices move.
//! - **Heads** are proportional to a node's replicas, none off by a whole head; their changes move no bytes (`plan/heads.rs`).
//!
//! # How
//!
//! ```text
//! cluster.rs   layout → stores ⊂ nodes ⊂ domains; units: what replicas are distinct in
//! quota.rs     weights → targets (water-filling) → integers (largest remainder, in favour of who holds)
//! keep.rs      chains → replicas that may stay
//! assign.rs    missing replicas → units: least crowded of those that lack
//! transfer.rs  units with too much → units with too little; augmenting paths for what is in the way
//! settle.rs    unit → node → store
//! heads.rs     heads
//! moves.rs     new chains against old ones
//! ```
//! Weights are hashed into nothing: unlike CRUSH (Weil et al. 2006) or rendezvous hashing the planner is given the present placement and
//! returns a table, so shares are exact and not binomial. Spreading pairs is declustering (Holland and Gibson 1992). Its price, that
//! any three disks lost at once are likely to be some slice's three (Cidon et al., *Copysets*, 2013), is paid for the speed of a rebuild.
//!
//! # Limits and costs
//!
//! Rings of up to 2¹⁶ slices, chains of 1 to 3, [`NODES_MAX`] nodes, [`STORES_PER_NODE_MAX`] stores on each. With `R` replicas and `U` units
//! the time is `O(R·U)`, the memory `O(R + U²)`; a path costs `O(R)` at worst, and few slices need one. 2¹⁶ slices in chains of 3 on 200
//! nodes with 16 stores each took 1.4 s to place, 0.1 s to drain a node of, 1.2 s to spread over twice as many nodes (release build, one
//! core of a busy machine); with 256 stores each 2.1 s to place.

mod assign;
mod balance;
mod bound;
mod cluster;
mod error;
mod heads;
mod keep;
mod mix;
mod moves;
mod pairs;
mod quota;
mod settle;
mod transfer;

#[cfg(test)]
mod check;
#[cfg(test)]
mod plan_fuzz;
#[cfg(test)]
mod tests;

use wire::{NodeId, SliceIndex};

pub use balance::{Balance, FINE_TARGET, NodeShare};
pub use error::PlanError;

use assign::Assignment;
use cluster::Cluster;
use keep::Kept;
use quota::{Favour, Shares};

/// Nodes that a layout may have: tables over pairs of them take 4 MiB then.
pub const NODES_MAX: usize = 1_024;
/// Stores that a node may have, as many as a node has ports for shards.
pub const STORES_PER_NODE_MAX: usize = 256;

/// Index of a store in [`Layout::members`], which is its index in the map's stores.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StoreIndex(pub u16);

/// A rack's number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Rack(pub u32);

/// A store, as far as placement cares.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Member {
    /// Where it is.
    pub node: NodeId,
    /// The node's rack, the same for all its stores; `None`: not known, the node is a failure domain of its own.
    pub rack: Option<Rack>,
    /// Its part of the data against that of others, GiB of capacity for example; 0: it shall hold nothing, it is being drained.
    pub weight: u32,
    /// Whether its replicas can be read. What isn't there holds nothing, whatever its weight, and is no source.
    pub is_there: bool,
}

/// What is planned from.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Layout {
    /// The ring has `2^ring_bits` slices, at most 2¹⁶ (R40).
    pub ring_bits: u8,
    /// Replicas of each slice, 1 to 3 (R41).
    pub chain_length: u8,
    /// The stores.
    pub members: Vec<Member>,
    /// Each slice's present chain, head first; empty where it has none yet.
    pub chains: Vec<Vec<StoreIndex>>,
}

/// What replicas of one slice are distinct in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Separation {
    /// Failure domains, as it should be.
    Domain,
    /// Nodes: there are fewer domains than replicas.
    Node,
    /// Stores: there are fewer nodes than replicas.
    Store,
}

/// One replica that is to be copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Move {
    /// The slice.
    pub slice: SliceIndex,
    /// Place of the new replica in the planned chain; 0 is the head.
    pub position: u8,
    /// The store whose replica goes for it; `None`: one was missing.
    pub leaves: Option<StoreIndex>,
    /// The store that gets it.
    pub arrives: StoreIndex,
    /// A store of the present chain to copy from, so chosen that all nodes read; it may be the one that leaves. `None`: none is there.
    pub source: Option<StoreIndex>,
}

/// A replica that goes without another taking its place: chains became shorter, or it is one too many.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Removal {
    /// The slice.
    pub slice: SliceIndex,
    /// The store that gives it up.
    pub leaves: StoreIndex,
}

/// A slice that another store leads. It moves no bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct HeadChange {
    /// The slice.
    pub slice: SliceIndex,
    /// The present head.
    pub from: StoreIndex,
    /// The planned one.
    pub to: StoreIndex,
}

/// A plan. The number of its moves times a slice's bytes is what it costs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Each slice's chain once all is done, head first.
    pub chains: Vec<Vec<StoreIndex>>,
    /// In order of slices.
    pub moves: Vec<Move>,
    /// In order of slices.
    pub removals: Vec<Removal>,
    /// In order of slices.
    pub head_changes: Vec<HeadChange>,
    /// What any plan must move that meets the same shares.
    pub moves_bound: u32,
    /// The placement once all is done, against its targets.
    pub balance: Balance,
}

/// What [`plan_loss`] repairs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Lost {
    /// One store.
    Store(StoreIndex),
    /// All stores of a node.
    Node(NodeId),
}

/// The placement that meets all shares, and the way to it.
pub fn plan(layout: &Layout) -> Result<Plan, PlanError> {
    let cluster = Cluster::new(layout)?;
    let shares = whole_shares(&cluster);
    let kept = Kept::valid(&cluster, &layout.chains, &shares);
    let held = kept.by_store(&cluster);
    let quotas = shares.round(&cluster, cluster.replicas(), &Favour::Holders(&held));
    let mut assignment = Assignment::new(&cluster, &quotas, kept.places, kept.left);
    let stuck = assignment.fill();
    assignment.transfer(stuck);
    let below = shares.round_below_units(&cluster, quotas.clone(), &assignment.held.stores);
    let stores = settle::settle(assignment, &below);
    let moves_bound = bound::moves_bound(&cluster, &layout.chains, &shares);
    Ok(finish(&cluster, layout, &shares, stores, moves_bound, true))
}

/// The repair after a loss, in a hurry: what `lost` held arrives elsewhere, spread over all stores in proportion to their weights,
/// and so are other replicas that the layout lacks; nothing that is there moves, and no head that is there changes.
///
/// A later [`plan`] moves what shares ask for besides: nothing or little, if the layout was balanced.
pub fn plan_loss(layout: &Layout, lost: Lost) -> Result<Plan, PlanError> {
    let mut rest = layout.clone();
    let is_lost = |(store, member): &(usize, &mut Member)| match lost {
        Lost::Store(index) => *store == usize::from(index.0),
        Lost::Node(node) => member.node == node,
    };
    let found = rest.members.iter_mut().enumerate().filter(is_lost).map(|(_, member)| {
        (member.weight, member.is_there) = (0, false);
    });
    if found.count() == 0 {
        return Err(PlanError::LostUnknown);
    }
    plan_missing(&rest)
}

/// What the layout's chains lack of their length, spread over all stores in proportion to their weights; nothing that is there moves, and no
/// head that is there changes. Also [`plan_loss`]'s second half, and how copies become more when a cluster grows.
pub fn plan_missing(rest: &Layout) -> Result<Plan, PlanError> {
    let cluster = Cluster::new(rest)?;
    let kept = Kept::everything(&cluster, &rest.chains);
    let mut missing = 0;
    let mut caps = vec![0; cluster.units.len()];
    for places in &kept.places {
        let lacks = cluster.chain_length.saturating_sub(places.len());
        missing += lacks;
        for (unit, cap) in caps.iter_mut().enumerate().filter(|_| lacks > 0) {
            *cap += u32::from(!places.iter().any(|place| place.unit == Some(unit)));
        }
    }
    let held = kept.by_store(&cluster);
    let arriving = Shares::new(&cluster, missing, &caps);
    let mut quotas = arriving.round(&cluster, missing, &Favour::Emptiest(&held));
    quotas.add(&cluster, &held);
    let mut assignment = Assignment::new(&cluster, &quotas, kept.places, kept.left);
    let stuck = assignment.fill();
    assignment.complete_freely(stuck);
    let stores = settle::settle(assignment, &quotas);
    Ok(finish(&cluster, rest, &whole_shares(&cluster), stores, count(missing), false))
}

/// Targets for all replicas: a unit has each slice at most once.
fn whole_shares(cluster: &Cluster) -> Shares {
    Shares::new(cluster, cluster.replicas(), &vec![count(cluster.slices); cluster.units.len()])
}

fn finish(
    cluster: &Cluster,
    layout: &Layout,
    shares: &Shares,
    stores: Vec<Vec<usize>>,
    moves_bound: u32,
    heads_move: bool,
) -> Plan {
    let moves::Changes { chains, moves, removals, heads: head_changes } =
        moves::changes(cluster, layout, stores, heads_move);
    let balance = Balance::new(cluster, shares, &chains);
    Plan { chains, moves, removals, head_changes, moves_bound, balance }
}

/// Counts are `u32` (R40).
fn count(count: usize) -> u32 {
    u32::try_from(count).expect("a layout has at most 3 · 2^16 replicas")
}
