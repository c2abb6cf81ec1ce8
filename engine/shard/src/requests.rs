//! Requests that any port answers, and those of the group: hello, map, deletes, inventory, status.

use placement::ClusterMap;
use wire::limits::MESSAGE_CHUNKS_MAX;
use wire::message::{ChunkIds, Hello, HelloReply, Reply, Role, StoreCondition};
use wire::{ChunkId, Incarnation, MapNumber, Memory, Nanos, Status};

use crate::effects::{CloseReason, Effects};
use crate::link::PUT_CREDIT_BYTES;
use crate::reply::Caller;
use crate::shard::{Identity, Shard};

impl Shard {
    /// Greets a connection; an answer of `Some` ends it.
    pub(crate) fn on_hello(
        &mut self,
        caller: Caller,
        hello: &Hello,
        effects: &mut Effects,
    ) -> Option<CloseReason> {
        let Identity { cluster, node, shard, links_max, .. } = self.identity;
        let reply = match hello.accept(cluster, node, Role::Shard(shard)) {
            Ok(reply) => reply,
            Err(status) => {
                self.refuse(caller, status, effects);
                return Some(CloseReason::Mismatch);
            }
        };
        if self.links.len() > links_max as usize {
            self.refuse(caller, Status::Busy, effects);
            return Some(CloseReason::TooMany);
        }
        let Some(map) = self.map() else {
            self.refuse(caller, Status::NotServing, effects);
            return None;
        };
        let reply = HelloReply { map: map.number(), put_credit_bytes: PUT_CREDIT_BYTES, ..reply };
        if let Some(state) = self.links.state(caller.link) {
            state.greeted = true;
            state.peer = hello.peer;
        }
        self.replier.send(caller, &Reply::Hello(reply), effects);
        None
    }

    /// Answers with a page of the map.
    pub(crate) fn on_get_map(
        &mut self,
        caller: Caller,
        have: MapNumber,
        page: u32,
        effects: &mut Effects,
    ) -> Option<CloseReason> {
        let Some(edition) = self.edition.clone() else {
            self.refuse(caller, Status::NotServing, effects);
            return None;
        };
        match edition.page(have, page) {
            Some(reply) => self.replier.send(caller, &reply, effects),
            None => self.refuse(caller, Status::BadRequest, effects),
        }
        None
    }

    /// Deletes what the group's log has reclaimed (R24): at every member that acks, joiners too. What is on its way here to be stored under these ids isn't (R23).
    pub(crate) fn on_delete(
        &mut self,
        now: Nanos,
        caller: Caller,
        map: MapNumber,
        ids: ChunkIds<'_>,
        memory: &mut impl Memory,
        effects: &mut Effects,
    ) -> Option<CloseReason> {
        let known = self.map().map_or(MapNumber(0), ClusterMap::number);
        if map > known {
            self.refuse(caller, Status::NotServing, effects);
            return None;
        }
        // Orphans may lie where their chain no longer has a member.
        if map != MapNumber(0) && !ids.iter().all(|id| self.acks(id)) {
            self.refuse(caller, Status::WrongShard, effects);
            return None;
        }
        let ids: Vec<ChunkId> = ids.iter().collect();
        self.counters.deletes += ids.len() as u64;
        self.mark_dead(now, &ids);
        self.store_delete(now, caller, &ids, memory, effects);
        None
    }

    /// A page of the ids that the store holds.
    pub(crate) fn on_inventory(
        &mut self,
        now: Nanos,
        caller: Caller,
        after: Option<ChunkId>,
        limit: u32,
        memory: &mut impl Memory,
        effects: &mut Effects,
    ) -> Option<CloseReason> {
        let limit = limit.min(u32::try_from(MESSAGE_CHUNKS_MAX).expect("a small constant"));
        self.store_inventory(now, caller, after, limit, memory, effects);
        None
    }

