//! `catena quickstart`: three nodes store real files, lose one of them meanwhile, and give everything back; a newcomer reads what happened.

mod blow;
mod home;
mod proof;

use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use client::{Timestamp, VolumePolicy};
use node::{ByteSize, Config};
use runtime::ceiling::{self, CeilingError, DiskLoad, Order, Scratch};
use wire::limits::CHUNK_BYTES_DEFAULT;

use crate::clock::{self, Stopwatch};
use crate::commands::put::PutOptions;
use crate::context::{Context, Global};
use crate::failure::{Exit, Failure, Result};
use crate::json::Object;
use crate::local::walk::{FileId, Walk};
use crate::local_cluster::{self, LocalCluster};
use crate::local_node;
use crate::output::WhenClosed;
use crate::remote::RemotePath;
use crate::remote_failure::failure;
use crate::text::{self, count, quote, size, time};
use crate::transfer::pool::JOBS;
use crate::transfer::progress::Progress;
use crate::transfer::report::Report;
use blow::Blow;
use home::Home;
use proof::{Copies, Proof};

/// What the disk's ceiling is measured with: enough that no cache of the device swallows it whole, little enough to take seconds.
const CEILING_BYTES: u64 = 256 << 20;
/// How long each measurement runs.
const CEILING_TIME: Duration = Duration::from_millis(400);
/// Depths at which the ceiling is looked for.
const CEILING_DEPTHS: [u32; 3] = [4, 16, 32];
/// What the default source leaves out: what builds and version control make.
const LEFT_OUT: [&str; 2] = ["target", ".git"];
/// Names tried for the volume, in a home that was kept.
const VOLUMES_MAX: u32 = 1000;
/// Nodes, as many as there are copies.
const NODES: u16 = 3;
/// The one that is killed. Not the first, so that nobody thinks that one special.
const VICTIM: usize = 1;
/// Everything has its copies within this, also where gigabytes are to be synced.
const WHOLE_PATIENCE: Duration = Duration::from_mins(10);

/// See three nodes at work: store files, kill a node meanwhile, read everything back, and verify every byte of every copy
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  catena quickstart
  catena quickstart ~/Pictures
  catena quickstart --dir /srv/try --keep ~/Pictures

It uses the first of $TMPDIR, /var/tmp and ./target that is on a disk with room, or DIR, and removes what it made.")]
pub(crate) struct Quickstart {
    /// What to store [default: the current directory without target/ and .git/]
    path: Option<PathBuf>,
    /// Where to keep the nodes: an empty or new directory, or a former one of its own
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Remove nothing afterwards
    #[arg(long)]
    keep: bool,
}

/// Rates of the bare disk.
#[derive(Clone, Copy, Debug)]
struct DiskRates {
    write: u64,
    read: u64,
}

/// Everything that is told at the end.
struct Story {
    disk: DiskRates,
    stored: Report,
    stored_nanoseconds: u64,
    blow: Blow,
    proof: Proof,
    proof_nanoseconds: u64,
    redundancy_nanoseconds: u64,
    copies: Copies,
}

impl Quickstart {
    pub(crate) fn run(self, context: &mut Context) -> Result<()> {
        let source = followed(self.path.clone().unwrap_or_else(|| PathBuf::from(".")))?;
        let mut excluded = self.excluded(&source);
        let bytes = measure(&source, &excluded)?;
        let home = Home::prepare(self.dir.as_deref(), bytes, self.keep)?;
        excluded.extend(home.file_id());
        let outcome = self.tell(context, &source, &excluded, bytes, &home);
        let shown = home.directory().display().to_string();
        let pasted = text::shell(home.directory().as_os_str().as_bytes());
        let was_formatted = home.is_formatted;
        let removed = home.remove();
        let story = outcome?;
        if removed {
            context.output.line("removed    the nodes and everything they made")?;
        } else if self.keep || was_formatted {
            context.output.line(&format!("kept       {shown}; serve it with: catena dev --dir {pasted}"))?;
        }
        context
            .output
            .line("\nNext: `catena dev --nodes 3` runs a cluster to work with; `catena --help` shows every command.")?;
        story.finish(context, &shown)
    }

    /// What the default source leaves out, by what it is.
    fn excluded(&self, source: &Path) -> Vec<FileId> {
        let names = if self.path.is_none() { &LEFT_OUT[..] } else { &[] };
        names.iter().filter_map(|name| FileId::at(&source.join(name))).collect()
    }

