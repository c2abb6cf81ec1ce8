//! How a cluster grows, and stays even.

use std::collections::BTreeMap;

use wire::NodeId;
use wire::control::{Answer, Command, Health};
use wire::map::ReplicaState;

use super::super::{Event, Note};
use super::world::{Cluster, MS};

fn health(cluster: &mut Cluster) -> Health {
    match cluster.ask(&Command::Health) {
        Answer::Health(health) => health,
        other => panic!("{other:?}"),
    }
}

#[test]
fn copies_become_as_many_as_nodes_up_to_three() {
    let mut cluster = Cluster::bare(3);
    cluster.register(1);
    cluster.run(5_000 * MS);
    let settings =
        |cluster: &Cluster| (cluster.map().settings.chain_length, cluster.map().settings.min_in_sync);
    assert_eq!(settings(&cluster), (1, 1));
    assert!(health(&mut cluster).is_whole);
    for (machine, expected) in [(2, (2, 2)), (3, (3, 2)), (4, (3, 2))] {
        cluster.join(machine);
        cluster.run(10_000 * MS);
        assert_eq!(settings(&cluster), expected);
        assert!(
            cluster.is_whole(),
            "with {machine} nodes: {:?} {:?}",
            cluster.map().slices,
            cluster.map().groups
        );
        let health = health(&mut cluster);
        assert!(health.is_whole && health.nodes_alive == machine, "{health:?}");
        assert!(cluster.map().slices.iter().all(|slice| slice.chain.min_in_sync == expected.1));
        for slice in &cluster.map().slices {
            let mut nodes: Vec<NodeId> =
                slice.chain.members.iter().map(|member| node_of(&cluster, member.store)).collect();
            nodes.sort_unstable();
            nodes.dedup();
            assert_eq!(nodes.len(), usize::from(expected.0), "copies are on distinct nodes");
        }
    }
}

fn node_of(cluster: &Cluster, place: u16) -> NodeId {
    cluster.map().stores[usize::from(place)].node
}

#[test]
fn an_empty_cluster_uses_further_nodes_and_a_full_one_waits_to_be_asked() {
    let mut forming = Cluster::of(3, 4);
    forming.join(4);
    forming.run(20_000 * MS);
    assert_eq!(forming.slices_of(4).len(), 12, "a quarter of 48 replicas");
    assert!(forming.is_whole());
    let mut full = Cluster::of(3, 4);
    full.node(2).stores[0].used_bytes = 4_096;
    full.run(1_000 * MS);
    full.join(4);
    full.run(20_000 * MS);
    assert_eq!(full.slices_of(4), []);
}

#[test]
fn votes_become_three_with_the_third_node() {
    let mut cluster = Cluster::of(2, 0);
    assert_eq!(cluster.voters, []);
    cluster.join(3);
    cluster.run(1_000 * MS);
    let (add, remove) = cluster.voters.first().cloned().expect("votes are given");
    let nodes: Vec<NodeId> = add.iter().map(|(node, _)| *node).collect();
    assert_eq!((nodes, remove), (vec![NodeId(2), NodeId(3)], vec![]));
    assert!(add.iter().all(|(_, vote)| *vote > 1 << 20), "R35: no vote is used twice");
    let said = cluster.voters.len();
    cluster.run(6_000 * MS);
    assert!(cluster.voters.len() > said, "it is said again while it isn't so");
    let voters: Vec<u64> = cluster.map().nodes.iter().map(|node| node.voter).collect();
    cluster.handle(Event::Voters(&voters));
    let said = cluster.voters.len();
    cluster.run(12_000 * MS);
    assert_eq!(cluster.voters.len(), said);
}

#[test]
fn heads_are_evened_out_when_all_is_quiet() {
    let mut cluster = Cluster::of(3, 5);
    let heads = |cluster: &Cluster| {
        let mut heads: BTreeMap<NodeId, u32> = BTreeMap::new();
        for slice in &cluster.map().slices {
            *heads.entry(node_of(cluster, slice.chain.members[0].store)).or_default() += 1;
        }
        heads
    };
    cluster.run(60_000 * MS);
    let even = heads(&cluster);
    assert!(even.values().all(|count| (8..=13).contains(count)), "{even:?} of 32");
    // A node that comes back follows the others until then.
    let epochs: Vec<_> = cluster.map().slices.iter().map(|slice| slice.chain.epoch).collect();
    cluster.run(60_000 * MS);
    let later: Vec<_> = cluster.map().slices.iter().map(|slice| slice.chain.epoch).collect();
    assert_eq!(epochs, later, "what is even is left alone");
}

#[test]
fn a_group_has_members_on_nodes_of_its_own_in_racks_of_their_own() {
    let mut cluster = Cluster::bare(0);
    cluster.node(1).rack = "a".to_owned();
    cluster.register(1);
    for (machine, rack) in [(2, "a"), (3, "b"), (4, "c")] {
        cluster.join(machine);
        cluster.node(machine).rack = rack.to_owned();
        cluster.node(machine).is_up = false;
        cluster.register(machine);
    }
    for machine in 2..=4 {
        cluster.node(machine).is_up = true;
    }
    cluster.run(20_000 * MS);
    let members: Vec<NodeId> =
        cluster.group().members.iter().map(|member| node_of(&cluster, member.store)).collect();
    assert_eq!(members.len(), 3);
    assert!(members.contains(&NodeId(1)), "who is there stays");
    assert!(cluster.group().members.iter().all(|member| member.state == ReplicaState::Serving));
}

#[test]
fn links_that_fail_are_worked_around() {
    let mut cluster = Cluster::of(3, 0);
    let members: Vec<NodeId> =
        cluster.slice(0).members.iter().map(|member| node_of(&cluster, member.store)).collect();
    let (first, second) = (members[0], members[1]);
    cluster.node(first.0).suspects = vec![second];
    cluster.run(1_000 * MS);
    assert!(
        cluster.notes.iter().all(|note| !matches!(note, Note::LinkSuspect { .. })),
        "not for a moment's trouble"
    );
    cluster.run(3_000 * MS);
    let order: Vec<NodeId> =
        cluster.slice(0).members.iter().map(|member| node_of(&cluster, member.store)).collect();
    let place = |node: NodeId| order.iter().position(|other| *other == node).expect("it is still a member");
    assert_eq!(place(first).abs_diff(place(second)), 2, "{order:?}");
    assert!(cluster.is_whole(), "nobody was put out");
    let epoch = cluster.slice(0).epoch;
    cluster.node(first.0).suspects.clear();
    cluster.run(60_000 * MS);
    assert_eq!(cluster.slice(0).epoch, epoch, "nothing swings back");
}
