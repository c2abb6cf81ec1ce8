//! The replica by hand: what leaves when, what a retry gets, what a restart keeps.

use wire::limits::SESSION_RESULTS_MAX;
use wire::meta::{
    Answer, Mutation, NewAttributes, Operation, Outcome, Place, Query, SessionGrant, VolumePolicy,
};
use wire::{ChunkId, InodeId, Nanos, Sequence, SessionId, Status, Timestamp, VolumeId};

use crate::{
    Body, Effect, Effects, Entry, Event, LogRecord, LogSpace, RecordNumber, Replica, ReplicaConfig, Request,
    RequestBody, Restore, RestoreError,
};

mod chain;
mod orphans;

/// A replica with a log that is durable when the test says so.
struct Bench {
    replica: Replica,
    now: Nanos,
    log: Vec<Vec<u8>>,
    pages: Vec<Vec<u8>>,
    replies: Vec<(u64, Status, Body)>,
    deletes: Vec<(ChunkId, u32, bool)>,
    inventories: Vec<(u16, Option<ChunkId>)>,
    trimmed: RecordNumber,
    /// By how much the wall clock was set.
    set_by: i64,
    steps: Vec<i64>,
}

fn config() -> ReplicaConfig {
    ReplicaConfig {
        session_ttl: 30 * Nanos::SECOND,
        reclaim_delay: 2 * Nanos::SECOND,
        pin_ttl: 4 * Nanos::SECOND,
        orphan_interval: 5 * Nanos::SECOND,
        checkpoint_page_bytes: 200,
        ..ReplicaConfig::default()
    }
}

impl Bench {
    fn new() -> Self {
        Self::of(Replica::new(config(), Nanos(1)))
    }

    fn of(replica: Replica) -> Self {
        Self {
            replica,
            now: Nanos(1),
            log: Vec::new(),
            pages: Vec::new(),
            replies: Vec::new(),
            deletes: Vec::new(),
            inventories: Vec::new(),
            trimmed: RecordNumber(0),
            set_by: 0,
            steps: Vec::new(),
        }
    }

    fn handle(&mut self, event: Event<'_>) {
        let mut effects = Effects::default();
        let wall = Timestamp((1_000_000 + self.now.0.cast_signed()).saturating_add(self.set_by));
        self.replica.handle(self.now, wall, event, &mut effects);
        for effect in &effects.list {
            match effect {
                Effect::Append { bytes, .. } => {
                    assert!(bytes.len() <= crate::ENTRY_BYTES_MAX);
                    self.log.push(effects.slice(bytes).to_vec());
                }
                Effect::Reply { correlation, status, body, .. } => {
                    let body = effects.bodies[usize::try_from(*body).unwrap()].clone();
                    self.replies.push((*correlation, *status, body));
                }
                Effect::DeleteChunks { first, count, orphans, .. } => {
                    self.deletes.push((*first, *count, *orphans));
                }
                Effect::RequestInventory { source, after } => self.inventories.push((*source, *after)),
                Effect::WriteCheckpointPage { bytes, .. } => self.pages.push(effects.slice(bytes).to_vec()),
                Effect::TrimLog { upto } => self.trimmed = *upto,
                Effect::ClockStepped { nanoseconds } => self.steps.push(*nanoseconds),
                Effect::Arm(_) => {}
                other => panic!("{other:?} of a replica without a chain"),
            }
        }
    }

    fn ask(&mut self, correlation: u64, body: RequestBody) {
        self.handle(Event::Request(Request { client: 1, correlation, deadline: None, body }));
    }

    fn flush(&mut self) {
        let record = self.replica.last_record();
        self.handle(Event::Durable { record });
    }

    fn reply(&mut self) -> (u64, Status, Body) {
        assert_eq!(self.replies.len(), 1, "{:?}", self.replies);
        self.replies.pop().unwrap()
    }

    fn session(&mut self) -> SessionId {
        self.ask(1, RequestBody::OpenSession);
        self.flush();
        match self.reply() {
            (1, Status::Ok, Body::Session(SessionGrant { session, .. })) => session,
            other => panic!("{other:?}"),
        }
    }

    fn mutate(&mut self, session: SessionId, sequence: u64, operation: Operation) -> Outcome {
        self.ask(2, mutation(session, sequence, 0, operation));
        self.flush();
        match self.reply() {
            (2, status, Body::Outcome(outcome)) => {
                assert_eq!(status, outcome.status);
                outcome
            }
            other => panic!("{other:?}"),
        }
    }

    fn restored(&self, entries: usize) -> Replica {
        let mut restore = Restore::new();
        for (index, entry) in (1..).zip(&self.log[..entries]) {
            restore.record(RecordNumber(index), entry).unwrap();
        }
        restore.start(config(), Nanos(1)).unwrap()
    }
}

