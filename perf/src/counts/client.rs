//! The client's memory: peak RSS of `catena put -` and `catena cat` over streams of different lengths.
//!
//! How much of its window a client fills depends on who is faster. So that a peak doesn't, it is made certain that the window was full: the server is
//! stopped in the middle of a put until the client's memory no longer grows, and nobody reads what `cat` prints until then.

use std::io::{Read, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use runtime::clock;
use rustix::process::Signal;
use wire::Nanos;

use super::{CountError, Figure, Programs, per};
use crate::server::{Setup, pause, signal};

/// What a client may take, whatever the stream's length.
const LIMIT_BYTES: u64 = 256 << 20;
/// Peaks of two streams are called equal up to this difference: what the allocator keeps of freed chunks differs by 3 MiB from run to run. A client
/// that held a thirtieth of what it has passed on would differ by more.
const NOISE_BYTES: u64 = 8 << 20;
const PIECE_BYTES: usize = 1 << 20;

/// Peak memory of a put and a get of streams of these lengths, each compared with the limit; of several, also how much the last differs from the first.
pub fn memory(programs: &Programs, lengths: &[u64]) -> Result<Vec<Figure>, CountError> {
    let directory = tempfile::Builder::new().prefix("catena-perf-").tempdir_in(&programs.directory)?;
    let sum: u64 = lengths.iter().sum();
    let setup = Setup {
        directory: directory.path().to_owned(),
        // What is stored, a tenth of it and some segments for the reserve.
        capacity_bytes: (sum + sum / 10 + (1 << 30)).next_multiple_of(64 << 20),
        prezero_bytes: 128 << 20,
        core: None,
    };
    setup.format(&programs.server)?;
    let server = setup.start(&programs.server)?;
    let catena = |arguments: &[&str]| {
        let mut command = Command::new(&programs.catena);
        command.args(arguments).env("CATENA_ENDPOINT", server.endpoint.to_string());
        command
    };
    let status = catena(&["volume", "create", "stream"]).stdout(Stdio::null()).status()?;
    expect(status.success(), "catena volume create failed")?;
    let mut peaks = Vec::new();
    for &length in lengths {
        let path = format!("/stream/{length}");
        let put = put_stream(catena(&["put", "-", &path]), length, server.pid())?;
        peaks.push([put, get_stream(catena(&["cat", &path]), length)?]);
    }
    server.stop()?;
    Ok(figures(lengths, &peaks))
}

/// `peaks`: of a put and a get of each length.
fn figures(lengths: &[u64], peaks: &[[u64; 2]]) -> Vec<Figure> {
    const WHAT: [&str; 2] = ["put -", "cat"];
    let figure = |name, bytes, limit, note: &str| {
        Figure::new(name, per(bytes, 1 << 20), per(limit, 1 << 20), "MiB", note)
    };
    let mut figures = Vec::new();
    for (length, peaks) in lengths.iter().zip(peaks) {
        for (what, peak) in WHAT.iter().zip(peaks) {
            let name = format!("client memory, `{what}` of {} MiB", length >> 20);
            figures.push(figure(name, *peak, LIMIT_BYTES, "peak RSS"));
        }
    }
    if let ([first, .., last], [from, .., to]) = (peaks, lengths) {
        for (at, what) in WHAT.iter().enumerate() {
            let name =
                format!("client memory, `{what}`: difference between {} and {} MiB", from >> 20, to >> 20);
            figures.push(figure(name, first[at].abs_diff(last[at]), NOISE_BYTES, "of the peaks above"));
        }
    }
    figures
}

fn expect(holds: bool, otherwise: &str) -> Result<(), CountError> {
    if holds { Ok(()) } else { Err(CountError::Unexpected(otherwise.into())) }
}

/// Feeds a command so many bytes; its peak memory when it had read them all, its window once full because the server stood still.
fn put_stream(mut command: Command, length: u64, server: u32) -> Result<u64, CountError> {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::null()).spawn()?;
    let stdin = child.stdin.take().expect("it was asked for");
    let fed = AtomicU64::new(0);
    let (stopped, stdin) = std::thread::scope(|scope| {
        let feeder = scope.spawn(|| feed(stdin, length, &fed));
        while fed.load(Ordering::Relaxed) < length / 2 && !feeder.is_finished() {
            pause(Duration::from_millis(1));
        }
        signal(server, Signal::STOP);
        let stopped = full_window(&child);
        signal(server, Signal::CONT);
        (stopped, feeder.join().expect("it returns its errors"))
    });
    // All but a pipe's capacity is taken in; what is in flight still is.
    let (stdin, peak) = (stdin?, peak_bytes(&child)?);
    drop(stdin);
    expect(child.wait()?.success(), "catena put failed")?;
    Ok(peak.max(stopped?))
}

