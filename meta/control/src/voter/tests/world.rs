//! Voters, their logs and the network between them, in milliseconds of virtual time.
//!
//! What is checked all the time: a term has one leader; an index has one content, everywhere; a node applies in order and nothing twice; a round is
//! confirmed only to whom nobody had replaced when it was begun.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Range;

use wire::ClusterId;

use crate::voter::{Outputs, Proposal, Recovery, TICK, Voter, VoterError, VoterEvent, VoterId};

const CLUSTER: ClusterId = ClusterId([7; 16]);

/// splitmix64, so that a seed is a run.
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(super) fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut value = self.0;
        value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (value ^ (value >> 31)) % bound
    }

    pub(super) fn chance(&mut self, of_1000: u64) -> bool {
        self.below(1000) < of_1000
    }

    fn of(&mut self, range: &Range<u64>) -> u64 {
        range.start + self.below((range.end - range.start).max(1))
    }
}

/// A node: its log outlives its voter.
#[derive(Default)]
pub(super) struct Node {
    voter: Option<Voter>,
    /// Records that are durable, and those that aren't yet, with the time at which they will be.
    durable: Vec<Vec<u8>>,
    /// The number of the last durable record; a checkpoint's stand for those before.
    last: u64,
    pending: VecDeque<(u64, Vec<u8>)>,
    is_damaged: bool,
    /// A node that the voters' change has left behind.
    pub(super) error: Option<VoterError>,
    next_tick: u64,
    /// Its process stands still until then, and notices nothing of it.
    paused_until: u64,
    /// What the state machine holds: operations in their order.
    pub(super) applied: Vec<(u64, u64)>,
    pub(super) installed: u64,
    confirmed: usize,
    /// Rounds begun: the highest term that had a leader by then.
    rounds: BTreeMap<u64, u64>,
}

impl Node {
    pub(super) fn voter(&self) -> &Voter {
        self.voter.as_ref().expect("it is up")
    }

    pub(super) fn is_up(&self) -> bool {
        self.voter.is_some()
    }

    pub(super) fn leads(&self) -> bool {
        self.voter.as_ref().is_some_and(Voter::leads_with_all)
    }
}

/// See the module.
pub(super) struct World {
    pub(super) now: u64,
    pub(super) random: Random,
    pub(super) nodes: BTreeMap<u64, Node>,
    network: BTreeMap<(u64, u64), (u64, u64, Vec<u8>)>,
    sent: u64,
    cut: BTreeSet<(u64, u64)>,
    pub(super) delay: Range<u64>,
    pub(super) flush: Range<u64>,
    /// Messages lost, repeated and held up for long, of 1,000.
    pub(super) loss: u64,
    pub(super) twice: u64,
    pub(super) late: u64,
    /// Entries after which an image is made, beside those that are asked for.
    pub(super) image_every: u64,
    /// Who is to vote.
    pub(super) target: BTreeSet<u64>,
    leaders: BTreeMap<u64, u64>,
    /// Every operation that anybody applied.
    agreed: BTreeMap<u64, u64>,
    long: u64,
    round: u64,
    seed: u64,
    pub(super) trace: u64,
}

/// An operation in the agreed form: its number, and as many bytes as it is long.
fn operation(op: u64, length: usize) -> Vec<u8> {
    let mut bytes = op.to_le_bytes().to_vec();
    bytes.resize(length.max(8), op.to_le_bytes()[0]);
    bytes
}

fn read_operation(bytes: &[u8]) -> u64 {
    let op = u64::from_le_bytes(bytes[..8].try_into().expect("eight bytes"));
    assert!(bytes[8..].iter().all(|byte| *byte == op.to_le_bytes()[0]), "a string arrives whole");
    op
}

impl World {
    pub(super) fn new(seed: u64, delay: u64) -> Self {
        Self {
            now: 0,
            random: Random::new(seed),
            nodes: BTreeMap::new(),
            network: BTreeMap::new(),
            sent: 0,
            cut: BTreeSet::new(),
            delay: delay..delay + 5,
            flush: 1..5,
            loss: 0,
            twice: 0,
            late: 0,
            image_every: u64::MAX,
            target: BTreeSet::new(),
            leaders: BTreeMap::new(),
            agreed: BTreeMap::new(),
            long: 0,
            round: 0,
            seed,
            trace: seed,
        }
    }

    fn note(&mut self, value: u64) {
        self.trace = (self.trace ^ value).wrapping_mul(0x0100_0000_01b3).rotate_left(23);
    }

    pub(super) fn node(&self, id: u64) -> &Node {
        &self.nodes[&id]
    }

