//! A chain by hand: members on disks that flush when told, links that lose nothing.

use std::collections::VecDeque;

use wire::map::{Phase, ReplicaState};
use wire::meta::{Answer, Query};
use wire::{CommitIndex, Epoch, Nanos, SessionId, Status, StoreId, Timestamp};

use super::{create_volume, make_directory, mutation};
use crate::{
    Body, ChainView, Effect, Effects, Event, LogRecord, Message, RecordNumber, Replica, ReplicaConfig,
    Request, RequestBody, Restore, Role,
};

use ReplicaState::{Serving, Syncing, Waiting};

/// Members A, B, C, … and what they did.
struct Chain {
    replicas: Vec<Replica>,
    logs: Vec<Vec<Vec<u8>>>,
    letters: VecDeque<(usize, usize, Message<Vec<u8>>)>,
    replies: Vec<(usize, u64, Status, Body)>,
    news: Vec<(usize, Effect)>,
    sealed: Vec<(usize, Epoch)>,
    now: Nanos,
    /// Messages so far, by kind.
    sent: usize,
    view: ChainView,
    /// Entries that are sent to this member are lost.
    deaf: Option<usize>,
}

fn store(at: usize) -> StoreId {
    StoreId([u8::try_from(at).unwrap() + 1; 16])
}

fn config(at: usize) -> ReplicaConfig {
    ReplicaConfig {
        store: Some(store(at)),
        window_bytes: 2_000,
        message_bytes: 1_500,
        inventory_sources: 0,
        ..super::config()
    }
}

fn view(epoch: u64, states: &[ReplicaState]) -> ChainView {
    let members = (0..).map(store).zip(states.iter().copied()).collect();
    ChainView { epoch: Epoch(epoch), phase: Phase::Prepared, members, min_in_sync: 1, generation: 0 }
}

impl Chain {
    /// Promised and active, with messages delivered and nothing flushed.
    fn new(states: &[ReplicaState]) -> Self {
        let count = states.len();
        let mut chain = Self {
            replicas: (0..count).map(|at| Replica::new(config(at), Nanos(1))).collect(),
            logs: vec![Vec::new(); count],
            letters: VecDeque::new(),
            replies: Vec::new(),
            news: Vec::new(),
            sealed: Vec::new(),
            now: Nanos(1),
            sent: 0,
            view: view(1, states),
            deaf: None,
        };
        chain.change(&view(1, states));
        chain
    }

    fn change(&mut self, view: &ChainView) {
        for phase in [Phase::Prepared, Phase::Active] {
            self.view = ChainView { phase, ..view.clone() };
            for at in 0..self.replicas.len() {
                self.handle(at, Event::Chain(&self.view.clone()));
            }
        }
        // Who subscribes to a member that isn't sure of its own upstream yet, tries again.
        self.settle();
        self.pass(crate::LINK_INTERVAL);
    }

    fn handle(&mut self, at: usize, event: Event<'_>) {
        let mut effects = Effects::default();
        let wall = Timestamp(1_000_000 + self.now.0.cast_signed());
        self.replicas[at].handle(self.now, wall, event, &mut effects);
        for effect in &effects.list {
            match effect {
                Effect::Append { bytes, .. } => self.logs[at].push(effects.slice(bytes).to_vec()),
                Effect::Send { to, message } => {
                    let to = usize::from(to.0[0]) - 1;
                    let message =
                        crate::message::with_bytes(&effects.message(*message), |bytes| bytes.to_vec());
                    self.letters.push_back((at, to, message));
                    self.sent += 1;
                }
                Effect::Reply { correlation, status, body, .. } => {
                    let body = effects.bodies[usize::try_from(*body).unwrap()].clone();
                    self.replies.push((at, *correlation, *status, body));
                }
                Effect::Arm(_) => {}
                Effect::Sealed { epoch } => self.sealed.push((at, *epoch)),
                other => self.news.push((at, other.clone())),
            }
        }
    }

    fn deliver(&mut self) {
        while let Some((from, to, message)) = self.letters.pop_front() {
            if self.deaf == Some(to) && packed(&message) > 0 {
                continue;
            }
            let message = crate::message::with_bytes(&message, Vec::as_slice);
            self.handle(to, Event::Message { from: store(from), message });
        }
    }

    /// Turns end and messages arrive until nobody has anything to say.
    fn settle(&mut self) {
        loop {
            for at in 0..self.replicas.len() {
                self.handle(at, Event::Turn);
            }
            if self.letters.is_empty() {
                return;
            }
            self.deliver();
        }
    }

