//! Is there an order? Wing and Gong's search with Lowe's memoization, on one component.
//!
//! The operations' beginnings and ends stand in a list in order of time. An operation can be next if it begins before the first end in the list:
//! it is taken out and executed in the model. What contradicts the model is put back, and the next one is tried. A state that was reached before
//! with the same operations done isn't entered again.
//!
//! - A read that agrees with the state is taken at once: it changes nothing, so it can only be in the way later.
//! - Mutations that know their commit index are next in its order only, which leaves no choice where everything was answered.
//! - Operations of unknown outcome have no end and are executed last, where nothing else helps: *just in time*.
//! - Where answers carry no indices (histories of other systems), writes that nobody reads any more come first.

mod list;

use std::collections::{BTreeMap, BTreeSet};

use crate::model::{File, Model, Undo, VERSION_ANY, VERSION_NEVER, hash_of, hash_of_op};
use crate::prepare::{Effect, Kind, Op, Part};
use list::{Events, Step};

/// What the search says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// There is an order.
    Linearizable,
    /// There is none. In the longest attempt this operation could not be executed, in this state of its path.
    Stuck { op: usize, expected: Option<File>, done: usize },
    /// It took too many steps to find out.
    GaveUp,
}

/// Steps that a component may take for each of its operations, beside [`STEPS_MIN`].
const STEPS_PER_OP: u64 = 64;
/// Steps that any component may take: some seconds.
const STEPS_MIN: u64 = 2_000_000;

/// Looks for an order: first with operations of unknown outcome only where something needs them, then, where there are such and that finds
/// none, with them everywhere.
pub(crate) fn search(part: &Part) -> Answer {
    let answer = Search::new(part, true).run();
    let has_free = part.ops.iter().any(|op| !op.is_sure);
    if has_free
        && matches!(answer, Answer::Stuck { .. })
        && Search::new(part, false).run() == Answer::Linearizable
    {
        return Answer::Linearizable;
    }
    answer
}

/// One way to go on: an operation, and which version it gets where that isn't known.
#[derive(Clone, Copy, Debug)]
struct Candidate {
    op: usize,
    version: u64,
}

/// What was done since, so that it can be undone.
#[derive(Clone, Copy, Debug)]
enum Done {
    Lifted { op: usize },
    Used { free: usize },
    Applied { undo: Undo, last: u64, next: usize },
}

/// A state with the ways that were not yet tried: the end of `candidates`.
#[derive(Clone, Copy, Debug)]
struct Frame {
    trail: usize,
    /// The first candidate of this state.
    first: usize,
    tried: usize,
}

struct Search<'a> {
    ops: &'a [Op],
    model: Model,
    events: Events,
    /// Sure mutations that know their index, in its order; the next one.
    sequence: Vec<usize>,
    next: usize,
    /// Operations of unknown outcome, and whether they were executed.
    free: Vec<usize>,
    used: Vec<bool>,
    /// Versions that were seen and that nobody is known to have written.
    mysteries: Vec<u64>,
    /// Of each version: how many of the operations that aren't done name it.
    observers: BTreeMap<u64, u32>,
    /// Of each operation: how late its bytes are wanted, for histories without indices.
    wanted: Vec<u64>,
    has_appends: bool,
    has_choice: bool,
    /// Operations of unknown outcome are tried only where something needs them.
    is_lazy: bool,
    /// Paths that something needs to be otherwise, in the present state.
    needed: Vec<bool>,
    /// The highest index executed.
    last: u64,
    hash: u128,
    lifted: usize,
    trail: Vec<Done>,
    frames: Vec<Frame>,
    candidates: Vec<Candidate>,
    visited: BTreeSet<u128>,
    best: (usize, usize, Option<File>),
    steps: u64,
}

