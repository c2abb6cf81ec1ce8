//! What happens to the past: the horizon drops old rows (R16), but no sooner than a reader is through with what he began, for he asks for a large
//! file's extents page by page; chunks that nothing references wait out the reclaim delay (R25), counted from when the last reference ended; reclaimed ones
//! wait for the stores' acknowledgement (R24), removed volumes are drained. Each step is bounded by its entry's limit, so that
//! neither a huge file nor a huge volume stops the group.

use std::ops::Bound;

use wire::{ChunkId, CommitIndex, Timestamp, VolumeId};

use crate::apply::{ApplyError, Moment};
use crate::change::Change;
use crate::extents::ChunkRange;
use crate::inode::Content;
use crate::namespace::{Deleting, Namespace, later};
use crate::references::References;
use crate::volume::{Expired, Sign, Volume};

/// Rows that one `Horizon` or `Drain` entry drops, at most: about a millisecond of work.
pub const STEP_ROWS_MAX: u32 = 1024;
/// Chunks that one `Reclaim` entry takes, at most.
pub const RECLAIM_CHUNKS_MAX: u32 = 4096;

/// What upkeep has to respect, as the head knows it.
#[derive(Clone, Copy, Debug)]
pub struct UpkeepRules {
    /// The present.
    pub now: Timestamp,
    /// Nanoseconds between a chunk's last reference and its reclaim (R25).
    pub reclaim_delay: u64,
    /// Retention is given up because memory runs out (R17); never the reclaim delay.
    pub memory_short: bool,
    /// Ended rows go as soon as retention allows, though readers may still want them, because the log runs out of space (R17).
    pub log_short: bool,
    /// Nothing may be reclaimed and no horizon moved: the head is too young to know the pins (R25).
    pub hold_everything: bool,
}

/// Changes that a volume's past is due for, each to be logged as an entry of its own. `held_since` says since when a pin holds what ended in the volume.
pub fn plan_upkeep(
    namespace: &Namespace,
    rules: &UpkeepRules,
    mut held_since: impl FnMut(VolumeId) -> Option<Timestamp>,
    plan: &mut Vec<Change>,
) {
    for (&id, volume) in &namespace.volumes {
        let idle = volume.expiring.is_empty() && volume.doomed.is_empty() && !volume.summary.removed;
        if idle || rules.hold_everything {
            continue;
        }
        let held = held_since(id);
        let is_free = |at: Timestamp| held.is_none_or(|since| at < since);
        plan_horizon(id, volume, rules, is_free, plan);
        if let Some((key, _)) = volume.doomed.first()
            && later(key.0, rules.reclaim_delay) <= rules.now
            && is_free(key.0)
        {
            let due = Timestamp(rules.now.0.saturating_sub_unsigned(rules.reclaim_delay));
            let upto = held.map_or(due, |since| due.min(Timestamp(since.0 - 1)));
            plan.push(Change::Reclaim { volume: id, upto, limit: RECLAIM_CHUNKS_MAX }); // R25
        }
        let content_left = !volume.inodes.is_empty() || !volume.entries.is_empty();
        if volume.summary.removed && held.is_none() && (content_left || !volume.expiring.is_empty()) {
            plan.push(Change::Drain { volume: id, limit: STEP_ROWS_MAX });
        }
    }
}

fn plan_horizon(
    id: VolumeId,
    volume: &Volume,
    rules: &UpkeepRules,
    is_free: impl Fn(Timestamp) -> bool,
    plan: &mut Vec<Change>,
) {
    if volume.summary.removed {
        return; // `Drain` does it
    }
    // R25: a reader needs the rows as long as the chunks. Where memory runs out he loses them (R17), and is told that the file was replaced.
    let retention = match (rules.memory_short, rules.log_short) {
        (true, _) => 0,
        (false, true) => volume.retention(),
        (false, false) => volume.retention().max(rules.reclaim_delay),
    };
    let limit = usize::try_from(STEP_ROWS_MAX).expect("32 bits");
    let due = volume
        .expiring
        .iter()
        .take(limit)
        .take_while(|(_, row)| later(row.at, retention) <= rules.now && is_free(row.at))
        .last();
    if let Some((key, _)) = due {
        plan.push(Change::Horizon { volume: id, upto: key.0, limit: STEP_ROWS_MAX });
    }
}

