//! Starting what was formatted: threads, their files and ports, the cluster map.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use placement::{ClusterMap, Edition};
use runtime::{Io, OpenFileError, Receiver, Reply, Sender, StoreFile, ThreadConfig};
use tracing::{info, warn};
use wire::control::StoreReport;
use wire::map::Map;
use wire::{ClusterId, Nanos, ShardIndex};

use crate::admin::Admin;
use crate::config::Config;
use crate::control_thread::{ControlMail, ControlStart};
use crate::error::{Error, not_listening};
use crate::files::check_there;
use crate::identity::{Identity, NodeDirectory, metadata_path, read_identity};
use crate::meta_log::length_of;
use crate::meta_thread::{MetaMail, MetaStart};
use crate::node::{Node, Thread, Threads, inspector};
use crate::progress::{Progress, Stage, Watch, progress};
use crate::shard_thread::{ShardMail, ShardStart, SharedMap};
use crate::{keeper, vote};

/// Mails that a thread hasn't taken yet, at most.
const MAILS_MAX: usize = 256;
/// While recovery goes on the node says so this often.
const RECOVERY_NOTICE: Duration = Duration::from_secs(10);
/// Links beyond the limit, as a part of it, that are told `Busy` instead of being closed at once: 512 of 4,096.
const LINKS_TOLD_BUSY_PART: u32 = 8;
/// And so many in any case: clients that wait for a place come and go at the same time.
const LINKS_TOLD_BUSY_MIN: u32 = 8;
/// Descriptors of a node beside its connections: streams, log, files of the node, the admin endpoint's 32 requests.
const DESCRIPTORS: u64 = 64;
/// And of each thread: two urings and glommio's three, eventfds, timers, files, listeners, and the least number of links that are told `Busy`.
const DESCRIPTORS_OF_THREAD: u64 = 32 + LINKS_TOLD_BUSY_MIN as u64;
/// Bytes queued on a connection: a shard's gets on their way to it, and beside them small answers, or the largest of the metadata replica, 1 MiB each. Who lets
/// more gather doesn't read.
const QUEUE_BYTES_MAX: usize = shard::LINK_GET_BYTES_MAX as usize + (8 << 20);
/// Bytes of frames queued on all connections of a thread: a few that read nothing of as much as they may let gather, and room for small answers to all others. Payloads of gets
/// aren't among them, they have their shares of the buffers.
const QUEUE_BYTES_TOTAL_MAX: usize = 128 << 20;
/// Buffers of the metadata replica: log batches, checkpoint pages.
const METADATA_ARENA_BYTES: usize = 128 << 20;
/// Buffers of the control agent: its vote's log.
const CONTROL_ARENA_BYTES: usize = 32 << 20;
/// Mails to the control agent: each unit has a few under way.
const CONTROL_MAILS_MAX: usize = 4096;
/// A control group that answers does so well within this.
const SERVE_PATIENCE: Duration = Duration::from_secs(5);

/// Starts a formatted node. Returns when it serves, or when it waits for the control group ([`Node::waits_for`]); then it serves as soon as that answers.
pub fn start(mut config: Config) -> Result<Node, Error> {
    let opened = Opened::open(&mut config, false)?;
    let node = opened.serve(config)?;
    node.wait_serving(SERVE_PATIENCE);
    Ok(node)
}

/// A formatted node whose stores and log are open, and which serves nothing yet.
pub(crate) struct Opened {
    identity: Identity,
    directory: NodeDirectory,
    edition: SharedMap,
    threads: Threads,
    inbox: Receiver<ControlMail>,
    control: Sender<ControlMail>,
}

