//! A client without a network: one session at a time, mutations with sequences, copies of them on several connections, answers in any order.
//!
//! It keeps the promises that a client makes (R14, R17, R21): a retry has its first sequence, `acked_upto` covers only what was answered or given up, "not
//! executed" is said only if every copy that was sent was so answered, and nothing is executed anew after its session has ended.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use client::UnavailableReason;
use client::core::{Call, Done, Failure, GetCall, ReadId, Ticket, UploadId};
use wire::message::{Encoder, Hello, PayloadMeta, Reply, Request, RequestHead};
use wire::meta::{Mutation, Operation, Pin};
use wire::{
    ChunkId, MapNumber, Memory, Nanos, PREFIX_BYTES, PROTOCOL_VERSION, PROTOCOL_VERSION_MIN, Prefix,
    Sequence, SessionId, Slot, Status,
};
use xxhash_rust::xxh3::xxh3_64;

use super::stores::Stores;
use crate::memory::SimMemory;
use crate::network::Connection;
use crate::random::Random;
use crate::workload::Order;

/// A call's result.
pub(super) type Finished = (Ticket, Result<Done, Failure>);

/// What an answer is to.
#[derive(Clone, Copy, Debug)]
enum Asked {
    Session,
    KeepAlive,
    Query(Ticket),
    Mutation(SessionId, Sequence),
}

/// A mutation without its answer.
#[derive(Debug)]
struct Pending {
    ticket: Ticket,
    operation: Operation,
    /// Copies that may still be answered.
    copies: u64,
    /// A copy was sent and never answered: it may have been executed.
    uncertain: bool,
}

/// See the module.
pub(super) struct Caller {
    number: usize,
    pub(super) memory: SimMemory,
    encoder: Encoder,
    session: Option<SessionId>,
    opening: bool,
    /// Sequence, ordinal, correlation, upload and read that were given out last.
    last: [u64; 5],
    asked: BTreeMap<u64, Asked>,
    pending: BTreeMap<(SessionId, Sequence), Pending>,
    uploads: BTreeMap<UploadId, SessionId>,
    pins: BTreeMap<ReadId, Pin>,
    /// Calls that wait for a session.
    waiting: Vec<(Ticket, Call)>,
    /// Frames to send, and how many copies of each.
    frames: Vec<(u64, Vec<u8>)>,
    finished: Vec<Finished>,
    keepalive_at: Nanos,
    /// Answers that said the log had no space: to removals, and to others.
    pub(super) refused_removals: u64,
    pub(super) refused: u64,
}

const SEQUENCE: usize = 0;
const ORDINAL: usize = 1;
const CORRELATION: usize = 2;
const UPLOAD: usize = 3;
const READ: usize = 4;
const ARENA_BYTES: usize = 64 << 20;
/// A keepalive is sent so often: three fit into a session's life.
const KEEPALIVE: u64 = 900 * Nanos::MILLISECOND;

impl Caller {
    pub(super) fn new(number: usize) -> Self {
        Self {
            number,
            memory: SimMemory::new(ARENA_BYTES),
            encoder: Encoder::new(),
            session: None,
            opening: false,
            last: [0; 5],
            asked: BTreeMap::new(),
            pending: BTreeMap::new(),
            uploads: BTreeMap::new(),
            pins: BTreeMap::new(),
            waiting: Vec::new(),
            frames: Vec::new(),
            finished: Vec::new(),
            keepalive_at: Nanos(0),
            refused_removals: 0,
            refused: 0,
        }
    }

    fn count(&mut self, what: usize) -> u64 {
        self.last[what] += 1;
        self.last[what]
    }

    /// Frames to send, and how many copies of each.
    pub(super) fn take_frames(&mut self) -> Vec<(u64, Vec<u8>)> {
        std::mem::take(&mut self.frames)
    }

    /// Results.
    pub(super) fn take_finished(&mut self) -> Vec<Finished> {
        std::mem::take(&mut self.finished)
    }

    /// Whether a mutation waits for its answer.
    pub(super) fn is_idle(&self) -> bool {
        self.pending.is_empty() && self.waiting.is_empty() && self.finished.is_empty()
    }