impl Namespace {
    pub(crate) fn move_horizon(
        &mut self,
        moment: Moment,
        id: VolumeId,
        upto: CommitIndex,
        limit: u32,
    ) -> Result<(), ApplyError> {
        self.with_volume(id, |volume, references| {
            volume.summary.horizon = volume.summary.horizon.max(upto);
            drop_expired(volume, references, moment.time, upto, limit).map(drop)
        })
    }

    pub(crate) fn drain(&mut self, moment: Moment, id: VolumeId, limit: u32) -> Result<(), ApplyError> {
        self.with_volume(id, |volume, references| {
            if !volume.summary.removed {
                return Err(ApplyError::Volume(id));
            }
            let mut left = drop_expired(volume, references, moment.time, CommitIndex(u64::MAX), limit)?;
            while left > 0 {
                let Some((&inode, row)) = volume.inodes.first() else { break };
                let content = row.content.clone();
                let heap = row.heap_bytes();
                left = drop_content(volume, references, moment.time, &content, left)?.left;
                if left > 0 {
                    volume.inodes.remove(&inode);
                    volume.drop_heap(heap);
                    left -= 1;
                }
            }
            while left > 0 {
                let Some((key, _)) = volume.entries.first() else { break };
                let key = key.clone();
                volume.drop_heap(key.1.heap_bytes());
                volume.entries.remove(&key);
                left -= 1;
            }
            Ok(())
        })?;
        self.forget_drained(id);
        Ok(())
    }

    pub(crate) fn reclaim(&mut self, id: VolumeId, upto: Timestamp, limit: u32) -> Result<(), ApplyError> {
        let reclaimed = self.with_volume(id, |volume, references| {
            let mut left = limit;
            let mut reclaimed = Vec::new();
            while left > 0 {
                let Some((&(at, first), &count)) = volume.doomed.first() else { break };
                if at > upto {
                    break;
                }
                volume.doomed.remove(&(at, first));
                let now = count.min(left);
                if now < count {
                    let rest = ChunkId { session: first.session, ordinal: first.ordinal + u64::from(now) };
                    volume.doomed.insert((at, rest), count - now);
                }
                let bytes = doomed_bytes(references, first, now);
                Sign::Minus.apply(&mut volume.summary.usage.reclaimable_bytes, bytes);
                references.forget(first, now)?; // I10: refuses what is referenced
                reclaimed.push((first, now));
                left -= now;
            }
            Ok(reclaimed)
        })?;
        for (first, count) in reclaimed {
            self.deleting_chunks += u64::from(count);
            self.deleting.insert(first, Deleting { count, since: self.moment.index });
        }
        self.forget_drained(id);
        Ok(())
    }

    /// Ids that aren't waited for are ignored: acknowledgements may come twice (R24).
    pub(crate) fn deleted(&mut self, first: ChunkId, count: u32) {
        let end = first.ordinal + u64::from(count);
        let start = self.deleting.floor(&first).map_or(first, |(key, _)| *key);
        let session = first.session;
        let rows: Vec<(ChunkId, Deleting)> = self
            .deleting
            .range(Bound::Included(&start))
            .take_while(|(key, _)| key.session < session || key.session == session && key.ordinal < end)
            .filter(|(key, row)| key.session == session && key.ordinal + u64::from(row.count) > first.ordinal)
            .map(|(key, row)| (*key, *row))
            .collect();
        for (key, row) in rows {
            self.deleting.remove(&key);
            let row_end = key.ordinal + u64::from(row.count);
            let mut kept = 0;
            for (low, high) in [(key.ordinal, first.ordinal), (end, row_end)] {
                if low < high {
                    let count = u32::try_from(high - low).expect("below the row's count");
                    self.deleting.insert(ChunkId { session, ordinal: low }, Deleting { count, ..row });
                    kept += count;
                }
            }
            self.deleting_chunks -= u64::from(row.count - kept);
        }
    }

    fn forget_drained(&mut self, id: VolumeId) {
        if self.volumes.get(&id).is_some_and(Volume::is_drained)
            && let Some(volume) = self.volumes.remove(&id)
        {
            self.volume_memory -= volume.memory_bytes();
        }
    }
}

