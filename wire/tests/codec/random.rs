//! Random values of every message, from a seed: valid by construction, with edges more often than chance would have them.

mod reply;

use crate::control;
use wire::limits::{CHUNK_BYTES_MAX, LEAVES_MAX, MESSAGE_CHUNKS_MAX, TERMS_MAX};
use wire::message::{
    ChunkIds, ChunkRecord, Entries, GetChunk, Hello, HopClass, Page, Progress, PutChunk, Replication,
    Request, SliceSpan, Subscribe, Term, Words,
};
use wire::meta::{
    AttributeChange, Attributes, Change, Commit, Compact, CopyRange, Extents, InodeKind, Mutation,
    NewAttributes, Operation, Pin, Place, Precondition, Query, RemoveKind, RenameMode, Run, VolumePolicy,
    Xattr, XattrMode,
};
use wire::{
    ChunkId, ClusterId, CommitIndex, Epoch, FrameKind, InodeId, Layout, MapNumber, Sequence, SessionId,
    SliceIndex, StoreId, Timestamp, Version, VolumeId,
};

/// splitmix64.
pub(crate) struct Random(pub(crate) u64);

/// What random messages borrow.
pub(crate) struct Pool {
    pub(crate) words: Vec<u64>,
    pub(crate) ids: Vec<ChunkId>,
    pub(crate) bytes: Vec<u8>,
}

impl Pool {
    pub(crate) fn new(random: &mut Random) -> Self {
        let words = (0..LEAVES_MAX).map(|_| random.word()).collect();
        let mut ids: Vec<ChunkId> = (0..MESSAGE_CHUNKS_MAX).map(|_| random.chunk()).collect();
        ids.sort_unstable();
        ids.dedup();
        Self { words, ids, bytes: random.bytes(1, 8 << 10) }
    }
}

