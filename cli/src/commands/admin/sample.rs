//! A small cluster for this module's tests: three nodes with a shard and a metadata replica each; of its four slices one is full, one waits for a store that is
//! gone, one takes no writes and one serves nothing.

use wire::map::{
    Chain, Group, Map, Member, Node, Phase, ReplicaState, Settings, Slice, Standing, Store, Unit,
};
use wire::{ClusterId, Epoch, GroupId, Incarnation, MapNumber, NodeId, ShardIndex, StoreId};

/// The map. The shards' stores have the places 0 to 2 and the ids 1…, 2…, 3…; the logs 3 to 5 and 11…, 12…, 13….
pub(crate) fn map() -> Map {
    use ReplicaState::{LastServing, Offline, Serving, Syncing, Waiting};
    let store = |id: u8, node: u32, unit| Store {
        store: StoreId([id; 16]),
        node: NodeId(node),
        unit,
        address: format!("127.0.0.1:{}", 7430 + u16::from(id)),
        incarnation: Incarnation(1),
        weight: 1,
        standing: Standing::Member,
    };
    let shards = (1_u8..=3).map(|id| store(id, id.into(), Unit::Shard(ShardIndex(0))));
    let logs = (1_u8..=3).map(|id| store(10 + id, id.into(), Unit::Group(GroupId(0))));
    let slice = |chain| Slice { chain, loss_map_number: MapNumber(0) };
    Map {
        number: MapNumber(17),
        cluster: ClusterId([1; 16]),
        ring_bits: 2,
        settings: Settings { chain_length: 3, min_in_sync: 2, reclaim_delay_ms: 1_000 },
        nodes: (1..=3)
            .map(|number| Node {
                node: NodeId(number),
                name: format!("node-{number}"),
                rack: String::new(),
                control: format!("127.0.0.1:742{number}"),
                voter: u64::from(number),
            })
            .collect(),
        stores: shards.chain(logs).collect(),
        slices: vec![
            slice(chain(Phase::Active, &[(0, Serving), (1, Serving), (2, Serving)])),
            slice(chain(Phase::Prepared, &[(1, Serving), (2, Serving), (0, Offline)])),
            slice(chain(Phase::Active, &[(2, Serving), (0, Syncing), (1, Waiting)])),
            slice(chain(Phase::Active, &[(0, LastServing), (1, Offline), (2, Offline)])),
        ],
        groups: vec![Group {
            group: GroupId(0),
            generation: 0,
            chain: chain(Phase::Active, &[(3, Serving), (4, Serving), (5, Serving)]),
        }],
    }
}

fn chain(phase: Phase, members: &[(u16, ReplicaState)]) -> Chain {
    let member = |&(store, state): &(u16, ReplicaState)| Member {
        store,
        state,
        is_seed: matches!(state, ReplicaState::Serving | ReplicaState::LastServing),
    };
    Chain { epoch: Epoch(7), phase, min_in_sync: 2, members: members.iter().map(member).collect() }
}
