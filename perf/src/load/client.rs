//! The client as a service of the runtime.
//!
//! ```text
//! connect metadata ─ Hello ─ GetMap ─ OpenSession ─ CreateVolume ─ connect shard ─ Hello ─► Ready ◄─► Running
//!                                any refusal, any broken connection ─► Broken
//! ```

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;

use hdrhistogram::Histogram;
use runtime::ceiling::Order;
use runtime::{CloseReason, Io, LinkId, LinkKind, Payload, Receiver, Replier, Service, SlotRange};
use wire::limits::{CHUNK_BYTES_DEFAULT, FRAGMENT_UNIT_BYTES, PAYLOAD_BYTES_MAX};
use wire::map::Map;
use wire::message::{
    Encoder, FEATURES, GetChunk, Hello, HopClass, Leaves, PayloadMeta, PutChunk, Reply, Request, RequestHead,
};
use wire::meta::{Change, Commit, Extents, Mutation, Operation, Place, Precondition, Run, VolumePolicy};
use wire::{
    ChunkId, ClusterId, FrameKind, InodeId, MapNumber, Memory, Nanos, PROTOCOL_VERSION, Prefix, Sequence,
    SessionId, Status, VolumeId,
};

use super::flight::{Chunk, Flight, Sequences, Stage};
use super::{Job, Tally, What};

/// A job for the client's thread.
#[derive(Debug)]
pub(super) struct Command {
    pub(super) job: Job,
    pub(super) replier: Replier<Result<Tally, String>>,
}

/// What a connected client knows.
#[derive(Debug)]
struct Cluster {
    id: ClusterId,
    map: Map,
    session: SessionId,
    volume: VolumeId,
}

#[derive(Debug)]
struct Running {
    job: Job,
    replier: Replier<Result<Tally, String>>,
    begun: u64,
    in_flight: u32,
    started: Nanos,
    cpu_started: u64,
    tally: Tally,
}

/// The payload that is arriving on the shard's connection.
#[derive(Clone, Copy, Debug)]
struct Arriving {
    flight: usize,
    bytes: u32,
    more: bool,
}

/// See the module.
pub(super) struct Client {
    inbox: Receiver<Command>,
    connected: Option<Replier<Result<(), String>>>,
    broken: Option<String>,
    metadata: LinkId,
    shard: Option<LinkId>,
    cluster: Cluster,
    map_pages: Vec<u8>,
    encoder: Encoder,
    out: Vec<u8>,
    flights: Vec<Flight>,
    /// Puts whose fragments aren't all sent, in order.
    sending: VecDeque<usize>,
    credit: u64,
    /// Payload bytes handed to the runtime and not yet with the kernel.
    unsent: u64,
    arriving: Option<Arriving>,
    sequences: Sequences,
    serial: u64,
    ordinal: u64,
    /// Chunks that were put, by their bytes.
    stored: BTreeMap<u32, Vec<Chunk>>,
    random: u64,
    running: Option<Running>,
    keepalive_at: Nanos,
}

/// Correlation ids of operations are `serial << SERIAL_SHIFT | place`; smaller ones are the client's own.
const SERIAL_SHIFT: u32 = 16;
/// Two operations' worth: one that the kernel copies, one that follows.
const UNSENT_MAX: u64 = 2 * PAYLOAD_BYTES_MAX as u64;
const OWN: u64 = 1;
const TICK: u64 = Nanos::SECOND;
const KEEPALIVE_EVERY: u64 = 5 * Nanos::SECOND;

impl Client {
    pub(super) fn new(
        io: &mut Io,
        endpoint: SocketAddr,
        inbox: Receiver<Command>,
        connected: Replier<Result<(), String>>,
    ) -> Self {
        io.attach(&inbox);
        io.arm(io.now().after(TICK));
        Self {
            inbox,
            connected: Some(connected),
            broken: None,
            metadata: io.connect(endpoint).expect("a descriptor for a socket"),
            shard: None,
            cluster: Cluster {
                id: ClusterId::default(),
                map: empty_map(),
                session: SessionId(0),
                volume: VolumeId(0),
            },
            map_pages: Vec::new(),
            encoder: Encoder::new(),
            out: Vec::new(),
            flights: Vec::new(),
            sending: VecDeque::new(),
            credit: 0,
            unsent: 0,
            arriving: None,
            sequences: Sequences::default(),
            serial: 0,
            ordinal: 0,
            stored: BTreeMap::new(),
            random: 0x2545_f491_4f6c_dd1d,
            running: None,
            keepalive_at: Nanos(u64::MAX),
        }
    }

