//! What the leader of a large cluster pays: 65,536 slices in chains of 3 on 200 nodes. Printed, not gated: the aims, below 2 ms for a look at everything
//! when nothing has changed and below 50 ms for a node's death, are a release build's on a quiet machine.

use control::membership::{Config, Effect, Effects, Event, Membership, apply, lease_at_control};
use placement::ClusterMap;
use wire::control::{Condition, Heartbeat, Life, LogEnd, Registration, StoreBeat, StoreReport};
use wire::map::{
    Chain, Group, Map, MapDelta, Member, Node, Phase, ReplicaState, Settings, Slice, Standing, Store, Unit,
};
use wire::{
    ClusterId, Epoch, GroupId, Incarnation, MapNumber, Nanos, NodeId, ShardIndex, SliceIndex, StoreId,
};

const NODES: u32 = 200;
const RING_BITS: u8 = 16;

fn store_id(place: u32) -> StoreId {
    let mut id = [1; 16];
    id[..4].copy_from_slice(&place.to_le_bytes());
    StoreId(id)
}

/// Chunk stores at the places 0 to 199, one log behind them.
fn map() -> Map {
    let place = |at: u32| u16::try_from(at % NODES).expect("small");
    let chain = |slice: u32| {
        let step = slice / NODES % 60;
        let stores = [place(slice), place(slice + 1 + step), place(slice + 70 + 2 * step)];
        let member = |store: u16| Member { store, state: ReplicaState::Serving, is_seed: true };
        Chain {
            epoch: Epoch(1),
            phase: Phase::Active,
            min_in_sync: 2,
            members: stores.into_iter().map(member).collect(),
        }
    };
    let unit = |place: u32| if place < NODES { Unit::Shard(ShardIndex(0)) } else { Unit::Group(GroupId(0)) };
    let store = |place: u32| Store {
        store: store_id(place),
        node: NodeId(place % NODES + 1),
        unit: unit(place),
        address: format!("10.0.0.{place}:7430"),
        incarnation: Incarnation(1),
        weight: u32::from(place < NODES),
        standing: Standing::Member,
    };
    let node = |number: u32| Node {
        node: NodeId(number),
        name: format!("node-{number}"),
        rack: String::new(),
        control: "10.0.0.1:7422".to_owned(),
        voter: u64::from(number <= 3),
    };
    let mut log = Chain::of_one(u16::try_from(NODES).expect("small"));
    log.min_in_sync = 2;
    Map {
        number: MapNumber(1),
        cluster: ClusterId([1; 16]),
        ring_bits: RING_BITS,
        settings: Settings { chain_length: 3, min_in_sync: 2, reclaim_delay_ms: 1_000 },
        nodes: (1..=NODES).map(node).collect(),
        stores: (0..=NODES).map(store).collect(),
        slices: (0..1 << RING_BITS)
            .map(|slice| Slice { chain: chain(slice), loss_map_number: MapNumber(0) })
            .collect(),
        groups: vec![Group { group: GroupId(0), generation: 0, chain: log }],
    }
}

fn registration(number: u32) -> Registration {
    let report = |place: u32, unit| StoreReport {
        store: store_id(place),
        unit,
        address: format!("10.0.0.{place}:7430"),
        incarnation: Incarnation(1),
        lives: Vec::new(),
        recovered_cut: false,
        lacks: false,
        log_end: LogEnd::default(),
        sequence: 1,
        capacity_bytes: 1 << 30,
        used_bytes: 1,
        condition: Condition::Well,
    };
    let mut stores = vec![report(number - 1, Unit::Shard(ShardIndex(0)))];
    if number == 1 {
        stores.push(report(NODES, Unit::Group(GroupId(0))));
    }
    Registration {
        node: NodeId(number),
        life: Life(u64::from(number)),
        join: false,
        name: format!("node-{number}"),
        rack: String::new(),
        control: "10.0.0.1:7422".to_owned(),
        sent: Nanos(1),
        installed: MapNumber(1),
        stores,
    }
}

