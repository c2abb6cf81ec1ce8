//! A lane: one operation after the other, of one client.
//!
//! Each operation is noted in the history before it is sent if it changes something, and once it is answered; what was read is verified and judged;
//! what failed is counted, and the lane goes on after a pause that grows.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Poll, Waker};

use client::{
    Committed, Entry, Error, ErrorKind, Piece, Precondition, ReadRange, RemoveKind, RenameMode, UploadChange,
    UploadOptions, Volume,
};
use history::{Action, Answer, Listed, Outcome, Record, Stamp, Writer};

use crate::block::{BLOCK_BYTES, Flaw, Pool, Reader, Write};
use crate::driver::Desk;
use crate::known::{Before, Contradiction, Known};
use crate::places::Places;
use crate::profile::{Profile, Sizes, write_length};
use crate::random::{Random, Weighted, between};
use crate::report::{Kind, Report};

/// What all lanes of a process share.
#[derive(Debug)]
pub(crate) struct Load {
    pub(crate) process: u32,
    pub(crate) profile: Profile,
    pub(crate) places: Places,
    pub(crate) pool: Pool,
    pub(crate) known: RefCell<Known>,
    pub(crate) report: RefCell<Report>,
    pub(crate) desk: Rc<Desk>,
    pub(crate) stop: Arc<AtomicBool>,
    pub(crate) gate: Gate,
    kinds: Weighted,
    sizes: Choice,
    append_sizes: Choice,
    ranges: Choice,
}

/// Where lanes wait for each other before anything is measured.
#[derive(Debug)]
pub(crate) struct Gate {
    /// Lanes that aren't there yet.
    missing: Cell<u32>,
    waiting: RefCell<Vec<Waker>>,
    duration: u64,
    /// When it opened; 0 before.
    pub(crate) opened: Cell<u64>,
}

impl Gate {
    pub(crate) fn new(lanes: u32, duration: u64) -> Self {
        Self { missing: Cell::new(lanes), waiting: RefCell::default(), duration, opened: Cell::new(0) }
    }

    async fn pass(&self) {
        self.missing.set(self.missing.get() - 1);
        if self.missing.get() == 0 {
            self.opened.set(now());
            self.waiting.borrow_mut().drain(..).for_each(Waker::wake);
        }
        std::future::poll_fn(|context| {
            if self.opened.get() > 0 {
                return Poll::Ready(());
            }
            self.waiting.borrow_mut().push(context.waker().clone());
            Poll::Pending
        })
        .await;
    }

    fn is_over(&self) -> bool {
        now() >= self.opened.get().saturating_add(self.duration)
    }
}

fn now() -> u64 {
    runtime::clock::now().0
}

/// One of some sizes.
#[derive(Clone, Debug)]
struct Choice {
    sizes: Vec<Sizes>,
    weights: Weighted,
}

impl Choice {
    fn new(sizes: &[Sizes]) -> Self {
        let weights = Weighted::new(sizes.iter().map(|sizes| sizes.weight.into()));
        Self { sizes: sizes.to_vec(), weights }
    }

    fn pick(&self, random: &mut Random) -> u64 {
        let Sizes { from, to, .. } = self.sizes[self.weights.pick(random)];
        between(random, from, to)
    }
}

/// What a load is made of, beside what follows from its profile.
pub(crate) struct Parts {
    pub(crate) process: u32,
    pub(crate) profile: Profile,
    pub(crate) directory: String,
    pub(crate) is_alone: bool,
    pub(crate) has_history: bool,
    pub(crate) stop: Arc<AtomicBool>,
    pub(crate) duration: u64,
}

impl Load {
    pub(crate) fn new(parts: Parts) -> Self {
        let Parts { process, profile, directory, is_alone, has_history, stop, duration } = parts;
        let places = Places::new(&directory, &profile);
        Self {
            process,
            pool: Pool::new(),
            known: RefCell::new(Known::new(places.count(), is_alone)),
            report: RefCell::new(Report::new(directory)),
            desk: Rc::new(Desk::new(has_history)),
            stop,
            gate: Gate::new(profile.clients * profile.in_flight, duration),
            kinds: Weighted::new(profile.operations.all().into_iter().map(f64::from)),
            sizes: Choice::new(&profile.sizes),
            append_sizes: Choice::new(&profile.append_sizes),
            ranges: Choice::new(&profile.ranges),
            places,
            profile,
        }
    }

