//! A node is killed while files are being stored.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::clock::Stopwatch;
use crate::failure::Result;
use crate::local_cluster::LocalCluster;
use crate::text::{size, time};
use crate::transfer::progress::Progress;

/// How often the progress is looked at.
const LOOK: Duration = Duration::from_millis(2);

/// What the kill did.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Blow {
    /// Bytes that had been stored.
    pub(crate) after_bytes: u64,
    /// Whom it hit.
    victim: usize,
    /// It came before everything was stored.
    is_during: bool,
    /// The longest time afterwards in which nothing went on.
    pub(crate) pause_nanoseconds: u64,
}

/// Does `work` and kills a node when half of the bytes are done, at the latest when the work is.
pub(crate) fn during<T>(
    cluster: &mut LocalCluster,
    victim: usize,
    (progress, bytes): (&Progress, u64),
    work: impl FnOnce() -> T,
) -> (T, Result<Blow>) {
    let is_done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let killer = scope.spawn(|| {
            while progress.position() < bytes / 2 && !is_done.load(Ordering::Acquire) {
                std::thread::park_timeout(LOOK);
            }
            let (after_bytes, is_during) = (progress.position(), !is_done.load(Ordering::Acquire));
            cluster.kill(victim)?;
            let pause_nanoseconds = longest_pause(progress, &is_done);
            Ok(Blow { after_bytes, victim, is_during, pause_nanoseconds })
        });
        let result = work();
        is_done.store(true, Ordering::Release);
        let blow = killer.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        (result, blow)
    })
}

/// The longest time in which no byte was stored, until everything was.
fn longest_pause(progress: &Progress, is_done: &AtomicBool) -> u64 {
    let (mut longest, mut position, mut since) = (0, progress.position(), Stopwatch::start());
    while !is_done.load(Ordering::Acquire) {
        std::thread::park_timeout(LOOK);
        if progress.position() != position {
            longest = longest.max(since.nanoseconds());
            (position, since) = (progress.position(), Stopwatch::start());
        }
    }
    longest.max(since.nanoseconds())
}

impl Blow {
    /// What a person reads.
    pub(crate) fn line(&self, bytes: u64) -> String {
        let victim = self.victim + 1;
        if !self.is_during {
            return format!("killed     node-{victim} (SIGKILL), when everything was stored already");
        }
        format!(
            "killed     node-{victim} (SIGKILL) meanwhile, after {} of {}; the longest pause was {}",
            size::human(self.after_bytes.min(bytes)),
            size::human(bytes),
            time::duration(self.pause_nanoseconds)
        )
    }
}
