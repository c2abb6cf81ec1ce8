//! A volume that answers many clients at once, as a plain map that executes one operation after the other. It can be told to do something wrong.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::record::{Action, Answer, Listed, Outcome, Piece, Record, Stamp};
use crate::{Header, History};

/// Numbers from a seed: splitmix64.
#[derive(Clone, Debug)]
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    }

    pub(super) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    pub(super) fn index(&mut self, bound: usize) -> usize {
        usize::try_from(self.below(bound as u64)).expect("below a usize")
    }

    pub(super) fn percent(&mut self, probability: u64) -> bool {
        self.below(100) < probability
    }
}

/// What the volume does wrong, once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Bug {
    /// A write is acknowledged and not made.
    Lose,
    /// A read sees an older state.
    Stale,
    /// What was moved stays where it was, too.
    Return,
    /// A write is executed and answered as failed.
    Refuse,
    /// A write is executed once more, later.
    Double,
    /// A read has the bytes of two versions.
    Tear,
    /// A removal is acknowledged and not made.
    Keep,
}

impl Bug {
    pub(super) const ALL: [Self; 7] =
        [Self::Lose, Self::Stale, Self::Return, Self::Refuse, Self::Double, Self::Tear, Self::Keep];
}

impl Bug {
    /// Whether an acknowledged mutation isn't made.
    fn ignores(self, action: &Action) -> bool {
        match self {
            Self::Lose => action.is_write(),
            _ => matches!(action, Action::Delete { .. }),
        }
    }
}

/// How a run goes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plan {
    pub(super) seed: u64,
    pub(super) clients: u32,
    pub(super) operations: usize,
    /// Of paths that can be renamed to each other.
    pub(super) groups: u64,
    pub(super) paths: u64,
    /// Of a hundred operations.
    pub(super) unknown_percent: u64,
    pub(super) failed_percent: u64,
    pub(super) bug: Option<Bug>,
}

impl Plan {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            seed,
            clients: 6,
            operations: 150,
            groups: 2,
            paths: 3,
            unknown_percent: 3,
            failed_percent: 3,
            bug: None,
        }
    }

    pub(super) fn run(self) -> History {
        let mut world = World::new(self);
        while world.records.len() < self.operations {
            world.step();
        }
        // What is under way ends, or is never heard of.
        for client in 0..world.clients.len() {
            if let Some(pending) = world.clients[client].take() {
                let answered = pending.outcome.is_some();
                world.records[pending.record].ended = answered.then_some(world.now + 1);
                if let Some(outcome) = pending.outcome {
                    world.records[pending.record].outcome = outcome;
                }
            }
        }
        let header = Header { process: 1, directory: "d".into(), ..Header::default() };
        History { header, records: world.records, is_ended: true }
    }
}

/// A file as the volume has it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct File {
    inode: u64,
    version: u64,
    pieces: Vec<(Stamp, u64)>,
}

impl File {
    fn size(&self) -> u64 {
        self.pieces.iter().map(|(_, length)| length).sum()
    }

    fn seen(&self, offset: u64, length: u64) -> Vec<Piece> {
        let (start, end) = (offset.min(self.size()), offset.saturating_add(length).min(self.size()));
        let mut at = 0;
        let mut seen = Vec::new();
        for (stamp, length) in &self.pieces {
            let (low, high) = (start.max(at), end.min(at + length));
            if low < high {
                seen.push(Piece { stamp: *stamp, from: low - at, length: high - low });
            }
            at += length;
        }
        seen
    }
}

type Files = BTreeMap<Arc<str>, File>;

struct Pending {
    record: usize,
    outcome: Option<Outcome>,
}

struct World {
    plan: Plan,
    random: Random,
    now: u64,
    index: u64,
    inode: u64,
    files: Files,
    /// States before, for reads that are wrong.
    before: Vec<(u64, Files)>,
    clients: Vec<Option<Pending>>,
    numbers: Vec<u32>,
    /// Mutations whose client doesn't wait any more.
    ghosts: Vec<usize>,
    records: Vec<Record>,
    bug: Option<Bug>,
}