    fn is_over(&self) -> bool {
        self.stop.load(Ordering::Relaxed) || self.gate.is_over()
    }
}

/// A lane.
pub(crate) struct Lane {
    load: Rc<Load>,
    volume: Volume,
    /// Its number, which the history knows as a client's.
    client: u32,
    number: u32,
    random: Random,
    reader: Reader,
    pause: u64,
    is_measured: bool,
}

/// The first pause after a failure; doubled with each further one.
const PAUSE_MIN: u64 = 10_000_000;
/// The longest pause.
const PAUSE_MAX: u64 = 1_000_000_000;

/// An operation that was begun.
struct Begun {
    kind: Kind,
    record: Record,
    /// When it was sent: behind the writing of history.
    sent: u64,
}

/// What became of it: what is written down, and the error if there was one.
struct Ended {
    outcome: Outcome,
    bytes: u64,
    error: Option<Error>,
}

impl Lane {
    pub(crate) fn new(load: Rc<Load>, volume: Volume, client: u32, seed: u64) -> Self {
        // Two processes with one seed do different things.
        let stream = u64::from(load.process) << 32 | u64::from(client);
        Self {
            load,
            volume,
            client,
            number: 0,
            random: Random::stream(seed, stream),
            reader: Reader::default(),
            pause: PAUSE_MIN,
            is_measured: false,
        }
    }

    /// Fills its part of the paths if wanted, then works until the time is up.
    pub(crate) async fn run(mut self, fill: bool) {
        let load = Rc::clone(&self.load);
        let lanes = load.profile.clients * load.profile.in_flight;
        let own = (self.client..load.places.count()).step_by(lanes as usize);
        for path in own.filter(|_| fill) {
            if load.stop.load(Ordering::Relaxed) {
                break;
            }
            self.write(Kind::Put, path).await;
            load.report.borrow_mut().filled += 1;
        }
        load.gate.pass().await;
        self.is_measured = true;
        while !load.is_over() {
            let kind = Kind::ALL[load.kinds.pick(&mut self.random)];
            let path = load.places.pick(&mut self.random);
            match kind {
                Kind::Put => self.write(kind, path).await,
                Kind::Append => self.append(path).await,
                Kind::Get | Kind::RangedGet => self.read(kind, path).await,
                Kind::Stat => self.stat(path).await,
                Kind::List => self.list().await,
                Kind::Delete => self.delete(path).await,
                Kind::Rename => self.rename(path).await,
            }
        }
    }

    /// Notes what begins. What changes something isn't sent before the note is with the system.
    async fn begin(&mut self, kind: Kind, action: Action) -> Begun {
        self.number += 1;
        let stamp = Stamp { process: self.load.process, client: self.client, number: self.number };
        let record = Record { stamp, began: now(), ended: None, action, outcome: Outcome::Unknown };
        let desk = &self.load.desk;
        if desk.has_history() && kind.is_mutation() {
            Writer::record(&mut desk.lines.borrow_mut(), &record);
            desk.written().await;
            return Begun { kind, record, sent: now() };
        }
        Begun { kind, sent: record.began, record }
    }

    /// Counts and notes how it ended. Returns the record, so that its memory can be used again.
    async fn end(&mut self, begun: Begun, ended: Ended) -> Record {
        let Begun { kind, mut record, sent } = begun;
        let Ended { outcome, bytes, error } = ended;
        let at = now();
        record.ended = Some(at);
        record.outcome = outcome;
        if self.load.desk.has_history() {
            Writer::record(&mut self.load.desk.lines.borrow_mut(), &record);
        }
        if self.is_measured {
            self.count(kind, &record, bytes, at.saturating_sub(sent), error.as_ref());
        }
        if error.is_some() {
            let until = at + self.pause;
            self.pause = (self.pause * 2).min(PAUSE_MAX);
            self.load.desk.sleep(until).await;
        } else {
            self.pause = PAUSE_MIN;
        }
        record
    }