    /// Space, counts and health.
    pub(crate) fn on_status(
        &mut self,
        caller: Caller,
        memory: &impl Memory,
        effects: &mut Effects,
    ) -> Option<CloseReason> {
        let state = self.state(memory);
        self.replier.send(caller, &Reply::ShardStatus(Box::new(state)), effects);
        None
    }

    /// Whether the store takes part in the acks of the chunk's chain.
    fn acks(&self, id: ChunkId) -> bool {
        self.map().is_some_and(|map| map.route(id).ackers().any(|store| store.store == self.identity.store))
    }

    /// Whether the store is a serving member of the chunk's chain.
    pub(crate) fn owns(&self, id: ChunkId) -> bool {
        self.map().is_some_and(|map| map.route(id).readers().any(|store| store.store == self.identity.store))
    }

    /// Gauges and counters of shard, store and arena.
    pub fn state(&self, memory: &impl Memory) -> wire::message::ShardState {
        let metrics = self.store.metrics();
        let mut state = wire::message::ShardState {
            store: self.identity.store,
            incarnation: self.store.opened().map_or(Incarnation(0), |opened| opened.incarnation),
            condition: self.condition,
            ..store_state(&metrics)
        };
        if self.draining && state.condition == StoreCondition::Serving {
            state.condition = StoreCondition::Draining;
        }
        state.queue_depth = (self.puts.len() + self.gets.len()) as u64;
        state.connection_count = self.links.len() as u64;
        state.put_total = self.counters.puts;
        state.put_bytes_total = self.counters.put_bytes;
        state.get_total = self.counters.gets;
        state.get_bytes_total = self.counters.get_bytes;
        state.delete_total = self.counters.deletes;
        state.busy_total = self.counters.busy;
        state.refused_total = self.counters.refused;
        state.arena_bytes = memory.total_bytes() as u64;
        state.arena_used_bytes = memory.total_bytes().saturating_sub(memory.free_bytes()) as u64;
        state.checksum_mismatch_total += self.counters.mismatches;
        let progress = self.sync_progress();
        state.sync_slices = progress.slices;
        state.sync_slices_done = progress.slices_done;
        state.sync_bytes_left = progress.bytes_left;
        state.sync_bytes_total = progress.bytes;
        state.sync_served_bytes_total = progress.bytes_served;
        state.repair_waiting = progress.chunks_waiting;
        state.repaired_total = metrics.chunks_repaired;
        state.differing_total = progress.differing;
        state.extra_live_total = progress.extras_live;
        state
    }
}

/// The store's part of a shard's numbers.
fn store_state(metrics: &store::Metrics) -> wire::message::ShardState {
    wire::message::ShardState {
        capacity_bytes: metrics.capacity_bytes,
        used_bytes: metrics.live_bytes,
        free_bytes: metrics.available_bytes,
        reserve_bytes: metrics.reserve_bytes,
        reclaimable_bytes: metrics.segments_drained * SEGMENT_BYTES,
        chunk_count: metrics.chunks,
        damaged_count: metrics.chunks_damaged,
        segment_count: metrics.segments_allocated,
        segment_free_count: metrics.segments_empty,
        segment_zeroed_count: metrics.segments_ready,
        segment_unzeroed_total: metrics.disk.unwritten_segments_opened,
        batch_total: metrics.disk.batches,
        flush_total: metrics.disk.flushes,
        disk_write_bytes_total: metrics.disk.write_bytes,
        disk_read_bytes_total: metrics.disk.read_bytes,
        cleaned_bytes_total: metrics.moved_bytes,
        scrubbed_bytes_total: metrics.scrubbed_bytes,
        checksum_mismatch_total: metrics.checksum_mismatches,
        conflicting_put_total: metrics.puts_conflicting,
        batches_since_checkpoint: metrics.batches_since_checkpoint,
        checkpoint_total: metrics.disk.checkpoints,
        index_bytes: metrics.index_bytes,
        ..wire::message::ShardState::default()
    }
}

const SEGMENT_BYTES: u64 = journal::SEGMENT_BYTES as u64;