fn doomed_bytes(references: &References, first: ChunkId, count: u32) -> u64 {
    let Some((start, span)) = references.find(first) else { return 0 };
    let range = ChunkRange {
        first: start,
        count: span.count,
        chunk_bytes: span.chunk_bytes,
        last_chunk_bytes: span.last_chunk_bytes,
    };
    let skip = u32::try_from(first.ordinal - start.ordinal).expect("inside the span");
    range.part(skip, count.min(span.count - skip)).bytes()
}

/// One reference less; chunks whose last one it was wait in the volume's queue from `at` on.
pub(crate) fn release(
    volume: &mut Volume,
    references: &mut References,
    at: Timestamp,
    range: ChunkRange,
) -> Result<(), ApplyError> {
    let mut ended = Vec::new();
    references.release(range, &mut ended)?;
    for range in ended {
        volume.doomed.insert((at, range.first), range.count);
        let usage = &mut volume.summary.usage;
        Sign::Minus.apply(&mut usage.chunks, u64::from(range.count));
        Sign::Plus.apply(&mut usage.reclaimable_bytes, range.bytes());
    }
    Ok(())
}

/// Drops old rows that ended at `upto` or before, in the order in which they ended; returns how much of `limit` is left.
fn drop_expired(
    volume: &mut Volume,
    references: &mut References,
    now: Timestamp,
    upto: CommitIndex,
    limit: u32,
) -> Result<u32, ApplyError> {
    let mut left = limit;
    while left > 0 {
        let Some((&key, row)) = volume.expiring.first() else { break };
        if key.0 > upto {
            break;
        }
        // What the row holds was to be had until its retention ended, or until now if it is cut short.
        let ended = later(row.at, volume.retention()).min(now);
        match row.what.clone() {
            Expired::Entry(directory, name) => {
                volume.drop_heap(2 * name.heap_bytes());
                volume.old_entries.remove(&(directory, name, key.0));
            }
            Expired::Inode(inode) => {
                let old = volume.old_inodes.get(&(inode, key.0));
                if let Some((content, heap)) =
                    old.map(|old| (old.owns.then(|| old.inode.content.clone()), old.inode.heap_bytes()))
                {
                    if let Some(content) = content {
                        let dropped = drop_content(volume, references, ended, &content, left)?;
                        Sign::Minus.apply(&mut volume.ended_bytes, dropped.bytes);
                        left = dropped.left;
                    }
                    if left == 0 {
                        break; // the rest of a large file is the next entry's
                    }
                    volume.drop_heap(heap);
                    volume.old_inodes.remove(&(inode, key.0));
                }
            }
            Expired::Piece(list, offset) => {
                if let Some(piece) = volume.old_pieces.remove(&(list, offset, key.0)) {
                    volume.drop_heap(piece.heap_bytes());
                    Sign::Minus.apply(&mut volume.ended_bytes, piece.length);
                    release(volume, references, ended, piece.chunks())?;
                }
            }
        }
        volume.expiring.remove(&key);
        left -= 1;
    }
    Ok(left)
}

/// What a step has dropped of a content.
struct Dropped {
    /// How much of the limit is left; 0 when the content isn't done.
    left: u32,
    /// Bytes of the file.
    bytes: u64,
}

/// Gives up a content's references, whose last ones ended at `at`, piece by piece.
fn drop_content(
    volume: &mut Volume,
    references: &mut References,
    at: Timestamp,
    content: &Content,
    limit: u32,
) -> Result<Dropped, ApplyError> {
    let mut dropped = Dropped { left: limit, bytes: 0 };
    match content {
        Content::One(one) => {
            release(volume, references, at, one.range())?;
            dropped.bytes = u64::from(one.bytes);
        }
        Content::Many(list) => {
            while let Some((&key, piece)) = volume.pieces.range(Bound::Included(&(list.id, 0))).next() {
                if key.0 != list.id {
                    break;
                }
                if dropped.left == 0 {
                    return Ok(dropped);
                }
                dropped.left -= 1;
                dropped.bytes += piece.length;
                let (range, heap) = (piece.chunks(), piece.heap_bytes());
                volume.pieces.remove(&key);
                volume.drop_heap(heap);
                release(volume, references, at, range)?;
            }
        }
        _ => {}
    }
    Ok(dropped)
}
