//! `catena debug store|log`: examines a stopped node's files by the shipped recovery itself, and changes nothing.

mod overlay;
mod store_file;

use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use journal::log::{Log, LogConfig, LogEffect, LogEffects, LogEvent};
use journal::{
    DATA_START, Expected, Kind, OpenError, SUPERBLOCK_BYTES, SUPERBLOCK_COPIES, Superblock, SuperblockError,
};
use wire::Nanos;

use crate::context::Context;
use crate::failure::{Exit, Failure, Result};
use crate::json::Object;
use crate::text::{count, shell, size};
use overlay::{Buffers, Overlay};

/// Examine the files of a stopped node, read-only
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Debug {
    Store(StoreCommand),
    Log(LogCommand),
}

/// Check chunk stores: superblocks, log, and every chunk's bytes against its checksum
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  catena debug store demo/node-1
  catena debug store --chunks --json /srv/disk-0/shard-0.store")]
pub(crate) struct StoreCommand {
    /// A directory with shard-N.store files, or one such file
    #[arg(value_name = "DIR")]
    path: PathBuf,
    /// List every chunk: id, length, root, place
    #[arg(long)]
    chunks: bool,
    /// Check the log only, not the chunks' bytes
    #[arg(long)]
    no_read: bool,
}

/// Check a metadata log: superblocks, checkpoint, and every record behind it
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  catena debug log demo/node-1
  catena debug log --records --json /var/lib/catena/metadata.log")]
pub(crate) struct LogCommand {
    /// A directory with a metadata.log, or that file
    #[arg(value_name = "DIR")]
    path: PathBuf,
    /// List every record: index and length
    #[arg(long)]
    records: bool,
}

impl Debug {
    pub(crate) fn run(self, context: &mut Context) -> Result<()> {
        match self {
            Self::Store(command) => command.run(context),
            Self::Log(command) => command.run(context),
        }
    }
}

/// The files that a path names: itself, or those in it whose name `fits`.
fn files(path: &Path, fits: impl Fn(&str) -> bool, what: &str) -> Result<Vec<PathBuf>> {
    let metadata = fs::metadata(path).map_err(|error| Failure::path(path, &error))?;
    if !metadata.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let entries = fs::read_dir(path).map_err(|error| Failure::path(path, &error))?;
    let mut files: Vec<PathBuf> = entries
        .flatten()
        .map(|entry| entry.path())
        .filter(|file| file.file_name().and_then(|name| name.to_str()).is_some_and(&fits))
        .collect();
    files.sort();
    if files.is_empty() {
        return Err(Failure::new(Exit::NotFound, path.display().to_string(), format!("holds no {what}"))
            .next("name the directory of a node's disk, or the file itself"));
    }
    Ok(files)
}

/// What the copies of a superblock say.
struct Copies {
    newest: Option<Superblock>,
    words: Vec<String>,
}

impl Copies {
    fn read(overlay: &Overlay) -> Self {
        let mut copies = Self { newest: None, words: Vec::new() };
        for copy in 0..SUPERBLOCK_COPIES {
            let mut bytes = vec![0; SUPERBLOCK_BYTES];
            let stride = DATA_START / SUPERBLOCK_COPIES as u64;
            let decoded = if overlay.read(copy as u64 * stride, &mut bytes) {
                Superblock::decode(copy, &bytes)
            } else {
                Err(SuperblockError::Damaged)
            };
            copies.words.push(match &decoded {
                Ok(block) => format!("whole, sequence {}", block.sequence),
                Err(error) => error.to_string(),
            });
            if let Ok(block) = decoded
                && copies.newest.as_ref().is_none_or(|newest| newest.sequence < block.sequence)
            {
                copies.newest = Some(block);
            }
        }
        copies
    }

    /// Who is expected: whoever is there.
    fn expected(&self, path: &Path) -> Result<(Expected, Superblock)> {
        let block = self.newest.clone().ok_or_else(|| {
            let mut words = self.words.clone();
            words.dedup();
            Failure::new(
                Exit::Integrity,
                path.display().to_string(),
                format!("no copy of the superblock is usable: {}", words.join("; ")),
            )
            .next("is it the right file? restore it from a backup")
        })?;
        let identity = block.identity;
        Ok((Expected { cluster: None, store: None, node: identity.node, unit: identity.unit }, block))
    }

