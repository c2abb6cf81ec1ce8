//! Placement: which stores hold a chunk, which replicas decide about a volume.
//!
//! [`ClusterMap`] is the validated map with its lookups; [`one_node`] makes the first map of a cluster; [`plan`](plan()) says which
//! replicas belong where and what has to move for it. Pure: no I/O, no clock, no randomness.

#![forbid(unsafe_code)]

mod bootstrap;
mod cluster_map;
mod edition;
mod error;
mod loss;
mod plan;
mod validate;

pub use bootstrap::{OneNode, one_node};
pub use cluster_map::{ClusterMap, Route};
pub use edition::Edition;
pub use error::MapError;
pub use plan::{
    Balance, FINE_TARGET, HeadChange, Layout, Lost, Member, Move, NODES_MAX, NodeShare, Plan, PlanError,
    Rack, Removal, STORES_PER_NODE_MAX, Separation, StoreIndex, plan, plan_loss, plan_missing,
};
pub use validate::is_address;