    fn flush(&mut self, at: usize) {
        let record = RecordNumber(u64::try_from(self.logs[at].len()).unwrap());
        self.handle(at, Event::Durable { record });
        self.settle();
    }

    fn flush_all(&mut self) {
        (0..self.replicas.len()).for_each(|at| self.flush(at));
    }

    fn pass(&mut self, nanos: u64) {
        self.now = self.now.after(nanos);
        for at in 0..self.replicas.len() {
            self.handle(at, Event::Tick);
        }
        self.settle();
    }

    fn ask(&mut self, at: usize, correlation: u64, body: RequestBody) {
        self.handle(at, Event::Request(Request { client: 9, correlation, deadline: None, body }));
        self.settle();
    }

    fn lookup(&mut self, at: usize, name: &str) {
        self.ask(at, 77, RequestBody::Query(Query::Volume { name: name.into() }));
    }

    fn statuses(&mut self) -> Vec<(usize, Status)> {
        std::mem::take(&mut self.replies).into_iter().map(|(at, _, status, _)| (at, status)).collect()
    }

    fn session(&mut self) -> SessionId {
        self.ask(0, 1, RequestBody::OpenSession);
        self.flush_all();
        match self.replies.pop() {
            Some((0, 1, Status::Ok, Body::Session(grant))) => grant.session,
            other => panic!("{other:?}"),
        }
    }

    /// The member's process begins anew with its log.
    fn restart(&mut self, at: usize) {
        let mut restore = Restore::chained(config(at).recent_bytes);
        for (number, record) in (1..).zip(&self.logs[at]) {
            restore.record(RecordNumber(number), record).unwrap();
        }
        self.replicas[at] = restore.start(config(at), self.now).unwrap();
    }
}

/// R12: neither the tail's flush nor the head's alone commits; the last one does, wherever it is.
#[test]
fn the_last_flush_commits() {
    for order in [[0, 1, 2], [2, 1, 0], [1, 0, 2], [1, 2, 0]] {
        let mut chain = Chain::new(&[Serving; 3]);
        let session = chain.session();
        chain.ask(0, 5, mutation(session, 1, 0, create_volume("a")));
        chain.lookup(2, "a");
        for at in order {
            assert_eq!(chain.statuses(), [], "{order:?}");
            chain.flush(at);
        }
        let mut statuses = chain.statuses();
        statuses.sort_unstable();
        assert_eq!(statuses, [(0, Status::Ok), (2, Status::Ok)], "{order:?}");
        chain.handle(2, Event::Lease { until: chain.now.after(1) });
        chain.lookup(2, "a");
        let committed: Vec<_> = chain.replicas.iter().map(Replica::committed).collect();
        assert_eq!(committed, [CommitIndex(2); 3], "{order:?}");
    }
}

/// R14: who isn't the head executes nothing, and says so; a Serving member's caller has an old map.
#[test]
fn others_send_callers_away() {
    let mut chain = Chain::new(&[Serving, Serving, Syncing, Waiting]);
    let session = chain.session();
    for at in 1..4 {
        chain.ask(at, 5, mutation(session, 1, 0, create_volume("a")));
        chain.ask(at, 5, RequestBody::OpenSession);
        chain.lookup(at, "a");
    }
    let (elsewhere, not) = (Status::WrongEpoch, Status::NotServing);
    assert_eq!(
        chain.statuses(),
        [
            (1, elsewhere),
            (1, elsewhere),
            (1, Status::NotFound),
            (2, not),
            (2, not),
            (2, not),
            (3, not),
            (3, not),
            (3, not)
        ]
    );
    chain.ask(2, 6, RequestBody::Query(Query::GroupStatus));
    assert!(matches!(chain.replies.pop(), Some((2, 6, Status::Ok, Body::Answer(Answer::GroupStatus(_))))));
    // R1: what has promised a higher epoch works in none until that one is active.
    let prepared = view(2, &[Serving, Serving, Syncing, Waiting]);
    chain.handle(0, Event::Chain(&prepared));
    chain.ask(0, 5, mutation(session, 1, 0, create_volume("a")));
    chain.ask(0, 5, RequestBody::KeepAlive { session, pins: Vec::new() });
    assert_eq!(chain.statuses(), [(0, not), (0, not)]);
}

