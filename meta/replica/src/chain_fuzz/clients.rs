//! Clients: each has a session and one write under way, which it repeats at whatever member until it is answered; reads go on beside it.

use std::collections::BTreeMap;

use wire::meta::{
    Answer, Change, Commit, Extents, Mutation, Operation, Outcome, Place, Precondition, Query, VolumePolicy,
};
use wire::{InodeId, MapNumber, Nanos, Sequence, SessionId, Status, VolumeId};

use super::{NODES, World, at};
use crate::{Body, Event, Request, RequestBody};

pub(super) const KEYS: usize = 3;
const OPEN: u64 = 0;
const KEEP_ALIVE: u64 = 1 << 40;
const READ: u64 = 1 << 32;

/// A write under way.
#[derive(Clone, Debug)]
struct Write {
    mutation: Mutation,
    key: usize,
    /// Versions of the key up to here were seen before it began.
    floor: u64,
}

#[derive(Clone, Copy, Debug)]
struct Read {
    key: usize,
    floor: u64,
}

#[derive(Clone, Debug)]
pub(super) struct Client {
    number: usize,
    session: Option<SessionId>,
    /// When the next try is due; of a session, or of the write.
    next: Nanos,
    heard: Nanos,
    write: Option<Write>,
    /// Every mutation sent, by session and sequence, and its first answer.
    sent: BTreeMap<(SessionId, u64), Mutation>,
    answered: BTreeMap<(SessionId, u64), Outcome>,
    acked_upto: u64,
    reads: BTreeMap<u64, Read>,
    last_read: u64,
    quiet: bool,
}

pub(super) fn path(key: usize) -> Vec<u8> {
    // One name is larger than a message of this world.
    if key == 0 { vec![b'k'; 200] } else { format!("k{key}").into_bytes() }
}

fn place(key: usize) -> Place {
    Place { volume: VolumeId(1), directory: InodeId::ROOT, path: path(key) }
}

/// The key and value that a mutation writes.
pub(super) fn written(operation: &Operation) -> Option<(usize, u64)> {
    let Operation::Commit(Commit { place, change: Change::Replace { size }, .. }) = operation else {
        return None;
    };
    (0..KEYS).find(|key| path(*key) == place.path).map(|key| (key, *size))
}

impl Client {
    pub(super) fn new(number: usize) -> Self {
        Self {
            number,
            session: None,
            next: Nanos(0),
            heard: Nanos(0),
            write: None,
            sent: BTreeMap::new(),
            answered: BTreeMap::new(),
            acked_upto: 0,
            reads: BTreeMap::new(),
            last_read: READ,
            quiet: false,
        }
    }

    /// Begins nothing more.
    pub(super) fn hurry(&mut self) {
        self.quiet = true;
    }

    pub(super) fn is_idle(&self) -> bool {
        self.write.is_none()
    }

    pub(super) fn answers(&self) -> impl Iterator<Item = (SessionId, u64, Outcome)> {
        self.answered.iter().map(|((session, sequence), outcome)| (*session, *sequence, *outcome))
    }

    pub(super) fn operation(&self, session: SessionId, sequence: Sequence) -> Option<&Operation> {
        self.sent.get(&(session, sequence.0)).map(|mutation| &mutation.operation)
    }
}

impl World {
    pub(super) fn step_clients(&mut self) {
        for client in 0..self.clients.len() {
            match self.random.below(12) {
                0..=3 => self.begin_write(client),
                4 | 5 => self.begin_read(client),
                6 => self.repeat_any(client),
                7 => self.keep_alive(client),
                _ => {}
            }
            if self.clients[client].next <= self.now {
                self.try_again(client);
            }
        }
    }

    /// Mostly whom the map names, sometimes anybody.
    fn pick(&mut self, reader: bool) -> usize {
        let view = &self.control.view;
        let named = if reader { view.reader() } else { view.head() };
        let anybody = self.random.below(NODES);
        // A reader is sometimes one that isn't any more.
        if self.random.one_in(if reader { 2 } else { 5 }) { anybody } else { named.map_or(anybody, at) }
    }

    fn ask(&mut self, node: usize, client: usize, correlation: u64, body: RequestBody) {
        let client = u64::try_from(client).unwrap();
        self.handle(node, Event::Request(Request { client, correlation, deadline: None, body }));
    }

    fn begin_write(&mut self, client: usize) {
        let key = self.random.below(KEYS);
        let value = self.random.next() >> 8;
        let first = self.random.one_in(10);
        let floor = self.checks.floors[key];
        let now = self.now;
        let this = &mut self.clients[client];
        let (Some(session), None, false) = (this.session, &this.write, this.quiet) else { return };
        let last = this.sent.range((session, 0)..=(session, u64::MAX)).next_back();
        let sequence = last.map_or(1, |((_, sequence), _)| sequence + 1);
        while this.answered.contains_key(&(session, this.acked_upto + 1)) {
            this.acked_upto += 1;
        }
        let policy = VolumePolicy { chunk_bytes: 4096, retention_seconds: 0 };
        let operation = if sequence == 1 || first {
            Operation::CreateVolume { name: "v".into(), policy }
        } else {
            Operation::Commit(Commit {
                place: place(key),
                change: Change::Replace { size: value },
                extents: Extents { runs: Vec::new(), roots: Vec::new() },
                upload: 0,
                attributes: None,
                precondition: Precondition::Any,
                map: MapNumber(1),
            })
        };
        let mutation = Mutation {
            session,
            sequence: Sequence(sequence),
            acked_upto: Sequence(this.acked_upto.saturating_sub(2)),
            operation,
        };
        this.sent.insert((session, sequence), mutation.clone());
        this.write = Some(Write { mutation, key, floor });
        this.next = now;
    }

