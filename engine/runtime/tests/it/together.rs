//! Small payloads that arrive together are received together.

use std::io::Write;
use std::net::TcpStream;
use std::sync::mpsc;
use std::time::Duration;

use runtime::{Io, LinkId, Payload, Service, ThreadConfig, serve};
use wire::{FrameKind, Memory, Prefix, Slot};

use crate::support::{frame, pattern};

/// Frames of a burst, with 4 KiB each: as many as a receive buffer holds.
const BURST: u64 = 7;
/// The scheduler may cut a burst, but not each of so many.
const BURSTS: u64 = 200;

/// Takes payloads in, and tells of each the turn in which it was whole.
struct Taker {
    into: Option<Slot>,
    number: u64,
    told: mpsc::Sender<u64>,
}

impl Service for Taker {
    fn on_head(&mut self, io: &mut Io, _: LinkId, prefix: &Prefix, _: &[u8]) -> Payload {
        self.number = prefix.correlation;
        let slot = io.memory().allocate(4096).expect("room");
        self.into = Some(slot);
        Payload::Into { slot, offset: 0 }
    }

    fn on_payload(&mut self, io: &mut Io, _: LinkId) {
        let slot = self.into.take().expect("announced");
        assert!(io.memory().bytes(slot)[..4096] == pattern(self.number, 4096));
        io.memory().release(slot);
        let _ = self.told.send(io.counters().turns);
    }
}

#[test]
fn a_burst_of_small_payloads_is_taken_in_one_turn() {
    let (told, turns) = mpsc::channel();
    let (tell_address, address) = mpsc::channel();
    let handle = serve(ThreadConfig::new("taker"), move |io| {
        let listening = io.listen("127.0.0.1:0".parse().expect("an address")).expect("a port");
        let _ = tell_address.send(listening);
        Taker { into: None, number: 0, told }
    })
    .expect("started");
    let mut stream = TcpStream::connect(address.recv().expect("it listens")).expect("connected");
    stream.set_nodelay(true).expect("set");
    let most = (0..BURSTS)
        .map(|burst| {
            let frames: Vec<u8> = (burst * BURST..(burst + 1) * BURST)
                .flat_map(|number| frame(FrameKind::PutChunk, number, &[], &pattern(number, 4096)))
                .collect();
            stream.write_all(&frames).expect("sent");
            let turns: Vec<u64> =
                (0..BURST).map(|_| turns.recv_timeout(Duration::from_secs(20)).expect("taken")).collect();
            turns.iter().map(|turn| turns.iter().filter(|other| *other == turn).count()).max()
        })
        .max();
    assert_eq!(most.flatten(), Some(usize::try_from(BURST).expect("small")), "at most in one turn");
    handle.stop();
    handle.join().expect("ended well");
}
