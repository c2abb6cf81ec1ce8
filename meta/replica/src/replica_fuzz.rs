//! A replica under a careless world: clients that retry, duplicate and reorder, flushes that come late, crashes at any durable prefix,
//! checkpoints under load, stores that lose deletions. Against a model that is nothing but the outcomes themselves.
//!
//! Shown: I7 (one outcome for each sequence, for ever), R12 and R14 (no answer whose entry can vanish), R15 (checkpoint + log = the state),
//! R23–R25 (a chunk is deleted only when nothing names it, and not before the delay), I12 (in the end nothing is left over).

use std::collections::{BTreeMap, BTreeSet};

use namespace::ChunkState;
use wire::meta::{
    Answer, Change, Commit, CopyRange, Extents, Mutation, Operation, Outcome, Place, Precondition, Query,
    RemoveKind, Run, VolumePolicy,
};
use wire::{
    ChunkId, CommitIndex, InodeId, MapNumber, Nanos, Sequence, SessionId, Status, Timestamp, Version,
    VolumeId,
};

use crate::{
    Body, Effect, Effects, Entry, Event, LogRecord, RecordNumber, Replica, ReplicaConfig, Request,
    RequestBody, Restore, State,
};

const RECLAIM_DELAY: u64 = 2 * Nanos::SECOND;

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

/// A client: its session, and every mutation it ever sent.
struct Client {
    session: SessionId,
    sent: Vec<Mutation>,
    /// Answers it got, by sequence.
    answers: BTreeMap<u64, Outcome>,
    acked_upto: u64,
    next_ordinal: u64,
}

struct World {
    random: Random,
    config: ReplicaConfig,
    replica: Replica,
    now: Nanos,
    /// Every entry appended; those up to `durable` survive.
    log: Vec<Vec<u8>>,
    durable: usize,
    /// What a restart would find: the durable entries and nothing else.
    shadow: State,
    /// The checkpoint being written, and the last whole one.
    pages: Vec<Vec<u8>>,
    page_index: CommitIndex,
    checkpoint: Option<(CommitIndex, Vec<Vec<u8>>)>,
    clients: Vec<Client>,
    opening: bool,
    /// Chunks that the stores hold, and since when nothing named them when they were deleted.
    stored: BTreeSet<ChunkId>,
    /// When each chunk was last named by a version, as the world sees it.
    named_at: BTreeMap<ChunkId, Nanos>,
    inventory: Option<(u16, Option<ChunkId>)>,
    page_out: bool,
    crashes: u32,
    retried: u32,
    reclaimed: u64,
    orphaned: u64,
}

/// The entry in a record of the log.
fn entry_of(record: &[u8]) -> Entry {
    let LogRecord::Entry { entry, .. } = LogRecord::decode(record).unwrap() else {
        panic!("a log without cuts")
    };
    Entry::decode(entry).unwrap()
}

fn place(path: &str) -> Place {
    Place { volume: VolumeId(1), directory: InodeId::ROOT, path: path.as_bytes().to_vec() }
}

impl World {
    fn new(seed: u64) -> Self {
        let config = ReplicaConfig {
            reclaim_delay: RECLAIM_DELAY,
            session_ttl: 8 * Nanos::SECOND,
            pin_ttl: Nanos::SECOND,
            orphan_interval: 3 * Nanos::SECOND,
            upkeep_interval: Nanos::SECOND / 2,
            delete_resend: Nanos::SECOND,
            checkpoint_log_bytes: 6_000,
            checkpoint_page_bytes: 300,
            ..ReplicaConfig::default()
        };
        Self {
            random: Random(seed),
            config,
            replica: Replica::new(config, Nanos(1)),
            now: Nanos(1),
            log: Vec::new(),
            durable: 0,
            shadow: State::default(),
            pages: Vec::new(),
            page_index: CommitIndex(0),
            checkpoint: None,
            clients: Vec::new(),
            opening: false,
            stored: BTreeSet::new(),
            named_at: BTreeMap::new(),
            inventory: None,
            page_out: false,
            crashes: 0,
            retried: 0,
            reclaimed: 0,
            orphaned: 0,
        }
    }

