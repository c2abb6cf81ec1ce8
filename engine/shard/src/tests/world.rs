//! Several shards on fake disks, joined by connections that keep order, and a client: driven by hand or by a seed.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use journal::Expected;
use journal::fake_disk::{FakeDisk, FakeMemory, Random, format_of};
use placement::{ClusterMap, Edition, OneNode, one_node};
use store::{Store, StoreConfig};
use wire::map::{Member, Phase, ReplicaState};
use wire::message::{
    ChunkIds, Encoder, Hello, HopClass, PayloadMeta, PutChunk, Reply, ReplyHead, Request, RequestHead, Role,
    StoreCondition,
};
use wire::meta::{Answer, ChunkState, Query};
use wire::{
    ChunkId, Epoch, FrameKind, GroupId, Load, MapNumber, Memory, Nanos, NodeId, PREFIX_BYTES, Prefix,
    ShardIndex, Status, StoreId,
};

use super::bench::{CLUSTER, Chunk, hello};
use crate::{Effects, Identity, Link, Placement, Purpose, Shard, Suspicion, Synced, Target};

const SEGMENT_BYTES: u32 = 16 << 20;
pub(super) const FRAGMENT_BYTES: usize = wire::limits::PAYLOAD_BYTES_MAX;

/// A frame on its way.
#[derive(Clone, Debug)]
struct Frame {
    head: Vec<u8>,
    payload: Vec<u8>,
}

/// One end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum End {
    Shard(usize, Link),
    /// The client's connection to this shard.
    Client(usize),
    /// The metadata group's reader.
    Group,
}

/// A connection: two ends, and what travels to each.
#[derive(Debug)]
struct Wire {
    ends: [End; 2],
    to: [VecDeque<Frame>; 2],
    /// What one shard made it for.
    purpose: Option<Purpose>,
}

/// A shard with what it runs on.
pub(super) struct Site {
    pub(super) shard: Shard,
    pub(super) disk: FakeDisk,
    pub(super) memory: FakeMemory,
    effects: Effects,
    deadline: Option<Nanos>,
    /// What its store keeps of its own.
    kept_bytes: usize,
    /// What its shard told the driver, in order.
    pub(super) synced: Vec<Synced>,
    pub(super) suspects: Vec<Suspicion>,
    pub(super) damaged: Vec<ChunkId>,
    /// Its disk does nothing while this is set.
    pub(super) is_stuck: bool,
    /// Nothing reaches it, and nothing it says arrives.
    pub(super) is_cut_off: bool,
}

/// See the module.
pub(super) struct World {
    pub(super) sites: Vec<Site>,
    wires: Vec<Wire>,
    links: u64,
    pub(super) now: Nanos,
    encoder: Encoder,
    /// What the client was answered, by correlation id; the first answer counts.
    pub(super) answers: BTreeMap<u64, Status>,
    /// Payload bytes that the client may send to each site.
    credit: BTreeMap<usize, u64>,
    /// Sites that ended the client's connection.
    pub(super) ended: BTreeSet<usize>,
    /// What the group says of chunks; `Open` of all others.
    pub(super) states: BTreeMap<ChunkId, ChunkState>,
    /// The group can't be reached.
    pub(super) is_group_away: bool,
    /// Bytes that went over connections made for comparing and fetching.
    pub(super) sync_bytes: u64,
    /// What is fetched arrives with a wrong byte.
    pub(super) is_garbling: bool,
}

/// One slice's chain: epoch, phase, and members, head first.
#[derive(Clone, Debug)]
pub(super) struct Links {
    pub(super) epoch: u64,
    pub(super) phase: Phase,
    pub(super) members: Vec<(usize, ReplicaState)>,
}

pub(super) fn store_id(site: usize) -> StoreId {
    StoreId([u8::try_from(site).unwrap() + 1; 16])
}

/// A map of 2^`ring_bits` slices: of each the chain's sites, head first. All epochs are the map's number.
pub(super) fn chain_map(number: u64, sites: usize, chains: &[&[(usize, ReplicaState)]]) -> ClusterMap {
    let links = |members: &&[(usize, ReplicaState)]| Links {
        epoch: number,
        phase: Phase::Active,
        members: members.to_vec(),
    };
    let chains: Vec<Links> = chains.iter().map(links).collect();
    links_map(number, sites, &chains)
}

