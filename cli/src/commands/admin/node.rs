//! `catena admin node list|replace|forget|ok-to-stop`.

use serde_json::json;
use wire::control::{Answer, Command, Condition, Done, NodeStatus, StopRisk};
use wire::map::Map;
use wire::{MapNumber, NodeId};

use super::names::{Names, chain_name, listed};
use super::operator::{Operator, nonsense};
use crate::context::Context;
use crate::failure::{Exit, Failure, Result};
use crate::json::Object;
use crate::text::{self, size, time};

/// Chains that are named one by one.
const NAMED_MAX: usize = 8;

/// List nodes, replace or forget one that is gone, or ask whether one can be stopped
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Node {
    List(List),
    Replace(Replace),
    Forget(Forget),
    OkToStop(OkToStop),
}

/// List the nodes and their stores
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  catena admin node list
  catena admin node list --json")]
pub(crate) struct List {}

/// Let a new node take the places of one that is gone for good
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  catena admin node replace node-2 node-4

The old node must not run any more. The new one has joined the cluster, runs, and holds nothing yet. It is brought up to date
from the other copies; see how far that is: catena admin cluster status --wait")]
pub(crate) struct Replace {
    /// The node that is gone: its name or number
    #[arg(value_name = "OLD")]
    old: String,
    /// The node that takes its places
    #[arg(value_name = "NEW")]
    new: String,
}

/// Spread the copies of a node that is gone for good over the others
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  catena admin node forget node-2

The node must not run any more; it can't come back as what it was.")]
pub(crate) struct Forget {
    /// The node: its name or number
    #[arg(value_name = "NODE")]
    node: String,
    /// Even if the others are too few for as many copies as before: everything then has fewer
    #[arg(long)]
    force: bool,
}

/// Say whether everything can still be read and written without a node: exit code 0 for yes, 5 for no
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  catena admin node ok-to-stop node-2 && ssh node-2 systemctl stop catena")]
pub(crate) struct OkToStop {
    /// The node: its name or number
    #[arg(value_name = "NODE")]
    node: String,
}

impl Node {
    pub(crate) fn run(self, context: &mut Context) -> Result<()> {
        match self {
            Self::List(List {}) => list(context),
            Self::Replace(command) => command.run(context),
            Self::Forget(command) => command.run(context),
            Self::OkToStop(command) => command.run(context),
        }
    }
}

fn list(context: &mut Context) -> Result<()> {
    let mut operator = Operator::connect(context)?;
    let nodes = operator.nodes()?;
    operator.refresh();
    let map = operator.map();
    let newest = map.number;
    for status in &nodes {
        context.output.result(|| object(map, status), |_| lines(map, status, newest).into_bytes())?;
    }
    Ok(())
}

impl Replace {
    fn run(self, context: &mut Context) -> Result<()> {
        let mut operator = Operator::connect(context)?;
        let names = operator.names();
        let (old, new) = (names.find_node(&self.old)?, names.find_node(&self.new)?);
        let (old_name, new_name) = (names.node(old), names.node(new));
        if old == new {
            return Err(Failure::usage(old_name, "can't take its own places"));
        }
        let (number, done) = operator.act(&Command::ReplaceNode { old, new })?;
        let Done::Replacing { chains } = done else { return Err(nonsense()) };
        context.output.note(
            || done_object("replacing", number).with("chains", chains).with("old", old.0).with("new", new.0),
            || {
                let chains = text::count(chains.into(), "chain");
                format!("{new_name} takes {old_name}'s places in {chains} (map {number}); see how far it is: catena admin cluster status --wait")
            },
        )
    }
}

impl Forget {
    fn run(self, context: &mut Context) -> Result<()> {
        let mut operator = Operator::connect(context)?;
        let node = operator.names().find_node(&self.node)?;
        let name = operator.names().node(node);
        let (number, done) = operator.act(&Command::ForgetNode { node, force: self.force })?;
        let Done::Forgotten { chains, short } = done else { return Err(nonsense()) };
        context.output.note(
            || done_object("forgotten", number).with("node", node.0).with("chains", chains).with("short", short),
            || {
                let chains = text::count(chains.into(), "chain");
                let rest = match short {
                    0 => String::new(),
                    short => format!(", {} stay short for want of nodes", text::count(short.into(), "chain")),
                };
                format!("{name} is forgotten: {chains} get a new copy{rest} (map {number}); see how far it is: catena admin cluster status --wait")
            },
        )
    }
}