    fn handle(&mut self, event: Event<'_>) {
        let mut effects = Effects::default();
        let wall = Timestamp(1 << 50).0 + self.now.0.cast_signed();
        self.replica.handle(self.now, Timestamp(wall), event, &mut effects);
        for effect in &effects.list {
            match effect {
                Effect::Append { record, bytes } => {
                    assert_eq!(record.0, u64::try_from(self.log.len()).unwrap() + 1);
                    self.log.push(effects.slice(bytes).to_vec());
                }
                Effect::Reply { client, correlation, status, body, .. } => {
                    let body = &effects.bodies[usize::try_from(*body).unwrap()];
                    self.on_reply(*client, *correlation, *status, body);
                }
                Effect::DeleteChunks { first, count, orphans, .. } => {
                    self.on_delete(*first, *count, *orphans);
                }
                Effect::RequestInventory { source, after } => self.inventory = Some((*source, *after)),
                Effect::WriteCheckpointPage { index, record, number, last, bytes } => {
                    if *number == 0 {
                        self.pages.clear();
                    }
                    self.pages.push(effects.slice(bytes).to_vec());
                    self.page_index = *index;
                    assert!(usize::try_from(index.0).unwrap() <= self.durable, "R15");
                    assert_eq!(record.0, index.0, "nothing is ever cut here");
                    self.page_out = !*last;
                    if *last {
                        self.checkpoint = Some((*index, std::mem::take(&mut self.pages)));
                    }
                }
                Effect::TrimLog { .. } | Effect::Arm(_) | Effect::ClockStepped { .. } => {}
                other => panic!("{other:?} of a replica without a chain"),
            }
        }
        if !self.page_out && self.checkpoint.as_ref().is_some_and(|(index, _)| *index == self.page_index) {
            let index = std::mem::take(&mut self.page_index);
            if index > CommitIndex(0) {
                self.handle(Event::CheckpointDurable { record: RecordNumber(index.0) });
            }
        }
    }

    fn on_reply(&mut self, client: u64, correlation: u64, status: Status, body: &Body) {
        match body {
            Body::Session(grant) => {
                self.opening = false;
                self.clients.push(Client {
                    session: grant.session,
                    sent: Vec::new(),
                    answers: BTreeMap::new(),
                    acked_upto: 0,
                    next_ordinal: 0,
                });
            }
            Body::Outcome(outcome) => {
                assert_eq!(status, outcome.status);
                assert!(
                    usize::try_from(outcome.index.0).unwrap() <= self.durable,
                    "R12: answered before durable"
                );
                let client = &mut self.clients[usize::try_from(client).unwrap()];
                if let Some(before) = client.answers.insert(correlation, *outcome) {
                    assert_eq!(before, *outcome, "I7: two answers to one sequence");
                    self.retried += 1;
                }
            }
            _ => assert!(
                matches!(status, Status::Ok | Status::BadRequest | Status::SessionExpired | Status::Busy),
                "{status}"
            ),
        }
    }

    fn on_delete(&mut self, first: ChunkId, count: u32, orphans: bool) {
        for ordinal in first.ordinal..first.ordinal + u64::from(count) {
            let id = ChunkId { session: first.session, ordinal };
            // I10: judged by what is durable, which is all that is left after a crash here.
            let state = &self.shadow;
            assert_ne!(state.namespace.chunk_state(id), ChunkState::Referenced, "I10 {id}");
            if orphans {
                assert!(!state.is_open(id.session), "R22");
                self.orphaned += 1;
            } else {
                self.reclaimed += 1;
                let named = self.named_at.get(&id).copied().unwrap_or_default();
                assert!(self.now.since(named) >= RECLAIM_DELAY, "R25");
            }
        }
        // The stores lose a third of the deletions, and of the answers.
        let fate = self.random.below(3);
        if fate > 0 {
            for ordinal in first.ordinal..first.ordinal + u64::from(count) {
                self.stored.remove(&ChunkId { session: first.session, ordinal });
            }
        }
        if fate > 1 && !orphans {
            self.handle(Event::ShardDeleted { first, count });
        }
    }

    /// Applies to the shadow what has become durable.
    fn advance_shadow(&mut self) {
        for at in self.shadow.namespace.index().0..u64::try_from(self.durable).unwrap() {
            let entry = entry_of(&self.log[usize::try_from(at).unwrap()]);
            self.shadow.apply(CommitIndex(at + 1), entry).unwrap();
        }
    }

    fn crash(&mut self) {
        self.crashes += 1;
        // Any prefix that keeps what was reported durable may have reached the disk.
        let beyond = u64::try_from(self.log.len() - self.durable).unwrap();
        self.durable += usize::try_from(self.random.below(beyond + 1)).unwrap();
        self.log.truncate(self.durable);
        let mut restore = Restore::new();
        let mut from = 0;
        if let Some((index, pages)) = &self.checkpoint
            && self.random.below(4) > 0
        {
            for page in pages {
                restore.page(page).unwrap();
            }
            from = usize::try_from(index.0).unwrap();
        }
        for (at, entry) in self.log.iter().enumerate().skip(from) {
            restore.record(RecordNumber(u64::try_from(at).unwrap() + 1), entry).unwrap();
        }
        restore.state().namespace.audit().unwrap();
        // R15: with or without the checkpoint the state is the same.
        let mut whole = Restore::new();
        for (at, entry) in self.log.iter().enumerate() {
            whole.record(RecordNumber(u64::try_from(at).unwrap() + 1), entry).unwrap();
        }
        assert!(whole.state() == restore.state());
        self.advance_shadow();
        assert!(*whole.state() == self.shadow);
        self.replica = restore.start(self.config, self.now).unwrap();
        self.pages.clear();
        self.page_out = false;
        self.page_index = CommitIndex(0);
        self.opening = false;
        self.inventory = None;
    }