/// The entry in a record of the log.
fn entry_of(record: &[u8]) -> Result<Entry, namespace::codec::DecodeError> {
    let LogRecord::Entry { entry, .. } = LogRecord::decode(record)? else {
        return Err(namespace::codec::DecodeError::Invalid); // only by damage: this log has no cuts
    };
    Entry::decode(entry)
}

fn mutation(session: SessionId, sequence: u64, acked: u64, operation: Operation) -> RequestBody {
    RequestBody::Mutate(Mutation {
        session,
        sequence: Sequence(sequence),
        acked_upto: Sequence(acked),
        operation,
    })
}

fn create_volume(name: &str) -> Operation {
    let policy = VolumePolicy { chunk_bytes: 1 << 20, retention_seconds: 0 };
    Operation::CreateVolume { name: name.to_string(), policy }
}

fn make_directory(path: &str) -> Operation {
    let place = Place { volume: VolumeId(1), directory: InodeId::ROOT, path: path.into() };
    Operation::MakeDirectory { place, attributes: NewAttributes::default(), parents: false }
}

/// R12, R14: neither a result nor a failure nor a read of it leaves before its entry is durable.
#[test]
fn answers_wait_for_the_log() {
    let mut bench = Bench::new();
    let session = bench.session();
    bench.ask(5, mutation(session, 1, 0, create_volume("a")));
    bench.ask(6, mutation(session, 2, 0, create_volume("a")));
    bench.ask(7, RequestBody::Query(Query::Volume { name: "a".into() }));
    assert!(bench.replies.is_empty());
    bench.handle(Event::Durable { record: RecordNumber(2) });
    assert!(matches!(bench.reply(), (5, Status::Ok, Body::Outcome(_))));
    bench.handle(Event::Durable { record: RecordNumber(3) });
    let replies = std::mem::take(&mut bench.replies);
    assert!(matches!(replies[0], (6, Status::AlreadyExists, Body::Outcome(_))));
    assert!(matches!(replies[1], (7, Status::Ok, Body::Answer(Answer::Volume(_)))));
    bench.ask(8, RequestBody::Query(Query::Volume { name: "b".into() }));
    assert!(matches!(bench.reply(), (8, Status::NotFound, Body::Refusal(_))));
}

/// I7: a retry gets the first result, on its way or done; one that was acknowledged is refused, never executed again.
#[test]
fn a_retry_gets_the_first_result() {
    let mut bench = Bench::new();
    let session = bench.session();
    bench.ask(5, mutation(session, 1, 0, create_volume("a")));
    bench.ask(6, mutation(session, 1, 0, create_volume("a")));
    assert!(bench.replies.is_empty(), "the retry joins the wait");
    bench.flush();
    let replies = std::mem::take(&mut bench.replies);
    assert_eq!((replies[0].1, replies[1].1), (Status::Ok, Status::Ok));
    assert_eq!(replies[0].2, replies[1].2);
    let entries = bench.log.len();
    bench.ask(7, mutation(session, 1, 0, make_directory("ignored")));
    assert_eq!(bench.reply().2, replies[0].2);
    bench.ask(8, mutation(session, 2, 1, make_directory("d")));
    bench.flush();
    assert_eq!(bench.reply().1, Status::Ok);
    assert_eq!(bench.log.len(), entries + 1);
    bench.ask(9, mutation(session, 1, 0, create_volume("c")));
    assert_eq!(bench.reply().1, Status::BadRequest);
    bench.ask(9, mutation(session, 3, 3, create_volume("c")));
    assert_eq!(bench.reply().1, Status::BadRequest);
    bench.ask(9, mutation(SessionId(77), 3, 0, create_volume("c")));
    assert_eq!(bench.reply().1, Status::SessionExpired);
    assert_eq!(bench.log.len(), entries + 1);
}

/// R17: a session has room for so many results; acknowledging makes room.
#[test]
fn results_have_a_limit() {
    let mut bench = Bench::new();
    let session = bench.session();
    let limit = u64::try_from(SESSION_RESULTS_MAX).unwrap();
    for sequence in 1..=limit {
        bench.mutate(session, sequence, create_volume(&format!("v{sequence}")));
    }
    bench.ask(3, mutation(session, limit + 1, 0, create_volume("more")));
    assert_eq!(bench.reply().1, Status::Busy);
    bench.ask(3, mutation(session, limit + 1, limit - 1, create_volume("more")));
    bench.flush();
    assert_eq!(bench.reply().1, Status::Ok);
    assert_eq!(bench.replica.metrics().results, 2);
}

