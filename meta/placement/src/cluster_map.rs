//! The map with its lookups. Whoever holds one knows that it was validated.

use wire::map::{Chain, Group, Map, MapDelta, Member, Phase, Store};
use wire::{ChunkId, ClusterId, Epoch, GroupId, MapNumber, SessionId, SliceIndex, StoreId};

use crate::MapError;

/// A valid cluster map. Immutable: a change is another map.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ClusterMap {
    map: Map,
}

/// Where a chunk lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route<'a> {
    /// Its slice.
    pub slice: SliceIndex,
    /// The slice's epoch, for writes and deletes.
    pub epoch: Epoch,
    /// The chain, head first, in every state.
    pub members: &'a [Member],
    /// All of the chain.
    pub chain: &'a Chain,
    stores: &'a [Store],
}

impl<'a> Route<'a> {
    /// The head's store, where writes go; `None` while the chain has no serving member.
    pub fn head(&self) -> Option<&'a Store> {
        self.readers().next()
    }

    /// The stores that answer reads, head first.
    pub fn readers(&self) -> impl Iterator<Item = &'a Store> + use<'a> {
        let stores = self.stores;
        self.chain.serving().map(move |member| &stores[usize::from(member.store)])
    }

    /// Whether the epoch acks: not while it is being prepared, nor with too few copies in sync (R5, R6).
    pub fn takes_writes(&self) -> bool {
        self.chain.phase == Phase::Active && self.chain.can_ack()
    }

    /// The stores that take part in acks, in chain order (I2).
    pub fn ackers(&self) -> impl Iterator<Item = &'a Store> + use<'a> {
        let stores = self.stores;
        self.chain.ackers().map(move |member| &stores[usize::from(member.store)])
    }
}

impl ClusterMap {
    /// The map, if it can be a cluster's.
    pub fn new(map: Map) -> Result<Self, MapError> {
        crate::validate::validate(&map)?;
        Ok(Self { map })
    }

    /// The plain data.
    pub fn as_map(&self) -> &Map {
        &self.map
    }

    /// The map that the delta leads to, if it can be a cluster's.
    pub fn with(&self, delta: &MapDelta) -> Result<Self, MapError> {
        Self::new(self.map.with(delta)?)
    }

    /// Its number.
    pub fn number(&self) -> MapNumber {
        self.map.number
    }

    /// The cluster.
    pub fn cluster(&self) -> ClusterId {
        self.map.cluster
    }

    /// The slice of a chunk.
    pub fn slice_of(&self, id: ChunkId) -> SliceIndex {
        wire::slice_of(id, u32::from(self.map.ring_bits))
    }

    /// Where a chunk lives.
    pub fn route(&self, id: ChunkId) -> Route<'_> {
        self.route_of_slice(self.slice_of(id))
    }

    /// Where a slice's chunks live; the slice is one of this map's.
    pub fn route_of_slice(&self, slice: SliceIndex) -> Route<'_> {
        let chain = &self.map.slices[usize::from(slice.0)].chain;
        Route { slice, epoch: chain.epoch, members: &chain.members, chain, stores: &self.map.stores }
    }

    /// The map in which a loss of this slice's chunks was accepted last; 0: never (R8).
    pub fn loss_map_number(&self, slice: SliceIndex) -> MapNumber {
        self.map.slices[usize::from(slice.0)].loss_map_number
    }

    /// A store, where the map has it.
    pub fn store(&self, store: StoreId) -> Option<&Store> {
        self.map.stores.iter().find(|candidate| candidate.store == store)
    }

    /// Slices in whose chain `store` is, in any state.
    pub fn slices_of(&self, store: StoreId) -> impl Iterator<Item = SliceIndex> + '_ {
        let index = self.map.stores.iter().position(|candidate| candidate.store == store);
        let holds = move |members: &[Member]| {
            index.is_some_and(|index| members.iter().any(|member| usize::from(member.store) == index))
        };
        self.map
            .slices
            .iter()
            .zip(0_u32..)
            .filter(move |(slice, _)| holds(&slice.chain.members))
            .map(|(_, number)| SliceIndex(u16::try_from(number).expect("a ring has at most 2^16 slices")))
    }

    /// A group, where the map has it.
    pub fn group(&self, group: GroupId) -> Option<&Group> {
        self.map
            .groups
            .binary_search_by_key(&group, |candidate| candidate.group)
            .ok()
            .map(|i| &self.map.groups[i])
    }

    /// The group that decides about a session and its chunks (R27).
    pub fn group_of_session(&self, session: SessionId) -> Option<&Group> {
        self.group(session.group())
    }

    /// The logs of a group's serving members, head first: mutations go to the first, queries to the last (R13).
    pub fn group_members(&self, group: GroupId) -> impl DoubleEndedIterator<Item = &Store> {
        let serving = self.group(group).into_iter().flat_map(|group| group.chain.serving());
        serving.map(|member| &self.map.stores[usize::from(member.store)])
    }

    /// Whether anything is kept twice.
    pub fn is_redundant(&self) -> bool {
        self.map.settings.chain_length > 1
    }
}