impl Opened {
    /// Opens everything, with R29's override where the operator gave it.
    pub(crate) fn open(config: &mut Config, accept_data_loss: bool) -> Result<Self, Error> {
        config.validate()?;
        warn_if_exposed(config);
        limit_connections(config, runtime::raise_open_files_limit());
        let directory = NodeDirectory::new(&config.directory);
        let identity = read_identity(config)?;
        if identity.is_old() {
            return Err(Error::NotAdopted { directory: config.directory.clone() });
        }
        check_shards(config, &identity)?;
        let known = read_map(&directory)?;
        check_there(config)?;

        // Whatever fails from here on, the threads that run are stopped.
        let (control, inbox) = runtime::mailbox(CONTROL_MAILS_MAX);
        let mut threads = Threads::default();
        for index in 0..config.shard_count() {
            let start =
                ShardStart::open(config, &identity, ShardIndex(index), (accept_data_loss, Some(&known)));
            let file = start.open_file()?;
            warn_if_larger(config, index, &file);
            threads.shards.push(start_shard(config, index, (start, file), control.clone())?);
        }
        let metadata = start_metadata(config, &identity, &known, (accept_data_loss, control.clone()))?;
        let metadata = threads.metadata.insert(metadata);
        threads.shards.iter().try_for_each(wait_ready)?;
        wait_ready(metadata)?;
        Ok(Self { identity, directory, edition: Arc::new(Edition::new(known)), threads, inbox, control })
    }

    /// Stops it again.
    pub(crate) fn close(mut self) -> Result<ClusterId, Error> {
        self.threads.stop()?;
        Ok(self.identity.cluster)
    }

    /// Introduces the node to its control group: from then on it serves.
    fn serve(mut self, config: Config) -> Result<Node, Error> {
        let stores = store_reports(&self.threads)?;
        tracing::debug!(?stores, "the stores as they are registered");
        let logs = config.metadata_directory().to_owned();
        let keeper =
            keeper::start(self.directory.clone(), logs.clone(), self.identity.clone(), self.control.clone())?;
        let vote = match self.identity.vote {
            Some(vote) => vote::open(&logs, vote)?.map(|file| (vote, file)),
            None => None,
        };
        let metadata = self.threads.metadata.as_ref().expect("it was opened");
        let start = ControlStart {
            identity: self.identity.clone(),
            name: config.name.clone(),
            rack: config.rack.clone(),
            endpoints: config.join.iter().map(|endpoint| Arc::from(endpoint.as_str())).collect(),
            links_max: config.limits.connections,
            edition: Arc::clone(&self.edition),
            stores,
            vote,
            shards: self.threads.shards.iter().map(|shard| shard.mail.clone()).collect(),
            metadata: metadata.mail.clone(),
            keeper,
        };
        let control = start_control(&config, start, self.control, self.inbox)?;
        let control = self.threads.control.insert(control);
        wait_ready(control)?;

        let Threads { shards, metadata, control } = &mut self.threads;
        let (shards, metadata, control) = (std::mem::take(shards), metadata.take(), control.take());
        let (metadata, control) = (metadata.expect("it runs"), control.expect("it runs"));
        let draining = Arc::new(AtomicBool::new(false));
        let inspect = inspector(&config.name, &shards, &metadata, &control, Arc::clone(&draining));
        let address = config.admin_address();
        let threads = Threads { shards, metadata: Some(metadata), control: Some(control) };
        let admin = Admin::start(address, inspect).map_err(|source| Error::Listen {
            what: "the admin endpoint",
            address,
            source,
        })?;
        let node = Node::new(config.name, self.identity.cluster, threads, admin, draining);
        info!(node = %node.name(), cluster = %node.cluster(), endpoint = %node.endpoint(), control = %node.control_address(), admin = %node.admin_address(), "started");
        Ok(node)
    }
}

/// What all stores are registered with.
fn store_reports(threads: &Threads) -> Result<Vec<StoreReport>, Error> {
    let mut reports = Vec::new();
    for shard in &threads.shards {
        let (replier, reply) = runtime::reply();
        hand_over(shard, shard.mail.send(ShardMail::Report(replier)).is_ok())?;
        reports.push(StoreReport { address: shard.address.to_string(), ..await_report(shard, reply)? });
    }
    if let Some(metadata) = &threads.metadata {
        let (replier, reply) = runtime::reply();
        hand_over(metadata, metadata.mail.send(MetaMail::Report(replier)).is_ok())?;
        reports.push(StoreReport { address: metadata.address.to_string(), ..await_report(metadata, reply)? });
    }
    Ok(reports)
}

