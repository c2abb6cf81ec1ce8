//! `catena admin voters` and `catena admin min-in-sync`.

use wire::NodeId;
use wire::control::{Command, Done, NodeStatus};
use wire::map::Map;

use super::names::Names;
use super::node::done_object;
use super::operator::{Operator, nonsense};
use crate::context::Context;
use crate::failure::{Exit, Failure, Result};
use crate::json::Object;
use crate::text;

/// Show which nodes vote in the control group and who leads it, or change how many vote
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  catena admin voters
  catena admin voters set 3")]
pub(crate) struct Voters {
    #[command(subcommand)]
    command: Option<Change>,
}

#[derive(Debug, clap::Subcommand)]
enum Change {
    Set(Set),
}

/// Let 1, 3 or 5 nodes vote; which, the control group chooses
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  catena admin voters set 3")]
struct Set {
    /// How many
    #[arg(value_name = "N", value_parser = voters)]
    count: u8,
}

/// Set how many copies have to serve for a chain to take writes
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  catena admin min-in-sync 2

With fewer copies a chain can be read and not written. It can be no more than there are copies of everything.")]
pub(crate) struct MinInSync {
    /// How many: 1, 2 or 3
    #[arg(value_name = "N", value_parser = clap::value_parser!(u8).range(1..=3))]
    count: u8,
}

fn voters(text: &str) -> std::result::Result<u8, String> {
    match text {
        "1" => Ok(1),
        "3" => Ok(3),
        "5" => Ok(5),
        _ => Err(format!("`{text}` is no number of voters: 1, 3 or 5")),
    }
}

impl Voters {
    pub(crate) fn run(self, context: &mut Context) -> Result<()> {
        match self.command {
            None => show(context),
            Some(Change::Set(set)) => set.run(context),
        }
    }
}

fn show(context: &mut Context) -> Result<()> {
    let mut operator = Operator::connect(context)?;
    let nodes = operator.nodes();
    let leader = operator.leader();
    operator.refresh();
    let map = operator.map();
    for node in map.nodes.iter().filter(|node| node.voter > 0) {
        let row = Row::new(map, node.node, leader, nodes.as_deref().unwrap_or_default());
        context.output.result(|| row.object(), |_| row.line().into_bytes())?;
    }
    // Who votes stands in the map; that nobody leads is a failure all the same.
    nodes.map(|_| ())
}

/// A voter.
struct Row {
    node: NodeId,
    name: String,
    control: String,
    leads: bool,
    /// `None`: nobody leads, so nobody knows.
    alive: Option<bool>,
}

impl Row {
    fn new(map: &Map, node: NodeId, leader: Option<NodeId>, nodes: &[NodeStatus]) -> Self {
        let control = map.nodes.iter().find(|known| known.node == node).map(|known| known.control.clone());
        Self {
            node,
            name: Names::new(map).node(node),
            control: control.unwrap_or_default(),
            leads: leader == Some(node),
            alive: nodes.iter().find(|status| status.node == node).map(|status| status.is_alive),
        }
    }

    fn line(&self) -> String {
        let how = match (self.leads, self.alive) {
            (true, _) => "leads",
            (false, Some(true)) => "votes",
            (false, Some(false)) => "votes, isn't alive",
            (false, None) => "votes; whether it is alive isn't known",
        };
        format!("{:<12} {:<21} {how}", self.name, self.control)
    }

    fn object(&self) -> Object {
        Object::new()
            .with("node", self.node.0)
            .with("name", self.name.as_str())
            .with("control", self.control.as_str())
            .with("leads", self.leads)
            .with_some("alive", self.alive)
    }
}

impl Set {
    fn run(self, context: &mut Context) -> Result<()> {
        let mut operator = Operator::connect(context)?;
        let nodes = operator.map().nodes.len();
        let count = self.count;
        let act = operator.act(&Command::SetVoters(count));
        let (number, done) = act.map_err(|failure| refused(failure, count, nodes))?;
        let Done::VotersChanging { added, removed } = done else { return Err(nonsense()) };
        operator.refresh();
        let names = operator.names();
        let numbers = |nodes: &[NodeId]| nodes.iter().map(|node| node.0).collect::<Vec<_>>();
        context.output.note(
            || {
                done_object("voters-changing", number)
                    .with("added", numbers(&added))
                    .with("removed", numbers(&removed))
            },
            || {
                let mut parts = Vec::new();
                if !added.is_empty() {
                    parts.push(format!("to come: {}", names.nodes(added.iter().copied())));
                }
                if !removed.is_empty() {
                    parts.push(format!("to go: {}", names.nodes(removed.iter().copied())));
                }
                if parts.is_empty() {
                    return format!("nothing to change: {}", text::count(count.into(), "voter"));
                }
                format!("{count} are to vote; {} (map {number})", parts.join("; "))
            },
        )
    }
}

