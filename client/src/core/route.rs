//! Where a request goes next: through map, session, sequence and window to a link.

use std::sync::Arc;

use wire::checksum::{BlockHasher, leaf_count, root};
use wire::limits::LEAVES_MAX;
use wire::{ChunkId, GroupId, Nanos};

use super::effect::{Done, Effect, Failure};
use super::link::Access;
use super::request::{RequestId, State, Trouble, What, Worst};
use super::upkeep::Timer;
use super::{Context, Core};
use crate::error::UnavailableReason;

/// Whose answer a request waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// The head of a chunk's chain.
    Head(ChunkId),
    /// Any that serves the chunk.
    Reader(ChunkId),
    /// A group's head.
    GroupHead(GroupId),
    /// A group's tail (R13).
    GroupTail(GroupId),
}

/// Where a request of a group goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Member {
    /// Mutations and sessions.
    Head,
    /// Queries (R13).
    Tail,
}

impl Core {
    /// The request can go a step further.
    pub(super) fn wake(&mut self, id: RequestId) {
        if let Some(request) = self.requests.get(id) {
            request.state = State::Ready;
            self.work.push_back(id);
        }
    }

    /// Takes a ready request as far as it goes.
    pub(super) fn advance(&mut self, cx: &mut Context<'_>, id: RequestId) {
        let Some(request) = self.requests.get(id) else { return };
        if request.state != State::Ready {
            return;
        }
        if cx.now >= request.deadline {
            self.expire(cx, id);
            return;
        }
        let deadline = request.deadline;
        self.timers.set(Timer::Request(id), deadline);
        match &request.what {
            What::Map => self.answer_map(cx, id),
            What::MapPage => self.advance_map_page(cx, id),
            What::Query { group, .. } => {
                let group = *group;
                self.deliver_to_group(cx, id, group, Member::Tail);
            }
            What::Mutate(_) => self.advance_mutation(cx, id),
            What::OpenUpload { group } => {
                let group = *group;
                self.advance_open_upload(cx, id, group);
            }
            What::Put(_) => self.advance_put(cx, id),
            What::Get(_) => self.advance_get(cx, id),
            What::ShardState { address } => {
                let address = Arc::clone(address);
                self.deliver(cx, id, &address);
            }
            What::OpenSession { group } => {
                let group = *group;
                if self.sessions.is_awaited(group) || self.has_pins(group) {
                    self.deliver_to_group(cx, id, group, Member::Head);
                } else {
                    self.finish(cx, id, Err(Failure::Unknown));
                }
            }
            What::KeepAlive { session } | What::CloseSession { session } => {
                let group = session.group();
                self.deliver_to_group(cx, id, group, Member::Head);
            }
        }
    }

    fn advance_map_page(&mut self, cx: &mut Context<'_>, id: RequestId) {
        if self.is_map_unwanted() {
            self.finish(cx, id, Err(Failure::Unknown));
            return;
        }
        let address = self.map_candidate();
        self.deliver(cx, id, &address);
    }

    fn advance_open_upload(&mut self, cx: &mut Context<'_>, id: RequestId, group: GroupId) {
        match self.sessions.present(group, cx.now) {
            Some(session) => {
                let (upload, number) = self.sessions.open_upload(session);
                self.finish(cx, id, Ok(Done::Upload { upload, number }));
            }
            None => self.await_session(cx, id, group),
        }
    }

    fn advance_mutation(&mut self, cx: &mut Context<'_>, id: RequestId) {
        let request = self.requests.get(id).expect("the caller has it");
        let What::Mutate(mutate) = &request.what else { unreachable!("only for mutations") };
        let (group, upload, numbered) = (mutate.group, mutate.upload, mutate.numbered);
        if !numbered {
            let session = match upload {
                // R21: an upload stays in the session it began in.
                Some(upload) => match self.sessions.of_upload(upload) {
                    Some(session) => session,
                    None => return self.finish(cx, id, Err(Failure::SessionExpired)),
                },
                None => match self.sessions.present(group, cx.now) {
                    Some(session) => session,
                    None => return self.await_session(cx, id, group),
                },
            };
            let living = self.sessions.get(session).expect("just found");
            let Some(sequence) = living.next_sequence() else {
                // R17: too many results that the group must remember.
                living.waiting.push_back(id);
                self.requests.get(id).expect("the caller has it").state = State::AwaitSequence;
                return;
            };
            let request = self.requests.get(id).expect("the caller has it");
            let What::Mutate(mutate) = &mut request.what else { unreachable!("only for mutations") };
            (mutate.session, mutate.sequence, mutate.numbered) = (session, sequence, true);
        }
        self.deliver_to_group(cx, id, group, Member::Head);
    }