/// R21, R22: sessions end by entries; silence ends them, keepalives don't touch the log, a new head grants a full TTL.
#[test]
fn sessions_expire_by_the_log() {
    let mut bench = Bench::new();
    let silent = bench.session();
    let lively = bench.session();
    let entries = bench.log.len();
    pass_time(&mut bench, 20 * Nanos::SECOND);
    bench.ask(3, RequestBody::KeepAlive { session: lively, pins: Vec::new() });
    assert_eq!(bench.reply().1, Status::Ok);
    pass_time(&mut bench, 29 * Nanos::SECOND);
    assert_eq!(bench.log.len(), entries);
    while bench.now < Nanos(31 * Nanos::SECOND) {
        bench.now = bench.now.after(Nanos::SECOND / 10);
        bench.handle(Event::Tick);
    }
    assert_eq!(bench.log.len(), entries + 1);
    bench.ask(4, RequestBody::KeepAlive { session: silent, pins: Vec::new() });
    assert!(bench.replies.is_empty(), "the verdict rests on an entry that isn't durable");
    bench.flush();
    assert_eq!(bench.reply().1, Status::SessionExpired);
    let state = bench.replica.state();
    assert!(state.is_closed(silent) && state.is_open(lively));
    assert!(!state.is_closed(SessionId(lively.0 + 1)), "not born yet");
    let again = bench.restored(bench.log.len());
    assert!(again.state() == bench.replica.state());
    bench.ask(5, RequestBody::CloseSession { session: lively });
    bench.ask(6, RequestBody::CloseSession { session: lively });
    bench.flush();
    assert!(bench.replies.iter().all(|reply| reply.1 == Status::Ok));
    assert!(bench.replica.state().is_closed(lively));
}

/// R20: a higher generation closes what was opened before, and its ids are others.
#[test]
fn a_generation_closes_all_sessions() {
    let mut bench = Bench::new();
    let old = bench.session();
    let mut restore = Restore::new();
    restore.record(RecordNumber(1), &bench.log[0]).unwrap();
    let config = ReplicaConfig { generation: 3, ..config() };
    let mut bench = Bench::of(restore.start(config, Nanos(1)).unwrap());
    let new = bench.session();
    assert_eq!((new.generation(), new.counter()), (3, 0));
    assert!(bench.replica.state().is_closed(old) && !bench.replica.state().is_open(old));
    assert!(bench.replica.state().is_open(new));
}

/// R20: under a generation below the log's the ids of sessions would repeat, and every `OpenSession` ended in a panic: refused at the start.
#[test]
fn an_older_maps_generation_is_refused() {
    let mut restore = Restore::new();
    let config = ReplicaConfig { generation: 3, ..config() };
    let mut bench = Bench::of(Replica::new(config, Nanos(1)));
    bench.session();
    for (index, entry) in (1..).zip(&bench.log) {
        restore.record(RecordNumber(index), entry).unwrap();
    }
    let older = ReplicaConfig { generation: 2, ..config };
    assert_eq!(restore.start(older, Nanos(1)).map(drop), Err(RestoreError::Generation(2, 3)));
}

/// R22: a process that was stopped for longer than the TTL expired every session in its first turn, before it read the keepalives that had come.
#[test]
fn a_pause_expires_nobody() {
    let mut bench = Bench::new();
    let session = bench.session();
    pass_time(&mut bench, 5 * Nanos::SECOND);
    bench.now = bench.now.after(100 * Nanos::SECOND);
    let resumed = bench.now.0;
    pass_time(&mut bench, resumed + 20 * Nanos::SECOND);
    assert!(bench.replica.state().is_open(session));
    pass_time(&mut bench, resumed + 31 * Nanos::SECOND);
    assert!(!bench.replica.state().is_open(session), "time runs again");
}

/// R22: a head with too much waiting for its log refuses keepalives, so sessions don't age meanwhile: a disk that stalled for the TTL closed them all.
#[test]
fn a_stalled_log_expires_nobody() {
    let mut bench = Bench::new();
    let (heard, silent) = (bench.session(), bench.session());
    bench.ask(3, mutation(heard, 1, 0, create_volume("a")));
    for _ in 1..crate::WAITING_MAX {
        bench.ask(4, RequestBody::Query(Query::Volume { name: "a".into() }));
    }
    for second in 1..60 {
        bench.now = Nanos(second * Nanos::SECOND);
        bench.handle(Event::Tick);
        bench.ask(5, RequestBody::KeepAlive { session: heard, pins: Vec::new() });
        assert_eq!(bench.reply().1, Status::Busy);
    }
    assert!(bench.replica.state().is_open(heard) && bench.replica.state().is_open(silent));
    bench.flush();
    pass_time(&mut bench, 80 * Nanos::SECOND);
    assert!(bench.replica.state().is_open(heard) && bench.replica.state().is_open(silent));
    pass_time(&mut bench, 95 * Nanos::SECOND);
    assert!(!bench.replica.state().is_open(heard) && !bench.replica.state().is_open(silent));
}