fn heartbeat(number: u32, now: Nanos, installed: MapNumber) -> Heartbeat {
    let beat = StoreBeat {
        store: store_id(number - 1),
        condition: Condition::Well,
        sequence: 1,
        used_bytes: 1,
        lag: 0,
    };
    Heartbeat {
        node: NodeId(number),
        life: Life(u64::from(number)),
        sent: now,
        installed,
        stores: vec![beat],
        suspects: Vec::new(),
        synced: Vec::new(),
        caught_up: Vec::new(),
        slow: Vec::new(),
    }
}

struct Leader {
    membership: Membership,
    now: Nanos,
    proposed: Option<MapDelta>,
}

impl Leader {
    fn handle(&mut self, event: Event<'_>) {
        let mut effects = Effects::default();
        self.membership.handle(self.now, event, &mut effects);
        for effect in effects.list {
            match effect {
                Effect::Propose(delta) => self.proposed = Some(*delta),
                Effect::ConfirmLeadership { round } => self.handle(Event::Confirmed { round }),
                _ => (),
            }
        }
    }

    /// Microseconds that something takes.
    #[expect(clippy::disallowed_methods, reason = "measures; the crate itself reads no clock")]
    fn time(&mut self, what: &str, mut act: impl FnMut(&mut Self)) {
        let start = std::time::Instant::now();
        act(self);
        eprintln!("{what}: {} µs", start.elapsed().as_micros());
    }

    fn commit(&mut self) {
        let Some(delta) = self.proposed.take() else { return };
        let mut next = None;
        self.time("  apply on one voter", |leader| {
            next = Some(apply(leader.membership.map(), &delta).expect("the leader's changes are valid"));
        });
        let next: ClusterMap = next.expect("it was applied");
        eprintln!("  {} records in the change", delta.len());
        self.time("  the leader takes the map and plans", |leader| leader.handle(Event::Applied(&next)));
    }

    /// Heartbeats of all but one node, every 250 ms, until so much time has passed.
    fn run(&mut self, nanoseconds: u64, silent: u32) {
        let end = self.now.after(nanoseconds);
        while self.now < end {
            self.now = self.now.after(250 * Nanos::MILLISECOND);
            let installed = self.membership.map().number();
            for number in (1..=NODES).filter(|number| *number != silent) {
                let beat = heartbeat(number, self.now, installed);
                self.handle(Event::Heartbeat(&beat));
            }
        }
    }
}

#[test]
fn a_large_cluster_costs_little() {
    let map = ClusterMap::new(map()).expect("a valid map");
    let membership = Membership::new(NodeId(1), Config::default(), map);
    let mut leader = Leader { membership, now: Nanos(1_000 * Nanos::SECOND), proposed: None };
    leader.time("elected", |leader| leader.handle(Event::Elected));
    leader.time("200 registrations", |leader| {
        for number in 1..=NODES {
            let registration = registration(number);
            leader.handle(Event::Registered { token: 1, registration: &registration });
        }
    });
    leader.run(3 * Nanos::SECOND, 0);
    while leader.proposed.is_some() {
        leader.commit();
    }
    leader.time("800 heartbeats, one second's", |leader| leader.run(Nanos::SECOND, 0));
    leader.time("a tick when nothing has happened", |leader| leader.handle(Event::Tick));
    leader.time("a look at all chains when nothing has changed", |leader| leader.handle(Event::Voters(&[1])));
    assert!(leader.proposed.is_none(), "nothing has changed");
    leader.run(lease_at_control(2 * Nanos::SECOND) - 100 * Nanos::MILLISECOND, 7);
    leader.now = leader.now.after(500 * Nanos::MILLISECOND);
    leader.time("a node's death", |leader| leader.handle(Event::Tick));
    let lost = leader.proposed.as_ref().expect("its members are put out").slices.len();
    assert!(lost > 900, "{lost} of 983 slices");
    leader.commit();
    // Promises come one by one: the first ones are acted on while the others come.
    leader.run(250 * Nanos::MILLISECOND, 7);
    leader.commit();
    leader.commit();
    let active =
        leader.membership.map().as_map().slices.iter().all(|slice| slice.chain.phase == Phase::Active);
    assert!(active, "all of them act again, with two more changes");
    assert!(leader.membership.map().route_of_slice(SliceIndex(0)).takes_writes());
}
