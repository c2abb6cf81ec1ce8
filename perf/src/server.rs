//! A real server as a child process: formatted, started, observed, stopped. None survives its owner.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use runtime::clock;
use rustix::process::{Pid, Signal, kill_process};
use thiserror::Error;
use wire::Nanos;

/// How a server is configured.
#[derive(Clone, Debug)]
pub struct Setup {
    /// Its directory, on a disk that takes direct I/O; it is made, and belongs to the server.
    pub directory: PathBuf,
    /// Bytes of the store.
    pub capacity_bytes: u64,
    /// Bytes kept zero-written ahead of use.
    pub prezero_bytes: u64,
    /// The core that all its threads are bound to; `None`: unbound.
    pub core: Option<usize>,
}

/// What can go wrong with a server.
#[derive(Debug, Error)]
pub enum ServerError {
    /// A file or process can't be had.
    #[error("{what}: {source}")]
    System {
        /// What was attempted.
        what: String,
        /// Why not.
        source: std::io::Error,
    },
    /// It ended, or didn't do something in time; its log says more.
    #[error("the server {what}; its log ends with\n{log}")]
    Server {
        /// What it did or failed to do.
        what: String,
        /// The end of its log.
        log: String,
    },
}

fn system(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> ServerError {
    let what = what.into();
    move |source| ServerError::System { what, source }
}

/// Name of the server that counts its allocations.
pub const COUNTING_SERVER: &str = "counting-server";

/// A running server.
#[derive(Debug)]
pub struct Server {
    child: Child,
    stdin: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
    log: PathBuf,
    /// A counting server ends with its standard input, `catena server` by a signal.
    counts: bool,
    /// Where clients find it.
    pub endpoint: SocketAddr,
    admin: SocketAddr,
}

impl Setup {
    /// Writes the configuration and formats with `binary`, which takes the command line of `catena`.
    pub fn format(&self, binary: &Path) -> Result<(), ServerError> {
        let data = self.directory.join("data");
        std::fs::create_dir_all(&data).map_err(system(data.display().to_string()))?;
        let cores = self.core.map_or(String::new(), |core| core.to_string());
        // A TOML basic string escapes as Rust's does, for every path that is text.
        let place = format!("{:?}", data.to_string_lossy());
        let config = format!(
            "directory = {place}\nbase_port = 0\nshards = 1\ndedicated_cores = {}\ncores = [{cores}]\n\
             [[disks]]\npath = {place}\ncapacity = \"{}B\"\n[store]\nprezero = \"{}B\"\n",
            self.core.is_some(),
            self.capacity_bytes,
            self.prezero_bytes,
        );
        std::fs::write(self.config(), config).map_err(system("writing the configuration"))?;
        let output = Command::new(binary).args(["server", "init", "--config"]).arg(self.config()).output();
        let output = output.map_err(system(format!("running {}", binary.display())))?;
        if output.status.success() {
            return Ok(());
        }
        let log = String::from_utf8_lossy(&output.stderr).into_owned();
        Err(ServerError::Server { what: "couldn't be formatted".into(), log })
    }

    fn config(&self) -> PathBuf {
        self.directory.join("catena.toml")
    }

    /// Starts what was formatted; returns when it serves.
    pub fn start(&self, binary: &Path) -> Result<Server, ServerError> {
        let log = self.directory.join("server.log");
        let errors = File::options().create(true).append(true).open(&log).map_err(system("the log"))?;
        let mut child = Command::new(binary)
            .args(["server", "--config"])
            .arg(self.config())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(errors)
            .spawn()
            .map_err(system(format!("running {}", binary.display())))?;
        let stdin = child.stdin.take();
        let mut output = BufReader::new(child.stdout.take().expect("it was asked for"));
        let mut line = String::new();
        let read = output.read_line(&mut line);
        let addresses = read.ok().and_then(|_| parse_ready(&line));
        let Some((endpoint, admin)) = addresses else {
            // It is ending, or will never say anything useful.
            let _ = child.kill();
            let _ = child.wait();
            return Err(ServerError::Server { what: "didn't become ready".into(), log: tail(&log) });
        };
        let counts = binary.file_stem().is_some_and(|name| name == COUNTING_SERVER);
        Ok(Server { child, stdin, output, log, counts, endpoint, admin })
    }
}

/// The addresses in `ready at HOST:PORT, admin at http://HOST:PORT`.
fn parse_ready(line: &str) -> Option<(SocketAddr, SocketAddr)> {
    let (endpoint, admin) = line.trim().strip_prefix("ready at ")?.split_once(", admin at http://")?;
    Some((endpoint.parse().ok()?, admin.parse().ok()?))
}

/// The samples in an HTTP answer with Prometheus text: name with labels, and value. `None` if it isn't such an answer.
fn parse_samples(answer: &str) -> Option<Vec<(String, String)>> {
    let (head, body) = answer.split_once("\r\n\r\n")?;
    if head.split(' ').nth(1) != Some("200") {
        return None;
    }
    let lines = body.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    let sample = |line: &str| line.rsplit_once(' ').map(|(name, value)| (name.to_owned(), value.to_owned()));
    lines.map(sample).collect()
}

/// The end of a log.
fn tail(log: &Path) -> String {
    const SHOWN_LINES: usize = 12;
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(SHOWN_LINES)..].join("\n")
}

impl Server {
    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Everything it has logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    fn error(&self, what: impl Into<String>) -> ServerError {
        ServerError::Server { what: what.into(), log: tail(&self.log) }
    }