/// A map with these chains, one for each slice.
pub(super) fn links_map(number: u64, sites: usize, chains: &[Links]) -> ClusterMap {
    let bits = u8::try_from(chains.len().trailing_zeros()).unwrap();
    let store = |site: usize| {
        (store_id(site), ShardIndex(u16::try_from(site).unwrap()), format!("127.0.0.1:{}", 7430 + site))
    };
    let first = one_node(OneNode {
        cluster: CLUSTER,
        node: NodeId(1),
        name: "node".into(),
        stores: (0..sites).map(store).collect(),
        metadata: GROUP_STORE,
        metadata_address: "127.0.0.1:2".into(),
        control: "127.0.0.1:3".into(),
        ring_bits: bits,
        reclaim_delay_ms: 1000,
    });
    let mut map = first.expect("a legal map").as_map().clone();
    map.number = MapNumber(number);
    map.settings.chain_length = 3;
    map.settings.min_in_sync = 1;
    for (slice, chain) in map.slices.iter_mut().zip(chains) {
        slice.chain.epoch = Epoch(chain.epoch);
        slice.chain.phase = chain.phase;
        let member = |&(site, state): &(usize, ReplicaState)| {
            let is_seed = state == ReplicaState::Serving;
            Member { store: u16::try_from(site).unwrap(), state, is_seed }
        };
        slice.chain.members = chain.members.iter().map(member).collect();
    }
    ClusterMap::new(map).expect("a legal map")
}

const GROUP_STORE: StoreId = StoreId([0xff; 16]);

/// All serving.
pub(super) fn serving(sites: &[usize]) -> Vec<(usize, ReplicaState)> {
    sites.iter().map(|site| (*site, ReplicaState::Serving)).collect()
}

impl World {
    /// Shards whose memory has so many bytes, without a map.
    pub(super) fn new(sites: usize, memory_bytes: usize) -> Self {
        let mut world = Self {
            sites: (0..sites).map(|site| Site::new(site, memory_bytes)).collect(),
            wires: Vec::new(),
            links: 0,
            now: Nanos(1),
            encoder: Encoder::new(),
            answers: BTreeMap::new(),
            credit: BTreeMap::new(),
            ended: BTreeSet::new(),
            states: BTreeMap::new(),
            is_group_away: false,
            sync_bytes: 0,
            is_garbling: false,
        };
        (0..sites).for_each(|site| world.start(site));
        world
    }

    fn start(&mut self, site: usize) {
        let Site { shard, memory, effects, .. } = &mut self.sites[site];
        shard.on_start(self.now, memory, effects);
        self.carry_out(site);
        while self.sites[site].disk.pending() > 0 {
            self.disk(site);
        }
        let site = &mut self.sites[site];
        site.kept_bytes = site.memory.used_bytes();
    }

    /// A site's process ends at once, and another one opens its store; an emptied one is formatted. It knows no map.
    pub(super) fn restart(&mut self, site: usize, is_emptied: bool) {
        self.close_all(site);
        let memory_bytes = self.sites[site].memory.limit_bytes;
        let mut old = std::mem::replace(&mut self.sites[site], Site::new(site, memory_bytes));
        if !is_emptied {
            old.disk.kill(&mut old.memory);
            let length = old.disk.length();
            self.sites[site] = Site { disk: old.disk, ..Site::opened(site, memory_bytes, length) };
        }
        self.start(site);
    }

    fn close_all(&mut self, site: usize) {
        for other in 0..self.sites.len() {
            self.disconnect(site, other);
        }
        while let Some(end) = self.end_at(|end| matches!(end, End::Shard(known, _) if *known == site)) {
            self.close(end);
        }
        self.hang_up(site);
    }

    fn end_at(&self, fits: impl Fn(&End) -> bool) -> Option<End> {
        self.wires.iter().flat_map(|wire| wire.ends).find(|end| fits(end))
    }

