//! `catena admin chain list|show`.

use serde_json::json;
use wire::control::{ChainId, Reason, Subject, Waits};
use wire::map::{Chain as Record, Map, Phase, ReplicaState};
use wire::{NodeId, StoreId};

use super::names::{Names, chain_name, chain_of, chains};
use super::operator::Operator;
use super::tally::{self, Standing};
use crate::context::Context;
use crate::failure::{Exit, Failure, Result};
use crate::json::Object;
use crate::text::{self, size};

/// List the chains of slices and metadata groups, or show one
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Chain {
    List(List),
    Show(Show),
}

/// List chains: how each stands, and where its copies are
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  catena admin chain list
  catena admin chain list --state degraded
  catena admin chain list --json --state down | wc -l")]
pub(crate) struct List {
    /// Only chains that are this
    #[arg(long, value_enum, value_name = "STATE")]
    state: Option<Standing>,
}

/// Show a chain's members in order: node, store, state
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  catena admin chain show slice-17
  catena admin chain show group-0 --json")]
pub(crate) struct Show {
    /// Its name: slice-17, or 17 alone, or group-0
    #[arg(value_name = "CHAIN")]
    chain: String,
}

impl Chain {
    pub(crate) fn run(self, context: &mut Context) -> Result<()> {
        match self {
            Self::List(command) => command.run(context),
            Self::Show(command) => command.run(context),
        }
    }
}

impl List {
    fn run(self, context: &mut Context) -> Result<()> {
        let mut operator = Operator::connect(context)?;
        operator.refresh();
        let map = operator.map().clone();
        for (id, chain) in chains(&map) {
            let is_meant = match self.state {
                None => true,
                Some(Standing::Changing) => tally::is_changing(chain),
                Some(Standing::Syncing) => tally::is_syncing(chain),
                // Whether it waits for an operator only the control group knows.
                Some(Standing::Stuck) => {
                    tally::standing(&map, id, chain) == Standing::Down
                        && is_stuck(&operator.why(Subject::Chain(id))?)
                }
                Some(wanted) => tally::standing(&map, id, chain) == wanted,
            };
            if is_meant {
                context
                    .output
                    .result(|| object(&map, id, chain, None), |_| line(&map, id, chain).into_bytes())?;
            }
        }
        Ok(())
    }
}

/// Whether a chain waits for an operator.
pub(super) fn is_stuck(reasons: &[Reason]) -> bool {
    let waits = |reason: &Reason| matches!(reason, Reason::Waiting(Waits::AnySeed | Waits::CleanSeed { .. }));
    reasons.iter().any(waits)
}

impl Show {
    fn run(self, context: &mut Context) -> Result<()> {
        let mut operator = Operator::connect(context)?;
        operator.refresh();
        let id = operator.names().find_chain(&self.chain)?;
        // The map has the chain; what its members lack only a leader knows.
        let reasons = match operator.why(Subject::Chain(id)) {
            Ok(reasons) => Some(reasons),
            Err(failure) if failure.exit == Exit::Unavailable => {
                context.output.warn(&format!("{failure}"));
                None
            }
            Err(failure) => return Err(failure),
        };
        let map = operator.map();
        let chain = chain_of(map, id).ok_or_else(|| {
            Failure::new(Exit::NotFound, chain_name(id), "the cluster has no such chain any more")
        })?;
        let reasons = reasons.as_deref();
        context
            .output
            .result(|| object(map, id, chain, reasons), |_| lines(map, id, chain, reasons).into_bytes())
    }
}

/// The word for a member's state.
pub(crate) fn state_word(state: ReplicaState) -> &'static str {
    match state {
        ReplicaState::Serving => "serving",
        ReplicaState::Syncing => "syncing",
        ReplicaState::Waiting => "waiting",
        ReplicaState::LastServing => "last-serving",
        ReplicaState::Offline => "offline",
    }
}

fn phase_word(phase: Phase) -> &'static str {
    match phase {
        Phase::Prepared => "prepared",
        Phase::Active => "active",
    }
}

/// What a store still lacks, where the control group said it.
fn lag(reasons: Option<&[Reason]>, wanted: StoreId) -> Option<u64> {
    reasons?.iter().find_map(|reason| match reason {
        Reason::Member { store, lag, .. } if *store == wanted => Some(*lag),
        _ => None,
    })
}

/// `slice-17   full      3 of 3 serve  node-1/shard-0, node-2/shard-0, node-3/shard-0 syncing`
fn line(map: &Map, id: ChainId, chain: &Record) -> String {
    let names = Names::new(map);
    let members = chain.members.iter().map(|member| match member.state {
        ReplicaState::Serving => names.store_at(member.store),
        state => format!("{} {}", names.store_at(member.store), state_word(state)),
    });
    let changing = if tally::is_changing(chain) { " changing" } else { "" };
    let members = members.collect::<Vec<_>>().join(", ");
    let word = format!("{}{changing}", tally::standing(map, id, chain).word());
    format!("{:<11} {word:<9} {members}", chain_name(id))
}

