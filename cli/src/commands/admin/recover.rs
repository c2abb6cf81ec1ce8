//! `catena admin cluster recover`: going on without what is lost. Says first what that is, and does nothing without `--accept-data-loss`.

use serde_json::json;
use wire::StoreId;
use wire::control::{ChainId, Command, Done, LossScope, Subject};
use wire::map::Map;

use super::chain::is_stuck;
use super::names::{Names, chain_name, chains, listed};
use super::node::done_object;
use super::operator::{Operator, nonsense};
use super::reason;
use super::tally::{Standing, standing};
use crate::context::Context;
use crate::failure::{Exit, Failure, Result};
use crate::json::Object;
use crate::text;

/// Chains that are told of one by one.
const TOLD_MAX: usize = 8;

/// Let chains that serve nothing go on with what is left, though acknowledged data may be lost
#[derive(Debug, clap::Args)]
#[command(
    group = clap::ArgGroup::new("scope").required(true).args(["chain", "all"]),
    after_help = "\
Examples:
  catena admin cluster recover --all
  catena admin cluster recover --all --accept-data-loss
  catena admin cluster recover --chain slice-17 --expel node-2/shard-0 --accept-data-loss

Without --accept-data-loss it only says what would be lost. Start the nodes that have the missing copies, if that is possible at all: nothing
is lost then. Afterwards `catena verify` names the files that lost content.")]
pub(crate) struct Recover {
    /// Do it; without this it is only said what would be lost
    #[arg(long)]
    accept_data_loss: bool,
    /// One chain
    #[arg(long, value_name = "CHAIN")]
    chain: Option<String>,
    /// Every chain that serves nothing
    #[arg(long)]
    all: bool,
    /// Stores that are never to come back: NODE/shard-0, NODE/metadata, or an id or how it begins
    #[arg(long, value_name = "STORE", num_args = 1..)]
    expel: Vec<String>,
}

impl Recover {
    pub(crate) fn run(self, context: &mut Context) -> Result<()> {
        let mut operator = Operator::connect(context)?;
        // Without a leader the map may be old, and nothing can be done.
        operator.health()?;
        operator.refresh();
        let scope = match &self.chain {
            Some(chain) => LossScope::Chain(operator.names().find_chain(chain)?),
            None => LossScope::All,
        };
        let expel: Vec<StoreId> =
            self.expel.iter().map(|store| operator.names().find_store(store)).collect::<Result<_>>()?;
        let lost = lost(operator.map(), scope);
        if lost.is_empty() && expel.is_empty() {
            let thing = match scope {
                LossScope::Chain(chain) => chain_name(chain),
                LossScope::All => "the cluster".to_owned(),
            };
            return Err(Failure::new(
                Exit::Conflict,
                thing,
                "has a copy that serves: there is no loss to accept",
            )
            .next("look at what isn't well: catena admin why"));
        }
        tell(context, &mut operator, &lost, &expel)?;
        if !self.accept_data_loss {
            return Err(Failure::usage("--accept-data-loss", "isn't given: nothing was done").next(
                "start the nodes with the missing copies; only if they are gone for good, give --accept-data-loss",
            ));
        }
        let (number, done) = operator.act(&Command::AcceptDataLoss { scope, expel })?;
        let Done::LossAccepted { chains, expelled } = done else { return Err(nonsense()) };
        operator.refresh();
        let names = operator.names();
        let values = chains
            .iter()
            .map(|loss| json!({ "chain": chain_name(loss.chain), "seed": names.store(loss.seed) }));
        context.output.note(
            || {
                done_object("loss-accepted", number)
                    .with("chains", values.collect::<Vec<_>>())
                    .with("expelled", expelled.iter().map(|store| names.store(*store)).collect::<Vec<_>>())
            },
            || {
                let mut lines = vec![format!(
                    "{} with what is left (map {number}); `catena verify` names the files that lost content",
                    match chains.len() {
                        1 => "1 chain goes on".to_owned(),
                        count => format!("{} go on", text::count(count as u64, "chain")),
                    }
                )];
                let shown = chains.iter().take(TOLD_MAX);
                lines.extend(shown.map(|loss| {
                    format!("  {} goes on with {}", chain_name(loss.chain), names.store(loss.seed))
                }));
                if chains.len() > TOLD_MAX {
                    lines.push(format!(
                        "  and {}",
                        text::count((chains.len() - TOLD_MAX) as u64, "more chain")
                    ));
                }
                if !expelled.is_empty() {
                    let stores = listed(expelled.iter().map(|store| names.store(*store)));
                    lines.push(format!("  never to come back: {stores}"));
                }
                lines.join("\n")
            },
        )
    }
}

/// Chains in this scope that serve nothing.
fn lost(map: &Map, scope: LossScope) -> Vec<ChainId> {
    let is_meant = |id: ChainId| match scope {
        LossScope::Chain(chain) => chain == id,
        LossScope::All => true,
    };
    let down = chains(map).filter(|(id, chain)| standing(map, *id, chain) == Standing::Down);
    down.map(|(id, _)| id).filter(|id| is_meant(*id)).collect()
}

/// Says what would be lost.
fn tell(context: &mut Context, operator: &mut Operator, lost: &[ChainId], expel: &[StoreId]) -> Result<()> {
    for id in lost.iter().take(TOLD_MAX) {
        let reasons = operator.why(Subject::Chain(*id))?;
        let names = operator.names();
        let is_stuck = is_stuck(&reasons);
        let sentences = reason::explain(names, Subject::Chain(*id), &reasons);
        let texts: Vec<String> = sentences.into_iter().map(|sentence| sentence.text).collect();
        context.output.note(
            || {
                Object::new()
                    .with("lost", chain_name(*id))
                    .with("stuck", is_stuck)
                    .with("what", what(*id))
                    .with("texts", texts.clone())
            },
            || format!("{}: {}\n  {}", chain_name(*id), what(*id), texts.join("\n  ")),
        )?;
    }
    if lost.len() > TOLD_MAX {
        let more = text::count((lost.len() - TOLD_MAX) as u64, "more chain");
        context
            .output
            .line(&format!("and {more} that serve nothing: catena admin chain list --state down"))?;
    }
    tell_expelled(context, operator.names(), expel)
}

fn tell_expelled(context: &mut Context, names: Names<'_>, expel: &[StoreId]) -> Result<()> {
    if expel.is_empty() {
        return Ok(());
    }
    let stores = listed(expel.iter().map(|store| names.store(*store)));
    context.output.line(&format!("what only these stores have is lost for good: {stores}"))
}

/// What a chain's loss means.
fn what(id: ChainId) -> &'static str {
    match id {
        ChainId::Slice(_) => "chunks that only its missing copies have are lost",
        ChainId::Group(_) => {
            "changes of names and files that only its missing copies have are lost, and what they made goes"
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::admin::sample;
    use wire::SliceIndex;

    #[test]
    fn only_what_serves_nothing_is_lost() {
        let map = sample::map();
        let slice = |index| ChainId::Slice(SliceIndex(index));
        assert_eq!(lost(&map, LossScope::All), [slice(3)]);
        assert_eq!(lost(&map, LossScope::Chain(slice(3))), [slice(3)]);
        assert_eq!(lost(&map, LossScope::Chain(slice(2))), []);
    }
}