    fn send(
        &mut self,
        io: &mut Io,
        link: LinkId,
        correlation: u64,
        request: &Request<'_>,
        payload: Option<SlotRange>,
    ) {
        self.out.clear();
        let head = RequestHead { correlation, deadline_ms: 0 };
        // The leaves verify a fragment: no checksum of its own (R36).
        let meta = PayloadMeta { bytes: payload.map_or(0, |range| range.len), checksum: 0 };
        self.encoder.request(&mut self.out, head, request, meta);
        let token = payload.map(|range| u64::from(range.len));
        self.unsent += token.unwrap_or(0);
        if let Err(error) = io.send(link, &self.out, payload, token) {
            self.fail(format!("sending: {error}"));
        }
    }

    fn fail(&mut self, reason: String) {
        if let Some(replier) = self.connected.take() {
            replier.send(Err(reason.clone()));
        }
        if let Some(running) = self.running.take() {
            running.replier.send(Err(reason.clone()));
        }
        self.broken.get_or_insert(reason);
    }

    // ---- connecting

    fn hello(&mut self, io: &mut Io, link: LinkId) {
        let hello = Hello {
            version_min: PROTOCOL_VERSION,
            version_max: PROTOCOL_VERSION,
            features: FEATURES,
            name: "perf".into(),
            cluster: None,
            peer: None,
        };
        self.send(io, link, OWN, &Request::Hello(hello), None);
    }

    fn on_connecting(&mut self, io: &mut Io, link: LinkId, reply: Reply<'_>) {
        match reply {
            Reply::Hello(hello) if link == self.metadata => {
                self.cluster.id = hello.cluster;
                self.send(io, link, OWN, &Request::GetMap { have: MapNumber(0), page: 0 }, None);
            }
            Reply::Hello(hello) => {
                self.credit = u64::from(hello.put_credit_bytes);
                if let Some(replier) = self.connected.take() {
                    replier.send(Ok(()));
                }
            }
            Reply::Map { page, pages, bytes, .. } => {
                self.map_pages.extend_from_slice(bytes);
                if page + 1 < pages {
                    let next = Request::GetMap { have: MapNumber(0), page: page + 1 };
                    return self.send(io, link, OWN, &next, None);
                }
                match Map::decode(&self.map_pages) {
                    Ok(map) => self.cluster.map = map,
                    Err(error) => return self.fail(format!("the cluster map: {error}")),
                }
                self.send(io, link, OWN, &Request::OpenSession { name: "perf".into() }, None);
            }
            Reply::Session(grant) => {
                self.cluster.session = grant.session;
                self.keepalive_at = io.now().after(KEEPALIVE_EVERY);
                let name = format!("perf-{}", grant.session.counter());
                let policy = VolumePolicy { chunk_bytes: CHUNK_BYTES_DEFAULT, retention_seconds: 0 };
                let (sequence, acked_upto) = self.sequences.next();
                self.mutate(io, OWN, (sequence, acked_upto), Operation::CreateVolume { name, policy });
            }
            Reply::Mutate(outcome) => {
                self.sequences.finish(1);
                self.cluster.volume = outcome.volume;
                let address = self.cluster.map.stores.first().and_then(|store| store.address.parse().ok());
                match address.map(|address| io.connect(address)) {
                    Some(Ok(link)) => self.shard = Some(link),
                    _ => self.fail("the map names no shard that can be reached".into()),
                }
            }
            Reply::KeepAlive => {}
            other => self.fail(format!("an answer that wasn't asked for: {:?}", other.kind())),
        }
    }

    fn mutate(&mut self, io: &mut Io, correlation: u64, (sequence, acked): (u64, u64), operation: Operation) {
        let mutation = Mutation {
            session: self.cluster.session,
            sequence: Sequence(sequence),
            acked_upto: Sequence(acked),
            operation,
        };
        self.send(io, self.metadata, correlation, &Request::Mutate(mutation), None);
    }

    // ---- a job