fn lines(map: &Map, id: ChainId, chain: &Record, reasons: Option<&[Reason]>) -> String {
    let names = Names::new(map);
    let mut lines = vec![
        format!("chain       {}", chain_name(id)),
        format!("state       {}", tally::standing(map, id, chain).word()),
        format!("epoch       {}, {}", chain.epoch, phase_word(chain.phase)),
        format!("copies      {} serve, writes need {}", chain.serving().count(), chain.min_in_sync),
    ];
    for (place, member) in chain.members.iter().enumerate() {
        let record = map.stores.get(usize::from(member.store));
        let store = record.map(|record| record.store).unwrap_or_default();
        let role = match place {
            0 => "head",
            _ if place + 1 == chain.members.len() => "tail",
            _ => "",
        };
        let mut parts = vec![state_word(member.state).to_owned()];
        if member.is_seed {
            parts.push("may seed".to_owned());
        }
        if let Some(lag) = lag(reasons, store).filter(|lag| *lag > 0) {
            parts.push(match id {
                ChainId::Slice(_) => format!("its store lacks about {}", size::human(lag)),
                ChainId::Group(_) => format!("lacks {}", text::count(lag, "entry")),
            });
        }
        let name = names.store(store);
        lines.push(format!(
            "member {:<4} {name:<22} {store} {}",
            if role.is_empty() { "-" } else { role },
            parts.join(", ")
        ));
    }
    lines.join("\n")
}

fn object(map: &Map, id: ChainId, chain: &Record, reasons: Option<&[Reason]>) -> Object {
    let names = Names::new(map);
    let members = chain.members.iter().map(|member| {
        let record = map.stores.get(usize::from(member.store));
        let store = record.map(|record| record.store).unwrap_or_default();
        let node = record.map(|record| record.node).unwrap_or_default();
        let mut value = json!({
            "node": node.0,
            "node_name": names.node(node),
            "store": store.to_string(),
            "name": names.store(store),
            "state": state_word(member.state),
            "seed": member.is_seed,
        });
        if let Some(lag) = lag(reasons, store) {
            value["lag"] = lag.into();
        }
        value
    });
    let members: Vec<serde_json::Value> = members.collect();
    Object::new()
        .with("chain", chain_name(id))
        .with("state", tally::standing(map, id, chain).word())
        .with("changing", tally::is_changing(chain))
        .with("syncing", tally::is_syncing(chain))
        .with_some("stuck", reasons.map(is_stuck))
        .with("epoch", chain.epoch.0)
        .with("phase", phase_word(chain.phase))
        .with("min_in_sync", chain.min_in_sync)
        .with("serving", chain.serving().count())
        .with("members", members)
}

/// A copy of a chain: for `locate`.
pub(crate) struct Copy {
    /// Its node.
    pub(crate) node: NodeId,
    /// Its store.
    pub(crate) store: StoreId,
    /// How it stands.
    pub(crate) state: ReplicaState,
}

/// The copies of a chain, head first.
pub(crate) fn copies<'a>(map: &'a Map, chain: &'a Record) -> impl Iterator<Item = Copy> + 'a {
    chain.members.iter().filter_map(|member| {
        let record = map.stores.get(usize::from(member.store))?;
        Some(Copy { node: record.node, store: record.store, state: member.state })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::admin::sample;
    use wire::{GroupId, SliceIndex};

    #[test]
    fn a_chain_is_a_line() {
        let map = sample::map();
        let all: Vec<String> = chains(&map).map(|(id, chain)| line(&map, id, chain)).collect();
        assert_eq!(
            all,
            [
                "slice-0     full      node-1/shard-0, node-2/shard-0, node-3/shard-0",
                "slice-1     degraded changing node-2/shard-0, node-3/shard-0, node-1/shard-0 offline",
                "slice-2     read-only node-3/shard-0, node-1/shard-0 syncing, node-2/shard-0 waiting",
                "slice-3     down      node-1/shard-0 last-serving, node-2/shard-0 offline, node-3/shard-0 offline",
                "group-0     full      node-1/metadata, node-2/metadata, node-3/metadata",
            ]
        );
    }

    #[test]
    fn a_chain_is_shown_with_what_its_members_lack() {
        let map = sample::map();
        let id = ChainId::Slice(SliceIndex(2));
        let chain = chain_of(&map, id).expect("a chain");
        let reasons = [Reason::Member {
            chain: id,
            store: StoreId([1; 16]),
            state: ReplicaState::Syncing,
            lag: 64 << 20,
        }];
        let text = lines(&map, id, chain, Some(&reasons));
        assert!(text.contains("epoch       7, active\ncopies      1 serve, writes need 2\n"), "{text}");
        assert!(
            text.contains(
                "member head node-3/shard-0         03030303-0303-0303-0303-030303030303 serving, may seed"
            ),
            "{text}"
        );
        assert!(text.contains("syncing, its store lacks about 64.0 MiB"), "{text}");
        let object = object(&map, id, chain, Some(&reasons)).line();
        assert!(
            object.contains(r#""state":"read-only","changing":false,"syncing":true,"stuck":false,"epoch":7"#),
            "{object}"
        );
        assert!(object.contains(r#""lag":67108864"#), "{object}");
    }

    #[test]
    fn who_waits_for_an_operator_is_stuck() {
        for (waits, stuck) in
            [(Waits::AnySeed, true), (Waits::CleanSeed { missing: 1 }, true), (Waits::Turn, false)]
        {
            assert_eq!(is_stuck(&[Reason::Well, Reason::Waiting(waits)]), stuck);
        }
    }

    #[test]
    fn copies_are_in_order() {
        let map = sample::map();
        let chain = chain_of(&map, ChainId::Group(GroupId(0))).expect("a chain");
        let nodes: Vec<u32> = copies(&map, chain).map(|copy| copy.node.0).collect();
        assert_eq!(nodes, [1, 2, 3]);
    }
}