/// R6: with fewer Serving members than the epoch wants nothing is logged, not even upkeep; reads go on.
#[test]
fn below_its_minimum_a_chain_only_reads() {
    let mut chain = Chain::new(&[Serving, Serving]);
    let session = chain.session();
    let states = [Serving, ReplicaState::Offline];
    chain.change(&ChainView { min_in_sync: 2, ..view(2, &states) });
    let records = chain.logs[0].len();
    chain.ask(0, 5, mutation(session, 1, 0, create_volume("a")));
    chain.lookup(0, "a");
    chain.ask(0, 5, RequestBody::KeepAlive { session, pins: Vec::new() });
    assert_eq!(chain.statuses(), [(0, Status::NotServing), (0, Status::NotFound), (0, Status::Ok)]);
    chain.pass(40 * Nanos::SECOND);
    assert_eq!(chain.logs[0].len(), records, "the session expires later");
}

/// What a deposed head executed may never be committed: its callers learn nothing, and it begins anew with all that it logged (I5, R14).
#[test]
fn a_deposed_head_answers_nobody_and_ends() {
    let mut chain = Chain::new(&[Serving, Serving]);
    let session = chain.session();
    chain.ask(0, 5, mutation(session, 1, 0, create_volume("a")));
    chain.flush(0);
    let mut deposing = view(2, &[Waiting, Serving]);
    chain.handle(0, Event::Chain(&deposing));
    assert!(chain.news.is_empty(), "it may lead the next epoch");
    deposing.phase = Phase::Active;
    chain.handle(0, Event::Chain(&deposing));
    let news: Vec<_> = std::mem::take(&mut chain.news).into_iter().map(|(_, effect)| effect).collect();
    assert_eq!(news, [Effect::Disconnect { client: 9 }, Effect::Restart]);
    assert_eq!(chain.statuses(), []);
    chain.lookup(0, "a");
    assert_eq!(chain.statuses(), [], "it is over");
    // B received the entry, leads, and commits it; A comes back as a learner.
    chain.change(&view(3, &[Waiting, Serving]));
    chain.restart(0);
    chain.handle(0, Event::Chain(&chain.view.clone()));
    chain.settle();
    chain.flush_all();
    assert_eq!((chain.replicas[0].role(), chain.replicas[1].role()), (Role::Learner, Role::Head));
    assert!(chain.replicas[0].state() == chain.replicas[1].state());
    chain.ask(1, 6, mutation(session, 1, 0, create_volume("a")));
    let outcome = chain.replies.pop();
    assert!(matches!(outcome, Some((1, 6, Status::Ok, Body::Outcome(_)))), "the first result: {outcome:?}");
}

/// I5: between promise and activation a member lived again and led, without what it hadn't flushed; its successor had that, and stopped.
#[test]
fn a_promise_waits_for_the_disk() {
    let mut chain = Chain::new(&[Serving; 3]);
    let session = chain.session();
    chain.ask(0, 5, mutation(session, 1, 0, create_volume("a")));
    chain.sealed.clear();
    let next = view(2, &[ReplicaState::Offline, Serving, Serving]);
    for at in [1, 2] {
        chain.handle(at, Event::Chain(&next));
    }
    assert_eq!(chain.sealed, []);
    chain.flush(1);
    assert_eq!(chain.sealed, [(1, Epoch(2))]);
    chain.flush(2);
    assert_eq!(chain.sealed, [(1, Epoch(2)), (2, Epoch(2))]);
}

/// What still leads goes on: what waits commits in the new epoch.
#[test]
fn a_head_that_stays_commits_in_the_new_epoch() {
    let mut chain = Chain::new(&[Serving, Serving]);
    let session = chain.session();
    chain.ask(0, 5, mutation(session, 1, 0, create_volume("a")));
    chain.flush(0);
    assert_eq!(chain.statuses(), []);
    chain.change(&view(2, &[Serving, ReplicaState::Offline]));
    assert_eq!(chain.statuses(), [(0, Status::Ok)]);
}

/// A head that restarts may have shipped entries that its log then lost: others of the same index and epoch must not take their place.
#[test]
fn a_head_of_others_leads_only_what_it_promised_in_this_life() {
    for (states, leads) in [(vec![Serving, Serving], false), (vec![Serving, Waiting], true)] {
        let mut chain = Chain::new(&states);
        chain.session();
        chain.restart(0);
        chain.handle(0, Event::Chain(&chain.view.clone()));
        assert_eq!(chain.replicas[0].role() == Role::Head, leads, "{states:?}");
        chain.change(&view(2, &states));
        assert_eq!(chain.replicas[0].role(), Role::Head);
    }
}

