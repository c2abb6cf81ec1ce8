//! Entries a second of pure execution: one-chunk creates through a replica whose log is durable at once, in batches of 64. Printed, not gated: the
//! target of 10⁵ a second is a release build's on a quiet machine.

use replica::{
    Body, ChainView, Effect, Effects, Event, Message, Replica, ReplicaConfig, Request, RequestBody,
};
use wire::map::{Phase, ReplicaState};
use wire::message::{Progress, Subscribe};
use wire::meta::{Change, Commit, Extents, Mutation, Operation, Place, Precondition, Run, VolumePolicy};
use wire::{
    ChunkId, CommitIndex, Epoch, InodeId, MapNumber, Nanos, Sequence, SessionId, Status, StoreId, Timestamp,
    VolumeId,
};

const CREATES: u64 = 50_000;
const BATCH: u64 = 64;

fn mutate(session: SessionId, sequence: u64, operation: Operation) -> Event<'static> {
    let mutation = Mutation {
        session,
        sequence: Sequence(sequence),
        acked_upto: Sequence(sequence.saturating_sub(BATCH + 1)),
        operation,
    };
    let body = RequestBody::Mutate(mutation);
    Event::Request(Request { client: 0, correlation: sequence, deadline: None, body })
}

fn create(session: SessionId, file: u64) -> Operation {
    let run = Run {
        file_offset: 0,
        length: 4096,
        first: ChunkId { session, ordinal: file },
        count: 1,
        chunk_bytes: 4096,
        last_chunk_bytes: 4096,
        skip: 0,
    };
    Operation::Commit(Commit {
        place: Place {
            volume: VolumeId(1),
            directory: InodeId::ROOT,
            path: format!("{file:016x}").into_bytes(),
        },
        change: Change::Replace { size: 4096 },
        extents: Extents { runs: vec![run], roots: vec![file] },
        upload: 0,
        attributes: None,
        precondition: Precondition::Absent,
        map: MapNumber(1),
    })
}

/// A replica, and what stands for the members behind it: one that has everything as soon as it is sent.
struct Bench {
    replica: Replica,
    effects: Effects,
    subscription: Option<u64>,
}

const ME: StoreId = StoreId([1; 16]);
const NEXT: StoreId = StoreId([2; 16]);
const EPOCH: Epoch = Epoch(1);

impl Bench {
    /// In a chain of so many members.
    fn new(members: u8) -> Self {
        let config = ReplicaConfig { store: Some(ME), ..ReplicaConfig::default() };
        let mut bench = Self {
            replica: Replica::new(config, Nanos(1)),
            effects: Effects::default(),
            subscription: (members > 1).then_some(1),
        };
        let members = (1..=members).map(|at| (StoreId([at; 16]), ReplicaState::Serving)).collect();
        let view = ChainView { epoch: EPOCH, phase: Phase::Prepared, members, min_in_sync: 1, generation: 0 };
        bench.handle(Event::Chain(&view));
        bench.handle(Event::Chain(&ChainView { phase: Phase::Active, ..view }));
        if let Some(number) = bench.subscription {
            let received = CommitIndex(0);
            let subscribe = Subscribe { epoch: EPOCH, number, learner: false, received, terms: Vec::new() };
            bench.handle(Event::Message { from: NEXT, message: Message::Subscribe(subscribe) });
        }
        bench
    }

    fn handle(&mut self, event: Event<'_>) {
        self.replica.handle(Nanos(2), Timestamp(2), event, &mut self.effects);
    }

    /// The batch is durable here, and committed by the others.
    fn end_batch(&mut self) {
        self.handle(Event::Turn);
        let record = self.replica.last_record();
        self.handle(Event::Durable { record });
        self.handle(Event::Turn);
        if let Some(number) = self.subscription {
            let (epoch, all) = (EPOCH, self.replica.received());
            let progress = Progress { epoch, number, received: all, durable: all, committed: all };
            self.handle(Event::Message { from: NEXT, message: Message::Progress(progress) });
        }
    }
}

/// Seconds for all creates at the head of a chain of so many members, and their bytes of log.
#[expect(clippy::disallowed_methods, reason = "measures; the crate itself reads no clock")]
fn creates(members: u8) -> (f64, usize) {
    let mut bench = Bench::new(members);
    let open = RequestBody::OpenSession;
    bench.handle(Event::Request(Request { client: 0, correlation: 0, deadline: None, body: open }));
    bench.end_batch();
    let Some(Body::Session(grant)) = bench.effects.bodies.first() else { panic!("no session") };
    let session = grant.session;
    let policy = VolumePolicy { chunk_bytes: 1 << 20, retention_seconds: 0 };
    bench.handle(mutate(session, 1, Operation::CreateVolume { name: "v".into(), policy }));
    let events: Vec<_> = (0..CREATES).map(|file| mutate(session, file + 2, create(session, file))).collect();
    let (mut bytes, mut replies) = (0, 0);
    let start = std::time::Instant::now();
    for (file, event) in (0..).zip(events) {
        bench.handle(event);
        if file % BATCH == BATCH - 1 || file == CREATES - 1 {
            bench.end_batch();
            let effects = &mut bench.effects;
            let appended = |effect: &Effect| {
                if let Effect::Append { bytes, .. } = effect { effects.slice(bytes).len() } else { 0 }
            };
            bytes += effects.list.iter().map(appended).sum::<usize>();
            let created = |effect: &&Effect| matches!(effect, Effect::Reply { status: Status::Ok, .. });
            replies += effects.list.iter().filter(created).count();
            effects.clear();
        }
    }
    let seconds = start.elapsed().as_secs_f64();
    assert_eq!(replies, usize::try_from(CREATES).expect("small") + 2);
    (seconds, bytes / usize::try_from(CREATES).expect("small"))
}

#[test]
fn creates_a_second() {
    for members in [1, 3] {
        let (seconds, bytes) = creates(members);
        let rate = f64::from(u32::try_from(CREATES).expect("small")) / seconds;
        println!("{rate:.0} creates/s at the head of {members}, {bytes} bytes of log each");
    }
}
