//! `catena admin`: what operators ask of the control group, and what they tell it to do.
//!
//! ```text
//! operator  the connection, refusals     names   nodes, stores, chains as people write them
//! reason    sentences for every reason   tally   how chains stand by the map   health   the whole on one screen
//! cluster node disk chain voters why     one family of commands each
//! ```

mod chain;
mod cluster;
mod disk;
mod health;
mod names;
mod node;
mod operator;
mod reason;
mod recover;
#[cfg(test)]
mod sample;
mod tally;
mod voters;
mod why;

pub(crate) use chain::{copies, state_word};
pub(crate) use names::{Names, chain_name};

use crate::context::Context;
use crate::failure::Result;
use crate::output::WhenClosed;

/// Look after a cluster: nodes, disks, copies, and why something is as it is
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Admin {
    #[command(subcommand)]
    Cluster(cluster::Cluster),
    #[command(subcommand)]
    Node(node::Node),
    #[command(subcommand)]
    Disk(disk::Disk),
    #[command(subcommand)]
    Chain(chain::Chain),
    Voters(voters::Voters),
    MinInSync(voters::MinInSync),
    Why(why::Why),
}

impl Admin {
    pub(crate) fn run(self, context: &mut Context) -> Result<()> {
        match self {
            Self::Cluster(command) => command.run(context),
            Self::Node(command) => command.run(context),
            Self::Disk(command) => command.run(context),
            Self::Chain(command) => command.run(context),
            Self::Voters(command) => command.run(context),
            Self::MinInSync(command) => command.run(context),
            Self::Why(command) => command.run(context),
        }
    }

    /// What only asks ends with its reader.
    pub(crate) fn when_closed(&self) -> WhenClosed {
        match self {
            Self::Cluster(cluster::Cluster::Status(_))
            | Self::Node(node::Node::List(_) | node::Node::OkToStop(_))
            | Self::Chain(_)
            | Self::Why(_) => WhenClosed::End,
            Self::Cluster(_) | Self::Node(_) | Self::Disk(_) | Self::Voters(_) | Self::MinInSync(_) => {
                WhenClosed::GoOn
            }
        }
    }
}
