//! Frames come in: greetings, answers, credit, chunk bytes.

use wire::checksum::{BlockHasher, leaf_count, verify_range};
use wire::limits::{BLOCK_BYTES, LEAVES_MAX};
use wire::message::{ChunkPart, HelloReply, HopClass, Reply, Request as Frame};
use wire::meta::{Refusal, SessionGrant};
use wire::planted::{Bug, planted};
use wire::{FrameKind, Memory, Nanos, Prefix, Status};

use super::directory::MapPage;
use super::effect::{Done, Failure, LinkNumber, PayloadPlace};
use super::link::LinkState;
use super::request::{Get, RequestId, State, Trouble, What, Worst};
use super::send::{ATTEMPT, blocks_of, span_bytes};
use super::upkeep::Timer;
use super::{Context, Core};
use crate::error::UnavailableReason;

/// In a link's table of requests: the greeting, which is nobody's.
const GREETING: RequestId = RequestId(0);

impl Core {
    pub(super) fn on_link_up(&mut self, cx: &mut Context<'_>, link: LinkNumber) {
        let Some(entry) = self.links.get(link) else { return };
        if entry.state != LinkState::Connecting {
            return;
        }
        entry.state = LinkState::Greeting;
        let correlation = self.send_hello(cx, link);
        self.links.get(link).expect("just found").in_flight.insert(correlation, GREETING);
    }

    pub(super) fn on_head(
        &mut self,
        cx: &mut Context<'_>,
        number: LinkNumber,
        prefix: &Prefix,
        message: &[u8],
    ) -> PayloadPlace {
        let Some(link) = self.links.get(number) else { return discard(prefix) };
        link.last_heard = cx.now;
        if prefix.payload_bytes > 0 || matches!(prefix.kind, FrameKind::PutChunk | FrameKind::Credit) {
            link.last_moved = cx.now;
            self.last_moved = cx.now;
        }
        if !prefix.reply {
            return self.on_server_request(cx, number, prefix, message);
        }
        link.last_used = cx.now;
        let Some(&id) = link.in_flight.get(&prefix.correlation) else {
            // The answer to something that is over: a duplicate, or late.
            return discard(prefix);
        };
        self.links.note_load(number, prefix.load);
        let Ok(reply) = Reply::decode(prefix.kind, prefix.status, message) else {
            return self.violation(cx, number);
        };
        if id == GREETING {
            return self.on_greeting(cx, number, prefix, &reply);
        }
        if let Reply::GetChunk(part) = reply {
            return self.on_chunk_part(cx, number, id, prefix, &part);
        }
        if prefix.payload_bytes != 0 || prefix.more {
            return self.violation(cx, number);
        }
        let link = self.links.get(number).expect("just found");
        link.in_flight.remove(&prefix.correlation);
        self.leave_queue(cx, id, number, prefix.correlation);
        if let Reply::Refused(refusal) = reply {
            self.on_refused(cx, id, prefix.status, refusal);
        } else if !self.on_answer(cx, id, reply) {
            self.retry(cx, id, 0);
            return self.violation(cx, number);
        }
        PayloadPlace::None
    }

    /// A put may be answered before it was sent whole: the rest stays here, and the server is told.
    fn leave_queue(&mut self, cx: &mut Context<'_>, id: RequestId, link: LinkNumber, correlation: u64) {
        let request = self.requests.get(id).expect("it is in the link's table");
        if matches!(request.state, State::Sending(..)) {
            let What::Put(put) = &mut request.what else { unreachable!("only puts are sent in parts") };
            let has_begun = put.sent > 0;
            self.links.get(link).expect("the caller has it").sending.retain(|queued| *queued != id);
            request.state = State::AwaitReply(link, correlation);
            if has_begun {
                self.send_abort(cx, link, correlation);
            }
            self.pump(cx, link);
        }
    }

    /// The server may say by itself how much credit there is, and nothing else.
    fn on_server_request(
        &mut self,
        cx: &mut Context<'_>,
        number: LinkNumber,
        prefix: &Prefix,
        message: &[u8],
    ) -> PayloadPlace {
        let link = self.links.get(number).expect("the caller has it");
        match Frame::decode(prefix.kind, message) {
            Ok(Frame::Credit { class: HopClass::Client, bytes })
                if prefix.payload_bytes == 0 && link.state == LinkState::Ready =>
            {
                link.credit += u64::from(bytes);
                self.pump(cx, number);
                PayloadPlace::None
            }
            _ => self.violation(cx, number),
        }
    }