    /// Connections to the group end, and can't be made until it is back.
    pub(super) fn set_group_away(&mut self, is_away: bool) {
        self.is_group_away = is_away;
        let is_group = |wire: &&Wire| wire.ends[1] == End::Group;
        while let Some(end) = self.wires.iter().find(is_group).map(|wire| wire.ends[0]).filter(|_| is_away) {
            self.close(end);
        }
    }

    /// Three shards that are one chain for everything.
    pub(super) fn chain_of_three() -> Self {
        let mut world = Self::new(3, 0);
        world.set_map(&chain_map(1, 3, &[&serving(&[0, 1, 2])]));
        world
    }

    pub(super) fn set_map(&mut self, map: &ClusterMap) {
        for site in 0..self.sites.len() {
            self.set_map_of(site, map);
        }
    }

    pub(super) fn set_map_of(&mut self, site: usize, map: &ClusterMap) {
        let (edition, now) = (Arc::new(Edition::new(map.clone())), self.now);
        let Site { shard, memory, effects, .. } = &mut self.sites[site];
        shard.on_map(now, edition, memory, effects);
        self.carry_out(site);
    }

    fn next_link(&mut self) -> Link {
        self.links += 1;
        Link(self.links)
    }

    /// Carries a shard's effects out; its disk's work is only taken in.
    fn carry_out(&mut self, site: usize) {
        let this = &mut self.sites[site];
        this.disk.submit(&this.effects.io, &mut this.memory);
        if let Some(at) = this.effects.deadline {
            this.deadline = Some(this.deadline.map_or(at, |known| known.min(at)));
        }
        let (mut frames, mut left) = (Vec::new(), Vec::new());
        for send in &this.effects.sends {
            let head = this.effects.bytes[send.head.0 as usize..send.head.1 as usize].to_vec();
            let payload = send.payload.map_or_else(Vec::new, |payload| {
                let bytes = this.memory.bytes(payload.slot)[payload.offset as usize..]
                    [..payload.len as usize]
                    .to_vec();
                this.memory.release(payload.slot);
                left.push((send.link, payload.len));
                bytes
            });
            frames.push((send.link, Frame { head, payload }));
        }
        this.synced.append(&mut this.effects.synced);
        this.suspects.append(&mut this.effects.suspects);
        this.damaged.append(&mut this.effects.damaged);
        let closes = std::mem::take(&mut this.effects.closes);
        let dials = std::mem::take(&mut this.effects.dials);
        this.effects.clear();
        for (link, frame) in frames {
            self.send(End::Shard(site, link), frame);
        }
        for (link, bytes) in left {
            let Site { shard, memory, effects, .. } = &mut self.sites[site];
            shard.on_sent(self.now, link, bytes, memory, effects);
            self.carry_out(site);
        }
        for (link, _) in closes {
            self.close(End::Shard(site, link));
        }
        for dial in dials {
            self.dial(site, dial.target);
        }
    }

    fn dial(&mut self, site: usize, target: Target) {
        let to = (0..self.sites.len()).find(|to| store_id(*to) == target.store);
        let is_there =
            !self.sites[site].is_cut_off && to.map_or(!self.is_group_away, |to| !self.sites[to].is_cut_off);
        let link = is_there.then(|| self.next_link());
        let now = self.now;
        if let Some(link) = link {
            let other = self.next_link();
            let end = to.map_or(End::Group, |to| End::Shard(to, other));
            let ends = [End::Shard(site, link), end];
            self.wires.push(Wire { ends, to: Default::default(), purpose: Some(target.purpose) });
            if let Some(to) = to {
                let Site { shard, effects, .. } = &mut self.sites[to];
                shard.on_open(other, effects);
                self.carry_out(to);
            }
        }
        let Site { shard, memory, effects, .. } = &mut self.sites[site];
        shard.on_dialled(now, target, link, memory, effects);
        if let Some(link) = link {
            shard.on_open(link, effects);
        }
        self.carry_out(site);
    }

    fn wire_of(&self, end: End) -> Option<(usize, usize)> {
        let at = |wire: &Wire| wire.ends.iter().position(|known| *known == end);
        self.wires.iter().enumerate().find_map(|(index, wire)| at(wire).map(|side| (index, side)))
    }

