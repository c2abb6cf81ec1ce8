//! Members of one group, each on its own disk, connected by what they dial.

use std::collections::BTreeMap;
use std::sync::Arc;

use placement::{ClusterMap, Edition};
use replica::{ReplicaConfig, Role};
use wire::map::{Chain, Map, Member as ChainMember, Phase, ReplicaState, Standing, Store, Unit};
use wire::message::Request;
use wire::meta::Query;
use wire::{Epoch, GroupId, Incarnation, MapNumber, Nanos, NodeId, SessionId, Status, StoreId};

use ReplicaState::{Serving, Syncing, Waiting};

use super::bench::{Bench, CLUSTER, LINKS_MAX, create_volume, make_directory, map, mutation};
use crate::{CloseReason, Identity, Link, Member, Note};

/// A client's connection.
const CLIENT: u64 = 1;
/// The first log's index in the map, behind the two stores of the shards.
const FIRST_LOG: u16 = 2;

struct Cluster {
    nodes: Vec<Bench>,
    /// Ends of the connections between members: node and number, either way.
    ends: BTreeMap<(usize, u64), (usize, u64)>,
    last_link: u64,
    /// Frames to them are lost.
    cut_off: Option<usize>,
    map: Map,
}

fn log(at: usize) -> StoreId {
    StoreId([0xf0 + u8::try_from(at).unwrap(); 16])
}

fn settings() -> ReplicaConfig {
    ReplicaConfig {
        reclaim_delay: Nanos::SECOND,
        recent_bytes: 2_000,
        message_bytes: 700,
        ..ReplicaConfig::default()
    }
}

/// The map with a chain of these members.
fn chained(map: &Map, states: &[ReplicaState], phase: Phase, epoch: u64) -> Map {
    let mut map = map.clone();
    map.number = MapNumber(map.number.0 + 1);
    let member = |(store, state): (u16, &ReplicaState)| ChainMember {
        store,
        state: *state,
        is_seed: *state == Serving,
    };
    let members = (FIRST_LOG..).zip(states).map(member).collect();
    map.groups[0].chain = Chain { epoch: Epoch(epoch), phase, min_in_sync: 1, members };
    map
}

impl Cluster {
    fn new(states: &[ReplicaState]) -> Self {
        let mut first = map(1, [10, 11]).as_map().clone();
        first.settings.chain_length = 3;
        first.stores.pop();
        for at in 0..states.len() {
            first.stores.push(Store {
                store: log(at),
                node: NodeId(1),
                unit: Unit::Group(GroupId(0)),
                address: format!("127.0.0.1:{}", 20 + at),
                incarnation: Incarnation(1),
                weight: 0,
                standing: Standing::Member,
            });
        }
        let first = chained(&first, states, Phase::Prepared, 1);
        let identity = |store| Identity {
            cluster: CLUSTER,
            node: NodeId(1),
            group: GroupId(0),
            store,
            links_max: LINKS_MAX + 10,
        };
        let node = |at| Bench::of(settings(), identity(log(at)), ClusterMap::new(first.clone()).unwrap());
        let mut cluster = Self {
            nodes: (0..states.len()).map(node).collect(),
            ends: BTreeMap::new(),
            last_link: 100,
            cut_off: None,
            map: first,
        };
        cluster.settle();
        for node in &mut cluster.nodes {
            node.greeted(CLIENT);
        }
        cluster.change(states, 1);
        cluster
    }

    /// Another epoch, or a change in the present one.
    fn change(&mut self, states: &[ReplicaState], epoch: u64) {
        for phase in [Phase::Prepared, Phase::Active] {
            if (phase, Epoch(epoch)) <= (Phase::Prepared, self.map.groups[0].chain.epoch) {
                continue;
            }
            self.map = chained(&self.map, states, phase, epoch);
            let edition = Arc::new(Edition::new(ClusterMap::new(self.map.clone()).unwrap()));
            for node in &mut self.nodes {
                node.edition = Arc::clone(&edition);
                let edition = Arc::clone(&edition);
                node.event(|member, clock, memory, effects| member.on_map(clock, edition, memory, effects));
            }
            self.settle();
        }
        self.pass(Nanos::SECOND / 5);
    }

    /// Everything that can happen without time passing does.
    fn settle(&mut self) {
        loop {
            let mut moved = false;
            for at in 0..self.nodes.len() {
                self.nodes[at].run();
                moved |= self.connect(at) | self.deliver(at) | self.close(at);
            }
            if !moved {
                return;
            }
        }
    }

