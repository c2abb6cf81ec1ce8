//! The bytes of a map or delta: one FlatBuffers table of columns, cut into pages for the wire.
//!
//! Chains are columns of epochs, phases, member counts, stores and states, so that 65,536 of them take 1.3 MB and one table. Decoding is total,
//! and allocates in proportion to the bytes it was given. What makes a map usable beyond its shape is `placement`'s to check.

use std::collections::BTreeMap;

use flatbuffers::{FlatBufferBuilder, Vector, VerifierOptions, WIPOffset};
use wire_generated::cluster_map_generated as schema;
use wire_generated::common_generated::Uuid;
use xxhash_rust::xxh3::xxh3_128;

use super::{
    Chain, DeltaError, Group, Map, MapDelta, Member, Members, Node, Phase, ReplicaState, Settings, Slice,
    Standing, Store, Unit,
};
use crate::limits::{
    CHAIN_MEMBERS_MAX, MAP_NAME_BYTES_MAX, MAP_NODES_MAX, MAP_PAGE_BYTES, MAP_PAGES_MAX, MAP_STORES_MAX,
    RING_BITS_MAX,
};
use crate::message::DecodeError;
use crate::{
    ClusterId, Epoch, GroupId, Incarnation, MapNumber, NodeId, SessionId, ShardIndex, SliceIndex, StoreId,
};

type Builder = FlatBufferBuilder<'static>;

/// The version of the map's format that this build writes, and the newest that it reads.
pub const MAP_FORMAT: u16 = 2;
const MAP_BYTES_MAX: usize = MAP_PAGES_MAX as usize * MAP_PAGE_BYTES;
/// Added to a member's state: it may seed. Added to a chain's `min_in_sync`: its epoch is prepared.
const MARK: u8 = 128;

/// What a map's bytes hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MapUpdate {
    /// A whole map.
    Whole(Box<Map>),
    /// What changed since a map that the receiver has.
    Delta(Box<MapDelta>),
}

impl MapUpdate {
    /// The number of the map that it leads to.
    pub fn number(&self) -> MapNumber {
        match self {
            Self::Whole(map) => map.number,
            Self::Delta(delta) => delta.number,
        }
    }

    /// What is in the bytes of all its pages.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let table = verified(bytes)?;
        if table.base() > 0 {
            return decode_delta(table).map(|delta| Self::Delta(Box::new(delta)));
        }
        decode_whole(table).map(|map| Self::Whole(Box::new(map)))
    }

    /// The map that it leads to from `have`.
    pub fn apply(self, have: Option<&Map>) -> Result<Map, DeltaError> {
        match (self, have) {
            (Self::Whole(map), _) => Ok(*map),
            (Self::Delta(delta), Some(map)) => map.with(&delta),
            (Self::Delta(delta), None) => Err(DeltaError::Base { base: delta.base, have: MapNumber(0) }),
        }
    }
}

/// Collects a map's pages, or a delta's, as they arrive.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pages {
    number: MapNumber,
    count: u32,
    next: u32,
    bytes: Vec<u8>,
}