    fn send(&mut self, from: End, frame: Frame) {
        if let Some((wire, side)) = self.wire_of(from) {
            if self.wires[wire].purpose == Some(Purpose::Sync) {
                self.sync_bytes += (frame.head.len() + frame.payload.len()) as u64;
            }
            self.wires[wire].to[1 - side].push_back(frame);
        }
    }

    /// A connection ends; what was under way is lost.
    fn close(&mut self, end: End) {
        let Some((wire, _)) = self.wire_of(end) else { return };
        let wire = self.wires.remove(wire);
        for end in wire.ends {
            if let End::Client(site) = end {
                self.ended.insert(site);
            }
            if let End::Shard(site, link) = end {
                let Site { shard, memory, effects, .. } = &mut self.sites[site];
                shard.on_close(self.now, link, memory, effects);
                self.carry_out(site);
            }
        }
    }

    /// All connections between two sites end.
    pub(super) fn disconnect(&mut self, a: usize, b: usize) {
        let joins = |wire: &&Wire| matches!(wire.ends, [End::Shard(c, _), End::Shard(d, _)] if (c, d) == (a, b) || (d, c) == (a, b));
        while let Some(end) = self.wires.iter().find(joins).map(|wire| wire.ends[0]) {
            self.close(end);
        }
    }

    /// The client's connection to a site ends.
    pub(super) fn hang_up(&mut self, site: usize) {
        self.close(End::Client(site));
    }

    /// A site is gone from the others' view.
    pub(super) fn cut_off(&mut self, site: usize) {
        self.sites[site].is_cut_off = true;
        for other in 0..self.sites.len() {
            self.disconnect(site, other);
        }
        self.hang_up(site);
    }

    /// Whether a client that keeps to its credit may send so many bytes to a site.
    pub(super) fn has_credit(&self, site: usize, bytes: usize) -> bool {
        let is_connected = self.wire_of(End::Client(site)).is_some();
        !is_connected || self.credit.get(&site).is_some_and(|credit| *credit >= bytes as u64)
    }

    fn client_sends(&mut self, site: usize, correlation: u64, request: &Request<'_>, payload: &[u8]) {
        if self.wire_of(End::Client(site)).is_none() {
            let link = self.next_link();
            let ends = [End::Client(site), End::Shard(site, link)];
            self.wires.push(Wire { ends, to: Default::default(), purpose: None });
            self.credit.insert(site, u64::from(crate::link::PUT_CREDIT_BYTES));
            let Site { shard, effects, .. } = &mut self.sites[site];
            shard.on_open(link, effects);
            self.client_sends(site, 0, &Request::Hello(hello(1, 1)), &[]);
        }
        let mut head = Vec::new();
        let meta = PayloadMeta { bytes: u32::try_from(payload.len()).unwrap(), checksum: 0 };
        self.encoder.request(&mut head, RequestHead { correlation, deadline_ms: 0 }, request, meta);
        let credit = self.credit.get_mut(&site).expect("it is connected");
        *credit = credit.saturating_sub(payload.len() as u64);
        self.send(End::Client(site), Frame { head, payload: payload.to_vec() });
    }

    /// The client sends the bytes of a chunk from `from` to `to`, fragment by fragment; the first one carries the head.
    pub(super) fn put_part(
        &mut self,
        site: usize,
        correlation: u64,
        chunk: &Chunk,
        epoch: u64,
        part: std::ops::Range<usize>,
    ) {
        for offset in part.clone().step_by(FRAGMENT_BYTES) {
            let bytes = &chunk.bytes[offset..(offset + FRAGMENT_BYTES).min(part.end)];
            let offset = u32::try_from(offset).unwrap();
            let request = if offset == 0 {
                Request::PutChunk(chunk.head(epoch))
            } else {
                Request::PutFragment { class: HopClass::Client, offset }
            };
            self.client_sends(site, correlation, &request, bytes);
        }
    }

    pub(super) fn put(&mut self, site: usize, correlation: u64, chunk: &Chunk, epoch: u64) {
        self.put_part(site, correlation, chunk, epoch, 0..chunk.bytes.len());
    }