    fn step(&mut self) {
        self.now = self.now.after(self.random.below(40) * Nanos::MILLISECOND);
        match self.random.below(40) {
            0 => {
                let behind = u64::try_from(self.log.len() - self.durable).unwrap();
                self.durable += usize::try_from(self.random.below(behind + 1)).unwrap();
                self.advance_shadow();
                let record = RecordNumber(u64::try_from(self.durable).unwrap());
                self.handle(Event::Durable { record });
            }
            1..=8 => self.flush(),
            9..=12 => self.handle(Event::Tick),
            13 => self.deliver_inventory(),
            14 if self.page_out => self.handle(Event::CheckpointPageTaken),
            15 => self.open(),
            16 if self.random.below(4) == 0 => self.crash(),
            17..=20 => self.retry(),
            21 => self.keep_alive(),
            _ => self.mutate(),
        }
        self.note_named();
    }

    fn flush(&mut self) {
        self.durable = self.log.len();
        self.advance_shadow();
        let record = RecordNumber(u64::try_from(self.durable).unwrap());
        self.handle(Event::Durable { record });
        if self.page_out {
            self.handle(Event::CheckpointPageTaken);
        }
    }

    fn open(&mut self) {
        if !self.opening && self.clients.len() < 40 {
            self.opening = true;
            self.ask(u64::MAX, 0, RequestBody::OpenSession);
        }
    }

    fn ask(&mut self, client: u64, correlation: u64, body: RequestBody) {
        self.handle(Event::Request(Request { client, correlation, deadline: None, body }));
    }

    /// The last few clients live; earlier ones have died and expire.
    fn lively(&mut self) -> Option<usize> {
        let count = u64::try_from(self.clients.len()).unwrap();
        let back = self.random.below(3) + 1;
        usize::try_from(count.checked_sub(back)?).ok()
    }

    fn mutate(&mut self) {
        let Some(at) = self.lively() else { return self.open() };
        let path = format!("/f{}", self.random.below(6));
        let operation = match self.random.below(10) {
            0 => Operation::Remove {
                place: place(&path),
                kind: RemoveKind::File,
                precondition: Precondition::Any,
            },
            1 => {
                let policy = VolumePolicy { chunk_bytes: 4096, retention_seconds: 0 };
                Operation::CreateVolume { name: "v".into(), policy }
            }
            2 => Operation::CopyRange(CopyRange {
                source: place(&path),
                source_version: Version(0),
                source_offset: 0,
                length: u64::MAX,
                target: place(&format!("/f{}", self.random.below(6))),
                target_offset: self.random.below(50),
                whole: self.random.below(2) == 0,
                precondition: Precondition::Any,
            }),
            kind => self.commit(at, &path, kind),
        };
        let client = &mut self.clients[at];
        let sequence = u64::try_from(client.sent.len()).unwrap() + 1;
        // Everything up to the first answer that is missing was received.
        while client.answers.contains_key(&(client.acked_upto + 1)) {
            client.acked_upto += 1;
        }
        let acked_upto = if self.random.below(2) == 0 { client.acked_upto } else { 0 };
        let mutation = Mutation {
            session: client.session,
            sequence: Sequence(sequence),
            acked_upto: Sequence(acked_upto),
            operation,
        };
        client.sent.push(mutation.clone());
        // Some requests are lost on the way; retries bring them.
        if self.random.below(8) > 0 {
            self.ask(u64::try_from(at).unwrap(), sequence, RequestBody::Mutate(mutation));
        }
    }

    fn commit(&mut self, at: usize, path: &str, kind: u64) -> Operation {
        let count = u32::try_from(1 + self.random.below(3)).unwrap();
        let client = &mut self.clients[at];
        let first = ChunkId { session: client.session, ordinal: client.next_ordinal };
        client.next_ordinal += u64::from(count);
        for ordinal in first.ordinal..client.next_ordinal {
            self.stored.insert(ChunkId { session: first.session, ordinal });
        }
        let change = match kind {
            3..=5 => Change::Replace { size: 100 },
            6 | 7 => Change::Write,
            _ => Change::Append,
        };
        let file_offset = if change == Change::Append { 0 } else { self.random.below(40) };
        let run = Run {
            file_offset,
            length: u64::from(count) * 16,
            first,
            count,
            chunk_bytes: 16,
            last_chunk_bytes: 16,
            skip: 0,
        };
        let roots = (0..u64::from(count)).collect();
        let precondition = if self.random.below(5) == 0 { Precondition::Absent } else { Precondition::Any };
        Operation::Commit(Commit {
            place: place(path),
            change,
            extents: Extents { runs: vec![run], roots },
            upload: 0,
            attributes: None,
            precondition,
            map: MapNumber(1),
        })
    }