/// R13, R19: without a lease a keepalive waits until the other members say that they have promised nothing higher, in a round begun after it came.
#[test]
fn a_keepalive_needs_the_fence() {
    let mut chain = Chain::new(&[Serving, Serving]);
    let session = chain.session();
    let keep_alive = || RequestBody::KeepAlive { session, pins: Vec::new() };
    chain.ask(0, 5, keep_alive());
    assert_eq!(chain.statuses(), [(0, Status::Ok)], "B has promised nothing");
    let sealed = view(2, &[Waiting, Serving]);
    chain.handle(1, Event::Chain(&sealed));
    chain.ask(0, 5, keep_alive());
    chain.pass(Nanos::SECOND);
    assert_eq!(chain.statuses(), []);
    let (sent, until) = (chain.sent, chain.now.after(1));
    chain.handle(0, Event::Lease { until });
    assert_eq!(chain.statuses(), [(0, Status::Ok)]);
    chain.ask(0, 5, keep_alive());
    assert_eq!((chain.statuses(), chain.sent), (vec![(0, Status::Ok)], sent), "nobody is asked");
    chain.now = until;
    chain.ask(0, 5, keep_alive());
    assert_eq!(chain.statuses(), []);
}

/// Entries of a turn leave in one message; and no more are on their way than the window has.
#[test]
fn entries_travel_together() {
    let mut chain = Chain::new(&[Serving, Serving]);
    let session = chain.session();
    chain.ask(0, 2, mutation(session, 1, 0, create_volume("a")));
    chain.flush_all();
    chain.sent = 0;
    let ask = |chain: &mut Chain, from: u64, count: u64| {
        for sequence in from..from + count {
            let body = mutation(session, sequence, 0, make_directory(&format!("directory-{sequence}")));
            let request = Request { client: 9, correlation: sequence, deadline: None, body };
            chain.handle(0, Event::Request(request));
        }
    };
    ask(&mut chain, 2, 10);
    assert_eq!(chain.sent, 0);
    chain.handle(0, Event::Turn);
    assert_eq!(chain.sent, 1);
    chain.settle();
    assert_eq!(chain.replicas[1].received(), chain.replicas[0].received());
    // B is silent: what was sent and isn't acknowledged is bounded.
    ask(&mut chain, 12, 100);
    chain.handle(0, Event::Turn);
    let on_way: usize = chain.letters.drain(..).map(|(_, _, message)| packed(&message)).sum();
    assert!((1_000..3_000).contains(&on_way), "{on_way}");
    // They were lost, and are sent again.
    for _ in 0..10 {
        chain.pass(Nanos::SECOND);
        chain.flush_all();
    }
    assert_eq!(chain.replicas[1].committed(), chain.replicas[0].received());
}

fn packed(message: &Message<Vec<u8>>) -> usize {
    if let Message::Entries(entries) = message { entries.packed.len() } else { 0 }
}

/// A joiner behind a joiner had applied more than that one had received, and stopped, as if their logs had parted.
#[test]
fn a_joiner_waits_for_the_one_before() {
    let mut chain = Chain::new(&[Serving, Waiting, Waiting]);
    let session = chain.session();
    for sequence in 1..10 {
        chain.ask(0, 5, mutation(session, sequence, 0, create_volume(&format!("v{sequence}"))));
    }
    chain.flush_all();
    // B has forgotten what it had.
    chain.logs[1].clear();
    chain.restart(1);
    chain.news.clear();
    chain.deaf = Some(1);
    chain.change(&view(2, &[Serving, Syncing, Syncing]));
    chain.pass(Nanos::SECOND / 10);
    assert_eq!(
        (chain.replicas[1].received(), chain.replicas[2].committed()),
        (CommitIndex(0), CommitIndex(10))
    );
    assert_eq!(chain.news, [], "nobody stops");
    chain.deaf = None;
    for _ in 0..5 {
        chain.pass(Nanos::SECOND);
        chain.flush_all();
    }
    assert!(chain.replicas.iter().all(|replica| replica.committed() == CommitIndex(10)));
    let synced: Vec<_> = chain.news.iter().map(|(at, effect)| (*at, effect.clone())).collect();
    let says = |at| (at, Effect::Synced { epoch: Epoch(2) });
    assert!(synced == [says(1), says(2)] || synced == [says(2), says(1)], "each says so once: {synced:?}");
}