    /// Nothing is asked again that isn't under way.
    pub(super) fn give_up_refused(&mut self) {
        let refused = |pending: &Pending| pending.copies == 0 && !pending.uncertain;
        let keys: Vec<_> =
            self.pending.iter().filter(|(_, pending)| refused(pending)).map(|(key, _)| *key).collect();
        for key in keys {
            let pending = self.pending.remove(&key).expect("listed");
            self.finished.push((pending.ticket, Err(Failure::Busy { address: address() })));
        }
    }

    /// Nothing more comes from it: its session expires, as that of a process that is gone.
    pub(super) fn leave(&mut self) {
        self.session = None;
        self.pins.clear();
    }

    /// What it waits for, for a person.
    pub(super) fn describe(&self) -> String {
        let Self { session, opening, asked, pending, waiting, .. } = self;
        format!("{session:?}, opening {opening}, asked {asked:?}, pending {pending:?}, waiting {waiting:?}")
    }

    /// What a workload wants.
    pub(super) fn on_order(&mut self, order: Order, stores: &mut Stores, random: &mut Random) {
        match order {
            Order::Call(ticket, call, _) => self.on_call(ticket, call, stores, random),
            Order::CloseUpload(upload) => drop(self.uploads.remove(&upload)),
            Order::CloseRead(read) => drop(self.pins.remove(&read)),
            // A mutation that was sent takes its course; its ticket is nobody's any more.
            Order::Cancel(_) => {}
            Order::Wake(..) => unreachable!("the run's to carry out"),
        }
    }

    pub(super) fn on_call(&mut self, ticket: Ticket, call: Call, stores: &mut Stores, random: &mut Random) {
        match call {
            Call::Query { query, .. } => {
                let correlation = self.count(CORRELATION);
                self.asked.insert(correlation, Asked::Query(ticket));
                self.frame(correlation, &Request::Query(*query), 1);
            }
            Call::PutChunk { upload, slot, length } => {
                let result = self.put(upload, slot, length, stores);
                self.finished.push((ticket, result));
            }
            Call::GetChunk(get) => {
                let result = self.get(&get, stores);
                self.finished.push((ticket, result));
            }
            Call::OpenRead { pin, .. } => {
                let read = ReadId(self.count(READ));
                self.pins.insert(read, pin);
                self.keepalive_at = Nanos(0);
                self.finished.push((ticket, Ok(Done::Read(read))));
            }
            call => {
                self.waiting.push((ticket, call));
                self.go_on(random);
            }
        }
    }

    /// Calls that need a session.
    fn go_on(&mut self, random: &mut Random) {
        if self.waiting.is_empty() {
            return;
        }
        let Some(session) = self.session else {
            if !std::mem::replace(&mut self.opening, true) {
                let correlation = self.count(CORRELATION);
                self.asked.insert(correlation, Asked::Session);
                let name = format!("caller {}", self.number);
                self.frame(correlation, &Request::OpenSession { name }, 1);
            }
            return;
        };
        for (ticket, call) in std::mem::take(&mut self.waiting) {
            match call {
                Call::OpenUpload { .. } => {
                    let number = self.count(UPLOAD);
                    self.uploads.insert(UploadId(number), session);
                    self.finished.push((ticket, Ok(Done::Upload { upload: UploadId(number), number })));
                }
                Call::Mutate { upload, operation, .. } => {
                    let its = upload.and_then(|upload| self.uploads.get(&upload).copied()).unwrap_or(session);
                    if its != session {
                        self.finished.push((ticket, Err(Failure::SessionExpired)));
                        continue;
                    }
                    let sequence = Sequence(self.count(SEQUENCE));
                    let pending = Pending { ticket, operation: *operation, copies: 0, uncertain: false };
                    self.pending.insert((session, sequence), pending);
                    self.send(session, sequence, random);
                }
                other => unreachable!("{other:?} needs no session"),
            }
        }
    }

