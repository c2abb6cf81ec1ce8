//! Operators' acts and questions.

use wire::control::{Answer, ChainId, Command, Condition, Done, LossScope, Reason, Refusal, Subject, Waits};
use wire::map::{Phase, ReplicaState, Standing, Unit};
use wire::{GroupId, MapNumber, NodeId, ShardIndex, SliceIndex};

use super::super::{Event, Note};
use super::world::{Cluster, MS, report, store};

fn refusal(answer: &Answer) -> Option<Refusal> {
    match answer {
        Answer::Refused(refusal) => Some(*refusal),
        _ => None,
    }
}

fn done(answer: Answer) -> Done {
    match answer {
        Answer::Done { done, .. } => done,
        other => panic!("{other:?}"),
    }
}

/// Three nodes with data, and node 3 gone.
fn short() -> Cluster {
    let mut cluster = Cluster::of(3, 2);
    cluster.node(2).stores[0].used_bytes = 1;
    cluster.run(500 * MS);
    cluster.node(3).is_up = false;
    cluster.run(4_000 * MS);
    assert_eq!(cluster.state(0, 3), Some(ReplicaState::Offline));
    cluster
}

#[test]
fn a_node_is_replaced_by_an_empty_one() {
    let mut cluster = short();
    let (old, new) = (NodeId(3), NodeId(4));
    let replace = Command::ReplaceNode { old, new };
    assert_eq!(refusal(&cluster.ask(&replace)), Some(Refusal::NodeUnknown(new)));
    cluster.join(4);
    cluster.run(500 * MS);
    let alive = Command::ReplaceNode { old: NodeId(2), new };
    assert_eq!(refusal(&cluster.ask(&alive)), Some(Refusal::NodeAlive(NodeId(2))));
    let full = Command::ReplaceNode { old, new: NodeId(2) };
    assert!(matches!(refusal(&cluster.ask(&full)), Some(Refusal::NotEmpty(_))));
    assert_eq!(done(cluster.ask(&replace)), Done::Replacing { chains: 5 });
    assert!(cluster.map().nodes.iter().all(|node| node.node != old));
    cluster.run(6_000 * MS);
    assert!(cluster.is_whole());
    assert_eq!(cluster.slices_of(4).len(), 4);
    assert_eq!(cluster.slices_of(3), []);
    // It doesn't come back.
    cluster.restart(3);
    assert!(cluster.map().nodes.iter().all(|node| node.node != old));
}

#[test]
fn a_disk_is_replaced() {
    let mut cluster = Cluster::of(3, 2);
    let (old, new) = (store(3, 0), store(9, 0));
    let replace = Command::ReplaceStore { old, new };
    assert_eq!(refusal(&cluster.ask(&replace)), Some(Refusal::StoreAlive(old)));
    cluster.node(3).stores[0].condition = Condition::Failed;
    cluster.run(1_000 * MS);
    assert_eq!(refusal(&cluster.ask(&replace)), Some(Refusal::StoreUnknown(new)));
    cluster.node(3).begin_life();
    cluster.node(3).stores.push(report(new, Unit::Shard(ShardIndex(1))));
    cluster.register(3);
    cluster.run(1_000 * MS);
    let log = Command::ReplaceStore { old: store(3, 1), new };
    assert_eq!(refusal(&cluster.ask(&log)), Some(Refusal::StoreAlive(store(3, 1))));
    assert_eq!(done(cluster.ask(&replace)), Done::Replacing { chains: 4 });
    cluster.run(6_000 * MS);
    assert!(cluster.is_whole(), "{:?}", cluster.map().slices);
    let record = &cluster.map().stores[usize::from(cluster.place(old))];
    assert_eq!(record.standing, Standing::Forgotten);
    assert!(cluster.slice(0).member(cluster.place(new)).is_some());
}