    /// The first voter.
    pub(super) fn found(&mut self, id: u64) {
        let durable = Voter::found(VoterId { cluster: CLUSTER, id }, &[]);
        self.nodes.insert(id, Node { last: durable.len() as u64, durable, ..Node::default() });
        self.target.insert(id);
        self.start(id);
    }

    /// Nodes for all who are to vote, and aren't there yet.
    pub(super) fn join_missing(&mut self) {
        let missing: Vec<u64> =
            self.target.iter().copied().filter(|id| !self.nodes.contains_key(id)).collect();
        for id in missing {
            let durable = Voter::join(VoterId { cluster: CLUSTER, id });
            self.nodes.insert(id, Node { last: durable.len() as u64, durable, ..Node::default() });
            self.start(id);
        }
    }

    /// So many voters, in a network without faults.
    pub(super) fn grow_to(&mut self, ids: &[u64]) {
        self.found(ids[0]);
        self.run_for(50);
        self.target = ids.iter().copied().collect();
        self.join_missing();
        let target = self.target.clone();
        self.run_until(8_000, |world| {
            world.leader().is_some_and(|id| {
                let voters = world.node(id).voter().voters();
                voters.voters == target && voters.outgoing.is_empty()
            })
        });
        self.run_for(300);
    }

    pub(super) fn start(&mut self, id: u64) {
        let node = self.nodes.get_mut(&id).expect("a node");
        let mut recovery = Recovery::new();
        if node.is_damaged {
            recovery.on_damage();
        }
        for record in &node.durable {
            recovery.on_record(record);
        }
        let recorded = node.last;
        let mut out = Outputs::default();
        let voter = VoterId { cluster: CLUSTER, id };
        node.applied.clear();
        node.next_tick = self.now + self.random.below(50);
        match Voter::start(voter, self.seed, recovery, recorded, &mut out) {
            Ok(started) => node.voter = Some(started),
            Err(error) => node.error = Some(error),
        }
        self.take(id, out);
    }

    /// The node's power fails: of what isn't flushed, a part of the beginning may be there.
    pub(super) fn crash(&mut self, id: u64) {
        let kept = self.random.below(4);
        let node = self.nodes.get_mut(&id).expect("a node");
        if node.voter.take().is_some() {
            let count = usize::try_from(kept).expect("few").min(node.pending.len());
            node.durable.extend(node.pending.drain(..count).map(|(_, record)| record));
            node.last += count as u64;
            node.pending.clear();
        }
        self.note(id);
    }

    /// The end of its log is gone, and that is noticed.
    pub(super) fn damage(&mut self, id: u64) {
        let lost = 1 + self.random.below(6);
        let node = self.nodes.get_mut(&id).expect("a node");
        assert!(node.voter.is_none(), "a disk is damaged between two lives");
        let kept = node.durable.len().saturating_sub(usize::try_from(lost).expect("few")).max(1);
        node.durable.truncate(kept);
        node.is_damaged = true;
    }

    pub(super) fn pause(&mut self, id: u64, milliseconds: u64) {
        self.nodes.get_mut(&id).expect("a node").paused_until = self.now + milliseconds;
    }

    /// Whoever takes itself for the leader when it goes on asks whether it is, first of all.
    fn resume(&mut self) {
        let resumes =
            |(id, node): (&u64, &Node)| (node.paused_until == self.now && node.is_up()).then_some(*id);
        for id in self.nodes.iter().filter_map(resumes).collect::<Vec<u64>>() {
            self.begin_round(id);
        }
    }

    pub(super) fn isolate(&mut self, id: u64) {
        for other in self.nodes.keys().copied().filter(|other| *other != id) {
            self.cut.extend([(id, other), (other, id)]);
        }
    }

    pub(super) fn cut(&mut self, one: u64, other: u64) {
        self.cut.insert((one, other));
    }

    /// Whatever is on its way gets lost.
    pub(super) fn lose_all(&mut self) {
        self.network.clear();
    }

    pub(super) fn heal(&mut self) {
        self.cut.clear();
    }

    /// Whoever leads with all that was agreed on, in the highest term.
    pub(super) fn leader(&self) -> Option<u64> {
        let leads = self.nodes.iter().filter(|(_, node)| node.leads());
        leads.max_by_key(|(_, node)| node.voter().leadership().term).map(|(id, _)| *id)
    }

    /// Some voter that takes itself for the leader.
    fn some_leader(&mut self) -> Option<u64> {
        let leads: Vec<u64> = self.nodes.iter().filter(|(_, node)| node.leads()).map(|(id, _)| *id).collect();
        if leads.is_empty() {
            return None;
        }
        let place = self.random.below(leads.len() as u64);
        leads.get(usize::try_from(place).expect("few")).copied()
    }

