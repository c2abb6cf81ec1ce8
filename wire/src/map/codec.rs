//! The map's bytes: one FlatBuffers table of columns, cut into pages for the wire.
//!
//! Slices are columns of epochs, member counts, stores and states, so that 65,536 of them take 1.2 MB and one table. Decoding is total,
//! and allocates in proportion to the bytes it was given. What makes a map usable beyond its shape is `placement`'s to check.

use std::ops::Range;

use flatbuffers::{FlatBufferBuilder, Vector, VerifierOptions, WIPOffset};
use wire_generated::cluster_map_generated as schema;
use wire_generated::common_generated::Uuid;

use super::{Group, GroupMember, Map, Member, Node, ReplicaState, Settings, Slice, Store};
use crate::limits::{
    CHAIN_MEMBERS_MAX, MAP_NAME_BYTES_MAX, MAP_NODES_MAX, MAP_PAGE_BYTES, MAP_PAGES_MAX, MAP_STORES_MAX,
    RING_BITS_MAX,
};
use crate::message::DecodeError;
use crate::{ClusterId, Epoch, GroupId, MapNumber, NodeId, SessionId, ShardIndex, StoreId};

type Builder = FlatBufferBuilder<'static>;

/// The version of the map's format that this build writes, and the newest that it reads.
pub const MAP_FORMAT: u16 = 1;
const MAP_BYTES_MAX: usize = MAP_PAGES_MAX as usize * MAP_PAGE_BYTES;

/// Collects a map's pages as they arrive.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pages {
    number: MapNumber,
    count: u32,
    next: u32,
    bytes: Vec<u8>,
}

impl Map {
    /// The map in the bytes of all its pages.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        if bytes.len() > MAP_BYTES_MAX {
            return Err(DecodeError::TooLarge("cluster map"));
        }
        // One table without strings: apparent size and size are the same, up to the verifier's own counting.
        let options = VerifierOptions {
            max_depth: 1,
            max_tables: 1,
            max_apparent_size: 2 * MAP_BYTES_MAX,
            ignore_missing_null_terminator: false,
        };
        let front = flatbuffers::root_with_opts::<schema::MapFormat<'_>>(&options, bytes)
            .map_err(|_| DecodeError::Malformed)?;
        match front.format() {
            0 => return Err(DecodeError::Missing("format of the cluster map")),
            1..=MAP_FORMAT => {}
            found => {
                let known = MAP_FORMAT;
                return Err(DecodeError::NewerFormat { what: "the cluster map", found, known });
            }
        }
        let table = flatbuffers::root_with_opts::<schema::ClusterMap<'_>>(&options, bytes)
            .map_err(|_| DecodeError::Malformed)?;
        decode_table(table)
    }

    /// Its bytes, to be cut into pages by [`Map::page`]. The map keeps its limits.
    pub fn encode(&self) -> Vec<u8> {
        let mut builder = Builder::new();
        let root = encode_table(&mut builder, self);
        builder.finish_minimal(root);
        let bytes = builder.finished_data().to_vec();
        assert!(bytes.len() <= MAP_BYTES_MAX, "limits of names and counts bound a map");
        bytes
    }

    /// How many pages the bytes of a map have.
    pub fn page_count(bytes: &[u8]) -> u32 {
        u32::try_from(bytes.len().div_ceil(MAP_PAGE_BYTES)).expect("a map has few pages")
    }

    /// A page of a map's bytes; `None` beyond the last.
    pub fn page(bytes: &[u8], page: u32) -> Option<&[u8]> {
        bytes.chunks(MAP_PAGE_BYTES).nth(page as usize)
    }
}

impl Pages {
    /// Nothing collected yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// The page to ask for next.
    pub fn next_page(&self) -> u32 {
        self.next
    }

    /// Takes a page; returns the map when it was the last one. A page of another map than the one begun starts over; one that isn't due
    /// is dropped: ask for [`next_page`](Self::next_page). A reply with 0 pages (the map is known already) isn't added.
    pub fn add(
        &mut self,
        number: MapNumber,
        (page, pages): (u32, u32),
        bytes: &[u8],
    ) -> Result<Option<Map>, DecodeError> {
        if (number, pages) != (self.number, self.count) {
            *self = Self { number, count: pages, next: 0, bytes: Vec::new() };
        }
        if page != self.next {
            return Ok(None);
        }
        if page >= pages || pages > MAP_PAGES_MAX || bytes.len() > MAP_PAGE_BYTES {
            return Err(DecodeError::Invalid("page of the map"));
        }
        self.bytes.extend_from_slice(bytes);
        self.next += 1;
        if self.next < self.count {
            return Ok(None);
        }
        let map = Map::decode(&std::mem::take(self).bytes)?;
        if map.number == number { Ok(Some(map)) } else { Err(DecodeError::Invalid("number of the map")) }
    }
}

