//! A process that runs beside the test. None survives its test: dropping one kills it.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::command;

/// Log shown when a test fails.
const SHOWN_BYTES_MAX: u64 = 16 << 10;

/// A running process whose output goes to a file.
#[derive(Debug)]
pub struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `command`; both outputs are appended to `log`.
    ///
    /// # Panics
    /// If it can't be started.
    #[must_use]
    pub fn start(command: &mut Command, log: &Path) -> Self {
        let out = OpenOptions::new().create(true).append(true).open(log).expect("the log is writable");
        let err = out.try_clone().expect("a descriptor more");
        let child = command.stdin(Stdio::null()).stdout(out).stderr(err).spawn();
        let child = child.unwrap_or_else(|error| panic!("{}: {error}", command.get_program().display()));
        Self { child, log: log.to_owned() }
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its status if it has ended.
    ///
    /// # Panics
    /// If the kernel doesn't know the child.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("a child can be waited for")
    }

    /// Sends a signal; one that comes too late is no error.
    ///
    /// # Panics
    /// If the signal may not be sent.
    pub fn signal(&mut self, signal: Signal) {
        // Only a child that wasn't waited for yet still owns its number.
        if self.ended().is_none() {
            let pid = i32::try_from(self.child.id())
                .ok()
                .and_then(Pid::from_raw)
                .expect("a child has a process id");
            kill_process(pid, signal).expect("our own child takes our signals");
        }
    }

    /// SIGKILL, and waits until it is gone.
    pub fn kill(&mut self) {
        // Both fail only if it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// SIGTERM, and waits for the end.
    ///
    /// # Panics
    /// If it doesn't end in time; then it was killed.
    #[must_use]
    pub fn terminate(&mut self, within: Duration) -> ExitStatus {
        self.signal(Signal::TERM);
        match command::wait(&mut self.child, within, |_| {}) {
            Some(status) => status,
            None => panic!("no end within {within:?} of SIGTERM; its log ends with\n{}", self.log_tail()),
        }
    }

    /// Everything it has said, over all its starts.
    #[must_use]
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// The end of what it has said.
    #[must_use]
    pub fn log_tail(&self) -> String {
        let read = || {
            let mut file = File::open(&self.log)?;
            let length = file.metadata()?.len();
            file.seek(SeekFrom::Start(length.saturating_sub(SHOWN_BYTES_MAX)))?;
            let mut tail = Vec::new();
            file.read_to_end(&mut tail)?;
            Ok::<_, std::io::Error>(tail)
        };
        String::from_utf8_lossy(&read().unwrap_or_default()).into_owned()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Whether a status is an end by SIGKILL, as a test's own kill leaves it.
#[must_use]
pub fn was_killed(status: ExitStatus) -> bool {
    status.signal() == Some(Signal::KILL.as_raw())
}
