//! Sessions with metadata groups: prefix of chunk ids and scope of exactly-once (R20, R21).
//!
//! A group has one *present* session, which new mutations and uploads go to. It is rotated after 2²⁰ chunks or an hour, and when an upload ends that has
//! left chunks without a commit, since only the end of their session frees those (R24). The one before stays until its last upload, mutation and pinned
//! read are done, and is closed then. A session that the group calls expired is dropped at once.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use wire::limits::SESSION_RESULTS_MAX;
use wire::{ChunkId, GroupId, Nanos, Sequence, SessionId};

use super::effect::UploadId;
use super::request::RequestId;

/// Chunks of one session (R21).
pub const SESSION_CHUNKS_MAX: u64 = 1 << 20;
/// How long a session takes new uploads (R21).
pub const SESSION_AGE_MAX: u64 = 3600 * Nanos::SECOND;
/// An upload numbers its chunks in a range of its own, so that a file's ids are consecutive however many uploads a session has
/// at once (R37: runs). A file has at most 2²⁰ extents.
const UPLOAD_CHUNK_BITS: u32 = 21;
/// Chunks of one upload.
const UPLOAD_CHUNKS_MAX: u64 = 1 << UPLOAD_CHUNK_BITS;
const _: () = assert!(wire::limits::FILE_EXTENTS_MAX <= UPLOAD_CHUNKS_MAX);
const _: () = assert!(SESSION_RESULTS_MAX == 256);

#[derive(Debug)]
pub(super) struct Session {
    pub(super) group: GroupId,
    pub(super) keepalive: u64,
    opened: Nanos,
    chunks: u64,
    last_sequence: u64,
    acked_upto: u64,
    /// Finished sequences above `acked_upto`.
    finished: BTreeSet<u64>,
    /// Requests without a sequence, because too many results are unacknowledged (R17).
    pub(super) waiting: VecDeque<RequestId>,
    uploads: u64,
    last_upload: u64,
}

#[derive(Debug, Default)]
struct Group {
    present: Option<SessionId>,
    /// A request for a new session is under way.
    opening: bool,
    waiting: Vec<RequestId>,
}

#[derive(Debug)]
struct Upload {
    session: SessionId,
    number: u64,
    chunks: u64,
    /// It has minted chunks since its last commit.
    has_loose_chunks: bool,
}

#[derive(Debug, Default)]
pub(super) struct Sessions {
    open: BTreeMap<SessionId, Session>,
    groups: BTreeMap<GroupId, Group>,
    uploads: BTreeMap<UploadId, Upload>,
    last_upload: u64,
}

/// Why an upload gets no chunk id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MintError {
    Expired,
    TooLarge,
}

impl Session {
    fn is_worn(&self, now: Nanos) -> bool {
        self.chunks >= SESSION_CHUNKS_MAX || now.since(self.opened) >= SESSION_AGE_MAX
    }

    /// The next sequence; `None` while as many results are unacknowledged as may be (R17).
    pub(super) fn next_sequence(&mut self) -> Option<Sequence> {
        if self.last_sequence - self.acked_upto >= SESSION_RESULTS_MAX as u64 {
            return None;
        }
        self.last_sequence += 1;
        Some(Sequence(self.last_sequence))
    }

    /// The caller has all results up to here.
    pub(super) fn acked_upto(&self) -> Sequence {
        Sequence(self.acked_upto)
    }

    /// Nobody waits for this sequence's result any more. Returns whether a sequence became free.
    pub(super) fn finish(&mut self, sequence: Sequence) -> bool {
        assert!(sequence.0 > self.acked_upto && sequence.0 <= self.last_sequence, "a sequence ends once");
        self.finished.insert(sequence.0);
        let before = self.acked_upto;
        while self.finished.remove(&(self.acked_upto + 1)) {
            self.acked_upto += 1;
        }
        self.acked_upto > before
    }

    fn is_used(&self) -> bool {
        self.uploads > 0 || self.last_sequence > self.acked_upto || !self.waiting.is_empty()
    }
}

impl Sessions {
    pub(super) fn get(&mut self, session: SessionId) -> Option<&mut Session> {
        self.open.get_mut(&session)
    }

    /// The session that new work of `group` goes to; `None` where one has to be opened first.
    pub(super) fn present(&self, group: GroupId, now: Nanos) -> Option<SessionId> {
        let session = self.groups.get(&group)?.present?;
        (!self.open[&session].is_worn(now)).then_some(session)
    }

    /// `request` waits for a session. Returns whether one has to be asked for.
    pub(super) fn wait(&mut self, group: GroupId, request: Option<RequestId>) -> bool {
        let group = self.groups.entry(group).or_default();
        group.waiting.extend(request);
        !std::mem::replace(&mut group.opening, true)
    }

    /// Whether anybody still waits for a session of `group`.
    pub(super) fn is_awaited(&self, group: GroupId) -> bool {
        self.groups.get(&group).is_some_and(|group| !group.waiting.is_empty())
    }