    fn tell(
        &self,
        context: &mut Context,
        source: &Path,
        excluded: &[FileId],
        bytes: u64,
        home: &Home,
    ) -> Result<Story> {
        let shown = quote(std::os::unix::ffi::OsStrExt::as_bytes(source.as_os_str()));
        let mut log = Config::default().log;
        "warn".clone_into(&mut log.level);
        node::logging::init(&log).map_err(|error| local_node::config_failure(&error))?;
        context.output.line(&format!(
            "Catena keeps {shown} ({}) in three nodes of its own in {}.\nThree copies of everything, and a write is done when all of them are on disk.\n",
            size::human(bytes),
            home.directory().display()
        ))?;
        let disk = disk_rates(home.directory())?;
        context.output.line(&format!(
            "measured   the bare disk: writes {}/s, reads {}/s",
            size::human(disk.write),
            size::human(disk.read)
        ))?;
        let mut cluster = LocalCluster::prepare(home.directory(), NODES, None, |own| config(own, bytes))?;
        let watch = Stopwatch::start();
        cluster.start(&mut |_| Ok(()))?;
        cluster.wait_whole(WHOLE_PATIENCE, |_| {})?;
        context.output.line(&format!(
            "started    {}, each a process of its own, at {}, in {}",
            count(u64::from(NODES), "node"),
            cluster.endpoint(),
            time::duration(watch.nanoseconds())
        ))?;
        let endpoint = cluster.endpoint();
        let since = clock::now();
        let (place, stored, stored_nanoseconds, blow) =
            store(context, &mut cluster, source, excluded, bytes)?;
        context.output.line(&stored_line(&stored, stored_nanoseconds, disk))?;
        context.output.line(&blow.line(bytes))?;
        let (proof, proof_nanoseconds) = read_back(context, &endpoint, &place, (source, since))?;
        context.output.line(&proof_lines(&proof, proof_nanoseconds, disk))?;
        let watch = Stopwatch::start();
        cluster.restart(VICTIM)?;
        let restart_nanoseconds = watch.nanoseconds();
        cluster.wait_whole(WHOLE_PATIENCE, |_| {})?;
        let redundancy_nanoseconds = watch.nanoseconds();
        context.output.line(&format!(
            "restarted  node-{}, in {}; everything has three copies again after {}",
            VICTIM + 1,
            time::duration(restart_nanoseconds),
            time::duration(redundancy_nanoseconds)
        ))?;
        let copies = self.check_copies(context, &endpoint, &place, home)?;
        context.output.line(&format!(
            "checked    {} of {}, read from the disks of all nodes: all there, and right",
            count(copies.chunks, "copy"),
            size::human(copies.bytes)
        ))?;
        cluster.stop()?;
        Ok(Story {
            disk,
            stored,
            stored_nanoseconds,
            blow,
            proof,
            proof_nanoseconds,
            redundancy_nanoseconds,
            copies,
        })
    }

    /// Reads every copy of every file's chunks.
    fn check_copies(
        &self,
        context: &Context,
        endpoint: &str,
        place: &RemotePath,
        home: &Home,
    ) -> Result<Copies> {
        let mut client = connect(context, endpoint);
        let copies = proof::check_copies(&mut client, place)?;
        // In a former home only the volume of this run goes.
        if home.is_formatted && !self.keep {
            let removed = client.client()?.remove_volume(&place.volume, true).wait();
            removed.map_err(|error| failure(format!("/{}", place.volume), &error))?;
        }
        client.close();
        Ok(copies)
    }
}

/// Compares everything with its source, through a client that knows nothing of the first one.
fn read_back(
    context: &Context,
    endpoint: &str,
    place: &RemotePath,
    (source, since): (&Path, Timestamp),
) -> Result<(Proof, u64)> {
    let mut fresh = connect(context, endpoint);
    let progress = Progress::new(&fresh);
    let watch = Stopwatch::start();
    let proof = proof::prove(&mut fresh, place, source, since, &progress);
    progress.finish();
    let nanoseconds = watch.nanoseconds();
    fresh.close();
    Ok((proof?, nanoseconds))
}

