//! A cluster of one node as a model: it answers frames, remembers what it executed, and complains about a client that breaks a rule.
//!
//! It holds files in a plain map and chunks in another; connections are values. The tests drive it on simulated links, and behind real sockets.

use std::collections::{BTreeMap, VecDeque};

use placement::{OneNode, one_node};
use wire::checksum::{BlockHasher, leaf_count, proof, root};
use wire::limits::{BLOCK_BYTES, PAYLOAD_BYTES_MAX, SESSION_RESULTS_MAX};
use wire::map::{Map, Member, Store};
use wire::message::{
    ChunkPart, Encoder, GetChunk, HelloReply, HopClass, PayloadMeta, PutChunk, Reply, ReplyHead, Request,
    RequestHead, Role, ShardState, Words,
};
use wire::meta::{
    Answer, Attributes, Change, Commit, Entry, ExtentPage, Extents, GroupState, InodeKind, ListEntry,
    Mutation, NewAttributes, Operation, Outcome, Pin, Place, Precondition, Query, Refusal, SessionGrant,
    VolumeInfo, VolumeUsage,
};
use wire::{
    ChunkId, ClusterId, CommitIndex, FrameKind, GroupId, InodeId, Layout, Load, MapNumber, NodeId,
    PREFIX_BYTES, Prefix, Sequence, SessionId, ShardIndex, Status, StoreId, Timestamp, Version, VolumeId,
};

use super::extents::ExtentBuilder;

pub(crate) const CLUSTER: ClusterId = ClusterId([7; 16]);
pub(crate) const META: &str = "127.0.0.1:7421";
pub(crate) const SHARDS: [&str; 2] = ["127.0.0.1:7430", "127.0.0.1:7431"];
pub(crate) const VOLUME: VolumeId = VolumeId(5);
pub(crate) const CHUNK_BYTES: u32 = 64 << 10;

pub(crate) struct FakeCluster {
    pub(crate) map: Map,
    pub(crate) map_page_bytes: usize,
    pub(crate) sessions: BTreeMap<SessionId, FakeSession>,
    sessions_opened: u64,
    pub(crate) keepalives: u64,
    pub(crate) closed: Vec<SessionId>,
    pub(crate) pins: BTreeMap<SessionId, Vec<Pin>>,
    pub(crate) chunks: BTreeMap<ChunkId, (Vec<u8>, u64)>,
    pub(crate) files: BTreeMap<Vec<u8>, FakeFile>,
    staged: BTreeMap<(SessionId, u64), ExtentBuilderInput>,
    index: u64,
    /// How often each directory was made, whatever became of it: the measure of exactly-once.
    pub(crate) executions: BTreeMap<Vec<u8>, u32>,
    pub(crate) put_credit: u32,
    /// Answers to give instead of working, by kind of request.
    pub(crate) refusals: BTreeMap<FrameKind, VecDeque<(Status, u32)>>,
    /// Kinds of requests that are executed but not answered, and how many of them.
    pub(crate) swallow: BTreeMap<FrameKind, u32>,
    /// Complain about credit that was exceeded; off where links duplicate frames.
    pub(crate) is_strict: bool,
    pub(crate) frames_seen: BTreeMap<FrameKind, u64>,
    encoder: Encoder,
}

#[derive(Default)]
pub(crate) struct FakeSession {
    results: BTreeMap<Sequence, Outcome>,
    acked_upto: Sequence,
}

#[derive(Default, Clone)]
struct ExtentBuilderInput(Vec<(u64, ChunkId, u32, u64)>);

#[derive(Clone)]
pub(crate) struct FakeFile {
    pub(crate) attributes: Attributes,
    /// Offset, id, length, root.
    pub(crate) chunks: Vec<(u64, ChunkId, u32, u64)>,
    pub(crate) target: Vec<u8>,
}

/// A connection, as the server sees it.
pub(crate) struct FakeConnection {
    address: String,
    is_greeted: bool,
    puts: BTreeMap<u64, FakePut>,
    credit: i64,
}

struct FakePut {
    id: ChunkId,
    bytes: Vec<u8>,
    length: usize,
    root: u64,
    leaves: Vec<u64>,
}

impl FakeConnection {
    pub(crate) fn new(address: &str) -> Self {
        Self { address: address.to_owned(), is_greeted: false, puts: BTreeMap::new(), credit: 0 }
    }
}

impl FakeCluster {
    pub(crate) fn new() -> Self {
        Self::at(META, SHARDS)
    }

