//! Messages of the control port: every variant of every type that they hold.

use wire::control::{
    Answer, CaughtUp, ChainId, ChainLoss, ChainTally, Command, Condition, Done, Health, Heartbeat,
    HeartbeatReply, Led, Life, LogEnd, LossScope, NodeStatus, Reason, Refusal, Registration,
    RegistrationRefusal, RegistrationReply, Slow, StopRisk, StoreBeat, StoreReport, StoreVerdict, Subject,
    Synced, Waits,
};
use wire::limits::CONTROL_LIST_MAX;
use wire::map::{Phase, ReplicaState, Unit};
use wire::message::{DecodeError, Encoder, PayloadMeta, Reply, Request, RequestHead};
use wire::{
    CommitIndex, Epoch, FrameKind, GroupId, Incarnation, MapNumber, Nanos, NodeId, PREFIX_BYTES, ShardIndex,
    SliceIndex, StoreId,
};

const STORE: StoreId = StoreId([5; 16]);
const SLICE: ChainId = ChainId::Slice(SliceIndex(77));
const GROUP: ChainId = ChainId::Group(GroupId(3));

pub(crate) fn requests() -> Vec<(&'static str, Request<'static>)> {
    let report = |unit, condition| StoreReport {
        store: STORE,
        unit,
        address: "10.0.0.1:7430".to_owned(),
        incarnation: Incarnation(9),
        lives: vec![Incarnation(7), Incarnation(8)],
        recovered_cut: true,
        lacks: true,
        log_end: LogEnd { epoch: Epoch(4), index: CommitIndex(1_000) },
        sequence: 55,
        capacity_bytes: 1 << 40,
        used_bytes: 1 << 30,
        condition,
    };
    let registration = Registration {
        node: NodeId(2),
        life: Life(0x1234_5678_9abc),
        join: true,
        name: "node-2".to_owned(),
        rack: "r7".to_owned(),
        control: "10.0.0.1:7422".to_owned(),
        sent: Nanos(99),
        installed: MapNumber(12),
        stores: vec![
            report(Unit::Shard(ShardIndex(1)), Condition::Well),
            report(Unit::Group(GroupId(3)), Condition::Fenced),
        ],
    };
    let beat = StoreBeat { store: STORE, condition: Condition::Failed, sequence: 56, used_bytes: 7, lag: 8 };
    let heartbeat = Heartbeat {
        node: NodeId(2),
        life: Life(7),
        sent: Nanos(100),
        installed: MapNumber(13),
        stores: vec![beat],
        suspects: vec![NodeId(1), NodeId(3)],
        synced: vec![Synced { chain: SLICE, epoch: Epoch(4), store: STORE, missing: 1 }],
        caught_up: vec![CaughtUp { group: GroupId(3), store: STORE }],
        slow: vec![Slow { chain: GROUP, epoch: Epoch(4), store: STORE }],
    };
    let mut all = vec![
        ("register", Request::Register(Box::new(registration))),
        ("heartbeat", Request::Heartbeat(Box::new(heartbeat))),
        ("map-news", Request::MapNews { number: MapNumber(14), update: &[1, 2, 3] }),
        ("raft", Request::Raft(&[4, 5, 6])),
    ];
    all.extend(commands().into_iter().map(|(name, command)| (name, Request::Manage(Box::new(command)))));
    all
}

fn commands() -> Vec<(&'static str, Command)> {
    vec![
        ("replace-node", Command::ReplaceNode { old: NodeId(1), new: NodeId(4) }),
        ("replace-store", Command::ReplaceStore { old: STORE, new: StoreId([6; 16]) }),
        ("forget-node", Command::ForgetNode { node: NodeId(1), force: true }),
        ("accept-loss", Command::AcceptDataLoss { scope: LossScope::All, expel: vec![STORE] }),
        ("accept-loss-chain", Command::AcceptDataLoss { scope: LossScope::Chain(SLICE), expel: vec![] }),
        ("set-min-in-sync", Command::SetMinInSync(2)),
        ("set-voters", Command::SetVoters(5)),
        ("ok-to-stop", Command::OkToStop(NodeId(1))),
        ("why-node", Command::Why(Subject::Node(NodeId(1)))),
        ("why-store", Command::Why(Subject::Store(STORE))),
        ("why-chain", Command::Why(Subject::Chain(GROUP))),
        ("health", Command::Health),
        ("nodes", Command::Nodes),
    ]
}

