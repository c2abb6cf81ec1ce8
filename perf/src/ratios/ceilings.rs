//! What each row is divided by.

use std::sync::mpsc;
use std::time::Duration;

use runtime::ceiling::{
    Ceiling, CeilingError, DiskLoad, NetworkLoad, Order, Scratch, disk_read, disk_write, tcp_echo, tcp_stream,
};

use super::bench::{LARGE_ORDER, SMALL_ORDER};
use super::{Cores, Limit, Row};
use crate::fio::FioLoad;
use crate::text;

const LARGE_BYTES: usize = 1 << 20;
const SMALL_BYTES: usize = 4096;
/// Depths that are tried; the best one counts.
const LARGE_DEPTHS: [u32; 3] = [4, 8, 16];
const SMALL_DEPTHS: [u32; 3] = [32, 64, 128];
/// Frames of a create: a put's head, leaf and payload; a commit.
const PUT_FRAME_BYTES: usize = 4096 + 256;
const COMMIT_FRAME_BYTES: usize = 448;
/// Creates in flight.
const CREATES: u32 = 64;

/// The same load for fio, at the depth that suits it.
pub(super) fn fio_load(row: Row) -> Option<FioLoad> {
    Some(match row {
        Row::PutLarge => FioLoad { kind: "write", operation_bytes: LARGE_BYTES, depth: 16 },
        Row::GetLarge => FioLoad { kind: "read", operation_bytes: LARGE_BYTES, depth: 16 },
        Row::GetSmall => FioLoad { kind: "randread", operation_bytes: SMALL_BYTES, depth: 64 },
        Row::Create => return None,
    })
}

/// Runs on a core, as a thread of its own.
fn on_core<T: Send + 'static>(
    core: usize,
    body: impl FnOnce() -> Result<T, CeilingError> + Send + 'static,
) -> Result<T, CeilingError> {
    let (told, result) = mpsc::channel();
    let thread = runtime::spawn_thread("perf-ceiling", Some(core), move || {
        // Nobody waits any more only if this process ends.
        let _ = told.send(body());
    })?;
    let result = result.recv();
    let _ = thread.join();
    result.unwrap_or_else(|_| Err(std::io::Error::other("a ceiling's thread ended early").into()))
}

/// One of the disk's ceilings; gives the file back.
fn disk(
    core: usize,
    scratch: Scratch,
    load: DiskLoad,
    write: bool,
) -> Result<(Scratch, Ceiling), CeilingError> {
    on_core(core, move || {
        let best = if write { disk_write(&scratch, &load) } else { disk_read(&scratch, &load) }?;
        Ok((scratch, best.expect("depths are given")))
    })
}

fn stream(time: Duration, cpus: (usize, usize)) -> Result<Ceiling, CeilingError> {
    let load = NetworkLoad { message_bytes: 256 << 10, depths: vec![1], time, cpus: Some(cpus) };
    tcp_stream(&load)
}

/// The lower one of disk and stream.
fn lower(disk: &Ceiling, stream: &Ceiling) -> Limit {
    let value = disk.bytes_per_second.min(stream.bytes_per_second);
    let text = format!(
        "min(disk {} at depth {}, TCP {})",
        text::rate(disk.bytes_per_second),
        disk.depth,
        text::rate(stream.bytes_per_second)
    );
    Limit { value, text, disk: Some(disk.bytes_per_second) }
}

/// Measures the row's ceiling with the given file; `None` for the creates', which is made of [`bare_cpu`].
pub(super) fn rate(
    row: Row,
    cores: Cores,
    scratch: Scratch,
    time: Duration,
) -> Result<(Scratch, Option<Limit>), CeilingError> {
    let each = time / 3;
    let large = || DiskLoad {
        operation_bytes: LARGE_BYTES,
        depths: LARGE_DEPTHS.to_vec(),
        order: LARGE_ORDER,
        flush: false,
        time: each,
    };
    Ok(match row {
        Row::PutLarge => {
            let (scratch, disk) = disk(cores.server, scratch, large(), true)?;
            let stream = stream(each, (cores.client, cores.server))?;
            (scratch, Some(lower(&disk, &stream)))
        }
        Row::GetLarge => {
            let (scratch, disk) = disk(cores.server, scratch, large(), false)?;
            let stream = stream(each, (cores.server, cores.client))?;
            (scratch, Some(lower(&disk, &stream)))
        }
        Row::GetSmall => {
            let load = DiskLoad {
                operation_bytes: SMALL_BYTES,
                depths: SMALL_DEPTHS.to_vec(),
                order: SMALL_ORDER,
                flush: false,
                time: each,
            };
            let (scratch, best) = disk(cores.server, scratch, load, false)?;
            let value = best.operations_per_second;
            let text = format!("disk {:.0} reads/s at depth {}", value, best.depth);
            (scratch, Some(Limit { value, text, disk: Some(best.bytes_per_second) }))
        }
        Row::Create => (scratch, None),
    })
}

/// CPU of a create's bytes with plain means, in nanoseconds: `disk_bytes` as writes of 4 KiB, 64 of them and then a flush, and an echo of the put's
/// and of the commit's frame, 64 in flight.
///
/// The disk's part is the whole process's CPU time, since the kernel flushes on a thread of its own; the echo's is the answering thread's.
pub(super) fn bare_cpu(
    cores: Cores,
    scratch: Scratch,
    disk_bytes: f64,
    time: Duration,
) -> Result<(Scratch, Limit), CeilingError> {
    let each = time / 3;
    let load = DiskLoad {
        operation_bytes: SMALL_BYTES,
        depths: vec![CREATES],
        order: Order::Sequential,
        flush: true,
        time: each,
    };
    let before = own_cpu_nanoseconds();
    let (scratch, writes) = disk(cores.server, scratch, load, true)?;
    let spent = own_cpu_nanoseconds().max(before) - before;
    let a_write = spent / (writes.operations_per_second * each.as_secs_f64()).max(1.0);
    let echo = |message_bytes| {
        let cpus = Some((cores.client, cores.server));
        let load = NetworkLoad { message_bytes, depths: vec![CREATES], time: each, cpus };
        tcp_echo(&load).map(|best| best.expect("a depth is given").cpu_nanoseconds)
    };
    let (put, commit) = (echo(PUT_FRAME_BYTES)?, echo(COMMIT_FRAME_BYTES)?);
    #[expect(clippy::cast_precision_loss, reason = "4,096")]
    let write = a_write * disk_bytes / SMALL_BYTES as f64;
    let text = format!(
        "{} = {disk_bytes:.0} B written and flushed {} + echoes {} and {}",
        text::nanoseconds(write + put + commit),
        text::nanoseconds(write),
        text::nanoseconds(put),
        text::nanoseconds(commit)
    );
    Ok((scratch, Limit { value: write + put + commit, text, disk: None }))
}

/// CPU time of all threads of this process, the kernel's workers included, in nanoseconds.
fn own_cpu_nanoseconds() -> f64 {
    const TICK_NANOSECONDS: f64 = 1e7;
    let text = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields = text.rsplit(')').next().unwrap_or_default();
    let ticks = fields.split_whitespace().skip(11).take(2).filter_map(|word| word.parse::<f64>().ok());
    ticks.sum::<f64>() * TICK_NANOSECONDS
}