    pub(crate) fn at(meta: &str, shards: [&str; 2]) -> Self {
        let store = |i: u8| (StoreId([i; 16]), ShardIndex(u16::from(i)), shards[usize::from(i)].to_owned());
        let map = one_node(OneNode {
            cluster: CLUSTER,
            node: NodeId(1),
            name: "one".to_owned(),
            stores: vec![store(0), store(1)],
            metadata: StoreId([0xff; 16]),
            metadata_address: meta.to_owned(),
            control: "control:1".to_owned(),
            ring_bits: 6,
            reclaim_delay_ms: 600_000,
        })
        .expect("a valid map");
        Self {
            map: map.as_map().clone(),
            map_page_bytes: 500,
            sessions: BTreeMap::new(),
            sessions_opened: 0,
            keepalives: 0,
            closed: Vec::new(),
            pins: BTreeMap::new(),
            chunks: BTreeMap::new(),
            files: BTreeMap::new(),
            staged: BTreeMap::new(),
            index: 0,
            executions: BTreeMap::new(),
            put_credit: 1 << 20,
            refusals: BTreeMap::new(),
            swallow: BTreeMap::new(),
            is_strict: true,
            frames_seen: BTreeMap::new(),
            encoder: Encoder::new(),
        }
    }

    /// The next `count` requests of this kind are refused so.
    pub(crate) fn refuse(&mut self, kind: FrameKind, count: usize, status: Status, retry_after_ms: u32) {
        let queue = self.refusals.entry(kind).or_default();
        queue.extend(std::iter::repeat_n((status, retry_after_ms), count));
    }

    /// Takes one frame; answers are appended to `out`, each a whole frame.
    pub(crate) fn on_frame(&mut self, connection: &mut FakeConnection, frame: &[u8], out: &mut Vec<Vec<u8>>) {
        let bytes: &[u8; PREFIX_BYTES] = frame[..PREFIX_BYTES].try_into().expect("a whole frame");
        let prefix = Prefix::decode(bytes).expect("a client sends frames");
        let (message, payload) = frame[PREFIX_BYTES..].split_at(prefix.message_bytes as usize);
        Prefix::verify(bytes, message).expect("a client's checksums are right");
        assert_eq!(payload.len(), prefix.payload_bytes as usize);
        *self.frames_seen.entry(prefix.kind).or_default() += 1;
        let request = Request::decode(prefix.kind, message).expect("a client's messages are well-formed");
        assert!(connection.is_greeted || matches!(request, Request::Hello(_)), "Hello comes first");
        if let Some((status, retry_after_ms)) =
            self.refusals.get_mut(&prefix.kind).and_then(VecDeque::pop_front)
        {
            connection.puts.remove(&prefix.correlation);
            self.return_credit(connection, payload.len(), out);
            let refusal = Refusal { retry_after_ms, ..Refusal::default() };
            return self.reply(
                prefix.kind,
                prefix.correlation,
                status,
                &Reply::Refused(refusal),
                &[],
                false,
                out,
            );
        }
        let before = out.len();
        self.on_request(connection, &prefix, request, payload, out);
        if let Some(left) = self.swallow.get_mut(&prefix.kind)
            && *left > 0
            && out.len() > before
        {
            *left -= 1;
            out.truncate(before);
        }
    }

