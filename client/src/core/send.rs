//! Frames go out: one for most requests, fragments on credit for a chunk (R38, R39).

use wire::limits::{BLOCK_BYTES, FRAGMENT_UNIT_BYTES, PAYLOAD_BYTES_MAX};
use wire::message::{
    GetChunk, Hello, HopClass, Leaves, PayloadMeta, PutChunk, Request as Frame, RequestHead,
};
use wire::{Nanos, PROTOCOL_VERSION};

use super::effect::{GetCall, LinkNumber, SlotPart};
use super::request::{Get, RequestId, State, Trouble, What};
use super::route::CANDIDATE_PATIENCE;
use super::upkeep::Timer;
use super::{Context, Core};

impl Core {
    pub(super) fn next_correlation(&mut self) -> u64 {
        self.last_correlation += 1;
        self.last_correlation
    }

    /// Sends `Hello`, the first frame of every connection.
    pub(super) fn send_hello(&mut self, cx: &mut Context<'_>, link: LinkNumber) -> u64 {
        let correlation = self.next_correlation();
        let hello = Frame::Hello(Hello {
            version_min: PROTOCOL_VERSION,
            version_max: PROTOCOL_VERSION,
            features: wire::message::FEATURES,
            name: self.settings.name.clone(),
            cluster: self.map().map(|map| map.cluster()),
            peer: None,
        });
        self.push_frame(cx, link, RequestHead { correlation, deadline_ms: 0 }, &hello, None);
        correlation
    }

    /// Sends the request on a ready link.
    pub(super) fn transmit(&mut self, cx: &mut Context<'_>, id: RequestId, link: LinkNumber) {
        let correlation = self.next_correlation();
        let request = self.requests.get(id).expect("the caller has it");
        if matches!(request.what, What::Put(_)) {
            self.begin_put(cx, id, link, correlation);
            return;
        }
        if let What::Get(get) = &mut request.what
            && !prepare_get(get, cx)
        {
            // The arena is full of chunks that callers haven't taken yet.
            self.back_off_until(cx, id, cx.now.after(MEMORY_PAUSE));
            return;
        }
        let request = self.requests.get(id).expect("the caller has it");
        request.copies.sent += 1;
        request.state = State::AwaitReply(link, correlation);
        if let What::Get(get) = &mut request.what {
            get.sent_at = cx.now;
        }
        let deadline = request.deadline;
        let head = RequestHead { correlation, deadline_ms: remaining_ms(cx.now, deadline) };
        let frame = self.take_frame(id);
        self.push_frame(cx, link, head, &frame, None);
        self.return_frame(id, frame);
        let entry = self.links.get(link).expect("the caller has it");
        if entry.in_flight.is_empty() {
            entry.asked_at = cx.now;
        }
        entry.in_flight.insert(correlation, id);
        self.watch(cx.now);
        let is_map_page = matches!(self.requests.get(id).map(|request| &request.what), Some(What::MapPage));
        let attempt = if is_map_page { CANDIDATE_PATIENCE } else { ATTEMPT };
        self.timers.set(Timer::Request(id), deadline.min(cx.now.after(attempt)));
    }