/// A store that didn't say what it lacks would count as one that lacks nothing (R8).
fn await_report<M>(thread: &Thread<M>, reply: Reply<StoreReport>) -> Result<StoreReport, Error> {
    let report = await_state(reply, RECOVERY_NOTICE, || {
        info!(thread = %thread.what, "still waiting for its state");
        thread.handle.is_finished()
    });
    report.ok_or_else(|| Error::Stopped { what: thread.what.clone() })
}

fn warn_if_exposed(config: &Config) {
    if !config.listen.is_loopback() {
        warn!(listen = %config.listen, "insecure_listen: anybody who reaches this address can read, change and delete everything");
    }
}

/// A store gives nothing of its file back: a capacity below what it has is one that it doesn't keep to.
fn warn_if_larger(config: &Config, index: u16, file: &StoreFile) {
    let capacity = config.store_capacity(index);
    if let Some(length) = file.len().ok().filter(|length| *length > capacity) {
        let path = file.path().display();
        warn!(
            %path, length, capacity,
            "the store's file is larger than its share of `disks.capacity`, and doesn't become smaller: it keeps what it has"
        );
    }
}

/// Without a descriptor a connection can't be accepted, not even to be told `Busy`: then fewer are allowed than are configured.
fn limit_connections(config: &mut Config, open_files: u64) {
    let allowed = connections_within(open_files, u64::from(config.shard_count()) + 1);
    if allowed < config.limits.connections {
        warn!(
            configured = config.limits.connections,
            allowed,
            open_files,
            "fewer connections a thread than configured: the limit of open files is too small (`ulimit -Hn`, systemd LimitNOFILE)"
        );
        config.limits.connections = allowed;
    }
}

/// Connections that each of so many threads can have, and refuse more with an answer.
fn connections_within(open_files: u64, threads: u64) -> u32 {
    let left = open_files.saturating_sub(DESCRIPTORS) / threads;
    let part = u64::from(LINKS_TOLD_BUSY_PART);
    let connections = left.saturating_sub(DESCRIPTORS_OF_THREAD).saturating_mul(part) / (part + 1);
    u32::try_from(connections).unwrap_or(u32::MAX).max(1)
}

pub(crate) fn check_shards(config: &Config, identity: &Identity) -> Result<(), Error> {
    let formatted = identity.stores.len();
    if usize::from(config.shard_count()) == formatted {
        return Ok(());
    }
    Err(Error::Changed {
        key: "shards",
        configured: config.shard_count().to_string(),
        formatted: formatted.to_string(),
    })
}

pub(crate) fn read_map(directory: &NodeDirectory) -> Result<ClusterMap, Error> {
    let bytes = directory.read_map()?;
    let damaged = |reason: String| Error::Damaged { path: directory.map_path(), reason };
    let map = Map::decode(&bytes).map_err(|error| damaged(error.to_string()))?;
    ClusterMap::new(map).map_err(|error| damaged(error.to_string()))
}

/// An answer, however long it takes; each time that it took another `notice`, `is_over` says whether there will be none.
fn await_state<T>(mut reply: Reply<T>, notice: Duration, is_over: impl Fn() -> bool) -> Option<T> {
    loop {
        match reply.wait_timeout(notice) {
            Some(answer) => return answer.ok(),
            None if is_over() => return None,
            None => {}
        }
    }
}

/// Starts a shard's thread and waits until it listens.
pub(crate) fn start_shard(
    config: &Config,
    index: u16,
    (start, file): (ShardStart, StoreFile),
    control: Sender<ControlMail>,
) -> Result<Thread<ShardMail>, Error> {
    let what = format!("shard {index}");
    let (mail, inbox) = runtime::mailbox(MAILS_MAX);
    let (progress, watch) = progress();
    let address = config.shard_address(index);
    let (cpu, spin) = config.core_of(Some(index));
    let arena_bytes = usize::try_from(config.limits.buffers.0).expect("64-bit");
    let thread = thread_config(config, format!("shard-{index}"), arena_bytes, cpu, spin);
    let handle = runtime::serve(thread, move |io| {
        listen(io, address, &progress);
        start.begin(io, &file, (inbox, control), progress)
    });
    finish_start(what, handle, mail, watch)
}