    pub(super) fn propose(&mut self, op: u64) -> Option<Proposal> {
        self.propose_long(op, 8)
    }

    pub(super) fn propose_long(&mut self, op: u64, length: usize) -> Option<Proposal> {
        let id = self.some_leader()?;
        self.long = self.long.max(length as u64);
        self.call(id, |voter, out| voter.propose(&operation(op, length), out).ok()).flatten()
    }

    pub(super) fn begin_round(&mut self, id: u64) {
        self.round += 1;
        let round = self.round;
        let newest = self.leaders.keys().next_back().copied().unwrap_or(0);
        self.nodes.get_mut(&id).expect("a node").rounds.insert(round, newest);
        self.call(id, |voter, out| voter.read_index(round, out));
    }

    pub(super) fn confirmed(&self, id: u64) -> usize {
        self.node(id).confirmed
    }

    /// The leader is told who is to vote.
    pub(super) fn ask_for_voters(&mut self) {
        let target = self.target.clone();
        if let Some(id) = self.some_leader() {
            self.call(id, |voter, out| voter.change_voters(&target, out).ok());
        }
    }

    fn call<T>(&mut self, id: u64, act: impl FnOnce(&mut Voter, &mut Outputs) -> T) -> Option<T> {
        let voter = self.nodes.get_mut(&id)?.voter.as_mut()?;
        let mut out = Outputs::default();
        let result = act(voter, &mut out);
        self.take(id, out);
        Some(result)
    }

    /// Carries out what a voter wants, and checks what it says.
    fn take(&mut self, id: u64, out: Outputs) {
        for letter in out.letters {
            self.send(id, letter.to, &letter.bytes);
        }
        let at = self.now + self.random.of(&self.flush.clone());
        for (number, record) in out.records {
            assert!(record.len() <= crate::voter::RECORD_BYTES_MAX);
            let node = self.nodes.get_mut(&id).expect("a node");
            assert_eq!(number, node.last + node.pending.len() as u64 + 1, "records in order");
            node.pending.push_back((at, record));
        }
        for event in out.events {
            self.on_event(id, event);
        }
        self.give_image(id);
    }