/// A member of the middle that lives again at once has lost what wasn't flushed, and its successor has it: that one took its own log for another's, and stopped.
#[test]
fn a_successor_waits_for_a_member_that_has_lost_its_tail() {
    let mut chain = Chain::new(&[Serving; 3]);
    let session = chain.session();
    let durable = chain.logs[1].len();
    chain.ask(0, 5, mutation(session, 1, 0, create_volume("a")));
    assert_eq!(chain.replicas[2].received(), CommitIndex(2));
    chain.logs[1].truncate(durable);
    chain.restart(1);
    chain.deaf = Some(1);
    chain.handle(1, Event::Chain(&chain.view.clone()));
    chain.handle(0, Event::LinkDown { peer: store(1) });
    chain.handle(2, Event::LinkDown { peer: store(1) });
    chain.settle();
    chain.pass(Nanos::SECOND / 10);
    assert_eq!(
        (chain.replicas[1].received(), chain.replicas[2].received()),
        (CommitIndex(1), CommitIndex(2))
    );
    assert_eq!(chain.news, [], "nobody stops");
    chain.deaf = None;
    for _ in 0..5 {
        chain.pass(Nanos::SECOND);
        chain.flush_all();
    }
    assert_eq!(chain.statuses(), [(0, Status::Ok)]);
}

/// One of two connections between members broke, as idle ones do: the source forgot its subscriber, which heard of nothing, and was never sent anything again
/// (sim cluster seed 25).
#[test]
fn a_subscriber_that_was_forgotten_comes_again() {
    let mut chain = Chain::new(&[Serving; 2]);
    let session = chain.session();
    chain.handle(0, Event::LinkDown { peer: store(1) });
    chain.ask(0, 5, mutation(session, 1, 0, create_volume("a")));
    for _ in 0..4 {
        chain.pass(Nanos::SECOND);
        chain.flush_all();
    }
    assert_eq!(chain.statuses(), [(0, Status::Ok)]);
}

/// A former head follows a member that lacks its last entry, which nobody acked: that is cut (sim cluster seed 10).
#[test]
fn who_serves_gives_up_what_its_new_source_never_had() {
    let mut chain = Chain::new(&[Serving; 2]);
    let session = chain.session();
    chain.deaf = Some(1);
    chain.ask(0, 5, mutation(session, 1, 0, create_volume("a")));
    chain.flush_all();
    chain.deaf = None;
    let mut turned = view(2, &[Serving; 2]);
    turned.members.reverse();
    chain.change(&turned);
    assert!(
        matches!(chain.news.pop(), Some((0, Effect::Restart))),
        "it executed what may never be committed"
    );
    chain.news.clear();
    chain.restart(0);
    chain.handle(1, Event::LinkDown { peer: store(0) });
    let view = chain.view.clone();
    chain.handle(0, Event::Chain(&view));
    for _ in 0..4 {
        chain.pass(Nanos::SECOND);
        chain.flush_all();
    }
    assert_eq!(chain.news, [], "nobody stops");
    assert_eq!(
        (chain.replicas[0].received(), chain.replicas[1].received()),
        (CommitIndex(1), CommitIndex(1))
    );
}

/// A log and a checkpoint that a former release wrote, by one member, become a chain's.
#[test]
fn a_former_releases_log_is_adopted() {
    let mut bench = super::Bench::new();
    let session = bench.session();
    bench.mutate(session, 1, create_volume("a"));
    bench.mutate(session, 2, make_directory("d"));
    // It wrote entries as they are, and numbered them as they are.
    let old: Vec<Vec<u8>> = bench.log.iter().map(|record| former(record)).collect();
    let mut chain = Chain::new(&[Serving, Waiting]);
    chain.logs[0].clone_from(&old);
    chain.restart(0);
    assert_eq!(
        chain.replicas[0].committed(),
        CommitIndex(3),
        "it had one member: what is there is committed"
    );
    chain.change(&view(2, &[Serving, Waiting]));
    chain.ask(0, 5, mutation(session, 3, 0, make_directory("e")));
    chain.flush_all();
    assert_eq!(chain.statuses(), [(0, Status::Ok)]);
    assert!(chain.replicas[0].state() == chain.replicas[1].state());
    // Its own records follow the old ones, and both are read again.
    let state = chain.replicas[0].state().clone();
    chain.restart(0);
    chain.change(&view(3, &[Serving, Waiting]));
    assert!(*chain.replicas[0].state() == state);
}

fn former(record: &[u8]) -> Vec<u8> {
    let Ok(LogRecord::Entry { entry, .. }) = LogRecord::decode(record) else { panic!("an entry") };
    entry.to_vec()
}
