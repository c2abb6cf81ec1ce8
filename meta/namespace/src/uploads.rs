//! What open sessions have done with their chunk ids: which they used (each at most once, R23), and which extents wait for a commit (R37).
//! Both end with the session.

use std::ops::Bound;
use std::sync::Arc;

use wire::limits::FILE_EXTENTS_MAX;
use wire::meta::{Extents, Run};
use wire::{SessionId, Status};

use crate::apply::ApplyError;
use crate::extents::{Summary, chunk_ranges};
use crate::tree::Tree;

/// Ranges of used ids that aren't joined, of all sessions (128 MiB): beyond it `NoSpace`. A client that mints ids in order and commits what it minted
/// needs a handful.
pub const USED_RANGES_MAX: usize = 1 << 22;
/// Parts of one upload: 128 full messages make the largest file.
pub const UPLOAD_PARTS_MAX: u32 = 4096;
/// Roots that all sessions together have staged (512 MiB with their runs at worst): beyond it `NoSpace`.
pub const STAGED_ROOTS_MAX: u64 = 1 << 23;
/// Roots that one session has staged, those of uploads that it gave up included: a quarter, so that no client keeps the others from staging.
/// Two of the largest files.
pub const SESSION_STAGED_ROOTS_MAX: u64 = STAGED_ROOTS_MAX / 4;

/// The table of uploads.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Uploads {
    /// `(session, first ordinal)` → the ordinal after the last: used ids, neighbours joined.
    pub(crate) used: Tree<(SessionId, u64), u64>,
    /// `(session, upload, part)` → extents in order.
    pub(crate) staged: Tree<(SessionId, u64, u32), Arc<Extents>>,
    /// Roots of `staged`, and those of each session that has any.
    pub(crate) staged_roots: u64,
    pub(crate) staged_of: Tree<SessionId, u64>,
}

impl Uploads {
    /// Whether all ids of `extents` are unused, and different from each other (R23).
    pub(crate) fn check_unused(&self, session: SessionId, extents: &Extents) -> Result<(), Status> {
        let mut ranges: Vec<(u64, u64)> =
            chunk_ranges(extents).map(|range| (range.first.ordinal, range.end())).collect();
        ranges.sort_unstable();
        if ranges.windows(2).any(|pair| pair[1].0 < pair[0].1) {
            return Err(Status::BadRequest);
        }
        let used = |&(start, end): &(u64, u64)| {
            let before = self.used.floor(&(session, end - 1));
            before.is_some_and(|(key, used_end)| key.0 == session && *used_end > start)
        };
        if ranges.iter().any(used) {
            return Err(Status::BadRequest);
        }
        if self.used.len() + ranges.len() > USED_RANGES_MAX {
            return Err(Status::NoSpace);
        }
        Ok(())
    }

    /// Marks the ids used.
    pub(crate) fn mark_used(&mut self, session: SessionId, extents: &Extents) -> Result<(), ApplyError> {
        for range in chunk_ranges(extents) {
            let (mut start, mut end) = (range.first.ordinal, range.end());
            if let Some((key, before_end)) = self.used.floor(&(session, end - 1))
                && key.0 == session
                && *before_end > start
            {
                return Err(ApplyError::IdsUsed(session));
            }
            if let Some((key, before_end)) = self.used.floor(&(session, start))
                && key.0 == session
                && *before_end == start
            {
                start = key.1;
            }
            if let Some(after_end) = self.used.remove(&(session, end)) {
                end = after_end;
            }
            self.used.insert((session, start), end);
        }
        Ok(())
    }

    /// What is staged under `upload`: its summary, and the number of its parts.
    pub(crate) fn staged(&self, session: SessionId, upload: u64) -> (Summary, u32) {
        let mut summary = Summary::default();
        let mut parts = 0;
        for (_, extents) in self.parts(session, upload) {
            parts += 1;
            for run in &extents.runs {
                if summary.chunks == 0 {
                    summary.start = run.file_offset;
                }
                summary.chunks += u64::from(run.count);
                summary.stored += run.length;
                summary.end = run.file_offset + run.length;
                summary.runs += 1;
                let longest = if run.count == 1 { run.last_chunk_bytes } else { run.chunk_bytes };
                summary.chunk_bytes_max = summary.chunk_bytes_max.max(longest);
            }
        }
        (summary, parts)
    }