    /// One line of its standard input, one line of its answer: how a counting server is asked.
    pub fn ask(&mut self, question: &str) -> Result<String, ServerError> {
        let mut line = String::new();
        let asked = match &mut self.stdin {
            Some(stdin) => writeln!(stdin, "{question}").and_then(|()| stdin.flush()),
            None => Ok(()),
        };
        match asked.and_then(|()| self.output.read_line(&mut line)) {
            Ok(count) if count > 0 => Ok(line.trim().to_owned()),
            _ => Err(self.error("doesn't answer on its standard output")),
        }
    }

    /// The sum over all labels of a metric; an error if it isn't there.
    pub fn metric(&self, name: &str) -> Result<u64, ServerError> {
        let samples = self.samples()?;
        let values = samples.iter().filter(|(labelled, _)| labelled.split('{').next() == Some(name));
        let values: Option<Vec<u64>> = values.map(|(_, value)| value.parse().ok()).collect();
        match values {
            Some(values) if !values.is_empty() => Ok(values.iter().sum()),
            Some(_) => Err(self.error(format!("has no metric {name}"))),
            None => Err(self.error(format!("has a metric {name} that counts nothing whole"))),
        }
    }

    /// Every sample, by its name and labels.
    pub fn metrics(&self) -> Result<BTreeMap<String, f64>, ServerError> {
        let parsed = |(name, value): (String, String)| match value.parse() {
            Ok(number) => Ok((name, number)),
            Err(_) => Err(self.error(format!("gave {value} as {name}"))),
        };
        self.samples()?.into_iter().map(parsed).collect()
    }

    fn samples(&self) -> Result<Vec<(String, String)>, ServerError> {
        let answer = self.scrape().map_err(|error| self.error(format!("gave no metrics ({error})")))?;
        parse_samples(&answer).ok_or_else(|| self.error("gave no metrics, but something else"))
    }

    fn scrape(&self) -> std::io::Result<String> {
        let mut stream = TcpStream::connect(self.admin)?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: perf\r\nConnection: close\r\n\r\n")?;
        std::io::read_to_string(stream)
    }

    /// User and system time of all its threads, ended ones included, in nanoseconds. Resolution: 10 ms.
    pub fn cpu_nanoseconds(&self) -> Result<u64, ServerError> {
        // The kernel shows programs 100 ticks a second, whatever its own clock is (USER_HZ).
        const TICK_NANOSECONDS: u64 = 10_000_000;
        let path = format!("/proc/{}/stat", self.pid());
        let text = std::fs::read_to_string(&path).map_err(system(path))?;
        let fields = text.rsplit(')').next().unwrap_or_default();
        let times: Vec<u64> =
            fields.split_whitespace().skip(11).take(2).filter_map(|word| word.parse().ok()).collect();
        match times[..] {
            [user, kernel] => Ok((user + kernel) * TICK_NANOSECONDS),
            _ => Err(self.error("has no times in /proc")),
        }
    }

    /// Waits until no more segments are being zeroed; returns how many are ready.
    pub fn wait_zeroed(&self) -> Result<u64, ServerError> {
        const STILL_FOR: u64 = 2 * Nanos::SECOND;
        let mut last = (self.metric("catena_shard_segment_zeroed_count")?, clock::now());
        loop {
            pause(Duration::from_millis(100));
            let zeroed = self.metric("catena_shard_segment_zeroed_count")?;
            let now = clock::now();
            if zeroed != last.0 {
                last = (zeroed, now);
            } else if now.since(last.1) >= STILL_FOR {
                return Ok(zeroed);
            }
        }
    }

    /// Ends it in good order, and waits.
    pub fn stop(mut self) -> Result<(), ServerError> {
        drop(self.stdin.take());
        if !self.counts {
            signal(self.pid(), Signal::TERM);
        }
        let status = self.child.wait().map_err(system("waiting for the server"))?;
        if status.success() { Ok(()) } else { Err(self.error(format!("ended with {status}"))) }
    }

    /// Ends it at once, as a crash does.
    pub fn kill(mut self) {
        // Both fail only if it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Sends a signal to a child; one that comes too late is no error.
pub(crate) fn signal(pid: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        let _ = kill_process(pid, signal);
    }
}

/// Waits a moment between two looks at another process.
#[expect(clippy::disallowed_methods, reason = "another process is watched from outside: nothing wakes us")]
pub(crate) fn pause(time: Duration) {
    std::thread::sleep(time);
}

/// A program beside this one, as cargo puts those of one build.
pub fn beside(name: &str) -> Option<PathBuf> {
    let own = std::env::current_exe().ok()?;
    let folder = own.parent()?;
    [folder.join(name), folder.parent()?.join(name)].into_iter().find(|path| path.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_of_a_ready_server_is_understood() {
        let line = "ready at 127.0.0.1:7421, admin at http://127.0.0.1:7420\n";
        let expected = ("127.0.0.1:7421".parse().unwrap(), "127.0.0.1:7420".parse().unwrap());
        assert_eq!(parse_ready(line), Some(expected));
        assert_eq!(parse_ready(""), None);
        assert_eq!(parse_ready("ready at nowhere"), None);
    }

    /// The lengths in an answer's head once counted as samples.
    #[test]
    fn samples_are_those_of_the_body() {
        let head = "HTTP/1.1 200 OK\r\nContent-Length: 77\r\nConnection: close\r\n\r\n";
        let body =
            "# HELP flushes How many of 4\n# TYPE flushes counter\nflushes{shard=\"0\"} 5\n\nload 0.5\n";
        let sample = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let expected = vec![sample("flushes{shard=\"0\"}", "5"), sample("load", "0.5")];
        assert_eq!(parse_samples(&format!("{head}{body}")), Some(expected));
        assert_eq!(parse_samples(&format!("{head}flushes")), None);
        assert_eq!(parse_samples(&body.replace('#', "")), None);
        assert_eq!(parse_samples("HTTP/1.1 503 Service Unavailable\r\n\r\nload 1\n"), None);
    }
}
