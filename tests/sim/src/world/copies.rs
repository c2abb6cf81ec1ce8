//! What a cluster's copies hold once everything has ended: the same, and nothing but what files reference.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use store::IndexEntry;
use wire::meta::{Answer, Query};
use wire::{ChunkId, Nanos, StoreId, VolumeId};

use super::{GARBAGE_LIMIT, World};

impl World {
    /// I12: until no store holds garbage, and all copies of a slice are alike.
    pub(super) fn until_clean(&mut self, volume: VolumeId) -> Result<(), String> {
        let mut looked = self.schedule.now();
        let end = looked.after(4 * GARBAGE_LIMIT);
        while let Some(garbage) = self.cluster_garbage(volume) {
            if looked > end {
                let strays = self.strays();
                return Err(format!("garbage: {garbage}\n{strays}\n{}", self.describe()));
            }
            looked = looked.after(Nanos::SECOND);
            let at = looked;
            self.schedule.at(at, super::Happening::Fault);
            self.until("garbage", GARBAGE_LIMIT, |world| world.schedule.now() >= at)?;
        }
        self.check_copies()
    }

    /// Chunks that some store holds and shouldn't, or lacks, for a person.
    fn strays(&self) -> String {
        let Some((_, replica)) = self.head() else { return String::new() };
        let edition =
            self.cluster.as_ref().and_then(|cluster| cluster.watch.newest()).expect("there are maps");
        let map = edition.map();
        let mut held: BTreeMap<ChunkId, BTreeSet<StoreId>> = BTreeMap::new();
        for (_, node) in self.living() {
            for (shard, store) in node.shards().zip(node.stores()) {
                for entry in shard.store().entries() {
                    held.entry(entry.id).or_default().insert(store);
                }
            }
        }
        let mut text = String::new();
        for (id, holders) in held {
            let slice = map.slice_of(id);
            let chain = &map.as_map().slices[usize::from(slice.0)].chain;
            let member = |place: u16| map.as_map().stores[usize::from(place)].store;
            let members: BTreeSet<StoreId> = chain.members.iter().map(|its| member(its.store)).collect();
            let state = replica.state().namespace.chunk_state(id);
            if holders != members || state != namespace::ChunkState::Referenced {
                writeln!(
                    text,
                    "{id:?} in {slice:?} is {state:?}: held by {holders:?}, to be held by {members:?}"
                )
                .expect("a string takes everything");
            }
        }
        text
    }

    /// Copies of chunks that files name, in stores that have left their chains: nobody frees those before the chunk dies.
    fn left_behind(&self, replica: &replica::Replica) -> u64 {
        let edition =
            self.cluster.as_ref().and_then(|cluster| cluster.watch.newest()).expect("there are maps");
        let map = edition.map();
        let stores = self.living().flat_map(|(_, node)| node.shards().zip(node.stores()));
        let left = stores.map(|(shard, store)| {
            let is_left = |id: ChunkId| {
                let mut members = map.route(id).members.iter();
                let state = replica.state().namespace.chunk_state(id);
                state == namespace::ChunkState::Referenced
                    && !members.any(|member| map.as_map().stores[usize::from(member.store)].store == store)
            };
            shard.store().entries().filter(|entry| is_left(entry.id)).count() as u64
        });
        left.sum()
    }

    /// What is in the way.
    fn cluster_garbage(&self, volume: VolumeId) -> Option<String> {
        let Some((_, replica)) = self.head() else { return Some("nobody leads the group".to_owned()) };
        let namespace = &replica.state().namespace;
        let Ok(Answer::Usage(usage)) = namespace.query(&Query::Usage { volume }, Nanos::SECOND) else {
            return Some("the volume is gone".to_owned());
        };
        let deleting = namespace.deleting_chunks();
        let copies = self.living().count().min(3) as u64;
        let stored: u64 = self
            .living()
            .flat_map(|(_, node)| node.shards())
            .map(|shard| shard.store().metrics().chunks)
            .sum();
        let left = self.left_behind(replica);
        (stored - left != usage.chunks * copies || deleting > 0).then(|| {
            let stores: Vec<_> = self
                .living()
                .map(|(number, node)| (number, node.shards().map(|shard| shard.store().metrics().chunks).collect::<Vec<_>>()))
                .collect();
            format!(
                "{stored} stored {stores:?}, {} referenced {copies} times, {deleting} deleting, {} reclaimable bytes; {:?}",
                usage.chunks, usage.reclaimable_bytes, replica.metrics()
            )
        })
    }

    /// All members of a slice's chain hold the same chunks of it, with the same roots.
    fn check_copies(&self) -> Result<(), String> {
        let edition =
            self.cluster.as_ref().and_then(|cluster| cluster.watch.newest()).expect("there are maps");
        let map = edition.map();
        let mut held: BTreeMap<ChunkId, BTreeMap<StoreId, (u64, u32)>> = BTreeMap::new();
        for (_, node) in self.living() {
            for (shard, store) in node.shards().zip(node.stores()) {
                for IndexEntry { id, root, length, .. } in shard.store().entries() {
                    held.entry(id).or_default().insert(store, (root, length));
                }
            }
        }
        for (id, copies) in &held {
            let slice = map.slice_of(*id);
            let chain = &map.as_map().slices[usize::from(slice.0)].chain;
            let members: BTreeSet<StoreId> = chain
                .members
                .iter()
                .map(|member| map.as_map().stores[usize::from(member.store)].store)
                .collect();
            let holders: BTreeSet<StoreId> = copies.keys().copied().collect();
            let contents: BTreeSet<_> = copies.values().collect();
            if !members.is_subset(&holders) || contents.len() != 1 {
                return Err(format!("copies of {id:?} in {slice:?} differ: {copies:?}, {chain:?}"));
            }
        }
        Ok(())
    }
}