impl<'a> Search<'a> {
    fn new(part: &'a Part, is_lazy: bool) -> Self {
        let ops = part.ops.as_slice();
        let places = 0..ops.len();
        let is_mutation = |place: &usize| !ops[*place].kind.is_read();
        let mut sequence: Vec<usize> =
            places.clone().filter(is_mutation).filter(|place| ops[*place].index.is_some()).collect();
        sequence.sort_by_key(|place| ops[*place].index);
        let has_unordered =
            places.clone().filter(is_mutation).any(|place| ops[place].is_sure && ops[place].index.is_none());
        let free: Vec<usize> = places.clone().filter(|place| !ops[*place].is_sure).collect();
        let written: BTreeSet<u64> = sequence
            .iter()
            .filter(|place| ops[**place].kind.is_write())
            .filter_map(|place| ops[*place].index)
            .collect();
        let seen = ops.iter().filter_map(|op| op.kind.found()?.version);
        let mysteries: BTreeSet<u64> = seen.filter(|version| !written.contains(version)).collect();
        Self {
            ops,
            model: Model::new(part.paths.len()),
            events: Events::new(ops),
            sequence,
            next: 0,
            used: vec![false; ops.len()],
            is_lazy,
            needed: vec![!is_lazy; part.paths.len()],
            mysteries: mysteries.into_iter().collect(),
            has_choice: has_unordered || !free.is_empty(),
            free,
            observers: observers(ops),
            wanted: wanted(ops),
            has_appends: ops.iter().any(|op| matches!(op.kind, Kind::Append { .. })),
            last: 0,
            hash: 0,
            lifted: 0,
            trail: Vec::new(),
            frames: Vec::new(),
            candidates: Vec::new(),
            visited: BTreeSet::new(),
            best: (0, 0, None),
            steps: 0,
        }
    }

    fn run(mut self) -> Answer {
        let steps_max = STEPS_MIN + STEPS_PER_OP * self.ops.len() as u64;
        self.enter();
        loop {
            if self.events.is_empty() {
                return Answer::Linearizable;
            }
            if self.steps > steps_max {
                return Answer::GaveUp;
            }
            let Some(frame) = self.frames.last_mut() else {
                let (done, op, expected) = self.best;
                return Answer::Stuck { op, expected, done };
            };
            if frame.tried == self.candidates.len() {
                let first = frame.first;
                self.frames.pop();
                self.candidates.truncate(first);
                // Back to the state in which this one was chosen.
                let trail = self.frames.last().map_or(0, |frame| frame.trail);
                self.rewind(trail);
                continue;
            }
            let candidate = self.candidates[frame.tried];
            frame.tried += 1;
            self.steps += 1;
            let trail = self.trail.len();
            if self.execute(candidate) {
                // Where there is one way only, no state is reached twice.
                if self.has_choice && !self.visited.insert(self.hash) {
                    self.rewind(trail);
                } else {
                    self.enter();
                }
            }
        }
    }

    /// In a new state: takes the reads that agree, and notes the ways to go on.
    fn enter(&mut self) {
        let first = self.candidates.len();
        let next = self.next_index();
        // The node before the one that is looked at: taking an operation out leaves it in the list.
        let mut before = Events::HEAD;
        let mut limit = u64::MAX;
        let mut blocking = None;
        self.needed.fill(!self.is_lazy);
        while let Some((step, node)) = self.events.after(before) {
            match step {
                Step::End { op } => {
                    limit = self.ops[op].ended;
                    blocking = Some(op);
                    break;
                }
                Step::Begin { op } if self.ops[op].kind.is_read() && self.reads(op, next) => self.lift(op),
                Step::Begin { op } => {
                    let is_mutation = !self.ops[op].kind.is_read();
                    let is_turn = self.ops[op].index.is_none() || self.sequence.get(self.next) == Some(&op);
                    if is_mutation && is_turn {
                        self.candidates.push(Candidate { op, version: VERSION_ANY });
                    }
                    if !self.free.is_empty() {
                        self.note_need(op, is_mutation && is_turn, next);
                    }
                    before = node;
                }
            }
        }
        self.order(first);
        self.add_free(limit, next);
        if self.lifted >= self.best.0 {
            let op = blocking.unwrap_or(0);
            let expected = self.ops.get(op).and_then(|op| self.model.file(op.kind.path()));
            self.best = (self.lifted, op, expected);
        }
        self.frames.push(Frame { trail: self.trail.len(), first, tried: first });
    }

    /// Operations that know no index: those whose bytes nobody wants come first, then by when they are wanted.
    fn order(&mut self, first: usize) {
        let (ops, wanted) = (self.ops, &self.wanted);
        self.candidates[first..].sort_by_key(|candidate| (wanted[candidate.op], ops[candidate.op].ended));
    }

