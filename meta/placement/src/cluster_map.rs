//! The map with its lookups. Whoever holds one knows that it was validated.

use wire::map::{Group, GroupMember, Map, Member, ReplicaState, Store};
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
        self.members
            .iter()
            .filter(|member| member.state == ReplicaState::Serving)
            .map(move |member| &stores[usize::from(member.store)])
    }

    /// The stores that take part in acks, in chain order (I2).
    pub fn ackers(&self) -> impl Iterator<Item = &'a Store> + use<'a> {
        let stores = self.stores;
        self.members
            .iter()
            .filter(|member| matches!(member.state, ReplicaState::Serving | ReplicaState::Syncing))
            .map(move |member| &stores[usize::from(member.store)])
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
        let chain = &self.map.slices[usize::from(slice.0)];
        Route { slice, epoch: chain.epoch, members: &chain.members, stores: &self.map.stores }
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
            .filter(move |(slice, _)| holds(&slice.members))
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

    /// The serving members of a group, head first: mutations go to the first, queries to the last (R13).
    pub fn group_members(&self, group: GroupId) -> impl Iterator<Item = &GroupMember> {
        let members = self.group(group).map_or(&[][..], |group| &group.members);
        members.iter().filter(|member| member.state == ReplicaState::Serving)
    }

    /// Whether anything is kept twice.
    pub fn is_redundant(&self) -> bool {
        self.map.settings.chain_length > 1
    }
}
