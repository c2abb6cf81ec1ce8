//! One value of every request and reply, with as many fields set as it has: what the golden frames are made of.

use crate::control;
use wire::message::{
    ChunkIds, ChunkPart, ChunkRecord, Entries, GetChunk, Hello, HelloReply, HopClass, Page, Progress,
    PutChunk, Replication, Reply, Request, Role, ShardState, SliceRange, SliceSpan, StoreCondition,
    Subscribe, Term, Words,
};
use wire::meta::{
    Answer, AttributeChange, Attributes, Change, ChunkState, Commit, Compact, CopyRange, Entry, ExtentPage,
    Extents, GroupState, InodeKind, ListEntry, Mutation, NewAttributes, Operation, Outcome, Pin, Place,
    Precondition, Query, Refusal, RemoveKind, RenameMode, Run, SessionGrant, VolumeInfo, VolumePolicy,
    VolumeUsage, Xattr, XattrMode,
};
use wire::{
    ChunkId, ClusterId, CommitIndex, Epoch, FrameKind, GroupId, Incarnation, InodeId, Layout, MapNumber,
    NodeId, Sequence, SessionId, ShardIndex, SliceIndex, Status, StoreId, Timestamp, Version, VolumeId,
};

const LEAVES: [u64; 3] = [0x1111_2222_3333_4444, 0x5555_6666_7777_8888, 0x9999_aaaa_bbbb_cccc];
const IDS: [ChunkId; 2] = [chunk(1), chunk(2)];
const SESSION: SessionId = SessionId(0x0010_0400_0000_0007);

const fn chunk(ordinal: u64) -> ChunkId {
    ChunkId { session: SESSION, ordinal }
}

pub(crate) fn requests() -> Vec<(&'static str, Request<'static>)> {
    let mut all = vec![
        (
            "hello",
            Request::Hello(Hello {
                version_min: 1,
                version_max: 3,
                features: 5,
                name: "catena put".to_owned(),
                cluster: Some(ClusterId([7; 16])),
                peer: Some(StoreId([8; 16])),
            }),
        ),
        ("get-map", Request::GetMap { have: MapNumber(3), page: 1 }),
        (
            "put-chunk",
            Request::PutChunk(PutChunk {
                id: chunk(9),
                length: 2 * 4096 + 100,
                root: 0x0123_4567_89ab_cdef,
                map: MapNumber(4),
                epoch: Epoch(2),
                class: HopClass::Client,
                leaves: Words::new(&LEAVES),
            }),
        ),
        ("put-fragment", Request::PutFragment { class: HopClass::Tail, offset: 256 << 10 }),
        ("abort", Request::Abort),
        ("credit", Request::Credit { class: HopClass::Tail, bytes: 1 << 20 }),
        ("get-chunk", Request::GetChunk(GetChunk { id: chunk(9), first_block: 3, block_count: 2 })),
        ("delete-chunks", Request::DeleteChunks { map: MapNumber(4), ids: ChunkIds::new(&IDS) }),
        ("inventory", Request::Inventory { after: Some(IDS[0]), limit: 4096 }),
        ("shard-status", Request::ShardStatus),
        ("slice-digest", Request::SliceDigest { span: span(), limit: 64 }),
        ("slice-chunks", Request::SliceChunks { span: span(), last: chunk(300), limit: 4096 }),
        ("offer-chunks", Request::OfferChunks { slice: SliceIndex(77), epoch: Epoch(5), chunks: records() }),
        ("report-damage", Request::ReportDamage { id: chunk(9), root: 0x0123_4567_89ab_cdef }),
        ("open-session", Request::OpenSession { name: "catena put".to_owned() }),
        (
            "keep-alive",
            Request::KeepAlive {
                session: SESSION,
                pins: vec![Pin { volume: VolumeId(2), inode: InodeId(30), version: Version(99) }],
            },
        ),
        ("close-session", Request::CloseSession { session: SESSION }),
    ];
    all.extend(control::requests());
    all.extend(replication().into_iter().map(|(name, message)| (name, Request::Replicate(message))));
    all.extend(operations().into_iter().map(|(name, operation)| {
        let mutation =
            Mutation { session: SESSION, sequence: Sequence(12), acked_upto: Sequence(10), operation };
        (name, Request::Mutate(mutation))
    }));
    all.extend(queries().into_iter().map(|(name, query)| (name, Request::Query(query))));
    all
}