/// R17: while the log is short of space, removals go on in sessions old and new, and upkeep; then upkeep alone; all else waits.
#[test]
fn a_log_short_of_space_takes_what_makes_some() {
    let mut bench = Bench::new();
    let session = bench.session();
    bench.mutate(session, 1, create_volume("a"));
    bench.mutate(session, 2, make_directory("d"));
    bench.mutate(session, 3, make_directory("e"));
    let place = |name: &[u8]| Place { volume: VolumeId(1), directory: InodeId::ROOT, path: name.to_vec() };
    let remove = |name: &[u8]| Operation::Remove {
        place: place(name),
        kind: wire::meta::RemoveKind::Directory,
        precondition: wire::meta::Precondition::Any,
    };
    bench.handle(Event::LogSpace(LogSpace::Short));
    bench.ask(2, mutation(session, 4, 0, make_directory("f")));
    assert_eq!(bench.reply().1, Status::NoSpace);
    assert_eq!(bench.mutate(session, 4, remove(b"d")).status, Status::Ok);
    let other = bench.session();
    assert_eq!(bench.mutate(other, 1, remove(b"e")).status, Status::Ok);
    bench.handle(Event::LogSpace(LogSpace::Scarce));
    bench.ask(3, mutation(session, 5, 0, remove(b"f")));
    assert_eq!(bench.reply().1, Status::NoSpace);
    bench.ask(3, RequestBody::OpenSession);
    assert_eq!(bench.reply().1, Status::NoSpace);
    bench.ask(4, RequestBody::CloseSession { session });
    bench.flush();
    assert_eq!(bench.reply().1, Status::Ok);
    let entries = bench.log.len();
    pass_time(&mut bench, 100 * Nanos::SECOND);
    bench.flush();
    assert!(bench.log.len() > entries, "the other session expires");
    assert!(!bench.replica.state().is_open(other));
    bench.handle(Event::LogSpace(LogSpace::Ample));
    let session = bench.session();
    assert_eq!(bench.mutate(session, 1, make_directory("f")).status, Status::Ok);
}

/// What needs an entry is refused while the log has no space, unremembered, so that the same number goes through later; what needs none goes on.
#[test]
fn a_full_log_says_no_space() {
    let mut bench = Bench::new();
    let session = bench.session();
    bench.handle(Event::LogSpace(LogSpace::Full));
    let entries = bench.log.len();
    bench.ask(2, mutation(session, 1, 0, create_volume("a")));
    assert_eq!(bench.reply(), (2, Status::NoSpace, Body::Refusal(wire::meta::Refusal::default())));
    bench.ask(3, RequestBody::OpenSession);
    assert_eq!(bench.reply().1, Status::NoSpace);
    bench.ask(3, RequestBody::CloseSession { session });
    assert_eq!(bench.reply().1, Status::NoSpace);
    bench.ask(4, RequestBody::KeepAlive { session, pins: Vec::new() });
    assert_eq!(bench.reply().1, Status::Ok);
    bench.ask(5, RequestBody::Query(Query::GroupStatus));
    assert_eq!(bench.reply().1, Status::Ok);
    pass_time(&mut bench, 100 * Nanos::SECOND);
    assert_eq!(bench.log.len(), entries, "nothing is logged, no expiry either");
    bench.handle(Event::LogSpace(LogSpace::Ample));
    assert_eq!(bench.mutate(session, 1, create_volume("a")).status, Status::Ok);
}

/// The limit of an entry holds whatever is asked: the log's assertion ended the whole node. A refusal is a result like any other (R14).
#[test]
fn an_entry_has_a_limit() {
    let mut bench = Bench::new();
    let session = bench.session();
    bench.mutate(session, 1, create_volume("a"));
    let xattrs = vec![wire::meta::Xattr { name: b"x".to_vec(), value: vec![7; 65_000] }];
    let make = |path: Vec<u8>| Operation::MakeDirectory {
        place: Place { volume: VolumeId(1), directory: InodeId::ROOT, path },
        attributes: NewAttributes { xattrs: xattrs.clone(), ..NewAttributes::default() },
        parents: true,
    };
    assert_eq!(bench.mutate(session, 2, make(b"p/".repeat(2048))).status, Status::Ok);
    bench.replica.config.entry_bytes_max = 60_000;
    let before = bench.replica.state().namespace.inode_count();
    let refused = bench.mutate(session, 3, make(b"q".to_vec()));
    assert_eq!((refused.status, refused.index), (Status::TooLarge, bench.replica.committed()));
    assert_eq!(bench.replica.state().namespace.inode_count(), before);
    bench.ask(7, mutation(session, 3, 0, make(b"q".to_vec())));
    assert_eq!(bench.reply().1, Status::TooLarge);
    assert!(bench.restored(bench.log.len()).state() == bench.replica.state());
}

