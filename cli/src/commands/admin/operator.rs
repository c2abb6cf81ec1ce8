//! The connection to the control group, and its refusals in words.

use std::time::Duration;

use client::CONNECT_PATIENCE_DEFAULT;
use client::control::{Control, ControlError};
use wire::control::{Answer, Command, Done, Health, NodeStatus, Reason, Refusal, Subject};
use wire::map::Map;
use wire::{MapNumber, NodeId};

use super::names::{Names, chain_name};
use crate::context::Context;
use crate::endpoint;
use crate::failure::{Exit, Failure, Result};

/// For so long a leader is looked for; an election takes about a second.
const LEADER_PATIENCE: Duration = Duration::from_secs(10);

/// Whoever asks the control group.
#[derive(Debug)]
pub(crate) struct Operator {
    control: Control,
}

impl Operator {
    /// Learns the map at the endpoint that commands are given.
    pub(crate) fn connect(context: &Context) -> Result<Self> {
        let endpoints = endpoint::find(context.global.endpoint.as_deref())?;
        let given = context.global.timeout.map(|seconds| Duration::from_secs(seconds.into()));
        let control = Control::connect(&endpoints, given.unwrap_or(CONNECT_PATIENCE_DEFAULT));
        let control = control.map_err(|error| failure(&error, None))?;
        Ok(Self { control: control.with_patience(given.unwrap_or(LEADER_PATIENCE)) })
    }

    /// The newest map that is known here.
    pub(crate) fn map(&self) -> &Map {
        self.control.map().as_map()
    }

    /// Names in that map.
    pub(crate) fn names(&self) -> Names<'_> {
        Names::new(self.map())
    }

    /// Asks for a newer map.
    pub(crate) fn refresh(&mut self) {
        self.control.refresh();
    }

    /// Who answered last as the control group's leader.
    pub(crate) fn leader(&self) -> Option<NodeId> {
        self.control.leader()
    }

    /// An operator's command; a refusal is a failure.
    pub(crate) fn ask(&mut self, command: &Command) -> Result<Answer> {
        match self.control.ask(command) {
            Ok(Answer::Refused(refusal)) => Err(refused(refusal, self.names())),
            Ok(answer) => Ok(answer),
            Err(error) => Err(failure(&error, Some(self.map()))),
        }
    }

    /// A command that changes something: what was done, and the map that says so.
    pub(crate) fn act(&mut self, command: &Command) -> Result<(MapNumber, Done)> {
        match self.ask(command)? {
            Answer::Done { number, done } => Ok((number, done)),
            _ => Err(nonsense()),
        }
    }

    /// The whole in numbers.
    pub(crate) fn health(&mut self) -> Result<Health> {
        match self.ask(&Command::Health)? {
            Answer::Health(health) => Ok(health),
            _ => Err(nonsense()),
        }
    }

    /// Every node.
    pub(crate) fn nodes(&mut self) -> Result<Vec<NodeStatus>> {
        match self.ask(&Command::Nodes)? {
            Answer::Nodes(nodes) => Ok(nodes),
            _ => Err(nonsense()),
        }
    }

    /// Why something is as it is.
    pub(crate) fn why(&mut self, subject: Subject) -> Result<Vec<Reason>> {
        match self.ask(&Command::Why(subject))? {
            Answer::Why(reasons) => Ok(reasons),
            _ => Err(nonsense()),
        }
    }
}

/// An answer to another question.
pub(crate) fn nonsense() -> Failure {
    Failure::new(Exit::Failed, THING, "its answer is none to what was asked")
        .next("compare the versions of this command and of the nodes: catena --version")
}

/// What the failures here are about.
const THING: &str = "the control group";