impl Map {
    /// The whole map in the bytes of all its pages.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let table = verified(bytes)?;
        if table.base() > 0 {
            return Err(DecodeError::Invalid("a delta where a whole map belongs"));
        }
        decode_whole(table)
    }

    /// Its bytes, to be cut into pages by [`Map::page`]. The map keeps its limits.
    pub fn encode(&self) -> Vec<u8> {
        Columns {
            base: MapNumber(0),
            number: self.number,
            cluster: self.cluster,
            ring_bits: self.ring_bits,
            settings: self.settings,
            nodes: self.nodes.iter().collect(),
            stores: self.stores.iter().collect(),
            slices: (0_u16..=u16::MAX).zip(&self.slices).map(|(at, slice)| (SliceIndex(at), slice)).collect(),
            groups: self.groups.iter().collect(),
            places: None,
        }
        .encode()
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

impl MapDelta {
    /// Its bytes, to be cut into pages as a map's.
    pub fn encode(&self) -> Vec<u8> {
        Columns {
            base: self.base,
            number: self.number,
            cluster: self.cluster,
            ring_bits: self.ring_bits,
            settings: self.settings,
            nodes: self.nodes.values().collect(),
            stores: self.stores.values().collect(),
            slices: self.slices.iter().map(|(index, slice)| (*index, slice)).collect(),
            groups: self.groups.values().collect(),
            places: Some((self.stores.keys().copied().collect(), &self.removed_nodes)),
        }
        .encode()
    }

    /// The delta in these bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        decode_delta(verified(bytes)?)
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

    /// Takes a page; returns what they make when it was the last one. A page of another map than the one begun starts over; one that isn't due
    /// is dropped: ask for [`next_page`](Self::next_page). A reply with 0 pages (the map is known already) isn't added.
    pub fn add(
        &mut self,
        number: MapNumber,
        (page, pages): (u32, u32),
        bytes: &[u8],
    ) -> Result<Option<MapUpdate>, DecodeError> {
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
        let update = MapUpdate::decode(&std::mem::take(self).bytes)?;
        let fits = update.number() == number;
        if fits { Ok(Some(update)) } else { Err(DecodeError::Invalid("number of the map")) }
    }
}

/// The table, verified; a newer format is refused by name.
fn verified(bytes: &[u8]) -> Result<schema::ClusterMap<'_>, DecodeError> {
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
    check_sizes(table)?;
    Ok(table)
}

fn check_sizes(table: schema::ClusterMap<'_>) -> Result<(), DecodeError> {
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
    Ok(())
}

/// What both a map and a delta are written from.
struct Columns<'a> {
    base: MapNumber,
    number: MapNumber,
    cluster: ClusterId,
    ring_bits: u8,
    settings: Settings,
    nodes: Vec<&'a Node>,
    stores: Vec<&'a Store>,
    slices: Vec<(SliceIndex, &'a Slice)>,
    groups: Vec<&'a Group>,
    /// Of a delta: places of its stores, and nodes that are gone.
    places: Option<(Vec<u16>, &'a [NodeId])>,
}

impl Columns<'_> {
    fn encode(&self) -> Vec<u8> {
        let mut builder = Builder::new();
        let root = self.table(&mut builder);
        builder.finish_minimal(root);
        let bytes = builder.finished_data().to_vec();
        assert!(bytes.len() <= MAP_BYTES_MAX, "limits of names and counts bound a map");
        bytes
    }

    fn table(&self, builder: &mut Builder) -> WIPOffset<schema::ClusterMap<'static>> {
        let text = Some(builder.create_vector(self.text().as_bytes()));
        let nodes =
            self.nodes.iter().map(|node| schema::NodeRecord::new(node.node.0, text_bytes(&node.name)));
        let nodes = Some(builder.create_vector_from_iter(nodes));
        let details = self.nodes.iter().map(|node| {
            schema::NodeDetail::new(node.voter, text_bytes(&node.rack), text_bytes(&node.control))
        });
        let node_details = Some(builder.create_vector_from_iter(details));
        let stores =
            Some(builder.create_vector_from_iter(self.stores.iter().map(|store| encode_store(store))));
        let details = self.stores.iter().map(|store| encode_store_detail(store));
        let store_details = Some(builder.create_vector_from_iter(details));
        let slices = ChainColumns::new(builder, self.slices.iter().map(|(_, slice)| &slice.chain));
        let groups = ChainColumns::new(builder, self.groups.iter().map(|group| &group.chain));
        let losses = self.losses(builder);
        let records =
            Some(builder.create_vector_from_iter(self.groups.iter().map(|group| encode_group(group))));
        let group_members = Some(builder.create_vector::<schema::GroupMemberRecord>(&[]));
        let (slice_indices, store_indices, removed_nodes) = match &self.places {
            None => (None, None, None),
            Some((places, removed)) => {
                let indices = self.slices.iter().map(|(index, _)| index.0);
                (
                    Some(builder.create_vector_from_iter(indices)),
                    Some(builder.create_vector(places)),
                    Some(builder.create_vector_from_iter(removed.iter().map(|node| node.0))),
                )
            }
        };
        let args = schema::ClusterMapArgs {
            format: MAP_FORMAT,
            number: self.number.0,
            cluster: Some(&Uuid::new(&self.cluster.0)),
            ring_bits: self.ring_bits,
            chain_length: self.settings.chain_length,
            min_in_sync: self.settings.min_in_sync,
            reclaim_delay_ms: self.settings.reclaim_delay_ms,
            nodes,
            stores,
            slice_epochs: slices.epochs,
            slice_member_counts: slices.counts,
            member_stores: slices.stores,
            member_states: slices.states,
            losses,
            groups: records,
            group_members,
            text,
            base: self.base.0,
            node_details,
            store_details,
            slice_phases: slices.phases,
            group_phases: groups.phases,
            group_member_stores: groups.stores,
            group_member_states: groups.states,
            slice_indices,
            store_indices,
            removed_nodes,
        };
        schema::ClusterMap::create(builder, &args)
    }

    /// Nodes' names, racks and control addresses, then stores' addresses.
    fn text(&self) -> String {
        let nodes = self.nodes.iter().flat_map(|node| [&node.name, &node.rack, &node.control]);
        nodes.chain(self.stores.iter().map(|store| &store.address)).map(String::as_str).collect()
    }

    fn losses(&self, builder: &mut Builder) -> Option<WIPOffset<Vector<'static, schema::LossRecord>>> {
        let stamped = self.slices.iter().filter(|(_, slice)| slice.loss_map_number.0 > 0);
        let record = |(index, slice): &(SliceIndex, &Slice)| {
            schema::LossRecord::new(slice.loss_map_number.0, u32::from(index.0))
        };
        let losses: Vec<schema::LossRecord> = stamped.map(record).collect();
        (!losses.is_empty()).then(|| builder.create_vector(&losses))
    }
}

