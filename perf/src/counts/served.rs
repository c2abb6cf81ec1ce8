//! What a real server spends on requests: a counting server, and the load of [`crate::load`].

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use runtime::ceiling::Order;
use runtime::clock;
use rustix::process::Signal;
use wire::Nanos;

use super::{CountError, Figure, Programs, per};
use crate::load::{Job, Load, What};
use crate::server::{Server, Setup, pause, signal};

const CHUNKS: u64 = 4096;
const CHUNK_BYTES: u32 = 4096;
const WINDOW: u32 = 32;
/// Requests between two looks at the allocator.
const GETS: u64 = 100_000;
/// Requests under `strace`, which slows each system call down.
const TRACED_GETS: u64 = 20_000;
/// Requests after which buffers and tables have grown.
const WARM_GETS: u64 = 10_000;
const LONG: Duration = Duration::from_mins(2);

/// A server on core 0 and a client on core 1, as the ratios have them, with a small store.
struct Stage {
    server: Server,
    setup: Setup,
    load: Load,
    _directory: tempfile::TempDir,
}

impl Stage {
    fn new(programs: &Programs) -> Result<Self, CountError> {
        let directory = tempfile::Builder::new().prefix("catena-perf-").tempdir_in(&programs.directory)?;
        let setup = Setup {
            directory: directory.path().to_owned(),
            capacity_bytes: 1 << 30,
            prezero_bytes: 256 << 20,
            core: Some(0),
        };
        setup.format(&programs.server)?;
        let server = setup.start(&programs.server)?;
        let load = Load::connect(server.endpoint, client_core())?;
        Ok(Self { server, setup, load, _directory: directory })
    }

    fn run(&self, what: What, window: u32, operations: u64) -> Result<(), CountError> {
        self.load.run(Job { what, window, operations, time: LONG })?;
        Ok(())
    }

    fn allocations(&mut self) -> Result<u64, CountError> {
        let answer = self.server.ask("allocations")?;
        answer
            .parse()
            .map_err(|_| CountError::Unexpected(format!("the server counts {answer:?} allocations")))
    }
}

/// A core beside the server's, where there is one.
fn client_core() -> Option<usize> {
    std::thread::available_parallelism().is_ok_and(|cores| cores.get() > 1).then_some(1)
}

/// Allocations and system calls of the server per 4 KiB get, 32 in flight, in steady state.
pub fn gets(programs: &Programs) -> Result<[Figure; 2], CountError> {
    let mut stage = Stage::new(programs)?;
    stage.run(What::Put { bytes: CHUNK_BYTES }, WINDOW, CHUNKS)?;
    stage.server.wait_zeroed()?;
    let what = What::Get { bytes: CHUNK_BYTES, order: Order::Random };
    stage.run(what, WINDOW, WARM_GETS)?;
    let (before, since) = (stage.allocations()?, runtime::clock::now());
    stage.run(what, WINDOW, GETS)?;
    let (after, took) = (stage.allocations()?, runtime::clock::now().since(since));
    // What the node does in the same time without a request, its heartbeats for one, isn't the gets'.
    let until = runtime::clock::now().after(took);
    while runtime::clock::now() < until {
        std::thread::park_timeout(Duration::from_nanos(until.since(runtime::clock::now())));
    }
    let idle = stage.allocations()? - after;
    let allocations = (after - before).saturating_sub(idle);
    let heap = Figure::new(
        "heap allocations in the server per 4 KiB get",
        per(allocations, GETS),
        0.01,
        "",
        format!("{allocations} of all threads in {GETS} gets, less {idle} in as long without any"),
    );
    Ok([heap, system_calls(&stage)?])
}

fn system_calls(stage: &Stage) -> Result<Figure, CountError> {
    let name = "system calls in the server per 4 KiB get, 32 in flight";
    let unknown = |note| Figure { name: name.into(), value: None, limit: CALLS_MAX, unit: "", note };
    let table = stage.setup.directory.join("strace.txt");
    let mut tracer = match Tracer::attach(stage.server.pid(), &table) {
        Ok(tracer) => tracer,
        Err(reason) => return Ok(unknown(reason)),
    };
    stage.run(What::Get { bytes: CHUNK_BYTES, order: Order::Random }, WINDOW, TRACED_GETS)?;
    tracer.detach()?;
    let calls = parse_calls(&std::fs::read_to_string(&table)?);
    let sum: u64 = calls.iter().map(|(_, count)| count).sum();
    if sum == 0 {
        return Ok(unknown("strace counted nothing".into()));
    }
    let most: Vec<String> = calls.iter().take(3).map(|(name, count)| format!("{count} {name}")).collect();
    let note = format!("in {TRACED_GETS} gets: {}", most.join(", "));
    Ok(Figure::new(name, per(sum, TRACED_GETS), CALLS_MAX, "", note))
}

const CALLS_MAX: f64 = 0.5;

/// `strace -f -c` on a running process.
struct Tracer {
    child: Child,
}

impl Tracer {
    /// Returns when every thread is traced; why not, for people.
    fn attach(pid: u32, table: &Path) -> Result<Self, String> {
        const ATTACH_TIME_MAX: u64 = 10 * Nanos::SECOND;
        let child = Command::new("strace")
            .args(["-f", "-c", "-qq", "-o"])
            .arg(table)
            .args(["-p", &pid.to_string()])
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|error| format!("strace can't be run: {error}"))?;
        let mut tracer = Self { child };
        let begin = clock::now();
        while !is_traced(pid) {
            let ended = tracer.child.try_wait().is_ok_and(|status| status.is_some());
            if ended || clock::now().since(begin) > ATTACH_TIME_MAX {
                return Err("strace may not attach to the server (ptrace is refused)".into());
            }
            pause(Duration::from_millis(20));
        }
        Ok(tracer)
    }

    fn detach(&mut self) -> Result<(), CountError> {
        signal(self.child.id(), Signal::INT);
        self.child.wait()?;
        Ok(())
    }
}