    fn count(&self, kind: Kind, record: &Record, bytes: u64, latency: u64, error: Option<&Error>) {
        let mut report = self.load.report.borrow_mut();
        let counted = report.of(kind);
        match &record.outcome {
            Outcome::Ok(_) => counted.ok += 1,
            Outcome::Absent => counted.absent += 1,
            Outcome::Unknown => counted.unknown += 1,
            Outcome::Failed | Outcome::Torn | Outcome::Corrupt => counted.failed += 1,
        }
        if matches!(record.outcome, Outcome::Ok(_) | Outcome::Absent) {
            counted.bytes += bytes;
            counted.latencies.record(latency);
        }
        let wrong = &mut report.wrong;
        match &record.outcome {
            Outcome::Torn => {
                wrong.torn += 1;
                wrong.say(|| format!("torn: {record}"));
            }
            Outcome::Corrupt => {
                wrong.corrupt += 1;
                wrong.say(|| format!("corrupt: {record}"));
            }
            _ if error.is_some_and(|error| error.kind() == ErrorKind::Integrity) => {
                wrong.corrupt += 1;
                wrong.say(|| format!("refused: {record}"));
            }
            _ => {}
        }
        if let Some(error) = error {
            *report.errors.entry(error.kind()).or_default() += 1;
            report.first_errors.entry(error.kind()).or_insert_with(|| error.to_string());
        }
    }

    async fn append(&mut self, path: u32) {
        let load = Rc::clone(&self.load);
        let path = load.places.appended(path);
        let is_full = load.known.borrow().size(path) >= load.profile.append_limit;
        self.write(if is_full { Kind::Put } else { Kind::Append }, path).await;
    }

    async fn write(&mut self, kind: Kind, path: u32) {
        let load = Rc::clone(&self.load);
        let name = load.places.name(path);
        let is_append = kind == Kind::Append;
        let sizes = if is_append { &load.append_sizes } else { &load.sizes };
        let length = write_length(sizes.pick(&mut self.random), load.places.is_appended(path));
        let action = if is_append {
            Action::Append { path: Arc::clone(name), length }
        } else {
            Action::Put { path: Arc::clone(name), length }
        };
        let begun = self.begin(kind, action).await;
        let write = Write { stamp: begun.record.stamp, path, length };
        let result = self.send(name, &write, is_append).await;
        if let Ok(done) = &result {
            load.known.borrow_mut().learn(path, done.index.0, done.version.0, done.size);
        }
        let offset = |done: &Committed| is_append.then_some(done.offset);
        let ended = mutated(result, length, |done| Answer {
            size: Some(done.size),
            offset: offset(done),
            ..committed(done)
        });
        // Nothing there: its directory was removed by somebody.
        let outcome = if ended.outcome == Outcome::Absent { Outcome::Failed } else { ended.outcome };
        self.end(begun, Ended { outcome, ..ended }).await;
    }

    async fn send(&self, name: &str, write: &Write, is_append: bool) -> Result<Committed, Error> {
        let change = if is_append { UploadChange::Append } else { UploadChange::Replace };
        let options = UploadOptions { change, size_hint: Some(write.length), ..UploadOptions::default() };
        let mut upload = self.volume.upload(name.as_bytes(), options)?;
        let mut at = 0;
        while at < write.length {
            let room = upload.room(usize::try_from(write.length - at).unwrap_or(usize::MAX));
            let count = room.len();
            self.load.pool.fill(write, at, room);
            upload.filled(count).await?;
            at += count as u64;
        }
        upload.finish().await
    }

