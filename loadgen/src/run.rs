//! A run from its first connection to its report.

use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use client::{Client, Config, Error, NewAttributes, Pending, Precondition, RemoveKind, Volume};
use history::{Header, Writer};
use thiserror::Error;

use crate::driver::{self, drive};
use crate::lane::{Lane, Load, Parts};
use crate::profile::{Profile, ProfileError};
use crate::report::{Counted, Progress, Report};

/// What to run, where.
#[derive(Clone, Debug)]
pub struct Options {
    /// How each client connects.
    pub client: Config,
    /// The volume's name.
    pub volume: String,
    /// The directory of the files, which other processes may share and which stays. `None`: one of the process's own, which is removed at the end.
    pub directory: Option<String>,
    /// What to do. Its `clients` and `in_flight` count.
    pub profile: Profile,
    /// What all choices follow from, together with `process`.
    pub seed: u64,
    /// How long.
    pub duration: Duration,
    /// This process's number in the history: unique among those that are checked together.
    pub process: u32,
    /// Says that the run should end before its time.
    pub stop: Arc<AtomicBool>,
}

/// Why a run ended without a report.
#[derive(Debug, Error)]
pub enum RunError {
    /// The profile can't be run.
    #[error("the profile can't be run")]
    Profile(#[from] ProfileError),
    /// The server can't be used from the start. Once the load runs, nothing of the kind ends it.
    #[error("{what}")]
    Client {
        /// What was to be done.
        what: String,
        /// Why it wasn't.
        #[source]
        error: Box<Error>,
    },
    /// The history can't be written, so nothing more is done.
    #[error("the history can't be written")]
    History(#[source] io::Error),
}

/// Runs the load; `on_progress` is called every second.
pub fn run(
    options: &Options,
    history: Option<&mut dyn io::Write>,
    mut on_progress: impl FnMut(&Progress),
) -> Result<Report, RunError> {
    options.profile.check()?;
    let place = Place::prepare(options)?;
    let fill = options.profile.fill && place.is_new;
    let load = Rc::new(Load::new(Parts {
        process: options.process,
        profile: options.profile.clone(),
        directory: place.directory.clone(),
        is_alone: options.directory.is_none(),
        has_history: history.is_some(),
        stop: Arc::clone(&options.stop),
        duration: u64::try_from(options.duration.as_nanos()).unwrap_or(u64::MAX),
    }));
    let mut history = history;
    if let Some(history) = &mut history {
        let mut line = Vec::new();
        Writer::header(&mut line, &place.header(options));
        history.write_all(&line).map_err(RunError::History)?;
    }
    let (cpu, to_fill) = (thread_cpu(), if fill { u64::from(options.profile.paths) } else { 0 });
    let mut ticker = Ticker::new(to_fill);
    let lanes = place.lanes(options, &load, fill);
    let again = history.as_mut().map(|history| &mut **history as &mut dyn io::Write);
    let driven = drive(lanes, &load.desk, again, |now| {
        if let Some(progress) = ticker.tick(now, &load) {
            on_progress(&progress);
        }
    });
    driven.map_err(RunError::History)?;
    let now = runtime::clock::now().0;
    if let Some(history) = history {
        let mut line = Vec::new();
        Writer::end(&mut line, now);
        history.write_all(&line).and_then(|()| history.flush()).map_err(RunError::History)?;
    }
    let opened = load.gate.opened.get();
    let mut report = load.report.borrow().clone();
    report.nanoseconds = now.saturating_sub(opened);
    report.generator_cpu_nanoseconds = thread_cpu().saturating_sub(cpu);
    if options.directory.is_none() {
        place.remove(&load);
    }
    Ok(report)
}

/// Where a run takes place.
struct Place {
    clients: Vec<Client>,
    volumes: Vec<Volume>,
    directory: String,
    /// The directory was made by this process.
    is_new: bool,
    index: u64,
}

fn client_error(what: &str) -> impl FnOnce(Error) -> RunError + use<> {
    let what = what.to_owned();
    move |error| RunError::Client { what, error: Box::new(error) }
}

const DIRECTORY: NewAttributes =
    NewAttributes { mode: 0o755, uid: 0, gid: 0, modified: None, xattrs: Vec::new() };

impl Place {
    /// Connects all clients, and makes the directories.
    fn prepare(options: &Options) -> Result<Self, RunError> {
        let mut clients = Vec::new();
        let mut volumes = Vec::new();
        let name = &options.volume;
        for _ in 0..options.profile.clients {
            let client = Client::connect(options.client.clone()).map_err(client_error("the server"))?;
            volumes.push(client.volume(name).wait().map_err(client_error(&format!("/{name}")))?);
            clients.push(client);
        }
        let volume = &volumes[0];
        let directory = options.directory.clone().unwrap_or_else(drawn_name);
        let failed = || client_error(&format!("/{name}/{directory}"));
        if let Some((parent, _)) = directory.rsplit_once('/') {
            volume.mkdir(parent.as_bytes(), DIRECTORY, true).wait().map_err(failed())?;
        }
        let is_new = match volume.mkdir(directory.as_bytes(), DIRECTORY, false).wait() {
            Ok(_) => true,
            Err(Error::AlreadyExists { .. }) if options.directory.is_some() => false,
            Err(error) => return Err(failed()(error)),
        };
        let index = volume.stat(directory.as_bytes(), false).wait().map_err(failed())?.index.0;
        Ok(Self { clients, volumes, directory, is_new, index })
    }

    fn header(&self, options: &Options) -> Header {
        let Profile { about, clients, in_flight, .. } = &options.profile;
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        Header {
            process: options.process,
            boot: boot.trim().to_owned(),
            volume: options.volume.clone(),
            directory: self.directory.clone(),
            index: self.index,
            about: format!("{about}; {clients} clients, {in_flight} in flight, seed {}", options.seed),
        }
    }

    fn lanes(&self, options: &Options, load: &Rc<Load>, fill: bool) -> Vec<driver::Lane> {
        // Directories are made one after the other: there are few, and all have to be there before the first file.
        for directory in load.places.directories() {
            // One that fails is noticed by every operation in it.
            drop(self.volumes[0].mkdir(directory.as_bytes(), DIRECTORY, true).wait());
        }
        let lane = |client: u32| -> driver::Lane {
            let volume = self.volumes[(client / options.profile.in_flight) as usize].clone();
            Box::pin(Lane::new(Rc::clone(load), volume, client, options.seed).run(fill))
        };
        (0..options.profile.clients * options.profile.in_flight).map(lane).collect()
    }

    /// Removes what the run made, as far as the server lets it.
    fn remove(&self, load: &Load) {
        let volume = &self.volumes[0];
        let mut under_way: Vec<Pending<_>> = Vec::new();
        for path in 0..load.places.count() {
            let name = load.places.name(path).as_bytes();
            under_way.push(volume.remove(name, RemoveKind::File, Precondition::Any));
            if under_way.len() == REMOVED_AT_ONCE {
                for pending in under_way.drain(..) {
                    if matches!(pending.wait(), Err(error) if !matches!(error, Error::NotFound { .. })) {
                        return;
                    }
                }
            }
        }
        for pending in under_way {
            drop(pending.wait());
        }
        let directories = load.places.directories().iter().map(|name| name.as_bytes());
        for directory in directories.chain([self.directory.as_bytes()]) {
            drop(volume.remove(directory, RemoveKind::Directory, Precondition::Any).wait());
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.volumes.clear();
        // In good order, so that the server need not wait for the sessions' expiry.
        self.clients.drain(..).for_each(Client::close);
    }
}

/// Removals under way at once.
const REMOVED_AT_ONCE: usize = 64;

fn drawn_name() -> String {
    let bytes: [u8; 8] = runtime::clock::random_bytes();
    format!("bench-{:016x}", u64::from_le_bytes(bytes))
}

/// Time that this thread had a CPU, in nanoseconds; 0 where the system doesn't say.
fn thread_cpu() -> u64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    text.split(' ').next().and_then(|word| word.parse().ok()).unwrap_or(0)
}

/// Says every second how far the run is.
struct Ticker {
    to_fill: u64,
    last: u64,
    answered: u64,
    bytes: u64,
}

const TICK: u64 = 1_000_000_000;

impl Ticker {
    fn new(to_fill: u64) -> Self {
        Self { to_fill, last: runtime::clock::now().0, answered: 0, bytes: 0 }
    }

    fn tick(&mut self, now: u64, load: &Load) -> Option<Progress> {
        let passed = now.saturating_sub(self.last);
        if passed < TICK {
            return None;
        }
        self.last = now;
        let report = load.report.borrow();
        let (answered, bytes) = (report.total(Counted::answered), report.total(|counted| counted.bytes));
        let per_second = |count: u64| {
            u64::try_from(u128::from(count) * u128::from(TICK) / u128::from(passed)).unwrap_or(u64::MAX)
        };
        let opened = load.gate.opened.get();
        let progress = Progress {
            filled: (report.filled, self.to_fill),
            nanoseconds: if opened == 0 { 0 } else { now.saturating_sub(opened) },
            rate: per_second(answered - self.answered),
            bytes_rate: per_second(bytes - self.bytes),
            failed: report.total(|counted| counted.failed + counted.unknown),
            wrong: report.wrong.count(),
        };
        (self.answered, self.bytes) = (answered, bytes);
        Some(progress)
    }
}