    fn await_session(&mut self, cx: &mut Context<'_>, id: RequestId, group: GroupId) {
        self.requests.get(id).expect("the caller has it").state = State::AwaitSession;
        if self.sessions.wait(group, Some(id)) {
            self.begin(cx, None, What::OpenSession { group }, Nanos(u64::MAX));
        }
    }

    fn advance_put(&mut self, cx: &mut Context<'_>, id: RequestId) {
        let Some(map) = self.map() else { return self.await_map(cx, id) };
        if !self.admit(id) {
            return;
        }
        let request = self.requests.get(id).expect("the caller has it");
        let What::Put(put) = &mut request.what else { unreachable!("only for puts") };
        if self.sessions.of_upload(put.upload).is_none() {
            return self.finish(cx, id, Err(Failure::SessionExpired));
        }
        if put.leaves.is_empty() {
            // The one hashing pass of the client (R36). A retry sends the identical buffer with the same leaves (R4).
            let bytes = &cx.memory.bytes(put.slot)[..put.length as usize];
            let mut leaves = [0; LEAVES_MAX];
            let count = BlockHasher::new(map.cluster(), put.id).leaves(0, bytes, &mut leaves);
            put.leaves.extend_from_slice(&leaves[..count]);
            put.root = root(&put.leaves, bytes.len());
        }
        debug_assert_eq!(put.leaves.len(), leaf_count(put.length as usize));
        match map.route(put.id).head() {
            Some(store) => {
                let address = Arc::from(store.address.as_str());
                self.deliver(cx, id, &address);
            }
            None => self.no_route(cx, id),
        }
    }

    fn advance_get(&mut self, cx: &mut Context<'_>, id: RequestId) {
        let Some(map) = self.map() else { return self.await_map(cx, id) };
        if !self.admit(id) {
            return;
        }
        let request = self.requests.get(id).expect("the caller has it");
        let What::Get(get) = &mut request.what else { unreachable!("only for gets") };
        let route = map.route(get.call.id);
        let mut readers: Vec<Arc<str>> =
            route.readers().map(|store| Arc::from(store.address.as_str())).collect();
        if let Some(replica) = get.call.replica {
            readers = readers.into_iter().skip(usize::from(replica)).take(1).collect();
        }
        if readers.is_empty() {
            return self.no_route(cx, id);
        }
        readers.retain(|address| !get.failed.contains(address));
        if readers.is_empty() {
            let address = get.asked.clone().unwrap_or_else(|| Arc::clone(&get.failed[0]));
            let failure = match get.worst {
                Worst::Missing => Failure::Missing { address },
                Worst::Corrupt => Failure::Corrupt { address },
                Worst::StoreFailed => Failure::Refused {
                    status: wire::Status::StoreFailed,
                    depth: 0,
                    version: wire::Version::default(),
                    address,
                },
            };
            return self.finish(cx, id, Err(failure));
        }
        // One that can't be reached just now isn't waited for while another can.
        let paused: Vec<bool> = readers.iter().map(|address| self.links.is_paused(address, cx.now)).collect();
        if paused.contains(&false) {
            let mut paused = paused.iter();
            readers.retain(|_| !paused.next().expect("one for each"));
        }
        let address = self.choose_replica(&readers);
        let request = self.requests.get(id).expect("the caller has it");
        let What::Get(get) = &mut request.what else { unreachable!("only for gets") };
        if get.asked.as_ref() != Some(&address) {
            get.mismatches = 0;
            get.asked = Some(Arc::clone(&address));
        }
        self.deliver(cx, id, &address);
    }

    /// Power of two choices: of two replicas drawn at random, the one that is likely to answer sooner (DESIGN §5).
    fn choose_replica(&mut self, readers: &[Arc<str>]) -> Arc<str> {
        let count = readers.len() as u64;
        if count == 1 {
            return Arc::clone(&readers[0]);
        }
        let first = self.random.below(count);
        let second = (first + 1 + self.random.below(count - 1)) % count;
        let [first, second] = [first, second]
            .map(|index| &readers[usize::try_from(index).expect("below the count of readers")]);
        let better =
            if self.links.expected_wait(second) < self.links.expected_wait(first) { second } else { first };
        Arc::clone(better)
    }