    fn print(&self, context: &mut Context, path: &Path, block: &Superblock) -> Result<()> {
        let identity = block.identity;
        let checkpoints: Vec<u64> = block.checkpoints.iter().map(|checkpoint| checkpoint.number).collect();
        context.output.result(
            || {
                Object::new()
                    .with("file", path.display().to_string())
                    .with("kind", block.kind.to_string())
                    .with("cluster", identity.cluster.to_string())
                    .with("store", identity.store.to_string())
                    .with("node", identity.node.0)
                    .with("unit", identity.unit)
                    .with("incarnation", block.incarnation.0)
                    .with("clean", block.clean)
                    .with("segment_bytes", block.geometry.segment_bytes())
                    .with("superblocks", self.words.clone())
                    .with("checkpoints", checkpoints.clone())
            },
            |_| {
                format!(
                    "{}: {} of cluster {}\n  store        {}, node {}, unit {}\n  superblocks  {}\n  \
                     incarnation  {}, {}\n  checkpoints  {}",
                    path.display(),
                    block.kind,
                    identity.cluster,
                    identity.store,
                    identity.node,
                    identity.unit,
                    self.words.join("; "),
                    block.incarnation,
                    if block.clean { "stopped in order" } else { "not stopped in order, as after a kill" },
                    numbers(&checkpoints),
                )
                .into_bytes()
            },
        )
    }
}

/// Checkpoints' numbers for people.
fn numbers(checkpoints: &[u64]) -> String {
    match checkpoints {
        [] => "none".to_owned(),
        several => several.iter().map(u64::to_string).collect::<Vec<_>>().join(", "),
    }
}

/// That the file is one of those that the command examines.
fn check_kind(path: &Path, found: Kind, wanted: Kind) -> Result<()> {
    if found == wanted {
        return Ok(());
    }
    let command = match found {
        Kind::Chunks => "store",
        Kind::Records => "log",
    };
    let shown = shell(path.as_os_str().as_bytes());
    Err(Failure::usage(path.display().to_string(), format!("is a {found}, not a {wanted}"))
        .next(format!("catena debug {command} {shown}")))
}

/// Recovery that refuses.
fn refused(path: &Path, kind: Kind, error: Option<OpenError>) -> Failure {
    let reason =
        error.map_or_else(|| "recovery doesn't come to an end".to_owned(), |error| error.to_string());
    let next = match error {
        Some(error) if error.may_be_accepted(kind) => {
            "nothing was changed: mend the disk, or restore the file from a backup; to go on without what is missing: \
             `catena server recover --accept-data-loss --config FILE`"
        }
        Some(OpenError::Unreadable { .. } | OpenError::CheckpointsUnreadable { .. }) => {
            "mend the disk, or restore the file from a backup: nothing of it can be recovered otherwise"
        }
        _ => "restore the file from a backup: nothing of it can be recovered otherwise",
    };
    Failure::new(Exit::Integrity, path.display().to_string(), reason).next(next)
}

/// What was found in a metadata log.
#[derive(Default)]
struct LogFindings {
    pages: u64,
    page_bytes: u64,
    checkpoints_damaged: u64,
    records: u64,
    record_bytes: u64,
    first_index: Option<u64>,
    last_index: u64,
    opened: bool,
}

impl LogCommand {
    fn run(self, context: &mut Context) -> Result<()> {
        for path in files(&self.path, |name| name == "metadata.log", "metadata.log")? {
            self.examine(context, &path)?;
        }
        Ok(())
    }

    fn examine(&self, context: &mut Context, path: &Path) -> Result<()> {
        let mut overlay = Overlay::open(path)?;
        let copies = Copies::read(&overlay);
        let (expected, block) = copies.expected(path)?;
        check_kind(path, block.kind, Kind::Records)?;
        copies.print(context, path, &block)?;
        let config = LogConfig {
            capacity_bytes: overlay.length().saturating_add(8 * u64::from(block.geometry.segment_bytes())),
            device_bytes: overlay.length(),
            prezero_bytes: 0,
            accept_data_loss: false,
            life_random: 0,
            takes_over: None,
        };
        let mut log = Log::open(config, expected);
        let findings = self.replay(context, &mut log, &mut overlay)?;
        findings.print(context, path)?;
        if findings.opened { Ok(()) } else { Err(refused(path, Kind::Records, log.open_error())) }
    }

