//! How far a thread is, for whoever waits for it.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crossbeam::channel::{Receiver, Sender, bounded};

use crate::error::Error;

/// What a starting thread reports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// It listens here.
    Listening(std::net::SocketAddr),
    /// Recovery is done.
    Ready,
    /// It can't go on, and why.
    Failed(Refusal),
}

/// Why a thread can't go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    /// The file that it is about, if it is about one.
    pub(crate) path: Option<PathBuf>,
    /// Whether bytes of that file are damaged, missing or unreadable.
    pub(crate) is_damage: bool,
    /// Why, and what to do.
    pub(crate) reason: String,
}

impl Refusal {
    /// The same of a start, by a thread.
    pub(crate) fn into_error(self, what: &str) -> Error {
        let Self { path, is_damage, reason } = self;
        match path {
            Some(path) => Error::Refused { path, is_damage, reason },
            None => Error::Failed { what: what.to_owned(), reason },
        }
    }
}

/// A thread's end: says how far it is.
#[derive(Clone, Debug)]
pub(crate) struct Progress {
    sender: Arc<Sender<Stage>>,
}

/// The other end.
#[derive(Debug)]
pub(crate) struct Watch {
    receiver: Receiver<Stage>,
}

/// A thread reports at most this often: listening, ready, failed.
const STAGES_MAX: usize = 8;

/// The two ends.
pub(crate) fn progress() -> (Progress, Watch) {
    let (sender, receiver) = bounded(STAGES_MAX);
    (Progress { sender: Arc::new(sender) }, Watch { receiver })
}

impl Progress {
    /// Reports.
    pub(crate) fn set(&self, stage: Stage) {
        if let Err(error) = self.sender.try_send(stage) {
            tracing::debug!(%error, "nobody waits for this thread any more");
        }
    }

    /// Reports a failure.
    pub(crate) fn fail(&self, reason: String) {
        self.set(Stage::Failed(Refusal { path: None, is_damage: false, reason }));
    }
}

impl Watch {
    /// The next report; `None`: the thread is gone, or says nothing in that time.
    pub(crate) fn next(&self, timeout: Duration) -> Option<Stage> {
        self.receiver.recv_timeout(timeout).ok()
    }

    /// Whether a failure was reported.
    pub(crate) fn failure(&self) -> Option<String> {
        self.receiver.try_iter().find_map(|stage| match stage {
            Stage::Failed(refusal) => Some(refusal.reason),
            Stage::Listening(_) | Stage::Ready => None,
        })
    }
}