/// Writes a stream of so many bytes, and gives the pipe back; `fed` says how many are written.
fn feed(mut stdin: ChildStdin, length: u64, fed: &AtomicU64) -> std::io::Result<ChildStdin> {
    let mut piece = vec![0_u8; PIECE_BYTES];
    for number in 0..length / PIECE_BYTES as u64 {
        fill(&mut piece, number);
        stdin.write_all(&piece)?;
        fed.fetch_add(PIECE_BYTES as u64, Ordering::Relaxed);
    }
    Ok(stdin)
}

/// Reads a command's output of so many bytes and compares it; its peak memory just before the end.
fn get_stream(mut command: Command, length: u64) -> Result<u64, CountError> {
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
    let mut stdout = child.stdout.take().expect("it was asked for");
    let (mut piece, mut wanted) = (vec![0_u8; PIECE_BYTES], vec![0_u8; PIECE_BYTES]);
    let pieces = length / PIECE_BYTES as u64;
    // Nothing is read before the command's window is full: then its peak doesn't depend on who is faster.
    let mut peak = full_window(&child)?;
    for number in 0..pieces {
        fill(&mut wanted, number);
        if number + 1 == pieces {
            // The last piece is longer than a pipe: the command still runs.
            peak = peak.max(peak_bytes(&child)?);
        }
        stdout.read_exact(&mut piece)?;
        expect(piece == wanted, "catena cat gave other bytes than were put")?;
    }
    drop(stdout);
    expect(child.wait()?.success(), "catena cat failed")?;
    Ok(peak)
}

/// The peak once it no longer grows although nobody reads.
fn full_window(child: &Child) -> Result<u64, CountError> {
    const STILL_FOR: u64 = Nanos::SECOND;
    let mut last = (0, clock::now());
    loop {
        let (peak, now) = (peak_bytes(child)?, clock::now());
        if peak > last.0 {
            last = (peak, now);
        } else if now.since(last.1) >= STILL_FOR {
            return Ok(peak);
        }
        pause(Duration::from_millis(50));
    }
}

/// Bytes that are different in each piece.
fn fill(piece: &mut [u8], number: u64) {
    let mut state = (number + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    for word in piece.chunks_exact_mut(8) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        word.copy_from_slice(&state.to_le_bytes());
    }
}

/// `VmHWM`: the most that the process had in memory so far.
fn peak_bytes(child: &Child) -> Result<u64, CountError> {
    let path = format!("/proc/{}/status", child.id());
    let status = std::fs::read_to_string(Path::new(&path))?;
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kilobytes = peak.and_then(|rest| rest.trim().trim_end_matches(" kB").parse::<u64>().ok());
    kilobytes
        .map(|kilobytes| kilobytes << 10)
        .ok_or_else(|| CountError::Unexpected(format!("{path} has no VmHWM")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_that_grows_with_the_stream_is_missed() {
        let verdicts = |peaks: &[[u64; 2]]| -> Vec<bool> {
            figures(&[256 << 20, 512 << 20], peaks).iter().map(Figure::is_met).collect()
        };
        assert_eq!(verdicts(&[[100 << 20, 120 << 20], [106 << 20, 114 << 20]]), [true; 6]);
        assert_eq!(
            verdicts(&[[100 << 20, 120 << 20], [113 << 20, 120 << 20]])[4..],
            [false, true],
            "a put that keeps a twentieth of it"
        );
        assert_eq!(
            verdicts(&[[100 << 20, 257 << 20], [100 << 20, 257 << 20]])[..4],
            [true, false, true, false]
        );
        let alone = figures(&[20 << 30], &[[257 << 20, 256 << 20]]);
        assert_eq!(
            alone.iter().map(Figure::is_met).collect::<Vec<_>>(),
            [false, true],
            "256 MiB and no more, whatever else"
        );
    }
}
