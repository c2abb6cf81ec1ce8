//! A leader with obedient nodes: what it proposes is applied at once, and everybody follows at once, unless told otherwise.

use std::collections::BTreeMap;

use placement::{ClusterMap, OneNode, one_node};
use wire::control::{
    Answer, CaughtUp, ChainId, Command, Condition, Heartbeat, HeartbeatReply, Life, LogEnd, Registration,
    RegistrationReply, StoreBeat, StoreReport, Synced, next_incarnation,
};
use wire::map::{Chain, Map, Phase, ReplicaState, Unit};
use wire::{ClusterId, GroupId, Incarnation, MapNumber, Nanos, NodeId, ShardIndex, SliceIndex, StoreId};

use super::super::{Config, Effect, Effects, Event, Membership, Note, apply, chains};

pub(super) const MS: u64 = Nanos::MILLISECOND;

/// A node with a chunk store and a log.
#[derive(Clone)]
pub(super) struct Node {
    pub(super) id: NodeId,
    pub(super) life: Life,
    pub(super) is_up: bool,
    /// It follows no map but this one.
    pub(super) stuck_at: Option<MapNumber>,
    pub(super) syncs: bool,
    pub(super) suspects: Vec<NodeId>,
    pub(super) stores: Vec<StoreReport>,
    pub(super) rack: String,
}

/// Who comes to vote, and who goes.
type VotersChange = (Vec<(NodeId, u64)>, Vec<u64>);

pub(super) struct Cluster {
    pub(super) membership: Membership,
    pub(super) now: Nanos,
    pub(super) nodes: BTreeMap<u32, Node>,
    pub(super) confirms: bool,
    pub(super) rounds: Vec<u64>,
    pub(super) replies: Vec<HeartbeatReply>,
    pub(super) registered: Vec<RegistrationReply>,
    pub(super) answers: BTreeMap<u64, Answer>,
    pub(super) voters: Vec<VotersChange>,
    pub(super) notes: Vec<Note>,
    pub(super) maps: u32,
    next_token: u64,
}

pub(super) fn store(machine: u32, unit: u8) -> StoreId {
    StoreId([u8::try_from(machine).unwrap() * 4 + unit; 16])
}

pub(super) fn report(store: StoreId, unit: Unit) -> StoreReport {
    StoreReport {
        store,
        unit,
        address: "h:7430".to_owned(),
        incarnation: next_incarnation(Incarnation(0), u16::from(store.0[0])),
        lives: Vec::new(),
        recovered_cut: false,
        lacks: false,
        log_end: LogEnd::default(),
        sequence: 0,
        capacity_bytes: 4 << 30,
        used_bytes: 0,
        condition: Condition::Well,
    }
}

impl Node {
    fn new(machine: u32) -> Self {
        let shard = report(store(machine, 0), Unit::Shard(ShardIndex(0)));
        let log = report(store(machine, 1), Unit::Group(GroupId(0)));
        Self {
            id: NodeId(u32::from(machine == 1)),
            life: Life(u64::from(machine) << 32),
            is_up: true,
            stuck_at: None,
            syncs: true,
            suspects: Vec::new(),
            stores: vec![shard, log],
            rack: String::new(),
        }
    }

    /// Another life of its process and its stores.
    pub(super) fn begin_life(&mut self) {
        self.life.0 += 1;
        self.is_up = true;
        for store in &mut self.stores {
            store.lives = vec![store.incarnation];
            store.incarnation = next_incarnation(store.incarnation, 7);
        }
    }
}

impl Cluster {
    /// A cluster of one node, its leader just elected, nobody registered.
    pub(super) fn bare(ring_bits: u8) -> Self {
        let map = one_node(OneNode {
            cluster: ClusterId([1; 16]),
            node: NodeId(1),
            name: "node-1".to_owned(),
            stores: vec![(store(1, 0), ShardIndex(0), "h:7430".to_owned())],
            metadata: store(1, 1),
            metadata_address: "h:7430".to_owned(),
            control: "h:7422".to_owned(),
            ring_bits,
            reclaim_delay_ms: 1_000,
        });
        let map = map.expect("a valid map");
        let mut cluster = Self {
            membership: Membership::new(NodeId(1), Config::default(), map),
            now: Nanos(1_000 * Nanos::SECOND),
            nodes: BTreeMap::from([(1, Node::new(1))]),
            confirms: true,
            rounds: Vec::new(),
            replies: Vec::new(),
            registered: Vec::new(),
            answers: BTreeMap::new(),
            voters: Vec::new(),
            notes: Vec::new(),
            maps: 0,
            next_token: 1,
        };
        cluster.handle(Event::Elected);
        cluster.handle(Event::Voters(&[1]));
        cluster
    }

    /// So many nodes, everything serving, the grace of the election long over.
    pub(super) fn of(nodes: u32, ring_bits: u8) -> Self {
        let mut cluster = Self::bare(ring_bits);
        cluster.register(1);
        for machine in 2..=nodes {
            cluster.join(machine);
            cluster.run(1_000 * MS);
        }
        cluster.run(20_000 * MS);
        assert!(cluster.is_whole(), "{:#?}", cluster.map());
        cluster
    }

    pub(super) fn map(&self) -> &Map {
        self.membership.map().as_map()
    }

    pub(super) fn handle(&mut self, event: Event<'_>) {
        let mut effects = Effects::default();
        self.membership.handle(self.now, event, &mut effects);
        for effect in effects.list {
            self.on_effect(effect);
        }
    }