    /// Whether the request's bytes are in the window now; else it waits its turn (I13).
    fn admit(&mut self, id: RequestId) -> bool {
        let request = self.requests.get(id).expect("the caller has it");
        // A second copy's bytes are its first one's.
        let is_hedge = matches!(&request.what, What::Get(get) if get.hedge_of.is_some());
        if request.admitted || is_hedge {
            return true;
        }
        let bytes = request.what.window_bytes();
        let is_free = self.window_used == 0 || self.window_used + bytes <= self.settings.window_bytes;
        let is_first = self.window_queue.front().is_none_or(|first| *first == id);
        if is_free && is_first {
            request.admitted = true;
            self.window_used += bytes;
            if self.window_queue.pop_front().is_some()
                && let Some(next) = self.window_queue.front().copied()
            {
                self.wake(next);
            }
            return true;
        }
        request.state = State::AwaitWindow;
        if !self.window_queue.contains(&id) {
            self.window_queue.push_back(id);
        }
        false
    }

    fn no_route(&mut self, cx: &mut Context<'_>, id: RequestId) {
        let address = self.any_endpoint();
        let request = self.requests.get(id).expect("the caller has it");
        request.trouble = Trouble::Unavailable(address, UnavailableReason::NoRoute);
        self.refresh_map(cx);
        self.retry(cx, id, 0);
    }

    fn deliver_to_group(&mut self, cx: &mut Context<'_>, id: RequestId, group: GroupId, member: Member) {
        let Some(map) = self.map() else { return self.await_map(cx, id) };
        let mut members = map.group_members(group);
        let chosen = match member {
            Member::Head => members.next(),
            Member::Tail => members.last(),
        };
        match chosen {
            Some(member) => {
                let address = Arc::from(member.address.as_str());
                self.deliver(cx, id, &address);
            }
            None => self.no_route(cx, id),
        }
    }

    /// Sends the request to `address`, or as soon as there is a link.
    fn deliver(&mut self, cx: &mut Context<'_>, id: RequestId, address: &Arc<str>) {
        let mut access = self.links.access(address, cx.now);
        if access == Access::Full
            && let Some(unused) = self.links.least_recently_used()
        {
            self.close_link(cx, unused);
            access = self.links.access(address, cx.now);
        }
        let link = match access {
            Access::Ready(link) => return self.transmit(cx, id, link),
            Access::Opening(link) => link,
            Access::New(link) => {
                cx.effects.push(Effect::Connect { link, address: Arc::clone(address) });
                self.timers.set(Timer::Link(link), cx.now.after(OPEN_PATIENCE));
                link
            }
            Access::Later(at, reason) => {
                self.note_trouble(id, Trouble::Unavailable(Arc::clone(address), reason));
                if self.next_if_map_page(id) {
                    self.retry(cx, id, 0);
                } else {
                    self.back_off_until(cx, id, at);
                }
                return;
            }
            Access::Full => {
                self.note_trouble(id, Trouble::Busy(Arc::clone(address)));
                self.back_off_until(cx, id, cx.now.after(LINKS_FULL_PAUSE));
                return;
            }
        };
        let request = self.requests.get(id).expect("the caller has it");
        request.state = State::AwaitLink(link);
        if matches!(request.what, What::MapPage) {
            self.timers.set(Timer::Request(id), request.deadline.min(cx.now.after(CANDIDATE_PATIENCE)));
        }
        self.links.get(link).expect("just found").waiting.push(id);
    }

    /// Whoever was asked for the map doesn't answer, or not even greet: the next one is asked, while that link may still work.
    pub(super) fn leave_silent_candidate(&mut self, cx: &mut Context<'_>, id: RequestId) {
        self.withdraw(cx, id);
        let address = self.map_candidate();
        self.note_trouble(id, Trouble::Silence(address));
        self.next_map_candidate();
        self.wake(id);
    }

    /// A fetch of the map goes to the next candidate after any trouble.
    pub(super) fn next_if_map_page(&mut self, id: RequestId) -> bool {
        let is_map_page = self.requests.get(id).is_some_and(|request| matches!(request.what, What::MapPage));
        if is_map_page {
            self.next_map_candidate();
        }
        is_map_page
    }
}

/// How long the map is waited for where no connection comes about, or no answer, before another endpoint is asked. A machine without power has several
/// addresses, and writes have to flow again 3.5 s after its death; whoever answers later is still heard.
pub(super) const CANDIDATE_PATIENCE: u64 = 300 * Nanos::MILLISECOND;
/// From connecting to the answer to `Hello`.
const OPEN_PATIENCE: u64 = 5 * Nanos::SECOND;
/// All links are in use: look again after this.
const LINKS_FULL_PAUSE: u64 = 10 * Nanos::MILLISECOND;