    /// The request as a message. Large parts are moved into it, and moved back by `return_frame`.
    fn take_frame(&mut self, id: RequestId) -> Frame<'static> {
        let have = self.map_have();
        let page = self.map_page_wanted();
        let request = self.requests.get(id).expect("the caller has it");
        match &mut request.what {
            What::MapPage => Frame::GetMap { have, page },
            What::Query { query, .. } => {
                Frame::Query(query.take().expect("a query is at home between sends"))
            }
            What::Mutate(mutate) => {
                let mut mutation = mutate.mutation.take().expect("a mutation is at home between sends");
                mutation.session = mutate.session;
                mutation.sequence = mutate.sequence;
                if let Some(session) = self.sessions.get(mutate.session) {
                    mutation.acked_upto = session.acked_upto();
                }
                Frame::Mutate(mutation)
            }
            What::Get(get) => {
                let GetCall { id, ref range, length, .. } = get.call;
                let blocks = blocks_of(range.start, range.end);
                let is_whole = blocks == blocks_of(0, length);
                let block_count = if is_whole { 0 } else { blocks.1 };
                Frame::GetChunk(GetChunk { id, first_block: blocks.0, block_count })
            }
            What::ShardState { .. } => Frame::ShardStatus,
            What::OpenSession { .. } => Frame::OpenSession { name: self.settings.name.clone() },
            What::KeepAlive { session } => {
                let session = *session;
                Frame::KeepAlive { session, pins: self.pins(session.group()) }
            }
            What::CloseSession { session } => Frame::CloseSession { session: *session },
            What::Map | What::OpenUpload { .. } | What::Put(_) => {
                unreachable!("answered without a frame, or sent by begin_put")
            }
        }
    }

    fn return_frame(&mut self, id: RequestId, frame: Frame<'static>) {
        let request = self.requests.get(id).expect("the caller has it");
        match (&mut request.what, frame) {
            (What::Query { query, .. }, Frame::Query(sent)) => *query = Some(sent),
            (What::Mutate(mutate), Frame::Mutate(sent)) => mutate.mutation = Some(sent),
            _ => {}
        }
    }

    fn begin_put(&mut self, cx: &mut Context<'_>, id: RequestId, link: LinkNumber, correlation: u64) {
        let request = self.requests.get(id).expect("the caller has it");
        let What::Put(put) = &mut request.what else { unreachable!("only for puts") };
        put.sent = 0;
        request.copies.sent += 1;
        request.state = State::Sending(link, correlation);
        let entry = self.links.get(link).expect("the caller has it");
        if entry.in_flight.is_empty() {
            entry.asked_at = cx.now;
        }
        entry.in_flight.insert(correlation, id);
        entry.sending.push_back(id);
        self.watch(cx.now);
        self.pump(cx, link);
    }

    /// Sends fragments of the puts that wait on a link, in order, as far as credit reaches (R38).
    pub(super) fn pump(&mut self, cx: &mut Context<'_>, link: LinkNumber) {
        loop {
            let Some(entry) = self.links.get(link) else { return };
            let Some(&id) = entry.sending.front() else { return };
            let credit = entry.credit;
            let request = self.requests.get(id).expect("a put that is finished leaves the queue");
            let State::Sending(_, correlation) = request.state else { unreachable!("it is in the queue") };
            let deadline = request.deadline;
            let What::Put(put) = &mut request.what else { unreachable!("only puts are in the queue") };
            let Some(bytes) = fragment_bytes(put.length - put.sent, credit) else { return };
            let offset = put.sent;
            put.sent += bytes;
            let is_last = put.sent == put.length;
            let part = SlotPart { slot: put.slot, offset, length: bytes };
            if is_last {
                request.state = State::AwaitReply(link, correlation);
                let entry = self.links.get(link).expect("just found");
                entry.sending.pop_front();
            }
            self.links.get(link).expect("just found").credit -= u64::from(bytes);
            self.timers.set(Timer::Request(id), deadline.min(cx.now.after(ATTEMPT)));
            self.push_fragment(cx, id, link, correlation, part);
        }
    }

    fn push_fragment(
        &mut self,
        cx: &mut Context<'_>,
        id: RequestId,
        link: LinkNumber,
        correlation: u64,
        part: SlotPart,
    ) {
        let map = self.map().expect("a put waits for the map");
        let request = self.requests.get(id).expect("the caller has it");
        let head = RequestHead { correlation, deadline_ms: remaining_ms(cx.now, request.deadline) };
        let What::Put(put) = &mut request.what else { unreachable!("only for puts") };
        let frame = if part.offset == 0 {
            Frame::PutChunk(PutChunk {
                id: put.id,
                length: put.length,
                root: put.root,
                map: map.number(),
                epoch: map.route(put.id).epoch,
                class: HopClass::Client,
                leaves: Leaves::new(&put.leaves),
            })
        } else {
            Frame::PutFragment { class: HopClass::Client, offset: part.offset }
        };
        // The leaves verify a fragment; its payload has no checksum of its own (R36).
        let payload = PayloadMeta { bytes: part.length, checksum: 0 };
        let encoder = &mut self.encoder;
        cx.effects.push_frame(link, Some(part), |out| encoder.request(out, head, &frame, payload));
    }

    /// Tells the server that no more of a put will come (R39).
    pub(super) fn send_abort(&mut self, cx: &mut Context<'_>, link: LinkNumber, correlation: u64) {
        self.push_frame(cx, link, RequestHead { correlation, deadline_ms: 0 }, &Frame::Abort, None);
    }

    fn push_frame(
        &mut self,
        cx: &mut Context<'_>,
        link: LinkNumber,
        head: RequestHead,
        frame: &Frame<'_>,
        payload: Option<SlotPart>,
    ) {
        let encoder = &mut self.encoder;
        cx.effects.push_frame(link, payload, |out| encoder.request(out, head, frame, PayloadMeta::default()));
    }

    pub(super) fn note_trouble(&mut self, id: RequestId, trouble: Trouble) {
        let Some(request) = self.requests.get(id) else { return };
        match request.what {
            What::MapPage => self.note_map_trouble(&trouble),
            What::OpenSession { .. } => {
                for waiting in self.requests.in_state(State::AwaitSession) {
                    self.requests.get(waiting).expect("listed").trouble = trouble.clone();
                }
            }
            _ => {}
        }
        if let Some(request) = self.requests.get(id) {
            request.trouble = trouble;
        }
    }
}