    fn connect(&mut self, at: usize) -> bool {
        let dials = std::mem::take(&mut self.nodes[at].dials);
        for dial in &dials {
            let Some(to) = dial.peer.checked_sub(FIRST_LOG).map(usize::from) else {
                // Stores of chunks: nobody is there.
                self.nodes[at].event(|member, _, _, _| member.on_dialled(dial.peer, None));
                continue;
            };
            let (near, far) = (self.last_link + 1, self.last_link + 2);
            self.last_link = far;
            let is_up = self.cut_off != Some(at) && self.cut_off != Some(to);
            let link = is_up.then_some(Link(near));
            self.nodes[at].event(|member, _, _, _| member.on_dialled(dial.peer, link));
            if is_up {
                self.ends.extend([((at, near), (to, far)), ((to, far), (at, near))]);
                self.nodes[to].open(far);
                self.nodes[at].event(|member, _, _, effects| member.on_up(Link(near), effects));
            }
        }
        !dials.is_empty()
    }

    fn deliver(&mut self, at: usize) -> bool {
        let (between, others): (Vec<_>, Vec<_>) = std::mem::take(&mut self.nodes[at].sent)
            .into_iter()
            .partition(|sent| self.ends.contains_key(&(at, sent.link.0)));
        self.nodes[at].sent = others;
        for sent in &between {
            let (to, link) = self.ends[&(at, sent.link.0)];
            let close = self.nodes[to].event(|member, clock, memory, effects| {
                member.on_head(clock, Link(link), &sent.prefix, &sent.message, memory, effects)
            });
            assert_eq!(close, None, "members keep the protocol");
        }
        !between.is_empty()
    }

    fn close(&mut self, at: usize) -> bool {
        let closes = std::mem::take(&mut self.nodes[at].closes);
        let mut closed = false;
        for (link, reason) in closes {
            if self.ends.contains_key(&(at, link.0)) {
                self.end(at, link.0);
                closed = true;
            } else {
                self.nodes[at].closes.push((link, reason));
            }
        }
        closed
    }

    /// A connection between members ends.
    fn end(&mut self, at: usize, link: u64) {
        let Some((to, far)) = self.ends.remove(&(at, link)) else { return };
        self.ends.remove(&(to, far));
        self.nodes[at].close(link);
        self.nodes[to].close(far);
    }

    /// The node can't reach the others any more.
    fn cut(&mut self, at: usize) {
        self.cut_off = Some(at);
        let links: Vec<u64> = self.ends.keys().filter(|end| end.0 == at).map(|end| end.1).collect();
        for link in links {
            self.end(at, link);
        }
    }

    fn pass(&mut self, nanos: u64) {
        for _ in 0..nanos / (10 * Nanos::MILLISECOND) {
            for node in &mut self.nodes {
                node.now = node.now.after(10 * Nanos::MILLISECOND);
                node.event(Member::on_tick);
            }
            self.settle();
        }
    }

    fn ask(&mut self, at: usize, correlation: u64, request: &Request<'_>) -> Vec<(u64, Status)> {
        assert_eq!(self.nodes[at].request(CLIENT, correlation, request), None);
        self.settle();
        self.nodes[at].answers()
    }

    /// A session with a volume, and directories in it.
    fn filled(&mut self, directories: u64) -> SessionId {
        self.nodes[0].request(CLIENT, 1, &Request::OpenSession { name: "test".into() });
        self.settle();
        let reply = self.nodes[0].reply();
        let wire::message::Reply::Session(grant) = super::bench::decode(&reply) else { panic!("{reply:?}") };
        for number in 0..=directories {
            let operation = if number == 0 { create_volume() } else { make_directory(number) };
            let answers = self.ask(0, 2 + number, &mutation(grant.session, number + 1, operation));
            assert_eq!(answers, [(2 + number, Status::Ok)]);
        }
        grant.session
    }

    fn roles(&self) -> Vec<Option<Role>> {
        self.nodes.iter().map(|node| node.member.replica().map(replica::Replica::role)).collect()
    }

    fn assert_equal(&self) {
        let states: Vec<_> = self.nodes.iter().map(|node| node.member.replica().unwrap().state()).collect();
        assert!(states.windows(2).all(|pair| pair[0] == pair[1]), "all members are equal");
    }
}

/// R12: answers leave when every member's disk has the entry; all of them apply it, and the reader answers queries.
#[test]
fn members_replicate_over_frames() {
    let mut cluster = Cluster::new(&[Serving, Serving, Serving]);
    let session = cluster.filled(3);
    let request = mutation(session, 5, make_directory(9));
    cluster.nodes[0].request(CLIENT, 50, &request);
    // The last member's disk takes its time.
    for _ in 0..20 {
        for at in 0..2 {
            cluster.nodes[at].run();
            cluster.deliver(at);
        }
        cluster.nodes[2].turn();
        cluster.deliver(2);
    }
    assert_eq!(cluster.nodes[0].answers(), []);
    cluster.settle();
    assert_eq!(cluster.nodes[0].answers(), [(50, Status::Ok)]);
    cluster.assert_equal();
    let query = Request::Query(Query::Volume { name: "volume".into() });
    assert_eq!(cluster.ask(2, 7, &query), [(7, Status::Ok)]);
    assert_eq!(cluster.ask(0, 7, &query), [(7, Status::NotServing)]);
    assert_eq!(cluster.ask(1, 7, &query), [(7, Status::WrongEpoch)]);
}