impl World {
    fn new(plan: Plan) -> Self {
        Self {
            plan,
            random: Random(plan.seed),
            now: 1000,
            index: 10,
            inode: 100,
            files: Files::new(),
            before: Vec::new(),
            clients: (0..plan.clients).map(|_| None).collect(),
            numbers: vec![0; plan.clients as usize],
            ghosts: Vec::new(),
            records: Vec::new(),
            bug: None,
        }
    }

    fn step(&mut self) {
        self.now += self.random.below(5);
        // Wrong things happen in the middle.
        if self.bug.is_none() && self.records.len() == self.plan.operations / 3 {
            self.bug = self.plan.bug;
        }
        if !self.ghosts.is_empty() && self.random.percent(20) {
            let ghost = self.ghosts.swap_remove(self.random.index(self.ghosts.len()));
            if self.random.percent(50) {
                self.execute(ghost);
            }
            return;
        }
        let client = self.random.index(self.clients.len());
        match self.clients[client].take() {
            None => self.begin(client),
            Some(Pending { record, outcome: None }) => self.decide(client, record),
            Some(Pending { record, outcome: Some(outcome) }) => {
                self.records[record].ended = Some(self.now);
                self.records[record].outcome = outcome;
            }
        }
    }

    fn begin(&mut self, client: usize) {
        self.numbers[client] += 1;
        let stamp =
            Stamp { process: 1, client: u32::try_from(client).expect("few"), number: self.numbers[client] };
        let action = self.action();
        self.clients[client] = Some(Pending { record: self.records.len(), outcome: None });
        self.records.push(Record { stamp, began: self.now, ended: None, action, outcome: Outcome::Unknown });
    }

    fn path(&mut self, group: u64) -> Arc<str> {
        Arc::from(format!("d/{group}-{}", self.random.below(self.plan.paths)))
    }

    fn action(&mut self) -> Action {
        let group = self.random.below(self.plan.groups);
        let path = self.path(group);
        let length = 1 + self.random.below(3) * 10;
        match self.random.below(100) {
            0..25 => Action::Put { path, length },
            25..35 => Action::Append { path, length },
            35..55 => Action::Get { path, offset: 0, length: u64::MAX },
            55..65 => Action::Get { path, offset: self.random.below(20), length: self.random.below(30) },
            65..78 => Action::Stat { path },
            78..80 => Action::List { path: Arc::from("d") },
            80..90 => Action::Delete { path },
            _ => {
                let to = self.path(group);
                if to == path { Action::Stat { path } } else { Action::Rename { path, to } }
            }
        }
    }

    /// The operation takes effect, fails, or is lost on the way.
    fn decide(&mut self, client: usize, record: usize) {
        let is_mutation = self.records[record].action.is_mutation();
        if is_mutation && self.random.percent(self.plan.unknown_percent) {
            if self.random.percent(30) {
                self.execute(record);
            } else {
                self.ghosts.push(record);
            }
            self.records[record].ended = Some(self.now);
            return;
        }
        let outcome = if self.random.percent(self.plan.failed_percent) {
            Outcome::Failed
        } else {
            self.execute(record)
        };
        self.clients[client] = Some(Pending { record, outcome: Some(outcome) });
    }

