//! Mailboxes into runtime threads, and time.

use std::sync::mpsc;
use std::time::Duration;

use runtime::{
    Io, LinkId, Payload, Receiver, Replier, Sender, Service, ThreadConfig, clock, mailbox, reply, serve,
    spawn_thread,
};
use wire::{Nanos, Prefix};

struct Counter {
    requests: Receiver<(u64, Replier<u64>)>,
    sum: u64,
}

impl Service for Counter {
    fn on_head(&mut self, _: &mut Io, _: LinkId, _: &Prefix, _: &[u8]) -> Payload {
        Payload::None
    }

    fn on_mail(&mut self, _: &mut Io) {
        while let Some((number, replier)) = self.requests.pop() {
            self.sum += number;
            replier.send(self.sum);
        }
    }
}

fn counter(spin: bool) -> (Sender<(u64, Replier<u64>)>, runtime::ThreadHandle) {
    let (sender, requests) = mailbox(64);
    let config = ThreadConfig { spin, arena_bytes: 1, ..ThreadConfig::new("counter") };
    let handle = serve(config, move |io| {
        io.attach(&requests);
        Counter { requests, sum: 0 }
    })
    .expect("started");
    (sender, handle)
}

/// One item at a time, each waited for: whoever loses a wake-up hangs here.
#[test]
fn no_wake_up_is_lost() {
    for spin in [false, true] {
        let (sender, handle) = counter(spin);
        let threads: Vec<_> = (0..3)
            .map(|_| {
                let sender = sender.clone();
                spawn_thread("asker", None, move || {
                    for _ in 0..2_000 {
                        let (replier, mut answer) = reply();
                        let mut item = (1, replier);
                        while let Err(back) = sender.send(item) {
                            item = back;
                            std::thread::yield_now();
                        }
                        answer.wait_timeout(Duration::from_secs(20)).expect("no hang").expect("answered");
                    }
                })
                .expect("a thread")
            })
            .collect();
        for thread in threads {
            thread.join().expect("ended well");
        }
        let (replier, mut answer) = reply();
        sender.send((0, replier)).expect("room");
        assert_eq!(answer.wait_timeout(Duration::from_secs(20)), Some(Ok(6_000)));
        handle.stop();
        handle.join().expect("ended well");
    }
}

#[test]
fn mail_sent_before_the_thread_runs_arrives() {
    let (sender, requests) = mailbox(4);
    let (replier, mut answer) = reply();
    sender.send((5, replier)).expect("room");
    let handle = serve(ThreadConfig::new("late"), move |io| {
        io.attach(&requests);
        Counter { requests, sum: 0 }
    })
    .expect("started");
    assert_eq!(answer.wait_timeout(Duration::from_secs(20)), Some(Ok(5)));
    handle.stop();
    handle.join().expect("ended well");
}

struct Ticker {
    told: mpsc::Sender<u64>,
    began: Nanos,
    ticks: u64,
}

impl Service for Ticker {
    fn on_head(&mut self, _: &mut Io, _: LinkId, _: &Prefix, _: &[u8]) -> Payload {
        Payload::None
    }

    fn on_timer(&mut self, io: &mut Io, now: Nanos) {
        let late = now.since(self.began.after(self.ticks * 5 * Nanos::MILLISECOND));
        self.told.send(late).expect("the test waits");
        self.ticks += 1;
        if self.ticks > 10 {
            io.stop();
        } else {
            io.arm(self.began.after(self.ticks * 5 * Nanos::MILLISECOND));
        }
    }
}

#[test]
fn deadlines_are_kept() {
    let (told, late) = mpsc::channel();
    let handle = serve(ThreadConfig::new("ticker"), move |io| {
        let began = clock::now();
        io.arm(began.after(5 * Nanos::MILLISECOND));
        Ticker { told, began, ticks: 1 }
    })
    .expect("started");
    handle.join().expect("ended well");
    let late: Vec<_> = late.iter().collect();
    assert_eq!(late.len(), 10);
    // One that is forgotten waits for something else to wake the thread, and here nothing else does. How late the others may be is the machine's affair.
    assert!(late.iter().all(|&late| late < 20 * Nanos::SECOND), "{late:?}");
}