type ColumnOf<T> = Option<WIPOffset<Vector<'static, T>>>;

/// The columns of some chains.
struct ChainColumns {
    epochs: ColumnOf<u64>,
    counts: ColumnOf<u8>,
    phases: ColumnOf<u8>,
    stores: ColumnOf<u16>,
    states: ColumnOf<u8>,
}

impl ChainColumns {
    fn new<'a>(builder: &mut Builder, chains: impl Iterator<Item = &'a Chain> + Clone) -> Self {
        let epochs: Vec<u64> = chains.clone().map(|chain| chain.epoch.0).collect();
        let counts: Vec<u8> = chains.clone().map(|chain| member_count(&chain.members)).collect();
        let phases: Vec<u8> = chains.clone().map(phase_code).collect();
        let members = chains.flat_map(|chain| chain.members.iter());
        let stores: Vec<u16> = members.clone().map(|member| member.store).collect();
        let states: Vec<u8> = members.copied().map(state_code).collect();
        Self {
            epochs: Some(builder.create_vector(&epochs)),
            counts: Some(builder.create_vector(&counts)),
            phases: Some(builder.create_vector(&phases)),
            stores: Some(builder.create_vector(&stores)),
            states: Some(builder.create_vector(&states)),
        }
    }
}

fn phase_code(chain: &Chain) -> u8 {
    assert!(chain.min_in_sync < MARK, "at most the chain's length");
    chain.min_in_sync + if chain.phase == Phase::Prepared { MARK } else { 0 }
}

fn state_code(member: Member) -> u8 {
    member.state as u8 + if member.is_seed { MARK } else { 0 }
}

fn text_bytes(text: &str) -> u16 {
    assert!(text.len() <= MAP_NAME_BYTES_MAX, "names and addresses keep their limit");
    u16::try_from(text.len()).expect("at most 255")
}

fn member_count(members: &Members) -> u8 {
    u8::try_from(members.len()).expect("at most 8")
}

fn encode_store(store: &Store) -> schema::StoreRecord {
    let unit = match store.unit {
        Unit::Shard(shard) => shard.0,
        Unit::Group(group) => group.0,
    };
    schema::StoreRecord::new(&Uuid::new(&store.store.0), store.node.0, unit, text_bytes(&store.address))
}

const UNIT_SHARD: u8 = 1;
const UNIT_GROUP: u8 = 2;

