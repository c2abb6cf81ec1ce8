//! Stores that lose nothing: a map of chunks, and the answers to what a group asks of stores.

use std::collections::BTreeMap;

use wire::message::{ChunkIds, Encoder, HelloReply, PayloadMeta, Reply, ReplyHead, Request, Role};
use wire::{
    ChunkId, ClusterId, Load, MapNumber, NodeId, PREFIX_BYTES, PROTOCOL_VERSION, Prefix, ShardIndex, Status,
};

use crate::report::Tally;

/// See the module.
pub(super) struct Stores {
    cluster: ClusterId,
    /// Bytes and root of each chunk.
    pub(super) chunks: BTreeMap<ChunkId, (Vec<u8>, u64)>,
    deleted: u64,
    inventories: u64,
    encoder: Encoder,
}

impl Stores {
    pub(super) fn new(cluster: ClusterId) -> Self {
        Self { cluster, chunks: BTreeMap::new(), deleted: 0, inventories: 0, encoder: Encoder::new() }
    }

    /// A request of the group; its reply.
    pub(super) fn on_head(&mut self, head: &[u8]) -> Option<Vec<u8>> {
        let (bytes, message) =
            head.split_first_chunk::<PREFIX_BYTES>().expect("a frame begins with a prefix");
        let prefix = Prefix::decode(bytes).expect("frames arrive whole");
        let request = Request::decode(prefix.kind, message).expect("a group's messages are well-formed");
        match request {
            Request::Hello(_) => {
                let reply = HelloReply {
                    version: PROTOCOL_VERSION,
                    features: 0,
                    cluster: self.cluster,
                    node: NodeId(1),
                    role: Role::Shard(ShardIndex(0)),
                    map: MapNumber(1),
                    put_credit_bytes: 1 << 20,
                    server: "a map".to_owned(),
                };
                Some(self.reply(&prefix, &Reply::Hello(reply)))
            }
            Request::DeleteChunks { ids, .. } => {
                for id in ids.iter() {
                    self.deleted += u64::from(self.chunks.remove(&id).is_some());
                }
                Some(self.reply(&prefix, &Reply::DeleteChunks))
            }
            Request::Inventory { after, limit } => {
                self.inventories += 1;
                let after = after.map_or(std::ops::Bound::Unbounded, std::ops::Bound::Excluded);
                let mut rest = self.chunks.range((after, std::ops::Bound::Unbounded)).map(|(id, _)| *id);
                let ids: Vec<ChunkId> = rest.by_ref().take(limit as usize).collect();
                let end = rest.next().is_none();
                drop(rest);
                Some(self.reply(&prefix, &Reply::Inventory { ids: ChunkIds::new(&ids), end }))
            }
            _ => None,
        }
    }

    fn reply(&mut self, prefix: &Prefix, reply: &Reply<'_>) -> Vec<u8> {
        let (kind, correlation) = (prefix.kind, prefix.correlation);
        let head = ReplyHead { kind, correlation, status: Status::Ok, load: Load::default(), more: false };
        let mut bytes = Vec::new();
        self.encoder.reply(&mut bytes, head, reply, PayloadMeta::default());
        bytes
    }

    pub(super) fn tally(&self, tally: &mut Tally) {
        tally.add("gc", "chunks deleted", self.deleted);
        tally.add("gc", "inventories", self.inventories);
    }
}