    /// Operations of unknown outcome that had begun, where executing them could make a difference.
    ///
    /// An operation without end can wait until somebody needs what it does: it changes places with whatever doesn't touch its paths, and what
    /// agrees with the state, and says enough of it, wouldn't any more.
    fn add_free(&mut self, limit: u64, next: u64) {
        self.follow_renames();
        for &op in &self.free {
            let Op { began, bounds, kind, .. } = &self.ops[op];
            // An index has to be left for it between the last one and the next.
            let is_room = next.saturating_sub(1) > self.last.max(bounds.low);
            let is_needed =
                self.needed.iter().enumerate().any(|(path, is_needed)| *is_needed && kind.touches(path));
            if self.used[op] || *began > limit || !is_room || !is_needed {
                continue;
            }
            if !kind.is_write() {
                self.candidates.push(Candidate { op, version: VERSION_ANY });
                continue;
            }
            let fits = |version: &&u64| **version > self.last.max(bounds.low) && **version < next;
            let versions = self.mysteries.iter().filter(fits);
            self.candidates.extend(versions.map(|version| Candidate { op, version: *version }));
            // A version that nobody saw matters where it makes a file, as the ground of an append, or where nothing tells versions.
            let is_new = self.model.file(kind.path()).is_none();
            if is_new || self.has_appends || self.sequence.is_empty() {
                self.candidates.push(Candidate { op, version: VERSION_NEVER });
            }
        }
    }

    /// What an operation that could be next wants to be otherwise.
    fn note_need(&mut self, op: usize, is_turn: bool, next: u64) {
        let Op { index, kind, .. } = &self.ops[op];
        let path = kind.path();
        match kind {
            Kind::Read { .. } => self.needed[path] |= self.is_time(op, next),
            _ if !is_turn => {}
            Kind::Rename { to, found, .. } => {
                self.needed[*to] = true;
                self.needed[path] |= found.version.is_none() || !self.can_apply(op);
            }
            // Bytes of the same number may be there, and others.
            Kind::Append { .. } => self.needed[path] = true,
            Kind::Put { found, .. } => self.needed[path] |= found.inode.is_none() || !self.can_apply(op),
            Kind::Delete { .. } => self.needed[path] |= index.is_none() || !self.can_apply(op),
        }
    }

    fn can_apply(&mut self, op: usize) -> bool {
        let undo = self.model.apply(&self.ops[op].kind, self.ops[op].version());
        undo.map(|undo| self.model.undo(undo)).is_ok()
    }

    /// What a rename of unknown outcome could bring to a needed path is needed, too.
    fn follow_renames(&mut self) {
        let mut is_new = self.is_lazy;
        while std::mem::take(&mut is_new) {
            for &free in &self.free {
                if let Kind::Rename { path, to, .. } = &self.ops[free].kind
                    && self.needed[*to]
                    && !std::mem::replace(&mut self.needed[*path], true)
                {
                    is_new = true;
                }
            }
        }
    }

    fn next_index(&self) -> u64 {
        self.sequence.get(self.next).and_then(|op| self.ops[*op].index).unwrap_or(u64::MAX)
    }

    /// Whether a read can be executed in this state.
    fn reads(&self, op: usize, next: u64) -> bool {
        let Kind::Read { path, effect } = &self.ops[op].kind else { unreachable!("the caller has looked") };
        self.is_time(op, next) && self.model.agrees(*path, effect)
    }

    /// Whether a read can be made at this place of the log.
    fn is_time(&self, op: usize, next: u64) -> bool {
        let Op { index, bounds, .. } = &self.ops[op];
        match index {
            Some(index) => self.last <= *index && *index < next && bounds.admit(*index, false),
            None => self.last <= bounds.high && next > bounds.low,
        }
    }

