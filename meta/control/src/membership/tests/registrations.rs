//! Who is let in (R33, R34, R35).

use wire::control::{RegistrationRefusal, RegistrationReply, StoreVerdict, next_incarnation};
use wire::limits::STORE_LIVES_MAX;
use wire::map::{ReplicaState, Unit};
use wire::{Incarnation, NodeId, ShardIndex};

use super::super::{Event, Note};
use super::world::{Cluster, MS, report, store};

fn refused(reply: &RegistrationReply) -> Option<RegistrationRefusal> {
    match reply {
        RegistrationReply::Refused(refusal) => Some(*refusal),
        RegistrationReply::Accepted { .. } => None,
    }
}

fn verdict(reply: &RegistrationReply) -> StoreVerdict {
    match reply {
        RegistrationReply::Accepted { stores, .. } => stores[0].1,
        RegistrationReply::Refused(refusal) => panic!("{refusal:?}"),
    }
}

#[test]
fn a_node_joins_once() {
    let mut cluster = Cluster::of(1, 0);
    let first = cluster.join(2);
    // The answer was lost: it asks again, without a number.
    cluster.node(2).id = NodeId(0);
    let again = cluster.register(2);
    let number = |reply: &RegistrationReply| match reply {
        RegistrationReply::Accepted { node, .. } => *node,
        RegistrationReply::Refused(refusal) => panic!("{refusal:?}"),
    };
    assert_eq!((number(&first), number(&again)), (NodeId(2), NodeId(2)));
    assert_eq!(cluster.map().nodes.len(), 2);
    assert_eq!(cluster.map().stores.len(), 4);
    assert_eq!(cluster.map().stores[2].weight, 4, "GiB");
}

type Change = fn(&mut wire::control::Registration);

#[test]
fn registrations_that_can_not_be_are_refused() {
    let cluster = || {
        let mut cluster = Cluster::of(1, 0);
        cluster.nodes.insert(2, cluster.nodes[&1].clone());
        let node = cluster.node(2);
        node.id = NodeId(0);
        node.life.0 = 77;
        node.stores = vec![report(store(2, 0), Unit::Shard(ShardIndex(0)))];
        cluster
    };
    let cases: &[(&str, Change, Option<RegistrationRefusal>)] = &[
        ("a joiner", |_| (), None),
        ("nobody said so", |it| it.join = false, Some(RegistrationRefusal::NodeUnknown)),
        ("a number that isn't", |it| it.node = NodeId(9), Some(RegistrationRefusal::NodeUnknown)),
        ("another's name", |it| it.name = "node-1".to_owned(), Some(RegistrationRefusal::NameTaken)),
        ("no name", |it| it.name.clear(), Some(RegistrationRefusal::Malformed)),
        ("a long name", |it| it.name = "n".repeat(256), Some(RegistrationRefusal::Malformed)),
        ("no address", |it| it.stores[0].address.clear(), Some(RegistrationRefusal::Malformed)),
        ("a store twice", |it| it.stores.push(it.stores[0].clone()), Some(RegistrationRefusal::Malformed)),
        (
            "many lives",
            |it| it.stores[0].lives = vec![Incarnation(1); STORE_LIVES_MAX + 1],
            Some(RegistrationRefusal::Malformed),
        ),
        (
            "data",
            |it| it.stores[0].used_bytes = 1,
            Some(RegistrationRefusal::NotEmpty { store: store(2, 0) }),
        ),
    ];
    for (what, change, expected) in cases {
        let mut cluster = cluster();
        let mut registration = cluster.registration(2);
        change(&mut registration);
        let reply = cluster.register_as(&registration);
        assert_eq!(refused(&reply), *expected, "{what}");
        assert_eq!(cluster.map().nodes.len(), if expected.is_none() { 2 } else { 1 }, "{what}");
    }
}