    /// Recovers, taking every page and record in as the replica would.
    fn replay(&self, context: &mut Context, log: &mut Log, overlay: &mut Overlay) -> Result<LogFindings> {
        let mut memory = Buffers::default();
        let mut effects = LogEffects::default();
        let mut findings = LogFindings::default();
        let now = Nanos(1);
        log.handle(now, LogEvent::Start, &mut memory, &mut effects);
        loop {
            let answers = overlay.carry_out(&effects.io, &mut memory);
            let list = std::mem::take(&mut effects.list);
            effects.clear();
            let mut handed = false;
            for effect in list {
                match effect {
                    LogEffect::Page { length, .. } => {
                        findings.pages += 1;
                        findings.page_bytes += u64::from(length);
                        handed = true;
                    }
                    LogEffect::Restart => {
                        findings.checkpoints_damaged += 1;
                        (findings.pages, findings.page_bytes) = (0, 0);
                    }
                    LogEffect::Records(records) => {
                        for (index, record) in records.iter(&memory) {
                            findings.take(index, record);
                            self.print_record(context, index, record)?;
                        }
                        handed = true;
                    }
                    LogEffect::Opened { last_index } => {
                        findings.opened = true;
                        findings.last_index = last_index;
                    }
                    _ => {}
                }
            }
            if handed {
                log.handle(now, LogEvent::Next, &mut memory, &mut effects);
            }
            let idle = answers.is_empty() && !handed;
            for (io, outcome) in answers {
                log.handle(now, LogEvent::IoDone { io, outcome }, &mut memory, &mut effects);
            }
            if idle {
                return Ok(findings);
            }
        }
    }

    fn print_record(&self, context: &mut Context, index: u64, record: &[u8]) -> Result<()> {
        if !self.records {
            return Ok(());
        }
        context.output.result(
            || Object::new().with("index", index).with("bytes", record.len()),
            |_| format!("  record       {index}, {}", count(record.len() as u64, "byte")).into_bytes(),
        )
    }
}

impl LogFindings {
    fn take(&mut self, index: u64, record: &[u8]) {
        self.records += 1;
        self.record_bytes += record.len() as u64;
        self.first_index.get_or_insert(index);
        self.last_index = index;
    }

    fn print(&self, context: &mut Context, path: &Path) -> Result<()> {
        context.output.result(
            || {
                Object::new()
                    .with("file", path.display().to_string())
                    .with("readable", self.opened)
                    .with("checkpoint_pages", self.pages)
                    .with("checkpoint_bytes", self.page_bytes)
                    .with("checkpoints_damaged", self.checkpoints_damaged)
                    .with("records", self.records)
                    .with("record_bytes", self.record_bytes)
                    .with_some("first_index", self.first_index)
                    .with("last_index", self.last_index)
            },
            |_| {
                let damaged = match self.checkpoints_damaged {
                    0 => String::new(),
                    number => format!(", {} passed over", count(number, "damaged checkpoint")),
                };
                format!(
                    "  checkpoint   {}, {}{damaged}\n  records      {} behind it, {}, last index {}\n  log          {}",
                    count(self.pages, "page"),
                    size::human(self.page_bytes),
                    count(self.records, "record"),
                    size::human(self.record_bytes),
                    self.last_index,
                    if self.opened { "readable to its end" } else { "damaged" }
                )
                .into_bytes()
            },
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A log that was examined as a store was called damaged, to be restored from a backup.
    #[test]
    fn a_file_of_the_other_kind_is_sent_to_its_command() {
        let path = Path::new("my node/metadata.log");
        assert!(check_kind(path, Kind::Records, Kind::Records).is_ok());
        let failure = check_kind(path, Kind::Records, Kind::Chunks).expect_err("a log");
        assert_eq!(failure.exit, Exit::Usage);
        assert_eq!(failure.reason, "is a metadata log, not a chunk store");
        assert_eq!(failure.next.as_deref(), Some("catena debug log 'my node/metadata.log'"));
    }
}