    /// An upload's parts in order.
    pub(crate) fn parts(
        &self,
        session: SessionId,
        upload: u64,
    ) -> impl Iterator<Item = (&(SessionId, u64, u32), &Arc<Extents>)> {
        self.staged
            .range(Bound::Included(&(session, upload, 0)))
            .take_while(move |(key, _)| (key.0, key.1) == (session, upload))
    }

    /// Whether `next` may be staged behind what is there.
    pub(crate) fn check_stage(
        &self,
        session: SessionId,
        upload: u64,
        next: &Summary,
    ) -> Result<Summary, Status> {
        let (before, parts) = self.staged(session, upload);
        if upload == 0 || next.chunks == 0 || next.start < before.end {
            return Err(Status::BadRequest);
        }
        if before.chunks + next.chunks > FILE_EXTENTS_MAX || parts >= UPLOAD_PARTS_MAX {
            return Err(Status::TooLarge);
        }
        let own = self.staged_of.get(&session).copied().unwrap_or(0);
        if self.staged_roots + next.chunks > STAGED_ROOTS_MAX || own + next.chunks > SESSION_STAGED_ROOTS_MAX
        {
            return Err(Status::NoSpace);
        }
        Ok(before.then(next))
    }

    /// Keeps extents behind those of the upload that are there.
    pub(crate) fn stage(
        &mut self,
        session: SessionId,
        upload: u64,
        extents: Extents,
    ) -> Result<(), ApplyError> {
        self.mark_used(session, &extents)?;
        let (_, parts) = self.staged(session, upload);
        self.count_staged(session, &extents);
        self.staged.insert((session, upload, parts), Arc::new(extents));
        Ok(())
    }

    /// Counts staged extents in.
    pub(crate) fn count_staged(&mut self, session: SessionId, extents: &Extents) {
        let roots = u64::try_from(extents.roots.len()).expect("64 bits");
        self.staged_roots += roots;
        let own = self.staged_of.get(&session).copied().unwrap_or(0);
        self.staged_of.insert(session, own + roots);
    }

    /// Counts extents out that aren't staged any more.
    fn count_unstaged(&mut self, session: SessionId, extents: &Extents) {
        let roots = u64::try_from(extents.roots.len()).expect("64 bits");
        self.staged_roots -= roots;
        let own = self.staged_of.get(&session).copied().unwrap_or(0);
        if own > roots {
            self.staged_of.insert(session, own - roots);
        } else {
            self.staged_of.remove(&session);
        }
    }

    /// Takes an upload's extents out.
    pub(crate) fn take(&mut self, session: SessionId, upload: u64) -> Option<Extents> {
        let keys: Vec<_> = self.parts(session, upload).map(|(key, _)| *key).collect();
        let mut whole: Option<Extents> = None;
        for key in keys {
            let part = self.staged.remove(&key)?;
            self.count_unstaged(session, &part);
            let whole = whole.get_or_insert_default();
            whole.runs.extend_from_slice(&part.runs);
            whole.roots.extend_from_slice(&part.roots);
        }
        whole
    }

    /// Forgets a session.
    pub(crate) fn end_session(&mut self, session: SessionId) {
        while let Some((key, _)) = self.used.range(Bound::Included(&(session, 0))).next() {
            if key.0 != session {
                break;
            }
            let key = *key;
            self.used.remove(&key);
        }
        while let Some((key, _)) = self.staged.range(Bound::Included(&(session, 0, 0))).next() {
            if key.0 != session {
                break;
            }
            let key = *key;
            let part = self.staged.remove(&key).expect("it was just found");
            self.count_unstaged(session, &part);
        }
    }

    /// Bytes of memory, within a few per cent.
    pub(crate) fn memory_bytes(&self) -> u64 {
        let tables = self.used.memory_bytes() + self.staged.memory_bytes() * 2;
        let root = u64::try_from(size_of::<Run>() / 8 + 8).expect("small");
        u64::try_from(tables).expect("64 bits") + self.staged_roots * root
    }
}