    fn on_request(
        &mut self,
        connection: &mut FakeConnection,
        prefix: &Prefix,
        request: Request<'_>,
        payload: &[u8],
        out: &mut Vec<Vec<u8>>,
    ) {
        let (kind, correlation) = (prefix.kind, prefix.correlation);
        let reply = match request {
            Request::Hello(hello) => {
                assert!(hello.cluster.is_none_or(|cluster| cluster == CLUSTER));
                self.greet(connection)
            }
            Request::GetMap { have, page } => return self.on_get_map(prefix, have, page, out),
            Request::PutChunk(put) => return self.on_put(connection, prefix, &put, payload, out),
            Request::PutFragment { offset, .. } => {
                return self.on_fragment(connection, correlation, offset as usize, payload, out);
            }
            Request::Abort => {
                connection.puts.remove(&correlation);
                return;
            }
            Request::GetChunk(get) => return self.on_get(correlation, get, out),
            Request::ShardStatus => {
                Reply::ShardStatus(Box::new(ShardState { put_total: 3, ..ShardState::default() }))
            }
            Request::OpenSession { .. } => {
                self.sessions_opened += 1;
                let session = SessionId::new(GroupId(0), 0, self.sessions_opened).expect("in range");
                self.sessions.insert(session, FakeSession::default());
                Reply::Session(SessionGrant { session, ttl_ms: 30_000, keepalive_ms: 10_000 })
            }
            Request::KeepAlive { session, pins } => {
                self.keepalives += 1;
                if !self.sessions.contains_key(&session) {
                    return self.refuse_now(prefix, Status::SessionExpired, out);
                }
                self.pins.insert(session, pins);
                Reply::KeepAlive
            }
            Request::CloseSession { session } => {
                self.sessions.remove(&session);
                self.closed.push(session);
                Reply::CloseSession
            }
            Request::Mutate(mutation) => match self.on_mutation(mutation) {
                Ok(outcome) => {
                    let reply = Reply::Mutate(outcome);
                    return self.reply(kind, correlation, outcome.status, &reply, &[], false, out);
                }
                Err(status) => return self.refuse_now(prefix, status, out),
            },
            Request::Query(query) => match self.on_query(query) {
                Ok(answer) => Reply::Answer(answer),
                Err(status) => return self.refuse_now(prefix, status, out),
            },
            Request::ReportDamage { .. } => Reply::ReportDamage,
            other => panic!("a client doesn't send {other:?}"),
        };
        self.reply(kind, correlation, Status::Ok, &reply, &[], false, out);
    }