fn encode_table(builder: &mut Builder, map: &Map) -> WIPOffset<schema::ClusterMap<'static>> {
    let text = Some(builder.create_vector(text_of(map).as_bytes()));
    let nodes = map.nodes.iter().map(|node| schema::NodeRecord::new(node.node.0, text_bytes(&node.name)));
    let nodes = Some(builder.create_vector_from_iter(nodes));
    let stores = Some(builder.create_vector_from_iter(map.stores.iter().map(encode_store)));
    let epochs = map.slices.iter().map(|slice| slice.epoch.0);
    let slice_epochs = Some(builder.create_vector_from_iter(epochs));
    let counts = map.slices.iter().map(|slice| member_count(slice.members.len()));
    let slice_member_counts = Some(builder.create_vector_from_iter(counts));
    let members: Vec<Member> = map.slices.iter().flat_map(|slice| slice.members.iter().copied()).collect();
    let member_stores = Some(builder.create_vector_from_iter(members.iter().map(|member| member.store)));
    let states = members.iter().map(|member| member.state as u8);
    let member_states = Some(builder.create_vector_from_iter(states));
    let losses = encode_losses(builder, map);
    let groups = Some(builder.create_vector_from_iter(map.groups.iter().map(encode_group)));
    let members: Vec<&GroupMember> = map.groups.iter().flat_map(|group| &group.members).collect();
    let records = members.iter().map(|member| {
        schema::GroupMemberRecord::new(member.node.0, text_bytes(&member.address), member.state as u8)
    });
    let group_members = Some(builder.create_vector_from_iter(records));
    let args = schema::ClusterMapArgs {
        format: MAP_FORMAT,
        number: map.number.0,
        cluster: Some(&Uuid::new(&map.cluster.0)),
        ring_bits: map.ring_bits,
        chain_length: map.settings.chain_length,
        min_in_sync: map.settings.min_in_sync,
        reclaim_delay_ms: map.settings.reclaim_delay_ms,
        nodes,
        stores,
        slice_epochs,
        slice_member_counts,
        member_stores,
        member_states,
        losses,
        groups,
        group_members,
        text,
    };
    schema::ClusterMap::create(builder, &args)
}

/// Nodes' names, stores' addresses, group members' addresses.
fn text_of(map: &Map) -> String {
    let names = map.nodes.iter().map(|node| node.name.as_str());
    let stores = map.stores.iter().map(|store| store.address.as_str());
    let members = map.groups.iter().flat_map(|group| &group.members).map(|member| member.address.as_str());
    names.chain(stores).chain(members).collect()
}

fn text_bytes(text: &str) -> u16 {
    assert!(text.len() <= MAP_NAME_BYTES_MAX, "names and addresses keep their limit");
    u16::try_from(text.len()).expect("at most 255")
}

fn member_count(count: usize) -> u8 {
    assert!(count <= CHAIN_MEMBERS_MAX, "a chain keeps its limit");
    u8::try_from(count).expect("at most 8")
}

fn encode_store(store: &Store) -> schema::StoreRecord {
    let uuid = Uuid::new(&store.store.0);
    schema::StoreRecord::new(&uuid, store.node.0, store.shard.0, text_bytes(&store.address))
}

fn encode_group(group: &Group) -> schema::GroupRecord {
    let count = member_count(group.members.len());
    schema::GroupRecord::new(group.epoch.0, group.group.0, group.generation, count)
}

fn encode_losses(builder: &mut Builder, map: &Map) -> Option<WIPOffset<Vector<'static, schema::LossRecord>>> {
    let stamped = map.slices.iter().zip(0_u32..).filter(|(slice, _)| slice.loss_map_number.0 > 0);
    let losses: Vec<schema::LossRecord> =
        stamped.map(|(slice, index)| schema::LossRecord::new(slice.loss_map_number.0, index)).collect();
    (!losses.is_empty()).then(|| builder.create_vector(&losses))
}

fn decode_table(table: schema::ClusterMap<'_>) -> Result<Map, DecodeError> {
    if table.ring_bits() > RING_BITS_MAX {
        return Err(DecodeError::TooLarge("ring"));
    }
    if table.nodes().len() > MAP_NODES_MAX
        || table.stores().len() > MAP_STORES_MAX
        || table.groups().len() > usize::from(SessionId::GROUP_COUNT)
        || table.group_members().len() > usize::from(SessionId::GROUP_COUNT) * CHAIN_MEMBERS_MAX
    {
        return Err(DecodeError::TooLarge("cluster map"));
    }
    let mut text = Text { rest: table.text().bytes() };
    let nodes = decode_nodes(table, &mut text)?;
    let stores = decode_stores(table, &mut text)?;
    let groups = decode_groups(table, &mut text)?;
    text.end()?;
    Ok(Map {
        number: MapNumber(table.number()),
        cluster: ClusterId(table.cluster().bytes().into()),
        ring_bits: table.ring_bits(),
        settings: Settings {
            chain_length: table.chain_length(),
            min_in_sync: table.min_in_sync(),
            reclaim_delay_ms: table.reclaim_delay_ms(),
        },
        slices: decode_slices(table, stores.len())?,
        nodes,
        stores,
        groups,
    })
}