fn start_metadata(
    config: &Config,
    identity: &Identity,
    map: &ClusterMap,
    (accept_data_loss, control): (bool, Sender<ControlMail>),
) -> Result<Thread<MetaMail>, Error> {
    let start = MetaStart::open(config, identity, map, accept_data_loss);
    let file = open_file(&metadata_path(config.metadata_directory()), start.is_format())?;
    start_metadata_thread(config, (start, file), control)
}

/// Starts the metadata replica's thread and waits until it listens.
pub(crate) fn start_metadata_thread(
    config: &Config,
    (start, file): (MetaStart, StoreFile),
    control: Sender<ControlMail>,
) -> Result<Thread<MetaMail>, Error> {
    let start = start.with_length(length_of(file.path(), file.len())?);
    let (mail, inbox) = runtime::mailbox(MAILS_MAX);
    let (progress, watch) = progress();
    let address = config.metadata_address();
    let (cpu, spin) = config.core_of(None);
    let thread = thread_config(config, "metadata".into(), METADATA_ARENA_BYTES, cpu, spin);
    let handle = runtime::serve(thread, move |io| {
        listen(io, address, &progress);
        start.begin(io, &file, (inbox, control), progress)
    });
    finish_start("the metadata replica".into(), handle, mail, watch)
}

/// Starts the control agent's thread. Its stores' addresses are known: it speaks at once.
fn start_control(
    config: &Config,
    start: ControlStart,
    mail: Sender<ControlMail>,
    inbox: Receiver<ControlMail>,
) -> Result<Thread<ControlMail>, Error> {
    let (progress, watch) = progress();
    let address = config.control_address();
    let thread = thread_config(config, "control".into(), CONTROL_ARENA_BYTES, None, false);
    let handle = runtime::serve(thread, move |io| {
        let address = listen(io, address, &progress).unwrap_or(address);
        start.begin(io, address, inbox, &progress)
    });
    finish_start("the control agent".into(), handle, mail, watch)
}

fn thread_config(
    config: &Config,
    name: String,
    arena_bytes: usize,
    cpu: Option<usize>,
    spin: bool,
) -> ThreadConfig {
    let mut thread = ThreadConfig::new(name);
    thread.arena_bytes = arena_bytes;
    thread.cpu = cpu;
    thread.spin = spin;
    thread.links.links = config.limits.connections as usize;
    thread.links.links_cap = thread.links.links
        + (config.limits.connections / LINKS_TOLD_BUSY_PART).max(LINKS_TOLD_BUSY_MIN) as usize;
    thread.links.idle_timeout =
        Some(u64::try_from(config.limits.idle_timeout.0.as_nanos()).unwrap_or(u64::MAX));
    thread.links.queue_bytes_max = QUEUE_BYTES_MAX;
    thread.links.queue_bytes_total_max = QUEUE_BYTES_TOTAL_MAX;
    thread
}

fn finish_start<M>(
    what: String,
    handle: Result<runtime::ThreadHandle, runtime::StartError>,
    mail: runtime::Sender<M>,
    watch: Watch,
) -> Result<Thread<M>, Error> {
    let handle = handle.map_err(|source| Error::Start { what: what.clone(), source: Box::new(source) })?;
    match watch.next(RECOVERY_NOTICE) {
        Some(Stage::Listening(address)) => Ok(Thread { what, handle, mail, watch, address }),
        Some(Stage::Failed(refusal)) => {
            // It ends by itself, and its file is closed then.
            if handle.join().is_err() {
                warn!(thread = %what, "a thread that couldn't start didn't end in order");
            }
            Err(refusal.into_error(&what))
        }
        Some(Stage::Ready) | None => {
            handle.stop();
            Err(Error::Stopped { what })
        }
    }
}

