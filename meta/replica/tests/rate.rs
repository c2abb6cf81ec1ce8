//! Entries a second of pure execution: one-chunk creates through a replica whose log is durable at once, in batches of 64. Printed, not gated: the
//! target of 10⁵ a second is a release build's on a quiet machine.

use replica::{Body, Effect, Effects, Event, Replica, ReplicaConfig, Request, RequestBody};
use wire::meta::{Change, Commit, Extents, Mutation, Operation, Place, Precondition, Run, VolumePolicy};
use wire::{ChunkId, InodeId, MapNumber, Nanos, Sequence, SessionId, Status, Timestamp, VolumeId};

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

#[test]
#[expect(clippy::disallowed_methods, reason = "measures; the crate itself reads no clock")]
fn creates_a_second() {
    let mut replica = Replica::new(ReplicaConfig::default(), Nanos(1));
    let mut effects = Effects::default();
    let open = RequestBody::OpenSession;
    let request = Request { client: 0, correlation: 0, deadline: None, body: open };
    replica.handle(Nanos(1), Timestamp(1), Event::Request(request), &mut effects);
    let record = replica.last_record();
    replica.handle(Nanos(1), Timestamp(1), Event::Durable { record }, &mut effects);
    let Some(Body::Session(grant)) = effects.bodies.first() else { panic!("no session") };
    let session = grant.session;
    let policy = VolumePolicy { chunk_bytes: 1 << 20, retention_seconds: 0 };
    let volume = Operation::CreateVolume { name: "v".into(), policy };
    replica.handle(Nanos(1), Timestamp(1), mutate(session, 1, volume), &mut effects);
    let events: Vec<_> = (0..CREATES).map(|file| mutate(session, file + 2, create(session, file))).collect();
    let (mut bytes, mut replies) = (0, 0);
    let start = std::time::Instant::now();
    for (file, event) in (0..).zip(events) {
        replica.handle(Nanos(2), Timestamp(2), event, &mut effects);
        if file % BATCH == BATCH - 1 || file == CREATES - 1 {
            let record = replica.last_record();
            replica.handle(Nanos(2), Timestamp(2), Event::Durable { record }, &mut effects);
            bytes += effects.bytes.len();
            let created = |effect: &&Effect| matches!(effect, Effect::Reply { status: Status::Ok, .. });
            replies += effects.list.iter().filter(created).count();
            effects.clear();
        }
    }
    let seconds = start.elapsed().as_secs_f64();
    assert_eq!(replies, usize::try_from(CREATES).expect("small") + 2);
    let rate = f64::from(u32::try_from(CREATES).expect("small")) / seconds;
    println!("{rate:.0} creates/s, {} bytes of log each", bytes / usize::try_from(CREATES).expect("small"));
}