fn encode_store_detail(store: &Store) -> schema::StoreDetail {
    let unit = match store.unit {
        Unit::Shard(_) => UNIT_SHARD,
        Unit::Group(_) => UNIT_GROUP,
    };
    schema::StoreDetail::new(store.incarnation.0, store.weight, unit, store.standing as u8)
}

fn encode_group(group: &Group) -> schema::GroupRecord {
    let count = member_count(&group.chain.members);
    schema::GroupRecord::new(group.chain.epoch.0, group.group.0, group.generation, count)
}

fn decode_whole(table: schema::ClusterMap<'_>) -> Result<Map, DecodeError> {
    let mut text = Text { rest: table.text().bytes() };
    let nodes = decode_nodes(table, &mut text)?;
    let mut stores = decode_stores(table, &mut text)?;
    let groups = if table.format() == 1 {
        decode_first_groups(table, &mut text, &mut stores)?
    } else {
        decode_groups(table, stores.len())?
    };
    text.end()?;
    let slices = decode_slices(table, stores.len())?;
    if slices.len() != 1_usize << table.ring_bits() {
        return Err(SLICES_INVALID);
    }
    Ok(Map {
        number: MapNumber(table.number()),
        cluster: ClusterId(table.cluster().bytes().into()),
        ring_bits: table.ring_bits(),
        settings: decode_settings(table),
        slices: with_losses(table, slices.into_iter().zip(0..).map(|(slice, at)| (at, slice)))?
            .into_values()
            .collect(),
        nodes,
        stores,
        groups,
    })
}

fn decode_delta(table: schema::ClusterMap<'_>) -> Result<MapDelta, DecodeError> {
    const INVALID: DecodeError = DecodeError::Invalid("delta of the map");
    if table.base() == 0 || table.format() < 2 {
        return Err(INVALID);
    }
    let mut text = Text { rest: table.text().bytes() };
    let nodes = decode_nodes(table, &mut text)?;
    let stores = decode_stores(table, &mut text)?;
    text.end()?;
    // Members may be stores that only the map has: whoever applies the delta looks.
    let slices = decode_slices(table, MAP_STORES_MAX)?;
    let groups = decode_groups(table, MAP_STORES_MAX)?;
    let slice_indices: Vec<u32> = table.slice_indices().iter().flatten().map(u32::from).collect();
    let store_indices: Vec<u16> = table.store_indices().iter().flatten().collect();
    let rise = slice_indices.windows(2).all(|pair| pair[0] < pair[1])
        && store_indices.windows(2).all(|pair| pair[0] < pair[1]);
    if slices.len() != slice_indices.len() || stores.len() != store_indices.len() || !rise {
        return Err(INVALID);
    }
    let slices = with_losses(table, slice_indices.into_iter().zip(slices))?;
    let index = |index: u32| SliceIndex(u16::try_from(index).expect("indices have 16 bits"));
    Ok(MapDelta {
        base: MapNumber(table.base()),
        number: MapNumber(table.number()),
        cluster: ClusterId(table.cluster().bytes().into()),
        ring_bits: table.ring_bits(),
        settings: decode_settings(table),
        nodes: nodes.into_iter().map(|node| (node.node, node)).collect(),
        removed_nodes: table.removed_nodes().iter().flatten().map(NodeId).collect(),
        stores: store_indices.into_iter().zip(stores).collect(),
        slices: slices.into_iter().map(|(at, slice)| (index(at), slice)).collect(),
        groups: groups.into_iter().map(|group| (group.group, group)).collect(),
    })
}

fn decode_settings(table: schema::ClusterMap<'_>) -> Settings {
    Settings {
        chain_length: table.chain_length(),
        min_in_sync: table.min_in_sync(),
        reclaim_delay_ms: table.reclaim_delay_ms(),
    }
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
    let details = table.node_details();
    if details.is_some_and(|details| details.len() != table.nodes().len()) {
        return Err(DecodeError::Invalid("nodes of the map"));
    }
    let decode = |(place, record): (usize, &schema::NodeRecord)| {
        let node = NodeId(record.node());
        let name = text.take(record.name_bytes())?;
        let Some(detail) = details.map(|details| details.get(place)) else {
            return Ok(Node { node, name, rack: String::new(), control: String::new(), voter: 0 });
        };
        let (rack, control) = (text.take(detail.rack_bytes())?, text.take(detail.control_bytes())?);
        Ok(Node { node, name, rack, control, voter: detail.voter() })
    };
    table.nodes().iter().enumerate().map(decode).collect()
}