fn replication() -> Vec<(&'static str, Replication<&'static [u8]>)> {
    let (epoch, number, index) = (Epoch(7), 3, CommitIndex);
    let terms = vec![Term { epoch: Epoch(2), first: index(1) }, Term { epoch: Epoch(6), first: index(90) }];
    let subscribe = Subscribe { epoch, number, learner: true, received: index(99), terms };
    let entries = Entries {
        epoch,
        number,
        after: index(99),
        skip: 5,
        upstream_durable: index(98),
        committed: index(97),
        packed: &[1, 2, 3][..],
    };
    let progress =
        Progress { epoch, number, received: index(101), durable: index(100), committed: index(99) };
    let page = Page { epoch, number, piece: 4, ends_page: true, last: true, bytes: &[9, 8][..] };
    vec![
        ("subscribe", Replication::Subscribe(subscribe)),
        ("accepted", Replication::Accepted { epoch, number, after: index(95), base: index(96) }),
        ("offer", Replication::Offer { epoch, number, index: index(94) }),
        ("refused-subscription", Replication::Refused { epoch, number }),
        ("entries", Replication::Entries(entries)),
        ("progress", Replication::Progress(progress)),
        ("confirm", Replication::Confirm { epoch, round: 11 }),
        ("confirmed", Replication::Confirmed { epoch, round: 11 }),
        ("fetch-page", Replication::FetchPage { epoch, number, piece: 4 }),
        ("page", Replication::Page(page)),
    ]
}

fn operations() -> Vec<(&'static str, Operation)> {
    let mut all = vec![
        ("create-volume", Operation::CreateVolume { name: "photos-1".to_owned(), policy: policy() }),
        ("remove-volume", Operation::RemoveVolume { volume: VolumeId(2), recursive: true }),
        (
            "make-directory",
            Operation::MakeDirectory { place: place(b"a/b"), attributes: new_attributes(), parents: true },
        ),
        (
            "make-symlink",
            Operation::MakeSymlink {
                place: place(b"link"),
                target: b"../elsewhere".to_vec(),
                attributes: new_attributes(),
                replace: true,
            },
        ),
        (
            "commit",
            Operation::Commit(Commit {
                place: place(b"a/b/file"),
                change: Change::Replace { size: 20 << 20 },
                extents: extents(),
                upload: 4,
                attributes: Some(new_attributes()),
                precondition: Precondition::Version(Version(77)),
                map: MapNumber(3),
            }),
        ),
        (
            "copy-range",
            Operation::CopyRange(CopyRange {
                source: place(b"from"),
                source_version: Version(5),
                source_offset: 4096,
                length: u64::MAX,
                target: place(b"to"),
                target_offset: 8192,
                whole: false,
                precondition: Precondition::Absent,
            }),
        ),
        (
            "compact",
            Operation::Compact(Compact {
                place: place(b"a/b/file"),
                version: Version(77),
                layout: Layout(2),
                extents: extents(),
                map: MapNumber(3),
            }),
        ),
        ("stage", Operation::Stage { upload: 4, extents: extents() }),
    ];
    all.extend(small_operations());
    all
}

fn small_operations() -> Vec<(&'static str, Operation)> {
    let xattr = Xattr { name: b"user.origin".to_vec(), value: vec![0, 1, 2, 255] };
    vec![
        (
            "truncate",
            Operation::Truncate { place: place(b"f"), size: 5, precondition: Precondition::Present },
        ),
        (
            "remove",
            Operation::Remove {
                place: place(b"d"),
                kind: RemoveKind::Directory,
                precondition: Precondition::Any,
            },
        ),
        (
            "rename",
            Operation::Rename { source: place(b"x"), target: place(b"y"), mode: RenameMode::Exchange },
        ),
        (
            "set-attributes",
            Operation::SetAttributes {
                place: place(b""),
                follow: true,
                change: AttributeChange {
                    mode: Some(0o640),
                    uid: None,
                    gid: Some(0),
                    modified: Some(Timestamp(-1)),
                },
            },
        ),
        (
            "set-xattr",
            Operation::SetXattr { place: place(b"f"), follow: true, xattr, mode: XattrMode::Create },
        ),
        (
            "remove-xattr",
            Operation::RemoveXattr { place: place(b"f"), follow: false, name: b"user.origin".to_vec() },
        ),
    ]
}

fn queries() -> Vec<(&'static str, Query)> {
    vec![
        ("volume", Query::Volume { name: "photos-1".to_owned() }),
        ("list-volumes", Query::ListVolumes { after: "photos-1".to_owned(), limit: 1024 }),
        ("lookup", Query::Lookup { place: place(b"a/b"), follow: true, xattrs: true, roots: 8192 }),
        (
            "read-extents",
            Query::ReadExtents {
                volume: VolumeId(2),
                inode: InodeId(30),
                version: Version(99),
                layout: Layout(1),
                offset: 1 << 33,
                roots: 100,
            },
        ),
        ("list", Query::List { place: place(b"a"), after: b"zebra\n\xff".to_vec(), limit: 7 }),
        ("usage", Query::Usage { volume: VolumeId(2) }),
        ("group-status", Query::GroupStatus),
        ("chunk-states", Query::ChunkStates { ids: IDS.to_vec() }),
    ]
}