/// Bytes of the next fragment: at most 256 KiB, a multiple of 64 KiB unless it is the last (R39), within the credit; `None` while there is
/// too little of it.
fn fragment_bytes(remaining: u32, credit: u64) -> Option<u32> {
    let whole = remaining.min(to_u32(PAYLOAD_BYTES_MAX));
    let bytes = if u64::from(whole) <= credit {
        whole
    } else {
        let credit = u32::try_from(credit).expect("below a fragment");
        credit / to_u32(FRAGMENT_UNIT_BYTES) * to_u32(FRAGMENT_UNIT_BYTES)
    };
    (bytes > 0).then_some(bytes)
}

/// First block of the bytes `start..end` of a chunk, and how many blocks.
pub(super) fn blocks_of(start: u32, end: u32) -> (u32, u32) {
    let block = to_u32(BLOCK_BYTES);
    (start / block, end.div_ceil(block) - start / block)
}

/// Makes a get ready for an answer: a fresh slot, nothing received. False when there is no memory now.
fn prepare_get(get: &mut Get, cx: &mut Context<'_>) -> bool {
    // Bytes of an earlier answer may still be on their way into the slot of that time.
    if let Some(slot) = get.slot.take() {
        cx.memory.release(slot);
    }
    (get.received, get.arriving, get.more) = (0, 0, false);
    get.proof.clear();
    get.slot = cx.memory.allocate(span_bytes(&get.call) as usize);
    get.slot.is_some()
}

/// Bytes of the blocks that hold the call's range.
pub(super) fn span_bytes(call: &GetCall) -> u32 {
    let (first, count) = blocks_of(call.range.start, call.range.end);
    ((first + count) * to_u32(BLOCK_BYTES)).min(call.length) - first * to_u32(BLOCK_BYTES)
}

fn remaining_ms(now: Nanos, deadline: Nanos) -> u32 {
    if deadline == Nanos(u64::MAX) {
        return 0;
    }
    u32::try_from(deadline.since(now).div_ceil(Nanos::MILLISECOND)).unwrap_or(u32::MAX).max(1)
}

fn to_u32(limit: usize) -> u32 {
    u32::try_from(limit).expect("limits of the protocol fit")
}

/// A request that is unanswered for so long, and a chunk that gets no credit for so long, is tried again on another connection: the present one
/// is taken for dead.
pub(super) const ATTEMPT: u64 = 10 * Nanos::SECOND;
/// The arena is full: look again after this.
const MEMORY_PAUSE: u64 = 5 * Nanos::MILLISECOND;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fragments_follow_size_and_credit() {
        const K: u32 = 1024;
        let cases = [
            (1, 1 << 20, Some(1)),
            (256 * K, 1 << 20, Some(256 * K)),
            (1024 * K, 1 << 20, Some(256 * K)),
            (1024 * K, u64::from(100 * K), Some(64 * K)),
            (1024 * K, u64::from(64 * K - 1), None),
            (10 * K, u64::from(10 * K), Some(10 * K)),
            (10 * K, u64::from(10 * K - 1), None),
            (10 * K, 0, None),
        ];
        for (remaining, credit, expected) in cases {
            assert_eq!(fragment_bytes(remaining, credit), expected, "{remaining} at credit {credit}");
        }
    }

    #[test]
    fn blocks() {
        assert_eq!(blocks_of(0, 1), (0, 1));
        assert_eq!(blocks_of(4095, 4097), (0, 2));
        assert_eq!(blocks_of(4096, 8192), (1, 1));
        assert_eq!(blocks_of(5000, 5001), (1, 1));
    }
}