fn decode_stores(table: schema::ClusterMap<'_>, text: &mut Text<'_>) -> Result<Vec<Store>, DecodeError> {
    let details = table.store_details();
    if details.is_some_and(|details| details.len() != table.stores().len()) {
        return Err(DecodeError::Invalid("stores of the map"));
    }
    let decode = |(place, record): (usize, &schema::StoreRecord)| {
        let store = StoreId(record.store().bytes().into());
        let (node, number) = (NodeId(record.node()), record.shard());
        let address = text.take(record.address_bytes())?;
        let Some(detail) = details.map(|details| details.get(place)) else {
            return Ok(Store {
                store,
                node,
                unit: Unit::Shard(ShardIndex(number)),
                address,
                incarnation: Incarnation(0),
                weight: 1,
                standing: Standing::Member,
            });
        };
        let unit = match detail.unit() {
            UNIT_SHARD => Unit::Shard(ShardIndex(number)),
            UNIT_GROUP => Unit::Group(GroupId(number)),
            _ => return Err(DecodeError::Unknown("unit of a store")),
        };
        let standing =
            Standing::from_code(detail.standing()).ok_or(DecodeError::Unknown("standing of a store"))?;
        let (incarnation, weight) = (Incarnation(detail.incarnation()), detail.weight());
        Ok(Store { store, node, unit, address, incarnation, weight, standing })
    };
    table.stores().iter().enumerate().map(decode).collect()
}

const SLICES_INVALID: DecodeError = DecodeError::Invalid("slices of the map");

/// Chains column by column.
struct ChainReader<'a> {
    stores: Vector<'a, u16>,
    states: Vector<'a, u8>,
    next: usize,
    store_count: usize,
    /// Before there were seeds, whoever serves may be one.
    is_first_format: bool,
    invalid: DecodeError,
}

impl ChainReader<'_> {
    fn chain(&mut self, epoch: u64, count: u8, phase: u8) -> Result<Chain, DecodeError> {
        let end = self.next + usize::from(count);
        if usize::from(count) > CHAIN_MEMBERS_MAX || end > self.stores.len() {
            return Err(self.invalid);
        }
        let mut members = Members::EMPTY;
        for place in self.next..end {
            let code = self.states.get(place);
            let state = ReplicaState::from_code(code & !MARK).ok_or(DecodeError::Unknown("replica state"))?;
            let is_seed =
                if self.is_first_format { state == ReplicaState::Serving } else { code & MARK != 0 };
            let store = self.stores.get(place);
            if usize::from(store) >= self.store_count || !members.push(Member { store, state, is_seed }) {
                return Err(self.invalid);
            }
        }
        self.next = end;
        let phase_ = if phase & MARK == 0 { Phase::Active } else { Phase::Prepared };
        Ok(Chain { epoch: Epoch(epoch), phase: phase_, min_in_sync: phase & !MARK, members })
    }

    fn end(&self) -> Result<(), DecodeError> {
        if self.next == self.stores.len() { Ok(()) } else { Err(self.invalid) }
    }
}

fn decode_slices(table: schema::ClusterMap<'_>, store_count: usize) -> Result<Vec<Slice>, DecodeError> {
    let (epochs, counts) = (table.slice_epochs(), table.slice_member_counts());
    let (stores, states) = (table.member_stores(), table.member_states());
    let phases = table.slice_phases();
    if epochs.len() != counts.len()
        || stores.len() != states.len()
        || phases.is_some_and(|phases| phases.len() != epochs.len())
    {
        return Err(SLICES_INVALID);
    }
    let is_first_format = table.format() == 1;
    let invalid = SLICES_INVALID;
    let mut reader = ChainReader { stores, states, next: 0, store_count, is_first_format, invalid };
    let mut slices = Vec::with_capacity(epochs.len());
    for (place, (epoch, count)) in epochs.iter().zip(counts.iter()).enumerate() {
        let phase = phases.map_or(table.min_in_sync() & !MARK, |phases| phases.get(place));
        let chain = reader.chain(epoch, count, phase)?;
        slices.push(Slice { chain, loss_map_number: MapNumber(0) });
    }
    reader.end()?;
    Ok(slices)
}