#[cfg(test)]
mod tests {
    use wire::map::{Node, ReplicaState, Settings, Slice, Standing, Unit};
    use wire::{Incarnation, NodeId, ShardIndex};

    use super::*;

    /// Two slices on three stores: one healthy chain with a joiner, one whose head is gone.
    fn sample() -> ClusterMap {
        use ReplicaState::{LastServing, Offline, Serving, Syncing, Waiting};
        let member = |store, state| Member { store, state, is_seed: state == Serving };
        let store = |i: u8| Store {
            store: StoreId([i; 16]),
            node: NodeId(1),
            unit: match i {
                0..3 => Unit::Shard(ShardIndex(i.into())),
                6 => Unit::Group(GroupId(7)),
                _ => Unit::Group(GroupId(0)),
            },
            address: format!("127.0.0.1:{}", 7430 + u16::from(i)),
            incarnation: Incarnation(1),
            weight: 1,
            standing: Standing::Member,
        };
        let chain = |epoch, phase, members: Vec<Member>| Chain {
            epoch: Epoch(epoch),
            phase,
            min_in_sync: 2,
            members: members.into_iter().collect(),
        };
        let slice = |epoch, phase, members| Slice {
            chain: chain(epoch, phase, members),
            loss_map_number: MapNumber(0),
        };
        let group = |id, members| Group {
            group: GroupId(id),
            generation: 0,
            chain: chain(1, Phase::Active, members),
        };
        ClusterMap::new(Map {
            number: MapNumber(5),
            cluster: ClusterId([1; 16]),
            ring_bits: 1,
            settings: Settings { chain_length: 3, min_in_sync: 2, reclaim_delay_ms: 1_000 },
            nodes: vec![Node {
                node: NodeId(1),
                name: "n".to_owned(),
                rack: String::new(),
                control: "127.0.0.1:7422".to_owned(),
                voter: 1,
            }],
            stores: (0..7).map(store).collect(),
            slices: vec![
                slice(7, Phase::Active, vec![member(2, Serving), member(0, Serving), member(1, Syncing)]),
                slice(9, Phase::Prepared, vec![member(1, Offline), member(0, Serving), member(2, Waiting)]),
            ],
            groups: vec![
                group(0, vec![member(3, Serving), member(4, Serving), member(5, Waiting)]),
                group(7, vec![member(6, LastServing)]),
            ],
        })
        .expect("a valid map")
    }

    fn shards<'a>(stores: impl Iterator<Item = &'a Store>) -> Vec<u8> {
        stores.map(|store| store.store.0[0]).collect()
    }

    #[test]
    fn a_route_tells_who_takes_writes_who_acks_and_who_reads() {
        let map = sample();
        let route = map.route_of_slice(SliceIndex(0));
        assert_eq!(route.epoch, Epoch(7));
        assert_eq!(route.head().map(|store| store.unit), Some(Unit::Shard(ShardIndex(2))));
        assert!(route.takes_writes());
        assert_eq!(shards(route.ackers()), [2, 0, 1], "I2: Syncing members ack too");
        assert_eq!(shards(route.readers()), [2, 0]);
        let route = map.route_of_slice(SliceIndex(1));
        assert_eq!((shards(route.ackers()), shards(route.readers())), (vec![0], vec![0]));
        assert!(!route.takes_writes(), "R5: it is being prepared");
    }

    #[test]
    fn a_chunk_is_routed_by_its_slice() {
        let map = sample();
        for ordinal in 0..100 {
            let id = ChunkId { session: SessionId(3), ordinal };
            let route = map.route(id);
            assert_eq!(route.slice, wire::slice_of(id, 1));
            assert_eq!(route, map.route_of_slice(route.slice));
        }
    }

    #[test]
    fn groups_are_found_by_session() {
        let map = sample();
        let session = SessionId::new(GroupId(7), 3, 9).expect("in range");
        assert_eq!(map.group_of_session(session).map(|group| group.group), Some(GroupId(7)));
        assert_eq!(map.group(GroupId(1)), None);
        let serving: Vec<&str> = map.group_members(GroupId(0)).map(|store| store.address.as_str()).collect();
        assert_eq!(serving, ["127.0.0.1:7433", "127.0.0.1:7434"]);
        assert_eq!(map.group_members(GroupId(7)).count(), 0, "the last that served doesn't serve");
    }

    #[test]
    fn slices_of_a_store_are_those_with_it_in_the_chain() {
        let map = sample();
        let slices = |store| map.slices_of(store).collect::<Vec<_>>();
        assert_eq!(slices(StoreId([1; 16])), [SliceIndex(0), SliceIndex(1)]);
        assert_eq!(slices(StoreId([9; 16])), []);
        assert_eq!(map.store(StoreId([2; 16])).map(|store| store.unit), Some(Unit::Shard(ShardIndex(2))));
    }
}
