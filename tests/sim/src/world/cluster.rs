//! A cluster of whole nodes: how it is made, when it is whole, and what its operator does.

use std::collections::BTreeSet;
use std::sync::Arc;

use replica::{Replica, Role};
use wire::control::{Answer, Command, Done};
use wire::map::Phase;
use wire::{Nanos, NodeId, VolumeId};

use super::watch::{Watch, chains};
use super::{Happening, OPERATIONS, Phase as Stage, QUIET_LIMIT, STORM_LENGTH, World};
use crate::network::{Connection, Frame, Network, Sender, Side};
use crate::node::{CONTROL_PORT, Node, NodeSettings, Seat};
use crate::operator::{OPERATOR, OPERATOR_TICK, Operator, Step, Told, Wish};

/// What a cluster has beside its nodes and clients.
#[derive(Debug)]
pub(super) struct Cluster {
    pub(super) settings: NodeSettings,
    ring_bits: u8,
    /// Nodes that it begins with.
    pub(super) size: usize,
    pub(super) operator: Operator,
    operator_is_awake: bool,
    pub(super) watch: Watch,
    /// Nodes that never come back.
    pub(super) gone: BTreeSet<usize>,
    /// A node whose place another one takes.
    pub(super) replacing: Option<Replacing>,
    last_life: u64,
    storm_began: Nanos,
}

/// How far the replacing of a node is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Replacing {
    /// Which node of the world.
    old: usize,
    stage: Stages,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stages {
    /// The new node asks to be taken in.
    Joining(u64),
    /// It is there, and is told whose place it takes, under this number once it was asked.
    Placing(usize, Option<u64>),
}

/// A storm lasts at least so long.
const STORM_MIN: u64 = 300 * Nanos::SECOND;
/// Operations that may follow each other without a pause.
const BURST: u64 = 40;
/// Clients, at least.
const CLIENTS_MIN: u64 = 4;
/// How long a cluster has to become whole.
pub(super) const WHOLE_LIMIT: u64 = 400 * Nanos::SECOND;

impl Cluster {
    pub(super) fn new(settings: NodeSettings, ring_bits: u8, size: usize) -> Self {
        Self {
            settings,
            ring_bits,
            size,
            operator: Operator::default(),
            operator_is_awake: false,
            watch: Watch::default(),
            gone: BTreeSet::new(),
            replacing: None,
            last_life: 0,
            storm_began: Nanos(0),
        }
    }

    /// The first node.
    pub(super) fn founder(&self, seed: u64) -> Node {
        Node::founding(seed, self.settings, self.ring_bits)
    }
}

impl World {
    pub(super) fn cluster(&mut self) -> &mut Cluster {
        self.cluster.as_mut().expect("only in clusters")
    }

    /// As an operator makes it: a first node, then the others, one after the other.
    pub(super) fn form(&mut self) -> Result<(), String> {
        self.until("the first node", QUIET_LIMIT, |world| world.why_not_whole().is_none())?;
        while self.nodes.len() < self.cluster().size {
            let ask = self.ask_to_join();
            self.until("another node is taken in", QUIET_LIMIT, |world| {
                world.cluster.as_ref().is_some_and(|cluster| cluster.operator.has_told(ask))
            })?;
            match self.cluster().operator.take(ask) {
                Some(Told::Joined(id)) => self.seat(id),
                other => return Err(format!("a node can't join: {other:?}")),
            }
        }
        self.become_whole("the cluster forms")
    }

    /// Until everything serves with all its copies.
    pub(super) fn become_whole(&mut self, what: &str) -> Result<(), String> {
        self.until(what, WHOLE_LIMIT, |world| world.why_not_whole().is_none()).map_err(|error| {
            format!("{error}: {}\n{}", self.why_not_whole().unwrap_or_default(), self.describe())
        })
    }

    fn ask_to_join(&mut self) -> u64 {
        let number = self.nodes.len();
        let cluster = self.cluster();
        cluster.last_life += 1;
        let registration = Node::joining(number, cluster.settings, cluster.last_life);
        self.ask_control(Wish::Join(Box::new(registration)), 60 * Nanos::SECOND)
    }

    /// A node that was taken in is formatted with its number and the newest map, and starts.
    fn seat(&mut self, id: NodeId) {
        let number = self.nodes.len();
        let edition = self.cluster().watch.newest().cloned().expect("somebody took it in");
        let endpoints = (0..number).map(|node| Arc::from(format!("node-{node}:{CONTROL_PORT}")));
        let seat = Seat { id, edition, endpoints: endpoints.collect() };
        let node = Node::seated(self.seed, number, self.cluster().settings, seat);
        self.nodes.push(node);
        self.mending.push(0);
        let (mut around, nodes) = self.around();
        nodes[number].start(&mut around);
    }