impl Drop for Tracer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn is_traced(pid: u32) -> bool {
    let Ok(tasks) = std::fs::read_dir(format!("/proc/{pid}/task")) else { return false };
    let mut statuses = tasks.flatten().map(|task| std::fs::read_to_string(task.path().join("status")));
    statuses.all(|status| {
        let status = status.unwrap_or_default();
        let tracer = status.lines().find_map(|line| line.strip_prefix("TracerPid:"));
        // Kernel workers of io_uring are threads that can't be traced, and make no system calls.
        let is_worker = status.lines().any(|line| line.starts_with("Name:\tiou-"));
        is_worker || tracer.is_some_and(|pid| pid.trim() != "0")
    })
}

/// Names and numbers of calls in the table that `strace -c` writes, in its order: by time.
fn parse_calls(table: &str) -> Vec<(String, u64)> {
    let rows = table.lines().filter_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let (first, last) = (words.first()?, words.last()?);
        first.parse::<f64>().ok()?;
        let calls = words.get(3)?.parse().ok()?;
        (*last != "total").then(|| ((*last).to_owned(), calls))
    });
    rows.collect()
}

/// Flushes and disk bytes of the store per durable create in a real server, whose turns aren't in lockstep.
///
/// In flight at once are at most `in_flight` creates, half of them commits on average: so batches hold fewer than in the trace, and more
/// than one. The limit says that a batch is flushed once, and that group commit works.
pub fn creates(programs: &Programs, in_flight: u32) -> Result<[Figure; 2], CountError> {
    let count: u64 = if in_flight == 1 { 1000 } else { 20_000 };
    let stage = Stage::new(programs)?;
    stage.server.wait_zeroed()?;
    let what = What::Create { bytes: CHUNK_BYTES };
    stage.run(what, in_flight, 256)?;
    let look = || -> Result<[u64; 3], CountError> {
        Ok([
            stage.server.metric("catena_shard_flush_total")?,
            stage.server.metric("catena_shard_disk_write_bytes_total")?,
            stage.server.metric("catena_shard_batch_total")?,
        ])
    };
    let before = look()?;
    stage.run(what, in_flight, count)?;
    let after = look()?;
    let [flushes, bytes, batches] = [0, 1, 2].map(|at| after[at] - before[at]);
    // At one in flight each create is a batch; beyond, about twenty share one (0.05 was measured), and twice that much has to be noticed. An idle log settles
    // itself with an empty batch, and a checkpoint may fall into the run: one in a hundred.
    let batches_max = if in_flight == 1 { 1.01 } else { 0.11 };
    let name = |what: &str| format!("{what} per create, {in_flight} in flight, in a real server's store");
    Ok([
        Figure::new(
            name("flushes"),
            per(flushes, count),
            batches_max,
            "",
            format!("{flushes} flushes, {batches} batches, {count} creates"),
        ),
        Figure::new(
            name("disk bytes"),
            per(bytes, count),
            f64::from(CHUNK_BYTES) * (1.0 + batches_max) + 256.0,
            "B",
            format!("{bytes} bytes, {batches} batches"),
        ),
    ])
}

/// Bytes that the store of a real server reads when it starts after a kill.
pub fn restart(programs: &Programs) -> Result<Figure, CountError> {
    const LARGE: u32 = 1 << 20;
    const COUNT: u64 = 128;
    let stage = Stage::new(programs)?;
    stage.run(What::Put { bytes: LARGE }, 4, COUNT)?;
    let Stage { server, setup, load, _directory } = stage;
    let batches = server.metric("catena_shard_batch_total")?;
    drop(load);
    server.kill();
    let server = setup.start(&programs.server)?;
    let read = server.metric("catena_shard_disk_read_bytes_total")?;
    server.stop()?;
    // Superblocks, an empty checkpoint, a descriptor of at most 64 KiB a batch, a segment's rest, and the space of the next one in which
    // writes may have been in flight.
    let descriptors = batches * 2 * 4096;
    let search = u64::from(journal::SEGMENT_BYTES) + 2 * u64::from(journal::IN_FLIGHT_BYTES_MAX);
    let limit = (1 << 16) + descriptors + search + 4 * u64::from(LARGE);
    let note = format!("{COUNT} MiB of chunks in {batches} batches since the checkpoint");
    Ok(Figure::new(
        "restart after a kill: bytes read by a real server's store",
        per(read, 1),
        per(limit, 1),
        "B",
        note,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_of_strace_is_understood() {
        let table = "% time     seconds  usecs/call     calls    errors syscall\n\
                     ------ ----------- ----------- --------- --------- ----------------\n \
                     90.12    0.123456          12      1000           io_uring_enter\n  \
                     9.88    0.000001           1        20         3 futex\n\
                     ------ ----------- ----------- --------- --------- ----------------\n\
                     100.00    0.123457          12      1020         3 total\n";
        assert_eq!(parse_calls(table), [("io_uring_enter".into(), 1000), ("futex".into(), 20)]);
    }
}