    fn execute(&mut self, record: usize) -> Outcome {
        let action = self.records[record].action.clone();
        if !action.is_mutation() {
            return self.read(&action);
        }
        self.before.push((self.index, self.files.clone()));
        self.index += 1 + self.random.below(2);
        let stamp = self.records[record].stamp;
        let files = self.files.clone();
        let outcome = self.mutate(&action, stamp);
        let is_done = matches!(outcome, Outcome::Ok(_));
        match self.bug {
            Some(bug @ (Bug::Lose | Bug::Keep)) if is_done && bug.ignores(&action) => self.files = files,
            Some(Bug::Refuse) if is_done => {
                self.bug_done();
                return Outcome::Failed;
            }
            Some(Bug::Double) if is_done && action.is_write() => {
                // Somebody else's write comes between the two, where there is one.
                self.index += 1;
                self.mutate(&action, stamp);
            }
            Some(Bug::Return) if is_done && matches!(action, Action::Rename { .. }) => {
                if let Some(file) = files.get(action.path()) {
                    self.files.insert(Arc::clone(action.path()), file.clone());
                }
            }
            _ => return outcome,
        }
        self.bug_done();
        outcome
    }

    fn bug_done(&mut self) {
        self.bug = None;
        self.plan.bug = None;
    }

    fn mutate(&mut self, action: &Action, stamp: Stamp) -> Outcome {
        let path = Arc::clone(action.path());
        let offset = self.files.get(&path).map_or(0, File::size);
        let file = match action {
            Action::Put { length, .. } | Action::Append { length, .. } => {
                let index = self.index;
                let inode = &mut self.inode;
                let file = self.files.entry(path).or_insert_with(|| {
                    *inode += 1;
                    File { inode: *inode, version: 0, pieces: Vec::new() }
                });
                file.version = index;
                if matches!(action, Action::Put { .. }) {
                    file.pieces.clear();
                }
                file.pieces.push((stamp, *length));
                Some(file.clone())
            }
            Action::Delete { .. } => self.files.remove(&path),
            Action::Rename { to, .. } => self.files.remove(&path).inspect(|file| {
                self.files.insert(Arc::clone(to), file.clone());
            }),
            _ => unreachable!("a mutation"),
        };
        let Some(file) = file else { return Outcome::Absent };
        Outcome::Ok(Answer {
            index: Some(self.index),
            inode: Some(file.inode),
            version: Some(file.version),
            size: Some(file.size()),
            offset: matches!(action, Action::Append { .. }).then_some(offset),
            ..Answer::default()
        })
    }

    fn read(&mut self, action: &Action) -> Outcome {
        let mut files = self.files.clone();
        let mut index = self.index;
        if self.bug == Some(Bug::Stale) && matches!(action, Action::Get { .. } | Action::Stat { .. }) {
            let from = self.before.len().saturating_sub(20);
            let old = &self.before[from + self.random.index(self.before.len() - from)];
            if old.1.get(action.path()) != files.get(action.path()) {
                (index, files) = old.clone();
                self.bug_done();
            }
        }
        let path = action.path();
        if let Action::List { .. } = action {
            let listed = files.iter().map(|(path, file)| Listed {
                name: Arc::from(path.rsplit('/').next().expect("a part")),
                inode: file.inode,
                version: file.version,
                size: file.size(),
            });
            return Outcome::Ok(Answer { listed: Some(listed.collect()), ..Answer::default() });
        }
        let Some(file) = files.get(path) else { return Outcome::Absent };
        let seen = match action {
            Action::Get { offset, length, .. } => Some(file.seen(*offset, *length)),
            _ => None,
        };
        let mut answer = Answer {
            index: Some(index),
            inode: Some(file.inode),
            version: Some(file.version),
            size: Some(file.size()),
            offset: None,
            seen,
            listed: None,
        };
        if self.bug == Some(Bug::Tear)
            && let Some(seen) = &mut answer.seen
            && let Some(last) = seen.last_mut()
            && last.length > 1
            && let Some(other) = self.before.iter().rev().find_map(|(_, files)| {
                files.get(path).and_then(|old| old.pieces.first()).filter(|(stamp, _)| *stamp != last.stamp)
            })
        {
            last.length -= 1;
            seen.push(Piece { stamp: other.0, from: 0, length: 1 });
            self.bug_done();
        }
        Outcome::Ok(answer)
    }
}