    /// Any request ever sent comes once more: unanswered, answered, acknowledged, of a dead session.
    fn retry(&mut self) {
        if self.clients.is_empty() {
            return;
        }
        let at = usize::try_from(self.random.below(u64::try_from(self.clients.len()).unwrap())).unwrap();
        let client = &self.clients[at];
        if client.sent.is_empty() {
            return;
        }
        let which = usize::try_from(self.random.below(u64::try_from(client.sent.len()).unwrap())).unwrap();
        let mutation = client.sent[which].clone();
        self.ask(u64::try_from(at).unwrap(), mutation.sequence.0, RequestBody::Mutate(mutation));
    }

    fn keep_alive(&mut self) {
        let Some(at) = self.lively() else { return };
        let session = self.clients[at].session;
        self.ask(u64::try_from(at).unwrap(), 0, RequestBody::KeepAlive { session, pins: Vec::new() });
    }

    fn deliver_inventory(&mut self) {
        let Some((source, after)) = self.inventory.take() else { return };
        let ids: Vec<ChunkId> = self.stored.iter().filter(|id| Some(**id) > after).take(5).copied().collect();
        let end = ids.len() < 5;
        self.handle(Event::ShardInventory { source, ids: &ids, end });
    }

    /// Remembers for each chunk when a version last named it.
    fn note_named(&mut self) {
        if self.random.below(8) > 0 {
            return;
        }
        // By what can be looked up now: ended versions keep their chunks in the table for as long as the delay.
        for file in 0..6 {
            let lookup = Query::Lookup {
                place: place(&format!("/f{file}")),
                follow: false,
                xattrs: false,
                roots: 8192,
            };
            let Ok(Answer::Entry(entry)) = self.replica.state().namespace.query(&lookup, 0) else { continue };
            assert!(entry.page.end);
            for run in &entry.page.extents.runs {
                for ordinal in run.first.ordinal..run.first.ordinal + u64::from(run.count) {
                    self.named_at.insert(ChunkId { session: run.first.session, ordinal }, self.now);
                }
            }
        }
    }

    /// Each sequence has one outcome in the log, whatever was retried (I7).
    fn check_log(&self) {
        let mut outcomes = BTreeMap::new();
        for entry in &self.log {
            if let crate::Record::Mutation { session, sequence, outcome, .. } = entry_of(entry).record {
                let before = outcomes.insert((session, sequence), outcome);
                assert!(before.is_none(), "I7: {session} {sequence} was executed twice");
            }
        }
        for client in &self.clients {
            for (sequence, outcome) in &client.answers {
                // An answer that left is in the log for ever (I6 on one node).
                assert_eq!(outcomes.get(&(client.session, Sequence(*sequence))), Some(outcome));
            }
        }
    }
}

#[test]
pub(crate) fn nothing_answered_is_lost_or_done_twice() {
    let (mut crashes, mut retried, mut reclaimed, mut orphaned, mut checkpoints) = (0, 0, 0, 0, 0);
    for seed in 1..16 {
        let mut world = World::new(seed);
        for _ in 0..1500 {
            world.step();
        }
        world.check_log();
        world.replica.state().namespace.audit().unwrap();
        // Quiet: everybody is gone, and what nobody needs goes too (I12).
        for round in 0..600 {
            world.now = world.now.after(Nanos::SECOND / 10);
            world.handle(Event::Tick);
            world.flush();
            world.deliver_inventory();
            if round == 100 {
                let session = world.replica.state().clone();
                assert!(session.namespace.audit().is_ok());
            }
        }
        world.check_log();
        let state = world.replica.state();
        for id in &world.stored {
            assert_eq!(
                state.namespace.chunk_state(*id),
                ChunkState::Referenced,
                "seed {seed}: {id} is garbage"
            );
        }
        assert_eq!(state.namespace.deleting_chunks(), 0);
        assert_eq!(world.replica.metrics().sessions, 0);
        crashes += world.crashes;
        retried += world.retried;
        reclaimed += world.reclaimed;
        orphaned += world.orphaned;
        checkpoints += u32::from(world.checkpoint.is_some());
    }
    println!("{crashes} crashes, {retried} retries, {reclaimed} reclaimed, {orphaned} orphans");
    assert!(crashes > 20 && retried > 50 && reclaimed > 100 && orphaned > 50 && checkpoints > 10);
}