    /// Sends a mutation, now and then twice or three times.
    fn send(&mut self, session: SessionId, sequence: Sequence, random: &mut Random) {
        let copies = if random.per_mille(200) { random.between(2, 3) } else { 1 };
        let lowest =
            self.pending.keys().filter(|(its, _)| *its == session).map(|(_, sequence)| *sequence).min();
        let acked_upto = Sequence(lowest.map_or(0, |lowest| lowest.0 - 1));
        let pending = self.pending.get_mut(&(session, sequence)).expect("it waits");
        pending.copies += copies;
        let operation = pending.operation.clone();
        let mutation = Mutation { session, sequence, acked_upto, operation };
        for _ in 0..copies {
            let correlation = self.count(CORRELATION);
            self.asked.insert(correlation, Asked::Mutation(session, sequence));
            self.frame(correlation, &Request::Mutate(mutation.clone()), 1);
        }
    }

    fn frame(&mut self, correlation: u64, request: &Request<'_>, copies: u64) {
        let mut bytes = Vec::new();
        let head = RequestHead { correlation, ..RequestHead::default() };
        self.encoder.request(&mut bytes, head, request, PayloadMeta::default());
        self.frames.push((copies, bytes));
    }

    /// What a connection begins with.
    pub(super) fn hello(&mut self) -> Vec<u8> {
        let hello = Hello {
            version_min: PROTOCOL_VERSION_MIN,
            version_max: PROTOCOL_VERSION,
            features: 0,
            name: format!("caller {}", self.number),
            cluster: None,
            peer: None,
        };
        let mut bytes = Vec::new();
        let head = RequestHead::default();
        self.encoder.request(&mut bytes, head, &Request::Hello(hello), PayloadMeta::default());
        bytes
    }

    fn put(
        &mut self,
        upload: UploadId,
        slot: Slot,
        length: u32,
        stores: &mut Stores,
    ) -> Result<Done, Failure> {
        let bytes = self.memory.bytes(slot)[..length as usize].to_vec();
        self.memory.release(slot);
        let session = *self.uploads.get(&upload).ok_or(Failure::SessionExpired)?;
        let id = ChunkId { session, ordinal: self.count(ORDINAL) };
        let root = xxh3_64(&bytes);
        stores.chunks.insert(id, (bytes, root));
        Ok(Done::Chunk { id, root, map: MapNumber(1) })
    }

    fn get(&mut self, get: &GetCall, stores: &Stores) -> Result<Done, Failure> {
        let Some((bytes, root)) = stores.chunks.get(&get.id) else {
            return Err(Failure::Missing { address: address() });
        };
        assert!(
            *root == get.root && bytes.len() == get.length as usize,
            "I9: the metadata doesn't know {}",
            get.id
        );
        let part = &bytes[get.range.start as usize..get.range.end as usize];
        let slot = self.memory.allocate(part.len()).expect("a caller's arena holds what it reads");
        self.memory.bytes_mut(slot)[..part.len()].copy_from_slice(part);
        let length = get.range.end - get.range.start;
        Ok(Done::Bytes { slot, offset: 0, length, address: address() })
    }

    /// A connection is gone: what was asked isn't answered any more. The run gives the whole of a caller's connections up at once but for resets, so
    /// every copy under way counts as lost.
    pub(super) fn on_lost(&mut self, _connection: Connection) {
        for asked in std::mem::take(&mut self.asked).into_values() {
            match asked {
                Asked::Session => self.opening = false,
                Asked::KeepAlive => {}
                Asked::Query(ticket) => {
                    self.finished.push((ticket, Err(Failure::Timeout { address: address() })));
                }
                Asked::Mutation(session, sequence) => {
                    if let Some(pending) = self.pending.get_mut(&(session, sequence)) {
                        (pending.copies, pending.uncertain) = (0, true);
                    }
                }
            }
        }
    }