    fn begin_job(&mut self, io: &mut Io, command: Command) {
        if let Some(reason) = &self.broken {
            return command.replier.send(Err(reason.clone()));
        }
        let Command { job, replier } = command;
        let (What::Put { bytes }
        | What::Get { bytes, .. }
        | What::Check { bytes, .. }
        | What::Create { bytes }) = job.what;
        for flight in self.flights.drain(..) {
            io.memory().release(flight.slot);
        }
        for place in 0..job.window {
            match Flight::new(io.memory(), bytes, u64::from(place) + 1) {
                Some(flight) => self.flights.push(flight),
                None => return replier.send(Err("no memory for the window".into())),
            }
        }
        let chunks_before = self.stored.get(&bytes).map_or(0, Vec::len);
        if matches!(job.what, What::Get { .. }) && chunks_before == 0 {
            return replier.send(Err("nothing of this size was put".into()));
        }
        let tally = Tally {
            operations: 0,
            bytes: 0,
            nanoseconds: 0,
            client_cpu_nanoseconds: 0,
            latency: Histogram::new_with_bounds(1000, 600 * Nanos::SECOND, 3).expect("sensible bounds"),
            chunks_before,
        };
        let (started, cpu_started) = (runtime::clock::now(), thread_cpu());
        self.running = Some(Running { job, replier, begun: 0, in_flight: 0, started, cpu_started, tally });
        for place in 0..self.flights.len() {
            self.begin(io, place);
        }
        self.end_if_idle(started);
    }

    /// Begins the next operation in this place, if there is one.
    fn begin(&mut self, io: &mut Io, place: usize) {
        let Some(running) = &mut self.running else { return };
        let now = runtime::clock::now();
        let limit = u64::try_from(running.job.time.as_nanos()).unwrap_or(u64::MAX);
        if running.begun >= running.job.operations || now.since(running.started) >= limit {
            return;
        }
        let number = running.begun;
        let what = running.job.what;
        running.begun += 1;
        running.in_flight += 1;
        self.serial += 1;
        let flight = &mut self.flights[place];
        flight.correlation = self.serial << SERIAL_SHIFT | place as u64;
        flight.since = now;
        match what {
            What::Put { .. } | What::Create { .. } => {
                self.ordinal += 1;
                flight.chunk = Chunk { ordinal: self.ordinal, root: 0 };
                flight.moved = 0;
                flight.stage = Stage::Putting;
                self.sending.push_back(place);
                self.pump(io);
            }
            What::Get { bytes, order } => {
                let place_in_order = match order {
                    Order::Sequential => number,
                    Order::Random => {
                        self.random ^= self.random << 13;
                        self.random ^= self.random >> 7;
                        self.random ^= self.random << 17;
                        self.random
                    }
                };
                let chunks = &self.stored[&bytes];
                let at = usize::try_from(place_in_order % chunks.len() as u64).expect("an index");
                let chunk = chunks[at];
                self.get(io, place, chunk);
            }
            What::Check { bytes, first } => {
                let at = first + usize::try_from(number).expect("an index");
                match self.stored.get(&bytes).and_then(|chunks| chunks.get(at)).copied() {
                    Some(chunk) => self.get(io, place, chunk),
                    None => self.fail(format!("there is no chunk number {at} to check")),
                }
            }
        }
    }

    fn get(&mut self, io: &mut Io, place: usize, chunk: Chunk) {
        let flight = &mut self.flights[place];
        (flight.stage, flight.chunk, flight.moved) = (Stage::Getting, chunk, 0);
        let correlation = flight.correlation;
        let id = ChunkId { session: self.cluster.session, ordinal: chunk.ordinal };
        let get = Request::GetChunk(GetChunk { id, first_block: 0, block_count: 0 });
        if let Some(shard) = self.shard {
            self.send(io, shard, correlation, &get, None);
        }
    }

    /// Sends fragments of waiting puts, in order, as far as credit reaches (R38). A chunk is hashed right before it is sent, while the
    /// kernel still has something to do: then its bytes are in the cache when they are copied.
    fn pump(&mut self, io: &mut Io) {
        let Some(shard) = self.shard else { return };
        while self.unsent < UNSENT_MAX
            && let Some(&place) = self.sending.front()
        {
            let flight = &mut self.flights[place];
            if flight.chunk.root == 0 {
                let id = ChunkId { session: self.cluster.session, ordinal: flight.chunk.ordinal };
                flight.mint(io.memory(), self.cluster.id, id);
            }
            let left = flight.bytes - flight.moved;
            let Some(bytes) = fragment_bytes(left, self.credit) else { return };
            let offset = flight.moved;
            flight.moved += bytes;
            self.credit -= u64::from(bytes);
            if flight.moved == flight.bytes {
                self.sending.pop_front();
            }
            let range = SlotRange { slot: flight.slot, offset, len: bytes };
            let correlation = flight.correlation;
            let id = ChunkId { session: self.cluster.session, ordinal: flight.chunk.ordinal };
            let (length, root) = (flight.bytes, flight.chunk.root);
            let leaves = std::mem::take(&mut flight.leaves);
            let request = if offset == 0 {
                let slice = wire::slice_of(id, u32::from(self.cluster.map.ring_bits));
                Request::PutChunk(PutChunk {
                    id,
                    length,
                    root,
                    map: self.cluster.map.number,
                    epoch: self.cluster.map.slices[usize::from(slice.0)].chain.epoch,
                    class: HopClass::Client,
                    leaves: Leaves::new(&leaves),
                })
            } else {
                Request::PutFragment { class: HopClass::Client, offset }
            };
            self.send(io, shard, correlation, &request, Some(range));
            self.flights[place].leaves = leaves;
        }
    }