/// R15: pages while the head goes on are the state at the checkpoint's index, and with the log after it the state now.
#[test]
fn a_checkpoint_is_one_index() {
    let mut bench = Bench::new();
    let session = bench.session();
    bench.mutate(session, 1, create_volume("a"));
    for sequence in 2..40 {
        bench.mutate(session, sequence, make_directory(&format!("directory-number-{sequence}")));
    }
    bench.ask(3, mutation(session, 40, 0, make_directory("last")));
    bench.handle(Event::BeginCheckpoint);
    assert!(bench.pages.is_empty(), "its index isn't committed");
    let frozen = bench.replica.state().clone();
    let index = frozen.namespace.index();
    bench.ask(3, mutation(session, 41, 0, make_directory("later")));
    bench.flush();
    bench.replies.clear();
    for sequence in 42..70 {
        bench.mutate(session, sequence, make_directory(&format!("another-{sequence}")));
        bench.handle(Event::CheckpointPageTaken);
    }
    for _ in 0..100 {
        bench.handle(Event::CheckpointPageTaken);
    }
    bench.handle(Event::CheckpointDurable { record: RecordNumber(index.0) });
    assert!(bench.pages.len() > 10);
    let mut restore = Restore::new();
    assert_eq!(restore.page(&bench.pages[1]), Err(RestoreError::PageOrder(1, 0)));
    let mut restore_all = Restore::new();
    for (number, page) in (1..).zip(&bench.pages) {
        if number == bench.pages.len() {
            assert!(matches!(restore_all.checkpoint(), Err(RestoreError::Unfinished(_))));
        }
        restore_all.page(page).unwrap();
    }
    assert_eq!(restore_all.checkpoint(), Ok(index));
    assert!(*restore_all.state() == frozen);
    for (at, entry) in (index.0 + 1..).zip(&bench.log[usize::try_from(index.0).unwrap()..]) {
        restore_all.record(RecordNumber(at), entry).unwrap();
    }
    assert!(restore_all.state() == bench.replica.state());
    // The log is trimmed one checkpoint behind.
    assert_eq!(bench.trimmed, RecordNumber(0));
    bench.mutate(session, 70, make_directory("one-more"));
    bench.handle(Event::BeginCheckpoint);
    let second = bench.replica.state().namespace.index();
    for _ in 0..200 {
        bench.handle(Event::CheckpointPageTaken);
    }
    bench.handle(Event::CheckpointDurable { record: RecordNumber(second.0) });
    assert_eq!(bench.trimmed, RecordNumber(index.0));
}

fn commit_one(session: SessionId, path: &str, ordinal: u64) -> Operation {
    many_chunks(session, path, ordinal, 1)
}

fn many_chunks(session: SessionId, path: &str, ordinal: u64, count: u32) -> Operation {
    let size = 100 * u64::from(count);
    let run = wire::meta::Run {
        file_offset: 0,
        length: size,
        first: ChunkId { session, ordinal },
        count,
        chunk_bytes: 100,
        last_chunk_bytes: 100,
        skip: 0,
    };
    Operation::Commit(wire::meta::Commit {
        place: Place { volume: VolumeId(1), directory: InodeId::ROOT, path: path.into() },
        change: wire::meta::Change::Replace { size },
        extents: wire::meta::Extents { runs: vec![run], roots: (0..u64::from(count)).collect() },
        upload: 0,
        attributes: None,
        precondition: wire::meta::Precondition::Any,
        map: wire::MapNumber(1),
    })
}

/// Ticks until `until`, everything durable at once.
fn pass_time(bench: &mut Bench, until: u64) {
    while bench.now.0 < until {
        bench.now = bench.now.after(Nanos::SECOND / 10);
        bench.handle(Event::Tick);
        bench.flush();
    }
}

/// Replaces a file of one chunk: when.
fn replace_one(bench: &mut Bench, session: SessionId) -> Nanos {
    bench.mutate(session, 2, commit_one(session, "f", 1));
    bench.mutate(session, 3, commit_one(session, "f", 2));
    bench.now
}