/// Waits until a thread has recovered; says so while it takes long.
pub(crate) fn wait_ready<M>(thread: &Thread<M>) -> Result<(), Error> {
    loop {
        match thread.watch.next(RECOVERY_NOTICE) {
            Some(Stage::Ready) => return Ok(()),
            Some(Stage::Failed(refusal)) => return Err(refusal.into_error(&thread.what)),
            Some(Stage::Listening(_)) => {}
            None if thread.handle.is_finished() => return Err(Error::Stopped { what: thread.what.clone() }),
            None => info!(thread = %thread.what, "still recovering"),
        }
    }
}

/// A thread that takes no mail has ended already: what it reported says why.
fn hand_over<M>(thread: &Thread<M>, taken: bool) -> Result<(), Error> {
    if taken { Ok(()) } else { wait_ready(thread) }
}

/// Opens or makes a locked file for direct I/O; a formatted node's file that isn't there is named (R34).
pub(crate) fn open_file(path: &Path, create: bool) -> Result<StoreFile, Error> {
    let opened = if create { StoreFile::create(path) } else { StoreFile::open(path) };
    opened.map_err(|error| match error {
        OpenFileError::Open { ref source, .. }
            if source.kind() == std::io::ErrorKind::NotFound && !create =>
        {
            Error::Missing { path: path.into() }
        }
        OpenFileError::Open { ref source, .. } if source.kind() == std::io::ErrorKind::AlreadyExists => {
            Error::Exists { path: path.into() }
        }
        source => Error::OpenFile(Box::new(source)),
    })
}

/// Listens at a configured address. Port 0 is a new port at each start, and the map tells it: one that the system gave before may be anybody's by now, so
/// that keeping it where it is still free is a promise that holds most of the time.
fn listen(io: &mut Io, address: SocketAddr, progress: &Progress) -> Option<SocketAddr> {
    match io.listen(address) {
        Ok(address) => {
            progress.set(Stage::Listening(address));
            Some(address)
        }
        Err(error) => {
            progress.fail(format!("cannot listen on {address}: {}", not_listening(&error)));
            io.stop();
            None
        }
    }
}

/// The configuration's spans as the pure crates take them.
pub(crate) fn nanoseconds(span: Duration) -> u64 {
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX / Nanos::SECOND * Nanos::SECOND)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// R8: a shard that didn't say within two seconds what it lacks counted as one that lacks nothing, and no map told of the damage.
    #[test]
    fn a_slow_answer_is_waited_for() {
        let notice = Duration::from_millis(1);
        let (replier, reply) = runtime::reply();
        let asked = std::cell::Cell::new(0);
        let replier = std::cell::Cell::new(Some(replier));
        let answer = await_state(reply, notice, || {
            asked.set(asked.get() + 1);
            if asked.get() == 3 {
                replier.take().expect("once").send(7);
            }
            false
        });
        assert_eq!((answer, asked.get()), (Some(7), 3));
        let (replier, reply) = runtime::reply::<u64>();
        assert_eq!(await_state(reply, notice, || true), None, "the thread has ended");
        drop(replier);
        let (replier, reply) = runtime::reply::<u64>();
        drop(replier);
        assert_eq!(await_state(reply, notice, || unreachable!("it is known at once")), None);
    }

    /// A node whose limit of open files was the usual 1,024 let connections wait for ever in the kernel's queue, without an answer.
    #[test]
    fn connections_fit_into_the_descriptors() {
        for (open_files, threads, expected) in [
            (20_000, 3, 5871),
            (1024, 2, 391),
            (1024, 17, 14),
            (256, 2, 49),
            (10, 2, 1),
            (u64::MAX, 2, u32::MAX),
        ] {
            let connections = connections_within(open_files, threads);
            assert_eq!(connections, expected, "{open_files} descriptors, {threads} threads");
        }
    }
}