    fn try_again(&mut self, client: usize) {
        let node = self.pick(false);
        let wait = u64::try_from(20 + self.random.below(150)).unwrap() * Nanos::MILLISECOND;
        let this = &mut self.clients[client];
        this.next = self.now.after(wait);
        match (this.session, &this.write) {
            (None, _) if !this.quiet => self.ask(node, client, OPEN, RequestBody::OpenSession),
            (Some(_), Some(write)) => {
                let mutation = write.mutation.clone();
                self.ask(node, client, mutation.sequence.0, RequestBody::Mutate(mutation));
            }
            _ => {}
        }
    }

    /// A copy of any request comes late.
    fn repeat_any(&mut self, client: usize) {
        let sent = &self.clients[client].sent;
        let which = self.random.below(sent.len().min(6));
        if let Some(mutation) = sent.values().rev().nth(which).cloned() {
            self.counts.retries += 1;
            let node = self.pick(false);
            self.ask(node, client, mutation.sequence.0, RequestBody::Mutate(mutation));
        }
    }

    fn keep_alive(&mut self, client: usize) {
        let this = &mut self.clients[client];
        // Some are silent until they expire.
        let Some(session) = this.session.filter(|_| self.now.since(this.heard) > Nanos::SECOND) else {
            return;
        };
        if this.number == 0 && self.random.one_in(3) {
            let node = self.pick(false);
            self.clients[client].heard = self.now;
            self.ask(node, client, KEEP_ALIVE, RequestBody::KeepAlive { session, pins: Vec::new() });
        }
    }

    fn begin_read(&mut self, client: usize) {
        let key = self.random.below(KEYS);
        let node = self.pick(true);
        let floor = self.checks.floors[key];
        let this = &mut self.clients[client];
        this.last_read += 1;
        let correlation = this.last_read;
        this.reads.insert(correlation, Read { key, floor });
        let query = Query::Lookup { place: place(key), follow: false, xattrs: false, roots: 0 };
        self.ask(node, client, correlation, RequestBody::Query(query));
    }

    pub(super) fn on_reply(
        &mut self,
        node: usize,
        client: u64,
        correlation: u64,
        status: Status,
        body: &Body,
    ) {
        let client = usize::try_from(client).unwrap();
        match body {
            Body::Session(grant) => {
                let this = &mut self.clients[client];
                (this.session, this.write, this.acked_upto) = (Some(grant.session), None, 0);
            }
            Body::Outcome(outcome) => {
                assert_eq!(status, outcome.status);
                self.on_outcome(node, client, correlation, outcome);
            }
            Body::Answer(answer) => self.on_read(client, correlation, Some(answer)),
            Body::Refusal(_) if status == Status::NotFound => self.on_read(client, correlation, None),
            Body::Refusal(_) if status == Status::SessionExpired => {
                let this = &mut self.clients[client];
                let is_write =
                    this.write.as_ref().is_some_and(|write| write.mutation.sequence.0 == correlation);
                if is_write || correlation == KEEP_ALIVE {
                    (this.session, this.write) = (None, None); // its outcome is unknown
                }
            }
            Body::Refusal(_) | Body::Empty => {
                let this = &mut self.clients[client];
                this.reads.remove(&correlation);
                assert!(
                    matches!(
                        status,
                        Status::Ok
                            | Status::Busy
                            | Status::NotServing
                            | Status::WrongEpoch
                            | Status::BadRequest
                    ),
                    "{status}"
                );
            }
        }
    }

    fn on_outcome(&mut self, node: usize, client: usize, correlation: u64, outcome: &Outcome) {
        self.counts.outcomes += 1;
        self.check_outcome(node, outcome.index);
        let this = &mut self.clients[client];
        // A late copy's answer names the session by its entry alone; the last check finds out whose it is.
        let Some(write) = this.write.clone().filter(|write| write.mutation.sequence.0 == correlation) else {
            return;
        };
        let key = (write.mutation.session, correlation);
        if self.checks.is_of(outcome.index, &write.mutation) {
            let before = this.answered.insert(key, *outcome);
            assert!(before.is_none_or(|before| before == *outcome), "I7: two outcomes of {key:?}");
            if outcome.status == Status::Ok && written(&write.mutation.operation).is_some() {
                assert!(outcome.index.0 > write.floor, "I8: a write went before what was seen before it");
                let floor = &mut self.checks.floors[write.key];
                *floor = (*floor).max(outcome.index.0);
            }
            this.write = None;
        }
    }

    fn on_read(&mut self, client: usize, correlation: u64, answer: Option<&Answer>) {
        let Some(read) = self.clients[client].reads.remove(&correlation) else { return };
        self.counts.reads += 1;
        let (version, value) = match answer {
            Some(Answer::Entry(entry)) => (entry.attributes.version.0, entry.attributes.size),
            Some(other) => panic!("{other:?}"),
            None => (0, 0),
        };
        assert!(
            version >= read.floor,
            "I8: read version {version} of key {}, after {}",
            read.key,
            read.floor
        );
        self.checks.floors[read.key] = self.checks.floors[read.key].max(version);
        self.checks.reads.push((read.key, version, value));
    }

    /// The connections to a member broke, or the member ended them.
    pub(super) fn lose(&mut self, client: usize, _node: usize) {
        self.clients[client].next = self.now;
    }

    pub(super) fn on_disconnect(&mut self, client: u64) {
        self.counts.disconnects += 1;
        self.clients[usize::try_from(client).unwrap()].next = self.now;
    }
}