impl OkToStop {
    fn run(self, context: &mut Context) -> Result<()> {
        let mut operator = Operator::connect(context)?;
        let node = operator.names().find_node(&self.node)?;
        let name = operator.names().node(node);
        let Answer::OkToStop(risk) = operator.ask(&Command::OkToStop(node))? else { return Err(nonsense()) };
        let is_ok = risk.is_ok();
        context.output.result(
            || risk_object(node, &risk),
            |_| {
                let text = if is_ok {
                    format!("{name} can be stopped: everything stays readable and writable")
                } else {
                    risk_lines(&name, &risk)
                };
                text.into_bytes()
            },
        )?;
        if is_ok {
            return Ok(());
        }
        Err(Failure::new(Exit::Conflict, name, "can't be stopped without harm, as the lines above say").next(
            "wait until everything has all of its copies, then ask again: catena admin cluster status --wait",
        ))
    }
}

/// What a command did, to which fields are added.
pub(super) fn done_object(done: &str, number: MapNumber) -> Object {
    Object::new().with("done", done).with("map", number.0)
}

/// What would be at risk, a line each.
fn risk_lines(name: &str, risk: &StopRisk) -> String {
    let mut lines = Vec::new();
    if risk.reads_stop > 0 {
        let chains = text::count(risk.reads_stop.into(), "chain");
        lines.push(format!("{chains} would serve nothing without {name}"));
    }
    if risk.writes_stop > 0 {
        let chains = text::count(risk.writes_stop.into(), "chain");
        lines.push(format!("{chains} would take no writes without {name}"));
    }
    if risk.control_stops {
        lines.push(format!("the control group would lose its majority without {name}"));
    }
    if !risk.chains.is_empty() {
        let named = risk.chains.iter().take(NAMED_MAX).map(|chain| chain_name(*chain)).collect::<Vec<_>>();
        let more = if risk.chains.len() > NAMED_MAX { ", …" } else { "" };
        lines.push(format!("among them {}{more}", named.join(", ")));
    }
    lines.join("\n")
}

fn risk_object(node: NodeId, risk: &StopRisk) -> Object {
    let chains: Vec<String> = risk.chains.iter().map(|chain| chain_name(*chain)).collect();
    Object::new()
        .with("node", node.0)
        .with("ok", risk.is_ok())
        .with("reads_stop", risk.reads_stop)
        .with("writes_stop", risk.writes_stop)
        .with("control_stops", risk.control_stops)
        .with("chains", chains)
}

/// How a store is, in a word.
pub(super) fn condition_word(condition: Option<Condition>) -> &'static str {
    match condition {
        None => "absent",
        Some(Condition::Well) => "well",
        Some(Condition::Fenced) => "fenced",
        Some(Condition::Failed) => "failed",
    }
}

/// `node-1  alive, votes, 12 of 12 copies serve, follows map 17, 127.0.0.1:7422`, and its stores below it.
fn lines(map: &Map, status: &NodeStatus, newest: MapNumber) -> String {
    let names = Names::new(map);
    let record = map.nodes.iter().find(|node| node.node == status.node);
    let heard = time::duration(status.heard);
    let mut parts = vec![match (status.is_alive, status.life) {
        (true, _) => "alive".to_owned(),
        (false, _) => format!("not alive, silent for {heard}"),
    }];
    if let Some(record) = record {
        if record.voter > 0 {
            parts.push("votes".to_owned());
        }
        if !record.rack.is_empty() {
            parts.push(format!("rack {}", text::quote(record.rack.as_bytes())));
        }
    }
    parts.push(format!(
        "{} of {} serving",
        size::grouped(status.serving.into()),
        text::count(status.members.into(), "copy")
    ));
    if status.is_alive && status.installed < newest {
        parts.push(format!("follows map {} of {newest}", status.installed));
    }
    if let Some(record) = record {
        parts.push(record.control.clone());
    }
    let name = names.node(status.node);
    let mut lines = vec![format!("{name:<12} node {}: {}", status.node, parts.join(", "))];
    lines.extend(status.stores.iter().map(|(store, condition)| {
        format!("  {:<22} {store} {}", names.store(*store), condition_word(*condition))
    }));
    lines.join("\n")
}

