//! Signals. SIGINT, SIGTERM and SIGHUP end a file command at once with code 130, and nothing half-made stays: what is on the server is
//! atomic by itself, and whatever is half-written here is registered as a [`Temporary`] and removed first.
//!
//! A node ends otherwise: it is told by [`Termination`], and drains.

#![expect(
    clippy::disallowed_types,
    reason = "the signal's thread and the workers share one short list, off every data path"
)]

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crossbeam::channel::{Receiver, RecvTimeoutError, bounded};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGXFSZ};
use signal_hook::iterator::Signals;

use crate::failure::{Exit, Failure, Result};
use crate::output;

/// Everything half-made on this machine: files, and directories of an embedded node.
static TEMPORARIES: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());

/// Starts the thread that ends the process at a signal.
pub(crate) fn end_at_signal(json: bool) -> Result<()> {
    let mut signals = subscribe()?;
    // Heard and passed over: then a write beyond `ulimit -f` fails by name, instead of ending the process with its drafts left behind.
    signal_hook::flag::register(SIGXFSZ, Arc::default()).map_err(|error| Failure::io("signals", &error))?;
    let thread = move || {
        if signals.forever().next().is_some() {
            // Held until the process ends, so that no worker begins another file.
            let temporaries = TEMPORARIES.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            temporaries.iter().for_each(|path| remove(path));
            output::report(&Failure::interrupted(), json);
            std::process::exit(i32::from(Exit::Interrupted.code()));
        }
    };
    let started = std::thread::Builder::new().name("signals".into()).spawn(thread);
    started.map(drop).map_err(|error| Failure::io("the signal thread", &error))
}

/// The wish of SIGINT, SIGTERM or SIGHUP that a node ends in good order; a second signal ends the process at once.
#[derive(Debug)]
pub(crate) struct Termination(Receiver<&'static str>);

impl Termination {
    /// From here on the first signal is a wish.
    pub(crate) fn subscribe() -> Result<Self> {
        let mut signals = subscribe()?;
        let (sender, receiver) = bounded(1);
        let thread = move || {
            for (index, signal) in signals.forever().enumerate() {
                if index > 0 || sender.send(name(signal)).is_err() {
                    std::process::exit(i32::from(Exit::Interrupted.code()));
                }
            }
        };
        let started = std::thread::Builder::new().name("signals".into()).spawn(thread);
        started.map(|_| Self(receiver)).map_err(|error| Failure::io("the signal thread", &error))
    }

    /// Waits for the wish, at most so long; if it has come, which signal it was.
    pub(crate) fn wait(&self, at_most: Duration) -> Option<&'static str> {
        match self.0.recv_timeout(at_most) {
            Ok(signal) => Some(signal),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => Some("signals can't be heard any more"),
        }
    }
}

fn name(signal: i32) -> &'static str {
    match signal {
        SIGTERM => "SIGTERM",
        SIGHUP => "SIGHUP",
        _ => "SIGINT",
    }
}

fn subscribe() -> Result<Signals> {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let signals = [SIGINT, SIGTERM, SIGHUP];
    // `nohup` says that the terminal's end is no reason to end.
    let heard = signals.into_iter().filter(|signal| *signal != SIGHUP || !is_ignored(&status, SIGHUP));
    Signals::new(heard).map_err(|error| Failure::io("signals", &error))
}

/// Whether `/proc/self/status` shows that a signal is ignored: bit n - 1 of a mask in hexadecimal.
fn is_ignored(status: &str, signal: i32) -> bool {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .is_some_and(|mask| mask >> (signal - 1) & 1 == 1)
}

/// A file or directory that is removed, with everything in it, if the process is interrupted or this value is dropped.
#[derive(Debug)]
pub(crate) struct Temporary {
    path: PathBuf,
}

impl Temporary {
    /// Registers `path`, then makes it by `make`; whatever comes between the two can't leave it behind.
    pub(crate) fn make<T>(path: PathBuf, make: impl FnOnce(&Path) -> io::Result<T>) -> io::Result<(Self, T)> {
        let mut temporaries = TEMPORARIES.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        // Made under the lock: at a signal, the thread above finds either nothing or a registered path.
        let made = make(&path)?;
        temporaries.insert(path.clone());
        Ok((Self { path }, made))
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Finishes it by `finish` (a rename to its real name, say), after which it stays.
    pub(crate) fn keep(self, finish: impl FnOnce(&Path) -> io::Result<()>) -> io::Result<()> {
        let mut temporaries = TEMPORARIES.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        finish(&self.path)?;
        temporaries.remove(&self.path);
        Ok(())
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        let mut temporaries = TEMPORARIES.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if temporaries.remove(&self.path) {
            remove(&self.path);
        }
    }
}

/// Removes a file, or a directory with everything in it; what is gone already is fine, and what can't be removed is left.
fn remove(path: &Path) {
    let is_directory = std::fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_dir());
    drop(if is_directory { std::fs::remove_dir_all(path) } else { std::fs::remove_file(path) });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ignored_signals_are_seen() {
        assert!(is_ignored("Name:\tx\nSigIgn:\t0000000000000001\n", SIGHUP));
        assert!(!is_ignored("SigIgn:\t0000000000001000\n", SIGHUP));
        assert!(!is_ignored("", SIGHUP));
    }

    #[test]
    fn what_is_not_kept_goes() {
        let directory = tempfile::tempdir().expect("a directory");
        let (kept, gone) = (directory.path().join("kept"), directory.path().join("gone"));
        let make = |path: &Path| std::fs::write(path, b"x");
        let (temporary, ()) = Temporary::make(gone.clone(), make).expect("made");
        assert!(gone.exists());
        drop(temporary);
        assert!(!gone.exists());
        let (temporary, ()) = Temporary::make(directory.path().join("temporary"), make).expect("made");
        temporary.keep(|path| std::fs::rename(path, &kept)).expect("kept");
        assert!(kept.exists());
    }
}