/// A deposed head ends, opens its log again, and comes back as a learner that is what the others are.
#[test]
fn a_deposed_head_comes_back() {
    let mut cluster = Cluster::new(&[Serving, Serving, Serving]);
    let session = cluster.filled(2);
    cluster.cut(0);
    assert_eq!(cluster.ask(0, 60, &mutation(session, 4, make_directory(7))), [], "B and C don't hear of it");
    cluster.nodes[0].notes.clear();
    cluster.change(&[Waiting, Serving, Serving], 2);
    assert_eq!(cluster.nodes[0].notes, [Note::Sealed { epoch: Epoch(2) }, Note::Restarting, Note::Ended]);
    let closes = std::mem::take(&mut cluster.nodes[0].closes);
    assert_eq!(closes, [(Link(CLIENT), CloseReason::Deposed)], "its outcome isn't known here (R14)");
    cluster.nodes[0].close(CLIENT);
    assert_eq!(cluster.ask(1, 61, &mutation(session, 4, make_directory(8))), [(61, Status::Ok)]);
    cluster.cut_off = None;
    assert!(cluster.nodes[0].member.is_restarting());
    let log = cluster.nodes[0].log();
    cluster.nodes[0].event(|member, clock, memory, effects| member.restart(clock, log, memory, effects));
    cluster.pass(Nanos::SECOND);
    assert_eq!(cluster.roles(), [Some(Role::Learner), Some(Role::Head), Some(Role::Follower)]);
    cluster.assert_equal();
    assert!(cluster.nodes[0].notes.contains(&Note::CaughtUp { epoch: Epoch(2) }));
    // What it had executed and nobody else had is gone; the log says so at the next start, too.
    let state = cluster.nodes[0].member.replica().unwrap().state().clone();
    cluster.cut(0);
    cluster.nodes[0].restart();
    cluster.settle();
    let replica = cluster.nodes[0].member.replica().unwrap();
    assert_eq!(replica.received(), state.namespace.index());
}

/// A learner that is behind what its source remembers begins with an image, keeps it over a restart, and becomes a member of the acks.
#[test]
fn a_learner_begins_with_an_image() {
    let mut cluster = Cluster::new(&[Serving, Waiting]);
    cluster.cut(1);
    let session = cluster.filled(60);
    cluster.cut_off = None;
    cluster.pass(3 * Nanos::SECOND);
    cluster.assert_equal();
    assert!(cluster.nodes[1].member.replica().unwrap().last_record().0 < 40, "most of it came as an image");
    assert!(cluster.nodes[1].notes.contains(&Note::CaughtUp { epoch: Epoch(1) }));
    let answers = cluster.ask(0, 90, &mutation(session, 62, make_directory(90)));
    assert_eq!(answers, [(90, Status::Ok)]);
    cluster.cut(1);
    cluster.nodes[1].restart();
    cluster.settle();
    cluster.cut_off = None;
    cluster.change(&[Serving, Syncing], 2);
    cluster.pass(Nanos::SECOND);
    assert!(
        cluster.nodes[1].notes.contains(&Note::Synced { epoch: Epoch(2) }),
        "{:?}",
        cluster.nodes[1].notes
    );
    cluster.change(&[Serving, Serving], 2);
    cluster.assert_equal();
    let query = Request::Query(Query::Volume { name: "volume".into() });
    cluster.nodes[1].greeted(CLIENT);
    assert_eq!(cluster.ask(1, 91, &query), [(91, Status::Ok)]);
}

/// Members end in order, each with a checkpoint of everything where everything is committed, and begin again as they were.
#[test]
fn members_end_in_order() {
    let mut cluster = Cluster::new(&[Serving, Serving]);
    cluster.filled(4);
    for at in [1, 0] {
        cluster.nodes[at].notes.clear();
        cluster.nodes[at].shutdown();
        cluster.settle();
        let notes = &cluster.nodes[at].notes;
        let is_whole = |note: &Note| matches!(note, Note::CheckpointDone(_));
        assert!(notes.iter().any(is_whole) && notes.last() == Some(&Note::Ended), "{at}: {notes:?}");
        cluster.cut(at);
        cluster.nodes[at].restart();
        cluster.nodes[at].run();
        let is_clean = |note: &Note| matches!(note, Note::Opened { was_clean: true, .. });
        assert!(cluster.nodes[at].notes.iter().any(is_clean));
        cluster.cut_off = None;
    }
    cluster.change(&[Serving, Serving], 2);
    cluster.assert_equal();
    assert_eq!(cluster.roles(), [Some(Role::Head), Some(Role::Follower)]);
}