    async fn read(&mut self, kind: Kind, path: u32) {
        let load = Rc::clone(&self.load);
        let name = load.places.name(path);
        let (offset, length) = if kind == Kind::RangedGet { self.range(path) } else { (0, u64::MAX) };
        let action = Action::Get { path: Arc::clone(name), offset, length };
        let before = load.known.borrow().before(path);
        let begun = self.begin(kind, action).await;
        let range = ReadRange::Span { offset, length };
        let result = self.fetch(name, range, path).await;
        let ended = match result {
            Ok((entry, Ok(answer), bytes)) => {
                self.judge(path, &before, Some(&entry), &begun.record);
                Ended { outcome: Outcome::Ok(answer), bytes, error: None }
            }
            Ok((_, Err(Flaw::Torn), _)) => Ended { outcome: Outcome::Torn, bytes: 0, error: None },
            Ok((_, Err(Flaw::Corrupt), _)) => Ended { outcome: Outcome::Corrupt, bytes: 0, error: None },
            Err(error) => {
                let ended = refused(error);
                if ended.outcome == Outcome::Absent {
                    self.judge(path, &before, None, &begun.record);
                }
                ended
            }
        };
        let record = self.end(begun, ended).await;
        if let Outcome::Ok(Answer { seen: Some(seen), .. }) = record.outcome {
            self.reader.recycle(seen);
        }
    }

    /// Some blocks of a file, as long as it was when somebody last looked.
    fn range(&mut self, path: u32) -> (u64, u64) {
        let block = BLOCK_BYTES as u64;
        let blocks = self.load.known.borrow().size(path).div_ceil(block).max(1);
        let offset = self.random.below(blocks) * block;
        (offset, self.load.ranges.pick(&mut self.random).next_multiple_of(block))
    }

    async fn fetch(
        &mut self,
        name: &str,
        range: ReadRange,
        path: u32,
    ) -> Result<(Entry, Result<Answer, Flaw>, u64), Error> {
        let mut download = self.volume.download(name.as_bytes(), range).await?;
        let is_home = |written: u32| Places::are_near(written, path);
        self.reader.begin();
        while let Some(piece) = download.next_piece().await? {
            match piece {
                Piece::Data { bytes, .. } => self.reader.push(&bytes, &is_home),
                // Nobody writes holes.
                Piece::Hole { .. } => self.reader.push(&[0; BLOCK_BYTES], &is_home),
            }
        }
        let entry = download.entry().clone();
        let size = entry.attributes.size;
        let (start, end) = range.bounds(size);
        let answer = self
            .reader
            .end((start, end, size), &is_home)
            .map(|pieces| Answer { seen: Some(std::mem::take(pieces)), ..found(&entry) });
        Ok((entry, answer, end - start))
    }

    async fn stat(&mut self, path: u32) {
        let load = Rc::clone(&self.load);
        let name = load.places.name(path);
        let before = load.known.borrow().before(path);
        let begun = self.begin(Kind::Stat, Action::Stat { path: Arc::clone(name) }).await;
        let ended = match self.volume.stat(name.as_bytes(), false).await {
            Ok(entry) => {
                self.judge(path, &before, Some(&entry), &begun.record);
                Ended { outcome: Outcome::Ok(found(&entry)), bytes: 0, error: None }
            }
            Err(error) => {
                let ended = refused(error);
                if ended.outcome == Outcome::Absent {
                    self.judge(path, &before, None, &begun.record);
                }
                ended
            }
        };
        self.end(begun, ended).await;
    }

    /// Compares what was read with what this process knew.
    fn judge(&self, path: u32, before: &Before, entry: Option<&Entry>, record: &Record) {
        let mut known = self.load.known.borrow_mut();
        let seen = entry.map(|entry| (entry.index.0, entry.attributes.version.0));
        let judged = known.judge(path, before, seen);
        if let (Some(entry), Ok(())) = (entry, judged) {
            known.learn(path, entry.index.0, entry.attributes.version.0, entry.attributes.size);
        }
        let Err(contradiction) = judged else { return };
        let wrong = &mut self.load.report.borrow_mut().wrong;
        let what = match contradiction {
            Contradiction::Stale => {
                wrong.stale += 1;
                "stale"
            }
            Contradiction::Lost => {
                wrong.lost += 1;
                "lost"
            }
        };
        let (stamp, path) = (record.stamp, record.action.path());
        wrong.say(|| format!("{what}: {stamp} {path} saw {seen:?} (index, version); known was {before:?}"));
    }