    fn commit(&mut self, io: &mut Io, place: usize, map: MapNumber) {
        let (sequence, acked_upto) = self.sequences.next();
        let flight = &mut self.flights[place];
        flight.stage = Stage::Committing;
        flight.sequence = sequence;
        let correlation = flight.correlation;
        let run = Run {
            file_offset: 0,
            length: u64::from(flight.bytes),
            first: ChunkId { session: self.cluster.session, ordinal: flight.chunk.ordinal },
            count: 1,
            chunk_bytes: CHUNK_BYTES_DEFAULT,
            last_chunk_bytes: flight.bytes,
            skip: 0,
        };
        let commit = Commit {
            place: Place {
                volume: self.cluster.volume,
                directory: InodeId::ROOT,
                path: format!("{:016x}", flight.chunk.ordinal).into_bytes(),
            },
            change: Change::Replace { size: u64::from(flight.bytes) },
            extents: Extents { runs: vec![run], roots: vec![flight.chunk.root] },
            upload: 0,
            attributes: None,
            precondition: Precondition::Absent,
            map,
        };
        self.mutate(io, correlation, (sequence, acked_upto), Operation::Commit(commit));
    }

    /// The operation in this place has ended well.
    fn finish(&mut self, io: &mut Io, place: usize) {
        let Some(running) = &mut self.running else { return };
        let now = runtime::clock::now();
        let flight = &mut self.flights[place];
        if matches!(running.job.what, What::Put { .. } | What::Create { .. }) {
            self.stored.entry(flight.bytes).or_default().push(flight.chunk);
        }
        flight.stage = Stage::Idle;
        running.in_flight -= 1;
        running.tally.operations += 1;
        running.tally.bytes += u64::from(flight.bytes);
        running.tally.latency.saturating_record(now.since(flight.since));
        self.begin(io, place);
        self.end_if_idle(now);
    }

    fn end_if_idle(&mut self, now: Nanos) {
        if self.running.as_ref().is_some_and(|running| running.in_flight == 0) {
            let mut running = self.running.take().expect("just looked");
            running.tally.nanoseconds = now.since(running.started);
            running.tally.client_cpu_nanoseconds = thread_cpu() - running.cpu_started;
            running.replier.send(Ok(running.tally));
        }
    }

    /// The place that a reply belongs to.
    fn place_of(&self, correlation: u64, stage: Stage) -> Option<usize> {
        let place = usize::try_from(correlation & ((1 << SERIAL_SHIFT) - 1)).ok()?;
        let flight = self.flights.get(place)?;
        (flight.correlation == correlation && flight.stage == stage).then_some(place)
    }

    fn on_reply(&mut self, io: &mut Io, link: LinkId, prefix: &Prefix, message: &[u8]) -> Payload {
        let reply = match Reply::decode(prefix.kind, prefix.status, message) {
            Ok(reply) => reply,
            Err(error) => return self.violation(format!("an answer to {:?}: {error}", prefix.kind)),
        };
        if prefix.status != Status::Ok {
            return self.violation(format!("{:?} was answered {:?}", prefix.kind, prefix.status));
        }
        if prefix.correlation == OWN {
            self.on_connecting(io, link, reply);
            return Payload::None;
        }
        match reply {
            Reply::PutChunk { map } => {
                let Some(place) = self.place_of(prefix.correlation, Stage::Putting) else {
                    return self.violation("an answer to an unknown put".into());
                };
                let is_create =
                    self.running.as_ref().is_some_and(|run| matches!(run.job.what, What::Create { .. }));
                if is_create {
                    self.commit(io, place, map);
                } else {
                    self.finish(io, place);
                }
                Payload::None
            }
            Reply::Mutate(_) => {
                let Some(place) = self.place_of(prefix.correlation, Stage::Committing) else {
                    return self.violation("an answer to an unknown commit".into());
                };
                self.sequences.finish(self.flights[place].sequence);
                self.finish(io, place);
                Payload::None
            }
            Reply::GetChunk(part) => {
                let Some(place) = self.place_of(prefix.correlation, Stage::Getting) else {
                    return self.violation("an answer to an unknown get".into());
                };
                let flight = &self.flights[place];
                let fits = part.length == flight.bytes
                    && part.offset == flight.moved
                    && prefix.payload_bytes > 0
                    && flight.moved + prefix.payload_bytes <= flight.bytes;
                if !fits {
                    return self.violation("a part of a chunk that doesn't fit".into());
                }
                self.arriving =
                    Some(Arriving { flight: place, bytes: prefix.payload_bytes, more: prefix.more });
                Payload::Into { slot: flight.slot, offset: part.offset }
            }
            _ => self.violation("an answer that wasn't asked for".into()),
        }
    }

