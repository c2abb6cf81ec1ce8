//! Between a test and the process `faulty-disk`: one line of command on its standard input, one line of answer on its output.
//!
//! ```text
//! fault KIND AFTER TIMES|always [PART]   set a fault              delay READ WRITE FLUSH   in milliseconds
//! heal                                   end all faults           rot OFFSET PATH          flip a bit at rest
//! cut SEED                               cut the power            restore                  give it back
//! count                                  reads writes flushes struck volatile-bytes volatile-names
//! ```
//! An answer is `ok`, with figures where there are some, or `error` with the reason. At the end of input the disk is unmounted.

use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use crate::disk::Disk;
use crate::faults::{Delays, Fault, Kind};

/// What a disk was asked for, and what it would lose now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Reads since the start.
    pub reads: u64,
    /// Writes since the start.
    pub writes: u64,
    /// Flushes since the start.
    pub flushes: u64,
    /// How often a fault struck.
    pub struck: u64,
    /// Bytes that a power cut could lose.
    pub volatile_bytes: u64,
    /// Changes of names that a power cut could lose.
    pub volatile_names: u64,
}

/// Executes one line; the answer's line.
pub fn execute(disk: &mut Disk, line: &str) -> String {
    match try_execute(disk, line) {
        Ok(figures) => format!("ok {figures}").trim_end().to_owned(),
        Err(reason) => format!("error {reason}"),
    }
}

fn try_execute(disk: &mut Disk, line: &str) -> Result<String, String> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let number = |word: &str| word.parse::<u64>().map_err(|_| format!("{word} is no number"));
    match words[..] {
        ["fault", kind, after, times, ref part @ ..] if part.len() <= 1 => {
            let times = if times == "always" { None } else { Some(number(times)?) };
            let part = part.first().map_or_else(String::new, |part| (*part).to_owned());
            disk.faults.set(Fault { kind: kind.parse()?, after: number(after)?, times, part });
        }
        ["delay", read, write, flush] => {
            let of = |word| number(word).map(Duration::from_millis);
            disk.faults.delays = Delays { read: of(read)?, write: of(write)?, flush: of(flush)? };
        }
        ["heal"] => disk.faults.heal(),
        ["rot", offset, path] => {
            disk.rot(path, number(offset)?).map_err(|error| format!("{path}: {error}"))?;
        }
        ["cut", seed] => {
            let loss = disk.cut(number(seed)?).map_err(|error| error.to_string())?;
            return Ok(format!("{} {}", loss.writes, loss.sectors));
        }
        ["restore"] => disk.restore(),
        ["count"] => {
            let (counts, (bytes, names)) = (disk.counts(), disk.volatile());
            let struck = disk.faults.struck();
            return Ok(format!(
                "{} {} {} {struck} {bytes} {names}",
                counts.reads, counts.writes, counts.flushes
            ));
        }
        _ => return Err(format!("no command: {line}")),
    }
    Ok(String::new())
}

/// A faulty disk that runs beside the test. Dropping it unmounts.
#[derive(Debug)]
pub struct FaultyDisk {
    child: Child,
    commands: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
    mounted: PathBuf,
    backing: PathBuf,
}

impl FaultyDisk {
    /// Starts `program` (the binary `faulty-disk`) with its files and its mount point in `directory`.
    ///
    /// # Errors
    /// What this machine lacks (`/dev/fuse`, the right to mount), in words for a skip.
    pub fn start(program: &Path, directory: &Path) -> Result<Self, String> {
        let (mounted, backing) = (directory.join("disk"), directory.join("backing"));
        let say = |error: io::Error| format!("{}: {error}", program.display());
        std::fs::create_dir_all(&mounted).map_err(say)?;
        let mut command = Command::new(program);
        command.arg(&backing).arg(&mounted).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().map_err(say)?;
        let commands = child.stdin.take();
        let answers = child.stdout.take().map(BufReader::new).ok_or("no output to read")?;
        let mut disk = Self { child, commands, answers, mounted, backing };
        disk.answer().map(|_| disk)
    }

    /// Where it is mounted.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.mounted
    }

    /// Where its files really lie.
    #[must_use]
    pub fn backing(&self) -> PathBuf {
        self.backing.join("served")
    }

    /// Sets a fault.
    pub fn set(&mut self, fault: &Fault) {
        let times = fault.times.map_or_else(|| "always".to_owned(), |times| times.to_string());
        self.command(&format!("fault {} {} {times} {}", fault.kind.name(), fault.after, fault.part));
    }

    /// Sets a fault that strikes every operation of its kind.
    pub fn always(&mut self, kind: Kind) {
        self.set(&Fault::always(kind));
    }

    /// Makes operations slow.
    pub fn delay(&mut self, delays: Delays) {
        let Delays { read, write, flush } = delays;
        self.command(&format!("delay {} {} {}", read.as_millis(), write.as_millis(), flush.as_millis()));
    }

    /// Ends all faults; what they did stays done.
    pub fn heal(&mut self) {
        self.command("heal");
    }

    /// Flips a bit at rest.
    pub fn rot(&mut self, path: &str, offset: u64) {
        self.command(&format!("rot {offset} {path}"));
    }

    /// Cuts the power; returns how many writes weren't flushed and how many sectors went back.
    pub fn cut(&mut self, seed: u64) -> (u64, u64) {
        let figures = self.command(&format!("cut {seed}"));
        (figures[0], figures[1])
    }

    /// Gives the power back.
    pub fn restore(&mut self) {
        self.command("restore");
    }

    /// What it was asked for, and what it would lose now.
    pub fn statistics(&mut self) -> Statistics {
        let figures = self.command("count");
        let [reads, writes, flushes, struck, volatile_bytes, volatile_names] = figures[..] else {
            panic!("six figures, not {figures:?}");
        };
        Statistics { reads, writes, flushes, struck, volatile_bytes, volatile_names }
    }

    fn command(&mut self, line: &str) -> Vec<u64> {
        let commands = self.commands.as_mut().expect("the disk takes commands until it is dropped");
        writeln!(commands, "{line}").expect("the disk runs");
        self.answer().unwrap_or_else(|reason| panic!("{line}: {reason}"))
    }

    fn answer(&mut self) -> Result<Vec<u64>, String> {
        let mut line = String::new();
        self.answers.read_line(&mut line).map_err(|error| error.to_string())?;
        match line.trim_end().split_once(' ').unwrap_or((line.trim_end(), "")) {
            ("ok", figures) => Ok(figures.split_whitespace().filter_map(|word| word.parse().ok()).collect()),
            ("error", reason) => Err(reason.to_owned()),
            _ => Err(format!("the disk ended; it said {line:?}")),
        }
    }
}

impl Drop for FaultyDisk {
    fn drop(&mut self) {
        // The end of its input is its command to unmount and end.
        drop(self.commands.take());
        let _ = self.child.wait();
    }
}