/// R24, R25: a chunk goes `reclaim_delay` after its last reference, is sent once its reclaim is durable, and again until acknowledged.
#[test]
fn a_chunk_is_reclaimed_after_the_delay() {
    let mut bench = Bench::new();
    let session = bench.session();
    bench.mutate(session, 1, create_volume("a"));
    let replaced = replace_one(&mut bench, session);
    pass_time(&mut bench, replaced.0 + 2 * Nanos::SECOND);
    assert!(bench.deletes.is_empty(), "{:?}", bench.deletes);
    pass_time(&mut bench, replaced.0 + 4 * Nanos::SECOND);
    let first = ChunkId { session, ordinal: 1 };
    assert_eq!(bench.deletes, [(first, 1, false)]);
    pass_time(&mut bench, replaced.0 + 10 * Nanos::SECOND);
    assert_eq!(bench.deletes, [(first, 1, false); 2], "sent again after five seconds");
    bench.handle(Event::ShardDeleted { first, count: 1 });
    pass_time(&mut bench, replaced.0 + 20 * Nanos::SECOND);
    assert_eq!(bench.deletes.len(), 2);
    assert_eq!(bench.replica.metrics().deleting_chunks, 0);
}

/// A clock that was ten years ahead for a moment put every reclaim off for ten years.
#[test]
fn a_clock_set_forward_and_back_puts_reclaim_off_by_little() {
    let mut bench = Bench::new();
    bench.set_by = 10 * 365 * 24 * 3600 * 1_000_000_000;
    let session = bench.session();
    bench.mutate(session, 1, create_volume("a"));
    bench.set_by = 0;
    let replaced = replace_one(&mut bench, session);
    pass_time(&mut bench, replaced.0 + 6 * Nanos::SECOND);
    assert_eq!(bench.deletes, [(ChunkId { session, ordinal: 1 }, 1, false)]);
    assert!(matches!(bench.steps[..], [back] if back < 0), "{:?}", bench.steps);
}

/// R25: a clock set forward makes everything look old enough; what is there by then waits its time all the same.
#[test]
fn a_clock_set_forward_reclaims_nothing_early() {
    let mut bench = Bench::new();
    let session = bench.session();
    bench.mutate(session, 1, create_volume("a"));
    let replaced = replace_one(&mut bench, session);
    bench.set_by = 3600 * 1_000_000_000;
    let hold = config().reclaim_delay + config().pin_ttl;
    pass_time(&mut bench, replaced.0 + hold);
    assert!(bench.deletes.is_empty(), "{:?}", bench.deletes);
    pass_time(&mut bench, replaced.0 + hold + 4 * Nanos::SECOND);
    assert_eq!(bench.deletes.len(), 1);
}

/// R24: the deletion doesn't leave before the reclaim's entry is durable, and a restart sends it again.
#[test]
fn a_deletion_waits_for_its_entry_and_survives_a_restart() {
    let mut bench = Bench::new();
    let session = bench.session();
    bench.mutate(session, 1, create_volume("a"));
    bench.mutate(session, 2, commit_one(session, "f", 1));
    bench.mutate(session, 3, commit_one(session, "f", 2));
    bench.handle(Event::Tick);
    bench.flush();
    bench.now = Nanos(10 * Nanos::SECOND);
    for _ in 0..100 {
        bench.now = bench.now.after(Nanos::SECOND / 10);
        bench.handle(Event::Tick);
    }
    assert_eq!(bench.replica.metrics().deleting_chunks, 1, "reclaimed, not durable");
    assert!(bench.deletes.is_empty());
    bench.flush();
    let mut again = Bench::of(bench.restored(bench.log.len()));
    again.handle(Event::Tick);
    assert_eq!(again.deletes, [(ChunkId { session, ordinal: 1 }, 1, false)]);
}

/// R25: a pin holds what ended while it was read; a young head, which doesn't know the pins, holds everything.
#[test]
fn pins_and_youth_hold_chunks() {
    let mut bench = Bench::new();
    let session = bench.session();
    bench.mutate(session, 1, create_volume("a"));
    let version = bench.mutate(session, 2, commit_one(session, "f", 1)).version;
    let pin = wire::meta::Pin { volume: VolumeId(1), inode: InodeId(2), version };
    bench.mutate(session, 3, commit_one(session, "f", 2));
    for _ in 0..10 {
        bench.ask(7, RequestBody::KeepAlive { session, pins: vec![pin] });
        assert_eq!(bench.reply().1, Status::Ok);
        let until = bench.now.0 + Nanos::SECOND;
        pass_time(&mut bench, until);
    }
    assert!(bench.deletes.is_empty());
    let quiet = bench.now.0;
    let log = bench.log.len();
    pass_time(&mut bench, quiet + 8 * Nanos::SECOND);
    assert_eq!(bench.deletes.first(), Some(&(ChunkId { session, ordinal: 1 }, 1, false)), "the pin ran out");
    let mut young = Bench::of(bench.restored(log));
    pass_time(&mut young, 4 * Nanos::SECOND);
    assert!(young.deletes.is_empty(), "one TTL and half the delay");
    pass_time(&mut young, 30 * Nanos::SECOND);
    assert!(!young.deletes.is_empty());
}