pub(crate) fn replies() -> Vec<(&'static str, FrameKind, Reply<'static>)> {
    let stores = verdicts().into_iter().map(|verdict| (STORE, verdict)).collect();
    let accepted = RegistrationReply::Accepted { node: NodeId(2), number: MapNumber(15), stores };
    let heartbeat = HeartbeatReply {
        node: NodeId(2),
        life: Life(7),
        sent: Nanos(100),
        lease: 2_000_000_000,
        number: MapNumber(15),
        is_known: true,
    };
    let registered = |reply| Reply::Register(Box::new(reply));
    let mut all = vec![
        ("register", FrameKind::Register, registered(Led::Here(accepted))),
        ("register-elsewhere", FrameKind::Register, registered(Led::Elsewhere(Some(NodeId(3))))),
        ("heartbeat", FrameKind::Heartbeat, Reply::Heartbeat(Led::Here(heartbeat))),
        ("heartbeat-elsewhere", FrameKind::Heartbeat, Reply::Heartbeat(Led::Elsewhere(None))),
    ];
    all.extend(registration_refusals().into_iter().map(|(name, refusal)| {
        (name, FrameKind::Register, registered(Led::Here(RegistrationReply::Refused(refusal))))
    }));
    let answers = answers().into_iter();
    all.extend(answers.map(|(name, answer)| (name, FrameKind::Manage, Reply::Managed(Box::new(answer)))));
    all
}

fn verdicts() -> Vec<StoreVerdict> {
    vec![
        StoreVerdict::Accepted,
        StoreVerdict::Unknown,
        StoreVerdict::Stale { known: Incarnation(3), known_sequence: 4 },
        StoreVerdict::Expelled,
        StoreVerdict::Forgotten,
        StoreVerdict::Elsewhere { node: NodeId(5) },
    ]
}

fn registration_refusals() -> Vec<(&'static str, RegistrationRefusal)> {
    vec![
        ("refused-unknown", RegistrationRefusal::NodeUnknown),
        ("refused-not-empty", RegistrationRefusal::NotEmpty { store: STORE }),
        ("refused-alive", RegistrationRefusal::NodeAlive),
        ("refused-name", RegistrationRefusal::NameTaken),
        ("refused-malformed", RegistrationRefusal::Malformed),
        ("refused-full", RegistrationRefusal::Full),
        ("refused-busy", RegistrationRefusal::Busy),
    ]
}

fn answers() -> Vec<(&'static str, Answer)> {
    let done = |done| Answer::Done { number: MapNumber(16), done };
    let tally = ChainTally {
        chains: 1,
        full: 2,
        degraded: 3,
        read_only: 4,
        down: 5,
        changing: 6,
        syncing: 7,
        stuck: 8,
        redundancy_min: 9,
    };
    let health = Health {
        number: MapNumber(1),
        nodes: 2,
        nodes_alive: 3,
        stores: 4,
        stores_unfit: 5,
        slices: tally,
        groups: ChainTally::default(),
        chain_length: 3,
        domains: 6,
        chunks_missing: 7,
        is_whole: true,
    };
    let node = NodeStatus {
        node: NodeId(1),
        life: Some(Life(2)),
        heard: 3,
        is_alive: true,
        installed: MapNumber(4),
        members: 5,
        serving: 6,
        stores: vec![(STORE, Some(Condition::Well)), (STORE, None)],
    };
    let risk = StopRisk { writes_stop: 1, reads_stop: 2, chains: vec![SLICE, GROUP], control_stops: true };
    let loss = ChainLoss { chain: SLICE, seed: STORE };
    let mut all = vec![
        ("replacing", done(Done::Replacing { chains: 9 })),
        ("forgotten", done(Done::Forgotten { chains: 9, short: 1 })),
        ("loss-accepted", done(Done::LossAccepted { chains: vec![loss], expelled: vec![STORE] })),
        ("set", done(Done::Set)),
        ("voters", done(Done::VotersChanging { added: vec![NodeId(3)], removed: vec![NodeId(1)] })),
        ("stop-risk", Answer::OkToStop(risk)),
        ("reasons", Answer::Why(reasons())),
        ("health", Answer::Health(health)),
        ("nodes", Answer::Nodes(vec![node])),
    ];
    all.extend(refusals().into_iter().map(|(name, refusal)| (name, Answer::Refused(refusal))));
    all
}

