//! `catena admin disk replace`.

use wire::control::{Command, Done};

use super::node::done_object;
use super::operator::{Operator, nonsense};
use crate::context::Context;
use crate::failure::{Failure, Result};
use crate::text;

/// Replace the store of a disk that is lost
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Disk {
    Replace(Replace),
}

/// Let a store that was just formatted take the place of one that is lost
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  catena admin disk replace node-2/shard-0 5f0c2f1e-7d0a-4b63-9a51-0c6f1f2f7c11

The old store must not work any more. The new one was formatted on the disk that took the old one's place, and its node runs: the
node's log names the store, which isn't in the cluster map yet. It is brought up to date from the other copies.")]
pub(crate) struct Replace {
    /// The store that is lost: NODE/shard-0, NODE/metadata, or its id or how that begins
    #[arg(value_name = "OLD_STORE")]
    old: String,
    /// The store that takes its place: its whole id, unless the cluster knows it already
    #[arg(value_name = "NEW_STORE")]
    new: String,
}

impl Disk {
    pub(crate) fn run(self, context: &mut Context) -> Result<()> {
        let Self::Replace(command) = self;
        let mut operator = Operator::connect(context)?;
        let names = operator.names();
        let (old, new) = (names.find_store(&command.old)?, names.find_new_store(&command.new)?);
        let old_name = names.store(old);
        if old == new {
            return Err(Failure::usage(old_name, "can't take its own place")
                .next("name the store that was formatted anew; its node's log has its id"));
        }
        let (number, done) = operator.act(&Command::ReplaceStore { old, new })?;
        let Done::Replacing { chains } = done else { return Err(nonsense()) };
        context.output.note(
            || {
                done_object("replacing", number)
                    .with("chains", chains)
                    .with("old", old.to_string())
                    .with("new", new.to_string())
            },
            || {
                let chains = text::count(chains.into(), "chain");
                format!("store {new} takes {old_name}'s place in {chains} (map {number}); see how far it is: catena admin cluster status --wait")
            },
        )
    }
}