/// Why it didn't answer; `map` says who votes, where one is known.
fn failure(error: &ControlError, map: Option<&Map>) -> Failure {
    match error {
        ControlError::Unreachable(tried) => {
            let texts: Vec<String> =
                tried.iter().map(|(address, why)| format!("{address}: {}", without_number(why))).collect();
            let reason =
                if texts.is_empty() { "there is no address to ask".to_owned() } else { texts.join("; ") };
            Failure::new(Exit::Unavailable, "the cluster", format!("nobody answers: {reason}")).next(
                "check that the nodes run, and that the endpoint is a node's data port (--endpoint, $CATENA_ENDPOINT), not its admin port",
            )
        }
        ControlError::NoLeader => {
            let voters = map.map(|map| {
                let voters = map.nodes.iter().filter(|node| node.voter > 0).map(|node| node.node);
                format!(" ({})", Names::new(map).nodes(voters))
            });
            let reason = "has no leader: nodes answer, and too few of its voters reach each other";
            Failure::new(Exit::Unavailable, THING, reason).next(format!(
                "start the nodes that vote{}: a majority of them has to run; until then chains with a copy on a node that is gone take no writes",
                voters.unwrap_or_default()
            ))
        }
        ControlError::Busy => {
            Failure::new(Exit::Unavailable, THING, "was busy with other changes all the time")
                .next("run the command again in a moment, or with a longer --timeout")
        }
        ControlError::Unknown(address) => {
            let reason = format!(
                "the connection to {address} broke before the answer: whether it was done isn't known"
            );
            Failure::new(Exit::Unknown, THING, reason)
                .next("look whether it was done: catena admin cluster status")
        }
        ControlError::Protocol(address) => {
            let reason = format!("{address} doesn't speak the protocol, or another version of it");
            Failure::new(Exit::Failed, THING, reason)
                .next("compare the versions of this command and of the nodes: catena --version")
        }
    }
}

/// `Connection refused (os error 111)` without what only a programmer reads.
fn without_number(text: &str) -> String {
    let words = text.split(" (os error").next().unwrap_or(text);
    let mut chars = words.chars();
    match chars.next() {
        Some(first) => first.to_lowercase().chain(chars).collect(),
        None => String::new(),
    }
}

/// A refusal as a failure.
pub(crate) fn refused(refusal: Refusal, names: Names<'_>) -> Failure {
    match refusal {
        Refusal::NotLeader(_) => failure(&ControlError::NoLeader, None),
        Refusal::Unknown => undecided(),
        Refusal::Busy => busy(),
        Refusal::NodeUnknown(node) => absent(names.node(node), "the cluster has no such node", "node list"),
        Refusal::StoreUnknown(store) => {
            let reason = "no such store is in the cluster, and no node that runs has registered it";
            Failure::new(Exit::NotFound, names.store(store), reason)
                .next("start the node that has it; stores of the cluster: catena admin node list")
        }
        Refusal::ChainUnknown(chain) => {
            absent(chain_name(chain), "the cluster has no such chain", "chain list")
        }
        Refusal::NodeAlive(node) => {
            let name = names.node(node);
            let step =
                format!("stop it first, and wait until its lease has run out: catena admin why node {name}");
            conflict(name, "is alive, or may be", step)
        }
        Refusal::NodeAbsent(node) => {
            let name = names.node(node);
            let step = format!("start it: catena admin why node {name} says how it is");
            conflict(name, "isn't alive: only a node that runs can take another's place", step)
        }
        Refusal::StoreAlive(store) => {
            let name = names.store(store);
            let step = "stop its node, or take its disk out, if it is really to go";
            conflict(name, "works: only a store that is gone can be replaced or expelled", step)
        }
        Refusal::NotEmpty(store) => {
            let step = "name a store that was just formatted and is a member of no chain";
            conflict(names.store(store), "holds copies already, or isn't empty", step)
        }
        Refusal::WrongUnit(store) => {
            let step = "a shard's store takes a shard's place, a metadata log a metadata log's";
            conflict(names.store(store), "is of another kind than the one whose place it is to take", step)
        }
        Refusal::TwoOnOneNode(chain) => {
            let step =
                "name a new store on the node of the old one, or on a node without a copy of this chain";
            conflict(chain_name(chain), "would have two copies on one node", step)
        }
        Refusal::TooFewNodes { left, chain_length } => {
            let reason = format!("too few nodes: {left} would be there, and {chain_length} are needed");
            conflict("the cluster", &reason, TOO_FEW)
        }
        Refusal::LastCopy(chain) => {
            let name = chain_name(chain);
            let step = format!("start the node that has its last copy: catena admin why chain {name}");
            conflict(name, "would be left without any copy that serves", step)
        }
        Refusal::NothingLost => {
            conflict("the cluster", NOTHING_LOST, "see what isn't well: catena admin why")
        }
        Refusal::NobodyPresent(chain) => {
            let name = chain_name(chain);
            let step = format!("start one of the nodes that have a copy: catena admin chain show {name}");
            conflict(name, "no copy of it is there to go on with", step)
        }
        Refusal::OutOfRange => {
            let step = "look how many nodes and copies there are: catena admin cluster status";
            conflict("the cluster", "this number doesn't fit it", step)
        }
        Refusal::Full => {
            Failure::new(Exit::Failed, "the cluster map", "has no room for another store or chain")
                .next("nothing can be done about it but a new cluster")
        }
    }
}