/// R25: a reader asks for a large file's extents page by page. The version that was replaced under him went with the next round of upkeep, and the rest of its
/// extents with it, although every chunk was there.
#[test]
fn a_replaced_version_is_readable_for_the_delay() {
    let mut bench = Bench::new();
    let session = bench.session();
    bench.mutate(session, 1, create_volume("a"));
    let large = many_chunks(session, "f", 10, 600);
    let made = bench.mutate(session, 2, large);
    bench.mutate(session, 3, commit_one(session, "f", 1));
    let replaced = bench.now.0;
    let second_page = |bench: &mut Bench| {
        let query = Query::ReadExtents {
            volume: VolumeId(1),
            inode: made.inode,
            version: made.version,
            layout: wire::Layout(0),
            offset: 256 * 100,
            roots: 8192,
        };
        bench.ask(9, RequestBody::Query(query));
        bench.reply()
    };
    let usage = |bench: &mut Bench| {
        bench.ask(9, RequestBody::Query(Query::Usage { volume: VolumeId(1) }));
        let (_, _, Body::Answer(Answer::Usage(usage))) = bench.reply() else { panic!() };
        (usage.reclaimable_bytes, usage.reclaimable_from.0)
    };
    // config(): the delay is two seconds.
    pass_time(&mut bench, replaced + 19 * Nanos::SECOND / 10);
    let (_, status, body) = second_page(&mut bench);
    assert_eq!(status, Status::Ok);
    let Body::Answer(Answer::Extents(page)) = body else { panic!("{body:?}") };
    assert_eq!((page.extents.roots.len(), page.end), (600 - 256, true));
    let (bytes, from) = usage(&mut bench);
    assert_eq!(bytes, 600 * 100, "what can be had is shown before it can");
    assert!(
        from > 1_000_000 + replaced.cast_signed()
            && from < 1_000_100 + (replaced + 2 * Nanos::SECOND).cast_signed()
    );
    assert!(bench.deletes.is_empty());
    pass_time(&mut bench, replaced + 4 * Nanos::SECOND);
    assert_eq!(second_page(&mut bench).1, Status::VersionConflict);
    assert_eq!(bench.deletes.iter().map(|delete| delete.1).sum::<u32>(), 600, "one delay, not two");
    assert_eq!(usage(&mut bench), (0, 0));
}

/// A client's limit of pins was four times the head's: with 65 long reads every keepalive was refused, and all its pins lapsed (R25).
#[test]
fn a_session_has_the_pins_that_a_message_has() {
    let mut bench = Bench::new();
    let limit = u64::try_from(wire::limits::SESSION_PINS_MAX).unwrap();
    let pins: Vec<_> = (1..=limit)
        .map(|inode| wire::meta::Pin {
            volume: VolumeId(1),
            inode: InodeId(inode),
            version: wire::Version(1),
        })
        .collect();
    // Its own pins of before don't count against a session when the group's limit is near.
    let sessions = crate::GROUP_PINS_MAX / pins.len();
    let all: Vec<_> = (0..sessions).map(|_| bench.session()).collect();
    for session in all.iter().chain([&all[0]]) {
        bench.ask(3, RequestBody::KeepAlive { session: *session, pins: pins.clone() });
        assert_eq!(bench.reply().1, Status::Ok);
    }
    let session = bench.session();
    bench.ask(3, RequestBody::KeepAlive { session, pins });
    assert_eq!(bench.reply().1, Status::Busy);
}