    /// Executes a mutation if the model lets it.
    fn execute(&mut self, candidate: Candidate) -> bool {
        let Candidate { op, version } = candidate;
        let Op { index, bounds, kind, is_sure, .. } = &self.ops[op];
        if index.is_some_and(|index| index <= self.last || !bounds.admit(index, true)) {
            return false;
        }
        let is_seen = kind.is_write() && ![VERSION_ANY, VERSION_NEVER].contains(&version);
        // Reads of what was there before come before it.
        if index.or(is_seen.then_some(version)).is_some_and(|index| index > self.events.index_max()) {
            return false;
        }
        let version = if *is_sure { self.ops[op].version() } else { version };
        let Ok(undo) = self.model.apply(kind, version) else { return false };
        if self.is_missed(&undo, kind) {
            self.model.undo(undo);
            return false;
        }
        for (path, before) in Model::before(&undo) {
            self.hash ^= hash_of(path, before) ^ hash_of(path, self.model.file(path));
        }
        self.trail.push(Done::Applied { undo, last: self.last, next: self.next });
        if *is_sure {
            if let Some(index) = index {
                self.last = *index;
                self.next += 1;
            }
            self.lift(op);
        } else {
            // A version that was seen is an index, too.
            if is_seen {
                self.last = version;
            }
            self.used[op] = true;
            self.hash ^= hash_of_op(op);
            self.trail.push(Done::Used { free: op });
        }
        true
    }

    /// Whether a version is gone that operations name which aren't done: it never comes back.
    fn is_missed(&self, undo: &Undo, kind: &Kind) -> bool {
        let mut gone = Model::before(undo).filter_map(|(_, file)| Some(file?.version));
        gone.any(|version| {
            let own = u32::from(named_version(kind) == Some(version));
            let is_named = self.observers.get(&version).is_some_and(|count| *count > own);
            is_named
                && !Model::touched(undo)
                    .any(|path| self.model.file(path).is_some_and(|f| f.version == version))
        })
    }

    fn lift(&mut self, op: usize) {
        self.events.lift(op);
        if let Some(count) =
            named_version(&self.ops[op].kind).and_then(|version| self.observers.get_mut(&version))
        {
            *count -= 1;
        }
        self.lifted += 1;
        self.hash ^= hash_of_op(op);
        self.trail.push(Done::Lifted { op });
    }

    fn rewind(&mut self, trail: usize) {
        while self.trail.len() > trail {
            match self.trail.pop().expect("it is longer") {
                Done::Lifted { op } => {
                    self.events.put_back(op);
                    let version = named_version(&self.ops[op].kind);
                    if let Some(count) = version.and_then(|version| self.observers.get_mut(&version)) {
                        *count += 1;
                    }
                    self.lifted -= 1;
                    self.hash ^= hash_of_op(op);
                }
                Done::Used { free } => {
                    self.used[free] = false;
                    self.hash ^= hash_of_op(free);
                }
                Done::Applied { undo, last, next } => {
                    for path in Model::touched(&undo) {
                        self.hash ^= hash_of(path, self.model.file(path));
                    }
                    self.model.undo(undo);
                    for path in Model::touched(&undo) {
                        self.hash ^= hash_of(path, self.model.file(path));
                    }
                    (self.last, self.next) = (last, next);
                }
            }
        }
    }
}

/// The version that has to be there for an operation: of what is read, removed or moved.
fn named_version(kind: &Kind) -> Option<u64> {
    if kind.is_write() { None } else { kind.found()?.version }
}

fn observers(ops: &[Op]) -> BTreeMap<u64, u32> {
    let mut observers = BTreeMap::new();
    for version in ops.iter().filter(|op| op.is_sure).filter_map(|op| named_version(&op.kind)) {
        *observers.entry(version).or_default() += 1;
    }
    observers
}

/// When the bytes of each write are wanted: the last end of a read that saw them; 0: never.
fn wanted(ops: &[Op]) -> Vec<u64> {
    let by_record: BTreeMap<u32, usize> =
        (0..).zip(ops).filter_map(|(place, op)| Some((u32::try_from(op.record).ok()?, place))).collect();
    let mut wanted = vec![0; ops.len()];
    for op in ops {
        let Kind::Read { effect: Effect::Present { seen: Some(seen), .. }, .. } = &op.kind else { continue };
        for place in seen.pieces.iter().filter_map(|piece| by_record.get(&piece.write)) {
            wanted[*place] = op.ended.max(wanted[*place]);
        }
    }
    wanted
}