/// What a link that was named leads to: that is stored and compared, under its own name.
fn followed(path: PathBuf) -> Result<PathBuf> {
    if path.is_symlink() {
        return std::fs::canonicalize(&path).map_err(|error| Failure::path(&path, &error));
    }
    Ok(path)
}

/// Bytes of everything that is to be stored.
fn measure(source: &Path, excluded: &[FileId]) -> Result<u64> {
    let metadata = std::fs::metadata(source).map_err(|error| Failure::path(source, &error))?;
    let visits = Walk::new(source, metadata).without(excluded).filter_map(Result::ok);
    Ok(visits.filter(|visit| visit.metadata.is_file()).map(|visit| visit.metadata.len()).sum())
}

/// A node of a home for so much data.
fn config(own: &Path, bytes: u64) -> Config {
    let mut config = local_cluster::modest(Config::development(own, Some(1), None));
    "warn".clone_into(&mut config.log.level);
    // A development node's share of the disk may be too small for so much data; the room was checked.
    let needed = bytes.saturating_add(bytes / 4).saturating_add(1 << 30);
    for disk in &mut config.disks {
        disk.capacity = ByteSize(disk.capacity.0.max(needed));
    }
    config
}

/// A context of its own for one client.
fn connect(context: &Context, endpoint: &str) -> Context {
    let global = Global { endpoint: Some(endpoint.to_owned()), ..context.global.clone() };
    Context::new(global, WhenClosed::GoOn)
}

/// Stores everything in a new volume and kills a node meanwhile: where, what, how long it took, and what the kill did.
fn store(
    context: &Context,
    cluster: &mut LocalCluster,
    source: &Path,
    excluded: &[FileId],
    bytes: u64,
) -> Result<(RemotePath, Report, u64, Blow)> {
    let mut first = connect(context, &cluster.endpoint());
    let volume = new_volume(&mut first)?;
    let root = RemotePath { volume, path: Vec::new(), trailing_slash: false };
    let progress = Progress::new(&first);
    let watch = Stopwatch::start();
    let sources = [source.to_owned()];
    let (report, blow) = blow::during(cluster, VICTIM, (&progress, bytes), || {
        PutOptions::tree(JOBS).put(&mut first, &sources, &root, excluded, &progress)
    });
    progress.finish();
    first.close();
    let name = source.file_name().map(std::os::unix::ffi::OsStrExt::as_bytes).unwrap_or_default();
    let place = if source.is_dir() { root } else { root.join(name) };
    Ok((place, report?, watch.nanoseconds(), blow?))
}

/// A volume that didn't exist: `quickstart`, or with a number in a node that was kept.
fn new_volume(context: &mut Context) -> Result<String> {
    let client = context.client()?;
    for number in 1..=VOLUMES_MAX {
        let name = if number == 1 { "quickstart".to_owned() } else { format!("quickstart-{number}") };
        match client
            .create_volume(&name, VolumePolicy { chunk_bytes: CHUNK_BYTES_DEFAULT, retention_seconds: 0 })
            .wait()
        {
            Ok(_) => return Ok(name),
            Err(client::Error::AlreadyExists { .. }) => {}
            Err(error) => return Err(failure(format!("/{name}"), &error)),
        }
    }
    Err(Failure::new(Exit::Conflict, "the node", "holds a thousand quickstarts")
        .next("remove it, and run this again"))
}

/// What the disk gives at best, measured now.
fn disk_rates(directory: &Path) -> Result<DiskRates> {
    let failed = |error: CeilingError| {
        Failure::new(Exit::Failed, directory.display().to_string(), error.to_string())
            .next("catena doctor says what is missing")
    };
    let scratch = Scratch::new(directory, CEILING_BYTES).map_err(failed)?;
    let load = DiskLoad {
        operation_bytes: 1 << 20,
        depths: CEILING_DEPTHS.to_vec(),
        order: Order::Sequential,
        flush: false,
        time: CEILING_TIME,
    };
    let write = ceiling::disk_write(&scratch, &load).map_err(failed)?;
    let read = ceiling::disk_read(&scratch, &load).map_err(failed)?;
    let rate =
        |ceiling: Option<ceiling::Ceiling>| ceiling.map_or(0, |ceiling| whole(ceiling.bytes_per_second));
    Ok(DiskRates { write: rate(write), read: rate(read) })
}

/// A rate in whole bytes.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a rate is positive and far below 2^63"
)]
fn whole(rate: f64) -> u64 {
    rate as u64
}