const NOTHING_LOST: &str = "no such chain lacks a serving copy: there is no loss to accept";
const TOO_FEW: &str = "add a node first (catena server join --help); `catena admin node forget --force` goes on with fewer copies of everything";

fn conflict(thing: impl Into<String>, reason: &str, step: impl Into<String>) -> Failure {
    Failure::new(Exit::Conflict, thing, reason).next(step)
}

fn absent(thing: String, reason: &str, list: &str) -> Failure {
    Failure::new(Exit::NotFound, thing, reason).next(format!("see which there are: catena admin {list}"))
}

fn busy() -> Failure {
    Failure::new(Exit::Unavailable, THING, "a change is under way that this one has to wait for")
        .next("run the command again in a moment")
}

fn undecided() -> Failure {
    let reason =
        "another node became its leader while the change was under way: whether it was done isn't known";
    Failure::new(Exit::Unknown, THING, reason).next("look whether it was done: catena admin cluster status")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::admin::sample;
    use wire::control::ChainId;
    use wire::{GroupId, SliceIndex, StoreId};

    #[test]
    fn every_refusal_names_the_thing_and_a_next_step() {
        let map = sample::map();
        let (node, store, chain) = (NodeId(2), StoreId([2; 16]), ChainId::Slice(SliceIndex(3)));
        for (refusal, exit, thing) in [
            (Refusal::NotLeader(None), Exit::Unavailable, "the control group"),
            (Refusal::Unknown, Exit::Unknown, "the control group"),
            (Refusal::Busy, Exit::Unavailable, "the control group"),
            (Refusal::NodeUnknown(NodeId(9)), Exit::NotFound, "node 9"),
            (Refusal::StoreUnknown(store), Exit::NotFound, "node-2/shard-0"),
            (Refusal::ChainUnknown(ChainId::Group(GroupId(4))), Exit::NotFound, "group-4"),
            (Refusal::NodeAlive(node), Exit::Conflict, "node-2"),
            (Refusal::NodeAbsent(node), Exit::Conflict, "node-2"),
            (Refusal::StoreAlive(store), Exit::Conflict, "node-2/shard-0"),
            (Refusal::NotEmpty(store), Exit::Conflict, "node-2/shard-0"),
            (Refusal::WrongUnit(store), Exit::Conflict, "node-2/shard-0"),
            (Refusal::TwoOnOneNode(chain), Exit::Conflict, "slice-3"),
            (Refusal::TooFewNodes { left: 2, chain_length: 3 }, Exit::Conflict, "the cluster"),
            (Refusal::LastCopy(chain), Exit::Conflict, "slice-3"),
            (Refusal::NothingLost, Exit::Conflict, "the cluster"),
            (Refusal::NobodyPresent(chain), Exit::Conflict, "slice-3"),
            (Refusal::OutOfRange, Exit::Conflict, "the cluster"),
            (Refusal::Full, Exit::Failed, "the cluster map"),
        ] {
            let failure = refused(refusal, Names::new(&map));
            assert_eq!((failure.exit, failure.thing.as_str()), (exit, thing), "{refusal:?}");
            assert!(failure.next.is_some_and(|next| !next.is_empty()), "{refusal:?}");
        }
    }

    #[test]
    fn who_doesnt_answer_is_named() {
        let map = sample::map();
        let tried = vec![("127.0.0.1:1".to_owned(), "Connection refused (os error 111)".to_owned())];
        for (error, exit, part) in [
            (ControlError::Unreachable(tried), Exit::Unavailable, "127.0.0.1:1: connection refused"),
            (ControlError::Unreachable(Vec::new()), Exit::Unavailable, "no address to ask"),
            (
                ControlError::NoLeader,
                Exit::Unavailable,
                "start the nodes that vote (node-1, node-2 and node-3)",
            ),
            (ControlError::Busy, Exit::Unavailable, "other changes"),
            (ControlError::Unknown("h:1".to_owned()), Exit::Unknown, "h:1"),
            (ControlError::Protocol("h:1".to_owned()), Exit::Failed, "h:1"),
        ] {
            let failure = failure(&error, Some(&map));
            let text = failure.to_string();
            assert!(failure.exit == exit && text.contains(part) && !text.contains("os error"), "{text}");
        }
    }
}