/// The slices by their indices, stamped where chunks were lost.
fn with_losses(
    table: schema::ClusterMap<'_>,
    slices: impl Iterator<Item = (u32, Slice)>,
) -> Result<BTreeMap<u32, Slice>, DecodeError> {
    let mut slices: BTreeMap<u32, Slice> = slices.collect();
    for loss in table.losses().iter().flatten() {
        slices.get_mut(&loss.slice()).ok_or(SLICES_INVALID)?.loss_map_number = MapNumber(loss.number());
    }
    Ok(slices)
}

const GROUPS_INVALID: DecodeError = DecodeError::Invalid("groups of the map");

fn decode_groups(table: schema::ClusterMap<'_>, store_count: usize) -> Result<Vec<Group>, DecodeError> {
    let (Some(stores), Some(states), Some(phases)) =
        (table.group_member_stores(), table.group_member_states(), table.group_phases())
    else {
        return Err(DecodeError::Missing("groups of the map"));
    };
    if stores.len() != states.len() || phases.len() != table.groups().len() {
        return Err(GROUPS_INVALID);
    }
    let invalid = GROUPS_INVALID;
    let mut reader = ChainReader { stores, states, next: 0, store_count, is_first_format: false, invalid };
    let decode = |(record, phase): (&schema::GroupRecord, u8)| {
        let chain = reader.chain(record.epoch(), record.member_count(), phase)?;
        Ok(Group { group: GroupId(record.group()), generation: record.generation(), chain })
    };
    let groups = table.groups().iter().zip(phases.iter()).map(decode).collect::<Result<_, _>>()?;
    reader.end()?;
    Ok(groups)
}

/// Groups of the first format, whose members were addresses. Their logs have uuids that the map didn't know: each is given one that stands for it until its
/// node says the real one.
fn decode_first_groups(
    table: schema::ClusterMap<'_>,
    text: &mut Text<'_>,
    stores: &mut Vec<Store>,
) -> Result<Vec<Group>, DecodeError> {
    let mut records = table.group_members().iter();
    let mut groups = Vec::with_capacity(table.groups().len());
    for group in table.groups() {
        if usize::from(group.member_count()) > CHAIN_MEMBERS_MAX {
            return Err(GROUPS_INVALID);
        }
        let mut members = Members::EMPTY;
        for _ in 0..group.member_count() {
            let record = records.next().ok_or(GROUPS_INVALID)?;
            let state =
                ReplicaState::from_code(record.state()).ok_or(DecodeError::Unknown("replica state"))?;
            let place = u16::try_from(stores.len()).map_err(|_| DecodeError::TooLarge("cluster map"))?;
            let address = text.take(record.address_bytes())?;
            stores.push(Store {
                store: first_log(table.cluster().bytes().into(), record.node(), group.group()),
                node: NodeId(record.node()),
                unit: Unit::Group(GroupId(group.group())),
                address,
                incarnation: Incarnation(0),
                weight: 0,
                standing: Standing::Member,
            });
            members.push(Member { store: place, state, is_seed: state == ReplicaState::Serving });
        }
        let chain = Chain { epoch: Epoch(group.epoch()), phase: Phase::Active, min_in_sync: 1, members };
        groups.push(Group { group: GroupId(group.group()), generation: group.generation(), chain });
    }
    if records.next().is_some() { Err(GROUPS_INVALID) } else { Ok(groups) }
}

/// Stands for the uuid of a metadata log in a map of the first format.
fn first_log(cluster: [u8; 16], node: u32, group: u16) -> StoreId {
    let mut name = cluster.to_vec();
    name.extend_from_slice(&node.to_le_bytes());
    name.extend_from_slice(&group.to_le_bytes());
    StoreId(xxh3_128(&name).to_le_bytes())
}