#[test]
fn a_store_that_was_rolled_back_is_refused() {
    let rolled_back = |lives: usize| {
        let mut cluster = Cluster::of(3, 0);
        let old = cluster.nodes[&3].clone();
        for _ in 0..lives {
            cluster.restart(3);
            cluster.run(5_000 * MS);
        }
        assert!(cluster.is_whole());
        let life = cluster.nodes[&3].life.0;
        *cluster.node(3) = old;
        cluster.node(3).id = NodeId(3);
        (cluster, life)
    };
    for lives in 1..4 {
        let (mut cluster, life) = rolled_back(lives);
        // However often it is started, it can't count itself up to what the map knows.
        for start in 1..6 {
            let node = cluster.node(3);
            node.life.0 = life + start;
            for store in &mut node.stores {
                let last = store.incarnation;
                store.lives.push(last);
                store.incarnation = next_incarnation(last, 99);
            }
            let reply = cluster.register(3);
            let known = cluster.map().stores[usize::from(cluster.place(store(3, 0)))].incarnation;
            let is_refused = match &reply {
                RegistrationReply::Refused(refusal) => *refusal == RegistrationRefusal::NodeAlive,
                accepted @ RegistrationReply::Accepted { .. } => {
                    verdict(accepted) == StoreVerdict::Stale { known, known_sequence: 0 }
                }
            };
            assert!(is_refused, "R34: {reply:?}");
            cluster.node(3).is_up = false;
            cluster.run(3_000 * MS);
            assert_ne!(cluster.state(0, 3), Some(ReplicaState::Serving));
        }
        assert!(cluster.notes.contains(&Note::StoreStale(store(3, 0))));
    }
}

#[test]
fn batches_that_are_missing_show_a_rolled_back_store() {
    let start = |sequence: u64, cut: bool| {
        let mut cluster = Cluster::of(3, 0);
        cluster.node(3).stores[0].sequence = 100;
        cluster.run(1_000 * MS);
        cluster.node(3).begin_life();
        cluster.node(3).stores[0].sequence = sequence;
        cluster.node(3).stores[0].recovered_cut = cut;
        verdict(&cluster.register(3))
    };
    assert_eq!(start(100, false), StoreVerdict::Accepted);
    assert!(matches!(start(99, false), StoreVerdict::Stale { known_sequence: 100, .. }), "R34");
    assert_eq!(start(99, true), StoreVerdict::Accepted, "it says so itself (R7)");
}

#[test]
fn the_same_life_registers_again_and_another_one_can_not() {
    let mut cluster = Cluster::of(3, 0);
    cluster.maps = 0;
    assert_eq!(verdict(&cluster.register(3)), StoreVerdict::Accepted);
    assert_eq!(cluster.maps, 0, "nothing changes with it");
    let mut copy = cluster.registration(3);
    copy.life.0 += 1;
    assert_eq!(refused(&cluster.register_as(&copy)), Some(RegistrationRefusal::NodeAlive), "R33");
    // A new leader hears of it for the first time.
    cluster.handle(Event::Deposed { leader: None });
    cluster.handle(Event::Elected);
    assert_eq!(verdict(&cluster.register(3)), StoreVerdict::Accepted);
    cluster.register(1);
    cluster.register(2);
    cluster.run(6_000 * MS);
    assert!(cluster.is_whole());
}

#[test]
fn stores_are_found_where_the_map_has_them() {
    let mut cluster = Cluster::of(2, 0);
    cluster.node(2).begin_life();
    let mut registration = cluster.registration(2);
    let mut mine = cluster.nodes[&1].stores[0].clone();
    mine.incarnation = Incarnation(u64::MAX);
    registration.stores.push(mine);
    registration.stores.push(report(store(9, 0), Unit::Shard(ShardIndex(7))));
    let RegistrationReply::Accepted { stores, .. } = cluster.register_as(&registration) else {
        panic!("refused")
    };
    let verdicts: Vec<StoreVerdict> = stores.into_iter().map(|(_, verdict)| verdict).collect();
    let elsewhere = StoreVerdict::Elsewhere { node: NodeId(1) };
    assert_eq!(verdicts, [StoreVerdict::Accepted, StoreVerdict::Accepted, elsewhere, StoreVerdict::Unknown]);
}

#[test]
fn who_does_not_lead_registers_nobody() {
    let mut cluster = Cluster::of(1, 0);
    cluster.handle(Event::Deposed { leader: Some(NodeId(7)) });
    let registration = cluster.registration(1);
    assert_eq!(refused(&cluster.register_as(&registration)), Some(RegistrationRefusal::Busy));
}
