//! The log of the node's vote in the control group: `control-ID.log` beside the metadata log, and how it is made.
//!
//! A vote is a file that is made, then recorded in the node's identity, then used. A file that isn't recorded was never voted with, and is made
//! anew; a recorded one that is missing or empty is a lost vote, which is never taken up again (R35).

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use agent::{VoterOrigin, VoterStart};
use journal::log::{Log, LogConfig, LogEffect, LogEffects, LogEvent};
use journal::{Expected, Format, Geometry, Identity as LogIdentity};
use runtime::{Io, LinkId, Payload, StoreFile, ThreadConfig};
use wire::{ClusterId, Nanos, NodeId, Prefix, StoreId};

use crate::disk::{Disk, LOG_HEADROOM_BYTES};
use crate::error::Error;
use crate::identity::Identity;
use crate::meta_log::length_of;
use crate::progress::{Progress, Refusal, Stage, progress};
use crate::start::open_file;

/// Its segments: a voter's records are small, and few of them are kept.
const SEGMENT_BYTES: u32 = 1 << 20;
/// A few images of the largest map, and the log between them.
const CAPACITY_BYTES: u64 = 256 << 20;
const PREZERO_BYTES: u64 = SEGMENT_BYTES as u64;
/// Buffers of the thread that formats one.
const ARENA_BYTES: usize = 16 << 20;
/// While it is being formatted, whether that thread is still there is looked at this often.
const LOOK: Duration = Duration::from_secs(1);

/// A node's vote, as its identity records it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Vote {
    /// The voter's id.
    pub(crate) id: u64,
    /// Its log.
    pub(crate) log: StoreId,
    /// It is the first voter of its cluster; others are fed by those that were there before.
    pub(crate) is_founder: bool,
}

impl Vote {
    /// A vote that nobody has had.
    pub(crate) fn new(id: u64, is_founder: bool) -> Self {
        Self { id, log: StoreId(runtime::clock::random_bytes()), is_founder }
    }

    /// Its log's file.
    pub(crate) fn path(&self, directory: &Path) -> PathBuf {
        directory.join(format!("control-{}.log", self.id))
    }

    /// What the agent is given to vote with; on the thread that owns the file.
    pub(crate) fn start(self, identity: &Identity, device_bytes: u64) -> VoterStart {
        let expected = Expected {
            cluster: Some(identity.cluster),
            store: Some(self.log),
            node: identity.node,
            unit: LOG_UNIT,
        };
        let origin = if self.is_founder { VoterOrigin::Founding } else { VoterOrigin::Joining };
        VoterStart { id: self.id, log: Log::open(config(device_bytes), expected), origin }
    }
}

/// No group has this number: a voter's log isn't taken for a metadata log.
const LOG_UNIT: u16 = u16::MAX;

fn config(device_bytes: u64) -> LogConfig {
    LogConfig {
        capacity_bytes: CAPACITY_BYTES,
        device_bytes,
        prezero_bytes: PREZERO_BYTES,
        accept_data_loss: false,
        life_random: u16::from_le_bytes(runtime::clock::random_bytes()),
        takes_over: None,
    }
}

/// Makes a vote's log, durably; one that a crash left half-made is made anew. Nothing has recorded it yet.
pub(crate) fn make(directory: &Path, vote: Vote, (cluster, node): (ClusterId, NodeId)) -> Result<(), Error> {
    let path = vote.path(directory);
    match std::fs::remove_file(&path) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(source) => return Err(Error::file("remove", &path, source)),
    }
    let file = open_file(&path, true)?;
    let format = Format {
        identity: LogIdentity { cluster, store: vote.log, node, unit: LOG_UNIT },
        geometry: Geometry::new(SEGMENT_BYTES).expect("a legal segment size"),
        secret: u64::from_le_bytes(runtime::clock::random_bytes()),
        index_key: u64::from_le_bytes(runtime::clock::random_bytes()),
    };
    let what = "the voter's log";
    let (progress, watch) = progress();
    let mut thread = ThreadConfig::new("vote-format");
    thread.arena_bytes = ARENA_BYTES;
    let log = Log::format(config(0), format);
    let handle = runtime::serve(thread, move |io| Maker::begin(io, log, &file, progress))
        .map_err(|source| Error::Start { what: what.into(), source: Box::new(source) })?;
    let result = loop {
        match watch.next(LOOK) {
            Some(Stage::Ready) => break Ok(()),
            Some(Stage::Failed(refusal)) => break Err(refusal.into_error(what)),
            None if handle.is_finished() => break Err(Error::Stopped { what: what.into() }),
            Some(Stage::Listening(_)) | None => {}
        }
    };
    handle.join().map_err(|_| Error::Stopped { what: what.into() })?;
    result?;
    runtime::sync_directory(directory).map_err(|source| Error::file("write", directory, source))
}