    fn violation(&mut self, reason: String) -> Payload {
        self.fail(reason);
        Payload::Close(CloseReason::Protocol)
    }
}

impl Service for Client {
    fn on_open(&mut self, io: &mut Io, link: LinkId, _: LinkKind, _: Option<SocketAddr>) {
        self.hello(io, link);
    }

    fn on_head(&mut self, io: &mut Io, link: LinkId, prefix: &Prefix, message: &[u8]) -> Payload {
        if prefix.reply {
            return self.on_reply(io, link, prefix, message);
        }
        match Request::decode(prefix.kind, message) {
            Ok(Request::Credit { bytes, .. }) if prefix.kind == FrameKind::Credit => {
                self.credit += u64::from(bytes);
                self.pump(io);
                Payload::None
            }
            _ => self.violation("a request to a client".into()),
        }
    }

    fn on_payload(&mut self, io: &mut Io, _: LinkId) {
        let Some(arrived) = self.arriving.take() else { return };
        let flight = &mut self.flights[arrived.flight];
        flight.moved += arrived.bytes;
        if arrived.more {
            return;
        }
        if flight.is_genuine(io.memory_ref(), self.cluster.id, self.cluster.session) {
            self.finish(io, arrived.flight);
        } else {
            let ordinal = flight.chunk.ordinal;
            self.fail(format!("chunk {ordinal} came back with other bytes than were put"));
        }
    }

    fn on_close(&mut self, _: &mut Io, _: LinkId, reason: CloseReason) {
        if reason != CloseReason::Stopping {
            self.fail(format!("a connection ended: {reason}"));
        }
    }

    fn on_sent(&mut self, io: &mut Io, _: LinkId, token: u64) {
        self.unsent -= token;
        self.pump(io);
    }

    fn on_mail(&mut self, io: &mut Io) {
        while let Some(command) = self.inbox.pop() {
            self.begin_job(io, command);
        }
    }

    fn on_timer(&mut self, io: &mut Io, now: Nanos) {
        io.arm(now.after(TICK));
        if now >= self.keepalive_at && self.broken.is_none() {
            self.keepalive_at = now.after(KEEPALIVE_EVERY);
            let request = Request::KeepAlive { session: self.cluster.session, pins: Vec::new() };
            self.send(io, self.metadata, OWN, &request, None);
        }
    }
}

/// The next fragment's bytes: as large as credit and limits allow, a multiple of the unit unless it is the last (R39).
fn fragment_bytes(left: u32, credit: u64) -> Option<u32> {
    let whole = left.min(u32::try_from(PAYLOAD_BYTES_MAX).expect("256 KiB"));
    if u64::from(whole) <= credit {
        return Some(whole);
    }
    let unit = FRAGMENT_UNIT_BYTES as u64;
    u32::try_from(credit / unit * unit).ok().filter(|bytes| *bytes > 0 && *bytes < left)
}

/// CPU time of this thread, in nanoseconds; 0 where the kernel doesn't keep it.
fn thread_cpu() -> u64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    text.split(' ').next().and_then(|word| word.parse().ok()).unwrap_or(0)
}

fn empty_map() -> Map {
    Map {
        number: MapNumber(0),
        cluster: ClusterId::default(),
        ring_bits: 0,
        settings: wire::map::Settings { chain_length: 1, min_in_sync: 1, reclaim_delay_ms: 0 },
        nodes: Vec::new(),
        stores: Vec::new(),
        slices: Vec::new(),
        groups: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fragments_follow_size_and_credit() {
        const K: u32 = 1024;
        for (left, credit, expected) in [
            (4 * K, 1 << 20, Some(4 * K)),
            (1024 * K, 1 << 20, Some(256 * K)),
            (1024 * K, u64::from(100 * K), Some(64 * K)),
            (1024 * K, u64::from(64 * K - 1), None),
            (4 * K, u64::from(4 * K - 1), None),
        ] {
            assert_eq!(fragment_bytes(left, credit), expected, "{left} at credit {credit}");
        }
    }
}