    /// The group deletes chunks at a site.
    pub(super) fn delete(&mut self, site: usize, correlation: u64, map: u64, ids: &[ChunkId]) {
        let request = Request::DeleteChunks { map: MapNumber(map), ids: ChunkIds::new(ids) };
        self.client_sends(site, correlation, &request, &[]);
    }

    /// Any request of the client's without payload.
    pub(super) fn request(&mut self, site: usize, correlation: u64, request: &Request<'_>) {
        self.client_sends(site, correlation, request, &[]);
    }

    pub(super) fn abort(&mut self, site: usize, correlation: u64) {
        self.client_sends(site, correlation, &Request::Abort, &[]);
    }

    /// The client's connection to a site is a store's from now on.
    pub(super) fn greet_as(&mut self, from: usize, to: usize) {
        self.hang_up(to);
        let peer = Hello { peer: Some(store_id(from)), ..hello(1, 1) };
        self.client_sends(to, 0, &Request::Hello(peer), &[]);
        self.run();
    }

    /// Connections for comparing and fetching.
    pub(super) fn sync_connections(&self) -> usize {
        self.wires.iter().filter(|wire| wire.purpose == Some(Purpose::Sync)).count()
    }

    /// A site's store begins to end.
    pub(super) fn shut_down(&mut self, site: usize) {
        let Site { shard, memory, effects, .. } = &mut self.sites[site];
        shard.on_shutdown(self.now, memory, effects);
        self.carry_out(site);
    }

    /// When a site's shard wants its next tick.
    pub(super) fn deadline(&self, site: usize) -> Option<Nanos> {
        self.sites[site].deadline
    }

    /// A site's store begins a pass of scrubbing.
    pub(super) fn scrub(&mut self, site: usize) {
        let Site { shard, memory, effects, .. } = &mut self.sites[site];
        shard.scrub(self.now, memory, effects);
        self.carry_out(site);
    }

    /// A store greets a site as its successor, and relays this head.
    pub(super) fn relay_as(
        &mut self,
        from: usize,
        to: usize,
        correlation: u64,
        put: PutChunk<'_>,
        payload: &[u8],
    ) {
        let peer = Hello { peer: Some(store_id(from)), ..hello(1, 1) };
        self.client_sends(to, 0, &Request::Hello(peer), &[]);
        self.client_sends(to, correlation, &Request::PutChunk(put), payload);
    }

    /// A successor says something to its predecessor that it wouldn't.
    fn successor_sends(&mut self, (from, to): (usize, usize), head: Vec<u8>) {
        let joins =
            |wire: &&Wire| matches!(wire.ends, [End::Shard(a, _), End::Shard(b, _)] if (a, b) == (to, from));
        let end = self.wires.iter().find(joins).expect("they are connected").ends[1];
        self.send(end, Frame { head, payload: Vec::new() });
    }

    /// A successor answers the put in its predecessor's first place.
    pub(super) fn successor_answers(&mut self, from: usize, to: usize, status: Status) {
        let correlation = self.sites[to].shard.puts.at(0).relay.expect("it is relayed").correlation;
        let kind = FrameKind::PutChunk;
        let head = ReplyHead { kind, correlation, status, load: Load::default(), more: false };
        let mut bytes = Vec::new();
        let reply = Reply::PutChunk { map: MapNumber(1) };
        self.encoder.reply(&mut bytes, head, &reply, PayloadMeta::default());
        self.successor_sends((from, to), bytes);
    }

    /// A successor gives credit of a class.
    pub(super) fn successor_credits(&mut self, from: usize, to: usize, class: HopClass) {
        let mut bytes = Vec::new();
        let credit = Request::Credit { class, bytes: 1 };
        self.encoder.request(&mut bytes, RequestHead::default(), &credit, PayloadMeta::default());
        self.successor_sends((from, to), bytes);
    }