#[test]
fn a_node_is_forgotten() {
    let mut cluster = short();
    let forget = |force| Command::ForgetNode { node: NodeId(3), force };
    let alive = Command::ForgetNode { node: NodeId(2), force: true };
    assert_eq!(refusal(&cluster.ask(&alive)), Some(Refusal::NodeAlive(NodeId(2))));
    let few = Refusal::TooFewNodes { left: 2, chain_length: 3 };
    assert_eq!(refusal(&cluster.ask(&forget(false))), Some(few));
    assert_eq!(done(cluster.ask(&forget(true))), Done::Forgotten { chains: 0, short: 5 });
    cluster.run(6_000 * MS);
    assert_eq!(cluster.map().settings.chain_length, 2);
    assert!(cluster.is_whole());
    let mut cluster = short();
    cluster.join(4);
    cluster.run(500 * MS);
    assert_eq!(done(cluster.ask(&forget(false))), Done::Forgotten { chains: 5, short: 0 });
    cluster.run(10_000 * MS);
    assert!(cluster.is_whole());
    assert_eq!(cluster.slices_of(4).len(), 4, "what it held is spread over the others");
}

#[test]
fn the_last_copy_is_not_forgotten() {
    let mut cluster = Cluster::of(2, 0);
    cluster.node(2).is_up = false;
    cluster.run(4_000 * MS);
    cluster.node(1).is_up = false;
    cluster.run(4_000 * MS);
    assert_eq!(cluster.state(0, 1), Some(ReplicaState::LastServing));
    let forget = Command::ForgetNode { node: NodeId(1), force: true };
    assert_eq!(refusal(&cluster.ask(&forget)), Some(Refusal::LastCopy(ChainId::Slice(SliceIndex(0)))));
}

#[test]
fn loss_is_accepted_only_by_an_operator() {
    let mut cluster = Cluster::of(3, 1);
    let all = Command::AcceptDataLoss { scope: LossScope::All, expel: Vec::new() };
    assert_eq!(refusal(&cluster.ask(&all)), Some(Refusal::NothingLost));
    for machine in [3, 2, 1] {
        cluster.node(machine).is_up = false;
        cluster.run(4_000 * MS);
    }
    assert_eq!(cluster.state(0, 1), Some(ReplicaState::LastServing));
    // Node 3 was away when others went on: it may not seed the group (R6).
    cluster.restart(3);
    cluster.run(60_000 * MS);
    let group = ChainId::Group(GroupId(0));
    assert_eq!(cluster.group().serving().count(), 0, "R6");
    assert!(cluster.notes.contains(&Note::ChainStuck(group)));
    let Answer::Why(why) = cluster.ask(&Command::Why(Subject::Chain(group))) else { panic!("no answer") };
    assert!(why.contains(&Reason::Waiting(Waits::AnySeed)), "{why:?}");
    let Answer::Health(health) = cluster.ask(&Command::Health) else { panic!("no answer") };
    assert_eq!((health.groups.down, health.groups.stuck, health.is_whole), (1, 1, false));
    let (epoch, generation) = (cluster.group().epoch, cluster.map().groups[0].generation);
    let alive = Command::AcceptDataLoss { scope: LossScope::All, expel: vec![store(3, 0)] };
    assert_eq!(refusal(&cluster.ask(&alive)), Some(Refusal::StoreAlive(store(3, 0))));
    let expel = vec![store(1, 0), store(1, 1), store(2, 0), store(2, 1)];
    let accept = Command::AcceptDataLoss { scope: LossScope::All, expel: expel.clone() };
    let Done::LossAccepted { chains, expelled } = done(cluster.ask(&accept)) else { panic!("not accepted") };
    assert_eq!(expelled, expel);
    assert!(chains.iter().any(|loss| loss.chain == group && loss.seed == store(3, 1)), "{chains:?}");
    assert_eq!(cluster.map().groups[0].generation, generation + 1, "R20");
    assert!(cluster.group().epoch > epoch);
    let stamped =
        |cluster: &Cluster| cluster.map().slices.iter().all(|slice| slice.loss_map_number > MapNumber(0));
    assert!(stamped(&cluster), "R8");
    cluster.run(3_000 * MS);
    assert_eq!((cluster.group().phase, cluster.group().serving().count()), (Phase::Active, 1));
    // Who was expelled comes back as nobody.
    let reply = cluster.restart(1);
    let wire::control::RegistrationReply::Accepted { stores, .. } = reply else { panic!("{reply:?}") };
    assert!(
        stores.iter().all(|(_, verdict)| *verdict == wire::control::StoreVerdict::Expelled),
        "{stores:?}"
    );
}