fn object(map: &Map, status: &NodeStatus) -> Object {
    let names = Names::new(map);
    let record = map.nodes.iter().find(|node| node.node == status.node);
    let stores = status.stores.iter().map(|(store, condition)| {
        json!({
            "store": store.to_string(),
            "name": names.store(*store),
            "condition": condition_word(*condition),
        })
    });
    Object::new()
        .with("node", status.node.0)
        .with("name", names.node(status.node))
        .with("alive", status.is_alive)
        .with("heard_ms", status.heard / 1_000_000)
        .with("map", status.installed.0)
        .with("votes", record.is_some_and(|node| node.voter > 0))
        .with("rack", record.map_or("", |node| node.rack.as_str()))
        .with("control", record.map_or("", |node| node.control.as_str()))
        .with("copies", status.members)
        .with("copies_serving", status.serving)
        .with("stores", stores.collect::<Vec<_>>())
}

/// Nodes that aren't alive, by name; `None`: all are.
pub(super) fn dead(names: Names<'_>, nodes: &[NodeStatus]) -> Option<String> {
    let dead: Vec<String> =
        nodes.iter().filter(|node| !node.is_alive).map(|node| names.node(node.node)).collect();
    (!dead.is_empty()).then(|| listed(dead))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::admin::sample;
    use wire::SliceIndex;
    use wire::control::{ChainId, Life};

    fn status() -> NodeStatus {
        let map = sample::map();
        NodeStatus {
            node: NodeId(2),
            life: Some(Life(1)),
            heard: 250_000_000,
            is_alive: true,
            installed: MapNumber(17),
            members: 5,
            serving: 4,
            stores: vec![(map.stores[1].store, Some(Condition::Well)), (map.stores[4].store, None)],
        }
    }

    #[test]
    fn a_node_is_a_line_and_a_line_for_each_store() {
        let map = sample::map();
        assert_eq!(
            lines(&map, &status(), map.number),
            "node-2       node 2: alive, votes, 4 of 5 copies serving, 127.0.0.1:7422\n  \
             node-2/shard-0         02020202-0202-0202-0202-020202020202 well\n  \
             node-2/metadata        0c0c0c0c-0c0c-0c0c-0c0c-0c0c0c0c0c0c absent"
        );
        let silent = NodeStatus { is_alive: false, life: None, heard: 12_000_000_000, ..status() };
        assert!(lines(&map, &silent, map.number).contains("not alive, silent for 12.0 s"));
        let behind = lines(&map, &status(), MapNumber(19));
        assert!(behind.contains("follows map 17 of 19"), "{behind}");
        assert_eq!(dead(Names::new(&map), &[status(), silent]).as_deref(), Some("node-2"));
        assert_eq!(dead(Names::new(&map), &[status()]), None);
    }

    #[test]
    fn a_node_as_an_object() {
        let line = object(&sample::map(), &status()).line();
        assert!(
            line.starts_with(
                r#"{"v":1,"node":2,"name":"node-2","alive":true,"heard_ms":250,"map":17,"votes":true"#
            ),
            "{line}"
        );
        assert!(line.contains(r#""condition":"absent""#), "{line}");
    }

    #[test]
    fn risks_are_counted_and_named() {
        let risk = StopRisk {
            writes_stop: 2,
            reads_stop: 1,
            chains: (0..9).map(|slice| ChainId::Slice(SliceIndex(slice))).collect(),
            control_stops: true,
        };
        assert_eq!(
            risk_lines("node-2", &risk),
            "1 chain would serve nothing without node-2\n2 chains would take no writes without node-2\n\
             the control group would lose its majority without node-2\n\
             among them slice-0, slice-1, slice-2, slice-3, slice-4, slice-5, slice-6, slice-7, …"
        );
        assert!(risk_object(NodeId(2), &risk).line().contains(r#""ok":false,"reads_stop":1"#));
    }
}