    /// Everything that can happen now, in the order of a seed; true if something did.
    pub(super) fn step(&mut self, random: &mut Random) -> bool {
        let mut choices = Vec::new();
        for (wire, state) in self.wires.iter().enumerate() {
            choices.extend(
                (0..2).filter(|side| !state.to[*side].is_empty()).map(|side| Choice::Deliver(wire, side)),
            );
        }
        for (site, state) in self.sites.iter().enumerate() {
            if !state.is_stuck && state.disk.pending() > 0 {
                choices.push(Choice::Disk(site));
            }
        }
        if choices.is_empty() {
            return self.turn();
        }
        match choices[usize::try_from(random.below(choices.len() as u64)).unwrap()] {
            Choice::Deliver(wire, side) => self.deliver(wire, side),
            Choice::Disk(site) => self.disk(site),
        }
        if random.chance(30) {
            self.turn();
        }
        true
    }

    /// No further event is at hand anywhere: batches are written.
    fn turn(&mut self) -> bool {
        let idle = |world: &Self| -> usize {
            let frames: usize = world.wires.iter().map(|wire| wire.to[0].len() + wire.to[1].len()).sum();
            frames
                + world
                    .sites
                    .iter()
                    .filter(|site| !site.is_stuck)
                    .map(|site| site.disk.pending())
                    .sum::<usize>()
        };
        let before = idle(self);
        for site in 0..self.sites.len() {
            let Site { shard, memory, effects, .. } = &mut self.sites[site];
            shard.on_turn(self.now, memory, effects);
            self.carry_out(site);
        }
        idle(self) > before
    }

    fn disk(&mut self, site: usize) {
        let Site { shard, disk, memory, effects, .. } = &mut self.sites[site];
        if let Some((io, outcome)) = disk.complete(memory) {
            shard.on_io(self.now, io, outcome, memory, effects);
            self.carry_out(site);
        }
    }

    fn deliver(&mut self, wire: usize, side: usize) {
        let end = self.wires[wire].ends[side];
        let Some(mut frame) = self.wires[wire].to[side].pop_front() else { return };
        if self.is_garbling && self.wires[wire].purpose == Some(Purpose::Sync) {
            frame.payload.iter_mut().take(1).for_each(|byte| *byte ^= 1);
        }
        let (bytes, message) = frame.head.split_first_chunk::<PREFIX_BYTES>().unwrap();
        Prefix::verify(bytes, message).unwrap();
        let prefix = Prefix::decode(bytes).unwrap();
        match end {
            End::Client(site) => self.hear(site, &prefix, message),
            End::Group => self.ask_group(wire, &prefix, message),
            End::Shard(site, link) => {
                let Site { shard, memory, effects, .. } = &mut self.sites[site];
                let place = shard.on_head(self.now, link, &prefix, message, memory, effects);
                if let Placement::Into { slot, offset } = place {
                    memory.bytes_mut(slot)[offset as usize..][..frame.payload.len()]
                        .copy_from_slice(&frame.payload);
                    shard.on_payload(self.now, link, memory, effects);
                }
                self.carry_out(site);
                if matches!(place, Placement::Close(_)) {
                    self.close(end);
                }
            }
        }
    }

    /// The group's reader answers.
    fn ask_group(&mut self, wire: usize, prefix: &Prefix, message: &[u8]) {
        let reply = match Request::decode(prefix.kind, message).unwrap() {
            Request::Hello(hello) => {
                assert_eq!(hello.peer, None, "the group isn't a shard");
                let role = Role::Metadata(GroupId(0));
                Reply::Hello(hello.accept(CLUSTER, NodeId(1), role).unwrap())
            }
            Request::Query(Query::ChunkStates { ids }) => {
                let state = |id: &ChunkId| self.states.get(id).copied().unwrap_or(ChunkState::Open);
                Reply::Answer(Answer::ChunkStates(ids.iter().map(state).collect()))
            }
            other => panic!("a shard asks a group for {other:?}"),
        };
        let head = ReplyHead {
            kind: prefix.kind,
            correlation: prefix.correlation,
            status: Status::Ok,
            load: Load::default(),
            more: false,
        };
        let mut bytes = Vec::new();
        self.encoder.reply(&mut bytes, head, &reply, PayloadMeta::default());
        self.wires[wire].to[0].push_back(Frame { head: bytes, payload: Vec::new() });
    }