#[cfg(test)]
mod tests {
    use wire::ChunkId;

    use super::*;

    fn extents(ranges: &[(u64, u32)]) -> Extents {
        let mut file_offset = 0;
        let mut whole = Extents::default();
        for &(ordinal, count) in ranges {
            let length = u64::from(count) * 10;
            let first = ChunkId { session: SessionId(1), ordinal };
            whole.runs.push(Run {
                file_offset,
                length,
                first,
                count,
                chunk_bytes: 10,
                last_chunk_bytes: 10,
                skip: 0,
            });
            whole.roots.extend((0..u64::from(count)).map(|i| ordinal + i));
            file_offset += length;
        }
        whole
    }

    /// R23: each id in one commit only; neighbours join, so the table stays small.
    #[test]
    fn an_id_is_used_once() {
        let mut uploads = Uploads::default();
        let session = SessionId(1);
        let mut check = |ranges: &[(u64, u32)], fits: bool, rows: usize| {
            let extents = extents(ranges);
            assert_eq!(uploads.check_unused(session, &extents).is_ok(), fits, "{ranges:?}");
            if fits {
                uploads.mark_used(session, &extents).unwrap();
            }
            assert_eq!(uploads.used.len(), rows, "{ranges:?}");
        };
        check(&[(10, 5)], true, 1);
        check(&[(14, 1)], false, 1);
        check(&[(8, 3)], false, 1);
        check(&[(0, 100)], false, 1);
        check(&[(15, 5), (0, 2)], true, 2);
        check(&[(2, 4), (4, 4)], false, 2);
        check(&[(2, 8)], true, 1);
        check(&[(20, 1), (20, 1)], false, 1);
        let other = extents(&[(0, 1)]);
        assert_eq!(uploads.check_unused(SessionId(2), &other), Ok(()));
        uploads.end_session(session);
        assert!(uploads.used.is_empty());
    }

    #[test]
    fn staged_parts_come_back_in_order() {
        let mut uploads = Uploads::default();
        let session = SessionId(1);
        let part = |range| {
            let mut part = extents(&[range]);
            part.runs[0].file_offset = range.0 * 10;
            part
        };
        for range in [(0, 3), (3, 2), (9, 1)] {
            uploads.stage(session, 7, part(range)).unwrap();
        }
        uploads.stage(session, 8, part((20, 1))).unwrap();
        assert_eq!(uploads.staged(session, 7).0.chunks, 6);
        let summary = Summary { chunks: 1, stored: 10, start: 50, end: 60, ..Summary::default() };
        assert_eq!(uploads.check_stage(session, 7, &summary), Err(Status::BadRequest));
        let whole = uploads.take(session, 7).unwrap();
        assert_eq!(whole.roots, [0, 1, 2, 3, 4, 9]);
        assert_eq!(uploads.staged_roots, 1);
        assert_eq!(uploads.take(session, 7), None);
        uploads.end_session(session);
        assert_eq!((uploads.staged_roots, uploads.staged.len(), uploads.staged_of.len()), (0, 0, 0));
    }

    /// A client that staged and gave up, again and again, left no room for anybody else's stage.
    #[test]
    fn a_session_stages_no_more_than_its_part() {
        let mut uploads = Uploads::default();
        let part = |session, upload: u64| {
            let mut part = extents(&[(upload * 8192, 8192)]);
            part.runs[0].first.session = session;
            part
        };
        let next = Summary { chunks: 8192, stored: 1, start: 0, end: 1, ..Summary::default() };
        let (greedy, other) = (SessionId(1), SessionId(2));
        for upload in 1..=SESSION_STAGED_ROOTS_MAX / 8192 {
            uploads.check_stage(greedy, upload, &next).unwrap();
            uploads.stage(greedy, upload, part(greedy, upload)).unwrap();
        }
        assert_eq!(uploads.check_stage(greedy, 9999, &next), Err(Status::NoSpace));
        assert!(uploads.check_stage(other, 1, &next).is_ok());
        uploads.take(greedy, 1).unwrap();
        assert!(uploads.check_stage(greedy, 9999, &next).is_ok());
    }
}
