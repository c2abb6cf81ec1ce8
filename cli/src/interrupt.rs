//! Signals. SIGINT, SIGTERM and SIGHUP end a file command at once with code 130, and nothing half-made stays: what is on the server is
//! atomic by itself, and whatever is half-written here is registered as a [`Temporary`] and removed first.
//!
//! A node ends otherwise: [`wait_for_termination`].

#![expect(
    clippy::disallowed_types,
    reason = "the signal's thread and the workers share one short list, off every data path"
)]

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::failure::{Exit, Failure, Result};
use crate::output;

/// Everything half-made on this machine: files, and directories of an embedded node.
static TEMPORARIES: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());

/// Starts the thread that ends the process at a signal.
pub(crate) fn end_at_signal(json: bool) -> Result<()> {
    let mut signals = subscribe()?;
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

/// Blocks until the process is told to end.
pub(crate) struct Termination(Signals);

impl Termination {
    /// From here on the signals are kept for [`wait`](Self::wait).
    pub(crate) fn subscribe() -> Result<Self> {
        subscribe().map(Self)
    }

    /// Blocks until a signal has come.
    pub(crate) fn wait(&mut self) {
        self.0.forever().next();
    }

    /// Whether a signal has come since.
    pub(crate) fn is_requested(&mut self) -> bool {
        self.0.pending().next().is_some()
    }
}

fn subscribe() -> Result<Signals> {
    Signals::new([SIGINT, SIGTERM, SIGHUP]).map_err(|error| Failure::io("signals", &error))
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