    fn greet(&self, connection: &mut FakeConnection) -> Reply<'static> {
        connection.is_greeted = true;
        let is_it = |store: &Store| store.address == connection.address && store.weight > 0;
        let shard = self.map.stores.iter().position(is_it);
        let put_credit_bytes = if shard.is_some() { self.put_credit } else { 0 };
        connection.credit = i64::from(put_credit_bytes);
        Reply::Hello(HelloReply {
            version: 1,
            features: 0,
            cluster: CLUSTER,
            node: NodeId(1),
            role: shard.map_or(Role::Metadata(GroupId(0)), |shard| {
                Role::Shard(ShardIndex(u16::try_from(shard).expect("few")))
            }),
            map: self.map.number,
            put_credit_bytes,
            server: "fake".to_owned(),
        })
    }

    fn on_get_map(&mut self, prefix: &Prefix, have: MapNumber, page: u32, out: &mut Vec<Vec<u8>>) {
        let bytes = self.map.encode();
        let number = self.map.number;
        let pages: Vec<&[u8]> = bytes.chunks(self.map_page_bytes).collect();
        let count = u32::try_from(pages.len()).expect("few");
        let reply = if have == number {
            Reply::Map { number, page: 0, pages: 0, bytes: &[] }
        } else {
            Reply::Map { number, page, pages: count, bytes: pages[page as usize] }
        };
        self.reply(prefix.kind, prefix.correlation, Status::Ok, &reply, &[], false, out);
    }

    fn on_put(
        &mut self,
        connection: &mut FakeConnection,
        prefix: &Prefix,
        put: &PutChunk<'_>,
        payload: &[u8],
        out: &mut Vec<Vec<u8>>,
    ) {
        let slice = wire::slice_of(put.id, u32::from(self.map.ring_bits));
        if put.epoch != self.map.slices[usize::from(slice.0)].chain.epoch {
            self.return_credit(connection, payload.len(), out);
            return self.refuse_now(prefix, Status::WrongEpoch, out);
        }
        let leaves: Vec<u64> = put.leaves.iter().collect();
        assert_eq!(root(&leaves, put.length as usize), put.root, "leaves and root belong together");
        let length = put.length as usize;
        let put = FakePut { id: put.id, bytes: Vec::new(), length, root: put.root, leaves };
        connection.puts.insert(prefix.correlation, put);
        self.on_fragment(connection, prefix.correlation, 0, payload, out);
    }

    fn on_fragment(
        &mut self,
        connection: &mut FakeConnection,
        correlation: u64,
        offset: usize,
        payload: &[u8],
        out: &mut Vec<Vec<u8>>,
    ) {
        connection.credit -= i64::try_from(payload.len()).expect("small");
        assert!(!self.is_strict || connection.credit >= 0, "R38: a client keeps to its credit");
        self.return_credit(connection, payload.len(), out);
        let Some(put) = connection.puts.get_mut(&correlation) else { return };
        if offset != put.bytes.len() {
            return;
        }
        put.bytes.extend_from_slice(payload);
        if put.bytes.len() < put.length {
            assert_eq!(payload.len() % (64 << 10), 0, "R39: fragments are multiples of 64 KiB");
            return;
        }
        let put = connection.puts.remove(&correlation).expect("just found");
        let hasher = BlockHasher::new(CLUSTER, put.id);
        assert!(hasher.matches(0, &put.bytes, &put.leaves), "the leaves are those of the bytes (R36)");
        if let Some((bytes, root)) = self.chunks.get(&put.id) {
            assert!(*bytes == put.bytes && *root == put.root, "I1, R4: a retry sends the identical buffer");
        }
        self.chunks.insert(put.id, (put.bytes, put.root));
        let reply = Reply::PutChunk { map: self.map.number };
        self.reply(FrameKind::PutChunk, correlation, Status::Ok, &reply, &[], false, out);
    }

    fn return_credit(&mut self, connection: &mut FakeConnection, bytes: usize, out: &mut Vec<Vec<u8>>) {
        if bytes == 0 {
            return;
        }
        connection.credit += i64::try_from(bytes).expect("small");
        let mut frame = Vec::new();
        let credit = Request::Credit { class: HopClass::Client, bytes: u32::try_from(bytes).expect("small") };
        self.encoder.request(&mut frame, RequestHead::default(), &credit, PayloadMeta::default());
        out.push(frame);
    }

    fn on_get(&mut self, correlation: u64, get: GetChunk, out: &mut Vec<Vec<u8>>) {
        let Some((bytes, _)) = self.chunks.get(&get.id).cloned() else {
            let reply = Reply::Refused(Refusal::default());
            return self.reply(FrameKind::GetChunk, correlation, Status::NotFound, &reply, &[], false, out);
        };
        let count = leaf_count(bytes.len());
        let first = get.first_block as usize;
        let blocks = if get.block_count == 0 { count } else { get.block_count as usize };
        let mut leaves = vec![0; count];
        BlockHasher::new(CLUSTER, get.id).leaves(0, &bytes, &mut leaves);
        let mut path = Vec::new();
        proof(&leaves, first..first + blocks, &mut path);
        let end = ((first + blocks) * BLOCK_BYTES).min(bytes.len());
        let mut at = first * BLOCK_BYTES;
        while at < end {
            let next = end.min(at + PAYLOAD_BYTES_MAX);
            let part = ChunkPart {
                length: u32::try_from(bytes.len()).expect("small"),
                offset: u32::try_from(at).expect("small"),
                proof: Words::new(if at == first * BLOCK_BYTES { &path } else { &[] }),
            };
            let reply = Reply::GetChunk(part);
            self.reply(
                FrameKind::GetChunk,
                correlation,
                Status::Ok,
                &reply,
                &bytes[at..next],
                next < end,
                out,
            );
            at = next;
        }
    }

    fn on_mutation(&mut self, mutation: Mutation) -> Result<Outcome, Status> {
        let Mutation { session: id, sequence, acked_upto, operation } = mutation;
        let session = self.sessions.get_mut(&id).ok_or(Status::SessionExpired)?;
        session.acked_upto = session.acked_upto.max(acked_upto);
        let forgotten = session.acked_upto;
        session.results.retain(|sequence, _| *sequence > forgotten);
        if sequence <= forgotten {
            return Err(Status::BadRequest);
        }
        if let Some(outcome) = session.results.get(&sequence) {
            return Ok(*outcome);
        }
        assert!(session.results.len() < SESSION_RESULTS_MAX, "R17: a client keeps to the limit of results");
        self.index += 1;
        let outcome = self.execute(id, operation);
        self.sessions.get_mut(&id).expect("just found").results.insert(sequence, outcome);
        Ok(outcome)
    }

    fn execute(&mut self, session: SessionId, operation: Operation) -> Outcome {
        let index = self.index;
        let outcome = Outcome {
            inode: InodeId(index + 100),
            version: Version(index),
            volume: VOLUME,
            ..Outcome::of_status(Status::Ok, CommitIndex(index))
        };
        let failed = |status| Outcome { status, ..outcome };
        match operation {
            Operation::MakeDirectory { place, attributes, .. } => {
                let path = clean(&place.path);
                *self.executions.entry(path.clone()).or_default() += 1;
                if self.files.contains_key(&path) {
                    return failed(Status::AlreadyExists);
                }
                let file = self.new_file(InodeKind::Directory, &attributes);
                self.files.insert(path, file);
                outcome
            }
            Operation::Stage { upload, extents } => {
                assert_ne!(upload, 0);
                let chunks = self.chunks_of(session, &extents);
                self.staged.entry((session, upload)).or_default().0.extend(chunks);
                outcome
            }
            Operation::Commit(commit) => self.commit(session, commit, outcome),
            Operation::Remove { place, .. } => match self.files.remove(&clean(&place.path)) {
                Some(_) => outcome,
                None => failed(Status::NotFound),
            },
            _ => outcome,
        }
    }

    fn commit(&mut self, session: SessionId, commit: Commit, outcome: Outcome) -> Outcome {
        let path = clean(&commit.place.path);
        let staged = self.staged.remove(&(session, commit.upload)).unwrap_or_default();
        let mut chunks = staged.0;
        chunks.extend(self.chunks_of(session, &commit.extents));
        let before = self.files.get(&path);
        let status = match (commit.precondition, before) {
            (Precondition::Absent, Some(_)) => Status::AlreadyExists,
            (Precondition::Present, None) => Status::NotFound,
            (Precondition::Version(wanted), Some(file)) if file.attributes.version != wanted => {
                let version = file.attributes.version;
                return Outcome { status: Status::VersionConflict, version, ..outcome };
            }
            _ => Status::Ok,
        };
        if status != Status::Ok {
            return Outcome { status, ..outcome };
        }
        let mut file = match before {
            Some(file) if commit.change == Change::Append => file.clone(),
            _ => self.new_file(InodeKind::File, &commit.attributes.unwrap_or_default()),
        };
        let end = chunks.iter().map(|(offset, _, length, _)| offset + u64::from(*length)).max().unwrap_or(0);
        let base = match commit.change {
            Change::Append => file.attributes.size,
            Change::Replace { .. } | Change::Write => 0,
        };
        file.chunks
            .extend(chunks.into_iter().map(|(offset, id, length, root)| (base + offset, id, length, root)));
        file.attributes.size = match commit.change {
            Change::Replace { size } => size,
            Change::Append | Change::Write => base + end,
        };
        file.attributes.version = Version(self.index);
        let (inode, size) = (file.attributes.inode, file.attributes.size);
        self.files.insert(path, file);
        Outcome { inode, size, offset: base, ..outcome }
    }

    fn chunks_of(&self, session: SessionId, extents: &Extents) -> Vec<(u64, ChunkId, u32, u64)> {
        let mut roots = extents.roots.iter();
        let mut chunks = Vec::new();
        for run in &extents.runs {
            assert_eq!(run.first.session, session, "R23: a commit names ids of its own session");
            for i in 0..run.count {
                let id = ChunkId { ordinal: run.first.ordinal + u64::from(i), ..run.first };
                let root = *roots.next().expect("a root for each chunk");
                let (bytes, stored) = self.chunks.get(&id).expect("I9: a commit names stored chunks only");
                assert_eq!(*stored, root);
                let length = u32::try_from(bytes.len()).expect("small");
                let expected = if i + 1 == run.count { run.last_chunk_bytes } else { run.chunk_bytes };
                assert_eq!(length, expected);
                chunks.push((run.file_offset + u64::from(i) * u64::from(run.chunk_bytes), id, length, root));
            }
        }
        chunks
    }

    fn new_file(&self, kind: InodeKind, attributes: &NewAttributes) -> FakeFile {
        FakeFile {
            attributes: Attributes {
                inode: InodeId(self.index + 100),
                kind,
                mode: attributes.mode,
                uid: attributes.uid,
                gid: attributes.gid,
                size: 0,
                stored_bytes: 0,
                modified: Timestamp(0),
                changed: Timestamp(0),
                created: Timestamp(0),
                version: Version(0),
                layout: Layout(0),
                xattr_count: 0,
            },
            chunks: Vec::new(),
            target: Vec::new(),
        }
    }

    fn on_query(&mut self, query: Query) -> Result<Answer, Status> {
        let info = VolumeInfo {
            volume: VOLUME,
            group: GroupId(0),
            name: "photos".to_owned(),
            policy: wire::meta::VolumePolicy { chunk_bytes: CHUNK_BYTES, retention_seconds: 0 },
            created: Timestamp(0),
        };
        match query {
            Query::Volume { name } if name == info.name => Ok(Answer::Volume(info)),
            Query::Volume { .. } => Err(Status::NotFound),
            Query::ListVolumes { after, .. } => {
                Ok(Answer::Volumes(if after < info.name { vec![info] } else { Vec::new() }, true))
            }
            Query::Lookup { place, roots, .. } => {
                let file = self.find(&place).ok_or(Status::NotFound)?;
                let page = page_of(file, 0, roots as usize);
                let (attributes, target) = (file.attributes, file.target.clone());
                let xattrs = Vec::new();
                Ok(Answer::Entry(Box::new(Entry {
                    attributes,
                    target,
                    xattrs,
                    page,
                    index: CommitIndex(self.index),
                })))
            }
            Query::ReadExtents { inode, version, layout, offset, roots, .. } => {
                let file = self
                    .files
                    .values()
                    .find(|file| file.attributes.inode == inode)
                    .ok_or(Status::NotFound)?;
                if file.attributes.version != version || file.attributes.layout != layout {
                    return Err(Status::VersionConflict);
                }
                Ok(Answer::Extents(page_of(file, offset, roots as usize)))
            }
            Query::List { after, limit, .. } => {
                let names = self.files.iter().filter(|(name, _)| **name > after);
                let limit = limit.min(3) as usize;
                let end = names.clone().count() <= limit;
                let entry = |(name, file): (&Vec<u8>, &FakeFile)| ListEntry {
                    name: name.clone(),
                    attributes: file.attributes,
                    target: file.target.clone(),
                };
                let entries = names.take(limit).map(entry).collect();
                let directory = self.new_file(InodeKind::Directory, &NewAttributes::default()).attributes;
                Ok(Answer::List { directory, entries, end, index: CommitIndex(self.index) })
            }
            Query::Usage { .. } => Ok(Answer::Usage(VolumeUsage::default())),
            Query::GroupStatus => Ok(Answer::GroupStatus(GroupState::default())),
            Query::ChunkStates { .. } => Err(Status::Unsupported),
        }
    }

    fn find(&self, place: &Place) -> Option<&FakeFile> {
        let path = clean(&place.path);
        if path.is_empty() {
            return self.files.values().find(|file| file.attributes.inode == place.directory);
        }
        self.files.get(&path)
    }

    fn refuse_now(&mut self, prefix: &Prefix, status: Status, out: &mut Vec<Vec<u8>>) {
        let reply = Reply::Refused(Refusal::default());
        self.reply(prefix.kind, prefix.correlation, status, &reply, &[], false, out);
    }

    #[expect(clippy::too_many_arguments, reason = "a frame has as many parts")]
    fn reply(
        &mut self,
        kind: FrameKind,
        correlation: u64,
        status: Status,
        reply: &Reply<'_>,
        payload: &[u8],
        more: bool,
        out: &mut Vec<Vec<u8>>,
    ) {
        let mut frame = Vec::new();
        let head = ReplyHead { kind, correlation, status, load: Load::default(), more };
        let meta = PayloadMeta { bytes: u32::try_from(payload.len()).expect("small"), checksum: 0 };
        self.encoder.reply(&mut frame, head, reply, meta);
        frame.extend_from_slice(payload);
        out.push(frame);
    }

    /// Gives every chunk a second replica, with the other shard.
    pub(crate) fn add_copies(&mut self) {
        self.map.number = MapNumber(self.map.number.0 + 1);
        self.map.settings.chain_length = 2;
        for slice in &mut self.map.slices {
            let head = slice.chain.members[0];
            assert!(slice.chain.members.push(Member { store: head.store ^ 1, ..head }));
        }
    }

    /// The group's replica is found elsewhere from now on.
    pub(crate) fn move_log(&mut self, address: &str) {
        self.map.number = MapNumber(self.map.number.0 + 1);
        address.clone_into(&mut self.map.stores[2].address);
    }

    /// Gives every slice a new epoch under a new map, and the chain's shards change places.
    pub(crate) fn change_map(&mut self) {
        self.map.number = MapNumber(self.map.number.0 + 1);
        for slice in &mut self.map.slices {
            slice.chain.epoch.0 += 1;
            slice.chain.members[0].store ^= 1;
        }
    }
}

fn page_of(file: &FakeFile, offset: u64, roots: usize) -> ExtentPage {
    let mut builder = ExtentBuilder::new(CHUNK_BYTES);
    let mut chunks = file.chunks.iter().filter(|(at, _, length, _)| at + u64::from(*length) > offset);
    for &(at, id, length, root) in chunks.by_ref().take(roots) {
        builder.push(at, id, length, root).expect("few");
    }
    ExtentPage { extents: builder.take(), end: chunks.next().is_none() }
}

fn clean(path: &[u8]) -> Vec<u8> {
    path.strip_prefix(b"/").unwrap_or(path).to_vec()
}