/// Name, kind and status of the frame, reply.
pub(crate) fn replies() -> Vec<(&'static str, FrameKind, Status, Reply<'static>)> {
    let ok = |name, kind, reply| (name, kind, Status::Ok, reply);
    let mut all = vec![
        ok("hello", FrameKind::Hello, Reply::Hello(hello_reply())),
        ok(
            "get-map",
            FrameKind::GetMap,
            Reply::Map { number: MapNumber(4), page: 1, pages: 2, bytes: b"some of a map" },
        ),
        ok("put-chunk", FrameKind::PutChunk, Reply::PutChunk { map: MapNumber(4) }),
        ok(
            "get-chunk",
            FrameKind::GetChunk,
            Reply::GetChunk(ChunkPart { length: 1 << 20, offset: 12_288, proof: Words::new(&LEAVES) }),
        ),
        ok("delete-chunks", FrameKind::DeleteChunks, Reply::DeleteChunks),
        ok("inventory", FrameKind::Inventory, Reply::Inventory { ids: ChunkIds::new(&IDS), end: true }),
        ok("shard-status", FrameKind::ShardStatus, Reply::ShardStatus(Box::new(shard_state()))),
        ok(
            "slice-digest",
            FrameKind::SliceDigest,
            Reply::SliceDigest {
                ranges: vec![
                    SliceRange { last: chunk(300), count: 256, digest: 0x0102_0304_0506_0708 },
                    SliceRange { last: ChunkId::MAX, count: 3, digest: 9 },
                ],
                end: true,
            },
        ),
        ok("slice-chunks", FrameKind::SliceChunks, Reply::SliceChunks { chunks: records(), end: true }),
        ok("offer-chunks", FrameKind::OfferChunks, Reply::OfferChunks),
        ok("report-damage", FrameKind::ReportDamage, Reply::ReportDamage),
        ok(
            "open-session",
            FrameKind::OpenSession,
            Reply::Session(SessionGrant { session: SESSION, ttl_ms: 30_000, keepalive_ms: 10_000 }),
        ),
        ok("keep-alive", FrameKind::KeepAlive, Reply::KeepAlive),
        ok("close-session", FrameKind::CloseSession, Reply::CloseSession),
        ok("mutate", FrameKind::Mutate, Reply::Mutate(outcome(Status::Ok))),
        ("mutate-failed", FrameKind::Mutate, Status::NotEmpty, Reply::Mutate(outcome(Status::NotEmpty))),
        ("mutate-refused", FrameKind::Mutate, Status::Busy, Reply::Refused(refusal())),
        ("refused", FrameKind::PutChunk, Status::WrongEpoch, Reply::Refused(refusal())),
    ];
    all.extend(
        answers()
            .into_iter()
            .map(|(name, answer)| (name, FrameKind::Query, Status::Ok, Reply::Answer(answer))),
    );
    all.extend(control::replies().into_iter().map(|(name, kind, reply)| (name, kind, Status::Ok, reply)));
    all
}

fn answers() -> Vec<(&'static str, Answer)> {
    let page = ExtentPage { extents: extents(), end: true };
    let entry = Entry {
        attributes: attributes(InodeKind::File),
        target: Vec::new(),
        xattrs: new_attributes().xattrs,
        page: page.clone(),
        index: CommitIndex(1_000),
    };
    let other = VolumeInfo { name: "videos".to_owned(), volume: VolumeId(3), ..volume() };
    vec![
        ("volume", Answer::Volume(volume())),
        ("volumes", Answer::Volumes(vec![volume(), other], true)),
        ("entry", Answer::Entry(Box::new(entry))),
        ("extents", Answer::Extents(page)),
        (
            "list",
            Answer::List {
                directory: attributes(InodeKind::Directory),
                entries: vec![
                    list_entry(b"a file", InodeKind::File, b""),
                    list_entry(b"link\xff", InodeKind::Symlink, b"/a file"),
                ],
                end: true,
                index: CommitIndex(1_000),
            },
        ),
        ("usage", Answer::Usage(usage())),
        ("group-status", Answer::GroupStatus(group_state())),
        (
            "chunk-states",
            Answer::ChunkStates(vec![
                ChunkState::Dead,
                ChunkState::Open,
                ChunkState::Live { root: Some(0x0123_4567_89ab_cdef) },
                ChunkState::Live { root: None },
            ]),
        ),
    ]
}

