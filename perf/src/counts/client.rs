//! The client's memory: peak RSS of `catena put -` and `catena cat` over streams of different lengths.

use std::io::{Read, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use runtime::clock;
use wire::Nanos;

use super::{CountError, Figure, Programs, per};
use crate::server::{Setup, pause};

/// What a client may take, whatever the stream's length.
const LIMIT_BYTES: u64 = 256 << 20;
/// How far a window is filled depends on who is faster, so that peaks of one length differ by as much. Memory that grew with the stream would differ by
/// hundreds of MiB.
const WINDOW_BYTES: u64 = 32 << 20;
const PIECE_BYTES: usize = 1 << 20;

/// Peak memory of a put and a get of streams of these lengths. All are compared with the limit; of several, the last with the first too: it may
/// be higher by a tenth and a window.
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
    let mut figures = Vec::new();
    let mut first: Option<[u64; 2]> = None;
    for &length in lengths {
        let path = format!("/stream/{length}");
        let put = put_stream(catena(&["put", "-", &path]), length)?;
        let get = get_stream(catena(&["cat", &path]), length)?;
        let [put_first, get_first] = *first.get_or_insert([put, get]);
        for (what, peak, before) in [("put -", put, put_first), ("cat", get, get_first)] {
            let limit = before + before / 10 + WINDOW_BYTES;
            let name = format!("client memory, `{what}` of {} MiB", length >> 20);
            figures.push(Figure::new(
                name,
                per(peak, 1 << 20),
                per(limit.min(LIMIT_BYTES), 1 << 20),
                "MiB",
                "peak RSS",
            ));
        }
    }
    server.stop()?;
    Ok(figures)
}

fn expect(holds: bool, otherwise: &str) -> Result<(), CountError> {
    if holds { Ok(()) } else { Err(CountError::Unexpected(otherwise.into())) }
}

/// Feeds a command so many bytes; its peak memory when it had read them all.
fn put_stream(mut command: Command, length: u64) -> Result<u64, CountError> {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::null()).spawn()?;
    let mut stdin = child.stdin.take().expect("it was asked for");
    let mut piece = vec![0_u8; PIECE_BYTES];
    for number in 0..length / PIECE_BYTES as u64 {
        fill(&mut piece, number);
        stdin.write_all(&piece)?;
    }
    // All but a pipe's capacity is taken in; what is in flight still is.
    let peak = peak_bytes(&child)?;
    drop(stdin);
    expect(child.wait()?.success(), "catena put failed")?;
    Ok(peak)
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
