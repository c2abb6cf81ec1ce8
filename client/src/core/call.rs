//! Calls come in, and are cancelled.

use std::sync::Arc;

use wire::limits::CHUNK_BYTES_MAX;
use wire::message::DecodeError;
use wire::meta::Mutation;
use wire::{Nanos, Sequence, SessionId, Slot, Version};

use super::effect::{Call, Done, Failure, ReadId, Ticket, UploadId};
use super::request::{Copies, Get, Mutate, Put, Request, RequestId, State, Trouble, What};
use super::session::MintError;
use super::upkeep::{Read, Timer};
use super::{Context, Core, Effect};
use crate::error::UnavailableReason;

impl Core {
    pub(super) fn on_call(&mut self, cx: &mut Context<'_>, ticket: Ticket, call: Call, patience: u64) {
        if self.is_shut {
            if let Call::PutChunk { slot, .. } = call {
                cx.memory.release(slot);
            }
            let address = self.any_endpoint();
            let failure = Failure::Unavailable { address, reason: UnavailableReason::Shutdown };
            cx.effects.push(Effect::Finished { ticket, result: Err(failure) });
            return;
        }
        if let Call::OpenRead { group, pin } = call {
            self.last_read += 1;
            let read = ReadId(self.last_read);
            self.reads.insert(read, Read { group, pin, pinned: false, session: None });
            self.timers.set(Timer::Read(read), cx.now.after(self.pin_delay()));
            cx.effects.push(Effect::Finished { ticket, result: Ok(Done::Read(read)) });
            return;
        }
        let what = match self.accept(cx, call) {
            Ok(what) => what,
            Err(failure) => {
                cx.effects.push(Effect::Finished { ticket, result: Err(failure) });
                return;
            }
        };
        let moves = matches!(what, What::Put(_) | What::Get(_));
        let id = self.begin(cx, Some(ticket), what, cx.now.after(patience));
        if moves {
            let request = self.requests.get(id).expect("just begun");
            request.patience = patience;
            request.limit = cx.now.after(patience.saturating_mul(EXTENSIONS_MAX));
        }
    }

    fn accept(&mut self, cx: &mut Context<'_>, call: Call) -> Result<What, Failure> {
        Ok(match call {
            Call::Map => What::Map,
            Call::Query { group, query } => {
                query.check().map_err(|error| self.refused_here(error))?;
                What::Query { group, query: Some(*query) }
            }
            Call::Mutate { group, upload, operation } => {
                let mutation = Mutation {
                    session: SessionId::default(),
                    sequence: Sequence(1),
                    acked_upto: Sequence::default(),
                    operation: *operation,
                };
                mutation.check().map_err(|error| self.refused_here(error))?;
                What::Mutate(Mutate {
                    group,
                    upload,
                    mutation: Some(mutation),
                    session: SessionId::default(),
                    sequence: Sequence::default(),
                    numbered: false,
                })
            }
            Call::OpenUpload { group } => What::OpenUpload { group },
            Call::PutChunk { upload, slot, length } => return self.accept_put(cx, upload, slot, length),
            Call::GetChunk(call) => What::Get(Get::new(call)),
            Call::OpenRead { .. } => unreachable!("answered at once"),
            Call::ShardState { address } => What::ShardState { address },
        })
    }

    fn accept_put(
        &mut self,
        cx: &mut Context<'_>,
        upload: UploadId,
        slot: Slot,
        length: u32,
    ) -> Result<What, Failure> {
        let is_in_slot = length > 0 && length as usize <= cx.memory.bytes(slot).len();
        assert!(is_in_slot && length <= CHUNK_BYTES_MAX, "a chunk is in its slot");
        let id = self.sessions.mint(upload).map_err(|error| {
            cx.memory.release(slot);
            match error {
                MintError::Expired => Failure::SessionExpired,
                MintError::TooLarge => Failure::TooLarge,
            }
        })?;
        let leaves = Vec::new();
        Ok(What::Put(Put { upload, id, slot, length, root: 0, leaves, sent: 0, damaged: 0 }))
    }

    /// What no server would take is refused here: names, paths and values over their limits, malformed ones.
    fn refused_here(&self, error: DecodeError) -> Failure {
        Failure::Refused {
            status: error.status(),
            depth: 0,
            version: Version::default(),
            address: self.any_endpoint(),
        }
    }

    /// A new request, on its way.
    pub(super) fn begin(
        &mut self,
        cx: &mut Context<'_>,
        ticket: Option<Ticket>,
        what: What,
        deadline: Nanos,
    ) -> RequestId {
        debug_assert!(deadline >= cx.now);
        let id = self.requests.insert(Request {
            ticket,
            what,
            deadline,
            patience: 0,
            limit: deadline,
            state: State::Ready,
            copies: Copies::default(),
            retries: 0,
            trouble: Trouble::None,
            admitted: false,
        });
        self.timers.set(Timer::Request(id), deadline);
        self.work.push_back(id);
        id
    }

    pub(super) fn on_cancel(&mut self, cx: &mut Context<'_>, ticket: Ticket) {
        let Some(id) = self.requests.of_ticket(ticket) else { return };
        self.requests.detach(id);
        let request = self.requests.get(id).expect("just found");
        // A mutation that may be executed is followed to its end, so that its sequence isn't acknowledged before.
        let is_under_way = matches!(request.what, What::Mutate(_)) && request.copies.is_uncertain();
        if !is_under_way {
            self.finish(cx, id, Err(Failure::Unknown));
        }
    }

    pub(super) fn on_close_upload(&mut self, cx: &mut Context<'_>, upload: UploadId) {
        if let Some(session) = self.sessions.close_upload(upload) {
            self.close_if_unused(cx, session);
        }
    }

    pub(super) fn on_close_read(&mut self, cx: &mut Context<'_>, read: ReadId) {
        let session = self.reads.remove(&read).and_then(|read| read.session);
        self.timers.clear(Timer::Read(read));
        if let Some(session) = session {
            self.close_if_unused(cx, session);
        }
    }

    /// Closes the sessions as far as links stand, and fails whatever is under way.
    pub(super) fn on_shutdown(&mut self, cx: &mut Context<'_>) {
        if std::mem::replace(&mut self.is_shut, true) {
            return;
        }
        let address = self.any_endpoint();
        for id in self.requests.all() {
            let failure =
                Failure::Unavailable { address: Arc::clone(&address), reason: UnavailableReason::Shutdown };
            self.fail(cx, id, failure);
        }
        for session in self.sessions.all() {
            self.begin(cx, None, What::CloseSession { session }, cx.now.after(CLOSE_PATIENCE));
        }
        for read in std::mem::take(&mut self.reads).into_keys() {
            self.timers.clear(Timer::Read(read));
        }
    }
}

/// A chunk on a link that moves has so many times its patience: with the default window and deadline, 110 KB/s will do.
const EXTENSIONS_MAX: u64 = 10;

/// How long a session's closing is tried; then it expires by itself.
pub(super) const CLOSE_PATIENCE: u64 = 5 * Nanos::SECOND;