    pub(super) fn stop_waiting(&mut self, request: RequestId) {
        for group in self.groups.values_mut() {
            group.waiting.retain(|waiting| *waiting != request);
        }
        for session in self.open.values_mut() {
            session.waiting.retain(|waiting| *waiting != request);
        }
    }

    /// A session was opened. Returns who waited for it.
    pub(super) fn opened(
        &mut self,
        group: GroupId,
        session: SessionId,
        keepalive: u64,
        now: Nanos,
    ) -> Vec<RequestId> {
        let entry = self.groups.entry(group).or_default();
        entry.opening = false;
        entry.present = Some(session);
        let waiting = std::mem::take(&mut entry.waiting);
        let new = Session {
            group,
            keepalive,
            opened: now,
            chunks: 0,
            last_sequence: 0,
            acked_upto: 0,
            finished: BTreeSet::new(),
            waiting: VecDeque::new(),
            uploads: 0,
            last_upload: 0,
        };
        self.open.insert(session, new);
        waiting
    }

    /// Opening failed and nobody tries any more. Returns who waited.
    pub(super) fn not_opened(&mut self, group: GroupId) -> Vec<RequestId> {
        let entry = self.groups.entry(group).or_default();
        entry.opening = false;
        std::mem::take(&mut entry.waiting)
    }

    /// A request for a session is over. Whether another has to be made, because somebody waits again.
    pub(super) fn reopen(&mut self, group: GroupId) -> bool {
        let entry = self.groups.entry(group).or_default();
        entry.opening = !entry.waiting.is_empty();
        entry.opening
    }

    /// The group says that the session is over. Returns who waited in it.
    pub(super) fn expired(&mut self, session: SessionId) -> Vec<RequestId> {
        let Some(gone) = self.open.remove(&session) else { return Vec::new() };
        let group = self.groups.entry(gone.group).or_default();
        if group.present == Some(session) {
            group.present = None;
        }
        gone.waiting.into()
    }

    /// Takes out a session that was rotated away and that nothing uses any more: it is to be closed.
    pub(super) fn take_unused(&mut self, session: SessionId) -> bool {
        let Some(candidate) = self.open.get(&session) else { return false };
        let is_present = self.groups[&candidate.group].present == Some(session);
        let unused = !is_present && !candidate.is_used();
        if unused {
            self.open.remove(&session);
        }
        unused
    }

    pub(super) fn of_group(&self, group: GroupId) -> Vec<SessionId> {
        let matching = self.open.iter().filter(|(_, session)| session.group == group);
        matching.map(|(id, _)| *id).collect()
    }

    pub(super) fn all(&self) -> Vec<SessionId> {
        self.open.keys().copied().collect()
    }

    /// Begins an upload in `session`, which lives. Returns it and its number in the session, from 1.
    pub(super) fn open_upload(&mut self, session: SessionId) -> (UploadId, u64) {
        let in_session = self.open.get_mut(&session).expect("the caller has the session");
        in_session.uploads += 1;
        in_session.last_upload += 1;
        let number = in_session.last_upload;
        self.last_upload += 1;
        let upload = UploadId(self.last_upload);
        self.uploads.insert(upload, Upload { session, number, chunks: 0, has_loose_chunks: false });
        (upload, number)
    }

    /// What an upload has stored is in a file.
    pub(super) fn on_commit(&mut self, upload: UploadId) {
        if let Some(upload) = self.uploads.get_mut(&upload) {
            upload.has_loose_chunks = false;
        }
    }

    /// Ends an upload. Returns its session, which is rotated if chunks may lie there that no commit named.
    pub(super) fn close_upload(&mut self, upload: UploadId) -> Option<SessionId> {
        let Upload { session, has_loose_chunks, .. } = self.uploads.remove(&upload)?;
        let in_session = self.open.get_mut(&session)?;
        in_session.uploads -= 1;
        if has_loose_chunks && let Some(group) = self.groups.get_mut(&in_session.group) {
            group.present = group.present.filter(|present| *present != session);
        }
        Some(session)
    }

    /// The living session of an upload.
    pub(super) fn of_upload(&self, upload: UploadId) -> Option<SessionId> {
        let session = self.uploads.get(&upload)?.session;
        self.open.contains_key(&session).then_some(session)
    }

    /// A new chunk id: never given out before, and never again (I1, R20).
    pub(super) fn mint(&mut self, upload: UploadId) -> Result<ChunkId, MintError> {
        let upload = self.uploads.get_mut(&upload).ok_or(MintError::Expired)?;
        let session = self.open.get_mut(&upload.session).ok_or(MintError::Expired)?;
        if upload.chunks == UPLOAD_CHUNKS_MAX || upload.number >> (64 - UPLOAD_CHUNK_BITS) != 0 {
            return Err(MintError::TooLarge);
        }
        let ordinal = upload.number << UPLOAD_CHUNK_BITS | upload.chunks;
        upload.chunks += 1;
        upload.has_loose_chunks = true;
        session.chunks += 1;
        Ok(ChunkId { session: upload.session, ordinal })
    }

    pub(super) fn upload_count(&self) -> usize {
        self.uploads.len()
    }
}