    fn violation(&mut self, cx: &mut Context<'_>, link: LinkNumber) -> PayloadPlace {
        self.break_link(cx, link, UnavailableReason::Protocol);
        PayloadPlace::Close
    }

    fn on_greeting(
        &mut self,
        cx: &mut Context<'_>,
        number: LinkNumber,
        prefix: &Prefix,
        reply: &Reply<'_>,
    ) -> PayloadPlace {
        if prefix.payload_bytes != 0 {
            return self.violation(cx, number);
        }
        match reply {
            Reply::Hello(hello) => self.on_hello(cx, number, prefix.correlation, hello),
            Reply::Refused(refusal) => {
                let reason = match prefix.status {
                    Status::WrongCluster => UnavailableReason::WrongCluster,
                    Status::UnsupportedVersion => UnavailableReason::Version,
                    Status::Busy => UnavailableReason::Connections,
                    Status::NotServing => UnavailableReason::NotServing,
                    _ => UnavailableReason::Protocol,
                };
                let pause = u64::from(refusal.retry_after_ms) * Nanos::MILLISECOND;
                let address = self.links.get(number).map(|link| std::sync::Arc::clone(&link.address));
                self.break_link(cx, number, reason);
                if let Some(address) = address
                    && prefix.status == Status::Busy
                {
                    self.links.pause(&address, cx.now.after(pause));
                }
                PayloadPlace::Close
            }
            _ => self.violation(cx, number),
        }
    }

    fn on_hello(
        &mut self,
        cx: &mut Context<'_>,
        number: LinkNumber,
        correlation: u64,
        hello: &HelloReply,
    ) -> PayloadPlace {
        let is_ours = self.map().is_none_or(|map| map.cluster() == hello.cluster);
        if !is_ours || hello.version != wire::PROTOCOL_VERSION {
            let reason = if is_ours { UnavailableReason::Version } else { UnavailableReason::WrongCluster };
            self.break_link(cx, number, reason);
            return PayloadPlace::Close;
        }
        self.links.mark_ready(number, u64::from(hello.put_credit_bytes));
        let link = self.links.get(number).expect("the caller has it");
        link.in_flight.remove(&correlation);
        for id in std::mem::take(&mut link.waiting) {
            self.wake(id);
        }
        self.timers.set(Timer::Link(number), cx.now.after(super::LINK_IDLE));
        self.note_map_number(cx, hello.map);
        PayloadPlace::None
    }

    /// The answer that a request wants. False where it answers something else.
    fn on_answer(&mut self, cx: &mut Context<'_>, id: RequestId, reply: Reply<'_>) -> bool {
        let request = self.requests.get(id).expect("it is in the link's table");
        let done = match (&request.what, reply) {
            (What::MapPage, Reply::Map { number, page, pages, bytes }) => {
                self.on_map_page(cx, id, &MapPage { number, page, pages, bytes });
                return true;
            }
            (What::OpenSession { group }, Reply::Session(grant)) => {
                let group = *group;
                return self.on_session(cx, id, group, grant);
            }
            (What::KeepAlive { .. }, Reply::KeepAlive) | (What::CloseSession { .. }, Reply::CloseSession) => {
                self.finish(cx, id, Err(Failure::Unknown));
                return true;
            }
            (What::Query { .. }, Reply::Answer(answer)) => Done::Answer(Box::new(answer)),
            (What::Mutate(_), Reply::Mutate(outcome)) => Done::Outcome(Box::new(outcome)),
            (What::Put(put), Reply::PutChunk { map }) => Done::Chunk { id: put.id, root: put.root, map },
            (What::ShardState { .. }, Reply::ShardStatus(state)) => Done::ShardState(state),
            _ => return false,
        };
        self.finish(cx, id, Ok(done));
        true
    }

    fn on_session(
        &mut self,
        cx: &mut Context<'_>,
        id: RequestId,
        group: wire::GroupId,
        grant: SessionGrant,
    ) -> bool {
        if grant.session.group() != group || self.sessions.get(grant.session).is_some() {
            return false;
        }
        let keepalive =
            u64::from(grant.keepalive_ms.clamp(KEEPALIVE_MS_MIN, KEEPALIVE_MS_MAX)) * Nanos::MILLISECOND;
        for waiting in self.sessions.opened(group, grant.session, keepalive, cx.now) {
            self.wake(waiting);
        }
        self.timers.set(Timer::Session(grant.session), cx.now.after(keepalive));
        self.finish(cx, id, Err(Failure::Unknown));
        if self.has_pins(group) {
            self.send_pins(cx, grant.session);
        }
        for older in self.sessions.of_group(group) {
            self.close_if_unused(cx, older);
        }
        true
    }