    fn hear(&mut self, site: usize, prefix: &Prefix, message: &[u8]) {
        if prefix.reply {
            Reply::decode(prefix.kind, prefix.status, message).unwrap();
            if prefix.kind != FrameKind::Hello {
                self.answers.entry(prefix.correlation).or_insert(prefix.status);
            }
        } else if let Ok(Request::Credit { bytes, .. }) = Request::decode(prefix.kind, message) {
            *self.credit.entry(site).or_default() += u64::from(bytes);
        }
    }

    /// Lets everything happen, in one order.
    pub(super) fn run(&mut self) {
        let mut random = Random::new(7);
        while self.step(&mut random) {}
    }

    /// Time passes; deadlines come.
    pub(super) fn pass(&mut self, nanoseconds: u64) {
        self.now = self.now.after(nanoseconds);
        for site in 0..self.sites.len() {
            let Site { shard, memory, effects, deadline, .. } = &mut self.sites[site];
            if deadline.is_some_and(|at| at <= self.now) {
                *deadline = None;
                shard.on_tick(self.now, memory, effects);
                self.carry_out(site);
            }
        }
    }

    /// So much time passes, in small steps, and everything happens that can.
    pub(super) fn live(&mut self, nanoseconds: u64) {
        let step = 20 * Nanos::MILLISECOND;
        for _ in 0..nanoseconds.div_ceil(step) {
            self.run();
            self.pass(step);
        }
        self.run();
    }

    /// A chunk's copy on a site's disk goes bad.
    pub(super) fn rot(&mut self, site: usize, id: ChunkId) {
        let site = &mut self.sites[site];
        let store = site.shard.store();
        let entry = store.find(id).expect("it is there");
        let offset = store.device().geometry().offset(entry.place);
        site.disk.flip(offset, 3);
    }

    /// The sites that have a chunk durably.
    pub(super) fn holders(&self, id: ChunkId) -> BTreeSet<usize> {
        let has = |site: &usize| self.sites[*site].shard.store().find(id).is_some();
        (0..self.sites.len()).filter(has).collect()
    }

    /// Nothing is under way: no put, and no buffer but what stores keep of their own.
    pub(super) fn assert_idle(&self) {
        for (number, site) in self.sites.iter().enumerate() {
            assert!(site.shard.is_idle(), "site {number} is at work");
            assert_eq!(site.memory.used_bytes(), site.kept_bytes, "site {number} holds buffers");
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum Choice {
    Deliver(usize, usize),
    Disk(usize),
}

fn store_config(device_bytes: u64) -> StoreConfig {
    StoreConfig {
        prezero_bytes: 0,
        scrub: false,
        ..StoreConfig::new((1 << 20) + 24 * u64::from(SEGMENT_BYTES), device_bytes)
    }
}

impl Site {
    fn new(number: usize, memory_bytes: usize) -> Self {
        let format = format_of(CLUSTER, store_id(number), SEGMENT_BYTES);
        Self::with(number, memory_bytes, Store::format(store_config(0), format))
    }

    fn opened(number: usize, memory_bytes: usize, device_bytes: u64) -> Self {
        let expected =
            Expected { cluster: Some(CLUSTER), store: Some(store_id(number)), node: NodeId(1), unit: 0 };
        Self::with(number, memory_bytes, Store::open(store_config(device_bytes), expected))
    }

    fn with(number: usize, memory_bytes: usize, store: Store) -> Self {
        let identity = Identity {
            cluster: CLUSTER,
            node: NodeId(1),
            shard: ShardIndex(u16::try_from(number).unwrap()),
            store: store_id(number),
            links_max: 64,
        };
        let mut memory = FakeMemory::default();
        memory.limit_bytes = memory_bytes;
        Self {
            shard: Shard::new(identity, store),
            disk: FakeDisk::new(u64::try_from(number).unwrap() + 1),
            memory,
            effects: Effects::default(),
            deadline: None,
            kept_bytes: 0,
            synced: Vec::new(),
            suspects: Vec::new(),
            damaged: Vec::new(),
            is_stuck: false,
            is_cut_off: false,
        }
    }

    /// What its store says of itself.
    pub(super) fn condition(&self) -> StoreCondition {
        self.shard.state(&self.memory).condition
    }
}
