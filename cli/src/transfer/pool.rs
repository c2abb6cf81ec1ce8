//! A pool of workers for jobs on many files, with order where order matters.
//!
//! ```text
//! main thread ── push ──▶ workers ── results ──▶ main thread, which prints them
//!        └── push_after(mark): held back until every job since the mark is done (a directory after what is in it)
//! ```
//!
//! Everything is bounded: jobs sent but not done by [`QUEUED_PER_WORKER`], jobs held back by [`OPEN_MAX`]. When a bound is reached, a push waits
//! for results first.

use std::collections::{BTreeSet, VecDeque};

use crossbeam::channel::{Receiver, Sender, unbounded};

use crate::failure::{Failure, Result};

/// Files worked on at once unless told otherwise: small files wait for flushes, which many of them share.
pub(crate) const JOBS: u16 = 16;
/// Jobs sent ahead for each worker: one in work, one waiting, so that no worker idles while the main thread prints.
const QUEUED_PER_WORKER: usize = 2;
/// Jobs not done yet, those held back included.
const OPEN_MAX: usize = 1024;

/// A point in the sequence of jobs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mark(u64);

/// Where the main thread puts jobs.
pub(crate) struct Feed<'a, J, R> {
    jobs: Sender<(u64, J)>,
    results: Receiver<(u64, R)>,
    on_result: &'a mut dyn FnMut(R) -> Result<()>,
    next: u64,
    /// Numbers of jobs that aren't done.
    open: BTreeSet<u64>,
    /// Held back: the job's number, the mark that it waits for, the job.
    held: VecDeque<(u64, Mark, J)>,
    sent: usize,
    sent_max: usize,
}