/// I12: rounds began with the first volume each time, so that volumes behind the first few hundred never had their turn while those churned.
#[test]
fn every_volume_has_its_turn() {
    let mut bench = Bench::new();
    let session = bench.session();
    let volumes = u64::try_from(crate::UPKEEP_ENTRIES_MAX).unwrap() + 40;
    let mut sequence = 0;
    let mut mutate = |bench: &mut Bench, operation| {
        sequence += 1;
        bench.ask(2, mutation(session, sequence, sequence - 1, operation));
        bench.flush();
        assert_eq!(bench.reply().1, Status::Ok);
    };
    for volume in 1..=volumes {
        mutate(&mut bench, create_volume(&format!("v{volume}")));
        for ordinal in [2 * volume, 2 * volume + 1] {
            let mut commit = commit_one(session, "f", ordinal);
            if let Operation::Commit(commit) = &mut commit {
                commit.place.volume = VolumeId(volume);
            }
            mutate(&mut bench, commit);
        }
    }
    let before = bench.log.len();
    bench.now = bench.now.after(3 * Nanos::SECOND);
    // Two rounds: in the second the first volumes have chunks to reclaim.
    for _ in 0..2 {
        bench.handle(Event::Tick);
        bench.flush();
        bench.now = bench.now.after(Nanos::SECOND / 10);
    }
    let mut turned = std::collections::BTreeSet::new();
    for entry in &bench.log[before..] {
        let crate::Record::Upkeep { changes } = entry_of(entry).unwrap().record else { continue };
        for change in changes {
            if let namespace::Change::Horizon { volume, .. } = change {
                turned.insert(volume);
            }
        }
    }
    assert_eq!(turned.len(), usize::try_from(volumes).unwrap());
}

/// A commit may name the last ordinal but one, and its delete was never done: it was sent again for ever.
#[test]
fn the_last_chunk_of_a_session_is_deleted_once() {
    let mut bench = Bench::new();
    let session = bench.session();
    bench.mutate(session, 1, create_volume("a"));
    assert_eq!(bench.mutate(session, 2, commit_one(session, "f", u64::MAX - 1)).status, Status::Ok);
    assert_eq!(bench.mutate(session, 3, commit_one(session, "f", 1)).status, Status::Ok);
    let replaced = bench.now.0;
    pass_time(&mut bench, replaced + 4 * Nanos::SECOND);
    let first = ChunkId { session, ordinal: u64::MAX - 1 };
    assert_eq!(bench.deletes, [(first, 1, false)]);
    bench.handle(Event::ShardDeleted { first, count: 1 });
    pass_time(&mut bench, replaced + 6 * Nanos::SECOND);
    assert_eq!(bench.replica.metrics().deleting_chunks, 0);
}

/// R17: at 90 % of the budget only what frees memory is executed, and the refusal is a result like any other (R14).
#[test]
fn a_full_memory_still_removes() {
    let mut bench = Bench::new();
    let session = bench.session();
    bench.mutate(session, 1, create_volume("a"));
    bench.mutate(session, 2, make_directory("d"));
    bench.replica.config.memory_budget = bench.replica.state().memory_bytes();
    let entries = bench.log.len();
    assert_eq!(bench.mutate(session, 3, make_directory("e")).status, Status::NoSpace);
    assert_eq!(bench.log.len(), entries + 1);
    let place = Place { volume: VolumeId(1), directory: InodeId::ROOT, path: b"d".to_vec() };
    let remove = Operation::Remove {
        place,
        kind: wire::meta::RemoveKind::Directory,
        precondition: wire::meta::Precondition::Any,
    };
    assert_eq!(bench.mutate(session, 4, remove).status, Status::Ok);
}

/// Decoders are total: entries and pages, damaged anyhow, are an error or something that was never written, and no panic.
#[test]
fn damaged_bytes_are_errors() {
    let mut bench = Bench::new();
    let session = bench.session();
    bench.mutate(session, 1, create_volume("a"));
    bench.mutate(session, 2, commit_one(session, "f", 1));
    bench.mutate(session, 3, commit_one(session, "f", 2));
    bench.handle(Event::BeginCheckpoint);
    for _ in 0..20 {
        bench.handle(Event::CheckpointPageTaken);
    }
    let mut state = 1_u64;
    let mut next = |bound: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(state >> 33).unwrap() % bound
    };
    let mut refused = 0;
    for _ in 0..20_000 {
        let entry = next(2) == 0;
        let list = if entry { &bench.log } else { &bench.pages };
        let at = next(list.len());
        let mut bytes = list[at].clone();
        match next(3) {
            0 => bytes.truncate(next(bytes.len())),
            1 => bytes.insert(next(bytes.len()), u8::try_from(next(256)).unwrap()),
            _ => {
                for _ in 0..=next(3) {
                    let byte = next(bytes.len());
                    bytes[byte] = u8::try_from(next(256)).unwrap();
                }
            }
        }
        if entry {
            refused += usize::from(entry_of(&bytes).is_err());
        } else {
            let mut restore = Restore::new();
            let whole =
                (0..list.len()).try_for_each(|i| restore.page(if i == at { &bytes } else { &list[i] }));
            refused += usize::from(whole.is_err());
        }
    }
    assert!(refused > 5_000, "{refused}");
}