fn reasons() -> Vec<Reason> {
    let mut all = vec![
        Reason::Well,
        Reason::NotInMap,
        Reason::NodeAlive { life: Life(1), heard: 2, installed: MapNumber(3) },
        Reason::NodeSilent { silent: 4, dead_in: 5 },
        Reason::NodeSuspected { by: 6 },
        Reason::StoreUnfit { condition: Condition::Fenced },
        Reason::StoreStale,
        Reason::StoreLeaves,
    ];
    for phase in [Phase::Prepared, Phase::Active] {
        all.push(Reason::Chain {
            chain: SLICE,
            epoch: Epoch(7),
            phase,
            serving: 1,
            min_in_sync: 2,
            since: 3,
        });
    }
    for state in [
        ReplicaState::Serving,
        ReplicaState::Syncing,
        ReplicaState::Waiting,
        ReplicaState::LastServing,
        ReplicaState::Offline,
    ] {
        all.push(Reason::Member { chain: GROUP, store: STORE, state, lag: 8 });
    }
    let waits = [
        Waits::Promise { node: NodeId(1), number: MapNumber(2) },
        Waits::Lease { node: NodeId(1), left: 2 },
        Waits::Sync(STORE),
        Waits::CatchUp(STORE),
        Waits::Return(STORE),
        Waits::Seeds { missing: 1, left: 2 },
        Waits::CleanSeed { missing: 1 },
        Waits::AnySeed,
        Waits::MoreNodes,
        Waits::HoldDown { store: STORE, left: 2 },
        Waits::Turn,
        Waits::Control,
    ];
    all.extend(waits.map(Reason::Waiting));
    all
}

fn refusals() -> Vec<(&'static str, Refusal)> {
    vec![
        ("not-leader", Refusal::NotLeader(Some(NodeId(2)))),
        ("unknown", Refusal::Unknown),
        ("busy", Refusal::Busy),
        ("node-unknown", Refusal::NodeUnknown(NodeId(1))),
        ("store-unknown", Refusal::StoreUnknown(STORE)),
        ("chain-unknown", Refusal::ChainUnknown(SLICE)),
        ("node-alive", Refusal::NodeAlive(NodeId(1))),
        ("node-absent", Refusal::NodeAbsent(NodeId(1))),
        ("store-alive", Refusal::StoreAlive(STORE)),
        ("not-empty", Refusal::NotEmpty(STORE)),
        ("wrong-unit", Refusal::WrongUnit(STORE)),
        ("two-on-one-node", Refusal::TwoOnOneNode(GROUP)),
        ("too-few-nodes", Refusal::TooFewNodes { left: 2, chain_length: 3 }),
        ("last-copy", Refusal::LastCopy(SLICE)),
        ("nothing-lost", Refusal::NothingLost),
        ("nobody-present", Refusal::NobodyPresent(SLICE)),
        ("out-of-range", Refusal::OutOfRange),
        ("full", Refusal::Full),
    ]
}

fn message(request: &Request<'_>) -> Vec<u8> {
    let mut frame = Vec::new();
    Encoder::new().request(&mut frame, RequestHead::default(), request, PayloadMeta::default());
    frame.split_off(PREFIX_BYTES)
}

/// Any byte that is changed, and any cut, is another message or none; never a panic.
#[test]
fn hostile_bytes_are_errors_or_other_messages() {
    let mut decoded = 0;
    for (_, request) in requests() {
        let good = message(&request);
        for at in 0..good.len() {
            for value in [0, 1, 0x7f, 0xff, good[at] ^ 1] {
                let mut bytes = good.clone();
                bytes[at] = value;
                decoded += u32::from(Request::decode(request.kind(), &bytes).is_ok());
            }
            drop(Request::decode(request.kind(), &good[..at]));
        }
    }
    assert!(decoded > 1_000, "most changes are of values: {decoded}");
}

/// A list that says it is long doesn't get memory for that.
#[test]
fn lists_are_bounded() {
    let largest: Vec<NodeId> = (0..=u32::try_from(CONTROL_LIST_MAX).expect("small")).map(NodeId).collect();
    let (_, request) = requests().swap_remove(1);
    let Request::Heartbeat(mut heartbeat) = request else { panic!("a heartbeat") };
    // A length that nothing else in the message looks like.
    let length = CONTROL_LIST_MAX - 2;
    heartbeat.suspects = largest[..length].to_vec();
    let good = message(&Request::Heartbeat(heartbeat));
    assert!(Request::decode(FrameKind::Heartbeat, &good).is_ok());
    let count = u32::try_from(length).expect("small").to_le_bytes();
    let at = good.windows(4).position(|bytes| bytes == count).expect("the list's length");
    let mut longer = good;
    longer[at..at + 4].copy_from_slice(&u32::MAX.to_le_bytes());
    let error = Request::decode(FrameKind::Heartbeat, &longer);
    assert_eq!(error, Err(DecodeError::TooLarge("list of a control message")));
}