    fn on_event(&mut self, id: u64, event: VoterEvent) {
        let node = self.nodes.get_mut(&id).expect("a node");
        match event {
            VoterEvent::Leadership(now) => {
                if now.is_self {
                    let known = *self.leaders.entry(now.term).or_insert(id);
                    assert_eq!(known, id, "term {} has two leaders", now.term);
                }
                self.note(now.term << 8 | now.leader);
            }
            VoterEvent::Applied { index, bytes } => {
                let op = read_operation(&bytes);
                let last = node.applied.last().map_or(0, |(last, _)| *last);
                assert!(index > last, "in order, and once");
                node.applied.push((index, op));
                let known = *self.agreed.entry(index).or_insert(op);
                assert_eq!(known, op, "index {index} has two contents");
                self.note(index << 20 ^ op);
            }
            VoterEvent::Installed { index, image } => {
                node.applied.clear();
                for pair in image.chunks_exact(16) {
                    let (at, op) = pair.split_at(8);
                    let number = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().expect("eight"));
                    node.applied.push((number(at), number(op)));
                }
                let known: Vec<(u64, u64)> =
                    self.agreed.range(..=index).map(|(index, op)| (*index, *op)).collect();
                assert_eq!(node.applied, known, "an image is what was agreed on up to its index");
                node.installed += u64::from(node.voter.is_some());
                self.note(index);
            }
            VoterEvent::Confirmed { round } => {
                let newest = node.rounds[&round];
                let term = node.voter().leadership().term;
                assert!(
                    term >= newest,
                    "a round is confirmed to a leader of term {term}, replaced in {newest}"
                );
                node.confirmed += 1;
            }
            VoterEvent::Failed(error) => {
                node.error = Some(error);
                panic!("voter {id}: {error}");
            }
            VoterEvent::Dropped(_) | VoterEvent::Voters(_) => {}
        }
    }

    fn give_image(&mut self, id: u64) {
        let every = self.image_every;
        let Some(node) = self.nodes.get_mut(&id) else { return };
        let Some(voter) = node.voter.as_mut() else { return };
        if voter.wants_image() || voter.applied() % every == every - 1 {
            let pairs = node.applied.iter().flat_map(|(index, op)| [index.to_le_bytes(), op.to_le_bytes()]);
            voter.set_image(&pairs.flatten().collect::<Vec<u8>>());
        }
    }

    fn send(&mut self, from: u64, to: u64, bytes: &[u8]) {
        assert!(bytes.len() <= crate::voter::MESSAGE_BYTES_MAX);
        if self.random.chance(self.loss) {
            return;
        }
        let copies = 1 + u64::from(self.random.chance(self.twice));
        for _ in 0..copies {
            let late = if self.random.chance(self.late) { self.random.below(1_500) } else { 0 };
            let at = self.now + self.random.of(&self.delay.clone()) + late;
            self.sent += 1;
            self.network.insert((at, self.sent), (from, to, bytes.to_vec()));
        }
    }

    /// A millisecond.
    pub(super) fn step(&mut self) {
        self.now += 1;
        self.resume();
        while let Some(entry) = self.network.first_entry().filter(|entry| entry.key().0 <= self.now) {
            let (from, to, bytes) = entry.remove();
            let paused_until = self.nodes.get(&to).map_or(0, |node| node.paused_until);
            if paused_until > self.now {
                self.sent += 1;
                self.network.insert((paused_until, self.sent), (from, to, bytes));
            } else if !self.cut.contains(&(from, to)) {
                self.note(to << 32 ^ bytes.len() as u64);
                self.call(to, |voter, out| voter.step(&bytes, out).expect("voters understand each other"));
            }
        }
        for id in self.nodes.keys().copied().collect::<Vec<u64>>() {
            let node = self.nodes.get_mut(&id).expect("a node");
            if node.voter.is_none() || node.paused_until > self.now {
                continue;
            }
            let mut flushed = false;
            while node.pending.front().is_some_and(|(at, _)| *at <= self.now) {
                node.durable.extend(node.pending.pop_front().map(|(_, record)| record));
                node.last += 1;
                flushed = true;
            }
            let number = node.last;
            let ticks = node.next_tick <= self.now;
            if ticks {
                node.next_tick = self.now + TICK / 1_000_000;
            }
            if flushed {
                self.call(id, |voter, out| voter.on_durable(number, out));
            }
            if ticks {
                self.call(id, Voter::tick);
            }
        }
        if self.now.is_multiple_of(200) {
            self.ask_for_voters();
        }
    }

    /// The log begins with what it has led to.
    pub(super) fn checkpoint(&mut self, id: u64) {
        let Some(node) = self.nodes.get_mut(&id) else { return };
        if let Some((number, records)) = node.voter.as_ref().and_then(Voter::checkpoint) {
            assert_eq!(number, node.last, "a checkpoint holds what is durable");
            node.durable = records;
        }
    }

    pub(super) fn run_for(&mut self, milliseconds: u64) {
        for _ in 0..milliseconds {
            self.step();
        }
    }

    pub(super) fn run_until(&mut self, milliseconds: u64, is_so: impl Fn(&Self) -> bool) {
        let until = self.now + milliseconds;
        while !is_so(self) {
            assert!(self.now < until, "it doesn't come about within {milliseconds} ms: {}", self.standing());
            self.step();
        }
    }

    /// Whether the present voters are all well: one of them can be spared then.
    pub(super) fn has_only_sound_voters(&self) -> bool {
        let is_sound = |id: &u64| self.nodes.get(id).is_some_and(|node| !node.is_damaged);
        self.leader().is_some_and(|id| {
            let voters = self.node(id).voter().voters();
            self.target.iter().chain(&voters.voters).chain(&voters.outgoing).all(is_sound)
        })
    }

    /// How things stand, for messages.
    fn standing(&self) -> String {
        let each = |(id, node): (&u64, &Node)| {
            let voter =
                node.voter.as_ref().map(|voter| (voter.leadership(), voter.applied(), voter.voters()));
            format!("\n{id}: {voter:?} {:?}", node.error)
        };
        format!(
            "seed {}, to vote {:?}{}",
            self.seed,
            self.target,
            self.nodes.iter().map(each).collect::<String>()
        )
    }

    /// All of these have applied all that anybody has.
    pub(super) fn check_converged(&self, ids: &BTreeSet<u64>) {
        let all: Vec<(u64, u64)> = self.agreed.iter().map(|(index, op)| (*index, *op)).collect();
        for id in ids {
            let applied = &self.node(*id).applied;
            let differs = all.iter().zip(applied).position(|(expected, found)| expected != found);
            assert!(
                differs.is_none() && applied.len() == all.len(),
                "voter {id} has applied {} of {}, and differs at {differs:?}: {}",
                applied.len(),
                all.len(),
                self.standing()
            );
        }
    }
}