    fn on_refused(&mut self, cx: &mut Context<'_>, id: RequestId, status: Status, refusal: Refusal) {
        let address = self.address_of(id);
        let request = self.requests.get(id).expect("it is in the link's table");
        if status == Status::SessionExpired {
            return self.on_session_expired(cx, id);
        }
        if status.is_not_executed() {
            request.copies.not_executed += 1; // R14
            let trouble = match status {
                Status::Busy => Trouble::Busy(address),
                Status::UnsupportedVersion => Trouble::Unavailable(address, UnavailableReason::Version),
                Status::WrongCluster => Trouble::Unavailable(address, UnavailableReason::WrongCluster),
                Status::DeadlineExceeded => Trouble::Silence(address),
                _ => Trouble::Unavailable(address, UnavailableReason::NotServing),
            };
            self.note_trouble(id, trouble);
            if matches!(status, Status::WrongEpoch | Status::WrongShard | Status::NotServing) {
                self.refresh_map(cx);
            }
            self.next_if_map_page(id);
            let is_moved = matches!(status, Status::WrongEpoch | Status::WrongShard | Status::NotServing);
            if is_moved {
                // A change of the chain takes milliseconds once it has begun: no pauses of a second.
                let request = self.requests.get(id).expect("just found");
                request.retries = request.retries.min(MOVED_RETRIES_MAX);
            }
            self.retry(cx, id, u64::from(refusal.retry_after_ms) * Nanos::MILLISECOND);
            return;
        }
        match &mut request.what {
            What::Get(get) => {
                let worst = match status {
                    Status::NotFound => Worst::Missing,
                    Status::ChecksumMismatch => Worst::Corrupt,
                    Status::StoreFailed => Worst::StoreFailed,
                    _ => return self.refuse(cx, id, status, refusal),
                };
                get.worst = get.worst.max(worst);
                get.failed.push(address);
                self.wake(id);
            }
            What::Put(put) if status == Status::ChecksumMismatch && put.damaged < DAMAGED_MAX => {
                // The bytes were damaged on the way: the identical buffer goes out again (R4).
                put.damaged += 1;
                self.retry(cx, id, 0);
            }
            What::Put(put) if status == Status::AlreadyExists => {
                let chunk = put.id;
                self.fail(cx, id, Failure::IdTaken { chunk, address });
            }
            What::MapPage => {
                self.note_map_trouble(&Trouble::Unavailable(address, UnavailableReason::NotServing));
                self.next_map_candidate();
                self.retry(cx, id, 0);
            }
            What::OpenSession { group } => {
                let group = *group;
                for waiting in self.sessions.not_opened(group) {
                    self.refuse(cx, waiting, status, refusal);
                }
                self.finish(cx, id, Err(Failure::Unknown));
            }
            _ => self.refuse(cx, id, status, refusal),
        }
    }

    /// A final refusal.
    fn refuse(&mut self, cx: &mut Context<'_>, id: RequestId, status: Status, refusal: Refusal) {
        let address = self.address_of(id);
        let Some(request) = self.requests.get(id) else { return };
        // A store that failed may have made the entry durable before: nobody knows.
        if status != Status::StoreFailed && request.copies.is_uncertain() {
            request.copies.not_executed += 1;
        }
        let failure = Failure::Refused { status, depth: refusal.depth, version: refusal.version, address };
        self.fail(cx, id, failure);
    }

    fn on_session_expired(&mut self, cx: &mut Context<'_>, id: RequestId) {
        let request = self.requests.get(id).expect("the caller has it");
        let session = match &mut request.what {
            What::KeepAlive { session } | What::CloseSession { session } => {
                let session = *session;
                self.finish(cx, id, Err(Failure::Unknown));
                return self.expire_session(cx, session);
            }
            What::Mutate(mutate) => mutate.session,
            _ => return self.refuse(cx, id, Status::SessionExpired, Refusal::default()),
        };
        request.copies.not_executed += 1;
        let is_uncertain = request.copies.is_uncertain();
        self.expire_session(cx, session);
        let request = self.requests.get(id).expect("an expiry finishes waiting requests only");
        let What::Mutate(mutate) = &mut request.what else { unreachable!("just matched") };
        if is_uncertain {
            // R21: never executed again.
            self.finish(cx, id, Err(Failure::Unknown));
        } else if mutate.upload.is_some() {
            self.finish(cx, id, Err(Failure::SessionExpired));
        } else {
            // Every copy was answered, none was executed: it may go into another session, under a number of that one.
            mutate.numbered = false;
            self.wake(id);
        }
    }