    /// The operator asks the control group.
    pub(super) fn ask_control(&mut self, wish: Wish, patience: u64) -> u64 {
        let until = self.schedule.now().after(patience);
        let number = self.cluster().operator.ask(wish, until);
        if !std::mem::replace(&mut self.cluster().operator_is_awake, true) {
            self.schedule.after(OPERATOR_TICK, Happening::Operator);
        }
        number
    }

    /// A command, and its answer.
    pub(super) fn command(&mut self, command: &Command) -> Result<Answer, String> {
        let ask = self.ask_control(Wish::Manage(command.clone()), QUIET_LIMIT);
        self.until("the control group's answer", 2 * QUIET_LIMIT, |world| {
            world.cluster.as_ref().is_some_and(|cluster| cluster.operator.has_told(ask))
        })?;
        match self.cluster().operator.take(ask) {
            Some(Told::Answer(answer)) => Ok(*answer),
            other => Err(format!("{command:?}: {other:?}")),
        }
    }

    pub(super) fn operate(&mut self) {
        let now = self.schedule.now();
        self.go_on_replacing();
        match self.cluster().operator.step(now) {
            Step::Nothing if self.cluster().replacing.is_none() => {
                self.cluster().operator_is_awake = false;
                return;
            }
            Step::Nothing | Step::Wait => {}
            Step::Close(connection) => self.operator_closes(connection),
            Step::Call(leader, turn) => {
                let led = leader.and_then(|id| self.by_id(id));
                let node = led.unwrap_or(turn % self.nodes.len());
                let address = Arc::from(format!("node-{node}:{CONTROL_PORT}"));
                let connection = self.network.call(OPERATOR, &address, &mut self.schedule);
                self.cluster().operator.on_called(now, connection, node);
            }
        }
        self.schedule.after(OPERATOR_TICK, Happening::Operator);
    }

    fn operator_closes(&mut self, connection: Connection) {
        self.network.close(connection, Side::Caller, &mut self.schedule);
    }

    pub(super) fn operator_is_up(&mut self, connection: Connection) {
        for head in self.cluster().operator.on_up(connection) {
            let sender = Sender::Client(OPERATOR);
            let frame = Frame { connection, from: Side::Caller, life: 0, sender, head, payload: None };
            Network::send(frame, &mut self.schedule);
        }
    }

    pub(super) fn operator_hears(&mut self, connection: Connection, head: &[u8]) {
        if let Some(connection) = self.cluster().operator.on_head(connection, head) {
            self.operator_closes(connection);
        }
    }

    /// A node is lost for ever: another one takes its place.
    pub(super) fn replace(&mut self, old: usize) {
        let now = self.schedule.now();
        self.trace.tell(now, format_args!("node {old} is lost for ever"));
        self.tally.count("control", "nodes replaced");
        let (mut around, nodes) = self.around();
        nodes[old].die(true, &mut around);
        self.cluster().gone.insert(old);
        let ask = self.ask_to_join();
        self.cluster().replacing = Some(Replacing { old, stage: Stages::Joining(ask) });
    }

    fn go_on_replacing(&mut self) {
        let Some(Replacing { old, stage }) = self.cluster().replacing else { return };
        let next = match stage {
            Stages::Joining(ask) => match self.cluster().operator.take(ask) {
                None => return,
                Some(Told::Joined(id)) => {
                    self.seat(id);
                    Some(Stages::Placing(self.nodes.len() - 1, None))
                }
                Some(_) => Some(Stages::Joining(self.ask_to_join())),
            },
            Stages::Placing(new, None) => {
                let (old, id) = (self.nodes[old].id(), self.nodes[new].id());
                let command = Command::ReplaceNode { old, new: id };
                Some(Stages::Placing(new, Some(self.ask_control(Wish::Manage(command), 20 * Nanos::SECOND))))
            }
            Stages::Placing(new, Some(ask)) => match self.cluster().operator.take(ask) {
                None => return,
                Some(Told::Answer(answer)) => {
                    let now = self.schedule.now();
                    self.trace.tell(now, format_args!("node {new} for node {old}: {answer:?}"));
                    let is_done = matches!(*answer, Answer::Done { done: Done::Replacing { .. }, .. });
                    // Its answer may have been lost: then the old one is unknown.
                    let id = self.nodes[old].id();
                    let is_known = *answer == Answer::Refused(wire::control::Refusal::NodeUnknown(id));
                    (!is_done && !is_known).then_some(Stages::Placing(new, None))
                }
                Some(_) => Some(Stages::Placing(new, None)),
            },
        };
        self.cluster().replacing = next.map(|stage| Replacing { old, stage });
    }

    /// Nodes that are to be there.
    pub(super) fn living(&self) -> impl Iterator<Item = (usize, &Node)> {
        let gone = self.cluster.as_ref().map(|cluster| &cluster.gone);
        let all = self.nodes.iter().enumerate();
        all.filter(move |(number, _)| gone.is_none_or(|gone| !gone.contains(number)))
    }