/// A recorded vote's file, locked; `None`: the vote is lost (R35), and the log says so.
pub(crate) fn open(directory: &Path, vote: Vote) -> Result<Option<(StoreFile, u64)>, Error> {
    let path = vote.path(directory);
    let file = match open_file(&path, false) {
        Err(Error::Missing { path }) => {
            tell_lost(&path, "it is missing");
            return Ok(None);
        }
        opened => opened?,
    };
    let bytes = length_of(&path, file.len())?;
    if bytes == 0 {
        tell_lost(&path, "it is empty");
        return Ok(None);
    }
    Ok(Some((file, bytes)))
}

fn tell_lost(path: &Path, why: &str) {
    tracing::error!(
        path = %path.display(),
        why,
        "this node's vote in the control group is lost and never used again: what it promised isn't known (R35). The node serves without it; \
         restore the file only if it is the last one that was written"
    );
}

/// Formats a log, and ends.
struct Maker {
    log: Log,
    effects: LogEffects,
    disk: Disk,
    path: PathBuf,
    progress: Progress,
}

impl Maker {
    fn begin(io: &mut Io, log: Log, file: &StoreFile, progress: Progress) -> Self {
        let disk = Disk::new(io, file, LOG_HEADROOM_BYTES);
        let path = file.path().to_owned();
        let mut maker = Self { log, effects: LogEffects::default(), disk, path, progress };
        maker.run(io, LogEvent::Start);
        maker
    }

    fn run(&mut self, io: &mut Io, event: LogEvent<'_>) {
        let now = io.now();
        self.effects.clear();
        self.log.handle(now, event, io.memory(), &mut self.effects);
        self.disk.carry_out(io, &self.effects.io);
        let mut is_open = false;
        for effect in std::mem::take(&mut self.effects.list) {
            match effect {
                LogEffect::Arm(at) => io.arm(at),
                LogEffect::Opened { .. } => is_open = true,
                LogEffect::OpenFailed | LogEffect::Fenced => {
                    let reason = self.log.open_error().map_or_else(
                        || "a write or flush of it failed".to_owned(),
                        |error| error.to_string(),
                    );
                    let path = Some(self.path.clone());
                    self.progress.set(Stage::Failed(Refusal { path, is_damage: false, reason }));
                    io.stop();
                }
                LogEffect::ShutDown => {
                    self.progress.set(Stage::Ready);
                    io.stop();
                }
                _ => {}
            }
        }
        if is_open {
            self.run(io, LogEvent::Shutdown);
        }
    }
}

impl runtime::Service for Maker {
    fn on_head(&mut self, _io: &mut Io, _link: LinkId, _prefix: &Prefix, _message: &[u8]) -> Payload {
        Payload::Close(runtime::CloseReason::Protocol) // it listens nowhere
    }

    fn on_io(&mut self, io: &mut Io, token: runtime::IoToken, outcome: runtime::IoOutcome) {
        if let Some((token, outcome)) = self.disk.on_io(io, token, outcome) {
            self.run(io, LogEvent::IoDone { io: token, outcome });
        }
    }

    fn on_timer(&mut self, io: &mut Io, _now: Nanos) {
        self.run(io, LogEvent::Tick);
    }
}