    fn on_chunk_part(
        &mut self,
        cx: &mut Context<'_>,
        number: LinkNumber,
        id: RequestId,
        prefix: &Prefix,
        part: &ChunkPart<'_>,
    ) -> PayloadPlace {
        let request = self.requests.get(id).expect("it is in the link's table");
        let deadline = request.deadline;
        let What::Get(get) = &mut request.what else { return self.violation(cx, number) };
        let Some(slot) = get.slot else { return self.violation(cx, number) };
        let (first_block, _) = blocks_of(get.call.range.start, get.call.range.end);
        let base = first_block * u32::try_from(BLOCK_BYTES).expect("small");
        let room = span_bytes(&get.call) - get.received;
        let fits = part.length == get.call.length
            && part.offset == base + get.received
            && prefix.payload_bytes > 0
            && prefix.payload_bytes <= room
            && get.arriving == 0
            && prefix.more == (prefix.payload_bytes < room);
        if !fits {
            return self.violation(cx, number);
        }
        if get.received == 0 {
            get.proof.extend(part.proof.iter());
        }
        let offset = get.received;
        get.arriving = prefix.payload_bytes;
        get.more = prefix.more;
        self.links.get(number).expect("the caller has it").receiving = Some(id);
        self.timers.set(Timer::Request(id), deadline.min(cx.now.after(ATTEMPT)));
        PayloadPlace::Into { slot, offset }
    }

    pub(super) fn on_payload(&mut self, cx: &mut Context<'_>, number: LinkNumber) {
        let Some(link) = self.links.get(number) else { return };
        let Some(id) = link.receiving.take() else { return };
        let cluster = self.map().map(|map| map.cluster());
        let Some(request) = self.requests.get(id) else { return };
        let State::AwaitReply(_, correlation) = request.state else { return };
        let What::Get(get) = &mut request.what else { return };
        get.received += get.arriving;
        get.arriving = 0;
        if get.more {
            return;
        }
        self.links.get(number).expect("just found").in_flight.remove(&correlation);
        let address = self.address_of(id);
        let request = self.requests.get(id).expect("just found");
        let What::Get(get) = &mut request.what else { unreachable!("just matched") };
        let hasher = BlockHasher::new(cluster.expect("a get waits for the map"), get.call.id);
        if is_genuine(get, &hasher, cx.memory) {
            let slot = get.slot.take().expect("it has just been filled");
            let (first_block, _) = blocks_of(get.call.range.start, get.call.range.end);
            let offset = get.call.range.start - first_block * u32::try_from(BLOCK_BYTES).expect("small");
            let length = get.call.range.end - get.call.range.start;
            self.watch.note_read(cx.now.since(get.sent_at));
            self.finish(cx, id, Ok(Done::Bytes { slot, offset, length, address }));
            return;
        }
        // I11: not handed out. Once more, since the way here can do damage too; then another replica.
        get.mismatches += 1;
        if get.mismatches >= MISMATCHES_MAX {
            get.worst = Worst::Corrupt;
            get.failed.push(address);
        }
        self.wake(id);
    }
}

/// Whether the bytes received are those that the root stands for (I11).
fn is_genuine(get: &Get, hasher: &BlockHasher, memory: &dyn Memory) -> bool {
    let call = &get.call;
    if planted(Bug::ClientSkipsVerify) {
        return true;
    }
    let span = span_bytes(call);
    let bytes = &memory.bytes(get.slot.expect("the caller filled it"))[..span as usize];
    if span == call.length {
        return hasher.root(bytes) == call.root;
    }
    let (first, count) = blocks_of(call.range.start, call.range.end);
    let (first, count) = (first as usize, count as usize);
    let mut leaves = [0; LEAVES_MAX];
    if leaf_count(bytes.len()) != count {
        return false;
    }
    hasher.leaves(first, bytes, &mut leaves);
    verify_range(call.length as usize, first..first + count, &leaves[..count], &get.proof, call.root)
}

fn discard(prefix: &Prefix) -> PayloadPlace {
    if prefix.payload_bytes == 0 { PayloadPlace::None } else { PayloadPlace::Discard }
}

/// Pauses don't grow beyond 160 ms while a chain changes.
const MOVED_RETRIES_MAX: u32 = 4;
/// How often a chunk is sent again because it arrived damaged; a fourth time it is this machine's memory.
const DAMAGED_MAX: u32 = 3;
/// Wrong answers of one replica after which it is given up.
const MISMATCHES_MAX: u32 = 2;
/// Bounds of what a server may ask for as the time between keepalives.
const KEEPALIVE_MS_MIN: u32 = 100;
const KEEPALIVE_MS_MAX: u32 = 60_000;
