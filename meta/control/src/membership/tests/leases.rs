//! Detection and leases (R18), and what a node's end, restart or silence leads to.

use wire::control::{Condition, Life};
use wire::map::{Phase, ReplicaState};
use wire::{Epoch, MapNumber, Nanos, NodeId};

use super::super::config::{CONFIRM_INTERVAL, LEASE};
use super::super::{Event, Note, lease_at_control};
use super::world::{Cluster, MS, store};

#[test]
fn a_lease_takes_a_confirmed_term() {
    let mut cluster = Cluster::of(1, 0);
    cluster.run(1_000 * MS);
    cluster.confirms = false;
    cluster.run(CONFIRM_INTERVAL);
    cluster.replies.clear();
    cluster.rounds.clear();
    cluster.beat(1);
    cluster.run(40 * MS);
    assert_eq!(cluster.replies, [], "R18: nobody has confirmed anything");
    let mut cluster = Cluster::of(1, 0);
    cluster.run(1_000 * MS);
    cluster.confirms = false;
    (cluster.replies, cluster.rounds) = (Vec::new(), Vec::new());
    cluster.run(CONFIRM_INTERVAL);
    let open = *cluster.rounds.last().expect("a heartbeat has begun a round");
    cluster.now = cluster.now.after(MS);
    let late = cluster.now;
    cluster.beat(1);
    cluster.handle(Event::Confirmed { round: open - 1 });
    assert_eq!(cluster.replies, [], "an earlier round proves nothing");
    cluster.handle(Event::Confirmed { round: open });
    let granted: Vec<(Nanos, u64)> = cluster.replies.iter().map(|reply| (reply.sent, reply.lease)).collect();
    assert_eq!(granted.len(), 1);
    assert!(granted[0].0 < late && granted[0].1 == LEASE, "the late heartbeat waits: {granted:?}");
    // Rounds are batched.
    cluster.now = cluster.now.after(MS);
    cluster.beat(1);
    assert_eq!(cluster.rounds.last(), Some(&open), "the next one may not begin yet");
    cluster.confirms = true;
    cluster.run(CONFIRM_INTERVAL);
    assert!(cluster.rounds.last() > Some(&open));
}

#[test]
fn a_life_that_is_not_registered_is_told() {
    let mut cluster = Cluster::of(1, 0);
    cluster.replies.clear();
    let mut beat = cluster.heartbeat(1);
    beat.life = Life(99);
    cluster.handle(Event::Heartbeat(&beat));
    let reply = cluster.replies.last().expect("it is answered at once");
    assert_eq!((reply.is_known, reply.lease, reply.life), (false, 0, Life(99)));
}

#[test]
fn a_silent_node_is_put_out_when_its_lease_has_run_out() {
    let mut cluster = Cluster::of(3, 3);
    cluster.run(250 * MS);
    let last = cluster.now;
    cluster.node(3).is_up = false;
    while cluster.state(0, 3) == Some(ReplicaState::Serving) {
        cluster.maps = 0;
        cluster.run(50 * MS);
        assert!(cluster.now < last.after(5_000 * MS));
    }
    let took = cluster.now.since(last);
    assert!(took >= lease_at_control(LEASE), "R18: only {took} ns");
    assert!(took <= lease_at_control(LEASE) + 600 * MS, "the target is 3.5 s");
    cluster.run(500 * MS);
    assert!(cluster.maps <= 2, "all chains at once, then all of them active: {}", cluster.maps);
    assert!(cluster.map().slices.iter().all(|slice| slice.chain.serving().count() == 2));
    assert!(cluster.map().slices.iter().all(|slice| slice.chain.phase == Phase::Active));
    assert!(cluster.notes.contains(&Note::NodeDead(NodeId(3))));
    // It comes back in the same life, and syncs.
    cluster.node(3).is_up = true;
    cluster.run(250 * MS);
    cluster.register(3);
    cluster.run(5_000 * MS);
    assert!(cluster.is_whole());
}

#[test]
fn a_new_leader_removes_nobody_while_leases_of_the_old_one_may_run() {
    let mut cluster = Cluster::of(3, 0);
    cluster.handle(Event::Deposed { leader: None });
    cluster.node(3).is_up = false;
    cluster.handle(Event::Elected);
    let elected = cluster.now;
    for machine in 1..=2 {
        cluster.register(machine);
    }
    while cluster.now < elected.after(lease_at_control(LEASE)) {
        assert_eq!(cluster.state(0, 3), Some(ReplicaState::Serving), "R18");
        let step = elected.after(lease_at_control(LEASE)).since(cluster.now).min(50 * MS);
        if step < 50 * MS {
            break;
        }
        cluster.run(step);
    }
    cluster.run(600 * MS);
    assert_ne!(cluster.state(0, 3), Some(ReplicaState::Serving));
}