/// Bytes a second, and how many percent of `best` that is.
fn compared(bytes: u64, nanoseconds: u64, best: u64) -> (u64, f64) {
    let rate = u128::from(bytes) * 1_000_000_000 / u128::from(nanoseconds.max(1));
    let permille = (rate * 1000).checked_div(u128::from(best)).unwrap_or(0);
    let permille = u32::try_from(permille).unwrap_or(u32::MAX);
    (u64::try_from(rate).unwrap_or(u64::MAX), f64::from(permille) / 10.0)
}

fn stored_line(stored: &Report, nanoseconds: u64, disk: DiskRates) -> String {
    let ((files, bytes), (directories, links)) = (stored.files(), stored.directories_and_links());
    let (rate, _) = compared(bytes, nanoseconds, disk.write);
    format!(
        "stored     {}, {} and {}: {} in {}, {}/s, three times each",
        count(files, "file"),
        count(directories, "directory"),
        count(links, "link"),
        size::human(bytes),
        time::duration(nanoseconds),
        size::human(rate)
    )
}

fn proof_lines(proof: &Proof, nanoseconds: u64, disk: DiskRates) -> String {
    let (rate, percent) = compared(proof.bytes, nanoseconds, disk.read);
    let lines = format!(
        "read back  {} in {}, {}/s, {percent:.1} % of the disk's ceiling, by a new client, from the other two nodes\n\
         verified   every byte of {}, and names, modes, times, links and attributes",
        size::human(proof.bytes),
        time::duration(nanoseconds),
        size::human(rate),
        count(proof.files, "file"),
    );
    if proof.moved_on == 0 {
        return lines;
    }
    let changed = count(proof.moved_on, "source");
    format!("{lines}\n           {changed} changed here meanwhile, with nothing left to compare with")
}

impl Story {
    /// Says how it ended; a failure where not everything came back.
    fn finish(&self, context: &mut Context, directory: &str) -> Result<()> {
        let (files, bytes) = self.stored.files();
        let (directories, links) = self.stored.directories_and_links();
        if context.output.is_json() {
            context.output.result(|| self.object(directory), |_| Vec::new())?;
        }
        let proof = &self.proof;
        let stored = files + directories + links;
        let found = proof.files + proof.directories + proof.links + proof.moved_on;
        if found != stored {
            let reason =
                format!("{} were stored and {found} were found after the kill", count(stored, "thing"));
            return Err(Failure::new(Exit::Integrity, "the nodes", reason)
                .next("please report this, with --keep and the directory"));
        }
        if self.stored.failed() > 0 {
            let reason = format!(
                "{} could not be read and stored, as said above",
                count(self.stored.failed(), "name")
            );
            return Err(Failure::new(Exit::Partial, "", reason));
        }
        debug_assert!(proof.moved_on > 0 || proof.bytes == bytes);
        Ok(())
    }

    fn object(&self, directory: &str) -> Object {
        let (files, bytes) = self.stored.files();
        let (directories, links) = self.stored.directories_and_links();
        let (write_rate, write_percent) = compared(bytes, self.stored_nanoseconds, self.disk.write);
        let (read_rate, read_percent) = compared(self.proof.bytes, self.proof_nanoseconds, self.disk.read);
        Object::new()
            .with("directory", directory)
            .with("files", files)
            .with("directories", directories)
            .with("symlinks", links)
            .with("bytes", bytes)
            .with("disk_write_bytes_per_second", self.disk.write)
            .with("disk_read_bytes_per_second", self.disk.read)
            .with("store_bytes_per_second", write_rate)
            .with("store_percent_of_disk", write_percent)
            .with("nodes", u64::from(NODES))
            .with("killed_after_bytes", self.blow.after_bytes)
            .with("longest_pause_milliseconds", self.blow.pause_nanoseconds / 1_000_000)
            .with("redundancy_milliseconds", self.redundancy_nanoseconds / 1_000_000)
            .with("checked_copies", self.copies.chunks)
            .with("checked_copy_bytes", self.copies.bytes)
            .with("read_bytes_per_second", read_rate)
            .with("read_percent_of_disk", read_percent)
            .with("verified_files", self.proof.files)
            .with("verified_bytes", self.proof.bytes)
            .with("changed_meanwhile", self.proof.moved_on)
            .with("failed", self.stored.failed())
    }
}