#[test]
fn settings_are_set() {
    let mut cluster = Cluster::of(3, 2);
    for count in [0, 4] {
        assert_eq!(refusal(&cluster.ask(&Command::SetMinInSync(count))), Some(Refusal::OutOfRange));
    }
    for count in [3, 1, 2] {
        assert_eq!(done(cluster.ask(&Command::SetMinInSync(count))), Done::Set);
        cluster.run(2_000 * MS);
        assert!(cluster.map().slices.iter().all(|slice| slice.chain.min_in_sync == count));
        assert_eq!(cluster.group().min_in_sync, count);
        assert!(cluster.is_whole());
    }
    for count in [0, 2, 4, 1] {
        assert_eq!(refusal(&cluster.ask(&Command::SetVoters(count))), Some(Refusal::OutOfRange), "{count}");
    }
    let few = Refusal::TooFewNodes { left: 3, chain_length: 5 };
    assert_eq!(refusal(&cluster.ask(&Command::SetVoters(5))), Some(few));
}

#[test]
fn stopping_a_node_is_thought_through() {
    let risk = |cluster: &mut Cluster, node| match cluster.ask(&Command::OkToStop(NodeId(node))) {
        Answer::OkToStop(risk) => risk,
        other => panic!("{other:?}"),
    };
    let mut one = Cluster::of(1, 1);
    let alone = risk(&mut one, 1);
    assert_eq!(
        (alone.reads_stop, alone.writes_stop, alone.control_stops, alone.is_ok()),
        (3, 0, true, false)
    );
    assert_eq!(alone.chains.len(), 3);
    let mut three = Cluster::of(3, 1);
    assert!(risk(&mut three, 2).is_ok(), "{:?}", risk(&mut three, 2));
    three.node(3).is_up = false;
    three.run(4_000 * MS);
    let two = risk(&mut three, 2);
    assert_eq!((two.reads_stop, two.writes_stop, two.control_stops), (0, 3, true));
    assert!(risk(&mut three, 3).writes_stop == 0, "it is out already");
    assert_eq!(refusal(&three.ask(&Command::OkToStop(NodeId(9)))), Some(Refusal::NodeUnknown(NodeId(9))));
}

#[test]
fn everything_can_be_asked_about() {
    let mut cluster = Cluster::of(3, 0);
    let why = |cluster: &mut Cluster, subject| match cluster.ask(&Command::Why(subject)) {
        Answer::Why(why) => why,
        other => panic!("{other:?}"),
    };
    assert_eq!(why(&mut cluster, Subject::Node(NodeId(9))), [Reason::NotInMap]);
    assert_eq!(why(&mut cluster, Subject::Store(store(9, 0))), [Reason::NotInMap]);
    assert_eq!(why(&mut cluster, Subject::Store(store(2, 0))), [Reason::Well]);
    cluster.node(3).is_up = false;
    cluster.run(1_000 * MS);
    let silent = why(&mut cluster, Subject::Node(NodeId(3)));
    assert!(matches!(silent[..], [Reason::NodeAlive { heard, .. }] if heard >= 900 * MS), "{silent:?}");
    cluster.run(3_000 * MS);
    let dead = why(&mut cluster, Subject::Node(NodeId(3)));
    assert!(matches!(dead[..], [Reason::NodeSilent { dead_in: 0, .. }]), "{dead:?}");
    let chain = why(&mut cluster, Subject::Chain(ChainId::Slice(SliceIndex(0))));
    assert!(chain.contains(&Reason::Waiting(Waits::Return(store(3, 0)))), "{chain:?}");
    cluster.node(2).stores[0].condition = Condition::Fenced;
    cluster.run(500 * MS);
    let unfit = why(&mut cluster, Subject::Store(store(2, 0)));
    assert!(unfit.contains(&Reason::StoreUnfit { condition: Condition::Fenced }), "{unfit:?}");
    let Answer::Nodes(nodes) = cluster.ask(&Command::Nodes) else { panic!("no answer") };
    let alive: Vec<bool> = nodes.iter().map(|node| node.is_alive).collect();
    assert_eq!(alive, [true, true, false]);
    assert_eq!((nodes[0].members, nodes[0].serving, nodes[2].serving), (2, 2, 0));
}

#[test]
fn answers_follow_leadership() {
    let mut cluster = Cluster::of(1, 0);
    cluster.handle(Event::Deposed { leader: Some(NodeId(4)) });
    let expected = Refusal::NotLeader(Some(NodeId(4)));
    assert_eq!(refusal(&cluster.ask(&Command::Health)), Some(expected));
}