#[test]
fn a_restart_puts_a_node_out_at_once_and_in_one_change() {
    let mut cluster = Cluster::of(3, 3);
    let before: Vec<Epoch> = cluster.map().slices.iter().map(|slice| slice.chain.epoch).collect();
    let known =
        cluster.map().stores.iter().find(|record| record.store == store(3, 0)).expect("known").incarnation;
    cluster.nodes.get_mut(&1).expect("it is there").stuck_at = Some(cluster.map().number);
    cluster.maps = 0;
    cluster.restart(3);
    let record = cluster.map().stores.iter().find(|record| record.store == store(3, 0)).expect("known");
    assert!(record.incarnation > known);
    assert_eq!(cluster.maps, 1);
    for (slice, before) in cluster.map().slices.iter().zip(before) {
        assert_eq!(slice.chain.epoch.0, before.0 + 1);
        assert_eq!((slice.chain.phase, slice.chain.serving().count()), (Phase::Prepared, 2));
    }
    cluster.run(1_000 * MS);
    assert!(
        cluster.map().slices.iter().all(|slice| slice.chain.phase == Phase::Prepared),
        "R5: node 1 hasn't promised"
    );
    cluster.node(1).stuck_at = None;
    cluster.run(6_000 * MS);
    assert!(cluster.is_whole());
}

#[test]
fn a_node_that_does_not_follow_loses_its_lease_and_then_its_place() {
    let mut cluster = Cluster::of(3, 0);
    let behind = cluster.map().number;
    cluster.node(1).stuck_at = Some(behind);
    cluster.restart(3);
    cluster.replies.clear();
    cluster.run(250 * MS);
    let lease = |cluster: &Cluster| {
        let reply = cluster.replies.iter().rev().find(|reply| reply.node == NodeId(1));
        reply.expect("it is answered").lease
    };
    assert_eq!(lease(&cluster), LEASE, "it is given a moment");
    cluster.run(500 * MS);
    assert_eq!(lease(&cluster), 0, "R18: it lacks what seals it");
    cluster.run(3_000 * MS);
    assert_ne!(cluster.state(0, 1), Some(ReplicaState::Serving));
    assert_eq!(cluster.slice(0).phase, Phase::Active, "its last lease has run out");
}

#[test]
fn a_store_that_fails_is_put_out_once_its_node_has_promised() {
    let mut cluster = Cluster::of(3, 0);
    cluster.node(3).stuck_at = Some(cluster.map().number);
    cluster.node(3).stores[0].condition = Condition::Fenced;
    cluster.run(750 * MS);
    assert_eq!(cluster.state(0, 3), Some(ReplicaState::Offline));
    assert_eq!(cluster.slice(0).phase, Phase::Prepared, "R5");
    cluster.node(3).stuck_at = None;
    cluster.run(1_000 * MS);
    assert_eq!(cluster.slice(0).phase, Phase::Active);
    assert_eq!(cluster.group().serving().count(), 3, "its log works");
    // Said to be well again, it stays out: only another life opens it.
    cluster.node(3).stores[0].condition = Condition::Well;
    cluster.run(3_000 * MS);
    assert_eq!(cluster.state(0, 3), Some(ReplicaState::Offline));
    cluster.restart(3);
    cluster.run(6_000 * MS);
    assert!(cluster.is_whole());
}

#[test]
fn a_power_cut_is_survived() {
    let mut cluster = Cluster::of(3, 2);
    cluster.handle(Event::Deposed { leader: None });
    cluster.handle(Event::Elected);
    for machine in 1..=3 {
        cluster.restart(machine);
    }
    cluster.run(8_000 * MS);
    assert!(cluster.is_whole());
    assert!(cluster.map().number > MapNumber(0));
}

/// R8: what was acked in a slice may be gone where its chain goes on with a store that lost something; in a chain where others serve it isn't.
#[test]
fn a_seed_that_lacks_something_stamps_its_slices() {
    let stamps = |cluster: &Cluster| -> Vec<u64> {
        cluster.map().slices.iter().map(|slice| slice.loss_map_number.0).collect()
    };
    let mut cluster = Cluster::of(1, 2);
    cluster.restart(1);
    cluster.run(1_000 * MS);
    assert!(cluster.is_whole() && stamps(&cluster) == [0; 4], "nothing was lost");
    cluster.node(1).stores.iter_mut().for_each(|store| store.lacks = true);
    let number = cluster.map().number;
    cluster.handle(Event::Deposed { leader: None });
    cluster.handle(Event::Elected);
    cluster.restart(1);
    cluster.run(1_000 * MS);
    assert!(cluster.is_whole() && stamps(&cluster).iter().all(|stamp| *stamp > number.0), "R8");
    assert_eq!(cluster.map().groups[0].generation, 1, "R20: every session is closed");

    let mut cluster = Cluster::of(3, 2);
    cluster.node(3).stores[0].lacks = true;
    cluster.restart(3);
    cluster.run(8_000 * MS);
    assert!(cluster.is_whole() && stamps(&cluster) == [0; 4], "the others have everything");
}

#[test]
fn a_leader_that_reached_nobody_blames_nobody() {
    let mut cluster = Cluster::of(3, 1);
    cluster.confirms = false;
    cluster.run(10_000 * MS);
    assert!(cluster.is_whole(), "nobody was answered, so silence proves nothing");
    cluster.confirms = true;
    cluster.node(3).is_up = false;
    cluster.run(lease_at_control(LEASE));
    assert!(cluster.is_whole(), "everybody has time to be heard again");
    cluster.run(2_000 * MS);
    assert_eq!(cluster.state(0, 3), Some(ReplicaState::Offline));
    // A process that stood still finds messages that are older than it knows.
    let mut cluster = Cluster::of(3, 1);
    cluster.now = cluster.now.after(10_000 * MS);
    cluster.handle(Event::Tick);
    cluster.run(5_000 * MS);
    assert!(cluster.is_whole());
    assert!(!cluster.notes.iter().any(|note| matches!(note, Note::NodeDead(_))));
}