    async fn list(&mut self) {
        let load = Rc::clone(&self.load);
        let directories = load.places.directories();
        let chosen = self.random.below(directories.len() as u64);
        let name = &directories[usize::try_from(chosen).expect("below their number")];
        let begun = self.begin(Kind::List, Action::List { path: Arc::clone(name) }).await;
        let ended = match self.entries(name).await {
            Ok(listed) => {
                let answer = Answer { listed: Some(listed), ..Answer::default() };
                Ended { outcome: Outcome::Ok(answer), bytes: 0, error: None }
            }
            Err(error) => refused(error),
        };
        self.end(begun, ended).await;
    }

    async fn entries(&self, name: &str) -> Result<Vec<Listed>, Error> {
        let mut lister = self.volume.list(name.as_bytes()).await?;
        let mut listed = Vec::new();
        while let Some(entry) = lister.next_entry().await? {
            if self.load.desk.has_history() {
                listed.push(Listed {
                    name: Arc::from(String::from_utf8_lossy(&entry.name)),
                    inode: entry.attributes.inode.0,
                    version: entry.attributes.version.0,
                    size: entry.attributes.size,
                });
            }
        }
        Ok(listed)
    }

    async fn delete(&mut self, path: u32) {
        let load = Rc::clone(&self.load);
        let name = load.places.name(path);
        load.known.borrow_mut().open(path);
        let begun = self.begin(Kind::Delete, Action::Delete { path: Arc::clone(name) }).await;
        let result = self.volume.remove(name.as_bytes(), RemoveKind::File, Precondition::Any).await;
        if let Ok(done) = &result {
            load.known.borrow_mut().learn(path, done.index.0, 0, 0);
        }
        let ended = mutated(result, 0, committed);
        if ended.outcome != Outcome::Unknown {
            load.known.borrow_mut().close(path);
        }
        self.end(begun, ended).await;
    }

    async fn rename(&mut self, path: u32) {
        let load = Rc::clone(&self.load);
        let Some(target) = load.places.neighbour(path, &mut self.random) else {
            return self.stat(path).await;
        };
        let (name, to) = (load.places.name(path), load.places.name(target));
        for path in [path, target] {
            load.known.borrow_mut().open(path);
        }
        let action = Action::Rename { path: Arc::clone(name), to: Arc::clone(to) };
        let begun = self.begin(Kind::Rename, action).await;
        let result = self.volume.rename(name.as_bytes(), to.as_bytes(), RenameMode::Replace).await;
        if let Ok(done) = &result {
            let mut known = load.known.borrow_mut();
            known.learn(path, done.index.0, 0, 0);
            known.learn(target, done.index.0, done.version.0, done.size);
        }
        let ended = mutated(result, 0, |done| Answer { size: Some(done.size), ..committed(done) });
        if ended.outcome != Outcome::Unknown {
            for path in [path, target] {
                load.known.borrow_mut().close(path);
            }
        }
        self.end(begun, ended).await;
    }
}

fn committed(done: &Committed) -> Answer {
    Answer {
        index: Some(done.index.0),
        inode: Some(done.inode.0),
        version: Some(done.version.0),
        ..Answer::default()
    }
}

fn found(entry: &Entry) -> Answer {
    Answer {
        index: Some(entry.index.0),
        inode: Some(entry.attributes.inode.0),
        version: Some(entry.attributes.version.0),
        size: Some(entry.attributes.size),
        ..Answer::default()
    }
}

fn mutated(result: Result<Committed, Error>, bytes: u64, answer: impl Fn(&Committed) -> Answer) -> Ended {
    match result {
        Ok(done) => Ended { outcome: Outcome::Ok(answer(&done)), bytes, error: None },
        Err(error) => refused(error),
    }
}

/// How an operation ended that wasn't done. Whatever isn't said to be unknown was certainly not executed: that is the client's promise, and the history
/// holds it to it.
fn refused(error: Error) -> Ended {
    let outcome = match &error {
        Error::OutcomeUnknown { .. } => Outcome::Unknown,
        Error::Integrity { .. } => Outcome::Corrupt,
        Error::NotFound { .. } => return Ended { outcome: Outcome::Absent, bytes: 0, error: None },
        _ => Outcome::Failed,
    };
    Ended { outcome, bytes: 0, error: Some(error) }
}

impl Kind {
    fn is_mutation(self) -> bool {
        matches!(self, Self::Put | Self::Append | Self::Delete | Self::Rename)
    }
}