/// Runs `feed` on this thread and `work` on `workers` others. Results come to `on_result` on this thread, in the order in which they are
/// ready. The first failure of `feed` or `on_result` ends the run once the jobs in work are done.
pub(crate) fn run<J: Send, R: Send, T>(
    workers: usize,
    work: impl Fn(J) -> R + Sync,
    on_result: &mut dyn FnMut(R) -> Result<()>,
    feed: impl FnOnce(&mut Feed<'_, J, R>) -> Result<T>,
) -> Result<T> {
    let (job_sender, job_receiver) = unbounded::<(u64, J)>();
    let (result_sender, result_receiver) = unbounded::<(u64, R)>();
    std::thread::scope(|scope| {
        for index in 0..workers.max(1) {
            let (jobs, results, work) = (job_receiver.clone(), result_sender.clone(), &work);
            let thread = move || {
                for (number, job) in jobs {
                    if results.send((number, work(job))).is_err() {
                        return;
                    }
                }
            };
            std::thread::Builder::new()
                .name(format!("transfer-{index}"))
                .spawn_scoped(scope, thread)
                .map_err(|error| Failure::io("a worker thread", &error))?;
        }
        let waiting = job_receiver;
        drop(result_sender);
        let mut state = Feed {
            jobs: job_sender,
            results: result_receiver,
            on_result,
            next: 0,
            open: BTreeSet::new(),
            held: VecDeque::new(),
            sent: 0,
            sent_max: workers.max(1) * QUEUED_PER_WORKER,
        };
        let outcome = feed(&mut state).and_then(|outcome| state.drain().map(|()| outcome));
        if outcome.is_err() {
            // What no worker has begun stays undone: against a server that doesn't answer each would wait for its own deadline.
            waiting.try_iter().for_each(drop);
        }
        outcome
    })
}

impl<J, R> Feed<'_, J, R> {
    /// The present point in the sequence of jobs.
    pub(crate) fn mark(&self) -> Mark {
        Mark(self.next)
    }

    /// Puts a job in the queue.
    pub(crate) fn push(&mut self, job: J) -> Result<()> {
        while self.sent >= self.sent_max || self.open.len() >= OPEN_MAX {
            self.take_one()?;
        }
        let number = self.number();
        self.send(number, job);
        Ok(())
    }

    /// Puts a job in the queue that begins only when every job since `mark` is done.
    pub(crate) fn push_after(&mut self, mark: Mark, job: J) -> Result<()> {
        while self.open.len() >= OPEN_MAX {
            self.take_one()?;
        }
        let number = self.number();
        self.held.push_back((number, mark, job));
        self.release();
        Ok(())
    }

    /// Hands a result over that needs no worker.
    pub(crate) fn report(&mut self, result: R) -> Result<()> {
        (self.on_result)(result)
    }

    /// Waits until everything is done.
    fn drain(&mut self) -> Result<()> {
        while !self.open.is_empty() {
            self.take_one()?;
        }
        assert!(self.held.is_empty(), "a job that is held back is open");
        Ok(())
    }

    fn number(&mut self) -> u64 {
        let number = self.next;
        self.next += 1;
        self.open.insert(number);
        number
    }

    fn send(&mut self, number: u64, job: J) {
        self.sent += 1;
        self.jobs.send((number, job)).expect("workers live as long as the feed");
    }

    /// Takes one result. There is one to come: the earliest open job is never held back, since nothing before it is open.
    fn take_one(&mut self) -> Result<()> {
        assert!(self.sent > 0, "the earliest open job is in work");
        let (number, result) = self.results.recv().expect("workers live as long as the feed");
        self.sent -= 1;
        self.open.remove(&number);
        self.release();
        (self.on_result)(result)
    }

    /// Sends what is held back no longer.
    fn release(&mut self) {
        let mut index = 0;
        while index < self.held.len() {
            let (number, mark, _) = self.held[index];
            if self.open.range(mark.0..number).next().is_none() {
                let (number, _, job) = self.held.remove(index).expect("the index is in range");
                self.send(number, job);
            } else {
                index += 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::Exit;

    /// A tree as a sequence: `None` enters a directory, `Some(n)` is a file; leaving is a job after everything since entering.
    #[test]
    fn a_directory_comes_after_what_is_in_it() {
        let mut order: Vec<(usize, bool)> = Vec::new();
        let mut on_result = |result: (usize, bool)| {
            order.push(result);
            Ok(())
        };
        run(
            4,
            |job| job,
            &mut on_result,
            |feed| {
                for directory in 0..200 {
                    let mark = feed.mark();
                    for _ in 0..directory % 7 {
                        feed.push((directory, false))?;
                    }
                    feed.push_after(mark, (directory, true))?;
                }
                Ok(())
            },
        )
        .expect("all is done");
        for directory in 0..200 {
            let leave = order.iter().position(|item| *item == (directory, true)).expect("left");
            let files = order.iter().enumerate().filter(|(_, item)| **item == (directory, false));
            let positions: Vec<usize> = files.map(|(at, _)| at).collect();
            assert_eq!(positions.len(), directory % 7);
            assert!(positions.iter().all(|at| *at < leave), "directory {directory}");
        }
    }

    #[test]
    fn nested_directories_are_left_inside_out() {
        let mut order = Vec::new();
        let mut on_result = |depth: usize| {
            order.push(depth);
            Ok(())
        };
        run(
            3,
            |job| job,
            &mut on_result,
            |feed| {
                let marks: Vec<Mark> = (0..3000).map(|_| feed.mark()).collect();
                for (depth, mark) in marks.into_iter().enumerate().rev() {
                    feed.push_after(mark, depth)?;
                }
                Ok(())
            },
        )
        .expect("all is done");
        assert!(order.is_sorted_by(|a, b| a > b));
        assert_eq!(order.len(), 3000);
    }

    #[test]
    fn a_failure_ends_the_run() {
        let mut count = 0;
        let mut on_result = |job: u64| {
            count += 1;
            if job == 10 { Err(Failure::new(Exit::Unavailable, "x", "y")) } else { Ok(()) }
        };
        let ended = run(2, |job| job, &mut on_result, |feed| (0..100_000).try_for_each(|job| feed.push(job)));
        assert_eq!(ended.map_err(|failure| failure.exit), Err(Exit::Unavailable));
        assert!(count < 100);
    }

    /// Against a frozen server every job that waited in the queue took its own deadline before the command ended.
    #[test]
    fn after_a_failure_no_waiting_job_is_begun() {
        let (begun_sender, begun) = unbounded::<u64>();
        let (_gate_sender, gate) = unbounded::<()>();
        let work = |job: u64| {
            begun_sender.send(job).expect("the receiver lives");
            // A server that doesn't answer, for longer than it takes to empty the queue.
            gate.recv_timeout(std::time::Duration::from_secs(1)).expect_err("never answered");
            job
        };
        let ended = run(1, work, &mut |_| Ok(()), |feed| {
            feed.push(0)?;
            feed.push(1)?;
            assert_eq!(begun.recv(), Ok(0));
            Err::<(), _>(Failure::new(Exit::Unavailable, "x", "y"))
        });
        assert_eq!(ended.map_err(|failure| failure.exit), Err(Exit::Unavailable));
        assert_eq!(begun.try_iter().count(), 0);
    }
}