    /// Who leads the control group, if it is one.
    pub(super) fn leader(&self) -> Option<usize> {
        let leads = |node: &Node| node.agent().is_some_and(crate::agent_unit::AgentUnit::leads);
        let mut leaders = (0..self.nodes.len()).filter(|number| leads(&self.nodes[*number]));
        leaders.next().filter(|_| leaders.next().is_none())
    }

    /// The replica that leads the metadata group.
    pub(super) fn head(&self) -> Option<(usize, &Replica)> {
        let replicas = self.nodes.iter().enumerate();
        let mut replicas = replicas.filter_map(|(number, node)| Some((number, node.meta()?.replica()?)));
        replicas.find(|(_, replica)| replica.role() == Role::Head)
    }

    /// What the cluster lacks of full redundancy.
    pub(super) fn why_not_whole(&self) -> Option<String> {
        let cluster = self.cluster.as_ref()?;
        if cluster.replacing.is_some() {
            return Some("a node is being replaced".to_owned());
        }
        let Some(leader) = self.leader() else { return Some("nobody leads".to_owned()) };
        let map = self.nodes[leader].agent().expect("it leads").edition().map().as_map();
        for (number, node) in self.living() {
            let newest = node.agent().is_some_and(|agent| agent.installed() == map.number);
            if !newest || !node.is_serving() || !node.has_lease(self.schedule.now()) {
                return Some(format!("node {number} doesn't follow map {}", map.number.0));
            }
        }
        let count = self.living().count();
        let length = count.min(3);
        let votes = map.nodes.iter().filter(|node| node.voter > 0).count();
        if map.nodes.len() != count || (count >= 3 && votes < 3) {
            return Some(format!("{} nodes, {votes} votes", map.nodes.len()));
        }
        let lacks = |chain: &wire::map::Chain| {
            chain.phase != Phase::Active || chain.serving().count() != length || chain.members.len() != length
        };
        let short = chains(map).find(|(_, chain)| lacks(chain));
        short.map(|(id, chain)| format!("{id:?} {chain:?}"))
    }

    /// All nodes, for a person.
    pub(super) fn describe(&self) -> String {
        let nodes = self.nodes.iter().enumerate().map(|(number, node)| {
            let agent =
                node.agent().map(|agent| (agent.edition().number().0, agent.installed().0, agent.leads()));
            let meta = node
                .meta()
                .and_then(|meta| meta.replica())
                .map(|replica| (replica.role(), replica.epoch(), replica.committed(), replica.received()));
            let conditions: Vec<_> = node.hosts.iter().map(|host| &host.condition).collect();
            let refused = node.control.as_ref().map(|control| (&control.refused, control.vote_is_lost));
            let lease = node.has_lease(self.schedule.now());
            format!(
                "node {number} {:?}: map {agent:?} lease {lease} group {meta:?} {conditions:?} {refused:?}\n",
                node.id()
            )
        });
        nodes.collect()
    }

    /// A cluster's life: it forms, serves, suffers, and becomes whole again.
    pub(super) fn cluster_everything(&mut self) -> Result<(), String> {
        let start = self.schedule.now();
        self.trace.tell(start, format_args!("{:?}", self.faults.profile()));
        self.start_nodes();
        self.form()?;
        self.trace.tell(self.schedule.now(), format_args!("the cluster is formed"));
        let volume = self.make_volume()?;
        self.storm(volume)?;
        self.calm()?;
        self.command(&Command::SetMinInSync(2))?;
        self.become_whole("after the faults")?;
        self.read_everything(volume)?;
        self.hold_while_replaced(volume)?;
        // What clients saw comes first: an inner assertion says where, an anomaly says that it matters.
        self.check()?;
        self.end_clients()?;
        self.until_clean(volume)?;
        self.end_nodes()?;
        self.tally.count("seed", "verified");
        self.count_all();
        self.tally.virtual_nanos = self.schedule.now().since(start);
        Ok(())
    }

    fn storm(&mut self, volume: VolumeId) -> Result<(), String> {
        self.phase = Stage::Storm;
        let began = self.schedule.now();
        self.cluster().storm_began = began;
        let count = self.random.between(CLIENTS_MIN, CLIENTS_MIN + 2);
        for client in 0..count {
            self.add_client(usize::try_from(client).expect("few"), volume);
        }
        self.schedule.after(Nanos::SECOND, Happening::Fault);
        let (least, most) = (began.after(STORM_MIN), began.after(STORM_LENGTH));
        self.until("the storm", 2 * STORM_LENGTH, |world| {
            let now = world.schedule.now();
            (now > least && world.operations_left == 0) || now > most
        })
    }

    /// Whether an operation may begin: they are spread over the storm, in bursts.
    pub(super) fn may_begin(&self) -> bool {
        let Some(cluster) = &self.cluster else { return true };
        let passed = self.schedule.now().since(cluster.storm_began);
        let due = BURST + OPERATIONS.saturating_sub(BURST) * passed / STORM_MIN;
        OPERATIONS - self.operations_left < due
    }
}
