//! Random replies.

use crate::control;
use wire::limits::CHUNK_BYTES_MAX;
use wire::message::{
    ChunkIds, ChunkPart, HelloReply, Reply, Role, ShardState, SliceRange, StoreCondition, Words,
};
use wire::meta::{
    Answer, ChunkState, Entry, ExtentPage, GroupState, InodeKind, ListEntry, Outcome, Refusal, SessionGrant,
    VolumeInfo, VolumeUsage,
};
use wire::{
    ChunkId, ClusterId, CommitIndex, FrameKind, GroupId, Incarnation, InodeId, MapNumber, NodeId, SessionId,
    ShardIndex, Status, StoreId, Version, VolumeId,
};

use super::{Pool, Random};

impl Random {
    pub(crate) fn reply<'a>(&mut self, pool: &'a Pool) -> (FrameKind, Status, Reply<'a>) {
        let kind = self.pick(FrameKind::ALL);
        if self.below(8) == 0 {
            let refusal =
                Refusal { retry_after_ms: self.u32(), depth: self.u16(), version: Version(self.u64()) };
            return (kind, self.pick(&Status::ALL[1..]), Reply::Refused(refusal));
        }
        if kind == FrameKind::Mutate {
            let outcome = self.outcome();
            return (kind, outcome.status, Reply::Mutate(outcome));
        }
        let reply = match kind {
            FrameKind::Hello => Reply::Hello(self.hello_reply()),
            FrameKind::GetMap => self.map_page(pool),
            FrameKind::PutFragment
            | FrameKind::Abort
            | FrameKind::Credit
            | FrameKind::Replicate
            | FrameKind::MapNews
            | FrameKind::Raft
            | FrameKind::PutChunk => {
                return (FrameKind::PutChunk, Status::Ok, Reply::PutChunk { map: MapNumber(self.u64()) });
            }
            FrameKind::GetChunk => {
                let offset = u32::try_from(self.between(0, 1023)).expect("few") * 4096;
                let length = self.between(u64::from(offset) + 1, CHUNK_BYTES_MAX.into());
                let proof = Words::new(&pool.words[..self.below(91)]);
                let length = u32::try_from(length).expect("a chunk");
                Reply::GetChunk(ChunkPart { length, offset, proof })
            }
            FrameKind::DeleteChunks => Reply::DeleteChunks,
            FrameKind::Inventory => {
                let ids = ChunkIds::new(&pool.ids[..self.below(50)]);
                Reply::Inventory { ids, end: self.flag() }
            }
            FrameKind::ShardStatus => Reply::ShardStatus(Box::new(self.shard_state())),
            FrameKind::SliceDigest => self.slice_digest(pool),
            FrameKind::SliceChunks => Reply::SliceChunks { chunks: self.records(pool), end: self.flag() },
            FrameKind::OfferChunks => Reply::OfferChunks,
            FrameKind::ReportDamage => Reply::ReportDamage,
            FrameKind::OpenSession => Reply::Session(SessionGrant {
                session: SessionId(self.u64()),
                ttl_ms: self.u32(),
                keepalive_ms: self.u32(),
            }),
            FrameKind::KeepAlive => Reply::KeepAlive,
            FrameKind::CloseSession => Reply::CloseSession,
            FrameKind::Register | FrameKind::Heartbeat | FrameKind::Manage => {
                let samples: Vec<_> = control::replies();
                let samples = samples.into_iter().filter(|(_, found, _)| *found == kind);
                self.pick(&samples.map(|(.., reply)| reply).collect::<Vec<_>>())
            }
            FrameKind::Query | FrameKind::Mutate => {
                return (FrameKind::Query, Status::Ok, Reply::Answer(self.answer()));
            }
        };
        (kind, Status::Ok, reply)
    }

    fn slice_digest(&mut self, pool: &Pool) -> Reply<'static> {
        let end = self.flag();
        let count = self.below(50);
        let last = pool.ids[..count].iter().copied().chain(end.then_some(ChunkId::MAX));
        let range = |last| SliceRange { last, count: self.u32(), digest: self.u64() };
        Reply::SliceDigest { ranges: last.map(range).collect(), end }
    }

    fn hello_reply(&mut self) -> HelloReply {
        let role = self.u16();
        HelloReply {
            version: self.u16(),
            features: self.u64(),
            cluster: ClusterId(self.uuid()),
            node: NodeId(self.u32()),
            role: self.pick(&[Role::Shard(ShardIndex(role)), Role::Metadata(GroupId(role))]),
            map: MapNumber(self.u64()),
            put_credit_bytes: self.u32(),
            server: self.text(255),
        }
    }

    fn map_page<'a>(&mut self, pool: &'a Pool) -> Reply<'a> {
        let number = MapNumber(self.u64());
        if self.flag() {
            return Reply::Map { number, page: 0, pages: 0, bytes: &[] };
        }
        let pages = u32::try_from(self.between(1, 64)).expect("few");
        let page = u32::try_from(self.below(pages as usize)).expect("few");
        let bytes = &pool.bytes[..=self.below(pool.bytes.len())];
        Reply::Map { number, page, pages, bytes }
    }

    fn shard_state(&mut self) -> ShardState {
        ShardState {
            store: StoreId(self.uuid()),
            incarnation: Incarnation(self.u64()),
            condition: self.pick(&StoreCondition::ALL),
            capacity_bytes: self.u64(),
            flush_total: self.u64(),
            arena_bytes: self.u64(),
            conflicting_put_total: self.u64(),
            ..ShardState::default()
        }
    }

    fn outcome(&mut self) -> Outcome {
        Outcome {
            status: self.pick(Status::ALL),
            depth: self.u16(),
            index: CommitIndex(self.u64()),
            inode: InodeId(self.u64()),
            version: Version(self.u64()),
            volume: VolumeId(self.u64()),
            offset: self.u64(),
            size: self.u64(),
        }
    }

    fn volume(&mut self) -> VolumeInfo {
        VolumeInfo {
            volume: VolumeId(self.u64()),
            group: GroupId(u16::try_from(self.below(1 << 12)).expect("12 bits")),
            name: self.volume_name(),
            policy: self.policy(),
            created: self.time(),
        }
    }

    fn answer(&mut self) -> Answer {
        let page = ExtentPage { extents: self.extents(), end: self.flag() };
        match self.below(8) {
            0 => Answer::Volume(self.volume()),
            1 => {
                let mut volumes: Vec<VolumeInfo> = (0..self.below(8)).map(|_| self.volume()).collect();
                volumes.sort_by(|a, b| a.name.cmp(&b.name));
                volumes.dedup_by(|a, b| a.name == b.name);
                Answer::Volumes(volumes, self.flag())
            }
            2 => {
                let kind = self.kind();
                let target = if kind == InodeKind::Symlink { self.name(1, 4095) } else { Vec::new() };
                Answer::Entry(Box::new(Entry {
                    attributes: self.attributes(kind),
                    target,
                    xattrs: self.xattrs(),
                    page,
                    index: CommitIndex(self.u64()),
                }))
            }
            3 => Answer::Extents(page),
            4 => {
                let mut entries: Vec<ListEntry> = (0..self.below(8)).map(|_| self.list_entry()).collect();
                entries.sort_by(|a, b| a.name.cmp(&b.name));
                entries.dedup_by(|a, b| a.name == b.name);
                Answer::List {
                    directory: self.attributes(InodeKind::Directory),
                    entries,
                    end: self.flag(),
                    index: CommitIndex(self.u64()),
                }
            }
            6 => {
                let root = self.maybe(Self::u64);
                let states = [ChunkState::Dead, ChunkState::Open, ChunkState::Live { root }];
                Answer::ChunkStates((0..self.below(40)).map(|_| self.pick(&states)).collect())
            }
            5 => Answer::Usage(VolumeUsage {
                files: self.u64(),
                chunks: self.u64(),
                reclaimable_from: self.time(),
                ..VolumeUsage::default()
            }),
            _ => Answer::GroupStatus(GroupState {
                committed: CommitIndex(self.u64()),
                deleting_chunks: self.u64(),
                log_full: self.flag(),
                memory_full: self.flag(),
                ..GroupState::default()
            }),
        }
    }

    fn list_entry(&mut self) -> ListEntry {
        let kind = self.kind();
        let target = if kind == InodeKind::Symlink { self.name(1, 200) } else { Vec::new() };
        ListEntry { name: self.name(1, 255), attributes: self.attributes(kind), target }
    }
}