/// The names and addresses that haven't been read yet.
struct Text<'a> {
    rest: &'a [u8],
}

impl Text<'_> {
    fn take(&mut self, bytes: u16) -> Result<String, DecodeError> {
        const INVALID: DecodeError = DecodeError::Invalid("name or address in the map");
        if usize::from(bytes) > MAP_NAME_BYTES_MAX {
            return Err(DecodeError::TooLarge("name or address in the map"));
        }
        let (taken, rest) = self.rest.split_at_checked(usize::from(bytes)).ok_or(INVALID)?;
        self.rest = rest;
        std::str::from_utf8(taken).map(str::to_owned).map_err(|_| INVALID)
    }

    fn end(&self) -> Result<(), DecodeError> {
        if self.rest.is_empty() { Ok(()) } else { Err(DecodeError::Invalid("text of the map")) }
    }
}

fn decode_nodes(table: schema::ClusterMap<'_>, text: &mut Text<'_>) -> Result<Vec<Node>, DecodeError> {
    let decode = |record: &schema::NodeRecord| {
        Ok(Node { node: NodeId(record.node()), name: text.take(record.name_bytes())? })
    };
    table.nodes().iter().map(decode).collect()
}

fn decode_stores(table: schema::ClusterMap<'_>, text: &mut Text<'_>) -> Result<Vec<Store>, DecodeError> {
    let decode = |record: &schema::StoreRecord| {
        Ok(Store {
            store: StoreId(record.store().bytes().into()),
            node: NodeId(record.node()),
            shard: ShardIndex(record.shard()),
            address: text.take(record.address_bytes())?,
        })
    };
    table.stores().iter().map(decode).collect()
}

fn decode_slices(table: schema::ClusterMap<'_>, store_count: usize) -> Result<Vec<Slice>, DecodeError> {
    const INVALID: DecodeError = DecodeError::Invalid("slices of the map");
    let slice_count = 1_usize << table.ring_bits();
    let (epochs, counts) = (table.slice_epochs(), table.slice_member_counts());
    let (stores, states) = (table.member_stores(), table.member_states());
    if epochs.len() != slice_count || counts.len() != slice_count || stores.len() != states.len() {
        return Err(INVALID);
    }
    let mut slices = Vec::with_capacity(slice_count);
    let mut next = 0_usize;
    for (epoch, count) in epochs.iter().zip(counts.iter()) {
        let range: Range<usize> = next..next + usize::from(count);
        if usize::from(count) > CHAIN_MEMBERS_MAX || range.end > stores.len() {
            return Err(INVALID);
        }
        next = range.end;
        let decode = |i| {
            let state =
                ReplicaState::from_code(states.get(i)).ok_or(DecodeError::Unknown("replica state"))?;
            let store = stores.get(i);
            if usize::from(store) < store_count { Ok(Member { store, state }) } else { Err(INVALID) }
        };
        let members = range.map(decode).collect::<Result<_, _>>()?;
        slices.push(Slice { epoch: Epoch(epoch), loss_map_number: MapNumber(0), members });
    }
    if next != stores.len() {
        return Err(INVALID);
    }
    for loss in table.losses().iter().flatten() {
        slices.get_mut(loss.slice() as usize).ok_or(INVALID)?.loss_map_number = MapNumber(loss.number());
    }
    Ok(slices)
}

fn decode_groups(table: schema::ClusterMap<'_>, text: &mut Text<'_>) -> Result<Vec<Group>, DecodeError> {
    const INVALID: DecodeError = DecodeError::Invalid("groups of the map");
    let mut records = table.group_members().iter();
    let mut groups = Vec::with_capacity(table.groups().len());
    for group in table.groups() {
        if usize::from(group.member_count()) > CHAIN_MEMBERS_MAX {
            return Err(INVALID);
        }
        let mut members = Vec::with_capacity(usize::from(group.member_count()));
        for _ in 0..group.member_count() {
            let record = records.next().ok_or(INVALID)?;
            let state =
                ReplicaState::from_code(record.state()).ok_or(DecodeError::Unknown("replica state"))?;
            let address = text.take(record.address_bytes())?;
            members.push(GroupMember { node: NodeId(record.node()), state, address });
        }
        groups.push(Group {
            group: GroupId(group.group()),
            generation: group.generation(),
            epoch: Epoch(group.epoch()),
            members,
        });
    }
    if records.next().is_some() { Err(INVALID) } else { Ok(groups) }
}