    /// Time has passed: keepalives, and mutations that nobody answers are sent again or given up.
    pub(super) fn on_time(&mut self, now: Nanos, random: &mut Random) {
        if let Some(session) = self.session.filter(|_| now >= self.keepalive_at) {
            self.keepalive_at = now.after(KEEPALIVE);
            let pins: BTreeSet<Pin> = self.pins.values().copied().collect();
            let correlation = self.count(CORRELATION);
            self.asked.insert(correlation, Asked::KeepAlive);
            self.frame(correlation, &Request::KeepAlive { session, pins: pins.into_iter().collect() }, 1);
        }
        let silent: Vec<(SessionId, Sequence)> =
            self.pending.iter().filter(|(_, pending)| pending.copies == 0).map(|(key, _)| *key).collect();
        for (session, sequence) in silent {
            let is_over = self.session != Some(session);
            if is_over || random.per_mille(20) {
                let pending = self.pending.remove(&(session, sequence)).expect("listed");
                let failure = if pending.uncertain { Failure::Unknown } else { Failure::SessionExpired };
                self.finished.push((pending.ticket, Err(failure)));
            } else {
                self.send(session, sequence, random);
            }
        }
        self.go_on(random);
    }

    /// An answer.
    pub(super) fn on_head(&mut self, head: &[u8], random: &mut Random) -> Result<(), String> {
        let (bytes, message) =
            head.split_first_chunk::<PREFIX_BYTES>().expect("a frame begins with a prefix");
        let prefix = Prefix::decode(bytes).expect("frames arrive whole");
        let status = prefix.status;
        let reply = Reply::decode(prefix.kind, status, message)
            .map_err(|error| format!("a reply that can't be read: {error:?}"))?;
        let Some(asked) = self.asked.remove(&prefix.correlation) else { return Ok(()) };
        match (asked, reply) {
            (Asked::Session, Reply::Session(grant)) => {
                self.session = Some(grant.session);
                self.last[SEQUENCE] = 0;
                self.opening = false;
            }
            (Asked::Session, _) => self.opening = false,
            (Asked::KeepAlive, Reply::Refused(_)) if status == Status::SessionExpired => self.session = None,
            (Asked::KeepAlive, _) => {}
            (Asked::Query(ticket), Reply::Answer(answer)) => {
                self.finished.push((ticket, Ok(Done::Answer(Box::new(answer)))));
            }
            (Asked::Query(ticket), Reply::Refused(refusal)) => {
                let failure = match status {
                    Status::Busy => Failure::Busy { address: address() },
                    Status::NotServing => {
                        let reason = UnavailableReason::Connect;
                        Failure::Unavailable { address: address(), reason }
                    }
                    _ => {
                        let (depth, version) = (refusal.depth, refusal.version);
                        Failure::Refused { status, depth, version, address: address() }
                    }
                };
                self.finished.push((ticket, Err(failure)));
            }
            (Asked::Mutation(session, sequence), reply) => {
                self.on_outcome((session, sequence), status, &reply)?;
            }
            (asked, reply) => return Err(format!("{asked:?} was answered {reply:?}")),
        }
        self.go_on(random);
        Ok(())
    }

    fn on_outcome(
        &mut self,
        key: (SessionId, Sequence),
        status: Status,
        reply: &Reply<'_>,
    ) -> Result<(), String> {
        // A copy of what was answered already.
        let Some(pending) = self.pending.get_mut(&key) else { return Ok(()) };
        if let Reply::Mutate(outcome) = reply {
            let ticket = pending.ticket;
            self.pending.remove(&key);
            self.finished.push((ticket, Ok(Done::Outcome(Box::new(*outcome)))));
            return Ok(());
        }
        pending.copies -= 1;
        match status {
            Status::Busy | Status::NotServing => {}
            // A log that lives cut short have filled says so until a checkpoint has freed their segments.
            Status::NoSpace if matches!(pending.operation, Operation::Remove { .. }) => {
                self.refused_removals += 1;
            }
            Status::NoSpace => self.refused += 1,
            Status::SessionExpired => {
                // Another copy may have been executed before the session's end.
                pending.uncertain |= pending.copies > 0;
                pending.copies = 0;
                if self.session == Some(key.0) {
                    self.session = None;
                }
            }
            other => return Err(format!("sequence {} is refused: {other}", key.1.0)),
        }
        Ok(())
    }
}

fn address() -> Arc<str> {
    Arc::from("log:1")
}