    fn on_effect(&mut self, effect: Effect) {
        match effect {
            Effect::Propose(delta) => {
                let map = self.membership.map().clone();
                let next = apply(&map, &delta).unwrap_or_else(|refused| panic!("{refused}: {delta:?}"));
                self.maps += 1;
                self.handle(Event::Applied(&next));
            }
            Effect::ConfirmLeadership { round } => {
                self.rounds.push(round);
                if self.confirms {
                    self.handle(Event::Confirmed { round });
                }
            }
            Effect::Reply(reply) => self.replies.push(reply),
            Effect::Registered { reply, .. } => self.registered.push(reply),
            Effect::Answer { token, answer } => {
                self.answers.insert(token, answer);
            }
            Effect::ChangeVoters { add, remove } => self.voters.push((add, remove)),
            Effect::Note(note) => self.notes.push(note),
            Effect::Arm(_) => (),
        }
    }

    pub(super) fn node(&mut self, machine: u32) -> &mut Node {
        self.nodes.get_mut(&machine).expect("a machine")
    }

    pub(super) fn join(&mut self, machine: u32) -> RegistrationReply {
        self.nodes.insert(machine, Node::new(machine));
        self.register(machine)
    }

    pub(super) fn restart(&mut self, machine: u32) -> RegistrationReply {
        self.node(machine).begin_life();
        self.register(machine)
    }

    pub(super) fn registration(&self, machine: u32) -> Registration {
        let node = &self.nodes[&machine];
        Registration {
            node: node.id,
            life: node.life,
            join: true,
            name: format!("node-{machine}"),
            rack: node.rack.clone(),
            control: "h:7422".to_owned(),
            sent: self.now,
            installed: self.installed(node),
            stores: node.stores.clone(),
        }
    }

    fn installed(&self, node: &Node) -> MapNumber {
        node.stuck_at.unwrap_or(self.map().number)
    }

    pub(super) fn register(&mut self, machine: u32) -> RegistrationReply {
        let registration = self.registration(machine);
        let reply = self.register_as(&registration);
        if let RegistrationReply::Accepted { node, .. } = &reply {
            self.node(machine).id = *node;
        }
        reply
    }

    pub(super) fn register_as(&mut self, registration: &Registration) -> RegistrationReply {
        self.next_token += 1;
        let token = self.next_token;
        self.handle(Event::Registered { token, registration });
        self.registered.last().cloned().expect("nothing is under way, so it is answered at once")
    }

    pub(super) fn heartbeat(&self, machine: u32) -> Heartbeat {
        let node = &self.nodes[&machine];
        let mut synced = Vec::new();
        let mut caught_up = Vec::new();
        for (id, chain) in chains(self.map()).filter(|_| node.syncs) {
            for member in &chain.members {
                let record = &self.map().stores[usize::from(member.store)];
                if record.node != node.id {
                    continue;
                }
                let (store, epoch) = (record.store, chain.epoch);
                match (member.state, chain.phase, id) {
                    (ReplicaState::Syncing, Phase::Active, _) => {
                        synced.push(Synced { chain: id, epoch, store, missing: 0 });
                    }
                    (ReplicaState::Waiting, _, ChainId::Group(group)) => {
                        caught_up.push(CaughtUp { group, store });
                    }
                    _ => (),
                }
            }
        }
        let beat = |report: &StoreReport| StoreBeat {
            store: report.store,
            condition: report.condition,
            sequence: report.sequence,
            used_bytes: report.used_bytes,
            lag: 0,
        };
        Heartbeat {
            node: node.id,
            life: node.life,
            sent: self.now,
            installed: self.installed(node),
            stores: node.stores.iter().map(beat).collect(),
            suspects: node.suspects.clone(),
            synced,
            caught_up,
            slow: Vec::new(),
        }
    }

    pub(super) fn beat(&mut self, machine: u32) {
        let beat = self.heartbeat(machine);
        self.handle(Event::Heartbeat(&beat));
    }

    /// Lets so much time pass.
    pub(super) fn run(&mut self, nanoseconds: u64) {
        let end = self.now.after(nanoseconds);
        while self.now < end {
            self.now = self.now.after(50 * MS).min(end);
            self.handle(Event::Tick);
            if self.now.0.is_multiple_of(250 * MS) {
                let up: Vec<u32> =
                    self.nodes.iter().filter(|(_, node)| node.is_up).map(|(machine, _)| *machine).collect();
                for machine in up {
                    self.beat(machine);
                }
            }
        }
    }

    pub(super) fn ask(&mut self, command: &Command) -> Answer {
        self.next_token += 1;
        let token = self.next_token;
        self.handle(Event::Command { token, command });
        self.answers.remove(&token).expect("nothing is under way, so it is answered at once")
    }

    pub(super) fn slice(&self, slice: u16) -> &Chain {
        &self.map().slices[usize::from(slice)].chain
    }

    pub(super) fn group(&self) -> &Chain {
        &self.map().groups[0].chain
    }

    /// The place of a machine's chunk store.
    pub(super) fn place(&self, store: StoreId) -> u16 {
        let place = self.map().stores.iter().position(|record| record.store == store);
        u16::try_from(place.expect("the map has it")).unwrap()
    }

    pub(super) fn state(&self, slice: u16, machine: u32) -> Option<ReplicaState> {
        let place = self.place(store(machine, 0));
        self.slice(slice).member(place).map(|member| member.state)
    }

    pub(super) fn is_whole(&self) -> bool {
        let length = usize::from(self.map().settings.chain_length);
        chains(self.map()).all(|(_, chain)| {
            chain.phase == Phase::Active && chain.serving().count() == length && chain.members.len() == length
        })
    }

    /// The slices in which a machine is a member.
    pub(super) fn slices_of(&self, machine: u32) -> Vec<SliceIndex> {
        let map: &ClusterMap = self.membership.map();
        map.slices_of(store(machine, 0)).collect()
    }
}