/// The control group's refusals are about numbers; here it is known of what.
fn refused(failure: Failure, count: u8, nodes: usize) -> Failure {
    if failure.exit == Exit::Conflict && failure.thing == "the cluster" {
        let reason = if usize::from(count) > nodes {
            format!("{count} voters need {count} nodes that run, and there are {nodes}")
        } else if count == 1 {
            format!(
                "1 voter is for clusters of 1 or 2 nodes, and there are {nodes}: it alone would stop all changes"
            )
        } else {
            format!("{count} voters need {count} nodes that run and follow the map")
        };
        return Failure::new(Exit::Conflict, "voters", reason)
            .next("see which nodes there are: catena admin node list");
    }
    failure
}

impl MinInSync {
    pub(crate) fn run(self, context: &mut Context) -> Result<()> {
        let mut operator = Operator::connect(context)?;
        let copies = operator.map().settings.chain_length;
        let count = self.count;
        let act = operator.act(&Command::SetMinInSync(count)).map_err(|failure| match failure.exit {
            Exit::Conflict => {
                let reason = format!(
                    "writes can't need {count} copies: of everything there {} {}",
                    if copies == 1 { "is" } else { "are" },
                    text::count(copies.into(), "copy")
                );
                Failure::new(Exit::Conflict, "min-in-sync", reason)
                    .next("add nodes first, or set a lower number: catena admin cluster status")
            }
            _ => failure,
        });
        let (number, _) = act?;
        context.output.note(
            || done_object("set", number).with("min_in_sync", count),
            || {
                format!(
                    "writes need {count} of {} to serve (map {number}); chains follow",
                    text::count(copies.into(), "copy")
                )
            },
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::admin::sample;
    use wire::MapNumber;

    #[test]
    fn voters_are_one_three_or_five() {
        for text in ["1", "3", "5"] {
            assert!(voters(text).is_ok());
        }
        for text in ["0", "2", "4", "6", "", "x", "-1"] {
            assert!(voters(text).is_err_and(|said| said.contains("1, 3 or 5")), "{text}");
        }
    }

    #[test]
    fn a_voter_is_a_line() {
        let map = sample::map();
        let status = |node, is_alive| NodeStatus {
            node: NodeId(node),
            life: None,
            heard: 0,
            is_alive,
            installed: MapNumber(17),
            members: 0,
            serving: 0,
            stores: Vec::new(),
        };
        let nodes = [status(1, true), status(2, true), status(3, false)];
        for (node, line) in [
            (1, "node-1       127.0.0.1:7421        leads"),
            (2, "node-2       127.0.0.1:7422        votes"),
            (3, "node-3       127.0.0.1:7423        votes, isn't alive"),
        ] {
            assert_eq!(Row::new(&map, NodeId(node), Some(NodeId(1)), &nodes).line(), line);
        }
        let unknown = Row::new(&map, NodeId(1), None, &[]);
        assert!(unknown.line().ends_with("isn't known") && !unknown.object().line().contains("alive"));
    }

    #[test]
    fn refusals_of_voters_say_what_is_needed() {
        let refusal = || Failure::new(Exit::Conflict, "the cluster", "this number doesn't fit it");
        for (count, nodes, part) in [
            (3, 1, "3 nodes that run, and there are 1"),
            (1, 3, "clusters of 1 or 2"),
            (3, 3, "follow the map"),
        ] {
            let failure = refused(refusal(), count, nodes);
            assert!(failure.thing == "voters" && failure.reason.contains(part), "{failure}");
        }
        let other = Failure::new(Exit::Unavailable, "the control group", "has no leader");
        assert_eq!(refused(other.clone(), 3, 1), other);
    }
}