impl Random {
    pub(crate) fn word(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Below `end`.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.word() % end as u64).expect("below a usize")
    }

    /// Between the two, the ends included; an end itself in one of four.
    fn between(&mut self, low: u64, high: u64) -> u64 {
        match self.below(8) {
            0 => low,
            1 => high,
            _ => low + self.word() % (high - low).saturating_add(1).max(1),
        }
    }

    fn u32(&mut self) -> u32 {
        u32::try_from(self.between(0, u64::from(u32::MAX))).expect("32 bits")
    }

    fn u16(&mut self) -> u16 {
        u16::try_from(self.between(0, u64::from(u16::MAX))).expect("16 bits")
    }

    fn u64(&mut self) -> u64 {
        self.between(0, u64::MAX)
    }

    fn time(&mut self) -> Timestamp {
        Timestamp(self.u64().cast_signed())
    }

    fn flag(&mut self) -> bool {
        self.word() & 1 == 1
    }

    pub(crate) fn pick<T: Clone>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())].clone()
    }

    fn maybe<T>(&mut self, make: impl FnOnce(&mut Self) -> T) -> Option<T> {
        if self.flag() { Some(make(self)) } else { None }
    }

    pub(crate) fn bytes(&mut self, min: usize, max: usize) -> Vec<u8> {
        let length = usize::try_from(self.between(min as u64, max as u64)).expect("a length");
        (0..length).map(|_| self.word().to_le_bytes()[0]).collect()
    }

    /// Bytes without NUL and `/`.
    fn name(&mut self, min: usize, max: usize) -> Vec<u8> {
        let mut name = self.bytes(min, max);
        for byte in &mut name {
            if matches!(byte, 0 | b'/' | b'.') {
                *byte = b'_';
            }
        }
        name
    }

    fn text(&mut self, max: usize) -> String {
        String::from_utf8_lossy(&self.name(0, max / 3)).into_owned()
    }

    fn volume_name(&mut self) -> String {
        let mut name = self.pick(&["a", "0", "photos"]).to_owned();
        for _ in 0..self.below(57) {
            name.push(self.pick(&['a', 'z', '0', '9', '-']));
        }
        name
    }

    fn uuid(&mut self) -> [u8; 16] {
        std::array::from_fn(|_| self.word().to_le_bytes()[0])
    }

    fn chunk(&mut self) -> ChunkId {
        ChunkId { session: SessionId(self.u64()), ordinal: self.u64() >> 1 }
    }

    fn place(&mut self) -> Place {
        let names = (0..self.below(16)).map(|_| self.name(0, 255)).collect::<Vec<_>>();
        Place {
            volume: VolumeId(self.u64()),
            directory: InodeId(self.u64()),
            path: names.join(&b'/').into_iter().take(4096).collect(),
        }
    }

    fn precondition(&mut self) -> Precondition {
        let version = Version(self.u64());
        self.pick(&[
            Precondition::Any,
            Precondition::Absent,
            Precondition::Present,
            Precondition::Version(version),
        ])
    }

    fn xattrs(&mut self) -> Vec<Xattr> {
        let count = self.below(4);
        let mut xattrs: Vec<Xattr> =
            (0..count).map(|_| Xattr { name: self.name(1, 255), value: self.bytes(0, 300) }).collect();
        xattrs.sort_by(|a, b| a.name.cmp(&b.name));
        xattrs.dedup_by(|a, b| a.name == b.name);
        xattrs
    }

    fn new_attributes(&mut self) -> NewAttributes {
        NewAttributes {
            mode: self.u32() & 0o7777,
            uid: self.u32(),
            gid: self.u32(),
            modified: self.maybe(Self::time),
            xattrs: self.xattrs(),
        }
    }

    fn attributes(&mut self, kind: InodeKind) -> Attributes {
        Attributes {
            inode: InodeId(self.u64()),
            kind,
            mode: self.u32() & 0o7777,
            uid: self.u32(),
            gid: self.u32(),
            size: self.u64() >> 1,
            stored_bytes: self.u64(),
            modified: self.time(),
            changed: self.time(),
            created: self.time(),
            version: Version(self.u64()),
            layout: Layout(self.u32()),
            xattr_count: self.u32(),
        }
    }

    fn kind(&mut self) -> InodeKind {
        self.pick(&[InodeKind::File, InodeKind::Directory, InodeKind::Symlink])
    }

    pub(crate) fn extents(&mut self) -> Extents {
        let mut extents = Extents::default();
        let mut end = 0;
        for _ in 0..self.below(6) {
            let chunk_bytes = 1_u32 << self.between(12, 22);
            let last_chunk_bytes = u32::try_from(self.between(1, chunk_bytes.into())).expect("a chunk");
            let count = u32::try_from(self.between(1, 20)).expect("few");
            let first_bytes = if count == 1 { last_chunk_bytes } else { chunk_bytes };
            let skip = u32::try_from(self.between(0, u64::from(first_bytes) - 1)).expect("in a chunk");
            let before_last = (u64::from(count) - 1) * u64::from(chunk_bytes);
            let shortest = before_last.saturating_sub(skip.into()) + 1;
            let longest = before_last + u64::from(last_chunk_bytes) - u64::from(skip);
            let shortest = if count == 1 { 1 } else { shortest };
            let length = self.between(shortest, longest);
            let file_offset = end + if self.flag() { 0 } else { self.between(0, 1 << 40) };
            end = file_offset + length;
            let first = self.chunk();
            let roots = (0..count).map(|_| self.word()).collect::<Vec<_>>();
            extents.roots.extend(roots);
            extents.runs.push(Run { file_offset, length, first, count, chunk_bytes, last_chunk_bytes, skip });
        }
        extents
    }

    pub(crate) fn request<'a>(&mut self, pool: &'a Pool) -> Request<'a> {
        match self.pick(FrameKind::ALL) {
            FrameKind::Hello => {
                let version_min = self.u16();
                Request::Hello(Hello {
                    version_min,
                    version_max: version_min.max(self.u16()),
                    features: self.u64(),
                    name: self.text(255),
                    cluster: self.maybe(|random| ClusterId(random.uuid())),
                    peer: self.maybe(|random| StoreId(random.uuid())),
                })
            }
            FrameKind::GetMap => {
                let page = u32::try_from(self.below(64)).expect("few");
                Request::GetMap { have: MapNumber(self.u64()), page }
            }
            FrameKind::PutChunk => Request::PutChunk(self.put_chunk(pool)),
            FrameKind::PutFragment => {
                let unit = u32::try_from(self.between(1, 63)).expect("few");
                Request::PutFragment { class: self.pick(&HopClass::ALL), offset: unit * (64 << 10) }
            }
            FrameKind::Abort => Request::Abort,
            FrameKind::Credit => Request::Credit { class: self.pick(&HopClass::ALL), bytes: self.u32() },
            FrameKind::GetChunk => {
                let first_block = u32::try_from(self.between(0, 1023)).expect("few");
                let block_count = u32::try_from(self.between(1, 1024 - u64::from(first_block))).expect("few");
                Request::GetChunk(GetChunk { id: self.chunk(), first_block, block_count })
            }
            FrameKind::DeleteChunks => {
                let count = 1 + self.below(pool.ids.len());
                Request::DeleteChunks {
                    map: MapNumber(self.u64()),
                    ids: ChunkIds::new(&pool.ids[..count.min(40)]),
                }
            }
            FrameKind::Inventory => {
                let limit = u32::try_from(self.between(1, 4096)).expect("few");
                Request::Inventory { after: Some(self.chunk()), limit }
            }
            FrameKind::ShardStatus => Request::ShardStatus,
            kind @ (FrameKind::SliceDigest
            | FrameKind::SliceChunks
            | FrameKind::OfferChunks
            | FrameKind::ReportDamage) => self.replica_request(kind, pool),
            FrameKind::OpenSession => Request::OpenSession { name: self.text(255) },
            FrameKind::KeepAlive => {
                let pins = (0..self.below(5)).map(|_| self.pin()).collect();
                Request::KeepAlive { session: SessionId(self.u64()), pins }
            }
            FrameKind::CloseSession => Request::CloseSession { session: SessionId(self.u64()) },
            FrameKind::Mutate => Request::Mutate(self.mutation()),
            FrameKind::Query => Request::Query(self.query()),
            FrameKind::Replicate => Request::Replicate(self.replication(pool)),
            FrameKind::MapNews => {
                let update = &pool.bytes[..self.below(pool.bytes.len())];
                Request::MapNews { number: MapNumber(self.u64()), update }
            }
            FrameKind::Raft => Request::Raft(&pool.bytes[..self.below(pool.bytes.len())]),
            kind @ (FrameKind::Register | FrameKind::Heartbeat | FrameKind::Manage) => {
                let samples: Vec<_> = control::requests();
                let samples = samples.into_iter().filter(|(_, request)| request.kind() == kind);
                self.pick(&samples.map(|(_, request)| request).collect::<Vec<_>>())
            }
        }
    }

    fn put_chunk<'a>(&mut self, pool: &'a Pool) -> PutChunk<'a> {
        let length = u32::try_from(self.between(1, CHUNK_BYTES_MAX.into())).expect("a chunk");
        let leaves = &pool.words[..(length as usize).div_ceil(4096)];
        PutChunk {
            id: self.chunk(),
            length,
            root: self.u64(),
            map: MapNumber(self.u64()),
            epoch: Epoch(self.u64()),
            class: self.pick(&HopClass::ALL),
            leaves: Words::new(leaves),
        }
    }

    fn replication<'a>(&mut self, pool: &'a Pool) -> Replication<&'a [u8]> {
        let (epoch, number) = (Epoch(self.u64()), self.u64());
        let bytes = &pool.bytes[..self.below(pool.bytes.len())];
        let mut index = || CommitIndex(self.u64());
        let (received, after, durable, committed) = (index(), index(), index(), index());
        match self.below(10) {
            0 => {
                let count = self.below(TERMS_MAX + 1);
                let mut term = || Term { epoch: Epoch(self.u64()), first: CommitIndex(self.u64()) };
                let terms = (0..count).map(|_| term()).collect();
                Replication::Subscribe(Subscribe { epoch, number, learner: self.flag(), received, terms })
            }
            1 => Replication::Accepted { epoch, number, after, base: committed },
            2 => Replication::Offer { epoch, number, index: after },
            3 => Replication::Refused { epoch, number },
            4 => {
                let skip = self.u32();
                let packed = bytes;
                let upstream_durable = durable;
                Replication::Entries(Entries {
                    epoch,
                    number,
                    after,
                    skip,
                    upstream_durable,
                    committed,
                    packed,
                })
            }
            5 => Replication::Progress(Progress { epoch, number, received, durable, committed }),
            6 => Replication::Confirm { epoch, round: number },
            7 => Replication::Confirmed { epoch, round: number },
            8 => Replication::FetchPage { epoch, number, piece: self.u32() },
            _ => {
                let (piece, ends_page, last) = (self.u32(), self.flag(), self.flag());
                Replication::Page(Page { epoch, number, piece, ends_page, last, bytes })
            }
        }
    }

    fn replica_request(&mut self, kind: FrameKind, pool: &Pool) -> Request<'static> {
        match kind {
            FrameKind::SliceDigest => {
                let limit = u32::try_from(self.between(1, 4096)).expect("few");
                Request::SliceDigest { span: self.span(), limit }
            }
            FrameKind::SliceChunks => {
                let limit = u32::try_from(self.between(1, 4096)).expect("few");
                Request::SliceChunks { span: self.span(), last: self.chunk(), limit }
            }
            FrameKind::OfferChunks => Request::OfferChunks {
                slice: SliceIndex(self.u16()),
                epoch: Epoch(self.u64()),
                chunks: self.records(pool),
            },
            _ => Request::ReportDamage { id: self.chunk(), root: self.u64() },
        }
    }

    fn span(&mut self) -> SliceSpan {
        let slice = SliceIndex(self.u16());
        SliceSpan { slice, epoch: Epoch(self.u64()), after: self.maybe(Self::chunk) }
    }

    pub(crate) fn records(&mut self, pool: &Pool) -> Vec<ChunkRecord> {
        let count = self.below(50);
        let record = |id: &ChunkId| ChunkRecord {
            id: *id,
            length: u32::try_from(self.between(1, CHUNK_BYTES_MAX.into())).expect("a chunk"),
            root: self.u64(),
        };
        pool.ids[..count].iter().map(record).collect()
    }

    fn pin(&mut self) -> Pin {
        Pin { volume: VolumeId(self.u64()), inode: InodeId(self.u64()), version: Version(self.u64()) }
    }

    fn mutation(&mut self) -> Mutation {
        let sequence = self.between(1, u64::MAX);
        Mutation {
            session: SessionId(self.u64()),
            sequence: Sequence(sequence),
            acked_upto: Sequence(self.between(0, sequence - 1)),
            operation: self.operation(),
        }
    }

    fn policy(&mut self) -> VolumePolicy {
        VolumePolicy { chunk_bytes: 1 << self.between(12, 22), retention_seconds: self.u64() }
    }

    fn operation(&mut self) -> Operation {
        let place = self.place();
        let precondition = self.precondition();
        match self.below(13) {
            0 => Operation::CreateVolume { name: self.volume_name(), policy: self.policy() },
            1 => Operation::RemoveVolume { volume: VolumeId(self.u64()), recursive: self.flag() },
            2 => {
                let attributes = self.new_attributes();
                Operation::MakeDirectory { place, attributes, parents: self.flag() }
            }
            3 => {
                let attributes = self.new_attributes();
                Operation::MakeSymlink { place, target: self.name(1, 4095), attributes, replace: self.flag() }
            }
            4 | 5 => self.commit(place, precondition),
            6 => Operation::Truncate { place, size: self.u64() >> 1, precondition },
            7 => {
                let kind = self.pick(&[RemoveKind::File, RemoveKind::Directory]);
                Operation::Remove { place, kind, precondition }
            }
            8 => {
                let mode = self.pick(&[RenameMode::Replace, RenameMode::NoReplace, RenameMode::Exchange]);
                Operation::Rename { source: place, target: self.place(), mode }
            }
            9 => {
                let change = AttributeChange {
                    mode: self.maybe(|random| random.u32() & 0o7777),
                    uid: self.maybe(Self::u32),
                    gid: self.maybe(Self::u32),
                    modified: self.maybe(Self::time),
                };
                Operation::SetAttributes { place, follow: self.flag(), change }
            }
            10 => {
                let xattr = Xattr { name: self.name(1, 255), value: self.bytes(0, 1000) };
                let mode = self.pick(&[XattrMode::Any, XattrMode::Create, XattrMode::Replace]);
                Operation::SetXattr { place, follow: self.flag(), xattr, mode }
            }
            11 => Operation::RemoveXattr { place, follow: self.flag(), name: self.name(1, 255) },
            _ => {
                if self.flag() {
                    return Operation::Compact(Compact {
                        place,
                        version: Version(self.u64()),
                        layout: Layout(u32::try_from(self.below(1 << 20)).expect("20 bits")),
                        extents: self.extents(),
                        map: MapNumber(self.u64()),
                    });
                }
                if self.flag() {
                    let upload = self.between(1, u64::MAX);
                    return Operation::Stage { upload, extents: self.extents() };
                }
                Operation::CopyRange(CopyRange {
                    source: place,
                    source_version: Version(self.u64()),
                    source_offset: self.u64() >> 1,
                    length: self.u64(),
                    target: self.place(),
                    target_offset: self.u64() >> 1,
                    whole: self.flag(),
                    precondition,
                })
            }
        }
    }

    fn commit(&mut self, place: Place, precondition: Precondition) -> Operation {
        let extents = self.extents();
        let end = extents.runs.last().map_or(0, |run| run.file_offset + run.length);
        let size = self.between(end, i64::MAX.cast_unsigned());
        Operation::Commit(Commit {
            place,
            change: self.pick(&[Change::Replace { size }, Change::Write, Change::Append]),
            extents,
            upload: self.u64(),
            attributes: self.maybe(Self::new_attributes),
            precondition,
            map: MapNumber(self.u64()),
        })
    }

    fn query(&mut self) -> Query {
        let limit = u32::try_from(self.between(1, 1024)).expect("few");
        let roots = u32::try_from(self.between(1, 8192)).expect("few");
        match self.below(8) {
            0 => Query::Volume { name: self.volume_name() },
            1 => Query::ListVolumes { after: self.text(63), limit },
            2 => Query::Lookup { place: self.place(), follow: self.flag(), xattrs: self.flag(), roots },
            3 => Query::ReadExtents {
                volume: VolumeId(self.u64()),
                inode: InodeId(self.u64()),
                version: Version(self.u64()),
                layout: Layout(self.u32()),
                offset: self.u64() >> 1,
                roots,
            },
            4 => Query::List { place: self.place(), after: self.name(0, 255), limit },
            5 => Query::Usage { volume: VolumeId(self.u64()) },
            6 => Query::ChunkStates { ids: (0..=self.below(40)).map(|_| self.chunk()).collect() },
            _ => Query::GroupStatus,
        }
    }
}
