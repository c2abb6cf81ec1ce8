//! The report on a placement: who has how much of what it should have, and what couldn't be had.

use wire::NodeId;

use super::cluster::Cluster;
use super::quota::Shares;
use super::{Separation, StoreIndex, count};

/// Targets below this many replicas can't be met within 5 %: one replica more or less is more than that (R40).
pub const FINE_TARGET: u32 = 20;

/// How a placement stands against its targets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Balance {
    /// What the replicas of one slice are distinct in. Anything but [`Separation::Domain`]: there were too few domains (R41).
    pub separation: Separation,
    /// Replicas of each slice; below the layout's chain length where there are fewer stores than that.
    pub chain_length: u8,
    /// Slices with several replicas, all of them in one failure domain: its loss takes them all. Operators are told "one domain" (R41).
    pub one_domain_slices: u32,
    /// Domains (or what takes their place) whose weight asks for more than one replica of each slice: they have one of each, and
    /// the rest is dealt out over the others.
    pub capped: u32,
    /// Each node's share, in order of their numbers.
    pub nodes: Vec<NodeShare>,
    /// Largest deviation from its target, in thousandths of that, of a node with a target of at least [`FINE_TARGET`] replicas.
    pub node_deviation_max: u32,
    /// The same of stores.
    pub store_deviation_max: u32,
}

/// One node's share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeShare {
    /// The node.
    pub node: NodeId,
    /// Sum of its stores' weights, of those that are there.
    pub weight: u64,
    /// Replicas that it should have, in thousandths of one.
    pub target_thousandths: u64,
    /// Replicas that it has.
    pub replicas: u32,
    /// Slices that it leads.
    pub heads: u32,
}

impl Balance {
    pub(super) fn new(cluster: &Cluster, shares: &Shares, chains: &[Vec<StoreIndex>]) -> Self {
        let mut stores = vec![0_u32; cluster.stores.len()];
        let node = |(node, share): (&super::cluster::Node, &super::quota::Share)| NodeShare {
            node: node.id,
            weight: node.weight,
            target_thousandths: share.thousandths(),
            replicas: 0,
            heads: 0,
        };
        let mut nodes: Vec<NodeShare> = cluster.nodes.iter().zip(&shares.nodes).map(node).collect();
        for chain in chains {
            for (position, store) in chain.iter().map(|store| usize::from(store.0)).enumerate() {
                stores[store] += 1;
                let node = &mut nodes[cluster.stores[store].node];
                node.replicas += 1;
                node.heads += u32::from(position == 0);
            }
        }
        let targets = shares.stores.iter().map(|share| share.thousandths());
        let of_stores = stores.iter().zip(targets).map(|(&count, target)| deviation(count, target));
        let of_nodes = nodes.iter().map(|node| deviation(node.replicas, node.target_thousandths));
        Self {
            separation: cluster.separation,
            chain_length: u8::try_from(cluster.chain_length).expect("at most 3"),
            one_domain_slices: one_domain_slices(cluster, chains),
            capped: shares.capped,
            node_deviation_max: of_nodes.max().unwrap_or(0),
            store_deviation_max: of_stores.max().unwrap_or(0),
            nodes,
        }
    }
}

/// Thousandths of the target between it and `count`, rounded up; 0 for small targets.
fn deviation(count: u32, target_thousandths: u64) -> u32 {
    if target_thousandths < u64::from(FINE_TARGET) * 1_000 {
        return 0;
    }
    let difference = (u64::from(count) * 1_000).abs_diff(target_thousandths);
    u32::try_from((difference * 1_000).div_ceil(target_thousandths)).unwrap_or(u32::MAX)
}

fn one_domain_slices(cluster: &Cluster, chains: &[Vec<StoreIndex>]) -> u32 {
    let domain = |store: &StoreIndex| cluster.domain_of(usize::from(store.0));
    let is_one = |chain: &&Vec<StoreIndex>| {
        chain.len() > 1 && chain.iter().all(|store| domain(store) == domain(&chain[0]))
    };
    count(chains.iter().filter(is_one).count())
}