fn span() -> SliceSpan {
    SliceSpan { slice: SliceIndex(77), epoch: Epoch(5), after: Some(chunk(40)) }
}

fn records() -> Vec<ChunkRecord> {
    vec![
        ChunkRecord { id: chunk(41), length: 1 << 20, root: 0x0123_4567_89ab_cdef },
        ChunkRecord { id: chunk(43), length: 5_000, root: 12 },
    ]
}

fn place(path: &[u8]) -> Place {
    Place { volume: VolumeId(2), directory: InodeId::ROOT, path: path.to_vec() }
}

fn policy() -> VolumePolicy {
    VolumePolicy { chunk_bytes: 1 << 20, retention_seconds: 3_600 }
}

fn new_attributes() -> NewAttributes {
    NewAttributes {
        mode: 0o1755,
        uid: 1_000,
        gid: 100,
        modified: Some(Timestamp(1_700_000_000_123_456_789)),
        xattrs: vec![
            Xattr { name: b"user.a".to_vec(), value: b"one".to_vec() },
            Xattr { name: b"user.b".to_vec(), value: Vec::new() },
        ],
    }
}

/// A run of three chunks whose ends are cut, a hole, and a short chunk.
fn extents() -> Extents {
    let mebibyte = 1 << 20;
    let first = Run {
        file_offset: 0,
        length: 3 * mebibyte - 100 - 200,
        first: chunk(5),
        count: 3,
        chunk_bytes: 1 << 20,
        last_chunk_bytes: 1 << 20,
        skip: 100,
    };
    let second = Run {
        file_offset: 8 * mebibyte,
        length: 5_000,
        first: chunk(8),
        count: 1,
        chunk_bytes: 1 << 20,
        last_chunk_bytes: 5_000,
        skip: 0,
    };
    Extents { runs: vec![first, second], roots: vec![11, 12, 13, 14] }
}

fn attributes(kind: InodeKind) -> Attributes {
    Attributes {
        inode: InodeId(30),
        kind,
        mode: 0o644,
        uid: 1_000,
        gid: 100,
        size: 12_345,
        stored_bytes: 12_000,
        modified: Timestamp(1),
        changed: Timestamp(2),
        created: Timestamp(-3),
        version: Version(99),
        layout: Layout(1),
        xattr_count: 2,
    }
}

fn list_entry(name: &[u8], kind: InodeKind, target: &[u8]) -> ListEntry {
    ListEntry { name: name.to_vec(), attributes: attributes(kind), target: target.to_vec() }
}

fn volume() -> VolumeInfo {
    VolumeInfo {
        volume: VolumeId(2),
        group: GroupId(5),
        name: "photos-1".to_owned(),
        policy: policy(),
        created: Timestamp(1_700_000_000_000_000_000),
    }
}

fn hello_reply() -> HelloReply {
    HelloReply {
        version: 1,
        features: 1,
        cluster: ClusterId([7; 16]),
        node: NodeId(1),
        role: Role::Shard(ShardIndex(2)),
        map: MapNumber(4),
        put_credit_bytes: 8 << 20,
        server: "catena 0.1.0".to_owned(),
    }
}

fn shard_state() -> ShardState {
    ShardState {
        store: StoreId([9; 16]),
        incarnation: Incarnation(3),
        condition: StoreCondition::Serving,
        capacity_bytes: 1 << 36,
        chunk_count: 1_000_000,
        arena_bytes: 1 << 28,
        ..ShardState::default()
    }
}

fn outcome(status: Status) -> Outcome {
    Outcome {
        status,
        depth: 2,
        index: CommitIndex(1_000),
        inode: InodeId(30),
        version: Version(1_000),
        volume: VolumeId(2),
        offset: 4_096,
        size: 8_192,
    }
}

fn refusal() -> Refusal {
    Refusal { retry_after_ms: 20, depth: 1, version: Version(99) }
}

fn usage() -> VolumeUsage {
    VolumeUsage {
        files: 1,
        directories: 2,
        symlinks: 3,
        logical_bytes: 4,
        stored_bytes: 5,
        chunks: 6,
        reclaimable_bytes: 7,
        reclaimable_from: Timestamp(8),
    }
}

fn group_state() -> GroupState {
    GroupState {
        committed: CommitIndex(1_000),
        checkpoint: CommitIndex(900),
        sessions: 3,
        inodes: 1_000_000,
        memory_bytes: 1 << 30,
        memory_budget_bytes: 1 << 32,
        log_bytes: 1 << 20,
        deleting_chunks: 5,
        unopened_chunks: 6,
        log_full: true,
        memory_full: true,
    }
}

/// The group of the samples' session.
pub(crate) fn group() -> GroupId {
    SESSION.group()
}
